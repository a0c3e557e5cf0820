/* Products of many tokens in 16-bit integers: Y = X Wᵀ with W and X rounded to integers per row (or token)
 * and per chunk of 512 values, multiplied and summed exactly, and scaled back in float. A tier includes this
 * file once, after it has defined its vectors (see "What a tier defines"); everything here is static.
 *
 * Why 16 bits. Eight-bit activations cost a mean KLD of 4e-4 … 1e-3 on small real models, whatever their
 * group size; 16-bit ones less than 1e-5, and the weights' type no longer matters for the inner loop: no
 * block scales, no zero points, one kernel for all types.
 *
 * Why integers. Sums of int32 are exact, also modulo 2^32: whatever intermediate values wrap, the result is
 * right as long as it fits itself. It does: scales are chosen so that ‖w‖·‖x‖ < 2^31 over a chunk
 * (Cauchy–Schwarz). So the order of the additions does not matter, and the multiplication can be rearranged:
 *
 * Strassen's scheme, one level. Two halves of the chunk, two halves of a panel of rows (A11 … A22) and two
 * halves of a group of tokens (B11 … B22) give seven products of sums instead of eight products:
 *   P0 = A11 (B12−B22)       P1 = A22 (B21−B11)       P2 = (A11+A22)(B11+B22)  P3 = (A21+A22) B11
 *   P4 = (A11+A12) B22       P5 = (A21−A11)(B11+B12)  P6 = (A12−A22)(B21+B22)
 *   C11 = P1+P2−P4+P6        C12 = P0+P4              C21 = P1+P3              C22 = P0+P2−P3+P5
 * The sums of operands fit 16 bits because single values are kept below 2^14. Bits are those of the plain
 * product; tokens and pieces that fill no group take the plain one.
 *
 * The order of values. A piece of 256 values is 16 groups of 16; A tier chooses which group of the
 * source stands at each place, the same for w and x, so that rows may be unpacked in whatever order their
 * format gives cheapest. Pairs of neighbouring values of one row are broadcast, tokens are the lanes. */
#ifndef KERNELS_CPU_MM16_H
#define KERNELS_CPU_MM16_H

#include "kernels/cpu/mm16_values.h"

#include <stddef.h>

/* What a tier defines before it includes this file:
 *   VL, NT, MR          32-bit lanes of a vector; vectors of a tile of tokens; rows of a tile
 *   vi, vf              integer and float vectors, and on them
 *   vi_load, vi_store, vi_zero, vi_pair(p) (32 bits at p in all lanes), vi_add16, vi_sub16, vi_add32,
 * vi_sub32, vi_dot(&acc, x, w)  acc += the sum of the two 16-bit products of each lane vi_transpose(v[VL]) of
 * 32-bit elements vf_load, vf_store, vf_set1, vf_from_int(vi), vf_mul, vf_fma(a, b, c) = a·b + c and after it
 * mm16_quantise_x and a mm16_quantise a type. */
enum {
    MM16_PAIRS = MM16_PIECE / 2, /* 32-bit pairs of a piece */
    MM16_AHEAD = MM16_PAIRS / 4 * 64,
    MM16_TILE = NT * VL,        /* tokens of a full tile */
    MM16_GROUP = 2 * MM16_TILE, /* tokens of one Strassen group */
    MM16_HALF = MM16_HALF_ROWS, /* most rows of half a panel: a multiple of MR */
    MM16_PANEL = 2 * MM16_HALF,
    MM16_BLOCK = 512, /* tokens whose sums are kept at a time: whole groups */
};

/* The same for a token's floats, within the limits for x. The tier's. */
static mm16_quantise mm16_quantise_x;

/* ---- The prepared activations
 * ------------------------------------------------------------------------------------
 * scales: [chunks][tokens padded]. Then chunk by chunk: groups ([7 products][pair][tile of tokens]), then the
 * tokens that fill no group as one or two tiles ([piece][pair][tokens of the tile]). A last chunk of a single
 * piece has tiles only. */
struct mm16_shape {
    int64_t chunks, full;  /* chunks; those of two pieces */
    int64_t groups, tiles; /* Strassen groups; tiles of all tokens, the last may be narrower */
    int64_t padded;        /* tokens, rounded up to vectors */
    size_t head, group_bytes, chunk_bytes;
};

MM16_INLINE struct mm16_shape mm16_shape(int64_t n, int64_t T)
{
    struct mm16_shape s;
    int64_t pieces = (n + MM16_PIECE - 1) / MM16_PIECE;
    s.chunks = (pieces + 1) / 2;
    s.full = pieces / 2;
    s.groups = T / MM16_GROUP;
    s.tiles = (T + MM16_TILE - 1) / MM16_TILE;
    s.padded = (T + VL - 1) / VL * VL;
    s.head = ((size_t)s.chunks * (size_t)s.padded * sizeof(float) + 63) & ~(size_t)63;
    s.group_bytes = (size_t)7 * MM16_PIECE * MM16_TILE * sizeof(int16_t);
    s.chunk_bytes = (size_t)s.groups * s.group_bytes +
                    (size_t)(s.padded - s.groups * MM16_GROUP) * MM16_CHUNK * sizeof(int16_t);
    return s;
}

static size_t mm16_x_bytes(int64_t n, int64_t T)
{
    struct mm16_shape s = mm16_shape(n, T);
    size_t single = s.chunks > s.full ? (size_t)s.padded * MM16_PIECE * sizeof(int16_t) : 0;
    return s.head + (size_t)s.full * s.chunk_bytes + single;
}

/* Vectors of the tile of tokens that starts at t0. */
MM16_INLINE int64_t mm16_width(const struct mm16_shape *s, int64_t t0)
{
    int64_t left = s->padded - t0;
    return (left < MM16_TILE ? left : MM16_TILE) / VL;
}

/* Where the plain tile of tokens at t0 stands within its chunk. */
MM16_INLINE size_t mm16_tile_at(const struct mm16_shape *s, int64_t chunk, int64_t t0)
{
    if (chunk >= s->full) return (size_t)t0 * MM16_PIECE * sizeof(int16_t);
    return (size_t)s->groups * s->group_bytes +
           (size_t)(t0 - s->groups * MM16_GROUP) * MM16_CHUNK * sizeof(int16_t);
}

/* VL tokens of a chunk from float to [piece][pair][stride tokens] at dst and (second piece) dst2; `have` of
 * the tokens exist. */
static void mm16_pack_lanes(int32_t *dst, int32_t *dst2, int64_t stride, float *scales, const float *x,
                            int64_t ldx, int64_t have, int64_t values)
{
    int16_t q[VL][MM16_CHUNK] __attribute__((aligned(64)));
    for (int64_t t = 0; t < VL; t++) {
        if (t < have)
            scales[t] = mm16_quantise_x(q[t], (const uint8_t *)(x + t * ldx), values);
        else
            scales[t] = 0, memset(q[t], 0, sizeof q[t]);
    }
    for (int p = 0; p < (dst2 ? 2 : 1); p++) {
        int32_t *to = p ? dst2 : dst;
        for (int64_t k = 0; k < MM16_PAIRS; k += VL) {
            vi v[VL];
            for (int t = 0; t < VL; t++) v[t] = vi_load(q[t] + p * MM16_PIECE + 2 * k);
            vi_transpose(v);
            for (int j = 0; j < VL; j++) vi_store(to + (k + j) * stride, v[j]);
        }
    }
}

/* The seven operands from four, which stand in the places of P3 (B11), P0 (B12), P1 (B21) and P4 (B22). */
static void mm16_combine_x(int16_t *g)
{
    enum { STEP = MM16_PIECE * MM16_TILE };
    for (int64_t i = 0; i < STEP; i += 2 * VL) {
        vi b11 = vi_load(g + 3 * STEP + i), b12 = vi_load(g + 0 * STEP + i);
        vi b21 = vi_load(g + 1 * STEP + i), b22 = vi_load(g + 4 * STEP + i);
        vi_store(g + 0 * STEP + i, vi_sub16(b12, b22));
        vi_store(g + 1 * STEP + i, vi_sub16(b21, b11));
        vi_store(g + 2 * STEP + i, vi_add16(b11, b22));
        vi_store(g + 5 * STEP + i, vi_add16(b11, b12));
        vi_store(g + 6 * STEP + i, vi_add16(b21, b22));
    }
}

static void mm16_x_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    struct mm16_shape s = mm16_shape(n, T);
    char *base = dst;
    for (int64_t c = 0; c < s.chunks; c++) {
        char *at = base + s.head + (size_t)c * s.chunk_bytes;
        int64_t k0 = c * MM16_CHUNK, values = n - k0 < MM16_CHUNK ? n - k0 : MM16_CHUNK;
        for (int64_t t = t0; t < t1; t += VL) {
            float *scales = (float *)base + c * s.padded + t;
            const float *from = x + t * ldx + k0;
            int64_t g = t / MM16_GROUP, in = t % MM16_GROUP, have = t1 - t < VL ? t1 - t : VL;
            if (c < s.full && g < s.groups) {
                int16_t *group = (int16_t *)(at + (size_t)g * s.group_bytes);
                int hi = in >= MM16_TILE;
                int16_t *d = group + (hi ? 0 : 3) * MM16_PIECE * MM16_TILE;
                int16_t *d2 = group + (hi ? 4 : 1) * MM16_PIECE * MM16_TILE;
                int64_t off = in - hi * MM16_TILE;
                mm16_pack_lanes((int32_t *)d + off, (int32_t *)d2 + off, MM16_TILE, scales, from, ldx, have,
                                values);
                if (in == MM16_GROUP - VL) mm16_combine_x(group);
                continue;
            }
            int64_t tile = t - t % MM16_TILE, width = mm16_width(&s, tile) * VL;
            int32_t *d = (int32_t *)(at + mm16_tile_at(&s, c, tile));
            mm16_pack_lanes(d + (t - tile), c < s.full ? d + MM16_PAIRS * width + (t - tile) : NULL, width,
                            scales, from, ldx, have, values);
        }
    }
}

/* ---- Tiles
 * ---------------------------------------------------------------------------------------------------------
 */
enum mm16_put { MM16_NONE, MM16_SET, MM16_ADD, MM16_SUB };

MM16_INLINE void mm16_put(int32_t *d, vi v, enum mm16_put how)
{
    if (how == MM16_SET) vi_store(d, v);
    if (how == MM16_ADD) vi_store(d, vi_add32(vi_load(d), v));
    if (how == MM16_SUB) vi_store(d, vi_sub32(vi_load(d), v));
}

/* MR rows (a piece each, one after the other) × nt vectors of tokens over one piece; the sums go to a and b.
 */
MM16_INLINE void mm16_tile_of(int nt, int32_t *a, enum mm16_put how_a, int32_t *b, enum mm16_put how_b,
                              const int16_t *w, const int16_t *x, const char *next)
{
    vi acc[MR][NT];
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nt; j++) acc[r][j] = vi_zero();
    for (int64_t k4 = 0; k4 < MM16_PAIRS; k4 += 4, next += 64) {
        __builtin_prefetch(next, 0, 2); /* one line at a time: a burst of them would fill the miss queue */
        for (int64_t k = k4; k < k4 + 4; k++) {
            vi xv[NT];
#pragma GCC unroll 8
            for (int j = 0; j < nt; j++) xv[j] = vi_load(x + (k * nt + j) * 2 * VL);
#pragma GCC unroll 16
            for (int r = 0; r < MR; r++) {
                vi wv = vi_pair(w + r * MM16_PIECE + 2 * k);
#pragma GCC unroll 8
                for (int j = 0; j < nt; j++) vi_dot(&acc[r][j], xv[j], wv);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; r++)
#pragma GCC unroll 8
        for (int j = 0; j < nt; j++) {
            mm16_put(a + (r * nt + j) * VL, acc[r][j], how_a);
            mm16_put(b + (r * nt + j) * VL, acc[r][j], how_b);
        }
}

typedef void mm16_tile(int32_t *a, int32_t *b, const int16_t *w, const int16_t *x, const char *next);

#define MM16_TILE_FN(name, nt, how_a, how_b)                                                                 \
    static __attribute__((noinline)) void name(int32_t *a, int32_t *b, const int16_t *w, const int16_t *x,   \
                                               const char *next)                                             \
    {                                                                                                        \
        mm16_tile_of(nt, a, how_a, b, how_b, w, x, next);                                                    \
    }
MM16_TILE_FN(mm16_set_set, NT, MM16_SET, MM16_SET)
MM16_TILE_FN(mm16_add_add, NT, MM16_ADD, MM16_ADD)
MM16_TILE_FN(mm16_add_sub, NT, MM16_ADD, MM16_SUB)
MM16_TILE_FN(mm16_add, NT, MM16_ADD, MM16_NONE)
MM16_TILE_FN(mm16_set, NT, MM16_SET, MM16_NONE)
#if NT > 1
MM16_TILE_FN(mm16_add1, 1, MM16_ADD, MM16_NONE)
MM16_TILE_FN(mm16_set1, 1, MM16_SET, MM16_NONE)
#endif
#if NT > 2
MM16_TILE_FN(mm16_add2, 2, MM16_ADD, MM16_NONE)
MM16_TILE_FN(mm16_set2, 2, MM16_SET, MM16_NONE)
#endif
#if NT > 3
MM16_TILE_FN(mm16_add3, 3, MM16_ADD, MM16_NONE)
MM16_TILE_FN(mm16_set3, 3, MM16_SET, MM16_NONE)
#endif

MM16_INLINE mm16_tile *mm16_plain(int64_t width, int set)
{
#if NT > 1
    if (width == 1) return set ? mm16_set1 : mm16_add1;
#endif
#if NT > 2
    if (width == 2) return set ? mm16_set2 : mm16_add2;
#endif
#if NT > 3
    if (width == 3) return set ? mm16_set3 : mm16_add3;
#endif
    return set ? mm16_set : mm16_add;
}

/* ---- A panel of rows
 * -------------------------------------------------------------------------------------------------------
 * The scratch of one thread. */
struct mm16_scratch {
    int16_t seven[7][MM16_HALF][MM16_PIECE];  /* Strassen's operands */
    int16_t plain[2][MM16_PANEL][MM16_PIECE]; /* [piece][row], where there are plain tiles */
    int16_t pair[2][2][MM16_PIECE];           /* a row of each half, just unpacked */
    int32_t sums[4 * MM16_HALF * MM16_TILE];  /* integers of a chunk: quarters, or a plain tile */
    float c[MM16_BLOCK * MM16_PANEL];         /* [tile][row][token] */
    float scale[MM16_PANEL];
};

static size_t mm16_scratch_bytes(int64_t n)
{
    (void)n;
    return (sizeof(struct mm16_scratch) + 63) & ~(size_t)63;
}

/* Chunk c of `rows` rows to integers; rows that miss in a half of `half` rows become 0. */
static void mm16_pack_w(struct mm16_scratch *s, mm16_quantise *quantise, const uint8_t *w, size_t row_bytes,
                        int64_t rows, int64_t half, int64_t values, size_t ahead, int seven, int plain)
{
    for (int64_t r = 0; r < half; r++) {
        for (int h = 0; h < 2; h++) {
            int64_t row = r + h * half;
            if (row < rows) {
                const uint8_t *from = w + (size_t)row * row_bytes;
                mm16_fetch_ahead(from, row_bytes, ahead);
                s->scale[row] = quantise(s->pair[h][0], from, values);
            } else {
                s->scale[row] = 0;
                memset(s->pair[h], 0, sizeof s->pair[h]);
            }
            if (plain)
                for (int p = 0; p < 2; p++) memcpy(s->plain[p][row], s->pair[h][p], sizeof s->pair[h][p]);
        }
        if (!seven) continue;
        for (int64_t i = 0; i < MM16_PIECE; i += 2 * VL) {
            vi a11 = vi_load(s->pair[0][0] + i), a12 = vi_load(s->pair[0][1] + i);
            vi a21 = vi_load(s->pair[1][0] + i), a22 = vi_load(s->pair[1][1] + i);
            vi_store(s->seven[0][r] + i, a11);
            vi_store(s->seven[1][r] + i, a22);
            vi_store(s->seven[2][r] + i, vi_add16(a11, a22));
            vi_store(s->seven[3][r] + i, vi_add16(a21, a22));
            vi_store(s->seven[4][r] + i, vi_add16(a11, a12));
            vi_store(s->seven[5][r] + i, vi_sub16(a21, a11));
            vi_store(s->seven[6][r] + i, vi_sub16(a12, a22));
        }
    }
}

/* c = (first ? 0 : c) + sums · w's scales · x's scales, for rows of `width` vectors. */
static void mm16_scale(float *c, const int32_t *sums, const float *ws, const float *xs, int64_t rows,
                       int64_t width, int first)
{
    for (int64_t r = 0; r < rows; r++) {
        vf f = vf_set1(ws[r]);
        for (int64_t j = 0; j < width; j++) {
            int64_t i = (r * width + j) * VL;
            vf old = first ? vf_set1(0) : vf_load(c + i);
            vf_store(c + i, vf_fma(vf_mul(vf_from_int(vi_load(sums + i)), f), vf_load(xs + j * VL), old));
        }
    }
}

static void mm16_group(struct mm16_scratch *s, const int16_t *x, const float *xs, float *c, int64_t half,
                       int first)
{
    enum { STEP = MM16_PIECE * MM16_TILE };
    int64_t quarter = half * MM16_TILE;
    int32_t *c11 = s->sums, *c12 = c11 + quarter, *c21 = c12 + quarter, *c22 = c21 + quarter;
    const struct {
        mm16_tile *fn;
        int32_t *a, *b;
    } steps[7] = {
        {mm16_set_set, c12, c22}, {mm16_set_set, c11, c21}, {mm16_add_add, c11, c22},
        {mm16_add_sub, c21, c22}, {mm16_add_sub, c12, c11}, {mm16_add, c22, c22},
        {mm16_add, c11, c11},
    };
    /* X comes from far: while one operand is used, the next is fetched, a share with each tile. */
    int64_t share = STEP * (int64_t)sizeof *x / (half / MR);
    for (int i = 0; i < 7; i++, x += STEP) {
        const char *next = (const char *)(x + STEP);
        for (int64_t r = 0; r < half; r += MR, next += share)
            steps[i].fn(steps[i].a + r * MM16_TILE, steps[i].b + r * MM16_TILE, s->seven[i][r], x, next);
    }
    /* c: the first tile's rows, then the second's. */
    float *hi = c + 2 * quarter;
    mm16_scale(c, c11, s->scale, xs, half, NT, first);
    mm16_scale(c + quarter, c21, s->scale + half, xs, half, NT, first);
    mm16_scale(hi, c12, s->scale, xs + MM16_TILE, half, NT, first);
    mm16_scale(hi + quarter, c22, s->scale + half, xs + MM16_TILE, half, NT, first);
}

/* c of one tile ([row][width vectors]) to y, whose rows are tokens. */
static void mm16_put_y(float *y, int64_t ldy, const float *c, int64_t rows, int64_t tokens, int64_t width)
{
    for (int64_t j = 0; j < width; j++)
        for (int64_t r = 0; r < rows; r += VL) {
            vi v[VL];
            int64_t nr = rows - r < VL ? rows - r : VL, nt = tokens - j * VL < VL ? tokens - j * VL : VL;
            for (int64_t i = 0; i < VL; i++)
                v[i] = i < nr ? vi_load(c + ((r + i) * width + j) * VL) : vi_zero();
            vi_transpose(v);
            float *to = y + j * VL * ldy + r;
            for (int64_t t = 0; t < nt; t++) {
                float one[VL] __attribute__((aligned(64)));
                if (nr == VL) {
                    vi_storeu(to + t * ldy, v[t]);
                } else {
                    vi_store(one, v[t]);
                    memcpy(to + t * ldy, one, (size_t)nr * sizeof *one);
                }
            }
        }
}

/* Rows of one panel against the tokens [t0, t1), at most MM16_BLOCK of them, t0 a multiple of MM16_GROUP. */
static void mm16_panel(struct mm16_scratch *s, mm16_quantise *quantise, size_t chunk_bytes, float *y,
                       int64_t ldy, const uint8_t *w, size_t row_bytes, int64_t rows, int64_t n,
                       const char *xp, int64_t T, int64_t t0, int64_t t1)
{
    struct mm16_shape sh = mm16_shape(n, T);
    int64_t half = ((rows + 1) / 2 + MR - 1) / MR * MR, all = 2 * half;
    int64_t grouped = sh.groups * MM16_GROUP; /* tokens in groups */
    for (int64_t k = 0; k < sh.chunks; k++) {
        int64_t values = n - k * MM16_CHUNK < MM16_CHUNK ? n - k * MM16_CHUNK : MM16_CHUNK;
        int64_t first_plain = k < sh.full ? grouped : 0;
        mm16_pack_w(s, quantise, w + (size_t)k * chunk_bytes, row_bytes, rows, half, values, chunk_bytes,
                    k < sh.full && t0<grouped, t1> first_plain);
        const char *x = xp + sh.head + (size_t)k * sh.chunk_bytes;
        const float *xs = (const float *)xp + k * sh.padded;
        for (int64_t t = t0; t < t1;) {
            float *c = s->c + (t - t0) * all;
            if (t < first_plain) {
                mm16_group(s, (const int16_t *)(x + (size_t)(t / MM16_GROUP) * sh.group_bytes), xs + t, c,
                           half, k == 0);
                t += MM16_GROUP;
                continue;
            }
            int64_t width = mm16_width(&sh, t);
            const int16_t *tile = (const int16_t *)(x + mm16_tile_at(&sh, k, t));
            for (int p = 0; p < (k < sh.full ? 2 : 1); p++)
                for (int64_t r = 0; r < all; r += MR)
                    mm16_plain(width, p == 0)(s->sums + r * width * VL, s->sums /* unused */, s->plain[p][r],
                                              tile + p * MM16_PIECE * width * VL,
                                              (const char *)(tile + (p + 1) * MM16_PIECE * width * VL) +
                                                  r / MR * MM16_AHEAD);
            mm16_scale(c, s->sums, s->scale, xs + t, all, width, k == 0);
            t += MM16_TILE;
        }
    }
    for (int64_t t = t0; t < t1; t += MM16_TILE)
        mm16_put_y(y + t * ldy, ldy, s->c + (t - t0) * all, rows, t1 - t, mm16_width(&sh, t));
}

/* chunk_bytes: of 512 values of the type. */
static void mm16_rows(mm16_quantise *quantise, size_t chunk_bytes, float *y, int64_t ldy, const void *w,
                      size_t row_bytes, int64_t rows, int64_t n, const void *xp, int64_t T, void *scratch)
{
    for (int64_t r = 0; r < rows; r += MM16_PANEL)
        for (int64_t t = 0; t < T; t += MM16_BLOCK)
            mm16_panel(scratch, quantise, chunk_bytes, y + r, ldy, (const uint8_t *)w + (size_t)r * row_bytes,
                       row_bytes, rows - r < MM16_PANEL ? rows - r : MM16_PANEL, n, xp, T, t,
                       T - t < MM16_BLOCK ? T : t + MM16_BLOCK);
}

#endif
