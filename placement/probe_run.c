/* The probe: what is measured in which order, and what all parts share. */
#include "placement/machine_priv.h"
#include "placement/probe_priv.h"

#include "base/err.h"
#include "base/hoststate.h"
#include "base/stats.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

void probe_add(struct probe_samples *s, double v)
{
    if (s->n < PROBE_SAMPLES) s->v[s->n++] = v;
}

struct machine_figure probe_figure(struct probe_samples *s)
{
    if (s->n == 0) return (struct machine_figure){0};
    stats_sort(s->v, s->n);
    return (struct machine_figure){stats_percentile(s->v, s->n, 50), stats_percentile(s->v, s->n, 10),
                                   stats_percentile(s->v, s->n, 90), s->n};
}

int probe_tell(struct probe *p, const char *what, double within)
{
    if (p->s->progress && p->s->progress(p->done + p->share * within, what, p->s->arg))
        return err_set(p->e, ERR_CANCELLED, "the probe was stopped");
    return 0;
}

void *probe_memory(struct probe *p, size_t n)
{
    void *m = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) {
        err_set(p->e, ERR_NOMEM, "no memory for %zu bytes to measure with", n);
        return NULL;
    }
    madvise(m, n, MADV_HUGEPAGE);
    return m;
}

/* ---- The state of the machine while it was measured ---- */

struct disturbance {
    unsigned long long total, steal; /* ticks of all processors since start */
    unsigned long long throttled;    /* periods in which the control group had used up its quota */
};

static void disturbance_read(struct disturbance *d)
{
    char line[256];
    unsigned long long v[8] = {0};
    *d = (struct disturbance){0};
    FILE *f = fopen("/proc/stat", "re");
    if (f) {
        if (fgets(line, sizeof line, f) && sscanf(line, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v,
                                                  v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7) == 8) {
            for (int i = 0; i < 8; i++) d->total += v[i];
            d->steal = v[7];
        }
        fclose(f);
    }
    f = fopen("/sys/fs/cgroup/cpu.stat", "re");
    if (!f) return;
    while (fgets(line, sizeof line, f)) sscanf(line, "nr_throttled %llu", &d->throttled);
    fclose(f);
}

/* What makes figures doubtful, as notes "warning". */
static void judge(struct machine *m, const struct hoststate *h, const struct disturbance *before)
{
    struct disturbance after;
    disturbance_read(&after);
    machine_add_note(
        m, "host", "%s, %s%s, governor %s, huge pages %s, load %.2f on %d cores, %.1f GiB of memory free",
        h->kernel, h->virtual_machine ? "a virtual machine" : "not a virtual machine",
        h->cpu_quota > 0 ? " with a quota of processor time" : "", h->governor[0] ? h->governor : "unknown",
        h->thp[0] ? h->thp : "unknown", h->load[0], h->cores, (double)h->memory_free / (1 << 30));
    if (h->load[0] > 0.25 * h->cores)
        machine_add_note(
            m, "warning",
            "the machine was busy: a load of %.2f on %d cores before the probe began; figures may be "
            "too low, probe again when it is idle",
            h->load[0], h->cores);
    double stolen = after.total > before->total
                        ? (double)(after.steal - before->steal) / (double)(after.total - before->total)
                        : 0;
    if (stolen > 0.02)
        machine_add_note(
            m, "warning",
            "other virtual machines took %.0f %% of the processors' time while this one was measured",
            100 * stolen);
    if (after.throttled > before->throttled)
        machine_add_note(m, "warning",
                         "the control group's quota ran out %llu times: figures are those of the quota",
                         after.throttled - before->throttled);
    if (strcmp(h->governor, "powersave") == 0)
        machine_add_note(m, "warning", "the processor's governor is powersave: figures may be too low");
}

/* Names and times; what no part measures. */
static void describe(struct machine *m, const struct hoststate *h, const struct probe_settings *s)
{
    time_t now = time(NULL);
    struct tm t;
    gmtime_r(&now, &t);
    strftime(m->date, sizeof m->date, "%Y-%m-%dT%H:%M:%SZ", &t);
    snprintf(m->cpu, sizeof m->cpu, "%s", h->cpu);
    snprintf(m->name, sizeof m->name, "%.80s, %u cores, %.0f GiB", h->cpu[0] ? h->cpu : "unknown processor",
             m->cores, (double)m->memory / (1 << 30));
    snprintf(m->method, sizeof m->method,
             "Measured by `calor probe%s` (calor %s) on the machine itself: medians, with the 10th and 90th "
             "percentile; the notes say how.",
             s->quick ? " --quick" : "", CALOR_VERSION);
}

/* ---- The parts ---- */

struct part {
    int (*run)(struct probe *p, double seconds);
    double seconds, quick;
};

static int kernels(struct probe *p, double seconds)
{
    const struct kern_ops *ops;
    int rc = kern_select(NULL, &ops, p->e);
    return rc ? rc : probe_kernels(p, ops, seconds);
}

static int measure(struct probe *p)
{
    static const struct part parts[] = {
        {probe_stream, 6, 1.6}, {probe_scattered, 5, 1.4}, {probe_barrier, 0.4, 0.2},
        {kernels, 12, 3},       {probe_unzstd, 1, 0.4},    {probe_disk, 13, 2.6},
    };
    const int n = sizeof parts / sizeof *parts;
    double total = 0;
    for (int i = 0; i < n; i++) total += p->s->quick ? parts[i].quick : parts[i].seconds;
    for (int i = 0; i < n; i++) {
        double seconds = p->s->quick ? parts[i].quick : parts[i].seconds;
        p->share = seconds / total;
        int rc = parts[i].run(p, seconds);
        if (rc) return rc;
        p->done += p->share;
    }
    return 0;
}

int probe_machine(struct machine *m, const struct probe_settings *s, struct err *e)
{
    struct hoststate h;
    struct disturbance before;
    struct probe p = {.s = s, .m = m, .e = e};
    memset(m, 0, sizeof *m);
    hoststate_read(&h, NULL);
    disturbance_read(&before);
    int rc = s->topology ? 0 : probe_disk_folder(&p);
    if (rc || (rc = probe_topology(&p))) return rc;
    if (s->topology) {
        snprintf(m->name, sizeof m->name, "topology of %.100s", s->topology);
        snprintf(m->method, sizeof m->method,
                 "The topology of another machine, read from hwloc's XML: nothing was measured.");
        return machine_check(m, true, s->topology, e);
    }
    m->memory = h.memory_limit && h.memory_limit < h.memory ? h.memory_limit : h.memory;
    m->memory_free = h.memory_free < m->memory ? h.memory_free : m->memory;
    m->threads = (uint32_t)(s->threads ? s->threads : threads_default());
    describe(m, &h, s);
    const struct team_settings team = {.threads = (int)m->threads, .bind = 1};
    if ((rc = team_create(&p.team, &team, e))) return rc;
    rc = measure(&p);
    team_destroy(&p.team);
    if (rc) return rc;
    judge(m, &h, &before);
    return machine_check(m, true, "the probe", e);
}
