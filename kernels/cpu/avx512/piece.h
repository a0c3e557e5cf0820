/* Private to kernels/cpu/avx512: a prepared token of the products with int8 activations, and how one piece of
 * a row (unpack.h) meets one piece of it. Used by the rows of files (mv_blocks.c) and by rows in two planes
 * (planes.c). */
#ifndef KERNELS_CPU_AVX512_PIECE_H
#define KERNELS_CPU_AVX512_PIECE_H

#include "kernels/cpu/avx512/unpack.h"

/* One piece of a prepared token. */
struct xq {
    int8_t q[UP_PIECE]; /* piece order */
    float d[8];         /* scale of block b */
    float s[8];         /* d · sum of block b's quants */
    float s16[16];      /* the same for half h of block b at 2b + h */
};

static inline int64_t pieces(int64_t n)
{
    return (n + UP_PIECE - 1) / UP_PIECE;
}

/* Running sums of one row with one token. */
struct sums {
    __m512 dot; /* Σ scale · integer products */
    __m512 low; /* Σ minimum · activation sums, in the upper half (everywhere for fine types) */
};

UP_INLINE __m512i lanes_of(int a, int b, int c, int d)
{
    return _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
}

UP_INLINE __m512i dot8(__m512i acc, __m512i w, const int8_t *x)
{
    return _mm512_dpbusd_epi32(acc, w, _mm512_loadu_si512((const void *)x));
}

UP_INLINE void add_piece(enum dtype type, struct sums *s, const __m512i q[4], __m512 scales,
                         const struct xq *x)
{
    __m512 xd = _mm512_loadu_ps(x->d); /* d and s */
    __m512i zero = _mm512_setzero_si512();
    if (up_fine(type)) {
        __m512i each = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        __m512 p = _mm512_mul_ps(scales, _mm512_permutexvar_ps(each, xd));
        for (int i = 0; i < 4; i++) {
            int f = 2 * (i / 2) + i % 2;
            __m512 v = _mm512_cvtepi32_ps(dot8(zero, q[i], x->q + 64 * i));
            s->dot = _mm512_fmadd_ps(v, _mm512_permutexvar_ps(lanes_of(f, f + 4, f + 8, f + 12), p), s->dot);
        }
        s->low = _mm512_fmadd_ps(scales, _mm512_loadu_ps(x->s16), s->low);
    } else {
        __m512 p = _mm512_mul_ps(scales, xd);
        for (int g = 0; g < 2; g++) {
            __m512i v = dot8(dot8(zero, q[2 * g], x->q + 128 * g), q[2 * g + 1], x->q + 128 * g + 64);
            s->dot = _mm512_fmadd_ps(_mm512_cvtepi32_ps(v),
                                     _mm512_permutexvar_ps(lanes_of(g, g + 2, g + 4, g + 6), p), s->dot);
        }
        s->low = _mm512_add_ps(s->low, p);
    }
}

/* minimum: up_minimum(type), or another where the same quants stand for other values. */
UP_INLINE float total(enum dtype type, struct sums s, float minimum)
{
    __mmask16 k = up_fine(type) ? 0xffff : 0xff00;
    __m512 v = _mm512_mask3_fmadd_ps(s.low, _mm512_set1_ps(minimum), s.dot, k);
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

#endif
