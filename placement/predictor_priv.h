/* What training's files share. Private to placement/ (and its tests). */
#ifndef PLACEMENT_PREDICTOR_PRIV_H
#define PLACEMENT_PREDICTOR_PRIV_H

#include "placement/predictor_train.h"
#include "placement/train_math.h"

struct team_member;

enum { TRAIN_BATCH = 512 };

struct train_weights {
    float *w, *m, *v; /* with Adam's moments */
};

/* Where a step's gradients go instead of into the weights: for tests. Sums over the batch. */
struct train_gradients {
    float *fc1, *fc2t, *bias, *hidden_bias;
};

struct train {
    const struct predictor_training *s;
    const struct predictor_samples *samples;
    int64_t d, f, fp, r; /* fp: f padded to TRAIN_COLUMNS */
    float rate, weight;  /* weight: of an active neuron, times its magnitude */
    float *memory;
    struct train_weights fc1 /* d × r */, fc2t /* r × fp */, bias /* fp */, hidden_bias /* r */;
    float *fc2;            /* f × r: fc2t once more */
    float *x, *h, *dh, *z; /* of the batch: × d, × r, × r, × fp; z becomes its gradient */
    uint16_t *wanted;      /* batch × fp */
    float *own;            /* a thread's each */
    size_t own_floats;
    uint32_t *order;
    int64_t batch, step, steps, now; /* steps `now` from `step` on are to be done */
    size_t at, first;                /* of the samples in order: of these steps, of this one */
    struct train_adam adam;
    const struct train_gradients *gradients; /* NULL but in tests */
};

/* train_finish in any case. */
int train_create(struct train *t, const struct predictor *p, const struct predictor_samples *samples,
                 const struct predictor_training *s, struct err *e);
void train_finish(struct train *t);
void train_steps(struct team_member *m, void *arg);

/* fc1, fc2t and bias from the best approximation, on the samples, of the gate by this rank. */
int train_begin_with_gate(struct train *t, struct err *e);
/* Rounds the weights to their types, hidden values of like size side by side. */
int train_store(struct train *t, struct predictor *p, uint32_t layer, struct err *e);

#endif
