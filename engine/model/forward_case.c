/* Case files; see forward_case.h. Images and videos lie in two lists, each in order of appearance: one walk over the
 * ids merges them. Whether each run of placeholders has the right length is checked by mull_positions. */
#include "engine/model/forward_case.h"

#include "engine/model/vision.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot use the case";
static const char *const TODO = "see tests/data/model/README.md for the tensors of a case";

static int wrong(const char *name, mull_error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int wrong(const char *name, mull_error *err, const char *fmt, ...) {
    char why[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return mull_fail(err, MULL_EFORMAT, WHAT, name, TODO, "%s", why);
}

/* The tensor of this name and type with ndim dimensions, or NULL in *out when absent and not needed. */
static int get(const mull_case *k, const char *name, mull_dtype type, int ndim, bool needed,
               const mull_tensor_info **out, mull_error *err) {
    *out = mull_safetensors_find(k->file, name);
    if (!*out) return needed ? wrong(name, err, "the tensor is missing") : MULL_OK;
    if ((*out)->dtype != type || (*out)->ndim != ndim)
        return wrong(name, err, "it is %s with %d dimensions, not %s with %d", mull_dtype_name((*out)->dtype),
                     (*out)->ndim, mull_dtype_name(type), ndim);
    return MULL_OK;
}

static int read_sequences(mull_case *k, const mull_config *c, mull_error *err) {
    const mull_tensor_info *ids, *cu;
    int rc = get(k, "input_ids", MULL_I64, 1, true, &ids, err);
    if (!rc) rc = get(k, "cu_seqlens", MULL_I64, 1, false, &cu, err);
    if (rc) return rc;
    k->rows = ids->count;
    if (k->rows < 1 || k->rows > INT32_MAX) return wrong("input_ids", err, "%lld tokens", (long long)k->rows);
    if (cu && (cu->count < 2 || cu->count > k->rows + 1))
        return wrong("cu_seqlens", err, "%lld borders", (long long)cu->count);
    k->nseq = cu ? (int)(cu->count - 1) : 1;
    k->ids = malloc((size_t)k->rows * sizeof *k->ids);
    k->cu = malloc(((size_t)k->nseq + 1) * sizeof *k->cu);
    k->media_cu = calloc((size_t)k->nseq + 1, sizeof *k->media_cu);
    if (!k->ids || !k->cu || !k->media_cu) return mull_fail(err, MULL_ENOMEM, WHAT, "input_ids", "", "out of memory");
    const int64_t *v = ids->data, *border = cu ? cu->data : NULL;
    for (int64_t i = 0; i < k->rows; i++) {
        if (v[i] < 0 || v[i] >= c->vocab)
            return wrong("input_ids", err, "id %lld at %lld is outside the vocabulary of %d", (long long)v[i],
                         (long long)i, c->vocab);
        k->ids[i] = (int32_t)v[i];
    }
    k->cu[0] = 0;
    k->cu[1] = (int32_t)k->rows;
    for (int s = 0; border && s <= k->nseq; s++) {
        if (border[s] < 0 || border[s] > k->rows || (s ? border[s] <= border[s - 1] : border[s] != 0) ||
            (s == k->nseq && border[s] != k->rows))
            return wrong("cu_seqlens", err, "borders must rise from 0 to %lld", (long long)k->rows);
        k->cu[s] = (int32_t)border[s];
    }
    return MULL_OK;
}

/* One kind of media: its grids, its patches, and how far the walk over the ids has used them. */
typedef struct kind {
    bool video;
    const int64_t *grid;
    int64_t n, used;
    const float *patches, *seconds;
    int64_t rows, row; /* patch rows there are, and used */
} kind;

static int read_kind(mull_case *k, const mull_config *c, bool video, kind *o, mull_error *err) {
    const char *grid_name = video ? "video_grid_thw" : "image_grid_thw";
    const char *patch_name = video ? "pixel_values_videos" : "pixel_values";
    const mull_tensor_info *grid, *patches = NULL, *seconds = NULL;
    *o = (kind){.video = video};
    int rc = get(k, grid_name, MULL_I64, 2, false, &grid, err);
    if (rc) return rc;
    if (!grid || grid->shape[0] == 0) return MULL_OK;
    if (grid->shape[1] != 3) return wrong(grid_name, err, "its rows must be t, h, w");
    if ((rc = get(k, patch_name, MULL_F32, 2, true, &patches, err))) return rc;
    if (video && (rc = get(k, "second_per_grid_ts", MULL_F32, 1, false, &seconds, err))) return rc;
    if (patches->shape[1] != mull_vision_patch_floats(&c->vision))
        return wrong(patch_name, err, "a patch has %lld values, the model takes %lld", (long long)patches->shape[1],
                     (long long)mull_vision_patch_floats(&c->vision));
    if (seconds && seconds->count != grid->shape[0])
        return wrong("second_per_grid_ts", err, "%lld values for %lld videos", (long long)seconds->count,
                     (long long)grid->shape[0]);
    o->grid = grid->data;
    o->n = grid->shape[0];
    o->patches = patches->data;
    o->rows = patches->shape[0];
    o->seconds = seconds ? seconds->data : NULL;
    return MULL_OK;
}

static int take_medium(mull_case *k, const mull_config *c, kind *o, mull_error *err) {
    const char *grid_name = o->video ? "video_grid_thw" : "image_grid_thw";
    if (o->used == o->n) return wrong(grid_name, err, "there are placeholders for more than its %lld", (long long)o->n);
    const int64_t *g = o->grid + 3 * o->used;
    mull_grid grid = {
        .video = o->video, .t = g[0], .h = g[1], .w = g[2], .second_per_grid = o->seconds ? o->seconds[o->used] : 1.0f};
    int rc = mull_grid_check(c, &grid, (size_t)o->used, err);
    if (rc) return rc;
    int64_t rows = grid.t * grid.h * grid.w;
    if (rows > o->rows - o->row)
        return wrong(o->video ? "pixel_values_videos" : "pixel_values", err, "it has %lld rows, the grids need more",
                     (long long)o->rows);
    k->media[k->nmedia] = grid;
    k->patches[k->nmedia++] = o->patches + o->row * mull_vision_patch_floats(&c->vision);
    o->row += rows;
    o->used++;
    return MULL_OK;
}

static int read_media(mull_case *k, const mull_config *c, mull_error *err) {
    kind images, videos;
    int rc = read_kind(k, c, false, &images, err);
    if (!rc) rc = read_kind(k, c, true, &videos, err);
    if (rc) return rc;
    size_t most = (size_t)(images.n + videos.n);
    k->media = calloc(most + 1, sizeof *k->media);
    k->patches = calloc(most + 1, sizeof *k->patches);
    if (!k->media || !k->patches) return mull_fail(err, MULL_ENOMEM, WHAT, "media", "", "out of memory");
    for (int s = 0; s < k->nseq; s++) {
        for (int64_t i = k->cu[s]; i < k->cu[s + 1];) {
            kind *o = k->ids[i] == c->image_token ? &images : k->ids[i] == c->video_token ? &videos : NULL;
            if (!o) {
                i++;
                continue;
            }
            if ((rc = take_medium(k, c, o, err))) return rc;
            i += mull_grid_tokens(c, &k->media[k->nmedia - 1]);
        }
        k->media_cu[s + 1] = k->nmedia;
    }
    if (images.used != images.n || videos.used != videos.n)
        return wrong("input_ids", err, "%lld media have no placeholders",
                     (long long)(images.n - images.used + videos.n - videos.used));
    return MULL_OK;
}

int mull_case_open(const char *path, const mull_config *c, mull_case *out, mull_error *err) {
    *out = (mull_case){0};
    int rc = mull_safetensors_open(path, &out->file, err);
    if (!rc) rc = read_sequences(out, c, err);
    if (!rc) rc = read_media(out, c, err);
    if (rc) mull_case_fini(out);
    return rc;
}

void mull_case_fini(mull_case *k) {
    mull_safetensors_close(k->file);
    free(k->ids);
    free(k->cu);
    free(k->media_cu);
    free(k->media);
    free(k->patches);
    *k = (mull_case){0};
}
