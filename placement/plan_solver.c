/* Bound and prices. The two capacities get prices (seconds a byte); then layers are independent, and each can
 * be minimised exactly: over where attention and KV lie, and for each part over both of its ends. Any prices
 * give a bound below every placement that fits; the best ones are searched for. Where the disk is used, a
 * layer's time is the larger of two sums (cost.h), of which a mixture is minimised; any mixture bounds it
 * too.
 */
#include "placement/plan_solver.h"

#include "base/checked.h"
#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int solver_init(struct solver *s, const struct cost *c, bool gpu, bool disk, struct err *e)
{
    *s = (struct solver){.c = c, .gpu = gpu && c->gpu, .disk = disk && c->disk};
    uint64_t n = 0, bytes;
    for (uint32_t i = 0; i < c->entries; i++) n += 3ull * PLAN_PARTS * (c->layer[i].units + 1);
    s->table = calloc((size_t)c->entries * PLAN_PARTS, sizeof *s->table);
    s->pool = malloc((size_t)c->entries * SOLVER_POOL * sizeof *s->pool);
    s->pooled = calloc(c->entries, sizeof *s->pooled);
    if (!checked_mul(n, sizeof *s->memory, &bytes) || !(s->memory = malloc(bytes)) || !s->table || !s->pool ||
        !s->pooled) {
        solver_finish(s);
        return err_set(e, ERR_NOMEM, "no memory for the solver's tables");
    }
    double *at = s->memory;
    for (uint32_t i = 0; i < c->entries; i++) {
        const struct cost_layer *l = &c->layer[i];
        uint32_t n1 = l->units + 1;
        for (int p = 0; p < PLAN_PARTS; p++) {
            struct solver_table *t = &s->table[i * PLAN_PARTS + (uint32_t)p];
            const struct cost_part *part = &l->part[p];
            t->gpu = at;
            t->cpu = at + n1;
            t->disk = at + 2 * n1;
            at += 3 * n1;
            for (uint32_t k = 0; k < n1; k++) {
                t->gpu[k] = t->cpu[k] = t->disk[k] = 0;
                if (!part->bytes) continue;
                double all = part->load[l->units], rest = all - part->load[k];
                if (k > 0 && s->gpu) t->gpu[k] = cost_gpu_share(c, l, (enum plan_part)p, part->load[k]);
                if (k < l->units) t->cpu[k] = cost_cpu_share(c, l, (enum plan_part)p, rest);
                t->disk[k] = rest * part->disk;
            }
        }
    }
    return 0;
}

void solver_finish(struct solver *s)
{
    free(s->table);
    free(s->memory);
    free(s->pool);
    free(s->pooled);
    s->pool = NULL;
    s->pooled = NULL;
    s->table = NULL;
    s->memory = NULL;
}

/* ---- Evaluating ---- */

/* Attention's weights and KV: computing, reading. */
static void attention_time(const struct cost *c, const struct cost_layer *l, uint8_t attention, uint8_t kv,
                           double *compute, double *disk)
{
    bool gpu = attention == PLAN_GPU;
    *compute = l->attention[gpu ? PLAN_GPU : PLAN_RAM] + (l->kv_bytes ? l->kv[kv] : 0);
    if (!gpu) *compute += (l->kv_bytes ? COST_CPU_ATTENTION : 0) * c->barrier + (l->units ? 0 : c->barrier);
    *disk = attention == PLAN_DISK ? l->attention[PLAN_DISK] : 0;
}

double solver_layer_time(const struct solver *s, uint32_t i, const struct cost_place *p)
{
    const struct cost *c = s->c;
    const struct cost_layer *l = &c->layer[i];
    double compute, disk;
    attention_time(c, l, p->attention, p->kv, &compute, &disk);
    for (int k = 0; k < PLAN_PARTS; k++) {
        if (!l->part[k].bytes) continue;
        const struct solver_table *t = &s->table[i * PLAN_PARTS + (uint32_t)k];
        double reads = t->disk[p->part[k].ram], phase = fmax(t->gpu[p->part[k].gpu], t->cpu[p->part[k].gpu]);
        compute += l->part[k].listed ? fmax(phase, reads) : phase;
        disk += reads;
    }
    if (c->gpu) compute += cost_crossings(l, p) * c->rendezvous;
    return fmax(compute, disk);
}

double solver_time(const struct solver *s, const struct cost_place *places)
{
    double sum = 0;
    for (uint32_t i = 0; i < s->c->entries; i++) sum += solver_layer_time(s, i, &places[i]);
    return sum;
}

void solver_used(const struct solver *s, const struct cost_place *places, uint64_t used[PLAN_TIERS])
{
    for (int t = 0; t < PLAN_TIERS; t++) {
        used[t] = 0;
        for (uint32_t i = 0; i < s->c->entries; i++)
            used[t] += cost_bytes(&s->c->layer[i], &places[i], (enum plan_tier)t);
    }
}

bool solver_fits(const struct solver *s, const struct cost_place *places)
{
    uint64_t used[PLAN_TIERS];
    solver_used(s, places, used);
    return used[PLAN_GPU] <= s->vram && used[PLAN_RAM] <= s->ram && (s->disk || !used[PLAN_DISK]);
}

/* ---- One layer at given prices ---- */

enum class { ALL_GPU, ALL_CPU, MIXED, CLASSES };

struct pick {
    double value;
    uint32_t gpu, ram;
};

struct prices {
    double vram, ram, theta; /* theta: weight of computing, the rest is reading's */
};

struct part_view {
    const struct solver_table *t;
    const struct cost_part *part;
    const struct prices *at;
    uint32_t units, unit, neurons;
};

static double neurons_in(const struct part_view *v, uint32_t from, uint32_t to)
{
    uint64_t end = (uint64_t)to * v->unit, begin = (uint64_t)from * v->unit;
    if (end > v->neurons) end = v->neurons;
    return (double)(end - (begin < end ? begin : end));
}

static double part_value(const struct part_view *v, uint32_t gpu, uint32_t ram)
{
    double reads = v->t->disk[ram], phase = fmax(v->t->gpu[gpu], v->t->cpu[gpu]);
    if (v->part->listed && reads > phase) phase = reads;
    double bytes = (double)v->part->bytes, shared = (double)v->part->shared, theta = v->at->theta;
    double value = theta * phase + (1 - theta) * reads;
    value += v->at->vram * (neurons_in(v, 0, gpu) * bytes + (gpu > 0 ? shared : 0));
    return value + v->at->ram * (neurons_in(v, gpu, ram) * bytes + (gpu < v->units ? shared : 0));
}

/* The best end of RAM for an end of the GPU. Reads fall ever more slowly with it, so the value is convex (up
 * to the last unit, which may be shorter): while the phase waits for reads its slope is that of all reads and
 * RAM, after that of the unweighted rest. So the best end is `most` or `least`, the two slopes' zeros, or,
 * between them, where reads cease to be waited for. */
struct ends {
    uint32_t least, most;
};

/* First unit from which one more costs no less: reads' weight × fall < price. */
static uint32_t zero_of_slope(const struct part_view *v, double weight)
{
    double price = v->at->ram * (double)v->part->bytes * v->unit;
    uint32_t lo = 0, hi = v->units;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (weight * (v->t->disk[mid] - v->t->disk[mid + 1]) > price)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void try_end(const struct part_view *v, uint32_t gpu, uint32_t ram, struct pick *best)
{
    if (ram < gpu) ram = gpu;
    if (ram > v->units) ram = v->units;
    double value = part_value(v, gpu, ram);
    if (value < best->value) *best = (struct pick){value, gpu, ram};
}

static struct pick best_ram(const struct part_view *v, const struct ends *ends, uint32_t gpu, bool disk)
{
    struct pick best = {part_value(v, gpu, v->units), gpu, v->units};
    if (!disk || gpu == v->units) return best;
    try_end(v, gpu, ends->least, &best);
    if (!v->part->listed || ends->most == ends->least) return best;
    try_end(v, gpu, ends->most, &best);
    /* The first end at which reads are no longer waited for. */
    double phase = fmax(v->t->gpu[gpu], v->t->cpu[gpu]);
    uint32_t lo = ends->least, hi = ends->most;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (v->t->disk[mid] > phase)
            lo = mid + 1;
        else
            hi = mid;
    }
    try_end(v, gpu, lo, &best);
    if (lo) try_end(v, gpu, lo - 1, &best);
    return best;
}

static void best_of_classes(const struct solver *s, const struct part_view *v, struct pick out[CLASSES])
{
    struct ends ends = {v->units, v->units};
    if (s->disk) {
        double theta = v->at->theta;
        ends.least = zero_of_slope(v, 1 - theta);
        ends.most = v->part->listed ? zero_of_slope(v, 1) : ends.least;
    }
    out[ALL_CPU] = best_ram(v, &ends, 0, s->disk);
    out[ALL_GPU] = out[MIXED] = (struct pick){INFINITY, 0, 0};
    if (!s->gpu) return;
    out[ALL_GPU] = best_ram(v, &ends, v->units, false);
    for (uint32_t k = 1; k < v->units; k++) {
        struct pick p = best_ram(v, &ends, k, s->disk);
        if (p.value < out[MIXED].value) out[MIXED] = p;
    }
}

/* Crossings of x and lists by classes: as cost_crossings. own: ALL_GPU or ALL_CPU. */
static int crossings(const enum class *k, int first, enum class own)
{
    int n = (k[first] != own) + (k[PLAN_UPDOWN] != own);
    for (int i = first; i < PLAN_UPDOWN; i++) n += k[i] == MIXED || k[i] != k[i + 1];
    return n;
}

struct attention_pick {
    double value;
    uint8_t attention, kv;
};

static struct attention_pick best_attention(const struct solver *s, const struct cost_layer *l,
                                            const struct prices *at, enum class own)
{
    struct attention_pick best = {INFINITY, PLAN_RAM, PLAN_RAM};
    static const uint8_t tiers[2][2] = {{PLAN_GPU, PLAN_GPU}, {PLAN_RAM, PLAN_DISK}};
    for (int a = 0; a < (own == ALL_CPU && s->disk ? 2 : 1); a++)
        for (int kv = PLAN_GPU; kv <= PLAN_RAM; kv++) {
            uint8_t tier = tiers[own][a];
            double compute, disk;
            if (kv == PLAN_GPU && (!s->gpu || (!l->kv_bytes && own == ALL_CPU))) continue;
            if (kv == PLAN_RAM && !l->kv_bytes && own == ALL_GPU) continue; /* no KV: one choice is enough */
            attention_time(s->c, l, tier, (uint8_t)kv, &compute, &disk);
            if (l->kv_bytes && (kv == PLAN_GPU) != (own == ALL_GPU)) compute += 2 * s->c->rendezvous;
            double value = at->theta * compute + (1 - at->theta) * disk;
            if (tier == PLAN_GPU) value += at->vram * (double)l->attention_bytes;
            if (tier == PLAN_RAM) value += at->ram * (double)l->attention_bytes;
            value += (kv == PLAN_GPU ? at->vram : at->ram) * (double)l->kv_bytes;
            if (value < best.value) best = (struct attention_pick){value, tier, (uint8_t)kv};
        }
    return best;
}

/* Minimum over all placements of layer i of theta·computing + (1 − theta)·reading + prices. */
static double minimise(const struct solver *s, uint32_t i, const struct prices *at, struct cost_place *out)
{
    const struct cost_layer *l = &s->c->layer[i];
    struct pick pick[PLAN_PARTS][CLASSES];
    *out = (struct cost_place){0};
    for (int p = 0; p < PLAN_PARTS; p++) {
        struct part_view v = {
            &s->table[i * PLAN_PARTS + (uint32_t)p], &l->part[p], at, l->units, l->unit, l->neurons};
        if (l->part[p].bytes) {
            best_of_classes(s, &v, pick[p]);
            continue;
        }
        for (int k = 0; k < CLASSES; k++) pick[p][k] = (struct pick){INFINITY, 0, l->units};
        pick[p][ALL_CPU].value = 0;
    }
    int first = l->part[PLAN_SCREEN].bytes ? PLAN_SCREEN : PLAN_GATE;
    double best = INFINITY;
    for (int own = ALL_GPU; own <= ALL_CPU; own++) {
        if (own == ALL_GPU && !s->gpu) continue;
        struct attention_pick a = best_attention(s, l, at, (enum class)own);
        if (!(a.value < best)) continue;
        if (!l->units) {
            best = a.value;
            out->attention = a.attention;
            out->kv = a.kv;
            continue;
        }
        for (int k = 0; k < CLASSES * CLASSES * CLASSES; k++) {
            enum class of[PLAN_PARTS] = {(enum class)(k % CLASSES), (enum class)(k / CLASSES % CLASSES),
                                         (enum class)(k / CLASSES / CLASSES)};
            double value = a.value;
            for (int p = 0; p < PLAN_PARTS; p++) value += pick[p][of[p]].value;
            if (!(value < best)) continue;
            value += at->theta * crossings(of, first, (enum class)own) * s->c->rendezvous;
            if (!(value < best)) continue;
            best = value;
            out->attention = a.attention;
            out->kv = a.kv;
            for (int p = 0; p < PLAN_PARTS; p++) {
                out->part[p].gpu = pick[p][of[p]].gpu;
                out->part[p].ram = pick[p][of[p]].ram;
            }
        }
    }
    return best;
}

/* ---- Prices ---- */

struct search {
    struct solver *s;
    struct cost_place *now, *best,
        *over; /* the last evaluated; the fastest that fits; the best that does not */
    double best_time, over_value;
    double vram, ram; /* bytes that `now` takes: less the capacities, a supergradient of the bound */
    int evaluations;
};

static bool same(const struct cost_place *a, const struct cost_place *b)
{
    bool equal = a->attention == b->attention && a->kv == b->kv;
    for (int p = 0; p < PLAN_PARTS; p++)
        equal &= a->part[p].gpu == b->part[p].gpu && a->part[p].ram == b->part[p].ram;
    return equal;
}

static void put_in_pool(struct solver *s, uint32_t i, const struct cost_place *p)
{
    struct cost_place *pool = s->pool + (size_t)i * SOLVER_POOL;
    uint32_t n = s->pooled[i] < SOLVER_POOL ? s->pooled[i] : SOLVER_POOL;
    for (uint32_t k = 0; k < n; k++)
        if (same(&pool[k], p)) return;
    pool[s->pooled[i]++ % SOLVER_POOL] = *p;
}

/* Computing and reading of a placement. */
static void sums(const struct solver *s, uint32_t i, const struct cost_place *p, double *compute,
                 double *disk)
{
    const struct cost_layer *l = &s->c->layer[i];
    attention_time(s->c, l, p->attention, p->kv, compute, disk);
    for (int k = 0; k < PLAN_PARTS; k++) {
        if (!l->part[k].bytes) continue;
        const struct solver_table *t = &s->table[i * PLAN_PARTS + (uint32_t)k];
        double reads = t->disk[p->part[k].ram], phase = fmax(t->gpu[p->part[k].gpu], t->cpu[p->part[k].gpu]);
        *compute += l->part[k].listed ? fmax(phase, reads) : phase;
        *disk += reads;
    }
    if (s->c->gpu) *compute += cost_crossings(l, p) * s->c->rendezvous;
}

/* Real time and prices, not a mixture's. */
static double priced(const struct solver *s, uint32_t i, const struct cost_place *p, double vram, double ram)
{
    const struct cost_layer *l = &s->c->layer[i];
    return solver_layer_time(s, i, p) + vram * (double)cost_bytes(l, p, PLAN_GPU) +
           ram * (double)cost_bytes(l, p, PLAN_RAM);
}

/* Moves RAM's end of one part to where the layer costs least (convex: by halving). */
static void settle_end(const struct solver *s, uint32_t i, int part, struct cost_place *p, double vram,
                       double ram)
{
    uint32_t lo = p->part[part].gpu, hi = s->c->layer[i].units;
    struct cost_place a = *p, b = *p;
    while (lo < hi) {
        a.part[part].ram = lo + (hi - lo) / 2;
        b.part[part].ram = a.part[part].ram + 1;
        if (priced(s, i, &b, vram, ram) < priced(s, i, &a, vram, ram))
            lo = b.part[part].ram;
        else
            hi = a.part[part].ram;
    }
    a.part[part].ram = lo;
    if (priced(s, i, &a, vram, ram) < priced(s, i, p, vram, ram)) *p = a;
}

/* A placement good at its real time, from two of which one computes longer and one reads longer: their parts
 * are mixed, then ends are moved. */
static void blend(const struct solver *s, uint32_t i, const struct cost_place *x, const struct cost_place *y,
                  double vram, double ram, struct cost_place *out)
{
    double best = INFINITY;
    for (int k = 0; k < 1 << (PLAN_PARTS + 1); k++) {
        struct cost_place p = *x;
        if (k & 1) {
            p.attention = y->attention;
            p.kv = y->kv;
        }
        for (int part = 0; part < PLAN_PARTS; part++)
            if (k >> (part + 1) & 1) p.part[part] = y->part[part];
        double v = priced(s, i, &p, vram, ram);
        if (v < best) {
            best = v;
            *out = p;
        }
    }
    for (int round = 0; round < 2; round++)
        for (int part = PLAN_PARTS - 1; part >= 0; part--)
            if (s->c->layer[i].part[part].bytes) settle_end(s, i, part, out, vram, ram);
}

struct bounded {
    double value;
    double vram, ram;       /* bytes of the relaxed minimum: a supergradient of the bound */
    struct cost_place real; /* good at its real time */
};

static void set_bytes(const struct solver *s, uint32_t i, const struct cost_place *a,
                      const struct cost_place *b, double weight, struct bounded *out)
{
    const struct cost_layer *l = &s->c->layer[i];
    out->vram =
        weight * (double)cost_bytes(l, a, PLAN_GPU) + (1 - weight) * (double)cost_bytes(l, b, PLAN_GPU);
    out->ram =
        weight * (double)cost_bytes(l, a, PLAN_RAM) + (1 - weight) * (double)cost_bytes(l, b, PLAN_RAM);
}

/* The bound of one layer: over mixtures the largest minimum. That is concave, its slope computing − reading,
 * so the mixture is found by halving. */
static void bound_of(struct solver *s, uint32_t i, double vram, double ram, struct bounded *out)
{
    struct prices at = {vram, ram, 1};
    double compute, disk, before, after;
    struct cost_place computes, reads, p; /* minima that compute longer, and that read longer */
    out->value = minimise(s, i, &at, &reads);
    set_bytes(s, i, &reads, &reads, 1, out);
    out->real = reads;
    put_in_pool(s, i, &out->real);
    if (!s->disk) return;
    sums(s, i, &reads, &compute, &disk);
    before = disk - compute;
    if (!(before > 0)) return;
    /* Where reading is what takes time, it usually is alone. */
    at.theta = 0;
    double value = minimise(s, i, &at, &computes);
    sums(s, i, &computes, &compute, &disk);
    after = compute - disk;
    if (value > out->value) {
        out->value = value;
        set_bytes(s, i, &computes, &computes, 1, out);
    }
    double lo = 0, hi = 1;
    for (int k = 0; k < 12 && after > 0; k++) {
        at.theta = (lo + hi) / 2;
        value = minimise(s, i, &at, &p);
        sums(s, i, &p, &compute, &disk);
        if (value > out->value) out->value = value;
        if (compute >= disk) {
            if (same(&p, &computes) && k > 6) break;
            computes = p;
            after = compute - disk;
            lo = at.theta;
        } else {
            reads = p;
            before = disk - compute;
            hi = at.theta;
        }
    }
    /* At the best mixture both are minima: so is the blend of them that computes as long as it reads. */
    if (after > 0) set_bytes(s, i, &computes, &reads, before / (before + after), out);
    blend(s, i, &computes, &reads, vram, ram, &out->real);
    put_in_pool(s, i, &out->real);
}

double solver_least(struct solver *s, uint32_t i)
{
    struct bounded b;
    bound_of(s, i, s->vram_price, s->ram_price, &b);
    return b.value;
}

static void evaluate(struct search *q, double vram, double ram)
{
    struct solver *s = q->s;
    const struct cost *c = s->c;
    double value = 0, time = 0, vram_used = 0, ram_used = 0;
    q->vram = q->ram = 0;
    q->evaluations++;
    for (uint32_t i = 0; i < c->entries; i++) {
        struct bounded b;
        bound_of(s, i, vram, ram, &b);
        q->now[i] = b.real;
        value += b.value;
        time += solver_layer_time(s, i, &b.real);
        q->vram += b.vram;
        q->ram += b.ram;
        vram_used += (double)cost_bytes(&c->layer[i], &b.real, PLAN_GPU);
        ram_used += (double)cost_bytes(&c->layer[i], &b.real, PLAN_RAM);
    }
    value -= vram * (double)s->vram + ram * (double)s->ram;
    if (value > s->bound || q->evaluations == 1) {
        s->bound = fmax(value, s->bound);
        s->vram_price = vram;
        s->ram_price = ram;
    }
    bool fits = vram_used <= (double)s->vram && ram_used <= (double)s->ram;
    if (fits && time < q->best_time) {
        q->best_time = time;
        memcpy(q->best, q->now, c->entries * sizeof *q->now);
    }
    if ((!fits && value > q->over_value) || q->evaluations == 1) {
        q->over_value = value;
        memcpy(q->over, q->now, c->entries * sizeof *q->now);
    }
}

enum { HALVINGS = 30, CUTS_MOST = 90, CORNERS_MOST = CUTS_MOST + 8 };
#define PRICE_LOW   1e-16
#define PRICE_FIRST 1e-12
#define PRICE_MOST  1e4

static bool full(const struct search *q, bool of_ram)
{
    return of_ram ? q->ram > (double)q->s->ram : q->vram > (double)q->s->vram;
}

static void at_price(struct search *q, bool of_ram, double price, double other)
{
    if (of_ram)
        evaluate(q, other, price);
    else
        evaluate(q, price, other);
}

/* The least price of one capacity at which it is not overfull, the other's price given; 0: it never is. To a
 * relative `close`. */
static double price_of(struct search *q, bool of_ram, double other, double close)
{
    at_price(q, of_ram, 0, other);
    if (!full(q, of_ram)) return 0;
    double lo = PRICE_LOW, hi = PRICE_FIRST;
    for (; hi < PRICE_MOST; hi *= 16) {
        at_price(q, of_ram, hi, other);
        if (!full(q, of_ram)) break;
        lo = hi;
    }
    if (!(hi < PRICE_MOST)) return hi; /* whatever it costs, it does not fit */
    for (int k = 0; k < HALVINGS && hi / lo > 1 + close; k++) {
        double mid = sqrt(lo * hi);
        at_price(q, of_ram, mid, other);
        if (full(q, of_ram))
            lo = mid;
        else
            hi = mid;
    }
    return hi;
}

/* ---- Both capacities short: cutting planes ----
 * The bound is concave in the two prices, and each evaluation's supergradient says on which side of a line
 * through it the best prices are. A polygon of what is left is cut through its centre of gravity. */
struct polygon {
    int n;
    double x[CORNERS_MOST], y[CORNERS_MOST];
};

static double centre(const struct polygon *p, double *x, double *y)
{
    double area = 0, sx = 0, sy = 0;
    for (int i = 0; i < p->n; i++) {
        int j = (i + 1) % p->n;
        double cross = (p->x[i] - p->x[0]) * (p->y[j] - p->y[0]) - (p->x[j] - p->x[0]) * (p->y[i] - p->y[0]);
        area += cross;
        sx += cross * (p->x[i] + p->x[j] + p->x[0]);
        sy += cross * (p->y[i] + p->y[j] + p->y[0]);
    }
    if (fabs(area) < 1e-300) return 0;
    *x = sx / (3 * area);
    *y = sy / (3 * area);
    return fabs(area) / 2;
}

/* Keeps what has gx·(x − x0) + gy·(y − y0) ≥ 0. */
static void cut(struct polygon *p, double gx, double gy, double x0, double y0)
{
    struct polygon out = {0};
    for (int i = 0; i < p->n && out.n < CORNERS_MOST - 2; i++) {
        int j = (i + 1) % p->n;
        double a = gx * (p->x[i] - x0) + gy * (p->y[i] - y0), b = gx * (p->x[j] - x0) + gy * (p->y[j] - y0);
        if (a >= 0) {
            out.x[out.n] = p->x[i];
            out.y[out.n++] = p->y[i];
        }
        if ((a > 0 && b < 0) || (a < 0 && b > 0)) {
            double t = a / (a - b);
            out.x[out.n] = p->x[i] + t * (p->x[j] - p->x[i]);
            out.y[out.n++] = p->y[i] + t * (p->y[j] - p->y[i]);
        }
    }
    *p = out;
}

static void cut_within(struct search *q, double vram_most, double ram_most)
{
    /* In units of the largest prices, so that both directions weigh alike. */
    struct polygon p = {4, {0, 1, 1, 0}, {0, 0, 1, 1}};
    double x = 0, y = 0;
    for (int k = 0; k < CUTS_MOST && p.n >= 3; k++) {
        double area = centre(&p, &x, &y);
        if (area < 1e-13) break;
        evaluate(q, x * vram_most, y * ram_most);
        double gx = (q->vram - (double)q->s->vram) * vram_most, gy = (q->ram - (double)q->s->ram) * ram_most;
        if (q->best_time < INFINITY && q->best_time - q->s->bound < 1e-6 * q->best_time) break;
        cut(&p, gx, gy, x, y);
    }
}

/* Within prices that look large enough, then, where the best ones are at their edge, within larger ones. */
static void cutting_planes(struct search *q, double vram_most, double ram_most)
{
    for (int k = 0; k < 4; k++) {
        cut_within(q, vram_most, ram_most);
        bool vram_edge = q->s->vram_price > 0.8 * vram_most, ram_edge = q->s->ram_price > 0.8 * ram_most;
        if (!vram_edge && !ram_edge) break;
        if (vram_edge) vram_most *= 200;
        if (ram_edge) ram_most *= 200;
    }
}

static int search_init(struct search *q, struct solver *s, struct cost_place *best, struct cost_place *over,
                       struct err *e)
{
    *q = (struct search){.s = s, .best = best, .over = over, .best_time = INFINITY};
    q->now = calloc(s->c->entries, sizeof *q->now);
    s->bound = 0; /* times are positive */
    return q->now ? 0 : err_set(e, ERR_NOMEM, "no memory for the search");
}

/* What cannot be anywhere but in VRAM or RAM, against both together: more is impossible, whatever the prices.
 */
static bool beyond_capacity(const struct solver *s)
{
    double least = 0;
    for (uint32_t i = 0; i < s->c->entries; i++) {
        const struct cost_layer *l = &s->c->layer[i];
        least += (double)l->kv_bytes + (s->disk ? 0 : (double)l->attention_bytes);
        for (int p = 0; p < PLAN_PARTS; p++) {
            least += (double)l->part[p].shared;
            if (!s->disk) least += (double)l->part[p].bytes * l->neurons;
        }
    }
    return least > (double)s->ram + (s->gpu ? (double)s->vram : 0);
}

int solver_dual(struct solver *s, struct cost_place *best, struct cost_place *over, double *time,
                struct err *e)
{
    struct search q;
    int r = search_init(&q, s, best, over, e);
    if (r) return r;
    if (beyond_capacity(s)) {
        s->bound = *time = INFINITY;
        free(q.now);
        return 0;
    }
    double vram = s->gpu ? price_of(&q, false, 0, 1e-7) : (evaluate(&q, 0, 0), 0);
    if (full(&q, true)) {
        if (vram > 0) {
            double ram = price_of(&q, true, vram, 0.5), alone = price_of(&q, true, 0, 0.5);
            double again = price_of(&q, false, ram, 0.5);
            if (alone > ram) ram = alone;
            if (again > vram) vram = again;
            if (ram > 0) cutting_planes(&q, 16 * vram, 16 * ram);
        } else {
            double ram = price_of(&q, true, 0, 1e-7);
            /* With RAM dear the GPU may be short after all. */
            if (s->gpu && full(&q, false)) cutting_planes(&q, 16 * ram, 16 * ram);
        }
    }
    *time = q.best_time;
    free(q.now);
    return 0;
}

bool solver_possible(struct solver *s)
{
    struct search q;
    struct cost_place *places = calloc(2 * (size_t)s->c->entries, sizeof *places);
    bool yes = false;
    if (places && search_init(&q, s, places, places + s->c->entries, NULL) == 0) {
        /* At such prices time hardly counts. */
        price_of(&q, false, PRICE_MOST, 0.01);
        price_of(&q, false, PRICE_LOW, 0.01);
        yes = q.best_time < INFINITY;
        if (!yes) {
            memcpy(places, q.now, s->c->entries * sizeof *places);
            yes = solver_repair(s, places);
        }
        free(q.now);
    }
    free(places);
    return yes;
}
