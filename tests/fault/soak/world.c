/* See soak.h. */
#include "tests/fault/soak/soak.h"

#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static void must(bool ok, const char *what) {
    if (ok) return;
    fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Reads its spec, says a line, a metric and its progress a step, publishes its output by a rename and names its fence
 * as the result. Asked to stop it says "requeue me". Every start of a rank leaves a line: fence and rank. */
static void write_engine(const soak *k) {
    char path[128], text[1600];
    snprintf(path, sizeof path, "%s/engine", k->s.dir);
    snprintf(text, sizeof text,
             "#!/bin/sh\n"
             "read -r spec\n"
             "job=${spec##*'\"job\":\"'}; job=${job%%%%'\"'*}\n"
             "n=${spec#*'\"prompt\":\"steps '}; n=${n%%%%'\"'*}\n"
             "f=${MULL_ATTEMPT##*:}; r=${MULL_RANK:-0}\n"
             "echo \"$f $r\" >>%s/starts\n"
             "trap 'exit 75' TERM\n"
             "i=1\n"
             "while test $i -le $n; do\n"
             "  if test $r = 0; then\n"
             "    echo \"line $i\"\n"
             "    printf "
             "'{\"ev\":\"metric\",\"step\":%%d,\"values\":{\"v\":%%d}}\\n{\"ev\":\"progress\",\"done\":%%d,\"total\":%%"
             "d}\\n' "
             "$i $i $i $n >&3\n"
             "  fi\n"
             "  sleep 0.1\n"
             "  i=$((i+1))\n"
             "done\n"
             "if test $r = 0; then\n"
             "  echo $f >%s/.$job.$f && mv %s/.$job.$f %s/$job || exit 1\n"
             "  echo '{\"ev\":\"result\",\"result\":{\"fence\":'$f'}}' >&3\n"
             "fi\n",
             k->out, k->out, k->out, k->out);
    mull_write_file(path, text, strlen(text));
    must(chmod(path, 0755) == 0, path);
}

/* The clock goes to the program that is started, and to nobody else. */
static pid_t spawn(const soak *k, const char *log, const char *const *argv) {
    char clock[128];
    snprintf(clock, sizeof clock, "%s/clock", k->s.dir);
    setenv("LD_PRELOAD", MULL_SOAK_CLOCK_LIB, 1);
    setenv("MULL_SOAK_CLOCK", clock, 1);
    pid_t pid = mull_spawn(log, argv);
    unsetenv("LD_PRELOAD");
    unsetenv("MULL_SOAK_CLOCK");
    return pid;
}

void soak_scheduler(soak *k, int i) {
    char log[128], listen[128], name[16];
    snprintf(log, sizeof log, "%s/scheduler%d.log", k->s.dir, i);
    snprintf(listen, sizeof listen, "unix:%s", k->sock[i]);
    snprintf(name, sizeof name, "s%d", i);
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          k->pg_proxied,
                          "--redis",
                          k->redis_for[0],
                          "--listen",
                          listen,
                          "--name",
                          name,
                          NULL};
    k->scheduler[i] = (soak_process){spawn(k, log, argv), false};
}

void soak_worker(soak *k, int i) {
    char log[128], node[16], state[160], engine[128];
    snprintf(log, sizeof log, "%s/worker%d.log", k->s.dir, i);
    snprintf(node, sizeof node, "n%d", i);
    snprintf(state, sizeof state, "%s/worker%d", k->disk, i);
    snprintf(engine, sizeof engine, "%s/engine", k->s.dir);
    const char *argv[] = {MULL_BIN_DIR "/mull-worker",
                          "--redis",
                          k->redis_for[1],
                          "--state",
                          state,
                          "--node",
                          node,
                          "--engine",
                          engine,
                          "--devices",
                          "cpu:3",
                          "--hang-seconds",
                          "15",
                          NULL};
    k->worker[i] = (soak_process){spawn(k, log, argv), false};
}

static void open_proxies(soak *k) {
    char from[160], to[160];
    snprintf(from, sizeof from, "%s/pgx", k->s.dir);
    must(mkdir(from, 0755) == 0, from);
    snprintf(from, sizeof from, "%s/pgx/.s.PGSQL.5432", k->s.dir);
    snprintf(to, sizeof to, "%s/pg/.s.PGSQL.5432", k->s.dir);
    k->proxy[0] = mull_proxy_start(from, to);
    for (int i = 0; i < 2; i++) {
        snprintf(from, sizeof from, "%s/redis%d.sock", k->s.dir, i);
        k->proxy[1 + i] = mull_proxy_start(from, k->s.redis_sock);
        snprintf(k->redis_for[i], sizeof k->redis_for[i], "unix:%s", from);
    }
    snprintf(k->pg_proxied, sizeof k->pg_proxied, "host=%s/pgx%s", k->s.dir, strchr(k->pg, ' '));
}

void soak_open(soak *k) {
    char path[128];
    mull_servers_start(&k->s, MULL_WITH_REDIS | MULL_WITH_PG | MULL_DURABLE);
    k->redis_up = true;
    mull_servers_database(&k->s, k->pg);
    snprintf(k->out, sizeof k->out, "%s/out", k->s.dir);
    snprintf(k->disk, sizeof k->disk, "%s/disk", k->s.dir);
    must(mkdir(k->out, 0755) == 0 && mkdir(k->disk, 0755) == 0, k->out);
    /* In a name space of its own: it goes with this process, however that ends. */
    k->small_disk = unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
                    mount("mull-soak", k->disk, "tmpfs", 0, "size=4m") == 0;
    if (!k->small_disk)
        fprintf(stderr, "soak: note: no small file system (%s): disks do not fill up\n", strerror(errno));
    snprintf(path, sizeof path, "%s/model", k->s.dir);
    must(mkdir(path, 0755) == 0, path);
    snprintf(path, sizeof path, "%s/model/config.json", k->s.dir);
    mull_write_file(path, "{}", 2);
    snprintf(path, sizeof path, "%s/clock", k->s.dir);
    int64_t zero = 0;
    mull_write_file(path, &zero, sizeof zero);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    k->clock = mmap(NULL, sizeof *k->clock, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(k->clock != MAP_FAILED, path);
    close(fd);
    write_engine(k);
    char log[128];
    snprintf(log, sizeof log, "%s/migrate.log", k->s.dir);
    const char *migrate[] = {MULL_BIN_DIR "/mull-scheduler", "migrate", "--pg", k->pg, NULL};
    must(mull_reap(mull_spawn(log, migrate), 0) == 0, "migrate");
    open_proxies(k);
    for (int i = 0; i < SCHEDULERS; i++) {
        snprintf(k->sock[i], sizeof k->sock[i], "%s/s%d.sock", k->s.dir, i);
        soak_scheduler(k, i);
    }
    for (int i = 0; i < WORKERS; i++) soak_worker(k, i);
}

void soak_close(soak *k) {
    for (int i = 0; i < WORKERS; i++) mull_reap(k->worker[i].pid, SIGKILL);
    for (int i = 0; i < SCHEDULERS; i++) mull_reap(k->scheduler[i].pid, SIGKILL);
    for (int i = 0; i < 3; i++) mull_proxy_stop(&k->proxy[i]);
    mull_sleep_ms(100); /* engines die with their supervisors */
    if (k->small_disk && umount2(k->disk, MNT_DETACH) != 0)
        fprintf(stderr, "soak: %s stays mounted: %s\n", k->disk, strerror(errno));
    mull_servers_stop(&k->s);
}

/* ---- the front door ---- */

int soak_post(const soak *k, int scheduler, const char *target, const char *body, char *out, size_t cap, int limit_ms) {
    char request[2400];
    int n = snprintf(request, sizeof request,
                     "%s %s HTTP/1.1\r\nHost: mull\r\nConnection: close\r\nContent-Type: application/json\r\n"
                     "Content-Length: %zu\r\n\r\n%s",
                     body ? "POST" : "GET", target, body ? strlen(body) : 0, body ? body : "");
    int status = 0;
    mull_raw(k->sock[scheduler], request, (size_t)n, out, cap, limit_ms);
    return sscanf(out, "HTTP/1.%*d %d", &status) == 1 ? status : 0;
}

void soak_submit(soak *k, soak_job *j, int limit_ms) {
    char body[800], out[4096], after[64] = "";
    if (j->id) return;
    if (j->after >= 0) {
        if (!k->jobs[j->after].id) return; /* its turn comes when the other is known */
        snprintf(after, sizeof after, ",\"after\":\"afterany:%lld\"", k->jobs[j->after].id);
    }
    snprintf(
        body, sizeof body,
        "{\"kind\":\"generate\",\"model\":\"%s/model\",\"prompt\":\"steps %d\",\"key\":\"%s\",\"retries\":100%s%s}",
        k->s.dir, j->steps, j->key, j->more, after);
    j->asked = true;
    int status = soak_post(k, (int)soak_any(k, SCHEDULERS), "/v1/jobs", body, out, sizeof out, limit_ms);
    const char *id = strstr(out, "\"id\"");
    const char *digits = id ? id + 4 + strcspn(id + 4, "0123456789") : NULL;
    if ((status == 201 || status == 200) && digits) j->id = atoll(digits);
    if (status >= 400 && status < 500) {
        fprintf(stderr, "soak: a submit was refused: %s\n%s\n", body, out);
        exit(1);
    }
}
