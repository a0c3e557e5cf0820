/* Private to kernels/cpu: what the wide tiers' products with a gate in two planes share. A tier's planes.c
 * includes this, adds its products and plane_scratch_bytes, then uses DEFINE_PLANES. */
#ifndef KERNELS_CPU_PLANE_BODY_H
#define KERNELS_CPU_PLANE_BODY_H

#include "kernels/cpu/plane_words.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

static inline void plane_fetch(const uint8_t *at, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + i, _MM_HINT_T0);
}

/* The fine part of listed row i, the last one's behind the end. */
static inline const uint8_t *plane_fine(const struct kern_planes_at *w, int64_t first, const uint16_t *list,
                                        int64_t count, int64_t i)
{
    return w->fine + ((size_t)first + list[i < count ? i : count - 1]) * w->fine_stride;
}

/* Rows four at once, a quarter of the range apart, as mv reads them; `name(type, R, z, apart, w, first, n,
 * xp)` makes R of them. */
#define PLANE_COARSE_ROWS(name, type, z, w, first, count, n, xp)                                             \
    do {                                                                                                     \
        int64_t r = 0, part = (count) / 4;                                                                   \
        for (; r < part; r++) name(type, 4, (z) + r, part, w, (first) + r, n, xp);                           \
        for (r = 4 * part; r < (count); r++) name(type, 1, (z) + r, 0, w, (first) + r, n, xp);               \
    } while (0)

#define DEFINE_PLANES(t, rows, of_list, values)                                                              \
    static void coarse_##t(float *z, const struct kern_planes_at *w, int64_t first, int64_t count,           \
                           int64_t n, const void *xp, void *scratch)                                         \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        PLANE_COARSE_ROWS(rows, DT_##t, z, w, first, count, n, xp);                                          \
    }                                                                                                        \
    static void listed_##t(float *y, const struct kern_planes_at *w, int64_t first, const uint16_t *list,    \
                           int64_t count, int64_t n, const void *xp, void *scratch)                          \
    {                                                                                                        \
        of_list(DT_##t, y, w, first, list, count, n, xp, scratch);                                           \
    }                                                                                                        \
    static const struct kern_planes planes_##t = {                                                           \
        .coarse = coarse_##t,                                                                                \
        .listed = listed_##t,                                                                                \
        .x_values = values,                                                                                  \
        .scratch_bytes = plane_scratch_bytes,                                                                \
    };

#endif
