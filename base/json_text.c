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
