/* The FFN weights of a layer laid out by neuron, so that the neurons that fire can be computed alone. Private
 * to engine/.
 *
 * gate stays where the file has it: its rows are neurons already, and all of them are read for every token.
 * Or it is taken apart into a coarse and a fine plane (kernels.h), of which the second is read for candidates
 * only. up and down lie side by side, one bundle a neuron (64-byte aligned: up's row, then down's part),
 * since they are read together or not at all. down is turned by the kernels' SPLIT layout where the file
 * quantises it along the neurons, by ROW otherwise.
 *
 * Neurons stand in the file's order, or in a given one (by a profile: from hot to cold), and then the gate's
 * rows are copied into it, too. What few tokens are computed on counts in *places* of this order; what many
 * tokens are computed on, and what observers see, in the file's. */
#ifndef ENGINE_NEURONS_H
#define ENGINE_NEURONS_H

#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct calor_model;
struct err;

/* Neurons whose gates are computed and compacted at once; KERN_BLOCK is a multiple. */
#define NEURON_UNIT 64
/* Tokens that are computed together, each with its own list of neurons. */
#define NEURON_TOKENS 4
/* Up to this many tokens that is done, four after four; more are multiplied densely. A constant, so that
 * results do not depend on a measurement: putting down's rows together again costs as much as that many
 * tokens. */
#define NEURON_LISTED 32
/* Most neurons a layer: their places are 16-bit numbers. */
#define NEURON_MOST 65536

struct neurons {
    const struct kern_down *kind; /* NULL: this layer is as in the file */
    struct kern_down_rows down;
    size_t up_bytes; /* of up's row in a bundle, 0 without gate */
    enum dtype type; /* of down's values as stored */
    const struct kern_planes
        *screen; /* the gate lies in two planes: its type's products; NULL: as in the file */
    struct kern_planes_at planes;
    const float *norms; /* ‖down's row‖₂ of the neuron at each place; NULL until neurons_norms */
    /* The file's neuron at each place, and the place of each of the file's; f long. NULL: the file's order.
     */
    const uint32_t *order, *place_of;
};

/* Before neurons_lay_out: has a layer laid out in this order, f of the file's neurons (copied). Sets of
 * places that begin and end at multiples of KERN_BLOCK hold the neurons that `order` has there; inside each
 * such block they stand in the file's order, as the kernels want those of one group together. ERR_STALE with
 * the place where it names a neuron that is not there, or one twice. */
struct layer;
int neurons_set_order(struct calor_model *m, uint32_t layer, const uint32_t *order, struct err *e);
/* What stands in the order of places goes where the file has it: dst[order[i]] = src[i], i in [i0, i1). */
static inline void neurons_to_file(const struct neurons *by, float *dst, const float *src, int64_t i0,
                                   int64_t i1)
{
    for (int64_t i = i0; i < i1; i++) dst[by->order[i]] = src[i];
}

static inline int64_t neuron_blocks(int64_t f)
{
    return (f + KERN_BLOCK - 1) / KERN_BLOCK;
}

static inline int64_t neuron_units(int64_t f)
{
    return (f + NEURON_UNIT - 1) / NEURON_UNIT;
}

/* Lays out every layer, by all threads of the model's team, with progress. Afterwards layer.up points into
 * the bundles, and layer.down has no data but the type and shape that neurons_panel gives. The file's own
 * pages of both are let go. */
int neurons_lay_out(struct calor_model *m, bool planes, int (*progress)(double done, void *arg), void *arg,
                    struct err *e);

/* The matrix that decides which neurons fire: gate, or up in an FFN without. */
struct mat *neurons_gate(struct layer *l);
/* Rows at places [i, i + n) of a gate in planes, put together again at dst, row_bytes apart as in the file.
 */
void neurons_gate_rows(const struct calor_model *m, uint32_t layer, int64_t i, int64_t n, uint8_t *dst);

/* Computes the norms of all layers where they are not there yet. Any thread that holds no lock of the model.
 */
int neurons_norms(struct calor_model *m, struct err *e);

/* Rows of down that neurons_panel puts together at once. */
#define NEURON_PANEL 256
/* Rows [c0, c1) of down (c0 a multiple of NEURON_PANEL) as a matrix of f columns in the file's order again,
 * in layer.down's type and row_bytes: for products with many tokens. */
void neurons_panel(const struct calor_model *m, uint32_t layer, int64_t c0, int64_t c1, uint8_t *dst);

#endif
