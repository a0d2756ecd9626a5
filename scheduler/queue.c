/* Arrays with id maps beside them; deletion swaps with the last element. See queue.h. */
#include "scheduler/queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int mull__queue_reserve(void **array, size_t *cap, size_t count, size_t size) {
    if (count < *cap) return 0;
    size_t bigger = *cap ? *cap * 2 : 64;
    if (bigger > UINT32_MAX / 2 || bigger > SIZE_MAX / size) return -1;
    void *p = realloc(*array, bigger * size);
    if (!p) return -1;
    *array = p;
    *cap = bigger;
    return 0;
}

void mull_queue_fini(mull_queue *q) {
    for (size_t i = 0; i < q->node_count; i++) {
        free(q->nodes[i].devices);
        free(q->nodes[i].labels);
    }
    for (size_t i = 0; i < q->attempt_count; i++) free(q->attempts[i].parts);
    free(q->words);
    free(q->nodes);
    free(q->jobs);
    free(q->attempts);
    free(q->teams);
    free(q->team_names);
    free(q->users);
    free(q->user_names);
    mull_idmap_fini(&q->by_job);
    mull_idmap_fini(&q->by_user);
    mull_idmap_fini(&q->by_fence);
    *q = (mull_queue){0};
}

bool mull_queue_waits(const mull_policy_job *job) {
    return job->dep == MULL_DEP_WAIT || job->tasks == 0;
}

void mull_queue_take_tasks(mull_queue *q, int64_t id, int32_t k) {
    uint32_t i;
    if (!mull_idmap_get(&q->by_job, id, &i)) return;
    q->waiting -= mull_queue_waits(&q->jobs[i]);
    q->jobs[i].tasks -= k < q->jobs[i].tasks ? k : q->jobs[i].tasks;
    q->waiting += mull_queue_waits(&q->jobs[i]);
}

int mull_queue_put_job(mull_queue *q, const mull_policy_job *job) {
    uint32_t i;
    if (mull_idmap_get(&q->by_job, job->id, &i)) {
        q->waiting -= mull_queue_waits(&q->jobs[i]);
        q->jobs[i] = *job;
    } else {
        if (mull__queue_reserve((void **)&q->jobs, &q->job_cap, q->job_count, sizeof *q->jobs) != 0 ||
            mull_idmap_put(&q->by_job, job->id, (uint32_t)q->job_count) != 0)
            return -1;
        q->jobs[q->job_count++] = *job;
    }
    q->waiting += mull_queue_waits(job);
    if (job->id > q->newest_id) q->newest_id = job->id;
    return 0;
}

void mull_queue_del_job(mull_queue *q, int64_t id) {
    uint32_t i;
    if (!mull_idmap_get(&q->by_job, id, &i)) return;
    mull_idmap_del(&q->by_job, id);
    q->waiting -= mull_queue_waits(&q->jobs[i]);
    if (i != --q->job_count) {
        q->jobs[i] = q->jobs[q->job_count];
        mull_idmap_put(&q->by_job, q->jobs[i].id, i); /* replaces, so it cannot fail */
    }
}

void mull_queue_nominate(mull_queue *q, int64_t job, bool nominated) {
    uint32_t i;
    if (mull_idmap_get(&q->by_job, job, &i)) q->jobs[i].nominated = nominated;
}

const mull_policy_job *mull_queue_job(const mull_queue *q, int64_t id) {
    uint32_t i;
    return mull_idmap_get(&q->by_job, id, &i) ? &q->jobs[i] : NULL;
}

static int compare_ids(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

size_t mull_queue_missing_jobs(const mull_queue *q, int64_t from, int64_t to, const int64_t *ids, size_t n,
                               int64_t *out, size_t cap) {
    size_t k = 0;
    for (size_t i = 0; i < q->job_count && k < cap; i++) {
        int64_t id = q->jobs[i].id;
        if (id <= from || id > to) continue;
        if (n == 0 || !bsearch(&id, ids, n, sizeof *ids, compare_ids)) out[k++] = id;
    }
    return k;
}

int32_t mull_queue_find_node(const mull_queue *q, const char *name) {
    for (size_t i = 0; i < q->node_count; i++)
        if (strcmp(q->nodes[i].name, name) == 0) return (int32_t)i;
    return -1;
}

int32_t mull_queue_put_node(mull_queue *q, const char *name, const char *boot, const mull_device *devices, size_t n) {
    int32_t at = mull_queue_find_node(q, name);
    if (at < 0) {
        if (mull__queue_reserve((void **)&q->nodes, &q->node_cap, q->node_count, sizeof *q->nodes) != 0) return -1;
        at = (int32_t)q->node_count;
    }
    if (n > MULL_MAX_DEVICES) n = MULL_MAX_DEVICES;
    mull_device *copy = calloc(n + 1, sizeof *copy);
    if (!copy) return -1;
    mull_node *node = &q->nodes[at];
    if ((size_t)at == q->node_count) {
        *node = (mull_node){0};
        q->node_count++;
    }
    for (size_t i = 0; i < n; i++) {
        copy[i] = (mull_device){devices[i].cuda, devices[i].index, 0};
        for (size_t k = 0; k < node->device_count; k++)
            if (node->devices[k].cuda == copy[i].cuda && node->devices[k].index == copy[i].index)
                copy[i].fence = node->devices[k].fence;
    }
    free(node->devices);
    node->devices = copy;
    node->device_count = n;
    snprintf(node->name, sizeof node->name, "%s", name);
    snprintf(node->boot, sizeof node->boot, "%s", boot);
    return at;
}

/* ---- labels ---- */

static bool has_word(const char *labels, const char *word, size_t len) {
    for (const char *at = labels; at && *at; at = strchr(at, '\n') + 1) /* every word ends with a newline */
        if (strcspn(at, "\n") == len && strncmp(at, word, len) == 0) return true;
    return false;
}

static void find_bits(const mull_queue *q, mull_node *n) {
    n->label_bits = 0;
    for (size_t i = 0; i < q->word_count; i++)
        if (has_word(n->labels, q->words[i], strlen(q->words[i]))) n->label_bits |= (uint64_t)1 << i;
}

void mull_queue_label_node(mull_queue *q, uint32_t node, const char *labels) {
    mull_node *n = &q->nodes[node];
    if (n->labels ? strcmp(n->labels, labels) == 0 : !*labels) return;
    free(n->labels);
    n->labels = *labels ? strdup(labels) : NULL;
    n->switch_id = 0;
    for (const char *at = n->labels; at && *at; at = strchr(at, '\n') + 1) {
        if (strncmp(at, "switch=", 7) != 0) continue;
        uint32_t h = 2166136261u; /* FNV-1a: two switches with one number would only be taken for near */
        for (const char *s = at + 7; *s != '\n'; s++) h = (h ^ (unsigned char)*s) * 16777619u;
        n->switch_id = (int32_t)(h >> 1) | 1;
    }
    find_bits(q, n);
}

uint64_t mull_queue_label_bits(mull_queue *q, const char *words) {
    uint64_t bits = 0;
    while (*words) {
        size_t len = strcspn(words, "\n"), i = 0;
        while (i < q->word_count && (strncmp(q->words[i], words, len) != 0 || q->words[i][len])) i++;
        if (i == q->word_count && len > 0) {
            if (!q->words) q->words = calloc(MULL_LABEL_WORDS, sizeof *q->words);
            if (!q->words || i == MULL_LABEL_WORDS || len >= MULL_NAME_MAX) {
                i = MULL_LABEL_WORDS; /* no node can be told to have it */
            } else {
                memcpy(q->words[i], words, len);
                q->word_count++;
                for (size_t k = 0; k < q->node_count; k++) find_bits(q, &q->nodes[k]);
            }
        }
        if (len > 0) bits |= (uint64_t)1 << i;
        words += len + (words[len] == '\n');
    }
    return bits;
}

mull_attempt *mull_queue_put_attempt(mull_queue *q, const mull_attempt *a) {
    mull_attempt *known = mull_queue_attempt(q, a->fence);
    if (known && known->parts != a->parts) free(a->parts);
    if (known) return known;
    if (mull__queue_reserve((void **)&q->attempts, &q->attempt_cap, q->attempt_count, sizeof *q->attempts) != 0 ||
        mull_idmap_put(&q->by_fence, a->fence, (uint32_t)q->attempt_count) != 0) {
        free(a->parts);
        return NULL;
    }
    q->attempts[q->attempt_count] = *a;
    return &q->attempts[q->attempt_count++];
}

mull_attempt *mull_queue_attempt(const mull_queue *q, int64_t fence) {
    uint32_t i;
    return mull_idmap_get(&q->by_fence, fence, &i) ? &q->attempts[i] : NULL;
}

void mull_queue_rename_holder(mull_queue *q, uint32_t node, int64_t from, int64_t to) {
    mull_node *n = &q->nodes[node];
    for (size_t i = 0; i < n->device_count; i++)
        if (n->devices[i].fence == from) n->devices[i].fence = to;
}

void mull_queue_del_attempt(mull_queue *q, int64_t fence) {
    uint32_t i;
    if (!mull_idmap_get(&q->by_fence, fence, &i)) return;
    mull_attempt *a = &q->attempts[i];
    mull_queue_rename_holder(q, a->node, fence, 0);
    for (size_t k = 0; k < a->part_count; k++) mull_queue_rename_holder(q, a->parts[k].node, fence, 0);
    free(a->parts);
    mull_idmap_del(&q->by_fence, fence);
    if (i != --q->attempt_count) {
        q->attempts[i] = q->attempts[q->attempt_count];
        mull_idmap_put(&q->by_fence, q->attempts[i].fence, i);
    }
}

mull_policy_node mull_queue_policy_node(const mull_queue *q, uint32_t node) {
    const mull_node *n = &q->nodes[node];
    mull_policy_node p = {.up = n->up,
                          .drained = n->drained,
                          .labels = n->label_bits,
                          .closes_ms = n->closes_ms,
                          .switch_id = n->switch_id};
    for (size_t i = 0; i < n->device_count; i++) {
        bool idle = n->devices[i].fence == 0;
        p.total_cuda += n->devices[i].cuda;
        p.free_cuda += n->devices[i].cuda && idle;
        p.total_cpu += !n->devices[i].cuda;
        p.free_cpu += !n->devices[i].cuda && idle;
    }
    return p;
}

size_t mull_queue_pick(const mull_queue *q, const mull_policy_place *at, mull_device *picked) {
    const mull_node *n = &q->nodes[at->node];
    size_t need = (size_t)mull_policy_units(at), got = 0;
    for (size_t i = 0; i < n->device_count && got < need; i++)
        if (n->devices[i].cuda == (at->gpus > 0) && n->devices[i].fence == 0) picked[got++] = n->devices[i];
    return got == need ? got : 0;
}

mull_part *mull_attempt_part(const mull_attempt *a, uint32_t node, const char *boot) {
    for (size_t i = 0; i < a->part_count; i++)
        if (a->parts[i].node == node && strcmp(a->parts[i].boot, boot) == 0) return &a->parts[i];
    return NULL;
}

void mull_queue_hold(mull_queue *q, uint32_t node, bool cuda, int32_t index, int64_t fence) {
    mull_node *n = &q->nodes[node];
    for (size_t i = 0; i < n->device_count; i++)
        if (n->devices[i].cuda == cuda && n->devices[i].index == index) n->devices[i].fence = fence;
}
