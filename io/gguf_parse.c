/* The GGUF metadata parser: header, keys, tensor directory. Everything here comes from an untrusted file, so
 * every count and length is compared with the bytes that are left before it is used, and all arithmetic on
 * them goes through base/checked.h. The metadata is read once into private memory (never from a mapping):
 * what was checked cannot change under us, and a file that shrinks meanwhile raises no signal. */
#include "base/checked.h"
#include "base/err.h"
#include "base/file.h"
#include "io/gguf_priv.h"

#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF numbers are used as stored: little-endian machines only"
#endif

struct cursor {
    struct gguf_shard *s;
    uint64_t pos;
    uint64_t limit; /* metadata ends here at the latest */
    struct err *e;
};

/* Makes the next n bytes readable, without moving. */
static int need(struct cursor *c, uint64_t n, const char *what)
{
    if (n > c->limit - c->pos) {
        if (c->limit < c->s->size)
            return err_set(
                c->e, ERR_FORMAT,
                "'%s': offset %llu: %.100s has %llu bytes: the metadata would be larger than the %d MiB "
                "that are read at most",
                c->s->path, (unsigned long long)c->pos, what, (unsigned long long)n, GGUF_META_MAX >> 20);
        return err_set(
            c->e, ERR_FORMAT,
            "'%s': offset %llu: the file ends inside %.100s: expected %llu bytes, found %llu (is the "
            "download complete?)",
            c->s->path, (unsigned long long)c->pos, what, (unsigned long long)n,
            (unsigned long long)(c->limit - c->pos));
    }
    uint64_t end = c->pos + n, have = c->s->meta_bytes;
    if (end <= have) return 0;
    uint64_t get = end - have < (64 << 10) ? (64 << 10) : end - have;
    if (get > c->limit - have) get = c->limit - have;
    int rc = file_read_at(c->s->fd, c->s->path, c->s->meta + have, (size_t)get, have, c->e);
    if (rc) return rc;
    c->s->meta_bytes = have + get;
    return 0;
}

static int take(struct cursor *c, void *out, size_t n, const char *what)
{
    int rc = need(c, n, what);
    if (rc) return rc;
    memcpy(out, c->s->meta + c->pos, n);
    c->pos += n;
    return 0;
}

/* A length and that many bytes behind it; *at is where the bytes are. */
static int take_str(struct cursor *c, uint64_t max, const char *what, uint8_t **at, uint64_t *n)
{
    uint64_t len;
    int rc = take(c, &len, 8, what);
    if (rc) return rc;
    if (len > max) {
        c->pos -= 8;
        return err_set(c->e, ERR_FORMAT,
                       "'%s': offset %llu: %.100s: expected a length of at most %llu, found %llu", c->s->path,
                       (unsigned long long)c->pos, what, (unsigned long long)max, (unsigned long long)len);
    }
    rc = need(c, len, what);
    if (rc) return rc;
    *at = c->s->meta + c->pos;
    *n = len;
    c->pos += len;
    return 0;
}

/* A name: 1 … max bytes that can be handed out as a C string and shown on a terminal. */
static int take_name(struct cursor *c, uint64_t max, const char *what, uint8_t **at, uint64_t *n)
{
    int rc = take_str(c, max, what, at, n);
    if (rc) return rc;
    uint64_t i = 0;
    while (i < *n && (*at)[i] >= 0x20 && (*at)[i] != 0x7f) i++;
    if (*n && i == *n) return 0;
    c->pos -= *n - i;
    if (*n == 0)
        return err_set(c->e, ERR_FORMAT,
                       "'%s': offset %llu: %s: expected at least one byte, found an empty one", c->s->path,
                       (unsigned long long)c->pos, what);
    return err_set(c->e, ERR_FORMAT, "'%s': offset %llu: %s: expected no control characters, found byte %02x",
                   c->s->path, (unsigned long long)c->pos, what, (*at)[i]);
}

unsigned gguf_type_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return type < sizeof bytes ? bytes[type] : 0;
}

/* Passes n elements of a scalar type. */
static int skip_scalars(struct cursor *c, uint32_t type, uint64_t n, const char *key)
{
    uint64_t bytes;
    if (!checked_mul(n, gguf_type_bytes(type), &bytes)) bytes = UINT64_MAX;
    int rc = need(c, bytes, key);
    if (rc) return rc;
    c->pos += bytes;
    return 0;
}

static int take_type(struct cursor *c, uint32_t *type, const char *key)
{
    int rc = take(c, type, 4, key);
    if (rc) return rc;
    if (*type <= GGUF_F64) return 0;
    c->pos -= 4;
    return err_set(c->e, ERR_FORMAT,
                   "'%s': offset %llu: key '%.100s': expected a value type of 0 to %d, found %u", c->s->path,
                   (unsigned long long)c->pos, key, GGUF_F64, *type);
}

/* Element type and count of an array, the count checked against the bytes left. */
static int take_array_head(struct cursor *c, uint32_t *elem, uint64_t *n, const char *key)
{
    int rc = take_type(c, elem, key);
    if (rc == 0) rc = take(c, n, 8, key);
    if (rc) return rc;
    uint64_t least = *elem == GGUF_ARR ? 12 : *elem == GGUF_STR ? 8 : gguf_type_bytes(*elem);
    uint64_t left = c->limit - c->pos;
    if (*n > left / least) {
        c->pos -= 8;
        return err_set(
            c->e, ERR_FORMAT,
            "'%s': offset %llu: key '%.100s': array of %llu elements: the %llu bytes left hold at most "
            "%llu",
            c->s->path, (unsigned long long)c->pos, key, (unsigned long long)*n, (unsigned long long)left,
            (unsigned long long)(left / least));
    }
    return 0;
}

/* Passes an array's elements; arrays in arrays with a stack of what is left to do, not by recursion. */
static int skip_array(struct cursor *c, uint32_t elem, uint64_t n, const char *key)
{
    uint64_t left[GGUF_DEPTH_MAX];
    int depth = 0;
    for (;;) {
        int rc = 0;
        if (elem == GGUF_ARR) {
            if (n > 0) {
                if (depth + 1 >= GGUF_DEPTH_MAX)
                    return err_set(
                        c->e, ERR_FORMAT,
                        "'%s': offset %llu: key '%.100s': expected arrays nested at most %d deep, found "
                        "more",
                        c->s->path, (unsigned long long)c->pos, key, GGUF_DEPTH_MAX);
                left[depth++] = n;
            }
        } else if (elem == GGUF_STR) {
            uint8_t *at;
            uint64_t len;
            for (uint64_t i = 0; i < n && rc == 0; i++) rc = take_str(c, UINT64_MAX, key, &at, &len);
        } else {
            rc = skip_scalars(c, elem, n, key);
        }
        if (rc) return rc;
        while (depth > 0 && left[depth - 1] == 0) depth--;
        if (depth == 0) return 0;
        left[depth - 1]--;
        rc = take_array_head(c, &elem, &n, key);
        if (rc) return rc;
    }
}

/* The table of an array of strings whose bytes were all checked. */
static int build_strs(struct cursor *c, struct gguf_kv *kv)
{
    if (kv->n == 0) return 0;
    uint64_t bytes;
    if (!checked_mul(kv->n, sizeof *kv->strs, &bytes) || !(kv->strs = malloc((size_t)bytes)))
        return err_set(c->e, ERR_NOMEM, "'%s': key '%.100s': no memory for its %llu strings", c->s->path,
                       kv->key, (unsigned long long)kv->n);
    const uint8_t *p = kv->raw + 12;
    for (uint64_t i = 0; i < kv->n; i++) {
        memcpy(&kv->strs[i].n, p, 8);
        kv->strs[i].s = (const char *)p + 8;
        p += 8 + kv->strs[i].n;
    }
    return 0;
}

static int parse_kv(struct cursor *c, struct gguf_meta *m)
{
    if (m->n == m->cap) {
        uint64_t cap = m->cap ? m->cap * 2 : 32;
        struct gguf_kv *kv = realloc(m->kv, (size_t)cap * sizeof *kv);
        if (!kv) return err_set(c->e, ERR_NOMEM, "'%s': no memory for its keys", c->s->path);
        m->kv = kv;
        m->cap = cap;
    }
    struct gguf_kv *kv = &m->kv[m->n];
    *kv = (struct gguf_kv){0};
    uint64_t start = c->pos, len;
    uint8_t *key;
    uint32_t type, elem = 0;
    int rc = take_name(c, GGUF_KEY_MAX, "a key's name", &key, &len);
    if (rc) return rc;
    rc = need(c, 4, "a key's type");
    if (rc) return rc;
    memcpy(&type, c->s->meta + c->pos, 4);
    /* Names become C strings in place: the byte behind one belongs to the field that was just read. */
    key[len] = 0;
    kv->key = (const char *)key;
    if (type > GGUF_F64)
        return err_set(c->e, ERR_FORMAT,
                       "'%s': offset %llu: key '%.100s': expected a value type of 0 to %d, found %u",
                       c->s->path, (unsigned long long)c->pos, kv->key, GGUF_F64, type);
    c->pos += 4;
    uint32_t index = (uint32_t)m->n;
    rc = name_table_add(&m->keys, kv->key, len, &index);
    if (rc < 0) return err_set(c->e, ERR_NOMEM, "'%s': no memory for its keys", c->s->path);
    if (rc > 0)
        return err_set(c->e, ERR_FORMAT, "'%s': offset %llu: key '%.100s' is there twice (keys %u and %llu)",
                       c->s->path, (unsigned long long)start, kv->key, index, (unsigned long long)m->n);
    kv->type = (enum gguf_type)type;
    kv->raw = c->s->meta + c->pos;
    start = c->pos;
    if (type == GGUF_STR) {
        uint8_t *at;
        rc = take_str(c, UINT64_MAX, kv->key, &at, &len);
    } else if (type == GGUF_ARR) {
        rc = take_array_head(c, &elem, &kv->n, kv->key);
        if (rc == 0) rc = skip_array(c, elem, kv->n, kv->key);
        kv->elem = (enum gguf_type)elem;
    } else {
        rc = skip_scalars(c, type, 1, kv->key);
    }
    if (rc) return rc;
    kv->raw_bytes = c->pos - start;
    m->n++; /* from here on gguf_meta_finish frees kv->strs */
    return type == GGUF_ARR && elem == GGUF_STR ? build_strs(c, kv) : 0;
}

static int tensor_bad(struct cursor *c, const struct gguf_tensor *t, const char *what, uint64_t found)
{
    return err_set(c->e, ERR_FORMAT, "'%s': offset %llu: tensor '%s': expected %s, found %llu", c->s->path,
                   (unsigned long long)c->pos, t->name, what, (unsigned long long)found);
}

/* PowerInfer's index files have an empty list where a layer has no neuron on the GPU: the one place where a
 * dimension of 0 means something. */
static bool may_be_empty(const struct gguf *f, const char *name)
{
    static const char list[] = ".gpu_bucket";
    size_t n = strlen(name);
    return f->powerinfer && n > sizeof list && strcmp(name + n - (sizeof list - 1), list) == 0;
}

/* Reads one directory entry; t->offset stays relative to the data section. */
static int parse_tensor(struct cursor *c, struct gguf *f, struct gguf_tensor *t, uint64_t alignment)
{
    uint64_t len, n, rows = 1;
    uint8_t *name;
    uint32_t n_dims, type;
    int rc = take_name(c, GGUF_NAME_MAX, "a tensor's name", &name, &len);
    if (rc == 0) rc = take(c, &n_dims, 4, "a tensor's number of dimensions");
    if (rc) return rc;
    name[len] = 0; /* over n_dims, see parse_kv */
    t->name = (const char *)name;
    uint32_t index = (uint32_t)f->n_tensors;
    rc = name_table_add(&f->names, t->name, len, &index);
    if (rc < 0) return err_set(c->e, ERR_NOMEM, "'%s': no memory for its tensors", c->s->path);
    if (rc > 0)
        return err_set(c->e, ERR_FORMAT,
                       "'%s': offset %llu: tensor '%s' is there twice (tensors %u and %llu)", c->s->path,
                       (unsigned long long)(c->pos - 12 - len), t->name, index,
                       (unsigned long long)f->n_tensors);
    if (n_dims < 1 || n_dims > 4) return tensor_bad(c, t, "1 to 4 dimensions", n_dims);
    t->n_dims = (int)n_dims;
    for (uint32_t d = 0; d < 4; d++) {
        t->ne[d] = 1;
        if (d >= n_dims) continue;
        rc = take(c, &t->ne[d], 8, "a tensor's shape");
        if (rc) return rc;
        if (t->ne[d] == 0 && n_dims == 1 && may_be_empty(f, t->name)) continue;
        if (t->ne[d] < 1 || t->ne[d] > INT64_MAX)
            return tensor_bad(c, t, "dimensions of at least 1", t->ne[d]);
    }
    rc = take(c, &type, 4, "a tensor's type");
    if (rc == 0) rc = take(c, &t->offset, 8, "a tensor's offset");
    if (rc) return rc;
    const struct dtype_info *info = dtype_info(type);
    if (!info)
        return err_set(c->e, ERR_FORMAT,
                       "'%s': offset %llu: tensor '%s': expected a known type, found number %u (written by a "
                       "newer program?)",
                       c->s->path, (unsigned long long)c->pos - 12, t->name, type);
    t->type = (enum dtype)type;
    if (t->ne[0] % info->block)
        return err_set(c->e, ERR_FORMAT,
                       "'%s': tensor '%s': expected rows of whole %s blocks of %u values, found rows of %llu",
                       c->s->path, t->name, info->name, info->block, (unsigned long long)t->ne[0]);
    for (uint32_t d = 1; d < n_dims; d++)
        if (!checked_mul(rows, t->ne[d], &rows)) rows = UINT64_MAX;
    if (!checked_mul(rows, t->ne[0], &n) || n > INT64_MAX ||
        !dtype_row_bytes(type, t->ne[0], &t->row_bytes) || !checked_mul(rows, t->row_bytes, &t->bytes) ||
        t->bytes > INT64_MAX)
        return err_set(
            c->e, ERR_FORMAT,
            "'%s': tensor '%s': its shape %llu x %llu x %llu x %llu has more values than a file can "
            "hold",
            c->s->path, t->name, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
            (unsigned long long)t->ne[2], (unsigned long long)t->ne[3]);
    if (t->offset % alignment)
        return err_set(c->e, ERR_FORMAT,
                       "'%s': tensor '%s': expected an offset that is a multiple of %llu, found %llu",
                       c->s->path, t->name, (unsigned long long)alignment, (unsigned long long)t->offset);
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct gguf_tensor *const *x = a, *const *y = b;
    return ((*x)->offset > (*y)->offset) - ((*x)->offset < (*y)->offset);
}

/* Tensors must not share bytes: no writer makes such files, and what reads one tensor must not see another.
 */
static int check_overlaps(struct cursor *c, const struct gguf_tensor *t, uint64_t n)
{
    bool sorted = true;
    for (uint64_t i = 1; i < n && sorted; i++) sorted = t[i].offset >= t[i - 1].offset + t[i - 1].bytes;
    if (sorted) return 0;
    const struct gguf_tensor **order = malloc((size_t)n * sizeof *order);
    if (!order) return err_set(c->e, ERR_NOMEM, "'%s': no memory for its tensors", c->s->path);
    for (uint64_t i = 0; i < n; i++) order[i] = &t[i];
    qsort(order, (size_t)n, sizeof *order, by_offset);
    int rc = 0;
    for (uint64_t i = 1; i < n && rc == 0; i++) {
        uint64_t end = order[i - 1]->offset + order[i - 1]->bytes;
        if (order[i]->offset < end)
            rc = err_set(c->e, ERR_FORMAT,
                         "'%s': tensor '%s' begins at byte %llu, inside '%s' (which ends at %llu)",
                         c->s->path, order[i]->name, (unsigned long long)order[i]->offset, order[i - 1]->name,
                         (unsigned long long)end);
    }
    free(order);
    return rc;
}

/* Turns offsets into absolute ones and checks that each tensor with its padding lies inside the file. */
static int place_tensors(struct cursor *c, struct gguf *f, int shard, uint64_t first, uint64_t alignment)
{
    uint64_t n = f->n_tensors - first, data;
    c->s->meta_end = c->pos;
    if (n == 0) return 0;
    struct gguf_tensor *t = f->tensors + first;
    if (!checked_align(c->pos, alignment, &data)) data = UINT64_MAX;
    bool metadata_only = c->s->size <= data, weights = false;
    for (uint64_t i = 0; i < n; i++) weights |= t[i].bytes > 0;
    if (metadata_only && weights && f->mode != GGUF_META)
        return err_set(
            c->e, ERR_FORMAT,
            "'%s' is a header without weights (as `calor synth --profile-only` writes, or a download "
            "that has just begun): it can be inspected and planned with, not run; expected the first "
            "tensor from byte %llu on, but the file ends at %llu",
            c->s->path, (unsigned long long)data, (unsigned long long)c->s->size);
    for (uint64_t i = 0; i < n; i++, t++) {
        uint64_t end, padded;
        if (!checked_add(t->offset, data, &t->offset) || !checked_add(t->offset, t->bytes, &end) ||
            !checked_align(end, alignment, &padded) || padded > INT64_MAX)
            return err_set(c->e, ERR_FORMAT,
                           "'%s': tensor '%s': its offset %llu plus its %llu bytes is no "
                           "place in a file",
                           c->s->path, t->name, (unsigned long long)t->offset, (unsigned long long)t->bytes);
        if (padded > c->s->size && !metadata_only)
            return err_set(
                c->e, ERR_FORMAT,
                "'%s': tensor '%s': expected bytes %llu to %llu (padded to %llu), but the file ends "
                "at %llu (is the download complete?)",
                c->s->path, t->name, (unsigned long long)t->offset, (unsigned long long)end,
                (unsigned long long)padded, (unsigned long long)c->s->size);
        t->shard = shard;
    }
    return check_overlaps(c, f->tensors + first, n);
}

static int parse_header(struct cursor *c, bool *powerinfer, uint32_t *version, uint64_t *n_tensors,
                        uint64_t *n_kv)
{
    unsigned char magic[4];
    const char *path = c->s->path;
    int rc = take(c, magic, 4, "the magic number");
    if (rc) return rc;
    *powerinfer = memcmp(magic, "PWRI", 4) == 0;
    if (!*powerinfer && memcmp(magic, "GGUF", 4) != 0) {
        if (memcmp(magic, "lmgg", 4) == 0 || memcmp(magic, "tjgg", 4) == 0 || memcmp(magic, "algg", 4) == 0 ||
            memcmp(magic, "fmgg", 4) == 0)
            return err_set(c->e, ERR_UNSUPPORTED,
                           "'%s' is a GGML file, older than GGUF: convert the original model again", path);
        return err_set(c->e, ERR_FORMAT,
                       "'%s' is not a GGUF file: expected magic 'GGUF' (47 47 55 46) or 'PWRI', found "
                       "%02x %02x %02x %02x",
                       path, magic[0], magic[1], magic[2], magic[3]);
    }
    rc = take(c, version, 4, "the version");
    if (rc) return rc;
    if (*version == 1)
        return err_set(c->e, ERR_UNSUPPORTED,
                       "'%s' is GGUF version 1 (32-bit lengths, of August 2023): expected version 2 or 3; "
                       "convert the original model again",
                       path);
    if (*version != 2 && *version != 3) {
        uint32_t swapped = __builtin_bswap32(*version);
        if (swapped >= 1 && swapped <= 0xff)
            return err_set(c->e, ERR_UNSUPPORTED,
                           "'%s' is big-endian GGUF (version %u): expected little-endian; convert it with "
                           "gguf_convert_endian.py",
                           path, swapped);
        return err_set(c->e, ERR_UNSUPPORTED, "'%s' is GGUF version %u: expected version 2 or 3", path,
                       *version);
    }
    rc = take(c, n_tensors, 8, "the number of tensors");
    if (rc == 0) rc = take(c, n_kv, 8, "the number of keys");
    if (rc) return rc;
    uint64_t left = c->limit - c->pos;
    if (*n_tensors > left / GGUF_INFO_MIN || *n_kv > left / GGUF_KV_MIN)
        return err_set(
            c->e, ERR_FORMAT,
            "'%s': the header promises %llu tensors and %llu keys: the %llu bytes behind it hold at "
            "most %llu and %llu",
            path, (unsigned long long)*n_tensors, (unsigned long long)*n_kv, (unsigned long long)left,
            (unsigned long long)(left / GGUF_INFO_MIN), (unsigned long long)(left / GGUF_KV_MIN));
    return 0;
}

/* Tensors that are used where they lie need an alignment their element types can live with; a listing does
 * not care. */
static int parse_alignment(struct cursor *c, const struct gguf_meta *m, enum gguf_mode mode,
                           uint64_t *alignment)
{
    *alignment = 32;
    int rc = gguf_meta_uint(m, c->s->path, "general.alignment", UINT64_MAX, alignment, c->e);
    if (rc < 0) return rc;
    uint64_t a = *alignment, least = mode == GGUF_META ? 1 : GGUF_ALIGN_MIN;
    if (a < least || a > GGUF_ALIGN_MAX || (a & (a - 1)))
        return err_set(c->e, ERR_FORMAT,
                       "'%s': key 'general.alignment': expected a power of two from %llu to %d, found %llu",
                       c->s->path, (unsigned long long)least, GGUF_ALIGN_MAX, (unsigned long long)a);
    return 0;
}

int gguf_parse(struct gguf *f, int shard, struct gguf_meta *m, struct err *e)
{
    struct gguf_shard *s = &f->shards[shard];
    struct cursor c = {s, 0, s->size < GGUF_META_MAX ? s->size : GGUF_META_MAX, e};
    uint64_t n_tensors = 0, n_kv = 0, alignment = 32, first = f->n_tensors;
    uint32_t version = 0;
    bool powerinfer = false;
    int rc = parse_header(&c, &powerinfer, &version, &n_tensors, &n_kv);
    if (shard == 0) f->powerinfer = powerinfer;
    for (uint64_t i = 0; i < n_kv && rc == 0; i++) rc = parse_kv(&c, m);
    if (rc == 0) rc = parse_alignment(&c, m, f->mode, &alignment);
    if (rc) return rc;
    if (shard == 0) {
        f->version = version;
        f->alignment = alignment;
    }
    for (uint64_t i = 0; i < n_tensors; i++) {
        if (f->n_tensors == f->cap_tensors) {
            uint64_t cap = f->cap_tensors ? f->cap_tensors * 2 : 64;
            struct gguf_tensor *t = realloc(f->tensors, (size_t)cap * sizeof *t);
            if (!t) return err_set(e, ERR_NOMEM, "'%s': no memory for its tensors", s->path);
            f->tensors = t;
            f->cap_tensors = cap;
        }
        struct gguf_tensor *t = &f->tensors[f->n_tensors];
        *t = (struct gguf_tensor){0};
        rc = parse_tensor(&c, f, t, alignment);
        if (rc) return rc;
        f->n_tensors++;
    }
    return place_tensors(&c, f, shard, first, alignment);
}

void gguf_meta_finish(struct gguf_meta *m)
{
    for (uint64_t i = 0; i < m->n; i++) free(m->kv[i].strs);
    free(m->kv);
    name_table_finish(&m->keys);
    *m = (struct gguf_meta){0};
}
