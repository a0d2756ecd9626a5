/* See net_guard.h. The lists are IANA's special-purpose address registries. */
#include "scheduler/net_guard.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const NOT_PUBLIC_V4[] = {
    "0.0.0.0/8",       "10.0.0.0/8",    "100.64.0.0/10",   "127.0.0.0/8",     "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24",    "192.0.2.0/24",  "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
    "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",  "224.0.0.0/4",    "240.0.0.0/4"};
/* Within 2000::/3, the only part that is handed out: protocol assignments and Teredo, documentation, 6to4. */
static const char *const NOT_PUBLIC_V6[] = {"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"};

int mull_net_parse(const char *text, mull_net *out) {
    char host[64];
    const char *slash = strchr(text, '/');
    size_t n = slash ? (size_t)(slash - text) : strlen(text);
    if (n == 0 || n >= sizeof host) return -1;
    memcpy(host, text, n);
    host[n] = 0;
    *out = (mull_net){0};
    int most;
    struct in_addr v4;
    if (inet_pton(AF_INET, host, &v4) == 1) {
        out->addr[10] = out->addr[11] = 0xff;
        memcpy(out->addr + 12, &v4, 4);
        most = 32;
    } else if (inet_pton(AF_INET6, host, out->addr) == 1) {
        most = 128;
    } else {
        return -1;
    }
    long bits = most;
    if (slash) {
        char *end;
        if (slash[1] < '0' || slash[1] > '9') return -1;
        bits = strtol(slash + 1, &end, 10);
        if (*end || bits > most) return -1;
    }
    out->bits = (int)bits + 128 - most;
    return 0;
}

static bool within(const mull_net *net, const uint8_t addr[16]) {
    int whole = net->bits / 8, rest = net->bits % 8;
    if (memcmp(net->addr, addr, (size_t)whole) != 0) return false;
    return rest == 0 || ((net->addr[whole] ^ addr[whole]) >> (8 - rest)) == 0;
}

static bool in_list(const char *const *list, size_t n, const uint8_t addr[16]) {
    mull_net net;
    for (size_t i = 0; i < n; i++)
        if (mull_net_parse(list[i], &net) == 0 && within(&net, addr)) return true;
    return false;
}

int mull_net_guard_allow(mull_net_guard *g, const char *list, mull_err *err) {
    for (const char *p = list; *p;) {
        char word[80];
        size_t n = strcspn(p, ", ");
        snprintf(word, sizeof word, "%.*s", (int)(n < sizeof word ? n : sizeof word - 1), p);
        p += n + strspn(p + n, ", ");
        if (g->count == MULL_NETS_MAX || mull_net_parse(word, &g->allowed[g->count]) != 0)
            return mull_fail(err, MULL_ERR_ARG, "not a network", word, "give ADDRESS/BITS, such as 10.0.0.0/8",
                             g->count == MULL_NETS_MAX ? "there are %d already" : "it cannot be read", MULL_NETS_MAX);
        g->count++;
    }
    return 0;
}

bool mull_net_guard_permits(const mull_net_guard *g, const struct sockaddr *sa) {
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    uint8_t addr[16];
    if (sa->sa_family == AF_INET) {
        memcpy(addr, mapped, 12);
        memcpy(addr + 12, &((const struct sockaddr_in *)(const void *)sa)->sin_addr, 4);
    } else if (sa->sa_family == AF_INET6) {
        memcpy(addr, &((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr, 16);
    } else {
        return false;
    }
    for (int i = 0; i < g->count; i++)
        if (within(&g->allowed[i], addr)) return true;
    if (memcmp(addr, mapped, 12) == 0)
        return !in_list(NOT_PUBLIC_V4, sizeof NOT_PUBLIC_V4 / sizeof *NOT_PUBLIC_V4, addr);
    return (addr[0] & 0xe0) == 0x20 && !in_list(NOT_PUBLIC_V6, sizeof NOT_PUBLIC_V6 / sizeof *NOT_PUBLIC_V6, addr);
}
