/* base/html and base/svg: nothing in a text can become markup, pages are well-formed, values that are no
 * numbers draw nothing. */
#include "tests/unit/cmocka_all.h"

#include "base/html.h"
#include "base/strbuf.h"
#include "base/svg.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tags must nest; those that have no end are skipped. Returns false at the first that does not. */
static bool nests(const char *s)
{
    char open[64][16];
    int depth = 0;
    while ((s = strchr(s, '<'))) {
        const char *end = strchr(s, '>');
        if (!end) return false;
        char name[16] = {0};
        bool closing = s[1] == '/';
        for (size_t i = 0; i < 15 && isalnum((unsigned char)s[1 + closing + (int)i]); i++)
            name[i] = s[1 + closing + (int)i];
        bool done = s[1] == '!' || end[-1] == '/' || strcmp(name, "meta") == 0;
        if (closing) {
            if (depth == 0 || strcmp(open[--depth], name) != 0) return false;
        } else if (!done) {
            if (depth == 64) return false;
            strcpy(open[depth++], name);
        }
        s = end + 1;
    }
    return depth == 0;
}

static size_t count(const char *s, const char *what)
{
    size_t n = 0;
    for (; (s = strstr(s, what)); s += strlen(what)) n++;
    return n;
}

static void texts_are_escaped(void **state)
{
    (void)state;
    struct strbuf b;
    strbuf_init(&b);
    html_text(&b, "a<b>&\"c'\x01\n\xc3\xa4");
    assert_string_equal(b.s, "a&lt;b&gt;&amp;&quot;c&#39;\xef\xbf\xbd\n\xc3\xa4");
    strbuf_finish(&b);
}

static void pages_are_well_formed(void **state)
{
    (void)state;
    static const char *const heads[] = {"a", "<b>"}, *const labels[] = {"<x>", "y&", "z"};
    struct strbuf b;
    struct html_table t;
    strbuf_init(&b);
    double x[] = {1, 10, 100}, y[] = {0.5, (double)NAN, 0.25}, heat[] = {0, 1, (double)NAN, 0.5, 0.5, 1e-9};
    struct svg_chart c = {.title = "<t>",
                          .x = {.label = "\"x\"", .scale = SVG_LOG},
                          .y = {.label = "<y>", .unit = SVG_PERCENT}};
    struct svg_series s[8];
    for (int i = 0; i < 8; i++) s[i] = (struct svg_series){"<s>", x, y, 3, .dashed = i & 1, .points = i & 2};
    html_begin(&b, "<title>", "a & b");
    html_heading(&b, "<h>");
    html_cards_begin(&b);
    html_card(&b, "<l>", "<v>", "<n>");
    html_card(&b, "l", "v", NULL);
    html_cards_end(&b);
    html_columns_begin(&b);
    svg_lines(&b, &c, s, 2);
    svg_lines(&b, &c, s, 8);
    svg_bars(&b, &c, labels, s, 1);
    svg_heat(&b, &c, "<row>", heat, 2, 3);
    static const char *const lanes[] = {"<lane>", "b"}, *const kinds[] = {"<kind>", "l"};
    struct svg_span spans[] = {
        {0, 0, 0, 1, "<text>"}, {1, 1, 1, 1, NULL}, {1, 1, 0, NAN, NULL}, {1, 1, 2, 3, NULL}};
    svg_spans(&b, &c, lanes, 2, spans, 4, kinds, 2);
    html_columns_end(&b);
    html_paragraph(&b, "%s", "<p>");
    html_table_begin(&t, &b, heads, 2);
    html_cell(&t, "<c>");
    html_cell_number(&t, "%d", 3);
    html_cell(&t, "last");
    html_table_end(&t);
    html_end(&b);
    assert_false(b.failed);
    assert_true(nests(b.s));
    assert_null(strstr(b.s, "nan"));
    assert_null(strstr(b.s, "inf"));
    assert_null(strstr(b.s, "http")); /* nothing is fetched */
    assert_null(strstr(b.s, "<row>"));
    assert_null(strstr(b.s, "<lane>"));
    assert_null(strstr(b.s, "<kind>"));
    assert_null(strstr(b.s, "<text>"));
    assert_int_equal(count(b.s, "&lt;lane&gt;, &lt;kind&gt;: &lt;text&gt;</title>"), 1);
    assert_int_equal(count(b.s, "b, l</title>"), 1); /* empty spans and NaN are no spans */
    assert_int_equal(count(b.s, "<tr>"), 3);
    assert_int_equal(count(b.s, "<td"), 4);
    assert_int_equal(count(b.s, "<circle"), 2 * 2 + 8 * 2); /* a NaN is no point */
    strbuf_finish(&b);
}

/* Spans of one lane that follow one another touch, and are as wide as what they stand for. */
static void spans_are_placed(void **state)
{
    (void)state;
    static const char *const lanes[] = {"a"}, *const kinds[] = {"k"};
    struct svg_span spans[] = {{0, 0, 0, 1, NULL}, {0, 0, 1, 4, NULL}};
    struct svg_chart c = {.title = "t", .x = {.fixed = true, .low = 0, .high = 4}};
    struct strbuf b;
    double x[2], width[2];
    strbuf_init(&b);
    svg_spans(&b, &c, lanes, 1, spans, 2, kinds, 1);
    const char *at = b.s;
    for (int i = 0; i < 2; i++) {
        at = strstr(at, "<rect x=") + 1;
        assert_int_equal(sscanf(at, "rect x=\"%lf\" y=\"%*d\" width=\"%lf\"", &x[i], &width[i]), 2);
    }
    assert_true(fabs(x[0] + width[0] - x[1]) < 0.02);
    assert_true(fabs(width[1] / width[0] - 3.0) < 0.001);
    strbuf_finish(&b);
}

/* Where a value lies: the highest bar is as high as the axis says. */
static void values_are_placed(void **state)
{
    (void)state;
    static const char *const labels[] = {"a", "b"};
    struct strbuf b;
    strbuf_init(&b);
    double y[] = {0.25, 1.0}, x[] = {0, 1};
    struct svg_chart c = {
        .title = "t", .x = {.fixed = true, .low = 0, .high = 1}, .y = {.fixed = true, .low = 0, .high = 1}};
    struct svg_series s = {"s", x, y, 2};
    svg_bars(&b, &c, labels, &s, 1);
    const char *r = strstr(b.s, "<rect");
    double left, top, width, height;
    assert_int_equal(
        sscanf(r, "<rect x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &left, &top, &width, &height), 4);
    double quarter = height;
    r = strstr(r + 1, "<rect");
    assert_int_equal(
        sscanf(r, "<rect x=\"%lf\" y=\"%lf\" width=\"%lf\" height=\"%lf\"", &left, &top, &width, &height), 4);
    assert_float_equal(quarter * 4, height, 0.3);
    assert_non_null(strstr(b.s, "<title>s, a: 0.25</title>"));
    strbuf_clear(&b);
    svg_lines(&b, &c, &s, 1);
    double cy[2];
    r = strstr(b.s, "<circle");
    assert_int_equal(sscanf(r, "<circle cx=\"%lf\" cy=\"%lf\"", &left, &cy[0]), 2);
    r = strstr(r + 1, "<circle");
    assert_int_equal(sscanf(r, "<circle cx=\"%lf\" cy=\"%lf\"", &left, &cy[1]), 2);
    assert_float_equal(cy[0] - cy[1], 0.75 * height, 0.3);
    strbuf_finish(&b);
}

static void odd_charts_do_not_break(void **state)
{
    (void)state;
    struct strbuf b;
    strbuf_init(&b);
    double none[] = {(double)NAN, (double)INFINITY}, same[] = {5, 5}, huge[] = {1e300, 1e-300}, x[] = {0, 0};
    const double *const ys[] = {none, same, huge};
    static const char *const labels[] = {"a", "b"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++) {
            struct svg_series s = {"s", x, ys[i], k == 3 ? 0 : 2};
            struct svg_chart c = {.title = "t", .y = {.scale = k & 1 ? SVG_LOG : SVG_LINEAR}};
            svg_lines(&b, &c, &s, 1);
            svg_bars(&b, &c, labels, &s, k == 3 ? 0 : 1);
            svg_heat(&b, &c, "r", ys[i], k == 3 ? 0 : 1, 2);
        }
    assert_true(nests(b.s));
    assert_null(strstr(b.s, "nan"));
    assert_null(strstr(b.s, "inf"));
    assert_true(b.len < 200000);
    strbuf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_escaped),       cmocka_unit_test(pages_are_well_formed),
        cmocka_unit_test(values_are_placed),       cmocka_unit_test(spans_are_placed),
        cmocka_unit_test(odd_charts_do_not_break),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
