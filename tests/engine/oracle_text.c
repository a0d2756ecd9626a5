/* Tokenizer, streaming decode and rendered prompts against the reference: every id and every byte equal. */
#include "engine/text/chat.h"
#include "engine/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static mull_tokenizer *tok;

typedef void (*row_fn)(const json_t *row, long line);

static void each_row(const char *name, long at_least, row_fn fn) {
    char path[512], *line = NULL;
    size_t cap = 0;
    snprintf(path, sizeof path, MULL_ORACLE_DIR "/text/%s", name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    long n = 0;
    for (ssize_t k; (k = getline(&line, &cap, f)) > 0;) {
        json_t *row = json_loadb(line, (size_t)k, JSON_ALLOW_NUL, NULL);
        assert_non_null(row);
        fn(row, ++n);
        json_decref(row);
    }
    assert_true(n >= at_least);
    free(line);
    fclose(f);
}

static void ids_equal(const mull_ids *got, const json_t *want, const char *what, long line) {
    size_t n = json_array_size(want);
    for (size_t i = 0; i < n && i < got->len; i++)
        if (got->data[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s, row %ld, id %zu: %d, not %d", what, line, i, got->data[i],
                     (int)json_integer_value(json_array_get(want, i)));
    if (got->len != n) fail_msg("%s, row %ld: %zu ids, not %zu", what, line, got->len, n);
}

static void text_equal(const mull_buf *got, const json_t *want, const char *what, long line) {
    size_t n = json_string_length(want);
    if (got->len != n || (n && memcmp(got->data, json_string_value(want), n)))
        fail_msg("%s, row %ld: '%.200s', not '%.200s'", what, line, got->data ? got->data : "",
                 json_string_value(want));
}

static void decodes(const mull_ids *ids, bool skip, const json_t *want, long line) {
    if (!want) return;
    mull_buf text = {0};
    assert_int_equal(mull_tokenizer_decode(tok, ids->data, ids->len, skip, &text, NULL), MULL_OK);
    text_equal(&text, want, "decoded", line);
    mull_buf_fini(&text);
}

static void string_row(const json_t *row, long line) {
    const json_t *text = json_object_get(row, "text");
    const char *s = json_string_value(text);
    size_t n = json_string_length(text);
    mull_ids user = {0}, frame = {0};
    assert_int_equal(mull_tokenizer_encode(tok, s, n, false, &user, NULL), MULL_OK);
    assert_int_equal(mull_tokenizer_encode(tok, s, n, true, &frame, NULL), MULL_OK);
    ids_equal(&user, json_object_get(row, "ids"), "user text", line);
    ids_equal(&frame, json_object_get(row, "ids_with_special_parsing"), "frame text", line);
    decodes(&user, false, json_object_get(row, "decoded"), line);
    decodes(&frame, false, json_object_get(row, "decoded_special"), line);
    decodes(&frame, true, json_object_get(row, "decoded_special_skipped"), line);
    mull_ids_fini(&user);
    mull_ids_fini(&frame);
}

static void stream_row(const json_t *row, long line) {
    const json_t *ids = json_object_get(row, "ids"), *pieces = json_object_get(row, "pieces");
    mull_detok d;
    mull_buf piece = {0}, all = {0};
    mull_detok_init(&d, tok, false);
    for (size_t i = 0; i < json_array_size(ids); i++) {
        piece.len = 0;
        assert_int_equal(mull_detok_push(&d, (int32_t)json_integer_value(json_array_get(ids, i)), &piece, NULL),
                         MULL_OK);
        text_equal(&piece, json_array_get(pieces, i), "piece", line);
        mull_buf_add(&all, piece.data, piece.len);
    }
    piece.len = 0;
    assert_int_equal(mull_detok_flush(&d, &piece), MULL_OK);
    text_equal(&piece, json_object_get(row, "flush"), "flush", line);
    mull_buf_add(&all, piece.data, piece.len);
    text_equal(&all, json_object_get(row, "text"), "stream", line);
    mull_buf_fini(&piece);
    mull_buf_fini(&all);
}

static json_t *user_content(const json_t *row, int64_t *tokens, size_t *n, const char *question) {
    json_t *content = json_array();
    static const char *const grids[] = {"image_grid_thw", "video_grid_thw"};
    for (int v = 0; v < 2; v++)
        for (size_t i = 0; i < json_array_size(json_object_get(row, grids[v])); i++) {
            const json_t *g = json_array_get(json_object_get(row, grids[v]), i);
            tokens[*n] = json_integer_value(json_array_get(g, 0)) * json_integer_value(json_array_get(g, 1)) *
                         json_integer_value(json_array_get(g, 2)) / 4;
            json_array_append_new(content,
                                  json_pack("{s:s,s:s}", "type", v ? "video" : "image", v ? "video" : "image", "x"));
            (*n)++;
        }
    json_array_append_new(content, json_pack("{s:s,s:s}", "type", "text", "text", question));
    return content;
}

/* The question after its template: what lies between the media and the next frame token of the expected text. */
static char *question_of(const json_t *row, size_t nmedia) {
    const char *text = json_string_value(json_object_get(row, "text")),
               *q = json_string_value(json_object_get(row, "question"));
    const char *at = strstr(text, "<|im_start|>user\n");
    assert_non_null(at);
    at += strlen("<|im_start|>user\n");
    for (size_t i = 0; i < nmedia; i++) {
        at = strstr(at, "<|vision_end|>");
        assert_non_null(at);
        at += strlen("<|vision_end|>");
    }
    assert_true(!strncmp(at, q, strlen(q)));
    const char *end = strstr(at + strlen(q), "<|im_start|>assistant\n"),
               *im = strstr(at + strlen(q), "<|im_end|>\n<|im_start|>assistant");
    if (im && im < end) end = im;
    assert_non_null(end);
    return strndup(at, (size_t)(end - at));
}

static void prompt_row(const json_t *row, long line) {
    int64_t tokens[8];
    size_t n = 0;
    size_t nmedia = json_array_size(json_object_get(row, "image_grid_thw")) +
                    json_array_size(json_object_get(row, "video_grid_thw"));
    char *question = question_of(row, nmedia);
    json_t *messages = json_array();
    mull_render_opts o = {.format = MULL_PROMPT_CHATML, .mode = MULL_MODE_NONE};
    bool train = !strcmp(json_string_value(json_object_get(row, "kind")), "train");
    if (train)
        json_array_append_new(messages,
                              json_pack("{s:s,s:s}", "role", "system", "content", "You are a helpful assistant"));
    json_array_append_new(messages,
                          json_pack("{s:s,s:o}", "role", "user", "content", user_content(row, tokens, &n, question)));
    if (!train) {
        assert_int_equal(
            mull_prompt_format_parse(json_string_value(json_object_get(row, "prompt_format")), &o.format, NULL), 0);
        assert_int_equal(mull_prompt_mode_parse(json_string_value(json_object_get(row, "mode")), &o.mode, NULL), 0);
        o.latents = (int)json_integer_value(json_object_get(row, "num_latents"));
    } else {
        const char *a = json_string_value(json_object_get(row, "assistant"));
        if (strstr(a, "<|latent")) { /* an answer with latents is the trainer's to build, not a user's text */
            json_decref(messages);
            free(question);
            return;
        }
        json_array_append_new(messages, json_pack("{s:s,s:s}", "role", "assistant", "content", a));
    }
    mull_buf text = {0};
    mull_ids ids = {0};
    mull_error err = {0};
    if (mull_chat_render(tok, messages, tokens, n, &o, &text, &ids, &err)) fail_msg("row %ld: %s", line, err.why);
    text_equal(&text, json_object_get(row, "text"), "prompt", line);
    ids_equal(&ids, json_object_get(row, "ids"), "prompt", line);
    mull_buf_fini(&text);
    mull_ids_fini(&ids);
    json_decref(messages);
    free(question);
}

/* How an evaluation's prompt ends, for every version and mode of the release. */
static void chat_prefixes(void **state) {
    (void)state;
    json_t *rows = json_load_file(MULL_ORACLE_DIR "/eval/chat_prefix.json", 0, NULL), *row;
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "user", "content", "Why?");
    size_t i;
    assert_true(json_array_size(rows) >= 16);
    json_array_foreach(rows, i, row) {
        const json_t *want = json_object_get(row, "text_after_deletion");
        const char *mode = json_string_value(json_object_get(row, "prompt_mode"));
        bool old = !strcmp(json_string_value(json_object_get(row, "prompt_version")), "old");
        mull_render_opts o = {.format = old ? MULL_PROMPT_OLD : MULL_PROMPT_MULL,
                              .latents = (int)json_integer_value(json_object_get(row, "num_latents")),
                              .old_evaluation = true};
        mull_buf text = {0};
        assert_int_equal(mull_prompt_mode_parse(*mode ? mode : "none", &o.mode, NULL), MULL_OK);
        assert_int_equal(mull_chat_render(tok, messages, NULL, 0, &o, &text, NULL, NULL), MULL_OK);
        const char *at = strstr(text.data, "Why?");
        assert_non_null(at);
        mull_buf tail = {.data = (char *)(uintptr_t)at + 4, .len = text.len - (size_t)(at + 4 - text.data)};
        text_equal(&tail, want, "prefix", (long)i);
        mull_buf_fini(&text);
    }
    json_decref(rows);
    json_decref(messages);
}

static void strings(void **state) {
    (void)state, each_row("strings.jsonl", 2000, string_row);
}
static void streams(void **state) {
    (void)state, each_row("stream.jsonl", 300, stream_row);
}
static void prompts(void **state) {
    (void)state, each_row("prompts.jsonl", 300, prompt_row);
}

int main(void) {
    if (access(MULL_ORACLE_DIR "/text/strings.jsonl", R_OK)) {
        printf("skipped: no reference vectors at " MULL_ORACLE_DIR "\n");
        return 77;
    }
    mull_error err = {0};
    if (mull_tokenizer_load(MULL_ORACLE_DIR "/tokenizer", &tok, &err)) {
        mull_error_print(stderr, &err);
        return 1;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(strings), cmocka_unit_test(streams), cmocka_unit_test(prompts),
                                       cmocka_unit_test(chat_prefixes)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    mull_tokenizer_destroy(tok);
    return rc;
}
