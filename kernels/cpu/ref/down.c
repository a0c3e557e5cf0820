/* Adding up down's rows by neuron, in double: the oracle of the wide tiers. */
#include "kernels/down.h"
#include "base/half.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

/* Sums are kept in double within a call and rounded once a run of one group (SPLIT) or once a neuron (ROW),
 * so that the steps are those of the contract. */
static void add_split(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                      const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0, int64_t c1)
{
    int64_t tiles = down_tiles(d), pad = tiles * DOWN_TILE;
    const uint16_t *group_of = w->group_of + first;
    for (int64_t begin = 0, end; begin < count; begin = end) {
        int g = group_of[list[begin]];
        bool silent = true;
        double sum = 0.0;
        for (end = begin; end < count && group_of[list[end]] == g; end++) {
            sum += (double)h[end];
            silent = silent && h[end] == 0.0f;
        }
        if (silent) continue; /* not even a zero times a scale that is no number is added */
        const uint8_t *plane = w->groups + (size_t)g * down_plane_bytes(t, d);
        const uint8_t *super =
            down_is_k(t) ? w->supers + (size_t)(g / (256 / down_group(t))) * down_super_bytes(t, d) : NULL;
        for (int64_t c = c0; c < c1; c += DOWN_TILE) {
            double acc[DOWN_TILE] = {0};
            for (int64_t i = begin; i < end; i++) {
                int8_t q[DOWN_TILE];
                down_codes(t, q, w->rows + (size_t)(first + list[i]) * w->stride, c / DOWN_TILE, tiles);
                for (int j = 0; j < DOWN_TILE; j++) acc[j] += (double)h[i] * q[j];
            }
            for (int64_t j = c; j < c1 && j < c + DOWN_TILE; j++) {
                if (!super) {
                    y[j] = (float)((double)y[j] + (double)f16_to_f32(ref_u16(plane + 2 * j)) * acc[j - c]);
                    continue;
                }
                double big = (double)f16_to_f32(ref_u16(super + 2 * j)), low = 0.0;
                double scale = t == DT_Q6_K ? (double)(int8_t)plane[j] : (double)plane[j];
                if (t != DT_Q6_K)
                    low = (double)f16_to_f32(ref_u16(super + 2 * (pad + j))) * (double)plane[pad + j];
                y[j] = (float)((double)y[j] + (big * scale * acc[j - c] - low * sum));
            }
        }
    }
}

static void add_row(enum dtype t, float *y, const struct kern_down_rows *w, int64_t first,
                    const uint16_t *list, const float *h, int64_t count, int64_t d, int64_t c0, int64_t c1,
                    float *row)
{
    for (int64_t i = 0; i < count; i++) {
        if (h[i] == 0.0f) continue; /* adds nothing, whatever its weights */
        ref_decode(t, row, w->rows + (size_t)(first + list[i]) * w->stride, d);
        for (int64_t c = c0; c < c1; c++) y[c] = (float)((double)y[c] + (double)h[i] * (double)row[c]);
    }
}

static size_t row_scratch(int64_t d)
{
    return ((size_t)d * sizeof(float) + 63) / 64 * 64;
}

static size_t no_scratch(int64_t d)
{
    (void)d;
    return 0;
}

/* clang-format off */
#define SPLIT(X) X(Q8_0) X(Q4_0) X(Q4_K) X(Q5_K) X(Q6_K)
#define ROW(X) \
    X(F32) X(F16) X(BF16) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) \
    X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(IQ4_NL) X(IQ4_XS) X(TQ1_0) X(TQ2_0)
/* clang-format on */

#define DEFINE_SPLIT(t)                                                                                      \
    static void split_add_##t(float *y, const struct kern_down_rows *w, int64_t first, const uint16_t *list, \
                              const float *h, int64_t count, int64_t d, int64_t c0, int64_t c1,              \
                              void *scratch)                                                                 \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        add_split(DT_##t, y, w, first, list, h, count, d, c0, c1);                                           \
    }                                                                                                        \
    static size_t split_bytes_##t(int64_t d)                                                                 \
    {                                                                                                        \
        return down_split_bytes(DT_##t, d);                                                                  \
    }                                                                                                        \
    static size_t plane_bytes_##t(int64_t d)                                                                 \
    {                                                                                                        \
        return down_plane_bytes(DT_##t, d);                                                                  \
    }                                                                                                        \
    static size_t super_bytes_##t(int64_t d)                                                                 \
    {                                                                                                        \
        return down_super_bytes(DT_##t, d);                                                                  \
    }                                                                                                        \
    static const struct kern_down split_##t = {                                                              \
        .group = DT_##t == DT_Q6_K ? 16 : 32,                                                                \
        .neuron_bytes = split_bytes_##t,                                                                     \
        .group_bytes = plane_bytes_##t,                                                                      \
        .super_bytes = super_bytes_##t,                                                                      \
        .add = split_add_##t,                                                                                \
        .scratch_bytes = no_scratch,                                                                         \
    };
#define DEFINE_ROW(t)                                                                                        \
    static void row_add_##t(float *y, const struct kern_down_rows *w, int64_t first, const uint16_t *list,   \
                            const float *h, int64_t count, int64_t d, int64_t c0, int64_t c1, void *scratch) \
    {                                                                                                        \
        add_row(DT_##t, y, w, first, list, h, count, d, c0, c1, scratch);                                    \
    }                                                                                                        \
    static size_t row_bytes_##t(int64_t d)                                                                   \
    {                                                                                                        \
        return down_row_bytes(DT_##t, d);                                                                    \
    }                                                                                                        \
    static const struct kern_down row_##t = {                                                                \
        .neuron_bytes = row_bytes_##t,                                                                       \
        .add = row_add_##t,                                                                                  \
        .scratch_bytes = row_scratch,                                                                        \
    };
SPLIT(DEFINE_SPLIT)
ROW(DEFINE_ROW)

void ref_down_init(struct kern_ops *ops)
{
#define ENTER_SPLIT(t) ops->down_split[DT_##t] = &split_##t;
#define ENTER_ROW(t)   ops->down_row[DT_##t] = &row_##t;
    SPLIT(ENTER_SPLIT)
    ROW(ENTER_ROW)
}
