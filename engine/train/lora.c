/* Merging adapters; see lora.h. */
#include "engine/train/lora.h"

#include "engine/core/buf.h"
#include "engine/ops/gemm.h"
#include "engine/ops/kernels.h"
#include "engine/train/checkpoint_internal.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot merge the adapter";

void mull_lora_merge(mull_pool *pool, mull_params *p, double alpha) {
    static const char BASE[] = "base_model.model.", A[] = ".lora_A.weight";
    for (size_t i = 0; i + 1 < p->n; i++) {
        mull_param *a = &p->list[i], *b = &p->list[i + 1];
        size_t n = strlen(a->name), m = sizeof A - 1;
        if (!a->adapter || n < m || strcmp(a->name + n - m, A)) continue;
        char name[160];
        snprintf(name, sizeof name, "%.*s.weight", (int)(n - m - (sizeof BASE - 1)), a->name + sizeof BASE - 1);
        mull_param *w = mull_params_find(p, name);
        int64_t rank = a->shape[0], in = a->shape[1], out = b->shape[0];
        float *scaled = malloc((size_t)b->count * sizeof *scaled);
        if (!scaled) abort();
        memcpy(scaled, b->w, (size_t)b->count * sizeof *scaled);
        mull_kernels_get()->scale_row(scaled, b->count, (float)(alpha / (double)rank));
        mull_linear_dx(pool, scaled, out, rank, a->w, MULL_F32, in, rank, w->w, in, true);
        free(scaled);
    }
    mull_params_round(pool, p);
}

/* rank, alpha and targets of adapter_config.json; what would change the result and is not known here is refused. */
static int read_config(const char *dir, int64_t *rank, double *alpha, char *targets, size_t cap, mull_error *err) {
    char *path = mull_path_join(dir, "adapter_config.json");
    json_error_t je;
    json_t *j = path ? json_load_file(path, 0, &je) : NULL, *list = json_object_get(j, "target_modules"), *v;
    const char *bias = json_string_value(json_object_get(j, "bias")), *why = NULL;
    size_t i, at = 0;
    *rank = json_integer_value(json_object_get(j, "r"));
    *alpha = json_number_value(json_object_get(j, "lora_alpha"));
    if (!j)
        why = je.text;
    else if (*rank < 1 || *rank > 1 << 16 || !(*alpha > 0) || !json_is_array(list))
        why = "it needs r, lora_alpha and a list target_modules";
    else if (json_is_true(json_object_get(j, "use_rslora")) || json_is_true(json_object_get(j, "use_dora")) ||
             json_is_true(json_object_get(j, "fan_in_fan_out")) || (bias && strcmp(bias, "none")))
        why = "rslora, dora, fan_in_fan_out and biases are not supported";
    targets[0] = 0;
    json_array_foreach(list, i, v) {
        const char *t = json_string_value(v);
        if (!t || at + strlen(t) + 2 > cap) {
            why = "its target_modules are no list of names";
            break;
        }
        at += (size_t)snprintf(targets + at, cap - at, "%s%s", at ? "," : "", t);
    }
    int rc =
        why ? mull_fail(err, MULL_EFORMAT, WHAT, path ? path : dir, "use an adapter in PEFT's LoRA layout", "%s", why)
            : MULL_OK;
    json_decref(j);
    free(path);
    return rc;
}

int mull_lora_merge_folder(const char *base, const char *adapter, const char *out, bool half, mull_error *err) {
    char targets[1024];
    mull_params_opts o = {.half = half, .lora_targets = targets};
    double alpha;
    mull_config c = {0};
    mull_params p = {0};
    int rc = read_config(adapter, &o.lora_rank, &alpha, targets, sizeof targets, err);
    if (rc) return rc;
    mull_pool *pool = mull_pool_create(0);
    rc = mull_config_load(base, &c, err);
    if (!rc) rc = mull_params_load(base, &c, &o, &p, err);
    if (!rc) rc = mull__adapter_load(adapter, &p, err);
    if (!rc) {
        mull_lora_merge(pool, &p, alpha);
        rc = mull__checkpoint_export(base, &c, &p, out, err);
    }
    mull_params_fini(&p);
    mull_config_fini(&c);
    mull_pool_destroy(pool);
    return rc;
}
