/* See http_out.h. */
#include "scheduler/http_out.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CONNECT_MS = 5000, TOTAL_MS = 15000, READ_MAX = 64 << 10, URL_MAX = 2000 };

struct mull_http_out {
    uv_loop_t *loop;
    const mull_net_guard *guard;
    CURLM *multi;
    uv_timer_t timer;
    struct request *requests;
    int handles; /* of the loop that are not closed */
    bool closing;
};

typedef struct request {
    struct request *next;
    mull_http_out *owner;
    CURL *easy;
    struct curl_slist *headers;
    char *body, error[CURL_ERROR_SIZE];
    size_t seen;
    bool blocked;
    mull_http_out_cb cb;
    void *arg;
} request;

/* A socket of libcurl's that the loop watches. */
typedef struct watched {
    uv_poll_t poll;
    curl_socket_t fd;
    mull_http_out *owner;
} watched;

static void request_free(request *r) {
    if (r->easy) curl_easy_cleanup(r->easy);
    curl_slist_free_all(r->headers);
    free(r->body);
    free(r);
}

static void finish(mull_http_out *h) {
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(h->multi, &left))) {
        if (m->msg != CURLMSG_DONE) continue;
        request *r;
        long status = 0;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&r);
        curl_easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
        curl_multi_remove_handle(h->multi, m->easy_handle);
        request **at = &h->requests;
        while (*at != r) at = &(*at)->next;
        *at = r->next;
        /* An answer that was longer than we read is an answer. */
        bool answered = status > 0 && (code == CURLE_OK || code == CURLE_WRITE_ERROR);
        const char *why = answered ? ""
                          : r->blocked
                              ? "its address is not one of the public Internet, and not allowed by --webhook-allow"
                          : *r->error ? r->error
                                      : curl_easy_strerror(code);
        mull_http_out_cb cb = r->cb;
        void *arg = r->arg;
        char error[300];
        snprintf(error, sizeof error, "%s", why);
        request_free(r);
        cb(answered ? (int)status : 0, error, arg);
    }
}

static void on_timer(uv_timer_t *t) {
    mull_http_out *h = t->data;
    int running;
    curl_multi_socket_action(h->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    finish(h);
}

static int set_timer(CURLM *multi, long ms, void *arg) {
    mull_http_out *h = arg;
    (void)multi;
    if (h->closing) return 0;
    if (ms < 0)
        uv_timer_stop(&h->timer);
    else
        uv_timer_start(&h->timer, on_timer, ms > 0 ? (uint64_t)ms : 1, 0); /* 0: soon, but not from inside libcurl */
    return 0;
}

static void on_socket(uv_poll_t *p, int status, int events) {
    watched *w = p->data;
    mull_http_out *h = w->owner;
    int flags = (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0), running;
    if (status < 0) flags = CURL_CSELECT_ERR;
    curl_multi_socket_action(h->multi, w->fd, flags, &running);
    finish(h);
}

static void on_watched_closed(uv_handle_t *handle) {
    watched *w = handle->data;
    w->owner->handles--;
    free(w);
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg) {
    mull_http_out *h = arg;
    watched *w = socket_arg;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, on_watched_closed);
            curl_multi_assign(h->multi, fd, NULL);
        }
        return 0;
    }
    if (!w) {
        w = calloc(1, sizeof *w);
        if (!w) return -1;
        if (uv_poll_init_socket(h->loop, &w->poll, fd) != 0) {
            free(w);
            return -1;
        }
        *w = (watched){.poll = w->poll, .fd = fd, .owner = h};
        w->poll.data = w;
        h->handles++;
        curl_multi_assign(h->multi, fd, w);
    }
    uv_poll_start(&w->poll, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0),
                  on_socket);
    return 0;
}

/* Where the guard stands: the address is known, the socket is not there yet. */
static curl_socket_t open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a) {
    request *r = arg;
    if (purpose != CURLSOCKTYPE_IPCXN || !mull_net_guard_permits(r->owner->guard, &a->addr)) {
        r->blocked = true;
        return CURL_SOCKET_BAD;
    }
    r->blocked = false; /* another address of the same name was refused, this one is good */
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

static size_t drop(char *bytes, size_t one, size_t n, void *arg) {
    request *r = arg;
    (void)bytes;
    r->seen += one * n;
    return r->seen > READ_MAX ? 0 : one * n;
}

mull_http_out *mull_http_out_create(uv_loop_t *loop, const mull_net_guard *guard) {
    static bool ready;
    if (!ready && curl_global_init(CURL_GLOBAL_DEFAULT) != 0) return NULL;
    ready = true;
    mull_http_out *h = calloc(1, sizeof *h);
    if (!h) return NULL;
    *h = (mull_http_out){.loop = loop, .guard = guard, .multi = curl_multi_init()};
    if (!h->multi) {
        free(h);
        return NULL;
    }
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
    curl_multi_setopt(h->multi, CURLMOPT_SOCKETDATA, h);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(h->multi, CURLMOPT_TIMERDATA, h);
    uv_timer_init(loop, &h->timer);
    h->timer.data = h;
    h->handles = 1;
    return h;
}

static bool fill(request *r, const char *url, const char *const *headers, const char *body, size_t len) {
    CURL *e = r->easy = curl_easy_init();
    r->body = malloc(len + 1);
    if (!e || !r->body) return false;
    memcpy(r->body, body, len);
    for (; *headers; headers++) {
        struct curl_slist *more = curl_slist_append(r->headers, *headers);
        if (!more) return false;
        r->headers = more;
    }
    CURLcode bad = curl_easy_setopt(e, CURLOPT_URL, url);
    bad |= curl_easy_setopt(e, CURLOPT_PRIVATE, r);
    bad |= curl_easy_setopt(e, CURLOPT_HTTPHEADER, r->headers);
    bad |= curl_easy_setopt(e, CURLOPT_POST, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_POSTFIELDS, r->body);
    bad |= curl_easy_setopt(e, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
    bad |= curl_easy_setopt(e, CURLOPT_USERAGENT, "mull/" MULL_VERSION);
    bad |= curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(e, CURLOPT_PROXY, ""); /* a proxy would connect where the guard cannot see */
    bad |= curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(e, CURLOPT_FOLLOWLOCATION, 0L);
    bad |= curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    bad |= curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)TOTAL_MS);
    bad |= curl_easy_setopt(e, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    bad |= curl_easy_setopt(e, CURLOPT_OPENSOCKETDATA, r);
    bad |= curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, drop);
    bad |= curl_easy_setopt(e, CURLOPT_WRITEDATA, r);
    bad |= curl_easy_setopt(e, CURLOPT_ERRORBUFFER, r->error);
    return bad == CURLE_OK;
}

int mull_http_out_post(mull_http_out *h, const char *url, const char *const *headers, const char *body, size_t len,
                       mull_http_out_cb cb, void *arg) {
    request *r = calloc(1, sizeof *r);
    if (!r) return -1;
    *r = (request){.owner = h, .cb = cb, .arg = arg};
    if (!fill(r, url, headers, body, len) || curl_multi_add_handle(h->multi, r->easy) != CURLM_OK) {
        request_free(r);
        return -1;
    }
    r->next = h->requests;
    h->requests = r;
    return 0;
}

static void on_timer_closed(uv_handle_t *handle) {
    ((mull_http_out *)handle->data)->handles--;
}

void mull_http_out_close(mull_http_out *h) {
    if (!h || h->closing) return;
    h->closing = true;
    for (request *r = h->requests, *next; r; r = next) {
        next = r->next;
        curl_multi_remove_handle(h->multi, r->easy);
        request_free(r);
    }
    h->requests = NULL;
    curl_multi_cleanup(h->multi); /* closes kept connections: their sockets are taken off the loop first */
    h->multi = NULL;
    uv_close((uv_handle_t *)&h->timer, on_timer_closed);
}

void mull_http_out_destroy(mull_http_out *h) {
    free(h);
}

const char *mull_http_out_url_problem(const char *url) {
    if (strlen(url) > URL_MAX) return "it is longer than 2000 bytes";
    CURLU *u = curl_url();
    char *scheme = NULL, *host = NULL, *user = NULL, *password = NULL;
    const char *why = NULL;
    if (!u || curl_url_set(u, CURLUPART_URL, url, 0) != CURLUE_OK)
        why = "it is no URL";
    else if (curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
             (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0))
        why = "it begins with https:// or http://";
    else if (curl_url_get(u, CURLUPART_HOST, &host, 0) != CURLUE_OK || !*host)
        why = "it has no host";
    else if (curl_url_get(u, CURLUPART_USER, &user, 0) == CURLUE_OK ||
             curl_url_get(u, CURLUPART_PASSWORD, &password, 0) == CURLUE_OK)
        why = "it must not hold a user or password; what is sent is signed";
    curl_free(scheme);
    curl_free(host);
    curl_free(user);
    curl_free(password);
    curl_url_cleanup(u);
    return why;
}
