/* mull-worker: the node's agent. */
#include "schema/log.h"
#include "worker/cgroup.h"
#include "worker/join.h"
#include "worker/stage.h"
#include "worker/supervise.h"
#include "worker/worker.h"

#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char USAGE[] =
    "usage: mull-worker join URL --state DIR ...    (mull-worker join --help)\n"
    "       mull-worker [--redis ADDRESS] --state DIR [--node NAME] [--devices LIST] [--engine PATH]\n"
    "                   [--root [TEAM=]DIR]... [--engine-user NAME] [--cgroup DIR|off] [--hang-seconds N]\n"
    "                   [--redis-password-file FILE] [--redis-ca PEM] [--address HOST] [--transfer]\n"
    "\n"
    "Once it has joined a queue (mull-worker join) it knows where to go; else:\n"
    "--redis    where the queue's Redis listens: unix:PATH, tcp:HOST:PORT, redis://[USER@]HOST:PORT[,HOST:PORT], or\n"
    "           rediss://... for TLS; of several hosts the primary is used\n"
    "--redis-password-file  its first line is the password (else MULL_REDIS_PASSWORD)\n"
    "--redis-ca  PEM file of the certificates to trust instead of the system's (else MULL_REDIS_CACERT)\n"
    "--state    a folder for this worker alone: its lock, its event spool, the engines' private folders\n"
    "--address  the name or number at which other nodes reach this one, for jobs over several (default: the host's "
    "name)\n"
    "--transfer  this host shares no folder with the queue's: what a job's spec names is fetched from the front door "
    "and\n"
    "           what it writes is brought there (mull-scheduler --export); not with --root and --engine-user\n"
    "--node     the node's name (default: the host's)\n"
    "--devices  what is offered: cpu:N slots that share the CPUs, cuda:all, cuda:0,1, or cpu:N+cuda:... (default "
    "cpu:1)\n"
    "--engine   the mull-engine to start (default: the one beside this program)\n"
    "--root     a folder that jobs (of TEAM) may read and write; with one or more of them jobs reach nothing else but\n"
    "           the system's programs and libraries, and the kernel sees to it (Landlock)\n"
    "--engine-user  whom engines run as, when this worker is root; their private folders are made theirs\n"
    "--cgroup   the group (cgroups version 2) below which each attempt gets one: its memory is its share of the "
    "node's,\n"
    "           by the slots or GPUs it holds of those offered, 4096 processes a rank, processor time by slots. "
    "Without\n"
    "           --cgroup that of this worker if it is alone there and may (systemd: Delegate=yes), else none; off: "
    "none\n"
    "--hang-seconds  an engine that says nothing for so long is killed and its job started again\n"
    "           (default: MULL_HANG_SECONDS, else 600; 0: never)\n"
    "\n"
    "SIGTERM asks the engines to save and stop, reports their end and leaves; a second one kills them. When another\n"
    "worker appears with the same --node this one stops, with status 2.\n";

static int usage(const char *why, const char *what) {
    fprintf(stderr, "error: wrong usage (%s): %s; see mull-worker --help\n", what, why);
    return EXIT_USAGE;
}

/* Letters, digits, '.', '-', '_': the name travels in JSON, tables and metric labels. */
static bool name_ok(const char *s) {
    size_t n = strlen(s);
    return n > 0 && n < 128 && strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") == n;
}

static bool absolute(const char *path, char *out, size_t cap) {
    char cwd[PATH_MAX];
    if (path[0] == '/') return (size_t)snprintf(out, cap, "%s", path) < cap;
    return getcwd(cwd, sizeof cwd) && (size_t)snprintf(out, cap, "%s/%s", cwd, path) < cap;
}

/* What is parsed further, as it was given. */
typedef struct texts {
    const char *devices, *hang, *redis, *redis_password_file, *redis_ca, *cgroup;
} texts;

static int parse(int argc, char **argv, mull_worker_config *c, texts *t, int *done) {
    static const struct option OPTIONS[] = {
        {"redis", required_argument, NULL, 'r'},    {"state", required_argument, NULL, 's'},
        {"node", required_argument, NULL, 'n'},     {"devices", required_argument, NULL, 'd'},
        {"engine", required_argument, NULL, 'e'},   {"hang-seconds", required_argument, NULL, 'g'},
        {"root", required_argument, NULL, 'R'},     {"engine-user", required_argument, NULL, 'U'},
        {"cgroup", required_argument, NULL, 'G'},   {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},        {"redis-password-file", required_argument, NULL, 'P'},
        {"transfer", no_argument, NULL, 't'},       {"address", required_argument, NULL, 'a'},
        {"redis-ca", required_argument, NULL, 'C'}, {0}};
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "hV", OPTIONS, NULL)) != -1;) {
        switch (o) {
        case 'r':
            t->redis = optarg;
            break;
        case 's':
            c->state = optarg;
            break;
        case 'n':
            c->node = optarg;
            break;
        case 't':
            c->transfer = true;
            break;
        case 'a':
            c->address = optarg;
            break;
        case 'd':
            t->devices = optarg;
            break;
        case 'e':
            c->engine = optarg;
            break;
        case 'g':
            t->hang = optarg;
            break;
        case 'G':
            t->cgroup = optarg;
            break;
        case 'P':
            t->redis_password_file = optarg;
            break;
        case 'C':
            t->redis_ca = optarg;
            break;
        case 'U': {
            mull_err err;
            if (mull_engine_user_find(optarg, &c->user, &err) == 0) break;
            mull_err_print(stderr, &err);
            return EXIT_USAGE;
        }
        case 'R': {
            mull_err err;
            if (c->root_count == MULL_MAX_ROOTS) return usage("too many", "--root");
            if (mull_root_parse(optarg, &c->roots[c->root_count], &err) == 0) {
                c->root_count++;
                break;
            }
            mull_err_print(stderr, &err);
            return EXIT_USAGE;
        }
        case 'h':
            fputs(USAGE, stdout);
            *done = 1;
            return EXIT_OK;
        case 'V':
            puts(MULL_VERSION);
            *done = 1;
            return EXIT_OK;
        default:
            return usage("unknown option or missing value", argv[optind - 1]);
        }
    }
    if (optind != argc) return usage("takes no arguments", argv[optind]);
    if (!c->state || !*c->state) return usage("it is missing", "--state");
    return EXIT_OK;
}

/* NULL and "": the default. */
static bool seconds(const char *text, int *out) {
    enum { DEFAULT = 600, MOST = 1000000 };
    *out = DEFAULT;
    if (!text || !*text) return true;
    if (strlen(text) > 7 || strspn(text, "0123456789") != strlen(text)) return false;
    *out = atoi(text);
    return *out <= MOST;
}

/* Where limits can be had they are, and where not it is said; what was named must do. */
static bool find_cgroup(const char *asked, mull_worker_config *c) {
    static char parent[MULL_CGROUP_PATH];
    mull_err err;
    if (asked && !strcmp(asked, "off")) return true;
    if (mull_cgroup_open(asked, parent, &err) == 0) {
        c->cgroup = parent;
        mull_log(MULL_LOG_INFO, "engines have limits of memory and processes: a cgroup each below %s", parent);
        return true;
    }
    if (asked) {
        mull_err_print(stderr, &err);
        return false;
    }
    mull_log(MULL_LOG_INFO, "engines have no limits of memory and processes (%s): %s", err.where, err.why);
    return true;
}

int main(int argc, char **argv) {
    static char self[PATH_MAX], state[PATH_MAX], engine[PATH_MAX], host[256];
    mull_worker_config c = {.self = self};
    texts t = {.devices = "cpu:1", .hang = getenv("MULL_HANG_SECONDS")};
    mull_joined joined = {0};
    mull_err err;
    int done = 0;
    if (argc > 2 && !strcmp(argv[1], "__supervise")) return mull_supervise(argv + 2);
    if (argc > 2 && !strcmp(argv[1], "__stage")) return mull_stage_main(argv + 2);
    if (argc > 1 && !strcmp(argv[1], "join")) return mull_join_main(argc - 1, argv + 1);
    int rc = parse(argc, argv, &c, &t, &done);
    if (rc != EXIT_OK || done) return rc;
    if (c.root_count && !mull_sandbox_possible(&err)) {
        mull_err_print(stderr, &err);
        return EXIT_FAILED;
    }
    if (!seconds(t.hang, &c.hang_s)) return usage("--hang-seconds and MULL_HANG_SECONDS take 0 to 1000000", t.hang);
    if (mull_devices_parse(t.devices, &c.devices, &err) != 0) {
        mull_err_print(stderr, &err);
        return EXIT_USAGE;
    }
    gethostname(host, sizeof host - 1);
    bool named = c.node != NULL;
    if (!named) c.node = host;
    if (!c.address) c.address = host;
    if (!name_ok(c.address) && strspn(c.address, "0123456789abcdefABCDEF:.") != strlen(c.address))
        return usage("a host's name or number is needed", "--address");
    if (!name_ok(c.node)) return usage("a node's name has letters, digits, '.', '-' and '_', at most 127", "--node");
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) snprintf(self, sizeof self, "%s", argv[0]);
    if (!c.engine) {
        const char *slash = strrchr(self, '/');
        snprintf(engine, sizeof engine, "%.*s/mull-engine", slash ? (int)(slash - self) : 1, slash ? self : ".");
    } else if (!absolute(c.engine, engine, sizeof engine)) {
        return usage("the path is too long", "--engine");
    }
    if (!absolute(c.state, state, sizeof state)) return usage("the path is too long", "--state");
    c.engine = engine;
    c.state = state;
    signal(SIGPIPE, SIG_IGN);
    mull_log_init("worker");
    /* "joined" is for service managers whose command line has a --redis in any case. */
    if (t.redis && strcmp(t.redis, "joined") != 0)
        rc = mull_redis_server_open(&joined.redis, t.redis, t.redis_password_file, t.redis_ca, &err);
    else
        rc = mull_joined_read(state, &joined, &err);
    if (rc != 0) {
        mull_err_print(stderr, &err);
        return err.code == MULL_ERR_ARG ? EXIT_USAGE : EXIT_FAILED;
    }
    if (c.transfer && !joined.node)
        return usage("only a worker that has joined (mull-worker join) knows where files come from", "--transfer");
    if (c.transfer && (c.root_count || c.user.uid))
        return usage("it does not go with --root and --engine-user yet", "--transfer");
    if (joined.node && named && strcmp(joined.node, c.node) != 0)
        return usage("it joined under another name; leave --node out, or join again", c.node);
    if (joined.node) c.node = joined.node;
    c.redis = &joined.redis;
    if (!find_cgroup(t.cgroup, &c)) return EXIT_FAILED;
    rc = mull_worker_run(&c);
    mull_joined_fini(&joined);
    return rc;
}
