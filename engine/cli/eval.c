/* calor eval: perplexity of a text, logits for others to compare, and how far one way of computing is from
 * another. Windows of CTX tokens, the second half of each scored, as llama.cpp's perplexity tool does it. */
#include "engine/cli/open.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/progress.h"
#include "io/npy.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Logits held at once. */
#define PIECE_BYTES (64u << 20)

struct eval {
    struct open_options open;
    int64_t batch;
    const char *path, *text_path, *against, *logits_path;

    calor_model *model, *ref_model; /* ref_model: only where another model instance is the reference */
    calor_session *session, *ref;   /* ref: NULL without a session to compare with */
    struct npy *ref_file;
    struct npy_writer *out;
    uint32_t vocab, context, layers;
    int32_t *tokens, *window;
    size_t n_tokens;
    int32_t bos; /* put first in each window; -1: the text's own token stays */
    double load_seconds, seconds;

    size_t piece; /* tokens whose logits are held at once */
    float *logits, *ref_logits;

    uint64_t windows, scored;
    double nll, nll2;
    double *kld, kld_sum;
    uint64_t same_top;
    double max_abs_diff;
};

static double log_sum_exp(const float *x, uint32_t n, uint32_t *top)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    double sum = 0.0, m = (double)x[best];
    for (uint32_t i = 0; i < n; i++) sum += exp((double)x[i] - m);
    *top = best;
    return m + log(sum);
}

static void score(struct eval *v, const float *x, const float *ref, int32_t next)
{
    uint32_t top, ref_top;
    double lse = log_sum_exp(x, v->vocab, &top), nll = lse - (double)x[next];
    v->nll += nll;
    v->nll2 += nll * nll;
    if (ref) {
        double ref_lse = log_sum_exp(ref, v->vocab, &ref_top), kld = 0.0;
        for (uint32_t i = 0; i < v->vocab; i++) {
            double lp = (double)ref[i] - ref_lse, d = fabs((double)ref[i] - (double)x[i]);
            kld += exp(lp) * (lp - ((double)x[i] - lse));
            if (d > v->max_abs_diff) v->max_abs_diff = d;
        }
        v->kld[v->scored] = kld;
        v->kld_sum += kld;
        v->same_top += top == ref_top;
    }
    v->scored++;
}

/* Computes tokens [at, at+n) of the window; with logits where `want`. */
static int compute(calor_session *s, const int32_t *ids, size_t n, float *out)
{
    char err[1000];
    int rc = out ? calor_eval_all(s, ids, n, out, err, sizeof err) : calor_eval(s, ids, n, err, sizeof err);
    if (rc == CALOR_ECANCELLED) return -1;
    return rc == 0 ? CLI_OK : cli_fail_text(rc, err);
}

/* One window. Positions from `first` on are scored, except the last, whose successor is not in the window. */
static int one_window(struct eval *v, size_t w)
{
    struct err e = {0};
    const int32_t *text = v->tokens + w * v->context;
    size_t first = v->context / 2, at = v->out ? 0 : first, end = v->out ? v->context : v->context - 1;
    int status = CLI_OK;
    memcpy(v->window, text, v->context * sizeof *text);
    if (v->bos >= 0) v->window[0] = v->bos;
    calor_rewind(v->session, 0);
    if (v->ref) calor_rewind(v->ref, 0);
    if (at > 0) {
        status = compute(v->session, v->window, at, NULL);
        if (status == CLI_OK && v->ref) status = compute(v->ref, v->window, at, NULL);
    }
    for (size_t n; status == CLI_OK && at < end; at += n) {
        n = end - at < v->piece ? end - at : v->piece;
        status = compute(v->session, v->window + at, n, v->logits);
        if (status == CLI_OK && v->ref) status = compute(v->ref, v->window + at, n, v->ref_logits);
        if (status == CLI_OK && v->ref_file &&
            npy_read(v->ref_file, w * v->context + at, n, v->ref_logits, &e) < 0)
            return cli_fail(&e);
        if (status == CLI_OK && v->out && npy_write(v->out, v->logits, n * v->vocab, &e) < 0)
            return cli_fail(&e);
        for (size_t i = 0; status == CLI_OK && i < n; i++)
            if (at + i >= first && at + i + 1 < v->context)
                score(v, v->logits + i * v->vocab,
                      v->ref || v->ref_file ? v->ref_logits + i * v->vocab : NULL, text[at + i + 1]);
    }
    return status;
}

static int read_tokens(struct eval *v)
{
    char *text = NULL, none[8];
    size_t len, n_none;
    int32_t bos[1];
    int status = open_text(v->text_path, &text, &len);
    if (status != CLI_OK) return status;
    status = open_tokenize(v->model, text, len, CALOR_TOK_BOS, &v->tokens, &v->n_tokens);
    free(text);
    if (status != CLI_OK) return status;
    v->bos =
        calor_tokenize(v->model, "", 0, CALOR_TOK_BOS, bos, 1, &n_none, none, sizeof none) == 0 && n_none == 1
            ? bos[0]
            : -1;
    return CLI_OK;
}

/* The window's length: -c, else 512 or what the model or the text have. */
static int choose_context(struct eval *v, const struct cli_command *self)
{
    calor_model_info info;
    calor_model_describe(v->model, &info);
    v->vocab = info.vocab;
    v->layers = info.layers;
    bool given = v->open.context > 0;
    v->context = given ? (uint32_t)v->open.context : info.context < 512 ? info.context : 512;
    if (!given && v->n_tokens < v->context) v->context = (uint32_t)v->n_tokens;
    if (v->context < 3) return cli_usage(self, "a window of %u tokens: at least 3 are needed", v->context);
    if (v->n_tokens < v->context) {
        char msg[200];
        snprintf(msg, sizeof msg,
                 "the text has %zu tokens, a window needs %u: give a longer text or a smaller -c",
                 v->n_tokens, v->context);
        return cli_fail_text(CALOR_EARG, msg);
    }
    v->open.context = v->context;
    v->windows = v->n_tokens / v->context;
    return CLI_OK;
}

/* What the logits of a file are of: the windows' length, and the tokens in them by their hash. */
#define NOTE "calor eval: context %" PRIu32 ", tokens %016" PRIx64

static void make_note(const struct eval *v, char note[NPY_NOTE_MAX])
{
    uint64_t hash = XXH3_64bits(v->tokens, v->windows * v->context * sizeof *v->tokens);
    snprintf(note, NPY_NOTE_MAX, NOTE, v->context, hash);
}

/* Whether the logits in ref_file are of this text in these windows. Files made elsewhere do not say. */
static int check_reference(const struct eval *v)
{
    struct err e = {0};
    char note[NPY_NOTE_MAX];
    const char *theirs = npy_note(v->ref_file);
    uint64_t rows = npy_rows(v->ref_file), cols = npy_cols(v->ref_file), want = v->windows * v->context;
    uint32_t context = 0;
    bool known = sscanf(theirs, "calor eval: context %" SCNu32 ", tokens", &context) == 1;
    make_note(v, note);
    if (known && context != v->context)
        err_set(&e, ERR_STALE,
                "%s: its logits are of windows of %" PRIu32 " tokens, this run has windows of %" PRIu32
                ": give -c %" PRIu32 ", or write them again",
                v->against, context, v->context, context);
    else if (rows != want || cols != v->vocab)
        err_set(&e, ERR_STALE, "%s: has %llu rows of %llu logits; this text and model give %llu of %u",
                v->against, (unsigned long long)rows, (unsigned long long)cols, (unsigned long long)want,
                v->vocab);
    else if (known && strcmp(theirs, note) != 0)
        err_set(&e, ERR_STALE,
                "%s: its logits are of other tokens than this run's: another text, or a model with another "
                "tokenizer",
                v->against);
    else if (!known)
        log_warn(
            "%s does not say which text its logits are of: they are taken to be this text's, in windows of "
            "%" PRIu32 " tokens",
            v->against, v->context);
    return e.code ? cli_fail(&e) : CLI_OK;
}

/* --against: a mode, cpu:TIER (the same file on another instruction set), or logits from a file. */
static int open_reference(struct eval *v)
{
    struct open_options o = v->open;
    struct err e = {0};
    double seconds;
    for (int i = 0; open_modes[i]; i++)
        if (strcmp(v->against, open_modes[i]) == 0) {
            calor_model *m = v->model;
            int checked = open_check(i, o.profile, o.cett, i == CALOR_PREDICT ? o.predictor : NULL);
            if (checked != CLI_OK) return checked;
            o.mode = i;
            o.recall = false;
            bool planes = open_planes(v->open.mode, v->open.screen);
            calor_model_info info;
            calor_model_describe(m, &info);
            if ((open_layout(i) == CALOR_LAYOUT_FILE) != (open_layout(v->open.mode) == CALOR_LAYOUT_FILE) ||
                (i == CALOR_SURE && !planes) || (i == CALOR_THRESHOLD && !info.by_neuron) ||
                (i == CALOR_PREDICT && !info.predictor)) {
                int status = open_model(&v->ref_model, v->path, &o, &seconds);
                if (status != CLI_OK) return status;
                m = v->ref_model;
            }
            return open_session(&v->ref, m, &o, (uint32_t)v->batch);
        }
    if (strncmp(v->against, "cpu:", 4) == 0) {
        o.cpu = v->against + 4;
        o.mode = CALOR_DENSE;
        int status = open_model(&v->ref_model, v->path, &o, &seconds);
        return status == CLI_OK ? open_session(&v->ref, v->ref_model, &o, (uint32_t)v->batch) : status;
    }
    if (npy_open(&v->ref_file, v->against, &e) < 0) {
        err_prefix(&e, e.code, "--against takes a mode (dense, exact …), cpu:TIER or a .npy file");
        return cli_fail(&e);
    }
    return check_reference(v);
}

static int allocate(struct eval *v)
{
    size_t row = v->vocab * sizeof(float);
    v->piece = PIECE_BYTES / row > 0 ? PIECE_BYTES / row : 1;
    if (v->piece > (size_t)v->batch) v->piece = (size_t)v->batch;
    bool two = v->against != NULL;
    v->window = malloc(v->context * sizeof *v->window);
    v->logits = malloc(v->piece * row);
    v->ref_logits = two ? malloc(v->piece * row) : NULL;
    v->kld = two ? malloc(v->windows * v->context * sizeof *v->kld) : NULL;
    if (!v->window || !v->logits || (two && (!v->ref_logits || !v->kld)))
        return cli_fail_text(CALOR_ENOMEM, "no memory for the logits");
    return CLI_OK;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int report(const struct eval *v, bool json)
{
    double n = (double)v->scored, mean = v->nll / n, ppl = exp(mean);
    calor_session_info si;
    calor_session_describe(v->session, &si);
    const char *mode = open_modes[si.mode];
    double variance = v->nll2 / n - mean * mean;
    double error = n > 1 && variance > 0 ? sqrt(variance / (n - 1)) * ppl : 0.0;
    double p99 = 0.0;
    if (v->kld) {
        qsort(v->kld, v->scored, sizeof *v->kld, by_size);
        p99 = v->kld[(size_t)(0.99 * (n - 1) + 0.5)];
    }
    uint32_t layers = v->layers;
    if (!json) {
        printf("perplexity %.4f ± %.4f (%llu tokens scored in %llu windows of %u, %s, %.1f tok/s)\n", ppl,
               error, (unsigned long long)v->scored, (unsigned long long)v->windows, v->context, mode,
               (double)v->windows * v->context / v->seconds);
        if (v->kld)
            printf("against %s: KLD mean %.3e, 99 %% of tokens below %.3e; same top token %.2f %%; largest "
                   "difference of a logit %.4g\n",
                   v->against, v->kld_sum / n, p99, 100.0 * (double)v->same_top / n, v->max_abs_diff);
        calor_ffn_counts c;
        open_ffn_counts(v->session, layers, &c);
        if (c.neurons)
            printf("FFN: %.2f %% of activations are %s, %.2f %% of neurons were skipped\n",
                   100.0 - 100.0 * (double)c.active / (double)c.neurons,
                   si.mode == CALOR_THRESHOLD ? "left out" : "zero",
                   100.0 - 100.0 * (double)c.listed / (double)c.neurons);
        calor_ffn_recall r;
        open_recall(v->session, layers, &r);
        if (r.magnitude > 0.0)
            printf("recall: %.3f %% of the active neurons were computed, %.3f %% by magnitude\n",
                   100.0 * (double)r.found / (double)r.active, 100.0 * r.magnitude_found / r.magnitude);
        return CLI_OK;
    }
    json_t *j = json_pack("{s:f, s:f, s:I, s:I, s:i, s:i, s:s, s:f, s:f}", "perplexity", ppl,
                          "perplexity_error", error, "tokens", (json_int_t)v->scored, "windows",
                          (json_int_t)v->windows, "context", (int)v->context, "batch", (int)v->batch, "mode",
                          mode, "load_seconds", v->load_seconds, "seconds", v->seconds);
    if (j && v->kld) {
        json_object_set_new(j, "against", json_string(v->against));
        json_object_set_new(j, "kld_mean", json_real(v->kld_sum / n));
        json_object_set_new(j, "kld_p99", json_real(p99));
        json_object_set_new(j, "same_top", json_real((double)v->same_top / n));
        json_object_set_new(j, "max_abs_diff", json_real(v->max_abs_diff));
    }
    json_t *ffn = open_ffn_json(v->session, layers);
    if (j && ffn) {
        json_object_set(j, "sparsity", json_object_get(ffn, "sparsity"));
        json_object_set(j, "ffn", ffn);
        if (json_object_get(ffn, "recall")) json_object_set(j, "recall", json_object_get(ffn, "recall"));
    }
    json_decref(ffn);
    char *out = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    if (out) puts(out);
    free(out);
    json_decref(j);
    return out ? CLI_OK : cli_fail_text(CALOR_ENOMEM, "no memory for the report");
}

static void interrupt(void *arg)
{
    struct eval *v = arg;
    if (v->session) calor_cancel(v->session);
    if (v->ref) calor_cancel(v->ref);
}

static int evaluate(struct eval *v)
{
    struct progress bar;
    int status = CLI_OK;
    uint64_t t0 = clock_ns();
    progress_start(&bar, cli_progress(), "eval", stderr);
    for (size_t w = 0; w < v->windows && status == CLI_OK; w++) {
        status = cli_interrupted() ? -1 : one_window(v, w);
        progress_update(&bar, (double)(w + 1) / (double)v->windows);
    }
    progress_end(&bar, status == CLI_OK);
    v->seconds = clock_since(t0);
    return status == -1 ? 128 + cli_interrupted() : status;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct eval v = {.batch = 512};
    struct err e = {0};
    const char *path = NULL;
    char note[NPY_NOTE_MAX];
    bool json = false;
    const struct cli_opt opts[] = {
        {'f', "file", CLI_STR, &v.text_path, "TEXT", "the text, - for standard input"},
        {'b', "batch", CLI_INT, &v.batch, "N", "tokens a batch (default 512); 1 runs the decoding path", 1,
         8192},
        OPEN_OPTIONS(&v.open),
        {0, "against", CLI_STR, &v.against, "REF",
         "compare with a mode (dense, exact …), with cpu:TIER (dense on it; cpu:ref is without "
         "rounding), or with logits "
         "FILE.npy"},
        {0, "logits", CLI_STR, &v.logits_path, "FILE.npy", "write the logits of every position, float32"},
        {0, "json", CLI_FLAG, &json, NULL, "one JSON object instead of text"},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, &path, NULL, 1, 1, &status)) return status;
    if (!v.text_path) return cli_usage(self, "-f TEXT is needed");
    v.path = path;
    v.open.recall = v.against != NULL;
    cli_catch_interrupts(interrupt, &v);
    status = open_model(&v.model, path, &v.open, &v.load_seconds);
    if (status == CLI_OK) status = read_tokens(&v);
    if (status == CLI_OK) status = choose_context(&v, self);
    if (status == CLI_OK) status = allocate(&v);
    if (status == CLI_OK) status = open_session(&v.session, v.model, &v.open, (uint32_t)v.batch);
    if (status == CLI_OK && v.against) status = open_reference(&v);
    if (status == CLI_OK && v.logits_path) {
        make_note(&v, note);
        if (npy_writer_create(&v.out, v.logits_path, v.windows * v.context, v.vocab, note, &e) < 0)
            status = cli_fail(&e);
    }
    if (status == CLI_OK) status = evaluate(&v);
    if (status == CLI_OK && v.out && npy_writer_finish(v.out, &e) < 0) status = cli_fail(&e);
    if (status == CLI_OK) status = report(&v, json);
    npy_writer_destroy(&v.out);
    npy_close(&v.ref_file);
    calor_session_close(&v.ref);
    calor_session_close(&v.session);
    calor_model_close(&v.ref_model);
    calor_model_close(&v.model);
    free(v.tokens);
    free(v.window);
    free(v.logits);
    free(v.ref_logits);
    free(v.kld);
    return status;
}

const struct cli_command cmd_eval = {
    "eval",
    "MODEL -f TEXT",
    "Perplexity of a text, logits, and how far modes differ",
    "The text is cut into windows of -c tokens (default 512), each beginning with the model's BOS where it "
    "has\n"
    "one; the second half of each window is scored. llama.cpp's perplexity tool counts the same way.\n"
    "--logits writes one row a token of every window, in order; --against takes such a file, and refuses "
    "one\n"
    "of another text or of windows of another length.",
    "  calor eval model.gguf -f text.txt -c 512\n"
    "  calor eval model.gguf -f text.txt --against cpu:ref --json\n"
    "  calor eval model.gguf -f text.txt -b 1 --logits out.npy",
    run,
};
