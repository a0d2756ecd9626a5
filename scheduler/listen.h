/* Listening sockets for the front door. Called before the loop runs, so name look-up may block here. */
#ifndef MULL_SCHEDULER_LISTEN_H
#define MULL_SCHEDULER_LISTEN_H

#include "schema/error.h"

#include <stdbool.h>

/* Opens "unix:PATH", "tcp:HOST:PORT" or "tls:HOST:PORT", which is a tcp one here (IPv6 as tcp:[::1]:80, port 0 = any
 * free one). *fd is non-blocking and close-on-exec; name gets the bound address in words. A unix path is guarded by a
 * lock on PATH.lock held for the life of the process (*lock_fd, -1 for TCP): a live holder is an error, a stale socket
 * file is replaced. 0 or negative. */
int mull_listen_open(const char *spec, int *fd, int *lock_fd, bool *is_unix, char *name, size_t name_cap,
                     mull_err *err);
/* Removes the socket file of a "unix:PATH" spec; nothing for others. */
void mull_listen_remove(const char *spec);

#endif
