/* What a plan says to people: a page of text, and one layer or tensor explained. */
#include "placement/plan_priv.h"

#include "base/err.h"
#include "base/size.h"
#include "base/strbuf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STRIP = 24 };

static const char *const bold[2] = {"", "\033[1m"}, *const plain[2] = {"", "\033[0m"};
static const char *const tints[2][PLAN_TIERS] = {{"", "", ""}, {"\033[32m", "\033[33m", "\033[34m"}};

static const char *duration(double s, char *buf, size_t n)
{
    if (isnan(s))
        snprintf(buf, n, "-");
    else if (s < 1e-3)
        snprintf(buf, n, "%.3g µs", s * 1e6);
    else if (s < 1)
        snprintf(buf, n, s < 0.1 ? "%.2f ms" : "%.1f ms", s * 1e3);
    else
        snprintf(buf, n, "%.2f s", s);
    return buf;
}

static const char *bytes(uint64_t n, char *buf, size_t size)
{
    return n ? size_format(n, buf, size) : "-";
}

/* ---- Parts of the page ---- */

static void times(const struct plan *p, struct strbuf *b)
{
    static const char *const names[COST_LIMITS] = {"the GPU", "the CPU and its memory", "the disk",
                                                   "crossings"};
    const struct plan_time *t = &p->time;
    char a[32], c[32], d[32];
    strbuf_printf(b, "  per token    %s  (%s to %s)   %.1f tokens/s with %u tokens in the context\n",
                  duration(t->token, a, sizeof a), duration(t->low, c, sizeof c),
                  duration(t->high, d, sizeof d), 1 / t->token, p->settings.position);
    strbuf_printf(b, "               %s with the context of %u full\n", duration(t->token_full, a, sizeof a),
                  p->settings.memory.context);
    if (isnan(t->first))
        strbuf_puts(b, "  first token  not known: the machine lacks the rates of products (`calor probe`)\n");
    else
        strbuf_printf(b, "  first token  %s for a prompt of %u\n", duration(t->first, a, sizeof a),
                      p->settings.prompt);
    strbuf_puts(b, "  waiting for ");
    for (int n = 0, i = 0; i < COST_LIMITS; i++)
        if (t->by[i] >= 0.005 * t->token)
            strbuf_printf(b, "%s%s %.0f %%", n++ ? ", " : " ", names[i], 100 * t->by[i] / t->token);
    strbuf_printf(b, "\n  optimal to   %.2f %% (no placement in steps of %u neurons takes less than %s)\n",
                  100 * (t->token / p->bound - 1), p->unit, duration(p->bound, a, sizeof a));
}

static void ledger_line(struct strbuf *b, const char *what, uint64_t vram, uint64_t ram, uint64_t disk)
{
    char v[32], r[32], d[32];
    if (vram || ram || disk)
        strbuf_printf(b, "  %-26s %12s %12s %12s\n", what, bytes(vram, v, sizeof v), bytes(ram, r, sizeof r),
                      bytes(disk, d, sizeof d));
}

static void memory(const struct plan *p, struct strbuf *b)
{
    const struct ledger *l = &p->ledger;
    struct plan_memory m;
    char kv[64], v[32], r[32];
    bool g = p->gpu, d = p->disk;
    plan_memory_of(p, &m);
    strbuf_puts(b, "\nmemory                              VRAM          RAM         disk\n");
    ledger_line(b, "weights", m.weights[PLAN_GPU], m.weights[PLAN_RAM], m.weights[PLAN_DISK]);
    snprintf(kv, sizeof kv, "KV cache, %u × %s", p->settings.memory.context,
             dtype_name((uint32_t)p->settings.memory.kv));
    /* × takes two bytes but one column. */
    ledger_line(b, kv, m.kv[PLAN_GPU], m.kv[PLAN_RAM], 0);
    ledger_line(b, "buffers of a pass", g ? l->gpu_compute : 0, l->compute, 0);
    ledger_line(b, "driver and display", g ? l->reserved : 0, 0, 0);
    ledger_line(b, "staging", g ? l->gpu_staging : 0, g ? l->staging : 0, 0);
    ledger_line(b, "reading from disk", 0, d ? l->reading : 0, 0);
    ledger_line(b, "program and tokenizer", 0, l->process, 0);
    ledger_line(b, "while loading", 0, l->loading, 0);
    ledger_line(b, "left free (margin)", g ? l->vram_margin : 0, l->ram_margin, 0);
    ledger_line(b, "all", m.total[PLAN_GPU], m.total[PLAN_RAM], m.total[PLAN_DISK]);
    strbuf_printf(b, "  %-26s %12s %12s\n", "of", l->vram ? size_format(l->vram, v, sizeof v) : "-",
                  size_format(l->ram, r, sizeof r));
}

/* Shares of tiers as blocks; where one has anything, at least one block. */
static void strip(const struct plan *p, uint32_t layer, enum plan_part part, bool colour, struct strbuf *b)
{
    static const char *const blocks[PLAN_TIERS] = {"█", "▒", "·"};
    uint32_t gpu, ram;
    plan_range(p, layer, part, &gpu, &ram);
    double n = p->neurons;
    int last = -1;
    for (int k = 0; k < STRIP; k++) {
        double at = (k + 0.5) / STRIP * n;
        enum plan_tier t = at < gpu ? PLAN_GPU : at < ram ? PLAN_RAM : PLAN_DISK;
        if (k == 0 && gpu > 0) t = PLAN_GPU;
        if (k == STRIP - 1 && ram < p->neurons) t = PLAN_DISK;
        if ((int)t != last) strbuf_puts(b, tints[colour][t]);
        last = (int)t;
        strbuf_puts(b, blocks[t]);
    }
    strbuf_puts(b, plain[colour]);
}

static bool alike(const struct plan *p, uint32_t a, uint32_t b)
{
    return p->place[a].attention == p->place[b].attention && p->place[a].kv == p->place[b].kv &&
           memcmp(p->place[a].part, p->place[b].part, sizeof p->place[a].part) == 0;
}

static void percent(struct strbuf *b, double v)
{
    if (isnan(v))
        strbuf_puts(b, "    -");
    else
        strbuf_printf(b, " %3.0f%%", 100 * v);
}

static void layers(const struct plan *p, const struct plan_model *m, bool colour, struct strbuf *b)
{
    bool held = m->layer[0].held_out != NULL, screens = m->layer[0].row[PLAN_SCREEN] > 0;
    strbuf_puts(b, "\nneurons of each layer, hot to cold: █ GPU  ▒ RAM  · disk");
    strbuf_printf(b, "\n  layer      attn  KV    %s%-*s %-*s  active neurons on the GPU%s\n",
                  screens ? "coarse plane             " : "", STRIP, screens ? "fine plane" : "gate", STRIP,
                  "up and down", held ? ", held out" : "");
    for (uint32_t i = 0, end; i < p->layers; i = end) {
        char name[24];
        for (end = i + 1; end < p->layers && alike(p, i, end); end++) {
        }
        snprintf(name, sizeof name, end - i > 1 ? "%u–%u" : "%u", i, end - 1);
        strbuf_printf(b, "  %-*s %-5s %-5s ", end - i > 1 ? 12 : 10, name,
                      plan_tier_names[p->place[i].attention], plan_tier_names[p->place[i].kv]);
        for (int part = screens ? PLAN_SCREEN : PLAN_GATE; part < PLAN_PARTS; part++) {
            strip(p, i, (enum plan_part)part, colour, b);
            strbuf_puts(b, " ");
        }
        percent(b, plan_coverage(p, m, i, PLAN_GPU, false));
        if (held) percent(b, plan_coverage(p, m, i, PLAN_GPU, true));
        strbuf_puts(b, "\n");
    }
    strbuf_printf(b, "  output on %s, embedding in %s;", plan_tier_names[p->place[p->layers].attention],
                  plan_tier_names[p->place[p->layers + 1].attention]);
    for (int t = 0; t < PLAN_TIERS; t++) {
        double c = plan_coverage(p, m, -1, (enum plan_tier)t, false);
        double h = plan_coverage(p, m, -1, (enum plan_tier)t, true);
        if (!(c > 0)) continue;
        strbuf_printf(b, " %s computes %.1f %% of the active neurons",
                      t == PLAN_GPU   ? "the GPU"
                      : t == PLAN_RAM ? "RAM"
                                      : "disk",
                      100 * c);
        if (!isnan(h)) strbuf_printf(b, " (held out %.1f %%)", 100 * h);
        strbuf_puts(b, ";");
    }
    b->s[b->len - 1] = '\n';
}

static void others(const struct plan *p, struct strbuf *b)
{
    static const char *const names[PLAN_RULES] = {"this plan", "whole layers, dense (llama.cpp)",
                                                  "by frequency (PowerInfer)", "all on the CPU"};
    char a[32], v[32], r[32];
    strbuf_puts(
        b,
        "\nthe same machine otherwise used     per token  tokens/s   this plan is        VRAM         RAM\n");
    for (int i = 0; i < PLAN_RULES; i++) {
        if (isnan(p->others[i])) {
            strbuf_printf(b, "  %-33s does not fit\n", names[i]);
            continue;
        }
        duration(p->others[i], a, sizeof a);
        strbuf_printf(b, "  %-32s %*s %9.1f", names[i], 10 + (strstr(a, "µ") != NULL), a, 1 / p->others[i]);
        if (i == PLAN_BEST)
            strbuf_puts(b, "              ");
        else
            strbuf_printf(b, "  %5.2f× faster", p->others[i] / p->time.token);
        strbuf_printf(b, "%12s%12s\n", bytes((uint64_t)p->other_bytes[i][PLAN_GPU], v, sizeof v),
                      bytes((uint64_t)p->other_bytes[i][PLAN_RAM], r, sizeof r));
    }
}

void plan_report_text(const struct plan *p, const struct plan_model *m, bool colour, struct strbuf *b)
{
    char size[32];
    strbuf_printf(b, "%s%s on %s: %s%s\n", bold[colour], m->name, p->machine_name,
                  p->degraded ? "fits, degraded" : "fits", plain[colour]);
    if (p->degraded) strbuf_printf(b, "  %s\n", p->degraded_why);
    strbuf_printf(b, "  %s of weights, mode %s; activations: %s\n",
                  size_format(plan_model_bytes(m), size, sizeof size), plan_mode_names[m->mode],
                  m->statistics_text);
    times(p, b);
    memory(p, b);
    layers(p, m, colour, b);
    others(p, b);
    for (const char *at = p->notes; *at;) {
        size_t n = strcspn(at, "\n");
        strbuf_printf(b, "%snote: %.*s\n", at == p->notes ? "\n" : "", (int)n, at);
        at += n + (at[n] == '\n');
    }
}

/* ---- One thing explained ---- */

static void phase(struct strbuf *b, const char *name, const struct cost_phase *f)
{
    char g[32], c[32], d[32], t[32];
    if (!(f->time > 0)) return;
    strbuf_printf(b, "  %-10s %9s   GPU %s, CPU %s, waiting for reads %s\n", name,
                  duration(f->time, t, sizeof t), f->gpu > 0 ? duration(f->gpu, g, sizeof g) : "-",
                  f->cpu > 0 ? duration(f->cpu, c, sizeof c) : "-",
                  f->disk > 0 ? duration(f->disk, d, sizeof d) : "-");
}

static void part_line(struct strbuf *b, const struct plan *p, const struct plan_model *m,
                      const struct cost_layer *l, uint32_t layer, int part)
{
    static const char *const names[PLAN_PARTS] = {"screen (gate's coarse plane)", "gate", "up and down"};
    uint32_t gpu, ram;
    char size[32];
    uint64_t row = m->layer[layer].row[part];
    if (!row) return;
    plan_range(p, layer, (enum plan_part)part, &gpu, &ram);
    const struct cost_part *t = &l->part[part];
    strbuf_printf(b, "  %s: %s a neuron, %.0f of %u are read for a token\n",
                  part == PLAN_GATE && m->layer[layer].row[PLAN_SCREEN] ? "gate's fine plane" : names[part],
                  size_format(row, size, sizeof size), t->load[l->units], p->neurons);
    const uint32_t ends[PLAN_TIERS + 1] = {0, gpu, ram, p->neurons};
    const struct cost_place *at = &p->place[layer];
    const double load[PLAN_TIERS + 1] = {0, t->load[at->part[part].gpu], t->load[at->part[part].ram],
                                         t->load[l->units]};
    for (int k = 0; k < PLAN_TIERS; k++)
        if (ends[k + 1] > ends[k])
            strbuf_printf(b, "    %-4s neurons %u to %u: %s, %.1f read a token\n", plan_tier_names[k],
                          ends[k], ends[k + 1] - 1,
                          size_format((ends[k + 1] - ends[k]) * row, size, sizeof size),
                          load[k + 1] - load[k]);
}

/* What one more unit of a part on the GPU would bring, by the byte: why it ends where it ends. */
static void worth(struct strbuf *b, const struct cost *c, const struct plan *p, uint32_t layer)
{
    const struct cost_layer *l = &c->layer[layer];
    double now = cost_total(c, l, &p->place[layer]);
    for (int part = 0; part < PLAN_PARTS && c->gpu; part++) {
        struct cost_place to = p->place[layer];
        if (!l->part[part].bytes || to.part[part].gpu == l->units) continue;
        to.part[part].gpu++;
        if (to.part[part].ram < to.part[part].gpu) to.part[part].ram = to.part[part].gpu;
        double gain = now - cost_total(c, l, &to);
        double taken = (double)(cost_bytes(l, &to, PLAN_GPU) - cost_bytes(l, &p->place[layer], PLAN_GPU));
        strbuf_printf(
            b, "  %u more neurons of %s on the GPU: %.3g µs a token less, %.3g ms for each GiB of VRAM\n",
            l->unit, part == PLAN_UPDOWN ? "up and down" : plan_part_names[part], 1e6 * gain,
            1e3 * gain / taken * 0x1p30);
    }
}

static void explain_layer(const struct plan *p, const struct plan_model *m, const struct cost *c, uint32_t i,
                          struct strbuf *b)
{
    static const char *const names[PLAN_PARTS] = {"screen", "gate", "up/down"};
    const struct cost_layer *l = &c->layer[i];
    struct cost_load load;
    struct cost_time t;
    char size[32], kv[32], d[32];
    cost_expect(l, &p->place[i], &load);
    cost_time(c, l, &p->place[i], &load, &t);
    strbuf_printf(b, "layer %u: %s a token\n", i, duration(t.total, size, sizeof size));
    strbuf_printf(b, "  attention on %s (%s), KV cache on %s (%s)\n", plan_tier_names[p->place[i].attention],
                  size_format(l->attention_bytes, size, sizeof size), plan_tier_names[p->place[i].kv],
                  size_format(l->kv_bytes, kv, sizeof kv));
    for (int part = 0; part < PLAN_PARTS; part++) part_line(b, p, m, l, i, part);
    strbuf_puts(b, "time of a token\n");
    phase(b, "attention", &t.attention);
    for (int part = 0; part < PLAN_PARTS; part++) phase(b, names[part], &t.part[part]);
    if (t.sync > 0)
        strbuf_printf(b, "  %-10s %9s   %d crossings between GPU and CPU\n", "sync",
                      duration(t.sync, d, sizeof d), cost_crossings(l, &p->place[i]));
    if (t.reads > 0)
        strbuf_printf(b, "  all reads  %9s%s\n", duration(t.reads, d, sizeof d),
                      t.reads > t.compute ? "   longer than all computing: the layer takes this" : "");
    worth(b, c, p, i);
}

static void explain_end(const struct plan *p, const struct cost *c, bool output, struct strbuf *b)
{
    uint32_t i = p->layers + !output;
    const struct cost_layer *l = &c->layer[i];
    char size[32], t[32];
    strbuf_printf(b, "%s on %s: %s, %s a token\n", output ? "output" : "embedding",
                  plan_tier_names[p->place[i].attention], size_format(l->attention_bytes, size, sizeof size),
                  duration(cost_total(c, l, &p->place[i]), t, sizeof t));
    for (int k = 0; k < PLAN_TIERS; k++) {
        struct cost_place to = {.attention = (uint8_t)k, .kv = k == PLAN_GPU ? PLAN_GPU : PLAN_RAM};
        if (k == p->place[i].attention || (k == PLAN_GPU && (!c->gpu || !output)) ||
            (k == PLAN_DISK && !c->disk))
            continue;
        strbuf_printf(b, "  on %s: %s a token\n", plan_tier_names[k],
                      duration(cost_total(c, l, &to), t, sizeof t));
    }
}

int plan_explain(const struct plan *p, const struct plan_model *m, const struct machine *machine,
                 const char *what, struct strbuf *b, struct err *e)
{
    struct cost_settings cs = plan_cost_settings(p);
    const char *number = strncmp(what, "blk.", 4) == 0 ? what + 4 : what;
    char *end = NULL;
    unsigned long i = *number >= '0' && *number <= '9' ? strtoul(number, &end, 10) : 0;
    bool layer = end && (*end == 0 || (*end == '.' && number != what));
    bool output = strncmp(what, "output", 6) == 0,
         embedding = strncmp(what, "token_embd", 10) == 0 || strcmp(what, "embedding") == 0;
    if (layer && i >= p->layers)
        return err_set(e, ERR_ARG, "'%.60s': the model has layers 0 to %u", what, p->layers - 1);
    if (!layer && !output && !embedding)
        return err_set(
            e, ERR_ARG,
            "'%.60s' is no layer and no tensor: expected a number, blk.N, a tensor's name, output or "
            "embedding",
            what);
    struct cost c;
    int r = cost_make(&c, m, machine, &cs, e);
    if (r) return r;
    if (layer)
        explain_layer(p, m, &c, (uint32_t)i, b);
    else
        explain_end(p, &c, output, b);
    cost_finish(&c);
    return 0;
}
