/* Which addresses a URL that somebody else has chosen may lead to. The check is made on the address that is connected
 * to, after the name was looked up, so a name that changes its mind in between (DNS rebinding) gains nothing. Pure. */
#ifndef MULL_SCHEDULER_NET_GUARD_H
#define MULL_SCHEDULER_NET_GUARD_H

#include "schema/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum { MULL_NETS_MAX = 32 };

/* An IPv6 network; IPv4 as ::ffff:0:0/96. */
typedef struct mull_net {
    uint8_t addr[16];
    int bits;
} mull_net;

typedef struct mull_net_guard {
    mull_net allowed[MULL_NETS_MAX]; /* beyond the public ones */
    int count;
} mull_net_guard;

/* "10.0.0.0/8", "fd00::/8", an address alone. 0 or -1. */
int mull_net_parse(const char *text, mull_net *out);
/* Adds networks from a list with commas. 0, or an error that names the wrong one. */
int mull_net_guard_allow(mull_net_guard *g, const char *list, mull_err *err);
/* An address of the public Internet, or one that is allowed: not loopback, private, link-local, shared, multicast,
 * reserved, for documentation, nor an IPv6 address that stands for such an IPv4 one. Other families: never. */
bool mull_net_guard_permits(const mull_net_guard *g, const struct sockaddr *addr);

#endif
