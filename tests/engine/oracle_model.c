/* The forward pass against the reference, tensor by tensor: positions and ids exactly, float32 within ten times the
 * difference that the reference shows against itself (oracle/model/README.md, "Honest error"). */
#include "tests/engine/oracle_util.h"

#include "engine/model/forward.h"

typedef struct bound {
    const char *name;
    double limit;
} bound;

static const bound BOUNDS[] = {
    {"vision_out", 4e-5},  {"inputs_embeds", 4e-5}, {"hidden_final", 2e-4},   {"logits_last", 2.2e-4},
    {"logsumexp", 2.2e-4}, {"top8_logits", 2.2e-4}, {"next_logprob", 2.2e-4},
};

/* Ids of the best logits may swap where their logits are closer than the bound. */
static void compare_ids(const mull_tensor_info *want, const mull_tensor_info *got, const mull_outputs *out) {
    const int64_t *a = want->data, *b = got->data;
    const mull_tensor_info *logits = mull_outputs_find(out, "top8_logits");
    int64_t width = want->ndim == 2 ? 8 : 1;
    for (int64_t i = 0; i < want->count; i++) {
        if (a[i] == b[i]) continue;
        const float *row = (const float *)logits->data + i / width * 8;
        int64_t k = i % width;
        double up = k > 0 ? row[k - 1] - row[k] : INFINITY, down = k < 7 ? row[k] - row[k + 1] : 0;
        assert_true(up < 4.4e-4 || down < 4.4e-4);
    }
}

static int compare(const char *model, const char *name, const oracle_case *o, const mull_outputs *out) {
    int compared = 0;
    for (size_t i = 0; i < mull_safetensors_count(o->want); i++) {
        const mull_tensor_info *want = mull_safetensors_at(o->want, i);
        static const char *const INPUTS[] = {"input_ids", "cu_seqlens", "image_grid_thw", "video_grid_thw",
                                             "second_per_grid_ts"};
        bool skip = strstr(want->name, "greedy") != NULL;
        for (size_t k = 0; k < 5; k++) skip |= !strcmp(want->name, INPUTS[k]);
        if (skip) continue;
        char ours[128];
        snprintf(ours, sizeof ours, "%s", want->name);
        for (int p = 0; p < o->nparts; p++) {
            size_t len = strlen(o->names[p]);
            if (!strncmp(want->name, o->names[p], len) && want->name[len] == '.')
                snprintf(ours, sizeof ours, "media.%d%s", p, want->name + len);
        }
        const mull_tensor_info *got = mull_outputs_find(out, ours);
        if (!got) {
            if (want->count == 0) continue; /* vision_out without media */
            print_error("%s/%s: no output %s\n", model, name, ours);
            fail();
        }
        assert_int_equal(got->dtype, want->dtype);
        compared++;
        if (want->dtype == MULL_I64) {
            assert_int_equal(got->count, want->count);
            if (!strncmp(ours, "top8", 4) || !strcmp(ours, "argmax"))
                compare_ids(want, got, out);
            else
                assert_memory_equal(got->data, want->data, (size_t)want->count * 8);
            continue;
        }
        double limit = 2e-4, worst; /* hidden.I, vision blocks: as hidden_final */
        for (size_t b = 0; b < sizeof BOUNDS / sizeof *BOUNDS; b++)
            if (!strcmp(ours, BOUNDS[b].name)) limit = BOUNDS[b].limit;
        if (got->count != want->count && !strcmp(ours, "inputs_embeds")) { /* stored rows 0, 8, 16, .. */
            worst = 0;
            for (int64_t r = 0; r < want->shape[0]; r++) {
                int64_t h = want->shape[1];
                double d = util_difference((const float *)got->data + 8 * r * h, (const float *)want->data + r * h, h);
                worst = d > worst ? d : worst;
            }
        } else {
            assert_int_equal(got->count, want->count);
            worst = util_difference(got->data, want->data, want->count);
        }
        if (!(worst <= limit)) {
            print_error("%s/%s: %s differs by %.3g, allowed %.3g\n", model, name, ours, worst, limit);
            fail();
        }
    }
    return compared;
}

static void run_model(const char *model, int64_t chunk) {
    char dir[] = "/tmp/mull_oracle_XXXXXX", path[64];
    util_checkpoint(ORACLE_MODEL "/configs.json", model, dir);
    snprintf(path, sizeof path, "%s/case.safetensors", dir);
    mull_model *m = util_load(dir, MULL_WEIGHT_F32, 2);
    for (int i = 0; i < ORACLE_NCASES; i++) {
        oracle_case o;
        oracle_case_open(model, ORACLE_CASES[i], path, &o);
        mull_case k;
        mull_outputs out;
        mull_error err = {0};
        int rc = mull_case_open(path, mull_model_config(m), &k, &err);
        if (!rc) rc = mull_forward(m, &k, &(mull_forward_opts){.all = true, .chunk = chunk}, &out, &err);
        if (rc) mull_error_print(stderr, &err);
        assert_int_equal(rc, 0);
        assert_true(compare(model, ORACLE_CASES[i], &o, &out) >= 8);
        mull_outputs_fini(&out);
        mull_case_fini(&k);
        oracle_case_close(&o);
    }
    mull_model_destroy(m);
    util_remove(dir);
}

static void test_micro(void **state) {
    (void)state;
    run_model("micro", 0);
}

static void test_micro_in_chunks(void **state) {
    (void)state;
    run_model("micro", 7);
}

static void test_tiny(void **state) {
    (void)state;
    run_model("tiny", 0);
}

static void test_wide(void **state) {
    (void)state;
    run_model("wide", 0);
}

int main(void) {
    if (!oracle_present()) {
        printf("skipped: the reference vectors are not there (%s)\n", ORACLE_MODEL);
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_micro), cmocka_unit_test(test_micro_in_chunks),
                                       cmocka_unit_test(test_tiny), cmocka_unit_test(test_wide)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
