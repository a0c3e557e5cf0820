/* calor synth: writes models of random weights. */
#include "engine/cli/cli.h"

#include "base/err.h"
#include "base/strbuf.h"
#include "engine/tools.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int on_progress(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted();
}

/* "0.26:0.8" */
static bool parse_hotness(struct synth_stats *s, const char *text)
{
    char *end;
    s->hot = strtod(text, &end);
    if (end == text || *end++ != ':') return false;
    text = end;
    s->hot_share = strtod(text, &end);
    return end != text && !*end && s->hot > 0 && s->hot < 1 && s->hot_share > 0 && s->hot_share <= 1;
}

/* "x.gguf" → "x.profile"; NULL: no memory. */
static char *profile_path(const char *model)
{
    size_t n = strlen(model);
    if (n > 5 && strcmp(model + n - 5, ".gguf") == 0) n -= 5;
    struct strbuf b;
    strbuf_init(&b);
    strbuf_printf(&b, "%.*s.profile", (int)n, model);
    return strbuf_take(&b);
}

static int write_model(const struct synth_settings *s, bool profile_only, struct err *e)
{
    if (!profile_only) return synth_write(s, e);
    char *path = profile_path(s->path);
    int rc = path ? synth_write_profile(s, path, e) : err_set(e, ERR_NOMEM, "no memory for a name");
    free(path);
    return rc;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    const char *shape = NULL, *type = "q4_0", *output_type = NULL, *hotness = NULL;
    int64_t threads = 0;
    bool profile_only = false;
    struct synth_settings s = {.seed = 1};
    struct synth_stats stats = {.sparsity = NAN, .spread = NAN, .persistence = NAN};
    const struct cli_opt opts[] = {
        {0, "shape", CLI_STR, &shape, "SHAPE",
         "tinyllama-1b, llama2-7b, llama2-13b, llama2-70b, falcon-40b, 1b, 7b, 13b,\n"
         "or d=..,f=..,layers=..,heads=..[,kv=..][,vocab=..][,ctx=..][,arch=falcon]"},
        {0, "type", CLI_STR, &type, "TYPE",
         "of the matrices: f32, f16, bf16, q8_0, q4_0, q4_k, q5_k, q6_k (default q4_0)"},
        {0, "output-type", CLI_STR, &output_type, "TYPE",
         "of output.weight (default: q6_k beside q4_0, q4_k, q5_k, else as --type)"},
        {0, "activation", CLI_STR, &s.activation, "NAME",
         "silu, gelu, relu, relu2, fatrelu:T, drelu (default: silu; gelu for falcon;\n"
         "relu with --sparsity)"},
        {0, "sparsity", CLI_FLOAT, &stats.sparsity, "S",
         "plant activation statistics: S of the FFN's activations are zero (0 < S < 1),\n"
         "a few neurons take most of the others, and most stay active from token to token",
         -1e9, 1e9},
        {0, "spread", CLI_FLOAT, &stats.spread, "D",
         "the first layer's sparsity is S-D, the last's S+D (default 0)", -1, 1},
        {0, "hotness", CLI_STR, &hotness, "N:A",
         "the hottest N of the neurons take A of the activations (default 0.26:0.8)"},
        {0, "persistence", CLI_FLOAT, &stats.persistence, "P",
         "share of a token's active neurons that were active before (default 0.82)", 0, 1},
        {0, "profile-only", CLI_FLAG, &profile_only, NULL,
         "write only the model's header, without weights, and beside it OUT.profile with\n"
         "the planted statistics: for plans of models that are not here"},
        {0, "seed", CLI_U64, &s.seed, "N", "of the random weights (default 1): same seed, same file"},
        {'t', "threads", CLI_INT, &threads, "N", "default: one a physical core", 1, 1024},
        {'o', "output", CLI_STR, &s.path, "FILE", "the file to write"},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, NULL, NULL, 0, 0, &status)) return status;
    if (!shape) return cli_usage(self, "--shape is missing");
    if (!s.path) return cli_usage(self, "-o FILE is missing");
    if (!dtype_parse(type, &s.type)) return cli_usage(self, "--type: '%.60s' is no element type", type);
    struct err e = {0};
    if (synth_shape_parse(&s.shape, shape, &e)) return cli_usage(self, "--shape: %s", e.msg);
    s.output_type = synth_output_type(s.type, s.shape.d);
    if (output_type && !dtype_parse(output_type, &s.output_type))
        return cli_usage(self, "--output-type: '%.60s' is no element type", output_type);
    s.threads = (int)threads;
    if (isnan(stats.sparsity)) {
        if (!isnan(stats.spread) || hotness || !isnan(stats.persistence))
            return cli_usage(self, "--spread, --hotness and --persistence need --sparsity S");
        if (profile_only) return cli_usage(self, "--profile-only needs --sparsity S");
    } else {
        s.stats = stats;
        s.stats.spread = isnan(stats.spread) ? 0 : stats.spread;
        s.stats.persistence = isnan(stats.persistence) ? 0.82 : stats.persistence;
        if (!(stats.sparsity > 0 && stats.sparsity < 1))
            return cli_usage(self,
                             "--sparsity %.6g: expected a share of zeros between 0 and 1, both excluded",
                             stats.sparsity);
        if (!parse_hotness(&s.stats, hotness ? hotness : "0.26:0.8"))
            return cli_usage(
                self, "--hotness %.60s: expected N:A, two shares between 0 and 1, such as 0.26:0.8", hotness);
    }

    struct progress p;
    progress_start(&p, cli_progress(), "synth", stderr);
    s.progress = on_progress;
    s.progress_arg = &p;
    cli_catch_interrupts(NULL, NULL);
    int rc = write_model(&s, profile_only, &e);
    progress_end(&p, rc == 0);
    if (rc) {
        status = cli_fail(&e);
        return cli_interrupted() ? 128 + cli_interrupted() : status;
    }
    return CLI_OK;
}

const struct cli_command cmd_synth = {
    "synth",
    "--shape SHAPE [--type TYPE] [--activation NAME] [--sparsity S [--profile-only]] [--seed N] -o OUT.gguf",
    "Write a model of random weights in a real model's shape",
    "Weights are random at the scale of trained ones: the model computes finite, varied, meaningless\n"
    "output at the speed of a real one. It has a working vocabulary. For measuring and testing.\n"
    "With --sparsity its neurons are as often silent as those of a trained ReLU model. From d of 512 and "
    "some\n"
    "thousand tokens of vocabulary on, sparsity, hotness and persistence come out within two points of what "
    "is\n"
    "asked, for every type and activation, for text and for random tokens, from the first 50 tokens or so "
    "on. "
    "In\n"
    "falcon's shape the first layer sees no context: its persistence is lower.",
    "  calor synth --shape 1b --type q4_0 -o 1b-q4_0.gguf\n"
    "  calor synth --shape d=256,f=1024,layers=2,heads=8,kv=2,vocab=512 --type f16 --activation relu -o "
    "tiny.gguf\n"
    "  calor synth --shape llama2-7b --activation relu --sparsity 0.888 --spread 0.05 -o sparse-7b.gguf\n"
    "  calor synth --shape 13b --activation fatrelu:0.01 --sparsity 0.9 --hotness 0.2:0.7 -o 13b.gguf\n"
    "  calor synth --shape llama2-70b --sparsity 0.9 --profile-only -o 70b.gguf     (and 70b.profile)",
    run,
};
