/* Memory besides the weights. The buffers of a pass are counted as engine/forward.c lays them out: the same
 * parts under the same names, so that the two can be read side by side. */
#include "placement/ledger.h"

#include "base/checked.h"
#include "base/err.h"
#include "kernels/kernels.h"
#include "placement/machine.h"

#include <stdlib.h>

/* The engine's constants (pass.h, neurons.h, session.h, attention.c, forward.c). */
enum {
    PRIVATE_TOKENS = 4,
    COLUMNS = 256,
    TOKENS = 4,
    UNIT = 64,
    PANEL = 256,
    QUERY_TOKENS = 32,
    QUERY_HEADS = 8,
    BLOCK_WORK = KERN_BLOCK * (3 * sizeof(float) + sizeof(uint16_t)),
    FFN_COUNTS = 5 * sizeof(uint64_t),
    HUGE_PAGE = 2 << 20
};

struct need {
    uint64_t shared, own, scratch, panel;
    int64_t rows, row_group;
};

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static const struct kern_mat *kernel(const struct kern_ops *ops, const struct plan_matrix *w, bool mm)
{
    return mm ? ops->mm[w->type] : ops->mv[w->type];
}

static uint64_t forms(const struct kern_ops *ops, const struct plan_matrix *const *w, int n, int64_t T,
                      bool mm)
{
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) {
        const struct kern_mat *k = kernel(ops, w[i], mm);
        bool seen = false;
        for (int j = 0; j < i; j++) seen |= kernel(ops, w[j], mm)->x_format == k->x_format;
        if (!seen) sum += k->x_bytes((int64_t)w[i]->n, T);
    }
    return sum;
}

static void count(struct need *need, const struct kern_ops *ops, uint32_t batch,
                  const struct plan_matrix *const *w, int n)
{
    int64_t few = batch < PRIVATE_TOKENS ? batch : PRIVATE_TOKENS;
    for (int i = 0; i < n; i++)
        if (!kernel(ops, w[i], false) || !kernel(ops, w[i], true)) return; /* the engine will refuse it */
    for (int mm = 0; mm < 2; mm++) {
        need->shared = most(need->shared, forms(ops, w, n, batch, mm));
        need->own = most(need->own, forms(ops, w, n, few, mm));
        for (int i = 0; i < n; i++) {
            const struct kern_mat *k = kernel(ops, w[i], mm);
            if (mm && k->row_group > need->row_group) need->row_group = k->row_group;
            if (k->scratch_bytes) need->scratch = most(need->scratch, k->scratch_bytes((int64_t)w[i]->n));
        }
    }
}

static void take(uint64_t *sum, uint64_t bytes)
{
    *sum += (bytes + 127) / 64 * 64;
}

static void need_of_layer(struct need *need, const struct plan_model *m, const struct plan_layer *l,
                          const struct kern_ops *ops, uint32_t batch)
{
    count(need, ops, batch, (const struct plan_matrix *[]){&l->q, &l->k, &l->v}, 3);
    count(need, ops, batch, (const struct plan_matrix *[]){&l->o}, 1);
    count(need, ops, batch, (const struct plan_matrix *[]){&l->up, &l->gate}, l->gate.rows ? 2 : 1);
    if (m->mode == PLAN_DENSE) {
        if (!l->down_by_neuron) count(need, ops, batch, (const struct plan_matrix *[]){&l->down}, 1);
        return;
    }
    const struct plan_matrix *g = l->gate.rows ? &l->gate : &l->up;
    int64_t few = batch < TOKENS ? batch : TOKENS, d = m->width;
    const struct kern_mat *gk = kernel(ops, g, false), *uk = kernel(ops, &l->up, false);
    const struct kern_down *kind =
        l->down_split ? ops->down_split[l->down_type] : ops->down_row[l->down_type];
    if (!gk || !uk || !kind) return;
    uint64_t bytes = gk->x_bytes((int64_t)g->n, 1);
    if (uk->x_format != gk->x_format) bytes += uk->x_bytes((int64_t)l->up.n, 1);
    need->own = most(need->own, bytes * (uint64_t)few);
    need->scratch = most(need->scratch, kind->scratch_bytes(d));
    /* Rows put together again: in down's type, floats where the file's rows were the neurons'. */
    enum dtype panel =
        l->down_by_neuron && dtype_info((uint32_t)l->down.type)->block > 1 ? DT_F32 : l->down_type;
    uint64_t row = 0;
    if (dtype_row_bytes((uint32_t)panel, m->neurons, &row)) need->panel = most(need->panel, PANEL * row + 64);
    if (l->row[PLAN_SCREEN] && ops->planes[g->type]) {
        need->panel = most(need->panel, UNIT * (g->bytes / g->rows) + 64);
        need->scratch = most(need->scratch, ops->planes[g->type]->scratch_bytes((int64_t)g->n));
    }
    struct plan_matrix down = {.type = panel, .n = m->neurons, .rows = m->width};
    count(need, ops, batch, (const struct plan_matrix *[]){&down}, 1);
}

uint64_t ledger_compute(const struct plan_model *m, const struct ledger_settings *s)
{
    const struct kern_ops *ops = s->ops ? s->ops : kern_tier(KERN_REF);
    bool by_neuron = m->mode != PLAN_DENSE, turned = false;
    uint32_t batch = s->batch < s->context ? s->batch : s->context;
    struct need need = {0};
    for (uint32_t i = 0; i < m->layers; i++) {
        need_of_layer(&need, m, &m->layer[i], ops, batch);
        turned |= !by_neuron && m->layer[i].down_by_neuron;
    }
    count(&need, ops, batch, (const struct plan_matrix *[]){&m->output}, 1);
    int group = (int)(m->heads / m->kv_heads);
    if (group > QUERY_HEADS) group = QUERY_HEADS;
    need.scratch = most(need.scratch, ops->attn_scratch_bytes(1, group, (int)m->head_dim));
    need.scratch = most(need.scratch, ops->attn_scratch_bytes(QUERY_TOKENS, group, (int)m->head_dim));
    const uint64_t f4 = sizeof(float), B = batch, d = m->width, f = m->neurons;
    uint64_t nq = (uint64_t)m->heads * m->head_dim, nkv = (uint64_t)m->kv_heads * m->head_dim, sum = 0;
    uint64_t tile = most(B * most(turned ? 2 * COLUMNS : 64, (uint64_t)need.row_group), 8192);
    take(&sum, B * d * f4);
    if (m->parallel) take(&sum, B * d * f4);
    take(&sum, B * d * f4);
    take(&sum, B * nq * f4);
    take(&sum, B * nkv * f4);
    take(&sum, B * nkv * f4);
    take(&sum, B * nq * f4);
    take(&sum, B * f * f4);
    take(&sum, B * m->rot * f4);
    take(&sum, need.shared);
    take(&sum, (uint64_t)m->vocab * f4);
    if (by_neuron) {
        uint64_t few = B < TOKENS ? B : TOKENS, blocks = (f + KERN_BLOCK - 1) / KERN_BLOCK;
        take(&sum, few * f * sizeof(uint16_t));
        take(&sum, few * ((f + UNIT - 1) / UNIT) * sizeof(uint16_t));
        take(&sum, few * blocks * d * f4);
        take(&sum, few * blocks);
        take(&sum, m->layers * f4);
    }
    for (uint32_t i = 0; i < s->threads; i++) {
        take(&sum, need.scratch);
        take(&sum, need.own);
        take(&sum, (PRIVATE_TOKENS * d + COLUMNS) * f4);
        take(&sum, tile * f4);
        if (!by_neuron) continue;
        take(&sum, BLOCK_WORK);
        take(&sum, (uint64_t)m->layers * FFN_COUNTS);
        if (B > TOKENS) take(&sum, need.panel);
    }
    return sum + (uint64_t)s->context * sizeof(int32_t);
}

/* A layer's down and up in the file's pages while their copies by neuron are made, beyond what sessions take
 * later. */
static uint64_t loading(const struct plan_model *m, uint64_t later)
{
    uint64_t peak = 0;
    for (uint32_t i = 0; i < m->layers && m->mode != PLAN_DENSE; i++) {
        const struct plan_layer *l = &m->layer[i];
        uint64_t bytes = l->down.bytes + (l->gate.rows ? l->up.bytes : 0);
        if (l->row[PLAN_SCREEN]) bytes += (l->gate.rows ? l->gate : l->up).bytes;
        peak = most(peak, bytes);
    }
    return peak > later ? peak - later : 0;
}

int ledger_make(struct ledger *l, const struct plan_model *m, const struct machine *machine,
                const struct ledger_settings *s, struct err *e)
{
    *l = (struct ledger){0};
    if (!s->context || !s->batch || !s->threads)
        return err_set(e, ERR_ARG, "context %u, batch %u, threads %u: each has to be at least 1", s->context,
                       s->batch, s->threads);
    l->kv_layer = plan_model_kv(m, s->kv, s->context);
    uint64_t kv_all;
    if (!l->kv_layer || !checked_mul(l->kv_layer, m->layers, &kv_all))
        return err_set(e, ERR_ARG,
                       "a KV cache of type %s for %u tokens: heads of %u values do not allow that: use f16",
                       dtype_name((uint32_t)s->kv), s->context, m->head_dim);
    /* The tokenizer: pieces, scores, a table and merges, 160 bytes a token; sampling: 16; each as measured.
     */
    l->process = (24ull << 20) + (uint64_t)m->vocab * 176 + (uint64_t)s->threads * (256u << 10);
    l->compute = (ledger_compute(m, s) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    l->loading = loading(m, l->compute + kv_all);
    l->ram_margin = s->margin;
    l->reading = machine->n_disks ? s->reading : 0;
    l->ram = machine->memory < s->ram ? machine->memory : s->ram;
    if (!machine->n_gpus) return 0;
    const struct machine_gpu *g = &machine->gpu[0];
    uint32_t batch = s->batch < s->context ? s->batch : s->context;
    uint64_t nq = (uint64_t)m->heads * m->head_dim, nkv = (uint64_t)m->kv_heads * m->head_dim;
    l->reserved = g->reserved;
    /* Two streams of the residual, q, k, v, attention, one FFN activation and logits, in floats. */
    l->gpu_compute =
        batch * (3ull * m->width + 2 * nq + 2 * nkv + m->neurons) * sizeof(float) + 4ull * m->vocab;
    l->staging = l->gpu_staging = 2 * s->staging;
    l->vram_margin = s->margin;
    l->vram = g->memory < s->vram ? g->memory : s->vram;
    return 0;
}

static uint64_t less(uint64_t from, uint64_t what)
{
    return from > what ? from - what : 0;
}

uint64_t ledger_vram_left(const struct ledger *l)
{
    return less(l->vram, l->reserved + l->gpu_compute + l->gpu_staging + l->vram_margin);
}

uint64_t ledger_ram_left(const struct ledger *l, bool gpu, bool disk)
{
    return less(l->ram, l->process + l->compute + l->loading + l->ram_margin + (gpu ? l->staging : 0) +
                            (disk ? l->reading : 0));
}
