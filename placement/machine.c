/* Machines: rates off curves, the identity, and the bounds that every machine keeps, however it came about.
 */
#include "placement/machine_priv.h"

#include "base/err.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY /* a state without an allocation */
#include <xxhash.h>

void machine_add_note(struct machine *m, const char *what, const char *how, ...)
{
    if (m->n_notes == MACHINE_NOTES) return;
    struct machine_note *n = &m->note[m->n_notes++];
    snprintf(n->what, sizeof n->what, "%s", what);
    va_list ap;
    va_start(ap, how);
    vsnprintf(n->how, sizeof n->how, how, ap);
    va_end(ap);
}

const struct machine_kernel *machine_kernel(const struct machine *m, enum dtype type)
{
    for (uint32_t i = 0; i < m->n_kernels; i++)
        if (m->kernel[i].type == type) return &m->kernel[i];
    return NULL;
}

/* ---- Curves ---- */

static int by_depth_and_x(const void *a, const void *b)
{
    const struct machine_point *p = a, *q = b;
    if (p->depth != q->depth) return p->depth < q->depth ? -1 : 1;
    return p->x == q->x ? 0 : p->x < q->x ? -1 : 1;
}

void machine_sort_curve(struct machine_curve *c)
{
    qsort(c->at, c->n, sizeof *c->at, by_depth_and_x);
}

/* Between (x0, y0) and (x1, y1) on a double logarithmic scale, x0 ≤ x ≤ x1. */
static double between(double x0, double y0, double x1, double y1, double x)
{
    if (!(x1 > x0)) return y1;
    return y0 * pow(y1 / y0, log(x / x0) / log(x1 / x0));
}

/* Among the n points of one depth. */
static double rate_at(const struct machine_point *p, uint32_t n, uint64_t x)
{
    uint32_t i = 0;
    while (i < n && p[i].x < x) i++;
    if (i == n) return p[n - 1].rate.value;
    if (i == 0 || p[i].x == x) return p[i].rate.value;
    return between((double)p[i - 1].x, p[i - 1].rate.value, (double)p[i].x, p[i].rate.value, (double)x);
}

double machine_rate(const struct machine_curve *c, uint64_t x, uint32_t depth)
{
    double best = 0, before = 0;
    uint32_t before_depth = 0;
    for (uint32_t i = 0, end; i < c->n; i = end) {
        uint32_t d = c->at[i].depth;
        for (end = i + 1; end < c->n && c->at[end].depth == d; end++) {
        }
        double r = rate_at(&c->at[i], end - i, x);
        if (r > best) best = r;
        if (depth == 0) continue;
        if (d == depth) return r;
        if (d > depth) return before_depth ? between(before_depth, before, d, r, depth) : r;
        before = r;
        before_depth = d;
    }
    return depth && c->n ? before : best;
}

/* ---- Bounds ---- */

struct checker {
    const char *where;
    struct err *e;
};

static int wrong(const struct checker *c, const char *what, const char *expected)
{
    return err_set(c->e, ERR_FORMAT, "'%s': %s: expected %s", c->where, what, expected);
}

/* All of a figure positive, or all of it 0 (not known). */
static int figure(const struct checker *c, const struct machine_figure *f, bool seconds, const char *what)
{
    double most = seconds ? MACHINE_MOST_SECONDS : MACHINE_MOST_RATE;
    /* Rounded to 0 it would read as "not known". */
    double least = seconds ? 0.5e-9 : 0.5;
    if (f->value == 0 && f->low == 0 && f->high == 0 && f->samples == 0) return 0;
    if (f->value >= least && f->value <= most && f->low >= 0 && f->low <= f->value && f->high >= f->value &&
        f->high <= most)
        return 0;
    return wrong(c, what,
                 seconds ? "a time of 1 ns to 10000 s, between its low and its high"
                         : "a rate of 1 to 1e18 a second, between its low and its high");
}

static int curve(const struct checker *c, const struct machine_curve *k, const char *what)
{
    if (k->n > MACHINE_POINTS) return wrong(c, what, "at most 64 points");
    for (uint32_t i = 0; i < k->n; i++) {
        const struct machine_point *p = &k->at[i];
        if (p->x == 0 || p->x > MACHINE_MOST_BYTES || p->depth > 1u << 20)
            return wrong(c, what, "points from 1 to 2^50, depths up to 2^20");
        if (i && by_depth_and_x(p - 1, p) >= 0)
            return wrong(c, what, "each point once, in ascending order of depth and size");
        if (p->rate.value == 0) return wrong(c, what, "a rate at every point");
        int rc = figure(c, &p->rate, false, what);
        if (rc) return rc;
        if (!(p->p50 >= 0) || p->p50 > MACHINE_MOST_SECONDS || !(p->p99 >= 0) ||
            p->p99 > MACHINE_MOST_SECONDS || (p->p99 > 0 && p->p50 > p->p99))
            return wrong(c, what, "latencies of 0 to 10000 s, the 50th percentile up to the 99th");
    }
    return 0;
}

static int node_number(const struct checker *c, const struct machine *m, int node, const char *what)
{
    if (node >= -1 && node < (int)m->nodes) return 0;
    return wrong(c, what, "a memory node of the machine, or -1");
}

static int check_nodes(const struct checker *c, const struct machine *m)
{
    for (uint32_t i = 0; i < m->nodes; i++) {
        if (m->node[i].memory > MACHINE_MOST_BYTES) return wrong(c, "memory of a node", "at most 2^50 bytes");
        if (m->node[i].cores > MACHINE_MOST_CORES) return wrong(c, "cores of a node", "at most 65536");
        for (uint32_t k = 0; k < m->nodes; k++)
            if (m->node[i].distance[k] < 1 || m->node[i].distance[k] > 65535)
                return wrong(c, "distances of a node", "one of 1 to 65535 for every node");
    }
    return 0;
}

static int check_kernels(const struct checker *c, const struct machine *m)
{
    for (uint32_t i = 0; i < m->n_kernels; i++) {
        const struct machine_kernel *k = &m->kernel[i];
        const struct dtype_info *info = dtype_info((uint32_t)k->type);
        if (!info || !info->weights) return wrong(c, "type of a kernel", "a type that weights can have");
        for (uint32_t o = 0; o < i; o++)
            if (m->kernel[o].type == k->type) return wrong(c, "kernels", "each type once");
        int rc;
        if ((rc = figure(c, &k->matvec, false, "a kernel's matvec")) ||
            (rc = figure(c, &k->listed, false, "a kernel's listed")) ||
            (rc = figure(c, &k->down, false, "a kernel's down")) ||
            (rc = figure(c, &k->gemm, false, "a kernel's gemm")))
            return rc;
    }
    return 0;
}

static int check_devices(const struct checker *c, const struct machine *m)
{
    int rc;
    for (uint32_t i = 0; i < m->n_gpus; i++) {
        const struct machine_gpu *g = &m->gpu[i];
        if (g->memory == 0 || g->memory > MACHINE_MOST_BYTES)
            return wrong(c, "memory of a GPU", "1 to 2^50 bytes");
        if (g->reserved > g->memory) return wrong(c, "what a GPU has reserved", "at most its memory");
        if ((rc = node_number(c, m, g->node, "node of a GPU")) ||
            (rc = figure(c, &g->read, false, "a GPU's read")) ||
            (rc = figure(c, &g->scattered, false, "a GPU's scattered")) ||
            (rc = figure(c, &g->gemm, false, "a GPU's gemm")) ||
            (rc = figure(c, &g->pinned, false, "a GPU's pinned")) ||
            (rc = figure(c, &g->pageable, false, "a GPU's pageable")) ||
            (rc = figure(c, &g->launch, true, "a GPU's launch")) ||
            (rc = figure(c, &g->rendezvous, true, "a GPU's rendezvous")))
            return rc;
    }
    for (uint32_t i = 0; i < m->n_disks; i++) {
        const struct machine_disk *d = &m->disk[i];
        if (d->read.n == 0) return wrong(c, "a disk's read", "at least one point");
        if ((rc = node_number(c, m, d->node, "node of a disk")) || (rc = curve(c, &d->read, "a disk's read")))
            return rc;
    }
    return 0;
}

int machine_check(const struct machine *m, bool whole, const char *where, struct err *e)
{
    const struct checker c = {where, e};
    int rc;
    if (m->nodes > MACHINE_NODES || m->n_gpus > MACHINE_GPUS || m->n_disks > MACHINE_DISKS ||
        m->n_kernels > DT_COUNT || m->n_notes > MACHINE_NOTES)
        return wrong(&c, "numbers of nodes, GPUs, disks, kernels", "at most 16, 8, 4, 40");
    if (whole && (m->cores == 0 || m->memory == 0))
        return wrong(&c, "a machine", "cores and memory, at least one core and one byte");
    if (m->cores > MACHINE_MOST_CORES) return wrong(&c, "cores", "at most 65536");
    if (m->packages > m->cores) return wrong(&c, "packages", "at most as many as cores");
    if (m->performance_cores > m->cores) return wrong(&c, "performance cores", "at most as many as cores");
    if (m->threads > MACHINE_MOST_CORES || (whole && m->threads == 0))
        return wrong(&c, "threads", "1 to 65536");
    if (m->memory > MACHINE_MOST_BYTES || m->last_level_cache > MACHINE_MOST_BYTES)
        return wrong(&c, "memory", "at most 2^50 bytes");
    if (m->memory_free > m->memory) return wrong(&c, "free memory", "at most the memory");
    if ((rc = check_nodes(&c, m)) || (rc = curve(&c, &m->stream, "stream")) ||
        (rc = curve(&c, &m->scattered, "scattered")) || (rc = figure(&c, &m->barrier, true, "barrier")) ||
        (rc = check_kernels(&c, m)) || (rc = figure(&c, &m->unzstd, false, "unzstd")))
        return rc;
    return check_devices(&c, m);
}

/* ---- Identity ---- */

/* Everything is hashed as whole numbers in the units of the file, so that writing and reading change nothing,
 * and byte by byte from the lowest, so that machines agree on it. */
static void mix(XXH3_state_t *h, uint64_t v)
{
    unsigned char b[8];
    for (int i = 0; i < 8; i++) b[i] = (unsigned char)(v >> (8 * i));
    XXH3_64bits_update(h, b, sizeof b);
}

static void mix_rate(XXH3_state_t *h, const struct machine_figure *f)
{
    mix(h, (uint64_t)llround(f->value));
}

static void mix_time(XXH3_state_t *h, double seconds)
{
    mix(h, (uint64_t)llround(seconds * 1e9));
}

static void mix_curve(XXH3_state_t *h, const struct machine_curve *c)
{
    mix(h, c->n);
    for (uint32_t i = 0; i < c->n; i++) {
        mix(h, c->at[i].x);
        mix(h, c->at[i].depth);
        mix_rate(h, &c->at[i].rate);
        mix_time(h, c->at[i].p50);
        mix_time(h, c->at[i].p99);
    }
}

uint64_t machine_identity(const struct machine *m)
{
    XXH3_state_t state, *h = &state;
    XXH3_INITSTATE(h);
    XXH3_64bits_reset(h);
    mix(h, MACHINE_VERSION);
    const uint64_t plain[] = {m->packages,         m->cores, m->performance_cores, m->threads, m->memory,
                              m->last_level_cache, m->nodes};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) mix(h, plain[i]);
    for (uint32_t i = 0; i < m->nodes; i++) {
        mix(h, m->node[i].memory);
        mix(h, m->node[i].cores);
        for (uint32_t k = 0; k < m->nodes; k++) mix(h, m->node[i].distance[k]);
    }
    mix_curve(h, &m->stream);
    mix_curve(h, &m->scattered);
    mix_time(h, m->barrier.value);
    mix(h, m->n_kernels);
    for (uint32_t i = 0; i < m->n_kernels; i++) {
        const struct machine_kernel *k = &m->kernel[i];
        mix(h, (uint64_t)k->type);
        mix_rate(h, &k->matvec);
        mix_rate(h, &k->listed);
        mix_rate(h, &k->down);
        mix_rate(h, &k->gemm);
    }
    mix_rate(h, &m->unzstd);
    mix(h, m->n_gpus);
    for (uint32_t i = 0; i < m->n_gpus; i++) {
        const struct machine_gpu *g = &m->gpu[i];
        mix(h, (uint64_t)(int64_t)g->node);
        mix(h, g->memory);
        mix(h, g->reserved);
        mix_rate(h, &g->read);
        mix_rate(h, &g->scattered);
        mix_rate(h, &g->gemm);
        mix_rate(h, &g->pinned);
        mix_rate(h, &g->pageable);
        mix_time(h, g->launch.value);
        mix_time(h, g->rendezvous.value);
    }
    mix(h, m->n_disks);
    for (uint32_t i = 0; i < m->n_disks; i++) {
        mix(h, (uint64_t)(int64_t)m->disk[i].node);
        mix(h, m->disk[i].direct);
        mix_curve(h, &m->disk[i].read);
    }
    return XXH3_64bits_digest(h);
}
