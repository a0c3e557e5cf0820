/* Predictors: small two-layer networks that say from an FFN's input which of its neurons will be active,
 *
 *     z = fc2 · act(fc1 · x + c) + b        candidate where z ≥ cut
 *
 * one a layer, trained on a model's own activations (predictor_train.h). A front header of placement/.
 * docs/predictor-format.md describes the file. Neurons are numbered as in the model's file. */
#ifndef PLACEMENT_PREDICTOR_H
#define PLACEMENT_PREDICTOR_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct gguf;

enum {
    PREDICTOR_NEURONS_MOST = 65536,
    PREDICTOR_LAYERS_MOST = 4096,
    PREDICTOR_RANK_MOST = 8192,
};

/* What the predictor is for. Strings are copied by those who keep it. */
struct predictor_subject {
    uint8_t identity[16]; /* of the model: gguf_identity */
    const char *model;    /* its name, for messages */
    const char *activation;
    uint32_t layers, neurons, width;
};

enum predictor_hidden { PREDICTOR_LINEAR, PREDICTOR_RELU };

struct predictor_layer {
    uint32_t rank; /* rows of fc1, columns of fc2 */
    enum predictor_hidden hidden;
    enum dtype fc1_type, fc2_type;
    size_t fc1_row_bytes, fc2_row_bytes;
    /* rank rows of `width` values; `neurons` rows of `rank` values. Rows one behind the other, the first at a
     * multiple of 64 bytes, with 64 bytes that may be read behind the last. */
    uint8_t *fc1, *fc2;
    float *hidden_bias; /* rank values, or NULL */
    uint16_t *bias;     /* `neurons` values, F16 */
    float cut;          /* -INFINITY: every neuron is a candidate */
};

struct predictor {
    struct predictor_subject subject; /* strings owned */
    float recall; /* share of ‖n_i‖ of active neurons that the cuts were chosen to keep; NaN: not said */
    struct predictor_layer *layers;
};

/* An empty predictor: layers of rank 0 without arrays. ERR_ARG for sizes out of range. */
int predictor_create(struct predictor **out, const struct predictor_subject *s, struct err *e);
void predictor_close(struct predictor **p);
/* Allocates a layer's arrays, zeroed, for these types and rank. ERR_ARG where rows are no whole blocks. */
int predictor_layer_create(struct predictor *p, uint32_t layer, uint32_t rank, enum dtype fc1_type,
                           enum dtype fc2_type, bool hidden_bias, struct err *e);
/* Bytes that a token reads of a layer's predictor. */
uint64_t predictor_layer_bytes(const struct predictor *p, uint32_t layer);
/* The same for a predictor that is only thought of; 0 where rows are no whole blocks. */
uint64_t predictor_bytes(uint32_t width, uint32_t neurons, uint32_t rank, enum dtype fc1_type,
                         enum dtype fc2_type, bool hidden_bias);

/* Reads a file, or what lies in an open one (which may be closed afterwards). Everything is checked before it
 * is believed: shapes, types, ranks, that every number is finite. The errors name the file and the tensor. */
int predictor_open(struct predictor **out, const char *path, struct err *e);
int predictor_from_gguf(struct predictor **out, const struct gguf *f, struct err *e);
/* Writes a temporary file and renames it: nobody sees half of it. */
int predictor_write(const struct predictor *p, const char *path, struct err *e);

/* ERR_STALE, with both names, unless the predictor is of the model with this identity. */
int predictor_check_model(const struct predictor *p, const uint8_t identity[16], const char *model,
                          struct err *e);

#endif
