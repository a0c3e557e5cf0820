/* The feed-forward network of a layer, every neuron computed: out += down(act(gate·x) ⊙ up·x).
 *
 * The seam for other ways to compute it is ffn_step: it gets the layer's input and adds to its output. */
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/pass.h"

#include <math.h>
#include <string.h>

enum slot { SLOT_COLUMNS = 2 };

/* Counts the neurons that are active; in threshold mode the others become zero. */
static void sift(const struct pass *p, const struct team_member *t, const struct layer *l, float *h,
                 int64_t first, int64_t n)
{
    ptrdiff_t layer = l - p->m->layers;
    calor_ffn_counts *c = &p->s->workers[t->ith].counts[layer];
    if (p->s->mode == CALOR_THRESHOLD)
        for (int64_t i = 0; i < n; i++)
            if (fabsf(h[i]) * l->by.norms[first + i] < p->s->epsilon[layer]) h[i] = 0.0f;
    uint64_t active = 0;
    for (int64_t i = 0; i < n; i++) active += h[i] != 0.0f;
    c->neurons += (uint64_t)n;
    c->exact += (uint64_t)n;
    c->listed += (uint64_t)n;
    c->active += active;
}

/* Rows of the gate, put together first where it lies in planes. */
static void gate_rows(const struct pass *p, struct team_member *t, const struct layer *l,
                      const struct product *gate, const struct product_range *r, int64_t T, float *y,
                      int64_t ldy)
{
    if (!l->by.screen) {
        product_rows(p, t, gate, r->begin, r->end, T, y, ldy);
        return;
    }
    struct mat some = *gate->w;
    struct product part = *gate;
    some.data = p->s->workers[t->ith].panel;
    part.w = &some;
    for (int64_t i = r->begin; i < r->end; i += NEURON_UNIT) {
        int64_t n = r->end - i < NEURON_UNIT ? r->end - i : NEURON_UNIT;
        neurons_gate_rows(p->m, (uint32_t)(l - p->m->layers), i, n, p->s->workers[t->ith].panel);
        if (gate->bias) part.bias = gate->bias + i;
        product_rows(p, t, &part, 0, n, T, y + (i - r->begin), ldy);
    }
}

/* h = act(gate x) ⊙ up x, rows of gate and up by the same thread while both are in its cache. */
static void hidden(const struct pass *p, struct team_member *t, const struct layer *l, const float *in,
                   int64_t T)
{
    const struct calor_model *m = p->m;
    int64_t f = m->hp.ffn;
    struct product parts[2] = {{.w = &l->up, .bias = l->up_b}, {.w = &l->gate, .bias = l->gate_b}};
    int n_parts = l->gate.n ? 2 : 1;
    product_prepare(p, t, parts, n_parts, in, m->hp.width, T, &l->ffn_norm);
    struct product_range r;
    float *tile = p->s->workers[t->ith].tile;
    const struct activation *act = p->s->tried ? p->s->tried : &m->act;
    while (product_next(p, t, parts, 1, T, &r)) {
        int64_t n = r.end - r.begin;
        float *h = (l->by.order ? p->s->h_places : p->s->h) + r.begin;
        gate_rows(p, t, l, &parts[n_parts - 1], &r, T, h, f);
        if (n_parts == 2) product_rows(p, t, &parts[0], r.begin, r.end, T, tile, n);
        for (int64_t i = 0; i < T; i++)
            m->ops->act(h + i * f, h + i * f, n_parts == 2 ? tile + i * n : NULL, n, act->kind, act->param);
        if (l->by.kind)
            for (int64_t i = 0; i < T; i++) sift(p, t, l, h + i * f, r.begin, n);
        for (int64_t i = 0; i < T && l->by.order; i++)
            neurons_to_file(&l->by, p->s->h + i * f, p->s->h_places + i * f, r.begin, r.end);
    }
    team_barrier(t);
}

/* out += Σ_i h_i · row i, for weights stored by neuron: columns are shared out, neurons are summed in order
 * (blocks of 64, so that thousands of terms do not lose the small ones). */
static void down_by_neuron(const struct pass *p, struct team_member *t, const struct layer *l, float *out,
                           int64_t T)
{
    const struct calor_model *m = p->m;
    const struct dtype_info *info = dtype_info((uint32_t)l->down.type);
    int64_t d = m->hp.width, f = m->hp.ffn, step = FFN_COLUMNS, c0;
    float *row = p->s->workers[t->ith].norm, *sum = p->s->workers[t->ith].tile;
    float *block = sum + T * step;
    while (team_next(t, SLOT_COLUMNS, d, step, &c0)) {
        int64_t n = d - c0 < step ? d - c0 : step;
        const uint8_t *w = l->down.data + (size_t)(c0 / info->block) * info->bytes;
        memset(sum, 0, (size_t)(T * step) * sizeof *sum);
        for (int64_t i0 = 0; i0 < f; i0 += 64) {
            memset(block, 0, (size_t)(T * step) * sizeof *block);
            for (int64_t i = i0; i < i0 + 64 && i < f; i++) {
                bool decoded = false;
                for (int64_t k = 0; k < T; k++) {
                    float h = p->s->h[k * f + i], *b = block + k * step;
                    if (h == 0.0f) continue;
                    if (!decoded) m->ops->decode(l->down.type, row, w + (size_t)i * l->down.row_bytes, n);
                    decoded = true;
                    for (int64_t c = 0; c < n; c++) b[c] += h * row[c];
                }
            }
            for (int64_t k = 0; k < T; k++) m->ops->add(sum + k * step, block + k * step, n);
        }
        for (int64_t k = 0; k < T; k++) {
            float *o = out + k * d + c0, *s = sum + k * step;
            if (l->down_b) m->ops->add(s, l->down_b + c0, n);
            for (int64_t c = 0; c < n; c++) o[c] += m->hp.residual_scale * s[c];
        }
    }
}

/* out += down·h for weights laid out by neuron: panels of rows are put together again, then multiplied. */
static void down_by_panel(const struct pass *p, struct team_member *t, uint32_t layer, float *out, int64_t T)
{
    const struct calor_model *m = p->m;
    const struct layer *l = &m->layers[layer];
    const struct worker *w = &p->s->workers[t->ith];
    struct mat panel = l->down;
    struct product down = {.w = &panel};
    int64_t d = m->hp.width, c0;
    product_prepare(p, t, &down, 1, p->s->h, m->hp.ffn, T, NULL);
    panel.data = w->panel;
    while (team_next(t, SLOT_COLUMNS, d, NEURON_PANEL, &c0)) {
        int64_t c1 = d - c0 < NEURON_PANEL ? d : c0 + NEURON_PANEL, room = (int64_t)p->s->tile_floats / T, n;
        neurons_panel(m, layer, c0, c1, w->panel);
        for (int64_t c = c0; c < c1; c += n) {
            n = c1 - c < room ? c1 - c : room;
            product_rows(p, t, &down, c - c0, c - c0 + n, T, w->tile, n);
            for (int64_t i = 0; i < T; i++) {
                float *o = out + i * d + c, *s = w->tile + i * n;
                if (l->down_b) m->ops->add(s, l->down_b + c, n);
                for (int64_t j = 0; j < n; j++) o[j] += m->hp.residual_scale * s[j];
            }
        }
    }
}

/* Few tokens at a time on weights laid out by neuron. */
static void by_neuron(const struct pass *p, struct team_member *t, uint32_t layer, const float *in,
                      float *out, int64_t T)
{
    int64_t d = p->m->hp.width;
    for (int64_t i = 0; i < T; i += NEURON_TOKENS)
        ffn_neurons(p, t, layer, in + i * d, out + i * d, T - i < NEURON_TOKENS ? T - i : NEURON_TOKENS);
}

void ffn_step(const struct pass *p, struct team_member *t, uint32_t layer, const float *in, float *out,
              int64_t T)
{
    const struct layer *l = &p->m->layers[layer];
    const struct observer *o = p->s->observer;
    if (l->by.kind && !o && (T <= NEURON_LISTED || p->s->mode == CALOR_DENSE)) {
        by_neuron(p, t, layer, in, out, T);
        return;
    }
    hidden(p, t, l, in, T);
    if (o && t->ith == 0) { /* nobody writes h before this thread's next barrier */
        bool mine = T <= PASS_PRIVATE_TOKENS;
        o->layer(o->arg, layer, p->pos0 + p->T - T, T, mine ? p->s->workers[0].norm : p->s->norm, p->s->h);
    }
    if (l->by.kind) {
        down_by_panel(p, t, layer, out, T);
    } else if (l->down_by_neuron) {
        down_by_neuron(p, t, l, out, T);
    } else {
        struct product down = {.w = &l->down, .bias = l->down_b};
        product_prepare(p, t, &down, 1, p->s->h, p->m->hp.ffn, T, NULL);
        product_add(p, t, &down, T, out, out, p->m->hp.width);
    }
    team_barrier(t);
}
