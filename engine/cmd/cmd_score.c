/* mull-engine score: replies of an evaluation task, JSON lines. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/jsonl.h"
#include "engine/eval/prompt.h"
#include "engine/eval/task.h"

#include <stdio.h>
#include <string.h>

static const char USAGE[] =
    "usage: mull-engine score --task T [--compat release] [--prompts MODE [--no-vsibench-options]]\n\n"
    "Reads JSON lines {\"doc\": {…}, \"reply\": \"…\"} on stdin and writes for each {\"clean\", \"raw\", \"cleaned\"}: "
    "the\n"
    "reply as it is scored, and the task's records for the reply as it is and for its clean form. The last line is\n"
    "{\"results\": {T: {…}}, \"n-samples\", \"groups\"} over the clean forms.\n\n"
    "  --compat release   score as the published release does, its defects included\n"
    "  --prompts MODE     write {\"prompt\"} for each doc instead: latents, videor1, sft, base, base_reason, default, "
    "cot\n"
    "  --no-vsibench-options  with --prompts: VSI-Bench's questions without their options, as in the release\n\n"
    "Tasks:";

typedef struct job {
    const mull_task *task;
    mull_compat compat;
    mull_tally tally;
    mull_prompt_opts prompt;
    json_int_t rows;
} job;

static json_t *score_row(void *ctx, const json_t *in, mull_error *err) {
    job *j = ctx;
    const json_t *doc = json_object_get(in, "doc"), *reply = json_object_get(in, "reply");
    mull_scored s;
    if (!json_is_object(doc) || !json_is_string(reply)) {
        mull_fail(err, MULL_EARG, "cannot score a reply", NULL, "send {\"doc\": {…}, \"reply\": \"…\"}", "%s",
                  json_is_object(doc) ? "\"reply\" is missing or no string" : "\"doc\" is missing or no object");
        return NULL;
    }
    if (mull_task_score(j->task, doc, json_string_value(reply), json_string_length(reply), j->compat, MULL_SCORE_RAW,
                        &s, err))
        return NULL;
    j->rows++;
    if (mull_tally_add(&j->tally, &s)) {
        mull_fail(err, MULL_ENOMEM, "cannot score a reply", NULL, NULL, "out of memory");
        mull_scored_fini(&s);
        return NULL;
    }
    json_t *out = json_pack("{s:O, s:O, s:O}", "clean", s.clean, "raw", s.raw, "cleaned", s.cleaned);
    if (s.raw_random) json_object_set_new(out, "raw_random", json_true());
    if (s.cleaned_random) json_object_set_new(out, "cleaned_random", json_true());
    mull_scored_fini(&s);
    return out;
}

static json_t *prompt_row(void *ctx, const json_t *in, mull_error *err) {
    job *j = ctx;
    const json_t *doc = json_object_get(in, "doc");
    mull_buf text = {0};
    json_t *out = NULL;
    if (!json_is_object(doc))
        mull_fail(err, MULL_EARG, "cannot write a prompt", NULL, "send {\"doc\": {…}}",
                  "\"doc\" is missing or no object");
    else if (!mull_task_prompt(j->task, doc, &j->prompt, &text, err))
        out = json_pack("{s:o}", "prompt", json_stringn(text.data ? text.data : "", text.len));
    mull_buf_fini(&text);
    return out;
}

static void emit_results(const job *j) {
    const char *name = mull_task_name(j->task);
    mull_cmd_emit(json_pack("{s:{s:o}, s:{s:{s:I, s:I}}, s:{s:o}}", "results", name,
                            mull_tally_results(j->task, &j->tally), "n-samples", name, "original", j->rows, "effective",
                            (json_int_t)j->tally.n, "groups", name, mull_tally_groups(&j->tally)));
}

int mull_cmd_score(int argc, char **argv) {
    job j = {.prompt = {.vsibench_options = true}};
    mull_error err = {0};
    bool prompts = false;
    for (int i = 1; i < argc; i++) {
        bool more = i + 1 < argc;
        if (!strcmp(argv[i], "--help")) {
            fputs(USAGE, stdout);
            for (size_t k = 0; k < mull_task_count(); k++) printf(" %s", mull_task_name(mull_task_at(k)));
            puts("");
            return MULL_EXIT_OK;
        } else if (!strcmp(argv[i], "--task") && more) {
            j.task = mull_task_find(argv[++i]);
            if (!j.task) return mull_cmd_usage("score", "there is no task '%s'", argv[i]);
        } else if (!strcmp(argv[i], "--compat") && more) {
            if (strcmp(argv[++i], "release"))
                return mull_cmd_usage("score", "--compat takes release, not '%s'", argv[i]);
            j.compat = MULL_COMPAT_RELEASE;
        } else if (!strcmp(argv[i], "--prompts") && more) {
            if (mull_prompt_style_parse(argv[++i], &j.prompt.style, &err)) return mull_cmd_fail(&err);
            prompts = true;
        } else if (!strcmp(argv[i], "--no-vsibench-options"))
            j.prompt.vsibench_options = false;
        else
            return mull_cmd_usage("score", "unexpected argument '%s'", argv[i]);
    }
    if (!j.task) return mull_cmd_usage("score", "--task is missing");
    int rc = mull_cmd_jsonl("score", prompts ? prompt_row : score_row, &j);
    if (!prompts) emit_results(&j);
    mull_tally_fini(&j.tally);
    return rc;
}
