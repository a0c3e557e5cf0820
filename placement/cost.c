/* The cost model: see cost.h. First the rates that a model meets on a machine, then times under a placement.
 */
#include "placement/cost.h"

#include "base/checked.h"
#include "base/err.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Blocks in which what is read whole comes from the disk, and what an O_DIRECT read is a multiple of. */
enum { WHOLE_BLOCK = 1 << 20, DISK_PAGE = 4096 };

/* ---- Figures ---- */

struct maker {
    struct cost *c;
    const struct plan_model *m;
    const struct machine *machine;
    const struct cost_settings *s;
    double lists; /* factor on the time of lists: several memory nodes */
    char missing[512];
};

static double pick(const struct maker *k, const struct machine_figure *f, bool rate)
{
    if (k->s->estimate == COST_MEDIAN || !(f->low > 0) || !(f->high > 0)) return f->value;
    return (k->s->estimate == COST_LOW) == rate ? f->high : f->low;
}

static double curve(const struct maker *k, const struct machine_curve *c, uint64_t x, uint32_t depth)
{
    if (k->s->estimate == COST_MEDIAN) return machine_rate(c, x, depth);
    struct machine_curve other = *c;
    for (uint32_t i = 0; i < other.n && i < MACHINE_POINTS; i++)
        other.at[i].rate.value = pick(k, &c->at[i].rate, true);
    return machine_rate(&other, x, depth);
}

static void add_line(char *to, size_t size, const char *between, const char *text)
{
    if (strstr(to, text)) return;
    size_t n = strlen(to);
    snprintf(to + n, size - n, "%s%s", n ? between : "", text);
}

__attribute__((format(printf, 2, 3))) static void note(struct maker *k, const char *fmt, ...)
{
    char line[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    add_line(k->c->notes, sizeof k->c->notes, "\n", line);
}

/* Seconds for one unit of a rate that has to be there. */
static double needed(struct maker *k, double rate, const char *what)
{
    if (rate > 0 && isfinite(rate)) return 1 / rate;
    add_line(k->missing, sizeof k->missing, ", ", what);
    return 0;
}

enum kernel_use { MATVEC, LISTED, DOWN, GEMM };

/* Rate of a kernel on all threads; 0 where nothing is known. */
static double kernel_rate(struct maker *k, enum dtype type, enum kernel_use use)
{
    const struct machine_kernel *f = machine_kernel(k->machine, type);
    double v = 0;
    if (f) {
        v = pick(k,
                 use == GEMM     ? &f->gemm
                 : use == DOWN   ? &f->down
                 : use == LISTED ? &f->listed
                                 : &f->matvec,
                 true);
        if (!(v > 0) && use != GEMM) v = pick(k, &f->matvec, true);
    }
    if (!(v > 0) && use != GEMM)
        note(k, "no kernel rate for %s: memory alone is taken to limit it", dtype_name((uint32_t)type));
    return v > 0 ? v * k->s->threads : 0;
}

/* Seconds a byte of rows one after the other. */
static double whole_byte(struct maker *k, enum dtype type)
{
    double rate = kernel_rate(k, type, MATVEC), kernel = rate > 0 ? 1 / rate : 0;
    return fmax(k->c->stream, kernel);
}

/* Seconds a byte that memory needs for listed rows of `row` bytes, of which the share `density` is read. */
static double list_byte(struct maker *k, uint64_t row, double density)
{
    double rate = curve(k, &k->machine->scattered, row, 0);
    if (!(rate > 0)) {
        note(k, "no rates for scattered rows: lists are taken to stream");
        return k->c->stream * k->lists;
    }
    /* The curve was measured with every eighth row. */
    double dense = fmin(1, fmax(0, (density - 0.125) / 0.875)), scattered = fmax(1 / rate, k->c->stream);
    return ((1 - dense) * scattered + dense * k->c->stream) * k->lists;
}

/* Mean distance between a core and a byte, local = 1. */
static double node_factor(const struct machine *m)
{
    double sum = 0, weight = 0;
    uint32_t n = m->nodes < MACHINE_NODES ? m->nodes : MACHINE_NODES;
    for (uint32_t i = 0; n > 1 && i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            double w = (double)m->node[i].cores * (double)m->node[j].memory;
            uint32_t distance = m->node[i].distance[j] ? m->node[i].distance[j] : 10;
            sum += w * distance / 10;
            weight += w;
        }
    return weight > 0 ? sum / weight : 1;
}

/* ---- Disk ---- */

static double disk_request(struct maker *k, uint64_t bytes)
{
    const struct machine_disk *d = &k->machine->disk[0];
    double stored = (double)bytes / k->s->disk_ratio;
    uint64_t block = ((uint64_t)ceil(stored) + DISK_PAGE - 1) / DISK_PAGE * DISK_PAGE;
    double t = (double)block * needed(k, curve(k, &d->read, block, 0), "disk read rate");
    if (k->s->zstd)
        t = fmax(t, (double)bytes *
                        needed(k, pick(k, &k->machine->unzstd, true) * k->s->threads, "zstd decode rate"));
    return t;
}

static void make_disk(struct maker *k)
{
    struct cost *c = k->c;
    c->disk = k->machine->n_disks > 0 && k->machine->disk[0].read.n > 0;
    if (!c->disk) return;
    c->read_whole =
        needed(k, curve(k, &k->machine->disk[0].read, WHOLE_BLOCK, 0), "disk read rate") / k->s->disk_ratio;
    if (k->s->zstd)
        c->read_whole = fmax(
            c->read_whole, needed(k, pick(k, &k->machine->unzstd, true) * k->s->threads, "zstd decode rate"));
}

/* ---- Layers ---- */

static double gpu_byte(struct maker *k, bool listed)
{
    const struct machine_gpu *g = &k->machine->gpu[0];
    double whole = pick(k, &g->read, true), rows = pick(k, &g->scattered, true);
    if (listed && !(rows > 0)) {
        note(k, "no rate for scattered rows on the GPU: lists are taken to stream");
        rows = whole;
    }
    return needed(k, listed ? rows : whole, "GPU memory read rate");
}

static double operation(struct maker *k, enum dtype type)
{
    double rate = kernel_rate(k, type, GEMM);
    if (!(rate > 0)) note(k, "no product rate for %s: no time to first token", dtype_name((uint32_t)type));
    return rate > 0 ? 1 / rate : 0;
}

static void make_attention(struct maker *k, struct cost_layer *l, const struct plan_matrix *const *w, int n,
                           uint64_t bytes)
{
    double values = 0, time = 0;
    l->attention_bytes = bytes;
    for (int i = 0; i < n; i++) {
        double v = (double)w[i]->rows * (double)w[i]->n;
        l->attention[PLAN_RAM] += (double)w[i]->bytes * whole_byte(k, w[i]->type);
        l->operations += 2 * v;
        time += 2 * v * operation(k, w[i]->type);
        values += v;
    }
    l->cpu_operation = values > 0 ? time / (2 * values) : 0;
    if (k->c->gpu)
        l->attention[PLAN_GPU] = (double)bytes * gpu_byte(k, false) + COST_GPU_ATTENTION * k->c->launch;
    l->attention[PLAN_DISK] = (double)bytes * k->c->read_whole;
}

/* Expected reads among the hottest k units. A neuron that does not fire is a candidate by the chance that
 * makes their mean right. */
static void make_load(const struct plan_layer *pl, const struct cost_layer *l, uint32_t unit, bool whole,
                      bool screened, double *load)
{
    double active = pl->active / l->neurons, sum = 0;
    double chance = active < 1 ? fmax(0, pl->candidates - active) / (1 - active) : 0;
    load[0] = 0;
    for (uint32_t i = 0; i < l->neurons; i++) {
        double f = (double)pl->frequency[i];
        sum += whole ? 1 : screened ? f + (1 - f) * chance : f;
        if ((i + 1) % unit == 0 || i + 1 == l->neurons) load[i / unit + 1] = sum;
    }
}

static void make_part(struct maker *k, const struct plan_layer *pl, struct cost_layer *l, enum plan_part p)
{
    struct cost *c = k->c;
    struct cost_part *t = &l->part[p];
    const struct plan_matrix *gate = pl->gate.rows ? &pl->gate : &pl->up;
    t->bytes = pl->row[p];
    if (!t->bytes) return;
    double bytes = (double)t->bytes, d = k->m->width;
    double density = p == PLAN_UPDOWN ? pl->active / l->neurons : pl->candidates;
    t->listed = p == PLAN_UPDOWN || (p == PLAN_GATE && pl->row[PLAN_SCREEN]);
    if (p == PLAN_UPDOWN) {
        bool dense = k->m->mode == PLAN_DENSE; /* matrices as in the file, rows one after the other */
        double up = pl->up_row ? kernel_rate(k, pl->up.type, dense ? MATVEC : LISTED) : 0;
        double down = dense ? kernel_rate(k, pl->down.type, MATVEC) : kernel_rate(k, pl->down_type, DOWN);
        double byte = list_byte(k, t->bytes, density);
        /* Up and down follow one another: each has its own limit. Rates of down are in bytes of rows as the
         * type stores them, whatever the layout takes. */
        uint64_t row = pl->down_row;
        (void)dtype_row_bytes((uint32_t)(dense ? pl->down.type : pl->down_type), k->m->width, &row);
        t->cpu = fmax((double)pl->up_row * byte, up > 0 ? (double)pl->up_row / up : 0) +
                 fmax((double)pl->down_row * byte, down > 0 ? (double)row / down : 0);
        t->shared = pl->shared;
        t->group = pl->share_group;
        t->shared_cpu = (double)pl->shared * k->c->stream * k->lists;
        double up_values = pl->up_row ? d : 0, time = up_values * operation(k, pl->up.type);
        time += d * operation(k, pl->down.type);
        t->operations = 2 * (up_values + d);
        t->cpu_operation = time / (up_values + d);
    } else {
        double rate = kernel_rate(k, gate->type, t->listed ? LISTED : MATVEC);
        double memory = t->listed ? list_byte(k, t->bytes, density) : c->stream;
        t->cpu = bytes * fmax(memory, rate > 0 ? 1 / rate : 0);
        /* The prompt multiplies whole gates; that they lie in two planes is counted once. */
        t->operations = p == PLAN_GATE ? 2 * d : 0;
        t->cpu_operation = p == PLAN_GATE ? operation(k, gate->type) : 0;
    }
    if (c->gpu) {
        t->gpu = bytes * gpu_byte(k, t->listed);
        t->shared_gpu = (double)pl->shared * gpu_byte(k, false) * (p == PLAN_UPDOWN);
    }
    if (c->disk) t->disk = t->listed ? disk_request(k, t->bytes) : bytes * c->read_whole;
    make_load(pl, l, c->unit, !t->listed, p == PLAN_GATE && t->listed, t->load);
}

static void make_kv(struct maker *k, struct cost_layer *l)
{
    const struct plan_model *m = k->m;
    uint64_t bytes = plan_model_kv(m, k->s->kv, k->s->position ? k->s->position : 1);
    l->kv_bytes = plan_model_kv(m, k->s->kv, k->s->context);
    l->kv[PLAN_RAM] = (double)bytes * whole_byte(k, k->s->kv);
    if (k->c->gpu) l->kv[PLAN_GPU] = (double)bytes * gpu_byte(k, false);
}

static int allocate(struct cost *c, const struct plan_model *m, struct err *e)
{
    uint32_t units = (m->neurons + c->unit - 1) / c->unit;
    uint64_t n;
    c->layer = calloc(c->entries, sizeof *c->layer);
    if (!checked_mul((uint64_t)units + 1, (uint64_t)m->layers * PLAN_PARTS * sizeof(double), &n) ||
        !c->layer || !(c->memory = malloc(n)))
        return err_set(e, ERR_NOMEM, "no memory for the cost model of %u layers", m->layers);
    double *at = c->memory;
    for (uint32_t i = 0; i < m->layers; i++) {
        c->layer[i].neurons = m->neurons;
        c->layer[i].units = units;
        c->layer[i].unit = c->unit;
        for (int p = 0; p < PLAN_PARTS; p++, at += units + 1) c->layer[i].part[p].load = at;
    }
    return 0;
}

static int make_ends(struct maker *k)
{
    struct cost *c = k->c;
    const struct plan_model *m = k->m;
    struct cost_layer *out = &c->layer[c->layers], *embedding = &c->layer[c->layers + 1];
    make_attention(k, out, (const struct plan_matrix *[]){&m->output}, 1, m->output.bytes);
    /* The embedding gives one row a token; where it is the output's matrix too, its copy in RAM may go. */
    uint64_t row = m->embedding.bytes / m->embedding.rows;
    embedding->attention_bytes = m->embedding.bytes;
    embedding->attention[PLAN_RAM] = (double)row * c->stream;
    if (c->gpu) embedding->attention[PLAN_GPU] = INFINITY; /* not placed there: one row is not worth it */
    if (c->disk) embedding->attention[PLAN_DISK] = disk_request(k, row);
    return 0;
}

int cost_make(struct cost *c, const struct plan_model *m, const struct machine *machine,
              const struct cost_settings *s, struct err *e)
{
    *c = (struct cost){.layers = m->layers, .entries = m->layers + 2, .unit = s->unit};
    struct maker k = {.c = c, .m = m, .machine = machine, .s = s, .lists = node_factor(machine)};
    if (!s->unit || !s->threads || !(s->disk_ratio > 0))
        return err_set(e, ERR_ARG, "steps of %u neurons, %u threads, a ratio of %g: each has to be positive",
                       s->unit, s->threads, s->disk_ratio);
    int r = allocate(c, m, e);
    if (r) goto fail;
    c->stream = needed(&k, curve(&k, &machine->stream, s->threads, 0), "memory read rate (stream)");
    c->barrier = pick(&k, &machine->barrier, false);
    if (!(c->barrier > 0)) note(&k, "no barrier time: meetings of threads are taken to cost nothing");
    c->gpu = machine->n_gpus > 0;
    if (c->gpu) {
        const struct machine_gpu *g = &machine->gpu[0];
        c->launch = pick(&k, &g->launch, false);
        if (!(c->launch > 0)) note(&k, "no launch time: starting a kernel is taken to cost nothing");
        c->rendezvous = pick(&k, &g->rendezvous, false);
        if (!(c->rendezvous > 0)) add_line(k.missing, sizeof k.missing, ", ", "GPU rendezvous time");
        double gemm = pick(&k, &g->gemm, true), pinned = pick(&k, &g->pinned, true);
        c->gpu_operation = gemm > 0 ? 1 / gemm : 0;
        c->pinned = pinned > 0 ? 1 / pinned : 0;
        if (!(pinned > 0)) note(&k, "no host-to-device rate: prompts do not stream weights to the GPU");
        if (c->pinned > 0 && g->node >= 0 && (uint32_t)g->node < machine->nodes && machine->nodes > 1) {
            /* Weights lie on all nodes, the card hangs on one. */
            double sum = 0, all = 0;
            for (uint32_t j = 0; j < machine->nodes && j < MACHINE_NODES; j++) {
                sum += (double)machine->node[j].memory * machine->node[g->node].distance[j] / 10;
                all += (double)machine->node[j].memory;
            }
            if (all > 0 && sum > all) c->pinned *= sum / all;
        }
    }
    make_disk(&k);
    for (uint32_t i = 0; i < m->layers; i++) {
        const struct plan_layer *pl = &m->layer[i];
        struct cost_layer *l = &c->layer[i];
        make_attention(&k, l, (const struct plan_matrix *[]){&pl->q, &pl->k, &pl->v, &pl->o}, 4,
                       pl->attention);
        make_kv(&k, l);
        for (int p = 0; p < PLAN_PARTS; p++) make_part(&k, pl, l, (enum plan_part)p);
    }
    make_ends(&k);
    if (k.missing[0]) {
        r = err_set(e, ERR_UNSUPPORTED,
                    "the machine '%s' lacks what a prediction needs: %s (`calor probe` measures it)",
                    machine->name, k.missing);
        goto fail;
    }
    return 0;
fail:
    cost_finish(c);
    return r;
}

void cost_finish(struct cost *c)
{
    free(c->layer);
    free(c->memory);
    c->layer = NULL;
    c->memory = NULL;
}

/* ---- Times ---- */

/* Share of what neighbours share that has to be read where `active` of `neurons` fire on this side. */
static double touched(const struct cost_layer *l, const struct cost_part *t, double active)
{
    double share = active / l->neurons;
    return share >= 1 ? 1 : 1 - pow(1 - share, (double)t->group);
}

double cost_gpu_share(const struct cost *c, const struct cost_layer *l, enum plan_part p, double read)
{
    const struct cost_part *t = &l->part[p];
    double time = read * t->gpu + COST_GPU_PART * c->launch;
    return t->shared ? time + t->shared_gpu * touched(l, t, read) : time;
}

double cost_cpu_share(const struct cost *c, const struct cost_layer *l, enum plan_part p, double read)
{
    const struct cost_part *t = &l->part[p];
    double time = read * t->cpu + (COST_CPU_PART + (p == PLAN_UPDOWN ? COST_CPU_FFN : 0)) * c->barrier;
    return t->shared ? time + t->shared_cpu * touched(l, t, read) : time;
}

void cost_expect(const struct cost_layer *l, const struct cost_place *p, struct cost_load *out)
{
    *out = (struct cost_load){0};
    for (int i = 0; i < PLAN_PARTS; i++) {
        const struct cost_part *t = &l->part[i];
        if (!t->bytes) continue;
        double gpu = t->load[p->part[i].gpu], ram = t->load[p->part[i].ram];
        out->read[i][PLAN_GPU] = gpu;
        out->read[i][PLAN_RAM] = ram - gpu;
        out->read[i][PLAN_DISK] = t->load[l->units] - ram;
    }
}

enum side { NEITHER = 0, ON_GPU = 1, ON_CPU = 2, BOTH = 3 };

static int sides(const struct cost_layer *l, const struct cost_place *p, int part)
{
    if (!l->part[part].bytes) return NEITHER;
    return (p->part[part].gpu > 0 ? ON_GPU : 0) | (p->part[part].gpu < l->units ? ON_CPU : 0);
}

int cost_crossings(const struct cost_layer *l, const struct cost_place *p)
{
    int own = p->attention == PLAN_GPU ? ON_GPU : ON_CPU, n = 0, first = PLAN_SCREEN;
    if (l->kv_bytes && (p->kv == PLAN_GPU) != (own == ON_GPU)) n += 2; /* q there, the result back */
    if (!l->units) return n;
    if (!l->part[PLAN_SCREEN].bytes) first = PLAN_GATE;
    n += sides(l, p, first) != own; /* x */
    for (int i = first; i < PLAN_UPDOWN; i++) {
        int a = sides(l, p, i), b = sides(l, p, i + 1);
        n += a == BOTH || a != b; /* lists */
    }
    return n + (sides(l, p, PLAN_UPDOWN) != own); /* the sum comes back */
}

static double most3(double a, double b, double c)
{
    return fmax(a, fmax(b, c));
}

void cost_time(const struct cost *c, const struct cost_layer *l, const struct cost_place *p,
               const struct cost_load *load, struct cost_time *out)
{
    *out = (struct cost_time){0};
    double kv = l->kv_bytes ? l->kv[p->kv] : 0;
    int own = p->attention == PLAN_GPU ? PLAN_GPU : PLAN_RAM;
    double weights = l->attention[own];
    if (p->attention == PLAN_DISK) out->reads += l->attention[PLAN_DISK];
    if (own == PLAN_RAM && l->kv_bytes) weights += COST_CPU_ATTENTION * c->barrier;
    if (own == PLAN_RAM && !l->units) weights += c->barrier;
    out->attention.gpu = (own == PLAN_GPU ? weights : 0) + (p->kv == PLAN_GPU ? kv : 0);
    out->attention.cpu = (own == PLAN_RAM ? weights : 0) + (p->kv == PLAN_GPU ? 0 : kv);
    out->attention.time = weights + kv; /* one after the other */
    out->compute = out->attention.time;
    for (int i = 0; i < PLAN_PARTS; i++) {
        const struct cost_part *t = &l->part[i];
        struct cost_phase *f = &out->part[i];
        if (!t->bytes) continue;
        const double *read = load->read[i];
        if (p->part[i].gpu > 0) f->gpu = cost_gpu_share(c, l, (enum plan_part)i, read[PLAN_GPU]);
        if (p->part[i].gpu < l->units)
            f->cpu = cost_cpu_share(c, l, (enum plan_part)i, read[PLAN_RAM] + read[PLAN_DISK]);
        double disk = read[PLAN_DISK] * t->disk;
        if (t->listed) f->disk = disk;
        out->reads += disk;
        f->time = most3(f->gpu, f->cpu, f->disk);
        out->compute += f->time;
    }
    if (c->gpu) out->sync = cost_crossings(l, p) * c->rendezvous;
    out->compute += out->sync;
    out->total = fmax(out->compute, out->reads);
}

double cost_total(const struct cost *c, const struct cost_layer *l, const struct cost_place *p)
{
    struct cost_load load;
    struct cost_time t;
    cost_expect(l, p, &load);
    cost_time(c, l, p, &load, &t);
    return t.total;
}

/* Neurons of the units [from, to): the last unit may be short. */
static uint64_t neurons_of(const struct cost_layer *l, uint32_t from, uint32_t to)
{
    uint64_t a = (uint64_t)from * l->unit, b = (uint64_t)to * l->unit;
    return (b < l->neurons ? b : l->neurons) - (a < l->neurons ? a : l->neurons);
}

uint64_t cost_bytes(const struct cost_layer *l, const struct cost_place *p, enum plan_tier tier)
{
    uint64_t sum = (p->attention == tier ? l->attention_bytes : 0) + (p->kv == tier ? l->kv_bytes : 0);
    for (int i = 0; i < PLAN_PARTS; i++) {
        const struct cost_part *t = &l->part[i];
        uint32_t gpu = p->part[i].gpu, ram = p->part[i].ram;
        if (!t->bytes) continue;
        sum += t->bytes * (tier == PLAN_GPU   ? neurons_of(l, 0, gpu)
                           : tier == PLAN_RAM ? neurons_of(l, gpu, ram)
                                              : neurons_of(l, ram, l->units));
        if (tier == PLAN_GPU ? gpu > 0 : tier == PLAN_RAM && gpu < l->units) sum += t->shared;
    }
    return sum;
}

bool cost_uses_gpu(const struct cost_layer *l, const struct cost_place *p)
{
    bool any = p->attention == PLAN_GPU || (l->kv_bytes && p->kv == PLAN_GPU);
    for (int i = 0; i < PLAN_PARTS; i++) any |= l->part[i].bytes && p->part[i].gpu > 0;
    return any;
}

/* ---- Prompts ---- */

/* One batch of T tokens in one entry. */
static double prompt_step(const struct cost *c, const struct cost_layer *l, const struct cost_place *p,
                          double T)
{
    double gpu = 0, cpu = 0, memory = 0, all = 0;
    uint64_t ram = cost_bytes(l, p, PLAN_RAM), disk = cost_bytes(l, p, PLAN_DISK);
    if (l->kv_bytes && p->kv == PLAN_RAM) ram -= l->kv_bytes;
    all = l->operations;
    if (p->attention == PLAN_GPU)
        gpu = l->operations;
    else
        cpu = l->operations * l->cpu_operation;
    for (int i = 0; i < PLAN_PARTS; i++) {
        const struct cost_part *t = &l->part[i];
        if (!t->bytes) continue;
        double on_gpu = (double)neurons_of(l, 0, p->part[i].gpu), total = (double)l->neurons;
        gpu += on_gpu * t->operations;
        cpu += (total - on_gpu) * t->operations * t->cpu_operation;
        all += total * t->operations;
    }
    memory = (double)(ram + disk) * c->stream;
    double apart = fmax(gpu * T * c->gpu_operation, fmax(cpu * T, memory));
    if (c->gpu && c->gpu_operation > 0 && c->pinned > 0) {
        double together = fmax(all * T * c->gpu_operation, (double)(ram + disk) * c->pinned);
        if (together < apart) apart = together;
    }
    return fmax(apart, (double)disk * c->read_whole);
}

double cost_prompt(const struct cost *c, const struct cost_place *places, uint32_t tokens, uint32_t batch,
                   uint32_t listed, struct err *e)
{
    double sum = 0;
    bool known = !c->gpu || c->gpu_operation > 0;
    for (uint32_t i = 0; i < c->entries; i++) {
        const struct cost_layer *l = &c->layer[i];
        known &= l->operations == 0 || l->cpu_operation > 0;
        for (int p = 0; p < PLAN_PARTS; p++)
            known &= !l->part[p].bytes || l->part[p].operations == 0 || l->part[p].cpu_operation > 0;
    }
    for (uint32_t at = 0; at < tokens;) {
        uint32_t T = tokens - at < batch ? tokens - at : batch;
        if (T > listed && !known) {
            err_set(e, ERR_UNSUPPORTED,
                    "the machine lacks the rates of products (gemm): no time for prompts (`calor probe` "
                    "measures them)");
            return NAN;
        }
        for (uint32_t i = 0; i < c->entries; i++) {
            /* Logits and the embedding's rows: of the last token, and too little to count. */
            bool end = i >= c->layers;
            if (end && at + T < tokens) continue;
            if (end || T <= listed)
                sum += (end ? 1 : T) * cost_total(c, &c->layer[i], &places[i]);
            else
                sum += prompt_step(c, &c->layer[i], &places[i], T);
        }
        at += T;
    }
    return sum;
}
