/* Private to kernels/: how a SPLIT down matrix lies in memory (kernels.h). The store and device kernels read
 * the same bytes, so every tier shares this page.
 *
 * Columns come in tiles of 64; d is padded to whole tiles with zeros. A neuron's part is its codes:
 *   Q8_0   64 bytes a tile, the quants
 *   4 bit  32 bytes a tile: byte j holds column j in its low half, column j + 32 in its high half
 *   Q5_K   behind all nibbles, 8 bytes a tile: bit m of byte k is the fifth bit of column k + 8m
 *   Q6_K   behind all nibbles, 16 bytes a tile: bits 2m, 2m+1 of byte k are the fifth and sixth of column k +
 * 16m A group's plane, values for every column: Q4_0, Q8_0  F16 scale      Q4_K, Q5_K  u8 scale, then behind
 * all of them u8 minimum      Q6_K  i8 scale A super-block's plane: Q4_K, Q5_K  F16 d, then behind all of
 * them F16 dmin      Q6_K  F16 d The value of a code q: Q4_0 d·(q−8), Q8_0 d·q, Q4_K and Q5_K (d·scale)·q −
 * dmin·minimum, Q6_K (d·scale)·(q−32).
 */
#ifndef KERNELS_DOWN_H
#define KERNELS_DOWN_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DOWN_TILE 64

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
    return t == DT_Q8_0 ? 64 : 32;
}
static inline size_t down_high_bytes(enum dtype t)
{
    return t == DT_Q5_K ? 8 : t == DT_Q6_K ? 16 : 0;
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

/* The 64 codes of a tile as signed bytes, zero points taken away; `part` is the neuron's. */
static inline void down_codes(enum dtype t, int8_t out[DOWN_TILE], const uint8_t *part, int64_t tile,
                              int64_t tiles)
{
    const uint8_t *low = part + (size_t)tile * down_low_bytes(t);
    const uint8_t *high = part + (size_t)tiles * down_low_bytes(t) + (size_t)tile * down_high_bytes(t);
    if (t == DT_Q8_0) {
        for (int j = 0; j < 64; j++) out[j] = (int8_t)low[j];
        return;
    }
    uint8_t q[DOWN_TILE];
    for (int j = 0; j < 32; j++) {
        q[j] = low[j] & 15;
        q[j + 32] = low[j] >> 4;
    }
    if (t == DT_Q5_K)
        for (int m = 0; m < 8; m++)
            for (int k = 0; k < 8; k++) q[8 * m + k] |= (uint8_t)((high[k] >> m & 1) << 4);
    if (t == DT_Q6_K)
        for (int m = 0; m < 4; m++)
            for (int k = 0; k < 16; k++) q[16 * m + k] |= (uint8_t)((high[k] >> 2 * m & 3) << 4);
    const int zero = t == DT_Q4_0 ? 8 : t == DT_Q6_K ? 32 : 0;
    for (int j = 0; j < 64; j++) out[j] = (int8_t)(q[j] - zero);
}

#endif
