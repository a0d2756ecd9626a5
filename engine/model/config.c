/* config.json and generation_config.json of a checkpoint, in the published flat layout and in the newer one with
 * text_config. Every number that later sizes memory or a loop is checked here once. */
#include "engine/model/config.h"

#include "engine/core/buf.h"
#include "engine/ops/ops.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_JSON = 4 << 20 };
static const char *const WHAT = "cannot use the model's configuration";

typedef struct reader {
    const json_t *text, *root, *vision; /* text falls back to root */
    const char *name;
    mull_error *err;
    int rc;
} reader;

static void complain(reader *r, const char *key, const char *why) {
    if (r->rc) return;
    char where[256];
    snprintf(where, sizeof where, "%.150s, key %.80s", r->name, key);
    r->rc = mull_fail(r->err, MULL_EFORMAT, WHAT, where, "compare with the config.json of a Qwen2.5-VL checkpoint",
                      "%s", why);
}

/* key of o; of several spellings the first that is there. NULL when absent or null. */
static const json_t *pick(const json_t *o, const char *a, const char *b) {
    const json_t *v = json_object_get(o, a);
    if ((!v || json_is_null(v)) && b) v = json_object_get(o, b);
    return v && !json_is_null(v) ? v : NULL;
}
static const json_t *text_key(const reader *r, const char *key) {
    const json_t *v = pick(r->text, key, NULL);
    return v ? v : pick(r->root, key, NULL);
}

static int whole(reader *r, const char *key, const json_t *v, int lo, int hi, int absent) {
    char why[120];
    if (!v && absent >= lo) return absent;
    if (json_is_integer(v) && json_integer_value(v) >= lo && json_integer_value(v) <= hi)
        return (int)json_integer_value(v);
    snprintf(why, sizeof why, "%s a whole number from %d to %d", v ? "it must be" : "it is missing and must be", lo,
             hi);
    complain(r, key, why);
    return lo;
}
static double real(reader *r, const char *key, const json_t *v, double absent) {
    if (!v) return absent;
    if (json_is_number(v) && isfinite(json_number_value(v))) return json_number_value(v);
    complain(r, key, "it must be a number");
    return absent;
}

static void read_vision(reader *r, mull_vision_config *v, int hidden) {
    const json_t *o = r->vision;
    if (!json_is_object(o)) {
        complain(r, "vision_config", "it is missing: this is no Qwen2.5-VL checkpoint");
        return;
    }
    v->depth = whole(r, "vision_config.depth", pick(o, "depth", NULL), 1, 1024, -1);
    v->hidden = whole(r, "vision_config.hidden_size", pick(o, "hidden_size", NULL), 4, 1 << 16, -1);
    v->heads = whole(r, "vision_config.num_heads", pick(o, "num_heads", NULL), 1, 1024, -1);
    v->intermediate = whole(r, "vision_config.intermediate_size", pick(o, "intermediate_size", NULL), 1, 1 << 20, -1);
    v->in_chans = whole(r, "vision_config.in_chans", pick(o, "in_chans", "in_channels"), 3, 3, 3);
    v->out_hidden = whole(r, "vision_config.out_hidden_size", pick(o, "out_hidden_size", NULL), 1, 1 << 16, hidden);
    v->patch = whole(r, "vision_config.patch_size", pick(o, "patch_size", NULL), 14, 14, 14);
    v->temporal_patch = whole(r, "vision_config.temporal_patch_size", pick(o, "temporal_patch_size", NULL), 2, 2, 2);
    v->merge = whole(r, "vision_config.spatial_merge_size", pick(o, "spatial_merge_size", NULL), 2, 2, 2);
    v->window = whole(r, "vision_config.window_size", pick(o, "window_size", NULL), 28, 1 << 16, 112);
    v->tokens_per_second = real(r, "vision_config.tokens_per_second", pick(o, "tokens_per_second", NULL), 4);
    if (r->rc) return;
    if (v->hidden % v->heads || (v->hidden / v->heads) % 4 || v->hidden / v->heads > MULL_HEAD_DIM_MAX)
        complain(r, "vision_config.num_heads", "hidden_size must be heads times a multiple of 4 up to 256");
    if (v->window % (v->patch * v->merge)) complain(r, "vision_config.window_size", "it must be a multiple of 28");
    if (v->out_hidden != hidden)
        complain(r, "vision_config.out_hidden_size", "it must equal hidden_size of the language model");
    v->head_dim = v->hidden / v->heads;
    v->full_attention = calloc((size_t)v->depth, sizeof *v->full_attention);
    if (!v->full_attention) {
        r->rc = mull_fail(r->err, MULL_ENOMEM, WHAT, r->name, NULL, "out of memory");
        return;
    }
    const json_t *full = pick(o, "fullatt_block_indexes", NULL);
    static const int usual[] = {7, 15, 23, 31};
    for (size_t i = 0; !full && i < 4; i++)
        if (usual[i] < v->depth) v->full_attention[usual[i]] = true;
    if (full && !json_is_array(full))
        complain(r, "vision_config.fullatt_block_indexes", "it must be a list of block numbers");
    for (size_t i = 0; i < json_array_size(full); i++)
        v->full_attention[whole(r, "vision_config.fullatt_block_indexes", json_array_get(full, i), 0, v->depth - 1,
                                -1)] = true;
}

static void read_rope(reader *r, mull_config *c) {
    const json_t *p = text_key(r, "rope_parameters"), *s = text_key(r, "rope_scaling");
    const json_t *theta = text_key(r, "rope_theta");
    if (!theta) theta = pick(p, "rope_theta", NULL);
    if (!theta) theta = pick(s, "rope_theta", NULL);
    c->rope_theta = real(r, "rope_theta", theta, 1e6);
    const json_t *sec = pick(s, "mrope_section", NULL);
    if (!sec) sec = pick(p, "mrope_section", NULL);
    if (!json_is_array(sec) || json_array_size(sec) != 3) {
        complain(r, "rope_scaling.mrope_section", "it must be a list of three numbers");
        return;
    }
    int sum = 0;
    for (size_t i = 0; i < 3; i++)
        sum += c->mrope_section[i] =
            whole(r, "rope_scaling.mrope_section", json_array_get(sec, i), 0, MULL_HEAD_DIM_MAX, -1);
    if (!r->rc && sum != c->head_dim / 2)
        complain(r, "rope_scaling.mrope_section", "its numbers must add up to half the head size");
}

static void read_text(reader *r, mull_config *c) {
    c->hidden = whole(r, "hidden_size", text_key(r, "hidden_size"), 1, 1 << 16, -1);
    c->layers = whole(r, "num_hidden_layers", text_key(r, "num_hidden_layers"), 1, 1024, -1);
    c->heads = whole(r, "num_attention_heads", text_key(r, "num_attention_heads"), 1, 1024, -1);
    c->kv_heads = whole(r, "num_key_value_heads", text_key(r, "num_key_value_heads"), 1, 1024, c->heads);
    c->head_dim =
        whole(r, "head_dim", text_key(r, "head_dim"), 2, MULL_HEAD_DIM_MAX, c->hidden / (c->heads ? c->heads : 1));
    c->intermediate = whole(r, "intermediate_size", text_key(r, "intermediate_size"), 1, 1 << 20, -1);
    c->vocab = whole(r, "vocab_size", text_key(r, "vocab_size"), 1, 1 << 24, -1);
    c->max_positions = whole(r, "max_position_embeddings", text_key(r, "max_position_embeddings"), 1, 1 << 24, 128000);
    c->rms_eps = (float)real(r, "rms_norm_eps", text_key(r, "rms_norm_eps"), 1e-6);
    if (r->rc) return;
    if (c->heads % c->kv_heads) complain(r, "num_key_value_heads", "it must divide num_attention_heads");
    if (c->head_dim % 2 || c->head_dim > MULL_HEAD_DIM_MAX)
        complain(r, "num_attention_heads", "the head size must be even and at most 256");
    const json_t *act = text_key(r, "hidden_act");
    if (act && (!json_is_string(act) || strcmp(json_string_value(act), "silu")))
        complain(r, "hidden_act", "only silu is known for this model");
    if (json_is_true(text_key(r, "use_sliding_window")))
        complain(r, "use_sliding_window", "sliding windows are not supported");
    const json_t *tied = pick(r->root, "tie_word_embeddings", NULL);
    if (!tied) tied = text_key(r, "tie_word_embeddings");
    c->tied = json_is_true(tied);
    const json_t *dtype = pick(r->root, "torch_dtype", "dtype");
    if (!dtype) dtype = pick(r->text, "torch_dtype", "dtype");
    const char *d = dtype ? json_string_value(dtype) : "bfloat16";
    if (d && !strcmp(d, "bfloat16"))
        c->dtype = MULL_BF16;
    else if (d && !strcmp(d, "float32"))
        c->dtype = MULL_F32;
    else if (d && !strcmp(d, "float16"))
        c->dtype = MULL_F16;
    else
        complain(r, "torch_dtype", "it must be bfloat16, float16 or float32");
    read_rope(r, c);
}

static int token(reader *r, const char *key, int absent) {
    const json_t *v = pick(r->root, key, NULL);
    if (!v) v = pick(r->text, key, NULL);
    return v ? whole(r, key, v, 0, 1 << 24, -1) : absent;
}

static void read_tokens(reader *r, mull_config *c) {
    c->image_token = token(r, "image_token_id", 151655);
    c->video_token = token(r, "video_token_id", 151656);
    c->vision_start = token(r, "vision_start_token_id", 151652);
    c->vision_end = token(r, "vision_end_token_id", 151653);
    c->vision_pad = token(r, "vision_token_id", 151654);
    c->latent_pad = token(r, "latent_token_id", -1);
    c->latent_start = token(r, "latent_start_id", -1);
    c->latent_end = token(r, "latent_end_id", -1);
    c->latent_image = token(r, "imagelatent_token_id", -1);
    /* The release's checkpoints name none of them: it appended them behind Qwen's 151665 entries. */
    if (c->latent_pad < 0 && c->latent_start < 0 && c->latent_end < 0 && c->latent_image < 0 && c->vocab >= 151669) {
        c->latent_pad = 151665;
        c->latent_start = 151666;
        c->latent_end = 151667;
        c->latent_image = 151668;
    }
}

/* One id or a list of ids. */
static void read_eos(reader *r, const json_t *v, mull_config *c) {
    c->neos = 0;
    if (json_is_integer(v))
        c->eos[c->neos++] = whole(r, "eos_token_id", v, 0, 1 << 24, -1);
    else if (json_is_array(v) && json_array_size(v) <= sizeof c->eos / sizeof *c->eos)
        for (size_t i = 0; i < json_array_size(v); i++)
            c->eos[c->neos++] = whole(r, "eos_token_id", json_array_get(v, i), 0, 1 << 24, -1);
    else
        complain(r, "eos_token_id", "it must be an id or a list of at most 8");
}

static json_t *parse(const char *text, size_t len, const char *name, int *rc, mull_error *err) {
    json_error_t je;
    json_t *o = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!o || !json_is_object(o)) {
        char why[300];
        if (o)
            snprintf(why, sizeof why, "it is no JSON object");
        else
            snprintf(why, sizeof why, "line %d: %.250s", je.line, len ? je.text : "the file is empty");
        *rc = mull_fail(err, MULL_EFORMAT, WHAT, name, "copy or download the file again", "%s", why);
        json_decref(o);
        return NULL;
    }
    return o;
}

int mull_config_parse(const char *config_json, size_t len, const char *generation_json, size_t glen, const char *name,
                      mull_config *out, mull_error *err) {
    mull_config c = {.gen_temperature = 0, .gen_top_p = 1, .gen_repetition_penalty = 1, .bos = -1, .pad = -1};
    reader r = {.name = name, .err = err};
    json_t *root = parse(config_json, len, name, &r.rc, err), *gen = NULL;
    if (root && generation_json) gen = parse(generation_json, glen, "generation_config.json", &r.rc, err);
    if (r.rc) goto out;
    r.root = root;
    r.text = json_is_object(json_object_get(root, "text_config")) ? json_object_get(root, "text_config") : root;
    r.vision = json_object_get(root, "vision_config");
    const char *type = json_string_value(json_object_get(root, "model_type"));
    if (!type || strcmp(type, "qwen2_5_vl")) complain(&r, "model_type", "it must be qwen2_5_vl");
    if (!r.rc) read_text(&r, &c);
    if (!r.rc) read_vision(&r, &c.vision, c.hidden);
    if (!r.rc) read_tokens(&r, &c);
    const json_t *eos = pick(gen, "eos_token_id", NULL);
    if (!eos) eos = pick(root, "eos_token_id", NULL);
    if (!eos) eos = pick(r.text, "eos_token_id", NULL);
    if (eos && !r.rc) read_eos(&r, eos, &c);
    c.bos = token(&r, "bos_token_id", -1);
    const json_t *pad = pick(gen, "pad_token_id", NULL);
    c.pad = pad ? whole(&r, "pad_token_id", pad, 0, 1 << 24, -1) : token(&r, "pad_token_id", c.bos);
    c.gen_temperature = real(&r, "temperature", pick(gen, "temperature", NULL), 1);
    c.gen_top_p = real(&r, "top_p", pick(gen, "top_p", NULL), 1);
    c.gen_top_k = whole(&r, "top_k", pick(gen, "top_k", NULL), 0, 1 << 24, 0);
    c.gen_repetition_penalty = real(&r, "repetition_penalty", pick(gen, "repetition_penalty", NULL), 1);
    c.gen_do_sample = json_is_true(pick(gen, "do_sample", NULL));
    if (!c.gen_do_sample) c.gen_temperature = 0;
out:
    json_decref(root);
    json_decref(gen);
    if (r.rc)
        mull_config_fini(&c);
    else
        *out = c;
    return r.rc;
}

int mull_config_load(const char *dir, mull_config *out, mull_error *err) {
    mull_buf config = {0}, gen = {0};
    char *cp = mull_path_join(dir, "config.json"), *gp = mull_path_join(dir, "generation_config.json");
    int rc = cp && gp ? mull_read_file(cp, MAX_JSON, "config.json", &config, err)
                      : mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    bool has_gen = gp && access(gp, F_OK) == 0;
    if (!rc && has_gen) rc = mull_read_file(gp, MAX_JSON, "generation_config.json", &gen, err);
    if (!rc)
        rc = mull_config_parse(config.data, config.len, has_gen ? gen.data ? gen.data : "" : NULL, gen.len, cp, out,
                               err);
    mull_buf_fini(&config);
    mull_buf_fini(&gen);
    free(cp);
    free(gp);
    return rc;
}

void mull_config_fini(mull_config *c) {
    free(c->vision.full_attention);
    memset(c, 0, sizeof *c);
}
