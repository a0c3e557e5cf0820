/* calor convert: a Hugging Face folder or a GGUF file to GGUF. */
#include "base/dtype.h"
#include "base/err.h"
#include "base/progress.h"
#include "base/size.h"
#include "engine/cli/cli.h"
#include "engine/tools.h"

#include <stdio.h>
#include <sys/stat.h>

static int show(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted();
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    const char *src = NULL, *out = NULL, *type = NULL, *activation = NULL;
    int64_t threads = 0;
    const struct cli_opt opts[] = {
        {'o', "output", CLI_STR, &out, "FILE", "the GGUF file to write (required)"},
        {0, "type", CLI_STR, &type, "T",
         "f32, f16, bf16, q8_0, q4_0, q4_k, q5_k or q6_k (default: f16; bf16 for BF16 checkpoints)"},
        {0, "activation", CLI_STR, &activation, "NAME[:t]",
         "record this FFN activation instead of the checkpoint's (silu, gelu, relu, relu2, fatrelu:0.01, "
         "drelu)"},
        {'t', "threads", CLI_INT, &threads, "N", "threads (default: physical cores)", 0, 1024},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, &src, NULL, 1, 1, &status)) return status;
    if (!out) return cli_usage(self, "-o FILE is needed: where should the model go?");
    enum dtype t = DT_F16;
    if (type && !dtype_parse(type, &t)) return cli_usage(self, "unknown type '%.40s'", type);

    struct err e = {0};
    struct progress p;
    cli_catch_interrupts(NULL, NULL);
    progress_start(&p, cli_progress(), "convert", stderr);
    struct convert_settings s = {.src = src,
                                 .out = out,
                                 .type = type ? (int)t : -1,
                                 .activation = activation,
                                 .threads = (int)threads,
                                 .progress = show,
                                 .progress_arg = &p};
    int rc = convert_model(&s, &e);
    progress_end(&p, rc == 0);
    if (rc) {
        status = cli_fail(&e);
        return cli_interrupted() ? 128 + cli_interrupted() : status;
    }
    struct stat st;
    char size[32];
    if (stat(out, &st) == 0)
        fprintf(stderr, "%s: %s\n", out, size_format((uint64_t)st.st_size, size, sizeof size));
    return CLI_OK;
}

const struct cli_command cmd_convert = {
    "convert",
    "SRC -o OUT.gguf [--type T]",
    "Turn a Hugging Face folder or a GGUF file into GGUF of any type",
    "SRC is a folder with config.json, safetensors and a tokenizer (tokenizer.json or tokenizer.model), or a "
    "GGUF\n"
    "file to be stored in another type. Vectors stay F32; the output matrix of q4_0, q4_k and q5_k files is "
    "q6_k.\n"
    "The output appears only when it is complete.",
    "  calor convert ./Llama-2-7b-hf -o llama-2-7b-q8_0.gguf --type q8_0\n"
    "  calor convert model-f16.gguf -o model-q4_k.gguf --type q4_k\n"
    "  calor convert ./ReluLLaMA-7B -o relu.gguf --activation relu",
    run};
