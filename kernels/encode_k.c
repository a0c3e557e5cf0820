/* Encoders of the K types and Q4_0. For each run of values a scale (and a minimum) is searched that makes the
 * squared error least: quants are rounded on a grid of trial scales, the best line through them is solved
 * for, and the trial with the smallest error stays. The block's 6- and 8-bit scales are then rounded,
 * neighbours are tried, and the quants are rounded once more against the scales that will be decoded. */
#include "kernels/encode.h"

#include <math.h>

enum { TRIALS = 16 };

static float least_of(const float *x, int n)
{
    float v = x[0];
    for (int i = 1; i < n; i++) v = x[i] < v ? x[i] : v;
    return v;
}

static float most_of(const float *x, int n)
{
    float v = x[0];
    for (int i = 1; i < n; i++) v = x[i] > v ? x[i] : v;
    return v;
}

/* ---- Q4_K, Q5_K: runs of 32, value = scale·q − min, q in [0, levels], scale and min not negative */

/* The best scale and min of a run, before they are rounded. */
static void fit_line(const float *x, float levels, float *scale, float *min)
{
    float low = least_of(x, 32), high = most_of(x, 32);
    if (low > 0) low = 0;
    *scale = 0;
    *min = -low;
    float range = high - low;
    if (range < 0x1p-100f) return; /* 1 / range could overflow; nothing this small survives an F16 scale */
    double sx = 0, sxx = 0, best = INFINITY;
    for (int i = 0; i < 32; i++) {
        sx += x[i];
        sxx += (double)x[i] * x[i];
    }
    for (int trial = 0; trial < TRIALS; trial++) {
        /* The highest value goes to between levels - 1 and levels + 0.5: a finer scale may cut it off. */
        v4 inverse = v4_set((levels - 1 + 0.1f * (float)trial) / range), shift = v4_set(low);
        v4 vq = v4_set(0), vqq = v4_set(0), vxq = v4_set(0);
        for (int i = 0; i < 32; i += 4) {
            v4 v = v4_load(x + i), q = v4_clamp(v4_round((v - shift) * inverse), 0, levels);
            vq += q;
            vqq += q * q;
            vxq += v * q;
        }
        double sq = v4_sum(vq), sqq = v4_sum(vqq), sxq = v4_sum(vxq);
        if (!(sqq > 0)) continue;
        double det = 32 * sqq - sq * sq, s = sxq / sqq, m = 0;
        if (det > 0 && sqq * sx < sq * sxq) { /* the format has no positive offset: else the line through 0 */
            s = (32 * sxq - sx * sq) / det;
            m = (sqq * sx - sq * sxq) / det;
        }
        if (!(s > 0)) continue;
        double error = sxx + s * s * sqq + 32 * m * m + 2 * s * m * sq - 2 * s * sxq - 2 * m * sx;
        if (error < best) {
            best = error;
            *scale = (float)s;
            *min = (float)-m;
        }
    }
}

/* Squared error of a run with the scale and min that will be decoded. */
static float line_error(const float *x, float levels, float scale, float min)
{
    v4 inverse = v4_set(scale > 0 ? 1 / scale : 0), s = v4_set(scale), m = v4_set(min), sum = v4_set(0);
    for (int i = 0; i < 32; i += 4) {
        v4 v = v4_load(x + i), q = v4_clamp(v4_round((v + m) * inverse), 0, levels);
        v4 off = q * s - m - v;
        sum += off * off;
    }
    return v4_sum(sum);
}

/* Rounds s and m to multiples of d and dmin, neighbours included. */
static void round_line(const float *x, float levels, float s, float m, float d, float dmin, int *ls, int *lm)
{
    int s0 = d > 0 ? (int)lrintf(s / d) : 0, m0 = dmin > 0 ? (int)lrintf(m / dmin) : 0;
    float best = INFINITY;
    *ls = *lm = 0;
    for (int a = s0 - 1; a <= s0 + 1; a++) {
        for (int c = m0 - 1; c <= m0 + 1; c++) {
            if (a < 0 || a > 63 || c < 0 || c > 63) continue;
            float error = line_error(x, levels, d * (float)a, dmin * (float)c);
            if (error < best) {
                best = error;
                *ls = a;
                *lm = c;
            }
        }
    }
}

/* Header (d, dmin, 12 bytes of scales) and quants of a block of lines. */
static void encode_lines(uint8_t *head, const float *x, int levels, uint8_t q[256])
{
    float scale[8], min[8], most_scale = 0, most_min = 0;
    for (int g = 0; g < 8; g++) {
        fit_line(x + 32 * g, (float)levels, &scale[g], &min[g]);
        most_scale = scale[g] > most_scale ? scale[g] : most_scale;
        most_min = min[g] > most_min ? min[g] : most_min;
    }
    float d = put_half(head, most_scale / 63), dmin = put_half(head + 2, most_min / 63);
    uint8_t *packed = head + 4;
    memset(packed, 0, 12);
    for (int g = 0; g < 8; g++) {
        int ls, lm;
        round_line(x + 32 * g, (float)levels, scale[g], min[g], d, dmin, &ls, &lm);
        if (g <
            4) { /* six bits each: whole in the first eight bytes, or halves in the last four and top bits */
            packed[g] |= (uint8_t)ls;
            packed[g + 4] |= (uint8_t)lm;
        } else {
            packed[g + 4] = (uint8_t)((ls & 15) | (lm & 15) << 4);
            packed[g - 4] |= (uint8_t)(ls >> 4 << 6);
            packed[g] |= (uint8_t)(lm >> 4 << 6);
        }
        float s = d * (float)ls, m = dmin * (float)lm, inverse = s > 0 ? 1 / s : 0;
        for (int i = 0; i < 32; i += 4) {
            v4 w =
                v4_clamp(v4_round((v4_load(x + 32 * g + i) + v4_set(m)) * v4_set(inverse)), 0, (float)levels);
            for (int j = 0; j < 4; j++) q[32 * g + i + j] = (uint8_t)w[j];
        }
    }
}

void encode_q4_k(uint8_t *b, const float *x)
{
    uint8_t q[256];
    encode_lines(b, x, 15, q);
    for (int g = 0; g < 8; g += 2)
        for (int i = 0; i < 32; i++) b[16 + 16 * g + i] = (uint8_t)(q[32 * g + i] | q[32 * g + 32 + i] << 4);
}

void encode_q5_k(uint8_t *b, const float *x)
{
    uint8_t q[256];
    encode_lines(b, x, 31, q);
    memset(b + 16, 0, 32);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 32; i++) b[16 + i] |= (uint8_t)((q[32 * g + i] >> 4) << g);
    for (int g = 0; g < 8; g += 2)
        for (int i = 0; i < 32; i++)
            b[48 + 16 * g + i] = (uint8_t)((q[32 * g + i] & 15) | (q[32 * g + 32 + i] & 15) << 4);
}

/* ---- Q6_K: runs of 16, value = d·scale·q, q in [-32, 31], scale a signed byte; Q4_0: runs of 32, value =
 * scale·q, q in [-8, 7] */

/* The best scale of a run, of either sign: the value of largest magnitude goes to near -top. */
static float fit_ratio(const float *x, int n, float top)
{
    float low = least_of(x, n), high = most_of(x, n), peak = high > -low ? high : low;
    if (fabsf(peak) < 0x1p-100f) return 0;
    float best = 0, scale = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        v4 inverse = v4_set(-(top - 0.8f + 0.1f * (float)trial) / peak), vqq = v4_set(0), vxq = v4_set(0);
        for (int i = 0; i < n; i += 4) {
            v4 v = v4_load(x + i), q = v4_clamp(v4_round(v * inverse), -top, top - 1);
            vqq += q * q;
            vxq += v * q;
        }
        float sqq = v4_sum(vqq), sxq = v4_sum(vxq);
        if (sqq > 0 && sxq * (sxq / sqq) > best) { /* what the scale takes off the squared error */
            best = sxq * (sxq / sqq);
            scale = sxq / sqq;
        }
    }
    return scale;
}

static float ratio_error(const float *x, float scale)
{
    v4 s = v4_set(scale), inverse = v4_set(scale != 0 ? 1 / scale : 0), sum = v4_set(0);
    for (int i = 0; i < 16; i += 4) {
        v4 v = v4_load(x + i), off = v4_clamp(v4_round(v * inverse), -32, 31) * s - v;
        sum += off * off;
    }
    return v4_sum(sum);
}

void encode_q4_0(uint8_t *b, const float *x)
{
    float d = put_half(b, fit_ratio(x, 32, 8)), inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 16; i += 4) {
        v4 low = v4_clamp(v4_round(v4_load(x + i) * v4_set(inverse)), -8, 7);
        v4 high = v4_clamp(v4_round(v4_load(x + i + 16) * v4_set(inverse)), -8, 7);
        for (int j = 0; j < 4; j++) b[2 + i + j] = (uint8_t)(((int)low[j] + 8) | ((int)high[j] + 8) << 4);
    }
}

void encode_q6_k(uint8_t *b, const float *x)
{
    float scale[16], peak = 0;
    for (int g = 0; g < 16; g++) {
        scale[g] = fit_ratio(x + 16 * g, 16, 32);
        if (fabsf(scale[g]) > fabsf(peak)) peak = scale[g];
    }
    memset(b, 0, 192);
    float d = put_half(b + 208, peak / -128);
    for (int g = 0; g < 16; g++) {
        int near = d != 0 ? (int)lrintf(scale[g] / d) : 0, chosen = 0;
        float best = INFINITY;
        for (int s = near - 1; s <= near + 1; s++) {
            if (s < -128 || s > 127) continue;
            float error = ratio_error(x + 16 * g, d * (float)s);
            if (error < best) {
                best = error;
                chosen = s;
            }
        }
        b[192 + g] = (uint8_t)(int8_t)chosen;
        float s = d * (float)chosen, inverse = s != 0 ? 1 / s : 0;
        int half = g / 8, run = g / 2 % 4, at = 16 * (g & 1);
        uint8_t *low = b + 64 * half + 32 * (run & 1) + at, *high = b + 128 + 32 * half + at;
        for (int i = 0; i < 16; i += 4) {
            v4 w = v4_clamp(v4_round(v4_load(x + 16 * g + i) * v4_set(inverse)), -32, 31);
            for (int j = 0; j < 4; j++) {
                int q = (int)w[j] + 32;
                low[i + j] |= (uint8_t)((q & 15) << 4 * (run / 2));
                high[i + j] |= (uint8_t)(q >> 4 << 2 * run);
            }
        }
    }
}
