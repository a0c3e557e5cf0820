/* Chat templates: a conversation as the text a model was trained on. Recognised, not interpreted. Private to
 * engine/. */
#ifndef ENGINE_CHAT_H
#define ENGINE_CHAT_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct gguf;
struct strbuf;
struct tokenizer;

struct chat_message {
    const char *role; /* "system", "user", "assistant" */
    const char *text;
};

struct chat_template; /* static table entry */

/* By name ("chatml", …); NULL name: recognised from tokenizer.chat_template of the file, else ERR_UNSUPPORTED
 * with the list of names. */
int chat_find(const struct chat_template **out, const char *name, const struct gguf *f, struct err *e);
/* The template that a file's tokenizer.chat_template (n bytes of Jinja) stands for; NULL where none is known.
 */
const struct chat_template *chat_recognise(const char *jinja, size_t n);
const char *chat_name(const struct chat_template *t);
/* All names, NULL-terminated, for --help. */
const char *const *chat_names(void);

/* Appends the messages in template form to out; with `generate` the opening of the assistant's answer too.
 * Special tokens are written out; the BOS that most templates begin with is not. `tok` gives the text of BOS
 * and EOS where a template repeats them; NULL: "<s>" and "</s>". ERR_ARG names a role that is not one of the
 * three, and a system message that is not the first where the template has no place for it. */
int chat_format(const struct chat_template *t, const struct tokenizer *tok, const struct chat_message *m,
                size_t n, int generate, struct strbuf *out, struct err *e);

/* The same as token ids (no BOS; *ids is the caller's: free). Control tokens are read in the template's own
 * text only: what people typed stays text, whatever it says. */
int chat_encode(const struct chat_template *t, const struct tokenizer *tok, const struct chat_message *m,
                size_t n, int generate, int32_t **ids, size_t *count, struct err *e);

#endif
