/* Compute kernels: one table of functions per instruction-set tier, chosen once at start. This is the
 * folder's front header; everything in kernels/cpu is private.
 *
 * Conventions. A weight matrix W has `rows` rows of `n` values in a GGUF block type, each row contiguous,
 * `row_bytes` apart, any alignment the file gave it. Vectors are float. All functions are thread-safe: state
 * lives in what the caller passes. No function allocates. Every result is a pure function of its inputs: the
 * same bits for any number of threads, any split of rows between calls.
 */
#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* ---- Products Y = X Wᵀ
 * ------------------------------------------------------------------------------------------- Two steps, so
 * that the work on X is done once and shared by all threads and by all matrices that read the same X (q, k
 * and v; gate and up):
 *   1. x_pack: the tokens [t0, t1) of X into the prepared form (quantised, or just laid out); split over
 * threads.
 *   2. rows: a range of rows of W against all T prepared tokens; split over threads by rows.
 * Two matrices whose `x_format` and n are equal take the same prepared X. */
struct kern_mat {
    int x_format;
    /* Bytes of the prepared form of T tokens of n values (a multiple of 64). */
    size_t (*x_bytes)(int64_t n, int64_t T);
    /* X: T rows of n floats, `ldx` floats apart. dst: 64-byte aligned, x_bytes(n, T) long. Ranges of tokens
     * given to different threads are multiples of x_group tokens (the last may be shorter). */
    void (*x_pack)(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1);
    int64_t x_group;
    /* y[t*ldy + r] = Σ_k W[r][k]·X[t][k] for r in [0, rows), t in [0, T). `w` points at the first row of the
     * range. scratch: 64-byte aligned, scratch_bytes(n) long, one per thread. Row ranges that start at
     * multiples of row_group of the matrix are fastest; any range is right. */
    void (*rows)(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,
                 const void *xp, int64_t T, void *scratch);
    size_t (*scratch_bytes)(int64_t n);
    int64_t row_group;
};

/* ---- Attention of one KV head
 * ------------------------------------------------------------------------------------ K and V of one KV
 * head: row p is position p, `head_dim` values of kv_type (F16, F32 or Q8_0), row_bytes apart. Query t (0 ≤ t
 * < T) of head g (0 ≤ g < group) stands at q + t*ldq + g*head_dim, sees positions [max(0, pos0+t+1-window),
 * pos0+t] (window 0: no limit), and its result goes to out + t*ldo + g*head_dim: Σ_p softmax_p(scale·q·k_p)
 * v_p, softmax in float with the running maximum taken out. */
struct kern_attn {
    const float *q;
    float *out;
    int64_t ldq, ldo; /* floats between tokens */
    const void *k, *v;
    size_t k_row_bytes, v_row_bytes;
    enum dtype kv_type;
    int64_t T, pos0, window;
    int group, head_dim;
    float scale;
    void *scratch; /* 64-byte aligned, attn_scratch_bytes(...) long */
};

enum kern_rope { KERN_ROPE_NORM, KERN_ROPE_NEOX }; /* pairs (2i, 2i+1), or (i, i + rot/2) */

enum kern_act { KERN_SILU, KERN_GELU, KERN_GELU_TANH, KERN_RELU, KERN_RELU2, KERN_FATRELU, KERN_DRELU };

struct kern_ops {
    const char *name; /* "ref", "avx2", "avx512", "amx" */

    /* Never NULL for a dtype whose info says `weights`. `mv` streams W once and is best for few tokens
     * (decoding), `mm` decodes panels of W into registers' layout and is best for many (prompts); beyond
     * mv_tokens take mm. */
    const struct kern_mat *mv[DT_COUNT], *mm[DT_COUNT];
    int64_t mv_tokens;

    /* One row of a matrix to floats: n a multiple of the type's block. Exact. */
    void (*decode)(enum dtype type, float *dst, const void *src, int64_t n);
    /* Floats to a row of the KV cache (F32, F16, Q8_0). */
    void (*kv_store)(enum dtype type, void *dst, const float *src, int64_t n);

    size_t (*attn_scratch_bytes)(int64_t T, int group, int head_dim);
    void (*attn)(const struct kern_attn *a);

    /* y may equal x. w and b have n values; b may be NULL. */
    void (*rmsnorm)(float *y, const float *x, const float *w, int64_t n, float eps);
    void (*layernorm)(float *y, const float *x, const float *w, const float *b, int64_t n, float eps);
    /* Rotates the first `rot` of head_dim values of `heads` consecutive heads in place; cs: rot/2 pairs (cos,
     * sin). */
    void (*rope)(float *x, const float *cs, int heads, int head_dim, int rot, enum kern_rope pairing);
    /* h[i] = act(gate[i])·up[i]; up NULL: act(gate[i]). param: FATReLU's threshold (value if ≥ t, else 0).
     * DRELU: max(0,gate)·max(0,up). h may equal gate or up. */
    void (*act)(float *h, const float *gate, const float *up, int64_t n, enum kern_act kind, float param);
    void (*add)(float *y, const float *x, int64_t n); /* y += x */
    void (*scale)(float *y, float s, int64_t n);      /* y *= s */
    void (*softmax)(float *x, int64_t n);             /* in place */
};

enum kern_tier { KERN_REF, KERN_AVX2, KERN_AVX512, KERN_AMX, KERN_TIERS };

/* The best table this CPU runs, capped by `cap` ("ref", "avx2", "avx512", "amx"; NULL: the environment's
 * CALOR_CPU, and without it no cap). An unknown name is ERR_ARG; a cap above what the CPU has is a note in
 * the log, not an error. *out is static storage. */
int kern_select(const char *cap, const struct kern_ops **out, struct err *e);
/* The table of one tier, or NULL where this CPU or build has none. For tests and benchmarks. */
const struct kern_ops *kern_tier(enum kern_tier tier);
/* What the CPU offers, for reports: "avx2 fma f16c avx512f … amx_int8", static storage. */
const char *kern_cpu_features(void);

/* ---- Quantising
 * -------------------------------------------------------------------------------------------------- Encodes
 * n floats (a multiple of the block) to F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K. NaN or infinity in
 * src, or a type without an encoder: a negative error code, message naming the index. */
int kern_encode(enum dtype type, void *dst, const float *src, int64_t n, struct err *e);
bool kern_can_encode(enum dtype type);

#endif
