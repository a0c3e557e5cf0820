/* JSON from files that are not trusted: bounds are checked on the text before jansson builds anything. */
#ifndef BASE_JSON_TEXT_H
#define BASE_JSON_TEXT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum { JSON_TEXT_DEPTH = 64 }; /* containers in containers, unless a format needs less */

struct json_counts {
    uint64_t containers; /* objects and arrays */
    uint64_t commas;     /* outside of strings: further values in containers */
    unsigned depth;
};

/* Counts what parsing would build, without building it (no recursion, no allocation). Text that is not JSON
 * is counted somehow; the parser refuses it later. */
void json_text_count(const char *text, size_t n, struct json_counts *out);

/* Parses the whole text (UTF-8, need not be NUL-terminated): at most `max_depth` deep, no name twice in an
 * object, nothing behind the value. `path` is for messages, which name line and column. *out is the caller's
 * (json_decref); left alone on failure. */
int json_text_parse(json_t **out, const char *text, size_t n, const char *path, unsigned max_depth,
                    struct err *e);

/* The same on a file of at most `limit` bytes. */
int json_text_read(json_t **out, const char *path, uint64_t limit, unsigned max_depth, struct err *e);

#endif
