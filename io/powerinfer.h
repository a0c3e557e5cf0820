/* What PowerInfer adds to GGUF: predictors and transposed down matrices in a model's file (magic PWRI), and a
 * side file NAME.generated.gpuidx that says which neurons go to the GPU. Front header of io/. */
#ifndef IO_POWERINFER_H
#define IO_POWERINFER_H

#include "io/gguf.h"

enum powerinfer_kind {
    POWERINFER_NONE,  /* an ordinary GGUF */
    POWERINFER_MODEL, /* has blk.N.fc1/fc2 (predictor: fc2·relu(fc1·x)) or blk.N.ffn_down_t */
    POWERINFER_INDEX, /* blk.N.gpu_idx and blk.N.gpu_bucket */
};

struct powerinfer_info {
    enum powerinfer_kind kind;
    uint32_t layers;             /* one more than the highest with any of its tensors */
    uint32_t predictors;         /* layers with fc1 and fc2 */
    uint32_t transposed;         /* layers with ffn_down_t: one contiguous row a neuron */
    uint64_t rank_min, rank_max; /* of the predictors; 0 without any */
    bool has_threshold;
    float
        threshold; /* powerinfer.sparse_threshold: a neuron whose logit is below is skipped; 0 when absent */
    bool has_capacity;
    uint64_t capacity; /* split.vram_capacity, bytes (index files) */
};

/* Recognises the tensors and keys and checks that they fit together (ERR_FORMAT names the tensor). */
int powerinfer_describe(const struct gguf *f, struct powerinfer_info *out, struct err *e);

/* The index of one layer: *bucket (free) holds the *n neurons on the GPU in ascending order, of *neurons in
 * all. gpu_idx and gpu_bucket must say the same. 1 when the file has no such layer. */
int powerinfer_layer(const struct gguf *f, uint32_t layer, int32_t **bucket, uint64_t *n, uint64_t *neurons,
                     struct err *e);

/* "<model>.generated.gpuidx", the caller's (free); NULL without memory. */
char *powerinfer_index_path(const char *model);

/* The N of "blk.N.…" and what follows the second point (in *rest), or -1: digits only, below 100,000. */
int64_t powerinfer_layer_of(const char *name, const char **rest);

#endif
