/* A profile in memory: what it holds, what is derived from it, merging. */
#include "placement/profile_priv.h"

#include "base/err.h"
#include "base/half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "no memory for a profile");
}

/* Length of the UTF-8 sequence at s, which ends with a NUL; 0 where there is none. */
static int utf8_length(const uint8_t *s)
{
    int n = *s < 0x80                 ? 1
            : *s >= 0xc2 && *s < 0xe0 ? 2
            : *s >= 0xe0 && *s < 0xf0 ? 3
            : *s >= 0xf0 && *s < 0xf5 ? 4
                                      : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    bool bad = (*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf0 && s[1] < 0x90) ||
               (*s == 0xf4 && s[1] >= 0x90);
    return bad ? 0 : n;
}

/* A name for reports of every kind: what is no UTF-8, and control characters, become question marks. */
static char *copy_name(const char *name)
{
    char *copy = strdup(name ? name : "");
    int n;
    for (uint8_t *s = (uint8_t *)copy; s && *s; s += n ? n : 1) {
        n = utf8_length(s);
        if (n == 0 || *s < 32 || *s == 127) *s = '?';
    }
    return copy;
}

int profile_create(struct profile **out, const struct profile_subject *s, struct err *e)
{
    *out = NULL;
    if (s->layers == 0 || s->layers > PROFILE_LAYERS_MOST || s->neurons == 0 ||
        s->neurons > PROFILE_NEURONS_MOST || s->width == 0)
        return err_set(e, ERR_ARG,
                       "a profile of %u layers of %u neurons %u wide: expected 1 to %d layers, 1 to %d "
                       "neurons, a width from 1",
                       s->layers, s->neurons, s->width, PROFILE_LAYERS_MOST, PROFILE_NEURONS_MOST);
    struct profile *p = calloc(1, sizeof *p);
    if (!p) return no_memory(e);
    p->subject = *s;
    p->subject.model = copy_name(s->model);
    p->subject.activation = copy_name(s->activation);
    p->layers = calloc(s->layers, sizeof *p->layers);
    p->cett_target = NAN;
    if (!p->subject.model || !p->subject.activation || !p->layers) {
        profile_close(&p);
        return no_memory(e);
    }
    *out = p;
    return 0;
}

int profile_layer_create(struct profile *p, uint32_t layer, struct err *e)
{
    struct profile_layer *l = &p->layers[layer];
    size_t f = p->subject.neurons;
    for (int t = 0; t < PROFILE_TEXTS; t++) l->counts[t] = calloc(f, sizeof *l->counts[t]);
    l->mean = calloc(f, sizeof *l->mean);
    l->p99 = calloc(f, sizeof *l->p99);
    l->order = calloc(f, sizeof *l->order);
    l->partner = calloc(f * PROFILE_PARTNERS, sizeof *l->partner);
    l->partner_share = calloc(f * PROFILE_PARTNERS, sizeof *l->partner_share);
    bool all = l->mean && l->p99 && l->order && l->partner && l->partner_share;
    return all && l->counts[0] && l->counts[1] ? 0 : no_memory(e);
}

void profile_close(struct profile **pp)
{
    if (!pp || !*pp) return;
    struct profile *p = *pp;
    for (uint32_t i = 0; p->layers && i < p->subject.layers; i++) {
        struct profile_layer *l = &p->layers[i];
        free(l->counts[0]);
        free(l->counts[1]);
        free(l->mean);
        free(l->p99);
        free(l->order);
        free(l->partner);
        free(l->partner_share);
        free(l->curve);
        free(l->trace.p);
        free(l->run_at);
    }
    free((char *)(uintptr_t)p->subject.model);
    free((char *)(uintptr_t)p->subject.activation);
    free(p->layers);
    free(p->runs);
    free(p->fatrelu);
    free(p->ppl_steps);
    free(p);
    *pp = NULL;
}

/* ---- Derived ---- */

struct ranked {
    uint32_t count, id;
    float mean;
};

static int by_heat(const void *x, const void *y)
{
    const struct ranked *a = x, *b = y;
    if (a->count != b->count) return a->count < b->count ? 1 : -1;
    if (a->mean != b->mean) return a->mean < b->mean ? 1 : -1;
    return a->id < b->id ? -1 : 1;
}

int profile_derive(struct profile *p, bool together, struct err *e)
{
    uint32_t f = p->subject.neurons;
    struct ranked *r = malloc(f * sizeof *r);
    if (!r) return no_memory(e);
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < p->subject.layers; i++) {
        struct profile_layer *l = &p->layers[i];
        for (uint32_t k = 0; k < f; k++)
            r[k] = (struct ranked){l->counts[PROFILE_CALIBRATION][k], k, l->mean[k]};
        qsort(r, f, sizeof *r, by_heat);
        for (uint32_t k = 0; k < f; k++) l->order[k] = r[k].id;
        if (together) rc = profile_trace_company(p, i, e);
    }
    free(r);
    return rc;
}

const struct profile_subject *profile_subject(const struct profile *p)
{
    return &p->subject;
}

uint64_t profile_tokens(const struct profile *p, enum profile_text text)
{
    return p->tokens[text];
}

static void hex(const uint8_t id[16], char out[33])
{
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", id[i]);
}

int profile_check_model(const struct profile *p, const uint8_t identity[16], const char *model, struct err *e)
{
    char a[33], b[33];
    if (memcmp(p->subject.identity, identity, 16) == 0) return 0;
    hex(p->subject.identity, a);
    hex(identity, b);
    return err_set(e, ERR_STALE,
                   "the profile is of '%s' (%s), the model is '%s' (%s): make a profile of this model with "
                   "`calor profile`",
                   p->subject.model, a, model, b);
}

const uint32_t *profile_counts(const struct profile *p, uint32_t layer, enum profile_text text)
{
    return p->layers[layer].counts[text];
}

void profile_frequency(const struct profile *p, uint32_t layer, enum profile_text text, float *out)
{
    const uint32_t *c = p->layers[layer].counts[text];
    double tokens = (double)p->tokens[text];
    for (uint32_t i = 0; i < p->subject.neurons; i++) out[i] = tokens > 0 ? (float)(c[i] / tokens) : 0.0f;
}

const float *profile_mean_magnitude(const struct profile *p, uint32_t layer)
{
    return p->layers[layer].mean;
}

const float *profile_p99_magnitude(const struct profile *p, uint32_t layer)
{
    return p->layers[layer].p99;
}

const uint32_t *profile_order(const struct profile *p, uint32_t layer)
{
    return p->layers[layer].order;
}

float profile_epsilon(const struct profile *p, uint32_t layer)
{
    return p->layers[layer].epsilon;
}

float profile_cett_target(const struct profile *p)
{
    return p->cett_target;
}

static uint64_t activations(const struct profile *p, uint32_t layer, enum profile_text text)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < p->subject.neurons; i++) sum += p->layers[layer].counts[text][i];
    return sum;
}

double profile_sparsity(const struct profile *p, uint32_t layer, enum profile_text text)
{
    double all = (double)p->tokens[text] * p->subject.neurons;
    return all > 0 ? 1.0 - (double)activations(p, layer, text) / all : (double)NAN;
}

double profile_sparsity_all(const struct profile *p, enum profile_text text)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < p->subject.layers; i++) sum += profile_sparsity(p, i, text);
    return sum / p->subject.layers;
}

double profile_coverage(const struct profile *p, uint32_t layer, enum profile_text text, double share)
{
    const struct profile_layer *l = &p->layers[layer];
    uint64_t all = activations(p, layer, text), sum = 0;
    uint32_t n = (uint32_t)(share * p->subject.neurons + 0.5);
    for (uint32_t i = 0; i < n && i < p->subject.neurons; i++) sum += l->counts[text][l->order[i]];
    return all ? (double)sum / (double)all : (double)NAN;
}

/* Neurons of all layers in one order need no sorting: there are as many counts as tokens, so those of each
 * count are added up. Ties go to the lower layer, then to the order within it. */
int profile_coverage_curve(const struct profile *p, enum profile_text text, uint32_t n, double *out,
                           struct err *e)
{
    uint32_t L = p->subject.layers, f = p->subject.neurons;
    uint64_t total = (uint64_t)L * f, done = 0, sum = 0, all = 0;
    uint32_t *at = calloc(L, sizeof *at), point = 0;
    if (!at) return no_memory(e);
    for (uint32_t i = 0; i < L; i++) all += activations(p, i, text);
    while (point <= n) {
        if (done >= (uint64_t)((double)total * point / n + 0.5)) {
            out[point++] = all ? (double)sum / (double)all : (double)NAN;
            continue;
        }
        uint32_t best = L, count = 0;
        for (uint32_t i = 0; i < L; i++) {
            if (at[i] == f) continue;
            uint32_t c = p->layers[i].counts[PROFILE_CALIBRATION][p->layers[i].order[at[i]]];
            if (best == L || c > count) {
                best = i;
                count = c;
            }
        }
        if (best == L) break; /* not reached: total is all of them */
        const struct profile_layer *l = &p->layers[best];
        do { /* the whole tie of this layer at once */
            sum += l->counts[text][l->order[at[best]++]];
            done++;
        } while (at[best] < f && l->counts[PROFILE_CALIBRATION][l->order[at[best]]] == count &&
                 done < (uint64_t)((double)total * point / n + 0.5));
    }
    free(at);
    return 0;
}

double profile_coverage_all(const struct profile *p, enum profile_text text, double share)
{
    double curve[1001];
    if (!(share >= 0.0) || share > 1.0 || profile_coverage_curve(p, text, 1000, curve, NULL) < 0)
        return (double)NAN;
    return curve[(int)(share * 1000 + 0.5)];
}

double profile_reuse(const struct profile *p, uint32_t layer, int i)
{
    return (double)p->layers[layer].reuse[i];
}

double profile_gap(const struct profile *p, uint32_t layer)
{
    return (double)p->layers[layer].gap;
}

int profile_partners(const struct profile *p, uint32_t layer, uint32_t neuron, uint32_t *partner,
                     float *share)
{
    const struct profile_layer *l = &p->layers[layer];
    size_t at = (size_t)neuron * PROFILE_PARTNERS;
    int n = 0;
    for (; n < PROFILE_PARTNERS && l->partner_share[at + (size_t)n] != 0; n++) {
        partner[n] = l->partner[at + (size_t)n];
        share[n] = f16_to_f32(l->partner_share[at + (size_t)n]);
    }
    return n;
}

const struct profile_curve_point *profile_curve(const struct profile *p, uint32_t layer, uint32_t *n)
{
    *n = p->layers[layer].n_curve;
    return p->layers[layer].curve;
}

/* The mean CETT need not grow with epsilon everywhere (what is left out may cancel): the first crossing from
 * below of its running maximum is searched. */
int profile_epsilon_for(const struct profile *p, uint32_t layer, double cett, float *epsilon, struct err *e)
{
    const struct profile_layer *l = &p->layers[layer];
    if (l->n_curve == 0)
        return err_set(
            e, ERR_STATE,
            "the profile of '%s' has no CETT curve for layer %u: profile it with --samples above 0",
            p->subject.model, layer);
    if (!(cett >= 0.0)) return err_set(e, ERR_ARG, "a CETT of %g: expected a number from 0", cett);
    float top[PROFILE_CURVE_MOST];
    for (uint32_t i = 0; i < l->n_curve; i++)
        top[i] = i && top[i - 1] > l->curve[i].cett ? top[i - 1] : l->curve[i].cett;
    uint32_t low = 0, high = l->n_curve; /* the first point above cett is in [low, high] */
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if ((double)top[mid] > cett)
            high = mid;
        else
            low = mid + 1;
    }
    if (low == 0) {
        *epsilon = 0.0f;
    } else if (low == l->n_curve) {
        *epsilon = l->curve[low - 1].epsilon;
    } else {
        double a = (double)l->curve[low - 1].epsilon, b = (double)l->curve[low].epsilon,
               x = (cett - (double)top[low - 1]) / ((double)top[low] - (double)top[low - 1]);
        *epsilon = (float)(a + x * (b - a));
    }
    return 0;
}

const struct profile_fatrelu_point *profile_fatrelu(const struct profile *p, uint32_t *n)
{
    *n = p->n_fatrelu;
    return p->fatrelu;
}

const struct profile_fatrelu_point *profile_fatrelu_best(const struct profile *p, double percent,
                                                         const struct profile_fatrelu_point **own)
{
    const char *colon = strchr(p->subject.activation, ':');
    float threshold = colon ? strtof(colon + 1, NULL) : 0.0f;
    const struct profile_fatrelu_point *best = NULL, *at = p->n_fatrelu ? p->fatrelu : NULL;
    for (uint32_t i = 0; i < p->n_fatrelu; i++)
        if (fabsf(p->fatrelu[i].threshold - threshold) < fabsf(at->threshold - threshold))
            at = &p->fatrelu[i];
    for (uint32_t i = 0; i < p->n_fatrelu; i++)
        if ((double)p->fatrelu[i].perplexity <= (double)at->perplexity * (1.0 + percent / 100.0))
            best = &p->fatrelu[i];
    *own = at;
    return best;
}

const struct profile_ppl *profile_ppl(const struct profile *p)
{
    return p->n_ppl_steps ? &p->ppl : NULL;
}

const struct profile_ppl_point *profile_ppl_steps(const struct profile *p, uint32_t *n)
{
    *n = p->n_ppl_steps;
    return p->ppl_steps;
}

uint32_t profile_runs(const struct profile *p)
{
    return p->n_runs;
}

const struct profile_run *profile_run(const struct profile *p, uint32_t run)
{
    return &p->runs[run];
}

/* ---- Merging ---- */

static int check_pair(const struct profile *a, const struct profile *b, struct err *e)
{
    const struct profile_subject *s = &a->subject, *t = &b->subject;
    if (memcmp(s->identity, t->identity, 16) != 0)
        return err_set(e, ERR_STALE, "profiles of two models cannot become one: '%s' and '%s'", s->model,
                       t->model);
    if (s->layers != t->layers || s->neurons != t->neurons || s->width != t->width ||
        strcmp(s->activation, t->activation) != 0)
        return err_set(e, ERR_STALE,
                       "two profiles of '%s' differ: %u layers of %u neurons with %s, %u of %u with %s",
                       s->model, s->layers, s->neurons, s->activation, t->layers, t->neurons, t->activation);
    for (uint32_t i = 0; i < s->layers; i++)
        if (a->layers[i].epsilon != b->layers[i].epsilon)
            return err_set(
                e, ERR_STALE,
                "two profiles of '%s' count different neurons as active: above %g in layer %u, and "
                "above %g",
                s->model, (double)a->layers[i].epsilon, i, (double)b->layers[i].epsilon);
    for (int t2 = 0; t2 < PROFILE_TEXTS; t2++)
        if (a->tokens[t2] + b->tokens[t2] > INT32_MAX)
            return err_set(e, ERR_ARG, "a profile has room for 2147483647 tokens of each text");
    return 0;
}

static int merge_layer(struct profile *p, uint32_t i, const struct profile_layer *a,
                       const struct profile_layer *b, uint32_t a_runs, struct err *e)
{
    struct profile_layer *l = &p->layers[i];
    const struct profile_layer *curve = b->n_curve ? b : a;
    if (profile_layer_create(p, i, e) < 0) return ERR_NOMEM;
    for (uint32_t k = 0; k < p->subject.neurons; k++) {
        double x = (double)a->counts[0][k], y = (double)b->counts[0][k];
        for (int t = 0; t < PROFILE_TEXTS; t++) l->counts[t][k] = a->counts[t][k] + b->counts[t][k];
        if (x + y > 0) l->mean[k] = (float)((x * (double)a->mean[k] + y * (double)b->mean[k]) / (x + y));
        l->p99[k] = a->p99[k] > b->p99[k] ? a->p99[k] : b->p99[k];
    }
    l->epsilon = a->epsilon;
    l->samples = curve->samples;
    l->n_curve = curve->n_curve;
    l->trace.n = l->trace.cap = a->trace.n + b->trace.n;
    l->trace.p = malloc(l->trace.n ? l->trace.n : 1);
    l->run_at = malloc(((size_t)p->n_runs + 1) * sizeof *l->run_at);
    l->curve = malloc((curve->n_curve ? curve->n_curve : 1) * sizeof *l->curve);
    if (!l->trace.p || !l->run_at || !l->curve) return no_memory(e);
    if (l->n_curve) memcpy(l->curve, curve->curve, l->n_curve * sizeof *l->curve);
    if (a->trace.n) memcpy(l->trace.p, a->trace.p, a->trace.n);
    if (b->trace.n) memcpy(l->trace.p + a->trace.n, b->trace.p, b->trace.n);
    for (uint32_t r = 0; r <= p->n_runs; r++)
        l->run_at[r] = r < a_runs ? a->run_at[r] : a->trace.n + b->run_at[r - a_runs];
    return 0;
}

int profile_merge(struct profile **out, const struct profile *a, const struct profile *b, struct err *e)
{
    struct profile *p = NULL;
    *out = NULL;
    int rc = check_pair(a, b, e);
    if (rc == 0) rc = profile_create(&p, &a->subject, e);
    if (rc) return rc;
    for (int t = 0; t < PROFILE_TEXTS; t++) p->tokens[t] = a->tokens[t] + b->tokens[t];
    const struct profile *fat = b->n_fatrelu ? b : a, *ppl = b->n_ppl_steps ? b : a;
    p->cett_target = a->cett_target;
    p->n_runs = a->n_runs + b->n_runs;
    p->runs = malloc((p->n_runs ? p->n_runs : 1) * sizeof *p->runs);
    p->fatrelu = malloc((fat->n_fatrelu ? fat->n_fatrelu : 1) * sizeof *p->fatrelu);
    p->ppl_steps = malloc((ppl->n_ppl_steps ? ppl->n_ppl_steps : 1) * sizeof *p->ppl_steps);
    if (!p->runs || !p->fatrelu || !p->ppl_steps) {
        rc = no_memory(e);
        goto out;
    }
    if (a->n_runs) memcpy(p->runs, a->runs, a->n_runs * sizeof *p->runs);
    if (b->n_runs) memcpy(p->runs + a->n_runs, b->runs, b->n_runs * sizeof *p->runs);
    if (fat->n_fatrelu) memcpy(p->fatrelu, fat->fatrelu, fat->n_fatrelu * sizeof *p->fatrelu);
    p->n_fatrelu = fat->n_fatrelu;
    p->ppl = ppl->ppl;
    if (ppl->n_ppl_steps) memcpy(p->ppl_steps, ppl->ppl_steps, ppl->n_ppl_steps * sizeof *p->ppl_steps);
    p->n_ppl_steps = ppl->n_ppl_steps;
    for (uint32_t i = 0; rc == 0 && i < p->subject.layers; i++)
        rc = merge_layer(p, i, &a->layers[i], &b->layers[i], a->n_runs, e);
    if (rc == 0) rc = profile_derive(p, true, e);
out:
    if (rc)
        profile_close(&p);
    else
        *out = p;
    return rc;
}
