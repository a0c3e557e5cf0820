/* calor bench: its result as text, Markdown, CSV or JSON. */
#include "engine/cli/bench.h"

#include "base/err.h"
#include "base/size.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double bench_share(const struct bench_result *r, const struct bench_test *t)
{
    if (!t->generate || !r->n_bandwidth) return 0;
    return (double)r->token_bytes * t->stats.median / r->bandwidth_stats.median;
}

static void report_text(const struct bench_result *r)
{
    char a[24], b[24], c[24];
    const calor_model_info *m = &r->model;
    bool large = m->parameters >= 1000000000;
    printf("%s (%s), %s, %.2f %c parameters, %s; activation %s\n", m->name[0] ? m->name : r->path,
           m->architecture, m->type, (double)m->parameters * (large ? 1e-9 : 1e-6), large ? 'G' : 'M',
           size_format(m->weight_bytes, a, sizeof a), m->activation);
    printf("%s; %d thread%s, kernels %s, mode %s, KV cache %s\n", r->host.cpu, m->threads,
           m->threads == 1 ? "" : "s", m->cpu, r->mode, r->kv);
    printf("loaded in %.2f s; KV cache %s, compute buffers %s; peak memory %s", r->load_seconds,
           size_format(r->session.kv_bytes, a, sizeof a), size_format(r->session.compute_bytes, b, sizeof b),
           size_format(r->peak_memory, c, sizeof c));
    printf(" (%s of it not the file's)\n", size_format(r->peak_anonymous, a, sizeof a));
    if (r->n_bandwidth)
        printf("read bandwidth %.2f GB/s (%.2f to %.2f); a token reads %.3f GB: at most %.2f tokens/s\n",
               r->bandwidth_stats.median * 1e-9, r->bandwidth_stats.min * 1e-9, r->bandwidth_stats.max * 1e-9,
               (double)r->token_bytes * 1e-9, r->bandwidth_stats.median / (double)r->token_bytes);
    if (r->ffn_tokens)
        printf(
            "FFN when decoding: %.2f %% of activations zero, %.2f %% of neurons skipped, %.3f GB a token\n",
            100 - 100 * (double)r->ffn.active / (double)r->ffn.neurons,
            100 - 100 * (double)r->ffn.listed / (double)r->ffn.neurons,
            (double)r->ffn.bytes / (double)r->ffn_tokens * 1e-9);
    printf("\n%-10s %12s   %-22s %s\n", "test", "tokens/s", "95 % interval", "of read bandwidth");
    for (int i = 0; i < r->n_tests; i++) {
        const struct bench_test *t = &r->test[i];
        char interval[48], share[24] = "";
        snprintf(interval, sizeof interval, "%.2f to %.2f", t->stats.low, t->stats.high);
        if (bench_share(r, t) > 0) snprintf(share, sizeof share, "%.0f %%", 100 * bench_share(r, t));
        printf("%-10s %12.2f   %-22s %s\n", t->name, t->stats.median, interval, share);
    }
}

/* A cell of a Markdown table must not contain its separator. */
static void print_cell(const char *text)
{
    for (; *text; text++) {
        if (*text == '|') putchar('\\');
        putchar(*text == '\n' ? ' ' : *text);
    }
}

static void report_md(const struct bench_result *r)
{
    char a[24];
    printf("| model | size | params | threads | kernels | mode | kv | test | tokens/s | 95 %% interval | of "
           "read "
           "bandwidth |\n|---|--:|--:|--:|---|---|---|---|--:|---|--:|\n");
    for (int i = 0; i < r->n_tests; i++) {
        const struct bench_test *t = &r->test[i];
        printf("| ");
        print_cell(r->model.name[0] ? r->model.name : r->path);
        printf(" %s | %s | %.2f G | %d | %s | %s | %s | %s | %.2f | %.2f to %.2f | ", r->model.type,
               size_format(r->model.weight_bytes, a, sizeof a), (double)r->model.parameters * 1e-9,
               r->model.threads, r->model.cpu, r->mode, r->kv, t->name, t->stats.median, t->stats.low,
               t->stats.high);
        if (bench_share(r, t) > 0)
            printf("%.0f %% of %.1f GB/s ", 100 * bench_share(r, t), r->bandwidth_stats.median * 1e-9);
        printf("|\n");
    }
}

static void print_quoted(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"') putchar('"');
        putchar(*text);
    }
    putchar('"');
}

static void report_csv(const struct bench_result *r)
{
    printf("file,architecture,type,parameters,weight_bytes,threads,kernels,mode,kv,test,tokens,repeats,"
           "tokens_per_"
           "second,low,high,min,max,load_seconds,peak_memory,token_bytes,read_bandwidth\n");
    for (int i = 0; i < r->n_tests; i++) {
        const struct bench_test *t = &r->test[i];
        print_quoted(r->path);
        printf(",%s,%s,%" PRIu64 ",%" PRIu64 ",%d,%s,%s,%s,%s,%" PRIu32
               ",%d,%.6g,%.6g,%.6g,%.6g,%.6g,%.4f,%" PRIu64 ",%" PRIu64 ",",
               r->model.architecture, r->model.type, r->model.parameters, r->model.weight_bytes,
               r->model.threads, r->model.cpu, r->mode, r->kv, t->name, t->tokens, r->repeats,
               t->stats.median, t->stats.low, t->stats.high, t->stats.min, t->stats.max, r->load_seconds,
               r->peak_memory, r->token_bytes);
        if (r->n_bandwidth) printf("%.6g", r->bandwidth_stats.median);
        printf("\n");
    }
}

static json_t *numbers(const double *x, int n)
{
    json_t *a = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(a, json_number(x[i]));
    return a;
}

/* Of single tokens, over all repetitions; NULL: no memory. */
static json_t *latency_json(const struct bench_result *r, const struct bench_test *t)
{
    size_t n = (size_t)r->repeats * t->tokens;
    double *sorted = malloc(n * sizeof *sorted);
    if (!sorted) return NULL;
    memcpy(sorted, t->token, n * sizeof *sorted);
    stats_sort(sorted, n);
    json_t *j = json_pack("{s:o, s:o, s:o, s:o}", "p50", json_number(stats_percentile(sorted, n, 50)), "p90",
                          json_number(stats_percentile(sorted, n, 90)), "p99",
                          json_number(stats_percentile(sorted, n, 99)), "most", json_number(sorted[n - 1]));
    free(sorted);
    return j;
}

static json_t *test_json(const struct bench_result *r, const struct bench_test *t)
{
    json_t *j = json_pack("{s:s, s:s, s:i, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "test", t->name, "kind",
                          t->generate ? "generate" : "prompt", "tokens", (int)t->tokens, "unit", "tokens/s",
                          "median", json_number(t->stats.median), "low", json_number(t->stats.low), "high",
                          json_number(t->stats.high), "mean", json_number(t->stats.mean), "samples",
                          numbers(t->rate, r->repeats), "seconds", numbers(t->seconds, r->repeats));
    if (j && t->token) json_object_set_new(j, "token_seconds", latency_json(r, t));
    if (j && bench_share(r, t) > 0)
        json_object_set_new(j, "share_of_read_bandwidth", json_number(bench_share(r, t)));
    return j;
}

static json_t *result_json(const struct bench_result *r)
{
    const calor_model_info *m = &r->model;
    json_t *tests = json_array();
    for (int i = 0; i < r->n_tests; i++) json_array_append_new(tests, test_json(r, &r->test[i]));
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    /* s% takes a length: bytes of a model's name need not be UTF-8, and then the member is null. */
    json_t *name = json_string(m->name), *path = json_string(r->path);
    json_t *j = json_pack(
        "{s:s, s:s, s:{s:o, s:o, s:s, s:s, s:s, s:I, s:I, s:I, s:I}, s:{s:i, s:s, s:s, s:s, s:i, s:i, s:i}, "
        "s:o, "
        "s:I, s:I, "
        "s:I, s:I, s:o}",
        "calor", calor_version(), "time", when, "model", "path", path ? path : json_null(), "name",
        name ? name : json_null(), "architecture", m->architecture, "type", m->type, "activation",
        m->activation, "parameters", (json_int_t)m->parameters, "weight_bytes", (json_int_t)m->weight_bytes,
        "token_bytes", (json_int_t)r->token_bytes, "dense_token_bytes", (json_int_t)r->dense_bytes,
        "settings", "threads", m->threads, "kernels", m->cpu, "mode", r->mode, "kv", r->kv, "context",
        (int)r->session.context, "batch", (int)r->session.batch, "repeats", r->repeats, "load_seconds",
        json_number(r->load_seconds), "kv_bytes", (json_int_t)r->session.kv_bytes, "compute_bytes",
        (json_int_t)r->session.compute_bytes, "peak_memory", (json_int_t)r->peak_memory, "anonymous_memory",
        (json_int_t)r->peak_anonymous, "tests", tests);
    if (!j) return NULL;
    if (r->n_bandwidth)
        json_object_set_new(j, "read_bandwidth",
                            json_pack("{s:s, s:o, s:o}", "unit", "bytes/s", "median",
                                      json_number(r->bandwidth_stats.median), "samples",
                                      numbers(r->bandwidth, r->n_bandwidth)));
    if (r->ffn_tokens)
        json_object_set_new(j, "ffn",
                            json_pack("{s:f, s:f, s:I}", "sparsity",
                                      1.0 - (double)r->ffn.active / (double)r->ffn.neurons, "skipped",
                                      1.0 - (double)r->ffn.listed / (double)r->ffn.neurons, "bytes_a_token",
                                      (json_int_t)(r->ffn.bytes / r->ffn_tokens)));
    json_object_set_new(j, "host", hoststate_json(&r->host));
    return j;
}

int bench_report(const struct bench_result *r, enum bench_format format, struct err *e)
{
    switch (format) {
    case BENCH_TEXT: report_text(r); break;
    case BENCH_MD: report_md(r); break;
    case BENCH_CSV: report_csv(r); break;
    case BENCH_JSON: return json_print(result_json(r), stdout, e);
    }
    return 0;
}
