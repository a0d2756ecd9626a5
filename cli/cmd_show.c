/* mull show, why: everything about one job; why it is where it is. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/states.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json;
} opts;

static const mull_opt show_opts[] = {
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "one JSON object a line"}, {0}};

/* A text of the job, clean, after its label. */
static void field(const char *label, const char *text) {
    char clean[8192];
    if (!text || !*text) return;
    mull_text_clean(text, -1, clean, sizeof clean);
    printf("%-11s %s\n", label, clean);
}

static void print_attempts(const json_t *attempts) {
    static const mull_column columns[] = {{"TRY", .right = true},
                                          {"FENCE", .right = true},
                                          {"NODE", .shrink = 4},
                                          {"STATE", .state = true},
                                          {"CLASS"},
                                          {"EXIT", .right = true},
                                          {"TIME", .right = true},
                                          {"MESSAGE", .shrink = 10}};
    mull_table t;
    mull_table_init(&t, columns, 8);
    size_t i;
    const json_t *a;
    json_array_foreach(attempts, i, a) {
        char attempt[24], fence[24], status[24] = "", span[40] = "";
        double begun = mull_when(json_object_get(a, "started_at")), ended = mull_when(json_object_get(a, "ended_at"));
        snprintf(attempt, sizeof attempt, "%lld", (long long)json_integer_value(json_object_get(a, "attempt")));
        snprintf(fence, sizeof fence, "%lld", (long long)json_integer_value(json_object_get(a, "fence")));
        if (json_is_integer(json_object_get(a, "exit")))
            snprintf(status, sizeof status, "%lld", (long long)json_integer_value(json_object_get(a, "exit")));
        if (isfinite(begun)) mull_span((isfinite(ended) ? ended : mull_now()) - begun, span, sizeof span);
        const char *cells[] = {attempt, fence, mull_text(a, "node"),   mull_text(a, "state"), mull_text(a, "class"),
                               status,  span,  mull_text(a, "message")};
        mull_table_row(&t, cells);
    }
    printf("\nattempts\n");
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
}

static void print_events(const json_t *events) {
    static const mull_column columns[] = {{"AT"}, {"EVENT"}, {"BY", .shrink = 4}, {"DETAIL", .shrink = 10}};
    mull_table t;
    mull_table_init(&t, columns, 4);
    size_t i;
    const json_t *e;
    json_array_foreach(events, i, e) {
        const json_t *detail = json_object_get(e, "detail");
        char *text = json_object_size(detail) ? json_dumps(detail, JSON_COMPACT) : NULL;
        const char *cells[] = {mull_text(e, "at"), mull_text(e, "kind"), mull_text(e, "actor"), text};
        mull_table_row(&t, cells);
        free(text);
    }
    printf("\nevents\n");
    mull_table_print(&t, stdout, mull_term_width(stdout), mull_term_color(stdout));
    mull_table_fini(&t);
}

static void print_json(const char *label, const json_t *v, int flags) {
    if (!json_object_size(v) && !json_array_size(v)) return;
    char *text = json_dumps(v, flags);
    char *clean = text ? malloc(strlen(text) + 8) : NULL;
    if (clean) {
        printf("\n%s\n", label);
        for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
            mull_text_clean(line, -1, clean, strlen(line) + 8);
            printf("  %s\n", clean);
        }
    }
    free(clean);
    free(text);
}

static void print_job(const json_t *j) {
    char text[200], span[40];
    const char *state = mull_text(j, "state"), *reason = mull_text(j, "reason");
    bool color = mull_term_color(stdout);
    const json_t *p = json_object_get(j, "progress");
    printf("%-11s %s\n", "job", mull_text(j, "id"));
    field("name", mull_text(j, "name"));
    field("kind", mull_text(j, "kind"));
    printf("%-11s %s%s%s (%s)\n", "state", mull_state_color(state, color), state, mull_color_reset(color),
           mull_job_state_meaning(state));
    if (*reason) printf("%-11s %s (%s)\n", "reason", reason, mull_reason_meaning(reason));
    field("message", mull_text(j, "message"));
    if (json_is_integer(json_object_get(j, "exit")))
        printf("%-11s %lld\n", "exit", (long long)json_integer_value(json_object_get(j, "exit")));
    const json_t *array = json_object_get(j, "array");
    if (json_is_object(array)) {
        static const char *const keys[] = {"waiting", "running", "completed", "not_completed", "cancelled"};
        printf("%-11s %s:", "tasks", mull_text(array, "range"));
        for (int k = 0; k < 5; k++)
            printf(" %s %lld%s", keys[k], (long long)json_integer_value(json_object_get(array, keys[k])),
                   k < 4 ? "," : "\n");
    }
    if (json_is_object(p)) {
        json_int_t done = json_integer_value(json_object_get(p, "done")),
                   total = json_integer_value(json_object_get(p, "total"));
        snprintf(text, sizeof text, total ? "%lld of %lld" : "%lld", (long long)done, (long long)total);
        printf("%-11s %s\n", "progress", text);
        double eta = json_number_value(json_object_get(p, "eta_s"));
        if (eta > 0 && !mull_job_state_terminal(state)) {
            mull_span(eta, span, sizeof span);
            printf("%-11s about %s\n", "left", span);
        }
    }
    snprintf(text, sizeof text, "%.80s, team %.80s, priority %lld", mull_text(j, "user"), mull_text(j, "team"),
             (long long)json_integer_value(json_object_get(j, "priority")));
    field("user", text);
    field("node", mull_text(j, "node"));
    field("submitted", mull_text(j, "submitted_at"));
    field("started", mull_text(j, "started_at"));
    field("ended", mull_text(j, "ended_at"));
    print_json("spec", json_object_get(j, "spec"), JSON_INDENT(2));
    if (json_array_size(json_object_get(j, "attempts"))) print_attempts(json_object_get(j, "attempts"));
    const json_t *follow = json_object_get(j, "follow"), *figures = json_object_get(j, "eval_results");
    if (follow) {
        printf("\nfollows job %s: %zu checkpoints\n", mull_text(follow, "source"),
               json_array_size(json_object_get(follow, "jobs")));
        mull_follow_table(follow, stdout);
    }
    if (json_array_size(figures)) {
        printf("\nevaluation\n");
        mull_eval_table(figures, stdout);
    } else
        print_json("result", json_object_get(j, "result"), JSON_INDENT(2));
    print_json("artifacts", json_object_get(j, "artifacts"), JSON_INDENT(2));
    print_json("checkpoints", json_object_get(j, "checkpoints"), JSON_INDENT(2));
    if (json_array_size(json_object_get(j, "events"))) print_events(json_object_get(j, "events"));
}

/* Calls PATH_FORMAT with each id and prints the answers. */
static int each(const mull_cmd *cmd, int argc, char **argv, const char *path_format, void (*print)(const json_t *)) {
    opts o = {0};
    int words, worst = MULL_EXIT_OK;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (!words) return mull_usage(cmd->name, "which job? give its id");
    for (int i = 1; i <= words; i++)
        if (mull_id_check(cmd->name, argv[i])) return MULL_EXIT_USAGE;
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    for (int i = 1; i <= words; i++) {
        char path[80];
        json_t *j;
        snprintf(path, sizeof path, path_format, argv[i]);
        int rc = mull_client_get(c, "GET", path, NULL, &j);
        if (rc) {
            worst = rc;
            continue;
        }
        if (o.json)
            mull_emit(json_incref(j));
        else {
            if (i > 1) putchar('\n');
            print(j);
        }
        json_decref(j);
    }
    mull_client_close(c);
    return worst;
}

static int run_show(const mull_cmd *cmd, int argc, char **argv) {
    return each(cmd, argc, argv, "/v1/jobs/%.32s", print_job);
}

const mull_cmd mull_cmd_show = {"show",
                                "ID... [--json]",
                                "everything about a job: spec, attempts, result, events",
                                "examples:\n  mull show 17\n  mull show 17 --json | jq .attempts\n",
                                show_opts,
                                run_show};

static void print_why(const json_t *w) {
    char clean[1600];
    const json_t *ahead = json_object_get(w, "ahead"), *needs = json_object_get(w, "needs");
    mull_text_clean(mull_text(w, "message"), -1, clean, sizeof clean);
    const char *reason = mull_text(w, "reason");
    printf("job %s %s%s%s%s: %s\n", mull_text(w, "id"), mull_text(w, "state"), *reason ? " (" : "", reason,
           *reason ? ")" : "", clean);
    if (strcmp(mull_text(w, "state"), "PENDING") != 0) return;
    if (*reason) printf("%-9s %s\n", "meaning", mull_reason_meaning(reason));
    printf("%-9s %lld %s; %lld of %lld free\n", "needs", (long long)json_integer_value(json_object_get(needs, "count")),
           mull_text(needs, "kind"), (long long)json_integer_value(json_object_get(needs, "free")),
           (long long)json_integer_value(json_object_get(needs, "total")));
    size_t i;
    const json_t *a;
    json_array_foreach(ahead, i, a) {
        mull_text_clean(mull_text(a, "name"), 40, clean, sizeof clean);
        const char *team = mull_text(a, "team"), *start = mull_text(a, "estimated_start");
        printf("%-9s job %s %s%s(%s%s%s, priority %lld)%s%s\n", i ? "" : "ahead", mull_text(a, "id"), clean,
               *clean ? " " : "", mull_text(a, "user"), *team ? " of " : "", team,
               (long long)json_integer_value(json_object_get(a, "priority")), *start ? ", about " : "", start);
    }
    long long more =
        (long long)json_integer_value(json_object_get(w, "ahead_count")) - (long long)json_array_size(ahead);
    if (more > 0) printf("%-9s and %lld more\n", "", more);
    field("start", mull_text(w, "estimated_start"));
    field("not before", mull_text(w, "not_before"));
    long long assumed = (long long)json_integer_value(json_object_get(w, "assumed"));
    if (assumed > 0) printf("%-9s %lld jobs before it have no time limit: an hour is assumed for each\n", "", assumed);
}

static int run_why(const mull_cmd *cmd, int argc, char **argv) {
    return each(cmd, argc, argv, "/v1/jobs/%.32s/why", print_why);
}

const mull_cmd mull_cmd_why = {"why",
                               "ID... [--json]",
                               "why a job is where it is: who is ahead, what is missing, when it may start",
                               "examples:\n  mull why 17\n",
                               show_opts,
                               run_why};
