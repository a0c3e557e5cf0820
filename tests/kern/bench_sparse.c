/* The benchmark of what a sparse FFN reads: listed rows and down by neuron, 11 % of them at random places, a
 * block of neurons at a time, beside the rate at which `rows` streams the same type; and the time to take a
 * 7B model's down matrix apart and put it together again. Every pass has another list, far more bytes than
 * caches hold. */
#include "base/err.h"
#include "base/threads.h"
#include "tests/kern/kern.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { LISTS = 8, N = 4096, FFN = 11008 };
static const double SHARE = 0.11;

struct job {
    const struct kern_mat *m;
    const struct kern_down *k;
    struct kern_down_rows down;
    const unsigned char *w;
    size_t row_bytes;
    int64_t rows, blocks, pass;
    uint16_t *list[LISTS]; /* of block b at b·KERN_BLOCK */
    uint16_t *count[LISTS];
    float *h;
    void *xp;
    float *y; /* N or KERN_BLOCK floats a thread */
    unsigned char *scratch;
    size_t scratch_bytes;
};

static void run_listed(struct team_member *me, void *arg)
{
    struct job *j = arg;
    int64_t b, l = j->pass % LISTS;
    while (team_next(me, 0, j->blocks, 1, &b))
        j->m->listed(j->y + (size_t)me->ith * N, j->w + (size_t)(b * KERN_BLOCK) * j->row_bytes, j->row_bytes,
                     j->list[l] + b * KERN_BLOCK, j->count[l][b], N, j->xp,
                     j->scratch + (size_t)me->ith * j->scratch_bytes);
    team_barrier(me);
    if (me->ith == 0) j->pass++;
}

static void run_rows(struct team_member *me, void *arg)
{
    struct job *j = arg;
    int64_t b;
    while (team_next(me, 0, j->blocks, 1, &b))
        j->m->rows(j->y + (size_t)me->ith * N, N, j->w + (size_t)(b * KERN_BLOCK) * j->row_bytes,
                   j->row_bytes, KERN_BLOCK, N, j->xp, 1, j->scratch + (size_t)me->ith * j->scratch_bytes);
}

static void run_down(struct team_member *me, void *arg)
{
    struct job *j = arg;
    int64_t b, l = j->pass % LISTS;
    float *y = j->y + (size_t)me->ith * N;
    while (team_next(me, 0, j->blocks, 1, &b)) {
        memset(y, 0, N * sizeof *y);
        j->k->add(y, &j->down, b * KERN_BLOCK, j->list[l] + b * KERN_BLOCK, j->h, j->count[l][b], N, 0, N,
                  j->scratch + (size_t)me->ith * j->scratch_bytes);
    }
    team_barrier(me);
    if (me->ith == 0) j->pass++;
}

static void lists_make(struct job *j)
{
    struct rng r;
    rng_init(&r, 11);
    for (int l = 0; l < LISTS; l++) {
        j->list[l] = kt_big((size_t)j->rows * sizeof(uint16_t));
        j->count[l] = kt_big((size_t)j->blocks * sizeof(uint16_t));
        for (int64_t i = 0; i < j->blocks * KERN_BLOCK; i++)
            if (rng_f64(&r) < SHARE) {
                int64_t b = i / KERN_BLOCK;
                j->list[l][b * KERN_BLOCK + j->count[l][b]++] = (uint16_t)(i % KERN_BLOCK);
            }
    }
}

static void lists_free(struct job *j)
{
    for (int l = 0; l < LISTS; l++) {
        munmap(j->list[l], (size_t)j->rows * sizeof(uint16_t));
        munmap(j->count[l], (size_t)j->blocks * sizeof(uint16_t));
    }
}

/* Neurons listed in a pass, and their groups; the mean over all lists. */
static double listed_of(const struct job *j, double *groups)
{
    double n = 0;
    *groups = 0;
    for (int l = 0; l < LISTS; l++)
        for (int64_t b = 0; b < j->blocks; b++) {
            int last = -1;
            n += j->count[l][b];
            for (int i = 0; i < j->count[l][b] && j->down.group_of; i++) {
                int g = j->down.group_of[b * KERN_BLOCK + j->list[l][b * KERN_BLOCK + i]];
                *groups += g != last;
                last = g;
            }
        }
    *groups /= LISTS;
    return n / LISTS;
}

static double stream(const struct kt *k, struct team *team, struct job *j)
{
    j->scratch_bytes = (j->m->scratch_bytes(N) + 63) / 64 * 64;
    return (double)(j->blocks * KERN_BLOCK) * (double)j->row_bytes / kt_best(k, team, run_rows, j) * 1e-9;
}

static void bench_tier(const struct kt *k, struct team *team, const struct kern_ops *ops,
                       const struct kern_ops *below, enum dtype type, unsigned char *w, size_t bytes)
{
    static const char *const what[] = {"listed", "down row", "down split"};
    static float x[N], h[KERN_BLOCK];
    const size_t scratch = 256 << 10;
    struct rng r;
    rng_init(&r, 1);
    fill_floats(&r, X_NORMAL, x, N);
    fill_floats(&r, X_NORMAL, h, KERN_BLOCK);
    for (int op = 0; op < 3; op++) {
        struct job j = {.m = ops->mv[type], .w = w, .h = h};
        j.k = op == 1 ? ops->down_row[type] : op == 2 ? ops->down_split[type] : NULL;
        bool same = op == 0   ? j.m == below->mv[type]
                    : op == 1 ? j.k == below->down_row[type]
                              : j.k == below->down_split[type];
        char name[64];
        snprintf(name, sizeof name, "%s %s %s", ops->name, what[op], dtype_name((uint32_t)type));
        if (same || !kt_wanted(k, name)) continue;
        uint64_t row_bytes;
        dtype_row_bytes((uint32_t)type, N, &row_bytes);
        j.row_bytes = (size_t)row_bytes;
        j.xp = kt_big(j.m->x_bytes(N, 1));
        j.m->x_pack(j.xp, x, N, N, 1, 0, 1);
        j.y = kt_big((size_t)k->threads * N * sizeof(float));
        j.scratch = kt_big((size_t)k->threads * scratch);
        j.blocks = (int64_t)((bytes - 65536) / (size_t)row_bytes) / KERN_BLOCK;
        j.rows = j.blocks * KERN_BLOCK;
        double rate = stream(k, team, &j), groups, each = (double)row_bytes, planes = 0;
        size_t plane_bytes = 0;
        if (op) {
            size_t own = j.k->neuron_bytes(N);
            j.blocks = (int64_t)((bytes - 65536) / own) / KERN_BLOCK;
            if (j.blocks > 60000 / KERN_BLOCK) j.blocks = 60000 / KERN_BLOCK;
            j.rows = j.blocks * KERN_BLOCK;
            j.down = (struct kern_down_rows){.rows = w, .stride = own};
            each = (double)own;
            j.scratch_bytes = (j.k->scratch_bytes(N) + 63) / 64 * 64;
        }
        uint16_t *group_of = NULL;
        if (op == 2) {
            size_t group = j.k->group_bytes(N), super = j.k->super_bytes(N);
            plane_bytes = (size_t)(j.rows / j.k->group) * group + (size_t)j.blocks * super + 65536;
            unsigned char *p = kt_big(plane_bytes);
            memset(p, 0x11, plane_bytes);
            j.down.groups = p;
            j.down.supers = p + (size_t)(j.rows / j.k->group) * group;
            group_of = malloc((size_t)j.rows * sizeof *group_of);
            for (int64_t i = 0; i < j.rows; i++) group_of[i] = (uint16_t)(i / j.k->group);
            j.down.group_of = group_of;
        }
        lists_make(&j);
        double n = listed_of(&j, &groups);
        if (op == 2)
            planes = groups * (double)j.k->group_bytes(N) + (double)(j.blocks * (int64_t)j.k->super_bytes(N));
        double s = kt_best(k, team, op ? run_down : run_listed, &j);
        double gb = (n * each + planes) / s * 1e-9;
        double step = s / (double)j.rows * FFN, dense = (double)FFN * (double)j.row_bytes / rate * 1e-9;
        printf(
            "%-22s %8.1f GB/s scattered (%3.0f %% of rows' %.1f)   %8.1f us for %d neurons, %.2fx the dense "
            "step\n",
            name, gb, 100 * gb / rate, rate, step * 1e6, (int)(SHARE * FFN), dense / step);
        fflush(stdout);
        lists_free(&j);
        free(group_of);
        if (plane_bytes) munmap((void *)(uintptr_t)j.down.groups, plane_bytes);
        munmap(j.xp, j.m->x_bytes(N, 1));
        munmap(j.y, (size_t)k->threads * N * sizeof(float));
        munmap(j.scratch, (size_t)k->threads * scratch);
    }
}

struct layout_job {
    enum dtype type;
    struct kern_split_dst dst;
    struct kern_down_rows w;
    unsigned char *src;
    size_t row_bytes;
    bool back;
};

static void run_layout(struct team_member *me, void *arg)
{
    struct layout_job *j = arg;
    int64_t t;
    while (team_next(me, 0, N / KERN_COLUMNS, 1, &t)) {
        int64_t c = t * KERN_COLUMNS;
        if (j->back)
            kern_unsplit(j->type, j->src + (size_t)c * j->row_bytes, j->row_bytes, &j->w, NULL, N, FFN, c,
                         c + KERN_COLUMNS, NULL);
        else
            kern_split(j->type, &j->dst, j->src, j->row_bytes, N, FFN, 0, FFN, c, c + KERN_COLUMNS, NULL);
    }
}

static void bench_layout(const struct kt *k, struct team *team, enum dtype type, unsigned char *w)
{
    char name[64];
    snprintf(name, sizeof name, "ref split %s", dtype_name((uint32_t)type));
    if (!kern_can_split(type) || !kt_wanted(k, name)) return;
    const struct kern_down *d = kern_tier(KERN_REF)->down_split[type];
    uint64_t row_bytes;
    dtype_row_bytes((uint32_t)type, FFN, &row_bytes);
    size_t own = d->neuron_bytes(N), rows = own * FFN, groups = d->group_bytes(N) * (size_t)(FFN / d->group),
           supers = d->super_bytes(N) * (FFN / 256);
    unsigned char *out = kt_big(rows + groups + supers);
    memset(out, 1, rows + groups + supers);
    struct layout_job j = {.type = type, .src = w, .row_bytes = (size_t)row_bytes};
    j.dst = (struct kern_split_dst){
        .rows = out, .groups = out + rows, .supers = out + rows + groups, .stride = own};
    j.w = (struct kern_down_rows){
        .rows = out, .stride = own, .groups = out + rows, .supers = out + rows + groups};
    double apart = kt_best(k, team, run_layout, &j);
    j.back = true;
    double back = kt_best(k, team, run_layout, &j);
    printf("%-22s %8.1f ms to take %d×%d apart, %8.1f ms to put it together\n", name, apart * 1e3, N, FFN,
           back * 1e3);
    fflush(stdout);
    munmap(out, rows + groups + supers);
}

void bench_sparse(const struct kt *k, struct team *team, enum dtype type, unsigned char *w, size_t bytes)
{
    for (int t = 1; t < KERN_TIERS; t++) {
        const struct kern_ops *ops = kern_tier((enum kern_tier)t);
        if (ops) bench_tier(k, team, ops, kern_tier((enum kern_tier)(t - 1)), type, w, bytes);
    }
    bench_layout(k, team, type, w);
}
