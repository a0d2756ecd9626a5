/* The CUDA operations of training against the CPU's, whose gradients stand on finite differences
 * (test_ops_backward.c); see test_cuda_ops.c for how and where it runs.
 *
 * Bounds. float32: both sides add the same numbers in different orders: a few units of 2^-24 for each of the sums of up
 * to a few hundred terms, so 2e-5 of the largest result; a wrong index or sign gives about 1. bf16: operands are exact
 * on both sides; weights (p, ds) and results are rounded to 8 bits, 2^-8 of the largest result. */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "tests/engine/cuda_util.h"

#include "engine/ops/backward.h"
#include "engine/ops/cuda_train.h"
#include "engine/ops/gemm.h"
#include "engine/ops/kernels.h"

static float largest(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* Element by element, relative to the largest. */
static void close_to(const float *got, const float *want, size_t n, double bound, const char *what) {
    gpu_close(got, want, n, bound * fmax(1e-6, (double)largest(want, n)), 0, what);
}

static void products(void **state) {
    (void)state;
    const int64_t sizes[][3] = {{1, 5, 7}, {33, 24, 17}, {9, 70, 130}};
    for (int i = 0; i < 3; i++)
        for (int how = 0; how < 32; how++) {
            bool a_t = how & 1, b_t = how & 2, half = how & 4, accumulate = how & 8, bias = how & 16;
            mull_dtype t = half ? MULL_BF16 : MULL_F32;
            int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
            int64_t lda = (a_t ? m : k) + 3, ldb = (b_t ? k : n) + 1, ldy = n + 2;
            size_t na = (size_t)(lda * (a_t ? k : m)), nb = (size_t)(ldb * (b_t ? n : k)), ny = (size_t)(ldy * m);
            float *a = gpu_random(na, 1, 1, t), *b = gpu_random(nb, 2, 1, t), *y = gpu_random(ny, 3, 1, MULL_F32),
                  *v = gpu_random((size_t)n, 4, 1, MULL_F32), *got = malloc(ny * sizeof *got);
            void *dy = gpu_floats(y, ny, MULL_F32);
            mull_cuda_product p = {.m = m,
                                   .n = n,
                                   .k = k,
                                   .type = t,
                                   .a = gpu_floats(a, na, t),
                                   .lda = lda,
                                   .a_t = a_t,
                                   .b = gpu_floats(b, nb, t),
                                   .ldb = ldb,
                                   .b_t = b_t,
                                   .bias = bias ? gpu_floats(v, (size_t)n, MULL_F32) : NULL,
                                   .y = dy,
                                   .y_type = MULL_F32,
                                   .ldy = ldy,
                                   .accumulate = accumulate};
            mull_gemm_job j = {.m = m,
                               .n = n,
                               .k = k,
                               .a = a,
                               .lda = lda,
                               .a_t = a_t,
                               .b = b,
                               .ldb = ldb,
                               .b_t = b_t,
                               .b_type = MULL_F32,
                               .bias = bias ? v : NULL,
                               .c = y,
                               .ldc = ldy,
                               .accumulate = accumulate};
            mull_cuda_multiply(gpu, &p);
            gpu_read(dy, ny, MULL_F32, got);
            mull_gemm(NULL, &j);
            close_to(got, y, ny, 5e-6, "product");
            gpu_done();
            free(a), free(b), free(y), free(v), free(got);
        }
}

static void norms(void **state) {
    (void)state;
    const int64_t sizes[][2] = {{1, 8}, {5, 67}, {33, 300}, {2100, 40}};
    for (int i = 0; i < 4; i++)
        for (int weight = 0; weight < 2; weight++) {
            int64_t m = sizes[i][0], d = sizes[i][1];
            size_t n = (size_t)(m * d);
            float *x = gpu_random(n, 5, 2, MULL_F32), *w = gpu_random((size_t)d, 6, 1, MULL_F32),
                  *dy = gpu_random(n, 7, 1, MULL_F32), *dx = gpu_random(n, 8, 1, MULL_F32),
                  *dw = gpu_random((size_t)d, 9, 1, MULL_F32), *got = malloc(n * sizeof *got),
                  *partial = malloc((size_t)(MULL_DW_PARTS * d) * sizeof *partial);
            void *ddx = gpu_floats(dx, n, MULL_F32), *ddw = gpu_floats(dw, (size_t)d, MULL_F32);
            mull_cuda_rmsnorm_backward(gpu, gpu_floats(x, n, MULL_F32), m, d, gpu_floats(w, (size_t)d, MULL_F32), 1e-6f,
                                       gpu_floats(dy, n, MULL_F32), ddx, weight ? ddw : NULL,
                                       gpu_floats(NULL, (size_t)(m + MULL_CUDA_SUM_PARTS * d), MULL_F32));
            mull_rmsnorm_backward(NULL, x, m, d, w, 1e-6f, dy, dx, weight ? dw : NULL, partial);
            gpu_read(ddx, n, MULL_F32, got);
            close_to(got, dx, n, 2e-6, "rmsnorm's dx");
            gpu_read(ddw, (size_t)d, MULL_F32, got);
            close_to(got, dw, (size_t)d, 5e-6, "rmsnorm's dw");
            gpu_done();
            free(x), free(w), free(dy), free(dx), free(dw), free(got), free(partial);
        }
}

static void columns(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++)
        for (int64_t m = 1; m < 3000; m = m * 7 + 2) {
            enum { N = 300, LD = 311 };
            mull_dtype t = type ? MULL_BF16 : MULL_F32;
            float *x = gpu_random((size_t)(m * LD), 10, 1, t), sum[N], got[N];
            for (int i = 0; i < N; i++) sum[i] = (float)i;
            void *ds = gpu_floats(sum, N, MULL_F32);
            mull_cuda_column_sum(gpu, gpu_floats(x, (size_t)(m * LD), t), t, m, LD, N, ds,
                                 gpu_floats(NULL, MULL_CUDA_SUM_PARTS * N, MULL_F32));
            gpu_read(ds, N, MULL_F32, got);
            mull_bias_backward(NULL, x, m, LD, N, sum);
            close_to(got, sum, N, 2e-6, "column sums");
            gpu_done();
            free(x);
        }
}

static void activations(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++) {
        mull_dtype t = type ? MULL_BF16 : MULL_F32;
        enum { M = 3, F = 427, N = M * F, HEADS = 3, HD = 24, LD = HEADS * HD + 10, ROPE = M * LD };
        float *x = gpu_random(2 * N, 11, 8, t), *dy = gpu_random(N, 12, 1, t), want[2 * N], got[2 * N];
        void *dx = gpu_floats(x, 2 * N, t);
        mull_cuda_swiglu_backward(gpu, dx, M, F, gpu_floats(dy, N, t), dx, t);
        gpu_read(dx, 2 * N, t, got);
        mull_swiglu_backward(NULL, x, M, F, dy, want);
        gpu_close(got, want, 2 * N, 2e-6, type ? 0.00390625 : 2e-6, "swiglu's backward");
        mull_cuda_scale(gpu, dx, 2 * N, 0.5f, t);
        float half[2 * N];
        gpu_read(dx, 2 * N, t, half);
        for (int i = 0; i < 2 * N; i++) assert_true(half[i] == got[i] * 0.5f);
        void *dg = gpu_floats(dy, N, t);
        mull_cuda_gelu_backward(gpu, gpu_floats(x, N, t), N, dg, dg, t);
        gpu_read(dg, N, t, got);
        mull_gelu_backward(NULL, x, N, dy, want);
        gpu_close(got, want, N, 2e-6, type ? 0.00390625 : 2e-6, "gelu's backward");
        gpu_done();
        free(x), free(dy);
        /* Turned and turned back is what it was. */
        float *r = gpu_random(ROPE, 13, 1, t), cos_[M * HD / 2], sin_[M * HD / 2], back[ROPE];
        for (int i = 0; i < M * HD / 2; i++) cos_[i] = cosf((float)i), sin_[i] = sinf((float)i);
        void *dr = gpu_floats(r, ROPE, t), *dc = gpu_floats(cos_, M * HD / 2, MULL_F32),
             *ds = gpu_floats(sin_, M * HD / 2, MULL_F32);
        mull_cuda_rope(gpu, dr, M, LD, HEADS, HD, dc, ds, t);
        mull_cuda_rope_backward(gpu, dr, M, LD, HEADS, HD, dc, ds, t);
        gpu_read(dr, ROPE, t, back);
        gpu_close(back, r, ROPE, type ? 1.2e-2 : 5e-7, 0, "rope back"); /* bf16: two values rounded twice */
        gpu_done();
        free(r);
    }
}

/* Rows with one target are added in order, wherever they stand; those without a target are left out. */
static void scatter(void **state) {
    (void)state;
    enum { N = 11, D = 70, V = 6 };
    const int32_t ids[N] = {3, 0, 3, -1, 5, 3, 0, -1, 5, 2, 3};
    int32_t order[N], starts[N + 1], targets[N];
    mull_cuda_groups g = {order, starts, targets, 0};
    assert_int_equal(mull_cuda_group(ids, N, &g), 0);
    assert_int_equal(g.n, 4);
    const int32_t want_targets[] = {0, 2, 3, 5}, want_order[] = {1, 6, 9, 0, 2, 5, 10, 4, 8};
    assert_memory_equal(targets, want_targets, sizeof want_targets);
    assert_memory_equal(order, want_order, sizeof want_order);
    assert_int_equal(starts[4], 9);
    float *src = gpu_random(N * D, 14, 1, MULL_F32), *dst = gpu_random(V * D, 15, 1, MULL_F32), got[V * D];
    void *out = gpu_floats(dst, V * D, MULL_F32);
    mull_cuda_groups dev = {gpu_bytes(order, sizeof order), gpu_bytes(starts, sizeof starts),
                            gpu_bytes(targets, sizeof targets), g.n};
    mull_cuda_scatter_add(gpu, gpu_floats(src, N * D, MULL_F32), &dev, D, out);
    gpu_read(out, V * D, MULL_F32, got);
    for (int i = 0; i < N; i++)
        for (int d = 0; ids[i] >= 0 && d < D; d++) dst[ids[i] * D + d] += src[i * D + d];
    assert_memory_equal(got, dst, sizeof got);
    assert_int_equal(mull_cuda_group(NULL, 0, &g), 0);
    assert_int_equal(g.n, 0);
    gpu_done();
    free(src), free(dst);
}

/* Forward with its log-sums, then all three gradients, against attention_train.c. */
static void attention(mull_dtype t, int heads, int kv_heads, int hd, bool causal, bool simple) {
    const int lengths[] = {1, 70, 0, 5, 133};
    enum { NSEQ = 5, ROWS = 209 };
    int64_t q = (int64_t)heads * hd, kv = (int64_t)kv_heads * hd, ld = q + 2 * kv;
    size_t n = (size_t)(ROWS * ld), no = (size_t)(ROWS * q), nl = (size_t)(heads * ROWS);
    int32_t cu[NSEQ + 1] = {0};
    mull_cuda_seq seqs[NSEQ];
    for (int s = 0; s < NSEQ; s++) {
        seqs[s] = (mull_cuda_seq){.row0 = cu[s], .rows = lengths[s]};
        cu[s + 1] = cu[s] + lengths[s];
    }
    assert_int_equal(cu[NSEQ], ROWS);
    float scale = 1.0f / sqrtf((float)hd);
    float *x = gpu_random(n, 16, 1, t), *dout = gpu_random(no, 17, 1, t);
    float *out = malloc(no * 4), *lse = malloc(nl * 4), *dx = malloc(n * 4), *got = malloc(n * 4);
    mull_attn_shape shape = {
        .cu = cu, .nseq = NSEQ, .heads = heads, .kv_heads = kv_heads, .hd = hd, .causal = causal, .scale = scale};
    float *room = malloc((size_t)(mull_attention_scratch(&shape, ROWS) + 1) * 4);
    mull_attention_train(NULL, &shape, x, x + q, x + q + kv, ld, out, q, lse);
    mull_attention_backward(NULL, &shape, x, x + q, x + q + kv, ld, out, dout, q, lse, dx, dx + q, dx + q + kv, ld,
                            room);
    gpu_plan p = gpu_make_plan(seqs, NSEQ, heads / kv_heads, causal, kv_heads, hd);
    assert_int_equal(p.plan.parts, 0);
    int32_t nkeys = mull_cuda_plan_keys(seqs, NSEQ, NULL);
    mull_cuda_work *keys = malloc((size_t)nkeys * sizeof *keys);
    assert_int_equal(mull_cuda_plan_keys(seqs, NSEQ, keys), nkeys);
    size_t size = mull_dtype_size(t);
    char *dqkv = gpu_floats(x, n, t), *dgrad = gpu_floats(NULL, n, t);
    void *dev_out = gpu_floats(NULL, no, t), *dev_lse = gpu_floats(NULL, nl, MULL_F32);
    mull_cuda_attention a = {.t = t,
                             .q = dqkv,
                             .ldq = ld,
                             .k = dqkv + (size_t)q * size,
                             .v = dqkv + (size_t)(q + kv) * size,
                             .ldkv = ld,
                             .kv_heads = kv_heads,
                             .heads = heads,
                             .hd = hd,
                             .causal = causal,
                             .scale = scale,
                             .seqs = p.seqs,
                             .work = p.work,
                             .joins = p.joins,
                             .plan = p.plan,
                             .out = dev_out,
                             .ldo = q,
                             .lse = dev_lse,
                             .lse_rows = ROWS,
                             .simple = simple};
    mull_cuda_attend(gpu, &a);
    bool half = t == MULL_BF16;
    gpu_read(dev_out, no, t, got);
    close_to(got, out, no, half ? 1e-2 : 4e-6, "attention");
    gpu_read(dev_lse, nl, MULL_F32, got);
    close_to(got, lse, nl, 2e-6, "attention's log-sums");
    mull_cuda_attention_grad g = {.t = t,
                                  .q = a.q,
                                  .k = a.k,
                                  .v = a.v,
                                  .ld = ld,
                                  .out = dev_out,
                                  .dout = gpu_floats(dout, no, t),
                                  .ldo = q,
                                  .lse = dev_lse,
                                  .dq = dgrad,
                                  .dk = dgrad + (size_t)q * size,
                                  .dv = dgrad + (size_t)(q + kv) * size,
                                  .ldd = ld,
                                  .heads = heads,
                                  .kv_heads = kv_heads,
                                  .hd = hd,
                                  .causal = causal,
                                  .scale = scale,
                                  .rows = ROWS,
                                  .seqs = p.seqs,
                                  .work = p.work,
                                  .nwork = p.plan.wide + p.plan.few,
                                  .key_work = gpu_bytes(keys, (size_t)nkeys * sizeof *keys),
                                  .nkey_work = nkeys,
                                  .delta = gpu_floats(NULL, nl, MULL_F32),
                                  .simple = simple};
    mull_cuda_attend_backward(gpu, &g);
    gpu_read(dgrad, n, t, got);
    char what[96];
    snprintf(what, sizeof what, "attention's backward %s %d/%d heads of %d%s%s", mull_dtype_name(t), heads, kv_heads,
             hd, causal ? " causal" : "", simple ? " simple" : "");
    close_to(got, dx, n, half ? 1.2e-2 : 1e-5, what);
    /* The same bits once more. */
    float *again = malloc(n * 4);
    mull_cuda_attend_backward(gpu, &g);
    gpu_read(dgrad, n, t, again);
    assert_memory_equal(again, got, n * 4);
    gpu_done();
    free(x), free(dout), free(out), free(lse), free(dx), free(got), free(room), free(keys), free(again);
}

static void attentions(void **state) {
    (void)state;
    for (int causal = 0; causal < 2; causal++) {
        attention(MULL_F32, 4, 2, 16, causal, false);
        attention(MULL_F32, 3, 3, 20, causal, false);
        attention(MULL_BF16, 4, 1, 24, causal, false);
        attention(MULL_BF16, 4, 2, 64, causal, true);
        attention(MULL_BF16, 4, 2, 64, causal, false);
        attention(MULL_BF16, 2, 2, 80, causal, false);
    }
    attention(MULL_BF16, 7, 1, 128, true, false);
    attention(MULL_F32, 2, 1, 256, true, false);
}

/* Against double precision: the CPU's own head is part of the net. */
static void head(void **state) {
    (void)state;
    const double temperatures[] = {1, 0.7};
    for (int type = 0; type < 2; type++)
        for (int how = 0; how < 2; how++) {
            enum { N = 3, V = 1700 };
            mull_dtype t = type ? MULL_BF16 : MULL_F32;
            double temperature = temperatures[how], logp[N], entropy[N], got_logp[N], got_entropy[N];
            float *x = gpu_random(N * V, 18, 20, MULL_F32), *want = malloc(N * V * 4), *got = malloc(N * V * 4);
            const int32_t targets[N] = {0, V - 1, 700};
            const float coef[N] = {-0.5f, 2, 0};
            float mul = (float)(1 / temperature);
            for (int r = 0; r < N; r++) {
                double top = -INFINITY, sum = 0, dot = 0;
                for (int i = 0; i < V; i++) top = fmax(top, (double)x[r * V + i] * mul);
                for (int i = 0; i < V; i++) {
                    double z = (double)x[r * V + i] * mul - top;
                    sum += exp(z);
                    dot += exp(z) * z;
                }
                logp[r] = (double)x[r * V + targets[r]] * mul - top - log(sum);
                entropy[r] = log(sum) - dot / sum;
                for (int i = 0; i < V; i++)
                    want[r * V + i] = (float)(coef[r] / temperature *
                                              ((i == targets[r]) - exp((double)x[r * V + i] * mul - top) / sum));
            }
            void *dx = gpu_floats(x, N * V, MULL_F32), *dt = gpu_bytes(targets, sizeof targets),
                 *top = gpu_floats(NULL, N, MULL_F32), *sum = gpu_floats(NULL, N, MULL_F32),
                 *dl = gpu_bytes(NULL, sizeof logp), *de = gpu_bytes(NULL, sizeof entropy),
                 *dd = type ? gpu_floats(NULL, N * V, t) : dx;
            mull_error err = {0};
            mull_cuda_log_softmax(gpu, dx, N, V, dt, temperature, top, sum, dl, how ? de : NULL);
            gpu_check(mull_cuda_get(gpu, got_logp, dl, sizeof logp, &err), &err);
            if (how) gpu_check(mull_cuda_get(gpu, got_entropy, de, sizeof entropy, &err), &err);
            for (int r = 0; r < N; r++) {
                /* exponents of up to 60 are rounded to float32: 60 * 2^-24 */
                if (!(fabs(got_logp[r] - logp[r]) <= 4e-6)) fail_msg("logp %g, not %g", got_logp[r], logp[r]);
                if (how && !(fabs(got_entropy[r] - entropy[r]) <= 2e-5))
                    fail_msg("entropy %g, not %g", got_entropy[r], entropy[r]);
            }
            mull_cuda_log_softmax_backward(gpu, dx, N, V, dt, temperature, top, sum, gpu_floats(coef, N, MULL_F32), dd,
                                           t);
            gpu_read(dd, N * V, t, got);
            gpu_close(got, want, N * V, 1e-7, type ? 0.0040 : 1e-5, "log softmax's backward");
            gpu_done();
            free(x), free(want), free(got);
        }
    /* NaN in a row shows there and only there. */
    enum { S = 600 };
    float *x = gpu_random(2 * S, 19, 1, MULL_F32);
    x[300] = NAN;
    const int32_t targets[2] = {1, 2};
    double logp[2];
    mull_error err = {0};
    void *dl = gpu_bytes(NULL, sizeof logp);
    mull_cuda_log_softmax(gpu, gpu_floats(x, 2 * S, MULL_F32), 2, S, gpu_bytes(targets, sizeof targets), 1,
                          gpu_floats(NULL, 2, MULL_F32), gpu_floats(NULL, 2, MULL_F32), dl, NULL);
    gpu_check(mull_cuda_get(gpu, logp, dl, sizeof logp, &err), &err);
    assert_true(isnan(logp[0]) && isfinite(logp[1]));
    gpu_done();
    free(x);
}

static double cosine_of(const float *a, const float *b, int n) {
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < n; i++) ab += (double)a[i] * b[i], aa += (double)a[i] * a[i], bb += (double)b[i] * b[i];
    return ab / (fmax(sqrt(aa), 1e-8) * fmax(sqrt(bb), 1e-8));
}

/* Its gradient against differences in double precision. */
static void cosines(void **state) {
    (void)state;
    enum { N = 3, D = 333 };
    float *a = gpu_random(N * D, 20, 1, MULL_F32), *b = gpu_random(N * D, 21, 1, MULL_F32), got[N * D];
    memset(b + D, 0, D * sizeof *b); /* as torch: 0 with a zero vector */
    const double scale[N] = {1, -2, 0.25};
    double cos_[N];
    mull_error err = {0};
    float *zero = calloc(N * D, sizeof *zero);
    void *da = gpu_floats(zero, N * D, MULL_F32), *dc = gpu_bytes(NULL, sizeof cos_);
    void *dev_a = gpu_floats(a, N * D, MULL_F32), *dev_b = gpu_floats(b, N * D, MULL_F32);
    mull_cuda_cosine(gpu, dev_a, dev_b, N, D, gpu_bytes(scale, sizeof scale), da, dc);
    gpu_check(mull_cuda_get(gpu, cos_, dc, sizeof cos_, &err), &err);
    gpu_read(da, N * D, MULL_F32, got);
    for (int r = 0; r < N; r++) {
        float *x = a + r * D;
        assert_true(fabs(cos_[r] - cosine_of(x, b + r * D, D)) <= 1e-12);
        for (int i = 0; i < D; i += 37) {
            float keep = x[i], step = 1e-3f;
            x[i] = keep + step;
            float up = x[i];
            double high = cosine_of(x, b + r * D, D);
            x[i] = keep - step;
            double slope = (high - cosine_of(x, b + r * D, D)) / ((double)up - (double)x[i]);
            x[i] = keep;
            if (!(fabs((double)got[r * D + i] - scale[r] * slope) <= 1e-7)) /* step^2 / 6 of a third derivative */
                fail_msg("slope %g, not %g", (double)got[r * D + i], scale[r] * slope);
        }
    }
    gpu_done();
    free(a), free(b), free(zero);
}

/* Three steps of several tensors, one of them frozen, with and without clipping; then a gradient that is not finite. */
static void adamw(void **state) {
    (void)state;
    enum { COUNT = 70000, TRAINED = 69900, STEPS = 3 };
    for (int clip = 0; clip < 2; clip++) {
        float *w = gpu_random(COUNT, 22, 1, MULL_F32), *g = gpu_random(TRAINED, 23, 1, MULL_F32);
        float *m = calloc(TRAINED, 4), *v = calloc(TRAINED, 4), *got = malloc(COUNT * 4);
        uint16_t *half = malloc(COUNT * 2), *got_half = malloc(COUNT * 2);
        for (int i = 0; i < COUNT; i++) half[i] = mull_f32_to_bf16(w[i]);
        /* [0, 40) decays, [40, 140) is frozen, [140, ..) does not decay and takes several pieces */
        mull_cuda_piece pieces[8] = {{.count = 40, .decay = 1}};
        int n = 1;
        for (int at = 40; at < TRAINED; at += MULL_CUDA_PIECE, n++)
            pieces[n] = (mull_cuda_piece){
                .w = at + 100, .at = at, .count = TRAINED - at < MULL_CUDA_PIECE ? TRAINED - at : MULL_CUDA_PIECE};
        mull_cuda_adamw o = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1, .scale = 0.25};
        o.max_grad_norm = clip ? 1 : 0;
        mull_cuda_adamw_state s = {0};
        void *dev_s = gpu_bytes(&s, sizeof s), *dw = gpu_floats(w, COUNT, MULL_F32), *dg, *dm, *dv, *dh, *dp, *partial;
        dg = gpu_floats(g, TRAINED, MULL_F32);
        dm = gpu_floats(m, TRAINED, MULL_F32);
        dv = gpu_floats(v, TRAINED, MULL_F32);
        dh = gpu_bytes(half, COUNT * 2);
        dp = gpu_bytes(pieces, (size_t)n * sizeof *pieces);
        partial = gpu_bytes(NULL, (size_t)n * sizeof(double));
        mull_error err = {0};
        for (int step = 1; step <= STEPS; step++) {
            mull_cuda_adamw_step(gpu, dp, n, &o, dev_s, dw, dh, dg, dm, dv, partial);
            double norm = sqrt(mull_kernels_get()->square_sum(g, TRAINED)) * o.scale,
                   factor = clip ? fmin(1, 1 / (norm + 1e-6)) : 1;
            mull_adamw k = {.clip = (float)(o.scale * factor),
                            .keep = (float)(1 - o.lr * o.weight_decay),
                            .beta2 = (float)o.beta2,
                            .one_beta1 = (float)(1 - o.beta1),
                            .one_beta2 = (float)(1 - o.beta2),
                            .step = (float)(o.lr / (1 - pow(o.beta1, step))),
                            .inv_root = (float)(1 / sqrt(1 - pow(o.beta2, step))),
                            .eps = (float)o.eps};
            mull_kernels_get()->adamw(w, g, m, v, 40, &k);
            k.keep = 1;
            mull_kernels_get()->adamw(w + 140, g + 40, m + 40, v + 40, TRAINED - 40, &k);
            gpu_check(mull_cuda_get(gpu, &s, dev_s, sizeof s, &err), &err);
            assert_true(fabs(s.norm - norm) <= 1e-6 * norm && fabs(s.clip - factor) <= 1e-6);
            assert_int_equal(s.applied, step);
            assert_int_equal(s.skipped, 0);
        }
        gpu_read(dw, COUNT, MULL_F32, got);
        close_to(got, w, COUNT, 1e-6, "weights"); /* a step differs by its last bits */
        gpu_check(mull_cuda_get(gpu, got_half, dh, COUNT * 2, &err), &err);
        for (int i = 0; i < COUNT; i++) assert_int_equal(got_half[i], mull_f32_to_bf16(got[i]));
        gpu_read(dm, TRAINED, MULL_F32, got);
        close_to(got, m, TRAINED, 1e-6, "first moments");
        gpu_read(dv, TRAINED, MULL_F32, got);
        close_to(got, v, TRAINED, 1e-6, "second moments");
        gpu_read(dw, COUNT, MULL_F32, got);
        float bad = INFINITY;
        mull_cuda_put(gpu, (float *)dg + 60000, &bad, sizeof bad);
        mull_cuda_adamw_step(gpu, dp, n, &o, dev_s, dw, dh, dg, dm, dv, partial);
        gpu_check(mull_cuda_get(gpu, &s, dev_s, sizeof s, &err), &err);
        assert_int_equal(s.skipped, 1);
        assert_int_equal(s.applied, STEPS);
        gpu_read(dw, COUNT, MULL_F32, w);
        assert_memory_equal(w, got, COUNT * 4);
        gpu_done();
        free(w), free(g), free(m), free(v), free(got), free(half), free(got_half);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),    cmocka_unit_test(norms),   cmocka_unit_test(columns),
        cmocka_unit_test(activations), cmocka_unit_test(scatter), cmocka_unit_test(attentions),
        cmocka_unit_test(head),        cmocka_unit_test(cosines), cmocka_unit_test(adamw)};
    return gpu_main(tests, sizeof tests / sizeof *tests, "The CUDA operations of training were");
}
#else
int main(void) {
    puts("SKIPPED: built without CUDA");
    return 77;
}
#endif
