/* Flags and figures of the commands that load a model; see cmd_model.h. */
#include "engine/cmd/cmd_model.h"

#include "engine/cmd/cmd.h"
#include "engine/train/backend.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

int mull_cmd_device(const char *command, const char *text, mull_cmd_model *o) {
    if (!strcmp(text, "cpu")) return 0;
    if (strcmp(text, "cuda") != 0) return mull_cmd_usage(command, "--device takes cpu or cuda, not '%s'", text);
    mull_error err;
    if (!o) {
        mull_fail(&err, MULL_EUNSUPPORTED, "cannot use the device", "cuda", "use --device cpu",
                  "this command computes on the CPU only");
        mull_error_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
#if MULL_HAVE_CUDA
    o->backend = mull_cuda_backend();
    return 0;
#else
    mull_fail(&err, MULL_EUNSUPPORTED, "cannot use the device", "cuda",
              "use --device cpu, or build with -DMULL_CUDA=ON where nvcc is", "this build has no CUDA");
    mull_error_print(stderr, &err);
    return MULL_EXIT_FAILED;
#endif
}

int mull_cmd_device_gpus(const char *command, const char *text, json_t *spec) {
    mull_cmd_model o = {0};
    int rc = mull_cmd_device(command, text, &o);
    if (!rc) json_object_set_new(spec, "gpus", json_integer(o.backend != NULL));
    return rc;
}

const mull_train_backend *mull_cmd_train_backend(const mull_cmd_model *o) {
#if MULL_HAVE_CUDA
    return o->backend ? mull_cuda_train_backend() : NULL;
#else
    (void)o;
    return NULL;
#endif
}

int mull_cmd_dtype(const char *command, const char *text, mull_cmd_model *o) {
    static const struct {
        const char *name;
        mull_weight_type type;
    } TYPES[] = {{"f32", MULL_WEIGHT_F32},
                 {"bf16", MULL_WEIGHT_BF16},
                 {"int8", MULL_WEIGHT_INT8},
                 {"bf16-dot", MULL_WEIGHT_BF16_DOT}};
    for (size_t i = 0; i < sizeof TYPES / sizeof *TYPES; i++)
        if (!strcmp(text, TYPES[i].name)) {
            o->typed = true;
            o->weights = TYPES[i].type;
            return 0;
        }
    return mull_cmd_usage(command, "--dtype takes f32, bf16, bf16-dot or int8, not '%s'", text);
}

int mull_cmd_threads(const char *command, const char *text, mull_cmd_model *o) {
    long long n;
    int rc = mull_cmd_int(command, "--threads", text, 0, 4096, &n);
    if (!rc) o->threads = (int)n;
    return rc;
}

int mull_cmd_load(const char *dir, const mull_cmd_model *o, mull_model **m, double *load_ms, mull_error *err) {
    mull_model_opts opts = {
        .weights = o->weights, .weights_auto = !o->typed, .threads = o->threads, .backend = o->backend};
    double start = mull_cmd_ms();
    int rc = mull_model_load(dir, &opts, m, err);
    *load_ms = mull_cmd_ms() - start;
    return rc;
}

double mull_cmd_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* VmHWM rather than getrusage: ru_maxrss also counts what the parent held between fork and exec. */
int64_t mull_cmd_peak_bytes(void) {
    long long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld kB", &kb) == 1) break;
    if (f) fclose(f);
    if (kb > 0) return kb * 1024;
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (int64_t)u.ru_maxrss * 1024;
}
