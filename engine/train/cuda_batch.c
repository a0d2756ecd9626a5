/* What a batch is, told to the device in one upload: ids, positions, borders, the plans of attention and which rows'
 * gradients meet in one row of the embedding. Room for the largest batch is part of the arena, so a step takes none. */
#include "engine/train/cuda_net.h"

#include <string.h>

static mull_cuda_groups groups(mull_cuda_arena *a, int64_t n) {
    mull_cuda_groups g = {0};
    g.order = mull_cuda_part(a, (size_t)n * sizeof *g.order);
    g.starts = mull_cuda_part(a, (size_t)(n + 1) * sizeof *g.starts);
    g.targets = mull_cuda_part(a, (size_t)n * sizeof *g.targets);
    return g;
}

void mull__cuda_batch_lay_out(const mull_cuda_net *d, mull_cuda_arena *a, int64_t rows, int64_t loss_rows,
                              mull_cuda_batch *b) {
    const mull_config *c = d->n->c;
    size_t n = (size_t)rows, loss = (size_t)loss_rows, group = (size_t)(c->heads / c->kv_heads);
    /* A sequence has at least one row and one tile. */
    size_t tiles = n * group / MULL_CUDA_TILE + n, keys = n / MULL_CUDA_TILE + n;
    b->features = mull_cuda_part(a, n * sizeof *b->features);
    b->ids = mull_cuda_part(a, n * sizeof *b->ids);
    b->pos = mull_cuda_part(a, 3 * n * sizeof *b->pos);
    b->seqs = mull_cuda_part(a, n * sizeof *b->seqs);
    b->work = mull_cuda_part(a, tiles * sizeof *b->work);
    b->keys = mull_cuda_part(a, keys * sizeof *b->keys);
    b->embed = groups(a, rows);
    b->rows = mull_cuda_part(a, loss * sizeof *b->rows);
    b->targets = mull_cuda_part(a, loss * sizeof *b->targets);
    b->gather = groups(a, loss_rows);
    b->coef = mull_cuda_part(a, loss * sizeof *b->coef);
    b->scale = mull_cuda_part(a, loss * sizeof *b->scale);
}

void mull__cuda_batch_put(mull_cuda_net *d, const void *here, size_t bytes) {
    mull_cuda_put(d->c, d->batch_base + ((const char *)here - d->host), here, bytes);
}

/* Rows that do not come from the embedding, in runs of neighbours; which ids the others have. */
static void send_features(mull_cuda_net *d, const mull_net_batch *b, int32_t *embedded) {
    int64_t h = d->n->c->hidden, used = 0;
    for (int64_t r = 0; r < b->rows;) {
        const float *f = b->features ? b->features[r] : NULL;
        int64_t k = 1;
        d->here.features[r] = NULL;
        embedded[r] = f ? -1 : b->ids[r];
        if (f) {
            for (; r + k < b->rows && b->features[r + k] == f + k * h; k++) {
            }
            for (int64_t i = 0; i < k; i++) {
                d->here.features[r + i] = d->features + (used + i) * h;
                embedded[r + i] = -1;
            }
            mull_cuda_put(d->c, d->features + used * h, f, (size_t)(k * h) * sizeof *f);
            used += k;
        }
        r += k;
    }
}

bool mull__cuda_batch_send(mull_cuda_net *d, const mull_net_batch *b) {
    const mull_config *c = d->n->c;
    mull_cuda_batch *o = &d->here;
    size_t n = (size_t)b->rows;
    if (b->rows > d->cap) {
        mull_cuda_refuse(d->c, MULL_EINTERNAL, "a training batch", "report this", "%lld rows, room for %lld",
                         (long long)b->rows, (long long)d->cap);
        return false;
    }
    if (b->trunk) {
        mull_cuda_refuse(d->c, MULL_EUNSUPPORTED, "a training batch", "use --device cpu",
                         "sequences that branch are trained on the CPU only");
        return false;
    }
    int nseq = 0;
    for (int s = 0; s < b->nseq; s++)
        if (b->cu[s + 1] > b->cu[s])
            o->seqs[nseq++] = (mull_cuda_seq){.row0 = b->cu[s], .rows = b->cu[s + 1] - b->cu[s]};
    mull_cuda_plan_attention(o->seqs, nseq, c->heads / c->kv_heads, true, &d->plan, o->work, NULL);
    d->nkeys = mull_cuda_plan_keys(o->seqs, nseq, o->keys);
    /* Rows of the embedding in the ids' place first: they are grouped before the ids are written. */
    send_features(d, b, o->ids);
    int rc = mull_cuda_group(o->ids, b->rows, &o->embed);
    if (rc) mull_cuda_refuse(d->c, rc, "a training batch", "", "out of memory");
    memcpy(o->ids, b->ids, n * sizeof *o->ids);
    memcpy(o->pos, b->pos, 3 * n * sizeof *o->pos);
    d->there.embed.n = o->embed.n;
    d->rows = b->rows;
    mull_cuda_put(d->c, d->batch_base, d->host, (size_t)((char *)o->rows - d->host));
    return !mull_cuda_failed(d->c);
}
