/* Durations and points in time as people write them. */
#include "schema/jobspec.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LAST_MS INT64_C(253402300799999) /* the last moment of the year 9999 */

/* Digits only, at most nine of them. */
static int number(const char **s, int64_t *out) {
    int n = 0;
    *out = 0;
    while ((*s)[n] >= '0' && (*s)[n] <= '9' && n < 9) *out = *out * 10 + ((*s)[n++] - '0');
    *s += n;
    return n ? 0 : -1;
}

int mull_duration_parse(const char *s, int64_t *out) {
    int64_t days = 0, v[3] = {0}, x;
    int n = 0;
    if (number(&s, &x)) return -1;
    if (*s == '-') {
        days = x;
        s++;
        if (number(&s, &x)) return -1;
    }
    v[n++] = x;
    while (*s == ':' && n < 3) {
        s++;
        if (number(&s, &v[n++])) return -1;
    }
    if (*s || (days && n != 3)) return -1;
    for (int i = 1; i < n; i++)
        if (v[i] > 59) return -1;
    int64_t t = n == 3 ? v[0] * 3600 + v[1] * 60 + v[2] : n == 2 ? v[0] * 60 + v[1] : v[0];
    t += days * 86400;
    if (t <= 0 || t > INT64_C(1) << 31) return -1;
    *out = t;
    return 0;
}

int mull_time_parse(const char *s, int64_t now_ms, int64_t *out_ms) {
    if (!strncmp(s, "now", 3)) {
        int64_t x = 0;
        s += 3;
        if (!*s) {
            *out_ms = now_ms;
            return 0;
        }
        if (*s++ != '+' || number(&s, &x)) return -1;
        int64_t unit = *s == 's' ? 1 : *s == 'm' ? 60 : *s == 'h' ? 3600 : *s == 'd' ? 86400 : 0;
        if (!unit || s[1]) return -1;
        *out_ms = now_ms + x * unit * 1000;
        return *out_ms <= LAST_MS ? 0 : -1;
    }
    struct tm tm = {0};
    const char *rest = strptime(s, "%Y-%m-%dT%H:%M:%S", &tm);
    if (!rest) return -1;
    int64_t ms = 0, scale = 100;
    if (*rest == '.') {
        if (*++rest < '0' || *rest > '9') return -1;
        for (; *rest >= '0' && *rest <= '9'; rest++, scale /= 10) ms += (*rest - '0') * scale;
    }
    int64_t offset = 0;
    if (*rest == 'Z' || *rest == 'z')
        rest++;
    else if (*rest == '+' || *rest == '-') {
        int sign = *rest++ == '-' ? -1 : 1;
        int64_t h, m;
        if (number(&rest, &h) || *rest++ != ':' || number(&rest, &m) || h > 23 || m > 59) return -1;
        offset = sign * (h * 3600 + m * 60);
    } else
        return -1;
    if (*rest) return -1;
    *out_ms = ((int64_t)timegm(&tm) - offset) * 1000 + ms;
    return *out_ms > 0 && *out_ms <= LAST_MS ? 0 : -1;
}
