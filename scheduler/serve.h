/* `mull-scheduler serve`: the front door and a candidate for the lead in one process, until SIGTERM or SIGINT. */
#ifndef MULL_SCHEDULER_SERVE_H
#define MULL_SCHEDULER_SERVE_H

enum { MULL_MAX_LISTEN = 8 };

typedef struct mull_serve_config {
    const char *pg;                             /* libpq conninfo */
    const char *redis;                          /* an address (store_redis_server.h) */
    const char *redis_password_file, *redis_ca; /* paths, NULL: none */
    const char *listen[MULL_MAX_LISTEN];
    int listen_count;
    const char *files, *models; /* folders, NULL: none (mull_front_config) */
    unsigned long long max_upload;
    unsigned rate, burst;                 /* requests a second of one token or address, and at once; rate 0: no limit */
    const char *webhook_allow;            /* networks besides the public Internet that webhooks may go to, NULL: none */
    const char *worker_redis, *worker_ca; /* of mull_front_config; the second a path */
    const struct mull_exports *exports;   /* NULL: none */
    const char *tls_cert, *tls_key;       /* PEM files for the addresses tls:HOST:PORT, NULL: none */
    int node_timeout_s;                   /* of mull_leader_config */
    const char *name; /* NULL = host name and first address: the same after a restart, different from all others */
} mull_serve_config;

/* Runs until told to stop. Returns an exit status; what is wrong with the configuration is said on stderr. Servers
 * that are away are waited for, at the start and later. */
int mull_serve(const mull_serve_config *config);

#endif
