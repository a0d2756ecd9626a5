/* The prompt functions that the task table names. */
#ifndef MULL_ENGINE_EVAL_PROMPT_INTERNAL_H
#define MULL_ENGINE_EVAL_PROMPT_INTERNAL_H

#include "engine/eval/prompt.h"
#include "engine/eval/text.h"

#define X(name)                                                                                                        \
    int mull__prompt_##name(mull__arena *a, const json_t *doc, const mull_prompt_opts *o, mull_buf *out,               \
                            mull_error *err);
X(blink) X(sat) X(vsibench) X(plain) X(mmsi) X(sitebench) X(vstar) X(mmmu) X(mmvu) X(mme) X(vqav2) X(puzzles)
#undef X

#endif
