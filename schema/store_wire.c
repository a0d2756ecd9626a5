/* See store_wire.h. */
#include "schema/store_wire.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 64 << 10, KEEPALIVE_S = 15 };

struct mull_wire {
    uv_loop_t *loop;
    const mull_wire_events *events;
    void *arg;
    char host[256];
    int port;
    union {
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } at;
    uv_prepare_t flush; /* before the loop waits: what was sent leaves */
    uv_connect_t connect;
    uv_getaddrinfo_t lookup;
    struct addrinfo *addresses, *next;
    int handles;                    /* not closed yet */
    int requests;                   /* of a look-up or writes under way */
    bool dead, has_stream, retries; /* retries: the stream is being closed to try the next address */
    bool open;
    SSL *ssl;
    BIO *from_net, *to_net;
    char *out; /* not written yet */
    size_t len, cap;
    char in[PIECE];
};

typedef struct writing {
    uv_write_t req;
    mull_wire *w;
    char data[];
} writing;

static void try_address(mull_wire *w);

/* ---- the end ---- */

static void maybe_free(mull_wire *w) {
    if (!w->dead || w->handles > 0 || w->requests > 0) return;
    if (w->addresses) uv_freeaddrinfo(w->addresses);
    SSL_free(w->ssl); /* and its BIOs */
    free(w->out);
    free(w);
}

static void on_closed(uv_handle_t *h) {
    mull_wire *w = h->data;
    w->handles--;
    maybe_free(w);
}

static void close_handle(uv_handle_t *h) {
    if (!uv_is_closing(h)) uv_close(h, on_closed);
}

void mull__wire_close(mull_wire *w) {
    if (w->dead) return;
    w->dead = true;
    close_handle((uv_handle_t *)&w->flush);
    if (w->has_stream) close_handle((uv_handle_t *)&w->at.stream);
    maybe_free(w);
}

static void lose(mull_wire *w, const char *why) {
    if (w->dead) return;
    void (*lost)(const char *, void *) = w->events->lost;
    void *arg = w->arg;
    char text[200];
    snprintf(text, sizeof text, "%s", why); /* why may lie in the wire */
    mull__wire_close(w);
    lost(text, arg);
}

/* ---- writing ---- */

static void on_written(uv_write_t *req, int status) {
    writing *p = (writing *)req;
    mull_wire *w = p->w;
    free(p);
    w->requests--;
    if (status < 0) lose(w, uv_strerror(status));
    maybe_free(w);
}

static void write_raw(mull_wire *w, const char *data, size_t n) {
    if (n == 0 || w->dead) return;
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)data, (unsigned)n);
    int sent = uv_try_write(&w->at.stream, &b, 1);
    if (sent == (int)n) return;
    size_t done = sent > 0 ? (size_t)sent : 0;
    writing *p = malloc(sizeof *p + n - done);
    if (!p) abort(); /* half a command would make the rest nonsense */
    memcpy(p->data, data + done, n - done);
    p->w = w;
    b = uv_buf_init(p->data, (unsigned)(n - done));
    if (uv_write(&p->req, &w->at.stream, &b, 1, on_written) != 0) {
        free(p); /* the read end tells */
        return;
    }
    w->requests++;
}

static void write_tls(mull_wire *w) {
    char *data;
    long n = BIO_get_mem_data(w->to_net, &data);
    if (n <= 0) return;
    write_raw(w, data, (size_t)n);
    (void)BIO_reset(w->to_net);
}

static void on_flush(uv_prepare_t *h) {
    mull_wire *w = h->data;
    size_t n = w->len;
    uv_prepare_stop(h);
    w->len = 0;
    if (!w->ssl) {
        write_raw(w, w->out, n);
    } else {
        if (n > 0 && SSL_write(w->ssl, w->out, (int)n) != (int)n) {
            lose(w, "TLS cannot send");
            return;
        }
        write_tls(w);
    }
    if (w->cap > 4 * PIECE) { /* one large command shall not be paid for ever */
        free(w->out);
        w->out = NULL;
        w->cap = 0;
    }
}

void mull__wire_send(mull_wire *w, const char *data, size_t n) {
    if (w->dead) return;
    if (w->len + n > w->cap) {
        size_t cap = (w->len + n) * 2;
        char *grown = realloc(w->out, cap);
        if (!grown) abort();
        w->out = grown;
        w->cap = cap;
    }
    memcpy(w->out + w->len, data, n);
    w->len += n;
    uv_prepare_start(&w->flush, on_flush);
}

/* ---- TLS ---- */

static const char *tls_why(const mull_wire *w, char *text, size_t cap) {
    long bad = SSL_get_verify_result(w->ssl);
    unsigned long e = ERR_peek_last_error();
    if (bad != X509_V_OK)
        snprintf(text, cap, "its certificate is not accepted: %s", X509_verify_cert_error_string(bad));
    else
        snprintf(text, cap, "TLS: %s", e ? ERR_reason_error_string(e) : "broken off");
    ERR_clear_error();
    return text;
}

static void opened(mull_wire *w) {
    w->open = true;
    w->events->open(w->arg);
}

static void read_tls(mull_wire *w) {
    char text[160], plain[16 << 10];
    ERR_clear_error();
    if (!w->open) {
        int rc = SSL_do_handshake(w->ssl);
        write_tls(w);
        if (rc == 1)
            opened(w);
        else if (SSL_get_error(w->ssl, rc) != SSL_ERROR_WANT_READ)
            lose(w, tls_why(w, text, sizeof text));
    }
    while (w->open && !w->dead) {
        int n = SSL_read(w->ssl, plain, sizeof plain);
        if (n > 0) {
            w->events->bytes(plain, (size_t)n, w->arg);
            continue;
        }
        int why = SSL_get_error(w->ssl, n);
        write_tls(w); /* answers to key updates */
        if (why == SSL_ERROR_ZERO_RETURN)
            lose(w, "closed by the server");
        else if (why != SSL_ERROR_WANT_READ)
            lose(w, tls_why(w, text, sizeof text));
        return;
    }
}

static int start_tls(mull_wire *w, SSL_CTX *tls) {
    unsigned char address[16];
    w->ssl = SSL_new(tls);
    w->from_net = BIO_new(BIO_s_mem());
    w->to_net = BIO_new(BIO_s_mem());
    if (!w->ssl || !w->from_net || !w->to_net) {
        BIO_free(w->from_net);
        BIO_free(w->to_net);
        return -1;
    }
    SSL_set_bio(w->ssl, w->from_net, w->to_net);
    SSL_set_connect_state(w->ssl);
    if (inet_pton(AF_INET, w->host, address) == 1 || inet_pton(AF_INET6, w->host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(w->ssl), w->host) == 1 ? 0 : -1;
    return SSL_set1_host(w->ssl, w->host) == 1 && SSL_set_tlsext_host_name(w->ssl, w->host) == 1 ? 0 : -1;
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *h, size_t size, uv_buf_t *buf) {
    (void)size;
    mull_wire *w = h->data;
    *buf = uv_buf_init(w->in, sizeof w->in);
}

static void on_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf) {
    mull_wire *w = s->data;
    if (w->dead || n == 0) return;
    if (n < 0) {
        lose(w, n == UV_EOF ? "closed by the server" : uv_strerror((int)n));
    } else if (!w->ssl) {
        w->events->bytes(buf->base, (size_t)n, w->arg);
    } else if (BIO_write(w->from_net, buf->base, (int)n) != (int)n) {
        lose(w, "out of memory");
    } else {
        read_tls(w);
    }
}

/* ---- connecting ---- */

static void on_stream_retry(uv_handle_t *h) {
    mull_wire *w = h->data;
    w->handles--;
    w->has_stream = w->retries = false;
    if (w->dead)
        maybe_free(w);
    else
        try_address(w);
}

static void on_connect(uv_connect_t *req, int status) {
    mull_wire *w = req->data;
    if (w->dead || w->retries) return;
    if (status < 0 && w->next) {
        w->retries = true;
        uv_close((uv_handle_t *)&w->at.stream, on_stream_retry);
        return;
    }
    if (status < 0 || uv_read_start(&w->at.stream, on_alloc, on_read) != 0) {
        lose(w, status < 0 ? uv_strerror(status) : "it cannot be read");
        return;
    }
    if (w->port) {
        uv_tcp_nodelay(&w->at.tcp, 1);
        uv_tcp_keepalive(&w->at.tcp, 1, KEEPALIVE_S);
    }
    if (w->ssl)
        read_tls(w);
    else
        opened(w);
}

static void use_stream(mull_wire *w) {
    w->at.stream.data = w;
    w->has_stream = true;
    w->handles++;
    w->connect.data = w;
}

static void try_address(mull_wire *w) {
    const struct addrinfo *a = w->next;
    w->next = a->ai_next;
    uv_tcp_init(w->loop, &w->at.tcp);
    use_stream(w);
    int rc = uv_tcp_connect(&w->connect, &w->at.tcp, a->ai_addr, on_connect);
    if (rc != 0) on_connect(&w->connect, rc);
}

static void on_lookup(uv_getaddrinfo_t *req, int status, struct addrinfo *list) {
    mull_wire *w = req->data;
    w->requests--;
    w->addresses = w->next = list;
    if (w->dead) {
        maybe_free(w);
        return;
    }
    if (status == 0 && list)
        try_address(w);
    else
        lose(w, status < 0 ? uv_strerror(status) : "the name is unknown");
}

/* From the loop, so that no callback comes from inside mull__wire_open. */
static void on_begin(uv_prepare_t *h) {
    mull_wire *w = h->data;
    uv_prepare_stop(h);
    if (!w->port) {
        uv_pipe_init(w->loop, &w->at.pipe, 0);
        use_stream(w);
        uv_pipe_connect(&w->connect, &w->at.pipe, w->host, on_connect);
        return;
    }
    char port[8];
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    snprintf(port, sizeof port, "%d", w->port);
    w->lookup.data = w;
    int rc = uv_getaddrinfo(w->loop, &w->lookup, on_lookup, w->host, port, &hints);
    if (rc == 0)
        w->requests++;
    else
        lose(w, uv_strerror(rc));
}

mull_wire *mull__wire_open(uv_loop_t *loop, const char *host, int port, SSL_CTX *tls, const mull_wire_events *events,
                           void *arg) {
    mull_wire *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->loop = loop;
    w->events = events;
    w->arg = arg;
    w->port = port;
    if (snprintf(w->host, sizeof w->host, "%s", host) >= (int)sizeof w->host || (tls && start_tls(w, tls) != 0)) {
        SSL_free(w->ssl);
        free(w);
        return NULL;
    }
    uv_prepare_init(loop, &w->flush);
    w->flush.data = w;
    w->handles = 1;
    uv_prepare_start(&w->flush, on_begin);
    return w;
}
