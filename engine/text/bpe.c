/* Byte-level byte-pair encoding of one piece: the pair of lowest rank is merged first, leftmost among equals, until
 * none is left. Symbols are a linked list over the piece's bytes; candidate pairs wait in a heap by (rank, position),
 * and a stale one is recognised when it comes up, so a piece of n bytes costs n log n however long it is. */
#include "engine/text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct symbol {
    int32_t id, prev, next; /* id -1: merged into its left neighbour */
} symbol;

typedef struct pair {
    int32_t rank, at, left, right, merged;
} pair;

typedef struct work {
    symbol *s;
    pair *heap;
    size_t n;
} work;

uint64_t mull__hash_bytes(const char *s, size_t n) {
    uint64_t h = 0xcbf29ce484222325u ^ n;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h ^ h >> 31;
}

int32_t mull__vocab_find(const mull_tokenizer *t, const char *s, size_t n) {
    for (uint64_t h = mull__hash_bytes(s, n) & t->word_mask; t->words[h]; h = (h + 1) & t->word_mask) {
        const mull_token *k = &t->tokens[t->words[h] - 1];
        if (k->len == n && !memcmp(k->text, s, n)) return t->words[h] - 1;
    }
    return -1;
}

static const mull_merge *find(const mull_tokenizer *t, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(left + 1) << 32 | (uint32_t)right, h = (key * 0x9e3779b97f4a7c15u) >> 20;
    for (h &= t->merge_mask; t->merges[h].key; h = (h + 1) & t->merge_mask)
        if (t->merges[h].key == key) return &t->merges[h];
    return NULL;
}

static bool before(const pair *a, const pair *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(work *w, pair p) {
    size_t i = w->n++;
    for (; i && before(&p, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = p;
}

static pair pop(work *w) {
    pair top = w->heap[0], last = w->heap[--w->n];
    size_t i = 0;
    for (;;) {
        size_t c = 2 * i + 1;
        if (c >= w->n) break;
        if (c + 1 < w->n && before(&w->heap[c + 1], &w->heap[c])) c++;
        if (!before(&w->heap[c], &last)) break;
        w->heap[i] = w->heap[c];
        i = c;
    }
    w->heap[i] = last;
    return top;
}

static void offer(const mull_tokenizer *t, work *w, int32_t at) {
    int32_t next = at < 0 ? -1 : w->s[at].next;
    if (next < 0) return;
    const mull_merge *m = find(t, w->s[at].id, w->s[next].id);
    if (m) push(w, (pair){m->rank, at, w->s[at].id, w->s[next].id, m->merged});
}

int mull__bpe(const mull_tokenizer *t, const char *s, size_t n, mull_ids *out, mull_error *err) {
    enum { SMALL = 64 };
    symbol small_s[SMALL];
    pair small_heap[3 * SMALL];
    static const char *const what = "cannot tokenize";
    if (n > (size_t)1 << 28)
        return mull_fail(err, MULL_ELIMIT, what, NULL, "shorten the text", "a piece of %zu bytes", n);
    if (n > 1) { /* most pieces are one token */
        int32_t whole = t->ignore_merges ? mull__vocab_find(t, s, n) : -1;
        if (whole >= 0)
            return mull_ids_add(out, whole) ? mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "out of memory") : MULL_OK;
    }
    work w = {small_s, small_heap, 0};
    /* Each merge offers at most two new pairs and there are fewer than n merges. */
    if (n > SMALL) {
        w.s = malloc(n * sizeof *w.s);
        w.heap = malloc(3 * n * sizeof *w.heap);
    }
    int rc = w.s && w.heap ? MULL_OK : mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "out of memory");
    for (size_t i = 0; !rc && i < n; i++) {
        w.s[i] = (symbol){t->byte_id[(unsigned char)s[i]], (int32_t)i - 1, i + 1 < n ? (int32_t)i + 1 : -1};
        if (w.s[i].id < 0)
            rc = mull_fail(err, MULL_EFORMAT, what, NULL, "use a byte-level tokenizer with all 256 bytes",
                           "the vocabulary has no token for byte 0x%02x", (unsigned char)s[i]);
    }
    for (size_t i = 0; !rc && i + 1 < n; i++) offer(t, &w, (int32_t)i);
    while (!rc && w.n) {
        pair p = pop(&w);
        symbol *l = &w.s[p.at];
        if (l->id != p.left || l->next < 0 || w.s[l->next].id != p.right) continue; /* stale */
        symbol *r = &w.s[l->next];
        l->id = p.merged;
        r->id = -1;
        l->next = r->next;
        if (l->next >= 0) w.s[l->next].prev = p.at;
        offer(t, &w, l->prev);
        offer(t, &w, p.at);
    }
    for (int32_t i = 0; !rc && i >= 0 && n; i = w.s[i].next)
        if (mull_ids_add(out, w.s[i].id)) rc = mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "out of memory");
    if (n > SMALL) {
        free(w.s);
        free(w.heap);
    }
    return rc;
}
