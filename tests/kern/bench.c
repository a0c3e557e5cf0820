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

enum {
    STREAM = 384 << 20,
    CACHED = 512 << 10
}; /* bytes of weights: far beyond a core's caches, inside them */

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
double kt_best(const struct kt *k, struct team *team, void (*fn)(struct team_member *, void *), void *arg)
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

void *kt_big(size_t n)
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
            j.T = op ? 512 : 1;
            j.scratch_bytes = (m->scratch_bytes(n) + 63) / 64 * 64;
            int64_t most = op ? 4096 : (int64_t)(STREAM / row_bytes) - 64;
            j.x = kt_big((size_t)(n * j.T) * sizeof(float));
            j.xp = kt_big(m->x_bytes(n, j.T));
            j.y = kt_big((size_t)(most * j.T) * sizeof(float));
            j.scratch = kt_big(j.scratch_bytes * (size_t)k->threads + 64);
            struct rng rng;
            rng_init(&rng, 1);
            fill_floats(&rng, X_NORMAL, (float *)(uintptr_t)j.x, n * j.T);
            j.rows = most;
            j.chunk = (64 + m->row_group - 1) / m->row_group * m->row_group;
            double s = kt_best(k, team, job_run, &j);
            if (op) {
                double ops_done = 2.0 * (double)j.rows * (double)n * (double)j.T;
                printf("%-22s %8.1f GOP/s   (4096×%d, 512 tokens: %.1f ms)\n", name, ops_done / s * 1e-9,
                       (int)n, s * 1e3);
            } else {
                double gb = (double)j.rows * (double)row_bytes / s * 1e-9;
                j.rows = (int64_t)(CACHED / row_bytes) / 16 * 16 * k->threads;
                j.pack = false; /* done, and here it would count */
                double c = kt_best(k, team, job_run, &j);
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

/* One KV head a call, several of them shared out over the threads as a model's are. */
struct attn_job {
    const struct kern_ops *ops;
    struct kern_attn a;
    int heads;
    size_t kv_bytes, q_floats, scratch_bytes;
    unsigned char *scratch;
};

static void attn_run(struct team_member *me, void *arg)
{
    struct attn_job *j = arg;
    int64_t h;
    while (team_next(me, 0, j->heads, 1, &h)) {
        struct kern_attn a = j->a;
        a.q += (size_t)h * j->q_floats;
        a.out += (size_t)h * j->q_floats;
        a.k = (const char *)a.k + (size_t)h * j->kv_bytes;
        a.v = (const char *)a.v + (size_t)h * j->kv_bytes;
        a.scratch = j->scratch + (size_t)me->ith * j->scratch_bytes;
        j->ops->attn(&a);
    }
}

static void bench_attn(const struct kt *k, struct team *team, const struct kern_ops *ops, enum dtype type)
{
    static const struct {
        int64_t T, pos0;
        int group;
    } cases[] = {{1, 4095, 1}, {1, 4095, 4}, {1, 4095, 8}, {512, 0, 1}, {512, 3584, 1}, {512, 0, 4}};
    for (int c = 0; c < 6; c++) {
        char name[64];
        snprintf(name, sizeof name, "%s attention %s", ops->name, dtype_name(type));
        if (!kt_wanted(k, name)) continue;
        struct attn_job j = {.ops = ops, .heads = cases[c].T == 1 ? 32 : 8};
        uint64_t row;
        dtype_row_bytes(type, 128, &row);
        j.a = (struct kern_attn){
            .T = cases[c].T, .pos0 = cases[c].pos0, .group = cases[c].group, .head_dim = 128};
        int64_t positions = j.a.T + j.a.pos0;
        j.a.kv_type = type;
        j.a.scale = 0.08f;
        j.a.k_row_bytes = j.a.v_row_bytes = (size_t)row;
        j.a.ldq = j.a.ldo = (int64_t)j.a.group * 128;
        j.q_floats = (size_t)(j.a.T * j.a.ldq);
        j.kv_bytes = (size_t)positions * (size_t)row;
        j.scratch_bytes = ops->attn_scratch_bytes(j.a.T, j.a.group, 128);
        size_t q_bytes = j.q_floats * (size_t)j.heads * sizeof(float),
               kv_bytes = j.kv_bytes * (size_t)j.heads;
        float *q = kt_big(q_bytes), *out = kt_big(q_bytes);
        unsigned char *keys = kt_big(kv_bytes), *values = kt_big(kv_bytes);
        j.scratch = kt_big(j.scratch_bytes * (size_t)k->threads);
        struct rng rng;
        rng_init(&rng, 3);
        fill_floats(&rng, X_NORMAL, q, (int64_t)(j.q_floats * (size_t)j.heads));
        fill_weights(&rng, type, W_NORMAL, keys, positions * 128);
        fill_weights(&rng, type, W_NORMAL, values, positions * 128);
        for (int h = 1; h < j.heads; h++) {
            memcpy(keys + (size_t)h * j.kv_bytes, keys, j.kv_bytes);
            memcpy(values + (size_t)h * j.kv_bytes, values, j.kv_bytes);
        }
        j.a.q = q;
        j.a.out = out;
        j.a.k = keys;
        j.a.v = values;
        double s = kt_best(k, team, attn_run, &j);
        double pairs = ((double)j.a.pos0 + (double)(j.a.T + 1) / 2) * (double)j.a.T;
        double flops = 4 * 128 * pairs * j.a.group * j.heads;
        printf("%-22s T %3d, context %4d, group %d: %7.1f GFLOP/s, %6.1f GB/s of cache, %8.1f us a KV head\n",
               name, (int)j.a.T, (int)positions, j.a.group, flops / s * 1e-9, 2 * (double)kv_bytes / s * 1e-9,
               s * 1e6 / j.heads * k->threads);
        fflush(stdout);
        munmap(q, q_bytes);
        munmap(out, q_bytes);
        munmap(keys, kv_bytes);
        munmap(values, kv_bytes);
        munmap(j.scratch, j.scratch_bytes * (size_t)k->threads);
    }
}

/* Elementwise operations on a vector that stays in the cache: nanoseconds a value. */
struct vec_job {
    const struct kern_ops *ops;
    int op;
    float *x, *y, *w;
};
enum { VEC_N = 11008, VEC_TIMES = 50 };

static void vec_run(struct team_member *me, void *arg)
{
    struct vec_job *j = arg;
    if (me->ith != 0) return;
    for (int i = 0; i < VEC_TIMES; i++) {
        switch (j->op) {
        case 0: j->ops->rmsnorm(j->y, j->x, j->w, VEC_N, 1e-5f); break;
        case 1: j->ops->layernorm(j->y, j->x, j->w, j->w, VEC_N, 1e-5f); break;
        case 2: j->ops->rope(j->y, j->w, VEC_N / 128, 128, 128, KERN_ROPE_NORM); break;
        case 3: j->ops->rope(j->y, j->w, VEC_N / 128, 128, 128, KERN_ROPE_NEOX); break;
        case 4: j->ops->act(j->y, j->x, j->w, VEC_N, KERN_SILU, 0); break;
        case 5: j->ops->act(j->y, j->x, j->w, VEC_N, KERN_GELU, 0); break;
        case 6: j->ops->act(j->y, j->x, j->w, VEC_N, KERN_RELU, 0); break;
        case 7: j->ops->softmax(j->y, VEC_N); break;
        case 8: j->ops->kv_store(DT_F16, j->y, j->x, VEC_N); break;
        case 9: j->ops->kv_store(DT_Q8_0, j->y, j->x, VEC_N); break;
        default: break;
        }
    }
}

static void bench_vec(const struct kt *k, struct team *team, const struct kern_ops *ops)
{
    static const char *const names[] = {"rmsnorm", "layernorm", "rope_norm", "rope_neox", "silu",
                                        "gelu",    "relu",      "softmax",   "store_f16", "store_q8_0"};
    struct vec_job j = {.ops = ops};
    struct rng rng;
    rng_init(&rng, 5);
    float *all = kt_big(3 * VEC_N * sizeof(float));
    fill_floats(&rng, X_NORMAL, all, 3 * VEC_N);
    j.x = all;
    j.y = all + VEC_N;
    j.w = all + 2 * VEC_N;
    for (j.op = 0; j.op < 10; j.op++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", ops->name, names[j.op]);
        if (!kt_wanted(k, name)) continue;
        printf("%-22s %8.3f ns a value\n", name, kt_best(k, team, vec_run, &j) * 1e9 / VEC_N / VEC_TIMES);
    }
    munmap(all, 3 * VEC_N * sizeof(float));
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
    unsigned char *w = kt_big(STREAM);
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
    memset(w, 0x11, STREAM); /* finite as any type */
    for (int type = 0; type < DT_COUNT; type++)
        if (dtype_info((uint32_t)type) && dtype_info((uint32_t)type)->weights)
            bench_sparse(k, team, (enum dtype)type, w, STREAM);
    for (int t = 1; t < KERN_TIERS; t++) {
        const struct kern_ops *ops = kern_tier((enum kern_tier)t),
                              *below = kern_tier((enum kern_tier)(t - 1));
        if (!ops || ops->attn == below->attn) continue;
        bench_attn(k, team, ops, DT_F16);
        bench_attn(k, team, ops, DT_Q8_0);
        bench_vec(k, team, ops);
    }
    munmap(w, STREAM);
    team_destroy(&team);
}
