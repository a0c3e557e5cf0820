/* Errors: every fallible function returns 0 or a negative ERR_… code and writes one sentence for the user
 * into a `struct err`: what was expected, what was found, where, and what to do. Libraries never print or
 * exit. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stddef.h>

/* The values equal calor.h's CALOR_E… (asserted at build time in engine/). */
enum err_code {
    ERR_OK = 0,
    ERR_NOMEM = -1,       /* memory or a budget is exhausted */
    ERR_IO = -2,          /* the operating system refused a read, write or open */
    ERR_FORMAT = -3,      /* a file's bytes are not what its format says */
    ERR_UNSUPPORTED = -4, /* well-formed, but not something Calor runs */
    ERR_ARG = -5,         /* a parameter given by the caller is wrong */
    ERR_STALE = -6,       /* inputs that don't belong together (hash mismatch) */
    ERR_FULL = -7,        /* the context has no room for more tokens */
    ERR_CANCELLED = -8,   /* the caller asked to stop */
    ERR_NUMERIC = -9,     /* NaN or infinity where a number was needed */
    ERR_DEVICE = -10,     /* an accelerator failed */
    ERR_STATE = -11,      /* called in the wrong order */
};

struct err {
    int code;
    char msg[1000];
};

/* Stores code and message (truncated to fit) and returns `code`; `e` may be NULL. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<formatted>: " before the message already there and returns e's code; `e` may be NULL (returns
 * `code`). */
int err_prefix(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set, with ": strerror(errno)" appended. */
int err_set_errno(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Short name of a code ("out of memory", …), static storage. */
const char *err_name(int code);

#endif
