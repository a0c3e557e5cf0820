/* Attention on the vectors of simd.h: compiled once by each wide tier's attn.c.
 *
 * Positions are taken in blocks of BLOCK from the first visible one, aligned to multiples of BLOCK; each
 * block of K, then of V, is turned into floats once for all queries at hand and multiplied in registers.
 * Softmax is kept online: a running maximum and sum a query, earlier results scaled when the maximum grows.
 * The order of blocks and of the sums inside them is fixed.
 *
 * Two layouts. `lanes`: many queries, a vector lane each, so that neither K nor V is transposed and the
 * softmax needs no sums across lanes; for prompts. `dots`: few queries, dot products along a row of K; for
 * decoding. */
#ifndef KERNELS_CPU_ATTN_BODY_H
#define KERNELS_CPU_ATTN_BODY_H

#include "base/half.h"
#include "kernels/cpu/simd.h"
#include "kernels/kernels.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

enum {
    BLOCK = 64,    /* positions */
    LANES = 64,    /* queries of a tile in the `lanes` layout */
    DOTS = 8,      /* most queries of the `dots` layout */
    TILE_ROWS = 6, /* of the register tile */
    TILE_VECS = W == 16 ? 4 : 2,
};

/* Scratch: floats, every part a multiple of 16 of them. */
struct attn_parts {
    float *rows;  /* BLOCK × padded: a block of K or V */
    float *q;     /* lanes: head_dim × LANES, transposed; dots: DOTS × padded; times the scale */
    float *sum;   /* lanes: head_dim × LANES; dots: DOTS × padded */
    float *score; /* lanes: BLOCK × LANES; dots: DOTS × BLOCK */
    float *max, *weights, *adjust; /* LANES each */
    float *first, *last; /* LANES each: visible positions, relative to the block's first (whole numbers) */
};

SIMD size_t padded_dim(int head_dim)
{
    return ((size_t)head_dim + 15) / 16 * 16;
}

static size_t attn_floats(int head_dim)
{
    return padded_dim(head_dim) * (BLOCK + 2 * LANES) + BLOCK * LANES + 5 * LANES;
}

static size_t attn_scratch(int64_t T, int group, int head_dim)
{
    (void)T;
    (void)group;
    return attn_floats(head_dim) * sizeof(float);
}

static struct attn_parts attn_split(const struct kern_attn *a)
{
    struct attn_parts s;
    size_t padded = padded_dim(a->head_dim);
    s.rows = a->scratch;
    s.q = s.rows + padded * BLOCK;
    s.sum = s.q + padded * LANES;
    s.score = s.sum + padded * LANES;
    s.max = s.score + BLOCK * LANES;
    s.weights = s.max + LANES;
    s.adjust = s.weights + LANES;
    s.first = s.adjust + LANES;
    s.last = s.first + LANES;
    return s;
}

/* One row of the cache to floats, zeros up to the padded length. */
SIMD void load_row(enum dtype type, float *dst, const char *src, int head_dim)
{
    int i = 0;
    if (type == DT_Q8_0) {
        for (; i < head_dim; i += 32, src += 34) {
            uint16_t half;
            memcpy(&half, src, 2);
            vf d = vf_set(f16_to_f32(half));
            for (int j = 0; j < 32; j += W) vf_store(dst + i + j, vf_mul(d, vf_load_i8(src + 2 + j)));
        }
        return;
    }
    int step = type == DT_F16 ? 2 : 4;
    for (; i + W <= head_dim; i += W)
        vf_store(dst + i,
                 type == DT_F16 ? vf_load_f16(src + i * step) : vf_load((const float *)(src + i * step)));
    if (i < head_dim) {
        vf tail = type == DT_F16 ? vf_load_f16_part(src + i * step, head_dim - i)
                                 : vf_load_part((const float *)(src + i * step), head_dim - i);
        vf_store(dst + i, tail);
        i += W;
    }
    for (; i < (int)padded_dim(head_dim); i += W) vf_store(dst + i, vf_set(0));
}

static void load_block(const struct kern_attn *a, const struct attn_parts *s, const void *base,
                       size_t row_bytes, int64_t begin, int count)
{
    const char *src = (const char *)base + (size_t)begin * row_bytes;
    size_t padded = padded_dim(a->head_dim);
    switch (a->kv_type) {
    case DT_F16:
        for (int p = 0; p < count; p++)
            load_row(DT_F16, s->rows + (size_t)p * padded, src + (size_t)p * row_bytes, a->head_dim);
        break;
    case DT_Q8_0:
        for (int p = 0; p < count; p++)
            load_row(DT_Q8_0, s->rows + (size_t)p * padded, src + (size_t)p * row_bytes, a->head_dim);
        break;
    default:
        for (int p = 0; p < count; p++)
            load_row(DT_F32, s->rows + (size_t)p * padded, src + (size_t)p * row_bytes, a->head_dim);
        break;
    }
}

/* The register tile: M rows × N vectors of C = C·adjust + A·B over k in [0, K). A's element (m, k) stands at
 * a[m*am + k*ak], B's row k at b + k*ldb. keep: C starts from what is there, times adjust (a factor a column:
 * by_column, or a row), else from 0. */
SIMD void tile(int M, int N, float *c, size_t ldc, const float *a, size_t am, size_t ak, const float *b,
               size_t ldb, int K, bool keep, bool by_column, const float *adjust)
{
    vf acc[TILE_ROWS][TILE_VECS];
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++)
            acc[m][n] = keep ? vf_mul(vf_load(c + (size_t)m * ldc + n * W),
                                      by_column ? vf_load(adjust + n * W) : vf_set(adjust[m]))
                             : vf_set(0);
    for (int k = 0; k < K; k++) {
        vf row[TILE_VECS];
        for (int n = 0; n < N; n++) row[n] = vf_load(b + (size_t)k * ldb + n * W);
        for (int m = 0; m < M; m++) {
            vf x = vf_set(a[(size_t)m * am + (size_t)k * ak]);
            for (int n = 0; n < N; n++) acc[m][n] = vf_fma(x, row[n], acc[m][n]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) vf_store(c + (size_t)m * ldc + n * W, acc[m][n]);
}

SIMD void tile_rows(int m, int N, float *c, size_t ldc, const float *a, size_t am, size_t ak, const float *b,
                    size_t ldb, int K, bool keep, bool by_column, const float *adjust)
{
    switch (m) {
    case 1: tile(1, N, c, ldc, a, am, ak, b, ldb, K, keep, by_column, adjust); break;
    case 2: tile(2, N, c, ldc, a, am, ak, b, ldb, K, keep, by_column, adjust); break;
    case 3: tile(3, N, c, ldc, a, am, ak, b, ldb, K, keep, by_column, adjust); break;
    case 4: tile(4, N, c, ldc, a, am, ak, b, ldb, K, keep, by_column, adjust); break;
    case 5: tile(5, N, c, ldc, a, am, ak, b, ldb, K, keep, by_column, adjust); break;
    default: tile(6, N, c, ldc, a, am, ak, b, ldb, K, keep, by_column, adjust); break;
    }
}

/* C of `rows` × `columns` (a multiple of 16, reached with whole vectors) from tiles. `ak` is 1 or a stride:
 * two functions, so that the constants reach the loops. */
SIMD void product(float *c, size_t ldc, int rows, int columns, const float *a, size_t am, size_t ak,
                  const float *b, size_t ldb, int K, bool keep, bool by_column, const float *adjust)
{
    for (int at = 0; at < columns;) {
        int vecs = (columns - at) / W < TILE_VECS ? (columns - at) / W : TILE_VECS;
        for (int r = 0; r < rows; r += TILE_ROWS) {
            int m = rows - r < TILE_ROWS ? rows - r : TILE_ROWS;
            float *to = c + (size_t)r * ldc + at;
            const float *from = a + (size_t)r * am, *f = by_column ? adjust + at : adjust + r;
            if (vecs == TILE_VECS)
                tile_rows(m, TILE_VECS, to, ldc, from, am, ak, b + at, ldb, K, keep, by_column, f);
#ifdef __AVX512F__
            else if (vecs == 3)
                tile_rows(m, 3, to, ldc, from, am, ak, b + at, ldb, K, keep, by_column, f);
            else if (vecs == 2)
                tile_rows(m, 2, to, ldc, from, am, ak, b + at, ldb, K, keep, by_column, f);
#endif
            else
                tile_rows(m, 1, to, ldc, from, am, ak, b + at, ldb, K, keep, by_column, f);
        }
        at += vecs * W;
    }
}

static void product_scores(float *c, int rows, int columns, const float *a, size_t am, const float *b, int K,
                           const float *unused)
{
    product(c, LANES, rows, columns, a, am, 1, b, LANES, K, false, true, unused);
}

static void product_values_lanes(float *c, int rows, int columns, const float *a, size_t ak, const float *b,
                                 int K, const float *adjust)
{
    product(c, LANES, rows, columns, a, 1, ak, b, LANES, K, true, true, adjust);
}

static void product_values_dots(float *c, size_t ldc, int rows, int columns, const float *a, const float *b,
                                int K, const float *adjust)
{
    product(c, ldc, rows, columns, a, BLOCK, 1, b, ldc, K, true, false, adjust);
}

/* What one call of a layout works on: queries [i0, i0 + count) of the T·group, query i being head i % group
 * of token i / group, and the positions they see. */
struct attn_range {
    int64_t i0;
    int count;
    int64_t begin, end; /* of positions: the first that any query sees, one past the last */
};

SIMD int64_t first_seen(const struct kern_attn *a, int64_t t)
{
    int64_t end = a->pos0 + t + 1;
    return a->window > 0 && end > a->window ? end - a->window : 0;
}

static struct attn_range attn_range(const struct kern_attn *a, int64_t i0, int most)
{
    int64_t left = a->T * a->group - i0;
    struct attn_range r = {.i0 = i0, .count = left < most ? (int)left : most};
    r.begin = first_seen(a, i0 / a->group);
    r.end = a->pos0 + (i0 + r.count - 1) / a->group + 1;
    return r;
}

/* Positions query i sees, relative to `base`, clamped to a block. */
SIMD void seen(const struct kern_attn *a, int64_t i, int64_t base, float *first, float *last)
{
    int64_t t = i / a->group, f = first_seen(a, t) - base, l = a->pos0 + t - base;
    *first = (float)(f < 0 ? 0 : f > BLOCK ? BLOCK : f);
    *last = (float)(l < -1 ? -1 : l > BLOCK ? BLOCK : l);
}

/* ---- Many queries: a lane each */

static void lanes_softmax(const struct attn_parts *s, int count, int columns, bool whole)
{
    for (int at = 0; at < columns; at += W) {
        vf before = vf_load(s->max + at), max = before;
        if (!whole) {
            vf first = vf_load(s->first + at), last = vf_load(s->last + at);
            for (int p = 0; p < count; p++) {
                float *x = s->score + (size_t)p * LANES + at;
                vm visible = vm_and(vf_le(first, vf_set((float)p)), vf_le(vf_set((float)p), last));
                vf_store(x, vf_select(visible, vf_load(x), vf_set(-INFINITY)));
            }
        }
        for (int p = 0; p < count; p++) max = vf_max(vf_load(s->score + (size_t)p * LANES + at), max);
        vf adjust = vf_exp(vf_sub(before, max)), sum = vf_set(0);
        for (int p = 0; p < count; p++) {
            float *x = s->score + (size_t)p * LANES + at;
            vf e = vf_exp(vf_sub(vf_load(x), max));
            sum = vf_add(sum, e);
            vf_store(x, e);
        }
        vf_store(s->max + at, max);
        vf_store(s->adjust + at, adjust);
        vf_store(s->weights + at, vf_fma(vf_load(s->weights + at), adjust, sum));
    }
}

static void attn_lanes(const struct kern_attn *a, const struct attn_range *r)
{
    struct attn_parts s = attn_split(a);
    size_t padded = padded_dim(a->head_dim);
    int columns = (r->count + 15) / 16 * 16;
    for (int d = 0; d < a->head_dim; d++) {
        for (int i = 0; i < columns; i++) {
            s.q[(size_t)d * LANES + (size_t)i] = 0;
            s.sum[(size_t)d * LANES + (size_t)i] = 0;
        }
    }
    for (int i = 0; i < r->count; i++) {
        const float *q = a->q + (r->i0 + i) / a->group * a->ldq + (r->i0 + i) % a->group * a->head_dim;
        for (int d = 0; d < a->head_dim; d++) s.q[(size_t)d * LANES + (size_t)i] = q[d] * a->scale;
    }
    for (int i = 0; i < columns; i++) {
        s.max[i] = -FLT_MAX; /* not infinity: the difference of two infinities is no number */
        s.weights[i] = 0;
    }
    for (int64_t p = r->begin, next; p < r->end; p = next) {
        next = (p / BLOCK + 1) * BLOCK;
        int count = (int)((next < r->end ? next : r->end) - p);
        bool whole = true;
        for (int i = 0; i < columns; i++) { /* lanes without a query do as the last one */
            seen(a, r->i0 + (i < r->count ? i : r->count - 1), p, &s.first[i], &s.last[i]);
            whole = whole && s.first[i] == 0 && s.last[i] >= (float)(count - 1);
        }
        load_block(a, &s, a->k, a->k_row_bytes, p, count);
        product_scores(s.score, count, columns, s.rows, padded, s.q, a->head_dim, s.adjust);
        lanes_softmax(&s, count, columns, whole);
        load_block(a, &s, a->v, a->v_row_bytes, p, count);
        product_values_lanes(s.sum, a->head_dim, columns, s.rows, padded, s.score, count, s.adjust);
    }
    for (int i = 0; i < r->count; i++) {
        float *out = a->out + (r->i0 + i) / a->group * a->ldo + (r->i0 + i) % a->group * a->head_dim;
        float inverse = 1 / s.weights[i];
        for (int d = 0; d < a->head_dim; d++) out[d] = s.sum[(size_t)d * LANES + (size_t)i] * inverse;
    }
}

/* ---- Few queries: dot products */

/* Scores of one query with the rows of a block, W at a time; rows beyond `count` are whatever was there. */
static void dots_scores(const struct attn_parts *s, const float *q, float *score, size_t padded, int count)
{
    for (int p = 0; p < count; p += W) {
        const float *rows = s->rows + (size_t)p * padded;
        vf sum[W];
        for (int j = 0; j < W; j++) sum[j] = vf_mul(vf_load(q), vf_load(rows + (size_t)j * padded));
        for (size_t d = W; d < padded; d += W) {
            vf x = vf_load(q + d);
            for (int j = 0; j < W; j++) sum[j] = vf_fma(x, vf_load(rows + (size_t)j * padded + d), sum[j]);
        }
        vf_store(score + p, vf_sums(sum));
    }
}

static void dots_softmax(const struct attn_parts *s, int i, int count)
{
    float *score = s->score + (size_t)i * BLOCK;
    for (int p = 0; p < (count + W - 1) / W * W; p++)
        if ((float)p < s->first[i] || (float)p > s->last[i] || p >= count) score[p] = -INFINITY;
    vf most = vf_set(-FLT_MAX);
    for (int p = 0; p < count; p += W) most = vf_max(vf_load(score + p), most);
    float before = s->max[i], max = vf_most(most);
    if (max < before) max = before;
    vf sum = vf_set(0);
    for (int p = 0; p < count; p += W) {
        vf e = vf_exp(vf_sub(vf_load(score + p), vf_set(max)));
        sum = vf_add(sum, e);
        vf_store(score + p, e);
    }
    float adjust[W];
    vf_store(adjust, vf_exp(vf_set(before - max)));
    s->max[i] = max;
    s->adjust[i] = adjust[0];
    s->weights[i] = s->weights[i] * adjust[0] + vf_sum(sum);
}

static void attn_dots(const struct kern_attn *a, const struct attn_range *r)
{
    struct attn_parts s = attn_split(a);
    size_t padded = padded_dim(a->head_dim);
    for (int i = 0; i < r->count; i++) {
        const float *q = a->q + (r->i0 + i) / a->group * a->ldq + (r->i0 + i) % a->group * a->head_dim;
        for (int d = 0; d < (int)padded; d++) {
            s.q[(size_t)i * padded + (size_t)d] = d < a->head_dim ? q[d] * a->scale : 0;
            s.sum[(size_t)i * padded + (size_t)d] = 0;
        }
        s.max[i] = -FLT_MAX;
        s.weights[i] = 0;
    }
    for (int64_t p = r->begin, next; p < r->end; p = next) {
        next = (p / BLOCK + 1) * BLOCK;
        int count = (int)((next < r->end ? next : r->end) - p);
        load_block(a, &s, a->k, a->k_row_bytes, p, count);
        for (int i = 0; i < r->count; i++) {
            seen(a, r->i0 + i, p, &s.first[i], &s.last[i]);
            dots_scores(&s, s.q + (size_t)i * padded, s.score + (size_t)i * BLOCK, padded, count);
            dots_softmax(&s, i, count);
        }
        load_block(a, &s, a->v, a->v_row_bytes, p, count);
        product_values_dots(s.sum, padded, r->count, (int)padded, s.score, s.rows, count, s.adjust);
    }
    for (int i = 0; i < r->count; i++) {
        float *out = a->out + (r->i0 + i) / a->group * a->ldo + (r->i0 + i) % a->group * a->head_dim;
        float inverse = 1 / s.weights[i];
        for (int d = 0; d < a->head_dim; d++) out[d] = s.sum[(size_t)i * padded + (size_t)d] * inverse;
    }
}

static void attn_run(const struct kern_attn *a)
{
    int64_t all = a->T * a->group;
    bool few = all <= DOTS;
    int most = few ? DOTS : LANES;
    for (int64_t i = 0; i < all; i += most) {
        struct attn_range r = attn_range(a, i, most);
        if (few)
            attn_dots(a, &r);
        else
            attn_lanes(a, &r);
    }
}

static void attn_fill(struct kern_ops *ops)
{
    ops->attn_scratch_bytes = attn_scratch;
    ops->attn = attn_run;
}

#endif
