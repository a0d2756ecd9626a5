/* What a net does with its trained values as a whole, where it computes; see net.h. */
#include "engine/train/backend.h"

#include "engine/ops/roof.h"
#include "engine/train/net_internal.h"

int mull_net_status(const mull_net *n, mull_error *err) {
    return n->backend ? n->backend->status(n->dev, err) : MULL_OK;
}

bool mull_net_on_host(const mull_net *n) {
    return !n->backend;
}

void mull_net_zero_grad(mull_net *n) {
    if (n->backend)
        n->backend->zero_grad(n->dev);
    else
        mull_params_zero_grad(n->pool, n->params);
}

int mull_net_update(mull_net *n, const mull_optim_opts *o, int64_t step, double scale, int64_t *applied,
                    mull_optim_result *out, mull_error *err) {
    if (n->backend) return n->backend->update(n->dev, o, step, scale, applied, out, err);
    mull_optim_step(n->pool, n->params, o, step, scale, applied, out);
    return MULL_OK;
}

int mull_net_fetch(mull_net *n, mull_net_pull what, mull_error *err) {
    return n->backend ? n->backend->pull(n->dev, what, err) : MULL_OK;
}

int mull_net_lend(mull_net *n, mull_model *m, const mull_tower *trained, mull_error *err) {
    return n->backend->lend(n->dev, m, trained, err);
}

int mull_net_keep_reference(mull_net *n, const bool *copied, mull_error *err) {
    return n->backend->keep_reference(n->dev, copied, err);
}

int mull_net_set_reference(mull_net *n, const mull_param *p, const float *values, mull_error *err) {
    return n->backend->set_reference(n->dev, p, values, err);
}

void mull_net_use_reference(mull_net *n, bool on) {
    n->backend->use_reference(n->dev, on);
}

double mull_net_roof(mull_net *n) {
    return n->backend ? n->backend->roof(n->dev) : mull_roof_flops(n->pool, MULL_WEIGHT_F32);
}
