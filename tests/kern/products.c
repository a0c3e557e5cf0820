/* Products of every weight type: mv and mm of each tier against a double sum over the decoded row.
 *
 * The error is measured against S² = Σ (w·x)² + (Σ w·x)², summed over all results. The first term is what the
 * square of the sum would be if the products had random signs: unlike the square of the result itself it does
 * not vanish where they cancel. The second rules where they all agree. */
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

enum { OPS = 2 }; /* mv, mm */

struct shape {
    int64_t rows, n, T;
    enum fill_w wf;
    enum fill_x xf;
    int64_t row_pad, ldx_pad, ldy_pad, shift; /* bytes, floats, floats, bytes */
};

/* One case: inputs, the oracle's results and scales. */
struct problem {
    struct shape s;
    enum dtype type;
    uint64_t seed;
    size_t row_bytes;
    int64_t ldx, ldy;
    struct guarded w, x;
    double *y, *scale;
};

static const uint32_t HOLE = 0x7fc0dead; /* a NaN that must stay where nothing is to be written */

static void problem_make(struct problem *p, const struct kern_ops *ref, uint64_t seed)
{
    const struct shape *s = &p->s;
    uint64_t packed;
    dtype_row_bytes(p->type, (uint64_t)s->n, &packed);
    p->seed = seed;
    p->row_bytes = (size_t)packed + (size_t)s->row_pad;
    p->ldx = s->n + s->ldx_pad;
    p->ldy = s->rows + s->ldy_pad;
    guard_make(&p->w, (size_t)(s->rows - 1) * p->row_bytes + (size_t)packed + (size_t)s->shift);
    guard_make(&p->x, (size_t)((s->T - 1) * p->ldx + s->n) * sizeof(float));
    struct rng rng;
    rng_init(&rng, seed);
    float *x = (float *)p->x.p;
    for (int64_t i = 0; i < (s->T - 1) * p->ldx + s->n; i++) memcpy(&x[i], &HOLE, 4);
    for (int64_t t = 0; t < s->T; t++) fill_floats(&rng, s->xf, x + t * p->ldx, s->n);
    memset(p->w.p, 0xff, p->w.n);
    for (int64_t r = 0; r < s->rows; r++) /* every fifth row is all zero */
        fill_weights(&rng, p->type, r % 5 == 4 ? W_ZERO : s->wf, p->w.p + (size_t)r * p->row_bytes, s->n);

    float *row = malloc((size_t)s->n * sizeof *row);
    p->y = malloc((size_t)(s->T * s->rows) * sizeof *p->y);
    p->scale = malloc((size_t)(s->T * s->rows) * sizeof *p->scale);
    for (int64_t r = 0; r < s->rows; r++) {
        ref->decode(p->type, row, p->w.p + (size_t)r * p->row_bytes, s->n);
        for (int64_t t = 0; t < s->T; t++) {
            const float *xt = x + t * p->ldx;
            double sum[4] = {0}, squares[4] = {0};
            for (int64_t i = 0; i < s->n; i++) {
                double v = (double)row[i] * xt[i];
                sum[i & 3] += v;
                squares[i & 3] += v * v;
            }
            double y = sum[0] + sum[1] + (sum[2] + sum[3]);
            p->y[t * s->rows + r] = y;
            p->scale[t * s->rows + r] = squares[0] + squares[1] + (squares[2] + squares[3]) + y * y;
        }
    }
    free(row);
}

static void problem_free(struct problem *p)
{
    guard_free(&p->w);
    guard_free(&p->x);
    free(p->y);
    free(p->scale);
}

struct attempt {
    const struct problem *p;
    const struct kern_mat *m;
    struct guarded xp, scratch, y;
    struct rng rng;
    bool split, rounds;
};

static void attempt_run(void *arg)
{
    struct attempt *a = arg;
    const struct problem *p = a->p;
    const struct shape *s = &p->s;
    const float *x = (const float *)p->x.p;
    float *y = (float *)a->y.p;
    if (!a->split) {
        a->m->x_pack(a->xp.p, x, p->ldx, s->n, s->T, 0, s->T);
        a->m->rows(y, p->ldy, p->w.p, p->row_bytes, s->rows, s->n, a->xp.p, s->T, a->scratch.p);
        return;
    }
    /* Tokens in groups from the last to the first, rows in pieces of random lengths. */
    int64_t group = a->m->x_group;
    for (int64_t t = (s->T - 1) / group * group; t >= 0; t -= group)
        a->m->x_pack(a->xp.p, x, p->ldx, s->n, s->T, t, t + group < s->T ? t + group : s->T);
    for (int64_t r = 0, len; r < s->rows; r += len) {
        len = 1 + pick(&a->rng, a->m->row_group + 2);
        if (len > s->rows - r) len = s->rows - r;
        a->m->rows(y + r, p->ldy, p->w.p + (size_t)r * p->row_bytes, p->row_bytes, len, s->n, a->xp.p, s->T,
                   a->scratch.p);
    }
}

static void attempt_make(struct attempt *a, const struct problem *p, const struct kern_mat *m, bool split)
{
    const struct shape *s = &p->s;
    memset(a, 0, sizeof *a);
    a->p = p;
    a->m = m;
    a->split = split;
    rng_init(&a->rng, p->seed + 1);
    guard_make(&a->xp, m->x_bytes(s->n, s->T));
    guard_make(&a->scratch, m->scratch_bytes(s->n));
    guard_make(&a->y, (size_t)((s->T - 1) * p->ldy + s->rows) * sizeof(float));
    memset(a->xp.p, split ? 0xcd : 0x7e, a->xp.n); /* nothing may depend on what was there before */
    memset(a->scratch.p, split ? 0xcd : 0x7e, a->scratch.n);
    for (size_t i = 0; i < a->y.n / 4; i++) memcpy(a->y.p + 4 * i, &HOLE, 4);
}

static void attempt_free(struct attempt *a)
{
    guard_free(&a->xp);
    guard_free(&a->scratch);
    guard_free(&a->y);
}

/* By the arithmetic, which the size of the prepared tokens gives away; the worst seen is behind each.
 * Rounded to BF16: the mean of the squared roundings is 7e-7, but a token alone with equal rows is one sample
 * of them, and over thirty seeds the worst was 9e-6. 8 bits: the tolerance of quantised products (3.5e-4 with
 * Q4_1's minima, mostly below 1e-4); outliers take their block's scale. 16 bits: 6e-6 with Q5_1, 1e-6 with
 * others, outliers included. Floats, also of decoded rows: 1.1e-11; the roundings of their sums are all that
 * is left. */
static double tolerance(const struct kern_mat *m, enum fill_x xf, bool rounds)
{
    const int64_t n = 4096, T = 64;
    double bytes = (double)m->x_bytes(n, T) / (double)(n * T);
    if (rounds) return 4e-5;
    if (bytes >= 3.9) return 5e-11;
    if (bytes >= 1.9) return 2e-5;
    return xf == X_OUTLIER ? 2e-3 : 5e-4;
}

static void say(struct verdict *v, const struct problem *p, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static void say(struct verdict *v, const struct problem *p, const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const struct shape *s = &p->s;
    verdict_fail(v,
                 "%s; rows %" PRId64 ", n %" PRId64 ", T %" PRId64 ", weights %s, x %s, row pad %" PRId64
                 ", ldx +%" PRId64 ", ldy +%" PRId64 ", shift %" PRId64,
                 what, s->rows, s->n, s->T, fill_w_name[s->wf], fill_x_name[s->xf], s->row_pad, s->ldx_pad,
                 s->ldy_pad, s->shift);
}

static void judge(struct verdict *v, const struct problem *p, const struct attempt *a)
{
    const struct shape *s = &p->s;
    double errors = 0, scales = 0, tol = tolerance(a->m, s->xf, a->rounds);
    for (int64_t t = 0; t < s->T; t++) {
        for (int64_t r = 0; r < p->ldy && t * p->ldy + r < (int64_t)(a->y.n / 4); r++) {
            float got;
            uint32_t bits;
            memcpy(&got, a->y.p + 4 * (t * p->ldy + r), 4);
            memcpy(&bits, &got, 4);
            if (r >= s->rows) {
                if (bits != HOLE) return say(v, p, "wrote between results at token %" PRId64, t);
                continue;
            }
            double want = p->y[t * s->rows + r], scale = p->scale[t * s->rows + r], off = fabs(got - want);
            if (scale == 0 && got != 0)
                return say(v, p, "row %" PRId64 " token %" PRId64 " is %g, not 0", r, t, got);
            if (!(off < INFINITY))
                return say(v, p, "row %" PRId64 " token %" PRId64 " is %g, not %g", r, t, got, want);
            if (off < 1e-35) off = 0; /* below what float can hold over a sum of denormals */
            if (s->xf != X_OUTLIER && off * off > 40 * tol * scale)
                return say(v, p, "row %" PRId64 " token %" PRId64 " is %.9g, not %.9g (scale %g)", r, t, got,
                           want, sqrt(scale));
            errors += off * off;
            scales += scale;
        }
    }
    double nmse = scales > 0 ? errors / scales : 0;
    if (nmse / tol > v->worst) v->worst = nmse / tol;
    if (nmse > tol) say(v, p, "NMSE %.3g, at most %.3g", nmse, tol);
    if (!guard_intact(&a->y) || !guard_intact(&a->xp) || !guard_intact(&a->scratch))
        say(v, p, "wrote before the start of a buffer");
}

static void try_one(struct verdict *v, const struct problem *p, const struct kern_mat *m, bool rounds)
{
    struct attempt whole, parts;
    v->ran = true;
    attempt_make(&whole, p, m, false);
    attempt_make(&parts, p, m, true);
    whole.rounds = rounds;
    if (!kt_survives(attempt_run, &whole)) {
        say(v, p, "touched memory outside its buffers");
    } else {
        judge(v, p, &whole);
        if (!kt_survives(attempt_run, &parts))
            say(v, p, "touched memory outside its buffers, rows in pieces");
        else if (memcmp(whole.y.p, parts.y.p, whole.y.n) != 0)
            say(v, p, "other bits when rows and tokens come in pieces");
    }
    attempt_free(&whole);
    attempt_free(&parts);
}

/* The shapes of type `type`: a list that ends with rows = 0. */
static int shapes(enum dtype type, struct shape *out)
{
    const int64_t block = dtype_info(type)->block;
    static const int64_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64};
    static const int64_t rows[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33};
    static const int64_t ns[] = {1, 2, 3, 5, 8, 9, 31, 54};
    static const int64_t odd[] = {1, 7, 15, 31, 33, 64, 100, 172};
    int k = 0;
    /* Tokens and rows, at a length with a tail. */
    for (int i = 0; i < 11; i++)
        out[k++] = (struct shape){rows[(i * 7 + 3) % 11],
                                  block == 1    ? 215
                                  : block == 32 ? 416
                                                : 768,
                                  tokens[i],
                                  .ldx_pad = i % 3,
                                  .ldy_pad = i % 4,
                                  .row_pad = i % 2 ? 0 : 6};
    for (int i = 0; i < 11; i++)
        out[k++] = (struct shape){rows[i], block == 256 ? 512 : 1024, tokens[10 - i] > 9 ? 1 : tokens[10 - i],
                                  .shift = i % 3};
    /* Lengths from one block up. */
    for (int i = 0; i < 8; i++) {
        int64_t n = block == 1 ? odd[i] : block * ns[i];
        out[k++] = (struct shape){5, n, 1 + i % 3, .ldy_pad = 1, .shift = i & 1};
        out[k++] = (struct shape){18, n > 8192 ? 8192 : n, 19, .ldx_pad = 3};
    }
    out[k++] = (struct shape){9, 4096, 2};
    out[k++] = (struct shape){7, 11008, 1, .row_pad = 2};
    out[k++] = (struct shape){6, 13824, 3};
    out[k++] = (struct shape){37, 512, 512, .ldy_pad = 5};
    out[k++] = (struct shape){70, 256, 130};
    /* Fills. */
    for (int w = 0; w < W_FILLS; w++) {
        out[k++] = (struct shape){12, 1024, 1, .wf = (enum fill_w)w};
        out[k++] = (struct shape){12, 768, 21, .wf = (enum fill_w)w};
    }
    for (int x = 1; x < X_FILLS; x++) {
        out[k++] = (struct shape){12, 1024, 1, .xf = (enum fill_x)x};
        out[k++] = (struct shape){12, 768, 21, .xf = (enum fill_x)x};
    }
    for (int w = W_MAX; w <= W_MIN; w++) {
        for (int x = X_CONST; x <= X_ALTERNATE; x++) {
            out[k++] = (struct shape){12, 4096, 1, .wf = (enum fill_w)w, .xf = (enum fill_x)x};
            out[k++] = (struct shape){12, 2048, 21, .wf = (enum fill_w)w, .xf = (enum fill_x)x};
        }
    }
    /* A tail after several pieces, with odd counts of tiles. */
    if (block == 1) out[k++] = (struct shape){37, 1111, 41, .row_pad = 2, .shift = 1};
    return k;
}

static const struct kern_mat *entry(const struct kern_ops *ops, int op, int type)
{
    return op ? ops->mm[type] : ops->mv[type];
}

void check_products(struct kt *k)
{
    const struct kern_ops *ref = kern_tier(KERN_REF);
    static struct shape list[128];
    for (int type = 0; type < DT_COUNT; type++) {
        const struct dtype_info *info = dtype_info((uint32_t)type);
        if (!info || !info->weights) continue;
        const struct kern_mat *todo[KT_TABLES][OPS] = {{0}};
        char names[KT_TABLES][OPS][64];
        struct verdict verdicts[KT_TABLES][OPS];
        memset(verdicts, 0, sizeof verdicts);
        bool any = false;
        for (int t = 0; t < KT_TABLES; t++) {
            for (int op = 0; op < OPS; op++) {
                const struct kern_ops *ops = kt_table(t);
                if (!ops) continue;
                snprintf(names[t][op], sizeof names[t][op], "%s %s %s", ops->name, op ? "mm" : "mv",
                         info->name);
                if (t > 0 && entry(ops, op, type) == entry(kt_below(t), op, type)) continue;
                if (t == 0 && op == 1 && ops->mm[type] == ops->mv[type]) continue;
                if (!kt_wanted(k, names[t][op])) continue;
                todo[t][op] = entry(ops, op, type);
                any = true;
            }
        }
        int count = any ? shapes((enum dtype)type, list) : 0;
        for (int c = 0; c < count; c++) {
            struct problem p = {.s = list[c], .type = (enum dtype)type};
            problem_make(&p, ref, k->seed + (uint64_t)(type * 1000 + c));
            for (int t = 0; t < KT_TABLES; t++)
                for (int op = 0; op < OPS; op++)
                    if (todo[t][op] && !verdicts[t][op].failed)
                        try_one(&verdicts[t][op], &p, todo[t][op], op == 1 && kt_rounds(t, type));
            problem_free(&p);
        }
        for (int t = 0; t < KT_TABLES; t++)
            for (int op = 0; op < OPS; op++)
                if (todo[t][op]) verdict_report(k, &verdicts[t][op], names[t][op]);
    }
}
