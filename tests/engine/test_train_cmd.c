/* mull-engine train as a process: a recipe with text and pictures, killed and stopped on the way, ends as an
 * undisturbed run does, byte for byte; what it wrote answers. */
#include "tests/engine/train_cmd_util.h"

#include "engine/comm/comm.h"

#include <signal.h>
#include <time.h>

static void nap(long ms) {
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* Waits until the run has written so many lines, or ended. */
static void wait_lines(const place *p, pid_t pid, int want) {
    for (int i = 0; i < 6000; i++) {
        FILE *f = fopen(p->log, "r");
        int n = 0, c;
        while (f && (c = fgetc(f)) != EOF) n += c == '\n';
        if (f) fclose(f);
        siginfo_t info = {0};
        if (n >= want || (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)) return;
        nap(5);
    }
    fail_msg("the run did not write %d lines", want);
}

static void disturbed_equals_undisturbed(void **state) {
    (void)state;
    place p;
    place_init(&p);
    char whole[128], broken[128], a[160], b[160];
    snprintf(whole, sizeof whole, "%s/whole", p.dir);
    snprintf(broken, sizeof broken, "%s/broken", p.dir);
    int lines;
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", whole, NULL}), 0);
    json_t *j = last_line(&p, &lines);
    assert_int_equal(lines, STEPS);
    static const char *const KEYS[] = {"step", "loss",   "ce",    "cos", "grad_norm",
                                       "lr",   "tokens", "tok_s", "mfu", "peak_bytes"};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) assert_non_null(json_object_get(j, KEYS[i]));
    assert_int_equal(json_integer_value(json_object_get(j, "step")), STEPS);
    json_decref(j);

    /* With features from a cache too: they are the tower's. */
    char cache[160];
    snprintf(cache, sizeof cache, "feature_cache=%s/features", p.dir);
    const char *const again[] = {
        "mull-engine", "train", p.config, "--out", broken, "--set", "resume_from_checkpoint=true",
        "--set",       cache,   NULL};
    pid_t pid = start(&p, again);
    wait_lines(&p, pid, 5);
    kill(pid, SIGKILL);
    finish(pid);
    pid = start(&p, again);
    wait_lines(&p, pid, 2);
    kill(pid, SIGTERM);
    int status = finish(pid);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 75 || WEXITSTATUS(status) == 0));
    assert_int_equal(run(&p, again), 0);
    snprintf(a, sizeof a, "%s/checkpoint-%d", whole, STEPS);
    snprintf(b, sizeof b, "%s/checkpoint-%d", broken, STEPS);
    same_file(a, b, "model.safetensors");
    same_file(a, b, "optimizer-00000-of-00001.zst");
    same_file(a, b, "trainer_state.json");
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "generate", "--model", b, "--prompt", "How many is 3?",
                                              "--max-new-tokens", "4", "--json", NULL}),
                     0);
    json_decref(last_line(&p, &lines));
    assert_int_equal(lines, 1);
    remove_tree(p.dir);
}

static void wrong_recipes(void **state) {
    (void)state;
    place p;
    place_init(&p);
    char out[128];
    snprintf(out, sizeof out, "%s/out", p.dir);
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--dry-run", NULL}), 0);
    int lines;
    json_t *j = last_line(&p, &lines);
    assert_true(json_integer_value(json_object_get(j, "trainable")) > 0);
    assert_int_equal(json_integer_value(json_object_get(j, "steps")), STEPS);
    json_decref(j);
    static const char *const SETS[] = {"learning_rat=1", "model_path=/nowhere", "freeze=model.layer.*",
                                       "resume_from_checkpoint=/nowhere", "messages_location=/nowhere.jsonl"};
    for (size_t i = 0; i < sizeof SETS / sizeof *SETS; i++) {
        int rc = run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", out, "--set", SETS[i], NULL});
        if (rc != 1 && rc != 2) fail_msg("%s: exit %d", SETS[i], rc);
    }
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, NULL}), 2);
    remove_tree(p.dir);
}

/* A job of kind train through mull-engine run: every step is a metric, every checkpoint an event, the result names the
 * last one; run again, it goes on from there and has nothing left to do. */
static void job_events(void **state) {
    (void)state;
    place p;
    place_init(&p);
    char spec[512], path[96], out[96], line[8192];
    snprintf(out, sizeof out, "%s/out", p.dir);
    snprintf(path, sizeof path, "%s/spec.json", p.dir);
    snprintf(spec, sizeof spec,
             "{\"kind\":\"train\",\"job\":\"7\",\"config\":\"%s\",\"out\":\"%s\",\"set\":[\"save_steps=2\"],"
             "\"max_steps\":5}",
             p.config, out);
    put(path, spec);
    for (int round = 0; round < 2; round++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
            int in = open(path, O_RDONLY), ev = open(p.log, O_WRONLY | O_CREAT | O_TRUNC, 0666),
                none = open("/dev/null", O_WRONLY);
            dup2(in, STDIN_FILENO);
            dup2(none, STDOUT_FILENO);
            dup2(none, STDERR_FILENO);
            if (ev != 3) dup2(ev, 3);
            execl(MULL_BIN_DIR "/mull-engine", "mull-engine", "run", (char *)NULL);
            _exit(127);
        }
        int status = finish(pid), metrics = 0, checkpoints = 0, results = 0, runs = 0;
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        FILE *f = fopen(p.log, "r");
        assert_non_null(f);
        while (fgets(line, sizeof line, f)) {
            json_t *j = json_loads(line, 0, NULL);
            assert_non_null(j);
            const char *ev = json_string_value(json_object_get(j, "ev"));
            assert_non_null(ev);
            if (!strcmp(ev, "run")) {
                assert_int_equal(strlen(json_string_value(json_object_get(json_object_get(j, "hashes"), "data"))), 64);
                runs++;
            } else if (!strcmp(ev, "metrics")) {
                const json_t *keys = json_object_get(j, "keys"), *steps = json_object_get(j, "steps");
                assert_string_equal(json_string_value(json_array_get(keys, 0)), "loss");
                for (size_t i = 0; i < json_array_size(steps); i++) {
                    const json_t *row = json_array_get(json_object_get(j, "values"), i);
                    assert_int_equal(json_integer_value(json_array_get(steps, i)), ++metrics);
                    assert_int_equal(json_array_size(row), json_array_size(keys));
                    assert_true(json_number_value(json_array_get(row, 0)) > 0);
                }
            } else if (!strcmp(ev, "checkpoint")) {
                const char *at = json_string_value(json_object_get(j, "path"));
                assert_non_null(at); /* retention may have removed it since */
                assert_true(metrics >= json_integer_value(json_object_get(j, "step"))); /* its steps came before it */
                assert_true(json_array_size(json_object_get(j, "files")) >= 4);
                checkpoints++;
            } else if (!strcmp(ev, "result")) {
                results++;
            }
            json_decref(j);
        }
        fclose(f);
        assert_int_equal(metrics, round ? 0 : 5);
        assert_int_equal(checkpoints, round ? 0 : 3);
        assert_int_equal(results, 1);
        assert_int_equal(runs, 1);
    }
    remove_tree(p.dir);
}

/* The losses of a log, by step. */
static int losses(const place *p, double *out, int max) {
    FILE *f = fopen(p->log, "r");
    assert_non_null(f);
    char line[8192];
    int n = 0;
    for (; fgets(line, sizeof line, f); n++) {
        json_t *j = json_loads(line, 0, NULL);
        assert_non_null(j);
        assert_true(n < max && json_integer_value(json_object_get(j, "step")) == n + 1);
        out[n] = json_number_value(json_object_get(j, "loss"));
        json_decref(j);
    }
    fclose(f);
    return n;
}

/* The last child of a process that has two. */
static pid_t second_child(pid_t pid) {
    char path[64], line[256] = "";
    int a, b;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pid, (int)pid);
    for (int i = 0; i < 2000; i++, nap(5)) {
        FILE *f = fopen(path, "r");
        bool got = f && fgets(line, sizeof line, f) && sscanf(line, "%d %d", &a, &b) == 2;
        if (f) fclose(f);
        if (got) return b;
    }
    fail_msg("process %d has no two children", (int)pid);
    return -1;
}

/* --ranks 2: one line a step, the samples of one rank with twice the accumulation, exact resume, and an end when a rank
 * is killed. */
static void two_ranks(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    place p;
    place_init(&p);
    char one[128], whole[128], broken[128], a[160], b[160];
    snprintf(one, sizeof one, "%s/one", p.dir);
    snprintf(whole, sizeof whole, "%s/whole", p.dir);
    snprintf(broken, sizeof broken, "%s/broken", p.dir);
    double want[STEPS], got[STEPS];
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", one, "--set",
                                              "gradient_accumulation_steps=4", NULL}),
                     0);
    assert_int_equal(losses(&p, want, STEPS), STEPS);
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", whole, "--ranks", "2", NULL}),
                     0);
    assert_int_equal(losses(&p, got, STEPS), STEPS);
    /* float32 sums in another order, and what AdamW makes of it in fourteen steps. */
    for (int i = 0; i < STEPS; i++)
        if (!(fabs(got[i] - want[i]) <= 1e-4 * fabs(want[i])))
            fail_msg("step %d: %.9g with two ranks, %.9g with one", i + 1, got[i], want[i]);

    const char *const again[] = {
        "mull-engine", "train", p.config, "--out", broken, "--ranks", "2", "--set", "resume_from_checkpoint=true",
        NULL};
    pid_t pid = start(&p, again);
    wait_lines(&p, pid, 5);
    kill(second_child(pid), SIGKILL);
    int status = finish(pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    pid = start(&p, again);
    wait_lines(&p, pid, 2);
    kill(pid, SIGTERM);
    status = finish(pid);
    assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 75 || WEXITSTATUS(status) == 0));
    assert_int_equal(run(&p, again), 0);
    snprintf(a, sizeof a, "%s/checkpoint-%d", whole, STEPS);
    snprintf(b, sizeof b, "%s/checkpoint-%d", broken, STEPS);
    same_file(a, b, "model.safetensors");
    same_file(a, b, "optimizer-00000-of-00002.zst");
    same_file(a, b, "optimizer-00001-of-00002.zst");
    /* What all ranks would stumble over is told before there are any. */
    int rc = run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", broken, "--ranks", "2", "--set",
                                      "learning_rat=1", NULL});
    assert_true(rc == 1 || rc == 2);
    remove_tree(p.dir);
}

int main(void) {
    if (access(MULL_BIN_DIR "/mull-engine", X_OK)) {
        printf("skipped: mull-engine is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(disturbed_equals_undisturbed), cmocka_unit_test(wrong_recipes),
                                       cmocka_unit_test(job_events), cmocka_unit_test(two_ranks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
