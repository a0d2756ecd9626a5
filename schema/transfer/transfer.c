/* See transfer.h. */
#include "schema/transfer/transfer.h"

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A server that starts again or fails over is away for seconds: what can be repeated is, for about a minute. */
enum { PIECE = 4 << 20, ANSWER_MAX = 256 << 20, TRIES = 12, PAUSE_MS = 500, PAUSE_MAX_MS = 8000 };
/* A connection on which nothing moves for QUIET_S is given up. The server may be silent for SUMS_S while it reads a
 * whole tree or file for its sums. RESUMES: how often in a row a part may end elsewhere than thought. */
enum { QUIET_S = 120, SUMS_S = 3600, RESUMES = 5 };
static const char WHAT[] = "cannot transfer files";

struct mull_transfer {
    mull_transfer_opts o;
    CURL *curl;
    struct curl_slist *headers;
    char base[1200];
    char *text; /* the latest answer */
    size_t len, cap;
    bool elsewhere;   /* the latest refusal: the part does not end where the piece was to go */
    bool sums;        /* the server is asked for what takes it long */
    curl_off_t moved; /* bytes of this request so far, both ways */
};

static void alive(mull_transfer *t) {
    if (t->o.alive) t->o.alive(t->o.arg);
}

/* Called by curl about once a second, and when bytes move. */
static int on_progress(void *arg, curl_off_t down_all, curl_off_t down, curl_off_t up_all, curl_off_t up) {
    mull_transfer *t = arg;
    (void)down_all;
    (void)up_all;
    if (t->sums || down + up > t->moved) alive(t);
    t->moved = down + up;
    return 0;
}

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg) {
    mull_transfer *t = arg;
    (void)one;
    if (t->len + n >= ANSWER_MAX) return 0;
    if (t->len + n + 1 > t->cap) {
        size_t cap = (t->len + n) * 2 + PIECE;
        char *grown = realloc(t->text, cap);
        if (!grown) return 0;
        t->text = grown;
        t->cap = cap;
    }
    memcpy(t->text + t->len, bytes, n);
    t->len += n;
    t->text[t->len] = 0;
    return n;
}

mull_transfer *mull_transfer_open(const mull_transfer_opts *o, mull_err *err) {
    mull_transfer *t = calloc(1, sizeof *t);
    char header[400];
    if (!t || curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(t->curl = curl_easy_init())) {
        free(t);
        mull_fail(err, MULL_ERR_NOMEM, WHAT, o->server, NULL, "out of memory");
        return NULL;
    }
    t->o = *o;
    size_t n = strlen(o->server);
    while (n && o->server[n - 1] == '/') n--;
    if (!strncmp(o->server, "unix:", 5)) {
        curl_easy_setopt(t->curl, CURLOPT_UNIX_SOCKET_PATH, o->server + 5);
        snprintf(t->base, sizeof t->base, "http://localhost");
    } else if (!strncmp(o->server, "tcp:", 4)) {
        snprintf(t->base, sizeof t->base, "http://%.*s", (int)n - 4, o->server + 4);
    } else {
        snprintf(t->base, sizeof t->base, "%.*s", (int)n, o->server);
    }
    t->headers = curl_slist_append(NULL, "Content-Type: application/octet-stream");
    t->headers = curl_slist_append(t->headers, "Expect:");
    if (o->bearer) {
        snprintf(header, sizeof header, "Authorization: Bearer %s", o->bearer);
        t->headers = curl_slist_append(t->headers, header);
    }
    curl_easy_setopt(t->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(t->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(t->curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(t->curl, CURLOPT_TCP_KEEPALIVE, 1L); /* a large tree is summed before anything comes */
    curl_easy_setopt(t->curl, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(t->curl, CURLOPT_XFERINFODATA, t);
    curl_easy_setopt(t->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(t->curl, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(t->curl, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(t->curl, CURLOPT_WRITEDATA, t);
    if (o->ca_file) curl_easy_setopt(t->curl, CURLOPT_CAINFO, o->ca_file);
    if (o->ca) {
        struct curl_blob blob = {(void *)(uintptr_t)o->ca, strlen(o->ca), CURL_BLOB_COPY};
        curl_easy_setopt(t->curl, CURLOPT_CAINFO_BLOB, &blob);
    }
    return t;
}

void mull_transfer_close(mull_transfer *t) {
    if (!t) return;
    curl_slist_free_all(t->headers);
    curl_easy_cleanup(t->curl);
    free(t->text);
    free(t);
}

static void put_option(char *url, size_t cap, size_t *n, const char *name, const char *value) {
    *n += (size_t)snprintf(url + *n, cap - *n, "%c%s=%s", strchr(url, '?') ? '&' : '?', name, value);
}

typedef struct request {
    const char *method, *what; /* what: below /files, "" or "/bytes" */
    const char *path, *sum;
    int64_t offset, limit; /* -1: not given */
    const char *body;
    size_t body_len;
} request;

static int refused(mull_transfer *t, const request *q, long status, mull_err *err) {
    json_t *j = t->len ? json_loads(t->text, 0, NULL) : NULL;
    const char *why = json_string_value(json_object_get(json_object_get(j, "error"), "message"));
    const char *code = json_string_value(json_object_get(json_object_get(j, "error"), "code"));
    t->elsewhere = code && !strcmp(code, "bad_offset");
    int rc = mull_fail(err,
                       code && !strcmp(code, "bad_sum") ? MULL_ERR_FORMAT
                       : status == 404                  ? MULL_ERR_MISSING
                       : status == 403                  ? MULL_ERR_ARG
                       : status == 507                  ? MULL_ERR_NOSPACE
                                                        : MULL_ERR_UNAVAILABLE,
                       WHAT, q->path ? q->path : t->o.server, NULL, "%s (HTTP %ld)",
                       why ? why : "the server does not say why", status);
    json_decref(j);
    return rc;
}

/* One request, again while the server is away. The answer is in t->text. */
static int ask(mull_transfer *t, const request *q, mull_err *err) {
    char url[16 << 10], number[32];
    t->elsewhere = false;
    size_t n = (size_t)snprintf(url, sizeof url, "%s/v1/jobs/%s/files%s", t->base, t->o.job, q->what);
    char *path = q->path ? curl_easy_escape(t->curl, q->path, 0) : NULL;
    if (path) put_option(url, sizeof url, &n, "path", path);
    curl_free(path);
    if (t->o.fence) {
        snprintf(number, sizeof number, "%lld", (long long)t->o.fence);
        put_option(url, sizeof url, &n, "fence", number);
    }
    if (q->offset >= 0) {
        snprintf(number, sizeof number, "%lld", (long long)q->offset);
        put_option(url, sizeof url, &n, "offset", number);
    }
    if (q->limit >= 0) {
        snprintf(number, sizeof number, "%lld", (long long)q->limit);
        put_option(url, sizeof url, &n, "limit", number);
    }
    if (q->sum) put_option(url, sizeof url, &n, "sha256", q->sum);
    if (n >= sizeof url) return mull_fail(err, MULL_ERR_LIMIT, WHAT, q->path, NULL, "the path is too long");
    curl_easy_setopt(t->curl, CURLOPT_URL, url);
    if (q->body || !strcmp(q->method, "POST")) {
        curl_easy_setopt(t->curl, CURLOPT_POSTFIELDS, q->body ? q->body : "");
        curl_easy_setopt(t->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_len);
        curl_easy_setopt(t->curl, CURLOPT_CUSTOMREQUEST, q->method);
    } else {
        curl_easy_setopt(t->curl, CURLOPT_HTTPGET, 1L);
        curl_easy_setopt(t->curl, CURLOPT_CUSTOMREQUEST, strcmp(q->method, "GET") ? q->method : NULL);
    }
    t->sums = !strcmp(q->what, "/commit") || (!*q->what && !strcmp(q->method, "GET"));
    curl_easy_setopt(t->curl, CURLOPT_LOW_SPEED_TIME,
                     t->sums ? (long)SUMS_S : (long)(t->o.quiet_s ? t->o.quiet_s : QUIET_S));
    int pause = PAUSE_MS;
    for (int tries = 1;; tries++) {
        long status = 0;
        t->len = 0;
        t->moved = 0;
        CURLcode code = curl_easy_perform(t->curl);
        curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &status);
        bool away = code != CURLE_OK ? code != CURLE_PEER_FAILED_VERIFICATION : status == 503 || status == 429;
        if (code == CURLE_OK && status >= 200 && status < 300) return 0;
        if (!away && code == CURLE_OK) return refused(t, q, status, err);
        if (!away || tries == TRIES)
            return mull_fail(err, MULL_ERR_UNAVAILABLE, WHAT, t->o.server, "check that it runs and can be reached",
                             "%s", code != CURLE_OK ? curl_easy_strerror(code) : "it says that it is not ready");
        nanosleep(&(struct timespec){pause / 1000, (long)(pause % 1000) * 1000000}, NULL);
        pause = pause * 2 < PAUSE_MAX_MS ? pause * 2 : PAUSE_MAX_MS;
    }
}

static int64_t have_of(const mull_transfer *t) {
    json_t *j = json_loads(t->text ? t->text : "", 0, NULL);
    int64_t n = json_integer_value(json_object_get(j, "have"));
    json_decref(j);
    return n;
}

/* t: told of as being alive while it reads; may be NULL. */
static int sum_file(mull_transfer *t, const char *path, char sum[65], mull_err *err) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    char *buf = malloc(PIECE);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
    ssize_t k = -1;
    if (buf && c && fd >= 0 && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1)
        while ((k = read(fd, buf, PIECE)) > 0) {
            EVP_DigestUpdate(c, buf, (size_t)k);
            if (t) alive(t);
        }
    if (k != 0 || EVP_DigestFinal_ex(c, md, &n) != 1) rc = mull_fail_errno(err, errno, WHAT, path, "check the file");
    for (unsigned i = 0; !rc && i < 32; i++) snprintf(sum + 2 * i, 3, "%02x", md[i]);
    if (fd >= 0) close(fd);
    EVP_MD_CTX_free(c);
    free(buf);
    return rc;
}

int mull_transfer_sum(const char *path, char sum[65], mull_err *err) {
    return sum_file(NULL, path, sum, err);
}

/* ---- down ---- */

static int make_parents(const char *path, mull_err *err) {
    char part[4600];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return mull_fail(err, MULL_ERR_LIMIT, WHAT, path, NULL, "the path is too long");
    for (char *p = part + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return mull_fail_errno(err, errno, WHAT, part, "check the folder above it");
    }
    return 0;
}

static bool same_file(mull_transfer *t, const char *local, int64_t bytes, const char *sum) {
    struct stat st;
    char own[65];
    return lstat(local, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == bytes && sum_file(t, local, own, NULL) == 0 &&
           !strcmp(own, sum);
}

/* The rest of a file into LOCAL.mull-part, which takes the name when its sum is right. */
static int pull_file(mull_transfer *t, const char *path, const char *local, int64_t bytes, const char *sum,
                     mull_err *err) {
    char part[9100], own[65];
    struct stat st;
    snprintf(part, sizeof part, "%s.mull-part", local);
    int rc = make_parents(local, err);
    if (rc) return rc;
    int fd = open(part, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = mull_fail_errno(err, errno, WHAT, part, "check the folder");
        if (fd >= 0) close(fd);
        return rc;
    }
    int64_t at = st.st_size <= bytes ? st.st_size : 0;
    if (st.st_size > bytes && ftruncate(fd, 0) != 0) rc = mull_fail_errno(err, errno, WHAT, part, NULL);
    while (!rc && at < bytes) {
        request q = {.method = "GET", .what = "/bytes", .path = path, .offset = at, .limit = PIECE};
        rc = ask(t, &q, err);
        if (!rc && t->len == 0)
            rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, path, "try again", "it was changed while it was read");
        if (!rc && pwrite(fd, t->text, t->len, at) != (ssize_t)t->len)
            rc = mull_fail_errno(err, errno ? errno : ENOSPC, WHAT, part, "free some space");
        at += (int64_t)t->len;
    }
    if (!rc && fsync(fd) != 0) rc = mull_fail_errno(err, errno, WHAT, part, NULL);
    close(fd);
    if (rc) return rc;
    rc = sum_file(t, part, own, err);
    if (!rc && strcmp(own, sum) != 0) {
        unlink(part);
        rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, path, "try again", "what arrived has another SHA-256");
    }
    if (!rc && rename(part, local) != 0) rc = mull_fail_errno(err, errno, WHAT, local, "move away what is there");
    if (!rc && t->o.moved) t->o.moved(t->o.arg, path, bytes);
    return rc;
}

/* What names are right: relative, and never up. The server is trusted with the content, not with our disk. */
static bool name_ok(const char *name) {
    if (*name == '/') return false;
    for (const char *p = name; *p;) {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 2 && p[0] == '.' && p[1] == '.')) return false;
        p += n + (p[n] == '/');
    }
    return true;
}

/* How much of a path that nftw names is the folder that it walks: it leaves slashes at the end out. */
static size_t root_length(const char *local) {
    size_t n = strlen(local);
    while (n > 0 && local[n - 1] == '/') n--;
    return n;
}

/* The walk of nftw has no argument of its own. */
static __thread struct {
    const json_t *names;
    size_t root;
} kept;

static int drop_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)st;
    const char *name = strlen(path) > kept.root ? path + kept.root + 1 : "";
    if (f->level == 0) return 0;
    if (type == FTW_DP)
        rmdir(path); /* where it is empty */
    else if (!json_object_get(kept.names, name))
        unlink(path);
    return 0;
}

int mull_transfer_pull(mull_transfer *t, const char *path, const char *local, bool exact, mull_transfer_counts *n,
                       mull_err *err) {
    request q = {.method = "GET", .what = "", .path = path, .offset = -1, .limit = -1};
    int rc = ask(t, &q, err);
    if (rc) return rc;
    json_t *tree = json_loads(t->text ? t->text : "", 0, NULL), *f, *names = json_object();
    const char *root = json_string_value(json_object_get(tree, "path"));
    bool folder = json_is_true(json_object_get(tree, "folder"));
    size_t i;
    if (!root || !json_is_array(json_object_get(tree, "files")))
        rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, t->o.server, NULL, "the server's answer makes no sense");
    if (!rc && folder) {
        char below[4600];
        snprintf(below, sizeof below, "%s/x", local);
        rc = make_parents(below, err);
    }
    json_array_foreach(json_object_get(tree, "files"), i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        const char *sum = json_string_value(json_object_get(f, "sha256"));
        int64_t bytes = json_integer_value(json_object_get(f, "bytes"));
        char from[9000], to[9000];
        if (rc) break;
        if (!name || !sum || !name_ok(name) || (*name != 0) != folder) {
            rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, t->o.server, NULL, "the server names a file that cannot be");
            break;
        }
        snprintf(from, sizeof from, "%s%s%s", root, folder ? "/" : "", name);
        snprintf(to, sizeof to, "%s%s%s", local, folder ? "/" : "", name);
        json_object_set_new(names, name, json_true());
        if (same_file(t, to, bytes, sum)) {
            n->kept++;
            continue;
        }
        rc = pull_file(t, from, to, bytes, sum, err);
        /* What was there of it may have been of another content, and is gone now. */
        if (rc == MULL_ERR_FORMAT) rc = pull_file(t, from, to, bytes, sum, err);
        n->files += !rc;
        n->bytes += rc ? 0 : bytes;
    }
    if (!rc && exact && folder) {
        kept.names = names;
        kept.root = root_length(local);
        nftw(local, drop_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    json_decref(names);
    json_decref(tree);
    return rc;
}

/* ---- up ---- */

static int push_file(mull_transfer *t, const char *local, const char *path, int64_t bytes, const char *sum,
                     mull_err *err) {
    request part = {.method = "GET", .what = "/part", .path = path, .offset = -1, .limit = -1};
    int fd = open(local, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    char *buf = malloc(PIECE);
    if (fd < 0 || !buf) {
        int rc = mull_fail_errno(err, fd < 0 ? errno : ENOMEM, WHAT, local, NULL);
        if (fd >= 0) close(fd);
        free(buf);
        return rc;
    }
    int rc = ask(t, &part, err), resumes = 0;
    int64_t at = rc ? 0 : have_of(t);
    if (at > bytes) at = 0;
    bool begun = at > 0;
    while (!rc && (at < bytes || !begun)) {
        ssize_t k = pread(fd, buf, PIECE, at);
        if (k < 0 || (k == 0 && bytes > 0)) {
            rc = mull_fail(err, MULL_ERR_FORMAT, WHAT, local, "try again", "it was changed while it was sent");
            break;
        }
        request q = {.method = "PUT",
                     .what = "/bytes",
                     .path = path,
                     .offset = at,
                     .limit = -1,
                     .body = buf,
                     .body_len = (size_t)k};
        rc = ask(t, &q, err);
        if (!rc) {
            at += k;
            begun = true;
            resumes = 0;
        } else if (t->elsewhere && resumes++ < RESUMES) {
            /* A piece whose answer was lost is there all the same, or a part of it: on from what is there. */
            rc = ask(t, &part, err);
            at = rc ? 0 : have_of(t);
            if (at > bytes) at = 0;
            begun = at > 0;
        }
    }
    request done = {.method = "POST", .what = "/commit", .path = path, .sum = sum, .offset = -1, .limit = -1};
    if (!rc) rc = ask(t, &done, err);
    close(fd);
    free(buf);
    if (!rc && t->o.moved) t->o.moved(t->o.arg, path, bytes);
    return rc;
}

static __thread struct {
    json_t *list;
    size_t root;
} found;

static int note_one(const char *path, const struct stat *st, int type, struct FTW *f) {
    (void)f;
    if (type != FTW_F || !S_ISREG(st->st_mode)) return 0;
    size_t n = strlen(path);
    if (n > 10 && !strcmp(path + n - 10, ".mull-part")) return 0;
    json_array_append_new(found.list, json_pack("{s:s, s:I}", "name", n > found.root ? path + found.root + 1 : "",
                                                "bytes", (json_int_t)st->st_size));
    return 0;
}

int mull_transfer_push(mull_transfer *t, const char *local, const char *path, mull_transfer_counts *n, mull_err *err) {
    request q = {.method = "GET", .what = "", .path = path, .offset = -1, .limit = -1};
    mull_err none;
    int rc = ask(t, &q, &none);
    if (rc && rc != MULL_ERR_MISSING) {
        *err = none;
        return rc;
    }
    json_t *tree = rc ? NULL : json_loads(t->text ? t->text : "", 0, NULL), *there = json_object(), *f;
    size_t i;
    rc = 0;
    json_array_foreach(json_object_get(tree, "files"), i, f)
        json_object_set(there, json_string_value(json_object_get(f, "name")), json_object_get(f, "sha256"));
    json_t *list = found.list = json_array();
    found.root = root_length(local);
    nftw(local, note_one, 16, FTW_PHYS);
    json_array_foreach(list, i, f) {
        const char *name = json_string_value(json_object_get(f, "name"));
        int64_t bytes = json_integer_value(json_object_get(f, "bytes"));
        char from[9000], to[9000], sum[65];
        if (rc || !name) break;
        snprintf(from, sizeof from, "%s%s%s", local, *name ? "/" : "", name);
        snprintf(to, sizeof to, "%s%s%s", path, *name ? "/" : "", name);
        rc = sum_file(t, from, sum, err);
        const char *have = json_string_value(json_object_get(there, name));
        if (!rc && have && !strcmp(have, sum)) {
            n->kept++;
            continue;
        }
        if (!rc) rc = push_file(t, from, to, bytes, sum, err);
        /* A part of another content was there, and is gone now. */
        if (rc == MULL_ERR_FORMAT) rc = push_file(t, from, to, bytes, sum, err);
        n->files += !rc;
        n->bytes += rc ? 0 : bytes;
    }
    json_decref(list);
    json_decref(there);
    json_decref(tree);
    return rc;
}

int mull_transfer_remove(mull_transfer *t, const char *path, mull_err *err) {
    request q = {.method = "DELETE", .what = "", .path = path, .offset = -1, .limit = -1};
    return ask(t, &q, err);
}
