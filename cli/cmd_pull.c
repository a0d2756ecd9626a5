/* mull pull: what a job wrote, from the queue's host to this one. */
#include "cli/args.h"
#include "cli/jobs.h"

#include "schema/transfer/transfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json, exact, quiet;
    const char *to, *path;
} opts;

static const mull_opt pull_opts[] = {
    {"--to", 0, MULL_OPT_TEXT, offsetof(opts, to), NULL, "DIR", "where it goes (default: job-ID)"},
    {"--path", 0, MULL_OPT_TEXT, offsetof(opts, path), NULL, "PATH",
     "only this file or folder below the job's out (an absolute path, or one relative to out)"},
    {"--exact", 0, MULL_OPT_FLAG, offsetof(opts, exact), NULL, NULL, "remove from DIR what the job does not have"},
    {"--quiet", 'q', MULL_OPT_FLAG, offsetof(opts, quiet), NULL, NULL, "do not name each file"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(opts, json), NULL, NULL, "print {\"files\",\"bytes\",\"kept\"}"},
    {0}};

static void on_moved(void *arg, const char *name, int64_t bytes) {
    const opts *o = arg;
    char size[32];
    mull_bytes((double)bytes, size, sizeof size);
    if (!o->quiet && !o->json) fprintf(stderr, "%s  %s\n", name, size);
}

/* The absolute path of --path; NULL after a complaint, or without memory. */
static char *path_of(const char *id, const char *path) {
    char target[64], *full = NULL;
    json_t *job;
    if (path[0] == '/') return strdup(path);
    snprintf(target, sizeof target, "/v1/jobs/%s", id);
    if (mull_ask("GET", target, NULL, &job) != 0) return NULL;
    const char *out = mull_text(json_object_get(job, "spec"), "out");
    if (asprintf(&full, "%s/%s", out, path) < 0) full = NULL;
    json_decref(job);
    return full;
}

static int run(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {0};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words != 1) return mull_usage(cmd->name, "give the id of one job");
    if (mull_id_check(cmd->name, argv[1])) return MULL_EXIT_USAGE;
    char own[64], *path = NULL;
    mull_err err;
    snprintf(own, sizeof own, "job-%.40s", argv[1]);
    if (o.path && !(path = path_of(argv[1], o.path))) return MULL_EXIT_FAILED;
    mull_client *c = mull_client_or_complain();
    if (!c) {
        free(path);
        return MULL_EXIT_FAILED;
    }
    const char *server = mull_client_server(c), *token = getenv("MULL_TOKEN"), *ca = getenv("MULL_CACERT");
    bool local = !strncmp(server, "unix:", 5);
    mull_transfer_opts t = {.server = server,
                            .bearer = local || !token || !*token ? NULL : token,
                            .ca_file = ca && *ca ? ca : NULL,
                            .job = argv[1],
                            .moved = on_moved,
                            .arg = &o};
    mull_transfer_counts n = {0};
    mull_transfer *transfer = mull_transfer_open(&t, &err);
    int rc = transfer ? mull_transfer_pull(transfer, path, o.to ? o.to : own, o.exact, &n, &err) : err.code;
    mull_transfer_close(transfer);
    mull_client_close(c);
    free(path);
    if (rc) {
        mull_err_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
    if (o.json)
        mull_emit(json_pack("{s:I, s:I, s:I}", "files", (json_int_t)n.files, "bytes", (json_int_t)n.bytes, "kept",
                            (json_int_t)n.kept));
    else
        fprintf(stderr, "%lld files came, %lld were there\n", (long long)n.files, (long long)n.kept);
    return MULL_EXIT_OK;
}

const mull_cmd mull_cmd_pull = {
    "pull",
    "ID [--to DIR] [--path PATH] [--exact] [--json]",
    "fetch what a job wrote from the queue's host",
    "Files come in pieces, are checked by SHA-256, and go on where they broke off when it is run again. The queue's "
    "host\n"
    "hands out what its --export allows (mull up --export DIR).\n"
    "examples:\n  mull pull 17 --to results\n  mull pull 17 --path checkpoint-500 --to checkpoint-500\n",
    pull_opts,
    run};
