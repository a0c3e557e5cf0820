/* What a mode that leaves neurons out has missed: beside each token, every neuron is computed again, with
 * nothing left out, and compared with what was summed. For evaluation only: it costs more than the FFN. */
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/pass.h"
#include "engine/screen.h"

#include <math.h>
#include <string.h>

enum slot { SLOT_RECALL = 3 };

/* h of all n neurons of a block, into w->h; their norms are at `first` too. */
static void compute_all(const struct pass *p, const struct team_member *t, uint32_t layer, int64_t first,
                        int64_t n, const struct ffn_inputs *x, int64_t k)
{
    struct layer *l = &p->m->layers[layer];
    const struct worker *wk = &p->s->workers[t->ith];
    const struct mat *g = neurons_gate(l);
    struct block_work *w = wk->block;
    const float *bias = l->gate.n ? l->gate_b : l->up_b, *up = NULL;
    for (int64_t i = 0; i < n; i++) w->list[i] = (uint16_t)i;
    if (l->by.screen)
        l->by.screen->listed(w->gate, &l->by.planes, first, w->list, n, g->n, x->gate[k], wk->scratch);
    else
        g->mv->rows(w->gate, n, g->data + (size_t)first * g->row_bytes, g->row_bytes, n, g->n, x->gate[k], 1,
                    wk->scratch);
    for (int64_t i = 0; bias && i < n; i++) w->gate[i] += bias[first + i];
    if (l->gate.n) {
        l->up.mv->listed(w->up, l->up.data + (size_t)first * l->up.row_bytes, l->up.row_bytes, w->list, n,
                         l->up.n, x->up[k], wk->scratch);
        for (int64_t i = 0; l->up_b && i < n; i++) w->up[i] += l->up_b[first + i];
        up = w->up;
    }
    p->m->ops->act(w->h, w->gate, up, n, p->m->act.kind, p->m->act.param);
}

void ffn_recall(const struct pass *p, struct team_member *t, uint32_t layer, const struct ffn_inputs *x,
                int64_t T)
{
    struct calor_session *s = p->s;
    const struct layer *l = &p->m->layers[layer];
    const struct block_work *w = s->workers[t->ith].block;
    int64_t f = p->m->hp.ffn, blocks = neuron_blocks(f), units = neuron_units(f), item;
    while (team_next(t, SLOT_RECALL, T * blocks, 1, &item)) {
        int64_t k = item / blocks, b = item % blocks, first = b * KERN_BLOCK;
        int64_t n = f - first < KERN_BLOCK ? f - first : KERN_BLOCK;
        bool listed[KERN_BLOCK] = {false};
        for (int64_t i = first; i < first + n; i += NEURON_UNIT)
            for (int64_t j = 0; j < s->listed[k * units + i / NEURON_UNIT]; j++)
                listed[s->list[k * f + i + j]] = true;
        compute_all(p, t, layer, first, n, x, k);
        calor_ffn_recall sum = {.neurons = (uint64_t)n};
        for (int64_t i = 0; i < n; i++) {
            if (w->h[i] == 0.0f) continue;
            float magnitude = fabsf(w->h[i]) * l->by.norms[first + i];
            bool kept = listed[i] && !(s->mode == CALOR_THRESHOLD && magnitude < s->epsilon[layer]);
            sum.active++;
            sum.magnitude += (double)magnitude;
            sum.found += kept;
            if (kept) sum.magnitude_found += (double)magnitude;
        }
        s->recall_blocks[k * blocks + b] = sum;
    }
}

void ffn_recall_add(const struct pass *p, uint32_t layer, int64_t T)
{
    struct calor_session *s = p->s;
    calor_ffn_recall *to = &s->recall[layer];
    for (int64_t i = 0; i < T * neuron_blocks(p->m->hp.ffn); i++) {
        to->neurons += s->recall_blocks[i].neurons;
        to->active += s->recall_blocks[i].active;
        to->found += s->recall_blocks[i].found;
        to->magnitude += s->recall_blocks[i].magnitude;
        to->magnitude_found += s->recall_blocks[i].magnitude_found;
    }
}
