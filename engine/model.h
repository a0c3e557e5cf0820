/* A loaded model: weights bound to their kernels, hyper-parameters, tokenizer, threads. Immutable once open,
 * except for the team, which one session uses at a time. Private to engine/. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H

#include "engine/activation.h"
#include "engine/calor.h"
#include "engine/hparams.h"
#include "engine/neurons.h"
#include "engine/place.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arch;
struct err;
struct gguf;
struct predictor;
struct team;
struct tokenizer;

/* A weight matrix: `rows` rows of `n` values. Not there: data NULL. */
struct mat {
    const uint8_t *data;
    size_t row_bytes;
    int64_t rows, n;
    enum dtype type;
    const struct kern_mat *mv, *mm;
};

struct norm {
    const float *w, *b; /* b may be NULL */
};

/* The predictor of a layer (screen.c): z = fc2·act(fc1·x + hidden_bias) + bias, a candidate from `cut` on.
 * fc1 without data: none. */
struct predicting {
    struct mat fc1, fc2;
    const float *hidden_bias; /* may be NULL */
    const uint16_t *bias;     /* F16; may be NULL */
    float cut;
    bool relu;        /* between the two; else nothing is */
    bool before_norm; /* reads the FFN's input as it is before its norm (PowerInfer) */
};

struct layer {
    struct norm attn_norm; /* before q, k, v */
    struct mat q, k, v, o;
    const float *q_b, *k_b, *v_b, *o_b; /* each may be NULL */
    struct norm ffn_norm;
    struct mat gate, up, down; /* gate: only in gated FFNs */
    const float *gate_b, *up_b, *down_b;
    bool down_by_neuron; /* down is stored transposed: row i is neuron i's d values (PowerInfer) */
    struct neurons by;   /* up and down once they are laid out by neuron */
    struct predicting predicting;
};

struct calor_model {
    struct gguf *file;
    bool mapped; /* weights are used in place */
    struct tokenizer *tok;
    const struct arch *arch;
    struct hparams hp;
    struct activation act;
    const struct kern_ops *ops;
    struct team *team;
    struct place place;
    pthread_mutex_t run_lock; /* held while the team runs a pass */

    struct mat embd, position, output;
    struct norm output_norm;
    const float *output_b;
    const float *rope_factors; /* rot/2 divisors of the angles, or NULL */
    double *rope_freq;         /* rot/2 angles of one position */
    struct layer *layers;
    float *epsilon;              /* of a profile: one a layer, for CALOR_THRESHOLD; NULL without */
    struct predictor *predictor; /* from a file of its own: what layers' predicting points into; or NULL */

    void **owned; /* memory behind vectors and weights that are not used in place */
    size_t n_owned, cap_owned;

    char *name;
    const char *type; /* the dtype most weights have */
    uint64_t parameters, weight_bytes;
};

/* Gives every layer its predictor: from the file `path`, or where it is NULL the model file's own
 * (PowerInfer's fc1 and fc2). */
int predicting_bind(struct calor_model *m, const char *path, struct err *e);

/* Finds, checks and binds every tensor of the architecture. */
int weights_bind(struct calor_model *m, const calor_model_settings *s, struct err *e);

/* Memory that lives as long as the model, aligned to 64 bytes or to `align` (a power of two, at least 64);
 * NULL when there is none. model_free gives one such piece back early: false if p is none. */
void *model_alloc(struct calor_model *m, size_t bytes);
void *model_alloc_aligned(struct calor_model *m, size_t align, size_t bytes);
/* For weights: in huge pages where the system has some. Small pages cost a core its place in the stream at
 * every end, and a walk through the tables of guest and host. */
uint8_t *model_alloc_huge(struct calor_model *m, size_t bytes);
bool model_free(struct calor_model *m, const void *p);

/* Writes e's message to (err, errlen) and returns its code. */
int model_fail(const struct err *e, char *err, size_t errlen);

#endif
