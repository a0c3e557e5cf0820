/* calor synth: writes models of random weights. */
#include "engine/cli/cli.h"

#include "base/err.h"
#include "engine/tools.h"

#include <stdio.h>

static int on_progress(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted();
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    const char *shape = NULL, *type = "q4_0", *output_type = NULL;
    int64_t threads = 0;
    struct synth_settings s = {.seed = 1};
    const struct cli_opt opts[] = {
        {0, "shape", CLI_STR, &shape, "SHAPE",
         "tinyllama-1b, llama2-7b, llama2-13b, llama2-70b, falcon-40b, 1b, 7b, 13b,\n"
         "or d=..,f=..,layers=..,heads=..[,kv=..][,vocab=..][,ctx=..][,arch=falcon]"},
        {0, "type", CLI_STR, &type, "TYPE",
         "of the matrices: f32, f16, bf16, q8_0, q4_0, q4_k, q5_k, q6_k (default q4_0)"},
        {0, "output-type", CLI_STR, &output_type, "TYPE",
         "of output.weight (default: q6_k beside q4_0, q4_k, q5_k, else as --type)"},
        {0, "activation", CLI_STR, &s.activation, "NAME",
         "silu, gelu, relu, relu2, fatrelu:T, drelu (default: silu; gelu for falcon)"},
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

    struct progress p;
    progress_start(&p, cli_progress(), "synth", stderr);
    s.progress = on_progress;
    s.progress_arg = &p;
    cli_catch_interrupts(NULL, NULL);
    int rc = synth_write(&s, &e);
    progress_end(&p, rc == 0);
    if (rc) {
        status = cli_fail(&e);
        return cli_interrupted() ? 128 + cli_interrupted() : status;
    }
    return CLI_OK;
}

const struct cli_command cmd_synth = {
    "synth",
    "--shape SHAPE [--type TYPE] [--activation NAME] [--seed N] -o OUT.gguf",
    "Write a model of random weights in a real model's shape",
    "Weights are random at the scale of trained ones: the model computes finite, varied, meaningless\n"
    "output at the speed of a real one. It has a working vocabulary. For measuring and testing.",
    "  calor synth --shape 1b --type q4_0 -o 1b-q4_0.gguf\n"
    "  calor synth --shape d=256,f=1024,layers=2,heads=8,kv=2,vocab=512 --type f16 --activation relu -o "
    "tiny.gguf",
    run,
};
