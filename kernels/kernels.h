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
    /* Of mv only, one token: y[i] = W[list[i]]·x for i in [0, count), with the very bits that `rows` gives
     * those rows for T = 1. list ascends; w points at row 0, rows are row_bytes apart; xp is one token's. */
    void (*listed)(float *y, const void *w, size_t row_bytes, const uint16_t *list, int64_t count, int64_t n,
                   const void *xp, void *scratch);
};

/* ---- Down, stored by neuron
 * ---------------------------------------------------------------------------------------- The down matrix of
 * an FFN, d values for each of f neurons, so that the neurons that fire can be added up alone. Two layouts:
 *
 * ROW    neuron i is a row of d values of a type, quantised along d.
 * SPLIT  bit-exact to a matrix [d rows][f columns] that is quantised along f, as GGUF files hold it: neuron i
 *        has its d quants; what KERN_GROUP (Q6_K: 16) neighbouring neurons of the file share (scales,
 *        minima) stands in planes of d values, one a group; what 256 of them share, in planes of d values
 *        one a super-block (K-quants).
 *
 * Order of neurons: as stored. Inside each block of KERN_BLOCK stored neurons, those of one group stand
 * together. Sums never cross a block and go strictly in stored order, a group's neurons first among
 * themselves; a neuron with h = 0 adds exactly nothing. So leaving such neurons out changes no bit. */
#define KERN_BLOCK   256
#define KERN_COLUMNS 128

struct kern_down_rows {
    const uint8_t *rows; /* neuron i's part at rows + i*stride, 64-byte aligned */
    size_t stride;       /* bytes, a multiple of 64, at least neuron_bytes(d) */
    /* SPLIT only: plane g at groups + g*group_bytes(d), plane s at supers + s*super_bytes(d), and the group
     * of each stored neuron; group g belongs to super-block g / (256 / group). */
    const uint8_t *groups, *supers;
    const uint16_t *group_of;
};

struct kern_down {
    int64_t group;                     /* neurons that share a group plane; 0: ROW, no planes */
    size_t (*neuron_bytes)(int64_t d); /* of one neuron's own part, a multiple of 64 */
    size_t (*group_bytes)(int64_t d);  /* of one plane, multiples of 64; NULL (supers also: 0) without */
    size_t (*super_bytes)(int64_t d);
    /* y[c] += Σ_i h[i]·down[first + list[i]][c] for c in [c0, c1). first: a multiple of KERN_BLOCK; list:
     * ascending, each below KERN_BLOCK; c0, c1: multiples of KERN_COLUMNS, or c1 = d. scratch: 64-byte
     * aligned, scratch_bytes(d) long. */
    void (*add)(float *y, const struct kern_down_rows *w, int64_t first, const uint16_t *list, const float *h,
                int64_t count, int64_t d, int64_t c0, int64_t c1, void *scratch);
    size_t (*scratch_bytes)(int64_t d);
};

/* The layouts themselves, the same for every tier. SPLIT: takes a block-quantised matrix of d rows of f
 * columns (src, row_bytes apart) apart. Writes the parts of the file's neurons [i0, i1) (multiples of 256, or
 * i1 = f) for rows [c0, c1) (multiples of KERN_COLUMNS, or c1 = d): neuron i of the file to w.rows +
 * at[i]*stride (at NULL: i), and the planes of their groups. Ranges may be done by different threads. */
struct kern_split_dst {
    uint8_t *rows, *groups, *supers;
    size_t stride;
    const uint32_t *at; /* where each neuron of the file is stored, f long; NULL: in the file's order */
};
int kern_split(enum dtype type, const struct kern_split_dst *dst, const void *src, size_t row_bytes,
               int64_t d, int64_t f, int64_t i0, int64_t i1, int64_t c0, int64_t c1, struct err *e);
/* Puts rows [c0, c1) (multiples of KERN_COLUMNS, or c1 = d) together again, all f columns, in the type's
 * blocks, byte for byte as they were. at: as above. */
int kern_unsplit(enum dtype type, void *dst, size_t row_bytes, const struct kern_down_rows *w,
                 const uint32_t *at, int64_t d, int64_t f, int64_t c0, int64_t c1, struct err *e);
/* True for the types that have a SPLIT layout: Q8_0, Q4_0, Q4_K, Q5_K, Q6_K. */
bool kern_can_split(enum dtype type);

/* ---- Gate in two planes
 * ------------------------------------------------------------------------------------ The rows of a gate
 * matrix (F16, BF16, Q8_0), each taken apart into a coarse and a fine part that are stored, and may be
 * placed, separately: W = Q + E, the coarse part alone gives Q. Half of the bytes say that most neurons are
 * off; only the candidates' fine parts are read, and give their exact gate. Order of use, for one token x:
 *
 *   mv[type]->x_pack     x into the tier's prepared form xp: what the products of W itself take
 *   planes->x_values     the floats that those products multiply by (Q8_0: x rounded to int8)
 *   kern_plane_x_make    their norms and extreme channels, once a token
 *   planes->coarse       z = Q·x for a range of rows; reads the coarse plane only
 *   kern_plane_column    where the token has extreme channels: E of such a column, added exactly
 *   kern_plane_candidates  z, ‖E‖ and the threshold to the list of rows that may be on
 *   planes->listed       W·x of the listed rows, with the very bits of mv[type]->rows
 *
 * Layout. F16 and BF16: one byte of each value in either part. Coarse: sign, 3 bits of exponent, 4 of
 * mantissa; the exponent is counted down from the row's largest, so a byte covers the 8 octaves in which a
 * row's values lie and Q is within 1/32 of W there (a plain high byte: 1/8 for F16, a factor of 2 for BF16).
 * Smaller values take codes left over in the fine byte, the nearest and zero first, so every row comes back
 * byte for byte. Q8_0: coarse is a Q4_0 block, the F16 scale and the high nibbles (+8); fine the low nibbles
 * in the same order. Q is the middle of what its code stands for (F16, BF16: half a unit of the last place
 * above it). The bytes of 64 values stand in an order that vectors undo with shifts (plane_words.h). Parts
 * begin at multiples of 64 bytes; padding is zero.
 *
 * Memory: as the file's rows, plus padding to 64 bytes and 16 bytes a row. */
struct kern_plane_row {
    float error; /* ‖E‖₂ of the row, rounded up */
    float size; /* no smaller than Σ|terms| / ‖x‖₂ of any product with W or Q: scales rounding errors */
    float unit;    /* F16, BF16: what the coarse byte's value is multiplied by, a power of two; Q8_0: 1 */
    uint32_t base; /* F16, BF16: the lowest magnitude (the word without its sign) of the 8 octaves; else 0 */
};

/* The planes of one matrix; the caller owns all. Row i: coarse + i*coarse_stride, fine + i*fine_stride,
 * rows[i]. Each base 64-byte aligned, strides in bytes, multiples of 64, at least those below. What is not
 * used may be NULL: coarse and kern_plane_candidates never touch `fine`. */
struct kern_planes_at {
    uint8_t *coarse, *fine;
    struct kern_plane_row *rows;
    size_t coarse_stride, fine_stride;
};
/* Bytes of a row's part, multiples of 64; 0 for a type without planes or an n that is no whole number of
 * blocks. */
size_t kern_plane_coarse_bytes(enum dtype type, int64_t n);
size_t kern_plane_fine_bytes(enum dtype type, int64_t n);
bool kern_can_plane(enum dtype type); /* F16, BF16, Q8_0 */

/* Takes rows [i0, i1) of src (n values each, row_bytes apart, any alignment) apart; row i goes to place at[i]
 * (at NULL: i). Disjoint ranges may be done by different threads. Values that are not finite are kept; their
 * rows are always candidates. ERR_UNSUPPORTED for other types, ERR_ARG for sizes that do not fit. */
int kern_planes_split(enum dtype type, const struct kern_planes_at *dst, const void *src, size_t row_bytes,
                      int64_t n, int64_t i0, int64_t i1, const uint32_t *at, struct err *e);
/* Puts rows [i0, i1) together again, byte for byte; bytes of dst between rows are not written. For prompts
 * (many tokens), dense mode and writing files. */
int kern_planes_join(enum dtype type, void *dst, size_t row_bytes, const struct kern_planes_at *w, int64_t n,
                     int64_t i0, int64_t i1, const uint32_t *at, struct err *e);

struct kern_planes {
    /* z[i] = Q[first + i]·x for i in [0, count), one token's xp as mv[type]->x_pack prepares it. Each z has
     * the same bits for any split into ranges. scratch: as below. */
    void (*coarse)(float *z, const struct kern_planes_at *w, int64_t first, int64_t count, int64_t n,
                   const void *xp, void *scratch);
    /* y[i] = W[first + list[i]]·x for i in [0, count): the bits of mv[type]->rows for T = 1. list ascends. */
    void (*listed)(float *y, const struct kern_planes_at *w, int64_t first, const uint16_t *list,
                   int64_t count, int64_t n, const void *xp, void *scratch);
    /* x: n floats, the values that coarse, listed and mv multiply by (their rounding is this one alone). */
    void (*x_values)(float *x, const void *xp, int64_t n);
    size_t (*scratch_bytes)(int64_t n); /* of both products, 64-byte aligned, one a thread */
};

/* A token as the bounds see it. Extreme channels: the up to KERN_PLANE_EXTREMES largest |x|, if together they
 * hold more than a quarter of ‖x‖² although they are fewer than n/64; ascending. Roundings of W are
 * independent from channel to channel, which the statistical bound needs: a sum that a few channels dominate
 * is no longer normal. Their part E[:, c]·x[c] can be added exactly instead (kern_plane_column); a channel is
 * usually extreme for every token, so a caller keeps the columns it has once made. */
enum { KERN_PLANE_EXTREMES = 8 };
struct kern_plane_x {
    double norm, rest; /* ‖x‖₂ and the same without the extreme channels */
    int64_t n;
    int extremes; /* how many */
    int32_t channel[KERN_PLANE_EXTREMES];
    float value[KERN_PLANE_EXTREMES];
};
/* x: n floats from x_values. */
void kern_plane_x_make(struct kern_plane_x *px, const float *x, int64_t n);
/* e[i] = E[first + i][channel], i in [0, count), exact. Reads one fine byte a row: about count cache lines.
 */
void kern_plane_column(enum dtype type, float *e, const struct kern_planes_at *w, int64_t first,
                       int64_t count, int64_t n, int64_t channel);
/* z[i] += e[i]·value: makes that channel exact. */
void kern_plane_add_column(float *z, const float *e, float value, int64_t count);

/* When a neuron is off. k = 0: certified, z + ‖E‖‖x‖ + rounding ≤ t: no neuron that fires is ever missed
 * (Cauchy-Schwarz; the rounding term covers the floats of coarse, of the tier's exact product and of adding
 * the bias, twice over). k > 0: statistical, z + k·‖E‖‖x‖/√n + rounding ≤ t, chance of missing one with z
 * at the threshold at most Φ(−k): 3e-7 for k = 5. */
struct kern_plane_bound {
    float error, rounding, fixed; /* a row's margin is error·‖E‖ + rounding·size + fixed + 2^-21·|b| */
    float size_most;              /* rows of a larger size are candidates: their sums may overflow */
    float threshold;
    bool strict; /* on from the threshold itself (t > 0) instead of above it */
};
/* exact: every extreme channel of px was made exact by kern_plane_add_column, so ‖x‖ is px->rest. t: the
 * gate's threshold, 0 for ReLU, FATReLU's otherwise (at or above it a neuron is on). */
struct kern_plane_bound kern_plane_bound_make(const struct kern_plane_x *px, double k, bool exact, float t);
/* The rows i of [0, count) that may be on, ascending; returns how many. z, rows and bias (NULL: none) begin
 * at the range's first row; count ≤ 65536; list has room for count. Whatever is not a number is a candidate.
 */
int64_t kern_plane_candidates(uint16_t *list, const float *z, const float *bias,
                              const struct kern_plane_row *rows, int64_t count,
                              const struct kern_plane_bound *b);

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
    /* Down by neuron: ROW for every type that `mv` has, SPLIT for those of kern_can_split (else NULL). */
    const struct kern_down *down_row[DT_COUNT], *down_split[DT_COUNT];

    /* The gate in two planes: F16, BF16 and Q8_0, else NULL. */
    const struct kern_planes *planes[DT_COUNT];

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
