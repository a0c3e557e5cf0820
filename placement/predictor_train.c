/* See predictor_train.h. A step of training, by all threads of the team:
 *
 *   1. samples of the batch are shared out: hidden values, logits, their gradients, those of the hidden
 * values
 *   2. neurons and columns of fc1 are shared out: gradients of the weights, summed over the batch in order,
 *      and Adam's step on them
 *
 * so that nothing is summed across threads. fc2 is kept in both orders, since both are read in rows. */
#include "placement/predictor_train.h"

#include "base/err.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "placement/predictor_priv.h"
#include "placement/train_math.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 32, NEURONS = 64, COLUMNS = 32, STEPS = 8, WARM_UP = 50 };
enum slot { SLOT_SAMPLES, SLOT_NEURONS, SLOT_COLUMNS };

int train_create(struct train *t, const struct predictor *p, const struct predictor_samples *samples,
                 const struct predictor_training *s, struct err *e)
{
    *t = (struct train){.s = s,
                        .samples = samples,
                        .d = p->subject.width,
                        .f = p->subject.neurons,
                        .r = s->rank,
                        .rate = s->rate > 0.0f ? s->rate : 0.002f};
    int64_t d = t->d, r = t->r, fp = t->fp = (t->f + TRAIN_COLUMNS - 1) / TRAIN_COLUMNS * TRAIN_COLUMNS;
    if (r == 0 || r % TRAIN_COLUMNS || r > PREDICTOR_RANK_MOST)
        return err_set(e, ERR_ARG, "a predictor of rank %lld: expected a multiple of %d up to %d",
                       (long long)r, TRAIN_COLUMNS, PREDICTOR_RANK_MOST);
    if (samples->n == 0) return err_set(e, ERR_ARG, "there are no samples to train on");
    t->batch = samples->n < TRAIN_BATCH ? (int64_t)samples->n : TRAIN_BATCH;
    size_t B = (size_t)t->batch, threads = (size_t)team_size(s->team);
    size_t sizes[] = {(size_t)(d * r), (size_t)(r * fp), (size_t)fp, (size_t)r};
    size_t sum = 0;
    for (int i = 0; i < 4; i++) sum += 3 * sizes[i];
    size_t own = (size_t)(r * NEURONS + COLUMNS * r + NEURONS);
    sum += (size_t)(t->f * r) + B * (size_t)(d + 2 * r + fp) + threads * own;
    t->memory = aligned_alloc(64, (sum * sizeof(float) + 127) / 64 * 64);
    t->wanted = malloc(B * (size_t)fp * sizeof *t->wanted);
    t->order = malloc(samples->n * sizeof *t->order);
    if (!t->memory || !t->wanted || !t->order)
        return err_set(e, ERR_NOMEM, "no memory to train a predictor of rank %lld", (long long)r);
    memset(t->memory, 0, sum * sizeof(float));
    memset(t->wanted, 0, B * (size_t)fp * sizeof *t->wanted);
    float *at = t->memory;
    struct train_weights *w[] = {&t->fc1, &t->fc2t, &t->bias, &t->hidden_bias};
    for (int i = 0; i < 4; i++) {
        w[i]->w = at;
        w[i]->m = at + sizes[i];
        w[i]->v = at + 2 * sizes[i];
        at += 3 * sizes[i];
    }
    t->fc2 = at;
    t->x = t->fc2 + t->f * r;
    t->h = t->x + t->batch * d;
    t->dh = t->h + t->batch * r;
    t->z = t->dh + t->batch * r;
    t->own = t->z + t->batch * fp;
    t->own_floats = own;
    for (size_t i = 0; i < samples->n; i++) t->order[i] = (uint32_t)i;
    return 0;
}

void train_finish(struct train *t)
{
    free(t->memory);
    free(t->wanted);
    free(t->order);
    t->memory = NULL;
}

/* ---- A step ---- */

/* Samples [b0, b1) of the batch: forward, and back to the hidden values. */
static void samples_part(struct train *t, int64_t b0, int64_t b1)
{
    int64_t d = t->d, r = t->r, fp = t->fp;
    for (int64_t b = b0; b < b1; b++) {
        size_t i = t->order[t->first + (size_t)b];
        t->s->ops->decode(DT_F16, t->x + b * d, t->samples->x + i * (size_t)d, d);
        memcpy(t->wanted + b * fp, t->samples->magnitude + i * (size_t)t->f,
               (size_t)t->f * sizeof *t->wanted);
    }
    train_product(t->h + b0 * r, r, t->x + b0 * d, d, 1, t->fc1.w, r, b1 - b0, r, d);
    if (t->s->hidden == PREDICTOR_RELU)
        for (int64_t b = b0; b < b1; b++)
            for (int64_t k = 0; k < r; k++) t->h[b * r + k] = fmaxf(t->h[b * r + k] + t->hidden_bias.w[k], 0);
    train_product(t->z + b0 * fp, fp, t->h + b0 * r, r, 1, t->fc2t.w, fp, b1 - b0, fp, r);
    for (int64_t b = b0; b < b1; b++) {
        for (int64_t j = 0; j < fp; j++) t->z[b * fp + j] += t->bias.w[j];
        train_gradient(t->z + b * fp, t->wanted + b * fp, t->weight, fp);
    }
    train_product(t->dh + b0 * r, r, t->z + b0 * fp, fp, 1, t->fc2, r, b1 - b0, r, t->f);
    if (t->s->hidden == PREDICTOR_RELU)
        for (int64_t i = b0 * r; i < b1 * r; i++)
            if (t->h[i] <= 0.0f) t->dh[i] = 0.0f;
}

/* Column sums of the batch: of columns [c0, c0 + n) of g. */
static void sum_columns(float *out, const float *g, int64_t ld, int64_t c0, int64_t n, int64_t batch)
{
    memset(out, 0, (size_t)n * sizeof *out);
    for (int64_t b = 0; b < batch; b++)
        for (int64_t j = 0; j < n; j++) out[j] += g[b * ld + c0 + j];
}

static void neurons_part(struct train *t, float *own, int64_t j0)
{
    int64_t r = t->r, fp = t->fp, n = fp - j0 < NEURONS ? fp - j0 : NEURONS;
    float *sums = own + r * NEURONS;
    train_product(own, n, t->h, 1, r, t->z + j0, fp, r, n, t->batch);
    sum_columns(sums, t->z, fp, j0, n, t->batch);
    if (t->gradients) { /* a test looks at them */
        for (int64_t k = 0; k < r; k++)
            memcpy(t->gradients->fc2t + k * fp + j0, own + k * n, (size_t)n * sizeof *own);
        memcpy(t->gradients->bias + j0, sums, (size_t)n * sizeof *sums);
        return;
    }
    for (int64_t k = 0; k < r; k++) {
        int64_t at = k * fp + j0;
        train_adam(&t->adam, t->fc2t.w + at, t->fc2t.m + at, t->fc2t.v + at, own + k * n, n);
    }
    train_adam(&t->adam, t->bias.w + j0, t->bias.m + j0, t->bias.v + j0, sums, n);
    for (int64_t j = j0; j < j0 + n && j < t->f; j++)
        for (int64_t k = 0; k < r; k++) t->fc2[j * r + k] = t->fc2t.w[k * fp + j];
}

static void columns_part(struct train *t, float *own, int64_t c0)
{
    int64_t r = t->r, d = t->d, n = d - c0 < COLUMNS ? d - c0 : COLUMNS;
    train_product(own, r, t->x + c0, 1, d, t->dh, r, n, r, t->batch);
    if (t->gradients) {
        memcpy(t->gradients->fc1 + c0 * r, own, (size_t)(n * r) * sizeof *own);
    } else {
        train_adam(&t->adam, t->fc1.w + c0 * r, t->fc1.m + c0 * r, t->fc1.v + c0 * r, own, n * r);
    }
    if (c0 > 0 || t->s->hidden != PREDICTOR_RELU) return;
    sum_columns(own, t->dh, r, 0, r, t->batch);
    if (t->gradients)
        memcpy(t->gradients->hidden_bias, own, (size_t)r * sizeof *own);
    else
        train_adam(&t->adam, t->hidden_bias.w, t->hidden_bias.m, t->hidden_bias.v, own, r);
}

/* The learning rate rises, then falls to zero in a straight line; Adam's corrections for the first steps. */
static void set_rate(struct train *t, int64_t step)
{
    const float b1 = 0.9f, b2 = 0.99f;
    double rate = (double)t->rate * (1.0 - (double)step / (double)t->steps);
    if (step < WARM_UP) rate *= (step + 1.0) / WARM_UP;
    double c1 = 1.0 - pow((double)b1, (double)step + 1), c2 = sqrt(1.0 - pow((double)b2, (double)step + 1));
    t->adam = (struct train_adam){.step = (float)(rate * c2 / c1),
                                  .beta1 = b1,
                                  .beta2 = b2,
                                  .epsilon = (float)(1e-7 * c2),
                                  .scale = 1.0f / (float)t->batch};
}

void train_steps(struct team_member *m, void *arg)
{
    struct train *t = arg;
    float *own = t->own + (size_t)m->ith * t->own_floats;
    int64_t i;
    for (int64_t k = 0; k < t->now; k++) {
        if (m->ith == 0) {
            set_rate(t, t->step + k);
            t->first = t->at + (size_t)(k * t->batch);
        }
        team_barrier(m);
        while (team_next(m, SLOT_SAMPLES, t->batch, CHUNK, &i))
            samples_part(t, i, i + CHUNK < t->batch ? i + CHUNK : t->batch);
        team_barrier(m);
        while (team_next(m, SLOT_NEURONS, t->fp, NEURONS, &i)) neurons_part(t, own, i);
        while (team_next(m, SLOT_COLUMNS, t->d, COLUMNS, &i)) columns_part(t, own, i);
        team_barrier(m);
    }
}

/* ---- All steps ---- */

static void shuffle(uint32_t *order, size_t n, struct rng *rng)
{
    for (size_t i = n; i > 1; i--) {
        size_t j = (size_t)rng_below(rng, i);
        uint32_t o = order[i - 1];
        order[i - 1] = order[j];
        order[j] = o;
    }
}

static float bf16(uint16_t v)
{
    return half_float((uint32_t)v << 16);
}

/* How often neurons are active decides where their biases begin; the mean magnitude, how much one weighs. */
static void look_at_samples(struct train *t, float *often)
{
    double sum = 0.0;
    uint64_t active = 0;
    size_t f = (size_t)t->f, n = t->samples->n;
    memset(often, 0, f * sizeof *often);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < f; j++) {
            float m = bf16(t->samples->magnitude[i * f + j]);
            if (!(m > 0.0f)) continue;
            sum += (double)m;
            active++;
            often[j] += 1.0f / (float)n;
        }
    float emphasis = t->s->emphasis > 0.0f ? t->s->emphasis : 4.0f;
    t->weight = active ? (float)((double)active / sum) * emphasis : 1.0f;
}

static int run(struct train *t, struct err *e)
{
    struct rng rng;
    size_t batches = t->samples->n / (size_t)t->batch;
    rng_init(&rng, t->s->seed);
    t->steps = (int64_t)(t->s->epochs * (double)batches);
    if (t->steps < 1) t->steps = 1;
    size_t used = batches;
    for (t->step = 0; t->step < t->steps; t->step += t->now) {
        if (used == batches) {
            shuffle(t->order, t->samples->n, &rng);
            used = 0;
        }
        t->now = (int64_t)(batches - used) < STEPS ? (int64_t)(batches - used) : STEPS;
        if (t->now > t->steps - t->step) t->now = t->steps - t->step;
        t->at = used * (size_t)t->batch;
        team_run(t->s->team, train_steps, t);
        used += (size_t)t->now;
        if (t->s->progress &&
            t->s->progress((double)(t->step + t->now) / (double)t->steps, t->s->progress_arg))
            return err_set(e, ERR_CANCELLED, "training was cancelled");
    }
    return 0;
}

int predictor_train(struct predictor *p, uint32_t layer, const struct predictor_samples *samples,
                    const struct predictor_training *s, struct err *e)
{
    struct train t;
    struct rng rng;
    int rc = train_create(&t, p, samples, s, e);
    float *often = rc == 0 ? malloc((size_t)t.f * sizeof *often) : NULL;
    if (rc == 0 && !often) rc = err_set(e, ERR_NOMEM, "no memory to train a predictor");
    if (rc == 0) {
        look_at_samples(&t, often);
        rng_init(&rng, s->seed ^ 0x5eed);
        for (int64_t i = 0; i < t.d * t.r; i++) t.fc1.w[i] = (float)(rng_normal(&rng) / sqrt((double)t.d));
        for (int64_t i = 0; i < t.r * t.fp; i++)
            t.fc2t.w[i] = (float)(0.5 * rng_normal(&rng) / sqrt((double)t.r));
        for (int64_t j = 0; j < t.f; j++) {
            double q = (double)(s->prior ? s->prior[j] : often[j]);
            q = q < 1e-4 ? 1e-4 : q > 0.9999 ? 0.9999 : q;
            t.bias.w[j] = (float)log(q / (1.0 - q));
        }
        if (s->gate && s->hidden == PREDICTOR_LINEAR) rc = train_begin_with_gate(&t, e);
    }
    if (rc == 0) {
        for (int64_t j = 0; j < t.f; j++)
            for (int64_t k = 0; k < t.r; k++) t.fc2[j * t.r + k] = t.fc2t.w[k * t.fp + j];
        rc = run(&t, e);
    }
    if (rc == 0) rc = train_store(&t, p, layer, e);
    free(often);
    train_finish(&t);
    return rc;
}
