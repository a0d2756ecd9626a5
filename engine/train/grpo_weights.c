/* The policy as the engine sees it, and the frozen reference. The reference is never a model of its own: the net
 * computes with its values by exchanging pointers (on a backend: by addresses there), so that activations exist once.
 * Until the first optimiser step it costs nothing, since it is the policy; then only what is trained is copied. With
 * LoRA it is the base, adapters off.
 */
#include "engine/train/grpo_internal.h"

#include "engine/model/adopt.h"
#include "engine/model/weights.h"
#include "engine/ops/gemm.h"
#include "engine/ops/kernels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char *const WHAT = "cannot train with rollouts";

float *mull__adapted(const mull__adapter *a, mull_pool *pool, mull__merged *m) {
    int64_t count = a->out * a->in, need = count + a->out * a->rank;
    if (need > m->cap) {
        float *p = realloc(m->data, (size_t)need * sizeof *p);
        if (!p) return NULL;
        m->data = p;
        m->cap = need;
    }
    float *scaled = m->data + count;
    mull_to_f32(a->w, a->type, (size_t)count, m->data);
    memcpy(scaled, a->b, (size_t)(a->out * a->rank) * sizeof *scaled);
    mull_kernels_get()->scale_row(scaled, a->out * a->rank, (float)(a->alpha / (double)a->rank));
    mull_linear_dx(pool, scaled, a->out, a->rank, a->a, MULL_F32, a->in, a->rank, m->data, a->in, true);
    return m->data;
}

/* The tensor with its adapter added, in the working memory. NULL on no memory. */
static const float *merge(struct mull__grpo *g, const mull_param *w, const mull_param *a, const mull_param *b) {
    mull__adapter x = {.w = w->half ? (const void *)w->half : w->w,
                       .type = w->half ? MULL_BF16 : MULL_F32,
                       .out = w->shape[0],
                       .in = w->shape[1],
                       .a = a->w,
                       .b = b->w,
                       .rank = a->shape[0],
                       .alpha = g->t->r->lora_alpha};
    return mull__adapted(&x, mull_model_pool(g->t->tower), &g->merged);
}

/* What was whole for the last weight is in parts again. */
static void give_back(struct mull__grpo *g) {
    for (int i = 0; i < 3; i++) {
        if (g->lent[i]) mull_ranks_release(g->t->ranks, g->lent[i]);
        g->lent[i] = NULL;
    }
}

/* The whole of q, which may be in parts over the ranks. */
static bool borrow(struct mull__grpo *g, int i, const mull_param *q, bool master) {
    g->lent[i] = q;
    return mull_ranks_fetch(g->t->ranks, q, master, NULL) == MULL_OK;
}

const void *mull__grpo_weight(void *ctx, const char *name, mull_dtype *type) {
    struct mull__grpo *g = ctx;
    give_back(g);
    const mull_params *p = &g->t->params;
    const mull_param *w = mull_params_find(p, name);
    if (!w) return NULL; /* not reached: both lists are mull_weights_list */
    *type = MULL_F32;
    char a[160], b[160];
    size_t n = strlen(name), tail = strlen(".weight");
    if (g->t->r->lora_rank && w->ndim == 2 && n > tail) {
        snprintf(a, sizeof a, "base_model.model.%.*s.lora_A.weight", (int)(n - tail), name);
        snprintf(b, sizeof b, "base_model.model.%.*s.lora_B.weight", (int)(n - tail), name);
        const mull_param *pa = mull_params_find(p, a), *pb = mull_params_find(p, b);
        if (pa && pb) return borrow(g, 0, pa, true) && borrow(g, 1, pb, true) ? merge(g, w, pa, pb) : NULL;
    }
    if (!borrow(g, 2, w, false)) return NULL;
    /* Norms and biases act in float32 in the trainer too. */
    if (w->half && w->ndim >= 2) {
        *type = MULL_BF16;
        return w->half;
    }
    return w->w;
}

int mull__grpo_refresh(struct mull__grpo *g, double *seconds, mull_error *err) {
    double start = mull__train_now();
    int rc = g->engine ? mull_infer_forget(g->engine, err) : MULL_OK;
    if (!rc && !mull_net_on_host(g->t->net))
        rc = mull_net_lend(g->t->net, g->t->tower, g->t->trained_tower, err);
    else if (!rc)
        rc = mull_model_adopt(g->t->tower, mull__grpo_weight, g, err);
    if (!rc && g->t->trained_tower) {
        if (g->features) mull_features_forget(g->features);
        if (mull_net_on_host(g->t->net)) rc = mull_model_adopt_tower(g->t->tower, mull__grpo_weight, g, err);
    }
    give_back(g);
    rc = mull__grpo_agree(g, rc, false, NULL, err);
    if (!rc) g->stale = false;
    *seconds += mull__train_now() - start;
    return rc;
}

/* ---- reference */
/* Length of the part of a name that is one unit of copying: what lies together in a product is in one. */
static size_t unit(const char *name) {
    static const char *const WHOLE[] = {"model.layers.", "visual.blocks."};
    for (size_t i = 0; i < sizeof WHOLE / sizeof *WHOLE; i++) {
        size_t n = strlen(WHOLE[i]);
        if (!strncmp(name, WHOLE[i], n)) return n + strcspn(name + n, ".") + 1;
    }
    return strlen(name);
}

static bool same_unit(const mull_param *a, const mull_param *b) {
    size_t n = unit(a->name);
    return unit(b->name) == n && !strncmp(a->name, b->name, n);
}

/* A tensor of the reference, where it lies. */
static int set(struct mull__grpo *g, const mull_param *p, const mull_tensor_info *info, mull_error *err) {
    size_t n = (size_t)info->count;
    if (mull_net_on_host(g->t->net)) {
        float *to = g->ref.w[p - g->t->params.list];
        if (to != p->w) mull_to_f32(info->data, info->dtype, n, to);
        return MULL_OK;
    }
    float *values = malloc(n * sizeof *values);
    if (!values) return mull_fail(err, MULL_ENOMEM, WHAT, "reference", NULL, "out of memory");
    mull_to_f32(info->data, info->dtype, n, values);
    int rc = mull_net_set_reference(g->t->net, p, values, err);
    free(values);
    return rc;
}

/* The values that the run began with, where a checkpoint has other ones. */
static int read_first(struct mull__grpo *g, mull_error *err) {
    const mull_trainer *t = g->t;
    mull_safetensors *file = NULL;
    int rc = mull_model_check(t->model, mull_trainer_config(t), &file, err);
    for (size_t i = 0; !rc && i < mull_safetensors_count(file); i++) {
        const mull_tensor_info *info = mull_safetensors_at(file, i);
        char buf[160];
        const mull_param *p = mull_params_find(&t->params, mull_weights_published_name(info->name, buf, sizeof buf));
        if (p) rc = set(g, p, info, err);
        mull_safetensors_drop(file, info);
    }
    mull_safetensors_close(file);
    return rc;
}

int mull__grpo_keep_reference(struct mull__grpo *g, mull_error *err) {
    const mull_trainer *t = g->t;
    const mull_params *p = &t->params;
    mull__reference *f = &g->ref;
    if (!g->kl || t->r->lora_rank || f->kept) return MULL_OK;
    bool *copied = calloc(p->n + 1, sizeof *copied), host = mull_net_on_host(t->net);
    size_t values = 0;
    for (size_t i = 0; copied && i < p->n;) {
        size_t e = i;
        bool any = false;
        for (; e < p->n && same_unit(&p->list[i], &p->list[e]); e++) any |= p->list[e].g != NULL;
        for (; i < e; i++) {
            copied[i] = any;
            if (any) values += (size_t)p->list[i].count;
        }
    }
    if (copied && !host) {
        int rc = mull_net_keep_reference(t->net, copied, err);
        if (!rc && t->state.step > 0) rc = read_first(g, err);
        f->kept = !rc;
        free(copied);
        return rc;
    }
    f->w = calloc(p->n + 1, sizeof *f->w);
    f->half = calloc(p->n + 1, sizeof *f->half);
    f->bytes = values * (sizeof **f->w + (p->half ? sizeof **f->half : 0));
    if (copied && f->w && f->half) {
        void *m = mmap(NULL, f->bytes ? f->bytes : 64, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        f->memory = m == MAP_FAILED ? NULL : m;
    }
    if (!f->memory) {
        free(copied);
        mull__reference_fini(f);
        return mull_fail(err, MULL_ENOMEM, WHAT, "reference", "set no_ref_model: True, freeze more, or use LoRA",
                         "no memory for a second copy of the trained weights");
    }
    int rc = MULL_OK;
    float *w = f->memory;
    uint16_t *half = (uint16_t *)(w + values);
    for (size_t i = 0; i < p->n; i++) {
        const mull_param *q = &p->list[i];
        f->w[i] = copied[i] ? w : q->w;
        f->half[i] = copied[i] && p->half ? half : q->half;
        if (!copied[i]) continue;
        if (!rc) rc = mull_ranks_fetch(t->ranks, q, true, err);
        memcpy(w, q->w, (size_t)q->count * sizeof *w);
        mull_ranks_release(t->ranks, q);
        w += q->count;
        half += q->count;
    }
    if (!rc && t->state.step > 0) rc = read_first(g, err);
    for (size_t i = 0; !rc && p->half && i < p->n; i++)
        for (int64_t k = 0; copied[i] && k < p->list[i].count; k++) f->half[i][k] = mull_f32_to_bf16(f->w[i][k]);
    free(copied);
    f->kept = true;
    if (rc) mull__reference_fini(f);
    return rc;
}

void mull__grpo_swap_reference(struct mull__grpo *g, bool in) {
    if (g->t->r->lora_rank) {
        mull_net_adapters(g->t->net, !in);
        return;
    }
    if (!g->ref.kept) return; /* it is the policy */
    if (!mull_net_on_host(g->t->net)) {
        mull_net_use_reference(g->t->net, in);
        return;
    }
    for (size_t i = 0; i < g->t->params.n; i++) {
        mull_param *q = &g->t->params.list[i];
        float *w = q->w;
        uint16_t *half = q->half;
        q->w = g->ref.w[i];
        q->half = g->ref.half[i];
        g->ref.w[i] = w;
        g->ref.half[i] = half;
    }
}

void mull__reference_fini(mull__reference *r) {
    if (r->memory) munmap(r->memory, r->bytes ? r->bytes : 64);
    free(r->w);
    free(r->half);
    *r = (mull__reference){0};
}
