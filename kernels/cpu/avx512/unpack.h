/* Row primitives of AVX-512 (F, BW, DQ, VL, VNNI): one piece of 256 packed values to unsigned bytes plus the
 * scales that belong to them. Everything that reads quantised rows here (products of one token or many,
 * gathers, sums of rows) is instantiated from these functions, so that a type is described once.
 *
 * The piece order. A piece is 8 blocks of 32 values. The vector q[2*g + h] (g, h in {0, 1}) holds in its four
 * 128-bit lanes the half h (values 16h … 16h+15) of blocks g, g+2, g+4, g+6. Every format reaches this order
 * with few shuffles, and a 128-bit lane never mixes two scales: an integer dot product leaves one scale a
 * lane.
 *
 * value = d[b]·(q − zero) for types with a zero point, d[b]·q + m[b] for types with minima. up_scales returns
 * (d[0] … d[7], m[0] … m[7]), up_minimum says what the second half stands for: value = d·q + up_minimum·m, so
 * that m = d where the type has a zero point (up_minimum = −zero). Q6_K has a scale each 16 values: up_scales
 * returns d for half h of block b at 2b + h, and up_minimum is −32.
 *
 * `type` is a constant at every call: all switches vanish. */
#ifndef KERNELS_CPU_AVX512_UNPACK_H
#define KERNELS_CPU_AVX512_UNPACK_H

#include "base/dtype.h"

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Under sanitizers the checks make inlined code so large that compiling it takes minutes, and nobody times
 * it. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define UP_INLINE static inline
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UP_INLINE static inline
#endif
#endif
#ifndef UP_INLINE
#define UP_INLINE static inline __attribute__((always_inline))
#endif

enum { UP_PIECE = 256 };

/* Bytes of a piece (8 blocks of 32 or one of 256). */
UP_INLINE size_t up_bytes(enum dtype type)
{
    switch (type) {
    case DT_Q4_0:
    case DT_IQ4_NL: return 8 * 18;
    case DT_Q4_1: return 8 * 20;
    case DT_Q5_0: return 8 * 22;
    case DT_Q5_1: return 8 * 24;
    case DT_Q8_0: return 8 * 34;
    case DT_Q4_K: return 144;
    case DT_Q5_K: return 176;
    case DT_Q6_K: return 210;
    default: return 0;
    }
}

/* One scale each 16 values, in up_scales's order 2b + h. */
UP_INLINE bool up_fine(enum dtype type)
{
    return type == DT_Q6_K;
}

UP_INLINE float up_minimum(enum dtype type)
{
    switch (type) {
    case DT_Q4_0: return -8;
    case DT_Q5_0: return -16;
    case DT_Q6_K: return -32;
    case DT_Q8_0:
    case DT_IQ4_NL: return -128;
    case DT_Q4_K:
    case DT_Q5_K: return -1;
    default: return 1; /* Q4_1, Q5_1 */
    }
}

UP_INLINE __m512i up_load(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

UP_INLINE __m128i up_load16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* 16 bytes each from p, p+step, p+2step, p+3step. */
UP_INLINE __m512i up_load_lanes(const uint8_t *p, size_t step)
{
    __m512i v = _mm512_castsi128_si512(up_load16(p));
    v = _mm512_inserti32x4(v, up_load16(p + step), 1);
    v = _mm512_inserti32x4(v, up_load16(p + 2 * step), 2);
    return _mm512_inserti32x4(v, up_load16(p + 3 * step), 3);
}

UP_INLINE __m512i up_low(__m512i v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

UP_INLINE __m512i up_high(__m512i v)
{
    return up_low(_mm512_srli_epi16(v, 4));
}

/* (a & low) | (b & mask − low), low ⊂ mask. */
UP_INLINE __m512i up_join(__m512i a, __m512i b, char low, char mask)
{
    __m512i v = _mm512_ternarylogic_epi32(_mm512_set1_epi8(low), a, b, 0xca);
    return _mm512_and_si512(v, _mm512_set1_epi8(mask));
}

/* A shift or rotation count for each 128-bit lane. */
UP_INLINE __m512i up_counts(int a, int b, int c, int d)
{
    return _mm512_set_epi32(d, d, d, d, c, c, c, c, b, b, b, b, a, a, a, a);
}

/* Blocks of 32 with nibbles: low nibbles are values 0 … 15, high ones 16 … 31. */
UP_INLINE void up_nibbles32(__m512i q[4], const uint8_t *quants, size_t block)
{
    __m512i p0 = up_load_lanes(quants, 2 * block), p1 = up_load_lanes(quants + block, 2 * block);
    q[0] = up_low(p0), q[1] = up_high(p0), q[2] = up_low(p1), q[3] = up_high(p1);
}

/* Blocks of 18 bytes that begin with a scale (Q4_0, IQ4_NL): the 16 bytes of blocks g, g+2, g+4, g+6. All but
 * the last one's words lie in two vectors. The last 16 bytes are a load of their own: nothing behind the
 * piece is touched. */
UP_INLINE void up_words18(__m512i p[2], const uint8_t *w)
{
    const __m512i even = _mm512_set_epi16(62, 61, 60, 59, 58, 57, 56, 55, 44, 43, 42, 41, 40, 39, 38, 37, 26,
                                          25, 24, 23, 22, 21, 20, 19, 8, 7, 6, 5, 4, 3, 2, 1);
    const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(9));
    __m512i a = up_load(w), b = up_load(w + 64);
    p[0] = _mm512_permutex2var_epi16(a, even, b);
    p[1] = _mm512_inserti32x4(_mm512_permutex2var_epi16(a, odd, b), up_load16(w + 128), 3);
}

UP_INLINE void up_nibbles18(__m512i q[4], const uint8_t *w)
{
    __m512i p[2];
    up_words18(p, w);
    q[0] = up_low(p[0]), q[1] = up_high(p[0]), q[2] = up_low(p[1]), q[3] = up_high(p[1]);
}

/* Fifth bits of 8 blocks of 32: bit i of the block's 32-bit word belongs to value i. */
UP_INLINE void up_fifth32(__m512i q[4], const uint8_t *words, size_t block)
{
    for (int g = 0; g < 2; g++)
        for (int h = 0; h < 2; h++) {
            uint64_t mask = 0;
            for (int lane = 0; lane < 4; lane++) {
                uint16_t bits;
                memcpy(&bits, words + (size_t)(g + 2 * lane) * block + 2 * (size_t)h, 2);
                mask |= (uint64_t)bits << (16 * lane);
            }
            int i = 2 * g + h; /* the fifth bit is clear: adding sets it */
            q[i] = _mm512_mask_add_epi8(q[i], _cvtu64_mask64(mask), q[i], _mm512_set1_epi8(16));
        }
}

/* Nibbles of Q4_K and Q5_K: 32 bytes hold block 2c in the low and block 2c+1 in the high nibbles. */
UP_INLINE void up_nibbles_k(__m512i q[4], const uint8_t *quants)
{
    __m512i z0 = up_load(quants), z1 = up_load(quants + 64);
    __m512i h0 = _mm512_shuffle_i64x2(z0, z1, 0x88), h1 = _mm512_shuffle_i64x2(z0, z1, 0xdd);
    q[0] = up_low(h0), q[1] = up_low(h1), q[2] = up_high(h0), q[3] = up_high(h1);
}

UP_INLINE void up_quants(enum dtype type, __m512i q[4], const uint8_t *w)
{
    switch (type) {
    case DT_Q4_0: up_nibbles18(q, w); break;
    case DT_Q4_1: up_nibbles32(q, w + 4, 20); break;
    case DT_Q5_0:
        up_nibbles32(q, w + 6, 22);
        up_fifth32(q, w + 2, 22);
        break;
    case DT_Q5_1:
        up_nibbles32(q, w + 8, 24);
        up_fifth32(q, w + 4, 24);
        break;
    case DT_IQ4_NL: { /* the format's 16 levels, + 128 */
        __m512i levels = _mm512_broadcast_i32x4(_mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129,
                                                              (char)141, (char)153, (char)166, (char)181,
                                                              (char)197, (char)217, (char)241));
        up_nibbles18(q, w);
        for (int i = 0; i < 4; i++) q[i] = _mm512_shuffle_epi8(levels, q[i]);
        break;
    }
    case DT_Q8_0:
        for (size_t i = 0; i < 4; i++)
            q[i] = _mm512_xor_si512(up_load_lanes(w + 2 + 34 * (i / 2) + 16 * (i % 2), 68),
                                    _mm512_set1_epi8((char)0x80));
        break;
    case DT_Q4_K: up_nibbles_k(q, w + 16); break;
    case DT_Q5_K: { /* bit j of byte l: block j, value l. Rotate it to bit 4. */
        __m512i even = up_counts(4, 2, 0, 30), odd = up_counts(3, 1, 31, 29);
        __m512i z0 = up_load(w + 48), z1 = up_load(w + 112);
        for (int h = 0; h < 2; h++) {
            __m512i p = h ? _mm512_shuffle_i64x2(z0, z1, 0xdd) : _mm512_shuffle_i64x2(z0, z1, 0x88);
            __m512i bits = _mm512_broadcast_i32x4(up_load16(w + 16 + 16 * h));
            q[h] = up_join(p, _mm512_rolv_epi32(bits, even), 15, 31);
            q[2 + h] = up_join(_mm512_srli_epi16(p, 4), _mm512_rolv_epi32(bits, odd), 15, 31);
        }
        break;
    }
    case DT_Q6_K: { /* each 128 values: 64 bytes of low nibbles, 32 bytes of four 2-bit fields */
        __m512i z0 = up_load(w), z1 = up_load(w + 64), bits = up_load(w + 128);
        __m512i shift = up_counts(0, 4, 0, 4), even = up_counts(4, 0, 4, 0), odd = up_counts(2, 30, 2, 30);
        __m512i b0 = _mm512_shuffle_i64x2(bits, bits, 0xa0), b1 = _mm512_shuffle_i64x2(bits, bits, 0xf5);
        q[0] = up_join(_mm512_srlv_epi32(_mm512_shuffle_i64x2(z0, z1, 0x00), shift),
                       _mm512_rolv_epi32(b0, even), 15, 63);
        q[1] = up_join(_mm512_srlv_epi32(_mm512_shuffle_i64x2(z0, z1, 0x55), shift),
                       _mm512_rolv_epi32(b1, even), 15, 63);
        q[2] = up_join(_mm512_srlv_epi32(_mm512_shuffle_i64x2(z0, z1, 0xaa), shift),
                       _mm512_rolv_epi32(b0, odd), 15, 63);
        q[3] = up_join(_mm512_srlv_epi32(_mm512_shuffle_i64x2(z0, z1, 0xff), shift),
                       _mm512_rolv_epi32(b1, odd), 15, 63);
        break;
    }
    default: break;
    }
}

/* The 32-bit words at the start of 8 blocks of `block` bytes. Word i of a load at i·(block − 4) is the start
 * of block i, so eight loads are blended and no byte outside the piece is touched. */
UP_INLINE __m256i up_heads(const uint8_t *w, size_t block)
{
    size_t s = block - 4;
#define UP_AT(i) _mm256_loadu_si256((const __m256i *)(const void *)(w + (i)*s))
    __m256i a = _mm256_blend_epi32(UP_AT(0), UP_AT(1), 0x02),
            b = _mm256_blend_epi32(UP_AT(2), UP_AT(3), 0x08);
    __m256i c = _mm256_blend_epi32(UP_AT(4), UP_AT(5), 0x20),
            d = _mm256_blend_epi32(UP_AT(6), UP_AT(7), 0x80);
#undef UP_AT
    return _mm256_blend_epi32(_mm256_blend_epi32(a, b, 0x0c), _mm256_blend_epi32(c, d, 0xc0), 0xf0);
}

/* 8 six-bit scales and 8 six-bit minima of the K types from 12 bytes, as bytes. */
UP_INLINE __m128i up_six(const uint8_t *p)
{
    uint64_t ab;
    uint32_t c;
    memcpy(&ab, p, 8);
    memcpy(&c, p + 8, 4);
    uint64_t low = ab & 0x3f3f3f3f3f3f3f3f;
    uint64_t high = ((uint64_t)(c & 0x0f0f0f0f) | (uint64_t)((c >> 4) & 0x0f0f0f0f) << 32) |
                    ((ab >> 2) & 0x3030303030303030);
    return _mm_unpacklo_epi32(_mm_cvtsi64_si128((long long)low), _mm_cvtsi64_si128((long long)high));
}

UP_INLINE __m512 up_scales(enum dtype type, const uint8_t *w)
{
    const __m256i twice = _mm256_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
    switch (type) {
    case DT_Q4_0:
    case DT_IQ4_NL: { /* all 8 scales lie in the first 128 bytes */
        const __m512i at = _mm512_castsi256_si512(
            _mm256_setr_epi16(0, 9, 18, 27, 36, 45, 54, 63, 0, 9, 18, 27, 36, 45, 54, 63));
        __m512i s = _mm512_permutex2var_epi16(up_load(w), at, up_load(w + 64));
        return _mm512_cvtph_ps(_mm512_castsi512_si256(s));
    }
    case DT_Q5_0: return _mm512_cvtph_ps(_mm256_permutexvar_epi16(twice, up_heads(w, 22)));
    case DT_Q8_0: return _mm512_cvtph_ps(_mm256_permutexvar_epi16(twice, up_heads(w, 34)));
    case DT_Q4_1:
    case DT_Q5_1: {
        const __m256i apart = _mm256_setr_epi16(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        return _mm512_cvtph_ps(_mm256_permutexvar_epi16(apart, up_heads(w, type == DT_Q4_1 ? 20 : 24)));
    }
    case DT_Q4_K:
    case DT_Q5_K: {
        const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        uint32_t pair;
        memcpy(&pair, w, 4);
        __m512 d = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi32_si128((int)pair)));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(up_six(w + 4))),
                             _mm512_permutexvar_ps(which, d));
    }
    case DT_Q6_K: {
        uint16_t half;
        memcpy(&half, w + 208, 2);
        __m512 d = _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(up_load16(w + 192))), d);
    }
    default: return _mm512_setzero_ps();
    }
}

/* Bytes of a value of the unpacked types. */
UP_INLINE size_t up_float_bytes(enum dtype type)
{
    return type == DT_F32 ? 4 : 2;
}

/* 16 values of F32, F16 or BF16 as floats; those outside the mask are zero and not read. */
UP_INLINE __m512 up_floats(enum dtype type, const uint8_t *p, __mmask16 k)
{
    if (type == DT_F32) return _mm512_maskz_loadu_ps(k, (const void *)p);
    __m256i h = _mm256_maskz_loadu_epi16(k, (const void *)p);
    if (type == DT_F16) return _mm512_cvtph_ps(h);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

#endif
