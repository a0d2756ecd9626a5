/* See rollout_policy.h. */
#include "engine/train/rollout_policy.h"

#include "engine/core/digest.h"
#include "engine/model/adopt.h"
#include "engine/model/safetensors.h"
#include "engine/model/weights.h"
#include "engine/train/grpo_internal.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const PUBLISH = "cannot publish the policy", *const TAKE = "cannot take the policy";

/* ---- the trainer */
/* The tensor as products use it (mull__grpo_weight); adapters as they are. */
static mull_tensor_info info_of(const mull_param *q) {
    mull_tensor_info t = {.name = q->name, .dtype = MULL_F32, .ndim = q->ndim, .count = q->count, .data = q->w};
    memcpy(t.shape, q->shape, sizeof q->shape);
    if (q->half && q->ndim >= 2 && !q->adapter) {
        t.dtype = MULL_BF16;
        t.data = q->half;
    }
    return t;
}

int mull_policy_publish(const mull_exchange *x, const mull_params *p, int64_t version, char hex[65], mull_error *err) {
    mull_exchange_name name;
    mull_policy_name(version, name);
    char *path = mull_path_join(x->path, name);
    mull_tensor_info *list = calloc(p->n + 1, sizeof *list);
    size_t n = 0;
    int rc = path && list ? MULL_OK : mull_fail(err, MULL_ENOMEM, PUBLISH, name, NULL, "out of memory");
    for (size_t i = 0; !rc && i < p->n; i++)
        if (p->list[i].at >= 0) list[n++] = info_of(&p->list[i]);
    if (!rc) rc = mull_safetensors_write(path, list, n, err);
    if (!rc) rc = mull_sha256_file(path, hex, err);
    free(list);
    free(path);
    return rc;
}

/* ---- a rollout job */
typedef struct named {
    const char *name; /* published */
    const mull_tensor_info *info;
} named;

struct mull_policy {
    const mull_recipe *r;
    mull_model *model;
    mull_safetensors *base, *now; /* now: the version, while it is taken */
    named *names;                 /* of the base, sorted */
    char *text;                   /* the names' */
    size_t n;
    mull__merged merged;
    float *rounded; /* working memory: a base matrix as the trainer's products see it */
    int64_t rounded_cap;
};

static int by_name(const void *a, const void *b) {
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static int index_base(mull_policy *p, mull_error *err) {
    enum { NAME = 160 };
    p->n = mull_safetensors_count(p->base);
    p->names = calloc(p->n + 1, sizeof *p->names);
    p->text = malloc(p->n * NAME + 1);
    if (!p->names || !p->text) return mull_fail(err, MULL_ENOMEM, TAKE, p->r->model_path, NULL, "out of memory");
    for (size_t i = 0; i < p->n; i++) {
        char buf[NAME], *at = p->text + i * NAME;
        p->names[i].info = mull_safetensors_at(p->base, i);
        snprintf(at, NAME, "%s", mull_weights_published_name(p->names[i].info->name, buf, sizeof buf));
        p->names[i].name = at;
    }
    qsort(p->names, p->n, sizeof *p->names, by_name);
    return MULL_OK;
}

int mull_policy_open(const mull_recipe *r, int threads, mull_policy **out, mull_error *err) {
    mull_policy *p = *out = calloc(1, sizeof *p);
    if (!p) return mull_fail(err, MULL_ENOMEM, TAKE, "", NULL, "out of memory");
    p->r = r;
    mull_model_opts load = {
        .weights = r->bf16 ? MULL_WEIGHT_BF16 : MULL_WEIGHT_F32, .threads = threads, .vision_only = true};
    int rc = mull_model_load(r->model_path, &load, &p->model, err);
    if (!rc) rc = mull_model_check(r->model_path, mull_model_config(p->model), &p->base, err);
    if (!rc) rc = index_base(p, err);
    if (rc) {
        mull_policy_close(p);
        *out = NULL;
    }
    return rc;
}

void mull_policy_close(mull_policy *p) {
    if (!p) return;
    mull_safetensors_close(p->now);
    mull_safetensors_close(p->base);
    mull_model_destroy(p->model);
    free(p->names);
    free(p->text);
    free(p->merged.data);
    free(p->rounded);
    free(p);
}

mull_model *mull_policy_model(const mull_policy *p) {
    return p->model;
}

/* A frozen matrix under an adapter: rounded to bf16 when the trainer's copy is. */
static const void *base_matrix(mull_policy *p, const mull_tensor_info *t, mull_dtype *type) {
    *type = t->dtype;
    if (!p->r->bf16 || t->dtype == MULL_BF16) return t->data;
    if (t->count > p->rounded_cap) {
        float *m = realloc(p->rounded, (size_t)t->count * sizeof *m);
        if (!m) return NULL;
        p->rounded = m;
        p->rounded_cap = t->count;
    }
    mull_to_f32(t->data, t->dtype, (size_t)t->count, p->rounded);
    for (int64_t i = 0; i < t->count; i++) {
        uint16_t half = mull_f32_to_bf16(p->rounded[i]);
        mull_to_f32(&half, MULL_BF16, 1, &p->rounded[i]);
    }
    *type = MULL_F32;
    return p->rounded;
}

static const void *weights(void *ctx, const char *name, mull_dtype *type) {
    mull_policy *p = ctx;
    const mull_tensor_info *now = mull_safetensors_find(p->now, name);
    if (now) {
        *type = now->dtype;
        return now->data;
    }
    const named *base = bsearch(&(named){.name = name}, p->names, p->n, sizeof *p->names, by_name);
    if (!base) return NULL; /* not reached: mull_model_check found every tensor */
    const mull_tensor_info *w = base->info;
    size_t n = strlen(name), tail = strlen(".weight");
    *type = w->dtype;
    if (!p->r->lora_rank || w->ndim != 2 || n <= tail) return w->data;
    char a[160], b[160];
    snprintf(a, sizeof a, "base_model.model.%.*s.lora_A.weight", (int)(n - tail), name);
    snprintf(b, sizeof b, "base_model.model.%.*s.lora_B.weight", (int)(n - tail), name);
    const mull_tensor_info *pa = mull_safetensors_find(p->now, a), *pb = mull_safetensors_find(p->now, b);
    if (!pa || !pb) return w->data;
    mull__adapter x = {.out = w->shape[0],
                       .in = w->shape[1],
                       .a = pa->data,
                       .b = pb->data,
                       .rank = pa->shape[0],
                       .alpha = p->r->lora_alpha};
    if (!(x.w = base_matrix(p, w, &x.type))) return NULL;
    *type = MULL_F32;
    return mull__adapted(&x, mull_model_pool(p->model), &p->merged);
}

/* Every tensor of the version belongs to the model and has its shape. */
static int check(const mull_policy *p, const char *path, mull_error *err) {
    for (size_t i = 0; i < mull_safetensors_count(p->now); i++) {
        const mull_tensor_info *t = mull_safetensors_at(p->now, i);
        const named *base = bsearch(&(named){.name = t->name}, p->names, p->n, sizeof *p->names, by_name);
        const char *part = strstr(t->name, ".lora_");
        bool good = base && base->info->count == t->count && base->info->ndim == t->ndim;
        if (!base && part && !strncmp(t->name, "base_model.model.", 17) && p->r->lora_rank) {
            char of[160];
            snprintf(of, sizeof of, "%.*s.weight", (int)(part - t->name - 17), t->name + 17);
            base = bsearch(&(named){.name = of}, p->names, p->n, sizeof *p->names, by_name);
            bool is_a = !strcmp(part, ".lora_A.weight");
            good = base && base->info->ndim == 2 && t->ndim == 2 && t->dtype == MULL_F32 &&
                   t->shape[is_a ? 0 : 1] == p->r->lora_rank &&
                   t->shape[is_a ? 1 : 0] == base->info->shape[is_a ? 1 : 0];
        }
        if (!good)
            return mull_fail(err, MULL_EFORMAT, TAKE, path, "start the training job again, which writes it anew",
                             "%.100s does not belong to %s", t->name, p->r->model_path);
    }
    return MULL_OK;
}

int mull_policy_take(mull_policy *p, const mull_exchange *x, int64_t version, const char hex[65], mull_error *err) {
    mull_exchange_name name;
    char found[65];
    mull_policy_name(version, name);
    char *path = mull_path_join(x->path, name);
    int rc = path ? mull_sha256_file(path, found, err) : mull_fail(err, MULL_ENOMEM, TAKE, name, NULL, "out of memory");
    if (!rc && strcmp(found, hex))
        rc = mull_fail(err, MULL_EFORMAT, TAKE, path, NULL, "it is not the version that is wanted");
    if (!rc) rc = mull_safetensors_open(path, &p->now, err);
    if (!rc) rc = check(p, path, err);
    if (!rc) rc = mull_model_adopt(p->model, weights, p, err);
    if (!rc && mull__trains_tower(p->r)) rc = mull_model_adopt_tower(p->model, weights, p, err);
    mull_safetensors_close(p->now);
    p->now = NULL;
    free(path);
    return rc;
}
