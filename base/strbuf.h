/* Growable text. A failed allocation is remembered: later calls do nothing and strbuf_take returns NULL. */
#ifndef BASE_STRBUF_H
#define BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

struct strbuf {
    char *s; /* NUL-terminated whenever len > 0; NULL when nothing was added */
    size_t len, cap;
    bool failed;
};

void strbuf_init(struct strbuf *b);
void strbuf_finish(struct strbuf *b);
void strbuf_add(struct strbuf *b, const void *bytes, size_t n);
void strbuf_puts(struct strbuf *b, const char *text);
void strbuf_printf(struct strbuf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strbuf_clear(struct strbuf *b); /* keeps the memory */
/* The text, owned by the caller (free); an empty string when nothing was added; NULL after a failure. */
char *strbuf_take(struct strbuf *b);

#endif
