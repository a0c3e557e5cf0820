/* Converting checkpoints to GGUF: from a Hugging Face folder or from another GGUF file. Private to engine/;
 * tools.h carries the entry point.
 *
 * The output is a list of `conv_tensor`: each says its name, shape and type in the new file and where its
 * rows come from. convert_hf.c fills the list from a folder, convert_gguf.c from a file, convert.c writes it.
 */
#ifndef ENGINE_CONVERT_H
#define ENGINE_CONVERT_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arch;
struct err;
struct gguf;
struct gguf_tensor;
struct gguf_writer;
struct safetensors;
struct st_tensor;

/* Which source row an output row is. */
enum conv_rows {
    CONV_SAME,
    CONV_UNPERMUTE, /* rotary halves (i, i + hd/2) of each head to neighbouring pairs (2i, 2i+1) */
    CONV_SPLIT_QKV, /* Falcon: groups of (queries…, key, value) to all queries, all keys, all values */
};

enum { CONV_NAME = 96 }; /* bytes of a tensor's name in the new file */

struct conv_tensor {
    char name[CONV_NAME];
    int n_dims;
    uint64_t ne[4]; /* ne[0] is the row length */
    enum dtype type;
    /* Exactly one source: */
    const struct st_tensor *st;
    const struct gguf_tensor *gguf;
    const float *values; /* computed by the converter, owned by the list */
    enum conv_rows rows;
    uint32_t heads, kv_heads, head_dim; /* for the row orders above */
};

struct conv_list {
    struct conv_tensor *t;
    size_t n, cap;
    float *owned[4]; /* computed tensors' values */
    int n_owned;
};

/* Appends a zeroed entry (NULL: out of memory, e set). */
struct conv_tensor *conv_add(struct conv_list *l, struct err *e);
void conv_finish(struct conv_list *l);

/* Source row of output row r. */
uint64_t conv_source_row(const struct conv_tensor *t, uint64_t r);

/* The type a tensor gets when the whole file is asked to be `want`: vectors, norms and position tables stay
 * F32, the output matrix of 4- and 5-bit files is Q6_K, and rows that the block does not divide fall to Q8_0
 * or F16. */
enum dtype conv_pick_type(const char *name, int n_dims, const uint64_t *ne, enum dtype want,
                          bool tied_output);

/* What a model's tensors depend on. */
struct conv_expect {
    const struct arch *arch;
    uint32_t layers;
    bool tied;     /* no output matrix */
    bool qkv_bias; /* q, k and v have biases in every model of the family */
    bool one_qkv;  /* q, k and v are one matrix */
};
/* Writes the name of the first tensor that such a model needs and the list does not have, "" when it has all.
 * 0 or ERR_NOMEM. */
int conv_find_missing(const struct conv_list *l, const struct conv_expect *x, char missing[CONV_NAME],
                      struct err *e);

/* Fills list and metadata from an opened checkpoint. `want`: target type; `activation`: NULL or an override
 * to record. */
int convert_hf_plan(const char *dir, const struct safetensors *st, enum dtype want, const char *activation,
                    struct conv_list *l, struct gguf_writer *w, struct err *e);
int convert_gguf_plan(const struct gguf *f, enum dtype want, const char *activation, struct conv_list *l,
                      struct gguf_writer *w, struct err *e);

#endif
