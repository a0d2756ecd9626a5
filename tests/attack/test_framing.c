/* Requests whose end is not certain (smuggling), that never end, or that are too big: refused, and the server lives. */
#include "tests/attack/attack.h"

static attack *a;

#define HEAD "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
/* What a smuggler wants answered as a request of its own. */
#define INNER "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"

static void alive(void) {
    assert_int_equal(attack_ask(a, NULL, "GET", "/healthz", NULL, NULL), 200);
}

/* One refusal at most, the connection closed, and nothing of what was hidden inside answered. */
static void a_second_request_cannot_hide_in_the_first(void **state) {
    (void)state;
    static const char *const texts[] = {
        HEAD "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Content-Length: 0\r\nContent-Length: 36\r\n\r\n" INNER,
        HEAD "Content-Length: 36\r\nContent-Length: 0\r\n\r\n" INNER,
        HEAD "Content-Length: 0\r\nContent-Length: 0\r\n\r\n" INNER,
        HEAD "Content-Length: 0, 36\r\n\r\n" INNER,
        HEAD "Content-Length: +0\r\n\r\n" INNER,
        HEAD "Content-Length: 0x0\r\n\r\n" INNER,
        HEAD "Content-Length: 0 36\r\n\r\n" INNER,
        HEAD "Content-Length:\r\n\r\n" INNER,
        HEAD "Content-Length : 0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: identity\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: \x0b"
             "chunked\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\n" INNER,
        HEAD "X: y\r\n Content-Length: 5\r\nTransfer-Encoding: gzip\r\n\r\n" INNER,
        HEAD "Host: other\r\nContent-Length: 0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\n" INNER,
        HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" INNER,
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        attack_raw(a, texts[i], strlen(texts[i]), 3000);
        /* libmicrohttpd may say its own refusal twice; that is a refusal still. */
        bool refused = !strstr(a->answer, "\"ok\"");
        for (int k = 0, status; (status = attack_status(a, k)); k++)
            refused &= (status >= 400 && status < 500) || status == 501;
        if (!refused) fail_msg("attack %zu was answered: %.600s", i, a->answer);
        alive();
    }
}

/* What is unusual and harmless: chunk extensions and trailers are read over, and what follows is the next request. */
static void extensions_of_chunks_hide_nothing(void **state) {
    (void)state;
    static const char text[] = HEAD "Transfer-Encoding: chunked\r\n\r\n2;a=\"GET / HTTP/1.1\"\r\n{}\r\n0;b\r\nHost: "
                                    "evil\r\n\r\n" INNER;
    attack_raw(a, text, sizeof text - 1, 2000);
    assert_int_equal(attack_status(a, 0), 401); /* no token */
    assert_true(attack_status(a, 1) == 200 || attack_status(a, 1) == 0);
    alive();
}

static void a_control_character_is_no_header(void **state) {
    (void)state;
    static const char *const texts[] = {
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX\x01Y: z\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nno colon at all\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n",
        "GET  /healthz  HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://169.254.169.254/latest/meta-data HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "TRACE /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        attack_raw(a, texts[i], strlen(texts[i]), 2000);
        int status = attack_status(a, 0);
        if (status == 200) fail_msg("attack %zu was answered: %.300s", i, a->answer);
        alive();
    }
    /* A header of the request comes back in none of the answer: no splitting of responses. */
    attack_ask(a, "x%0d%0aSet-Cookie: a=b", "GET", "/v1/jobs?state=a%0d%0aSet-Cookie:%20a=b", NULL, NULL);
    assert_null(strstr(a->answer, "Set-Cookie: a=b\r\n"));
}

static void what_is_too_big_is_refused_early(void **state) {
    (void)state;
    size_t big = 12 << 20;
    char *text = malloc(big + 1);
    memset(text, 'a', big);
    text[big] = 0;
    int status = attack_ask(a, a->blue, "POST", "/v1/jobs", NULL, text);
    assert_true(status == 413 || status == 0);
    text[60 << 10] = 0; /* a target of 60 KiB */
    text[0] = '/';
    status = attack_ask(a, a->blue, "GET", text, NULL, NULL);
    assert_true(status == 414 || status == 431 || status == 413 || status == 0);
    /* Many headers: their size together counts. */
    size_t n = (size_t)sprintf(text, "GET /healthz HTTP/1.1\r\nHost: x\r\n");
    for (int i = 0; i < 20000; i++) n += (size_t)sprintf(text + n, "A%d: b\r\n", i);
    n += (size_t)sprintf(text + n, "\r\n");
    attack_raw(a, text, n, 5000);
    status = attack_status(a, 0);
    assert_true(status == 431 || status == 413 || status == 0);
    /* Brackets without end, and within the limit but deep. */
    memset(text, '[', 4 << 20);
    text[4 << 20] = 0;
    assert_int_equal(attack_ask(a, a->blue, "POST", "/v1/jobs", NULL, text), 400);
    assert_int_equal(attack_ask(a, a->blue, "POST", "/v1/jobs", "application/yaml", text), 400);
    /* YAML whose aliases multiply (a billion laughs). */
    n = (size_t)sprintf(text, "kind: generate\na0: &a0 [x,x,x,x,x,x,x,x,x]\n");
    for (int i = 1; i < 12; i++)
        n += (size_t)sprintf(text + n, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i, i, i - 1, i - 1,
                             i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
    assert_int_equal(attack_ask(a, a->blue, "POST", "/v1/jobs", "application/yaml", text), 400);
    free(text);
    alive();
}

/* A peer that sends its headers a byte at a time loses its connection, and meanwhile nobody else waits. */
static void slow_headers_hold_nobody_up(void **state) {
    (void)state;
    enum { MANY = 100 };
    static const char head[] = "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ";
    int fd[MANY];
    for (int i = 0; i < MANY; i++) {
        fd[i] = mull_dial_tcp(a->port);
        assert_true(fd[i] >= 0);
        send(fd[i], head, sizeof head - 1, MSG_NOSIGNAL);
    }
    int closed = 0;
    for (long long until = mull_now_ms() + 40000; closed < MANY && mull_now_ms() < until;) {
        mull_sleep_ms(500);
        closed = 0;
        for (int i = 0; i < MANY; i++) {
            char byte;
            send(fd[i], "y", 1, MSG_NOSIGNAL);
            closed += recv(fd[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0 || errno == ECONNRESET || errno == EPIPE;
        }
        alive();
    }
    assert_int_equal(closed, MANY);
    for (int i = 0; i < MANY; i++) close(fd[i]);
}

/* One address has a bounded share of the connections, and the owner's socket is not among them. */
static void one_address_cannot_take_all_connections(void **state) {
    (void)state;
    enum { MANY = 400 };
    int fd[MANY], open = 0;
    for (int i = 0; i < MANY; i++) {
        fd[i] = mull_dial_tcp(a->port);
        if (fd[i] >= 0) send(fd[i], "GET", 3, MSG_NOSIGNAL);
    }
    mull_sleep_ms(1500);
    for (int i = 0; i < MANY; i++) {
        char byte;
        ssize_t n = fd[i] >= 0 ? recv(fd[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT) : 0;
        open += n < 0 && errno == EAGAIN;
    }
    assert_in_range(open, 1, 250);
    assert_int_equal(mull_http_do(a->socket, "GET", "/healthz", NULL, NULL, NULL), 200);
    for (int i = 0; i < MANY; i++)
        if (fd[i] >= 0) close(fd[i]);
    mull_sleep_ms(500);
    alive();
}

static int start(void **state) {
    (void)state;
    a = attack_start();
    return 0;
}

static int stop(void **state) {
    (void)state;
    return attack_stop(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_request_cannot_hide_in_the_first),
        cmocka_unit_test(extensions_of_chunks_hide_nothing),
        cmocka_unit_test(a_control_character_is_no_header),
        cmocka_unit_test(what_is_too_big_is_refused_early),
        cmocka_unit_test(slow_headers_hold_nobody_up),
        cmocka_unit_test(one_address_cannot_take_all_connections),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
