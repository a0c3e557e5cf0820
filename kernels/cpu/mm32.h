/* Products of many tokens in float, for weights kept in F32: Y = X Wᵀ by tiles of MR rows × NT vectors of
 * tokens, W broadcast and tokens as lanes. Each y is a sum over chunks of 128 values, in order, of sums over
 * the chunk, in order, whatever the split of rows and tokens.
 *
 * A tier includes this after kernels/cpu/mm16.h, whose vectors it uses. */
#ifndef KERNELS_CPU_MM32_H
#define KERNELS_CPU_MM32_H

#include "kernels/cpu/mm16.h"

enum {
    MM32_CHUNK = 128, /* a tile of tokens of a chunk fills two thirds of the first-level cache */
    MM32_PANEL = 32 * MR,
};

/* Prepared: chunk by chunk, tile by tile: [value][token]. Tokens are padded to whole vectors, values with 0.
 */
static size_t mm32_x_bytes(int64_t n, int64_t T)
{
    int64_t padded = (T + VL - 1) / VL * VL, chunks = (n + MM32_CHUNK - 1) / MM32_CHUNK;
    return (size_t)chunks * MM32_CHUNK * (size_t)padded * sizeof(float);
}

static void mm32_x_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    int64_t padded = (T + VL - 1) / VL * VL;
    for (int64_t k0 = 0; k0 < n; k0 += MM32_CHUNK)
        for (int64_t t = t0; t < t1; t += VL) {
            int64_t tile = t - t % MM16_TILE, left = padded - tile;
            int64_t width = left < MM16_TILE ? left : MM16_TILE;
            float *to = (float *)dst + k0 * padded + tile * MM32_CHUNK + (t - tile);
            for (int64_t k = 0; k < MM32_CHUNK; k += VL) {
                int64_t have = n - k0 - k < VL ? n - k0 - k : VL;
                vi v[VL];
                for (int64_t i = 0; i < VL; i++) {
                    float row[VL] __attribute__((aligned(64))) = {0};
                    if (t + i < t1 && have > 0)
                        memcpy(row, x + (t + i) * ldx + k0 + k, (size_t)have * sizeof *row);
                    v[i] = vi_load(row);
                }
                vi_transpose(v);
                for (int64_t i = 0; i < VL; i++) vi_store(to + (k + i) * width, v[i]);
            }
        }
}

struct mm32_scratch {
    float w[MM32_PANEL][MM32_CHUNK];
    float c[MM16_BLOCK * MM32_PANEL]; /* [tile][row][token] */
};

static size_t mm32_scratch_bytes(int64_t n)
{
    (void)n;
    return (sizeof(struct mm32_scratch) + 63) & ~(size_t)63;
}

MM16_INLINE void mm32_tile_of(int nt, float *c, const float *w, const float *x, int64_t values)
{
    vf acc[MR][NT];
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nt; j++) acc[r][j] = vf_set1(0);
    for (int64_t k = 0; k < values; k++) {
        vf xv[NT];
#pragma GCC unroll 8
        for (int j = 0; j < nt; j++) xv[j] = vf_load(x + (k * nt + j) * VL);
#pragma GCC unroll 16
        for (int r = 0; r < MR; r++) {
            vf wv = vf_set1(w[r * MM32_CHUNK + k]);
#pragma GCC unroll 8
            for (int j = 0; j < nt; j++) acc[r][j] = vf_fma(xv[j], wv, acc[r][j]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nt; j++) {
            float *p = c + (r * nt + j) * VL;
            vf_store(p, vf_add(vf_load(p), acc[r][j]));
        }
}

typedef void mm32_tile(float *c, const float *w, const float *x, int64_t values);

#define MM32_TILE_FN(nt)                                                                                     \
    static __attribute__((noinline)) void mm32_tile##nt(float *c, const float *w, const float *x,            \
                                                        int64_t values)                                      \
    {                                                                                                        \
        mm32_tile_of(nt, c, w, x, values);                                                                   \
    }
MM32_TILE_FN(1)
MM32_TILE_FN(2)
#if NT > 2
MM32_TILE_FN(3)
MM32_TILE_FN(4)
static mm32_tile *const mm32_tiles[] = {mm32_tile1, mm32_tile2, mm32_tile3, mm32_tile4};
#else
static mm32_tile *const mm32_tiles[] = {mm32_tile1, mm32_tile2};
#endif

static void mm32_panel(struct mm32_scratch *s, float *y, int64_t ldy, const uint8_t *w, size_t row_bytes,
                       int64_t rows, int64_t n, const float *x, int64_t T, int64_t t0, int64_t t1)
{
    int64_t all = (rows + MR - 1) / MR * MR;
    struct mm16_shape sh = mm16_shape(n, T);
    for (int64_t k = 0; k < n; k += MM32_CHUNK) {
        int64_t values = n - k < MM32_CHUNK ? n - k : MM32_CHUNK;
        for (int64_t r = 0; r < all; r++) {
            if (r >= rows) {
                memset(s->w[r], 0, sizeof s->w[r]);
                continue;
            }
            const uint8_t *from = w + (size_t)r * row_bytes + (size_t)k * sizeof(float);
            for (size_t at = sizeof s->w[r]; at < 2 * sizeof s->w[r]; at += 64)
                __builtin_prefetch(from + at, 0, 2);
            memcpy(s->w[r], from, (size_t)values * sizeof(float));
        }
        for (int64_t t = t0; t < t1; t += MM16_TILE) {
            int64_t width = mm16_width(&sh, t);
            float *c = s->c + (t - t0) * all;
            if (k == 0) memset(c, 0, (size_t)(all * width * VL) * sizeof *c);
            for (int64_t r = 0; r < all; r += MR)
                mm32_tiles[width - 1](c + r * width * VL, s->w[r], x + k * sh.padded + t * MM32_CHUNK,
                                      values);
        }
    }
    for (int64_t t = t0; t < t1; t += MM16_TILE)
        mm16_put_y(y + t * ldy, ldy, s->c + (t - t0) * all, rows, t1 - t, mm16_width(&sh, t));
}

static void mm32_rows(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,
                      const void *xp, int64_t T, void *scratch)
{
    for (int64_t r = 0; r < rows; r += MM32_PANEL)
        for (int64_t t = 0; t < T; t += MM16_BLOCK)
            mm32_panel(scratch, y + r, ldy, (const uint8_t *)w + (size_t)r * row_bytes, row_bytes,
                       rows - r < MM32_PANEL ? rows - r : MM32_PANEL, n, xp, T, t,
                       T - t < MM16_BLOCK ? T : t + MM16_BLOCK);
}

#endif
