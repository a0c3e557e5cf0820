/* Products with a gate in two planes, AVX-512. Coarse bytes of F16 and BF16 become F16 with a shift and a
 * mask, then floats; those of Q8_0 are read as Q4_0 blocks of 16 times the scale with the zero point
 * 120.5/16. */
#define PLANE_TIER KERN_AVX512
#include "kernels/cpu/avx512/mv.h"
#include "kernels/cpu/avx512/piece.h"
#include "kernels/cpu/avx512/unpack.h"
#include "kernels/cpu/plane_body.h"

enum { STEP = 64, NEAR = 256, FAR = 2048 /* see mv_blocks.c */ };

UP_INLINE float across(const __m512 s[4])
{
    __m512 v = _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

/* Rows are padded with zero bytes and x with zeros, to 64: no tail. */
UP_INLINE void coarse_words(enum dtype type, int R, float *z, int64_t apart, const struct kern_planes_at *w,
                            int64_t row, int64_t n, const void *xp)
{
    const float *x = xp;
    const size_t stride = (size_t)apart * w->coarse_stride;
    const uint8_t *at = w->coarse + (size_t)row * w->coarse_stride;
    const __m512i mask = _mm512_set1_epi16((short)0x9fc0);
    const __m512i rest = _mm512_set1_epi16((short)plane_coarse_f16(type, 0));
    __m512 s[4][4];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 4; i++) s[r][i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < n; k += STEP, at += STEP)
        for (int r = 0; r < R; r++) {
            const uint8_t *c = at + (size_t)r * stride;
            _mm_prefetch((const char *)c + NEAR, _MM_HINT_T0);
            _mm_prefetch((const char *)c + FAR, _MM_HINT_T1);
            for (int h = 0; h < 2; h++) { /* the sign is extended: after the shift it stands in bit 15 */
                __m512i v = _mm512_cvtepi8_epi16(
                    _mm256_load_si256((const __m256i *)(const void *)(c + 32 * (size_t)h)));
                v = _mm512_ternarylogic_epi32(_mm512_slli_epi16(v, 6), mask, rest, 0xea); /* (a & b) | c */
                __m512 v0 = _mm512_cvtph_ps(_mm512_castsi512_si256(v));
                __m512 v1 = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1));
                s[r][2 * h] = _mm512_fmadd_ps(v0, _mm512_load_ps(x + k + 32 * h), s[r][2 * h]);
                s[r][2 * h + 1] = _mm512_fmadd_ps(v1, _mm512_load_ps(x + k + 32 * h + 16), s[r][2 * h + 1]);
            }
        }
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
    __m512i q[4];
    for (int r = 0; r < R; r++) s[r].dot = s[r].low = _mm512_setzero_ps();
    for (int64_t p = 0; p < whole; p++, at += step)
        for (int r = 0; r < R; r++) {
            const uint8_t *c = at + (size_t)r * stride;
            up_quants(DT_Q4_0, q, c);
            __m512 scales = up_scales(DT_Q4_0, c);
            for (size_t i = 0; i < step; i += 64) {
                _mm_prefetch((const char *)c + NEAR + i, _MM_HINT_T0);
                _mm_prefetch((const char *)c + FAR + i, _MM_HINT_T1);
            }
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
    for (int64_t i = 0; i < n; i += 16) {
        const struct xq *p = in + i / UP_PIECE;
        int64_t b = i % UP_PIECE / 32, h = i % 32 / 16;
        __m128i q = up_load16((const uint8_t *)p->q + 128 * (b & 1) + 64 * h + 16 * (b >> 1));
        __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
        _mm512_storeu_ps(x + i, _mm512_mul_ps(v, _mm512_set1_ps(p->d[b])));
    }
}

DEFINE_PLANES(F16, coarse_words, float_values)
DEFINE_PLANES(BF16, coarse_words, float_values)
DEFINE_PLANES(Q8_0, coarse_blocks, block_values)

void avx512_mv_planes(struct kern_ops *ops)
{
    ops->planes[DT_F16] = &planes_F16;
    ops->planes[DT_BF16] = &planes_BF16;
    ops->planes[DT_Q8_0] = &planes_Q8_0;
}
