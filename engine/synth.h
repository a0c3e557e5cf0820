/* Pieces of the synthetic model writer. Private to engine/. */
#ifndef ENGINE_SYNTH_H
#define ENGINE_SYNTH_H

#include "engine/tools.h"

#include <stddef.h>

struct gguf_writer;
struct synth_tensor;

/* Metadata: hyperparameters and a tokenizer of shape.vocab SentencePiece tokens. */
int synth_put_metadata(struct gguf_writer *w, const struct synth_settings *s, struct err *e);

/* ERR_ARG for a type that cannot be written, or cannot hold the tensors' rows. */
int synth_check(const struct synth_settings *s, const struct synth_tensor *t, int n, struct err *e);

/* Metadata and the tensors' directory. */
int synth_put_header(struct gguf_writer *w, const struct synth_settings *s, const struct synth_tensor *t,
                     int n, struct err *e);

/* The activation's name, or the architecture's (relu where sparsity is planted). */
const char *synth_activation(const struct synth_settings *s);

/* The standard normal's distribution function, and its inverse for 0 < p < 1. */
double synth_normal(double x);
double synth_normal_quantile(double p);

enum synth_fill { SYNTH_NORMAL, SYNTH_NEAR_ONE, SYNTH_SMALL, SYNTH_PLANTED, SYNTH_OUTPUTS };

/* Windows of the first attention of a planted model: see synth_window.c. */
enum { SYNTH_WINDOWS_MOST = 4 };
#define SYNTH_WINDOW_PEAK 20.0 /* score at a window's middle, over that of distant positions */
struct synth_window {
    uint32_t pairs, first;   /* of a head; the first that takes part: faster ones are still */
    double middle;           /* distance that gets most weight, in the first window */
    uint32_t heads, working; /* of the layer; those that are in a block */
    uint32_t windows, span;  /* heads of a block; heads from which whole blocks are taken, in turn */
    uint32_t shared;         /* successive key-value heads whose values are the same */
    double smooth,
        energy; /* correlation of a context with the next token's; its mean square for unit values */
};
void synth_window_make(struct synth_window *w, const struct synth_shape *h, double width);
double synth_window_theta(const struct synth_window *w, uint32_t pair);
double synth_window_middle(const struct synth_window *w, uint32_t window);
/* Which window a head has; -1: none, its output is zero. */
int synth_window_of(const struct synth_window *w, uint32_t head);
/* Row `row` of the output matrix: heads × `head` values, v[0] being any random one. */
void synth_window_output(const struct synth_window *w, uint32_t head, uint64_t row, float scale, float *v);

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
    /* Of a planted gate: its products have the mean unit·along[row] and this deviation, and this correlation
     * with the next token's. */
    double unit, deviation, correlation;
    bool exact; /* along[row] holds for what the type's values add up to, not only for what is asked */
    /* Of the first attention: rows from shared_from on come `head` at a time, and each of shared_heads such
     * groups has the first one's random values. SYNTH_OUTPUTS: rows of heads × `head` values. */
    struct synth_window window;
    uint32_t head, shared_heads;
    uint64_t shared_from;
};

/* The tensors in file order, the caller's (synth_tensors_free). NULL: no memory. */
struct synth_tensor *synth_tensors(const struct synth_settings *s, int *n);
void synth_tensors_free(struct synth_tensor *t, int n);

/* Turns the list's fills and scales into ones that show s->stats. ERR_ARG where that cannot be. */
int synth_plant(const struct synth_settings *s, struct synth_tensor *t, int n, struct err *e);

/* Row `row` of a SYNTH_PLANTED or SYNTH_OUTPUTS tensor: v has its ne[0] random values, and gets the final
 * ones. */
void synth_plant_row(const struct synth_tensor *t, uint64_t row, float *v);

/* Changes v so that its encoding has along[row] exactly, or as nearly as the type's steps allow; `code` and
 * `back` are room for a row encoded and decoded. */
int synth_plant_exact(const struct synth_tensor *t, uint64_t row, float *v, void *code, float *back,
                      struct err *e);

#endif
