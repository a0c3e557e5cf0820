/* Work behind single commands that is more than calor.h offers: for engine/cli only, not installed. */
#ifndef ENGINE_TOOLS_H
#define ENGINE_TOOLS_H

#include "base/dtype.h"
#include "engine/measure.h"
#include "engine/measure_predictor.h"

#include <stdbool.h>
#include <stdint.h>

struct err;

/* ---- Synthetic models: real shapes and scales, random weights ---- */

struct synth_shape {
    char name[32]; /* "llama2-7b", or "custom" */
    char arch[16]; /* "llama" (gated FFN, RMS norm) or "falcon" (ungated, parallel attention, LayerNorm) */
    uint32_t d, f, layers, heads, kv, vocab, ctx;
};

/* A known name, or "d=64,f=256,layers=2,heads=4,kv=2[,vocab=512][,ctx=2048][,arch=falcon]". ERR_ARG with what
 * is wrong. */
int synth_shape_parse(struct synth_shape *out, const char *text, struct err *e);

/* Activation statistics planted in the weights, so that every forward pass shows them. They hold on average
 * over long inputs, from the first 50 tokens or so on; see engine/synth_plant.c for how. */
struct synth_stats {
    double sparsity;       /* share of zeros after the activation, over all layers; 0: nothing is planted */
    double spread;         /* the first layer has sparsity - spread, the last + spread, linear between */
    double hot, hot_share; /* the hottest `hot` of the neurons take `hot_share` of the activations */
    double persistence;    /* share of a token's active neurons that were active at the token before */
};

struct synth_settings {
    struct synth_shape shape;
    enum dtype type, output_type; /* of the matrices; of output.weight */
    const char *activation;       /* "silu", "fatrelu:0.01" …; NULL: the architecture's */
    struct synth_stats stats;     /* zero: none */
    uint64_t seed;
    int threads;      /* 0: default */
    const char *path; /* replaced in one step when the file is complete */
    /* 0 … 1; a non-zero return stops the work (ERR_CANCELLED). May be NULL. */
    int (*progress)(double done, void *arg);
    void *progress_arg;
};

/* llama.cpp's choice for output.weight: Q6_K beside 4- and 5-bit types where rows allow it, else `type`. */
enum dtype synth_output_type(enum dtype type, uint32_t d);

/* Writes the model. The bytes depend on the settings, not on the number of threads. Memory: a few MiB a
 * thread, and the vocabulary. */
int synth_write(const struct synth_settings *s, struct err *e);

/* For plans of models that are not here: at s->path the model's header and tensor directory without weights,
 * at `profile` a profile of it with the planted statistics, neurons in the order of the model that the same
 * settings write. ERR_ARG without statistics. Memory: about 40 bytes a neuron and the trace. */
int synth_write_profile(const struct synth_settings *s, const char *profile, struct err *e);

/* ---- Converting a checkpoint to GGUF ---- */
struct convert_settings {
    const char *src; /* a Hugging Face folder or a GGUF file */
    const char *out; /* replaced only when everything has been written */
    int type;        /* enum dtype of the matrices; -1: F16, or BF16 for checkpoints in BF16 */
    const char
        *activation; /* recorded instead of the source's: "relu", "fatrelu:0.01" …; NULL: the source's */
    int threads;     /* 0: physical cores */
    int (*progress)(double done, void *arg); /* 0…1; non-zero cancels; may be NULL */
    void *progress_arg;
};
/* Returns 0 or a negative ERR_…; on failure no output file is left and an existing one stands. Memory: some
 * tens of MiB. */
int convert_model(const struct convert_settings *s, struct err *e);

#endif
