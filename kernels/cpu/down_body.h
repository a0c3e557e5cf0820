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

/* Sums of W lanes of a tile: field k of each. */
struct down_acc {
    vf k[8];
};

/* What one neuron multiplies its codes with. AVX-512 looks products with 4-bit codes up: its permutation
 * reads the low four bits of each lane. */
SIMD vf down_factor(enum dtype t, float h)
{
#ifdef __AVX512F__
    if (t == DT_Q4_0 || t == DT_Q4_K) {
        vf codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        return vf_mul(vf_add(codes, vf_set(t == DT_Q4_0 ? -8.0f : 0.0f)), vf_set(h));
    }
#endif
    (void)t;
    return vf_set(h);
}

/* acc += h · codes of lanes [lane, lane + W) of a tile. */
SIMD void down_add_codes(enum dtype t, struct down_acc *acc, vf h, const uint8_t *part, int64_t tile,
                         int64_t tiles, int lane)
{
    const uint8_t *low = part + (size_t)tile * down_low_bytes(t);
    if (t == DT_Q8_0) {
        for (int k = 0; k < 8; k++)
            acc->k[k] = vf_fma(h, vf_load_i8((const int8_t *)low + 16 * k + lane), acc->k[k]);
        return;
    }
    const uint8_t *high = part + (size_t)tiles * down_low_bytes(t) + (size_t)tile * down_high_bytes(t);
    vi x = vi_load(low + 4 * lane), two = t == DT_Q6_K ? vi_load_u16(high + 2 * lane) : x;
    for (int k = 0; k < 8; k++) {
        vi q = vi_shift(x, 4 * k);
#ifdef __AVX512F__
        if (t == DT_Q4_0 || t == DT_Q4_K) {
            acc->k[k] = vf_add(acc->k[k], _mm512_permutexvar_ps(q, h));
            continue;
        }
#endif
        q = vi_and(q, 15);
        if (t == DT_Q5_K) q = vi_or_shifted(q, vi_bits((uint32_t)ref_u16(high + 2 * k) >> lane), 4);
        if (t == DT_Q6_K) q = vi_or_shifted(q, vi_and(vi_shift(two, 2 * k), 3), 4);
        if (t == DT_Q4_0) q = vi_sub(q, 8);
        if (t == DT_Q6_K) q = vi_sub(q, 32);
        acc->k[k] = vf_fma(h, vf_from_vi(q), acc->k[k]);
    }
}

/* y += the group's scales · acc − the group's minima · sum; y is the tile's, c its first column. */
SIMD void down_scale(enum dtype t, float *y, const struct down_acc *acc, float sum, const uint8_t *plane,
                     const uint8_t *super, int64_t c, int64_t pad, int lane)
{
    for (int k = 0; k < 8; k++) {
        int64_t j = c + 16 * k + lane;
        vf a = vf_load(y + 16 * k + lane);
        if (!down_is_k(t)) {
            a = vf_fma(vf_load_f16(plane + 2 * j), acc->k[k], a);
        } else {
            a = vf_fma(vf_mul(vf_load_f16(super + 2 * j), vf_load_i8(plane + j)), acc->k[k], a);
            if (t != DT_Q6_K) {
                vf low = vf_mul(vf_load_f16(super + 2 * (pad + j)), vf_load_i8(plane + pad + j));
                a = vf_fnma(low, vf_set(sum), a);
            }
        }
        vf_store(y + 16 * k + lane, a);
    }
}

/* Neurons of one group on one tile. */
SIMD void down_run_tile(enum dtype t, float *y, const uint8_t *const *part, const vf *h, int64_t n, float sum,
                        const uint8_t *plane, const uint8_t *super, int64_t c, int64_t tiles)
{
    for (int lane = 0; lane < 16; lane += W) {
        struct down_acc acc;
        for (int k = 0; k < 8; k++) acc.k[k] = vf_set(0.0f);
        for (int64_t i = 0; i < n; i++) down_add_codes(t, &acc, h[i], part[i], c / DOWN_TILE, tiles, lane);
        down_scale(t, y, &acc, sum, plane, super, c, tiles * DOWN_TILE, lane);
    }
}

SIMD void down_add_split(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                         const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0,
                         int64_t c1)
{
    int64_t tiles = down_tiles(d);
    const uint16_t *group_of = w->group_of + first;
    for (int64_t begin = 0, end; begin < count; begin = end) {
        int g = group_of[list[begin]];
        const uint8_t *part[32];
        vf factor[32];
        float sum = 0.0f;
        for (end = begin; end < count && end < begin + 32 && group_of[list[end]] == g; end++) {
            part[end - begin] = w->rows + (size_t)(first + list[end]) * w->stride;
            factor[end - begin] = down_factor(t, h[end]);
            sum += h[end];
        }
        const uint8_t *plane = w->groups + (size_t)g * down_plane_bytes(t, d);
        const uint8_t *super =
            down_is_k(t) ? w->supers + (size_t)(g / (256 / down_group(t))) * down_super_bytes(t, d) : NULL;
        down_announce(w, first, list, end, count);
        for (int64_t c = c0; c < c1; c += DOWN_TILE) {
            if (c1 - c >= DOWN_TILE) {
                down_run_tile(t, y + c, part, factor, end - begin, sum, plane, super, c, tiles);
            } else { /* y ends inside the tile; the planes do not */
                float some[DOWN_TILE] = {0};
                memcpy(some, y + c, (size_t)(c1 - c) * sizeof *some);
                down_run_tile(t, some, part, factor, end - begin, sum, plane, super, c, tiles);
                memcpy(y + c, some, (size_t)(c1 - c) * sizeof *some);
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
