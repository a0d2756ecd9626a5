/* Two workers with one node's name. The record belongs to the one that said hello last; what the other says is refused,
 * and it would never learn why. So the leader tells it: its engines work on what others have been given. */
#include "scheduler/leader_internal.h"

#include <stdlib.h>
#include <string.h>

static void on_looked_up(const mull_pg_reply *r, void *arg) {
    mull_leader *l;
    void *data;
    if (!mull__lead_current(arg, &l, &data) || r->status != MULL_PG_OK) return; /* its next heartbeat asks again */
    if (PQntuples(r->res) < 1) return;
    const char *boot = PQgetvalue(r->res, 0, 0), *node = PQgetvalue(r->res, 0, 1);
    mull_log(MULL_LOG_WARN, "node %s: a worker that another one has replaced (boot %s) still runs; it is told to stop",
             node, boot);
    mull__inbox(l, boot, json_pack("{s:i, s:s}", "v", 1, "type", "replaced"));
}

void mull__stranger(mull_leader *l, const json_t *event) {
    const char *type = json_string_value(json_object_get(event, "type"));
    const char *node = json_string_value(json_object_get(event, "node"));
    const char *boot = json_string_value(json_object_get(event, "boot"));
    if (!type || strcmp(type, "node_heartbeat") != 0 || !node || !boot) return;
    int32_t at = mull_queue_find_node(&l->queue, node);
    if (at < 0 || strcmp(l->queue.nodes[at].boot, boot) == 0) return;
    /* A boot whose hello has not been recorded yet is not among those ever seen. */
    const char *params[] = {boot};
    mull__lead_query(
        l,
        "SELECT b.boot, b.node FROM node_boot b JOIN node n ON n.name = b.node WHERE b.boot = $1 AND n.boot <> "
        "b.boot",
        1, params, on_looked_up, NULL);
}
