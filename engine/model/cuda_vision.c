/* The vision tower on CUDA; the steps and the order of rows are those of vision.c. Grid steps go through in groups of
 * at most GROUP_ROWS rows (one step at least), the working memory grows to the largest group seen and stays. */
#include "engine/model/cuda_model.h"

#include "engine/model/rope.h"
#include "engine/model/vision.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP_ROWS = 8192 };
static const float EPS = 1e-6f; /* the tower's own */

/* One kind of attention: its segments and plan on the device. */
typedef struct kind {
    mull_cuda_seq *seqs;
    mull_cuda_work *work;
    mull_cuda_join *joins;
    mull_cuda_plan plan;
    int n;
} kind;

struct mull_cuda_tower {
    char *all;
    size_t bytes;
};

typedef struct tower {
    mull_cuda_model *m;
    const mull_vision_config *v;
    const mull_tap *tap;
    int64_t h, w, step_rows, unit;
    mull_windows windows;
    float *x, *wide;            /* [n, E]; patches as they come, then [n, E] or [n / unit, hidden] in window order */
    void *patches, *norm, *qkv; /* T: [n, 1176], [n, E], [n, 3E] and the merger's [n / unit, unit E] */
    void *gate_up, *act;        /* T: [n, 2F], [n, F] */
    float *cos, *sin;           /* [n, hd / 2] in window order */
    int32_t *order;             /* [units] */
    kind window, full;
} tower;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

int mull__cuda_vision_segments(const mull_windows *o, int64_t step_rows, int64_t steps, bool full,
                               mull_cuda_seq *seqs) {
    int n = 0, each = full ? 1 : o->n;
    for (int64_t s = 0; s < steps; s++)
        for (int i = 0; i < each; i++, n++)
            if (seqs) {
                int32_t a = full ? 0 : o->cu[i], b = full ? (int32_t)step_rows : o->cu[i + 1];
                seqs[n] = (mull_cuda_seq){.row0 = (int32_t)(s * step_rows) + a, .rows = b - a};
            }
    return n;
}

static void lay_out(tower *t, int64_t steps, mull_cuda_arena *a) {
    const mull_vision_config *v = t->v;
    size_t n = (size_t)(steps * t->step_rows), e = (size_t)v->hidden, f = (size_t)v->intermediate,
           in = (size_t)mull_vision_patch_floats(v), size = mull_dtype_size(t->m->t), half = (size_t)v->head_dim / 2;
    size_t wide = (size_t)most((int64_t)in, v->hidden);
    t->x = mull_cuda_part(a, n * e * sizeof(float));
    t->wide = mull_cuda_part(a, (n * wide + n / (size_t)t->unit * (size_t)v->out_hidden) * sizeof(float));
    t->patches = mull_cuda_part(a, n * in * size);
    t->norm = mull_cuda_part(a, n * e * size);
    t->qkv = mull_cuda_part(a, n * 3 * e * size);
    t->gate_up = mull_cuda_part(a, n * 2 * f * size);
    t->act = mull_cuda_part(a, n * f * size);
    t->cos = mull_cuda_part(a, n * half * sizeof(float));
    t->sin = mull_cuda_part(a, n * half * sizeof(float));
    t->order = mull_cuda_part(a, (size_t)t->windows.units * sizeof *t->order);
    kind *kinds[] = {&t->window, &t->full};
    for (int k = 0; k < 2; k++) {
        kind *g = kinds[k];
        g->seqs = mull_cuda_part(a, (size_t)g->n * sizeof *g->seqs);
        g->work = mull_cuda_part(a, (size_t)(g->plan.wide + g->plan.few) * sizeof *g->work);
        g->joins = mull_cuda_part(a, (size_t)g->plan.joins * sizeof *g->joins);
    }
}

/* Counts segments and work of a group; with send also writes them to the device. */
static int plan_kind(tower *t, int64_t steps, bool full, bool send, mull_error *err) {
    kind *g = full ? &t->full : &t->window;
    g->n = mull__cuda_vision_segments(&t->windows, t->step_rows, steps, full, NULL);
    mull_cuda_seq *seqs = malloc((size_t)g->n * sizeof *seqs + 1);
    if (!seqs) return mull_fail(err, MULL_ENOMEM, "cannot run the vision tower", "", "", "out of memory");
    mull__cuda_vision_segments(&t->windows, t->step_rows, steps, full, seqs);
    mull_cuda_plan_attention(seqs, g->n, 1, false, &g->plan, NULL, NULL);
    size_t w = (size_t)(g->plan.wide + g->plan.few) * sizeof *g->work, j = (size_t)g->plan.joins * sizeof *g->joins;
    mull_cuda_work *work = send ? malloc(w + j + 1) : NULL;
    int rc = MULL_OK;
    if (work) {
        mull_cuda_join *joins = (mull_cuda_join *)(void *)((char *)work + w);
        mull_cuda_plan_attention(seqs, g->n, 1, false, &g->plan, work, joins);
        mull_cuda_put(t->m->c, g->seqs, seqs, (size_t)g->n * sizeof *seqs);
        mull_cuda_put(t->m->c, g->work, work, w);
        mull_cuda_put(t->m->c, g->joins, joins, j);
    } else if (send) {
        rc = mull_fail(err, MULL_ENOMEM, "cannot run the vision tower", "", "", "out of memory");
    }
    if (!rc)
        rc = mull_cuda_reserve(t->m->c, MULL_CUDA_ATTENTION,
                               mull_cuda_attention_scratch(g->plan.parts, t->v->heads, t->v->head_dim), err);
    free(seqs);
    free(work);
    return rc;
}

bool mull__cuda_vision_tables(mull_cuda *c, const mull_vision_config *v, const mull_windows *o, int64_t h, int64_t w,
                              int64_t steps, float *cos, float *sin, int32_t *order) {
    size_t half = (size_t)v->head_dim / 2, row = half * (size_t)(v->merge * v->merge), table = (size_t)(h * w) * half;
    float *raw = malloc(4 * table * sizeof *raw);
    if (!raw) return false;
    float *turned = raw + 2 * table;
    mull_vision_rope(v, h, w, raw, raw + table);
    for (int half_of = 0; half_of < 2; half_of++)
        for (int64_t u = 0; u < o->units; u++)
            memcpy(turned + (size_t)half_of * table + (size_t)u * row,
                   raw + (size_t)half_of * table + (size_t)o->order[u] * row, row * sizeof *raw);
    for (int64_t s = 0; s < steps; s++) {
        mull_cuda_put(c, cos + (size_t)s * table, turned, table * sizeof *raw);
        mull_cuda_put(c, sin + (size_t)s * table, turned + table, table * sizeof *raw);
    }
    mull_cuda_put(c, order, o->order, (size_t)o->units * sizeof *order);
    free(raw);
    return true;
}

/* Everything that a group of this many steps needs besides its patches. */
static int prepare(tower *t, int64_t steps, mull_error *err) {
    mull_cuda_model *m = t->m;
    int rc = plan_kind(t, steps, false, false, err);
    if (!rc) rc = plan_kind(t, steps, true, false, err);
    if (rc) return rc;
    mull_cuda_arena a = {0};
    lay_out(t, steps, &a);
    if (!m->tower && !(m->tower = calloc(1, sizeof *m->tower)))
        return mull_fail(err, MULL_ENOMEM, "cannot run the vision tower", "", "", "out of memory");
    if (a.used > m->tower->bytes) {
        mull_cuda_release(m->c, m->tower->all);
        *m->tower = (struct mull_cuda_tower){0};
        void *p;
        rc = mull_cuda_alloc(m->c, a.used, "the vision tower", &p, err);
        if (rc) return rc;
        *m->tower = (struct mull_cuda_tower){.all = p, .bytes = a.used};
    }
    a = (mull_cuda_arena){.base = m->tower->all};
    lay_out(t, steps, &a);
    rc = plan_kind(t, steps, false, true, err);
    if (!rc) rc = plan_kind(t, steps, true, true, err);
    if (!rc && !mull__cuda_vision_tables(m->c, t->v, &t->windows, t->h, t->w, steps, t->cos, t->sin, t->order))
        rc = mull_fail(err, MULL_ENOMEM, "cannot run the vision tower", "", "", "out of memory");
    return rc;
}

void mull__cuda_tower_destroy(mull_cuda_model *m) {
    if (!m->tower) return;
    mull_cuda_release(m->c, m->tower->all);
    free(m->tower);
}

static void show(tower *t, int64_t step0, int64_t steps, mull_stage stage, int index) {
    if (!t->tap) return;
    mull_cuda_permute(t->m->c, t->x, t->order, t->windows.units, steps, t->unit * t->v->hidden, true, t->wide);
    mull__cuda_show(t->m, t->tap, stage, index, t->wide, step0 * t->step_rows, steps * t->step_rows, t->v->hidden);
}

static void block(tower *t, int index, int64_t n) {
    const mull_vision_config *v = t->v;
    const mull_cuda_block *b = &t->m->blocks[index];
    const kind *g = v->full_attention[index] ? &t->full : &t->window;
    mull_cuda *gpu = t->m->c;
    mull_dtype type = t->m->t;
    int64_t e = v->hidden, f = v->intermediate, size = (int64_t)mull_dtype_size(type);
    mull_cuda_rmsnorm(gpu, t->x, NULL, n, e, b->norm1, EPS, t->norm, type);
    mull_cuda_linear(gpu, t->norm, n, e, &b->qkv, b->qkv_bias, t->qkv, type, 3 * e, false);
    mull_cuda_rope(gpu, t->qkv, n, 3 * e, 2 * v->heads, v->head_dim, t->cos, t->sin, type);
    mull_cuda_attention a = {.t = type,
                             .q = t->qkv,
                             .ldq = 3 * e,
                             .k = (char *)t->qkv + e * size,
                             .v = (char *)t->qkv + 2 * e * size,
                             .ldkv = 3 * e,
                             .heads = v->heads,
                             .hd = v->head_dim,
                             .scale = 1.0f / sqrtf((float)v->head_dim),
                             .seqs = g->seqs,
                             .work = g->work,
                             .joins = g->joins,
                             .plan = g->plan,
                             .out = t->norm,
                             .ldo = e};
    mull_cuda_attend(gpu, &a);
    mull_cuda_linear(gpu, t->norm, n, e, &b->proj, b->proj_bias, t->x, MULL_F32, e, true);
    mull_cuda_rmsnorm(gpu, t->x, NULL, n, e, b->norm2, EPS, t->norm, type);
    mull_cuda_linear(gpu, t->norm, n, e, &b->gate_up, b->gate_up_bias, t->gate_up, type, 2 * f, false);
    mull_cuda_swiglu(gpu, t->gate_up, n, f, t->act, type);
    mull_cuda_linear(gpu, t->act, n, f, &b->down, b->down_bias, t->x, MULL_F32, e, true);
}

static void run_group(tower *t, const float *patches, int64_t step0, int64_t steps, float *out) {
    mull_cuda_model *m = t->m;
    mull_cuda *gpu = m->c;
    int64_t n = steps * t->step_rows, in = mull_vision_patch_floats(t->v), e = t->v->hidden, units = n / t->unit,
            wide = t->unit * e, hidden = t->v->out_hidden;
    mull_cuda_put(gpu, t->wide, patches + step0 * t->step_rows * in, (size_t)(n * in) * sizeof *patches);
    mull_cuda_convert(gpu, t->wide, n * in, t->patches, m->t);
    mull_cuda_linear(gpu, t->patches, n, in, &m->patch_embed, NULL, t->wide, MULL_F32, e, false);
    mull_cuda_permute(gpu, t->wide, t->order, t->windows.units, steps, t->unit * e, false, t->x);
    show(t, step0, steps, MULL_STAGE_PATCH_EMBED, 0);
    for (int i = 0; i < t->v->depth; i++) {
        block(t, i, n);
        show(t, step0, steps, MULL_STAGE_VISION_BLOCK, i);
    }
    mull_cuda_rmsnorm(gpu, t->x, NULL, n, e, m->ln_q, EPS, t->norm, m->t);
    mull_cuda_linear(gpu, t->norm, units, wide, &m->merge0, m->merge0_bias, t->qkv, m->t, wide, false);
    mull_cuda_gelu(gpu, t->qkv, units * wide, m->t);
    mull_cuda_linear(gpu, t->qkv, units, wide, &m->merge2, m->merge2_bias, t->wide, MULL_F32, hidden, false);
    mull_cuda_permute(gpu, t->wide, t->order, t->windows.units, steps, hidden, true,
                      out + step0 * t->windows.units * hidden);
}

int mull__cuda_vision(void *state, const float *patches, const int64_t grid[3], float *out, const mull_tap *tap,
                      mull_error *err) {
    mull_cuda_model *m = state;
    const mull_vision_config *v = &m->config->vision;
    tower t = {.m = m, .v = v, .tap = tap, .h = grid[1], .w = grid[2], .step_rows = grid[1] * grid[2]};
    t.unit = (int64_t)v->merge * v->merge;
    int64_t group = least(most(GROUP_ROWS / t.step_rows, 1), grid[0]);
    int rc = mull_windows_init(&t.windows, v, grid[1], grid[2], err);
    for (int64_t s = 0; !rc && s < grid[0]; s += group) {
        int64_t steps = least(group, grid[0] - s);
        if (s == 0 || steps != group) rc = prepare(&t, steps, err);
        if (!rc) run_group(&t, patches, s, steps, out);
    }
    if (!rc && mull_cuda_failed(m->c)) rc = mull_cuda_sync(m->c, err);
    mull_windows_fini(&t.windows);
    return rc;
}
