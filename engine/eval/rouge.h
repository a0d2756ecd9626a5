/* ROUGE-1, -2 and -L as google-research's rouge_score computes them with its default tokenizer and use_stemmer=True,
 * the Porter stemmer under it (NLTK's variant), and the word error rate of the release. */
#ifndef MULL_ENGINE_EVAL_ROUGE_H
#define MULL_ENGINE_EVAL_ROUGE_H

#include "engine/eval/text.h"

typedef struct mull__prf {
    double precision, recall, f;
} mull__prf;

typedef struct mull__rouge {
    mull__prf rouge1, rouge2, rouge_l;
} mull__rouge;

void mull__rouge_score(mull__arena *a, mull__text reference, mull__text hypothesis, mull__rouge *out);
/* Edit distance over white-space words / max(1, reference words). */
double mull__wer(mull__arena *a, mull__text reference, mull__text hypothesis);

/* Stems word[n] (lower case ASCII letters and digits) in place and returns the new length, at most n + 1: the buffer
 * has room for n + 1 bytes. */
size_t mull__porter_stem(char *word, size_t n);

/* Length of the longest common subsequence and the edit distance of two id sequences, ids below ids; 64 columns at a
 * time, so n * m / 64 steps and memory linear in n + m. */
size_t mull__lcs(mull__arena *a, const uint32_t *x, size_t n, const uint32_t *y, size_t m, size_t ids);
size_t mull__edit_distance(mull__arena *a, const uint32_t *x, size_t n, const uint32_t *y, size_t m, size_t ids);

#endif
