/* Products of many rows through cuBLASLt, with the bias and the residual in its epilogue. Row-major y = x w^T is, for
 * the library's column-major eyes, y^T = w x^T: w is the transposed left operand, x the right one as it lies.
 *
 * Which algorithm is best depends on the shape. The library's heuristic is asked once for each shape and its answers
 * are kept with the context; MULL_CUDA_TUNE=1 measures them the first time a shape is met (then two runs may choose
 * differently and differ in the last bits, so it is off by default). float32 is float32: TF32 stays off. */
#include "engine/ops/cuda_kernel.cuh"

#include <cublasLt.h>

#include <stdlib.h>
#include <string.h>

namespace {

constexpr size_t WORKSPACE = 32 << 20;
constexpr int SHAPES = 512, CHOICES = 6, REPEATS = 3;

struct shape {
    int64_t m, n, k, ldx, ldy;
    int type, y_type, bias, accumulate;
};

struct entry {
    shape key;
    bool used;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
};

struct library {
    cublasLtHandle_t lt;
    void *workspace;
    bool tune;
    entry entries[SHAPES];
};

struct operation {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
};

void free_library(void *p) {
    library *l = (library *)p;
    if (l->lt) cublasLtDestroy(l->lt);
    cudaFree(l->workspace);
    free(l);
}

bool good(mull_cuda *c, cublasStatus_t s, const char *what, const shape &k) {
    if (s == CUBLAS_STATUS_SUCCESS) return true;
    mull_cuda_refuse(c, s == CUBLAS_STATUS_ALLOC_FAILED ? MULL_ENOMEM : MULL_EINTERNAL, "product",
                     "report this with the GPU's name and the shape",
                     "cuBLASLt %s: %s (m %lld n %lld k %lld ld %lld %lld, type %d to %d, bias %d, accumulate %d)", what,
                     cublasLtGetStatusString(s), (long long)k.m, (long long)k.n, (long long)k.k, (long long)k.ldx,
                     (long long)k.ldy, k.type, k.y_type, k.bias, k.accumulate);
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
    if (o->w) cublasLtMatrixLayoutDestroy(o->w);
    if (o->x) cublasLtMatrixLayoutDestroy(o->x);
    if (o->y) cublasLtMatrixLayoutDestroy(o->y);
}

bool open(mull_cuda *c, const shape &s, const void *bias, operation *o) {
    *o = operation{};
    bool whole = s.type == MULL_I8;
    cublasOperation_t t = CUBLAS_OP_T;
    cudaDataType_t in = data_type(s.type), out = data_type(s.y_type);
    bool ok =
        good(c,
             cublasLtMatmulDescCreate(&o->desc, whole ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                                      whole ? CUDA_R_32I : CUDA_R_32F),
             "describes no product", s) &&
        good(c, cublasLtMatmulDescSetAttribute(o->desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t), "transpose", s) &&
        good(c, cublasLtMatrixLayoutCreate(&o->w, in, (uint64_t)s.k, (uint64_t)s.n, s.k), "layout of w", s) &&
        good(c, cublasLtMatrixLayoutCreate(&o->x, in, (uint64_t)s.k, (uint64_t)s.m, s.ldx), "layout of x", s) &&
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

cublasStatus_t run(mull_cuda *c, library *l, const operation &o, const shape &s, const void *w, const void *x, void *y,
                   const cublasLtMatmulAlgo_t *algo) {
    float one = 1, beta = s.accumulate ? 1.0f : 0.0f;
    int32_t one_i = 1, zero_i = 0;
    bool whole = s.type == MULL_I8;
    return cublasLtMatmul(l->lt, o.desc, whole ? (void *)&one_i : (void *)&one, w, o.w, x, o.x,
                          whole ? (void *)&zero_i : (void *)&beta, y, o.y, y, o.y, algo, l->workspace, WORKSPACE,
                          (cudaStream_t)mull_cuda_stream(c));
}

/* Milliseconds of REPEATS runs into y, which a run with accumulate would change: such shapes are not measured. */
float measure(mull_cuda *c, library *l, const operation &o, const shape &s, const void *w, const void *x, void *y,
              const cublasLtMatmulAlgo_t *algo) {
    cudaEvent_t a, b;
    float ms = 1e30f;
    cudaStream_t stream = (cudaStream_t)mull_cuda_stream(c);
    if (cudaEventCreate(&a) != cudaSuccess) return ms;
    if (cudaEventCreate(&b) == cudaSuccess) {
        bool ok = run(c, l, o, s, w, x, y, algo) == CUBLAS_STATUS_SUCCESS;
        cudaEventRecord(a, stream);
        for (int i = 0; ok && i < REPEATS; i++) ok = run(c, l, o, s, w, x, y, algo) == CUBLAS_STATUS_SUCCESS;
        cudaEventRecord(b, stream);
        if (cudaEventSynchronize(b) != cudaSuccess || !ok || cudaEventElapsedTime(&ms, a, b) != cudaSuccess) ms = 1e30f;
        cudaEventDestroy(b);
    }
    cudaEventDestroy(a);
    return ms;
}

bool choose(mull_cuda *c, library *l, const operation &o, const shape &s, const void *w, const void *x, void *y,
            entry *e) {
    cublasLtMatmulPreference_t p;
    cublasLtMatmulHeuristicResult_t r[CHOICES];
    size_t room = WORKSPACE;
    int n = 0;
    if (!good(c, cublasLtMatmulPreferenceCreate(&p), "preferences", s)) return false;
    cublasLtMatmulPreferenceSetAttribute(p, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room);
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(l->lt, o.desc, o.w, o.x, o.y, o.y, p, l->tune ? CHOICES : 1, r, &n);
    cublasLtMatmulPreferenceDestroy(p);
    if (status == CUBLAS_STATUS_SUCCESS && n == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (!good(c, status, "knows no algorithm", s)) return false;
    int best = 0;
    if (l->tune && !s.accumulate) {
        float least = 1e30f;
        for (int i = 0; i < n; i++) {
            float ms = measure(c, l, o, s, w, x, y, &r[i].algo);
            if (ms < least) {
                least = ms;
                best = i;
            }
        }
    }
    e->key = s;
    e->algo = r[best].algo;
    e->used = true;
    return true;
}

void product(mull_cuda *c, const shape &s, const void *w, const void *x, const void *bias, void *y) {
    library *l = get_library(c);
    operation o;
    if (!l || !open(c, s, bias, &o)) return;
    uint64_t h = 1469598103934665603u;
    const int64_t parts[] = {s.m, s.n, s.k, s.ldx, s.ldy, s.type, s.y_type, s.bias, s.accumulate};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) h = (h ^ (uint64_t)parts[i]) * 1099511628211u;
    /* Shapes that meet in one place take turns: asking again costs microseconds, a wrong algorithm would be refused. */
    entry *e = &l->entries[h >> 20 & (SHAPES - 1)];
    bool known = e->used && !memcmp(&e->key, &s, sizeof s);
    if (known || choose(c, l, o, s, w, x, y, e)) good(c, run(c, l, o, s, w, x, y, &e->algo), "failed", s);
    close(&o);
}

} // namespace

extern "C" void mull_cuda_gemm(mull_cuda *c, const void *x, int64_t m, int64_t ldx, const mull_cuda_matrix *w,
                               const void *bias, void *y, mull_dtype y_type, int64_t ldy, bool accumulate) {
    if (!mull_sizes_ok(c, "product", m, w->k)) return;
    shape s;
    memset(&s, 0, sizeof s); /* compared by bytes */
    s.m = m;
    s.n = w->n;
    s.k = w->k;
    s.ldx = ldx;
    s.ldy = ldy;
    s.type = w->type;
    s.y_type = y_type;
    s.bias = bias != NULL;
    s.accumulate = accumulate;
    product(c, s, w->data, x, bias, y);
    MULL_LAUNCHED(c, "product", w->n, w->k);
}

extern "C" void mull_cuda_gemm_i8(mull_cuda *c, const int8_t *x, int64_t m, const int8_t *w, int64_t n, int64_t k,
                                  int32_t *y) {
    if (!mull_sizes_ok(c, "int8 product", m, k)) return;
    shape s;
    memset(&s, 0, sizeof s);
    s.m = m;
    s.n = n;
    s.k = k;
    s.ldx = k;
    s.ldy = n;
    s.type = MULL_I8;
    s.y_type = MULL_I32;
    product(c, s, w, x, NULL, y);
    MULL_LAUNCHED(c, "int8 product", n, k);
}
