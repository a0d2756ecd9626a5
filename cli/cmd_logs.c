/* mull logs: what the engine said, with -f until the job has ended. A broken connection is made again behind the last
 * line seen, so that nothing is missed or shown twice. */
#include "cli/args.h"
#include "cli/jobs.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct opts {
    bool json, follow;
    long attempt, tail;
} opts;

static const mull_opt logs_opts[] = {
    {"--follow", 'f', MULL_OPT_FLAG, offsetof(opts, follow), NULL, NULL, "go on until the job has ended"},
    {"--attempt", 0, MULL_OPT_INT, offsetof(opts, attempt), NULL, "N", "only this attempt's"},
    {"--tail", 'n', MULL_OPT_INT, offsetof(opts, tail), NULL, "N", "only the last N lines"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "{\"attempt\",\"n\",\"stream\",\"text\"} a line"},
    {0}};

typedef struct reader {
    bool json, clean;
    long only;                 /* attempt, 0: all */
    json_int_t attempt, after; /* last line seen */
    char state[24];            /* from the end event */
} reader;

static void print_line(reader *r, const json_t *line) {
    json_int_t attempt = json_integer_value(json_object_get(line, "attempt"));
    if (r->only && attempt != r->only) return;
    if (r->json) {
        mull_emit(json_incref((json_t *)(uintptr_t)line));
        return;
    }
    const char *text = mull_text(line, "text");
    size_t len = strlen(text);
    char *clean = r->clean ? malloc(len + 8) : NULL;
    if (clean) mull_text_clean(text, -1, clean, len + 8);
    puts(clean ? clean : text);
    free(clean);
}

static int on_event(const char *event, const json_t *data, void *arg) {
    reader *r = arg;
    if (!strcmp(event, "log")) {
        r->attempt = json_integer_value(json_object_get(data, "attempt"));
        r->after = json_integer_value(json_object_get(data, "n"));
        print_line(r, data);
        fflush(stdout);
        return ferror(stdout);
    }
    if (!strcmp(event, "end")) snprintf(r->state, sizeof r->state, "%s", mull_text(data, "state"));
    if (!strcmp(event, "error")) snprintf(r->state, sizeof r->state, "?");
    return r->state[0] != 0;
}

static int follow(mull_client *c, const char *id, reader *r) {
    bool reached = false, away = false;
    while (!r->state[0]) {
        char path[160];
        int status;
        json_t *error = NULL;
        mull_err err;
        snprintf(path, sizeof path, "/v1/jobs/%.32s/logs?follow=1&attempt=%lld&after=%lld", id, (long long)r->attempt,
                 (long long)r->after);
        int lost = mull_client_follow(c, path, on_event, r, &status, &error, &err);
        if (ferror(stdout)) return mull_complain("cannot write output", "stdout", NULL, "the pipe is closed");
        if (status == 200) reached = true, away = false;
        if (status && status != 200 && status < 500) {
            mull_reply reply = {status, error};
            int rc = mull_client_refused(&reply, NULL, NULL);
            json_decref(error);
            return rc;
        }
        json_decref(error);
        if (r->state[0]) break;
        if (lost && !reached) {
            mull_err_print(stderr, &err);
            return MULL_EXIT_FAILED;
        }
        if (!away) fprintf(stderr, "the queue does not answer; waiting for it\n");
        away = true;
        mull_pause(0.5);
    }
    return MULL_EXIT_OK;
}

int mull_follow_logs(mull_client *c, const char *id, bool json, long attempt) {
    reader r = {.json = json, .clean = isatty(STDOUT_FILENO), .only = attempt};
    return follow(c, id, &r);
}

/* Pages until there is no further line; the last `tail` of them, or all. *end takes the position behind the last. */
static int read_all(mull_client *c, const char *id, reader *r, json_t *keep, long tail) {
    for (;;) {
        char path[160];
        json_t *page;
        snprintf(path, sizeof path, "/v1/jobs/%.32s/logs?attempt=%lld&after=%lld", id, (long long)r->attempt,
                 (long long)r->after);
        int rc = mull_client_get(c, "GET", path, NULL, &page);
        if (rc) return rc;
        size_t i, n = json_array_size(json_object_get(page, "lines"));
        const json_t *line;
        json_array_foreach(json_object_get(page, "lines"), i, line) {
            r->attempt = json_integer_value(json_object_get(line, "attempt"));
            r->after = json_integer_value(json_object_get(line, "n"));
            if (r->only && r->attempt != r->only) continue;
            if (tail <= 0) {
                print_line(r, line);
                continue;
            }
            json_array_append(keep, (json_t *)(uintptr_t)line);
            if (json_array_size(keep) > (size_t)tail) json_array_remove(keep, 0);
        }
        json_decref(page);
        if (!n) return MULL_EXIT_OK;
    }
}

static int run_logs(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words != 1) return mull_usage(cmd->name, words ? "one job at a time" : "which job? give its id");
    if (mull_id_check(cmd->name, argv[1])) return MULL_EXIT_USAGE;
    if (o.attempt < 0 || o.tail < 0 || o.tail > 1000000)
        return mull_usage(cmd->name, "--attempt and --tail take numbers from 1");
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    reader r = {.json = o.json, .clean = isatty(STDOUT_FILENO), .only = o.attempt};
    json_t *keep = json_array();
    int rc = o.follow && !o.tail ? MULL_EXIT_OK : read_all(c, argv[1], &r, keep, o.tail);
    size_t i;
    const json_t *line;
    json_array_foreach(keep, i, line) print_line(&r, line);
    json_decref(keep);
    if (!rc && o.follow) rc = follow(c, argv[1], &r);
    if (!rc && o.follow && !o.json) fprintf(stderr, "job %s %s\n", argv[1], r.state);
    mull_client_close(c);
    return rc;
}

const mull_cmd mull_cmd_logs = {
    "logs",    "[-f] ID [flags]", "print a job's log", "examples:\n  mull logs -f 17\n  mull logs 17 -n 20\n",
    logs_opts, run_logs};
