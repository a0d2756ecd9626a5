/* See lineage.h. */
#include "engine/train/lineage.h"

#include "engine/core/digest.h"

#include <stdlib.h>
#include <string.h>

static const char *const WHAT = "cannot record the run";

/* Keys that say where things lie, what is kept and how fast it goes, not what comes out. */
static const char *const ASIDE[] = {"run_name",
                                    "model_name",
                                    "model_path",
                                    "resume_from_checkpoint",
                                    "sat_location",
                                    "video_r1_location",
                                    "zebracot_location",
                                    "sims_location",
                                    "messages_location",
                                    "save_steps",
                                    "save_total_limit",
                                    "logging_steps",
                                    "prefetch_tokens",
                                    "loader_threads",
                                    "feature_cache",
                                    "feature_cache_bytes",
                                    "tensorboard",
                                    "async_save",
                                    "metric_for_best_model",
                                    "save_best_limit",
                                    "rollout_groups",
                                    "rollout_wait"};

static void remove_aside(json_t *o) {
    const char *key;
    json_t *v;
    void *next;
    for (size_t i = 0; i < sizeof ASIDE / sizeof *ASIDE; i++) json_object_del(o, ASIDE[i]);
    json_object_foreach_safe(o, next, key, v) {
        if (json_is_object(v)) remove_aside(v);
    }
}

static void finish(mull__sha *s, char hex[65]) {
    uint8_t md[32];
    mull__sha_done(s, md);
    mull__hex(md, 32, hex);
}

static int hash_config(const json_t *config, mull__sha *s, json_t *hashes, mull_error *err) {
    json_t *copy = json_deep_copy(config);
    if (copy) remove_aside(copy);
    char *text = copy ? json_dumps(copy, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17)) : NULL, hex[65];
    json_decref(copy);
    if (!text) return mull_fail(err, MULL_ENOMEM, WHAT, "config", NULL, "out of memory");
    mull__sha_add(s, text, strlen(text));
    finish(s, hex);
    free(text);
    json_object_set_new(hashes, "config", json_string(hex));
    return MULL_OK;
}

static int hash_data(const mull_recipe *r, mull__sha *s, json_t *hashes, mull_error *err) {
    json_t *sets = json_object();
    char hex[65], line[256];
    int rc = MULL_OK;
    for (int i = 0; i < MULL_SET_COUNT && !rc; i++) {
        if (r->weight[i] <= 0) continue;
        rc = mull_digest_dataset(mull_recipe_location(r, (mull_set)i), hex, err);
        if (rc) break;
        json_object_set_new(sets, mull_set_name((mull_set)i), json_string(hex));
        snprintf(line, sizeof line, "%s %.17g %.100s %s\n", mull_set_name((mull_set)i), r->weight[i], r->split, hex);
        mull__sha_add(s, line, strlen(line));
    }
    finish(s, hex);
    json_object_set_new(hashes, "data", json_string(hex));
    json_object_set_new(hashes, "data_sets", sets);
    return rc;
}

static json_t *absolute(const char *path) {
    char *real = path && *path ? realpath(path, NULL) : NULL;
    json_t *v = real ? json_string(real) : path && *path ? json_string(path) : json_null();
    free(real);
    return v ? v : json_null(); /* a path that is no UTF-8 */
}

int mull_lineage(const mull_recipe *r, const char *resume, json_t **out, mull_error *err) {
    const char *own = r->resume_from_checkpoint;
    /* "true" means the run's own newest checkpoint; a folder that is named is where this run began. */
    bool named = *own && strcmp(own, "true") && strcmp(own, "True") && strcmp(own, "false") && strcmp(own, "False");
    json_t *config = mull_recipe_json(r), *hashes = json_object();
    mull__sha *s = mull__sha_create();
    char hex[65];
    *out = NULL;
    int rc = config && hashes && s ? MULL_OK : mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    if (!rc) rc = hash_config(config, s, hashes, err);
    if (!rc) rc = mull_digest_model(named ? own : r->model_path, hex, err);
    if (!rc) json_object_set_new(hashes, "model", json_string(hex));
    if (!rc) rc = hash_data(r, s, hashes, err);
    if (!rc) rc = mull_sha256_file("/proc/self/exe", hex, err);
    if (!rc) {
        json_object_set_new(hashes, "code", json_string(hex));
        json_object_set_new(hashes, "version", json_string(MULL_VERSION));
        *out = json_pack("{s:O,s:O,s:I,s:o,s:o}", "config", config, "hashes", hashes, "seed", (json_int_t)r->seed,
                         "parent", absolute(named ? own : r->model_path), "resumed", absolute(resume));
        if (!*out) rc = mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    }
    json_decref(config);
    json_decref(hashes);
    mull__sha_destroy(s);
    return rc;
}
