/* Private to kernels/: encoders of one block, and what they share. */
#ifndef KERNELS_ENCODE_H
#define KERNELS_ENCODE_H

#include "base/half.h"

#include <stdint.h>
#include <string.h>

/* Four floats, the width every 64-bit machine has. */
typedef float v4 __attribute__((vector_size(16)));

static inline v4 v4_load(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline v4 v4_set(float x)
{
    return (v4){x, x, x, x};
}

static inline float v4_sum(v4 v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* Nearest whole number, halves to even; |x| < 2^22. Without SSE4.1 there is no instruction for it. */
static inline v4 v4_round(v4 x)
{
    const v4 magic = v4_set(12582912.0f);
    return (x + magic) - magic;
}

/* Lanes of a where the comparison (all ones or zeros a lane) holds, else of b. */
typedef int32_t i4 __attribute__((vector_size(16)));
static inline v4 v4_select(i4 m, v4 a, v4 b)
{
    return (v4)((m & (i4)a) | (~m & (i4)b));
}

static inline v4 v4_clamp(v4 x, float low, float high)
{
    x = v4_select(x < v4_set(low), v4_set(low), x);
    return v4_select(x > v4_set(high), v4_set(high), x);
}

/* Stores x as F16 and returns what was stored. */
static inline float put_half(uint8_t *p, float x)
{
    uint16_t h = f32_to_f16(x);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
    return f16_to_f32(h);
}

/* One block of finite values: 32 (Q4_0), 256 (K types). */
void encode_q4_0(uint8_t *b, const float *x);
void encode_q4_k(uint8_t *b, const float *x);
void encode_q5_k(uint8_t *b, const float *x);
void encode_q6_k(uint8_t *b, const float *x);

#endif
