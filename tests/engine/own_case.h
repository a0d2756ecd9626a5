/* The case of tests/data/model: its checkpoint, its media by formula, what the reference computed. */
#ifndef MULL_TESTS_ENGINE_OWN_CASE_H
#define MULL_TESTS_ENGINE_OWN_CASE_H

#include "tests/engine/model_util.h"

#include "engine/infer/infer.h"

#define OWN MULL_TEST_DATA "/model"
enum { OWN_IMAGE_ROWS = 60, OWN_VIDEO_ROWS = 32 };

typedef struct own_case {
    char dir[32];
    mull_model *m;
    mull_safetensors *want;
    float *image, *video; /* patches */
    mull_media media[2];  /* of the first sequence */
} own_case;

static inline float *own_patches(const char *name, int64_t rows) {
    float *p = malloc((size_t)rows * 1176 * sizeof *p);
    assert_non_null(p);
    for (int64_t i = 0; i < rows * 1176; i++) p[i] = 2 * (float)util_uniform(7, name, (uint64_t)i);
    return p;
}

static inline void own_init(own_case *o, mull_weight_type type, int threads) {
    snprintf(o->dir, sizeof o->dir, "/tmp/mull_own_XXXXXX");
    util_checkpoint(OWN "/configs.json", "own", o->dir);
    o->m = util_load(o->dir, type, threads);
    mull_error err = {0};
    assert_int_equal(mull_safetensors_open(OWN "/expected.safetensors", &o->want, &err), 0);
    o->image = own_patches("pixel_values", OWN_IMAGE_ROWS);
    o->video = own_patches("pixel_values_videos", OWN_VIDEO_ROWS);
    o->media[0] = (mull_media){.kind = MULL_MEDIA_IMAGE, .grid = {1, 6, 10}, .tokens = 15, .patches = o->image};
    o->media[1] = (mull_media){
        .kind = MULL_MEDIA_VIDEO, .grid = {2, 4, 4}, .tokens = 8, .patches = o->video, .second_per_grid = 1.7f};
}

static inline void own_fini(own_case *o) {
    free(o->image);
    free(o->video);
    mull_safetensors_close(o->want);
    mull_model_destroy(o->m);
    util_remove(o->dir);
}

static inline const void *own_data(const own_case *o, const char *name, int64_t *count) {
    const mull_tensor_info *t = mull_safetensors_find(o->want, name);
    assert_non_null(t);
    if (count) *count = t->count;
    return t->data;
}

#endif
