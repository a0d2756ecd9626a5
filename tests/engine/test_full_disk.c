/* A disk that is full, as a limit on the size of files makes it: generate, init and training end with status 1 and one
 * line that says so; nothing half-written takes the place of a whole file, and once there is room the work goes on from
 * what was kept. (Annotation has the same in test_annotate_faults.c, evaluation in test_evaluate.c.) */
#include "tests/engine/annotate_util.h"

/* One line, an error that names the disk. */
static void says_full(const place *p) {
    mull_buf b = get_file(p->dir, "stderr");
    size_t errors = 0;
    for (const char *at = b.data; at && (at = strstr(at, "error: ")); at += 7) errors++;
    if (errors != 1 || !strstr(b.data, "): ") || !strstr(b.data, "File too large"))
        fail_msg("%zu errors: %s", errors, b.data ? b.data : "");
    mull_buf_fini(&b);
}

static void test_generate(void **state) {
    (void)state;
    place p;
    char spec[400], in[96];
    place_init(&p);
    snprintf(in, sizeof in, "%.50s/spec.json", p.dir);
    snprintf(
        spec, sizeof spec,
        "{\"kind\":\"generate\",\"model\":\"%s\",\"out\":\"%s\",\"prompt\":\"x\",\"sampling\":{\"max_new_tokens\":400,"
        "\"ignore_eos\":true}}",
        p.model, p.out);
    put_text(in, spec);
    const char *const run[] = {"run", NULL};
    for (rlim_t limit = 512; limit <= 1024; limit *= 2) { /* room for the words, not for the answer */
        assert_int_equal(wait_engine(start_engine(p.dir, run, in, -1, limit)), MULL_EXIT_FAILED);
        assert_false(there(p.out, "result.json"));
    }
    says_full(&p);
    assert_int_equal(wait_engine(start_engine(p.dir, run, in, -1, 0)), 0);
    assert_true(there(p.out, "result.json"));
    place_fini(&p);
}

static void test_init(void **state) {
    (void)state;
    place p;
    char out[96];
    place_init(&p);
    snprintf(out, sizeof out, "%.50s/new", p.dir);
    const char *const args[] = {"init", "--preset", "tiny", "--out", out, NULL};
    assert_int_equal(wait_engine(start_engine(p.dir, args, NULL, -1, 20000)), MULL_EXIT_FAILED);
    says_full(&p);
    assert_false(there(out, "model.safetensors"));
    shell("rm -rf %s", out);
    assert_int_equal(wait_engine(start_engine(p.dir, args, NULL, -1, 0)), 0);
    const char *const look[] = {"inspect", out, NULL};
    assert_int_equal(wait_engine(start_engine(p.dir, look, NULL, -1, 0)), 0);
    place_fini(&p);
}

/* Checkpoints every second step: the first that does not fit ends the run; with room again it ends as one that was
 * never disturbed. */
static void test_checkpoint(void **state) {
    (void)state;
    place p;
    char config[96], rows[96], text[1200], whole[96], broken[96];
    place_init(&p);
    snprintf(config, sizeof config, "%.50s/c.yaml", p.dir);
    snprintf(rows, sizeof rows, "%.50s/rows.jsonl", p.dir);
    snprintf(whole, sizeof whole, "%.50s/whole", p.dir);
    snprintf(broken, sizeof broken, "%.50s/broken", p.dir);
    FILE *f = fopen(rows, "w");
    assert_non_null(f);
    for (int i = 0; i < 8; i++)
        fprintf(
            f,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"How many is %d?\"},{\"role\":\"assistant\",\"content\":"
            "\"%d\"}]}\n",
            i, i);
    assert_int_equal(fclose(f), 0);
    snprintf(
        text, sizeof text,
        "model_path: %s\nfreeze_vision: True\nlearning_rate: 0.002\nper_device_train_batch_size: 2\nsave_steps: 2\n"
        "save_total_limit: 2\npack_tokens: 256\nmax_steps: 4\ntrain_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  "
        "messages_location: %s\n",
        p.model, rows);
    put_text(config, text);
    const char *const undisturbed[] = {"train", config, "--out", whole, NULL}, *const args[] = {"train", config,
                                                                                                "--out", broken, NULL};
    assert_int_equal(wait_engine(start_engine(p.dir, undisturbed, NULL, -1, 0)), 0);
    assert_int_equal(wait_engine(start_engine(p.dir, args, NULL, -1, 20000)), MULL_EXIT_FAILED);
    says_full(&p);
    assert_false(there(broken, "checkpoint-2/model.safetensors"));
    assert_int_equal(wait_engine(start_engine(p.dir, args, NULL, -1, 0)), 0);
    same_files(whole, broken, "checkpoint-4/model.safetensors");
    place_fini(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_generate), cmocka_unit_test(test_init),
                                       cmocka_unit_test(test_checkpoint)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
