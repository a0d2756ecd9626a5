/* The folder through which a trainer and its rollout jobs work together, OUT/exchange. Nobody talks to anybody: every
 * file appears whole under its name (temporary name, fsync, rename), so each process may die and come at any time.
 *
 *   run.json                    what is trained, by the trainer: {"format":1,"done":false,"recipe":{...}}
 *   policy-V.safetensors        the trained tensors after V optimiser steps, as products use them (LoRA: the adapters)
 *   want-S.json                 loader step S is to be answered by policy V (below)
 *   rollout-S-C.zst             shard C of step S (rollout_shard.h)
 *   shard-N.lock                whoever holds it works on shard N = S * shards + C (annotate/shard.h)
 *   bad-...                     shards that the trainer set aside
 *
 * The trainer says for each step which policy answers it, always the newest one when it begins to want the step, and it
 * wants steps as far ahead as max_staleness allows. What is trained therefore follows from the recipe alone, not from
 * how many rollout jobs there are, how fast they are, or which of them died. Systems that let a job take the newest
 * policy there is have less lag when rollouts are slow, but no run of them can be repeated; with the lag bounded as in
 * AReaL (Fu et al. 2025), max_staleness 0 is the synchronous algorithm. */
#ifndef MULL_ENGINE_TRAIN_ROLLOUT_EXCHANGE_H
#define MULL_ENGINE_TRAIN_ROLLOUT_EXCHANGE_H

#include "engine/core/buf.h"
#include "engine/data/recipe.h"

typedef struct mull_exchange {
    int dir;
    char path[4096];
} mull_exchange;

/* {"format":1,"step","version","policy","groups","each"} */
typedef struct mull_want {
    int64_t step, version;
    char policy[65];      /* SHA-256 of the policy's file */
    int64_t groups, each; /* prompts of the step; of a shard, the last one may have fewer */
} mull_want;

static inline int64_t mull_want_shards(const mull_want *w) {
    return (w->groups + w->each - 1) / w->each;
}

/* create: makes the folder. MULL_EMISSING when it is not there. */
int mull_exchange_open(const char *out, bool create, mull_exchange *x, mull_error *err);
void mull_exchange_close(mull_exchange *x);

/* r's paths become absolute. */
int mull_exchange_put_run(const mull_exchange *x, const mull_recipe *r, bool done, mull_error *err);
/* The recipe, which the caller frees; hash tells one from another (SHA-256). r NULL: only done and hash. */
int mull_exchange_get_run(const mull_exchange *x, mull_recipe *r, bool *done, char hash[65], mull_error *err);

int mull_want_put(const mull_exchange *x, const mull_want *w, mull_error *err);
/* MULL_EMISSING: nobody wants the step. */
int mull_want_get(const mull_exchange *x, int64_t step, mull_want *w, mull_error *err);
/* From memory; for mull_want_get and the fuzzer. */
int mull_want_parse(const char *text, size_t len, const char *name, mull_want *w, mull_error *err);
/* The steps that are wanted, rising; the caller frees *steps. */
int mull_want_list(const mull_exchange *x, int64_t **steps, size_t *n, mull_error *err);

typedef char mull_exchange_name[64];
void mull_want_name(int64_t step, mull_exchange_name out);
void mull_shard_name(int64_t step, int64_t shard, mull_exchange_name out);
void mull_policy_name(int64_t version, mull_exchange_name out);
bool mull_exchange_has(const mull_exchange *x, const char *name);
/* Sleeps *s seconds and makes them half as many again, at most limit: for who waits for a file. inotify would not see
 * what other hosts write. */
void mull_exchange_pause(double *s, double limit);
/* o[key] is a whole number from lo to hi. */
bool mull__json_whole(const json_t *o, const char *key, int64_t lo, int64_t hi, int64_t *out);

#endif
