/* SentencePiece as Llama-family files carry it: spaces become U+2581, neighbours are joined while the joined
 * string is a token, the best score first, the leftmost among equals; what is no token is written in bytes.
 */
#include "engine/tokenizer_parts.h"

#include <stdio.h>
#include <string.h>

static const char MARK[] = "\xe2\x96\x81";
#define MARK_LEN 3
#define NONE     UINT32_MAX

void tok_spm_create(struct tokenizer *t)
{
    /* Where every token that contains "x▁" is absent, nothing is ever joined across the start of a word, so
     * words can be worked off one by one: less memory, and time in proportion to the text. */
    t->cut_words = true;
    for (uint32_t i = 0; i < t->n && t->cut_words; i++) {
        const struct tok_text *x = &t->text[i];
        for (uint32_t k = 1; k + MARK_LEN <= x->n; k++)
            if (memcmp(x->s + k, MARK, MARK_LEN) == 0 &&
                (k < MARK_LEN || memcmp(x->s + k - MARK_LEN, MARK, MARK_LEN)))
                t->cut_words = false;
    }
}

/* Floats as integers that sort the other way round: the highest score is the smallest number. */
static uint64_t score_order(float score, uint32_t left)
{
    uint32_t u;
    score += 0.0f; /* -0 sorts as 0 */
    memcpy(&u, &score, 4);
    u = u & 0x80000000u ? u : ~u & 0x7fffffffu;
    return (uint64_t)u << 32 | left;
}

static void try_pair(const struct tokenizer *t, struct tok_work *w, const char *text, uint32_t left,
                     uint32_t right)
{
    if (left == NONE || right == NONE) return;
    const struct tok_sym *a = &w->sym[left], *b = &w->sym[right];
    if (a->n + b->n > t->max_bytes) return;
    uint32_t id = tok_map_find(t, text + a->at, a->n + b->n, a->hash * b->power + b->hash);
    if (id == TOK_NO_SYM) return;
    tok_heap_push(w, (struct tok_cand){.order = score_order(t->score[id], left),
                                       .left = left,
                                       .right = right,
                                       .bytes = a->n + b->n,
                                       .result = id});
}

static void emit(const struct tokenizer *t, const struct tok_sym *s, const char *text, struct tok_ids *out)
{
    if (s->id != TOK_NO_SYM) {
        tok_ids_add(out, (int32_t)s->id);
        return;
    }
    bool unknown = false;
    for (uint32_t k = 0; k < s->n; k++) {
        int32_t id = t->byte_token[(uint8_t)text[s->at + k]];
        if (id >= 0)
            tok_ids_add(out, id);
        else
            unknown = true;
    }
    if (unknown && t->unk >= 0) tok_ids_add(out, t->unk); /* once for a character */
}

/* Bytes of the character at s; a byte that is no UTF-8 stands alone, so that it takes nothing else with it.
 */
static uint32_t char_len(const char *s, size_t n)
{
    int len = tok_utf8_len(s, n);
    return len ? (uint32_t)len : 1;
}

/* A stretch of escaped text that joins with nothing around it. */
static void word(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n,
                 struct tok_ids *out)
{
    uint32_t count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t len = char_len(text + at, n - at);
        if (!tok_work_syms(w, (size_t)count + 1)) return;
        uint64_t h = tok_hash(text + at, len);
        w->sym[count] = (struct tok_sym){.hash = h,
                                         .power = tok_hash_power(len),
                                         .at = (uint32_t)at,
                                         .n = len,
                                         .prev = count - 1, /* NONE for the first */
                                         .next = at + len == n ? NONE : count + 1,
                                         .id = tok_map_find(t, text + at, len, h)};
        count++;
        at += len;
    }
    w->n_heap = 0;
    for (uint32_t i = 1; i < count; i++) try_pair(t, w, text, i - 1, i);
    while (w->n_heap && !w->failed) {
        struct tok_cand c = tok_heap_pop(w);
        struct tok_sym *a = &w->sym[c.left], *b = &w->sym[c.right];
        if (!a->n || !b->n || a->n + b->n != c.bytes) continue;
        a->hash = a->hash * b->power + b->hash;
        a->power *= b->power;
        a->n += b->n;
        a->id = c.result;
        a->next = b->next;
        b->n = 0;
        if (a->next != NONE) w->sym[a->next].prev = c.left;
        try_pair(t, w, text, a->prev, c.left);
        try_pair(t, w, text, c.left, a->next);
    }
    for (uint32_t i = 0; i != NONE; i = w->sym[i].next) emit(t, &w->sym[i], text, out);
}

void tok_spm_encode(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n, bool prefix,
                    struct tok_ids *out)
{
    size_t len = prefix ? MARK_LEN : 0;
    for (size_t i = 0; i < n; i++) len += text[i] == ' ' ? MARK_LEN : 1;
    if (!tok_work_buf(w, len + 1)) return;
    char *p = w->buf;
    if (prefix) p = (char *)memcpy(p, MARK, MARK_LEN) + MARK_LEN;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ')
            p = (char *)memcpy(p, MARK, MARK_LEN) + MARK_LEN;
        else
            *p++ = text[i];
    }
    if (!len) return;
    const char *s = w->buf;
    if (!t->cut_words) {
        word(t, w, s, len, out);
        return;
    }
    size_t start = 0;
    bool after_mark = true;
    for (size_t at = 0; at < len && !w->failed;) {
        size_t k = char_len(s + at, len - at);
        bool mark = k == MARK_LEN && memcmp(s + at, MARK, MARK_LEN) == 0;
        if (mark && !after_mark) {
            word(t, w, s + start, at - start, out);
            start = at;
        }
        after_mark = mark;
        at += k;
    }
    word(t, w, s + start, len - start, out);
}
