/* The Porter stemmer in NLTK's variant (its default mode NLTK_EXTENSIONS), which is what rouge_score uses; libstemmer's
 * "porter" follows the published algorithm and differs (skies, dying, words of two letters). Source: Porter 1980, the
 * extensions as NLTK documents them. */
#include "engine/eval/rouge.h"

#include <string.h>

typedef struct word {
    char *s;
    size_t n;
} word;

static bool vowel_letter(char c) {
    return c == 'a' || c == 'e' || c == 'i' || c == 'o' || c == 'u';
}

/* y is a consonant at the beginning and after a vowel. */
static bool consonant(const char *s, size_t i) {
    bool flip = false;
    while (i > 0 && s[i] == 'y') {
        flip = !flip;
        i--;
    }
    return flip != !vowel_letter(s[i]);
}

/* m of [C](VC)^m[V] */
static size_t measure(const char *s, size_t n) {
    size_t m = 0;
    bool before = true; /* the letter before is a consonant */
    for (size_t i = 0; i < n; i++) {
        bool c = s[i] == 'y' ? i == 0 || !before : !vowel_letter(s[i]);
        m += i > 0 && c && !before;
        before = c;
    }
    return m;
}

static bool has_vowel(const char *s, size_t n) {
    bool before = true;
    for (size_t i = 0; i < n; i++) {
        before = s[i] == 'y' ? i == 0 || !before : !vowel_letter(s[i]);
        if (!before) return true;
    }
    return false;
}

static bool double_consonant(const char *s, size_t n) {
    return n >= 2 && s[n - 1] == s[n - 2] && consonant(s, n - 1);
}

static bool cvc(const char *s, size_t n) {
    if (n == 2) return !consonant(s, 0) && consonant(s, 1);
    return n >= 3 && consonant(s, n - 3) && !consonant(s, n - 2) && consonant(s, n - 1) && !strchr("wxy", s[n - 1]);
}

static bool ends(const word *w, const char *suffix) {
    size_t k = strlen(suffix);
    return w->n >= k && !memcmp(w->s + w->n - k, suffix, k);
}

static void swap_end(word *w, size_t cut, const char *with) {
    w->n -= cut;
    memcpy(w->s + w->n, with, strlen(with));
    w->n += strlen(with);
}

typedef struct rule {
    const char *suffix, *with;
} rule;

/* The first suffix that fits decides; it is replaced when the measure of what stands before is above least. */
static void apply(word *w, const rule *rules, size_t least) {
    for (; rules->suffix; rules++) {
        if (!ends(w, rules->suffix)) continue;
        size_t k = strlen(rules->suffix);
        if (measure(w->s, w->n - k) > least) swap_end(w, k, rules->with);
        return;
    }
}

static void step1a(word *w) {
    if (ends(w, "ies"))
        swap_end(w, 3, w->n == 4 ? "ie" : "i");
    else if (ends(w, "sses"))
        w->n -= 2;
    else if (ends(w, "s") && !ends(w, "ss"))
        w->n--;
}

static void step1b(word *w) {
    if (ends(w, "ied")) {
        swap_end(w, 3, w->n == 4 ? "ie" : "i");
        return;
    }
    if (ends(w, "eed")) {
        if (measure(w->s, w->n - 3) > 0) w->n--;
        return;
    }
    size_t cut = ends(w, "ed") ? 2 : ends(w, "ing") ? 3 : 0;
    if (!cut || !has_vowel(w->s, w->n - cut)) return;
    w->n -= cut;
    char last = w->s[w->n - 1];
    if (ends(w, "at") || ends(w, "bl") || ends(w, "iz"))
        swap_end(w, 0, "e");
    else if (double_consonant(w->s, w->n)) {
        if (!strchr("lsz", last)) w->n--;
    } else if (measure(w->s, w->n) == 1 && cvc(w->s, w->n))
        swap_end(w, 0, "e");
}

static void step1c(word *w) {
    if (ends(w, "y") && w->n > 2 && consonant(w->s, w->n - 2)) w->s[w->n - 1] = 'i';
}

static void step2(word *w) {
    static const rule RULES[] = {{"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},   {"anci", "ance"},
                                 {"izer", "ize"},    {"bli", "ble"},     {"alli", "al"},     {"entli", "ent"},
                                 {"eli", "e"},       {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
                                 {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"}, {"fulness", "ful"},
                                 {"ousness", "ous"}, {"aliti", "al"},    {"iviti", "ive"},   {"biliti", "ble"},
                                 {"fulli", "ful"},   {NULL, NULL}};
    if (ends(w, "alli") && measure(w->s, w->n - 4) > 0) w->n -= 2; /* and on with what "al" ends */
    if (ends(w, "logi")) { /* the measure is taken with the l, so that "geologi" counts */
        if (measure(w->s, w->n - 3) > 0) w->n--;
        return;
    }
    apply(w, RULES, 0);
}

static void step3(word *w) {
    static const rule RULES[] = {{"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
                                 {"ical", "ic"},  {"ful", ""},   {"ness", ""},    {NULL, NULL}};
    apply(w, RULES, 0);
}

static void step4(word *w) {
    static const rule BEFORE[] = {{"al", ""},   {"ance", ""}, {"ence", ""},  {"er", ""},   {"ic", ""},  {"able", ""},
                                  {"ible", ""}, {"ant", ""},  {"ement", ""}, {"ment", ""}, {"ent", ""}, {NULL, NULL}};
    static const rule AFTER[] = {{"ou", ""},  {"ism", ""}, {"ate", ""}, {"iti", ""},
                                 {"ous", ""}, {"ive", ""}, {"ize", ""}, {NULL, NULL}};
    for (const rule *r = BEFORE; r->suffix; r++)
        if (ends(w, r->suffix)) {
            apply(w, BEFORE, 1);
            return;
        }
    if (ends(w, "ion")) {
        size_t k = w->n - 3;
        if (k > 0 && (w->s[k - 1] == 's' || w->s[k - 1] == 't') && measure(w->s, k) > 1) w->n = k;
        return;
    }
    apply(w, AFTER, 1);
}

static void step5(word *w) {
    if (ends(w, "e")) {
        size_t m = measure(w->s, w->n - 1);
        if (m > 1 || (m == 1 && !cvc(w->s, w->n - 1))) w->n--;
    }
    if (ends(w, "ll") && measure(w->s, w->n - 1) > 1) w->n--;
}

size_t mull__porter_stem(char *s, size_t n) {
    static const rule IRREGULAR[] = {
        {"sky", "sky"},        {"skies", "sky"},       {"dying", "die"},        {"lying", "lie"},
        {"tying", "tie"},      {"news", "news"},       {"innings", "inning"},   {"inning", "inning"},
        {"outings", "outing"}, {"outing", "outing"},   {"cannings", "canning"}, {"canning", "canning"},
        {"howe", "howe"},      {"proceed", "proceed"}, {"exceed", "exceed"},    {"succeed", "succeed"},
        {NULL, NULL}};
    for (const rule *r = IRREGULAR; r->suffix; r++)
        if (strlen(r->suffix) == n && !memcmp(s, r->suffix, n)) {
            memcpy(s, r->with, strlen(r->with));
            return strlen(r->with);
        }
    if (n <= 2) return n;
    word w = {s, n};
    step1a(&w);
    step1b(&w);
    step1c(&w);
    step2(&w);
    step3(&w);
    step4(&w);
    step5(&w);
    return w.n;
}
