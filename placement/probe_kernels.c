/* What the kernels do with weights that lie in a core's own cache: the limit that is not memory. Every thread
 * of the team works at the same time on weights of its own, as in a forward pass, because cores that all work
 * are clocked lower than one alone. */
#include "placement/probe_priv.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    N = 4096, /* values a row: the width of a 7B model */
    WEIGHTS =
        256 << 10, /* bytes a thread: inside the second cache of every processor of the last ten years */
    TOKENS = 256,  /* of the prompt's product: beyond mv_tokens, within the last cache */
    GEMM_ROWS = 128,
    SAMPLES_LEAST = 3, /* a round */
    ROUNDS = 5,
};
/* A list's share of the rows: what fires in a model of 88 % sparsity, and so the runs of neighbours. */
static const double SHARE = 0.12;

/* Everything is measured in rounds, because what disturbs a machine (other guests of its host, its clocks)
 * comes and goes in seconds: it is to show as spread, not as one kernel being slower than another. */
enum what { MATVEC, LISTED, DOWN, GEMM, WHATS };

/* The memory of one thread, and what it is to do. */
struct own {
    unsigned char *w; /* weights, or down's parts */
    unsigned char *planes;
    void *scratch;
    float *y;
    uint16_t list[KERN_BLOCK];
    int64_t listed;
};

struct job {
    enum what what;
    const struct kern_mat *mat;
    const struct kern_down *down;
    struct kern_down_rows rows;
    size_t row_bytes, groups_bytes;
    int64_t n_rows, repeats;
    const void *xp;
    float *h;
    uint16_t *group_of;
    struct own *own;
};

static void work(struct team_member *me, void *arg)
{
    struct job *j = arg;
    struct own *o = &j->own[me->ith];
    for (int64_t r = 0; r < j->repeats; r++) switch (j->what) {
        case MATVEC:
            j->mat->rows(o->y, j->n_rows, o->w, j->row_bytes, j->n_rows, N, j->xp, 1, o->scratch);
            break;
        case LISTED:
            j->mat->listed(o->y, o->w, j->row_bytes, o->list, o->listed, N, j->xp, o->scratch);
            break;
        case GEMM:
            j->mat->rows(o->y, j->n_rows, o->w, j->row_bytes, j->n_rows, N, j->xp, TOKENS, o->scratch);
            break;
        default: {
            struct kern_down_rows rows = j->rows;
            rows.rows = o->w;
            rows.groups = o->planes;
            rows.supers = o->planes + j->groups_bytes;
            j->down->add(o->y, &rows, 0, o->list, j->h, o->listed, N, 0, N, o->scratch);
        }
        }
}

/* More samples of `unit`s a second and thread, each long enough for the clock. */
static void sample(struct probe *p, struct job *j, double unit, double seconds, struct probe_samples *s)
{
    uint32_t least = s->n + SAMPLES_LEAST;
    j->repeats = 1;
    double once = 0;
    for (;;) { /* warms the cache, and finds how often 300 µs need */
        uint64_t begin = clock_ns();
        team_run(p->team, work, j);
        once = clock_since(begin);
        if (once >= 3e-4 || j->repeats >= 1 << 20) break;
        j->repeats *= 2;
    }
    uint64_t start = clock_ns();
    do {
        uint64_t begin = clock_ns();
        team_run(p->team, work, j);
        probe_add(s, unit * (double)j->repeats / clock_since(begin));
    } while (s->n < PROBE_SAMPLES && (s->n < least || clock_since(start) < seconds));
}

/* Weights as a model has them: Gaussian, scaled like a row of N. */
static int fill(enum dtype type, unsigned char *w, size_t bytes, size_t row_bytes, struct err *e)
{
    static float x[N];
    struct rng r;
    rng_init(&r, 7);
    for (int i = 0; i < N; i++) x[i] = (float)(rng_normal(&r) * 0.02);
    if (bytes < row_bytes) return err_set(e, ERR_ARG, "no room for a row of weights");
    int rc = kern_encode(type, w, x, N, e);
    for (size_t at = row_bytes; rc == 0 && at + row_bytes <= bytes; at += row_bytes)
        memcpy(w + at, w, row_bytes);
    return rc;
}

static void make_list(struct own *o, int64_t rows, double share)
{
    struct rng r;
    rng_init(&r, 11);
    o->listed = 0;
    for (int64_t i = 0; i < rows && i < KERN_BLOCK; i++)
        if (rng_f64(&r) < share || (i == rows - 1 && o->listed == 0)) o->list[o->listed++] = (uint16_t)i;
}

/* Down of this type on one block of neurons; the bytes counted are the type's own (rows of N values), so that
 * a layout that reads more for its planes shows as slower, and costs are bytes of the file over this rate. */
static void one_down(struct probe *p, const struct kern_ops *ops, enum dtype type, struct job *j, int threads,
                     double seconds, struct probe_samples *s)
{
    bool split = kern_can_split(type);
    j->down = split ? ops->down_split[type] : ops->down_row[type];
    if (!j->down) return;
    size_t own = j->down->neuron_bytes(N), supers = 0;
    j->groups_bytes = 0;
    j->rows = (struct kern_down_rows){.stride = own};
    if (split) {
        j->groups_bytes = j->down->group_bytes(N) * (size_t)(KERN_BLOCK / j->down->group);
        supers = j->down->super_bytes(N);
        for (int i = 0; i < KERN_BLOCK; i++) j->group_of[i] = (uint16_t)(i / j->down->group);
        j->rows.group_of = j->group_of;
    }
    for (int t = 0; t < threads; t++) {
        struct own *o = &j->own[t];
        memset(o->planes, 0x11, j->groups_bytes + supers); /* small positive scales, whatever they are */
        if (split)
            memset(o->w, 0x37, own * KERN_BLOCK);
        else
            for (int64_t i = 0; i < KERN_BLOCK; i++) memmove(o->w + (size_t)i * own, o->w, j->row_bytes);
        memset(o->y, 0, N * sizeof *o->y);
        make_list(o, KERN_BLOCK, SHARE);
    }
    j->what = DOWN;
    sample(p, j, (double)j->own[0].listed * (double)j->row_bytes, seconds, s);
}

static int one_type(struct probe *p, const struct kern_ops *ops, enum dtype type, struct job *j, int threads,
                    float *x, void *xp, double seconds, struct probe_samples s[WHATS])
{
    uint64_t row_bytes;
    dtype_row_bytes((uint32_t)type, N, &row_bytes);
    j->row_bytes = (size_t)row_bytes;
    int64_t rows = (int64_t)(WEIGHTS / row_bytes) / 8 * 8;
    int rc;
    for (int t = 0; t < threads; t++) {
        if ((rc = fill(type, j->own[t].w, (size_t)row_bytes * KERN_BLOCK, (size_t)row_bytes, p->e)))
            return rc;
        make_list(&j->own[t], rows, 0.5);
    }
    j->mat = ops->mv[type];
    j->xp = xp;
    j->mat->x_pack(xp, x, N, N, 1, 0, 1);
    j->what = MATVEC;
    j->n_rows = rows;
    sample(p, j, (double)rows * (double)row_bytes, seconds / WHATS, &s[MATVEC]);
    j->what = LISTED;
    sample(p, j, (double)j->own[0].listed * (double)row_bytes, seconds / WHATS, &s[LISTED]);
    j->mat = TOKENS > ops->mv_tokens ? ops->mm[type] : ops->mv[type];
    j->mat->x_pack(xp, x, N, N, TOKENS, 0, TOKENS);
    j->what = GEMM;
    j->n_rows = GEMM_ROWS;
    sample(p, j, 2.0 * GEMM_ROWS * N * TOKENS, seconds / WHATS, &s[GEMM]);
    one_down(p, ops, type, j, threads, seconds / WHATS, &s[DOWN]);
    return 0;
}

static const enum dtype types[] = {DT_Q4_0, DT_Q4_K, DT_Q5_K, DT_Q6_K, DT_Q8_0, DT_F16, DT_BF16, DT_F32};
enum { TYPES = sizeof types / sizeof *types };

int probe_kernels(struct probe *p, const struct kern_ops *ops, double seconds)
{
    int threads = team_size(p->team), rc = 0;
    size_t x_bytes = 64, scratch = 64;
    for (int i = 0; i < TYPES; i++) {
        const struct kern_mat *mats[] = {ops->mv[types[i]], ops->mm[types[i]]};
        const struct kern_down *downs[] = {ops->down_row[types[i]], ops->down_split[types[i]]};
        for (int k = 0; k < 2; k++) {
            if (mats[k]->x_bytes(N, TOKENS) > x_bytes) x_bytes = mats[k]->x_bytes(N, TOKENS);
            if (mats[k]->scratch_bytes(N) > scratch) scratch = mats[k]->scratch_bytes(N);
            if (downs[k] && downs[k]->scratch_bytes(N) > scratch) scratch = downs[k]->scratch_bytes(N);
        }
    }
    scratch = (scratch + 4095) / 4096 * 4096;
    /* A thread's weights: a block of neurons of the widest type (with a page to spare), and planes. */
    const size_t w = (size_t)KERN_BLOCK * (N * 4 + 64) + 4096, planes = 1 << 20,
                 y = sizeof(float) * GEMM_ROWS * TOKENS, each = w + planes + scratch + y;
    _Static_assert(GEMM_ROWS * TOKENS >= N, "down's sums have room");
    size_t total = x_bytes + sizeof(float) * N * TOKENS + each * (size_t)threads;
    struct job j = {0};
    static float h[KERN_BLOCK];
    unsigned char *mem = probe_memory(p, total), *at = mem;
    j.own = calloc((size_t)threads, sizeof *j.own);
    j.group_of = calloc(KERN_BLOCK, sizeof *j.group_of);
    struct probe_samples(*samples)[WHATS] = calloc(TYPES, sizeof *samples);
    if (!mem || !j.own || !j.group_of || !samples) {
        rc = err_set(p->e, ERR_NOMEM, "no memory to measure the kernels with");
        goto out;
    }
    j.h = h;
    void *xp = at;
    float *x = (float *)(void *)(at += x_bytes);
    at += sizeof(float) * N * TOKENS;
    for (int t = 0; t < threads; t++) {
        struct own *o = &j.own[t];
        o->w = at;
        o->planes = at + w;
        o->scratch = at + w + planes;
        o->y = (float *)(void *)(at + w + planes + scratch);
        at += each;
    }
    struct rng r;
    rng_init(&r, 5);
    for (int64_t i = 0; i < (int64_t)N * TOKENS; i++) x[i] = (float)rng_normal(&r);
    for (int i = 0; i < KERN_BLOCK; i++) h[i] = (float)rng_normal(&r);
    const int rounds = p->s->quick ? 2 : ROUNDS;
    for (int i = 0; i < rounds * TYPES; i++) {
        char what[32];
        int t = i % TYPES;
        snprintf(what, sizeof what, "kernels %s", dtype_name((uint32_t)types[t]));
        if ((rc = probe_tell(p, what, (double)i / (rounds * TYPES))) ||
            (rc = one_type(p, ops, types[t], &j, threads, x, xp, seconds / (rounds * TYPES), samples[t])))
            goto out;
    }
    p->m->n_kernels = TYPES;
    for (int t = 0; t < TYPES; t++)
        p->m->kernel[t] = (struct machine_kernel){
            types[t], probe_figure(&samples[t][MATVEC]), probe_figure(&samples[t][LISTED]),
            probe_figure(&samples[t][DOWN]), probe_figure(&samples[t][GEMM])};
    machine_add_note(
        p->m, "kernels",
        "%s kernels, all %d threads at once, each on weights in its own cache, rows of %d values; "
        "bytes of weights (gemm: operations, %d tokens) per second and core; listed: half of the rows; "
        "down: %.0f %% of a block's neurons, counted as rows of the type; median, 10th and 90th "
        "percentile of runs of at least 0.3 ms, in %d rounds",
        ops->name, threads, N, TOKENS, SHARE * 100, rounds);
out:
    if (mem) munmap(mem, total);
    free(samples);
    free(j.own);
    free(j.group_of);
    return rc;
}
