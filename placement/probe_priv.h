/* What the files of the probe share. */
#ifndef PLACEMENT_PROBE_PRIV_H
#define PLACEMENT_PROBE_PRIV_H

#include "placement/machine.h"
#include "placement/probe.h"

struct team;
struct kern_ops;

enum { PROBE_SAMPLES = 512 };

/* One figure's samples as they come in; those beyond the last are left out. */
struct probe_samples {
    uint32_t n;
    double v[PROBE_SAMPLES];
};

struct probe {
    const struct probe_settings *s;
    struct machine *m;
    struct team *team; /* all threads */
    struct err *e;
    double done, share; /* of the whole; the present part's share of it */
    uint32_t seed;
};

void probe_add(struct probe_samples *s, double v);
/* Median, 10th and 90th percentile; sorts the samples. No samples: not known. */
struct machine_figure probe_figure(struct probe_samples *s);

/* Says where the probe is: `within` (0 … 1) of the present part. ERR_CANCELLED where the caller wants no
 * more. */
int probe_tell(struct probe *p, const char *what, double within);

/* Zeroed memory in huge pages where there are some; NULL with p->e set. Given back with munmap. */
void *probe_memory(struct probe *p, size_t n);

/* The parts. Each takes about `seconds`, fills its figures and adds a note on its method. */
int probe_topology(struct probe *p);
int probe_stream(struct probe *p, double seconds);
int probe_scattered(struct probe *p, double seconds);
int probe_barrier(struct probe *p, double seconds);
int probe_kernels(struct probe *p, const struct kern_ops *ops, double seconds);
int probe_unzstd(struct probe *p, double seconds);
/* Whether the folder can be measured at all: asked before anything is. */
int probe_disk_folder(const struct probe *p);
int probe_disk(struct probe *p, double seconds);

#endif
