/* Products with a gate in two planes, AVX2. Coarse bytes of F16 and BF16 become F16 with a shift and a mask,
 * then floats; those of Q8_0 are read as Q4_0 blocks of 16 times the scale with the zero point 120.5/16. */
#define PLANE_TIER KERN_AVX2
#include "kernels/cpu/avx2/mv.h"
#include "kernels/cpu/avx2/piece.h"
#include "kernels/cpu/avx2/unpack.h"
#include "kernels/cpu/plane_body.h"

enum { STEP = 16, NEAR = 256, FAR = 2048 /* see mv_blocks.c */ };

UP_INLINE float across(const __m256 s[2])
{
    __m256 v = _mm256_add_ps(s[0], s[1]);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

UP_INLINE void prefetch(const uint8_t *at)
{
    _mm_prefetch((const char *)at + NEAR, _MM_HINT_T0);
    _mm_prefetch((const char *)at + FAR, _MM_HINT_T1);
}

UP_INLINE void add_16(enum dtype type, __m256 s[2], const uint8_t *c, const float *x)
{
    const __m256i mask = _mm256_set1_epi16((short)0x9fc0);
    const __m256i rest = _mm256_set1_epi16((short)plane_coarse_f16(type, 0));
    /* the sign is extended: after the shift it stands in bit 15 */
    __m256i v = _mm256_slli_epi16(_mm256_cvtepi8_epi16(up_load16(c)), 6);
    v = _mm256_or_si256(_mm256_and_si256(v, mask), rest);
    s[0] = _mm256_fmadd_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_load_ps(x), s[0]);
    s[1] = _mm256_fmadd_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(v, 1)), _mm256_load_ps(x + 8), s[1]);
}

/* Rows are padded with zero bytes to 64 and x with zeros to 16: no tail. */
UP_INLINE void coarse_words(enum dtype type, int R, float *z, int64_t apart, const struct kern_planes_at *w,
                            int64_t row, int64_t n, const void *xp)
{
    const float *x = xp;
    const size_t stride = (size_t)apart * w->coarse_stride;
    const uint8_t *at = w->coarse + (size_t)row * w->coarse_stride;
    __m256 s[4][2];
    for (int r = 0; r < R; r++) s[r][0] = s[r][1] = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + 4 * STEP <= n; k += 4 * STEP, at += 4 * STEP) {
        for (int r = 0; r < R; r++) prefetch(at + (size_t)r * stride);
        for (int i = 0; i < 4 * STEP; i += STEP)
            for (int r = 0; r < R; r++) add_16(type, s[r], at + (size_t)r * stride + i, x + k + i);
    }
    for (; k < n; k += STEP, at += STEP)
        for (int r = 0; r < R; r++) add_16(type, s[r], at + (size_t)r * stride, x + k);
    for (int r = 0; r < R; r++) z[r * apart] = across(s[r]) * w->rows[row + r * apart].unit;
}

UP_INLINE void coarse_blocks(enum dtype type, int R, float *z, int64_t apart, const struct kern_planes_at *w,
                             int64_t row, int64_t n, const void *xp)
{
    (void)type;
    const struct xq *x = xp;
    const size_t stride = (size_t)apart * w->coarse_stride, step = up_bytes(DT_Q4_0);
    const uint8_t *at = w->coarse + (size_t)row * w->coarse_stride;
    int64_t whole = n / UP_PIECE, np = pieces(n);
    struct sums s[4];
    __m256i q[8];
    for (int r = 0; r < R; r++) s[r].dot = s[r].low = _mm256_setzero_ps();
    for (int64_t p = 0; p < whole; p++, at += step)
        for (int r = 0; r < R; r++) {
            const uint8_t *c = at + (size_t)r * stride;
            up_quants(DT_Q4_0, q, c);
            struct up_scale scales = up_scales(DT_Q4_0, c);
            for (size_t i = 0; i < step; i += 64) prefetch(c + i);
            add_piece(DT_Q4_0, &s[r], q, scales, x + p);
        }
    if (whole < np)
        for (int r = 0; r < R; r++) {
            uint8_t part[8 * 18] = {0};
            memcpy(part, at + (size_t)r * stride, (size_t)(n % UP_PIECE) / 32 * 18);
            up_quants(DT_Q4_0, q, part);
            add_piece(DT_Q4_0, &s[r], q, up_scales(DT_Q4_0, part), x + whole);
        }
    for (int r = 0; r < R; r++) z[r * apart] = 16 * total(DT_Q4_0, s[r], -120.5f / 16);
}

static void float_values(float *x, const void *xp, int64_t n)
{
    memcpy(x, xp, (size_t)n * sizeof *x);
}

static void block_values(float *x, const void *xp, int64_t n)
{
    const struct xq *in = xp;
    for (int64_t i = 0; i < n; i += 8) {
        const struct xq *p = in + i / UP_PIECE;
        int64_t b = i % UP_PIECE / 32, h = i % 32 / 16;
        const int8_t *at = p->q + 32 * (2 * (b & 3) + h) + 16 * (b >> 2) + i % 16;
        __m256 v =
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at)));
        _mm256_storeu_ps(x + i, _mm256_mul_ps(v, _mm256_set1_ps(p->d[b])));
    }
}

DEFINE_PLANES(F16, coarse_words, float_values)
DEFINE_PLANES(BF16, coarse_words, float_values)
DEFINE_PLANES(Q8_0, coarse_blocks, block_values)

void avx2_mv_planes(struct kern_ops *ops)
{
    ops->planes[DT_F16] = &planes_F16;
    ops->planes[DT_BF16] = &planes_BF16;
    ops->planes[DT_Q8_0] = &planes_Q8_0;
}
