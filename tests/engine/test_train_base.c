/* What a recipe makes of its base, by mull-engine train as a process: Mull tokens are added to one that has none,
 * frozen patterns stay as they are, LoRA leaves the base alone, saves adapters and merges into what was trained. */
#include "tests/engine/train_cmd_util.h"

#include "engine/model/init.h"
#include "engine/model/init_tokenizer.h"
#include "engine/model/safetensors.h"

static json_t *json_of(const char *dir, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    json_t *j = json_load_file(path, 0, NULL);
    if (!j) fail_msg("no %s", path);
    return j;
}

static void dump(const char *dir, const char *name, json_t *j) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(json_dump_file(j, path, 0), 0);
    json_decref(j);
}

/* The model of the place becomes one whose tokenizer ends before the Mull tokens, as Qwen's does; its matrix has more
 * rows than tokens. */
static void make_plain(const place *p) {
    char from[128];
    int ids[MULL_SPECIALS], size;
    mull_error err = {0};
    snprintf(from, sizeof from, "%s/tokenizer", p->dir);
    assert_int_equal(mkdir(from, 0777), 0);
    assert_int_equal(mull_init_tokenizer_write(from, false, ids, &size, &err), 0);
    json_t *t = json_of(from, "tokenizer.json"), *c = json_of(from, "tokenizer_config.json"),
           *list = json_object_get(t, "added_tokens");
    for (int i = 0; i < 4; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", ids[MULL_SPECIALS - 1 - i]);
        json_array_remove(list, json_array_size(list) - 1);
        json_object_del(json_object_get(c, "added_tokens_decoder"), key);
    }
    dump(from, "tokenizer.json", t);
    dump(from, "tokenizer_config.json", c);
    if (mull_init_checkpoint("tiny", p->model, 3, from, &err)) fail_msg("%s", err.why);
}

static const mull_tensor_info *tensor(const mull_safetensors *s, const char *name) {
    const mull_tensor_info *t = mull_safetensors_find(s, name);
    if (!t) fail_msg("no %s", name);
    return t;
}

static void tokens_are_added(void **state) {
    (void)state;
    place p;
    place_init(&p);
    make_plain(&p);
    char out[96], base[128], last[128];
    snprintf(out, sizeof out, "%s/out", p.dir);
    snprintf(base, sizeof base, "%s/base", out);
    snprintf(last, sizeof last, "%s/checkpoint-4", out);
    const char *const args[] = {"mull-engine",
                                "train",
                                p.config,
                                "--out",
                                out,
                                "--max-steps",
                                "4",
                                "--set",
                                "mmlatent_mode_stage2=true",
                                "--set",
                                "resume_from_checkpoint=true",
                                NULL};
    assert_int_equal(run(&p, args), 0);
    mull_safetensors *a = NULL, *b = NULL;
    mull_error err = {0};
    assert_int_equal(mull_safetensors_open(p.model, &a, &err), 0);
    assert_int_equal(mull_safetensors_open(base, &b, &err), 0);
    assert_int_equal(mull_safetensors_count(a), mull_safetensors_count(b));
    enum { OLD = 256 + MULL_SPECIALS - 4 };
    for (size_t i = 0; i < mull_safetensors_count(a); i++) {
        const mull_tensor_info *x = mull_safetensors_at(a, i), *y = tensor(b, x->name);
        int64_t same = x->count;
        if (!strcmp(x->name, "model.embed_tokens.weight")) {
            assert_true(x->shape[0] > OLD); /* padding, which goes */
            assert_int_equal(y->shape[0], OLD + 4);
            same = OLD * x->shape[1];
            const uint16_t *rows = y->data;
            for (int64_t k = 0; k < x->shape[1]; k++) {
                double sum = 0;
                for (int64_t r = 0; r < OLD; r++) sum += (double)mull_bf16_to_f32(rows[r * x->shape[1] + k]);
                for (int64_t r = OLD; r < OLD + 4; r++)
                    assert_int_equal(rows[r * x->shape[1] + k], mull_f32_to_bf16((float)(sum / OLD)));
            }
        } else {
            assert_int_equal(x->count, y->count);
        }
        assert_memory_equal(x->data, y->data, (size_t)same * 2);
    }
    mull_safetensors_close(a);
    mull_safetensors_close(b);
    json_t *c = json_of(last, "config.json");
    assert_int_equal(json_integer_value(json_object_get(c, "vocab_size")), OLD + 4);
    assert_int_equal(json_integer_value(json_object_get(c, "latent_token_id")), OLD);
    json_decref(c);
    /* The checkpoint answers with latents, and a second run goes on from the same base. */
    assert_int_equal(
        run(&p, (const char *[]){"mull-engine", "generate", "--model", last, "--prompt", "How many?", "--mode",
                                 "mmlatent2", "--latents", "5", "--max-new-tokens", "4", "--json", NULL}),
        0);
    assert_int_equal(run(&p, args), 0);
    /* Without latents nothing is added. */
    snprintf(out, sizeof out, "%s/sft", p.dir);
    snprintf(base, sizeof base, "%s/base", out);
    assert_int_equal(
        run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", out, "--max-steps", "1", NULL}), 0);
    assert_int_not_equal(access(base, F_OK), 0);
    remove_tree(p.dir);
}

static void frozen_patterns_stay(void **state) {
    (void)state;
    place p;
    place_init(&p);
    char out[96], last[128];
    snprintf(out, sizeof out, "%s/out", p.dir);
    snprintf(last, sizeof last, "%s/checkpoint-3", out);
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", out, "--max-steps", "3",
                                              "--set", "freeze=model.layers.0.*, *embed_tokens*", NULL}),
                     0);
    mull_safetensors *a = NULL, *b = NULL;
    mull_error err = {0};
    assert_int_equal(mull_safetensors_open(p.model, &a, &err), 0);
    assert_int_equal(mull_safetensors_open(last, &b, &err), 0);
    int frozen = 0, trained = 0;
    for (size_t i = 0; i < mull_safetensors_count(a); i++) {
        const mull_tensor_info *x = mull_safetensors_at(a, i), *y = tensor(b, x->name);
        bool still = !strncmp(x->name, "visual.", 7) || !strncmp(x->name, "model.layers.0.", 15) ||
                     strstr(x->name, "embed_tokens");
        bool matrix = strstr(x->name, "_proj.weight") != NULL; /* a bf16 norm may round back to what it was */
        bool same = !memcmp(x->data, y->data, (size_t)x->count * 2);
        if (still && !same) fail_msg("%s is frozen and changed", x->name);
        if (!still && matrix && same) fail_msg("%s was not trained", x->name);
        frozen += still;
        trained += !still && matrix;
    }
    assert_true(frozen > 12 && trained == 7);
    mull_safetensors_close(a);
    mull_safetensors_close(b);
    remove_tree(p.dir);
}

static double loss_of(const place *p) {
    int lines;
    json_t *j = last_line(p, &lines);
    double loss = json_number_value(json_object_get(j, "loss"));
    json_decref(j);
    return loss;
}

/* One row, so that each step sees the same: the loss of the step after the adapters' last one, with the adapters apart,
 * is that of the first step from the merged model. */
static void adapters_merge(void **state) {
    (void)state;
    place p;
    place_init(&p);
    char out[96], adapter[128], merged[96], full[96], rows[96];
    snprintf(out, sizeof out, "%s/out", p.dir);
    snprintf(adapter, sizeof adapter, "%s/checkpoint-6", out);
    snprintf(merged, sizeof merged, "%s/merged", p.dir);
    snprintf(full, sizeof full, "%s/full", p.dir);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", p.dir);
    put(rows, "{\"messages\":[{\"role\":\"user\",\"content\":\"How many?\"},{\"role\":\"assistant\",\"content\":"
              "\"<answer>3</answer>\"}]}\n");
    const char *const train[] = {"mull-engine",
                                 "train",
                                 p.config,
                                 "--out",
                                 out,
                                 "--max-steps",
                                 "7",
                                 "--set",
                                 "lora_rank=4",
                                 "--set",
                                 "lora_alpha=8",
                                 "--set",
                                 "lora_targets=q_proj,v_proj,down_proj",
                                 "--set",
                                 "learning_rate=0.02",
                                 "--set",
                                 "bf16=false",
                                 "--set",
                                 "save_total_limit=0",
                                 "--set",
                                 "lr_scheduler_type=constant",
                                 NULL};
    assert_int_equal(run(&p, train), 0);
    double apart = loss_of(&p);
    json_t *c = json_of(adapter, "adapter_config.json");
    assert_string_equal(json_string_value(json_object_get(c, "peft_type")), "LORA");
    assert_int_equal(json_integer_value(json_object_get(c, "r")), 4);
    assert_int_equal(json_array_size(json_object_get(c, "target_modules")), 3);
    assert_string_equal(json_string_value(json_object_get(c, "base_model_name_or_path")), p.model);
    json_decref(c);
    mull_safetensors *a = NULL;
    mull_error err = {0};
    char file[160];
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", adapter);
    assert_int_equal(mull_safetensors_open(file, &a, &err), 0);
    assert_int_equal(mull_safetensors_count(a), 2 * 2 * 3); /* A and B of three modules in two layers */
    tensor(a, "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight");
    mull_safetensors_close(a);
    snprintf(file, sizeof file, "%s/model.safetensors", adapter);
    assert_int_not_equal(access(file, F_OK), 0); /* no copy of the base */
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "merge", "--model", p.model, "--adapter", adapter, "--out",
                                              merged, "--dtype", "f32", NULL}),
                     0);
    char model[128];
    snprintf(model, sizeof model, "model_path=%s", merged);
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", full, "--max-steps", "1",
                                              "--set", model, "--set", "bf16=false", NULL}),
                     0);
    double together = loss_of(&p);
    /* Sums of float32 in another order. */
    if (!(fabs(apart - together) <= 1e-5 * fabs(apart))) fail_msg("loss %.9g apart, %.9g merged", apart, together);
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "train", p.config, "--out", full, "--max-steps", "1",
                                              "--set", "bf16=false", NULL}),
                     0);
    assert_true(loss_of(&p) > 1.1 * together); /* it was trained at all */
    assert_int_equal(run(&p, (const char *[]){"mull-engine", "generate", "--model", merged, "--prompt", "How many?",
                                              "--max-new-tokens", "4", "--json", NULL}),
                     0);
    remove_tree(p.dir);
}

int main(void) {
    if (access(MULL_BIN_DIR "/mull-engine", X_OK)) {
        printf("skipped: mull-engine is not built\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_are_added), cmocka_unit_test(frozen_patterns_stay),
                                       cmocka_unit_test(adapters_merge)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
