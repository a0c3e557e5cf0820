/* What a predictor does on samples it was not trained on. */
#include "base/err.h"
#include "base/half.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "placement/predictor_train.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 16 };
/* Magnitudes are added up as whole numbers of this fraction of `unit`, so that sums have no order. */
#define PARTS 65536.0

struct measure {
    struct predictor_scores *out;
    const struct predictor *p;
    const struct predictor_layer *l;
    const struct predictor_samples *samples;
    const struct kern_mat *fc1, *fc2;
    const struct kern_ops *ops;
    double unit;
    /* A thread's each. */
    uint8_t *memory;
    size_t own_bytes, xp, hp, x, h, z;
    uint64_t *histograms;
};

static float magnitude_of(uint16_t v)
{
    return half_float((uint32_t)v << 16);
}

static int bin(float z)
{
    float at = (z + 64.0f) * 64.0f;
    if (!(at > 0.0f)) return 0;
    return at < (float)(PREDICTOR_CUTS - 1) ? (int)at : PREDICTOR_CUTS - 1;
}

/* As the engine does it: one token, the same kernels. */
static void one(const struct measure *m, uint8_t *own, uint64_t *bins, size_t i)
{
    const struct predictor_layer *l = m->l;
    int64_t d = m->p->subject.width, f = m->p->subject.neurons, r = l->rank;
    float *x = (float *)(own + m->x), *h = (float *)(own + m->h), *z = (float *)(own + m->z);
    m->ops->decode(DT_F16, x, m->samples->x + i * (size_t)d, d);
    m->fc1->x_pack(own + m->xp, x, d, d, 1, 0, 1);
    m->fc1->rows(h, r, l->fc1, l->fc1_row_bytes, r, d, own + m->xp, 1, own);
    if (l->hidden_bias) m->ops->add(h, l->hidden_bias, r);
    for (int64_t k = 0; k < r && l->hidden == PREDICTOR_RELU; k++) h[k] = h[k] > 0.0f ? h[k] : 0.0f;
    m->fc2->x_pack(own + m->hp, h, r, r, 1, 0, 1);
    m->fc2->rows(z, f, l->fc2, l->fc2_row_bytes, f, r, own + m->hp, 1, own);
    const uint16_t *wanted = m->samples->magnitude + i * (size_t)f;
    for (int64_t j = 0; j < f; j++) {
        int b = bin(z[j] + f16_to_f32(l->bias[j]));
        float w = magnitude_of(wanted[j]);
        bins[b]++;
        if (!(w > 0.0f)) continue;
        bins[PREDICTOR_CUTS + b]++;
        bins[2 * PREDICTOR_CUTS + b] += (uint64_t)((double)w * m->unit + 0.5);
    }
}

static void part(struct team_member *t, void *arg)
{
    const struct measure *m = arg;
    uint8_t *own = m->memory + (size_t)t->ith * m->own_bytes;
    int64_t n = (int64_t)m->samples->n, i;
    while (team_next(t, 0, n, CHUNK, &i))
        for (int64_t k = i; k < i + CHUNK && k < n; k++)
            one(m, own, m->histograms + (size_t)t->ith * 3 * PREDICTOR_CUTS, (size_t)k);
}

static size_t up64(size_t n)
{
    return (n + 127) / 64 * 64;
}

int predictor_measure(struct predictor_scores *out, const struct predictor *p, uint32_t layer,
                      const struct predictor_samples *samples, struct team *team, const struct kern_ops *ops,
                      struct err *e)
{
    const struct predictor_layer *l = &p->layers[layer];
    struct measure m = {.out = out, .p = p, .l = l, .samples = samples, .ops = ops};
    size_t d = p->subject.width, f = p->subject.neurons, r = l->rank, threads = (size_t)team_size(team);
    memset(out, 0, sizeof *out);
    m.fc1 = ops->mv[l->fc1_type];
    m.fc2 = ops->mv[l->fc2_type];
    size_t scratch1 = m.fc1->scratch_bytes ? m.fc1->scratch_bytes((int64_t)d) : 0;
    size_t scratch2 = m.fc2->scratch_bytes ? m.fc2->scratch_bytes((int64_t)r) : 0;
    m.xp = up64(scratch1 > scratch2 ? scratch1 : scratch2);
    m.hp = m.xp + up64(m.fc1->x_bytes((int64_t)d, 1));
    m.x = m.hp + up64(m.fc2->x_bytes((int64_t)r, 1));
    m.h = m.x + up64(d * sizeof(float));
    m.z = m.h + up64(r * sizeof(float));
    m.own_bytes = m.z + up64(f * sizeof(float));
    m.memory = aligned_alloc(64, threads * m.own_bytes);
    m.histograms = calloc(threads * 3 * PREDICTOR_CUTS, sizeof *m.histograms);
    double most = 0.0;
    for (size_t i = 0; i < samples->n * f; i++) {
        double w = (double)magnitude_of(samples->magnitude[i]);
        if (w > most) most = w;
    }
    m.unit = most > 0.0 ? PARTS * 256.0 / most : 1.0;
    int rc = m.memory && m.histograms ? 0 : err_set(e, ERR_NOMEM, "no memory to measure a predictor");
    if (rc == 0) {
        team_run(team, part, &m);
        for (size_t t = 0; t < threads; t++) {
            const uint64_t *h = m.histograms + t * 3 * PREDICTOR_CUTS;
            for (int b = 0; b < PREDICTOR_CUTS; b++) {
                out->all[b] += h[b];
                out->on[b] += h[PREDICTOR_CUTS + b];
                out->magnitude[b] += h[2 * PREDICTOR_CUTS + b];
            }
        }
        out->samples = samples->n;
        predictor_at_cut(out, l->cut);
    }
    free(m.memory);
    free(m.histograms);
    return rc;
}

static float edge(int b)
{
    return b ? (float)b / 64.0f - 64.0f : -INFINITY;
}

void predictor_at_cut(struct predictor_scores *s, float cut)
{
    double kept = 0.0, all = 0.0;
    s->cut = cut;
    s->candidates = s->active = s->found = 0;
    for (int b = 0; b < PREDICTOR_CUTS; b++) {
        bool in = edge(b) >= cut;
        all += (double)s->magnitude[b];
        s->active += s->on[b];
        if (!in) continue;
        kept += (double)s->magnitude[b];
        s->candidates += s->all[b];
        s->found += s->on[b];
    }
    s->recall = all > 0.0 ? kept / all : 1.0;
}

float predictor_choose_cut(struct predictor_scores *s, double recall)
{
    double all = 0.0, kept = 0.0;
    int b = PREDICTOR_CUTS;
    for (int i = 0; i < PREDICTOR_CUTS; i++) all += (double)s->magnitude[i];
    while (b > 0 && (kept < recall * all || all == 0.0)) kept += (double)s->magnitude[--b];
    predictor_at_cut(s, edge(all > 0.0 ? b : 0));
    return s->cut;
}
