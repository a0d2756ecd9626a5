/* The byte-level tokenizer that init gives to checkpoints that bring none, and copying of one that exists. */
#ifndef MULL_ENGINE_MODEL_INIT_TOKENIZER_H
#define MULL_ENGINE_MODEL_INIT_TOKENIZER_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>

enum { MULL_SPECIALS = 26 }; /* Qwen2.5-VL's 22 added tokens, then the four of Mull */
extern const char *const mull_special_texts[MULL_SPECIALS];

/* Writes tokenizer.json, tokenizer_config.json, chat_template.json, vocab.json and merges.txt to dir: 256 bytes, with
 * words the merges of init_merges.h, then the added tokens. ids[i] receives the id of mull_special_texts[i]; *size the
 * number of tokens. */
int mull_init_tokenizer_write(const char *dir, bool words, int ids[MULL_SPECIALS], int *size, mull_error *err);
/* Copies the tokenizer files of from to dir and reads the ids (-1 where from has no such token). */
int mull_init_tokenizer_copy(const char *from, const char *dir, int ids[MULL_SPECIALS], int *size, mull_error *err);
/* Writes len bytes to dir/name by a temporary name, fsynced. */
int mull_init_write_file(const char *dir, const char *name, const char *text, size_t len, mull_error *err);

#endif
