/* GRPO on the CUDA backend against the CPU's; see test_cuda_ops.c for how and where it runs. Float32: both draw the
 * same tokens, so rewards are equal and losses differ by the order of sums. The bounds are those of test_cuda_train.c.
 */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "tests/engine/cuda_group.h"
#include "tests/engine/grpo_util.h"

/* Short prompts for the emulation's sake; every fourth has a picture. */
static void short_rows(const fixture *f) {
    FILE *rows = fopen(f->rows, "w");
    char *picture =
        realpath(MULL_TEST_DATA "/media/shapes.png", NULL); /* of the checkout, where a GPU machine has it */
    assert_non_null(rows);
    assert_non_null(picture);
    for (int i = 0; i < ROWS; i++) {
        fputs("{\"messages\":[{\"role\":\"user\",\"content\":[", rows);
        if (MULL_HAVE_MEDIA && i % 4 == 0) fprintf(rows, "{\"type\":\"image\",\"image\":\"%s\"},", picture);
        fprintf(rows,
                "{\"type\":\"text\",\"text\":\"%d\"}]}],\"solution\":\"<answer>%d</answer>\",\"problem_type\":"
                "\"numerical\"}\n",
                i, i);
    }
    free(picture);
    assert_int_equal(fclose(rows), 0);
}

#define SMALL                                                                                                          \
    "num_generations=3", "max_completion_length=4", "per_device_train_batch_size=1", "gradient_accumulation_steps=1",  \
        "learning_rate=0.0001", "seed=12" /* rewards with spread, a prompt with a picture and one without */

static int run_on(const fixture *f, bool gpu, const char *out, bool resume, run *r, mull_error *err,
                  const char *const *sets) {
    size_t n = 0;
    while (sets[n]) n++;
    mull_train_session_opts o = {.config = f->config,
                                 .sets = sets,
                                 .nsets = n,
                                 .out = out,
                                 .threads = 1,
                                 .resume = resume,
                                 .backend = gpu ? mull_cuda_train_backend() : NULL};
    mull_train_session_hooks h = {.run = {on_step, on_checkpoint, on_stop, r}, .note = on_note};
    memset(err, 0, sizeof *err);
    return mull_train_session(&o, &h, err);
}

/* The weights of two checkpoint folders: root mean square of their differences. */
static double apart(const char *a, const char *b, const char *file) {
    char path[2][200];
    mull_safetensors *f[2];
    mull_error err = {0};
    double squares = 0, n = 0;
    snprintf(path[0], sizeof path[0], "%s/%s", a, file);
    snprintf(path[1], sizeof path[1], "%s/%s", b, file);
    for (int i = 0; i < 2; i++)
        if (mull_safetensors_open(path[i], &f[i], &err)) fail_msg("%s: %s", path[i], err.why);
    for (size_t i = 0; i < mull_safetensors_count(f[0]); i++) {
        const mull_tensor_info *x = mull_safetensors_at(f[0], i), *y = mull_safetensors_find(f[1], x->name);
        float *v = malloc(2 * (size_t)x->count * sizeof *v);
        assert_non_null(y);
        assert_non_null(v);
        mull_to_f32(x->data, x->dtype, (size_t)x->count, v);
        mull_to_f32(y->data, y->dtype, (size_t)x->count, v + x->count);
        for (int64_t k = 0; k < x->count; k++) squares += pow((double)v[k] - (double)v[x->count + k], 2);
        n += (double)x->count;
        free(v);
    }
    for (int i = 0; i < 2; i++) mull_safetensors_close(f[i]);
    return sqrt(squares / n);
}

static void compare(const fixture *f, const char *name, double loss, double weights, const char *file,
                    const char *const *sets) {
    char out[2][96], base[40];
    static run r[2];
    mull_error err;
    for (int side = 0; side < 2; side++) {
        snprintf(base, sizeof base, "%s%d", name, side);
        out_of(f, base, out[side]);
        r[side] = (run){0};
        if (run_on(f, side, out[side], false, &r[side], &err, sets)) {
            mull_error_print(stderr, &err);
            fail();
        }
    }
    bool spread = false;
    assert_int_equal(r[0].n, r[1].n);
    for (int i = 0; i < r[0].n; i++) {
        const mull_step *a = &r[0].step[i], *b = &r[1].step[i];
        const mull_grpo_figures *x = &r[0].f[i], *y = &r[1].f[i];
        assert_true(x->reward == y->reward && x->reward_std == y->reward_std && x->length == y->length);
        /* Later steps of a round are not of the policy that answered. */
        assert_true(isnan(y->mismatch) ? i % 2 == 1 : y->mismatch_max <= 1e-4);
        spread |= y->reward_std > 0;
        if (!(fabs(a->loss - b->loss) <= loss * fmax(1, fabs(a->loss))))
            fail_msg("step %d: loss %.9g, not %.9g", i + 1, b->loss, a->loss);
        if (!(fabs(a->grad_norm - b->grad_norm) <= 1e-3 * a->grad_norm + 1e-6))
            fail_msg("step %d: norm %.8g, not %.8g", i + 1, b->grad_norm, a->grad_norm);
        if (!(fabs(x->kl - y->kl) <= loss + 1e-3 * x->kl)) fail_msg("step %d: KL %.8g, not %.8g", i + 1, y->kl, x->kl);
        if (!(fabs(x->entropy - y->entropy) <= 1e-4))
            fail_msg("step %d: entropy %.8g, not %.8g", i + 1, y->entropy, x->entropy);
        assert_true(a->counted == b->counted && x->clip_low == y->clip_low && x->clip_high == y->clip_high);
    }
    assert_true(spread);
    double d = apart(r[0].checkpoint, r[1].checkpoint, file);
    if (!(d <= weights)) fail_msg("%s: weights are off by %.3g rms", name, d);
}

/* Two rounds of two steps on the same completions: log-probs from before, a reference that was left behind, clipping.
 */
static void follows_the_cpu(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    short_rows(&f);
    compare(&f, "whole", 1e-5, 3e-6, "model.safetensors", SETS(SMALL, "num_iterations=2", "epsilon=0.01"));
    compare(&f, "tower", 1e-5, 3e-6, "model.safetensors", SETS(SMALL, "freeze_vision=False", "max_steps=2"));
    compare(&f, "lora", 1e-4, 3e-5, "adapter_model.safetensors",
            SETS(SMALL, "lora_rank=4", "lora_alpha=8", "lora_targets='q_proj,v_proj,up_proj,down_proj'", "max_steps=2",
                 "learning_rate=0.003"));
    remove_tree(f.dir);
}

/* In bf16 the same steps are another run: what answered is still what is trained. Stopped and gone on: the same bytes,
 * so the reference is the first model again. */
static void bf16_and_resume(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    short_rows(&f);
    const char *const *sets = SETS(SMALL, "seed=9", "bf16=True", "recompute=layer", "max_steps=2", "save_steps=1");
    char out[2][96];
    static run all, first, second;
    mull_error err;
    out_of(&f, "all", out[0]);
    out_of(&f, "two", out[1]);
    first.stop_after = 1;
    assert_int_equal(run_on(&f, true, out[0], false, &all, &err, sets), 0);
    assert_int_equal(run_on(&f, true, out[1], false, &first, &err, sets), MULL_ECANCELLED);
    assert_int_equal(run_on(&f, true, out[1], true, &second, &err, sets), 0);
    assert_int_equal(all.n, 2);
    assert_int_equal(second.n, 1);
    for (int i = 0; i < 2; i++) {
        assert_true(all.f[i].mismatch >= 0 && all.f[i].mismatch_max < 0.1);
        assert_true(isfinite(all.step[i].loss) && all.step[i].grad_norm > 0);
    }
    assert_true(fabs(all.f[0].kl) <= 1e-9 && all.f[1].kl > 1e-9);
    same_run(out[0], out[1], 2, 2);
    remove_tree(f.dir);
}

static void refusals(void **state) {
    (void)state;
    fixture f;
    char out[96];
    run r = {0};
    mull_error err;
    fixture_init(&f);
    short_rows(&f);
    out_of(&f, "refused", out);
    assert_int_equal(run_on(&f, true, out, false, &r, &err, SETS("rollout_mode=disaggregated")), MULL_EUNSUPPORTED);
    assert_string_equal(err.where, "rollout_mode");
    remove_tree(f.dir);
}

#ifdef MULL_CUDA_EMULATED
/* An allocation or a launch fails somewhere in a run: one clear error, nothing left behind. */
static void failures(void **state) {
    (void)state;
    fixture f;
    char out[96];
    mull_error err;
    fixture_init(&f);
    short_rows(&f);
    out_of(&f, "broken", out);
    setenv("MULL_CUDA_GRAPHS", "0", 1); /* a failed capture is no failure */
    const char *const *sets = SETS(SMALL, "seed=9", "max_steps=1", "rollout_batch=2");
    long launches = 0;
    for (long n = 1, rc = 1; rc; n += n < 4 ? 1 : 12) {
        run r = {0};
        launches = mull_emu_launches();
        mull_emu_fail_alloc(n);
        rc = run_on(&f, true, out, false, &r, &err, sets);
        mull_emu_fail_alloc(0);
        launches = mull_emu_launches() - launches; /* at last: of a whole run */
        assert_int_equal(mull_emu_live_bytes(), 0);
        assert_true(n < 100 && (!rc || (err.what[0] && err.why[0])));
    }
    for (int k = 1; k < 4; k++) {
        run r = {0};
        mull_emu_fail_launch(launches * k / 4);
        assert_int_not_equal(run_on(&f, true, out, false, &r, &err, sets), 0);
        mull_emu_fail_launch(0);
        assert_int_equal(mull_emu_live_bytes(), 0);
        assert_string_equal(err.what, "the GPU failed");
    }
    unsetenv("MULL_CUDA_GRAPHS");
    remove_tree(f.dir);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(follows_the_cpu),
        cmocka_unit_test(bf16_and_resume),
        cmocka_unit_test(refusals),
#ifdef MULL_CUDA_EMULATED
        cmocka_unit_test(failures),
#endif
    };
    return cuda_group_main(tests, sizeof tests / sizeof *tests, "GRPO was");
}
#else
int main(void) {
    puts("SKIPPED: built without CUDA");
    return 77;
}
#endif
