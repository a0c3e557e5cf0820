/* Quantising: floats to GGUF blocks. Plain C, one thread; callers share out rows.
 *
 * F16, BF16 and Q8_0 follow the format's reference rounding, so that blocks equal llama.cpp's byte for byte.
 * The 4- to 6-bit types leave the choice of scales to the writer: here every sub-block's scale (and minimum)
 * is the weighted least-squares fit for the best of several roundings, with weights that favour large values.
 */
#include "kernels/kernels.h"

#include "base/err.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

enum { SUPER = 256 };

static uint16_t put_f16(unsigned char *p, float v)
{
    uint16_t h = f32_to_f16(v);
    memcpy(p, &h, 2);
    return h;
}

static bool f16_finite(float v)
{
    return (f32_to_f16(v) & 0x7c00) != 0x7c00;
}

static int clamp(int v, int lo, int hi)
{
    return v < lo ? lo : v > hi ? hi : v;
}

/* Nearest integer, halves to even; |v| < 2^22. The addition rounds in the FPU and vectorises. */
static int nearest(float v)
{
    float t = v + 12582912.0f;
    int32_t i;
    memcpy(&i, &t, 4);
    return (i & 0x007fffff) - 0x00400000;
}

/* ---- blocks of 32 ---- */

static bool encode_q8_0(unsigned char *out, const float *x)
{
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    float d = most / 127, id = d > 0 ? 1 / d : 0;
    put_f16(out, d);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * id;
        /* halves away from zero, as the format's reference rounds */
        out[2 + i] = (unsigned char)(signed char)(v < 0 ? -(int)(0.5f - v) : (int)(v + 0.5f));
    }
    return f16_finite(d);
}

/* ---- fits of one sub-block, in lanes of 4 so that every compiler adds in the same order ---- */

typedef float v4 __attribute__((vector_size(16)));

static v4 load4(const float *p)
{
    v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float sum4(v4 v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* Nearest integers within [lo, hi], halves to even; |v| < 2^22 after clamping. */
static v4 round4(v4 v, float lo, float hi)
{
    typedef int i4 __attribute__((vector_size(16)));
    v4 l = (v4){0} + lo, h = (v4){0} + hi;
    i4 below = v<l, above = v> h;
    v = (v4)(((i4)v & ~below & ~above) | ((i4)l & below) | ((i4)h & above));
    return (v + 12582912.0f) - 12582912.0f;
}

/* Weighted least squares of x ≈ scale·q with q in [-top-1, top], best of several roundings; n a multiple
 * of 8. */
static float fit_symmetric(const float *x, const float *w, int n, int top)
{
    float most = 0, at = 0;
    for (int i = 0; i < n; i++) {
        if (fabsf(x[i]) > most) {
            most = fabsf(x[i]);
            at = x[i];
        }
    }
    if (most < 1e-30f) return 0;
    float best = 0, scale = 0;
    for (int step = -9; step <= 9; step++) {
        float inverse = -((float)(top + 1) + 0.1f * (float)step) / at;
        v4 xq = {0}, qq = {0};
        for (int i = 0; i < n; i += 4) {
            v4 v = load4(x + i), q = round4(v * inverse, (float)(-top - 1), (float)top),
               wq = load4(w + i) * q;
            xq += wq * v;
            qq += wq * q;
        }
        float sxq = sum4(xq), sqq = sum4(qq);
        /* The error is Σwx² − sxq²/sqq: the largest quotient is the best fit. */
        if (sqq > 0 && sxq * sxq > best * sqq) {
            best = sxq * sxq / sqq;
            scale = sxq / sqq;
        }
    }
    return scale;
}

/* Weighted least squares of x ≈ scale·q − minimum with q in [0, top], minimum ≥ 0. Returns the scale. */
static float fit_asymmetric(const float *x, const float *w, int n, int top, float *minimum)
{
    float lo = 0, hi = x[0];
    v4 w0 = {0}, x1 = {0}, x2 = {0};
    for (int i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    for (int i = 0; i < n; i += 4) {
        v4 v = load4(x + i), wi = load4(w + i);
        w0 += wi;
        x1 += wi * v;
        x2 += wi * v * v;
    }
    *minimum = -lo;
    if (hi - lo < 1e-30f) return 0;
    float sw = sum4(w0), sx = sum4(x1), sxx = sum4(x2);
    float best = INFINITY, scale = (hi - lo) / (float)top;
    for (int step = -10; step <= 20; step++) {
        float inverse = ((float)top + 0.1f * (float)step) / (hi - lo);
        v4 q1 = {0}, q2 = {0}, xq = {0};
        for (int i = 0; i < n; i += 4) {
            v4 v = load4(x + i), q = round4((v - lo) * inverse, 0, (float)top), wq = load4(w + i) * q;
            q1 += wq;
            q2 += wq * q;
            xq += wq * v;
        }
        float sq = sum4(q1), sqq = sum4(q2), sxq = sum4(xq), det = sw * sqq - sq * sq;
        if (!(det > 0)) continue;
        float a = (sw * sxq - sx * sq) / det, b = (sqq * sx - sq * sxq) / det; /* x ≈ a·q + b */
        if (b > 0) {
            b = 0;
            a = sxq / sqq;
        }
        float error = sxx + a * a * sqq + sw * b * b - 2 * a * sxq - 2 * b * sx + 2 * a * b * sq;
        if (error < best && a > 0) {
            best = error;
            scale = a;
            *minimum = -b;
        }
    }
    return scale;
}

/* What a rounding error costs: more at large values, which carry the products. */
static void weigh(const float *x, int n, float *w)
{
    v4 sum = {0};
    for (int i = 0; i < n; i += 4) sum += load4(x + i) * load4(x + i);
    float rms = sqrtf(sum4(sum) / (float)n);
    for (int i = 0; i < n; i++) w[i] = rms + fabsf(x[i]);
}

static bool encode_q4_0(unsigned char *out, const float *x)
{
    float w[32];
    weigh(x, 32, w);
    float fit = fit_symmetric(x, w, 32, 7), d = f16_to_f32(put_f16(out, fit)), id = d != 0 ? 1 / d : 0;
    for (int i = 0; i < 16; i++) {
        int lo = nearest(fminf(fmaxf(x[i] * id, -8), 7)) + 8,
            hi = nearest(fminf(fmaxf(x[16 + i] * id, -8), 7)) + 8;
        out[2 + i] = (unsigned char)(lo | hi << 4);
    }
    return f16_finite(fit);
}

/* ---- Q4_K, Q5_K: 8 sub-blocks of 32 with 6-bit scales and minima ---- */

static bool encode_q45_k(unsigned char *out, const float *x, int bits)
{
    int top = (1 << bits) - 1;
    float scale[8], base[8], w[32], most_scale = 0, most_base = 0;
    for (int b = 0; b < 8; b++) {
        weigh(x + 32 * b, 32, w);
        scale[b] = fit_asymmetric(x + 32 * b, w, 32, top, &base[b]);
        most_scale = fmaxf(most_scale, scale[b]);
        most_base = fmaxf(most_base, base[b]);
    }
    float d = f16_to_f32(put_f16(out, most_scale / 63)), m = f16_to_f32(put_f16(out + 2, most_base / 63));
    unsigned char *packed = out + 4, *high = out + 16, *low = bits == 5 ? out + 48 : out + 16;
    memset(packed, 0, bits == 5 ? 12 + 32 : 12);
    for (int b = 0; b < 8; b++) {
        int s = d > 0 ? clamp(nearest(fminf(scale[b] / d, 64)), 0, 63) : 0;
        int z = m > 0 ? clamp(nearest(fminf(base[b] / m, 64)), 0, 63) : 0;
        if (b < 4) {
            packed[b] |= (unsigned char)s;
            packed[4 + b] |= (unsigned char)z;
        } else {
            packed[4 + b] = (unsigned char)((s & 15) | (z & 15) << 4);
            packed[b - 4] |= (unsigned char)(s >> 4 << 6);
            packed[b] |= (unsigned char)(z >> 4 << 6);
        }
        float step = d * (float)s, offset = m * (float)z, inverse = step > 0 ? 1 / step : 0;
        unsigned char *nibble = low + 32 * (b / 2);
        for (int i = 0; i < 32; i++) {
            float v = fminf(fmaxf((x[32 * b + i] + offset) * inverse, 0), (float)top);
            int q = nearest(v);
            if (bits == 5) high[i] |= (unsigned char)((q >> 4) << b);
            if (b % 2 == 0)
                nibble[i] = (unsigned char)(q & 15);
            else
                nibble[i] |= (unsigned char)((q & 15) << 4);
        }
    }
    return f16_finite(most_scale / 63) && f16_finite(most_base / 63);
}

/* ---- Q6_K: 16 sub-blocks of 16 with 8-bit scales ---- */

static bool encode_q6_k(unsigned char *out, const float *x)
{
    float scale[16], w[16], most = 0;
    for (int b = 0; b < 16; b++) {
        weigh(x + 16 * b, 16, w);
        scale[b] = fit_symmetric(x + 16 * b, w, 16, 31);
        if (fabsf(scale[b]) > fabsf(most)) most = scale[b];
    }
    /* The largest scale becomes exactly -128·d. */
    float d = f16_to_f32(put_f16(out + 208, most / -128));
    signed char *scales = (signed char *)out + 192;
    unsigned char q[SUPER];
    for (int b = 0; b < 16; b++) {
        int s = d != 0 ? clamp(nearest(fminf(fmaxf(scale[b] / d, -129), 128)), -128, 127) : 0;
        scales[b] = (signed char)s;
        float step = d * (float)s, inverse = step != 0 ? 1 / step : 0;
        for (int i = 0; i < 16; i++) {
            float v = fminf(fmaxf(x[16 * b + i] * inverse, -32), 31);
            q[16 * b + i] = (unsigned char)(nearest(v) + 32);
        }
    }
    for (int half = 0; half < 2; half++) {
        const unsigned char *v = q + 128 * half;
        for (int i = 0; i < 32; i++) {
            out[64 * half + i] = (unsigned char)((v[i] & 15) | (v[64 + i] & 15) << 4);
            out[64 * half + 32 + i] = (unsigned char)((v[32 + i] & 15) | (v[96 + i] & 15) << 4);
            out[128 + 32 * half + i] = (unsigned char)(v[i] >> 4 | (v[32 + i] >> 4) << 2 |
                                                       (v[64 + i] >> 4) << 4 | (v[96 + i] >> 4) << 6);
        }
    }
    return f16_finite(most / -128);
}

bool kern_can_encode(enum dtype type)
{
    switch (type) {
    case DT_F32:
    case DT_F16:
    case DT_BF16:
    case DT_Q8_0:
    case DT_Q4_0:
    case DT_Q4_K:
    case DT_Q5_K:
    case DT_Q6_K: return true;
    default: return false;
    }
}

/* One block; false where a value or a scale is too large for the type. */
static bool encode_block(enum dtype type, unsigned char *out, const float *x)
{
    uint16_t h;
    switch (type) {
    case DT_F32: memcpy(out, x, 4); return true;
    case DT_F16: put_f16(out, *x); return f16_finite(*x);
    case DT_BF16:
        h = f32_to_bf16(*x);
        memcpy(out, &h, 2);
        return (h & 0x7f80) != 0x7f80;
    case DT_Q8_0: return encode_q8_0(out, x);
    case DT_Q4_0: return encode_q4_0(out, x);
    case DT_Q4_K: return encode_q45_k(out, x, 4);
    case DT_Q5_K: return encode_q45_k(out, x, 5);
    default: return encode_q6_k(out, x);
    }
}

int kern_encode(enum dtype type, void *dst, const float *src, int64_t n, struct err *e)
{
    if (!kern_can_encode(type))
        return err_set(e, ERR_UNSUPPORTED, "no encoder for type %s", dtype_name(type));
    const struct dtype_info *info = dtype_info(type);
    if (n < 0 || n % info->block != 0)
        return err_set(e, ERR_ARG, "%lld values are not whole blocks of %u (%s)", (long long)n, info->block,
                       info->name);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(src[i]))
            return err_set(e, ERR_NUMERIC, "value %lld is %s: expected a finite number", (long long)i,
                           isnan(src[i]) ? "NaN" : "infinite");
    unsigned char *out = dst;
    /* Beyond this the fits' sums of products leave float's range long before the scales leave half's. */
    bool fitted = type == DT_Q4_0 || type == DT_Q4_K || type == DT_Q5_K || type == DT_Q6_K;
    for (int64_t i = 0; fitted && i < n; i++)
        if (fabsf(src[i]) > 5e5f)
            return err_set(e, ERR_NUMERIC, "value %lld (%g) is too large for %s: bf16 has float's range",
                           (long long)i, (double)src[i], info->name);
    for (int64_t i = 0; i < n; i += info->block, out += info->bytes)
        if (!encode_block(type, out, src + i))
            return err_set(e, ERR_NUMERIC, "value %lld (%g) is too large for %s: bf16 has float's range",
                           (long long)i, (double)src[i], info->name);
    return 0;
}
