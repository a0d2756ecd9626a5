/* GRPO on several ranks, through mull-engine train --ranks: the same groups, rewards, advantages and steps as one rank
 * with as many prompts; exact resume after kills at the same world size; a rank that dies ends the others. */
#include "tests/engine/grpo_util.h"

#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define KEEP "save_steps=0", "lr_scheduler_type=constant"

typedef struct output {
    char dir[96], log[112], errors[112];
} output;

static output output_of(const fixture *f, const char *name) {
    output o;
    snprintf(o.dir, sizeof o.dir, "%s/%s", f->dir, name);
    snprintf(o.log, sizeof o.log, "%s.log", o.dir);
    snprintf(o.errors, sizeof o.errors, "%s.err", o.dir);
    return o;
}

/* Starts a run in a process group of its own. */
static pid_t start(const fixture *f, const output *o, int ranks, const char *const *sets, const char *last) {
    const char *args[64] = {"mull-engine", "train", f->config, "--out", o->dir, "--threads", "1", "--ranks"};
    char count[8];
    int n = 8;
    snprintf(count, sizeof count, "%d", ranks);
    args[n++] = count;
    for (int i = 0; sets[i]; i++) args[n++] = "--set", args[n++] = sets[i];
    if (last) args[n++] = "--set", args[n++] = last;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return pid;
    setpgid(0, 0);
    if (!freopen(o->log, "a", stdout) || !freopen(o->errors, "a", stderr)) _exit(126);
    execv(MULL_BIN_DIR "/mull-engine", (char *const *)(uintptr_t)args);
    _exit(127);
}

static int finish(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void good_ranks(const fixture *f, const output *o, int ranks, const char *const *sets) {
    remove_tree(o->dir);
    unlink(o->log);
    int status = finish(start(f, o, ranks, sets, NULL));
    if (status) {
        mull_buf why = file_bytes(f->dir, strrchr(o->errors, '/') + 1);
        fail_msg("%d ranks: status %d: %.*s", ranks, status, (int)why.len, why.data);
    }
}

static int lines(const output *o) {
    FILE *f = fopen(o->log, "r");
    int n = 0;
    for (int c; f && (c = getc(f)) != EOF;) n += c == '\n';
    if (f) fclose(f);
    return n;
}

static json_t *step_line(const output *o, int n) {
    FILE *f = fopen(o->log, "r");
    assert_non_null(f);
    char line[16384];
    for (int i = 0; i <= n; i++) assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    json_t *j = json_loads(line, JSON_ALLOW_NUL, NULL);
    assert_non_null(j);
    return j;
}

/* All completions of a run as mull-engine rollouts gives them, in order of step, prompt and sample. */
static int by_place(const void *a, const void *b) {
    static const char *const KEYS[] = {"step", "prompt", "sample"};
    for (int i = 0; i < 3; i++) {
        json_int_t x = json_integer_value(json_object_get(*(json_t *const *)a, KEYS[i])),
                   y = json_integer_value(json_object_get(*(json_t *const *)b, KEYS[i]));
        if (x != y) return x < y ? -1 : 1;
    }
    return 0;
}
static size_t completions(const output *o, json_t **to, size_t cap) {
    char cmd[256], *line = NULL;
    size_t n = 0, room = 0;
    snprintf(cmd, sizeof cmd, MULL_BIN_DIR "/mull-engine rollouts %s --json --limit 0", o->dir);
    FILE *p = popen(cmd, "r");
    assert_non_null(p);
    while (getline(&line, &room, p) > 0) {
        assert_true(n < cap);
        assert_non_null(to[n] = json_loads(line, JSON_ALLOW_NUL, NULL));
        n++;
    }
    free(line);
    assert_int_equal(pclose(p), 0);
    qsort(to, n, sizeof *to, by_place);
    return n;
}

static void close_to(const json_t *a, const json_t *b, const char *key, double bound) {
    double x = json_number_value(json_object_get(a, key)), y = json_number_value(json_object_get(b, key));
    if (!(fabs(x - y) <= bound * fmax(1, fabs(x)))) fail_msg("%s: %.9g and %.9g", key, x, y);
}

static void same_completions(const output *a, const output *b) {
    enum { CAP = 2048 };
    static json_t *x[CAP], *y[CAP];
    size_t n = completions(a, x, CAP), m = completions(b, y, CAP);
    assert_int_equal(n, m);
    assert_true(n > 0);
    for (size_t i = 0; i < n; i++) {
        static const char *const EQUAL[] = {"step", "prompt", "sample",   "index",  "question", "ids",
                                            "seed", "reward", "accuracy", "format", "external", "version"};
        for (size_t k = 0; k < sizeof EQUAL / sizeof *EQUAL; k++)
            if (!json_equal(json_object_get(x[i], EQUAL[k]), json_object_get(y[i], EQUAL[k])))
                fail_msg("completion %zu: %s differs", i, EQUAL[k]);
        close_to(x[i], y[i], "advantage", 1e-6);
        json_decref(x[i]);
        json_decref(y[i]);
    }
}

static double distance(const output *a, const output *b, int64_t step) {
    char x[128], y[128];
    mull_params p, q;
    mull_config c = {0};
    mull_error err = {0};
    mull_params_opts o = {0};
    snprintf(x, sizeof x, "%s/checkpoint-%d", a->dir, (int)step);
    snprintf(y, sizeof y, "%s/checkpoint-%d", b->dir, (int)step);
    assert_int_equal(mull_config_load(x, &c, &err), 0);
    assert_int_equal(mull_params_load(x, &c, &o, &p, &err), 0);
    assert_int_equal(mull_params_load(y, &c, &o, &q, &err), 0);
    double d = relative_l2(q.w, p.w, p.count, 1);
    mull_params_fini(&p);
    mull_params_fini(&q);
    mull_config_fini(&c);
    return d;
}

/* One rank with four prompts a step in two batches, or two with two batches of one, or with one of two. */
static void one_rank_or_two(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    static const struct {
        const char *zero, *set[3];
    } HOW[] = {{"zero_stage=0", {"loss_type=bnpo"}},
               {"zero_stage=1", {"loss_type=grpo", "num_iterations=2"}},
               {"zero_stage=2", {"loss_type=dapo", "scale_rewards=batch"}},
               {"zero_stage=3", {"loss_type=dr_grpo", "num_iterations=2", "steps_per_generation=2"}},
               {"zero_stage=3", {"grpo_tokens=all", "pack_tokens=100"}},
               {"zero_stage=1", {"freeze_vision=False", "pack_tokens=100"}},
               {"zero_stage=3", {"freeze_vision=False", "num_iterations=2"}}};
    for (size_t i = 0; i < sizeof HOW / sizeof *HOW; i++) {
        output one = output_of(&f, "one"), two = output_of(&f, "two");
        good_ranks(&f, &one, 1,
                   SETS(KEEP, "gradient_accumulation_steps=4", HOW[i].set[0],
                        HOW[i].set[1] ? HOW[i].set[1] : HOW[i].set[0], HOW[i].set[2] ? HOW[i].set[2] : HOW[i].set[0]));
        good_ranks(&f, &two, 2,
                   SETS(KEEP, HOW[i].zero, HOW[i].set[0], HOW[i].set[1] ? HOW[i].set[1] : HOW[i].set[0],
                        HOW[i].set[2] ? HOW[i].set[2] : HOW[i].set[0]));
        assert_int_equal(lines(&one), 4);
        assert_int_equal(lines(&two), 4);
        same_completions(&one, &two);
        for (int k = 0; k < 4; k++) {
            static const char *const KEYS[] = {"reward",           "reward_std", "reward_group_std", "reward_numerical",
                                               "reward_free_form", "format",     "reward_external",  "length",
                                               "length_max",       "truncated",  "zero_spread",      "staleness"};
            json_t *a = step_line(&one, k), *b = step_line(&two, k);
            for (size_t j = 0; j < sizeof KEYS / sizeof *KEYS; j++) close_to(a, b, KEYS[j], 1e-9);
            close_to(a, b, "loss", 1e-5);
            close_to(a, b, "kl", 1e-5);
            close_to(a, b, "entropy", 1e-5);
            close_to(a, b, "grad_norm", 1e-4);
            assert_true(json_number_value(json_object_get(b, "grad_norm")) > 0);
            json_decref(a);
            json_decref(b);
        }
        double d = distance(&one, &two, 4);
        print_message("%s %s, 1 rank against 2, weights after 4 steps: relative L2 %.2g\n", HOW[i].zero, HOW[i].set[0],
                      d);
        assert_true(d < 3e-5);
    }
    remove_tree(f.dir);
}

/* Whatever is kept where: the same bytes. One pack a step and rank, so that the stages add in one order. */
static void stages_are_equal(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    static const char *const HOW[][3] = {{"bf16=True", "lora_rank=0", "model.safetensors"},
                                         {"bf16=False", "lora_rank=0", "model.safetensors"},
                                         {"bf16=True", "lora_rank=4", "adapter_model.safetensors"}};
    static const char *const ZERO[] = {"zero_stage=0", "zero_stage=1", "zero_stage=2", "zero_stage=3"};
    for (size_t i = 0; i < 3; i++)
        for (int zero = 0; zero < 4; zero++) {
            char x[128], y[128];
            output first = output_of(&f, "first"), o = zero ? output_of(&f, "other") : first;
            good_ranks(&f, &o, 2, SETS(KEEP, ZERO[zero], HOW[i][0], HOW[i][1], "num_iterations=2"));
            snprintf(x, sizeof x, "%s/checkpoint-4", first.dir);
            snprintf(y, sizeof y, "%s/checkpoint-4", o.dir);
            same_file(x, y, HOW[i][2]);
            same_file(first.dir, o.dir, "rollouts/step-000000001.jsonl.zst");
        }
    remove_tree(f.dir);
}

/* Groups without spread are filled up over the ranks as one rank fills them up. */
static void resampled_together(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    const char *some = "reward_command=awk '{if ($0 ~ /long question/) print 1; else {n=split($0,x,\"a\");print "
                       "(n*7+length($0))%5}}'";
    output one = output_of(&f, "one"), two = output_of(&f, "two"), four = output_of(&f, "four");
    good_ranks(&f, &one, 1,
               SETS(KEEP, some, "reward_builtin=False", "dynamic_sampling=3", "gradient_accumulation_steps=4",
                    "learning_rate=1e-6", "max_steps=3", "loss_type=bnpo"));
    good_ranks(&f, &two, 2,
               SETS(KEEP, some, "reward_builtin=False", "dynamic_sampling=3", "learning_rate=1e-6", "max_steps=3",
                    "zero_stage=2", "loss_type=bnpo"));
    good_ranks(&f, &four, 4,
               SETS(KEEP, some, "reward_builtin=False", "dynamic_sampling=3", "learning_rate=1e-6", "max_steps=3",
                    "gradient_accumulation_steps=1", "zero_stage=3", "loss_type=bnpo"));
    same_completions(&one, &two);
    same_completions(&one, &four);
    double resampled = 0;
    for (int k = 0; k < 3; k++) {
        json_t *a = step_line(&one, k), *b = step_line(&two, k), *c = step_line(&four, k);
        static const char *const KEYS[] = {"resampled", "zero_spread", "reward", "length"};
        for (size_t j = 0; j < sizeof KEYS / sizeof *KEYS; j++) {
            close_to(a, b, KEYS[j], 1e-9);
            close_to(a, c, KEYS[j], 1e-9);
        }
        close_to(a, b, "loss", 1e-5);
        close_to(a, c, "loss", 1e-5);
        close_to(a, b, "grad_norm", 1e-4);
        close_to(a, c, "grad_norm", 1e-4);
        resampled += json_number_value(json_object_get(a, "resampled"));
        json_decref(a);
        json_decref(b);
        json_decref(c);
    }
    assert_true(resampled > 0);
    remove_tree(f.dir);
}

static void same_outcome(const output *a, const output *b, int64_t step, int shards, int rounds) {
    char x[160], y[160], name[64];
    snprintf(x, sizeof x, "%s/checkpoint-%d", a->dir, (int)step);
    snprintf(y, sizeof y, "%s/checkpoint-%d", b->dir, (int)step);
    same_file(x, y, "model.safetensors");
    same_file(x, y, "trainer_state.json");
    for (int r = 0; r < shards; r++) {
        snprintf(name, sizeof name, "optimizer-%05d-of-%05d.zst", r, shards);
        same_file(x, y, name);
    }
    for (int i = 0; i < rounds; i++) {
        snprintf(name, sizeof name, "rollouts/step-%09d.jsonl.zst", i);
        same_file(a->dir, b->dir, name);
    }
}

static void wait_lines(const output *o, int n) {
    for (int i = 0; i < 3000 && lines(o) < n; i++) nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    assert_true(lines(o) >= n);
}

/* Killed, then stopped by SIGTERM, then left alone: the same bytes as undisturbed. */
static void resume(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    const char *const *how = SETS("zero_stage=2", "bf16=True", "max_steps=8", "num_iterations=2");
    output whole = output_of(&f, "whole"), broken = output_of(&f, "broken");
    good_ranks(&f, &whole, 2, how);
    pid_t pid = start(&f, &broken, 2, how, "resume_from_checkpoint=true");
    wait_lines(&broken, 3);
    kill(-pid, SIGKILL);
    finish(pid);
    int had = lines(&broken);
    pid = start(&f, &broken, 2, how, "resume_from_checkpoint=true");
    wait_lines(&broken, had + 1);
    kill(pid, SIGTERM);
    int status = finish(pid);
    if (status != 75 && status != 0) fail_msg("stopped: status %d", status); /* 0: it was done already */
    assert_int_equal(finish(start(&f, &broken, 2, how, "resume_from_checkpoint=true")), 0);
    same_outcome(&whole, &broken, 8, 2, 4);
    remove_tree(f.dir);
}

/* The process ids of a process group's ranks, without its first. */
static int ranks_of(pid_t group, pid_t *to, int cap) {
    char cmd[64];
    int n = 0, pid;
    snprintf(cmd, sizeof cmd, "pgrep -g %d -P %d", (int)group, (int)group);
    FILE *p = popen(cmd, "r");
    assert_non_null(p);
    while (n < cap && fscanf(p, "%d", &pid) == 1) to[n++] = pid;
    pclose(p);
    return n;
}

/* A rank that is killed in the middle of rollouts or steps ends the run, without a checkpoint of a broken round. */
static void a_rank_dies(void **state) {
    (void)state;
    if (!mull_comm_available()) skip();
    fixture f;
    fixture_init(&f);
    for (int i = 0; i < 3; i++) {
        output o = output_of(&f, "dies");
        remove_tree(o.dir);
        unlink(o.log);
        pid_t rank[3], pid = start(&f, &o, 3, SETS(KEEP, "max_steps=4000", "zero_stage=3"), NULL);
        wait_lines(&o, 1 + i);
        nanosleep(&(struct timespec){.tv_nsec = 7000000L * (i + 1)}, NULL);
        assert_int_equal(ranks_of(pid, rank, 3), 3);
        kill(rank[i], SIGKILL);
        time_t before = time(NULL);
        assert_int_equal(finish(pid), 1);
        assert_true(time(NULL) - before < 60);
        assert_int_not_equal(kill(-pid, 0), 0); /* nobody is left */
        assert_null(mull_checkpoint_newest(o.dir));
    }
    remove_tree(f.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_rank_or_two), cmocka_unit_test(stages_are_equal),
                                       cmocka_unit_test(resampled_together), cmocka_unit_test(resume),
                                       cmocka_unit_test(a_rank_dies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
