/* calor bench: how fast a model runs here, beside what the memory allows. */
#include "engine/cli/bench.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json_text.h"
#include "base/membw.h"
#include "base/rng.h"
#include "base/threads.h"
#include "engine/cli/open.h"
#include "io/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static const char *const kv_types[] = {"f16", "q8_0", "f32", NULL};

struct args {
    const char *model, *prompts, *text, *cpu, *activation, *profile, *predictor;
    int64_t generate, repeats, threads, context, batch;
    int mode, kv, screen;
    double seconds, cett;
    bool no_mmap, no_warmup, no_membw, membw, json, md, csv;
};

static calor_session *running;

static void stop(void *arg)
{
    (void)arg;
    if (running) calor_cancel(running);
}

/* ---- Read bandwidth ---- */

/* `calor bench --membw`: the measurement alone, in a process of its own. */
static int measure_membw(const struct args *a)
{
    struct err e = {0};
    struct team *t;
    struct membw m;
    if (team_create(&t, &(struct team_settings){.threads = (int)a->threads, .bind = 1}, &e))
        return cli_fail(&e);
    int rc = membw_read(&m, t, 0, a->seconds, &e);
    team_destroy(&t);
    if (rc) return cli_fail(&e);
    if (a->json) {
        json_t *j = json_pack("{s:f, s:f, s:i, s:i, s:I}", "median", m.median, "best", m.best, "passes",
                              m.passes, "threads", m.threads, "bytes", (json_int_t)m.bytes);
        return json_print(j, stdout, &e) ? cli_fail(&e) : CLI_OK;
    }
    printf("read bandwidth, %d thread%s: %.2f GB/s (median of %d passes over %" PRIu64 " MiB; best %.2f)\n",
           m.threads, m.threads == 1 ? "" : "s", m.median * 1e-9, m.passes, m.bytes >> 20, m.best * 1e-9);
    return CLI_OK;
}

/* The buffer it reads must not count as the model's memory, so another process measures. */
static int spawn_membw(double *out, int threads, struct err *e)
{
    char count[16], text[1024];
    snprintf(count, sizeof count, "%d", threads);
    char *argv[] = {(char[]){"calor"},
                    (char[]){"bench"},
                    (char[]){"--membw"},
                    (char[]){"--json"},
                    (char[]){"--seconds"},
                    (char[]){"0.4"},
                    (char[]){"-t"},
                    count,
                    NULL};
    int fd[2];
    if (pipe(fd) != 0) return err_set_errno(e, ERR_IO, "measuring the read bandwidth: pipe");
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, fd[1], 1);
    posix_spawn_file_actions_addclose(&fa, fd[0]);
    pid_t pid;
    int rc = posix_spawn(&pid, "/proc/self/exe", &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    close(fd[1]);
    if (rc) {
        close(fd[0]);
        errno = rc;
        return err_set_errno(e, ERR_IO, "measuring the read bandwidth: starting a process");
    }
    size_t n = 0;
    for (ssize_t got; n < sizeof text;) {
        got = read(fd[0], text + n, sizeof text - n);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        n += (size_t)got;
    }
    close(fd[0]);
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    json_t *j = NULL;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, ERR_IO, "measuring the read bandwidth failed (--no-membw leaves it out)");
    rc = json_text_parse(&j, text, n, "read bandwidth", 4, e);
    if (rc == 0) rc = json_get_f64(j, "median", out, "read bandwidth", e);
    json_decref(j);
    return rc;
}

static int add_bandwidth(struct bench_result *r, struct err *e)
{
    double v;
    int rc = spawn_membw(&v, r->model.threads, e);
    if (rc == 0) r->bandwidth[r->n_bandwidth++] = v;
    return rc;
}

/* ---- The runs ---- */

/* Weights read for a token: all tensors, but of an embedding that is not also the output only one row, and of
 * the FFN what was counted where some of it is left out. */
static int token_bytes(struct bench_result *r, const char *path, struct err *e)
{
    uint64_t *out = &r->token_bytes;
    struct gguf *f;
    int rc = gguf_open(&f, path, GGUF_READ, e);
    if (rc) return rc;
    bool untied = gguf_find_tensor(f, "output.weight") != NULL;
    *out = r->dense_bytes = 0;
    for (int64_t i = 0; i < gguf_n_tensors(f); i++) {
        const struct gguf_tensor *t = gguf_tensor(f, i);
        bool embedding =
            strcmp(t->name, "token_embd.weight") == 0 || strcmp(t->name, "position_embd.weight") == 0;
        bool counted = r->ffn_tokens && strncmp(t->name, "blk.", 4) == 0 && strstr(t->name, ".ffn_") &&
                       !strstr(t->name, "norm") && t->ne[1] > 1;
        uint64_t bytes = embedding && untied ? t->row_bytes : t->bytes;
        r->dense_bytes += bytes;
        if (!counted) *out += bytes;
    }
    if (r->ffn_tokens) *out += r->ffn.bytes / r->ffn_tokens;
    gguf_close(&f);
    return 0;
}

/* "512,2048" and -n into tests; 0 leaves a kind out. */
static int list_tests(struct bench_result *r, const struct args *a, struct err *e)
{
    for (const char *p = a->prompts; *p;) {
        char *end;
        long v = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || v < 0 || v > 1 << 20)
            return err_set(e, ERR_ARG, "--prompt '%.60s': expected numbers of tokens such as 512 or 128,512",
                           a->prompts);
        if (r->n_tests == BENCH_MAX_TESTS - 1)
            return err_set(e, ERR_ARG, "--prompt: more than %d lengths", BENCH_MAX_TESTS - 1);
        if (v > 0) {
            struct bench_test *t = &r->test[r->n_tests++];
            t->tokens = (uint32_t)v;
            snprintf(t->name, sizeof t->name, "pp%ld", v);
        }
        p = *end ? end + 1 : end;
    }
    if (a->generate > 0) {
        struct bench_test *t = &r->test[r->n_tests++];
        t->generate = true;
        t->tokens = (uint32_t)a->generate;
        snprintf(t->name, sizeof t->name, "tg%" PRId64, a->generate);
    }
    if (r->n_tests == 0) return err_set(e, ERR_ARG, "nothing to measure: -p and -n are both 0");
    for (int i = 0; i < r->n_tests; i++) {
        r->test[i].seconds = calloc((size_t)r->repeats, sizeof(double));
        r->test[i].rate = calloc((size_t)r->repeats, sizeof(double));
        if (r->test[i].generate)
            r->test[i].token = calloc((size_t)r->repeats * r->test[i].tokens, sizeof(double));
        if (!r->test[i].seconds || !r->test[i].rate || (r->test[i].generate && !r->test[i].token))
            return err_set(e, ERR_NOMEM, "no memory for the samples");
    }
    return 0;
}

/* `most` token ids: random ones with a fixed seed, or a text's. The caller's (free). */
static int make_ids(int32_t **out, const calor_model *m, const struct args *a, uint32_t vocab, size_t most,
                    struct err *e)
{
    *out = malloc(most * sizeof **out);
    if (!*out) return err_set(e, ERR_NOMEM, "no memory for %zu tokens", most);
    if (!a->text) {
        struct rng r;
        rng_init(&r, 1);
        for (size_t i = 0; i < most; i++) (*out)[i] = (int32_t)rng_below(&r, vocab);
        return 0;
    }
    char *text = NULL;
    size_t n = 0, got = 0;
    int rc = file_read_all(a->text, 1u << 30, &text, &n, e);
    if (rc) return rc;
    /* No token is shorter than a byte, except that whole characters may be split: this much is always enough.
     */
    if (n > 16 * most) n = 16 * most;
    rc = calor_tokenize(m, text, n, CALOR_TOK_BOS, *out, most, &got, e->msg, sizeof e->msg);
    free(text);
    if (got >= most) return 0; /* more than asked for is not an error here */
    e->code = rc;
    return rc ? rc
              : err_set(e, ERR_ARG, "'%s' has only %zu tokens: the longest run needs %zu", a->text, got,
                        most);
}

/* seconds: of each generated token; NULL: nobody asks. */
static int run_once(calor_session *s, const struct bench_test *t, const int32_t *ids, uint32_t tokens,
                    double *seconds, struct err *e)
{
    int rc = calor_rewind(s, 0);
    if (rc) return err_set(e, rc, "rewinding the session failed: %s", calor_error_name(rc));
    if (cli_interrupted()) return err_set(e, ERR_CANCELLED, "interrupted");
    if (!t->generate) return e->code = calor_eval(s, ids, tokens, e->msg, sizeof e->msg);
    for (uint32_t i = 0; i < tokens; i++) {
        uint64_t start = clock_ns();
        if ((rc = calor_eval(s, &ids[i], 1, e->msg, sizeof e->msg))) return e->code = rc;
        if (seconds) seconds[i] = clock_since(start);
    }
    return 0;
}

/* What the FFN did in one run of single tokens. */
static void add_ffn(struct bench_result *r, const calor_session *s, uint32_t tokens)
{
    calor_ffn_counts c;
    open_ffn_counts(s, r->model.layers, &c);
    r->ffn.neurons += c.neurons;
    r->ffn.exact += c.exact;
    r->ffn.listed += c.listed;
    r->ffn.active += c.active;
    r->ffn.bytes += c.bytes;
    r->ffn.screen += c.screen;
    r->ffn_tokens += c.neurons ? tokens : 0;
}

static int run_tests(struct bench_result *r, calor_session *s, const int32_t *ids, const struct args *a,
                     struct progress *p, struct err *e)
{
    int rc, done = 0, total = r->n_tests * (r->repeats + !a->no_warmup);
    for (int i = 0; i < r->n_tests && !a->no_warmup; i++) {
        struct bench_test *t = &r->test[i];
        if ((rc = run_once(s, t, ids, t->generate ? 1 : t->tokens, NULL, e))) return rc;
        progress_update(p, (double)++done / total);
    }
    if (!a->no_membw && (rc = add_bandwidth(r, e))) return rc;
    /* Kinds take turns, so that a disturbance of the machine does not hit all repetitions of one. */
    for (int k = 0; k < r->repeats; k++) {
        for (int i = 0; i < r->n_tests; i++) {
            struct bench_test *t = &r->test[i];
            if (t->generate) calor_session_ffn_reset(s);
            uint64_t start = clock_ns();
            double *token = t->token ? t->token + (size_t)k * t->tokens : NULL;
            if ((rc = run_once(s, t, ids, t->tokens, token, e))) return rc;
            t->seconds[k] = clock_since(start);
            if (t->generate) add_ffn(r, s, t->tokens);
            t->rate[k] = t->tokens / t->seconds[k];
            progress_update(p, (double)++done / total);
        }
        if (!a->no_membw && (rc = add_bandwidth(r, e))) return rc;
    }
    return 0;
}

static void read_memory(struct bench_result *r)
{
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) == 0) r->peak_memory = (uint64_t)u.ru_maxrss * 1024;
    FILE *f = fopen("/proc/self/status", "re");
    if (!f) return;
    char line[256];
    unsigned long long kib;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "RssAnon: %llu", &kib) == 1) r->peak_anonymous = kib * 1024;
    fclose(f);
}

static int on_load(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted();
}

/* Loads, runs, fills *r; the model stays open because r->model points into it. */
static int bench(struct bench_result *r, calor_model **m, const struct args *a, struct err *e)
{
    struct progress p;
    calor_session *s = NULL;
    int32_t *ids = NULL;
    int rc = list_tests(r, a, e);
    if (rc) return rc;
    uint32_t most = 1;
    for (int i = 0; i < r->n_tests; i++)
        if (r->test[i].tokens > most) most = r->test[i].tokens;
    if (a->context && a->context < (int64_t)most)
        return err_set(e, ERR_ARG, "a context of %" PRId64 " tokens is too short for the run of %" PRIu32,
                       a->context, most);

    progress_start(&p, cli_progress(), "load", stderr);
    calor_model_settings ms = calor_model_default();
    ms.threads = (int)a->threads;
    ms.no_mmap = a->no_mmap;
    ms.cpu = a->cpu;
    ms.activation = a->activation;
    ms.progress = on_load;
    ms.progress_arg = &p;
    calor_session_settings ss = calor_session_default();
    ss.context = a->context ? (uint32_t)a->context : most;
    ss.batch = (uint32_t)a->batch;
    ss.kv = r->kv;
    ss.mode = (enum calor_mode)a->mode;
    ms.layout = open_layout(a->mode);
    ms.planes = open_planes(a->mode, a->screen);
    ms.profile = a->profile;
    ms.cett = a->cett;
    ms.predictor = a->predictor;
    ms.own_predictor = a->mode == CALOR_PREDICT;
    uint64_t start = clock_ns();
    rc = e->code = calor_model_open(m, a->model, &ms, e->msg, sizeof e->msg);
    if (rc == 0) rc = e->code = calor_session_open(&s, *m, &ss, e->msg, sizeof e->msg);
    r->load_seconds = clock_since(start);
    progress_end(&p, rc == 0);
    if (rc) return rc;
    calor_model_describe(*m, &r->model);
    calor_session_describe(s, &r->session);
    r->mode = open_modes[r->session.mode];
    running = s;

    progress_start(&p, cli_progress(), "bench", stderr);
    rc = make_ids(&ids, *m, a, r->model.vocab, most, e);
    if (rc == 0) rc = run_tests(r, s, ids, a, &p, e);
    progress_end(&p, rc == 0);
    read_memory(r);
    running = NULL;
    calor_session_close(&s);
    free(ids);
    for (int i = 0; i < r->n_tests && rc == 0; i++)
        rc = stats_of(&r->test[i].stats, r->test[i].rate, (size_t)r->repeats, e);
    if (rc == 0 && r->n_bandwidth)
        rc = stats_of(&r->bandwidth_stats, r->bandwidth, (size_t)r->n_bandwidth, e);
    if (rc == 0) rc = token_bytes(r, a->model, e);
    return rc;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct args a = {.prompts = "512", .generate = 128, .repeats = 5, .seconds = 1};
    const struct cli_opt opts[] = {
        {'p', "prompt", CLI_STR, &a.prompts, "N,N…", "prompt lengths to measure, 0 for none (default 512)"},
        {'n', "tokens", CLI_INT, &a.generate, "N", "tokens to generate, 0 for none (default 128)", 0,
         1 << 20},
        {'r', "repeats", CLI_INT, &a.repeats, "N", "measured runs of each kind (default 5)", 1,
         BENCH_MAX_REPEATS},
        {0, "mode", CLI_CHOICE, &a.mode, "MODE",
         "auto (default), dense, dense-fast, exact, sure, threshold or predict: see calor help run",
         .choices = open_modes},
        {0, "screen", CLI_CHOICE, &a.screen, "NAME", "none (default) or plane: see calor help run",
         .choices = open_screens},
        {0, "profile", CLI_STR, &a.profile, "FILE", "the model's profile: see calor help run"},
        {0, "cett", CLI_FLOAT, &a.cett, "X", "with --profile: see calor help run", 0.0001, 1.0},
        {0, "predictor", CLI_STR, &a.predictor, "FILE", "for --mode predict: see calor help run"},
        {'t', "threads", CLI_INT, &a.threads, "N", "default: one a physical core", 1, 1024},
        {0, "kv", CLI_CHOICE, &a.kv, "TYPE", "KV cache: f16 (default), q8_0 or f32", .choices = kv_types},
        {'f', "file", CLI_STR, &a.text, "FILE", "take the tokens from this text (default: random ones)"},
        {'c', "context", CLI_INT, &a.context, "N", "size of the context (default: what the runs need)", 1,
         1 << 24},
        {'b', "batch", CLI_INT, &a.batch, "N", "most tokens computed at once (default 512)", 1, 8192},
        {0, "cpu", CLI_STR, &a.cpu, "TIER", "cap on the instruction set: ref, avx2, avx512 or amx"},
        {0, "activation", CLI_STR, &a.activation, "NAME", "FFN activation, where the file does not say"},
        {0, "no-mmap", CLI_FLAG, &a.no_mmap, NULL,
         "read the weights into memory instead of mapping the file"},
        {0, "no-warmup", CLI_FLAG, &a.no_warmup, NULL, "measure the first run too"},
        {0, "no-membw", CLI_FLAG, &a.no_membw, NULL, "do not measure the read bandwidth between the runs"},
        {0, "membw", CLI_FLAG, &a.membw, NULL, "measure only the memory's read bandwidth, without a model"},
        {0, "seconds", CLI_FLOAT, &a.seconds, "S", "how long --membw reads (default 1)", 0.01, 60},
        {0, "json", CLI_FLAG, &a.json, NULL, "all samples and the state of the machine as JSON"},
        {0, "md", CLI_FLAG, &a.md, NULL, "a Markdown table"},
        {0, "csv", CLI_FLAG, &a.csv, NULL, "comma-separated values, one line a kind of run"},
        {0},
    };
    int status, n = 0;
    if (!cli_parse(self, opts, argc, argv, &a.model, &n, 0, 1, &status)) return status;
    if (a.json + a.md + a.csv > 1) return cli_usage(self, "--json, --md and --csv exclude each other");
    if (a.membw) {
        if (n) return cli_usage(self, "--membw takes no model");
        if (a.md || a.csv) return cli_usage(self, "--membw knows no table: only --json");
        return measure_membw(&a);
    }
    if (!n) return cli_usage(self, "MODEL is missing");
    if ((status = open_check(a.mode, a.profile, a.cett, a.predictor)) != CLI_OK) return status;

    struct err e = {0};
    calor_model *m = NULL;
    struct bench_result *r = calloc(1, sizeof *r);
    double *bandwidth = calloc((size_t)a.repeats + 1, sizeof *bandwidth);
    int rc = 0;
    if (!r || !bandwidth) {
        rc = err_set(&e, ERR_NOMEM, "no memory for the results");
    } else {
        *r = (struct bench_result){.path = a.model,
                                   .mode = open_modes[a.mode],
                                   .kv = kv_types[a.kv],
                                   .repeats = (int)a.repeats,
                                   .bandwidth = bandwidth};
        hoststate_read(&r->host, NULL);
        cli_catch_interrupts(stop, NULL);
        rc = bench(r, &m, &a, &e);
        if (rc == 0)
            rc = bench_report(r, a.json ? BENCH_JSON : a.md ? BENCH_MD : a.csv ? BENCH_CSV : BENCH_TEXT, &e);
    }
    status = rc ? cli_fail(&e) : CLI_OK;
    if (cli_interrupted()) status = 128 + cli_interrupted();
    for (int i = 0; r && i < r->n_tests; i++) {
        free(r->test[i].seconds);
        free(r->test[i].rate);
        free(r->test[i].token);
    }
    free(r);
    free(bandwidth);
    calor_model_close(&m);
    return status;
}

const struct cli_command cmd_bench = {
    "bench",
    "MODEL [-p N,N…] [-n N] [-r N] [options]   or   calor bench --membw",
    "Measure how fast a model runs on this machine",
    "For each prompt length (pp) and for generation (tg): the median speed of the repetitions with its 95 %\n"
    "interval. Generation reads every weight once a token, so the memory's read bandwidth, measured between "
    "the\n"
    "runs with as many threads, is its ceiling: the share reached is given. Peak memory includes the pages "
    "of the\n"
    "mapped model file.",
    "  calor bench model.gguf\n"
    "  calor bench model.gguf -p 128,512 -n 64 -r 10 -t 2 --json\n"
    "  calor bench --membw -t 1",
    run,
};
