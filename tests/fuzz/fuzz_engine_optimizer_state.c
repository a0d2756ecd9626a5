/* Any bytes as a rank's optimiser file. The first byte says whether the rest is what a frame holds (it is compressed
 * here, so that the checksum is right and the reader behind it is reached) or the file itself, and which range of the
 * values this reader owns. Whatever the file says, only that range is written. */
#include "engine/train/checkpoint_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TRAINED = 21, GUARD = 8 };
static const float MARK = 12345.0f;

static char dir[64], path[128];

static void leave(void) {
    unlink(path);
    rmdir(dir);
}

static void put(const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) abort();
}

static void guarded(float *x, int64_t n) {
    for (int64_t i = 0; i < n + 2 * GUARD; i++) x[i] = MARK;
}
static void intact(const float *x, int64_t n) {
    for (int i = 0; i < GUARD; i++)
        if (x[i] != MARK || x[n + GUARD + i] != MARK) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!*dir) {
        snprintf(dir, sizeof dir, "/tmp/mull_fuzz_optim_XXXXXX");
        if (!mkdtemp(dir)) abort();
        snprintf(path, sizeof path, "%s/optimizer-00000-of-00001.zst", dir);
        atexit(leave);
    }
    if (size < 1) return 0;
    static const int64_t OWN[4][2] = {{0, TRAINED}, {0, 7}, {5, 13}, {20, 21}};
    const int64_t *own = OWN[data[0] >> 1 & 3], n = own[1] - own[0];
    if (data[0] & 1) {
        put(data + 1, size - 1);
    } else {
        size_t cap = ZSTD_compressBound(size);
        char *packed = malloc(cap);
        if (!packed) return 0;
        size_t len = ZSTD_compress(packed, cap, data + 1, size - 1, 1);
        if (ZSTD_isError(len)) abort();
        put(packed, len);
        free(packed);
    }
    float w[TRAINED + 2 * GUARD], m[TRAINED + 2 * GUARD], v[TRAINED + 2 * GUARD];
    guarded(w, TRAINED);
    guarded(m, n);
    guarded(v, n);
    mull_param list[3] = {
        {.name = "a.weight", .ndim = 2, .shape = {4, 4}, .count = 16, .w = w + GUARD, .at = 0},
        {.name = "frozen", .ndim = 1, .shape = {3}, .count = 3, .at = -1},
        {.name = "b.bias", .ndim = 1, .shape = {5}, .count = 5, .w = w + GUARD + 16, .at = 16},
    };
    mull_params p = {.list = list,
                     .n = 3,
                     .count = TRAINED,
                     .trained = TRAINED,
                     .w = w + GUARD,
                     .m = m + GUARD,
                     .v = v + GUARD,
                     .zero = 1,
                     .lo = own[0],
                     .hi = own[1]};
    mull_error e = {0};
    int rc = mull__optimizer_load(dir, &p, &e);
    if (rc && (!e.what[0] || !e.why[0])) abort();
    intact(w, TRAINED);
    intact(m, n);
    intact(v, n);
    for (int64_t i = 0; i < TRAINED; i++)
        if ((i < own[0] || i >= own[1]) && memcmp(&w[GUARD + i], &MARK, sizeof MARK)) abort(); /* others' masters */
    return 0;
}
