/* Read bandwidth: see membw.h. */
#include "base/membw.h"

#include "base/affinity.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/hoststate.h"
#include "base/stats.h"
#include "base/threads.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { CHUNK = 1 << 20, MAX_PASSES = 10000 };

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

static void passes(struct team_member *m, void *arg)
{
    struct job *j = arg;
    uint64_t start = clock_ns(), sum = 0;
    int64_t b, e;
    part(j, m, &b, &e);
    for (;;) {
        team_barrier(m);
        j->began[m->ith] = clock_ns();
        if (j->nodes) {
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
            j->rate[j->passes++] = (double)j->bytes / clock_since(first);
            j->done = j->passes == MAX_PASSES || (j->passes >= 3 && clock_since(start) >= j->seconds);
        }
        team_barrier(m);
        if (j->done) break;
    }
    atomic_fetch_add(&j->sum, sum);
}

int membw_read(struct membw *out, struct team *t, uint64_t bytes, double seconds, struct err *e)
{
    if (bytes == 0) {
        struct hoststate h;
        hoststate_read(&h, NULL);
        bytes = 1ull << 30;
        while (h.memory_free && bytes > h.memory_free / 4 && bytes > 64u << 20) bytes /= 2;
    }
    bytes = (bytes + CHUNK - 1) / CHUNK * CHUNK;
    struct job j = {.bytes = bytes, .nodes = affinity_nodes() > 1, .read = widest(), .seconds = seconds};
    j.rate = malloc(MAX_PASSES * sizeof *j.rate);
    j.began = malloc((size_t)team_size(t) * sizeof *j.began);
    void *p = j.rate && j.began
                  ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                  : MAP_FAILED;
    if (p == MAP_FAILED) {
        free(j.rate);
        free(j.began);
        return err_set(e, ERR_NOMEM, "no memory for the %llu bytes that measure the read bandwidth",
                       (unsigned long long)bytes);
    }
    j.buf = p;
    /* Page walks are not what is measured. */
    madvise(p, bytes, MADV_HUGEPAGE);
    team_run(t, touch, &j);
    team_run(t, passes, &j);
    struct stats s;
    int rc = stats_of(&s, j.rate, (size_t)j.passes, e);
    if (rc == 0)
        *out = (struct membw){
            .median = s.median, .best = s.max, .passes = j.passes, .threads = team_size(t), .bytes = bytes};
    munmap(p, bytes);
    free(j.rate);
    free(j.began);
    return rc;
}
