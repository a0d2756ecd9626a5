/* `mull submit train --ranks 2` through the real commands: both ranks run on one slot; one is killed in the middle, the
 * attempt ends as the machine's fault, the next goes on from the last checkpoint, and the result is, byte for byte,
 * that of the same training by hand. */
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
enum { LIMIT_S = 240, STEPS = 60 };

static char *folder;

static void put(const char *path, const char *text) {
    mull_write_file(path, text, strlen(text));
}

/* The engine process of this rank of a job under our state folder; 0 when there is none. */
static pid_t find_rank(int rank) {
    char want[32], path[300];
    snprintf(want, sizeof want, "MULL_RANK=%d", rank);
    DIR *d = opendir("/proc");
    pid_t found = 0;
    for (struct dirent *e; d && !found && (e = readdir(d));) {
        pid_t pid = (pid_t)strtol(e->d_name, NULL, 10);
        size_t n = 0;
        if (pid <= 0) continue;
        snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
        char *env = mull_slurp(path, &n);
        bool ours = false, its = false;
        for (size_t i = 0; env && i < n; i += strlen(env + i) + 1) {
            ours |= !strncmp(env + i, "MULL_RENDEZVOUS=", 16) && !strncmp(env + i + 16, folder, strlen(folder));
            its |= !strcmp(env + i, want);
        }
        free(env);
        snprintf(path, sizeof path, "/proc/%d/comm", (int)pid);
        char *comm = mull_slurp(path, NULL);
        if (ours && its && comm && !strcmp(comm, "mull-engine\n")) found = pid;
        free(comm);
    }
    if (d) closedir(d);
    return found;
}

static bool a_checkpoint_is_there(void *out) {
    char path[400];
    snprintf(path, sizeof path, "%s/checkpoint-10/trainer_state.json", (const char *)out);
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

static void killed_and_continued(void **state) {
    (void)state;
    char model[300], rows[300], config[300], out[300], hand[300], text[4096] = "", line[256];
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", folder);
    snprintf(config, sizeof config, "%s/c.yaml", folder);
    snprintf(out, sizeof out, "%s/out", folder);
    snprintf(hand, sizeof hand, "%s/hand", folder);
    free(mull_run_ok((const char *const[]){ENGINE, "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    for (int i = 0; i < 8; i++) {
        snprintf(line, sizeof line,
                 "{\"messages\":[{\"role\":\"user\",\"content\":\"How many is %d?\"},"
                 "{\"role\":\"assistant\",\"content\":\"<answer>%d</answer>\"}]}\n",
                 i, i);
        strcat(text, line);
    }
    put(rows, text);
    snprintf(text, sizeof text,
             "model_path: %s\nfreeze_vision: True\nlearning_rate: 0.002\nper_device_train_batch_size: 2\n"
             "save_steps: 5\nmax_steps: %d\nzero_stage: 3\n"
             "train_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n",
             model, STEPS, rows);
    put(config, text);
    mull_run r =
        mull_run_command((const char *const[]){ENGINE, "train", config, "--out", hand, "--ranks", "2", NULL}, LIMIT_S);
    if (r.status == 1 && strstr(r.err, "has no library for collectives")) {
        mull_run_fini(&r);
        skip();
    }
    if (r.status) fail_msg("by hand: %d: %s", r.status, r.err);
    mull_run_fini(&r);

    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:1", "--json", NULL}, LIMIT_S));
    r = RUN("submit", "train", config, "--out", out, "--ranks", "2", "--json");
    if (r.status) fail_msg("submit: %s", r.err);
    json_t *j = json_loads(r.out, 0, NULL);
    const json_t *got = json_object_get(j, "id");
    char id[32];
    if (json_is_string(got))
        snprintf(id, sizeof id, "%s", json_string_value(got));
    else
        snprintf(id, sizeof id, "%lld", (long long)json_integer_value(got));
    json_decref(j);
    mull_run_fini(&r);
    assert_true(mull_wait_for(a_checkpoint_is_there, out, LIMIT_S * 1000));
    pid_t victim = find_rank(1);
    if (!victim) fail_msg("rank 1 is not there any more");
    kill(victim, SIGKILL);
    r = RUN("wait", id, "--quiet");
    if (r.status) fail_msg("wait: %d", r.status);
    mull_run_fini(&r);
    static const char *const FILES[] = {"model.safetensors", "optimizer-00000-of-00002.zst",
                                        "optimizer-00001-of-00002.zst"};
    for (int i = 0; i < 3; i++) same(out, hand, FILES[i]);
    /* Two attempts, the first the machine's fault; every step was recorded once however often it was done. */
    j = mull_run_json((const char *const[]){MULL, "show", id, "--json", NULL}, LIMIT_S);
    const json_t *attempts = json_object_get(j, "attempts");
    assert_int_equal(json_array_size(attempts), 2);
    int infra = 0;
    for (size_t i = 0; i < 2; i++) {
        const char *class_ = json_string_value(json_object_get(json_array_get(attempts, i), "class"));
        infra += class_ && !strcmp(class_, "infra");
    }
    assert_int_equal(infra, 1);
    json_decref(j);
}

static int start(void **state) {
    (void)state;
    folder = mull_temp_folder("ranks");
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(killed_and_continued)};
    return cmocka_run_group_tests(tests, start, stop);
}
