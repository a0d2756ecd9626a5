/* The vision tower; see vision.h and MODEL.md, "Vision tower". Units are brought into window order once, all blocks run
 * on that order, and the merger's rows are put back. Full-attention blocks use the same order with one segment a grid
 * step. Grid steps go through in groups: enough rows for an efficient GEMM, few enough for a bounded arena. The row
 * work of the MLP runs in slices, since its inner width is the largest buffer. */
#include "engine/model/vision.h"

#include "engine/model/model_internal.h"
#include "engine/model/rope.h"
#include "engine/model/vision_windows.h"
#include "engine/model/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP_ROWS = 2048, SLICE_ROWS = 512 };
static const float EPS = 1e-6f; /* the tower's own; it does not follow the language model's */

/* One group's working memory, one allocation. n rows at most, E = hidden of the tower. */
typedef struct arena {
    float *all;
    float *x, *norm;      /* [n, E] */
    float *qkv;           /* [n, 3E], later the merger's [n / merge^2, merge^2 E] */
    float *gate_up, *act; /* [slice, 2F], [slice, F] */
    float *merged;        /* [slice, hidden] */
    float *cos, *sin;     /* [n, head_dim / 2], window order */
    int32_t *window_cu, *full_cu;
    int windows, fulls;
} arena;

typedef struct tower {
    const mull_model *m;
    const mull_vision_config *v;
    const mull_vision_weights *w;
    mull_pool *pool;
    int64_t step_rows; /* h * w */
    int64_t unit;      /* merge^2 rows */
    mull_windows windows;
    arena a;
    const mull_tap *tap;
} tower;

int64_t mull_vision_patch_floats(const mull_vision_config *v) {
    return (int64_t)v->in_chans * v->temporal_patch * v->patch * v->patch;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int arena_init(tower *t, int64_t steps, mull_error *err) {
    const mull_vision_config *v = t->v;
    int64_t n = steps * t->step_rows, slice = least(n, SLICE_ROWS), half = v->head_dim / 2;
    int64_t sizes[] = {n * v->hidden,           n * v->hidden,         3 * n * v->hidden, 2 * slice * v->intermediate,
                       slice * v->intermediate, slice * v->out_hidden, n * half,          n * half};
    float **at[] = {&t->a.x, &t->a.norm, &t->a.qkv, &t->a.gate_up, &t->a.act, &t->a.merged, &t->a.cos, &t->a.sin};
    size_t total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) total += ((size_t)sizes[i] + 15) & ~(size_t)15;
    t->a.all = aligned_alloc(64, total * sizeof(float));
    t->a.window_cu = malloc(((size_t)steps * (size_t)t->windows.n + 1) * sizeof(int32_t));
    t->a.full_cu = malloc(((size_t)steps + 1) * sizeof(int32_t));
    if (!t->a.all || !t->a.window_cu || !t->a.full_cu || n > INT32_MAX)
        return mull_fail(err, MULL_ENOMEM, "cannot run the vision tower", "", "lower max_pixels",
                         "no memory for %zu bytes of activations", total * sizeof(float));
    size_t used = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *at[i] = t->a.all + used;
        used += ((size_t)sizes[i] + 15) & ~(size_t)15;
    }
    return MULL_OK;
}

static void arena_fini(arena *a) {
    free(a->all);
    free(a->window_cu);
    free(a->full_cu);
}

/* dst = src by unit, floats a unit: into window order, or out of it. */
static void permute(const tower *t, int64_t steps, float *dst, const float *src, size_t floats, bool back) {
    for (int64_t s = 0; s < steps; s++)
        for (int64_t i = 0; i < t->windows.units; i++) {
            size_t here = (size_t)(s * t->windows.units + i);
            size_t there = (size_t)(s * t->windows.units + t->windows.order[i]);
            memcpy(dst + (back ? there : here) * floats, src + (back ? here : there) * floats, floats * sizeof(float));
        }
}

static void show(const tower *t, int64_t step0, int64_t steps, mull_stage stage, int index) {
    if (!t->tap) return;
    permute(t, steps, t->a.norm, t->a.x, (size_t)(t->unit * t->v->hidden), true);
    t->tap->see(t->tap->ctx, stage, index, t->a.norm, step0 * t->step_rows, steps * t->step_rows, t->v->hidden);
}

/* Segment borders and rotary tables for a group of steps (the same for every group of this size). */
static void prepare(tower *t, int64_t h, int64_t w, int64_t steps) {
    arena *a = &t->a;
    a->windows = 0;
    a->window_cu[0] = a->full_cu[0] = 0;
    for (int64_t s = 0; s < steps; s++) {
        for (int i = 1; i <= t->windows.n; i++)
            a->window_cu[++a->windows] = (int32_t)(s * t->step_rows) + t->windows.cu[i];
        a->full_cu[s + 1] = (int32_t)((s + 1) * t->step_rows);
    }
    a->fulls = (int)steps;
    int64_t half = t->v->head_dim / 2, table = t->step_rows * half;
    float *raw = a->qkv; /* not in use yet */
    mull_vision_rope(t->v, h, w, raw, raw + table);
    permute(t, 1, a->cos, raw, (size_t)(t->unit * half), false);
    permute(t, 1, a->sin, raw + table, (size_t)(t->unit * half), false);
    for (int64_t s = 1; s < steps; s++) {
        memcpy(a->cos + s * table, a->cos, (size_t)table * sizeof(float));
        memcpy(a->sin + s * table, a->sin, (size_t)table * sizeof(float));
    }
}

static void block(const tower *t, int index, int64_t n) {
    const arena *a = &t->a;
    const mull_vision_config *v = t->v;
    const mull_vision_block *b = &t->w->blocks[index];
    int64_t e = v->hidden, f = v->intermediate;
    bool full = v->full_attention[index];
    mull_rmsnorm(t->pool, a->x, n, e, b->norm1, EPS, a->norm);
    mull_matmul(t->pool, a->norm, n, e, b->qkv, b->qkv_bias, a->qkv, 3 * e, false);
    /* q and k heads are neighbours in a row: one call turns both, k with q's tables. */
    mull_rope(t->pool, a->qkv, n, 3 * e, 2 * v->heads, v->head_dim, a->cos, a->sin);
    mull_attention_varlen(t->pool, a->qkv, a->qkv + e, a->qkv + 2 * e, 3 * e, full ? a->full_cu : a->window_cu,
                          full ? a->fulls : a->windows, v->heads, v->head_dim, 1.0f / sqrtf((float)v->head_dim),
                          a->norm, e);
    mull_matmul(t->pool, a->norm, n, e, b->proj, b->proj_bias, a->x, e, true);
    mull_rmsnorm(t->pool, a->x, n, e, b->norm2, EPS, a->norm);
    for (int64_t r = 0; r < n; r += SLICE_ROWS) {
        int64_t k = least(SLICE_ROWS, n - r);
        mull_matmul(t->pool, a->norm + r * e, k, e, b->gate_up, b->gate_up_bias, a->gate_up, 2 * f, false);
        mull_swiglu(t->pool, a->gate_up, k, f, a->act);
        mull_matmul(t->pool, a->act, k, f, b->down, b->down_bias, a->x + r * e, e, true);
    }
}

/* x [n, E] in window order to out [n / unit, hidden] in the original order. */
static void merge(const tower *t, int64_t steps, float *out) {
    const arena *a = &t->a;
    int64_t n = steps * t->step_rows, units = n / t->unit, wide = t->unit * t->v->hidden, hidden = t->v->out_hidden;
    mull_rmsnorm(t->pool, a->x, n, t->v->hidden, t->w->ln_q, EPS, a->norm);
    mull_matmul(t->pool, a->norm, units, wide, t->w->merge0, t->w->merge0_bias, a->qkv, wide, false);
    mull_gelu(t->pool, a->qkv, units * wide);
    for (int64_t r = 0; r < units; r += SLICE_ROWS) {
        int64_t k = least(SLICE_ROWS, units - r);
        mull_matmul(t->pool, a->qkv + r * wide, k, wide, t->w->merge2, t->w->merge2_bias, a->merged, hidden, false);
        for (int64_t i = 0; i < k; i++) {
            int64_t step = (r + i) / t->windows.units, unit = t->windows.order[(r + i) % t->windows.units];
            memcpy(out + (step * t->windows.units + unit) * hidden, a->merged + i * hidden,
                   (size_t)hidden * sizeof(float));
        }
    }
}

static void run_group(const tower *t, const float *patches, int64_t step0, int64_t steps, float *out) {
    const arena *a = &t->a;
    int64_t n = steps * t->step_rows, in = mull_vision_patch_floats(t->v), e = t->v->hidden;
    mull_matmul(t->pool, patches + step0 * t->step_rows * in, n, in, t->w->patch_embed, NULL, a->norm, e, false);
    permute(t, steps, a->x, a->norm, (size_t)(t->unit * e), false);
    show(t, step0, steps, MULL_STAGE_PATCH_EMBED, 0);
    for (int i = 0; i < t->v->depth; i++) {
        block(t, i, n);
        show(t, step0, steps, MULL_STAGE_VISION_BLOCK, i);
    }
    merge(t, steps, out + step0 * t->windows.units * t->v->out_hidden);
}

int mull_vision_encode(const mull_model *m, const float *patches, const int64_t grid[3], float *out,
                       const mull_tap *tap, mull_error *err) {
    if (m->backend) return m->backend->vision(m->state, patches, grid, out, tap, err);
    const mull_vision_config *v = &mull_model_config(m)->vision;
    tower t = {.m = m, .v = v, .w = &m->weights.vision, .pool = mull_model_pool(m), .tap = tap};
    t.step_rows = grid[1] * grid[2];
    t.unit = (int64_t)v->merge * v->merge;
    int64_t group = GROUP_ROWS / t.step_rows;
    if (group < 1) group = 1;
    if (group > grid[0]) group = grid[0];
    int rc = mull_windows_init(&t.windows, v, grid[1], grid[2], err);
    if (!rc) rc = arena_init(&t, group, err);
    for (int64_t s = 0; !rc && s < grid[0]; s += group) {
        int64_t steps = least(group, grid[0] - s);
        if (s == 0 || steps != group) prepare(&t, grid[1], grid[2], steps);
        run_group(&t, patches, s, steps, out);
    }
    arena_fini(&t.a);
    mull_windows_fini(&t.windows);
    return rc;
}
