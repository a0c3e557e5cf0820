/* Scalar conversions between float, IEEE half (F16) and bfloat16 (BF16); round to nearest even. */
#ifndef BASE_HALF_H
#define BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t half_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static inline float half_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;
    if (exp == 31) return half_float(sign | 0x7f800000u | man << 13);
    if (exp == 0) /* zero and subnormals: man · 2^-24, exact in float */
        return half_float(half_bits((float)man * 0x1p-24f) | sign);
    return half_float(sign | (exp + 112) << 23 | man << 13);
}

static inline uint16_t f32_to_f16(float f)
{
    uint32_t u = half_bits(f), sign = (u >> 16) & 0x8000, mag = u & 0x7fffffff;
    if (mag > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN stays a quiet NaN */
    if (mag >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds to infinity */
    if (mag < 0x38800000) { /* subnormal half: adding 0.5 aligns the mantissa, the FPU rounds */
        float t = half_float(mag) + 0.5f;
        return (uint16_t)(sign | (half_bits(t) - half_bits(0.5f)));
    }
    uint32_t odd = (mag >> 13) & 1;
    return (uint16_t)(sign | ((mag - 0x38000000 + 0xfff + odd) >> 13));
}

static inline float bf16_to_f32(uint16_t h)
{
    return half_float((uint32_t)h << 16);
}

static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u = half_bits(f);
    if ((u & 0x7fffffff) > 0x7f800000) return (uint16_t)((u >> 16) | 64); /* keep NaN a NaN */
    return (uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

#endif
