/* Every allocation of a piece of work fails once: malloc and its kin are wrapped at link time (meson.build),
 * the Nth fails, for every N until nothing fails any more. Include it in one file of a program, after
 * temp_dir.h. */
#ifndef TESTS_UNIT_STARVE_H
#define TESTS_UNIT_STARVE_H

#include "tests/unit/temp_dir.h"

#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

static long countdown = -1; /* allocations until one fails; negative: none does */
static bool hit;

static bool fails(void)
{
    if (countdown < 0) return false;
    if (countdown-- > 0) return false;
    hit = true;
    return true;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__real_mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
void *__wrap_mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t m)
{
    return fails() ? NULL : __real_calloc(n, m);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

void *__wrap_mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset)
{
    if (!fails()) return __real_mmap64(p, n, prot, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

/* jansson reports some failed allocations as errors of syntax. */
static bool through_jansson;
/* The work knows of no path that its messages could name. */
static bool starve_plain;

/* Runs `work` with the 1st, 2nd … allocation failing until one run has none left to fail. */
static void starve_(const char *name, int (*work)(struct err *e), long least)
{
    long n = 0;
    for (;; n++) {
        struct err e = {0};
        hit = false;
        countdown = n;
        int rc = work(&e);
        countdown = -1;
        if (!hit) {
            if (rc) fail_msg("fails with memory: %s", e.msg);
            break;
        }
        if (rc == 0) continue; /* something optional did without */
        bool right = rc == ERR_NOMEM || (rc == ERR_IO && strstr(e.msg, "cannot map")) ||
                     (through_jansson && rc == ERR_FORMAT && strstr(e.msg, "line "));
        if (!right || e.code != rc || !(starve_plain ? e.msg[0] != 0 : strstr(e.msg, temp_dir) != NULL))
            fail_msg("%s, allocation %ld: %d '%s'", name, n, rc, e.msg);
        if (n > 100000) fail_msg("no end");
    }
    if (n < least) fail_msg("%s: only %ld allocations were seen", name, n);
}
#define starve(work, least) starve_(#work, work, least)

#endif
