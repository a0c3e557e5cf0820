/* Vector operations on the vectors of simd.h: compiled once by each wide tier's vec.c. Sums run in double
 * over a fixed number of lanes in a fixed order; the last, partial vector is loaded with zeros beyond its
 * end. */
#ifndef KERNELS_CPU_VEC_BODY_H
#define KERNELS_CPU_VEC_BODY_H

#include "base/half.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stddef.h>

SIMD vf load_upto(const float *p, int64_t left)
{
    return left >= W ? vf_load(p) : vf_load_part(p, left);
}

SIMD void store_upto(float *p, vf v, int64_t left)
{
    if (left >= W)
        vf_store(p, v);
    else
        vf_store_part(p, v, left);
}

/* Σ (x - mean)². */
static double sum_squares(const float *x, int64_t n, double mean)
{
    vd a = vd_zero(), b = vd_zero(), m = vd_set(mean);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        vf v = vf_load(x + i);
        vd l = vd_sub(vd_low(v), m), h = vd_sub(vd_high(v), m);
        a = vd_fma(l, l, a);
        b = vd_fma(h, h, b);
    }
    double sum = vd_sum(vd_add(a, b));
    for (; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

static double sum_values(const float *x, int64_t n)
{
    vd a = vd_zero(), b = vd_zero();
    for (int64_t i = 0; i < n; i += W) {
        vf v = load_upto(x + i, n - i);
        a = vd_add(a, vd_low(v));
        b = vd_add(b, vd_high(v));
    }
    return vd_sum(vd_add(a, b));
}

static void vec_rmsnorm(float *y, const float *x, const float *w, int64_t n, float eps)
{
    vf scale = vf_set((float)(1 / sqrt(sum_squares(x, n, 0) / (double)n + eps)));
    for (int64_t i = 0; i < n; i += W)
        store_upto(y + i, vf_mul(vf_mul(load_upto(x + i, n - i), scale), load_upto(w + i, n - i)), n - i);
}

static void vec_layernorm(float *y, const float *x, const float *w, const float *b, int64_t n, float eps)
{
    double mean = sum_values(x, n) / (double)n;
    double root = 1 / sqrt(sum_squares(x, n, mean) / (double)n + eps);
    vf scale = vf_set((float)root);
    /* The mean in two floats: x - mean is exact where they are close. */
    vf high = vf_set((float)mean), low = vf_set((float)(mean - (float)mean));
    for (int64_t i = 0; i < n; i += W) {
        vf v = vf_sub(vf_sub(load_upto(x + i, n - i), high), low);
        v = vf_mul(vf_mul(v, scale), load_upto(w + i, n - i));
        if (b) v = vf_add(v, load_upto(b + i, n - i));
        store_upto(y + i, v, n - i);
    }
}

static void rotate(float *a, float *b, float c, float s)
{
    float x = *a, y = *b;
    *a = fmaf(x, c, -(y * s));
    *b = fmaf(y, c, x * s);
}

static void vec_rope(float *x, const float *cs, int heads, int head_dim, int rot, enum kern_rope pairing)
{
    int half = rot / 2;
    for (int h = 0; h < heads; h++, x += head_dim) {
        int i = 0;
        if (pairing == KERN_ROPE_NORM) {
            for (; i + W / 2 <= half; i += W / 2)
                vf_store(x + 2 * i, vf_rotate_pairs(vf_load(x + 2 * i), vf_load(cs + 2 * i)));
            for (; i < half; i++) rotate(x + 2 * i, x + 2 * i + 1, cs[2 * i], cs[2 * i + 1]);
        } else {
            for (; i + W <= half; i += W) {
                vf c, s, a = vf_load(x + i), b = vf_load(x + half + i);
                vf_unzip(vf_load(cs + 2 * i), vf_load(cs + 2 * i + W), &c, &s);
                vf_store(x + i, vf_fma(a, c, vf_mul(vf_sub(vf_set(0), b), s)));
                vf_store(x + half + i, vf_fma(b, c, vf_mul(a, s)));
            }
            for (; i < half; i++) rotate(x + i, x + half + i, cs[2 * i], cs[2 * i + 1]);
        }
    }
}

/* 1 / (1 + e^-x). */
SIMD vf sigmoid(vf x)
{
    return vf_div(vf_set(1), vf_add(vf_set(1), vf_exp(vf_sub(vf_set(0), x))));
}

SIMD vf silu(vf x)
{
    return vf_div(x, vf_add(vf_set(1), vf_exp(vf_sub(vf_set(0), x))));
}

/* x·Φ(x), Φ(x) = erfc(-x/√2)/2. For z ≥ 0: erfc(z) = t·e^(g(t) − z²), t = 1/(1 + z/2), g a polynomial of
 * degree 9 fitted at Chebyshev nodes: relative error 2e-7, so that the negative side keeps its digits. */
SIMD vf gelu(vf x)
{
    vf z = vf_mul(vf_abs(x), vf_set(0x1.6a09e6p-1f));
    vf t = vf_div(vf_set(1), vf_fma(z, vf_set(0.5f), vf_set(1)));
    vf g = vf_set(0x1.6968bep-3f);
    g = vf_fma(g, t, vf_set(-0x1.b2ae54p-1f));
    g = vf_fma(g, t, vf_set(0x1.8af588p+0f));
    g = vf_fma(g, t, vf_set(-0x1.3209eap+0f));
    g = vf_fma(g, t, vf_set(0x1.4671c0p-2f));
    g = vf_fma(g, t, vf_set(-0x1.9e7c80p-3f));
    g = vf_fma(g, t, vf_set(0x1.9c38d6p-4f));
    g = vf_fma(g, t, vf_set(0x1.7e8c1ap-2f));
    g = vf_fma(g, t, vf_set(0x1.0003a8p+0f));
    g = vf_fma(g, t, vf_set(-0x1.43f8a8p+0f));
    vf tail = vf_mul(vf_mul(vf_set(0.5f), t), vf_exp(vf_fnma(z, z, g)));
    return vf_mul(x, vf_select(vf_lt(x, vf_set(0)), tail, vf_sub(vf_set(1), tail)));
}

/* tanh(u) = 2·sigmoid(2u) − 1. */
SIMD vf gelu_tanh(vf x)
{
    vf cube = vf_mul(vf_mul(x, x), x);
    vf u = vf_mul(vf_set(2 * 0.79788456080286535588f), vf_fma(cube, vf_set(0.044715f), x));
    return vf_mul(x, sigmoid(u));
}

SIMD vf relu(vf x)
{
    return vf_max(vf_set(0), x); /* NaN and -0 stay */
}

SIMD vf fatrelu(vf x, vf least)
{
    return vf_select(vf_lt(x, least), vf_set(0), x);
}

SIMD vf act_one(vf x, enum kern_act kind, vf param)
{
    switch (kind) {
    case KERN_SILU: return silu(x);
    case KERN_GELU: return gelu(x);
    case KERN_GELU_TANH: return gelu_tanh(x);
    case KERN_RELU:
    case KERN_DRELU: return relu(x);
    case KERN_RELU2: return vf_mul(relu(x), relu(x));
    case KERN_FATRELU: return fatrelu(x, param);
    }
    return x;
}

SIMD void act_loop(float *h, const float *gate, const float *up, int64_t n, enum kern_act kind, vf param)
{
    for (int64_t i = 0; i < n; i += W) {
        vf v = act_one(load_upto(gate + i, n - i), kind, param);
        if (up) {
            vf u = load_upto(up + i, n - i);
            v = vf_mul(v, kind == KERN_DRELU ? relu(u) : u);
        }
        store_upto(h + i, v, n - i);
    }
}

static void vec_act(float *h, const float *gate, const float *up, int64_t n, enum kern_act kind, float param)
{
    vf p = vf_set(param);
    switch (kind) { /* a constant in each call: no switch inside the loop */
    case KERN_SILU: act_loop(h, gate, up, n, KERN_SILU, p); break;
    case KERN_GELU: act_loop(h, gate, up, n, KERN_GELU, p); break;
    case KERN_GELU_TANH: act_loop(h, gate, up, n, KERN_GELU_TANH, p); break;
    case KERN_RELU: act_loop(h, gate, up, n, KERN_RELU, p); break;
    case KERN_DRELU: act_loop(h, gate, up, n, KERN_DRELU, p); break;
    case KERN_RELU2: act_loop(h, gate, up, n, KERN_RELU2, p); break;
    case KERN_FATRELU: act_loop(h, gate, up, n, KERN_FATRELU, p); break;
    }
}

static void vec_add(float *y, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += W)
        store_upto(y + i, vf_add(load_upto(y + i, n - i), load_upto(x + i, n - i)), n - i);
}

static void vec_scale(float *y, float s, int64_t n)
{
    for (int64_t i = 0; i < n; i += W) store_upto(y + i, vf_mul(load_upto(y + i, n - i), vf_set(s)), n - i);
}

static void vec_softmax(float *x, int64_t n)
{
    vf most = vf_set(-INFINITY);
    int64_t i = 0;
    for (; i + W <= n; i += W) most = vf_max(vf_load(x + i), most);
    float max = vf_most(most);
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    vd a = vd_zero(), b = vd_zero();
    vf shift = vf_set(max);
    for (i = 0; i + W <= n; i += W) {
        vf e = vf_exp(vf_sub(vf_load(x + i), shift));
        a = vd_add(a, vd_low(e));
        b = vd_add(b, vd_high(e));
        vf_store(x + i, e);
    }
    double sum = vd_sum(vd_add(a, b));
    if (i < n) { /* lanes beyond the end would add e^-max */
        vf_store_part(x + i, vf_exp(vf_sub(vf_load_part(x + i, n - i), shift)), n - i);
        for (; i < n; i++) sum += x[i];
    }
    vec_scale(x, (float)(1 / sum), n);
}

/* As the reference: round half away from zero, computed without the double rounding of adding a half. */
static void store_q8_0(uint8_t *b, const float *x)
{
    vf v[32 / W], most = vf_set(0), nothing = vf_set(0);
    for (int i = 0; i < 32 / W; i++) {
        v[i] = vf_load(x + W * i);
        most = vf_max(vf_abs(v[i]), most);
        nothing = vf_fma(v[i], vf_set(0), nothing);
    }
    float d = vf_most(most) / 127, inverse = d >= 0x1p-126f ? 1 / d : 0;
    uint16_t half = f32_to_f16(d + vf_sum(nothing));
    memcpy(b, &half, 2);
    for (int i = 0; i < 32 / W; i++) {
        vf q = vf_mul(v[i], vf_set(inverse)), whole = vf_trunc(q);
        vf up = vf_select(vf_le(vf_set(0.5f), vf_abs(vf_sub(q, whole))), vf_set(1), vf_set(0));
        q = vf_add(whole, vf_copysign(up, q));
        q = vf_select(vf_lt(vf_abs(q), vf_set(128)), q, vf_set(0)); /* NaN and infinity: 0, the scale tells */
        vf_store_i8(b + 2 + W * i, q);
    }
}

static void vec_kv_store(enum dtype type, void *dst, const float *src, int64_t n)
{
    uint8_t *b = dst;
    if (type == DT_F16) {
        int64_t i = 0;
        for (; i + W <= n; i += W) vf_store_f16(b + 2 * i, vf_load(src + i));
        if (i < n) vf_store_f16_part(b + 2 * i, vf_load_part(src + i, n - i), n - i);
    } else if (type == DT_Q8_0) {
        for (int64_t i = 0; i + 32 <= n; i += 32, b += 34) store_q8_0(b, src + i);
    } else {
        ref_kv_store(type, dst, src, n);
    }
}

static void vec_fill(struct kern_ops *ops)
{
    ops->kv_store = vec_kv_store;
    ops->rmsnorm = vec_rmsnorm;
    ops->layernorm = vec_layernorm;
    ops->rope = vec_rope;
    ops->act = vec_act;
    ops->add = vec_add;
    ops->scale = vec_scale;
    ops->softmax = vec_softmax;
}

#endif
