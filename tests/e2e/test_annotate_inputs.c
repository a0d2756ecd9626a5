/* The kinds of input that an annotation takes, each as a whole job through the queue: zstd, a folder of media. What
 * comes back is what the engine by hand writes for the same rows. */
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define MULL MULL_BIN_DIR "/mull"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
#define ENGINE(...) free(mull_run_ok((const char *const[]){MULL_BIN_DIR "/mull-engine", __VA_ARGS__, NULL}, LIMIT_S))
enum { LIMIT_S = 240, ROWS = 40 };

static char *folder, model[300];

static char *in_folder(const char *name) {
    static char paths[8][400];
    static int at;
    char *path = paths[at++ % 8];
    snprintf(path, 400, "%s/%s", folder, name);
    return path;
}

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("inputs");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", in_folder("state"), 1);
    snprintf(model, sizeof model, "%s/model", folder);
    ENGINE("init", "--preset", "tiny", "--out", model);
    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:2", "--json", NULL}, LIMIT_S));
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_run r = RUN("down");
    int status = r.status;
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    return status;
}

static void same_file(const char *a, const char *b, const char *name) {
    char x[500], y[500];
    snprintf(x, sizeof x, "%s/%s", a, name);
    snprintf(y, sizeof y, "%s/%s", b, name);
    char *p = mull_slurp(x, NULL), *q = mull_slurp(y, NULL);
    if (!p || !q || strcmp(p, q) != 0) fail_msg("%s and %s differ", x, y);
    free(p);
    free(q);
}

static size_t lines_of(const char *dir, const char *name) {
    char path[500];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *text = mull_slurp(path, NULL);
    size_t n = 0;
    assert_non_null(text);
    for (const char *p = text; *p; p++) n += *p == '\n';
    free(text);
    return n;
}

static void submit(const char *in, const char *out, const char *flag, const char *value) {
    mull_run r = RUN("submit", "annotate", "--model", model, "--in", in, "--out", out, "--max-new-tokens", "6",
                     "--shard-rows", "7", "--wait", flag, value);
    if (r.status != 0) fail_msg("%d: %s%s", r.status, r.out, r.err);
    mull_run_fini(&r);
}

static void zstd_rows(void **state) {
    (void)state;
    char *text = calloc(ROWS, 120);
    assert_non_null(text);
    for (int i = 0; i < ROWS; i++)
        sprintf(text + strlen(text),
                "{\"custom_id\":\"r%d\",\"messages\":[{\"role\":\"%s\",\"content\":\"Row %d\"}]}\n", i,
                i == 5 ? "tool" : "user", i);
    size_t n = strlen(text), cap = ZSTD_compressBound(n);
    char *packed = malloc(cap);
    assert_non_null(packed);
    /* Two frames: files are often put together from parts. */
    size_t a = ZSTD_compress(packed, cap, text, n / 2, 3);
    assert_false(ZSTD_isError(a));
    size_t b = ZSTD_compress(packed + a, cap - a, text + n / 2, n - n / 2, 19);
    assert_false(ZSTD_isError(b));
    mull_write_file(in_folder("rows.jsonl"), text, n);
    mull_write_file(in_folder("rows.jsonl.zst"), packed, a + b);
    free(text);
    free(packed);
    ENGINE("annotate", "--model", model, "--in", in_folder("rows.jsonl"), "--out", in_folder("plain"),
           "--max-new-tokens", "6");
    submit(in_folder("rows.jsonl.zst"), in_folder("zstd"), "--name", "packed");
    same_file(in_folder("plain"), in_folder("zstd"), "output.jsonl");
    same_file(in_folder("plain"), in_folder("zstd"), "errors.jsonl");
    assert_int_equal(lines_of(in_folder("zstd"), "output.jsonl"), ROWS - 1);
}

static void a_folder_of_media(void **state) {
    (void)state;
    char copy[900];
    static const char *const FILES[] = {"birds.jpg", "shapes.png", "ball.mp4"};
    for (int i = 0; i < 3; i++) {
        size_t n;
        snprintf(copy, sizeof copy, MULL_TEST_DATA "/media/%s", FILES[i]);
        char *data = mull_slurp(copy, &n);
        assert_non_null(data);
        snprintf(copy, sizeof copy, "%s/media/%s%s", folder, i == 1 ? "sub folder/" : "", FILES[i]);
        if (i == 0) free(mull_run_ok((const char *const[]){"mkdir", "-p", in_folder("media/sub folder"), NULL}, 10));
        mull_write_file(copy, data, n);
        free(data);
    }
    mull_write_file(in_folder("media/notes.txt"), "no picture", 10);
    /* Without a question there is nothing to ask: said at submit, not an hour later. */
    mull_run r = RUN("submit", "annotate", "--model", model, "--in", in_folder("media"), "--out", in_folder("no"));
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "give prompt"));
    mull_run_fini(&r);
    ENGINE("annotate", "--model", model, "--in", in_folder("media"), "--out", in_folder("by-hand"), "--max-new-tokens",
           "6", "--prompt", "What is this?");
    submit(in_folder("media"), in_folder("answers"), "--prompt", "What is this?");
    same_file(in_folder("by-hand"), in_folder("answers"), "output.jsonl");
    assert_int_equal(lines_of(in_folder("answers"), "output.jsonl"), 3);
    assert_int_equal(lines_of(in_folder("answers"), "errors.jsonl"), 0);
    char *text = mull_slurp(in_folder("answers/output.jsonl"), NULL);
    const char *first = strstr(text, "\"ball.mp4\""), *second = strstr(text, "\"birds.jpg\""),
               *third = strstr(text, "\"sub folder/shapes.png\"");
    assert_true(first && second && third && first < second && second < third);
    free(text);
}

/* Two workers' worth of tasks on one input: the array completes and the merged output is that of one process. */
static void shared_by_tasks(void **state) {
    (void)state;
    mull_run r = RUN("submit", "annotate", "--model", model, "--in", in_folder("rows.jsonl"), "--out",
                     in_folder("shared"), "--max-new-tokens", "6", "--shard-rows", "3", "--shards", "3", "--wait");
    if (r.status != 0) fail_msg("%d: %s%s", r.status, r.out, r.err);
    mull_run_fini(&r);
    same_file(in_folder("plain"), in_folder("shared"), "output.jsonl");
    same_file(in_folder("plain"), in_folder("shared"), "errors.jsonl");
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(zstd_rows), cmocka_unit_test(a_folder_of_media),
                                       cmocka_unit_test(shared_by_tasks)};
    return cmocka_run_group_tests(tests, start, stop);
}
