/* The words that ranks of several hosts say to each other before they are connected: what a guest says to rank 0 (the
 * first byte is even) and what rank 0 answers a guest. The source is taken in whole, since behind a greeting with fresh
 * nonces nothing could be reached. */
#include "engine/comm/meet.c"

#include <fcntl.h>

static void host(mull_meet *m, int fd) {
    static char word[MULL_MEET_WORD];
    guest g = {m, fd, 0};
    while (serve_one(&g, word)) continue;
    for (entry *e = m->entries, *next; e; e = next) {
        next = e->next;
        if (strlen(e->key) >= MULL_MEET_KEY || e->n > MULL_MEET_WORD) abort();
        free(e);
    }
}

static void visitor(mull_meet *m) {
    mull_error err;
    void *word;
    size_t n = 0;
    while (mull__meet_get(m, "key", 0, &word, &n, &err) == MULL_OK) {
        if (n > MULL_MEET_WORD) abort();
        free(word);
    }
    if (word) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char secret[] = "secret", where[] = "here:1";
    mull_meet m = {
        .world = 2, .secret = secret, .where = where, .closing = true}; /* closing: nobody waits for a word */
    mull_error err;
    int pair[2], room = 1 << 20;
    if (size < 1 || size > 100000) return 0;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) abort();
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    (void)!send(pair[1], data + 1, size - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(pair[1], SHUT_WR);
    fcntl(pair[0], F_SETFL, O_NONBLOCK); /* answers that nobody takes end it */
    pthread_mutex_init(&m.lock, NULL);
    pthread_cond_init(&m.news, NULL);
    m.rank = data[0] % 2;
    m.fd = pair[0];
    if (data[0] & 2) { /* nobody guesses a proof */
        guest g = {&m, pair[0], 0};
        if (m.rank == 0 ? let_in(&g) : enter(&m, &err) == MULL_OK) abort();
    } else if (m.rank == 0) {
        host(&m, pair[0]);
    } else {
        visitor(&m);
    }
    close(pair[0]);
    close(pair[1]);
    pthread_cond_destroy(&m.news);
    pthread_mutex_destroy(&m.lock);
    return 0;
}
