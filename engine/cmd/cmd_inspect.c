/* mull-engine inspect: what a checkpoint folder holds, without loading its weights. A folder with a config.json alone
 * is described too, with the tensors that its config asks for: that is how one sees what a 72B would need before having
 * it. */
#include "engine/cmd/cmd.h"
#include "engine/model/config.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"
#include "engine/model/weights.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The shortest decimal that names this float: 1e-06 and not 9.99999997e-07. */
static double decimal(float x) {
    char text[32];
    snprintf(text, sizeof text, "%.7g", (double)x);
    return strtod(text, NULL);
}

static bool has_file(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    bool has = path && access(path, F_OK) == 0;
    free(path);
    return has;
}

static json_t *config_json(const mull_config *c) {
    const mull_vision_config *v = &c->vision;
    json_t *full = json_array(), *eos = json_array();
    for (int i = 0; i < v->depth; i++)
        if (v->full_attention[i]) json_array_append_new(full, json_integer(i));
    for (int i = 0; i < c->neos; i++) json_array_append_new(eos, json_integer(c->eos[i]));
    return json_pack("{s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:f,s:f,s:[i,i,i],s:b,s:o,s:{s:i,s:i,s:i,s:i,s:i,s:o,s:f}}",
                     "hidden_size", c->hidden, "num_hidden_layers", c->layers, "num_attention_heads", c->heads,
                     "num_key_value_heads", c->kv_heads, "head_dim", c->head_dim, "intermediate_size", c->intermediate,
                     "vocab_size", c->vocab, "max_position_embeddings", c->max_positions, "rms_norm_eps",
                     decimal(c->rms_eps), "rope_theta", c->rope_theta, "mrope_section", c->mrope_section[0],
                     c->mrope_section[1], c->mrope_section[2], "tie_word_embeddings", c->tied, "eos_token_id", eos,
                     "vision_config", "depth", v->depth, "hidden_size", v->hidden, "num_heads", v->heads,
                     "intermediate_size", v->intermediate, "window_size", v->window, "fullatt_block_indexes", full,
                     "tokens_per_second", v->tokens_per_second);
}

/* null when the checkpoint has no tokenizer or not these tokens */
static json_t *mull_tokens(const mull_tokenizer *t) {
    static const char *const names[] = {"<|latent_pad|>", "<|latent_start|>", "<|latent_end|>", "<|latent_image|>"};
    json_t *o = json_object();
    for (int i = 0; i < 4; i++) {
        int32_t id = t ? mull_tokenizer_special(t, names[i]) : -1;
        json_object_set_new(o, names[i], id >= 0 ? json_integer(id) : json_null());
    }
    return o;
}

typedef struct totals {
    int64_t params, bytes;
    size_t tensors;
    const char *dtype;
} totals;

static json_t *tensor_json(const mull_tensor_info *t) {
    json_t *shape = json_array();
    for (int d = 0; d < t->ndim; d++) json_array_append_new(shape, json_integer(t->shape[d]));
    return json_pack("{s:s,s:s,s:o,s:s}", "name", t->name, "dtype", mull_dtype_name(t->dtype), "shape", shape, "file",
                     t->file);
}

/* list may be NULL. */
static void count_file(const mull_safetensors *st, totals *n, json_t *list) {
    n->tensors = mull_safetensors_count(st);
    for (size_t i = 0; i < n->tensors; i++) {
        const mull_tensor_info *t = mull_safetensors_at(st, i);
        n->params += t->count;
        n->bytes += t->count * (int64_t)mull_dtype_size(t->dtype);
        if (strstr(t->name, "embed_tokens.weight")) /* the type that loading follows */
            n->dtype = mull_dtype_name(t->dtype);
        if (list) json_array_append_new(list, tensor_json(t));
    }
}

/* What the config asks for, where there is no file. */
static int count_config(const mull_config *c, totals *n, mull_error *err) {
    mull_weight_spec *specs = NULL;
    size_t k = 0;
    int rc = mull_weights_list(c, &specs, &k, err);
    for (size_t i = 0; !rc && i < k; i++) {
        int64_t count = 1;
        for (int d = 0; d < specs[i].ndim; d++) count *= specs[i].shape[d];
        n->params += count;
        n->bytes += count * (int64_t)mull_dtype_size(c->dtype);
    }
    free(specs);
    return rc;
}

static int inspect(const char *dir, bool list) {
    mull_error err = {0};
    mull_config c = {0};
    mull_safetensors *st = NULL;
    mull_tokenizer *tok = NULL;
    totals n = {0};
    json_t *tensors = list ? json_array() : NULL;
    int rc = mull_config_load(dir, &c, &err);
    bool present = has_file(dir, "model.safetensors") || has_file(dir, "model.safetensors.index.json");
    if (!rc) rc = present ? mull_model_check(dir, &c, &st, &err) : count_config(&c, &n, &err);
    if (!rc && has_file(dir, "tokenizer.json")) rc = mull_tokenizer_load(dir, &tok, &err);
    if (!rc) {
        n.dtype = mull_dtype_name(c.dtype);
        if (st) count_file(st, &n, tensors);
        json_t *o =
            json_pack("{s:s,s:o,s:s,s:I,s:I,s:b,s:o,s:o,s:I,s:I}", "model", dir, "config", config_json(&c), "dtype",
                      n.dtype, "parameters", (json_int_t)n.params, "tensors", (json_int_t)n.tensors, "weights_present",
                      present, "tokenizer_size", tok ? json_integer(mull_tokenizer_size(tok)) : json_null(),
                      "mull_tokens", mull_tokens(tok), "kv_bytes_per_token",
                      (json_int_t)c.layers * 2 * c.kv_heads * c.head_dim * 4, "weight_bytes", (json_int_t)n.bytes);
        if (o && tensors) json_object_set(o, "tensor_list", tensors);
        mull_cmd_emit(o);
    }
    json_decref(tensors);
    mull_tokenizer_destroy(tok);
    mull_safetensors_close(st);
    mull_config_fini(&c);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}

int mull_cmd_inspect(int argc, char **argv) {
    const char *dir = NULL;
    bool list = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            printf("usage: mull-engine inspect MODEL [--list]\n\nDescribes a checkpoint folder as one JSON object. "
                   "Without weight files, parameters and\nweight_bytes are what its config.json asks for.\n"
                   "  --list    also every tensor: name, type, shape, file\n");
            return MULL_EXIT_OK;
        }
        if (!strcmp(argv[i], "--list"))
            list = true;
        else if (argv[i][0] == '-' || dir)
            return mull_cmd_usage("inspect", "unknown argument '%s'", argv[i]);
        else
            dir = argv[i];
    }
    return dir ? inspect(dir, list) : mull_cmd_usage("inspect", "name a checkpoint folder");
}
