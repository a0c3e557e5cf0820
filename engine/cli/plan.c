/* calor plan: where a model's parts should lie, and how fast it will run. */
#include "engine/cli/plan.h"

#include "base/err.h"
#include "base/file.h"
#include "base/hoststate.h"
#include "base/json.h"
#include "base/membw.h"
#include "base/strbuf.h"
#include "base/threads.h"
#include "engine/tools.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const kv_names[] = {"f16", "q8_0", "f32", NULL};
static const enum dtype kv_types[] = {DT_F16, DT_Q8_0, DT_F32};

int plan_fail(const struct err *e)
{
    cli_fail(e);
    return e->code == ERR_FULL ? PLAN_IMPOSSIBLE : e->code == ERR_STALE ? PLAN_STALE : CLI_ERROR;
}

/* ---- The machine ---- */

/* A few figures of the machine we are on, for lack of a measured one. */
static int quick_look(struct machine *m, char *note, size_t size, struct err *e)
{
    struct hoststate h;
    struct team *team = NULL;
    struct team_settings ts = {.bind = 1};
    struct membw bw;
    hoststate_read(&h, NULL);
    int r = team_create(&team, &ts, e);
    if (r) return r;
    memset(m, 0, sizeof *m);
    snprintf(m->name, sizeof m->name, "this machine, unmeasured");
    snprintf(m->cpu, sizeof m->cpu, "%s", h.cpu);
    m->cores = m->performance_cores = (uint32_t)h.cores;
    m->threads = (uint32_t)team_size(team);
    m->memory = h.memory_limit && h.memory_limit < h.memory ? h.memory_limit : h.memory;
    m->memory_free = h.memory_free;
    m->nodes = 1;
    m->node[0] = (struct machine_node){m->memory, m->cores, {10}};
    r = membw_read(&bw, team, 256 << 20, 0.2, e);
    team_destroy(&team);
    if (r) return r;
    m->stream.n = 1;
    m->stream.at[0].x = m->threads;
    m->stream.at[0].rate = (struct machine_figure){bw.median, bw.median, bw.median, (uint32_t)bw.passes};
    snprintf(
        note, size,
        "the machine was looked at for a moment: RAM, %u cores, reads of %.1f GB/s. `calor probe` adds the "
        "kernels' rates, scattered rows, the disk and the GPU, and lets plans use them",
        m->threads, bw.median / 1e9);
    return 0;
}

static bool cached_machine(char *path, size_t size)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    snprintf(path, size, "machine.json");
    if (access(path, R_OK) == 0) return true;
    if (cache && *cache)
        snprintf(path, size, "%s/calor/machine.json", cache);
    else if (home && *home)
        snprintf(path, size, "%s/.cache/calor/machine.json", home);
    else
        return false;
    return access(path, R_OK) == 0;
}

static int get_machine(struct plan_job *j, struct err *e)
{
    char path[4096];
    const char *name = j->machine_name;
    if (name) {
        size_t n = strlen(name);
        bool file =
            strchr(name, '/') || (n > 5 && strcmp(name + n - 5, ".json") == 0) || access(name, F_OK) == 0;
        return file ? machine_read(&j->machine, name, e) : machine_shipped(&j->machine, name, e);
    }
    if (!cached_machine(path, sizeof path))
        return quick_look(&j->machine, j->machine_note, sizeof j->machine_note, e);
    snprintf(j->machine_note, sizeof j->machine_note, "the machine is that of %.300s", path);
    return machine_read(&j->machine, path, e);
}

/* ---- The model ---- */

static int hotness(struct plan_model_settings *s, const char *text, struct err *e)
{
    char *end;
    if (!text) return 0;
    s->hot = strtod(text, &end);
    if (end != text && *end == ':') {
        text = end + 1;
        s->hot_share = strtod(text, &end);
        if (end != text && !*end && s->hot > 0 && s->hot < 1 && s->hot_share > 0 && s->hot_share <= 1)
            return 0;
    }
    return err_set(e, ERR_ARG, "--hotness: expected N:A, two shares between 0 and 1, such as 0.26:0.8");
}

static int get_model(struct plan_job *j, struct err *e)
{
    struct plan_model_settings s = plan_model_default();
    s.mode = (enum plan_mode)j->mode;
    s.sparsity = j->sparsity;
    s.candidates = j->candidates;
    int r = hotness(&s, j->hotness, e);
    if (r == 0 && j->profile_path) r = profile_open(&j->profile, j->profile_path, e);
    if (r) return r;
    if (j->model_path) {
        struct gguf *f;
        if ((r = gguf_open(&f, j->model_path, GGUF_META, e))) return r;
        r = plan_model_from_gguf(&j->model, f, j->profile, &s, e);
        gguf_close(&f);
        return r;
    }
    struct synth_shape shape;
    enum dtype type;
    if ((r = synth_shape_parse(&shape, j->shape, e))) return r;
    if (!dtype_parse(j->type ? j->type : "q4_0", &type))
        return err_set(e, ERR_ARG, "--type: '%.60s' is no element type", j->type);
    const struct plan_shape ps = {.name = strcmp(shape.name, "custom") == 0 ? j->shape : shape.name,
                                  .width = shape.d,
                                  .neurons = shape.f,
                                  .layers = shape.layers,
                                  .heads = shape.heads,
                                  .kv_heads = shape.kv,
                                  .vocab = shape.vocab,
                                  .context = shape.ctx,
                                  .gated = strcmp(shape.arch, "falcon") != 0,
                                  .parallel = strcmp(shape.arch, "falcon") == 0,
                                  .type = type,
                                  .output_type = synth_output_type(type, shape.d)};
    return plan_model_from_shape(&j->model, &ps, j->profile, &s, e);
}

int plan_job_prepare(struct plan_job *j, struct err *e)
{
    j->profile = NULL;
    j->model = NULL;
    int r = get_machine(j, e);
    if (r == 0) r = get_model(j, e);
    if (r) return r;
    struct plan_settings *s = &j->settings;
    *s = plan_default(j->model, &j->machine);
    if (j->context) s->memory.context = (uint32_t)j->context;
    if (j->batch) s->memory.batch = (uint32_t)j->batch;
    if (j->threads) s->memory.threads = (uint32_t)j->threads;
    if (j->prompt) s->prompt = (uint32_t)j->prompt;
    s->position = (uint32_t)j->position;
    s->memory.kv = kv_types[j->kv];
    s->memory.vram = j->vram;
    s->memory.ram = j->ram;
    s->no_gpu = j->vram == 0;
    s->no_disk = j->no_disk;
    return 0;
}

void plan_job_finish(struct plan_job *j)
{
    plan_model_destroy(&j->model);
    profile_close(&j->profile);
}

/* ---- The command ---- */

static int write_html(const struct plan_job *j, const struct plan *p, const struct simulation *sim,
                      const struct plan_sweep *sweep, const char *path, struct err *e)
{
    struct strbuf b;
    struct file_out f = {0};
    strbuf_init(&b);
    const struct plan_page page = {.plan = p,
                                   .model = j->model,
                                   .machine = &j->machine,
                                   .simulation = sim,
                                   .points = sweep->point,
                                   .n_points = sweep->n};
    int r = plan_page_html(&page, &b, e);
    if (r == 0 && b.failed) r = err_set(e, ERR_NOMEM, "no memory for the page");
    if (r == 0) r = file_out_open(&f, path, e);
    if (r == 0) {
        r = file_out_write(&f, b.s, b.len, e);
        if (r == 0) r = file_out_commit(&f, e);
        file_out_discard(&f);
    }
    strbuf_finish(&b);
    return r;
}

static void show_simulation(const struct simulation *s)
{
    printf("\n%u tokens one by one (%s): p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, slowest %.2f ms\n", s->tokens,
           s->drawn      ? "drawn by frequency, each on its own"
           : s->held_out ? "recorded, held out"
                         : "recorded, of the calibration text",
           1e3 * s->p50, 1e3 * s->p90, 1e3 * s->p99, 1e3 * s->most);
}

struct outputs {
    const char *out, *html, *explain, *sweep;
    struct cli_strs what_if;
    bool json, simulate;
};

static int print(struct strbuf *b, struct err *e)
{
    char *text = strbuf_take(b);
    if (!text) return err_set(e, ERR_NOMEM, "no memory for the report");
    fputs(text, stdout);
    free(text);
    return 0;
}

static int report(const struct plan_job *j, const struct plan *p, const struct outputs *o, struct err *e)
{
    struct strbuf b;
    struct plan_sweep sweep = {0};
    struct simulation *sim = NULL;
    const struct simulate_settings ss = simulate_default();
    json_t *json = o->json ? plan_json(p, j->model) : NULL;
    int r = 0;
    if (o->json && !json) return err_set(e, ERR_NOMEM, "no memory for the report");
    strbuf_init(&b);
    if (o->explain) {
        r = plan_explain(p, j->model, &j->machine, o->explain, &b, e);
        if (r == 0 && json) json_object_set_new(json, "explanation", json_string(b.s ? b.s : ""));
    } else if (!json) {
        plan_report_text(p, j->model, cli_color(STDOUT_FILENO), &b);
        if (j->machine_note[0]) strbuf_printf(&b, "note: %s\n", j->machine_note);
    }
    if (r == 0 && !json) r = print(&b, e);
    if (r == 0 && o->what_if.n) r = plan_what_if(j, p, &o->what_if, json, e);
    if (r == 0 && o->sweep) r = plan_sweep_run(&sweep, j, o->sweep, e);
    if (r == 0 && o->sweep && json) json_object_set_new(json, "sweep", plan_sweep_json(&sweep));
    if (r == 0 && o->sweep && !json) plan_sweep_print(&sweep);
    if (r == 0 && (o->html || o->simulate)) r = simulate(&sim, p, j->model, &j->machine, j->profile, &ss, e);
    if (r == 0 && o->simulate && json) json_object_set_new(json, "simulation", simulation_json(sim));
    if (r == 0 && o->simulate && !json) show_simulation(sim);
    if (r == 0 && o->html) r = write_html(j, p, sim, &sweep, o->html, e);
    if (r == 0 && json) {
        r = json_print(json, stdout, e);
        json = NULL;
    }
    json_decref(json);
    simulation_free(&sim);
    plan_sweep_finish(&sweep);
    strbuf_finish(&b);
    return r;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    static struct plan_job j; /* a machine is large */
    j = (struct plan_job){
        .sparsity = NAN, .candidates = NAN, .vram = UINT64_MAX, .ram = UINT64_MAX, .mode = PLAN_EXACT};
    struct outputs o = {0};
    struct err e = {0};
    const struct cli_opt opts[] = {
        {0, "shape", CLI_STR, &j.shape, "SHAPE",
         "instead of a model: llama2-7b, llama2-13b, llama2-70b …, or\n"
         "d=..,f=..,layers=..,heads=..[,kv=..][,vocab=..][,arch=falcon] (see calor synth)"},
        {0, "type", CLI_STR, &j.type, "TYPE", "of the shape's matrices (default q4_0)"},
        {0, "sparsity", CLI_FLOAT, &j.sparsity, "S",
         "share of neurons that are silent, where no profile says", 0, 0.9999},
        {0, "hotness", CLI_STR, &j.hotness, "N:A",
         "with --sparsity: the hottest N of the neurons take A of the activations (default 0.26:0.8)"},
        {0, "candidates", CLI_FLOAT, &j.candidates, "X",
         "share of neurons that the screen lets through (mode sure; default: as measured for the type)",
         0.0001, 1},
        {0, "profile", CLI_STR, &j.profile_path, "FILE", "which neurons are hot (calor profile)"},
        {0, "machine", CLI_STR, &j.machine_name, "FILE|NAME",
         "machine.json, or shipped parts joined by +: rtx4090+ddr5-5600x2+gen4, also with other memory: "
         "ddr5-5600x2:96G (default: machine.json here or in the user's cache, else a quick look)"},
        {0, "vram", CLI_SIZE, &j.vram, "SIZE",
         "most VRAM to take (default: all but what the display takes); 0: none"},
        {0, "ram", CLI_SIZE, &j.ram, "SIZE", "most RAM to take (default: all)"},
        {0, "no-disk", CLI_FLAG, &j.no_disk, NULL, "leave no weights on disk"},
        {'c', "context", CLI_INT, &j.context, "N", "tokens of context (default: the model's, at most 4096)",
         1, INT32_MAX},
        {'b', "batch", CLI_INT, &j.batch, "N", "tokens of a prompt computed together (default 512)", 1, 8192},
        {'t', "threads", CLI_INT, &j.threads, "N", "threads (default: the machine's)", 1, 1024},
        {0, "kv", CLI_CHOICE, &j.kv, "TYPE", "KV cache: f16 (default), q8_0, f32", .choices = kv_names},
        {0, "mode", CLI_CHOICE, &j.mode, "MODE", "exact (default), sure, dense", .choices = plan_mode_names},
        {'p', "prompt", CLI_INT, &j.prompt, "N", "tokens of the prompt before the first token (default 512)",
         1, INT32_MAX},
        {0, "position", CLI_INT, &j.position, "N",
         "tokens in the context where decoding is judged (default: half the context)", 1, INT32_MAX},
        {'o', "output", CLI_STR, &o.out, "FILE", "write the plan (docs/plan-schema.md)"},
        {0, "html", CLI_STR, &o.html, "FILE", "write a page with pictures"},
        {0, "json", CLI_FLAG, &o.json, NULL, "one JSON object instead of text"},
        {0, "simulate", CLI_FLAG, &o.simulate, NULL,
         "also replay tokens one by one, recorded in the profile or drawn: percentiles"},
        {0, "explain", CLI_STR, &o.explain, "WHAT",
         "a layer (12) or tensor (blk.12.ffn_gate.weight, output): where, and why"},
        {0, "what-if", CLI_STRS, &o.what_if, "K=V",
         "the same with a change beside it: vram, ram, context, kv, batch, threads, mode, sparsity, type, "
         "machine; "
         "may be repeated"},
        {0, "sweep", CLI_STR, &o.sweep, "K=A:B:STEP", "speed over vram, ram or context: vram=4G:24G:2G"},
        {0},
    };
    int status, n;
    struct plan *p = NULL;
    if (!cli_parse(self, opts, argc, argv, &j.model_path, &n, 0, 1, &status))
        return status == CLI_OK ? CLI_OK : CLI_ERROR;
    if (!n) j.model_path = NULL;
    if ((n > 0) == (j.shape != NULL)) {
        cli_usage(self, n ? "a model and --shape: one of them is enough" : "a model is needed, or --shape");
        return CLI_ERROR;
    }
    if (j.model_path && j.type) {
        cli_usage(self, "--type goes with --shape: a model has its own");
        return CLI_ERROR;
    }
    int r = plan_job_prepare(&j, &e);
    if (r == 0) r = plan_solve(&p, j.model, &j.machine, &j.settings, &e);
    if (r == 0 && o.out) r = plan_write(p, j.model, o.out, &e);
    if (r == 0) r = report(&j, p, &o, &e);
    status = r ? plan_fail(&e) : p->degraded ? PLAN_DEGRADED : PLAN_FITS;
    plan_destroy(&p);
    plan_job_finish(&j);
    return status;
}

const struct cli_command cmd_plan = {
    "plan",
    "MODEL|--shape SHAPE [--profile F] [--machine FILE|NAME] [--vram SIZE] [--ram SIZE] [-c N] [-o "
    "plan.json]",
    "Place a model's parts on GPU, RAM and disk, and say how fast it will run",
    "Everything that takes memory is counted first; then attention, gates, up and down and the KV cache are\n"
    "placed, layer by layer, so that a token takes least time. Neither model nor machine need be here: a "
    "shape "
    "and\n"
    "a shipped machine do. Exit status: 0 fits, 2 fits but degraded (weights stay on disk, or the GPU is of "
    "no\n"
    "use), 3 cannot fit (the message says what would), 4 inputs that don't belong together, 1 other errors.",
    "  calor plan model.gguf --profile model.profile -o plan.json\n"
    "  calor plan --shape llama2-13b --type q4_0 --sparsity 0.888 --machine rtx4090+ddr5-5600x2+gen4\n"
    "  calor plan --shape llama2-13b --type f16 --sparsity 0.888 --machine rtx3080ti+ddr4-3200x2 --html "
    "plan.html\n"
    "  calor plan --shape llama2-70b --sparsity 0.9 --machine rtx4090+ddr5-5600x2 --explain "
    "blk.12.ffn_gate.weight\n"
    "  calor plan --shape llama2-13b --sparsity 0.888 --machine rtx3060+ddr4-3200x2 --what-if kv=q8_0 "
    "--what-if "
    "vram=8G\n"
    "  calor plan --shape llama2-13b --sparsity 0.888 --machine rtx4090+ddr5-5600x2 --sweep vram=2G:12G:2G",
    run,
};
