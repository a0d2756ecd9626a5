/* What the queue does in a second: real PostgreSQL with fsync, real Redis, the real scheduler, all on this machine; the
 * clients and the worker are played by this program. One JSON line a measurement on stdout.
 *   bench_queue [jobs]     default 20000 */
#include "scheduler/policy/policy.h"
#include "tests/scheduler/flow.h"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

enum { CLIENTS = 64, DEVICES = 100, TEAMS = 8, PAGES = 200, MANY = 1000000 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double quantile(double *v, size_t n, double q) {
    qsort(v, n, sizeof *v, by_value);
    return n ? v[(size_t)((double)(n - 1) * q)] : 0;
}

typedef struct client {
    int fd;
    double from;
    char in[2000];
    size_t got;
} client;

/* A second front door for people with tokens, who belong to TEAMS teams. */
typedef struct door {
    int port;
    pid_t pid;
    char token[TEAMS][80];
} door;

static void door_open(door *d, flow *f) {
    char listen[64], body[100];
    d->port = mull_free_port();
    snprintf(listen, sizeof listen, "tcp:127.0.0.1:%d", d->port);
    const char *argv[] = {MULL_BIN_DIR "/mull-scheduler",
                          "serve",
                          "--pg",
                          f->pg,
                          "--redis",
                          f->s.redis_addr,
                          "--listen",
                          listen,
                          "--rate",
                          "0",
                          NULL};
    d->pid = mull_spawn(f->log, argv);
    for (int i = 0; i < TEAMS; i++) {
        int status;
        snprintf(body, sizeof body, "/v1/teams/team-%d", i);
        json_decref(mull_http_json(f->sock, "PUT", body, "{}", &status));
        snprintf(body, sizeof body, "{\"user\":\"bench\",\"team\":\"team-%d\",\"role\":\"member\"}", i);
        json_t *j = mull_http_json(f->sock, "POST", "/v1/tokens", body, &status);
        snprintf(d->token[i], sizeof d->token[i], "%s", json_string_value(json_object_get(j, "token")));
        json_decref(j);
    }
    for (int fd = -1, tries = 0; fd < 0 && tries < 500; tries++, mull_sleep_ms(20))
        if ((fd = mull_dial_tcp(d->port)) >= 0) close(fd);
    /* Each is asked for once by itself: an address may try 20 unknown tokens at once. */
    for (int i = 0; i < TEAMS; i++) {
        int fd = mull_dial_tcp(d->port), n = snprintf(body, sizeof body, "GET /v1/whoami HTTP/1.1\r\nHost: x\r\n");
        char rest[200];
        int m = snprintf(rest, sizeof rest, "Authorization: Bearer %s\r\n\r\n", d->token[i]);
        if (send(fd, body, (size_t)n, MSG_MORE) != n || send(fd, rest, (size_t)m, 0) != m) abort();
        if (recv(fd, rest, sizeof rest, 0) < 12 || strncmp(rest, "HTTP/1.1 200", 12) != 0) {
            fprintf(stderr, "whoami: %.100s\n", rest);
            exit(1);
        }
        close(fd);
    }
}

/* Every client submits, waits for the answer, submits again. Returns submits/s. d NULL: as the owner, by the socket. */
static double submit_many(flow *f, const door *d, size_t jobs, double *latency) {
    static client clients[CLIENTS];
    char body[400], request[CLIENTS][900];
    size_t len = 0; /* tokens are of one length */
    snprintf(body, sizeof body, "{\"kind\":\"generate\",\"model\":\"%s\",\"prompt\":\"hi\"}", f->model);
    for (int i = 0; i < CLIENTS; i++)
        len = (size_t)snprintf(
            request[i], sizeof *request, "POST /v1/jobs HTTP/1.1\r\nHost: x\r\n%s%s%sContent-Length: %zu\r\n\r\n%s",
            d ? "Authorization: Bearer " : "", d ? d->token[i % TEAMS] : "", d ? "\r\n" : "", strlen(body), body);
    struct pollfd p[CLIENTS];
    size_t sent = 0, done = 0;
    double begin = now();
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = (client){.fd = d ? mull_dial_tcp(d->port) : mull_dial(f->sock)};
        p[i] = (struct pollfd){clients[i].fd, POLLIN, 0};
        if (sent++ >= jobs) continue;
        clients[i].from = now();
        if (send(clients[i].fd, request[i], len, 0) != (ssize_t)len) abort();
    }
    while (done < jobs) {
        poll(p, CLIENTS, 1000);
        for (int i = 0; i < CLIENTS; i++) {
            client *c = &clients[i];
            if (!(p[i].revents & POLLIN)) continue;
            ssize_t k = recv(c->fd, c->in + c->got, sizeof c->in - 1 - c->got, 0);
            if (k <= 0) {
                fprintf(stderr, "the connection was closed: %s\n", c->in);
                exit(1);
            }
            c->got += (size_t)k;
            c->in[c->got] = 0;
            if (!strstr(c->in, "\"}")) continue;
            if (strncmp(c->in, "HTTP/1.1 201", 12) != 0) {
                fprintf(stderr, "%s\n", c->in);
                exit(1);
            }
            latency[done++] = now() - c->from;
            c->got = 0;
            if (sent >= jobs) continue;
            sent++;
            c->from = now();
            if (send(c->fd, request[i], len, 0) != (ssize_t)len) abort();
        }
    }
    double took = now() - begin;
    for (int i = 0; i < CLIENTS; i++) close(clients[i].fd);
    return (double)jobs / took;
}

typedef struct nodes {
    redisContext *in, *out;
    int n;
    char key[16][80], last[16][40];
    long long seq[16];
} nodes;

static void say_event(nodes *w, int node, const char *type, const char *members) {
    static char m[1 << 20];
    snprintf(
        m, sizeof m,
        "{\"v\":1,\"type\":\"%s\",\"node\":\"bench-%d\",\"boot\":\"bench-%d\",\"seq\":%lld,\"at\":1790000000000,%s}",
        type, node, node, ++w->seq[node], members);
    const char *argv[] = {"XADD", "mull:events", "*", "m", m};
    redisAppendCommandArgv(w->out, 5, argv, NULL);
}

static void drain(nodes *w, int n) {
    for (void *r; n-- > 0 && redisGetReply(w->out, &r) == REDIS_OK;) freeReplyObject(r);
}

static void join(nodes *w, flow *f, int n) {
    memset(w, 0, sizeof *w);
    w->n = n;
    w->in = redisConnectUnix(f->s.redis_sock);
    w->out = redisConnectUnix(f->s.redis_sock);
    char devices[6000] = "\"devices\":[";
    for (int i = 0; i < DEVICES; i++)
        sprintf(devices + strlen(devices), "%s{\"kind\":\"cpu\",\"index\":%d}", i ? "," : "", i);
    strcat(devices, "]");
    for (int i = 0; i < n; i++) {
        snprintf(w->key[i], sizeof w->key[i], "mull:inbox:bench-%d", i);
        strcpy(w->last[i], "0-0");
        say_event(w, i, "node_hello", devices);
    }
    drain(w, n);
}

/* A node that gives no sign of life for 15 s is down: on a slow machine the measurements take longer. */
static void beat(nodes *w) {
    static double last;
    if (now() - last < 2) return;
    last = now();
    for (int i = 0; i < w->n; i++) {
        char m[300];
        snprintf(m, sizeof m,
                 "{\"v\":1,\"type\":\"node_heartbeat\",\"node\":\"bench-%d\",\"boot\":\"bench-%d\",\"seq\":0,"
                 "\"at\":1790000000000,\"attempts\":[]}",
                 i, i);
        const char *argv[] = {"XADD", "mull:events", "*", "m", m};
        redisAppendCommandArgv(w->out, 5, argv, NULL);
    }
    drain(w, w->n);
}

/* Every start is answered by started and ended at once, until jobs starts have been seen. when (may be NULL) gets the
 * moment of each by its order. Returns the moment of the last. */
static double work(nodes *w, size_t jobs, double *when) {
    size_t seen = 0;
    double t = now();
    const char *argv[64] = {"XREAD", "COUNT", "500", "BLOCK", "1000", "STREAMS"};
    for (int n = 0; n < w->n; n++) {
        argv[6 + n] = w->key[n];
        argv[6 + w->n + n] = w->last[n];
    }
    while (seen < jobs) {
        beat(w);
        redisReply *r = redisCommandArgv(w->in, 6 + 2 * w->n, argv, NULL);
        int sent = 0;
        t = now();
        for (size_t k = 0; r && r->type == REDIS_REPLY_ARRAY && k < r->elements; k++) {
            int node = atoi(strrchr(r->element[k]->element[0]->str, '-') + 1);
            redisReply *entries = r->element[k]->element[1];
            for (size_t i = 0; i < entries->elements; i++) {
                snprintf(w->last[node], sizeof w->last[node], "%s", entries->element[i]->element[0]->str);
                json_t *m = json_loads(entries->element[i]->element[1]->element[1]->str, 0, NULL);
                if (strcmp(text_of(m, "type"), "start") == 0) {
                    char ids[200], end[400];
                    snprintf(ids, sizeof ids, "\"job\":\"%s\",\"attempt\":%d,\"fence\":%lld,\"pid\":1",
                             text_of(m, "job"), (int)json_integer_value(json_object_get(m, "attempt")),
                             (long long)json_integer_value(json_object_get(m, "fence")));
                    snprintf(end, sizeof end, "%s,\"exit_code\":0,\"exit_signal\":null,\"class\":\"ok\"", ids);
                    say_event(w, node, "attempt_started", ids);
                    say_event(w, node, "attempt_ended", end);
                    sent += 2;
                    if (when) when[seen] = t;
                    seen++;
                }
                json_decref(m);
            }
        }
        freeReplyObject(r);
        drain(w, sent);
    }
    return t;
}

/* One pass over pending jobs and nodes of which half are busy; the median of several. */
static void pass(size_t pending, size_t n) {
    enum { ROUNDS = 11, MOST = 512 };
    mull_policy_job *jobs = calloc(pending, sizeof *jobs);
    mull_policy_node *all = calloc(n, sizeof *all);
    uint8_t *reasons = calloc(pending, 1);
    static mull_policy_start starts[MOST];
    static mull_policy_place places[MOST];
    mull_policy *policy = mull_policy_create();
    double took[ROUNDS];
    size_t decided = 0;
    for (int r = 0; r < ROUNDS; r++) {
        for (size_t i = 0; i < pending; i++)
            jobs[i] = (mull_policy_job){.id = (int64_t)i + 1,
                                        .priority = (int32_t)(i * 7919 % 201) - 100,
                                        .gpus = (int32_t)(i % 9),
                                        .tasks = 1,
                                        .avoid_node = -1};
        for (size_t i = 0; i < n; i++)
            all[i] = (mull_policy_node){
                .free_cpu = 8, .total_cpu = 16, .free_cuda = (int32_t)(i % 9), .total_cuda = 8, .up = true};
        mull_policy_user one = {0};
        mull_policy_in in = {.users = &one,
                             .user_count = 1,
                             .jobs = jobs,
                             .job_count = pending,
                             .nodes = all,
                             .node_count = n,
                             .now_ms = 1,
                             .one_node = true};
        mull_policy_out out = {
            .starts = starts, .max_starts = MOST, .places = places, .max_places = MOST, .reasons = reasons};
        double t = now();
        if (mull_policy_run(policy, &in, &out) != 0) abort();
        took[r] = (now() - t) * 1e3;
        decided = out.start_count;
    }
    printf("{\"bench\":\"pass\",\"pending\":%zu,\"nodes\":%zu,\"started\":%zu,\"ms\":%.3g,\"target_ms\":50}\n", pending,
           n, decided, quantile(took, ROUNDS, 0.5));
    free(jobs), free(all), free(reasons), mull_policy_destroy(policy);
}

static double cpu_of(pid_t pid) {
    char path[64];
    unsigned long user = 0, sys = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *in = fopen(path, "r");
    if (in && fscanf(in, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2)
        user = sys = 0;
    if (in) fclose(in);
    return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

/* Metric points of one attempt, as an engine sends them: lines of 64 steps with 8 keys. From the first line put into
 * Redis until the last is acknowledged, which is after its COMMIT. */
static void points(nodes *w, flow *f) {
    enum { LINES = 2000, STEPS = 64, KEYS = 8 };
    long long id = flow_submit(f, "");
    int node = -1;
    char ids[200];
    const char *argv[64] = {"XREAD", "COUNT", "500", "BLOCK", "1000", "STREAMS"};
    for (int n = 0; n < w->n; n++) {
        argv[6 + n] = w->key[n];
        argv[6 + w->n + n] = w->last[n];
    }
    double from = 0;
    for (bool done = false; !done;) {
        beat(w);
        redisReply *r = redisCommandArgv(w->in, 6 + 2 * w->n, argv, NULL);
        for (size_t k = 0; r && r->type == REDIS_REPLY_ARRAY && k < r->elements; k++) {
            int at = atoi(strrchr(r->element[k]->element[0]->str, '-') + 1);
            redisReply *entries = r->element[k]->element[1];
            for (size_t i = 0; i < entries->elements; i++) {
                snprintf(w->last[at], sizeof w->last[at], "%s", entries->element[i]->element[0]->str);
                json_t *m = json_loads(entries->element[i]->element[1]->element[1]->str, 0, NULL);
                if (node < 0 && !strcmp(text_of(m, "type"), "start") && atoll(text_of(m, "job")) == id) {
                    node = at;
                    snprintf(ids, sizeof ids, "\"job\":\"%lld\",\"attempt\":%d,\"fence\":%lld", id,
                             (int)json_integer_value(json_object_get(m, "attempt")),
                             (long long)json_integer_value(json_object_get(m, "fence")));
                }
                done |= node == at && from > 0 && !strcmp(text_of(m, "type"), "ack") &&
                        json_integer_value(json_object_get(m, "seq")) >= w->seq[node];
                json_decref(m);
            }
        }
        freeReplyObject(r);
        if (node < 0 || from > 0) continue;
        char *line = malloc(STEPS * KEYS * 12 + 2000);
        from = now();
        for (int l = 0; l < LINES; l++) {
            int at = sprintf(line, "%s,\"rank\":0,\"line\":{\"ev\":\"metrics\",\"keys\":[", ids);
            for (int k = 0; k < KEYS; k++) at += sprintf(line + at, "%s\"key_%d\"", k ? "," : "", k);
            at += sprintf(line + at, "],\"steps\":[");
            for (int s = 0; s < STEPS; s++) at += sprintf(line + at, "%s%d", s ? "," : "", l * STEPS + s + 1);
            at += sprintf(line + at, "],\"values\":[");
            for (int s = 0; s < STEPS; s++)
                for (int k = 0; k < KEYS; k++)
                    at += sprintf(line + at, "%s%.6g%s",
                                  k   ? ","
                                  : s ? ",["
                                      : "[",
                                  1.0 / (s + k + 1), k == 7 ? "]" : "");
            sprintf(line + at, "]}");
            say_event(w, node, "engine", line);
            if (l % 50 == 49) drain(w, 50);
        }
        free(line);
    }
    double took = now() - from;
    printf("{\"bench\":\"points\",\"points\":%d,\"a_line\":%d,\"per_s\":%.0f,\"target_per_s\":100000}\n",
           LINES * STEPS * KEYS, STEPS * KEYS, LINES * STEPS * KEYS / took);
    char end[400];
    snprintf(end, sizeof end, "%s,\"exit_code\":0,\"exit_signal\":null,\"class\":\"ok\"", ids);
    say_event(w, node, "attempt_ended", end);
    drain(w, 1);
}

/* The time of GET /v1/jobs, 100 jobs a page, with MANY jobs there: for the owner, and for one team of TEAMS. */
static void pages(flow *f, const char *owner, const door *d) {
    static const char *const whats[] = {"owner", "team"};
    char sql[400], head[300], *in = malloc(1 << 20);
    double took[PAGES];
    snprintf(
        sql, sizeof sql,
        "INSERT INTO job (name, kind, team, \"user\", state, submitted_at) SELECT 'j', 'generate', 'team-' || g %% %d, "
        "'bench', 'COMPLETED', now() FROM generate_series(1, %d - (SELECT count(*) FROM job)) g; ANALYZE job",
        TEAMS, MANY);
    free(mull_sql(owner, sql));
    for (int who = 0; who < 2; who++) {
        int n = snprintf(head, sizeof head, "GET /v1/jobs?limit=100 HTTP/1.1\r\nHost: x\r\n%s%s\r\n\r\n",
                         who ? "Authorization: Bearer " : "X-Nothing: x", who ? d->token[0] : "");
        int fd = who ? mull_dial_tcp(d->port) : mull_dial(f->sock);
        for (int i = 0; i < PAGES; i++) {
            double from = now();
            if (send(fd, head, (size_t)n, 0) != n) abort();
            for (size_t got = 0; !got || !strstr(in, "next_cursor");) { /* the last member of the answer */
                ssize_t k = recv(fd, in + got, (1 << 20) - 1 - got, 0);
                if (k <= 0) abort();
                in[got += (size_t)k] = 0;
            }
            took[i] = (now() - from) * 1e3;
            if (strncmp(in, "HTTP/1.1 200", 12) != 0) {
                fprintf(stderr, "%s\n", in);
                exit(1);
            }
            mull_sleep_ms(1);
            while (recv(fd, in, 1 << 20, MSG_DONTWAIT) > 0) continue;
        }
        close(fd);
        printf("{\"bench\":\"ps\",\"who\":\"%s\",\"jobs\":%d,\"p50_ms\":%.3g,\"p99_ms\":%.3g,\"target_ms\":20}\n",
               whats[who], MANY, quantile(took, PAGES, 0.5), quantile(took, PAGES, 0.99));
    }
    free(in);
}

int main(int argc, char **argv) {
    size_t jobs = argc > 1 ? (size_t)atoll(argv[1]) : 20000;
    if (jobs < 1000 || jobs > 10000000) {
        fprintf(stderr, "error: wrong usage (bench_queue): jobs is a number from 1000; see ops/bench.d/queue --help\n");
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    pass(100000, 1000);
    pass(1000000, 1000);
    flow f;
    char owner[sizeof f.pg]; /* makes the tables; the scheduler runs as the role that serves */
    flow_prepare(&f, MULL_DURABLE);
    snprintf(owner, sizeof owner, "%s", f.pg);
    snprintf(f.pg, sizeof f.pg, "host=%s/pg user=mull_scheduler dbname=t%d", f.s.dir, f.s.databases);
    flow_serve(&f);
    double *v = calloc(jobs, sizeof *v), *start = calloc(jobs, sizeof *start);
    double cpu = cpu_of(f.scheduler);
    double rate = submit_many(&f, NULL, jobs, v);
    printf("{\"bench\":\"submit\",\"jobs\":%zu,\"clients\":%d,\"per_s\":%.0f,\"p50_ms\":%.3g,\"p99_ms\":%.3g,"
           "\"scheduler_cpu_s\":%.3g,\"target_per_s\":2000}\n",
           jobs, CLIENTS, rate, quantile(v, jobs, 0.5) * 1e3, quantile(v, jobs, 0.99) * 1e3, cpu_of(f.scheduler) - cpu);
    door d;
    door_open(&d, &f);
    cpu = cpu_of(d.pid);
    rate = submit_many(&f, &d, jobs, v);
    printf("{\"bench\":\"submit_by_teams\",\"jobs\":%zu,\"clients\":%d,\"teams\":%d,\"per_s\":%.0f,\"p50_ms\":%.3g,"
           "\"p99_ms\":"
           "%.3g,\"scheduler_cpu_s\":%.3g,\"target_per_s\":2000}\n",
           jobs, CLIENTS, TEAMS, rate, quantile(v, jobs, 0.5) * 1e3, quantile(v, jobs, 0.99) * 1e3,
           cpu_of(d.pid) - cpu);
    nodes w;
    cpu = cpu_of(f.scheduler);
    double t = now();
    join(&w, &f, 10);
    double end = work(&w, 2 * jobs, NULL);
    printf("{\"bench\":\"dispatch\",\"jobs\":%zu,\"nodes\":10,\"slots\":%d,\"per_s\":%.0f,\"scheduler_cpu_s\":%.3g,"
           "\"target_per_s\":5000}\n",
           2 * jobs, 10 * DEVICES, (double)(2 * jobs) / (end - t), cpu_of(f.scheduler) - cpu);
    mull_sleep_ms(3000); /* the ends are recorded */
    /* With capacity free, one at a time: from the answer of the submit to the start at the worker. */
    enum { ALONE = 500 };
    double late[ALONE], first[1];
    for (int i = 0; i < ALONE; i++) {
        flow_submit(&f, "");
        double from = now();
        work(&w, 1, first);
        late[i] = (first[0] - from) * 1e3;
        if (late[i] < 0) late[i] = 0;
    }
    printf("{\"bench\":\"latency\",\"jobs\":%d,\"p50_ms\":%.3g,\"p99_ms\":%.3g,\"target_p99_ms\":10}\n", ALONE,
           quantile(late, ALONE, 0.5), quantile(late, ALONE, 0.99));
    points(&w, &f);
    pages(&f, owner, &d);
    mull_reap(d.pid, SIGTERM);
    flow_stop(&f);
    free(v), free(start);
    return 0;
}
