/* What the gate in two planes (kernels.h) rules out, and how fast: candidates, missed neurons and the share
 * of the gate's bytes that is read, on a layer given in a file or on Gaussian weights of a real width; and
 * the time of the screened gate beside that of the whole one. plane_gate.py makes the tables from its output.
 *
 *   plane_gate layer FILE     one layer: int64 d, f, tokens, then float W[f][d], bias[f], x[tokens][d]
 *   plane_gate normal         Gaussian W and x, d 5120, 13824 neurons, 11.2 % active; then 4 channels 50
 * times larger, as they are and with the extreme channels made exact plane_gate speed [N]      N threads (1)
 *
 * Output: a line of key=value words a measurement. */
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const enum dtype types[] = {DT_F16, DT_BF16, DT_Q8_0};
static const double ks[] = {3, 4, 5, 0};
enum { TYPES = 3, KS = 4 };

static void *get(size_t n)
{
    void *p = aligned_alloc(64, (n + 63) / 64 * 64 + 64);
    if (!p) {
        fprintf(stderr, "plane_gate: no memory for %zu bytes\n", n);
        exit(1);
    }
    return p;
}

static void must(int rc, const struct err *e)
{
    if (rc == 0) return;
    fprintf(stderr, "plane_gate: %s\n", e->msg);
    exit(1);
}

/* One matrix in the file's form and in planes. */
struct gate {
    enum dtype type;
    int64_t d, f;
    size_t row_bytes;
    uint8_t *w;
    struct kern_planes_at at;
};

static void gate_make(struct gate *g, enum dtype type, const float *w, int64_t d, int64_t f)
{
    uint64_t bytes;
    struct err e;
    if (!dtype_row_bytes(type, (uint64_t)d, &bytes)) {
        fprintf(stderr, "plane_gate: rows of %" PRId64 " values have no whole blocks of %s\n", d,
                dtype_name(type));
        exit(1);
    }
    *g = (struct gate){.type = type, .d = d, .f = f, .row_bytes = (size_t)bytes};
    g->w = get((size_t)f * g->row_bytes);
    for (int64_t r = 0; r < f; r++)
        must(kern_encode(type, g->w + (size_t)r * g->row_bytes, w + r * d, d, &e), &e);
    g->at.coarse_stride = kern_plane_coarse_bytes(type, d);
    g->at.fine_stride = kern_plane_fine_bytes(type, d);
    g->at.coarse = get((size_t)f * g->at.coarse_stride);
    g->at.fine = get((size_t)f * g->at.fine_stride);
    g->at.rows = get((size_t)f * sizeof *g->at.rows);
    must(kern_planes_split(type, &g->at, g->w, g->row_bytes, d, 0, f, NULL, &e), &e);
}

static void gate_free(struct gate *g)
{
    free(g->w);
    free(g->at.coarse);
    free(g->at.fine);
    free(g->at.rows);
}

/* Bytes of a row's parts without padding, its ‖E‖ and the like among the coarse. */
static double coarse_bytes(const struct gate *g)
{
    return (double)(g->type == DT_Q8_0 ? g->d / 32 * 18 : g->d) + sizeof(struct kern_plane_row);
}

static double fine_bytes(const struct gate *g)
{
    return (double)(g->type == DT_Q8_0 ? g->d / 2 : g->d);
}

/* All tokens against all neurons. share > 0: the threshold is each token's quantile, so that this share of
 * neurons is active; else 0 with bias. */
static void measure(const char *what, const struct kern_ops *ops, const struct gate *g, const float *x,
                    int64_t tokens, const float *bias, double threshold, bool columns)
{
    const struct kern_mat *mv = ops->mv[g->type];
    const struct kern_planes *planes = ops->planes[g->type];
    void *xp = get(mv->x_bytes(g->d, 1)),
         *scratch = get(planes->scratch_bytes(g->d) + mv->scratch_bytes(g->d));
    float *seen = get((size_t)g->d * sizeof *seen), *e = get((size_t)g->f * sizeof *e);
    float *y = get((size_t)g->f * sizeof *y), *z = get((size_t)g->f * sizeof *z);
    uint16_t *list = get((size_t)g->f * sizeof *list);
    int64_t active = 0, candidates[KS] = {0}, missed[KS] = {0}, column_reads = 0;
    for (int64_t t = 0; t < tokens; t++) {
        struct kern_plane_x px;
        mv->x_pack(xp, x + t * g->d, g->d, g->d, 1, 0, 1);
        planes->x_values(seen, xp, g->d);
        kern_plane_x_make(&px, seen, g->d);
        mv->rows(y, g->f, g->w, g->row_bytes, g->f, g->d, xp, 1, scratch);
        planes->coarse(z, &g->at, 0, g->f, g->d, xp, scratch);
        bool exact = columns && px.extremes > 0;
        for (int j = 0; exact && j < px.extremes; j++) {
            kern_plane_column(g->type, e, &g->at, 0, g->f, g->d, px.channel[j]);
            kern_plane_add_column(z, e, px.value[j], g->f);
            column_reads++;
        }
        float at = (float)(threshold * px.norm);
        for (int64_t r = 0; r < g->f; r++) active += y[r] + (bias ? bias[r] : 0) > at;
        for (int i = 0; i < KS; i++) {
            struct kern_plane_bound b = kern_plane_bound_make(&px, ks[i], exact, at);
            int64_t count = kern_plane_candidates(list, z, bias, g->at.rows, g->f, &b), next = 0;
            candidates[i] += count;
            for (int64_t r = 0; r < g->f; r++) {
                bool in = next < count && list[next] == r;
                next += in;
                missed[i] += !in && y[r] + (bias ? bias[r] : 0) > at;
            }
        }
    }
    double all = (double)g->f * (double)tokens;
    for (int i = 0; i < KS; i++) {
        double part = (double)candidates[i] / all;
        double bytes = coarse_bytes(g) + fine_bytes(g) * part;
        printf("what=%s tier=%s type=%s d=%" PRId64 " f=%" PRId64 " tokens=%" PRId64 " active=%" PRId64
               " k=%g candidates=%.6f missed=%" PRId64 " share=%.4f columns=%.2f\n",
               what, ops->name, dtype_name(g->type), g->d, g->f, tokens, active, ks[i], part, missed[i],
               bytes / (double)g->row_bytes, (double)column_reads / (double)tokens);
    }
    fflush(stdout);
    free(xp), free(scratch), free(seen), free(e), free(y), free(z), free(list);
}

static int layer(const char *path, const struct kern_ops *ops)
{
    int64_t size[3];
    FILE *in = fopen(path, "rb");
    if (!in || fread(size, sizeof size, 1, in) != 1 || size[0] < 1 || size[1] < 1 || size[2] < 1 ||
        size[0] > 1 << 20 || size[1] > 65536 || size[2] > 1 << 24) {
        fprintf(stderr, "plane_gate: %s: expected int64 d, f, tokens and float W, bias, x\n", path);
        return 1;
    }
    size_t nw = (size_t)(size[0] * size[1]), nb = (size_t)size[1], nx = (size_t)(size[0] * size[2]);
    float *all = get((nw + nb + nx) * sizeof *all);
    size_t got = fread(all, sizeof *all, nw + nb + nx, in);
    fclose(in);
    if (got != nw + nb + nx) {
        fprintf(stderr, "plane_gate: %s: holds %zu floats, expected %zu\n", path, got, nw + nb + nx);
        return 1;
    }
    for (int i = 0; i < TYPES; i++) {
        struct gate g;
        gate_make(&g, types[i], all, size[0], size[1]);
        measure("layer", ops, &g, all + nw + nb, size[2], all + nw, 0, true);
        gate_free(&g);
    }
    free(all);
    return 0;
}

/* 11.2 % of a normal variable lie above 1.2160. Weights have the deviation 0.02. */
static const double TOP = 1.2160, DEVIATION = 0.02;

static float *normal(struct rng *rng, size_t n, double deviation)
{
    float *v = get(n * sizeof *v);
    for (size_t i = 0; i < n; i++) v[i] = (float)(deviation * rng_normal(rng));
    return v;
}

static int at_width(const struct kern_ops *ops)
{
    enum { D = 5120, F = 13824, TOKENS = 87 };
    struct rng rng;
    rng_init(&rng, 1);
    float *w = normal(&rng, (size_t)D * F, DEVIATION), *x = normal(&rng, (size_t)D * TOKENS, 1);
    for (int i = 0; i < TYPES; i++) {
        struct gate g;
        gate_make(&g, types[i], w, D, F);
        measure("normal", ops, &g, x, TOKENS, NULL, TOP * DEVIATION, true);
        float *wild = get((size_t)D * TOKENS * sizeof *wild);
        memcpy(wild, x, (size_t)D * TOKENS * sizeof *wild);
        for (int t = 0; t < TOKENS; t++)
            for (int j = 0; j < 4; j++) wild[t * D + 77 + 1200 * j] *= 50;
        measure("outliers", ops, &g, wild, TOKENS, NULL, TOP * DEVIATION, false);
        measure("outliers-exact", ops, &g, wild, TOKENS, NULL, TOP * DEVIATION, true);
        free(wild);
        gate_free(&g);
    }
    free(w), free(x);
    return 0;
}

/* ---- Speed ---- */

enum { CHUNK = 64 };

struct speed {
    const struct kern_ops *ops;
    const struct gate *g;
    const void *xp;
    float *y;
    uint8_t *scratch;
    size_t scratch_bytes;
    struct kern_plane_bound bound;
    int how; /* 0: all rows, 1: coarse only, 2: coarse, candidates, their rows */
    int64_t listed;
};

static void run(struct team_member *me, void *arg)
{
    struct speed *s = arg;
    const struct gate *g = s->g;
    uint8_t *scratch = s->scratch + (size_t)me->ith * s->scratch_bytes;
    int64_t first;
    while (team_next(me, 0, g->f, CHUNK, &first)) {
        int64_t rows = g->f - first < CHUNK ? g->f - first : CHUNK;
        if (s->how == 0) {
            s->ops->mv[g->type]->rows(s->y + first, g->f, g->w + (size_t)first * g->row_bytes, g->row_bytes,
                                      rows, g->d, s->xp, 1, scratch);
            continue;
        }
        const struct kern_planes *planes = s->ops->planes[g->type];
        planes->coarse(s->y + first, &g->at, first, rows, g->d, s->xp, scratch);
        if (s->how == 1) continue;
        uint16_t list[CHUNK];
        float exact[CHUNK];
        int64_t count = kern_plane_candidates(list, s->y + first, NULL, g->at.rows + first, rows, &s->bound);
        planes->listed(exact, &g->at, first, list, count, g->d, s->xp, scratch);
        __atomic_fetch_add(&s->listed, count, __ATOMIC_RELAXED);
    }
}

enum {
    WAYS = 4,
    ROUNDS = 25
}; /* whole, coarse, k = 5, certified: in turn, so that a busy machine slows all */

static void best(struct team *team, struct speed *s, const struct kern_plane_bound bounds[2],
                 double least[WAYS], int64_t listed[WAYS])
{
    for (int i = 0; i < WAYS; i++) least[i] = INFINITY;
    for (int i = 0; i < ROUNDS * WAYS; i++) {
        int way = i % WAYS;
        s->how = way < 2 ? way : 2;
        s->bound = bounds[way == 3];
        s->listed = 0;
        uint64_t begin = clock_ns();
        team_run(team, run, s);
        double t = clock_since(begin);
        if (t < least[way]) least[way] = t;
        listed[way] = s->listed;
    }
}

static int speed(const struct kern_ops *ops, int threads)
{
    enum { D = 5120, SOME = 512, TIMES = 48 };
    struct err e;
    struct team *team;
    must(team_create(&team, &(struct team_settings){.threads = threads, .bind = 1}, &e), &e);
    struct rng rng;
    rng_init(&rng, 1);
    float *some = normal(&rng, (size_t)D * SOME, DEVIATION), *x = normal(&rng, D, 1);
    float *w = get((size_t)D * SOME * TIMES * sizeof *w);
    for (size_t i = 0; i < TIMES; i++) memcpy(w + i * D * SOME, some, (size_t)D * SOME * sizeof *w);
    for (int i = 0; i < TYPES; i++) {
        struct gate g;
        gate_make(&g, types[i], w, D, SOME * TIMES);
        const struct kern_mat *mv = ops->mv[g.type];
        const struct kern_planes *planes = ops->planes[g.type];
        size_t scratch = planes->scratch_bytes(D) + mv->scratch_bytes(D) + 64;
        struct speed s = {.ops = ops, .g = &g, .y = get((size_t)g.f * sizeof(float))};
        s.scratch_bytes = scratch / 64 * 64;
        s.scratch = get(s.scratch_bytes * (size_t)threads);
        void *xp = get(mv->x_bytes(D, 1));
        s.xp = xp;
        float *seen = get(D * sizeof *seen);
        struct kern_plane_x px;
        mv->x_pack(xp, x, D, D, 1, 0, 1);
        planes->x_values(seen, xp, D);
        kern_plane_x_make(&px, seen, D);
        float t = (float)(TOP * DEVIATION * px.norm);
        struct kern_plane_bound bounds[2] = {kern_plane_bound_make(&px, 5, false, t),
                                             kern_plane_bound_make(&px, 0, false, t)};
        double took[WAYS], bytes = (double)g.f * (double)g.row_bytes, coarse = (double)g.f * coarse_bytes(&g);
        int64_t listed[WAYS];
        best(team, &s, bounds, took, listed);
        printf("what=speed tier=%s threads=%d type=%s mv_ms=%.3f mv_gbs=%.2f coarse_ms=%.3f coarse_gbs=%.2f",
               ops->name, threads, dtype_name(g.type), took[0] * 1e3, bytes / took[0] * 1e-9, took[1] * 1e3,
               coarse / took[1] * 1e-9);
        for (int way = 2; way < WAYS; way++) {
            int k = way == 2 ? 5 : 0;
            double read = coarse + (double)listed[way] * fine_bytes(&g);
            printf(" k%d_ms=%.3f k%d_share=%.3f k%d_gbs=%.2f k%d_candidates=%.3f k%d_speedup=%.2f", k,
                   took[way] * 1e3, k, read / bytes, k, read / took[way] * 1e-9, k,
                   (double)listed[way] / (double)g.f, k, took[0] / took[way]);
        }
        printf("\n");
        fflush(stdout);
        free(s.y), free(s.scratch), free(xp), free(seen);
        gate_free(&g);
    }
    free(some), free(x), free(w);
    team_destroy(&team);
    return 0;
}

int main(int argc, char **argv)
{
    const struct kern_ops *ops;
    struct err e;
    must(kern_select(NULL, &ops, &e), &e);
    if (argc == 3 && strcmp(argv[1], "layer") == 0) return layer(argv[2], ops);
    if (argc == 2 && strcmp(argv[1], "normal") == 0) return at_width(ops);
    if ((argc == 2 || argc == 3) && strcmp(argv[1], "speed") == 0) {
        int threads = argc == 3 ? atoi(argv[2]) : 1;
        if (threads >= 1 && threads <= 1024) return speed(ops, threads);
    }
    fprintf(
        stderr,
        "usage: %s layer FILE | normal | speed [THREADS]\nCALOR_CPU (ref, avx2, avx512) picks the tier.\n",
        argv[0]);
    return 2;
}
