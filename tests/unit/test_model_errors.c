/* What a model file must not get away with: one damaged key or tensor at a time, each refused with a message
 * that names it. And how the activation is resolved. */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "engine/calor.h"

#include <unistd.h>

static char err[1000];

/* Opens a model of the specification: the code; *m is closed again. */
static int open_tiny(const char *name, const struct tiny *t, const char *activation, calor_model_info *info)
{
    struct err e;
    calor_model *m = NULL;
    calor_model_settings ms = calor_model_default();
    static char act[64];
    OK(tiny_write(in_dir(name), t, &e));
    ms.threads = 1;
    ms.activation = activation;
    int r = calor_model_open(&m, in_dir(name), &ms, err, sizeof err);
    assert_true(r == 0 || m == NULL);
    if (r == 0 && info) {
        calor_model_describe(m, info);
        snprintf(act, sizeof act, "%s", info->activation);
        info->activation = act;
    }
    calor_model_close(&m);
    return r;
}

static void expect(const char *what, const struct tiny *t, int code, const char *text)
{
    int r = open_tiny("bad.gguf", t, NULL, NULL);
    if (r != code || (text && !strstr(err, text)))
        fail_msg("%s: expected %d and '%s', found %d '%s'", what, code, text ? text : "", r, err);
    if (r != 0 && !strstr(err, "bad.gguf"))
        fail_msg("%s: the message does not name the file: '%s'", what, err);
}

struct key {
    const char *name;
    enum { U32, F32, STR, F32_AS_STR } kind;
    double value;
    const char *text;
};

static void put_key(struct gguf_writer *w, const void *arg)
{
    const struct key *k = arg;
    if (k->kind == U32) gguf_put_u32(w, k->name, (uint32_t)k->value, NULL);
    if (k->kind == F32) gguf_put_f32(w, k->name, (float)k->value, NULL);
    if (k->kind == STR || k->kind == F32_AS_STR) gguf_put_str(w, k->name, k->text, NULL);
}

static void test_keys(void **state)
{
    (void)state;
    static const struct {
        struct key k;
        int code;
        const char *text;
    } cases[] = {
        {{"llama.block_count", U32, 0}, CALOR_EFORMAT, "llama.block_count is 0"},
        {{"llama.block_count", U32, 3}, CALOR_EFORMAT, "blk.2."},
        {{"llama.block_count", U32, 1}, CALOR_EFORMAT, "beyond the 1 layers"},
        {{"llama.block_count", U32, 4000}, CALOR_EFORMAT, "block_count is 4000"},
        {{"llama.block_count", U32, 4294967295.0}, CALOR_EFORMAT, "block_count"},
        {{"llama.block_count", STR, 0, "2"}, CALOR_EFORMAT, "block_count"},
        {{"llama.block_count", F32, 2}, CALOR_EFORMAT, "block_count"},
        {{"llama.embedding_length", U32, 0}, CALOR_EFORMAT, "embedding_length is 0"},
        {{"llama.embedding_length", U32, 32}, CALOR_EFORMAT, "token_embd.weight"},
        {{"llama.embedding_length", U32, 4294967295.0}, CALOR_EFORMAT, "embedding_length"},
        {{"llama.feed_forward_length", U32, 0}, CALOR_EFORMAT, "feed_forward_length is 0"},
        {{"llama.feed_forward_length", U32, 64}, CALOR_EFORMAT, "ffn_gate.weight"},
        {{"llama.feed_forward_length", U32, 4294967295.0}, CALOR_EFORMAT, "feed_forward_length"},
        {{"llama.context_length", U32, 0}, CALOR_EFORMAT, "context_length is 0"},
        {{"llama.context_length", U32, 4294967295.0}, CALOR_EFORMAT, "context_length"},
        {{"llama.attention.head_count", U32, 0}, CALOR_EFORMAT, "head_count is 0"},
        {{"llama.attention.head_count", U32, 3}, CALOR_EFORMAT, "divisor"},
        {{"llama.attention.head_count", U32, 4294967295.0}, CALOR_EFORMAT, "head_count"},
        {{"llama.attention.head_count_kv", U32, 0}, CALOR_EFORMAT, "head_count_kv is 0"},
        {{"llama.attention.head_count_kv", U32, 3}, CALOR_EFORMAT, "head_count_kv is 3"},
        {{"llama.attention.head_count_kv", U32, 8}, CALOR_EFORMAT, "head_count_kv is 8"},
        {{"llama.attention.head_count_kv", U32, 4}, CALOR_EFORMAT, "attn_k.weight"},
        {{"llama.attention.key_length", U32, 0}, CALOR_EFORMAT, "key_length is 0"},
        {{"llama.attention.key_length", U32, 8}, CALOR_EFORMAT, "attn_q.weight"},
        {{"llama.attention.value_length", U32, 8}, CALOR_EUNSUPPORTED, "value values"},
        {{"llama.attention.layer_norm_rms_epsilon", F32, -1}, CALOR_EFORMAT, "epsilon"},
        {{"llama.attention.layer_norm_rms_epsilon", F32_AS_STR, 0, "1e-5"}, CALOR_EFORMAT, "epsilon"},
        {{"llama.rope.dimension_count", U32, 0}, CALOR_EFORMAT, "dimension_count is 0"},
        {{"llama.rope.dimension_count", U32, 7}, CALOR_EFORMAT, "even"},
        {{"llama.rope.dimension_count", U32, 18}, CALOR_EFORMAT, "dimension_count is 18"},
        {{"llama.rope.freq_base", F32, 0}, CALOR_EFORMAT, "freq_base"},
        {{"llama.rope.freq_base", F32, -5}, CALOR_EFORMAT, "freq_base"},
        {{"llama.rope.scaling.type", STR, 0, "longrope"}, CALOR_EUNSUPPORTED, "longrope"},
        {{"llama.rope.scaling.factor", F32, -2}, CALOR_EFORMAT, "factor"},
        {{"llama.vocab_size", U32, 81}, CALOR_EFORMAT, "vocab_size is 81"},
        {{"llama.expert_count", U32, 8}, CALOR_EUNSUPPORTED, "8 experts"},
        {{"general.architecture", STR, 0, "mamba"}, CALOR_EUNSUPPORTED, "mamba"},
        {{"general.architecture", STR, 0, ""}, CALOR_EUNSUPPORTED, "architecture"},
        {{"general.architecture", U32, 5}, CALOR_EFORMAT, "general.architecture"},
        {{"calor.activation", STR, 0, "mish"}, CALOR_EUNSUPPORTED, "mish"},
        {{"llama.hidden_activation", STR, 0, "fatrelu"}, CALOR_EUNSUPPORTED, "threshold"},
        {{"general.name", STR, 0, "MyOwn-ReLU-3B"}, CALOR_EUNSUPPORTED, "--activation"},
        {{"general.name", STR, 0, "sparse thing"}, CALOR_EUNSUPPORTED, "--activation"},
        /* and some that must pass */
        {{"llama.vocab_size", U32, 80}, 0, NULL},
        {{"llama.attention.sliding_window", U32, 5}, 0, NULL},
        {{"llama.rope.scaling.type", STR, 0, "none"}, 0, NULL},
        {{"general.name", STR, 0, "plain \x01\x7f name"}, 0, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny t = tiny_llama();
        t.edit = put_key;
        t.arg = &cases[i].k;
        char what[120];
        snprintf(what, sizeof what, "case %zu, %s", i, cases[i].k.name);
        expect(what, &t, cases[i].code, cases[i].text);
    }
}

static void test_missing(void **state)
{
    (void)state;
    static const char *const names[] = {"general.architecture",
                                        "context_length",
                                        "embedding_length",
                                        "block_count",
                                        "feed_forward_length",
                                        "attention.head_count",
                                        "epsilon",
                                        "token_embd.weight",
                                        "output_norm.weight",
                                        "blk.0.attn_norm.weight",
                                        "blk.1.attn_q.weight",
                                        "blk.0.attn_k.weight",
                                        "blk.0.attn_v.weight",
                                        "blk.1.attn_output.weight",
                                        "blk.0.ffn_norm.weight",
                                        "blk.0.ffn_gate.weight",
                                        "blk.1.ffn_up.weight",
                                        "blk.1.ffn_down.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tiny t = tiny_llama();
        t.skip = names[i];
        expect(names[i], &t, CALOR_EFORMAT, names[i]);
        if (!strstr(err, "missing")) fail_msg("%s: '%s'", names[i], err);
    }
    struct tiny t = tiny_llama(); /* these two have defaults */
    t.skip = "output.weight";
    expect("tied", &t, 0, NULL);
    t = tiny_llama();
    t.skip = "attention.head_count_kv";
    t.kv_heads = t.heads;
    expect("as many KV heads", &t, 0, NULL);
}

static void test_shapes(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t ne[2];
    } cases[] = {{"blk.0.attn_q.weight", {64, 63}},
                 {"blk.0.attn_q.weight", {32, 64}},
                 {"blk.1.attn_output.weight", {64, 32}},
                 {"blk.0.ffn_down.weight", {64, 96}},
                 {"blk.0.attn_norm.weight", {65, 0}},
                 {"output_norm.weight", {1, 0}},
                 {"output.weight", {64, 81}},
                 {"blk.0.ffn_up.weight", {64, 0}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny t = tiny_llama();
        t.reshape.name = cases[i].name;
        memcpy(t.reshape.ne, cases[i].ne, sizeof cases[i].ne);
        expect(cases[i].name, &t, CALOR_EFORMAT, cases[i].name);
    }
    static const char *const extra[] = {"blk.2.attn_q.weight",        "blk.x.attn_q.weight",
                                        "blk.-1.attn_q.weight",       "blk..attn_q.weight",
                                        "blk.99999999999999999999.a", "blk.1"};
    for (size_t i = 0; i < sizeof extra / sizeof *extra; i++) {
        struct tiny t = tiny_llama();
        t.extra = extra[i];
        expect(extra[i], &t, CALOR_EFORMAT, extra[i]);
    }
    struct tiny t = tiny_llama();
    t.extra = "something.else";
    expect("an unknown tensor", &t, 0, NULL);
}

static void test_activation(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *key, *value, *given, *want;
    } cases[] = {
        {"llama", NULL, NULL, NULL, "silu"},
        {"llama", NULL, NULL, "relu", "relu"},
        {"llama", "calor.activation", "relu2", NULL, "relu2"},
        {"llama", "calor.activation", "relu2", "FATReLU:0.5", "fatrelu:0.5"},
        {"llama", "llama.hidden_activation", "relu", NULL, "relu"},
        {"llama", "llama.hidden_activation", "fatrelu:0.01", NULL, "fatrelu:0.01"},
        {"llama", "llama.activation_function", "gelu_pytorch_tanh", NULL, "gelu_tanh"},
        {"llama", "general.name", "ProSparse-LLaMA-2-7B", NULL, "fatrelu:0.01"},
        {"llama", "general.name", "prosparse-llama-2-13b-gguf", NULL, "fatrelu:0.01"},
        {"llama", "general.name", "ReluLLaMA-7B", NULL, "relu"},
        {"llama", "general.name", "Bamboo base v0.1", NULL, "drelu"},
        {"llama", "general.name", "TurboSparse-Mistral-Instruct", NULL, "drelu"},
        {"minicpm", "general.name", "MiniCPM-S-1B-sft", NULL, "fatrelu:0.03"},
        {"minicpm", "general.name", "MiniCPM-2B", NULL, "silu"},
        {"qwen2", NULL, NULL, NULL, "silu"},
        {"bamboo", "general.name", "bamboo", NULL, "drelu"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny t = tiny_llama();
        struct key k = {cases[i].key, STR, 0, cases[i].value};
        calor_model_info info = {0};
        t.arch = cases[i].arch;
        if (k.name) {
            t.edit = put_key;
            t.arg = &k;
        }
        int r = open_tiny("act.gguf", &t, cases[i].given, &info);
        if (r != 0 || strcmp(info.activation, cases[i].want) != 0)
            fail_msg("case %zu: expected %s, found %s (%d %s)", i, cases[i].want, r ? "" : info.activation, r,
                     err);
    }
    /* The file's name is a hint too. */
    struct tiny t = tiny_llama();
    assert_int_equal(open_tiny("prosparse-q4.gguf", &t, NULL, NULL), CALOR_EUNSUPPORTED);
    assert_non_null(strstr(err, "--activation"));
    assert_int_equal(open_tiny("prosparse-q4.gguf", &t, "fatrelu:0.01", NULL), 0);
    assert_int_equal(open_tiny("a.gguf", &t, "fatrelu", NULL), CALOR_EARG);
    assert_int_equal(open_tiny("a.gguf", &t, "fatrelu:x", NULL), CALOR_EARG);
    assert_int_equal(open_tiny("a.gguf", &t, "silu:1", NULL), CALOR_EARG);
    assert_int_equal(open_tiny("a.gguf", &t, "", NULL), CALOR_EARG);
    t.arch = "opt";
    t.gated = false;
    t.layer_norm = t.bias = t.learned = true;
    t.kv_heads = t.heads;
    assert_int_equal(open_tiny("relu-opt.gguf", &t, NULL, NULL), 0); /* OPT's answer is ReLU, hint or not */
    assert_int_equal(open_tiny("opt.gguf", &t, "drelu", NULL), CALOR_EARG);
    assert_non_null(strstr(err, "gated"));
}

static void test_learned_positions(void **state)
{
    (void)state;
    struct tiny t = tiny_llama();
    t.arch = "opt";
    t.gated = false;
    t.layer_norm = t.bias = t.learned = true;
    t.kv_heads = t.heads;
    struct key k = {"opt.context_length", U32, 65, NULL};
    t.edit = put_key;
    t.arg = &k;
    expect("too few rows", &t, CALOR_EFORMAT, "position_embd.weight has 66 rows");
    t.edit = NULL;
    struct err e;
    calor_model *m = NULL;
    calor_session *s = NULL;
    calor_session_settings ss = calor_session_default();
    OK(tiny_write(in_dir("opt.gguf"), &t, &e));
    assert_int_equal(calor_model_open(&m, in_dir("opt.gguf"), NULL, err, sizeof err), 0);
    ss.context = 65;
    assert_int_equal(calor_session_open(&s, m, &ss, err, sizeof err), CALOR_EARG);
    assert_non_null(strstr(err, "64 learned positions"));
    ss.context = 64;
    assert_int_equal(calor_session_open(&s, m, &ss, err, sizeof err), 0);
    calor_session_close(&s);
    calor_model_close(&m);
}

/* PowerInfer's own format: down by neuron, predictors beside the weights, ReLU. */
static void test_powerinfer(void **state)
{
    (void)state;
    struct err e;
    struct tiny t = tiny_llama();
    const char *path = in_dir("pi.gguf");
    calor_model *m = NULL;
    calor_model_info info;
    t.by_neuron = true;
    t.extra = "blk.0.fc1.weight";
    OK(tiny_write(path, &t, &e));
    FILE *f = fopen(path, "r+b");
    assert_true(f && fwrite("PWRI", 1, 4, f) == 4 && fclose(f) == 0);
    if (calor_model_open(&m, path, NULL, err, sizeof err) != 0) fail_msg("%s", err);
    calor_model_describe(m, &info);
    assert_string_equal(info.activation, "relu");
    assert_string_equal(info.activation_origin, "PowerInfer's format");
    calor_model_close(&m);
}

static void test_settings(void **state)
{
    (void)state;
    struct err e;
    struct tiny t = tiny_llama();
    calor_model *m = NULL;
    calor_model_settings ms = calor_model_default();
    OK(tiny_write(in_dir("good.gguf"), &t, &e));
    ms.threads = -1;
    assert_int_equal(calor_model_open(&m, in_dir("good.gguf"), &ms, err, sizeof err), CALOR_EARG);
    ms.threads = 100000;
    assert_int_equal(calor_model_open(&m, in_dir("good.gguf"), &ms, err, sizeof err), CALOR_EARG);
    ms = calor_model_default();
    ms.cpu = "pentium";
    assert_int_equal(calor_model_open(&m, in_dir("good.gguf"), &ms, err, sizeof err), CALOR_EARG);
    assert_non_null(strstr(err, "pentium"));
    assert_int_equal(calor_model_open(&m, in_dir("nothing.gguf"), NULL, err, sizeof err), CALOR_EIO);
    assert_int_equal(calor_model_open(&m, temp_dir, NULL, err, sizeof err), CALOR_EIO);
    assert_int_equal(calor_model_open(NULL, "x", NULL, err, sizeof err), CALOR_EARG);
    assert_int_equal(calor_model_open(&m, NULL, NULL, NULL, 0), CALOR_EARG);
    assert_null(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_missing),
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_activation),
        cmocka_unit_test(test_learned_positions),
        cmocka_unit_test(test_powerinfer),
        cmocka_unit_test(test_settings),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
