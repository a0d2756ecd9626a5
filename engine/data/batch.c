/* Packing: which samples share a batch, and the batch itself. */
#include "engine/data/loader_internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct item {
    size_t length, at;
} item;

static int longest_first(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->length != y->length) return x->length < y->length ? 1 : -1;
    return x->at < y->at ? -1 : x->at > y->at;
}

int mull__pack_plan(const size_t *lengths, size_t n, int64_t pack, int64_t batch, int *group) {
    if (!pack) {
        for (size_t i = 0; i < n; i++) group[i] = (int)(i / (size_t)batch);
        return n ? group[n - 1] + 1 : 0;
    }
    item *items = malloc((n + 1) * sizeof *items);
    size_t *room = malloc((n + 1) * sizeof *room);
    int groups = 0;
    if (items && room) {
        for (size_t i = 0; i < n; i++) items[i] = (item){lengths[i], i};
        qsort(items, n, sizeof *items, longest_first);
        for (size_t i = 0; i < n; i++) {
            int g = 0;
            while (g < groups && room[g] < items[i].length) g++;
            /* A sample that is longer than a pack has one of its own. */
            if (g == groups) room[groups++] = items[i].length < (size_t)pack ? (size_t)pack : items[i].length;
            room[g] -= items[i].length;
            group[items[i].at] = g;
        }
    } else {
        groups = MULL_ENOMEM;
    }
    free(items);
    free(room);
    return groups;
}

static mull_grid grid_of(const mull_media *m) {
    return (mull_grid){.video = m->kind == MULL_MEDIA_VIDEO,
                       .t = m->grid[0],
                       .h = m->grid[1],
                       .w = m->grid[2],
                       .second_per_grid = (float)m->second_per_grid};
}

static int allocate(mull_batch *b, size_t nseq, size_t rows) {
    b->ids = malloc((rows + 1) * sizeof *b->ids);
    b->labels = malloc((rows + 1) * sizeof *b->labels);
    b->cu = calloc(nseq + 1, sizeof *b->cu);
    b->media_cu = calloc(nseq + 1, sizeof *b->media_cu);
    b->latent_cu = calloc(nseq + 1, sizeof *b->latent_cu);
    b->samples = calloc(nseq + 1, sizeof *b->samples);
    b->media = calloc(b->nmedia + 1, sizeof *b->media);
    b->patches = calloc(b->nmedia + 1, sizeof *b->patches);
    b->latent = calloc(b->nlatent + 1, sizeof *b->latent);
    b->latent_patches = calloc(b->nlatent + 1, sizeof *b->latent_patches);
    return b->ids && b->labels && b->cu && b->media_cu && b->latent_cu && b->samples && b->media && b->patches &&
                   b->latent && b->latent_patches
               ? MULL_OK
               : MULL_ENOMEM;
}

int mull__pack_batch(mull_sample *samples, const int *group, size_t n, int which, mull_batch *out, mull_error *err) {
    size_t rows = 0, nseq = 0, m = 0, l = 0;
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < n; i++) {
        if (group[i] != which) continue;
        nseq++;
        rows += samples[i].n;
        out->nmedia += samples[i].nmedia;
        out->nlatent += samples[i].nreasoning;
    }
    int rc = rows > INT32_MAX ? MULL_ELIMIT : allocate(out, nseq, rows);
    if (rc) {
        mull_batch_fini(out);
        return mull_fail(err, rc, "cannot pack the batch", NULL, "lower the batch size or pack_tokens",
                         "%zu tokens in one batch", rows);
    }
    for (size_t i = 0; i < n; i++) {
        mull_sample *s = &samples[i];
        if (group[i] != which) continue;
        memcpy(out->ids + out->rows, s->ids, s->n * sizeof *s->ids);
        memcpy(out->labels + out->rows, s->labels, s->n * sizeof *s->labels);
        out->rows += (int64_t)s->n;
        for (size_t k = 0; k < s->nmedia; k++, m++) {
            out->media[m] = grid_of(&s->media[k]);
            out->patches[m] = s->media[k].patches;
        }
        for (size_t k = 0; k < s->nreasoning; k++, l++) {
            out->latent[l] = grid_of(&s->reasoning[k]);
            out->latent_patches[l] = s->reasoning[k].patches;
        }
        out->samples[out->nseq++] = *s;
        memset(s, 0, sizeof *s);
        out->cu[out->nseq] = (int32_t)out->rows;
        out->media_cu[out->nseq] = m;
        out->latent_cu[out->nseq] = l;
    }
    return MULL_OK;
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
    memset(b, 0, sizeof *b);
}
