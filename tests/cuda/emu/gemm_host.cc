/* The library's part of a product (engine/ops/gemm_lt.cu), as a plain loop: cuBLASLt is not emulated.
 * Sums are double, so that what tests see is the kernels' rounding and not this loop's. */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"

template <typename T> static void put(T *y, float sum, const T *bias, bool accumulate) {
    if (bias) sum += mull_wide(*bias);
    if (accumulate) sum += mull_wide(*y);
    *y = mull_narrow<T>(sum);
}

template <typename T> static void multiply(const mull_cuda_product &o) {
    const mull_cuda_product *p = &o;
    int64_t a_row = p->a_t ? 1 : p->lda, a_col = p->a_t ? p->lda : 1, b_row = p->b_t ? 1 : p->ldb,
            b_col = p->b_t ? p->ldb : 1;
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            const T *a = (const T *)p->a + i * a_row, *b = (const T *)p->b + j * b_col;
            double exact = 0;
            for (int64_t k = 0; k < p->k; k++) exact += (double)mull_wide(a[k * a_col]) * mull_wide(b[k * b_row]);
            float sum = (float)exact;
            int64_t at = i * p->ldy + j;
            if (p->y_type == MULL_F32)
                put((float *)p->y + at, sum, p->bias ? (const float *)p->bias + j : nullptr, p->accumulate);
            else
                put((mull_bf16 *)p->y + at, sum, p->bias ? (const mull_bf16 *)p->bias + j : nullptr, p->accumulate);
        }
}

extern "C" void mull_cuda_multiply(mull_cuda *c, const mull_cuda_product *p) {
    if (mull_cuda_failed(c)) return;
    mull_cuda_product o = *p;
    mull_emu_queue([o] { o.type == MULL_F32 ? multiply<float>(o) : multiply<mull_bf16>(o); });
}

extern "C" void mull_cuda_gemm_i8(mull_cuda *c, const int8_t *x, int64_t m, const int8_t *w, int64_t n, int64_t k,
                                  int32_t *y) {
    if (mull_cuda_failed(c)) return;
    mull_emu_queue([=] {
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) {
                int32_t sum = 0;
                for (int64_t l = 0; l < k; l++) sum += x[i * k + l] * w[j * k + l];
                y[i * n + j] = sum;
            }
    });
}
