/* Puts the parts on one loop and takes them off again in order; see serve.h. */
#include "scheduler/serve.h"

#include "scheduler/deliver.h"
#include "scheduler/front.h"
#include "scheduler/leader.h"
#include "scheduler/listen.h"
#include "scheduler/tls.h"
#include "schema/log.h"
#include "schema/secret_file.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Connections of their own for the leader: a page of a long list must not hold up a dispatch. */
enum { DRAIN_MS = 2000, DRAIN_STEP_MS = 20, FRONT_CONNECTIONS = 4, TEAM_CONNECTIONS = 4, LEAD_CONNECTIONS = 4 };

typedef struct server {
    uv_loop_t loop;
    mull_pg *pg, *teams_pg, *lead_pg;
    mull_redis_server redis_server;
    mull_redis *redis;
    mull_http *http;
    mull_front *front;
    mull_leader *leader;
    mull_net_guard guard;
    mull_deliver *deliver;
    uv_signal_t term, intr;
    uv_timer_t drain;
    uint64_t drain_until;
    bool stopping;
    mull_http_tls tls;
    char *worker_ca; /* PEM text */
    char tls_pin[MULL_TLS_PIN];
    char name[256];
} server;

/* Answers under way get a moment; then everything on the loop is closed and uv_run returns. */
static void on_leader_closed(void *arg) {
    server *s = arg;
    mull_http_close(s->http);
    mull_front_close(s->front);
    mull_deliver_close(s->deliver);
    mull_redis_close(s->redis);
    mull_pg_close(s->pg);
    mull_pg_close(s->teams_pg);
    mull_pg_close(s->lead_pg);
}

static void on_drain(uv_timer_t *t) {
    server *s = t->data;
    if (mull_http_pending(s->http) > 0 && uv_now(&s->loop) < s->drain_until) return;
    uv_close((uv_handle_t *)t, NULL);
    mull_leader_close(s->leader, on_leader_closed, s);
}

static void on_signal(uv_signal_t *h, int signum) {
    server *s = h->data;
    if (s->stopping) return;
    s->stopping = true;
    mull_log(MULL_LOG_INFO, "stops on signal %d", signum);
    mull_http_quiesce(s->http);
    s->drain_until = uv_now(&s->loop) + DRAIN_MS;
    uv_close((uv_handle_t *)&s->term, NULL);
    uv_close((uv_handle_t *)&s->intr, NULL);
    uv_timer_start(&s->drain, on_drain, 0, DRAIN_STEP_MS);
}

static void on_news(int64_t job, void *arg) {
    server *s = arg;
    if (s->front) mull_front_job_news(job, s->front);
}

/* A thousand connections and the servers' own need more descriptors than the usual soft limit. */
static void raise_descriptor_limit(void) {
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < 8192) {
        r.rlim_cur = r.rlim_max == RLIM_INFINITY || r.rlim_max > 8192 ? 8192 : r.rlim_max;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

typedef struct opened {
    int fd;
    bool is_unix, tls;
} opened;

/* Opened before anything else: a second scheduler on the same path must stop before it touches a server. The lock
 * descriptors stay open until the process ends. */
static int open_listeners(const mull_serve_config *c, opened *list) {
    for (int i = 0; i < c->listen_count; i++) {
        int lock_fd;
        char bound[256];
        mull_err err;
        list[i].tls = strncmp(c->listen[i], "tls:", 4) == 0;
        if (mull_listen_open(c->listen[i], &list[i].fd, &lock_fd, &list[i].is_unix, bound, sizeof bound, &err) != 0) {
            mull_err_print(stderr, &err);
            while (i-- > 0) {
                close(list[i].fd);
                mull_listen_remove(c->listen[i]);
            }
            return -1;
        }
        mull_log(MULL_LOG_INFO, "listens on %s", bound);
    }
    return 0;
}

/* Everything is created before the loop runs, so a failure here has nothing under way to wait for. */
static int create_parts(server *s, const mull_serve_config *c, const opened *fds) {
    s->pg = mull_pg_create(&s->loop, c->pg, FRONT_CONNECTIONS);
    s->teams_pg = mull_pg_create_for_teams(&s->loop, c->pg, TEAM_CONNECTIONS);
    s->lead_pg = mull_pg_create(&s->loop, c->pg, LEAD_CONNECTIONS);
    s->redis = mull_redis_create(&s->loop, &s->redis_server, NULL, NULL);
    if (!s->pg || !s->teams_pg || !s->lead_pg || !s->redis) return -1;
    s->leader = mull_leader_create(&(mull_leader_config){.loop = &s->loop,
                                                         .pg = s->lead_pg,
                                                         .redis = s->redis,
                                                         .redis_server = &s->redis_server,
                                                         .node_timeout_s = c->node_timeout_s,
                                                         .holder = s->name,
                                                         .on_job_news = on_news,
                                                         .arg = s});
    s->front = mull_front_create(&(mull_front_config){.loop = &s->loop,
                                                      .pg = s->pg,
                                                      .teams_pg = s->teams_pg,
                                                      .redis = s->redis,
                                                      .leader = s->leader,
                                                      .files = c->files,
                                                      .models = c->models,
                                                      .max_upload = c->max_upload,
                                                      .rate = c->rate,
                                                      .burst = c->burst,
                                                      .worker_redis = c->worker_redis,
                                                      .exports = c->exports,
                                                      .worker_ca = s->worker_ca,
                                                      .tls_ca = s->tls.cert,
                                                      .tls_pin = s->tls.cert ? s->tls_pin : NULL});
    s->http = s->front ? mull_front_http(s->front) : NULL;
    s->deliver = mull_deliver_create(&s->loop, s->pg, &s->guard);
    if (!s->leader || !s->http || !s->deliver) return -1;
    for (int i = 0; i < c->listen_count; i++) {
        const char *why;
        if (mull_http_listen(s->http, fds[i].fd, fds[i].is_unix, fds[i].tls ? &s->tls : NULL, &why) != 0) {
            mull_err err;
            mull_fail(&err, MULL_ERR_INTERNAL, "cannot listen", c->listen[i], NULL, "%s", why);
            mull_err_print(stderr, &err);
            return -1;
        }
    }
    return 0;
}

static void name_holder(server *s, const mull_serve_config *c) {
    char host[128] = "localhost";
    gethostname(host, sizeof host - 1);
    if (c->name)
        snprintf(s->name, sizeof s->name, "%s", c->name);
    else
        snprintf(s->name, sizeof s->name, "%.100s %.150s", host, c->listen[0]);
}

int mull_serve(const mull_serve_config *c) {
    server s = {0};
    opened fds[MULL_MAX_LISTEN];
    raise_descriptor_limit();
    mull_err err;
    if (mull_redis_server_open(&s.redis_server, c->redis, c->redis_password_file, c->redis_ca, &err) != 0) {
        mull_err_print(stderr, &err);
        return 1;
    }
    if (c->tls_cert && c->tls_key && mull_tls_load(c->tls_cert, c->tls_key, &s.tls, &err) != 0) {
        mull_err_print(stderr, &err);
        mull_tls_free(&s.tls);
        return 1;
    }
    if (c->webhook_allow && mull_net_guard_allow(&s.guard, c->webhook_allow, &err) != 0) {
        mull_err_print(stderr, &err);
        return 2;
    }
    if ((s.tls.cert && mull_tls_pin(&s.tls, s.tls_pin, &err) != 0) ||
        (c->worker_ca && mull_text_read(c->worker_ca, &s.worker_ca, &err) != 0)) {
        mull_err_print(stderr, &err);
        return 1;
    }
    if (open_listeners(c, fds) != 0) return 1;
    name_holder(&s, c);
    if (uv_loop_init(&s.loop) != 0 || create_parts(&s, c, fds) != 0) {
        fprintf(stderr,
                "error: cannot start (mull-scheduler): out of memory or descriptors; free some and try again\n");
        return 1;
    }
    uv_signal_init(&s.loop, &s.term);
    uv_signal_init(&s.loop, &s.intr);
    uv_timer_init(&s.loop, &s.drain);
    s.term.data = s.intr.data = s.drain.data = &s;
    uv_signal_start(&s.term, on_signal, SIGTERM);
    uv_signal_start(&s.intr, on_signal, SIGINT);
    uv_run(&s.loop, UV_RUN_DEFAULT);
    /* Late answers first: they still reach the parts that asked. */
    mull_pg_destroy(s.pg);
    mull_pg_destroy(s.teams_pg);
    mull_pg_destroy(s.lead_pg);
    mull_redis_destroy(s.redis);
    mull_redis_server_fini(&s.redis_server);
    mull_leader_destroy(s.leader);
    mull_front_destroy(s.front);
    mull_deliver_destroy(s.deliver);
    mull_http_destroy(s.http);
    mull_tls_free(&s.tls);
    free(s.worker_ca);
    uv_loop_close(&s.loop);
    for (int i = 0; i < c->listen_count; i++) mull_listen_remove(c->listen[i]);
    mull_log(MULL_LOG_INFO, "stopped");
    return 0;
}
