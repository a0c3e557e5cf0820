/* The FFN of few tokens on weights laid out by neuron: every gate is computed, the neurons that it lets
 * through are listed, and only their up and down rows are read.
 *
 *   1. gates    units of NEURON_UNIT neurons are shared out; a screen (screen.h) may rule neurons out
 *               unseen; each unit leaves a compact list and its gates
 *   2. blocks   blocks of KERN_BLOCK neurons are shared out; each adds its neurons up in stored order
 *   3. merge    columns are shared out; the blocks' sums are added in the order of the blocks
 *
 * Nothing in it depends on who computes what, and a neuron with h = 0 adds exactly nothing: so leaving it out
 * gives the bits of the dense sum. */
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/pass.h"
#include "engine/screen.h"

#include <math.h>
#include <string.h>

enum slot { SLOT_MERGE = 2 };

/* Columns of the output that a thread merges at once. */
enum { MERGE_COLUMNS = 256 };

size_t ffn_neurons_input_bytes(const struct layer *l, int64_t T)
{
    const struct mat *g = l->gate.n ? &l->gate : &l->up;
    size_t bytes = g->mv->x_bytes(g->n, 1);
    if (l->up.mv->x_format != g->mv->x_format) bytes += l->up.mv->x_bytes(l->up.n, 1);
    return (bytes + screen_input_bytes(l)) * (size_t)T;
}

static void prepare(const struct pass *p, const struct team_member *t, const struct layer *l, const float *in,
                    int64_t T, struct ffn_inputs *x)
{
    const struct worker *w = &p->s->workers[t->ith];
    const struct mat *g = l->gate.n ? &l->gate : &l->up;
    int64_t d = p->m->hp.width;
    uint8_t *at = w->xp;
    for (int64_t k = 0; k < T; k++) {
        norm_apply(p->m, &l->ffn_norm, w->norm, in + k * d);
        x->gate[k] = x->up[k] = at;
        g->mv->x_pack(at, w->norm, d, d, 1, 0, 1);
        at += g->mv->x_bytes(d, 1);
        if (l->up.mv->x_format == g->mv->x_format) continue;
        x->up[k] = at;
        l->up.mv->x_pack(at, w->norm, d, d, 1, 0, 1);
        at += l->up.mv->x_bytes(d, 1);
    }
    x->rest = at;
}

/* What the predictor's first layer reads: the normed input (still the last token's in w->norm where there is
 * one), or the one before the norm. */
static void prepare_predictor(const struct pass *p, const struct team_member *t, const struct layer *l,
                              const float *in, int64_t T, struct ffn_inputs *x)
{
    const struct worker *w = &p->s->workers[t->ith];
    const struct mat *g = l->gate.n ? &l->gate : &l->up;
    const struct kern_mat *mv = l->predicting.fc1.mv;
    int64_t d = p->m->hp.width;
    bool raw = l->predicting.before_norm;
    for (int64_t k = 0; k < T; k++) {
        x->predictor[k] = x->gate[k];
        if (!raw && mv->x_format == g->mv->x_format) continue;
        x->predictor[k] = x->rest;
        if (!raw) norm_apply(p->m, &l->ffn_norm, w->norm, in + k * d);
        mv->x_pack(x->rest, raw ? in + k * d : w->norm, d, d, 1, 0, 1);
        x->rest += mv->x_bytes(d, 1);
    }
}

static struct gate_test test_of(const struct pass *p)
{
    const struct activation *a = &p->m->act;
    bool skip = p->s->mode == CALOR_EXACT || p->s->mode == CALOR_SURE || p->s->mode == CALOR_PREDICT ||
                (p->s->mode == CALOR_THRESHOLD && activation_has_zeros(a));
    return (struct gate_test){.all = !skip,
                              .at_least = a->kind == KERN_FATRELU,
                              .least = a->kind == KERN_FATRELU ? a->param : 0.0f};
}

/* Of n gates at places `at` of a range that begins `first` into its block, those that pass. */
static int list_gates(const struct gate_test *test, const float *g, const uint16_t *at, int64_t n,
                      uint16_t first, uint16_t *list, float *kept)
{
    int count = 0;
    for (int64_t i = 0; i < n; i++) {
        bool off = test->at_least ? g[i] < test->least : g[i] <= test->least;
        list[count] = (uint16_t)(first + at[i]);
        kept[count] = g[i];
        count += !off || test->all;
    }
    return count;
}

/* The gates of the listed neurons of [i, i + n), from wherever they lie. */
static void listed_gates(const struct pass *p, const struct team_member *t, const struct layer *l,
                         const struct product *gate, int64_t i, int64_t n, const uint16_t *list,
                         int64_t count, bool coarse_read, float *g)
{
    const struct worker *w = &p->s->workers[t->ith];
    const struct neurons *by = &l->by;
    const struct mat *m = gate->w;
    const float *bias = gate->bias ? gate->bias + i : NULL;
    calor_ffn_counts *c = &w->counts[l - p->m->layers];
    if (by->screen) {
        by->screen->listed(g, &by->planes, i, list, count, m->n, gate->xp, w->scratch);
        c->bytes += (uint64_t)count * (by->planes.fine_stride + (coarse_read ? 0 : by->planes.coarse_stride));
    } else if (count == n) {
        gate->k->rows(g, n, m->data + (size_t)i * m->row_bytes, m->row_bytes, n, m->n, gate->xp, 1,
                      w->scratch);
        c->bytes += (uint64_t)n * m->row_bytes;
    } else {
        gate->k->listed(g, m->data + (size_t)i * m->row_bytes, m->row_bytes, list, count, m->n, gate->xp,
                        w->scratch);
        c->bytes += (uint64_t)count * m->row_bytes;
    }
    c->exact += (uint64_t)count;
    for (int64_t j = 0; bias && j < count; j++) g[j] += bias[list[j]];
}

static void gates(const struct pass *p, struct team_member *t, uint32_t layer, const struct ffn_inputs *x,
                  int64_t T)
{
    struct calor_session *s = p->s;
    const struct layer *l = &p->m->layers[layer];
    const struct worker *w = &s->workers[t->ith];
    bool gated = l->gate.n > 0;
    struct product part = {
        .w = gated ? &l->gate : &l->up, .bias = gated ? l->gate_b : l->up_b, .unit = NEURON_UNIT};
    part.k = part.w->mv;
    const struct gate_test test = test_of(p);
    int64_t f = p->m->hp.ffn, units = neuron_units(f);
    const struct screen *screen = screen_of(p, l, &test);
    struct screen_work work;
    if (screen) screen->begin(p, t, layer, &test, x, T, &work);
    struct product_range r;
    /* Rows that several tokens read stay in the core's cache; one token streams as far as a block goes. */
    const int64_t most = T == 1 ? KERN_BLOCK : NEURON_UNIT;
    while (product_next(p, t, &part, 1, 1, &r))
        for (int64_t i = r.begin, n; i < r.end; i += n) {
            const int64_t first = i % KERN_BLOCK;
            n = KERN_BLOCK - first < most ? KERN_BLOCK - first : most;
            n = r.end - i < n ? r.end - i : n;
            for (int64_t k = 0; k < T; k++) {
                int64_t u = i / NEURON_UNIT, found = n;
                uint16_t *list = w->block->list;
                float *g = w->block->gate;
                part.xp = x->gate[k];
                if (screen)
                    found = screen->candidates(p, t, layer, &work, k, i, n, list);
                else
                    for (int64_t j = 0; j < n; j++) list[j] = (uint16_t)j;
                listed_gates(p, t, l, &part, i, n, list, found, screen && s->mode != CALOR_PREDICT, g);
                s->listed[k * units + u] = (uint16_t)list_gates(&test, g, list, found, (uint16_t)first,
                                                                s->list + k * f + i, s->h + k * f + i);
                for (int64_t v = u + 1; v * NEURON_UNIT < i + n; v++) s->listed[k * units + v] = 0;
            }
        }
}

/* The lists of a block's units in one. */
static int64_t gather(const struct calor_session *s, struct block_work *w, int64_t block, int64_t k,
                      int64_t f)
{
    int64_t units = neuron_units(f), count = 0;
    for (int64_t i = block * KERN_BLOCK; i < (block + 1) * KERN_BLOCK && i < f; i += NEURON_UNIT) {
        size_t n = s->listed[k * units + i / NEURON_UNIT];
        memcpy(w->list + count, s->list + k * f + i, n * sizeof *w->list);
        memcpy(w->gate + count, s->h + k * f + i, n * sizeof *w->gate);
        count += (int64_t)n;
    }
    return count;
}

/* h of the listed neurons; leaves those that count only, unless every neuron does. */
static int64_t activations(const struct pass *p, struct team_member *t, uint32_t layer, int64_t block,
                           int64_t n, const void *xp)
{
    const struct calor_model *m = p->m;
    const struct layer *l = &m->layers[layer];
    const struct worker *wk = &p->s->workers[t->ith];
    struct block_work *w = wk->block;
    int64_t first = block * KERN_BLOCK;
    const float *up = NULL;
    if (l->gate.n) {
        l->up.mv->listed(w->up, l->up.data + (size_t)first * l->up.row_bytes, l->up.row_bytes, w->list, n,
                         l->up.n, xp, wk->scratch);
        for (int64_t i = 0; l->up_b && i < n; i++) w->up[i] += l->up_b[first + w->list[i]];
        up = w->up;
    }
    m->ops->act(w->h, w->gate, up, n, m->act.kind, m->act.param);
    calor_ffn_counts *c = &wk->counts[layer];
    c->listed += (uint64_t)n;
    if (up) c->bytes += (uint64_t)n * l->by.up_bytes;
    const float *norms = p->s->mode == CALOR_THRESHOLD ? l->by.norms + first : NULL;
    int64_t kept = 0, active = 0;
    bool all = p->s->mode == CALOR_DENSE || p->s->mode == CALOR_DENSE_FAST;
    for (int64_t i = 0; i < n; i++) {
        float h = w->h[i];
        bool on = norms ? !(fabsf(h) * norms[w->list[i]] < p->s->epsilon[layer]) && h != 0.0f : h != 0.0f;
        w->list[kept] = w->list[i];
        w->h[kept] = h;
        active += on;
        kept += on || all;
    }
    c->active += (uint64_t)active;
    return kept;
}

/* Bytes of down that the listed neurons of a block take: their own parts and the planes of their groups. */
static uint64_t down_bytes(const struct neurons *by, int64_t first, const uint16_t *list, int64_t n,
                           int64_t d)
{
    uint64_t bytes = (uint64_t)n * by->kind->neuron_bytes(d);
    if (!by->kind->group) return bytes;
    const uint16_t *group_of = by->down.group_of + first;
    size_t group = by->kind->group_bytes(d), super = by->kind->super_bytes ? by->kind->super_bytes(d) : 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t last = i ? group_of[list[i - 1]] : -1, own = group_of[list[i]];
        int32_t per = (int32_t)(KERN_BLOCK / by->kind->group);
        if (own != last) bytes += group;
        if (last < 0 || own / per != last / per) bytes += super;
    }
    return bytes;
}

static void blocks(const struct pass *p, struct team_member *t, uint32_t layer, const struct ffn_inputs *x,
                   int64_t T)
{
    struct calor_session *s = p->s;
    const struct layer *l = &p->m->layers[layer];
    const struct worker *w = &s->workers[t->ith];
    int64_t f = p->m->hp.ffn, d = p->m->hp.width, n_blocks = neuron_blocks(f);
    struct product part = {.w = &l->up, .unit = KERN_BLOCK, .k = l->up.mv};
    struct product_range r;
    while (product_next(p, t, &part, 1, 1, &r))
        for (int64_t b = r.begin / KERN_BLOCK; b * KERN_BLOCK < r.end; b++)
            for (int64_t k = 0; k < T; k++) {
                int64_t n = gather(s, w->block, b, k, f);
                if (n) n = activations(p, t, layer, b, n, x->up[k]);
                s->added[k * n_blocks + b] = n > 0;
                if (!n) continue;
                w->counts[layer].bytes += down_bytes(&l->by, b * KERN_BLOCK, w->block->list, n, d);
                float *sum = s->partial + (k * n_blocks + b) * d;
                memset(sum, 0, (size_t)d * sizeof *sum);
                l->by.kind->add(sum, &l->by.down, b * KERN_BLOCK, w->block->list, w->block->h, n, d, 0, d,
                                w->scratch);
            }
}

static void merge(const struct pass *p, struct team_member *t, const struct layer *l, float *out, int64_t T)
{
    const struct calor_session *s = p->s;
    const struct calor_model *m = p->m;
    int64_t d = m->hp.width, n_blocks = neuron_blocks(m->hp.ffn),
            pieces = (d + MERGE_COLUMNS - 1) / MERGE_COLUMNS, i;
    float sum[MERGE_COLUMNS];
    while (team_next(t, SLOT_MERGE, T * pieces, 1, &i)) {
        int64_t k = i / pieces, c0 = i % pieces * MERGE_COLUMNS,
                n = d - c0 < MERGE_COLUMNS ? d - c0 : MERGE_COLUMNS;
        memset(sum, 0, sizeof sum);
        for (int64_t b = 0; b < n_blocks; b++)
            if (s->added[k * n_blocks + b]) m->ops->add(sum, s->partial + (k * n_blocks + b) * d + c0, n);
        if (l->down_b) m->ops->add(sum, l->down_b + c0, n);
        float *o = out + k * d + c0;
        for (int64_t c = 0; c < n; c++) o[c] += m->hp.residual_scale * sum[c];
    }
}

void ffn_neurons(const struct pass *p, struct team_member *t, uint32_t layer, const float *in, float *out,
                 int64_t T)
{
    const struct layer *l = &p->m->layers[layer];
    struct ffn_inputs x;
    if (t->ith == 0) p->s->workers[0].counts[layer].neurons += (uint64_t)T * p->m->hp.ffn;
    prepare(p, t, l, in, T, &x);
    if (p->s->mode == CALOR_PREDICT) prepare_predictor(p, t, l, in, T, &x);
    gates(p, t, layer, &x, T);
    team_barrier(t);
    blocks(p, t, layer, &x, T);
    team_barrier(t);
    merge(p, t, l, out, T);
    if (p->s->recall) ffn_recall(p, t, layer, &x, T);
    team_barrier(t);
    if (p->s->recall && t->ith == 0) ffn_recall_add(p, layer, T);
}
