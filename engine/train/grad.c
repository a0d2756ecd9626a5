/* The grad command's work; see grad.h. */
#include "engine/train/grad.h"

#include "engine/train/backend.h"
#include "engine/train/tower.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot compute gradients";

typedef struct run {
    const mull_grad_opts *o;
    const mull_config *c;
    mull_grad_case *cases;
    int n;
    mull_params params;
    mull_net *net;
    mull_pack pack;
    mull_tower *tower; /* trained: NULL when it is frozen */
    mull_loss_work work;
    mull_loss_sum sum;
    mull_outputs *out;
    float *token, *kl, *cos, *embeds; /* outputs by token and by latent image; where the next case's go */
    mull_error *err;
} run;

/* A zeroed float output, NULL on no memory. */
static float *add(run *r, const char *name, int ndim, const int64_t *shape) {
    mull_outputs *o = r->out;
    mull_tensor_info t = {.dtype = MULL_F32, .ndim = ndim, .count = 1};
    for (int i = 0; i < ndim; i++) t.count *= t.shape[i] = shape[i];
    if (o->n == o->cap) {
        size_t cap = o->cap ? 2 * o->cap : 64;
        mull_tensor_info *more = realloc(o->tensors, cap * sizeof *more);
        if (!more) return NULL;
        o->tensors = more;
        o->cap = cap;
    }
    float *data = calloc((size_t)t.count + 1, sizeof *data);
    t.name = strdup(name);
    t.data = data;
    if (!data || !t.name) {
        free(data);
        free((void *)(uintptr_t)t.name);
        return NULL;
    }
    o->tensors[o->n++] = t;
    return data;
}

static int nomem(run *r) {
    return mull_fail(r->err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
}

static int add_token_outputs(run *r) {
    int64_t tokens = 0, latents = 0;
    bool grpo = r->o->loss == MULL_GRAD_GRPO;
    for (int i = 0; i < r->n; i++) {
        const mull_grad_case *g = &r->cases[i];
        tokens += grpo ? g->completion_tokens : g->k.rows - g->k.nseq;
        latents += (int64_t)g->batch.nlatent;
    }
    r->token = add(r, grpo ? "logps" : "token_nll", 1, &tokens);
    bool ok = r->token != NULL;
    if (grpo) ok &= (r->kl = add(r, "kl", 1, &tokens)) != NULL;
    if (latents) {
        ok &= (r->cos = add(r, "cos", 1, &latents)) != NULL;
        ok &= (r->embeds = add(r, "latent_image_embeds", 2, (int64_t[]){latents, r->c->hidden})) != NULL;
    }
    return ok ? MULL_OK : nomem(r);
}

static int run_case(run *r, const mull_grad_case *g, const mull_pack_source *source) {
    int rc = mull_pack_build(&r->pack, r->c, &g->batch, source, r->err);
    int64_t h = r->c->hidden;
    bool grpo = r->o->loss == MULL_GRAD_GRPO;
    if (!rc)
        rc = mull_net_reserve(r->net, g->batch.rows, grpo ? g->completion_tokens : mull_loss_rows(&r->pack), r->err);
    if (rc) return rc;
    mull_net_forward(r->net, &r->pack.net);
    if (grpo) {
        rc = mull_loss_grpo(r->net, &r->pack, &g->grpo, &r->o->grpo, &r->work, &r->sum, r->token, r->kl, r->err);
        r->token += g->completion_tokens;
        r->kl += g->completion_tokens;
    } else {
        for (int i = 0; r->embeds && i < r->pack.nlatent; i++, r->embeds += h)
            memcpy(r->embeds, r->pack.features[r->pack.latent[i]], (size_t)h * sizeof(float));
        rc = mull_loss_ce(r->net, &r->pack, &r->o->ce, &r->work, &r->sum, r->token, r->cos, r->err);
        r->token += g->k.rows - g->k.nseq;
        if (r->cos) r->cos += r->pack.nlatent;
    }
    if (!rc) mull_net_backward(r->net, &r->pack.net);
    if (!rc) rc = mull_net_status(r->net, r->err);
    if (!rc && r->tower) rc = mull_tower_backward(r->tower, &r->pack, &g->batch, r->err);
    return rc;
}

static int add_results(run *r) {
    double weight = r->sum.weight > 0 ? r->sum.weight : 1;
    const int64_t one = 1;
    float *loss = add(r, "loss", 1, &one), *ce = r->o->loss == MULL_GRAD_GRPO ? NULL : add(r, "ce", 1, &one);
    if (!loss || (r->o->loss != MULL_GRAD_GRPO && !ce)) return nomem(r);
    *loss = (float)(r->sum.loss / weight);
    if (ce && r->sum.ce_weight > 0) *ce = (float)(r->sum.ce / r->sum.ce_weight);
    for (size_t i = 0; i < r->params.n; i++) {
        const mull_param *p = &r->params.list[i];
        char name[128];
        if (!p->g) continue;
        snprintf(name, sizeof name, "grad.%s", p->name);
        float *g = add(r, name, p->ndim, p->shape);
        if (!g) return nomem(r);
        for (int64_t k = 0; k < p->count; k++) g[k] = (float)((double)p->g[k] / weight);
    }
    return MULL_OK;
}

int mull_grad_run(const char *dir, const char *const *cases, int ncases, const mull_grad_opts *o, mull_outputs *out,
                  mull_error *err) {
    run r = {.o = o, .out = out, .err = err};
    mull_grad_opts opts = *o; /* the window's tokens are known once all cases are read */
    mull_model *tower = NULL;
    r.o = &opts;
    *out = (mull_outputs){0};
    mull_model_opts load = {
        .weights = o->params.half ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32, .threads = o->threads, .vision_only = true};
    if (o->net.backend) load.backend = o->net.backend->model();
    int rc = mull_model_load(dir, &load, &tower, err);
    if (!rc) {
        r.c = mull_model_config(tower);
        r.cases = calloc((size_t)ncases, sizeof *r.cases);
        rc = r.cases ? MULL_OK : nomem(&r);
    }
    for (; !rc && r.n < ncases; r.n += !rc) rc = mull_grad_case_open(cases[r.n], r.c, o->loss, &r.cases[r.n], err);
    opts.grpo.window_tokens = 0;
    for (int i = 0; i < r.n; i++) opts.grpo.window_tokens += r.cases[i].counted_tokens;
    if (!rc) rc = mull_params_load(dir, r.c, &o->params, &r.params, err);
    if (!rc) rc = mull_net_create(r.c, &r.params, mull_model_pool(tower), &o->net, &r.net, err);
    if (!rc) rc = add_token_outputs(&r);
    mull_pack_source source = mull_pack_tower(tower);
    r.pack.vision_gradient = o->params.vision;
    if (!rc && o->params.vision) rc = mull_tower_create(r.net, &r.tower, err);
    if (r.tower) source = mull_tower_source(r.tower);
    for (int i = 0; !rc && i < r.n; i++) rc = run_case(&r, &r.cases[i], &source);
    if (!rc) rc = mull_net_fetch(r.net, MULL_PULL_GRADIENTS, err);
    if (!rc) rc = add_results(&r);
    for (int i = 0; i < r.n; i++) mull_grad_case_fini(&r.cases[i]);
    free(r.cases);
    mull_tower_destroy(r.tower);
    mull_net_destroy(r.net);
    mull_params_fini(&r.params);
    mull_pack_fini(&r.pack);
    mull_loss_work_fini(&r.work);
    mull_model_destroy(tower);
    if (rc) mull_outputs_fini(out);
    return rc;
}
