/* MMMU: a letter, or an open answer, as the benchmark's own evaluation reads them. */
#include "engine/eval/number.h"
#include "engine/eval/patterns.h"
#include "engine/eval/task_internal.h"

#include <string.h>

static mull__text padded(mull__arena *a, mull__text t) {
    uint32_t *c = mull__alloc(a, (t.n + 2) * sizeof *c);
    if (!c) return (mull__text){0};
    c[0] = c[t.n + 1] = ' ';
    if (t.n) memcpy(c + 1, t.c, t.n * sizeof *c);
    return (mull__text){c, t.n + 2};
}

static const char *form(char out[4], int which, char c) {
    if (which == 0) memcpy(out, (char[]){'(', c, ')', 0}, 4);
    if (which == 1) memcpy(out, (char[]){c, ' ', 0}, 3);
    if (which == 2) memcpy(out, (char[]){c, '.', 0}, 3);
    if (which == 3) memcpy(out, (char[]){' ', c, ' ', 0}, 4);
    return out;
}

/* The option whose place is last; the first one among equals. */
static char last_of(const char *found, const size_t *places, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (places[i] > places[best]) best = i;
    return n ? found[best] : 0;
}

/* "(A)", else "A ", else "A.", else an option's own words in a reply of more than five words. 0: none of them. */
static char choice_of(mull__arena *a, mull__text reply, const json_t *options) {
    size_t n = json_array_size(options) < 26 ? json_array_size(options) : 26, k = 0, places[26], words = 0;
    char found[26], text[4];
    for (const char *marks = ",.!?;:'"; *marks; marks++) reply = mull__strip_set(reply, (char[]){*marks, 0});
    mull__text t = padded(a, reply), rest = t, word;
    for (int which = 0; which < 3 && !k; which++)
        for (size_t i = 0; i < n; i++) {
            char c = (char)('A' + i);
            if (mull__find_ascii(t, 0, form(text, which, c)) == MULL__NPOS) continue;
            size_t at = mull__rfind_ascii(t, form(text, which ? 3 : 0, c));
            found[k] = c;
            places[k++] = at == MULL__NPOS ? 0 : at + 1;
        }
    while (mull__next_word(&rest, &word)) words++;
    if (!k && words > 5) {
        mull__text low = mull__lower(a, t);
        for (size_t i = 0; i < n; i++) {
            size_t at = mull__rfind(low, mull__lower(a, mull__decode_json(a, json_array_get(options, i))));
            if (at == MULL__NPOS) continue;
            found[k] = (char)('A' + i);
            places[k++] = at + 1;
        }
    }
    return last_of(found, places, k);
}

/* First \b[A-Z]\b of the upper-cased content of the tags, else the reply's choice. */
static mull__text choice(mull__scoring *s, mull__text reply, mull__text tagged, int *rc) {
    uint32_t *c = mull__alloc(s->a, sizeof *c);
    mull__text l = tagged.n ? mull__first_letter(mull__upper(s->a, tagged), 'Z', false) : (mull__text){0};
    if (l.c || !c) return l;
    json_t *options = mull__python_list(json_object_get(s->doc, "options"));
    if (!options) {
        *rc = mull_fail(s->err, MULL_EARG, "cannot score a reply", "options", NULL, "it is no list");
        return l;
    }
    size_t n = json_array_size(options);
    *c = (unsigned char)choice_of(s->a, reply, options);
    s->random = !*c;
    if (!*c && s->compat == MULL_COMPAT_RELEASE && n) *c = 'A' + (uint32_t)(n < 26 ? n : 26) - 1;
    json_decref(options);
    return (mull__text){c, *c != 0};
}

/* Pieces of an open reply that may hold the answer. */
typedef struct pieces {
    mull__text *v;
    size_t n;
} pieces;

static bool trivial(mull__text t) {
    return t.n == 1 && t.c[0] < 0x80 && strchr(":,.!?;'", (int)t.c[0]);
}

/* What stands behind the last of each indicator; the shortest such tail of a line. */
static mull__text tail(mull__text line, bool last_line) {
    static const char *const WORDS[] = {"could be ", "so ",     "is ",     "thus ", "therefore ",
                                        "final ",    "answer ", "result ", "="};
    mull__text best = {0};
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) {
        if (!last_line && *WORDS[i] == '=') continue;
        size_t at = mull__rfind_ascii(line, WORDS[i]);
        if (at == MULL__NPOS) continue;
        mull__text t = mull__strip(mull__sub(line, at + strlen(WORDS[i]), line.n));
        if (!best.n || t.n < best.n) best = t;
    }
    return best;
}

static pieces key_pieces(mull__arena *a, mull__text reply) {
    mull__text t = mull__lower(a, mull__strip_set(mull__strip(reply), "."));
    pieces p = {mull__alloc(a, (t.n + 1) * sizeof *p.v), 0};
    if (!p.v) return p;
    for (size_t from = 0; from <= t.n;) { /* sentences never end a piece: the text is in lower case by now */
        size_t to = from;
        while (to < t.n && t.c[to] != '\n') to++;
        mull__text best = tail(mull__sub(t, from, to), to == t.n);
        if (best.n && !trivial(best)) p.v[p.n++] = best;
        from = to + 1;
    }
    if (!p.n) p.v[p.n++] = t;
    return p;
}

/* normalize_str: a number rounded to two decimals, or the text in lower case; a single letter gets a space behind it
 * here (the benchmark also keeps one with a space before it). */
static mull__text normal(mull__arena *a, mull__text t, double *number, bool *is_number) {
    t = mull__strip(t);
    *is_number = mull__py_float(a, mull__replace(a, t, ',', 0), number);
    if (*is_number) *number = mull__py_round2(*number);
    return mull__lower(a, t);
}

static mull__text printed(mull__arena *a, double x) {
    char s[MULL__REPR_BYTES];
    mull__py_repr(x, s);
    return mull__decode(a, s, strlen(s));
}

/* The benchmark keeps a set of candidates and the release takes the first of it, whichever that is in Python's order
 * of hashes, which no one can repeat; ours takes the first that was found. */
static mull__text open_answer(mull__arena *a, mull__text reply) {
    pieces p = key_pieces(a, reply);
    double x;
    bool number;
    if (!p.n) return (mull__text){0};
    mull__text t = normal(a, p.v[0], &x, &number);
    if (number) return printed(a, x);
    if (t.n != 1) return t;
    uint32_t *two = mull__alloc(a, 2 * sizeof *two);
    if (!two) return t;
    two[0] = t.c[0];
    two[1] = ' ';
    return (mull__text){two, 2};
}

static bool open_matches(mull__arena *a, mull__text pred, mull__text gold) {
    double p, g;
    bool pn, gn;
    mull__text pt = normal(a, pred, &p, &pn), gt = normal(a, gold, &g, &gn);
    if (gn) return (pn && p == g) || (!pn && mull__last_number(a, pt, true, &p) && mull__py_round2(p) == g);
    if (gt.n == 1) pt = padded(a, pt), gt = padded(a, gt);
    return mull__find(pt, 0, gt) != MULL__NPOS;
}

/* The release compares an open answer letter by letter with the gold text, so that it is never right; ours finds the
 * gold answer (any of a list) in it. */
static double open_score(mull__scoring *s, mull__text pred, const json_t *answer) {
    mull__text gold = mull__decode_json(s->a, answer);
    if (s->compat == MULL_COMPAT_RELEASE) return !mull__strip(gold).n && pred.n;
    json_t *list = gold.n && gold.c[0] == '[' ? mull__python_list(answer) : NULL;
    bool right = false;
    if (!list) return open_matches(s->a, pred, gold);
    for (size_t i = 0; i < json_array_size(list) && !right; i++)
        right = open_matches(s->a, pred, mull__decode_json(s->a, json_array_get(list, i)));
    json_decref(list);
    return right;
}

/* "validation_Art_Theory_2" -> "Art_Theory" */
static int subset_of(mull__scoring *s, mull__text id, mull__text *out) {
    size_t from = mull__find_ascii(id, 0, "_"), to = id.n;
    while (to > 0 && mull__digit(id.c[to - 1]) >= 0) to--;
    if (from != MULL__NPOS && to < id.n && to > from + 2 && id.c[to - 1] == '_' &&
        mull__find_ascii(mull__sub(id, from + 1, to - 1), 0, "\n") == MULL__NPOS) {
        *out = mull__sub(id, from + 1, to - 1);
        return MULL_OK;
    }
    *out = id;
    return s->compat == MULL_COMPAT_RELEASE ? mull__raise(s, "ValueError") : MULL_OK;
}

int mull__score_mmmu(mull__scoring *s, mull__text reply) {
    mull__text kind, id, subset, pred;
    if (mull__doc_text(s, "question_type", &kind) || mull__doc_text(s, "id", &id)) return MULL_EARG;
    const json_t *answer = mull__doc_need(s->doc, "answer", s->err);
    if (!answer) return MULL_EARG;
    int rc = subset_of(s, id, &subset);
    if (rc || s->raised) return rc;
    bool letters = mull__eq_ascii(kind, "multiple-choice");
    mull__text tagged = mull__match_answer(reply, MULL__TAG_NOCASE | MULL__TAG_LINES);
    if (letters)
        pred = choice(s, reply, tagged, &rc);
    else
        pred = tagged.n ? tagged : open_answer(s->a, reply);
    if (rc) return rc;
    s->score = letters ? mull__eq(pred, mull__decode_json(s->a, answer)) : open_score(s, pred, answer);
    json_t *p = mull__text_json(pred), *key = mull__text_json(id);
    json_t *r = json_pack("{s:O, s:o, s:o, s:O, s:[O]}", "id", key, "subdomain", mull__text_json(subset),
                          "question_type", mull__text_json(kind), "answer", answer, "parsed_pred", p);
    json_object_set(s->metrics, "mmmu_acc", r);
    json_object_set_new(s->metrics, "mmmu_acc_pass_at_k", r);
    json_t *submission = json_object();
    if (key) json_object_set(submission, json_string_value(key), p);
    json_object_set_new(s->metrics, "submission", submission);
    s->category = mull__text_json(subset);
    json_decref(p);
    json_decref(key);
    return MULL_OK;
}
