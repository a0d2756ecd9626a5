/* Rollout jobs beside a trainer: without lag the weights are, bit for bit, those of the trainer that answers itself;
 * with lag they are the same however many jobs there are and whatever is killed or lost; and files that are not what
 * they should be are set aside and made again. The jobs are real processes, as the worker starts them. */
#include "tests/engine/rollout_util.h"

#include "engine/train/rollout_exchange.h"
#include "engine/train/rollout_shard.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { JOBS_MAX = 3 };

/* Trains in out with so many rollout jobs, which all end by themselves with status 0. */
static void with_jobs(const fixture *f, const char *out, int jobs, int threads, run *r, const char *const *sets) {
    pid_t pid[JOBS_MAX];
    for (int i = 0; i < jobs; i++) pid[i] = start_job(out);
    good(f, out, threads, r, sets);
    for (int i = 0; i < jobs; i++) assert_int_equal(status_of(pid[i]), 0);
}

static const char *const OVER[] = {"max_steps=4",     "num_iterations=2",   "dynamic_sampling=2",
                                   "bf16=True",       "lora_rank=4",        "steps_per_generation=2",
                                   "grpo_tokens=all", "freeze_vision=False"};

static void same_weights(const char *a, const char *b, int64_t step, bool adapters) {
    char x[160], y[160];
    snprintf(x, sizeof x, "%s/checkpoint-%lld", a, (long long)step);
    snprintf(y, sizeof y, "%s/checkpoint-%lld", b, (long long)step);
    same_file(x, y, adapters ? "adapter_model.safetensors" : "model.safetensors");
    same_file(x, y, "optimizer-00000-of-00001.zst");
}

/* max_staleness 0 is the loop that answers itself: same completions, same weights, whatever the setting. */
static void without_lag_nothing_changes(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run a, b;
    char self[96], jobs[96];
    for (size_t i = 0; i < sizeof OVER / sizeof *OVER; i++) {
        snprintf(self, sizeof self, "%s/self-%d", f.dir, (int)i);
        snprintf(jobs, sizeof jobs, "%s/jobs-%d", f.dir, (int)i);
        good(&f, self, 2, &a, SETS(OVER[i], "max_steps=4"));
        with_jobs(&f, jobs, 1 + (int)i % 2, 2, &b, SETS(OVER[i], "max_steps=4", JOBS));
        assert_int_equal(a.n, b.n);
        for (int k = 0; k < a.n; k++) {
            assert_true(a.step[k].loss == b.step[k].loss && a.step[k].grad_norm == b.step[k].grad_norm);
            assert_true(a.f[k].reward == b.f[k].reward && a.f[k].staleness == b.f[k].staleness);
            assert_true(b.f[k].wait_share >= 0 && b.f[k].wait_share <= 1);
        }
        same_weights(self, jobs, 4, i == 4);
        same_samples(self, jobs);
        /* A finished run keeps no policies and no shards. */
        char exchange[120];
        snprintf(exchange, sizeof exchange, "%s/exchange", jobs);
        DIR *d = opendir(exchange);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] != '.' && strcmp(e->d_name, "run.json")) fail_msg("%s is left", e->d_name);
        closedir(d);
    }
    remove_tree(f.dir);
}

/* With lag: the bound is kept and reached, answers are weighted for it, and the result is a function of the
 * recipe alone. */
static void lag_is_bounded_and_exact(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run a, b;
    char one[96], three[96];
    const char *const *sets = SETS(JOBS, "max_staleness=2", "max_steps=6", "save_steps=3");
    out_of(&f, "one", one);
    out_of(&f, "three", three);
    with_jobs(&f, one, 1, 2, &a, sets);
    with_jobs(&f, three, 3, 1, &b, sets);
    assert_int_equal(a.n, 6);
    for (int k = 0; k < a.n; k++) {
        assert_true(a.f[k].staleness == (k < 2 ? k : 2) && a.f[k].staleness_max == a.f[k].staleness);
        /* The first round is fresh: measured against the trainer's forward; later ones have weights instead. */
        assert_true(k ? isnan(a.f[k].mismatch) && a.f[k].importance > 0 : a.f[k].mismatch_max <= 1e-4);
        assert_true(k < 1 || fabs(a.f[k].importance - 1) > 1e-7);
    }
    same_weights(one, three, 6, false);
    same_samples(one, three);
    remove_tree(f.dir);
}

/* The weights of stale tokens are constants: where all are at the cap, the gradient is the cap's multiple, and without
 * KL there is nothing else. */
static void weights_scale_the_gradient(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r[3];
    static const char *const CAP[] = {"importance_cap=0.001", "importance_cap=0.002", "importance_cap=0"};
    char out[96];
    for (int i = 0; i < 3; i++) {
        snprintf(out, sizeof out, "%s/cap-%d", f.dir, i);
        with_jobs(&f, out, 1, 2, &r[i], SETS(JOBS, "max_staleness=1", "max_steps=2", "no_ref_model=True", CAP[i]));
        assert_true(isnan(r[i].f[0].importance) && r[i].step[0].grad_norm == r[0].step[0].grad_norm);
    }
    const mull_grpo_figures *a = &r[0].f[1], *b = &r[1].f[1], *c = &r[2].f[1];
    assert_true(a->importance_capped == 1 && b->importance_capped == 1 && c->importance_capped == 0);
    assert_true(fabs(a->importance - 0.001) < 1e-12 && fabs(b->importance - 0.002) < 1e-12);
    double one = r[0].step[1].grad_norm, two = r[1].step[1].grad_norm;
    assert_true(one > 0 && fabs(two / one - 2) < 1e-4);
    /* Uncapped they average one over what was sampled, up to what so few tokens say. */
    assert_true(fabs(c->importance - 1) < 0.5 && r[2].step[1].grad_norm > 100 * one);
    assert_true(mull_grpo_importance(-1, -2, 2) == 2 && mull_grpo_importance(-2, -1, 2) == exp(-1) &&
                mull_grpo_importance(-1, -2, 0) == exp(1));
    remove_tree(f.dir);
}

/* ---- kills */
typedef struct chaos {
    const char *out;
    pid_t job;
    int kills, aside;
    int64_t spoil_next; /* loader step; -1: none */
    unsigned seed;
} chaos;

/* A shard of a step whose turn has not come, once it is there: lost, or damaged in the middle. */
static void spoil(const char *out, int64_t step, bool lose) {
    char path[160];
    struct stat st;
    snprintf(path, sizeof path, "%s/exchange/rollout-%09lld-00001.zst", out, (long long)step);
    for (int i = 0; access(path, R_OK) && i < 3000; i++) nanosleep(&(struct timespec){0, 10000000}, NULL);
    if (lose) {
        assert_int_equal(unlink(path), 0);
        return;
    }
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &st) == 0);
    assert_int_equal(pwrite(fd, "spoilt", 6, st.st_size / 2), 6);
    close(fd);
}

/* Asked often by the trainer: now and then the job dies; before a round something happens to what the round needs. */
static bool disturb(void *ctx) {
    chaos *c = ctx;
    c->seed = c->seed * 1103515245 + 12345;
    if (c->spoil_next >= 0) spoil(c->out, c->spoil_next, c->spoil_next % 2);
    c->spoil_next = -1;
    if ((c->seed >> 16 & 7) == 1 && c->kills < 6) {
        kill(c->job, SIGKILL);
        assert_int_equal(status_of(c->job), 128 + SIGKILL);
        c->job = start_job(c->out);
        c->kills++;
    }
    return false;
}

static void count_aside(void *ctx, const char *level, const char *text) {
    chaos *c = ctx;
    c->aside += !strcmp(level, "warning") && strstr(text, "is set aside as bad-");
}

static void note_step(void *ctx, const mull_step *s) {
    chaos *c = ctx;
    c->spoil_next = s->step < 6 ? s->step : -1;
}

/* Jobs killed in the middle, shards lost and spoilt: the same bytes as undisturbed. */
static void what_is_lost_is_made_again(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    char calm[96], wild[96];
    const char *sets[] = {JOBS,           "max_staleness=1", "max_steps=8",
                          "save_steps=4", "rollout_batch=2", "max_completion_length=48"};
    out_of(&f, "calm", calm);
    out_of(&f, "wild", wild);
    const char *ended[sizeof sets / sizeof *sets + 1] = {0};
    memcpy(ended, sets, sizeof sets);
    with_jobs(&f, calm, 1, 2, &r, ended);
    chaos c = {.out = wild, .seed = 20, .spoil_next = -1};
    c.job = start_job(wild);
    mull_train_session_opts o = {
        .config = f.config, .sets = sets, .nsets = sizeof sets / sizeof *sets, .out = wild, .threads = 2};
    mull_train_session_hooks h = {.run = {.step = note_step, .stop = disturb, .ctx = &c}, .note = count_aside};
    mull_error err = {0};
    if (mull_train_session(&o, &h, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    assert_int_equal(status_of(c.job), 0);
    assert_true(c.kills > 0);
    assert_int_equal(c.aside, 2); /* of steps 2 and 4; those of 1, 3 and 5 were lost */
    same_weights(calm, wild, 8, false);
    same_samples(calm, wild);
    remove_tree(f.dir);
}

/* A trainer in its own process, killed when it has told of so many steps. */
static void trainer_dies(const fixture *f, const char *out, int steps) {
    int said[2];
    assert_int_equal(pipe(said), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(said[1], STDOUT_FILENO);
        close(said[0]);
        close(said[1]);
        execl(MULL_BIN_DIR "/mull-engine", "mull-engine", "train", f->config, "--out", out, "--threads", "2", "--set",
              "rollout_mode=disaggregated", "--set", "rollout_groups=3", "--set", "max_staleness=2", "--set",
              "max_steps=7", "--set", "save_steps=2", (char *)NULL);
        _exit(127);
    }
    close(said[1]);
    FILE *lines = fdopen(said[0], "r");
    char line[4096];
    for (int i = 0; i < steps; i++) assert_non_null(fgets(line, sizeof line, lines));
    kill(pid, SIGKILL);
    assert_int_equal(status_of(pid), 128 + SIGKILL);
    fclose(lines);
}

/* The trainer stops, and dies, between and inside rounds; what was wanted of which policy is found again. */
static void a_resumed_trainer_goes_on(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    mull_error err;
    char whole[96], broken[96];
    const char *const *sets = SETS(JOBS, "max_staleness=2", "max_steps=7", "save_steps=2");
    out_of(&f, "whole", whole);
    out_of(&f, "broken", broken);
    with_jobs(&f, whole, 1, 2, &r, sets);
    pid_t job = start_job(broken);
    /* Dies after its third step: the checkpoint is of the second. */
    trainer_dies(&f, broken, 3);
    r = (run){.stop_after = 2};
    assert_int_equal(train(&f, broken, 1, true, &r, &err, sets), MULL_ECANCELLED);
    r = (run){.stop_at_ask = 3};
    assert_int_equal(train(&f, broken, 2, true, &r, &err, sets), MULL_ECANCELLED);
    r = (run){0};
    assert_int_equal(train(&f, broken, 2, true, &r, &err, sets), 0);
    assert_int_equal(status_of(job), 0);
    same_weights(whole, broken, 7, false);
    same_samples(whole, broken);
    remove_tree(f.dir);
}

/* ---- words */
static void refusals(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    mull_error err;
    char out[96];
    out_of(&f, "no", out);
    static const struct {
        const char *set, *also, *why;
    } BAD[] = {{"max_staleness=1", "max_steps=1", "needs rollout_mode: disaggregated"},
               {"rollout_mode=disagregated", "max_steps=1", "colocate|disaggregated"},
               {"rollout_mod=disaggregated", "max_steps=1", "did you mean rollout_mode"},
               {"rollout_mode=disaggregated", "mmlatent_rl_mode=False", "needs a GRPO recipe"},
               {"max_staleness=1", "grpo_tokens=all", "log-probs of the prompt"},
               {"max_staleness=1", "basic_reinforce_mode=True", "no weights"}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        const char *mode = i == 4 || i == 5 ? "rollout_mode=disaggregated" : "seed=5";
        r = (run){0};
        int rc = train(&f, out, 1, false, &r, &err, SETS(BAD[i].set, BAD[i].also, mode));
        if (rc != MULL_EARG || !strstr(err.why, BAD[i].why)) fail_msg("%s: %d, %s", BAD[i].set, rc, err.why);
    }
    /* Nobody answers. */
    r = (run){0};
    assert_int_equal(train(&f, out, 1, false, &r, &err, SETS(JOBS, "rollout_wait=0.2")), MULL_EIO);
    assert_non_null(strstr(err.why, "no rollout job answered step 0 within 0.2 s"));
    remove_tree(f.dir);
}

/* A shard through its file and back; and every way in which it is not what was asked for. */
static void shards(void **state) {
    (void)state;
    int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    float logp[] = {-1, -2, -0.5f, 0, -3, -1e-7f, -20};
    mull_rollout c[] = {{.ids = ids, .logp = logp, .text = "one", .text_len = 3, .n = 3, .accuracy = 1, .format = 0.5},
                        {.ids = ids + 3, .logp = logp + 3, .text = "", .n = 4, .truncated = true, .external = 1.0 / 3}};
    mull_rollout_shard s = {.key = {.step = 7,
                                    .first = 4,
                                    .groups = 1,
                                    .generations = 2,
                                    .version = 3,
                                    .seed = 42,
                                    .max_completion_length = 4,
                                    .temperature = 0.7,
                                    .top_p = 0.95},
                            .c = c},
                       t;
    memset(s.key.policy, 'a', 64);
    memset(s.key.prompts, 'b', 64);
    mull_buf b = {0}, again = {0};
    mull_error err = {0};
    assert_int_equal(mull_rollout_encode(&s, &b, &err), 0);
    assert_int_equal(mull_rollout_encode(&s, &again, &err), 0);
    assert_int_equal(b.len, again.len);
    assert_memory_equal(b.data, again.data, b.len);
    assert_int_equal(mull_rollout_decode(b.data, b.len, "x", &t, &err), 0);
    assert_int_equal(mull_rollout_check(&t, &s.key, 8, "x", &err), 0);
    assert_memory_equal(t.c[0].ids, ids, sizeof(int32_t) * 3);
    assert_memory_equal(t.c[1].logp, logp + 3, sizeof(float) * 4);
    assert_true(t.c[1].truncated && t.c[1].external == 1.0 / 3 && t.c[0].text_len == 3 && t.c[0].accuracy == 1);
    assert_int_equal(mull_rollout_check(&t, &s.key, 7, "x", &err), MULL_EFORMAT);
    assert_non_null(strstr(err.why, "token id"));
    for (int i = 0; i < 5; i++) {
        static const char *const WHY[] = {"other prompts", "another policy", "another policy", "not the trainer's",
                                          "other settings"};
        mull_rollout_key k = s.key;
        k.first += i == 0;
        k.version += i == 1;
        k.policy[9] = i == 2 ? 'c' : 'a';
        k.prompts[9] = i == 3 ? 'c' : 'b';
        k.seed += i == 4;
        assert_int_equal(mull_rollout_check(&t, &k, 8, "x", &err), MULL_EFORMAT);
        if (!strstr(err.why, WHY[i])) fail_msg("%d: %s", i, err.why);
    }
    mull_rollout_shard_fini(&t);
    /* Cut anywhere it is refused; a byte changed anywhere never changes what is taken. */
    for (size_t n = 0; n < b.len; n++) {
        assert_int_equal(mull_rollout_decode(b.data, n, "x", &t, &err), MULL_EFORMAT);
        again.data[n] ^= 0x40;
        if (!mull_rollout_decode(again.data, again.len, "x", &t, &err)) {
            assert_int_equal(mull_rollout_check(&t, &s.key, 8, "x", &err), 0);
            assert_memory_equal(t.c[0].ids, ids, sizeof ids);
            assert_memory_equal(t.c[0].logp, logp, sizeof logp);
            mull_rollout_shard_fini(&t);
        }
        again.data[n] ^= 0x40;
    }
    mull_buf_fini(&b);
    mull_buf_fini(&again);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(shards),
                                       cmocka_unit_test(without_lag_nothing_changes),
                                       cmocka_unit_test(lag_is_bounded_and_exact),
                                       cmocka_unit_test(weights_scale_the_gradient),
                                       cmocka_unit_test(what_is_lost_is_made_again),
                                       cmocka_unit_test(a_resumed_trainer_goes_on),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
