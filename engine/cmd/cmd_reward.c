/* mull-engine reward: completions against solutions, JSON lines. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/jsonl.h"
#include "engine/eval/reward.h"

#include <string.h>

static const char USAGE[] =
    "usage: mull-engine reward [--compat release]\n\n"
    "Reads JSON lines {\"completion\", \"solution\", \"problem_type\"} on stdin and writes for each\n"
    "{\"extract\", \"gold\", \"accuracy\", \"format\", \"reward\"}. problem_type is multiple choice, numerical, OCR,\n"
    "free-form or regression; another one scores 0.\n\n"
    "  --compat release   numbers lose their sign, as in the published release\n";

static const json_t *text_of(const json_t *in, const char *key, mull_error *err) {
    const json_t *v = json_object_get(in, key);
    if (json_is_string(v)) return v;
    mull_fail(err, MULL_EARG, "cannot score a completion", NULL,
              "send {\"completion\": \"…\", \"solution\": \"…\", \"problem_type\": \"…\"}",
              "\"%s\" is missing or no string", key);
    return NULL;
}

static json_t *reward_row(void *ctx, const json_t *in, mull_error *err) {
    const mull_compat *compat = ctx;
    const json_t *completion = text_of(in, "completion", err),
                 *solution = completion ? text_of(in, "solution", err) : NULL,
                 *type = solution ? text_of(in, "problem_type", err) : NULL;
    json_t *out = NULL;
    mull_reward r = {0};
    if (!type) return NULL;
    if (!mull_reward_score(json_string_value(completion), json_string_length(completion), json_string_value(solution),
                           json_string_length(solution), json_string_value(type), *compat, &r, err))
        out = json_pack("{s:o, s:o, s:f, s:f, s:f}", "extract", json_stringn(r.extract.data, r.extract.len), "gold",
                        json_stringn(r.gold.data, r.gold.len), "accuracy", r.accuracy, "format", r.format, "reward",
                        r.total);
    mull_reward_fini(&r);
    return out;
}

int mull_cmd_reward(int argc, char **argv) {
    mull_compat compat = MULL_COMPAT_OURS;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        }
        if (strcmp(argv[i], "--compat") || i + 1 == argc)
            return mull_cmd_usage("reward", "unexpected argument '%s'", argv[i]);
        if (strcmp(argv[++i], "release")) return mull_cmd_usage("reward", "--compat takes release, not '%s'", argv[i]);
        compat = MULL_COMPAT_RELEASE;
    }
    return mull_cmd_jsonl("reward", reward_row, &compat);
}
