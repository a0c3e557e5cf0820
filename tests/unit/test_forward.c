/* The forward pass of every architecture against the plain double-precision computation. */
#include "tests/unit/plain_model.h"
#include "tests/unit/temp_dir.h"

#include "engine/calor.h"

#define TOKENS 40

struct one {
    const char *what;
    struct tiny s;
    const char *activation; /* given to the engine, NULL: the file's */
    enum kern_act act;
    float param;
    bool neox, parallel;
    double embedding_scale, residual_scale, logit_scale, freq_scale, rope_base, yarn_low, yarn_high,
        magnitude;
    int rot, window;
};

static void make_ids(const struct one *o, int32_t *ids)
{
    struct rng r;
    rng_init(&r, 7);
    for (int i = 0; i < TOKENS; i++) ids[i] = (int32_t)rng_below(&r, o->s.vocab);
}

static double *expected(const struct one *o, const char *path, const int32_t *ids)
{
    struct err e;
    struct plain p = {.s = &o->s, .act = o->act, .param = o->param, .neox = o->neox, .parallel = o->parallel};
    p.embedding_scale = o->embedding_scale ? o->embedding_scale : 1.0;
    p.residual_scale = o->residual_scale ? o->residual_scale : 1.0;
    p.logit_scale = o->logit_scale ? o->logit_scale : 1.0;
    p.freq_scale = o->freq_scale ? o->freq_scale : 1.0;
    p.rope_base = o->rope_base ? o->rope_base : 10000.0;
    p.magnitude = o->magnitude ? o->magnitude : 1.0;
    p.yarn_low = o->yarn_low;
    p.yarn_high = o->yarn_high;
    p.rot = o->rot ? o->rot : (int)(o->s.width / o->s.heads);
    p.window = o->window;
    p.ops = kern_tier(KERN_REF);
    OK(gguf_open(&p.f, path, GGUF_MMAP, &e));
    double *logits = malloc(sizeof *logits * TOKENS * o->s.vocab);
    plain_run(&p, ids, TOKENS, logits);
    gguf_close(&p.f);
    return logits;
}

/* Largest difference of logits computed in batches of `batch` tokens. */
static double distance(const struct one *o, const char *path, const int32_t *ids, const double *want,
                       uint32_t batch, int threads, bool no_mmap, enum calor_layout layout)
{
    char err[1000];
    calor_model *m = NULL;
    calor_session *s = NULL;
    calor_model_settings ms = calor_model_default();
    ms.threads = threads;
    ms.activation = o->activation;
    ms.no_mmap = no_mmap;
    ms.cpu = "ref";
    ms.layout = layout;
    if (calor_model_open(&m, path, &ms, err, sizeof err) != 0) fail_msg("%s: %s", o->what, err);
    calor_session_settings ss = calor_session_default();
    ss.kv = "f32";
    ss.batch = batch;
    if (calor_session_open(&s, m, &ss, err, sizeof err) != 0) fail_msg("%s: %s", o->what, err);
    float *got = malloc(sizeof *got * TOKENS * o->s.vocab);
    if (calor_eval_all(s, ids, TOKENS, got, err, sizeof err) != 0) fail_msg("%s: %s", o->what, err);
    double worst = 0.0;
    for (size_t i = 0; i < (size_t)TOKENS * o->s.vocab; i++)
        worst = fmax(worst, fabs((double)got[i] - want[i]));
    /* Without all logits the last layer computes one token only: the same answer is due. */
    calor_rewind(s, 0);
    if (calor_eval(s, ids, TOKENS, err, sizeof err) != 0) fail_msg("%s: %s", o->what, err);
    for (size_t i = 0; i < o->s.vocab; i++)
        worst = fmax(worst, fabs((double)calor_logits(s)[i] - want[(size_t)(TOKENS - 1) * o->s.vocab + i]));
    free(got);
    calor_session_close(&s);
    calor_model_close(&m);
    return worst;
}

static void check(const struct one *o)
{
    struct err e;
    int32_t ids[TOKENS];
    const char *path = in_dir("model.gguf");
    OK(tiny_write(path, &o->s, &e));
    make_ids(o, ids);
    double *want = expected(o, path, ids), spread = 0.0;
    for (size_t i = 0; i < (size_t)TOKENS * o->s.vocab; i++) spread = fmax(spread, fabs(want[i]));
    assert_true(spread > 0.5 && spread < 1e3); /* logits that say something */
    const uint32_t batches[] = {64, 1, 3, 7};
    for (int i = 0; i < 8; i++) {
        enum calor_layout layout = i < 4 ? CALOR_LAYOUT_FILE : CALOR_LAYOUT_NEURON;
        double d = distance(o, path, ids, want, batches[i % 4], 1 + i % 3, i % 4 == 1, layout);
        if (!(d <= 1e-4))
            fail_msg("%s, batches of %u, layout %d: a logit differs by %g", o->what, batches[i % 4],
                     (int)layout, d);
    }
    free(want);
}

static void test_llama(void **state)
{
    (void)state;
    struct one o = {.what = "llama", .s = tiny_llama(), .act = KERN_SILU};
    check(&o);
    o = (struct one){.what = "tied, one KV head, biases", .s = tiny_llama(), .act = KERN_SILU};
    o.s.tied = o.s.bias = true;
    o.s.kv_heads = 1;
    check(&o);
    o = (struct one){.what = "F16 weights", .s = tiny_llama(), .act = KERN_SILU};
    o.s.type = DT_F16;
    check(&o);
}

static void test_activations(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum kern_act act;
        float param;
    } acts[] = {{"gelu", KERN_GELU, 0},   {"gelu_new", KERN_GELU_TANH, 0},       {"relu", KERN_RELU, 0},
                {"relu2", KERN_RELU2, 0}, {"fatrelu:0.25", KERN_FATRELU, 0.25f}, {"drelu", KERN_DRELU, 0}};
    for (size_t i = 0; i < sizeof acts / sizeof *acts; i++) {
        struct one o = {.what = acts[i].name,
                        .s = tiny_llama(),
                        .activation = acts[i].name,
                        .act = acts[i].act,
                        .param = acts[i].param};
        check(&o);
    }
}

static void put_linear(struct gguf_writer *w, const void *arg)
{
    (void)arg;
    gguf_put_str(w, "llama.rope.scaling.type", "linear", NULL);
    gguf_put_f32(w, "llama.rope.scaling.factor", 4.0f, NULL);
    gguf_put_f32(w, "llama.rope.freq_base", 5000.0f, NULL);
    gguf_put_u32(w, "llama.rope.dimension_count", 8, NULL);
    gguf_put_u32(w, "llama.attention.sliding_window", 9, NULL);
}

static void put_yarn(struct gguf_writer *w, const void *arg)
{
    (void)arg;
    gguf_put_str(w, "qwen2.rope.scaling.type", "yarn", NULL);
    gguf_put_f32(w, "qwen2.rope.scaling.factor", 8.0f, NULL);
    gguf_put_u32(w, "qwen2.rope.scaling.original_context_length", 16, NULL);
    gguf_put_f32(w, "qwen2.rope.freq_base", 100.0f, NULL);
}

static void test_positions(void **state)
{
    (void)state;
    struct one o = {.what = "linear scaling, part of each head, a window",
                    .s = tiny_llama(),
                    .act = KERN_SILU,
                    .freq_scale = 0.25,
                    .rope_base = 5000.0,
                    .rot = 8,
                    .window = 9};
    o.s.edit = put_linear;
    check(&o);
    o = (struct one){.what = "llama 3's factors", .s = tiny_llama(), .act = KERN_SILU};
    o.s.rope_factors = true;
    check(&o);
    /* YaRN by its paper: pairs that turn more than 32 times in the original context are kept, less than once
     * are interpolated; 16 positions, base 100, 16 values a head: pairs floor(−4.39) → 0 and ceil(1.62) = 2.
     */
    o = (struct one){.what = "qwen2 with YaRN",
                     .s = tiny_llama(),
                     .act = KERN_SILU,
                     .neox = true,
                     .freq_scale = 0.125,
                     .rope_base = 100.0,
                     .yarn_low = 0,
                     .yarn_high = 2,
                     .magnitude = 1.0 + 0.1 * log(8.0)};
    o.s.arch = "qwen2";
    o.s.edit = put_yarn;
    check(&o);
}

static void put_scales(struct gguf_writer *w, const void *arg)
{
    (void)arg;
    gguf_put_f32(w, "minicpm.embedding_scale", 3.0f, NULL);
    gguf_put_f32(w, "minicpm.residual_scale", 0.5f, NULL);
    gguf_put_f32(w, "minicpm.logit_scale", 2.0f, NULL);
}

static void test_other_architectures(void **state)
{
    (void)state;
    struct one o = {.what = "minicpm",
                    .s = tiny_llama(),
                    .act = KERN_SILU,
                    .embedding_scale = 3,
                    .residual_scale = 0.5,
                    .logit_scale = 0.5};
    o.s.arch = "minicpm";
    o.s.edit = put_scales;
    check(&o);
    o = (struct one){.what = "minicpm without keys",
                     .s = tiny_llama(),
                     .act = KERN_SILU,
                     .embedding_scale = 12,
                     .residual_scale = 1.4 / sqrt(2.0),
                     .logit_scale = 256.0 / 64.0};
    o.s.arch = "minicpm";
    check(&o);
    o = (struct one){.what = "bamboo", .s = tiny_llama(), .act = KERN_DRELU};
    o.s.arch = "bamboo";
    check(&o);
    o = (struct one){.what = "opt", .s = tiny_llama(), .act = KERN_RELU};
    o.s.arch = "opt";
    o.s.gated = false;
    o.s.layer_norm = o.s.bias = o.s.learned = true;
    o.s.kv_heads = o.s.heads;
    check(&o);
    o = (struct one){.what = "falcon with one norm and one KV head",
                     .s = tiny_llama(),
                     .act = KERN_GELU,
                     .neox = true,
                     .parallel = true};
    o.s.arch = "falcon";
    o.s.gated = false;
    o.s.layer_norm = o.s.fused_qkv = true;
    o.s.kv_heads = 1;
    check(&o);
    o.what = "falcon with two norms and many heads a KV head";
    o.s.two_norms = true;
    o.s.heads = 16;
    check(&o);
}

static void test_by_neuron(void **state)
{
    (void)state;
    struct one o = {
        .what = "down stored by neuron", .s = tiny_llama(), .activation = "relu", .act = KERN_RELU};
    o.s.by_neuron = o.s.bias = true;
    o.s.width = 320; /* more than one piece of columns */
    o.s.heads = 10;
    check(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),     cmocka_unit_test(test_activations),
        cmocka_unit_test(test_positions), cmocka_unit_test(test_other_architectures),
        cmocka_unit_test(test_by_neuron),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
