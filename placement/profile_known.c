/* Profiles of what is known instead of measured: planted statistics of models that are not here. */
#include "placement/profile_priv.h"

#include "base/err.h"
#include "base/half.h"

#include <math.h>
#include <stdlib.h>

static int check(const struct profile_known *k, struct err *e)
{
    if (k->tokens == 0 || k->tokens > INT32_MAX || k->run == 0 || k->run > k->tokens)
        return err_set(e, ERR_ARG,
                       "a profile of %llu tokens with a run of %u: expected 1 to 2147483647, the run within",
                       (unsigned long long)k->tokens, k->run);
    return 0;
}

static int set_counts(struct profile *p, uint32_t layer, const struct profile_known *k, float *frequency,
                      struct err *e)
{
    struct profile_layer *l = &p->layers[layer];
    int rc = k->layer(k->arg, layer, frequency, l->mean, l->p99, e);
    for (uint32_t i = 0; rc == 0 && i < p->subject.neurons; i++) {
        if (!(frequency[i] >= 0.0f && frequency[i] <= 1.0f) || !(l->mean[i] >= 0.0f) ||
            !(l->p99[i] >= 0.0f) || isinf(l->mean[i]) || isinf(l->p99[i]))
            return err_set(
                e, ERR_NUMERIC,
                "layer %u, neuron %u: active for %g of the tokens, magnitude %g, p99 %g: expected a "
                "share and two numbers from 0",
                layer, i, (double)frequency[i], (double)l->mean[i], (double)l->p99[i]);
        uint32_t count = (uint32_t)lround((double)frequency[i] * (double)k->tokens);
        for (int t = 0; t < PROFILE_TEXTS; t++) l->counts[t][i] = count;
        if (count == 0) l->mean[i] = l->p99[i] = 0.0f;
    }
    return rc;
}

static int set_trace(struct profile *p, uint32_t layer, const struct profile_known *k, uint32_t *list,
                     struct err *e)
{
    struct profile_layer *l = &p->layers[layer];
    int rc = 0;
    for (uint32_t t = 0; rc == 0 && t < k->run; t++) {
        uint32_t n = k->token(k->arg, layer, t, list);
        rc = profile_trace_add(&l->trace, list, n, p->subject.neurons, e);
    }
    l->run_at = malloc(2 * sizeof *l->run_at);
    if (rc || !l->run_at) return rc ? rc : err_set(e, ERR_NOMEM, "no memory for a profile");
    l->run_at[0] = 0;
    l->run_at[1] = profile_trace_check(l->trace.p, l->trace.n, k->run, p->subject.neurons);
    return l->run_at[1] == l->trace.n
               ? 0
               : err_set(e, ERR_ARG, "layer %u: active neurons of a token are not ascending", layer);
}

/* Independent neurons: P(j|i) is j's own frequency, so everybody's company is the hottest others. */
static void set_company(struct profile *p, uint32_t layer, uint64_t tokens)
{
    struct profile_layer *l = &p->layers[layer];
    uint32_t f = p->subject.neurons, top = f - 1 < PROFILE_GAP_TOP ? f - 1 : PROFILE_GAP_TOP;
    const uint32_t *count = l->counts[PROFILE_CALIBRATION];
    double all = 0, sum = 0;
    uint32_t alive = 0;
    for (uint32_t i = 0; i < f; i++) {
        double near = 0;
        uint32_t n = 0;
        all += count[i];
        if (count[i] == 0) continue;
        for (uint32_t k = 0; n < top; k++) {
            uint32_t j = l->order[k];
            if (j == i) continue;
            near += count[j];
            if (n < PROFILE_PARTNERS && count[j]) {
                l->partner[(size_t)i * PROFILE_PARTNERS + n] = (uint16_t)j;
                l->partner_share[(size_t)i * PROFILE_PARTNERS + n] =
                    f32_to_f16((float)((double)count[j] / (double)tokens));
            }
            n++;
        }
        if (top) sum += near / top;
        alive++;
    }
    l->gap = alive && top ? (float)((sum / alive - all / f) / (double)tokens) : NAN;
}

int profile_make(struct profile **out, const struct profile_subject *s, const struct profile_known *k,
                 struct err *e)
{
    struct profile *p = NULL;
    *out = NULL;
    int rc = check(k, e);
    if (rc == 0) rc = profile_create(&p, s, e);
    if (rc) return rc;
    float *frequency = malloc(s->neurons * sizeof *frequency);
    uint32_t *list = malloc(s->neurons * sizeof *list);
    p->runs = malloc(sizeof *p->runs);
    if (!frequency || !list || !p->runs) rc = err_set(e, ERR_NOMEM, "no memory for a profile");
    if (rc == 0) {
        p->runs[0] = (struct profile_run){.text = PROFILE_CALIBRATION, .tokens = k->run};
        p->n_runs = 1;
        for (int t = 0; t < PROFILE_TEXTS; t++) p->tokens[t] = k->tokens;
    }
    for (uint32_t i = 0; rc == 0 && i < s->layers; i++) {
        rc = profile_layer_create(p, i, e);
        if (rc == 0) rc = set_counts(p, i, k, frequency, e);
        if (rc == 0) rc = set_trace(p, i, k, list, e);
        if (rc == 0) rc = profile_trace_reuse(p, i, e);
    }
    if (rc == 0) rc = profile_derive(p, false, e);
    for (uint32_t i = 0; rc == 0 && i < s->layers; i++) set_company(p, i, k->tokens);
    free(frequency);
    free(list);
    if (rc)
        profile_close(&p);
    else
        *out = p;
    return rc;
}
