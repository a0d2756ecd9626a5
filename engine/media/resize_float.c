/* torchvision's antialiased bicubic for video frames: float32 weights and sums, horizontal pass first, nothing rounded
 * between the passes, then round half to even and clamp. Without fma, so that every machine gives the same bytes. */
#include "engine/media/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __clang__
#pragma clang fp contract(off)
#else
#pragma GCC optimize("fp-contract=off")
#endif

typedef struct axis {
    int n, taps;
    int *first, *count; /* [n] */
    float *w;           /* [n, taps] */
} axis;

struct mull_resize_float {
    int in_w, in_h, out_w, out_h;
    axis x, y;
    float *mid; /* [in_h, out_w, 4]: RGB and a float nobody reads, for whole vector stores */
};

/* Four floats: one RGB pixel. */
typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));

static float cubic(float x) {
    const float a = -0.5f;
    x = fabsf(x);
    if (x < 1.0f) return ((a + 2.0f) * x - (a + 3.0f)) * x * x + 1.0f;
    if (x < 2.0f) return ((a * x - 5.0f * a) * x + 8.0f * a) * x - 4.0f * a;
    return 0.0f;
}

static int axis_init(axis *a, int in, int n) {
    float scale = (float)in / (float)n;
    float support = scale >= 1.0f ? 2.0f * scale : 2.0f, inverse = scale >= 1.0f ? 1.0f / scale : 1.0f;
    a->n = n;
    a->taps = (int)ceilf(support) * 2 + 1;
    a->first = malloc((size_t)n * sizeof *a->first);
    a->count = malloc((size_t)n * sizeof *a->count);
    a->w = calloc((size_t)n, (size_t)a->taps * sizeof *a->w);
    if (!a->first || !a->count || !a->w) return MULL_ENOMEM;
    for (int i = 0; i < n; i++) {
        float center = scale * ((float)i + 0.5f), sum = 0;
        int lo = (int)(center - support + 0.5f), hi = (int)(center + support + 0.5f);
        if (lo < 0) lo = 0;
        if (hi > in) hi = in;
        int count = hi - lo < a->taps ? hi - lo : a->taps;
        float *w = a->w + (size_t)i * (size_t)a->taps;
        for (int j = 0; j < count; j++) {
            w[j] = cubic(((float)(j + lo) - center + 0.5f) * inverse);
            sum += w[j];
        }
        for (int j = 0; j < count; j++) w[j] /= sum;
        a->first[i] = lo;
        a->count[i] = count;
    }
    return MULL_OK;
}

int mull_resize_float_create(int in_w, int in_h, int out_w, int out_h, mull_resize_float **out, mull_error *err) {
    *out = NULL;
    if (in_w < 1 || in_h < 1 || out_w < 1 || out_h < 1)
        return mull_fail(err, MULL_EARG, "cannot resize", NULL, NULL, "sizes must be positive");
    mull_resize_float *r = calloc(1, sizeof *r);
    if (r) {
        *r = (mull_resize_float){.in_w = in_w, .in_h = in_h, .out_w = out_w, .out_h = out_h};
        r->mid = malloc((size_t)in_h * (size_t)out_w * 4 * sizeof *r->mid);
    }
    if (!r || !r->mid || axis_init(&r->x, in_w, out_w) || axis_init(&r->y, in_h, out_h)) {
        mull_resize_float_destroy(r);
        return mull_fail(err, MULL_ENOMEM, "cannot resize", NULL, NULL, "no memory for %d x %d to %d x %d", in_w, in_h,
                         out_w, out_h);
    }
    *out = r;
    return MULL_OK;
}

static void horizontal(const mull_resize_float *r, const uint8_t *in) {
    for (int y = 0; y < r->in_h; y++, in += (size_t)r->in_w * 3)
        for (int i = 0; i < r->out_w; i++) {
            const float *w = r->x.w + (size_t)i * (size_t)r->x.taps;
            const uint8_t *p = in + (size_t)r->x.first[i] * 3;
            f4 s = {0, 0, 0, 0};
            for (int j = 0; j < r->x.count[i]; j++, p += 3) s += (f4){p[0], p[1], p[2], 0} * w[j];
            memcpy(r->mid + ((size_t)y * (size_t)r->out_w + (size_t)i) * 4, &s, sizeof s);
        }
}

static inline uint8_t to_byte(float v) {
    v = nearbyintf(v);
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

void mull_resize_float_run(mull_resize_float *r, const uint8_t *in, uint8_t *out) {
    horizontal(r, in);
    const size_t row = (size_t)r->out_w * 4;
    for (int y = 0; y < r->out_h; y++) {
        const float *w = r->y.w + (size_t)y * (size_t)r->y.taps;
        const float *src = r->mid + (size_t)r->y.first[y] * row;
        for (int i = 0; i < r->out_w; i++, out += 3) {
            f4 s = {0, 0, 0, 0};
            for (int j = 0; j < r->y.count[y]; j++) s += *(const f4 *)(src + (size_t)j * row + (size_t)i * 4) * w[j];
            for (int c = 0; c < 3; c++) out[c] = to_byte(s[c]);
        }
    }
}

void mull_resize_float_destroy(mull_resize_float *r) {
    if (!r) return;
    axis *axes[2] = {&r->x, &r->y};
    for (int i = 0; i < 2; i++) {
        free(axes[i]->first);
        free(axes[i]->count);
        free(axes[i]->w);
    }
    free(r->mid);
    free(r);
}
