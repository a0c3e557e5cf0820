/* Training predictors: gradients, what training is worth, independence of the number of threads. */
#include "tests/unit/temp_dir.h"

#include "base/half.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "placement/predictor_priv.h"

#include <math.h>

/* Samples in which neuron j is active where a row of its own says so; magnitudes of a few sizes. */
static struct predictor_samples samples(size_t n, uint32_t d, uint32_t f, uint64_t seed, float *gate)
{
    struct rng r;
    rng_init(&r, seed);
    uint16_t *x = malloc(n * d * 2 + 64), *m = malloc(n * f * 2 + 64);
    for (size_t i = 0; i < (size_t)f * d; i++) gate[i] = (float)rng_normal(&r) / sqrtf((float)d);
    rng_init(&r, seed * 77 + n);
    for (size_t i = 0; i < n * d; i++) x[i] = f32_to_f16((float)rng_normal(&r));
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < f; j++) {
            float g = -1.0f;
            for (uint32_t c = 0; c < d; c++) g += gate[j * d + c] * f16_to_f32(x[i * d + c]);
            m[i * f + j] = g > 0.0f ? f32_to_bf16(g * (float)(1 + j % 3)) : 0;
        }
    return (struct predictor_samples){n, x, m};
}

static void samples_free(struct predictor_samples *s)
{
    free((void *)(uintptr_t)s->x);
    free((void *)(uintptr_t)s->magnitude);
}

/* The loss of the whole batch, in double precision, from the weights as they stand. */
static double loss(const struct train *t)
{
    double sum = 0.0;
    for (int64_t b = 0; b < t->batch; b++) {
        const uint16_t *x = t->samples->x + b * t->d, *m = t->samples->magnitude + b * t->f;
        double h[64];
        for (int64_t k = 0; k < t->r; k++) {
            h[k] = (double)t->hidden_bias.w[k];
            for (int64_t c = 0; c < t->d; c++)
                h[k] += (double)t->fc1.w[c * t->r + k] * (double)f16_to_f32(x[c]);
            if (t->s->hidden == PREDICTOR_RELU && h[k] < 0.0) h[k] = 0.0;
        }
        for (int64_t j = 0; j < t->f; j++) {
            double z = (double)t->bias.w[j], w = (double)half_float((uint32_t)m[j] << 16) * (double)t->weight;
            for (int64_t k = 0; k < t->r; k++) z += h[k] * (double)t->fc2t.w[k * t->fp + j];
            sum += w > 0.0 ? w * log1p(exp(-z)) : log1p(exp(z));
        }
    }
    return sum;
}

static void check_gradient(const struct train *t, float *w, float found, const char *what)
{
    float was = *w, step = 1e-4f;
    *w = was + step;
    double up = loss(t), high = (double)*w;
    *w = was - step;
    double down = loss(t), low = (double)*w;
    *w = was;
    double want = (up - down) / (high - low);
    if (!(fabs(want - (double)found) <= 2e-3 * fabs(want) + 2e-2))
        fail_msg("the gradient of %s is %g: differences of the loss give %g", what, (double)found, want);
}

/* Backward passes against differences of the loss: each kind of weight, sizes that fill no vector. */
static void test_gradients(void **state)
{
    (void)state;
    enum { D = 37, F = 75, R = 32, N = 45 };
    struct err e;
    struct predictor *p;
    struct predictor_subject subject = {.activation = "relu", .layers = 1, .neurons = F, .width = D};
    static float gate[F * D], g1[D * R], g2[R * 96], gb[96], gh[R];
    OK(predictor_create(&p, &subject, &e));
    struct predictor_samples s = samples(N, D, F, 3, gate);
    for (int hidden = 0; hidden < 2; hidden++) {
        struct team *team;
        struct team_settings ts = {.threads = 2};
        OK(team_create(&team, &ts, &e));
        struct predictor_training how = {.team = team,
                                         .ops = kern_tier(KERN_REF),
                                         .rank = R,
                                         .hidden = (enum predictor_hidden)hidden,
                                         .fc1_type = DT_F16,
                                         .fc2_type = DT_F16};
        struct train t;
        struct rng r;
        rng_init(&r, 9);
        OK(train_create(&t, p, &s, &how, &e));
        for (int64_t i = 0; i < D * R; i++) t.fc1.w[i] = (float)rng_normal(&r) / 6.0f;
        for (int64_t k = 0; k < R; k++) {
            t.hidden_bias.w[k] = hidden ? (float)rng_normal(&r) : 0.0f;
            for (int64_t j = 0; j < F; j++)
                t.fc2[j * R + k] = t.fc2t.w[k * t.fp + j] = (float)rng_normal(&r) / 6.0f;
        }
        for (int64_t j = 0; j < F; j++) t.bias.w[j] = (float)rng_normal(&r);
        t.weight = 2.5f;
        t.steps = t.now = 1;
        struct train_gradients found = {g1, g2, gb, gh};
        t.gradients = &found;
        team_run(team, train_steps, &t);
        for (int i = 0; i < 60; i++) {
            int64_t a = (int64_t)rng_below(&r, D * R), k = (int64_t)rng_below(&r, R),
                    j = i ? (int64_t)rng_below(&r, F) : F - 1;
            check_gradient(&t, &t.fc1.w[a], g1[a], "fc1");
            check_gradient(&t, &t.fc2t.w[k * t.fp + j], g2[k * t.fp + j], "fc2");
            check_gradient(&t, &t.bias.w[j], gb[j], "the bias");
            if (hidden) check_gradient(&t, &t.hidden_bias.w[k], gh[k], "the hidden bias");
        }
        train_finish(&t);
        team_destroy(&team);
    }
    samples_free(&s);
    predictor_close(&p);
}

/* What is trained says more than what it began with, the same for every number of threads. */
static void test_training(void **state)
{
    (void)state;
    enum { D = 64, F = 96, N = 3000 };
    struct err e;
    struct predictor *p[4];
    struct predictor_subject subject = {.activation = "relu", .layers = 1, .neurons = F, .width = D};
    static float gate[F * D];
    struct predictor_samples s = samples(N, D, F, 4, gate), other = samples(500, D, F, 4, gate);
    struct predictor_scores *scores = malloc(sizeof *scores);
    double share[4];
    for (int i = 0; i < 4; i++) { /* 1 and 3 threads; the gate's approximation as it is; from nothing */
        struct team *team;
        struct team_settings ts = {.threads = i == 1 ? 3 : 1};
        OK(team_create(&team, &ts, &e));
        OK(predictor_create(&p[i], &subject, &e));
        struct predictor_training how = {.team = team,
                                         .ops = kern_tier(KERN_REF),
                                         .rank = 32,
                                         .hidden = i == 3 ? PREDICTOR_RELU : PREDICTOR_LINEAR,
                                         .fc1_type = DT_Q8_0,
                                         .fc2_type = DT_Q4_0,
                                         .epochs = i == 2 ? 0.01 : 80,
                                         .rate = i == 2 ? 1e-6f : 0,
                                         .seed = 1,
                                         .gate = gate};
        OK(predictor_train(p[i], 0, &s, &how, &e));
        OK(predictor_measure(scores, p[i], 0, &other, team, kern_tier(KERN_REF), &e));
        p[i]->layers[0].cut = predictor_choose_cut(scores, 0.95);
        assert_true(scores->recall >= 0.95 && scores->recall < 0.97);
        share[i] = (double)scores->candidates / (double)scores->active;
        /* The scores of a cut are those of measuring with it. */
        uint64_t candidates = scores->candidates, found = scores->found;
        OK(predictor_measure(scores, p[i], 0, &other, team, kern_tier(KERN_REF), &e));
        assert_true(scores->candidates == candidates && scores->found == found);
        team_destroy(&team);
    }
    const struct predictor_layer *a = &p[0]->layers[0], *b = &p[1]->layers[0];
    assert_memory_equal(a->fc1, b->fc1, 32 * a->fc1_row_bytes);
    assert_memory_equal(a->fc2, b->fc2, F * a->fc2_row_bytes);
    assert_memory_equal(a->bias, b->bias, F * 2);
    assert_true(a->cut == b->cut);
    double everything = 500.0 * F / (double)scores->active;
    if (!(share[0] < 0.98 * share[2] && share[3] < 0.6 * everything))
        fail_msg("candidates per active: trained %g, the approximation %g, from nothing %g, all %g", share[0],
                 share[2], share[3], everything);
    struct predictor_training bad = {.ops = kern_tier(KERN_REF), .rank = 33};
    FAILS(predictor_train(p[0], 0, &s, &bad, &e), ERR_ARG, "rank 33");
    for (int i = 0; i < 4; i++) predictor_close(&p[i]);
    free(scores);
    samples_free(&s);
    samples_free(&other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gradients), cmocka_unit_test(test_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
