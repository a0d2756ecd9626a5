/* See log.h. A line is one write(2), so lines of several threads and processes do not mix. */
#include "schema/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const names[] = {"debug", "info", "warn", "error"};
static char process_name[32] = "mull";
static int least = MULL_LOG_INFO;

void mull_log_init(const char *process) {
    snprintf(process_name, sizeof process_name, "%s", process);
    const char *want = getenv("MULL_LOG");
    for (int i = 0; want && i < 4; i++)
        if (!strcmp(want, names[i])) least = i;
}

void mull_log(mull_log_level level, const char *fmt, ...) {
    if ((int)level < least) return;
    char line[2048];
    struct timespec ts;
    struct tm tm;
    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);
    size_t n = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof line - n, ".%03ldZ %s %s: ", ts.tv_nsec / 1000000, names[level],
                          process_name);
    size_t text = n;
    va_list ap;
    va_start(ap, fmt);
    int k = vsnprintf(line + n, sizeof line - n - 1, fmt, ap);
    va_end(ap);
    n = k < 0 ? n : n + (size_t)k < sizeof line - 1 ? n + (size_t)k : sizeof line - 2;
    for (size_t i = text; i < n; i++)
        if ((unsigned char)line[i] < 0x20) line[i] = ' ';
    line[n++] = '\n';
    if (write(STDERR_FILENO, line, n) < 0) return; /* nowhere left to complain */
}
