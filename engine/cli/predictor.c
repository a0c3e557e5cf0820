/* calor predictor: trains the predictors that --mode predict uses. */
#include "engine/cli/open.h"

#include "base/clock.h"
#include "base/dtype.h"
#include "base/err.h"
#include "base/json.h"
#include "base/progress.h"
#include "engine/tools.h"
#include "placement/predictor.h"
#include "placement/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct job {
    struct open_options open;
    const char *model_path, *text, *held_out, *out, *profile_path;
    int64_t samples;
    double recall, bytes, epochs, seconds;
    uint64_t seed;
    bool json;

    calor_model *model;
    calor_model_info info;
    int32_t *ids, *held_out_ids;
    size_t n, n_held_out;
    struct profile *profile;
    struct predictor *predictor;
    struct predictor_report *layers;
    struct predictor_totals all;
};

static int read_text(const struct job *j, const char *path, int32_t **ids, size_t *n)
{
    char *s;
    size_t len;
    int status = open_text(path, &s, &len);
    if (status != CLI_OK) return status;
    status = open_tokenize(j->model, s, len, 0, ids, n);
    free(s);
    return status;
}

static int on_progress(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted();
}

static int train(struct job *j)
{
    struct err e = {0};
    struct progress bar;
    struct predictor_settings s = {.ids = j->ids,
                                   .n = j->n,
                                   .held_out = j->held_out_ids,
                                   .n_held_out = j->n_held_out,
                                   .window = (uint32_t)j->open.context,
                                   .samples = (uint32_t)j->samples,
                                   .recall = j->recall,
                                   .bytes = j->bytes,
                                   .epochs = j->epochs,
                                   .seed = j->seed,
                                   .profile = j->profile,
                                   .progress = on_progress,
                                   .progress_arg = &bar};
    j->layers = calloc(j->info.layers, sizeof *j->layers);
    if (!j->layers) return cli_fail_text(CALOR_ENOMEM, "no memory for the report");
    uint64_t t0 = clock_ns();
    progress_start(&bar, cli_progress(), "predictor", stderr);
    int rc = measure_predictor(&j->predictor, j->layers, &j->all, j->model, &s, &e);
    progress_end(&bar, rc == 0);
    j->seconds = clock_since(t0);
    if (cli_interrupted()) return 128 + cli_interrupted();
    return rc ? cli_fail(&e) : CLI_OK;
}

static void report_text(const struct job *j)
{
    printf("%s: trained on %u tokens in %.0f s; on %u others%s:\n\n", j->out, j->all.samples, j->seconds,
           j->all.tested, j->held_out ? " of the held-out text" : "");
    printf("  layer  rank  bytes %% of FFN  recall %%  of neurons %%  candidates %%  active %%  "
           "candidates/active\n");
    for (uint32_t i = 0; i < j->info.layers; i++) {
        const struct predictor_report *l = &j->layers[i];
        printf("  %5u %5u %15.1f %9.2f %13.2f %13.2f %9.2f %18.2f\n", i, l->rank, 100 * l->bytes_share,
               100 * l->recall, 100 * l->plain, 100 * l->candidates, 100 * l->active,
               l->active > 0 ? l->candidates / l->active : 0.0);
    }
    printf("    all       %15.1f %9.2f %13.2f %13.2f %9.2f %18.2f\n\n", 100 * j->all.bytes_share,
           100 * j->all.recall, 100 * j->all.plain, 100 * j->all.candidates, 100 * j->all.active,
           j->all.active > 0 ? j->all.candidates / j->all.active : 0.0);
    printf("Recall is by magnitude of what the neurons add; candidates get the exact gate.\n");
}

static json_t *report_json(const struct job *j)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < j->info.layers; i++) {
        const struct predictor_report *l = &j->layers[i];
        json_array_append_new(
            list, json_pack("{s:i, s:i, s:s, s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "rank", (int)l->rank,
                            "ranks_tried", (int)l->tried, "fc1", dtype_name((uint32_t)l->fc1_type), "fc2",
                            dtype_name((uint32_t)l->fc2_type), "bytes", (json_int_t)l->bytes, "bytes_share",
                            l->bytes_share, "cut", (double)j->predictor->layers[i].cut, "recall", l->recall,
                            "recall_plain", l->plain, "candidates", l->candidates, "active", l->active));
    }
    const struct predictor_totals *a = &j->all;
    return json_pack("{s:s, s:i, s:i, s:i, s:b, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "output", j->out,
                     "samples", (int)a->samples, "calibration", (int)a->calibration, "tested", (int)a->tested,
                     "held_out", j->held_out != NULL, "passes", (int)a->passes, "seconds", j->seconds,
                     "bytes_share", a->bytes_share, "recall", a->recall, "recall_plain", a->plain,
                     "candidates", a->candidates, "active", a->active, "layers", list);
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct job j = {.samples = 65536, .recall = 0.95, .bytes = 0.1, .epochs = 4, .seed = 1};
    struct err e = {0};
    const struct cli_opt opts[] = {
        {'f', "file", CLI_STR, &j.text, "TEXT", "text to train on, - for standard input"},
        {0, "held-out", CLI_STR, &j.held_out, "TEXT",
         "other text to report on (default: windows of the first that are not trained on)"},
        {'o', "output", CLI_STR, &j.out, "FILE", "the predictor to write (required)"},
        {0, "profile", CLI_STR, &j.profile_path, "FILE",
         "the model's profile: how often neurons are active, from more text"},
        {0, "samples", CLI_INT, &j.samples, "N", "tokens to train on (default 65536)", 1,
         PREDICTOR_SAMPLES_MOST},
        {0, "recall", CLI_FLOAT, &j.recall, "X",
         "share of what active neurons add that is to be kept, by magnitude (default 0.95)", 0.5, 0.99999},
        {0, "bytes", CLI_FLOAT, &j.bytes, "X",
         "most that a predictor may read, as a share of the FFN's bytes (default 0.1)", 0.001, 1.0},
        {0, "epochs", CLI_FLOAT, &j.epochs, "X", "passes over the samples (default 4)", 0.001, 1000.0},
        {0, "seed", CLI_U64, &j.seed, "N", "of the random numbers (default 1)"},
        {'c', "context", CLI_INT, &j.open.context, "N",
         "tokens of a window (default: the model's, at most 512)", 10, 512},
        {'t', "threads", CLI_INT, &j.open.threads, "N", "threads (default: physical cores)", 0, 1024},
        {0, "activation", CLI_STR, &j.open.activation, "NAME",
         "the FFN's activation, where the file does not say: relu, fatrelu:0.01 …"},
        {0, "cpu", CLI_STR, &j.open.cpu, "TIER", "cap on the instruction set: ref, avx2, avx512, amx"},
        {0, "no-mmap", CLI_FLAG, &j.open.no_mmap, NULL,
         "read the weights into memory instead of mapping the file"},
        {0, "json", CLI_FLAG, &j.json, NULL, "one JSON object instead of text"},
        {0},
    };
    int status;
    double seconds;
    if (!cli_parse(self, opts, argc, argv, &j.model_path, NULL, 1, 1, &status)) return status;
    if (!j.text) return cli_usage(self, "-f TEXT is needed");
    if (!j.out) return cli_usage(self, "-o FILE is needed: where should the predictor go?");
    j.open.mode = CALOR_EXACT; /* the layout by neuron */
    cli_catch_interrupts(NULL, NULL);
    if (j.profile_path && profile_open(&j.profile, j.profile_path, &e) < 0) return cli_fail(&e);
    status = open_model(&j.model, j.model_path, &j.open, &seconds);
    if (status == CLI_OK) calor_model_describe(j.model, &j.info);
    if (status == CLI_OK) status = read_text(&j, j.text, &j.ids, &j.n);
    if (status == CLI_OK && j.held_out) status = read_text(&j, j.held_out, &j.held_out_ids, &j.n_held_out);
    if (status == CLI_OK) status = train(&j);
    if (status == CLI_OK && predictor_write(j.predictor, j.out, &e) < 0) status = cli_fail(&e);
    if (status == CLI_OK && j.json)
        status = json_print(report_json(&j), stdout, &e) ? cli_fail(&e) : CLI_OK;
    else if (status == CLI_OK)
        report_text(&j);
    predictor_close(&j.predictor);
    profile_close(&j.profile);
    free(j.layers);
    free(j.ids);
    free(j.held_out_ids);
    calor_model_close(&j.model);
    return status;
}

const struct cli_command cmd_predictor = {
    "predictor",
    "MODEL -f TEXT -o MODEL.predictor",
    "Train the predictors that --mode predict uses",
    "The text goes through the model, and for each layer a small network learns which neurons are active, "
    "those\n"
    "that add most weighing most. Several ranks are tried; the one stays that reads the fewest bytes, gates "
    "of\n"
    "its candidates included, at the --recall asked for. Samples of as many layers as fit into 1.25 GiB are "
    "held\n"
    "at once; for more the text goes through the model again. The file appears when it is complete.",
    "  calor predictor model.gguf -f text.txt --held-out other.txt -o model.predictor\n"
    "  calor predictor model.gguf -f text.txt --recall 0.99 --json -o model.predictor\n"
    "  # then: calor run model.gguf --mode predict --predictor model.predictor -p \"Once upon a time\"",
    run,
};
