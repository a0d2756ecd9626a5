/* Rewards and advantages of a GRPO group; see reward.h. Sums run in double and are rounded to float32 once. */
#include "engine/eval/reward.h"

#include <math.h>

static void length_control(const double *accuracy, const int *tokens, size_t n, float *rewards) {
    size_t correct = 0;
    for (size_t i = 0; i < n; i++) correct += (float)accuracy[i] > 0.1f;
    if (correct < 2) return;
    for (size_t i = 0; i < n; i++)
        if ((float)accuracy[i] > 0.1f && tokens[i] >= 320 && tokens[i] <= 512) rewards[i] += 0.2f;
}

void mull_group_advantages(const double *accuracy, const double *format, const int *tokens, size_t n,
                           const mull_group_opts *opts, float *rewards, float *advantages) {
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) rewards[i] = (float)accuracy[i] + (float)format[i];
    if (opts->len_control) length_control(accuracy, tokens, n, rewards);
    for (size_t i = 0; i < n; i++) sum += (double)rewards[i];
    double mean = n ? sum / (double)n : 0;
    for (size_t i = 0; i < n; i++) squares += ((double)rewards[i] - mean) * ((double)rewards[i] - mean);
    double spread = n > 1 ? sqrt(squares / (double)(n - 1)) : 0, scale = opts->unscaled ? 1 : spread + 1e-4;
    for (size_t i = 0; i < n; i++)
        advantages[i] = opts->basic_reinforce ? rewards[i] : (float)(((double)rewards[i] - mean) / scale);
}
