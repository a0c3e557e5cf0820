/* What the profile's files share. Private to placement/ (and its tests and fuzz target). */
#ifndef PLACEMENT_PROFILE_PRIV_H
#define PLACEMENT_PROFILE_PRIV_H

#include "placement/profile.h"

struct gguf;

struct profile_bytes {
    uint8_t *p;
    size_t n, cap;
};

struct profile_layer {
    uint32_t *counts[PROFILE_TEXTS];
    float *mean, *p99;
    uint32_t *order;
    float epsilon, gap, reuse[PROFILE_REUSES];
    uint16_t *partner;       /* f × PROFILE_PARTNERS */
    uint16_t *partner_share; /* F16; 0: none */
    struct profile_curve_point *curve;
    uint32_t n_curve, samples;
    struct profile_bytes trace; /* all runs, one behind the other */
    size_t *run_at;             /* where each begins: n_runs + 1 */
};

struct profile {
    struct profile_subject subject; /* strings owned */
    uint64_t tokens[PROFILE_TEXTS];
    float cett_target;
    struct profile_layer *layers;
    struct profile_run *runs;
    uint32_t n_runs;
    struct profile_fatrelu_point *fatrelu;
    uint32_t n_fatrelu;
    struct profile_ppl ppl; /* where there are steps */
    struct profile_ppl_point *ppl_steps;
    uint32_t n_ppl_steps;
};

/* An empty profile with its layers; nothing in them yet. */
int profile_create(struct profile **out, const struct profile_subject *s, struct err *e);
/* Arrays of every layer for counts, magnitudes and partners, zeroed. */
int profile_layer_create(struct profile *p, uint32_t layer, struct err *e);
/* Computes order and, where `together`, reuse, gap and partners from what is there. run_at must be set. */
int profile_derive(struct profile *p, bool together, struct err *e);

/* One token of a trace: LEB128 of 2·count + form, then the list as differences (form 0: the first index, then
 * each step less 1, LEB128) or as a bitmap of ⌈f/8⌉ bytes (form 1): whichever is shorter. list: ascending. */
int profile_trace_add(struct profile_bytes *b, const uint32_t *list, uint32_t count, uint32_t neurons,
                      struct err *e);
/* Checks that [p, p+n) is `tokens` such records of `neurons` and returns their bytes, 0 if not. */
size_t profile_trace_check(const uint8_t *p, size_t n, uint32_t tokens, uint32_t neurons);
/* Fills reuse, gap and partners of a layer from the runs of the calibration text. */
int profile_trace_company(struct profile *p, uint32_t layer, struct err *e);
/* Only reuse. */
int profile_trace_reuse(struct profile *p, uint32_t layer, struct err *e);

/* Reads a profile out of an open file; `f` may be closed afterwards. */
int profile_from_gguf(struct profile **out, const struct gguf *f, struct err *e);

#endif
