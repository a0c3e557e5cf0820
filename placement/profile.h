/* Profiles: how often, how strongly and with whom each FFN neuron of a model is active, measured on a text.
 * Front header of placement/. A recorder is fed token by token by whoever computes the model and becomes a
 * profile; profiles are written to and read from files (docs/profile-format.md).
 *
 * A neuron's output is n_i = h_i · down column i; its magnitude ‖n_i‖ = |h_i|·‖column i‖. It is *active* when
 * h_i ≠ 0 and ‖n_i‖ ≥ its layer's epsilon (0 where the activation has zeros). Definitions: ReLU² Wins (arXiv
 * 2402.03804). Neurons are numbered as in the model's file. */
#ifndef PLACEMENT_PROFILE_H
#define PLACEMENT_PROFILE_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct strbuf;

/* The two texts are kept apart everywhere: what was calibrated on, and what was held out to check it. */
enum profile_text { PROFILE_CALIBRATION, PROFILE_HELD_OUT, PROFILE_TEXTS };

enum {
    PROFILE_RUN = 128,        /* tokens of a recorded run, at least (a shorter text: all of it) */
    PROFILE_REUSES = 4,       /* reuse_k is known for k = 1, 2, 4, 8 */
    PROFILE_PARTNERS = 4,     /* co-active neurons named for each neuron */
    PROFILE_GAP_TOP = 10,     /* m of the top-average gap */
    PROFILE_CURVE_MOST = 256, /* points of a curve */
    PROFILE_NEURONS_MOST = 65536,
    PROFILE_LAYERS_MOST = 4096,
};
extern const int profile_reuse_k[PROFILE_REUSES];

/* What the profile is of. Strings are copied by those who keep it. */
struct profile_subject {
    uint8_t identity[16]; /* of the model: gguf_identity */
    const char *model;    /* its name, for messages */
    const char *activation;
    bool zeros; /* silent neurons are exactly zero: epsilon is 0 */
    uint32_t layers, neurons, width;
};

struct profile_curve_point {
    float epsilon;  /* magnitude below which neurons are left out */
    float cett;     /* mean over sampled tokens of ‖Σ n_i left out‖ / ‖Σ n_i‖ */
    float sparsity; /* share of neurons left out */
};

/* Quality at a FATReLU threshold (ProSparse's third step), measured by whoever has a model to run. */
struct profile_fatrelu_point {
    float threshold, sparsity, perplexity;
};

/* PPL-p % sparsity (Sparsing Law, arXiv 2411.02335): how many neurons can be left out before perplexity on
 * the held-out text rises by `target` percent, all layers sharing one CETT. */
struct profile_ppl {
    float target;               /* percent */
    float cett;                 /* the largest that was found to keep it */
    float sparsity, perplexity; /* there */
    float dense;                /* perplexity with only zeros left out */
    uint64_t tokens;            /* scored */
};
/* A step of the search for it. */
struct profile_ppl_point {
    float cett, sparsity, perplexity;
};

/* ---- Recording ---- */
struct profile_recorder;

struct profile_settings {
    struct profile_subject subject;
    uint64_t trace_bytes; /* most that the recorded runs may take in the file; 0: 48 MiB */
};
/* Memory: 300 bytes a neuron, the traces, and a few KiB. */
int profile_recorder_create(struct profile_recorder **out, const struct profile_settings *s, struct err *e);
void profile_recorder_destroy(struct profile_recorder **r);

/* Of one layer, before its first token: the norms of down's columns (f floats, copied), and the least
 * magnitude of an active neuron. */
int profile_recorder_layer(struct profile_recorder *r, uint32_t layer, const float *norms, float epsilon,
                           struct err *e);

/* Most tokens of each text that may be traced: a worst case, so that trace_bytes is kept. */
uint64_t profile_recorder_trace_room(const struct profile_recorder *r);

/* A piece of consecutive text begins: its first token is number `start` of the text. Tokens [trace_begin,
 * trace_end) of it become a recorded run (none where they are equal). */
int profile_recorder_begin(struct profile_recorder *r, enum profile_text text, uint64_t start,
                           uint32_t trace_begin, uint32_t trace_end, struct err *e);
/* T tokens of the piece in one layer, positions from `position` on: h is T × f floats. Each layer gets every
 * position once, in order. ERR_NUMERIC for NaN and infinity. One thread at a time. */
int profile_recorder_add(struct profile_recorder *r, uint32_t layer, uint32_t position, uint32_t T,
                         const float *h, struct err *e);

/* CETT of a layer. The grid: n ascending magnitudes. Then, for each sampled token, what the neurons of each
 * bucket add up to: bucket b holds those with grid[b-1] ≤ ‖n_i‖ < grid[b] (n+1 buckets, the last without an
 * upper end): `sums` is (n+1) × d floats, counts how many neurons each holds. */
int profile_recorder_grid(struct profile_recorder *r, uint32_t layer, const float *grid, uint32_t n,
                          struct err *e);
int profile_recorder_sample(struct profile_recorder *r, uint32_t layer, const float *sums,
                            const uint32_t *counts, struct err *e);
/* The epsilon for a CETT from the samples so far, before the tokens that are to be counted with it. */
int profile_recorder_epsilon(struct profile_recorder *r, uint32_t layer, double cett, float *epsilon,
                             struct err *e);
/* The bucket of a magnitude in a grid. */
uint32_t profile_bucket(const float *grid, uint32_t n, float magnitude);
/* Adds a point: `threshold` ascending. */
int profile_recorder_fatrelu(struct profile_recorder *r, const struct profile_fatrelu_point *p,
                             struct err *e);
/* The result of a search, with its n ≥ 1 steps, CETT ascending. Replaces an earlier one. */
int profile_recorder_ppl(struct profile_recorder *r, const struct profile_ppl *found,
                         const struct profile_ppl_point *steps, uint32_t n, struct err *e);
/* The CETT that the epsilons were chosen for (NaN: none). */
void profile_recorder_cett(struct profile_recorder *r, float target);

/* Makes the profile (co-activation takes f²·tokens/64 steps a layer). The recorder is spent: destroy it. */
struct profile;
int profile_recorder_finish(struct profile **out, struct profile_recorder *r, struct err *e);

/* ---- Making a profile of what is known, not measured: planted statistics of a model that is not here ----
 */
struct profile_known {
    uint64_t tokens; /* that both texts are said to have: a frequency becomes a count of them */
    uint32_t run;    /* tokens of the one recorded run, of the calibration text */
    /* Of a layer: for each neuron the share of the tokens at which it is active, and the mean and 99th
     * percentile of its magnitude then. Non-zero stops with that error. */
    int (*layer)(void *arg, uint32_t layer, float *frequency, float *mean, float *p99, struct err *e);
    /* A token of the run: the active neurons, ascending, into `list` (room for all); returns how many. Called
     * for tokens 0 … run-1 of a layer after its `layer`. */
    uint32_t (*token)(void *arg, uint32_t layer, uint32_t token, uint32_t *list);
    void *arg;
};
/* Reuse comes from the run; company and gap are those of neurons that fire independently. */
int profile_make(struct profile **out, const struct profile_subject *s, const struct profile_known *k,
                 struct err *e);

/* ---- Reading: a profile is immutable; any number of threads ---- */
int profile_open(struct profile **out, const char *path, struct err *e);
void profile_close(struct profile **p);
/* Writes a temporary file and renames it: nobody sees half of it. */
int profile_write(const struct profile *p, const char *path, struct err *e);

const struct profile_subject *profile_subject(const struct profile *p);
uint64_t profile_tokens(const struct profile *p, enum profile_text text);

/* ERR_STALE, with both names, unless the profile is of the model with this identity. */
int profile_check_model(const struct profile *p, const uint8_t identity[16], const char *model,
                        struct err *e);

/* Of a layer: how many tokens each neuron was active for; f values, owned by the profile. */
const uint32_t *profile_counts(const struct profile *p, uint32_t layer, enum profile_text text);
/* The same as shares of the tokens, 0 where the text has none: f floats into `out`. */
void profile_frequency(const struct profile *p, uint32_t layer, enum profile_text text, float *out);
/* Magnitude of the active ones on the calibration text: mean, and 99th percentile (from a histogram in half
 * octaves: within a fifth). 0 for neurons that never were. */
const float *profile_mean_magnitude(const struct profile *p, uint32_t layer);
const float *profile_p99_magnitude(const struct profile *p, uint32_t layer);
/* Neurons from hot to cold by calibration count, then by mean magnitude, then by number: f values. */
const uint32_t *profile_order(const struct profile *p, uint32_t layer);
/* The least magnitude that counted as active. */
float profile_epsilon(const struct profile *p, uint32_t layer);
float profile_cett_target(const struct profile *p); /* NaN where epsilons were not chosen by CETT */

/* Share of neurons not active; NaN where the text has no tokens. */
double profile_sparsity(const struct profile *p, uint32_t layer, enum profile_text text);
double profile_sparsity_all(const struct profile *p, enum profile_text text);
/* Share of a text's activations that the hottest `share` of neurons take, hottest by the calibration text. Of
 * one layer, and of the whole model (neurons of all layers in one order). NaN without activations. */
double profile_coverage(const struct profile *p, uint32_t layer, enum profile_text text, double share);
double profile_coverage_all(const struct profile *p, enum profile_text text, double share);
/* n+1 points of the model's coverage at shares 0, 1/n … 1. */
int profile_coverage_curve(const struct profile *p, enum profile_text text, uint32_t n, double *out,
                           struct err *e);

/* From the runs of the calibration text: mean over tokens of |A_t ∩ ⋃_{j ≤ k} A_{t-j}| / |A_t|, k =
 * profile_reuse_k[i]; and the mean over neurons i of mean_{top 10 j} P(j|i) − mean_j P(j). NaN: no runs. */
double profile_reuse(const struct profile *p, uint32_t layer, int i);
double profile_gap(const struct profile *p, uint32_t layer);
/* The most frequent company of a neuron in those runs: up to PROFILE_PARTNERS, most frequent first; returns
 * how many. share[k] = P(partner active | neuron active). */
int profile_partners(const struct profile *p, uint32_t layer, uint32_t neuron, uint32_t *partner,
                     float *share);

/* The CETT curve of a layer, ascending; the epsilon for a CETT by binary search and linear interpolation
 * (clamped to the curve). ERR_STATE where no curve was measured. */
const struct profile_curve_point *profile_curve(const struct profile *p, uint32_t layer, uint32_t *n);
int profile_epsilon_for(const struct profile *p, uint32_t layer, double cett, float *epsilon, struct err *e);
/* The thresholds that were tried, ascending. */
const struct profile_fatrelu_point *profile_fatrelu(const struct profile *p, uint32_t *n);

/* The largest of them at which perplexity is at most `percent` above that of the model's own activation: the
 * point, or NULL without points. *own: the own one's. */
const struct profile_fatrelu_point *profile_fatrelu_best(const struct profile *p, double percent,
                                                         const struct profile_fatrelu_point **own);
/* NULL where nobody searched; its steps. */
const struct profile_ppl *profile_ppl(const struct profile *p);
const struct profile_ppl_point *profile_ppl_steps(const struct profile *p, uint32_t *n);

/* Recorded runs: consecutive tokens with their active neurons. The same runs in every layer. */
struct profile_run {
    enum profile_text text;
    uint64_t start; /* number of its first token in the text */
    uint32_t tokens;
};
uint32_t profile_runs(const struct profile *p);
const struct profile_run *profile_run(const struct profile *p, uint32_t run);

/* Walks a run in one layer: after init, each next writes the active neurons, ascending, to `list` (room for
 * f) and returns how many, or -1 behind the last token. No memory of its own. */
struct profile_walk {
    const uint8_t *at;
    uint32_t left, neurons;
};
void profile_walk_init(struct profile_walk *w, const struct profile *p, uint32_t layer, uint32_t run);
int64_t profile_walk_next(struct profile_walk *w, uint32_t *list);

/* One profile of two of the same model (ERR_STALE otherwise, or where epsilons differ): counts and runs add
 * up; p99 is the larger one; the curve with the later samples (b's, where it has one) stays. */
int profile_merge(struct profile **out, const struct profile *a, const struct profile *b, struct err *e);

/* ---- Reports ---- */
/* Text for a terminal. */
void profile_report_text(const struct profile *p, struct strbuf *out);
/* A self-contained page. */
int profile_report_html(const struct profile *p, struct strbuf *out, struct err *e);
/* NULL: no memory. */
json_t *profile_report_json(const struct profile *p);

#endif
