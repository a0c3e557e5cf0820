/* Choosing a chat template and writing a conversation in it: see chat.h; the templates are in chat_table.c.
 */
#include "engine/chat.h"

#include "base/err.h"
#include "base/strbuf.h"
#include "engine/chat_parts.h"
#include "engine/tokenizer.h"
#include "io/gguf.h"

#include <stdlib.h>
#include <string.h>

/* "a, b and c": the names, for messages. */
static void list_names(struct strbuf *b)
{
    for (int i = 0; i < chat_table_count; i++) strbuf_printf(b, "%s%s", i ? ", " : "", chat_table[i].name);
}

int chat_find(const struct chat_template **out, const char *name, const struct gguf *f, struct err *e)
{
    *out = NULL;
    struct gguf_str jinja = {"", 0};
    int absent = 1;
    if (name) {
        for (int i = 0; i < chat_table_count; i++)
            if (strcmp(chat_table[i].name, name) == 0) *out = &chat_table[i];
    } else {
        absent = gguf_get_str(f, "tokenizer.chat_template", &jinja, e);
        if (absent < 0) return absent;
        *out = chat_recognise(jinja.s, jinja.n);
    }
    if (*out) return 0;
    struct strbuf names;
    strbuf_init(&names);
    list_names(&names);
    const char *list = names.s ? names.s : "";
    int rc;
    if (name)
        rc = err_set(e, ERR_ARG, "no chat template is called '%.60s'; there are %s", name, list);
    else
        rc = err_set(e, ERR_UNSUPPORTED, "the model file %s; choose one with --chat-template NAME: %s",
                     absent ? "has no chat template" : "has a chat template that is not recognised", list);
    strbuf_finish(&names);
    return rc;
}

/* ---- Formatting ---- */

/* The text so far, and where what people wrote lies in it: begin and end by turns. */
struct builder {
    struct strbuf *out;
    const char *bos, *eos;
    size_t n_bos, n_eos;
    size_t *edge;
    size_t n_edge, cap_edge;
    bool failed;
};

/* Text of the template's own. The very first BOS is left to the caller. */
static void own(struct builder *b, const char *s)
{
    for (; s && *s; s++) {
        if (*s == '\1' && b->out->len)
            strbuf_add(b->out, b->bos, b->n_bos);
        else if (*s == '\2')
            strbuf_add(b->out, b->eos, b->n_eos);
        else if (*s != '\1')
            strbuf_add(b->out, s, 1);
    }
}

static void edge(struct builder *b)
{
    if (b->n_edge == b->cap_edge) {
        size_t cap = b->cap_edge ? b->cap_edge * 2 : 16;
        size_t *p = realloc(b->edge, cap * sizeof *p);
        if (!p) {
            b->failed = true;
            return;
        }
        b->edge = p;
        b->cap_edge = cap;
    }
    b->edge[b->n_edge++] = b->out->len;
}

static void theirs(struct builder *b, const char *s, size_t n)
{
    edge(b);
    strbuf_add(b->out, s, n);
    edge(b);
}

/* Length of the white space (as Python's str.strip knows it) at s, 0 where there is none. */
static size_t space_at(const char *s, size_t n)
{
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0) return 0;
    if (p[0] == ' ' || (p[0] >= 9 && p[0] <= 13) || (p[0] >= 28 && p[0] <= 31)) return 1;
    if (n >= 2 && p[0] == 0xc2 && (p[1] == 0x85 || p[1] == 0xa0)) return 2;
    if (n < 3) return 0;
    unsigned c = (unsigned)p[0] << 16 | (unsigned)p[1] << 8 | p[2];
    if (c == 0xe19a80 || (c >= 0xe28080 && c <= 0xe2808a) || c == 0xe280a8 || c == 0xe280a9 ||
        c == 0xe280af || c == 0xe2819f || c == 0xe38080)
        return 3;
    return 0;
}

static void trim(const char **s, size_t *n, bool left, bool right)
{
    for (size_t k; left && (k = space_at(*s, *n)); *n -= k) *s += k;
    while (right && *n) {
        size_t k = 1;
        while (k <= 3 && k <= *n && space_at(*s + *n - k, k) != k) k++;
        if (k > 3 || k > *n) break;
        *n -= k;
    }
}

static void put(struct builder *b, const char *text, bool left, bool right)
{
    size_t n = strlen(text);
    trim(&text, &n, left, right);
    theirs(b, text, n);
}

static int format(const struct chat_template *t, const struct chat_message *m, size_t n, int generate,
                  struct builder *b, struct err *e)
{
    const char *system = t->default_system;
    bool own_words = system != NULL; /* the template's, not somebody's */
    size_t i = 0;
    for (size_t k = 0; k < n; k++) {
        const char *r = m[k].role;
        if (strcmp(r, "system") && strcmp(r, "user") && strcmp(r, "assistant"))
            return err_set(e, ERR_ARG,
                           "message %zu: expected the role system, user or assistant, found '%.40s'", k + 1,
                           r);
        if (k && t->place != SYSTEM_TURN && !strcmp(r, "system"))
            return err_set(e, ERR_ARG,
                           "message %zu: with the chat template '%s' a system message can only be the first",
                           k + 1, t->name);
    }
    if (n && !strcmp(m[0].role, "system")) {
        system = m[0].text;
        own_words = false;
        i = 1;
    }
    own(b, t->start);
    if (system && t->place == SYSTEM_TURN) {
        own(b, t->system.before);
        if (own_words)
            own(b, system);
        else
            put(b, system, t->system.trim, t->system.trim);
        own(b, t->system.after);
    }
    bool first = true;
    for (; i < n; i++) {
        bool user = !strcmp(m[i].role, "user");
        const struct around *a = user ? &t->user : !strcmp(m[i].role, "system") ? &t->system : &t->assistant;
        own(b, a->before);
        bool with_system = system && user &&
                           ((t->place == SYSTEM_FIRST && first) || (t->place == SYSTEM_LAST && i + 1 == n));
        if (with_system) {
            own(b, t->system.before);
            put(b, system, t->system.trim, t->system.trim);
            own(b, t->system.after);
        }
        first = first && !user;
        const char *text = m[i].text;
        if (t->drop_thoughts && a == &t->assistant)
            for (const char *p; (p = strstr(text, "</think>"));)
                for (text = p + 8; *text == '\n' && !t->keep_newlines;) text++;
        /* Llama 2 strips the message together with the system text before it: its left end stays. */
        put(b, text, a->trim && !(with_system && !t->system.trim), a->trim);
        own(b, a->after);
    }
    own(b, generate ? t->generate : t->done);
    return b->failed || b->out->failed
               ? err_set(e, ERR_NOMEM, "no memory for a conversation of %zu messages", n)
               : 0;
}

static void builder_init(struct builder *b, const struct tokenizer *tok, struct strbuf *out)
{
    *b = (struct builder){.out = out, .bos = "<s>", .n_bos = 3, .eos = "</s>", .n_eos = 4};
    if (!tok) return;
    b->bos = tok_piece(tok, tok_bos(tok), true, &b->n_bos);
    b->eos = tok_piece(tok, tok_eos(tok), true, &b->n_eos);
}

int chat_format(const struct chat_template *t, const struct tokenizer *tok, const struct chat_message *m,
                size_t n, int generate, struct strbuf *out, struct err *e)
{
    struct builder b;
    struct strbuf text;
    strbuf_init(&text);
    builder_init(&b, tok, &text);
    int rc = format(t, m, n, generate, &b, e);
    if (rc == 0) strbuf_add(out, text.s, text.len);
    strbuf_finish(&text);
    free(b.edge);
    return rc;
}

int chat_encode(const struct chat_template *t, const struct tokenizer *tok, const struct chat_message *m,
                size_t n, int generate, int32_t **ids, size_t *count, struct err *e)
{
    *ids = NULL;
    *count = 0;
    struct builder b;
    struct strbuf text;
    strbuf_init(&text);
    builder_init(&b, tok, &text);
    struct tok_part *part = NULL;
    int rc = format(t, m, n, generate, &b, e);
    if (rc < 0) goto out;
    /* Edges alternate: own text up to an even one, theirs up to an odd one, own text behind the last. */
    part = malloc((b.n_edge + 1) * sizeof *part);
    if (!part) {
        rc = err_set(e, ERR_NOMEM, "no memory for a conversation of %zu messages", n);
        goto out;
    }
    size_t at = 0;
    for (size_t i = 0; i <= b.n_edge; i++) {
        size_t end = i < b.n_edge ? b.edge[i] : text.len;
        part[i] = (struct tok_part){(text.s ? text.s : "") + at, end - at, i % 2 == 0};
        at = end;
    }
    rc = tok_encode_parts(tok, part, b.n_edge + 1, ids, count, e);
out:
    strbuf_finish(&text);
    free(b.edge);
    free(part);
    return rc;
}
