/* mull-engine bench score: replies a second that a task's scorer takes, one thread, without reading or writing JSON. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/eval/task.h"
#include "engine/infer/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char USAGE[] =
    "usage: mull-engine bench score --task T [--repeat 5] [--raw] FILE\n\n"
    "FILE: JSON lines {\"doc\", \"reply\"} as for mull-engine score. Scores them all, repeat times, and prints the\n"
    "median rates a second and a second of CPU time; --raw scores each reply as it is too, as the score command "
    "does.\n";

typedef struct rows {
    json_t **at;
    size_t n;
    double bytes;
} rows;

static int read_rows(const char *path, rows *r, mull_error *err) {
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t cap = 0, room = 0;
    int rc = MULL_OK;
    if (!f) return mull_fail_errno(err, errno, "cannot measure", path, "check the path");
    for (ssize_t n; !rc && (n = getline(&line, &cap, f)) > 0;) {
        json_t *o = json_loadb(line, (size_t)n, JSON_ALLOW_NUL, NULL);
        if (!json_is_object(json_object_get(o, "doc")) || !json_is_string(json_object_get(o, "reply")))
            rc = mull_fail(err, MULL_EFORMAT, "cannot measure", path, "give lines as for mull-engine score",
                           "row %zu has no doc and reply", r->n + 1);
        if (!rc && r->n == room) {
            room = room ? 2 * room : 1024;
            json_t **grown = realloc(r->at, room * sizeof *grown);
            if (grown)
                r->at = grown;
            else
                rc = mull_fail(err, MULL_ENOMEM, "cannot measure", path, NULL, "out of memory");
        }
        if (rc) {
            json_decref(o);
            break;
        }
        r->bytes += (double)json_string_length(json_object_get(o, "reply"));
        r->at[r->n++] = o;
    }
    free(line);
    fclose(f);
    if (!rc && !r->n)
        rc = mull_fail(err, MULL_EFORMAT, "cannot measure", path, "give lines as for mull-engine score",
                       "it has no rows");
    return rc;
}

/* What a shared machine cannot slow down much. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int score_all(const mull_task *t, const rows *r, int flags, double *mean, mull_error *err) {
    mull_tally tally = {0};
    int rc = MULL_OK;
    for (size_t i = 0; i < r->n && !rc; i++) {
        const json_t *reply = json_object_get(r->at[i], "reply");
        mull_scored s;
        rc = mull_task_score(t, json_object_get(r->at[i], "doc"), json_string_value(reply), json_string_length(reply),
                             MULL_COMPAT_OURS, flags, &s, err);
        if (rc) break;
        if (mull_tally_add(&tally, &s)) rc = mull_fail(err, MULL_ENOMEM, "cannot measure", NULL, NULL, "out of memory");
        mull_scored_fini(&s);
    }
    if (!rc) *mean = mull_tally_headline(t, &tally);
    mull_tally_fini(&tally);
    return rc;
}

int mull_bench_score(int argc, char **argv) {
    static const char cmd[] = "bench score";
    const mull_task *task = NULL;
    const char *path = NULL;
    long long repeat = 5;
    int flags = 0, rc = 0;
    for (int i = 1; i < argc && !rc; i++) {
        bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--help")) {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        } else if (!strcmp(argv[i], "--task") && more) {
            if (!(task = mull_task_find(argv[++i]))) rc = mull_cmd_usage(cmd, "there is no task '%s'", argv[i]);
        } else if (!strcmp(argv[i], "--repeat") && more) {
            rc = mull_cmd_int(cmd, "--repeat", argv[++i], 1, 1000, &repeat);
        } else if (!strcmp(argv[i], "--raw")) {
            flags = MULL_SCORE_RAW;
        } else if (argv[i][0] != '-' && !path) {
            path = argv[i];
        } else {
            rc = mull_cmd_usage(cmd, "unexpected argument '%s'", argv[i]);
        }
    }
    if (rc) return rc;
    if (!task || !path) return mull_cmd_usage(cmd, "--task and FILE are needed");
    rows r = {0};
    mull_error err = {0};
    double mean = 0, *seconds = calloc((size_t)repeat, 2 * sizeof *seconds), *cpu = seconds + repeat;
    rc = seconds ? read_rows(path, &r, &err)
                 : mull_fail(&err, MULL_ENOMEM, "cannot measure", path, NULL, "out of memory");
    for (int i = 0; i < repeat && !rc; i++) {
        seconds[i] = mull_clock_ms();
        cpu[i] = cpu_seconds();
        rc = score_all(task, &r, flags, &mean, &err);
        seconds[i] = (mull_clock_ms() - seconds[i]) / 1e3;
        cpu[i] = cpu_seconds() - cpu[i];
    }
    if (!rc)
        mull_cmd_emit(json_pack("{s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:I}", "bench", "score", "task",
                                mull_task_name(task), "rows", (json_int_t)r.n, "mean_bytes", r.bytes / (double)r.n,
                                "score", mean, "replies_s", (double)r.n / mull_bench_median(seconds, (int)repeat),
                                "replies_cpu_s", (double)r.n / mull_bench_median(cpu, (int)repeat), "repeat",
                                (json_int_t)repeat));
    for (size_t i = 0; i < r.n; i++) json_decref(r.at[i]);
    free(r.at);
    free(seconds);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
