/* A shard of rollouts: the completions of some prompts of one loader step, as one policy answered them. It is a pure
 * function of its key and the policy's bytes, so that a shard that was lost is made again to the same bytes, by
 * whichever job; times and names of machines are therefore no part of it.
 *
 * File, version 1: one zstd frame (with checksum and content size) of: "MULLROL1", the length of the header (8 bytes,
 * little endian), the header as JSON, padded with blanks so that what follows is aligned to 8, then for all completions
 * the token ids (int32), their log-probs at the sampling temperature (float32), and their texts, without gaps:
 * {"version":1,"policy":{"version","sha256"},"key":{"seed","step","first"},"groups","generations","prompts",
 *  "sampling":{"temperature","top_p","max_completion_length"},
 *  "completions":[[tokens,truncated,bytes of text,accuracy,format,external],...]} */
#ifndef MULL_ENGINE_TRAIN_ROLLOUT_SHARD_H
#define MULL_ENGINE_TRAIN_ROLLOUT_SHARD_H

#include "engine/core/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum { MULL_ROLLOUT_BYTES_MAX = 256 << 20 }; /* of a shard, unpacked */

/* What a shard follows from. The random numbers of a completion follow from seed, step, place and sample. */
typedef struct mull_rollout_key {
    int64_t step, first;          /* loader step; place in it of the first prompt */
    int64_t groups, generations;  /* prompts; completions of each */
    int64_t version;              /* of the policy: optimiser steps that it has seen */
    char policy[65], prompts[65]; /* SHA-256 of the policy's file, and of what was asked */
    int64_t seed, max_completion_length;
    double temperature, top_p;
} mull_rollout_key;

typedef struct mull_rollout {
    const int32_t *ids; /* [n], with the end token when it came */
    const float *logp;  /* [n] */
    const char *text;   /* [text_len], no end */
    size_t text_len;
    int32_t n;
    bool truncated;
    double accuracy, format, external;
} mull_rollout;

typedef struct mull_rollout_shard {
    mull_rollout_key key;
    mull_rollout *c; /* [groups * generations] */
    void *memory;    /* what a decoded shard's arrays lie in */
} mull_rollout_shard;

/* Appends the file's bytes to out. */
int mull_rollout_encode(const mull_rollout_shard *s, mull_buf *out, mull_error *err);
/* Reads foreign bytes; name stands in errors. The caller frees out with mull_rollout_shard_fini after success. */
int mull_rollout_decode(const void *data, size_t len, const char *name, mull_rollout_shard *out, mull_error *err);
void mull_rollout_shard_fini(mull_rollout_shard *s);
/* MULL_EFORMAT unless s is what key asks for, of a model with so many token ids. */
int mull_rollout_check(const mull_rollout_shard *s, const mull_rollout_key *key, int64_t vocab, const char *name,
                       mull_error *err);

#endif
