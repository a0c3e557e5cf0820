/* Charts for reports, as inline SVG in a <figure>: lines, bars, heat strips, lanes of spans. They take their
 * colours from html.h's page, and say every value under the pointer. Values that are not finite are left out.
 */
#ifndef BASE_SVG_H
#define BASE_SVG_H

#include <stdbool.h>
#include <stddef.h>

struct strbuf;

enum svg_scale { SVG_LINEAR, SVG_LOG };
enum svg_unit { SVG_PLAIN, SVG_PERCENT /* shares 0 … 1 */, SVG_WHOLE /* no ticks between whole numbers */ };

struct svg_axis {
    const char *label;
    enum svg_scale scale;
    enum svg_unit unit;
    bool fixed; /* from low to high; else what the values span, 0 included on linear y axes */
    double low, high;
};

struct svg_chart {
    const char *title;
    struct svg_axis x, y;
};

struct svg_series {
    const char *name;
    const double *x, *y;
    size_t n;
    bool dashed, points;
};

/* Curves; up to six are told apart by colour, further ones by a ramp from the first colour to the second. */
void svg_lines(struct strbuf *b, const struct svg_chart *c, const struct svg_series *series, size_t n);

/* Groups of bars: labels[i] for the i-th value of every series (x is not used), up to six series. */
void svg_bars(struct strbuf *b, const struct svg_chart *c, const char *const *labels,
              const struct svg_series *series, size_t n);

/* A strip of `columns` cells for each of `rows` rows, values[r*columns + k] ≥ 0 from cold to hot (chart.y's
 * scale and unit; its label is not used), with a key beside it. Row r is called row_label and r. */
void svg_heat(struct strbuf *b, const struct svg_chart *c, const char *row_label, const double *values,
              size_t rows, size_t columns);

/* Lanes of spans along x: what happens when, or how a length is shared out. Spans without length are left
 * out; lanes are named on the left, kinds (up to six) tell colours. */
struct svg_span {
    size_t lane, kind;
    double from, to;
    const char *text; /* under the pointer, behind the kind's name; may be NULL */
};
void svg_spans(struct strbuf *b, const struct svg_chart *c, const char *const *lanes, size_t n_lanes,
               const struct svg_span *spans, size_t n, const char *const *kinds, size_t n_kinds);

#endif
