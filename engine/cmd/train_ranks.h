/* Starts the ranks of a training run on this machine, for `mull-engine train --ranks`. Jobs do not come by here: the
 * worker starts their ranks. */
#ifndef MULL_ENGINE_CMD_TRAIN_RANKS_H
#define MULL_ENGINE_CMD_TRAIN_RANKS_H

/* Runs this program with these arguments (from the command's name on) as so many processes, told by their environment
 * which rank they are, and waits for all. SIGTERM and SIGINT go to all of them; when one fails and the others do not
 * end by themselves, they are killed. Returns the exit status: the first failure's, 75 when all saved and stopped. */
int mull_cmd_train_ranks(int ranks, int argc, char **argv);

#endif
