/* Quantising: error of every type on Gaussian rows, special blocks, refused values; the decoder is the
 * reference tier's. */
#include "tests/unit/cmocka_all.h"

#include "base/err.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 8192 };

static const struct {
    enum dtype type;
    double most; /* relative RMS error on Gaussian values: 2 % above what llama.cpp's writer reaches */
} types[] = {
    {DT_F32, 0},       {DT_F16, 0.0003},  {DT_BF16, 0.0018}, {DT_Q8_0, 0.0058},
    {DT_Q4_0, 0.0880}, {DT_Q4_K, 0.0750}, {DT_Q5_K, 0.0390}, {DT_Q6_K, 0.0190},
};

static double relative_rms(enum dtype type, const float *x, float *back)
{
    static unsigned char blocks[4 * N];
    struct err e = {0};
    assert_int_equal(kern_encode(type, blocks, x, N, &e), 0);
    kern_tier(KERN_REF)->decode(type, back, blocks, N);
    double error = 0, power = 0;
    for (int i = 0; i < N; i++) {
        error += ((double)back[i] - (double)x[i]) * ((double)back[i] - (double)x[i]);
        power += (double)x[i] * (double)x[i];
    }
    return sqrt(error / power);
}

static void errors_are_small(void **state)
{
    (void)state;
    static float x[N], back[N];
    struct rng r;
    rng_init(&r, 1);
    for (int i = 0; i < N; i++) x[i] = (float)(rng_normal(&r) * 0.02);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        double rms = relative_rms(types[i].type, x, back);
        print_message("# %s: relative RMS error %.5f\n", dtype_name(types[i].type), rms);
        assert_true(rms <= types[i].most);
        assert_true(rms >= types[i].most / 3); /* a bound that says something */
    }
}

static void special_blocks(void **state)
{
    (void)state;
    static float x[N], back[N];
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        enum dtype t = types[i].type;
        memset(x, 0, sizeof x);
        x[N - 1] = 1; /* all other blocks are zero and must stay exactly so */
        relative_rms(t, x, back);
        for (int k = 0; k < N - 256; k++) assert_true(back[k] == 0);
        assert_true(fabs(back[N - 1] - 1.0) < 0.07);
        for (int k = 0; k < N; k++) x[k] = k % 2 ? 3.0f : 3.0f + 1e-3f; /* nearly constant, positive */
        assert_true(relative_rms(t, x, back) < 0.07);
        for (int k = 0; k < N; k++) x[k] = -x[k];
        assert_true(relative_rms(t, x, back) < 0.07);
        for (int k = 0; k < N; k++)
            x[k] = 1e-38f * (float)(k % 7); /* below every scale: finite, not garbage */
        relative_rms(t, x, back);
        for (int k = 0; k < N; k++) assert_true(fabsf(back[k]) < 1e-6f);
    }
}

static void refused(void **state)
{
    (void)state;
    static float x[512];
    unsigned char out[4 * 512];
    struct err e;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        enum dtype t = types[i].type;
        memset(x, 0, sizeof x);
        x[300] = NAN;
        assert_int_equal(kern_encode(t, out, x, 512, &e), ERR_NUMERIC);
        assert_non_null(strstr(e.msg, "value 300 is NaN"));
        x[300] = -INFINITY;
        assert_int_equal(kern_encode(t, out, x, 512, &e), ERR_NUMERIC);
        assert_non_null(strstr(e.msg, "infinite"));
        x[300] = 3.4e38f; /* finite, but no half can hold it or its block's scale */
        assert_int_equal(kern_encode(t, out, x, 512, &e), t == DT_F32 ? 0 : ERR_NUMERIC);
        if (dtype_info(t)->block > 1) assert_int_equal(kern_encode(t, out, x, 31, &e), ERR_ARG);
    }
    assert_int_equal(kern_encode(DT_IQ2_S, out, x, 512, &e), ERR_UNSUPPORTED);
    assert_int_equal(kern_encode((enum dtype)99, out, x, 512, &e), ERR_UNSUPPORTED);
    assert_false(kern_can_encode(DT_Q4_1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(errors_are_small), cmocka_unit_test(special_blocks),
                                       cmocka_unit_test(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
