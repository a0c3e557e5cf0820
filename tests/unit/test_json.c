/* base/json_text, base/json: hostile texts, typed members, numbers JSON lacks. */
#include "tests/unit/cmocka_all.h"

#include "base/err.h"
#include "base/json.h"
#include "base/json_text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int parse(const char *text, json_t **j, struct err *e)
{
    *j = NULL;
    return json_text_parse(j, text, strlen(text), "test.json", JSON_TEXT_DEPTH, e);
}

static void malformed_texts_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "{\"a\":1,}",
        "[1 2]",
        "{\"a\":1}x",
        "{\"a\":1,\"a\":2}",
        "\"\xff\"",
        "[1e999]",
        "\"\\ud800\"",
        "nan",
        "[01]",
        "{a:1}",
        "[\"unfinished",
        "\"\\",
        "]",
        "{\"k\":{\"a\":1,\"b\":[],\"a\":null}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *j;
        struct err e = {0};
        if (parse(bad[i], &j, &e) != ERR_FORMAT) fail_msg("accepted: %s", bad[i]);
        assert_null(j);
        assert_non_null(strstr(e.msg, "test.json"));
    }
    json_t *j;
    struct err e;
    assert_int_equal(parse("{\n  \"a\": oops\n}", &j, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "line 2"));
}

static void nesting_is_bounded(void **state)
{
    (void)state;
    struct err e;
    json_t *j;
    size_t n = 10000000;
    char *text = malloc(n);
    memset(text, '[', n);
    assert_int_equal(json_text_parse(&j, text, n, "deep", JSON_TEXT_DEPTH, &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "64"));
    memset(text + JSON_TEXT_DEPTH, ']', JSON_TEXT_DEPTH);
    assert_int_equal(json_text_parse(&j, text, 2 * JSON_TEXT_DEPTH, "deep", JSON_TEXT_DEPTH, &e), 0);
    json_decref(j);
    memset(text, '[', JSON_TEXT_DEPTH + 1);
    memset(text + JSON_TEXT_DEPTH + 1, ']', JSON_TEXT_DEPTH + 1);
    assert_int_equal(json_text_parse(&j, text, 2 * JSON_TEXT_DEPTH + 2, "deep", JSON_TEXT_DEPTH, &e),
                     ERR_FORMAT);
    free(text);
    /* Brackets inside strings are no nesting, escaped quotes do not end strings. */
    char many[400] = "[\"\\\"";
    memset(many + 4, '{', 300);
    strcpy(many + 304, "\"]");
    assert_int_equal(parse(many, &j, &e), 0);
    json_decref(j);
}

static void members_have_types(void **state)
{
    (void)state;
    struct err e;
    json_t *j, *sub = NULL;
    assert_int_equal(parse("{\"s\":\"x\",\"i\":7,\"neg\":-1,\"f\":0.5,\"whole\":4096.0,\"b\":true,\"n\":null,"
                           "\"o\":{},\"a\":[],\"big\":5000000000}",
                           &j, &e),
                     0);
    const char *s = "default";
    uint32_t u = 42;
    uint64_t u64 = 0;
    int64_t i64 = 0;
    double f = 0;
    bool b = false;
    assert_int_equal(json_get_str(j, "s", &s, "w", &e), 0);
    assert_string_equal(s, "x");
    assert_int_equal(json_get_u32(j, "absent", &u, "w", &e), 1);
    assert_int_equal(json_get_u32(j, "n", &u, "w", &e), 1);
    assert_int_equal(u, 42);
    assert_int_equal(json_get_u32(j, "whole", &u, "w", &e), 0);
    assert_int_equal(u, 4096);
    assert_int_equal(json_get_u32(j, "neg", &u, "w", &e), ERR_FORMAT);
    assert_int_equal(json_get_u32(j, "big", &u, "w", &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "5000000000"));
    assert_int_equal(json_get_u64(j, "big", &u64, "w", &e), 0);
    assert_int_equal(u64, 5000000000);
    assert_int_equal(json_get_i64(j, "neg", &i64, "w", &e), 0);
    assert_int_equal(i64, -1);
    assert_int_equal(json_get_u32(j, "f", &u, "w", &e), ERR_FORMAT);
    assert_int_equal(json_get_u32(j, "s", &u, "config.json", &e), ERR_FORMAT);
    assert_non_null(strstr(e.msg, "config.json"));
    assert_non_null(strstr(e.msg, "a string"));
    assert_int_equal(json_get_f64(j, "i", &f, "w", &e), 0);
    assert_true(f == 7);
    assert_int_equal(json_get_bool(j, "b", &b, "w", &e), 0);
    assert_true(b);
    assert_int_equal(json_get_bool(j, "i", &b, "w", &e), ERR_FORMAT);
    assert_int_equal(json_get_object(j, "o", &sub, "w", &e), 0);
    assert_int_equal(json_get_object(j, "a", &sub, "w", &e), ERR_FORMAT);
    assert_int_equal(json_get_array(j, "a", &sub, "w", &e), 0);
    assert_int_equal(json_get_str(sub, "x", &s, "w", &e), ERR_FORMAT); /* an array has no members */
    assert_int_equal(json_get_str(NULL, "x", &s, "w", &e), ERR_FORMAT);
    json_decref(j);
}

static void files_have_a_limit(void **state)
{
    (void)state;
    char path[] = "/tmp/calor-json-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "{\"a\": 1}", 8), 8);
    close(fd);
    json_t *j;
    struct err e;
    assert_int_equal(json_text_read(&j, path, 8, JSON_TEXT_DEPTH, &e), 0);
    json_decref(j);
    assert_int_equal(json_text_read(&j, path, 7, JSON_TEXT_DEPTH, &e), ERR_FORMAT);
    unlink(path);
    assert_int_equal(json_text_read(&j, path, 8, JSON_TEXT_DEPTH, &e), ERR_IO);
    assert_int_equal(json_text_read(&j, "/tmp", 8, JSON_TEXT_DEPTH, &e), ERR_IO);
}

static void numbers_are_printable(void **state)
{
    (void)state;
    struct err e;
    json_t *n = json_number(NAN), *i = json_number(-INFINITY), *x = json_number(1.5);
    assert_true(json_is_null(n) && json_is_null(i) && json_real_value(x) == 1.5);
    json_decref(n);
    json_decref(i);
    FILE *f = tmpfile();
    assert_int_equal(json_print(x, f, &e), 0);
    assert_int_equal(ftell(f), 4); /* "1.5\n" */
    fclose(f);
    assert_int_equal(json_print(NULL, stdout, &e), ERR_NOMEM);
    f = fopen("/dev/full", "w");
    setvbuf(f, NULL, _IONBF, 0);
    assert_int_equal(json_print(json_number(1), f, &e), ERR_IO);
    fclose(f);
}

static void long_integers_become_reals(void **state)
{
    (void)state;
    struct err e;
    json_t *j;
    const char *text =
        "{\"a\": 1000000000000000019884624838656, \"b\": [-12345678901234567890123, 9007199254740993],"
        " \"s\": \"1000000000000000019884624838656 \\\" 99999999999999999999\","
        " \"e\": 10000000000000000000000e2, \"f\": 0.12345678901234567890123}";
    assert_int_equal(parse(text, &j, &e), 0);
    assert_true(json_real_value(json_object_get(j, "a")) == 1e30);
    json_t *b = json_object_get(j, "b");
    assert_true(json_real_value(json_array_get(b, 0)) == -12345678901234567890123.0);
    assert_int_equal(json_integer_value(json_array_get(b, 1)), 9007199254740993);
    assert_string_equal(json_string_value(json_object_get(j, "s")),
                        "1000000000000000019884624838656 \" 99999999999999999999");
    assert_true(json_real_value(json_object_get(j, "e")) == 1e24);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(malformed_texts_are_refused), cmocka_unit_test(nesting_is_bounded),
        cmocka_unit_test(members_have_types),          cmocka_unit_test(files_have_a_limit),
        cmocka_unit_test(numbers_are_printable),       cmocka_unit_test(long_integers_become_reals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
