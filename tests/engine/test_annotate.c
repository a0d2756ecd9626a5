/* What an annotation makes of each kind of row and input; faults of the machine are in test_annotate_faults.c. */
#include "tests/engine/annotate_util.h"

static const char *const SHORT[] = {"--max-new-tokens", "3", NULL};

static int setup(void **state) {
    place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    place_init(p);
    shell("cp '%s/media/shapes.png' %s/", MULL_TEST_DATA, p->dir);
    *state = p;
    return 0;
}

static int teardown(void **state) {
    place_fini(*state);
    free(*state);
    return 0;
}

/* Bad rows by line; each has an error record with that line and code, and the good row is answered. */
static void test_bad_rows(void **state) {
    const place *p = *state;
    static const char *const CODES[][2] = {
        {"{broken", "invalid_json"},
        {"[1]", "invalid_json"},
        {"{\"messages\":[{\"role\":\"bot\",\"content\":\"x\"}]}", "invalid_request"},
        {"{\"messages\":[]}", "invalid_request"},
        {"{\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{}}", "invalid_request"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"max_tokens\":0}", "invalid_request"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":true}", "unsupported"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"/etc/passwd\"}]}]}",
         "invalid_media"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"link.png\"}]}]}",
         "invalid_media"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"pipe\"}]}]}", "invalid_media"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"image\":\"http://h/x.png\"}]}]}",
         "invalid_media"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "invalid_json"},
        {"{\"custom_id\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"again\"}]}", "duplicate_custom_id"},
        {"{\"messages\":[{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"4\"}]}", "invalid_request"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]}", "invalid_request"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"x\"}]}]}",
         "invalid_request"},
    };
    enum { BAD = sizeof CODES / sizeof *CODES };
    shell("ln -sf /etc/passwd %s/link.png; rm -f %s/pipe; mkfifo %s/pipe", p->dir, p->dir, p->dir);
    FILE *f = fopen(p->in, "w");
    assert_non_null(f);
    fprintf(f, "\xef\xbb\xbf{\"custom_id\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\r\n \r\n");
    for (size_t i = 0; i < BAD; i++) fprintf(f, "%s%s", CODES[i][0], i + 1 < BAD ? "\r\n" : "");
    assert_int_equal(fclose(f), 0);
    assert_int_equal(annotate(p, p->out, SHORT), 0);
    mull_buf ok = get_file(p->out, "output.jsonl"), bad = get_file(p->out, "errors.jsonl");
    assert_int_equal(count_lines(&ok), 1);
    assert_int_equal(count_lines(&bad), BAD);
    for (size_t i = 0; i < BAD; i++) {
        json_t *o = line_of(&bad, i);
        assert_string_equal(text_at(o, "error.code"), CODES[i][1]);
        assert_int_equal(util_int(o, "line"), (int64_t)i + 3);
        assert_true(json_is_null(json_object_get(o, "response")));
        json_decref(o);
    }
    json_t *o = line_of(&ok, 0);
    assert_string_equal(text_at(o, "custom_id"), "a");
    assert_string_equal(text_at(o, "response.body.object"), "chat.completion");
    assert_string_equal(text_at(o, "response.body.choices.0.message.role"), "assistant");
    json_decref(o);
    mull_buf_fini(&ok);
    mull_buf_fini(&bad);
}

/* As a job: progress counts the error records beside what is done, the last time and before. */
static void test_errors_in_progress(void **state) {
    const place *p = *state;
    put_text(p->in, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n{broken\n[1]\n");
    shell("echo '{\"kind\":\"annotate\",\"model\":\"%s\",\"input\":\"%s\",\"out\":\"%s/told\","
          "\"sampling\":{\"max_new_tokens\":3}}' | " MULL_BIN_DIR "/mull-engine run 3>%s/events 2>/dev/null",
          p->model, p->in, p->dir, p->dir);
    mull_buf events = get_file(p->dir, "events");
    json_int_t told = 0, done = 0;
    for (size_t i = 0; i < count_lines(&events); i++) {
        json_t *o = line_of(&events, i);
        if (!strcmp(text_at(o, "ev"), "progress")) {
            assert_true(json_is_integer(json_object_get(o, "errors")));
            told = util_int(o, "errors");
            done = util_int(o, "done");
            assert_true(told <= done);
        }
        json_decref(o);
    }
    assert_int_equal(told, 2);
    assert_int_equal(done, 3);
    mull_buf_fini(&events);
}

/* Begun with one input or setting, refused with another; complete, it is left as it is. */
static void test_other_work_is_refused(void **state) {
    const place *p = *state;
    char out[96];
    snprintf(out, sizeof out, "%s/other", p->dir);
    put_text(p->in, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n");
    assert_int_equal(annotate(p, out, SHORT), 0);
    mull_buf before = get_file(out, "output.jsonl");
    assert_int_equal(annotate(p, out, SHORT), 0);
    const char *const more[] = {"--max-new-tokens", "4", NULL};
    assert_int_equal(wait_engine(start_annotate(p, out, 0, more)), MULL_EXIT_FAILED);
    assert_true(stderr_has(p, "choose another --out"));
    put_text(p->in, "{\"messages\":[{\"role\":\"user\",\"content\":\"y\"}]}\n");
    assert_int_equal(wait_engine(start_annotate(p, out, 0, SHORT)), MULL_EXIT_FAILED);
    assert_true(stderr_has(p, "another input"));
    mull_buf after = get_file(out, "output.jsonl");
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, after.len);
    mull_buf_fini(&before);
    mull_buf_fini(&after);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_bad_rows), cmocka_unit_test(test_errors_in_progress),
                                       cmocka_unit_test(test_other_work_is_refused)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
