/* io/gguf: what is written is read back, through every mode; getters; shards. Malformed files are in
 * test_gguf_bad.c. */
#include "tests/unit/cmocka_all.h"

#include "tests/unit/gguf_bytes.h"
#include "tests/unit/temp_dir.h"

#include "base/err.h"
#include "io/gguf.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const uint64_t shape_a[2] = {64, 3}, shape_b[1] = {5}, shape_c[4] = {256, 2, 1, 3};

static void write_sample(const char *path, const char *extra)
{
    struct err e;
    struct gguf_writer *w;
    OK(gguf_writer_create(&w, path, &e));
    OK(gguf_put_str(w, "general.architecture", "llama", &e));
    OK(gguf_put_u32(w, "u32", 1, &e));
    OK(gguf_put_u32(w, "u32", 7, &e));
    OK(gguf_put_u64(w, "u64", UINT64_MAX - 1, &e));
    OK(gguf_put_i32(w, "i32", -5, &e));
    OK(gguf_put_f32(w, "f32", 0.25f, &e));
    OK(gguf_put_bool(w, "yes", true, &e));
    OK(gguf_put_bool(w, "no", false, &e));
    OK(gguf_put_str(w, "empty", "", &e));
    float scores[3] = {1, -2, 3.5f};
    OK(gguf_put_arr(w, "scores", GGUF_F32, scores, 3, &e));
    OK(gguf_put_arr(w, "none", GGUF_I32, NULL, 0, &e));
    struct gguf_str words[3] = {{"a", 1}, {"", 0}, {"x\0y", 3}};
    OK(gguf_put_strs(w, "words", words, 3, &e));
    if (extra) OK(gguf_put_str(w, "extra", extra, &e));
    OK(gguf_declare(w, "a.weight", DT_Q4_0, 2, shape_a, &e));
    OK(gguf_declare(w, "b.bias", DT_F32, 1, shape_b, &e));
    OK(gguf_declare(w, "c.weight", DT_F16, 4, shape_c, &e));
    OK(gguf_write_header(w, &e));
    uint8_t bytes[3072];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 7 + 1);
    OK(gguf_write(w, bytes, 100, &e));
    OK(gguf_write(w, bytes + 100, 8, &e));
    OK(gguf_write(w, bytes, 20, &e));
    for (size_t i = 0; i < 3072; i += 512) OK(gguf_write(w, bytes + i, 512, &e));
    OK(gguf_writer_finish(w, &e));
    gguf_writer_destroy(&w);
    assert_null(w);
}

static void check_sample(enum gguf_mode mode)
{
    struct err e;
    struct gguf *f;
    OK(gguf_open(&f, in_dir("sample.gguf"), mode, &e));
    assert_int_equal(gguf_version(f), 3);
    assert_false(gguf_is_powerinfer(f));
    assert_int_equal(gguf_alignment(f), 32);
    assert_int_equal(gguf_shards(f), 1);
    assert_int_equal(gguf_n_kv(f), 11);
    assert_string_equal(gguf_key(f, 0), "general.architecture");
    assert_int_equal(gguf_find(f, "scores"), 8);
    assert_int_equal(gguf_find(f, "score"), -1);
    assert_int_equal(gguf_kv_type(f, 8), GGUF_ARR);
    assert_int_equal(gguf_arr_type(f, 8), GGUF_F32);
    assert_int_equal(gguf_arr_n(f, 8), 3);

    struct gguf_str s;
    OK(gguf_get_str(f, "general.architecture", &s, &e));
    assert_int_equal(s.n, 5);
    assert_memory_equal(s.s, "llama", 5);
    OK(gguf_get_str(f, "empty", &s, &e));
    assert_int_equal(s.n, 0);
    uint32_t u32 = 99;
    OK(gguf_get_u32(f, "u32", &u32, &e));
    assert_int_equal(u32, 7);
    assert_int_equal(gguf_get_u32(f, "missing", &u32, &e), 1);
    assert_int_equal(u32, 7);
    uint64_t u64;
    OK(gguf_get_u64(f, "u64", &u64, &e));
    assert_true(u64 == UINT64_MAX - 1);
    OK(gguf_get_u64(f, "u32", &u64, &e));
    assert_int_equal(u64, 7);
    float f32;
    OK(gguf_get_f32(f, "f32", &f32, &e));
    assert_true(f32 == 0.25f);
    bool b = false;
    OK(gguf_get_bool(f, "yes", &b, &e));
    assert_true(b);
    OK(gguf_get_bool(f, "no", &b, &e));
    assert_false(b);
    const void *data;
    uint64_t n;
    OK(gguf_get_arr(f, "scores", GGUF_F32, &data, &n, &e));
    float scores[3];
    assert_int_equal(n, 3);
    memcpy(scores, data, sizeof scores);
    assert_true(scores[0] == 1 && scores[1] == -2 && scores[2] == 3.5f);
    OK(gguf_get_arr(f, "none", GGUF_I32, &data, &n, &e));
    assert_int_equal(n, 0);
    const struct gguf_str *words;
    OK(gguf_get_strs(f, "words", &words, &n, &e));
    assert_int_equal(n, 3);
    assert_int_equal(words[1].n, 0);
    assert_int_equal(words[2].n, 3);
    assert_memory_equal(words[2].s, "x\0y", 3);

    assert_int_equal(gguf_n_tensors(f), 3);
    const struct gguf_tensor *a = gguf_find_tensor(f, "a.weight"), *c = gguf_find_tensor(f, "c.weight");
    assert_ptr_equal(a, gguf_tensor(f, 0));
    assert_null(gguf_find_tensor(f, "a"));
    assert_int_equal(a->type, DT_Q4_0);
    assert_int_equal(a->n_dims, 2);
    assert_int_equal(a->ne[0], 64);
    assert_int_equal(a->ne[1], 3);
    assert_int_equal(a->ne[3], 1);
    assert_int_equal(a->row_bytes, 36);
    assert_int_equal(a->bytes, 108);
    assert_int_equal(c->bytes, 3072);
    assert_int_equal(c->offset % 32, 0);
    uint8_t got[3072];
    OK(gguf_read_tensor(f, c, 0, got, 3072, &e));
    for (size_t i = 0; i < sizeof got; i++) assert_int_equal(got[i], (uint8_t)(i * 7 + 1));
    OK(gguf_read_tensor(f, a, 101, got, 7, &e));
    assert_int_equal(got[0], (uint8_t)(101 * 7 + 1));
    if (mode == GGUF_MMAP)
        assert_memory_equal((const uint8_t *)a->data + 101, got, 7);
    else
        assert_null(a->data);
    assert_int_equal(gguf_read_tensor(f, a, 101, got, 8, &e), ERR_ARG);
    assert_int_equal(gguf_read_tensor(f, a, UINT64_MAX, got, 8, &e), ERR_ARG);
    assert_int_equal(gguf_read_tensor(f, a, UINT64_MAX - a->offset - 8, got, a->offset + 10, &e), ERR_ARG);
    assert_int_equal(gguf_file_bytes(f), gguf_shard_bytes(f, 0));
    OK(gguf_check_size(f, &e));
    gguf_close(&f);
    assert_null(f);
    gguf_close(&f);
    gguf_close(NULL);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    write_sample(in_dir("sample.gguf"), NULL);
    check_sample(GGUF_MMAP);
    check_sample(GGUF_READ);
    check_sample(GGUF_META);
}

static void headers_stand_alone(void **state)
{
    (void)state;
    struct err e;
    struct gguf_writer *w;
    struct gguf *f;
    uint64_t shape[2] = {256, 3};
    uint8_t a[16], b[16];
    for (int with = 0; with < 2; with++) {
        uint8_t bytes[3072] = {0};
        OK(gguf_writer_create(&w, in_dir(with ? "whole.gguf" : "header.gguf"), &e));
        OK(gguf_put_str(w, "general.name", "x", &e));
        OK(gguf_declare(w, "a.weight", DT_F32, 2, shape, &e));
        if (!with) FAILS(gguf_writer_finish_header(w, &e), ERR_STATE, "no header");
        OK(gguf_write_header(w, &e));
        if (with) OK(gguf_write(w, bytes, sizeof bytes, &e));
        if (with) FAILS(gguf_writer_finish_header(w, &e), ERR_STATE, "tensor bytes were written");
        OK(with ? gguf_writer_finish(w, &e) : gguf_writer_finish_header(w, &e));
        gguf_writer_destroy(&w);
    }
    FAILS(gguf_open(&f, in_dir("header.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "header without weights");
    FAILS(gguf_open(&f, in_dir("header.gguf"), GGUF_READ, &e), ERR_FORMAT, "header without weights");
    OK(gguf_open(&f, in_dir("header.gguf"), GGUF_META, &e));
    assert_false(gguf_has_data(f));
    assert_int_equal(gguf_find_tensor(f, "a.weight")->bytes, 3072);
    OK(gguf_identity(f, a, &e));
    gguf_close(&f);
    OK(gguf_open(&f, in_dir("whole.gguf"), GGUF_META, &e));
    assert_true(gguf_has_data(f));
    OK(gguf_identity(f, b, &e));
    gguf_close(&f);
    assert_memory_not_equal(a, b, 16);
}

/* With an argument: writes the sample there, for the comparison with other readers. */
int main(int argc, char **argv)
{
    if (argc > 1) {
        write_sample(argv[1], "naïve ✓");
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(headers_stand_alone),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
