/* Which activation a model's FFN has: resolved from what the file says, never guessed. Private to engine/. */
#ifndef ENGINE_ACTIVATION_H
#define ENGINE_ACTIVATION_H

#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>

struct arch;
struct err;
struct gguf;

struct activation {
    enum kern_act kind;
    float param;        /* FATReLU's threshold, else 0 */
    char name[32];      /* "silu", "fatrelu:0.01" */
    const char *origin; /* where it comes from, for reports: "--activation", "the file's key", … */
};

/* Parses "silu", "relu2", "fatrelu:0.01", "gelu_pytorch_tanh" …; `param` is used where the text has none
 * (NaN: none known). ERR_ARG with the names otherwise. */
int activation_parse(struct activation *out, const char *text, size_t n, float param, struct err *e);

/* In this order: `override` (may be NULL), calor.activation, the architecture's own key, a known model name,
 * the architecture where it has one answer; else ERR_UNSUPPORTED naming --activation. */
int activation_resolve(struct activation *out, const struct arch *arch, const struct gguf *f,
                       const char *override, struct err *e);

/* True where silent neurons are exactly zero. */
static inline bool activation_has_zeros(const struct activation *a)
{
    return a->kind == KERN_RELU || a->kind == KERN_RELU2 || a->kind == KERN_FATRELU || a->kind == KERN_DRELU;
}

#endif
