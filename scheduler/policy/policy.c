/* One scheduling pass; the rules are in policy.h. */
#include "scheduler/policy/policy_internal.h"

#include <stdlib.h>
#include <string.h>

const char *mull_why_name(mull_why why) {
    static const char *const names[] = {
        [MULL_WHY_NONE] = "",       [MULL_WHY_RESOURCES] = "Resources",   [MULL_WHY_PRIORITY] = "Priority",
        [MULL_WHY_QUOTA] = "Quota", [MULL_WHY_DEPENDENCY] = "Dependency", [MULL_WHY_BEGIN_TIME] = "BeginTime",
        [MULL_WHY_HELD] = "Held",   [MULL_WHY_DRAINED] = "DrainedNodes",  [MULL_WHY_ARRAY_LIMIT] = "ArrayLimit"};
    return (size_t)why < sizeof names / sizeof *names ? names[why] : "";
}

mull_policy *mull_policy_create(void) {
    return calloc(1, sizeof(mull_policy));
}

void mull_policy_destroy(mull_policy *p) {
    if (!p) return;
    free(p->memory);
    free(p);
}

/* All arrays of a pass lie in one block, each at a multiple of 16 bytes. */
static size_t lay_out(mull_policy *p, const mull_policy_in *in, const mull_policy_out *out, char *base) {
    size_t at = 0, places = in->place_count;
#define LAY(member, count)                                                                                             \
    do {                                                                                                               \
        if (base) p->member = (void *)(base + at);                                                                     \
        at += ((count) * sizeof *p->member + 15) & ~(size_t)15;                                                        \
    } while (0)
    LAY(team, in->team_count ? in->team_count : 1);
    LAY(user, in->user_count);
    LAY(order, in->job_count);
    LAY(started, in->job_count);
    for (int k = 0; k < MULL_KINDS; k++) {
        LAY(free[k], in->node_count);
        LAY(later[k], in->node_count);
    }
    LAY(offers, in->node_count);
    LAY(node_running, in->node_count);
    LAY(next_place, places);
    LAY(place_owner, places);
    LAY(chosen, in->running_count);
    LAY(victims, in->running_count);
    LAY(ends, places + out->max_places);
    for (int i = 0; i < MULL_POLICY_RESERVATIONS; i++) LAY(reservation[i].spare, in->node_count);
#undef LAY
    return at;
}

static int prepare(mull_policy *p, const mull_policy_in *in, mull_policy_out *out) {
    size_t bytes = lay_out(p, in, out, NULL);
    if (bytes > p->memory_bytes || !p->memory) {
        size_t cap = bytes + bytes / 2 + 64;
        void *memory = malloc(cap);
        if (!memory) return -1;
        free(p->memory);
        p->memory = memory;
        p->memory_bytes = cap;
    }
    lay_out(p, in, out, p->memory);
    p->in = in;
    p->out = out;
    out->start_count = out->place_count = out->preempt_count = out->looked = 0;
    p->end_count = 0;
    p->reservation_count = p->preempt_looks = 0;
    p->ends_sorted = false;
    p->cpu_offered = false;
    memset(p->no_room, 0, sizeof p->no_room);
    p->largest[MULL_CPU] = p->largest[MULL_CUDA] = 0;
    for (size_t i = 0; i < in->node_count; i++) {
        const mull_policy_node *n = &in->nodes[i];
        p->free[MULL_CPU][i] = n->free_cpu;
        p->free[MULL_CUDA][i] = n->free_cuda;
        if (!n->up) continue;
        if (n->total_cpu > 0) p->cpu_offered = true;
        if (n->total_cpu > p->largest[MULL_CPU]) p->largest[MULL_CPU] = n->total_cpu;
        if (n->total_cuda > p->largest[MULL_CUDA]) p->largest[MULL_CUDA] = n->total_cuda;
    }
    memset(p->started, 0, in->job_count * sizeof *p->started);
    mull__share_begin(p);
    mull__preempt_begin(p);
    return 0;
}

static void say(mull_policy *p, uint32_t job, mull_why why) {
    if (p->out->reasons) p->out->reasons[job] = (uint8_t)why;
}

/* Room for one more start, whatever its size is. */
static bool room_left(const mull_policy *p) {
    return p->out->start_count < p->out->max_starts && p->out->looked < MULL_POLICY_LOOKS;
}

/* The first blocked job of a team may preempt and is given a reservation; those behind it must fit around it. */
static void block(mull_policy *p, uint32_t job, const mull_ask *a, int64_t quota_short) {
    mull_policy_team_state *team = &p->team[mull__team_of(p, p->in->jobs[job].user)];
    if (team->reserved && !p->in->jobs[job].nominated) {
        say(p, job, quota_short > 0 ? MULL_WHY_QUOTA : MULL_WHY_PRIORITY);
        return;
    }
    team->reserved = true;
    team->quota_waits = quota_short > 0 && mull__quota_holds(p, mull__team_of(p, p->in->jobs[job].user), a->need);
    size_t before = p->out->preempt_count;
    mull__preempt(p, job, a, quota_short);
    bool preempts = p->out->preempt_count > before;
    /* A job that only its quota blocks needs no nodes kept for it, unless quota is being taken back for it. */
    if (quota_short <= 0 || preempts || p->in->jobs[job].nominated) mull__reserve(p, a);
    say(p, job, quota_short > 0 ? MULL_WHY_QUOTA : MULL_WHY_RESOURCES);
}

static void consider(mull_policy *p, uint32_t job) {
    const mull_policy_job *j = &p->in->jobs[job];
    mull_ask a = mull__ask(p, job);
    int32_t team = mull__team_of(p, j->user);
    int64_t room = a.kind == MULL_CUDA ? mull__quota_room(p, team) : INT64_MAX;
    p->out->looked++;
    if (a.kind == MULL_CUDA && p->team[team].quota_waits && !j->nominated) return; /* the reason is PRIORITY */
    if (p->in->one_node && mull__is_gang(p, &a)) {
        say(p, job, MULL_WHY_RESOURCES);
        return;
    }
    if (room < a.need) {
        block(p, job, &a, a.need - room);
        return;
    }
    uint32_t first = (uint32_t)p->out->place_count;
    switch (mull__place(p, &a)) {
    case MULL_FIT_NOW:
        p->out->starts[p->out->start_count++] = (mull_policy_start){job, first, (uint32_t)p->out->place_count - first};
        mull__share_move(p, j->user, a.kind, a.need);
        say(p, job, MULL_WHY_NONE);
        if (++p->started[job] < j->tasks && !j->nominated) {
            say(p, job, MULL_WHY_PRIORITY);
            mull__share_again(p, job);
        }
        break;
    case MULL_FIT_HELD_BACK:
    case MULL_FIT_LATER:
        block(p, job, &a, 0);
        break;
    case MULL_FIT_DRAINED:
        say(p, job, MULL_WHY_DRAINED);
        break;
    case MULL_FIT_NEVER:
        say(p, job, MULL_WHY_RESOURCES);
        break;
    }
}

int mull_policy_run(mull_policy *p, const mull_policy_in *in, mull_policy_out *out) {
    if (prepare(p, in, out) != 0) return -1;
    /* Victims were stopped for these: what comes free is theirs, whosever turn it is. They are taken in the snapshot's
     * order; the second walk meets the others. */
    for (size_t i = 0; i < in->job_count; i++) {
        const mull_policy_job *j = &in->jobs[i];
        if (!j->nominated || mull__not_yet(j, in->now_ms) != MULL_WHY_NONE) continue;
        if (!room_left(p)) break;
        consider(p, (uint32_t)i);
        p->started[i] = j->tasks; /* seen: the walk skips it */
    }
    uint32_t job;
    while (room_left(p) && mull__share_next(p, &job)) {
        if (in->jobs[job].nominated && p->started[job] == in->jobs[job].tasks) continue;
        consider(p, job);
    }
    return 0;
}
