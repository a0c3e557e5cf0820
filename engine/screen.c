/* See screen.h. Each screen counts the bytes that it reads, in `bytes` and in `screen` of the layer's counts.
 */
#include "engine/screen.h"

#include "base/threads.h"
#include "engine/arch/arch.h"

#include <math.h>

static void count(const struct pass *p, const struct team_member *t, uint32_t layer, uint64_t bytes)
{
    calor_ffn_counts *c = &p->s->workers[t->ith].counts[layer];
    c->bytes += bytes;
    c->screen += bytes;
}

/* ---- Plane ---- */

static void plane_begin(const struct pass *p, struct team_member *t, uint32_t layer,
                        const struct gate_test *test, const struct ffn_inputs *x, int64_t T,
                        struct screen_work *w)
{
    float *values = p->s->workers[t->ith].norm; /* the normed inputs are prepared by now */
    int64_t d = p->m->hp.width;
    for (int64_t k = 0; k < T; k++) {
        p->m->layers[layer].by.screen->x_values(values, x->gate[k], d);
        kern_plane_x_make(&w->x[k], values, d);
        w->bound[k] =
            kern_plane_bound_make(&w->x[k], p->s->mode == CALOR_SURE ? 5.0 : 0.0, true, test->least);
    }
    for (int64_t k = 0; k < T; k++) w->hidden[k] = x->gate[k];
}

static int64_t plane_candidates(const struct pass *p, struct team_member *t, uint32_t layer,
                                const struct screen_work *w, int64_t k, int64_t i, int64_t n, uint16_t *list)
{
    struct layer *l = &p->m->layers[layer];
    const struct neurons *by = &l->by;
    const struct mat *g = neurons_gate(l);
    const float *bias = l->gate.n ? l->gate_b : l->up_b;
    float z[KERN_BLOCK], e[KERN_BLOCK];
    by->screen->coarse(z, &by->planes, i, n, g->n, w->hidden[k], p->s->workers[t->ith].scratch);
    for (int j = 0; j < w->x[k].extremes; j++) {
        kern_plane_column(g->type, e, &by->planes, i, n, g->n, w->x[k].channel[j]);
        kern_plane_add_column(z, e, w->x[k].value[j], n);
    }
    count(p, t, layer, (uint64_t)n * (by->planes.coarse_stride + 64 * (uint64_t)w->x[k].extremes));
    return kern_plane_candidates(list, z, bias ? bias + i : NULL, by->planes.rows + i, n, &w->bound[k]);
}

static const struct screen plane = {"plane", plane_begin, plane_candidates};

/* ---- Predictor ---- */

/* The hidden values: rows of fc1 are shared out, then each thread prepares all of them for fc2. */
static void predictor_begin(const struct pass *p, struct team_member *t, uint32_t layer,
                            const struct gate_test *test, const struct ffn_inputs *x, int64_t T,
                            struct screen_work *w)
{
    const struct predicting *pr = &p->m->layers[layer].predicting;
    int64_t rank = pr->fc1.rows;
    struct product part = {.w = &pr->fc1, .bias = pr->hidden_bias, .k = pr->fc1.mv};
    struct product_range r;
    (void)test;
    while (product_next(p, t, &part, 1, 1, &r))
        for (int64_t k = 0; k < T; k++) {
            float *h = p->s->hidden + k * rank + r.begin;
            part.xp = x->predictor[k];
            product_rows(p, t, &part, r.begin, r.end, 1, h, r.end - r.begin);
            for (int64_t i = 0; pr->relu && i < r.end - r.begin; i++) h[i] = h[i] > 0.0f ? h[i] : 0.0f;
            count(p, t, layer, (uint64_t)(r.end - r.begin) * (pr->fc1.row_bytes + (part.bias ? 4 : 0)));
        }
    team_barrier(t);
    uint8_t *at = x->rest;
    for (int64_t k = 0; k < T; k++, at += pr->fc2.mv->x_bytes(rank, 1)) {
        pr->fc2.mv->x_pack(at, p->s->hidden + k * rank, rank, rank, 1, 0, 1);
        w->hidden[k] = at;
    }
}

static int64_t predictor_candidates(const struct pass *p, struct team_member *t, uint32_t layer,
                                    const struct screen_work *w, int64_t k, int64_t i, int64_t n,
                                    uint16_t *list)
{
    const struct predicting *pr = &p->m->layers[layer].predicting;
    struct product part = {.w = &pr->fc2, .k = pr->fc2.mv, .xp = w->hidden[k]};
    float z[KERN_BLOCK], b[KERN_BLOCK];
    int64_t found = 0;
    product_rows(p, t, &part, i, i + n, 1, z, n);
    if (pr->bias) {
        p->m->ops->decode(DT_F16, b, pr->bias + i, n);
        p->m->ops->add(z, b, n);
    }
    for (int64_t j = 0; j < n; j++) {
        list[found] = (uint16_t)j;
        found += !(z[j] < pr->cut); /* what is not a number has to show */
    }
    count(p, t, layer, (uint64_t)n * (pr->fc2.row_bytes + (pr->bias ? 2 : 0)));
    return found;
}

static const struct screen predictor = {"predictor", predictor_begin, predictor_candidates};

/* ---- Choosing ---- */

const struct screen *screen_of(const struct pass *p, const struct layer *l, const struct gate_test *test)
{
    if (p->s->mode == CALOR_PREDICT) return &predictor;
    return l->by.screen && !test->all && test->least >= 0.0f ? &plane : NULL;
}

size_t screen_input_bytes(const struct layer *l)
{
    const struct predicting *pr = &l->predicting;
    return pr->fc1.data ? pr->fc1.mv->x_bytes(pr->fc1.n, 1) + pr->fc2.mv->x_bytes(pr->fc2.n, 1) : 0;
}
