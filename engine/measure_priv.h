/* What the files of the profiler's engine side share. Private to them. */
#ifndef ENGINE_MEASURE_PRIV_H
#define ENGINE_MEASURE_PRIV_H

#include "engine/measure.h"
#include "engine/session.h"

struct err;
struct quality;

/* Perplexities that the searches measure at most. For a CETT: dense, and at each halving; for a threshold:
 * the model's own, a grid, and halvings. */
enum { MEASURE_PPL_STEPS = 13, MEASURE_FATRELU_STEPS = 18 };

struct measure {
    const struct measure_settings *s;
    struct calor_model *m;
    struct calor_session *session;
    struct profile_recorder *r;
    struct observer observer;
    struct err *e;
    int rc;           /* of what the observer did */
    uint32_t skip;    /* positions in front of the text's own tokens: BOS */
    uint32_t window;  /* tokens of a window, BOS included */
    double done, all; /* tokens × layers, computed and to be computed */
    double cett;      /* that epsilons are chosen for */
    int32_t *ids;

    /* Samples: h of `samples` tokens in each layer; at[k]: the position of the k-th of this window. */
    float *samples_h;
    uint32_t samples, taken, at[MEASURE_SAMPLES_MOST], n_at;
};

/* Searches for the CETT at which perplexity rises by s->ppl percent and gives it to the recorder, which must
 * have its samples. */
int measure_ppl(struct measure *x, struct quality *q, double *cett);
/* Gives the recorder a curve of FATReLU thresholds. */
int measure_fatrelu(struct measure *x, struct quality *q);

#endif
