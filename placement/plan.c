/* Plans: budgets and ledger first, then the search in each of the ways that a machine can be used (with or
 * without its GPU, with or without its disk), the best of which is kept. */
#include "placement/plan.h"

#include "base/err.h"
#include "base/rng.h"
#include "base/size.h"
#include "placement/plan_priv.h"
#include "placement/plan_solver.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const plan_rule_names[] = {"calor", "by-layer", "by-frequency", "cpu", NULL};

#define MIB (UINT64_C(1) << 20)

struct plan_settings plan_default(const struct plan_model *m, const struct machine *machine)
{
    uint32_t cores = machine->performance_cores ? machine->performance_cores : machine->cores;
    struct plan_settings s = {
        .memory = {.context = m->context && m->context < 4096 ? m->context : 4096,
                   .batch = 512,
                   .threads = machine->threads ? machine->threads
                              : cores          ? cores
                                               : 1,
                   .kv = DT_F16,
                   .vram = UINT64_MAX,
                   .ram = UINT64_MAX,
                   .margin = 64 * MIB,
                   .staging = 32 * MIB,
                   .reading = 64 * MIB},
        .prompt = 512,
        .listed = 32,
        .disk_ratio = 1,
    };
    return s;
}

/* Steps of 64 neurons, and at most a few hundred a layer. */
static uint32_t unit_of(uint32_t neurons)
{
    uint32_t unit = 64;
    while (neurons / unit > 512) unit *= 2;
    return unit;
}

static void resolve(struct plan_settings *s, const struct plan_model *m)
{
    if (!s->unit) s->unit = unit_of(m->neurons);
    if (!s->position) s->position = (s->memory.context + 1) / 2;
    if (s->prompt > s->memory.context) s->prompt = s->memory.context;
    if (s->memory.batch > s->memory.context) s->memory.batch = s->memory.context;
}

static struct cost_settings cost_settings(const struct plan_settings *s, uint32_t position,
                                          enum cost_estimate estimate)
{
    return (struct cost_settings){.threads = s->memory.threads,
                                  .context = s->memory.context,
                                  .position = position,
                                  .kv = s->memory.kv,
                                  .unit = s->unit,
                                  .disk_ratio = s->disk_ratio,
                                  .zstd = s->zstd,
                                  .estimate = estimate};
}

struct cost_settings plan_cost_settings(const struct plan *p)
{
    return cost_settings(&p->settings, p->settings.position, COST_MEDIAN);
}

/* ---- Searching ---- */

enum { PAIRS = 60, STARTS_MOST = 24, STARTS_SIZE = 8000 };

struct job {
    const struct plan_model *m;
    struct plan *p;
    const struct cost *c;
    struct cost_place *places, *over; /* room for two more placements */
    double best, bound;
    struct err *e;
};

static void capacities(const struct plan *p, struct solver *s, bool gpu, bool disk)
{
    s->vram = gpu ? ledger_vram_left(&p->ledger) : 0;
    s->ram = ledger_ram_left(&p->ledger, gpu, disk);
    s->gpu &= s->vram > 0;
}

static void keep_best(struct job *j, double time)
{
    if (!(time < j->best)) return;
    j->best = time;
    memcpy(j->p->place, j->places, j->c->entries * sizeof *j->places);
}

/* In small problems prices leave much open: more starts, from placements met on the way in random company. In
 * large ones there would be too many, and the gap is small. */
static void start_elsewhere(struct job *j, struct solver *s)
{
    uint64_t size = (uint64_t)j->c->entries * (j->c->layer[0].units + 1);
    struct rng random;
    rng_init(&random, 1);
    for (uint64_t k = 0; k < STARTS_MOST && k < STARTS_SIZE / size && j->best > s->bound * (1 + 1e-9); k++) {
        for (uint32_t i = 0; i < j->c->entries; i++) {
            uint32_t n = s->pooled[i] < SOLVER_POOL ? s->pooled[i] : SOLVER_POOL;
            j->places[i] = s->pool[(size_t)i * SOLVER_POOL + rng_below(&random, n)];
        }
        if (solver_repair(s, j->places)) keep_best(j, solver_improve(s, j->places, PAIRS, j->e));
    }
}

/* Whether RAM alone would hold everything: then it is never short. */
static bool all_in_ram(const struct solver *s)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < s->c->entries; i++) {
        const struct cost_layer *l = &s->c->layer[i];
        struct cost_place p = {.attention = PLAN_RAM, .kv = PLAN_RAM};
        for (int k = 0; k < PLAN_PARTS; k++) p.part[k].ram = l->units;
        sum += cost_bytes(l, &p, PLAN_RAM);
    }
    return sum <= s->ram;
}

/* One way of using the machine. *ram_binds: RAM may be short, so the disk may help. */
static int search(struct job *j, bool gpu, bool disk, bool *ram_binds)
{
    struct solver s;
    int r = solver_init(&s, j->c, gpu, disk, j->e);
    if (r) return r;
    capacities(j->p, &s, gpu, disk);
    double time;
    r = solver_dual(&s, j->places, j->over, &time, j->e);
    *ram_binds = !all_in_ram(&s);
    if (r || s.bound == INFINITY) { /* an error, or provably nothing fits */
        solver_finish(&s);
        return r;
    }
    /* Few layers: every start is worth the pairs. */
    int pairs = (uint64_t)j->c->entries * (j->c->layer[0].units + 1) < STARTS_SIZE / 2 ? PAIRS : 0;
    if (r == 0 && time < INFINITY) keep_best(j, solver_improve(&s, j->places, pairs, j->e));
    /* Never worse than the rules of others. */
    if (r == 0 && solver_by_frequency(&s, j->m, j->places, j->e) && solver_fits(&s, j->places))
        keep_best(j, solver_improve(&s, j->places, pairs, j->e));
    if (r == 0 && solver_by_layer(&s, j->places) && solver_fits(&s, j->places))
        keep_best(j, solver_improve(&s, j->places, pairs, j->e));
    if (r == 0) {
        memcpy(j->places, j->over, j->c->entries * sizeof *j->places);
        if (solver_repair(&s, j->places)) keep_best(j, solver_improve(&s, j->places, PAIRS, j->e));
    }
    if (r == 0) start_elsewhere(j, &s);
    if (r == 0) keep_best(j, solver_exact(&s, j->places, j->best, j->e));
    if (r == 0 && s.bound < j->bound) j->bound = s.bound;
    solver_finish(&s);
    return r;
}

/* A rule's time and bytes, as things stand in the plan. */
static void record(struct plan *p, enum plan_rule rule, const struct cost *c, double time,
                   const struct cost_place *places)
{
    p->others[rule] = time;
    for (int t = 0; t < PLAN_TIERS; t++) {
        p->other_bytes[rule][t] = 0;
        for (uint32_t i = 0; i < c->entries; i++)
            p->other_bytes[rule][t] += (double)cost_bytes(&c->layer[i], &places[i], (enum plan_tier)t);
    }
}

/* All ways that can be the best: without the GPU, then with it; each without the disk, and with it where RAM
 * is short. */
static int search_all(struct job *j, bool gpu)
{
    struct plan *p = j->p;
    bool disk = j->c->disk && !p->settings.no_disk, binds = false;
    int r = 0;
    for (int i = 0; i < PLAN_RULES; i++) p->others[i] = NAN;
    for (int g = 0; g <= gpu && r == 0; g++) {
        r = search(j, g, false, &binds);
        if (r == 0 && binds && disk) r = search(j, g, true, &binds);
        if (r == 0 && g == 0 && j->best < INFINITY) record(p, PLAN_ALL_CPU, j->c, j->best, p->place);
    }
    return r;
}

/* ---- What does not fit ---- */

static bool fits_with(const struct plan_model *m, const struct machine *machine, struct plan_settings s)
{
    struct plan p = {.settings = s};
    struct cost c;
    bool yes = false;
    resolve(&p.settings, m);
    struct cost_settings cs = cost_settings(&p.settings, p.settings.position, COST_MEDIAN);
    if (ledger_make(&p.ledger, m, machine, &p.settings.memory, NULL) || cost_make(&c, m, machine, &cs, NULL))
        return false;
    for (int way = 0; way < 4 && !yes; way++) {
        bool gpu = way & 1, disk = way & 2;
        struct solver v;
        if ((gpu && (!c.gpu || s.no_gpu)) || (disk && (!c.disk || s.no_disk))) continue;
        if (solver_init(&v, &c, gpu, disk, NULL)) break;
        capacities(&p, &v, gpu, disk);
        yes = solver_possible(&v);
        solver_finish(&v);
    }
    cost_finish(&c);
    return yes;
}

static void add(char *to, size_t size, int *n, const char *fmt, const char *what)
{
    size_t len = strlen(to);
    snprintf(to + len, size - len, "%s", (*n)++ ? "; or " : "");
    len = strlen(to);
    snprintf(to + len, size - len, fmt, what);
}

/* The least more of one budget, to 64 MiB, that makes it fit; 0: none up to a TiB. */
static uint64_t more_of(const struct plan_model *m, struct machine *machine, const struct plan_settings *set,
                        bool vram)
{
    const struct machine_gpu *g = &machine->gpu[0];
    uint64_t has = vram ? (g->memory < set->memory.vram ? g->memory : set->memory.vram)
                        : (machine->memory < set->memory.ram ? machine->memory : set->memory.ram);
    uint64_t lo = 0, hi = UINT64_C(1) << 20; /* in units of MiB beyond 2^20: a TiB */
    for (int k = 0; k < 20 && hi - lo > 1; k++) {
        uint64_t mid = k == 0 ? hi : lo + (hi - lo) / 2;
        struct plan_settings s = *set;
        uint64_t all = has + mid * MIB;
        if (vram) {
            machine->gpu[0].memory = all;
            s.memory.vram = all;
        } else {
            machine->memory = all;
            s.memory.ram = all;
        }
        bool fits = fits_with(m, machine, s);
        if (k == 0 && !fits) return 0;
        if (k == 0) continue;
        if (fits)
            hi = mid;
        else
            lo = mid;
    }
    return hi * MIB;
}

static int impossible(const struct plan *p, const struct plan_model *m, const struct machine *machine,
                      struct err *e)
{
    char ways[600] = "", size[32], text[64];
    int n = 0;
    struct plan_settings s = p->settings;
    s.position = 0; /* follows the context */
    for (uint32_t c = s.memory.context / 2; c >= 256; c /= 2) {
        struct plan_settings t = s;
        t.memory.context = c;
        if (!fits_with(m, machine, t)) continue;
        snprintf(text, sizeof text, "%u", c);
        add(ways, sizeof ways, &n, "a context of %s (-c)", text);
        break;
    }
    if (s.memory.kv != DT_Q8_0 && plan_model_kv(m, DT_Q8_0, s.memory.context)) {
        struct plan_settings t = s;
        t.memory.kv = DT_Q8_0;
        if (fits_with(m, machine, t)) add(ways, sizeof ways, &n, "%s", "--kv q8_0");
    }
    if (s.memory.batch > 64) {
        struct plan_settings t = s;
        t.memory.batch = 64;
        if (fits_with(m, machine, t)) add(ways, sizeof ways, &n, "%s", "a batch of 64 (-b)");
    }
    struct machine *other = malloc(sizeof *other);
    for (int vram = 0; other && vram < 2; vram++) {
        *other = *machine;
        if (vram && (!machine->n_gpus || s.no_gpu)) continue;
        uint64_t more = more_of(m, other, &s, vram);
        if (!more) continue;
        snprintf(text, sizeof text, "%s more %s", size_format(more, size, sizeof size),
                 vram ? "VRAM" : "RAM");
        add(ways, sizeof ways, &n, "%s", text);
    }
    free(other);
    char need[32], ram[32], kv[32];
    return err_set(
        e, ERR_FULL,
        "%s does not fit on %s: weights of %s and a KV cache of %s for %u tokens, with %s of RAM%s; "
        "%s%s",
        m->name, machine->name, size_format(plan_model_bytes(m), need, sizeof need),
        size_format(p->ledger.kv_layer * m->layers, kv, sizeof kv), s.memory.context,
        size_format(p->ledger.ram, ram, sizeof ram),
        machine->n_disks && !s.no_disk ? " and a disk for what is read seldom"
                                       : ", and no disk whose rate is known",
        n ? "it would with " : "nothing that was tried would make it fit", ways);
}

/* ---- Times ---- */

static double token_time(const struct cost *c, const struct cost_place *places)
{
    double sum = 0;
    for (uint32_t i = 0; i < c->entries; i++) sum += cost_total(c, &c->layer[i], &places[i]);
    return sum;
}

/* Who the others waited for, second by second. */
static void limits(const struct cost *c, const struct cost_place *places, struct plan_time *t)
{
    for (int i = 0; i < COST_LIMITS; i++) t->by[i] = 0;
    t->reads = 0;
    for (uint32_t i = 0; i < c->entries; i++) {
        const struct cost_layer *l = &c->layer[i];
        struct cost_load load;
        struct cost_time time;
        cost_expect(l, &places[i], &load);
        cost_time(c, l, &places[i], &load, &time);
        t->by[COST_BY_GPU] += time.attention.gpu;
        t->by[COST_BY_CPU] += time.attention.cpu;
        for (int p = 0; p < PLAN_PARTS; p++) {
            const struct cost_phase *f = &time.part[p];
            t->by[f->disk > fmax(f->gpu, f->cpu) ? COST_BY_DISK
                  : f->gpu > f->cpu              ? COST_BY_GPU
                                                 : COST_BY_CPU] += f->time;
            t->reads += load.read[p][PLAN_DISK] * (double)l->part[p].bytes;
        }
        if (places[i].attention == PLAN_DISK && i < c->layers) t->reads += (double)l->attention_bytes;
        t->by[COST_BY_SYNC] += time.sync;
        if (time.reads > time.compute) t->by[COST_BY_DISK] += time.reads - time.compute;
    }
}

static int one_time(double *out, const struct plan *p, const struct plan_model *m,
                    const struct machine *machine, uint32_t position, enum cost_estimate estimate,
                    struct err *e)
{
    struct cost c;
    struct cost_settings cs = cost_settings(&p->settings, position, estimate);
    int r = cost_make(&c, m, machine, &cs, e);
    if (r) return r;
    *out = token_time(&c, p->place);
    cost_finish(&c);
    return 0;
}

static int times(struct plan *p, const struct plan_model *m, const struct machine *machine,
                 const struct cost *c, struct err *e)
{
    const struct plan_settings *s = &p->settings;
    struct err why = {0};
    p->time.token = token_time(c, p->place);
    limits(c, p->place, &p->time);
    double prompt = cost_prompt(c, p->place, s->prompt, s->memory.batch, s->listed, &why);
    p->time.first = prompt; /* its last token's logits are the first token's */
    int r = one_time(&p->time.low, p, m, machine, s->position, COST_LOW, e);
    if (r == 0) r = one_time(&p->time.high, p, m, machine, s->position, COST_HIGH, e);
    if (r == 0) r = one_time(&p->time.token_full, p, m, machine, s->memory.context, COST_MEDIAN, e);
    return r;
}

static void fill_in(struct plan *p, const struct cost *c)
{
    p->gpu = false;
    for (int t = 0; t < PLAN_TIERS; t++) {
        p->used[t] = 0;
        for (uint32_t i = 0; i < c->entries; i++)
            p->used[t] += cost_bytes(&c->layer[i], &p->place[i], (enum plan_tier)t);
    }
    for (uint32_t i = 0; i < c->entries; i++) p->gpu |= cost_uses_gpu(&c->layer[i], &p->place[i]);
    p->disk = p->used[PLAN_DISK] > 0;
    p->degraded = p->disk;
    char size[32];
    if (p->disk)
        snprintf(p->degraded_why, sizeof p->degraded_why,
                 "%s of the weights stay on disk: RAM%s is too small",
                 size_format(p->used[PLAN_DISK], size, sizeof size), p->gpu ? " with VRAM" : "");
    if (c->gpu && !p->gpu && !p->settings.no_gpu) {
        p->degraded = true;
        size_t n = strlen(p->degraded_why);
        snprintf(p->degraded_why + n, sizeof p->degraded_why - n, "%sthe GPU is left unused: %s",
                 n ? "; " : "",
                 ledger_vram_left(&p->ledger) ? "what fits on it would not be faster"
                                              : "its buffers alone do not fit the VRAM allowed");
    }
    snprintf(p->notes, sizeof p->notes, "%s", c->notes);
}

/* ---- Alternatives ---- */

static void other(struct plan *p, enum plan_rule rule, const struct solver *s,
                  const struct cost_place *places, bool fits)
{
    if (fits && solver_fits(s, places)) record(p, rule, s->c, solver_time(s, places), places);
}

/* What others would make of the same machine. By layer: every neuron, as dense engines do. */
static int compare(struct job *j, const struct machine *machine)
{
    struct plan *p = j->p;
    bool gpu = j->c->gpu && !p->settings.no_gpu, disk = j->c->disk && !p->settings.no_disk;
    struct plan_model *dense = NULL;
    struct cost c = {0};
    struct cost_settings cs = cost_settings(&p->settings, p->settings.position, COST_MEDIAN);
    int r = plan_model_in_mode(&dense, j->m, PLAN_DENSE, j->e);
    if (r == 0) r = cost_make(&c, dense, machine, &cs, j->e);
    for (int way = 0; way < 2 && r == 0; way++) { /* without the disk where that fits */
        struct solver s;
        if ((way && !disk) || (way && !isnan(p->others[PLAN_BY_LAYER]))) break;
        r = solver_init(&s, &c, gpu, way, j->e);
        if (r) break;
        capacities(p, &s, gpu, way);
        other(p, PLAN_BY_LAYER, &s, j->places, solver_by_layer(&s, j->places));
        solver_finish(&s);
    }
    for (int way = 0; way < 2 && r == 0; way++) {
        struct solver s;
        if ((way && !disk) || (way && !isnan(p->others[PLAN_BY_FREQUENCY]))) break;
        r = solver_init(&s, j->c, gpu, way, j->e);
        if (r) break;
        capacities(p, &s, gpu, way);
        other(p, PLAN_BY_FREQUENCY, &s, j->places, solver_by_frequency(&s, j->m, j->places, j->e));
        solver_finish(&s);
    }
    record(p, PLAN_BEST, j->c, p->time.token, p->place);
    cost_finish(&c);
    plan_model_destroy(&dense);
    return r;
}

/* ---- Plans ---- */

static int check(const struct plan_settings *s, const struct plan_model *m, struct err *e)
{
    if (!s->memory.context || !s->memory.batch || !s->memory.threads || !s->prompt)
        return err_set(e, ERR_ARG, "context %u, batch %u, threads %u, prompt %u: each has to be at least 1",
                       s->memory.context, s->memory.batch, s->memory.threads, s->prompt);
    if (s->position > s->memory.context)
        return err_set(e, ERR_ARG, "position %u is beyond the context of %u", s->position, s->memory.context);
    if (!(s->disk_ratio >= 1 && s->disk_ratio < 100))
        return err_set(e, ERR_ARG, "a compression ratio of %g: expected 1 or more", s->disk_ratio);
    if (s->unit > m->neurons)
        return err_set(e, ERR_ARG, "steps of %u neurons: a layer has %u", s->unit, m->neurons);
    return 0;
}

int plan_solve(struct plan **out, const struct plan_model *m, const struct machine *machine,
               const struct plan_settings *settings, struct err *e)
{
    *out = NULL;
    struct plan *p = calloc(1, sizeof *p);
    struct cost c = {0};
    struct job j = {.m = m, .p = p, .c = &c, .best = INFINITY, .bound = INFINITY, .e = e};
    int r = p ? check(settings, m, e) : err_set(e, ERR_NOMEM, "no memory for a plan");
    if (r) goto fail;
    p->settings = *settings;
    resolve(&p->settings, m);
    p->layers = m->layers;
    p->neurons = m->neurons;
    p->unit = p->settings.unit;
    p->machine = machine_identity(machine);
    snprintf(p->machine_name, sizeof p->machine_name, "%s", machine->name);
    if ((r = ledger_make(&p->ledger, m, machine, &p->settings.memory, e))) goto fail;
    struct cost_settings cs = cost_settings(&p->settings, p->settings.position, COST_MEDIAN);
    if ((r = cost_make(&c, m, machine, &cs, e))) goto fail;
    p->place = calloc(c.entries, sizeof *p->place);
    j.places = calloc(2 * (size_t)c.entries, sizeof *j.places);
    j.over = j.places + c.entries;
    if (!p->place || !j.places) {
        r = err_set(e, ERR_NOMEM, "no memory for a plan of %u layers", m->layers);
        goto fail;
    }
    r = search_all(&j, c.gpu && !p->settings.no_gpu);
    if (r == 0 && j.best == INFINITY) r = impossible(p, m, machine, e);
    if (r) goto fail;
    fill_in(p, &c);
    if ((r = times(p, m, machine, &c, e))) goto fail;
    /* Rounding apart, a bound above the plan's own time is a mistake that has to show. */
    bool rounding = j.bound > p->time.token && j.bound <= p->time.token * (1 + 1e-9);
    p->bound = rounding ? p->time.token : j.bound;
    if ((r = compare(&j, machine))) goto fail;
    free(j.places);
    cost_finish(&c);
    *out = p;
    return 0;
fail:
    free(j.places);
    cost_finish(&c);
    plan_destroy(&p);
    return r;
}

int plan_evaluate(struct plan *p, const struct plan_model *m, const struct machine *machine, struct err *e)
{
    struct cost c;
    int r = ledger_make(&p->ledger, m, machine, &p->settings.memory, e);
    if (r) return r;
    struct cost_settings cs = cost_settings(&p->settings, p->settings.position, COST_MEDIAN);
    if ((r = cost_make(&c, m, machine, &cs, e))) return r;
    fill_in(p, &c);
    r = times(p, m, machine, &c, e);
    cost_finish(&c);
    return r;
}

void plan_destroy(struct plan **pp)
{
    if (!pp || !*pp) return;
    free((*pp)->place);
    free(*pp);
    *pp = NULL;
}

void plan_range(const struct plan *p, uint32_t layer, enum plan_part part, uint32_t *gpu, uint32_t *ram)
{
    uint64_t g = (uint64_t)p->place[layer].part[part].gpu * p->unit,
             r = (uint64_t)p->place[layer].part[part].ram * p->unit;
    *gpu = g < p->neurons ? (uint32_t)g : p->neurons;
    *ram = r < p->neurons ? (uint32_t)r : p->neurons;
}

double plan_coverage(const struct plan *p, const struct plan_model *m, int64_t layer, enum plan_tier tier,
                     bool held_out)
{
    double inside = 0, all = 0;
    uint32_t first = layer < 0 ? 0 : (uint32_t)layer, last = layer < 0 ? p->layers : first + 1;
    for (uint32_t i = first; i < last; i++) {
        const float *f = held_out ? m->layer[i].held_out : m->layer[i].frequency;
        uint32_t gpu, ram;
        if (!f) return NAN;
        plan_range(p, i, PLAN_UPDOWN, &gpu, &ram);
        for (uint32_t k = 0; k < p->neurons; k++) {
            enum plan_tier at = k < gpu ? PLAN_GPU : k < ram ? PLAN_RAM : PLAN_DISK;
            all += (double)f[k];
            if (at == tier) inside += (double)f[k];
        }
    }
    return all > 0 ? inside / all : NAN;
}

void plan_memory_of(const struct plan *p, struct plan_memory *out)
{
    const struct ledger *l = &p->ledger;
    *out = (struct plan_memory){0};
    for (uint32_t i = 0; i < p->layers; i++) out->kv[p->place[i].kv] += l->kv_layer;
    for (int t = 0; t < PLAN_TIERS; t++) out->weights[t] = p->used[t] - out->kv[t];
    out->total[PLAN_DISK] = p->used[PLAN_DISK];
    out->total[PLAN_RAM] = p->used[PLAN_RAM] + l->process + l->compute + l->loading + l->ram_margin +
                           (p->gpu ? l->staging : 0) + (p->disk ? l->reading : 0);
    if (p->gpu)
        out->total[PLAN_GPU] =
            p->used[PLAN_GPU] + l->reserved + l->gpu_compute + l->gpu_staging + l->vram_margin;
}
