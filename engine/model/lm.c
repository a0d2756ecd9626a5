/* The language model; see lm.h and MODEL.md, "Language model". Pre-norm decoder: x += o(attention(qkv(norm(x)))),
 * x += down(swiglu(gate_up(norm(x)))). The rotary angles of a batch are computed once and used by every layer. */
#include "engine/model/lm.h"

#include "engine/model/model_internal.h"
#include "engine/model/rope.h"
#include "engine/model/weights.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Most rows of a slice in the MLP, whose inner width is the largest buffer: whole blocks of 12. 512 rows at once are no
 * faster: what is read from the third cache then outweighs reading the weights twice. */
enum { MLP_ROWS = 264 };

struct mull_lm {
    const mull_model *m;
    const mull_config *c;
    mull_pool *pool;
    int64_t max_rows;
    size_t bytes;
    const mull_backend *backend; /* then only dev and the fields above are used */
    void *dev;
    mull_mrope rope;
    float *all;           /* one allocation, parts below */
    float *x, *norm;      /* [R, hidden] */
    float *qkv;           /* [R, (heads + 2 kv_heads) * head_dim] */
    float *attn;          /* [R, heads * head_dim] */
    float *gate_up, *act; /* [slice, 2F], [slice, F] */
    float *cos, *sin;     /* [R, head_dim / 2] */
};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int mull_lm_create(const mull_model *m, int64_t max_rows, mull_lm **out, mull_error *err) {
    const mull_config *c = mull_model_config(m);
    *out = NULL;
    mull_lm *lm = calloc(1, sizeof *lm);
    if (!lm) return mull_fail(err, MULL_ENOMEM, "cannot prepare the language model", "", "", "out of memory");
    *lm = (mull_lm){.m = m, .c = c, .pool = mull_model_pool(m), .max_rows = max_rows};
    int rc;
    if (m->backend) {
        lm->backend = m->backend;
        rc = m->backend->lm_create(m->state, max_rows, &lm->dev, &lm->bytes, err);
        if (rc) goto fail;
        *out = lm;
        return MULL_OK;
    }
    rc = mull_mrope_init(&lm->rope, c, err);
    if (rc) goto fail;
    int64_t n = max_rows, slice = least(n, MLP_ROWS);
    int64_t sizes[] = {n * c->hidden,
                       n * c->hidden,
                       n * (c->heads + 2 * c->kv_heads) * c->head_dim,
                       n * c->heads * c->head_dim,
                       2 * slice * c->intermediate,
                       slice * c->intermediate,
                       n * c->head_dim / 2,
                       n * c->head_dim / 2};
    float **at[] = {&lm->x, &lm->norm, &lm->qkv, &lm->attn, &lm->gate_up, &lm->act, &lm->cos, &lm->sin};
    size_t total = 0, used = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) total += ((size_t)sizes[i] + 15) & ~(size_t)15;
    lm->bytes = total * sizeof(float);
    lm->all = aligned_alloc(64, lm->bytes);
    if (!lm->all) {
        rc = mull_fail(err, MULL_ENOMEM, "cannot prepare the language model", "", "lower the prefill chunk",
                       "no memory for %zu bytes of activations", lm->bytes);
        goto fail;
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *at[i] = lm->all + used;
        used += ((size_t)sizes[i] + 15) & ~(size_t)15;
    }
    *out = lm;
    return MULL_OK;
fail:
    mull_lm_destroy(lm);
    return rc;
}

void mull_lm_destroy(mull_lm *lm) {
    if (!lm) return;
    if (lm->dev) lm->backend->lm_destroy(lm->dev);
    mull_mrope_fini(&lm->rope);
    free(lm->all);
    free(lm);
}

size_t mull_lm_bytes(const mull_lm *lm) {
    return lm->bytes;
}

int64_t mull_lm_max_rows(const mull_lm *lm) {
    return lm->max_rows;
}

static void embed(mull_lm *lm, const mull_lm_batch *b) {
    int64_t h = lm->c->hidden;
    for (int64_t r = 0; r < b->rows; r++) {
        if (b->features && b->features[r])
            memcpy(lm->x + r * h, b->features[r], (size_t)h * sizeof(float));
        else
            mull_matrix_get_row(lm->m->weights.embed, b->ids[r], lm->x + r * h);
    }
}

static void attend(mull_lm *lm, const mull_lm_batch *b, const mull_lm_layer *w, const mull_kv_view *kv) {
    const mull_config *c = lm->c;
    int64_t hd = c->head_dim, q = c->heads * hd, kvw = c->kv_heads * hd, ld = q + 2 * kvw;
    mull_rmsnorm(lm->pool, lm->x, b->rows, c->hidden, w->input_norm, c->rms_eps, lm->norm);
    mull_matmul(lm->pool, lm->norm, b->rows, c->hidden, w->qkv, w->qkv_bias, lm->qkv, ld, false);
    /* The heads of q and k are neighbours in a row, so one call turns both. */
    mull_rope(lm->pool, lm->qkv, b->rows, ld, c->heads + c->kv_heads, c->head_dim, lm->cos, lm->sin);
    mull_kv_store(lm->pool, kv, b->seqs, b->nseq, lm->qkv + q, lm->qkv + q + kvw, ld);
    mull_attention_paged(lm->pool, kv, b->seqs, b->nseq, lm->qkv, ld, c->heads, 1.0f / sqrtf((float)hd), lm->attn, q);
    mull_matmul(lm->pool, lm->attn, b->rows, q, w->o, NULL, lm->x, c->hidden, true);
}

static void feed_forward(mull_lm *lm, int64_t rows, const mull_lm_layer *w) {
    int64_t h = lm->c->hidden, f = lm->c->intermediate;
    mull_rmsnorm(lm->pool, lm->x, rows, h, w->post_norm, lm->c->rms_eps, lm->norm);
    /* Even slices: each reads all weights. */
    int64_t slices = (rows + MLP_ROWS - 1) / MLP_ROWS, slice = ((rows + slices - 1) / slices + 11) / 12 * 12;
    for (int64_t r = 0; r < rows; r += slice) {
        int64_t k = least(slice, rows - r);
        mull_matmul(lm->pool, lm->norm + r * h, k, h, w->gate_up, NULL, lm->gate_up, 2 * f, false);
        mull_swiglu(lm->pool, lm->gate_up, k, f, lm->act);
        mull_matmul(lm->pool, lm->act, k, f, w->down, NULL, lm->x + r * h, h, true);
    }
}

void mull_lm_run(mull_lm *lm, const mull_lm_batch *b, const mull_tap *tap) {
    assert(b->rows <= lm->max_rows);
    if (lm->backend) {
        lm->backend->lm_run(lm->dev, b, tap);
        return;
    }
    embed(lm, b);
    if (tap) tap->see(tap->ctx, MULL_STAGE_EMBED, 0, lm->x, 0, b->rows, lm->c->hidden);
    mull_mrope_table(&lm->rope, b->pos, b->rows, b->pos_stride, lm->cos, lm->sin);
    for (int i = 0; i < lm->c->layers; i++) {
        const mull_lm_layer *w = &lm->m->weights.layers[i];
        attend(lm, b, w, &b->kv[i]);
        feed_forward(lm, b->rows, w);
        if (tap) tap->see(tap->ctx, MULL_STAGE_LAYER, i, lm->x, 0, b->rows, lm->c->hidden);
    }
}

void mull_lm_hidden(mull_lm *lm, const int32_t *rows, int64_t n, float *out) {
    if (lm->backend) {
        lm->backend->lm_hidden(lm->dev, rows, n, out);
        return;
    }
    int64_t h = lm->c->hidden;
    for (int64_t i = 0; i < n; i++) memcpy(out + i * h, lm->x + rows[i] * h, (size_t)h * sizeof(float));
    mull_rmsnorm(lm->pool, out, n, h, lm->m->weights.norm, lm->c->rms_eps, out);
}

void mull_lm_logits(mull_lm *lm, const float *hidden, int64_t n, float *logits) {
    if (lm->backend) {
        lm->backend->lm_logits(lm->dev, hidden, n, logits);
        return;
    }
    const mull_matrix *head = lm->m->weights.head; /* the embedding when tied */
    mull_matmul(lm->pool, hidden, n, lm->c->hidden, head, NULL, logits, lm->c->vocab, false);
}

void mull_lm_row_logits(mull_lm *lm, const int32_t *rows, int64_t n, float *hidden, float *logits) {
    if (lm->backend) {
        lm->backend->lm_row_logits(lm->dev, rows, n, logits);
        return;
    }
    mull_lm_hidden(lm, rows, n, hidden);
    mull_lm_logits(lm, hidden, n, logits);
}

bool mull_lm_choose(mull_lm *lm, const int32_t *rows, int64_t n, const mull_lm_choice *how, const uint64_t *banned,
                    int32_t *ids, float *logprobs) {
    if (!lm->backend) return false;
    lm->backend->lm_choose(lm->dev, rows, n, how, banned, ids, logprobs);
    return true;
}
