/* Hyper-parameters of a model: read from the file's metadata, checked before anything believes them. Private
 * to engine/. */
#ifndef ENGINE_HPARAMS_H
#define ENGINE_HPARAMS_H

#include <stdbool.h>
#include <stdint.h>

struct arch;
struct err;
struct gguf;

struct hparams {
    uint32_t vocab; /* rows of the embedding */
    uint32_t width; /* d: values of the residual stream */
    uint32_t ffn;   /* f: neurons a layer */
    uint32_t layers, heads, kv_heads, head_dim;
    uint32_t rot;     /* values of each head that rotate: even, ≤ head_dim; 0 without rotary positions */
    uint32_t context; /* tokens the model was trained for */
    uint32_t window;  /* positions a token sees, itself included; 0: all */
    float eps;        /* of the norms */
    float attn_scale; /* of q·k */
    float embedding_scale, residual_scale, logit_scale; /* factors, 1 where the architecture has none */
    /* Rotary positions: angle_i = position · scale · base^(-2i/rot) / factor_i, blended with the unscaled
     * angle where yarn is on (Peng et al. 2023, as ggml computes it). */
    float rope_base, rope_scale;
    bool yarn;
    float yarn_low, yarn_high; /* the ramp between kept and interpolated pairs, as pair indices */
    float rope_magnitude;      /* factor on cos and sin */
};

/* Reads and checks the common keys, then the architecture's own. `vocab` is the embedding's row count. */
int hparams_read(struct hparams *hp, const struct arch *a, const struct gguf *f, uint64_t vocab,
                 struct err *e);

/* One float key "ARCH.SUFFIX" that must lie in [lo, hi]: 0 and *out, 1 when absent, or an error. */
int hparams_f32(const struct gguf *f, const char *arch, const char *suffix, float lo, float hi, float *out,
                struct err *e);

#endif
