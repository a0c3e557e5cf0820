/* Attention in double, two passes over the positions: the maximum, then the weighted sum. Scores are computed
 * twice rather than stored: scratch does not depend on the context's length. */
#include "kernels/cpu/ref/ref.h"
#include "kernels/kernels.h"

#include <math.h>

static size_t scratch_bytes(int64_t T, int group, int head_dim)
{
    (void)T;
    (void)group;
    size_t one = (size_t)head_dim * (sizeof(double) + sizeof(float));
    return (one + 63) & ~(size_t)63;
}

/* The score of one query with position p; `row` has room for head_dim floats. */
static double score(const struct kern_attn *a, const float *q, int64_t p, float *row)
{
    ref_decode(a->kv_type, row, (const char *)a->k + (size_t)p * a->k_row_bytes, a->head_dim);
    double sum = 0;
    for (int i = 0; i < a->head_dim; i++) sum += (double)q[i] * row[i];
    return sum * a->scale;
}

static void attn(const struct kern_attn *a)
{
    double *sum = a->scratch;
    float *row = (float *)(sum + a->head_dim);
    for (int64_t t = 0; t < a->T; t++) {
        int64_t last = a->pos0 + t, first = a->window && last + 1 > a->window ? last + 1 - a->window : 0;
        for (int g = 0; g < a->group; g++) {
            const float *q = a->q + t * a->ldq + (ptrdiff_t)g * a->head_dim;
            float *out = a->out + t * a->ldo + (ptrdiff_t)g * a->head_dim;
            double max = -INFINITY, weights = 0;
            for (int64_t p = first; p <= last; p++) max = fmax(max, score(a, q, p, row));
            for (int i = 0; i < a->head_dim; i++) sum[i] = 0;
            for (int64_t p = first; p <= last; p++) {
                double e = exp(score(a, q, p, row) - max);
                weights += e;
                ref_decode(a->kv_type, row, (const char *)a->v + (size_t)p * a->v_row_bytes, a->head_dim);
                for (int i = 0; i < a->head_dim; i++) sum[i] += e * row[i];
            }
            for (int i = 0; i < a->head_dim; i++) out[i] = (float)(sum[i] / weights);
        }
    }
}

void ref_attn_init(struct kern_ops *ops)
{
    ops->attn_scratch_bytes = scratch_bytes;
    ops->attn = attn;
}
