/* Blocks of every weight type to floats: the plain types and the K types; the IQ and ternary ones are in
 * decode_iq.c. Each function decodes one block; fields stand in the order the format stores them. */
#include "base/half.h"
#include "kernels/cpu/ref/ref.h"

#include <assert.h>
#include <stddef.h>

static float f16_at(const uint8_t *p)
{
    return f16_to_f32(ref_u16(p));
}

static float f32_at(const uint8_t *p)
{
    return half_float(ref_u32(p));
}

/* ---- Blocks of 32: the low halves of 16 bytes hold values 0–15, the high halves 16–31 */

static void q4_0(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((b[2 + i] & 15) - 8) * d;
        y[i + 16] = (float)((b[2 + i] >> 4) - 8) * d;
    }
}

static void q4_1(float *y, const uint8_t *b)
{
    float d = f16_at(b), m = f16_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)(b[4 + i] & 15) * d + m;
        y[i + 16] = (float)(b[4 + i] >> 4) * d + m;
    }
}

/* The fifth bits of all 32 values are one word. */
static void q5_0(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    uint32_t high = ref_u32(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16) * d;
        y[i + 16] = (float)((int)((b[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16) * d;
    }
}

static void q5_1(float *y, const uint8_t *b)
{
    float d = f16_at(b), m = f16_at(b + 2);
    uint32_t high = ref_u32(b + 4);
    for (int i = 0; i < 16; i++) {
        y[i] = (float)((b[8 + i] & 15) | (high >> i & 1) << 4) * d + m;
        y[i + 16] = (float)((b[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) * d + m;
    }
}

static void q8_0(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}

static void iq4_nl(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)ref_iq4_levels[b[2 + i] & 15];
        y[i + 16] = d * (float)ref_iq4_levels[b[2 + i] >> 4];
    }
}

const int8_t ref_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* ---- Blocks of 256 */

/* scales[16] (scale low half, minimum high half), quants[64], d, dmin. Each 32 bytes of quants hold four runs
 * of 32 values, two bits each. */
static void q2_k(float *y, const uint8_t *b)
{
    const uint8_t *quants = b + 16;
    float d = f16_at(b + 80), dmin = f16_at(b + 82);
    for (int g = 0; g < 16; g++) {
        float scale = d * (float)(b[g] & 15), min = dmin * (float)(b[g] >> 4);
        const uint8_t *q = quants + 32 * (g / 8) + 16 * (g & 1);
        int shift = 2 * (g / 2 % 4);
        for (int i = 0; i < 16; i++) y[16 * g + i] = scale * (float)(q[i] >> shift & 3) - min;
    }
}

/* hmask[32], quants[64], scales[12], d. The high bit set means 4 is not taken away. 16 scales of 6 bits: low
 * halves in 8 bytes, the high two bits in the last 4. */
static void q3_k(float *y, const uint8_t *b)
{
    const uint8_t *quants = b + 32, *s = b + 96;
    float d = f16_at(b + 108);
    for (int g = 0; g < 16; g++) {
        int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4;
        int high = s[8 + g % 4] >> 2 * (g / 4) & 3;
        float scale = d * (float)((low | high << 4) - 32);
        const uint8_t *q = quants + 32 * (g / 8) + 16 * (g & 1), *h = b + 16 * (g & 1);
        int shift = 2 * (g / 2 % 4), bit = g / 2;
        for (int i = 0; i < 16; i++)
            y[16 * g + i] = scale * (float)((q[i] >> shift & 3) - (h[i] >> bit & 1 ? 0 : 4));
    }
}

/* Eight scales and eight minima of 6 bits in 12 bytes. */
static void scale_min(const uint8_t *s, int g, int *scale, int *min)
{
    if (g < 4) {
        *scale = s[g] & 63;
        *min = s[g + 4] & 63;
    } else {
        *scale = (s[g + 4] & 15) | s[g - 4] >> 6 << 4;
        *min = s[g + 4] >> 4 | s[g] >> 6 << 4;
    }
}

/* d, dmin, scales[12], quants[128]: each 32 bytes hold two runs of 32 values. */
static void q4_k(float *y, const uint8_t *b)
{
    float d = f16_at(b), dmin = f16_at(b + 2);
    for (int g = 0; g < 8; g++) {
        int sc, mn;
        scale_min(b + 4, g, &sc, &mn);
        float scale = d * (float)sc, min = dmin * (float)mn;
        const uint8_t *q = b + 16 + 32 * (g / 2);
        int shift = 4 * (g & 1);
        for (int i = 0; i < 32; i++) y[32 * g + i] = scale * (float)(q[i] >> shift & 15) - min;
    }
}

/* d, dmin, scales[12], high[32] (bit g: run g), quants[128]. */
static void q5_k(float *y, const uint8_t *b)
{
    float d = f16_at(b), dmin = f16_at(b + 2);
    const uint8_t *high = b + 16;
    for (int g = 0; g < 8; g++) {
        int sc, mn;
        scale_min(b + 4, g, &sc, &mn);
        float scale = d * (float)sc, min = dmin * (float)mn;
        const uint8_t *q = b + 48 + 32 * (g / 2);
        int shift = 4 * (g & 1);
        for (int i = 0; i < 32; i++)
            y[32 * g + i] = scale * (float)((q[i] >> shift & 15) | (high[i] >> g & 1) << 4) - min;
    }
}

/* low[128], high[64], int8 scales[16], d. Half of the block (128 values) at a time: runs 0 and 2 are the low
 * and high halves of the first 32 bytes of `low`, runs 1 and 3 of the second 32. */
static void q6_k(float *y, const uint8_t *b)
{
    const int8_t *scales = (const int8_t *)(b + 192);
    float d = f16_at(b + 208);
    for (int g = 0; g < 16; g++) {
        int half = g / 8, run = g / 2 % 4, at = 16 * (g & 1);
        const uint8_t *low = b + 64 * half + 32 * (run & 1) + at, *high = b + 128 + 32 * half + at;
        float scale = d * (float)scales[g];
        for (int i = 0; i < 16; i++) {
            int q = (low[i] >> 4 * (run / 2) & 15) | (high[i] >> 2 * run & 3) << 4;
            y[16 * g + i] = scale * (float)(q - 32);
        }
    }
}

static ref_block_fn block_fn(enum dtype type)
{
    switch (type) {
    case DT_Q4_0: return q4_0;
    case DT_Q4_1: return q4_1;
    case DT_Q5_0: return q5_0;
    case DT_Q5_1: return q5_1;
    case DT_Q8_0: return q8_0;
    case DT_IQ4_NL: return iq4_nl;
    case DT_Q2_K: return q2_k;
    case DT_Q3_K: return q3_k;
    case DT_Q4_K: return q4_k;
    case DT_Q5_K: return q5_k;
    case DT_Q6_K: return q6_k;
    default: return ref_decode_iq(type);
    }
}

void ref_decode(enum dtype type, float *dst, const void *src, int64_t n)
{
    const uint8_t *b = src;
    switch (type) {
    case DT_F32:
        for (int64_t i = 0; i < n; i++) dst[i] = f32_at(b + 4 * i);
        return;
    case DT_F16:
        for (int64_t i = 0; i < n; i++) dst[i] = f16_at(b + 2 * i);
        return;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++) dst[i] = bf16_to_f32(ref_u16(b + 2 * i));
        return;
    default: break;
    }
    ref_block_fn fn = block_fn(type);
    const struct dtype_info *info = dtype_info(type);
    assert(fn && info && n % info->block == 0);
    if (!fn || !info) return;
    for (int64_t i = 0; i + info->block <= n; i += info->block, b += info->bytes) fn(dst + i, b);
}
