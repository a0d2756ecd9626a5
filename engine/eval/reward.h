/* Rewards of GRPO: what a completion answers, how right it is by the problem's type, whether it keeps the format, and
 * what a group of completions makes of it. Source: method.md, section 6; the release's own quirks with compat. */
#ifndef MULL_ENGINE_EVAL_REWARD_H
#define MULL_ENGINE_EVAL_REWARD_H

#include "engine/core/buf.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum mull_compat { MULL_COMPAT_OURS, MULL_COMPAT_RELEASE } mull_compat;

typedef struct mull_reward {
    double accuracy;        /* [0, 1]; 0 for an unknown problem type */
    double format;          /* 0 or 0.5 */
    double total;           /* accuracy + format */
    mull_buf extract, gold; /* what was compared: of the completion, of the solution */
} mull_reward;

/* problem_type: "multiple choice", "numerical", "OCR", "free-form", "regression". Texts are UTF-8 of any bytes and any
 * length; time is linear in them, for OCR and free-form words(completion) * words(solution) / 64. The caller frees out
 * with mull_reward_fini, also after an error. MULL_ENOMEM is the only one. */
int mull_reward_score(const char *completion, size_t completion_len, const char *solution, size_t solution_len,
                      const char *problem_type, mull_compat compat, mull_reward *out, mull_error *err);
void mull_reward_fini(mull_reward *r);

typedef struct mull_group_opts {
    bool len_control;     /* +0.2 to correct completions of 320 to 512 tokens when two or more are correct */
    bool basic_reinforce; /* the advantage is the reward itself */
    bool unscaled;        /* it is r - mean */
} mull_group_opts;

/* One prompt's group of n completions: rewards[n] = accuracy + format (+ length control), in float32 as training keeps
 * them, and advantages[n] = (r - mean) / (std + 1e-4), std over n - 1 (n = 1: the release divides by zero; 0 here). */
void mull_group_advantages(const double *accuracy, const double *format, const int *tokens, size_t n,
                           const mull_group_opts *opts, float *rewards, float *advantages);

#endif
