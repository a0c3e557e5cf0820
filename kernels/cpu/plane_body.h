/* Private to kernels/cpu: what the wide tiers' products with a gate in two planes share. A tier's planes.c
 * defines PLANE_TIER, includes this, adds what makes rows (join_words) and products, then uses DEFINE_PLANES.
 *
 * Listed rows are put together in scratch, four at a time, and multiplied by the tier's own mv there: their
 * bits are those of whole rows because the same code makes them. The rows stay in the L1 cache, so what
 * counts is still the bytes of the planes. */
#ifndef KERNELS_CPU_PLANE_BODY_H
#define KERNELS_CPU_PLANE_BODY_H

#include "kernels/cpu/plane_words.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

/* n words in order to dst, 64 at once: dst has room for whole vectors. The fine bytes at `next` are asked for
 * on the way: listed rows lie apart, and no hardware prefetcher knows of the next one. */
static inline void join_words(enum dtype type, uint8_t *dst, const uint8_t *coarse, const uint8_t *fine,
                              const uint8_t *next, uint32_t base, int64_t n);

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

enum { PLANE_AT_ONCE = 1 };

/* Bytes between rows in scratch: whole vectors are written, and not all rows begin at one place of a page. */
static size_t plane_row_bytes(int64_t n)
{
    return (((size_t)n * 2 + 127) & ~(size_t)127) + 64;
}

static size_t plane_scratch_bytes(int64_t n)
{
    return PLANE_AT_ONCE * plane_row_bytes(n);
}

static inline void listed_words(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                                const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    const struct kern_mat *mv = kern_tier(PLANE_TIER)->mv[type]; /* takes no scratch itself */
    const size_t apart = plane_row_bytes(n);
    for (int64_t i = 0; i < 2 && i < count; i++) plane_fetch(plane_fine(w, first, list, count, i), (size_t)n);
    for (int64_t i = 0; i < count; i += PLANE_AT_ONCE) {
        int64_t some = count - i < PLANE_AT_ONCE ? count - i : PLANE_AT_ONCE;
        for (int64_t j = 0; j < some; j++) {
            size_t at = (size_t)first + list[i + j];
            join_words(type, (uint8_t *)scratch + (size_t)j * apart, w->coarse + at * w->coarse_stride,
                       w->fine + at * w->fine_stride, plane_fine(w, first, list, count, i + j + 2),
                       w->rows[at].base, n);
        }
        mv->rows(y + i, 1, scratch, apart, some, n, xp, 1, NULL);
    }
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
