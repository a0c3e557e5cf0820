/* The log: warnings and notes for people, on a sink the application chooses (stderr for the command line).
 * Errors are returned, not logged. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN };

/* `sink` gets one line without newline; NULL restores the default (warnings to stderr as "calor: warning:
 * …"). Not thread-safe: set once at start. */
void log_set_sink(void (*sink)(enum log_level level, const char *line, void *arg), void *arg);
void log_set_level(enum log_level least);

/* Thread-safe. */
void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)

#endif
