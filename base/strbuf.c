/* Growable text: see strbuf.h. */
#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void strbuf_init(struct strbuf *b)
{
    *b = (struct strbuf){0};
}

void strbuf_finish(struct strbuf *b)
{
    free(b->s);
    strbuf_init(b);
}

/* Makes room for n more bytes and the terminator. */
static bool reserve(struct strbuf *b, size_t n)
{
    if (b->failed) return false;
    if (n >= (size_t)-1 - b->len) {
        b->failed = true;
        return false;
    }
    size_t need = b->len + n + 1;
    if (need <= b->cap) return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need) cap = cap > (size_t)-1 / 2 ? need : cap * 2;
    char *s = realloc(b->s, cap);
    if (!s) {
        b->failed = true;
        return false;
    }
    b->s = s;
    b->cap = cap;
    return true;
}

void strbuf_add(struct strbuf *b, const void *bytes, size_t n)
{
    if (!reserve(b, n)) return;
    if (n) memcpy(b->s + b->len, bytes, n);
    b->len += n;
    b->s[b->len] = 0;
}

void strbuf_puts(struct strbuf *b, const char *text)
{
    strbuf_add(b, text, strlen(text));
}

void strbuf_printf(struct strbuf *b, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n < 0)
        b->failed = true;
    else if (reserve(b, (size_t)n)) {
        vsnprintf(b->s + b->len, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void strbuf_clear(struct strbuf *b)
{
    b->len = 0;
    if (b->s) b->s[0] = 0;
}

char *strbuf_take(struct strbuf *b)
{
    if (!b->s) reserve(b, 0);
    char *s = b->s;
    if (b->failed) {
        free(s);
        s = NULL;
    } else if (s)
        s[b->len] = 0;
    strbuf_init(b);
    return s;
}
