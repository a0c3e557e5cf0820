/* Products with a gate in two planes, AVX-512. Coarse bytes of F16 and BF16 become F16 with a shift and a
 * mask, then floats; those of Q8_0 are read as Q4_0 blocks of 16 times the scale with the zero point
 * 120.5/16. */
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

/* The 64 coarse bytes at c to 16-bit words without sign extension's rest: even bytes to even[], odd to odd[],
 * shifted left by `shift` and masked. */
UP_INLINE void bytes_to_words(__m512i *even, __m512i *odd, __m512i c, int shift)
{
    *odd = _mm512_srai_epi16(c, (unsigned)(8 - shift));
    *even = _mm512_srai_epi16(_mm512_slli_epi16(c, 8), (unsigned)(8 - shift));
}

/* (v & mask) | or */
UP_INLINE __m512i and_or(__m512i v, int mask, __m512i or)
{
    return _mm512_ternarylogic_epi32(v, _mm512_set1_epi16((short)mask), or, 0xea);
}

/* Rows are padded with zero bytes and x with zeros, to 64: no tail. */
UP_INLINE void coarse_words(enum dtype type, int R, float *z, int64_t apart, const struct kern_planes_at *w,
                            int64_t row, int64_t n, const void *xp)
{
    (void)type;
    const float *x = xp;
    const size_t stride = (size_t)apart * w->coarse_stride;
    const uint8_t *at = w->coarse + (size_t)row * w->coarse_stride;
    const __m512i rest = _mm512_set1_epi16((short)PLANE_REST);
    const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
    __m512 s[4][4];
    for (int r = 0; r < R; r++)
        for (int i = 0; i < 4; i++) s[r][i] = _mm512_setzero_ps();
    for (int64_t k = 0; k < n; k += STEP, at += STEP) {
        __m512 x0 = _mm512_load_ps(x + k), x1 = _mm512_load_ps(x + k + 16);
        __m512 x2 = _mm512_load_ps(x + k + 32), x3 = _mm512_load_ps(x + k + 48);
        for (int r = 0; r < R; r++) {
            const uint8_t *c = at + (size_t)r * stride;
            _mm_prefetch((const char *)c + NEAR, _MM_HINT_T0);
            _mm_prefetch((const char *)c + FAR, _MM_HINT_T1);
            __m512i even, odd;
            bytes_to_words(&even, &odd, up_load(c), PLANE_SHIFT);
            even = and_or(even, PLANE_MASK, rest);
            odd = and_or(odd, PLANE_MASK, rest);
            __m512 v0 = _mm512_castsi512_ps(_mm512_slli_epi32(even, 16));
            __m512 v1 = _mm512_castsi512_ps(_mm512_slli_epi32(odd, 16));
            __m512 v2 = _mm512_castsi512_ps(_mm512_and_si512(even, upper));
            __m512 v3 = _mm512_castsi512_ps(_mm512_and_si512(odd, upper));
            s[r][0] = _mm512_fmadd_ps(v0, x0, s[r][0]);
            s[r][1] = _mm512_fmadd_ps(v1, x1, s[r][1]);
            s[r][2] = _mm512_fmadd_ps(v2, x2, s[r][2]);
            s[r][3] = _mm512_fmadd_ps(v3, x3, s[r][3]);
        }
    }
    for (int r = 0; r < R; r++) z[r * apart] = across(s[r]) * w->rows[row + r * apart].unit;
}

/* 32 words of 16 bits: c the coarse byte's 7 bits, sign bit 15 that of the word, fine the fine byte. What
 * lies below the octaves counts down from the base instead of up; there is some in most 64 values, so a
 * branch would be a guess. */
UP_INLINE __m512i words_of(enum dtype type, __m512i c, __m512i sign, __m512i fine, __m512i base)
{
    const int n = type == DT_F16 ? 64 : 8;
    const __m512i slots = _mm512_set1_epi16((short)n);
    __mmask32 low = _mm512_cmpge_epi16_mask(fine, slots);
    __m512i step = _mm512_mask_mov_epi16(slots, low, _mm512_set1_epi16((short)(n - 256)));
    __m512i rest = _mm512_mask_sub_epi16(fine, low, slots, fine);
    __m512i v = _mm512_add_epi16(_mm512_add_epi16(_mm512_mullo_epi16(c, step), rest), base);
    /* rank 0 is zero */
    v = _mm512_mask_mov_epi16(v, _mm512_mask_cmpeq_epi16_mask(low, v, base), _mm512_setzero_si512());
    return _mm512_ternarylogic_epi32(_mm512_set1_epi16((short)0x8000), sign, v, 0xca);
}

/* The 64 values at coarse and fine byte as floats, in order. */
UP_INLINE void values_of(enum dtype type, __m512 v[4], const uint8_t *coarse, const uint8_t *fine,
                         __m512i base)
{
    const __m512i seven = _mm512_set1_epi16(0x7f), byte = _mm512_set1_epi16(0xff);
    __m512i c = up_load(coarse), f = up_load(fine);
    __m512i even =
        words_of(type, _mm512_and_si512(c, seven), _mm512_slli_epi16(c, 8), _mm512_and_si512(f, byte), base);
    __m512i odd =
        words_of(type, _mm512_and_si512(_mm512_srli_epi16(c, 8), seven), c, _mm512_srli_epi16(f, 8), base);
    if (type == DT_BF16) {
        const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
        v[0] = _mm512_castsi512_ps(_mm512_slli_epi32(even, 16));
        v[1] = _mm512_castsi512_ps(_mm512_slli_epi32(odd, 16));
        v[2] = _mm512_castsi512_ps(_mm512_and_si512(even, upper));
        v[3] = _mm512_castsi512_ps(_mm512_and_si512(odd, upper));
        return;
    }
    const __m512i lower = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30,
                                           28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i a = _mm512_permutex2var_epi16(even, lower, odd);
    __m512i b = _mm512_permutex2var_epi16(even, _mm512_add_epi16(lower, _mm512_set1_epi16(1)), odd);
    v[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(a));
    v[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(a, 1));
    v[2] = _mm512_cvtph_ps(_mm512_castsi512_si256(b));
    v[3] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(b, 1));
}

/* R listed rows in the order of additions of dot_rows (mv_floats.c). Padding of x is zero. The fine bytes at
 * next[r] are asked for on the way: listed rows lie apart, and no hardware prefetcher knows of the next one.
 */
UP_INLINE void exact_words(enum dtype type, int R, float *y, const struct kern_planes_at *w,
                           const size_t *row, const uint8_t *const *next, int64_t n, const float *x)
{
    __m512 s[2][4];
    __m512i base[2];
    for (int r = 0; r < R; r++) {
        base[r] = _mm512_set1_epi16((short)w->rows[row[r]].base);
        for (int i = 0; i < 4; i++) s[r][i] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < n; k += STEP)
        for (int r = 0; r < R; r++) {
            __m512 v[4];
            _mm_prefetch((const char *)next[r] + k, _MM_HINT_T0);
            values_of(type, v, w->coarse + row[r] * w->coarse_stride + k,
                      w->fine + row[r] * w->fine_stride + k, base[r]);
            for (int i = 0; i < 4; i++)
                s[r][i] = _mm512_fmadd_ps(v[i], _mm512_load_ps(x + k + 16 * i), s[r][i]);
        }
    for (int r = 0; r < R; r++) y[r] = across(s[r]);
}

UP_INLINE void listed_words(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                            const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    (void)scratch;
    for (int64_t i = 0; i < 2 && i < count; i++) plane_fetch(plane_fine(w, first, list, count, i), (size_t)n);
    for (int64_t i = 0, some; i < count; i += some) {
        const uint8_t *next[2];
        size_t row[2];
        some = count - i < 2 ? 1 : 2;
        for (int64_t j = 0; j < some; j++) {
            row[j] = (size_t)first + list[i + j];
            next[j] = plane_fine(w, first, list, count, i + j + 2);
        }
        if (some == 2)
            exact_words(type, 2, y + i, w, row, next, n, xp);
        else
            exact_words(type, 1, y + i, w, row, next, n, xp);
    }
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

/* R listed rows, their pieces as up_quants and up_scales make them of the file's rows and in the order of
 * dot_rows (mv_blocks.c). Absent blocks have the scale 0 and meet zeros. */
UP_INLINE void exact_blocks(int R, float *y, const uint8_t *const coarse[], const uint8_t *const fine[],
                            const uint8_t *const next[], int64_t n, const struct xq *x)
{
    const __m512i high = _mm512_set1_epi8((char)0xf0);
    int64_t np = pieces(n);
    struct sums s[4];
    __m512i q[4];
    for (int r = 0; r < R; r++) s[r].dot = s[r].low = _mm512_setzero_ps();
    for (int64_t p = 0; p < np; p++)
        for (int r = 0; r < R; r++) {
            const uint8_t *c = coarse[r] + p * 8 * 18, *f = fine[r] + p * 8 * 16;
            uint8_t part[8 * 18 + 8 * 16] = {0};
            int64_t blocks = n / 32 - 8 * p;
            if (blocks < 8) {
                for (int b = 0; b < 8; b++)
                    memset(part + 18 * b + 2, 0x88, 16); /* zeros in the file's form */
                memcpy(part, c, (size_t)blocks * 18);
                memcpy(part + 8 * 18, f, (size_t)blocks * 16);
                c = part;
                f = part + 8 * 18;
            }
            plane_fetch(next[r] + p * 8 * 16, 8 * 16);
            __m512i h[2], l0 = up_load(f), l1 = up_load(f + 64);
            up_words18(h, c);
            for (int g = 0; g < 2; g++) { /* blocks g, g + 2 … : four high and four low bits of a value */
                __m512i l = g ? _mm512_shuffle_i64x2(l0, l1, 0xdd) : _mm512_shuffle_i64x2(l0, l1, 0x88);
                q[2 * g] = _mm512_ternarylogic_epi32(high, _mm512_slli_epi16(h[g], 4), l, 0xca);
                q[2 * g + 1] = _mm512_ternarylogic_epi32(high, h[g], _mm512_srli_epi16(l, 4), 0xca);
            }
            add_piece(DT_Q8_0, &s[r], q, up_scales(DT_Q4_0, c), x + p);
        }
    for (int r = 0; r < R; r++) y[r] = total(DT_Q8_0, s[r], up_minimum(DT_Q8_0));
}

UP_INLINE void listed_blocks(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                             const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    (void)type;
    (void)scratch;
    for (int64_t i = 0; i < 4 && i < count; i++)
        plane_fetch(plane_fine(w, first, list, count, i), (size_t)n / 2);
    for (int64_t i = 0, some; i < count; i += some) {
        const uint8_t *coarse[4], *fine[4], *next[4];
        some = count - i < 4 ? 1 : 4;
        for (int64_t j = 0; j < some; j++) {
            coarse[j] = w->coarse + ((size_t)first + list[i + j]) * w->coarse_stride;
            fine[j] = w->fine + ((size_t)first + list[i + j]) * w->fine_stride;
            next[j] = plane_fine(w, first, list, count, i + j + 4);
        }
        if (some == 4)
            exact_blocks(4, y + i, coarse, fine, next, n, xp);
        else
            exact_blocks(1, y + i, coarse, fine, next, n, xp);
    }
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

static size_t plane_scratch_bytes(int64_t n)
{
    (void)n;
    return 0;
}

DEFINE_PLANES(F16, coarse_words, listed_words, float_values)
DEFINE_PLANES(BF16, coarse_words, listed_words, float_values)
DEFINE_PLANES(Q8_0, coarse_blocks, listed_blocks, block_values)

void avx512_mv_planes(struct kern_ops *ops)
{
    ops->planes[DT_F16] = &planes_F16;
    ops->planes[DT_BF16] = &planes_BF16;
    ops->planes[DT_Q8_0] = &planes_Q8_0;
}
