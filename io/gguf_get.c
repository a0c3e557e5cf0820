/* Typed access to a GGUF file's keys and tensors: see gguf.h. */
#include "base/err.h"
#include "io/gguf_priv.h"

#include <math.h>
#include <string.h>

const char *gguf_type_name(enum gguf_type type)
{
    static const char *const names[] = {
        [GGUF_U8] = "u8",      [GGUF_I8] = "i8",     [GGUF_U16] = "u16", [GGUF_I16] = "i16",
        [GGUF_U32] = "u32",    [GGUF_I32] = "i32",   [GGUF_F32] = "f32", [GGUF_BOOL] = "bool",
        [GGUF_STR] = "string", [GGUF_ARR] = "array", [GGUF_U64] = "u64", [GGUF_I64] = "i64",
        [GGUF_F64] = "f64",
    };
    return (unsigned)type <= GGUF_F64 ? names[type] : "unknown type";
}

const struct gguf_kv *gguf_meta_find(const struct gguf_meta *m, const char *key)
{
    int64_t i = name_table_find(&m->keys, key, strlen(key));
    return i < 0 ? NULL : &m->kv[i];
}

static int wrong_type(const char *path, const struct gguf_kv *kv, const char *expected, struct err *e)
{
    if (kv->type == GGUF_ARR)
        return err_set(e, ERR_FORMAT, "'%s': key '%s': expected %s, found an array of %s", path, kv->key,
                       expected, gguf_type_name(kv->elem));
    return err_set(e, ERR_FORMAT, "'%s': key '%s': expected %s, found %s", path, kv->key, expected,
                   gguf_type_name(kv->type));
}

/* The value of an integer scalar as magnitude and sign; false for other types. */
static bool integer(const struct gguf_kv *kv, uint64_t *magnitude, bool *negative)
{
    int64_t v = 0;
    uint64_t u = 0;
    switch (kv->type) {
    case GGUF_U8:
    case GGUF_U16:
    case GGUF_U32:
    case GGUF_U64: memcpy(&u, kv->raw, kv->raw_bytes); break;
    case GGUF_I8: v = (int8_t)kv->raw[0]; break;
    case GGUF_I16: {
        int16_t t;
        memcpy(&t, kv->raw, 2);
        v = t;
        break;
    }
    case GGUF_I32: {
        int32_t t;
        memcpy(&t, kv->raw, 4);
        v = t;
        break;
    }
    case GGUF_I64: memcpy(&v, kv->raw, 8); break;
    default: return false;
    }
    *negative = v < 0;
    *magnitude = v < 0 ? 0 - (uint64_t)v : v > 0 ? (uint64_t)v : u;
    return true;
}

int gguf_meta_uint(const struct gguf_meta *m, const char *path, const char *key, uint64_t max, uint64_t *out,
                   struct err *e)
{
    const struct gguf_kv *kv = gguf_meta_find(m, key);
    if (!kv) return 1;
    uint64_t v = 0;
    bool negative = false;
    if (!integer(kv, &v, &negative)) return wrong_type(path, kv, "an integer", e);
    if (negative || v > max)
        return err_set(e, ERR_FORMAT, "'%s': key '%s': expected an integer from 0 to %llu, found %s%llu",
                       path, key, (unsigned long long)max, negative ? "-" : "", (unsigned long long)v);
    *out = v;
    return 0;
}

int gguf_get_u64(const struct gguf *f, const char *key, uint64_t *out, struct err *e)
{
    return gguf_meta_uint(&f->meta, gguf_path(f), key, UINT64_MAX, out, e);
}

int gguf_get_u32(const struct gguf *f, const char *key, uint32_t *out, struct err *e)
{
    uint64_t v = 0;
    int rc = gguf_meta_uint(&f->meta, gguf_path(f), key, UINT32_MAX, &v, e);
    if (rc == 0) *out = (uint32_t)v;
    return rc;
}

int gguf_get_f32(const struct gguf *f, const char *key, float *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_meta_find(&f->meta, key);
    if (!kv) return 1;
    if (kv->type == GGUF_F32) {
        memcpy(out, kv->raw, 4);
        return 0;
    }
    if (kv->type != GGUF_F64) return wrong_type(gguf_path(f), kv, "a floating-point number", e);
    double d;
    memcpy(&d, kv->raw, 8);
    if (isfinite(d) && !isfinite((float)d))
        return err_set(e, ERR_FORMAT, "'%s': key '%s': expected a value that fits 32-bit floats, found %g",
                       gguf_path(f), key, d);
    *out = (float)d;
    return 0;
}

/* A bool of another value than 0 or 1 would be undefined behaviour. Files with such bytes exist, so they are
 * refused where they are used, not at open. */
static int check_bools(const char *path, const struct gguf_kv *kv, const uint8_t *p, uint64_t n,
                       struct err *e)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i] > 1)
            return err_set(e, ERR_FORMAT, "'%s': key '%s': expected bools of 0 or 1, found %u", path, kv->key,
                           p[i]);
    return 0;
}

int gguf_get_bool(const struct gguf *f, const char *key, bool *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_meta_find(&f->meta, key);
    if (!kv) return 1;
    if (kv->type != GGUF_BOOL) return wrong_type(gguf_path(f), kv, "a bool", e);
    if (check_bools(gguf_path(f), kv, kv->raw, 1, e)) return ERR_FORMAT;
    *out = kv->raw[0] != 0;
    return 0;
}

int gguf_get_str(const struct gguf *f, const char *key, struct gguf_str *out, struct err *e)
{
    const struct gguf_kv *kv = gguf_meta_find(&f->meta, key);
    if (!kv) return 1;
    if (kv->type != GGUF_STR) return wrong_type(gguf_path(f), kv, "a string", e);
    *out = (struct gguf_str){(const char *)kv->raw + 8, kv->raw_bytes - 8};
    return 0;
}

int gguf_get_arr(const struct gguf *f, const char *key, enum gguf_type elem, const void **data, uint64_t *n,
                 struct err *e)
{
    if (!gguf_type_bytes(elem))
        return err_set(e, ERR_ARG, "gguf_get_arr: %s is no number type", gguf_type_name(elem));
    const struct gguf_kv *kv = gguf_meta_find(&f->meta, key);
    if (!kv) return 1;
    if (kv->type != GGUF_ARR || kv->elem != elem) {
        char expected[32] = "an array of ";
        strcat(expected, gguf_type_name(elem));
        return wrong_type(gguf_path(f), kv, expected, e);
    }
    if (elem == GGUF_BOOL && check_bools(gguf_path(f), kv, kv->raw + 12, kv->n, e)) return ERR_FORMAT;
    *data = kv->raw + 12;
    *n = kv->n;
    return 0;
}

int gguf_get_strs(const struct gguf *f, const char *key, const struct gguf_str **strs, uint64_t *n,
                  struct err *e)
{
    const struct gguf_kv *kv = gguf_meta_find(&f->meta, key);
    if (!kv) return 1;
    if (kv->type != GGUF_ARR || kv->elem != GGUF_STR)
        return wrong_type(gguf_path(f), kv, "an array of strings", e);
    *strs = kv->strs;
    *n = kv->n;
    return 0;
}

int64_t gguf_n_kv(const struct gguf *f)
{
    return (int64_t)f->meta.n;
}

int64_t gguf_find(const struct gguf *f, const char *key)
{
    return name_table_find(&f->meta.keys, key, strlen(key));
}

const char *gguf_key(const struct gguf *f, int64_t i)
{
    return f->meta.kv[i].key;
}

enum gguf_type gguf_kv_type(const struct gguf *f, int64_t i)
{
    return f->meta.kv[i].type;
}

enum gguf_type gguf_arr_type(const struct gguf *f, int64_t i)
{
    return f->meta.kv[i].elem;
}

uint64_t gguf_arr_n(const struct gguf *f, int64_t i)
{
    return f->meta.kv[i].n;
}

const void *gguf_kv_raw(const struct gguf *f, int64_t i, uint64_t *n)
{
    *n = f->meta.kv[i].raw_bytes;
    return f->meta.kv[i].raw;
}

int64_t gguf_n_tensors(const struct gguf *f)
{
    return (int64_t)f->n_tensors;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *f, int64_t i)
{
    return &f->tensors[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *f, const char *name)
{
    int64_t i = name_table_find(&f->names, name, strlen(name));
    return i < 0 ? NULL : &f->tensors[i];
}

const char *gguf_path(const struct gguf *f)
{
    return f->shards[0].path;
}

int gguf_version(const struct gguf *f)
{
    return (int)f->version;
}

bool gguf_is_powerinfer(const struct gguf *f)
{
    return f->powerinfer;
}

uint64_t gguf_alignment(const struct gguf *f)
{
    return f->alignment;
}

int gguf_shards(const struct gguf *f)
{
    return f->n_shards;
}

const char *gguf_shard_path(const struct gguf *f, int shard)
{
    return f->shards[shard].path;
}

uint64_t gguf_shard_bytes(const struct gguf *f, int shard)
{
    return f->shards[shard].size;
}

uint64_t gguf_file_bytes(const struct gguf *f)
{
    uint64_t sum = 0;
    for (int i = 0; i < f->n_shards; i++) sum += f->shards[i].size; /* fits: each is a file that exists */
    return sum;
}
