/* mull compare: runs side by side: what they differ in, last and best metrics, curves; or two evaluations. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/runs.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct opts {
    bool json, eval, plot;
    const char *key;
} opts;

static const mull_opt compare_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object"},
    {"--key", 'k', MULL_OPT_TEXT, offsetof(opts, key), NULL, "KEY", "draw this metric (default loss)"},
    {"--plot", 0, MULL_OPT_FLAG, offsetof(opts, plot), NULL, NULL, "draw every metric that two of the runs have"},
    {"--eval", 0, MULL_OPT_FLAG, offsetof(opts, eval), NULL, NULL,
     "A and B are evaluations (folders or ids of jobs): paired differences with intervals"},
    {0}};

/* {"train_dataset_args.split": "train", …}: values of nested objects under dotted names. */
static void flatten(const json_t *o, const char *prefix, json_t *out) {
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)o, key, v) {
        char name[300];
        snprintf(name, sizeof name, "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(v))
            flatten(v, name, out);
        else
            json_object_set(out, name, v);
    }
}

/* Keys in which the runs differ: [{"key","values":[…]}], null where a run has none. */
static json_t *differences(json_t *const *flat, int n) {
    json_t *keys = json_object(), *out = json_array();
    const char *key;
    json_t *ignored;
    for (int i = 0; i < n; i++) json_object_update(keys, flat[i]);
    json_object_foreach(keys, key, ignored) {
        bool same = true;
        json_t *values = json_array();
        for (int i = 0; i < n; i++) {
            json_t *v = json_object_get(flat[i], key);
            json_array_append_new(values, v ? json_incref(v) : json_null());
            same &= i == 0 || json_equal(json_array_get(values, 0), json_array_get(values, (size_t)i));
        }
        if (same)
            json_decref(values);
        else
            json_array_append_new(out, json_pack("{s:s, s:o}", "key", key, "values", values));
    }
    json_decref(keys);
    return out;
}

static json_t *member_differences(json_t *const *runs, int n, const char *member) {
    json_t *flat[MULL_SERIES_MAX];
    for (int i = 0; i < n; i++) {
        flat[i] = json_object();
        flatten(json_object_get(runs[i], member), "", flat[i]);
    }
    json_t *out = differences(flat, n);
    for (int i = 0; i < n; i++) json_decref(flat[i]);
    return out;
}

static json_t *number_or_null(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}

/* [{"key","better","last":[…],"best":[…],"best_step":[…]}] of every metric that any of them has. */
static json_t *metrics_of(json_t *const *runs, int n) {
    json_t *keys = json_object(), *out = json_array(), *ignored;
    const char *key;
    for (int i = 0; i < n; i++) json_object_update(keys, json_object_get(runs[i], "metrics"));
    json_object_foreach(keys, key, ignored) {
        bool rises = mull_metric_rises(key);
        json_t *last = json_array(), *best = json_array(), *at = json_array();
        for (int i = 0; i < n; i++) {
            const json_t *m = json_object_get(json_object_get(runs[i], "metrics"), key);
            long long step;
            double b = mull_metric_best(m, rises, &step);
            json_array_append_new(last,
                                  number_or_null(m ? json_number_value(json_object_get(m, "last")) : (double)NAN));
            json_array_append_new(best, number_or_null(b));
            json_array_append_new(at, m ? json_integer(step) : json_null());
        }
        json_array_append_new(out, json_pack("{s:s, s:s, s:o, s:o, s:o}", "key", key, "better",
                                             rises ? "greater" : "less", "last", last, "best", best, "best_step", at));
    }
    json_decref(keys);
    return out;
}

/* ---- for people ---- */

static void cell_of(const json_t *v, char *out, size_t cap) {
    char *text = !v || json_is_null(v) ? NULL : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
    snprintf(out, cap, "%s", !text ? "-" : json_is_string(v) ? json_string_value(v) : text);
    free(text);
}

static void print_differences(const char *label, const json_t *list, json_t *const *runs, int n, bool brief) {
    mull_column columns[1 + MULL_SERIES_MAX] = {{label, .shrink = 8}};
    char titles[MULL_SERIES_MAX][40];
    mull_table t;
    size_t i;
    const json_t *d;
    if (!json_array_size(list)) {
        printf("%s: the same\n\n", label);
        return;
    }
    for (int k = 0; k < n; k++) {
        snprintf(titles[k], sizeof titles[k], "RUN %.20s", mull_text(runs[k], "id"));
        columns[1 + k] = (mull_column){titles[k], .shrink = 8};
    }
    mull_table_init(&t, columns, n + 1);
    json_array_foreach(list, i, d) {
        char cells[MULL_SERIES_MAX][300];
        const char *row[1 + MULL_SERIES_MAX] = {mull_text(d, "key")};
        for (int k = 0; k < n; k++) {
            cell_of(json_array_get(json_object_get(d, "values"), (size_t)k), cells[k], sizeof cells[k]);
            if (brief && strlen(cells[k]) == 64) cells[k][12] = 0;
            row[1 + k] = cells[k];
        }
        mull_table_row(&t, row);
    }
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
    putchar('\n');
}

static void print_metrics(const json_t *list, json_t *const *runs, int n) {
    mull_column columns[1 + 2 * MULL_SERIES_MAX] = {{"METRIC", .shrink = 8}};
    char titles[2 * MULL_SERIES_MAX][40];
    mull_table t;
    size_t i;
    const json_t *m;
    if (!json_array_size(list)) return;
    for (int k = 0; k < n; k++) {
        snprintf(titles[2 * k], sizeof titles[0], "LAST %.20s", mull_text(runs[k], "id"));
        snprintf(titles[2 * k + 1], sizeof titles[0], "BEST %.20s", mull_text(runs[k], "id"));
        columns[1 + 2 * k] = (mull_column){titles[2 * k], .right = true};
        columns[2 + 2 * k] = (mull_column){titles[2 * k + 1], .right = true};
    }
    mull_table_init(&t, columns, 1 + 2 * n);
    json_array_foreach(list, i, m) {
        char cells[2 * MULL_SERIES_MAX][40];
        const char *row[1 + 2 * MULL_SERIES_MAX] = {mull_text(m, "key")};
        for (int k = 0; k < n; k++) {
            cell_of(json_array_get(json_object_get(m, "last"), (size_t)k), cells[2 * k], sizeof cells[0]);
            cell_of(json_array_get(json_object_get(m, "best"), (size_t)k), cells[2 * k + 1], sizeof cells[0]);
            row[1 + 2 * k] = cells[2 * k];
            row[2 + 2 * k] = cells[2 * k + 1];
        }
        mull_table_row(&t, row);
    }
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
    putchar('\n');
}

static int overlay(mull_client *c, const char *key, json_t *const *runs, int n) {
    mull_series s[MULL_SERIES_MAX] = {{0}};
    char names[MULL_SERIES_MAX][160];
    int rc = MULL_EXIT_OK;
    for (int k = 0; k < n && !rc; k++) {
        json_t *points;
        const char *id = mull_text(runs[k], "id");
        rc = mull_run_points(c, id, key, &points);
        if (rc) break;
        snprintf(names[k], sizeof names[k], "run %.20s %.100s", id, mull_text(runs[k], "name"));
        if (mull_series_of(names[k], points, &s[k])) rc = MULL_EXIT_FAILED;
        json_decref(points);
    }
    if (!rc) mull_plot(key, s, (size_t)n, mull_term_width(stdout), stdout);
    for (int k = 0; k < n; k++) mull_series_fini(&s[k]);
    return rc;
}

static int compare_runs(mull_client *c, const opts *o, char *const *ids, int n) {
    json_t *runs[MULL_SERIES_MAX] = {NULL};
    int rc = MULL_EXIT_OK;
    for (int i = 0; i < n && !rc; i++) rc = mull_run_read(c, ids[i], &runs[i]);
    if (!rc) {
        json_t *config = member_differences(runs, n, "config"), *hashes = member_differences(runs, n, "hashes"),
               *metrics = metrics_of(runs, n);
        if (o->json) {
            json_t *list = json_array();
            for (int i = 0; i < n; i++) {
                json_object_del(runs[i], "config");
                json_object_del(runs[i], "metrics");
                json_array_append(list, runs[i]);
            }
            mull_emit(json_pack("{s:o, s:O, s:O, s:O}", "runs", list, "config", config, "hashes", hashes, "metrics",
                                metrics));
        } else {
            print_differences("HASHES", hashes, runs, n, true);
            print_differences("CONFIG", config, runs, n, false);
            print_metrics(metrics, runs, n);
            size_t i;
            json_t *m;
            json_array_foreach(metrics, i, m) {
                const char *key = mull_text(m, "key");
                if (!rc && (o->plot || !strcmp(key, o->key ? o->key : "loss"))) rc = overlay(c, key, runs, n);
            }
        }
        json_decref(config);
        json_decref(hashes);
        json_decref(metrics);
    }
    for (int i = 0; i < n; i++) json_decref(runs[i]);
    return rc;
}

/* ---- evaluations ---- */

/* The output folder of an evaluation job, or the word itself when it is a folder. malloc'ed; NULL after words. */
static char *eval_folder(const char *word) {
    if (strspn(word, "0123456789") != strlen(word) || access(word, F_OK) == 0) return mull_absolute(word);
    mull_client *c = mull_client_or_complain();
    char path[64], *out = NULL;
    json_t *j;
    snprintf(path, sizeof path, "/v1/jobs/%.20s", word);
    if (c && !mull_client_get(c, "GET", path, NULL, &j)) {
        const char *folder = mull_text(json_object_get(j, "spec"), "out");
        if (strcmp(mull_text(j, "kind"), "eval") != 0 || !*folder)
            mull_complain("cannot compare", word, "give two evaluations, or leave out --eval to compare runs",
                          "job %s is no evaluation", word);
        else
            out = strdup(folder);
        json_decref(j);
    }
    mull_client_close(c);
    return out;
}

/* Starts the engine beside this program and reads its one line of JSON; what it says on stderr is the user's to read.
 * NULL: *rc is the exit status. */
static json_t *ask_engine(const char *a, const char *b, int *rc) {
    char exe[4096];
    int ends[2], status = 0;
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 16);
    char *slash = n > 0 ? (exe[n] = 0, strrchr(exe, '/')) : NULL;
    *rc = MULL_EXIT_FAILED;
    if (slash) strcpy(slash + 1, "mull-engine");
    if (!slash || access(exe, X_OK) || pipe(ends)) {
        mull_complain("cannot compare evaluations", slash ? exe : "mull-engine",
                      "build or install mull-engine beside mull", "it cannot be started");
        return NULL;
    }
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl(exe, "mull-engine", "compare", "--eval", a, b, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *f = fdopen(ends[0], "r");
    json_t *out = f && pid > 0 ? json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    if (f) fclose(f);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 && json_is_object(json_object_get(out, "tasks")))
        return out;
    if (pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) > 0) *rc = WEXITSTATUS(status);
    json_decref(out);
    return NULL;
}

/* The engine pairs the rows. */
static int compare_evals(char *const *words, bool json) {
    char *a = eval_folder(words[0]), *b = a ? eval_folder(words[1]) : NULL;
    int rc = MULL_EXIT_FAILED;
    json_t *out = a && b ? ask_engine(a, b, &rc) : NULL;
    free(a);
    free(b);
    if (!out) return rc;
    if (json)
        mull_emit(out);
    else {
        mull_compare_table(out, stdout);
        json_decref(out);
    }
    return MULL_EXIT_OK;
}

static int run_compare(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (o.eval)
        return words == 2 ? compare_evals(argv + 1, o.json) : mull_usage(cmd->name, "--eval takes two evaluations");
    if (words < 2 || words > MULL_SERIES_MAX) return mull_usage(cmd->name, "give 2 to %d runs", MULL_SERIES_MAX);
    for (int i = 1; i <= words; i++)
        if (mull_id_check(cmd->name, argv[i])) return MULL_EXIT_USAGE;
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    int rc = compare_runs(c, &o, argv + 1, words);
    mull_client_close(c);
    return rc;
}

const mull_cmd mull_cmd_compare = {
    "compare",
    "ID ID... [flags]",
    "runs side by side: digests and configuration that differ, last and best metrics, curves",
    "examples:\n  mull compare 17 18\n  mull compare 17 18 19 --key grad_norm\n  mull compare --eval 20 21\n"
    "  mull compare --eval out/a out/b\n",
    compare_opts,
    run_compare};
