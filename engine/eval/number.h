/* Numbers as Python reads and prints them: float(), str(), round(x, 2), and the number that a reply holds
 * (method.md, section 6). */
#ifndef MULL_ENGINE_EVAL_NUMBER_H
#define MULL_ENGINE_EVAL_NUMBER_H

#include "engine/eval/text.h"

enum { MULL__REPR_BYTES = 64 };

/* float(t): spaces around, Unicode digits, underscores between digits, inf and nan in any case. */
bool mull__py_float(mull__arena *a, mull__text t, double *out);
/* str(x), NUL-terminated. */
void mull__py_repr(double x, char out[MULL__REPR_BYTES]);
/* round(x, 2): correctly rounded in decimal, half to even. */
double mull__py_round2(double x);
/* The last match of -?(\d+(\.\d+)?|\.\d+) once commas are removed. The release keeps group 1, so every sign is lost;
 * with keep_sign a minus counts that no letter or digit precedes. False when there is none. */
bool mull__last_number(mull__arena *a, mull__text t, bool keep_sign, double *out);

#endif
