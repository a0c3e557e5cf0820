/* What is measured on a running model for placement. A part of engine/tools.h. */
#ifndef ENGINE_MEASURE_H
#define ENGINE_MEASURE_H

#include "engine/calor.h"
#include "placement/profile.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum { MEASURE_SAMPLES_MOST = 4096, MEASURE_PPL_TOKENS = 8192 };

struct measure_text {
    enum profile_text text;
    const int32_t *ids; /* without BOS: each window gets one where the model wants it, not counted */
    size_t n;
};

struct measure_settings {
    const struct measure_text *texts; /* at least one token for calibration */
    size_t n_texts;
    uint32_t window;  /* tokens of context, at least 10; 0: the model's, at most 512 */
    uint32_t samples; /* tokens for the CETT curves; less where they would take more than 512 MiB */
    double cett;      /* where the activation has no zeros: the CETT to choose epsilons for */
    double ppl;   /* above 0: the CETT is searched for at which perplexity on the held-out text rises by this
                     many percent; that text is needed, and samples. Stored in the profile; where the
                     activation has no zeros, epsilons are chosen for it instead of `cett` */
    bool fatrelu; /* perplexity on the held-out text at a grid of FATReLU thresholds, for a model with ReLU or
                     FATReLU; stored in the profile */
    uint64_t ppl_tokens;           /* most held-out tokens that are computed at each step of these; 0: 8192 */
    const struct profile *earlier; /* its epsilons are used, so that it can be merged; or NULL. Not with ppl
                                    */
    int (*progress)(double done, void *arg); /* 0 … 1; non-zero cancels; may be NULL */
    void *progress_arg;
};

/* Profiles a model opened with CALOR_LAYOUT_NEURON. *out is the caller's (profile_close). */
int measure_profile(struct profile **out, calor_model *m, const struct measure_settings *s, struct err *e);

#endif
