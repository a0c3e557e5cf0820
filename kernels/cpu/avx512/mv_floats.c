/* Products with float activations of one token or a few (kern_mat mv): F32, F16 and BF16, and the block types
 * that have no integer product yet, whose rows are decoded first, AVX-512.
 *
 * Activations stay float, padded with zeros to a multiple of 64. Each (row, token) has four accumulators, one
 * for each 16 of 64 values, added in a fixed order at the end. */
#include "kernels/cpu/avx512/mv.h"
#include "kernels/cpu/avx512/unpack.h"
#include "kernels/cpu/ref/ref.h"

enum { STEP = 64 };

static int64_t padded(int64_t n)
{
    return (n + STEP - 1) / STEP * STEP;
}

static size_t xf_bytes(int64_t n, int64_t T)
{
    return (size_t)(padded(n) * T) * sizeof(float);
}

static void xf_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    (void)T;
    int64_t np = padded(n);
    for (int64_t t = t0; t < t1; t++) {
        float *out = (float *)dst + t * np;
        memcpy(out, x + t * ldx, (size_t)n * sizeof(float));
        memset(out + n, 0, (size_t)(np - n) * sizeof(float));
    }
}

UP_INLINE float total(const __m512 s[4])
{
    __m512 v = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

enum { MAX_SUMS = 4, NEAR = 256, FAR = 2048 /* see mv_blocks.c */ };

/* R rows, row r `off[r]` bytes behind w, with T tokens `ldx` floats apart; R and T are constants. next: NULL
 * for rows that are streamed, or the row that comes after row r is next[r] bytes behind w. */
UP_INLINE void dot_rows(enum dtype type, int R, int T, float *y, int64_t ldy, int64_t apart, const uint8_t *w,
                        const size_t *off, const size_t *next, int64_t n, const float *x, int64_t ldx)
{
    __m512 s[MAX_SUMS][4];
    for (int j = 0; j < R * T; j++)
        for (int i = 0; i < 4; i++) s[j][i] = _mm512_setzero_ps();
    const size_t size = up_float_bytes(type);
    int64_t k = 0;
    for (; k + STEP <= n; k += STEP, w += STEP * size) {
        for (int r = 0; r < R; r++)
            for (size_t i = 0; i < STEP * size; i += 64) {
                if (next) {
                    _mm_prefetch((const char *)w + next[r] + i, _MM_HINT_T1);
                    continue;
                }
                _mm_prefetch((const char *)w + off[r] + NEAR + i, _MM_HINT_T0);
                _mm_prefetch((const char *)w + off[r] + FAR + i, _MM_HINT_T1);
            }
        for (int i = 0; i < 4; i++)
            for (int r = 0; r < R; r++) {
                __m512 v = up_floats(type, w + off[r] + 16 * size * (size_t)i, 0xffff);
                for (int t = 0; t < T; t++) {
                    __m512 xv = _mm512_load_ps(x + t * ldx + k + 16 * i);
                    s[r * T + t][i] = _mm512_fmadd_ps(v, xv, s[r * T + t][i]);
                }
            }
    }
    for (int i = 0; i < 4 && k < n;
         i++, k += 16, w += 16 * size) /* the row's end: nothing behind it is read */
        for (int r = 0; r < R; r++) {
            __mmask16 some = n - k < 16 ? (__mmask16)((1u << (n - k)) - 1) : 0xffff;
            __m512 v = up_floats(type, w + off[r], some);
            for (int t = 0; t < T; t++)
                s[r * T + t][i] = _mm512_fmadd_ps(v, _mm512_load_ps(x + t * ldx + k), s[r * T + t][i]);
        }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) y[t * ldy + r * apart] = total(s[r * T + t]);
}

UP_INLINE void rows_of(enum dtype type, float *y, int64_t ldy, const uint8_t *w, size_t row_bytes,
                       int64_t rows, int64_t n, const float *x, int64_t T)
{
    int64_t np = padded(n), r = 0, part = T == 1 ? rows / 4 : T == 2 ? rows / 2 : 0;
    const size_t off[4] = {0, (size_t)part * row_bytes, (size_t)part * row_bytes * 2,
                           (size_t)part * row_bytes * 3};
    for (; r < part; r++) {
        const uint8_t *at = w + (size_t)r * row_bytes;
        if (T == 1)
            dot_rows(type, 4, 1, y + r, ldy, part, at, off, NULL, n, x, np);
        else
            dot_rows(type, 2, 2, y + r, ldy, part, at, off, NULL, n, x, np);
    }
    for (r = part * (T == 1 ? 4 : 2); r < rows; r++) {
        const uint8_t *at = w + (size_t)r * row_bytes;
        int64_t t = 0;
        for (; t + 4 <= T; t += 4)
            dot_rows(type, 1, 4, y + t * ldy + r, ldy, 1, at, off, NULL, n, x + t * np, np);
        for (; t < T; t++) dot_rows(type, 1, 1, y + t * ldy + r, ldy, 1, at, off, NULL, n, x + t * np, np);
    }
}

/* Rows of a list, four at once: wherever they lie, each has its own sums. */
UP_INLINE void listed_of(enum dtype type, float *y, const uint8_t *w, size_t row_bytes, const uint16_t *list,
                         int64_t count, int64_t n, const float *x)
{
    const size_t bytes = (size_t)n * up_float_bytes(type);
    const int64_t last = count - 1;
    for (int64_t i = 0; i < count && i < 4; i++) /* nothing has announced the first ones */
        for (size_t b = 0; b < bytes; b += 64)
            _mm_prefetch((const char *)w + list[i] * row_bytes + b, _MM_HINT_T1);
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        const uint8_t *at = w + list[i] * row_bytes;
        size_t off[4], next[4];
        for (int r = 0; r < 4; r++) {
            off[r] = (size_t)(list[i + r] - list[i]) * row_bytes;
            next[r] = (size_t)(list[i + 4 + r < last ? i + 4 + r : last] - list[i]) * row_bytes;
        }
        dot_rows(type, 4, 1, y + i, 0, 1, at, off, next, n, x, padded(n));
    }
    const size_t none[1] = {0};
    for (; i < count; i++)
        dot_rows(type, 1, 1, y + i, 0, 1, w + list[i] * row_bytes, none, none, n, x, padded(n));
}

static size_t no_scratch(int64_t n)
{
    (void)n;
    return 0;
}

static size_t row_scratch(int64_t n)
{
    return (size_t)padded(n) * sizeof(float);
}

/* One row at a time to floats. */
static void decoded_rows(enum dtype type, float *y, int64_t ldy, const void *w, size_t row_bytes,
                         int64_t rows, int64_t n, const void *xp, int64_t T, void *scratch)
{
    for (int64_t r = 0; r < rows; r++) {
        ref_decode(type, scratch, (const uint8_t *)w + (size_t)r * row_bytes, n);
        rows_of(DT_F32, y + r, ldy, scratch, 0, 1, n, xp, T);
    }
}

#define DIRECT(X) X(F32) X(F16) X(BF16)
/* clang-format off */
#define DECODED(X)                                                                                           \
    X(Q2_K) X(Q3_K) X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(IQ4_XS)            \
    X(TQ1_0) X(TQ2_0)
/* clang-format on */

#define MAT(t, size)                                                                                         \
    static const struct kern_mat mat_##t = {                                                                 \
        .x_format = X_AVX512_FLOATS,                                                                         \
        .x_bytes = xf_bytes,                                                                                 \
        .x_pack = xf_pack,                                                                                   \
        .x_group = 1,                                                                                        \
        .rows = rows_##t,                                                                                    \
        .listed = listed_##t,                                                                                \
        .scratch_bytes = size,                                                                               \
        .row_group = 4,                                                                                      \
    };
#define DEFINE_DIRECT(t)                                                                                     \
    static void rows_##t(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,    \
                         const void *xp, int64_t T, void *scratch)                                           \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        rows_of(DT_##t, y, ldy, w, row_bytes, rows, n, xp, T);                                               \
    }                                                                                                        \
    static void listed_##t(float *y, const void *w, size_t row_bytes, const uint16_t *list, int64_t count,   \
                           int64_t n, const void *xp, void *scratch)                                         \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        listed_of(DT_##t, y, w, row_bytes, list, count, n, xp);                                              \
    }                                                                                                        \
    MAT(t, no_scratch)
#define DEFINE_DECODED(t)                                                                                    \
    static void rows_##t(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,    \
                         const void *xp, int64_t T, void *scratch)                                           \
    {                                                                                                        \
        decoded_rows(DT_##t, y, ldy, w, row_bytes, rows, n, xp, T, scratch);                                 \
    }                                                                                                        \
    static void listed_##t(float *y, const void *w, size_t row_bytes, const uint16_t *list, int64_t count,   \
                           int64_t n, const void *xp, void *scratch)                                         \
    {                                                                                                        \
        for (int64_t i = 0; i < count; i++)                                                                  \
            decoded_rows(DT_##t, y + i, 1, (const uint8_t *)w + list[i] * row_bytes, row_bytes, 1, n, xp, 1, \
                         scratch);                                                                           \
    }                                                                                                        \
    MAT(t, row_scratch)
DIRECT(DEFINE_DIRECT)
DECODED(DEFINE_DECODED)

void avx512_mv_floats(struct kern_ops *ops)
{
#define ENTER(t) ops->mv[DT_##t] = &mat_##t;
    DIRECT(ENTER)
    DECODED(ENTER)
}
