/* Soak: rounds of real servers under a workload and faults that one seed names. usage: fault_soak [--seed N]
 * [--rounds N] [--seconds N] [--verbose]. The seed of a round that fails is printed; --seed plays that round again.
 * Exit status 0, 1 when an invariant was broken, 77 when servers are missing. */
#include "tests/fault/soak/soak.h"

#include "tests/support/run.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SETTLE_MS = 150000, FAULTS_A_SECOND = 2 };

static const char *const NAMES[ACT_KINDS] = {"submit",      "cancel",      "kill scheduler", "stop scheduler",
                                             "kill worker", "stop worker", "kill engine",    "stop engine",
                                             "flush Redis", "kill Redis",  "truncate Redis", "crash PostgreSQL",
                                             "proxy",       "clock",       "repeat events",  "fill disk",
                                             "mend"};

uint64_t soak_any(soak *k, uint64_t n) { /* splitmix64 */
    uint64_t z = (k->rng += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % n;
}

void soak_say(const soak *k, const char *fmt, ...) {
    va_list ap;
    if (!k->verbose) return;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
}

/* ---- the plan ---- */

static void plan(soak *k, int at_ms, action_kind kind, action_kind what, int arg, int more) {
    if (k->action_count < ACTIONS) k->plan[k->action_count++] = (action){at_ms, kind, what, arg, more};
}

static void plan_jobs(soak *k, int span_ms) {
    k->job_count = 14 + (int)soak_any(k, 10);
    for (int i = 0; i < k->job_count; i++) {
        soak_job *j = &k->jobs[i];
        *j = (soak_job){.steps = 1 + (int)soak_any(k, 25), .after = -1};
        snprintf(j->key, sizeof j->key, "k%d", i);
        switch (soak_any(k, 8)) {
        case 0:
            snprintf(j->more, sizeof j->more, ",\"array\":\"0-%d%%%d\"", 1 + (int)soak_any(k, 6),
                     1 + (int)soak_any(k, 3));
            j->steps = 1 + j->steps / 4;
            break;
        case 1:
            snprintf(j->more, sizeof j->more, ",\"slots\":%d", 2 + (int)soak_any(k, 4)); /* four and more: both nodes */
            break;
        case 2:
            snprintf(j->more, sizeof j->more, ",\"priority\":%d,\"preemptible\":true,\"min_run\":0",
                     (int)soak_any(k, 20));
            break;
        case 3:
            if (i > 0) j->after = (int)soak_any(k, (uint64_t)i);
            break;
        case 4:
            snprintf(j->more, sizeof j->more, ",\"preemptible\":true,\"min_run\":0");
            break;
        default:
            break;
        }
        int at = (int)soak_any(k, (uint64_t)span_ms * 3 / 4);
        plan(k, at, ACT_SUBMIT, 0, i, 0);
        if (soak_any(k, 10) == 0) plan(k, at + (int)soak_any(k, (uint64_t)span_ms), ACT_CANCEL, 0, i, 0);
    }
}

static void plan_fault(soak *k, int at) {
    static const action_kind kinds[] = {ACT_KILL_SCHEDULER, ACT_STOP_SCHEDULER, ACT_KILL_WORKER,   ACT_STOP_WORKER,
                                        ACT_KILL_ENGINE,    ACT_KILL_ENGINE,    ACT_STOP_ENGINE,   ACT_FLUSH_REDIS,
                                        ACT_KILL_REDIS,     ACT_TRUNCATE_REDIS, ACT_CRASH_PG,      ACT_PROXY,
                                        ACT_PROXY,          ACT_CLOCK,          ACT_REPEAT_EVENTS, ACT_FILL_DISK};
    static const int jumps[] = {-86400, -3600, -30, 30, 3600, 86400};
    action_kind kind = kinds[soak_any(k, sizeof kinds / sizeof *kinds)];
    int lasts = 200 + (int)soak_any(k, 4000), arg = 0, more = 0;
    if (kind == ACT_KILL_SCHEDULER || kind == ACT_STOP_SCHEDULER) arg = (int)soak_any(k, SCHEDULERS);
    if (kind == ACT_KILL_WORKER || kind == ACT_STOP_WORKER) arg = (int)soak_any(k, WORKERS);
    if (kind <= ACT_STOP_ENGINE) more = (int)soak_any(k, 2); /* at a change of state, or anywhere between */
    if (kind == ACT_PROXY) {
        arg = (int)soak_any(k, 3);
        more = 1 + (int)soak_any(k, 3);
    }
    if (kind == ACT_CLOCK) more = jumps[soak_any(k, sizeof jumps / sizeof *jumps)];
    plan(k, at, kind, 0, arg, more);
    plan(k, at + lasts, ACT_MEND, kind, arg, 0);
    k->faults++;
}

static int by_time(const void *a, const void *b) {
    return ((const action *)a)->at_ms - ((const action *)b)->at_ms;
}

static void make_plan(soak *k, int seconds) {
    plan_jobs(k, seconds * 1000);
    for (int i = 0; i < seconds * FAULTS_A_SECOND; i++) plan_fault(k, 500 + (int)soak_any(k, (uint64_t)seconds * 1000));
    qsort(k->plan, (size_t)k->action_count, sizeof *k->plan, by_time);
}

/* ---- the play ---- */

static void play(soak *k) {
    long long begin = mull_now_ms();
    for (int i = 0; i < k->action_count; i++) {
        const action *a = &k->plan[i];
        long long wait = begin + a->at_ms - mull_now_ms();
        if (wait > 0) mull_sleep_ms((int)wait);
        soak_say(k, "%6.2f s: %s%s%s %d %d\n", (double)a->at_ms / 1000, NAMES[a->kind], a->kind == ACT_MEND ? " " : "",
                 a->kind == ACT_MEND ? NAMES[a->what] : "", a->arg, a->more);
        soak_act(k, a);
    }
    soak_mend_all(k);
}

static bool submitted(void *arg) {
    soak *k = arg;
    bool all = true;
    for (int i = 0; i < k->job_count; i++) {
        soak_submit(k, &k->jobs[i], 5000);
        all &= k->jobs[i].id != 0;
    }
    return all;
}

static bool settled(void *arg) {
    const soak *k = arg;
    /* Engines that were stopped for good are the hang detector's; nodes that were quarantined are an admin's. */
    free(mull_sql(k->pg, "UPDATE node SET drained = false, state = 'UP', quarantine = '' WHERE quarantine <> ''"));
    return mull_sql_int(k->pg, "SELECT count(*) FROM job WHERE state IN ('PENDING', 'RUNNING')") == 0;
}

static void show_what_hangs(const soak *k) {
    char *text = mull_sql(
        k->pg, "SELECT string_agg(id || ' ' || state || ' ' || reason || ' attempt ' || attempt || ' on ' || "
               "COALESCE(node, '-') || ' ' || message, E'\\n') FROM job WHERE state IN ('PENDING', 'RUNNING')");
    fprintf(stderr, "soak: not settled:\n%s\n", text);
    free(text);
}

static int round_of(uint64_t seed, int seconds, bool verbose, const char *keep, int *faults) {
    static soak k;
    memset(&k, 0, sizeof k);
    k.rng = seed;
    k.verbose = verbose;
    soak_open(&k);
    make_plan(&k, seconds);
    *faults = k.faults;
    play(&k);
    int bad = 0;
    if (!mull_wait_for(submitted, &k, 60000)) {
        fprintf(stderr, "soak: broken: a submit is not acknowledged a minute after everything was mended\n");
        bad++;
    } else if (!mull_wait_for(settled, &k, SETTLE_MS)) {
        show_what_hangs(&k);
        bad++;
    }
    bad += soak_check(&k);
    if (!bad) bad += soak_check_blind(&k); /* rules that cannot be broken would prove nothing */
    if (bad && keep) {
        char command[400];
        snprintf(command, sizeof command, "mkdir -p %s && cp %s/*.log %s/", keep, k.s.dir, keep);
        if (system(command) == 0) fprintf(stderr, "soak: logs are in %s\n", keep);
    }
    if (bad) {
        char *log = mull_sql(k.pg, "SELECT string_agg(job || ' ' || attempt || ' ' || node || ' ' || state || ' ' || "
                                   "COALESCE(class, '') || ' ' || message, E'\\n' ORDER BY fence) FROM attempt");
        fprintf(stderr, "attempts:\n%s\n", log);
        free(log);
    }
    soak_close(&k);
    return bad;
}

int main(int argc, char **argv) {
    static const struct option OPTIONS[] = {
        {"seed", required_argument, NULL, 's'},    {"rounds", required_argument, NULL, 'r'},
        {"seconds", required_argument, NULL, 't'}, {"keep", required_argument, NULL, 'k'},
        {"verbose", no_argument, NULL, 'v'},       {0}};
    uint64_t seed = (uint64_t)mull_now_ms() * 1000003u;
    long rounds = 1, seconds = 15, failed = 0, all_faults = 0;
    bool verbose = false, seeded = false;
    const char *keep = NULL;
    for (int o; (o = getopt_long(argc, argv, "", OPTIONS, NULL)) != -1;) {
        if (o == 's') {
            seed = strtoull(optarg, NULL, 10);
            seeded = true;
        } else if (o == 'r')
            rounds = atol(optarg);
        else if (o == 't')
            seconds = atol(optarg);
        else if (o == 'k')
            keep = optarg;
        else if (o == 'v')
            verbose = true;
        else
            return 2;
    }
    if (seconds < 1 || seconds > 100 || rounds < 1) {
        fprintf(
            stderr,
            "error: wrong usage (fault_soak): --seconds takes 1 to 100, --rounds 1 and more; see the head of soak.c\n");
        return 2;
    }
    for (long i = 0; i < rounds; i++) {
        uint64_t s = seeded ? seed + (uint64_t)i : seed + (uint64_t)i * 7919u;
        long long begin = mull_now_ms();
        int faults = 0, bad = round_of(s, (int)seconds, verbose, keep, &faults);
        all_faults += faults;
        failed += bad > 0;
        printf("round %ld of %ld: seed %llu, %d faults, %s, %.0f s\n", i + 1, rounds, (unsigned long long)s, faults,
               bad ? "BROKEN" : "held", (double)(mull_now_ms() - begin) / 1000);
        fflush(stdout);
    }
    printf("soak: %ld rounds, %ld faults, %ld rounds broken\n", rounds, all_faults, failed);
    return failed ? 1 : 0;
}
