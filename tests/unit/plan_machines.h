/* Machines and models for tests of the planner, made up by hand. */
#ifndef TESTS_PLAN_MACHINES_H
#define TESTS_PLAN_MACHINES_H

#include "placement/plan.h"

#include <stdio.h>
#include <string.h>

#define GB UINT64_C(1000000000)

static inline struct machine_figure figure(double v)
{
    return (struct machine_figure){v, v * 0.9, v * 1.1, 5};
}

static inline void point(struct machine_curve *c, uint64_t x, uint32_t depth, double rate)
{
    c->at[c->n++] = (struct machine_point){x, depth, figure(rate), 0, 0};
}

/* A desktop: 8 cores, 40 GB/s, with a GPU of `vram` bytes and a disk where asked for. */
static inline struct machine desktop(uint64_t ram, uint64_t vram, bool disk)
{
    struct machine m = {.cores = 8, .performance_cores = 8, .threads = 8, .memory = ram, .nodes = 1};
    snprintf(m.name, sizeof m.name, "desktop");
    m.node[0] = (struct machine_node){ram, 8, {10}};
    point(&m.stream, 1, 0, 18e9);
    point(&m.stream, 8, 0, 40e9);
    point(&m.scattered, 1024, 0, 15e9);
    point(&m.scattered, 16384, 0, 32e9);
    m.barrier = figure(1.5e-6);
    static const enum dtype types[] = {DT_F16, DT_Q8_0, DT_Q4_0, DT_Q6_K};
    for (int i = 0; i < 4; i++)
        m.kernel[m.n_kernels++] =
            (struct machine_kernel){types[i], figure(12e9), figure(10e9), figure(9e9), figure(60e9)};
    m.unzstd = figure(1e9);
    if (vram) {
        m.n_gpus = 1;
        m.gpu[0] = (struct machine_gpu){.node = 0,
                                        .memory = vram,
                                        .reserved = 400 << 20,
                                        .read = figure(400e9),
                                        .scattered = figure(300e9),
                                        .gemm = figure(30e12),
                                        .pinned = figure(20e9),
                                        .pageable = figure(8e9),
                                        .launch = figure(3e-6),
                                        .rendezvous = figure(10e-6)};
        snprintf(m.gpu[0].name, sizeof m.gpu[0].name, "card");
    }
    if (disk) {
        m.n_disks = 1;
        m.disk[0].node = -1;
        snprintf(m.disk[0].name, sizeof m.disk[0].name, "drive");
        for (uint32_t depth = 1; depth <= 32; depth *= 32)
            for (uint64_t block = 4096; block <= 1 << 22; block *= 8)
                point(&m.disk[0].read, block, depth,
                      (depth == 1 ? 5e7 : 1.2e9) * (double)block / (double)(block + 65536) * 2);
    }
    return m;
}

static inline struct plan_shape small_shape(enum dtype type)
{
    return (struct plan_shape){"small", 1024, 4096, 8, 16, 16, 8000, 2048, true, false, type, type};
}

#endif
