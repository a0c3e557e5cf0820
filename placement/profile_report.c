/* What a profile says, for people and for programs. */
#include "placement/profile_priv.h"

#include "base/err.h"
#include "base/html.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "base/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Shares of the hottest neurons that coverage is given for: PowerInfer's two (26 and 43 %) among them. */
static const double shares[] = {0.10, 0.20, 0.26, 0.43};
enum { SHARES = 4, STRIP = 128, CURVE = 100, CURVES_MOST = 6 };

static void hex(const uint8_t id[16], char out[33])
{
    for (int i = 0; i < 16; i++) snprintf(out + 2 * i, 3, "%02x", id[i]);
}

static const char *percent(double share, char *buf, size_t n)
{
    if (isnan(share))
        snprintf(buf, n, "–");
    else
        snprintf(buf, n, "%.1f %%", 100.0 * share);
    return buf;
}

static double mean_reuse(const struct profile *p, int k)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < p->subject.layers; i++) sum += profile_reuse(p, i, k);
    return sum / p->subject.layers;
}

static double mean_gap(const struct profile *p)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < p->subject.layers; i++) sum += profile_gap(p, i);
    return sum / p->subject.layers;
}

/* ---- Text ---- */

/* A share in six columns. */
static void cell(struct strbuf *b, double share)
{
    if (isnan(share))
        strbuf_printf(b, "%8s", "-");
    else
        strbuf_printf(b, "%8.1f", 100.0 * share);
}

void profile_report_text(const struct profile *p, struct strbuf *b)
{
    const struct profile_subject *s = &p->subject;
    bool held = p->tokens[PROFILE_HELD_OUT] > 0;
    strbuf_printf(b, "%s: %u layers of %u neurons, %s; %llu tokens, %llu held out\n",
                  s->model[0] ? s->model : "unnamed model", s->layers, s->neurons, s->activation,
                  (unsigned long long)p->tokens[0], (unsigned long long)p->tokens[1]);
    if (s->zeros)
        strbuf_puts(b, "A neuron is active when it is not zero.\n");
    else if (isnan(p->cett_target))
        strbuf_puts(b, "A neuron is active from its layer's epsilon on.\n");
    else
        strbuf_printf(b, "A neuron is active from its layer's epsilon on, chosen for a CETT of %g.\n",
                      (double)p->cett_target);
    if (p->n_ppl_steps) {
        const struct profile_ppl *q = &p->ppl;
        strbuf_printf(b,
                      "PPL-%g %% sparsity: %.1f %% of neurons can be left out (CETT %.3f): perplexity %.4f "
                      "instead of %.4f\non %llu held-out tokens.\n",
                      (double)q->target, 100.0 * (double)q->sparsity, (double)q->cett, (double)q->perplexity,
                      (double)q->dense, (unsigned long long)q->tokens);
    }
    strbuf_puts(b,
                "\nAll figures in %. Sparsity: neurons not active. Reuse k: active neurons that were so in "
                "one\nof the k tokens before. Gap: the ten best partners' joint activity above the mean.\n\n"
                "          sparsity            hottest 26 % take        reuse\n"
                "  layer      text held out      text held out       1       2       4       8     gap\n");
    for (uint32_t i = 0; i < s->layers; i++) {
        strbuf_printf(b, "  %5u  ", i);
        cell(b, profile_sparsity(p, i, PROFILE_CALIBRATION));
        cell(b, profile_sparsity(p, i, PROFILE_HELD_OUT));
        strbuf_puts(b, "  ");
        cell(b, profile_coverage(p, i, PROFILE_CALIBRATION, 0.26));
        cell(b, profile_coverage(p, i, PROFILE_HELD_OUT, 0.26));
        for (int k = 0; k < PROFILE_REUSES; k++) cell(b, profile_reuse(p, i, k));
        cell(b, profile_gap(p, i));
        strbuf_puts(b, "\n");
    }
    strbuf_puts(b, "    all  ");
    cell(b, profile_sparsity_all(p, PROFILE_CALIBRATION));
    cell(b, profile_sparsity_all(p, PROFILE_HELD_OUT));
    strbuf_puts(b, "  ");
    cell(b, profile_coverage_all(p, PROFILE_CALIBRATION, 0.26));
    cell(b, profile_coverage_all(p, PROFILE_HELD_OUT, 0.26));
    for (int k = 0; k < PROFILE_REUSES; k++) cell(b, mean_reuse(p, k));
    cell(b, mean_gap(p));
    strbuf_puts(b, "\n\nActivations that the hottest neurons of the model take:\n  hottest ");
    for (int k = 0; k < SHARES; k++) strbuf_printf(b, "%6.0f %%", 100.0 * shares[k]);
    for (int t = 0; t < (held ? 2 : 1); t++) {
        strbuf_puts(b, t ? "\n  held out" : "\n  text    ");
        for (int k = 0; k < SHARES; k++) cell(b, profile_coverage_all(p, (enum profile_text)t, shares[k]));
    }
    strbuf_puts(b, "\n");
    const struct profile_fatrelu_point *own, *best = profile_fatrelu_best(p, 1.0, &own);
    if (best) {
        strbuf_puts(b, "\nFATReLU thresholds, on the held-out text:\n  threshold  sparsity  perplexity\n");
        for (uint32_t i = 0; i < p->n_fatrelu; i++)
            strbuf_printf(b, "  %9.5g  %6.1f %%  %10.4f%s%s\n", (double)p->fatrelu[i].threshold,
                          100.0 * (double)p->fatrelu[i].sparsity, (double)p->fatrelu[i].perplexity,
                          &p->fatrelu[i] == own ? "  its own" : "",
                          &p->fatrelu[i] == best ? "  the largest within 1 %" : "");
    }
    if (!held)
        strbuf_puts(b, "No held-out text: figures of other texts are lower. Give one with --held-out.\n");
}

/* ---- JSON ---- */

static json_t *coverage_json(const struct profile *p, int layer)
{
    json_t *j = json_array();
    for (int k = 0; k < SHARES; k++) {
        double v[PROFILE_TEXTS];
        for (int t = 0; t < PROFILE_TEXTS; t++)
            v[t] = layer < 0 ? profile_coverage_all(p, (enum profile_text)t, shares[k])
                             : profile_coverage(p, (uint32_t)layer, (enum profile_text)t, shares[k]);
        json_array_append_new(j, json_pack("{s:o, s:o, s:o}", "hottest", json_number(shares[k]),
                                           "calibration", json_number(v[0]), "held_out", json_number(v[1])));
    }
    return j;
}

static json_t *layer_json(const struct profile *p, uint32_t i)
{
    const struct profile_layer *l = &p->layers[i];
    json_t *reuse = json_object(), *curve = json_array();
    for (int k = 0; k < PROFILE_REUSES; k++) {
        char name[8];
        snprintf(name, sizeof name, "%d", profile_reuse_k[k]);
        json_object_set_new(reuse, name, json_number(profile_reuse(p, i, k)));
    }
    for (uint32_t k = 0; k < l->n_curve; k++)
        json_array_append_new(curve, json_pack("{s:o, s:o, s:o}", "epsilon",
                                               json_number((double)l->curve[k].epsilon), "cett",
                                               json_number((double)l->curve[k].cett), "sparsity",
                                               json_number((double)l->curve[k].sparsity)));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:o}", "sparsity",
                     json_number(profile_sparsity(p, i, PROFILE_CALIBRATION)), "sparsity_held_out",
                     json_number(profile_sparsity(p, i, PROFILE_HELD_OUT)), "epsilon",
                     json_number((double)l->epsilon), "reuse", reuse, "gap", json_number(profile_gap(p, i)),
                     "coverage", coverage_json(p, (int)i), "cett_samples", (int)l->samples, "cett", curve);
}

static json_t *ppl_json(const struct profile *p)
{
    const struct profile_ppl *q = &p->ppl;
    if (p->n_ppl_steps == 0) return json_null();
    json_t *steps = json_array();
    for (uint32_t i = 0; i < p->n_ppl_steps; i++)
        json_array_append_new(steps,
                              json_pack("{s:o, s:o, s:o}", "cett", json_number((double)p->ppl_steps[i].cett),
                                        "sparsity", json_number((double)p->ppl_steps[i].sparsity),
                                        "perplexity", json_number((double)p->ppl_steps[i].perplexity)));
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:o}", "target_percent", json_number((double)q->target),
                     "cett", json_number((double)q->cett), "sparsity", json_number((double)q->sparsity),
                     "perplexity", json_number((double)q->perplexity), "perplexity_dense",
                     json_number((double)q->dense), "tokens", (json_int_t)q->tokens, "steps", steps);
}

json_t *profile_report_json(const struct profile *p)
{
    const struct profile_subject *s = &p->subject;
    char id[33];
    hex(s->identity, id);
    json_t *layers = json_array(), *fat = json_array();
    for (uint32_t i = 0; i < s->layers; i++) json_array_append_new(layers, layer_json(p, i));
    for (uint32_t i = 0; i < p->n_fatrelu; i++)
        json_array_append_new(fat, json_pack("{s:o, s:o, s:o}", "threshold",
                                             json_number((double)p->fatrelu[i].threshold), "sparsity",
                                             json_number((double)p->fatrelu[i].sparsity), "perplexity",
                                             json_number((double)p->fatrelu[i].perplexity)));
    return json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:i, s:i, s:i, s:I, s:I, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o}",
        "format", "calor.profile", "identity", id, "model", s->model, "activation", s->activation, "zeros",
        s->zeros, "layers", (int)s->layers, "neurons", (int)s->neurons, "width", (int)s->width, "tokens",
        (json_int_t)p->tokens[0], "tokens_held_out", (json_int_t)p->tokens[1], "cett_target",
        json_number((double)p->cett_target), "runs", (int)p->n_runs, "sparsity",
        json_number(profile_sparsity_all(p, PROFILE_CALIBRATION)), "sparsity_held_out",
        json_number(profile_sparsity_all(p, PROFILE_HELD_OUT)), "coverage", coverage_json(p, -1), "per_layer",
        layers, "fatrelu", fat, "ppl", ppl_json(p));
}

/* ---- HTML ---- */

static void cards(const struct profile *p, struct strbuf *b)
{
    char v[32], note[96], w[32];
    bool held = p->tokens[PROFILE_HELD_OUT] > 0;
    enum profile_text text = held ? PROFILE_HELD_OUT : PROFILE_CALIBRATION;
    const char *which = held ? "held out" : "calibration text";
    html_cards_begin(b);
    snprintf(note, sizeof note, "of neurons not active, %s", which);
    html_card(b, "Sparsity", percent(profile_sparsity_all(p, text), v, sizeof v), note);
    for (int k = 2; k < SHARES; k++) {
        snprintf(note, sizeof note, "of activations %s (%s calibrated)", which,
                 percent(profile_coverage_all(p, PROFILE_CALIBRATION, shares[k]), w, sizeof w));
        char label[48];
        snprintf(label, sizeof label, "Hottest %.0f %% of neurons take", 100.0 * shares[k]);
        html_card(b, label, percent(profile_coverage_all(p, text, shares[k]), v, sizeof v), note);
    }
    if (p->n_ppl_steps) {
        snprintf(w, sizeof w, "PPL-%g %% sparsity", (double)p->ppl.target);
        snprintf(note, sizeof note, "CETT %.3f: perplexity %.3f, %.3f dense", (double)p->ppl.cett,
                 (double)p->ppl.perplexity, (double)p->ppl.dense);
        html_card(b, w, percent((double)p->ppl.sparsity, v, sizeof v), note);
    }
    html_card(b, "Reuse", percent(mean_reuse(p, 0), v, sizeof v),
              "of active neurons were active one token before");
    snprintf(v, sizeof v, "%llu", (unsigned long long)p->tokens[0]);
    snprintf(note, sizeof note, "and %llu held out", (unsigned long long)p->tokens[1]);
    html_card(b, "Tokens", v, note);
    html_cards_end(b);
}

/* Mean frequency of each layer's neurons, hot to cold, in STRIP steps. */
static int strip(const struct profile *p, struct strbuf *b, struct err *e)
{
    uint32_t L = p->subject.layers, f = p->subject.neurons, n = f < STRIP ? f : STRIP;
    double *v = calloc((size_t)L * n, sizeof *v);
    if (!v) return err_set(e, ERR_NOMEM, "no memory for a report");
    for (uint32_t i = 0; i < L; i++)
        for (uint32_t k = 0; k < n; k++) {
            uint32_t a = (uint32_t)((uint64_t)f * k / n), z = (uint32_t)((uint64_t)f * (k + 1) / n);
            for (uint32_t j = a; j < z; j++)
                v[(size_t)i * n + k] += p->layers[i].counts[PROFILE_CALIBRATION][p->layers[i].order[j]];
            v[(size_t)i * n + k] /= (double)(z - a) * (double)p->tokens[PROFILE_CALIBRATION];
        }
    struct svg_chart c = {
        .title = "How often neurons are active, each layer's from hot to cold",
        .x = {.label = "hottest neurons left, one line a layer"},
        .y = {.scale = SVG_LOG, .unit = SVG_PERCENT, .fixed = true, .low = 1e-3, .high = 1.0}};
    svg_heat(b, &c, "layer", v, L, n);
    free(v);
    return 0;
}

static int coverage_chart(const struct profile *p, struct strbuf *b, struct err *e)
{
    double x[CURVE + 1], y[PROFILE_TEXTS][CURVE + 1];
    struct svg_series s[3];
    int n = 0, rc = 0;
    for (int i = 0; i <= CURVE; i++) x[i] = (double)i / CURVE;
    for (int t = 0; t < PROFILE_TEXTS && rc == 0; t++) {
        rc = profile_coverage_curve(p, (enum profile_text)t, CURVE, y[t], e);
        if (p->tokens[t])
            s[n++] = (struct svg_series){t ? "held out" : "calibration text", x, y[t], CURVE + 1};
    }
    if (rc) return rc;
    s[n++] = (struct svg_series){"all alike", x, x, CURVE + 1, .dashed = true};
    struct svg_chart c = {
        .title = "What the hottest neurons take",
        .x = {.label = "hottest neurons of the model",
              .unit = SVG_PERCENT,
              .fixed = true,
              .low = 0,
              .high = 1},
        .y = {.label = "activations", .unit = SVG_PERCENT, .fixed = true, .low = 0, .high = 1}};
    svg_lines(b, &c, s, (size_t)n);
    return 0;
}

/* Charts with a value a layer. */
static int layer_charts(const struct profile *p, struct strbuf *b, struct err *e)
{
    uint32_t L = p->subject.layers;
    double *x = malloc(L * sizeof *x), *y = malloc(L * (2 + PROFILE_REUSES) * sizeof *y);
    struct svg_series s[PROFILE_REUSES];
    char names[PROFILE_REUSES][32];
    if (!x || !y) {
        free(x);
        free(y);
        return err_set(e, ERR_NOMEM, "no memory for a report");
    }
    for (uint32_t i = 0; i < L; i++) {
        x[i] = i;
        for (int t = 0; t < PROFILE_TEXTS; t++)
            y[(size_t)t * L + i] = profile_sparsity(p, i, (enum profile_text)t);
        for (int k = 0; k < PROFILE_REUSES; k++) y[(size_t)(2 + k) * L + i] = profile_reuse(p, i, k);
    }
    s[0] = (struct svg_series){"calibration text", x, y, L, .points = true};
    s[1] = (struct svg_series){"held out", x, y + L, L, .points = true};
    struct svg_chart c = {
        .title = "Sparsity by layer",
        .x = {.label = "layer", .unit = SVG_WHOLE},
        .y = {.label = "neurons not active", .unit = SVG_PERCENT, .fixed = true, .low = 0, .high = 1}};
    int texts = p->tokens[PROFILE_HELD_OUT] ? 2 : 1;
    double least = 1.0;
    for (uint32_t i = 0; i < (uint32_t)texts * L; i++)
        if (y[i] < least) least = y[i];
    c.y.low = least < 1.0 ? floor(10.0 * least) / 10.0 : 0.0;
    svg_lines(b, &c, s, (size_t)texts);
    c.y.low = 0.0;
    for (int k = 0; k < PROFILE_REUSES; k++) {
        snprintf(names[k], sizeof names[k], "%d token%s before", profile_reuse_k[k], k ? "s" : "");
        s[k] = (struct svg_series){names[k], x, y + (size_t)(2 + k) * L, L, .points = true};
    }
    c.title = "Reuse: active neurons that were active up to …";
    c.y.label = "active neurons";
    svg_lines(b, &c, s, PROFILE_REUSES);
    free(x);
    free(y);
    return 0;
}

/* Sparsity over CETT of at most six layers, evenly chosen. */
static void cett_chart(const struct profile *p, struct strbuf *b)
{
    double x[CURVES_MOST][PROFILE_CURVE_MOST], y[CURVES_MOST][PROFILE_CURVE_MOST];
    struct svg_series s[CURVES_MOST];
    char names[CURVES_MOST][24];
    uint32_t L = p->subject.layers, shown = L < CURVES_MOST ? L : CURVES_MOST, n = 0;
    for (uint32_t k = 0; k < shown; k++) {
        uint32_t i = shown > 1 ? (uint32_t)((uint64_t)k * (L - 1) / (shown - 1)) : 0;
        const struct profile_layer *l = &p->layers[i];
        if (l->n_curve == 0) continue;
        for (uint32_t j = 0; j < l->n_curve; j++) {
            x[n][j] = (double)l->curve[j].sparsity;
            y[n][j] = (double)l->curve[j].cett;
        }
        snprintf(names[n], sizeof names[n], "layer %u", i);
        s[n] = (struct svg_series){names[n], x[n], y[n], l->n_curve};
        n++;
    }
    if (n == 0) return;
    struct svg_chart c = {
        .title = "What leaving out the weakest neurons costs (CETT)",
        .x = {.label = "neurons left out", .unit = SVG_PERCENT, .fixed = true, .low = 0, .high = 1},
        .y = {.label = "CETT", .fixed = true, .low = 0, .high = 1}};
    double least = 1.0; /* what is zero anyway costs nothing */
    for (uint32_t k = 0; k < n; k++)
        if (s[k].n > 1 && x[k][1] < least) least = x[k][1];
    c.x.low = least < 1.0 ? floor(10.0 * least) / 10.0 : 0.0;
    svg_lines(b, &c, s, n);
}

/* Perplexity over sparsity: n points, x then y. */
static void quality_chart(struct strbuf *b, const char *title, const char *name, const double *x, uint32_t n)
{
    struct svg_series s = {name, x, x + n, n, .points = true};
    struct svg_chart c = {.title = title,
                          .x = {.label = "neurons left out", .unit = SVG_PERCENT},
                          .y = {.label = "perplexity", .fixed = true, .low = x[n], .high = x[n]}};
    for (uint32_t i = 0; i < n; i++) {
        if (x[n + i] < c.y.low) c.y.low = x[n + i];
        if (x[n + i] > c.y.high) c.y.high = x[n + i];
    }
    svg_lines(b, &c, &s, 1);
}

static void fatrelu_chart(const struct profile *p, struct strbuf *b)
{
    double x[2 * PROFILE_CURVE_MOST];
    uint32_t n = p->n_fatrelu;
    for (uint32_t i = 0; i < n; i++) {
        x[i] = (double)p->fatrelu[i].sparsity;
        x[n + i] = (double)p->fatrelu[i].perplexity;
    }
    if (n < 2) return;
    quality_chart(b, "Quality with a FATReLU threshold", "FATReLU", x, n);
}

/* Steps far beyond what was searched for are left out: they would flatten the rest. */
static void ppl_chart(const struct profile *p, struct strbuf *b)
{
    double x[PROFILE_CURVE_MOST], y[PROFILE_CURVE_MOST], v[2 * PROFILE_CURVE_MOST],
        most = (double)p->ppl.dense * (1.0 + 3.0 * (double)p->ppl.target / 100.0);
    uint32_t n = 0;
    for (uint32_t i = 0; i < p->n_ppl_steps; i++) {
        if ((double)p->ppl_steps[i].perplexity > most) continue;
        x[n] = (double)p->ppl_steps[i].sparsity;
        y[n++] = (double)p->ppl_steps[i].perplexity;
    }
    if (n < 2) return;
    memcpy(v, x, n * sizeof *x);
    memcpy(v + n, y, n * sizeof *y);
    quality_chart(b, "Perplexity on held-out text, the weakest neurons left out", "one CETT for all layers",
                  v, n);
}

static void table(const struct profile *p, struct strbuf *b)
{
    static const char *const heads[] = {">Layer",   ">Sparsity", ">held out", ">Hottest 26 %", ">held out",
                                        ">Reuse 1", ">Reuse 8",  ">Gap",      ">Epsilon"};
    struct html_table t;
    char v[32];
    html_table_begin(&t, b, heads, 9);
    for (uint32_t i = 0; i < p->subject.layers; i++) {
        html_cell_number(&t, "%u", i);
        for (int k = 0; k < PROFILE_TEXTS; k++)
            html_cell_number(&t, "%s", percent(profile_sparsity(p, i, (enum profile_text)k), v, sizeof v));
        for (int k = 0; k < PROFILE_TEXTS; k++)
            html_cell_number(&t, "%s",
                             percent(profile_coverage(p, i, (enum profile_text)k, 0.26), v, sizeof v));
        html_cell_number(&t, "%s", percent(profile_reuse(p, i, 0), v, sizeof v));
        html_cell_number(&t, "%s", percent(profile_reuse(p, i, PROFILE_REUSES - 1), v, sizeof v));
        html_cell_number(&t, "%s", percent(profile_gap(p, i), v, sizeof v));
        html_cell_number(&t, "%.3g", (double)p->layers[i].epsilon);
    }
    html_table_end(&t);
}

static void fatrelu_table(const struct profile *p, struct strbuf *b)
{
    static const char *const heads[] = {">Threshold", ">Sparsity", ">Perplexity", ">Against its own"};
    const struct profile_fatrelu_point *own, *best = profile_fatrelu_best(p, 1.0, &own);
    struct html_table t;
    if (!best) return;
    html_heading(b, "FATReLU thresholds");
    html_paragraph(b,
                   "Perplexity on the held-out text. The model's own threshold is %g; the largest one within "
                   "1 %% of its perplexity is %.4g.",
                   (double)own->threshold, (double)best->threshold);
    html_table_begin(&t, b, heads, 4);
    for (uint32_t i = 0; i < p->n_fatrelu; i++) {
        const struct profile_fatrelu_point *f = &p->fatrelu[i];
        html_cell_number(&t, "%.5g", (double)f->threshold);
        html_cell_number(&t, "%.1f %%", 100.0 * (double)f->sparsity);
        html_cell_number(&t, "%.4f", (double)f->perplexity);
        html_cell_number(&t, "%+.2f %%", 100.0 * ((double)f->perplexity / (double)own->perplexity - 1.0));
    }
    html_table_end(&t);
}

int profile_report_html(const struct profile *p, struct strbuf *b, struct err *e)
{
    const struct profile_subject *s = &p->subject;
    char title[1100], subtitle[256], id[33];
    hex(s->identity, id);
    snprintf(title, sizeof title, "Profile of %s", s->model[0] ? s->model : "a model");
    snprintf(subtitle, sizeof subtitle, "%u layers of %u neurons, %s, identity %s", s->layers, s->neurons,
             s->activation, id);
    html_begin(b, title, subtitle);
    cards(p, b);
    if (s->zeros)
        html_paragraph(b, "A neuron is active when its activation is not zero.");
    else
        html_paragraph(b,
                       "This activation has no exact zeros: a neuron is active when its output's magnitude "
                       "reaches its layer's epsilon, which was chosen for a CETT of %g.",
                       (double)p->cett_target);
    int rc = strip(p, b, e);
    html_columns_begin(b);
    if (rc == 0) rc = coverage_chart(p, b, e);
    if (rc == 0) rc = layer_charts(p, b, e);
    if (rc == 0) cett_chart(p, b);
    if (rc == 0) ppl_chart(p, b);
    if (rc == 0) fatrelu_chart(p, b);
    html_columns_end(b);
    if (rc) return rc;
    html_heading(b, "Layer by layer");
    html_paragraph(b,
                   "Hottest 26 %%: their share of the layer's activations, ranked by the calibration text. "
                   "Gap: how much more often the ten best partners of a neuron are active with it than "
                   "neurons are on average.");
    table(p, b);
    fatrelu_table(p, b);
    html_end(b);
    return b->failed ? err_set(e, ERR_NOMEM, "no memory for a report") : 0;
}
