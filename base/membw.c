/* Read bandwidth: see membw.h. */
#include "base/membw.h"

#include "base/affinity.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hoststate.h"
#include "base/rng.h"
#include "base/stats.h"
#include "base/threads.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK = 1 << 20, MAX_PASSES = 10000, PHASES = 8, PASSES_LEAST = 5 };

/* Eight loads in flight and one running sum each: nothing but the loads can be the limit. The sum is
 * returned, so the compiler cannot leave a load out. n is a multiple of 512. */
#define READ(NAME, WIDTH, TARGET)                                                                            \
    typedef uint64_t NAME##_vec __attribute__((vector_size(WIDTH), may_alias));                              \
    TARGET static uint64_t NAME(const unsigned char *p, size_t n)                                            \
    {                                                                                                        \
        NAME##_vec s[8];                                                                                     \
        memset(s, 0, sizeof s);                                                                              \
        for (size_t i = 0; i < n; i += sizeof s) {                                                           \
            const NAME##_vec *v = (const NAME##_vec *)(p + i);                                               \
            for (int k = 0; k < 8; k++) s[k] += v[k];                                                        \
        }                                                                                                    \
        uint64_t sum = 0;                                                                                    \
        for (int k = 0; k < 8; k++)                                                                          \
            for (size_t l = 0; l < WIDTH / 8; l++) sum += s[k][l];                                           \
        return sum;                                                                                          \
    }

READ(read_16, 16, )
#if defined(__x86_64__)
READ(read_32, 32, __attribute__((target("avx2"))))
READ(read_64, 64, __attribute__((target("avx512f"))))
#endif

typedef uint64_t (*read_fn)(const unsigned char *p, size_t n);

static read_fn widest(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return read_64;
    if (__builtin_cpu_supports("avx2")) return read_32;
#endif
    return read_16;
}

struct job {
    unsigned char *buf;
    uint64_t bytes; /* a multiple of CHUNK */
    bool nodes;     /* several memory nodes: every thread keeps to its own part */
    read_fn read;
    double seconds;
    double *rate;    /* MAX_PASSES */
    uint64_t *began; /* a thread each: a pass lasts from the first one's start */
    /* Of membw_rows: the rows of each phase, ascending; a pass reads one phase. */
    uint32_t row, *list, first[PHASES + 1];
    int passes;
    bool done;
    _Atomic uint64_t sum; /* keeps the loads alive */
};

/* First and one past the last chunk of a thread's own part. */
static void part(const struct job *j, const struct team_member *m, int64_t *begin, int64_t *end)
{
    int64_t chunks = (int64_t)(j->bytes / CHUNK);
    *begin = chunks * m->ith / m->nth;
    *end = chunks * (m->ith + 1) / m->nth;
}

static void touch(struct team_member *m, void *arg)
{
    struct job *j = arg;
    int64_t b, e;
    part(j, m, &b, &e);
    unsigned char *p = j->buf + b * CHUNK;
    int node = team_node(m->team, m->ith);
    if (node >= 0) affinity_bind_memory(p, (size_t)(e - b) * CHUNK, node);
    memset(p, m->ith + 1, (size_t)(e - b) * CHUNK);
}

static uint64_t read_rows(const struct job *j, const uint32_t *list, int64_t begin, int64_t end)
{
    uint64_t sum = 0;
    for (int64_t i = begin; i < end; i++) sum += j->read(j->buf + (uint64_t)list[i] * j->row, j->row);
    return sum;
}

/* Index of the first of n ascending rows that is not below `row`. */
static int64_t first_row(const uint32_t *list, int64_t n, int64_t row)
{
    int64_t begin = 0;
    while (n > 0) {
        int64_t half = n / 2;
        if (list[begin + half] < row) {
            begin += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return begin;
}

static void passes(struct team_member *m, void *arg)
{
    struct job *j = arg;
    uint64_t start = clock_ns(), sum = 0;
    int64_t b, e;
    part(j, m, &b, &e);
    for (;;) {
        team_barrier(m);
        j->began[m->ith] = clock_ns();
        uint64_t bytes = j->bytes;
        if (j->row) {
            const uint32_t *list = j->list + j->first[j->passes % PHASES];
            int64_t n = j->first[j->passes % PHASES + 1] - j->first[j->passes % PHASES], c;
            const int64_t some = j->row < 65536 ? 65536 / j->row : 1;
            if (j->nodes)
                sum += read_rows(j, list, first_row(list, n, b * CHUNK / j->row),
                                 first_row(list, n, e * CHUNK / j->row));
            else
                while (team_next(m, 0, n, some, &c))
                    sum += read_rows(j, list, c, c + some < n ? c + some : n);
            bytes = (uint64_t)n * j->row;
        } else if (j->nodes) {
            for (int64_t c = b; c < e; c++) sum += j->read(j->buf + c * CHUNK, CHUNK);
        } else {
            int64_t c;
            while (team_next(m, 0, (int64_t)(j->bytes / CHUNK), 1, &c))
                sum += j->read(j->buf + c * CHUNK, CHUNK);
        }
        team_barrier(m);
        if (m->ith == 0) {
            uint64_t first = j->began[0];
            for (int i = 1; i < m->nth; i++)
                if (j->began[i] < first) first = j->began[i];
            j->rate[j->passes++] = (double)bytes / clock_since(first);
            j->done =
                j->passes == MAX_PASSES || (j->passes >= PASSES_LEAST && clock_since(start) >= j->seconds);
        }
        team_barrier(m);
        if (j->done) break;
    }
    atomic_fetch_add(&j->sum, sum);
}

/* Which rows each phase reads: a fair die a row. */
static int draw_rows(struct job *j, struct err *e)
{
    uint32_t n = (uint32_t)(j->bytes / j->row), at[PHASES] = {0};
    unsigned char *phase = malloc(n);
    j->list = malloc(n * sizeof *j->list);
    if (!phase || !j->list) {
        free(phase);
        return err_set(e, ERR_NOMEM, "no memory for the list of %u rows", n);
    }
    struct rng r;
    rng_init(&r, 17);
    for (uint32_t i = 0; i < n; i++) at[phase[i] = (unsigned char)rng_below(&r, PHASES)]++;
    for (int p = 0; p < PHASES; p++) j->first[p + 1] = j->first[p] + at[p];
    for (int p = 0; p < PHASES; p++) at[p] = j->first[p];
    for (uint32_t i = 0; i < n; i++) j->list[at[phase[i]]++] = i;
    free(phase);
    return 0;
}

static int measure(struct membw *out, struct team *t, uint64_t bytes, uint32_t row, double seconds,
                   struct err *e)
{
    if (bytes == 0) {
        struct hoststate h;
        hoststate_read(&h, NULL);
        bytes = 1ull << 30;
        while (h.memory_free && bytes > h.memory_free / 4 && bytes > 64u << 20) bytes /= 2;
    }
    bytes = (bytes + CHUNK - 1) / CHUNK * CHUNK;
    struct job j = {
        .bytes = bytes, .nodes = affinity_nodes() > 1, .read = widest(), .seconds = seconds, .row = row};
    int rc = row ? draw_rows(&j, e) : 0;
    j.rate = malloc(MAX_PASSES * sizeof *j.rate);
    j.began = malloc((size_t)team_size(t) * sizeof *j.began);
    void *p = rc == 0 && j.rate && j.began
                  ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                  : MAP_FAILED;
    if (p == MAP_FAILED) {
        if (rc == 0)
            rc = err_set(e, ERR_NOMEM, "no memory for the %llu bytes that measure the read bandwidth",
                         (unsigned long long)bytes);
        goto out;
    }
    j.buf = p;
    /* Page walks are not what is measured. */
    madvise(p, bytes, MADV_HUGEPAGE);
    team_run(t, touch, &j);
    team_run(t, passes, &j);
    stats_sort(j.rate, (size_t)j.passes);
    *out = (struct membw){.median = stats_percentile(j.rate, (size_t)j.passes, 50),
                          .best = j.rate[j.passes - 1],
                          .low = stats_percentile(j.rate, (size_t)j.passes, 10),
                          .high = stats_percentile(j.rate, (size_t)j.passes, 90),
                          .passes = j.passes,
                          .threads = team_size(t),
                          .bytes = bytes};
    munmap(p, bytes);
out:
    free(j.list);
    free(j.rate);
    free(j.began);
    return rc;
}

int membw_read(struct membw *out, struct team *t, uint64_t bytes, double seconds, struct err *e)
{
    return measure(out, t, bytes, 0, seconds, e);
}

int membw_rows(struct membw *out, struct team *t, uint64_t bytes, uint32_t row, double seconds, struct err *e)
{
    if (row == 0 || row % 512 || row > CHUNK || (bytes && bytes / row >= UINT32_MAX))
        return err_set(e, ERR_ARG, "rows of %u bytes: expected a multiple of 512 up to %d", row, CHUNK);
    return measure(out, t, bytes, row, seconds, e);
}
