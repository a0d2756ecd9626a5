/* Rotary tables; see rope.h. The frequencies and angles are float32 in the reference's order of operations: large
 * positions multiply the rounding of inv_freq, so a double here would be "more exact" and further from the model. */
#include "engine/model/rope.h"

#include <math.h>
#include <stdlib.h>

static float inv_freq(double theta, int i, int dim) {
    float exponent = (float)(2 * i) / (float)dim;
    return 1.0f / powf((float)theta, exponent);
}

int mull_mrope_init(mull_mrope *r, const mull_config *c, mull_error *err) {
    *r = (mull_mrope){.half = c->head_dim / 2};
    r->inv_freq = malloc((size_t)r->half * sizeof *r->inv_freq);
    r->axis = malloc((size_t)r->half);
    if (!r->inv_freq || !r->axis) {
        mull_mrope_fini(r);
        return mull_fail(err, MULL_ENOMEM, "cannot build the rotary table", "", "", "out of memory");
    }
    int axis = 0, left = c->mrope_section[0];
    for (int i = 0; i < r->half; i++) {
        while (left == 0 && axis < 2) left = c->mrope_section[++axis];
        r->inv_freq[i] = inv_freq(c->rope_theta, i, c->head_dim);
        r->axis[i] = (uint8_t)axis;
        left--;
    }
    return MULL_OK;
}

void mull_mrope_fini(mull_mrope *r) {
    free(r->inv_freq);
    free(r->axis);
    *r = (mull_mrope){0};
}

void mull_mrope_table(const mull_mrope *r, const int32_t *pos, int64_t n, int64_t stride, float *cos, float *sin) {
    for (int64_t k = 0; k < n; k++)
        for (int i = 0; i < r->half; i++) {
            float angle = r->inv_freq[i] * (float)pos[r->axis[i] * stride + k];
            cos[k * r->half + i] = cosf(angle);
            sin[k * r->half + i] = sinf(angle);
        }
}

void mull_vision_rope(const mull_vision_config *v, int64_t h, int64_t w, float *cos, float *sin) {
    int quarter = v->head_dim / 4, m = v->merge;
    for (int i = 0; i < quarter; i++) {
        float f = inv_freq(10000.0, i, v->head_dim / 2), *c = cos + i, *s = sin + i;
        for (int64_t by = 0; by < h; by += m)
            for (int64_t bx = 0; bx < w; bx += m)
                for (int64_t y = by; y < by + m; y++)
                    for (int64_t x = bx; x < bx + m; x++, c += 2 * quarter, s += 2 * quarter) {
                        c[0] = cosf(f * (float)y);
                        s[0] = sinf(f * (float)y);
                        c[quarter] = cosf(f * (float)x);
                        s[quarter] = sinf(f * (float)x);
                    }
    }
}
