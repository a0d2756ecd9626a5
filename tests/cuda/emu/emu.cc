/* Runs the kernels on the CPU: see tests/cuda/README.md. Every thread of a block is a fiber; a warp's fibers run in
 * turn until each waits at a warp operation or a block barrier. Threads that wait at different places, or that end
 * while others wait, stop the test. Device memory has guard zones and starts as NaN. */
#include <cuda_runtime.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <map>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define FIBERS_ANNOTATED 1
#else
#define FIBERS_ANNOTATED 0
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

mull_emu_thread *mull_emu_self;
uint3 mull_emu_block;
dim3 mull_emu_grid, mull_emu_dim;

/* What was captured, as it was: sizes, arguments, order. */
struct mull_emu_graph {
    std::vector<std::function<void()>> work;
    bool broken; /* something was asked for that a capture does not allow */
};

namespace {

mull_emu_graph *capture; /* under way, or nullptr */
long replays, fail_capture;

enum { RUN, WARP, BLOCK, END };
enum { THREADS_MAX = 1024, STACK = 256 << 10, SLOT = 64, GUARD = 256 };

constexpr size_t MEMORY = (size_t)4 << 30;
int order;
long launches, fail_launch, fail_alloc;
mull_emu_thread threads[THREADS_MAX];
unsigned char slots[THREADS_MAX / 32][2][32 * SLOT];
unsigned char *shared_memory;
const std::function<void()> *kernel;
uint64_t shuffle_state = 1;
void *main_sp;

[[noreturn]] void die(const char *what) {
    fprintf(stderr, "emulated kernel: %s (block %u,%u,%u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z);
    for (int i = 0; i < 8; i++) fprintf(stderr, "  thread %d state %d line %d\n", i, threads[i].state, threads[i].line);
    abort();
}

#if defined(__x86_64__)
extern "C" void mull_emu_switch(void **save, void *to);
asm(".text\n.globl mull_emu_switch\n.type mull_emu_switch,@function\nmull_emu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nretq\n");
#else
ucontext_t contexts[THREADS_MAX], main_context;
#endif

#if FIBERS_ANNOTATED
void *fake_main;
void *fake[THREADS_MAX];
const void *main_bottom;
size_t main_size;
#endif

void to_main() {
    mull_emu_thread *t = mull_emu_self;
#if FIBERS_ANNOTATED
    __sanitizer_start_switch_fiber(t->state == END ? nullptr : &fake[t - threads], main_bottom, main_size);
#endif
#if defined(__x86_64__)
    mull_emu_switch(&t->sp, main_sp);
#else
    swapcontext(&contexts[t - threads], &main_context);
#endif
#if FIBERS_ANNOTATED
    __sanitizer_finish_switch_fiber(fake[t - threads], nullptr, nullptr);
#endif
}

void enter() {
#if FIBERS_ANNOTATED
    __sanitizer_finish_switch_fiber(nullptr, &main_bottom, &main_size);
#endif
    (*kernel)();
    mull_emu_self->state = END;
    to_main();
    abort();
}

void resume(mull_emu_thread *t) {
    mull_emu_self = t;
#if FIBERS_ANNOTATED
    __sanitizer_start_switch_fiber(&fake_main, t->stack, STACK);
#endif
#if defined(__x86_64__)
    mull_emu_switch(&main_sp, t->sp);
#else
    swapcontext(&main_context, &contexts[t - threads]);
#endif
#if FIBERS_ANNOTATED
    __sanitizer_finish_switch_fiber(fake_main, nullptr, nullptr);
#endif
}

void prepare(mull_emu_thread *t, int index) {
    if (!t->stack) {
        void *p = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) die("no memory for stacks");
        t->stack = (char *)p;
    }
    t->tid = {(unsigned)index % mull_emu_dim.x, (unsigned)index / mull_emu_dim.x % mull_emu_dim.y,
              (unsigned)index / (mull_emu_dim.x * mull_emu_dim.y)};
    t->lane = index % 32;
    t->warp = index / 32;
    t->state = RUN;
    t->ops = 0;
#if defined(__x86_64__)
    void **sp = (void **)(t->stack + STACK - 64);
    *--sp = nullptr; /* keeps the stack aligned as after a call */
    *--sp = (void *)enter;
    for (int i = 0; i < 6; i++) *--sp = nullptr;
    t->sp = sp;
#else
    getcontext(&contexts[index]);
    contexts[index].uc_stack.ss_sp = t->stack;
    contexts[index].uc_stack.ss_size = STACK;
    contexts[index].uc_link = nullptr;
    makecontext(&contexts[index], enter, 0);
#endif
}

/* The order of n turns. */
void turns(int n, int *out) {
    for (int i = 0; i < n; i++) out[i] = order == MULL_EMU_REVERSE ? n - 1 - i : i;
    if (order != MULL_EMU_SHUFFLED) return;
    for (int i = n - 1; i > 0; i--) {
        shuffle_state = shuffle_state * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(out[i], out[(shuffle_state >> 33) % (unsigned)(i + 1)]);
    }
}

/* Runs a warp until all its lanes wait for the block or have ended. */
void run_warp(mull_emu_thread *w, int lanes) {
    int at[32];
    for (;;) {
        turns(lanes, at);
        for (int i = 0; i < lanes; i++)
            if (w[at[i]].state == RUN) resume(&w[at[i]]);
        int state = w[0].state, line = w[0].line;
        for (int i = 1; i < lanes; i++)
            if (w[i].state != state || (state != END && w[i].line != line))
                die("lanes of a warp are at different places");
        if (state != WARP) return;
        if (lanes != 32) die("a warp operation in a part of a warp");
        for (int i = 0; i < 32; i++) w[i].state = RUN;
    }
}

void run_block(int n) {
    int warps = (n + 31) / 32, at[THREADS_MAX / 32];
    for (int i = 0; i < n; i++) prepare(&threads[i], i);
    for (;;) {
        turns(warps, at);
        for (int i = 0; i < warps; i++) run_warp(threads + 32 * at[i], min(32, n - 32 * at[i]));
        int state = threads[0].state, line = threads[0].line;
        for (int i = 32; i < n; i += 32)
            if (threads[i].state != state || (state == BLOCK && threads[i].line != line))
                die("warps of a block are at different barriers");
        if (state == END) return;
        for (int i = 0; i < n; i++) threads[i].state = RUN;
    }
}

/* ---- memory */
struct piece {
    size_t bytes;
    bool device;
};
std::map<char *, piece> pieces;
cudaError_t last;

cudaError_t fail(cudaError_t e) {
    last = e;
    return e;
}

void check(const char *p, size_t bytes) {
    for (int i = 0; i < GUARD; i++)
        if ((unsigned char)p[-GUARD + i] != 0xa5 || (unsigned char)p[bytes + (size_t)i] != 0xa5) {
            fprintf(stderr, "emulated device memory: written outside an allocation of %zu bytes\n", bytes);
            abort();
        }
}

cudaError_t take(void **p, size_t bytes, bool device) {
    *p = nullptr;
    if (fail_alloc && --fail_alloc == 0) return fail(cudaErrorMemoryAllocation);
    if (device && bytes > MEMORY - mull_emu_live_bytes()) return fail(cudaErrorMemoryAllocation);
    char *m = (char *)aligned_alloc(256, (bytes + 2 * GUARD + 255) / 256 * 256);
    if (!m) return fail(cudaErrorMemoryAllocation);
    memset(m, 0xa5, bytes + 2 * GUARD);
    memset(m + GUARD, 0xff, bytes);
    *p = m + GUARD;
    pieces[m + GUARD] = {bytes, device};
    return cudaSuccess;
}

cudaError_t give(void *p, bool device) {
    if (!p) return cudaSuccess;
    auto it = pieces.find((char *)p);
    if (it == pieces.end() || it->second.device != device) return fail(cudaErrorInvalidValue);
    check(it->first, it->second.bytes);
    free(it->first - GUARD);
    pieces.erase(it);
    return cudaSuccess;
}

/* Is [p, p + bytes) inside one device allocation? */
bool on_device(const void *p, size_t bytes) {
    auto it = pieces.upper_bound((char *)p);
    if (it == pieces.begin()) return false;
    --it;
    return it->second.device && (char *)p + bytes <= it->first + it->second.bytes;
}

} // namespace

static void launch_now(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body);

void mull_emu_launch(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    launches++;
    size_t n = (size_t)block.x * block.y * block.z;
    bool bad = n == 0 || n > THREADS_MAX || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu ||
               grid.y > 65535 || grid.z > 65535 || shared > 163 * 1024;
    if (fail_launch && --fail_launch == 0) {
        fail(cudaErrorLaunchFailure);
        return;
    }
    if (bad) {
        fail(cudaErrorInvalidValue);
        return;
    }
    if (capture)
        capture->work.push_back([=] { launch_now(grid, block, shared, body); });
    else
        launch_now(grid, block, shared, body);
}

static void launch_now(dim3 grid, dim3 block, size_t shared, const std::function<void()> &body) {
    size_t n = (size_t)block.x * block.y * block.z;
    kernel = &body;
    mull_emu_grid = grid;
    mull_emu_dim = block;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                mull_emu_block = {x, y, z};
                /* Exactly what was asked for, new for each block: what it reads of another block's is NaN. */
                shared_memory = shared ? (unsigned char *)aligned_alloc(16, (shared + 15) / 16 * 16) : nullptr;
                if (shared) memset(shared_memory, 0xff, shared);
                run_block((int)n);
                free(shared_memory);
            }
}

void mull_emu_queue(const std::function<void()> &work) {
    if (capture)
        capture->work.push_back(work);
    else
        work();
}

unsigned char *mull_emu_shared(void) {
    return shared_memory;
}

void mull_emu_sync(int line) {
    mull_emu_self->state = BLOCK;
    mull_emu_self->line = line;
    to_main();
}

const unsigned char *mull_emu_exchange(const void *mine, size_t size, int line) {
    mull_emu_thread *t = mull_emu_self;
    if (size > SLOT) die("an operand is too large");
    unsigned char *all = slots[t->warp][t->ops++ % 2];
    memcpy(all + SLOT * t->lane, mine, size);
    t->state = WARP;
    t->line = line;
    to_main();
    return all;
}

extern "C" void mull_emu_set_order(int o) {
    order = o;
}
extern "C" long mull_emu_launches(void) {
    return launches;
}
extern "C" void mull_emu_fail_launch(long n) {
    fail_launch = n;
}
extern "C" long mull_emu_replays(void) {
    return replays;
}
extern "C" void mull_emu_fail_capture(long n) {
    fail_capture = n;
}
extern "C" void mull_emu_fail_alloc(long n) {
    fail_alloc = n;
}
extern "C" size_t mull_emu_live_bytes(void) {
    size_t n = 0;
    for (auto &p : pieces) n += p.second.bytes;
    return n;
}
extern "C" void mull_emu_check_guards(void) {
    for (auto &p : pieces) check(p.first, p.second.bytes);
}

cudaError_t cudaGetLastError(void) {
    cudaError_t e = last;
    last = cudaSuccess;
    return e;
}
const char *cudaGetErrorString(cudaError_t e) {
    return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory" : "emulated error";
}
cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int d) {
    return d == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    *p = {};
    snprintf(p->name, sizeof p->name, "emulated on the CPU");
    p->totalGlobalMem = MEMORY;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int *v, cudaDeviceAttr a, int) {
    *v = a == cudaDevAttrMultiProcessorCount            ? 4
         : a == cudaDevAttrL2CacheSize                  ? 1 << 20
         : a == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 163 * 1024
         : a == cudaDevAttrComputeCapabilityMajor       ? 8
                                                        : 0;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *total = MEMORY;
    *free = *total - mull_emu_live_bytes();
    return cudaSuccess;
}
static cudaError_t not_captured(void);
cudaError_t cudaMalloc(void **p, size_t bytes) {
    if (cudaError_t e = not_captured()) return e;
    return take(p, bytes, true);
}
cudaError_t cudaFree(void *p) {
    return give(p, true);
}
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    return take(p, bytes, false);
}
cudaError_t cudaFreeHost(void *p) {
    return give(p, false);
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    if (bytes == 0) return cudaSuccess;
    if (on_device(to, bytes) != (kind != cudaMemcpyDeviceToHost) ||
        on_device(from, bytes) != (kind != cudaMemcpyHostToDevice))
        return fail(cudaErrorInvalidValue);
    mull_emu_queue([=] { memmove(to, from, bytes); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, bytes, kind, nullptr);
}
cudaError_t cudaMemsetAsync(void *p, int byte, size_t bytes, cudaStream_t) {
    if (bytes && !on_device(p, bytes)) return fail(cudaErrorInvalidValue);
    mull_emu_queue([=] { memset(p, byte, bytes); });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    *s = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}
/* A capture in which the host waits is lost. */
static cudaError_t not_captured(void) {
    if (!capture) return cudaSuccess;
    capture->broken = true;
    return fail(cudaErrorStreamCaptureUnsupported);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    if (capture) return fail(cudaErrorInvalidValue);
    capture = new mull_emu_graph();
    capture->broken = fail_capture && --fail_capture == 0;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph) {
    *graph = nullptr;
    if (!capture) return fail(cudaErrorInvalidValue);
    mull_emu_graph *g = capture;
    capture = nullptr;
    if (g->broken) {
        delete g;
        return fail(cudaErrorStreamCaptureInvalidated);
    }
    *graph = g;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new mull_emu_graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
    replays++;
    for (const auto &work : exec->work) work();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    if (cudaError_t e = not_captured()) return e;
    mull_emu_check_guards();
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = nullptr;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t) {
    *ms = 0;
    return cudaSuccess;
}
