/* What a plan's tokens take one by one: recorded runs of consecutive tokens, with the neurons that were
 * active for each, replayed on the cost model (cost.h). Expected values hide that some tokens need twice as
 * many neurons as others; percentiles do not. A pure function: the same result for the same input.
 *
 * What lies on disk passes through a cache of the neurons read last (least recently used goes first), one a
 * layer, in what the plan leaves free of RAM: its share of the layer's part of the disk. The first quarter of
 * the tokens fills it and is not counted. */
#ifndef PLACEMENT_SIMULATE_H
#define PLACEMENT_SIMULATE_H

#include "placement/plan.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct err;
struct profile;

#define SIMULATE_MOST 65536 /* tokens */

struct simulate_settings {
    uint32_t tokens; /* at most; 0: all recorded ones, or SIMULATE_DRAWN where none are */
    uint64_t cache;  /* bytes for neurons that lie on disk; UINT64_MAX: what the plan leaves free of RAM */
    uint64_t seed;   /* of drawn tokens */
};
#define SIMULATE_DRAWN 128
struct simulate_settings simulate_default(void);

struct simulate_layer {
    struct cost_time mean;   /* of one token */
    double read[PLAN_TIERS]; /* neurons of up/down a token that are computed from there */
};

struct simulation {
    uint32_t tokens; /* counted */
    /* Nobody recorded runs: each token's neurons were drawn by their frequencies, independently of one
     * another and of the token before. The mean then means something; that neurons come again does not show.
     */
    bool drawn;
    bool held_out; /* the runs are of text that the frequencies were not counted on */
    double *token; /* seconds, `tokens` of them, in order */
    double mean, p50, p90, p99, most;
    double bytes[PLAN_TIERS]; /* of weights read a token, from each; disk: what the cache did not have */
    uint64_t cache;           /* bytes it had */
    double hits;              /* share of the disk's neurons that the cache had; NaN: none were asked for */
    double by[COST_LIMITS];   /* seconds of the mean token in which each was what the others waited for */
    uint32_t layers;          /* entries: cost.h */
    struct simulate_layer *layer;
};

/* `profile` may be NULL, or without runs: tokens are drawn. *out is the caller's (simulation_free).
 * ERR_ARG: plan, model and profile are not of one shape; errors of cost_make; ERR_NOMEM. */
int simulate(struct simulation **out, const struct plan *p, const struct plan_model *m,
             const struct machine *machine, const struct profile *profile, const struct simulate_settings *s,
             struct err *e);
void simulation_free(struct simulation **s);

/* For --json; NULL: no memory. */
json_t *simulation_json(const struct simulation *s);

#endif
