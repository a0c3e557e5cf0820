/* Predictors: the file and its reader, and predict mode in the engine: what a predictor lets through is
 * computed exactly, the rest not at all. */
#include "tests/unit/plain_model.h"
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "base/half.h"
#include "engine/calor.h"
#include "placement/predictor.h"

enum { TOKENS = 36 /* more than are listed */, VOCAB = 80, FFN = 512, WIDTH = 64, RANK = 32 };

static struct tiny model(void)
{
    struct tiny s = tiny_llama();
    s.ffn = FFN;
    return s;
}

/* A predictor of the model at `path`: random weights times `scale`, and this bias for every neuron. */
static struct predictor *make(const char *path, float scale, float bias, enum predictor_hidden hidden,
                              enum dtype type)
{
    struct err e;
    struct gguf *f;
    struct predictor *p;
    struct rng r;
    float row[WIDTH];
    rng_init(&r, 5);
    struct predictor_subject s = {
        .model = "tiny", .activation = "relu", .layers = 2, .neurons = FFN, .width = WIDTH};
    OK(gguf_open(&f, path, GGUF_READ, &e));
    OK(gguf_identity(f, s.identity, &e));
    gguf_close(&f);
    OK(predictor_create(&p, &s, &e));
    p->recall = 0.95f;
    for (uint32_t i = 0; i < 2; i++) {
        OK(predictor_layer_create(p, i, RANK, DT_F16, type, hidden == PREDICTOR_RELU, &e));
        struct predictor_layer *l = &p->layers[i];
        l->hidden = hidden;
        l->cut = 0.25f;
        for (int k = 0; k < RANK; k++) {
            for (int c = 0; c < WIDTH; c++) row[c] = scale * (float)rng_normal(&r) / 8.0f;
            OK(kern_encode(DT_F16, l->fc1 + (size_t)k * l->fc1_row_bytes, row, WIDTH, &e));
            if (l->hidden_bias) l->hidden_bias[k] = scale * (float)rng_normal(&r);
        }
        for (int n = 0; n < FFN; n++) {
            for (int k = 0; k < RANK; k++) row[k] = scale * (float)rng_normal(&r) / 5.0f;
            OK(kern_encode(type, l->fc2 + (size_t)n * l->fc2_row_bytes, row, RANK, &e));
            l->bias[n] = f32_to_f16(bias);
        }
    }
    return p;
}

struct how {
    enum calor_mode mode;
    const char *predictor;
    uint32_t batch;
    int threads, own, planes, no_mmap;
    const char *cpu;
};

static calor_ffn_recall recall;

static void compute(const char *path, const struct how *h, float *out, calor_ffn_counts *sum)
{
    char err[1000];
    calor_model *m;
    calor_session *s;
    calor_model_settings ms = calor_model_default();
    ms.activation = "relu";
    ms.predictor = h->predictor;
    ms.own_predictor = h->own;
    ms.threads = h->threads;
    ms.planes = h->planes;
    ms.no_mmap = h->no_mmap;
    ms.cpu = h->cpu;
    if (calor_model_open(&m, path, &ms, err, sizeof err)) fail_msg("%s", err);
    calor_session_settings ss = calor_session_default();
    ss.mode = h->mode;
    ss.batch = h->batch;
    ss.kv = "f32";
    ss.recall = 1;
    if (calor_session_open(&s, m, &ss, err, sizeof err)) fail_msg("%s", err);
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + 11) % VOCAB;
    if (calor_eval_all(s, ids, TOKENS, out, err, sizeof err)) fail_msg("%s", err);
    *sum = (calor_ffn_counts){0};
    recall = (calor_ffn_recall){0};
    for (uint32_t l = 0; l < 2; l++) {
        calor_ffn_counts c;
        calor_ffn_recall r;
        assert_int_equal(calor_session_ffn(s, l, &c), 0);
        assert_int_equal(calor_session_recall(s, l, &r), 0);
        assert_true(c.active <= c.listed && c.listed <= c.exact && c.exact <= c.neurons);
        assert_true(r.found <= r.active && r.magnitude_found <= r.magnitude && r.active <= r.neurons);
        sum->neurons += c.neurons;
        sum->exact += c.exact;
        sum->listed += c.listed;
        sum->active += c.active;
        sum->bytes += c.bytes;
        sum->screen += c.screen;
        recall.active += r.active;
        recall.found += r.found;
        recall.magnitude += r.magnitude;
        recall.magnitude_found += r.magnitude_found;
    }
    assert_int_equal(calor_session_recall(s, 2, &(calor_ffn_recall){0}), CALOR_EARG);
    calor_session_close(&s);
    calor_model_close(&m);
}

static float want[TOKENS * VOCAB], got[TOKENS * VOCAB];
static calor_ffn_counts count, all;

static bool same(void)
{
    return memcmp(want, got, sizeof want) == 0;
}

/* The largest difference to the model computed in double precision with the same neurons left out. */
static void check_plain(const char *path, const struct tiny *s, const struct how *h, double cut)
{
    struct err e;
    struct plain p = {.s = s, .act = KERN_RELU, .powerinfer = h->own, .cut = cut, .ops = kern_tier(KERN_REF)};
    struct predictor *file = NULL;
    int32_t ids[TOKENS];
    double logits[TOKENS * VOCAB], worst = 0.0, left_out = 0.0, all_of_it[TOKENS * VOCAB];
    p.embedding_scale = p.residual_scale = p.logit_scale = p.freq_scale = p.magnitude = 1.0;
    p.rope_base = 10000.0;
    p.rot = (int)(s->width / s->heads);
    p.parallel = strcmp(s->arch, "falcon") == 0;
    p.neox = p.parallel;
    if (h->predictor) OK(predictor_open(&file, h->predictor, &e));
    p.file = file;
    OK(gguf_open(&p.f, path, GGUF_MMAP, &e));
    for (int i = 0; i < TOKENS; i++) ids[i] = (i * 37 + 11) % VOCAB;
    plain_run(&p, ids, TOKENS, logits);
    p.file = NULL;
    p.powerinfer = false;
    plain_run(&p, ids, TOKENS, all_of_it);
    gguf_close(&p.f);
    predictor_close(&file);
    compute(path, h, got, &count);
    for (int i = 0; i < TOKENS * VOCAB; i++) {
        worst = fmax(worst, fabs((double)got[i] - logits[i]));
        left_out = fmax(left_out, fabs(all_of_it[i] - logits[i]));
    }
    if (!(worst < 1e-3)) fail_msg("logits differ by %g from those in double precision", worst);
    assert_true(left_out > 0.1); /* leaving neurons out makes a difference that would have been seen */
}

static void test_everything_passes(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *file = in_dir("all.predictor");
    for (int i = 0; i < 4; i++) {
        struct tiny s = model();
        s.type = i == 3 ? DT_F16 : i == 2 ? DT_Q8_0 : DT_F32;
        OK(tiny_write(path, &s, &e));
        struct predictor *p =
            make(path, 0.1f, 100.0f, i % 2 ? PREDICTOR_RELU : PREDICTOR_LINEAR, i ? DT_Q8_0 : DT_Q4_0);
        uint64_t bytes = predictor_layer_bytes(p, 0) + predictor_layer_bytes(p, 1);
        OK(predictor_write(p, file, &e));
        predictor_close(&p);
        for (uint32_t batch = 1; batch <= 3; batch += 2) {
            compute(path, &(struct how){CALOR_EXACT, NULL, batch, 1}, want, &all);
            compute(path, &(struct how){CALOR_PREDICT, file, batch, 2, .planes = i == 3, .no_mmap = i == 1},
                    got, &count);
            if (!same()) fail_msg("case %d, batches of %u: not the bits of exact", i, batch);
            assert_true(count.active == all.active && count.exact == count.neurons);
            assert_true(recall.found == recall.active && recall.active == all.active &&
                        recall.magnitude_found == recall.magnitude);
            assert_int_equal(count.screen, bytes * TOKENS);
            if (i != 3) assert_int_equal(count.bytes, all.bytes + count.screen);
        }
    }
}

/* The FFNs' outputs are zero: the bits of a model whose down matrices are. */
static void test_nothing_passes(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *file = in_dir("none.predictor"), *empty = in_dir("empty.gguf");
    struct tiny s = model();
    OK(tiny_write(path, &s, &e));
    OK(tiny_write(empty, &s, &e));
    struct gguf *f;
    OK(gguf_open(&f, empty, GGUF_READ, &e));
    FILE *out = fopen(empty, "r+b");
    assert_non_null(out);
    for (int i = 0; i < 2; i++) {
        const struct gguf_tensor *t =
            gguf_find_tensor(f, i ? "blk.1.ffn_down.weight" : "blk.0.ffn_down.weight");
        fseek(out, (long)t->offset, SEEK_SET);
        for (uint64_t k = 0; k < t->bytes; k++) fputc(0, out);
    }
    fclose(out);
    gguf_close(&f);
    struct predictor *p = make(path, 0.1f, -100.0f, PREDICTOR_LINEAR, DT_Q8_0);
    OK(predictor_write(p, file, &e));
    predictor_close(&p);
    compute(empty, &(struct how){CALOR_EXACT, NULL, 1, 1}, want, &all);
    compute(path, &(struct how){CALOR_PREDICT, file, 1, 2}, got, &count);
    assert_true(same());
    assert_true(count.exact == 0 && count.listed == 0 && count.bytes == count.screen && count.screen > 0);
    assert_true(recall.active > 0 && recall.found == 0 && recall.magnitude > 0 &&
                recall.magnitude_found == 0);
    /* Cuts at the ends of the numbers. */
    p = make(path, 0.1f, -100.0f, PREDICTOR_LINEAR, DT_Q8_0);
    p->layers[0].cut = p->layers[1].cut = -INFINITY;
    OK(predictor_write(p, file, &e));
    predictor_close(&p);
    compute(path, &(struct how){CALOR_EXACT, NULL, 1, 1}, want, &all);
    compute(path, &(struct how){CALOR_PREDICT, file, 1, 1}, got, &count);
    assert_true(same() && count.exact == count.neurons);
}

static void test_something_passes(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *file = in_dir("some.predictor");
    struct tiny s = model();
    OK(tiny_write(path, &s, &e));
    for (int hidden = 0; hidden < 2; hidden++) {
        struct predictor *p = make(path, 1.0f, 0.0f, (enum predictor_hidden)hidden, DT_F16);
        OK(predictor_write(p, file, &e));
        predictor_close(&p);
        compute(path, &(struct how){CALOR_PREDICT, file, 1, 1}, want, &all);
        double magnitude = recall.magnitude_found;
        assert_true(all.exact > all.neurons / 10 && all.exact < all.neurons * 9 / 10);
        assert_true(recall.found > 0 && recall.found < recall.active && recall.found == all.active);
        for (int threads = 2; threads <= 3; threads++) {
            compute(path, &(struct how){CALOR_PREDICT, file, 1, threads}, got, &count);
            assert_true(same() && memcmp(&count, &all, sizeof all) == 0);
            assert_true(magnitude == recall.magnitude_found);
        }
        check_plain(path, &s, &(struct how){CALOR_PREDICT, file, 1, 1, .cpu = "ref"}, 0.0);
        /* Above 32 tokens every neuron is computed. */
        compute(path, &(struct how){CALOR_PREDICT, file, TOKENS, 2}, got, &count);
        assert_true(count.exact == count.neurons && recall.active == 0);
    }
}

static void put_threshold(struct gguf_writer *w, const void *arg)
{
    struct err e;
    OK(gguf_put_f32(w, "powerinfer.sparse_threshold", *(const float *)arg, &e));
}

static void test_powerinfer(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    struct tiny s = model();
    s.by_neuron = true;
    s.rank = 40;
    OK(tiny_write(path, &s, &e));
    compute(path, &(struct how){CALOR_EXACT, NULL, 1, 1}, got, &count);
    assert_true(count.screen == 0);
    compute(path, &(struct how){CALOR_PREDICT, NULL, 1, 1, .own = 1}, want, &all);
    assert_int_equal(all.screen, 2 * TOKENS * 4 * (40 * WIDTH + FFN * 40));
    assert_true(all.exact > all.neurons / 10 && all.exact < all.neurons * 9 / 10 && !same());
    compute(path, &(struct how){CALOR_PREDICT, NULL, 3, 3, .own = 1, .no_mmap = 1}, got, &count);
    assert_true(memcmp(&count, &all, sizeof all) == 0);
    check_plain(path, &s, &(struct how){CALOR_PREDICT, NULL, 1, 1, .own = 1, .cpu = "ref"}, 0.0);
    const float threshold = -0.3f;
    s.edit = put_threshold;
    s.arg = &threshold;
    OK(tiny_write(path, &s, &e));
    check_plain(path, &s, &(struct how){CALOR_PREDICT, NULL, 2, 2, .own = 1, .cpu = "ref"},
                (double)threshold);
    /* Falcon's FFN reads the layer's input, without a gate. */
    s.arch = "falcon";
    s.gated = false;
    s.layer_norm = true;
    s.fused_qkv = true;
    s.kv_heads = 1;
    OK(tiny_write(path, &s, &e));
    check_plain(path, &s, &(struct how){CALOR_PREDICT, NULL, 1, 1, .own = 1, .cpu = "ref"},
                (double)threshold);
}

static void refused(const char *path, const char *file, int own, const char *act, int code, const char *text)
{
    char err[1000] = "";
    calor_model *m;
    calor_model_settings ms = calor_model_default();
    ms.activation = act;
    ms.predictor = file;
    ms.own_predictor = own;
    int rc = calor_model_open(&m, path, &ms, err, sizeof err);
    if (rc != code || !strstr(err, text))
        fail_msg("expected %d and '%s', found %d '%s'", code, text, rc, err);
    assert_null(m);
}

static void test_refused(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *other = in_dir("other.gguf"), *file = in_dir("p.predictor");
    struct tiny s = model();
    OK(tiny_write(path, &s, &e));
    s.seed = 2;
    OK(tiny_write(other, &s, &e));
    struct predictor *p = make(path, 1.0f, 0.0f, PREDICTOR_LINEAR, DT_F16);
    OK(predictor_write(p, file, &e));
    refused(other, file, 0, "relu", CALOR_ESTALE, "another model");
    refused(path, file, 0, "silu", CALOR_EARG, "silu");
    refused(path, file, 0, "fatrelu:0.1", CALOR_ESTALE, "trained with the activation relu");
    refused(path, path, 0, "relu", CALOR_EFORMAT, "no predictor");
    refused(path, NULL, 1, "relu", CALOR_EARG, "calor predictor");
    refused(path, in_dir("none"), 0, "relu", CALOR_EIO, "none");
    /* A session in predict mode on a model without, and on one laid out as in the file. */
    char err[1000];
    calor_model *m;
    calor_session *session;
    calor_model_settings ms = calor_model_default();
    calor_session_settings ss = calor_session_default();
    ms.activation = "relu";
    ss.mode = CALOR_PREDICT;
    for (int i = 0; i < 2; i++) {
        ms.layout = i ? CALOR_LAYOUT_FILE : CALOR_LAYOUT_NEURON;
        ms.predictor = i ? file : NULL;
        if (calor_model_open(&m, path, &ms, err, sizeof err)) fail_msg("%s", err);
        assert_int_equal(calor_session_open(&session, m, &ss, err, sizeof err), CALOR_ESTATE);
        assert_non_null(strstr(err, i ? "NEURON" : "predictor"));
        calor_model_close(&m);
    }
    predictor_close(&p);
    /* PowerInfer's tensors. */
    s = model();
    s.by_neuron = true;
    s.rank = 32;
    s.skip = "blk.1.fc2.weight";
    OK(tiny_write(path, &s, &e));
    refused(path, NULL, 1, NULL, CALOR_EFORMAT, "fc2.weight");
    s.skip = "blk.1.fc1.weight";
    OK(tiny_write(path, &s, &e));
    refused(path, NULL, 1, NULL, CALOR_EFORMAT, "blk.1.fc1.weight is missing");
    s.skip = NULL;
    static const struct {
        const char *name;
        uint64_t ne[2];
        const char *text;
    } shapes[] = {{"blk.0.fc1.weight", {32, 32}, "blk.0.fc1.weight is [32, 32]: expected [64, 32]"},
                  {"blk.0.fc2.weight", {64, FFN}, "as many columns as fc1.weight has rows"},
                  {"blk.1.fc2.weight", {32, FFN - 1}, "blk.1.fc2.weight is [32, 511]: expected [32, 512]"}};
    for (int i = 0; i < 3; i++) {
        s.reshape.name = shapes[i].name;
        memcpy(s.reshape.ne, shapes[i].ne, sizeof s.reshape.ne);
        OK(tiny_write(path, &s, &e));
        refused(path, NULL, 1, NULL, CALOR_EFORMAT, shapes[i].text);
    }
}

static void test_thresholds(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf");
    const float high = 1e9f, low = -1e9f, none = NAN;
    struct tiny s = model();
    s.by_neuron = true;
    s.rank = 32;
    s.edit = put_threshold;
    s.arg = &high;
    OK(tiny_write(path, &s, &e));
    compute(path, &(struct how){CALOR_PREDICT, NULL, 1, 1, .own = 1}, got, &count);
    assert_true(count.exact == 0);
    s.arg = &low;
    OK(tiny_write(path, &s, &e));
    compute(path, &(struct how){CALOR_PREDICT, NULL, 1, 1, .own = 1}, got, &count);
    assert_true(count.exact == count.neurons);
    s.arg = &none;
    OK(tiny_write(path, &s, &e));
    refused(path, NULL, 1, NULL, CALOR_EFORMAT, "powerinfer.sparse_threshold");
}

static void test_file(void **state)
{
    (void)state;
    struct err e;
    const char *path = in_dir("model.gguf"), *file = in_dir("p.predictor");
    struct tiny s = model();
    OK(tiny_write(path, &s, &e));
    for (int i = 0; i < 2; i++) {
        struct predictor *p = make(path, 1.0f, 0.5f, (enum predictor_hidden)i, i ? DT_Q4_0 : DT_Q8_0), *q;
        OK(predictor_write(p, file, &e));
        OK(predictor_open(&q, file, &e));
        assert_string_equal(q->subject.model, "tiny");
        assert_string_equal(q->subject.activation, "relu");
        assert_memory_equal(q->subject.identity, p->subject.identity, 16);
        assert_true(q->recall == 0.95f);
        for (uint32_t k = 0; k < 2; k++) {
            const struct predictor_layer *a = &p->layers[k], *b = &q->layers[k];
            assert_true(a->rank == b->rank && a->cut == b->cut && a->hidden == b->hidden);
            assert_true(!a->hidden_bias == !b->hidden_bias);
            if (a->hidden_bias) assert_memory_equal(a->hidden_bias, b->hidden_bias, RANK * 4);
            assert_memory_equal(a->fc1, b->fc1, RANK * a->fc1_row_bytes);
            assert_memory_equal(a->fc2, b->fc2, FFN * a->fc2_row_bytes);
            assert_memory_equal(a->bias, b->bias, FFN * 2);
        }
        predictor_close(&q);
        /* What is not a number is found when it is read. */
        struct predictor_layer *l = &p->layers[1];
        uint16_t nan = 0x7e00;
        memcpy(l->fc1 + 6, &nan, 2);
        OK(predictor_write(p, file, &e));
        FAILS(predictor_open(&q, file, &e), ERR_FORMAT, "'blk.1.fc1.weight', value 3: expected a finite");
        memset(l->fc1 + 6, 0, 2);
        memcpy(l->fc2 + l->fc2_row_bytes, &nan, 2); /* a block's scale */
        OK(predictor_write(p, file, &e));
        FAILS(predictor_open(&q, file, &e), ERR_FORMAT, "'blk.1.fc2.weight', value 32");
        memset(l->fc2 + l->fc2_row_bytes, 0, 2);
        l->bias[7] = 0xfc00;
        OK(predictor_write(p, file, &e));
        FAILS(predictor_open(&q, file, &e), ERR_FORMAT, "'blk.1.fc2.bias', value 7");
        l->bias[7] = 0;
        l->cut = NAN;
        OK(predictor_write(p, file, &e));
        FAILS(predictor_open(&q, file, &e), ERR_FORMAT, "cut', value 1");
        assert_null(q);
        predictor_close(&p);
    }
    struct predictor *p;
    struct predictor_subject bad = {.layers = 1, .neurons = 70000, .width = 4};
    FAILS(predictor_create(&p, &bad, &e), ERR_ARG, "70000");
    bad.neurons = 7;
    OK(predictor_create(&p, &bad, &e));
    FAILS(predictor_layer_create(p, 0, 0, DT_F16, DT_F16, false, &e), ERR_ARG, "rank 0");
    FAILS(predictor_layer_create(p, 0, 33, DT_F16, DT_Q8_0, false, &e), ERR_ARG, "no whole blocks");
    FAILS(predictor_write(p, file, &e), ERR_STATE, "layer 0");
    predictor_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),           cmocka_unit_test(test_everything_passes),
        cmocka_unit_test(test_nothing_passes), cmocka_unit_test(test_something_passes),
        cmocka_unit_test(test_powerinfer),     cmocka_unit_test(test_thresholds),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
