/* A session: one timeline of tokens, its KV cache and the buffers a pass computes in. Private to engine/. */
#ifndef ENGINE_SESSION_H
#define ENGINE_SESSION_H

#include "engine/calor.h"
#include "engine/kv.h"
#include "kernels/kernels.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* What a thread has for itself: 64-byte aligned parts of the session's arena. */
struct worker {
    void *scratch; /* for kernels */
    uint8_t *xp;   /* prepared inputs of a few tokens */
    float *norm;   /* the normed inputs behind them */
    float *tile;   /* rows of a product before they are added or multiplied into place: tile_floats */
    struct block_work *block; /* of models by neuron */
    uint8_t *panel;           /* rows of down, or of a gate in planes, put together again */
    calor_ffn_counts *counts; /* one a layer */
};

/* The neurons of one block that a token needs, compact. */
struct block_work {
    float gate[KERN_BLOCK], up[KERN_BLOCK], h[KERN_BLOCK];
    uint16_t list[KERN_BLOCK];
};

/* Sees what every neuron of a layer does. `layer` is called by one thread, while the others go on, with T
 * tokens from position `pos` on: x is the FFN's normed input (T × width), h its activations (T × ffn), in the
 * file's order; both are gone when it returns. With an observer no neuron is left out and a batch is computed
 * densely, also where only a few tokens are; the session's batch must have room for more than NEURON_TOKENS.
 */
struct observer {
    void (*layer)(void *arg, uint32_t layer, int64_t pos, int64_t T, const float *x, const float *h);
    void *arg;
};

struct calor_session {
    struct calor_model *m;
    enum calor_mode mode;
    bool count_recall;
    struct kv kv;
    uint32_t context, batch, position;
    int32_t *ids; /* the timeline, `context` long */
    atomic_int cancel;
    const struct observer *observer; /* may be NULL; kept by reference */
    const struct activation *tried;  /* with an observer: an activation instead of the model's; or NULL */

    uint8_t *arena;
    size_t arena_bytes;
    /* Of `batch` tokens, token-major: */
    float *x, *x2; /* the residual stream; x2 takes its place after a layer of parallel branches */
    float *norm;   /* normed inputs */
    float *q, *k, *v, *attn;
    float *h;        /* FFN activations; of few tokens by neuron: the gates of listed neurons, by unit */
    float *h_places; /* of many tokens: h before it goes back into the file's order; NULL where it is in it */
    /* Of few tokens by neuron: the listed neurons of each unit (places in their block) and how many they are,
     * and what each block of neurons adds to the output, `added` where it is anything. */
    uint16_t *list, *listed;
    float *partial;
    uint8_t *added;
    float *epsilon;                           /* CALOR_THRESHOLD: one a layer */
    calor_ffn_recall *recall, *recall_blocks; /* NULL, or one a layer; one a token and block */
    float *hidden;                            /* CALOR_PREDICT: a predictor's hidden values */
    float *cs;                                /* rotation: rot/2 pairs (cos, sin) a token */
    uint8_t *xp;                              /* prepared inputs */
    struct worker *workers;
    size_t tile_floats;

    float *logits; /* of the last token */
    int has_logits;
    struct candidate *candidates; /* the sampler's work space, vocab long */
};

/* Whether all that a planned session takes (KV cache, buffers, timeline) fits into `available` bytes.
 * ERR_NOMEM says how many tokens would. */
int session_check_memory(const struct calor_session *s, uint64_t available, struct err *e);

#endif
