/* The datasets of all tasks as they are downloaded (tests/data/eval, written by make.py there): the right files of the
 * right split, rows with prompts, media that are found, and a clear word when a folder, column or medium is missing. */
#include "tests/engine/annotate_util.h"

#include "engine/eval/source.h"
#include "engine/eval/task_internal.h"
#include "engine/infer/media_ref.h"

typedef struct expected {
    const char *task;
    int64_t rows;
    const char *part; /* of the file that is read */
    size_t media;     /* of the first row */
    bool parquet;
} expected;

static const expected WANT[] = {{"blink_iqtest", 2, "BLINK/IQ_Test", 1, true},
                                {"blink_sprel", 2, "Spatial_Relation", 1, true},
                                {"blink_mv", 2, "Multi-view_Reasoning", 1, true},
                                {"blink_reldepth", 2, "Relative_Depth", 1, true},
                                {"blink_jigsaw", 2, "Jigsaw", 1, true},
                                {"sat_real", 4, "SAT", 2, true}, /* circular */
                                {"vsibench", 3, "VSI-Bench", 1, true},
                                {"erqa", 2, "ERQA", 1, true},
                                {"mmsi_bench", 2, "MMSI-Bench", 2, true},
                                {"stare", 3, "STARE", 1, true},
                                {"sitebench", 2, "SITE-Bench", 1, false}, /* five images: dropped */
                                {"vstar_bench", 2, "vstar-bench", 1, true},
                                {"mmmu_val", 2, "MMMU", 1, true},
                                {"mmvu", 2, "MMVU", 1, false},
                                {"mme_realworld", 2, "MME-RealWorld-Lmms-eval", 1, true},
                                {"vqav2", 2, "VQAv2", 1, true}};

typedef struct data {
    char dir[64], data[96];
} data;

static int setup(void **state) {
    data *d = calloc(1, sizeof *d);
    assert_non_null(d);
    strcpy(d->dir, "/tmp/mull-sources-XXXXXX");
    assert_non_null(mkdtemp(d->dir));
    snprintf(d->data, sizeof d->data, "%s/eval", d->dir);
    shell("cp -r %s/eval %s && cd %s/eval && mkdir -p VSI-Bench/arkitscenes MMVU/videos/Art", MULL_TEST_DATA, d->dir,
          d->dir);
    shell("cd %s/eval && cp %s/media/ball.mp4 VSI-Bench/arkitscenes/41069025.mp4 && cp %s/media/ball.mp4 "
          "MMVU/videos/Art/0.mp4 && cp %s/media/small_grey16.png SITE-Bench/a.png",
          d->dir, MULL_TEST_DATA, MULL_TEST_DATA, MULL_TEST_DATA);
    *state = d;
    return 0;
}

static int teardown(void **state) {
    data *d = *state;
    shell("rm -rf %s", d->dir);
    free(d);
    return 0;
}

static void every_task(void **state) {
    const data *d = *state;
    size_t tested = 0;
    for (size_t i = 0; i < sizeof WANT / sizeof *WANT; i++) {
        const expected *w = &WANT[i];
        const mull_task *t = mull_task_find(w->task);
        mull_source *s = NULL;
        mull_error err = {0};
        json_t *doc = NULL, *parts = NULL;
        mull_buf prompt = {0};
        mull_prompt_opts how = {.style = MULL_STYLE_LATENTS, .vsibench_options = true};
        assert_non_null(t);
        int rc = mull_source_open(t, d->data, false, &s, &err);
        if (w->parquet && !MULL_HAVE_PARQUET) {
            assert_int_equal(rc, MULL_EUNSUPPORTED);
            continue;
        }
        if (rc) fail_msg("%s: %s (%s)", w->task, err.why, err.where);
        if (mull_source_count(s) != w->rows) fail_msg("%s: %lld rows", w->task, (long long)mull_source_count(s));
        assert_non_null(strstr(mull_source_folder(s), w->part));
        if (mull_source_get(s, 0, &doc, &err)) fail_msg("%s: %s", w->task, err.why);
        if (mull_task_prompt(t, doc, &how, &prompt, &err)) fail_msg("%s: %s", w->task, err.why);
        assert_true(prompt.len > 10);
        if (mull_source_media(s, doc, &parts, &err)) fail_msg("%s: %s (%s)", w->task, err.why, err.where);
        if (json_array_size(parts) != w->media) fail_msg("%s: %zu media", w->task, json_array_size(parts));
        /* what is found is what a loader takes */
        json_t *messages = json_pack("[{s:s, s:O}]", "role", "user", "content", parts);
        mull_media_ref *refs = NULL;
        size_t n = 0;
        assert_int_equal(mull_chat_media(messages, &refs, &n, &err), MULL_OK);
        for (size_t k = 0; k < n && MULL_HAVE_MEDIA; k++) {
            mull_media m = {0};
            mull_media_limits limits = {.min_pixels = 3136, .nframes = 4};
            if (mull_media_ref_load(&refs[k], &limits, &m, &err)) fail_msg("%s: %s", w->task, err.why);
            mull_media_fini(&m);
        }
        free(refs);
        /* a scorer finds what it needs */
        mull_scored sc;
        if (mull_task_score(t, doc, "<answer>A</answer>", 18, MULL_COMPAT_OURS, 0, &sc, &err))
            fail_msg("%s: %s (%s)", w->task, err.why, err.where);
        mull_scored_fini(&sc);
        tested++;
        json_decref(messages);
        json_decref(parts);
        json_decref(doc);
        mull_buf_fini(&prompt);
        mull_source_close(s);
    }
    assert_int_equal(tested, MULL_HAVE_PARQUET ? sizeof WANT / sizeof *WANT : 2);
}

static void mmvu_subject(void **state) {
    const data *d = *state;
    mull_source *s = NULL;
    json_t *doc = NULL;
    mull_scored sc;
    const mull_task *t = mull_task_find("mmvu");
    assert_int_equal(mull_source_open(t, d->data, false, &s, NULL), MULL_OK);
    assert_int_equal(mull_source_get(s, 0, &doc, NULL), MULL_OK);
    assert_int_equal(mull_task_score(t, doc, "A", 1, MULL_COMPAT_OURS, 0, &sc, NULL), MULL_OK);
    assert_string_equal(json_string_value(sc.category), "Art");
    assert_true(sc.score == 1);
    mull_scored_fini(&sc);
    json_decref(doc);
    mull_source_close(s);
}

/* A video that was not unpacked, columns that are not there, a folder that is not there. */
static void what_is_missing(void **state) {
    const data *d = *state;
    mull_source *s = NULL;
    mull_error err = {0};
    json_t *doc = NULL, *parts = NULL;
    char path[128];
    shell("mv %s/MMVU/videos %s/MMVU/packed", d->data, d->data);
    assert_int_equal(mull_source_open(mull_task_find("mmvu"), d->data, false, &s, &err), MULL_OK);
    assert_int_equal(mull_source_get(s, 0, &doc, &err), MULL_OK);
    assert_int_equal(mull_source_media(s, doc, &parts, &err), MULL_EMISSING);
    assert_non_null(strstr(err.where, "videos/Art/0.mp4"));
    assert_non_null(strstr(err.todo, "unpack"));
    json_decref(doc);
    mull_source_close(s);
    snprintf(path, sizeof path, "%s/MMVU/validation.json", d->data);
    put_text(path, "[{\"id\":\"x\",\"question\":\"q\",\"question_type\":\"open-ended\"}]");
    assert_int_equal(mull_source_open(mull_task_find("mmvu"), d->data, false, &s, &err), MULL_EFORMAT);
    assert_non_null(strstr(err.why, "answer, video_path"));
    shell("mv %s/VSI-Bench %s/elsewhere", d->data, d->data);
    assert_int_equal(mull_source_open(mull_task_find("vsibench"), d->data, false, &s, &err), MULL_EMISSING);
    assert_non_null(strstr(err.why, "VSI-Bench"));
    assert_non_null(strstr(err.todo, "nyu-visionx/VSI-Bench"));
}

/* One row of JSON as the dataset of a task; what the reader, or the row's media, say of it. */
static const char *complaint(const data *d, const char *task, const char *file, const char *row, mull_error *err) {
    mull_source *s = NULL;
    json_t *doc = NULL, *parts = NULL;
    char path[300];
    snprintf(path, sizeof path, "%s/one", d->dir);
    shell("rm -rf %s && mkdir -p %s/%s", path, path, task);
    snprintf(path, sizeof path, "%s/one/%s/%s", d->dir, task, file);
    put_text(path, row);
    snprintf(path, sizeof path, "%s/one", d->dir);
    *err = (mull_error){0};
    if (!mull_source_open(mull_task_find(task), path, false, &s, err)) {
        assert_int_equal(mull_source_get(s, 0, &doc, err), MULL_OK);
        if (!mull_source_media(s, doc, &parts, err)) json_decref(parts);
        json_decref(doc);
        mull_source_close(s);
    }
    return err->code ? err->why : "";
}

/* Pictures that a question needs: a question asked without them would be scored all the same. */
static void missing_pictures(void **state) {
    const data *d = *state;
    mull_error err;
    static const char BLINK[] = "{\"prompt\":\"q\",\"answer\":\"(A)\",\"sub_task\":\"s\",\"idx\":\"1\",%s}";
    static const char MMMU[] = "{\"id\":\"validation_Art_1\",\"question\":\"%s\",\"options\":\"[]\",\"answer\":\"A\","
                               "\"question_type\":\"open\",\"image_1\":\"data:,\",\"image_2\":null}";
    char row[400];
    snprintf(row, sizeof row, BLINK, "\"image_2\":\"data:,\"");
    assert_non_null(strstr(complaint(d, "blink_mv", "val.jsonl", row, &err), "needs image_1"));
    snprintf(row, sizeof row, BLINK, "\"image_1\":\"data:,\"");
    assert_string_equal(complaint(d, "blink_mv", "val.jsonl", row, &err), "");
    snprintf(row, sizeof row, BLINK, "\"image_1\":null");
    assert_non_null(strstr(complaint(d, "blink_mv", "val.jsonl", row, &err), "nothing there"));
    assert_string_equal(err.where, "image_1");
    snprintf(row, sizeof row, MMMU, "see <image 1>");
    assert_string_equal(complaint(d, "mmmu_val", "validation.jsonl", row, &err), "");
    snprintf(row, sizeof row, MMMU, "no picture");
    assert_string_equal(complaint(d, "mmmu_val", "validation.jsonl", row, &err), "");
    snprintf(row, sizeof row, MMMU, "see <image 2>");
    assert_non_null(strstr(complaint(d, "mmmu_val", "validation.jsonl", row, &err), "nothing there"));
    assert_string_equal(err.where, "image_2");
    complaint(d, "vqav2", "validation.jsonl", "{\"question\":\"q\",\"question_id\":1,\"image\":\"data:,\"}", &err);
    assert_non_null(strstr(err.why, "needs answers"));
    complaint(d, "sitebench", "image_test.jsonl",
              "{\"question\":\"q\",\"options\":[],\"answer\":\"A\",\"category\":\"c\",\"dataset\":\"d\"}", &err);
    assert_non_null(strstr(err.why, "needs visual"));
    assert_null(strstr(err.why, "visual,"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(every_task, setup, teardown),
                                       cmocka_unit_test_setup_teardown(mmvu_subject, setup, teardown),
                                       cmocka_unit_test_setup_teardown(missing_pictures, setup, teardown),
                                       cmocka_unit_test_setup_teardown(what_is_missing, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
