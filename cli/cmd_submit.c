/* mull submit: a spec from a file, from flags, or both (flags win). The spec is checked here first, with the lines of
 * the file, and again by the front door, which alone knows the queue. Relative paths mean the current folder, and leave
 * here absolute. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/spec.h"

#include "schema/jobspec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct opts {
    bool json, wait, follow, dry_run;
    const char *messages, *tasks;
    json_t *spec;
} opts;

#define MINE(name, letter, type, member, word, help)                                                                   \
    { name, letter, type, offsetof(opts, member), NULL, word, help }
#define SPEC(name, type, at, word, help)                                                                               \
    { name, 0, MULL_OPT_SPEC_##type, offsetof(opts, spec), at, word, help }
static const mull_opt submit_opts[] = {
    MINE("--json", 0, MULL_OPT_FLAG, json, NULL, "print {\"id\",\"state\"}"),
    MINE("--wait", 'w', MULL_OPT_FLAG, wait, NULL, "wait for its end; exit status as of mull wait"),
    MINE("--follow", 'f', MULL_OPT_FLAG, follow, NULL, "print its log until its end; implies --wait"),
    MINE("--dry-run", 0, MULL_OPT_FLAG, dry_run, NULL, "check and print the spec, submit nothing"),
    SPEC("--key", TEXT, "key", "KEY", "submit at most once: the same key again gives the first job"),
    SPEC("--name", TEXT, "name", "NAME", "what ps calls it"),
    SPEC("--team", TEXT, "team", "TEAM", "whose it is (default: default)"),
    SPEC("--priority", INT, "priority", "P", "-100 to 100, larger first"),
    SPEC("--after", TEXT, "after", "afterok:ID",
         "start when these have ended (afterok, afterany, afterfail, aftercorr); eval: checkpoint:ID:every, each one "
         "of a run"),
    SPEC("--begin", TEXT, "begin", "TIME", "not before: 2026-01-31T08:00:00Z or now+10m"),
    SPEC("--time", TEXT, "time_limit", "D-HH:MM:SS", "longest run time"),
    SPEC("--gpus", INT, "gpus", "N", "GPUs it needs (0: a CPU slot)"),
    SPEC("--slots", INT, "slots", "N", "CPU slots of a job without GPUs, one rank each"),
    SPEC("--label", TEXTS, "labels", "WORD", "only nodes with this label (gpu=NAME, …); may be given again"),
    SPEC("--retries", INT, "retries", "N", "infrastructure failures in a row before it fails (default 3)"),
    SPEC("--hold", FLAG, "hold", NULL, "do not start it before mull release"),
    SPEC("--array", TEXT, "array", "0-99%10", "a task for each index, here ten at once; {array_index} stands for it"),
    SPEC("--model", PATH, "model", "DIR", "checkpoint folder (train: instead of the recipe's model_path)"),
    SPEC("--in", PATH, "input", "FILE|DIR",
         "annotate: JSONL (plain or zstd) of OpenAI Batch requests or {\"messages\"} rows, or a folder of media"),
    SPEC("--out", PATH, "out", "DIR", "folder for results"),
    SPEC("--shard-rows", INT, "shard_rows", "N", "annotate: rows a shard (default 1000)"),
    SPEC("--set", TEXTS, "set", "KEY=VALUE", "train: over the recipe's key; may be given again"),
    SPEC("--max-steps", INT, "max_steps", "N", "train: optimiser steps"),
    SPEC("--ranks", INT, "ranks", "N", "train: processes that share the work (default: one for each GPU)"),
    MINE("--tasks", 0, MULL_OPT_TEXT, tasks, "A,B", "eval: names of tasks, with commas between them"),
    SPEC("--data", PATH, "data", "DIR", "eval: where the datasets lie, a folder each"),
    SPEC("--limit", INT, "limit", "N", "eval: rows of each task (default: all)"),
    SPEC("--idle-timeout", INT, "idle_timeout", "S",
         "rollout: give up when nothing was wanted for S seconds (default 3600, 0: never)"),
    SPEC("--shards", INT, "shards", "N", "annotate, eval, rollout: share the work among N tasks of an array"),
    SPEC("--prompt-style", TEXT, "prompt_style", "STYLE",
         "eval: latents, videor1, sft, base, base_reason, default, cot"),
    SPEC("--replies", TEXT, "replies", "COLUMN", "eval: score this column of the rows instead of asking a model"),
    SPEC("--compat", TEXT, "compat", "WHOSE", "eval: ours or release (its scoring to the letter)"),
    SPEC("--bootstrap", INT, "bootstrap", "N", "eval: rounds for confidence intervals (default 1000)"),
    SPEC("--prompt", TEXT, "prompt", "TEXT",
         "generate: the question; annotate: a template over columns, as 'Is {name} in it?'"),
    SPEC("--output-format", TEXT, "output_format", "FORMAT", "annotate: jsonl, zstd or parquet"),
    SPEC("--prompts", TEXTS, "prompts", "TEXT", "annotate: a template; may be given again, each is asked of every row"),
    SPEC("--image-column", TEXTS, "image_columns", "NAME", "annotate: a column of images; may be given again"),
    SPEC("--video-column", TEXTS, "video_columns", "NAME", "annotate: a column of videos; may be given again"),
    SPEC("--id-column", TEXT, "id_column", "NAME", "annotate: the column that becomes custom_id"),
    MINE("--messages", 0, MULL_OPT_TEXT, messages, "FILE", "generate: a JSON list of messages instead"),
    SPEC("--image", PATHS, "images", "FILE...", "generate: images for the prompt"),
    SPEC("--video", PATHS, "videos", "FILE...", "generate: videos for the prompt"),
    SPEC("--media-root", PATHS, "media_roots", "DIR...", "folders that file:// media may lie in"),
    SPEC("--max-new-tokens", INT, "sampling.max_new_tokens", "N", "longest answer (default 512; eval: the task's)"),
    SPEC("--temperature", NUMBER, "sampling.temperature", "T", "0: the likeliest token each time"),
    SPEC("--top-p", NUMBER, "sampling.top_p", "P", ""),
    SPEC("--top-k", INT, "sampling.top_k", "K", ""),
    SPEC("--repetition-penalty", NUMBER, "sampling.repetition_penalty", "P", "default: the checkpoint's"),
    SPEC("--seed", INT, "sampling.seed", "N", ""),
    SPEC("--stop", TEXTS, "sampling.stop", "TEXT", "end an answer at this text; may be given again"),
    SPEC("--regex", TEXT, "sampling.regex", "REGEX", "what the whole answer has to match"),
    SPEC("--choice", TEXTS, "sampling.choices", "TEXT", "the answer is one of these; may be given again"),
    SPEC("--ignore-eos", FLAG, "sampling.ignore_eos", NULL, "go on behind the end token"),
    SPEC("--latents", INT, "latents", "N", "Mull tokens (default 20)"),
    SPEC("--mode", TEXT, "mode", "MODE", "mmlatent2, new_wtxt, new_sepprompt or none"),
    SPEC("--prompt-format", TEXT, "prompt_format", "FORMAT", "mull, chatml or old"),
    SPEC("--dtype", TEXT, "dtype", "TYPE", "auto, f32, bf16 or int8"),
    SPEC("--min-pixels", INT, "min_pixels", "N", ""),
    SPEC("--max-pixels", INT, "max_pixels", "N", ""),
    SPEC("--fps", NUMBER, "fps", "F", "frames a second taken from videos"),
    SPEC("--nframes", INT, "nframes", "N", "frames taken from each video"),
    {0}};

/* ---- the command ---- */

/* KIND or FILE. 0, or an exit status with the words said. */
static int begin_spec(const mull_cmd *cmd, const char *word, const json_t *flags, json_t *lines, json_t **spec,
                      const char **file) {
    static const char *const kinds[] = {"generate", "annotate", "train", "eval", "serve", "rollout"};
    int rc = MULL_EXIT_OK;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(word, kinds[i]) != 0) continue;
        *spec = json_deep_copy(flags);
        json_object_set_new(*spec, "kind", json_string(word));
        return MULL_EXIT_OK;
    }
    if (strcmp(word, "-") != 0 && access(word, F_OK) != 0) {
        const char *near = mull_nearest(word, kinds, sizeof kinds / sizeof *kinds);
        if (near)
            return mull_usage(cmd->name, "'%s' is neither a kind of job nor a file; did you mean %s?", word, near);
        return mull_usage(cmd->name,
                          "'%s' is neither a kind of job (generate, annotate, train, eval, serve, rollout) nor a file",
                          word);
    }
    *file = strcmp(word, "-") ? word : "stdin";
    *spec = mull_spec_read(word, lines, &rc);
    if (!*spec) return rc;
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)flags, key, v) {
        json_t *old = json_object_get(*spec, key);
        if (json_is_object(old) && json_is_object(v))
            json_object_update(old, v);
        else
            json_object_set(*spec, key, v);
    }
    return MULL_EXIT_OK;
}

static int refuse(const mull_diags *d, const json_t *lines, const char *file) {
    mull_reply r = {
        400, json_pack("{s:{s:s,s:s,s:o}}", "error", "code", "bad_spec", "message", "", "details", mull_diags_json(d))};
    int rc = mull_client_refused(&r, lines, file);
    json_decref(r.json);
    return rc;
}

static int add_messages(json_t *flags, const char *path) {
    size_t len;
    char *text = mull_read_whole(path, &len);
    if (!text) return MULL_EXIT_FAILED;
    json_error_t e;
    json_t *v = json_loadb(text, len, 0, &e);
    free(text);
    if (json_is_object(v) && json_object_get(v, "messages")) {
        json_t *list = json_incref(json_object_get(v, "messages"));
        json_decref(v);
        v = list;
    }
    if (json_is_array(v)) return json_object_set_new(flags, "messages", v) ? MULL_EXIT_FAILED : MULL_EXIT_OK;
    if (v)
        mull_complain("cannot read messages", path, "see mull submit --help", "it is no JSON list of messages");
    else
        mull_complain("cannot read messages", path, "mend the JSON", "%s (line %d)", e.text, e.line);
    json_decref(v);
    return MULL_EXIT_USAGE;
}

/* On a terminal a generate job's answer is what one waited for. */
static void print_answer(const json_t *job) {
    const char *text = json_string_value(json_object_get(json_object_get(job, "result"), "text"));
    if (!text || !isatty(STDOUT_FILENO)) return;
    size_t len = strlen(text);
    char *clean = malloc(len + 8);
    if (clean) {
        for (const char *line = text; *line;) { /* newlines are his, other control characters are not */
            size_t n = strcspn(line, "\n");
            char *one = strndup(line, n);
            if (one) {
                mull_text_clean(one, -1, clean, len + 8);
                puts(clean);
            }
            free(one);
            line += n + (line[n] == '\n');
        }
    }
    free(clean);
}

static void add_tasks(json_t *flags, const char *list) {
    char *copy = strdup(list), *save = NULL;
    json_t *names = json_array();
    for (char *name = copy ? strtok_r(copy, ",", &save) : NULL; name; name = strtok_r(NULL, ",", &save))
        json_array_append_new(names, json_string(name));
    json_object_set_new(flags, "tasks", names);
    free(copy);
}

static int submit(const json_t *spec, const json_t *lines, const char *file, const opts *o) {
    mull_client *c = mull_client_or_complain();
    if (!c) return MULL_EXIT_FAILED;
    json_t *body = json_pack("{s:O}", "spec", spec);
    mull_reply r;
    mull_err err;
    int rc = mull_client_call(c, "POST", "/v1/jobs", body, &r, &err);
    json_decref(body);
    if (rc) {
        mull_err_print(stderr, &err);
        mull_client_close(c);
        return MULL_EXIT_FAILED;
    }
    if (r.status != 200 && r.status != 201) {
        rc = mull_client_refused(&r, lines, file);
        json_decref(r.json);
        mull_client_close(c);
        return rc;
    }
    char id[32];
    snprintf(id, sizeof id, "%s", mull_text(r.json, "id"));
    if (r.status == 200) fprintf(stderr, "this key was submitted before, as job %s\n", id);
    if (o->json)
        mull_emit(r.json);
    else {
        puts(id);
        fflush(stdout);
        json_decref(r.json);
    }
    if (o->follow) rc = mull_follow_logs(c, id, false, 0);
    if (!rc && (o->wait || o->follow)) {
        json_t *job;
        rc = mull_wait_job(c, id, o->follow, 0, &job);
        if (!rc) {
            rc = mull_job_exit(job);
            mull_job_epilogue(job);
            if (!o->json) {
                print_answer(job);
                mull_eval_table(json_object_get(job, "eval_results"), stderr);
                mull_follow_table(json_object_get(job, "follow"), stderr);
            }
        }
        json_decref(job);
    }
    mull_client_close(c);
    return rc;
}

/* A rollout job works in the folder of its training run: given as such, or by the training job's id. */
static int add_run(json_t *flags, const char *word) {
    if (word[strspn(word, "0123456789")]) return json_object_set_new(flags, "out", json_string(word));
    char *folder = mull_train_folder(word, "cannot submit rollouts");
    int rc = folder ? json_object_set_new(flags, "out", json_string(folder)) : -1;
    free(folder);
    return rc;
}

static int checked_submit(const mull_cmd *cmd, int argc, char **argv, opts *o, json_t *lines, json_t **spec) {
    int words;
    const char *file = NULL;
    MULL_PARSE(cmd, argc, argv, o, &words);
    if (!words) return mull_usage(cmd->name, "what? give a spec file, generate, annotate, train, eval or rollout");
    bool recipe = words == 2 && !strcmp(argv[1], "train"), run = words == 2 && !strcmp(argv[1], "rollout");
    bool takes = !strcmp(argv[1], "train") || !strcmp(argv[1], "rollout");
    if (words != 1 && !recipe && !run) return mull_usage(cmd->name, "unexpected word '%s'", argv[takes ? 3 : 2]);
    if (recipe) json_object_set_new(o->spec, "config", json_string(argv[2]));
    if (run && add_run(o->spec, argv[2])) return MULL_EXIT_FAILED;
    int rc = o->messages ? add_messages(o->spec, o->messages) : MULL_EXIT_OK;
    if (o->tasks) add_tasks(o->spec, o->tasks);
    if (!rc) rc = begin_spec(cmd, argv[1], o->spec, lines, spec, &file);
    if (rc) return rc;
    mull_spec_absolute(*spec);
    mull_diags d;
    json_t *checked = mull_jobspec_check(*spec, &d);
    if (!checked) return refuse(&d, lines, file);
    rc = mull_recipe_refused(*spec);
    if (rc) {
        json_decref(checked);
        return rc;
    }
    if (o->dry_run)
        mull_emit(json_incref(checked));
    else
        rc = submit(*spec, lines, file, o);
    json_decref(checked);
    return rc;
}

static int run_submit(const mull_cmd *cmd, int argc, char **argv) {
    opts o = {.spec = json_object()};
    json_t *spec = NULL, *lines = json_object();
    int rc = checked_submit(cmd, argc, argv, &o, lines, &spec);
    json_decref(spec);
    json_decref(lines);
    json_decref(o.spec);
    return rc;
}

const mull_cmd mull_cmd_submit = {
    "submit",
    "FILE|generate|annotate|train CONFIG.yaml|eval|rollout RUN [flags]",
    "queue a job and print its id",
    "examples:\n"
    "  mull submit annotate --model ckpt --in rows.jsonl --out answers --wait\n"
    "  mull submit generate --model ckpt --image a.jpg --prompt 'What is this?' --wait\n"
    "  mull submit train recipe.yaml --out run1 --set learning_rate=1e-6\n"
    "  mull submit rollout 17 --shards 4      answer for training job 17 (or its folder)\n"
    "  mull submit eval --model ckpt --tasks blink_mv,sat_real --data data --out e1 --wait\n"
    "  mull submit job.yaml --priority 10 --key nightly-2026-01-31\n"
    "  mull submit job.yaml --dry-run\n",
    submit_opts,
    run_submit};
