/* Choosing the next token from logits. Deterministic: the same logits, settings and state give the same id.
 * Private to engine/. */
#ifndef ENGINE_SAMPLER_H
#define ENGINE_SAMPLER_H

#include "engine/calor.h"

#include <stddef.h>
#include <stdint.h>

struct err;

struct candidate {
    float logit;
    int32_t id;
};

/* Room for sampler_pick over `vocab` tokens (free), or NULL. */
struct candidate *sampler_workspace(uint32_t vocab);

/* The id, or a negative ERR_…: ERR_ARG for impossible settings, ERR_NUMERIC when no token has a finite
 * logit. `last`: the tokens the repetition penalty looks at. Advances sp->state when it draws. */
int32_t sampler_pick(calor_sampler *sp, const float *logits, uint32_t vocab, const int32_t *last,
                     size_t n_last, struct candidate *work, struct err *e);

#endif
