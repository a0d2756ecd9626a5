/* The figures of a step under the names that metrics, TensorBoard and the queue know; see session.h. */
#include "engine/train/grpo.h"
#include "engine/train/session.h"

#include <math.h>

static void add(json_t *values, const char *key, double x) {
    if (isfinite(x)) json_object_set_new(values, key, json_real(x));
}

json_t *mull_step_values(const mull_step *s) {
    json_t *v = json_object();
    add(v, "loss", s->loss);
    add(v, "ce", s->ce);
    add(v, "cos", s->cos);
    add(v, "grad_norm", s->grad_norm);
    add(v, "lr", s->lr);
    add(v, "mfu", s->mfu);
    add(v, "tokens", (double)s->tokens);
    if (s->seconds > 0) add(v, "tok_s", (double)s->tokens / s->seconds);
    if (s->grpo) mull_grpo_figures_json(s->grpo, v);
    if (s->skipped_so_far) add(v, "skipped_steps", (double)s->skipped_so_far);
    return v;
}
