/* Ten optimiser steps against the reference: losses, norms, clipping, learning rates, parameters and moments. Bounds
 * (oracle/model/README.md): 1e-3 largest and 3e-6 rms on parameters, since Adam makes much of gradients near its eps.
 */
#include "tests/engine/trainer_util.h"

static double number(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static void open_cases(case_source *s, const char *dir, const mull_safetensors *want, const json_t *info, bool stage1,
                       const mull_config *c) {
    json_t *samples = json_object_get(info, "samples");
    s->n = (int)json_array_size(samples);
    s->accumulate = 2;
    for (int i = 0; i < s->n; i++) {
        const json_t *sample = json_array_get(samples, (size_t)i);
        const char *key = json_string_value(json_object_get(sample, "key"));
        char name[128], path[128];
        case_parts p = {0};
        snprintf(name, sizeof name, "input_ids.%s", key);
        parts_add(&p, mull_safetensors_find(want, name), "input_ids");
        snprintf(name, sizeof name, "labels.%s", key);
        parts_add(&p, mull_safetensors_find(want, name), "labels");
        parts_sample(&p, sample);
        snprintf(path, sizeof path, "%s/case.safetensors", dir);
        parts_write(&p, path);
        mull_error err = {0};
        if (mull_grad_case_open(path, c, stage1 ? MULL_GRAD_STAGE1 : MULL_GRAD_CE, &s->cases[i], &err))
            fail_msg("%s: %s", err.where, err.why);
        unlink(path); /* mapped */
    }
}

/* Full tensors PREFIX.NAME, or samples PREFIX.index.NAME and PREFIX.value.NAME, of the flat arrays. */
static void compare(const mull_safetensors *want, const char *prefix, const mull_params *p, const float *values,
                    double largest, double rms) {
    double squares = 0, worst = 0;
    int64_t count = 0;
    int compared = 0;
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        char name[192];
        snprintf(name, sizeof name, "%s.%s", prefix, q->name);
        const mull_tensor_info *t = mull_safetensors_find(want, name), *index = NULL;
        if (!t) {
            snprintf(name, sizeof name, "%s.value.%s", prefix, q->name);
            t = mull_safetensors_find(want, name);
            snprintf(name, sizeof name, "%s.index.%s", prefix, q->name);
            index = mull_safetensors_find(want, name);
        }
        if (!t) continue;
        compared++;
        const float *ours = values ? values + q->at : q->w;
        for (int64_t k = 0; k < t->count; k++) {
            double d = fabs((double)ours[index ? ((const int64_t *)index->data)[k] : k] - ((const float *)t->data)[k]);
            if (!isfinite(d)) fail_msg("%s: no number", name);
            squares += d * d;
            worst = d > worst ? d : worst;
            count++;
        }
    }
    assert_true(compared >= 10);
    if (!(worst <= largest && sqrt(squares / (double)count) <= rms))
        fail_msg("%s: off by %.3g at most, %.3g rms", prefix, worst, sqrt(squares / (double)count));
}

static void run(const char *model, const char *name) {
    char dir[] = "/tmp/mull_run_XXXXXX", out[64];
    util_checkpoint(ORACLE_MODEL "/configs.json", model, dir);
    snprintf(out, sizeof out, "%s/out", dir);
    json_t *info = train_json(model, name), *log = json_object_get(info, "log");
    mull_safetensors *want = oracle_open(ORACLE_MODEL "/%s/%s.safetensors", model, name);
    bool stage1 = strstr(name, "stage1") != NULL;
    mull_recipe r = run_recipe(dir, stage1 ? MULL_STAGE1 : MULL_SFT);
    r.weight_decay = number(info, "weight_decay");
    r.max_grad_norm = number(info, "max_grad_norm");
    mull_trainer *t = trainer_open(
        &(mull_trainer_opts){.recipe = &r, .out = out, .threads = 2, .steps = 10, .backend = TRAIN_BACKEND});
    case_source cases = {0};
    open_cases(&cases, dir, want, info, stage1, mull_trainer_config(t));
    step_log steps = {0};
    mull_train_source src = source_of(&cases);
    mull_train_hooks hooks = hooks_of(&steps);
    mull_error err = {0};
    if (mull_trainer_run(t, 10, &src, &hooks, &err)) fail_msg("%s", err.why);
    assert_int_equal(steps.n, 10);
    for (int i = 0; i < 10; i++) {
        const json_t *l = json_array_get(log, (size_t)i);
        const mull_step *s = &steps.at[i];
        assert_int_equal(s->step, i + 1);
        assert_false(s->skipped);
        if (!(fabs(s->loss - number(l, "loss")) <= 1e-5))
            fail_msg("step %d: loss %.9g, not %.9g", i, s->loss, number(l, "loss"));
        if (!(fabs(s->grad_norm - number(l, "grad_norm")) <= 1e-4))
            fail_msg("step %d: norm %.8g, not %.8g", i, s->grad_norm, number(l, "grad_norm"));
        assert_true(fabs(s->clip - number(l, "clip")) <= 2e-5);
        assert_true(fabs(s->lr - number(l, "lr")) <= 1e-12);
    }
    const mull_params *p = mull_trainer_params(t);
    compare(want, "param", p, NULL, 1e-3, 3e-6);
    if (!strcmp(name, "train_run_sft") && !strcmp(model, "micro")) {
        compare(want, "exp_avg", p, p->m, 1e-5, 1e-6);
        compare(want, "exp_avg_sq", p, p->v, 1e-6, 1e-7);
    }
    source_fini(&cases);
    mull_trainer_destroy(t);
    mull_safetensors_close(want);
    json_decref(info);
    remove_tree(dir);
}

static void test_micro(void **state) {
    (void)state;
    static const char *const RUNS[] = {"train_run_sft",    "train_run_sft_wd",    "train_run_sft_clip",
                                       "train_run_stage1", "train_run_stage1_wd", "train_run_stage1_clip"};
    for (size_t i = 0; i < sizeof RUNS / sizeof *RUNS; i++) run("micro", RUNS[i]);
}

#ifndef MULL_CUDA_EMULATED /* minutes there; its gradients are compared by oracle_train_grad.c */
static void test_tiny(void **state) {
    (void)state;
    run("tiny", "train_run_sft");
    run("tiny", "train_run_stage1");
}
#endif

int main(void) {
    if (!oracle_present()) {
        printf("skipped: the reference vectors are not there (%s)\n", ORACLE_MODEL);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_micro),
#ifndef MULL_CUDA_EMULATED
        cmocka_unit_test(test_tiny),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
