/* A machine as the planner sees it: what it has, and how fast each part was measured (or, for a machine that
 * is not here, published) to be. Plain data: read from machine.json or from the shipped machines, written by
 * the probe, used by cost.c, plan.c and simulate.c, which never look at the live machine.
 *
 * Units: bytes, seconds, bytes per second. A figure that is not known is 0 in `value` and the cost model must
 * say which one it misses rather than guess. */
#ifndef PLACEMENT_MACHINE_H
#define PLACEMENT_MACHINE_H

#include "base/dtype.h"
#include "base/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

#define MACHINE_NODES  16
#define MACHINE_GPUS   8
#define MACHINE_DISKS  4
#define MACHINE_POINTS 64
#define MACHINE_NOTES  24

/* A measured figure: the median, and the 10th and 90th percentile of the samples. Published figures have
 * samples = 0 and low = high = value. */
struct machine_figure {
    double value, low, high;
    uint32_t samples;
};

/* Where a part's figures come from: how they were measured, or the source that published them. */
struct machine_note {
    char what[32]; /* "stream", "kernels", "rtx4090" … */
    char how[400];
};

/* One point of a curve: read rate at a thread count, a row size, or a block size and depth. */
struct machine_point {
    uint64_t x;                 /* threads, row bytes or block bytes */
    uint32_t depth;             /* reads in flight; 0 where that has no meaning */
    struct machine_figure rate; /* bytes/s */
    double p50, p99;            /* latency of one read in seconds; 0: not measured */
};

/* Points in ascending order of depth, then of x; no point twice. */
struct machine_curve {
    uint32_t n;
    struct machine_point at[MACHINE_POINTS];
};

/* What a kernel does with weights of one type that lie in the cache: the limit that is not memory. Bytes of
 * weights per second and core. */
struct machine_kernel {
    enum dtype type;
    struct machine_figure matvec; /* rows one after the other */
    struct machine_figure listed; /* rows of a list */
    struct machine_figure down;   /* down by neuron, the layout that this type gets */
    struct machine_figure gemm; /* prompts: multiplications and additions per second and core (2·m·n·k) */
};

struct machine_node {
    uint64_t memory; /* bytes */
    uint32_t cores;
    uint32_t distance[MACHINE_NODES]; /* as hwloc or the ACPI table gives them; 10: itself */
};

struct machine_gpu {
    char name[64];
    char bus[32];                             /* PCI address, "" where unknown */
    int node;                                 /* memory node it hangs on; -1: unknown */
    uint64_t memory;                          /* bytes of the card */
    uint64_t reserved;                        /* that the display and the driver's context take */
    struct machine_figure read;               /* bytes/s of its memory as kernels reach it */
    struct machine_figure scattered;          /* the same for rows of 4 KiB */
    struct machine_figure gemm;               /* operations/s of the prompt's products */
    struct machine_figure pinned, pageable;   /* host to device, bytes/s */
    struct machine_figure launch, rendezvous; /* seconds */
};

struct machine_disk {
    char name[64];   /* model of the drive or its kind */
    char where[256]; /* folder that was measured; "" for shipped ones */
    int node;
    struct machine_curve read; /* x = block bytes */
    bool direct;               /* past the page cache (O_DIRECT); false: through it, where that is refused */
};

struct machine {
    char name[128];
    char date[32];    /* "2026-11-25" of the measurement, or of the data sheet */
    char method[512]; /* one sentence: how the figures came about; for shipped ones their sources */
    char cpu[128];
    uint32_t packages, cores,
        performance_cores;     /* performance_cores: of them the fast ones, where kinds differ */
    uint32_t threads;          /* that the engine uses by default */
    uint64_t memory;           /* bytes of RAM */
    uint64_t memory_free;      /* when probed; 0: unknown */
    uint64_t last_level_cache; /* bytes, of all packages */
    uint32_t nodes;
    struct machine_node node[MACHINE_NODES];

    struct machine_curve stream; /* x = threads: read rate of one end-to-end pass */
    struct machine_curve
        scattered; /* x = row bytes, at `threads` threads: 1/8 of all rows, in ascending order */
    struct machine_figure barrier; /* seconds for the team to meet once */
    uint32_t n_kernels;
    struct machine_kernel kernel[DT_COUNT];
    struct machine_figure unzstd; /* bytes out per second and core */

    uint32_t n_gpus;
    struct machine_gpu gpu[MACHINE_GPUS];
    uint32_t n_disks;
    struct machine_disk disk[MACHINE_DISKS];

    uint32_t n_notes;
    struct machine_note note[MACHINE_NOTES];
};

/* Reads machine.json (docs/machine-format.md). Everything in it is checked: names of members, ranges, finite
 * positive rates, counts, the version. ERR_IO, ERR_FORMAT, ERR_UNSUPPORTED (another version), ERR_NOMEM; *m
 * is undefined then. */
int machine_read(struct machine *m, const char *path, struct err *e);
/* The same on n bytes of text; `path` is for messages. */
int machine_parse(struct machine *m, const char *text, size_t n, const char *path, struct err *e);
/* Writes it (temporary file, then renamed). Rates are rounded to whole bytes/s, times to whole nanoseconds:
 * the identity of what is read again is the same. ERR_FORMAT where m itself would be refused by the reader.
 */
int machine_write(const struct machine *m, const char *path, struct err *e);
/* The same as a tree, the caller's (json_decref); NULL: no memory. */
json_t *machine_json(const struct machine *m);
/* A note more, none where there is no room; formatted like printf. */
void machine_add_note(struct machine *m, const char *what, const char *how, ...)
    __attribute__((format(printf, 3, 4)));

/* A shipped machine by name, its parts joined with '+' in any order: "rtx4090+ddr5-5600x2+gen4": one part
 * with processor and memory, any number of GPUs and drives; or a whole one, "powerinfer-pc-high". The memory
 * may be another: "ddr5-5600x2:96G". ERR_ARG names the unknown part, the nearest one, and how to list them.
 */
int machine_shipped(struct machine *m, const char *name, struct err *e);

/* Calls fn with each name that machine_shipped knows and one line on it, in the order of the file, until it
 * returns something else than 0, which is then returned. */
int machine_shipped_each(int (*fn)(const char *name, const char *says, void *arg), void *arg, struct err *e);

/* XXH3-64 over the figures that planning uses (not over names, dates, notes, spreads, free memory): plans
 * made for another machine are refused by it. */
uint64_t machine_identity(const struct machine *m);

/* The rate at x on a curve, between its points by logarithms (of x, of the depth, and of the rate), its ends
 * beyond them; depth 0: the best of all depths. 0 when the curve is empty. */
double machine_rate(const struct machine_curve *c, uint64_t x, uint32_t depth);

const struct machine_kernel *machine_kernel(const struct machine *m,
                                            enum dtype type); /* NULL: not measured */

#endif
