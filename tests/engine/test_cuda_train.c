/* Training on the CUDA backend against the CPU's; see test_cuda_ops.c for how and where it runs. On the emulation the
 * reference's gradients and ten-step runs are compared too: oracle_train_grad.c and oracle_train_run.c once more.
 *
 * Bounds. float32: what the reference shows between two of its own attentions, 2e-5 relative L2 a gradient. bf16: the
 * CPU rounds weights only, the device activations and their gradients as well, at some forty places a layer there and
 * back, 2^-9 each and like noise: 6e-2 of a gradient's L2 for three layers (4.4e-2 was seen), where a wrong index gives
 * about 1. */
#include <stdio.h>

#if MULL_HAVE_CUDA
#include "tests/engine/cuda_group.h"
#include "tests/engine/train_fixture.h"

static mull_outputs gradients(const fixture *f, const char *path, mull_grad_opts o) {
    mull_outputs out;
    o.ce.backward = true;
    o.grpo.backward = true;
    o.threads = 1;
    train_grad(f->dir, &path, 1, &o, &out);
    return out;
}

/* The tensors of a case over its two sides; how many gradients there were. */
static int compare(const mull_outputs *cpu, const mull_outputs *gpu, double grad, double value) {
    int n = 0;
    assert_int_equal(cpu->n, gpu->n);
    for (size_t i = 0; i < cpu->n; i++) {
        const mull_tensor_info *a = &cpu->tensors[i], *b = mull_outputs_find(gpu, a->name);
        assert_non_null(b);
        assert_int_equal(a->count, b->count);
        if (strncmp(a->name, "grad.", 5)) {
            double d = relative_l2(b->data, a->data, a->count, 1);
            if (!(d <= value)) fail_msg("%s: relative difference %.3g, allowed %.3g", a->name, d, value);
            continue;
        }
        double size = 0, d = relative_l2(b->data, a->data, a->count, 1);
        for (int64_t k = 0; k < a->count; k++) size += fabs((double)((const float *)a->data)[k]);
        /* The bias of keys shifts all scores of a query alike: its gradient is rounding alone. */
        if (util_ends(a->name, "k_proj.bias") || size == 0) continue;
        if (!(d <= grad)) fail_msg("%s: relative difference %.3g, allowed %.3g", a->name, d, grad);
        n++;
    }
    return n;
}

static void same_gradients(const fixture *f, const char *path, const mull_grad_opts *o, double grad, double value,
                           int least) {
    mull_grad_opts on_gpu = *o;
    on_gpu.net.backend = mull_cuda_train_backend();
    mull_outputs cpu = gradients(f, path, *o), gpu = gradients(f, path, on_gpu), again = gradients(f, path, on_gpu);
    int n = compare(&cpu, &gpu, grad, value);
    if (n < least) fail_msg("%d gradients, not %d", n, least);
    for (size_t i = 0; i < gpu.n; i++) /* the same bits each time */
        assert_memory_equal(gpu.tensors[i].data, again.tensors[i].data, (size_t)gpu.tensors[i].count * sizeof(float));
    mull_outputs_fini(&cpu);
    mull_outputs_fini(&gpu);
    mull_outputs_fini(&again);
}

static void text(void **state) {
    (void)state;
    fixture f;
    char path[64];
    fixture_init(&f);
    snprintf(path, sizeof path, "%s/case.safetensors", f.dir);
    write_case(path, 0, CASES);
    for (int level = 0; level < 3; level++)
        same_gradients(&f, path, &(mull_grad_opts){.net.recompute = (mull_recompute)level}, 2e-5, 1e-5, 30);
    same_gradients(&f, path, &(mull_grad_opts){.params.half = true}, 6e-2, 3e-2, 30);
    mull_grad_opts o = {.params.freeze = "model.embed_tokens.*, model.layers.0.*,*k_proj*,model.layers.2.*norm*"};
    same_gradients(&f, path, &o, 2e-5, 1e-5, 16);
    o = (mull_grad_opts){.params = {.lora_rank = 4, .lora_targets = "q_proj,v_proj,down_proj,up_proj", .seed = 3},
                         .net.lora_scale = 2};
    same_gradients(&f, path, &o, 2e-5, 1e-5, 12);
    o.params.half = true;
    same_gradients(&f, path, &o, 6e-2, 3e-2, 12); /* two more products of bf16 in a row */
    unlink(path);
    fixture_fini(&f);
}

/* Images and a video in the first sequence: rows that do not come from the embedding. */
static void media(void **state) {
    (void)state;
    fixture f;
    own_case o;
    char path[64];
    fixture_init(&f);
    own_init(&o, MULL_WEIGHT_F32, 1);
    int64_t n, labels[256];
    const int64_t *ids = own_data(&o, "input_ids", &n);
    assert_in_range(n, 1, 256);
    for (int64_t i = 0; i < n; i++) labels[i] = i % 4 ? ids[i] : -100;
    const int64_t image[] = {1, 6, 10}, video[] = {2, 4, 4};
    const float seconds = 1.7f;
    mull_tensor_info t[] = {
        {.name = "input_ids", .dtype = MULL_I64, .ndim = 1, .shape = {n}, .count = n, .data = ids},
        {.name = "labels", .dtype = MULL_I64, .ndim = 1, .shape = {n}, .count = n, .data = labels},
        {.name = "cu_seqlens",
         .dtype = MULL_I64,
         .ndim = 1,
         .shape = {3},
         .count = 3,
         .data = own_data(&o, "cu_seqlens", NULL)},
        {.name = "image_grid_thw", .dtype = MULL_I64, .ndim = 2, .shape = {1, 3}, .count = 3, .data = image},
        {.name = "video_grid_thw", .dtype = MULL_I64, .ndim = 2, .shape = {1, 3}, .count = 3, .data = video},
        {.name = "second_per_grid_ts", .dtype = MULL_F32, .ndim = 1, .shape = {1}, .count = 1, .data = &seconds},
        {.name = "pixel_values",
         .dtype = MULL_F32,
         .ndim = 2,
         .shape = {OWN_IMAGE_ROWS, 1176},
         .count = OWN_IMAGE_ROWS * 1176,
         .data = o.image},
        {.name = "pixel_values_videos",
         .dtype = MULL_F32,
         .ndim = 2,
         .shape = {OWN_VIDEO_ROWS, 1176},
         .count = OWN_VIDEO_ROWS * 1176,
         .data = o.video}};
    mull_error err = {0};
    snprintf(path, sizeof path, "%s/case.safetensors", f.dir);
    assert_int_equal(mull_safetensors_write(path, t, 8, &err), 0);
    /* The tower's features differ in their last digits. */
    same_gradients(&f, path, &(mull_grad_opts){0}, 5e-5, 2e-5, 30);
    same_gradients(&f, path, &(mull_grad_opts){.params.vision = true}, 5e-5, 2e-5, 50);
    /* The tower lies below the layers: twice the depth, and noise grows by its root. 6.1e-2 was seen. */
    same_gradients(&f, path, &(mull_grad_opts){.params.vision = true, .params.half = true}, 8.5e-2, 3e-2, 50);
    unlink(path);
    own_fini(&o);
    fixture_fini(&f);
}

/* Ten steps with clipping, weight decay and accumulation: the same losses; then what was saved. */
static void run(fixture *f, mull_recipe *r, double loss, double weights) {
    case_source s;
    step_log log[2] = {0};
    mull_trainer *t[2];
    r->weight_decay = 0.1;
    r->max_grad_norm = 0.5;
    r->save_steps = 5;
    for (int side = 0; side < 2; side++) {
        open_source(f, &s, false, 2);
        remove_tree(f->out[side]);
        t[side] = trainer_open(&(mull_trainer_opts){.recipe = r,
                                                    .out = f->out[side],
                                                    .threads = 1,
                                                    .steps = 10,
                                                    .backend = side ? mull_cuda_train_backend() : NULL});
        assert_int_equal(steps(t[side], &s, 10, &log[side]), 0);
        assert_int_equal(log[side].checkpoints, 2);
        source_fini(&s);
    }
    for (int i = 0; i < 10; i++) {
        const mull_step *a = &log[0].at[i], *b = &log[1].at[i];
        if (!(fabs(a->loss - b->loss) <= loss)) fail_msg("step %d: loss %.8g, not %.8g", i + 1, b->loss, a->loss);
        if (!(fabs(a->grad_norm - b->grad_norm) <= 10 * loss * a->grad_norm))
            fail_msg("step %d: norm %.8g, not %.8g", i + 1, b->grad_norm, a->grad_norm);
        assert_true(a->lr == b->lr && b->clip < 1 && b->mfu > 0);
        assert_int_equal(a->counted, b->counted);
    }
    assert_true(log[1].at[9].loss < log[1].at[0].loss);
    const mull_params *p = mull_trainer_params(t[0]), *q = mull_trainer_params(t[1]);
    double squares = 0;
    for (int64_t i = 0; i < p->count; i++) squares += pow((double)p->w[i] - (double)q->w[i], 2);
    if (!(sqrt(squares / (double)p->count) <= weights))
        fail_msg("weights are off by %.3g rms", sqrt(squares / (double)p->count));
    for (int side = 0; side < 2; side++) mull_trainer_destroy(t[side]);
}

static void trajectories(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_recipe r = run_recipe(f.dir, MULL_SFT);
    /* Adam makes much of gradients near its eps: the bound of the reference's runs. */
    run(&f, &r, 1e-5, 3e-6);
    r.lora_rank = 4;
    r.lora_alpha = 8;
    r.learning_rate = 1e-2;
    run(&f, &r, 1e-4, 3e-5);
    r = run_recipe(f.dir, MULL_SFT);
    r.bf16 = true;
    r.recompute = MULL_RECOMPUTE_LAYER;
    run(&f, &r, 2e-2, 1e-3); /* steps are 1e-3 whatever the gradient's size, their signs the noise of small ones */
    fixture_fini(&f);
}

/* Six steps at once, and six with a stop after two, gone on from the checkpoint: the same bytes. */
static void resume(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    for (int half = 0; half < 2; half++) {
        mull_recipe r = run_recipe(f.dir, MULL_SFT);
        r.bf16 = half;
        mull_trainer_opts o = {
            .recipe = &r, .out = f.out[0], .threads = 1, .steps = 6, .backend = mull_cuda_train_backend()};
        char name[2][96];
        case_source s;
        step_log all = {0}, first = {.stop_after = 2}, second = {0};
        for (int i = 0; i < 2; i++) remove_tree(f.out[i]);
        open_source(&f, &s, false, 2);
        mull_trainer *t = trainer_open(&o);
        assert_int_equal(steps(t, &s, 6, &all), 0);
        mull_trainer_destroy(t);
        s.at = 0;
        o.out = f.out[1];
        t = trainer_open(&o);
        assert_int_equal(steps(t, &s, 6, &first), MULL_ECANCELLED);
        mull_trainer_destroy(t);
        char *newest = mull_checkpoint_newest(f.out[1]);
        o.resume = newest;
        t = trainer_open(&o);
        assert_int_equal(mull_trainer_state(t)->step, 2);
        s.at = mull_trainer_state(t)->position.step * s.accumulate;
        assert_int_equal(steps(t, &s, 6, &second), 0);
        mull_trainer_destroy(t);
        free(newest);
        for (int i = 0; i < 4; i++) assert_true(all.at[i + 2].loss == second.at[i].loss);
        snprintf(name[0], sizeof name[0], "%s/checkpoint-6", f.out[0]);
        snprintf(name[1], sizeof name[1], "%s/checkpoint-6", f.out[1]);
        same_file(name[0], name[1], "model.safetensors");
        same_file(name[0], name[1], "optimizer-00000-of-00001.zst");
        source_fini(&s);
    }
    fixture_fini(&f);
}

#ifdef MULL_CUDA_EMULATED
/* A run whose n-th allocation, or launch, fails: one clear error, nothing left behind. */
static int broken(fixture *f, case_source *s, long alloc, long launch, mull_error *err) {
    mull_recipe r = run_recipe(f->dir, MULL_SFT);
    mull_trainer_opts o = {.recipe = &r, .threads = 1, .steps = 2, .backend = mull_cuda_train_backend()};
    mull_trainer *t = NULL;
    step_log log = {0};
    mull_train_source src = source_of(s);
    mull_train_hooks hooks = hooks_of(&log);
    s->at = 0;
    mull_emu_fail_alloc(alloc);
    mull_emu_fail_launch(launch);
    int rc = mull_trainer_create(&o, &t, err);
    if (!rc) rc = mull_trainer_run(t, 2, &src, &hooks, err);
    mull_trainer_destroy(t);
    mull_emu_fail_alloc(0);
    mull_emu_fail_launch(0);
    assert_int_equal(mull_emu_live_bytes(), 0);
    return rc;
}

static void failures(void **state) {
    (void)state;
    fixture f;
    case_source s;
    int failed = 0, rc = 1;
    fixture_init(&f);
    open_source(&f, &s, true, 1);
    for (long n = 1; n < 60 && rc; n++) {
        mull_error err = {0};
        rc = broken(&f, &s, n, 0, &err);
        if (!rc) break;
        /* measuring the roof goes without */
        assert_int_equal(rc, MULL_ENOMEM);
        assert_true(err.what[0] && err.why[0]);
        failed++;
    }
    assert_in_range(failed, 10, 58);
    for (long n = 20; n < 120; n += 40) {
        mull_error err = {0};
        assert_int_equal(broken(&f, &s, 0, n, &err), MULL_EINTERNAL);
        assert_string_equal(err.what, "the GPU failed");
    }
    source_fini(&s);
    fixture_fini(&f);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text),     cmocka_unit_test(media), cmocka_unit_test(trajectories), cmocka_unit_test(resume),
#ifdef MULL_CUDA_EMULATED
        cmocka_unit_test(failures),
#endif
    };
    return cuda_group_main(tests, sizeof tests / sizeof *tests, "Training was");
}
#else
int main(void) {
    puts("SKIPPED: built without CUDA");
    return 77;
}
#endif
