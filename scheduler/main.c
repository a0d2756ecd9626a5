/* mull-scheduler: `migrate` brings the database's tables up to date, `serve` runs the front door and the queue. */
#include "scheduler/exports.h"
#include "scheduler/retain.h"
#include "scheduler/serve.h"
#include "schema/error.h"
#include "schema/log.h"
#include "schema/migrate.h"

#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char USAGE[] =
    "usage: mull-scheduler migrate --pg CONNINFO\n"
    "       mull-scheduler serve --pg CONNINFO --redis ADDRESS --listen unix:PATH|tcp:HOST:PORT\n"
    "                            [--listen tls:HOST:PORT --tls-cert PEM --tls-key PEM] [--name HOLDER] [--files DIR "
    "[--max-upload MIB]] [--models DIR]\n"
    "                            [--redis-password-file FILE] [--redis-ca PEM] [--node-timeout S]\n"
    "                            [--webhook-allow NETWORK,...]\n"
    "                            [--rate N[:BURST]]\n"
    "                            [--worker-redis ADDRESS [--worker-ca PEM]] [--export [TEAM=]DIR]...\n"
    "       mull-scheduler retain --pg CONNINFO [--logs DAYS] [--metrics DAYS] [--samples DAYS] [--deliveries DAYS] "
    "[--dry-run]\n"
    "\n"
    "migrate  creates or upgrades the tables (forward only, safe to run again) and ends\n"
    "retain   throws away what belongs to jobs that ended so many days ago: lines of logs, points of metrics, samples\n"
    "         of evaluations; and what webhooks have received. Jobs, runs, figures and the audit stay\n"
    "serve    answers HTTP on every --listen address and takes the lead when it is free; SIGTERM stops it\n"
    "         --pg: a connection string of libpq; of several hosts (host=a,b target_session_attrs=read-write) the one\n"
    "         that takes writes is used, also after a failover; a password comes from PGPASSFILE\n"
    "         --redis: unix:PATH, tcp:HOST:PORT, redis://[USER@]HOST:PORT[,HOST:PORT], or rediss://... for TLS; of "
    "several\n"
    "         hosts the primary is used. The password is the first line of --redis-password-file, or "
    "MULL_REDIS_PASSWORD;\n"
    "         --redis-ca (MULL_REDIS_CACERT): certificates to trust instead of the system's\n"
    "         --node-timeout: seconds of silence after which a node is down and its jobs start elsewhere (15); a "
    "worker\n"
    "         that is cut off kills its engines after two thirds of it\n"
    "         --worker-redis: let workers of other hosts join (mull node token); they find Redis at "
    "redis[s]://HOST:PORT,\n"
    "         where * as HOST is the one by which they reached this server, and know it by --worker-ca\n"
    "         --export: a folder (of TEAM) whose files go to and from workers that do not see it (mull-worker "
    "--transfer)\n"
    "         and, below a job's out, to users (mull pull)\n"
    "         --files: where POST /v1/files keeps what it is sent (512 MiB a file, or --max-upload)\n"
    "         --models: folder of checkpoints that batches may name without a path\n"
    "         --webhook-allow: networks besides the public Internet that webhooks may go to (10.0.0.0/8,fd00::/8), or\n"
    "         MULL_WEBHOOK_ALLOW\n"
    "         --rate: requests a second of one token, and of one address where none is needed, over tcp: and tls:; "
    "what\n"
    "         comes beyond it is answered with 429 once BURST (4 N) are used up (500:2000; 0: no limit)\n";

static int usage(const char *why, const char *what) {
    fprintf(stderr, "error: wrong usage (%s): %s; see mull-scheduler --help\n", what, why);
    return EXIT_USAGE;
}

static int migrate(const char *pg) {
    mull_err err;
    if (mull_migrate(pg, &err) == 0) return EXIT_OK;
    mull_err_print(stderr, &err);
    return EXIT_FAILED;
}

/* "N" or "N:BURST". */
static bool rate_of(const char *text, unsigned *rate, unsigned *burst) {
    int used = 0;
    *burst = 0;
    if (text[0] < '0' || text[0] > '9' || sscanf(text, "%6u%n:%7u%n", rate, &used, burst, &used) < 1 || text[used])
        return false;
    if (!*burst) *burst = 4 * *rate;
    return true;
}

int main(int argc, char **argv) {
    static const struct option OPTIONS[] = {{"pg", required_argument, NULL, 'p'},
                                            {"redis", required_argument, NULL, 'r'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"files", required_argument, NULL, 'f'},
                                            {"models", required_argument, NULL, 'm'},
                                            {"tls-cert", required_argument, NULL, 'c'},
                                            {"tls-key", required_argument, NULL, 'k'},
                                            {"max-upload", required_argument, NULL, 'u'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"version", no_argument, NULL, 'V'},
                                            {"redis-password-file", required_argument, NULL, 'P'},
                                            {"export", required_argument, NULL, 'E'},
                                            {"worker-redis", required_argument, NULL, 'x'},
                                            {"worker-ca", required_argument, NULL, 'X'},
                                            {"node-timeout", required_argument, NULL, 'T'},
                                            {"redis-ca", required_argument, NULL, 'C'},
                                            {"webhook-allow", required_argument, NULL, 'w'},
                                            {"rate", required_argument, NULL, 'R'},
                                            {"logs", required_argument, NULL, 'L'},
                                            {"metrics", required_argument, NULL, 'M'},
                                            {"samples", required_argument, NULL, 'S'},
                                            {"deliveries", required_argument, NULL, 'D'},
                                            {"dry-run", no_argument, NULL, 'd'},
                                            {0}};
    static mull_exports exports;
    mull_serve_config c = {.exports = &exports,
                           .max_upload = 512ull << 20,
                           .webhook_allow = getenv("MULL_WEBHOOK_ALLOW"),
                           .rate = 500,
                           .burst = 2000};
    mull_retain_config keep = {0};
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "hV", OPTIONS, NULL)) != -1;) {
        switch (o) {
        case 'p':
            c.pg = optarg;
            break;
        case 'r':
            c.redis = optarg;
            break;
        case 'n':
            c.name = optarg;
            break;
        case 'f':
        case 'm':
            if (optarg[0] != '/') return usage("give an absolute path", optarg);
            *(o == 'f' ? &c.files : &c.models) = optarg;
            break;
        case 'u': {
            char *end;
            c.max_upload = strtoull(optarg, &end, 10);
            if (*end || c.max_upload < 1 || c.max_upload > 1 << 20) return usage("give MiB from 1 to 1048576", optarg);
            c.max_upload <<= 20;
            break;
        }
        case 'L':
            keep.logs = optarg;
            break;
        case 'M':
            keep.metrics = optarg;
            break;
        case 'S':
            keep.samples = optarg;
            break;
        case 'D':
            keep.deliveries = optarg;
            break;
        case 'd':
            keep.dry_run = true;
            break;
        case 'w':
            c.webhook_allow = optarg;
            break;
        case 'P':
            c.redis_password_file = optarg;
            break;
        case 'T': {
            enum { LEAST = 6, MOST = 86400 };
            char *end;
            long s = strtol(optarg, &end, 10);
            if (*end || s < LEAST || s > MOST) return usage("give seconds from 6 to 86400", optarg);
            c.node_timeout_s = (int)s;
            break;
        }
        case 'E': {
            mull_err err;
            if (mull_exports_add(&exports, optarg, &err) != 0) {
                mull_err_print(stderr, &err);
                return EXIT_USAGE;
            }
            break;
        }
        case 'x':
            if (strncmp(optarg, "redis://", 8) != 0 && strncmp(optarg, "rediss://", 9) != 0)
                return usage("give redis://HOST:PORT or rediss://HOST:PORT", optarg);
            if (strchr(optarg, '@')) return usage("each node gets a user of its own; leave USER@ out", optarg);
            c.worker_redis = optarg;
            break;
        case 'X':
            c.worker_ca = optarg;
            break;
        case 'C':
            c.redis_ca = optarg;
            break;
        case 'R':
            if (!rate_of(optarg, &c.rate, &c.burst)) return usage("give N or N:BURST, whole numbers", optarg);
            break;
        case 'c':
            c.tls_cert = optarg;
            break;
        case 'k':
            c.tls_key = optarg;
            break;
        case 'l':
            if (c.listen_count == MULL_MAX_LISTEN) return usage("too many addresses", optarg);
            c.listen[c.listen_count++] = optarg;
            break;
        case 'h':
            fputs(USAGE, stdout);
            return EXIT_OK;
        case 'V':
            puts(MULL_VERSION);
            return EXIT_OK;
        default:
            return usage("unknown option or missing value", argv[optind - 1]);
        }
    }
    if (optind + 1 != argc)
        return usage("give one command: migrate, serve or retain", optind < argc ? argv[optind + 1] : "none");
    signal(SIGPIPE, SIG_IGN);
    mull_log_init("scheduler");
    if (!c.pg) return usage("--pg is missing", argv[optind]);
    if (strcmp(argv[optind], "migrate") == 0) return migrate(c.pg);
    keep.pg = c.pg;
    if (strcmp(argv[optind], "retain") == 0) return mull_retain(&keep);
    if (strcmp(argv[optind], "serve") != 0) return usage("unknown command", argv[optind]);
    if (!c.redis) return usage("--redis is missing", "serve");
    if (c.listen_count == 0) return usage("--listen is missing", "serve");
    for (int i = 0; i < c.listen_count; i++)
        if (strncmp(c.listen[i], "tls:", 4) == 0 && !(c.tls_cert && c.tls_key))
            return usage("give --tls-cert and --tls-key for it", c.listen[i]);
    return mull_serve(&c);
}
