/* See sim.h. Events are ends of jobs (a heap), submissions (the trace's order) and passes. The snapshot that the policy
 * reads is kept as it is: pending and running jobs are removed by putting the last one in their place, which the
 * policy's answer does not depend on. */
#include "scheduler/sim/sim.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STARTS = 4096, PLACES = 16384, PREEMPTS = 1024, SAMPLE_MS = 3600000 };

typedef struct running {
    uint32_t job;
    int64_t since_ms, frees_ms; /* frees_ms: end, or the end of its grace when preempted */
    bool preempted;
} running;

typedef struct sim {
    const mull_trace *t;
    const mull_sim_config *c;
    mull_sim_result *r;
    mull_policy *policy;
    mull_policy_team *teams;
    mull_policy_user *users;
    mull_policy_node *nodes;
    mull_policy_job *pending;
    uint32_t *pending_of; /* trace index of each */
    size_t npending;
    mull_policy_running *view; /* beside run */
    running *run;
    size_t nrun, cap;
    mull_policy_place *places;
    size_t nplaces, places_cap;
    int64_t *left_ms; /* [trace n] what a job still has to run */
    int64_t now_ms, used_at_ms, next_sample_ms;
    int64_t busy, pending_gpus;
    int64_t *team_busy, *user_busy;
    size_t next_job;
    mull_policy_start starts[STARTS];
    mull_policy_place out_places[PLACES];
    mull_policy_preempt preempts[PREEMPTS];
} sim;

static double wall_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* ---- time passes ---- */

static void account(sim *s, int64_t to_ms) {
    int64_t end = to_ms < s->t->span_ms ? to_ms : s->t->span_ms;
    double dt = (double)(end - s->now_ms);
    if (dt > 0) {
        s->r->busy_gpu_ms += dt * (double)s->busy;
        for (size_t t = 0; t < s->t->team_count; t++) s->r->team_gpu_ms[t] += dt * (double)s->team_busy[t];
    }
    while (s->next_sample_ms <= to_ms && s->r->nsamples < (size_t)(s->t->span_ms / SAMPLE_MS) + 1) {
        s->r->samples[s->r->nsamples++] = (mull_sim_sample){s->next_sample_ms, s->busy, s->pending_gpus, s->npending};
        s->next_sample_ms += SAMPLE_MS;
    }
    s->now_ms = to_ms;
}

/* used is an exponential average of what runs. */
static void decay(sim *s) {
    double keep = exp2(-(double)(s->now_ms - s->used_at_ms) / s->c->half_life_ms);
    for (size_t t = 0; t < s->t->team_count; t++)
        s->teams[t].used = s->teams[t].used * keep + (double)s->team_busy[t] * (1 - keep);
    for (size_t u = 0; u < s->t->user_count; u++)
        s->users[u].used = s->users[u].used * keep + (double)s->user_busy[u] * (1 - keep);
    s->used_at_ms = s->now_ms;
}

/* ---- jobs come, start, stop ---- */

static void enqueue(sim *s, uint32_t job) {
    const mull_trace_job *j = &s->t->jobs[job];
    /* A limit counts anew for each attempt, as in the queue. */
    s->pending[s->npending] = (mull_policy_job){.id = (int64_t)job + 1,
                                                .time_limit_ms = j->limit_ms,
                                                .priority = j->priority,
                                                .gpus = j->gpus,
                                                .user = j->user,
                                                .tasks = 1,
                                                .avoid_node = -1};
    s->pending_of[s->npending++] = job;
    s->pending_gpus += j->gpus;
}

static void move_busy(sim *s, const mull_trace_job *j, int64_t gpus) {
    s->busy += gpus;
    s->team_busy[s->t->users[j->user].team] += gpus;
    s->user_busy[j->user] += gpus;
}

static int make_room(sim *s, size_t places) {
    if (s->nrun == s->cap) {
        size_t cap = s->cap * 2 + 1024;
        mull_policy_running *view = realloc(s->view, cap * sizeof *view);
        if (view) s->view = view;
        running *run = realloc(s->run, cap * sizeof *run);
        if (run) s->run = run;
        if (!view || !run) return -1;
        s->cap = cap;
    }
    if (s->nplaces + places > s->places_cap) {
        size_t cap = s->places_cap * 2 + places + 4096;
        mull_policy_place *more = realloc(s->places, cap * sizeof *more);
        if (!more) return -1;
        s->places = more;
        s->places_cap = cap;
    }
    return 0;
}

static int start(sim *s, const mull_policy_start *st) {
    uint32_t job = s->pending_of[st->job];
    const mull_trace_job *j = &s->t->jobs[job];
    if (make_room(s, st->place_count) != 0) return -1;
    s->view[s->nrun] = (mull_policy_running){.started_ms = s->now_ms,
                                             .saved_ms = s->now_ms,
                                             .ends_ms = j->limit_ms ? s->now_ms + j->limit_ms : 0,
                                             .first_place = (uint32_t)s->nplaces,
                                             .place_count = st->place_count,
                                             .priority = j->priority,
                                             .user = j->user,
                                             .min_run_ms = s->c->min_run_ms,
                                             .preemptible = j->preemptible};
    s->run[s->nrun++] = (running){job, s->now_ms, s->now_ms + s->left_ms[job], false};
    for (uint32_t k = 0; k < st->place_count; k++) {
        const mull_policy_place *at = &s->out_places[st->first_place + k];
        s->places[s->nplaces++] = *at;
        s->nodes[at->node].free_cuda -= at->gpus;
        if (s->nodes[at->node].free_cuda < 0) s->r->double_booked++;
    }
    move_busy(s, j, j->gpus);
    s->pending_gpus -= j->gpus;
    if (s->r->jobs[job].start_ms < 0) s->r->jobs[job].start_ms = s->now_ms;
    s->pending[st->job].tasks = 0; /* taken out after the pass */
    return 0;
}

static void drop_started(sim *s) {
    for (size_t i = 0; i < s->npending;) {
        if (s->pending[i].tasks) {
            i++;
            continue;
        }
        s->pending[i] = s->pending[--s->npending];
        s->pending_of[i] = s->pending_of[s->npending];
    }
}

/* Work since the last checkpoint is lost; the rest need not be done again. */
static void stop(sim *s, uint32_t at) {
    running *r = &s->run[at];
    const mull_trace_job *j = &s->t->jobs[r->job];
    int64_t ran = s->now_ms - r->since_ms, kept = ran / s->c->checkpoint_ms * s->c->checkpoint_ms;
    s->left_ms[r->job] -= kept;
    s->r->lost_gpu_ms += (double)(ran - kept) * j->gpus;
    r->preempted = true;
    r->frees_ms = s->now_ms + s->c->grace_ms;
    s->view[at].ending = true;
    s->r->jobs[r->job].preempted++;
}

static void release(sim *s, size_t at) {
    const running *r = &s->run[at];
    const mull_trace_job *j = &s->t->jobs[r->job];
    for (uint32_t k = 0; k < s->view[at].place_count; k++) {
        const mull_policy_place *p = &s->places[s->view[at].first_place + k];
        s->nodes[p->node].free_cuda += p->gpus;
    }
    move_busy(s, j, -(int64_t)j->gpus);
    if (r->preempted)
        enqueue(s, r->job);
    else {
        s->r->jobs[r->job].end_ms = s->now_ms;
        s->r->finished++;
    }
    s->run[at] = s->run[--s->nrun];
    s->view[at] = s->view[s->nrun];
}

/* Ends what has ended by now, and takes the holes out of places when they are most of it. */
static void end_jobs(sim *s) {
    size_t live = 0;
    for (size_t i = 0; i < s->nrun;) {
        if (s->run[i].frees_ms <= s->now_ms)
            release(s, i);
        else
            live += s->view[i++].place_count;
    }
    if (s->nplaces < live * 2 + 4096) return;
    mull_policy_place *fresh = malloc((live + 4096) * sizeof *fresh);
    if (!fresh) return;
    size_t n = 0;
    for (size_t i = 0; i < s->nrun; i++) {
        memcpy(fresh + n, s->places + s->view[i].first_place, s->view[i].place_count * sizeof *fresh);
        s->view[i].first_place = (uint32_t)n;
        n += s->view[i].place_count;
    }
    free(s->places);
    s->places = fresh;
    s->nplaces = n;
    s->places_cap = live + 4096;
}

/* ---- the pass ---- */

static int pass(sim *s, bool *full) {
    for (size_t i = 0; i < s->nrun; i++)
        s->view[i].saved_ms =
            s->run[i].since_ms + (s->now_ms - s->run[i].since_ms) / s->c->checkpoint_ms * s->c->checkpoint_ms;
    mull_policy_in in = {s->teams, s->t->team_count,    s->users, s->t->user_count, s->pending, s->npending,
                         s->nodes, (size_t)s->c->nodes, s->view,  s->nrun,          s->places,  s->nplaces,
                         s->now_ms};
    mull_policy_out out = {.starts = s->starts,
                           .max_starts = STARTS,
                           .places = s->out_places,
                           .max_places = PLACES,
                           .preempts = s->preempts,
                           .max_preempts = PREEMPTS};
    double begin = wall_ms();
    if (mull_policy_run(s->policy, &in, &out) != 0) return -1;
    s->r->pass_ms[s->r->passes++] = (float)(wall_ms() - begin);
    for (size_t i = 0; i < out.preempt_count; i++) {
        const mull_policy_preempt *x = &s->preempts[i];
        stop(s, x->victim);
        s->pending[x->job].nominated = true;
        s->r->preemptions++;
        s->r->reclaims += x->reclaim;
    }
    for (size_t i = 0; i < out.start_count; i++)
        if (start(s, &s->starts[i]) != 0) return -1;
    drop_started(s);
    *full = out.start_count == STARTS;
    return 0;
}

static int64_t next_event(const sim *s) {
    int64_t at = s->next_job < s->t->n ? s->t->jobs[s->next_job].submit_ms : INT64_MAX;
    for (size_t i = 0; i < s->nrun; i++)
        if (s->run[i].frees_ms < at) at = s->run[i].frees_ms;
    return at;
}

static int play(sim *s) {
    for (;;) {
        int64_t at = next_event(s);
        if (at == INT64_MAX) return 0; /* whatever still waits can never start */
        /* Everything up to the next moment of a pass happens before it, each at its own time. */
        int64_t until = (at / s->c->pass_ms + 1) * s->c->pass_ms;
        while (at < until) {
            account(s, at);
            end_jobs(s);
            for (; s->next_job < s->t->n && s->t->jobs[s->next_job].submit_ms <= at; s->next_job++)
                enqueue(s, (uint32_t)s->next_job);
            at = next_event(s);
        }
        account(s, until);
        decay(s);
        if (s->npending == 0) continue;
        bool full = true;
        while (full)
            if (pass(s, &full) != 0) return -1;
        s->r->end_ms = s->now_ms;
    }
}

int mull_sim_run(const mull_trace *t, const mull_sim_config *c, mull_sim_result *out) {
    sim *s = calloc(1, sizeof *s);
    int rc = -1;
    memset(out, 0, sizeof *out);
    if (!s) return -1;
    s->t = t;
    s->c = c;
    s->r = out;
    s->policy = mull_policy_create();
    s->teams = malloc(t->team_count * sizeof *s->teams);
    s->users = malloc(t->user_count * sizeof *s->users);
    s->nodes = calloc((size_t)c->nodes, sizeof *s->nodes);
    s->pending = malloc((t->n + 1) * sizeof *s->pending);
    s->pending_of = malloc((t->n + 1) * sizeof *s->pending_of);
    s->left_ms = malloc((t->n + 1) * sizeof *s->left_ms);
    s->team_busy = calloc(t->team_count, sizeof *s->team_busy);
    s->user_busy = calloc(t->user_count, sizeof *s->user_busy);
    out->jobs = malloc((t->n + 1) * sizeof *out->jobs);
    out->samples = malloc(((size_t)(t->span_ms / SAMPLE_MS) + 2) * sizeof *out->samples);
    out->team_gpu_ms = calloc(t->team_count, sizeof *out->team_gpu_ms);
    /* Every pass follows an event: at most two a job and one more for each preemption; these are bounded by grace. */
    out->pass_ms = malloc((4 * t->n + 1000000) * sizeof *out->pass_ms);
    if (s->policy && s->teams && s->users && s->nodes && s->pending && s->pending_of && s->left_ms && s->team_busy &&
        s->user_busy && out->jobs && out->samples && out->team_gpu_ms && out->pass_ms) {
        memcpy(s->teams, t->teams, t->team_count * sizeof *s->teams);
        memcpy(s->users, t->users, t->user_count * sizeof *s->users);
        for (int n = 0; n < c->nodes; n++)
            s->nodes[n] = (mull_policy_node){.free_cuda = c->gpus_per_node,
                                             .total_cuda = c->gpus_per_node,
                                             .up = true,
                                             .switch_id = n / c->nodes_per_switch};
        for (size_t i = 0; i < t->n; i++) {
            s->left_ms[i] = t->jobs[i].run_ms;
            out->jobs[i] = (mull_sim_job){-1, -1, 0};
        }
        rc = play(s);
    }
    mull_policy_destroy(s->policy);
    free(s->teams);
    free(s->users);
    free(s->nodes);
    free(s->pending);
    free(s->pending_of);
    free(s->left_ms);
    free(s->team_busy);
    free(s->user_busy);
    free(s->view);
    free(s->run);
    free(s->places);
    free(s);
    if (rc) mull_sim_fini(out);
    return rc;
}

void mull_sim_fini(mull_sim_result *r) {
    free(r->jobs);
    free(r->samples);
    free(r->team_gpu_ms);
    free(r->pass_ms);
    memset(r, 0, sizeof *r);
}
