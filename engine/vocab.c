/* The public interface to a file's vocabulary without its weights. */
#include "engine/calor.h"

#include "base/err.h"
#include "engine/tokenizer.h"
#include "io/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct calor_vocab {
    struct tokenizer *tok;
};

static int fail(const struct err *e, char *err, size_t errlen)
{
    if (err && errlen) snprintf(err, errlen, "%s", e->msg);
    return e->code;
}

int calor_vocab_open(calor_vocab **out, const char *path, char *err, size_t errlen)
{
    struct err e = {0};
    struct gguf *f = NULL;
    struct calor_vocab *v = calloc(1, sizeof *v);
    *out = NULL;
    if (err && errlen) *err = 0;
    int rc = v ? gguf_open(&f, path, GGUF_MMAP, &e) : err_set(&e, ERR_NOMEM, "no memory for a vocabulary");
    if (rc == 0) rc = tok_create(&v->tok, f, &e);
    gguf_close(&f);
    if (rc < 0) {
        free(v);
        return fail(&e, err, errlen);
    }
    *out = v;
    return 0;
}

void calor_vocab_close(calor_vocab **v)
{
    if (!v || !*v) return;
    tok_destroy(&(*v)->tok);
    free(*v);
    *v = NULL;
}

int calor_vocab_tokenize(const calor_vocab *v, const char *text, size_t len, int flags, int32_t **ids,
                         size_t *count, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    int rc = tok_encode(v->tok, text, len, (flags & CALOR_TOK_SPECIAL) != 0, ids, count, &e);
    if (rc < 0) return fail(&e, err, errlen);
    if (!(flags & CALOR_TOK_BOS) || !tok_add_bos(v->tok)) return 0;
    int32_t *all = realloc(*ids, (*count + 1) * sizeof *all);
    if (!all) {
        free(*ids);
        *ids = NULL;
        *count = 0;
        err_set(&e, ERR_NOMEM, "no memory for the tokens");
        return fail(&e, err, errlen);
    }
    memmove(all + 1, all, *count * sizeof *all);
    all[0] = tok_bos(v->tok);
    *ids = all;
    ++*count;
    return 0;
}

const char *calor_vocab_piece(const calor_vocab *v, int32_t id, size_t *len)
{
    return tok_piece(v->tok, id, true, len);
}
