/* The prompts of the evaluation tasks, to the letter: checkpoints were trained on these words. Source: method.md,
 * sections 3 and 7. */
#ifndef MULL_ENGINE_EVAL_PROMPT_H
#define MULL_ENGINE_EVAL_PROMPT_H

#include "engine/core/buf.h"

#include <jansson.h>
#include <stdbool.h>

typedef enum mull_prompt_style {
    MULL_STYLE_LATENTS,
    MULL_STYLE_VIDEOR1,
    MULL_STYLE_SFT,
    MULL_STYLE_BASE,
    MULL_STYLE_BASE_REASON,
    MULL_STYLE_DEFAULT, /* of the tasks without modes: vstar_bench, mmvu, mme_realworld */
    MULL_STYLE_COT      /* mmvu */
} mull_prompt_style;

typedef struct mull_prompt_opts {
    mull_prompt_style style; /* a task without modes takes any as its default */
    bool vsibench_options;   /* append VSI-Bench's options; false: as the release */
} mull_prompt_opts;

/* "latents", "videor1" (or "r1"), "sft", "base", "base_reason", "default", "cot" */
int mull_prompt_style_parse(const char *s, mull_prompt_style *out, mull_error *err);
const char *mull_prompt_style_name(mull_prompt_style s);

struct mull_task;
/* The text of the user's message for a doc, appended. MULL_EARG names a missing column or a style the task lacks. */
int mull_task_prompt(const struct mull_task *t, const json_t *doc, const mull_prompt_opts *o, mull_buf *out,
                     mull_error *err);

/* The release's order of a dataset of n rows: datasets.shuffle(seed), that is NumPy's PCG64 generator seeded through
 * SeedSequence and its permutation. out[n]; n below 2^32. */
int mull_shuffle_order(uint64_t seed, size_t n, uint32_t *out);

#endif
