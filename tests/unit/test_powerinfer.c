/* io/powerinfer: models and GPU indexes in PowerInfer's variant of GGUF are recognised and checked. */
#include "tests/unit/gguf_bytes.h"
#include "tests/unit/temp_dir.h"

#include "io/gguf_priv.h"
#include "io/powerinfer.h"

static struct gguf *open_bytes(struct strbuf *b, struct err *e)
{
    struct gguf *f;
    memcpy(b->s, "PWRI", 4);
    if (gguf_open_memory(&f, b->s, b->len, "mem", GGUF_MMAP, e) != 0) fail_msg("%s", e->msg);
    return f;
}

static void models_are_recognised(void **state)
{
    (void)state;
    struct err e;
    struct powerinfer_info info;
    struct strbuf b = {0};
    put_header(&b, 6, 1);
    put_key(&b, "powerinfer.sparse_threshold", GGUF_F32);
    strbuf_add(&b, &(float){0.5f}, 4);
    put_tensor(&b, "blk.0.fc1.weight", DT_F32, 4, 2, 0);
    put_tensor(&b, "blk.0.fc2.weight", DT_F32, 2, 8, 32);
    put_tensor(&b, "blk.0.ffn_down_t.weight", DT_F32, 4, 8, 96);
    put_tensor(&b, "blk.11.fc1.weight", DT_F32, 4, 3, 224);
    put_tensor(&b, "blk.11.fc2.weight", DT_F32, 3, 8, 288);
    put_tensor(&b, "blk.11.ffn_down_t.weight", DT_F32, 4, 8, 384);
    put_pad(&b, 32);
    put_zeros(&b, 512);
    struct gguf *f = open_bytes(&b, &e);
    assert_true(gguf_is_powerinfer(f));
    OK(powerinfer_describe(f, &info, &e));
    assert_int_equal(info.kind, POWERINFER_MODEL);
    assert_int_equal(info.layers, 12);
    assert_int_equal(info.predictors, 2);
    assert_int_equal(info.transposed, 2);
    assert_int_equal(info.rank_min, 2);
    assert_int_equal(info.rank_max, 3);
    assert_true(info.has_threshold && info.threshold == 0.5f && !info.has_capacity);
    gguf_close(&f);
    strbuf_finish(&b);
    /* A predictor whose halves do not fit, or lack one. */
    for (int lacking = 0; lacking < 2; lacking++) {
        put_header(&b, 2, 0);
        put_tensor(&b, "blk.0.fc1.weight", DT_F32, 4, 2, 0);
        put_tensor(&b, lacking ? "blk.1.fc2.weight" : "blk.0.fc2.weight", DT_F32, 4, 2, 32);
        put_pad(&b, 32);
        put_zeros(&b, 64);
        f = open_bytes(&b, &e);
        FAILS(powerinfer_describe(f, &info, &e), ERR_FORMAT,
              lacking ? "a tensor fc2.weight of the same layer" : "as many columns as fc1.weight has rows");
        gguf_close(&f);
        strbuf_finish(&b);
    }
}

/* An index of one layer of five neurons. */
static struct gguf *index_of(struct strbuf *b, const int32_t on[5], const int32_t *bucket, uint64_t n)
{
    struct err e;
    put_header(b, 2, 1);
    put_key(b, "split.vram_capacity", GGUF_U64);
    put_u64(b, 1 << 30);
    put_tensor(b, "blk.0.gpu_idx", DT_I32, 5, 0, 0);
    put_tensor(b, "blk.0.gpu_bucket", DT_I32, n, 0, 32);
    put_pad(b, 32);
    strbuf_add(b, on, 20);
    put_pad(b, 32);
    strbuf_add(b, bucket, n * 4);
    put_pad(b, 32);
    return open_bytes(b, &e);
}

static void indexes_are_read(void **state)
{
    (void)state;
    struct err e;
    struct powerinfer_info info;
    struct strbuf b = {0};
    int32_t *bucket;
    uint64_t n, neurons;
    struct gguf *f = index_of(&b, (int32_t[]){0, 1, 0, 1, 1}, (int32_t[]){1, 3, 4}, 3);
    OK(powerinfer_describe(f, &info, &e));
    assert_int_equal(info.kind, POWERINFER_INDEX);
    assert_int_equal(info.layers, 1);
    assert_true(info.has_capacity && info.capacity == 1 << 30);
    OK(powerinfer_layer(f, 0, &bucket, &n, &neurons, &e));
    assert_int_equal(n, 3);
    assert_int_equal(neurons, 5);
    assert_memory_equal(bucket, ((int32_t[]){1, 3, 4}), 12);
    free(bucket);
    assert_int_equal(powerinfer_layer(f, 1, &bucket, &n, &neurons, &e), 1);
    gguf_close(&f);
    strbuf_finish(&b);
    f = index_of(&b, (int32_t[]){0, 0, 0, 0, 0}, NULL, 0); /* nothing on the GPU */
    OK(powerinfer_layer(f, 0, &bucket, &n, &neurons, &e));
    assert_int_equal(n, 0);
    free(bucket);
    gguf_close(&f);
    strbuf_finish(&b);
    static const struct {
        int32_t on[5], bucket[3];
        uint64_t n;
        const char *text;
    } cases[] = {
        {{0, 2, 0, 0, 0}, {1}, 1, "only 0 and 1"},
        {{0, -1, 0, 0, 0}, {1}, 1, "only 0 and 1"},
        {{0, 1, 1, 0, 0}, {2, 1}, 2, "in ascending order"},
        {{0, 1, 1, 0, 0}, {1, 7}, 2, "in ascending order"},
        {{0, 1, 1, 0, 0}, {1}, 1, "in ascending order"},
        {{0, 1, 1, 0, 0}, {1, 2, 3}, 3, "as many neurons as gpu_idx marks"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        f = index_of(&b, cases[i].on, cases[i].bucket, cases[i].n);
        FAILS(powerinfer_layer(f, 0, &bucket, &n, &neurons, &e), ERR_FORMAT, cases[i].text);
        assert_null(bucket);
        gguf_close(&f);
        strbuf_finish(&b);
    }
    /* Empty dimensions are for these lists only. */
    put_header(&b, 1, 0);
    put_tensor(&b, "blk.0.gpu_idx", DT_I32, 0, 0, 0);
    put_pad(&b, 32);
    memcpy(b.s, "PWRI", 4);
    FAILS(gguf_open_memory(&f, b.s, b.len, "mem", GGUF_MMAP, &e), ERR_FORMAT, "at least 1, found 0");
    strbuf_finish(&b);
    put_header(&b, 1, 0);
    put_tensor(&b, "blk.0.gpu_bucket", DT_I32, 0, 0, 0);
    put_pad(&b, 32);
    FAILS(gguf_open_memory(&f, b.s, b.len, "mem", GGUF_MMAP, &e), ERR_FORMAT, "at least 1, found 0");
    strbuf_finish(&b);
}

static void layer_numbers(void **state)
{
    (void)state;
    const char *rest = NULL;
    assert_int_equal(powerinfer_layer_of("blk.0.x", &rest), 0);
    assert_string_equal(rest, "x");
    assert_int_equal(powerinfer_layer_of("blk.99999.x.y", &rest), 99999);
    assert_string_equal(rest, "x.y");
    static const char *const none[] = {
        "",      "blk",      "blk.",         "blk..x",           "blk.-1.x",  "blk.+1.x", "blk. 1.x",
        "blk.1", "blk.1x.y", "blk.100000.x", "blk.4294967296.x", "block.1.x", "xblk.1.y"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_int_equal(powerinfer_layer_of(none[i], &rest), -1);
    char *path = powerinfer_index_path("a/b.gguf");
    assert_string_equal(path, "a/b.gguf.generated.gpuidx");
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_are_recognised),
        cmocka_unit_test(indexes_are_read),
        cmocka_unit_test(layer_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
