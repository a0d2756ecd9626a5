/* Packed batches; see pack.h. */
#include "engine/train/pack.h"

#include "engine/model/vision.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot use the training batch";

static int grow(void **at, int64_t *cap, int64_t need, size_t size) {
    if (need <= *cap) return MULL_OK;
    void *p = realloc(*at, (size_t)need * size);
    if (!p) return MULL_ENOMEM;
    *at = p;
    *cap = need;
    return MULL_OK;
}

static int encode(void *ctx, const mull_grid *g, const float *patches, float *out, mull_error *err) {
    const mull_model *m = ctx;
    const int64_t grid[] = {g->t, g->h, g->w};
    if (mull_model_on_host(m)) return mull_vision_encode(m, patches, grid, out, NULL, err);
    const mull_config *c = mull_model_config(m);
    size_t bytes = (size_t)(mull_grid_tokens(c, g) * c->hidden) * sizeof *out;
    void *there;
    int rc = mull_model_buffer(m, bytes, "an image's features", &there, err);
    if (rc) return rc;
    rc = mull_vision_encode(m, patches, grid, there, NULL, err);
    if (!rc) rc = mull_model_buffer_read(m, out, there, bytes, err);
    mull_model_buffer_free(m, there);
    return rc;
}

mull_pack_source mull_pack_tower(const mull_model *m) {
    return (mull_pack_source){encode, (void *)(uintptr_t)m};
}

static int reserve(mull_pack *p, const mull_config *c, const mull_batch *b) {
    int64_t rows = b->rows, cap = p->row_cap, units = 0;
    for (size_t i = 0; i < b->nmedia; i++) units += mull_grid_tokens(c, &b->media[i]);
    int64_t largest = 0; /* a reasoning image's features, before they are pooled */
    for (size_t i = 0; i < b->nlatent; i++) {
        int64_t n = mull_grid_tokens(c, &b->latent[i]);
        if (n > largest) largest = n;
    }
    units += (int64_t)b->nlatent + largest;
    int rc = grow((void **)&p->pos, &cap, 3 * rows, sizeof *p->pos);
    cap = p->row_cap;
    if (!rc) rc = grow((void **)&p->features, &cap, rows, sizeof *p->features);
    cap = p->row_cap;
    if (!rc) rc = grow((void **)&p->latent, &cap, rows, sizeof *p->latent);
    if (!rc && rows > p->row_cap) p->row_cap = rows;
    if (!rc) rc = grow((void **)&p->latent_cu, &p->seq_cap, b->nseq + 1, sizeof *p->latent_cu);
    if (!rc) rc = grow((void **)&p->vision, &p->vision_cap, units * c->hidden + 1, sizeof *p->vision);
    if (!rc) rc = grow((void **)&p->first, &p->first_cap, (int64_t)b->nmedia + 1, sizeof *p->first);
    cap = p->media_cap;
    if (!rc) rc = grow((void **)&p->starts, &cap, (int64_t)b->nmedia + 1, sizeof *p->starts);
    if (!rc) rc = grow((void **)&p->d_starts, &p->media_cap, (int64_t)b->nmedia + 1, sizeof *p->d_starts);
    if (rc || !p->vision_gradient) return rc;
    rc = grow((void **)&p->d_features, &p->d_row_cap, rows, sizeof *p->d_features);
    return rc ? rc : grow((void **)&p->d_vision, &p->d_vision_cap, units * c->hidden + 1, sizeof *p->d_vision);
}

/* Features of medium i at out, which may be those of an earlier one with the same patches. */
static int medium(mull_pack *p, const mull_config *c, const mull_batch *b, size_t i, const mull_pack_source *source,
                  const float **starts, float **out, mull_error *err) {
    for (size_t k = 0; k < i; k++)
        if (b->patches[k] == b->patches[i] && !memcmp(&b->media[k], &b->media[i], sizeof b->media[i])) {
            starts[i] = starts[k];
            return MULL_OK;
        }
    starts[i] = *out;
    *out += mull_grid_tokens(c, &b->media[i]) * c->hidden;
    (void)p;
    return source->encode(source->ctx, &b->media[i], b->patches[i], (float *)(uintptr_t)starts[i], err);
}

/* The k-th <|latent_image|> of sequence s becomes the mean of its k-th reasoning image's features. */
static int pool_latents(mull_pack *p, const mull_config *c, const mull_batch *b, int s, const mull_pack_source *source,
                        float **pooled, float *whole, mull_error *err) {
    size_t from = b->nlatent ? b->latent_cu[s] : 0, count = b->nlatent ? b->latent_cu[s + 1] - from : 0, k = 0;
    char where[64];
    for (int32_t t = b->cu[s]; count && t < b->cu[s + 1]; t++) {
        if (b->ids[t] != c->latent_image) continue;
        if (k == count || t == b->cu[s]) {
            k = count + 1;
            break;
        }
        const mull_grid *g = &b->latent[from + k];
        int64_t n = mull_grid_tokens(c, g), h = c->hidden;
        int rc = source->encode(source->ctx, g, b->latent_patches[from + k], whole, err);
        if (rc) return rc;
        for (int64_t d = 0; d < h; d++) {
            double sum = 0;
            for (int64_t u = 0; u < n; u++) sum += whole[u * h + d];
            (*pooled)[d] = (float)(sum / (double)n);
        }
        p->latent[p->nlatent++] = t;
        p->features[t] = *pooled;
        *pooled += h;
        k++;
    }
    p->latent_cu[s + 1] = p->nlatent;
    if (k == count) return MULL_OK;
    snprintf(where, sizeof where, "sequence %d", s);
    return mull_fail(err, MULL_EARG, WHAT, where, "give each <|latent_image|> token one reasoning image",
                     "its <|latent_image|> tokens and its %zu reasoning images do not match", count);
}

static int check_ids(const mull_config *c, const mull_batch *b, mull_error *err) {
    for (int64_t i = 0; i < b->rows; i++) {
        int64_t id = b->ids[i], label = b->labels ? b->labels[i] : MULL_IGNORE;
        if (id >= 0 && id < c->vocab && (label == MULL_IGNORE || (label >= 0 && label < c->vocab))) continue;
        char where[64];
        snprintf(where, sizeof where, "token %lld", (long long)i);
        return mull_fail(err, MULL_EARG, WHAT, where, "use the tokenizer of the checkpoint, with the Mull tokens added",
                         "id %lld with label %lld is outside the embedding of %d rows", (long long)id, (long long)label,
                         c->vocab);
    }
    return MULL_OK;
}

int mull_pack_build(mull_pack *p, const mull_config *c, const mull_batch *b, const mull_pack_source *source,
                    mull_error *err) {
    int bad = check_ids(c, b, err);
    if (bad) return bad;
    if (reserve(p, c, b)) return mull_fail(err, MULL_ENOMEM, WHAT, "", "lower pack_tokens", "out of memory");
    p->labels = b->labels;
    p->nlatent = 0;
    p->latent_cu[0] = 0;
    memset(p->features, 0, (size_t)b->rows * sizeof *p->features);
    if (p->vision_gradient) memset(p->d_features, 0, (size_t)b->rows * sizeof *p->d_features);
    const float **starts = p->starts;
    float *out = p->vision, *d_out = p->d_vision;
    int rc = MULL_OK;
    for (int s = 0; s < b->nseq && !rc; s++) {
        size_t m0 = b->nmedia ? b->media_cu[s] : 0, nm = b->nmedia ? b->media_cu[s + 1] - m0 : 0, at = (size_t)b->cu[s];
        int64_t delta;
        rc = mull_positions(c, b->ids + at, (size_t)(b->cu[s + 1] - b->cu[s]), b->media + m0, nm, p->pos + at,
                            (size_t)b->rows, &delta, p->first, err);
        for (size_t i = 0; i < nm && !rc; i++) {
            rc = medium(p, c, b, m0 + i, source, starts, &out, err);
            int64_t n = mull_grid_tokens(c, &b->media[m0 + i]);
            if (p->vision_gradient && !rc) {
                p->d_starts[m0 + i] = d_out;
                for (int64_t u = 0; u < n; u++, d_out += c->hidden) p->d_features[at + p->first[i] + (size_t)u] = d_out;
            }
            for (int64_t u = 0; u < n && !rc; u++)
                p->features[at + p->first[i] + (size_t)u] = starts[m0 + i] + u * c->hidden;
        }
    }
    float *whole = out + (int64_t)b->nlatent * c->hidden;
    for (int s = 0; s < b->nseq && !rc; s++) rc = pool_latents(p, c, b, s, source, &out, whole, err);
    p->net = (mull_net_batch){
        .rows = b->rows, .ids = b->ids, .pos = p->pos, .features = p->features, .cu = b->cu, .nseq = b->nseq};
    if (p->vision_gradient) p->net.d_features = p->d_features;
    return rc;
}

void mull_pack_fini(mull_pack *p) {
    free(p->pos);
    free(p->features);
    free(p->vision);
    free(p->first);
    free(p->starts);
    free(p->d_starts);
    free(p->d_features);
    free(p->d_vision);
    free(p->latent);
    free(p->latent_cu);
    *p = (mull_pack){0};
}
