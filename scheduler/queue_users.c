/* Teams and users of the queue as the policy reads them: arrays with indexes, parents before their children. */
#include "scheduler/queue.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t mull_queue_find_team(const mull_queue *q, const char *name) {
    for (size_t i = 0; i < q->team_count; i++)
        if (strcmp(q->team_names[i].name, name) == 0) return (int32_t)i;
    return -1;
}

/* ---- users ---- */

/* FNV-1a over both words; positive, since 0 is no key. */
static int64_t key_of(const char *team, const char *user) {
    uint64_t h = 14695981039346656037u;
    for (const char *s = team; *s; s++) h = (h ^ (unsigned char)*s) * 1099511628211u;
    h = (h ^ 0xff) * 1099511628211u; /* no byte of UTF-8 */
    for (const char *s = user; *s; s++) h = (h ^ (unsigned char)*s) * 1099511628211u;
    return (int64_t)(h >> 2) + 1;
}

static int32_t add_team(mull_queue *q, const char *name) {
    if (mull__queue_reserve((void **)&q->teams, &q->team_cap, q->team_count, sizeof *q->teams) != 0 ||
        mull__queue_reserve((void **)&q->team_names, &q->team_name_cap, q->team_count, sizeof *q->team_names) != 0)
        return -1;
    q->teams[q->team_count] = (mull_policy_team){.parent = -1, .weight = 1, .nominal = -1, .borrow = -1, .lend = -1};
    snprintf(q->team_names[q->team_count].name, MULL_NAME_MAX, "%s", name);
    return (int32_t)q->team_count++;
}

int32_t mull_queue_user(mull_queue *q, const char *team, const char *user) {
    char name[MULL_NAME_MAX], team_name[MULL_NAME_MAX];
    snprintf(name, sizeof name, "%s", user); /* compared as it is kept */
    snprintf(team_name, sizeof team_name, "%s", team);
    int64_t key = key_of(team_name, name);
    uint32_t i;
    for (; mull_idmap_get(&q->by_user, key, &i); key++) /* two pairs with one hash take the next key */
        if (strcmp(q->user_names[i].name, name) == 0 && strcmp(q->team_names[q->users[i].team].name, team_name) == 0)
            return (int32_t)i;
    int32_t t = mull_queue_find_team(q, team_name);
    if (t < 0) t = add_team(q, team_name);
    if (t < 0 || mull__queue_reserve((void **)&q->users, &q->user_cap, q->user_count, sizeof *q->users) != 0 ||
        mull__queue_reserve((void **)&q->user_names, &q->user_name_cap, q->user_count, sizeof *q->user_names) != 0 ||
        mull_idmap_put(&q->by_user, key, (uint32_t)q->user_count) != 0)
        return -1;
    q->users[q->user_count] = (mull_policy_user){.team = t};
    snprintf(q->user_names[q->user_count].name, MULL_NAME_MAX, "%s", name);
    return (int32_t)q->user_count++;
}

/* ---- teams ---- */

typedef struct build {
    mull_team_row *rows; /* the given ones, then those only memory knows */
    size_t n;
    int32_t *index; /* [n] place in the new order, -1 = none yet */
    mull_policy_team *teams;
    mull_team_name *names;
    size_t count;
} build;

static int32_t row_of(const build *b, const char *name) {
    for (size_t i = 0; i < b->n; i++)
        if (strcmp(b->rows[i].name, name) == 0) return (int32_t)i;
    return -1;
}

/* Gives a team its place, after its ancestors. PostgreSQL keeps the tree shallow and free of circles; a row that says
 * otherwise all the same becomes a team of the top level. */
static int32_t place(build *b, int32_t row, int depth) {
    if (b->index[row] >= 0) return b->index[row];
    mull_team_row *r = &b->rows[row];
    int32_t parent = r->parent[0] && depth < MULL_POLICY_DEPTH ? row_of(b, r->parent) : -1;
    if (parent >= 0) parent = place(b, parent, depth + 1);
    if (b->index[row] >= 0) return b->index[row]; /* a circle came back here */
    b->teams[b->count] = r->team;
    b->teams[b->count].parent = parent;
    snprintf(b->names[b->count].name, MULL_NAME_MAX, "%s", r->name);
    return b->index[row] = (int32_t)b->count++;
}

int mull_queue_set_teams(mull_queue *q, const mull_team_row *rows, size_t n) {
    size_t most = n + q->team_count + 1;
    build b = {.rows = calloc(most, sizeof *b.rows),
               .index = malloc(most * sizeof *b.index),
               .teams = calloc(most, sizeof *b.teams),
               .names = calloc(most, sizeof *b.names)};
    int rc = -1;
    if (!b.rows || !b.index || !b.teams || !b.names) goto out;
    for (; b.n < n; b.n++) {
        b.rows[b.n] = rows[b.n];
        int32_t known = mull_queue_find_team(q, rows[b.n].name);
        if (known >= 0) b.rows[b.n].team.used = q->teams[known].used;
    }
    for (size_t i = 0; i < q->team_count; i++) {
        if (row_of(&b, q->team_names[i].name) >= 0) continue;
        b.rows[b.n].team = q->teams[i];
        snprintf(b.rows[b.n++].name, MULL_NAME_MAX, "%s", q->team_names[i].name);
    }
    for (size_t i = 0; i < b.n; i++) b.index[i] = -1;
    for (size_t i = 0; i < b.n; i++) place(&b, (int32_t)i, 1);
    for (size_t i = 0; i < q->user_count; i++)
        q->users[i].team = b.index[row_of(&b, q->team_names[q->users[i].team].name)];
    free(q->teams);
    free(q->team_names);
    q->teams = b.teams;
    q->team_names = b.names;
    q->team_count = b.count;
    q->team_cap = q->team_name_cap = most;
    b.teams = NULL;
    b.names = NULL;
    rc = 0;
out:
    free(b.rows);
    free(b.index);
    free(b.teams);
    free(b.names);
    return rc;
}

/* ---- use ---- */

void mull_queue_age_usage(mull_queue *q, double dt_ms, double half_life_ms) {
    if (!(dt_ms > 0)) return;
    double keep = exp2(-dt_ms / half_life_ms);
    for (size_t i = 0; i < q->team_count; i++) q->teams[i].used *= keep;
    for (size_t i = 0; i < q->user_count; i++) q->users[i].used *= keep;
    for (size_t i = 0; i < q->attempt_count; i++) {
        const mull_attempt *a = &q->attempts[i];
        double more = (a->gpus > 0 ? a->gpus : a->slots > 0 ? a->slots : 1) * (1 - keep);
        q->users[a->user].used += more;
        for (int32_t t = q->users[a->user].team; t >= 0; t = q->teams[t].parent) q->teams[t].used += more;
    }
}
