/* The avx2 tier's weights × tokens (prompts): the vectors for kernels/cpu/mm16.h and rows of each type to
 * 16-bit integers. Included by one file for machines with VEX-coded VNNI and one for those without, which
 * differ in vi_dot and in the name of the table's init. */
#ifndef KERNELS_CPU_AVX2_MM_H
#define KERNELS_CPU_AVX2_MM_H

#include "base/half.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

#include <immintrin.h>

#define VL             8
#define NT             2
#define MR             6
#define MM16_HALF_ROWS 96
#define V_INLINE       static inline __attribute__((always_inline))

typedef __m256i vi;
typedef __m256 vf;

V_INLINE vi vi_load(const void *p)
{
    return _mm256_load_si256(p);
}

V_INLINE void vi_store(void *p, vi v)
{
    _mm256_store_si256(p, v);
}

V_INLINE void vi_storeu(void *p, vi v)
{
    _mm256_storeu_si256(p, v);
}

V_INLINE vi vi_zero(void)
{
    return _mm256_setzero_si256();
}

V_INLINE vi vi_pair(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return _mm256_set1_epi32(two);
}

V_INLINE vi vi_add16(vi a, vi b)
{
    return _mm256_add_epi16(a, b);
}

V_INLINE vi vi_sub16(vi a, vi b)
{
    return _mm256_sub_epi16(a, b);
}

V_INLINE vi vi_add32(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}

V_INLINE vi vi_sub32(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}

V_INLINE void vi_dot(vi *acc, vi x, vi w);

V_INLINE vf vf_load(const float *p)
{
    return _mm256_load_ps(p);
}

V_INLINE void vf_store(float *p, vf v)
{
    _mm256_store_ps(p, v);
}

V_INLINE vf vf_set1(float f)
{
    return _mm256_set1_ps(f);
}

V_INLINE vf vf_from_int(vi v)
{
    return _mm256_cvtepi32_ps(v);
}

V_INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

V_INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

V_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

V_INLINE void vi_transpose(vi v[8])
{
    vi t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) { /* u[i + j]: column 4·lane + j of rows i … i+3 */
        u[i + 0] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        v[j] = _mm256_permute2x128_si256(u[j], u[4 + j], 0x20);
        v[4 + j] = _mm256_permute2x128_si256(u[j], u[4 + j], 0x31);
    }
}

#include "kernels/cpu/mm16.h"
#include "kernels/cpu/mm32.h"

/* ---- Rows to integers, in their own order ---- */
V_INLINE vi magnitude(vf v)
{
    return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}

V_INLINE uint32_t most_of(vi v)
{
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(m);
}

V_INLINE float sum_of(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

V_INLINE vf load_float(enum dtype type, const uint8_t *src, int64_t i)
{
    if (type == DT_F32) return _mm256_loadu_ps((const float *)(const void *)(src + i * 4));
    __m128i h = _mm_loadu_si128((const __m128i *)(const void *)(src + i * 2));
    if (type == DT_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

V_INLINE float quantise_float(enum dtype type, float norm, int16_t *dst, const uint8_t *src, int64_t values)
{
    uint8_t whole[MM16_CHUNK * sizeof(float)];
    if (values < MM16_CHUNK) {
        size_t bytes = (size_t)values * (type == DT_F32 ? 4 : 2);
        memcpy(whole, src, bytes);
        memset(whole + bytes, 0, sizeof whole - bytes);
        src = whole;
    }
    vi most = vi_zero();
    vf squares[2] = {vf_set1(0), vf_set1(0)};
    for (int i = 0; i < MM16_CHUNK; i += 16)
        for (int j = 0; j < 2; j++) {
            vf v = load_float(type, src, i + 8 * j);
            most = _mm256_max_epu32(most, magnitude(v));
            squares[j] = vf_fma(v, v, squares[j]);
        }
    float back, f = mm16_factor(most_of(most), sum_of(vf_add(squares[0], squares[1])), norm, &back);
    if (f == 0) { /* the values may be infinite */
        memset(dst, 0, MM16_CHUNK * sizeof *dst);
        return back;
    }
    vf fv = vf_set1(f);
    for (int i = 0; i < MM16_CHUNK; i += 16) {
        vi a = _mm256_cvtps_epi32(vf_mul(load_float(type, src, i), fv));
        vi b = _mm256_cvtps_epi32(vf_mul(load_float(type, src, i + 8), fv));
        vi_store(dst + i, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
    }
    return back;
}

static float mm16_quantise_x(int16_t *dst, const uint8_t *src, int64_t values)
{
    return quantise_float(DT_F32, MM16_NORM_X, dst, src, values);
}

/* A piece of 256 values as bytes and a scale (and minimum) each 16: value = d·(q − zero) or d·q + m. */
struct piece {
    uint8_t q[MM16_PIECE] __attribute__((aligned(32)));
    float d[16], m[16];
};

V_INLINE vi bytes_at(const uint8_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}

/* 32 values of a block with 16 bytes of nibbles: the low ones first. */
V_INLINE vi nibbles(const uint8_t *p)
{
    __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
    vi both = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* Bit i of the word at p to bit 4 of byte i. */
V_INLINE vi fifth(const uint8_t *p)
{
    int32_t word;
    memcpy(&word, p, sizeof word);
    const vi which = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2,
                                      3, 3, 3, 3, 3, 3, 3, 3);
    const vi bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    vi v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), which), bit);
    return _mm256_and_si256(_mm256_cmpeq_epi8(v, bit), _mm256_set1_epi8(16));
}

V_INLINE float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

/* Blocks of 32 values, `blocks` of them. */
V_INLINE void piece_32(enum dtype type, struct piece *o, const uint8_t *w, int blocks)
{
    const vi levels = _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129,
                                                                (char)141, (char)153, (char)166, (char)181,
                                                                (char)197, (char)217, (char)241));
    for (int b = 0; b < blocks; b++) {
        vi q;
        float d = half_at(w), m = 0;
        switch (type) {
        case DT_Q4_0: q = nibbles(w + 2), w += 18; break;
        case DT_IQ4_NL: q = _mm256_shuffle_epi8(levels, nibbles(w + 2)), w += 18; break;
        case DT_Q4_1: q = nibbles(w + 4), m = half_at(w + 2), w += 20; break;
        case DT_Q5_0: q = _mm256_or_si256(nibbles(w + 6), fifth(w + 2)), w += 22; break;
        case DT_Q5_1: q = _mm256_or_si256(nibbles(w + 8), fifth(w + 4)), m = half_at(w + 2), w += 24; break;
        default: q = _mm256_xor_si256(bytes_at(w + 2), _mm256_set1_epi8((char)0x80)), w += 34; break;
        }
        vi_store(o->q + 32 * b, q);
        o->d[2 * b] = o->d[2 * b + 1] = d;
        o->m[2 * b] = o->m[2 * b + 1] = m;
    }
}

/* The six-bit scale and minimum j of 8 in the 12 bytes of Q4_K and Q5_K. */
V_INLINE void six(const uint8_t *p, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = p[j] & 63, *min = p[j + 4] & 63;
    } else {
        *scale = (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
        *min = p[j + 4] >> 4 | (p[j] >> 6) << 4;
    }
}

V_INLINE void piece_k(enum dtype type, struct piece *o, const uint8_t *w)
{
    const vi low = _mm256_set1_epi8(15);
    if (type == DT_Q6_K) { /* each 128 values: 64 bytes of low nibbles, 32 bytes of four 2-bit fields */
        float d = half_at(w + 208);
        for (int i = 0; i < 16; i++) {
            o->d[i] = d * (float)(int8_t)w[192 + i];
            o->m[i] = 0;
        }
        const vi two = _mm256_set1_epi8(0x30);
        for (int h = 0; h < 2; h++) {
            vi a = bytes_at(w + 64 * h), b = bytes_at(w + 64 * h + 32), c = bytes_at(w + 128 + 32 * h);
            uint8_t *q = o->q + 128 * h;
            vi_store(
                q, _mm256_or_si256(_mm256_and_si256(a, low), _mm256_and_si256(_mm256_slli_epi16(c, 4), two)));
            vi_store(q + 32, _mm256_or_si256(_mm256_and_si256(b, low),
                                             _mm256_and_si256(_mm256_slli_epi16(c, 2), two)));
            vi_store(q + 64, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(a, 4), low),
                                             _mm256_and_si256(c, two)));
            vi_store(q + 96, _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(b, 4), low),
                                             _mm256_and_si256(_mm256_srli_epi16(c, 2), two)));
        }
        return;
    }
    float d = half_at(w), m = -half_at(w + 2);
    vi bits = type == DT_Q5_K ? bytes_at(w + 16) : vi_zero();
    const uint8_t *quants = w + (type == DT_Q5_K ? 48 : 16);
    for (int b = 0; b < 8; b++) {
        int scale, min;
        six(w + 4, b, &scale, &min);
        o->d[2 * b] = o->d[2 * b + 1] = d * (float)scale;
        o->m[2 * b] = o->m[2 * b + 1] = m * (float)min;
        vi q = bytes_at(quants + 32 * (b / 2));
        q = _mm256_and_si256(b % 2 ? _mm256_srli_epi16(q, 4) : q, low);
        if (type == DT_Q5_K) {
            vi one = _mm256_set1_epi8((char)(1 << b));
            vi set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, one), one);
            q = _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
        vi_store(o->q + 32 * b, q);
    }
}

V_INLINE bool has_minima(enum dtype type)
{
    return type == DT_Q4_1 || type == DT_Q5_1 || type == DT_Q4_K || type == DT_Q5_K;
}

/* Bits of the magnitude of a value before its scale: |q − 2^bits| ≤ 2^bits, or q < 2^bits for types with
 * minima. */
V_INLINE int bits_of(enum dtype type)
{
    switch (type) {
    case DT_Q4_0: return 3;
    case DT_Q5_1:
    case DT_Q5_K:
    case DT_Q6_K: return 5;
    case DT_Q8_0:
    case DT_IQ4_NL: return 7;
    default: return 4; /* Q4_1, Q4_K, Q5_0 */
    }
}

/* An upper bound of the magnitudes of the values of 8 scales. */
V_INLINE vf bound_of(enum dtype type, const float *d, const float *m)
{
    float most = (float)(1 << bits_of(type));
    vf dv = _mm256_loadu_ps(d), mv = _mm256_loadu_ps(m);
    if (!has_minima(type)) return vf_mul(dv, vf_set1(most));
    vi a = _mm256_max_epu32(magnitude(vf_fma(dv, vf_set1(most - 1), mv)), magnitude(mv));
    /* The third keeps the multiplier d·most of mulhrs within 16 bits. */
    return _mm256_castsi256_ps(_mm256_max_epu32(a, magnitude(vf_mul(dv, vf_set1(most * 0.51f)))));
}

V_INLINE void to_words(int16_t *dst, const float *v, float f)
{
    vi a = _mm256_cvtps_epi32(vf_mul(_mm256_loadu_ps(v), vf_set1(f)));
    vi b = _mm256_cvtps_epi32(vf_mul(_mm256_loadu_ps(v + 8), vf_set1(f)));
    vi_storeu(dst, _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8));
}

/* mulhrs(q·2^(15 − bits), d·2^bits·f) = d·q·f, rounded. */
V_INLINE void quantise_piece(enum dtype type, int16_t *dst, const struct piece *p, float f)
{
    const int bits = bits_of(type);
    int16_t d[16], m[16];
    to_words(d, p->d, f * (float)(1 << bits));
    if (has_minima(type)) to_words(m, p->m, f);
    for (int i = 0; i < 16; i++) {
        vi v = _mm256_cvtepu8_epi16(_mm_load_si128((const __m128i *)(const void *)(p->q + 16 * i)));
        if (!has_minima(type)) v = _mm256_sub_epi16(v, _mm256_set1_epi16((short)(1 << bits)));
        v = _mm256_mulhrs_epi16(_mm256_slli_epi16(v, 15 - bits), _mm256_set1_epi16(d[i]));
        if (has_minima(type)) v = _mm256_add_epi16(v, _mm256_set1_epi16(m[i]));
        vi_store(dst + 16 * i, v);
    }
}

V_INLINE float quantise_blocks(enum dtype type, int16_t *dst, const uint8_t *src, int64_t values)
{
    struct piece p[2];
    uint64_t bytes = 0;
    dtype_row_bytes(type, MM16_PIECE, &bytes);
    vi most = vi_zero();
    vf squares = vf_set1(0);
    for (int i = 0; i < 2; i++, src += bytes, values -= MM16_PIECE) {
        if (values < MM16_PIECE) memset(&p[i], 0, sizeof p[i]);
        if (values <= 0) continue;
        if (dtype_info(type)->block == 32)
            piece_32(type, &p[i], src, values < MM16_PIECE ? (int)(values / 32) : 8);
        else
            piece_k(type, &p[i], src);
        for (int j = 0; j < 16; j += 8) {
            vf b = bound_of(type, p[i].d + j, p[i].m + j);
            most = _mm256_max_epu32(most, magnitude(b));
            squares = vf_fma(b, b, squares);
        }
    }
    float back, f = mm16_factor(most_of(most), 16 * sum_of(squares), MM16_NORM_W, &back);
    if (f == 0) {
        memset(dst, 0, MM16_CHUNK * sizeof *dst);
        return back;
    }
    quantise_piece(type, dst, &p[0], f);
    quantise_piece(type, dst + MM16_PIECE, &p[1], f);
    return back;
}

enum { X_MM16 = X_FIRST_AVX2 + 0x10, X_MM32 };

#include "kernels/cpu/mm_types.h"

#endif
