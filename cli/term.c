/* Text for people: widths, cleaning, colours, times; see term.h. */
#include "cli/term.h"

#include "schema/jobspec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

static bool uncut;

void mull_term_uncut(void) {
    uncut = true;
}

int mull_term_width(FILE *f) {
    struct winsize w;
    if (uncut || !isatty(fileno(f))) return 0;
    const char *env = getenv("COLUMNS");
    int columns = env ? atoi(env) : 0;
    if (columns > 0) return columns;
    return ioctl(fileno(f), TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

bool mull_term_color(FILE *f) {
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(fileno(f)) && !(no && *no) && term && strcmp(term, "dumb") != 0;
}

const char *mull_state_color(const char *state, bool color) {
    if (!color) return "";
    if (!strcmp(state, "RUNNING") || !strcmp(state, "UP")) return "\033[34m";
    if (!strcmp(state, "COMPLETED")) return "\033[32m";
    if (!strcmp(state, "PENDING") || !strcmp(state, "DRAINED")) return "\033[33m";
    if (!strcmp(state, "CANCELLED") || !strcmp(state, "PREEMPTED")) return "\033[35m";
    return "\033[31m";
}

const char *mull_color_reset(bool color) {
    return color ? "\033[0m" : "";
}

/* One character of UTF-8: its bytes (at least 1) and its code point, -1 for an invalid byte. */
static int decode(const unsigned char *s, int *bytes) {
    int n = s[0] < 0x80                   ? 1
            : s[0] >= 0xC2 && s[0] < 0xE0 ? 2
            : (s[0] & 0xF0) == 0xE0       ? 3
            : s[0] >= 0xF0 && s[0] < 0xF5 ? 4
                                          : 0;
    int c = n == 1 ? s[0] : n == 2 ? s[0] & 0x1F : n == 3 ? s[0] & 0x0F : s[0] & 0x07;
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) n = 0;
        c = (c << 6) | (s[i] & 0x3F);
    }
    if ((n == 3 && (c < 0x800 || (c >= 0xD800 && c < 0xE000))) || (n == 4 && (c < 0x10000 || c > 0x10FFFF))) n = 0;
    *bytes = n ? n : 1;
    return n ? c : -1;
}

static bool is_control(int c) {
    return c < 0x20 || (c >= 0x7F && c < 0xA0) || (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

static int columns_of(int c) {
    if (is_control(c)) return 1; /* shown as '?' */
    int w = wcwidth((wchar_t)c);
    return w < 0 ? 1 : w;
}

int mull_text_columns(const char *s) {
    int columns = 0, bytes;
    for (const unsigned char *p = (const unsigned char *)s; *p; p += bytes) {
        int c = decode(p, &bytes);
        columns += columns_of(c);
    }
    return columns;
}

void mull_text_clean(const char *s, int columns, char *out, size_t cap) {
    static const char ellipsis[] = "…";
    int used = 0, bytes;
    bool cut = columns >= 0 && mull_text_columns(s) > columns;
    size_t n = 0;
    for (const unsigned char *p = (const unsigned char *)s; *p; p += bytes) {
        int c = decode(p, &bytes), w = columns_of(c);
        if (cut && used + w > columns - 1) break;
        if (n + (size_t)bytes + sizeof ellipsis > cap) break;
        if (is_control(c))
            out[n++] = '?';
        else {
            memcpy(out + n, p, (size_t)bytes);
            n += (size_t)bytes;
        }
        used += w;
    }
    if (cut && columns > 0 && n + sizeof ellipsis <= cap) {
        memcpy(out + n, ellipsis, sizeof ellipsis - 1);
        n += sizeof ellipsis - 1;
    }
    out[n] = 0;
}

void mull_span(double seconds, char *out, size_t cap) {
    if (!isfinite(seconds) || seconds > 1e12) {
        snprintf(out, cap, "?");
        return;
    }
    long long s = seconds > 0 ? (long long)(seconds + 0.5) : 0, d = s / 86400, h = s / 3600 % 24, m = s / 60 % 60;
    s %= 60;
    if (d)
        snprintf(out, cap, "%lld-%02lld:%02lld:%02lld", d, h, m, s);
    else if (h)
        snprintf(out, cap, "%lld:%02lld:%02lld", h, m, s);
    else
        snprintf(out, cap, "%lld:%02lld", m, s);
}

double mull_when(const json_t *text) {
    const char *s = json_string_value(text);
    int64_t ms;
    if (!s || mull_time_parse(s, 0, &ms)) return NAN;
    return (double)ms / 1000;
}

double mull_now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void mull_bytes(double n, char *out, size_t cap) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    while (n >= 1024 && u < 4) {
        n /= 1024;
        u++;
    }
    snprintf(out, cap, u ? "%.1f %s" : "%.0f %s", n, units[u]);
}
