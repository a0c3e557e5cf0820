/* The IQ and ternary types: blocks of 256 values as indices into the grids of iq_grids.h. Fields stand in the
 * order the format stores them. */
#include "base/half.h"
#include "kernels/cpu/ref/iq_grids.h"
#include "kernels/cpu/ref/ref.h"

#include <stdbool.h>
#include <stddef.h>

static const uint8_t levels2[4] = {8, 25, 43, 0};
static const uint8_t levels3_xxs[8] = {4, 12, 20, 28, 36, 44, 52, 62};

static float f16_at(const uint8_t *p)
{
    return f16_to_f32(ref_u16(p));
}

/* Eight values of an iq2 grid entry, signs from the bits of `signs`. */
static void put_iq2(float *y, float scale, uint32_t entry, uint32_t signs)
{
    for (int i = 0; i < 8; i++) {
        float v = scale * (float)levels2[entry >> 2 * i & 3];
        y[i] = signs >> i & 1 ? -v : v;
    }
}

/* Four values of an iq3 grid entry. */
static void put_iq3_xxs(float *y, float scale, uint32_t entry, uint32_t signs)
{
    for (int i = 0; i < 4; i++) {
        float v = scale * (float)levels3_xxs[entry >> 3 * i & 7];
        y[i] = signs >> i & 1 ? -v : v;
    }
}

static void put_iq3_s(float *y, float scale, uint32_t entry, uint32_t signs)
{
    for (int i = 0; i < 4; i++) {
        float v = scale * (float)(2 * (entry >> 3 * i & 7) + 1);
        y[i] = signs >> i & 1 ? -v : v;
    }
}

/* Eight values of the iq1 grid, all moved by an eighth up or down. */
static void put_iq1(float *y, float scale, uint32_t entry, bool down)
{
    float delta = down ? -0.125f : 0.125f;
    for (int i = 0; i < 8; i++) y[i] = scale * ((float)(int)(entry >> 2 * i & 3) - 1 + delta);
}

/* d, then for each 32 values: 4 grid indices (bytes), and a word of 4 × 7 sign bits and a 4-bit scale. */
static void iq2_xxs(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int g = 0; g < 8; g++) {
        const uint8_t *index = b + 2 + 8 * g;
        uint32_t word = ref_u32(index + 4);
        float scale = d * (0.5f + (float)(word >> 28)) * 0.25f;
        for (int l = 0; l < 4; l++)
            put_iq2(y + 32 * g + 8 * l, scale, kern_grid_iq2xxs[index[l]], iq_signs(word >> 7 * l & 127));
    }
}

/* d, 32 words of 9 index bits and 7 sign bits, scales[8]: 4 bits for each 16 values. */
static void iq2_xs(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int l = 0; l < 32; l++) {
        uint32_t word = ref_u16(b + 2 + 2 * l);
        float scale = d * (0.5f + (float)(b[66 + l / 4] >> 4 * (l / 2 & 1) & 15)) * 0.25f;
        put_iq2(y + 8 * l, scale, kern_grid_iq2xs[word & 511], iq_signs(word >> 9));
    }
}

/* d, low index bytes[32], signs[32], high index bits[8] (two for each 8 values), scales[8]. */
static void iq2_s(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int l = 0; l < 32; l++) {
        uint32_t index = b[2 + l] | (uint32_t)(b[66 + l / 4] >> 2 * (l % 4) & 3) << 8;
        float scale = d * (0.5f + (float)(b[74 + l / 4] >> 4 * (l / 2 & 1) & 15)) * 0.25f;
        put_iq2(y + 8 * l, scale, kern_grid_iq2s[index], b[34 + l]);
    }
}

/* d, indices[64] of 4 values each, then for each 32 values a word of 4 × 7 sign bits and a 4-bit scale. */
static void iq3_xxs(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int g = 0; g < 8; g++) {
        uint32_t word = ref_u32(b + 66 + 4 * g);
        float scale = d * (0.5f + (float)(word >> 28)) * 0.5f;
        for (int l = 0; l < 8; l++) {
            uint32_t signs = iq_signs(word >> 7 * (l / 2) & 127) >> 4 * (l & 1);
            put_iq3_xxs(y + 32 * g + 4 * l, scale, kern_grid_iq3xxs[b[2 + 8 * g + l]], signs);
        }
    }
}

/* d, low index bytes[64], high index bits[8] (one for each 4 values), signs[32], scales[4]: 4 bits for each
 * 32 values. */
static void iq3_s(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int l = 0; l < 64; l++) {
        int g = l / 8;
        uint32_t index = b[2 + l] | (uint32_t)(b[66 + g] >> l % 8 & 1) << 8;
        float scale = d * (float)(1 + 2 * (b[106 + g / 2] >> 4 * (g & 1) & 15));
        put_iq3_s(y + 4 * l, scale, kern_grid_iq3s[index], (uint32_t)b[74 + l / 2] >> 4 * (l & 1));
    }
}

/* d, low index bytes[32], then for each 32 values a word: 4 × 3 high index bits, 3-bit scale, direction. */
static void iq1_s(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    for (int g = 0; g < 8; g++) {
        uint32_t word = ref_u16(b + 34 + 2 * g);
        float scale = d * (float)(2 * (word >> 12 & 7) + 1);
        for (int l = 0; l < 4; l++) {
            uint32_t index = b[2 + 4 * g + l] | (word >> 3 * l & 7) << 8;
            put_iq1(y + 32 * g + 8 * l, scale, kern_grid_iq1s[index], word >> 15);
        }
    }
}

/* low index bytes[32], half bytes[32] of 3 high index bits and a direction, 4 words of 4 × 3-bit scales (one
 * for each 16 values) whose top halves together are d. */
static void iq1_m(float *y, const uint8_t *b)
{
    uint16_t word[4];
    for (int i = 0; i < 4; i++) word[i] = ref_u16(b + 48 + 2 * i);
    float d = f16_to_f32(
        (uint16_t)(word[0] >> 12 | (word[1] >> 12) << 4 | (word[2] >> 12) << 8 | (word[3] >> 12) << 12));
    for (int l = 0; l < 32; l++) {
        uint32_t half = b[32 + l / 2] >> 4 * (l & 1) & 15;
        float scale = d * (float)(2 * (word[l / 8] >> 3 * (l / 2 % 4) & 7) + 1);
        put_iq1(y + 8 * l, scale, kern_grid_iq1s[b[l] | (half & 7) << 8], half >> 3);
    }
}

/* d, high bits of 8 scales (2 each), low halves of 8 scales, quants[128]. */
static void iq4_xs(float *y, const uint8_t *b)
{
    float d = f16_at(b);
    uint32_t high = ref_u16(b + 2);
    for (int g = 0; g < 8; g++) {
        int level = (b[4 + g / 2] >> 4 * (g & 1) & 15) | (int)(high >> 2 * g & 3) << 4;
        float scale = d * (float)(level - 32);
        const uint8_t *q = b + 8 + 16 * g;
        for (int i = 0; i < 16; i++) {
            y[32 * g + i] = scale * (float)ref_iq4_levels[q[i] & 15];
            y[32 * g + 16 + i] = scale * (float)ref_iq4_levels[q[i] >> 4];
        }
    }
}

/* A byte holds five ternary digits as a fraction of 256 (four in the last run): digit k is the integer part
 * of 3·frac(byte·3^k / 256). Digit k of all bytes of a run are consecutive values. */
static float *ternary_run(float *y, float d, const uint8_t *q, int bytes, int digits)
{
    static const uint8_t pow3[5] = {1, 3, 9, 27, 81};
    for (int k = 0; k < digits; k++)
        for (int i = 0; i < bytes; i++) *y++ = (float)(((uint8_t)(q[i] * pow3[k]) * 3 >> 8) - 1) * d;
    return y;
}

/* quants[48] in runs of 32 and 16 bytes, last[4], d. */
static void tq1_0(float *y, const uint8_t *b)
{
    float d = f16_at(b + 52);
    y = ternary_run(y, d, b, 32, 5);
    y = ternary_run(y, d, b + 32, 16, 5);
    ternary_run(y, d, b + 48, 4, 4);
}

/* quants[64], two bits each, d. */
static void tq2_0(float *y, const uint8_t *b)
{
    float d = f16_at(b + 64);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 32; i++)
            y[32 * g + i] = (float)((b[32 * (g / 4) + i] >> 2 * (g % 4) & 3) - 1) * d;
}

ref_block_fn ref_decode_iq(enum dtype type)
{
    switch (type) {
    case DT_IQ1_S: return iq1_s;
    case DT_IQ1_M: return iq1_m;
    case DT_IQ2_XXS: return iq2_xxs;
    case DT_IQ2_XS: return iq2_xs;
    case DT_IQ2_S: return iq2_s;
    case DT_IQ3_XXS: return iq3_xxs;
    case DT_IQ3_S: return iq3_s;
    case DT_IQ4_XS: return iq4_xs;
    case DT_TQ1_0: return tq1_0;
    case DT_TQ2_0: return tq2_0;
    default: return NULL;
    }
}
