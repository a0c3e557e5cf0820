/* The log: see log.h. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

static void (*sink)(enum log_level, const char *, void *);
static void *sink_arg;
static enum log_level least = LOG_WARN;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void log_set_sink(void (*fn)(enum log_level, const char *, void *), void *arg)
{
    sink = fn;
    sink_arg = arg;
}

void log_set_level(enum log_level l)
{
    least = l;
}

void log_at(enum log_level level, const char *fmt, ...)
{
    if (level < least) return;
    char line[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&lock);
    if (sink)
        sink(level, line, sink_arg);
    else
        fprintf(stderr, "calor: %s%s\n", level == LOG_WARN ? "warning: " : "", line);
    pthread_mutex_unlock(&lock);
}
