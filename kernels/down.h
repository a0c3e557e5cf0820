/* Private to kernels/: how a SPLIT down matrix lies in memory (kernels.h). The store and device kernels read
 * the same bytes, so every tier shares this page.
 *
 * Columns come in tiles of 128, d is padded to whole tiles with zeros. Column 16k + j of a tile is field k of
 * lane j (k < 8, j < 16), so that vectors of 32-bit lanes find one column each with a shift. A neuron's part
 * is its codes:
 *
 * - Q8_0: 128 bytes a tile, the quants in the columns' order;
 * - 4 bit: 64 bytes a tile, 32-bit lane j holds field k in bits 4k to 4k+3;
 * - Q5_K: behind all nibbles, 16 bytes a tile: bit j of 16-bit word k is the fifth bit;
 * - Q6_K: behind all nibbles, 32 bytes a tile: 16-bit lane j holds the upper two bits of field k at 2k.
 *
 * A group's plane has a value for every column:
 *
 * - Q4_0, Q8_0: F16 scale;
 * - Q4_K, Q5_K: u8 scale, then behind all of them u8 minimum;
 * - Q6_K: i8 scale.
 *
 * A super-block's plane:
 *
 * - Q4_K, Q5_K: F16 d, then behind all of them F16 dmin;
 * - Q6_K: F16 d.
 *
 * The value of a code q: Q4_0 d·(q−8); Q8_0 d·q; Q4_K, Q5_K (d·scale)·q − dmin·minimum; Q6_K
 * (d·scale)·(q−32).
 */
#ifndef KERNELS_DOWN_H
#define KERNELS_DOWN_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DOWN_TILE 128

/* Constant where the type is: in kernels these fold away. */
static inline bool down_is_k(enum dtype t)
{
    return t == DT_Q4_K || t == DT_Q5_K || t == DT_Q6_K;
}

static inline int down_group(enum dtype t)
{
    return t == DT_Q6_K ? 16 : 32;
}

static inline int64_t down_tiles(int64_t d)
{
    return (d + DOWN_TILE - 1) / DOWN_TILE;
}

/* Bytes of codes a tile: the first plane's, and the second's. */
static inline size_t down_low_bytes(enum dtype t)
{
    return t == DT_Q8_0 ? 128 : 64;
}
static inline size_t down_high_bytes(enum dtype t)
{
    return t == DT_Q5_K ? 16 : t == DT_Q6_K ? 32 : 0;
}

static inline size_t down_split_bytes(enum dtype t, int64_t d)
{
    return ((size_t)down_tiles(d) * (down_low_bytes(t) + down_high_bytes(t)) + 63) / 64 * 64;
}
static inline size_t down_plane_bytes(enum dtype t, int64_t d)
{
    return (size_t)down_tiles(d) * DOWN_TILE * (t == DT_Q6_K ? 1 : 2);
}
static inline size_t down_super_bytes(enum dtype t, int64_t d)
{
    return (size_t)down_tiles(d) * DOWN_TILE * (t == DT_Q6_K ? 2 : down_is_k(t) ? 4 : 0);
}

/* A ROW of d values: floats are padded to whole tiles, blocks to 64 bytes. */
static inline size_t down_row_bytes(enum dtype t, int64_t d)
{
    const struct dtype_info *info = dtype_info((uint32_t)t);
    if (info->block == 1) return (size_t)down_tiles(d) * DOWN_TILE * info->bytes;
    return ((size_t)(d / info->block) * info->bytes + 63) / 64 * 64;
}

/* The codes of a tile as signed bytes, zero points taken away; `part` is the neuron's. */
static inline void down_codes(enum dtype t, int8_t out[DOWN_TILE], const uint8_t *part, int64_t tile,
                              int64_t tiles)
{
    const uint8_t *low = part + (size_t)tile * down_low_bytes(t);
    const uint8_t *high = part + (size_t)tiles * down_low_bytes(t) + (size_t)tile * down_high_bytes(t);
    const int zero = t == DT_Q4_0 ? 8 : t == DT_Q6_K ? 32 : 0;
    for (int c = 0; c < DOWN_TILE; c++) {
        int k = c / 16, j = c % 16;
        if (t == DT_Q8_0) {
            out[c] = (int8_t)low[c];
            continue;
        }
        int q = low[4 * j + k / 2] >> 4 * (k & 1) & 15;
        if (t == DT_Q5_K) q |= (high[2 * k + j / 8] >> j % 8 & 1) << 4;
        if (t == DT_Q6_K) q |= (high[2 * j + k / 4] >> 2 * (k % 4) & 3) << 4;
        out[c] = (int8_t)(q - zero);
    }
}

#endif
