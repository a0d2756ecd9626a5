/* See forecast.h. */
#include "scheduler/forecast.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STARTS = 256, PLACES = 2048, PREEMPTS = 64, GRACE_MS = 10000, OVERDUE_MS = 60000 };

static void *copy_of(const void *from, size_t count, size_t size, size_t more) {
    void *out = calloc(count + more + 1, size);
    if (out && count) memcpy(out, from, count * size);
    return out;
}

mull_forecast *mull_forecast_take(const mull_queue *q, const mull_policy_running *running, size_t running_count,
                                  const mull_policy_place *places, size_t place_count, int64_t now_ms) {
    mull_forecast *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->teams = copy_of(q->teams, f->team_count = q->team_count, sizeof *q->teams, 0);
    f->team_names = copy_of(q->team_names, q->team_count, sizeof *q->team_names, 0);
    f->users = copy_of(q->users, f->user_count = q->user_count, sizeof *q->users, 0);
    f->user_names = copy_of(q->user_names, q->user_count, sizeof *q->user_names, 0);
    f->jobs = copy_of(q->jobs, f->job_count = q->job_count, sizeof *q->jobs, 1);
    f->nodes = calloc(q->node_count + 1, sizeof *f->nodes);
    f->running = copy_of(running, f->running_count = running_count, sizeof *running, 0);
    f->places = copy_of(places, f->place_count = place_count, sizeof *places, 0);
    f->now_ms = now_ms;
    if (!f->teams || !f->team_names || !f->users || !f->user_names || !f->jobs || !f->nodes || !f->running ||
        !f->places) {
        mull_forecast_free(f);
        return NULL;
    }
    f->node_count = q->node_count;
    for (size_t i = 0; i < q->node_count; i++) f->nodes[i] = mull_queue_policy_node(q, (uint32_t)i);
    return f;
}

void mull_forecast_free(mull_forecast *f) {
    if (!f) return;
    free(f->teams);
    free(f->team_names);
    free(f->users);
    free(f->user_names);
    free(f->jobs);
    free(f->nodes);
    free(f->running);
    free(f->places);
    free(f);
}

typedef struct walk {
    mull_forecast *f;
    mull_forecast_result *out;
    mull_policy *policy;
    int64_t target, now_ms;
    size_t running_cap, place_cap;
    mull_policy_start starts[STARTS];
    mull_policy_place places[PLACES];
    mull_policy_preempt preempts[PREEMPTS];
} walk;

static int64_t wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void give(walk *w, const mull_policy_place *at, int32_t sign) {
    mull_policy_node *n = &w->f->nodes[at->node];
    int32_t units = sign * mull_policy_units(at);
    if (at->gpus)
        n->free_cuda += units;
    else
        n->free_cpu += units;
}

static int reserve(void **array, size_t *cap, size_t count, size_t size) {
    if (count <= *cap) return 0;
    size_t bigger = count * 2 + 64;
    void *p = realloc(*array, bigger * size);
    if (!p) return -1;
    *array = p;
    *cap = bigger;
    return 0;
}

static void note(walk *w, const mull_policy_job *j) {
    w->out->assumed += j->time_limit_ms <= 0;
    if (w->out->list_count < MULL_FORECAST_LIST)
        w->out->list[w->out->list_count++] = (mull_forecast_start){*j, w->now_ms};
}

/* One start of the last pass: the job runs from now on. 1: it is the target; -1 without memory. */
static int start(walk *w, const mull_policy_start *s) {
    mull_forecast *f = w->f;
    mull_policy_job *j = &f->jobs[s->job];
    if (j->id == w->target) {
        w->out->found = true;
        w->out->at_ms = w->now_ms;
        return 1;
    }
    note(w, j);
    w->out->ahead++;
    if (reserve((void **)&f->running, &w->running_cap, f->running_count + 1, sizeof *f->running) != 0 ||
        reserve((void **)&f->places, &w->place_cap, f->place_count + s->place_count, sizeof *f->places) != 0)
        return -1;
    int64_t length = j->time_limit_ms > 0 ? j->time_limit_ms : MULL_FORECAST_ASSUMED_S * 1000;
    f->running[f->running_count++] = (mull_policy_running){.started_ms = w->now_ms,
                                                           .saved_ms = w->now_ms,
                                                           .ends_ms = w->now_ms + length,
                                                           .first_place = (uint32_t)f->place_count,
                                                           .place_count = s->place_count,
                                                           .priority = j->priority,
                                                           .user = j->user};
    for (uint32_t k = 0; k < s->place_count; k++) {
        f->places[f->place_count++] = w->places[s->first_place + k];
        give(w, &w->places[s->first_place + k], -1);
    }
    j->tasks--;
    return 0;
}

/* Jobs with nothing left to start leave the pending set. */
static void sweep(mull_forecast *f) {
    for (size_t i = f->job_count; i-- > 0;)
        if (f->jobs[i].tasks <= 0 && f->jobs[i].dep == MULL_DEP_MET) f->jobs[i] = f->jobs[--f->job_count];
}

/* What ends by now gives its places back. */
static void end_due(walk *w) {
    mull_forecast *f = w->f;
    for (size_t i = f->running_count; i-- > 0;) {
        const mull_policy_running *r = &f->running[i];
        if (r->ends_ms > w->now_ms) continue;
        for (uint32_t k = 0; k < r->place_count; k++) give(w, &f->places[r->first_place + k], 1);
        f->running[i] = f->running[--f->running_count];
    }
}

/* 1: go on at the same moment, 0: nothing more can start now, 2: found, -1 without memory. */
static int pass(walk *w, int64_t *next_ms) {
    mull_forecast *f = w->f;
    mull_policy_in in = {.teams = f->teams,
                         .team_count = f->team_count,
                         .users = f->users,
                         .user_count = f->user_count,
                         .jobs = f->jobs,
                         .job_count = f->job_count,
                         .nodes = f->nodes,
                         .node_count = f->node_count,
                         .running = f->running,
                         .running_count = f->running_count,
                         .places = f->places,
                         .place_count = f->place_count,
                         .now_ms = w->now_ms};
    mull_policy_out out = {.starts = w->starts,
                           .max_starts = STARTS,
                           .places = w->places,
                           .max_places = PLACES,
                           .preempts = w->preempts,
                           .max_preempts = PREEMPTS};
    if (mull_policy_run(w->policy, &in, &out) != 0) return -1;
    w->out->passes++;
    *next_ms = out.next_ms;
    for (size_t i = 0; i < out.preempt_count; i++) { /* before starts: those may move running */
        mull_policy_running *r = &f->running[out.preempts[i].victim];
        r->ending = true;
        r->ends_ms = w->now_ms + GRACE_MS;
        f->jobs[out.preempts[i].job].nominated = true;
    }
    for (size_t i = 0; i < out.start_count; i++) {
        int rc = start(w, &w->starts[i]);
        if (rc != 0) return rc < 0 ? -1 : 2;
    }
    if (out.start_count > 0) sweep(f);
    return out.start_count == STARTS;
}

/* Places of what has ended are holes: taken out when they are most of it. */
static int compact(walk *w) {
    mull_forecast *f = w->f;
    size_t live = 0, n = 0;
    for (size_t i = 0; i < f->running_count; i++) live += f->running[i].place_count;
    if (f->place_count < 2 * live + 1024) return 0;
    mull_policy_place *fresh = calloc(live + 1, sizeof *fresh);
    if (!fresh) return -1;
    for (size_t i = 0; i < f->running_count; i++) {
        mull_policy_running *r = &f->running[i];
        memcpy(fresh + n, f->places + r->first_place, r->place_count * sizeof *fresh);
        r->first_place = (uint32_t)n;
        n += r->place_count;
    }
    free(f->places);
    f->places = fresh;
    f->place_count = n;
    w->place_cap = live;
    return 0;
}

static int go(walk *w, int budget_ms) {
    mull_forecast *f = w->f;
    int64_t until = wall_ms() + budget_ms, horizon = f->now_ms + (int64_t)MULL_FORECAST_DAYS * 86400000, next_ms = 0;
    for (w->now_ms = f->now_ms;;) {
        end_due(w);
        if (compact(w) != 0) return -1;
        int rc = pass(w, &next_ms);
        if (rc < 0 || rc == 2) return rc < 0 ? -1 : 0;
        if (!w->target && w->out->list_count == MULL_FORECAST_LIST) return 0;
        if (wall_ms() >= until) break;
        if (rc == 1) continue;
        int64_t next = next_ms ? next_ms : INT64_MAX;
        for (size_t i = 0; i < f->running_count; i++)
            if (f->running[i].ends_ms < next) next = f->running[i].ends_ms;
        for (size_t i = 0; i < f->node_count; i++) /* a window passes; how long it lasts is not known here */
            if (f->nodes[i].closes_ms && f->nodes[i].closes_ms <= w->now_ms) f->nodes[i].drained = true;
        if (next == INT64_MAX) return 0; /* nothing will ever change */
        if (next > horizon) break;
        w->now_ms = next > w->now_ms ? next : w->now_ms + 1;
    }
    w->out->cut = true;
    w->out->at_ms = w->now_ms;
    return 0;
}

int mull_forecast_run(mull_forecast *f, int64_t target, int budget_ms, mull_forecast_result *out) {
    *out = (mull_forecast_result){0};
    walk *w = calloc(1, sizeof *w);
    if (!w) return -1;
    *w = (walk){.f = f,
                .out = out,
                .policy = mull_policy_create(),
                .target = target,
                .running_cap = f->running_count,
                .place_cap = f->place_count};
    for (size_t i = 0; i < f->running_count; i++) {
        mull_policy_running *r = &f->running[i];
        out->assumed += r->ends_ms == 0 && !r->ending;
        if (r->ending)
            r->ends_ms = f->now_ms + GRACE_MS;
        else if (r->ends_ms == 0)
            r->ends_ms = f->now_ms + MULL_FORECAST_ASSUMED_S * 1000;
        else if (r->ends_ms <= f->now_ms)
            r->ends_ms = f->now_ms + OVERDUE_MS;
    }
    int rc = w->policy ? go(w, budget_ms) : -1;
    mull_policy_destroy(w->policy);
    free(w);
    return rc;
}
