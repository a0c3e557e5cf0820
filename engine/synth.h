/* Pieces of the synthetic model writer. Private to engine/. */
#ifndef ENGINE_SYNTH_H
#define ENGINE_SYNTH_H

#include "engine/tools.h"

struct gguf_writer;

/* Metadata: hyperparameters and a tokenizer of shape.vocab SentencePiece tokens. */
int synth_put_metadata(struct gguf_writer *w, const struct synth_settings *s, struct err *e);

/* The activation's name, or the architecture's (relu where sparsity is planted). */
const char *synth_activation(const struct synth_settings *s);

/* Inverse of the standard normal's distribution function, for 0 < p < 1. */
double synth_normal_quantile(double p);

enum synth_fill { SYNTH_NORMAL, SYNTH_NEAR_ONE, SYNTH_SMALL, SYNTH_PLANTED };

struct synth_tensor {
    char name[40];
    enum dtype type;
    int n_dims;
    uint64_t ne[2];
    enum synth_fill fill;
    float scale; /* standard deviation of the values (around 1 for SYNTH_NEAR_ONE) */
    /* SYNTH_PLANTED: the first `channels` entries of a row are projected off the constant direction, and
     * along[row] times that direction is added (along_all for all rows where along is NULL). From row
     * bare_from on they hold nothing else. Rows before damped_to are made small first. */
    uint32_t channels;
    uint64_t bare_from, damped_to;
    float *along, along_all;
};

/* The tensors in file order, the caller's (synth_tensors_free). NULL: no memory. */
struct synth_tensor *synth_tensors(const struct synth_settings *s, int *n);
void synth_tensors_free(struct synth_tensor *t, int n);

/* Turns the list's fills and scales into ones that show s->stats. ERR_ARG where that cannot be. */
int synth_plant(const struct synth_settings *s, struct synth_tensor *t, int n, struct err *e);

/* Row `row` of a SYNTH_PLANTED tensor: v has its ne[0] random values, and gets the final ones. */
void synth_plant_row(const struct synth_tensor *t, uint64_t row, float *v);

#endif
