/* Special tokens in a text: control tokens where they may be read, user-defined ones everywhere. The longest
 * are taken first, wherever they are; then the next length, in what is left. */
#include "engine/tokenizer_parts.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

static bool is_special(const struct tokenizer *t, uint32_t id, bool user_only)
{
    int k = t->type[id];
    return t->text[id].n && (k == TOK_USER || (!user_only && (k == TOK_CONTROL || k == TOK_UNKNOWN)));
}

static int by_length(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

bool tok_specials_init(struct tok_specials *s, const struct tokenizer *t, bool user_only)
{
    size_t count = 0;
    for (uint32_t i = 0; i < t->n; i++) count += is_special(t, i, user_only);
    if (!count) return true;
    s->length = malloc(count * sizeof *s->length);
    if (!s->length) return false;
    size_t k = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        if (!is_special(t, i, user_only)) continue;
        const uint8_t *x = (const uint8_t *)t->text[i].s;
        s->length[k++] = t->text[i].n;
        if (t->text[i].n == 1)
            s->first[x[0] >> 3] |= (uint8_t)(1 << (x[0] & 7));
        else
            s->pair[(x[0] << 8 | x[1]) >> 3] |= (uint8_t)(1 << (x[1] & 7));
    }
    qsort(s->length, count, sizeof *s->length, by_length);
    for (k = 0; k < count; k++)
        if (!s->n_length || s->length[s->n_length - 1] != s->length[k])
            s->length[s->n_length++] = s->length[k];
    return true;
}

void tok_specials_finish(struct tok_specials *s)
{
    free(s->length);
}

static int by_place(const void *a, const void *b)
{
    const struct tok_claim *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* isspace in the C locale */
static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Whether [at, at + n) lies in one part whose control tokens are read. */
static bool may_read(const struct tok_part *parts, size_t n_parts, size_t at, size_t n)
{
    size_t begin = 0;
    for (size_t i = 0; i < n_parts; begin += parts[i++].n)
        if (at >= begin && at < begin + parts[i].n) return parts[i].special && at + n <= begin + parts[i].n;
    return false;
}

/* Whether a user-defined token that looks like a marker ("<…" or "[…") stands in a part that is special: then
 * it is one of the template's own, and must not be typed into the others. */
static bool is_marker(const struct tok_part *parts, size_t n_parts, const struct tok_text *x)
{
    if (x->n < 3 || (x->s[0] != '<' && x->s[0] != '[')) return false;
    for (size_t i = 0; i < n_parts; i++)
        if (parts[i].special && parts[i].n >= x->n && memmem(parts[i].text, parts[i].n, x->s, x->n))
            return true;
    return false;
}

struct finder {
    const struct tokenizer *t;
    const char *text;
    size_t n;
    const struct tok_part *parts;
    size_t n_parts;
    uint8_t *gone;
    uint32_t judged; /* the last user-defined token found in plain text, and what became of it */
    bool banned;
    struct tok_claim *claim;
    size_t n_claim, cap_claim;
};

/* Takes the special token of `len` bytes at `at`, if there is one; false without memory. */
static bool take(struct finder *f, uint32_t at, uint32_t len)
{
    const struct tokenizer *t = f->t;
    uint32_t id = tok_map_find(t, f->text + at, len, tok_hash(f->text + at, len));
    if (id >= t->n || !is_special(t, id, false)) return true;
    if (!may_read(f->parts, f->n_parts, at, len)) {
        if (t->type[id] != TOK_USER) return true;
        if (f->judged != id) { /* the same token tends to come again */
            f->judged = id;
            f->banned = is_marker(f->parts, f->n_parts, &t->text[id]);
        }
        if (f->banned) return true;
    }
    if (f->n_claim == f->cap_claim) {
        size_t cap = f->cap_claim ? f->cap_claim * 2 : 16;
        struct tok_claim *c = realloc(f->claim, cap * sizeof *c);
        if (!c) return false;
        f->claim = c;
        f->cap_claim = cap;
    }
    f->claim[f->n_claim++] = (struct tok_claim){at, len, (int32_t)id};
    memset(f->gone + at, 1, len);
    if (t->flag[id] & TOK_LSTRIP)
        for (size_t i = at; i && !f->gone[i - 1] && is_space(f->text[i - 1]); i--) f->gone[i - 1] = 1;
    if (t->flag[id] & TOK_RSTRIP)
        for (size_t i = at + len; i < f->n && !f->gone[i] && is_space(f->text[i]); i++) f->gone[i] = 1;
    return true;
}

int tok_specials_find(const struct tokenizer *t, const char *text, size_t n, const struct tok_part *parts,
                      size_t n_parts, struct tok_claim **claims, size_t *count, uint8_t **gone, struct err *e)
{
    *claims = NULL;
    *count = 0;
    *gone = NULL;
    bool any = false;
    for (size_t i = 0; i < n_parts; i++) any |= parts[i].special;
    const struct tok_specials *s = any ? &t->all : &t->user;
    if (!s->n_length) return 0;
    /* Places where the first two bytes are a special token's: usually next to none. */
    uint32_t *place = NULL;
    size_t n_place = 0, cap = 0;
    struct finder f = {
        .t = t, .text = text, .n = n, .parts = parts, .n_parts = n_parts, .judged = TOK_NO_SYM};
    int rc = 0;
    for (size_t i = 0; i < n; i++) {
        uint8_t a = (uint8_t)text[i], b = i + 1 < n ? (uint8_t)text[i + 1] : 0;
        if (!(s->first[a >> 3] >> (a & 7) & 1) && !(i + 1 < n && s->pair[(a << 8 | b) >> 3] >> (b & 7) & 1))
            continue;
        if (n_place == cap) {
            cap = cap ? cap * 2 : 64;
            uint32_t *p = realloc(place, cap * sizeof *p);
            if (!p) goto nomem;
            place = p;
        }
        place[n_place++] = (uint32_t)i;
    }
    if (!n_place) goto out;
    f.gone = calloc(n, 1);
    if (!f.gone) goto nomem;
    for (uint32_t k = 0; k < s->n_length; k++) {
        uint32_t len = s->length[k];
        for (size_t i = 0; i < n_place; i++) {
            uint32_t at = place[i];
            if (len > n - at) break;
            if (!f.gone[at] && !f.gone[at + len - 1] && !take(&f, at, len)) goto nomem;
        }
    }
    if (f.n_claim) {
        qsort(f.claim, f.n_claim, sizeof *f.claim, by_place);
        *claims = f.claim;
        *count = f.n_claim;
        *gone = f.gone;
        f.claim = NULL;
        f.gone = NULL;
    }
    goto out;
nomem:
    rc = err_set(e, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
out:
    free(place);
    free(f.gone);
    free(f.claim);
    return rc;
}
