/* Pieces of the synthetic model writer. Private to engine/. */
#ifndef ENGINE_SYNTH_H
#define ENGINE_SYNTH_H

#include "engine/tools.h"

struct gguf_writer;

/* Metadata: hyperparameters and a tokenizer of shape.vocab SentencePiece tokens. */
int synth_put_metadata(struct gguf_writer *w, const struct synth_settings *s, struct err *e);

enum synth_fill { SYNTH_NORMAL, SYNTH_NEAR_ONE, SYNTH_SMALL };

struct synth_tensor {
    char name[40];
    enum dtype type;
    int n_dims;
    uint64_t ne[2];
    enum synth_fill fill;
    float scale; /* standard deviation of the values (around 1 for SYNTH_NEAR_ONE) */
};

/* The tensors in file order, the caller's (free). NULL: no memory. */
struct synth_tensor *synth_tensors(const struct synth_settings *s, int *n);

#endif
