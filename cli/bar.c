/* Progress of a job that somebody waits for; see term.h. */
#include "cli/term.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

enum { BAR = 24, LINE_EVERY_S = 5 };

void mull_bar_init(mull_bar *b) {
    *b = (mull_bar){.terminal = isatty(STDERR_FILENO), .last_done = -1};
}

void mull_bar_clear(mull_bar *b) {
    if (b->drawn) fputs("\r\033[K", stderr);
    b->drawn = false;
}

static void words(const json_t *job, char *out, size_t cap, long long *done_out, double *share) {
    const json_t *p = json_object_get(job, "progress");
    const char *state = json_string_value(json_object_get(job, "state"));
    const char *reason = json_string_value(json_object_get(job, "reason"));
    long long done = json_integer_value(json_object_get(p, "done")),
              total = json_integer_value(json_object_get(p, "total"));
    double eta = json_number_value(json_object_get(p, "eta_s"));
    char count[64] = "", left[48] = "", span[32];
    *share = total > 0 ? (double)done / (double)total : NAN;
    *done_out = done;
    if (total > 0)
        snprintf(count, sizeof count, " %lld/%lld (%.0f %%)", done, total, 100 * *share);
    else if (done > 0)
        snprintf(count, sizeof count, " %lld", done);
    if (eta > 0 && state && !strcmp(state, "RUNNING")) {
        mull_span(eta, span, sizeof span);
        snprintf(left, sizeof left, ", about %s left", span);
    }
    snprintf(out, cap, "%s%s%s%s%s", state ? state : "?", reason && *reason ? ": " : "", reason ? reason : "", count,
             left);
}

void mull_bar_show(mull_bar *b, const json_t *job) {
    char text[200];
    long long done;
    double share;
    const char *id = json_string_value(json_object_get(job, "id")),
               *state = json_string_value(json_object_get(job, "state"));
    words(job, text, sizeof text, &done, &share);
    if (b->terminal) {
        int width = mull_term_width(stderr);
        char head[320], clean[320];
        if (isfinite(share)) {
            char bar[BAR + 1];
            int full = (int)(share * BAR);
            for (int i = 0; i < BAR; i++) bar[i] = i < full ? '#' : '.';
            bar[BAR] = 0;
            snprintf(head, sizeof head, "job %s [%s] %s", id ? id : "?", bar, text);
        } else
            snprintf(head, sizeof head, "job %s %s", id ? id : "?", text);
        mull_text_clean(head, width > 1 ? width - 1 : 79, clean, sizeof clean);
        fprintf(stderr, "\r%s\033[K", clean);
        fflush(stderr);
        b->drawn = true;
        return;
    }
    bool changed = !state || strcmp(state, b->last_state) != 0;
    if (!changed && (done == b->last_done || mull_now() - b->last_line < LINE_EVERY_S)) return;
    fprintf(stderr, "job %s %s\n", id ? id : "?", text);
    snprintf(b->last_state, sizeof b->last_state, "%s", state ? state : "");
    b->last_done = done;
    b->last_line = mull_now();
}
