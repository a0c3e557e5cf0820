/* Tokenizers: text ↔ token ids. SPM (llama) and byte-pair (GPT-2 family). Private to engine/. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct gguf;
struct tokenizer; /* opaque; immutable after creation, safe to share between threads */

/* Builds from the tokenizer.* metadata of a model file (tokenizer.ggml.model: "llama", "gpt2", "none"…).
 * Every id, length and array is checked against n_vocab = number of tokens. */
int tok_create(struct tokenizer **out, const struct gguf *f, struct err *e);
void tok_destroy(struct tokenizer **t);

uint32_t tok_count(const struct tokenizer *t);
/* Special ids, or -1. */
int32_t tok_bos(const struct tokenizer *t);
int32_t tok_eos(const struct tokenizer *t);
bool tok_add_bos(const struct tokenizer *t);            /* whether the model expects BOS before a text */
bool tok_is_end(const struct tokenizer *t, int32_t id); /* EOS, EOT and the like: generation stops */
bool tok_is_control(const struct tokenizer *t, int32_t id);

/* Text (n bytes, any bytes: invalid UTF-8 is legal input) to ids. No BOS is added. `special`: control tokens
 * written out in the text ("<|im_start|>") become their ids; without it they are plain text. *ids is the
 * caller's (free). */
int tok_encode(const struct tokenizer *t, const char *text, size_t n, bool special, int32_t **ids,
               size_t *count, struct err *e);

/* A text in parts, joined before anything else happens (words may span parts), where control tokens are read
 * only inside parts that are `special`: so a template's markers count and the same characters typed by a user
 * do not. User-defined tokens, which are vocabulary rather than control, are read
 * everywhere, except markers ("<…", "[…") that a special part holds too. */
struct tok_part {
    const char *text;
    size_t n;
    bool special;
};
int tok_encode_parts(const struct tokenizer *t, const struct tok_part *parts, size_t n_parts, int32_t **ids,
                     size_t *count, struct err *e);

/* Bytes of one token as it continues a text (may be part of a UTF-8 sequence); control tokens give 0 bytes
 * unless `special`. Returns the length; writes at most cap bytes. The pointer stays valid as long as the
 * tokenizer. */
const char *tok_piece(const struct tokenizer *t, int32_t id, bool special, size_t *n);

/* Streaming detokenizer: feeds tokens, gives back only whole UTF-8 sequences (an incomplete tail waits for
 * the next token; bytes that can never become valid are given as they are). Handles SPM's leading space at
 * the text's start. */
struct tok_stream {
    char pending[16];
    int n_pending;
    bool at_start; /* set by tok_stream_init for a fresh text: strips SPM's added space */
};
void tok_stream_init(struct tok_stream *s, bool at_start);
struct strbuf;
void tok_stream_add(struct tok_stream *s, const struct tokenizer *t, int32_t id, bool special,
                    struct strbuf *out);
void tok_stream_flush(struct tok_stream *s, struct strbuf *out);

#endif
