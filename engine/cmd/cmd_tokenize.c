/* mull-engine tokenize and detokenize: text to ids and back, JSON lines. */
#include "engine/cmd/cmd.h"
#include "engine/cmd/jsonl.h"
#include "engine/text/tokenizer.h"

#include <string.h>

typedef struct job {
    mull_tokenizer *t;
    bool special;
} job;

static json_t *ids_json(const mull_ids *ids) {
    json_t *a = json_array();
    for (size_t i = 0; i < ids->len; i++) json_array_append_new(a, json_integer(ids->data[i]));
    return a;
}

static json_t *tokenize_row(void *ctx, const json_t *in, mull_error *err) {
    const job *j = ctx;
    const json_t *text = json_object_get(in, "text");
    if (!json_is_string(text)) {
        mull_fail(err, MULL_EARG, "cannot tokenize", NULL, "send {\"text\": \"…\"}",
                  "\"text\" is missing or no string");
        return NULL;
    }
    mull_ids ids = {0};
    json_t *out = NULL;
    if (!mull_tokenizer_encode(j->t, json_string_value(text), json_string_length(text), j->special, &ids, err))
        out = json_pack("{s:o}", "ids", ids_json(&ids));
    mull_ids_fini(&ids);
    return out;
}

static json_t *detokenize_row(void *ctx, const json_t *in, mull_error *err) {
    const job *j = ctx;
    const json_t *list = json_object_get(in, "ids");
    mull_ids ids = {0};
    mull_buf text = {0};
    json_t *out = NULL;
    int rc = MULL_OK;
    if (!json_is_array(list))
        rc = mull_fail(err, MULL_EARG, "cannot turn ids into text", NULL, "send {\"ids\": [1, 2]}",
                       "\"ids\" is missing or no list");
    for (size_t i = 0; !rc && i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
            rc = mull_fail(err, MULL_EARG, "cannot turn ids into text", NULL, "send whole numbers", "ids[%zu] is no id",
                           i);
        else
            rc = mull_ids_add(&ids, (int32_t)json_integer_value(v));
    }
    if (!rc && !mull_tokenizer_decode(j->t, ids.data, ids.len, j->special, &text, err))
        out = json_pack("{s:o}", "text", json_stringn(text.data ? text.data : "", text.len));
    mull_ids_fini(&ids);
    mull_buf_fini(&text);
    return out;
}

static int run(const char *command, const char *flag, const char *flag_help,
               json_t *(*row)(void *, const json_t *, mull_error *), int argc, char **argv) {
    const char *model = NULL;
    job j = {0};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            printf("usage: mull-engine %s --model DIR [%s]\n\n  %s  %s\n", command, flag, flag, flag_help);
            return MULL_EXIT_OK;
        }
        if (!strcmp(argv[i], flag))
            j.special = true;
        else if (!strcmp(argv[i], "--model") && i + 1 < argc)
            model = argv[++i];
        else
            return mull_cmd_usage(command, "unknown argument or missing value: '%s'", argv[i]);
    }
    if (!model) return mull_cmd_usage(command, "--model is needed");
    mull_error err = {0};
    if (mull_tokenizer_load(model, &j.t, &err)) return mull_cmd_fail(&err);
    int rc = mull_cmd_jsonl(command, row, &j);
    mull_tokenizer_destroy(j.t);
    return rc;
}

int mull_cmd_tokenize(int argc, char **argv) {
    return run("tokenize", "--special", "text that spells a special token becomes it", tokenize_row, argc, argv);
}

int mull_cmd_detokenize(int argc, char **argv) {
    return run("detokenize", "--skip-special", "leave special tokens out of the text", detokenize_row, argc, argv);
}
