/* Log lines of the long-lived processes, on stderr: 2026-01-31T10:00:00.123Z info scheduler: text */
#ifndef MULL_SCHEMA_LOG_H
#define MULL_SCHEMA_LOG_H

typedef enum mull_log_level { MULL_LOG_DEBUG, MULL_LOG_INFO, MULL_LOG_WARN, MULL_LOG_ERROR } mull_log_level;

/* process names the writer; MULL_LOG=debug|info|warn|error sets the least level (default info). Call once, first. */
void mull_log_init(const char *process);
/* One line; newlines in it become spaces. Callable from any thread after init. */
void mull_log(mull_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
