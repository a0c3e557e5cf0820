/* The table of products of many tokens: one entry a type, from the tier's quantise_float and quantise_blocks.
 * A tier includes this last, after the product itself: X_MM16 and X_MM32 the numbers of its prepared forms,
 * MM16_GROUP and MM16_PANEL the tokens and rows it likes to take at once. */
#ifndef KERNELS_CPU_MM_TYPES_H
#define KERNELS_CPU_MM_TYPES_H

#include "kernels/cpu/mm16_values.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

#ifndef FLOATS /* a tier with another product for one of them brings its own list */
#define FLOATS(X) X(F16) X(BF16)
#endif
#define BLOCKS(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ4_NL)
/* Types with blocks of 256 that have no unpacking of their own: decoded to floats first. */
#define OTHERS(X)                                                                                            \
    X(Q2_K)                                                                                                  \
    X(Q3_K) X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(IQ4_XS) X(TQ1_0) X(TQ2_0)

#define QUANTISE_FLOAT(t)                                                                                    \
    static float quantise_##t(int16_t *dst, const uint8_t *src, int64_t values)                              \
    {                                                                                                        \
        if (values == MM16_CHUNK) return quantise_float(DT_##t, MM16_NORM_W, dst, src, MM16_CHUNK);          \
        return quantise_float(DT_##t, MM16_NORM_W, dst, src, values);                                        \
    }
#define QUANTISE_BLOCKS(t)                                                                                   \
    static float quantise_##t(int16_t *dst, const uint8_t *src, int64_t values)                              \
    {                                                                                                        \
        return quantise_blocks(DT_##t, dst, src, values);                                                    \
    }
#define QUANTISE_OTHER(t)                                                                                    \
    static float quantise_##t(int16_t *dst, const uint8_t *src, int64_t values)                              \
    {                                                                                                        \
        float row[MM16_CHUNK];                                                                               \
        ref_decode(DT_##t, row, src, values);                                                                \
        return quantise_float(DT_F32, MM16_NORM_W, dst, (const uint8_t *)row, values);                       \
    }
FLOATS(QUANTISE_FLOAT)
BLOCKS(QUANTISE_BLOCKS)
OTHERS(QUANTISE_OTHER)

static size_t chunk_bytes(enum dtype type)
{
    uint64_t bytes = 0;
    dtype_row_bytes(type, MM16_CHUNK, &bytes);
    return bytes;
}

#define ROWS(t)                                                                                              \
    static void rows_##t(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,    \
                         const void *xp, int64_t T, void *scratch)                                           \
    {                                                                                                        \
        mm16_rows(quantise_##t, chunk_bytes(DT_##t), y, ldy, w, row_bytes, rows, n, xp, T, scratch);         \
    }                                                                                                        \
    static const struct kern_mat mat_##t = {                                                                 \
        .x_format = X_MM16,                                                                                  \
        .x_bytes = mm16_x_bytes,                                                                             \
        .x_pack = mm16_x_pack,                                                                               \
        .x_group = MM16_GROUP,                                                                               \
        .rows = rows_##t,                                                                                    \
        .scratch_bytes = mm16_scratch_bytes,                                                                 \
        .row_group = MM16_PANEL,                                                                             \
    };
FLOATS(ROWS)
BLOCKS(ROWS)
OTHERS(ROWS)

#ifdef KERNELS_CPU_MM32_H
static const struct kern_mat mat_F32 = {
    .x_format = X_MM32,
    .x_bytes = mm32_x_bytes,
    .x_pack = mm32_x_pack,
    .x_group = MM16_TILE,
    .rows = mm32_rows,
    .scratch_bytes = mm32_scratch_bytes,
    .row_group = MM32_PANEL,
};
#endif

static void mm_enter(struct kern_ops *ops)
{
#define ENTER(t) ops->mm[DT_##t] = &mat_##t;
    FLOATS(ENTER)
    BLOCKS(ENTER)
    OTHERS(ENTER)
#ifdef KERNELS_CPU_MM32_H
    ENTER(F32)
#endif
}

#endif
