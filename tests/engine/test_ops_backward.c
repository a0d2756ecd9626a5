/* Every backward operation against central differences of a double forward, on every instruction set. */
#include "tests/engine/backward_util.h"

#include "engine/ops/backward.h"
#include "engine/ops/ops.h"

/* Each loss is the sum of the outputs times fixed random numbers: their gradient is what the backward gets as dy. */

/* ---- rmsnorm */
typedef struct norm_ctx {
    int m, d;
    const float *x, *w, *dy;
    bool of_w;
} norm_ctx;

static double norm_loss(const double *p, void *ctx) {
    norm_ctx *c = ctx;
    double loss = 0;
    for (int r = 0; r < c->m; r++) {
        double ss = 0;
        for (int i = 0; i < c->d; i++) {
            double v = c->of_w ? c->x[r * c->d + i] : p[r * c->d + i];
            ss += v * v;
        }
        double inv = 1 / sqrt(ss / c->d + (double)1e-6f);
        for (int i = 0; i < c->d; i++)
            loss +=
                (c->of_w ? (double)c->x[r * c->d + i] * p[i] : p[r * c->d + i] * c->w[i]) * inv * c->dy[r * c->d + i];
    }
    return loss;
}

static void rmsnorm(void **state) {
    (void)state;
    enum { M = 21, D = 100 };
    float x[M * D], w[D], dy[M * D], dx[M * D], dw[D], partial[MULL_DW_PARTS * D];
    grad_fill(x, M * D, 1, 2), grad_fill(w, D, 2, 1), grad_fill(dy, M * D, 3, 1);
    norm_ctx c = {M, D, x, w, dy, false};
    EACH_ISA({
        for (int i = 0; i < M * D; i++) dx[i] = 3; /* what is there is added to */
        for (int i = 0; i < D; i++) dw[i] = -2;
        mull_rmsnorm_backward(NULL, x, M, D, w, 1e-6f, dy, dx, dw, partial);
        for (int i = 0; i < M * D; i++) dx[i] -= 3;
        for (int i = 0; i < D; i++) dw[i] += 2;
        c.of_w = false;
        grad_check(x, M * D, 1, dx, norm_loss, &c, 1e-6, "rmsnorm dx");
        c.of_w = true;
        grad_check(w, D, 1, dw, norm_loss, &c, 1e-6, "rmsnorm dw");
        mull_rmsnorm_backward(NULL, x, M, D, w, 1e-6f, dy, dx, NULL, NULL);
        x[7] = NAN;
        mull_rmsnorm_backward(NULL, x, M, D, w, 1e-6f, dy, dx, dw, partial);
        assert_true(isnan(dx[0]) && isnan(dw[7]));
        grad_fill(x, M * D, 1, 2);
    });
}

/* ---- swiglu, gelu */
static double swiglu_loss(const double *p, void *ctx) {
    norm_ctx *c = ctx;
    double loss = 0;
    for (int r = 0; r < c->m; r++)
        for (int i = 0; i < c->d; i++) {
            double g = p[r * 2 * c->d + i], u = p[r * 2 * c->d + c->d + i];
            loss += g / (1 + exp(-g)) * u * c->dy[r * c->d + i];
        }
    return loss;
}

static double gelu_loss(const double *p, void *ctx) {
    norm_ctx *c = ctx;
    double loss = 0;
    for (int i = 0; i < c->m * c->d; i++) loss += p[i] * 0.5 * erfc(-p[i] / sqrt(2)) * c->dy[i];
    return loss;
}

static void elementwise(void **state) {
    (void)state;
    enum { M = 7, F = 53 };
    float x[2 * M * F], dy[M * F], dx[2 * M * F], same[2 * M * F];
    grad_fill(x, 2 * M * F, 1, 6), grad_fill(dy, M * F, 2, 1);
    norm_ctx c = {M, F, x, NULL, dy, false};
    EACH_ISA({
        mull_swiglu_backward(NULL, x, M, F, dy, dx);
        grad_check(x, 2 * M * F, 1, dx, swiglu_loss, &c, 1e-6, "swiglu");
        memcpy(same, x, sizeof x);
        mull_swiglu_backward(NULL, same, M, F, dy, same);
        assert_memory_equal(same, dx, sizeof dx);
        mull_gelu_backward(NULL, x, M * F, dy, dx);
        grad_check(x, M * F, 1, dx, gelu_loss, &c, 1e-6, "gelu");
        x[3] = NAN;
        mull_gelu_backward(NULL, x, M * F, dy, dx);
        assert_true(isnan(dx[3]));
        mull_swiglu_backward(NULL, x, M, F, dy, dx);
        assert_true(isnan(dx[3]) && isnan(dx[F + 3]));
        grad_fill(x, 2 * M * F, 1, 6);
    });
}

static void bias(void **state) {
    (void)state;
    enum { M = 301, N = 70, LD = 73 };
    static float dy[M * LD], db[N];
    grad_fill(dy, M * LD, 1, 1);
    mull_pool *pool = mull_pool_create(2);
    EACH_ISA({
        for (int i = 0; i < N; i++) db[i] = 1;
        mull_bias_backward(pool, dy, M, LD, N, db);
        for (int i = 0; i < N; i++) {
            double want = 1;
            for (int r = 0; r < M; r++) want += dy[r * LD + i];
            assert_true(fabs(db[i] - want) <= 5e-5);
        }
    });
    mull_pool_destroy(pool);
}

/* ---- attention */
typedef struct attn_ctx {
    mull_attn_shape a;
    int rows, ld;
    const float *dy;
} attn_ctx;

static double attn_loss(const double *p, void *ctx) {
    attn_ctx *c = ctx;
    const mull_attn_shape *a = &c->a;
    int hd = a->hd, group = a->heads / a->kv_heads;
    double loss = 0, *w = malloc((size_t)c->rows * sizeof *w);
    for (int s = 0; s < a->nseq; s++)
        for (int i = a->cu[s]; i < a->cu[s + 1]; i++)
            for (int h = 0; h < a->heads; h++) {
                int end = a->causal ? i + 1 : a->cu[s + 1], ko = (a->heads + h / group) * hd,
                    vo = ko + a->kv_heads * hd;
                double top = -1e300, sum = 0;
                int trunk = a->trunk ? a->cu[s] + a->trunk[s] : end,
                    own = a->trunk && i >= trunk ? a->branch[i] : trunk;
                for (int k = a->cu[s]; k < end; k++) {
                    w[k] = k >= trunk && k < own ? -1e300 : 0;
                    if (w[k] < 0) continue;
                    for (int d = 0; d < hd; d++) w[k] += p[i * c->ld + h * hd + d] * p[k * c->ld + ko + d];
                    w[k] *= (double)a->scale;
                    if (w[k] > top) top = w[k];
                }
                for (int k = a->cu[s]; k < end; k++) sum += w[k] = exp(w[k] - top);
                for (int k = a->cu[s]; k < end; k++)
                    for (int d = 0; d < hd; d++)
                        loss += w[k] / sum * p[k * c->ld + vo + d] * c->dy[(i * a->heads + h) * hd + d];
            }
    free(w);
    return loss;
}

static void attention(int heads, int kv_heads, int hd, bool causal, const int32_t *cu, int nseq, int step,
                      const int32_t *trunk, const int32_t *branch) {
    int rows = cu[nseq], q = heads * hd, kv = kv_heads * hd, ld = q + 2 * kv;
    attn_ctx c = {{cu, nseq, heads, kv_heads, hd, causal, 1 / sqrtf((float)hd), trunk, branch}, rows, ld, NULL};
    float *x = malloc((size_t)rows * (size_t)(2 * ld + 3 * q + heads) * sizeof *x), *dx = x + rows * ld,
          *out = dx + rows * ld, *dy = out + rows * q, *lse = dy + rows * q, *again = lse + rows * heads;
    float *scratch = malloc(((size_t)mull_attention_scratch(&c.a, rows) + 1) * sizeof *scratch);
    assert_true(x && scratch);
    grad_fill(x, rows * ld, 1, 2), grad_fill(dy, rows * q, 2, 1);
    c.dy = dy;
    mull_pool *pool = mull_pool_create(2);
    EACH_ISA({
        mull_attention_train(NULL, &c.a, x, x + q, x + q + kv, ld, again, q, lse);
        mull_attention_train(pool, &c.a, x, x + q, x + q + kv, ld, out, q, lse);
        assert_memory_equal(again, out, (size_t)(rows * q) * sizeof *out);
        double loss = 0, *p = malloc((size_t)(rows * ld) * sizeof *p);
        for (int i = 0; i < rows * q; i++) loss += (double)out[i] * dy[i];
        for (int i = 0; i < rows * ld; i++) p[i] = x[i];
        assert_true(fabs(loss - attn_loss(p, &c)) <= 2e-5 * sqrt(rows * q));
        free(p);
        mull_attention_backward(pool, &c.a, x, x + q, x + q + kv, ld, out, dy, q, lse, dx, dx + q, dx + q + kv, ld,
                                scratch);
        grad_check(x, rows * ld, step, dx, attn_loss, &c, 4e-6, causal ? "causal attention" : "attention");
    });
    mull_pool_destroy(pool);
    free(x), free(scratch);
}

static void attention_causal(void **state) {
    (void)state;
    attention(6, 2, 16, true, (int32_t[]){0, 1, 14, 90}, 3, 29, NULL, NULL);
    attention(2, 1, 40, true, (int32_t[]){0, 70}, 1, 37, NULL, NULL);
}

/* Sequences that branch: trunks and branches shorter and longer than a tile and than a block of keys. */
static void attention_branches(void **state) {
    (void)state;
    enum { ROWS = 420 };
    static const int BEGIN[] = {30, 37, 90, 200, 380, 385}; /* of the branches */
    int32_t branch[ROWS] = {0}, cu[] = {0, 100, ROWS}, trunk[] = {30, 100};
    for (int i = 0; i < 6; i++)
        for (int r = BEGIN[i]; r < (i == 2 ? 100 : i == 5 ? ROWS : BEGIN[i + 1]); r++) branch[r] = BEGIN[i];
    attention(2, 1, 24, true, cu, 2, 211, trunk, branch);
}

static void attention_full(void **state) {
    (void)state;
    attention(2, 2, 20, false, (int32_t[]){0, 5, 70, 71}, 3, 23, NULL, NULL);
}

/* Sums of the kernels that losses and the optimiser are made of. */
static void sums(void **state) {
    (void)state;
    enum { N = 10007 };
    static float x[N], y[N];
    EACH_ISA({
        const mull_kernels *kn = mull_kernels_get();
        grad_fill(x, N, 1, 20), grad_fill(y, N, 2, 1);
        double top = -1e9, sum = 0, squares = 0, product = 0, magnitude = 0, weighed = 0;
        for (int i = 0; i < N; i++) top = x[i] > top ? x[i] : top;
        for (int i = 0; i < N; i++) sum += exp(0.5 * x[i] - 0.5 * top), squares += (double)x[i] * x[i];
        for (int i = 0; i < 1003; i++) product += (double)x[i] * y[i], magnitude += fabs((double)x[i] * y[i]);
        assert_true(kn->row_max(x, N) == (float)top);
        assert_true(fabs(kn->exp_sum(x, N, 0.5f, (float)(0.5 * top)) - sum) <= 2e-6 * sum);
        assert_true(fabs(kn->square_sum(x, N) - squares) <= 1e-6 * squares);
        assert_true(fabs(kn->dot(x, y, 1003) - product) <= 1e-6 * magnitude);
        for (int i = 0; i < N; i++) weighed += exp(0.5 * x[i] - 0.5 * top) * (0.5 * x[i] - 0.5 * top);
        assert_true(fabs(kn->exp_dot(x, N, 0.5f, (float)(0.5 * top)) - weighed) <= 3e-6 * fabs(weighed));
        float few[] = {0, -INFINITY, -1e30f, -1};
        assert_true(fabs(kn->exp_dot(few, 4, 1, 0) + exp(-1)) <= 1e-6);
        kn->exp_scale(x, N, 0.5f, (float)(0.5 * top), 3);
        double scaled = 0;
        for (int i = 0; i < N; i++) scaled += x[i];
        assert_true(fabs(scaled - 3 * sum) <= 2e-6 * 3 * sum);
        x[9000] = NAN;
        assert_true(isnan(kn->row_max(x, N)) && isnan(kn->exp_sum(x, N, 1, 3)) && isnan(kn->square_sum(x, N)));
    });
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rmsnorm),
                                       cmocka_unit_test(elementwise),
                                       cmocka_unit_test(bias),
                                       cmocka_unit_test(attention_causal),
                                       cmocka_unit_test(attention_branches),
                                       cmocka_unit_test(attention_full),
                                       cmocka_unit_test(sums)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
