/* PPL-p % sparsity (Sparsing Law, arXiv 2411.02335): the CETT, common to all layers, up to which neurons can
 * be left out before held-out perplexity rises by p percent. */
#include "engine/measure_priv.h"

#include "base/err.h"
#include "engine/model.h"
#include "engine/quality.h"

#include <math.h>
#include <stdlib.h>

enum { STEPS = MEASURE_PPL_STEPS - 1 }; /* halvings, behind the dense measurement */

struct search {
    struct quality *q;
    struct profile_recorder *r;
    uint32_t layers;
    float *epsilon;
    struct profile_ppl_point points[MEASURE_PPL_STEPS];
    uint32_t n;
    uint64_t scored;
};

/* Measures at a CETT and keeps the point, ascending. */
static int try(struct search *s, double cett, struct profile_ppl_point *out, struct err *e)
{
    struct quality_result q;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < s->layers; i++) {
        s->epsilon[i] = 0.0f;
        if (cett > 0.0) rc = profile_recorder_epsilon(s->r, i, cett, &s->epsilon[i], e);
    }
    if (rc == 0) rc = quality_measure(s->q, s->epsilon, NULL, &q, e);
    if (rc) return rc;
    *out = (struct profile_ppl_point){(float)cett, (float)q.sparsity, (float)q.perplexity};
    s->scored = q.scored;
    uint32_t at = s->n++;
    for (; at > 0 && s->points[at - 1].cett > out->cett; at--) s->points[at] = s->points[at - 1];
    s->points[at] = *out;
    return 0;
}

/* Perplexity need not rise everywhere: what is found is a crossing, from the side where it is kept. Ends
 * where the rise is within a fortieth of what is allowed. */
static int halve(struct search *s, double percent, struct profile_ppl *out, struct err *e)
{
    struct profile_ppl_point dense, best, p;
    int rc = try(s, 0.0, &dense, e);
    if (rc) return rc;
    double low = 0.0, high = 1.0, most = (double)dense.perplexity * (1.0 + percent / 100.0);
    best = dense;
    for (int k = 0; k < STEPS; k++) {
        rc = try(s, (low + high) / 2.0, &p, e);
        if (rc) return rc;
        if ((double)p.perplexity > most) {
            high = (double)p.cett;
            continue;
        }
        low = (double)p.cett;
        best = p;
        if (p.perplexity > dense.perplexity + 0.975f * ((float)most - dense.perplexity)) break;
    }
    *out = (struct profile_ppl){.target = (float)percent,
                                .cett = best.cett,
                                .sparsity = best.sparsity,
                                .perplexity = best.perplexity,
                                .dense = dense.perplexity,
                                .tokens = s->scored};
    return 0;
}

int measure_ppl(struct measure *x, struct quality *q, double *cett)
{
    struct profile_ppl found;
    struct search s = {.q = q, .r = x->r, .layers = x->m->hp.layers};
    s.epsilon = malloc(s.layers * sizeof *s.epsilon);
    if (!s.epsilon) return err_set(x->e, ERR_NOMEM, "no memory for %u epsilons", s.layers);
    int rc = halve(&s, x->s->ppl, &found, x->e);
    if (rc == 0) rc = profile_recorder_ppl(x->r, &found, s.points, s.n, x->e);
    if (rc == 0) *cett = (double)found.cett;
    free(s.epsilon);
    return rc;
}
