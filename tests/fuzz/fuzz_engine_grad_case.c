/* Any bytes as a training case (a safetensors file). What is accepted must be packable: ids, labels, media and
 * reasoning images are used as the trainer uses them, with a tower that touches every patch and feature. */
#include "engine/train/grad_case.h"
#include "engine/train/pack.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];

static void leave(void) {
    unlink(path);
}

static const mull_config C = {.hidden = 8,
                              .layers = 1,
                              .heads = 2,
                              .kv_heads = 1,
                              .head_dim = 4,
                              .vocab = 64,
                              .max_positions = 1024,
                              .image_token = 40,
                              .video_token = 41,
                              .vision_start = 42,
                              .vision_end = 43,
                              .vision_pad = 44,
                              .latent_image = 48,
                              .neos = 1,
                              .eos = {50},
                              .vision = {.depth = 1,
                                         .hidden = 8,
                                         .heads = 2,
                                         .head_dim = 4,
                                         .intermediate = 8,
                                         .in_chans = 3,
                                         .out_hidden = 8,
                                         .patch = 2,
                                         .temporal_patch = 2,
                                         .merge = 2,
                                         .window = 16,
                                         .tokens_per_second = 2}};

static int encode(void *ctx, const mull_grid *g, const float *patches, float *out, mull_error *err) {
    (void)ctx, (void)err;
    int64_t rows = g->t * g->h * g->w, width = 24, units = rows / 4;
    for (int64_t u = 0; u < units * C.hidden; u++) out[u] = patches[u % (rows * width)];
    volatile float last = patches[rows * width - 1];
    (void)last;
    return MULL_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!*path) {
        snprintf(path, sizeof path, "/tmp/mull_fuzz_case_XXXXXX");
        int fd = mkstemp(path);
        if (fd < 0) abort();
        close(fd);
        atexit(leave);
    }
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, size, f) != size || fclose(f)) abort();
    for (int loss = MULL_GRAD_CE; loss <= MULL_GRAD_GRPO; loss++) {
        mull_grad_case g;
        mull_error e = {0};
        int rc = mull_grad_case_open(path, &C, (mull_grad_loss)loss, &g, &e);
        if (rc && (!e.what[0] || !e.why[0])) abort();
        if (rc) continue;
        mull_pack p = {.vision_gradient = true};
        mull_pack_source s = {encode, NULL};
        memset(&e, 0, sizeof e);
        rc = mull_pack_build(&p, &C, &g.batch, &s, &e);
        if (rc && (!e.what[0] || !e.why[0])) abort();
        for (int64_t i = 0; !rc && i < p.net.rows; i++) {
            volatile float touch = p.features[i] ? p.features[i][C.hidden - 1] : 0;
            if (p.d_features[i]) p.d_features[i][C.hidden - 1] = touch;
        }
        mull_pack_fini(&p);
        mull_grad_case_fini(&g);
    }
    return 0;
}
