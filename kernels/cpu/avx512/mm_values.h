/* Rows of each type, and tokens, to 16-bit integers with AVX-512: the amx tier takes its integers from here
 * too. */
#ifndef KERNELS_CPU_AVX512_MM_VALUES_H
#define KERNELS_CPU_AVX512_MM_VALUES_H

#include "kernels/cpu/avx512/unpack.h"
#include "kernels/cpu/mm16_values.h"

/* ---- Rows to integers
 * ------------------------------------------------------------------------------------ */
/* The order of unpack.h: at 4·(2g + h) + lane stands half h of block g + 2·lane. */
static const uint8_t order[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};

UP_INLINE __m512i magnitude(__m512 v)
{
    return _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
}

/* 16 values at index i of a float row, as many as the mask says. */
UP_INLINE __m512 load_float(enum dtype type, const uint8_t *src, int64_t i, __mmask16 m)
{
    if (type == DT_F32) return _mm512_maskz_loadu_ps(m, src + i * 4);
    __m256i h = _mm256_maskz_loadu_epi16(m, src + i * 2);
    if (type == DT_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

UP_INLINE __mmask16 mask_of(int64_t i, int64_t values)
{
    return i + 16 <= values ? 0xffff : i >= values ? 0 : (__mmask16)((1u << (values - i)) - 1);
}

UP_INLINE float quantise_float(enum dtype type, float norm, int16_t *dst, const uint8_t *src, int64_t values)
{
    __m512i most = _mm512_setzero_si512();
    __m512 squares[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < MM16_CHUNK; i += 16) {
        __m512 v = load_float(type, src, i, mask_of(i, values));
        most = _mm512_max_epu32(most, magnitude(v));
        squares[i / 16 % 2] = _mm512_fmadd_ps(v, v, squares[i / 16 % 2]);
    }
    float back, f = mm16_factor(_mm512_reduce_max_epu32(most),
                                _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])), norm, &back);
    __m512 fv = _mm512_set1_ps(f);
    const __m512i join = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    for (int p = 0; p < MM16_CHUNK; p += MM16_PIECE)
        for (int j = 0; j < 16; j += 2) {
            int i0 = p + 16 * order[j], i1 = p + 16 * order[j + 1];
            __m512 a = load_float(type, src, i0, mask_of(i0, values));
            __m512 b = load_float(type, src, i1, mask_of(i1, values));
            __m512i q = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(a, fv)),
                                           _mm512_cvtps_epi32(_mm512_mul_ps(b, fv)));
            if (f == 0) q = _mm512_setzero_si512(); /* 0 · infinity */
            _mm512_store_si512(dst + p + 16 * j, _mm512_permutexvar_epi64(join, q));
        }
    return back;
}

/* Bits of the magnitude of a value before its scale: |q − zero| ≤ 2^bits, or q < 2^bits for types with
 * minima. */
UP_INLINE int bits_of(enum dtype type)
{
    switch (type) {
    case DT_Q4_0: return 3;
    case DT_Q6_K:
    case DT_Q5_1:
    case DT_Q5_K: return 5;
    case DT_Q8_0:
    case DT_IQ4_NL: return 7;
    default: return 4; /* Q4_1, Q4_K, Q5_0 */
    }
}

UP_INLINE bool has_minima(enum dtype type)
{
    return type == DT_Q4_1 || type == DT_Q5_1 || type == DT_Q4_K || type == DT_Q5_K;
}

/* An upper bound of the magnitudes of each 16 values (in any order) from a piece's scales. */
UP_INLINE __m512 bound_of(enum dtype type, __m512 scales)
{
    float most = (float)(1 << bits_of(type));
    if (!has_minima(type)) return _mm512_mul_ps(scales, _mm512_set1_ps(most));
    __m512 d = _mm512_shuffle_f32x4(scales, scales, 0x44), m = _mm512_shuffle_f32x4(scales, scales, 0xee);
    m = _mm512_mul_ps(m, _mm512_set1_ps(up_minimum(type)));
    __m512 top = _mm512_fmadd_ps(d, _mm512_set1_ps(most - 1), m);
    /* The third keeps the multiplier d·most of mulhrs within 16 bits. */
    __m512i a = _mm512_max_epu32(magnitude(top), magnitude(m));
    return _mm512_castsi512_ps(
        _mm512_max_epu32(a, magnitude(_mm512_mul_ps(d, _mm512_set1_ps(most * 0.51f)))));
}

/* Values of one piece: mulhrs(q·2^(15 − bits), d·2^bits·f) = d·q·f, rounded. */
UP_INLINE void quantise_piece(enum dtype type, int16_t *dst, const uint8_t *w, __m512 scales, float f)
{
    const int bits = bits_of(type);
    const float d = f * (float)(1 << bits), m = f * up_minimum(type);
    __m512 factors =
        has_minima(type) ? _mm512_setr_ps(d, d, d, d, d, d, d, d, m, m, m, m, m, m, m, m) : _mm512_set1_ps(d);
    __m512i k =
        _mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(scales, factors))));
    __m512i q[4];
    up_quants(type, q, w);
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++) {
            __m512i v = _mm512_cvtepu8_epi16(half ? _mm512_extracti64x4_epi64(q[i], 1)
                                                  : _mm512_castsi512_si256(q[i]));
            /* the blocks of two lanes: g + 4·half and 2 more */
            int first = i / 2 + 4 * half, a = up_fine(type) ? 2 * first + i % 2 : first,
                b = a + (up_fine(type) ? 4 : 2);
            __m512i at = _mm512_inserti64x4(_mm512_set1_epi16((short)a), _mm256_set1_epi16((short)b), 1);
            if (!has_minima(type)) v = _mm512_sub_epi16(v, _mm512_set1_epi16((short)-up_minimum(type)));
            v = _mm512_mulhrs_epi16(_mm512_slli_epi16(v, (unsigned)(15 - bits)),
                                    _mm512_permutexvar_epi16(at, k));
            if (has_minima(type))
                v = _mm512_add_epi16(v,
                                     _mm512_permutexvar_epi16(_mm512_add_epi16(at, _mm512_set1_epi16(8)), k));
            _mm512_store_si512(dst + 64 * i + 32 * half, v);
        }
}

UP_INLINE float quantise_blocks(enum dtype type, int16_t *dst, const uint8_t *src, int64_t values)
{
    uint8_t whole[2][320]; /* a piece that the row cuts off, filled up with zeroes: a scale of 0 */
    const uint8_t *w[2] = {src, src + up_bytes(type)};
    int pieces = 2;
    if (values < MM16_CHUNK) {
        size_t bytes = up_bytes(type) * (size_t)values / MM16_PIECE, at = 0;
        pieces = values > MM16_PIECE ? 2 : 1;
        for (int p = 0; p < pieces; p++) {
            size_t have = bytes - at < up_bytes(type) ? bytes - at : up_bytes(type);
            memset(whole[p], 0, sizeof whole[p]);
            memcpy(whole[p], src + at, have);
            w[p] = whole[p];
            at += have;
        }
    }
    __m512 scales[2] = {up_scales(type, w[0]), _mm512_setzero_ps()};
    if (pieces > 1) scales[1] = up_scales(type, w[1]);
    __m512 a = bound_of(type, scales[0]), b = bound_of(type, scales[1]);
    __m512 squares = _mm512_fmadd_ps(a, a, _mm512_mul_ps(b, b));
    float back, f = mm16_factor(_mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(a), magnitude(b))),
                                16 * _mm512_reduce_add_ps(squares), MM16_NORM_W, &back);
    if (f == 0) {
        memset(dst, 0, MM16_CHUNK * sizeof *dst);
        return back;
    }
    quantise_piece(type, dst, w[0], scales[0], f);
    if (pieces > 1)
        quantise_piece(type, dst + MM16_PIECE, w[1], scales[1], f);
    else
        memset(dst + MM16_PIECE, 0, MM16_PIECE * sizeof *dst);
    return back;
}

#endif
