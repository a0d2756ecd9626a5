/* Products through cuBLASLt, with the bias and the residual in its epilogue. Row-major y = a b is, for the library's
 * column-major eyes, y^T = b^T a^T: b is its left operand and a its right one, each as it lies or transposed.
 *
 * Which algorithm is best depends on the shape and on how the operands are aligned. The library's heuristic is asked
 * once for each and its answers are kept with the context (gemm_cache.h); MULL_CUDA_TUNE=1 measures them the first time
 * a shape is met (then two runs may choose differently and differ in the last bits, so it is off by default). float32
 * is float32: TF32 stays off. */
#include "engine/ops/cuda_kernel.cuh"
#include "engine/ops/cuda_train.h"
#include "engine/ops/gemm_cache.h"

#include <cublasLt.h>

#include <stdlib.h>
#include <string.h>

namespace {

constexpr size_t WORKSPACE = 32 << 20;
constexpr int CHOICES = 6, REPEATS = 3;
static_assert(sizeof(cublasLtMatmulAlgo_t) <= MULL_GEMM_ANSWER, "an algorithm fits the cache's entry");

typedef mull_gemm_key shape;

struct library {
    cublasLtHandle_t lt;
    void *workspace;
    bool tune;
    mull_gemm_cache cache;
};

/* Left is b, right is a; see above. */
struct operation {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t left, right, y;
};

void free_library(void *p) {
    library *l = (library *)p;
    if (l->lt) cublasLtDestroy(l->lt);
    cudaFree(l->workspace);
    free(l);
}

bool good(mull_cuda *c, cublasStatus_t s, const char *what, const shape &k) {
    if (s == CUBLAS_STATUS_SUCCESS) return true;
    mull_cuda_refuse(
        c, s == CUBLAS_STATUS_ALLOC_FAILED ? MULL_ENOMEM : MULL_EINTERNAL, "product",
        "report this with the GPU's name and the shape",
        "cuBLASLt %s: %s (m %lld n %lld k %lld, ld %lld%s %lld%s %lld, aligned to %d %d %d, type %d to %d, "
        "bias %d, accumulate %d)",
        what, cublasLtGetStatusString(s), (long long)k.m, (long long)k.n, (long long)k.k, (long long)k.lda,
        k.a_t ? "t" : "", (long long)k.ldb, k.b_t ? "t" : "", (long long)k.ldy, k.align_a, k.align_b, k.align_y, k.type,
        k.y_type, k.bias, k.accumulate);
    return false;
}

library *get_library(mull_cuda *c) {
    library *l = (library *)mull_cuda_extra(c);
    if (l) return l;
    l = (library *)calloc(1, sizeof *l);
    if (!l) {
        mull_cuda_refuse(c, MULL_ENOMEM, "product", "", "out of memory");
        return NULL;
    }
    const char *tune = getenv("MULL_CUDA_TUNE");
    l->tune = tune && !strcmp(tune, "1");
    mull_error err = {};
    if (!good(c, cublasLtCreate(&l->lt), "cannot start", shape{}) ||
        mull_cuda_alloc(c, WORKSPACE, "cuBLASLt", &l->workspace, &err)) {
        if (err.code) mull_cuda_refuse(c, err.code, "product", err.todo, "%s", err.why);
        free_library(l);
        return NULL;
    }
    mull_cuda_set_extra(c, l, free_library);
    return l;
}

cudaDataType_t data_type(int t) {
    return t == MULL_F32 ? CUDA_R_32F : t == MULL_BF16 ? CUDA_R_16BF : t == MULL_I8 ? CUDA_R_8I : CUDA_R_32I;
}

void close(operation *o) {
    if (o->desc) cublasLtMatmulDescDestroy(o->desc);
    if (o->left) cublasLtMatrixLayoutDestroy(o->left);
    if (o->right) cublasLtMatrixLayoutDestroy(o->right);
    if (o->y) cublasLtMatrixLayoutDestroy(o->y);
}

bool open(mull_cuda *c, const shape &s, const void *bias, operation *o) {
    *o = operation{};
    bool whole = s.type == MULL_I8;
    cublasOperation_t left = s.b_t ? CUBLAS_OP_T : CUBLAS_OP_N, right = s.a_t ? CUBLAS_OP_T : CUBLAS_OP_N;
    cudaDataType_t in = data_type(s.type), out = data_type(s.y_type);
    bool ok = good(c,
                   cublasLtMatmulDescCreate(&o->desc, whole ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                            whole ? CUDA_R_32I : CUDA_R_32F),
                   "describes no product", s) &&
              good(c, cublasLtMatmulDescSetAttribute(o->desc, CUBLASLT_MATMUL_DESC_TRANSA, &left, sizeof left),
                   "transpose", s) &&
              good(c, cublasLtMatmulDescSetAttribute(o->desc, CUBLASLT_MATMUL_DESC_TRANSB, &right, sizeof right),
                   "transpose", s) &&
              good(c,
                   cublasLtMatrixLayoutCreate(&o->left, in, (uint64_t)(s.b_t ? s.k : s.n),
                                              (uint64_t)(s.b_t ? s.n : s.k), s.ldb),
                   "layout of b", s) &&
              good(c,
                   cublasLtMatrixLayoutCreate(&o->right, in, (uint64_t)(s.a_t ? s.m : s.k),
                                              (uint64_t)(s.a_t ? s.k : s.m), s.lda),
                   "layout of a", s) &&
              good(c, cublasLtMatrixLayoutCreate(&o->y, out, (uint64_t)s.n, (uint64_t)s.m, s.ldy), "layout of y", s);
    if (ok && bias) {
        cublasLtEpilogue_t e = CUBLASLT_EPILOGUE_BIAS;
        ok = good(c, cublasLtMatmulDescSetAttribute(o->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e), "epilogue",
                  s) &&
             good(c, cublasLtMatmulDescSetAttribute(o->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias),
                  "bias", s) &&
             good(c, cublasLtMatmulDescSetAttribute(o->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &out, sizeof out),
                  "bias type", s);
    }
    if (!ok) close(o);
    return ok;
}

cublasStatus_t run(mull_cuda *c, library *l, const operation &o, const shape &s, const void *a, const void *b, void *y,
                   const cublasLtMatmulAlgo_t *algo) {
    float one = 1, beta = s.accumulate ? 1.0f : 0.0f;
    int32_t one_i = 1, zero_i = 0;
    bool whole = s.type == MULL_I8;
    return cublasLtMatmul(l->lt, o.desc, whole ? (void *)&one_i : (void *)&one, b, o.left, a, o.right,
                          whole ? (void *)&zero_i : (void *)&beta, y, o.y, y, o.y, algo, l->workspace, WORKSPACE,
                          (cudaStream_t)mull_cuda_stream(c));
}

/* Milliseconds of REPEATS runs into y, which a run with accumulate would change: such shapes are not measured. */
float measure(mull_cuda *c, library *l, const operation &o, const shape &s, const void *a, const void *b, void *y,
              const cublasLtMatmulAlgo_t *algo) {
    cudaEvent_t start, end;
    float ms = 1e30f;
    cudaStream_t stream = (cudaStream_t)mull_cuda_stream(c);
    if (cudaEventCreate(&start) != cudaSuccess) return ms;
    if (cudaEventCreate(&end) == cudaSuccess) {
        bool ok = run(c, l, o, s, a, b, y, algo) == CUBLAS_STATUS_SUCCESS;
        cudaEventRecord(start, stream);
        for (int i = 0; ok && i < REPEATS; i++) ok = run(c, l, o, s, a, b, y, algo) == CUBLAS_STATUS_SUCCESS;
        cudaEventRecord(end, stream);
        if (cudaEventSynchronize(end) != cudaSuccess || !ok || cudaEventElapsedTime(&ms, start, end) != cudaSuccess)
            ms = 1e30f;
        cudaEventDestroy(end);
    }
    cudaEventDestroy(start);
    return ms;
}

bool choose(mull_cuda *c, library *l, const operation &o, const shape &s, const void *a, const void *b, void *y,
            cublasLtMatmulAlgo_t *out) {
    cublasLtMatmulPreference_t p;
    cublasLtMatmulHeuristicResult_t r[CHOICES];
    size_t room = WORKSPACE;
    uint32_t left = s.align_b, right = s.align_a, align_y = s.align_y;
    int n = 0;
    if (!good(c, cublasLtMatmulPreferenceCreate(&p), "preferences", s)) return false;
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    /* Unasked it takes 256 for granted, which parts of a larger matrix need not have. */
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &left, sizeof left);
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &right, sizeof right);
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align_y, sizeof align_y);
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align_y, sizeof align_y);
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(l->lt, o.desc, o.left, o.right, o.y, o.y, p, l->tune ? CHOICES : 1, r, &n);
    cublasLtMatmulPreferenceDestroy(p);
    if (status == CUBLAS_STATUS_SUCCESS && n == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (!good(c, status, "knows no algorithm", s)) return false;
    int best = 0;
    if (l->tune && !s.accumulate) {
        float least = 1e30f;
        for (int i = 0; i < n; i++) {
            float ms = measure(c, l, o, s, a, b, y, &r[i].algo);
            if (ms < least) {
                least = ms;
                best = i;
            }
        }
    }
    *out = r[best].algo;
    return true;
}

void product(mull_cuda *c, const shape &s, const void *a, const void *b, const void *bias, void *y) {
    library *l = get_library(c);
    operation o;
    if (!l || !open(c, s, bias, &o)) return;
    cublasLtMatmulAlgo_t *algo = (cublasLtMatmulAlgo_t *)mull_gemm_cache_find(&l->cache, &s), fresh;
    bool known = algo || choose(c, l, o, s, a, b, y, &fresh);
    if (known && !algo) algo = (cublasLtMatmulAlgo_t *)memcpy(mull_gemm_cache_add(&l->cache, &s), &fresh, sizeof fresh);
    if (known) good(c, run(c, l, o, s, a, b, y, algo), "failed", s);
    close(&o);
}

} // namespace

extern "C" void mull_cuda_multiply(mull_cuda *c, const mull_cuda_product *p) {
    if (!mull_sizes_ok(c, "product", p->m, p->k) || !mull_sizes_ok(c, "product", p->m, p->n)) return;
    shape s = {};
    s.m = p->m;
    s.n = p->n;
    s.k = p->k;
    s.lda = p->lda;
    s.ldb = p->ldb;
    s.ldy = p->ldy;
    s.align_a = mull_gemm_alignment(p->a);
    s.align_b = mull_gemm_alignment(p->b);
    s.align_y = mull_gemm_alignment(p->y);
    s.type = (uint8_t)p->type;
    s.y_type = (uint8_t)p->y_type;
    s.a_t = p->a_t;
    s.b_t = p->b_t;
    s.bias = p->bias != NULL;
    s.accumulate = p->accumulate;
    product(c, s, p->a, p->b, p->bias, p->y);
    MULL_LAUNCHED(c, "product", p->n, p->k);
}

extern "C" void mull_cuda_gemm_i8(mull_cuda *c, const int8_t *x, int64_t m, const int8_t *w, int64_t n, int64_t k,
                                  int32_t *y) {
    if (!mull_sizes_ok(c, "int8 product", m, k)) return;
    mull_cuda_product p = {};
    p.m = m;
    p.n = n;
    p.k = p.lda = p.ldb = k;
    p.type = MULL_I8;
    p.a = x;
    p.b = w;
    p.b_t = true;
    p.y = y;
    p.y_type = MULL_I32;
    p.ldy = n;
    mull_cuda_multiply(c, &p);
}
