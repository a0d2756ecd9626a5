/* Stop strings over streamed text; see stop.h. The search resumes where the longest unfinished candidate starts, so
 * each byte is looked at a bounded number of times. */
#include "engine/infer/stop.h"

#include <stdlib.h>
#include <string.h>

int mull_stream_init(mull_stream *s, const char *const *stop, int nstop, mull_error *err) {
    *s = (mull_stream){0};
    if (nstop <= 0) return MULL_OK;
    s->stop = calloc((size_t)nstop, sizeof *s->stop);
    if (!s->stop) return mull_fail(err, MULL_ENOMEM, "cannot take the stop strings", "", "", "out of memory");
    for (int i = 0; i < nstop; i++) {
        if (!*stop[i]) {
            mull_stream_fini(s);
            return mull_fail(err, MULL_EARG, "wrong stop string", "stop", "leave it out", "it is empty");
        }
        s->stop[i] = strdup(stop[i]);
        if (!s->stop[i]) {
            mull_stream_fini(s);
            return mull_fail(err, MULL_ENOMEM, "cannot take the stop strings", "", "", "out of memory");
        }
        s->nstop++;
    }
    return MULL_OK;
}

void mull_stream_fini(mull_stream *s) {
    for (int i = 0; i < s->nstop; i++) free(s->stop[i]);
    free(s->stop);
    mull_buf_fini(&s->text);
    *s = (mull_stream){0};
}

/* Whether a stop string starts with text[len]; *whole when it fits completely. */
static bool starts(const mull_stream *s, const char *text, size_t len, bool *whole) {
    bool partly = false;
    for (int i = 0; i < s->nstop; i++) {
        size_t n = strlen(s->stop[i]);
        if (n <= len && !memcmp(s->stop[i], text, n)) return *whole = true;
        if (n > len && !memcmp(s->stop[i], text, len)) partly = true;
    }
    *whole = false;
    return partly;
}

void mull_stream_update(mull_stream *s, bool last, const char **piece, size_t *len) {
    size_t safe = s->text.len;
    for (size_t at = s->checked; s->nstop && at < s->text.len && !s->stopped; at++) {
        bool whole;
        if (!starts(s, s->text.data + at, s->text.len - at, &whole)) continue;
        if (whole) {
            s->stopped = true;
            s->text.len = safe = at;
            s->text.data[at] = 0;
        } else if (at < safe) {
            safe = at; /* may yet become a stop string: hold back from here, but look on for a whole one */
        }
    }
    if (last || s->stopped) safe = s->text.len;
    s->checked = safe;
    *piece = s->text.data ? s->text.data + s->sent : "";
    *len = safe - s->sent;
    s->sent = safe;
}
