/* The trained vision tower: features of the frozen one, gradients against the reference (transformers' autograd on the
 * same case, tests/data/model/tower_grad.json) and against finite differences, and whole training runs. */
#include "tests/engine/trainer_util.h"

#include "tests/engine/tower_case.h"

#include "engine/train/tower.h"

typedef struct bench {
    char dir[64], path[96];
    mull_config c;
    mull_params params;
    mull_model *m;
    mull_net *net;
    mull_tower *tower;
} bench;

static void bench_init(bench *b, bool half) {
    mull_error err = {0};
    *b = (bench){0};
    snprintf(b->dir, sizeof b->dir, "/tmp/mull_tower_XXXXXX");
    util_checkpoint(OWN "/configs.json", "own", b->dir);
    assert_int_equal(mull_config_load(b->dir, &b->c, &err), 0);
    snprintf(b->path, sizeof b->path, "%s/case.st", b->dir);
    tower_case_write(&b->c, b->path);
    b->m = util_load(b->dir, half ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32, 2);
    mull_params_opts po = {.vision = true, .half = half};
    mull_net_opts no = {0};
    assert_int_equal(mull_params_load(b->dir, &b->c, &po, &b->params, &err), 0);
    assert_int_equal(mull_net_create(&b->c, &b->params, mull_model_pool(b->m), &no, &b->net, &err), 0);
    assert_int_equal(mull_tower_create(b->net, &b->tower, &err), 0);
}

static void bench_fini(bench *b) {
    mull_tower_destroy(b->tower);
    mull_net_destroy(b->net);
    mull_params_fini(&b->params);
    mull_model_destroy(b->m);
    mull_config_fini(&b->c);
    remove_tree(b->dir);
}

static const mull_grid GRIDS[2] = {{.t = 1, .h = 18, .w = 12}, {.video = true, .t = 2, .h = 12, .w = 10}};

static int64_t floats(const bench *b, int k) {
    return mull_grid_tokens(&b->c, &GRIDS[k]) * b->c.hidden;
}

static void features(const bench *b, mull_pack_source s, int k, const float *patches, float *out) {
    mull_error err = {0};
    (void)b;
    if (s.encode(s.ctx, &GRIDS[k], patches, out, &err)) fail_msg("%s", err.why);
}

static void same_features(void **state) {
    (void)state;
    for (int half = 0; half < 2; half++) {
        bench b;
        bench_init(&b, half);
        float *patches = own_patches("any", 240);
        for (int k = 0; k < 2; k++) {
            int64_t n = floats(&b, k);
            float *want = malloc((size_t)n * sizeof *want), *got = malloc((size_t)n * sizeof *got);
            features(&b, mull_pack_tower(b.m), k, patches, want);
            features(&b, mull_tower_source(b.tower), k, patches, got);
            assert_true(relative_l2(got, want, n, 1) < 2e-6); /* products add up in blocks of other sizes */
            free(want);
            free(got);
        }
        free(patches);
        bench_fini(&b);
    }
}

/* sum of features times r, in double. */
static double dot_loss(const bench *b, int k, const float *patches, const float *r, float *out) {
    double s = 0;
    features(b, mull_tower_source(b->tower), k, patches, out);
    for (int64_t i = 0; i < floats(b, k); i++) s += (double)out[i] * r[i];
    return s;
}

/* Every tensor in a random direction: the slope between two points against gradient times direction. float32 features
 * leave about three digits of the difference. */
static void finite_differences(void **state) {
    (void)state;
    bench b;
    bench_init(&b, false);
    float *patches = own_patches("any", 240);
    for (int k = 0; k < 2; k++) {
        int64_t n = floats(&b, k);
        float *r = malloc((size_t)n * sizeof *r), *out = malloc((size_t)n * sizeof *out);
        for (int64_t i = 0; i < n; i++) r[i] = (float)util_uniform(5, "r", (uint64_t)i);
        const float *starts[1] = {out}, *list[1] = {patches};
        float *d_starts[1] = {r};
        mull_pack p = {.starts = starts, .d_starts = d_starts};
        mull_grid media[1] = {GRIDS[k]};
        mull_batch batch = {.nmedia = 1, .media = media, .patches = list};
        mull_error err = {0};
        memset(b.params.g, 0, (size_t)b.params.trained * sizeof(float));
        assert_int_equal(mull_tower_backward(b.tower, &p, &batch, &err), 0);
        int tensors = 0;
        for (size_t i = 0; i < b.params.n; i++) {
            mull_param *q = &b.params.list[i];
            if (strncmp(q->name, "visual.", 7)) {
                for (int64_t j = 0; j < q->count; j++) assert_true(q->g[j] == 0); /* the language model's */
                continue;
            }
            tensors++;
            float *before = malloc((size_t)q->count * sizeof *before);
            memcpy(before, q->w, (size_t)q->count * sizeof *before);
            double size = 0, dir = 0, slope = 0;
            for (int64_t j = 0; j < q->count; j++) size += (double)before[j] * before[j];
            /* Along the gradient, bent: a random direction alone would be nearly at right angles to it. */
            double gg = 0;
            for (int64_t j = 0; j < q->count; j++) gg += (double)q->g[j] * q->g[j];
            float *d = malloc((size_t)q->count * sizeof *d);
            for (int64_t j = 0; j < q->count; j++) {
                d[j] =
                    (float)(q->g[j] / sqrt(gg) + 0.3 * util_uniform(9, q->name, (uint64_t)j) / sqrt((double)q->count));
                dir += (double)d[j] * d[j];
                slope += (double)d[j] * q->g[j];
            }
            double eps = 2e-3 * sqrt(size / dir), loss[2];
            for (int side = 0; side < 2; side++) {
                for (int64_t j = 0; j < q->count; j++) q->w[j] = before[j] + (float)((side ? -eps : eps) * d[j]);
                loss[side] = dot_loss(&b, k, patches, r, out);
            }
            memcpy(q->w, before, (size_t)q->count * sizeof *before);
            double got = (loss[0] - loss[1]) / (2 * eps);
            if (!(fabs(got - slope) <= 1e-2 * fabs(slope)))
                fail_msg("%s: slope %.6g, gradient %.6g", q->name, got, slope);
            free(before);
            free(d);
        }
        assert_true(tensors > 40);
        free(r);
        free(out);
    }
    free(patches);
    bench_fini(&b);
}

/* Two places with one medium that was encoded once: the sum of their gradients. */
static void a_medium_twice(void **state) {
    (void)state;
    bench b;
    bench_init(&b, false);
    float *patches = own_patches("any", 240);
    int64_t n = floats(&b, 0);
    float *d[3], *feature = malloc((size_t)n * sizeof *feature);
    for (int i = 0; i < 3; i++) {
        d[i] = malloc((size_t)n * sizeof **d);
        for (int64_t j = 0; j < n && i < 2; j++) d[i][j] = (float)util_uniform((uint64_t)i, "d", (uint64_t)j);
    }
    for (int64_t j = 0; j < n; j++) d[2][j] = d[0][j] + d[1][j];
    mull_grid media[2] = {GRIDS[0], GRIDS[0]};
    const float *starts[2] = {feature, feature}, *list[2] = {patches, patches};
    mull_error err = {0};
    float *sum = malloc((size_t)b.params.trained * sizeof *sum);
    mull_pack p = {.starts = starts, .d_starts = &d[2]};
    mull_batch batch = {.nmedia = 1, .media = media, .patches = list};
    assert_int_equal(mull_tower_backward(b.tower, &p, &batch, &err), 0);
    memcpy(sum, b.params.g, (size_t)b.params.trained * sizeof *sum);
    memset(b.params.g, 0, (size_t)b.params.trained * sizeof *sum);
    p.d_starts = d;
    batch.nmedia = 2;
    assert_int_equal(mull_tower_backward(b.tower, &p, &batch, &err), 0);
    assert_memory_equal(sum, b.params.g, (size_t)b.params.trained * sizeof *sum);
    for (int i = 0; i < 3; i++) free(d[i]);
    free(feature);
    free(patches);
    free(sum);
    bench_fini(&b);
}

/* Norm, sum and three values of every tensor of the tower, from transformers 5.24 in float32 with eager attention. The
 * reference and ours differ by at most 1.1e-5 of a tensor's norm (relative L2 over all of it); bound 1e-4 of the norm.
 */
static void reference(void **state) {
    (void)state;
    bench b;
    bench_init(&b, false);
    json_t *want = json_load_file(OWN "/tower_grad.json", 0, NULL), *grads = json_object_get(want, "grad"), *v;
    assert_non_null(grads);
    const char *cases[] = {b.path}, *name;
    mull_outputs out;
    mull_grad_opts o = {.ce = {.backward = true}, .params = {.vision = true}, .threads = 2};
    train_grad(b.dir, cases, 1, &o, &out);
    double loss = json_number_value(json_object_get(want, "loss"));
    assert_true(fabs(*(const float *)mull_outputs_find(&out, "loss")->data - loss) < 1e-5 * loss);
    json_object_foreach(grads, name, v) {
        char full[128];
        snprintf(full, sizeof full, "grad.%s", name);
        const mull_tensor_info *t = mull_outputs_find(&out, full);
        if (!t) fail_msg("there is no %s", full);
        const float *g = t->data;
        double norm = 0, sum = 0, w[5];
        for (int64_t i = 0; i < t->count; i++) norm += (double)g[i] * g[i], sum += g[i];
        norm = sqrt(norm);
        for (size_t i = 0; i < 5; i++) w[i] = json_number_value(json_array_get(v, i));
        double got[5] = {norm, sum, g[0], g[t->count / 2], g[t->count - 1]};
        for (int i = 0; i < 5; i++) {
            double bound = 1e-4 * w[0] * (i == 1 ? sqrt((double)t->count) : 1);
            if (!(fabs(got[i] - w[i]) <= bound)) fail_msg("%s, figure %d: %.9g, not %.9g", name, i, got[i], w[i]);
        }
    }
    assert_true(json_object_size(grads) > 40);
    json_decref(want);
    mull_outputs_fini(&out);
    bench_fini(&b);
}

/* freeze_vision: False trains all tensors; stopped and resumed it is the same; freeze still takes patterns away. */
static void training(void **state) {
    (void)state;
    bench b;
    bench_init(&b, false);
    mull_error err = {0};
    char out[3][96], name[2][128];
    case_source s = {.n = 1, .accumulate = 1};
    assert_int_equal(mull_grad_case_open(b.path, &b.c, MULL_GRAD_CE, &s.cases[0], &err), 0);
    for (int i = 0; i < 3; i++) snprintf(out[i], sizeof out[i], "%s/out%d", b.dir, i);
    mull_recipe r = run_recipe(b.dir, MULL_SFT);
    r.freeze_vision = false;
    step_log log[4] = {0};
    log[1].stop_after = 2;
    mull_train_source src = source_of(&s);
    for (int i = 0; i < 3; i++) {
        char *resume = i == 2 ? mull_checkpoint_newest(out[1]) : NULL;
        mull_trainer *t = trainer_open(
            &(mull_trainer_opts){.recipe = &r, .out = out[i ? 1 : 0], .resume = resume, .threads = 2, .steps = 4});
        s.at = mull_trainer_state(t)->step;
        mull_train_hooks hooks = hooks_of(&log[i]);
        assert_int_equal(mull_trainer_run(t, 4, &src, &hooks, &err), i == 1 ? MULL_ECANCELLED : 0);
        if (i == 0) {
            size_t moved = 0;
            const mull_params *p = mull_trainer_params(t);
            for (size_t k = 0; k < p->n; k++) {
                const mull_param *q = mull_params_find(&b.params, p->list[k].name);
                bool tower = !strncmp(q->name, "visual.", 7);
                moved += tower && memcmp(q->w, p->list[k].w, (size_t)q->count * sizeof(float));
            }
            assert_true(moved > 40);
        }
        mull_trainer_destroy(t);
        free(resume);
    }
    assert_true(log[0].at[3].loss < log[0].at[0].loss);
    for (int i = 0; i < 2; i++) snprintf(name[i], sizeof name[i], "%s/checkpoint-4", out[i]);
    same_file(name[0], name[1], "model.safetensors");
    same_file(name[0], name[1], "optimizer-00000-of-00001.zst");
    char pattern[] = "visual.blocks.*,visual.patch_embed*";
    r.freeze = pattern;
    mull_trainer *t = trainer_open(&(mull_trainer_opts){.recipe = &r, .out = out[2], .threads = 2, .steps = 2});
    mull_train_hooks hooks = hooks_of(&log[3]);
    s.at = 0;
    assert_int_equal(mull_trainer_run(t, 2, &src, &hooks, &err), 0);
    for (size_t k = 0; k < b.params.n; k++) {
        const mull_param *q = &b.params.list[k], *now = mull_params_find(mull_trainer_params(t), q->name);
        bool frozen = mull_params_match(pattern, q->name), merger = !strncmp(q->name, "visual.merger", 13);
        bool moved = memcmp(q->w, now->w, (size_t)q->count * sizeof(float)) != 0;
        if (frozen) assert_false(moved);
        if (merger) assert_true(moved);
    }
    mull_trainer_destroy(t);
    source_fini(&s);
    bench_fini(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_features), cmocka_unit_test(finite_differences),
                                       cmocka_unit_test(a_medium_twice), cmocka_unit_test(reference),
                                       cmocka_unit_test(training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
