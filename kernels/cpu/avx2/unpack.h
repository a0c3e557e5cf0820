/* Row primitives of AVX2 (with FMA and F16C): one piece of 256 packed values to bytes plus the scales that
 * belong to them. The products of one token or a few, and whatever else reads quantised rows here, are
 * instantiated from these functions.
 *
 * The piece order. A piece is 8 blocks of 32 values. The vector q[2*i + h] (i in 0 … 3, h in {0, 1}) holds in
 * its two 128-bit lanes the half h (values 16h … 16h+15) of blocks i and i+4, so that a lane never mixes two
 * scales and the scales of blocks i and i+4 reach their lanes with one in-lane permutation.
 *
 * Quants are unsigned (0 … 63) and come with a minimum, or signed where up_signed says so:
 * value = scale[b]·q + up_minimum·low[b] of up_scales. Types with a zero point have low = scale and
 * up_minimum = −zero; signed ones have no minimum. Q6_K has a scale each 16 values (up_fine): scale holds
 * those of the blocks' first halves and low those of their second halves; the minimum multiplies both.
 *
 * `type` is a constant at every call: all switches vanish. */
#ifndef KERNELS_CPU_AVX2_UNPACK_H
#define KERNELS_CPU_AVX2_UNPACK_H

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

struct up_scale {
    __m256 scale, low;
};

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

UP_INLINE bool up_fine(enum dtype type)
{
    return type == DT_Q6_K;
}

UP_INLINE bool up_signed(enum dtype type)
{
    return type == DT_Q8_0 || type == DT_IQ4_NL;
}

UP_INLINE float up_minimum(enum dtype type)
{
    switch (type) {
    case DT_Q4_0: return -8;
    case DT_Q5_0: return -16;
    case DT_Q6_K: return -32;
    case DT_Q4_K:
    case DT_Q5_K: return -1;
    case DT_Q4_1:
    case DT_Q5_1: return 1;
    default: return 0;
    }
}

UP_INLINE __m128i up_load16(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

/* 16 bytes each from a and b. */
UP_INLINE __m256i up_load_lanes(const uint8_t *a, const uint8_t *b)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(up_load16(a)), up_load16(b), 1);
}

UP_INLINE __m256i up_low(__m256i v)
{
    return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

UP_INLINE __m256i up_high(__m256i v)
{
    return up_low(_mm256_srli_epi16(v, 4));
}

UP_INLINE __m256i up_with(__m256i q, __m256i bits, char mask)
{
    return _mm256_or_si256(q, _mm256_and_si256(bits, _mm256_set1_epi8(mask)));
}

/* Blocks of 32 with nibbles: low nibbles are values 0 … 15, high ones 16 … 31. */
UP_INLINE void up_nibbles32(__m256i q[8], const uint8_t *quants, size_t block)
{
    for (size_t i = 0; i < 4; i++) {
        __m256i p = up_load_lanes(quants + i * block, quants + (i + 4) * block);
        q[2 * i] = up_low(p), q[2 * i + 1] = up_high(p);
    }
}

/* Fifth bits of 8 blocks of 32: bit j of the block's 32-bit word belongs to value j. */
UP_INLINE void up_fifth32(__m256i q[8], const uint8_t *words, size_t block)
{
    const __m256i select = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i low =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    const __m256i high = _mm256_add_epi8(low, _mm256_set1_epi8(2));
    for (size_t i = 0; i < 4; i++) {
        int a, b;
        memcpy(&a, words + i * block, 4);
        memcpy(&b, words + (i + 4) * block, 4);
        __m256i w =
            _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_cvtsi32_si128(a)), _mm_cvtsi32_si128(b), 1);
        __m256i b0 = _mm256_and_si256(_mm256_shuffle_epi8(w, low), select);
        __m256i b1 = _mm256_and_si256(_mm256_shuffle_epi8(w, high), select);
        q[2 * i] = up_with(q[2 * i], _mm256_cmpeq_epi8(b0, select), 16);
        q[2 * i + 1] = up_with(q[2 * i + 1], _mm256_cmpeq_epi8(b1, select), 16);
    }
}

/* Nibbles of Q4_K and Q5_K: 32 bytes hold block 2c in the low and block 2c+1 in the high nibbles. */
UP_INLINE void up_nibbles_k(__m256i q[8], const uint8_t *quants)
{
    for (int c = 0; c < 2; c++)
        for (int h = 0; h < 2; h++) {
            const uint8_t *p = quants + 32 * c + 16 * h;
            __m256i v = up_load_lanes(p, p + 64);
            q[4 * c + h] = up_low(v), q[4 * c + 2 + h] = up_high(v);
        }
}

UP_INLINE void up_quants(enum dtype type, __m256i q[8], const uint8_t *w)
{
    switch (type) {
    case DT_Q4_0: up_nibbles32(q, w + 2, 18); break;
    case DT_Q4_1: up_nibbles32(q, w + 4, 20); break;
    case DT_Q5_0:
        up_nibbles32(q, w + 6, 22);
        up_fifth32(q, w + 2, 22);
        break;
    case DT_Q5_1:
        up_nibbles32(q, w + 8, 24);
        up_fifth32(q, w + 4, 24);
        break;
    case DT_IQ4_NL: { /* the format's 16 levels */
        __m256i levels = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
        up_nibbles32(q, w + 2, 18);
        for (int i = 0; i < 8; i++) q[i] = _mm256_shuffle_epi8(levels, q[i]);
        break;
    }
    case DT_Q8_0:
        for (size_t i = 0; i < 8; i++) {
            const uint8_t *p = w + 2 + 34 * (i / 2) + 16 * (i % 2);
            q[i] = up_load_lanes(p, p + 4 * 34);
        }
        break;
    case DT_Q4_K: up_nibbles_k(q, w + 16); break;
    case DT_Q5_K: { /* bit j of byte l: block j, value l. Bits i and i+4 meet at bit 4 + i of their lanes. */
        const __m256i meet = _mm256_setr_epi32(4, 4, 4, 4, 0, 0, 0, 0);
        up_nibbles_k(q, w + 48);
        for (int h = 0; h < 2; h++) {
            __m256i bits = _mm256_sllv_epi32(_mm256_broadcastsi128_si256(up_load16(w + 16 + 16 * h)), meet);
            for (int i = 0; i < 4; i++) q[2 * i + h] = up_with(q[2 * i + h], _mm256_srli_epi32(bits, i), 16);
        }
        break;
    }
    case DT_Q6_K: /* each 128 values: 64 bytes of low nibbles, 32 bytes of four 2-bit fields */
        for (int h = 0; h < 2; h++) {
            const uint8_t *p = w + 16 * h;
            __m256i a = up_load_lanes(p, p + 64), b = up_load_lanes(p + 32, p + 96);
            __m256i bits = up_load_lanes(p + 128, p + 160);
            q[h] = up_with(up_low(a), _mm256_slli_epi16(bits, 4), 48);
            q[2 + h] = up_with(up_low(b), _mm256_slli_epi16(bits, 2), 48);
            q[4 + h] = up_with(up_high(a), bits, 48);
            q[6 + h] = up_with(up_high(b), _mm256_srli_epi16(bits, 2), 48);
        }
        break;
    default: break;
    }
}

/* The 32-bit words at the start of 8 blocks of `block` bytes. Word i of a load at i·(block − 4) is the start
 * of block i, so eight loads are blended and no byte outside the piece is touched. */
UP_INLINE __m256i up_heads32(const uint8_t *w, size_t block)
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

/* The same for 16-bit words. */
UP_INLINE __m128i up_heads16(const uint8_t *w, size_t block)
{
    size_t s = block - 2;
#define UP_AT(i) up_load16(w + (i)*s)
    __m128i a = _mm_blend_epi16(UP_AT(0), UP_AT(1), 0x02), b = _mm_blend_epi16(UP_AT(2), UP_AT(3), 0x08);
    __m128i c = _mm_blend_epi16(UP_AT(4), UP_AT(5), 0x20), d = _mm_blend_epi16(UP_AT(6), UP_AT(7), 0x80);
#undef UP_AT
    return _mm_blend_epi16(_mm_blend_epi16(a, b, 0x0c), _mm_blend_epi16(c, d, 0xc0), 0xf0);
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

UP_INLINE __m256 up_half(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, 2);
    return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

UP_INLINE struct up_scale up_scales(enum dtype type, const uint8_t *w)
{
    struct up_scale s;
    switch (type) {
    case DT_Q4_1:
    case DT_Q5_1: {
        const __m256i apart =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        __m256i v = _mm256_shuffle_epi8(up_heads32(w, type == DT_Q4_1 ? 20 : 24), apart);
        v = _mm256_permute4x64_epi64(v, 0xd8);
        s.scale = _mm256_cvtph_ps(_mm256_castsi256_si128(v));
        s.low = _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1));
        return s;
    }
    case DT_Q4_K:
    case DT_Q5_K: {
        __m128i six = up_six(w + 4);
        s.scale = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(six)), up_half(w));
        s.low =
            _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(six, 8))), up_half(w + 2));
        return s;
    }
    case DT_Q6_K: {
        __m128i apart = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
        __m128i v = _mm_shuffle_epi8(up_load16(w + 192), apart);
        __m256 d = up_half(w + 208);
        s.scale = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)), d);
        s.low = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))), d);
        return s;
    }
    default: { /* one scale a block */
        size_t block = up_bytes(type) / 8;
        s.scale = s.low = _mm256_cvtph_ps(up_heads16(w, block));
        return s;
    }
    }
}

/* Bytes of a value of the unpacked types. */
UP_INLINE size_t up_float_bytes(enum dtype type)
{
    return type == DT_F32 ? 4 : 2;
}

/* 8 values of F32, F16 or BF16 as floats. */
UP_INLINE __m256 up_floats(enum dtype type, const uint8_t *p)
{
    if (type == DT_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    if (type == DT_F16) return _mm256_cvtph_ps(up_load16(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(up_load16(p)), 16));
}

#endif
