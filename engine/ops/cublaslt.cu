/* cuBLASLt, loaded when the first product on a GPU asks for it. Linked the usual way it would cost every engine 0.07 s
 * at start and 0.18 GB, also those that compute on the CPU. The functions here have the library's own names and types,
 * so that callers are written as if it were linked; each finds the real one by its name. Without the library all of
 * them say CUBLAS_STATUS_NOT_INITIALIZED, which callers report as they report any refusal. */
#include <cublasLt.h>

#include <dlfcn.h>

namespace {

#define TEXT2(x) #x
#define TEXT(x) TEXT2(x)

void *open_library() {
    void *l = dlopen("libcublasLt.so." TEXT(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    return l ? l : dlopen(MULL_CUBLASLT, RTLD_NOW | RTLD_LOCAL); /* where it was when this was built */
}

/* The library's function of this name, NULL without it. */
void *find(const char *name) {
    static void *const library = open_library(); /* once, whatever threads ask */
    return library ? dlsym(library, name) : nullptr;
}

template <typename F> F real(F, const char *name) {
    return reinterpret_cast<F>(find(name));
}

} // namespace

/* A function of the library with these parameters, called with these names of theirs. */
#define FORWARD(name, parameters, ...)                                                                                 \
    extern "C" cublasStatus_t CUBLASWINAPI name parameters {                                                           \
        static auto *const f = real(&name, #name);                                                                     \
        return f ? f(__VA_ARGS__) : CUBLAS_STATUS_NOT_INITIALIZED;                                                     \
    }

extern "C" const char *CUBLASWINAPI cublasLtGetStatusString(cublasStatus_t status) {
    static auto *const f = real(&cublasLtGetStatusString, "cublasLtGetStatusString");
    return f ? f(status) : "the library libcublasLt.so." TEXT(CUBLAS_VER_MAJOR) " cannot be loaded";
}

FORWARD(cublasLtCreate, (cublasLtHandle_t * handle), handle)
FORWARD(cublasLtDestroy, (cublasLtHandle_t handle), handle)
FORWARD(cublasLtMatmul,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
         cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
         const void *c, cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
         const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_size, cudaStream_t stream),
        handle, desc, alpha, a, a_layout, b, b_layout, beta, c, c_layout, d, d_layout, algo, workspace, workspace_size,
        stream)
FORWARD(cublasLtMatmulAlgoGetHeuristic,
        (cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int asked,
         cublasLtMatmulHeuristicResult_t results[], int *found),
        handle, desc, a, b, c, d, preference, asked, results, found)
FORWARD(cublasLtMatmulDescCreate, (cublasLtMatmulDesc_t * desc, cublasComputeType_t compute, cudaDataType_t scale),
        desc, compute, scale)
FORWARD(cublasLtMatmulDescDestroy, (cublasLtMatmulDesc_t desc), desc)
FORWARD(cublasLtMatmulDescSetAttribute,
        (cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t size), desc,
        attribute, value, size)
FORWARD(cublasLtMatrixLayoutCreate,
        (cublasLtMatrixLayout_t * layout, cudaDataType type, uint64_t rows, uint64_t cols, int64_t ld), layout, type,
        rows, cols, ld)
FORWARD(cublasLtMatrixLayoutDestroy, (cublasLtMatrixLayout_t layout), layout)
FORWARD(cublasLtMatmulPreferenceCreate, (cublasLtMatmulPreference_t * preference), preference)
FORWARD(cublasLtMatmulPreferenceDestroy, (cublasLtMatmulPreference_t preference), preference)
FORWARD(cublasLtMatmulPreferenceSetAttribute,
        (cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
         size_t size),
        preference, attribute, value, size)
