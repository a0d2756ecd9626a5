/* See trace.h. */
#include "scheduler/sim/trace.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DAY_MS = 86400000, MINUTE_MS = 60000 };

/* SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). */
static uint64_t next(uint64_t *s) {
    uint64_t z = *s += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static double uniform(uint64_t *s) {
    return (double)(next(s) >> 11) * 0x1p-53;
}
static double normal(uint64_t *s) {
    double r = sqrt(-2 * log(1 - uniform(s)));
    return r * cos(6.283185307179586 * uniform(s));
}

static int32_t draw_size(uint64_t *s, int most) {
    static const struct {
        int32_t gpus;
        double below;
    } sizes[] = {{1, .52}, {2, .64}, {4, .76}, {8, .92}, {16, .96}, {32, .98}, {64, .992}, {128, .998}, {256, 1}};
    double u = uniform(s);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (u < sizes[i].below) return sizes[i].gpus <= most ? sizes[i].gpus : most;
    return 1;
}

static int by_submission(const void *a, const void *b) {
    const mull_trace_job *x = a, *y = b;
    return x->submit_ms < y->submit_ms ? -1 : x->submit_ms > y->submit_ms;
}

/* Morning to evening is four times as busy as the night, weekends half. */
static int64_t draw_time(uint64_t *s, int64_t span) {
    for (;;) {
        int64_t t = (int64_t)(uniform(s) * (double)span);
        double hour = (double)(t % DAY_MS) / DAY_MS * 24, busy = .25 + .75 * exp(-pow((hour - 14) / 5, 2));
        if (t / DAY_MS % 7 >= 5) busy *= .5;
        if (uniform(s) < busy) return t;
    }
}

static int make_people(const mull_trace_config *c, mull_trace *out) {
    uint64_t s = c->seed ^ 0x7465616d73;
    double sum = 0;
    out->team_count = (size_t)c->teams;
    out->user_count = out->team_count * (size_t)c->users_per_team;
    out->teams = calloc(out->team_count, sizeof *out->teams);
    out->users = calloc(out->user_count, sizeof *out->users);
    if (!out->teams || !out->users) return -1;
    for (size_t t = 0; t < out->team_count; t++) sum += out->teams[t].weight = 1 + floor(uniform(&s) * 4);
    for (size_t t = 0; t < out->team_count; t++) {
        mull_policy_team *q = &out->teams[t];
        q->parent = -1;
        q->nominal = (int32_t)(q->weight / sum * c->gpus);
        q->borrow = q->lend = -1;
        for (int u = 0; u < c->users_per_team; u++)
            out->users[t * (size_t)c->users_per_team + (size_t)u] = (mull_policy_user){(int32_t)t, 0};
    }
    return 0;
}

int mull_trace_make(const mull_trace_config *c, mull_trace *out) {
    uint64_t s = c->seed;
    double offered = 0;
    memset(out, 0, sizeof *out);
    out->span_ms = (int64_t)(c->weeks * 7 * DAY_MS);
    out->n = c->jobs;
    out->jobs = calloc(c->jobs ? c->jobs : 1, sizeof *out->jobs);
    if (!out->jobs || make_people(c, out) != 0) {
        mull_trace_fini(out);
        return -1;
    }
    for (size_t i = 0; i < c->jobs;) {
        int64_t at = draw_time(&s, out->span_ms);
        /* A team's share of the jobs has nothing to do with its weight. */
        int32_t user = (int32_t)(pow(uniform(&s), 1.7) * (double)out->user_count);
        int32_t gpus = draw_size(&s, c->gpus / 4), priority = uniform(&s) < .1 ? 1 : uniform(&s) < .3 ? -1 : 0;
        size_t burst = uniform(&s) < .1 ? 1 + (size_t)(uniform(&s) * 60) : 1; /* a sweep */
        for (size_t k = 0; k < burst && i < c->jobs; k++, i++) {
            mull_trace_job *j = &out->jobs[i];
            double minutes = exp(log(25) + .35 * log2(gpus) + 1.6 * normal(&s));
            j->run_ms = (int64_t)(fmin(fmax(minutes, .5), 4 * 1440) * MINUTE_MS);
            j->limit_ms = uniform(&s) < .2
                              ? 0
                              : (int64_t)(ceil((double)j->run_ms / MINUTE_MS * (1.05 + 2 * uniform(&s))) * MINUTE_MS);
            j->submit_ms = at + (int64_t)k * 200;
            j->gpus = gpus;
            j->user = user;
            j->priority = priority;
            j->preemptible = priority <= 0;
            offered += (double)j->gpus * (double)j->run_ms;
        }
    }
    /* Run times are scaled so that the load is the one asked for. */
    double scale = c->load * c->gpus * (double)out->span_ms / (offered > 0 ? offered : 1);
    for (size_t i = 0; i < c->jobs; i++) {
        mull_trace_job *j = &out->jobs[i];
        j->run_ms = (int64_t)((double)j->run_ms * scale) + 1000;
        j->limit_ms = j->limit_ms ? (int64_t)((double)j->limit_ms * scale) + 60000 : 0;
    }
    qsort(out->jobs, out->n, sizeof *out->jobs, by_submission);
    return 0;
}

int mull_trace_write(const mull_trace *t, FILE *f) {
    fprintf(f, "submit_s,run_s,limit_s,gpus,team,priority\n");
    for (size_t i = 0; i < t->n; i++) {
        const mull_trace_job *j = &t->jobs[i];
        fprintf(f, "%.3f,%.3f,%.3f,%d,%d,%d\n", (double)j->submit_ms / 1e3, (double)j->run_ms / 1e3,
                (double)j->limit_ms / 1e3, j->gpus, t->users[j->user].team, j->priority);
    }
    return ferror(f) ? -1 : 0;
}

static int refuse(const char *path, size_t line, const char *why) {
    fprintf(stderr, "error: cannot read the trace (%s:%zu): %s; see mull-sim --help for the columns\n", path, line,
            why);
    return -1;
}

int mull_trace_read(const char *path, mull_trace *out) {
    char line[256];
    size_t n = 1, cap = 0;
    int teams = 0, rc = 0;
    memset(out, 0, sizeof *out);
    FILE *f = fopen(path, "re");
    if (!f) return refuse(path, 0, strerror(errno));
    if (!fgets(line, sizeof line, f)) rc = refuse(path, 1, "it is empty");
    while (!rc && fgets(line, sizeof line, f)) {
        double submit, run, limit, g, t, p; /* all of them: a number too large for an int must not wrap */
        int end = 0;
        n++;
        if (sscanf(line, "%lf,%lf,%lf,%lf,%lf,%lf %n", &submit, &run, &limit, &g, &t, &p, &end) != 6 || line[end])
            rc = refuse(path, n, "no row of six numbers");
        else if (!(submit >= 0 && submit < 1e9 && run > 0 && run < 1e9 && limit >= 0 && limit < 1e9 && g >= 1 &&
                   g <= 1000000 && t >= 0 && t <= 999 && fabs(p) <= 1000000))
            rc = refuse(path, n, "a number is out of bounds");
        else if (out->n && submit * 1e3 < (double)out->jobs[out->n - 1].submit_ms)
            rc = refuse(path, n, "rows are not in order of submission");
        if (rc) break;
        int gpus = (int)g, team = (int)t, priority = (int)p;
        if (out->n == cap) {
            cap = cap ? cap * 2 : 1024;
            mull_trace_job *more = realloc(out->jobs, cap * sizeof *more);
            if (!more) {
                rc = refuse(path, n, "out of memory");
                break;
            }
            out->jobs = more;
        }
        out->jobs[out->n++] = (mull_trace_job){
            (int64_t)(submit * 1e3), (int64_t)(run * 1e3), (int64_t)(limit * 1e3), gpus, team, priority, priority <= 0};
        if (team >= teams) teams = team + 1;
    }
    fclose(f);
    out->team_count = out->user_count = (size_t)(teams ? teams : 1);
    out->teams = calloc(out->team_count, sizeof *out->teams);
    out->users = calloc(out->user_count, sizeof *out->users);
    if (!rc && (!out->teams || !out->users || !out->n))
        rc = refuse(path, n, out->n ? "out of memory" : "it has no jobs");
    for (size_t t = 0; !rc && t < out->team_count; t++) {
        out->teams[t] = (mull_policy_team){-1, 1, 0, -1, -1, -1};
        out->users[t] = (mull_policy_user){(int32_t)t, 0};
    }
    if (rc)
        mull_trace_fini(out);
    else
        out->span_ms = out->jobs[out->n - 1].submit_ms;
    return rc;
}

void mull_trace_fini(mull_trace *t) {
    free(t->jobs);
    free(t->teams);
    free(t->users);
    memset(t, 0, sizeof *t);
}
