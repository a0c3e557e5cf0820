/* What the files of convert_tok share. Private to engine/convert_tok*.c. */
#ifndef ENGINE_CONVERT_TOK_PARTS_H
#define ENGINE_CONVERT_TOK_PARTS_H

#include "engine/convert_tok.h"
#include "io/gguf.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A vocabulary in the making. Ids without a token yet have type 0. */
struct hf_vocab {
    uint32_t rows;
    struct gguf_str *tok; /* [rows], pointing into trees, files or `own` */
    int32_t *type;        /* [rows]: tokenizer.ggml.token_type */
    float *score;         /* [rows] */
    uint32_t n;           /* one past the last id in use */
    const char *model;    /* "llama", "gpt2"; NULL: none yet */
    const char *pre;
    struct gguf_str *merge;
    size_t n_merge;
    int add_bos, add_eos, add_space_prefix;     /* -1: not known */
    int64_t bos, eos, unk, pad, sep, cls, mask; /* -1: not known */
    char **own;
    size_t n_own, cap_own;
};

int hf_vocab_init(struct hf_vocab *v, uint32_t rows, struct err *e);
void hf_vocab_finish(struct hf_vocab *v);

/* Sets id's token; `s` must live as long as the vocabulary. `where` is for messages. */
int hf_vocab_set(struct hf_vocab *v, int64_t id, const char *s, size_t n, int32_t type, float score,
                 const char *where, struct err *e);
/* A token beside the model's own: control where `special` or when it looks so, else user-defined. */
int hf_vocab_add(struct hf_vocab *v, int64_t id, const char *s, size_t n, bool special, const char *where,
                 struct err *e);
/* A copy that lives as long as the vocabulary; NULL without memory. */
char *hf_vocab_keep(struct hf_vocab *v, const char *s, size_t n);

/* convert_tok_json.c: a parsed tokenizer.json, or vocab.json and merges.txt. */
int hf_read_tokenizer_json(struct hf_vocab *v, const json_t *tree, const char *where, struct err *e);
int hf_read_vocab_json(struct hf_vocab *v, const json_t *vocab, const char *merges, size_t n_merges,
                       const char *where, struct err *e);
/* The name of the pre-tokeniser that a tokenizer.json describes; NULL where none is known. */
const char *hf_pre_tokenizer(const json_t *tree);

/* convert_tok_spm.c: the bytes of a tokenizer.model (SentencePiece's ModelProto). */
int hf_read_sentencepiece(struct hf_vocab *v, const char *data, size_t n, const char *where, struct err *e);

#endif
