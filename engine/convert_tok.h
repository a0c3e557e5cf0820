/* Tokenizers of Hugging Face checkpoints, written as a GGUF file's tokenizer.* keys. Private to engine/. */
#ifndef ENGINE_CONVERT_TOK_H
#define ENGINE_CONVERT_TOK_H

#include <stdint.h>

struct err;
struct gguf_writer;

/* Reads what `dir` has of tokenizer.json, tokenizer.model, vocab.json with merges.txt, added_tokens.json,
 * tokenizer_config.json, special_tokens_map.json, generation_config.json, config.json and
 * chat_template.jinja, and writes every tokenizer.* key. The vocabulary is filled up to n_vocab_rows (the
 * rows of the embedding) with unused tokens "[PAD123]"; a token beyond them is ERR_FORMAT. A directory
 * without any tokenizer gives tokenizer.ggml.model = "none" and a warning. What llama.cpp's kinds of
 * vocabulary cannot express is refused (ERR_UNSUPPORTED): another pre-tokeniser would give other tokens than
 * the model was trained on. */
int convert_tokenizer(const char *dir, uint32_t n_vocab_rows, struct gguf_writer *w, struct err *e);

#endif
