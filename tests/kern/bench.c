/* The benchmark: mv in GB/s of weights beside the bandwidth the machine reads with, mm in GOP/s (a
 * multiplication and an addition are two), attention and the rest in their own units. The best of several
 * runs, because a busy machine only ever makes a kernel slower. */
#include "base/clock.h"
#include "base/err.h"
#include "base/membw.h"
#include "base/threads.h"
#include "tests/kern/kern.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { STREAM = 384 << 20, CACHED = 1 << 20 }; /* bytes of weights: far beyond a core's caches, inside them */

struct job {
    const struct kern_mat *m;
    const unsigned char *w;
    size_t row_bytes;
    int64_t rows, n, T, chunk;
    const float *x;
    void *xp;
    float *y;
    unsigned char *scratch;
    size_t scratch_bytes;
    bool pack;
};

static void job_run(struct team_member *me, void *arg)
{
    struct job *j = arg;
    int64_t begin;
    if (j->pack) {
        int64_t group = j->m->x_group;
        while (team_next(me, 0, j->T, group, &begin))
            j->m->x_pack(j->xp, j->x, j->n, j->n, j->T, begin, begin + group < j->T ? begin + group : j->T);
        team_barrier(me);
    }
    while (team_next(me, 1, j->rows, j->chunk, &begin)) {
        int64_t rows = j->chunk < j->rows - begin ? j->chunk : j->rows - begin;
        j->m->rows(j->y + begin, j->rows, j->w + (size_t)begin * j->row_bytes, j->row_bytes, rows, j->n,
                   j->xp, j->T, j->scratch + (size_t)me->ith * j->scratch_bytes);
    }
}

/* Seconds of the fastest run. */
static double best(const struct kt *k, struct team *team, void (*fn)(struct team_member *, void *), void *arg)
{
    double least = INFINITY;
    uint64_t start = clock_ns();
    for (int i = 0; i < 2 || clock_since(start) < k->seconds; i++) {
        uint64_t begin = clock_ns();
        team_run(team, fn, arg);
        double s = clock_since(begin);
        if (s < least) least = s;
    }
    return least;
}

static void *big(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("benchmark memory");
        abort();
    }
    madvise(p, n, MADV_HUGEPAGE);
    return p;
}

static void bench_type(const struct kt *k, struct team *team, enum dtype type, unsigned char *w,
                       double bandwidth)
{
    const struct dtype_info *info = dtype_info(type);
    const int64_t n = 4096;
    uint64_t row_bytes;
    dtype_row_bytes(type, (uint64_t)n, &row_bytes);
    bool filled = false;
    for (int t = 1; t < KERN_TIERS; t++) {
        const struct kern_ops *ops = kern_tier((enum kern_tier)t),
                              *below = kern_tier((enum kern_tier)(t - 1));
        for (int op = 0; ops && op < 2; op++) {
            const struct kern_mat *m = op ? ops->mm[type] : ops->mv[type];
            char name[64];
            snprintf(name, sizeof name, "%s %s %s", ops->name, op ? "mm" : "mv", info->name);
            if (m == (op ? below->mm[type] : below->mv[type]) || !kt_wanted(k, name)) continue;
            if (!filled) {
                struct rng rng;
                rng_init(&rng, k->seed);
                size_t piece = (1 << 20) / row_bytes * row_bytes, at = 0;
                fill_weights(&rng, type, W_NORMAL, w, (int64_t)(piece / row_bytes) * n);
                for (at = piece; at + piece <= STREAM; at += piece) memcpy(w + at, w, piece);
                filled = true;
            }
            struct job j = {.m = m, .w = w, .row_bytes = row_bytes, .n = n, .pack = true};
            static const int64_t tokens[2] = {1, 512};
            j.T = tokens[op];
            j.scratch_bytes = (m->scratch_bytes(n) + 63) / 64 * 64;
            int64_t most = op ? 4096 : (int64_t)(STREAM / row_bytes) - 64;
            j.x = big((size_t)(n * j.T) * sizeof(float));
            j.xp = big(m->x_bytes(n, j.T));
            j.y = big((size_t)(most * j.T) * sizeof(float));
            j.scratch = big(j.scratch_bytes * (size_t)k->threads + 64);
            struct rng rng;
            rng_init(&rng, 1);
            fill_floats(&rng, X_NORMAL, (float *)(uintptr_t)j.x, n * j.T);
            j.rows = most;
            j.chunk = (64 + m->row_group - 1) / m->row_group * m->row_group;
            double s = best(k, team, job_run, &j);
            if (op) {
                double ops_done = 2.0 * (double)j.rows * (double)n * (double)j.T;
                printf("%-22s %8.1f GOP/s   (4096×%d, 512 tokens: %.1f ms)\n", name, ops_done / s * 1e-9,
                       (int)n, s * 1e3);
            } else {
                double gb = (double)j.rows * (double)row_bytes / s * 1e-9;
                j.rows = (int64_t)(CACHED / row_bytes) / 16 * 16 * k->threads;
                double c = best(k, team, job_run, &j);
                printf("%-22s %8.1f GB/s streamed (%3.0f %% of %.1f)   %8.1f GB/s cached\n", name, gb,
                       100 * gb / bandwidth, bandwidth, (double)j.rows * (double)row_bytes / c * 1e-9);
            }
            fflush(stdout);
            munmap((void *)(uintptr_t)j.x, (size_t)(n * j.T) * sizeof(float));
            munmap(j.xp, m->x_bytes(n, j.T));
            munmap(j.y, (size_t)(most * j.T) * sizeof(float));
            munmap(j.scratch, j.scratch_bytes * (size_t)k->threads + 64);
        }
    }
}

void bench_all(struct kt *k)
{
    struct err e;
    struct team *team;
    struct team_settings set = {.threads = k->threads, .bind = 1};
    if (team_create(&team, &set, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    unsigned char *w = big(STREAM);
    memset(w, 1, STREAM);
    struct membw read;
    if (membw_read(&read, team, 0, 1, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    double bandwidth = read.best * 1e-9;
    printf("%d thread%s, %s\nread bandwidth %.1f GB/s over %d MiB\n", k->threads, k->threads > 1 ? "s" : "",
           kern_cpu_features(), bandwidth, (int)(read.bytes >> 20));
    for (int type = 0; type < DT_COUNT; type++)
        if (dtype_info((uint32_t)type) && dtype_info((uint32_t)type)->weights)
            bench_type(k, team, (enum dtype)type, w, bandwidth);
    munmap(w, STREAM);
    team_destroy(&team);
}
