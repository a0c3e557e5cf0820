/* Perplexity of a model on a text with its weakest neurons left out: what searches for a threshold ask again
 * and again. Private to engine/. */
#ifndef ENGINE_QUALITY_H
#define ENGINE_QUALITY_H

#include "engine/measure.h"

#include <stddef.h>
#include <stdint.h>

struct err;
struct quality;

struct quality_settings {
    calor_model *model;               /* laid out by neuron, with norms */
    const struct measure_text *texts; /* those of PROFILE_HELD_OUT are used */
    size_t n_texts;
    uint32_t window; /* tokens of context, BOS included, at least 10 */
    uint64_t tokens; /* most tokens of the text that are computed: windows are taken evenly */
    /* After `tokens` tokens of a layer; non-zero cancels. May be NULL. */
    int (*tick)(void *arg, int64_t tokens);
    void *arg;
};

/* Everything behind the settings' pointers must outlive it. ERR_ARG where the text is too short. */
int quality_create(struct quality **out, const struct quality_settings *s, struct err *e);
void quality_destroy(struct quality **q);
/* Tokens that one measurement computes, BOS included. */
uint64_t quality_cost(const struct quality *q);

struct quality_result {
    double perplexity; /* the second half of each window is scored, as `calor eval` does */
    double sparsity;   /* share of neurons left out, over all tokens that were computed */
    uint64_t scored;   /* tokens */
};
/* With neurons left out whose magnitude is below epsilon[layer] (0: only zeros), and `act` instead of the
 * model's activation (NULL: that). Every batch is computed densely and then sifted, whatever its size, so
 * that two measurements differ by what is left out alone. */
struct activation;
int quality_measure(struct quality *q, const float *epsilon, const struct activation *act,
                    struct quality_result *out, struct err *e);

#endif
