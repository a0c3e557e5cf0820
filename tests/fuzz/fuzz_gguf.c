/* The GGUF parser, with a mutator that knows where the fields are: random flips in a file that is mostly text
 * and numbers rarely hit a count or length, and hardly ever with an interesting value. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/rng.h"
#include "io/gguf_priv.h"
#include "io/powerinfer.h"

#include <string.h>

static volatile uint64_t sink; /* keeps the reads */

static void touch(const void *p, uint64_t n)
{
    const uint8_t *b = p;
    for (uint64_t i = 0; i < n; i++) sink = sink + b[i];
}

static void use_keys(const struct gguf *f)
{
    struct err e;
    uint64_t total = 0;
    for (int64_t i = 0; i < gguf_n_kv(f); i++) {
        const char *key = gguf_key(f, i);
        PROMISE(gguf_find(f, key) == i);
        uint32_t u32;
        uint64_t u64, n;
        float f32;
        bool b;
        struct gguf_str s;
        const void *data;
        const struct gguf_str *strs;
        int got = 0;
        got += gguf_get_u32(f, key, &u32, &e) == 0;
        got += gguf_get_u64(f, key, &u64, &e) == 0;
        got += gguf_get_f32(f, key, &f32, &e) == 0;
        if (gguf_get_bool(f, key, &b, &e) == 0) sink = sink + b;
        if (gguf_get_str(f, key, &s, &e) == 0) touch(s.s, s.n);
        if (gguf_kv_type(f, i) == GGUF_ARR) {
            enum gguf_type t = gguf_arr_type(f, i);
            if (gguf_type_bytes(t) && gguf_get_arr(f, key, t, &data, &n, &e) == 0)
                touch(data, n * gguf_type_bytes(t));
            if (gguf_get_strs(f, key, &strs, &n, &e) == 0)
                for (uint64_t k = 0; k < n; k++) touch(strs[k].s, strs[k].n);
        }
        sink = sink + (uint64_t)got;
        uint64_t raw;
        const void *p = gguf_kv_raw(f, i, &raw);
        touch(p, raw);
        total += raw + strlen(key);
    }
    PROMISE(total <= gguf_file_bytes(f)); /* nothing is handed out twice */
}

static void use_tensors(const struct gguf *f, enum gguf_mode mode)
{
    struct err e;
    uint64_t total = 0;
    for (int64_t i = 0; i < gguf_n_tensors(f); i++) {
        const struct gguf_tensor *t = gguf_tensor(f, i);
        PROMISE(gguf_find_tensor(f, t->name) == t);
        PROMISE(t->n_dims >= 1 && t->n_dims <= 4 && dtype_info(t->type));
        PROMISE(t->bytes > 0 || gguf_is_powerinfer(f));
        PROMISE(t->bytes == t->row_bytes * t->ne[1] * t->ne[2] * t->ne[3]);
        if (mode == GGUF_META) continue;
        PROMISE(t->offset + t->bytes <= gguf_file_bytes(f));
        total += t->bytes;
        if (t->data) touch(t->data, t->bytes);
        uint8_t last;
        PROMISE(t->bytes == 0 || gguf_read_tensor(f, t, t->bytes - 1, &last, 1, &e) == 0);
        PROMISE(gguf_read_tensor(f, t, t->bytes, &last, 1, &e) == ERR_ARG);
    }
    PROMISE(total <= gguf_file_bytes(f)); /* tensors share no bytes */
}

static void use_powerinfer(const struct gguf *f, enum gguf_mode mode)
{
    struct err e;
    struct powerinfer_info info;
    if (powerinfer_describe(f, &info, &e) != 0 || info.kind != POWERINFER_INDEX || mode == GGUF_META) return;
    for (uint32_t i = 0; i < 4; i++) {
        int32_t *bucket;
        uint64_t n, neurons;
        if (powerinfer_layer(f, i, &bucket, &n, &neurons, &e) != 0) continue;
        PROMISE(n <= neurons);
        touch(bucket, n * 4);
        free(bucket);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int verdict[2];
    for (int i = 0; i < 2; i++) {
        enum gguf_mode mode = i ? GGUF_MMAP : GGUF_META;
        struct err e = {0};
        struct gguf *f;
        int rc = verdict[i] = gguf_open_memory(&f, data, size, "fuzz", mode, &e);
        PROMISE((rc == 0) == (f != NULL));
        PROMISE(rc == 0 || (rc == e.code && strstr(e.msg, "fuzz") && rc != ERR_NOMEM));
        if (rc) continue;
        use_keys(f);
        use_tensors(f, mode);
        use_powerinfer(f, mode);
        gguf_close(&f);
    }
    PROMISE(verdict[1] != 0 || verdict[0] == 0); /* what can be loaded can be listed */
    return 0;
}

/* ---- The mutator ---- */

struct field {
    size_t at;
    int bytes;
};
struct layout {
    struct field f[512];
    int n;
    size_t entry[2][256]; /* where keys and tensors begin, and where the last one ends */
    int entries[2];
};
struct walk {
    const uint8_t *p;
    size_t n, at;
    struct layout *l;
};

/* Notes a field of 4 or 8 bytes and returns its value; leaves at == n when there is none. */
static uint64_t field(struct walk *w, int bytes)
{
    uint64_t v = 0;
    if (w->n - w->at < (size_t)bytes) {
        w->at = w->n;
        return 0;
    }
    memcpy(&v, w->p + w->at, (size_t)bytes);
    if (w->l->n < 512) w->l->f[w->l->n++] = (struct field){w->at, bytes};
    w->at += (size_t)bytes;
    return v;
}

static void skip(struct walk *w, uint64_t n)
{
    w->at = n > w->n - w->at ? w->n : w->at + (size_t)n;
}

static void walk_value(struct walk *w, uint32_t type, int depth)
{
    if (type == GGUF_STR) {
        skip(w, field(w, 8));
    } else if (type == GGUF_ARR) {
        uint32_t elem = (uint32_t)field(w, 4);
        uint64_t n = field(w, 8);
        if (elem != GGUF_STR && elem != GGUF_ARR)
            skip(w, n > w->n ? w->n : n * gguf_type_bytes(elem));
        else
            for (uint64_t i = 0; i < n && i < 8 && w->at < w->n && depth < 8; i++)
                walk_value(w, elem == GGUF_ARR ? GGUF_ARR : GGUF_STR, depth + 1);
    } else if (gguf_type_bytes(type) >= 4) {
        field(w, (int)gguf_type_bytes(type));
    } else {
        skip(w, gguf_type_bytes(type));
    }
}

static void walk_entry(struct walk *w, int which)
{
    struct layout *l = w->l;
    if (l->entries[which] < 255) l->entry[which][l->entries[which]++] = w->at;
    skip(w, field(w, 8));
    if (which == 0) {
        walk_value(w, (uint32_t)field(w, 4), 0);
    } else {
        uint64_t dims = field(w, 4);
        for (uint64_t d = 0; d < dims && d < 5; d++) field(w, 8);
        field(w, 4);
        field(w, 8);
    }
    l->entry[which][l->entries[which]] = w->at;
}

static void find_fields(struct layout *l, const uint8_t *p, size_t n)
{
    struct walk w = {p, n, 0, l};
    *l = (struct layout){0};
    field(&w, 4);
    field(&w, 4);
    uint64_t tensors = field(&w, 8), keys = field(&w, 8);
    for (uint64_t i = 0; i < keys && w.at < n; i++) walk_entry(&w, 0);
    for (uint64_t i = 0; i < tensors && w.at < n; i++) walk_entry(&w, 1);
}

static uint64_t interesting(struct rng *r, uint64_t old, size_t size, const struct field *at)
{
    uint64_t left = size - at->at - (uint64_t)at->bytes;
    switch (rng_below(r, 14)) {
    case 0: return 0;
    case 1: return 1;
    case 2: return UINT64_MAX;
    case 3: return (uint64_t)1 << rng_below(r, 64);
    case 4: return ((uint64_t)1 << rng_below(r, 64)) - 1;
    case 5: return left;
    case 6: return left + 1;
    case 7: return left / (1 + rng_below(r, 32));
    case 8: return old + 1;
    case 9: return old - 1;
    case 10: return old * 2;
    case 11: return 0 - old;
    case 12: return rng_below(r, 42); /* a type, a small count */
    default: return UINT64_MAX - left;
    }
}

/* Doubles (or, one time in three, removes) an entry of the keys or tensors and corrects the count. */
static size_t change_entries(struct rng *r, const struct layout *l, uint8_t *data, size_t size, size_t max)
{
    int which = (int)rng_below(r, 2);
    if (l->entries[which] == 0) return size;
    uint64_t i = rng_below(r, (uint64_t)l->entries[which]), count;
    size_t begin = l->entry[which][i], end = l->entry[which][i + 1], n = end - begin;
    uint8_t *at = data + (which ? 8 : 16);
    memcpy(&count, at, 8);
    if (end > size || end < begin) return size;
    if (rng_below(r, 3) == 0) {
        memmove(data + begin, data + end, size - end);
        size -= n;
        count--;
    } else {
        if (size + n > max) return size;
        memmove(data + end + n, data + end, size - end);
        memcpy(data + end, data + begin, n);
        if (n > 8) data[end + 8] ^= (uint8_t)(1 + rng_below(r, 7)); /* another name */
        size += n;
        count++;
    }
    memcpy(at, &count, 8);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    static struct layout l;
    struct rng r;
    rng_init(&r, seed);
    uint64_t kind = rng_below(&r, 10);
    if (size < 24 || kind == 0) return LLVMFuzzerMutate(data, size, max);
    find_fields(&l, data, size);
    if (kind <= 2) return change_entries(&r, &l, data, size, max);
    if (kind == 3 && size < max) { /* more data: tensors come into range */
        size_t n = 1 + rng_below(&r, max - size < 512 ? max - size : 512);
        memset(data + size, 0, n);
        return size + n;
    }
    for (uint64_t k = 1 + rng_below(&r, 2); k > 0 && l.n; k--) {
        const struct field *f = &l.f[rng_below(&r, (uint64_t)l.n)];
        uint64_t v = 0;
        memcpy(&v, data + f->at, (size_t)f->bytes);
        v = interesting(&r, v, size, f);
        memcpy(data + f->at, &v, (size_t)f->bytes);
    }
    return size;
}
