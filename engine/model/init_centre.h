/* Centring of a random vision tower. */
#ifndef MULL_ENGINE_MODEL_INIT_CENTRE_H
#define MULL_ENGINE_MODEL_INIT_CENTRE_H

#include "engine/core/error.h"

/* Takes share of what the tower of the checkpoint dir (one shard, bf16) says of blank paper from all that it says: the
 * bias of its last layer becomes less by as much. What a random tower says of a picture is mostly the same for every
 * picture (94 % of its square with the preset demo), and a small model learns slowly to look past that. */
int mull__init_centre(const char *dir, double share, mull_error *err);

#endif
