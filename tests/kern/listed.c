/* Products of listed rows (kern_mat.listed of mv): each result has the very bits that `rows` gives that row,
 * whatever else is listed, and nothing outside rows, list and results is touched. */
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { MOST_ROWS = 300 };

struct call {
    const struct kern_mat *m;
    const unsigned char *w;
    size_t row_bytes;
    int64_t rows, n;
    struct guarded *xp, *scratch;
    struct guarded list, y;
    int64_t count;
    bool all; /* `rows` instead of `listed` */
};

static void run(void *arg)
{
    struct call *c = arg;
    if (c->all)
        c->m->rows((float *)c->y.p, c->rows, c->w, c->row_bytes, c->rows, c->n, c->xp->p, 1, c->scratch->p);
    else
        c->m->listed((float *)c->y.p, c->w, c->row_bytes, (const uint16_t *)(const void *)c->list.p, c->count,
                     c->n, c->xp->p, c->scratch->p);
}

/* Ascending rows, each taken with probability share; share 0: the last row alone. */
static int64_t make_list(struct rng *r, uint16_t *list, int64_t rows, double share)
{
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++)
        if (share > 0 ? rng_f64(r) < share : i == rows - 1) list[count++] = (uint16_t)i;
    return count;
}

static void try_list(struct verdict *v, struct call *c, const float *all, const uint16_t *list, int64_t count,
                     bool finite)
{
    c->count = count;
    guard_make(&c->list, (size_t)count * sizeof *list);
    guard_make(&c->y, (size_t)count * sizeof(float));
    if (count) memcpy(c->list.p, list, (size_t)count * sizeof *list);
    memset(c->y.p, 0xee, c->y.n);
    memset(c->scratch->p, 0xcd, c->scratch->n);
    if (!kt_survives(run, c))
        verdict_fail(v, "touched memory outside its buffers; n %" PRId64 ", %" PRId64 " of %" PRId64 " rows",
                     c->n, count, c->rows);
    for (int64_t i = 0; i < count && !v->failed; i++) {
        float got;
        memcpy(&got, c->y.p + 4 * i, 4);
        if (finite && memcmp(&got, &all[list[i]], 4) != 0)
            verdict_fail(v,
                         "row %d, %" PRId64 " of %" PRId64 " listed, is %a and %a among all; n %" PRId64
                         ", rows %" PRId64,
                         list[i], i, count, (double)got, (double)all[list[i]], c->n, c->rows);
        if (!finite && isfinite(got))
            verdict_fail(v, "a NaN among the activations: row %d is %g; n %" PRId64, list[i], (double)got,
                         c->n);
    }
    if (!guard_intact(&c->y)) verdict_fail(v, "wrote before the results; n %" PRId64, c->n);
    guard_free(&c->list);
    guard_free(&c->y);
}

static void try_shape(struct verdict *v, const struct kern_mat *m, enum dtype type, int64_t rows, int64_t n,
                      size_t pad, size_t shift, uint64_t seed)
{
    static const double shares[] = {1, 0, 0.02, 0.11, 0.11, 0.5, 0.9};
    struct rng rng;
    uint64_t packed;
    rng_init(&rng, seed);
    dtype_row_bytes((uint32_t)type, (uint64_t)n, &packed);
    struct call c = {.m = m, .row_bytes = (size_t)packed + pad, .rows = rows, .n = n};
    struct guarded w, x, xp, scratch;
    guard_make(&w, (size_t)(rows - 1) * c.row_bytes + (size_t)packed + shift);
    guard_make(&x, (size_t)n * sizeof(float));
    guard_make(&xp, m->x_bytes(n, 1));
    guard_make(&scratch, m->scratch_bytes(n));
    memset(w.p, 0xff, w.n);
    for (int64_t r = 0; r < rows; r++)
        fill_weights(&rng, type, r % 3 ? W_NORMAL : W_WILD, w.p + (size_t)r * c.row_bytes, n);
    fill_floats(&rng, X_OUTLIER, (float *)x.p, n);
    c.w = w.p;
    c.xp = &xp;
    c.scratch = &scratch;
    float all[MOST_ROWS];
    uint16_t list[MOST_ROWS];
    for (int bad = 0; bad < 2 && !v->failed; bad++) {
        if (bad) memcpy(x.p + 4 * pick(&rng, n), &(float){NAN}, 4);
        m->x_pack(xp.p, (const float *)x.p, n, n, 1, 0, 1);
        guard_make(&c.y, (size_t)rows * sizeof(float));
        c.all = true;
        run(&c);
        c.all = false;
        memcpy(all, c.y.p, c.y.n);
        guard_free(&c.y);
        for (int s = 0; s < 7 && !v->failed; s++)
            try_list(v, &c, all, list, make_list(&rng, list, rows, shares[s]), !bad);
        for (int64_t count = 0; count <= 9 && count <= rows && !v->failed; count++) {
            int64_t first = pick(&rng, rows - count + 1); /* neighbours, from none to nine */
            for (int64_t i = 0; i < count; i++) list[i] = (uint16_t)(first + i);
            try_list(v, &c, all, list, count, !bad);
        }
    }
    guard_free(&w);
    guard_free(&x);
    guard_free(&xp);
    guard_free(&scratch);
}

static void listed(struct kt *k, int t, int type)
{
    const struct kern_mat *m = kt_table(t)->mv[type];
    const struct dtype_info *info = dtype_info((uint32_t)type);
    char line[96];
    snprintf(line, sizeof line, "%s listed %s", kt_table(t)->name, info->name);
    if ((t && m == kt_below(t)->mv[type]) || !kt_wanted(k, line)) return;
    struct verdict v = {.ran = true};
    if (!m->listed) {
        verdict_fail(&v, "no such function");
    } else {
        const int64_t block = info->block, ns[] = {block, block == 1 ? 215 : block == 32 ? 416 : 768, 4096};
        for (int i = 0; i < 3 && !v.failed; i++) {
            try_shape(&v, m, (enum dtype)type, i == 2 ? 64 : MOST_ROWS, ns[i], 0, 0,
                      k->seed + (uint64_t)(type * 8 + i));
            if (!v.failed)
                try_shape(&v, m, (enum dtype)type, 9, ns[i], 6, 2, k->seed + (uint64_t)(type * 8 + 4 + i));
        }
    }
    verdict_report(k, &v, line);
}

void check_listed(struct kt *k)
{
    for (int t = 0; t < KT_TABLES; t++) {
        if (!kt_table(t)) continue;
        for (int type = 0; type < DT_COUNT; type++) {
            const struct dtype_info *info = dtype_info((uint32_t)type);
            if (info && info->weights) listed(k, t, type);
        }
    }
}
