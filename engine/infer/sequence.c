/* Sequences; see sequence.h. */
#include "engine/infer/sequence.h"

#include "engine/model/positions.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot take the request";

static int check_sampling(const mull_sampling *how, mull_error *err) {
    if (how->max_new_tokens < 1)
        return mull_fail(err, MULL_EARG, WHAT, "max_new_tokens", "ask for at least 1", "it is %d", how->max_new_tokens);
    if (!(how->temperature >= 0) || !isfinite(how->temperature))
        return mull_fail(err, MULL_EARG, WHAT, "temperature", "0 is greedy", "%g is no temperature", how->temperature);
    if (!(how->top_p > 0 && how->top_p <= 1))
        return mull_fail(err, MULL_EARG, WHAT, "top_p", "take 0 < top_p <= 1", "it is %g", how->top_p);
    if (how->top_k < 0) return mull_fail(err, MULL_EARG, WHAT, "top_k", "0 is off", "it is %d", how->top_k);
    if (!(how->repetition_penalty > 0) || !isfinite(how->repetition_penalty))
        return mull_fail(err, MULL_EARG, WHAT, "repetition_penalty", "1 is off", "it is %g", how->repetition_penalty);
    return MULL_OK;
}

static int check_ids(const mull_config *c, const mull_request *r, int64_t max_len, mull_error *err) {
    if (r->n == 0) return mull_fail(err, MULL_EARG, WHAT, "prompt", "", "it has no tokens");
    if (r->n >= (size_t)max_len)
        return mull_fail(err, MULL_ELIMIT, WHAT, "prompt",
                         "shorten it, lower max_pixels or nframes, or raise the cache",
                         "%zu tokens do not fit the context of %lld with room for an answer", r->n, (long long)max_len);
    for (size_t i = 0; i < r->n; i++)
        if (r->ids[i] < 0 || r->ids[i] >= c->vocab)
            return mull_fail(err, MULL_EARG, WHAT, "prompt", "use this model's own tokenizer",
                             "id %d at %zu is outside the vocabulary of %d", r->ids[i], i, c->vocab);
    return MULL_OK;
}

/* Positions and digests; media grids are checked before their patches are read. */
static int take_media(mull_seq *s, const mull_config *c, const mull_request *r, mull_error *err) {
    mull_grid *grids = calloc(r->nmedia + 1, sizeof *grids);
    size_t *first = calloc(r->nmedia + 1, sizeof *first);
    int rc = grids && first ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, "media", "", "out of memory");
    for (size_t i = 0; !rc && i < r->nmedia; i++) {
        const mull_media *m = r->media[i];
        grids[i] = (mull_grid){.video = m->kind == MULL_MEDIA_VIDEO,
                               .t = m->grid[0],
                               .h = m->grid[1],
                               .w = m->grid[2],
                               .second_per_grid = (float)m->second_per_grid};
    }
    if (!rc) rc = mull_positions(c, r->ids, r->n, grids, r->nmedia, s->pos, r->n, &s->delta, first, err);
    for (size_t i = 0; !rc && i < r->nmedia; i++) {
        s->media[i] = (mull_seq_medium){.media = r->media[i], .first = first[i]};
        if (r->media[i]->tokens != mull_grid_tokens(c, &grids[i]))
            rc = mull_fail(err, MULL_EARG, WHAT, "media", "", "medium %zu has %lld tokens for its grid", i,
                           (long long)r->media[i]->tokens);
        if (!rc) rc = mull_media_key(r->media[i], &c->vision, &s->media[i].key, err);
    }
    free(grids);
    free(first);
    return rc;
}

int mull_seq_create(const mull_config *c, const mull_tokenizer *tok, const mull_request *r, int64_t max_len,
                    mull_seq **out, mull_error *err) {
    *out = NULL;
    int rc = check_sampling(&r->sampling, err);
    if (!rc) rc = check_ids(c, r, max_len, err);
    if (rc) return rc;
    mull_seq *s = calloc(1, sizeof *s);
    if (!s) return mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory");
    int64_t n = (int64_t)r->n;
    s->id = r->id;
    s->how = r->sampling;
    s->len = s->prompt = n;
    s->max_len = r->sampling.max_new_tokens < max_len - n ? n + r->sampling.max_new_tokens : max_len;
    s->nmedia = r->nmedia;
    s->cached = -1;
    s->tokens = malloc((size_t)s->max_len * sizeof *s->tokens);
    s->pos = malloc(3 * r->n * sizeof *s->pos);
    s->media = calloc(r->nmedia + 1, sizeof *s->media);
    s->pages = malloc((size_t)mull_pages_of(s->max_len) * sizeof *s->pages);
    s->keys = malloc((size_t)mull_pages_of(s->max_len) * sizeof *s->keys);
    s->logprobs = r->sampling.logprobs ? malloc((size_t)(s->max_len - n) * sizeof *s->logprobs) : NULL;
    if (!s->tokens || !s->pos || !s->media || !s->pages || !s->keys || (r->sampling.logprobs && !s->logprobs) ||
        mull_idset_init(&s->seen, c->vocab)) {
        rc = mull_fail(err, MULL_ENOMEM, WHAT, "", "", "out of memory for %lld tokens", (long long)s->max_len);
        goto fail;
    }
    memcpy(s->tokens, r->ids, r->n * sizeof *s->tokens);
    for (size_t i = 0; i < r->n; i++) mull_idset_add(&s->seen, r->ids[i]);
    if ((rc = take_media(s, c, r, err))) goto fail;
    if ((rc = mull_stream_init(&s->stream, r->sampling.stop, r->sampling.nstop, err))) goto fail;
    if (tok) mull_detok_init(&s->detok, tok, true);
    *out = s;
    return MULL_OK;
fail:
    mull_seq_destroy(s);
    return rc;
}

void mull_seq_destroy(mull_seq *s) {
    if (!s) return;
    free(s->tokens);
    free(s->pos);
    free(s->media);
    free(s->pages);
    free(s->keys);
    free(s->logprobs);
    mull_idset_fini(&s->seen);
    mull_stream_fini(&s->stream);
    free(s);
}

/* Makes s->keys[0 .. pages): what a page holds follows from the page before it, its tokens, and which part of which
 * medium stands in it (which fixes its positions too). False when a digest fails. */
static bool need_keys(mull_seq *s, int64_t pages) {
    enum { MOST = MULL_PAGE_TOKENS }; /* media a page can touch */
    struct {
        int32_t ids[MULL_PAGE_TOKENS];
        struct {
            mull_page_key key;
            int64_t offset;
        } media[MOST];
    } content;
    while (s->nkeys < pages) {
        int64_t from = s->nkeys * MULL_PAGE_TOKENS, to = from + MULL_PAGE_TOKENS;
        memset(&content, 0, sizeof content);
        memcpy(content.ids, s->tokens + from, sizeof content.ids);
        int n = 0;
        for (size_t i = 0; i < s->nmedia; i++) {
            int64_t a = (int64_t)s->media[i].first, b = a + s->media[i].media->tokens;
            if (a >= to || b <= from) continue;
            content.media[n].key = s->media[i].key;
            content.media[n++].offset = from - a;
        }
        size_t len = sizeof content.ids + (size_t)n * sizeof content.media[0];
        static_assert(sizeof content == sizeof content.ids + MOST * sizeof content.media[0], "no padding is hashed");
        if (!mull_page_key_next(&s->keys[s->nkeys], s->nkeys ? &s->keys[s->nkeys - 1] : NULL, &content, len))
            return false;
        s->nkeys++;
    }
    return true;
}

int64_t mull_seq_match(mull_seq *s, mull_kv_cache *kv) {
    while (s->npages < (s->len - 1) / MULL_PAGE_TOKENS) {
        if (!need_keys(s, s->npages + 1)) break;
        int32_t p = mull_kv_cache_find(kv, &s->keys[s->npages]);
        if (p < 0) break;
        s->pages[s->npages++] = p;
    }
    s->published = s->npages;
    return s->computed = s->npages * MULL_PAGE_TOKENS;
}

int64_t mull_seq_common(mull_seq *s, mull_seq *other) {
    int64_t a = (s->len - 1) / MULL_PAGE_TOKENS, b = other->len / MULL_PAGE_TOKENS, n = a < b ? a : b;
    /* Keys are chained: where one differs, all that follow do. Nearly always the first one decides. */
    if (n < 1 || !need_keys(s, 1) || !need_keys(other, 1) || memcmp(&s->keys[0], &other->keys[0], sizeof *s->keys))
        return 0;
    if (!need_keys(s, n) || !need_keys(other, n)) return 0;
    int64_t low = 1, high = n; /* low pages agree, more than high cannot */
    while (low < high) {
        int64_t mid = (low + high + 1) / 2;
        if (memcmp(&s->keys[mid - 1], &other->keys[mid - 1], sizeof *s->keys))
            high = mid - 1;
        else
            low = mid;
    }
    return low;
}

bool mull_seq_grow(mull_seq *s, mull_kv_cache *kv, int64_t end) {
    while (s->npages < mull_pages_of(end)) {
        int32_t p = mull_kv_cache_take(kv);
        if (p < 0) return false;
        s->pages[s->npages++] = p;
    }
    return true;
}

void mull_seq_publish(mull_seq *s, mull_kv_cache *kv) {
    for (; s->published < s->computed / MULL_PAGE_TOKENS; s->published++) {
        if (!need_keys(s, s->published + 1)) return;
        mull_kv_cache_publish(kv, s->pages[s->published], &s->keys[s->published]);
    }
}

void mull_seq_release(mull_seq *s, mull_kv_cache *kv, mull_features *f) {
    /* Last page first: the beginnings, which others may share, are then the last to be evicted. */
    while (s->npages > 0) mull_kv_cache_release(kv, s->pages[--s->npages]);
    for (size_t i = 0; i < s->nmedia; i++) {
        mull_features_release(f, s->media[i].feature);
        s->media[i].feature = NULL;
    }
    s->computed = s->published = 0;
    s->matched = false;
}
