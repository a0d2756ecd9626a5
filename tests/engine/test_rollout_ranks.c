/* Rollout jobs for a trainer of several ranks: without lag the bytes are those of the ranks that answer themselves,
 * also when jobs and the trainer are killed on the way; with lag they do not depend on how many jobs there are. */
#include "tests/engine/rollout_util.h"

#include <time.h>

/* Starts a trainer of two ranks in a process group of its own; its lines go to DIR.lines. */
static pid_t start_ranks(const fixture *f, const char *out, const char *const *sets) {
    const char *args[64] = {"mull-engine", "train", f->config, "--out", out, "--threads", "1", "--ranks", "2"};
    char log[112], errors[112];
    int n = 9;
    for (int i = 0; sets[i]; i++) args[n++] = "--set", args[n++] = sets[i];
    snprintf(log, sizeof log, "%s.lines", out);
    snprintf(errors, sizeof errors, "%s.errors", out);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    setpgid(0, 0);
    if (!freopen(log, "a", stdout) || !freopen(errors, "a", stderr)) _exit(126);
    execv(MULL_BIN_DIR "/mull-engine", (char *const *)(uintptr_t)args);
    _exit(127);
}

static void ends_well(const fixture *f, const char *out, pid_t pid) {
    char name[64];
    int status = status_of(pid);
    if (!status) return;
    snprintf(name, sizeof name, "%s.errors", strrchr(out, '/') + 1);
    mull_buf why = file_bytes(f->dir, name);
    fail_msg("status %d: %.*s", status, (int)why.len, why.data);
}

static int lines(const char *out) {
    char log[112];
    snprintf(log, sizeof log, "%s.lines", out);
    FILE *f = fopen(log, "r");
    int n = 0;
    for (int c; f && (c = getc(f)) != EOF;) n += c == '\n';
    if (f) fclose(f);
    return n;
}

static void same_end(const char *a, const char *b, int step, int shards, bool adapters) {
    char x[128], y[128], name[40];
    snprintf(x, sizeof x, "%s/checkpoint-%d", a, step);
    snprintf(y, sizeof y, "%s/checkpoint-%d", b, step);
    same_file(x, y, adapters ? "adapter_model.safetensors" : "model.safetensors");
    for (int i = 0; i < shards; i++) {
        snprintf(name, sizeof name, "optimizer-%05d-of-%05d.zst", i, shards);
        same_file(x, y, name);
    }
    same_samples(a, b);
}

#define SET(...) ((const char *const[]){__VA_ARGS__, NULL})

static void as_ranks_that_answer(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    static const char *const HOW[][3] = {{"zero_stage=0", "num_iterations=2", "seed=5"},
                                         {"zero_stage=1", "bf16=True", "lora_rank=4"},
                                         {"zero_stage=2", "bf16=True", "dynamic_sampling=2"},
                                         {"zero_stage=3", "bf16=True", "freeze_vision=False"},
                                         {"zero_stage=3", "steps_per_generation=2", "seed=6"}};
    char self[96], jobs[96];
    for (size_t i = 0; i < sizeof HOW / sizeof *HOW; i++) {
        snprintf(self, sizeof self, "%s/self-%d", f.dir, (int)i);
        snprintf(jobs, sizeof jobs, "%s/jobs-%d", f.dir, (int)i);
        ends_well(&f, self, start_ranks(&f, self, SET(HOW[i][0], HOW[i][1], HOW[i][2], "max_steps=4")));
        pid_t job[2] = {start_job(jobs), start_job(jobs)};
        /* Three prompts a shard would cross the ranks' border of four: it becomes two. */
        ends_well(&f, jobs, start_ranks(&f, jobs, SET(JOBS, HOW[i][0], HOW[i][1], HOW[i][2], "max_steps=4")));
        for (int k = 0; k < 2; k++) assert_int_equal(status_of(job[k]), 0);
        assert_int_equal(lines(jobs), 4);
        same_end(self, jobs, 4, i ? 2 : 1, i == 1);
    }
    remove_tree(f.dir);
}

/* The trainer dies as a whole, jobs die now and then; with and without lag the end is that of an undisturbed run. */
static void kills(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    char calm[96], wild[96];
    for (int lag = 0; lag < 2; lag++) {
        const char *const *sets = SET(JOBS, lag ? "max_staleness=2" : "max_staleness=0", "max_steps=8", "save_steps=2",
                                      "zero_stage=2", "resume_from_checkpoint=true", "max_completion_length=32");
        snprintf(calm, sizeof calm, "%s/calm-%d", f.dir, lag);
        snprintf(wild, sizeof wild, "%s/wild-%d", f.dir, lag);
        pid_t job = start_job(calm);
        ends_well(&f, calm, start_ranks(&f, calm, sets));
        assert_int_equal(status_of(job), 0);
        job = start_job(wild);
        int had = 0;
        for (int round = 0; round < 3; round++) {
            pid_t trainer = start_ranks(&f, wild, sets);
            for (int i = 0; i < 3000 && lines(wild) < had + 1 + round; i++)
                nanosleep(&(struct timespec){0, 10000000}, NULL);
            assert_true(lines(wild) > had);
            had = lines(wild);
            kill(job, SIGKILL);
            assert_int_equal(status_of(job), 128 + SIGKILL);
            job = start_job(wild);
            nanosleep(&(struct timespec){0, 20000000L * round}, NULL);
            kill(-trainer, SIGKILL);
            status_of(trainer);
        }
        ends_well(&f, wild, start_ranks(&f, wild, sets));
        assert_int_equal(status_of(job), 0);
        same_end(calm, wild, 8, 2, false);
    }
    remove_tree(f.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_ranks_that_answer), cmocka_unit_test(kills)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
