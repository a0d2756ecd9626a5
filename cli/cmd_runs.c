/* mull runs, compare: what ran, what it followed from, and how two runs differ. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/runs.h"

#include "schema/states.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json, csv;
    const char *team, *kind, *name;
    long limit;
} opts;

static const mull_opt runs_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a run"},
    {"--csv", 0, MULL_OPT_FLAG, offsetof(opts, csv), NULL, NULL, "a line a run with a heading, for spreadsheets"},
    {"--team", 0, MULL_OPT_TEXT, offsetof(opts, team), NULL, "TEAM", "only runs of this team"},
    {"--kind", 0, MULL_OPT_TEXT, offsetof(opts, kind), NULL, "KIND", "only of jobs of this kind"},
    {"--name", 0, MULL_OPT_TEXT, offsetof(opts, name), NULL, "TEXT", "only of jobs whose name has this in it"},
    {"--limit", 'n', MULL_OPT_INT, offsetof(opts, limit), NULL, "N", "at most N runs, the newest (default 100)"},
    {0}};

static void short_hash(const json_t *hashes, const char *key, char out[16]) {
    snprintf(out, 16, "%.12s", mull_text(hashes, key));
}

static void print_list(const json_t *runs) {
    static const mull_column columns[] = {{"ID", .right = true},
                                          {"NAME", .shrink = 6},
                                          {"KIND"},
                                          {"STATE", .state = true},
                                          {"STEPS", .right = true},
                                          {"LOSS", .right = true},
                                          {"CKPTS", .right = true},
                                          {"PARENT", .shrink = 8},
                                          {"CONFIG"},
                                          {"DATA"},
                                          {"MODEL"}};
    mull_table t;
    size_t i;
    const json_t *r;
    mull_table_init(&t, columns, 11);
    json_array_foreach(runs, i, r) {
        char steps[48] = "", loss[32] = "", ckpts[24], config[16], data[16], model[16], from[32] = "";
        const json_t *hashes = json_object_get(r, "hashes"), *parent = json_object_get(r, "parent"),
                     *p = json_object_get(r, "progress");
        if (json_is_object(p))
            snprintf(steps, sizeof steps, "%lld/%lld", (long long)json_integer_value(json_object_get(p, "done")),
                     (long long)json_integer_value(json_object_get(p, "total")));
        if (json_is_number(json_object_get(r, "loss")))
            snprintf(loss, sizeof loss, "%.5g", json_number_value(json_object_get(r, "loss")));
        snprintf(ckpts, sizeof ckpts, "%lld", (long long)json_integer_value(json_object_get(r, "checkpoint_count")));
        const char *path = mull_text(parent, "path"), *last = strrchr(path, '/');
        if (*mull_text(parent, "checkpoint"))
            snprintf(from, sizeof from, "ckpt %.20s", mull_text(parent, "checkpoint"));
        short_hash(hashes, "config", config);
        short_hash(hashes, "data", data);
        short_hash(hashes, "model", model);
        const char *cells[] = {mull_text(r, "id"),
                               mull_text(r, "name"),
                               mull_text(r, "kind"),
                               mull_text(r, "state"),
                               steps,
                               loss,
                               ckpts,
                               *from  ? from
                               : last ? last + 1
                                      : path,
                               config,
                               data,
                               model};
        mull_table_row(&t, cells);
    }
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
}

/* Quoted as RFC 4180 has it. */
static void csv_text(const char *s, const char *behind) {
    putchar('"');
    for (; *s; s++) {
        if (*s == '"') putchar('"');
        putchar(*s);
    }
    printf("\"%s", behind);
}

static void print_csv(const json_t *runs) {
    static const char *const texts[] = {"id", "name", "kind", "team", "user", "state", "started_at", "ended_at"};
    static const char *const hashes[] = {"config", "data", "model", "code"};
    size_t i;
    const json_t *r;
    puts("id,name,kind,team,user,state,started_at,ended_at,done,total,loss,checkpoints,parent_checkpoint,config,data,"
         "model,"
         "code");
    json_array_foreach(runs, i, r) {
        const json_t *p = json_object_get(r, "progress"), *loss = json_object_get(r, "loss");
        for (size_t k = 0; k < 8; k++) csv_text(mull_text(r, texts[k]), ",");
        printf("%lld,%lld,", (long long)json_integer_value(json_object_get(p, "done")),
               (long long)json_integer_value(json_object_get(p, "total")));
        if (json_is_number(loss)) printf("%.17g", json_number_value(loss));
        printf(",%lld,", (long long)json_integer_value(json_object_get(r, "checkpoint_count")));
        csv_text(mull_text(json_object_get(r, "parent"), "checkpoint"), ",");
        for (size_t k = 0; k < 4; k++) csv_text(mull_text(json_object_get(r, "hashes"), hashes[k]), k < 3 ? "," : "\n");
    }
}

static int list_runs(mull_client *c, const opts *o) {
    char team[200] = "", kind[100] = "", name[400] = "", cursor[32] = "", path[900];
    json_t *all = json_array();
    int rc = MULL_EXIT_OK;
    if (o->team) mull_query_encode(o->team, team, sizeof team);
    if (o->kind) mull_query_encode(o->kind, kind, sizeof kind);
    if (o->name) mull_query_encode(o->name, name, sizeof name);
    for (long left = o->limit; left > 0 && !rc;) {
        long page = left < 1000 ? left : 1000;
        json_t *r;
        snprintf(path, sizeof path, "/v1/runs?limit=%ld&team=%s&kind=%s&name=%s&cursor=%s", page, team, kind, name,
                 cursor);
        rc = mull_client_get(c, "GET", path, NULL, &r);
        if (rc) break;
        json_array_extend(all, json_object_get(r, "runs"));
        snprintf(cursor, sizeof cursor, "%s", mull_text(r, "next_cursor"));
        json_decref(r);
        left -= page;
        if (!*cursor) break;
    }
    size_t i;
    json_t *run;
    if (!rc && o->json) {
        json_array_foreach(all, i, run) mull_emit(json_incref(run));
    } else if (!rc && o->csv) {
        print_csv(all);
    } else if (!rc && json_array_size(all)) {
        print_list(all);
    } else if (!rc) {
        fprintf(stderr, "no runs; a job that trains or evaluates makes one: mull submit train --help\n");
    }
    json_decref(all);
    return rc;
}

static void field(const char *label, const char *text) {
    char clean[4400];
    if (!text || !*text) return;
    mull_text_clean(text, -1, clean, sizeof clean);
    printf("%-11s %s\n", label, clean);
}

static void print_metrics(const json_t *metrics) {
    static const mull_column columns[] = {{"METRIC", .shrink = 8},
                                          {"POINTS", .right = true},
                                          {"LAST", .right = true},
                                          {"BEST", .right = true},
                                          {"AT STEP", .right = true}};
    mull_table t;
    const char *key;
    json_t *m;
    if (!json_object_size(metrics)) return;
    mull_table_init(&t, columns, 5);
    json_object_foreach((json_t *)(uintptr_t)metrics, key, m) {
        char points[24], last[32], best[32], at[24];
        long long step;
        double b = mull_metric_best(m, mull_metric_rises(key), &step);
        snprintf(points, sizeof points, "%lld", (long long)json_integer_value(json_object_get(m, "points")));
        snprintf(last, sizeof last, "%.6g", json_number_value(json_object_get(m, "last")));
        snprintf(best, sizeof best, "%.6g", b);
        snprintf(at, sizeof at, "%lld", step);
        mull_table_row(&t, (const char *const[]){key, points, last, best, at});
    }
    printf("\nmetrics\n");
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
}

static void print_run(const json_t *r) {
    char text[300];
    const char *state = mull_text(r, "state"), *key;
    const json_t *hashes = json_object_get(r, "hashes"), *parent = json_object_get(r, "parent");
    json_t *v;
    bool color = mull_term_color(stdout);
    field("run", mull_text(r, "id"));
    field("name", mull_text(r, "name"));
    field("kind", mull_text(r, "kind"));
    printf("%-11s %s%s%s\n", "state", mull_state_color(state, color), state, mull_color_reset(color));
    snprintf(text, sizeof text, "%.80s, team %.80s", mull_text(r, "user"), mull_text(r, "team"));
    field("user", text);
    if (json_is_integer(json_object_get(r, "seed")))
        printf("%-11s %lld\n", "seed", (long long)json_integer_value(json_object_get(r, "seed")));
    json_object_foreach((json_t *)(uintptr_t)hashes, key, v) {
        if (json_is_string(v)) field(key, json_string_value(v));
    }
    field("parent", mull_text(parent, "path"));
    if (*mull_text(parent, "checkpoint")) {
        snprintf(text, sizeof text, "checkpoint %.20s of run %.20s", mull_text(parent, "checkpoint"),
                 mull_text(parent, "run"));
        field("", text);
    }
    field("resumed", mull_text(r, "resumed"));
    field("started", mull_text(r, "started_at"));
    field("ended", mull_text(r, "ended_at"));
    print_metrics(json_object_get(r, "metrics"));
    if (json_array_size(json_object_get(r, "checkpoints"))) {
        printf("\ncheckpoints\n");
        mull_checkpoint_table(json_object_get(r, "checkpoints"));
    }
    char *config = json_dumps(json_object_get(r, "config"), JSON_INDENT(2));
    if (config && strlen(config) > 2) {
        char clean[4400];
        printf("\nconfig\n");
        for (char *save, *line = strtok_r(config, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            mull_text_clean(line, -1, clean, sizeof clean);
            printf("  %s\n", clean);
        }
    }
    free(config);
}

static int run_runs(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.limit = 100};
    int words, worst = MULL_EXIT_OK;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (o.limit < 1) return mull_usage(cmd->name, "--limit is a number from 1");
    if (o.csv && (o.json || words)) return mull_usage(cmd->name, "--csv is a list of runs; give it alone");
    int first = words > 1 && !strcmp(argv[1], "show") ? 2 : 1;
    for (int i = first; i <= words; i++)
        if (mull_id_check(cmd->name, argv[i])) return MULL_EXIT_USAGE;
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    if (words < first) worst = list_runs(c, &o);
    for (int i = first; i <= words; i++) {
        json_t *r;
        int rc = mull_run_read(c, argv[i], &r);
        if (rc) {
            worst = rc;
            continue;
        }
        if (i > first && !o.json) putchar('\n');
        if (o.json)
            mull_emit(json_incref(r));
        else
            print_run(r);
        json_decref(r);
    }
    mull_client_close(c);
    return worst;
}

const mull_cmd mull_cmd_runs = {
    "runs",
    "[ID...] [flags]",
    "runs: what trained or was measured, with digests of configuration, data, model and program",
    "A run has the id of its job. Digests are shown short; two runs that began from the same have the same.\n"
    "examples:\n  mull runs --kind train --name spatial\n  mull runs 17\n  mull runs 17 --json | jq .hashes\n",
    runs_opts,
    run_runs};
