/* FFNs laid out from hot to cold by a profile: the same answers as in the file's order, and leaving neurons
 * out still changes no bit. */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "base/half.h"
#include "base/rng.h"
#include "engine/calor.h"
#include "engine/model.h"
#include "io/gguf.h"
#include "placement/predictor.h"
#include "placement/profile.h"

enum { TOKENS = 36, VOCAB = 80, FFN = 544 /* two blocks of neurons and a bit */, LAYERS = 2 };

static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q5_K, DT_Q6_K};
static const char *const tiers[] = {"ref", "avx2", "avx512"};

/* A profile of the model at `path`: neuron i's heat is 7919·i mod f, in the second layer reversed. */
static void make_profile(const char *path, const char *out, uint32_t f, uint32_t width)
{
    struct err e;
    struct gguf *g;
    struct profile_recorder *r;
    struct profile *p;
    struct profile_settings s = {.subject = {.model = "tiny",
                                             .activation = "relu",
                                             .zeros = true,
                                             .layers = LAYERS,
                                             .neurons = f,
                                             .width = width}};
    OK(gguf_open(&g, path, GGUF_READ, &e));
    OK(gguf_identity(g, s.subject.identity, &e));
    gguf_close(&g);
    OK(profile_recorder_create(&r, &s, &e));
    float *norms = malloc(f * sizeof *norms), *h = malloc(f * sizeof *h);
    assert_true(norms && h);
    for (uint32_t i = 0; i < f; i++) norms[i] = 1.0f;
    for (uint32_t l = 0; l < LAYERS; l++) OK(profile_recorder_layer(r, l, norms, 0.0f, &e));
    OK(profile_recorder_begin(r, PROFILE_CALIBRATION, 0, 0, 0, &e));
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < f; i++) {
            uint32_t heat = 7919 * i % f;
            h[i] = (float)((l ? f - heat : heat) + 1);
        }
        OK(profile_recorder_add(r, l, 0, 1, h, &e));
    }
    OK(profile_recorder_finish(&p, r, &e));
    profile_recorder_destroy(&r);
    OK(profile_write(p, out, &e));
    profile_close(&p);
    free(norms);
    free(h);
}

/* A predictor that knows nothing: about half of the neurons, others for every token. */
static void make_predictor(const char *path, const char *out, uint32_t f, uint32_t width)
{
    struct err e;
    struct gguf *g;
    struct predictor *p;
    struct rng r;
    float row[512];
    struct predictor_subject s = {
        .model = "tiny", .activation = "relu", .layers = LAYERS, .neurons = f, .width = width};
    rng_init(&r, 5);
    OK(gguf_open(&g, path, GGUF_READ, &e));
    OK(gguf_identity(g, s.identity, &e));
    gguf_close(&g);
    OK(predictor_create(&p, &s, &e));
    for (uint32_t i = 0; i < LAYERS; i++) {
        OK(predictor_layer_create(p, i, 8, DT_F16, DT_F16, false, &e));
        struct predictor_layer *l = &p->layers[i];
        for (uint32_t k = 0; k < f + 8; k++) {
            uint32_t n = k < 8 ? width : 8;
            for (uint32_t c = 0; c < n; c++) row[c] = (float)rng_normal(&r) / 8.0f;
            uint8_t *to = k < 8 ? (uint8_t *)l->fc1 + k * l->fc1_row_bytes
                                : (uint8_t *)l->fc2 + (k - 8) * l->fc2_row_bytes;
            OK(kern_encode(DT_F16, to, row, n, &e));
            if (k >= 8) l->bias[k - 8] = f32_to_f16((float)rng_normal(&r));
        }
    }
    OK(predictor_write(p, out, &e));
    predictor_close(&p);
}

struct how {
    enum calor_mode mode;
    const char *cpu, *profile;
    uint32_t batch;
    int threads, planes;
    const float *epsilon;
    const char *predictor;
};

static void compute(const char *path, const struct how *h, float *out, calor_ffn_counts *sum)
{
    char err[1000];
    calor_model *m;
    calor_session *s;
    calor_model_settings ms = calor_model_default();
    ms.layout = CALOR_LAYOUT_NEURON;
    ms.activation = "relu";
    ms.cpu = h->cpu;
    ms.threads = h->threads;
    ms.planes = h->planes;
    ms.profile = h->profile;
    ms.predictor = h->predictor;
    if (calor_model_open(&m, path, &ms, err, sizeof err)) fail_msg("%s", err);
    assert_int_equal(m->layers[1].by.order != NULL, h->profile != NULL);
    calor_session_settings ss = calor_session_default();
    ss.mode = h->mode;
    ss.batch = h->batch;
    ss.epsilon = h->epsilon;
    if (calor_session_open(&s, m, &ss, err, sizeof err)) fail_msg("%s", err);
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + 11) % VOCAB;
    if (calor_eval_all(s, ids, TOKENS, out, err, sizeof err)) fail_msg("%s", err);
    *sum = (calor_ffn_counts){0};
    for (uint32_t l = 0; l < LAYERS; l++) {
        calor_ffn_counts c;
        assert_int_equal(calor_session_ffn(s, l, &c), 0);
        sum->active += c.active;
        sum->listed += c.listed;
        sum->exact += c.exact;
    }
    calor_session_close(&s);
    calor_model_close(&m);
}

static double distance(const float *a, const float *b)
{
    double d = 0.0, n = 0.0;
    for (int i = 0; i < TOKENS * VOCAB; i++) {
        d += pow((double)a[i] - (double)b[i], 2);
        n += pow((double)a[i], 2);
    }
    return d / n;
}

static float want[TOKENS * VOCAB], got[TOKENS * VOCAB], plain[TOKENS * VOCAB];

static void check(const char *path, const char *profile, const char *what, const char *cpu, int planes)
{
    static const float epsilon[LAYERS] = {0.02f, 0.02f};
    calor_ffn_counts a, b;
    struct how h = {CALOR_DENSE, cpu, NULL, 1, 1, planes, epsilon};
    compute(path, &h, plain, &a);
    h.profile = profile;
    compute(path, &h, want, &b);
    double d = distance(plain, want);
    /* One token at a time, the sum's order is all that differs; on the wide tiers the next layers' inputs are
     * rounded to 8 bits, and a last bit may become a step. */
    if (!(d < (strcmp(cpu, "ref") == 0 ? 1e-8 : 1e-4)) || memcmp(plain, want, sizeof plain) == 0)
        fail_msg("%s, %s: differs by %g in another order", what, cpu, d);
    assert_true(llabs((long long)a.active - (long long)b.active) <= (long long)a.active / 200);
    h.mode = CALOR_EXACT;
    for (int i = 0; i < 2; i++) {
        h.batch = i ? 3 : 1;
        h.threads = 1 + i;
        compute(path, &h, got, &a);
        if (memcmp(want, got, sizeof got) != 0)
            fail_msg("%s, %s: exact is not dense to the bit (%d)", what, cpu, i);
        assert_true(a.active == b.active && a.listed < a.exact + (uint64_t)planes * FFN * TOKENS * LAYERS);
    }
    /* Many tokens at once go through the file's order: the same bits with and without a profile. */
    for (int i = 0; i < 2; i++) {
        h.batch = TOKENS;
        h.mode = i ? CALOR_THRESHOLD : CALOR_EXACT;
        compute(path, &h, got, &a);
        h.profile = NULL;
        compute(path, &h, want, &b);
        h.profile = profile;
        if (memcmp(want, got, sizeof got) != 0 || a.active != b.active)
            fail_msg("%s, %s: a batch differs by %g in another order (%d)", what, cpu, distance(want, got),
                     i);
    }
}

static void test_types(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *profile = in_dir("model.profile");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        struct tiny s = tiny_llama();
        s.type = types[t];
        s.width = 256;
        s.ffn = t < 5 ? FFN : 768;
        s.bias = t % 2;
        OK(tiny_write(path, &s, &e));
        make_profile(path, profile, s.ffn, s.width);
        check(path, profile, dtype_name(types[t]), tiers[t % 3], 0);
        if (types[t] == DT_F16 || types[t] == DT_Q8_0) check(path, profile, "planes", tiers[(t + 1) % 3], 1);
    }
}

static void test_other_layouts(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *profile = in_dir("model.profile");
    for (int i = 0; i < 4; i++) {
        struct tiny s = tiny_llama();
        s.type = i % 2 ? DT_Q8_0 : DT_F16;
        s.width = 256;
        s.ffn = FFN;
        if (i < 2) {
            s.by_neuron = true; /* PowerInfer's down */
        } else {
            s.arch = "opt"; /* ungated */
            s.gated = false;
            s.layer_norm = s.bias = s.learned = true;
            s.kv_heads = s.heads;
        }
        OK(tiny_write(path, &s, &e));
        make_profile(path, profile, s.ffn, s.width);
        check(path, profile, i < 2 ? "down by neuron" : "ungated", tiers[i % 3], 0);
    }
}

/* The same neurons are let through, whatever their order. */
static void test_predictor(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *profile = in_dir("model.profile"),
               *predictor = in_dir("model.predictor");
    struct tiny s = tiny_llama();
    s.type = DT_F16;
    s.width = 256;
    s.ffn = FFN;
    OK(tiny_write(path, &s, &e));
    make_profile(path, profile, s.ffn, s.width);
    make_predictor(path, predictor, s.ffn, s.width);
    calor_ffn_counts a, b;
    struct how h = {CALOR_PREDICT, "ref", NULL, 1, 1, 0, NULL, predictor};
    compute(path, &h, plain, &a);
    assert_true(a.exact > (uint64_t)FFN * TOKENS / 2 && a.exact < (uint64_t)FFN * TOKENS * 3 / 2);
    h.profile = profile;
    compute(path, &h, got, &b);
    if (!(distance(plain, got) < 1e-8))
        fail_msg("predict mode differs by %g in another order", distance(plain, got));
    assert_true(llabs((long long)a.exact - (long long)b.exact) <= 4);
    h.mode = CALOR_EXACT;
    compute(path, &h, want, &b);
    assert_true(distance(plain, want) > 1e-4); /* what is missed shows */
}

/* What the layout is by: blocks of the hottest neurons first, the file's order inside; places and back. */
static void test_order(void **state)
{
    (void)state;
    struct err e;
    char msg[1000];
    calor_model *m;
    const char *path = in_dir("model.gguf"), *profile = in_dir("model.profile");
    struct tiny s = tiny_llama();
    s.type = DT_Q8_0;
    s.width = 256;
    s.ffn = FFN;
    OK(tiny_write(path, &s, &e));
    make_profile(path, profile, s.ffn, s.width);
    calor_model_settings ms = calor_model_default();
    ms.activation = "relu";
    ms.profile = profile;
    assert_int_equal(calor_model_open(&m, path, &ms, msg, sizeof msg), 0);
    for (uint32_t l = 0; l < LAYERS; l++) {
        const struct neurons *by = &m->layers[l].by;
        for (uint32_t i = 0; i < FFN; i++) {
            uint32_t heat = 7919 * by->order[i] % FFN, rank = l ? heat : FFN - 1 - heat;
            assert_true(by->place_of[by->order[i]] == i && rank / KERN_BLOCK == i / KERN_BLOCK);
            assert_true(i % KERN_BLOCK == 0 || by->order[i - 1] < by->order[i]);
            assert_int_equal(by->down.group_of[i], by->order[i] / 32);
        }
    }
    uint32_t order[FFN];
    for (uint32_t i = 0; i < FFN; i++) order[i] = i;
    order[5] = 3;
    assert_int_equal(neurons_set_order(m, 0, order, &e), ERR_STALE);
    assert_non_null(strstr(e.msg, "neuron 3 at place 5"));
    order[5] = FFN;
    assert_int_equal(neurons_set_order(m, 0, order, &e), ERR_STALE);
    assert_non_null(strstr(e.msg, "neuron 544 at place 5"));
    calor_model_close(&m);
    ms.layout = CALOR_LAYOUT_FILE; /* nothing is laid out, nothing has an order */
    assert_int_equal(calor_model_open(&m, path, &ms, msg, sizeof msg), 0);
    assert_null(m->layers[0].by.order);
    calor_model_close(&m);
    /* A profile of a model of another shape, although it says it is this one's. */
    make_profile(path, profile, s.ffn - 32, s.width);
    assert_int_equal(calor_model_open(&m, path, &ms, msg, sizeof msg), CALOR_ESTALE);
    assert_non_null(strstr(msg, "512"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_other_layouts),
        cmocka_unit_test(test_predictor),
        cmocka_unit_test(test_order),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
