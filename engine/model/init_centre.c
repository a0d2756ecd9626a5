/* See init_centre.h. The forward is in float32, so the last bit of the bias may differ between machines whose kernels
 * add in another order. */
#include "engine/model/init_centre.h"

#include "engine/core/buf.h"
#include "engine/model/safetensors.h"
#include "engine/model/vision.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot centre the vision tower", BIAS[] = "visual.merger.mlp.2.bias";
enum { SIDE = 8 }; /* patches */

/* Patches of paper as white as the puzzles' (data/puzzle.c), normalised as images are. */
static void paper(float *patches, int64_t floats) {
    static const float mean[] = {0.48145466f, 0.4578275f, 0.40821073f}, std[] = {0.26862954f, 0.26130258f, 0.27577711f};
    for (int64_t i = 0; i < SIDE * SIDE * floats; i++) {
        int64_t channel = i % floats / (floats / 3);
        patches[i] = (250.0f / 255 - mean[channel]) / std[channel];
    }
}

/* Its mean feature, [hidden]. */
static int feature(const char *dir, float *mean, int64_t hidden, mull_error *err) {
    mull_model_opts o = {.weights = MULL_WEIGHT_F32, .threads = 1, .vision_only = true};
    mull_model *m = NULL;
    int rc = mull_model_load(dir, &o, &m, err);
    if (rc) return rc;
    const mull_config *c = mull_model_config(m);
    int64_t floats = mull_vision_patch_floats(&c->vision), grid[3] = {1, SIDE, SIDE},
            units = SIDE * SIDE / (c->vision.merge * c->vision.merge);
    size_t bytes = (size_t)(units * hidden) * sizeof(float);
    float *patches = malloc((size_t)(SIDE * SIDE * floats) * sizeof *patches), *all = malloc(bytes);
    void *out = NULL;
    if (!patches || !all) rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    if (!rc) paper(patches, floats);
    if (!rc) rc = mull_model_buffer(m, bytes, "features", &out, err);
    if (!rc) rc = mull_vision_encode(m, patches, grid, out, NULL, err);
    if (!rc) rc = mull_model_buffer_read(m, all, out, bytes, err);
    for (int64_t i = 0; i < hidden && !rc; i++) {
        double sum = 0;
        for (int64_t u = 0; u < units; u++) sum += (double)all[u * hidden + i];
        mean[i] = (float)(sum / (double)units);
    }
    mull_model_buffer_free(m, out);
    free(patches);
    free(all);
    mull_model_destroy(m);
    return rc;
}

int mull__init_centre(const char *dir, double share, mull_error *err) {
    char *path = mull_path_join(dir, "model.safetensors");
    mull_safetensors *file = NULL;
    int rc =
        path ? mull_safetensors_open(path, &file, err) : mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    size_t n = rc ? 0 : mull_safetensors_count(file), at = n;
    mull_tensor_info *t = calloc(n + 1, sizeof *t);
    for (size_t i = 0; i < n && t; i++) {
        t[i] = *mull_safetensors_at(file, i);
        if (!strcmp(t[i].name, BIAS)) at = i;
    }
    if (!rc && !t) rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    if (!rc && at == n) rc = mull_fail(err, MULL_EMISSING, WHAT, path, NULL, "it has no %s", BIAS);
    int64_t hidden = rc ? 0 : t[at].count;
    float *mean = calloc((size_t)hidden + 1, sizeof *mean);
    uint16_t *bias = calloc((size_t)hidden + 1, sizeof *bias);
    if (!rc && (!mean || !bias)) rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    if (!rc) rc = feature(dir, mean, hidden, err);
    for (int64_t i = 0; i < hidden && !rc; i++)
        bias[i] = mull_f32_to_bf16(mull_bf16_to_f32(((const uint16_t *)t[at].data)[i]) - (float)share * mean[i]);
    if (!rc) t[at].data = bias;
    if (!rc) rc = mull_safetensors_write(path, t, n, err);
    free(mean);
    free(bias);
    free(t);
    mull_safetensors_close(file);
    free(path);
    return rc;
}
