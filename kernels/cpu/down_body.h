/* Adding up down's rows by neuron (kernels.h, down.h), written once on simd.h's vectors and compiled for AVX2
 * and AVX-512.
 *
 * A run of neurons of one group (SPLIT), or four neurons (ROW), goes through the columns together: a tile's
 * sums stay in registers, and each neuron is a stream of its own that is read forward. The next neurons'
 * first lines are fetched while these are computed, since nothing else announces where they lie. */
#ifndef KERNELS_CPU_DOWN_BODY_H
#define KERNELS_CPU_DOWN_BODY_H

#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tiers.h"
#include "kernels/down.h"
#include "kernels/kernels.h"

enum { DOWN_LINES = DOWN_TILE / W, DOWN_AHEAD = 4, DOWN_FIRST = 512 };

/* The beginnings of the neurons that come next. */
SIMD void down_announce(const struct kern_down_rows *w, int64_t first, const uint16_t *list, int64_t at,
                        int64_t count)
{
    for (int64_t i = at; i < at + DOWN_AHEAD && i < count; i++)
        for (int b = 0; b < DOWN_FIRST; b += 64)
            _mm_prefetch((const char *)w->rows + (size_t)(first + list[i]) * w->stride + b, _MM_HINT_T0);
}

/* acc += h · codes of one tile. */
SIMD void down_add_codes(enum dtype t, vf acc[DOWN_LINES], float h, const uint8_t *part, int64_t tile,
                         int64_t tiles)
{
    int8_t q[DOWN_TILE];
    const void *codes = q;
    if (t == DT_Q8_0)
        codes = part + (size_t)tile * DOWN_TILE;
    else
        down_codes(t, q, part, tile, tiles);
    for (int v = 0; v < DOWN_LINES; v++)
        acc[v] = vf_fma(vf_set(h), vf_load_i8((const int8_t *)codes + v * W), acc[v]);
}

/* y += the group's scales · acc − the group's minima · sum, one tile. */
SIMD void down_scale(enum dtype t, float *y, const vf acc[DOWN_LINES], float sum, const uint8_t *plane,
                     const uint8_t *super, int64_t c, int64_t pad)
{
    for (int v = 0; v < DOWN_LINES; v++) {
        int64_t j = c + v * W;
        vf a = vf_load(y + v * W);
        if (!down_is_k(t)) {
            a = vf_fma(vf_load_f16(plane + 2 * j), acc[v], a);
        } else {
            a = vf_fma(vf_mul(vf_load_f16(super + 2 * j), vf_load_i8(plane + j)), acc[v], a);
            if (t != DT_Q6_K) {
                vf low = vf_mul(vf_load_f16(super + 2 * (pad + j)), vf_load_i8(plane + pad + j));
                a = vf_fnma(low, vf_set(sum), a);
            }
        }
        vf_store(y + v * W, a);
    }
}

SIMD void down_add_split(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                         const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0,
                         int64_t c1)
{
    int64_t tiles = down_tiles(d), pad = tiles * DOWN_TILE;
    const uint16_t *group_of = w->group_of + first;
    for (int64_t begin = 0, end; begin < count; begin = end) {
        int g = group_of[list[begin]];
        float sum = 0.0f;
        for (end = begin; end < count && group_of[list[end]] == g; end++) sum += h[end];
        const uint8_t *plane = w->groups + (size_t)g * down_plane_bytes(t, d);
        const uint8_t *super =
            down_is_k(t) ? w->supers + (size_t)(g / (256 / down_group(t))) * down_super_bytes(t, d) : NULL;
        down_announce(w, first, list, end, count);
        for (int64_t c = c0; c < c1; c += DOWN_TILE) {
            vf acc[DOWN_LINES];
            for (int v = 0; v < DOWN_LINES; v++) acc[v] = vf_set(0.0f);
            for (int64_t i = begin; i < end; i++)
                down_add_codes(t, acc, h[i], w->rows + (size_t)(first + list[i]) * w->stride, c / DOWN_TILE,
                               tiles);
            if (c1 - c >= DOWN_TILE) {
                down_scale(t, y + c, acc, sum, plane, super, c, pad);
            } else { /* y ends inside the tile; the planes do not */
                float part[DOWN_TILE] = {0};
                memcpy(part, y + c, (size_t)(c1 - c) * sizeof *part);
                down_scale(t, part, acc, sum, plane, super, c, pad);
                memcpy(y + c, part, (size_t)(c1 - c) * sizeof *part);
            }
        }
    }
}

SIMD vf down_floats(enum dtype t, const uint8_t *row, int64_t c)
{
    if (t == DT_F32) return vf_load((const float *)(const void *)row + c);
    return t == DT_F16 ? vf_load_f16(row + 2 * c) : vf_load_bf16(row + 2 * c);
}

/* R neurons, one after the other, on one tile. */
SIMD void down_row_tile(enum dtype t, int R, float *y, const uint8_t *const row[4], const float *h, int64_t c)
{
    for (int v = 0; v < DOWN_LINES; v++) {
        vf a = vf_load(y + v * W);
        for (int r = 0; r < R; r++) a = vf_fma(vf_set(h[r]), down_floats(t, row[r], c + v * W), a);
        vf_store(y + v * W, a);
    }
}

SIMD void down_row_some(enum dtype t, int R, float *y, const uint8_t *const row[4], const float *h,
                        int64_t c0, int64_t c1)
{
    int64_t c = c0;
    for (; c + DOWN_TILE <= c1; c += DOWN_TILE) down_row_tile(t, R, y + c, row, h, c);
    if (c < c1) {
        float part[DOWN_TILE] = {0};
        memcpy(part, y + c, (size_t)(c1 - c) * sizeof *part);
        down_row_tile(t, R, part, row, h, c);
        memcpy(y + c, part, (size_t)(c1 - c) * sizeof *part);
    }
}

SIMD void down_add_floats(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                          const uint16_t *list, const float *h, int64_t count, int64_t c0, int64_t c1)
{
    const uint8_t *row[4];
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) {
        for (int r = 0; r < 4; r++) row[r] = w->rows + (size_t)(first + list[i + r]) * w->stride;
        down_announce(w, first, list, i + 4, count);
        down_row_some(t, 4, y, row, h + i, c0, c1);
    }
    for (; i < count; i++) {
        row[0] = w->rows + (size_t)(first + list[i]) * w->stride;
        down_row_some(t, 1, y, row, h + i, c0, c1);
    }
}

/* Rows of blocks are decoded a piece at a time, then added. */
static void down_add_blocks(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                            const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0,
                            int64_t c1)
{
    const struct dtype_info *info = dtype_info((uint32_t)t);
    float piece[256];
    const uint8_t *row[4] = {(const uint8_t *)piece};
    for (int64_t i = 0; i < count; i++) {
        const uint8_t *from = w->rows + (size_t)(first + list[i]) * w->stride;
        for (int64_t c = c0; c < c1;) {
            int64_t start = c / 256 * 256, n = d - start < 256 ? d - start : 256;
            int64_t end = start + n < c1 ? start + n : c1;
            ref_decode(t, piece, from + (size_t)(start / info->block) * info->bytes, n);
            if (end - c == 256) {
                down_row_some(DT_F32, 1, y + start, row, h + i, 0, 256);
            } else {
                for (int64_t j = c; j < end; j++) y[j] = __builtin_fmaf(h[i], piece[j - start], y[j]);
            }
            c = end;
        }
    }
}

static size_t down_no_scratch(int64_t d)
{
    (void)d;
    return 0;
}

/* clang-format off */
#define DOWN_SPLIT(X) X(Q8_0) X(Q4_0) X(Q4_K) X(Q5_K) X(Q6_K)
#define DOWN_FLOATS(X) X(F32) X(F16) X(BF16)
#define DOWN_BLOCKS(X) \
    X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ1_S) X(IQ1_M) X(IQ2_XXS) \
    X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(IQ4_NL) X(IQ4_XS) X(TQ1_0) X(TQ2_0)
/* clang-format on */

#define DOWN_ADD(name, call)                                                                                 \
    static void name(float *y, const struct kern_down_rows *w, int64_t first, const uint16_t *list,          \
                     const float *h, int64_t count, int64_t d, int64_t c0, int64_t c1, void *scratch)        \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        (void)d;                                                                                             \
        call;                                                                                                \
    }
#define DOWN_DEFINE_SPLIT(t)                                                                                 \
    DOWN_ADD(down_split_##t, down_add_split(DT_##t, y, w, first, list, h, count, d, c0, c1))
#define DOWN_DEFINE_FLOATS(t)                                                                                \
    DOWN_ADD(down_row_##t, down_add_floats(DT_##t, y, w, first, list, h, count, c0, c1))
#define DOWN_DEFINE_BLOCKS(t)                                                                                \
    DOWN_ADD(down_row_##t, down_add_blocks(DT_##t, y, w, first, list, h, count, d, c0, c1))
DOWN_SPLIT(DOWN_DEFINE_SPLIT)
DOWN_FLOATS(DOWN_DEFINE_FLOATS)
DOWN_BLOCKS(DOWN_DEFINE_BLOCKS)

/* Takes the places of the reference's entries: the layouts are theirs. */
static void down_enter(struct kern_ops *ops)
{
    static struct kern_down split[DT_COUNT], row[DT_COUNT];
#define DOWN_ENTER_SPLIT(t)                                                                                  \
    split[DT_##t] = *ops->down_split[DT_##t];                                                                \
    split[DT_##t].add = down_split_##t;                                                                      \
    split[DT_##t].scratch_bytes = down_no_scratch;                                                           \
    ops->down_split[DT_##t] = &split[DT_##t];
#define DOWN_ENTER_ROW(t)                                                                                    \
    row[DT_##t] = *ops->down_row[DT_##t];                                                                    \
    row[DT_##t].add = down_row_##t;                                                                          \
    row[DT_##t].scratch_bytes = down_no_scratch;                                                             \
    ops->down_row[DT_##t] = &row[DT_##t];
    DOWN_SPLIT(DOWN_ENTER_SPLIT)
    DOWN_FLOATS(DOWN_ENTER_ROW)
    DOWN_BLOCKS(DOWN_ENTER_ROW)
}

#endif
