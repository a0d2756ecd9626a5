/* See cuda_graphs.h. */
#include "engine/model/cuda_graphs.h"

#include <stddef.h>

int32_t mull_cuda_bucket_rows(int64_t n) {
    if (n <= 0 || n > MULL_CUDA_GRAPH_ROWS) return 0;
    int32_t step = n <= 8 ? 1 : n <= 32 ? 4 : n <= 64 ? 8 : n <= 128 ? 16 : 32;
    return ((int32_t)n + step - 1) / step * step;
}

int32_t mull_cuda_bucket_work(int32_t n) {
    int32_t b = 1;
    while (b < n) b *= 2;
    return b;
}

static bool same(const mull_cuda_bucket *a, const mull_cuda_bucket *b) {
    return a->rows == b->rows && a->work == b->work && a->joins == b->joins && a->cache == b->cache &&
           a->batch == b->batch && a->epoch == b->epoch;
}

mull_cuda_graph *mull_cuda_graphs_find(mull_cuda_graphs *g, const mull_cuda_bucket *key, bool *capture) {
    int oldest = 0;
    *capture = false;
    if (g->off) return NULL;
    for (int i = 0; i < MULL_CUDA_GRAPHS; i++) {
        if (g->list[i].used && same(&g->list[i].key, key)) {
            g->list[i].used = ++g->clock;
            *capture = !g->list[i].graph;
            return g->list[i].graph;
        }
        if (g->list[i].used < g->list[oldest].used) oldest = i;
    }
    /* Its work was queued steps ago, and every step ends with a wait for its tokens. */
    mull_cuda_graph_destroy(g->list[oldest].graph);
    g->list[oldest].graph = NULL;
    g->list[oldest].key = *key;
    g->list[oldest].used = ++g->clock;
    return NULL;
}

void mull_cuda_graphs_keep(mull_cuda_graphs *g, const mull_cuda_bucket *key, mull_cuda_graph *graph) {
    for (int i = 0; graph && i < MULL_CUDA_GRAPHS; i++)
        if (g->list[i].used && same(&g->list[i].key, key)) {
            g->list[i].graph = graph;
            return;
        }
    g->off = true;
    mull_cuda_graph_destroy(graph);
}

void mull_cuda_graphs_fini(mull_cuda_graphs *g) {
    for (int i = 0; i < MULL_CUDA_GRAPHS; i++) mull_cuda_graph_destroy(g->list[i].graph);
    *g = (mull_cuda_graphs){0};
}
