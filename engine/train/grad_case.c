/* Training cases; see grad_case.h. The file is foreign: everything is checked before it is used. */
#include "engine/train/grad_case.h"

#include "engine/model/vision.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot use the training case";
static const char *const TODO = "see mull-engine grad --help for the tensors of a training case";

static int wrong(const char *name, mull_error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int wrong(const char *name, mull_error *err, const char *fmt, ...) {
    char why[256];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return mull_fail(err, MULL_EFORMAT, WHAT, name, TODO, "%s", why);
}

static int nomem(mull_error *err) {
    return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
}

static int get(const mull_grad_case *g, const char *name, mull_dtype type, int ndim, int64_t count, bool needed,
               const mull_tensor_info **out, mull_error *err) {
    *out = mull_safetensors_find(g->k.file, name);
    if (!*out) return needed ? wrong(name, err, "the tensor is missing") : MULL_OK;
    if ((*out)->dtype != type || (*out)->ndim != ndim)
        return wrong(name, err, "it is %s with %d dimensions, not %s with %d", mull_dtype_name((*out)->dtype),
                     (*out)->ndim, mull_dtype_name(type), ndim);
    if (count >= 0 && (*out)->count != count)
        return wrong(name, err, "it has %lld values, not %lld", (long long)(*out)->count, (long long)count);
    return MULL_OK;
}

static int read_labels(mull_grad_case *g, const mull_config *c, mull_error *err) {
    const mull_tensor_info *t;
    int rc = get(g, "labels", MULL_I64, 1, g->k.rows, true, &t, err);
    if (rc) return rc;
    const int64_t *v = t->data;
    if (!(g->labels = malloc((size_t)g->k.rows * sizeof *g->labels))) return nomem(err);
    for (int64_t i = 0; i < g->k.rows; i++) {
        if (v[i] != MULL_IGNORE && (v[i] < 0 || v[i] >= c->vocab))
            return wrong("labels", err, "label %lld at %lld is neither -100 nor below the vocabulary of %d",
                         (long long)v[i], (long long)i, c->vocab);
        g->labels[i] = (int32_t)v[i];
    }
    g->batch.labels = g->labels;
    return MULL_OK;
}

/* The reasoning images, dealt to the sequences by their <|latent_image|> tokens. */
static int read_reasoning(mull_grad_case *g, const mull_config *c, mull_error *err) {
    const mull_tensor_info *grid, *patches;
    int rc = get(g, "reasoning_grid_thw", MULL_I64, 2, -1, false, &grid, err);
    if (rc || !grid || !grid->count) return rc;
    int64_t n = grid->shape[0], width = mull_vision_patch_floats(&c->vision), row = 0;
    if (grid->shape[1] != 3) return wrong("reasoning_grid_thw", err, "its rows must be t, h, w");
    if ((rc = get(g, "reasoning_pixel_values", MULL_F32, 2, -1, true, &patches, err))) return rc;
    if (patches->shape[1] != width)
        return wrong("reasoning_pixel_values", err, "a patch has %lld values, the model takes %lld",
                     (long long)patches->shape[1], (long long)width);
    g->latent = calloc((size_t)n, sizeof *g->latent);
    g->latent_patches = calloc((size_t)n, sizeof *g->latent_patches);
    g->latent_cu = calloc((size_t)g->k.nseq + 1, sizeof *g->latent_cu);
    if (!g->latent || !g->latent_patches || !g->latent_cu) return nomem(err);
    for (int64_t i = 0; i < n; i++) {
        const int64_t *v = (const int64_t *)grid->data + 3 * i;
        g->latent[i] = (mull_grid){.t = v[0], .h = v[1], .w = v[2]};
        if ((rc = mull_grid_check(c, &g->latent[i], (size_t)i, err))) return rc;
        int64_t rows = v[0] * v[1] * v[2];
        if (rows > patches->shape[0] - row)
            return wrong("reasoning_pixel_values", err, "it has %lld rows, the grids need more",
                         (long long)patches->shape[0]);
        g->latent_patches[i] = (const float *)patches->data + row * width;
        row += rows;
    }
    for (int s = 0; s < g->k.nseq; s++) {
        g->latent_cu[s + 1] = g->latent_cu[s];
        for (int32_t t = g->k.cu[s]; t < g->k.cu[s + 1]; t++) g->latent_cu[s + 1] += g->k.ids[t] == c->latent_image;
    }
    if (c->latent_image < 0 || g->latent_cu[g->k.nseq] != (size_t)n)
        return wrong("reasoning_grid_thw", err, "%lld reasoning images, but %zu <|latent_image|> tokens", (long long)n,
                     c->latent_image < 0 ? (size_t)0 : g->latent_cu[g->k.nseq]);
    g->batch.latent = g->latent;
    g->batch.latent_patches = g->latent_patches;
    g->batch.nlatent = (size_t)n;
    g->batch.latent_cu = g->latent_cu;
    return MULL_OK;
}

static bool ends(const mull_config *c, int64_t id) {
    for (int i = 0; i < c->neos; i++)
        if (id == c->eos[i]) return true;
    return false;
}

static int read_values(const mull_grad_case *g, const char *name, int64_t count, bool needed, const float **out,
                       mull_error *err) {
    const mull_tensor_info *t;
    int rc = get(g, name, MULL_F32, 1, count, needed, &t, err);
    *out = rc || !t ? NULL : t->data;
    return rc;
}

/* One sequence a completion: the prompt, its media, the completion. */
static int read_grpo(mull_grad_case *g, const mull_config *c, mull_error *err) {
    const mull_tensor_info *ids, *cu;
    const mull_case *k = &g->k;
    int rc = get(g, "completion_ids", MULL_I64, 1, -1, true, &ids, err);
    if (!rc) rc = get(g, "cu_completions", MULL_I64, 1, -1, true, &cu, err);
    if (rc) return rc;
    if (k->nseq != 1) return wrong("cu_seqlens", err, "a prompt is one sequence");
    int64_t n = cu->count - 1, total = ids->count;
    const int64_t *border = cu->data, *id = ids->data;
    if (n < 1 || border[0] != 0 || border[n] != total)
        return wrong("cu_completions", err, "borders must rise from 0 to %lld", (long long)total);
    for (int64_t i = 0; i < n; i++)
        if (border[i + 1] <= border[i] || border[i + 1] > total)
            return wrong("cu_completions", err, "borders must rise from 0 to %lld", (long long)total);
    int64_t rows = n * k->rows + total;
    if (rows > INT32_MAX) return wrong("completion_ids", err, "%lld tokens are too many", (long long)rows);
    g->ids = malloc((size_t)rows * sizeof *g->ids);
    g->cu = malloc(((size_t)n + 1) * sizeof *g->cu);
    g->prompt = malloc((size_t)n * sizeof *g->prompt);
    g->counted = malloc((size_t)n * sizeof *g->counted);
    g->media = malloc((size_t)n * k->nmedia * sizeof *g->media + 1);
    g->patches = malloc((size_t)n * k->nmedia * sizeof *g->patches + 1);
    g->media_cu = malloc(((size_t)n + 1) * sizeof *g->media_cu);
    if (!g->ids || !g->cu || !g->prompt || !g->counted || !g->media || !g->patches || !g->media_cu) return nomem(err);
    int32_t *at = g->ids;
    g->cu[0] = 0;
    g->media_cu[0] = 0;
    for (int64_t s = 0; s < n; s++) {
        memcpy(at, k->ids, (size_t)k->rows * sizeof *at);
        at += k->rows;
        g->counted[s] = 0;
        bool over = false;
        for (int64_t i = border[s]; i < border[s + 1]; i++) {
            if (id[i] < 0 || id[i] >= c->vocab)
                return wrong("completion_ids", err, "id %lld is outside the vocabulary of %d", (long long)id[i],
                             c->vocab);
            g->counted[s] += !over;
            over |= ends(c, id[i]);
            *at++ = (int32_t)id[i];
        }
        g->counted_tokens += g->counted[s];
        g->prompt[s] = (int32_t)k->rows;
        g->cu[s + 1] = (int32_t)(at - g->ids);
        for (size_t i = 0; i < k->nmedia; i++) {
            g->media[(size_t)s * k->nmedia + i] = k->media[i];
            g->patches[(size_t)s * k->nmedia + i] = k->patches[i];
        }
        g->media_cu[s + 1] = (size_t)(s + 1) * k->nmedia;
    }
    g->completion_tokens = total;
    g->grpo = (mull_grpo_batch){.prompt = g->prompt, .counted = g->counted};
    rc = read_values(g, "advantages", n, true, &g->grpo.advantage, err);
    if (!rc) rc = read_values(g, "ref_logps", total, false, &g->grpo.ref, err);
    if (!rc) rc = read_values(g, "old_logps", total, false, &g->grpo.old, err);
    g->batch = (mull_batch){.ids = g->ids,
                            .rows = rows,
                            .cu = g->cu,
                            .nseq = (int)n,
                            .media = g->media,
                            .patches = g->patches,
                            .nmedia = (size_t)n * k->nmedia,
                            .media_cu = g->media_cu};
    return rc;
}

int mull_grad_case_open(const char *path, const mull_config *c, mull_grad_loss loss, mull_grad_case *g,
                        mull_error *err) {
    *g = (mull_grad_case){0};
    int rc = mull_case_open(path, c, &g->k, err);
    if (!rc && loss == MULL_GRAD_GRPO) {
        rc = read_grpo(g, c, err);
    } else if (!rc) {
        g->batch = (mull_batch){.ids = g->k.ids,
                                .rows = g->k.rows,
                                .cu = g->k.cu,
                                .nseq = g->k.nseq,
                                .media = g->k.media,
                                .patches = g->k.patches,
                                .nmedia = g->k.nmedia,
                                .media_cu = g->k.media_cu};
        rc = read_labels(g, c, err);
        if (!rc && loss == MULL_GRAD_STAGE1) rc = read_reasoning(g, c, err);
    }
    if (rc) mull_grad_case_fini(g);
    return rc;
}

void mull_grad_case_fini(mull_grad_case *g) {
    mull_case_fini(&g->k);
    free(g->ids);
    free(g->labels);
    free(g->cu);
    free(g->prompt);
    free(g->counted);
    free(g->media);
    free(g->latent);
    free(g->patches);
    free(g->latent_patches);
    free(g->media_cu);
    free(g->latent_cu);
    *g = (mull_grad_case){0};
}
