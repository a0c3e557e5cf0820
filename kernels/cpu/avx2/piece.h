/* Private to kernels/cpu/avx2: a prepared token of the products with int8 activations, and how one piece of
 * a row (unpack.h) meets one piece of it. Used by the rows of files (mv_blocks.c) and by rows in two planes
 * (planes.c). */
#ifndef KERNELS_CPU_AVX2_PIECE_H
#define KERNELS_CPU_AVX2_PIECE_H

#include "kernels/cpu/avx2/unpack.h"

/* One piece of a prepared token. */
struct xq {
    int8_t q[UP_PIECE]; /* piece order, −127 … 127 */
    float d[8];         /* scale of block b */
    float s[8];         /* d · sum of block b's quants */
    float s16[2][8];    /* the same for each half of block b */
};

static inline int64_t pieces(int64_t n)
{
    return (n + UP_PIECE - 1) / UP_PIECE;
}

/* Running sums of one row with one token. */
struct sums {
    __m256 dot; /* Σ scale · integer products */
    __m256 low; /* Σ minimum · activation sums */
};

/* acc + products of bytes, four to a 32-bit sum. */
UP_INLINE __m256i dot8(enum dtype type, __m256i acc, __m256i w, const int8_t *xp)
{
    __m256i x = _mm256_load_si256((const __m256i *)(const void *)xp);
    if (up_signed(type)) { /* |w| · (x with w's sign): the instructions want one side unsigned */
        x = _mm256_sign_epi8(x, w);
        w = _mm256_abs_epi8(w);
    }
#ifdef __AVXVNNI__
    return _mm256_dpbusd_avx_epi32(acc, w, x);
#else
    /* pairs reach 2·128·127 at most: no saturation */
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
#endif
}

/* The same for two vectors that share their scales. */
UP_INLINE __m256i dot8_two(enum dtype type, const __m256i w[2], const int8_t *x)
{
#ifndef __AVXVNNI__
    if (!up_signed(type)) { /* quants below 32: the sum of two products of pairs still fits 16 bits */
        __m256i a = _mm256_maddubs_epi16(w[0], _mm256_load_si256((const __m256i *)(const void *)x));
        __m256i b = _mm256_maddubs_epi16(w[1], _mm256_load_si256((const __m256i *)(const void *)(x + 32)));
        return _mm256_madd_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(1));
    }
#endif
    return dot8(type, dot8(type, _mm256_setzero_si256(), w[0], x), w[1], x + 32);
}

/* The scales of blocks i and i+4 in their lanes. */
UP_INLINE __m256 lanes(__m256 v, int i)
{
    switch (i) {
    case 0: return _mm256_permute_ps(v, 0x00);
    case 1: return _mm256_permute_ps(v, 0x55);
    case 2: return _mm256_permute_ps(v, 0xaa);
    default: return _mm256_permute_ps(v, 0xff);
    }
}

UP_INLINE void add_piece(enum dtype type, struct sums *s, const __m256i q[8], struct up_scale w,
                         const struct xq *x)
{
    __m256 d = _mm256_load_ps(x->d), p = _mm256_mul_ps(w.scale, d);
    if (up_fine(type)) {
        __m256 p1 = _mm256_mul_ps(w.low, d);
        for (int i = 0; i < 8; i++) {
            __m256 v = _mm256_cvtepi32_ps(dot8(type, _mm256_setzero_si256(), q[i], x->q + 32 * i));
            s->dot = _mm256_fmadd_ps(v, lanes(i % 2 ? p1 : p, i / 2), s->dot);
        }
        s->low = _mm256_fmadd_ps(w.scale, _mm256_load_ps(x->s16[0]), s->low);
        s->low = _mm256_fmadd_ps(w.low, _mm256_load_ps(x->s16[1]), s->low);
    } else {
        for (int i = 0; i < 4; i++) {
            __m256 v = _mm256_cvtepi32_ps(dot8_two(type, q + 2 * i, x->q + 64 * i));
            s->dot = _mm256_fmadd_ps(v, lanes(p, i), s->dot);
        }
        if (!up_signed(type)) s->low = _mm256_fmadd_ps(w.low, _mm256_load_ps(x->s), s->low);
    }
}

/* minimum: up_minimum(type), or another where the same quants stand for other values. */
UP_INLINE float total(enum dtype type, struct sums s, float minimum)
{
    __m256 v = up_signed(type) ? s.dot : _mm256_fmadd_ps(s.low, _mm256_set1_ps(minimum), s.dot);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

#endif
