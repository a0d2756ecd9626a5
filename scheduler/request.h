/* What the front door keeps with each request: its route and who asks. */
#ifndef MULL_SCHEDULER_REQUEST_H
#define MULL_SCHEDULER_REQUEST_H

#include "scheduler/route.h"
#include "schema/http/http.h"

typedef enum mull_role { MULL_ROLE_NONE, MULL_ROLE_VIEWER, MULL_ROLE_MEMBER, MULL_ROLE_ADMIN } mull_role;

/* Filled by the authentication before a handler of a closed route runs. */
typedef struct mull_identity {
    char user[64];
    char team[64]; /* "" = any team */
    mull_role role;
    char node[128]; /* a worker that has joined: it may use the routes for nodes, and nothing else */
} mull_identity;

typedef struct mull_ask {
    mull_route route;
    mull_identity who;
    struct mull_upload *upload; /* files.c: of an upload under way */
    char quota[16];             /* which one it was refused for, for the audit; else "" */
} mull_ask;

static inline const mull_route *mull_req_route(mull_req *req) {
    return &((mull_ask *)mull_req_user(req))->route;
}
static inline mull_identity *mull_req_who(mull_req *req) {
    return &((mull_ask *)mull_req_user(req))->who;
}
/* The job that ARRAY_INDEX in the path means. */
static inline void mull_req_set_job(mull_req *req, int64_t job) {
    mull_route *route = &((mull_ask *)mull_req_user(req))->route;
    route->job = job;
    route->task = -1;
}

#endif
