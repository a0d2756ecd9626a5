/* The regular expressions of the release's extraction and scoring, each as a linear search. Groups come back as views;
 * .c is NULL when nothing matched (an empty match has .c set and n 0). */
#ifndef MULL_ENGINE_EVAL_PATTERNS_H
#define MULL_ENGINE_EVAL_PATTERNS_H

#include "engine/eval/text.h"

/* Which phrases come before \s+([a-zA-Z0-9]+); all ignore case. */
typedef enum mull__phrases {
    MULL__PHRASES_REWARD, /* with \(? before and "answer is", "final conlusion:" (reward, BLINK) */
    MULL__PHRASES_STARE,  /* with \(? before, "the answer is" */
    MULL__PHRASES_SAT,    /* no parenthesis */
    MULL__PHRASES_VSI     /* four phrases, no parenthesis */
} mull__phrases;

/* Group 1 of (?:phrases)\s+\(?([a-zA-Z0-9]+) */
mull__text mull__match_phrase(mull__text t, mull__phrases which);
/* Group 1 of LITERAL\s+(\d+), ignoring case; literal is lower case ASCII. */
mull__text mull__match_count(mull__text t, const char *literal);

enum { MULL__TAG_NOCASE = 1, MULL__TAG_LINES = 2 /* dot matches a newline */ };
/* Group 1 of <answer>\s*(.*?)\s*</answer> */
mull__text mull__match_answer(mull__text t, int flags);
/* Group 1 of \\boxed\{\s*(.*?)\s*\} (dot matches a newline). */
mull__text mull__match_boxed(mull__text t);
/* <think>.*?</think>\s*<answer>.*?</answer>|<answer>.*?</answer> is found; dot matches a newline, case counts. */
bool mull__has_answer(mull__text t);
/* The last or first \b[A-Z]\b as a view of one code point; .c NULL when there is none. last..: A to Z;
 * first: A to hi, in either case when nocase. */
mull__text mull__last_capital(mull__text t);
mull__text mull__first_letter(mull__text t, char hi, bool nocase);

/* What the three patterns find (phrase, "I counted a total of", <answer> on one line), reduced to its last stand-alone
 * capital when it has one. *matched tells whether any pattern matched; the view is stripped. */
mull__text mull__extract_match(mull__text t, mull__phrases which, bool *matched, bool *capital);
/* A model's reply as lmms-eval cleans it: <answer>, else \boxed, else the whole. */
mull__text mull__clean_reply(mull__text t);

#endif
