/* Whose turn it is: the tree of teams, users inside a team, and quotas.
 *
 * A share is (units running + decayed average of units used) / 2 / weight. Slurm's fair tree ranks by the past alone
 * and leaves the ranking fixed during a pass; with half of the present in it, every start moves its team back at once,
 * so a pass over an empty cluster deals it out instead of giving everything to the first team. */
#include "scheduler/policy/policy_internal.h"

int32_t mull__team_of(const mull_policy *p, int32_t user) {
    return p->in->team_count ? p->in->users[user].team : 0;
}

static double weight_of(const mull_policy *p, int32_t t) {
    return p->in->team_count ? p->in->teams[t].weight : 1;
}
static double used_of(const mull_policy *p, int32_t t) {
    return p->in->team_count ? p->in->teams[t].used : 0;
}
static int32_t parent_of(const mull_policy *p, int32_t t) {
    return p->in->team_count ? p->in->teams[t].parent : MULL_POLICY_NONE;
}

static void refresh_share(mull_policy *p, int32_t t) {
    p->team[t].share = ((double)p->team[t].running + used_of(p, t)) / 2 / weight_of(p, t);
}

/* ---- quota: cohort of all teams, as Kueue has it ---- */

static bool has_quota(const mull_policy *p, int32_t t) {
    return p->in->team_count && p->in->teams[t].nominal >= 0;
}

/* Of its nominal, what is never lent. */
static int64_t guaranteed(const mull_policy *p, int32_t t) {
    const mull_policy_team *q = &p->in->teams[t];
    return q->lend < 0 || q->lend > q->nominal ? 0 : q->nominal - q->lend;
}

/* GPUs that the team takes from what all lend, when it uses this many. */
static int64_t from_cohort(const mull_policy *p, int32_t t, int64_t gpus) {
    int64_t own = guaranteed(p, t);
    return gpus > own ? gpus - own : 0;
}

static int64_t room(const mull_policy *p, int32_t t, int64_t use, int64_t more) {
    const mull_policy_team *q = &p->in->teams[t];
    int64_t own = guaranteed(p, t);
    if (q->borrow >= 0) {
        int64_t most = (int64_t)q->nominal + q->borrow - (use > own ? use : own);
        if (most < more) more = most;
    }
    return (own > use ? own - use : 0) + (more > 0 ? more : 0);
}

int64_t mull__quota_room(const mull_policy *p, int32_t t) {
    return has_quota(p, t) ? room(p, t, p->team[t].gpus, p->cohort_room) : INT64_MAX;
}

int64_t mull__quota_room_soon(const mull_policy *p, int32_t t) {
    return has_quota(p, t) ? room(p, t, p->team[t].gpus - p->team[t].ending, p->cohort_room_soon) : INT64_MAX;
}

int64_t mull__quota_own(const mull_policy *p, int32_t t) {
    return has_quota(p, t) ? p->in->teams[t].nominal - p->team[t].gpus : INT64_MAX;
}

bool mull__quota_holds(const mull_policy *p, int32_t t, int32_t gpus) {
    return has_quota(p, t) && gpus <= p->in->teams[t].nominal;
}

int64_t mull__quota_borrowed(const mull_policy *p, int32_t t) {
    int64_t over = has_quota(p, t) ? p->team[t].gpus - p->team[t].ending - p->in->teams[t].nominal : 0;
    return over > 0 ? over : 0;
}

void mull__share_move(mull_policy *p, int32_t user, mull_kind kind, int64_t delta) {
    int32_t t = mull__team_of(p, user);
    p->user[user].running += delta;
    if (kind == MULL_CUDA) {
        int64_t gpus = p->team[t].gpus, stay = gpus - p->team[t].ending;
        if (has_quota(p, t)) {
            p->cohort_room -= from_cohort(p, t, gpus + delta) - from_cohort(p, t, gpus);
            p->cohort_room_soon -= from_cohort(p, t, stay + delta) - from_cohort(p, t, stay);
        }
        p->team[t].gpus += delta;
    }
    for (; t != MULL_POLICY_NONE; t = parent_of(p, t)) {
        p->team[t].running += delta;
        refresh_share(p, t);
    }
}

void mull__share_ending(mull_policy *p, int32_t user, int64_t delta) {
    int32_t t = mull__team_of(p, user);
    int64_t stay = p->team[t].gpus - p->team[t].ending;
    if (has_quota(p, t)) p->cohort_room_soon -= from_cohort(p, t, stay - delta) - from_cohort(p, t, stay);
    p->team[t].ending += delta;
}

/* ---- heaps of candidates: higher priority, then smaller id ---- */

static bool before(const mull_policy_job *jobs, uint32_t a, uint32_t b) {
    if (jobs[a].priority != jobs[b].priority) return jobs[a].priority > jobs[b].priority;
    return jobs[a].id < jobs[b].id;
}

static void sift_down(const mull_policy_job *jobs, uint32_t *heap, size_t n, size_t i) {
    uint32_t moved = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && before(jobs, heap[child + 1], heap[child])) child++;
        if (!before(jobs, heap[child], moved)) break;
        heap[i] = heap[child];
    }
    heap[i] = moved;
}

static void sift_up(const mull_policy_job *jobs, uint32_t *heap, size_t i) {
    uint32_t moved = heap[i];
    for (; i > 0 && before(jobs, moved, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = moved;
}

static void count_waiting(mull_policy *p, int32_t team, int32_t delta) {
    for (; team != MULL_POLICY_NONE; team = parent_of(p, team))
        p->team[team].waiting = (uint32_t)((int32_t)p->team[team].waiting + delta);
}

mull_why mull__not_yet(const mull_policy_job *j, int64_t now_ms) {
    if (j->held) return MULL_WHY_HELD;
    if (j->dep != MULL_DEP_MET) return MULL_WHY_DEPENDENCY;
    if (j->eligible_ms > now_ms) return MULL_WHY_BEGIN_TIME;
    return j->tasks > 0 ? MULL_WHY_NONE : MULL_WHY_ARRAY_LIMIT;
}

/* Sorts the candidates by user into heaps, and writes down why the others wait. */
static void gather(mull_policy *p) {
    const mull_policy_in *in = p->in;
    mull_policy_out *out = p->out;
    out->next_ms = 0;
    for (size_t i = 0; i < in->job_count; i++) {
        const mull_policy_job *j = &in->jobs[i];
        mull_why why = mull__not_yet(j, in->now_ms);
        if (why == MULL_WHY_BEGIN_TIME && (!out->next_ms || j->eligible_ms < out->next_ms))
            out->next_ms = j->eligible_ms;
        /* Whoever is not reached waits for someone with a better place. */
        if (out->reasons) out->reasons[i] = (uint8_t)(why == MULL_WHY_NONE ? MULL_WHY_PRIORITY : why);
        if (why == MULL_WHY_NONE) p->user[j->user].count++;
    }
    uint32_t *at = p->order;
    for (size_t u = 0; u < in->user_count; u++) {
        p->user[u].heap = at;
        at += p->user[u].count;
        p->user[u].count = 0;
    }
    for (size_t i = 0; i < in->job_count; i++) {
        const mull_policy_job *j = &in->jobs[i];
        if (mull__not_yet(j, in->now_ms) == MULL_WHY_NONE)
            p->user[j->user].heap[p->user[j->user].count++] = (uint32_t)i;
    }
    for (size_t u = 0; u < in->user_count; u++) {
        mull_policy_user_state *s = &p->user[u];
        for (size_t i = s->count / 2; i-- > 0;) sift_down(in->jobs, s->heap, s->count, i);
        count_waiting(p, mull__team_of(p, (int32_t)u), (int32_t)s->count);
    }
}

static void link_teams(mull_policy *p) {
    const mull_policy_in *in = p->in;
    size_t teams = in->team_count ? in->team_count : 1;
    for (size_t t = 0; t < teams; t++)
        p->team[t] = (mull_policy_team_state){.child = -1, .sibling = -1, .first_user = -1};
    p->cohort_room = 0;
    p->top = MULL_POLICY_NONE;
    /* Backwards, so that lists are in ascending order. */
    for (size_t t = teams; t-- > 0;) {
        int32_t parent = parent_of(p, (int32_t)t);
        int32_t *list = parent == MULL_POLICY_NONE ? &p->top : &p->team[parent].child;
        p->team[t].sibling = *list;
        *list = (int32_t)t;
        if (has_quota(p, (int32_t)t)) p->cohort_room += in->teams[t].nominal - guaranteed(p, (int32_t)t);
        refresh_share(p, (int32_t)t);
    }
    p->cohort_room_soon = p->cohort_room;
    for (size_t u = in->user_count; u-- > 0;) {
        int32_t t = mull__team_of(p, (int32_t)u);
        p->user[u] = (mull_policy_user_state){.next = p->team[t].first_user};
        p->team[t].first_user = (int32_t)u;
    }
}

void mull__share_begin(mull_policy *p) {
    const mull_policy_in *in = p->in;
    link_teams(p);
    for (size_t i = 0; i < in->running_count; i++) {
        const mull_policy_running *r = &in->running[i];
        for (uint32_t k = 0; k < r->place_count; k++) {
            const mull_policy_place *at = &in->places[r->first_place + k];
            mull__share_move(p, r->user, at->gpus ? MULL_CUDA : MULL_CPU, mull_policy_units(at));
            if (r->ending) mull__share_ending(p, r->user, at->gpus);
        }
    }
    gather(p);
}

/* ---- the walk ---- */

static int32_t best_child(const mull_policy *p, int32_t list) {
    int32_t best = MULL_POLICY_NONE;
    for (int32_t t = list; t != MULL_POLICY_NONE; t = p->team[t].sibling)
        if (p->team[t].waiting && (best == MULL_POLICY_NONE || p->team[t].share < p->team[best].share)) best = t;
    return best;
}

static double user_share(const mull_policy *p, int32_t u) {
    return (double)p->user[u].running + p->in->users[u].used;
}

static int32_t best_user(const mull_policy *p, int32_t team) {
    const mull_policy_job *jobs = p->in->jobs;
    int32_t best = MULL_POLICY_NONE;
    for (int32_t u = p->team[team].first_user; u != MULL_POLICY_NONE; u = p->user[u].next) {
        if (!p->user[u].count) continue;
        if (best == MULL_POLICY_NONE) {
            best = u;
            continue;
        }
        const mull_policy_job *a = &jobs[p->user[u].heap[0]], *b = &jobs[p->user[best].heap[0]];
        double mine = user_share(p, u), his = user_share(p, best);
        if (a->priority != b->priority ? a->priority > b->priority : mine != his ? mine < his : a->id < b->id) best = u;
    }
    return best;
}

bool mull__share_next(mull_policy *p, uint32_t *job) {
    int32_t team = MULL_POLICY_NONE, user = MULL_POLICY_NONE;
    for (int32_t list = p->top;;) {
        team = best_child(p, list);
        if (team == MULL_POLICY_NONE) return false;
        user = best_user(p, team); /* a team with teams below it may have jobs of its own: they go first */
        if (user != MULL_POLICY_NONE) break;
        list = p->team[team].child;
    }
    mull_policy_user_state *s = &p->user[user];
    *job = s->heap[0];
    s->heap[0] = s->heap[--s->count];
    if (s->count) sift_down(p->in->jobs, s->heap, s->count, 0);
    count_waiting(p, team, -1);
    return true;
}

void mull__share_again(mull_policy *p, uint32_t job) {
    mull_policy_user_state *s = &p->user[p->in->jobs[job].user];
    s->heap[s->count++] = job;
    sift_up(p->in->jobs, s->heap, s->count - 1);
    count_waiting(p, mull__team_of(p, p->in->jobs[job].user), 1);
}
