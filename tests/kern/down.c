/* Down by neuron (kern_down): the sums of every layout and type against plain double arithmetic, and what the
 * contract says of their bits: the same for any columns at a time and whether or not neurons with h = 0 are
 * listed.
 *
 * The error is measured as in products.c, against the squares of the summands and of the result. */
#include "base/err.h"
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

struct shape {
    int64_t d, f;
    double share; /* of the neurons that are listed */
    enum fill_w wf;
    enum fill_x hf;
    bool shuffled; /* neurons stored in another order than the file's */
};

struct problem {
    struct shape s;
    enum dtype type;
    bool split;
    uint64_t seed;
    struct kern_down_rows w;
    struct guarded rows, groups, supers;
    uint16_t *group_of;
    uint16_t *list; /* of each block at its first neuron */
    int64_t *count; /* of each block */
    float *h;       /* of listed neurons, like list */
    float *hs;      /* of every stored neuron, 0: not listed */
    float *y0;
    double *y, *scale;
};

static const struct kern_down *entry(const struct kern_ops *ops, bool split, int type)
{
    return split ? ops->down_split[type] : ops->down_row[type];
}

static int64_t blocks(const struct shape *s)
{
    return (s->f + KERN_BLOCK - 1) / KERN_BLOCK;
}

/* A stored order: at[i] of the file's neuron i, with groups together inside each block. */
static void shuffle(struct rng *r, uint32_t *at, int64_t f, int64_t group)
{
    uint32_t *who = malloc((size_t)f * sizeof *who); /* the file's neuron at each place */
    for (int64_t i = 0; i < f; i++) who[i] = (uint32_t)i;
    for (int64_t i = f - 1; i > 0; i--) {
        int64_t j = pick(r, i + 1);
        uint32_t old = who[i];
        who[i] = who[j];
        who[j] = old;
    }
    for (int64_t b = 0; b < f; b += KERN_BLOCK) {
        int64_t end = b + KERN_BLOCK < f ? b + KERN_BLOCK : f;
        for (int64_t i = b + 1; i < end; i++) /* sorted by group, stable */
            for (int64_t j = i; j > b && who[j - 1] / group > who[j] / group; j--) {
                uint32_t old = who[j];
                who[j] = who[j - 1];
                who[j - 1] = old;
            }
    }
    for (int64_t i = 0; i < f; i++) at[who[i]] = (uint32_t)i;
    free(who);
}

/* Fills the layout; out: [f stored][d] floats. */
static void lay_out(struct problem *p, struct rng *r, const struct kern_ops *ref, float *out)
{
    const struct shape *s = &p->s;
    const struct kern_down *k = entry(ref, p->split, p->type);
    size_t own = k->neuron_bytes(s->d);
    p->w.stride = own + 64 * (size_t)pick(r, 2);
    guard_make(&p->rows, (size_t)(s->f - 1) * p->w.stride + own);
    memset(p->rows.p, 0xff, p->rows.n); /* NaN where a row is padded */
    p->w.rows = p->rows.p;
    if (!p->split) {
        for (int64_t i = 0; i < s->f; i++) {
            unsigned char *row = p->rows.p + (size_t)i * p->w.stride;
            fill_weights(r, p->type, i % 9 == 8 ? W_ZERO : s->wf, row, s->d);
            ref->decode(p->type, out + i * s->d, row, s->d);
        }
        return;
    }
    uint64_t bytes;
    dtype_row_bytes((uint32_t)p->type, (uint64_t)s->f, &bytes);
    unsigned char *file = malloc((size_t)bytes * (size_t)s->d);
    float *row = malloc((size_t)s->f * sizeof *row);
    uint32_t *at = malloc((size_t)s->f * sizeof *at);
    guard_make(&p->groups, (size_t)(s->f / k->group) * k->group_bytes(s->d));
    guard_make(&p->supers, (size_t)(s->f / 256) * k->super_bytes(s->d));
    memset(p->groups.p, 0xff, p->groups.n);
    memset(p->supers.p, 0xff, p->supers.n);
    p->group_of = malloc((size_t)s->f * sizeof *p->group_of);
    for (int64_t i = 0; i < s->f; i++) at[i] = (uint32_t)i;
    if (s->shuffled) shuffle(r, at, s->f, k->group);
    for (int64_t i = 0; i < s->f; i++) p->group_of[at[i]] = (uint16_t)(i / k->group);
    for (int64_t c = 0; c < s->d; c++) {
        fill_weights(r, p->type, c % 9 == 8 ? W_ZERO : s->wf, file + (size_t)c * bytes, s->f);
        ref->decode(p->type, row, file + (size_t)c * bytes, s->f);
        for (int64_t i = 0; i < s->f; i++) out[at[i] * s->d + c] = row[i];
    }
    struct kern_split_dst dst = {.rows = p->rows.p,
                                 .groups = p->groups.p,
                                 .supers = p->supers.n ? p->supers.p : NULL,
                                 .stride = p->w.stride,
                                 .at = at};
    struct err e;
    if (kern_split(p->type, &dst, file, (size_t)bytes, s->d, s->f, 0, s->f, 0, s->d, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        abort();
    }
    p->w.groups = p->groups.p;
    p->w.supers = dst.supers;
    p->w.group_of = p->group_of;
    free(file);
    free(row);
    free(at);
}

static void problem_make(struct problem *p, const struct kern_ops *ref, uint64_t seed)
{
    const struct shape *s = &p->s;
    struct rng r;
    rng_init(&r, seed);
    p->seed = seed;
    float *all = malloc((size_t)(s->f * s->d) * sizeof *all);
    lay_out(p, &r, ref, all);
    p->list = malloc((size_t)s->f * sizeof *p->list);
    p->count = calloc((size_t)blocks(s), sizeof *p->count);
    p->h = malloc((size_t)s->f * sizeof *p->h);
    p->hs = calloc((size_t)s->f, sizeof *p->hs);
    p->y0 = malloc((size_t)s->d * sizeof *p->y0);
    p->y = malloc((size_t)s->d * sizeof *p->y);
    p->scale = malloc((size_t)s->d * sizeof *p->scale);
    fill_floats(&r, s->hf == X_BIG || s->hf == X_TINY ? X_ZERO : X_NORMAL, p->y0, s->d);
    for (int64_t c = 0; c < s->d; c++) {
        if (c % 5 == 3) p->y0[c] = -0.0f;
        p->y[c] = (double)p->y0[c];
        p->scale[c] = p->y[c] * p->y[c];
    }
    for (int64_t i = 0; i < s->f; i++) {
        float h;
        fill_floats(&r, s->hf, &h, 1);
        if (rng_f64(&r) >= s->share) continue;
        int64_t b = i / KERN_BLOCK, n = p->count[b]++;
        p->list[b * KERN_BLOCK + n] = (uint16_t)(i % KERN_BLOCK);
        p->h[b * KERN_BLOCK + n] = p->hs[i] = h;
        for (int64_t c = 0; c < s->d; c++) {
            double v = (double)h * (double)all[i * s->d + c];
            p->y[c] += v;
            p->scale[c] += v * v;
        }
    }
    for (int64_t c = 0; c < s->d; c++) p->scale[c] += p->y[c] * p->y[c];
    free(all);
}

static void problem_free(struct problem *p)
{
    guard_free(&p->rows);
    guard_free(&p->groups);
    guard_free(&p->supers);
    free(p->group_of);
    free(p->list);
    free(p->count);
    free(p->h);
    free(p->hs);
    free(p->y0);
    free(p->y);
    free(p->scale);
}

enum how { WHOLE, PIECES, ZEROS, HOWS };
static const char *const how_name[HOWS] = {"", ", columns in pieces", ", neurons with h = 0 listed"};

struct attempt {
    const struct problem *p;
    const struct kern_down *k;
    enum how how;
    struct rng rng;
    struct guarded y, scratch;
    float h_is; /* NaN: every h is */
};

static void add_block(struct attempt *a, int64_t b, int64_t c0, int64_t c1)
{
    const struct problem *p = a->p;
    const struct shape *s = &p->s;
    int64_t first = b * KERN_BLOCK, n = s->f - first < KERN_BLOCK ? s->f - first : KERN_BLOCK;
    int64_t count = a->how == ZEROS ? n : p->count[b];
    struct guarded list, h; /* exactly as long as said: nothing may be read ahead */
    guard_make(&list, (size_t)count * sizeof(uint16_t));
    guard_make(&h, (size_t)count * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        uint16_t l = a->how == ZEROS ? (uint16_t)i : p->list[first + i];
        float v = a->how == ZEROS ? p->hs[first + i] : p->h[first + i];
        if (v == 0 && i % 2) v = -v;
        if (isnan(a->h_is)) v = NAN;
        memcpy(list.p + 2 * i, &l, 2);
        memcpy(h.p + 4 * i, &v, 4);
    }
    memset(a->scratch.p, a->how ? 0xcd : 0x7e, a->scratch.n);
    a->k->add((float *)a->y.p, &p->w, first, (const uint16_t *)(const void *)list.p,
              (const float *)(const void *)h.p, count, s->d, c0, c1, a->scratch.p);
    guard_free(&list);
    guard_free(&h);
}

static void attempt_run(void *arg)
{
    struct attempt *a = arg;
    int64_t d = a->p->s.d;
    if (a->how != PIECES) {
        for (int64_t b = 0; b < blocks(&a->p->s); b++) add_block(a, b, 0, d);
        return;
    }
    for (int64_t c0 = 0, c1; c0 < d; c0 = c1) {
        c1 = c0 + KERN_COLUMNS * (1 + pick(&a->rng, 3));
        if (c1 > d) c1 = d;
        for (int64_t b = 0; b < blocks(&a->p->s); b++) add_block(a, b, c0, c1);
    }
}

static void attempt_make(struct attempt *a, const struct problem *p, const struct kern_down *k, enum how how)
{
    memset(a, 0, sizeof *a);
    a->p = p;
    a->k = k;
    a->how = how;
    rng_init(&a->rng, p->seed + 7);
    guard_make(&a->y, (size_t)p->s.d * sizeof(float));
    memcpy(a->y.p, p->y0, a->y.n);
    guard_make(&a->scratch, k->scratch_bytes(p->s.d));
}

static void attempt_free(struct attempt *a)
{
    guard_free(&a->y);
    guard_free(&a->scratch);
}

__attribute__((format(printf, 3, 4))) static void say(struct verdict *v, const struct problem *p,
                                                      const char *fmt, ...)
{
    char what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    const struct shape *s = &p->s;
    verdict_fail(v, "%s; d %" PRId64 ", f %" PRId64 ", share %g, weights %s, h %s%s", what, s->d, s->f,
                 s->share, fill_w_name[s->wf], fill_x_name[s->hf], s->shuffled ? ", shuffled" : "");
}

/* Some hundred roundings of 2^-24 relative to the sum so far: 1e-12 with room for sums that pass through
 * larger ones (a scale's part less a minimum's). */
static void judge(struct verdict *v, const struct problem *p, const struct attempt *a)
{
    const double tol = 1e-11;
    double errors = 0, scales = 0;
    for (int64_t c = 0; c < p->s.d; c++) {
        float got;
        memcpy(&got, a->y.p + 4 * c, 4);
        double want = p->y[c], off = fabs((double)got - want);
        if (!(off < INFINITY)) return say(v, p, "column %" PRId64 " is %g, not %g", c, (double)got, want);
        if (off < 1e-35) off = 0; /* below what float can hold over a sum of denormals */
        if (p->scale[c] == 0 && off != 0) return say(v, p, "column %" PRId64 " is %g, not 0", c, (double)got);
        if (off * off > 1000 * tol * p->scale[c])
            return say(v, p, "column %" PRId64 " is %.9g, not %.9g (scale %g)", c, (double)got, want,
                       sqrt(p->scale[c]));
        errors += off * off;
        scales += p->scale[c];
    }
    double nmse = scales > 0 ? errors / scales : 0;
    if (nmse / tol > v->worst) v->worst = nmse / tol;
    if (nmse > tol) say(v, p, "NMSE %.3g, at most %.3g", nmse, tol);
    if (!guard_intact(&a->y) || !guard_intact(&a->scratch)) say(v, p, "wrote before the start of a buffer");
}

/* Weights of neurons with h = 0 become NaN: alone in their rows, or as the scales of a group that is silent
 * altogether. */
static void poison(struct problem *p, const struct kern_down *k)
{
    const struct shape *s = &p->s;
    if (!p->split) {
        for (int64_t i = 0; i < s->f; i++)
            if (p->hs[i] == 0) memset(p->rows.p + (size_t)i * p->w.stride, 0xff, k->neuron_bytes(s->d));
        return;
    }
    for (int64_t g = 0; g < s->f / k->group; g++) {
        bool silent = true;
        for (int64_t i = 0; i < s->f; i++) silent = silent && (p->group_of[i] != g || p->hs[i] == 0);
        if (silent) memset(p->groups.p + (size_t)g * k->group_bytes(s->d), 0xff, k->group_bytes(s->d));
    }
}

static void try_one(struct verdict *v, struct problem *p, const struct kern_down *k)
{
    struct attempt whole;
    v->ran = true;
    attempt_make(&whole, p, k, WHOLE);
    if (kt_survives(attempt_run, &whole))
        judge(v, p, &whole);
    else
        say(v, p, "touched memory outside its buffers");
    for (int how = PIECES; how < HOWS && !v->failed; how++) {
        struct attempt other;
        attempt_make(&other, p, k, (enum how)how);
        if (!kt_survives(attempt_run, &other))
            say(v, p, "touched memory outside its buffers%s", how_name[how]);
        else if (memcmp(whole.y.p, other.y.p, whole.y.n) != 0)
            say(v, p, "other bits%s", how_name[how]);
        attempt_free(&other);
    }
    attempt_free(&whole);
}

/* Once a shape: neurons with h = 0 whose weights are NaN, and h that is NaN. */
static void try_nan(struct verdict *v, struct problem *p, const struct kern_down *k)
{
    struct attempt whole, zeros, bad;
    attempt_make(&whole, p, k, WHOLE);
    attempt_run(&whole);
    attempt_make(&bad, p, k, WHOLE);
    bad.h_is = NAN;
    attempt_run(&bad);
    for (int64_t c = 0; c < p->s.d && p->count[0]; c++) {
        float got;
        memcpy(&got, bad.y.p + 4 * c, 4);
        if (!isnan(got)) say(v, p, "h is NaN, but column %" PRId64 " is %g", c, (double)got);
    }
    attempt_free(&bad);
    poison(p, k);
    attempt_make(&zeros, p, k, ZEROS);
    attempt_run(&zeros);
    if (memcmp(whole.y.p, zeros.y.p, whole.y.n) != 0)
        say(v, p, "weights of neurons with h = 0 are NaN, and show");
    attempt_free(&zeros);
    attempt_free(&whole);
}

/* The shapes of a type in one layout. */
static int shapes(enum dtype type, bool split, struct shape *out)
{
    const int64_t block = dtype_info((uint32_t)type)->block;
    static const int64_t any[] = {1, 5, 31, 63, 64, 65, 100, 127, 129, 192, 215, 256, 333, 384, 520};
    static const int64_t by32[] = {32, 64, 96, 128, 160, 224, 256, 288, 352, 416, 480, 512, 544, 768, 800};
    static const double shares[] = {0.11, 0.5, 0.03, 1, 0.11};
    int k = 0;
    for (int i = 0; i < 15; i++) {
        int64_t d = split || block == 1 ? any[i] : block == 32 ? by32[i] : 256 * (1 + i % 5);
        int64_t f = split && block == 32 ? 32 * (1 + 5 * i % 19) : split ? 256 * (1 + i % 3) : 1 + 37 * i;
        out[k++] = (struct shape){d, f, shares[i % 5], .shuffled = i % 3 != 0};
    }
    out[k++] = (struct shape){256, 256, 0}; /* nothing listed */
    out[k++] = (struct shape){1024, 2048, 0.11, .shuffled = true};
    out[k++] = (struct shape){4096, 512, 0.11};
    for (int w = 1; w < W_FILLS; w++) out[k++] = (struct shape){256, 768, 0.3, .wf = (enum fill_w)w};
    for (int x = 1; x < X_FILLS; x++)
        out[k++] = (struct shape){256, 768, 0.3, .hf = (enum fill_x)x, .shuffled = true};
    return k;
}

static void down_type(struct kt *k, int type, bool split)
{
    const struct kern_ops *ref = kern_tier(KERN_REF);
    const struct kern_down *todo[KT_TABLES] = {0};
    char names[KT_TABLES][64];
    struct verdict verdicts[KT_TABLES];
    static struct shape list[64];
    bool any = false;
    memset(verdicts, 0, sizeof verdicts);
    for (int t = 0; t < KT_TABLES; t++) {
        const struct kern_ops *ops = kt_table(t);
        if (!ops) continue;
        snprintf(names[t], sizeof names[t], "%s down %s %s", ops->name, split ? "split" : "row",
                 dtype_name((uint32_t)type));
        if (t > 0 && entry(ops, split, type) == entry(kt_below(t), split, type)) continue;
        if (!kt_wanted(k, names[t])) continue;
        todo[t] = entry(ops, split, type);
        if (!todo[t]) verdict_fail(&verdicts[t], "no such function");
        any = true;
    }
    int count = any ? shapes((enum dtype)type, split, list) : 0;
    for (int c = 0; c < count; c++) {
        struct problem p = {.s = list[c], .type = (enum dtype)type, .split = split};
        problem_make(&p, ref, k->seed + (uint64_t)(type * 2000 + split * 1000 + c));
        for (int t = 0; t < KT_TABLES; t++)
            if (todo[t] && !verdicts[t].failed) try_one(&verdicts[t], &p, todo[t]);
        for (int t = 0; t < KT_TABLES && c % 3 == 0; t++)
            if (todo[t] && !verdicts[t].failed) try_nan(&verdicts[t], &p, todo[t]);
        problem_free(&p);
    }
    for (int t = 0; t < KT_TABLES; t++)
        if (todo[t] || verdicts[t].failed) verdict_report(k, &verdicts[t], names[t]);
}

void check_down(struct kt *k)
{
    for (int type = 0; type < DT_COUNT; type++) {
        const struct dtype_info *info = dtype_info((uint32_t)type);
        if (!info || !info->weights) continue;
        down_type(k, type, false);
        if (kern_can_split((enum dtype)type)) down_type(k, type, true);
    }
}
