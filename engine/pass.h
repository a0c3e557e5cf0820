/* One forward pass of a batch, run by all threads of the team together: every thread walks the same list of
 * steps and meets the others at barriers. Results never depend on who computes what. Private to engine/.
 *
 * forward.c   the walk over the layers, embedding, logits
 * attention.c q, k, v, rotation, cache, attention, output projection
 * ffn.c       the feed-forward network
 * ffn_neurons.c  the same for few tokens, the neurons that fire alone
 * product.c   what they share: preparing inputs, sharing out rows of weight matrices */
#ifndef ENGINE_PASS_H
#define ENGINE_PASS_H

#include "engine/model.h"
#include "engine/session.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct team_member;

/* Up to this many tokens each thread prepares the inputs for itself: the work is less than a barrier. */
#define PASS_PRIVATE_TOKENS 4

struct pass {
    const struct calor_model *m;
    struct calor_session *s;
    const int32_t *ids;
    int64_t T, pos0;
    float *logits; /* T × vocab floats when `all`, else vocab floats of the last token */
    bool all;
    int stop;       /* written by thread 0 before a layer's first barrier, read by all behind it */
    atomic_int bad; /* a logit was not finite */
};

/* A matrix in a product: filled in by product_prepare. */
struct product {
    const struct mat *w;
    const float *bias; /* may be NULL */
    const struct kern_mat *k;
    const void *xp;
    int64_t unit; /* ranges of rows are multiples of it; 0: any */
};

/* Norms (norm NULL: takes as it is) and prepares T tokens of `in` (w->n floats each, ld apart) for the
 * products, which all read the same input. `in` must be complete. After it every thread may compute rows. */
void product_prepare(const struct pass *p, struct team_member *t, struct product *parts, int n_parts,
                     const float *in, int64_t ld, int64_t T, const struct norm *norm);

/* Shares out the rows of the parts: true with the next range of one part for this thread. Part and range are
 * the same for every number of threads only as a set. */
struct product_range {
    int part;
    int64_t begin, end;
};
bool product_next(const struct pass *p, struct team_member *t, const struct product *parts, int n_parts,
                  int64_t T, struct product_range *range);

/* y[t*ldy + i] = (W x_t + bias)[begin + i]. */
void product_rows(const struct pass *p, const struct team_member *t, const struct product *part,
                  int64_t begin, int64_t end, int64_t T, float *y, int64_t ldy);

/* out[t*ld + r] = from[t*ld + r] + residual_scale·(W x_t + bias)[r] for every row, shared out. `out` may be
 * `from`. */
void product_add(const struct pass *p, struct team_member *t, const struct product *part, int64_t T,
                 const float *from, float *out, int64_t ld);

void norm_apply(const struct calor_model *m, const struct norm *norm, float *y, const float *x);

/* Attention of layer i for the T tokens at x. Afterwards (behind a barrier) out = x + attention; out may be
 * x. `last`: only the last token's output is wanted: it is written to out's last row. */
void attention_step(const struct pass *p, struct team_member *t, uint32_t layer, const float *x, float *out,
                    bool last);
/* Bytes a thread's scratch needs for it. */
size_t attention_scratch(const struct calor_model *m);

/* out += FFN(norm(in)) for T tokens; ends with a barrier. `in` may be `out`. */
void ffn_step(const struct pass *p, struct team_member *t, uint32_t layer, const float *in, float *out,
              int64_t T);
/* The same for at most NEURON_TOKENS tokens of a model laid out by neuron; layer's counts are kept. */
void ffn_neurons(const struct pass *p, struct team_member *t, uint32_t layer, const float *in, float *out,
                 int64_t T);
/* Bytes a thread needs for the prepared inputs of T tokens. */
size_t ffn_neurons_input_bytes(const struct layer *l, int64_t T);
/* Columns a thread takes at once of a transposed product: its tile holds two such rows a token. */
#define FFN_COLUMNS 256

/* Runs the pass on the model's team. 0, ERR_CANCELLED or ERR_NUMERIC. */
int forward_run(struct pass *p);

/* Sizes the session's arena and, when it fits into memory beside the KV cache, points its buffers into it. */
int forward_plan(struct calor_session *s, struct err *e);

#endif
