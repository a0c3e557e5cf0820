/* A machine as a table for people. */
#include "placement/probe.h"

#include "base/size.h"
#include "base/strbuf.h"

#include <stdio.h>
#include <string.h>

/* "13.4 GB/s", and " ±3 %" where it was measured. */
static void rate(struct strbuf *o, const struct machine_figure *f)
{
    if (f->value <= 0) {
        strbuf_puts(o, "           –");
        return;
    }
    strbuf_printf(o, "%7.2f GB/s", f->value * 1e-9);
}

static void spread(struct strbuf *o, const struct machine_figure *f)
{
    if (f->samples) strbuf_printf(o, "  (%.2f to %.2f)", f->low * 1e-9, f->high * 1e-9);
}

static void machine_part(const struct machine *m, struct strbuf *o)
{
    char a[32], b[32];
    strbuf_printf(o, "%s\n", m->name);
    if (m->cpu[0]) strbuf_printf(o, "  processor   %s\n", m->cpu);
    strbuf_printf(o, "  cores       %u", m->cores);
    if (m->performance_cores && m->performance_cores < m->cores)
        strbuf_printf(o, ", %u of them fast", m->performance_cores);
    strbuf_printf(o, ", %u package%s, %u thread%s by default", m->packages, m->packages == 1 ? "" : "s",
                  m->threads, m->threads == 1 ? "" : "s");
    if (m->last_level_cache)
        strbuf_printf(o, ", last cache %s", size_format(m->last_level_cache, a, sizeof a));
    strbuf_printf(o, "\n  memory      %s", size_format(m->memory, a, sizeof a));
    if (m->memory_free) strbuf_printf(o, ", %s free", size_format(m->memory_free, b, sizeof b));
    strbuf_puts(o, "\n");
    for (uint32_t i = 0; i < m->nodes && m->nodes > 1; i++) {
        strbuf_printf(o, "  node %-6u %s, %u cores, distances", i,
                      size_format(m->node[i].memory, a, sizeof a), m->node[i].cores);
        for (uint32_t k = 0; k < m->nodes; k++) strbuf_printf(o, " %u", m->node[i].distance[k]);
        strbuf_puts(o, "\n");
    }
}

static void memory_part(const struct machine *m, struct strbuf *o)
{
    if (m->stream.n) strbuf_puts(o, "\nreading memory\n");
    for (uint32_t i = 0; i < m->stream.n; i++) {
        const struct machine_point *p = &m->stream.at[i];
        strbuf_printf(o, "  end to end, %2llu thread%s ", (unsigned long long)p->x, p->x == 1 ? " " : "s");
        rate(o, &p->rate);
        spread(o, &p->rate);
        strbuf_puts(o, "\n");
    }
    for (uint32_t i = 0; i < m->scattered.n; i++) {
        const struct machine_point *p = &m->scattered.at[i];
        double whole = m->stream.n ? m->stream.at[m->stream.n - 1].rate.value : 0;
        strbuf_printf(o, "  1 row of 8, %5.1f KiB   ", (double)p->x / 1024);
        rate(o, &p->rate);
        if (whole > 0) strbuf_printf(o, "  %3.0f %% of end to end", 100 * p->rate.value / whole);
        strbuf_puts(o, "\n");
    }
    if (m->barrier.value > 0) strbuf_printf(o, "  a team meets in      %7.2f us\n", m->barrier.value * 1e6);
}

static void kernels_part(const struct machine *m, struct strbuf *o)
{
    if (m->n_kernels)
        strbuf_puts(o, "\nkernels, per core, weights in the cache\n"
                       "             matvec       listed         down         gemm\n");
    for (uint32_t i = 0; i < m->n_kernels; i++) {
        const struct machine_kernel *k = &m->kernel[i];
        strbuf_printf(o, "  %-5s", dtype_name((uint32_t)k->type));
        rate(o, &k->matvec);
        strbuf_puts(o, " ");
        rate(o, &k->listed);
        strbuf_puts(o, " ");
        rate(o, &k->down);
        if (k->gemm.value > 0) strbuf_printf(o, " %6.0f GOP/s", k->gemm.value * 1e-9);
        strbuf_puts(o, "\n");
    }
    if (m->unzstd.value > 0) {
        strbuf_puts(o, "  unzstd ");
        rate(o, &m->unzstd);
        spread(o, &m->unzstd);
        strbuf_puts(o, "\n");
    }
}

static void gpu_part(const struct machine *m, struct strbuf *o)
{
    for (uint32_t i = 0; i < m->n_gpus; i++) {
        const struct machine_gpu *g = &m->gpu[i];
        char a[32], b[32];
        strbuf_printf(o, "\nGPU %s%s%s: %s, %s of it reserved\n", g->name, g->bus[0] ? " at " : "", g->bus,
                      size_format(g->memory, a, sizeof a), size_format(g->reserved, b, sizeof b));
        strbuf_puts(o, "  reads its memory ");
        rate(o, &g->read);
        strbuf_puts(o, ", rows of 4 KiB ");
        rate(o, &g->scattered);
        strbuf_puts(o, "\n  from the host, pinned ");
        rate(o, &g->pinned);
        strbuf_puts(o, ", pageable ");
        rate(o, &g->pageable);
        strbuf_printf(o, "\n  gemm %.1f TOP/s, launch %.1f us, rendezvous %.1f us\n", g->gemm.value * 1e-12,
                      g->launch.value * 1e6, g->rendezvous.value * 1e6);
    }
}

/* Rows: block sizes; columns: depths. */
static void disk_part(const struct machine_disk *d, struct strbuf *o)
{
    uint32_t depths[MACHINE_POINTS];
    int n = 0;
    for (uint32_t i = 0; i < d->read.n; i++)
        if (n == 0 || depths[n - 1] != d->read.at[i].depth) depths[n++] = d->read.at[i].depth;
    strbuf_printf(o, "\ndrive %s%s%s, %s, MB/s\n  block    ", d->name, d->where[0] ? " under " : "", d->where,
                  d->direct ? "past the page cache" : "THROUGH THE PAGE CACHE");
    for (int k = 0; k < n; k++) strbuf_printf(o, "  depth%3u", depths[k]);
    strbuf_puts(o, "   latency at depth 1, 50 % and 99 %\n");
    for (uint32_t i = 0; i < d->read.n && d->read.at[i].depth == depths[0]; i++) {
        const struct machine_point *p = &d->read.at[i];
        char a[32];
        snprintf(a, sizeof a, p->x >= 1 << 20 ? "%llu MiB" : "%llu KiB",
                 (unsigned long long)(p->x >= 1 << 20 ? p->x >> 20 : p->x >> 10));
        strbuf_printf(o, "  %-9s", a);
        for (int k = 0; k < n; k++) {
            const struct machine_point *q = NULL;
            for (uint32_t l = 0; l < d->read.n; l++)
                if (d->read.at[l].depth == depths[k] && d->read.at[l].x == p->x) q = &d->read.at[l];
            if (q)
                strbuf_printf(o, "%10.0f", q->rate.value * 1e-6);
            else
                strbuf_puts(o, "         .");
        }
        if (p->p50 > 0) strbuf_printf(o, "   %8.0f us", p->p50 * 1e6);
        if (p->p99 > 0) strbuf_printf(o, " %8.0f us", p->p99 * 1e6);
        strbuf_puts(o, "\n");
    }
}

void probe_report(const struct machine *m, struct strbuf *o)
{
    machine_part(m, o);
    memory_part(m, o);
    kernels_part(m, o);
    gpu_part(m, o);
    for (uint32_t i = 0; i < m->n_disks; i++) disk_part(&m->disk[i], o);
    bool first = true;
    for (uint32_t i = 0; i < m->n_notes; i++) {
        const char *what = m->note[i].what;
        if (strcmp(what, "gpu") && strcmp(what, "drive") && strcmp(what, "host") && strcmp(what, "warning") &&
            !(strcmp(what, "disk") == 0 && m->n_disks == 0))
            continue;
        strbuf_printf(o, "%s%s: %s\n", first ? "\n" : "", what, m->note[i].how);
        first = false;
    }
}
