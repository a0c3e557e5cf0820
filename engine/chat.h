/* Chat templates: a conversation as the text a model was trained on. Recognised, not interpreted. Private to
 * engine/. */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H

#include <stddef.h>

struct err;
struct gguf;
struct strbuf;

struct chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *text;
};

struct chat_template; /* static table entry */

/* By name ("chatml", …); NULL name: recognised from tokenizer.chat_template of the file, else ERR_UNSUPPORTED
 * with the list of names. */
int chat_find(const struct chat_template **out, const char *name, const struct gguf *f, struct err *e);
const char *chat_name(const struct chat_template *t);
/* All names, NULL-terminated, for --help. */
const char *const *chat_names(void);

/* Appends the messages in template form to out; with `generate` the opening of the assistant's answer too.
 * Special tokens are written out: encode with special = true, the model's BOS (if it has one) is not
 * included. */
int chat_format(const struct chat_template *t, const struct chat_message *m, size_t n, int generate,
                struct strbuf *out, struct err *e);

#endif
