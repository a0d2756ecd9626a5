/* Listening sockets of `serve`. */
#ifndef MULL_ENGINE_SERVE_LISTEN_H
#define MULL_ENGINE_SERVE_LISTEN_H

#include "engine/core/error.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct mull__listen {
    int fd;
    bool is_unix, local; /* local: only this machine can reach it */
    char url[300];       /* for people: http://127.0.0.1:8000/v1, or unix:PATH */
    char path[108];      /* of a unix socket, to be removed at the end */
} mull__listen;

/* address: HOST:PORT, [V6]:PORT, PORT (of 127.0.0.1; 0: any that is free) or unix:PATH. */
int mull__listen_open(const char *address, mull__listen *l, mull_error *err);

#endif
