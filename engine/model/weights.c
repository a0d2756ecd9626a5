/* The list of tensors of a Qwen2.5-VL checkpoint, written once: loading, init and inspect all walk it. */
#include "engine/model/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct list {
    mull_weight_spec *at;
    size_t n, cap;
    char prefix[40];
    bool nomem;
} list;

static void add(list *l, const char *name, int ndim, ...) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        mull_weight_spec *p = realloc(l->at, cap * sizeof *p);
        if (!p) {
            l->nomem = true;
            return;
        }
        l->at = p;
        l->cap = cap;
    }
    mull_weight_spec *s = &l->at[l->n++];
    memset(s, 0, sizeof *s);
    snprintf(s->name, sizeof s->name, "%s%s", l->prefix, name);
    s->ndim = ndim;
    va_list ap;
    va_start(ap, ndim);
    for (int i = 0; i < ndim; i++) s->shape[i] = va_arg(ap, int64_t);
    va_end(ap);
}

static void add_vision(list *l, const mull_config *c) {
    const mull_vision_config *v = &c->vision;
    int64_t e = v->hidden, f = v->intermediate, m = e * v->merge * v->merge, out = v->out_hidden;
    snprintf(l->prefix, sizeof l->prefix, "visual.");
    add(l, "patch_embed.proj.weight", 5, e, (int64_t)v->in_chans, (int64_t)v->temporal_patch, (int64_t)v->patch,
        (int64_t)v->patch);
    for (int i = 0; i < v->depth; i++) {
        snprintf(l->prefix, sizeof l->prefix, "visual.blocks.%d.", i);
        add(l, "norm1.weight", 1, e);
        add(l, "norm2.weight", 1, e);
        add(l, "attn.qkv.weight", 2, 3 * e, e);
        add(l, "attn.qkv.bias", 1, 3 * e);
        add(l, "attn.proj.weight", 2, e, e);
        add(l, "attn.proj.bias", 1, e);
        add(l, "mlp.gate_proj.weight", 2, f, e);
        add(l, "mlp.gate_proj.bias", 1, f);
        add(l, "mlp.up_proj.weight", 2, f, e);
        add(l, "mlp.up_proj.bias", 1, f);
        add(l, "mlp.down_proj.weight", 2, e, f);
        add(l, "mlp.down_proj.bias", 1, e);
    }
    snprintf(l->prefix, sizeof l->prefix, "visual.merger.");
    add(l, "ln_q.weight", 1, e);
    add(l, "mlp.0.weight", 2, m, m);
    add(l, "mlp.0.bias", 1, m);
    add(l, "mlp.2.weight", 2, out, m);
    add(l, "mlp.2.bias", 1, out);
}

int mull_weights_list(const mull_config *c, mull_weight_spec **out, size_t *n, mull_error *err) {
    list l = {0};
    int64_t h = c->hidden, f = c->intermediate, q = (int64_t)c->heads * c->head_dim,
            kv = (int64_t)c->kv_heads * c->head_dim;
    add_vision(&l, c);
    l.prefix[0] = 0;
    add(&l, "model.embed_tokens.weight", 2, (int64_t)c->vocab, h);
    for (int i = 0; i < c->layers; i++) {
        snprintf(l.prefix, sizeof l.prefix, "model.layers.%d.", i);
        add(&l, "input_layernorm.weight", 1, h);
        add(&l, "self_attn.q_proj.weight", 2, q, h);
        add(&l, "self_attn.q_proj.bias", 1, q);
        add(&l, "self_attn.k_proj.weight", 2, kv, h);
        add(&l, "self_attn.k_proj.bias", 1, kv);
        add(&l, "self_attn.v_proj.weight", 2, kv, h);
        add(&l, "self_attn.v_proj.bias", 1, kv);
        add(&l, "self_attn.o_proj.weight", 2, h, q);
        add(&l, "post_attention_layernorm.weight", 1, h);
        add(&l, "mlp.gate_proj.weight", 2, f, h);
        add(&l, "mlp.up_proj.weight", 2, f, h);
        add(&l, "mlp.down_proj.weight", 2, h, f);
    }
    l.prefix[0] = 0;
    add(&l, "model.norm.weight", 1, h);
    if (!c->tied) add(&l, "lm_head.weight", 2, (int64_t)c->vocab, h);
    if (l.nomem) {
        free(l.at);
        return mull_fail(err, MULL_ENOMEM, "cannot list the tensors", NULL, NULL, "out of memory");
    }
    *out = l.at;
    *n = l.n;
    return MULL_OK;
}

const char *mull_weights_published_name(const char *name, char *buf, size_t cap) {
    static const char visual[] = "model.visual.", lm[] = "model.language_model.";
    if (!strncmp(name, visual, sizeof visual - 1)) {
        snprintf(buf, cap, "visual.%s", name + sizeof visual - 1);
        return buf;
    }
    if (!strncmp(name, lm, sizeof lm - 1)) {
        snprintf(buf, cap, "model.%s", name + sizeof lm - 1);
        return buf;
    }
    return name;
}

void mull_weights_fini(mull_weights *w, const mull_config *c) {
    mull_vision_weights *v = &w->vision;
    for (int i = 0; v->blocks && i < c->vision.depth; i++) {
        mull_vision_block *b = &v->blocks[i];
        free(b->norm1), free(b->norm2);
        mull_matrix_destroy(b->qkv), mull_matrix_destroy(b->proj);
        mull_matrix_destroy(b->gate_up), mull_matrix_destroy(b->down);
        free(b->qkv_bias), free(b->proj_bias), free(b->gate_up_bias), free(b->down_bias);
    }
    free(v->blocks);
    mull_matrix_destroy(v->patch_embed), mull_matrix_destroy(v->merge0), mull_matrix_destroy(v->merge2);
    free(v->ln_q), free(v->merge0_bias), free(v->merge2_bias);
    for (int i = 0; w->layers && i < c->layers; i++) {
        mull_lm_layer *l = &w->layers[i];
        free(l->input_norm), free(l->post_norm), free(l->qkv_bias);
        mull_matrix_destroy(l->qkv), mull_matrix_destroy(l->o), mull_matrix_destroy(l->gate_up),
            mull_matrix_destroy(l->down);
    }
    free(w->layers);
    free(w->norm);
    if (w->head != w->embed) mull_matrix_destroy(w->head);
    mull_matrix_destroy(w->embed);
    memset(w, 0, sizeof *w);
}
