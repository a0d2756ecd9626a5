/* What handlers of the front door have in common: the context of a statement, the body, a page, the sum of a secret. */
#include "scheduler/front.h"

#include "schema/jobspec.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mull__refuse_quota(mull_req *req, const char *problem) {
    char *which = ((mull_ask *)mull_req_user(req))->quota;
    int n = 0;
    if (sscanf(problem, "quota %15[a-z]: %n", which, &n) != 1 || !n) {
        which[0] = 0;
        return false;
    }
    mull_reply_error(req, 403, "quota", "%s", problem + n);
    return true;
}

mull_call *mull__call_new(mull_front *f, mull_req *req) {
    mull_call *c = malloc(sizeof *c);
    if (c)
        *c = (mull_call){f, req};
    else
        mull_reply_error(req, 503, "unavailable", "the server is out of memory; try again");
    return c;
}

json_t *mull__body(mull_req *req) {
    size_t len;
    const char *text = mull_req_body(req, &len);
    int status;
    char why[256];
    json_t *body = mull_body_parse(text, len, &status, why, sizeof why);
    if (!body) mull_reply_error(req, status, status == 413 ? "too_large" : "bad_json", "%s", why);
    return body;
}

bool mull__known_keys(mull_req *req, json_t *body, const char *const *keys, size_t n, const char *code) {
    const char *key;
    json_t *v;
    json_object_foreach(body, key, v) {
        size_t k = 0;
        while (k < n && strcmp(key, keys[k]) != 0) k++;
        if (k < n) continue;
        const char *near = mull_nearest(key, keys, n);
        mull_reply_error(req, 400, code, "unknown key %.60s%s%s", key, near ? "; did you mean " : "", near ? near : "");
        return false;
    }
    return true;
}

bool mull__page(mull_req *req, mull_page *page) {
    int64_t cursor, limit;
    if (mull_query_int(mull_req_query(req, "cursor"), 0, INT64_MAX, 0, &cursor) != 0 ||
        mull_query_int(mull_req_query(req, "limit"), 1, MULL_HTTP_MAX_PAGE, 100, &limit) != 0) {
        mull_reply_error(req, 400, "bad_query", "cursor and limit are numbers, limit from 1 to %d", MULL_HTTP_MAX_PAGE);
        return false;
    }
    snprintf(page->cursor, sizeof page->cursor, "%" PRId64, cursor);
    snprintf(page->limit, sizeof page->limit, "%" PRId64, limit);
    return true;
}

void mull__hex(const unsigned char *bytes, size_t n, char *out) {
    for (size_t i = 0; i < n; i++) snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

bool mull__secret_sum(const char *secret, char out[65]) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int n = 0;
    if (EVP_Digest(secret, strlen(secret), digest, &n, EVP_sha256(), NULL) != 1 || n != 32) return false;
    mull__hex(digest, n, out);
    return true;
}
