/* Rows and tokens as 16-bit integers: the limits that keep every sum of products of a chunk within 32 bits,
 * and the choice of the factor. Shared by the products that multiply such integers in different ways and then
 * give the same bits.
 *
 * The order of values. A piece of 256 values is 16 groups of 16; a tier chooses which group of the source
 * stands at each place, the same for w and x, so that rows may be unpacked in whatever order their format
 * gives cheapest. */
#ifndef KERNELS_CPU_MM16_VALUES_H
#define KERNELS_CPU_MM16_VALUES_H

#include "base/dtype.h"

#include <stdint.h>
#include <string.h>

#define MM16_INLINE static inline __attribute__((always_inline))

enum {
    MM16_PIECE = 256,            /* values of a row that stand together */
    MM16_CHUNK = 2 * MM16_PIECE, /* values between two conversions to float, with one factor */
};

/* Limits of the integers: single values, and the norms over a chunk. Rounding may add 1.5 a value to w and
 * 0.5 to x, which the products of the limits leave room for:
 * (92600 + 1.5·√512)(23150 + 0.5·√512) < 2^31. */
#define MM16_MAX    16380.0f
#define MM16_NORM_W 92600.0f
#define MM16_NORM_X 23150.0f

/* One row, `values` ≤ 512 of them from a chunk (the rest of the two pieces becomes 0), to integers in
 * the tier's order. Returns the factor back to float; NaN if the values are not finite. */
typedef float mm16_quantise(int16_t *dst, const uint8_t *src, int64_t values);

/* Rows lie far apart, so the hardware sees neither the next rows of a chunk coming nor the next chunk of a
 * row: fetches both. `bytes`: of a chunk of a row. */
MM16_INLINE void mm16_fetch_ahead(const uint8_t *from, size_t row_bytes, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + 4 * row_bytes + at, 0, 3);
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + bytes + at, 0, 2);
}

/* The factor to integers from the largest magnitude (as bits: NaN and infinity are larger than all numbers)
 * and the sum of squares; *back its inverse. Not finite: 0 and NaN. */
MM16_INLINE float mm16_factor(uint32_t most, float squares, float norm, float *back)
{
    float max;
    memcpy(&max, &most, sizeof max);
    *back = most >= 0x7f800000u ? __builtin_nanf("") : 0;
    if (most >= 0x7f800000u || max < 0x1p-100f) return 0;
    /* √512 of the largest, divided by in turn: squares and multiples of very large values are no floats. */
    float by_norm = norm / 22.63f / max;
    if (max < 0x1p50f && max > 0x1p-50f) by_norm = norm / __builtin_sqrtf(squares);
    float by_max = MM16_MAX / max, f = by_norm < by_max ? by_norm : by_max;
    *back = 1.0f / f;
    return f;
}

#endif
