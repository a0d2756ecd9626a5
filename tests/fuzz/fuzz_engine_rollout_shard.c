/* Any bytes as what lies in an exchange. The first byte says what the rest is: what a shard's frame holds (it is packed
 * here, so that the checksum is right and the reader behind it is reached), a shard's file, or a want. What is taken is
 * read through to its last byte, and writing it again gives the same shard. */
#include "engine/train/rollout_exchange.h"
#include "engine/train/rollout_shard.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void again(const mull_rollout_shard *s) {
    mull_buf b = {0};
    mull_error e = {0};
    mull_rollout_shard t;
    if (mull_rollout_encode(s, &b, &e)) {
        mull_buf_fini(&b); /* its header may need more room than it had */
        return;
    }
    if (mull_rollout_decode(b.data, b.len, "again", &t, &e)) abort();
    const mull_rollout_key *k = &s->key, *l = &t.key;
    if (k->step != l->step || k->first != l->first || k->version != l->version || k->seed != l->seed ||
        strcmp(k->policy, l->policy) || strcmp(k->prompts, l->prompts) || k->top_p != l->top_p)
        abort();
    for (int64_t i = 0; i < s->key.groups * s->key.generations; i++) {
        const mull_rollout *x = &s->c[i], *y = &t.c[i];
        if (x->n != y->n || x->text_len != y->text_len || x->truncated != y->truncated) abort();
        if (memcmp(x->ids, y->ids, (size_t)x->n * sizeof *x->ids) || memcmp(x->text, y->text, x->text_len) ||
            memcmp(x->logp, y->logp, (size_t)x->n * sizeof *x->logp))
            abort();
    }
    mull_rollout_shard_fini(&t);
    mull_buf_fini(&b);
}

static void shard(const void *data, size_t size) {
    mull_rollout_shard s;
    mull_error e = {0};
    if (mull_rollout_decode(data, size, "fuzz", &s, &e)) {
        if (!e.what[0] || !e.why[0]) abort();
        return;
    }
    e = (mull_error){0};
    if (mull_rollout_check(&s, &s.key, 300, "fuzz", &e) && !e.why[0]) abort();
    again(&s);
    mull_rollout_shard_fini(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    if (data[0] % 3 == 1) {
        shard(data + 1, size - 1);
    } else if (data[0] % 3 == 2) {
        mull_want w;
        mull_error e = {0};
        int rc = mull_want_parse((const char *)data + 1, size - 1, "fuzz", &w, &e);
        if (rc ? !e.why[0] : w.groups < 1 || w.each < 1 || mull_want_shards(&w) < 1 || strlen(w.policy) != 64) abort();
    } else {
        size_t cap = ZSTD_compressBound(size);
        char *packed = malloc(cap);
        if (!packed) return 0;
        size_t len = ZSTD_compress(packed, cap, data + 1, size - 1, 1);
        if (ZSTD_isError(len)) abort();
        shard(packed, len);
        free(packed);
    }
    return 0;
}
