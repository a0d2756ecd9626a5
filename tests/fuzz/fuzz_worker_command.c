/* Anything in a worker's inbox, one command a line. The worker is leaving, so that a start is answered and not obeyed;
 * nothing is connected. What it says about it must be valid events, numbered without a gap. */
#include "schema/event_line.h"
#include "worker/worker_internal.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void check_events(mull_worker *w) {
    uint64_t seq, last = w->evq.next - 1;
    const mull_evq_entry *e;
    mull_err err;
    while ((e = mull_evq_publish(&w->evq, &seq))) {
        char *text = malloc(e->len + 48);
        if (!text || seq != ++last) abort();
        int n = sprintf(text, "{\"seq\":%llu,%.*s", (unsigned long long)seq, (int)e->len - 1, e->text + 1);
        json_t *event = mull_event_parse(text, (size_t)n, &err);
        if (!event) abort();
        json_decref(event);
        free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const mull_evq_limits LIMITS = {64, 1 << 16, 32, 1 << 15, 1 << 20};
    static mull_worker *w; /* too big for the stack */
    char spool[64];
    mull_err err;
    if (!w && !getenv("MULL_FUZZ_LOG") && !freopen("/dev/null", "w", stderr)) abort(); /* every bad command is logged */
    if (!w) w = malloc(sizeof *w);
    if (!w) abort();
    memset(w, 0, sizeof *w);
    w->cfg.node = "node";
    w->cfg.address = "host";
    strcpy(w->boot, "00000000000000000000000000000000");
    w->draining = true;
    snprintf(spool, sizeof spool, "/tmp/mull-fuzz-%d.spool", (int)getpid());
    if (uv_loop_init(&w->loop) != 0 || mull_evq_init(&w->evq, spool, &LIMITS, &err) != 0) abort();
    mull__report_hello(w, true);
    for (const char *at = (const char *)data, *end = at + size; at < end;) {
        const char *to = memchr(at, '\n', (size_t)(end - at));
        if (!to) to = end;
        mull__command(w, at, (size_t)(to - at));
        check_events(w);
        at = to + 1;
    }
    mull_evq_fini(&w->evq);
    uv_loop_close(&w->loop);
    return 0;
}
