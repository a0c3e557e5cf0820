/* What the tokenizer's source files share. Private to engine/tokenizer*.c. */
#ifndef ENGINE_TOKENIZER_PARTS_H
#define ENGINE_TOKENIZER_PARTS_H

#include "engine/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum tok_kind { TOK_NONE, TOK_SPM, TOK_BPE };

/* The file's numbers for token types (tokenizer.ggml.token_type). */
enum tok_type {
    TOK_UNDEFINED = 0,
    TOK_NORMAL = 1,
    TOK_UNKNOWN = 2,
    TOK_CONTROL = 3,
    TOK_USER = 4, /* "user defined": taken out of a text before everything else */
    TOK_UNUSED = 5,
    TOK_BYTE = 6,
};

enum { TOK_END = 1, TOK_LSTRIP = 2, TOK_RSTRIP = 4 }; /* bits of struct tokenizer.flag */

#define TOK_NO_SYM UINT32_MAX

/* Bytes of a string held in some arena. */
struct tok_text {
    const char *s;
    uint32_t n;
};

/* Strings to symbol numbers. Symbols below the vocabulary's size are tokens; the others are strings that
 * merges mention but no token has. The hash is polynomial, so that the hash of two strings put together
 * follows from theirs: hash(ab) = hash(a)·power(|b|) + hash(b). */
struct tok_map {
    uint32_t *slot; /* symbol + 1, 0 where free */
    uint32_t mask;  /* slots - 1; slots is a power of two */
};

/* (left symbol, right symbol) to what the pair becomes; lower ranks merge first. */
struct tok_pair {
    uint32_t left, right, rank, result;
};

struct tok_pre; /* compiled pre-tokeniser: the expressions that cut a text into words */

/* Special tokens of some types, for finding them in a text. */
struct tok_specials {
    uint32_t *length; /* distinct lengths, longest first */
    uint32_t n_length;
    uint8_t first[32];  /* bit per byte: a special token of length 1 */
    uint8_t pair[8192]; /* bit per two bytes: a longer one starts with them */
};

struct tokenizer {
    enum tok_kind kind;
    uint32_t n;
    /* [n_sym], the first n are the tokens */
    struct tok_text *text;
    uint64_t *hash;
    uint32_t n_sym, cap_sym;
    char *arena, *merge_arena; /* bytes of text[] */
    /* [n] */
    float *score;
    uint8_t *type, *flag;
    struct tok_text *piece; /* as printed; control tokens as written */
    char *piece_arena;
    struct tok_map map;
    uint32_t max_bytes; /* longest token */

    int32_t bos, eos, unk;
    bool add_bos, add_space_prefix;
    int32_t byte_token[256]; /* SPM and raw BPE: "<0x41>" or the byte itself; -1 */
    bool cut_words;          /* SPM: no token spans "x▁", so words are independent */

    /* BPE */
    struct tok_pair *pairs; /* open addressing, rank == UINT32_MAX where free */
    uint32_t pair_mask;
    uint32_t byte_sym[256]; /* symbol of a byte's GPT-2 character, TOK_NO_SYM where none */
    bool ignore_merges;     /* a word that is a token is taken whole */
    bool raw;               /* characters are themselves, not GPT-2's stand-ins for bytes */
    struct tok_pre *pre;

    struct tok_specials all, user;
};

/* Growable output; a failed allocation is remembered. */
struct tok_ids {
    int32_t *v;
    size_t n, cap;
    bool failed;
};
void tok_ids_add(struct tok_ids *o, int32_t id);

/* A merge that may be made: the smallest `order` comes first. */
struct tok_cand {
    uint64_t order;
    uint32_t left, right; /* positions of symbols */
    uint32_t bytes;       /* of both together: outdated when they no longer have so many */
    uint32_t result;
};
struct tok_sym {
    uint64_t hash, power; /* SPM only */
    uint32_t at, n;       /* bytes of the text; n == 0: merged into its left neighbour */
    uint32_t prev, next;  /* UINT32_MAX at the ends */
    uint32_t id;
};
/* Memory reused from word to word. */
struct tok_work {
    struct tok_sym *sym;
    size_t cap_sym;
    struct tok_cand *heap;
    size_t n_heap, cap_heap;
    char *buf;
    size_t cap_buf;
    bool failed;
};
void tok_work_finish(struct tok_work *w);
bool tok_work_syms(struct tok_work *w, size_t n);
bool tok_work_buf(struct tok_work *w, size_t n);
void tok_heap_push(struct tok_work *w, struct tok_cand c);
struct tok_cand tok_heap_pop(struct tok_work *w);

/* tokenizer_map.c */
uint64_t tok_hash(const char *s, size_t n);
uint64_t tok_hash_power(size_t n);
/* Symbol of a string whose hash is known, or TOK_NO_SYM. */
uint32_t tok_map_find(const struct tokenizer *t, const char *s, size_t n, uint64_t hash);
/* Puts symbol `id` (its text and hash are set) in; replaces an equal string's symbol and returns that, else
 * TOK_NO_SYM. The table has room. */
uint32_t tok_map_put(struct tokenizer *t, uint32_t id);
bool tok_map_init(struct tokenizer *t, uint64_t n);

/* tokenizer_bpe.c. `merges` are of the file; checked here. */
struct gguf_str;
int tok_bpe_create(struct tokenizer *t, const struct gguf_str *merges, uint64_t n, struct err *e);
int tok_bpe_encode(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n,
                   struct tok_ids *out, struct err *e);
/* UTF-8 of the character that stands for a byte in GPT-2's vocabularies: 1 or 2 bytes. */
int tok_byte_char(uint8_t byte, char out[2]);
/* The byte a code point stands for, -1 where none. */
int tok_char_byte(uint32_t cp);

/* tokenizer_spm.c */
void tok_spm_create(struct tokenizer *t);
/* `prefix`: the text begins with an added space. */
void tok_spm_encode(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n, bool prefix,
                    struct tok_ids *out);

/* tokenizer_pre.c. Unknown names (n bytes): a warning and the default. */
struct tok_pre_flags {
    bool ignore_merges, add_bos, no_bos, raw;
};
int tok_pre_create(struct tok_pre **out, const char *name, size_t n, struct tok_pre_flags *flags,
                   struct err *e);
void tok_pre_destroy(struct tok_pre **p);
/* Cuts `text` (any bytes) into words; *ends is the caller's (free): where each word ends, the last at n. */
int tok_pre_split(const struct tok_pre *p, const char *text, size_t n, uint32_t **ends, size_t *count,
                  struct err *e);

/* tokenizer_special.c */
bool tok_specials_init(struct tok_specials *s, const struct tokenizer *t, bool user_only);
void tok_specials_finish(struct tok_specials *s);
struct tok_claim {
    uint32_t at, n;
    int32_t id;
};
/* Finds special tokens in a text made of parts; *claims (sorted by position) and *gone (n bytes, non-zero
 * where a byte belongs to a token or is stripped beside one; NULL when there are no claims) are the caller's.
 */
int tok_specials_find(const struct tokenizer *t, const char *text, size_t n, const struct tok_part *parts,
                      size_t n_parts, struct tok_claim **claims, size_t *count, uint8_t **gone,
                      struct err *e);

/* Length 1…4 of a valid UTF-8 sequence at s, 0 where there is none. */
int tok_utf8_len(const char *s, size_t n);
uint32_t tok_utf8_code(const char *s, int len);
/* Bytes a sequence that starts with `c` should have, as SPM splits text: no check of what follows. */
static inline uint32_t tok_lead_len(uint8_t c)
{
    return c < 0xc0 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

#endif
