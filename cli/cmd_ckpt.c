/* mull ckpt: the checkpoints that jobs have published: list, look, check against their sums, keep, take away.
 *
 * Taking away has two halves. The queue says whether it may (nothing needs it) and marks it; then the folder is removed
 * here, by whoever may write there: first renamed, so that nobody reads half of it, and only when it is what a
 * checkpoint looks like. Where this machine has no such folder that is said. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/runs.h"
#include "cli/sums.h"

#include "schema/jobspec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct opts {
    bool json, force, all, dry_run, yes;
    long limit, keep_last, keep_best;
    const char *metric;
} opts;

static const mull_opt ckpt_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a checkpoint"},
    {"--all", 'a', MULL_OPT_FLAG, offsetof(opts, all), NULL, NULL, "ls: removed ones too"},
    {"--limit", 'n', MULL_OPT_INT, offsetof(opts, limit), NULL, "N", "ls: at most N, the newest (default 100)"},
    {"--force", 0, MULL_OPT_FLAG, offsetof(opts, force), NULL, NULL,
     "rm: also the only one, the best one, one that something needs"},
    {"--keep-last", 0, MULL_OPT_INT, offsetof(opts, keep_last), NULL, "N", "prune: keep the newest N (default 1)"},
    {"--keep-best", 0, MULL_OPT_INT, offsetof(opts, keep_best), NULL, "N", "prune: keep the best N by --metric too"},
    {"--metric", 0, MULL_OPT_TEXT, offsetof(opts, metric), NULL, "KEY",
     "prune: what best is measured by (default loss_mean)"},
    {"--dry-run", 0, MULL_OPT_FLAG, offsetof(opts, dry_run), NULL, NULL, "rm, prune: only say what would go"},
    {"--yes", 'y', MULL_OPT_FLAG, offsetof(opts, yes), NULL, NULL, "rm, prune: do not ask on a terminal"},
    {0}};

void mull_checkpoint_table(const json_t *list) {
    static const mull_column columns[] = {{"ID", .right = true},
                                          {"JOB", .right = true},
                                          {"STEP", .right = true},
                                          {"SIZE", .right = true},
                                          {"LOSS", .right = true},
                                          {"STATE"},
                                          {"SHA256"},
                                          {"CREATED"},
                                          {"PATH", .shrink = 16}};
    mull_table t;
    size_t i;
    const json_t *c;
    mull_table_init(&t, columns, 9);
    json_array_foreach(list, i, c) {
        char step[24], size[32] = "", loss[32] = "", sha[16], state[32];
        const json_t *m = json_object_get(c, "metrics"), *v = json_object_get(m, "loss_mean");
        if (!v) v = json_object_get(m, "loss");
        snprintf(step, sizeof step, "%lld", (long long)json_integer_value(json_object_get(c, "step")));
        if (json_is_integer(json_object_get(c, "bytes")))
            mull_bytes(json_number_value(json_object_get(c, "bytes")), size, sizeof size);
        if (json_is_number(v)) snprintf(loss, sizeof loss, "%.5g", json_number_value(v));
        snprintf(sha, sizeof sha, "%.12s", mull_text(c, "sha256"));
        snprintf(state, sizeof state, "%.20s%s", mull_text(c, "state"),
                 json_is_true(json_object_get(c, "pinned")) ? " pinned" : "");
        const char *cells[] = {mull_text(c, "id"),         mull_text(c, "job"), step, size, loss, state, sha,
                               mull_text(c, "created_at"), mull_text(c, "path")};
        mull_table_row(&t, cells);
    }
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
}

/* Newest first, of one job (id NULL: of all). */
static int read_list(mull_client *c, const char *job, bool all, long limit, json_t **out) {
    char cursor[32] = "", path[200];
    *out = json_array();
    while (limit > 0) {
        long page = limit < 1000 ? limit : 1000;
        json_t *r;
        snprintf(path, sizeof path, "/v1/checkpoints?limit=%ld&state=%s&job=%.20s&cursor=%s", page,
                 all ? "" : "PUBLISHED", job ? job : "", cursor);
        int rc = mull_client_get(c, "GET", path, NULL, &r);
        if (rc) {
            json_decref(*out);
            *out = NULL;
            return rc;
        }
        json_array_extend(*out, json_object_get(r, "checkpoints"));
        snprintf(cursor, sizeof cursor, "%s", mull_text(r, "next_cursor"));
        json_decref(r);
        limit -= page;
        if (!*cursor) break;
    }
    return MULL_EXIT_OK;
}

static int ls(mull_client *c, const char *job, const opts *o) {
    json_t *list, *v;
    size_t i;
    int rc = read_list(c, job, o->all, o->limit, &list);
    if (rc) return rc;
    if (o->json) {
        json_array_foreach(list, i, v) mull_emit(json_incref(v));
    } else if (json_array_size(list)) {
        mull_checkpoint_table(list);
    } else {
        fprintf(stderr, "no checkpoints%s%s\n", job ? " of job " : "", job ? job : "");
    }
    json_decref(list);
    return MULL_EXIT_OK;
}

static int get(mull_client *c, const char *id, json_t **out) {
    char path[64];
    snprintf(path, sizeof path, "/v1/checkpoints/%.20s", id);
    return mull_client_get(c, "GET", path, NULL, out);
}

static void field(const char *label, const char *text) {
    char clean[4400];
    if (!text || !*text) return;
    mull_text_clean(text, -1, clean, sizeof clean);
    printf("%-11s %s\n", label, clean);
}

static int show(mull_client *c, const char *id, const opts *o) {
    static const mull_column columns[] = {{"FILE", .shrink = 8}, {"BYTES", .right = true}, {"SHA256"}};
    json_t *j, *f;
    size_t i;
    int rc = get(c, id, &j);
    if (rc) return rc;
    if (o->json) {
        mull_emit(j);
        return rc;
    }
    char text[200], size[32];
    field("checkpoint", mull_text(j, "id"));
    snprintf(text, sizeof text, "%.20s (%.100s), attempt %lld", mull_text(j, "job"), mull_text(j, "name"),
             (long long)json_integer_value(json_object_get(j, "attempt")));
    field("run", text);
    printf("%-11s %lld\n", "step", (long long)json_integer_value(json_object_get(j, "step")));
    snprintf(text, sizeof text, "%.20s%s%s%.80s", mull_text(j, "state"),
             json_is_true(json_object_get(j, "pinned")) ? ", pinned" : "", *mull_text(j, "removed_by") ? " by " : "",
             mull_text(j, "removed_by"));
    field("state", text);
    field("path", mull_text(j, "path"));
    mull_bytes(json_number_value(json_object_get(j, "bytes")), size, sizeof size);
    field("size", size);
    field("sha256", mull_text(j, "sha256"));
    field("created", mull_text(j, "created_at"));
    json_array_foreach(json_object_get(j, "runs"), i, f) field(i ? "" : "began runs", json_string_value(f));
    const char *key;
    json_object_foreach(json_object_get(j, "metrics"), key, f) {
        snprintf(text, sizeof text, "%.60s %.6g", key, json_number_value(f));
        field("metric", text);
    }
    mull_table t;
    mull_table_init(&t, columns, 3);
    json_array_foreach(json_object_get(j, "files"), i, f) {
        char bytes[24];
        snprintf(bytes, sizeof bytes, "%lld", (long long)json_integer_value(json_object_get(f, "bytes")));
        mull_table_row(&t, (const char *const[]){mull_text(f, "name"), bytes, mull_text(f, "sha256")});
    }
    if (t.nrows) {
        putchar('\n');
        mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    }
    mull_table_fini(&t);
    json_decref(j);
    return MULL_EXIT_OK;
}

/* Reads every byte again. */
static int verify(mull_client *c, const char *id, const opts *o) {
    json_t *j, *f, *bad = json_array();
    size_t i;
    int rc = get(c, id, &j);
    if (rc) {
        json_decref(bad);
        return rc;
    }
    const json_t *files = json_object_get(j, "files");
    const char *path = mull_text(j, "path");
    char why[300];
    if (!json_array_size(files)) {
        mull_complain("cannot verify checkpoint", id, "compare it by hand, or save it again",
                      "no sums were recorded for it");
        rc = MULL_EXIT_FAILED;
    }
    json_array_foreach(files, i, f) {
        if (mull_sums_check(path, mull_text(f, "name"), json_integer_value(json_object_get(f, "bytes")),
                            mull_text(f, "sha256"), why, sizeof why))
            json_array_append_new(bad, json_pack("{s:s, s:s}", "name", mull_text(f, "name"), "why", why));
    }
    if (!rc && *mull_text(j, "sha256") &&
        mull_sums_check(path, "SHA256SUMS", -1, mull_text(j, "sha256"), why, sizeof why))
        json_array_append_new(bad, json_pack("{s:s, s:s}", "name", "SHA256SUMS", "why", why));
    if (!rc && json_array_size(bad)) rc = MULL_EXIT_FAILED;
    if (o->json && json_array_size(files))
        mull_emit(json_pack("{s:s, s:s, s:b, s:I, s:O}", "id", id, "path", path, "ok", rc == 0, "files",
                            (json_int_t)json_array_size(files), "bad", bad));
    else if (!rc)
        printf("checkpoint %s is whole: %zu files as they were written\n", id, json_array_size(files));
    if (!o->json)
        json_array_foreach(bad, i, f) mull_complain("checkpoint is not as it was written", mull_text(f, "name"),
                                                    "restore it, or resume from another", "%s", mull_text(f, "why"));
    json_decref(bad);
    json_decref(j);
    return rc;
}

/* Copies a checkpoint to a folder of the user's. */
static int fetch(mull_client *c, const char *id, const char *word, const opts *o) {
    json_t *j;
    char why[700], *dir = mull_absolute(word);
    int rc = get(c, id, &j);
    if (rc || !dir) {
        free(dir);
        return rc ? rc : MULL_EXIT_FAILED;
    }
    const json_t *files = json_object_get(j, "files");
    const char *path = mull_text(j, "path");
    if (!json_array_size(files))
        rc = mull_complain("cannot copy checkpoint", id, "copy its folder by hand", "no sums were recorded for it");
    else if (access(path, R_OK | X_OK))
        rc = mull_complain("cannot copy checkpoint", path, "run this on a machine that sees the folder",
                           "this machine does not have it");
    else if (mull_checkpoint_copy(path, files, mull_text(j, "sha256"), dir, why, sizeof why))
        rc = mull_complain("cannot copy checkpoint", dir, "see mull ckpt verify, and the disk's room", "%s", why);
    else if (o->json)
        mull_emit(json_pack("{s:s, s:s, s:I}", "id", id, "path", dir, "files", (json_int_t)json_array_size(files)));
    else
        printf("%s\n", dir);
    free(dir);
    json_decref(j);
    return rc;
}

/* rm, pin, unpin. */
static int act(mull_client *c, const char *id, const char *op, const opts *o) {
    char path[96], why[400];
    json_t *r;
    if (!strcmp(op, "remove") && o->dry_run) {
        printf("would remove checkpoint %s\n", id);
        return MULL_EXIT_OK;
    }
    if (!strcmp(op, "remove") && !mull_confirm(o->yes, "remove checkpoint %s and its files?", id))
        return MULL_EXIT_FAILED;
    snprintf(path, sizeof path, "/v1/checkpoints/%.20s/%s%s", id, op, o->force ? "?force=1" : "");
    int rc = mull_client_get(c, "POST", path, NULL, &r);
    if (rc) return rc;
    const char *folder = mull_text(r, "path"), *files = "kept";
    if (!strcmp(op, "remove")) {
        int gone = mull_checkpoint_erase(folder, why, sizeof why);
        files = gone == 0 ? "removed" : gone > 0 ? "absent" : "left";
        if (gone < 0)
            rc = mull_complain("the checkpoint's files are still there", folder, "remove them by hand, or run it again",
                               "%s", why);
        if (gone > 0 && !o->json)
            fprintf(stderr, "checkpoint %s is removed from the record; this machine has no folder %s\n", id, folder);
    }
    if (o->json) {
        json_object_set_new(r, "files", json_string(files));
        mull_emit(json_incref(r));
    } else if (!rc) {
        fprintf(stderr, "checkpoint %s: %s\n", id, !strcmp(op, "remove") ? "removed" : op);
    }
    json_decref(r);
    return rc;
}

typedef struct ranked {
    const json_t *c;
    double value;
    bool keep;
} ranked;

static int by_step(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    json_int_t m = json_integer_value(json_object_get(x->c, "step")),
               n = json_integer_value(json_object_get(y->c, "step"));
    return (m < n) - (m > n);
}

/* Keeps the newest and the best of a job's checkpoints and removes the rest. */
static int prune(mull_client *c, const char *job, const opts *o) {
    const char *metric = o->metric ? o->metric : "loss_mean";
    bool rises = mull_metric_rises(metric);
    json_t *list;
    int rc = read_list(c, job, false, 1000000, &list);
    if (rc) return rc;
    size_t n = json_array_size(list);
    ranked *all = calloc(n + 1, sizeof *all);
    for (size_t i = 0; all && i < n; i++) {
        const json_t *v = json_object_get(json_object_get(json_array_get(list, i), "metrics"), metric);
        all[i] = (ranked){json_array_get(list, i), json_is_number(v) ? json_number_value(v) : NAN, false};
    }
    if (all) qsort(all, n, sizeof *all, by_step);
    for (size_t i = 0; all && i < n && i < (size_t)o->keep_last; i++) all[i].keep = true;
    for (long k = 0; all && k < o->keep_best; k++) {
        ranked *best = NULL;
        for (size_t i = 0; i < n; i++) {
            if (!isfinite(all[i].value)) continue;
            if (!best || (rises ? all[i].value > best->value : all[i].value < best->value)) best = &all[i];
        }
        if (!best) break;
        best->keep = true;
        best->value = NAN; /* the next round looks for the next best */
    }
    for (size_t i = 0; all && i < n; i++) {
        if (all[i].keep) continue;
        const char *id = mull_text(all[i].c, "id");
        if (o->dry_run)
            printf("would remove checkpoint %s (step %lld)\n", id,
                   (long long)json_integer_value(json_object_get(all[i].c, "step")));
        else if (act(c, id, "remove", o))
            rc = MULL_EXIT_FAILED; /* one that something needs stays; the others go */
    }
    free(all);
    json_decref(list);
    return rc;
}

static int run_ckpt(const mull_cmd *cmd, int argc, char **argv) {
    static const char *const verbs[] = {"ls", "show", "verify", "rm", "pin", "unpin", "prune", "get"};
    opts o = {.limit = 100, .keep_last = 1};
    int words, worst = MULL_EXIT_OK;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    const char *verb = words ? argv[1] : "ls";
    size_t v = 0;
    while (v < 8 && strcmp(verb, verbs[v]) != 0) v++;
    if (v == 8) {
        const char *near = mull_nearest(verb, verbs, 8);
        return mull_usage(cmd->name, "unknown action '%s'%s%s%s", verb, near ? "; did you mean " : "", near ? near : "",
                          near ? "?" : "");
    }
    if (v == 7 && words != 3) return mull_usage(cmd->name, "get takes the id of a checkpoint and a folder to make");
    for (int i = 2; i <= (v == 7 ? 2 : words); i++)
        if (mull_id_check(cmd->name, argv[i])) return MULL_EXIT_USAGE;
    if (v == 0 && words > 2) return mull_usage(cmd->name, "ls takes one job");
    if (v == 6 && words != 2) return mull_usage(cmd->name, "prune takes one job");
    if (v > 0 && words < 2) return mull_usage(cmd->name, "which checkpoint? give its id; mull ckpt ls lists them");
    if (o.limit < 1 || o.keep_last < 0 || o.keep_best < 0)
        return mull_usage(cmd->name, "--limit, --keep-last and --keep-best are numbers from 0");
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    if (v == 0) worst = ls(c, words > 1 ? argv[2] : NULL, &o);
    if (v == 6) worst = prune(c, argv[2], &o);
    if (v == 7) worst = fetch(c, argv[2], argv[3], &o);
    for (int i = 2; v > 0 && v < 6 && i <= words; i++) {
        int rc = v == 1   ? show(c, argv[i], &o)
                 : v == 2 ? verify(c, argv[i], &o)
                          : act(c, argv[i], v == 3 ? "remove" : verb, &o);
        if (rc) worst = rc;
    }
    mull_client_close(c);
    return worst;
}

const mull_cmd mull_cmd_ckpt = {
    "ckpt",
    "ls [JOB] | show|verify|rm|pin|unpin ID... | get ID DIR | prune JOB",
    "checkpoints of jobs: list, look, check their sums, copy, keep, remove",
    "rm and prune remove the folder where this machine has it, and refuse what something needs.\n"
    "examples:\n  mull ckpt ls 17\n  mull ckpt verify 42; mull ckpt get 42 ./best\n  mull ckpt rm 41\n"
    "  mull ckpt prune 17 --keep-last 2 --keep-best 1 --dry-run\n",
    ckpt_opts,
    run_ckpt};
