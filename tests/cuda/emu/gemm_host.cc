/* The library's part of a product (engine/ops/gemm_lt.cu), as a plain loop: cuBLASLt is not emulated. */
#include "engine/ops/cuda_kernel.cuh"

static float at(const void *x, mull_dtype t, int64_t i) {
    return t == MULL_F32 ? ((const float *)x)[i] : mull_wide(((const mull_bf16 *)x)[i]);
}

extern "C" void mull_cuda_gemm(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w,
                               const void *bias, void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    if (mull_cuda_failed(c)) return;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < w->n; j++) {
            float sum = 0;
            if (w->type == MULL_F32) {
                const float *a = (const float *)x + i * ldx, *b = (const float *)w->data + j * w->k;
                for (int64_t k = 0; k < w->k; k++) sum += a[k] * b[k];
            } else {
                const mull_bf16 *a = (const mull_bf16 *)x + i * ldx, *b = (const mull_bf16 *)w->data + j * w->k;
                for (int64_t k = 0; k < w->k; k++) sum += mull_wide(a[k]) * mull_wide(b[k]);
            }
            if (bias) sum += at(bias, y_type, j);
            if (accumulate) sum += at(y, y_type, i * ldy + j);
            if (y_type == MULL_F32)
                ((float *)y)[i * ldy + j] = sum;
            else
                ((mull_bf16 *)y)[i * ldy + j] = mull_round(sum);
        }
}

extern "C" void mull_cuda_gemm_i8(mull_cuda *c, const int8_t *x, int64_t m, const int8_t *w, int64_t n, int64_t k,
                                  int32_t *y) {
    if (mull_cuda_failed(c)) return;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            int32_t sum = 0;
            for (int64_t l = 0; l < k; l++) sum += x[i * k + l] * w[j * k + l];
            y[i * n + j] = sum;
        }
}
