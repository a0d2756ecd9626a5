/* The GRPO loop on a small model: log-probs of rollout and training agree, packing and what was interrupted change
 * nothing, the reference stays, inner steps clip, groups without spread are drawn anew, the user's own reward counts.
 */
#include "tests/engine/grpo_util.h"

#include "engine/train/reward_command.h"

#include <sys/wait.h>
#include <time.h>

/* Float32: what the rollout saw is what the trainer's forward computes, before the first step and after steps. Every
 * loss type learns from it; the prompt is computed once a group. */
static void rollout_is_the_policy(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static const char *const TYPES[] = {"loss_type=grpo", "loss_type=dr_grpo", "loss_type=bnpo", "loss_type=dapo"};
    static run r;
    char out[96];
    for (size_t i = 0; i < 4; i++) {
        out_of(&f, TYPES[i], out);
        good(&f, out, 2, &r, SETS(TYPES[i]));
        assert_int_equal(r.n, 4);
        for (int k = 0; k < r.n; k++) {
            const mull_grpo_figures *x = &r.f[k];
            assert_true(x->mismatch >= 0 && x->mismatch_max <= 1e-4);
            assert_true(x->entropy > 0 && x->entropy <= log(288) + 1e-6);
            assert_true(x->length > 0 && x->length <= 12);
            assert_true(x->reward_std > 0);
            assert_true(isfinite(r.step[k].loss) && r.step[k].grad_norm > 0);
            assert_true(x->prefix_share > 0.3);
            assert_in_range(x->ntypes, 1, 2);
            assert_true(x->clip_low == 0 && x->clip_high == 0 && x->staleness == 0);
        }
        /* The policy is the reference before its first step, then it moves away. */
        assert_true(fabs(r.f[0].kl) <= 1e-9);
        assert_true(r.f[3].kl > 1e-7);
    }
    out_of(&f, "temperature", out);
    good(&f, out, 1, &r, SETS("temperature=0.7", "top_p=0.9"));
    for (int k = 0; k < r.n; k++) assert_true(r.f[k].mismatch_max <= 1e-4);
    out_of(&f, "half", out);
    good(&f, out, 2, &r, SETS("bf16=True"));
    for (int k = 0; k < r.n; k++) assert_true(r.f[k].mismatch >= 0 && r.f[k].mismatch_max < 0.1);
    remove_tree(f.dir);
}

/* However the completions are packed and however many threads there are: sums in another order only. Every setting of
 * what counts and how is tried. */
static void packing_changes_nothing(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static const char *const HOW[] = {"loss_type=grpo",
                                      "loss_type=bnpo",
                                      "loss_type=dapo",
                                      "grpo_tokens=all",
                                      "scale_rewards=batch",
                                      "scale_rewards=none",
                                      "no_ref_model=True",
                                      "basic_reinforce_mode=True",
                                      "len_control=True",
                                      "overlong_penalty=0.5",
                                      "mask_truncated_completions=True"};
    static run a, b;
    char out[96];
    for (size_t i = 0; i < sizeof HOW / sizeof *HOW; i++) {
        out_of(&f, "packed", out);
        good(&f, out, 2, &a, SETS(HOW[i], "pack_tokens=4000", "max_steps=1"));
        out_of(&f, "single", out);
        good(&f, out, 1, &b, SETS(HOW[i], "pack_tokens=1", "max_steps=1"));
        assert_true(fabs(a.step[0].loss - b.step[0].loss) <= 1e-5 * fmax(1, fabs(a.step[0].loss)));
        if (fabs(a.step[0].grad_norm - b.step[0].grad_norm) > 2e-5 * a.step[0].grad_norm + 1e-9)
            fail_msg("%s: %g and %g", HOW[i], a.step[0].grad_norm, b.step[0].grad_norm);
        assert_true(a.f[0].reward == b.f[0].reward && a.f[0].length == b.f[0].length);
        assert_int_equal(a.step[0].counted, b.step[0].counted);
    }
    remove_tree(f.dir);
}

/* Stopped between steps, in the middle of rollouts, and inside a round of several inner steps, then gone on: the same
 * bytes as undisturbed, completions too. */
static void resume_is_exact(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static const char *const HOW[][3] = {{"num_iterations=1", "max_steps=6", NULL},
                                         {"num_iterations=2", "max_steps=8", NULL},
                                         {"bf16=True", "max_steps=6", NULL},
                                         {"dynamic_sampling=2", "max_steps=6", NULL}};
    static run r;
    mull_error err;
    char whole[96], broken[96];
    for (size_t i = 0; i < 4; i++) {
        int steps = i == 1 ? 8 : 6, rounds = 4;
        out_of(&f, "whole", whole);
        out_of(&f, "broken", broken);
        remove_tree(whole);
        remove_tree(broken);
        good(&f, whole, 2, &r, HOW[i]);
        assert_int_equal(r.n, steps);
        static const int64_t AFTER[] = {3, 1}, ASK[] = {0, 9};
        for (int k = 0; k < 2; k++) {
            r = (run){.stop_after = AFTER[k] * !ASK[k], .stop_at_ask = ASK[k]};
            assert_int_equal(train(&f, broken, 1, true, &r, &err, HOW[i]), MULL_ECANCELLED);
        }
        r = (run){0};
        assert_int_equal(train(&f, broken, 2, true, &r, &err, HOW[i]), 0);
        same_run(whole, broken, steps, i == 3 ? 0 : rounds);
    }
    remove_tree(f.dir);
}

/* Two passes over the same completions at a rate that moves: ratios leave the clip, and the log-probs of the weights
 * that answered are kept. */
static void inner_steps_clip(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    char out[96];
    out_of(&f, "inner", out);
    good(&f, out, 2, &r,
         SETS("num_iterations=3", "steps_per_generation=2", "learning_rate=0.02", "epsilon=0.05", "epsilon_high=0.1",
              "max_steps=6", "lr_scheduler_type=constant"));
    assert_int_equal(r.n, 6);
    assert_true(r.f[0].staleness == 0 && r.f[5].staleness == 5);
    assert_true(r.f[0].clip_low == 0 && r.f[0].clip_high == 0);
    assert_true(r.f[5].clip_low > 0 && r.f[5].clip_high > 0);
    assert_true(r.f[0].mismatch_max <= 1e-4 && r.f[1].mismatch_max <= 1e-4); /* against the kept ones */
    assert_true(isnan(r.f[2].mismatch));
    remove_tree(f.dir);
}

/* Adapters: the base without them is the reference, and rollouts see base and adapters together. */
static void adapters(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    char out[96];
    out_of(&f, "lora", out);
    good(&f, out, 2, &r, SETS("lora_rank=4", "learning_rate=0.05", "lr_scheduler_type=constant"));
    assert_true(fabs(r.f[0].kl) <= 1e-9);
    assert_true(r.f[3].kl > 1e-5);
    for (int k = 0; k < r.n; k++) assert_true(r.f[k].mismatch_max <= 1e-4);
    remove_tree(f.dir);
}

/* The tower is trained too: rollouts see what its last step made of it, the reference keeps the first one, and packing
 * and interruptions change nothing. */
static void trained_tower(void **state) {
    (void)state;
    if (!MULL_HAVE_MEDIA) skip();
    fixture f;
    fixture_init(&f);
    static run a, b;
    mull_error err;
    char whole[96], broken[96];
    out_of(&f, "whole", whole);
    out_of(&f, "broken", broken);
    static const char *const HOW[] = {"bf16=False", "bf16=True", "num_iterations=2", "grpo_tokens=all",
                                      "freeze=visual.blocks.*.mlp.gate_proj.*,model.layers.*"};
    for (size_t i = 0; i < sizeof HOW / sizeof *HOW; i++) {
        const char *const *sets =
            SETS(HOW[i], "freeze_vision=False", "max_steps=6", "learning_rate=0.01", "lr_scheduler_type=constant");
        bool half = i == 1, inner = i == 2;
        remove_tree(whole);
        remove_tree(broken);
        good(&f, whole, 2, &a, sets);
        assert_int_equal(a.n, 6);
        for (int k = 0; k < a.n; k++) {
            if (inner && k % 2) continue; /* against weights that have moved on */
            assert_true(a.f[k].mismatch >= 0 && a.f[k].mismatch_max <= (half ? 0.1 : 1e-4));
        }
        assert_true(fabs(a.f[0].kl) <= 1e-9 && a.f[5].kl > 1e-7);
        b = (run){.stop_after = 3};
        assert_int_equal(train(&f, broken, 1, true, &b, &err, sets), MULL_ECANCELLED);
        b = (run){0};
        assert_int_equal(train(&f, broken, 2, true, &b, &err, sets), 0);
        same_run(whole, broken, 6, inner ? 3 : 6);
    }
    /* What moved: the tower, unlike with a frozen one. */
    for (int frozen = 0; frozen < 2; frozen++) {
        char path[128];
        mull_config c;
        mull_params p, q;
        mull_params_opts o = {.vision = true};
        good(&f, whole, 2, &a, SETS(frozen ? "freeze_vision=True" : "freeze_vision=False", "no_ref_model=True"));
        snprintf(path, sizeof path, "%s/checkpoint-4", whole);
        assert_int_equal(mull_config_load(f.model, &c, &err), 0);
        assert_int_equal(mull_params_load(f.model, &c, &o, &p, &err), 0);
        assert_int_equal(mull_params_load(path, &c, &o, &q, &err), 0);
        int tower = 0, moved = 0;
        for (size_t i = 0; i < p.n; i++) {
            bool is = !strncmp(p.list[i].name, "visual.", 7);
            tower += is;
            moved += is && memcmp(p.list[i].w, q.list[i].w, (size_t)p.list[i].count * sizeof(float)) != 0;
        }
        assert_true(tower > 20);
        if (frozen ? moved : moved < tower) fail_msg("%d of %d tensors of the tower moved", moved, tower);
        mull_params_fini(&p);
        mull_params_fini(&q);
        mull_config_fini(&c);
    }
    /* Packing: sums in another order only. */
    static const char *const PACK[] = {"loss_type=bnpo", "grpo_tokens=all"};
    for (size_t i = 0; i < 2; i++) {
        good(&f, whole, 2, &a, SETS(PACK[i], "freeze_vision=False", "pack_tokens=4000", "max_steps=1"));
        good(&f, broken, 1, &b, SETS(PACK[i], "freeze_vision=False", "pack_tokens=1", "max_steps=1"));
        assert_true(fabs(a.step[0].loss - b.step[0].loss) <= 1e-5 * fmax(1, fabs(a.step[0].loss)));
        if (fabs(a.step[0].grad_norm - b.step[0].grad_norm) > 2e-5 * a.step[0].grad_norm)
            fail_msg("%s: %g and %g", PACK[i], a.step[0].grad_norm, b.step[0].grad_norm);
    }
    remove_tree(f.dir);
}

/* All completions of a group alike: nothing to learn, no gradient without KL; with dynamic sampling further prompts are
 * tried, and there may be none either. */
static void groups_without_spread(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    char out[96];
    out_of(&f, "flat", out);
    good(&f, out, 2, &r,
         SETS("reward_command=awk '{print 1}'", "reward_builtin=False", "no_ref_model=True", "max_steps=1"));
    assert_true(r.f[0].zero_spread == 1);
    assert_true(r.step[0].grad_norm == 0);
    out_of(&f, "some", out);
    /* Scores by the question: half of the groups have spread. */
    const char *some = "reward_command=awk '{if ($0 ~ /long question/) print 1; else {n=split($0,x,\"a\");print "
                       "(n*7+length($0))%5}}'";
    good(&f, out, 2, &r, SETS(some, "reward_builtin=False", "dynamic_sampling=4", "learning_rate=1e-6", "max_steps=3"));
    int64_t resampled = 0;
    for (int k = 0; k < r.n; k++) {
        resampled += r.f[k].resampled;
        if (r.f[k].zero_spread > 0) fail_msg("step %d: %g, %d", k, r.f[k].zero_spread, (int)r.f[k].resampled);
    }
    assert_true(resampled > 0);
    remove_tree(f.dir);
}

static int score(const char *command, double timeout, double *scores, mull_error *err) {
    static const char IN[] = "{\"completion\":\"a\"}\n{\"completion\":\"bb\"}\n{\"completion\":\"c\"}\n";
    mull_reward_command c = {.command = command, .timeout_s = timeout};
    memset(err, 0, sizeof *err);
    return mull_reward_command_run(&c, IN, sizeof IN - 1, scores, 3, err);
}

static void commands(void **state) {
    (void)state;
    mull_error err;
    double s[3];
    assert_int_equal(score("awk '{print length($0)}'", 10, s, &err), 0);
    assert_true(s[0] == 18 && s[1] == 19 && s[2] == 18);
    assert_int_equal(score("cat >/dev/null; printf '{\"score\": 1.5}\\n-2\\n0'", 10, s, &err), 0);
    assert_true(s[0] == 1.5 && s[1] == -2 && s[2] == 0);
    static const struct {
        const char *command, *why;
        int rc;
    } BAD[] = {{"cat >/dev/null; echo 1; echo 2", "2 scores for 3", MULL_EFORMAT},
               {"echo 1; echo 2; echo 3; echo 4", "more than the 3", MULL_EFORMAT},
               {"echo 1; echo NaN; echo 3", "line 2 is no finite score", MULL_EFORMAT},
               {"echo 1; echo 1e999; echo 3", "line 2 is no finite score", MULL_EFORMAT},
               {"echo 1; echo '{\"score\":\"x\"}'; echo 3", "line 2", MULL_EFORMAT},
               {"echo broken >&2; exit 3", "exit status 3; standard error ends: broken", MULL_EFORMAT},
               {"/nowhere/at/all", "exit status 127", MULL_EFORMAT},
               {"cat >/dev/null; echo 1; echo 2; echo 3; kill -SEGV $$", "exit status 139", MULL_EFORMAT},
               {"cat >/dev/null; sleep 30", "longer than 0.3 s", MULL_ELIMIT}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        int rc = score(BAD[i].command, i == 8 ? 0.3 : 10, s, &err);
        if (rc != BAD[i].rc || !strstr(err.why, BAD[i].why)) fail_msg("%s: %d, %s", BAD[i].command, rc, err.why);
    }
    /* What it leaves behind ends with it: in the background, in a session of its own, without its parent; also when the
     * time is up. */
    static const char *const LEFT[] = {
        "(sleep 1; touch %s) & awk '{print 1}'",
        "setsid sh -c 'sleep 1; touch %s' >/dev/null 2>&1 & awk '{print 1}'",
        "(setsid sh -c 'sleep 1; touch %s' &); awk '{print 1}'",
        "(setsid sh -c 'sleep 1; touch %s' >/dev/null 2>&1 &); cat >/dev/null; sleep 30",
    };
    for (size_t i = 0; i < sizeof LEFT / sizeof *LEFT; i++) {
        char mark[] = "/tmp/mull_reward_XXXXXX", command[160];
        int fd = mkstemp(mark);
        assert_true(fd >= 0);
        close(fd);
        unlink(mark);
        snprintf(command, sizeof command, LEFT[i], mark);
        assert_int_equal(score(command, i == 3 ? 0.3 : 10, s, &err), i == 3 ? MULL_ELIMIT : 0);
        nanosleep(&(struct timespec){1, 300000000}, NULL);
        assert_int_not_equal(access(mark, F_OK), 0);
    }
}

/* A reward that fails ends the run with its message; settings that cannot work are refused before anything runs. */
static void refusals(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    static run r;
    mull_error err;
    char out[96];
    static const struct {
        const char *set, *why;
    } BAD[] = {{"reward_command=echo nan", "no finite score"},
               {"temperature=0", "all the same"},
               {"top_p=0", "it is 0"},
               {"reward_command=exit 2", "exit status 2"}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        out_of(&f, "bad", out);
        r = (run){0};
        int rc = train(&f, out, 1, false, &r, &err, SETS(BAD[i].set));
        if (rc >= 0 || !strstr(err.why, BAD[i].why)) fail_msg("%s: %d, %s", BAD[i].set, rc, err.why);
        assert_int_equal(r.n, 0);
    }
    remove_tree(f.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rollout_is_the_policy),
                                       cmocka_unit_test(packing_changes_nothing),
                                       cmocka_unit_test(resume_is_exact),
                                       cmocka_unit_test(inner_steps_clip),
                                       cmocka_unit_test(adapters),
                                       cmocka_unit_test(trained_tower),
                                       cmocka_unit_test(groups_without_spread),
                                       cmocka_unit_test(commands),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
