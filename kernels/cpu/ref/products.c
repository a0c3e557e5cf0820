/* Products with exact activations: a row of W is decoded to floats and multiplied in double. The activations
 * are kept as they are, so nothing but the final rounding is lost: what other tiers are measured against. */
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

static size_t x_bytes(int64_t n, int64_t T)
{
    return round64((size_t)n * (size_t)T * sizeof(float));
}

static void x_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    (void)T;
    for (int64_t t = t0; t < t1; t++) memcpy((float *)dst + t * n, x + t * ldx, (size_t)n * sizeof(float));
}

static size_t scratch_bytes(int64_t n)
{
    return round64((size_t)n * sizeof(float));
}

/* Eight lanes, so that the chain of additions is not the limit; their order is fixed. */
static float dot(const float *a, const float *b, int64_t n)
{
    double lane[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) lane[j] += (double)a[i + j] * (double)b[i + j];
    for (; i < n; i++) lane[i & 7] += (double)a[i] * (double)b[i];
    return (float)(((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7])));
}

static void rows_of(enum dtype type, float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows,
                    int64_t n, const void *xp, int64_t T, void *scratch)
{
    const float *x = xp;
    for (int64_t r = 0; r < rows; r++) {
        ref_decode(type, scratch, (const char *)w + (size_t)r * row_bytes, n);
        for (int64_t t = 0; t < T; t++) y[t * ldy + r] = dot(scratch, x + t * n, n);
    }
}

static void listed_of(enum dtype type, float *y, const void *w, size_t row_bytes, const uint16_t *list,
                      int64_t count, int64_t n, const void *xp, void *scratch)
{
    for (int64_t i = 0; i < count; i++)
        rows_of(type, y + i, 1, (const char *)w + list[i] * row_bytes, row_bytes, 1, n, xp, 1, scratch);
}

/* `rows` has no type argument: one function and one table entry a type. */
/* clang-format off */
#define TYPES(X) \
    X(F32) X(F16) X(BF16) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) \
    X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(IQ4_NL) X(IQ4_XS) X(TQ1_0) X(TQ2_0)
/* clang-format on */

#define DEFINE(t)                                                                                            \
    static void rows_##t(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,    \
                         const void *xp, int64_t T, void *scratch)                                           \
    {                                                                                                        \
        rows_of(DT_##t, y, ldy, w, row_bytes, rows, n, xp, T, scratch);                                      \
    }                                                                                                        \
    static void listed_##t(float *y, const void *w, size_t row_bytes, const uint16_t *list, int64_t count,   \
                           int64_t n, const void *xp, void *scratch)                                         \
    {                                                                                                        \
        listed_of(DT_##t, y, w, row_bytes, list, count, n, xp, scratch);                                     \
    }                                                                                                        \
    static const struct kern_mat mat_##t = {                                                                 \
        .x_format = X_F32,                                                                                   \
        .x_bytes = x_bytes,                                                                                  \
        .x_pack = x_pack,                                                                                    \
        .x_group = 1,                                                                                        \
        .rows = rows_##t,                                                                                    \
        .listed = listed_##t,                                                                                \
        .scratch_bytes = scratch_bytes,                                                                      \
        .row_group = 1,                                                                                      \
    };
TYPES(DEFINE)

void ref_products_init(struct kern_ops *ops)
{
#define ENTER(t) ops->mv[DT_##t] = ops->mm[DT_##t] = &mat_##t;
    TYPES(ENTER)
    ops->mv_tokens = 8;
}
