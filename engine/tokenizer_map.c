/* The tokenizer's small machinery: string table, UTF-8, the queue of possible merges, growable output. */
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

#define HASH_BASE 0x9e3779b97f4a7c15ull

uint64_t tok_hash(const char *s, size_t n)
{
    uint64_t h = 0;
    for (size_t i = 0; i < n; i++) h = h * HASH_BASE + (uint8_t)s[i] + 1;
    return h;
}

uint64_t tok_hash_power(size_t n)
{
    uint64_t p = 1, b = HASH_BASE;
    for (; n; n >>= 1, b *= b)
        if (n & 1) p *= b;
    return p;
}

/* The low bits of a polynomial hash depend on little: a multiplication brings everything to the top. */
static uint32_t slot_of(uint64_t hash)
{
    return (uint32_t)(((hash ^ (hash >> 29)) * 0xff51afd7ed558ccdull) >> 32);
}

bool tok_map_init(struct tokenizer *t, uint64_t n)
{
    uint64_t slots = 16;
    while (slots < n * 2) slots *= 2;
    if (slots > UINT32_MAX) return false;
    t->map.slot = calloc(slots, sizeof *t->map.slot);
    t->map.mask = (uint32_t)(slots - 1);
    return t->map.slot != NULL;
}

uint32_t tok_map_find(const struct tokenizer *t, const char *s, size_t n, uint64_t hash)
{
    if (!t->map.slot) return TOK_NO_SYM;
    for (uint32_t i = slot_of(hash) & t->map.mask;; i = (i + 1) & t->map.mask) {
        uint32_t id = t->map.slot[i];
        if (!id--) return TOK_NO_SYM;
        if (t->hash[id] == hash && t->text[id].n == n && memcmp(t->text[id].s, s, n) == 0) return id;
    }
}

uint32_t tok_map_put(struct tokenizer *t, uint32_t sym)
{
    const struct tok_text *x = &t->text[sym];
    for (uint32_t i = slot_of(t->hash[sym]) & t->map.mask;; i = (i + 1) & t->map.mask) {
        uint32_t id = t->map.slot[i];
        if (!id) {
            t->map.slot[i] = sym + 1;
            return TOK_NO_SYM;
        }
        id--;
        if (t->hash[id] == t->hash[sym] && t->text[id].n == x->n && memcmp(t->text[id].s, x->s, x->n) == 0) {
            t->map.slot[i] = sym + 1;
            return id;
        }
    }
}

int tok_utf8_len(const char *s, size_t n)
{
    const uint8_t *p = (const uint8_t *)s;
    if (n == 0) return 0;
    if (p[0] < 0x80) return 1;
    if (p[0] < 0xc2 || n < 2) return 0;
    if (p[0] < 0xe0) return (p[1] & 0xc0) == 0x80 ? 2 : 0;
    if (p[0] < 0xf0) {
        if (n < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80) return 0;
        if (p[0] == 0xe0 && p[1] < 0xa0) return 0; /* overlong */
        if (p[0] == 0xed && p[1] > 0x9f) return 0; /* surrogate */
        return 3;
    }
    if (p[0] > 0xf4 || n < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80 || (p[3] & 0xc0) != 0x80)
        return 0;
    if ((p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f)) return 0;
    return 4;
}

uint32_t tok_utf8_code(const char *s, int len)
{
    const uint8_t *p = (const uint8_t *)s;
    switch (len) {
    case 1: return p[0];
    case 2: return (uint32_t)(p[0] & 31) << 6 | (p[1] & 63);
    case 3: return (uint32_t)(p[0] & 15) << 12 | (uint32_t)(p[1] & 63) << 6 | (p[2] & 63);
    default:
        return (uint32_t)(p[0] & 7) << 18 | (uint32_t)(p[1] & 63) << 12 | (uint32_t)(p[2] & 63) << 6 |
               (p[3] & 63);
    }
}

void tok_ids_add(struct tok_ids *o, int32_t id)
{
    if (o->failed) return;
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 64;
        int32_t *v = realloc(o->v, cap * sizeof *v);
        if (!v) {
            o->failed = true;
            return;
        }
        o->v = v;
        o->cap = cap;
    }
    o->v[o->n++] = id;
}

void tok_work_finish(struct tok_work *w)
{
    free(w->sym);
    free(w->heap);
    free(w->buf);
}

static bool grow(void **p, size_t *cap, size_t n, size_t size, bool *failed)
{
    if (n <= *cap) return true;
    size_t want = *cap ? *cap : 64;
    while (want < n) want *= 2;
    void *q = want > SIZE_MAX / size ? NULL : realloc(*p, want * size);
    if (!q) {
        *failed = true;
        return false;
    }
    *p = q;
    *cap = want;
    return true;
}

bool tok_work_syms(struct tok_work *w, size_t n)
{
    return grow((void **)&w->sym, &w->cap_sym, n, sizeof *w->sym, &w->failed);
}

bool tok_work_buf(struct tok_work *w, size_t n)
{
    return grow((void **)&w->buf, &w->cap_buf, n, 1, &w->failed);
}

void tok_heap_push(struct tok_work *w, struct tok_cand c)
{
    if (!grow((void **)&w->heap, &w->cap_heap, w->n_heap + 1, sizeof *w->heap, &w->failed)) return;
    size_t i = w->n_heap++;
    while (i) {
        size_t up = (i - 1) / 2;
        if (w->heap[up].order <= c.order) break;
        w->heap[i] = w->heap[up];
        i = up;
    }
    w->heap[i] = c;
}

struct tok_cand tok_heap_pop(struct tok_work *w)
{
    struct tok_cand top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0, n = w->n_heap;
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        if (kid + 1 < n && w->heap[kid + 1].order < w->heap[kid].order) kid++;
        if (last.order <= w->heap[kid].order) break;
        w->heap[i] = w->heap[kid];
    }
    if (n) w->heap[i] = last;
    return top;
}
