/* The gate in two planes: every row comes back byte for byte, the coarse product is that of the documented Q,
 * listed rows have the bits of whole ones, the certified bound misses nothing however x is chosen against it,
 * and the statistical one only as often as it says. */
#include "base/err.h"
#include "base/half.h"
#include "tests/kern/kern.h"

#include <math.h>
#include <stdlib.h>

static const enum dtype types[] = {DT_F16, DT_BF16, DT_Q8_0};
enum { TYPES = 3 };

/* Rows of one type and their planes, each in memory of exactly its size. */
struct planes {
    enum dtype type;
    int64_t rows, n;
    size_t row_bytes;
    unsigned char *w;
    struct guarded coarse, fine, marks;
    struct kern_planes_at at;
};

static void *get(size_t n)
{
    return aligned_alloc(64, (n + 63) / 64 * 64 + 64);
}

static void planes_make(struct planes *p, enum dtype type, int64_t rows, int64_t n)
{
    uint64_t bytes;
    dtype_row_bytes(type, (uint64_t)n, &bytes);
    *p = (struct planes){.type = type, .rows = rows, .n = n, .row_bytes = (size_t)bytes};
    p->w = get((size_t)rows * p->row_bytes);
    p->at.coarse_stride = kern_plane_coarse_bytes(type, n);
    p->at.fine_stride = kern_plane_fine_bytes(type, n);
    guard_make(&p->coarse, (size_t)rows * p->at.coarse_stride);
    guard_make(&p->fine, (size_t)rows * p->at.fine_stride);
    guard_make(&p->marks, (size_t)rows * sizeof *p->at.rows);
    p->at.coarse = p->coarse.p;
    p->at.fine = p->fine.p;
    p->at.rows = (struct kern_plane_row *)(void *)p->marks.p;
    memset(p->coarse.p, 0xff, p->coarse.n);
    memset(p->fine.p, 0xff, p->fine.n);
}

static void planes_fill(struct planes *p, struct rng *rng, enum fill_w how)
{
    for (int64_t r = 0; r < p->rows; r++)
        fill_weights(rng, p->type, r % 7 == 5 ? W_ZERO : how, p->w + (size_t)r * p->row_bytes, p->n);
}

static void planes_free(struct planes *p)
{
    free(p->w);
    guard_free(&p->coarse);
    guard_free(&p->fine);
    guard_free(&p->marks);
}

static bool split(struct verdict *v, struct planes *p, const uint32_t *at)
{
    struct err e;
    if (kern_planes_split(p->type, &p->at, p->w, p->row_bytes, p->n, 0, p->rows, at, &e) != 0)
        verdict_fail(v, "split: %s", e.msg);
    if (!guard_intact(&p->coarse) || !guard_intact(&p->fine) || !guard_intact(&p->marks))
        verdict_fail(v, "split wrote before the start of a buffer");
    return !v->failed;
}

/* Value c of stored row r as the layout's description has it, without the code under test. */
static double coarse_value(const struct planes *p, int64_t r, int64_t c)
{
    const uint8_t *row = p->at.coarse + (size_t)r * p->at.coarse_stride;
    if (p->type == DT_Q8_0) {
        const uint8_t *b = row + c / 32 * 18;
        int high = c % 32 < 16 ? b[2 + c % 16] & 15 : b[2 + c % 16] >> 4;
        return (double)f16_to_f32((uint16_t)(b[0] | b[1] << 8)) * (16 * high + 7.5 - 128);
    }
    uint8_t byte = row[c / 64 * 64 + c % 16 * 4 + c % 64 / 16];
    bool half = p->type == DT_F16;
    int per_octave = half ? 1024 : 128, bias = half ? 15 : 127;
    int exponent = (int)(p->at.rows[r].base / (uint32_t)per_octave) - bias + (byte >> 4 & 7);
    double v = ldexp(1 + ((byte & 15) + 0.5) / 16, exponent);
    return byte & 0x80 ? -v : v;
}

static double norm_of(const double *v, int64_t n)
{
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += v[i] * v[i];
    return sqrt(s);
}

/* ---- Bytes and norms ---- */

static void check_norms(struct verdict *v, const struct planes *p, const uint32_t *at)
{
    const struct kern_ops *ref = kern_tier(KERN_REF);
    float *w = get((size_t)p->n * sizeof *w), column;
    double *e = get((size_t)p->n * sizeof *e), *m = get((size_t)p->n * sizeof *m);
    for (int64_t r = 0; r < p->rows; r++) {
        int64_t to = at ? at[r] : r;
        ref->decode(p->type, w, p->w + (size_t)r * p->row_bytes, p->n);
        bool finite = true;
        for (int64_t c = 0; c < p->n; c++) {
            double q = coarse_value(p, to, c);
            finite &= isfinite(w[c]);
            e[c] = w[c] - q;
            m[c] = fmax(fabs((double)w[c]), fabs(q));
            kern_plane_column(p->type, &column, &p->at, to, 1, p->n, c);
            if (finite && column != (float)e[c])
                verdict_fail(v, "column %d of row %d is %g, not %g", (int)c, (int)r, column, e[c]);
        }
        double en = norm_of(e, p->n), mn = norm_of(m, p->n);
        const struct kern_plane_row *row = &p->at.rows[to];
        if (!finite) {
            if (isfinite(row->error))
                verdict_fail(v, "row %d holds what is no number, its error is finite", (int)r);
            continue;
        }
        if (!(row->error >= en && (row->error <= en * (1 + 1e-6) || en > 3.4e38)))
            verdict_fail(v, "row %d: error %.9g, not %.9g", (int)r, row->error, en);
        if (!(row->size >= mn * (1 - 1e-9)))
            verdict_fail(v, "row %d: size %g below %g", (int)r, row->size, mn);
    }
    free(w);
    free(e);
    free(m);
}

static void round_trip(struct verdict *v, struct planes *p, struct rng *rng)
{
    uint32_t *at = get((size_t)p->rows * sizeof *at);
    for (int64_t i = 0; i < p->rows; i++) {
        int64_t j = pick(rng, i + 1);
        at[i] = at[j];
        at[j] = (uint32_t)i;
    }
    const size_t apart = p->row_bytes + 3;
    unsigned char *back = get((size_t)p->rows * apart);
    struct err e;
    if (split(v, p, at)) {
        memset(back, 0x5a, (size_t)p->rows * apart);
        if (kern_planes_join(p->type, back, apart, &p->at, p->n, 0, p->rows, at, &e) != 0)
            verdict_fail(v, "join: %s", e.msg);
        for (int64_t r = 0; r < p->rows; r++) {
            if (memcmp(back + (size_t)r * apart, p->w + (size_t)r * p->row_bytes, p->row_bytes) != 0)
                verdict_fail(v, "row %d of %d values comes back with other bytes", (int)r, (int)p->n);
            for (size_t i = p->row_bytes; i < apart; i++)
                if (back[(size_t)r * apart + i] != 0x5a) verdict_fail(v, "wrote between rows");
        }
        for (int64_t c = p->n; p->type != DT_Q8_0 && c < (int64_t)p->at.coarse_stride; c++)
            if (p->at.coarse[c / 64 * 64 + c % 16 * 4 + c % 64 / 16] != 0)
                verdict_fail(v, "coarse padding is not zero");
        for (size_t i = (size_t)(p->n / 32 * 18); p->type == DT_Q8_0 && i < p->at.coarse_stride; i++)
            if (p->at.coarse[i] != 0) verdict_fail(v, "coarse padding is not zero");
        check_norms(v, p, at);
    }
    free(at);
    free(back);
}

static void check_bytes(struct kt *k, enum dtype type)
{
    char name[64];
    snprintf(name, sizeof name, "ref planes %s bytes and norms", dtype_name(type));
    if (!kt_wanted(k, name)) return;
    struct verdict v = {.ran = true};
    struct rng rng;
    rng_init(&rng, k->seed + (uint64_t)type);
    static const int64_t ns[] = {32, 64, 96, 224, 256, 512, 1056};
    for (int i = 0; i < 7; i++)
        for (int how = 0; how < W_FILLS; how++) {
            struct planes p;
            planes_make(&p, type, 9, type == DT_Q8_0 || i % 2 ? ns[i] : ns[i] - 5);
            planes_fill(&p, &rng, (enum fill_w)how);
            round_trip(&v, &p, &rng);
            planes_free(&p);
        }
    /* Every word there is, in rows of every largest exponent, infinities and NaN too; for Q8_0 any bytes. */
    for (int i = 0; i < (type == DT_BF16 ? 256 : 32); i++) {
        struct planes p;
        planes_make(&p, type, type == DT_Q8_0 ? 8 : 64, 1024);
        uint32_t octave = type == DT_F16 ? 1024 : 128;
        for (size_t j = 0; j < (size_t)p.rows * p.row_bytes / 2; j++) {
            uint32_t word = type == DT_Q8_0 ? (uint32_t)rng_u64(&rng) : (uint32_t)j;
            if (type != DT_Q8_0 && (word & 0x7fff) >= ((uint32_t)i + 1) * octave)
                word &= 0x8000 | (octave - 1);
            p.w[2 * j] = (unsigned char)word;
            p.w[2 * j + 1] = (unsigned char)(word >> 8);
        }
        if (type == DT_Q8_0) /* finite scales: what is not a number is compared below */
            for (size_t j = 0; j < (size_t)p.rows * p.row_bytes; j += 34) p.w[j + 1] &= 0xbb;
        if (type != DT_Q8_0) /* each row has the largest exponent in it */
            for (size_t r = 0; r < 64; r++)
                p.w[r * p.row_bytes + 1] = (unsigned char)((uint32_t)i * octave >> 8),
                                      p.w[r * p.row_bytes] = (unsigned char)((uint32_t)i * octave);
        round_trip(&v, &p, &rng);
        planes_free(&p);
    }
    struct planes p;
    struct err e;
    planes_make(&p, type, 2, 64);
    memset(p.w, 0, 2 * p.row_bytes);
    if (kern_planes_split(DT_Q4_0, &p.at, p.w, 100, 64, 0, 2, NULL, &e) != ERR_UNSUPPORTED ||
        kern_planes_split(type, &p.at, p.w, p.row_bytes - 1, 64, 0, 2, NULL, &e) != ERR_ARG ||
        kern_planes_split(type, &p.at, p.w, 9000, 128, 0, 1, NULL, &e) != ERR_ARG ||
        kern_planes_split(type, &p.at, p.w, p.row_bytes, 0, 0, 2, NULL, &e) != ERR_ARG)
        verdict_fail(&v, "a call that cannot be answered was not refused");
    planes_free(&p);
    verdict_report(k, &v, name);
}

/* ---- Products ---- */

struct call {
    const struct kern_ops *ops;
    struct planes p;
    struct guarded xp, scratch, z, y, list;
    float *x; /* p.n values, then what the products see of them */
    float *seen;
    int64_t step; /* rows a call; 0: all at once */
    int64_t listed;
};

static void call_make(struct call *c, const struct kern_ops *ops, enum dtype type, int64_t rows, int64_t n)
{
    *c = (struct call){.ops = ops};
    planes_make(&c->p, type, rows, n);
    guard_make(&c->xp, ops->mv[type]->x_bytes(n, 1));
    guard_make(&c->scratch, (ops->planes[type]->scratch_bytes(n) + 63) / 64 * 64);
    guard_make(&c->z, (size_t)rows * sizeof(float));
    guard_make(&c->y, (size_t)rows * sizeof(float));
    guard_make(&c->list, (size_t)rows * sizeof(uint16_t));
    c->x = get((size_t)n * sizeof *c->x);
    c->seen = get((size_t)n * sizeof *c->seen);
    memset(c->scratch.p, 0x7e, c->scratch.n);
}

static void call_free(struct call *c)
{
    planes_free(&c->p);
    guard_free(&c->xp);
    guard_free(&c->scratch);
    guard_free(&c->z);
    guard_free(&c->y);
    guard_free(&c->list);
    free(c->x);
    free(c->seen);
}

static void run_coarse(void *arg)
{
    struct call *c = arg;
    const struct kern_planes *planes = c->ops->planes[c->p.type];
    struct kern_planes_at at = c->p.at;
    at.fine = NULL; /* never touched */
    c->ops->mv[c->p.type]->x_pack(c->xp.p, c->x, c->p.n, c->p.n, 1, 0, 1);
    planes->x_values(c->seen, c->xp.p, c->p.n);
    int64_t step = c->step ? c->step : c->p.rows;
    for (int64_t r = 0; r < c->p.rows; r += step)
        planes->coarse((float *)(void *)c->z.p + r, &at, r, step < c->p.rows - r ? step : c->p.rows - r,
                       c->p.n, c->xp.p, c->scratch.p);
}

static void run_listed(void *arg)
{
    struct call *c = arg;
    c->ops->planes[c->p.type]->listed((float *)(void *)c->y.p, &c->p.at, c->step,
                                      (const uint16_t *)(void *)c->list.p, c->listed, c->p.n, c->xp.p,
                                      c->scratch.p);
}

/* The exact gate of all rows in the tier's own arithmetic. */
static void exact_gate(const struct call *c, float *y)
{
    const struct kern_mat *m = c->ops->mv[c->p.type];
    void *scratch = get(m->scratch_bytes(c->p.n));
    m->rows(y, c->p.rows, c->p.w, c->p.row_bytes, c->p.rows, c->p.n, c->xp.p, 1, scratch);
    free(scratch);
}

static void judge_coarse(struct verdict *v, struct call *c)
{
    struct kern_plane_x px;
    kern_plane_x_make(&px, c->seen, c->p.n);
    struct kern_plane_bound b = kern_plane_bound_make(&px, 0, false, 0);
    const float *z = (const float *)(void *)c->z.p;
    for (int64_t r = 0; r < c->p.rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < c->p.n; i++) sum += coarse_value(&c->p, r, i) * (double)c->seen[i];
        /* half of the documented margin: the other half belongs to the exact product */
        double limit = 0.5 * ((double)b.rounding * c->p.at.rows[r].size + (double)b.fixed);
        double off = fabs(z[r] - sum) / limit;
        if (!(off <= 1)) verdict_fail(v, "row %d is %.9g, not %.9g, n %d", (int)r, z[r], sum, (int)c->p.n);
        if (off > v->worst) v->worst = off;
    }
}

static void products(struct verdict v[2], const struct kern_ops *ops, enum dtype type, int64_t rows,
                     int64_t n, enum fill_w wf, enum fill_x xf, struct rng *rng)
{
    struct call c;
    call_make(&c, ops, type, rows, n);
    planes_fill(&c.p, rng, wf);
    fill_floats(rng, xf, c.x, n);
    float *whole = get((size_t)rows * sizeof *whole);
    if (split(&v[0], &c.p, NULL)) {
        if (!kt_survives(run_coarse, &c)) {
            verdict_fail(&v[0], "touched memory outside its buffers, %d rows of %d", (int)rows, (int)n);
        } else {
            judge_coarse(&v[0], &c);
            memcpy(whole, c.z.p, c.z.n);
            c.step = 1 + pick(rng, 6);
            run_coarse(&c);
            if (memcmp(whole, c.z.p, c.z.n) != 0) verdict_fail(&v[0], "other bits when rows come in pieces");
        }
        exact_gate(&c, whole);
        uint16_t *list = (uint16_t *)(void *)c.list.p;
        for (int round = 0; round < 4; round++) { /* none, all, some, some behind a first row */
            c.step = round == 3 ? pick(rng, rows) : 0;
            c.listed = 0;
            for (int64_t r = c.step; r < rows; r++)
                if (round == 1 || (round > 1 && pick(rng, 3) == 0)) list[c.listed++] = (uint16_t)(r - c.step);
            if (!kt_survives(run_listed, &c))
                verdict_fail(&v[1], "touched memory outside its buffers, %d rows of %d", (int)rows, (int)n);
            for (int64_t i = 0; i < c.listed; i++)
                if (memcmp(&whole[c.step + list[i]], c.y.p + 4 * i, 4) != 0)
                    verdict_fail(&v[1], "row %d of %d values has other bits than rows gives it",
                                 (int)c.step + list[i], (int)n);
        }
        if (!guard_intact(&c.xp) || !guard_intact(&c.z) || !guard_intact(&c.y) || !guard_intact(&c.scratch))
            verdict_fail(&v[0], "wrote before the start of a buffer");
    }
    free(whole);
    call_free(&c);
}

static void check_plane_products(struct kt *k, const struct kern_ops *ops, enum dtype type)
{
    char name[2][64];
    snprintf(name[0], sizeof name[0], "%s planes %s coarse", ops->name, dtype_name(type));
    snprintf(name[1], sizeof name[1], "%s planes %s listed", ops->name, dtype_name(type));
    if (!kt_wanted(k, name[0]) && !kt_wanted(k, name[1])) return;
    struct verdict v[2] = {{.ran = true}, {.ran = true}};
    struct rng rng;
    rng_init(&rng, k->seed + 100 + (uint64_t)type);
    static const int64_t ns[] = {32, 64, 96, 160, 256, 288, 480, 512, 1024, 5120};
    for (int i = 0; i < 10; i++)
        for (int odd = 0; odd < (type == DT_Q8_0 ? 1 : 3); odd++)
            products(v, ops, type, 1 + (i * 7) % 23, ns[i] - 7 * odd, W_NORMAL, X_NORMAL, &rng);
    for (int wf = 0; wf < W_FILLS; wf++)
        for (int xf = 0; xf < X_FILLS; xf++)
            products(v, ops, type, 9, type == DT_Q8_0 ? 416 : 425, (enum fill_w)wf, (enum fill_x)xf, &rng);
    for (int i = 0; i < 2; i++)
        if (kt_wanted(k, name[i])) verdict_report(k, &v[i], name[i]);
}

/* ---- Bounds ---- */

struct tally {
    int64_t on, missed, candidates, rows;
};

/* One token against all rows. Thresholds at which the bound is tested: for every row the one at which it is
 * just on. */
static void at_the_edge(struct verdict *v, struct call *c, double k, bool columns, struct rng *rng,
                        struct tally *tally)
{
    int64_t rows = c->p.rows, n = c->p.n;
    float *y = get((size_t)rows * sizeof *y), *z = (float *)(void *)c->z.p;
    float *e = get((size_t)rows * sizeof *e);
    run_coarse(c);
    exact_gate(c, y);
    struct kern_plane_x px;
    kern_plane_x_make(&px, c->seen, n);
    bool exact = columns && px.extremes > 0;
    for (int j = 0; exact && j < px.extremes; j++) {
        kern_plane_column(c->p.type, e, &c->p.at, 0, rows, n, px.channel[j]);
        kern_plane_add_column(z, e, px.value[j], rows);
    }
    for (int64_t r = 0; r < rows; r++) {
        float bias = pick(rng, 2) ? (float)rng_normal(rng) * fabsf(y[r]) : 0;
        float gate = y[r] + bias, t = gate;
        bool strict = gate > 0; /* on at t itself; else just above it */
        if (!strict) t = nextafterf(gate, -INFINITY);
        struct kern_plane_bound b = kern_plane_bound_make(&px, k, exact, t);
        uint16_t list[1];
        bool candidate =
            kern_plane_candidates(list, z + r, bias != 0 ? &bias : NULL, &c->p.at.rows[r], 1, &b) == 1;
        tally->on++;
        if (!candidate) {
            tally->missed++;
            if (k == 0)
                verdict_fail(v,
                             "row %d, n %d: gate %.9g is on at %.9g and was certified off (z %.9g, error %g)",
                             (int)r, (int)n, gate, t, z[r], c->p.at.rows[r].error);
        }
        /* and well below the threshold it is off: the bound is no larger than it says */
        struct kern_plane_bound far = b;
        double margin = (double)b.error * c->p.at.rows[r].error + (double)b.rounding * c->p.at.rows[r].size +
                        (double)b.fixed + 0x1p-20 * fabs((double)bias);
        far.threshold = (float)((double)z[r] + bias + 1.001 * margin + 1e-5 * fabs((double)z[r] + bias));
        if (isfinite(far.threshold) && far.threshold > -3e38f && c->p.at.rows[r].size < b.size_most &&
            kern_plane_candidates(list, z + r, bias != 0 ? &bias : NULL, &c->p.at.rows[r], 1, &far) != 0)
            verdict_fail(v, "row %d is a candidate far below the threshold", (int)r);
    }
    /* the list as the engine asks for it: ascending, and what is on at t = 0 in it */
    struct kern_plane_bound b = kern_plane_bound_make(&px, k, exact, 0);
    uint16_t *list = get((size_t)rows * sizeof *list);
    int64_t count = kern_plane_candidates(list, z, NULL, c->p.at.rows, rows, &b), next = 0;
    for (int64_t i = 1; i < count; i++)
        if (list[i] <= list[i - 1]) verdict_fail(v, "the list does not ascend");
    for (int64_t r = 0; r < rows; r++) {
        bool in = next < count && list[next] == r;
        next += in;
        if (k == 0 && y[r] > 0 && !in) verdict_fail(v, "row %d is on and not in the list", (int)r);
    }
    if (next != count) verdict_fail(v, "the list names rows that are not there");
    tally->candidates += count;
    tally->rows += rows;
    free(list);
    free(y);
    free(e);
}

/* x along ±E of one row (where Cauchy-Schwarz is an equality), in all x's precision allows. */
static void against(struct call *c, int64_t row, float sign, float scale)
{
    for (int64_t i = 0; i < c->p.n; i++) {
        float e;
        kern_plane_column(c->p.type, &e, &c->p.at, row, 1, c->p.n, i);
        c->x[i] = e * sign * scale;
    }
}

static void check_certified(struct kt *k, const struct kern_ops *ops, enum dtype type)
{
    char name[64];
    snprintf(name, sizeof name, "%s planes %s certified", ops->name, dtype_name(type));
    if (!kt_wanted(k, name)) return;
    struct verdict v = {.ran = true};
    struct rng rng;
    rng_init(&rng, k->seed + 200 + (uint64_t)type);
    static const int64_t ns[] = {32, 64, 96, 512, 544, 1024, 4096};
    struct tally tally = {0};
    for (int round = 0; round < 7 * W_FILLS * 3; round++) {
        struct call c;
        int64_t n = ns[round % 7];
        call_make(&c, ops, type, 24, type == DT_Q8_0 || round % 2 ? n : n - 9);
        planes_fill(&c.p, &rng, (enum fill_w)(round / 7 % W_FILLS));
        if (split(&v, &c.p, NULL)) {
            for (int xf = 0; xf < X_FILLS; xf++) {
                fill_floats(&rng, (enum fill_x)xf, c.x, c.p.n);
                at_the_edge(&v, &c, 0, xf == X_OUTLIER, &rng, &tally);
            }
            for (int64_t r = 0; r < 6; r++)
                for (int sign = -1; sign <= 1; sign += 2) {
                    against(&c, r, (float)sign, r % 2 ? 1 : 100);
                    at_the_edge(&v, &c, 0, r > 3, &rng, &tally);
                }
        }
        call_free(&c);
    }
    /* Inputs that are no numbers make candidates of all rows. */
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        struct call c;
        call_make(&c, ops, type, 24, 512);
        planes_fill(&c.p, &rng, W_NORMAL);
        fill_floats(&rng, X_NORMAL, c.x, 512);
        c.x[77] = bad[i];
        split(&v, &c.p, NULL);
        run_coarse(&c);
        struct kern_plane_x px;
        kern_plane_x_make(&px, c.seen, 512);
        struct kern_plane_bound b = kern_plane_bound_make(&px, i ? 5 : 0, px.extremes > 0, 0.1f);
        uint16_t list[24];
        if (kern_plane_candidates(list, (float *)(void *)c.z.p, NULL, c.p.at.rows, 24, &b) != 24)
            verdict_fail(&v, "%g in x, and a row was ruled out", (double)bad[i]);
        call_free(&c);
    }
    if (!v.failed) printf("# %s: %d rows just on, none missed\n", name, (int)tally.on);
    verdict_report(k, &v, name);
}

static void check_sure(struct kt *k, const struct kern_ops *ops, enum dtype type)
{
    char name[64];
    snprintf(name, sizeof name, "%s planes %s sure", ops->name, dtype_name(type));
    if (!kt_wanted(k, name)) return;
    struct verdict v = {.ran = true};
    struct rng rng;
    rng_init(&rng, k->seed + 300 + (uint64_t)type);
    struct tally at[3] = {{0}};
    struct call c;
    call_make(&c, ops, type, 256, 1024);
    for (int64_t r = 0; r < c.p.rows; r++) { /* Gaussian weights, quantised as files are */
        struct err e;
        float row[1024];
        for (int i = 0; i < 1024; i++) row[i] = 0.02f * (float)rng_normal(&rng);
        if (kern_encode(type, c.p.w + (size_t)r * c.p.row_bytes, row, 1024, &e) != 0)
            verdict_fail(&v, "%s", e.msg);
    }
    if (split(&v, &c.p, NULL))
        for (int token = 0; token < 60; token++) {
            fill_floats(&rng, X_NORMAL, c.x, 1024);
            bool wild = token % 3 == 2; /* four channels 50 times larger, made exact */
            for (int j = 0; wild && j < 4; j++) c.x[31 + 200 * j] *= 50;
            at_the_edge(&v, &c, 3, wild, &rng, &at[0]);
            at_the_edge(&v, &c, 5, wild, &rng, &at[1]);
            at_the_edge(&v, &c, 0, wild, &rng, &at[2]);
        }
    /* Every row at its threshold: k = 3 misses 1.3e-3 of them, k = 5 3e-7. */
    if (at[0].missed > 3e-3 * (double)at[0].on)
        verdict_fail(&v, "k = 3 missed %d of %d", (int)at[0].missed, (int)at[0].on);
    if (at[1].missed > 0) verdict_fail(&v, "k = 5 missed %d of %d", (int)at[1].missed, (int)at[1].on);
    if (at[0].missed == 0)
        verdict_fail(&v, "k = 3 missed none of %d: the bound is wider than it says", (int)at[0].on);
    printf("# %s: rows at the threshold %d: missed %d (k 3), %d (k 5); candidates at 0: %.1f, %.1f, %.1f %% "
           "(certified)\n",
           name, (int)at[0].on, (int)at[0].missed, (int)at[1].missed,
           100 * (double)at[0].candidates / (double)at[0].rows,
           100 * (double)at[1].candidates / (double)at[1].rows,
           100 * (double)at[2].candidates / (double)at[2].rows);
    call_free(&c);
    verdict_report(k, &v, name);
}

void check_planes(struct kt *k)
{
    for (int i = 0; i < TYPES; i++) check_bytes(k, types[i]);
    for (int t = 0; t < KT_TABLES; t++) {
        const struct kern_ops *ops = kt_table(t), *below = ops ? kt_below(t) : NULL;
        for (int i = 0; ops && i < TYPES; i++) {
            enum dtype type = types[i];
            if (!ops->planes[type] || (below && ops->planes[type] == below->planes[type])) continue;
            check_plane_products(k, ops, type);
            check_certified(k, ops, type);
            check_sure(k, ops, type);
        }
    }
}
