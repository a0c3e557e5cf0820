/* The sampler against the straightforward way: sort everything, then cut. */
#include "tests/unit/cmocka_all.h"

#include "base/err.h"
#include "base/rng.h"
#include "engine/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 500

static struct candidate *work;

static int make(void **state)
{
    (void)state;
    work = sampler_workspace(VOCAB);
    return work ? 0 : -1;
}

static int unmake(void **state)
{
    (void)state;
    free(work);
    return 0;
}

static int32_t pick(calor_sampler *sp, const float *logits, struct err *e)
{
    return sampler_pick(sp, logits, VOCAB, NULL, 0, work, e);
}

static int by_logit(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* Which ids the settings leave, in probs (0 elsewhere). */
static void reference(const calor_sampler *sp, const float *logits, double *probs)
{
    struct candidate all[VOCAB];
    double p[VOCAB], total = 0.0, mass = 0.0, sum = 0.0;
    size_t n = VOCAB, kept = 0;
    for (int i = 0; i < VOCAB; i++) all[i] = (struct candidate){logits[i], i};
    qsort(all, VOCAB, sizeof *all, by_logit);
    if (sp->top_k > 0 && sp->top_k < VOCAB) n = (size_t)sp->top_k;
    for (size_t i = 0; i < n; i++) total += p[i] = exp((double)all[i].logit - (double)all[0].logit);
    for (; kept < n && (kept == 0 || sp->top_p >= 1.0f || mass < (double)sp->top_p * total); kept++)
        mass += p[kept];
    memset(probs, 0, sizeof *probs * VOCAB);
    for (size_t i = 0; i < kept; i++)
        if (i == 0 || p[i] >= (double)sp->min_p) {
            probs[all[i].id] = exp(((double)all[i].logit - (double)all[0].logit) / (double)sp->temperature);
            sum += probs[all[i].id];
        }
    for (int i = 0; i < VOCAB; i++) probs[i] /= sum;
}

static void random_logits(float *x, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed);
    for (int i = 0; i < VOCAB; i++) x[i] = (float)(3.0 * rng_normal(&r));
}

static void test_frequencies(void **state)
{
    (void)state;
    static const struct {
        int top_k;
        float top_p, min_p, temp;
    } cases[] = {{0, 1, 0, 1},       {10, 1, 0, 1},          {0, 0.7f, 0, 1}, {0, 1, 0.05f, 1},
                 {40, 0.8f, 0, 2},   {30, 0.9f, 0.1f, 0.5f}, {1, 1, 0, 1},    {0, 0.01f, 0, 1},
                 {500, 0.95f, 0, 1}, {501, 1, 0.3f, 1.5f}};
    enum { DRAWS = 20000 };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        float logits[VOCAB];
        double probs[VOCAB];
        int count[VOCAB] = {0};
        random_logits(logits, 11 + c);
        calor_sampler sp = calor_sampler_default();
        sp.top_k = cases[c].top_k;
        sp.top_p = cases[c].top_p;
        sp.min_p = cases[c].min_p;
        sp.temperature = cases[c].temp;
        sp.seed = 5;
        reference(&sp, logits, probs);
        for (int i = 0; i < DRAWS; i++) {
            int32_t id = pick(&sp, logits, NULL);
            assert_in_range(id, 0, VOCAB - 1);
            count[id]++;
        }
        for (int i = 0; i < VOCAB; i++) {
            double expect = probs[i] * DRAWS, sigma = sqrt(expect * (1 - probs[i])) + 1;
            if (probs[i] == 0.0 && count[i] > 0) fail_msg("case %zu: id %d was cut but drawn", c, i);
            if (fabs(count[i] - expect) > 5 * sigma)
                fail_msg("case %zu: id %d drawn %d times, expected %.1f", c, i, count[i], expect);
        }
    }
}

static void test_greedy_and_ties(void **state)
{
    (void)state;
    float logits[VOCAB];
    random_logits(logits, 1);
    calor_sampler sp = calor_sampler_default();
    sp.temperature = 0.0f;
    logits[77] = logits[300] = 50.0f;
    assert_int_equal(pick(&sp, logits, NULL), 77);
    logits[300] = 51.0f;
    assert_int_equal(pick(&sp, logits, NULL), 300);
    assert_int_equal(sp.state, 0); /* nothing was drawn */
    sp.temperature = 1.0f;
    sp.top_k = 1;
    logits[20] = 51.0f;
    assert_int_equal(pick(&sp, logits, NULL), 20);
}

static void test_seed_and_state(void **state)
{
    (void)state;
    float logits[VOCAB];
    int32_t first[50];
    int other = 0;
    random_logits(logits, 2);
    calor_sampler sp = calor_sampler_default();
    sp.top_k = 0;
    for (int i = 0; i < 50; i++) first[i] = pick(&sp, logits, NULL);
    assert_int_equal(sp.state, 50);
    sp.state = 20; /* a position in the stream can be returned to */
    for (int i = 20; i < 50; i++) assert_int_equal(pick(&sp, logits, NULL), first[i]);
    sp.state = 0;
    sp.seed = 1;
    for (int i = 0; i < 50; i++) other += pick(&sp, logits, NULL) != first[i];
    assert_true(other > 10);
}

static void test_repetition(void **state)
{
    (void)state;
    float logits[VOCAB] = {0};
    const int32_t last[] = {5, 6, 5, 5};
    calor_sampler sp = calor_sampler_default();
    sp.temperature = 0.0f;
    sp.repeat_penalty = 2.0f;
    logits[5] = 8.0f; /* once divided: 4 */
    logits[7] = 3.9f;
    assert_int_equal(sampler_pick(&sp, logits, VOCAB, last, 4, work, NULL), 5);
    logits[7] = 4.1f;
    assert_int_equal(sampler_pick(&sp, logits, VOCAB, last, 4, work, NULL), 7);
    for (int i = 0; i < VOCAB; i++) logits[i] = -3.0f;
    logits[6] = -2.0f; /* negative: multiplied, −4 */
    assert_int_equal(sampler_pick(&sp, logits, VOCAB, last, 4, work, NULL), 0);
    sp.repeat_penalty = 1.0f;
    assert_int_equal(sampler_pick(&sp, logits, VOCAB, last, 4, work, NULL), 6);
}

/* The definition: a token is penalised where it stands first in the history, not where it stands again. */
static void penalised(float *logits, float penalty, const int32_t *last, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        bool seen = last[i] < 0 || last[i] >= VOCAB;
        for (size_t j = 0; j < i && !seen; j++) seen = last[j] == last[i];
        if (!seen) logits[last[i]] *= logits[last[i]] > 0.0f ? 1 / penalty : penalty;
    }
}

static void test_repetition_of_long_histories(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, 6);
    for (int round = 0; round < 200; round++) {
        float logits[VOCAB], by_hand[VOCAB];
        int32_t last[2000];
        size_t n = (size_t)(rng_u64(&r) % 2000);
        int32_t most = 1 + (int32_t)(rng_u64(&r) % (2 * VOCAB)); /* few tokens often, or many once */
        for (size_t i = 0; i < n; i++) last[i] = (int32_t)(rng_u64(&r) % (uint64_t)most) - most / 8;
        random_logits(logits, 100 + (uint64_t)round);
        memcpy(by_hand, logits, sizeof logits);
        calor_sampler sp = calor_sampler_default(), plain;
        sp.repeat_penalty = round % 2 ? 4.0f : 0.5f; /* powers of two: exact either way */
        sp.seed = (uint64_t)round;
        plain = sp;
        plain.repeat_penalty = 1.0f;
        penalised(by_hand, sp.repeat_penalty, last, n);
        for (int i = 0; i < 20; i++)
            assert_int_equal(sampler_pick(&sp, logits, VOCAB, last, n, work, NULL),
                             pick(&plain, by_hand, NULL));
        sp.temperature = plain.temperature = 0.0f;
        assert_int_equal(sampler_pick(&sp, logits, VOCAB, last, n, work, NULL), pick(&plain, by_hand, NULL));
    }
}

static void test_impossible(void **state)
{
    (void)state;
    struct err e = {0};
    float logits[VOCAB];
    calor_sampler sp = calor_sampler_default();
    for (int i = 0; i < VOCAB; i++) logits[i] = -INFINITY;
    assert_int_equal(pick(&sp, logits, &e), ERR_NUMERIC);
    assert_non_null(strstr(e.msg, "no logit is above minus infinity"));
    for (int i = 0; i < VOCAB; i++) logits[i] = NAN;
    assert_int_equal(pick(&sp, logits, &e), ERR_NUMERIC);
    logits[9] = 1.0f;
    assert_int_equal(pick(&sp, logits, &e), 9);
    logits[9] = INFINITY;
    assert_int_equal(pick(&sp, logits, &e), ERR_NUMERIC);
    random_logits(logits, 3);
    const calor_sampler good = sp;
#define REFUSED(field, value, word)                                                                          \
    do {                                                                                                     \
        sp = good;                                                                                           \
        sp.field = value;                                                                                    \
        assert_int_equal(pick(&sp, logits, &e), ERR_ARG);                                                    \
        assert_non_null(strstr(e.msg, word));                                                                \
    } while (0)
    REFUSED(temperature, NAN, "temperature");
    REFUSED(top_k, -1, "top-k");
    REFUSED(top_p, 0.0f, "top-p");
    REFUSED(top_p, 1.5f, "top-p");
    REFUSED(min_p, -0.1f, "min-p");
    REFUSED(repeat_penalty, 0.0f, "repetition");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_greedy_and_ties),
        cmocka_unit_test(test_seed_and_state),
        cmocka_unit_test(test_repetition),
        cmocka_unit_test(test_repetition_of_long_histories),
        cmocka_unit_test(test_impossible),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
