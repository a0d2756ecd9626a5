/* One scheduling pass; the rules are in policy.h. Candidates go into a binary heap instead of a full sort, because a
 * pass usually starts a handful of jobs out of a hundred thousand. */
#include "scheduler/policy/policy.h"

const char *mull_why_name(mull_why why) {
    switch (why) {
    case MULL_WHY_NONE:
        return "";
    case MULL_WHY_RESOURCES:
        return "Resources";
    case MULL_WHY_PRIORITY:
        return "Priority";
    case MULL_WHY_DEPENDENCY:
        return "Dependency";
    case MULL_WHY_BEGIN_TIME:
        return "BeginTime";
    case MULL_WHY_HELD:
        return "Held";
    case MULL_WHY_DRAINED:
        return "DrainedNodes";
    }
    return "";
}

/* True when a must start before b. */
static bool before(const mull_policy_job *jobs, uint32_t a, uint32_t b) {
    if (jobs[a].priority != jobs[b].priority) return jobs[a].priority > jobs[b].priority;
    return jobs[a].id < jobs[b].id;
}

static void sift_down(const mull_policy_job *jobs, uint32_t *heap, size_t n, size_t i) {
    for (;;) {
        size_t best = i, l = 2 * i + 1, r = l + 1;
        if (l < n && before(jobs, heap[l], heap[best])) best = l;
        if (r < n && before(jobs, heap[r], heap[best])) best = r;
        if (best == i) return;
        uint32_t t = heap[i];
        heap[i] = heap[best];
        heap[best] = t;
        i = best;
    }
}

/* What of this node the job would take: free and total of the one kind it uses. */
static void offer(const mull_policy_node *n, int32_t gpus, int32_t *need, int32_t *free, int32_t *total) {
    bool cuda = gpus > 0 || n->total_cpu == 0;
    *need = gpus > 0 ? gpus : 1;
    *free = cuda ? n->free_cuda : n->free_cpu;
    *total = cuda ? n->total_cuda : n->total_cpu;
}

typedef enum fit { FIT_NOW, FIT_LATER, FIT_DRAINED, FIT_NEVER } fit;

static fit place(const mull_policy_in *in, const mull_policy_job *job, size_t *chosen) {
    fit result = FIT_NEVER;
    int32_t best_free = 0;
    bool best_avoided = false;
    for (size_t i = 0; i < in->node_count; i++) {
        const mull_policy_node *n = &in->nodes[i];
        int32_t need, free, total;
        offer(n, job->gpus, &need, &free, &total);
        if (!n->up || total < need) continue;
        if (n->drained) {
            if (result == FIT_NEVER) result = FIT_DRAINED;
            continue;
        }
        if (free < need) {
            if (result != FIT_NOW) result = FIT_LATER;
            continue;
        }
        bool avoided = job->avoid_node >= 0 && (size_t)job->avoid_node == i;
        bool better = result != FIT_NOW || (best_avoided && !avoided) ||
                      (best_avoided == avoided && (job->gpus > 0 ? free < best_free : free > best_free));
        if (!better) continue;
        result = FIT_NOW;
        best_free = free;
        best_avoided = avoided;
        *chosen = i;
    }
    return result;
}

static void take(mull_policy_node *n, int32_t gpus) {
    if (gpus > 0)
        n->free_cuda -= gpus;
    else if (n->total_cpu == 0)
        n->free_cuda--;
    else
        n->free_cpu--;
}

/* Rule 1. Returns NONE for a candidate. */
static mull_why not_yet(const mull_policy_job *j, int64_t now_ms) {
    if (j->held) return MULL_WHY_HELD;
    if (j->dep != MULL_DEP_MET) return MULL_WHY_DEPENDENCY;
    if (j->eligible_ms > now_ms) return MULL_WHY_BEGIN_TIME;
    return MULL_WHY_NONE;
}

void mull_policy_run(const mull_policy_in *in, mull_policy_out *out) {
    uint32_t *heap = out->scratch;
    size_t n = 0;
    out->decision_count = 0;
    out->next_ms = 0;
    for (size_t i = 0; i < in->job_count; i++) {
        const mull_policy_job *j = &in->jobs[i];
        mull_why why = not_yet(j, in->now_ms);
        if (why == MULL_WHY_BEGIN_TIME && (!out->next_ms || j->eligible_ms < out->next_ms))
            out->next_ms = j->eligible_ms;
        /* Whoever is not reached below waits for someone with a better place. */
        if (out->reasons) out->reasons[i] = (uint8_t)(why == MULL_WHY_NONE ? MULL_WHY_PRIORITY : why);
        if (why == MULL_WHY_NONE) heap[n++] = (uint32_t)i;
    }
    for (size_t i = n / 2; i-- > 0;) sift_down(in->jobs, heap, n, i);

    bool blocked[2] = {false, false}; /* by kind: CPU, GPU */
    /* A queue full of jobs that no node can hold costs one look at the nodes, not one a job. */
    int32_t hopeless_gpus = -1;
    fit hopeless = FIT_NEVER;
    while (n > 0 && out->decision_count < out->max_decisions && !(blocked[0] && blocked[1])) {
        uint32_t job = heap[0];
        heap[0] = heap[--n];
        sift_down(in->jobs, heap, n, 0);
        const mull_policy_job *j = &in->jobs[job];
        int kind = j->gpus > 0;
        if (blocked[kind]) continue;
        size_t node = 0;
        fit f = j->gpus == hopeless_gpus ? hopeless : place(in, j, &node);
        mull_why why = f == FIT_DRAINED ? MULL_WHY_DRAINED : MULL_WHY_RESOURCES;
        if (f == FIT_NOW) {
            take(&in->nodes[node], j->gpus);
            out->decisions[out->decision_count++] = (mull_policy_decision){job, (uint32_t)node};
            why = MULL_WHY_NONE;
        } else if (f == FIT_LATER) {
            blocked[kind] = true;
        } else {
            hopeless_gpus = j->gpus;
            hopeless = f;
        }
        if (out->reasons) out->reasons[job] = (uint8_t)why;
    }
}
