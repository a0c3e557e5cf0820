/* io/npy: what is written is read back; headers that NumPy writes; every rule with the bytes that break it.
 */
#include "tests/unit/temp_dir.h"

#include "io/npy.h"
#include "io/npy_priv.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct err e;
    struct npy_writer *w;
    struct npy *f;
    float v[6] = {1, -2, 3.5f, 0, 1e30f, 6}, got[6] = {0};
    OK(npy_writer_create(&w, in_dir("a.npy"), 3, 2, NULL, &e));
    OK(npy_write(w, v, 1, &e));
    FAILS(npy_writer_finish(w, &e), ERR_STATE, "6 values: only 1 were written");
    OK(npy_write(w, v + 1, 5, &e));
    FAILS(npy_write(w, v, 1, &e), ERR_ARG, "too many");
    FAILS(npy_open(&f, in_dir("a.npy"), &e), ERR_IO, "No such file");
    OK(npy_writer_finish(w, &e));
    FAILS(npy_write(w, v, 0, &e), ERR_STATE, "earlier");
    npy_writer_destroy(&w);
    npy_writer_destroy(&w);
    OK(npy_open(&f, in_dir("a.npy"), &e));
    assert_int_equal(npy_rows(f), 3);
    assert_int_equal(npy_cols(f), 2);
    OK(npy_read(f, 0, 3, got, &e));
    assert_memory_equal(v, got, sizeof v);
    OK(npy_read(f, 2, 1, got, &e));
    assert_memory_equal(v + 4, got, 8);
    OK(npy_read(f, 3, 0, got, &e));
    FAILS(npy_read(f, 2, 2, got, &e), ERR_ARG, "cannot read 2 from row 2");
    FAILS(npy_read(f, UINT64_MAX, 2, got, &e), ERR_ARG, "cannot read");
    struct stat st;
    assert_int_equal(stat(in_dir("a.npy"), &st), 0);
    assert_int_equal(st.st_size, 128 + 24);
    assert_int_equal(truncate(in_dir("a.npy"), 150), 0);
    FAILS(npy_read(f, 2, 1, got, &e), ERR_IO, "ends at byte 150");
    npy_close(&f);
    npy_close(&f);
    FAILS(npy_writer_create(&w, in_dir("b.npy"), 1ull << 62, 2, NULL, &e), ERR_ARG, "too many");
    OK(npy_writer_create(&w, in_dir("b.npy"), 1ull << 60, 1, NULL, &e)); /* the longest header */
    npy_writer_destroy(&w);
    assert_int_equal(access(in_dir("b.npy"), F_OK), -1);
}

static void a_note_comes_back(void **state)
{
    (void)state;
    struct err e;
    struct npy_writer *w;
    struct npy *f;
    float v[2] = {1, 2}, got[2] = {0};
    char longest[NPY_NOTE_MAX + 2];
    memset(longest, 'n', sizeof longest);
    longest[NPY_NOTE_MAX + 1] = 0;
    FAILS(npy_writer_create(&w, in_dir("n.npy"), 1, 2, longest, &e), ERR_ARG, "a note of at most 100");
    FAILS(npy_writer_create(&w, in_dir("n.npy"), 1, 2, "two\nlines", &e), ERR_ARG, "printable");
    longest[NPY_NOTE_MAX] = 0;
    const char *const notes[] = {"", "short", longest};
    for (int i = 0; i < 3; i++) {
        OK(npy_writer_create(&w, in_dir("n.npy"), 1, 2, notes[i], &e));
        OK(npy_write(w, v, 2, &e));
        OK(npy_writer_finish(w, &e));
        npy_writer_destroy(&w);
        OK(npy_open(&f, in_dir("n.npy"), &e));
        assert_string_equal(npy_note(f), notes[i]);
        OK(npy_read(f, 0, 1, got, &e));
        assert_memory_equal(v, got, sizeof v);
        npy_close(&f);
    }
    OK(npy_writer_create(&w, in_dir("n.npy"), 1ull << 60, 1, longest, &e)); /* the longest header */
    npy_writer_destroy(&w);
}

/* A file of this header (version 1) and n bytes behind it, parsed from memory of exactly that size. */
static int parse(const char *dict, uint64_t n, struct npy_layout *l, struct err *e)
{
    size_t len = strlen(dict), size = 10 + len + n;
    unsigned char *p = calloc(1, size);
    assert_non_null(p);
    memcpy(p, "\x93NUMPY\x01", 8);
    p[8] = (unsigned char)len;
    p[9] = (unsigned char)(len >> 8);
    memcpy(p + 10, dict, len);
    int rc = npy_parse(l, p, size, size, "mem", e);
    free(p);
    return rc;
}

#define DICT(shape) "{'descr': '<f4', 'fortran_order': False, 'shape': " shape ", }"

static void headers_are_read(void **state)
{
    (void)state;
    static const char *const good[] = {
        DICT("(2, 3)"),
        DICT("(2, 3)") "          \n",
        DICT("(2,3,)"),
        "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}",
    };
    struct err e;
    struct npy_layout l;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        OK(parse(good[i], 24, &l, &e));
        assert_int_equal(l.rows, 2);
        assert_int_equal(l.cols, 3);
        assert_int_equal(l.data, 10 + strlen(good[i]));
    }
    assert_string_equal(l.note, "");
    OK(parse(DICT("(2, 3)") " # a note, {'x': 1}  \n", 24, &l, &e));
    assert_string_equal(l.note, "a note, {'x': 1}");
    OK(parse(DICT("(2, 3)") "#", 24, &l, &e));
    assert_string_equal(l.note, "");
    OK(parse(DICT("(2, 3)") "# no \xc3\xa4scii", 24, &l, &e));
    assert_string_equal(l.note, "");
    OK(parse(DICT("(2, 3)") "# "
                            "01234567890123456789012345678901234567890123456789012345678901234567890123456789"
                            "01234567890123"
                            "4567890",
             24, &l, &e));
    assert_string_equal(l.note, "");
    OK(parse(DICT("(2, 3)"), 25, &l, &e)); /* trailing bytes */
    OK(parse(DICT("(0, 3)"), 0, &l, &e));
    OK(parse(DICT("(3, 0)"), 0, &l, &e));
}

static void malformed_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *dict;
        int code;
        const char *text;
    } cases[] = {
        {DICT("(2, 4)"), ERR_FORMAT, "expected 2 x 4 floats behind the header, found 24 bytes"},
        {DICT("(4294967296, 4294967296)"), ERR_FORMAT, "expected 4294967296 x"},
        {DICT("(4611686018427387904, 1)"), ERR_FORMAT, "floats behind the header"},
        {DICT("(0, 4611686018427387904)"), ERR_FORMAT, "floats behind the header"},
        {DICT("(18446744073709551616, 0)"), ERR_FORMAT, "expected {'descr'"},
        {DICT("(6,)"), ERR_UNSUPPORTED, "found 1 dimension of '<f4'"},
        {DICT("()"), ERR_UNSUPPORTED, "found 0 dimensions"},
        {DICT("(1, 2, 3)"), ERR_UNSUPPORTED, "found 3 dimensions"},
        {DICT("(6)"), ERR_FORMAT, "expected {'descr'"},
        {DICT("(2 3)"), ERR_FORMAT, "expected {'descr'"},
        {DICT("(-2, 3)"), ERR_FORMAT, "expected {'descr'"},
        {DICT("(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)"), ERR_FORMAT,
         "expected {'descr'"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", ERR_UNSUPPORTED,
         "2 dimensions of '<f8'"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", ERR_UNSUPPORTED, "'>f4'"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", ERR_UNSUPPORTED, "in Fortran order"},
        {"{'descr': '<f4', 'fortran_order': Truth, 'shape': (2, 3), }", ERR_FORMAT, "expected {'descr'"},
        {"{'descr': '<f4', 'fortran_order': False, }", ERR_FORMAT, "expected {'descr'"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", ERR_FORMAT,
         "expected {'descr'"},
        {"{'descr': '<f4', 'fortran_order': False, 'fortran_order': False, 'shape': (2, 3), }", ERR_FORMAT,
         "expected {'descr'"},
        {"{'shape': (2, 3), 'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", ERR_FORMAT,
         "expected {'descr'"},
        {"{'other': '<f4', 'fortran_order': False, 'shape': (2, 3), }", ERR_FORMAT, "expected {'descr'"},
        {"{'descr': '<\\x66', 'fortran_order': False, 'shape': (2, 3), }", ERR_FORMAT, "expected {'descr'"},
        {DICT("(2, 3)") "# a note\n'second line'", ERR_FORMAT, "expected {'descr'"},
        {DICT("(2, 3)") "x", ERR_FORMAT, "expected {'descr'"},
        {"{'descr': '<f4", ERR_FORMAT, "expected {'descr'"},
        {"{", ERR_FORMAT, "expected {'descr'"},
        {"", ERR_FORMAT, "expected {'descr'"},
    };
    struct err e;
    struct npy_layout l;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(parse(cases[i].dict, 24, &l, &e), cases[i].code, cases[i].text);
}

static void lengths_are_checked(void **state)
{
    (void)state;
    struct err e;
    struct npy_layout l;
    struct npy *f;
    unsigned char p[12] = "\x93NUMPY\x01\0\xff\xff";
    FAILS(npy_parse(&l, p, 9, 9, "mem", &e), ERR_FORMAT, "not a .npy file");
    FAILS(npy_parse(&l, p, 12, 12, "mem", &e), ERR_FORMAT, "at most 2 bytes, found a length of 65535");
    memcpy(p + 8, "\x64\0", 2);
    FAILS(npy_parse(&l, p, 12, 12, "mem", &e), ERR_FORMAT, "at most 2 bytes, found a length of 100");
    memcpy(p + 8, "\xff\xff", 2);
    p[6] = 4;
    FAILS(npy_parse(&l, p, 12, 12, "mem", &e), ERR_UNSUPPORTED, "version 4.0");
    p[6] = 2;
    FAILS(npy_parse(&l, p, 11, 11, "mem", &e), ERR_FORMAT, "ends inside the header's length");
    p[11] = 0xff;
    FAILS(npy_parse(&l, p, 12, 12, "mem", &e), ERR_FORMAT, "found a length of 4278255615");
    p[0] = 'x';
    FAILS(npy_parse(&l, p, 12, 12, "mem", &e), ERR_FORMAT, "not a .npy file");
    write_file(in_dir("empty.npy"), "", 0);
    FAILS(npy_open(&f, in_dir("empty.npy"), &e), ERR_FORMAT, "not a .npy file");
    FAILS(npy_open(&f, temp_dir, &e), ERR_IO, "a directory");
    int fd = open(in_dir("sparse.npy"), O_CREAT | O_WRONLY, 0600);
    assert_int_equal(ftruncate(fd, 1ll << 40), 0);
    close(fd);
    FAILS(npy_open(&f, in_dir("sparse.npy"), &e), ERR_FORMAT, "not a .npy file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read), cmocka_unit_test(a_note_comes_back),
        cmocka_unit_test(headers_are_read),        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(lengths_are_checked),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
