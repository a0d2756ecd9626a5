/* An engine on a node that shares no folder with the queue's host (mull-worker --transfer): what its spec names is
 * fetched from the front door before it starts, and what it writes is brought there. Not for users: the supervisor
 * starts `mull-worker __stage ENGINE run` in place of the engine. */
#ifndef MULL_WORKER_STAGE_H
#define MULL_WORKER_STAGE_H

/* The worker's state folder, in the environment of the stager: its join.json says where the front door is, and files
 * lie in its stage/, below the paths that they have there. */
#define MULL_STAGE_ENV "MULL_STAGE_STATE"

/* Where several ranks of an attempt run on the node: a file in the attempt's own folder by which the first one, which
 * fetches for all, tells the others how that went. */
#define MULL_STAGE_READY_ENV "MULL_STAGE_READY"

int mull_stage_main(char **engine_argv);

#endif
