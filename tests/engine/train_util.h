/* Training cases of the model oracle, put together from their parts. */
#ifndef MULL_TESTS_ENGINE_TRAIN_UTIL_H
#define MULL_TESTS_ENGINE_TRAIN_UTIL_H

#include "tests/engine/oracle_util.h"

#include "engine/train/backend.h"
#include "engine/train/grad.h"

/* Where the oracle tests train: they are built a second time over the emulated CUDA backend (tests/cuda). */
#ifdef MULL_CUDA_EMULATED
#define TRAIN_BACKEND mull_cuda_train_backend()
#else
#define TRAIN_BACKEND NULL
#endif

typedef struct case_parts {
    mull_tensor_info t[16];
    size_t n;
    mull_safetensors *open[8];
    int nopen;
    void *owned[4];
    int nowned;
} case_parts;

static inline void parts_add(case_parts *p, const mull_tensor_info *t, const char *name) {
    assert_non_null(t);
    assert_true(p->n < 16);
    p->t[p->n] = *t;
    p->t[p->n++].name = name;
}

/* The media of these names (oracle/model/media), of one kind, behind each other. */
static inline void parts_media(case_parts *p, const char *const *names, int n, const char *pixels, const char *grid) {
    int64_t rows = 0;
    mull_safetensors *f[4];
    for (int i = 0; i < n; i++) {
        f[i] = p->open[p->nopen++] = oracle_open(ORACLE_MODEL "/media/%s%s.safetensors", names[i], "");
        rows += mull_safetensors_find(f[i], "pixel_values")->shape[0];
    }
    float *data = malloc((size_t)rows * 1176 * sizeof *data), *at = data;
    int64_t *grids = malloc((size_t)n * 3 * sizeof *grids);
    assert_true(data && grids);
    for (int i = 0; i < n; i++) {
        const mull_tensor_info *t = mull_safetensors_find(f[i], "pixel_values");
        memcpy(at, t->data, (size_t)t->count * sizeof *at);
        at += t->count;
        memcpy(grids + 3 * i, mull_safetensors_find(f[i], "grid_thw")->data, 3 * sizeof *grids);
    }
    p->owned[p->nowned++] = data;
    p->owned[p->nowned++] = grids;
    p->t[p->n++] = (mull_tensor_info){
        .name = pixels, .dtype = MULL_F32, .ndim = 2, .shape = {rows, 1176}, .count = rows * 1176, .data = data};
    p->t[p->n++] =
        (mull_tensor_info){.name = grid, .dtype = MULL_I64, .ndim = 2, .shape = {n, 3}, .count = 3 * n, .data = grids};
}

/* media and reasoning of a sample as its JSON names them. */
static inline void parts_sample(case_parts *p, const json_t *sample) {
    const char *media = json_string_value(json_object_get(sample, "media"));
    json_t *all = json_load_file(ORACLE_MODEL "/media.json", 0, NULL), *list = json_object_get(sample, "reasoning");
    if (media) {
        const json_t *m = json_object_get(all, media);
        bool video = !strcmp(json_string_value(json_object_get(m, "kind")), "video");
        parts_media(p, &media, 1, video ? "pixel_values_videos" : "pixel_values",
                    video ? "video_grid_thw" : "image_grid_thw");
        if (video) {
            float *seconds = malloc(sizeof *seconds);
            assert_non_null(seconds);
            *seconds = (float)json_number_value(json_object_get(m, "second_per_grid"));
            p->owned[p->nowned++] = seconds;
            p->t[p->n++] = (mull_tensor_info){
                .name = "second_per_grid_ts", .dtype = MULL_F32, .ndim = 1, .shape = {1}, .count = 1, .data = seconds};
        }
    }
    const char *names[4];
    int n = 0;
    for (; n < (int)json_array_size(list); n++) names[n] = json_string_value(json_array_get(list, (size_t)n));
    if (n) parts_media(p, names, n, "reasoning_pixel_values", "reasoning_grid_thw");
    json_decref(all);
}

static inline void parts_write(case_parts *p, const char *path) {
    mull_error err = {0};
    if (mull_safetensors_write(path, p->t, p->n, &err)) fail_msg("%s", err.why);
    for (int i = 0; i < p->nopen; i++) mull_safetensors_close(p->open[i]);
    for (int i = 0; i < p->nowned; i++) free(p->owned[i]);
    *p = (case_parts){0};
}

static inline json_t *train_json(const char *model, const char *name) {
    char path[1024];
    snprintf(path, sizeof path, ORACLE_MODEL "/%s/%s.json", model, name);
    json_t *j = json_load_file(path, 0, NULL);
    assert_non_null(j);
    return j;
}

static inline void train_grad(const char *dir, const char *const *cases, int n, const mull_grad_opts *o,
                              mull_outputs *out) {
    mull_error err = {0};
    if (mull_grad_run(dir, cases, n, o, out, &err)) {
        mull_error_print(stderr, &err);
        fail();
    }
}

/* |got - want| / |want| over all values; NaN fails by being no number below a bound. */
static inline double relative_l2(const float *got, const float *want, int64_t n, double scale) {
    double d = 0, w = 0;
    for (int64_t i = 0; i < n; i++) {
        double g = (double)got[i] * scale, e = g - want[i];
        d += e * e;
        w += (double)want[i] * want[i];
    }
    return sqrt(d / (w > 0 ? w : 1));
}

#endif
