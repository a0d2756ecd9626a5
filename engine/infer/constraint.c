/* See constraint.h. */
#include "engine/infer/constraint.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { IDLE_MAX = 64 };
static const size_t MASK_BYTES = 256 << 20; /* of all masks together; past it those of idle constraints go */
static const char *const WHAT = "cannot keep the answer to its form";

typedef struct word {
    const char *text;
    uint32_t len, shared; /* shared: bytes at its beginning that the word before it has too */
    int32_t id;
} word;

struct mull_constraint {
    char *text;
    mull_regex *regex;
    uint64_t **masks; /* [states] bits of allowed ids, NULL: not made yet */
    int32_t nmasks;
    int users;
    struct mull_constraint *next; /* most recently asked for first */
};

struct mull_constraints {
    const mull_tokenizer *t;
    int32_t vocab;
    const int32_t *eos;
    int neos;
    word *words; /* [n] in the order of their bytes */
    size_t n;
    int32_t *states; /* of the beginnings of the word being walked, [longest + 1] */
    size_t longest, mask_words, mask_bytes;
    mull_constraint *all;
};

static int by_bytes(const void *a, const void *b) {
    const word *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int d = memcmp(x->text, y->text, n);
    if (d) return d;
    return x->len != y->len ? (x->len < y->len ? -1 : 1) : x->id < y->id ? -1 : x->id > y->id;
}

int mull_constraints_create(const mull_tokenizer *t, int32_t vocab, const int32_t *eos, int neos,
                            mull_constraints **out, mull_error *err) {
    mull_constraints *c = *out = calloc(1, sizeof *c);
    int size = mull_tokenizer_size(t) < vocab ? mull_tokenizer_size(t) : vocab;
    if (!c || !(c->words = calloc((size_t)size + 1, sizeof *c->words))) {
        free(c);
        *out = NULL;
        return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    }
    *c = (mull_constraints){.t = t, .vocab = vocab, .eos = eos, .neos = neos, .words = c->words};
    for (int32_t id = 0; id < size; id++) {
        word w = {.id = id};
        if (!mull_tokenizer_text(t, id, &w.text, &w.len) || !w.len) continue;
        if (w.len > c->longest) c->longest = w.len;
        c->words[c->n++] = w;
    }
    qsort(c->words, c->n, sizeof *c->words, by_bytes);
    for (size_t i = 1; i < c->n; i++) {
        const word *a = &c->words[i - 1];
        word *b = &c->words[i];
        while (b->shared < a->len && b->shared < b->len && a->text[b->shared] == b->text[b->shared]) b->shared++;
    }
    c->mask_words = ((size_t)vocab + 63) / 64;
    c->states = malloc((c->longest + 1) * sizeof *c->states);
    if (c->states) return MULL_OK;
    mull_constraints_destroy(c);
    *out = NULL;
    return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
}

static void drop_masks(mull_constraints *c, mull_constraint *k) {
    for (int32_t i = 0; i < k->nmasks; i++)
        if (k->masks[i]) {
            free(k->masks[i]);
            k->masks[i] = NULL;
            c->mask_bytes -= c->mask_words * sizeof(uint64_t);
        }
}

static void destroy(mull_constraints *c, mull_constraint *k) {
    drop_masks(c, k);
    mull_regex_destroy(k->regex);
    free(k->masks);
    free(k->text);
    free(k);
}

void mull_constraints_destroy(mull_constraints *c) {
    if (!c) return;
    for (mull_constraint *k = c->all, *next; k; k = next) {
        next = k->next;
        destroy(c, k);
    }
    free(c->words);
    free(c->states);
    free(c);
}

/* Lets go of the unused ones that were asked for longest ago. */
static void prune(mull_constraints *c) {
    int idle = 0;
    for (mull_constraint **at = &c->all, *k; (k = *at);) {
        if (k->users || ++idle <= IDLE_MAX) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        destroy(c, k);
    }
}

int mull_constraint_get(mull_constraints *c, const char *regex, mull_constraint **out, mull_error *err) {
    for (mull_constraint **at = &c->all, *k; (k = *at); at = &k->next) {
        if (strcmp(k->text, regex) != 0) continue;
        *at = k->next;
        k->next = c->all;
        c->all = k;
        k->users++;
        *out = k;
        return MULL_OK;
    }
    mull_constraint *k = calloc(1, sizeof *k);
    *out = NULL;
    if (!k || !(k->text = strdup(regex))) {
        free(k);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    }
    int rc = mull_regex_create(regex, strlen(regex), &k->regex, err);
    if (rc) {
        destroy(c, k);
        return rc;
    }
    k->users = 1;
    k->next = c->all;
    c->all = *out = k;
    prune(c);
    return MULL_OK;
}

void mull_constraint_release(mull_constraints *c, mull_constraint *k) {
    if (!k) return;
    k->users--;
    prune(c);
}

/* Room for the mask of a state. */
static int need_room(mull_constraints *c, mull_constraint *k, int32_t state) {
    if (state >= k->nmasks) {
        int32_t n = state * 2 + 16;
        uint64_t **p = realloc(k->masks, (size_t)n * sizeof *p);
        if (!p) return -1;
        memset(p + k->nmasks, 0, (size_t)(n - k->nmasks) * sizeof *p);
        k->masks = p;
        k->nmasks = n;
    }
    if (c->mask_bytes > MASK_BYTES)
        for (mull_constraint *x = c->all; x; x = x->next) drop_masks(c, x);
    return 0;
}

static int make_mask(mull_constraints *c, mull_constraint *k, int32_t state, mull_error *err) {
    if (need_room(c, k, state)) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    uint64_t *m = calloc(c->mask_words, sizeof *m);
    if (!m) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    uint32_t known = 0; /* states[0..known] belong to the beginning of the word before */
    c->states[0] = state;
    for (size_t i = 0; i < c->n; i++) {
        const word *w = &c->words[i];
        uint32_t at = w->shared < known ? w->shared : known;
        int32_t s = c->states[at];
        for (; at < w->len && s > MULL_REGEX_DEAD; at++) {
            s = mull_regex_step(k->regex, s, (uint8_t)w->text[at]);
            if (s < 0) {
                free(m);
                return mull_fail(err, MULL_ELIMIT, WHAT, "regex", "make it smaller",
                                 "its automaton has more than %d states", MULL_REGEX_STATES);
            }
            c->states[at + 1] = s;
        }
        known = at;
        if (s > MULL_REGEX_DEAD && at == w->len) m[w->id >> 6] |= 1ull << (w->id & 63);
    }
    if (mull_regex_accepts(k->regex, state))
        for (int i = 0; i < c->neos; i++)
            if (c->eos[i] >= 0 && c->eos[i] < c->vocab) m[c->eos[i] >> 6] |= 1ull << (c->eos[i] & 63);
    k->masks[state] = m;
    c->mask_bytes += c->mask_words * sizeof *m;
    return MULL_OK;
}

int mull_constraint_apply(mull_constraints *c, mull_constraint *k, int32_t state, float *logits, mull_error *err) {
    if (state >= k->nmasks || !k->masks[state]) {
        int rc = make_mask(c, k, state, err);
        if (rc) return rc;
    }
    const uint64_t *m = k->masks[state];
    for (int32_t i = 0; i < c->vocab; i++)
        if (!(m[i >> 6] >> (i & 63) & 1)) logits[i] = -INFINITY;
    return MULL_OK;
}

int mull_constraint_step(mull_constraints *c, mull_constraint *k, int32_t id, int32_t *state, bool *ends,
                         mull_error *err) {
    const char *text;
    uint32_t len;
    int32_t s = *state;
    if (!mull_tokenizer_text(c->t, id, &text, &len)) len = 0;
    for (uint32_t i = 0; i < len && s > MULL_REGEX_DEAD; i++) s = mull_regex_step(k->regex, s, (uint8_t)text[i]);
    if (s <= MULL_REGEX_DEAD) return mull_fail(err, MULL_EINTERNAL, WHAT, "", "", "token %d does not fit", id);
    *state = s;
    *ends = mull_regex_ends(k->regex, s);
    return MULL_OK;
}
