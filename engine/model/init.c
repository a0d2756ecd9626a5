/* Random checkpoints. Values are a pure function of (seed, tensor name, element), so they are made in any order by any
 * number of threads, written while they are made, and the same seed gives the same file everywhere. Scales grow with
 * 1/sqrt(fan-in), so activations stay of order one through the depth and the random model's choices are not flat. */
#include "engine/model/init.h"

#include "engine/core/buf.h"
#include "engine/core/pool.h"
#include "engine/core/rng.h"
#include "engine/model/init_centre.h"
#include "engine/model/init_tokenizer.h"
#include "engine/model/safetensors_write.h"
#include "engine/model/weights.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const WHAT = "cannot write checkpoint";

typedef struct preset {
    const char *name;
    int hidden, layers, heads, kv_heads, ffn, vocab, section[3];
    bool tied;
    int vdepth, vhidden, vheads, vffn, full[5];
    double rope_theta; /* 0: Qwen's 1e6 */
    bool words;        /* the tokenizer has merges */
    double centred;    /* share of blank paper's feature that is taken away (init_centre.h) */
} preset;

/* vocab 0: as many rows as the tokenizer needs, rounded up to 32. full: block numbers, -1 at the end. */
static const preset presets[] = {
    {"tiny", 64, 2, 4, 2, 176, 0, {2, 3, 3}, true, 2, 64, 4, 172, {1, -1}, 0, false, 0},
    {"demo", 64, 2, 4, 2, 176, 0, {2, 3, 3}, true, 2, 64, 4, 172, {1, -1}, 10, true, 0.9},
    {"bench340m", 1024, 12, 8, 2, 2816, 151936, {16, 24, 24}, true, 8, 640, 8, 1712, {3, 7, -1}, 0, false, 0},
    {"3b", 2048, 36, 16, 2, 11008, 151936, {16, 24, 24}, true, 32, 1280, 16, 3420, {7, 15, 23, 31, -1}, 0, false, 0},
    {"7b", 3584, 28, 28, 4, 18944, 152064, {16, 24, 24}, false, 32, 1280, 16, 3420, {7, 15, 23, 31, -1}, 0, false, 0},
};
const mull_preset_name mull_preset_names[] = {
    {"tiny", "a demo and test model: runs in milliseconds, writes noise"},
    {"demo", "as small, made to learn the puzzles of mull-engine puzzles in minutes"},
    {"bench340m", "340 million parameters, for benchmarks on a CPU"},
    {"3b", "the shapes of Qwen2.5-VL-3B"},
    {"7b", "the shapes of Qwen2.5-VL-7B"},
    {NULL, NULL},
};

/* Order of mull_special_texts. */
enum {
    ENDOFTEXT = 0,
    IM_END = 2,
    VISION_START = 9,
    VISION_END,
    VISION_PAD,
    IMAGE_PAD,
    VIDEO_PAD,
    LATENT_PAD = 22,
    LATENT_START,
    LATENT_END,
    LATENT_IMAGE
};

static json_t *config_json(const preset *p, const int ids[MULL_SPECIALS], int vocab) {
    json_t *full = json_array();
    for (int i = 0; p->full[i] >= 0; i++) json_array_append_new(full, json_integer(p->full[i]));
    json_t *vision =
        json_pack("{s:i,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:o,s:i,s:i}", "depth", p->vdepth, "hidden_act", "silu",
                  "hidden_size", p->vhidden, "intermediate_size", p->vffn, "num_heads", p->vheads, "in_chans", 3,
                  "out_hidden_size", p->hidden, "patch_size", 14, "spatial_merge_size", 2, "spatial_patch_size", 14,
                  "window_size", 112, "fullatt_block_indexes", full, "tokens_per_second", 2, "temporal_patch_size", 2);
    json_t *c = json_pack("{s:[s],s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:b,s:s,s:f,s:f,s:s,s:f}", "architectures",
                          "Qwen2_5_VLForConditionalGeneration", "model_type", "qwen2_5_vl", "hidden_size", p->hidden,
                          "num_hidden_layers", p->layers, "num_attention_heads", p->heads, "num_key_value_heads",
                          p->kv_heads, "intermediate_size", p->ffn, "vocab_size", vocab, "tie_word_embeddings", p->tied,
                          "hidden_act", "silu", "rms_norm_eps", 1e-6, "rope_theta",
                          p->rope_theta > 0 ? p->rope_theta : 1e6, "torch_dtype", "bfloat16", "attention_dropout", 0.0);
    json_object_update_new(c, json_pack("{s:i,s:i,s:b,s:i,s:b,s:f,s:{s:s,s:[i,i,i]},s:o}", "max_position_embeddings",
                                        128000, "max_window_layers", p->layers, "use_sliding_window", 0,
                                        "sliding_window", 32768, "use_cache", 1, "initializer_range", 0.02,
                                        "rope_scaling", "type", "mrope", "mrope_section", p->section[0], p->section[1],
                                        p->section[2], "vision_config", vision));
    static const struct {
        const char *key;
        int special;
    } tokens[] = {{"bos_token_id", ENDOFTEXT},
                  {"eos_token_id", IM_END},
                  {"vision_start_token_id", VISION_START},
                  {"vision_end_token_id", VISION_END},
                  {"vision_token_id", VISION_PAD},
                  {"image_token_id", IMAGE_PAD},
                  {"video_token_id", VIDEO_PAD},
                  {"latent_token_id", LATENT_PAD},
                  {"latent_start_id", LATENT_START},
                  {"latent_end_id", LATENT_END},
                  {"imagelatent_token_id", LATENT_IMAGE}};
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++)
        if (ids[tokens[i].special] >= 0) json_object_set_new(c, tokens[i].key, json_integer(ids[tokens[i].special]));
    return c;
}

/* 0 also when there is no such file. */
static int remove_file(const char *dir, const char *name) {
    char *path = mull_path_join(dir, name);
    int rc = path && (!unlink(path) || errno == ENOENT) ? 0 : -1;
    free(path);
    return rc;
}

static int write_json(const char *dir, const char *name, json_t *o, mull_error *err) {
    char *s = o ? json_dumps(o, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    int rc = s ? mull_init_write_file(dir, name, s, strlen(s), err)
               : mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    free(s);
    return rc;
}

/* ---- weights */
static bool ends(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* Uniform in offset +- scale. */
static void spread(const mull_weight_spec *s, double *offset, double *scale) {
    int64_t fan = 1;
    for (int i = 1; i < s->ndim; i++) fan *= s->shape[i];
    *offset = s->ndim == 1 && !ends(s->name, ".bias") ? 1 : 0;
    double gain = ends(s->name, "lm_head.weight")                                    ? 4
                  : ends(s->name, "q_proj.weight") || ends(s->name, "k_proj.weight") ? 2.5
                                                                                     : 1.7;
    *scale = s->ndim == 1 ? 0.1 : ends(s->name, "embed_tokens.weight") ? 0.5 : gain / sqrt((double)fan);
}

enum { CHUNK = 1 << 20 };

typedef struct fill_job {
    uint16_t *out;
    uint64_t key;
    int64_t start, n;
    double offset, scale;
} fill_job;

static void fill_task(void *ctx, int part, int parts) {
    const fill_job *j = ctx;
    int64_t a = j->n / 4 * part / parts * 4, b = part == parts - 1 ? j->n : j->n / 4 * (part + 1) / parts * 4;
    for (int64_t i = a; i < b; i += 4) {
        uint32_t r[4];
        mull_philox(j->key, 0, (uint64_t)((j->start + i) / 4), r);
        for (int k = 0; k < 4 && i + k < b; k++)
            j->out[i + k] = mull_f32_to_bf16((float)(j->offset + j->scale * ((double)(r[k] >> 8) * 0x1p-23 - 1)));
    }
}

static uint64_t tensor_key(uint64_t seed, const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h ^ seed * 0x9e3779b97f4a7c15u;
}

static int64_t elements(const mull_weight_spec *s) {
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++) n *= s->shape[i];
    return n;
}

static int write_shard(const char *dir, const char *name, const mull_weight_spec *s, size_t n, uint64_t seed,
                       mull_pool *pool, mull_error *err) {
    mull_tensor_info *t = calloc(n, sizeof *t);
    uint16_t *buf = malloc(CHUNK * sizeof *buf);
    char *path = mull_path_join(dir, name);
    mull_safetensors_writer *w = NULL;
    int rc = t && buf && path ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    for (size_t i = 0; !rc && i < n; i++) {
        t[i] = (mull_tensor_info){.name = s[i].name, .dtype = MULL_BF16, .ndim = s[i].ndim, .count = elements(&s[i])};
        memcpy(t[i].shape, s[i].shape, (size_t)s[i].ndim * sizeof *s[i].shape);
    }
    if (!rc) rc = mull_safetensors_writer_open(path, t, n, &w, err);
    for (size_t i = 0; !rc && i < n; i++) {
        fill_job j = {.out = buf, .key = tensor_key(seed, s[i].name)};
        spread(&s[i], &j.offset, &j.scale);
        for (j.start = 0; !rc && j.start < t[i].count; j.start += CHUNK) {
            j.n = t[i].count - j.start < CHUNK ? t[i].count - j.start : CHUNK;
            mull_pool_run(pool, fill_task, &j, 64);
            rc = mull_safetensors_writer_add(w, buf, (size_t)j.n * sizeof *buf, err);
        }
    }
    if (!rc)
        rc = mull_safetensors_writer_commit(w, err);
    else
        mull_safetensors_writer_abort(w);
    free(t);
    free(buf);
    free(path);
    return rc;
}

int mull_init_weights(const char *dir, const mull_config *c, uint64_t seed, int64_t limit, mull_error *err) {
    mull_weight_spec *s = NULL;
    size_t n = 0, shards = 1, from = 0;
    int rc = mull_weights_list(c, &s, &n, err);
    if (rc) return rc;
    if (limit <= 0) limit = INT64_C(2000000000); /* 4 GB of bf16 */
    int64_t total = 0, in = 0;
    size_t *last = malloc((n + 1) * sizeof *last); /* first tensor after shard i */
    mull_pool *pool = mull_pool_create(0);
    if (!last || !pool) rc = mull_fail(err, MULL_ENOMEM, WHAT, dir, NULL, "out of memory");
    for (size_t i = 0; !rc && i < n; i++) {
        int64_t e = elements(&s[i]);
        if (in && in + e > limit) {
            last[shards++ - 1] = i;
            in = 0;
        }
        in += e;
        total += e;
    }
    if (!rc) last[shards - 1] = n;
    json_t *map = json_object();
    for (size_t k = 0; !rc && k < shards; from = last[k++]) {
        char name[64];
        if (shards == 1)
            snprintf(name, sizeof name, "model.safetensors");
        else
            snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", k + 1, shards);
        for (size_t i = from; i < last[k]; i++) json_object_set_new(map, s[i].name, json_string(name));
        rc = write_shard(dir, name, s + from, last[k] - from, seed, pool, err);
    }
    if (!rc && shards > 1)
        rc = write_json(dir, "model.safetensors.index.json",
                        json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)total * 2, "weight_map", map),
                        err);
    /* A folder written before may hold the other layout, and readers take the first that they find. */
    if (!rc && remove_file(dir, shards > 1 ? "model.safetensors" : "model.safetensors.index.json"))
        rc = mull_fail_errno(err, errno, WHAT, dir, "check the permissions of the folder");
    json_decref(map);
    mull_pool_destroy(pool);
    free(last);
    free(s);
    return rc;
}

int mull_init_checkpoint(const char *name, const char *out, uint64_t seed, const char *tokenizer, mull_error *err) {
    const preset *p = NULL;
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (!strcmp(presets[i].name, name)) p = &presets[i];
    if (!p)
        return mull_fail(err, MULL_EARG, WHAT, "--preset", "use tiny, demo, bench340m, 3b or 7b", "'%s' is no preset",
                         name);
    if (mkdir(out, 0777) && errno != EEXIST) return mull_fail_errno(err, errno, WHAT, out, "check the folder above it");
    /* Without config.json the folder is no checkpoint until the new one is whole. */
    if (remove_file(out, "config.json"))
        return mull_fail_errno(err, errno, WHAT, out, "check the permissions of the folder");
    int ids[MULL_SPECIALS], size = 0;
    int rc = tokenizer ? mull_init_tokenizer_copy(tokenizer, out, ids, &size, err)
                       : mull_init_tokenizer_write(out, p->words, ids, &size, err);
    if (rc) return rc;
    if (ids[ENDOFTEXT] < 0 || ids[IM_END] < 0)
        return mull_fail(err, MULL_EFORMAT, WHAT, tokenizer, "use the tokenizer of a Qwen2.5-VL checkpoint",
                         "it has no <|endoftext|> or <|im_end|>");
    if (ids[IMAGE_PAD] < 0 || ids[VIDEO_PAD] < 0 || ids[VISION_START] < 0 || ids[VISION_END] < 0)
        return mull_fail(err, MULL_EFORMAT, WHAT, tokenizer, "use the tokenizer of a Qwen2.5-VL checkpoint",
                         "it has no <|image_pad|>, <|video_pad|>, <|vision_start|> or <|vision_end|>");
    int rows = p->vocab > size ? p->vocab : (size + 31) / 32 * 32;
    json_t *generation = json_pack("{s:i,s:i,s:b,s:[i,i],s:f,s:f}", "bos_token_id", ids[ENDOFTEXT], "pad_token_id",
                                   ids[ENDOFTEXT], "do_sample", 1, "eos_token_id", ids[IM_END], ids[ENDOFTEXT],
                                   "repetition_penalty", 1.05, "temperature", 1e-6);
    json_t *config = config_json(p, ids, rows);
    char *text = config ? json_dumps(config, 0) : NULL;
    mull_config c = {0};
    if (!text)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, out, NULL, "out of memory");
    else
        rc = mull_config_parse(text, strlen(text), NULL, 0, "config.json", &c, err);
    free(text);
    if (!rc) rc = mull_init_weights(out, &c, seed, 0, err);
    mull_config_fini(&c);
    if (!rc) rc = write_json(out, "generation_config.json", json_incref(generation), err);
    if (!rc)
        rc = write_json(out, "preprocessor_config.json",
                        json_pack("{s:i,s:i,s:i,s:i,s:i,s:[f,f,f],s:[f,f,f],s:s,s:s}", "min_pixels", 3136, "max_pixels",
                                  12845056, "patch_size", 14, "temporal_patch_size", 2, "merge_size", 2, "image_mean",
                                  0.48145466, 0.4578275, 0.40821073, "image_std", 0.26862954, 0.26130258, 0.27577711,
                                  "image_processor_type", "Qwen2VLImageProcessor", "processor_class",
                                  "Qwen2_5_VLProcessor"),
                        err);
    if (!rc) rc = write_json(out, "config.json", json_incref(config), err);
    if (!rc && p->centred > 0 && (rc = mull__init_centre(out, p->centred, err))) remove_file(out, "config.json");
    json_decref(config);
    json_decref(generation);
    return rc;
}
