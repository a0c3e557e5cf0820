/* Sizes as people write and read them. */
#ifndef BASE_SIZE_H
#define BASE_SIZE_H

#include <stddef.h>
#include <stdint.h>

struct err;

/* Parses "8GiB", "8G", "1.5g", "512M", "4096" (bytes; suffixes are powers of two: K, M, G, T, each with
 * optional "iB" or "B", any case). Negative, empty, NaN, overflowing or trailing text: ERR_ARG. */
int size_parse(const char *text, uint64_t *out, struct err *e);

/* Writes "3.71 GiB", "512 B" … into buf (at least 16 bytes) and returns buf. */
char *size_format(uint64_t bytes, char *buf, size_t n);

#endif
