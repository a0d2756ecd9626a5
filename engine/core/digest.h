/* What makes a model or a data set this very one: SHA-256 of content, never of a path, so that a moved or copied folder
 * is the same. Large files are told apart by their size, their first MiB and samples all through them: a checkpoint of
 * 16 GB is identified in milliseconds, and one that was trained further differs everywhere. */
#ifndef MULL_ENGINE_CORE_DIGEST_H
#define MULL_ENGINE_CORE_DIGEST_H

#include "engine/core/error.h"

#include <stddef.h>
#include <stdint.h>

/* sha256 in steps. */
typedef struct mull__sha mull__sha;
mull__sha *mull__sha_create(void); /* NULL: no memory */
void mull__sha_add(mull__sha *s, const void *p, size_t n);
void mull__sha_done(mull__sha *s, uint8_t out[32]); /* s may be used again from the start */
void mull__sha_destroy(mull__sha *s);
void mull__hex(const uint8_t *p, size_t n, char *out); /* 2n + 1 bytes */

/* Adds the file's name, its size and its content: all of it up to 16 MiB, else the first MiB and 64 samples of 64 KiB.
 * dir: an open folder or AT_FDCWD. what: words for the error. */
int mull_digest_file(mull__sha *s, int dir, const char *name, const char *what, mull_error *err);
/* A checkpoint folder: its weights and the files that decide what they answer (config, generation, preprocessor,
 * tokenizer). */
int mull_digest_model(const char *dir, char hex[65], mull_error *err);

/* digest_tree.c. Plain SHA-256 of every byte, as sha256sum says it. */
int mull_sha256_file(const char *path, char hex[65], mull_error *err);
/* What a data set says: the file, or the tables (.parquet, .json, .jsonl) below the folder to a depth of 4, each with
 * its relative name as mull_digest_file does. The media that rows name are not read. */
int mull_digest_dataset(const char *location, char hex[65], mull_error *err);

#endif
