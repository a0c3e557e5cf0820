/* Products with a gate in two planes, in double: the coarse part alone, or rows put together again. */
#include "base/half.h"
#include "kernels/cpu/plane_words.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void ref_plane_join(enum dtype type, uint8_t *dst, const uint8_t *coarse, const uint8_t *fine,
                    const struct kern_plane_row *row, int64_t n)
{
    if (type == DT_Q8_0) {
        for (int64_t b = 0; b < n / 32; b++, dst += 34, coarse += 18, fine += 16) {
            memcpy(dst, coarse, 2);
            for (int i = 0; i < 16; i++) {
                uint8_t c = coarse[2 + i], f = fine[i];
                dst[2 + i] = (uint8_t)((c << 4 | (f & 15)) ^ 0x80);
                dst[18 + i] = (uint8_t)(((c & 0xf0) | f >> 4) ^ 0x80);
            }
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint16_t word = plane_together(type, row->base, coarse[plane_place(i)], fine[plane_place(i)]);
        dst[2 * i] = (uint8_t)word;
        dst[2 * i + 1] = (uint8_t)(word >> 8);
    }
}

static float coarse_words(const uint8_t *c, float unit, const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)bf16_to_f32(plane_coarse_bf16(c[plane_place(i)])) * (double)x[i];
    return (float)(sum * (double)unit);
}

static float coarse_q8_0(const uint8_t *c, const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t b = 0; b < n / 32; b++, c += 18, x += 32) {
        double part = 0;
        for (int i = 0; i < 16; i++) {
            part += (16 * (c[2 + i] & 15) - 120.5) * (double)x[i];
            part += (16 * (c[2 + i] >> 4) - 120.5) * (double)x[i + 16];
        }
        sum += part * (double)f16_to_f32(ref_u16(c));
    }
    return (float)sum;
}

static void coarse_of(enum dtype type, float *z, const struct kern_planes_at *w, int64_t first, int64_t count,
                      int64_t n, const float *x)
{
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *c = w->coarse + (size_t)(first + i) * w->coarse_stride;
        z[i] = type == DT_Q8_0 ? coarse_q8_0(c, x, n) : coarse_words(c, w->rows[first + i].unit, x, n);
    }
}

/* The row in front, then the product's own scratch. */
static size_t row_bytes(int64_t n)
{
    return ((size_t)n * 2 + 63) & ~(size_t)63; /* Q8_0 takes less */
}

static size_t scratch_bytes(int64_t n)
{
    return row_bytes(n) + kern_tier(KERN_REF)->mv[DT_F16]->scratch_bytes(n);
}

static void listed_of(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                      const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    const struct kern_mat *mv = kern_tier(KERN_REF)->mv[type];
    uint8_t *row = scratch, *rest = row + row_bytes(n);
    for (int64_t i = 0; i < count; i++) {
        size_t at = (size_t)first + list[i];
        ref_plane_join(type, row, w->coarse + at * w->coarse_stride, w->fine + at * w->fine_stride,
                       &w->rows[at], n);
        mv->rows(y + i, 1, row, row_bytes(n), 1, n, xp, 1, rest);
    }
}

static void x_values(float *x, const void *xp, int64_t n)
{
    memcpy(x, xp, (size_t)n * sizeof *x);
}

#define DEFINE(t)                                                                                            \
    static void coarse_##t(float *z, const struct kern_planes_at *w, int64_t first, int64_t count,           \
                           int64_t n, const void *xp, void *scratch)                                         \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        coarse_of(DT_##t, z, w, first, count, n, xp);                                                        \
    }                                                                                                        \
    static void listed_##t(float *y, const struct kern_planes_at *w, int64_t first, const uint16_t *list,    \
                           int64_t count, int64_t n, const void *xp, void *scratch)                          \
    {                                                                                                        \
        listed_of(DT_##t, y, w, first, list, count, n, xp, scratch);                                         \
    }                                                                                                        \
    static const struct kern_planes planes_##t = {                                                           \
        .coarse = coarse_##t,                                                                                \
        .listed = listed_##t,                                                                                \
        .x_values = x_values,                                                                                \
        .scratch_bytes = scratch_bytes,                                                                      \
    };
DEFINE(F16)
DEFINE(BF16)
DEFINE(Q8_0)

void ref_planes_init(struct kern_ops *ops)
{
    ops->planes[DT_F16] = &planes_F16;
    ops->planes[DT_BF16] = &planes_BF16;
    ops->planes[DT_Q8_0] = &planes_Q8_0;
}
