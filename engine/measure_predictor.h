/* Training a model's predictors on a text. A part of engine/tools.h. */
#ifndef ENGINE_MEASURE_PREDICTOR_H
#define ENGINE_MEASURE_PREDICTOR_H

#include "engine/calor.h"
#include "placement/predictor.h"

#include <stddef.h>
#include <stdint.h>

struct err;
struct profile;

enum { PREDICTOR_SAMPLES_MOST = 1 << 22 };

struct predictor_settings {
    const int32_t *ids; /* without BOS: each window gets one where the model wants it */
    size_t n;
    const int32_t *held_out; /* another text to report on; n_held_out 0: windows of the first that are not
                                trained on */
    size_t n_held_out;
    uint32_t window;  /* tokens of context, at least 10; 0: the model's, at most 512 */
    uint32_t samples; /* tokens to train on, 0: 65536; fewer where a layer's would take more than 1.25 GiB */
    double recall;    /* that the cuts are to keep, by magnitude; 0: 0.95 */
    double bytes;     /* most a predictor may read, as a share of the FFN's bytes; 0: 0.1 */
    double epochs;    /* passes over the samples; 0: 4 */
    uint64_t seed;
    const struct profile *profile;           /* how often neurons are active, from more text; or NULL */
    int (*progress)(double done, void *arg); /* 0 … 1; non-zero cancels; may be NULL */
    void *progress_arg;
};

/* What a layer's predictor costs and does on text it was not trained on. */
struct predictor_report {
    uint32_t rank, tried; /* tried: ranks that were trained */
    enum dtype fc1_type, fc2_type;
    uint64_t bytes;            /* a token */
    double bytes_share;        /* of the FFN's, every neuron read */
    double recall, plain;      /* by magnitude; of neurons */
    double candidates, active; /* shares of neurons */
};
struct predictor_totals {
    uint32_t samples, calibration, tested; /* tokens: trained on, of the cuts, reported on */
    uint32_t passes;                       /* times the text went through the model */
    double bytes_share, recall, plain, candidates, active;
};

/* Trains a predictor for every layer of a model opened with CALOR_LAYOUT_NEURON whose activation has zeros.
 * *out is the caller's (predictor_close), layers: room for one report each. Samples of as many layers as fit
 * into 1.25 GiB are held at once; where those are not all, the text goes through the model again. The result
 * depends on the settings, the model and the instruction set, not on the number of threads. */
int measure_predictor(struct predictor **out, struct predictor_report *layers, struct predictor_totals *all,
                      calor_model *m, const struct predictor_settings *s, struct err *e);

#endif
