/* The recorder: counts, sums, histograms and traces while the tokens come by; curves from sampled tokens. */
#include "placement/profile_priv.h"

#include "base/err.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    BINS = 64,      /* of a histogram of magnitudes, half an octave each */
    LOWEST = -24,   /* the first begins at 2^LOWEST */
    TRACE_MIB = 48, /* in a file, by default */
    TOKENS_MOST = INT32_MAX,
};

/* What is not in the profile: per layer. */
struct tally {
    float *norms;
    double *sum;    /* of magnitudes, calibration */
    uint32_t *bins; /* f × BINS */
    uint64_t tokens[PROFILE_TEXTS];
    float *grid; /* n */
    double *cett, *left_out;
    uint32_t n_grid, samples;
    uint32_t position, traced; /* in this piece */
};

struct profile_recorder {
    struct profile *p;
    struct tally *tally;
    uint32_t layers;
    uint32_t *list;
    double *vector; /* width doubles */
    uint64_t trace_room, traced[PROFILE_TEXTS];
    enum profile_text text;
    uint32_t trace_begin, trace_end, run_cap;
    bool begun;
};

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "no memory to record a profile");
}

void profile_recorder_destroy(struct profile_recorder **pr)
{
    if (!pr || !*pr) return;
    struct profile_recorder *r = *pr;
    for (uint32_t i = 0; r->tally && i < r->layers; i++) {
        struct tally *t = &r->tally[i];
        free(t->norms);
        free(t->sum);
        free(t->bins);
        free(t->grid);
        free(t->cett);
        free(t->left_out);
    }
    free(r->tally);
    free(r->list);
    free(r->vector);
    profile_close(&r->p);
    free(r);
    *pr = NULL;
}

int profile_recorder_create(struct profile_recorder **out, const struct profile_settings *s, struct err *e)
{
    *out = NULL;
    struct profile_recorder *r = calloc(1, sizeof *r);
    if (!r) return no_memory(e);
    int rc = profile_create(&r->p, &s->subject, e);
    if (rc) {
        free(r);
        return rc;
    }
    size_t f = s->subject.neurons;
    r->layers = s->subject.layers;
    uint64_t token = (uint64_t)s->subject.layers * ((f + 7) / 8 + 3);
    uint64_t bytes = s->trace_bytes ? s->trace_bytes : (uint64_t)TRACE_MIB << 20;
    r->trace_room = bytes / PROFILE_TEXTS / token;
    r->tally = calloc(s->subject.layers, sizeof *r->tally);
    r->list = malloc(f * sizeof *r->list);
    r->vector = malloc(s->subject.width * sizeof *r->vector);
    if (!r->tally || !r->list || !r->vector) rc = no_memory(e);
    for (uint32_t i = 0; rc == 0 && i < s->subject.layers; i++) {
        struct tally *t = &r->tally[i];
        t->norms = calloc(f, sizeof *t->norms);
        t->sum = calloc(f, sizeof *t->sum);
        t->bins = calloc(f * BINS, sizeof *t->bins);
        rc = t->norms && t->sum && t->bins ? profile_layer_create(r->p, i, e) : no_memory(e);
    }
    if (rc)
        profile_recorder_destroy(&r);
    else
        *out = r;
    return rc;
}

static int check_layer(const struct profile_recorder *r, uint32_t layer, struct err *e)
{
    uint32_t n = r->p->subject.layers;
    return layer < n ? 0 : err_set(e, ERR_ARG, "layer %u of a profile of %u layers", layer, n);
}

int profile_recorder_layer(struct profile_recorder *r, uint32_t layer, const float *norms, float epsilon,
                           struct err *e)
{
    int rc = check_layer(r, layer, e);
    if (rc) return rc;
    if (!(epsilon >= 0.0f) || isinf(epsilon))
        return err_set(e, ERR_ARG, "the epsilon of layer %u is %g: expected a number from 0", layer,
                       (double)epsilon);
    for (uint32_t i = 0; i < r->p->subject.neurons; i++)
        if (!(norms[i] >= 0.0f) || isinf(norms[i]))
            return err_set(e, ERR_NUMERIC, "layer %u: the norm of neuron %u's down column is %g", layer, i,
                           (double)norms[i]);
    memcpy(r->tally[layer].norms, norms, r->p->subject.neurons * sizeof *norms);
    r->p->layers[layer].epsilon = epsilon;
    return 0;
}

uint64_t profile_recorder_trace_room(const struct profile_recorder *r)
{
    return r->trace_room;
}

/* Every layer must be done with the piece. */
static int end_piece(struct profile_recorder *r, struct err *e)
{
    struct profile *p = r->p;
    if (!r->begun) return 0;
    r->begun = false;
    uint32_t tokens = r->tally[0].position, traced = r->tally[0].traced;
    for (uint32_t i = 1; i < p->subject.layers; i++)
        if (r->tally[i].position != tokens)
            return err_set(e, ERR_STATE, "layer %u was given %u tokens of a piece, layer 0 %u", i,
                           r->tally[i].position, tokens);
    p->tokens[r->text] += tokens;
    r->traced[r->text] += traced;
    if (traced == 0)
        p->n_runs -= r->trace_end > r->trace_begin;
    else
        p->runs[p->n_runs - 1].tokens = traced; /* a text may end before the run was full */
    return 0;
}

int profile_recorder_begin(struct profile_recorder *r, enum profile_text text, uint64_t start,
                           uint32_t trace_begin, uint32_t trace_end, struct err *e)
{
    struct profile *p = r->p;
    int rc = end_piece(r, e);
    if (rc) return rc;
    if (trace_end < trace_begin) trace_end = trace_begin;
    if (trace_end - trace_begin > r->trace_room - r->traced[text])
        return err_set(e, ERR_FULL, "a run of %u tokens: the profile has room for %llu more",
                       trace_end - trace_begin, (unsigned long long)(r->trace_room - r->traced[text]));
    if (trace_end > trace_begin) {
        if (p->n_runs == r->run_cap) {
            uint32_t cap = r->run_cap ? r->run_cap * 2 : 16;
            struct profile_run *runs = realloc(p->runs, cap * sizeof *runs);
            if (!runs) return no_memory(e);
            p->runs = runs;
            r->run_cap = cap;
        }
        p->runs[p->n_runs++] = (struct profile_run){.text = text, .start = start + trace_begin};
    }
    r->text = text;
    r->trace_begin = trace_begin;
    r->trace_end = trace_end;
    r->begun = true;
    for (uint32_t i = 0; i < p->subject.layers; i++) r->tally[i].position = r->tally[i].traced = 0;
    return 0;
}

/* Half an octave is twice the exponent, plus one where the mantissa is above √2. */
static uint32_t bin_of(float magnitude)
{
    int exponent;
    float m = frexpf(magnitude, &exponent); /* m in [0.5, 1), magnitude = m·2^exponent */
    int bin = 2 * (exponent - 1 - LOWEST) + (m >= 0.70710678f);
    return bin < 0 ? 0 : bin >= BINS ? BINS - 1 : (uint32_t)bin;
}

static int add_token(struct profile_recorder *r, uint32_t layer, const float *h, bool trace, struct err *e)
{
    struct profile_layer *l = &r->p->layers[layer];
    struct tally *t = &r->tally[layer];
    uint32_t f = r->p->subject.neurons, *counts = l->counts[r->text], n = 0;
    for (uint32_t i = 0; i < f; i++) {
        if (h[i] == 0.0f) continue;
        float magnitude = fabsf(h[i]) * t->norms[i];
        if (magnitude < l->epsilon) continue;
        if (!(fabsf(h[i]) <= 3.4e38f))
            return err_set(e, ERR_NUMERIC,
                           "layer %u: neuron %u is %g: the weights are damaged, or the activation is not the "
                           "one the model was trained with",
                           layer, i, (double)h[i]);
        counts[i]++;
        r->list[n++] = i;
    }
    if (r->text == PROFILE_CALIBRATION)
        for (uint32_t k = 0; k < n; k++) {
            uint32_t i = r->list[k];
            float magnitude = fabsf(h[i]) * t->norms[i];
            t->sum[i] += (double)magnitude;
            t->bins[(size_t)i * BINS + bin_of(magnitude)]++;
        }
    if (!trace) return 0;
    t->traced++;
    return profile_trace_add(&l->trace, r->list, n, f, e);
}

int profile_recorder_add(struct profile_recorder *r, uint32_t layer, uint32_t position, uint32_t T,
                         const float *h, struct err *e)
{
    int rc = check_layer(r, layer, e);
    if (rc) return rc;
    struct tally *t = &r->tally[layer];
    if (!r->begun || position != t->position)
        return err_set(e, ERR_STATE, "layer %u was given position %u of a piece: expected %u", layer,
                       position, t->position);
    if (t->tokens[r->text] + T > TOKENS_MOST)
        return err_set(e, ERR_FULL, "a profile has room for %d tokens of each text", TOKENS_MOST);
    for (uint32_t k = 0; rc == 0 && k < T; k++) {
        uint32_t at = position + k;
        rc = add_token(r, layer, h + (size_t)k * r->p->subject.neurons,
                       at >= r->trace_begin && at < r->trace_end, e);
    }
    t->position += T;
    t->tokens[r->text] += T;
    return rc;
}

/* ---- CETT ---- */

int profile_recorder_grid(struct profile_recorder *r, uint32_t layer, const float *grid, uint32_t n,
                          struct err *e)
{
    int rc = check_layer(r, layer, e);
    if (rc) return rc;
    if (n == 0 || n > PROFILE_CURVE_MOST)
        return err_set(e, ERR_ARG, "a grid of %u magnitudes: expected 1 to %d", n, PROFILE_CURVE_MOST);
    for (uint32_t i = 0; i < n; i++)
        if (!(grid[i] >= 0.0f) || isinf(grid[i]) || (i && grid[i] < grid[i - 1]))
            return err_set(e, ERR_ARG, "magnitude %u of a grid is %g: expected ascending numbers from 0", i,
                           (double)grid[i]);
    struct tally *t = &r->tally[layer];
    free(t->grid);
    free(t->cett);
    free(t->left_out);
    t->grid = malloc(n * sizeof *t->grid);
    t->cett = calloc(n, sizeof *t->cett);
    t->left_out = calloc(n, sizeof *t->left_out);
    t->n_grid = t->samples = 0;
    if (!t->grid || !t->cett || !t->left_out) return no_memory(e);
    memcpy(t->grid, grid, n * sizeof *grid);
    t->n_grid = n;
    return 0;
}

uint32_t profile_bucket(const float *grid, uint32_t n, float magnitude)
{
    uint32_t low = 0, high = n;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (magnitude < grid[mid])
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static double norm(const double *v, uint32_t n)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < n; i++) sum += v[i] * v[i];
    return sqrt(sum);
}

int profile_recorder_sample(struct profile_recorder *r, uint32_t layer, const float *sums,
                            const uint32_t *counts, struct err *e)
{
    int rc = check_layer(r, layer, e);
    if (rc) return rc;
    struct tally *t = &r->tally[layer];
    uint32_t d = r->p->subject.width, n = t->n_grid;
    if (n == 0) return err_set(e, ERR_STATE, "layer %u has no grid of magnitudes yet", layer);
    double tail[PROFILE_CURVE_MOST + 1], out = 0.0;
    memset(r->vector, 0, d * sizeof *r->vector);
    for (uint32_t b = 0; b <= n; b++) {
        for (uint32_t c = 0; c < d; c++) r->vector[c] += (double)sums[(size_t)b * d + c];
        tail[b] = norm(r->vector, d);
    }
    if (!isfinite(tail[n])) return err_set(e, ERR_NUMERIC, "layer %u: the output is not a number", layer);
    double whole = tail[n] > 1e-12 ? tail[n] : 1e-12;
    for (uint32_t b = 0; b < n; b++) {
        out += counts[b];
        t->cett[b] += tail[b] / whole;
        t->left_out[b] += out / r->p->subject.neurons;
    }
    t->samples++;
    return 0;
}

static int make_curve(struct profile_recorder *r, uint32_t layer, struct err *e)
{
    struct profile_layer *l = &r->p->layers[layer];
    const struct tally *t = &r->tally[layer];
    if (t->samples == 0) return 0;
    free(l->curve);
    l->n_curve = 0;
    l->curve = malloc(t->n_grid * sizeof *l->curve);
    if (!l->curve) return no_memory(e);
    for (uint32_t b = 0; b < t->n_grid; b++)
        l->curve[b] = (struct profile_curve_point){t->grid[b], (float)(t->cett[b] / t->samples),
                                                   (float)(t->left_out[b] / t->samples)};
    l->n_curve = t->n_grid;
    l->samples = t->samples;
    return 0;
}

int profile_recorder_epsilon(struct profile_recorder *r, uint32_t layer, double cett, float *epsilon,
                             struct err *e)
{
    int rc = check_layer(r, layer, e);
    if (rc == 0) rc = make_curve(r, layer, e);
    return rc == 0 ? profile_epsilon_for(r->p, layer, cett, epsilon, e) : rc;
}

int profile_recorder_fatrelu(struct profile_recorder *r, const struct profile_fatrelu_point *point,
                             struct err *e)
{
    struct profile *p = r->p;
    if (p->n_fatrelu >= PROFILE_CURVE_MOST)
        return err_set(e, ERR_FULL, "a curve has room for %d points", PROFILE_CURVE_MOST);
    struct profile_fatrelu_point *more = realloc(p->fatrelu, (p->n_fatrelu + 1) * sizeof *more);
    if (!more) return no_memory(e);
    p->fatrelu = more;
    p->fatrelu[p->n_fatrelu++] = *point;
    return 0;
}

int profile_recorder_ppl(struct profile_recorder *r, const struct profile_ppl *found,
                         const struct profile_ppl_point *steps, uint32_t n, struct err *e)
{
    struct profile *p = r->p;
    if (n == 0 || n > PROFILE_CURVE_MOST)
        return err_set(e, ERR_ARG, "a search of %u steps: expected 1 to %d", n, PROFILE_CURVE_MOST);
    struct profile_ppl_point *own = malloc(n * sizeof *own);
    if (!own) return no_memory(e);
    memcpy(own, steps, n * sizeof *own);
    free(p->ppl_steps);
    p->ppl_steps = own;
    p->n_ppl_steps = n;
    p->ppl = *found;
    return 0;
}

void profile_recorder_cett(struct profile_recorder *r, float target)
{
    r->p->cett_target = target;
}

/* ---- The profile ---- */

/* The 99th percentile of a histogram: where within its bin is taken to be even in the logarithm. */
static float percentile(const uint32_t *bins, uint32_t count)
{
    double want = 0.99 * count, below = 0.0;
    for (int b = 0; b < BINS; b++) {
        if (bins[b] && below + bins[b] >= want)
            return (float)exp2(LOWEST + (b + (want - below) / bins[b]) / 2.0);
        below += bins[b];
    }
    return 0.0f;
}

static int finish_layer(struct profile_recorder *r, uint32_t layer, struct err *e)
{
    struct profile *p = r->p;
    struct profile_layer *l = &p->layers[layer];
    struct tally *t = &r->tally[layer];
    for (uint32_t i = 0; i < p->subject.neurons; i++) {
        uint32_t n = l->counts[PROFILE_CALIBRATION][i];
        if (n == 0) continue;
        l->mean[i] = (float)(t->sum[i] / n);
        l->p99[i] = percentile(t->bins + (size_t)i * BINS, n);
    }
    int rc = make_curve(r, layer, e);
    if (rc) return rc;
    l->run_at = malloc(((size_t)p->n_runs + 1) * sizeof *l->run_at);
    if (!l->run_at) return no_memory(e);
    l->run_at[0] = 0;
    for (uint32_t i = 0; i < p->n_runs; i++)
        l->run_at[i + 1] =
            l->run_at[i] + profile_trace_check(l->trace.p + l->run_at[i], l->trace.n - l->run_at[i],
                                               p->runs[i].tokens, p->subject.neurons);
    return 0;
}

int profile_recorder_finish(struct profile **out, struct profile_recorder *r, struct err *e)
{
    *out = NULL;
    int rc = end_piece(r, e);
    if (rc == 0 && r->p->tokens[PROFILE_CALIBRATION] == 0)
        rc = err_set(e, ERR_STATE, "no token of a calibration text was recorded");
    for (uint32_t i = 0; rc == 0 && i < r->p->subject.layers; i++) rc = finish_layer(r, i, e);
    if (rc == 0) rc = profile_derive(r->p, true, e);
    if (rc) return rc;
    *out = r->p;
    r->p = NULL;
    return 0;
}
