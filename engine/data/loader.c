/* Packed batches; see loader.h. The samples of a step are built together when its first batch is asked for, by the
 * calling thread: the order, the replacements and the packing follow from the position alone. */
#include "engine/data/loader.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot load training data";
enum { REPLACE_MAX = 1000, SHARE_FROM = 20 }; /* replacements of one place; draws before the bad share counts */

struct mull_loader {
    const mull_recipe *r;
    mull_mix *mix;
    const mull_builder *builder;
    mull_loader_opts o;
    mull_position at;     /* of the next step */
    int64_t step;         /* that the pending samples belong to */
    mull_sample *samples; /* [per_step], those of a step in the order of their batches */
    int64_t per_step;
    int64_t *first; /* [batches + 1] borders of the batches in samples */
    int64_t batches, given;
};

int mull_loader_open(const mull_recipe *r, mull_mix *mix, const mull_builder *b, const mull_loader_opts *opts,
                     mull_loader **out, mull_error *err) {
    *out = NULL;
    mull_loader *l = calloc(1, sizeof *l);
    if (!l) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    *l = (mull_loader){.r = r, .mix = mix, .builder = b, .o = *opts, .at = opts->start};
    if (l->o.world < 1) l->o.world = 1;
    l->per_step = r->per_device_train_batch_size * r->gradient_accumulation_steps;
    if (l->per_step < 1) l->per_step = 1;
    l->samples = calloc((size_t)l->per_step, sizeof *l->samples);
    l->first = calloc((size_t)l->per_step + 1, sizeof *l->first);
    if (!l->samples || !l->first) {
        mull_loader_close(l);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", "lower gradient_accumulation_steps", "out of memory");
    }
    *out = l;
    return MULL_OK;
}

static void drop_samples(mull_loader *l) {
    for (int64_t i = 0; l->samples && i < l->per_step; i++) mull_sample_fini(&l->samples[i]);
    l->batches = l->given = 0;
}

void mull_loader_close(mull_loader *l) {
    if (!l) return;
    drop_samples(l);
    free(l->samples);
    free(l->first);
    free(l);
}

int64_t mull_loader_steps(const mull_loader *l) {
    int64_t n = mull_mix_rows(l->mix) / (l->per_step * l->o.world);
    return n > 0 ? n : 1;
}

/* The sample of a place: its own row, or the next ones of the dataset while those are left out. */
static int build(mull_loader *l, int64_t place, mull_sample *out, mull_error *err) {
    mull_draw d = mull_mix_draw(l->mix, place);
    mull_dataset *set = mull_mix_set(l->mix, d.set);
    int64_t rows = mull_dataset_rows(set);
    for (int tries = 0; tries < REPLACE_MAX && tries < rows; tries++, d.index = (d.index + 1) % rows) {
        mull_example e;
        mull_error why = {0};
        int rc = mull_dataset_get(set, d.index, d.key, &e, &why);
        l->at.drawn++;
        if (!rc) {
            rc = mull_sample_build(l->builder, &e, out, &why);
            mull_example_fini(&e);
        }
        if (!rc) return MULL_OK;
        if (rc == MULL_ENOMEM) {
            *err = why;
            return rc;
        }
        *(rc == MULL_SKIP ? &l->at.skipped : &l->at.bad) += 1;
        if (l->o.note) l->o.note(l->o.ctx, &d, rc != MULL_SKIP, &why);
        if (rc != MULL_SKIP && l->at.drawn >= SHARE_FROM &&
            (double)l->at.bad > l->r->max_bad_share * (double)l->at.drawn) {
            char line[1024];
            mull_error_line(&why, line, sizeof line);
            return mull_fail(err, MULL_EFORMAT, WHAT, mull_set_name(d.set), "correct the data, or raise max_bad_share",
                             "%lld of %lld samples are bad; the last one: %s", (long long)l->at.bad,
                             (long long)l->at.drawn, line);
        }
    }
    return mull_fail(err, MULL_EFORMAT, WHAT, mull_set_name(d.set), "look at the notes above for the reasons",
                     "no usable sample was found near row %lld", (long long)d.index);
}

/* Longest first, each into the first batch with room: few batches, and the same ones every time. */
static int pack(mull_loader *l, mull_error *err) {
    int64_t n = l->per_step, limit = l->r->pack_tokens, bins = 0;
    if (limit <= 0) {
        int64_t b = l->r->per_device_train_batch_size > 0 ? l->r->per_device_train_batch_size : 1;
        for (int64_t i = 0; i < n; i += b) l->first[bins++] = i;
        l->first[l->batches = bins] = n;
        return MULL_OK;
    }
    int64_t *bin = malloc((size_t)n * sizeof *bin), *room = malloc((size_t)n * sizeof *room),
            *order = malloc((size_t)n * sizeof *order);
    mull_sample *packed = calloc((size_t)n, sizeof *packed);
    if (!bin || !room || !order || !packed) {
        free(bin), free(room), free(order), free(packed);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    for (int64_t i = 0; i < n; i++) { /* insertion: stable, and a step has few samples */
        int64_t k = i;
        for (; k > 0 && l->samples[order[k - 1]].n < l->samples[i].n; k--) order[k] = order[k - 1];
        order[k] = i;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t len = (int64_t)l->samples[order[i]].n, b = 0;
        while (b < bins && room[b] < len) b++;
        if (b == bins) room[bins++] = limit > len ? limit : len;
        room[b] -= len;
        bin[i] = b;
    }
    int64_t at = 0;
    for (int64_t b = 0; b < bins; b++) {
        l->first[b] = at;
        for (int64_t i = 0; i < n; i++)
            if (bin[i] == b) packed[at++] = l->samples[order[i]];
    }
    l->first[l->batches = bins] = n;
    memcpy(l->samples, packed, (size_t)n * sizeof *packed);
    free(bin), free(room), free(order), free(packed);
    return MULL_OK;
}

static int make_step(mull_loader *l, mull_error *err) {
    drop_samples(l);
    l->step = l->at.step;
    int64_t global = l->per_step * l->o.world;
    for (int64_t i = 0; i < l->per_step; i++) {
        int rc = build(l, l->step * global + l->o.rank * l->per_step + i, &l->samples[i], err);
        if (rc) return rc;
    }
    int rc = pack(l, err);
    if (!rc) l->at.step++;
    return rc;
}

static void add_media(mull_grid *grids, const float **patches, size_t *n, const mull_media *m) {
    grids[*n] = (mull_grid){.video = m->kind == MULL_MEDIA_VIDEO,
                            .t = m->grid[0],
                            .h = m->grid[1],
                            .w = m->grid[2],
                            .second_per_grid = (float)m->second_per_grid};
    patches[(*n)++] = m->patches;
}

int mull_loader_next(mull_loader *l, mull_batch *out, mull_error *err) {
    *out = (mull_batch){0};
    if (l->given == l->batches) {
        int rc = make_step(l, err);
        if (rc) return rc;
    }
    int64_t from = l->first[l->given], n = l->first[l->given + 1] - from;
    size_t media = 0, latent = 0, rows = 0;
    for (int64_t i = 0; i < n; i++) {
        const mull_sample *s = &l->samples[from + i];
        rows += s->n;
        media += s->nmedia;
        latent += s->nreasoning;
    }
    out->samples = calloc((size_t)n, sizeof *out->samples);
    out->ids = malloc(rows * sizeof *out->ids + 1);
    out->labels = malloc(rows * sizeof *out->labels + 1);
    out->cu = calloc((size_t)n + 1, sizeof *out->cu);
    out->media = calloc(media + 1, sizeof *out->media);
    out->patches = calloc(media + 1, sizeof *out->patches);
    out->media_cu = calloc((size_t)n + 1, sizeof *out->media_cu);
    out->latent = calloc(latent + 1, sizeof *out->latent);
    out->latent_patches = calloc(latent + 1, sizeof *out->latent_patches);
    out->latent_cu = calloc((size_t)n + 1, sizeof *out->latent_cu);
    if (!out->samples || !out->ids || !out->labels || !out->cu || !out->media || !out->patches || !out->media_cu ||
        !out->latent || !out->latent_patches || !out->latent_cu) {
        mull_batch_fini(out);
        return mull_fail(err, MULL_ENOMEM, WHAT, "", "lower pack_tokens", "out of memory");
    }
    for (int64_t i = 0; i < n; i++) {
        mull_sample *s = &out->samples[i];
        *s = l->samples[from + i];
        l->samples[from + i] = (mull_sample){0};
        memcpy(out->ids + out->rows, s->ids, s->n * sizeof *s->ids);
        memcpy(out->labels + out->rows, s->labels, s->n * sizeof *s->labels);
        out->rows += (int64_t)s->n;
        out->cu[i + 1] = (int32_t)out->rows;
        for (size_t k = 0; k < s->nmedia; k++) add_media(out->media, out->patches, &out->nmedia, &s->media[k]);
        for (size_t k = 0; k < s->nreasoning; k++)
            add_media(out->latent, out->latent_patches, &out->nlatent, &s->reasoning[k]);
        out->media_cu[i + 1] = out->nmedia;
        out->latent_cu[i + 1] = out->nlatent;
        out->nseq++;
    }
    out->step = l->step;
    out->last = ++l->given == l->batches;
    return MULL_OK;
}

mull_position mull_loader_position(const mull_loader *l) {
    return l->at;
}

void mull_batch_fini(mull_batch *b) {
    for (int i = 0; b->samples && i < b->nseq; i++) mull_sample_fini(&b->samples[i]);
    free(b->samples);
    free(b->ids);
    free(b->labels);
    free(b->cu);
    free(b->media);
    free(b->patches);
    free(b->media_cu);
    free(b->latent);
    free(b->latent_patches);
    free(b->latent_cu);
    *b = (mull_batch){0};
}
