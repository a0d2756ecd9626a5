/* Regular expressions as byte automata, for answers that must match one. The whole answer has to match.
 *
 * Syntax: literals, . (not a newline), [classes] with ranges, negation and \d \w \s, \D \W \S, escapes (\n \t \r \f \v
 * \xHH \uHHHH and any punctuation), groups ( ) and (?: ), |, * + ? {m} {m,} {,n} {m,n}, lazy forms (they mean the same
 * here), ^ at the start and $ at the end (they say what holds anyway). Look-around, back references, word boundaries
 * and flags are refused. Characters are Unicode's and matched as UTF-8.
 *
 * An expression becomes an NFA by continuation, then a DFA state by state as it is walked. Nothing here recurses deeper
 * than the nesting limit, and sizes are bounded: a stranger's expression costs at most what the limits say. */
#ifndef MULL_ENGINE_INFER_REGEX_H
#define MULL_ENGINE_INFER_REGEX_H

#include "engine/core/buf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    MULL_REGEX_BYTES = 64 << 10, /* of an expression */
    MULL_REGEX_NODES = 200000,   /* of its NFA */
    MULL_REGEX_STATES = 20000,   /* of its DFA */
    MULL_REGEX_DEAD = 0,         /* the state from which nothing matches */
    MULL_REGEX_START = 1
};

typedef struct mull_regex mull_regex;

/* MULL_EARG: where it is wrong. MULL_ELIMIT: it is too large. */
int mull_regex_create(const char *text, size_t len, mull_regex **out, mull_error *err);
void mull_regex_destroy(mull_regex *r);
/* The state behind a byte; negative without memory, or when the automaton would grow past its limit. */
int32_t mull_regex_step(mull_regex *r, int32_t state, uint8_t byte);
bool mull_regex_accepts(const mull_regex *r, int32_t state);
/* Nothing can follow. */
bool mull_regex_ends(const mull_regex *r, int32_t state);
int32_t mull_regex_states(const mull_regex *r);

/* An expression that matches exactly one of a list of texts; the caller's. NULL: no list of texts that are not empty
 * (or no memory). */
char *mull_choices_regex(const json_t *list);
/* Appends text so that it stands for itself in an expression. */
int mull_regex_quote(const char *text, size_t len, mull_buf *out);

#endif
