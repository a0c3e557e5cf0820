/* Training a layer's predictor on samples of its FFN, and measuring one. A front header of placement/: it
 * never sees the engine, which hands it samples (engine/measure_predictor.c).
 *
 * The loss is a binary cross-entropy in which an active neuron weighs its magnitude ‖n_i‖, so that what is
 * best for the loss keeps most magnitude for the fewest candidates. Results do not depend on the number of
 * threads. */
#ifndef PLACEMENT_PREDICTOR_TRAIN_H
#define PLACEMENT_PREDICTOR_TRAIN_H

#include "placement/predictor.h"

struct kern_ops;
struct team;

/* n samples of one layer, one behind the other. */
struct predictor_samples {
    size_t n;
    const uint16_t *x;         /* the FFN's normed input: width values each, F16 */
    const uint16_t *magnitude; /* ‖n_i‖ = |h_i|·‖down's row i‖: `neurons` values each, BF16, 0: not active */
};

struct predictor_training {
    struct team *team;
    const struct kern_ops *ops; /* how quantised weights are multiplied */
    uint32_t rank;              /* a multiple of 32 */
    enum predictor_hidden hidden;
    enum dtype fc1_type, fc2_type; /* as stored: F16, Q8_0, Q4_0 … */
    double epochs;                 /* passes over the samples */
    float rate;                    /* Adam's; 0: 0.002 */
    float emphasis; /* how much an active neuron of mean magnitude weighs against a silent one; 0: 4 */
    uint64_t seed;
    const float *gate;  /* neurons × width: begins with the best approximation of it by this rank; or NULL */
    const float *prior; /* how often each neuron is active, 0 … 1; NULL: counted in the samples */
    int (*progress)(double done, void *arg); /* 0 … 1; non-zero cancels; may be NULL */
    void *progress_arg;
};

/* Trains layer `layer` of p on samples and stores it, with a cut of 0. ERR_NUMERIC when it diverges. */
int predictor_train(struct predictor *p, uint32_t layer, const struct predictor_samples *samples,
                    const struct predictor_training *t, struct err *e);

/* What a layer's predictor does on samples, computed as the engine computes it, at every cut. */
enum { PREDICTOR_CUTS = 8192 };
struct predictor_scores {
    uint64_t samples, candidates, active, found; /* at the chosen cut; sums over samples */
    double recall;                               /* by magnitude */
    float cut;
    /* By steps of 1/64 from -64 up, clamped: neurons whose z lies there, the active ones, their magnitude. */
    uint64_t all[PREDICTOR_CUTS], on[PREDICTOR_CUTS], magnitude[PREDICTOR_CUTS];
};
int predictor_measure(struct predictor_scores *out, const struct predictor *p, uint32_t layer,
                      const struct predictor_samples *samples, struct team *team, const struct kern_ops *ops,
                      struct err *e);
/* The highest cut with at least this recall by magnitude, and the scores at a given cut (both in *s). */
float predictor_choose_cut(struct predictor_scores *s, double recall);
void predictor_at_cut(struct predictor_scores *s, float cut);

#endif
