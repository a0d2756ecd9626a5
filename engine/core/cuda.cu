/* Devices, memory, copies and errors; see cuda.h. Copies from pageable memory would wait for the stream, so every
 * upload goes through a ring of pinned buffers; an event says when a buffer may be written again. */
#include "engine/core/cuda.h"

#include <cuda_runtime.h>

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

constexpr int STAGES = 4;
const char *const WHAT_OPEN = "cannot use the GPU";

struct stage {
    void *memory;
    cudaEvent_t done;
    bool busy;
};

/* Asked for its attributes: they exist only where the build has code for the device. */
__global__ void probe_kernel(int *p) {
    if (p) *p = 1;
}

} // namespace

struct mull_cuda {
    mull_cuda_info info;
    cudaStream_t stream;
    stage stages[STAGES];
    int next; /* stage that is written next */
    void *scratch[MULL_CUDA_SLOTS];
    size_t scratch_bytes[MULL_CUDA_SLOTS];
    uint64_t scratch_epoch;
    bool capturing;
    void *extra;
    void (*free_extra)(void *);
    mull_error first; /* code 0: none */
};

extern "C" int mull_cuda_devices(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    cudaGetLastError(); /* "no driver" must not show up at the next call */
    return 0;
}

static int no_device(int device, cudaError_t e, int n, mull_error *err) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    cudaGetLastError();
    char where[32];
    snprintf(where, sizeof where, "cuda:%d", device);
    if (e == cudaErrorInsufficientDriver && driver > 0)
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT_OPEN, where, "update the NVIDIA driver, or use --device cpu",
                         "the driver supports CUDA %d.%d and this build needs %d.%d", driver / 1000, driver % 1000 / 10,
                         runtime / 1000, runtime % 1000 / 10);
    if (e == cudaErrorInsufficientDriver || e == cudaErrorNoDevice || (e == cudaSuccess && n == 0))
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT_OPEN, where,
                         "use --device cpu, or look at nvidia-smi and "
                         "CUDA_VISIBLE_DEVICES",
                         "%s",
                         driver > 0 ? "no NVIDIA GPU is visible to this process" : "no NVIDIA driver is installed");
    if (e != cudaSuccess)
        return mull_fail(err, MULL_EUNSUPPORTED, WHAT_OPEN, where, "look at nvidia-smi", "%s", cudaGetErrorString(e));
    return mull_fail(err, MULL_EARG, WHAT_OPEN, where, "choose one of the visible GPUs", "there %s %d GPU%s here",
                     n == 1 ? "is" : "are", n, n == 1 ? "" : "s");
}

static void read_info(mull_cuda *c, int device) {
    cudaDeviceProp p;
    mull_cuda_info *i = &c->info;
    int l2 = 0, shared = 0;
    i->device = device;
    if (cudaGetDeviceProperties(&p, device) == cudaSuccess) {
        snprintf(i->name, sizeof i->name, "%.120s", p.name);
        i->total = p.totalGlobalMem;
    }
    cudaDeviceGetAttribute(&i->major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&i->minor, cudaDevAttrComputeCapabilityMinor, device);
    cudaDeviceGetAttribute(&i->sms, cudaDevAttrMultiProcessorCount, device);
    cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device);
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    i->l2 = (size_t)l2;
    i->shared = (size_t)shared;
    cudaDriverGetVersion(&i->driver);
    cudaRuntimeGetVersion(&i->runtime);
}

extern "C" int mull_cuda_open(int device, mull_cuda **out, mull_error *err) {
    *out = NULL;
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || device < 0 || device >= n) return no_device(device, e, n, err);
    mull_cuda *c = (mull_cuda *)calloc(1, sizeof *c);
    if (!c) return mull_fail(err, MULL_ENOMEM, WHAT_OPEN, "", "", "out of memory");
    e = cudaSetDevice(device);
    if (e == cudaSuccess) {
        read_info(c, device);
        cudaFuncAttributes a;
        e = cudaFuncGetAttributes(&a, probe_kernel);
        if (e == cudaErrorNoKernelImageForDevice || c->info.major < 8) {
            int rc =
                mull_fail(err, MULL_EUNSUPPORTED, WHAT_OPEN, c->info.name,
                          "build with -DCMAKE_CUDA_ARCHITECTURES for this GPU (8.0 and later), or use --device cpu",
                          "this build has no code for compute capability %d.%d", c->info.major, c->info.minor);
            free(c);
            return rc;
        }
    }
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking);
    for (int i = 0; i < STAGES && e == cudaSuccess; i++) {
        e = cudaHostAlloc(&c->stages[i].memory, MULL_CUDA_STAGE, cudaHostAllocDefault);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&c->stages[i].done, cudaEventDisableTiming);
    }
    if (e != cudaSuccess) {
        cudaGetLastError();
        int rc =
            mull_fail(err, e == cudaErrorMemoryAllocation ? MULL_ENOMEM : MULL_EUNSUPPORTED, WHAT_OPEN, c->info.name,
                      "look at nvidia-smi: another process may hold it", "%s", cudaGetErrorString(e));
        mull_cuda_close(c);
        return rc;
    }
    *out = c;
    return MULL_OK;
}

extern "C" void mull_cuda_close(mull_cuda *c) {
    if (!c) return;
    cudaStreamSynchronize(c->stream);
    if (c->free_extra) c->free_extra(c->extra);
    for (int i = 0; i < MULL_CUDA_SLOTS; i++) cudaFree(c->scratch[i]);
    for (int i = 0; i < STAGES; i++) {
        if (c->stages[i].done) cudaEventDestroy(c->stages[i].done);
        cudaFreeHost(c->stages[i].memory);
    }
    if (c->stream) cudaStreamDestroy(c->stream);
    cudaGetLastError();
    free(c);
}

extern "C" const mull_cuda_info *mull_cuda_get_info(const mull_cuda *c) {
    return &c->info;
}

extern "C" void *mull_cuda_stream(const mull_cuda *c) {
    return c->stream;
}

extern "C" size_t mull_cuda_free_bytes(mull_cuda *c) {
    size_t free = 0, total = 0;
    (void)c;
    if (cudaMemGetInfo(&free, &total) == cudaSuccess) return free;
    cudaGetLastError();
    return 0;
}

extern "C" int mull_cuda_alloc(mull_cuda *c, size_t bytes, const char *what_for, void **out, mull_error *err) {
    *out = NULL;
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e == cudaSuccess) return MULL_OK;
    cudaGetLastError();
    *out = NULL;
    char what[160];
    snprintf(what, sizeof what, "cannot take GPU memory for %s", what_for);
    if (e == cudaErrorMemoryAllocation)
        return mull_fail(
            err, MULL_ENOMEM, what, c->info.name,
            "use bf16 or int8 weights, fewer cache tokens, a smaller batch or prefill chunk, or a larger GPU",
            "%.1f MiB are needed and %.1f of %.1f MiB are free", (double)bytes / 1048576,
            (double)mull_cuda_free_bytes(c) / 1048576, (double)c->info.total / 1048576);
    mull_cuda_note(c, e, "allocate", "%zu bytes", bytes);
    return mull_fail(err, MULL_EINTERNAL, what, c->info.name, "look at nvidia-smi and the kernel log", "%s",
                     cudaGetErrorString(e));
}

extern "C" void mull_cuda_release(mull_cuda *c, void *p) {
    if (!p) return;
    cudaStreamSynchronize(c->stream);
    cudaFree(p);
    cudaGetLastError();
}

extern "C" bool mull_cuda_failed(const mull_cuda *c) {
    return c->first.code != 0;
}

extern "C" void mull_cuda_note(mull_cuda *c, int cuda_error, const char *op, const char *shape, ...) {
    if (cuda_error == cudaSuccess || c->first.code) return;
    cudaError_t e = (cudaError_t)cuda_error;
    char where[256], text[200];
    va_list ap;
    va_start(ap, shape);
    vsnprintf(text, sizeof text, shape, ap);
    va_end(ap);
    snprintf(where, sizeof where, "%s %s", op, text);
    bool lost = e == cudaErrorECCUncorrectable || e == cudaErrorLaunchFailure;
    mull_fail(&c->first, e == cudaErrorMemoryAllocation ? MULL_ENOMEM : MULL_EINTERNAL, "the GPU failed", where,
              lost ? "look at the kernel log for Xid lines; another device may work" : "look at nvidia-smi",
              "%s on %s (the fault may be of an earlier kernel)", cudaGetErrorString(e), c->info.name);
}

extern "C" void mull_cuda_refuse(mull_cuda *c, int code, const char *op, const char *todo, const char *why, ...) {
    if (c->first.code) return;
    char text[512];
    va_list ap;
    va_start(ap, why);
    vsnprintf(text, sizeof text, why, ap);
    va_end(ap);
    mull_fail(&c->first, code, "cannot run an operation on the GPU", op, todo, "%s", text);
}

extern "C" void *mull_cuda_stage(mull_cuda *c) {
    stage *s = &c->stages[c->next];
    if (s->busy) mull_cuda_note(c, cudaEventSynchronize(s->done), "upload", "stage %d", c->next);
    s->busy = false;
    return s->memory;
}

extern "C" void mull_cuda_send(mull_cuda *c, void *device, size_t bytes) {
    stage *s = &c->stages[c->next];
    if (c->first.code || bytes == 0) return;
    cudaError_t e = cudaMemcpyAsync(device, s->memory, bytes, cudaMemcpyHostToDevice, c->stream);
    if (e == cudaSuccess) e = cudaEventRecord(s->done, c->stream);
    mull_cuda_note(c, e, "upload", "%zu bytes", bytes);
    s->busy = true;
    c->next = (c->next + 1) % STAGES;
}

extern "C" void mull_cuda_put(mull_cuda *c, void *device, const void *src, size_t bytes) {
    for (size_t at = 0; at < bytes;) {
        size_t n = bytes - at < (size_t)MULL_CUDA_STAGE ? bytes - at : (size_t)MULL_CUDA_STAGE;
        memcpy(mull_cuda_stage(c), (const char *)src + at, n);
        mull_cuda_send(c, (char *)device + at, n);
        at += n;
    }
}

extern "C" void mull_cuda_zero(mull_cuda *c, void *device, size_t bytes) {
    if (c->first.code || bytes == 0) return;
    mull_cuda_note(c, cudaMemsetAsync(device, 0, bytes, c->stream), "zero", "%zu bytes", bytes);
}

extern "C" void mull_cuda_move(mull_cuda *c, void *to, const void *from, size_t bytes) {
    if (c->first.code || bytes == 0) return;
    mull_cuda_note(c, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, c->stream), "copy", "%zu bytes",
                   bytes);
}

extern "C" int mull_cuda_sync(mull_cuda *c, mull_error *err) {
    mull_cuda_note(c, cudaStreamSynchronize(c->stream), "wait", "for the stream");
    cudaGetLastError();
    if (c->first.code && err) *err = c->first;
    return c->first.code;
}

extern "C" int mull_cuda_get(mull_cuda *c, void *dst, const void *device, size_t bytes, mull_error *err) {
    for (size_t at = 0; at < bytes && !c->first.code;) {
        size_t n = bytes - at < (size_t)MULL_CUDA_STAGE ? bytes - at : (size_t)MULL_CUDA_STAGE;
        void *pinned = mull_cuda_stage(c);
        cudaError_t e = cudaMemcpyAsync(pinned, (const char *)device + at, n, cudaMemcpyDeviceToHost, c->stream);
        if (e == cudaSuccess) e = cudaStreamSynchronize(c->stream);
        mull_cuda_note(c, e, "download", "%zu bytes", bytes);
        if (!c->first.code) memcpy((char *)dst + at, pinned, n);
        at += n;
    }
    return mull_cuda_sync(c, err);
}

extern "C" int mull_cuda_reserve(mull_cuda *c, mull_cuda_slot slot, size_t bytes, mull_error *err) {
    if (bytes <= c->scratch_bytes[slot]) return MULL_OK;
    mull_cuda_release(c, c->scratch[slot]);
    c->scratch[slot] = NULL;
    c->scratch_bytes[slot] = 0;
    c->scratch_epoch++;
    int rc = mull_cuda_alloc(c, bytes, "working memory", &c->scratch[slot], err);
    if (!rc) c->scratch_bytes[slot] = bytes;
    return rc;
}

extern "C" void *mull_cuda_scratch(mull_cuda *c, mull_cuda_slot slot, size_t bytes) {
    if (bytes <= c->scratch_bytes[slot]) return c->scratch[slot];
    mull_cuda_refuse(c, MULL_EINTERNAL, "scratch", "report this: the step's memory was planned too small",
                     "slot %d needs %zu bytes and has %zu", (int)slot, bytes, c->scratch_bytes[slot]);
    return NULL;
}

extern "C" void *mull_cuda_extra(const mull_cuda *c) {
    return c->extra;
}

extern "C" void mull_cuda_set_extra(mull_cuda *c, void *extra, void (*free_it)(void *)) {
    c->extra = extra;
    c->free_extra = free_it;
}

extern "C" uint64_t mull_cuda_scratch_epoch(const mull_cuda *c) {
    return c->scratch_epoch;
}

struct mull_cuda_graph {
    cudaGraphExec_t exec;
};

extern "C" void mull_cuda_graph_begin(mull_cuda *c) {
    if (c->first.code) return;
    /* Other threads of the process may allocate meanwhile. */
    c->capturing = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    cudaGetLastError();
}

extern "C" mull_cuda_graph *mull_cuda_graph_end(mull_cuda *c) {
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    if (!c->capturing) return NULL;
    c->capturing = false;
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);
    if (e == cudaSuccess && graph) e = cudaGraphInstantiate(&exec, graph, 0);
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    mull_cuda_graph *g = e == cudaSuccess && exec ? (mull_cuda_graph *)malloc(sizeof *g) : NULL;
    if (g)
        g->exec = exec;
    else if (exec)
        cudaGraphExecDestroy(exec);
    return g;
}

extern "C" void mull_cuda_graph_replay(mull_cuda *c, const mull_cuda_graph *g) {
    if (!c->first.code) mull_cuda_note(c, cudaGraphLaunch(g->exec, c->stream), "graph", "replayed");
}

extern "C" void mull_cuda_graph_destroy(mull_cuda_graph *g) {
    if (!g) return;
    cudaGraphExecDestroy(g->exec);
    cudaGetLastError();
    free(g);
}
