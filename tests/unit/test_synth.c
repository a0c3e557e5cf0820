/* engine/synth: shapes are those of the real models, to the parameter. */
#include "tests/unit/cmocka_all.h"

#include "base/err.h"
#include "engine/synth.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t parameters(const char *shape, int *n)
{
    struct err e;
    struct synth_settings s = {.type = DT_Q4_0, .output_type = DT_Q6_K};
    assert_int_equal(synth_shape_parse(&s.shape, shape, &e), 0);
    struct synth_tensor *t = synth_tensors(&s, n);
    assert_non_null(t);
    uint64_t sum = 0;
    for (int i = 0; i < *n; i++) {
        sum += t[i].ne[0] * t[i].ne[1];
        assert_true(t[i].scale > 0 && isfinite(t[i].scale));
        for (int k = 0; k < i; k++) assert_string_not_equal(t[i].name, t[k].name);
    }
    synth_tensors_free(t, *n);
    return sum;
}

static void shapes_are_the_real_models(void **state)
{
    (void)state;
    /* Parameter counts as published with the models. */
    const struct {
        const char *name;
        uint64_t parameters;
        int tensors;
    } want[] = {
        {"tinyllama-1b", 1100048384, 201}, {"llama2-7b", 6738415616, 291}, {"7b", 6738415616, 291},
        {"llama2-13b", 13015864320, 363},  {"13b", 13015864320, 363},      {"llama2-70b", 68976648192, 723},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int n;
        assert_int_equal(parameters(want[i].name, &n), want[i].parameters);
        assert_int_equal(n, want[i].tensors);
    }
    int n;
    assert_in_range(parameters("falcon-40b", &n), 41000000000, 42500000000);
}

static void custom_shapes_are_checked(void **state)
{
    (void)state;
    struct err e;
    struct synth_shape s;
    assert_int_equal(synth_shape_parse(&s, "d=64,f=256,layers=2,heads=4", &e), 0);
    assert_true(s.kv == 4 && s.vocab == 32000 && s.ctx == 4096 && strcmp(s.arch, "llama") == 0);
    assert_int_equal(
        synth_shape_parse(&s, "heads=4,kv=2,layers=2,f=256,d=64,vocab=300,ctx=9,arch=falcon", &e), 0);
    assert_true(s.kv == 2 && s.vocab == 300 && s.ctx == 9 && strcmp(s.arch, "falcon") == 0);
    static const char *const bad[] = {
        "",
        "=",
        "d",
        "d=",
        "d=64",
        "d=64,,f=1",
        "d=64,f=256,layers=2,heads=4,kv=0x2",
        "d=-64,f=256,layers=2,heads=4",
        "d=64,f=256,layers=2,heads=4,arch=gpt",
        "d=64,f=256,layers=0,heads=4",
        "d=12,f=256,layers=2,heads=4",
        "d=64,f=256,layers=2,heads=4,vocab=259",
        "d=64,f=256,layers=2000,heads=4",
        "llama2",
        "7B",
        "d=64,f=256,layers=2,heads=4,kv=8",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (synth_shape_parse(&s, bad[i], &e) != ERR_ARG) fail_msg("accepted: %s", bad[i]);
}

static int stop_at_half(double done, void *arg)
{
    *(double *)arg = done;
    return done > 0.5;
}

static void stopping_leaves_no_file(void **state)
{
    (void)state;
    char path[] = "/tmp/calor-synth-XXXXXX";
    assert_non_null(mkdtemp(path));
    char file[64];
    snprintf(file, sizeof file, "%s/x.gguf", path);
    struct err e;
    double seen = 0;
    struct synth_settings s = {.type = DT_F16,
                               .output_type = DT_F16,
                               .threads = 2,
                               .path = file,
                               .progress = stop_at_half,
                               .progress_arg = &seen};
    assert_int_equal(synth_shape_parse(&s.shape, "d=64,f=256,layers=8,heads=4,vocab=300", &e), 0);
    assert_int_equal(synth_write(&s, &e), ERR_CANCELLED);
    assert_true(seen > 0.5 && seen < 1);
    assert_int_equal(rmdir(path), 0); /* empty: neither the file nor a temporary one */
}

static void output_type_follows_llama_cpp(void **state)
{
    (void)state;
    assert_int_equal(synth_output_type(DT_Q4_0, 4096), DT_Q6_K);
    assert_int_equal(synth_output_type(DT_Q5_K, 4096), DT_Q6_K);
    assert_int_equal(synth_output_type(DT_Q4_0, 96), DT_Q4_0); /* no room for blocks of 256 */
    assert_int_equal(synth_output_type(DT_Q8_0, 4096), DT_Q8_0);
    assert_int_equal(synth_output_type(DT_F16, 4096), DT_F16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_are_the_real_models),
        cmocka_unit_test(custom_shapes_are_checked),
        cmocka_unit_test(stopping_leaves_no_file),
        cmocka_unit_test(output_type_follows_llama_cpp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
