/* VSI-Bench's question types and its measure for numbers. */
#ifndef MULL_ENGINE_EVAL_VSI_H
#define MULL_ENGINE_EVAL_VSI_H

#include <stdbool.h>

bool mull__vsi_letters(const char *type); /* answered by a letter */
bool mull__vsi_numbers(const char *type); /* answered by a number */
/* Mean over the thetas .50, .55 .. .95 of [|pred - target| / target <= 1 - theta]. */
double mull__vsi_mra(double pred, double target);

#endif
