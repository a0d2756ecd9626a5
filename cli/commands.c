/* The commands in the order of help. */
#include "cli/args.h"

/* clang-format off */
#define COMMANDS(X) \
    X(up) X(down) X(doctor) X(submit) X(serve) X(ps) X(show) X(why) X(logs) X(wait) \
    X(cancel) X(hold) X(release) X(requeue) X(metrics) X(rollouts) X(runs) X(compare) X(ckpt) X(pull) X(node) X(maintenance) X(team) X(quota) X(share) X(usage) X(user) X(token) X(audit) X(cron) X(webhook) X(queue) X(top) X(elastic) X(completion)
/* clang-format on */

#define X(name) extern const mull_cmd mull_cmd_##name;
COMMANDS(X)
#undef X

const mull_cmd *const mull_commands[] = {
#define X(name) &mull_cmd_##name,
    COMMANDS(X)
#undef X
        NULL};
