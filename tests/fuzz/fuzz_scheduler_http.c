/* Raw bytes on a connection to the real HTTP server (libmicrohttpd on the loop, routing, query, headers, body parsing),
 * through a socket pair's bigger brother: a unix listener of this process. The handler answers every request at once
 * with what it understood; one loop turn at a time until the server has nothing left to read. */
#include "scheduler/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static uv_loop_t loop;
static mull_http *http;
static struct sockaddr_un address = {.sun_family = AF_UNIX};
static socklen_t address_len;

static void take_part(mull_req *req, const char *name, const char *filename, const char *data, uint64_t offset,
                      size_t n, void *arg) {
    (void)req, (void)arg;
    uint64_t seen = 0;
    if (offset > 1 << 16 || n > 1 << 16) abort();
    seen += strlen(name) + (filename ? strlen(filename) : 0) + (n ? (unsigned char)data[n - 1] : 0);
    if (seen == UINT64_MAX) abort(); /* so that every byte is read */
}

static void handle(mull_req *req, void *arg) {
    (void)arg;
    const mull_route *r = mull_req_route(req);
    int64_t n;
    size_t len;
    const char *body = mull_req_body(req, &len);
    mull_query_int(mull_req_query(req, "limit"), 1, 1000, 100, &n);
    mull_query_int(mull_req_query(req, "cursor"), 0, INT64_MAX, 0, &n);
    mull_req_header(req, "Authorization");
    if (r->id == MULL_ROUTE_SUBMIT) {
        int status;
        char why[256];
        json_t *json = mull_body_parse(body, len, &status, why, sizeof why);
        if (!json) {
            mull_reply_error(req, status, "bad_json", "%s", why);
            return;
        }
        json_decref(json);
    }
    mull_reply_json(req, r->id >= 0 ? 200 : 404, json_pack("{s:i, s:I}", "route", r->id, "job", (json_int_t)r->job));
}

static void begin(mull_req *req, const char *method, const char *path, void *arg) {
    (void)arg;
    ((mull_ask *)mull_req_user(req))->route = mull_route_match(method, path);
    if (mull_req_route(req)->id == MULL_ROUTE_FILES) mull_req_form(req, 1 << 16, take_part, NULL);
}

static json_t *error_json(int status, const char *code, const char *message) {
    (void)status;
    return mull_error_json(code, message, NULL);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    /* An abstract name leaves no file behind. */
    address_len =
        (socklen_t)(sizeof address.sun_family + 1 +
                    (size_t)snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "mull-fuzz-%d", (int)getpid()));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    const char *why;
    uv_loop_init(&loop);
    http = mull_http_create(&(mull_http_config){.loop = &loop,
                                                .handler = handle,
                                                .max_body = MULL_HTTP_MAX_BODY,
                                                .user_size = sizeof(mull_ask),
                                                .begin = begin,
                                                .error_json = error_json});
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, address_len) != 0 || listen(fd, 16) != 0 ||
        mull_http_listen(http, fd, true, NULL, &why) != 0)
        abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 100000) return 0;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0), room = 1 << 20;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    if (connect(fd, (struct sockaddr *)&address, address_len) != 0) abort();
    send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    char sink[4096];
    for (int i = 0; i < 50; i++) {
        uv_run(&loop, UV_RUN_NOWAIT);
        if (recv(fd, sink, sizeof sink, MSG_DONTWAIT) == 0) break;
    }
    close(fd);
    for (int i = 0; i < 4; i++) uv_run(&loop, UV_RUN_NOWAIT);
    if (mull_http_pending(http) > 0) abort(); /* every request was answered */
    return 0;
}
