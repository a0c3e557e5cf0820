/* Products of quantised rows with one token or a few (kern_mat mv), AVX2; compiled a second time with
 * AVX-VNNI.
 *
 *
 * Tokens are prepared once: int8 in the piece order of unpack.h with a float scale for 32 values, and the
 * sums that zero points and minima multiply. All block types share this form. A piece is unpacked once and
 * meets every token. Each (row, token) has its own accumulators and its own fixed order of additions, so
 * neither grouping nor T changes a bit of the result. */
#include "kernels/cpu/avx2/mv.h"
#include "kernels/cpu/avx2/piece.h"
#include "kernels/cpu/avx2/unpack.h"

static size_t xq_bytes(int64_t n, int64_t T)
{
    return (size_t)(pieces(n) * T) * sizeof(struct xq);
}

static int add_across(__m256i v)
{
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}

static int max_across(__m256i v)
{
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1)));
}

/* Quantises 32 values; a NaN or infinity among them makes the scale NaN or infinite, and so every product. */
static void pack_block(struct xq *x, int b, const float *in)
{
    __m256 v[4];
    __m256i i[4], bits = _mm256_setzero_si256();
    for (int k = 0; k < 4; k++) {
        v[k] = _mm256_loadu_ps(in + 8 * k);
        __m256i a = _mm256_and_si256(_mm256_castps_si256(v[k]), _mm256_set1_epi32(0x7fffffff));
        bits = _mm256_max_epi32(bits, a); /* ordered as integers, NaN on top */
    }
    int top_bits = max_across(bits);
    float top;
    memcpy(&top, &top_bits, 4);
    float d = top / 127, inverse = top < 1e-30f ? 0 : 127 / top;
    for (int k = 0; k < 4; k++) i[k] = _mm256_cvtps_epi32(_mm256_mul_ps(v[k], _mm256_set1_ps(inverse)));
    for (int h = 0; h < 2; h++) { /* packing works within lanes: the permutation puts values in order */
        __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(i[2 * h], i[2 * h + 1]), 0xd8);
        __m128i q = _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1));
        /* −128 appears only where the scale is NaN or infinite; no sign can be taken of it */
        q = _mm_max_epi8(q, _mm_set1_epi8(-127));
        _mm_storeu_si128((__m128i *)(void *)(x->q + 32 * (2 * (b & 3) + h) + 16 * (b >> 2)), q);
        x->s16[h][b] = d * (float)add_across(_mm256_add_epi32(i[2 * h], i[2 * h + 1]));
    }
    x->d[b] = d;
    x->s[b] = x->s16[0][b] + x->s16[1][b];
}

static void xq_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    (void)T;
    static const float none[32];
    int64_t np = pieces(n);
    for (int64_t t = t0; t < t1; t++) {
        struct xq *out = (struct xq *)dst + t * np;
        for (int64_t i = 0; i < np * 8; i++) /* n is a multiple of 32: a block is whole or absent */
            pack_block(&out[i / 8], (int)(i % 8), 32 * i < n ? x + t * ldx + 32 * i : none);
    }
}

/* Four rows at once, far enough apart to lie in different pages, keep four hardware prefetchers busy;
 * prefetches bridge the page ends where those stop. */
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
    for (int i = 0; i < R * T; i++) s[i].dot = s[i].low = _mm256_setzero_ps();
    int64_t whole = n / UP_PIECE, np = pieces(n);
    size_t step = up_bytes(type);
    __m256i q[8];
    for (int64_t p = 0; p < whole; p++, w += step)
        for (int r = 0; r < R; r++) {
            const uint8_t *at = w + off[r];
            up_quants(type, q, at);
            struct up_scale scales = up_scales(type, at);
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
            struct up_scale scales = up_scales(type, part);
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
        .x_format = X_AVX2_BLOCKS,                                                                           \
        .x_bytes = xq_bytes,                                                                                 \
        .x_pack = xq_pack,                                                                                   \
        .x_group = 1,                                                                                        \
        .rows = rows_##t,                                                                                    \
        .listed = listed_##t,                                                                                \
        .scratch_bytes = no_scratch,                                                                         \
        .row_group = 4,                                                                                      \
    };
TYPES(DEFINE)

#ifdef __AVXVNNI__
void avx2_mv_blocks_vnni(struct kern_ops *ops)
#else
void avx2_mv_blocks(struct kern_ops *ops)
#endif
{
#define ENTER(t) ops->mv[DT_##t] = &mat_##t;
    TYPES(ENTER)
}
