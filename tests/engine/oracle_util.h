/* The model oracle for tests: cases put together from their parts, as oracle/model/README.md says. */
#ifndef MULL_TESTS_ENGINE_ORACLE_UTIL_H
#define MULL_TESTS_ENGINE_ORACLE_UTIL_H

#include "tests/engine/model_util.h"

#define ORACLE_MODEL MULL_ORACLE_DIR "/model"
enum { ORACLE_PARTS = 8 };

typedef struct oracle_case {
    mull_safetensors *want;                /* the stored tensors */
    mull_safetensors *parts[ORACLE_PARTS]; /* media in order of appearance */
    char names[ORACLE_PARTS][64];
    int nparts;
} oracle_case;

static const char *const ORACLE_CASES[] = {"text",      "image1",      "image2",    "video_half",
                                           "video_083", "image_video", "latents20", "batch3"};
enum { ORACLE_NCASES = sizeof ORACLE_CASES / sizeof *ORACLE_CASES };

static inline bool oracle_present(void) {
    return access(ORACLE_MODEL "/configs.json", R_OK) == 0;
}

static inline mull_safetensors *oracle_open(const char *fmt, const char *a, const char *b) {
    char path[1024];
    snprintf(path, sizeof path, fmt, a, b);
    mull_safetensors *s = NULL;
    mull_error err = {0};
    if (mull_safetensors_open(path, &s, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
    return s;
}

/* One kind of media of a case, its patches behind each other. */
static inline void oracle_patches(const oracle_case *o, const json_t *media, const char *kind, mull_tensor_info *out) {
    int64_t rows = 0;
    for (int i = 0; i < o->nparts; i++)
        if (!strcmp(json_string_value(json_object_get(json_object_get(media, o->names[i]), "kind")), kind))
            rows += mull_safetensors_find(o->parts[i], "pixel_values")->shape[0];
    if (!rows) return;
    float *data = malloc((size_t)rows * 1176 * sizeof *data), *at = data;
    assert_non_null(data);
    for (int i = 0; i < o->nparts; i++) {
        if (strcmp(json_string_value(json_object_get(json_object_get(media, o->names[i]), "kind")), kind)) continue;
        const mull_tensor_info *t = mull_safetensors_find(o->parts[i], "pixel_values");
        memcpy(at, t->data, (size_t)t->count * sizeof *at);
        at += t->count;
    }
    *out = (mull_tensor_info){.name = strcmp(kind, "image") ? "pixel_values_videos" : "pixel_values",
                              .dtype = MULL_F32,
                              .ndim = 2,
                              .shape = {rows, 1176},
                              .count = rows * 1176,
                              .data = data};
}

/* Opens a stored case and writes the case file that `forward` and `generate` take to path. */
static inline void oracle_case_open(const char *model, const char *name, const char *path, oracle_case *o) {
    memset(o, 0, sizeof *o);
    o->want = oracle_open(ORACLE_MODEL "/%s/%s.safetensors", model, name);
    char json_path[1024];
    snprintf(json_path, sizeof json_path, ORACLE_MODEL "/%s/%s.json", model, name);
    json_t *info = json_load_file(json_path, 0, NULL), *media = json_load_file(ORACLE_MODEL "/media.json", 0, NULL);
    assert_non_null(info);
    assert_non_null(media);
    size_t i, k;
    json_t *seq, *part;
    json_array_foreach(json_object_get(info, "sequences"), i, seq)
        json_array_foreach(json_object_get(seq, "media"), k, part) {
        assert_true(o->nparts < ORACLE_PARTS);
        snprintf(o->names[o->nparts], sizeof o->names[0], "%s", json_string_value(part));
        o->parts[o->nparts] = oracle_open(ORACLE_MODEL "/media/%s%s.safetensors", json_string_value(part), "");
        o->nparts++;
    }
    static const char *const COPIED[] = {"input_ids", "cu_seqlens", "image_grid_thw", "video_grid_thw",
                                         "second_per_grid_ts"};
    mull_tensor_info t[8] = {0};
    size_t n = 0;
    for (size_t c = 0; c < sizeof COPIED / sizeof *COPIED; c++) {
        const mull_tensor_info *s = mull_safetensors_find(o->want, COPIED[c]);
        if (s) t[n++] = *s;
    }
    size_t copied = n;
    oracle_patches(o, media, "image", &t[n]);
    n += t[n].data != NULL;
    oracle_patches(o, media, "video", &t[n]);
    n += t[n].data != NULL;
    mull_error err = {0};
    assert_int_equal(mull_safetensors_write(path, t, n, &err), 0);
    for (size_t c = copied; c < n; c++) free((void *)(uintptr_t)t[c].data);
    json_decref(info);
    json_decref(media);
}

static inline void oracle_case_close(oracle_case *o) {
    mull_safetensors_close(o->want);
    for (int i = 0; i < o->nparts; i++) mull_safetensors_close(o->parts[i]);
}

#endif
