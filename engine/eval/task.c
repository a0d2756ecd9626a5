/* The table of evaluation tasks, and scoring one reply by it. A new task is a row here and a scorer. */
#include "engine/eval/patterns.h"
#include "engine/eval/task_internal.h"

#include <string.h>

#define P(name) mull__prompt_##name
#define S(name) mull__score_##name
#define BLINK(NAME, FOLDER)                                                                                            \
    {                                                                                                                  \
        .name = NAME, .metric = "blink_score_overall", .aggregate = MULL__MEAN, .score = S(blink), .prompt = P(blink), \
        .hub = "BLINK-Benchmark/BLINK, " FOLDER, .split = "val", .folders = {"BLINK/" FOLDER, FOLDER},                 \
        .columns = {"prompt", "answer", "sub_task", "idx"},                                                            \
        .media = {.singles = {"image_1", "image_2", "image_3", "image_4"}}, .max_new_tokens = 1024, .top_p = 1         \
    }

static const mull_task TASKS[] = {
    BLINK("blink_iqtest", "IQ_Test"),
    BLINK("blink_sprel", "Spatial_Relation"),
    BLINK("blink_mv", "Multi-view_Reasoning"),
    BLINK("blink_reldepth", "Relative_Depth"),
    BLINK("blink_jigsaw", "Jigsaw"),
    {.name = "sat_real",
     .metric = "sat_score_overall",
     .aggregate = MULL__MEAN,
     .score = S(sat),
     .prompt = P(sat),
     .hub = "array/SAT-v2",
     .split = "test",
     .folders = {"SAT-v2", "SAT_new", "SAT"},
     .columns = {"question", "answers", "correct_answer", "question_type"},
     .media = {.lists = {"image_paths", "images", "image_bytes"}},
     .max_new_tokens = 1024,
     .top_p = 1},
    {.name = "vsibench",
     .metric = "vsibench_score",
     .aggregate = MULL__VSI,
     .score = S(vsibench),
     .prompt = P(vsibench),
     .hub = "nyu-visionx/VSI-Bench",
     .split = "test",
     .folders = {"VSI-Bench", "vsi-bench"},
     .columns = {"question", "question_type", "ground_truth", "dataset", "scene_name"},
     .media = {.video = "{dataset}/{scene_name}.mp4"},
     .max_new_tokens = 1024,
     .temperature = 0.1,
     .top_p = 0.001},
    {.name = "erqa",
     .metric = "erqa_score_overall",
     .aggregate = MULL__MEAN,
     .score = S(erqa),
     .prompt = P(plain),
     .hub = "FlagEval/ERQA",
     .split = "test",
     .folders = {"ERQA"},
     .columns = {"question", "answer", "question_type"},
     .media = {.lists = {"images"}},
     .max_new_tokens = 1024,
     .top_p = 1},
    {.name = "mmsi_bench",
     .metric = "average",
     .aggregate = MULL__MMSI,
     .score = S(mmsi),
     .prompt = P(mmsi),
     .hub = "RunsenXu/MMSI-Bench",
     .split = "test",
     .folders = {"MMSI-Bench", "MMSI_Bench"},
     .columns = {"question", "answer", "question_type", "id"},
     .media = {.lists = {"images"}},
     .max_new_tokens = 2048,
     .top_p = 1},
    {.name = "stare",
     .metric = "stare_score_overall",
     .aggregate = MULL__MEAN_GROUPS,
     .score = S(stare),
     .prompt = P(plain),
     .hub = "kuvvi/STARE",
     .split = "test",
     .folders = {"STARE"},
     .columns = {"question", "answer", "category"},
     .media = {.lists = {"images"}},
     .max_new_tokens = 1024,
     .top_p = 1},
    {.name = "sitebench",
     .metric = "accuracy",
     .aggregate = MULL__PERCENT5,
     .score = S(sitebench),
     .prompt = P(sitebench),
     .hub = "franky-veteran/SITE-Bench",
     .split = "image_test",
     .folders = {"SITE-Bench", "SITE_Bench"},
     .columns = {"question", "options", "answer", "category", "dataset", "visual"},
     .media = {.lists = {"visual"}},
     .max_new_tokens = 1024,
     .top_p = 1},
    {.name = "vstar_bench",
     .metric = "vstar_overall_acc",
     .aggregate = MULL__VSTAR,
     .score = S(vstar),
     .prompt = P(vstar),
     .hub = "lmms-lab/vstar-bench",
     .split = "test",
     .folders = {"vstar-bench", "vstar_bench"},
     .columns = {"text", "label", "question_id"},
     .media = {.singles = {"image"}},
     .max_new_tokens = 16,
     .top_p = 1},
    {.name = "mmmu_val",
     .aliases = {"mmmu"},
     .metric = "mmmu_acc",
     .aggregate = MULL__MEAN5,
     .score = S(mmmu),
     .prompt = P(mmmu),
     .hub = "lmms-lab/MMMU",
     .split = "validation",
     .folders = {"MMMU"},
     .columns = {"id", "question", "options", "answer", "question_type"},
     .media = {.singles = {"image_1", "image_2", "image_3", "image_4", "image_5", "image_6", "image_7"}},
     .max_new_tokens = 128,
     .top_p = 1},
    {.name = "mmvu",
     .aliases = {"mmvu_val"},
     .metric = "accuracy",
     .aggregate = MULL__PERCENT,
     .score = S(mmvu),
     .prompt = P(mmvu),
     .hub = "yale-nlp/MMVU",
     .split = "validation",
     .folders = {"MMVU"},
     .columns = {"id", "question", "question_type", "answer"},
     .media = {.video = "{video_path}", .video_url = "video"},
     .max_new_tokens = 1024,
     .top_p = 1},
    {.name = "mme_realworld",
     .aliases = {"mmerealworld", "mme_realworld_lite", "mmerealworld_lite"},
     .metric = "mme_realworld_score",
     .aggregate = MULL__MEAN,
     .score = S(mme),
     .prompt = P(mme),
     .hub = "yifanzhang114/MME-RealWorld-Lmms-eval",
     .split = "train",
     .folders = {"MME-RealWorld", "MME-RealWorld-Lmms-eval", "MME-RealWorld-lite-lmms-eval"},
     .columns = {"question", "multi-choice options", "answer", "category"},
     .media = {.singles = {"bytes", "image"}},
     .max_new_tokens = 16,
     .top_p = 1},
    {.name = "vqav2",
     .aliases = {"vqav2_val"},
     .metric = "vqav2_accuracy",
     .aggregate = MULL__MEAN,
     .score = S(vqav2),
     .prompt = P(vqav2),
     .hub = "lmms-lab/VQAv2",
     .split = "validation",
     .folders = {"VQAv2"},
     .columns = {"question", "question_id", "answers"},
     .media = {.singles = {"image"}},
     .max_new_tokens = 1024,
     .top_p = 1},
    {.name = "puzzles",
     .metric = "puzzles_score_overall",
     .aggregate = MULL__MEAN,
     .score = S(puzzles),
     .prompt = P(puzzles),
     .system = "You are a helpful assistant",
     .hub = "nothing: mull-engine puzzles --layout puzzles draws it",
     .split = "test",
     .columns = {"question", "options", "answer", "question_type"},
     .media = {.singles = {"image"}},
     .max_new_tokens = 64,
     .top_p = 1},
};
enum { NTASKS = sizeof TASKS / sizeof *TASKS };

size_t mull_task_count(void) {
    return NTASKS;
}
const mull_task *mull_task_at(size_t i) {
    return i < NTASKS ? &TASKS[i] : NULL;
}
const char *mull_task_name(const mull_task *t) {
    return t->name;
}

const mull_task *mull_task_find(const char *name) {
    for (size_t i = 0; i < NTASKS; i++) {
        if (!strcmp(TASKS[i].name, name)) return &TASKS[i];
        for (int k = 0; k < 4 && TASKS[i].aliases[k]; k++)
            if (!strcmp(TASKS[i].aliases[k], name)) return &TASKS[i];
    }
    return NULL;
}

const json_t *mull__doc_need(const json_t *doc, const char *key, mull_error *err) {
    const json_t *v = json_object_get(doc, key);
    if (v) return v;
    mull_fail(err, MULL_EARG, "cannot use a row", key, "give the row as the dataset has it", "the column is missing");
    return NULL;
}

int mull__doc_text(mull__scoring *s, const char *key, mull__text *out) {
    const json_t *v = mull__doc_need(s->doc, key, s->err);
    if (!v) return MULL_EARG;
    if (!json_is_string(v))
        return mull_fail(s->err, MULL_EARG, "cannot use a row", key, "give the row as the dataset has it",
                         "the column is no text");
    *out = mull__decode_json(s->a, v);
    return MULL_OK;
}

int mull__raise(mull__scoring *s, const char *python_exception) {
    json_object_clear(s->metrics);
    json_object_set_new(s->metrics, "error", json_string(python_exception));
    s->raised = true;
    s->score = 0;
    return MULL_OK;
}

json_t *mull__doc_copy(const json_t *doc, const char *key) {
    const json_t *v = json_object_get(doc, key);
    return v ? json_deep_copy(v) : json_null();
}

static int score_one(const mull_task *t, mull__scoring *s, mull__text reply) {
    s->metrics = json_object();
    int rc = t->score(s, reply);
    if (!rc && (s->a->failed || !s->metrics))
        rc = mull_fail(s->err, MULL_ENOMEM, "cannot score a reply", t->name, NULL, "out of memory");
    return rc;
}

int mull_task_score(const mull_task *t, const json_t *doc, const char *reply, size_t len, mull_compat compat, int flags,
                    mull_scored *out, mull_error *err) {
    mull__arena a = {0};
    *out = (mull_scored){0};
    mull__scoring raw = {.a = &a, .doc = doc, .compat = compat, .err = err}, cleaned = raw;
    mull__text whole = mull__decode(&a, reply, len), clean = mull__clean_reply(whole);
    bool same = clean.c == whole.c && clean.n == whole.n; /* nothing was cleaned away: one score serves both */
    int rc = flags & MULL_SCORE_RAW && !same ? score_one(t, &raw, whole) : MULL_OK;
    if (!rc) rc = score_one(t, &cleaned, clean);
    if (flags & MULL_SCORE_RAW && same) {
        raw.metrics = json_incref(cleaned.metrics);
        raw.random = cleaned.random;
    }
    out->clean = mull__text_json(clean);
    out->raw = raw.metrics;
    out->cleaned = cleaned.metrics;
    out->raw_random = raw.random;
    out->cleaned_random = cleaned.random;
    out->category = cleaned.category;
    out->score = cleaned.score;
    out->correct_known = !cleaned.raised;
    json_decref(raw.category);
    mull__arena_fini(&a);
    if (!rc && !out->clean) rc = mull_fail(err, MULL_ENOMEM, "cannot score a reply", t->name, NULL, "out of memory");
    if (rc) mull_scored_fini(out);
    return rc;
}

void mull_scored_fini(mull_scored *s) {
    json_decref(s->clean);
    json_decref(s->raw);
    json_decref(s->cleaned);
    json_decref(s->category);
    memset(s, 0, sizeof *s);
}
