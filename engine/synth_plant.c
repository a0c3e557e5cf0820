/* Planted activation statistics: which neurons fire how often, and for how long, as ordinary weights.
 *
 * The residual stream of every token is
 *
 *     x = c·u + context + token + (a little of every layer)
 *
 * u is ±1 on the first K channels ("constant channels") and 0 elsewhere; each embedding row holds c·u exactly
 * (blocks of equal values survive every type). `token` is the Gaussian rest of the embedding. `context` is
 * made by the first layer's attention: its q and k see only u, so their rotated product depends on the
 * distance alone and weighs the last few values with fixed windows (synth_window.c); its v does not see u.
 * All later contributions are kept small, so every layer's normalised input has the same statistics.
 *
 * A gate row is a full-rank Gaussian with u projected out, plus a multiple of u: the neuron's threshold. Its
 * product is then normal with known mean and variance, and P(active) = Φ(q). Gate, up and down keep the scale
 * of trained weights: the threshold adds about 1/√K of the residue to K of its entries. */
#include "engine/synth.h"

#include "base/err.h"
#include "base/rng.h"
#include "engine/activation.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Energies (mean squares by channel) as shares of the stream after the first attention. */
#define STREAM_RMS 0.25 /* of x: well above the norms' epsilon, well inside half precision */
#define CONSTANT   0.5
#define REST       0.005 /* what all layers together add, as a share of context + token */
#define REPEATS    0.015 /* of a text's variance, which repeats tokens, below random ones': about halfway */
#define P_MOST     0.98  /* no neuron fires more often */

/* P(both of two standard normals of correlation r are below q), by Owen's T function. */
static double phi2(double q, double r)
{
    double a = sqrt((1 - r) / (1 + r)), sum = 0;
    enum { STEPS = 32 };
    for (int i = 0; i <= STEPS; i++) {
        double x = a * i / STEPS, w = i == 0 || i == STEPS ? 1 : i % 2 ? 4 : 2;
        sum += w * exp(-0.5 * q * q * (1 + x * x)) / (1 + x * x);
    }
    return synth_normal(q) - sum * a / STEPS / 3 / M_PI;
}

/* ---- Hotness ---- */

enum { RANKS = 1024 };

/* p[i] = min(P_MOST, C·x^-a) at RANKS ranks x with mean `mean`; returns the share of the hottest `hot`. */
static double power_law(double *p, double a, double mean, double hot)
{
    double lo = 0, hi = 1e6, sum = 0, top = 0;
    for (int k = 0; k < 80; k++) {
        double c = lo > 0 ? sqrt(lo * hi) : hi * 1e-12;
        sum = top = 0;
        for (int i = 0; i < RANKS; i++) {
            double x = (i + 0.5) / RANKS;
            p[i] = fmin(P_MOST, c * pow(x, -a));
            sum += p[i];
            top += p[i] * fmin(1, fmax(0, hot * RANKS - i));
        }
        if (sum < mean * RANKS)
            lo = c;
        else
            hi = c;
    }
    return top / sum;
}

static int fit_hotness(double *p, const struct synth_stats *s, double mean, struct err *e)
{
    double lo = 0, hi = 16, least = power_law(p, lo, mean, s->hot), most = power_law(p, hi, mean, s->hot);
    if (s->hot_share < least || s->hot_share > most)
        return err_set(e, ERR_ARG,
                       "at sparsity %.3g the hottest %.3g of the neurons can take %.3g to %.3g of the "
                       "activations, not %.3g: change --hotness or --sparsity",
                       1 - mean, s->hot, least, most, s->hot_share);
    for (int k = 0; k < 60; k++) {
        double a = (lo + hi) / 2;
        if (power_law(p, a, mean, s->hot) < s->hot_share)
            lo = a;
        else
            hi = a;
    }
    return 0;
}

/* ---- Persistence ---- */

/* Share of a token's active neurons that are active at the next too; `parts` conditions are needed to fire.
 */
static double persistence(const double *p, double r, int parts)
{
    double both = 0, sum = 0;
    for (int i = 0; i < RANKS; i++) {
        double part = parts == 2 ? sqrt(p[i]) : p[i];
        both += pow(fmax(0, phi2(synth_normal_quantile(part), r)), parts);
        sum += p[i];
    }
    return both / sum;
}

static int fit_persistence(double *r, const double *p, double want, int parts, struct err *e)
{
    double lo = 0, hi = 0.9999, least = persistence(p, lo, parts), most = persistence(p, 0.995, parts);
    if (want < least || want > most)
        return err_set(e, ERR_ARG,
                       "with this sparsity and hotness the persistence can be %.3g to %.3g, not %.3g: change "
                       "--persistence, --hotness or --sparsity",
                       least, most, want);
    for (int k = 0; k < 50; k++) {
        *r = (lo + hi) / 2;
        if (persistence(p, *r, parts) < want)
            lo = *r;
        else
            hi = *r;
    }
    return 0;
}

/* ---- The plan ---- */

/* Mean square of what the type holds, relative to that of the normal values it was given. */
static double type_energy(enum dtype type, struct err *e, int *rc)
{
    enum { N = 1 << 14 };
    float *v = malloc(2 * N * sizeof *v);
    unsigned char *code = malloc(N * sizeof *v);
    double held = 0, all = 0;
    if (!v || !code) {
        *rc = err_set(e, ERR_NOMEM, "no memory to measure the error of %s", dtype_name(type));
        goto out;
    }
    struct rng r;
    rng_init(&r, 1);
    for (int i = 0; i < N; i++) v[i] = (float)rng_normal(&r);
    if ((*rc = kern_encode(type, code, v, N, e))) goto out;
    kern_tier(KERN_REF)->decode(type, v + N, code, N);
    for (int i = 0; i < N; i++) {
        held += (double)v[N + i] * (double)v[N + i];
        all += (double)v[i] * (double)v[i];
    }
out:
    free(v);
    free(code);
    return all > 0 ? held / all : 1;
}

/* Number of constant channels: whole pairs of blocks where the width allows. */
static uint32_t constant_channels(uint32_t d)
{
    uint32_t k = d / 8 / 64 * 64;
    if (k < 64) k = 64;
    return k * 2 <= d ? k : d / 2;
}

/* Mean square of an activation's output over its neurons, for products that are normal with mean s·q + t and
 * deviation s. */
static double energy(const struct activation *act, const double *p, double s)
{
    double sum = 0, t = (double)act->param;
    for (int i = 0; i < RANKS; i++) {
        double part = act->kind == KERN_DRELU ? sqrt(p[i]) : p[i], q = synth_normal_quantile(part);
        double density = exp(-0.5 * q * q) / sqrt(2 * M_PI);
        double one = (q * part + density) * s, two = ((q * q + 1) * part + q * density) * s * s;
        if (act->kind == KERN_RELU2)
            sum += ((q * q * q * q + 6 * q * q + 3) * part + (q * q * q + 5 * q) * density) * s * s * s * s;
        else if (act->kind == KERN_DRELU)
            sum += two * two;
        else
            sum += two + 2 * t * one + t * t * part;
    }
    return sum / RANKS;
}

/* Each neuron's q: ranks in random order. */
static void thresholds(float *out, uint32_t f, const double *p, int parts, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed);
    for (uint32_t i = 0; i < f; i++) {
        /* Between the grid's ranks in log p: a power law is a straight line there, nearly. */
        double x = (i + 0.5) / f * RANKS - 0.5, at = fmin(RANKS - 1, fmax(0, x));
        int k = (int)at < RANKS - 1 ? (int)at : RANKS - 2;
        double v = p[k] * pow(p[k + 1] / p[k], at - k);
        out[i] = (float)synth_normal_quantile(parts == 2 ? sqrt(v) : v);
    }
    for (uint32_t i = f; i > 1; i--) {
        uint32_t k = (uint32_t)rng_below(&r, i);
        float v = out[i - 1];
        out[i - 1] = out[k];
        out[k] = v;
    }
}

struct synth_plant {
    uint32_t channels;
    double held; /* mean square in the matrices' type, relative to the values' */
    double token, context, correlation;
    struct synth_window window;
    struct activation act;
    const struct synth_settings *s;
};

static struct synth_tensor *find(struct synth_tensor *t, int n, const char *fmt, uint32_t layer)
{
    char name[sizeof t->name];
    snprintf(name, sizeof name, fmt, layer);
    for (int i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0) return &t[i];
    return NULL;
}

/* The first attention's rows (synth_window.c). */
static int plant_attention(struct synth_plant *y, struct synth_tensor *t, int n, struct err *e)
{
    const struct synth_shape *h = &y->s->shape;
    uint32_t hd = h->d / h->heads, pairs = hd / 2, kv = hd * h->kv;
    bool falcon = strcmp(h->arch, "falcon") == 0;
    /* Of the normalised input, before there is context: constant share, token share. */
    double all = CONSTANT + y->token, unit = sqrt(CONSTANT / all * h->d * y->channels);
    /* Σ over pairs of size²/√hd = PEAK. */
    double size = sqrt(SYNTH_WINDOW_PEAK * sqrt((double)hd) / (pairs - y->window.first));
    const char *name[3] = {"blk.%u.attn_q.weight", "blk.%u.attn_k.weight", "blk.%u.attn_v.weight"};
    const uint32_t rows[3] = {h->d, kv, kv};
    struct synth_tensor *w = falcon ? find(t, n, "blk.%u.attn_qkv.weight", 0) : NULL;
    uint64_t row = 0;
    for (int part = 0; part < 3; part++) {
        if (!falcon) {
            w = find(t, n, name[part], 0);
            row = 0;
        }
        if (!w->along) {
            w->fill = SYNTH_PLANTED;
            w->along = calloc(w->ne[1], sizeof *w->along);
            if (!w->along) return err_set(e, ERR_NOMEM, "no memory for the rows of %s", w->name);
            w->channels = y->channels;
            w->bare_from = UINT64_MAX;
            w->damped_to = part < 2 ? (falcon ? (uint64_t)h->d + kv : w->ne[1]) : 0;
        }
        if (part == 2) {
            w->bare_from = row;
            w->shared_from = row;
            w->shared_heads = y->window.shared;
            w->head = hd;
        }
        for (uint32_t i = 0; i < rows[part]; i++, row++) {
            uint32_t in = i % hd, j = falcon ? in % pairs : in / 2, second = falcon ? in / pairs : in % 2;
            int window = part == 0 ? synth_window_of(&y->window, i / hd) : -1;
            double angle = window < 0 ? 0
                                      : -synth_window_middle(&y->window, (uint32_t)window) *
                                            synth_window_theta(&y->window, j);
            if (part < 2 && j >= y->window.first)
                w->along[row] = (float)(size * (second ? sin(angle) : cos(angle)) / unit);
        }
    }
    /* What the windows' differences carry, brought to the context's energy. */
    double in = y->token / all * y->held * y->window.energy;
    w = find(t, n, "blk.%u.attn_output.weight", 0);
    w->fill = SYNTH_OUTPUTS;
    w->window = y->window;
    w->head = hd;
    w->scale = (float)(STREAM_RMS * sqrt(y->context / in));
    return 0;
}

static int plant_gate(const struct synth_plant *y, struct synth_tensor *w, const double *p, double constant,
                      double noise, uint64_t seed, struct err *e)
{
    const struct synth_shape *h = &y->s->shape;
    w->fill = SYNTH_PLANTED;
    w->channels = y->channels;
    w->bare_from = UINT64_MAX;
    w->along = malloc(h->f * sizeof *w->along);
    if (!w->along) return err_set(e, ERR_NOMEM, "no memory for %" PRIu32 " thresholds", h->f);
    thresholds(w->along, h->f, p, y->act.kind == KERN_DRELU ? 2 : 1, seed);
    /* The type's error is noise on the tokens' part; on the constant part it would be a fixed offset, which
     * would spread the neurons' frequencies. */
    w->exact = true;
    w->deviation = sqrt(noise * y->held * (1 - REPEATS));
    w->unit = sqrt(constant * h->d * y->channels);
    for (uint32_t i = 0; i < h->f; i++)
        w->along[i] = (float)(((double)w->along[i] * w->deviation + (double)y->act.param) / w->unit);
    return 0;
}

static int plant_layer(const struct synth_plant *y, struct synth_tensor *t, int n, uint32_t layer,
                       const double *p, struct err *e)
{
    const struct synth_shape *h = &y->s->shape;
    bool falcon = strcmp(h->arch, "falcon") == 0;
    bool before = falcon && layer == 0; /* parallel: the first FFN does not see the first attention */
    double noise = y->token + (before ? 0 : y->context) + (1 - CONSTANT) * REST * layer / h->layers;
    double all = CONSTANT + noise;
    double part = STREAM_RMS * sqrt((1 - CONSTANT) * REST / (2 * h->layers));
    int rc = plant_gate(y, find(t, n, falcon ? "blk.%u.ffn_up.weight" : "blk.%u.ffn_gate.weight", layer), p,
                        CONSTANT / all, noise / all, y->s->seed * 4099 + 2 * layer, e);
    if (!rc && y->act.kind == KERN_DRELU)
        rc = plant_gate(y, find(t, n, "blk.%u.ffn_up.weight", layer), p, CONSTANT / all, noise / all,
                        y->s->seed * 4099 + 2 * layer, e); /* the same seed: a neuron's two halves agree */
    find(t, n, falcon ? "blk.%u.ffn_up.weight" : "blk.%u.ffn_gate.weight", layer)->correlation =
        before ? 0 : y->correlation;
    find(t, n, "blk.%u.ffn_down.weight", layer)->scale =
        (float)(part / sqrt(energy(&y->act, p, sqrt(noise / all)) * h->f));
    if (layer > 0) find(t, n, "blk.%u.attn_output.weight", layer)->scale = (float)(part / sqrt(h->d));
    return rc;
}

int synth_plant(const struct synth_settings *s, struct synth_tensor *t, int n, struct err *e)
{
    const struct synth_shape *h = &s->shape;
    const struct synth_stats *want = &s->stats;
    const char *name = synth_activation(s);
    struct synth_plant y = {.s = s, .channels = constant_channels(h->d)};
    double p[RANKS], r = 0;
    int rc = activation_parse(&y.act, name, strlen(name), NAN, e);
    if (rc) return rc;
    if (!activation_has_zeros(&y.act))
        return err_set(
            e, ERR_ARG,
            "--sparsity needs an activation with true zeros, and %s has none: expected relu, relu2, "
            "fatrelu:T or drelu",
            y.act.name);
    if (h->d < 32 || h->d / h->heads < 8)
        return err_set(e, ERR_ARG,
                       "--sparsity needs d of 32 and heads of 8 values at least, found d=%" PRIu32
                       " and heads of %" PRIu32,
                       h->d, h->d / h->heads);
    if (h->heads < 2)
        return err_set(e, ERR_ARG,
                       "--sparsity needs 2 heads at least: neurons stay active through pairs of heads");
    double low = want->sparsity - want->spread, high = want->sparsity + want->spread;
    if (!(low > 0 && high < 1))
        return err_set(e, ERR_ARG,
                       "--sparsity %.3g with --spread %.3g: every layer's has to be inside (0, 1)",
                       want->sparsity, want->spread);
    int parts = y.act.kind == KERN_DRELU ? 2 : 1;
    if ((rc = fit_hotness(p, want, 1 - want->sparsity, e))) return rc;
    if ((rc = fit_persistence(&r, p, want->persistence, parts, e))) return rc;
    /* The narrowest window that leaves half of the change to the token itself. */
    for (double width = 1;; width *= 1.25) {
        synth_window_make(&y.window, h, width);
        if (y.window.smooth >= sqrt(r) || width > 64) break;
    }
    double share = fmin(0.995, r / y.window.smooth);
    y.correlation = r;
    y.context = (1 - CONSTANT) * share;
    y.token = (1 - CONSTANT) * (1 - share);
    y.held = type_energy(s->type, e, &rc);
    if (rc) return rc;

    struct synth_tensor *embd = find(t, n, "token_embd.weight", 0);
    embd->fill = SYNTH_PLANTED;
    embd->channels = y.channels;
    embd->bare_from = 0;
    embd->along_all = (float)(STREAM_RMS * sqrt(CONSTANT * h->d / y.channels));
    embd->scale = (float)(STREAM_RMS * sqrt(y.token * h->d / (h->d - y.channels) / y.held));
    for (int i = 0; i < n; i++) /* near enough to one not to change the products' variance */
        if (t[i].fill == SYNTH_NEAR_ONE || t[i].fill == SYNTH_SMALL) t[i].scale *= 0.2f;
    if ((rc = plant_attention(&y, t, n, e))) return rc;
    for (uint32_t i = 0; i < h->layers; i++) {
        double at = h->layers > 1 ? 2.0 * i / (h->layers - 1) - 1 : 0;
        if ((rc = fit_hotness(p, want, 1 - want->sparsity - at * want->spread, e)) ||
            (rc = plant_layer(&y, t, n, i, p, e)))
            return err_prefix(e, rc, "layer %" PRIu32, i);
    }
    return 0;
}

/* ---- Values ---- */

/* Runs of 32 of one sign: blocks of equal values keep their value in every type, and the mean is zero. */
static float sign(uint64_t i, uint32_t channels)
{
    uint64_t run = channels >= 64 ? 32 : channels / 2;
    return i / run % 2 ? -1.0f : 1.0f;
}

static double project(const struct synth_tensor *t, const float *v)
{
    double sum = 0;
    for (uint32_t i = 0; i < t->channels; i++) sum += (double)(v[i] * sign(i, t->channels));
    return sum / t->channels;
}

static void add(const struct synth_tensor *t, float *v, double along)
{
    for (uint32_t i = 0; i < t->channels; i++) v[i] += (float)along * sign(i, t->channels);
}

void synth_plant_row(const struct synth_tensor *t, uint64_t row, float *v)
{
    if (t->fill == SYNTH_OUTPUTS) {
        synth_window_output(&t->window, t->head, row, t->scale, v);
        return;
    }
    if (row < t->damped_to) /* q and k of the first attention: hardly any of the token */
        for (uint64_t i = 0; i < t->ne[0]; i++) v[i] *= 0.25f;
    float along = t->along ? t->along[row] : t->along_all;
    if (row >= t->bare_from) {
        for (uint32_t i = 0; i < t->channels; i++) v[i] = along * sign(i, t->channels);
        return;
    }
    add(t, v, -project(t, v));
    if (t->exact) { /* all neurons' products have the same deviation */
        double sum = 0;
        for (uint64_t i = 0; i < t->ne[0]; i++) sum += (double)v[i] * (double)v[i];
        float scale = (float)((double)t->scale * sqrt((double)t->ne[0] / sum));
        for (uint64_t i = 0; i < t->ne[0]; i++) v[i] *= scale;
    }
    add(t, v, (double)along);
}

/* What the encoding has grows with what is added, by steps: halving finds the step. Only the blocks that hold
 * the channels are encoded. */
int synth_plant_exact(const struct synth_tensor *t, uint64_t row, float *v, void *code, float *back,
                      struct err *e)
{
    uint32_t block = dtype_info(t->type)->block, n = (t->channels + block - 1) / block * block;
    double want = (double)t->along[row], low = 0, high = 0, now = 0, best = 0, least = INFINITY;
    double reach = 0;
    for (int k = 0; k < 12; k++) {
        add(t, v, now - reach);
        reach = now;
        int rc = kern_encode(t->type, code, v, n, e);
        if (rc) return rc;
        kern_tier(KERN_REF)->decode(t->type, back, code, n);
        double off = project(t, back) - want;
        if (fabs(off) < least) {
            least = fabs(off);
            best = now;
        }
        if (k == 0) { /* four times the error to the other side */
            low = fmin(0, -4 * off);
            high = fmax(0, -4 * off);
        } else if (off > 0)
            high = now;
        else
            low = now;
        now = (low + high) / 2;
    }
    add(t, v, best - reach);
    return 0;
}
