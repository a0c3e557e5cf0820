/* FATReLU's threshold (ProSparse's third step): perplexity and sparsity of the held-out text at a grid of
 * them, and nearer to where perplexity begins to rise. */
#include "engine/measure_priv.h"

#include "base/err.h"
#include "engine/model.h"
#include "engine/quality.h"

#include <stdlib.h>

/* ProSparse's own first; a model trained with a threshold of its own has the rest. */
static const float grid[] = {0.0f, 0.005f, 0.01f, 0.02f, 0.03f, 0.05f, 0.1f, 0.15f, 0.2f, 0.3f, 0.5f};
enum { GRID = sizeof grid / sizeof *grid, HALVINGS = MEASURE_FATRELU_STEPS - GRID - 1 };

struct search {
    struct quality *q;
    float *zeros; /* an epsilon of 0 a layer */
    struct profile_fatrelu_point points[MEASURE_FATRELU_STEPS];
    uint32_t n;
};

/* Measures a threshold, unless it has been, and keeps the points ascending. */
static int try(struct search *s, float threshold, double *perplexity, struct err *e)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->points[i].threshold == threshold) {
            *perplexity = (double)s->points[i].perplexity;
            return 0;
        }
    struct activation act = {.kind = KERN_FATRELU, .param = threshold};
    struct quality_result q;
    int rc = quality_measure(s->q, s->zeros, &act, &q, e);
    if (rc) return rc;
    uint32_t at = s->n++;
    for (; at > 0 && s->points[at - 1].threshold > threshold; at--) s->points[at] = s->points[at - 1];
    s->points[at] = (struct profile_fatrelu_point){threshold, (float)q.sparsity, (float)q.perplexity};
    *perplexity = q.perplexity;
    return 0;
}

/* The grid from below until perplexity is half as high again as with the model's own threshold, then between
 * the last threshold that keeps it to a percent and the next. */
static int search(struct search *s, float own, struct err *e)
{
    double reference, p;
    int rc = try(s, own, &reference, e);
    float low = own, high = 0.0f;
    for (int i = 0; rc == 0 && i < GRID; i++) {
        rc = try(s, grid[i], &p, e);
        if (rc || p > 1.5 * reference) break;
    }
    for (uint32_t i = 0; i < s->n; i++)
        if ((double)s->points[i].perplexity <= 1.01 * reference && s->points[i].threshold > low)
            low = s->points[i].threshold;
    for (uint32_t i = s->n; i-- > 0 && s->points[i].threshold > low;) high = s->points[i].threshold;
    for (int k = 0; rc == 0 && high > low && k < HALVINGS; k++) {
        float mid = (low + high) / 2.0f;
        rc = try(s, mid, &p, e);
        if (p <= 1.01 * reference)
            low = mid;
        else
            high = mid;
    }
    return rc;
}

int measure_fatrelu(struct measure *x, struct quality *q)
{
    struct search s = {.q = q, .zeros = calloc(x->m->hp.layers, sizeof *s.zeros)};
    if (!s.zeros) return err_set(x->e, ERR_NOMEM, "no memory for %u epsilons", x->m->hp.layers);
    int rc = search(&s, x->m->act.param, x->e);
    for (uint32_t i = 0; rc == 0 && i < s.n; i++) rc = profile_recorder_fatrelu(x->r, &s.points[i], x->e);
    free(s.zeros);
    return rc;
}
