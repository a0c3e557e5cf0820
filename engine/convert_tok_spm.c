/* tokenizer.model: SentencePiece's ModelProto, a protocol-buffers message. Fields used, from
 * sentencepiece_model.proto: ModelProto      1 pieces (1 piece, 2 score, 3 type), 2 trainer_spec, 3
 * normalizer_spec TrainerSpec     3 model_type, 40 unk_id, 41 bos_id, 42 eos_id, 43 pad_id NormalizerSpec  1
 * name, 2 precompiled_charsmap, 3 add_dummy_prefix, 4 remove_extra_whitespaces */
#include "engine/convert_tok_parts.h"

#include "base/err.h"
#include "base/log.h"
#include "engine/tokenizer_parts.h"

#include <math.h>
#include <string.h>

/* A stretch of bytes being read; every length is checked against what is left. */
struct wire {
    const uint8_t *p, *end;
};

struct field {
    uint64_t number;
    int kind;           /* wire type: 0 varint, 1 eight bytes, 2 bytes, 5 four bytes */
    uint64_t value;     /* of kinds 0, 1 and 5 */
    struct wire inside; /* of kind 2 */
};

static bool varint(struct wire *w, uint64_t *out)
{
    *out = 0;
    for (unsigned shift = 0; shift < 64 && w->p < w->end; shift += 7) {
        uint8_t b = *w->p++;
        if (shift == 63 && b > 1) return false;
        *out |= (uint64_t)(b & 127) << shift;
        if (!(b & 128)) return true;
    }
    return false;
}

static bool fixed(struct wire *w, int bytes, uint64_t *out)
{
    if (w->end - w->p < bytes) return false;
    *out = 0;
    for (int i = 0; i < bytes; i++) *out |= (uint64_t)w->p[i] << (8 * i);
    w->p += bytes;
    return true;
}

/* The next field; false at the end and (with *bad) where the bytes are no message. */
static bool next(struct wire *w, struct field *f, bool *bad)
{
    if (w->p == w->end) return false;
    uint64_t tag, n;
    *f = (struct field){0};
    bool ok = varint(w, &tag);
    f->number = tag >> 3;
    f->kind = (int)(tag & 7);
    ok = ok && f->number;
    if (ok && f->kind == 0)
        ok = varint(w, &f->value);
    else if (ok && f->kind == 1)
        ok = fixed(w, 8, &f->value);
    else if (ok && f->kind == 5)
        ok = fixed(w, 4, &f->value);
    else if (ok && f->kind == 2) {
        ok = varint(w, &n) && n <= (uint64_t)(w->end - w->p);
        if (ok) {
            f->inside = (struct wire){w->p, w->p + n};
            w->p += n;
        }
    } else
        ok = false; /* groups went out of use long before SentencePiece */
    *bad |= !ok;
    return ok;
}

static int read_piece(struct hf_vocab *v, struct wire w, int64_t id, bool *bad, const char *where,
                      struct err *e)
{
    struct field f;
    struct wire text = {0};
    float score = 0;
    uint64_t type = TOK_NORMAL;
    while (next(&w, &f, bad)) {
        if (f.number == 1 && f.kind == 2) text = f.inside;
        if (f.number == 2 && f.kind == 5) {
            uint32_t u = (uint32_t)f.value;
            memcpy(&score, &u, 4);
        }
        if (f.number == 3 && f.kind == 0) type = f.value;
    }
    if (*bad) return 0;
    if (type < TOK_NORMAL || type > TOK_BYTE)
        return err_set(e, ERR_FORMAT, "%s: piece %lld: expected a type from 1 to 6, found %llu", where,
                       (long long)id, (unsigned long long)type);
    if (isnan(score)) return err_set(e, ERR_FORMAT, "%s: piece %lld: its score is NaN", where, (long long)id);
    size_t n = (size_t)(text.end - text.p);
    if (type == TOK_USER) return hf_vocab_add(v, id, (const char *)text.p, n, false, where, e);
    return hf_vocab_set(v, id, n ? (const char *)text.p : "", n, (int32_t)type, score, where, e);
}

static void read_trainer(struct hf_vocab *v, struct wire w, int64_t *model_type, bool *bad)
{
    struct field f;
    while (next(&w, &f, bad)) {
        if (f.kind != 0) continue;
        int64_t id = (int32_t)f.value; /* -1: none */
        switch (f.number) {
        case 3: *model_type = (int64_t)(f.value & 0x7fffffff); break;
        case 40: v->unk = id; break;
        case 41: v->bos = id; break;
        case 42: v->eos = id; break;
        case 43: v->pad = id; break;
        default: break;
        }
    }
}

static void read_normalizer(struct hf_vocab *v, struct wire w, const char *where, bool *bad)
{
    struct field f;
    bool extra = true, map = false;
    while (next(&w, &f, bad)) {
        if (f.number == 2 && f.kind == 2) map = f.inside.p != f.inside.end;
        if (f.number == 3 && f.kind == 0) v->add_space_prefix = f.value != 0;
        if (f.number == 4 && f.kind == 0) extra = f.value != 0;
    }
    if (map)
        log_warn("%s: texts are normalised (NFKC) before they are cut; that step is not carried over", where);
    if (extra)
        log_warn("%s: repeated spaces are removed before texts are cut; that step is not carried over",
                 where);
}

int hf_read_sentencepiece(struct hf_vocab *v, const char *data, size_t n, const char *where, struct err *e)
{
    struct wire w = {(const uint8_t *)data, (const uint8_t *)data + n};
    struct field f;
    bool bad = false;
    int64_t id = 0, model_type = 1;
    v->unk = 0, v->bos = 1, v->eos = 2; /* the format's defaults */
    while (next(&w, &f, &bad)) {
        if (f.kind != 2) continue;
        if (f.number == 1) {
            int rc = read_piece(v, f.inside, id++, &bad, where, e);
            if (rc < 0) return rc;
        } else if (f.number == 2)
            read_trainer(v, f.inside, &model_type, &bad);
        else if (f.number == 3)
            read_normalizer(v, f.inside, where, &bad);
        if (bad) break;
    }
    if (bad)
        return err_set(e, ERR_FORMAT,
                       "%s: expected a SentencePiece model, found bytes that are none near offset %zu", where,
                       (size_t)(w.p - (const uint8_t *)data));
    if (id == 0) return err_set(e, ERR_FORMAT, "%s: a SentencePiece model without pieces", where);
    if (model_type != 2)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a SentencePiece model of the kind '%s'; Calor reads byte-pair ones", where,
                       model_type == 1   ? "unigram"
                       : model_type == 3 ? "word"
                       : model_type == 4 ? "char"
                                         : "unknown");
    v->model = "llama";
    v->pre = "default";
    return 0;
}
