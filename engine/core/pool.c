/* Fork-join pool. Both sides wait by spinning a little (a decode step issues hundreds of runs a few microseconds apart)
 * and then sleep on a condition variable (a futex), so an idle engine burns nothing and a late worker gets the CPU.
 * Parts are claimed from one atomic counter: which thread runs a part is chance, what the part computes is not. */
#include "engine/core/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SPINS = 4000, MAX_THREADS = 1024, MAX_CPUS = 8192 };

struct mull_pool {
    int threads;
    pthread_t *tid;
    int started;
    pthread_mutex_t mu;
    pthread_cond_t wake, done;
    atomic_uint epoch;  /* one more for each run */
    atomic_int next;    /* next part to claim */
    atomic_int busy;    /* workers that have not finished this epoch */
    atomic_int joining; /* the caller sleeps until busy is 0 */
    int sleepers;       /* workers asleep; under mu */
    mull_task_fn fn;
    void *ctx;
    int parts;
    bool stop;
};

static _Thread_local bool inside; /* a task is running on this thread: nested runs are serial */

static void claim(mull_pool *p) {
    inside = true;
    for (;;) {
        int i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->parts) break;
        p->fn(p->ctx, i, p->parts);
    }
    inside = false;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void *worker(void *arg) {
    mull_pool *p = arg;
    unsigned seen = 0;
    for (;;) {
        int spins = 0;
        while (atomic_load_explicit(&p->epoch, memory_order_acquire) == seen && spins++ < SPINS) relax();
        if (atomic_load_explicit(&p->epoch, memory_order_acquire) == seen) {
            pthread_mutex_lock(&p->mu);
            p->sleepers++;
            while (atomic_load(&p->epoch) == seen) pthread_cond_wait(&p->wake, &p->mu);
            p->sleepers--;
            pthread_mutex_unlock(&p->mu);
        }
        seen = atomic_load_explicit(&p->epoch, memory_order_acquire);
        if (p->stop) return NULL;
        claim(p);
        /* Sequentially consistent on both sides: either this sees joining, or the caller sees busy at 0. */
        if (atomic_fetch_sub(&p->busy, 1) == 1 && atomic_load(&p->joining)) {
            pthread_mutex_lock(&p->mu);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->mu);
        }
    }
}

/* Whole CPUs of one cpu.max file, rounded down: a thread more would be throttled in the middle of a run, and everyone
 * waits for the last. 0 when it grants all or cannot be read. */
static int quota_of(const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    char quota[64];
    long period = 0;
    int n = fscanf(f, "%63s %ld", quota, &period);
    fclose(f);
    if (n != 2 || !strcmp(quota, "max") || period <= 0) return 0;
    long c = strtol(quota, NULL, 10) / period;
    return c < 1 ? 1 : c > MAX_THREADS ? MAX_THREADS : (int)c;
}

int mull_pool_quota(const char *root, const char *proc_cgroup) {
    char line[2048], group[2048] = "", path[4352];
    FILE *f = fopen(proc_cgroup, "r");
    if (f) {
        while (fgets(line, sizeof line, f))
            if (!strncmp(line, "0::/", 4)) {
                line[strcspn(line, "\n")] = 0;
                snprintf(group, sizeof group, "%s", line + 3);
            }
        fclose(f);
    }
    /* Every group on the way to the root limits what is below it. */
    int least = 0;
    for (;;) {
        snprintf(path, sizeof path, "%s%s/cpu.max", root, group);
        int q = quota_of(path);
        if (q > 0 && (least == 0 || q < least)) least = q;
        char *up = strrchr(group, '/');
        if (!up) return least;
        *up = 0;
    }
}

static int default_threads(void) {
    int n = 1, q = mull_pool_quota("/sys/fs/cgroup", "/proc/self/cgroup");
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    size_t size = CPU_ALLOC_SIZE(MAX_CPUS);
    if (set && sched_getaffinity(0, size, set) == 0) n = CPU_COUNT_S(size, set);
    CPU_FREE(set);
    if (q > 0 && q < n) n = q;
    const char *share = getenv("MULL_THREADS"); /* what the worker leaves to this job */
    int most = share ? atoi(share) : 0;
    if (most > 0 && most < n) n = most;
    return n < 1 ? 1 : n;
}

mull_pool *mull_pool_create(int threads) {
    if (threads <= 0) threads = default_threads();
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    mull_pool *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->threads = threads;
    p->tid = calloc((size_t)threads, sizeof *p->tid);
    if (!p->tid) {
        free(p);
        return NULL;
    }
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    /* Fewer threads than asked for still compute the same results. */
    for (int i = 0; i < threads - 1; i++) {
        if (pthread_create(&p->tid[i], NULL, worker, p) != 0) break;
        p->started++;
    }
    p->threads = p->started + 1;
    return p;
}

static void publish(mull_pool *p) {
    pthread_mutex_lock(&p->mu);
    atomic_fetch_add(&p->epoch, 1);
    if (p->sleepers > 0) pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mu);
}

void mull_pool_destroy(mull_pool *p) {
    if (!p) return;
    p->stop = true;
    publish(p);
    for (int i = 0; i < p->started; i++) pthread_join(p->tid[i], NULL);
    pthread_cond_destroy(&p->wake);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->mu);
    free(p->tid);
    free(p);
}

int mull_pool_threads(const mull_pool *p) {
    return p ? p->threads : 1;
}

void mull_pool_run(mull_pool *p, mull_task_fn fn, void *ctx, int parts) {
    if (parts <= 0) return;
    if (!p || p->started == 0 || parts == 1 || inside) {
        for (int i = 0; i < parts; i++) fn(ctx, i, parts);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->parts = parts;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->busy, p->started, memory_order_relaxed);
    publish(p);
    claim(p);
    for (int spins = 0; spins < SPINS && atomic_load_explicit(&p->busy, memory_order_acquire) > 0; spins++) relax();
    if (atomic_load_explicit(&p->busy, memory_order_acquire) == 0) return;
    pthread_mutex_lock(&p->mu);
    atomic_store(&p->joining, 1);
    while (atomic_load(&p->busy) > 0) pthread_cond_wait(&p->done, &p->mu);
    atomic_store(&p->joining, 0);
    pthread_mutex_unlock(&p->mu);
}
