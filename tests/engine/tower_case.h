/* A training case of model `own` with two pictures and a video: what tests/data/model/tower_grad.json
 * was computed from. */
#ifndef MULL_TESTS_ENGINE_TOWER_CASE_H
#define MULL_TESTS_ENGINE_TOWER_CASE_H

#include "tests/engine/own_case.h"

#include "engine/model/safetensors_write.h"

enum { TOWER_IMAGE_ROWS = 6 * 10 + 18 * 12, TOWER_VIDEO_ROWS = 2 * 12 * 10 };

static inline int64_t tower_ids(const mull_config *c, int64_t *ids, int64_t *labels) {
    int64_t n = 0, pad[3] = {c->image_token, c->image_token, c->video_token}, count[3] = {15, 54, 60};
    for (int m = 0; m < 3; m++) {
        for (int i = 0; i < 4 + m; i++, n++)
            labels[n] = ids[n] = (int64_t)(util_splitmix((uint64_t)(1000 * m + i)) % 200);
        labels[n] = ids[n] = c->vision_start;
        n++;
        for (int64_t i = 0; i < count[m]; i++, n++) {
            ids[n] = pad[m];
            labels[n] = -100;
        }
    }
    for (int i = 0; i < 9; i++, n++) labels[n] = ids[n] = (int64_t)(util_splitmix((uint64_t)(9000 + i)) % 200);
    return n;
}

static inline void tower_case_write(const mull_config *c, const char *path) {
    int64_t ids[256], labels[256], n = tower_ids(c, ids, labels);
    int64_t images[6] = {1, 6, 10, 1, 18, 12}, videos[3] = {2, 12, 10};
    float *image = own_patches("pixel_values", TOWER_IMAGE_ROWS),
          *video = own_patches("pixel_values_videos", TOWER_VIDEO_ROWS), seconds = 1;
    mull_tensor_info t[] = {
        {.name = "input_ids", .dtype = MULL_I64, .ndim = 1, .shape = {n}, .count = n, .data = ids},
        {.name = "labels", .dtype = MULL_I64, .ndim = 1, .shape = {n}, .count = n, .data = labels},
        {.name = "pixel_values",
         .dtype = MULL_F32,
         .ndim = 2,
         .shape = {TOWER_IMAGE_ROWS, 1176},
         .count = TOWER_IMAGE_ROWS * 1176,
         .data = image},
        {.name = "image_grid_thw", .dtype = MULL_I64, .ndim = 2, .shape = {2, 3}, .count = 6, .data = images},
        {.name = "pixel_values_videos",
         .dtype = MULL_F32,
         .ndim = 2,
         .shape = {TOWER_VIDEO_ROWS, 1176},
         .count = TOWER_VIDEO_ROWS * 1176,
         .data = video},
        {.name = "video_grid_thw", .dtype = MULL_I64, .ndim = 2, .shape = {1, 3}, .count = 3, .data = videos},
        {.name = "second_per_grid_ts", .dtype = MULL_F32, .ndim = 1, .shape = {1}, .count = 1, .data = &seconds}};
    mull_error err = {0};
    if (mull_safetensors_write(path, t, sizeof t / sizeof *t, &err)) fail_msg("%s", err.why);
    free(image);
    free(video);
}

#endif
