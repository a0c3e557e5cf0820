/* io/safetensors: files, indexes and folders; every parser rule with the bytes that break it. */
#include "tests/unit/temp_dir.h"

#include "io/safetensors.h"
#include "io/safetensors_priv.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* A file of the header and n bytes of data 0, 1, 2 …; the caller's. */
static uint8_t *make(const char *header, size_t n, size_t *size)
{
    uint64_t len = strlen(header);
    *size = 8 + len + n;
    uint8_t *p = malloc(*size);
    assert_non_null(p);
    memcpy(p, &len, 8);
    memcpy(p + 8, header, len);
    for (size_t i = 0; i < n; i++) p[8 + len + i] = (uint8_t)i;
    return p;
}

static void make_file(const char *path, const char *header, size_t n)
{
    size_t size;
    uint8_t *p = make(header, n, &size);
    write_file(path, p, size);
    free(p);
}

static const char two[] = "{\"__metadata__\":{\"format\":\"pt\",\"who\":\"me\"},"
                          "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[24,30]},"
                          "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}";

static void a_file_is_read(void **state)
{
    (void)state;
    struct err e;
    struct safetensors *f;
    make_file(in_dir("model.safetensors"), two, 30);
    OK(safetensors_open(&f, in_dir("model.safetensors"), &e));
    assert_int_equal(safetensors_n(f), 2);
    const struct st_tensor *a = safetensors_find(f, "a"), *b = safetensors_find(f, "b");
    assert_ptr_equal(safetensors_tensor(f, 0), a); /* by offset */
    assert_int_equal(a->dtype, ST_F32);
    assert_int_equal(a->n_dims, 2);
    assert_int_equal(a->shape[0], 2);
    assert_int_equal(a->shape[1], 3);
    assert_int_equal(a->elements, 6);
    assert_int_equal(a->bytes, 24);
    assert_int_equal(b->bytes, 6);
    assert_int_equal(((const uint8_t *)b->data)[0], 24);
    uint8_t got[6];
    OK(safetensors_read(f, b, 2, got, 4, &e));
    assert_int_equal(got[0], 26);
    assert_int_equal(got[3], 29);
    FAILS(safetensors_read(f, b, 3, got, 4, &e), ERR_ARG, "cannot read 4 from byte 3");
    FAILS(safetensors_read(f, b, UINT64_MAX, got, 2, &e), ERR_ARG, "cannot read");
    assert_null(safetensors_find(f, "c"));
    assert_int_equal(safetensors_n_meta(f), 2);
    const char *key, *value;
    safetensors_meta(f, 1, &key, &value);
    assert_string_equal(key, "who");
    assert_string_equal(value, "me");
    enum dtype t;
    assert_true(st_dtype_model(b->dtype, &t));
    assert_int_equal(t, DT_BF16);
    assert_false(st_dtype_model(ST_U16, &t));
    assert_int_equal(safetensors_file_bytes(f), 8 + strlen(two) + 30);

    OK(safetensors_check_size(f, &e));
    assert_int_equal(truncate(in_dir("model.safetensors"), 100), 0);
    FAILS(safetensors_check_size(f, &e), ERR_IO, "shortened");
    FAILS(safetensors_read(f, b, 0, got, 1, &e), ERR_IO, "tensor 'b'");
    safetensors_close(&f);
    assert_null(f);
    safetensors_close(&f);
}

static void every_type_has_its_size(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        unsigned bytes;
    } want[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};
    struct err e;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        char header[128];
        snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[5],\"data_offsets\":[0,%u]}}",
                 want[i].name, 5 * want[i].bytes);
        size_t size;
        uint8_t *p = make(header, 40, &size);
        struct safetensors *f;
        OK(safetensors_open_memory(&f, p, size, "mem", &e));
        assert_string_equal(st_dtype_name(safetensors_tensor(f, 0)->dtype), want[i].name);
        assert_int_equal(st_dtype_bytes(safetensors_tensor(f, 0)->dtype), want[i].bytes);
        safetensors_close(&f);
        free(p);
    }
}

/* Opens a file of the header and 64 bytes of data from memory that is exactly as large. */
static int open_header(const char *header, struct err *e)
{
    size_t size;
    uint8_t *p = make(header, 64, &size);
    struct safetensors *f;
    int rc = safetensors_open_memory(&f, p, size, "mem", e);
    safetensors_close(&f);
    free(p);
    return rc;
}

#define ENTRY(name, type, shape, offsets)                                                                    \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void well_formed_headers_are_accepted(void **state)
{
    (void)state;
    struct err e;
    OK(open_header("{}", &e));
    OK(open_header("{}      ", &e)); /* writers pad with spaces */
    OK(open_header("{\"__metadata__\":{}}", &e));
    OK(open_header("{" ENTRY("s", "F32", "[]", "[0,4]") "}", &e));
    OK(open_header("{" ENTRY("empty", "F32", "[0,7]", "[8,8]") "," ENTRY("t", "F32", "[4]", "[0,16]") "}",
                   &e));
    OK(open_header("{" ENTRY("gap", "F32", "[4]", "[8,24]") "," ENTRY("t", "F32", "[2]", "[40,48]") "}", &e));
    OK(open_header("{" ENTRY("d8", "U8", "[1,1,1,1,2,1,1,2]", "[0,4]") "}", &e));
    OK(open_header("{\"x\":{\"new\":[1],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", &e));
}

static void malformed_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        int code;
        const char *text;
    } cases[] = {
        {"", ERR_FORMAT, "expected a header that begins with '{'"},
        {" {}", ERR_FORMAT, "expected a header that begins with '{'"},
        {"[]", ERR_FORMAT, "expected a header that begins with '{'"},
        {"{", ERR_FORMAT, "line 1"},
        {"{} {}", ERR_FORMAT, "end of file expected"},
        {"{\"x\":1}", ERR_FORMAT, "tensor 'x': expected an object, found an integer"},
        {"{\"x\":{\"shape\":[1],\"data_offsets\":[0,1]}}", ERR_FORMAT,
         "expected a string \"dtype\", found nothing"},
        {"{" ENTRY("x", "F31", "[1]", "[0,4]") "}", ERR_UNSUPPORTED, "expected a known dtype"},
        {"{" ENTRY("x", "F32", "1", "[0,4]") "}", ERR_FORMAT,
         "expected an array \"shape\", found an integer"},
        {"{" ENTRY("x", "F32", "[-1]", "[0,4]") "}", ERR_FORMAT, "found a negative one"},
        {"{" ENTRY("x", "F32", "[1.0]", "[0,4]") "}", ERR_FORMAT, "found a number that is no 64-bit integer"},
        {"{" ENTRY("x", "F32", "[99999999999999999999]", "[0,4]") "}", ERR_FORMAT,
         "expected a shape of non-negative integers"},
        {"{" ENTRY("x", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", ERR_UNSUPPORTED,
         "at most 8 dimensions, found 9"},
        {"{" ENTRY("x", "F32", "[4294967296,4294967296]", "[0,0]") "}", ERR_FORMAT, "product fits 64 bits"},
        {"{" ENTRY("x", "F32", "[4611686018427387904]", "[0,0]") "}", ERR_FORMAT, "bytes fit 64 bits"},
        {"{" ENTRY("x", "F32", "[1]", "[0,5]") "}", ERR_FORMAT, "expected 4 bytes for its shape as F32"},
        {"{" ENTRY("x", "F32", "[1]", "[4,0]") "}", ERR_FORMAT, "found 4 to 0"},
        {"{" ENTRY("x", "F32", "[1]", "[61,65]") "}", ERR_FORMAT, "in the 64 bytes behind the header"},
        {"{" ENTRY("x", "F32", "[1]", "[0]") "}", ERR_FORMAT, "two non-negative integers, found others"},
        {"{" ENTRY("x", "F32", "[1]", "[-4,0]") "}", ERR_FORMAT, "two non-negative integers"},
        {"{" ENTRY("x", "F32", "[1]", "null") "}", ERR_FORMAT, "two non-negative integers, found null"},
        {"{" ENTRY("x", "F32", "[2]", "[0,8]") "," ENTRY("y", "F32", "[2]", "[4,12]") "}", ERR_FORMAT,
         "tensor 'y' shares bytes with 'x'"},
        {"{" ENTRY("x", "F32", "[2]", "[0,8]") "," ENTRY("z", "F32", "[0]",
                                                         "[4,4]") "," ENTRY("y", "F32", "[1]", "[4,8]") "}",
         ERR_FORMAT, "tensor 'y' shares bytes with 'x'"},
        {"{" ENTRY("x", "F32", "[1]", "[0,4]") "," ENTRY("x", "F32", "[1]", "[4,8]") "}", ERR_FORMAT,
         "duplicate object key"},
        {"{" ENTRY("", "F32", "[1]", "[0,4]") "}", ERR_FORMAT, "found an empty one"},
        {"{" ENTRY("a\\u001bb", "F32", "[1]", "[0,4]") "}", ERR_FORMAT, "control characters"},
        {"{" ENTRY("a\\u0000b", "F32", "[1]", "[0,4]") "}", ERR_FORMAT, "\\u0000"},
        {"{\"__metadata__\":[]}", ERR_FORMAT, "expected an object \"__metadata__\", found an array"},
        {"{\"__metadata__\":{\"a\":1}}", ERR_FORMAT, "__metadata__ 'a': expected a string, found an integer"},
        {"{\"a\":\"\xff\"}", ERR_FORMAT, "unable to decode byte 0xff"},
    };
    struct err e;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(open_header(cases[i].header, &e), cases[i].code, cases[i].text);
}

static void lengths_are_checked(void **state)
{
    (void)state;
    struct err e;
    struct safetensors *f;
    uint8_t bytes[16] = {0};
    FAILS(safetensors_open_memory(&f, bytes, 0, "mem", &e), ERR_FORMAT, "at least 8 bytes, found 0");
    FAILS(safetensors_open_memory(&f, bytes, 7, "mem", &e), ERR_FORMAT, "at least 8 bytes, found 7");
    write_file(in_dir("seven.safetensors"), bytes, 7);
    FAILS(safetensors_open(&f, in_dir("seven.safetensors"), &e), ERR_FORMAT, "at least 8 bytes, found 7");
    bytes[0] = 9;
    FAILS(safetensors_open_memory(&f, bytes, 16, "mem", &e), ERR_FORMAT, "ends at byte 16");
    memset(bytes, 0xff, 8);
    FAILS(safetensors_open_memory(&f, bytes, 16, "mem", &e), ERR_FORMAT, "at most 100000000 bytes");
    /* A terabyte of nothing is answered at once. */
    int fd = open(in_dir("sparse.safetensors"), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1ll << 40), 0);
    FAILS(safetensors_open(&f, in_dir("sparse.safetensors"), &e), ERR_FORMAT, "begins with '{'");
    uint64_t n = 100 * 1000 * 1000;
    assert_int_equal(pwrite(fd, &n, 8, 0), 8);
    FAILS(safetensors_open(&f, in_dir("sparse.safetensors"), &e), ERR_FORMAT, "begins with '{'");
    n++;
    assert_int_equal(pwrite(fd, &n, 8, 0), 8);
    FAILS(safetensors_open(&f, in_dir("sparse.safetensors"), &e), ERR_FORMAT, "at most 100000000 bytes");
    close(fd);
    FAILS(safetensors_open(&f, in_dir("missing.safetensors"), &e), ERR_IO, "No such file");
    assert_int_equal(mkfifo(in_dir("pipe.safetensors"), 0600), 0);
    FAILS(safetensors_open(&f, in_dir("pipe.safetensors"), &e), ERR_IO, "a pipe");
    FAILS(safetensors_open(&f, "/dev/zero", &e), ERR_IO, "a device");
}

/* Bombs: deep nesting, and headers that are all brackets or commas. */
static void bombs_are_refused(void **state)
{
    (void)state;
    struct err e;
    enum { N = 1 << 20 };
    char *s = malloc(N + 1);
    assert_non_null(s);
    memset(s, '[', N);
    s[N] = 0;
    memcpy(s, "{\"a\":", 5);
    FAILS(open_header(s, &e), ERR_FORMAT, "brackets");
    for (int i = 5; i + 3 <= N; i += 3) memcpy(s + i, "[],", 3);
    FAILS(open_header(s, &e), ERR_FORMAT, "brackets");
    for (int i = 5; i + 2 <= N; i += 2) memcpy(s + i, "0,", 2);
    FAILS(open_header(s, &e), ERR_FORMAT, "brackets");
    memset(s, ' ', N);
    memcpy(s, "{\"a\":", 5);
    memset(s + 5, '[', 64);
    FAILS(open_header(s, &e), ERR_FORMAT, "at most 64 deep, found 65");
    s[68] = ' ';
    FAILS(open_header(s, &e), ERR_FORMAT, "line 1");
    free(s);
}

static const char one_x[] = "{" ENTRY("x", "F32", "[2]", "[0,8]") "}";
static const char one_y[] = "{" ENTRY("y", "F32", "[2]", "[0,8]") "}";

static int open_index(const char *text, struct err *e)
{
    write_file(in_dir("hf/model.safetensors.index.json"), text, strlen(text));
    struct safetensors *f;
    int rc = safetensors_open(&f, in_dir("hf"), e);
    safetensors_close(&f);
    return rc;
}

static void folders_and_indexes(void **state)
{
    (void)state;
    struct err e;
    struct safetensors *f;
    assert_int_equal(mkdir(in_dir("hf"), 0700), 0);
    FAILS(safetensors_open(&f, in_dir("hf"), &e), ERR_IO, "neither model.safetensors nor");
    write_file(in_dir("hf/pytorch_model.bin"), "x", 1);
    FAILS(safetensors_open(&f, in_dir("hf"), &e), ERR_UNSUPPORTED, "save_file(");
    make_file(in_dir("hf/model.safetensors"), two, 30);
    OK(safetensors_open(&f, in_dir("hf"), &e));
    assert_int_equal(safetensors_n(f), 2);
    safetensors_close(&f);

    make_file(in_dir("hf/1.st"), one_x, 8);
    make_file(in_dir("hf/2.st"), one_y, 8);
    OK(open_index("{\"metadata\":{},\"weight_map\":{\"y\":\"2.st\",\"x\":\"1.st\"}}", &e));
    OK(safetensors_open(&f, in_dir("hf/model.safetensors.index.json"), &e));
    assert_int_equal(safetensors_shards(f), 2);
    assert_int_equal(safetensors_find(f, "x")->shard, 0);
    assert_string_equal(safetensors_shard_path(f, 1), in_dir("hf/2.st"));
    assert_int_equal(((const uint8_t *)safetensors_find(f, "y")->data)[7], 7);
    safetensors_close(&f);
    static const struct {
        const char *text;
        int code;
        const char *message;
    } cases[] = {
        {"{}", ERR_FORMAT, "expected an object \"weight_map\""},
        {"[]", ERR_FORMAT, "expected an object \"weight_map\""},
        {"{\"weight_map\":{}}", ERR_FORMAT, "expected an object \"weight_map\""},
        {"{\"weight_map\":{\"x\":1}}", ERR_FORMAT, "found no string"},
        {"{\"weight_map\":{\"x\":\"../1.st\"}}", ERR_FORMAT,
         "the name of a file beside the index, found ../1.st"},
        {"{\"weight_map\":{\"x\":\"..\"}}", ERR_FORMAT, "the name of a file beside the index"},
        {"{\"weight_map\":{\"x\":\"\"}}", ERR_FORMAT, "the name of a file beside the index"},
        {"{\"weight_map\":{\"x\":\"1.st\",\"y\":\"3.st\"}}", ERR_IO, "file 2 of 2"},
        {"{\"weight_map\":{\"x\":\"1.st\",\"y\":\"1.st\"}}", ERR_FORMAT,
         "tensor 'y' in '1.st', found it nowhere"},
        {"{\"weight_map\":{\"x\":\"2.st\",\"y\":\"1.st\"}}", ERR_FORMAT, "in '2.st', found it in"},
        {"{\"weight_map\":{\"x\":\"1.st\",\"x\":\"1.st\"}}", ERR_FORMAT, "duplicate object key"},
        {"{\"weight_map\":", ERR_FORMAT, "line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        FAILS(open_index(cases[i].text, &e), cases[i].code, cases[i].message);
    make_file(in_dir("hf/3.st"), one_x, 8);
    FAILS(open_index("{\"weight_map\":{\"x\":\"1.st\",\"y\":\"3.st\"}}", &e), ERR_FORMAT, "tensor 'x' is in");
}

/* 100,000 tensors in well under a second. */
static void many_tensors_are_quick(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct err e;
    char *header = malloc((size_t)N * 80);
    assert_non_null(header);
    size_t n = 1;
    header[0] = '{';
    for (int i = 0; i < N; i++)
        n += (size_t)sprintf(header + n, "%s" ENTRY("layer.%d", "U8", "[1]", "[%d,%d]"), i ? "," : "", i, i,
                             i + 1);
    strcpy(header + n, "}");
    size_t size;
    uint8_t *p = make(header, N, &size);
    struct safetensors *f;
    OK(safetensors_open_memory(&f, p, size, "mem", &e));
    assert_int_equal(safetensors_n(f), N);
    assert_int_equal(*(const uint8_t *)safetensors_find(f, "layer.77")->data, 77);
    safetensors_close(&f);
    free(p);
    free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read),
        cmocka_unit_test(every_type_has_its_size),
        cmocka_unit_test(well_formed_headers_are_accepted),
        cmocka_unit_test(malformed_headers_are_refused),
        cmocka_unit_test(lengths_are_checked),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(folders_and_indexes),
        cmocka_unit_test(many_tensors_are_quick),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
