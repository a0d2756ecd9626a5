/* See rouge.h. Words become ids first, so that comparing two of them is one instruction. */
#include "engine/eval/rouge.h"

#include <string.h>

/* Words to ids, by hash with open addressing; the table only ever holds this text's words. */
typedef struct vocab {
    struct slot {
        uint64_t hash;
        const void *data;
        uint32_t bytes, id;
    } * slots;
    size_t mask;
    uint32_t ids;
} vocab;

enum { NO_ID = UINT32_MAX };

static bool vocab_init(mull__arena *a, vocab *v, size_t words) {
    size_t size = 16;
    while (size < words * 2) size *= 2;
    v->mask = size - 1;
    v->ids = 0;
    v->slots = mull__alloc(a, size * sizeof *v->slots);
    if (v->slots) memset(v->slots, 0, size * sizeof *v->slots);
    return v->slots != NULL;
}

/* The id of data, a new one when add; else NO_ID when it is not there. */
static uint32_t vocab_id(vocab *v, const void *data, size_t bytes, bool add) {
    uint64_t h = UINT64_C(1469598103934665603);
    for (size_t i = 0; i < bytes; i++) h = (h ^ ((const unsigned char *)data)[i]) * UINT64_C(1099511628211);
    h ^= h >> 29;
    for (size_t at = h & v->mask;; at = (at + 1) & v->mask) {
        struct slot *s = &v->slots[at];
        if (!s->data) {
            if (!add) return NO_ID;
            *s = (struct slot){h, data, (uint32_t)bytes, v->ids};
            return v->ids++;
        }
        if (s->hash == h && s->bytes == bytes && !memcmp(s->data, data, bytes)) return s->id;
    }
}

typedef struct ids {
    uint32_t *v;
    size_t n;
} ids;

static char latin_lower(uint32_t c) {
    c = c == 0x130 ? 'i' : c == 0x212a ? 'k' : c; /* the only others whose lower case begins with ASCII */
    if (c >= 'A' && c <= 'Z') return (char)(c + 32);
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? (char)c : 0;
}

/* Runs of [a-z0-9] of the lower-cased text; those longer than 3 are stemmed. An upper bound of words is n/2 + 1. */
static ids tokenize(mull__arena *a, mull__text t, vocab *v) {
    ids out = {mull__alloc(a, (t.n / 2 + 1) * sizeof *out.v), 0};
    char *room = mull__alloc(a, 2 * t.n + 2);
    if (!out.v || !room) return (ids){0};
    for (size_t i = 0; i < t.n;) {
        size_t n = 0;
        for (char c; i < t.n && (c = latin_lower(t.c[i])); i++) {
            room[n++] = c;
            if (t.c[i] == 0x130) { /* its lower case goes on with a combining dot, which ends the word */
                i++;
                break;
            }
        }
        if (!n) {
            i++;
            continue;
        }
        size_t k = n > 3 ? mull__porter_stem(room, n) : n;
        if (!k) continue;
        out.v[out.n++] = vocab_id(v, room, k, true);
        room += n + 1;
    }
    return out;
}

static mull__prf prf(double hits, size_t hypothesis, size_t reference) {
    mull__prf r = {hits / (double)(hypothesis ? hypothesis : 1), hits / (double)(reference ? reference : 1), 0};
    if (r.precision + r.recall > 0) r.f = 2 * r.precision * r.recall / (r.precision + r.recall);
    return r;
}

/* Common n-grams, each counted as often as in the side where it is rarer. */
static size_t common(mull__arena *a, ids ref, ids hyp, size_t gram) {
    size_t nref = ref.n < gram ? 0 : ref.n - gram + 1, nhyp = hyp.n < gram ? 0 : hyp.n - gram + 1, hits = 0;
    vocab grams;
    uint32_t *count = mull__alloc(a, (nref + 1) * sizeof *count);
    if (!nref || !nhyp || !count || !vocab_init(a, &grams, nref)) return 0;
    memset(count, 0, (nref + 1) * sizeof *count);
    for (size_t i = 0; i < nref; i++) count[vocab_id(&grams, ref.v + i, gram * sizeof *ref.v, true)]++;
    for (size_t i = 0; i < nhyp; i++) {
        uint32_t id = vocab_id(&grams, hyp.v + i, gram * sizeof *hyp.v, false);
        if (id == NO_ID || !count[id]) continue;
        count[id]--;
        hits++;
    }
    return hits;
}

void mull__rouge_score(mull__arena *a, mull__text reference, mull__text hypothesis, mull__rouge *out) {
    vocab words;
    *out = (mull__rouge){0};
    if (!vocab_init(a, &words, reference.n / 2 + hypothesis.n / 2 + 2)) return;
    ids ref = tokenize(a, reference, &words), hyp = tokenize(a, hypothesis, &words);
    if (a->failed) return;
    out->rouge1 = prf((double)common(a, ref, hyp, 1), hyp.n, ref.n);
    out->rouge2 = prf((double)common(a, ref, hyp, 2), hyp.n ? hyp.n - 1 : 0, ref.n ? ref.n - 1 : 0);
    if (ref.n && hyp.n) out->rouge_l = prf((double)mull__lcs(a, ref.v, ref.n, hyp.v, hyp.n, words.ids), hyp.n, ref.n);
}

static ids split(mull__arena *a, mull__text t, vocab *v) {
    ids out = {mull__alloc(a, (t.n / 2 + 1) * sizeof *out.v), 0};
    mull__text word;
    while (out.v && mull__next_word(&t, &word)) out.v[out.n++] = vocab_id(v, word.c, word.n * sizeof *word.c, true);
    return out;
}

double mull__wer(mull__arena *a, mull__text reference, mull__text hypothesis) {
    vocab words;
    if (!vocab_init(a, &words, reference.n / 2 + hypothesis.n / 2 + 2)) return 0;
    ids ref = split(a, reference, &words), hyp = split(a, hypothesis, &words);
    if (a->failed) return 0;
    size_t d = mull__edit_distance(a, ref.v, ref.n, hyp.v, hyp.n, words.ids);
    return (double)d / (double)(ref.n ? ref.n : 1);
}
