/* Error records: see err.h. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void store(struct err *e, int code, const char *fmt, va_list ap, const char *tail)
{
    e->code = code;
    int n = vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    if (n < 0) n = 0;
    if (tail && (size_t)n < sizeof e->msg) snprintf(e->msg + n, sizeof e->msg - (size_t)n, ": %s", tail);
}

int err_set(struct err *e, int code, const char *fmt, ...)
{
    if (!e) return code;
    va_list ap;
    va_start(ap, fmt);
    store(e, code, fmt, ap, NULL);
    va_end(ap);
    return code;
}

int err_set_errno(struct err *e, int code, const char *fmt, ...)
{
    if (!e) return code;
    char reason[128];
    const char *text = strerror_r(errno, reason, sizeof reason);
    va_list ap;
    va_start(ap, fmt);
    store(e, code, fmt, ap, text);
    va_end(ap);
    return code;
}

int err_prefix(struct err *e, int code, const char *fmt, ...)
{
    if (!e) return code;
    char old[sizeof e->msg];
    memcpy(old, e->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    store(e, e->code ? e->code : code, fmt, ap, old);
    va_end(ap);
    return e->code;
}

const char *err_name(int code)
{
    switch (code) {
    case ERR_OK: return "ok";
    case ERR_NOMEM: return "out of memory";
    case ERR_IO: return "input/output error";
    case ERR_FORMAT: return "malformed file";
    case ERR_UNSUPPORTED: return "unsupported";
    case ERR_ARG: return "invalid argument";
    case ERR_STALE: return "inputs do not belong together";
    case ERR_FULL: return "context full";
    case ERR_CANCELLED: return "cancelled";
    case ERR_NUMERIC: return "not a number";
    case ERR_DEVICE: return "device error";
    case ERR_STATE: return "wrong state";
    default: return "unknown error";
    }
}
