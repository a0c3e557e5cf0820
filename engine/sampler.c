/* Sampling without sorting the vocabulary: only as many candidates are put in order as the settings can keep,
 * and the rest is summed where the probabilities' total is needed. */
#include "engine/sampler.h"

#include "base/err.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

calor_sampler calor_sampler_default(void)
{
    return (calor_sampler){.temperature = 0.8f,
                           .top_k = 40,
                           .top_p = 0.95f,
                           .min_p = 0.05f,
                           .repeat_penalty = 1.0f,
                           .repeat_last = 64};
}

struct candidate *sampler_workspace(uint32_t vocab)
{
    return malloc(2 * (size_t)vocab * sizeof(struct candidate)); /* all, and those that stay */
}

/* Whether a stands before b: the larger logit, then the lower id. */
static int before(struct candidate a, struct candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift(struct candidate *c, size_t n, size_t i)
{
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        if (kid + 1 < n && before(c[kid + 1], c[kid])) kid++;
        if (!before(c[kid], c[i])) return;
        struct candidate t = c[i];
        c[i] = c[kid];
        c[kid] = t;
    }
}

/* Takes the first of the n candidates in the heap c. */
static struct candidate take(struct candidate *c, size_t *n)
{
    struct candidate top = c[0];
    c[0] = c[--*n];
    sift(c, *n, 0);
    return top;
}

static int check(const calor_sampler *sp, struct err *e)
{
    if (!isfinite(sp->temperature)) return err_set(e, ERR_ARG, "temperature must be a number");
    if (sp->top_k < 0) return err_set(e, ERR_ARG, "top-k is %d: expected 0 (off) or more", sp->top_k);
    if (!(sp->top_p > 0.0f && sp->top_p <= 1.0f))
        return err_set(e, ERR_ARG, "top-p is %g: expected more than 0, at most 1 (off)", (double)sp->top_p);
    if (!(sp->min_p >= 0.0f && sp->min_p <= 1.0f))
        return err_set(e, ERR_ARG, "min-p is %g: expected 0 (off) to 1", (double)sp->min_p);
    if (!(sp->repeat_penalty > 0.0f && sp->repeat_penalty < 1e6f))
        return err_set(e, ERR_ARG, "repetition penalty is %g: expected more than 0 (1: off)",
                       (double)sp->repeat_penalty);
    return 0;
}

/* Once a token, however often it was used: a candidate's id is inverted when its token is met, and put right
 * again. One walk each, where comparing every token with those before it grows with the square of the
 * history. */
static void penalise(struct candidate *c, uint32_t vocab, float penalty, const int32_t *last, size_t n)
{
    if (penalty == 1.0f) return;
    for (size_t i = 0; i < n; i++) {
        if (last[i] < 0 || (uint32_t)last[i] >= vocab || c[last[i]].id < 0) continue;
        float *l = &c[last[i]].logit;
        *l = *l > 0.0f ? *l / penalty : *l * penalty;
        c[last[i]].id = ~last[i];
    }
    for (size_t i = 0; i < n; i++)
        if (last[i] >= 0 && (uint32_t)last[i] < vocab) c[last[i]].id = last[i];
}

static double weight(struct candidate c, float best, double temperature)
{
    return exp(((double)c.logit - (double)best) / temperature);
}

/* Top-k, then top-p (mass at temperature 1 of what top-k left), then min-p (ratio to the best): writes what
 * stays to `keep`, best first where an order was needed. Returns how many, at least 1. */
static size_t narrow(const calor_sampler *sp, struct candidate *c, size_t n, float best,
                     struct candidate *keep)
{
    float floor = sp->min_p > 0.0f ? best + logf(sp->min_p) : -INFINITY;
    size_t kept = 0, limit = sp->top_k > 0 && (size_t)sp->top_k < n ? (size_t)sp->top_k : n;
    if (limit == n && sp->top_p >= 1.0f) {
        for (size_t i = 0; i < n; i++)
            if (c[i].logit >= floor) keep[kept++] = c[i];
        return kept;
    }
    for (size_t i = n / 2; i-- > 0;) sift(c, n, i);
    double total = 0.0, mass = 0.0;
    if (limit == n)
        for (size_t i = 0; i < n; i++) total += weight(c[i], best, 1.0);
    size_t left = n, in_order = 0;
    if (limit < n)
        for (; in_order < limit; in_order++) total += weight(keep[in_order] = take(c, &left), best, 1.0);
    while (kept < limit) {
        if (kept > 0 && sp->top_p < 1.0f && mass >= (double)sp->top_p * total) break;
        if (kept == in_order) keep[in_order++] = take(c, &left);
        if (kept > 0 && keep[kept].logit < floor) break;
        mass += weight(keep[kept++], best, 1.0);
    }
    return kept;
}

static int32_t draw(calor_sampler *sp, const struct candidate *c, size_t n, float best)
{
    /* The state is a position in the seed's stream, so that a draw depends on nothing but (seed, state). */
    struct rng r;
    rng_init(&r, sp->seed);
    rng_init(&r, rng_u64(&r) + sp->state++ * 0x9e3779b97f4a7c15u);
    double sum = 0.0, at = rng_f64(&r), t = (double)sp->temperature;
    for (size_t i = 0; i < n; i++) sum += weight(c[i], best, t);
    at *= sum;
    for (size_t i = 0; i < n; i++)
        if ((at -= weight(c[i], best, t)) < 0.0) return c[i].id;
    return c[n - 1].id; /* rounding left a crumb */
}

int32_t sampler_pick(calor_sampler *sp, const float *logits, uint32_t vocab, const int32_t *last,
                     size_t n_last, struct candidate *work, struct err *e)
{
    int r = check(sp, e);
    if (r < 0) return r;
    for (uint32_t i = 0; i < vocab; i++) work[i] = (struct candidate){logits[i], (int32_t)i};
    penalise(work, vocab, sp->repeat_penalty, last, n_last);
    struct candidate best = {-INFINITY, -1};
    size_t n = 0; /* NaN and −inf are no candidates */
    for (uint32_t i = 0; i < vocab; i++) {
        if (!(work[i].logit > -INFINITY)) continue;
        work[n++] = work[i];
        if (best.id < 0 || before(work[i], best)) best = work[i];
    }
    if (best.id < 0 || best.logit == INFINITY)
        return err_set(e, ERR_NUMERIC, "no token can be chosen: %s",
                       best.id < 0 ? "no logit is above minus infinity" : "a logit is infinite");
    if (sp->temperature <= 0.0f) return best.id;

    size_t kept = narrow(sp, work, n, best.logit, work + vocab);
    return draw(sp, work + vocab, kept, best.logit);
}
