/* The safetensors header parser: a JSON object of tensor entries, from an untrusted file. */
#include "base/checked.h"
#include "base/err.h"
#include "base/json_text.h"
#include "io/safetensors_priv.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    unsigned bytes;
    int model; /* enum dtype, or -1 */
} types[ST_DTYPES] = {
    [ST_BOOL] = {"BOOL", 1, -1},       [ST_U8] = {"U8", 1, -1},           [ST_I8] = {"I8", 1, DT_I8},
    [ST_F8_E5M2] = {"F8_E5M2", 1, -1}, [ST_F8_E4M3] = {"F8_E4M3", 1, -1}, [ST_I16] = {"I16", 2, DT_I16},
    [ST_U16] = {"U16", 2, -1},         [ST_F16] = {"F16", 2, DT_F16},     [ST_BF16] = {"BF16", 2, DT_BF16},
    [ST_I32] = {"I32", 4, DT_I32},     [ST_U32] = {"U32", 4, -1},         [ST_F32] = {"F32", 4, DT_F32},
    [ST_F64] = {"F64", 8, DT_F64},     [ST_I64] = {"I64", 8, DT_I64},     [ST_U64] = {"U64", 8, -1},
};

const char *st_dtype_name(enum st_dtype t)
{
    return (unsigned)t < ST_DTYPES ? types[t].name : "unknown type";
}

unsigned st_dtype_bytes(enum st_dtype t)
{
    return (unsigned)t < ST_DTYPES ? types[t].bytes : 0;
}

bool st_dtype_model(enum st_dtype t, enum dtype *out)
{
    if ((unsigned)t >= ST_DTYPES || types[t].model < 0) return false;
    *out = (enum dtype)types[t].model;
    return true;
}

struct parse {
    struct safetensors *f;
    const char *path;
    uint64_t data, room; /* where tensor bytes begin, and how many there are */
    struct err *e;
};

static int bad(const struct parse *p, const char *tensor, const char *expected, const char *found)
{
    return err_set(p->e, ERR_FORMAT, "'%s': tensor '%.200s': expected %s, found %s", p->path, tensor,
                   expected, found);
}

static const char *kind_name(const json_t *v)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",
        [JSON_ARRAY] = "an array",
        [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer",
        [JSON_REAL] = "a number that is no 64-bit integer",
        [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",
        [JSON_NULL] = "null",
    };
    return v ? names[json_typeof(v)] : "nothing";
}

/* A non-negative integer; jansson's are signed 64-bit. */
static bool get_uint(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
    *out = (uint64_t)json_integer_value(v);
    return true;
}

static int parse_dtype(const struct parse *p, const json_t *entry, struct st_tensor *t)
{
    const json_t *v = json_object_get(entry, "dtype");
    if (!json_is_string(v)) return bad(p, t->name, "a string \"dtype\"", kind_name(v));
    for (int i = 0; i < ST_DTYPES; i++) {
        if (strcmp(types[i].name, json_string_value(v)) != 0) continue;
        t->dtype = (enum st_dtype)i;
        return 0;
    }
    return err_set(p->e, ERR_UNSUPPORTED,
                   "'%s': tensor '%.200s': expected a known dtype (F32, F16, BF16 …), found "
                   "\"%.40s\"",
                   p->path, t->name, json_string_value(v));
}

static int parse_shape(const struct parse *p, const json_t *entry, struct st_tensor *t)
{
    const json_t *v = json_object_get(entry, "shape");
    if (!json_is_array(v)) return bad(p, t->name, "an array \"shape\"", kind_name(v));
    size_t n = json_array_size(v);
    if (n > ST_DIMS_MAX)
        return err_set(p->e, ERR_UNSUPPORTED,
                       "'%s': tensor '%.200s': expected at most %d dimensions, found %zu", p->path, t->name,
                       ST_DIMS_MAX, n);
    t->n_dims = (int)n;
    t->elements = 1;
    for (size_t i = 0; i < n; i++) {
        const json_t *d = json_array_get(v, i);
        if (!get_uint(d, &t->shape[i]))
            return bad(p, t->name, "a shape of non-negative integers",
                       json_is_integer(d) ? "a negative one" : kind_name(d));
        if (!checked_mul(t->elements, t->shape[i], &t->elements))
            return bad(p, t->name, "a shape whose product fits 64 bits", "one that does not");
    }
    if (!checked_mul(t->elements, st_dtype_bytes(t->dtype), &t->bytes))
        return bad(p, t->name, "a shape whose bytes fit 64 bits", "one that does not");
    return 0;
}

static int parse_offsets(const struct parse *p, const json_t *entry, struct st_tensor *t)
{
    const json_t *v = json_object_get(entry, "data_offsets");
    uint64_t begin, end;
    if (!json_is_array(v) || json_array_size(v) != 2 || !get_uint(json_array_get(v, 0), &begin) ||
        !get_uint(json_array_get(v, 1), &end))
        return bad(p, t->name, "\"data_offsets\" of two non-negative integers",
                   json_is_array(v) ? "others" : kind_name(v));
    if (begin > end || end > p->room)
        return err_set(
            p->e, ERR_FORMAT,
            "'%s': tensor '%.200s': expected data_offsets in the %llu bytes behind the header, found %llu "
            "to %llu (is the download complete?)",
            p->path, t->name, (unsigned long long)p->room, (unsigned long long)begin,
            (unsigned long long)end);
    if (end - begin != t->bytes)
        return err_set(
            p->e, ERR_FORMAT,
            "'%s': tensor '%.200s': expected %llu bytes for its shape as %s, found data_offsets with %llu",
            p->path, t->name, (unsigned long long)t->bytes, st_dtype_name(t->dtype),
            (unsigned long long)(end - begin));
    if (!checked_add(p->data, begin, &t->offset)) return bad(p, t->name, "an offset in the file", "another");
    return 0;
}

static int parse_meta(const struct parse *p, const json_t *meta)
{
    if (!json_is_object(meta))
        return err_set(p->e, ERR_FORMAT, "'%s': expected an object \"__metadata__\", found %s", p->path,
                       kind_name(meta));
    struct safetensors *f = p->f;
    bool keep = f->n_shards == 1;
    if (keep && json_object_size(meta)) {
        f->meta = calloc(json_object_size(meta), sizeof *f->meta);
        if (!f->meta) return err_set(p->e, ERR_NOMEM, "no memory for the header of '%s'", p->path);
    }
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)meta, key, v)
    {
        if (!json_is_string(v))
            return err_set(p->e, ERR_FORMAT, "'%s': __metadata__ '%.200s': expected a string, found %s",
                           p->path, key, kind_name(v));
        if (!keep) continue;
        struct st_pair *pair = &f->meta[f->n_meta++];
        pair->key = strdup(key);
        pair->value = strdup(json_string_value(v));
        if (!pair->key || !pair->value)
            return err_set(p->e, ERR_NOMEM, "no memory for the header of '%s'", p->path);
    }
    return 0;
}

static int check_name(const struct parse *p, const char *name)
{
    const unsigned char *c = (const unsigned char *)name;
    while (*c >= 0x20 && *c != 0x7f) c++;
    if (*c == 0 && *name) return 0;
    return err_set(p->e, ERR_FORMAT, "'%s': expected tensor names without control characters, found %s",
                   p->path, *name ? "one with" : "an empty one");
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones lie before what follows */
    return strcmp(x->name, y->name);
}

/* Sorts the new tensors, refuses shared bytes and names that are there already. */
static int index_tensors(const struct parse *p, uint64_t first)
{
    struct safetensors *f = p->f;
    if (f->n_tensors - first)
        qsort(f->tensors + first, (size_t)(f->n_tensors - first), sizeof *f->tensors, by_offset);
    const struct st_tensor *last = NULL; /* the one before that has bytes */
    for (uint64_t i = first; i < f->n_tensors; i++) {
        struct st_tensor *t = &f->tensors[i];
        if (last && t->bytes && t->offset < last->offset + last->bytes)
            return err_set(p->e, ERR_FORMAT, "'%s': tensor '%.200s' shares bytes with '%.200s'", p->path,
                           t->name, last->name);
        if (t->bytes) last = t;
        uint32_t index = (uint32_t)i;
        int rc = name_table_add(&f->names, t->name, strlen(t->name), &index);
        if (rc < 0) return err_set(p->e, ERR_NOMEM, "no memory for the tensors of '%s'", p->path);
        if (rc > 0)
            return err_set(p->e, ERR_FORMAT, "'%s': tensor '%.200s' is in '%s' too", p->path, t->name,
                           f->shards[f->tensors[index].shard].path);
    }
    return 0;
}

static int parse_entries(const struct parse *p, const json_t *root)
{
    struct safetensors *f = p->f;
    uint64_t first = f->n_tensors, n = json_object_size(root);
    if (n) {
        struct st_tensor *t = realloc(f->tensors, (size_t)(first + n) * sizeof *t);
        if (!t) return err_set(p->e, ERR_NOMEM, "no memory for the tensors of '%s'", p->path);
        f->tensors = t;
    }
    const char *name;
    json_t *entry;
    json_object_foreach((json_t *)(uintptr_t)root, name, entry)
    {
        int rc;
        if (strcmp(name, "__metadata__") == 0) {
            rc = parse_meta(p, entry);
            if (rc) return rc;
            continue;
        }
        rc = check_name(p, name);
        if (rc) return rc;
        if (!json_is_object(entry)) return bad(p, name, "an object", kind_name(entry));
        struct st_tensor *t = &f->tensors[f->n_tensors];
        *t = (struct st_tensor){.shard = f->n_shards - 1, .name = name};
        rc = parse_dtype(p, entry, t);
        if (rc == 0) rc = parse_shape(p, entry, t);
        if (rc == 0) rc = parse_offsets(p, entry, t);
        if (rc) return rc;
        t->name = strdup(name);
        if (!t->name) return err_set(p->e, ERR_NOMEM, "no memory for the tensors of '%s'", p->path);
        f->n_tensors++;
    }
    return index_tensors(p, first);
}

int st_parse(struct safetensors *f, const char *header, size_t n, uint64_t data, struct err *e)
{
    const struct st_shard *s = &f->shards[f->n_shards - 1];
    struct parse p = {f, s->path, data, s->size - data, e};
    if (n == 0 || header[0] != '{')
        return err_set(e, ERR_FORMAT,
                       "'%s': expected a header that begins with '{', found %s (no safetensors file?)",
                       p.path, n ? "another byte" : "an empty one");
    /* What jansson builds is tens of times larger than brackets and commas: a header of hardly anything else
     * is no header of tensors, whose entries have three containers in at least fifty bytes. */
    struct json_counts counts;
    json_text_count(header, n, &counts);
    if (counts.containers > n / 12 + 16 || counts.commas > n / 3 + 16)
        return err_set(e, ERR_FORMAT,
                       "'%s': expected a header of tensor entries, found %llu brackets in %zu bytes", p.path,
                       (unsigned long long)(counts.containers + counts.commas), n);
    json_t *root;
    int rc = json_text_parse(&root, header, n, p.path, JSON_TEXT_DEPTH, e);
    if (rc) return rc;
    rc = parse_entries(&p, root);
    json_decref(root);
    return rc;
}
