/* Server-sent events: "event: NAME", "data: JSON", an empty line ends one. Comments (": …") keep the connection alive.
 */
#include "cli/client.h"

#include <stdlib.h>
#include <string.h>

static int append(char **buf, size_t *len, size_t *cap, const char *bytes, size_t n) {
    if (n > MULL_SSE_LINE_MAX - *len) return -1;
    if (*len + n + 1 > *cap) {
        size_t want = (*len + n + 1) * 2;
        char *grown = realloc(*buf, want);
        if (!grown) return -1;
        *buf = grown;
        *cap = want;
    }
    memcpy(*buf + *len, bytes, n);
    *len += n;
    (*buf)[*len] = 0;
    return 0;
}

static void dispatch(mull_sse *s) {
    if (s->data_len) {
        json_t *data = json_loadb(s->data, s->data_len, 0, NULL);
        if (data) s->stopped = s->cb(s->event[0] ? s->event : "message", data, s->arg);
        json_decref(data);
    }
    s->event[0] = 0;
    s->data_len = 0;
}

static void line_done(mull_sse *s) {
    size_t n = s->len;
    const char *line = s->line ? s->line : "";
    if (n && line[n - 1] == '\r') n--;
    if (n == 0)
        dispatch(s);
    else if (n > 5 && !strncmp(line, "data:", 5)) {
        size_t skip = 5 + (line[5] == ' ');
        if (s->data_len && append(&s->data, &s->data_len, &s->data_cap, "\n", 1)) s->failed = true;
        if (append(&s->data, &s->data_len, &s->data_cap, line + skip, n - skip)) s->failed = true;
    } else if (n > 6 && !strncmp(line, "event:", 6)) {
        size_t skip = 6 + (line[6] == ' '), k = n - skip < sizeof s->event - 1 ? n - skip : sizeof s->event - 1;
        memcpy(s->event, line + skip, k);
        s->event[k] = 0;
    }
    s->len = 0;
}

void mull_sse_feed(mull_sse *s, const char *bytes, size_t n) {
    while (n && !s->stopped && !s->failed) {
        const char *end = memchr(bytes, '\n', n);
        size_t k = end ? (size_t)(end - bytes) : n;
        if (append(&s->line, &s->len, &s->cap, bytes, k)) {
            s->failed = true;
            return;
        }
        if (!end) return;
        line_done(s);
        bytes += k + 1;
        n -= k + 1;
    }
}

void mull_sse_fini(mull_sse *s) {
    free(s->line);
    free(s->data);
    s->line = s->data = NULL;
}
