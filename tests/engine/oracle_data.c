/* Datasets against the reference vectors: every mode of every row. Strings, ids, labels, sizes exact; pixels within 2
 * (6 where a JPEG decoder took part), the bound the vectors' README gives. */
#include "media_util.h"

#include "engine/data/dataset_internal.h"
#include "engine/data/sample.h"
#include "engine/media/image.h"

#include <math.h>
#include <zstd.h>

#if !MULL_HAVE_PARQUET || !MULL_HAVE_MEDIA
int main(void) {
    fprintf(stderr, "skipped: this build has no parquet or no decoders\n");
    return 77;
}
#else

static mull_tokenizer *tok;

static const char *const MODES[][2] = {
    {"sft", "no_reason_mode: True"},
    {"stage1", "mmlatent_mode_stage1: True"},
    {"stage2", "mmlatent_mode_stage2: True"},
    {"stage2_text", "mmlatent_mode_stage2: True\n  num_latent_tokens: 5\n  use_text_reasoning: True\n"
                    "  use_multimodal_textonly: True"},
    {"rl", "mmlatent_mode_stage2: True\n  mmlatent_rl_mode: True"},
    {"rl_wtxt", "mmlatent_mode_stage2: True\n  mmlatent_rl_mode: True\n  wtxt_rl_mode: True\n  num_latent_tokens: 3"},
    {"r1", "r1_mode: True\n  no_zebracot_reason_mode: True"},
    {"r1_rl", "r1_mode: True\n  r1_rl_mode: True\n  no_zebracot_reason_mode: True"},
};
enum { NMODES = sizeof MODES / sizeof *MODES };

typedef struct opened {
    mull_recipe r, sft; /* sft: the same, but rendered with <|im_end|> as the vectors' text has it */
    mull_dataset *d;
    mull_builder b;
} opened;

static void open_set(const char *mode_yaml, const char *set, opened *o) {
    static const char *const sets[][3] = {{"SAT", "sat_location", ""},
                                          {"VideoR1", "video_r1_location", "/Video-R1-COT-165k.json"},
                                          {"ZebraCOT", "zebracot_location", ""}};
    int k = !strncmp(set, "sat", 3) ? 0 : !strcmp(set, "videor1") ? 1 : 2;
    mull_buf yaml = {0};
    mull_error err = {0};
    mull_buf_printf(&yaml,
                    "train_dataset_args:\n  split: train\n  mix_datas:\n    '%s': 1.0\n  %s: '%s/data/%s%s'\n  %s\n"
                    "label_mask: release\n",
                    sets[k][0], sets[k][1], MULL_ORACLE_DIR, set, sets[k][2], mode_yaml);
    if (mull_recipe_parse(yaml.data, yaml.len, "test", NULL, 0, &o->r, NULL, &err) ||
        mull_dataset_open(&o->r,
                          k == 0   ? MULL_SET_SAT
                          : k == 1 ? MULL_SET_VIDEOR1
                                   : MULL_SET_ZEBRA,
                          &o->d, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    o->sft = o->r;
    if (o->r.kind == MULL_GRPO) o->sft.kind = MULL_STAGE2;
    assert_int_equal(mull_builder_init(&o->b, &o->sft, tok, &err), 0);
    mull_buf_fini(&yaml);
}

static void close_set(opened *o) {
    mull_dataset_close(o->d);
    mull_recipe_fini(&o->r);
}

/* SAT's options come in the vectors' order: some key gives it. */
static int get(opened *o, int64_t i, const json_t *order, mull_example *e, mull_error *err) {
    for (uint64_t key = 0; key < 4000; key++) {
        int rc = mull_dataset_get(o->d, i, key, e, err);
        if (rc || !order) return rc;
        bool same = e->norder == (int)json_array_size(order);
        for (int k = 0; same && k < e->norder; k++)
            same = e->order[k] == json_integer_value(json_array_get(order, (size_t)k));
        if (same) return 0;
        mull_example_fini(e);
    }
    fail_msg("no key gives the order");
    return -1;
}

/* The pixel (x, y) of a still medium, from its normalised patches. */
static void pixel(const mull_media *m, int x, int y, int out[3]) {
    static const double mean[3] = {0.48145466, 0.4578275, 0.40821073}, std[3] = {0.26862954, 0.26130258, 0.27577711};
    int64_t px = x / 14, py = y / 14, w = m->grid[2];
    int64_t at = (py / 2 * (w / 2) + px / 2) * 4 + py % 2 * 2 + px % 2;
    for (int c = 0; c < 3; c++) {
        double v = (double)m->patches[at * 1176 + c * 392 + y % 14 * 14 + x % 14];
        out[c] = (int)lrint((v * std[c] + mean[c]) * 255);
    }
}

static void check_media(const mull_media *m, const int size[2], const json_t *want, const char *what, int64_t row) {
    const json_t *s = json_object_get(want, "size"), *f = json_object_get(want, "final_size"),
                 *probe = json_object_get(want, "probe");
    if (s &&
        (size[0] != json_integer_value(json_array_get(s, 0)) || size[1] != json_integer_value(json_array_get(s, 1))))
        BAD("%s row %lld: size %d x %d", what, (long long)row, size[0], size[1]);
    if (f && (m->resized_w != json_integer_value(json_array_get(f, 0)) ||
              m->resized_h != json_integer_value(json_array_get(f, 1))))
        BAD("%s row %lld: final size %d x %d", what, (long long)row, m->resized_w, m->resized_h);
    if (json_object_get(want, "frames")) {
        if (m->nframes != int_at(want, "frames") || fabs(m->sample_fps - num_at(want, "sample_fps", 0)) > 1e-9)
            BAD("%s row %lld: %d frames at %g", what, (long long)row, m->nframes, m->sample_fps);
        return;
    }
    if (!f) return; /* reasoning images were probed before the processor's resize */
    for (int k = 0; k < 16; k++) {
        int got[3];
        pixel(m, (int)((k % 4 + .5) * m->resized_w / 4), (int)((k / 4 + .5) * m->resized_h / 4), got);
        for (int c = 0; c < 3; c++) {
            int w = (int)json_integer_value(json_array_get(json_array_get(probe, (size_t)k), (size_t)c));
            int bound = !strcmp(m->format, "jpeg") ? 6 : 2;
            if (abs(got[c] - w) > bound)
                BAD("%s row %lld: pixel %d.%d is %d, want %d", what, (long long)row, k, c, got[c], w);
        }
    }
}

/* Reasoning images are probed at 128 x 128. */
static void check_reasoning(const mull_source *s, const json_t *want, int64_t row) {
    mull_image im;
    mull_error err = {0};
    if (mull_image_decode_resized(s->data, s->len, 0, "test", s->side, s->side, MULL_LANCZOS, false, &im, &err)) {
        BAD("reasoning image of row %lld: %s", (long long)row, err.why);
        return;
    }
    const json_t *probe = json_object_get(want, "probe");
    int bound = mull_image_sniff(s->data, s->len) == MULL_FORMAT_JPEG ? 6 : 2;
    for (int k = 0; k < 16; k++)
        for (int c = 0; c < 3; c++) {
            int x = (int)((k % 4 + .5) * im.w / 4), y = (int)((k / 4 + .5) * im.h / 4);
            int got = im.px[(y * im.w + x) * 3 + c];
            int w = (int)json_integer_value(json_array_get(json_array_get(probe, (size_t)k), (size_t)c));
            if (abs(got - w) > bound)
                BAD("reasoning image (%s) of row %lld: pixel %d.%d is %d, want %d", text_at(want, "mode"),
                    (long long)row, k, c, got, w);
        }
    mull_image_fini(&im);
}

static int checked;

static void check_row(opened *o, const json_t *row, const char *mode, int64_t index) {
    const json_t *want = json_object_get(json_object_get(row, "modes"), mode), *media = json_object_get(row, "media");
    mull_example e;
    mull_sample s;
    mull_error err = {0};
    int rc = get(o, index, json_object_get(row, "order"), &e, &err);
    checked++;
    if (json_is_string(want)) {
        if (rc != MULL_SKIP) BAD("%s row %lld is not skipped", mode, (long long)index);
        if (!rc) mull_example_fini(&e);
        return;
    }
    if (rc || mull_sample_build(&o->b, &e, &s, &err)) {
        BAD("%s row %lld: %s: %s", mode, (long long)index, err.where, err.why);
        return;
    }
    const json_t *messages = json_object_get(want, "messages"), *reasoning = json_object_get(want, "reasoning");
    if (strcmp(e.question.s.data, text_at(json_array_get(messages, 1), "text")))
        BAD("%s row %lld: question %s", mode, (long long)index, e.question.s.data);
    if (strcmp(e.answer.s.data, text_at(json_array_get(messages, 2), "text")))
        BAD("%s row %lld: answer %s", mode, (long long)index, e.answer.s.data);
    if (strcmp(s.text, text_at(want, "text"))) BAD("%s row %lld: text %s", mode, (long long)index, s.text);
    if (strcmp(s.solution, text_at(want, "solution"))) BAD("%s row %lld: solution", mode, (long long)index);
    if (strcmp(s.problem_type, text_at(want, "problem_type"))) BAD("%s row %lld: problem_type", mode, (long long)index);
    if (s.nmedia != json_array_size(media) || s.nreasoning != json_array_size(reasoning))
        BAD("%s row %lld: %zu media, %zu reasoning images", mode, (long long)index, s.nmedia, s.nreasoning);
    for (size_t i = 0; i < s.nmedia; i++) check_media(&s.media[i], s.size[i], json_array_get(media, i), mode, index);
    for (size_t i = 0; i < s.nreasoning; i++) {
        check_media(&s.reasoning[i], s.size[s.nmedia + i], json_array_get(reasoning, i), mode, index);
        check_reasoning(&e.reasoning[i], json_array_get(reasoning, i), index);
    }
    mull_sample_fini(&s);
    mull_example_fini(&e);
}

/* The row of the dataset where a subset's row stands. */
static int64_t row_index(const opened *o, const json_t *row) {
    const char *subset = text_at(row, "subset");
    for (size_t i = 0; subset && i < o->d->nsubsets; i++)
        if (!strcmp(o->d->subsets[i].name, subset)) return o->d->subsets[i].first + int_at(row, "index");
    return int_at(row, "index");
}

typedef struct walk {
    opened o;
    const char *mode;
    int64_t seen;
} walk;
static void each(const json_t *row, void *ctx) {
    walk *w = ctx;
    w->seen++;
    check_row(&w->o, row, w->mode, row_index(&w->o, row));
}

static void samples(const char *set) {
    char name[64];
    snprintf(name, sizeof name, "samples_%s.jsonl", set);
    bad_rows = 0;
    for (int m = 0; m < NMODES; m++) {
        walk w = {.mode = MODES[m][0]};
        open_set(MODES[m][1], set, &w.o);
        each_row(MULL_ORACLE_DIR "/data", name, each, &w);
        assert_int_equal(w.seen, mull_dataset_rows(w.o.d)); /* the vectors name every row */
        close_set(&w.o);
    }
    assert_int_equal(bad_rows, 0);
}
static void sat_paths(void **state) {
    (void)state;
    samples("sat_paths");
}
static void sat_images(void **state) {
    (void)state;
    samples("sat_images");
}
static void sat_bytes(void **state) {
    (void)state;
    samples("sat_bytes");
}
static void videor1(void **state) {
    (void)state;
    samples("videor1");
}
static void zebra(void **state) {
    (void)state;
    samples("zebra");
}

/* ---- ids and labels */
static void order_of(const json_t *row, void *ctx) {
    json_t *const *at = ctx;
    const json_t *want = at[0];
    const char *set = text_at(want, "set"), *slash = strchr(set, '/'), *subset = text_at(row, "subset");
    if (int_at(row, "index") == int_at(want, "index") && (!slash || (subset && !strcmp(subset, slash + 1))))
        json_object_update_missing(at[1], (json_t *)(uintptr_t)row);
}

static void compare_ids(const json_t *want, const mull_sample *s) {
    const json_t *ids = json_object_get(want, "input_ids"), *ignored = json_object_get(want, "ignored");
    const char *set = text_at(want, "set"), *mode = text_at(want, "mode");
    size_t k = 0;
    if (s->n != json_array_size(ids)) BAD("%s %s: %zu ids, want %zu", set, mode, s->n, json_array_size(ids));
    for (size_t i = 0; i < s->n && i < json_array_size(ids); i++) {
        int32_t id = (int32_t)json_integer_value(json_array_get(ids, i));
        bool ignore = k < json_array_size(ignored) && json_integer_value(json_array_get(ignored, k)) == (json_int_t)i;
        k += ignore;
        if (s->ids[i] != id) BAD("%s %s: id %zu is %d, want %d", set, mode, i, s->ids[i], id);
        if (s->labels[i] != (ignore ? MULL_IGNORE : id)) BAD("%s %s: label %zu is %d", set, mode, i, s->labels[i]);
        if (bad_rows > 20) return;
    }
    size_t images = 0, videos = 0;
    for (size_t i = 0; i < s->nmedia; i++) {
        bool video = s->media[i].kind == MULL_MEDIA_VIDEO;
        const json_t *grid = json_array_get(json_object_get(want, video ? "video_grid_thw" : "image_grid_thw"),
                                            video ? videos++ : images++);
        for (size_t c = 0; c < 3; c++)
            if (s->media[i].grid[c] != json_integer_value(json_array_get(grid, c)))
                BAD("%s %s: grid %zu", set, mode, i);
    }
    for (size_t i = 0; i < s->nreasoning; i++)
        for (size_t c = 0; c < 3; c++)
            if (s->reasoning[i].grid[c] !=
                json_integer_value(json_array_get(json_array_get(json_object_get(want, "reasoning_grid_thw"), i), c)))
                BAD("%s %s: reasoning grid %zu", set, mode, i);
}

static void collate_row(const json_t *want) {
    const char *set = text_at(want, "set"), *mode = text_at(want, "mode"), *slash = strchr(set, '/');
    char folder[64], name[96];
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - set) : (int)strlen(set), set);
    snprintf(name, sizeof name, "samples_%s.jsonl", folder);
    json_t *found = json_object();
    json_t *ctx[2] = {(json_t *)(uintptr_t)want, found};
    each_row(MULL_ORACLE_DIR "/data", name, order_of, ctx);
    for (int m = 0; m < NMODES; m++) {
        if (strcmp(MODES[m][0], mode)) continue;
        opened o = {0};
        mull_example e;
        mull_sample s;
        mull_error err = {0};
        open_set(MODES[m][1], folder, &o);
        if (get(&o, row_index(&o, found), json_object_get(found, "order"), &e, &err) ||
            mull_sample_build(&o.b, &e, &s, &err)) {
            BAD("%s %s: %s", set, mode, err.why);
        } else {
            compare_ids(want, &s);
            const char *rl = text_at(want, "rl_text");
            if (rl) { /* the GRPO trainer's own text */
                int64_t tokens[64] = {0};
                mull_buf text = {0};
                o.b.recipe = &o.r;
                assert_int_equal(mull_sample_render(&o.b, &e, tokens, &text, NULL, NULL, &err), 0);
                if (strcmp(text.data, rl)) BAD("%s %s: GRPO text %s", set, mode, text.data);
                mull_buf_fini(&text);
            }
            mull_sample_fini(&s);
            mull_example_fini(&e);
        }
        close_set(&o);
        checked++;
    }
    json_decref(found);
}

static void collate(void **state) {
    (void)state;
    mull_buf packed;
    mull_error err = {0};
    assert_int_equal(mull_read_file(MULL_ORACLE_DIR "/data/collate.jsonl.zst", 1 << 24, "vectors", &packed, &err), 0);
    enum { ROOM = 1 << 24 };
    char *text = malloc(ROOM + 1);
    size_t n = ZSTD_decompress(text, ROOM, packed.data, packed.len);
    assert_false(ZSTD_isError(n));
    text[n] = 0;
    bad_rows = 0;
    checked = 0;
    for (char *line = text, *next; *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        else
            next = line + strlen(line);
        json_t *row = json_loads(line, 0, NULL);
        assert_non_null(row);
        collate_row(row);
        json_decref(row);
    }
    free(text);
    mull_buf_fini(&packed);
    assert_true(checked > 30);
    assert_int_equal(bad_rows, 0);
}

int main(void) {
    mull_error err = {0};
    if (access(MULL_ORACLE_DIR "/data/README.md", R_OK)) {
        fprintf(stderr, "skipped: no reference vectors\n");
        return 77;
    }
    if (mull_tokenizer_load(MULL_ORACLE_DIR "/tokenizer", &tok, &err)) {
        mull_error_print(stderr, &err);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sat_paths), cmocka_unit_test(sat_images), cmocka_unit_test(sat_bytes),
        cmocka_unit_test(videor1),   cmocka_unit_test(zebra),      cmocka_unit_test(collate),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    mull_tokenizer_destroy(tok);
    return rc;
}
#endif
