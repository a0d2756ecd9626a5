/* The row kernels of training: what a backward pass, a loss and an optimiser step do to one row of floats. Included by
 * kernels_impl.h, so that each is compiled once per instruction set. Sums that become a result run over lanes in a fixed
 * order; the number of lanes, and so the last bits, is that of the instruction set. */

/* y += a x */
static void axpy(float *y, const float *x, float a, int64_t n) {
    int64_t i = 0;
    for (; i + MULL_VL <= n; i += MULL_VL) v_store(y + i, v_load(y + i) + v_load(x + i) * a);
    for (; i < n; i++) y[i] += x[i] * a;
}

static float dot(const float *x, const float *y, int64_t n) {
    vf s0 = {0}, s1 = {0};
    int64_t i = 0;
    for (; i + 2 * MULL_VL <= n; i += 2 * MULL_VL) {
        s0 += v_load(x + i) * v_load(y + i);
        s1 += v_load(x + i + MULL_VL) * v_load(y + i + MULL_VL);
    }
    for (; i < n; i += MULL_VL) {
        bool whole = n - i >= MULL_VL;
        s0 += (whole ? v_load(x + i) : v_load_n(x + i, n - i, 0)) * (whole ? v_load(y + i) : v_load_n(y + i, n - i, 0));
    }
    return v_sum(s0 + s1);
}

static void rmsnorm_backward(const float *x, int64_t d, const float *w, float eps, const float *dy, float *dx,
                             float *dw) {
    vf ss = {0}, sg = {0};
    int64_t i = 0;
    for (; i + MULL_VL <= d; i += MULL_VL) {
        vf a = v_load(x + i);
        ss += a * a;
        sg += v_load(dy + i) * v_load(w + i) * a;
    }
    float tail_ss = 0, tail_sg = 0;
    for (int64_t k = i; k < d; k++) {
        tail_ss += x[k] * x[k];
        tail_sg += dy[k] * w[k] * x[k];
    }
    float inv = 1.0f / sqrtf((v_sum(ss) + tail_ss) / (float)d + eps);
    float back = (v_sum(sg) + tail_sg) * inv * inv * inv / (float)d;
    for (i = 0; i + MULL_VL <= d; i += MULL_VL) {
        vf a = v_load(x + i), g = v_load(dy + i);
        v_store(dx + i, v_load(dx + i) + (g * v_load(w + i) * inv - a * back));
        if (dw) v_store(dw + i, v_load(dw + i) + g * (a * inv));
    }
    for (; i < d; i++) {
        dx[i] += dy[i] * w[i] * inv - x[i] * back;
        if (dw) dw[i] += dy[i] * (x[i] * inv);
    }
}

/* s = sigmoid(g): d(g s u) = (u s (1 + g (1 - s)), g s) */
MULL_INLINE void swiglu_backward1(vf g, vf u, vf dy, vf *dg, vf *du) {
    vf s = 1.0f / (1.0f + v_exp(-g));
    *du = dy * (g * s);
    *dg = dy * u * (s * (1.0f + g * (1.0f - s)));
}

static void swiglu_backward(const float *gate, const float *up, const float *dy, int64_t f, float *dgate, float *dup) {
    int64_t i = 0;
    vf dg, du;
    for (; i + MULL_VL <= f; i += MULL_VL) {
        swiglu_backward1(v_load(gate + i), v_load(up + i), v_load(dy + i), &dg, &du);
        v_store(dgate + i, dg);
        v_store(dup + i, du);
    }
    if (i < f) {
        int64_t n = f - i;
        swiglu_backward1(v_load_n(gate + i, n, 0), v_load_n(up + i, n, 0), v_load_n(dy + i, n, 0), &dg, &du);
        v_store_n(dgate + i, n, dg);
        v_store_n(dup + i, n, du);
    }
}

/* d(x P(x)) = P(x) + x p(x), p the normal density */
static void gelu_backward(const float *x, const float *dy, int64_t n, float *dx) {
    for (int64_t i = 0; i < n; i += MULL_VL) {
        bool whole = n - i >= MULL_VL;
        vf a = whole ? v_load(x + i) : v_load_n(x + i, n - i, 0), g = whole ? v_load(dy + i) : v_load_n(dy + i, n - i, 0);
        vf tail = v_normal_tail((vf)((vi)a & 0x7fffffff));
        vf r = g * (v_select(a < 0, tail, 1.0f - tail) + a * v_exp(a * a * -0.5f) * 0.398942280401432678f);
        if (whole)
            v_store(dx + i, r);
        else
            v_store_n(dx + i, n - i, r);
    }
}

static float row_max(const float *x, int64_t n) {
    vf m = v_set(-INFINITY), poison = {0};
    for (int64_t i = 0; i < n; i += MULL_VL) {
        vf v = n - i >= MULL_VL ? v_load(x + i) : v_load_n(x + i, n - i, -INFINITY);
        m = v_select(v > m, v, m);
        poison += v_select(v == v, (vf){0}, v);
    }
    return v_max(m) + v_sum(poison);
}

/* Lane sums are folded into a double every 4096 values, so that a vocabulary's tail is not lost in its head. */
static double exp_sum(const float *x, int64_t n, float mul, float sub) {
    double total = 0;
    for (int64_t a = 0; a < n; a += 4096) {
        int64_t e = n - a < 4096 ? n : a + 4096;
        vf s = {0};
        for (int64_t i = a; i < e; i += MULL_VL)
            s += v_exp_neg((e - i >= MULL_VL ? v_load(x + i) : v_load_n(x + i, e - i, -INFINITY)) * mul - sub);
        total += (double)v_sum(s);
    }
    return total;
}

/* Sum of exp(z) z, z = mul x - sub; what is far below the largest adds nothing, not NaN. */
static double exp_dot(const float *x, int64_t n, float mul, float sub) {
    double total = 0;
    for (int64_t a = 0; a < n; a += 4096) {
        int64_t e = n - a < 4096 ? n : a + 4096;
        vf s = {0};
        for (int64_t i = a; i < e; i += MULL_VL) {
            vf z = (e - i >= MULL_VL ? v_load(x + i) : v_load_n(x + i, e - i, -INFINITY)) * mul - sub;
            z = v_select(z < -120.0f, v_set(-120.0f), z);
            s += v_exp_neg(z) * z;
        }
        total += (double)v_sum(s);
    }
    return total;
}

/* x = scale exp(mul x - sub), mul x <= sub up to rounding */
static void exp_scale(float *x, int64_t n, float mul, float sub, float scale) {
    int64_t i = 0;
    for (; i + MULL_VL <= n; i += MULL_VL) v_store(x + i, v_exp_neg(v_load(x + i) * mul - sub) * scale);
    if (i < n) v_store_n(x + i, n - i, v_exp_neg(v_load_n(x + i, n - i, 0) * mul - sub) * scale);
}

/* dp = scale p (dp - d) */
static void softmax_backward(const float *p, float *dp, int64_t n, float d, float scale) {
    int64_t i = 0;
    for (; i + MULL_VL <= n; i += MULL_VL) v_store(dp + i, v_load(p + i) * (v_load(dp + i) - d) * scale);
    for (; i < n; i++) dp[i] = p[i] * (dp[i] - d) * scale;
}

static double square_sum(const float *x, int64_t n) {
    double total = 0;
    for (int64_t a = 0; a < n; a += 4096) {
        int64_t e = n - a < 4096 ? n : a + 4096;
        vf s0 = {0}, s1 = {0};
        int64_t i = a;
        for (; i + 2 * MULL_VL <= e; i += 2 * MULL_VL) {
            vf v0 = v_load(x + i), v1 = v_load(x + i + MULL_VL);
            s0 += v0 * v0;
            s1 += v1 * v1;
        }
        for (; i < e; i += MULL_VL) {
            vf v = e - i >= MULL_VL ? v_load(x + i) : v_load_n(x + i, e - i, 0);
            s0 += v * v;
        }
        total += (double)v_sum(s0 + s1);
    }
    return total;
}

MULL_INLINE vf v_sqrt(vf x) {
#if MULL_VL == 16
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif MULL_VL == 8
    return (vf)_mm256_sqrt_ps((__m256)x);
#else
    for (int i = 0; i < MULL_VL; i++) x[i] = sqrtf(x[i]);
    return x;
#endif
}

/* The update of AdamW (Loshchilov & Hutter 2019) as torch computes it: decay first, then
 * w -= step m / (sqrt(v) / root + eps), step = lr / (1 - beta1^t), root = sqrt(1 - beta2^t). */
static void adamw(float *w, const float *g, float *m, float *v, int64_t n, const mull_adamw *o) {
    for (int64_t i = 0; i < n; i += MULL_VL) {
        int64_t k = n - i;
        bool whole = k >= MULL_VL;
        vf a = whole ? v_load(w + i) : v_load_n(w + i, k, 0), d = whole ? v_load(g + i) : v_load_n(g + i, k, 0);
        vf vm = whole ? v_load(m + i) : v_load_n(m + i, k, 0), vv = whole ? v_load(v + i) : v_load_n(v + i, k, 0);
        d *= o->clip;
        a *= o->keep;
        vm += (d - vm) * o->one_beta1;
        vv = vv * o->beta2 + d * d * o->one_beta2;
        a -= vm * o->step / (v_sqrt(vv) * o->inv_root + o->eps);
        if (whole) {
            v_store(w + i, a);
            v_store(m + i, vm);
            v_store(v + i, vv);
        } else {
            v_store_n(w + i, k, a);
            v_store_n(m + i, k, vm);
            v_store_n(v + i, k, vv);
        }
    }
}
