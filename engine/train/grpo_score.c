/* Rewards and advantages. A completion's reward is accuracy + format by the problem's type (engine/eval/reward.h), plus
 * the weighted score of the user's command, minus the penalty for being near the limit (DAPO's soft punishment). */
#include "engine/train/grpo_internal.h"

#include "engine/core/buf.h"
#include "engine/eval/reward.h"
#include "engine/job/events.h"
#include "engine/train/reward_command.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot score completions";

/* From 0 at limit - buffer tokens to the full penalty at the limit. */
static double overlong(const mull_recipe *r, int32_t n) {
    double buffer = (double)r->overlong_buffer, over = (double)n - ((double)r->max_completion_length - buffer);
    if (r->overlong_penalty == 0 || over <= 0) return 0;
    return r->overlong_penalty * (buffer > 0 ? fmin(1, over / buffer) : n >= r->max_completion_length);
}

static int builtin(const mull_recipe *r, const mull_sample *s, mull__completion *c, mull_error *err) {
    mull_reward x;
    int rc = mull_reward_score(c->text, c->text_len, s->solution, strlen(s->solution), s->problem_type,
                               r->reward_compat ? MULL_COMPAT_RELEASE : MULL_COMPAT_OURS, &x, err);
    c->accuracy = x.accuracy;
    c->format = x.format;
    mull_reward_fini(&x);
    return rc;
}

static int command_line(const mull__group *x, const mull__completion *c, mull_buf *to) {
    const mull_sample *s = x->sample;
    json_t *j = json_pack("{s:o,s:o,s:s,s:o,s:s,s:I,s:i,s:b}", "completion", mull_json_text(c->text, c->text_len),
                          "solution", mull_json_text(s->solution, strlen(s->solution)), "problem_type", s->problem_type,
                          "prompt", mull_json_text(s->text, strlen(s->text)), "dataset", mull_set_name(s->set), "index",
                          (json_int_t)s->index, "tokens", (int)c->n, "truncated", (int)c->truncated);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    int rc = text && !mull_buf_puts(to, text) ? mull_buf_puts(to, "\n") : MULL_ENOMEM;
    free(text);
    json_decref(j);
    return rc;
}

static int external(struct mull__grpo *g, size_t first, mull_error *err) {
    const mull_recipe *r = g->t->r;
    mull__round *o = &g->round;
    size_t n = (o->ngroups - first) * (size_t)r->num_generations, at = 0;
    if (!*r->reward_command || !n) return MULL_OK;
    mull_buf in = {0};
    double *scores = calloc(n, sizeof *scores);
    int rc = scores ? MULL_OK : MULL_ENOMEM;
    for (size_t i = first; i < o->ngroups && !rc; i++)
        for (int64_t k = 0; k < r->num_generations && !rc; k++)
            rc = command_line(&o->groups[i], &o->groups[i].c[k], &in);
    if (rc) {
        mull_fail(err, rc, WHAT, "reward_command", NULL, "out of memory");
    } else {
        mull_reward_command c = {
            .command = r->reward_command, .timeout_s = r->reward_timeout, .stop = g->hooks->stop, .ctx = g->hooks->ctx};
        rc = mull_reward_command_run(&c, in.data, in.len, scores, n, err);
    }
    for (size_t i = first; i < o->ngroups && !rc; i++)
        for (int64_t k = 0; k < r->num_generations; k++) o->groups[i].c[k].external = scores[at++];
    free(scores);
    mull_buf_fini(&in);
    return rc;
}

/* Advantages of one group; the sums are those of mull_group_advantages. */
static int advantages(const mull_recipe *r, mull__group *x, mull_error *err) {
    size_t n = (size_t)r->num_generations;
    double *d = malloc(2 * n * sizeof *d);
    int *tokens = malloc(n * sizeof *tokens);
    float *f = malloc(2 * n * sizeof *f);
    int rc = d && tokens && f ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    for (size_t k = 0; k < n && !rc; k++) {
        const mull__completion *c = &x->c[k];
        d[k] = c->accuracy;
        d[n + k] = c->format + r->reward_weight * c->external - c->penalty;
        tokens[k] = c->n;
    }
    if (!rc) {
        mull_group_opts o = {.len_control = r->len_control,
                             .basic_reinforce = r->basic_reinforce_mode,
                             .unscaled = r->scale_rewards != 0};
        mull_group_advantages(d, d + n, tokens, n, &o, f, f + n);
        x->flat = true;
        for (size_t k = 0; k < n; k++) {
            x->c[k].reward = f[k];
            x->c[k].advantage = f[n + k];
            x->flat &= f[k] == f[0];
        }
    }
    free(d);
    free(tokens);
    free(f);
    return rc;
}

int mull__grpo_reward(struct mull__grpo *g, size_t first, mull_error *err) {
    const mull_recipe *r = g->t->r;
    mull__round *o = &g->round;
    int rc = MULL_OK;
    for (size_t i = first; r->reward_builtin && i < o->ngroups && !rc; i++)
        for (int64_t k = 0; k < r->num_generations && !rc; k++)
            rc = builtin(r, o->groups[i].sample, &o->groups[i].c[k], err);
    return rc ? rc : external(g, first, err);
}

int mull__grpo_advantages(struct mull__grpo *g, size_t first, mull_error *err) {
    const mull_recipe *r = g->t->r;
    mull__round *o = &g->round;
    int rc = MULL_OK;
    for (size_t i = first; i < o->ngroups && !rc; i++) {
        for (int64_t k = 0; k < r->num_generations; k++) o->groups[i].c[k].penalty = overlong(r, o->groups[i].c[k].n);
        rc = advantages(r, &o->groups[i], err);
    }
    return rc;
}

int mull__grpo_scale(struct mull__grpo *g, size_t from, size_t to, mull_error *err) {
    const mull_recipe *r = g->t->r;
    double v[2] = {0}, squares = 0;
    if (r->scale_rewards != 1 || r->basic_reinforce_mode) return MULL_OK;
    for (size_t i = from; i < to; i++)
        for (int64_t k = 0; k < r->num_generations; k++, v[1]++) v[0] += (double)g->round.groups[i].c[k].reward;
    int rc = mull_ranks_add(g->t->ranks, v, 2, err);
    for (size_t i = from; i < to; i++)
        for (int64_t k = 0; k < r->num_generations; k++) {
            double d = (double)g->round.groups[i].c[k].reward - v[0] / v[1];
            squares += d * d;
        }
    if (!rc) rc = mull_ranks_add(g->t->ranks, &squares, 1, err);
    double spread = v[1] > 1 ? sqrt(squares / (v[1] - 1)) : 0;
    for (size_t i = from; i < to; i++)
        for (int64_t k = 0; k < r->num_generations; k++) {
            mull__completion *c = &g->round.groups[i].c[k];
            c->advantage = (float)((double)c->advantage / (spread + 1e-4));
        }
    return rc;
}
