/* Evaluations end to end on a tiny model: datasets as downloaded, what is missing is named, rows that cannot be asked,
 * kills, and the same results however it was disturbed or batched. */
#include "tests/engine/annotate_util.h"

#include "engine/eval/compare.h"
#include "engine/eval/source.h"

static int setup(void **state) {
    place *p = calloc(1, sizeof *p);
    assert_non_null(p);
    place_init(p);
    shell("mkdir -p %s/data/BLINK/IQ_Test %s/data/SAT-v2/images %s/data/VSI-Bench/arkit", p->dir, p->dir, p->dir);
    shell("cp %s/media/small_alpha.png %s/data/BLINK/IQ_Test/a.png", MULL_TEST_DATA, p->dir);
    shell("cp %s/media/small_alpha.png %s/data/SAT-v2/images/b.png", MULL_TEST_DATA, p->dir);
    shell("cp %s/media/ball.mp4 %s/data/VSI-Bench/arkit/1.mp4", MULL_TEST_DATA, p->dir);
    char path[256], rows[4096] = "";
    for (int i = 0; i < 9; i++)
        snprintf(
            rows + strlen(rows), sizeof rows - strlen(rows),
            "{\"idx\":\"v%d\",\"sub_task\":\"IQ_Test\",\"prompt\":\"Which %d?\\n(A) x\\n(B) y\",\"answer\":\"(A)\","
            "\"image_1\":\"a.png\",\"image_2\":%s,\"image_3\":null}\n",
            i, i, i == 4 ? "\"gone.png\"" : "null");
    snprintf(path, sizeof path, "%s/data/BLINK/IQ_Test/val.jsonl", p->dir);
    put_text(path, rows);
    snprintf(path, sizeof path, "%s/data/SAT-v2/SAT_test.json", p->dir);
    put_text(path, "[{\"question\":\"Q?\",\"answers\":[\"x\",\"y\"],\"correct_answer\":\"y\",\"question_type\":\"p\","
                   "\"image_paths\":[\"/far/SAT_new/b.png\"]}]");
    snprintf(path, sizeof path, "%s/data/VSI-Bench/test.jsonl", p->dir);
    put_text(path,
             "{\"dataset\":\"arkit\",\"scene_name\":\"1\",\"question_type\":\"object_counting\",\"question\":\"How "
             "many?\",\"ground_truth\":\"4\",\"options\":null}\n");
    *state = p;
    return 0;
}

static int teardown(void **state) {
    place_fini(*state);
    free(*state);
    return 0;
}

/* mull-engine eval with more flags; its exit status, or -signal. */
static int evaluate(const place *p, const char *tasks, const char *out, const char *more, double kill_after_s) {
    char command[2048];
    snprintf(command, sizeof command,
             "%s%s/mull-engine eval --model %s --tasks %s --data %s/data --out %s/%s --max-new-tokens 24 --min-pixels "
             "3136 --nframes 4 --quiet %s >%s/stdout 2>%s/stderr",
             "", MULL_BIN_DIR, p->model, tasks, p->dir, p->dir, out, more, p->dir, p->dir);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setpgid(0, 0);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status;
    if (kill_after_s > 0) {
        struct timespec t = {(time_t)kill_after_s, (long)(1e9 * (kill_after_s - (double)(time_t)kill_after_s))};
        nanosleep(&t, NULL);
        setpgid(pid, pid);
        kill(-pid, SIGKILL);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static json_t *results(const place *p, const char *out) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s/results.json", p->dir, out);
    json_t *o = json_load_file(path, 0, NULL);
    assert_non_null(o);
    return o;
}

static json_t *samples(const place *p, const char *out, const char *name) {
    char file[256], *line = NULL;
    size_t cap = 0;
    snprintf(file, sizeof file, "%s/%s/%s", p->dir, out, name);
    FILE *f = fopen(file, "r");
    json_t *all = json_array();
    assert_non_null(f);
    for (ssize_t n; (n = getline(&line, &cap, f)) > 0;) {
        json_t *o = json_loadb(line, (size_t)n, 0, NULL);
        assert_non_null(o);
        json_array_append_new(all, o);
    }
    free(line);
    fclose(f);
    return all;
}

static void test_layouts(void **state) {
    const place *p = *state;
    assert_int_equal(evaluate(p, "blink_iqtest,sat_real,vsibench", "one", "", 0), 0);
    json_t *r = results(p, "one"), *blink = samples(p, "one", "samples_blink_iqtest.jsonl"),
           *bad = samples(p, "one", "errors_blink_iqtest.jsonl"), *sat = samples(p, "one", "samples_sat_real.jsonl"),
           *vsi = samples(p, "one", "samples_vsibench.jsonl");
    const json_t *n = json_object_get(json_object_get(r, "n-samples"), "blink_iqtest");
    assert_int_equal(json_integer_value(json_object_get(n, "effective")), 9);
    assert_int_equal(json_integer_value(json_object_get(n, "errors")), 1);
    assert_true(json_is_number(
        json_object_get(json_object_get(json_object_get(r, "results"), "sat_real"), "sat_score_overall,none")));
    assert_int_equal(json_array_size(blink), 8);
    assert_int_equal(json_array_size(bad), 1); /* the row whose second image is gone; it is named */
    assert_int_equal(json_integer_value(json_object_get(json_array_get(bad, 0), "doc_id")), 4);
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(bad, 0), "error")), "gone.png"));
    assert_int_equal(json_array_size(sat), 2); /* circular: the second time with the answers reversed */
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(sat, 0), "prompt")), "(A) x\n(B) y"));
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(sat, 1), "prompt")), "(A) y\n(B) x"));
    assert_int_equal(json_array_size(vsi), 1);
    assert_non_null(json_object_get(json_object_get(json_array_get(vsi, 0), "vsibench_score"), "MRA:.5:.95:.05"));
    json_decref(r);
    json_decref(blink);
    json_decref(bad);
    json_decref(sat);
    json_decref(vsi);
}

static void test_switches(void **state) {
    const place *p = *state;
    assert_int_equal(evaluate(p, "sat_real", "plain", "--circular false", 0), 0);
    assert_int_equal(evaluate(p, "blink_iqtest", "few", "--limit 3 --prompt-style videor1", 0), 0);
    json_t *sat = samples(p, "plain", "samples_sat_real.jsonl"), *few = samples(p, "few", "samples_blink_iqtest.jsonl");
    assert_int_equal(json_array_size(sat), 1);
    assert_int_equal(json_array_size(few), 3);
    assert_non_null(
        strstr(json_string_value(json_object_get(json_array_get(few, 0), "prompt")), "as if you were a human"));
    json_decref(sat);
    json_decref(few);
    /* another evaluation in the same folder is refused */
    assert_int_equal(evaluate(p, "blink_iqtest", "few", "--limit 2", 0), MULL_EXIT_USAGE);
}

static void test_disturbed(void **state) {
    const place *p = *state;
    assert_int_equal(evaluate(p, "blink_iqtest,sat_real", "calm", "", 0), 0);
    for (int i = 0; i < 8; i++) evaluate(p, "blink_iqtest,sat_real", "killed", "--batch 2", 0.05 + 0.04 * i);
    assert_int_equal(evaluate(p, "blink_iqtest,sat_real", "killed", "--batch 5", 0), 0);
    json_t *a = results(p, "calm"), *b = results(p, "killed"), *sa = samples(p, "calm", "samples_blink_iqtest.jsonl"),
           *sb = samples(p, "killed", "samples_blink_iqtest.jsonl");
    assert_true(json_equal(a, b));
    assert_true(json_equal(sa, sb));
    json_decref(a);
    json_decref(b);
    json_decref(sa);
    json_decref(sb);
    char one[256], two[256];
    snprintf(one, sizeof one, "%s/calm", p->dir);
    snprintf(two, sizeof two, "%s/killed", p->dir);
    mull_error err = {0};
    json_t *c = NULL;
    assert_int_equal(mull_compare_evals(one, two, 100, &c, &err), MULL_OK);
    const json_t *t = json_object_get(json_object_get(c, "tasks"), "blink_iqtest");
    assert_int_equal(json_integer_value(json_object_get(t, "n")), 9);
    assert_true(json_number_value(json_object_get(t, "diff")) == 0 && json_number_value(json_object_get(t, "p")) == 1);
    json_decref(c);
}

static char *whole(const place *p, const char *out, const char *name) {
    char path[256];
    size_t n = 0;
    snprintf(path, sizeof path, "%s/%s/%s", p->dir, out, name);
    FILE *f = fopen(path, "r");
    if (!f) fail_msg("%s is not there", path);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    n = fread(text, 1, (1 << 20) - 1, f);
    assert_true(n < (1 << 20) - 1);
    fclose(f);
    return text;
}

/* Three processes in one folder, one of which is killed: they share the rows, each ends well, and the files are those
 * of one process alone. */
static void test_shared(void **state) {
    const place *p = *state;
    static const char *const FILES[] = {"results.json", "samples_blink_sprel.jsonl", "errors_blink_sprel.jsonl"};
    enum { ROWS = 300 };
    char path[256];
    shell("mkdir -p %s/data/BLINK/Spatial_Relation", p->dir);
    snprintf(path, sizeof path, "%s/data/BLINK/Spatial_Relation/val.jsonl", p->dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < ROWS; i++)
        fprintf(f,
                "{\"idx\":\"v%d\",\"sub_task\":\"Spatial_Relation\",\"prompt\":\"Is it %d?\\n(A) x\\n(B) y\","
                "\"answer\":\"(B)\",\"image_1\":\"../IQ_Test/%s.png\"}\n",
                i, i, i % 50 == 7 ? "gone" : "a");
    fclose(f);
    assert_int_equal(evaluate(p, "blink_sprel", "alone", "--seed 3 --temperature 0.7", 0), 0);
    pid_t pids[3];
    for (int i = 0; i < 3; i++) {
        pids[i] = fork();
        assert_true(pids[i] >= 0);
        if (pids[i]) continue;
        char more[80];
        snprintf(more, sizeof more, "--seed 3 --temperature 0.7 --threads 1 --batch %d", 2 + 3 * i);
        /* its own name for what it prints */
        place mine = *p;
        _exit(i == 2 ? (evaluate(&mine, "blink_sprel", "shared", more, 0.6), 0)
                     : evaluate(&mine, "blink_sprel", "shared", more, 0));
    }
    for (int i = 0; i < 3; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        if (!WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("process %d: %d", i, status);
    }
    for (size_t i = 0; i < 3; i++) {
        char *a = whole(p, "alone", FILES[i]), *b = whole(p, "shared", FILES[i]);
        if (strcmp(a, b)) fail_msg("%s differs", FILES[i]);
        free(a);
        free(b);
    }
}

static void test_missing(void **state) {
    const place *p = *state;
    mull_source *s = NULL;
    mull_error err = {0};
    char data[128], path[256];
    snprintf(data, sizeof data, "%s/data", p->dir);
    assert_int_equal(mull_source_open(mull_task_find("mmsi_bench"), data, false, &s, &err), MULL_EMISSING);
    assert_non_null(strstr(err.why, "MMSI-Bench")); /* where was looked */
    assert_non_null(strstr(err.todo, "RunsenXu/MMSI-Bench"));
    shell("mkdir -p %s/data/STARE", p->dir);
    snprintf(path, sizeof path, "%s/data/STARE/test.jsonl", p->dir);
    put_text(path, "{\"question\":\"x\"}\n");
    assert_int_equal(mull_source_open(mull_task_find("stare"), data, false, &s, &err), MULL_EFORMAT);
    assert_non_null(strstr(err.why, "answer, category, images"));
    put_text(path, "{\"question\":\n");
    assert_int_equal(mull_source_open(mull_task_find("stare"), data, false, &s, &err), MULL_EFORMAT);
    put_text(path, "");
    assert_int_equal(mull_source_open(mull_task_find("stare"), data, false, &s, &err), MULL_EFORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_layouts, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_switches, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_disturbed, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_missing, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
