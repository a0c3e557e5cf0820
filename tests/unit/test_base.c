/* base/: errors, sizes, types, half floats, text, files. */
#include "tests/unit/cmocka_all.h"

#include "base/checked.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/file.h"
#include "base/half.h"
#include "base/size.h"
#include "base/strbuf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void sizes_are_parsed(void **state)
{
    (void)state;
    struct err e;
    uint64_t v;
    assert_int_equal(size_parse("8GiB", &v, &e), 0);
    assert_int_equal(v, 8ull << 30);
    assert_int_equal(size_parse("1.5g", &v, &e), 0);
    assert_int_equal(v, 3ull << 29);
    assert_int_equal(size_parse("512M", &v, &e), 0);
    assert_int_equal(v, 512ull << 20);
    assert_int_equal(size_parse("0", &v, &e), 0);
    assert_int_equal(v, 0);
    const char *bad[] = {"", "-1", "nan", "inf", "G", "8Gi", "8 G", "8GG", "1e30", "8iB", "0x", "1e999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(size_parse(bad[i], &v, &e), ERR_ARG);
}

static void half_round_trips(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = f16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(f16_to_f32(f32_to_f16(f))));
        else
            assert_int_equal(f32_to_f16(f), h);
        float b = bf16_to_f32((uint16_t)h);
        if (isnan(b))
            assert_true(isnan(bf16_to_f32(f32_to_bf16(b))));
        else
            assert_int_equal(f32_to_bf16(b), h);
    }
    /* The compiler's own conversion is the oracle for rounding, over every exponent and random mantissas. */
#ifdef __FLT16_MAX__
    uint32_t u = 12345;
    for (int i = 0; i < 2000000; i++) {
        u = u * 1664525u + 1013904223u;
        float f = half_float(u);
        if (isnan(f)) continue;
        _Float16 want = (_Float16)f;
        uint16_t bits;
        memcpy(&bits, &want, 2);
        assert_int_equal(f32_to_f16(f), bits);
    }
#endif
}

static void rows_are_sized(void **state)
{
    (void)state;
    uint64_t n;
    assert_true(dtype_row_bytes(DT_Q4_0, 64, &n));
    assert_int_equal(n, 36);
    assert_false(dtype_row_bytes(DT_Q4_0, 33, &n));
    assert_false(dtype_row_bytes(DT_F32, UINT64_MAX / 2, &n));
    assert_false(dtype_row_bytes(4, 32, &n));
    assert_false(dtype_row_bytes(0xffffffff, 32, &n));
    assert_false(checked_align(UINT64_MAX, 32, &n));
    assert_false(checked_align(1, 24, &n));
}

static void files_are_replaced_whole(void **state)
{
    (void)state;
    char dir[] = "/tmp/calor-test-XXXXXX", path[64];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/out", dir);
    struct err e;
    struct file_out f;
    assert_int_equal(file_out_open(&f, path, &e), 0);
    assert_int_equal(file_out_write(&f, "one", 3, &e), 0);
    assert_int_not_equal(access(path, F_OK), 0); /* nothing under the final name yet */
    assert_int_equal(file_out_commit(&f, &e), 0);
    assert_int_equal(file_out_open(&f, path, &e), 0);
    assert_int_equal(file_out_write(&f, "two!", 4, &e), 0);
    file_out_discard(&f);
    char *data;
    size_t n;
    assert_int_equal(file_read_all(path, 100, &data, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_string_equal(data, "one");
    free(data);
    assert_int_equal(file_read_all(path, 2, &data, &n, &e), ERR_FORMAT);
    int fd;
    uint64_t size;
    assert_int_equal(file_open(dir, &fd, &size, &e), ERR_IO);
    assert_non_null(strstr(e.msg, "a directory"));
    assert_int_equal(file_out_open(&f, dir, &e), ERR_IO);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(file_open(path, &fd, &size, &e), ERR_IO); /* and does not wait for a writer */
    assert_non_null(strstr(e.msg, "a pipe"));
    unlink(path);
    assert_int_equal(rmdir(dir), 0); /* the discarded temporary is gone too */
}

static void text_grows(void **state)
{
    (void)state;
    struct strbuf b;
    strbuf_init(&b);
    for (int i = 0; i < 1000; i++) strbuf_printf(&b, "%d,", i);
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    char *s = strbuf_take(&b);
    assert_int_equal(strncmp(s, "0,1,2,", 6), 0);
    free(s);
    s = strbuf_take(&b);
    assert_string_equal(s, "");
    free(s);
}

static void errors_carry_context(void **state)
{
    (void)state;
    struct err e;
    assert_int_equal(err_set(&e, ERR_FORMAT, "expected %d", 3), ERR_FORMAT);
    assert_int_equal(err_prefix(&e, ERR_IO, "in '%s'", "a"), ERR_FORMAT);
    assert_string_equal(e.msg, "in 'a': expected 3");
    assert_int_equal(err_set(NULL, ERR_IO, "x"), ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_parsed), cmocka_unit_test(half_round_trips),
        cmocka_unit_test(rows_are_sized),   cmocka_unit_test(files_are_replaced_whole),
        cmocka_unit_test(text_grows),       cmocka_unit_test(errors_carry_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
