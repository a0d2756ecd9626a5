/* A fork-join thread pool. The caller takes part, so a pool of n threads starts n - 1. One run at a
 * time per pool; a nested run from inside a task executes serially. Partition work by part number, never
 * by thread timing, so results do not depend on the thread count. */
#ifndef MULL_ENGINE_CORE_POOL_H
#define MULL_ENGINE_CORE_POOL_H

typedef struct mull_pool mull_pool;
typedef void (*mull_task_fn)(void *ctx, int part, int parts);

/* threads <= 0: as many as this process may use CPUs (affinity and cgroup quota), never more. More than that only runs
 * when asked for by number. Fewer when the system refuses threads; NULL on no memory. */
mull_pool *mull_pool_create(int threads);
void mull_pool_destroy(mull_pool *p);
int mull_pool_threads(const mull_pool *p); /* NULL pool: 1 */
/* Calls fn(ctx, part, parts) for part = 0..parts-1 and returns when all are done. A NULL pool runs them here. */
void mull_pool_run(mull_pool *p, mull_task_fn fn, void *ctx, int parts);

/* Whole CPUs that the cgroup v2 limits of this process grant, 0 when none limits it. root: where cgroups are mounted,
 * proc_cgroup: the file that names this process's group. */
int mull_pool_quota(const char *root, const char *proc_cgroup);

#endif
