/* The vision tower when it is trained too: forward and backward over the parameters of a net (loaded with their vision
 * part), one medium at a time. Same operations as model/vision.c over plain weights.
 *
 * The forward keeps nothing. The backward of a medium runs its forward again, group by group of grid steps (attention
 * never crosses a step), keeping each block's input of that group alone, and computes a block's inside once more when
 * its turn comes: memory is one group's, whatever the batch holds. */
#ifndef MULL_ENGINE_TRAIN_TOWER_H
#define MULL_ENGINE_TRAIN_TOWER_H

#include "engine/train/pack.h"

typedef struct mull_tower mull_tower;

/* n is borrowed and must have the tower's parameters. */
int mull_tower_create(mull_net *n, mull_tower **out, mull_error *err);
void mull_tower_destroy(mull_tower *t);
/* The tower as a source of features. */
mull_pack_source mull_tower_source(mull_tower *t);
/* Gradients of the batch's media from what mull_net_backward left in p's d_features; p was built with vision_gradient.
 * Reasoning images of Stage 1 are targets and stay constants. */
int mull_tower_backward(mull_tower *t, mull_pack *p, const mull_batch *b, mull_error *err);
/* Before a batch's features are asked for, and after its backward (or its forward, when there is none): all parts of
 * the tower (net.h). Between them a rank may have any number of media, none too. */
void mull_tower_enter(mull_tower *t);
void mull_tower_leave(mull_tower *t, bool backward);

#endif
