/* mull-sim: weeks of a shared cluster in minutes, played against the scheduler's own policy. */
#include "scheduler/sim/sim.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-sim [flags]\n"
    "  --trace FILE       a CSV with the columns submit_s,run_s,limit_s,gpus,team,priority instead of a made trace\n"
    "  --jobs N           jobs of the made trace (100000)\n"
    "  --weeks W          its length (2)\n"
    "  --load L           GPU time that it asks for, over what there is (0.9)\n"
    "  --teams N          (20)      --users N   of each team (10)      --seed N (1)\n"
    "  --nodes N          (1250)    --gpus N    of each node (8)       --switch N  nodes under one switch (32)\n"
    "  --pass S           at most one scheduling pass in so many seconds (15)\n"
    "  --checkpoint S     jobs save their state this often (1800)\n"
    "  --min-run S        no preemption before (600)    --half-life H  of usage, in hours (168)\n"
    "  --plot DIR         also writes utilisation.svg and waits.svg there\n"
    "  --starts           prints number, first start and end of each job in seconds instead of the report; -1: never\n"
    "  --write-trace      prints the made trace as CSV and ends\n\n"
    "Prints utilisation, waits by size and team, fairness, preemptions and the time that passes took.\n";

static int usage(const char *what, const char *why) {
    fprintf(stderr, "error: wrong usage (mull-sim %s): %s; see mull-sim --help\n", what, why);
    return 2;
}

typedef struct flag {
    const char *name;
    double *value, low, high;
} flag;

int main(int argc, char **argv) {
    double jobs = 100000, weeks = 2, load = .9, teams = 20, users = 10, seed = 1, nodes = 1250, gpus = 8,
           per_switch = 32, pass = 15, checkpoint = 1800, min_run = 600, half_life = 168;
    const flag flags[] = {{"jobs", &jobs, 1, 1e7},
                          {"weeks", &weeks, .01, 520},
                          {"load", &load, .01, 10},
                          {"teams", &teams, 1, 1000},
                          {"users", &users, 1, 1000},
                          {"seed", &seed, 0, 9e15},
                          {"nodes", &nodes, 1, 100000},
                          {"gpus", &gpus, 1, 64},
                          {"switch", &per_switch, 1, 1e5},
                          {"pass", &pass, .001, 86400},
                          {"checkpoint", &checkpoint, 1, 1e7},
                          {"min-run", &min_run, 0, 1e6},
                          {"half-life", &half_life, .01, 1e5}};
    enum { NFLAGS = sizeof flags / sizeof *flags };
    const char *trace_path = NULL, *plot = NULL;
    bool write_trace = false, starts = false;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        if (!strcmp(name, "--help") || !strcmp(name, "-h")) return fputs(USAGE, stdout) < 0;
        if (!strcmp(name, "--write-trace") || !strcmp(name, "--starts")) {
            (name[2] == 'w' ? &write_trace : &starts)[0] = true;
            continue;
        }
        if (i + 1 == argc) return usage(name, "unknown flag, or its value is missing");
        const char *text = argv[++i];
        if (!strcmp(name, "--trace")) {
            trace_path = text;
            continue;
        }
        if (!strcmp(name, "--plot")) {
            plot = text;
            continue;
        }
        const flag *f = flags;
        while (f < flags + NFLAGS && (strncmp(name, "--", 2) != 0 || strcmp(name + 2, f->name) != 0)) f++;
        if (f == flags + NFLAGS) return usage(name, "unknown flag");
        char *end;
        *f->value = strtod(text, &end);
        if (end == text || *end || !(*f->value >= f->low && *f->value <= f->high)) {
            char why[80];
            snprintf(why, sizeof why, "takes a number from %g to %g", f->low, f->high);
            return usage(name, why);
        }
    }
    mull_sim_config c = {(int)nodes,
                         (int)gpus,
                         (int)per_switch,
                         (int64_t)(pass * 1e3),
                         (int64_t)(checkpoint * 1e3),
                         60000,
                         (int32_t)(min_run * 1e3),
                         half_life * 3600e3};
    mull_trace_config made = {(uint64_t)seed, (int)teams, (int)users, (int)nodes * (int)gpus,
                              (size_t)jobs,   weeks,      load};
    mull_trace t;
    if (trace_path) {
        if (mull_trace_read(trace_path, &t) != 0) return 1;
    } else if (mull_trace_make(&made, &t) != 0) {
        fprintf(stderr, "error: cannot make the trace (mull-sim): out of memory; ask for fewer --jobs\n");
        return 1;
    }
    if (write_trace) {
        int rc = mull_trace_write(&t, stdout);
        mull_trace_fini(&t);
        return rc ? 1 : 0;
    }
    mull_sim_result r;
    if (mull_sim_run(&t, &c, &r) != 0) {
        fprintf(stderr, "error: cannot simulate (mull-sim): out of memory; ask for fewer --jobs\n");
        mull_trace_fini(&t);
        return 1;
    }
    for (size_t i = 0; starts && i < t.n; i++)
        printf("%zu,%.3f,%.3f\n", i + 1, (double)r.jobs[i].start_ms / 1e3, (double)r.jobs[i].end_ms / 1e3);
    if (!starts) mull_sim_report(&t, &c, &r, stdout);
    int rc = plot ? mull_sim_plot(&t, &c, &r, plot) : 0;
    if (r.double_booked) {
        fprintf(stderr, "error: a GPU was given away twice (mull-sim): a bug of the policy; report the flags\n");
        rc = -1;
    }
    mull_sim_fini(&r);
    mull_trace_fini(&t);
    return rc ? 1 : 0;
}
