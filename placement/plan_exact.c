/* Small problems solved exactly: all placements of each layer, those that another beats in time, VRAM and RAM
 * left out, then the layers one after the other, where prices say that the rest cannot make up for what is
 * lost. Too many placements, or too many steps: what was found so far stands. */
#include "placement/plan_solver.h"

#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TRIED_MOST = 400000, KEPT_MOST = 6000, STEPS_MOST = 60000000 };

struct option {
    double time, vram, ram, priced;
    struct cost_place place;
};

struct list {
    struct option *at; /* ascending in priced */
    uint32_t n;
};

static double placements_of(const struct cost_layer *l)
{
    double n = 6, ends = (l->units + 1.0) * (l->units + 2.0) / 2;
    for (int p = 0; p < PLAN_PARTS; p++)
        if (l->part[p].bytes) n *= ends;
    return n;
}

static int by_time(const void *a, const void *b)
{
    const struct option *p = a, *q = b;
    if (p->time != q->time) return p->time < q->time ? -1 : 1;
    if (p->vram != q->vram) return p->vram < q->vram ? -1 : 1;
    return p->ram < q->ram ? -1 : p->ram > q->ram;
}

static int by_priced(const void *a, const void *b)
{
    const struct option *p = a, *q = b;
    return p->priced < q->priced ? -1 : p->priced > q->priced;
}

struct maker {
    const struct solver *s;
    uint32_t entry;
    double most; /* priced value above which none can be part of something better */
    struct option *room;
    uint32_t n, cap;
};

static bool add(struct maker *k, const struct cost_place *p)
{
    const struct cost_layer *l = &k->s->c->layer[k->entry];
    struct option o = {.time = solver_layer_time(k->s, k->entry, p), .place = *p};
    o.vram = (double)cost_bytes(l, p, PLAN_GPU);
    o.ram = (double)cost_bytes(l, p, PLAN_RAM);
    o.priced = o.time + k->s->vram_price * o.vram + k->s->ram_price * o.ram;
    if (!isfinite(o.time) || o.priced > k->most) return true;
    if (k->n == k->cap) {
        uint32_t cap = k->cap ? 2 * k->cap : 1024;
        struct option *room = realloc(k->room, cap * sizeof *room);
        if (!room) return false;
        k->room = room;
        k->cap = cap;
    }
    k->room[k->n++] = o;
    return true;
}

/* All ends of part `part` and those behind it. */
static bool all_parts(struct maker *k, struct cost_place *p, int part)
{
    const struct cost_layer *l = &k->s->c->layer[k->entry];
    if (part == PLAN_PARTS) return add(k, p);
    if (!l->part[part].bytes) {
        p->part[part].gpu = 0;
        p->part[part].ram = l->units;
        return all_parts(k, p, part + 1);
    }
    for (uint32_t gpu = 0; gpu <= (k->s->gpu ? l->units : 0); gpu++)
        for (uint32_t ram = k->s->disk ? gpu : l->units; ram <= l->units; ram++) {
            p->part[part].gpu = gpu;
            p->part[part].ram = ram;
            if (!all_parts(k, p, part + 1)) return false;
        }
    return true;
}

static bool all_places(struct maker *k)
{
    const struct cost_layer *l = &k->s->c->layer[k->entry];
    for (int a = k->s->gpu ? PLAN_GPU : PLAN_RAM; a <= (k->s->disk ? PLAN_DISK : PLAN_RAM); a++)
        for (int kv = k->s->gpu ? PLAN_GPU : PLAN_RAM; kv <= PLAN_RAM; kv++) {
            struct cost_place p = {.attention = (uint8_t)a, .kv = (uint8_t)kv};
            if (!l->kv_bytes && (kv == PLAN_GPU) != (a == PLAN_GPU)) continue;
            if (!all_parts(k, &p, 0)) return false;
        }
    return true;
}

/* Leaves out what another is no worse than in everything. */
static void prune(struct maker *k)
{
    qsort(k->room, k->n, sizeof *k->room, by_time);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < k->n && kept < KEPT_MOST; i++) {
        bool beaten = false;
        for (uint32_t j = 0; j < kept && !beaten; j++)
            beaten = k->room[j].vram <= k->room[i].vram && k->room[j].ram <= k->room[i].ram;
        if (!beaten) k->room[kept++] = k->room[i];
    }
    k->n = kept;
    qsort(k->room, k->n, sizeof *k->room, by_priced);
}

struct walk {
    const struct solver *s;
    const struct list *lists;
    double *rest; /* least priced value of entries i … */
    uint32_t *chosen, *best;
    double best_time, prices; /* prices: of both capacities */
    uint64_t steps;
};

static void descend(struct walk *w, uint32_t i, double time, double vram, double ram)
{
    if (i == w->s->c->entries) {
        if (!(time < w->best_time)) return; /* prices promised more */
        w->best_time = time;
        memcpy(w->best, w->chosen, i * sizeof *w->best);
        return;
    }
    double so_far = time + w->s->vram_price * vram + w->s->ram_price * ram - w->prices;
    for (uint32_t k = 0; k < w->lists[i].n && w->steps < STEPS_MOST; k++) {
        const struct option *o = &w->lists[i].at[k];
        w->steps++;
        if (so_far + o->priced + w->rest[i + 1] >= w->best_time * (1 - 1e-9)) break;
        if (vram + o->vram > (double)w->s->vram || ram + o->ram > (double)w->s->ram) continue;
        w->chosen[i] = k;
        descend(w, i + 1, time + o->time, vram + o->vram, ram + o->ram);
    }
}

double solver_exact(struct solver *s, struct cost_place *places, double time, struct err *e)
{
    const struct cost *c = s->c;
    double tried = 0, prices = s->vram_price * (double)s->vram + s->ram_price * (double)s->ram;
    for (uint32_t i = 0; i < c->entries; i++) tried += placements_of(&c->layer[i]);
    if (tried > TRIED_MOST || !(time < INFINITY)) return time;
    struct list *lists = calloc(c->entries, sizeof *lists);
    struct walk w = {.s = s, .lists = lists, .best_time = time, .prices = prices};
    w.rest = calloc((size_t)c->entries + 1, sizeof *w.rest);
    w.chosen = calloc(2 * (size_t)c->entries, sizeof *w.chosen);
    bool whole = lists && w.rest && w.chosen;
    w.best = whole ? w.chosen + c->entries : NULL;
    for (uint32_t i = 0; whole && i < c->entries; i++) {
        /* Others take at least what the bound gives them, so this one may lose no more than the gap. */
        double own = solver_least(s, i);
        struct maker k = {.s = s, .entry = i, .most = own + (time - s->bound) * (1 + 1e-9) + 1e-15};
        whole = all_places(&k);
        if (whole) prune(&k);
        lists[i] = (struct list){k.room, k.n};
        whole &= k.n > 0;
    }
    for (uint32_t i = c->entries; whole && i-- > 0;) w.rest[i] = w.rest[i + 1] + lists[i].at[0].priced;
    if (whole) descend(&w, 0, 0, 0, 0);
    if (!lists || !w.rest || !w.chosen) err_set(e, ERR_NOMEM, "no memory for the search");
    if (whole && w.best_time < time)
        for (uint32_t i = 0; i < c->entries; i++) places[i] = lists[i].at[w.best[i]].place;
    for (uint32_t i = 0; lists && i < c->entries; i++) free(lists[i].at);
    free(lists);
    free(w.rest);
    free(w.chosen);
    return whole ? w.best_time : time;
}
