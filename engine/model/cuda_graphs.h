/* Decoding under CUDA graphs: which batches share one, and the graphs that were captured. Between two steps of decoding
 * only numbers in device memory change (ids, positions, page tables, the plan of attention), so a batch that is filled
 * up to the size of its bucket is one captured sequence of launches, whatever its sequences are. Plain C over
 * core/cuda.h. */
#ifndef MULL_ENGINE_MODEL_CUDA_GRAPHS_H
#define MULL_ENGINE_MODEL_CUDA_GRAPHS_H

#include "engine/core/cuda.h"

enum { MULL_CUDA_GRAPH_ROWS = 256, MULL_CUDA_GRAPHS = 64 };

/* What a graph was captured for: sizes of launches, and where it reads. */
typedef struct mull_cuda_bucket {
    int32_t rows, work, joins; /* of the filled-up batch */
    const void *cache, *batch; /* keys of the first layer; the batch's device memory */
    uint64_t epoch;            /* mull_cuda_scratch_epoch */
} mull_cuda_bucket;

typedef struct mull_cuda_graphs {
    struct {
        mull_cuda_bucket key;
        mull_cuda_graph *graph; /* NULL: met once, not captured yet */
        uint64_t used;          /* 0: empty */
    } list[MULL_CUDA_GRAPHS];
    uint64_t clock;
    bool off; /* a capture failed, or MULL_CUDA_GRAPHS=0 */
} mull_cuda_graphs;

/* Rows of a batch of n decoding sequences: as they are up to 8, whose products have kernels of their own, then in steps
 * of at most a quarter; 0: too many. */
int32_t mull_cuda_bucket_rows(int64_t n);
/* Entries of its plan: the next power of two. */
int32_t mull_cuda_bucket_work(int32_t n);

/* NULL: queue the batch eagerly. *capture is set when it should be captured meanwhile: the second time a bucket is met,
 * so that what the first call of a kernel or library does is not part of it. */
mull_cuda_graph *mull_cuda_graphs_find(mull_cuda_graphs *g, const mull_cuda_bucket *key, bool *capture);
/* Keeps what was captured for key; NULL: there will be no more captures. */
void mull_cuda_graphs_keep(mull_cuda_graphs *g, const mull_cuda_bucket *key, mull_cuda_graph *graph);
void mull_cuda_graphs_fini(mull_cuda_graphs *g);

#endif
