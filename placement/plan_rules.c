/* Placements by rules that others use: to compare with, and to start from. */
#include "placement/plan_solver.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>

/* Everything of entry i on one tier. */
static struct cost_place whole(const struct cost_layer *l, enum plan_tier tier)
{
    struct cost_place p = {.attention = (uint8_t)tier, .kv = tier == PLAN_GPU ? PLAN_GPU : PLAN_RAM};
    for (int k = 0; k < PLAN_PARTS; k++) {
        p.part[k].gpu = tier == PLAN_GPU ? l->units : 0;
        p.part[k].ram = tier == PLAN_DISK ? 0 : l->units;
    }
    return p;
}

/* Moves whole layers, first ones first, then the embedding and the output, from RAM to the disk until RAM
 * holds the rest. */
static bool spill(const struct solver *s, struct cost_place *places)
{
    const struct cost *c = s->c;
    uint64_t used[PLAN_TIERS];
    for (uint32_t i = 0; i <= c->entries; i++) {
        solver_used(s, places, used);
        if (used[PLAN_RAM] <= s->ram) return used[PLAN_GPU] <= s->vram;
        if (i == c->entries || !s->disk) break;
        struct cost_place *p = &places[i];
        if (p->attention == PLAN_RAM) p->attention = PLAN_DISK;
        for (int k = 0; k < PLAN_PARTS; k++) p->part[k].ram = p->part[k].gpu;
    }
    return false;
}

/* As llama.cpp's -ngl: the output, then whole layers from the last on, as far as they fit. */
bool solver_by_layer(const struct solver *s, struct cost_place *places)
{
    const struct cost *c = s->c;
    uint64_t left = s->gpu ? s->vram : 0;
    for (uint32_t i = 0; i < c->entries; i++) places[i] = whole(&c->layer[i], PLAN_RAM);
    for (uint32_t k = 0; k <= c->layers; k++) {
        uint32_t i = k == 0 ? c->layers : c->layers - k;
        struct cost_place p = whole(&c->layer[i], PLAN_GPU);
        uint64_t bytes = cost_bytes(&c->layer[i], &p, PLAN_GPU);
        if (bytes > left) break;
        left -= bytes;
        places[i] = p;
    }
    return spill(s, places);
}

struct unit {
    float frequency;
    uint32_t layer, unit;
};

static int hotter(const void *a, const void *b)
{
    const struct unit *p = a, *q = b;
    if (p->frequency != q->frequency) return p->frequency > q->frequency ? -1 : 1;
    if (p->unit != q->unit) return p->unit < q->unit ? -1 : 1;
    return p->layer < q->layer ? -1 : p->layer > q->layer;
}

/* As PowerInfer: all that is not a neuron first; only when that fits, the hottest neurons of the whole model,
 * each with all its parts, in the order of their frequencies; RAM is filled in the same order. */
bool solver_by_frequency(const struct solver *s, const struct plan_model *m, struct cost_place *places,
                         struct err *e)
{
    const struct cost *c = s->c;
    uint64_t vram = s->gpu ? s->vram : 0, used[PLAN_TIERS];
    for (uint32_t i = 0; i < c->entries; i++) places[i] = whole(&c->layer[i], PLAN_RAM);
    bool dense = s->gpu;
    for (uint32_t k = 0; s->gpu && k <= c->layers; k++) {
        uint32_t i = k == 0 ? c->layers : c->layers - k;
        struct cost_place p = whole(&c->layer[i], PLAN_RAM);
        p.attention = p.kv = PLAN_GPU;
        uint64_t bytes = cost_bytes(&c->layer[i], &p, PLAN_GPU);
        if (bytes > vram) {
            dense = false;
            break;
        }
        vram -= bytes;
        places[i] = p;
    }
    uint32_t units = c->layer[0].units, n = 0;
    struct unit *list = malloc(((size_t)units * c->layers + 1) * sizeof *list);
    if (!list) {
        err_set(e, ERR_NOMEM, "no memory to sort neurons by frequency");
        return false;
    }
    for (uint32_t i = 0; i < c->layers; i++)
        for (uint32_t k = 0; k < units; k++)
            list[n++] = (struct unit){m->layer[i].frequency[k * c->unit], i, k};
    qsort(list, n, sizeof *list, hotter);
    uint32_t at = 0;
    for (; dense && at < n; at++) {
        uint32_t i = list[at].layer;
        struct cost_place p = places[i];
        for (int k = 0; k < PLAN_PARTS; k++) p.part[k].gpu = list[at].unit + 1;
        uint64_t before = cost_bytes(&c->layer[i], &places[i], PLAN_GPU),
                 after = cost_bytes(&c->layer[i], &p, PLAN_GPU);
        if (after - before > vram) break;
        vram -= after - before;
        places[i] = p;
    }
    /* Coldest first to the disk, until the rest fits. */
    solver_used(s, places, used);
    for (uint32_t back = n; back > at && used[PLAN_RAM] > s->ram && s->disk; back--) {
        uint32_t i = list[back - 1].layer;
        uint64_t before = cost_bytes(&c->layer[i], &places[i], PLAN_RAM);
        for (int k = 0; k < PLAN_PARTS; k++) places[i].part[k].ram = list[back - 1].unit;
        used[PLAN_RAM] -= before - cost_bytes(&c->layer[i], &places[i], PLAN_RAM);
    }
    free(list);
    return spill(s, places);
}
