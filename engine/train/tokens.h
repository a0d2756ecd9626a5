/* Mull tokens for a base checkpoint that has none: <|latent_pad|>, <|latent_start|>, <|latent_end|>, <|latent_image|>
 * behind its tokenizer's last entry, and rows for them (method.md, section 2). */
#ifndef MULL_ENGINE_TRAIN_TOKENS_H
#define MULL_ENGINE_TRAIN_TOKENS_H

#include "engine/text/tokenizer.h"

/* How many of the four the tokenizer lacks. */
int mull_tokens_missing(const mull_tokenizer *t);
/* Writes the checkpoint base with the missing ones as the new folder out, which appears whole or not at all; weights
 * keep their types. The embedding and an untied head get exactly one row for every token: rows without a token, which
 * Qwen's folders have behind the last one, go; a new token's row is the mean of the rows of all tokens of base. */
int mull_tokens_add(const char *base, const char *out, mull_error *err);

#endif
