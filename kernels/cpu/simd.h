/* Vectors of floats of a tier's own width, so that vector operations and attention are written once
 * (vec_body.h, attn_body.h) and compiled for AVX2 and for AVX-512. Included by files of the tiers' folders
 * only: everything is `static inline`, nothing wide leaks. */
#ifndef KERNELS_CPU_SIMD_H
#define KERNELS_CPU_SIMD_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define SIMD static inline __attribute__((always_inline))

#ifdef __AVX512F__

enum { W = 16 };
typedef __m512 vf;
typedef __m512d vd; /* half as many doubles */
typedef __mmask16 vm;

SIMD vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
SIMD void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
SIMD vf vf_set(float x)
{
    return _mm512_set1_ps(x);
}
SIMD vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
SIMD vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
SIMD vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
SIMD vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
SIMD vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
SIMD vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
/* The second argument if either is NaN. */
SIMD vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
SIMD vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
SIMD vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
SIMD vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD vf vf_trunc(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}
SIMD vm vf_lt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
SIMD vm vf_le(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
SIMD vm vm_and(vm a, vm b)
{
    return (vm)(a & b);
}
/* m ? a : b */
SIMD vf vf_select(vm m, vf a, vf b)
{
    return _mm512_mask_blend_ps(m, b, a);
}
/* Bits of a that are set in mask. */
SIMD vf vf_and(vf a, vf mask)
{
    return _mm512_and_ps(a, mask);
}
SIMD vf vf_copysign(vf size, vf sign)
{
    return _mm512_or_ps(_mm512_andnot_ps(_mm512_set1_ps(-0.0f), size),
                        _mm512_and_ps(_mm512_set1_ps(-0.0f), sign));
}
/* a·2^n for whole n, overflow and denormals included. */
SIMD vf vf_ldexp(vf a, vf n)
{
    return _mm512_scalef_ps(a, n);
}

/* n < W: the values beyond are 0 and not touched in memory. */
SIMD __mmask16 lanes16(int64_t n)
{
    return (__mmask16)_bzhi_u32(0xffff, (uint32_t)n);
}
SIMD vf vf_load_part(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(lanes16(n), p);
}
SIMD void vf_store_part(float *p, vf v, int64_t n)
{
    _mm512_mask_storeu_ps(p, lanes16(n), v);
}
SIMD vf vf_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
SIMD vf vf_load_f16_part(const void *p, int64_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes16(n), p));
}
SIMD void vf_store_f16(void *p, vf v)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
SIMD void vf_store_f16_part(void *p, vf v, int64_t n)
{
    _mm256_mask_storeu_epi16(p, lanes16(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
SIMD vf vf_load_bf16(const void *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
SIMD vf vf_load_i8(const void *p)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
/* Whole numbers from -128 to 127. */
SIMD void vf_store_i8(void *p, vf v)
{
    _mm_storeu_si128(p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}

/* Lanes of 32 bits. */
typedef __m512i vi;
SIMD vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
SIMD vi vi_load_u16(const void *p)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(p));
}
SIMD vi vi_shift(vi v, int right)
{
    return _mm512_srl_epi32(v, _mm_cvtsi32_si128(right));
}
SIMD vi vi_and(vi v, int bits)
{
    return _mm512_and_si512(v, _mm512_set1_epi32(bits));
}
SIMD vi vi_or_shifted(vi v, vi high, int left)
{
    return _mm512_or_si512(v, _mm512_sll_epi32(high, _mm_cvtsi32_si128(left)));
}
SIMD vi vi_sub(vi v, int x)
{
    return _mm512_sub_epi32(v, _mm512_set1_epi32(x));
}
/* Bit i of `bits` in lane i, as 0 or 1. */
SIMD vi vi_bits(uint32_t bits)
{
    return _mm512_maskz_set1_epi32((__mmask16)bits, 1);
}
SIMD vf vf_from_vi(vi v)
{
    return _mm512_cvtepi32_ps(v);
}

SIMD float vf_sum(vf v)
{
    return _mm512_reduce_add_ps(v);
}
SIMD float vf_most(vf v)
{
    return _mm512_reduce_max_ps(v);
}

/* Even and odd places of two neighbouring vectors, and back. */
SIMD void vf_unzip(vf a, vf b, vf *even, vf *odd)
{
    const __m512i e = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    *even = _mm512_permutex2var_ps(a, e, b);
    *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, _mm512_set1_epi32(1)), b);
}
/* Pairs (a, b) of x times pairs (c, s): (a·c − b·s, b·c + a·s). */
SIMD vf vf_rotate_pairs(vf x, vf cs)
{
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(cs),
                              _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), _mm512_movehdup_ps(cs)));
}

SIMD vd vd_zero(void)
{
    return _mm512_setzero_pd();
}
SIMD vd vd_set(double x)
{
    return _mm512_set1_pd(x);
}
SIMD vd vd_low(vf v)
{
    return _mm512_cvtps_pd(_mm512_castps512_ps256(v));
}
SIMD vd vd_high(vf v)
{
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
}
SIMD vd vd_add(vd a, vd b)
{
    return _mm512_add_pd(a, b);
}
SIMD vd vd_sub(vd a, vd b)
{
    return _mm512_sub_pd(a, b);
}
SIMD vd vd_fma(vd a, vd b, vd c)
{
    return _mm512_fmadd_pd(a, b, c);
}
SIMD double vd_sum(vd v)
{
    return _mm512_reduce_add_pd(v);
}

/* Lane i of the result is the sum of the lanes of r[i]. */
SIMD vf vf_sums(const vf r[W])
{
    vf a[8], b[4], c[2];
    for (int i = 0; i < 8; i++) /* lanes of r[2i] and r[2i+1] alternate in pairs */
        a[i] = vf_add(_mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]));
    for (int i = 0; i < 4; i++)
        b[i] = vf_add(
            _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[2 * i]), _mm512_castps_pd(a[2 * i + 1]))),
            _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[2 * i]), _mm512_castps_pd(a[2 * i + 1]))));
    for (int i = 0; i < 2; i++)
        c[i] = vf_add(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                      _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
    return vf_add(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
}

#else

enum { W = 8 };
typedef __m256 vf;
typedef __m256d vd;
typedef __m256 vm;

SIMD vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
SIMD void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
SIMD vf vf_set(float x)
{
    return _mm256_set1_ps(x);
}
SIMD vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
SIMD vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
SIMD vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
SIMD vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
SIMD vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
SIMD vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
/* The second argument if either is NaN. */
SIMD vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
SIMD vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
SIMD vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
SIMD vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SIMD vf vf_trunc(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}
SIMD vm vf_lt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
SIMD vm vf_le(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}
SIMD vm vm_and(vm a, vm b)
{
    return _mm256_and_ps(a, b);
}
/* m ? a : b */
SIMD vf vf_select(vm m, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, m);
}
/* Bits of a that are set in mask. */
SIMD vf vf_and(vf a, vf mask)
{
    return _mm256_and_ps(a, mask);
}
SIMD vf vf_copysign(vf size, vf sign)
{
    return _mm256_or_ps(vf_abs(size), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
}
/* a·2^n for whole n in [-252, 254], overflow and denormals included: in two steps, each a normal number. */
SIMD vf vf_ldexp(vf a, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    __m256i rest = _mm256_sub_epi32(whole, half);
    a = vf_mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23)));
    return vf_mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23)));
}

/* n < W: the values beyond are 0 and not touched in memory. */
SIMD __m256i lanes8(int64_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SIMD vf vf_load_part(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, lanes8(n));
}
SIMD void vf_store_part(float *p, vf v, int64_t n)
{
    _mm256_maskstore_ps(p, lanes8(n), v);
}
SIMD vf vf_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
SIMD vf vf_load_f16_part(const void *p, int64_t n)
{
    uint16_t all[8] = {0};
    memcpy(all, p, (size_t)n * 2);
    return vf_load_f16(all);
}
SIMD void vf_store_f16(void *p, vf v)
{
    _mm_storeu_si128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
SIMD void vf_store_f16_part(void *p, vf v, int64_t n)
{
    uint16_t all[8];
    vf_store_f16(all, v);
    memcpy(p, all, (size_t)n * 2);
}
SIMD vf vf_load_bf16(const void *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
SIMD vf vf_load_i8(const void *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
/* Whole numbers from -128 to 127. */
SIMD void vf_store_i8(void *p, vf v)
{
    __m256i i = _mm256_cvtps_epi32(v);
    __m128i s = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64(p, _mm_packs_epi16(s, s));
}

/* Lanes of 32 bits. */
typedef __m256i vi;
SIMD vi vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
SIMD vi vi_load_u16(const void *p)
{
    return _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
}
SIMD vi vi_shift(vi v, int right)
{
    return _mm256_srl_epi32(v, _mm_cvtsi32_si128(right));
}
SIMD vi vi_and(vi v, int bits)
{
    return _mm256_and_si256(v, _mm256_set1_epi32(bits));
}
SIMD vi vi_or_shifted(vi v, vi high, int left)
{
    return _mm256_or_si256(v, _mm256_sll_epi32(high, _mm_cvtsi32_si128(left)));
}
SIMD vi vi_sub(vi v, int x)
{
    return _mm256_sub_epi32(v, _mm256_set1_epi32(x));
}
/* Bit i of `bits` in lane i, as 0 or 1. */
SIMD vi vi_bits(uint32_t bits)
{
    __m256i each = _mm256_srlv_epi32(_mm256_set1_epi32((int)bits), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_and_si256(each, _mm256_set1_epi32(1));
}
SIMD vf vf_from_vi(vi v)
{
    return _mm256_cvtepi32_ps(v);
}

SIMD float vf_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
SIMD float vf_most(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

/* Even and odd places of two neighbouring vectors. */
SIMD void vf_unzip(vf a, vf b, vf *even, vf *odd)
{
    vf low = _mm256_permute2f128_ps(a, b, 0x20), high = _mm256_permute2f128_ps(a, b, 0x31);
    *even = _mm256_shuffle_ps(low, high, 0x88);
    *odd = _mm256_shuffle_ps(low, high, 0xdd);
}
/* Pairs (a, b) of x times pairs (c, s): (a·c − b·s, b·c + a·s). */
SIMD vf vf_rotate_pairs(vf x, vf cs)
{
    return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(cs),
                              _mm256_mul_ps(_mm256_permute_ps(x, 0xb1), _mm256_movehdup_ps(cs)));
}

SIMD vd vd_zero(void)
{
    return _mm256_setzero_pd();
}
SIMD vd vd_set(double x)
{
    return _mm256_set1_pd(x);
}
SIMD vd vd_low(vf v)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(v));
}
SIMD vd vd_high(vf v)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}
SIMD vd vd_add(vd a, vd b)
{
    return _mm256_add_pd(a, b);
}
SIMD vd vd_sub(vd a, vd b)
{
    return _mm256_sub_pd(a, b);
}
SIMD vd vd_fma(vd a, vd b, vd c)
{
    return _mm256_fmadd_pd(a, b, c);
}
SIMD double vd_sum(vd v)
{
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}

/* Lane i of the result is the sum of the lanes of r[i]. */
SIMD vf vf_sums(const vf r[W])
{
    vf a[4], b[2];
    for (int i = 0; i < 4; i++)
        a[i] = vf_add(_mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]), _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        b[i] = vf_add(_mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44),
                      _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee));
    return vf_add(_mm256_permute2f128_ps(b[0], b[1], 0x20), _mm256_permute2f128_ps(b[0], b[1], 0x31));
}

#endif

/* e^x within 1.5 ulp: 2^n · e^r with |r| ≤ ln 2 / 2, a polynomial of degree 6 fitted at Chebyshev nodes
 * (relative error 1e-8). NaN stays NaN; below -104 the result is 0, above 89 infinity. */
SIMD vf vf_exp(vf x)
{
    x = vf_min(vf_set(89.0f), vf_max(vf_set(-104.0f), x));
    vf n = vf_round(vf_mul(x, vf_set(0x1.715476p+0f)));
    vf r = vf_fnma(n, vf_set(0x1.62e4p-1f), x); /* ln 2 in two parts, the first with few bits */
    r = vf_fnma(n, vf_set(0x1.7f7d1cp-20f), r);
    vf p = vf_set(0x1.6d43b4p-10f);
    p = vf_fma(p, r, vf_set(0x1.120be8p-7f));
    p = vf_fma(p, r, vf_set(0x1.5554e8p-5f));
    p = vf_fma(p, r, vf_set(0x1.5554dcp-3f));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(vf_mul(r, r), p, r);
    return vf_ldexp(vf_add(p, vf_set(1.0f)), n);
}

#endif
