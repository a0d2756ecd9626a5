/* The commands that people script against, with a real queue and engine: keys of the JSON, exit statuses, what is said
 * where. One `mull up` serves all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
enum { LIMIT_S = 120 };

static char *folder, model[512], broken[512], rows[512];

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("commands");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(broken, sizeof broken, "%s/broken", folder);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", folder);
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    free(mull_run_ok((const char *const[]){"/bin/cp", "-r", model, broken, NULL}, LIMIT_S));
    char weights[600];
    snprintf(weights, sizeof weights, "%s/model.safetensors", broken);
    mull_write_file(weights, "not weights", 11);
    free(mull_run_ok((const char *const[]){MULL, "up", "--json", NULL}, LIMIT_S));
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

static json_t *line_of(const mull_run *r) {
    json_t *j = json_loads(r->out, JSON_DISABLE_EOF_CHECK, NULL);
    if (!j) fail_msg("no JSON: %s%s", r->out, r->err);
    return j;
}

static void has_keys(const json_t *o, const char *const *keys) {
    for (; *keys; keys++)
        if (!json_object_get(o, *keys)) fail_msg("the key %s is missing", *keys);
}

static void expect_status(mull_run r, int status) {
    if (r.status != status) fail_msg("status %d, not %d: %s%s", r.status, status, r.out, r.err);
    mull_run_fini(&r);
}

static void a_job_from_submit_to_its_answer(void **state) {
    (void)state;
    static const char *const keys[] = {"id",      "name",     "kind",         "team",       "user",     "state",
                                       "reason",  "priority", "submitted_at", "started_at", "ended_at", "node",
                                       "attempt", "exit",     "progress",     NULL};
    static const char *const more[] = {"spec", "attempts", "run", "checkpoints", "events", "result", NULL};
    mull_run r = RUN("submit", "generate", "--model", model, "--prompt", "hello", "--max-new-tokens", "5", "--name",
                     "first one", "--json");
    assert_int_equal(r.status, 0);
    json_t *job = line_of(&r);
    const char *id = json_string_value(json_object_get(job, "id"));
    assert_non_null(id);
    assert_string_equal(json_string_value(json_object_get(job, "state")), "PENDING");
    mull_run_fini(&r);
    expect_status(RUN("wait", id, "--quiet"), 0);
    r = RUN("ps", "--json");
    json_t *listed = line_of(&r);
    has_keys(listed, keys);
    assert_string_equal(json_string_value(json_object_get(listed, "name")), "first one");
    assert_int_equal(json_integer_value(json_object_get(listed, "exit")), 0);
    const json_t *progress = json_object_get(listed, "progress");
    assert_int_equal(json_integer_value(json_object_get(progress, "done")), 1);
    assert_int_equal(json_integer_value(json_object_get(progress, "total")), 1);
    mull_run_fini(&r);
    r = RUN("show", id, "--json");
    json_t *shown = line_of(&r);
    has_keys(shown, keys);
    has_keys(shown, more);
    assert_true(json_is_string(json_object_get(json_object_get(shown, "result"), "text")));
    assert_int_equal(json_array_size(json_object_get(shown, "attempts")), 1);
    mull_run_fini(&r);
    expect_status(RUN("why", id), 0);
    expect_status(RUN("logs", id), 0);
    expect_status(RUN("logs", "-f", id), 0);
    expect_status(RUN("metrics", id), 0);
    json_decref(job);
    json_decref(listed);
    json_decref(shown);
}

static void a_batch_in_order_with_its_bad_rows(void **state) {
    (void)state;
    char out[600], file[700];
    static const char text[] = "{\"custom_id\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"one\"}]}\n"
                               "{\"custom_id\":\"b\",\"messages\":\"none\"}\n"
                               "{\"custom_id\":\"c\",\"messages\":[{\"role\":\"user\",\"content\":\"two\"}]}\n";
    snprintf(out, sizeof out, "%s/answers", folder);
    mull_write_file(rows, text, sizeof text - 1);
    expect_status(RUN("submit", "annotate", "--model", model, "--in", rows, "--out", out, "--max-new-tokens", "4",
                      "--shard-rows", "1", "--wait"),
                  0);
    snprintf(file, sizeof file, "%s/output.jsonl", out);
    char *good = mull_slurp(file, NULL);
    snprintf(file, sizeof file, "%s/errors.jsonl", out);
    char *bad = mull_slurp(file, NULL);
    assert_non_null(good);
    assert_non_null(bad);
    const char *a = strstr(good, "\"custom_id\":\"a\""), *c = strstr(good, "\"custom_id\":\"c\"");
    assert_true(a && c && a < c);
    assert_non_null(strstr(bad, "\"custom_id\":\"b\""));
    free(good);
    free(bad);
}

static void a_failing_job_fails_its_waiter(void **state) {
    (void)state;
    mull_run r = RUN("submit", "generate", "--model", broken, "--prompt", "x", "--wait", "--json");
    assert_int_not_equal(r.status, 0);
    assert_int_not_equal(r.status, 2);
    json_t *job = line_of(&r);
    const char *id = json_string_value(json_object_get(job, "id"));
    if (id) { /* refused at submit is as good: then there is no job */
        assert_non_null(strstr(r.err, "FAILED"));
        expect_status(RUN("wait", id, "--quiet"), r.status);
    }
    mull_run_fini(&r);
    json_decref(job);
}

static void held_cancelled_requeued(void **state) {
    (void)state;
    mull_run r = RUN("submit", "generate", "--model", model, "--prompt", "x", "--max-new-tokens", "2", "--hold",
                     "--key", "once");
    assert_int_equal(r.status, 0);
    char id[32];
    snprintf(id, sizeof id, "%.*s", (int)strcspn(r.out, "\n"), r.out);
    mull_run_fini(&r);
    r = RUN("submit", "generate", "--model", model, "--prompt", "x", "--max-new-tokens", "2", "--key", "once");
    assert_int_equal(strncmp(r.out, id, strlen(id)), 0); /* the same key, the same job */
    mull_run_fini(&r);
    expect_status(RUN("wait", id, "--quiet", "--timeout", "1"), 124);
    expect_status(RUN("cancel", id), 0);
    expect_status(RUN("wait", id, "--quiet"), 3);
    expect_status(RUN("requeue", id), 0);
    expect_status(RUN("release", id), 0);
    expect_status(RUN("wait", id, "--quiet"), 0);
    expect_status(RUN("release", id), 1); /* it has ended */
}

static void wrong_usage(void **state) {
    (void)state;
    static const char *const lines[][6] = {{"submitt"},
                                           {"ps", "--jsn"},
                                           {"ps", "-o", "tabel"},
                                           {"show", "abc"},
                                           {"wait"},
                                           {"submit", "generate", "--prompt", "x"},
                                           {"submit", "generate", "--model", "/nowhere", "--prompt"},
                                           {"submit", "train", "x.yaml"}};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const char *argv[8] = {MULL};
        for (int k = 0; k < 6; k++) argv[k + 1] = lines[i][k];
        mull_run r = mull_run_command(argv, LIMIT_S);
        if (r.status != 2) fail_msg("line %zu: status %d: %s", i, r.status, r.err);
        assert_int_equal(strncmp(r.err, "error: ", 7), 0);
        assert_int_equal(r.out_len, 0);
        mull_run_fini(&r);
    }
    mull_run r = RUN("ps", "--jsn");
    assert_non_null(strstr(r.err, "did you mean --json?"));
    mull_run_fini(&r);
    expect_status(RUN("show", "999999"), 1);
}

/* A recipe is read before it is queued; a job that waits for others may name what they will make. */
static void recipes_at_submit(void **state) {
    (void)state;
    char config[400], out[400];
    snprintf(config, sizeof config, "%s/recipe.yaml", folder);
    snprintf(out, sizeof out, "%s/trained", folder);
    static const char wrong[] =
        "model_path: m\nlearning_rat: 0.1\nweight_decay: much\ntrain_dataset_args:\n  mix_datas:\n    Messages: 1.0\n"
        "  messages_location: rows.jsonl\n";
    mull_write_file(config, wrong, sizeof wrong - 1);
    mull_run r = RUN("submit", "train", config, "--out", out, "--hold");
    assert_int_equal(r.status, 2);
    assert_int_equal(r.out_len, 0); /* no job */
    static const char *const words[] = {"line 2: learning_rat", "did you mean learning_rate?", "line 3: weight_decay"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strstr(r.err, words[i])) fail_msg("not said: %s\n%s", words[i], r.err);
    mull_run_fini(&r);
    static const char right[] = "model_path: m\ntrain_dataset_args:\n  mix_datas:\n    Messages: 1.0\n"
                                "  messages_location: rows.jsonl\n";
    mull_write_file(config, right, sizeof right - 1);
    expect_status(RUN("submit", "train", config, "--out", out, "--hold", "--set", "los_on=all"), 2);
    char after[64], later[400];
    snprintf(later, sizeof later, "%s/later", folder);
    r = RUN("submit", "train", config, "--out", out, "--hold");
    assert_int_equal(r.status, 0);
    snprintf(after, sizeof after, "afterok:%.*s", (int)strcspn(r.out, "\n"), r.out);
    mull_run_fini(&r);
    expect_status(RUN("submit", "generate", "--model", later, "--prompt", "x"), 2);
    expect_status(RUN("submit", "generate", "--model", later, "--prompt", "x", "--after", after), 0);
    expect_status(RUN("cancel", after + 8), 0);
}

static void completion_loads_in_bash(void **state) {
    (void)state;
    char *text = mull_run_ok(
        (const char *const[]){"/bin/bash", "-c",
                              "PATH='" MULL_BIN_DIR "':$PATH; eval \"$(mull completion bash)\" && "
                              "COMP_WORDS=(mull sub) COMP_CWORD=1; _mull; echo \"${COMPREPLY[*]}\"; "
                              "COMP_WORDS=(mull submit --max-n) COMP_CWORD=2; _mull; echo \"${COMPREPLY[*]}\"",
                              NULL},
        LIMIT_S);
    assert_string_equal(text, "submit\n--max-new-tokens\n");
    free(text);
}

static void doctor_sees_what_the_queue_suffers_from(void **state) {
    (void)state;
    json_t *node = mull_run_json((const char *const[]){MULL, "node", "ls", "--json", NULL}, LIMIT_S);
    const char *name = json_string_value(json_object_get(node, "name"));
    expect_status(RUN("doctor"), 0);
    expect_status(RUN("node", "drain", name), 0);
    mull_run r = RUN("doctor", "--json");
    assert_int_equal(r.status, 1); /* no node takes jobs */
    assert_non_null(strstr(r.out, "\"check\":\"drained\",\"status\":\"warn\""));
    assert_non_null(strstr(r.out, "mull node resume"));
    assert_non_null(strstr(r.out, "maxmemory-policy noeviction"));
    mull_run_fini(&r);
    char server[600];
    snprintf(server, sizeof server, "unix:%s/run/scheduler.sock", folder);
    setenv("MULL_SERVER", server, 1); /* the queue there, nothing of this machine */
    r = RUN("doctor");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.out, "answers; you are"));
    assert_null(strstr(r.out, "redis-server"));
    mull_run_fini(&r);
    setenv("MULL_SERVER", "unix:/nowhere/at/all", 1);
    r = RUN("doctor");
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.out, "does not answer"));
    mull_run_fini(&r);
    unsetenv("MULL_SERVER");
    expect_status(RUN("node", "resume", name), 0);
    expect_status(RUN("doctor"), 0);
    json_decref(node);
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_from_submit_to_its_answer),
        cmocka_unit_test(a_batch_in_order_with_its_bad_rows),
        cmocka_unit_test(a_failing_job_fails_its_waiter),
        cmocka_unit_test(held_cancelled_requeued),
        cmocka_unit_test(wrong_usage),
        cmocka_unit_test(recipes_at_submit),
        cmocka_unit_test(completion_loads_in_bash),
        cmocka_unit_test(doctor_sees_what_the_queue_suffers_from),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
