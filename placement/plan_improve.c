/* Local search behind the bound: what prices leave open (parts that are placed whole, capacity left over) is
 * filled by moving one layer at a time, then by pairs of moves of which one gives way to the other. Moves are
 * tried in a fixed order, so the same start gives the same end. */
#include "placement/plan_solver.h"

#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOVES_MOST = 640, /* of one layer */
    KEPT = 192,       /* that give, and that take, considered in pairs */
    SWEEPS_MOST = 300,
    REPAIRS_MOST = 4096
};

struct move {
    uint32_t layer;
    struct cost_place to;
    double time;      /* change */
    double vram, ram; /* change, bytes */
    double reduced;   /* change of time at the prices */
};

struct state {
    struct solver *s;
    struct cost_place *places;
    double *time, *vram, *ram; /* of each entry */
    double vram_used, ram_used, total;
};

static void enter(struct state *st, uint32_t i)
{
    const struct cost_layer *l = &st->s->c->layer[i];
    st->time[i] = solver_layer_time(st->s, i, &st->places[i]);
    st->vram[i] = (double)cost_bytes(l, &st->places[i], PLAN_GPU);
    st->ram[i] = (double)cost_bytes(l, &st->places[i], PLAN_RAM);
}

static void add_up(struct state *st)
{
    st->vram_used = st->ram_used = st->total = 0;
    for (uint32_t i = 0; i < st->s->c->entries; i++) {
        st->vram_used += st->vram[i];
        st->ram_used += st->ram[i];
        st->total += st->time[i];
    }
}

static bool same(const struct cost_place *a, const struct cost_place *b)
{
    bool equal = a->attention == b->attention && a->kv == b->kv;
    for (int p = 0; p < PLAN_PARTS; p++)
        equal &= a->part[p].gpu == b->part[p].gpu && a->part[p].ram == b->part[p].ram;
    return equal;
}

struct moves {
    const struct state *st;
    uint32_t layer;
    struct cost_place from;
    struct move *m;
    int n;
};

static void consider(struct moves *v, struct cost_place to)
{
    const struct solver *s = v->st->s;
    const struct cost_layer *l = &s->c->layer[v->layer];
    for (int p = 0; p < PLAN_PARTS; p++) {
        if (to.part[p].ram < to.part[p].gpu) to.part[p].ram = to.part[p].gpu;
        if (!s->disk) to.part[p].ram = l->units;
        if (!l->part[p].bytes) to.part[p] = v->from.part[p];
        if (!s->gpu && to.part[p].gpu) return;
    }
    if (!l->kv_bytes) to.kv = to.attention == PLAN_GPU ? PLAN_GPU : PLAN_RAM;
    if ((to.attention == PLAN_GPU || to.kv == PLAN_GPU) && !s->gpu) return;
    if (to.attention == PLAN_DISK && !s->disk) return;
    if (same(&to, &v->from) || v->n == MOVES_MOST) return;
    struct move *m = &v->m[v->n];
    double time = solver_layer_time(s, v->layer, &to);
    if (!isfinite(time)) return;
    m->layer = v->layer;
    m->to = to;
    m->time = time - v->st->time[v->layer];
    m->vram = (double)cost_bytes(l, &to, PLAN_GPU) - v->st->vram[v->layer];
    m->ram = (double)cost_bytes(l, &to, PLAN_RAM) - v->st->ram[v->layer];
    m->reduced = m->time + s->vram_price * m->vram + s->ram_price * m->ram;
    v->n++;
}

static uint32_t clamp(int64_t v, uint32_t most)
{
    return v < 0 ? 0 : v > (int64_t)most ? most : (uint32_t)v;
}

/* All moves of one layer: ends of parts by 1, 2, 4 … units or all the way, attention, KV, and several parts
 * together. */
static int moves_of(const struct state *st, uint32_t i, bool pool_only, struct move *out)
{
    struct moves v = {.st = st, .layer = i, .from = st->places[i], .m = out};
    const struct cost_layer *l = &st->s->c->layer[i];
    struct cost_place to;
    const struct solver *s = st->s;
    for (uint32_t k = 0; k < s->pooled[i] && k < SOLVER_POOL; k++)
        consider(&v, s->pool[(size_t)i * SOLVER_POOL + k]);
    if (pool_only) return v.n;
    for (int a = 0; a < PLAN_TIERS; a++)
        for (int kv = PLAN_GPU; kv <= PLAN_RAM; kv++) {
            to = v.from;
            to.attention = (uint8_t)a;
            to.kv = (uint8_t)kv;
            consider(&v, to);
            for (int t = 0; t < PLAN_TIERS && l->units; t++) { /* the whole layer */
                for (int p = 0; p < PLAN_PARTS; p++) {
                    to.part[p].gpu = t == PLAN_GPU ? l->units : 0;
                    to.part[p].ram = t == PLAN_DISK ? 0 : l->units;
                }
                consider(&v, to);
            }
        }
    if (!l->units) return v.n;
    for (int64_t step = 1; step <= 2 * (int64_t)l->units; step *= 2)
        for (int sign = -1; sign <= 1; sign += 2)
            for (int set = 1; set < 1 << PLAN_PARTS; set++)
                for (int what = 0; what < 3; what++) { /* the GPU's end, RAM's, both */
                    to = v.from;
                    for (int p = 0; p < PLAN_PARTS; p++) {
                        if (!(set >> p & 1)) continue;
                        if (what != 1) to.part[p].gpu = clamp(to.part[p].gpu + sign * step, l->units);
                        if (what != 0) to.part[p].ram = clamp(to.part[p].ram + sign * step, l->units);
                        if (what == 1 && to.part[p].ram < to.part[p].gpu) to.part[p].gpu = to.part[p].ram;
                    }
                    consider(&v, to);
                }
    return v.n;
}

static void apply(struct state *st, const struct move *m)
{
    st->places[m->layer] = m->to;
    enter(st, m->layer);
    add_up(st);
}

static bool fits(const struct state *st, double vram, double ram)
{
    return st->vram_used + vram <= (double)st->s->vram && st->ram_used + ram <= (double)st->s->ram;
}

/* Smaller changes are not worth their time. */
static double least_gain(const struct state *st)
{
    return 2e-7 * st->total;
}

/* `last`: the entry whose turn comes last in the first sweep; UINT32_MAX: none. */
static void descend(struct state *st, struct move *room, uint32_t last)
{
    bool moved = true;
    for (int sweep = 0; moved && sweep < SWEEPS_MOST; sweep++) {
        double before = st->total;
        moved = false;
        for (uint32_t i = 0; i < st->s->c->entries; i++) {
            if (sweep == 0 && i == last) { /* would only go back */
                moved = true;
                continue;
            }
            int n = moves_of(st, i, false, room), best = -1;
            for (int k = 0; k < n; k++)
                if (room[k].time < -least_gain(st) && fits(st, room[k].vram, room[k].ram) &&
                    (best < 0 || room[k].reduced < room[best].reduced))
                    best = k;
            if (best < 0) continue;
            apply(st, &room[best]);
            moved = true;
        }
        if (before - st->total < 1e-5 * st->total && last == UINT32_MAX) break;
    }
}

static int by_reduced(const void *a, const void *b)
{
    const struct move *p = a, *q = b;
    return p->reduced < q->reduced ? -1 : p->reduced > q->reduced;
}

/* Keeps the KEPT moves of least reduced cost, in a heap whose root is the worst. */
static void keep(struct move *heap, int *n, const struct move *m)
{
    int i;
    if (*n == KEPT) {
        if (!(m->reduced < heap[0].reduced)) return;
        i = 0;
        for (;;) { /* sift the hole down */
            int child = 2 * i + 1;
            if (child >= *n) break;
            if (child + 1 < *n && heap[child + 1].reduced > heap[child].reduced) child++;
            if (!(heap[child].reduced > m->reduced)) break;
            heap[i] = heap[child];
            i = child;
        }
        heap[i] = *m;
        return;
    }
    i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2].reduced < m->reduced; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = *m;
}

/* The best pair of moves of two layers, one slower and one faster; false: there is none. */
static bool exchange(struct state *st, struct move *room, struct move *give, struct move *get)
{
    int gives = 0, gets = 0;
    for (uint32_t i = 0; i < st->s->c->entries; i++) {
        int n = moves_of(st, i, false, room);
        for (int k = 0; k < n; k++)
            if (room[k].time < 0)
                keep(get, &gets, &room[k]);
            else if (room[k].vram < 0 || room[k].ram < 0)
                keep(give, &gives, &room[k]);
    }
    qsort(give, (size_t)gives, sizeof *give, by_reduced);
    qsort(get, (size_t)gets, sizeof *get, by_reduced);
    int a = -1, b = -1;
    double best = -least_gain(st);
    for (int i = 0; i < gets; i++)
        for (int k = 0; k < gives; k++)
            if (get[i].layer != give[k].layer && get[i].time + give[k].time < best &&
                fits(st, get[i].vram + give[k].vram, get[i].ram + give[k].ram)) {
                best = get[i].time + give[k].time;
                a = i;
                b = k;
            }
    if (a < 0 || best > -1e-6 * st->total) return false;
    struct move first = get[a], second = give[b];
    apply(st, &first);
    apply(st, &second);
    return true;
}

/* Makes room by one move, whatever it costs, and lets all others use it. Worth its time where there are few
 * layers and units, which prices alone do not settle. */
static bool make_room(struct state *st, struct move *room, struct move *give)
{
    const struct cost *c = st->s->c;
    uint64_t size = (uint64_t)c->entries * (c->layer[0].units + 1);
    int tries = size < 20000 / KEPT ? KEPT : (int)(20000 / size), gives = 0;
    if (!tries) return false;
    for (uint32_t i = 0; i < c->entries; i++) {
        int n = moves_of(st, i, false, room);
        for (int k = 0; k < n; k++)
            if (room[k].vram < 0 || room[k].ram < 0) keep(give, &gives, &room[k]);
    }
    qsort(give, (size_t)gives, sizeof *give, by_reduced);
    double before = st->total;
    struct cost_place *old = malloc(c->entries * sizeof *old);
    if (!old) return false;
    memcpy(old, st->places, c->entries * sizeof *old);
    bool better = false;
    for (int i = 0; i < gives && i < tries && !better; i++) {
        if (!fits(st, give[i].vram, give[i].ram)) continue;
        apply(st, &give[i]);
        descend(st, room, give[i].layer);
        better = st->total < before - 1e-6 * before;
        if (better) break;
        memcpy(st->places, old, c->entries * sizeof *old);
        for (uint32_t k = 0; k < c->entries; k++) enter(st, k);
        add_up(st);
    }
    free(old);
    return better;
}

static int begin(struct state *st, struct solver *s, struct cost_place *places, struct move **room)
{
    size_t n = s->c->entries;
    *st = (struct state){.s = s, .places = places, .time = malloc(3 * n * sizeof(double))};
    *room = malloc((MOVES_MOST + 2 * KEPT) * sizeof **room);
    if (!st->time || !*room) return ERR_NOMEM;
    st->vram = st->time + n;
    st->ram = st->vram + n;
    for (uint32_t i = 0; i < n; i++) enter(st, i);
    add_up(st);
    return 0;
}

static double over(double used, uint64_t capacity)
{
    return used > (double)capacity ? used - (double)capacity : 0;
}

/* By how much the capacities are exceeded, in shares of what is used. */
static double excess(const struct state *st, double vram, double ram)
{
    return over(st->vram_used + vram, st->s->vram) / (st->vram_used + 1) +
           over(st->ram_used + ram, st->s->ram) / (st->ram_used + 1);
}

/* The move that costs least, at the prices, for what it takes off the excess. At the best prices mixtures of
 * placements from the pool cost nothing at all. */
static bool relieve(struct state *st, struct move *room, bool pool_only)
{
    double now = excess(st, 0, 0), best = INFINITY;
    struct move chosen = {0};
    for (uint32_t i = 0; i < st->s->c->entries; i++) {
        int n = moves_of(st, i, pool_only, room);
        for (int m = 0; m < n; m++) {
            double less = now - excess(st, room[m].vram, room[m].ram);
            if (!(less > 1e-12)) continue;
            double worth = fmax(room[m].reduced, 1e-9 * st->total) / less;
            if (!(worth < best)) continue;
            best = worth;
            chosen = room[m];
        }
    }
    if (best == INFINITY) return false;
    apply(st, &chosen);
    return true;
}

bool solver_repair(struct solver *s, struct cost_place *places)
{
    struct state st;
    struct move *room;
    bool fit = false;
    if (begin(&st, s, places, &room) == 0)
        for (int k = 0; k < REPAIRS_MOST && !fit; k++) {
            fit = !(excess(&st, 0, 0) > 0);
            if (!fit && !relieve(&st, room, true) && !relieve(&st, room, false)) break;
        }
    free(st.time);
    free(room);
    return fit;
}

double solver_improve(struct solver *s, struct cost_place *places, int pairs, struct err *e)
{
    struct state st;
    struct move *room;
    double total = INFINITY;
    if (begin(&st, s, places, &room)) {
        err_set(e, ERR_NOMEM, "no memory for the search");
    } else {
        struct move *give = room + MOVES_MOST, *get = give + KEPT;
        descend(&st, room, UINT32_MAX);
        for (int k = 0; k < pairs && (exchange(&st, room, give, get) || make_room(&st, room, give)); k++)
            descend(&st, room, UINT32_MAX);
        total = solver_time(s, places);
    }
    free(st.time);
    free(room);
    return total;
}
