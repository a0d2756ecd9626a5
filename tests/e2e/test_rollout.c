/* GRPO with rollout jobs through the queue: a training job and an array of two rollout tasks that were submitted before
 * it; the engine of one task is killed in the middle, and the whole array is preempted of it by nobody else's doing.
 * All end by themselves, and the weights are, byte for byte, those of the trainer that answers itself. */
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define ENGINE MULL_BIN_DIR "/mull-engine"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
enum { LIMIT_S = 240, STEPS = 12 };

static char *folder;

static void put(const char *path, const char *text) {
    mull_write_file(path, text, strlen(text));
}

/* An engine that answers for a task of the array; 0 when there is none. */
static pid_t find_engine(const char *array_index) {
    char want[40], path[300];
    snprintf(want, sizeof want, "MULL_ARRAY_INDEX=%s", array_index);
    DIR *d = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        size_t n = 0;
        if (pid <= 0) continue;
        snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
        char *env = mull_slurp(path, &n);
        char cwd[400];
        snprintf(path, sizeof path, "/proc/%d/cwd", (int)pid);
        ssize_t len = readlink(path, cwd, sizeof cwd);
        bool ours = len > (ssize_t)strlen(folder) && !strncmp(cwd, folder, strlen(folder)), its = false;
        for (size_t i = 0; env && i < n; i += strlen(env + i) + 1) its |= !strcmp(env + i, want);
        free(env);
        snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
        char *comm = mull_slurp(path, NULL);
        if (ours && its && comm && !strcmp(comm, "mull-engine\n")) found = pid;
        free(comm);
    }
    if (d) closedir(d);
    return found;
}

static bool rounds_are_done(void *out) {
    char path[400];
    snprintf(path, sizeof path, "%s/rollouts/step-%09d.jsonl.zst", (const char *)out, 2);
    return access(path, R_OK) == 0;
}

static void same(const char *a, const char *b, const char *name) {
    char path[2][500];
    size_t n[2];
    snprintf(path[0], sizeof path[0], "%s/checkpoint-%d/%s", a, STEPS, name);
    snprintf(path[1], sizeof path[1], "%s/checkpoint-%d/%s", b, STEPS, name);
    char *x = mull_slurp(path[0], &n[0]), *y = mull_slurp(path[1], &n[1]);
    if (!x || !y || n[0] != n[1] || memcmp(x, y, n[0])) fail_msg("%s differs from %s", path[0], path[1]);
    free(x);
    free(y);
}

static void id_of(mull_run *r, char id[24]) {
    if (r->status) fail_msg("submit: %d: %s", r->status, r->err);
    snprintf(id, 24, "%.*s", (int)strcspn(r->out, "\n"), r->out);
    mull_run_fini(r);
}

static int points(const char *id, const char *key) {
    mull_run r = RUN("metrics", id, "--key", key, "--json");
    int n = 0;
    for (const char *p = r.out; (p = strstr(p, "\"value\"")); p++) n++;
    if (r.status) fail_msg("%s of %s: %s", key, id, r.err);
    mull_run_fini(&r);
    return n;
}

static void recipe(char config[300]) {
    char model[300], rows[300], text[4096] = "", line[256];
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", folder);
    snprintf(config, 300, "%s/c.yaml", folder);
    free(mull_run_ok((const char *const[]){ENGINE, "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    for (int i = 0; i < 8; i++) {
        snprintf(line, sizeof line,
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"How many is %d?\"}],\"problem_type\":\"numerical\","
                 "\"solution\":\"<answer>%d</answer>\"}\n",
                 i, i);
        strcat(text, line);
    }
    put(rows, text);
    snprintf(text, sizeof text,
             "model_path: %s\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 1\nsave_steps: 4\n"
             "max_steps: %d\nnum_generations: 4\nmax_completion_length: 24\nlearning_rate: 0.003\nbf16: False\n"
             "reward_command: awk '{n=split($0,x,\"a\");print (n*7+length($0))%%5}'\n"
             "train_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n"
             "  mmlatent_mode_stage2: True\n  mmlatent_rl_mode: True\n",
             model, STEPS, rows);
    put(config, text);
}

static void answered_by_two_tasks(void **state) {
    (void)state;
    char config[300], out[300], hand[300], train[24], rollouts[24];
    recipe(config);
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(hand, sizeof hand, "%s/hand", folder);
    free(mull_run_ok((const char *const[]){ENGINE, "train", config, "--out", hand, NULL}, LIMIT_S));

    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:3", "--json", NULL}, LIMIT_S));
    /* Wrong keys are found before anything is queued. */
    mull_run r = RUN("submit", "train", config, "--out", out, "--set", "rollout_mode=disagregated");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "colocate|disaggregated"));
    mull_run_fini(&r);
    r = RUN("submit", "rollout", out, "--idle-timout", "5");
    assert_int_equal(r.status, 2);
    assert_non_null(strstr(r.err, "--idle-timeout"));
    mull_run_fini(&r);
    r = RUN("submit", "rollout");
    assert_true(r.status != 0 && strstr(r.err, "out"));
    mull_run_fini(&r);

    r = RUN("submit", "rollout", out, "--shards", "2", "--idle-timeout", "200");
    id_of(&r, rollouts);
    r = RUN("submit", "train", config, "--out", out, "--set", "rollout_mode=disaggregated", "--set",
            "rollout_groups=1");
    id_of(&r, train);
    assert_true(mull_wait_for(rounds_are_done, out, LIMIT_S * 1000));
    pid_t victim = find_engine("1");
    if (!victim) fail_msg("task 1 does not answer");
    kill(victim, SIGKILL);
    r = RUN("wait", train, "--quiet");
    if (r.status) fail_msg("train: %d", r.status);
    mull_run_fini(&r);
    r = RUN("wait", rollouts, "--quiet");
    if (r.status) fail_msg("rollout: %d", r.status);
    mull_run_fini(&r);
    same(out, hand, "model.safetensors");
    same(out, hand, "optimizer-00000-of-00001.zst");

    assert_int_equal(points(train, "staleness"), STEPS);
    assert_int_equal(points(train, "wait_share"), STEPS);
    assert_int_equal(points(train, "train_tok_s"), STEPS);
    /* Four shards a step, each told of once, whoever made it; what the killed engine had not told yet may be missing.
     */
    char task[2][40];
    for (int i = 0; i < 2; i++) snprintf(task[i], sizeof task[i], "%s_%d", rollouts, i);
    int told = points(task[0], "rollout_tok_s") + points(task[1], "rollout_tok_s");
    assert_in_range(told, STEPS * 4 - 8, STEPS * 4);
    /* The killed engine was the machine's fault, and tried again. */
    json_t *j = mull_run_json((const char *const[]){MULL, "show", task[1], "--json", NULL}, LIMIT_S);
    assert_int_equal(json_array_size(json_object_get(j, "attempts")), 2);
    json_decref(j);

    /* For a training job by its id; one that is done needs nobody. */
    r = RUN("submit", "rollout", train, "--wait");
    if (r.status) fail_msg("rollout %s: %d: %s", train, r.status, r.err);
    mull_run_fini(&r);
    r = RUN("submit", "rollout", rollouts);
    assert_int_equal(r.status, 1);
    assert_non_null(strstr(r.err, "does not train"));
    mull_run_fini(&r);
    r = RUN("rollouts", train, "--step", "-1");
    assert_true(!r.status && strstr(r.out, "How many is"));
    mull_run_fini(&r);
}

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("rollout");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_run r = RUN("down");
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    return 0;
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(answered_by_two_tasks)};
    return cmocka_run_group_tests(tests, start, stop);
}
