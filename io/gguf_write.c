/* Writing GGUF v3: metadata and directory are collected in memory, tensor bytes are streamed behind them into
 * a temporary file that takes the final name only when it is whole (base/file.h). */
#include "base/checked.h"
#include "base/err.h"
#include "base/file.h"
#include "base/strbuf.h"
#include "io/gguf_priv.h"

#include <stdlib.h>
#include <string.h>

struct out_kv {
    char *key;
    uint32_t type;
    void *raw;
    size_t raw_bytes;
};

struct out_tensor {
    char *name;
    uint32_t type;
    int n_dims;
    uint64_t ne[4];
    uint64_t bytes, offset; /* offset in the data section: known once the header is written */
};

struct gguf_writer {
    struct file_out out;
    struct out_kv *kv;
    size_t n_kv, cap_kv;
    struct name_table keys;
    struct out_tensor *tensors;
    size_t n_tensors, cap_tensors;
    struct name_table names;
    uint64_t alignment;
    bool header_done;
    size_t current; /* tensor being written */
    uint64_t done;  /* bytes of it written */
    int failed;     /* a write went wrong: what is on disk is not what was asked for */
};

int gguf_writer_create(struct gguf_writer **out, const char *path, struct err *e)
{
    *out = NULL;
    struct gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "no memory to write '%s'", path);
    w->alignment = 32;
    int rc = file_out_open(&w->out, path, e);
    if (rc) {
        free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void gguf_writer_destroy(struct gguf_writer **w)
{
    if (!w || !*w) return;
    struct gguf_writer *g = *w;
    file_out_discard(&g->out);
    for (size_t i = 0; i < g->n_kv; i++) {
        free(g->kv[i].key);
        free(g->kv[i].raw);
    }
    for (size_t i = 0; i < g->n_tensors; i++) free(g->tensors[i].name);
    free(g->kv);
    free(g->tensors);
    name_table_finish(&g->keys);
    name_table_finish(&g->names);
    free(g);
    *w = NULL;
}

static int no_memory(const struct gguf_writer *w, struct err *e)
{
    return err_set(e, ERR_NOMEM, "no memory for the metadata of '%s'", w->out.path);
}

/* Before the header everything may be declared, afterwards nothing. */
static int check_open(const struct gguf_writer *w, struct err *e)
{
    if (w->header_done)
        return err_set(e, ERR_STATE, "gguf writer: keys and tensors come before the header is written");
    return 0;
}

/* Takes over `raw` (from malloc), also on failure. */
static int put_raw(struct gguf_writer *w, const char *key, enum gguf_type type, void *raw, size_t n,
                   struct err *e)
{
    int rc = raw ? check_open(w, e) : no_memory(w, e);
    size_t len = strlen(key);
    if (rc == 0 && (len == 0 || len > GGUF_KEY_MAX))
        rc = err_set(e, ERR_ARG, "gguf writer: a key has 1 to %d bytes, not %zu", GGUF_KEY_MAX, len);
    if (rc) goto fail;
    int64_t old = name_table_find(&w->keys, key, len);
    if (old >= 0) {
        free(w->kv[old].raw);
        w->kv[old].type = type;
        w->kv[old].raw = raw;
        w->kv[old].raw_bytes = n;
        return 0;
    }
    if (w->n_kv == w->cap_kv) {
        size_t cap = w->cap_kv ? w->cap_kv * 2 : 32;
        struct out_kv *kv = realloc(w->kv, cap * sizeof *kv);
        if (!kv) goto nomem;
        w->kv = kv;
        w->cap_kv = cap;
    }
    char *copy = strdup(key);
    if (!copy) goto nomem;
    uint32_t index = (uint32_t)w->n_kv;
    if (name_table_add(&w->keys, copy, len, &index) != 0) {
        free(copy);
        goto nomem;
    }
    w->kv[w->n_kv++] = (struct out_kv){copy, type, raw, n};
    return 0;
nomem:
    rc = no_memory(w, e);
fail:
    free(raw);
    return rc;
}

static int put_scalar(struct gguf_writer *w, const char *key, enum gguf_type type, const void *v, size_t n,
                      struct err *e)
{
    void *raw = malloc(n);
    if (raw) memcpy(raw, v, n);
    return put_raw(w, key, type, raw, n, e);
}

int gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v, struct err *e)
{
    return put_scalar(w, key, GGUF_U32, &v, sizeof v, e);
}

int gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v, struct err *e)
{
    return put_scalar(w, key, GGUF_U64, &v, sizeof v, e);
}

int gguf_put_i32(struct gguf_writer *w, const char *key, int32_t v, struct err *e)
{
    return put_scalar(w, key, GGUF_I32, &v, sizeof v, e);
}

int gguf_put_f32(struct gguf_writer *w, const char *key, float v, struct err *e)
{
    return put_scalar(w, key, GGUF_F32, &v, sizeof v, e);
}

int gguf_put_bool(struct gguf_writer *w, const char *key, bool v, struct err *e)
{
    uint8_t b = v;
    return put_scalar(w, key, GGUF_BOOL, &b, sizeof b, e);
}

int gguf_put_str(struct gguf_writer *w, const char *key, const char *s, struct err *e)
{
    uint64_t n = strlen(s);
    uint8_t *raw = malloc((size_t)n + 8);
    if (raw) {
        memcpy(raw, &n, 8);
        memcpy(raw + 8, s, n);
    }
    return put_raw(w, key, GGUF_STR, raw, (size_t)n + 8, e);
}

/* Memory for an array value of `bytes` element bytes, its head filled in. */
static uint8_t *array_raw(enum gguf_type elem, uint64_t n, uint64_t bytes)
{
    uint64_t total;
    uint32_t type = elem;
    uint8_t *raw = checked_add(bytes, 12, &total) && total <= PTRDIFF_MAX ? malloc((size_t)total) : NULL;
    if (!raw) return NULL;
    memcpy(raw, &type, 4);
    memcpy(raw + 4, &n, 8);
    return raw;
}

int gguf_put_arr(struct gguf_writer *w, const char *key, enum gguf_type elem, const void *data, uint64_t n,
                 struct err *e)
{
    uint64_t bytes;
    if (!gguf_type_bytes(elem))
        return err_set(e, ERR_ARG, "gguf writer: key '%s': %s is no number type", key, gguf_type_name(elem));
    if (!checked_mul(n, gguf_type_bytes(elem), &bytes)) return no_memory(w, e);
    uint8_t *raw = array_raw(elem, n, bytes);
    if (raw && n) memcpy(raw + 12, data, bytes);
    return put_raw(w, key, GGUF_ARR, raw, (size_t)bytes + 12, e);
}

int gguf_put_strs(struct gguf_writer *w, const char *key, const struct gguf_str *strs, uint64_t n,
                  struct err *e)
{
    uint64_t bytes = 0;
    bool fits = checked_mul(n, 8, &bytes);
    for (uint64_t i = 0; i < n && fits; i++) fits = checked_add(bytes, strs[i].n, &bytes);
    if (!fits) return no_memory(w, e);
    uint8_t *raw = array_raw(GGUF_STR, n, bytes), *p = raw ? raw + 12 : NULL;
    for (uint64_t i = 0; i < n && raw; i++) {
        memcpy(p, &strs[i].n, 8);
        if (strs[i].n) memcpy(p + 8, strs[i].s, strs[i].n);
        p += 8 + strs[i].n;
    }
    return put_raw(w, key, GGUF_ARR, raw, (size_t)bytes + 12, e);
}

static int copy_one(struct gguf_writer *w, const struct gguf_kv *kv, struct err *e)
{
    void *raw = malloc(kv->raw_bytes);
    if (raw) memcpy(raw, kv->raw, kv->raw_bytes);
    return put_raw(w, kv->key, kv->type, raw, kv->raw_bytes, e);
}

int gguf_put_copy(struct gguf_writer *w, const struct gguf *f, const char *key, struct err *e)
{
    if (key) {
        const struct gguf_kv *kv = gguf_meta_find(&f->meta, key);
        if (!kv) return err_set(e, ERR_ARG, "'%s' has no key '%s' to copy", gguf_path(f), key);
        return copy_one(w, kv, e);
    }
    int rc = 0;
    for (uint64_t i = 0; i < f->meta.n && rc == 0; i++)
        if (strncmp(f->meta.kv[i].key, "split.", 6) != 0) rc = copy_one(w, &f->meta.kv[i], e);
    return rc;
}

int gguf_declare(struct gguf_writer *w, const char *name, enum dtype type, int n_dims, const uint64_t *ne,
                 struct err *e)
{
    int rc = check_open(w, e);
    if (rc) return rc;
    size_t len = strlen(name);
    if (len == 0 || len > GGUF_NAME_MAX)
        return err_set(e, ERR_ARG, "gguf writer: a tensor name has 1 to %d bytes: '%s'", GGUF_NAME_MAX, name);
    if (n_dims < 1 || n_dims > 4)
        return err_set(e, ERR_ARG, "gguf writer: tensor '%s': 1 to 4 dimensions, not %d", name, n_dims);
    struct out_tensor t = {.type = type, .n_dims = n_dims, .ne = {1, 1, 1, 1}};
    uint64_t row;
    memcpy(t.ne, ne, (size_t)n_dims * sizeof *ne);
    bool ok = t.ne[0] && t.ne[1] && t.ne[2] && t.ne[3] && dtype_row_bytes(type, t.ne[0], &row) &&
              checked_mul(row, t.ne[1], &t.bytes) && checked_mul(t.bytes, t.ne[2], &t.bytes) &&
              checked_mul(t.bytes, t.ne[3], &t.bytes) && t.bytes <= INT64_MAX;
    if (!ok)
        return err_set(
            e, ERR_ARG,
            "gguf writer: tensor '%s': %llu x %llu x %llu x %llu is no shape for %s: rows are whole "
            "blocks, dimensions at least 1",
            name, (unsigned long long)t.ne[0], (unsigned long long)t.ne[1], (unsigned long long)t.ne[2],
            (unsigned long long)t.ne[3], dtype_name(type));
    if (w->n_tensors == w->cap_tensors) {
        size_t cap = w->cap_tensors ? w->cap_tensors * 2 : 64;
        struct out_tensor *p = realloc(w->tensors, cap * sizeof *p);
        if (!p) return no_memory(w, e);
        w->tensors = p;
        w->cap_tensors = cap;
    }
    t.name = strdup(name);
    if (!t.name) return no_memory(w, e);
    uint32_t index = (uint32_t)w->n_tensors;
    rc = name_table_add(&w->names, t.name, len, &index);
    if (rc) {
        free(t.name);
        return rc < 0 ? no_memory(w, e)
                      : err_set(e, ERR_ARG, "gguf writer: tensor '%s' is declared twice", name);
    }
    w->tensors[w->n_tensors++] = t;
    return 0;
}

/* general.alignment as put, else the format's default. */
static int find_alignment(struct gguf_writer *w, struct err *e)
{
    static const char key[] = "general.alignment";
    int64_t i = name_table_find(&w->keys, key, sizeof key - 1);
    if (i < 0) return 0;
    uint64_t v = 0;
    if (w->kv[i].type == GGUF_U32 || w->kv[i].type == GGUF_U64) memcpy(&v, w->kv[i].raw, w->kv[i].raw_bytes);
    if (v < GGUF_ALIGN_MIN || v > GGUF_ALIGN_MAX || (v & (v - 1)))
        return err_set(e, ERR_ARG, "gguf writer: %s is a u32 power of two from %d to %d", key, GGUF_ALIGN_MIN,
                       GGUF_ALIGN_MAX);
    w->alignment = v;
    return 0;
}

static void add_name(struct strbuf *b, const char *name)
{
    uint64_t n = strlen(name);
    strbuf_add(b, &n, 8);
    strbuf_add(b, name, (size_t)n);
}

static int write_padding(struct gguf_writer *w, uint64_t n, struct err *e)
{
    static const char zeros[4096];
    int rc = 0;
    for (; n && rc == 0; n -= n < sizeof zeros ? n : sizeof zeros)
        rc = file_out_write(&w->out, zeros, n < sizeof zeros ? (size_t)n : sizeof zeros, e);
    return rc;
}

static uint64_t padding(const struct gguf_writer *w, uint64_t n)
{
    return (w->alignment - n % w->alignment) % w->alignment;
}

int gguf_write_header(struct gguf_writer *w, struct err *e)
{
    int rc = check_open(w, e);
    if (rc == 0) rc = find_alignment(w, e);
    if (rc) return rc;
    uint64_t at = 0;
    for (size_t i = 0; i < w->n_tensors; i++) {
        struct out_tensor *t = &w->tensors[i];
        t->offset = at;
        if (!checked_add(at, t->bytes, &at) || !checked_align(at, w->alignment, &at) || at > INT64_MAX)
            return err_set(e, ERR_ARG, "gguf writer: the tensors of '%s' are too large for a file",
                           w->out.path);
    }
    struct strbuf b;
    strbuf_init(&b);
    uint32_t version = 3;
    uint64_t n_tensors = w->n_tensors, n_kv = w->n_kv;
    strbuf_add(&b, "GGUF", 4);
    strbuf_add(&b, &version, 4);
    strbuf_add(&b, &n_tensors, 8);
    strbuf_add(&b, &n_kv, 8);
    for (size_t i = 0; i < w->n_kv; i++) {
        add_name(&b, w->kv[i].key);
        strbuf_add(&b, &w->kv[i].type, 4);
        strbuf_add(&b, w->kv[i].raw, w->kv[i].raw_bytes);
    }
    for (size_t i = 0; i < w->n_tensors; i++) {
        const struct out_tensor *t = &w->tensors[i];
        uint32_t n_dims = (uint32_t)t->n_dims;
        add_name(&b, t->name);
        strbuf_add(&b, &n_dims, 4);
        strbuf_add(&b, t->ne, (size_t)n_dims * 8);
        strbuf_add(&b, &t->type, 4);
        strbuf_add(&b, &t->offset, 8);
    }
    if (b.failed)
        rc = no_memory(w, e);
    else
        rc = file_out_write(&w->out, b.s, b.len, e);
    if (rc == 0) rc = write_padding(w, padding(w, b.len), e);
    strbuf_finish(&b);
    w->header_done = rc == 0;
    w->failed = rc;
    return rc;
}

int gguf_write(struct gguf_writer *w, const void *data, size_t n, struct err *e)
{
    if (!w->header_done || w->failed)
        return err_set(e, ERR_STATE, "gguf writer: %s",
                       w->failed ? "an earlier write failed" : "tensor bytes come after the header");
    if (n == 0) return 0;
    if (w->current == w->n_tensors)
        return err_set(e, ERR_STATE, "gguf writer: %zu bytes after the last tensor of '%s'", n, w->out.path);
    const struct out_tensor *t = &w->tensors[w->current];
    if (n > t->bytes - w->done)
        return err_set(e, ERR_ARG,
                       "gguf writer: tensor '%s' has %llu bytes: %zu after the first %llu are too many",
                       t->name, (unsigned long long)t->bytes, n, (unsigned long long)w->done);
    int rc = file_out_write(&w->out, data, n, e);
    w->done += n;
    if (rc == 0 && w->done == t->bytes) {
        rc = write_padding(w, padding(w, t->bytes), e);
        w->current++;
        w->done = 0;
    }
    w->failed = rc;
    return rc;
}

static int check_header(const struct gguf_writer *w, struct err *e)
{
    if (w->header_done && !w->failed) return 0;
    return err_set(e, ERR_STATE, "gguf writer: %s",
                   w->failed ? "an earlier write failed" : "no header was written");
}

int gguf_writer_finish_header(struct gguf_writer *w, struct err *e)
{
    int rc = check_header(w, e);
    if (rc) return rc;
    if (w->current || w->done)
        return err_set(e, ERR_STATE, "gguf writer: tensor bytes were written to '%s'", w->out.path);
    w->failed = ERR_STATE; /* finished: nothing more can be written */
    return file_out_commit(&w->out, e);
}

int gguf_writer_finish(struct gguf_writer *w, struct err *e)
{
    int rc = check_header(w, e);
    if (rc) return rc;
    if (w->current < w->n_tensors)
        return err_set(e, ERR_STATE, "gguf writer: tensor '%s' has %llu bytes: only %llu were written",
                       w->tensors[w->current].name, (unsigned long long)w->tensors[w->current].bytes,
                       (unsigned long long)w->done);
    w->failed = ERR_STATE; /* finished: nothing more can be written */
    return file_out_commit(&w->out, e);
}
