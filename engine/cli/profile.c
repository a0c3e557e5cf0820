/* calor profile: which neurons are hot, on a text. */
#include "engine/cli/open.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "base/strbuf.h"
#include "engine/tools.h"
#include "placement/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS_MOST = 128 };

struct job {
    struct open_options open;
    struct cli_strs files, held_out;
    const char *model_path, *out, *html, *add;
    int64_t samples, ppl_tokens;
    double cett, ppl;
    bool json, fatrelu;

    calor_model *model;
    struct measure_text texts[TEXTS_MOST];
    size_t n_texts;
    struct profile *earlier, *profile;
};

static int read_texts(struct job *j, const struct cli_strs *files, enum profile_text text)
{
    for (int i = 0; i < files->n; i++) {
        char *s;
        int32_t *ids;
        size_t len, n;
        int status = open_text(files->v[i], &s, &len);
        if (status != CLI_OK) return status;
        status = open_tokenize(j->model, s, len, 0, &ids, &n);
        free(s);
        if (status != CLI_OK) return status;
        j->texts[j->n_texts++] = (struct measure_text){text, ids, n};
    }
    return CLI_OK;
}

static int on_progress(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted();
}

static int measure(struct job *j)
{
    struct err e = {0};
    struct progress bar;
    struct measure_settings s = {.texts = j->texts,
                                 .n_texts = j->n_texts,
                                 .window = (uint32_t)j->open.context,
                                 .samples = (uint32_t)j->samples,
                                 .cett = j->cett,
                                 .ppl = j->ppl,
                                 .fatrelu = j->fatrelu,
                                 .ppl_tokens = (uint64_t)j->ppl_tokens,
                                 .earlier = j->earlier,
                                 .progress = on_progress,
                                 .progress_arg = &bar};
    progress_start(&bar, cli_progress(), "profile", stderr);
    int rc = measure_profile(&j->profile, j->model, &s, &e);
    progress_end(&bar, rc == 0);
    if (cli_interrupted()) return 128 + cli_interrupted();
    if (rc == 0 && j->earlier) {
        struct profile *both = NULL;
        rc = profile_merge(&both, j->earlier, j->profile, &e);
        profile_close(&j->profile);
        j->profile = both;
    }
    return rc ? cli_fail(&e) : CLI_OK;
}

static int write_html(const struct profile *p, const char *path)
{
    struct err e = {0};
    struct strbuf b;
    struct file_out f = {0};
    strbuf_init(&b);
    int rc = profile_report_html(p, &b, &e);
    if (rc == 0) rc = file_out_open(&f, path, &e);
    if (rc == 0) {
        rc = file_out_write(&f, b.s, b.len, &e);
        if (rc == 0) rc = file_out_commit(&f, &e);
        file_out_discard(&f);
    }
    strbuf_finish(&b);
    return rc ? cli_fail(&e) : CLI_OK;
}

static int report(const struct job *j)
{
    struct err e = {0};
    if (j->json) return json_print(profile_report_json(j->profile), stdout, &e) ? cli_fail(&e) : CLI_OK;
    struct strbuf b;
    strbuf_init(&b);
    profile_report_text(j->profile, &b);
    char *text = strbuf_take(&b);
    if (!text) return cli_fail_text(CALOR_ENOMEM, "no memory for the report");
    fputs(text, stdout);
    free(text);
    return CLI_OK;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct job j = {.samples = 64, .ppl_tokens = MEASURE_PPL_TOKENS};

    struct err e = {0};
    const struct cli_opt opts[] = {
        {'f', "file", CLI_STRS, &j.files, "TEXT",
         "text to calibrate on, - for standard input; may be repeated"},
        {0, "held-out", CLI_STRS, &j.held_out, "TEXT",
         "other text, to see how far the calibration carries; may be repeated"},
        {'o', "output", CLI_STR, &j.out, "FILE", "the profile to write (required)"},
        {0, "html", CLI_STR, &j.html, "FILE", "write a page with charts, too"},
        {0, "add", CLI_STR, &j.add, "FILE", "an earlier profile of the model, whose counts are added"},
        {0, "cett", CLI_FLOAT, &j.cett, "X",
         "for activations without zeros: neurons count as active from the magnitude on that gives this CETT "
         "(default 0.2)",
         0.001, 1.0},
        {0, "ppl", CLI_FLOAT, &j.ppl, "P",
         "search for the CETT at which perplexity on the held-out text rises by P percent (PPL-P % "
         "sparsity); "
         "epsilons are then chosen for it",
         0.01, 1000.0},
        {0, "fatrelu", CLI_FLAG, &j.fatrelu, NULL,
         "of a model with ReLU: perplexity on the held-out text at a grid of FATReLU thresholds"},
        {0, "ppl-tokens", CLI_INT, &j.ppl_tokens, "N",
         "held-out tokens that each step of these searches computes, at most (default 8192)", 10, 1e9},
        {0, "samples", CLI_INT, &j.samples, "N", "tokens that the CETT curves are measured on (default 64)",
         0, MEASURE_SAMPLES_MOST},
        {'c', "context", CLI_INT, &j.open.context, "N",
         "tokens of a window (default: the model's, at most 512)", 10, 1 << 20},
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
    if (!j.files.n) return cli_usage(self, "-f TEXT is needed");
    if (!j.out) return cli_usage(self, "-o FILE is needed: where should the profile go?");
    if (j.ppl > 0.0 && j.cett > 0.0) return cli_usage(self, "--cett and --ppl exclude each other");
    if (j.ppl > 0.0 && j.add)
        return cli_usage(self, "--add keeps the earlier profile's epsilons: --ppl cannot choose others");
    if ((j.ppl > 0.0 || j.fatrelu) && !j.held_out.n)
        return cli_usage(self, "--%s needs --held-out TEXT, which perplexity is measured on",
                         j.fatrelu ? "fatrelu" : "ppl");
    if (j.ppl > 0.0 && j.samples == 0) return cli_usage(self, "--ppl needs --samples above 0");
    if (!(j.cett > 0.0)) j.cett = 0.2;
    j.open.mode = CALOR_EXACT; /* the layout by neuron, whatever the activation */
    cli_catch_interrupts(NULL, NULL);
    if (j.add && profile_open(&j.earlier, j.add, &e) < 0) return cli_fail(&e);
    status = open_model(&j.model, j.model_path, &j.open, &seconds);
    if (status == CLI_OK) status = read_texts(&j, &j.files, PROFILE_CALIBRATION);
    if (status == CLI_OK) status = read_texts(&j, &j.held_out, PROFILE_HELD_OUT);
    if (status == CLI_OK) status = measure(&j);
    if (status == CLI_OK && profile_write(j.profile, j.out, &e) < 0) status = cli_fail(&e);
    if (status == CLI_OK && j.html) status = write_html(j.profile, j.html);
    if (status == CLI_OK) status = report(&j);
    profile_close(&j.profile);
    profile_close(&j.earlier);
    for (size_t i = 0; i < j.n_texts; i++) free((int32_t *)(uintptr_t)j.texts[i].ids);
    calor_model_close(&j.model);
    return status;
}

const struct cli_command cmd_profile = {
    "profile",
    "MODEL -f TEXT -o MODEL.profile",
    "Find out which neurons are hot",
    "The text goes through the model in windows of -c tokens, every neuron computed, and what each does is\n"
    "counted: how often it is active and how strongly, which neurons are active together and which are "
    "again\n"
    "for the next token. Planning and the threshold mode read the profile. A text that was not calibrated "
    "on\n"
    "(--held-out) shows what the hot neurons are worth elsewhere.\n"
    "An interrupted run leaves no file: profile long texts one by one, each with --add, and no more than one "
    "is\n"
    "lost.",
    "  calor profile model.gguf -f text.txt --held-out other.txt -o model.profile\n"
    "  calor profile model.gguf -f text.txt -o model.profile --html model.html\n"
    "  calor profile model.gguf -f text.txt --held-out other.txt --ppl 1 -o model.profile\n"
    "  calor profile model.gguf -f more.txt --add model.profile -o model.profile",
    run,
};
