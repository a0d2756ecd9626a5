/* See meet.h. Of both sides: a frame is a byte saying what it is, then texts, each with its length before it. */
#include "engine/comm/meet.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const char WHAT[] = "ranks cannot meet";
static const char TODO[] = "check that the hosts of this job reach each other, at the addresses that workers give "
                           "(mull-worker --address), and their firewalls";
enum { NONCE = 32, GREETING_S = 10, PAUSE_MS = 100, LEAVE_MS = 5000, SPARE = 64, ENTRIES = 4096 };
static const char HELLO[4] = "MLL1";

typedef struct entry {
    struct entry *next;
    char key[MULL_MEET_KEY];
    size_t n;
    char word[];
} entry;

struct mull_meet {
    int rank, world;
    char *secret, *where;
    int fd; /* rank 0: listens; others: to rank 0 */
    /* of rank 0 */
    pthread_t accepting;
    bool serving;
    pthread_mutex_t lock;
    pthread_cond_t news;
    entry *entries;
    int entry_count, guests; /* guests: connections being served */
    int guest_fd[256 + SPARE];
    bool closing;
};

typedef struct guest {
    mull_meet *m;
    int fd, slot;
} guest;

/* ---- bytes ---- */

static bool send_all(int fd, const void *p, size_t n) {
    for (const char *at = p; n;) {
        ssize_t k = send(fd, at, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        at += k;
        n -= (size_t)k;
    }
    return true;
}

static bool recv_all(int fd, void *p, size_t n) {
    for (char *at = p; n;) {
        ssize_t k = recv(fd, at, n, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        at += k;
        n -= (size_t)k;
    }
    return true;
}

static bool send_text(int fd, const void *p, size_t n) {
    uint32_t len = htonl((uint32_t)n);
    return send_all(fd, &len, sizeof len) && send_all(fd, p, n);
}

static bool recv_number(int fd, uint32_t most, uint32_t *n) {
    if (!recv_all(fd, n, sizeof *n)) return false;
    *n = ntohl(*n);
    return *n <= most;
}

static void limit(int fd, int seconds) {
    struct timeval t = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof t);
}

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void mac_of(const char *secret, const char *what, const uint8_t a[NONCE], const uint8_t b[NONCE],
                   uint8_t mac[MULL_MEET_MAC]) {
    uint8_t text[16 + 2 * NONCE] = {0};
    unsigned n = 0;
    snprintf((char *)text, 16, "%s", what);
    memcpy(text + 16, a, NONCE);
    memcpy(text + 16 + NONCE, b, NONCE);
    HMAC(EVP_sha256(), secret, (int)strlen(secret), text, sizeof text, mac, &n);
}

void mull__meet_proof(const char *secret, const char *what, int from, int to, uint8_t mac[MULL_MEET_MAC]) {
    uint8_t a[NONCE] = {0}, b[NONCE] = {0};
    snprintf((char *)a, NONCE, "%d", from);
    snprintf((char *)b, NONCE, "%d", to);
    mac_of(secret, what, a, b, mac);
}

/* ---- the table, in rank 0 ---- */

static entry *find(const mull_meet *m, const char *key) {
    entry *e = m->entries;
    while (e && strcmp(e->key, key) != 0) e = e->next;
    return e;
}

static bool put(mull_meet *m, const char *key, const void *word, size_t n) {
    entry *e = malloc(sizeof *e + n);
    if (!e) return false;
    snprintf(e->key, sizeof e->key, "%s", key);
    e->n = n;
    memcpy(e->word, word, n);
    pthread_mutex_lock(&m->lock);
    bool room = m->entry_count < ENTRIES;
    if (room) { /* in front of what it replaces */
        e->next = m->entries;
        m->entries = e;
        m->entry_count++;
    }
    pthread_cond_broadcast(&m->news);
    pthread_mutex_unlock(&m->lock);
    if (!room) free(e);
    return room;
}

/* A copy of a word, waiting for it; NULL when it did not come. */
static void *get(mull_meet *m, const char *key, int timeout_ms, size_t *n) {
    struct timespec until;
    void *copy = NULL;
    const entry *e;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&m->lock);
    int rc = 0;
    while (!(e = find(m, key)) && !m->closing && rc == 0) rc = pthread_cond_timedwait(&m->news, &m->lock, &until);
    if (e && (copy = malloc(e->n + 1))) {
        memcpy(copy, e->word, e->n);
        *n = e->n;
    }
    pthread_mutex_unlock(&m->lock);
    return copy;
}

/* ---- guests ---- */

static bool let_in(const guest *g) {
    uint8_t mine[NONCE], theirs[NONCE], mac[MULL_MEET_MAC], want[MULL_MEET_MAC];
    limit(g->fd, GREETING_S);
    if (getrandom(mine, sizeof mine, 0) != (ssize_t)sizeof mine || !send_all(g->fd, HELLO, sizeof HELLO) ||
        !send_all(g->fd, mine, sizeof mine) || !recv_all(g->fd, theirs, sizeof theirs) ||
        !recv_all(g->fd, mac, sizeof mac))
        return false;
    mac_of(g->m->secret, "guest", mine, theirs, want);
    if (CRYPTO_memcmp(mac, want, sizeof mac) != 0) return false;
    mac_of(g->m->secret, "host", theirs, mine, want);
    if (!send_all(g->fd, want, sizeof want)) return false;
    limit(g->fd, 0);
    return true;
}

/* One request; false: the guest has gone or makes no sense. */
static bool serve_one(const guest *g, char *word) {
    char op, key[MULL_MEET_KEY], found;
    uint32_t n, timeout;
    if (!recv_all(g->fd, &op, 1) || !recv_number(g->fd, MULL_MEET_KEY - 1, &n) || !recv_all(g->fd, key, n))
        return false;
    key[n] = 0;
    if (op == 'P') {
        if (!recv_number(g->fd, MULL_MEET_WORD, &n) || !recv_all(g->fd, word, n)) return false;
        found = put(g->m, key, word, n);
        return send_all(g->fd, &found, 1);
    }
    if (op != 'G' || !recv_number(g->fd, INT32_MAX, &timeout)) return false;
    size_t len = 0;
    void *copy = get(g->m, key, (int)timeout, &len);
    found = copy != NULL;
    bool ok = send_all(g->fd, &found, 1) && (!copy || send_text(g->fd, copy, len));
    free(copy);
    return ok;
}

static void *serve(void *arg) {
    guest *g = arg;
    mull_meet *m = g->m;
    char *word = malloc(MULL_MEET_WORD);
    if (word && let_in(g))
        while (serve_one(g, word)) continue;
    free(word);
    pthread_mutex_lock(&m->lock);
    m->guest_fd[g->slot] = -1;
    m->guests--;
    pthread_cond_broadcast(&m->news);
    pthread_mutex_unlock(&m->lock);
    close(g->fd);
    free(g);
    return NULL;
}

static bool add_guest(mull_meet *m, int fd) {
    guest *g = malloc(sizeof *g);
    pthread_t thread;
    pthread_attr_t attr;
    bool ok = false;
    if (!g) return false;
    pthread_mutex_lock(&m->lock);
    int slot = 0, most = m->world + SPARE;
    while (slot < most && m->guest_fd[slot] >= 0) slot++;
    if (slot < most && !m->closing) {
        *g = (guest){m, fd, slot};
        pthread_attr_init(&attr);
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        ok = pthread_create(&thread, &attr, serve, g) == 0;
        pthread_attr_destroy(&attr);
    }
    if (ok) {
        m->guest_fd[slot] = fd;
        m->guests++;
    }
    pthread_mutex_unlock(&m->lock);
    if (!ok) free(g);
    return ok;
}

static void *accept_guests(void *arg) {
    mull_meet *m = arg;
    for (;;) {
        int fd = accept4(m->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0 && !add_guest(m, fd)) close(fd);
        if (fd >= 0 || errno == EINTR || errno == ECONNABORTED) continue;
        if (errno != EMFILE && errno != ENFILE && errno != ENOMEM) return NULL; /* shut down */
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
}

/* ---- opening ---- */

static int gone(const mull_meet *m, const char *why, mull_error *err) {
    return mull_fail(err, MULL_EIO, WHAT, m->where, TODO, "%s", why);
}

static int look_up(const mull_meet *m, const char *host, const char *port, int flags, struct addrinfo **list,
                   mull_error *err) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags | AI_NUMERICSERV};
    int rc = getaddrinfo(host, port, &hints, list);
    return rc ? gone(m, gai_strerror(rc), err) : MULL_OK;
}

/* All addresses of this host: the name may mean another one here than it does elsewhere (127.0.1.1 in /etc/hosts). */
static int listen_at(mull_meet *m, const char *port, mull_error *err) {
    struct addrinfo *list, *a;
    int rc = look_up(m, NULL, port, AI_PASSIVE, &list, err), why = EADDRNOTAVAIL;
    if (rc) return rc;
    /* The socket of IPv6 first: it takes IPv4's connections too. */
    for (int round = 0; round < 2 && m->fd < 0; round++)
        for (a = list; a && m->fd < 0; a = a->ai_next) {
            if ((a->ai_family == AF_INET6) == (round > 0)) continue;
            int one = 1, both = 0, fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
            if (fd >= 0 && round == 0) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof both);
            if (fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, 256) == 0) {
                m->fd = fd;
                break;
            }
            why = errno;
            if (fd >= 0) close(fd);
        }
    freeaddrinfo(list);
    if (m->fd < 0) return gone(m, strerror(why), err);
    m->serving = pthread_create(&m->accepting, NULL, accept_guests, m) == 0;
    return m->serving ? MULL_OK : gone(m, "no thread can be started", err);
}

/* A connection to rank 0 that may not be there yet; -1. */
static int dial(const char *host, const char *port, int64_t until, mull_meet *m, mull_error *err) {
    for (;;) {
        struct addrinfo *list = NULL, *a;
        int fd = -1, rc = look_up(m, host, port, 0, &list, err), why = EHOSTUNREACH;
        for (a = list; a; a = a->ai_next) {
            fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            if (fd >= 0) limit(fd, GREETING_S); /* of connect too */
            if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0) break;
            why = errno;
            if (fd >= 0) close(fd);
            fd = -1;
        }
        if (list) freeaddrinfo(list);
        if (fd >= 0) return fd;
        if (now_ms() >= until) {
            if (!rc) gone(m, strerror(why), err);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
}

static int enter(mull_meet *m, mull_error *err) {
    uint8_t mine[NONCE], theirs[NONCE], mac[MULL_MEET_MAC], want[MULL_MEET_MAC];
    char hello[sizeof HELLO];
    if (getrandom(mine, sizeof mine, 0) != (ssize_t)sizeof mine || !recv_all(m->fd, hello, sizeof hello) ||
        memcmp(hello, HELLO, sizeof hello) != 0 || !recv_all(m->fd, theirs, sizeof theirs))
        return gone(m, "what listens there is not rank 0 of a job", err);
    mac_of(m->secret, "guest", theirs, mine, mac);
    mac_of(m->secret, "host", mine, theirs, want);
    if (!send_all(m->fd, mine, sizeof mine) || !send_all(m->fd, mac, sizeof mac) || !recv_all(m->fd, mac, sizeof mac) ||
        CRYPTO_memcmp(mac, want, sizeof mac) != 0)
        return gone(m, "what listens there is rank 0 of another attempt, or does not take this one's secret", err);
    limit(m->fd, 0);
    return MULL_OK;
}

int mull__meet_open(int rank, int world, const char *host, const char *port, const char *secret, int timeout_s,
                    mull_meet **out, mull_error *err) {
    *out = NULL;
    mull_meet *m = calloc(1, sizeof *m);
    if (!m) return mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    m->rank = rank;
    m->world = world;
    m->fd = -1;
    m->secret = strdup(secret);
    for (size_t i = 0; i < sizeof m->guest_fd / sizeof *m->guest_fd; i++) m->guest_fd[i] = -1;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->news, &attr);
    pthread_condattr_destroy(&attr);
    int rc = MULL_OK;
    if (!m->secret || asprintf(&m->where, "%s:%s", host, port) < 0)
        rc = mull_fail(err, MULL_ENOMEM, WHAT, "", NULL, "out of memory");
    else if (rank == 0)
        rc = listen_at(m, port, err);
    else if ((m->fd = dial(host, port, now_ms() + (int64_t)timeout_s * 1000, m, err)) < 0)
        rc = MULL_EIO;
    else
        rc = enter(m, err);
    if (rc)
        mull__meet_close(m);
    else
        *out = m;
    return rc;
}

/* ---- words ---- */

int mull__meet_put(mull_meet *m, const char *key, const void *word, size_t n, mull_error *err) {
    char done = 0;
    if (strlen(key) >= MULL_MEET_KEY || n > MULL_MEET_WORD)
        return mull_fail(err, MULL_EINTERNAL, WHAT, key, NULL, "a key or word of %zu bytes", n);
    if (m->rank == 0) return put(m, key, word, n) ? MULL_OK : gone(m, "there are too many words", err);
    if (!send_all(m->fd, "P", 1) || !send_text(m->fd, key, strlen(key)) || !send_text(m->fd, word, n) ||
        !recv_all(m->fd, &done, 1) || !done)
        return gone(m, "rank 0 has gone", err);
    return MULL_OK;
}

int mull__meet_get(mull_meet *m, const char *key, int timeout_ms, void **word, size_t *n, mull_error *err) {
    uint32_t wait = htonl((uint32_t)timeout_ms), len;
    char found = 0;
    *word = NULL;
    if (m->rank == 0) {
        *word = get(m, key, timeout_ms, n);
        return *word ? MULL_OK : gone(m, "another rank did not come", err);
    }
    if (!send_all(m->fd, "G", 1) || !send_text(m->fd, key, strlen(key)) || !send_all(m->fd, &wait, sizeof wait) ||
        !recv_all(m->fd, &found, 1))
        return gone(m, "rank 0 has gone", err);
    if (!found) return gone(m, "another rank did not come", err);
    if (!recv_number(m->fd, MULL_MEET_WORD, &len) || !(*word = malloc((size_t)len + 1)) ||
        !recv_all(m->fd, *word, len)) {
        free(*word);
        *word = NULL;
        return gone(m, "rank 0 has gone", err);
    }
    *n = len;
    return MULL_OK;
}

/* ---- the end ---- */

static void end_serving(mull_meet *m) {
    struct timespec until;
    shutdown(m->fd, SHUT_RDWR); /* wakes accept */
    pthread_join(m->accepting, NULL);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += LEAVE_MS / 1000;
    pthread_mutex_lock(&m->lock);
    while (m->guests && pthread_cond_timedwait(&m->news, &m->lock, &until) == 0) continue;
    m->closing = true;
    for (int i = 0; i < m->world + SPARE; i++)
        if (m->guest_fd[i] >= 0) shutdown(m->guest_fd[i], SHUT_RDWR);
    pthread_cond_broadcast(&m->news);
    while (m->guests) pthread_cond_wait(&m->news, &m->lock);
    pthread_mutex_unlock(&m->lock);
}

void mull__meet_close(mull_meet *m) {
    if (!m) return;
    if (m->serving) end_serving(m);
    if (m->fd >= 0) close(m->fd);
    for (entry *e = m->entries, *next; e; e = next) {
        next = e->next;
        free(e);
    }
    if (m->secret) OPENSSL_cleanse(m->secret, strlen(m->secret));
    free(m->secret);
    free(m->where);
    pthread_mutex_destroy(&m->lock);
    pthread_cond_destroy(&m->news);
    free(m);
}
