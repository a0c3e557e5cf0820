#include "placement/plan_page.h"

#include "base/err.h"
#include "base/html.h"
#include "base/size.h"
#include "base/stats.h"
#include "base/strbuf.h"
#include "base/svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COVERAGE_POINTS = 100, QUANTILES = 100 };

static const char *const tier_names[PLAN_TIERS] = {"GPU", "RAM", "disk"};
static const char *const limit_names[COST_LIMITS] = {"the GPU", "the CPU", "the disk", "crossings"};

static const char *duration(double s, char *buf, size_t n)
{
    if (!isfinite(s))
        snprintf(buf, n, "–");
    else if (s < 1)
        snprintf(buf, n, "%.3g ms", 1e3 * s);
    else
        snprintf(buf, n, "%.3g s", s);
    return buf;
}

static int slowest(const double by[COST_LIMITS])
{
    int most = 0;
    for (int i = 1; i < COST_LIMITS; i++)
        if (by[i] > by[most]) most = i;
    return most;
}

/* ---- Figures that matter ---- */

static void cards(const struct plan_page *x, struct strbuf *b)
{
    const struct plan *p = x->plan;
    char value[96], note[160], t[32], u[32];
    int most = slowest(p->time.by);
    html_cards_begin(b);
    html_card(b, "Verdict", p->degraded ? "fits, slower than it could" : "fits",
              p->degraded ? p->degraded_why : NULL);
    double speed = 1 / p->time.token;
    snprintf(value, sizeof value, speed < 100 ? "%.3g tokens/s" : "%.0f tokens/s", speed);
    snprintf(note, sizeof note, "%s a token (%s", duration(p->time.token, t, sizeof t),
             duration(p->time.low, u, sizeof u));
    snprintf(note + strlen(note), sizeof note - strlen(note),
             " to %s by the spread of the machine's figures)", duration(p->time.high, t, sizeof t));
    html_card(b, "Decoding", value, note);
    snprintf(note, sizeof note, "after a prompt of %u tokens", p->settings.prompt);
    html_card(b, "Time to first token", duration(p->time.first, value, sizeof value), note);
    snprintf(note, sizeof note, "%.0f %% of a token's time", 100 * p->time.by[most] / p->time.token);
    html_card(b, "What limits it", limit_names[most], note);
    snprintf(value, sizeof value, "%.2f %%", 100 * (p->time.token / p->bound - 1));
    html_card(b, "From the optimum, at most", value, "a bound that no placement of these steps can beat");
    if (x->simulation) {
        snprintf(value, sizeof value, "%s", duration(x->simulation->p99, t, sizeof t));
        snprintf(note, sizeof note, "half within %s; %u %s tokens replayed",
                 duration(x->simulation->p50, u, sizeof u), x->simulation->tokens,
                 x->simulation->drawn ? "drawn" : "recorded");
        html_card(b, "99 of 100 tokens within", value, note);
    }
    html_cards_end(b);
}

/* ---- The machine, with what lies where ---- */

struct box {
    const char *kind;
    const char *name;
    double rate; /* bytes/s */
    uint64_t used, room;
};

static void box(struct strbuf *b, const struct box *x, double left, int tier)
{
    char used[32], room[32];
    double share = x->room ? fmin(1.0, (double)x->used / (double)x->room) : 0;
    strbuf_printf(b,
                  "<rect x=\"%.1f\" y=\"20\" width=\"300\" height=\"110\" rx=\"8\" fill=\"var(--paper)\" "
                  "stroke=\"var(--line)\"/><text x=\"%.1f\" y=\"42\" font-weight=\"600\">%s</text><text "
                  "class=\"soft\" x=\"%.1f\" y=\"60\">",
                  left, left + 14, x->kind, left + 14);
    char name[44];
    snprintf(name, sizeof name, "%s", x->name);
    html_text(b, name);
    strbuf_puts(b, "</text>\n");
    strbuf_printf(
        b,
        "<rect x=\"%.1f\" y=\"74\" width=\"272\" height=\"14\" fill=\"var(--line)\"/><rect x=\"%.1f\" "
        "y=\"74\" width=\"%.1f\" height=\"14\" fill=\"var(--c%d)\"/>",
        left + 14, left + 14, 272 * share, tier + 1);
    if (x->room && x->room < UINT64_C(1) << 60)
        strbuf_printf(b, "<text class=\"soft\" x=\"%.1f\" y=\"106\">%s of %s for weights and KV</text>",
                      left + 14, size_format(x->used, used, sizeof used),
                      size_format(x->room, room, sizeof room));
    else
        strbuf_printf(b, "<text class=\"soft\" x=\"%.1f\" y=\"106\">%s</text>", left + 14,
                      size_format(x->used, used, sizeof used));
    if (x->rate > 0)
        strbuf_printf(b, "<text class=\"soft\" x=\"%.1f\" y=\"122\">reads %.4g GB/s</text>", left + 14,
                      x->rate * 1e-9);
    strbuf_puts(b, "\n");
}

static void link_between(struct strbuf *b, double left, double rate)
{
    strbuf_printf(b, "<path d=\"M%.1f 75H%.1f\" stroke=\"var(--soft)\" stroke-width=\"3\"/>", left,
                  left + 130);
    if (rate > 0)
        strbuf_printf(b, "<text class=\"soft\" x=\"%.1f\" y=\"66\" text-anchor=\"middle\">%.3g GB/s</text>\n",
                      left + 65, rate * 1e-9);
}

static void topology(const struct plan_page *x, struct strbuf *b)
{
    const struct plan *p = x->plan;
    const struct machine *m = x->machine;
    double left = 10;
    strbuf_puts(
        b,
        "<figure><figcaption>Where the model lies</figcaption>\n<svg viewBox=\"0 0 1180 150\" role=\"img\" "
        "aria-label=\"Where the model lies\">\n");
    if (m->n_gpus) {
        box(b,
            &(struct box){"GPU", m->gpu[0].name, m->gpu[0].read.value, p->used[PLAN_GPU],
                          p->gpu ? ledger_vram_left(&p->ledger) : 0},
            left, PLAN_GPU);
        link_between(b, left + 300, m->gpu[0].pinned.value);
        left += 430;
    }
    box(b,
        &(struct box){"RAM", m->cpu[0] ? m->cpu : m->name,
                      machine_rate(&m->stream, p->settings.memory.threads, 0), p->used[PLAN_RAM],
                      ledger_ram_left(&p->ledger, p->gpu, p->disk)},
        left, PLAN_RAM);
    if (m->n_disks) {
        link_between(b, left + 300, 0);
        left += 430;
        box(b,
            &(struct box){"Disk", m->disk[0].name, machine_rate(&m->disk[0].read, 1 << 20, 0),
                          p->used[PLAN_DISK], 0},
            left, PLAN_DISK);
    }
    strbuf_puts(b, "</svg></figure>\n");
}

/* ---- Layers ---- */

static size_t ranges(const struct plan_page *x, enum plan_part part, struct svg_span *s)
{
    static const char *const notes[PLAN_TIERS] = {"hottest", NULL, "coldest"};
    size_t n = 0;
    for (uint32_t i = 0; i < x->plan->layers; i++) {
        uint32_t gpu, ram;
        plan_range(x->plan, i, part, &gpu, &ram);
        double f = x->plan->neurons, at[] = {0, gpu / f, ram / f, 1};
        for (size_t t = 0; t < PLAN_TIERS; t++) s[n++] = (struct svg_span){i, t, at[t], at[t + 1], notes[t]};
    }
    return n;
}

static int layers(const struct plan_page *x, struct strbuf *b, struct err *e)
{
    uint32_t L = x->plan->layers;
    struct svg_span *s = calloc((size_t)L * PLAN_TIERS + 1, sizeof *s);
    char(*text)[16] = calloc(L + 1, sizeof *text);
    const char **lanes = calloc(L + 1, sizeof *lanes);
    int rc = 0;
    if (!s || !text || !lanes) rc = err_set(e, ERR_NOMEM, "no memory for the page");
    for (uint32_t i = 0; rc == 0 && i < L; i++) {
        snprintf(text[i], sizeof text[i], "%u", i);
        lanes[i] = text[i];
    }
    static const char *const titles[PLAN_PARTS] = {"Screens, read whole: by layer, hot to cold",
                                                   "Gates: by layer, hot to cold",
                                                   "Up and down: by layer, hot to cold"};
    for (int part = 0; rc == 0 && part < PLAN_PARTS; part++) {
        if (L == 0 || x->model->layer[0].row[part] == 0) continue;
        struct svg_chart c = {
            .title = titles[part],
            .x = {.label = "neurons, from hot to cold", .unit = SVG_PERCENT, .fixed = true, .high = 1}};
        svg_spans(b, &c, lanes, L, s, ranges(x, (enum plan_part)part, s), tier_names, PLAN_TIERS);
    }
    free(s);
    free(text);
    free(lanes);
    return rc;
}

static int layer_bytes(const struct plan_page *x, const struct cost *c, struct strbuf *b, struct err *e)
{
    uint32_t L = x->plan->layers;
    double *y = calloc((size_t)L * PLAN_TIERS + 1, sizeof *y);
    char(*text)[16] = calloc(L + 1, sizeof *text);
    const char **labels = calloc(L + 1, sizeof *labels);
    struct svg_series s[PLAN_TIERS];
    int rc = 0;
    if (!y || !text || !labels)
        rc = err_set(e, ERR_NOMEM, "no memory for the page");
    else {
        for (uint32_t i = 0; i < L; i++) {
            snprintf(text[i], sizeof text[i], "%u", i);
            labels[i] = text[i];
            for (uint32_t t = 0; t < PLAN_TIERS; t++)
                y[(size_t)t * L + i] =
                    (double)cost_bytes(&c->layer[i], &x->plan->place[i], (enum plan_tier)t) / (1 << 20);
        }
        for (uint32_t t = 0; t < PLAN_TIERS; t++)
            s[t] = (struct svg_series){tier_names[t], NULL, y + (size_t)t * L, L};
        struct svg_chart chart = {.title = "Bytes of each layer by tier",
                                  .x = {.label = "layer"},
                                  .y = {.label = "MiB, KV cache included"}};
        svg_bars(b, &chart, labels, s, PLAN_TIERS);
    }
    free(y);
    free(text);
    free(labels);
    return rc;
}

/* ---- Coverage, and what a tier takes of it ---- */

static double covered(const struct plan_model *m, bool held_out, double share)
{
    double inside = 0, all = 0;
    uint32_t cut = (uint32_t)(share * m->neurons + 0.5);
    for (uint32_t i = 0; i < m->layers; i++) {
        const float *f = held_out ? m->layer[i].held_out : m->layer[i].frequency;
        if (!f) return NAN;
        for (uint32_t k = 0; k < m->neurons; k++) {
            all += (double)f[k];
            if (k < cut) inside += (double)f[k];
        }
    }
    return all > 0 ? inside / all : NAN;
}

static void coverage(const struct plan_page *x, struct strbuf *b)
{
    double share[COVERAGE_POINTS + 1], own[COVERAGE_POINTS + 1], held[COVERAGE_POINTS + 1];
    size_t n = 1;
    for (int i = 0; i <= COVERAGE_POINTS; i++) {
        share[i] = (double)i / COVERAGE_POINTS;
        own[i] = covered(x->model, false, share[i]);
        held[i] = covered(x->model, true, share[i]);
    }
    struct svg_series s[2] = {{"calibration text", share, own, COVERAGE_POINTS + 1},
                              {"held-out text", share, held, COVERAGE_POINTS + 1, .dashed = true}};
    if (isfinite(held[COVERAGE_POINTS])) n = 2;
    struct svg_chart c = {.title = n == 2 ? "How much the hottest neurons take"
                                   : x->model->statistics == PLAN_PROFILE
                                       ? "How much the hottest neurons take (calibration text)"
                                       : "How much the hottest neurons take (assumed)",
                          .x = {.label = "neurons of every layer, hottest first",
                                .unit = SVG_PERCENT,
                                .fixed = true,
                                .high = 1},
                          .y = {.label = "activations", .unit = SVG_PERCENT, .fixed = true, .high = 1}};
    svg_lines(b, &c, s, n);
}

static void coverage_table(const struct plan_page *x, struct strbuf *b)
{
    static const char *const heads[] = {"Tier", ">Weights and KV", ">Activations", ">held out",
                                        ">Read a token"};
    struct html_table t;
    char v[32];
    html_table_begin(&t, b, heads, 5);
    for (int i = 0; i < PLAN_TIERS; i++) {
        double own = plan_coverage(x->plan, x->model, -1, (enum plan_tier)i, false),
               held = plan_coverage(x->plan, x->model, -1, (enum plan_tier)i, true);
        html_cell(&t, tier_names[i]);
        html_cell_number(&t, "%s", size_format(x->plan->used[i], v, sizeof v));
        if (isfinite(own))
            html_cell_number(&t, "%.1f %%", 100 * own);
        else
            html_cell_number(&t, "–");
        if (isfinite(held))
            html_cell_number(&t, "%.1f %%", 100 * held);
        else
            html_cell_number(&t, "–");
        if (x->simulation)
            html_cell_number(&t, "%s", size_format((uint64_t)x->simulation->bytes[i], v, sizeof v));
        else
            html_cell_number(&t, "–");
    }
    html_table_end(&t);
}

/* ---- Time ---- */

struct clock {
    struct svg_span *s;
    size_t n;
    double now;
};

enum lane { LANE_GPU, LANE_CPU, LANE_DISK };
enum kind { KIND_ATTENTION, KIND_SCREEN, KIND_GATE, KIND_UPDOWN, KIND_SYNC, KIND_READ };
static const char *const kind_names[] = {"attention", "screen", "gate", "up and down", "crossing", "reads"};

static void mark(struct clock *c, enum lane lane, enum kind kind, double seconds, const char *text)
{
    if (seconds > 0)
        c->s[c->n++] = (struct svg_span){lane, kind, 1e3 * c->now, 1e3 * (c->now + seconds), text};
}

static void phase(struct clock *c, const struct cost_phase *f, enum kind kind, const char *text)
{
    mark(c, LANE_GPU, kind, f->gpu, text);
    mark(c, LANE_CPU, kind, f->cpu, text);
    mark(c, LANE_DISK, KIND_READ, f->disk, text);
    c->now += f->time;
}

/* One token: expected, or the mean of the simulated ones. */
static int timeline(const struct plan_page *x, const struct cost *c, struct strbuf *b, struct err *e)
{
    static const char *const lanes[] = {"GPU", "CPU", "disk"};
    struct clock k = {.s = calloc((size_t)c->entries * 16 + 1, sizeof(struct svg_span))};
    char(*text)[32] = calloc(c->entries + 1, sizeof *text);
    if (!k.s || !text) {
        free(k.s);
        free(text);
        return err_set(e, ERR_NOMEM, "no memory for the page");
    }
    for (uint32_t i = 0; i < c->entries; i++) {
        struct cost_time t;
        struct cost_load load;
        snprintf(text[i], sizeof text[i],
                 i < c->layers    ? "layer %u"
                 : i == c->layers ? "output"
                                  : "embedding",
                 i);
        cost_expect(&c->layer[i], &x->plan->place[i], &load);
        cost_time(c, &c->layer[i], &x->plan->place[i], &load, &t);
        if (x->simulation && x->simulation->layers == c->entries) t = x->simulation->layer[i].mean;
        double began = k.now;
        phase(&k, &t.attention, KIND_ATTENTION, text[i]);
        for (int p = 0; p < PLAN_PARTS; p++) phase(&k, &t.part[p], (enum kind)(KIND_SCREEN + p), text[i]);
        mark(&k, LANE_GPU, KIND_SYNC, c->gpu ? t.sync : 0, text[i]);
        k.now += t.sync;
        double early =
            t.reads - t.part[0].disk - t.part[1].disk - t.part[2].disk; /* read ahead, beside the rest */
        if (early > 0)
            k.s[k.n++] = (struct svg_span){LANE_DISK, KIND_READ, 1e3 * began, 1e3 * (began + early), text[i]};
        if (began + t.total > k.now) k.now = began + t.total;
    }
    struct svg_chart chart = {.title =
                                  x->simulation ? "The mean token, as predicted" : "One token, as predicted",
                              .x = {.label = "milliseconds"}};
    svg_spans(b, &chart, lanes, 3, k.s, k.n, kind_names, 6);
    free(k.s);
    free(text);
    return 0;
}

/* Seconds each memory would take for its bytes at its full rate, beside what is predicted: what keeps the two
 * apart is rows in pieces, kernels, and waiting for one another. */
static void roofline(const struct plan_page *x, struct strbuf *b)
{
    const struct machine *m = x->machine;
    const struct simulation *sim = x->simulation;
    const double *by = sim ? sim->by : x->plan->time.by;
    if (!sim) return;
    const char *labels[] = {"GPU memory", "RAM", "disk"};
    double rate[] = {m->n_gpus ? m->gpu[0].read.value : 0,
                     machine_rate(&m->stream, x->plan->settings.memory.threads, 0),
                     m->n_disks ? machine_rate(&m->disk[0].read, 1 << 20, 0) : 0};
    double least[PLAN_TIERS], spent[PLAN_TIERS];
    for (int i = 0; i < PLAN_TIERS; i++) {
        least[i] = rate[i] > 0 ? 1e3 * sim->bytes[i] / rate[i] : NAN;
        spent[i] = 1e3 * by[i];
    }
    struct svg_series s[] = {{"its bytes at its full rate", NULL, least, PLAN_TIERS},
                             {"of the token's time, waited for", NULL, spent, PLAN_TIERS}};
    struct svg_chart c = {.title = "Each memory against its limit", .y = {.label = "ms a token"}};
    svg_bars(b, &c, labels, s, 2);
}

static int distribution(const struct plan_page *x, struct strbuf *b, struct err *e)
{
    const struct simulation *sim = x->simulation;
    if (!sim || sim->tokens < 2) return 0;
    double *sorted = malloc(sim->tokens * sizeof *sorted), q[QUANTILES + 1], v[QUANTILES + 1];
    if (!sorted) return err_set(e, ERR_NOMEM, "no memory for the page");
    memcpy(sorted, sim->token, sim->tokens * sizeof *sorted);
    stats_sort(sorted, sim->tokens);
    for (int i = 0; i <= QUANTILES; i++) {
        q[i] = (double)i / QUANTILES;
        v[i] = 1e3 * stats_percentile(sorted, sim->tokens, 100.0 * i / QUANTILES);
    }
    struct svg_series s = {"tokens", v, q, QUANTILES + 1};
    struct svg_chart c = {.title =
                              sim->drawn ? "Token times (drawn tokens)" : "Token times (recorded tokens)",
                          .x = {.label = "milliseconds"},
                          .y = {.label = "tokens within", .unit = SVG_PERCENT, .fixed = true, .high = 1}};
    svg_lines(b, &c, &s, 1);
    free(sorted);
    return 0;
}

static int pareto(const struct plan_page *x, struct strbuf *b, struct err *e)
{
    if (x->n_points < 2) return 0;
    double *v = calloc(2 * x->n_points, sizeof *v);
    if (!v) return err_set(e, ERR_NOMEM, "no memory for the page");
    bool vram = x->points[0].vram != x->points[x->n_points - 1].vram,
         ram = x->points[0].ram != x->points[x->n_points - 1].ram;
    for (size_t i = 0; i < x->n_points; i++) {
        const struct plan_point *p = &x->points[i];
        v[i] = vram ? (double)p->vram / (1 << 30) : ram ? (double)p->ram / (1 << 30) : p->context;
        v[x->n_points + i] = 1 / p->token;
    }
    struct svg_series s = {"best plan", v, v + x->n_points, x->n_points, .points = true};
    struct svg_chart c = {.title = "What memory buys",
                          .x = {.label = vram  ? "GiB of VRAM"
                                         : ram ? "GiB of RAM"
                                               : "tokens of context"},
                          .y = {.label = "tokens/s"}};
    svg_lines(b, &c, &s, 1);
    free(v);
    return 0;
}

/* ---- Alternatives and the ledger ---- */

static void alternatives(const struct plan_page *x, struct strbuf *b)
{
    static const char *const heads[] = {"Placement", ">Tokens/s", ">Of this plan's speed"};
    struct html_table t;
    html_table_begin(&t, b, heads, 3);
    for (int i = 0; i < PLAN_RULES; i++) {
        html_cell(&t, plan_rule_names[i]);
        if (isfinite(x->plan->others[i])) {
            html_cell_number(&t, "%.3g", 1 / x->plan->others[i]);
            html_cell_number(&t, "%.2f", x->plan->time.token / x->plan->others[i]);
        } else {
            html_cell_number(&t, "does not fit");
            html_cell_number(&t, "–");
        }
    }
    html_table_end(&t);
}

static void entry(struct html_table *t, const char *where, const char *what, uint64_t bytes)
{
    char v[32];
    if (bytes == 0) return;
    html_cell(t, where);
    html_cell(t, what);
    html_cell_number(t, "%s", size_format(bytes, v, sizeof v));
}

static void ledger(const struct plan_page *x, struct strbuf *b)
{
    static const char *const heads[] = {"Memory", "What", ">Bytes"};
    const struct plan *p = x->plan;
    const struct ledger *l = &p->ledger;
    struct html_table t;
    html_table_begin(&t, b, heads, 3);
    if (p->gpu) {
        entry(&t, "VRAM", "driver, context, display", l->reserved);
        entry(&t, "VRAM", "buffers of a batch", l->gpu_compute);
        entry(&t, "VRAM", "staging", l->gpu_staging);
        entry(&t, "VRAM", "weights and KV cache", p->used[PLAN_GPU]);
        entry(&t, "VRAM", "margin", l->vram_margin);
    }
    entry(&t, "RAM", "program, tokenizer, stacks", l->process);
    entry(&t, "RAM", "buffers of a batch", l->compute);
    entry(&t, "RAM", "while loading", l->loading);
    if (p->gpu) entry(&t, "RAM", "pinned staging", l->staging);
    if (p->disk) entry(&t, "RAM", "reading buffers", l->reading);
    entry(&t, "RAM", "weights and KV cache", p->used[PLAN_RAM]);
    entry(&t, "RAM", "margin", l->ram_margin);
    entry(&t, "disk", "weights", p->used[PLAN_DISK]);
    html_table_end(&t);
}

/* ---- The page ---- */

int plan_page_html(const struct plan_page *x, struct strbuf *b, struct err *e)
{
    const struct plan *p = x->plan;
    struct cost c;
    struct cost_settings cs = plan_cost_settings(p);
    char title[320], subtitle[700];
    int rc = cost_make(&c, x->model, x->machine, &cs, e);
    if (rc) return rc;
    snprintf(title, sizeof title, "Plan: %s on %s", x->model->name, x->machine->name);
    snprintf(subtitle, sizeof subtitle, "%s, mode %s, context %u, %s", x->model->origin,
             plan_mode_names[x->model->mode], p->settings.memory.context, x->model->statistics_text);
    html_begin(b, title, subtitle);
    cards(x, b);
    topology(x, b);
    html_heading(b, "Hot and cold");
    if (p->notes[0]) html_paragraph(b, "%s", p->notes);
    rc = layers(x, b, e);
    html_columns_begin(b);
    coverage(x, b);
    if (rc == 0) rc = layer_bytes(x, &c, b, e);
    html_columns_end(b);
    coverage_table(x, b);
    html_heading(b, "Time");
    if (rc == 0) rc = timeline(x, &c, b, e);
    html_columns_begin(b);
    roofline(x, b);
    if (rc == 0) rc = distribution(x, b, e);
    if (rc == 0) rc = pareto(x, b, e);
    html_columns_end(b);
    html_heading(b, "Other ways to place it");
    alternatives(x, b);
    html_heading(b, "Memory");
    ledger(x, b);
    html_end(b);
    cost_finish(&c);
    if (rc == 0 && b->failed) rc = err_set(e, ERR_NOMEM, "no memory for the page");
    return rc;
}
