/* Building a sample: its media within the training budgets, then text, ids and labels. The dataset's own resize comes
 * first and in the picture's own mode, as in the release; the budget's resize follows on RGB. */
#include "engine/data/dataset_internal.h"
#include "engine/data/sample.h"

#include "engine/media/image.h"
#include "engine/media/plan.h"

#include <stdlib.h>
#include <string.h>

static const char what[] = "cannot build the sample";
enum { IMAGE_FILE_MAX = 1 << 30 };

mull_media_limits mull_training_limits(const mull_recipe *r, mull_media_kind kind) {
    if (kind == MULL_MEDIA_VIDEO)
        return (mull_media_limits){.fps = 2,
                                   .min_frames = 4,
                                   .max_frames = (int)r->video_max_frames,
                                   .max_pixels = (int64_t)(1.05 * MULL_VIDEO_MIN_PIXELS)};
    return (mull_media_limits){.min_pixels = MULL_IMAGE_MIN_PIXELS, .max_pixels = r->image_max_pixels};
}

/* white: RGBA over white, as the vision utilities do; reasoning images go to the processor, which drops the alpha. */
static int load_resized(const mull_source *s, const char *where, const mull_media_limits *l, bool white,
                        mull_media *out, mull_error *err) {
    mull_buf file = {0};
    int rc = s->path ? mull_read_file(s->path, IMAGE_FILE_MAX, "image", &file, err) : MULL_OK;
    if (rc) return rc;
    const char *data = s->path ? file.data : s->data;
    size_t len = s->path ? file.len : s->len;
    mull_image im = {0};
    const char *format = mull_image_format_name(mull_image_sniff(data, len));
    rc = mull_image_decode_resized(data, len, 0, where, s->side, s->side, MULL_LANCZOS, white, &im, err);
    if (!rc) rc = mull_media_load_pixels(&im, format, where, l, 0, out, err);
    mull_buf_fini(&file);
    return rc;
}

static int load(const mull_builder *b, const mull_example *e, const mull_source *s, bool reasoning, mull_media *out,
                mull_error *err) {
    char where[300];
    mull_media_limits l = mull_training_limits(b->recipe, s->kind);
    /* The processor alone sees reasoning images, with its own wide limits. */
    if (reasoning) l = (mull_media_limits){.min_pixels = MULL_IMAGE_MIN_PIXELS, .max_pixels = MULL_IMAGE_MAX_PIXELS};
    if (s->path)
        snprintf(where, sizeof where, "%.280s", s->path);
    else
        snprintf(where, sizeof where, "%s row %lld", mull_set_name(e->set), (long long)e->index);
    int rc;
    if (s->side)
        rc = load_resized(s, where, &l, !reasoning, out, err);
    else if (s->path)
        rc = mull_media_load_file(s->path, s->kind, &l, 0, out, err);
    else
        rc = mull_media_load_bytes(s->data, s->len, where, s->kind, &l, 0, out, err);
    if (!rc && s->kind == MULL_MEDIA_VIDEO && b->recipe->video_fps_compat) out->second_per_grid = 1.0;
    return rc;
}

static int load_all(const mull_builder *b, const mull_example *e, mull_sample *out, mull_error *err) {
    size_t all = e->nmedia + e->nreasoning;
    out->media = calloc(e->nmedia + 1, sizeof *out->media);
    out->reasoning = calloc(e->nreasoning + 1, sizeof *out->reasoning);
    out->size = calloc(all + 1, sizeof *out->size);
    if (!out->media || !out->reasoning || !out->size)
        return mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "out of memory");
    int rc = MULL_OK;
    for (size_t i = 0; !rc && i < all; i++) {
        bool reasoning = i >= e->nmedia;
        mull_media *m = reasoning ? &out->reasoning[i - e->nmedia] : &out->media[i];
        rc = load(b, e, reasoning ? &e->reasoning[i - e->nmedia] : &e->media[i], reasoning, m, err);
        if (rc) break;
        out->size[i][0] = m->width;
        out->size[i][1] = m->height;
        *(reasoning ? &out->nreasoning : &out->nmedia) += 1;
    }
    return rc;
}

static int too_long(const mull_builder *b, const mull_example *e, size_t n, mull_error *err) {
    const mull_recipe *r = b->recipe;
    bool grpo = r->kind == MULL_GRPO;
    int64_t most = grpo ? r->max_prompt_length : r->max_length;
    char where[64];
    if (!most || (int64_t)n <= most) return MULL_OK;
    snprintf(where, sizeof where, "%s row %lld", mull_set_name(e->set), (long long)e->index);
    mull_fail(err, MULL_ELIMIT, "row left out", where, grpo ? "raise max_prompt_length" : "raise max_length",
              "%zu tokens are more than %lld", n, (long long)most);
    return MULL_SKIP;
}

/* Stage 1 pools the k-th image into the k-th latent, so there must be as many. */
static int check_latents(const mull_builder *b, const mull_example *e, const mull_ids *ids, mull_error *err) {
    size_t latents = 0;
    for (size_t i = 0; i < ids->len; i++) latents += ids->data[i] == b->latent_image;
    if (!e->nreasoning || latents == e->nreasoning) return MULL_OK;
    char where[64];
    snprintf(where, sizeof where, "%s row %lld", mull_set_name(e->set), (long long)e->index);
    return mull_fail(err, MULL_EFORMAT, "bad row", where, "correct the row",
                     "%zu reasoning images, but %zu in the trace", e->nreasoning, latents);
}

int mull_sample_build(const mull_builder *b, const mull_example *e, mull_sample *out, mull_error *err) {
    mull_buf text = {0};
    mull_ids ids = {0}, labels = {0};
    memset(out, 0, sizeof *out);
    out->set = e->set;
    out->index = e->index;
    out->row = e->row;
    out->subset = e->subset;
    out->norder = e->norder;
    memcpy(out->order, e->order, sizeof out->order);
    int rc = load_all(b, e, out, err);
    int64_t *tokens = rc ? NULL : calloc(out->nmedia + 1, sizeof *tokens);
    if (!rc && !tokens) rc = mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "out of memory");
    for (size_t i = 0; !rc && i < out->nmedia; i++) tokens[i] = out->media[i].tokens;
    if (!rc) rc = mull_sample_render(b, e, tokens, &text, &ids, &labels, err);
    if (!rc) rc = too_long(b, e, ids.len, err);
    if (!rc) rc = check_latents(b, e, &ids, err);
    if (!rc) {
        out->problem_type = strdup(e->problem_type);
        out->solution = strdup(e->solution);
        if (!out->problem_type || !out->solution) rc = mull_fail(err, MULL_ENOMEM, what, NULL, NULL, "out of memory");
    }
    out->text = text.data;
    out->ids = ids.data;
    out->labels = labels.data;
    out->n = ids.len;
    free(tokens);
    if (rc) mull_sample_fini(out);
    return rc;
}

void mull_sample_fini(mull_sample *s) {
    for (size_t i = 0; i < s->nmedia; i++) mull_media_fini(&s->media[i]);
    for (size_t i = 0; i < s->nreasoning; i++) mull_media_fini(&s->reasoning[i]);
    free(s->media);
    free(s->reasoning);
    free(s->size);
    free(s->text);
    free(s->ids);
    free(s->labels);
    free(s->problem_type);
    free(s->solution);
    memset(s, 0, sizeof *s);
}

static size_t patch_bytes(const mull_media *m) {
    return (size_t)(m->grid[0] * m->grid[1] * m->grid[2]) * 1176 * sizeof(float);
}

size_t mull_sample_bytes(const mull_sample *s) {
    size_t n = s->n * 8 + sizeof *s;
    for (size_t i = 0; i < s->nmedia; i++) n += patch_bytes(&s->media[i]);
    for (size_t i = 0; i < s->nreasoning; i++) n += patch_bytes(&s->reasoning[i]);
    return n;
}
