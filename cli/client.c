/* See client.h. One curl handle per client: calls reuse the connection. */
#include "cli/client.h"

#include "cli/args.h"
#include "cli/jobs.h"
#include "cli/paths.h"
#include "cli/proc.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLOW_DOWN_S = 30 }; /* how long a call keeps to the server's Retry-After */
enum { CONNECT_MS = 5000, CALL_MS = 30000, QUIET_S = 60, BODY_MAX = 256 << 20 };

struct mull_client {
    CURL *curl;
    char server[3400]; /* for messages: unix:PATH or a URL */
    char base[512];
    bool local; /* the state folder's own socket */
    char state[3072];
    struct curl_slist *headers;
};

static int set_server(mull_client *c, const char *server, mull_err *err) {
    if (!strncmp(server, "unix:", 5)) {
        if (strlen(server + 5) > MULL_SOCKET_PATH_MAX)
            return mull_fail(err, MULL_ERR_LIMIT, "cannot reach the queue", server, "use a shorter path",
                             "a socket path has at most %d bytes", MULL_SOCKET_PATH_MAX);
        curl_easy_setopt(c->curl, CURLOPT_UNIX_SOCKET_PATH, server + 5);
        snprintf(c->base, sizeof c->base, "http://localhost");
    } else if (!strncmp(server, "tcp:", 4)) {
        snprintf(c->base, sizeof c->base, "http://%.480s", server + 4);
    } else if (!strncmp(server, "http://", 7) || !strncmp(server, "https://", 8)) {
        snprintf(c->base, sizeof c->base, "%.500s", server);
        for (size_t n = strlen(c->base); n && c->base[n - 1] == '/';) c->base[--n] = 0;
    } else {
        return mull_fail(err, MULL_ERR_ARG, "cannot reach the queue", "MULL_SERVER", "set MULL_SERVER to one of these",
                         "'%.200s' is not http://HOST:PORT, https://HOST:PORT, tcp:HOST:PORT or unix:PATH", server);
    }
    snprintf(c->server, sizeof c->server, "%s", server);
    return 0;
}

mull_client *mull_client_open(mull_err *err) {
    static const char *const what = "cannot reach the queue";
    mull_client *c = calloc(1, sizeof *c);
    const char *server = getenv("MULL_SERVER"), *token = getenv("MULL_TOKEN");
    char unix_server[3320];
    if (!c || curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(c->curl = curl_easy_init())) {
        mull_fail(err, MULL_ERR_NOMEM, what, NULL, "free some memory", "out of memory");
        mull_client_close(c);
        return NULL;
    }
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_NOPROXY, "*");
    const char *ca = getenv("MULL_CACERT");
    if (ca && *ca) curl_easy_setopt(c->curl, CURLOPT_CAINFO, ca);
    if (!server || !*server) {
        mull_state_dir dir;
        if (mull_paths_find(NULL, &dir, err)) {
            mull_client_close(c);
            return NULL;
        }
        c->local = true;
        snprintf(c->state, sizeof c->state, "%s", dir.root);
        if (strlen(dir.socket) > MULL_SOCKET_PATH_MAX) { /* no link: `up` has never been here */
            mull_fail(err, MULL_ERR_UNAVAILABLE, what, dir.root, "start it with: mull up", "mull is not running there");
            mull_client_close(c);
            return NULL;
        }
        snprintf(unix_server, sizeof unix_server, "unix:%s", dir.socket);
        server = unix_server;
        token = NULL; /* the socket knows its peer; a token meant for elsewhere is not shown to it */
    }
    if (set_server(c, server, err)) {
        mull_client_close(c);
        return NULL;
    }
    c->headers = curl_slist_append(NULL, "Content-Type: application/json");
    c->headers = curl_slist_append(c->headers, "Expect:");
    if (token && *token) {
        char header[4200];
        snprintf(header, sizeof header, "Authorization: Bearer %.4000s", token);
        c->headers = curl_slist_append(c->headers, header);
    }
    return c;
}

void mull_client_close(mull_client *c) {
    if (!c) return;
    curl_slist_free_all(c->headers);
    if (c->curl) curl_easy_cleanup(c->curl);
    free(c);
}

const char *mull_client_server(const mull_client *c) {
    return c->server;
}

static int unreachable(const mull_client *c, CURLcode code, mull_err *err) {
    bool none = code == CURLE_COULDNT_CONNECT;
    if (c->local && none)
        return mull_fail(err, MULL_ERR_UNAVAILABLE, "cannot reach the queue", c->server + 5,
                         "start it with: mull up (MULL_STATE names another state folder)",
                         access(c->server + 5, F_OK) ? "mull is not running in this state folder"
                                                     : "the scheduler's socket does not answer");
    return mull_fail(err, MULL_ERR_UNAVAILABLE, "cannot reach the queue", c->server,
                     code == CURLE_OPERATION_TIMEDOUT ? "try again, or look at it with: mull doctor"
                     : code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE
                         ? "name its certificate authority with MULL_CACERT=PEM"
                         : "check MULL_SERVER, and that the server runs",
                     "%s", curl_easy_strerror(code));
}

typedef struct body {
    char *text;
    size_t len, cap;
} body;

static size_t on_body(char *bytes, size_t one, size_t n, void *arg) {
    body *b = arg;
    (void)one; /* always 1 */
    if (n > BODY_MAX - b->len) return 0;
    if (b->len + n > b->cap) {
        size_t want = (b->len + n) * 2;
        char *grown = realloc(b->text, want);
        if (!grown) return 0;
        b->text = grown;
        b->cap = want;
    }
    memcpy(b->text + b->len, bytes, n);
    b->len += n;
    return n;
}

static void set_request(mull_client *c, const char *method, const char *path, const char *text) {
    char url[2048];
    snprintf(url, sizeof url, "%s%.1500s", c->base, path);
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, c->headers);
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST,
                     strcmp(method, "PUT") == 0 || strcmp(method, "DELETE") == 0 ? method : NULL);
    if (strcmp(method, "GET") != 0) {
        curl_easy_setopt(c->curl, CURLOPT_POST, 1L);
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, text ? text : "");
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)(text ? strlen(text) : 0));
    } else {
        curl_easy_setopt(c->curl, CURLOPT_HTTPGET, 1L);
    }
}

/* A server that is asked too fast (429) has done nothing, so it may be asked again, whatever it was. */
static CURLcode perform(mull_client *c, body *b) {
    for (double until = mull_clock() + SLOW_DOWN_S;;) {
        long status = 0;
        curl_off_t wait = 0;
        b->len = 0;
        CURLcode code = curl_easy_perform(c->curl);
        curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(c->curl, CURLINFO_RETRY_AFTER, &wait);
        if (code != CURLE_OK || status != 429 || mull_clock() + (double)wait > until) return code;
        mull_pause(wait > 1 ? (double)wait : 1);
    }
}

int mull_client_call(mull_client *c, const char *method, const char *path, const json_t *json, mull_reply *out,
                     mull_err *err) {
    *out = (mull_reply){0};
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    if (json && !text) return mull_fail(err, MULL_ERR_NOMEM, "cannot ask the queue", NULL, NULL, "out of memory");
    body b = {0};
    set_request(c, method, path, text);
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, (long)CALL_MS);
    curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_LIMIT, 0L);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &b);
    CURLcode code = perform(c, &b);
    free(text);
    int rc = 0;
    if (code != CURLE_OK) {
        rc = unreachable(c, code, err);
    } else {
        long status = 0;
        curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
        out->status = (int)status;
        out->json = b.len ? json_loadb(b.text, b.len, JSON_DECODE_ANY, NULL) : NULL;
    }
    free(b.text);
    return rc;
}

int mull_client_refused(const mull_reply *r, const json_t *lines, const char *file) {
    const json_t *e = json_object_get(r->json, "error");
    const char *code = json_string_value(json_object_get(e, "code"));
    const char *message = json_string_value(json_object_get(e, "message"));
    const json_t *details = json_object_get(e, "details");
    int exit_status = r->status == 400 || r->status == 413 ? MULL_EXIT_USAGE : MULL_EXIT_FAILED;
    if (code && !strcmp(code, "bad_spec") && json_array_size(details)) {
        size_t i;
        const json_t *d;
        json_array_foreach(details, i, d) {
            const char *path = json_string_value(json_object_get(d, "path"));
            const char *why = json_string_value(json_object_get(d, "message"));
            const char *near = json_string_value(json_object_get(d, "did_you_mean"));
            json_int_t line = json_integer_value(json_object_get(d, "line"));
            if (!line && path) line = json_integer_value(json_object_get(lines, path));
            fprintf(stderr, "error: the job spec is refused (%s", file ? file : "submit");
            if (line) fprintf(stderr, " line %lld", (long long)line);
            if (path && *path) fprintf(stderr, ": %s", path);
            fprintf(stderr, "): %s", why ? why : "wrong");
            if (near && why && !strstr(why, near)) fprintf(stderr, "; did you mean %s?", near);
            fprintf(stderr, "%s\n", near ? "" : "; see mull submit --help");
        }
        return exit_status;
    }
    const char *todo = r->status == 401   ? "set MULL_TOKEN to a valid token"
                       : r->status == 429 ? "ask more slowly; mull-scheduler --rate sets how fast is allowed"
                       : r->status == 503 ? "look at it with: mull doctor"
                       : r->status == 404 ? "mull ps lists jobs"
                                          : NULL;
    char where[64];
    snprintf(where, sizeof where, "HTTP %d%s%.40s", r->status, code ? " " : "", code ? code : "");
    mull_complain("the queue refused", where, todo, "%s", message ? message : "no reason was given");
    return exit_status;
}

int mull_client_get(mull_client *c, const char *method, const char *path, const json_t *json, json_t **out) {
    mull_err err;
    mull_reply r;
    *out = NULL;
    if (mull_client_call(c, method, path, json, &r, &err)) {
        mull_err_print(stderr, &err);
        return MULL_EXIT_FAILED;
    }
    if (r.status >= 200 && r.status < 300 && r.json) {
        *out = r.json;
        return MULL_EXIT_OK;
    }
    int rc = mull_client_refused(&r, NULL, NULL);
    json_decref(r.json);
    return rc;
}

typedef struct follow {
    mull_client *c;
    mull_sse sse;
    body error;
} follow;

static size_t on_stream(char *bytes, size_t one, size_t n, void *arg) {
    follow *f = arg;
    (void)one;
    long status = 0;
    curl_easy_getinfo(f->c->curl, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) return on_body(bytes, 1, n, &f->error);
    mull_sse_feed(&f->sse, bytes, n);
    return f->sse.stopped || f->sse.failed ? 0 : n;
}

int mull_client_follow(mull_client *c, const char *path, mull_sse_cb on_event, void *arg, int *status, json_t **error,
                       mull_err *err) {
    follow f = {.c = c, .sse = {.cb = on_event, .arg = arg}};
    *status = 0;
    *error = NULL;
    set_request(c, "GET", path, NULL);
    curl_easy_setopt(c->curl, CURLOPT_TIMEOUT_MS, 0L);
    /* The server sends a comment every 15 s: a minute without a byte means that it is gone. */
    curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_TIME, (long)QUIET_S);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_stream);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &f);
    CURLcode code = curl_easy_perform(c->curl);
    long http = 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &http);
    *status = (int)http;
    if (f.error.len) *error = json_loadb(f.error.text, f.error.len, 0, NULL);
    bool ended = f.sse.stopped != 0, failed = f.sse.failed;
    free(f.error.text);
    mull_sse_fini(&f.sse);
    if (failed)
        return mull_fail(err, MULL_ERR_FORMAT, "cannot follow", c->server, NULL, "the server's stream is broken");
    if (ended || code == CURLE_OK) return 0;
    return unreachable(c, code, err);
}
