/* Vector operations in plain loops with double sums and libm's functions in double. */
#include "base/half.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/kernels.h"

#include <math.h>

static void rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    double scale = 1 / sqrt(sum / (double)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = (float)(x[i] * scale * w[i]);
}

static void layernorm(float *y, const float *x, const float *w, const float *b, int64_t n, float eps)
{
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    double scale = 1 / sqrt(squares / (double)n + eps);
    for (int64_t i = 0; i < n; i++) y[i] = (float)((x[i] - mean) * scale * w[i] + (b ? b[i] : 0));
}

static void rope(float *x, const float *cs, int heads, int head_dim, int rot, enum kern_rope pairing)
{
    int step = pairing == KERN_ROPE_NORM ? 2 : 1, other = pairing == KERN_ROPE_NORM ? 1 : rot / 2;
    for (int h = 0; h < heads; h++, x += head_dim) {
        for (int i = 0; i < rot / 2; i++) {
            float *p = x + (ptrdiff_t)i * step;
            double c = cs[2 * i], s = cs[2 * i + 1], a = p[0], b = p[other];
            p[0] = (float)(a * c - b * s);
            p[other] = (float)(a * s + b * c);
        }
    }
}

/* A comparison that is false for NaN keeps it: no activation hides a NaN. */
static float relu(float x)
{
    return x < 0 ? 0 : x;
}

static float act_one(float x, enum kern_act kind, float param)
{
    double d = x;
    switch (kind) {
    case KERN_SILU: return (float)(d / (1 + exp(-d)));
    /* Φ through erfc and tanh through exp: 1 + erf and 1 + tanh lose their digits left of zero. */
    case KERN_GELU: return (float)(0.5 * d * erfc(-d * 0.70710678118654752440));
    case KERN_GELU_TANH:
        return (float)(d / (1 + exp(-2 * 0.79788456080286535588 * (d + 0.044715 * d * d * d))));
    case KERN_RELU:
    case KERN_DRELU: return relu(x);
    case KERN_RELU2: return relu(x) * relu(x);
    case KERN_FATRELU: return x < param ? 0 : x;
    }
    return x;
}

static void act(float *h, const float *gate, const float *up, int64_t n, enum kern_act kind, float param)
{
    for (int64_t i = 0; i < n; i++) {
        float a = act_one(gate[i], kind, param);
        if (up) a *= kind == KERN_DRELU ? relu(up[i]) : up[i];
        h[i] = a;
    }
}

static void add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

static void scale(float *y, float s, int64_t n)
{
    for (int64_t i = 0; i < n; i++) y[i] *= s;
}

static void softmax(float *x, int64_t n)
{
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = exp((double)x[i] - max);
        x[i] = (float)e;
        sum += e;
    }
    for (int64_t i = 0; i < n; i++) x[i] = (float)(x[i] / sum);
}

/* A value that is no number makes the scale NaN: the block cannot pass for a good one. */
void ref_encode_q8_0(uint8_t *b, const float *x)
{
    float most = 0, nothing = 0;
    for (int i = 0; i < 32; i++) {
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
        nothing += x[i] * 0;
    }
    float d = most / 127, inverse = d >= 0x1p-126f ? 1 / d : 0; /* below, 1 / d overflows and d is 0 as F16 */
    uint16_t half = f32_to_f16(d + nothing);
    b[0] = (uint8_t)half;
    b[1] = (uint8_t)(half >> 8);
    for (int i = 0; i < 32; i++) {
        float v = x[i] * inverse;
        v = fabsf(v) < 127.5f ? v : 0;
        int q = (int)v; /* then half away from zero: v - q is exact */
        q += (v - (float)q >= 0.5f) - (v - (float)q <= -0.5f);
        b[2 + i] = (uint8_t)(int8_t)q;
    }
}

void ref_kv_store(enum dtype type, void *dst, const float *src, int64_t n)
{
    uint8_t *b = dst;
    if (type == DT_F32) {
        memcpy(dst, src, (size_t)n * sizeof *src);
    } else if (type == DT_F16) {
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = f32_to_f16(src[i]);
            memcpy(b + 2 * i, &h, 2);
        }
    } else if (type == DT_Q8_0) {
        for (int64_t i = 0; i + 32 <= n; i += 32, b += 34) ref_encode_q8_0(b, src + i);
    }
}

void ref_vec_init(struct kern_ops *ops)
{
    ops->decode = ref_decode;
    ops->kv_store = ref_kv_store;
    ops->rmsnorm = rmsnorm;
    ops->layernorm = layernorm;
    ops->rope = rope;
    ops->act = act;
    ops->add = add;
    ops->scale = scale;
    ops->softmax = softmax;
}
