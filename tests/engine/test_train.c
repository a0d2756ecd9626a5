/* The training loop on a model of our own: exact resume, equal results for packing, accumulation and recompute levels,
 * frozen tensors, adapters, skipped steps, checkpoints. */
#include "tests/engine/train_fixture.h"

#include "engine/train/lora.h"

/* Six steps at once, and six with a stop after two and after four: the same bytes. */
static void resume_is_exact(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    for (int half = 0; half < 2; half++) {
        mull_recipe r = run_recipe(f.dir, MULL_SFT);
        r.bf16 = half;
        char name[2][96];
        case_source s;
        step_log all = {0}, first = {.stop_after = 2}, second = {0};
        for (int i = 0; i < 2; i++) remove_tree(f.out[i]);
        open_source(&f, &s, false, 2);
        mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 6});
        assert_int_equal(steps(t, &s, 6, &all), 0);
        mull_trainer_destroy(t);
        s.at = 0;
        t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[1], .threads = 1, .steps = 6});
        assert_int_equal(steps(t, &s, 6, &first), MULL_ECANCELLED);
        assert_int_equal(first.checkpoints, 1);
        mull_trainer_destroy(t);
        char *newest = mull_checkpoint_newest(f.out[1]);
        assert_non_null(newest);
        assert_true(util_ends(newest, "checkpoint-2"));
        t = trainer_open(
            &(mull_trainer_opts){.recipe = &r, .out = f.out[1], .resume = newest, .threads = 2, .steps = 6});
        assert_int_equal(mull_trainer_state(t)->step, 2);
        s.at = mull_trainer_state(t)->position.step * s.accumulate;
        assert_int_equal(steps(t, &s, 6, &second), 0);
        mull_trainer_destroy(t);
        free(newest);
        for (int i = 0; i < 4; i++) assert_true(all.at[i + 2].loss == second.at[i].loss);
        assert_true(all.at[5].loss < all.at[0].loss);
        snprintf(name[0], sizeof name[0], "%s/checkpoint-6", f.out[0]);
        snprintf(name[1], sizeof name[1], "%s/checkpoint-6", f.out[1]);
        same_file(name[0], name[1], "model.safetensors");
        same_file(name[0], name[1], "optimizer-00000-of-00001.zst");
        same_file(name[0], name[1], "trainer_state.json");
        same_file(name[0], name[1], "config.json");
        /* The folder is a model: it loads, all of it. */
        mull_model *m = util_load(name[0], half ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32, 1);
        assert_int_equal(mull_model_config(m)->dtype, half ? MULL_BF16 : MULL_F32);
        mull_model_destroy(m);
        source_fini(&s);
    }
    fixture_fini(&f);
}

static double param_difference(const mull_trainer *a, const mull_trainer *b) {
    const mull_params *p = mull_trainer_params(a), *q = mull_trainer_params(b);
    assert_int_equal(p->count, q->count);
    return util_difference(p->g, q->g, p->trained);
}

/* Four samples packed into one batch, or accumulated one by one, under either norm: sums in another order only. */
static void packing_equals_accumulation(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    for (int norm = 0; norm < 2; norm++) {
        mull_recipe r = run_recipe(f.dir, MULL_SFT);
        r.loss_norm = norm;
        case_source one, packed;
        step_log a = {0}, b = {0};
        open_source(&f, &one, false, CASES);
        open_source(&f, &packed, true, 1);
        mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 1});
        mull_trainer *u = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[1], .threads = 2, .steps = 1});
        assert_int_equal(steps(t, &one, 1, &a), 0);
        assert_int_equal(steps(u, &packed, 1, &b), 0);
        assert_int_equal(a.at[0].samples, CASES);
        assert_int_equal(a.at[0].counted, b.at[0].counted);
        assert_true(fabs(a.at[0].loss - b.at[0].loss) <= 1e-5);
        assert_true(fabs(a.at[0].grad_norm - b.at[0].grad_norm) <= 1e-5 * a.at[0].grad_norm);
        double scale = norm ? (double)a.at[0].counted : CASES;
        assert_true(param_difference(t, u) <= 2e-5 * scale * a.at[0].grad_norm);
        mull_trainer_destroy(t);
        mull_trainer_destroy(u);
        source_fini(&one);
        source_fini(&packed);
    }
    fixture_fini(&f);
}

/* What is computed again is the same operations on the same values: the same bits. */
static void recompute_is_exact(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_trainer *t[3];
    for (int level = 0; level < 3; level++) {
        mull_recipe r = run_recipe(f.dir, MULL_SFT);
        r.recompute = level;
        case_source s;
        step_log log = {0};
        open_source(&f, &s, true, 1);
        t[level] = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[level], .threads = 2, .steps = 2});
        assert_int_equal(steps(t[level], &s, 2, &log), 0);
        source_fini(&s);
        const mull_params *p = mull_trainer_params(t[0]), *q = mull_trainer_params(t[level]);
        assert_memory_equal(p->w, q->w, (size_t)p->count * sizeof *p->w);
    }
    for (int level = 0; level < 3; level++) mull_trainer_destroy(t[level]);
    fixture_fini(&f);
}

static void frozen_stays(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    char freeze[] = "model.embed_tokens.*, model.layers.0.*,*k_proj*";
    mull_recipe r = run_recipe(f.dir, MULL_SFT);
    r.freeze = freeze;
    case_source s;
    step_log log = {0};
    open_source(&f, &s, true, 1);
    mull_params before;
    mull_error err = {0};
    assert_int_equal(mull_params_load(f.dir, &f.c, &(mull_params_opts){0}, &before, &err), 0);
    mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 2});
    assert_int_equal(steps(t, &s, 2, &log), 0);
    for (size_t i = 0; i < before.n; i++) {
        const mull_param *p = &before.list[i], *q = mull_params_find(mull_trainer_params(t), p->name);
        bool same = memcmp(p->w, q->w, (size_t)p->count * sizeof *p->w) == 0;
        if (same != mull_params_match(freeze, p->name)) fail_msg("%s %s", p->name, same ? "did not move" : "moved");
    }
    mull_trainer_destroy(t);
    mull_trainer *none = NULL;
    char typo[] = "model.layer.0.*", everything[] = "*";
    r.freeze = typo;
    assert_int_equal(mull_trainer_create(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .steps = 2}, &none, &err),
                     MULL_EARG);
    r.freeze = everything;
    assert_int_equal(mull_trainer_create(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .steps = 2}, &none, &err),
                     MULL_EARG);
    mull_params_fini(&before);
    source_fini(&s);
    fixture_fini(&f);
}

/* Nothing is applied, the step is counted, and the run goes on. */
static void not_finite_is_skipped(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_recipe r = run_recipe(f.dir, MULL_SFT);
    case_source s;
    step_log log = {0};
    open_source(&f, &s, true, 1);
    mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 3});
    const mull_params *p = mull_trainer_params(t);
    float *w = mull_params_find(p, "model.norm.weight")->w, keep = *w;
    *w = NAN;
    assert_int_equal(steps(t, &s, 1, &log), 0);
    assert_true(log.at[0].skipped && log.at[0].spike && isnan(*w));
    for (int64_t i = 0; i < p->trained; i++) assert_true(p->m[i] == 0 && p->v[i] == 0);
    *w = keep;
    assert_int_equal(steps(t, &s, 3, &log), 0);
    assert_false(log.at[1].skipped || log.at[2].skipped);
    assert_int_equal(mull_trainer_state(t)->applied, 2);
    assert_int_equal(mull_trainer_state(t)->skipped, 1);
    mull_trainer_destroy(t);
    source_fini(&s);
    fixture_fini(&f);
}

/* Adapters: the base does not move, the loss falls, what was saved goes on where it stood. */
static void lora(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_recipe r = run_recipe(f.dir, MULL_SFT);
    char targets[] = "q_proj,v_proj,down_proj";
    r.lora_rank = 4;
    r.lora_alpha = 8;
    r.lora_targets = targets;
    r.learning_rate = 1e-2;
    case_source s;
    step_log log = {0}, again = {0};
    open_source(&f, &s, true, 1);
    mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 8});
    mull_params base;
    mull_error err = {0};
    assert_int_equal(mull_params_load(f.dir, &f.c, &(mull_params_opts){0}, &base, &err), 0);
    assert_int_equal(steps(t, &s, 4, &log), 0);
    const mull_params *p = mull_trainer_params(t);
    for (size_t i = 0; i < base.n; i++)
        assert_memory_equal(mull_params_find(p, base.list[i].name)->w, base.list[i].w,
                            (size_t)base.list[i].count * sizeof(float));
    assert_int_equal(p->n - base.n, 2 * 3 * (size_t)f.c.layers);
    assert_true(log.at[3].loss < log.at[0].loss);
    char *newest = mull_checkpoint_newest(f.out[0]);
    mull_trainer *u =
        trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[1], .resume = newest, .threads = 2, .steps = 8});
    assert_memory_equal(mull_trainer_params(u)->w, p->w, (size_t)p->count * sizeof *p->w);
    assert_int_equal(steps(t, &s, 6, &log), 0);
    assert_int_equal(steps(u, &s, 6, &again), 0);
    assert_memory_equal(mull_trainer_params(u)->w, p->w, (size_t)p->count * sizeof *p->w);
    json_t *config = NULL;
    mull_buf text = file_bytes(newest, "adapter_config.json");
    config = json_loadb(text.data, text.len, 0, NULL);
    assert_int_equal(json_integer_value(json_object_get(config, "r")), 4);
    assert_int_equal(json_array_size(json_object_get(config, "target_modules")), 3);
    json_decref(config);
    mull_buf_fini(&text);
    free(newest);
    /* The merged model by itself has the loss that the next step sees with adapters. */
    char adapter[96];
    snprintf(adapter, sizeof adapter, "%s/checkpoint-6", f.out[0]);
    if (mull_lora_merge_folder(f.dir, adapter, f.out[2], false, &err)) fail_msg("%s: %s", err.where, err.why);
    assert_int_equal(steps(u, &s, 7, &again), 0);
    mull_recipe plain = run_recipe(f.out[2], MULL_SFT);
    mull_trainer *m = trainer_open(&(mull_trainer_opts){.recipe = &plain, .threads = 2, .steps = 1});
    step_log merged = {0};
    assert_int_equal(steps(m, &s, 1, &merged), 0);
    assert_true(fabs(merged.at[0].loss - again.at[again.n - 1].loss) <= 1e-5);
    assert_true(fabs(merged.at[0].loss - log.at[0].loss) > 1e-3);
    mull_trainer_destroy(m);
    mull_params_fini(&base);
    mull_trainer_destroy(t);
    mull_trainer_destroy(u);
    source_fini(&s);
    fixture_fini(&f);
}

static bool there(const char *out, int n) {
    char path[128];
    snprintf(path, sizeof path, "%s/checkpoint-%d", out, n);
    return access(path, F_OK) == 0;
}

static void retention(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_recipe r = run_recipe(f.dir, MULL_SFT);
    r.save_steps = 2;
    r.save_total_limit = 2;
    case_source s;
    step_log log = {0};
    open_source(&f, &s, true, 1);
    mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 7});
    assert_int_equal(steps(t, &s, 7, &log), 0);
    assert_int_equal(log.checkpoints, 4);
    assert_false(there(f.out[0], 2) || there(f.out[0], 4));
    assert_true(there(f.out[0], 6) && there(f.out[0], 7));
    mull_trainer_destroy(t);
    /* A torn optimiser file is told, not used. */
    char path[128];
    mull_error err = {0};
    mull_trainer *none = NULL;
    snprintf(path, sizeof path, "%s/checkpoint-7/optimizer-00000-of-00001.zst", f.out[0]);
    assert_int_equal(truncate(path, 5000), 0);
    snprintf(path, sizeof path, "%s/checkpoint-7", f.out[0]);
    assert_int_equal(mull_trainer_create(
                         &(mull_trainer_opts){.recipe = &r, .out = f.out[0], .resume = path, .steps = 9}, &none, &err),
                     MULL_EFORMAT);
    source_fini(&s);
    fixture_fini(&f);
}

static void schedules(void **state) {
    (void)state;
    mull_optim_opts o = {.schedule = MULL_LR_LINEAR, .lr = 1, .warmup = 4, .total = 12};
    assert_true(mull_optim_lr(&o, 0) == 0 && mull_optim_lr(&o, 2) == 0.5 && mull_optim_lr(&o, 4) == 1);
    assert_true(mull_optim_lr(&o, 8) == 0.5 && mull_optim_lr(&o, 12) == 0 && mull_optim_lr(&o, 99) == 0);
    o.schedule = MULL_LR_COSINE;
    assert_true(fabs(mull_optim_lr(&o, 8) - 0.5) < 1e-12 && fabs(mull_optim_lr(&o, 6) - 0.853553390593) < 1e-9);
    o.schedule = MULL_LR_CONSTANT;
    assert_true(mull_optim_lr(&o, 1) == 0.25 && mull_optim_lr(&o, 11) == 1);
    assert_true(!mull_params_decays("model.layers.0.input_layernorm.weight") && !mull_params_decays("a.q_proj.bias"));
    assert_true(mull_params_decays("model.norm.weight") && mull_params_decays("model.embed_tokens.weight"));
}

/* Written from a copy while the weights move on: the same bytes as those saved between two steps; each is told of once,
 * and the loop never saves twice at a time. */
static void saving_beside_training(void **state) {
    (void)state;
    static const char *const FILES[] = {"model.safetensors", "optimizer-00000-of-00001.zst", "trainer_state.json",
                                        "SHA256SUMS"};
    enum { STEPS = 9 };
    for (int kind = 0; kind < 3; kind++) { /* float32, bfloat16 with masters, adapters */
        fixture f;
        fixture_init(&f);
        char targets[] = "q_proj,v_proj", name[40];
        mull_recipe r = run_recipe(f.dir, MULL_SFT);
        r.save_steps = 1;
        r.bf16 = kind == 1;
        r.lora_rank = kind == 2 ? 4 : 0;
        r.lora_alpha = 8;
        r.lora_targets = targets;
        for (int i = 0; i < 2; i++) {
            case_source s;
            step_log log = {0};
            r.async_save = i;
            open_source(&f, &s, false, 2);
            mull_trainer *t =
                trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[i], .threads = 2, .steps = STEPS});
            assert_int_equal(steps(t, &s, STEPS, &log), 0);
            assert_int_equal(log.checkpoints, STEPS);
            mull_trainer_destroy(t);
            source_fini(&s);
        }
        for (int k = 1; k <= STEPS; k++) {
            snprintf(name, sizeof name, "checkpoint-%d", k);
            char *a = mull_path_join(f.out[0], name), *b = mull_path_join(f.out[1], name);
            for (size_t i = kind == 2; i < sizeof FILES / sizeof *FILES; i++) same_file(a, b, FILES[i]);
            if (kind == 2) same_file(a, b, "adapter_model.safetensors");
            free(a);
            free(b);
        }
        fixture_fini(&f);
    }
}

/* The run ends with the failure at a step after it, not at its own end; the checkpoint before is whole. */
static void a_save_that_fails_beside_training(void **state) {
    (void)state;
    fixture f;
    fixture_init(&f);
    mull_recipe r = run_recipe(f.dir, MULL_SFT);
    r.save_steps = 2;
    r.async_save = true;
    case_source s;
    step_log log = {0};
    open_source(&f, &s, true, 1);
    mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = f.out[0], .threads = 2, .steps = 40});
    assert_int_equal(steps(t, &s, 3, &log), 0);
    assert_int_equal(log.checkpoints, 2); /* of steps 2 and 3 */
    char *in_the_way = mull_path_join(f.out[0], ".checkpoint-4.tmp"), *good = mull_path_join(f.out[0], "checkpoint-3");
    FILE *file = fopen(in_the_way, "w"); /* a file where the folder is to be */
    assert_non_null(file);
    fclose(file);
    assert_int_equal(steps(t, &s, 40, &log), MULL_EIO);
    assert_true(log.n >= 4 && log.n <= 6); /* at the latest before the next save */
    assert_int_equal(log.checkpoints, 2);
    mull_error err = {0};
    json_t *sums = mull_checkpoint_summary(good, &err);
    assert_non_null(sums);
    json_decref(sums);
    mull_trainer_destroy(t);
    free(in_the_way);
    free(good);
    source_fini(&s);
    fixture_fini(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resume_is_exact),
        cmocka_unit_test(packing_equals_accumulation),
        cmocka_unit_test(recompute_is_exact),
        cmocka_unit_test(frozen_stays),
        cmocka_unit_test(not_finite_is_skipped),
        cmocka_unit_test(lora),
        cmocka_unit_test(retention),
        cmocka_unit_test(saving_beside_training),
        cmocka_unit_test(a_save_that_fails_beside_training),
        cmocka_unit_test(schedules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
