/* JSON trees: typed members with messages for people, and printing numbers that JSON can express. Texts
 * nobody vouches for are parsed by json_text.h. Includes jansson's own header: trees are built with json_pack
 * and json_object_set_new. */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct err;

/* Members of an object: 0 and *out; 1 and *out untouched when the key is absent or null; ERR_FORMAT when the
 * value has another type or does not fit. `where` names the object in messages ("config.json"). Strings and
 * subtrees are borrowed. */
int json_get_str(const json_t *o, const char *key, const char **out, const char *where, struct err *e);
int json_get_bool(const json_t *o, const char *key, bool *out, const char *where, struct err *e);
int json_get_u32(const json_t *o, const char *key, uint32_t *out, const char *where, struct err *e);
int json_get_u64(const json_t *o, const char *key, uint64_t *out, const char *where, struct err *e);
int json_get_i64(const json_t *o, const char *key, int64_t *out, const char *where, struct err *e);
int json_get_f64(const json_t *o, const char *key, double *out, const char *where,
                 struct err *e); /* finite */
int json_get_object(const json_t *o, const char *key, json_t **out, const char *where, struct err *e);
int json_get_array(const json_t *o, const char *key, json_t **out, const char *where, struct err *e);

/* A new number, or null for NaN and infinity, which JSON lacks. NULL: no memory. */
json_t *json_number(double v);

/* Prints a tree with indentation and a newline behind it; takes the reference. NULL or a failed write:
 * ERR_NOMEM or ERR_IO. */
int json_print(json_t *tree, FILE *to, struct err *e);

#endif
