/* The public interface to text: tokens, streaming back to bytes, chat. */
#include "base/err.h"
#include "base/strbuf.h"
#include "engine/calor.h"
#include "engine/chat.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int calor_tokenize(const calor_model *m, const char *text, size_t len, int flags, int32_t *ids, size_t cap,
                   size_t *n, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    int32_t *found = NULL;
    size_t count = 0, bos = 0;
    int r = tok_encode(m->tok, text, len, (flags & CALOR_TOK_SPECIAL) != 0, &found, &count, &e);
    if (r < 0) {
        *n = 0;
        return model_fail(&e, err, errlen);
    }
    if ((flags & CALOR_TOK_BOS) && tok_add_bos(m->tok) && tok_bos(m->tok) >= 0) bos = 1;
    *n = count + bos;
    if (bos && cap > 0) ids[0] = tok_bos(m->tok);
    if (cap > bos && count > 0)
        memcpy(ids + bos, found, (count < cap - bos ? count : cap - bos) * sizeof *ids);
    free(found);
    if (*n > cap) {
        err_set(&e, ERR_ARG, "%zu tokens do not fit in %zu", *n, cap);
        return model_fail(&e, err, errlen);
    }
    return 0;
}

const char *calor_token_piece(const calor_model *m, int32_t id, size_t *len)
{
    *len = 0;
    if (id < 0 || (uint32_t)id >= tok_count(m->tok)) return "";
    return tok_piece(m->tok, id, false, len);
}

int32_t calor_token_bos(const calor_model *m)
{
    return tok_bos(m->tok);
}

int32_t calor_token_eos(const calor_model *m)
{
    return tok_eos(m->tok);
}

int calor_token_ends(const calor_model *m, int32_t id)
{
    return id >= 0 && (uint32_t)id < tok_count(m->tok) && tok_is_end(m->tok, id);
}

struct calor_stream {
    const struct calor_model *m;
    struct tok_stream state;
    struct strbuf out;
};

int calor_stream_open(calor_stream **out, const calor_model *m, int fresh, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    struct calor_stream *s = calloc(1, sizeof *s);
    *out = s;
    if (!s) {
        err_set(&e, ERR_NOMEM, "no memory for a text stream");
        return model_fail(&e, err, errlen);
    }
    s->m = m;
    strbuf_init(&s->out);
    tok_stream_init(&s->state, fresh != 0);
    return 0;
}

static const char *given(struct calor_stream *s, size_t *len)
{
    *len = s->out.len;
    return s->out.len ? s->out.s : "";
}

const char *calor_stream_add(calor_stream *s, int32_t id, size_t *len)
{
    strbuf_clear(&s->out);
    if (id >= 0 && (uint32_t)id < tok_count(s->m->tok))
        tok_stream_add(&s->state, s->m->tok, id, false, &s->out);
    return given(s, len);
}

const char *calor_stream_flush(calor_stream *s, size_t *len)
{
    strbuf_clear(&s->out);
    tok_stream_flush(&s->state, &s->out);
    return given(s, len);
}

void calor_stream_close(calor_stream **ps)
{
    if (!ps || !*ps) return;
    strbuf_finish(&(*ps)->out);
    free(*ps);
    *ps = NULL;
}

const char *const *calor_chat_templates(void)
{
    return chat_names();
}

int calor_chat(const calor_model *m, const char *name, const calor_chat_message *messages, size_t n,
               char **text, size_t *len, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    *text = NULL;
    const struct chat_template *t = NULL;
    struct strbuf b;
    strbuf_init(&b);
    struct chat_message *msgs = calloc(n ? n : 1, sizeof *msgs);
    if (!msgs) {
        err_set(&e, ERR_NOMEM, "no memory for %zu messages", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) msgs[i] = (struct chat_message){messages[i].role, messages[i].text};
    if (chat_find(&t, name, m->file, &e) < 0) goto out;
    if (chat_format(t, m->tok, msgs, n, 1, &b, &e) < 0) goto out;
    *len = b.len;
    *text = strbuf_take(&b);
    if (!*text) err_set(&e, ERR_NOMEM, "no memory for the conversation");
out:
    strbuf_finish(&b);
    free(msgs);
    return *text ? 0 : model_fail(&e, err, errlen);
}

int calor_chat_tokens(const calor_model *m, const char *name, const calor_chat_message *messages, size_t n,
                      int32_t **ids, size_t *count, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    *ids = NULL;
    *count = 0;
    const struct chat_template *t = NULL;
    struct chat_message *msgs = calloc(n ? n : 1, sizeof *msgs);
    int32_t *found = NULL;
    size_t n_found = 0;
    if (!msgs) {
        err_set(&e, ERR_NOMEM, "no memory for %zu messages", n);
        goto out;
    }
    for (size_t i = 0; i < n; i++) msgs[i] = (struct chat_message){messages[i].role, messages[i].text};
    if (chat_find(&t, name, m->file, &e) < 0) goto out;
    if (chat_encode(t, m->tok, msgs, n, 1, &found, &n_found, &e) < 0) goto out;
    size_t bos = tok_add_bos(m->tok);
    int32_t *all = malloc((n_found + 1) * sizeof *all);
    if (!all) {
        err_set(&e, ERR_NOMEM, "no memory for %zu tokens", n_found);
        goto out;
    }
    if (bos) all[0] = tok_bos(m->tok);
    memcpy(all + bos, found, n_found * sizeof *all);
    *ids = all;
    *count = n_found + bos;
out:
    free(found);
    free(msgs);
    return *ids ? 0 : model_fail(&e, err, errlen);
}

void calor_free(void *p)
{
    free(p);
}
