/* One CUDA device as the engine's C code sees it. Only in builds with MULL_HAVE_CUDA.
 *
 * A context owns one stream; all work of its ops is queued there in order, so no op needs an event. Errors are sticky:
 * the first that is seen is kept with the op and its shape, ops after it do nothing, and whoever waits for results
 * (mull_cuda_get, mull_cuda_sync) is told. So ops return nothing and a model's code reads like the CPU's. Memory is
 * taken when something is created (weights, activations, cache), never inside a step. One context serves one thread. */
#ifndef MULL_ENGINE_CORE_CUDA_H
#define MULL_ENGINE_CORE_CUDA_H

#ifdef __cplusplus
extern "C" {
#endif

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mull_cuda mull_cuda;

typedef struct mull_cuda_info {
    char name[128];
    int device, major, minor, sms; /* compute capability, multiprocessors */
    size_t total, l2, shared;      /* bytes of memory and of L2; shared memory that one block may have */
    int driver, runtime;           /* 13000 for 13.0 */
} mull_cuda_info;

/* Devices that this process can use; 0 without a driver. */
int mull_cuda_devices(void);
/* Opens device (an index among the visible ones). One clear error for: no device, a driver older than the runtime, a
 * device this build has no code for. */
int mull_cuda_open(int device, mull_cuda **out, mull_error *err);
void mull_cuda_close(mull_cuda *c);
const mull_cuda_info *mull_cuda_get_info(const mull_cuda *c);
void *mull_cuda_stream(const mull_cuda *c); /* its cudaStream_t */
/* Bytes that can still be taken, 0 when the device does not answer. */
size_t mull_cuda_free_bytes(mull_cuda *c);

/* Device memory, aligned to 256 bytes. A failure says what for, how much and how much there is. */
int mull_cuda_alloc(mull_cuda *c, size_t bytes, const char *what_for, void **out, mull_error *err);
void mull_cuda_release(mull_cuda *c, void *p); /* waits for the stream; p may be NULL */

/* Queues a copy to the device; src may be used again at once, it goes through pinned memory. */
void mull_cuda_put(mull_cuda *c, void *device, const void *src, size_t bytes);
/* Room in pinned memory to write into before mull_cuda_send; at most MULL_CUDA_STAGE bytes. */
enum { MULL_CUDA_STAGE = 8 << 20 };
void *mull_cuda_stage(mull_cuda *c);
/* Queues the copy of the first bytes of what mull_cuda_stage returned last. */
void mull_cuda_send(mull_cuda *c, void *device, size_t bytes);
void mull_cuda_zero(mull_cuda *c, void *device, size_t bytes);
void mull_cuda_move(mull_cuda *c, void *to, const void *from, size_t bytes); /* device to device */
/* Waits for everything queued, then copies from the device. Returns the first error of all that came before. */
int mull_cuda_get(mull_cuda *c, void *dst, const void *device, size_t bytes, mull_error *err);
int mull_cuda_sync(mull_cuda *c, mull_error *err);
/* Whether an error is kept: ops ask before they queue. */
bool mull_cuda_failed(const mull_cuda *c);
/* Keeps the error of op (a cudaError_t, 0 is none); shape by printf. */
void mull_cuda_note(mull_cuda *c, int cuda_error, const char *op, const char *shape, ...)
    __attribute__((format(printf, 4, 5)));
/* Keeps an error of ours: arguments out of range, a library that has no answer. */
void mull_cuda_refuse(mull_cuda *c, int code, const char *op, const char *todo, const char *why, ...)
    __attribute__((format(printf, 5, 6)));

/* Scratch of the ops, made larger only between steps (mull_cuda_reserve) and handed out by mull_cuda_scratch; an op
 * that asks for more than is reserved is refused. Slots may be in use at once. */
typedef enum mull_cuda_slot {
    MULL_CUDA_ATTENTION, /* partial sums of split keys */
    MULL_CUDA_QUANT,     /* int8 rows and their scales */
    MULL_CUDA_PRODUCT,   /* int32 products */
    MULL_CUDA_SAMPLE,    /* tempered logits */
    MULL_CUDA_SLOTS
} mull_cuda_slot;
int mull_cuda_reserve(mull_cuda *c, mull_cuda_slot slot, size_t bytes, mull_error *err);
void *mull_cuda_scratch(mull_cuda *c, mull_cuda_slot slot, size_t bytes); /* NULL when refused */

/* Changes whenever reserved scratch moves: what was captured before must not be replayed then. */
uint64_t mull_cuda_scratch_epoch(const mull_cuda *c);

/* Graphs (a captured sequence of launches that is replayed at the cost of one). Between begin and end nothing runs:
 * what is queued is recorded with its arguments; waiting, allocating and uploads are not allowed there. end gives NULL
 * when the capture failed, which is no error of the context: queue the same eagerly then. */
typedef struct mull_cuda_graph mull_cuda_graph;
void mull_cuda_graph_begin(mull_cuda *c);
mull_cuda_graph *mull_cuda_graph_end(mull_cuda *c);
void mull_cuda_graph_replay(mull_cuda *c, const mull_cuda_graph *g);
void mull_cuda_graph_destroy(mull_cuda_graph *g); /* of work that was waited for; g may be NULL */

/* What a library keeps with the context (cuBLASLt's handle and algorithms): freed by free_it when it closes. */
void *mull_cuda_extra(const mull_cuda *c);
void mull_cuda_set_extra(mull_cuda *c, void *extra, void (*free_it)(void *));

#ifdef __cplusplus
}
#endif
#endif
