/* Adding up down's rows by neuron (kernels.h, down.h), written once on simd.h's vectors and compiled for AVX2
 * and AVX-512.
 *
 * A run of neurons of one group (SPLIT), or four neurons (ROW), goes through the columns together: a tile's
 * sums stay in registers, and each neuron is a stream of its own that is read forward. Meanwhile the next
 * neurons' lines are fetched at the same pace, since nothing else announces where they lie. */
#ifndef KERNELS_CPU_DOWN_BODY_H
#define KERNELS_CPU_DOWN_BODY_H

#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/tiers.h"
#include "kernels/down.h"
#include "kernels/kernels.h"

enum {
    DOWN_LINES = DOWN_TILE / W,
    DOWN_AHEAD = 12 << 10,  /* bytes of the next neurons that are fetched meanwhile */
    DOWN_PLANE_AHEAD = 1024 /* planes are read forward: bytes to the line that is fetched */
};

/* Where the listed neurons' parts lie. */
SIMD void down_parts(const uint8_t *part[KERN_BLOCK], const struct kern_down_rows *w, int64_t first,
                     const uint16_t *list, int64_t count)
{
    for (int64_t i = 0; i < count; i++) part[i] = w->rows + (size_t)(first + list[i]) * w->stride;
}

/* Bytes [from, from + bytes) of parts [i0, i1) into the second-level cache: a core has few misses of the
 * first level in flight. */
SIMD void down_fetch(const uint8_t *const *part, int64_t i0, int64_t i1, size_t from, size_t bytes)
{
    for (int64_t i = i0; i < i1; i++)
        for (size_t b = 0; b < bytes; b += 64) _mm_prefetch((const char *)part[i] + from + b, _MM_HINT_T1);
}

/* How many neurons make DOWN_AHEAD. */
SIMD int64_t down_neurons_ahead(size_t bytes)
{
    size_t n = DOWN_AHEAD / bytes;
    return n < 2 ? 2 : n > 8 ? 8 : (int64_t)n;
}

/* ---- SPLIT ---- */

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

/* Neurons of one group on one tile; silent: h = 0 for all of them. */
SIMD void down_run_tile(enum dtype t, float *y, const uint8_t *const *part, const vf *h, int64_t n, float sum,
                        bool silent, const uint8_t *plane, const uint8_t *super, int64_t c, int64_t tiles)
{
    for (int lane = 0; lane < 16; lane += W) {
        struct down_acc acc;
        for (int k = 0; k < 8; k++) acc.k[k] = vf_set(0.0f);
        for (int64_t i = 0; i < n; i++) down_add_codes(t, &acc, h[i], part[i], c / DOWN_TILE, tiles, lane);
        if (silent) continue; /* not even a zero times a scale that is no number is added */
        down_scale(t, y, &acc, sum, plane, super, c, tiles * DOWN_TILE, lane);
    }
}

SIMD void down_add_split(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                         const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0,
                         int64_t c1)
{
    const size_t low = down_low_bytes(t), high = down_high_bytes(t), wide = down_is_k(t) ? 1 : 2;
    const int64_t tiles = down_tiles(d), pad = tiles * DOWN_TILE;
    const int64_t ahead = down_neurons_ahead(down_split_bytes(t, d));
    const uint16_t *group_of = w->group_of + first;
    const uint8_t *part[KERN_BLOCK];
    vf factor[KERN_BLOCK];
    down_parts(part, w, first, list, count);
    int64_t fetched = 0; /* neurons before this one have been fetched, or are being used */
    for (int64_t begin = 0, end; begin < count; begin = end) {
        int g = group_of[list[begin]];
        bool silent = true;
        float sum = 0.0f;
        for (end = begin; end < count && group_of[list[end]] == g; end++) {
            factor[end - begin] = down_factor(t, h[end]);
            sum += h[end];
            silent = silent && h[end] == 0.0f;
        }
        const uint8_t *plane = w->groups + (size_t)g * down_plane_bytes(t, d);
        const uint8_t *super =
            down_is_k(t) ? w->supers + (size_t)(g / (256 / down_group(t))) * down_super_bytes(t, d) : NULL;
        int64_t from = fetched > end ? fetched : end, to = end + ahead < count ? end + ahead : count;
        if (to > fetched) fetched = to;
        for (int64_t c = c0; c < c1; c += DOWN_TILE) {
            const size_t k = (size_t)(c / DOWN_TILE), at = k * high;
            down_fetch(part, from, to, k * low, low);
            if (high && at % 64 == 0) down_fetch(part, from, to, (size_t)tiles * low + at, 64);
            down_fetch(&plane, 0, 1, wide * (size_t)c + DOWN_PLANE_AHEAD, wide * DOWN_TILE);
            if (t == DT_Q4_K || t == DT_Q5_K)
                down_fetch(&plane, 0, 1, (size_t)(pad + c) + DOWN_PLANE_AHEAD, DOWN_TILE);
            /* y may end inside the tile; the planes do not */
            const bool whole = c1 - c >= DOWN_TILE;
            float some[DOWN_TILE], *to_y = y + c;
            if (!whole) {
                memset(some, 0, sizeof some);
                memcpy(some, y + c, (size_t)(c1 - c) * sizeof *some);
                to_y = some;
            }
            down_run_tile(t, to_y, part + begin, factor, end - begin, sum, silent, plane, super, c, tiles);
            if (!whole) memcpy(y + c, some, (size_t)(c1 - c) * sizeof *some);
        }
    }
}

/* ---- ROW ---- */

/* A neuron's factor: weights are masked and h is −0 where h = 0, so that the product is −0, which changes
 * nothing, whatever the weight. */
struct down_factor {
    vf h, mask;
};

SIMD struct down_factor down_factor_of(float h)
{
    uint32_t all = h == 0.0f ? 0 : 0xffffffff;
    float mask;
    memcpy(&mask, &all, sizeof mask);
    return (struct down_factor){vf_set(h == 0.0f ? -0.0f : h), vf_set(mask)};
}

SIMD vf down_floats(enum dtype t, const uint8_t *row, int64_t c)
{
    if (t == DT_F32) return vf_load((const float *)(const void *)row + c);
    return t == DT_F16 ? vf_load_f16(row + 2 * c) : vf_load_bf16(row + 2 * c);
}

/* R neurons, one after the other, on one tile. */
SIMD void down_row_tile(enum dtype t, int R, float *y, const uint8_t *const *row, const struct down_factor *f,
                        int64_t c)
{
    for (int v = 0; v < DOWN_LINES; v++) {
        vf a = vf_load(y + v * W);
        for (int r = 0; r < R; r++)
            a = vf_fma(f[r].h, vf_and(down_floats(t, row[r], c + v * W), f[r].mask), a);
        vf_store(y + v * W, a);
    }
}

/* Columns [c0, c1) of R rows to y, which belongs to column c0; meanwhile the same of rows [i0, i1) of `next`
 * is fetched. */
SIMD void down_row_some(enum dtype t, int R, float *y, const uint8_t *const *row, const struct down_factor *f,
                        int64_t c0, int64_t c1, const uint8_t *const *next, int64_t i0, int64_t i1)
{
    const size_t size = t == DT_F32 ? 4 : 2;
    int64_t c = c0;
    for (; c + DOWN_TILE <= c1; c += DOWN_TILE, y += DOWN_TILE) {
        down_fetch(next, i0, i1, (size_t)c * size, DOWN_TILE * size);
        down_row_tile(t, R, y, row, f, c);
    }
    if (c < c1) {
        float rest[DOWN_TILE] = {0};
        memcpy(rest, y, (size_t)(c1 - c) * sizeof *rest);
        down_row_tile(t, R, rest, row, f, c);
        memcpy(y, rest, (size_t)(c1 - c) * sizeof *rest);
    }
}

SIMD void down_add_floats(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                          const uint16_t *list, const float *h, int64_t count, int64_t c0, int64_t c1)
{
    const uint8_t *part[KERN_BLOCK];
    down_parts(part, w, first, list, count);
    for (int64_t i = 0; i < count;) {
        const int64_t R = count - i >= 4 ? 4 : 1, next = i + R, to = next + 4 < count ? next + 4 : count;
        struct down_factor f[4];
        for (int64_t r = 0; r < R; r++) f[r] = down_factor_of(h[i + r]);
        if (R == 4) /* the last ones have been fetched by then */
            down_row_some(t, 4, y + c0, part + i, f, c0, c1, part, next, to);
        else
            down_row_some(t, 1, y + c0, part + i, f, c0, c1, part, 0, 0);
        i = next;
    }
}

/* The tier's own: 256 values of a piece of blocks in their order, as unpack.h reads it. False: it has no such
 * type. */
static bool down_decode_piece(enum dtype t, float *out, const uint8_t *piece);

/* The piece of a row that begins at column c (a multiple of 256); columns from d on are anything. */
SIMD void down_piece(enum dtype t, float *out, const uint8_t *row, int64_t c, int64_t d)
{
    const struct dtype_info *info = dtype_info((uint32_t)t);
    const uint8_t *from = row + (size_t)(c / info->block) * info->bytes;
    uint8_t whole[512];
    int64_t n = d - c < 256 ? d - c : 256;
    if (n < 256) { /* nothing behind the row is read */
        memset(whole, 0, sizeof whole);
        memcpy(whole, from, (size_t)(n / info->block) * info->bytes);
        from = whole;
    }
    if (!down_decode_piece(t, out, from)) ref_decode(t, out, from, n);
}

/* Rows of blocks become floats a piece at a time, four neurons of them, then they are added. */
static void down_add_blocks(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                            const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0,
                            int64_t c1)
{
    const struct dtype_info *info = dtype_info((uint32_t)t);
    const size_t bytes = 256 / info->block * info->bytes;
    float piece[4][256];
    const uint8_t *rows[4], *part[KERN_BLOCK];
    for (int r = 0; r < 4; r++) rows[r] = (const uint8_t *)piece[r];
    memset(piece, 0, sizeof piece);
    down_parts(part, w, first, list, count);
    for (int64_t i = 0; i < count;) {
        const int64_t R = count - i >= 4 ? 4 : 1, next = i + R, to = next + 4 < count ? next + 4 : count;
        struct down_factor f[4];
        for (int64_t r = 0; r < R; r++) f[r] = down_factor_of(h[i + r]);
        for (int64_t c = c0 / 256 * 256; c < c1; c += 256) {
            int64_t begin = c < c0 ? c0 - c : 0, end = c1 - c < 256 ? c1 - c : 256;
            if (R == 4) down_fetch(part, next, to, (size_t)(c / 256) * bytes, bytes);
            for (int64_t r = 0; r < R; r++) down_piece(t, piece[r], part[i + r], c, d);
            if (R == 4)
                down_row_some(DT_F32, 4, y + c + begin, rows, f, begin, end, rows, 0, 0);
            else
                down_row_some(DT_F32, 1, y + c + begin, rows, f, begin, end, rows, 0, 0);
        }
        i = next;
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
