/* mull-engine preprocess: images and videos to patches, one JSON object a file, optionally all tensors to one file. */
#include "engine/cmd/cmd.h"
#include "engine/media/media.h"
#include "engine/model/safetensors.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: mull-engine preprocess [--model DIR] [--min-pixels N] [--max-pixels N] [--fps F|--nframes N]\n"
    "           [--min-frames N] [--max-frames N] [--total-pixels N] [--out F.safetensors] FILE...\n\n"
    "Decodes, resizes and cuts each FILE as the model sees it and prints one JSON object a FILE. --model takes the\n"
    "pixel limits of that checkpoint; --out writes pixel_values, image_grid_thw, pixel_values_videos, video_grid_thw,\n"
    "second_per_grid_ts and frame_indices, in the order of the files. The exit status is 1 if any FILE failed.\n";

typedef struct options {
    const char *model, *out;
    mull_media_limits limits;
    int first; /* index of the first FILE in argv */
} options;

/* 0, or the exit status plus 1 to leave with. */
static int parse(int argc, char **argv, options *o) {
    static const char cmd[] = "preprocess";
    struct {
        const char *flag;
        int64_t *to;
        int *small;
    } numbers[] = {{"--min-pixels", &o->limits.min_pixels, NULL},     {"--max-pixels", &o->limits.max_pixels, NULL},
                   {"--total-pixels", &o->limits.total_pixels, NULL}, {"--nframes", NULL, &o->limits.nframes},
                   {"--min-frames", NULL, &o->limits.min_frames},     {"--max-frames", NULL, &o->limits.max_frames}};
    int i = 1;
    for (; i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
        const char *flag = argv[i];
        if (!strcmp(flag, "--help") || !strcmp(flag, "-h")) {
            fputs(usage, stdout);
            return MULL_EXIT_OK + 1;
        }
        if (!strcmp(flag, "--")) {
            i++;
            break;
        }
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) return mull_cmd_usage(cmd, "%s needs a value (or is unknown)", flag) + 1;
        i++;
        bool known = true;
        if (!strcmp(flag, "--model")) {
            o->model = value;
        } else if (!strcmp(flag, "--out")) {
            o->out = value;
        } else if (!strcmp(flag, "--fps")) {
            int rc = mull_cmd_double(cmd, flag, value, 1e-6, 1e6, &o->limits.fps);
            if (rc) return rc + 1;
        } else {
            known = false;
            for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
                if (strcmp(flag, numbers[k].flag) != 0) continue;
                long long v;
                int rc = mull_cmd_int(cmd, flag, value, 1, numbers[k].small ? 1 << 20 : 1LL << 40, &v);
                if (rc) return rc + 1;
                if (numbers[k].small)
                    *numbers[k].small = (int)v;
                else
                    *numbers[k].to = v;
                known = true;
            }
        }
        if (!known) return mull_cmd_usage(cmd, "unknown flag %s", flag) + 1;
    }
    if (o->limits.fps > 0 && o->limits.nframes) return mull_cmd_usage(cmd, "give --fps or --nframes, not both") + 1;
    if (i == argc) return mull_cmd_usage(cmd, "no FILE given") + 1;
    o->first = i;
    return 0;
}

/* Text as JSON; bytes that are no UTF-8 (a file may be named by any) become '?'. */
static json_t *text(const char *s) {
    json_t *v = json_string(s);
    if (v) return v;
    char *copy = strdup(s);
    for (char *p = copy; p && *p; p++)
        if ((unsigned char)*p >= 0x80) *p = '?';
    v = copy ? json_string(copy) : NULL;
    free(copy);
    return v;
}

static json_t *describe(const char *path, const mull_media *m) {
    bool video = m->kind == MULL_MEDIA_VIDEO;
    json_t *o = json_pack("{s:o,s:s,s:s,s:i,s:i,s:[I,I,I],s:I,s:s,s:s,s:s}", "file", text(path), "kind",
                          video ? "video" : "image", "format", m->format, "width", m->width, "height", m->height,
                          video ? "video_grid_thw" : "image_grid_thw", (json_int_t)m->grid[0], (json_int_t)m->grid[1],
                          (json_int_t)m->grid[2], "tokens", (json_int_t)m->tokens, "rgb_sha256", m->rgb_sha256,
                          "resized_sha256", m->resized_sha256, "pixel_values_sha256", m->pixels_sha256);
    if (!o || !video) return o;
    json_t *indices = json_array();
    for (int i = 0; i < m->nframes; i++) json_array_append_new(indices, json_integer(m->indices[i]));
    json_object_set_new(o, "indices", indices);
    json_object_set_new(o, "sample_fps", json_real(m->sample_fps));
    json_object_set_new(o, "second_per_grid", json_real(m->second_per_grid));
    json_object_set_new(o, "decoded_frames", json_integer(m->decoded_frames));
    return o;
}

/* A tensor that grows by whole rows. */
typedef struct rows {
    const char *name;
    mull_dtype dtype;
    int64_t n, width; /* width 0: one-dimensional */
    char *data;
} rows;

static int add(rows *r, const void *data, int64_t n, mull_error *err) {
    size_t row = (size_t)(r->width ? r->width : 1) * mull_dtype_size(r->dtype);
    char *p = realloc(r->data, ((size_t)r->n + (size_t)n) * row + 1);
    if (!p) return mull_fail(err, MULL_ENOMEM, "cannot keep patches", r->name, "give fewer files", "out of memory");
    memcpy(p + (size_t)r->n * row, data, (size_t)n * row);
    r->data = p;
    r->n += n;
    return MULL_OK;
}

enum { PIXELS, GRID, PIXELS_VIDEO, GRID_VIDEO, SECONDS, INDICES, NROWS };

static int keep(rows t[NROWS], const mull_media *m, mull_error *err) {
    bool video = m->kind == MULL_MEDIA_VIDEO;
    int rc = add(&t[video ? PIXELS_VIDEO : PIXELS], m->patches, m->tokens * 4, err);
    if (!rc) rc = add(&t[video ? GRID_VIDEO : GRID], m->grid, 1, err);
    if (rc || !video) return rc;
    float seconds = (float)m->second_per_grid;
    rc = add(&t[SECONDS], &seconds, 1, err);
    return rc ? rc : add(&t[INDICES], m->indices, m->nframes, err);
}

static int write_out(const char *path, const rows t[NROWS], mull_error *err) {
    mull_tensor_info info[NROWS] = {0};
    size_t n = 0;
    for (int i = 0; i < NROWS; i++) {
        if (!t[i].n) continue;
        mull_tensor_info *x = &info[n++];
        x->name = t[i].name;
        x->dtype = t[i].dtype;
        x->ndim = t[i].width ? 2 : 1;
        x->shape[0] = t[i].n;
        x->shape[1] = t[i].width;
        x->count = t[i].n * (t[i].width ? t[i].width : 1);
        x->data = t[i].data;
    }
    return mull_safetensors_write(path, info, n, err);
}

int mull_cmd_preprocess(int argc, char **argv) {
    options o = {0};
    mull_error err = {0};
    int rc = parse(argc, argv, &o);
    if (rc) return rc - 1;
    if (o.model && mull_media_limits_from_model(o.model, &o.limits, &err)) return mull_cmd_fail(&err);
    rows t[NROWS] = {[PIXELS] = {"pixel_values", MULL_F32, 0, 1176, NULL},
                     [GRID] = {"image_grid_thw", MULL_I64, 0, 3, NULL},
                     [PIXELS_VIDEO] = {"pixel_values_videos", MULL_F32, 0, 1176, NULL},
                     [GRID_VIDEO] = {"video_grid_thw", MULL_I64, 0, 3, NULL},
                     [SECONDS] = {"second_per_grid_ts", MULL_F32, 0, 0, NULL},
                     [INDICES] = {"frame_indices", MULL_I64, 0, 0, NULL}};
    bool failed = false;
    for (int i = o.first; i < argc; i++) {
        mull_media m;
        memset(&err, 0, sizeof err);
        rc = mull_media_load_file(argv[i], MULL_MEDIA_AUTO, &o.limits, MULL_MEDIA_HASHES, &m, &err);
        if (!rc && o.out) rc = keep(t, &m, &err);
        if (rc) {
            char line[sizeof(mull_error) + 64];
            failed = true;
            mull_cmd_emit(
                json_pack("{s:o,s:o}", "file", text(argv[i]), "error", text(mull_error_line(&err, line, sizeof line))));
            mull_error_print(stderr, &err);
        } else {
            mull_cmd_emit(describe(argv[i], &m));
        }
        mull_media_fini(&m);
    }
    if (o.out && write_out(o.out, t, &err)) {
        mull_error_print(stderr, &err);
        failed = true;
    }
    for (int i = 0; i < NROWS; i++) free(t[i].data);
    return failed ? MULL_EXIT_FAILED : MULL_EXIT_OK;
}
