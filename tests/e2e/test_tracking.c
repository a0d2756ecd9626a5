/* Training runs through the real commands: the record of a run, its metrics in every form, two runs compared, their
 * checkpoints checked, damaged, pruned and removed. One `mull up` serves all of them. */
#include "tests/support/run.h"
#include "tests/support/servers.h"

#include "tests/support/check.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MULL MULL_BIN_DIR "/mull"
#define RUN(...) mull_run_command((const char *const[]){MULL, __VA_ARGS__, NULL}, LIMIT_S)
enum { LIMIT_S = 240, STEPS = 6 };

static char *folder, model[300], config[300], a_out[300], b_out[300], a[24], b[24];

static const char *train(const char *out, const char *more, char id[24]) {
    mull_run r = RUN("submit", "train", config, "--out", out, "--set", more, "--name", strrchr(out, '/') + 1, "--wait");
    if (r.status) fail_msg("train: %d: %s", r.status, r.err);
    snprintf(id, 24, "%.*s", (int)strcspn(r.out, "\n"), r.out);
    mull_run_fini(&r);
    return id;
}

static int start(void **state) {
    (void)state;
    char rows[300], text[4000] = "";
    folder = mull_temp_folder("track");
    unsetenv("MULL_SERVER");
    setenv("MULL_STATE", folder, 1);
    snprintf(model, sizeof model, "%s/model", folder);
    snprintf(config, sizeof config, "%s/c.yaml", folder);
    snprintf(rows, sizeof rows, "%s/rows.jsonl", folder);
    snprintf(a_out, sizeof a_out, "%s/first", folder);
    snprintf(b_out, sizeof b_out, "%s/second", folder);
    for (int i = 0; i < 8; i++)
        sprintf(
            text + strlen(text),
            "{\"messages\":[{\"role\":\"user\",\"content\":\"How many is %d?\"},{\"role\":\"assistant\",\"content\":"
            "\"%d\"}]}\n",
            i, i);
    mull_write_file(rows, text, strlen(text));
    snprintf(text, sizeof text,
             "model_path: %s\nlearning_rate: 0.002\nper_device_train_batch_size: 2\nsave_steps: 2\nmax_steps: %d\n"
             "pack_tokens: 256\ntrain_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n",
             model, STEPS, rows);
    mull_write_file(config, text, strlen(text));
    free(mull_run_ok(
        (const char *const[]){MULL_BIN_DIR "/mull-engine", "init", "--preset", "tiny", "--out", model, NULL}, LIMIT_S));
    json_decref(mull_run_json((const char *const[]){MULL, "up", "--devices", "cpu:2", "--json", NULL}, LIMIT_S));
    train(a_out, "learning_rate=0.002", a);
    char set[400];
    snprintf(set, sizeof set, "model_path=%s/checkpoint-%d", a_out, STEPS); /* the second goes on from the first */
    train(b_out, set, b);
    return 0;
}

static int stop(void **state) {
    (void)state;
    mull_run r = RUN("down");
    int status = r.status;
    mull_run_fini(&r);
    mull_tree_remove(folder);
    free(folder);
    return status;
}

static void expect(mull_run r, int status, const char *word) {
    if (r.status != status) fail_msg("status %d, not %d: %s%s", r.status, status, r.out, r.err);
    if (word && !strstr(r.out, word) && !strstr(r.err, word)) fail_msg("%s is not said: %s%s", word, r.out, r.err);
    mull_run_fini(&r);
}

static json_t *run_json(const char *id) {
    return mull_run_json((const char *const[]){MULL, "runs", id, "--json", NULL}, LIMIT_S);
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void the_record_of_a_run(void **state) {
    (void)state;
    static const char *const hashes[] = {"config", "model", "data", "code"};
    json_t *x = run_json(a), *y = run_json(b), *hx = json_object_get(x, "hashes"), *hy = json_object_get(y, "hashes");
    for (int i = 0; i < 4; i++) assert_int_equal(strlen(text_of(hx, hashes[i])), 64);
    assert_string_equal(text_of(hx, "data"), text_of(hy, "data"));
    assert_string_equal(text_of(hx, "code"), text_of(hy, "code"));
    assert_string_equal(text_of(hx, "config"), text_of(hy, "config")); /* paths do not count */
    assert_string_not_equal(text_of(hx, "model"), text_of(hy, "model"));
    assert_int_equal(json_integer_value(json_object_get(x, "seed")), 42);
    assert_true(json_number_value(json_object_get(json_object_get(x, "config"), "learning_rate")) == 0.002);
    assert_string_equal(text_of(json_object_get(y, "parent"), "run"), a);
    json_t *last = json_array_get(json_object_get(x, "checkpoints"), STEPS / 2 - 1);
    assert_string_equal(text_of(json_object_get(y, "parent"), "checkpoint"), text_of(last, "id"));
    assert_int_equal(strlen(text_of(last, "sha256")), 64);
    assert_true(json_is_number(json_object_get(json_object_get(last, "metrics"), "loss_mean")));
    const json_t *loss = json_object_get(json_object_get(x, "metrics"), "loss");
    assert_int_equal(json_integer_value(json_object_get(loss, "points")), STEPS);
    json_decref(x);
    json_decref(y);
    expect(RUN("runs"), 0, "first");
    expect(RUN("runs", "--name", "SECO", "--kind", "train", "--json"), 0, "\"second\"");
    expect(RUN("runs", a), 0, "learning_rate");
    expect(RUN("runs", "9999"), 1, "no run of job 9999");
    expect(RUN("runs", "--kind", "trian"), 2, "did you mean train");
}

static void metrics_in_every_form(void **state) {
    (void)state;
    mull_run r = RUN("metrics", a, "--key", "loss", "--json");
    int lines = 0;
    for (const char *p = r.out; (p = strchr(p, '\n')); p++) lines++;
    assert_int_equal(lines, STEPS);
    expect(r, 0, "\"step\":6");
    expect(RUN("metrics", a, "--csv"), 0, "key,step,value,at\n");
    expect(RUN("metrics", a, "--plot"), 0, "step 1 to 6");
    expect(RUN("metrics", a), 0, "grad_norm");
}

static void two_runs_side_by_side(void **state) {
    (void)state;
    json_t *j = mull_run_json((const char *const[]){MULL, "compare", a, b, "--json", NULL}, LIMIT_S), *d;
    size_t i;
    int model_path = 0, loss = 0;
    json_array_foreach(json_object_get(j, "config"), i, d) model_path += !strcmp(text_of(d, "key"), "model_path");
    json_array_foreach(json_object_get(j, "metrics"), i, d) {
        if (strcmp(text_of(d, "key"), "loss") != 0) continue;
        loss++;
        assert_string_equal(text_of(d, "better"), "less");
        assert_true(json_is_number(json_array_get(json_object_get(d, "last"), 1)));
        assert_true(json_number_value(json_array_get(json_object_get(d, "best"), 1)) <=
                    json_number_value(json_array_get(json_object_get(d, "last"), 1)));
    }
    assert_int_equal(model_path, 1);
    assert_int_equal(loss, 1);
    json_decref(j);
    mull_run r = RUN("compare", a, b);
    assert_non_null(strstr(r.out, "model_path"));
    assert_non_null(strstr(r.out, "* run "));
    assert_non_null(strstr(r.out, "o run "));
    expect(r, 0, "LAST ");
    expect(RUN("compare", a), 2, "2 to 6 runs");
    expect(RUN("compare", "--eval", a, b), 1, "is no evaluation");
}

static const char *checkpoint_at(const char *job, int step) {
    static char ids[4][24];
    static int at;
    char *id = ids[at++ % 4];
    json_t *x = run_json(job), *c;
    size_t i;
    *id = 0;
    json_array_foreach(json_object_get(x, "checkpoints"), i, c) {
        if (json_integer_value(json_object_get(c, "step")) == step) snprintf(id, 24, "%s", text_of(c, "id"));
    }
    json_decref(x);
    assert_true(*id);
    return id;
}

static void checkpoints_checked_and_removed(void **state) {
    (void)state;
    char path[500];
    expect(RUN("runs", "--csv"), 0, "id,name,kind,team,user,state");
    expect(RUN("runs", "--csv", a), 2, "give it alone");
    expect(RUN("ckpt", "ls", a), 0, "checkpoint-6");
    expect(RUN("ckpt", "show", checkpoint_at(a, 6)), 0, "model.safetensors");
    expect(RUN("ckpt", "verify", checkpoint_at(a, 6)), 0, "is whole");
    snprintf(path, sizeof path, "%s/checkpoint-6", a_out); /* what we wrote is what coreutils reads */
    mull_run sums = mull_run_command(
        (const char *const[]){"/bin/sh", "-c", "cd \"$0\" && sha256sum -c --quiet SHA256SUMS", path, NULL}, LIMIT_S);
    expect(sums, 0, NULL);
    snprintf(path, sizeof path, "%s/checkpoint-4/model.safetensors", a_out);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, -3, SEEK_END);
    int c = fgetc(f);
    fseek(f, -3, SEEK_END);
    fputc(c ^ 1, f);
    fclose(f);
    expect(RUN("ckpt", "verify", checkpoint_at(a, 4)), 1, "its content has changed");
    char copy[700], file[800];
    snprintf(copy, sizeof copy, "%s/copy", folder);
    expect(RUN("ckpt", "get", checkpoint_at(a, 4), copy), 1, "its content has changed");
    assert_int_not_equal(access(copy, F_OK), 0); /* whole or not at all */
    expect(RUN("ckpt", "get", checkpoint_at(a, 6), copy), 0, copy);
    snprintf(file, sizeof file, "%s/model.safetensors", copy);
    assert_int_equal(access(file, F_OK), 0);
    expect(RUN("ckpt", "get", checkpoint_at(a, 6), copy), 1, "is there already");
    expect(RUN("ckpt", "rm", checkpoint_at(a, 4), "--dry-run"), 0, "would remove");
    expect(RUN("ckpt", "verify", checkpoint_at(a, 4), "--json"), 1, "\"ok\":false");
    expect(RUN("ckpt", "rm", checkpoint_at(a, 4)), 0, "removed");
    snprintf(path, sizeof path, "%s/checkpoint-4", a_out);
    assert_int_equal(access(path, F_OK), -1);
    expect(RUN("ckpt", "verify", checkpoint_at(a, 4)), 1, "cannot be read");
    expect(RUN("ckpt", "prune", b, "--keep-last", "1", "--dry-run"), 0, "would remove");
    expect(RUN("ckpt", "prune", b, "--keep-last", "1"), 0, NULL);
    json_t *x = run_json(b), *v;
    size_t i;
    int left = 0;
    json_array_foreach(json_object_get(x, "checkpoints"), i, v) left += !strcmp(text_of(v, "state"), "PUBLISHED");
    assert_int_equal(left, 1);
    json_decref(x);
    snprintf(path, sizeof path, "%s/checkpoint-2", b_out);
    assert_int_equal(access(path, F_OK), -1);
    expect(RUN("ckpt", "rm", checkpoint_at(b, 6)), 1, "it is the only one");
    expect(RUN("ckpt", "rm", "--force", checkpoint_at(b, 6)), 0, "removed");
    expect(RUN("ckpt", "shw", "1"), 2, "did you mean show");
}

/* Retention by the recipe: what it takes away is gone from the record too. */
static void retention(void **state) {
    (void)state;
    char out[300], id[24];
    snprintf(out, sizeof out, "%s/third", folder);
    train(out, "save_total_limit=1", id);
    json_t *x = run_json(id), *v;
    size_t i;
    int left = 0, gone = 0;
    json_array_foreach(json_object_get(x, "checkpoints"), i, v) {
        left += !strcmp(text_of(v, "state"), "PUBLISHED");
        gone += !strcmp(text_of(v, "removed_by"), "retention");
    }
    assert_int_equal(left, 1);
    assert_int_equal(gone, STEPS / 2 - 1);
    json_decref(x);
}

/* GRPO is a training job like any other: its figures are metrics, its completions can be looked at. */
static void group_training(void **state) {
    (void)state;
    char c[300], rows[300], out[300], text[4000] = "", id[24];
    snprintf(c, sizeof c, "%s/grpo.yaml", folder);
    snprintf(rows, sizeof rows, "%s/questions.jsonl", folder);
    snprintf(out, sizeof out, "%s/grpo", folder);
    for (int i = 0; i < 8; i++)
        sprintf(text + strlen(text),
                "{\"messages\":[{\"role\":\"user\",\"content\":\"How many is %d?\"}],\"problem_type\":\"numerical\","
                "\"solution\":\"<answer>%d</answer>\"}\n",
                i, i);
    mull_write_file(rows, text, strlen(text));
    snprintf(text, sizeof text,
             "model_path: %s\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 1\nsave_steps: 2\n"
             "max_steps: %d\nnum_generations: 3\nmax_completion_length: 8\n"
             "train_dataset_args:\n  mix_datas:\n    Messages: 1.0\n  messages_location: %s\n"
             "  mmlatent_mode_stage2: True\n  mmlatent_rl_mode: True\n",
             model, STEPS, rows);
    mull_write_file(c, text, strlen(text));
    mull_run r = RUN("submit", "train", c, "--out", out, "--name", "grpo", "--wait");
    if (r.status) fail_msg("grpo: %d: %s", r.status, r.err);
    snprintf(id, sizeof id, "%.*s", (int)strcspn(r.out, "\n"), r.out);
    mull_run_fini(&r);
    static const char *const KEYS[] = {"reward",      "reward_numerical", "entropy",       "kl",       "length",
                                       "zero_spread", "logp_mismatch",    "rollout_tok_s", "clip_high"};
    for (size_t i = 0; i < sizeof KEYS / sizeof *KEYS; i++) {
        r = RUN("metrics", id, "--key", KEYS[i], "--json");
        int n = 0;
        for (const char *p = r.out; (p = strstr(p, "\"value\"")); p++) n++;
        if (r.status || n != STEPS) fail_msg("%s: %d points", KEYS[i], n);
        mull_run_fini(&r);
    }
    r = RUN("rollouts", id, "--json", "--limit", "0");
    int lines = 0;
    for (const char *p = r.out; (p = strchr(p, '\n')); p++) lines++;
    if (r.status || lines != STEPS * 2 * 3) fail_msg("%d completions: %s", lines, r.err);
    mull_run_fini(&r);
    expect(RUN("rollouts", id, "--step", "-1"), 0, "How many is");
    expect(RUN("rollouts", "1"), 1, "save_rollouts");
    expect(RUN("rollouts"), 2, "which job");
}

int main(void) {
    if (access("/usr/bin/redis-server", X_OK) || access("/usr/lib/postgresql", X_OK)) {
        fprintf(stderr, "skipped: redis-server and PostgreSQL are not installed (ops/deps)\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_record_of_a_run),
        cmocka_unit_test(metrics_in_every_form),
        cmocka_unit_test(two_runs_side_by_side),
        cmocka_unit_test(checkpoints_checked_and_removed),
        cmocka_unit_test(retention),
        cmocka_unit_test(group_training),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
