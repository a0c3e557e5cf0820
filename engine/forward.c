/* The walk over the layers, and the memory it needs. */
#include "base/err.h"
#include "base/hoststate.h"
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum slot { SLOT_EMBED = 2 };

static void embed(const struct pass *p, int64_t t)
{
    const struct calor_model *m = p->m;
    const struct hparams *hp = &m->hp;
    const struct kern_ops *ops = m->ops;
    float *x = p->s->x + t * hp->width;
    ops->decode(m->embd.type, x, m->embd.data + (size_t)p->ids[t] * m->embd.row_bytes, hp->width);
    if (hp->embedding_scale != 1.0f) ops->scale(x, hp->embedding_scale, hp->width);
    if (m->arch->position == POSITION_LEARNED) {
        float *row = p->s->norm + t * hp->width;
        size_t at = (size_t)(p->pos0 + t) + m->arch->position_offset;
        ops->decode(m->position.type, row, m->position.data + at * m->position.row_bytes, hp->width);
        ops->add(x, row, hp->width);
    }
    float *cs = p->s->cs + t * hp->rot;
    for (uint32_t i = 0; i < hp->rot / 2; i++) {
        double angle = (double)(p->pos0 + t) * m->rope_freq[i];
        cs[2 * i] = (float)(cos(angle) * (double)hp->rope_magnitude);
        cs[2 * i + 1] = (float)(sin(angle) * (double)hp->rope_magnitude);
    }
}

static bool all_finite(const float *x, int64_t n)
{
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, x + i, 4);
        bad |= (u & 0x7f800000u) == 0x7f800000u;
    }
    return !bad;
}

static void logits(struct pass *p, struct team_member *t, const float *x, int64_t T)
{
    const struct calor_model *m = p->m;
    int64_t vocab = m->hp.vocab;
    struct product out = {.w = &m->output, .bias = m->output_b};
    product_prepare(p, t, &out, 1, x, m->hp.width, T, &m->output_norm);
    struct product_range r;
    while (product_next(p, t, &out, 1, T, &r)) {
        int64_t n = r.end - r.begin;
        product_rows(p, t, &out, r.begin, r.end, T, p->logits + r.begin, vocab);
        for (int64_t i = 0; i < T; i++) {
            float *y = p->logits + i * vocab + r.begin;
            if (m->hp.logit_scale != 1.0f) m->ops->scale(y, m->hp.logit_scale, n);
            if (!all_finite(y, n)) atomic_store_explicit(&p->bad, 1, memory_order_relaxed);
        }
    }
}

static void walk(struct team_member *t, void *arg)
{
    struct pass *p = arg;
    const struct calor_model *m = p->m;
    int64_t d = m->hp.width, i;
    while (team_next(t, SLOT_EMBED, p->T, 1, &i)) embed(p, i);
    team_barrier(t);
    bool parallel = m->arch->parallel;
    float *x = p->s->x, *y = parallel ? p->s->x2 : p->s->x;
    for (uint32_t layer = 0; layer < m->hp.layers; layer++) {
        bool last = !p->all && !p->s->observer && layer + 1 == m->hp.layers;
        int64_t skip = last ? p->T - 1 : 0;
        if (t->ith == 0) p->stop = atomic_load_explicit(&p->s->cancel, memory_order_relaxed);
        attention_step(p, t, layer, x, y, last);
        if (p->stop) return; /* the same for all: written before this layer's first barrier */
        ffn_step(p, t, layer, (parallel ? x : y) + skip * d, y + skip * d, p->T - skip);
        if (parallel) {
            float *other = x;
            x = y;
            y = other;
        }
    }
    int64_t skip = p->all ? 0 : p->T - 1;
    logits(p, t, x + skip * d, p->T - skip);
}

int forward_run(struct pass *p)
{
    struct calor_model *m = p->s->m;
    pthread_mutex_lock(&m->run_lock);
    team_run(m->team, walk, p);
    pthread_mutex_unlock(&m->run_lock);
    if (p->stop) {
        atomic_store(&p->s->cancel, 0);
        return ERR_CANCELLED;
    }
    return atomic_load(&p->bad) ? ERR_NUMERIC : 0;
}

/* ---- Memory ---- */

#define HUGE_PAGE ((size_t)2 << 20)

struct need {
    size_t shared, own, scratch; /* bytes: prepared inputs of a batch, of a few tokens; kernels' scratch */
    int64_t rows;                /* of a matrix that its kernels like to take at once */
    bool by_neuron, ordered;
    size_t rank;       /* of the widest predictor */
    size_t panel;      /* bytes of rows of down put together again */
    int64_t row_group; /* most rows that a kernel for many tokens likes to take at once */
};

static size_t more(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Prepared forms of T tokens for matrices that read the same input, with one kind of kernel. */
static size_t forms(const struct mat *const *w, int n, int64_t T, bool mm)
{
    size_t sum = 0;
    for (int i = 0; i < n; i++) {
        const struct kern_mat *k = mm ? w[i]->mm : w[i]->mv;
        bool seen = false;
        for (int j = 0; j < i; j++) seen |= (mm ? w[j]->mm : w[j]->mv)->x_format == k->x_format;
        if (!seen) sum += k->x_bytes(w[i]->n, T);
    }
    return sum;
}

static void count(struct need *need, const struct calor_session *s, const struct mat *const *w, int n)
{
    int64_t few = s->batch < PASS_PRIVATE_TOKENS ? s->batch : PASS_PRIVATE_TOKENS;
    for (int mm = 0; mm < 2; mm++) {
        need->shared = more(need->shared, forms(w, n, s->batch, mm));
        need->own = more(need->own, forms(w, n, few, mm));
        for (int i = 0; i < n; i++) {
            const struct kern_mat *k = mm ? w[i]->mm : w[i]->mv;
            if (mm && k->row_group > need->row_group) need->row_group = k->row_group;
            if (k->scratch_bytes) need->scratch = more(need->scratch, k->scratch_bytes(w[i]->n));
            if (k->row_group > need->rows) need->rows = k->row_group;
        }
    }
}

/* Hands out parts of the arena, or only adds them up while there is none. */
static void *take(struct calor_session *s, size_t bytes)
{
    void *p = s->arena ? s->arena + s->arena_bytes : NULL;
    s->arena_bytes += (bytes + 127) / 64 * 64; /* at least a line between parts of different threads */
    return p;
}

static void lay_out(struct calor_session *s, const struct need *need, int threads)
{
    const struct hparams *hp = &s->m->hp;
    size_t B = s->batch, nq = (size_t)hp->heads * hp->head_dim, nkv = (size_t)hp->kv_heads * hp->head_dim;
    const size_t f4 = sizeof(float);
    s->arena_bytes = 0;
    s->x = take(s, B * hp->width * f4);
    s->x2 = s->m->arch->parallel ? take(s, B * hp->width * f4) : NULL;
    s->norm = take(s, B * hp->width * f4);
    s->q = take(s, B * nq * f4);
    s->k = take(s, B * nkv * f4);
    s->v = take(s, B * nkv * f4);
    s->attn = take(s, B * nq * f4);
    s->h = take(s, B * hp->ffn * f4);
    s->h_places = need->ordered ? take(s, B * hp->ffn * f4) : NULL;
    s->cs = take(s, B * hp->rot * f4);
    s->xp = take(s, need->shared);
    s->logits = take(s, hp->vocab * f4);
    if (need->by_neuron) {
        size_t few = B < NEURON_TOKENS ? B : NEURON_TOKENS, blocks = (size_t)neuron_blocks(hp->ffn);
        s->list = take(s, few * hp->ffn * sizeof *s->list);
        s->listed = take(s, few * (size_t)neuron_units(hp->ffn) * sizeof *s->listed);
        s->partial = take(s, few * blocks * hp->width * f4);
        s->added = take(s, few * blocks);
        s->epsilon = take(s, hp->layers * f4);
        s->recall = s->count_recall ? take(s, hp->layers * sizeof *s->recall) : NULL;
        s->recall_blocks = s->count_recall ? take(s, few * blocks * sizeof *s->recall_blocks) : NULL;
        s->hidden = need->rank ? take(s, few * need->rank * f4) : NULL;
    }
    for (int i = 0; i < threads; i++) {
        struct worker *w = &s->workers[i];
        w->scratch = take(s, need->scratch);
        w->xp = take(s, need->own);
        w->norm = take(s, (PASS_PRIVATE_TOKENS * (size_t)hp->width + FFN_COLUMNS) * f4);
        w->tile = take(s, s->tile_floats * f4);
        if (need->by_neuron) {
            w->block = take(s, sizeof *w->block);
            w->counts = take(s, hp->layers * sizeof *w->counts);
            w->panel = B > NEURON_TOKENS ? take(s, need->panel) : NULL;
        }
    }
}

int forward_plan(struct calor_session *s, struct err *e)
{
    const struct calor_model *m = s->m;
    struct need need = {0};
    bool by_neuron = false;
    for (uint32_t i = 0; i < m->hp.layers; i++) {
        const struct layer *l = &m->layers[i];
        count(&need, s, (const struct mat *[]){&l->q, &l->k, &l->v}, 3);
        count(&need, s, (const struct mat *[]){&l->o}, 1);
        count(&need, s, (const struct mat *[]){&l->up, &l->gate}, l->gate.n ? 2 : 1);
        if (l->by.kind) {
            int64_t few = s->batch < NEURON_TOKENS ? s->batch : NEURON_TOKENS;
            need.by_neuron = true;
            need.ordered |= l->by.order != NULL;
            need.own = more(need.own, ffn_neurons_input_bytes(l, few));
            need.scratch = more(need.scratch, l->by.kind->scratch_bytes(m->hp.width));
            need.panel = more(need.panel, NEURON_PANEL * l->down.row_bytes + 64);
            if (s->mode == CALOR_PREDICT) {
                const struct predicting *pr = &l->predicting;
                need.rank = more(need.rank, (size_t)pr->fc1.rows);
                if (pr->fc1.mv->scratch_bytes)
                    need.scratch = more(need.scratch, pr->fc1.mv->scratch_bytes(pr->fc1.n));
                if (pr->fc2.mv->scratch_bytes)
                    need.scratch = more(need.scratch, pr->fc2.mv->scratch_bytes(pr->fc2.n));
            }
            if (l->by.screen) {
                const struct mat *g = neurons_gate(&m->layers[i]);
                need.panel = more(need.panel, NEURON_UNIT * g->row_bytes + 64);
                need.scratch = more(need.scratch, l->by.screen->scratch_bytes(g->n));
            }
        }
        if (!l->down_by_neuron) count(&need, s, (const struct mat *[]){&l->down}, 1);
        by_neuron |= l->down_by_neuron;
    }
    count(&need, s, (const struct mat *[]){&m->output}, 1);
    need.scratch = more(need.scratch, attention_scratch(m));
    s->tile_floats =
        more((size_t)s->batch * more(by_neuron ? 2 * FFN_COLUMNS : 64, (size_t)need.row_group), 8192);
    int threads = team_size(m->team);
    s->workers = calloc((size_t)threads, sizeof *s->workers);
    if (!s->workers) return err_set(e, ERR_NOMEM, "no memory for %d threads", threads);
    lay_out(s, &need, threads);
    if (session_check_memory(s, hoststate_memory_free(NULL), e) < 0) return e->code;
    size_t bytes = (s->arena_bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    s->arena = aligned_alloc(HUGE_PAGE, bytes);
    if (!s->arena)
        return err_set(e, ERR_NOMEM,
                       "no memory for the buffers of %u tokens (%zu MiB): a smaller batch needs less",
                       s->batch, bytes >> 20);
    /* Prepared inputs are read in full for every panel of rows: with small pages their addresses outgrow the
     * TLB. A refusal costs only speed. */
    madvise(s->arena, bytes, MADV_HUGEPAGE);
    lay_out(s, &need, threads);
    return 0;
}
