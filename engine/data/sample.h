/* From a dataset's row to what the model is trained on: the chat text, ids, labels, pixels. */
#ifndef MULL_ENGINE_DATA_SAMPLE_H
#define MULL_ENGINE_DATA_SAMPLE_H

#include "engine/core/buf.h"
#include "engine/data/dataset.h"
#include "engine/text/tokenizer.h"

enum { MULL_IGNORE = -100 };

typedef struct mull_sample {
    mull_set set;
    int64_t index, row;
    const char *subset; /* as in mull_example */
    char *text;         /* the chat text, one placeholder a medium */
    int32_t *ids;       /* [n], placeholders expanded */
    int32_t *labels;    /* [n], MULL_IGNORE where nothing is learnt; not shifted */
    size_t n;
    mull_media *media; /* in order of appearance; patches [t*h*w, 1176] */
    size_t nmedia;
    mull_media *reasoning; /* stage 1: the k-th belongs to the k-th <|latent_image|> */
    size_t nreasoning;
    int (*size)[2];                /* [nmedia + nreasoning]: width, height before the budget was applied */
    char *problem_type, *solution; /* for rewards */
    int order[MULL_OPTIONS_MAX], norder;
} mull_sample;

/* What building needs. All borrowed; the ids are looked up once. */
typedef struct mull_builder {
    const mull_recipe *recipe;
    const mull_tokenizer *tokenizer;
    int32_t image_pad, video_pad, vision_start, vision_end, pad, im_start, im_end;
    int32_t latent_pad, latent_start, latent_end, latent_image;
    int added; /* latent tokens that the tokenizer lacks; they follow its last id, in this order */
} mull_builder;

int mull_builder_init(mull_builder *b, const mull_recipe *r, const mull_tokenizer *t, mull_error *err);
/* The text, ids and labels of one example whose media take tokens[i] placeholders each. text, ids and labels are
 * appended to; each may be NULL (labels need ids). GRPO recipes make the prompt as that trainer does: without
 * <|im_end|>, its newline kept. */
int mull_sample_render(const mull_builder *b, const mull_example *e, const int64_t *tokens, mull_buf *text,
                       mull_ids *ids, mull_ids *labels, mull_error *err);
/* MULL_SKIP (a sample longer than max_length, or max_prompt_length in GRPO) or a negative code leave out empty.
 * Thread-safe. */
int mull_sample_build(const mull_builder *b, const mull_example *e, mull_sample *out, mull_error *err);
void mull_sample_fini(mull_sample *s);
/* Bytes that a sample holds, pixels included. */
size_t mull_sample_bytes(const mull_sample *s);
/* The budgets of training: images, or video frames. */
mull_media_limits mull_training_limits(const mull_recipe *r, mull_media_kind kind);

#endif
