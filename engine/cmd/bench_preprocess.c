/* mull-engine bench preprocess: decode, resize and patches on given files, one thread. Prints images and source
 * megapixels a second, each FILE on its own; the comparison with Pillow on the same files is in ops/bench. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/media/media.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_time(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The median of repeat loads after one that warms the caches; other work on the machine moves a mean. */
static int measure(const char *path, const mull_media_limits *limits, int repeat, double *seconds, mull_error *err) {
    for (int i = -1; i < repeat; i++) {
        mull_media m;
        double t = now();
        int rc = mull_media_load_file(path, MULL_MEDIA_AUTO, limits, 0, &m, err);
        t = now() - t;
        if (rc) return rc;
        if (i < 0) {
            /* A video counts its chosen frames as images. */
            double images = m.kind == MULL_MEDIA_VIDEO ? m.nframes : 1;
            double mpix = images * m.width * m.height * 1e-6;
            seconds[repeat] = images;
            seconds[repeat + 1] = mpix;
        } else {
            seconds[i] = t;
        }
        mull_media_fini(&m);
    }
    qsort(seconds, (size_t)repeat, sizeof *seconds, by_time);
    return MULL_OK;
}

int mull_bench_preprocess(int argc, char **argv) {
    static const char cmd[] = "bench preprocess";
    long long repeat = 5, max_pixels = 0;
    int i = 1;
    for (; i < argc && !strncmp(argv[i], "--", 2); i += 2) {
        if (!strcmp(argv[i], "--help")) {
            puts("usage: mull-engine bench preprocess [--repeat N] [--max-pixels N] FILE...");
            return MULL_EXIT_OK;
        }
        bool times = !strcmp(argv[i], "--repeat");
        if (!times && strcmp(argv[i], "--max-pixels") != 0) return mull_cmd_usage(cmd, "unknown flag %s", argv[i]);
        if (i + 1 == argc) return mull_cmd_usage(cmd, "%s needs a value", argv[i]);
        int rc = times ? mull_cmd_int(cmd, argv[i], argv[i + 1], 1, 100000, &repeat)
                       : mull_cmd_int(cmd, argv[i], argv[i + 1], 1, 1LL << 40, &max_pixels);
        if (rc) return rc;
    }
    if (i >= argc) return mull_cmd_usage(cmd, "no FILE given");
    const mull_media_limits limits = {.max_pixels = max_pixels};
    double *seconds = calloc((size_t)repeat + 2, sizeof *seconds);
    mull_error err = {0};
    if (!seconds) {
        mull_fail(&err, MULL_ENOMEM, "cannot measure", NULL, NULL, "out of memory");
        return mull_cmd_fail(&err);
    }
    int rc = 0;
    for (; !rc && i < argc; i++) {
        rc = measure(argv[i], &limits, (int)repeat, seconds, &err);
        if (rc) break;
        double median = seconds[repeat / 2];
        mull_cmd_emit(json_pack("{s:s,s:s,s:f,s:f,s:f,s:I}", "bench", "preprocess", "file", argv[i], "images_s",
                                seconds[repeat] / median, "mpix_s", seconds[repeat + 1] / median, "ms", median * 1e3,
                                "repeat", (json_int_t)repeat));
    }
    free(seconds);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
