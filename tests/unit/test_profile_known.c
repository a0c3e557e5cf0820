/* placement/profile: profiles made of what is known. */
#include "tests/unit/temp_dir.h"

#include "placement/profile.h"

enum { L = 3, F = 77 };

static const struct profile_subject subject = {.identity = {1, 2, 3},
                                               .model = "tiny",
                                               .activation = "relu",
                                               .zeros = true,
                                               .layers = L,
                                               .neurons = F,
                                               .width = 12};

/* Neurons i < 4 + layer fire, i in 1 of i+1 tokens, at those that i+1 divides. */
struct plan {
    float share;
    bool backwards;
};

static int known_layer(void *arg, uint32_t layer, float *frequency, float *mean, float *p99, struct err *e)
{
    const struct plan *x = arg;
    if (layer == 7) return err_set(e, ERR_CANCELLED, "enough");
    for (uint32_t i = 0; i < F; i++) {
        frequency[i] = i < 4 + layer ? x->share / (float)(i + 1) : 0.0f;
        mean[i] = (float)i;
        p99[i] = 2.0f * (float)i;
    }
    return 0;
}

static uint32_t known_token(void *arg, uint32_t layer, uint32_t token, uint32_t *list)
{
    const struct plan *x = arg;
    uint32_t n = 0;
    for (uint32_t i = 0; i < 4 + layer; i++)
        if (token % (i + 1) == 0) list[n++] = i;
    if (x->backwards && n > 1) list[1] = list[0];
    return n;
}

static void check_layer(const struct profile *p, uint32_t l)
{
    uint32_t who[PROFILE_PARTNERS], list[F], n = 4 + l;
    float share[PROFILE_PARTNERS];
    double sum = 0, shared = 0, gap = 0;
    for (uint32_t i = 0; i < F; i++) {
        uint32_t want = i < n ? 1200 / (i + 1) : 0;
        assert_int_equal(profile_counts(p, l, PROFILE_CALIBRATION)[i], want);
        assert_int_equal(profile_counts(p, l, PROFILE_HELD_OUT)[i], want);
        assert_float_equal(profile_mean_magnitude(p, l)[i], want ? i : 0, 0);
        assert_float_equal(profile_p99_magnitude(p, l)[i], want ? 2 * i : 0, 0);
        sum += want / 1200.0;
    }
    assert_float_equal(profile_sparsity(p, l, PROFILE_CALIBRATION), 1 - sum / F, 1e-6);
    /* Company by chance: the hottest others. */
    assert_int_equal(profile_partners(p, l, 1, who, share), n - 1 < 4 ? n - 1 : 4);
    assert_int_equal(who[0], 0);
    assert_int_equal(who[1], 2);
    assert_float_equal(share[0], 1, 1e-3);
    assert_float_equal(share[1], 1.0 / 3, 1e-3);
    for (uint32_t i = 0; i < n; i++) gap += (sum - 1.0 / (i + 1)) / 10 / n;
    assert_float_equal(profile_gap(p, l), gap - sum / F, 1e-4);
    /* Reuse: counted in the run. */
    for (uint32_t t = 1; t < 120; t++) {
        double both = 0, all = 0;
        for (uint32_t i = 0; i < n; i++) {
            all += t % (i + 1) == 0;
            both += t % (i + 1) == 0 && (t - 1) % (i + 1) == 0;
        }
        shared += both / all / 119;
    }
    assert_float_equal(profile_reuse(p, l, 0), shared, 1e-6);
    struct profile_walk w;
    profile_walk_init(&w, p, l, 0);
    assert_int_equal(profile_walk_next(&w, list), n); /* token 0: all of them */
}

static void what_is_known_becomes_a_profile(void **state)
{
    (void)state;
    struct err e;
    struct plan x = {.share = 1.0f};
    struct profile_known k = {
        .tokens = 1200, .run = 120, .layer = known_layer, .token = known_token, .arg = &x};
    struct profile *p, *made;
    OK(profile_make(&made, &subject, &k, &e));
    OK(profile_write(made, in_dir("known"), &e));
    profile_close(&made);
    OK(profile_open(&p, in_dir("known"), &e));
    assert_int_equal(profile_tokens(p, PROFILE_CALIBRATION), 1200);
    assert_int_equal(profile_tokens(p, PROFILE_HELD_OUT), 1200);
    for (uint32_t l = 0; l < L; l++) check_layer(p, l);
    profile_close(&p);

    x.share = 1.5f;
    FAILS(profile_make(&p, &subject, &k, &e), ERR_NUMERIC, "neuron 0: active for 1.5");
    x = (struct plan){.share = 1.0f, .backwards = true};
    FAILS(profile_make(&p, &subject, &k, &e), ERR_ARG, "not ascending");
    x.backwards = false;
    k.run = 1201;
    FAILS(profile_make(&p, &subject, &k, &e), ERR_ARG, "run of 1201");
    k.run = 1;
    struct profile_subject deep = subject;
    deep.layers = 8;
    FAILS(profile_make(&p, &deep, &k, &e), ERR_CANCELLED, "enough");
    assert_null(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_known_becomes_a_profile),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
