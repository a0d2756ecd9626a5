/* GRPO against TRL's own functions (tests/data/model/grpo_trl.json, made by make_grpo.py there): every loss type with
 * and without KL, an earlier policy, other temperatures and an asymmetric clip, on a prompt with two pictures and a
 * video, gradients down into the vision tower; and the advantages of every scaling, through a training run. */
#include "tests/engine/grpo_util.h"

#include "tests/engine/tower_case.h"

static json_t *vectors(void) {
    json_t *j = json_load_file(OWN "/grpo_trl.json", 0, NULL);
    assert_non_null(j);
    return j;
}

static double number(const json_t *j, const char *key) {
    const json_t *v = json_object_get(j, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

/* The list as float32, in memory that p frees. */
static void add_floats(case_parts *p, const json_t *list, const char *name) {
    int64_t n = (int64_t)json_array_size(list);
    float *x = malloc((size_t)n * sizeof *x);
    assert_true(x && n > 0);
    for (int64_t i = 0; i < n; i++) x[i] = (float)json_number_value(json_array_get(list, (size_t)i));
    p->owned[p->nowned++] = x;
    p->t[p->n++] = (mull_tensor_info){.name = name, .dtype = MULL_F32, .ndim = 1, .shape = {n}, .count = n, .data = x};
}

static void add_ints(case_parts *p, const int64_t *x, int64_t n, const char *name) {
    p->t[p->n++] = (mull_tensor_info){.name = name, .dtype = MULL_I64, .ndim = 1, .shape = {n}, .count = n, .data = x};
}

/* The prompt of the tower's case with the vectors' completions. */
static void write_case(const json_t *want, const json_t *c, const char *prompt, const char *path) {
    const json_t *lists = json_object_get(want, "completions");
    mull_error err = {0};
    int64_t ids[64], cu[8] = {0}, n = 0, count = (int64_t)json_array_size(lists);
    char temperature[16];
    case_parts p = {0};
    assert_int_equal(mull_safetensors_open(prompt, &p.open[p.nopen++], &err), 0);
    for (size_t i = 0; i < mull_safetensors_count(p.open[0]); i++) {
        const mull_tensor_info *t = mull_safetensors_at(p.open[0], i);
        if (strcmp(t->name, "labels")) parts_add(&p, t, t->name);
    }
    assert_in_range(count, 2, 7);
    for (int64_t s = 0; s < count; s++) {
        const json_t *list = json_array_get(lists, (size_t)s);
        for (size_t i = 0; i < json_array_size(list); i++) {
            assert_true(n < 64);
            ids[n++] = json_integer_value(json_array_get(list, i));
        }
        cu[s + 1] = n;
    }
    add_ints(&p, ids, n, "completion_ids");
    add_ints(&p, cu, count + 1, "cu_completions");
    add_floats(&p, json_object_get(want, "advantages"), "advantages");
    snprintf(temperature, sizeof temperature, "%.1f", number(c, "temperature"));
    if (json_is_true(json_object_get(c, "old")))
        add_floats(&p, json_object_get(json_object_get(want, "old_logps"), temperature), "old_logps");
    if (number(c, "beta") > 0)
        add_floats(&p, json_object_get(json_object_get(want, "ref_logps"), temperature), "ref_logps");
    parts_write(&p, path);
}

/* Norm, sum, first, middle and last value of a gradient, within 1e-4 of its norm. */
static void same_gradient(const mull_outputs *out, const char *name, const json_t *v, const char *what) {
    char full[128];
    snprintf(full, sizeof full, "grad.%s", name);
    const mull_tensor_info *t = mull_outputs_find(out, full);
    if (!t) fail_msg("there is no %s", full);
    const float *g = t->data;
    double norm = 0, sum = 0;
    for (int64_t i = 0; i < t->count; i++) norm += (double)g[i] * g[i], sum += g[i];
    double got[5] = {sqrt(norm), sum, g[0], g[t->count / 2], g[t->count - 1]},
           all = json_number_value(json_array_get(v, 0));
    for (size_t i = 0; i < 5; i++) {
        double w = json_number_value(json_array_get(v, i)), bound = 1e-4 * all * (i == 1 ? sqrt((double)t->count) : 1);
        if (!(fabs(got[i] - w) <= bound)) fail_msg("%s, %s, figure %zu: %.9g, not %.9g", what, name, i, got[i], w);
    }
}

static void losses(void **state) {
    (void)state;
    static const char *const TYPES[] = {"grpo", "dr_grpo", "bnpo", "dapo"};
    char dir[] = "/tmp/mull_trl_XXXXXX", prompt[64], path[64], what[96];
    mull_error err = {0};
    mull_config config;
    util_checkpoint(OWN "/configs.json", "own", dir);
    assert_int_equal(mull_config_load(dir, &config, &err), 0);
    snprintf(prompt, sizeof prompt, "%s/prompt.st", dir);
    snprintf(path, sizeof path, "%s/case.st", dir);
    tower_case_write(&config, prompt);
    json_t *want = vectors(), *c, *v;
    size_t i, tensors = 0, of_type[4] = {0};
    json_array_foreach(json_object_get(want, "cases"), i, c) {
        const char *type = json_string_value(json_object_get(c, "type")), *name;
        int k = 0;
        while (k < 4 && strcmp(TYPES[k], type)) k++;
        assert_true(k < 4);
        of_type[k]++;
        write_case(want, c, prompt, path);
        mull_outputs out;
        mull_grad_opts o = {.loss = MULL_GRAD_GRPO,
                            .grpo = {.type = (mull_grpo_loss)k,
                                     .beta = number(c, "beta"),
                                     .epsilon = number(c, "epsilon"),
                                     .epsilon_high = number(c, "epsilon_high"),
                                     .temperature = number(c, "temperature"),
                                     .max_completion_length = (int64_t)number(want, "max_completion_length"),
                                     .backward = true},
                            .params = {.vision = true},
                            .threads = 2};
        train_grad(dir, (const char *[]){path}, 1, &o, &out);
        snprintf(what, sizeof what, "%s, beta %g, temperature %g", type, o.grpo.beta, o.grpo.temperature);
        double loss = *(const float *)mull_outputs_find(&out, "loss")->data, w = number(c, "loss");
        if (!(fabs(loss - w) <= 2e-5)) fail_msg("%s: loss %.9g, not %.9g", what, loss, w);
        json_object_foreach(json_object_get(c, "grad"), name, v) {
            same_gradient(&out, name, v, what);
            tensors++;
        }
        mull_outputs_fini(&out);
    }
    for (int k = 0; k < 4; k++) assert_int_equal(of_type[k], 3);
    assert_true(tensors > 100); /* all of the tower once, some every time */
    json_decref(want);
    mull_config_fini(&config);
    remove_tree(dir);
}

/* The rewards of the vectors, given by a command, and what a run kept as advantages. */
static void advantages(void **state) {
    (void)state;
    static const char *const SCALES[] = {"group", "batch", "none"};
    fixture f;
    fixture_init(&f);
    static run r;
    json_t *want = vectors(), *groups = json_object_get(want, "groups"), *rewards = json_object_get(groups, "rewards");
    char path[64], command[128], out[96], scale[32], line[8192];
    snprintf(path, sizeof path, "%s/scores", f.dir);
    snprintf(command, sizeof command, "reward_command=cat >/dev/null; cat %s", path);
    FILE *scores = fopen(path, "w");
    assert_non_null(scores);
    assert_int_equal(json_array_size(rewards), 16);
    for (size_t i = 0; i < 16; i++) fprintf(scores, "%.17g\n", json_number_value(json_array_get(rewards, i)));
    assert_int_equal(fclose(scores), 0);
    for (size_t s = 0; s < 3; s++) {
        const json_t *list = json_object_get(groups, SCALES[s]);
        snprintf(scale, sizeof scale, "scale_rewards=%s", SCALES[s]);
        out_of(&f, SCALES[s], out);
        good(&f, out, 1, &r, SETS(command, "reward_builtin=False", "max_steps=1", scale));
        snprintf(line, sizeof line, MULL_BIN_DIR "/mull-engine rollouts %s --json --limit 0", out);
        FILE *p = popen(line, "r");
        assert_non_null(p);
        int n = 0;
        for (; fgets(line, sizeof line, p); n++) {
            json_t *j = json_loads(line, JSON_ALLOW_NUL, NULL);
            size_t at = (size_t)(number(j, "prompt") * 4 + number(j, "sample"));
            double got = number(j, "advantage"), w = json_number_value(json_array_get(list, at));
            assert_true(at < 16 && (float)number(j, "reward") == (float)json_number_value(json_array_get(rewards, at)));
            /* TRL divides in float32. */
            if (!(fabs(got - w) <= 2e-6 * fmax(1, fabs(w))))
                fail_msg("%s, completion %zu: %.9g, not %.9g", SCALES[s], at, got, w);
            json_decref(j);
        }
        assert_int_equal(pclose(p), 0);
        assert_int_equal(n, 16);
    }
    json_decref(want);
    remove_tree(f.dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(losses), cmocka_unit_test(advantages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
