/* mull up: the whole of mull on this machine. It takes the state folder's lock, hands it to a supervisor in the
 * background (supervise.c) and waits for its word; when a supervisor is there already, it waits until everything
 * answers. Two at the same moment: one starts, the other waits for it. */
#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/local.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_S = 180, HEAL_S = 60 };
static const char what[] = "cannot start";

typedef struct options {
    const char *state, *devices, *listen, *tls_cert, *tls_key, *workers, *exported;
    bool json;
} options;

static const mull_opt opts[] = {
    {"--state", 0, MULL_OPT_TEXT, offsetof(options, state), NULL, "DIR", "where everything is kept (else MULL_STATE)"},
    {"--devices", 0, MULL_OPT_TEXT, offsetof(options, devices), NULL, "LIST",
     "what jobs may use: cpu:N (N jobs at a time) or cuda:all; default cpu:1"},
    {"--listen", 0, MULL_OPT_TEXT, offsetof(options, listen), NULL, "HOST:PORT",
     "also answer there, to those who have a token: the dashboard, other machines"},
    {"--tls-cert", 0, MULL_OPT_TEXT, offsetof(options, tls_cert), NULL, "PEM",
     "with --listen: TLS with this certificate"},
    {"--tls-key", 0, MULL_OPT_TEXT, offsetof(options, tls_key), NULL, "PEM", "with --tls-cert: its key"},
    {"--workers", 0, MULL_OPT_TEXT, offsetof(options, workers), NULL, "HOST:PORT",
     "with --tls-cert: Redis is open there to workers of other hosts that joined (mull node token)"},
    {"--export", 0, MULL_OPT_TEXT, offsetof(options, exported), NULL, "DIR",
     "hand out files below DIR to workers that do not see it, and to mull pull; take in what jobs write there"},
    {"--json", 0, MULL_OPT_FLAG, offsetof(options, json), NULL, NULL, "print the processes as JSON"},
    {0}};

static bool devices_ok(const char *text) {
    if (!strncmp(text, "cuda:", 5)) return text[5] != 0 && strspn(text + 5, "0123456789,al") == strlen(text + 5);
    if (strncmp(text, "cpu:", 4) != 0) return false;
    size_t n = strspn(text + 4, "0123456789");
    return n > 0 && n <= 4 && !text[4 + n] && atoi(text + 4) > 0;
}

static bool listen_ok(const char *text) {
    const char *colon = strrchr(text, ':');
    if (!colon || colon == text || strlen(text) > 120) return false;
    size_t n = strspn(colon + 1, "0123456789");
    return n > 0 && n <= 5 && !colon[1 + n] && atoi(colon + 1) > 0 && atoi(colon + 1) < 65536;
}

/* In the background: no terminal, no open files of ours, output to the supervisor's log. Never returns. */
static _Noreturn void become_supervisor(mull_local *l, int lock, int report) {
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int log = open(mull_local_log(l, "supervisor"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (null >= 0) dup2(null, 0);
    if (log >= 0) {
        dup2(log, 1);
        dup2(log, 2);
    }
    for (int fd = 3; fd < 1024; fd++)
        if (fd != lock && fd != report) close(fd);
    if (chdir("/") != 0) _exit(MULL_EXIT_FAILED);
    _exit(mull_supervise(l, lock, report));
}

/* Starts the supervisor, which inherits the lock, and follows its words. Closes lock. */
static int start(mull_local *l, int lock) {
    int p[2];
    mull_err err;
    if (mull_local_prepare(l, &err)) {
        mull_err_print(stderr, &err);
        close(lock);
        return MULL_EXIT_FAILED;
    }
    fflush(NULL);
    pid_t child = pipe2(p, O_CLOEXEC) == 0 ? fork() : -1;
    if (child < 0) {
        close(lock);
        return mull_complain(what, "fork", "raise the limit of processes or open files (ulimit)", "%s",
                             strerror(errno));
    }
    if (child == 0) {
        setsid();
        pid_t grandchild = fork();
        if (grandchild != 0) _exit(grandchild < 0); /* so that it never gets a terminal again, and init takes it in */
        close(p[0]);
        become_supervisor(l, lock, p[1]);
    }
    close(lock);
    close(p[1]);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
    FILE *words = fdopen(p[0], "r");
    char line[4096];
    int rc = -1;
    while (rc < 0 && words && fgets(line, sizeof line, words)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "ok"))
            rc = MULL_EXIT_OK;
        else
            fprintf(stderr, "%s\n", line);
        if (!strncmp(line, "error:", 6)) rc = MULL_EXIT_FAILED;
    }
    if (words) fclose(words);
    if (rc < 0)
        rc = mull_complain(what, mull_local_log(l, "supervisor"), "see the log, then: mull up again",
                           "the supervisor ended without a word");
    return rc;
}

/* Looks again where everything is: the link to the sockets' folder may be new. */
static int look_again(mull_local *l, mull_err *err) {
    mull_local fresh;
    int rc = mull_local_find(&fresh, l->dir.root, err);
    if (rc) return rc;
    memcpy(fresh.devices, l->devices, sizeof fresh.devices);
    memcpy(fresh.listen, l->listen, sizeof fresh.listen);
    memcpy(fresh.workers, l->workers, sizeof fresh.workers);
    memcpy(fresh.exported, l->exported, sizeof fresh.exported);
    memcpy(fresh.tls_cert, l->tls_cert, sizeof fresh.tls_cert);
    memcpy(fresh.tls_key, l->tls_key, sizeof fresh.tls_key);
    *l = fresh;
    return 0;
}

/* Waits until everything that the supervisor keeps runs and answers. */
static int heal(mull_local *l) {
    mull_proc p;
    mull_err err;
    if (mull_local_running(l, "supervisor", &p)) mull_proc_signal(&p, SIGUSR1); /* try now */
    int missing = 0;
    for (double until = mull_clock() + HEAL_S; mull_clock() < until; mull_pause(0.05)) {
        if (look_again(l, &err)) break;
        for (missing = 0; missing < MULL_SERVICES; missing++)
            if (!mull_local_running(l, mull_service_name(missing), &p) || !mull_service_ready(l, missing)) break;
        if (missing == MULL_SERVICES) return MULL_EXIT_OK;
        if (!mull_local_running(l, "supervisor", &p)) return -1; /* gone meanwhile: begin again */
    }
    const char *name = mull_service_name(missing < MULL_SERVICES ? missing : 0);
    char why[700], log[4096], down[80];
    snprintf(log, sizeof log, "%s", mull_local_log(l, name));
    snprintf(down, sizeof down, "the %s does not come up", name);
    mull_log_last(log, 0, why, sizeof why);
    return mull_complain(down, log, "see mull doctor", "%s", *why ? why : "it does not answer, and its log is empty");
}

static void report(const mull_local *l, bool json) {
    json_t *j = mull_local_json(l);
    if (json) {
        mull_emit(j);
        return;
    }
    const char *name;
    json_t *pid, *pids = json_object_get(j, "pids");
    fprintf(stderr, "mull is up in %s:", l->dir.root);
    json_object_foreach(pids, name, pid) fprintf(stderr, " %s %lld", name, (long long)json_integer_value(pid));
    fprintf(stderr, "\n");
    json_decref(j);
}

/* A running worker keeps the devices that it was started with. */
static void mention_devices(const mull_local *l, const char *asked) {
    json_t *j = mull_local_read(l);
    const char *have = mull_text(j, "devices"), *there = mull_text(j, "listen");
    if (*l->listen && strcmp(there, l->listen) != 0)
        fprintf(stderr, "note: the server goes on %s%s; to change it: mull down, then mull up\n",
                *there ? "with --listen " : "without --listen", there);
    if (asked && *have && strcmp(have, asked) != 0)
        fprintf(stderr, "note: the worker goes on with --devices %s; to change it: mull down, then mull up\n", have);
    json_decref(j);
}

static int run(const mull_cmd *cmd, int argc, char **argv) {
    options o = {0};
    int words, rc = -1;
    mull_local l;
    mull_err err;
    MULL_PARSE(cmd, argc, argv, &o, &words);
    if (words) return mull_usage(cmd->name, "'%s' is one word too many", argv[1]);
    if (o.devices && !devices_ok(o.devices))
        return mull_usage(cmd->name, "--devices '%s' is neither cpu:N nor cuda:all", o.devices);
    if (!o.tls_cert != !o.tls_key || (o.tls_cert && !o.listen))
        return mull_usage(cmd->name, "--listen, --tls-cert and --tls-key go together");
    if (o.workers && !o.tls_cert)
        return mull_usage(cmd->name, "--workers needs --listen, --tls-cert and --tls-key: workers come over TLS");
    if (o.workers && !listen_ok(o.workers)) return mull_usage(cmd->name, "--workers '%s' is not HOST:PORT", o.workers);
    if (o.listen && !listen_ok(o.listen)) return mull_usage(cmd->name, "--listen '%s' is not HOST:PORT", o.listen);
    if (mull_local_find(&l, o.state, &err)) {
        mull_err_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
    snprintf(l.devices, sizeof l.devices, "%s", o.devices ? o.devices : "cpu:1");
    if (o.listen) snprintf(l.listen, sizeof l.listen, "%s:%s", o.tls_cert ? "tls" : "tcp", o.listen);
    if (o.exported && !realpath(o.exported, l.exported))
        return mull_complain(what, o.exported, "give a folder", "%s", strerror(errno));
    if (o.workers) snprintf(l.workers, sizeof l.workers, "%s", o.workers);
    if (o.tls_cert && (!realpath(o.tls_cert, l.tls_cert) || !realpath(o.tls_key, l.tls_key)))
        return mull_complain(what, *l.tls_cert ? o.tls_key : o.tls_cert, "give PEM files", "%s", strerror(errno));
    bool told = false;
    for (double until = mull_clock() + PATIENCE_S; rc < 0 && mull_clock() < until;) {
        int lock = mull_local_lock(&l, &err);
        if (lock >= 0) {
            rc = start(&l, lock);
            continue;
        }
        if (lock == -2) {
            mull_err_print(stderr, &err);
            return MULL_EXIT_FAILED;
        }
        json_t *j = mull_local_read(&l);
        bool ready = !strcmp(mull_text(j, "phase"), "ready");
        if (!ready && !told) fprintf(stderr, "another mull up or down is at work here; waiting for it\n");
        told |= !ready;
        json_decref(j);
        if (ready && (rc = heal(&l)) == MULL_EXIT_OK) mention_devices(&l, o.devices);
        if (rc < 0) mull_pause(0.1);
    }
    if (rc < 0)
        return mull_complain("cannot start", l.dir.root, "try mull down first", "another mull up or down never ended");
    if (rc == MULL_EXIT_OK && look_again(&l, &err) == 0) {
        /* What the last worker said when it left stands until the new one has been heard. */
        for (int i = 0; i < 30 && mull_local_devices(&l) == 0; i++) mull_pause(0.1);
        if (mull_local_devices(&l) == 0)
            fprintf(stderr, "warning: the worker found no devices, so no job can start; mull down, then mull up "
                            "--devices cpu:1\n");
        report(&l, o.json);
    }
    return rc;
}

const mull_cmd mull_cmd_up = {
    "up",
    "[--state DIR] [--devices cpu:N|cuda:all] [--listen HOST:PORT [--tls-cert PEM --tls-key PEM [--workers "
    "HOST:PORT]]] "
    "[--export DIR] [--json]",
    "start everything on this machine: queue, database, one worker",
    "examples:\n"
    "  mull up\n"
    "  mull up --state ./state --devices cpu:2\n"
    "  mull up --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem --workers 0.0.0.0:6390\n"
    "\n"
    "Nothing listens on a network without --listen, and no root is needed. What dies is started again; run\n"
    "again, it starts only what is missing. Data stays in the state folder.\n",
    opts,
    run};
