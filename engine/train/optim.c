/* AdamW over the flat arenas; see optim.h. Work is cut into MULL_PIECES pieces, and the norm's partial sums are added
 * in the order of the pieces: the bits depend neither on the number of threads nor on which rank owns a piece. */
#include "engine/train/optim.h"

#include "engine/ops/kernels.h"

#include <math.h>

double mull_optim_lr(const mull_optim_opts *o, int64_t step) {
    if (step < o->warmup) return o->lr * (double)step / (double)(o->warmup > 1 ? o->warmup : 1);
    int64_t span = o->total - o->warmup > 1 ? o->total - o->warmup : 1;
    double done = (double)(step - o->warmup) / (double)span;
    switch (o->schedule) {
    case MULL_LR_CONSTANT:
        return o->lr;
    case MULL_LR_COSINE:
        return o->lr * fmax(0, 0.5 * (1 + cos(3.14159265358979323846 * done)));
    default:
        return o->lr * fmax(0, (double)(o->total - step) / (double)span);
    }
}

typedef struct job {
    const mull_kernels *kn;
    mull_params *p;
    mull_adamw adamw;
    float decayed; /* keep of values that decay */
    int first, pieces;
    float *g; /* [hi - lo] */
    double sums[MULL_PIECES];
} job;

static void norm_task(void *ctx, int part, int parts) {
    job *j = ctx;
    (void)parts;
    int64_t n = j->p->trained, a = mull_params_border(n, j->first + part),
            e = mull_params_border(n, j->first + part + 1);
    j->sums[j->first + part] = j->kn->square_sum(j->g + (a - j->p->lo), e - a);
}

static void adamw_task(void *ctx, int part, int parts) {
    job *j = ctx;
    mull_params *p = j->p;
    (void)parts;
    int64_t a = mull_params_border(p->trained, j->first + part),
            e = mull_params_border(p->trained, j->first + part + 1);
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        int64_t from = q->at > a ? q->at : a, to = q->at + q->count < e ? q->at + q->count : e;
        if (q->at < 0 || from >= to) continue;
        mull_adamw o = j->adamw;
        o.keep = q->decay ? j->decayed : 1;
        int64_t own = from - p->lo;
        j->kn->adamw(q->w + (from - q->at), j->g + own, p->m + own, p->v + own, to - from, &o);
    }
}

void mull_optim_step(mull_pool *pool, mull_params *p, const mull_optim_opts *o, int64_t step, double scale,
                     int64_t *applied, mull_optim_result *out) {
    int world = mull_comm_world(p->comm), rank = mull_comm_rank(p->comm);
    job j = {.kn = mull_kernels_get(), .p = p, .pieces = MULL_PIECES, .g = p->sum ? p->sum : p->g + p->lo};
    if (p->zero) {
        j.first = mull_params_piece(rank, world);
        j.pieces = mull_params_piece(rank + 1, world) - j.first;
    }
    mull_pool_run(pool, norm_task, &j, j.pieces);
    double squares = 0;
    int64_t cuts[MULL_WORLD_MAX + 1];
    for (int r = 0; r <= world; r++) cuts[r] = mull_params_piece(r, world);
    if (p->zero && mull_comm_all_gather(p->comm, j.sums, MULL_F64, cuts, NULL))
        squares = NAN; /* a rank is gone: the step is not taken, and the next call to the ranks says so */
    for (int i = 0; i < MULL_PIECES; i++) squares += j.sums[i];
    *out = (mull_optim_result){.lr = mull_optim_lr(o, step), .grad_norm = sqrt(squares) * scale, .clip = 1};
    if (!isfinite(out->grad_norm)) {
        out->skipped = true;
        return;
    }
    if (o->max_grad_norm > 0) out->clip = fmin(1, o->max_grad_norm / (out->grad_norm + 1e-6));
    double t = (double)++*applied;
    j.decayed = (float)(1 - out->lr * o->weight_decay);
    j.adamw = (mull_adamw){.clip = (float)(scale * out->clip),
                           .beta2 = (float)o->beta2,
                           .one_beta1 = (float)(1 - o->beta1),
                           .one_beta2 = (float)(1 - o->beta2),
                           .step = (float)(out->lr / (1 - pow(o->beta1, t))),
                           .inv_root = (float)(1 / sqrt(1 - pow(o->beta2, t))),
                           .eps = (float)o->eps};
    mull_pool_run(pool, adamw_task, &j, j.pieces);
    mull_params_round(pool, p);
}
