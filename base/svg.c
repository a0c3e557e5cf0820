/* Charts as inline SVG: see svg.h. */
#include "base/svg.h"

#include "base/html.h"
#include "base/strbuf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    WIDTH = 640,
    STRIP_WIDTH = 1180 /* heat strips take the page */,
    HEIGHT = 300,
    LEFT = 58,
    RIGHT = 24,
    TOP = 12,
    BOTTOM = 46,
    COLOURS = 6,
    STEPS = 32
};

/* An axis with its ends and ticks, and where it lies on the page (a at low, b at high). */
struct scale {
    const struct svg_axis *axis;
    double low, high, a, b, step;
};

static void span(double *low, double *high, double v)
{
    if (!isfinite(v)) return;
    if (v < *low) *low = v;
    if (v > *high) *high = v;
}

/* The smallest of 1, 2, 2.5, 5 times a power of ten that makes at most `n` steps. */
static double nice(double width, int n)
{
    double raw = width / n, unit = pow(10.0, floor(log10(raw)));
    static const double steps[] = {1.0, 2.0, 2.5, 5.0, 10.0};
    for (int i = 0; i < 5; i++)
        if (steps[i] * unit >= raw * 0.999) return steps[i] * unit;
    return 10.0 * unit;
}

static void scale_init(struct scale *s, const struct svg_axis *axis, double low, double high, double a,
                       double b, bool upright)
{
    *s = (struct scale){.axis = axis, .a = a, .b = b};
    if (axis->fixed) {
        low = axis->low;
        high = axis->high;
    } else if (axis->scale == SVG_LINEAR && upright) {
        if (low > 0.0) low = 0.0;
        if (high < 0.0) high = 0.0;
    }
    if (!(low <= high)) low = 0.0, high = 1.0; /* no values */
    if (axis->scale == SVG_LOG) {
        if (!(low > 0.0)) low = high > 0.0 ? high * 1e-6 : 1e-6;
        if (!(high > low)) high = low * 10.0;
    } else if (!(high > low)) {
        high = low + (low != 0.0 ? fabs(low) : 1.0);
    }
    s->step = axis->scale == SVG_LOG ? 0.0 : nice(high - low, upright ? 5 : 8);
    if (axis->unit == SVG_WHOLE && s->step < 1.0) s->step = 1.0;
    if (axis->scale == SVG_LINEAR && !axis->fixed && upright) {
        high = ceil(high / s->step - 1e-9) * s->step;
        low = floor(low / s->step + 1e-9) * s->step;
    }
    s->low = low;
    s->high = high;
}

static double place(const struct scale *s, double v)
{
    double at = s->axis->scale == SVG_LOG
                    ? (log(fmax(v, s->low)) - log(s->low)) / (log(s->high) - log(s->low))
                    : (v - s->low) / (s->high - s->low);
    if (at < -0.02) at = -0.02;
    if (at > 1.02) at = 1.02;
    return s->a + at * (s->b - s->a);
}

static bool drawable(const struct scale *s, double v)
{
    return isfinite(v) && (s->axis->scale == SVG_LINEAR || v > 0.0);
}

static const char *value_text(const struct svg_axis *axis, double v, char *buf, size_t n)
{
    if (!isfinite(v))
        snprintf(buf, n, "–");
    else if (axis->unit == SVG_PERCENT)
        snprintf(buf, n, fabs(v) < 0.0995 && v != 0.0 ? "%.2g %%" : "%.4g %%", v * 100.0);
    else
        snprintf(buf, n, "%.4g", v);
    return buf;
}

static void figure_begin(struct strbuf *b, const struct svg_chart *c, int width, int height)
{
    strbuf_puts(b, "<figure><figcaption>");
    html_text(b, c->title);
    strbuf_printf(b, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", width, height);
    html_text(b, c->title);
    strbuf_puts(b, "\">\n");
}

static void figure_end(struct strbuf *b)
{
    strbuf_puts(b, "</svg></figure>\n");
}

static void tick(struct strbuf *b, const struct scale *s, bool upright, double v)
{
    char text[32];
    double at = place(s, v);
    value_text(s->axis, v, text, sizeof text);
    if (upright)
        strbuf_printf(b,
                      "<path d=\"M%d %.1fH%d\" stroke=\"var(--line)\"/><text class=\"soft\" x=\"%d\" "
                      "y=\"%.1f\" text-anchor=\"end\">%s</text>\n",
                      LEFT, at, WIDTH - RIGHT, LEFT - 6, at + 4, text);
    else
        strbuf_printf(b, "<text class=\"soft\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%s</text>\n", at,
                      HEIGHT - BOTTOM + 16, text);
}

static void axis(struct strbuf *b, const struct scale *s, bool upright)
{
    if (s->axis->scale == SVG_LOG) {
        double decades = log10(s->high) - log10(s->low);
        int every = 1 + (int)(decades / 8.0);
        for (int p = (int)ceil(log10(s->low) - 1e-9); p <= log10(s->high) + 1e-9; p++) {
            if (p % every == 0) tick(b, s, upright, pow(10.0, p));
            for (int k = 2; decades < 1.7 && k <= 5; k += 3) {
                double v = k * pow(10.0, p);
                if (v <= s->high) tick(b, s, upright, v);
            }
        }
    } else {
        int n = (int)floor((s->high - s->low) / s->step + 1e-9);
        double first = ceil(s->low / s->step - 1e-9) * s->step;
        for (int i = 0; i <= n && first + i * s->step <= s->high * (1 + 1e-9) + 1e-300; i++)
            tick(b, s, upright, fabs(first + i * s->step) < s->step * 1e-9 ? 0.0 : first + i * s->step);
    }
    if (!s->axis->label) return;
    if (upright)
        strbuf_printf(b,
                      "<text class=\"soft\" transform=\"translate(13 %d) rotate(-90)\" "
                      "text-anchor=\"middle\">",
                      (TOP + HEIGHT - BOTTOM) / 2);
    else
        strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                      (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36);
    html_text(b, s->axis->label);
    strbuf_puts(b, "</text>\n");
}

/* The colour of series i of n. */
static const char *colour(size_t i, size_t n, char *buf, size_t size)
{
    if (n <= COLOURS)
        snprintf(buf, size, "var(--c%d)", (int)i + 1);
    else
        snprintf(buf, size, "color-mix(in oklab,var(--c1) %d%%,var(--c2))", 100 - (int)(100 * i / (n - 1)));
    return buf;
}

/* Under the chart, outside of the drawing, so that it wraps. */
static void legend(struct strbuf *b, const struct svg_series *s, size_t n)
{
    char c[64];
    if (n < 2) return;
    strbuf_puts(b, "<div style=\"display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.85rem\">");
    for (size_t i = 0; i < n; i++) {
        strbuf_printf(
            b,
            "<span><svg viewBox=\"0 0 18 8\" style=\"display:inline-block;width:18px;"
            "vertical-align:middle\"><path d=\"M0 4H18\" stroke=\"%s\" stroke-width=\"3\"%s/></svg> ",
            colour(i, n, c, sizeof c), s[i].dashed ? " stroke-dasharray=\"4 3\"" : "");
        html_text(b, s[i].name);
        strbuf_puts(b, "</span>");
    }
    strbuf_puts(b, "</div>\n");
}

static void value_title(struct strbuf *b, const struct svg_chart *c, const char *name, const char *x,
                        double y)
{
    char text[32];
    strbuf_puts(b, "<title>");
    html_text(b, name);
    strbuf_puts(b, ", ");
    html_text(b, x);
    strbuf_puts(b, ": ");
    html_text(b, value_text(&c->y, y, text, sizeof text));
    strbuf_puts(b, "</title>");
}

static void curve(struct strbuf *b, const struct svg_chart *c, const struct scale *x, const struct scale *y,
                  const struct svg_series *s, const char *stroke)
{
    bool open = false;
    for (size_t k = 0; k < s->n; k++) {
        if (!drawable(x, s->x[k]) || !drawable(y, s->y[k])) {
            if (open) strbuf_puts(b, "\"/>\n");
            open = false;
            continue;
        }
        if (!open)
            strbuf_printf(
                b, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\"%s d=\"",
                stroke, s->dashed ? " stroke-dasharray=\"6 4\"" : "");
        strbuf_printf(b, "%s%.1f %.1f", open ? "L" : "M", place(x, s->x[k]), place(y, s->y[k]));
        open = true;
    }
    if (open) strbuf_puts(b, "\"/>\n");
    for (size_t k = 0; k < s->n; k++) { /* what the pointer finds */
        char text[32];
        if (!drawable(x, s->x[k]) || !drawable(y, s->y[k])) continue;
        strbuf_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"%s>", place(x, s->x[k]),
                      place(y, s->y[k]), s->points ? "3" : "5", stroke,
                      s->points ? "" : " fill-opacity=\"0\"");
        value_title(b, c, s->name, value_text(&c->x, s->x[k], text, sizeof text), s->y[k]);
        strbuf_puts(b, "</circle>\n");
    }
}

void svg_lines(struct strbuf *b, const struct svg_chart *c, const struct svg_series *series, size_t n)
{
    double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < series[i].n; k++) {
            if (c->x.scale == SVG_LINEAR || series[i].x[k] > 0.0) span(&x0, &x1, series[i].x[k]);
            if (c->y.scale == SVG_LINEAR || series[i].y[k] > 0.0) span(&y0, &y1, series[i].y[k]);
        }
    struct scale x, y;
    char stroke[64];
    scale_init(&x, &c->x, x0, x1, LEFT, WIDTH - RIGHT, false);
    scale_init(&y, &c->y, y0, y1, HEIGHT - BOTTOM, TOP, true);
    figure_begin(b, c, WIDTH, HEIGHT);
    axis(b, &y, true);
    axis(b, &x, false);
    for (size_t i = 0; i < n; i++) curve(b, c, &x, &y, &series[i], colour(i, n, stroke, sizeof stroke));
    strbuf_puts(b, "</svg>\n");
    legend(b, series, n);
    strbuf_puts(b, "</figure>\n");
}

void svg_bars(struct strbuf *b, const struct svg_chart *c, const char *const *labels,
              const struct svg_series *series, size_t n)
{
    double y0 = INFINITY, y1 = -INFINITY;
    size_t groups = 0;
    for (size_t i = 0; i < n; i++) {
        if (series[i].n > groups) groups = series[i].n;
        for (size_t k = 0; k < series[i].n; k++) span(&y0, &y1, series[i].y[k]);
    }
    struct scale y;
    scale_init(&y, &c->y, y0, y1, HEIGHT - BOTTOM, TOP, true);
    figure_begin(b, c, WIDTH, HEIGHT);
    axis(b, &y, true);
    double room = (double)(WIDTH - LEFT - RIGHT) / (double)(groups ? groups : 1),
           bar = 0.8 * room / (double)(n ? n : 1);
    size_t every = groups > 24 ? (groups + 15) / 16 : 1;
    double base = place(&y, fmax(y.low, 0.0));
    for (size_t k = 0; k < groups; k++) {
        double left = LEFT + room * ((double)k + 0.1);
        for (size_t i = 0; i < n; i++) {
            char fill[64];
            double v = k < series[i].n ? series[i].y[k] : (double)NAN;
            if (!drawable(&y, v)) continue;
            double at = place(&y, v);
            strbuf_printf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\">",
                          left + bar * (double)i, fmin(at, base), fmax(bar - 1.0, 0.7), fabs(base - at),
                          colour(i, n, fill, sizeof fill));
            value_title(b, c, series[i].name, labels[k], v);
            strbuf_puts(b, "</rect>\n");
        }
        if (k % every) continue;
        strbuf_printf(b, "<text class=\"soft\" x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">",
                      left + 0.4 * room, HEIGHT - BOTTOM + 16);
        html_text(b, labels[k]);
        strbuf_puts(b, "</text>\n");
    }
    if (c->x.label) {
        strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                      (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 36);
        html_text(b, c->x.label);
        strbuf_puts(b, "</text>\n");
    }
    strbuf_puts(b, "</svg>\n");
    legend(b, series, n);
    strbuf_puts(b, "</figure>\n");
}

/* From cold to hot: step i of STEPS between eight colours of even lightness steps, readable on white and on
 * black. */
static void heat(int i, char out[8])
{
    static const unsigned char ramp[][3] = {{34, 38, 66},  {66, 42, 104},  {112, 48, 120}, {160, 56, 112},
                                            {204, 76, 84}, {236, 116, 52}, {250, 172, 48}, {252, 232, 140}};
    double at = 7.0 * i / (STEPS - 1);
    int k = at >= 7.0 ? 6 : (int)at;
    double t = at - k;
    int c[3];
    for (int j = 0; j < 3; j++) c[j] = (int)(ramp[k][j] + t * (ramp[k + 1][j] - ramp[k][j]) + 0.5);
    snprintf(out, 8, "#%02x%02x%02x", c[0] & 255, c[1] & 255, c[2] & 255);
}

static int heat_step(const struct scale *s, double v)
{
    if (!drawable(s, v)) return 0;
    int i = (int)(place(s, v) * (STEPS - 1) + 0.5);
    return i < 0 ? 0 : i >= STEPS ? STEPS - 1 : i;
}

static void heat_key(struct strbuf *b, const struct svg_chart *c, const struct scale *s, int top)
{
    char text[32], fill[8];
    int right = STRIP_WIDTH - RIGHT - 44;
    for (int i = 0; i < STEPS; i++) {
        heat(i, fill);
        strbuf_printf(b, "<rect x=\"%d\" y=\"%d\" width=\"6\" height=\"10\" fill=\"%s\"/>",
                      right - 6 * (STEPS - i), top, fill);
    }
    strbuf_printf(b, "\n<text class=\"soft\" x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>",
                  right - 6 * STEPS - 6, top + 9, value_text(&c->y, s->low, text, sizeof text));
    strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\">%s</text>\n", right + 6, top + 9,
                  value_text(&c->y, s->high, text, sizeof text));
}

void svg_heat(struct strbuf *b, const struct svg_chart *c, const char *row_label, const double *values,
              size_t rows, size_t columns)
{
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < rows * columns; i++)
        if (c->y.scale == SVG_LINEAR || values[i] > 0.0) span(&low, &high, values[i]);
    struct scale s;
    scale_init(&s, &c->y, low, high, 0.0, 1.0, false);
    int line = rows > 40 ? 8 : rows > 20 ? 12 : 16, bottom = TOP + line * (int)rows;
    double cell = (double)(STRIP_WIDTH - LEFT - RIGHT) / (double)(columns ? columns : 1);
    figure_begin(b, c, STRIP_WIDTH, bottom + 26);
    for (size_t r = 0; r < rows; r++) {
        int y = TOP + line * (int)r;
        if (line >= 12 || r % 4 == 0) {
            strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT - 6,
                          y + line / 2 + 4);
            strbuf_printf(b, "%zu</text>\n", r);
        }
        for (size_t k = 0, end; k < columns; k = end) { /* cells of one colour are one rectangle */
            const double *v = values + r * columns;
            int step = heat_step(&s, v[k]);
            char fill[8], text[32], text2[32];
            double least = v[k], most = v[k];
            for (end = k + 1; end < columns && heat_step(&s, v[end]) == step; end++) {
                if (v[end] < least) least = v[end];
                if (v[end] > most) most = v[end];
            }
            heat(step, fill);
            strbuf_printf(b, "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>",
                          LEFT + cell * (double)k, y, cell * (double)(end - k) + 0.15, line - 1, fill);
            html_text(b, row_label);
            value_text(&c->y, least, text, sizeof text);
            value_text(&c->y, most, text2, sizeof text2);
            if (strcmp(text, text2) == 0)
                strbuf_printf(b, " %zu: %s</title></rect>\n", r, text);
            else
                strbuf_printf(b, " %zu: %s … %s</title></rect>\n", r, text, text2);
        }
    }
    if (c->x.label) {
        strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\">", LEFT, bottom + 18);
        html_text(b, c->x.label);
        strbuf_puts(b, "</text>\n");
    }
    heat_key(b, c, &s, bottom + 8);
    figure_end(b);
}

static void span_axis(struct strbuf *b, const struct svg_chart *c, const struct scale *x, int bottom)
{
    char text[32];
    int n = (int)floor((x->high - x->low) / x->step + 1e-9);
    double first = ceil(x->low / x->step - 1e-9) * x->step;
    for (int i = 0; i <= n; i++) {
        double v = first + i * x->step, at = place(x, v);
        strbuf_printf(
            b,
            "<path d=\"M%.1f %dV%d\" stroke=\"var(--line)\"/><text class=\"soft\" x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\">%s</text>\n",
            at, TOP, bottom, at, bottom + 14, value_text(&c->x, v, text, sizeof text));
    }
    if (!c->x.label) return;
    strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">",
                  (LEFT + STRIP_WIDTH - RIGHT) / 2, bottom + 32);
    html_text(b, c->x.label);
    strbuf_puts(b, "</text>\n");
}

void svg_spans(struct strbuf *b, const struct svg_chart *c, const char *const *lanes, size_t n_lanes,
               const struct svg_span *spans, size_t n, const char *const *kinds, size_t n_kinds)
{
    double low = INFINITY, high = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        span(&low, &high, spans[i].from);
        span(&low, &high, spans[i].to);
    }
    struct scale x;
    struct svg_axis linear = c->x; /* lengths are what is shown */
    linear.scale = SVG_LINEAR;
    scale_init(&x, &linear, low, high, LEFT, STRIP_WIDTH - RIGHT, true);
    int line = n_lanes > 40 ? 8 : n_lanes > 20 ? 12 : 18, bottom = TOP + line * (int)n_lanes;
    figure_begin(b, c, STRIP_WIDTH, bottom + (c->x.label ? 38 : 20));
    span_axis(b, c, &x, bottom);
    for (size_t k = 0; k < n_lanes; k++) {
        if (line < 12 && k % 4) continue;
        strbuf_printf(b, "<text class=\"soft\" x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT - 6,
                      TOP + line * (int)k + line / 2 + 4);
        html_text(b, lanes[k]);
        strbuf_puts(b, "</text>\n");
    }
    for (size_t i = 0; i < n; i++) {
        const struct svg_span *s = &spans[i];
        char fill[64];
        if (!drawable(&x, s->from) || !drawable(&x, s->to) || !(s->to > s->from)) continue;
        strbuf_printf(b, "<rect x=\"%.2f\" y=\"%d\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>",
                      place(&x, s->from), TOP + line * (int)s->lane,
                      fmax(place(&x, s->to) - place(&x, s->from), 0.2), line - 1,
                      colour(s->kind, n_kinds, fill, sizeof fill));
        html_text(b, lanes[s->lane]);
        strbuf_puts(b, ", ");
        html_text(b, kinds[s->kind]);
        if (s->text) {
            strbuf_puts(b, ": ");
            html_text(b, s->text);
        }
        strbuf_puts(b, "</title></rect>\n");
    }
    strbuf_puts(b, "</svg>\n");
    struct svg_series names[COLOURS];
    size_t shown = n_kinds < COLOURS ? n_kinds : COLOURS;
    for (size_t i = 0; i < shown; i++) names[i] = (struct svg_series){.name = kinds[i]};
    legend(b, names, shown);
    strbuf_puts(b, "</figure>\n");
}
