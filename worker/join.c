/* See join.h.
 *
 * A token is the secret, and behind a dot the sum of the front door's public key: where it is there the server is known
 * by it, so that a new host needs no certificate beforehand; --ca asks for the usual check instead. */
#include "worker/join.h"

#include "schema/secret_file.h"

#include <curl/curl.h>
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, ANSWER_MAX = 1 << 20 };
static const char WHAT[] = "cannot join";

static const char USAGE[] =
    "usage: mull-worker join URL --state DIR [--token-file FILE] [--node NAME] [--ca PEM]\n"
    "\n"
    "Makes this host a node of the queue at URL (https://HOST:PORT), with a token that mull node token has printed "
    "there:\n"
    "the first line of FILE (- is standard input), or MULL_JOIN_TOKEN. What is needed to work (an address and user of\n"
    "Redis, certificates, a secret) is kept in DIR/join.json, mode 600; then: mull-worker --state DIR.\n"
    "--node  the node's name (default: the host's)\n"
    "--ca    know the server by this authority's certificate, and not by the sum in the token\n";

typedef struct options {
    const char *url, *state, *token_file, *node, *ca;
} options;

typedef struct answer {
    char *text;
    size_t len;
} answer;

static int usage(const char *why, const char *what) {
    fprintf(stderr, "error: wrong usage (%s): %s; see mull-worker join --help\n", what, why);
    return EXIT_USAGE;
}

static size_t on_bytes(char *bytes, size_t one, size_t n, void *arg) {
    answer *a = arg;
    (void)one;
    char *grown = a->len + n < ANSWER_MAX ? realloc(a->text, a->len + n + 1) : NULL;
    if (!grown) return 0;
    memcpy(grown + a->len, bytes, n);
    a->text = grown;
    a->len += n;
    a->text[a->len] = 0;
    return n;
}

static int read_token(const char *file, char **token, mull_err *err) {
    const char *env = getenv("MULL_JOIN_TOKEN");
    if (file && !strcmp(file, "-")) {
        size_t cap = 0;
        *token = NULL;
        if (getline(token, &cap, stdin) > 0) (*token)[strcspn(*token, "\r\n")] = 0;
    } else if (file) {
        return mull_secret_read(file, token, err);
    } else {
        *token = env ? strdup(env) : NULL;
    }
    if (*token && **token) return 0;
    return mull_fail(err, MULL_ERR_ARG, WHAT, "--token-file",
                     "make one on the queue's host (mull node token) and give it in a file or MULL_JOIN_TOKEN",
                     "there is no token");
}

/* The server is who the token says, or who a certificate says. */
static int trust(CURL *c, const options *o, const char *token, mull_err *err) {
    const char *dot = strchr(token, '.');
    char pin[80];
    if (o->ca) {
        curl_easy_setopt(c, CURLOPT_CAINFO, o->ca);
        return 0;
    }
    if (!dot) return 0; /* the system's authorities; with a pin it is https:// (join) */
    if (strlen(dot + 1) != 43) return mull_fail(err, MULL_ERR_FORMAT, WHAT, "token", "copy it whole", "it was cut");
    size_t n = (size_t)snprintf(pin, sizeof pin, "sha256//%s=", dot + 1);
    for (size_t i = 8; i < n; i++) pin[i] = (char)(pin[i] == '-' ? '+' : pin[i] == '_' ? '/' : pin[i]);
    curl_easy_setopt(c, CURLOPT_PINNEDPUBLICKEY, pin);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L); /* the key itself is what is known */
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
    return 0;
}

static int refused(const options *o, long status, const answer *a, mull_err *err) {
    json_t *j = a->text ? json_loads(a->text, 0, NULL) : NULL;
    const char *why = json_string_value(json_object_get(json_object_get(j, "error"), "message"));
    int rc = mull_fail(err, MULL_ERR_UNAVAILABLE, WHAT, o->url,
                       status == 403 || status == 401 ? "make a new one with: mull node token" : NULL, "%s",
                       why ? why : "what answers there is no front door of mull");
    json_decref(j);
    return rc;
}

/* The answer as an object. */
static int ask(const options *o, const char *token, json_t **out, mull_err *err) {
    char url[1200], header[400];
    answer a = {0};
    CURL *c = curl_easy_init();
    json_t *body = json_pack("{s:s}", "node", o->node);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    long status = 0;
    int rc = c && text ? trust(c, o, token, err) : mull_fail(err, MULL_ERR_NOMEM, WHAT, o->url, NULL, "out of memory");
    if (rc == 0) {
        size_t n = strlen(o->url);
        while (n && o->url[n - 1] == '/') n--;
        snprintf(url, sizeof url, "%.*s/v1/nodes/join", (int)n, o->url);
        snprintf(header, sizeof header, "Authorization: Bearer %s", token);
        headers = curl_slist_append(headers, header);
        curl_easy_setopt(c, CURLOPT_URL, url);
        curl_easy_setopt(c, CURLOPT_NOPROXY, "*");
        curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 10L);
        curl_easy_setopt(c, CURLOPT_TIMEOUT, 60L);
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, text);
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_bytes);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, &a);
        CURLcode code = curl_easy_perform(c);
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
        if (code == CURLE_SSL_PINNEDPUBKEYNOTMATCH)
            rc = mull_fail(err, MULL_ERR_UNAVAILABLE, WHAT, o->url, "check the address; make a token there again",
                           "another server answers than the one that made the token");
        else if (code != CURLE_OK)
            rc = mull_fail(err, MULL_ERR_UNAVAILABLE, WHAT, o->url, "check the address, and --ca", "%s",
                           curl_easy_strerror(code));
        else if (status != 201 || !(*out = json_loads(a.text ? a.text : "", 0, NULL)))
            rc = refused(o, status, &a, err);
        OPENSSL_cleanse(header, sizeof header);
    }
    if (a.text) OPENSSL_cleanse(a.text, a.len);
    free(a.text);
    free(text);
    json_decref(body);
    curl_slist_free_all(headers);
    curl_easy_cleanup(c);
    return rc;
}

static int join(const options *o, mull_err *err) {
    char path[4200], *token = NULL;
    json_t *j = NULL;
    snprintf(path, sizeof path, "%.4000s/join.json", o->state);
    int rc = read_token(o->token_file, &token, err);
    if (rc == 0 && strchr(token, '.') && strncmp(o->url, "https://", 8) != 0)
        rc = mull_fail(err, MULL_ERR_ARG, WHAT, o->url, "give https://HOST:PORT, as the queue was opened",
                       "the token knows the server by its key, and over http:// it would go out in clear");
    /* Before the token is used up: that what it brings can be kept. */
    if (rc == 0) {
        mkdir(o->state, 0700);
        if (access(o->state, W_OK | X_OK) != 0)
            rc = mull_fail(err, MULL_ERR_IO, WHAT, o->state,
                           "give --state a folder that can be written; the token is unused", "%s", strerror(errno));
    }
    if (rc == 0) rc = ask(o, token, &j, err);
    char *text = NULL;
    if (rc == 0) {
        json_object_set_new(j, "server", json_string(o->url));
        text = json_dumps(j, JSON_INDENT(2));
        rc = text ? mull_secret_write(path, text, strlen(text), err)
                  : mull_fail(err, MULL_ERR_NOMEM, WHAT, path, NULL, "out of memory");
    }
    if (rc == 0)
        fprintf(stderr, "%s has joined as %s; start it with: mull-worker --state %s\n", o->node, o->node, o->state);
    if (text) OPENSSL_cleanse(text, strlen(text));
    if (token) OPENSSL_cleanse(token, strlen(token));
    free(text);
    free(token);
    json_decref(j);
    return rc;
}

int mull_join_main(int argc, char **argv) {
    static const struct option OPTIONS[] = {
        {"state", required_argument, NULL, 's'}, {"token-file", required_argument, NULL, 't'},
        {"node", required_argument, NULL, 'n'},  {"ca", required_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},        {0}};
    options o = {0};
    char host[256] = "";
    mull_err err;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "h", OPTIONS, NULL)) != -1;) {
        switch (c) {
        case 's':
            o.state = optarg;
            break;
        case 't':
            o.token_file = optarg;
            break;
        case 'n':
            o.node = optarg;
            break;
        case 'c':
            o.ca = optarg;
            break;
        case 'h':
            fputs(USAGE, stdout);
            return EXIT_OK;
        default:
            return usage("unknown option or missing value", argv[optind - 1]);
        }
    }
    if (optind + 1 != argc) return usage("give one URL", optind < argc ? argv[optind + 1] : "join");
    o.url = argv[optind];
    if (strncmp(o.url, "https://", 8) != 0 && strncmp(o.url, "http://", 7) != 0)
        return usage("give https://HOST:PORT", o.url);
    if (strlen(o.url) > 1000) return usage("it is too long", "URL");
    if (!o.state || !*o.state) return usage("it is missing", "--state");
    gethostname(host, sizeof host - 1);
    if (!o.node) o.node = host;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    if (join(&o, &err) == 0) return EXIT_OK;
    mull_err_print(stderr, &err);
    return EXIT_FAILED;
}

/* ---- later starts ---- */

static int text_of(const json_t *j, const char *key, bool needed, char **out) {
    const char *text = json_string_value(json_object_get(j, key));
    *out = text ? strdup(text) : NULL;
    return *out || (!needed && !text) ? 0 : -1;
}

int mull_joined_read(const char *state, mull_joined *out, mull_err *err) {
    static const char what[] = "cannot start";
    char path[4200], *text = NULL;
    struct stat st;
    *out = (mull_joined){0};
    snprintf(path, sizeof path, "%.4000s/join.json", state);
    if (stat(path, &st) != 0)
        return mull_fail(err, MULL_ERR_MISSING, what, path, "join with: mull-worker join URL, or give --redis",
                         "this worker has not joined a queue");
    if (st.st_mode & 077)
        return mull_fail(err, MULL_ERR_ARG, what, path, "chmod 600 it",
                         "others may read it, and there are secrets in it");
    int rc = mull_text_read(path, &text, err);
    if (rc != 0) return rc;
    json_t *j = json_loads(text, 0, NULL);
    const char *redis = json_string_value(json_object_get(j, "redis"));
    if (!redis || text_of(j, "node", true, &out->node) || text_of(j, "server", true, &out->server) ||
        text_of(j, "secret", true, &out->secret) || text_of(j, "ca", false, &out->ca))
        rc = mull_fail(err, MULL_ERR_FORMAT, what, path, "join again with: mull-worker join", "it is damaged");
    else
        rc = mull_redis_server_init(&out->redis, redis, json_string_value(json_object_get(j, "redis_password")),
                                    json_string_value(json_object_get(j, "redis_ca")), err);
    OPENSSL_cleanse(text, strlen(text));
    free(text);
    json_decref(j);
    if (rc != 0) mull_joined_fini(out);
    return rc;
}

void mull_joined_fini(mull_joined *j) {
    free(j->node);
    free(j->server);
    free(j->ca);
    if (j->secret) OPENSSL_cleanse(j->secret, strlen(j->secret));
    free(j->secret);
    mull_redis_server_fini(&j->redis);
    *j = (mull_joined){0};
}
