/* A model as the planner sees it: how many bytes each part has, which kernels read it, and how often each
 * neuron is needed. Plain data, made from a file's header, from a shape alone, and from a profile or from
 * assumed statistics; cost.c, plan.c and simulate.c know nothing else of the model. A front header of
 * placement/.
 *
 * Neurons of a layer stand from hot to cold. Each has up to three parts, which are placed apart:
 *   screen   read whole for every token: the gate's coarse plane, or another screen; may be missing
 *   gate     the gate's row (in FFNs without one: up's); with a screen only the candidates' fine planes
 *   updown   up and down of the neurons that fire
 * Bytes are those of the engine's layout (engine/neurons.h), padding included. */
#ifndef PLACEMENT_PLAN_MODEL_H
#define PLACEMENT_PLAN_MODEL_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct gguf;
struct profile;

enum plan_part { PLAN_SCREEN, PLAN_GATE, PLAN_UPDOWN, PLAN_PARTS };
enum plan_tier { PLAN_GPU, PLAN_RAM, PLAN_DISK, PLAN_TIERS };

/* How the engine is to run: see docs/architecture.md §5. */
enum plan_mode {
    PLAN_DENSE, /* every neuron */
    PLAN_EXACT, /* every gate, then the neurons that fire */
    PLAN_SURE,  /* the gate's coarse plane, the fine plane of candidates, then the neurons that fire; types
                   without planes: as exact */
};
enum { PLAN_MODES = 3 };

/* Where the frequencies come from. */
enum plan_statistics {
    PLAN_FLAT,    /* nothing is known: every neuron counts as active */
    PLAN_ASSUMED, /* a sparsity, and a power law of hotness */
    PLAN_PROFILE,
};

struct plan_matrix {
    enum dtype type;
    uint64_t rows, n; /* n: values of a row */
    uint64_t bytes;
};

struct plan_layer {
    struct plan_matrix q, k, v, o, gate, up, down; /* as in the file; gate.rows = 0 without one */
    uint64_t attention;                            /* bytes: q, k, v, o and the layer's vectors */
    uint64_t row[PLAN_PARTS];                      /* bytes a neuron; 0: no such part */
    uint64_t up_row, down_row; /* the two of updown, up_row = 0 where up is the gate; their kernels' rates
                                  are of up.type and down_type */
    uint64_t shared;      /* bytes of down that neighbouring neurons share (SPLIT's planes); on every tier of
                             memory that computes some of the layer's neurons */
    uint32_t share_group; /* neurons that share a plane; 0: none */
    enum dtype down_type; /* as laid out */
    bool down_split, down_by_neuron; /* turned by SPLIT; stored by neuron in the file already */
    double candidates;               /* share of the neurons that the screen lets through, 1 without */
    double active;                   /* mean active neurons a token: the sum of frequency */
    float *frequency;                /* hot to cold; on the calibration text */
    float *held_out;                 /* of the same neurons on held-out text; NULL: none */
    uint32_t *order;                 /* their numbers in the model's file; NULL: not known (0, 1, 2 …) */
};

struct plan_model {
    char name[128];
    char origin[256]; /* for people: the file, or the shape */
    uint8_t identity[16];
    bool has_identity; /* false: a shape, or a header without its tensors */
    enum plan_mode mode;
    enum plan_statistics statistics;
    char statistics_text[256];  /* "profile of 4096 tokens …", "assumed: …" */
    uint64_t profile_tokens[2]; /* calibration, held out */
    uint64_t profile_hash;      /* XXH3-64 of what the frequencies were made from; 0 without a profile */
    uint32_t width, neurons, layers, heads, kv_heads, head_dim, rot, vocab, context;
    bool gated, parallel, tied;
    struct plan_matrix embedding, output;
    uint64_t vectors; /* bytes of norms and positions outside of layers */
    struct plan_layer *layer;
};

struct plan_model_settings {
    enum plan_mode mode;
    double sparsity;       /* share of neurons that are silent, where no profile says; NaN: not known */
    double hot, hot_share; /* the hottest `hot` of the neurons take `hot_share` of the activations */
    double candidates;     /* share that the screen lets through; NaN: as measured for the gate's type
                              (docs/screens.md) */
};
/* exact, sparsity not known, 26 % take 80 %. */
struct plan_model_settings plan_model_default(void);

/* A model's shape, for models that are not here. */
struct plan_shape {
    const char *name;
    uint32_t width, neurons, layers, heads, kv_heads, vocab, context;
    bool gated, parallel;
    enum dtype type, output_type;
};

/* From an open file: GGUF_META is enough (then without identity, where tensors are missing). `p` may be NULL.
 * The caller owns *out (plan_model_destroy). ERR_STALE where the profile is of another model; ERR_FORMAT,
 * ERR_UNSUPPORTED, ERR_NOMEM. */
int plan_model_from_gguf(struct plan_model **out, const struct gguf *f, const struct profile *p,
                         const struct plan_model_settings *s, struct err *e);
/* From a shape. A profile has to have the same number of layers, neurons and values. */
int plan_model_from_shape(struct plan_model **out, const struct plan_shape *shape, const struct profile *p,
                          const struct plan_model_settings *s, struct err *e);
void plan_model_destroy(struct plan_model **m);

/* Another mode of the same model: rows, screens and (dense) frequencies follow. *out is the caller's. */
int plan_model_in_mode(struct plan_model **out, const struct plan_model *m, enum plan_mode mode,
                       struct err *e);

/* Weights of the whole model in the engine's layout. */
uint64_t plan_model_bytes(const struct plan_model *m);
/* Of one layer: attention, and all neurons' parts. */
uint64_t plan_layer_bytes(const struct plan_model *m, uint32_t layer);
/* Bytes of a layer's KV cache, K and V, for `context` tokens; 0 for a type that its heads cannot have. */
uint64_t plan_model_kv(const struct plan_model *m, enum dtype kv, uint32_t context);

/* Mean share of neurons not active, of the model. */
double plan_model_sparsity(const struct plan_model *m);

/* Frequencies of n neurons from hot to cold, mean `active` (a share): min(0.98, C·rank^-a) such that the
 * hottest `hot` take `hot_share`. ERR_ARG where that cannot be. */
int plan_assume(float *frequency, uint32_t n, double active, double hot, double hot_share, struct err *e);

extern const char *const plan_mode_names[PLAN_MODES + 1]; /* "dense", "exact", "sure", NULL */
extern const char *const plan_part_names[PLAN_PARTS + 1]; /* "screen", "gate", "updown", NULL */
extern const char *const plan_tier_names[PLAN_TIERS + 1]; /* "gpu", "ram", "disk", NULL */

#endif
