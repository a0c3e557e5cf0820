/* Synthetic models: random weights at real scales, streamed into a GGUF file. See tools.h. */
#include "engine/synth.h"

#include "base/err.h"
#include "base/rng.h"
#include "base/threads.h"
#include "io/gguf.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A piece is what one thread makes at a time, a batch what is written at once. Pieces have a random stream
 * each, so who makes them does not matter; both are multiples of every block length. */
enum { PIECE = 1 << 16, BATCH_PIECES = 64, QUANTILES = 1 << 16 };

double synth_normal(double x)
{
    return 0.5 * erfc(-x * M_SQRT1_2);
}

/* P. J. Acklam's rational approximation, relative error below 1.2e-9. */
double synth_normal_quantile(double p)
{
    static const double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                               1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
    static const double b[] = {-5.447609879822406e+01, 1.615858368580409e+02,  -1.556989798598866e+02,
                               6.680131188771972e+01,  -1.328068155288572e+01, 1};
    static const double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                               -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
    static const double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                               3.754408661907416e+00, 1};
    double u = p < 0.5 ? p : 1 - p, sign = p < 0.5 ? 1 : -1, num = 0, den = 0;
    if (u < 0.02425) {
        double q = sqrt(-2 * log(u));
        for (int i = 0; i < 6; i++) num = num * q + c[i];
        for (int i = 0; i < 5; i++) den = den * q + d[i];
        return sign * num / den;
    }
    double q = u - 0.5, r = q * q;
    for (int i = 0; i < 6; i++) num = num * r + a[i];
    for (int i = 0; i < 6; i++) den = den * r + b[i];
    return sign * num * q / den;
}

struct job {
    const struct synth_tensor *t;
    const float *quantile; /* QUANTILES values of the standard normal, ascending: 16 random bits pick one */
    uint64_t seed;
    uint64_t first, count; /* values of this batch */
    uint64_t piece;        /* values */
    size_t piece_bytes;
    unsigned char *out;
    float *values; /* two pieces a thread */
    _Atomic int rc;
    struct err err; /* of the first thread that failed */
};

/* Seed of one piece: all of its parts go through the generator, so that neighbours share nothing. */
static uint64_t piece_seed(uint64_t seed, uint64_t tensor, uint64_t piece)
{
    struct rng r;
    rng_init(&r, seed);
    r.s = rng_u64(&r) + tensor;
    r.s = rng_u64(&r) + piece;
    return rng_u64(&r);
}

static void fill(float *v, uint64_t n, const struct job *j, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed);
    float scale = j->t->scale, base = j->t->fill == SYNTH_NEAR_ONE ? 1.0f : 0.0f;
    for (uint64_t i = 0; i < n; i += 4) {
        uint64_t bits = rng_u64(&r);
        for (uint64_t k = i; k < i + 4 && k < n; k++, bits >>= 16)
            v[k] = base + scale * j->quantile[bits & (QUANTILES - 1)];
    }
}

static bool in_rows(const struct synth_tensor *t)
{
    return t->fill == SYNTH_PLANTED || t->fill == SYNTH_OUTPUTS;
}

/* The rows of a piece, which holds whole ones. */
static int plant_rows(const struct job *j, uint64_t first, float *v, uint64_t n, unsigned char *code,
                      float *back, struct err *e)
{
    const struct synth_tensor *t = j->t;
    for (uint64_t i = 0; i < n; i += t->ne[0]) {
        uint64_t row = (first + i) / t->ne[0];
        if (t->shared_heads > 1 && row >= t->shared_from) {
            uint64_t at = row - t->shared_from, head = at / t->head;
            fill(v + i, t->ne[0], j, piece_seed(j->seed, 1, head / t->shared_heads * t->head + at % t->head));
        }
        synth_plant_row(t, row, v + i);
        int rc = t->exact ? synth_plant_exact(t, row, v + i, code, back, e) : 0;
        if (rc) return rc;
    }
    return 0;
}

static void make_pieces(struct team_member *m, void *arg)
{
    struct job *j = arg;
    float *v = j->values + (size_t)m->ith * 2 * j->piece;
    int64_t pieces = (int64_t)((j->count + j->piece - 1) / j->piece), p;
    while (team_next(m, 0, pieces, 1, &p)) {
        uint64_t begin = (uint64_t)p * j->piece,
                 n = j->count - begin < j->piece ? j->count - begin : j->piece;
        fill(v, n, j, piece_seed(j->seed, 0, j->first / j->piece + (uint64_t)p));
        unsigned char *out = j->out + (size_t)p * j->piece_bytes;
        struct err e;
        int rc = in_rows(j->t) ? plant_rows(j, j->first + begin, v, n, out, v + j->piece, &e) : 0;
        if (rc == 0) rc = kern_encode(j->t->type, out, v, (int64_t)n, &e);
        int none = 0;
        if (rc && atomic_compare_exchange_strong(&j->rc, &none, rc)) j->err = e;
    }
}

struct synth {
    const struct synth_settings *s;
    struct team *team;
    float *quantile, *values;
    unsigned char *out;
    uint64_t total, done; /* values */
};

/* Planted tensors are made in whole rows. */
static uint64_t piece_values(const struct synth_tensor *t)
{
    if (!in_rows(t)) return PIECE;
    return t->ne[0] > PIECE ? t->ne[0] : PIECE / t->ne[0] * t->ne[0];
}

static int write_tensor(struct synth *y, struct gguf_writer *w, const struct synth_tensor *t, int index,
                        struct err *e)
{
    uint64_t n = t->ne[0] * t->ne[1], piece = piece_values(t);
    const struct dtype_info *info = dtype_info(t->type);
    struct job j = {.t = t,
                    .quantile = y->quantile,
                    .seed = piece_seed(y->s->seed, (uint64_t)index + 1, 0),
                    .piece = piece,
                    .piece_bytes = (size_t)(piece / info->block) * info->bytes,
                    .out = y->out,
                    .values = y->values};
    for (; j.first < n; j.first += j.count) {
        uint64_t most = piece * BATCH_PIECES;
        j.count = n - j.first < most ? n - j.first : most;
        team_run(y->team, make_pieces, &j);
        if (atomic_load(&j.rc)) {
            if (e) *e = j.err;
            return err_prefix(e, atomic_load(&j.rc), "%s", t->name);
        }
        int rc = gguf_write(w, j.out, (size_t)(j.count / info->block * info->bytes), e);
        if (rc) return rc;
        y->done += j.count;
        if (y->s->progress && y->s->progress((double)y->done / (double)y->total, y->s->progress_arg))
            return err_set(e, ERR_CANCELLED, "stopped: nothing was written to '%s'", y->s->path);
    }
    return 0;
}

static int check_type(const struct synth_settings *s, const struct synth_tensor *t, struct err *e)
{
    if (!kern_can_encode(t->type))
        return err_set(e, ERR_ARG,
                       "type %s cannot be written: expected F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K",
                       dtype_name(t->type));
    uint64_t row;
    if (!dtype_row_bytes(t->type, t->ne[0], &row))
        return err_set(e, ERR_ARG,
                       "%s has rows of %" PRIu64
                       " values, which type %s cannot hold: it needs a multiple of %" PRIu32 " (shape %s)",
                       t->name, t->ne[0], dtype_name(t->type), dtype_info(t->type)->block, s->shape.name);
    return 0;
}

int synth_check(const struct synth_settings *s, const struct synth_tensor *t, int n, struct err *e)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < n; i++) rc = check_type(s, &t[i], e);
    return rc;
}

int synth_put_header(struct gguf_writer *w, const struct synth_settings *s, const struct synth_tensor *t,
                     int n, struct err *e)
{
    int rc = synth_put_metadata(w, s, e);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = gguf_declare(w, t[i].name, t[i].type, t[i].n_dims, t[i].ne, e);
    return rc ? rc : gguf_write_header(w, e);
}

int synth_write(const struct synth_settings *s, struct err *e)
{
    struct synth y = {.s = s};
    struct gguf_writer *w = NULL;
    int n = 0, rc;
    struct synth_tensor *t = synth_tensors(s, &n);
    uint64_t piece = PIECE;
    if (!t) return err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    if ((rc = synth_check(s, t, n, e))) goto out;
    if (s->stats.sparsity != 0 && (rc = synth_plant(s, t, n, e))) goto out;
    for (int i = 0; i < n; i++) {
        y.total += t[i].ne[0] * t[i].ne[1];
        if (piece_values(&t[i]) > piece) piece = piece_values(&t[i]);
    }
    if ((rc = team_create(&y.team, &(struct team_settings){.threads = s->threads}, e))) goto out;
    y.quantile = malloc(QUANTILES * sizeof *y.quantile);
    y.values = malloc((size_t)team_size(y.team) * 2 * piece * sizeof *y.values);
    y.out = malloc((size_t)BATCH_PIECES * piece * sizeof(float)); /* no type is wider than F32 */
    if (!y.quantile || !y.values || !y.out) {
        rc = err_set(e, ERR_NOMEM, "no memory for the buffers of %d threads", team_size(y.team));
        goto out;
    }
    for (int i = 0; i < QUANTILES; i++) y.quantile[i] = (float)synth_normal_quantile((i + 0.5) / QUANTILES);

    if ((rc = gguf_writer_create(&w, s->path, e))) goto out;
    if ((rc = synth_put_header(w, s, t, n, e))) goto out;
    for (int i = 0; i < n; i++)
        if ((rc = write_tensor(&y, w, &t[i], i, e))) goto out;
    rc = gguf_writer_finish(w, e);
out:
    gguf_writer_destroy(&w);
    team_destroy(&y.team);
    free(y.quantile);
    free(y.values);
    free(y.out);
    synth_tensors_free(t, n);
    return rc;
}
