/* JSON trees: see json.h. */
#include "base/json.h"

#include "base/err.h"

#include <inttypes.h>
#include <math.h>

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    default: return "null";
    }
}

/* 0: *v is there; 1: absent; ERR_FORMAT: o itself is no object. */
static int member(const json_t *o, const char *key, const char *where, json_t **v, struct err *e)
{
    if (!json_is_object(o))
        return err_set(e, ERR_FORMAT, "'%s': expected an object, found %s", where,
                       o ? type_name(o) : "nothing");
    *v = json_object_get(o, key);
    return *v && !json_is_null(*v) ? 0 : 1;
}

static int mistyped(const json_t *v, const char *key, const char *want, const char *where, struct err *e)
{
    return err_set(e, ERR_FORMAT, "'%s': \"%s\" is %s: expected %s", where, key, type_name(v), want);
}

int json_get_str(const json_t *o, const char *key, const char **out, const char *where, struct err *e)
{
    json_t *v = NULL;
    int rc = member(o, key, where, &v, e);
    if (rc) return rc;
    if (!json_is_string(v)) return mistyped(v, key, "a string", where, e);
    *out = json_string_value(v);
    return 0;
}

int json_get_bool(const json_t *o, const char *key, bool *out, const char *where, struct err *e)
{
    json_t *v = NULL;
    int rc = member(o, key, where, &v, e);
    if (rc) return rc;
    if (!json_is_boolean(v)) return mistyped(v, key, "true or false", where, e);
    *out = json_is_true(v);
    return 0;
}

/* Integers within [min, max]; a real with a whole value (1e6, 4096.0) counts, as other programs write it. */
static int get_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *out,
                   const char *where, struct err *e)
{
    json_t *v = NULL;
    int rc = member(o, key, where, &v, e);
    if (rc) return rc;
    int64_t n;
    if (json_is_integer(v)) {
        n = json_integer_value(v);
    } else if (json_is_real(v)) {
        double r = json_real_value(v);
        if (!(fabs(r) <= 0x1p53) || r != floor(r)) return mistyped(v, key, "a whole number", where, e);
        n = (int64_t)r;
    } else {
        return mistyped(v, key, "a whole number", where, e);
    }
    if (n < min || n > max)
        return err_set(e, ERR_FORMAT, "'%s': \"%s\" is %" PRId64 ": expected %" PRId64 " to %" PRId64, where,
                       key, n, min, max);
    *out = n;
    return 0;
}

int json_get_u32(const json_t *o, const char *key, uint32_t *out, const char *where, struct err *e)
{
    int64_t v = 0;
    int rc = get_int(o, key, 0, UINT32_MAX, &v, where, e);
    if (rc == 0) *out = (uint32_t)v;
    return rc;
}

int json_get_u64(const json_t *o, const char *key, uint64_t *out, const char *where, struct err *e)
{
    int64_t v = 0;
    int rc = get_int(o, key, 0, INT64_MAX, &v, where, e);
    if (rc == 0) *out = (uint64_t)v;
    return rc;
}

int json_get_i64(const json_t *o, const char *key, int64_t *out, const char *where, struct err *e)
{
    return get_int(o, key, INT64_MIN, INT64_MAX, out, where, e);
}

int json_get_f64(const json_t *o, const char *key, double *out, const char *where, struct err *e)
{
    json_t *v = NULL;
    int rc = member(o, key, where, &v, e);
    if (rc) return rc;
    if (!json_is_number(v)) return mistyped(v, key, "a number", where, e);
    double r = json_number_value(v);
    if (!isfinite(r)) return err_set(e, ERR_FORMAT, "'%s': \"%s\" is not finite", where, key);
    *out = r;
    return 0;
}

int json_get_object(const json_t *o, const char *key, json_t **out, const char *where, struct err *e)
{
    json_t *v = NULL;
    int rc = member(o, key, where, &v, e);
    if (rc) return rc;
    if (!json_is_object(v)) return mistyped(v, key, "an object", where, e);
    *out = v;
    return 0;
}

int json_get_array(const json_t *o, const char *key, json_t **out, const char *where, struct err *e)
{
    json_t *v = NULL;
    int rc = member(o, key, where, &v, e);
    if (rc) return rc;
    if (!json_is_array(v)) return mistyped(v, key, "an array", where, e);
    *out = v;
    return 0;
}

json_t *json_number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

int json_print(json_t *tree, FILE *to, struct err *e)
{
    if (!tree) return err_set(e, ERR_NOMEM, "no memory for the JSON output");
    int rc = json_dumpf(tree, to, JSON_ENCODE_ANY | JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(tree);
    if (rc != 0 || fputc('\n', to) == EOF) return err_set(e, ERR_IO, "writing JSON failed");
    return 0;
}
