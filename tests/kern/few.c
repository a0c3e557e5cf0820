/* What products of few tokens (mv) promise beyond their accuracy: a result has the same bits whether its row
 * and token come alone or among others, variants have the bits of their tier, and a NaN or infinity among a
 * token's activations shows in all results of that token and in no other's. The last holds for many tokens
 * (mm) too. */
#include "tests/kern/kern.h"

#include <math.h>
#include <stdlib.h>

enum { ROWS = 11, TOKENS = 7, MOST = 1024 };

struct few {
    unsigned char *w;
    float *x; /* TOKENS × n */
    size_t row_bytes;
    int64_t n;
};

static void *get(size_t n)
{
    return aligned_alloc(64, (n + 63) / 64 * 64 + 64);
}

/* Rows [r0, r0+rows) with tokens [t0, t0+T); y: TOKENS × ROWS. */
static void multiply(const struct kern_mat *m, const struct few *in, float *y, int64_t r0, int64_t rows,
                     int64_t t0, int64_t T)
{
    void *xp = get(m->x_bytes(in->n, T)), *scratch = get(m->scratch_bytes(in->n));
    m->x_pack(xp, in->x + t0 * in->n, in->n, in->n, T, 0, T);
    m->rows(y + t0 * ROWS + r0, ROWS, in->w + (size_t)r0 * in->row_bytes, in->row_bytes, rows, in->n, xp, T,
            scratch);
    free(xp);
    free(scratch);
}

static void compare(struct verdict *v, const float *a, const float *b, int64_t n)
{
    for (int i = 0; i < TOKENS * ROWS; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            verdict_fail(v, "row %d, token %d, n %d: %a and %a", i % ROWS, i / ROWS, (int)n, a[i], b[i]);
}

static void alone(struct verdict *v, const struct kern_mat *m, const struct few *in)
{
    float apart[TOKENS * ROWS], together[TOKENS * ROWS];
    for (int64_t t = 0; t < TOKENS; t++)
        for (int64_t r = 0; r < ROWS; r++) multiply(m, in, apart, r, 1, t, 1);
    for (int64_t T = 1; T <= TOKENS; T++) {
        for (int64_t t = 0; t < TOKENS; t += T)
            multiply(m, in, together, 0, ROWS, t, T < TOKENS - t ? T : TOKENS - t);
        compare(v, apart, together, in->n);
    }
}

static void not_finite(struct verdict *v, const struct kern_mat *m, const struct few *in, uint64_t seed)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct rng rng;
    rng_init(&rng, seed);
    for (int i = 0; i < 3; i++) {
        float y[TOKENS * ROWS], *at = in->x + 4 * in->n + pick(&rng, in->n), good = *at;
        *at = bad[i];
        multiply(m, in, y, 0, ROWS, 0, TOKENS);
        *at = good;
        for (int j = 0; j < TOKENS * ROWS; j++)
            if (!isfinite(y[j]) != (j / ROWS == 4))
                verdict_fail(v, "%g among the activations of token 4: row %d, token %d is %g", (double)bad[i],
                             j % ROWS, j / ROWS, (double)y[j]);
    }
}

static void few(struct kt *k, int t, int type)
{
    enum { ALONE, FINITE, TWIN, MANY, CHECKS };
    const struct kern_mat *m = kt_table(t)->mv[type], *below = t ? kt_below(t)->mv[type] : NULL;
    const struct kern_mat *mm = kt_table(t)->mm[type], *mm_below = t ? kt_below(t)->mm[type] : NULL;
    const struct dtype_info *info = dtype_info((uint32_t)type);
    char line[CHECKS][96];
    bool wanted[CHECKS];
    struct verdict v[CHECKS] = {{.ran = true}, {.ran = true}, {.ran = true}, {.ran = true}};
    const char *tier = kt_table(t)->name;
    snprintf(line[ALONE], sizeof *line, "%s mv %s bits: alone or together", tier, info->name);
    snprintf(line[FINITE], sizeof *line, "%s mv %s shows NaN and infinity", tier, info->name);
    snprintf(line[TWIN], sizeof *line, "%s mv %s bits: as %s", tier, info->name, t ? kt_below(t)->name : "");
    snprintf(line[MANY], sizeof *line, "%s mm %s shows NaN and infinity", tier, info->name);
    for (int c = 0; c < CHECKS; c++) {
        bool fresh = c == MANY ? mm != mm_below && mm != m : m != below;
        wanted[c] = fresh && (c != TWIN || t >= KERN_TIERS) && kt_wanted(k, line[c]);
    }
    if (!wanted[ALONE] && !wanted[FINITE] && !wanted[TWIN] && !wanted[MANY]) return;
    const int64_t ns[] = {info->block, 512, 768, MOST - info->block};
    for (int i = 0; i < 4; i++) {
        struct few in = {.n = ns[i]};
        uint64_t bytes;
        dtype_row_bytes((uint32_t)type, (uint64_t)in.n, &bytes);
        in.row_bytes = (size_t)bytes;
        in.w = get(in.row_bytes * ROWS);
        in.x = get((size_t)(TOKENS * in.n) * sizeof *in.x);
        struct rng rng;
        rng_init(&rng, k->seed + (uint64_t)(type * 8 + i));
        for (int64_t r = 0; r < ROWS; r++)
            fill_weights(&rng, (enum dtype)type, W_NORMAL, in.w + (size_t)r * in.row_bytes, in.n);
        for (int64_t j = 0; j < TOKENS; j++)
            fill_floats(&rng, j % 3 ? X_NORMAL : X_OUTLIER, in.x + j * in.n, in.n);
        if (wanted[ALONE]) alone(&v[ALONE], m, &in);
        if (wanted[TWIN]) {
            float a[TOKENS * ROWS], b[TOKENS * ROWS];
            multiply(m, &in, a, 0, ROWS, 0, TOKENS);
            multiply(below, &in, b, 0, ROWS, 0, TOKENS);
            compare(&v[TWIN], a, b, in.n);
        }
        if (wanted[MANY]) not_finite(&v[MANY], mm, &in, k->seed + (uint64_t)i);
        if (wanted[FINITE]) not_finite(&v[FINITE], m, &in, k->seed + (uint64_t)i);
        free(in.w);
        free(in.x);
    }
    for (int c = 0; c < CHECKS; c++)
        if (wanted[c]) verdict_report(k, &v[c], line[c]);
}

void check_few(struct kt *k)
{
    for (int t = 0; t < KT_TABLES; t++) {
        if (!kt_table(t)) continue;
        for (int type = 0; type < DT_COUNT; type++) {
            const struct dtype_info *info = dtype_info((uint32_t)type);
            if (info && info->weights) few(k, t, type);
        }
    }
}
