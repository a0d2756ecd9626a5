/* See store_pg_hosts.h. */
#include "schema/store_pg_hosts.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool needs_lookup(const char *host) {
    unsigned char address[16];
    return *host && *host != '/' && *host != '@' && inet_pton(AF_INET, host, address) != 1 &&
           inet_pton(AF_INET6, host, address) != 1;
}

static char *copy_of(const char *text) {
    return text ? strdup(text) : NULL;
}

void mull__pg_hosts_init(mull_pg_hosts *h, const char *conninfo) {
    PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
    const char *host = getenv("PGHOST"), *address = getenv("PGHOSTADDR"), *port = getenv("PGPORT");
    for (PQconninfoOption *o = options; o && o->keyword; o++) {
        if (o->val && !strcmp(o->keyword, "host")) host = o->val;
        if (o->val && !strcmp(o->keyword, "hostaddr")) address = o->val;
        if (o->val && !strcmp(o->keyword, "port")) port = o->val;
    }
    *h = (mull_pg_hosts){.hosts = copy_of(host), .addresses = copy_of(address), .ports = copy_of(port), .count = 1};
    for (const char *at = host ? host : address; at && (at = strchr(at, ',')); at++) h->count++;
    char *copy = host && !address ? strdup(host) : NULL;
    for (char *rest = copy, *one; copy && (one = strsep(&rest, ","));) h->names |= needs_lookup(one);
    free(copy);
    PQconninfoFree(options);
}

void mull__pg_hosts_fini(mull_pg_hosts *h) {
    free(h->hosts);
    free(h->addresses);
    free(h->ports);
}

char *mull__pg_look_up(const char *hosts) {
    static const char NOWHERE[] = "255.255.255.255";
    char *copy = strdup(hosts), *out = NULL;
    size_t size;
    FILE *m = copy ? open_memstream(&out, &size) : NULL;
    const char *comma = "";
    for (char *rest = copy, *one; m && (one = strsep(&rest, ",")); comma = ",") {
        struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
        char text[64];
        snprintf(text, sizeof text, "%s", needs_lookup(one) ? NOWHERE : "");
        if (needs_lookup(one) && getaddrinfo(one, NULL, &hints, &list) == 0 &&
            getnameinfo(list->ai_addr, list->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST) != 0)
            snprintf(text, sizeof text, "%s", NOWHERE);
        if (list) freeaddrinfo(list);
        fprintf(m, "%s%s", comma, text);
    }
    if (m && fclose(m)) {
        free(out);
        out = NULL;
    }
    free(copy);
    return out;
}

char *mull__list_turned(const char *list, int turn) {
    if (!list) return NULL;
    const char *from = list;
    for (; turn > 0 && (from = strchr(from, ',')); turn--) from++;
    char *out = NULL;
    if (!from || from == list) return strdup(list);
    if (asprintf(&out, "%s,%.*s", from, (int)(from - list - 1), list) < 0) return NULL;
    return out;
}
