/* See train_math.h. */
#include "placement/train_math.h"

#include <math.h>

/* 16 floats at any address. */
typedef float v16 __attribute__((vector_size(64), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* ---- Products ---- */

/* `rows` rows (a constant) of `wide` vectors. */
INLINE void tile(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b, int64_t ldb,
                 int64_t depth, const int rows, const int wide)
{
    v16 acc[6][2] = {0};
    for (int64_t k = 0; k < depth; k++, a += ak, b += ldb) {
#pragma GCC unroll 6
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
            for (int j = 0; j < wide; j++) acc[i][j] += a[i * ai] * *(const v16 *)(b + 16 * j);
    }
#pragma GCC unroll 6
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int j = 0; j < wide; j++) *(v16 *)(c + i * ldc + 16 * j) = acc[i][j];
}

INLINE void product(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b,
                    int64_t ldb, int64_t m, int64_t n, int64_t depth, const int rows, const int wide)
{
    for (int64_t j = 0; j < n; j += 16 * wide) {
        int64_t i = 0;
        for (; i + rows <= m; i += rows)
            tile(c + i * ldc + j, ldc, a + i * ai, ai, ak, b + j, ldb, depth, rows, wide);
        for (; i < m; i++) tile(c + i * ldc + j, ldc, a + i * ai, ai, ak, b + j, ldb, depth, 1, wide);
    }
}

/* ---- Elementwise: loops that the compiler turns into vectors ---- */

/* e^x for x ≤ 0, within 2e-7 of it. */
INLINE float exp_negative(float x)
{
    int32_t n = (int32_t)(x * 1.44269504f - 0.5f); /* towards zero, so the nearest whole number */
    n = n < -126 ? -126 : n;                       /* below, what comes out is small, not right */
    float k = (float)n, r = x - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    union {
        int32_t i;
        float f;
    } two = {.i = (n + 127) * (1 << 23)};
    return p * two.f;
}

INLINE void gradient(float *z, const uint16_t *wanted, float weight, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        union {
            uint32_t u;
            float f;
        } m = {.u = (uint32_t)wanted[j] << 16};
        float x = z[j], e = exp_negative(-fabsf(x)), positive = (float)(x > 0.0f);
        float s = (e + positive * (1.0f - e)) / (1.0f + e),
              on = (float)(wanted[j] != 0); /* s: the logistic of x */
        z[j] = (s - on) * (1.0f - on + m.f * weight);
    }
}

INLINE void adam(const struct train_adam *a, float *w, float *m, float *v, const float *g, int64_t n)
{
    const float b1 = a->beta1, b2 = a->beta2, step = a->step, eps = a->epsilon, scale = a->scale;
    for (int64_t i = 0; i < n; i++) {
        float x = g[i] * scale;
        m[i] = b1 * m[i] + (1.0f - b1) * x;
        v[i] = b2 * v[i] + (1.0f - b2) * x * x;
        w[i] -= step * m[i] / (sqrtf(v[i]) + eps);
    }
}

/* ---- One of each for every instruction set ---- */

struct table {
    void (*product)(float *, int64_t, const float *, int64_t, int64_t, const float *, int64_t, int64_t,
                    int64_t, int64_t);
    void (*gradient)(float *, const uint16_t *, float, int64_t);
    void (*adam)(const struct train_adam *, float *, float *, float *, const float *, int64_t);
};

#define VARIANT(name, attribute, rows, wide)                                                                 \
    attribute static void product_##name(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak,      \
                                         const float *b, int64_t ldb, int64_t m, int64_t n, int64_t depth)   \
    {                                                                                                        \
        product(c, ldc, a, ai, ak, b, ldb, m, n, depth, rows, wide);                                         \
    }                                                                                                        \
    attribute static void gradient_##name(float *z, const uint16_t *wanted, float weight, int64_t n)         \
    {                                                                                                        \
        gradient(z, wanted, weight, n);                                                                      \
    }                                                                                                        \
    attribute static void adam_##name(const struct train_adam *a, float *w, float *m, float *v,              \
                                      const float *g, int64_t n)                                             \
    {                                                                                                        \
        adam(a, w, m, v, g, n);                                                                              \
    }                                                                                                        \
    static const struct table table_##name = {product_##name, gradient_##name, adam_##name};

VARIANT(plain, , 4, 1)
#if defined(__x86_64__)
VARIANT(avx2, __attribute__((target("avx2,fma"))), 4, 1)
VARIANT(avx512, __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), 6, 2)
#endif

static const struct table *choose(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return &table_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &table_avx2;
#endif
    return &table_plain;
}

void train_product(float *c, int64_t ldc, const float *a, int64_t ai, int64_t ak, const float *b, int64_t ldb,
                   int64_t m, int64_t n, int64_t depth)
{
    choose()->product(c, ldc, a, ai, ak, b, ldb, m, n, depth);
}

void train_gradient(float *z, const uint16_t *wanted, float weight, int64_t n)
{
    choose()->gradient(z, wanted, weight, n);
}

void train_adam(const struct train_adam *a, float *w, float *m, float *v, const float *g, int64_t n)
{
    choose()->adam(a, w, m, v, g, n);
}
