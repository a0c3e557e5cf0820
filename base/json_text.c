/* Bounded JSON parsing: see json_text.h. */
#include "base/json_text.h"

#include "base/err.h"
#include "base/file.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void json_text_count(const char *text, size_t n, struct json_counts *out)
{
    *out = (struct json_counts){0};
    unsigned depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            out->containers++;
            if (++depth > out->depth) out->depth = depth;
        } else if (c == ']' || c == '}') {
            if (depth) depth--;
        } else if (c == ',') {
            out->commas++;
        }
    }
}

/* A copy in which integers too long for 64 bits end in ".0": transformers writes model_max_length 1e30 with
 * all its digits, and jansson refuses such integers, but not such reals. NULL: no memory. */
static char *widen_integers(const char *text, size_t n, size_t *out_n)
{
    enum { FITS = 18 }; /* digits that always fit */
    char *copy = malloc(n + n / FITS * 2 + 1);
    if (!copy) return NULL;
    bool in_string = false;
    size_t digits = 0, at = 0;
    char before = 0; /* what stands before the digits */
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool digit = !in_string && c >= '0' && c <= '9';
        if (digit && digits++ == 0) before = i ? text[i - 1] : 0;
        if (!digit) {
            bool fraction = before == '.' || before == 'e' || before == 'E' || before == '+' || c == '.';
            if (digits > FITS && !fraction && c != 'e' && c != 'E') {
                copy[at++] = '.';
                copy[at++] = '0';
            }
            digits = 0;
            if (in_string && c == '\\' && i + 1 < n)
                copy[at++] = text[i++]; /* the escaped character follows below */
            else if (c == '"')
                in_string = !in_string;
        }
        copy[at++] = text[i];
    }
    *out_n = at;
    return copy;
}

int json_text_parse(json_t **out, const char *text, size_t n, const char *path, unsigned max_depth,
                    struct err *e)
{
    struct json_counts counts;
    json_text_count(text, n, &counts);
    if (counts.depth > max_depth)
        return err_set(e, ERR_FORMAT, "'%s': expected JSON nested at most %u deep, found %u", path, max_depth,
                       counts.depth);
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!root && json_error_code(&why) == json_error_numeric_overflow) {
        size_t wide_n;
        char *wide = widen_integers(text, n, &wide_n);
        if (!wide) return err_set(e, ERR_NOMEM, "no memory to parse '%s'", path);
        root = json_loadb(wide, wide_n, JSON_REJECT_DUPLICATES, &why);
        free(wide);
    }
    if (!root) {
        /* jansson says nothing at all where it could not allocate */
        if (!why.text[0] || json_error_code(&why) == json_error_out_of_memory)
            return err_set(e, ERR_NOMEM, "no memory to parse '%s'", path);
        return err_set(e, ERR_FORMAT, "'%s': line %d, column %d: %s", path, why.line, why.column, why.text);
    }
    *out = root;
    return 0;
}

int json_text_read(json_t **out, const char *path, uint64_t limit, unsigned max_depth, struct err *e)
{
    char *text;
    size_t n;
    int rc = file_read_all(path, limit, &text, &n, e);
    if (rc) return rc;
    rc = json_text_parse(out, text, n, path, max_depth, e);
    free(text);
    return rc;
}
