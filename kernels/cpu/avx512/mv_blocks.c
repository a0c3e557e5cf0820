/* Products of quantised rows with one token or a few (kern_mat mv), AVX-512 VNNI.
 *
 * Tokens are prepared once: int8 in the piece order of unpack.h with a float scale for 32 values, and the
 * sums that zero points and minima multiply. All block types share this form. Rows are read strictly forward,
 * one piece at a time; a piece is unpacked once and meets every token. Each (row, token) has its own
 * accumulators and its own fixed order of additions, so neither grouping nor T changes a bit of the result.
 */
#include "kernels/cpu/avx512/mv.h"
#include "kernels/cpu/avx512/piece.h"
#include "kernels/cpu/avx512/unpack.h"

static size_t xq_bytes(int64_t n, int64_t T)
{
    return (size_t)(pieces(n) * T) * sizeof(struct xq);
}

/* Wraps where a NaN made the sum meaningless; the compiler's own reduction adds signed scalars, which may
 * not. */
static int add_across(__m512i v)
{
    __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xb1)));
}

/* Quantises 32 values; a NaN or infinity among them makes the scale NaN or infinite, and so every product. */
static void pack_block(struct xq *x, int b, __m512 v0, __m512 v1)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i a0 = _mm512_and_si512(_mm512_castps_si512(v0), magnitude);
    __m512i a1 = _mm512_and_si512(_mm512_castps_si512(v1), magnitude);
    int bits = _mm512_reduce_max_epi32(_mm512_max_epi32(a0, a1)); /* ordered as integers, NaN on top */
    float top;
    memcpy(&top, &bits, 4);
    float d = top / 127, inverse = top < 1e-30f ? 0 : 127 / top;
    __m512i i0 = _mm512_cvtps_epi32(_mm512_mul_ps(v0, _mm512_set1_ps(inverse)));
    __m512i i1 = _mm512_cvtps_epi32(_mm512_mul_ps(v1, _mm512_set1_ps(inverse)));
    int8_t *dst = x->q + 128 * (b & 1) + 16 * (b >> 1);
    _mm_storeu_si128((__m128i *)(void *)dst, _mm512_cvtsepi32_epi8(i0));
    _mm_storeu_si128((__m128i *)(void *)(dst + 64), _mm512_cvtsepi32_epi8(i1));
    int s0 = add_across(i0), s1 = add_across(i1);
    x->d[b] = d;
    x->s[b] = d * ((float)s0 + (float)s1);
    x->s16[2 * b] = d * (float)s0;
    x->s16[2 * b + 1] = d * (float)s1;
}

static void xq_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    (void)T;
    int64_t np = pieces(n);
    for (int64_t t = t0; t < t1; t++) {
        struct xq *out = (struct xq *)dst + t * np;
        const float *in = x + t * ldx;
        for (int64_t i = 0; i < np * 8; i++) {
            int64_t left = n - 32 * i; /* n is a multiple of 32: a block is whole or absent */
            __m512 v0 = left > 0 ? _mm512_loadu_ps(in + 32 * i) : _mm512_setzero_ps();
            __m512 v1 = left > 0 ? _mm512_loadu_ps(in + 32 * i + 16) : _mm512_setzero_ps();
            pack_block(&out[i / 8], (int)(i % 8), v0, v1);
        }
    }
}

/* A core's read stream is limited by the lines it has in flight. Four rows at once, far enough apart to lie
 * in different pages, keep four hardware prefetchers busy, and prefetches bridge the page ends where those
 * stop: the far one into L2, the near one on into L1. */
enum { NEAR = 256, FAR = 2048, MAX_SUMS = 4, MAX_BYTES = 272 };

UP_INLINE void prefetch(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) {
        _mm_prefetch((const char *)at + NEAR + i, _MM_HINT_T0);
        _mm_prefetch((const char *)at + FAR + i, _MM_HINT_T1);
    }
}

/* Listed rows lie anywhere, so the same bytes of the rows that come next are fetched, and nothing else:
 * beyond a row's end there is nothing to come. */
UP_INLINE void prefetch_next(const uint8_t *next, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)next + i, _MM_HINT_T1);
}

/* R rows, row r `off[r]` bytes behind w, with T tokens; R and T are constants. next: NULL for rows that
 * are streamed, or the row that comes after row r is next[r] bytes behind w. */
UP_INLINE void dot_rows(enum dtype type, int R, int T, float *y, int64_t ldy, int64_t apart, const uint8_t *w,
                        const size_t *off, const size_t *next, int64_t n, const struct xq *x)
{
    struct sums s[MAX_SUMS];
    for (int i = 0; i < R * T; i++) s[i].dot = s[i].low = _mm512_setzero_ps();
    int64_t whole = n / UP_PIECE, np = pieces(n);
    size_t step = up_bytes(type);
    __m512i q[4];
    for (int64_t p = 0; p < whole; p++, w += step)
        for (int r = 0; r < R; r++) {
            const uint8_t *at = w + off[r];
            up_quants(type, q, at);
            __m512 scales = up_scales(type, at);
            if (next)
                prefetch_next(w + next[r], step);
            else
                prefetch(at, step);
            for (int t = 0; t < T; t++) add_piece(type, &s[r * T + t], q, scales, x + t * np + p);
        }
    if (whole < np) /* a part of a piece: the missing blocks are zero */
        for (int r = 0; r < R; r++) {
            uint8_t part[MAX_BYTES] = {0};
            memcpy(part, w + off[r], (size_t)(n % UP_PIECE) / 32 * (step / 8));
            up_quants(type, q, part);
            __m512 scales = up_scales(type, part);
            for (int t = 0; t < T; t++) add_piece(type, &s[r * T + t], q, scales, x + t * np + whole);
        }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) y[t * ldy + r * apart] = total(type, s[r * T + t], up_minimum(type));
}

UP_INLINE void rows_of(enum dtype type, float *y, int64_t ldy, const uint8_t *w, size_t row_bytes,
                       int64_t rows, int64_t n, const struct xq *x, int64_t T)
{
    int64_t np = pieces(n), r = 0, part = T == 1 ? rows / 4 : T == 2 ? rows / 2 : 0;
    const size_t off[4] = {0, (size_t)part * row_bytes, (size_t)part * row_bytes * 2,
                           (size_t)part * row_bytes * 3};
    for (; r < part; r++) {
        const uint8_t *at = w + (size_t)r * row_bytes;
        if (T == 1)
            dot_rows(type, 4, 1, y + r, ldy, part, at, off, NULL, n, x);
        else
            dot_rows(type, 2, 2, y + r, ldy, part, at, off, NULL, n, x);
    }
    for (r = part * (T == 1 ? 4 : 2); r < rows; r++) {
        const uint8_t *at = w + (size_t)r * row_bytes;
        int64_t t = 0;
        for (; t + 4 <= T; t += 4)
            dot_rows(type, 1, 4, y + t * ldy + r, ldy, 1, at, off, NULL, n, x + t * np);
        for (; t < T; t++) dot_rows(type, 1, 1, y + t * ldy + r, ldy, 1, at, off, NULL, n, x + t * np);
    }
}

/* Rows of a list, four at once: wherever they lie, each has its own sums. */
UP_INLINE void listed_of(enum dtype type, float *y, const uint8_t *w, size_t row_bytes, const uint16_t *list,
                         int64_t count, int64_t n, const struct xq *x)
{
    const size_t bytes = (size_t)(n / 32) * (up_bytes(type) / 8);
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
        dot_rows(type, 4, 1, y + i, 0, 1, at, off, next, n, x);
    }
    const size_t none[1] = {0};
    for (; i < count; i++) dot_rows(type, 1, 1, y + i, 0, 1, w + list[i] * row_bytes, none, none, n, x);
}

static size_t no_scratch(int64_t n)
{
    (void)n;
    return 0;
}

#define TYPES(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(IQ4_NL) X(Q4_K) X(Q5_K) X(Q6_K)
#define DEFINE(t)                                                                                            \
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
    static const struct kern_mat mat_##t = {                                                                 \
        .x_format = X_AVX512_BLOCKS,                                                                         \
        .x_bytes = xq_bytes,                                                                                 \
        .x_pack = xq_pack,                                                                                   \
        .x_group = 1,                                                                                        \
        .rows = rows_##t,                                                                                    \
        .listed = listed_##t,                                                                                \
        .scratch_bytes = no_scratch,                                                                         \
        .row_group = 4,                                                                                      \
    };
TYPES(DEFINE)

void avx512_mv_blocks(struct kern_ops *ops)
{
#define ENTER(t) ops->mv[DT_##t] = &mat_##t;
    TYPES(ENTER)
}
