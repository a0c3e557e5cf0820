/* The two ends of training: where it begins, and how its weights are rounded to what is stored. */
#include "base/err.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "placement/predictor_priv.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Beginning with the gate ---- */

enum { SAMPLES = 2048, ROUNDS = 6, ROWS = 32 };

/* One product, rows shared out. */
struct rows_job {
    float *c;
    const float *a, *b;
    int64_t ai, ak, m, n, depth;
};

static void rows_part(struct team_member *t, void *arg)
{
    const struct rows_job *j = arg;
    int64_t i;
    while (team_next(t, 0, j->m, ROWS, &i))
        train_product(j->c + i * j->n, j->n, j->a + i * j->ai, j->ai, j->ak, j->b, j->n,
                      j->m - i < ROWS ? j->m - i : ROWS, j->n, j->depth);
}

/* Rows of v, n long, made orthonormal in order; one that is nothing but the earlier ones becomes zero. */
static void orthonormalise(float *v, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++) {
        float *a = v + i * n;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t k = 0; k < i; k++) {
                const float *b = v + k * n;
                double dot = 0.0;
                for (int64_t j = 0; j < n; j++) dot += (double)a[j] * (double)b[j];
                for (int64_t j = 0; j < n; j++) a[j] -= (float)dot * b[j];
            }
        double sum = 0.0;
        for (int64_t j = 0; j < n; j++) sum += (double)a[j] * (double)a[j];
        float scale = sum > 1e-20 ? (float)(1.0 / sqrt(sum)) : 0.0f;
        for (int64_t j = 0; j < n; j++) a[j] *= scale;
    }
}

static void transpose(float *to, const float *from, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++) to[j * rows + i] = from[i * n + j];
}

/* y = W x of some samples, its first r principal directions V by subspace iteration, and W ≈ V·(Vᵀ·W): among
 * all approximations of this rank the one with the least error of y on these samples (the whitened
 * factorisation of SVDP, arXiv 2603.14110, computed without the covariance of x). */
int train_begin_with_gate(struct train *t, struct err *e)
{
    int64_t d = t->d, f = t->f, r = t->r, fp = t->fp;
    int64_t n = (int64_t)t->samples->n < SAMPLES ? (int64_t)t->samples->n : SAMPLES;
    float *x = malloc((size_t)(n * d) * sizeof *x), *y = calloc((size_t)(n * fp), sizeof *y);
    float *wt = calloc((size_t)(d * fp), sizeof *wt), *v = malloc((size_t)(f * r) * sizeof *v);
    float *vt = malloc((size_t)(f * r) * sizeof *vt), *s = malloc((size_t)(n * r) * sizeof *s);
    int rc = x && y && wt && v && vt && s ? 0 : err_set(e, ERR_NOMEM, "no memory to approximate a gate");
    if (rc) goto out;
    struct rng rng;
    rng_init(&rng, t->s->seed);
    for (int64_t i = 0; i < n; i++)
        t->s->ops->decode(DT_F16, x + i * d,
                          t->samples->x + (size_t)(i * (int64_t)t->samples->n / n) * (size_t)d, d);
    for (int64_t j = 0; j < f; j++)
        for (int64_t c = 0; c < d; c++) wt[c * fp + j] = t->s->gate[j * d + c];
    team_run(t->s->team, rows_part, &(struct rows_job){y, x, wt, d, 1, n, fp, d});
    for (int64_t i = 0; i < f * r; i++) v[i] = (float)rng_normal(&rng);
    for (int round = 0; round < ROUNDS; round++) {
        team_run(t->s->team, rows_part, &(struct rows_job){s, y, v, fp, 1, n, r, f});
        team_run(t->s->team, rows_part, &(struct rows_job){v, y, s, 1, fp, f, r, n});
        transpose(vt, v, f, r);
        orthonormalise(vt, r, f);
        transpose(v, vt, r, f);
    }
    /* fc1 = Vᵀ·W (kept turned: d × r), its hidden values made one wide; fc2 = V, to logits of a few. */
    team_run(t->s->team, rows_part, &(struct rows_job){t->fc1.w, t->s->gate, v, 1, d, d, r, f});
    team_run(t->s->team, rows_part, &(struct rows_job){s, x, t->fc1.w, d, 1, n, r, d});
    double all = 0.0;
    for (int64_t i = 0; i < n * fp; i++) all += (double)y[i] * (double)y[i];
    float logits = all > 0.0 ? (float)(4.0 / sqrt(all / (double)(n * f))) : 1.0f;
    for (int64_t k = 0; k < r; k++) {
        double sum = 0.0;
        for (int64_t i = 0; i < n; i++) sum += (double)s[i * r + k] * (double)s[i * r + k];
        float wide = (float)sqrt(sum / (double)n);
        for (int64_t c = 0; c < d; c++) t->fc1.w[c * r + k] *= wide > 1e-10f ? 1.0f / wide : 1.0f;
        for (int64_t j = 0; j < f; j++) t->fc2t.w[k * fp + j] = v[j * r + k] * wide * logits;
    }
out:
    free(x);
    free(y);
    free(wt);
    free(v);
    free(vt);
    free(s);
    return rc;
}

/* ---- Storing ---- */

struct unit {
    float strength; /* how much of the logits it makes */
    float in_scale; /* fc1's row is multiplied by it, fc2's column divided */
    uint32_t from;
};

static int stronger(const void *a, const void *b)
{
    const struct unit *x = a, *y = b;
    if (x->strength != y->strength) return x->strength < y->strength ? 1 : -1;
    return x->from < y->from ? -1 : 1;
}

/* Hidden values are interchangeable and may be scaled. Blocks of 32 share a scale when they are rounded
 * (fc2's columns as weights, the hidden values as they are computed): so they are ordered by strength, and
 * the strength is split evenly between the two. The hidden values' sizes are those of the last batch. */
static struct unit *make_units(const struct train *t)
{
    struct unit *u = malloc((size_t)t->r * sizeof *u);
    for (int64_t k = 0; u && k < t->r; k++) {
        double in = 0.0, out = 0.0;
        for (int64_t b = 0; b < t->batch; b++) in += (double)t->h[b * t->r + k] * (double)t->h[b * t->r + k];
        for (int64_t j = 0; j < t->f; j++)
            out += (double)t->fc2t.w[k * t->fp + j] * (double)t->fc2t.w[k * t->fp + j];
        in = sqrt(in / (double)t->batch);
        out = sqrt(out / (double)t->f);
        u[k] = (struct unit){(float)(in * out), 1.0f, (uint32_t)k};
        if (in > 1e-12 && out > 1e-12) u[k].in_scale = (float)sqrt(out / in);
    }
    if (u) qsort(u, (size_t)t->r, sizeof *u, stronger);
    return u;
}

int train_store(struct train *t, struct predictor *p, uint32_t layer, struct err *e)
{
    const struct predictor_training *s = t->s;
    int64_t d = t->d, r = t->r, longest = d > r ? d : r;
    float *row = malloc((size_t)longest * sizeof *row);
    struct unit *u = make_units(t);
    int rc = row && u ? 0 : err_set(e, ERR_NOMEM, "no memory to store a predictor");
    if (rc == 0)
        rc = predictor_layer_create(p, layer, (uint32_t)r, s->fc1_type, s->fc2_type,
                                    s->hidden == PREDICTOR_RELU, e);
    struct predictor_layer *l = &p->layers[layer];
    for (int64_t k = 0; k < r && rc == 0; k++) {
        for (int64_t c = 0; c < d; c++) row[c] = t->fc1.w[c * r + u[k].from] * u[k].in_scale;
        rc = kern_encode(s->fc1_type, l->fc1 + (size_t)k * l->fc1_row_bytes, row, d, e);
        if (l->hidden_bias) l->hidden_bias[k] = t->hidden_bias.w[u[k].from] * u[k].in_scale;
    }
    for (int64_t j = 0; j < t->f && rc == 0; j++) {
        for (int64_t k = 0; k < r; k++) row[k] = t->fc2t.w[u[k].from * t->fp + j] / u[k].in_scale;
        rc = kern_encode(s->fc2_type, l->fc2 + (size_t)j * l->fc2_row_bytes, row, r, e);
        if (!isfinite(t->bias.w[j]) || fabsf(t->bias.w[j]) > 60000.0f)
            rc = err_set(e, ERR_NUMERIC, "training did not converge: the bias of neuron %lld is %g",
                         (long long)j, (double)t->bias.w[j]);
        l->bias[j] = f32_to_f16(t->bias.w[j]);
    }
    if (rc == 0) {
        l->hidden = s->hidden;
        l->cut = 0.0f;
    }
    free(row);
    free(u);
    return rc;
}
