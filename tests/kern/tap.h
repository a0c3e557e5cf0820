/* TAP lines on stdout: "ok N - name", "not ok N - name", skips visible. */
#ifndef TESTS_KERN_TAP_H
#define TESTS_KERN_TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct tap {
    int done, failed;
};

__attribute__((format(printf, 3, 4))) static inline void tap_ok(struct tap *t, bool ok, const char *fmt, ...)
{
    va_list ap;
    printf("%sok %d - ", ok ? "" : "not ", ++t->done);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
    if (!ok) t->failed++;
}

static inline void tap_skip(struct tap *t, const char *name, const char *why)
{
    printf("ok %d - %s # SKIP %s\n", ++t->done, name, why);
}

/* Prints the plan; the program's exit status. */
static inline int tap_done(const struct tap *t)
{
    printf("1..%d\n", t->done);
    return t->failed != 0;
}

#endif
