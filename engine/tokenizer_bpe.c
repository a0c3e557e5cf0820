/* Byte-pair encoding as GPT-2's family does it: each byte of a word is a character, and the neighbours whose
 * merge has the lowest rank are joined, the leftmost first among equals. Strings are numbers here (symbols),
 * so a step costs one look-up of a pair of numbers. */
#include "engine/tokenizer_parts.h"

#include "base/err.h"
#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

/* GPT-2 writes the 188 printable bytes as themselves (Latin-1) and the other 68, in order, as U+0100 on. */
int tok_byte_char(uint8_t byte, char out[2])
{
    uint32_t cp = byte;
    if (byte <= 0x20)
        cp = 0x100u + byte;
    else if (byte >= 0x7f && byte <= 0xa0)
        cp = 0x121u + (byte - 0x7fu);
    else if (byte == 0xad)
        cp = 0x143;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    out[0] = (char)(0xc0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 63));
    return 2;
}

int tok_char_byte(uint32_t cp)
{
    if (cp >= 0x100)
        return cp <= 0x120 ? (int)cp - 0x100 : cp <= 0x142 ? (int)cp - 0x121 + 0x7f : cp == 0x143 ? 0xad : -1;
    return cp <= 0x20 || (cp >= 0x7f && cp <= 0xa0) || cp == 0xad ? -1 : (int)cp;
}

static uint32_t pair_slot(uint32_t left, uint32_t right)
{
    uint64_t k = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15ull;
    return (uint32_t)(k >> 32);
}

static const struct tok_pair *pair_find(const struct tokenizer *t, uint32_t left, uint32_t right)
{
    if (left == TOK_NO_SYM || right == TOK_NO_SYM) return NULL;
    for (uint32_t i = pair_slot(left, right) & t->pair_mask;; i = (i + 1) & t->pair_mask) {
        const struct tok_pair *p = &t->pairs[i];
        if (p->rank == UINT32_MAX) return NULL;
        if (p->left == left && p->right == right) return p;
    }
}

static void pair_put(struct tokenizer *t, struct tok_pair v)
{
    for (uint32_t i = pair_slot(v.left, v.right) & t->pair_mask;; i = (i + 1) & t->pair_mask) {
        struct tok_pair *p = &t->pairs[i];
        if (p->rank == UINT32_MAX) *p = v;
        if (p->left == v.left && p->right == v.right) return; /* the first rank of a pair counts */
    }
}

/* The symbol of a string that lives as long as the tokenizer; a new one where no token has it. */
static uint32_t intern(struct tokenizer *t, const char *s, uint32_t n)
{
    uint64_t h = tok_hash(s, n);
    uint32_t id = tok_map_find(t, s, n, h);
    if (id != TOK_NO_SYM) return id;
    if (t->n_sym == t->cap_sym) {
        uint32_t cap = t->cap_sym + t->cap_sym / 2 + 64;
        struct tok_text *x = realloc(t->text, cap * sizeof *x);
        if (x) t->text = x;
        uint64_t *hash = realloc(t->hash, cap * sizeof *hash);
        if (hash) t->hash = hash;
        if (!x || !hash) return TOK_NO_SYM;
        t->cap_sym = cap;
    }
    t->text[t->n_sym] = (struct tok_text){s, n};
    t->hash[t->n_sym] = h;
    tok_map_put(t, t->n_sym);
    return t->n_sym++;
}

/* The table must hold every string of the vocabulary and of the merges before the first goes in. */
int tok_bpe_create(struct tokenizer *t, const struct gguf_str *merges, uint64_t n, struct err *e)
{
    uint64_t slots = 16, bytes = 0;
    while (slots < n * 2) slots *= 2;
    for (uint64_t i = 0; i < n; i++) bytes += merges[i].n * 2;
    t->pairs = slots > UINT32_MAX / 2 ? NULL : malloc(slots * sizeof *t->pairs);
    t->merge_arena = malloc(bytes + 1);
    if (!t->pairs || !t->merge_arena)
        return err_set(e, ERR_NOMEM, "no memory for %llu merges", (unsigned long long)n);
    t->pair_mask = (uint32_t)(slots - 1);
    for (uint64_t i = 0; i < slots; i++) t->pairs[i].rank = UINT32_MAX;
    char *p = t->merge_arena;
    for (uint64_t i = 0; i < n; i++) {
        /* "left right", cut at the first space behind the first byte; a string without one merges nothing */
        const char *s = merges[i].s;
        uint64_t len = merges[i].n;
        const char *gap = len > 1 ? memchr(s + 1, ' ', len - 1) : NULL;
        if (!gap || len > UINT32_MAX / 2) continue;
        uint32_t a = (uint32_t)(gap - s), b = (uint32_t)(len - a - 1);
        memcpy(p, s, a);
        memcpy(p + a, gap + 1, b);
        uint32_t left = intern(t, p, a), right = intern(t, p + a, b), result = intern(t, p, a + b);
        if (left == TOK_NO_SYM || right == TOK_NO_SYM || result == TOK_NO_SYM)
            return err_set(e, ERR_NOMEM, "no memory for %llu merges", (unsigned long long)n);
        pair_put(t, (struct tok_pair){left, right, (uint32_t)i, result});
        p += a + b;
    }
    for (int b = 0; b < 256; b++) {
        char c[2];
        size_t len = (size_t)tok_byte_char((uint8_t)b, c);
        t->byte_sym[b] = tok_map_find(t, c, len, tok_hash(c, len));
    }
    return 0;
}

static void try_pair(const struct tokenizer *t, struct tok_work *w, uint32_t left, uint32_t right)
{
    if (left == NONE || right == NONE) return;
    const struct tok_sym *a = &w->sym[left], *b = &w->sym[right];
    const struct tok_pair *p = pair_find(t, a->id, b->id);
    if (!p) return;
    tok_heap_push(w, (struct tok_cand){.order = (uint64_t)p->rank << 32 | left,
                                       .left = left,
                                       .right = right,
                                       .bytes = a->n + b->n,
                                       .result = p->result});
}

static void emit(const struct tokenizer *t, const struct tok_sym *s, const char *text, struct tok_ids *out)
{
    if (s->id < t->n) {
        tok_ids_add(out, (int32_t)s->id);
        return;
    }
    for (uint32_t k = 0; k < s->n; k++) { /* no token has this string: its bytes, as far as there are any */
        uint8_t b = (uint8_t)text[s->at + k];
        if (t->raw) {
            if (t->byte_token[b] >= 0) tok_ids_add(out, t->byte_token[b]);
        } else if (t->byte_sym[b] < t->n)
            tok_ids_add(out, (int32_t)t->byte_sym[b]);
    }
}

/* The token that a whole word is, TOK_NO_SYM where none. */
static uint32_t whole(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n)
{
    if (n > t->max_bytes) return TOK_NO_SYM;
    size_t len = n;
    if (!t->raw) {
        if (!tok_work_buf(w, 2 * n)) return TOK_NO_SYM;
        len = 0;
        for (size_t i = 0; i < n; i++) len += (size_t)tok_byte_char((uint8_t)text[i], w->buf + len);
        text = w->buf;
    }
    uint32_t id = tok_map_find(t, text, len, tok_hash(text, len));
    return id < t->n ? id : TOK_NO_SYM;
}

static bool only_newlines(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] != '\n') return false;
    return true;
}

static void word(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n,
                 struct tok_ids *out)
{
    if (t->ignore_merges || (t->raw && only_newlines(text, n))) {
        uint32_t id = whole(t, w, text, n);
        if (id != TOK_NO_SYM) {
            tok_ids_add(out, (int32_t)id);
            return;
        }
    }
    if (!tok_work_syms(w, n)) return;
    uint32_t count = 0;
    for (size_t at = 0; at < n; count++) {
        uint32_t len = 1, id;
        if (t->raw) {
            int valid = tok_utf8_len(text + at, n - at);
            len = valid ? (uint32_t)valid : 1;
            id = tok_map_find(t, text + at, len, tok_hash(text + at, len));
        } else
            id = t->byte_sym[(uint8_t)text[at]];
        w->sym[count] = (struct tok_sym){.at = (uint32_t)at,
                                         .n = len,
                                         .prev = count - 1, /* NONE for the first */
                                         .next = at + len == n ? NONE : count + 1,
                                         .id = id};
        at += len;
    }
    w->n_heap = 0;
    for (uint32_t i = 1; i < count; i++) try_pair(t, w, i - 1, i);
    while (w->n_heap && !w->failed) {
        struct tok_cand c = tok_heap_pop(w);
        struct tok_sym *a = &w->sym[c.left], *b = &w->sym[c.right];
        if (!a->n || !b->n || a->n + b->n != c.bytes) continue;
        a->n += b->n;
        a->id = c.result;
        a->next = b->next;
        b->n = 0;
        if (a->next != NONE) w->sym[a->next].prev = c.left;
        try_pair(t, w, a->prev, c.left);
        try_pair(t, w, c.left, a->next);
    }
    if (w->failed) return;
    for (uint32_t i = 0; i != NONE; i = w->sym[i].next) emit(t, &w->sym[i], text, out);
}

int tok_bpe_encode(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n,
                   struct tok_ids *out, struct err *e)
{
    char *escaped = NULL;
    if (t->raw) { /* such vocabularies write spaces as U+2581 */
        size_t len = 0;
        for (size_t i = 0; i < n; i++) len += text[i] == ' ' ? 3 : 1;
        escaped = malloc(len + 1);
        if (!escaped) return err_set(e, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
        char *p = escaped;
        for (size_t i = 0; i < n; i++) {
            if (text[i] == ' ')
                p = (char *)memcpy(p, "\xe2\x96\x81", 3) + 3;
            else
                *p++ = text[i];
        }
        text = escaped;
        n = len;
    }
    uint32_t *ends = NULL;
    size_t count = 0;
    int rc = tok_pre_split(t->pre, text, n, &ends, &count, e);
    for (size_t i = 0, at = 0; i < count && !rc && !w->failed; at = ends[i++])
        word(t, w, text + at, ends[i] - at, out);
    free(ends);
    free(escaped);
    return rc;
}
