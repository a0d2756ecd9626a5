/* mull-engine bench checkpoint: a checkpoint of a whole training state against the rate at which plain bytes reach the
 * same folder. Both end on the disk: what is timed includes every fsync. The plain write takes as many bytes as the
 * checkpoint's files have, from memory, in pieces of a megabyte, as dd does with conv=fsync. */
#include "engine/cmd/bench.h"
#include "engine/cmd/cmd.h"
#include "engine/cmd/cmd_model.h"
#include "engine/core/buf.h"
#include "engine/core/rng.h"
#include "engine/model/config.h"
#include "engine/train/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: mull-engine bench checkpoint --model DIR --out DIR [--repeat 3] [--bf16]\n"
    "  Writes training checkpoints of the model (weights and both moments) and as many plain bytes to DIR, in turns,\n"
    "  and removes them. One JSON line: bytes a second of both, medians.\n";
static const char *const WHAT = "cannot measure";
enum { PIECE = 1 << 20, REPEAT_MAX = 100 };

/* What optimisers hold: values of all sizes, which do not compress well. */
static void fill_moments(mull_params *p) {
    for (int64_t i = 0; i < p->hi - p->lo; i++) {
        float g = (float)(mull_uniform(1, 1, (uint64_t)i) - 0.5) * 1e-3f;
        p->m[i] = g;
        p->v[i] = g * g;
    }
}

static int plain(const char *path, int64_t bytes, double *ms, mull_error *err) {
    char *piece = malloc(PIECE);
    if (!piece) return mull_fail(err, MULL_ENOMEM, WHAT, path, NULL, "out of memory");
    for (int i = 0; i < PIECE; i++) piece[i] = (char)(i * 2654435761u >> 24);
    double t = mull_cmd_ms();
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    bool good = fd >= 0;
    for (int64_t at = 0; good && at < bytes;) {
        ssize_t n = write(fd, piece, bytes - at < PIECE ? (size_t)(bytes - at) : PIECE);
        good = n > 0;
        at += n;
    }
    good = good && fsync(fd) == 0;
    *ms = mull_cmd_ms() - t;
    int rc = good ? MULL_OK : mull_fail_errno(err, errno, WHAT, path, "free space or name another folder");
    if (fd >= 0) close(fd);
    unlink(path);
    free(piece);
    return rc;
}

/* Bytes of the folder's files, which are removed with it. */
static int64_t take_away(const char *dir, mull_error *err) {
    json_t *sums = mull_checkpoint_summary(dir, err);
    int64_t bytes = json_integer_value(json_object_get(sums, "bytes"));
    size_t i;
    json_t *f;
    json_array_foreach(json_object_get(sums, "files"), i, f) {
        char *path = mull_path_join(dir, json_string_value(json_object_get(f, "name")));
        if (path) unlink(path);
        free(path);
    }
    char *path = mull_path_join(dir, "SHA256SUMS");
    if (path) unlink(path);
    free(path);
    rmdir(dir);
    json_decref(sums);
    return bytes;
}

static int measure(const char *model, const char *out, bool half, int repeat, mull_error *err) {
    mull_config c = {0};
    mull_params p = {0};
    char path[4096], *file = mull_path_join(out, "plain-bytes");
    double ours[REPEAT_MAX], theirs[REPEAT_MAX], cpu[REPEAT_MAX];
    int64_t bytes = 0;
    int rc = file ? mull_config_load(model, &c, err) : mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
    if (!rc) rc = mull_params_load(model, &c, &(mull_params_opts){.moments = true, .half = half}, &p, err);
    if (!rc) fill_moments(&p);
    if (!rc && mkdir(out, 0777) && errno != EEXIST)
        rc = mull_fail_errno(err, errno, WHAT, out, "check the folder above");
    for (int i = -1; i < repeat && !rc; i++) {
        mull_checkpoint_opts o = {.base = model};
        double t = mull_cmd_ms(), ms, plain_ms = 0, used = (double)clock();
        rc = mull_checkpoint_save(out, &c, &p, &(mull_train_state){.step = 1}, &o, path, sizeof path, err);
        ms = mull_cmd_ms() - t;
        used = ((double)clock() - used) / CLOCKS_PER_SEC * 1e3;
        if (!rc && (bytes = take_away(path, err)) <= 0) rc = MULL_EIO;
        if (!rc) rc = plain(file, bytes, &plain_ms, err);
        if (rc || i < 0) continue;
        ours[i] = ms, theirs[i] = plain_ms, cpu[i] = used;
    }
    if (!rc) {
        double a = (double)bytes / mull_bench_median(ours, repeat) * 1e3,
               b = (double)bytes / mull_bench_median(theirs, repeat) * 1e3;
        mull_bench_emit(
            &(mull_bench_line){.bench = "checkpoint",
                               .dtype = half ? "bf16" : "f32",
                               .unit = "bytes/s",
                               .threads = 1,
                               .achieved = a,
                               .roof = b,
                               .more = json_pack("{s:I, s:f, s:f, s:f}", "bytes", (json_int_t)bytes, "mb_s", a / 1e6,
                                                 "plain_mb_s", b / 1e6, "cpu_ms", mull_bench_median(cpu, repeat))});
    }
    mull_params_fini(&p);
    mull_config_fini(&c);
    free(file);
    return rc;
}

int mull_bench_checkpoint(int argc, char **argv) {
    const char *model = NULL, *out = NULL;
    long long repeat = 3;
    bool half = false;
    for (int i = 1; i < argc; i++) {
        const char *flag = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(flag, "--help")) {
            fputs(USAGE, stdout);
            return MULL_EXIT_OK;
        }
        if (!strcmp(flag, "--bf16")) {
            half = true;
            continue;
        }
        int rc = 0;
        if (!value)
            return mull_cmd_usage("bench checkpoint", "unknown argument or missing value: '%s'", flag);
        else if (!strcmp(flag, "--model"))
            model = value;
        else if (!strcmp(flag, "--out"))
            out = value;
        else if (!strcmp(flag, "--repeat"))
            rc = mull_cmd_int("bench checkpoint", flag, value, 1, REPEAT_MAX, &repeat);
        else
            rc = mull_cmd_usage("bench checkpoint", "unknown argument '%s'", flag);
        if (rc) return rc;
        i++;
    }
    if (!model || !out) return mull_cmd_usage("bench checkpoint", "it takes --model and --out");
    mull_error err = {0};
    return measure(model, out, half, (int)repeat, &err) ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
