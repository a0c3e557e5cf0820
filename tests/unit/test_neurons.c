/* FFNs laid out by neuron: what is left out changes no bit, nothing that counts is left out, and the answers
 * are those of the weights as the file has them. */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "engine/calor.h"

enum { TOKENS = 36 /* more than are listed */, VOCAB = 80, FFN = 512 /* two blocks of neurons */ };

static struct tiny by_type(enum dtype type)
{
    struct tiny s = tiny_llama();
    s.type = type;
    s.width = 256;
    s.ffn = FFN;
    return s;
}

struct how {
    enum calor_layout layout;
    enum calor_mode mode;
    const char *activation, *cpu;
    uint32_t batch;
    int threads, no_mmap;
    const float *epsilon;
    int planes;
};

/* Logits of all tokens, and what the FFNs did. */
static void compute(const char *path, const struct how *h, float *out, calor_ffn_counts *counts)
{
    char err[1000];
    calor_model *m;
    calor_session *s;
    calor_model_settings ms = calor_model_default();
    ms.layout = h->layout;
    ms.activation = h->activation;
    ms.cpu = h->cpu;
    ms.threads = h->threads;
    ms.no_mmap = h->no_mmap;
    ms.planes = h->planes;
    if (calor_model_open(&m, path, &ms, err, sizeof err)) fail_msg("%s", err);
    calor_session_settings ss = calor_session_default();
    ss.mode = h->mode;
    ss.batch = h->batch;
    ss.epsilon = h->epsilon;
    if (calor_session_open(&s, m, &ss, err, sizeof err)) fail_msg("%s", err);
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + 11) % VOCAB;
    if (calor_eval_all(s, ids, TOKENS, out, err, sizeof err)) fail_msg("%s", err);
    if (counts) {
        *counts = (calor_ffn_counts){0};
        for (uint32_t l = 0; l < 2; l++) {
            calor_ffn_counts c;
            assert_int_equal(calor_session_ffn(s, l, &c), 0);
            assert_true(c.active <= c.listed && c.listed <= c.exact && c.exact <= c.neurons);
            counts->neurons += c.neurons;
            counts->exact += c.exact;
            counts->listed += c.listed;
            counts->active += c.active;
            counts->bytes += c.bytes;
        }
        assert_int_equal(calor_session_ffn(s, 2, &(calor_ffn_counts){0}), CALOR_EARG);
    }
    calor_session_close(&s);
    calor_model_close(&m);
}

static bool same(const float *a, const float *b)
{
    return memcmp(a, b, sizeof *a * TOKENS * VOCAB) == 0;
}

/* ‖a − b‖² / ‖a‖² */
static double distance(const float *a, const float *b)
{
    double d = 0.0, n = 0.0;
    for (int i = 0; i < TOKENS * VOCAB; i++) {
        d += pow((double)a[i] - (double)b[i], 2);
        n += pow((double)a[i], 2);
    }
    return d / n;
}

static float want[TOKENS * VOCAB], got[TOKENS * VOCAB];

static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q5_K, DT_Q6_K};
static const char *const tiers[] = {"ref", "avx2", "avx512"};

static void check(const char *path, const char *what, const char *activation, const char *cpu)
{
    struct how dense = {CALOR_LAYOUT_NEURON, CALOR_DENSE, activation, cpu, 1, 1, 0, NULL};
    calor_ffn_counts all, some;
    compute(path, &dense, want, &all);
    assert_true(all.listed == all.neurons && all.neurons == 2 * FFN * TOKENS && all.exact == all.neurons);
    struct how exact = dense;
    exact.mode = CALOR_EXACT;
    const uint32_t batches[] = {1, 3};
    for (int i = 0; i < 2; i++) {
        exact.batch = batches[i];
        exact.threads = 1 + i;
        exact.no_mmap = i == 1;
        memset(got, 0, sizeof got);
        compute(path, &exact, got, &some);
        if (!same(want, got))
            fail_msg("%s, %s, %s, batches of %u: not the bits of dense", what, activation, cpu, batches[i]);
        /* Neurons were skipped, and exactly those that are silent or whose up is. */
        if (!(some.listed < some.neurons * 3 / 4 && some.bytes < all.bytes))
            fail_msg("%s: %llu of %llu neurons computed", what, (unsigned long long)some.listed,
                     (unsigned long long)some.neurons);
        assert_true(some.active == all.active);
    }
    /* Many tokens at once, and the weights as the file has them: other arithmetic, the same answers. The wide
     * tiers round activations to 8 bits when they decode, the reference does not. */
    const double most = strcmp(cpu, "ref") == 0 ? 1e-8 : 4e-3;
    struct how other[] = {exact, exact};
    other[0].batch = TOKENS;
    other[1].layout = CALOR_LAYOUT_FILE;
    other[1].mode = CALOR_DENSE;
    for (int i = 0; i < 2; i++) {
        compute(path, &other[i], got, NULL);
        double d = distance(want, got);
        if (!(d < most)) fail_msg("%s, %s, %s: differs by %g (%d)", what, activation, cpu, d, i);
    }
}

static void test_exact(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *const acts[] = {"relu", "fatrelu:0.3", "relu2", "drelu"};
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct tiny s = by_type(types[t]);
        s.bias = t % 2;
        OK(tiny_write(path, &s, &e));
        for (size_t c = 0; c < 2; c++)
            check(path, dtype_name(types[t]), acts[(t + c) % 4], tiers[(t + c) % 3]);
    }
}

static void test_ungated(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct tiny s = by_type(types[t]);
        s.arch = "opt";
        s.gated = false;
        s.layer_norm = s.bias = s.learned = true;
        s.kv_heads = s.heads;
        OK(tiny_write(path, &s, &e));
        check(path, "ungated", t % 2 ? "relu2" : "relu", tiers[t % 3]);
    }
}

/* PowerInfer's down: quantised along the neurons' own rows. */
static void test_stored_by_neuron(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct tiny s = by_type(types[t]);
        s.by_neuron = true;
        s.bias = t % 2;
        OK(tiny_write(path, &s, &e));
        check(path, "down stored by neuron", "relu", tiers[t % 3]);
    }
}

/* Neurons in numbers that fill no block and no unit. */
static void test_odd_shapes(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    const uint32_t ffn[] = {32, 96, 288, 544}, width[] = {64, 96, 320, 64};
    for (int i = 0; i < 4; i++) {
        struct tiny s = by_type(i % 2 ? DT_Q4_0 : DT_Q8_0);
        s.ffn = ffn[i];
        s.width = width[i];
        s.heads = s.width / 32;
        s.kv_heads = 1;
        OK(tiny_write(path, &s, &e));
        for (int c = 0; c < 3; c++) {
            struct how h = {CALOR_LAYOUT_NEURON, CALOR_DENSE, "relu", tiers[c], 1, 2, 0, NULL};
            compute(path, &h, want, NULL);
            h.mode = CALOR_EXACT;
            compute(path, &h, got, NULL);
            assert_true(same(want, got));
            h.layout = CALOR_LAYOUT_FILE;
            h.mode = CALOR_DENSE;
            compute(path, &h, got, NULL);
            double d = distance(want, got);
            if (!(d < 1e-3)) fail_msg("%u neurons of %u values: differs by %g", ffn[i], width[i], d);
        }
    }
}

/* Gates in two planes: the same bits with and without a screen, fewer exact gates, fewer bytes. */
static void check_planes(const char *path, const char *what, const char *activation, const char *cpu)
{
    struct how dense = {CALOR_LAYOUT_NEURON, CALOR_DENSE, activation, cpu, 1, 1, 0, NULL, 0}, plain = dense;
    calor_ffn_counts whole, all, some;
    compute(path, &dense, want, NULL);
    plain.mode = CALOR_EXACT;
    compute(path, &plain, got, &whole);
    struct how h = dense;
    h.planes = 1;
    for (int i = 0; i < 5; i++) {
        h.mode = i < 1 ? CALOR_DENSE : i < 3 ? CALOR_EXACT : CALOR_SURE;
        h.batch = i % 2 ? 1 : 4;
        h.threads = 1 + i % 3;
        h.no_mmap = i == 2;
        compute(path, &h, got, i == 0 ? &all : &some);
        if (!same(want, got)) fail_msg("%s, %s, %s: planes change bits (%d)", what, activation, cpu, i);
        if (i == 0) continue;
        assert_true(some.active == whole.active && some.listed == whole.listed);
        assert_true(some.exact <= all.exact && all.exact == all.neurons);
    }
    bool few = strcmp(activation, "fatrelu:2") == 0; /* about a tenth of the neurons is active */
    if (!(some.exact < some.neurons * 3 / 4 && (!few || some.bytes < whole.bytes)))
        fail_msg("%s, %s: %llu of %llu gates exact, %llu of %llu bytes", what, cpu,
                 (unsigned long long)some.exact, (unsigned long long)some.neurons,
                 (unsigned long long)some.bytes, (unsigned long long)whole.bytes);
    h.batch = TOKENS;
    compute(path, &h, got, NULL);
    plain.batch = TOKENS;
    compute(path, &plain, want, NULL);
    assert_true(same(want, got)); /* many tokens: rows put together again */
}

static void test_planes(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    const enum dtype split[] = {DT_F16, DT_BF16, DT_Q8_0};
    for (int t = 0; t < 3; t++) {
        struct tiny s = by_type(split[t]);
        s.bias = t != 1;
        OK(tiny_write(path, &s, &e));
        for (int c = 0; c < 3; c++)
            check_planes(path, dtype_name(split[t]), c == t ? "relu" : "fatrelu:2", tiers[c]);
        s.ffn = 544;
        s.arch = "opt";
        s.gated = false;
        s.layer_norm = s.bias = s.learned = true;
        s.kv_heads = s.heads;
        OK(tiny_write(path, &s, &e));
        check_planes(path, "ungated", "relu2", tiers[t]);
    }
}

static void test_threshold(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    struct tiny s = by_type(DT_Q8_0);
    OK(tiny_write(path, &s, &e));
    const float none[2] = {0, 0}, small[2] = {0.02f, 0.02f}, all[2] = {1e9f, 1e9f};
    struct how h = {CALOR_LAYOUT_NEURON, CALOR_DENSE, "silu", NULL, 1, 2, 0, NULL};
    calor_ffn_counts c;
    compute(path, &h, want, NULL);
    h.mode = CALOR_THRESHOLD;
    h.epsilon = none;
    compute(path, &h, got, &c);
    assert_true(same(want, got));
    h.epsilon = small;
    compute(path, &h, got, &c);
    assert_true(c.active < c.neurons && c.active > 0);
    double d = distance(want, got);
    assert_true(d > 0 && d < 0.1);
    /* A batch leaves out the same ones. */
    calor_ffn_counts many;
    h.batch = TOKENS;
    static float batch[TOKENS * VOCAB];
    compute(path, &h, batch, &many);
    assert_true(distance(got, batch) < 1e-3);
    assert_true(llabs((long long)many.active - (long long)c.active) < (long long)c.neurons / 200);
    h.batch = 1;
    h.epsilon = all;
    compute(path, &h, got, &c);
    assert_true(c.active == 0);
    assert_true(distance(want, got) > 1e-3); /* the FFN is missing, and that shows */
}

static void refused(const char *path, enum calor_layout layout, const char *act, enum calor_mode mode,
                    const float *epsilon, int code, const char *word)
{
    char err[1000] = "";
    calor_model *m;
    calor_session *s;
    calor_model_settings ms = calor_model_default();
    ms.layout = layout;
    ms.activation = act;
    if (calor_model_open(&m, path, &ms, err, sizeof err)) fail_msg("%s", err);
    calor_session_settings ss = calor_session_default();
    ss.mode = mode;
    ss.epsilon = epsilon;
    assert_int_equal(calor_session_open(&s, m, &ss, err, sizeof err), code);
    assert_null(s);
    if (!strstr(err, word)) fail_msg("\"%s\" does not say \"%s\"", err, word);
    calor_model_close(&m);
}

static void test_refused(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    struct tiny s = by_type(DT_F32);
    OK(tiny_write(path, &s, &e));
    const float bad[2] = {0.1f, NAN}, good[2] = {0, 0};
    refused(path, CALOR_LAYOUT_FILE, "relu", CALOR_EXACT, NULL, CALOR_ESTATE, "NEURON");
    refused(path, CALOR_LAYOUT_FILE, "silu", CALOR_THRESHOLD, good, CALOR_ESTATE, "NEURON");
    refused(path, CALOR_LAYOUT_NEURON, "silu", CALOR_EXACT, NULL, CALOR_EARG, "silu");
    refused(path, CALOR_LAYOUT_NEURON, "silu", CALOR_THRESHOLD, NULL, CALOR_EARG, "epsilon");
    refused(path, CALOR_LAYOUT_NEURON, "silu", CALOR_THRESHOLD, bad, CALOR_EARG, "layer 1");
    refused(path, CALOR_LAYOUT_NEURON, "relu", CALOR_SURE, NULL, CALOR_ESTATE, "planes");
    refused(path, CALOR_LAYOUT_AUTO, "silu", (enum calor_mode)17, NULL, CALOR_EARG, "17");
}

/* Types without planes say so when the model is opened. */
static void test_no_planes(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    struct tiny s = by_type(DT_Q4_0);
    OK(tiny_write(path, &s, &e));
    char err[1000] = "";
    calor_model *m;
    calor_model_settings ms = calor_model_default();
    ms.layout = CALOR_LAYOUT_NEURON;
    ms.planes = 1;
    assert_int_equal(calor_model_open(&m, path, &ms, err, sizeof err), CALOR_EUNSUPPORTED);
    assert_null(m);
    assert_non_null(strstr(err, "Q4_0"));
    assert_non_null(strstr(err, "Q8_0"));
}

static void test_auto(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    struct tiny s = by_type(DT_Q4_0);
    OK(tiny_write(path, &s, &e));
    const char *const acts[] = {"relu", "silu"};
    for (int i = 0; i < 2; i++) {
        char err[1000];
        calor_model *m;
        calor_session *session;
        calor_model_info mi;
        calor_session_info si;
        calor_model_settings ms = calor_model_default();
        ms.activation = acts[i];
        assert_int_equal(calor_model_open(&m, path, &ms, err, sizeof err), 0);
        calor_model_describe(m, &mi);
        assert_int_equal(mi.by_neuron, i == 0);
        assert_int_equal(mi.has_zeros, i == 0);
        assert_int_equal(calor_session_open(&session, m, NULL, err, sizeof err), 0);
        calor_session_describe(session, &si);
        assert_int_equal(si.mode, i == 0 ? CALOR_EXACT : CALOR_DENSE_FAST);
        calor_session_close(&session);
        calor_model_close(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_ungated),
        cmocka_unit_test(test_stored_by_neuron),
        cmocka_unit_test(test_odd_shapes),
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_planes),
        cmocka_unit_test(test_no_planes),
        cmocka_unit_test(test_auto),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
