/* A unix socket that forwards to another one, in a process of its own, and can be told to misbehave. */
#ifndef MULL_TESTS_SOAK_PROXY_H
#define MULL_TESTS_SOAK_PROXY_H

#include <sys/types.h>

typedef enum mull_proxy_mode {
    MULL_PROXY_PASS,
    MULL_PROXY_CUT,  /* every connection is closed, new ones at once */
    MULL_PROXY_HOLD, /* nothing moves, nobody is told: a black hole */
    MULL_PROXY_SLOW  /* every read waits 100 ms before it is passed on */
} mull_proxy_mode;

typedef struct mull_proxy {
    pid_t pid;
    volatile int *mode; /* shared with it */
} mull_proxy;

/* Ends the program when it cannot. */
mull_proxy mull_proxy_start(const char *listen_path, const char *target_path);
void mull_proxy_stop(mull_proxy *p);

#endif
