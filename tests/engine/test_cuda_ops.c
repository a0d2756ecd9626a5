/* The CUDA ops against the CPU's, at odd sizes, between guard zones. The same file runs on a GPU (engine_test_cuda_ops,
 * skipped loudly without one) and on the emulation (tests/cuda), there in three orders of threads.
 *
 * Bounds. float32: both sides add K products in float, in different orders: K * 2^-24 of the sum of magnitudes, here
 * taken as 3e-7 * sqrt(K) * the largest product's size, which a wrong index exceeds by orders of magnitude. bf16:
 * inputs are exact on both sides, so only the output's rounding is added, 2^-8 of the value. */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "tests/engine/cuda_util.h"

static const double ROUND[] = {0, 0.00390625}; /* relative error of a stored F32, BF16 value */

static void product(mull_dtype t, mull_dtype yt, int64_t m, int64_t n, int64_t k, bool bias, bool accumulate,
                    bool few) {
    int64_t ldx = k + (k % 8 ? 3 : 8), ldy = n + 5;
    if (t == MULL_I8) ldx = k;
    mull_dtype in = t == MULL_I8 ? MULL_BF16 : t;
    float *x = gpu_random((size_t)(m * ldx), 1, 1, in), *w = gpu_random((size_t)(n * k), 2, 1, in);
    float *b = gpu_random((size_t)n, 3, 1, yt), *y = gpu_random((size_t)(m * ldy), 4, 1, yt);
    float *got = malloc((size_t)(m * ldy) * sizeof *got);
    mull_matrix *cpu;
    mull_error err = {0};
    gpu_check(mull_matrix_create(n, k, t == MULL_I8 ? MULL_WEIGHT_INT8 : MULL_WEIGHT_F32, &cpu, &err), &err);
    mull_matrix_set_rows(cpu, 0, n, w, MULL_F32);
    mull_cuda_matrix dev = {.n = n, .k = k, .type = t};
    if (t == MULL_I8) {
        int8_t *q = malloc((size_t)(n * k));
        float *scale = malloc((size_t)n * sizeof *scale);
        for (int64_t r = 0; r < n; r++) {
            float top = 0;
            for (int64_t i = 0; i < k; i++) top = fmaxf(top, fabsf(w[r * k + i]));
            for (int64_t i = 0; i < k; i++) q[r * k + i] = (int8_t)rintf(w[r * k + i] * (127.0f / top));
            scale[r] = top / 127.0f;
        }
        dev.data = gpu_bytes(q, (size_t)(n * k));
        dev.scale = gpu_floats(scale, (size_t)n, MULL_F32);
        free(q);
        free(scale);
        size_t quant, prod;
        mull_cuda_linear_scratch(m, n, k, &quant, &prod);
        gpu_check(mull_cuda_reserve(gpu, MULL_CUDA_QUANT, quant, &err), &err);
        gpu_check(mull_cuda_reserve(gpu, MULL_CUDA_PRODUCT, prod, &err), &err);
    } else {
        dev.data = gpu_floats(w, (size_t)(n * k), t);
    }
    void *dx = gpu_floats(x, (size_t)(m * ldx), in), *dy = gpu_floats(y, (size_t)(m * ldy), yt);
    void *db = gpu_floats(b, (size_t)n, yt);
    (few ? mull_cuda_gemv : mull_cuda_linear)(gpu, dx, m, ldx, &dev, bias ? db : NULL, dy, yt, ldy, accumulate);
    gpu_read(dy, (size_t)(m * ldy), yt, got);
    float *want = malloc((size_t)(m * ldy) * sizeof *want);
    memcpy(want, y, (size_t)(m * ldy) * sizeof *want);
    mull_matmul(NULL, x, m, ldx, cpu, bias ? b : NULL, want, ldy, accumulate);
    char what[96];
    snprintf(what, sizeof what, "product %s to %s %lld x %lld x %lld", mull_dtype_name(t), mull_dtype_name(yt),
             (long long)m, (long long)n, (long long)k);
    gpu_close(got, want, (size_t)(m * ldy), 3e-7 * sqrt((double)k) * 3, ROUND[yt == MULL_BF16], what);
    mull_matrix_destroy(cpu);
    gpu_done();
    free(x);
    free(w);
    free(b);
    free(y);
    free(got);
    free(want);
}

static void products(void **state) {
    (void)state;
    const int64_t sizes[][3] = {{1, 1, 1},     {1, 7, 8},    {2, 33, 264}, {3, 17, 84},
                                {5, 40, 1000}, {8, 9, 1176}, {7, 64, 48}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t *s = sizes[i];
        product(MULL_F32, MULL_F32, s[0], s[1], s[2], i % 2, i % 3 == 0, true);
        product(MULL_BF16, MULL_F32, s[0], s[1], s[2], i % 2 == 0, i % 3 == 1, true);
        product(MULL_BF16, MULL_BF16, s[0], s[1], s[2], i % 2, false, true);
    }
    /* By the number of rows: both sides of MULL_CUDA_FEW. */
    for (int64_t m = 8; m <= 9; m++)
        for (int accumulate = 0; accumulate < 2; accumulate++) {
            product(MULL_F32, MULL_F32, m, 48, 64, true, accumulate, false);
            product(MULL_BF16, MULL_F32, m, 48, 64, true, accumulate, false);
        }
    product(MULL_BF16, MULL_BF16, 37, 80, 128, true, false, false);
    for (int64_t m = 1; m <= 9; m += 4) {
        product(MULL_I8, MULL_F32, m, 33, 272, true, m == 5, false);
        product(MULL_I8, MULL_BF16, m, 16, 512, false, false, false);
    }
}

/* A row's bits are the same alone and among others. */
static void products_invariant(void **state) {
    (void)state;
    enum { M = 8, N = 21, K = 520 };
    float *x = gpu_random(M * K, 5, 1, MULL_BF16), *w = gpu_random(N * K, 6, 1, MULL_BF16);
    mull_cuda_matrix m = {.data = gpu_floats(w, N * K, MULL_BF16), .n = N, .k = K, .type = MULL_BF16};
    char *dx = gpu_floats(x, M * K, MULL_BF16), *dy = gpu_floats(NULL, M * N, MULL_F32);
    float all[M * N], one[N];
    for (int rows = 1; rows <= M; rows++) {
        mull_cuda_linear(gpu, dx, rows, K, &m, NULL, dy, MULL_F32, N, false);
        gpu_read(dy, (size_t)rows * N, MULL_F32, all);
        for (int r = 0; r < rows; r++) {
            mull_cuda_linear(gpu, dx + r * K * 2, 1, K, &m, NULL, dy, MULL_F32, N, false);
            gpu_read(dy, N, MULL_F32, one);
            assert_memory_equal(one, all + r * N, sizeof one);
        }
    }
    gpu_done();
    free(x);
    free(w);
}

static void norms(void **state) {
    (void)state;
    const int dims[] = {1, 31, 256, 1280, 4097};
    for (int type = 0; type < 2; type++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            mull_dtype t = type ? MULL_BF16 : MULL_F32;
            enum { M = 5 };
            size_t d = (size_t)dims[i];
            const int32_t rows[] = {4, 0, 0, 2};
            float *x = gpu_random(M * d, 7, 3, MULL_F32), *w = gpu_random(d, 8, 1, MULL_F32);
            float *want = malloc(M * d * sizeof *want), *got = malloc(M * d * sizeof *got);
            void *dx = gpu_floats(x, M * d, MULL_F32), *dw = gpu_floats(w, d, MULL_F32),
                 *dy = gpu_floats(NULL, M * d, t);
            mull_rmsnorm(NULL, x, M, (int64_t)d, w, 1e-6f, want);
            mull_cuda_rmsnorm(gpu, dx, NULL, M, (int64_t)d, dw, 1e-6f, dy, t);
            gpu_read(dy, M * d, t, got);
            /* d/256 additions in sequence and 13 tree steps on one side, d/16 on the other, each within 2^-24 */
            gpu_close(got, want, M * d, 0, 2e-5 + ROUND[type], "rmsnorm");
            mull_cuda_rmsnorm(gpu, dx, gpu_bytes(rows, sizeof rows), 4, (int64_t)d, dw, 1e-6f, dy, t);
            float *picked = malloc(4 * d * sizeof *picked);
            gpu_read(dy, 4 * d, t, picked);
            for (int r = 0; r < 4; r++)
                assert_memory_equal(picked + (size_t)r * d, got + (size_t)rows[r] * d, d * sizeof *got);
            gpu_done();
            free(picked);
            free(x);
            free(w);
            free(want);
            free(got);
        }
}

static void activations(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++) {
        mull_dtype t = type ? MULL_BF16 : MULL_F32;
        enum { M = 3, F = 427 };
        float *x = gpu_random(M * 2 * F, 9, 12, t), want[M * F], got[M * 2 * F];
        void *dx = gpu_floats(x, M * 2 * F, t), *dy = gpu_floats(NULL, M * F, t);
        mull_swiglu(NULL, x, M, F, want);
        mull_cuda_swiglu(gpu, dx, M, F, dy, t);
        gpu_read(dy, M * F, t, got);
        gpu_close(got, want, M * F, 2e-6, 1e-6 + ROUND[type], "swiglu");
        mull_cuda_gelu(gpu, dx, M * 2 * F, t);
        gpu_read(dx, M * 2 * F, t, got);
        mull_gelu(NULL, x, M * 2 * F);
        gpu_close(got, x, M * 2 * F, 2e-6, 1e-6 + ROUND[type], "gelu");
        gpu_done();
        free(x);
    }
}

static void embeddings(void **state) {
    (void)state;
    for (int type = 0; type < 2; type++) {
        mull_dtype t = type ? MULL_BF16 : MULL_F32;
        enum { V = 11, D = 67, M = 6 };
        const int32_t ids[M] = {10, 0, 3, 3, 7, 1};
        float *table = gpu_random(V * D, 10, 1, t), *feature = gpu_random(2 * D, 11, 1, MULL_F32), got[M * D];
        const float *df = gpu_floats(feature, 2 * D, MULL_F32), *at[M] = {NULL, df + D, NULL, NULL, df, NULL};
        void *dt = gpu_floats(table, V * D, t), *di = gpu_bytes(ids, sizeof ids);
        void *dp = gpu_bytes(at, sizeof at), *dx = gpu_floats(NULL, M * D, MULL_F32);
        mull_cuda_embed(gpu, dt, t, di, dp, M, D, dx);
        gpu_read(dx, M * D, MULL_F32, got);
        for (int r = 0; r < M; r++)
            assert_memory_equal(got + r * D, r == 1 ? feature + D : r == 4 ? feature : table + ids[r] * D, D * 4);
        mull_cuda_embed(gpu, dt, t, di, NULL, M, D, dx);
        gpu_read(dx, M * D, MULL_F32, got);
        for (int r = 0; r < M; r++) assert_memory_equal(got + r * D, table + ids[r] * D, D * 4);
        /* Conversion rounds to nearest even, as the host's. */
        void *dy = gpu_floats(NULL, M * D, t);
        mull_cuda_convert(gpu, df, 2 * D, dy, t);
        gpu_read(dy, 2 * D, t, got);
        for (int i = 0; i < 2 * D; i++)
            assert_true(got[i] == (type ? mull_bf16_to_f32(mull_f32_to_bf16(feature[i])) : feature[i]));
        gpu_done();
        free(table);
        free(feature);
    }
}

static void permutations(void **state) {
    (void)state;
    enum { U = 7, S = 3, D = 45 };
    const int32_t order[U] = {3, 1, 6, 0, 2, 5, 4};
    float *x = gpu_random(U * S * D, 12, 1, MULL_F32), got[U * S * D];
    void *dx = gpu_floats(x, U * S * D, MULL_F32), *dy = gpu_floats(NULL, U * S * D, MULL_F32);
    void *dz = gpu_floats(NULL, U * S * D, MULL_F32), *di = gpu_bytes(order, sizeof order);
    mull_cuda_permute(gpu, dx, di, U, S, D, false, dy);
    gpu_read(dy, U * S * D, MULL_F32, got);
    for (int s = 0; s < S; s++)
        for (int u = 0; u < U; u++) assert_memory_equal(got + (s * U + u) * D, x + (s * U + order[u]) * D, D * 4);
    mull_cuda_permute(gpu, dy, di, U, S, D, true, dz);
    gpu_read(dz, U * S * D, MULL_F32, got);
    assert_memory_equal(got, x, sizeof got);
    gpu_done();
    free(x);
}

static void ropes(void **state) {
    (void)state;
    enum { M = 5, HEADS = 3, HD = 24, HALF = HD / 2, LD = HEADS * HD + 10 };
    const int32_t pos[3 * M] = {0, 1, 700, 32000, 127999, 0, 1, 3, 32000, 9, 0, 2, 5, 7, 127999};
    uint8_t axis[HALF];
    float inv[HALF], cos_[M * HALF], sin_[M * HALF], c[M * HALF], s[M * HALF], got[M * LD];
    for (int i = 0; i < HALF; i++) {
        axis[i] = (uint8_t)(i / 4);
        inv[i] = 1.0f / powf(1e6f, (float)(2 * i) / HD);
    }
    for (int r = 0; r < M; r++)
        for (int i = 0; i < HALF; i++) {
            float angle = inv[i] * (float)pos[axis[i] * M + r];
            c[r * HALF + i] = cosf(angle);
            s[r * HALF + i] = sinf(angle);
        }
    void *dc = gpu_floats(NULL, M * HALF, MULL_F32), *ds = gpu_floats(NULL, M * HALF, MULL_F32);
    mull_cuda_mrope_table(gpu, gpu_bytes(pos, sizeof pos), M, M, gpu_floats(inv, HALF, MULL_F32),
                          gpu_bytes(axis, sizeof axis), HALF, dc, ds);
    gpu_read(dc, M * HALF, MULL_F32, cos_);
    gpu_read(ds, M * HALF, MULL_F32, sin_);
    gpu_close(cos_, c, M * HALF, 3e-7, 0, "cosines"); /* 2 units in the last place of 1 */
    gpu_close(sin_, s, M * HALF, 3e-7, 0, "sines");
    for (int type = 0; type < 2; type++) {
        mull_dtype t = type ? MULL_BF16 : MULL_F32;
        float *x = gpu_random(M * LD, 13, 2, t);
        void *dx = gpu_floats(x, M * LD, t);
        mull_cuda_rope(gpu, dx, M, LD, HEADS, HD, dc, ds, t);
        gpu_read(dx, M * LD, t, got);
        mull_rope(NULL, x, M, LD, HEADS, HD, cos_, sin_);
        gpu_close(got, x, M * LD, 5e-7, 1e-6 + ROUND[type], "rope");
        free(x);
    }
    gpu_done();
}

/* NaN of an input shows, and only where it belongs. */
static void not_a_number(void **state) {
    (void)state;
    enum { D = 512 };
    float *x = gpu_random(2 * D, 14, 1, MULL_F32), w[D], got[2 * D];
    for (int i = 0; i < D; i++) w[i] = 1;
    x[300] = NAN;
    void *dx = gpu_floats(x, 2 * D, MULL_F32), *dw = gpu_floats(w, D, MULL_F32),
         *dy = gpu_floats(NULL, 2 * D, MULL_F32);
    mull_cuda_rmsnorm(gpu, dx, NULL, 2, D, dw, 1e-6f, dy, MULL_F32);
    gpu_read(dy, 2 * D, MULL_F32, got);
    for (int i = 0; i < D; i++) assert_true(isnan(got[i]) && isfinite(got[D + i]));
    void *dh = gpu_floats(x, 2 * D, MULL_BF16), *dq = gpu_bytes(NULL, 2 * D), *dscale = gpu_floats(NULL, 2, MULL_F32);
    float scale[2];
    mull_cuda_quantise(gpu, dh, 2, D, D, dq, dscale);
    gpu_read(dscale, 2, MULL_F32, scale);
    assert_true(isnan(scale[0]) && isfinite(scale[1]));
    gpu_done();
    free(x);
}

/* Errors are kept with the op and its shape and stop what follows. Last: the context stays failed. */
static void errors(void **state) {
    (void)state;
    mull_error err = {0};
    mull_cuda_rmsnorm(gpu, NULL, NULL, 0, 8, NULL, 1e-6f, NULL, MULL_F32); /* nothing to do is fine */
    gpu_check(mull_cuda_sync(gpu, &err), &err);
    mull_cuda *other;
    gpu_check(mull_cuda_open(0, &other, &err), &err);
    mull_cuda_rmsnorm(other, NULL, NULL, INT64_C(1) << 40, 8, NULL, 1e-6f, NULL, MULL_F32);
    assert_true(mull_cuda_failed(other));
    mull_cuda_swiglu(other, NULL, 3, 3, NULL, MULL_F32); /* would fault if it ran */
    assert_int_equal(mull_cuda_sync(other, &err), MULL_ELIMIT);
    assert_string_equal(err.where, "rmsnorm");
    mull_cuda_close(other);
    assert_int_equal(mull_cuda_open(99, &other, &err), MULL_EARG);
    assert_null(other);
    void *p;
    assert_int_equal(mull_cuda_alloc(gpu, (size_t)1 << 50, "a test", &p, &err), MULL_ENOMEM);
    assert_non_null(strstr(err.why, "are needed"));
    assert_null(mull_cuda_scratch(gpu, MULL_CUDA_SAMPLE, (size_t)1 << 50));
    assert_int_equal(mull_cuda_sync(gpu, &err), MULL_EINTERNAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),    cmocka_unit_test(products_invariant), cmocka_unit_test(norms),
        cmocka_unit_test(activations), cmocka_unit_test(embeddings),         cmocka_unit_test(permutations),
        cmocka_unit_test(ropes),       cmocka_unit_test(not_a_number),       cmocka_unit_test(errors),
    };
    return gpu_main(tests, sizeof tests / sizeof *tests, "The CUDA ops were");
}
#else
int main(void) {
    puts("SKIPPED: built without CUDA");
    return 77;
}
#endif
