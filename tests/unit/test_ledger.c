/* The planner's ledger against the engine: the buffers of a session are counted to the byte. */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "engine/calor.h"
#include "kernels/kernels.h"
#include "placement/plan.h"

static void same(const struct tiny *t, enum plan_mode mode, enum calor_layout layout, uint32_t context,
                 uint32_t batch, int threads)
{
    struct err e;
    char err[1000];
    const char *path = in_dir("m.gguf");
    struct gguf *f;
    struct plan_model *pm;
    calor_model *m;
    calor_session *s;
    OK(tiny_write(path, t, &e));
    OK(gguf_open(&f, path, GGUF_META, &e));
    struct plan_model_settings pms = plan_model_default();
    pms.mode = mode;
    OK(plan_model_from_gguf(&pm, f, NULL, &pms, &e));
    gguf_close(&f);
    calor_model_settings ms = calor_model_default();
    ms.threads = threads;
    ms.layout = layout;
    ms.activation = "relu";
    ms.planes = mode == PLAN_SURE;
    if (calor_model_open(&m, path, &ms, err, sizeof err)) fail_msg("%s", err);
    calor_session_settings ss = calor_session_default();
    ss.context = context;
    ss.batch = batch;
    ss.kv = "f32";
    if (calor_session_open(&s, m, &ss, err, sizeof err)) fail_msg("%s", err);
    calor_session_info info;
    calor_model_info mi;
    calor_session_describe(s, &info);
    calor_model_describe(m, &mi);
    struct ledger_settings ls = {
        .context = context, .batch = batch, .threads = (uint32_t)mi.threads, .kv = DT_F32};
    OK(kern_select(NULL, &ls.ops, &e));
    assert_int_equal(ledger_compute(pm, &ls), info.compute_bytes);
    assert_int_equal(plan_model_kv(pm, DT_F32, context) * pm->layers, info.kv_bytes);
    calor_session_close(&s);
    calor_model_close(&m);
    plan_model_destroy(&pm);
}

static void buffers(void **state)
{
    (void)state;
    static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q6_K, DT_Q5_K};
    static const uint32_t batches[] = {1, 3, 5, 33, 64};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (size_t b = 0; b < sizeof batches / sizeof *batches; b++) {
            struct tiny t = tiny_llama();
            t.type = types[i];
            t.width = 256;
            t.ffn = 512;
            same(&t, PLAN_EXACT, CALOR_LAYOUT_NEURON, 64, batches[b], 2);
            same(&t, PLAN_DENSE, CALOR_LAYOUT_FILE, 64, batches[b], 1 + b % 3);
            if (kern_can_plane(types[i])) same(&t, PLAN_SURE, CALOR_LAYOUT_NEURON, 50, batches[b], 1);
        }
}

static void architectures(void **state)
{
    (void)state;
    struct tiny t = tiny_llama();
    t.arch = "falcon";
    t.gated = false;
    t.layer_norm = t.bias = t.two_norms = t.fused_qkv = true;
    same(&t, PLAN_EXACT, CALOR_LAYOUT_NEURON, 64, 16, 2);
    same(&t, PLAN_DENSE, CALOR_LAYOUT_FILE, 64, 16, 2);
    t = tiny_llama();
    t.arch = "opt";
    t.gated = false;
    t.layer_norm = t.bias = t.learned = true;
    t.kv_heads = t.heads;
    same(&t, PLAN_EXACT, CALOR_LAYOUT_NEURON, 64, 64, 2);
    t = tiny_llama();
    t.tied = true;
    same(&t, PLAN_EXACT, CALOR_LAYOUT_NEURON, 64, 20, 2);
    t = tiny_llama();
    t.by_neuron = true;
    same(&t, PLAN_EXACT, CALOR_LAYOUT_NEURON, 64, 20, 2);
    same(&t, PLAN_DENSE, CALOR_LAYOUT_FILE, 64, 20, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(buffers), cmocka_unit_test(architectures)};
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
