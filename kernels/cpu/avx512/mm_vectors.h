/* The avx512 tier's vectors for kernels/cpu/mm16.h and mm32.h. */
#ifndef KERNELS_CPU_AVX512_MM_VECTORS_H
#define KERNELS_CPU_AVX512_MM_VECTORS_H

#include "kernels/cpu/avx512/unpack.h"

typedef __m512i vi;
typedef __m512 vf;

UP_INLINE vi vi_load(const void *p)
{
    return _mm512_load_si512(p);
}

UP_INLINE void vi_store(void *p, vi v)
{
    _mm512_store_si512(p, v);
}

UP_INLINE void vi_storeu(void *p, vi v)
{
    _mm512_storeu_si512(p, v);
}

UP_INLINE vi vi_zero(void)
{
    return _mm512_setzero_si512();
}

UP_INLINE vi vi_pair(const int16_t *p)
{
    int32_t two;
    memcpy(&two, p, sizeof two);
    return _mm512_set1_epi32(two);
}

UP_INLINE vi vi_add16(vi a, vi b)
{
    return _mm512_add_epi16(a, b);
}

UP_INLINE vi vi_sub16(vi a, vi b)
{
    return _mm512_sub_epi16(a, b);
}

UP_INLINE vi vi_add32(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}

UP_INLINE vi vi_sub32(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}

/* Assembly because gcc 12 copies the accumulators of the intrinsic around the loop: half the speed. */
UP_INLINE void vi_dot(vi *acc, vi x, vi w)
{
    __asm__("vpdpwssd %2, %1, %0" : "+v"(*acc) : "v"(x), "v"(w));
}

UP_INLINE vf vf_load(const float *p)
{
    return _mm512_load_ps(p);
}

UP_INLINE void vf_store(float *p, vf v)
{
    _mm512_store_ps(p, v);
}

UP_INLINE vf vf_set1(float f)
{
    return _mm512_set1_ps(f);
}

UP_INLINE vf vf_from_int(vi v)
{
    return _mm512_cvtepi32_ps(v);
}

UP_INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

UP_INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

UP_INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

UP_INLINE void vi_transpose(vi v[16])
{
    vi t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) { /* v[i + j]: column 4·lane + j of rows i … i+3 */
        v[i + 0] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; j++) {
        vi a = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x88), b = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xdd);
        vi c = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x88),
           d = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xdd);
        t[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        t[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
        t[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
    for (int i = 0; i < 16; i++) v[i] = t[i];
}

#endif
