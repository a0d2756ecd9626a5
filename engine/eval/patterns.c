/* See patterns.h. Each search advances through the text once: where a regular expression would try again from every
 * "<answer>", positions that only move forward are remembered instead. */
#include "engine/eval/patterns.h"

#include <string.h>

/* No phrase of a list is the beginning of another one, so their order does not matter. */
static const char *const REWARD[] = {
    "answer is",      "the correct answer is",  "the count is",      "final answer:",   "final conlusion:",
    "answer must be", "correct option must be", "correct option is", "final answer is", NULL};
static const char *const STARE[] = {"the answer is",     "the correct answer is", "the count is",
                                    "final answer:",     "answer must be",        "correct option must be",
                                    "correct option is", "final answer is",       NULL};
static const char *const VSI[] = {"the answer is", "the correct answer is", "the count is", "final answer:", NULL};

static const struct {
    const char *const *phrases;
    bool paren;
} LISTS[] = {{REWARD, true}, {STARE, true}, {STARE, false}, {VSI, false}};

static bool latin(uint32_t c) {
    c = mull__fold(c);
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static size_t skip_spaces(mull__text t, size_t at) {
    while (at < t.n && mull__is_space(t.c[at])) at++;
    return at;
}

static mull__text phrase_at(mull__text t, size_t at, const char *phrase, bool paren) {
    if (!mull__starts_fold(t, at, phrase)) return (mull__text){0};
    size_t behind = at + strlen(phrase), from = skip_spaces(t, behind);
    if (from == behind) return (mull__text){0};
    if (paren && from < t.n && t.c[from] == '(') from++;
    size_t to = from;
    while (to < t.n && latin(t.c[to])) to++;
    return to > from ? mull__sub(t, from, to) : (mull__text){0};
}

mull__text mull__match_phrase(mull__text t, mull__phrases which) {
    for (size_t i = 0; i + 1 < t.n; i++) {
        /* The two letters that the phrases begin with: th, an, fi, co. */
        uint32_t c = mull__fold(t.c[i]), d = mull__fold(t.c[i + 1]);
        if (c == 't' ? d != 'h' : c == 'a' ? d != 'n' : c == 'f' ? d != 'i' : c != 'c' || d != 'o') continue;
        for (const char *const *p = LISTS[which].phrases; *p; p++) {
            mull__text g = phrase_at(t, i, *p, LISTS[which].paren);
            if (g.c) return g;
        }
    }
    return (mull__text){0};
}

mull__text mull__match_count(mull__text t, const char *literal) {
    size_t n = strlen(literal);
    for (size_t i = 0; i + n < t.n; i++) {
        if (mull__fold(t.c[i]) != (unsigned char)*literal || !mull__starts_fold(t, i, literal)) continue;
        size_t from = skip_spaces(t, i + n), to = from;
        if (from == i + n) continue;
        while (to < t.n && mull__digit(t.c[to]) >= 0) to++;
        if (to > from) return mull__sub(t, from, to);
    }
    return (mull__text){0};
}

static size_t tag_from(mull__text t, size_t at, const char *tag, bool nocase) {
    for (; at < t.n; at++)
        if (t.c[at] == '<' && (nocase ? mull__starts_fold(t, at, tag) : mull__starts(t, at, tag))) return at;
    return MULL__NPOS;
}

mull__text mull__match_answer(mull__text t, int flags) {
    bool nocase = flags & MULL__TAG_NOCASE, lines = flags & MULL__TAG_LINES;
    size_t close = 0, blank = 0, newline = 0; /* the next closing tag, the spaces before it, the next line end */
    bool closed = false;
    for (size_t at = 0; (at = tag_from(t, at, "<answer>", nocase)) != MULL__NPOS; at++) {
        size_t from = skip_spaces(t, at + 8);
        if (!closed || close < from) {
            close = tag_from(t, from, "</answer>", nocase);
            closed = true;
            if (close == MULL__NPOS) break;
            for (blank = close; blank > 0 && mull__is_space(t.c[blank - 1]);) blank--;
        }
        size_t to = blank > from ? blank : from;
        if (newline < from) newline = from;
        while (newline < to && t.c[newline] != '\n') newline++;
        if (lines || newline >= to) return mull__sub(t, from, to);
    }
    return (mull__text){0};
}

mull__text mull__match_boxed(mull__text t) {
    size_t at = mull__find_ascii(t, 0, "\\boxed{");
    if (at == MULL__NPOS) return (mull__text){0};
    size_t from = skip_spaces(t, at + 7), to = mull__find_ascii(t, from, "}");
    if (to == MULL__NPOS) return (mull__text){0};
    while (to > from && mull__is_space(t.c[to - 1])) to--;
    return mull__sub(t, from, to);
}

bool mull__has_answer(mull__text t) {
    size_t at = mull__find_ascii(t, 0, "<answer>");
    return at != MULL__NPOS && mull__find_ascii(t, at + 8, "</answer>") != MULL__NPOS;
}

static bool stands_alone(mull__text t, size_t i) {
    return !(i > 0 && mull__is_word(t.c[i - 1])) && !(i + 1 < t.n && mull__is_word(t.c[i + 1]));
}

mull__text mull__last_capital(mull__text t) {
    for (size_t i = t.n; i-- > 0;)
        if (mull__is_capital(t.c[i]) && stands_alone(t, i)) return mull__sub(t, i, i + 1);
    return (mull__text){0};
}

mull__text mull__first_letter(mull__text t, char hi, bool nocase) {
    for (size_t i = 0; i < t.n; i++) {
        uint32_t c = nocase ? mull__fold(t.c[i]) : t.c[i];
        if (nocase && c >= 'a' && c <= 'z') c -= 32;
        if (c >= 'A' && c <= (uint32_t)hi && stands_alone(t, i)) return mull__sub(t, i, i + 1);
    }
    return (mull__text){0};
}

mull__text mull__extract_match(mull__text t, mull__phrases which, bool *matched, bool *capital) {
    mull__text g = mull__match_phrase(t, which);
    if (!g.c) g = mull__match_count(t, "i counted a total of");
    if (!g.c) g = mull__match_answer(t, MULL__TAG_NOCASE);
    *matched = g.c != NULL;
    *capital = false;
    if (!g.c) return g;
    g = mull__strip(g);
    mull__text letter = mull__last_capital(g);
    *capital = letter.c != NULL;
    return letter.c ? letter : g;
}

mull__text mull__clean_reply(mull__text t) {
    mull__text g = mull__match_answer(t, MULL__TAG_LINES);
    if (!g.c) g = mull__match_boxed(t);
    return g.c ? g : t;
}
