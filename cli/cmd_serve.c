/* mull serve: queues a job of kind serve and tells where it answers once it does. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/spec.h"

#include <stdlib.h>
#include <string.h>

typedef struct opts {
    bool json, no_wait, follow;
    json_t *spec;
} opts;

#define MINE(name, letter, member, help)                                                                               \
    { name, letter, MULL_OPT_FLAG, offsetof(opts, member), NULL, NULL, help }
#define SPEC(name, type, at, word, help)                                                                               \
    { name, 0, MULL_OPT_SPEC_##type, offsetof(opts, spec), at, word, help }
static const mull_opt serve_opts[] = {
    SPEC("--listen", TEXT, "listen", "HOST:PORT", "where (default 127.0.0.1:8000; or PORT, or unix:PATH)"),
    SPEC("--key-file", PATH, "key_file", "FILE", "a key a line; needed for an address that other machines reach"),
    SPEC("--served-name", TEXT, "served_name", "NAME", "what requests call the model (default: its folder's name)"),
    SPEC("--media-root", PATHS, "media_roots", "DIR...", "folders that requests may name files in (default: none)"),
    SPEC("--max-batch", INT, "max_batch", "N", "sequences computed together (default 32)"),
    SPEC("--max-queue", INT, "max_queue", "N", "requests that may wait beyond those (default 256)"),
    SPEC("--max-new-tokens", INT, "sampling.max_new_tokens", "N", "longest answer where a request says nothing"),
    SPEC("--temperature", NUMBER, "sampling.temperature", "T", "where a request says nothing (default 0)"),
    SPEC("--latents", INT, "latents", "N", "Mull tokens (default 20)"),
    SPEC("--mode", TEXT, "mode", "MODE", "mmlatent2, new_wtxt or none"),
    SPEC("--prompt-format", TEXT, "prompt_format", "FORMAT", "mull, chatml or old"),
    SPEC("--dtype", TEXT, "dtype", "TYPE", "auto, f32, bf16 or int8"),
    SPEC("--max-pixels", INT, "max_pixels", "N", ""),
    SPEC("--name", TEXT, "name", "NAME", "what ps calls it"),
    SPEC("--team", TEXT, "team", "TEAM", "whose it is (default: default)"),
    SPEC("--priority", INT, "priority", "P", "-100 to 100, larger first"),
    SPEC("--time", TEXT, "time_limit", "D-HH:MM:SS", "longest run time (default: until it is cancelled)"),
    SPEC("--gpus", INT, "gpus", "N", "GPUs it needs (0: a CPU slot)"),
    MINE("--no-wait", 0, no_wait, "do not wait until it answers"),
    MINE("--follow", 'f', follow, "print its log until its end"),
    MINE("--json", 0, json, "print {\"id\",\"url\"}"),
    {0}};

/* The address in its log, "" until it is there. 0, or 1 with the words said when the job has ended instead. */
static int look(mull_client *c, const char *id, char *url, size_t cap) {
    char path[80];
    mull_reply r;
    mull_err err;
    snprintf(path, sizeof path, "/v1/jobs/%s/logs", id);
    *url = 0;
    if (mull_client_call(c, "GET", path, NULL, &r, &err)) return 0; /* away for a moment */
    size_t i;
    json_t *line;
    json_array_foreach(json_object_get(r.json, "lines"), i, line) {
        const char *at = strstr(mull_text(line, "text"), "info: serves "), *url_at = at ? strstr(at, " at ") : NULL;
        for (const char *next; url_at && (next = strstr(url_at + 1, " at ")); url_at = next) {
        }
        if (url_at) snprintf(url, cap, "%s", url_at + 4);
    }
    const char *state = mull_text(r.json, "state");
    bool over = *state && strcmp(state, "PENDING") != 0 && strcmp(state, "RUNNING") != 0;
    json_decref(r.json);
    if (!over) return 0;
    return mull_complain("cannot serve", id, "see mull logs and mull show", "the job has ended");
}

static int wait_for_it(mull_client *c, const char *id, const opts *o) {
    char url[400] = "";
    while (!o->no_wait && !*url) {
        int rc = look(c, id, url, sizeof url);
        if (rc) return rc;
        if (!*url) mull_pause(0.2);
    }
    if (o->json)
        mull_emit(json_pack("{s:s, s:s?}", "id", id, "url", *url ? url : NULL));
    else if (*url)
        printf("%s\n", url);
    else
        puts(id);
    fflush(stdout);
    if (*url) fprintf(stderr, "job %s answers there; mull cancel %s ends it\n", id, id);
    return o->follow ? mull_follow_logs(c, id, false, 0) : MULL_EXIT_OK;
}

static int run_serve(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.spec = json_object()};
    int words;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words != 1) return mull_usage(cmd->name, words ? "give one checkpoint folder" : "which model? give its folder");
    json_object_set_new(o.spec, "kind", json_string("serve"));
    json_object_set_new(o.spec, "model", json_string(argv[1]));
    mull_spec_absolute(o.spec);
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    mull_reply r;
    mull_err err;
    json_t *body = json_pack("{s:o}", "spec", o.spec);
    int rc = mull_client_call(c, "POST", "/v1/jobs", body, &r, &err);
    json_decref(body);
    if (rc) {
        mull_err_print(stderr, &err);
        rc = MULL_EXIT_FAILED;
    } else if (r.status != 200 && r.status != 201) {
        rc = mull_client_refused(&r, NULL, NULL);
        json_decref(r.json);
    } else {
        char id[32];
        snprintf(id, sizeof id, "%s", mull_text(r.json, "id"));
        json_decref(r.json);
        rc = wait_for_it(c, id, &o);
    }
    mull_client_close(c);
    return rc;
}

const mull_cmd mull_cmd_serve = {
    "serve",
    "MODEL [flags]",
    "answer requests over HTTP in OpenAI's shape",
    "It is a job: it waits for a free slot, is shown by ps, and runs until mull cancel.\n"
    "examples:\n"
    "  mull serve ckpt\n"
    "  curl -s http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\\n"
    "    -d '{\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}]}'\n"
    "  mull serve ckpt --listen 0.0.0.0:8000 --key-file keys.txt --media-root /data/images\n",
    serve_opts,
    run_serve};
