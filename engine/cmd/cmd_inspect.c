/* mull-engine inspect: what a checkpoint folder holds, without loading its weights. */
#include "engine/cmd/cmd.h"
#include "engine/model/config.h"
#include "engine/model/model.h"
#include "engine/model/safetensors.h"
#include "engine/model/weights.h"

#include <stdlib.h>
#include <string.h>

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
                     (double)c->rms_eps, "rope_theta", c->rope_theta, "mrope_section", c->mrope_section[0],
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

int mull_cmd_inspect(int argc, char **argv) {
    const char *dir = NULL;
    bool list = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) {
            printf("usage: mull-engine inspect MODEL [--list]\n\nDescribes a checkpoint folder as one JSON object.\n"
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
    if (!dir) return mull_cmd_usage("inspect", "name a checkpoint folder");
    mull_error err = {0};
    mull_config c = {0};
    mull_safetensors *st = NULL;
    mull_tokenizer *tok = NULL;
    int rc = mull_config_load(dir, &c, &err);
    if (!rc) rc = mull_model_check(dir, &c, &st, &err);
    char *tp = mull_path_join(dir, "tokenizer.json");
    FILE *has = tp ? fopen(tp, "r") : NULL;
    if (has) fclose(has);
    free(tp);
    if (!rc && has) rc = mull_tokenizer_load(dir, &tok, &err);
    if (!rc) {
        json_t *tensors = json_array();
        int64_t params = 0, bytes = 0;
        for (size_t i = 0; i < mull_safetensors_count(st); i++) {
            const mull_tensor_info *t = mull_safetensors_at(st, i);
            params += t->count;
            bytes += t->count * (int64_t)mull_dtype_size(t->dtype);
            if (!list) continue;
            json_t *shape = json_array();
            for (int d = 0; d < t->ndim; d++) json_array_append_new(shape, json_integer(t->shape[d]));
            json_array_append_new(tensors, json_pack("{s:s,s:s,s:o,s:s}", "name", t->name, "dtype",
                                                     mull_dtype_name(t->dtype), "shape", shape, "file", t->file));
        }
        const mull_tensor_info *first = mull_safetensors_count(st) ? mull_safetensors_at(st, 0) : NULL;
        json_t *o =
            json_pack("{s:s,s:o,s:s,s:I,s:I,s:o,s:o,s:I,s:I}", "model", dir, "config", config_json(&c), "dtype",
                      first ? mull_dtype_name(first->dtype) : mull_dtype_name(c.dtype), "parameters",
                      (json_int_t)params, "tensors", (json_int_t)mull_safetensors_count(st), "tokenizer_size",
                      tok ? json_integer(mull_tokenizer_size(tok)) : json_null(), "mull_tokens", mull_tokens(tok),
                      "kv_bytes_per_token", (json_int_t)c.layers * 2 * c.kv_heads * c.head_dim * 4, "weight_bytes",
                      (json_int_t)bytes);
        if (list)
            json_object_set_new(o, "tensor_list", tensors);
        else
            json_decref(tensors);
        mull_cmd_emit(o);
    }
    mull_tokenizer_destroy(tok);
    mull_safetensors_close(st);
    mull_config_fini(&c);
    return rc ? mull_cmd_fail(&err) : MULL_EXIT_OK;
}
