/* Byte pair merges for the tokenizer of demo models: learnt when the checkpoint is written, from the sentences that the
 * release's prompts and our puzzles are made of, so that a prompt has a quarter of the tokens that its bytes are. */
#ifndef MULL_ENGINE_MODEL_INIT_MERGES_H
#define MULL_ENGINE_MODEL_INIT_MERGES_H

#include "engine/core/buf.h"

#include <jansson.h>

/* vocab holds the 256 bytes under ids 0 to 255 (alphabet[b]: how byte b is spelled there); every merge adds one token
 * under the next id. pairs receives "left right" in order of rank, lines the same as merges.txt has them. */
int mull__init_merges(char alphabet[256][4], json_t *vocab, json_t *pairs, mull_buf *lines, mull_error *err);

#endif
