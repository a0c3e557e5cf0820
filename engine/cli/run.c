/* calor run: continue a text, or talk. */
#include "engine/cli/run.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/size.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void interrupt(void *arg)
{
    struct run *r = arg;
    if (r->session) calor_cancel(r->session);
}

int run_prompt(struct run *r, const int32_t *ids, size_t n)
{
    char err[1000];
    if (cli_interrupted()) return -1; /* before there was a session to cancel */
    uint64_t t0 = clock_ns();
    int rc = calor_eval(r->session, ids, n, err, sizeof err);
    r->prompt_seconds += clock_since(t0);
    if (rc == 0) {
        r->prompt_tokens += n;
        return CLI_OK;
    }
    return rc == CALOR_ECANCELLED ? -1 : cli_fail_text(rc, err);
}

static void emit(const struct run *r, struct strbuf *text, const char *bytes, size_t n)
{
    strbuf_add(text, bytes, n);
    if (!r->stream || n == 0) return;
    fwrite(bytes, 1, n, stdout);
    fflush(stdout);
}

enum stop run_generate(struct run *r, bool fresh, int32_t *ids, size_t *n_ids, struct strbuf *text)
{
    char err[1000];
    calor_stream *stream = NULL;
    calor_session_info info;
    enum stop why = STOP_LENGTH;
    size_t n = 0, len;
    uint64_t t0 = clock_ns();
    calor_session_describe(r->session, &info);
    int rc = calor_stream_open(&stream, r->model, fresh, err, sizeof err);
    while (rc == 0 && (r->n < 0 || (int64_t)n < r->n)) {
        if (cli_interrupted()) {
            why = STOP_INTERRUPT;
            break;
        }
        int32_t id = calor_sample(r->session, &r->sampler, err, sizeof err);
        if (id < 0) {
            rc = id;
            break;
        }
        if (calor_token_ends(r->model, id)) {
            why = STOP_END;
            break;
        }
        ids[n++] = id;
        const char *bytes = calor_stream_add(stream, id, &len);
        emit(r, text, bytes, len);
        if (r->stream && !cli_stdout_ok()) {
            why = STOP_OUTPUT;
            break;
        }
        if (r->n >= 0 && (int64_t)n == r->n) break; /* nobody needs what would follow */
        if (calor_position(r->session) >= info.context) {
            why = STOP_CONTEXT;
            break;
        }
        rc = calor_eval(r->session, &id, 1, err, sizeof err);
        if (rc == 0) r->decode_tokens++;
    }
    if (stream) {
        const char *bytes = calor_stream_flush(stream, &len);
        emit(r, text, bytes, len);
    }
    calor_stream_close(&stream);
    r->decode_seconds += clock_since(t0);
    *n_ids = n;
    if (rc == CALOR_ECANCELLED) return STOP_INTERRUPT;
    if (rc < 0) {
        cli_fail_text(rc, err);
        return STOP_ERROR;
    }
    return why;
}

static const char *const stop_words[] = {"length", "end", "context", "interrupted", "output", "error"};

static double rate(uint64_t tokens, double seconds)
{
    return tokens > 0 && seconds > 0 ? (double)tokens / seconds : 0.0;
}

void run_summary(const struct run *r, const char *why)
{
    char peak[32];
    size_format(open_peak_bytes(), peak, sizeof peak);
    calor_model_info m;
    calor_ffn_counts c;
    calor_model_describe(r->model, &m);
    open_ffn_counts(r->session, m.layers, &c);
    char sparse[80] = "";
    if (c.neurons)
        snprintf(sparse, sizeof sparse, "; FFN sparsity %.1f %%, %.1f %% of neurons skipped",
                 100.0 - 100.0 * (double)c.active / (double)c.neurons,
                 100.0 - 100.0 * (double)c.listed / (double)c.neurons);
    fprintf(
        stderr,
        "calor: prompt %llu tokens, %.1f tok/s; decode %llu tokens, %.1f tok/s%s; load %.2f s; peak memory "
        "%s%s%s\n",
        (unsigned long long)r->prompt_tokens, rate(r->prompt_tokens, r->prompt_seconds),
        (unsigned long long)r->decode_tokens, rate(r->decode_tokens, r->decode_seconds), sparse,
        r->load_seconds, peak, why ? "; stopped: " : "", why ? why : "");
}

static json_t *id_array(const int32_t *ids, size_t n)
{
    json_t *a = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(a, json_integer(ids[i]));
    return a;
}

/* Length of the UTF-8 sequence at s (n bytes left), 0 where there is none. */
static size_t utf8_length(const unsigned char *s, size_t n)
{
    size_t len = *s < 0x80                 ? 1
                 : *s >= 0xc2 && *s < 0xe0 ? 2
                 : *s >= 0xe0 && *s < 0xf0 ? 3
                 : *s >= 0xf0 && *s < 0xf5 ? 4
                                           : 0;
    if (len == 0 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    bool bad = (*s == 0xe0 && s[1] < 0xa0) || (*s == 0xed && s[1] >= 0xa0) || (*s == 0xf0 && s[1] < 0x90) ||
               (*s == 0xf4 && s[1] >= 0x90);
    return bad ? 0 : len;
}

/* JSON holds UTF-8 only: bytes that are none become U+FFFD. */
static json_t *text_json(const struct strbuf *text)
{
    struct strbuf clean;
    strbuf_init(&clean);
    for (size_t i = 0; i < text->len;) {
        size_t len = utf8_length((const unsigned char *)text->s + i, text->len - i);
        if (len)
            strbuf_add(&clean, text->s + i, len);
        else
            strbuf_puts(&clean, "\xef\xbf\xbd");
        i += len ? len : 1;
    }
    json_t *j = json_stringn(clean.len ? clean.s : "", clean.len);
    strbuf_finish(&clean);
    return j;
}

static int print_json(const struct run *r, const char *path, const int32_t *prompt, size_t n_prompt,
                      const int32_t *ids, size_t n_ids, const struct strbuf *text, enum stop why)
{
    calor_model_info m;
    calor_session_info s;
    calor_model_describe(r->model, &m);
    calor_session_describe(r->session, &s);
    json_t *timings =
        json_pack("{s:f, s:I, s:f, s:f, s:I, s:f, s:f}", "load_seconds", r->load_seconds, "prompt_tokens",
                  (json_int_t)r->prompt_tokens, "prompt_seconds", r->prompt_seconds,
                  "prompt_tokens_per_second", rate(r->prompt_tokens, r->prompt_seconds), "decode_tokens",
                  (json_int_t)r->decode_tokens, "decode_seconds", r->decode_seconds,
                  "decode_tokens_per_second", rate(r->decode_tokens, r->decode_seconds));
    json_t *memory = json_pack("{s:I, s:I, s:I, s:I}", "peak_bytes", (json_int_t)open_peak_bytes(),
                               "weight_bytes", (json_int_t)m.weight_bytes, "kv_bytes", (json_int_t)s.kv_bytes,
                               "compute_bytes", (json_int_t)s.compute_bytes);
    json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:o, s:o, s:o, s:s, s:o, s:o}", "model", path,
                          "architecture", m.architecture, "activation", m.activation, "cpu", m.cpu, "threads",
                          m.threads, "mode", open_modes[s.mode], "seed", (json_int_t)r->sampler.seed,
                          "prompt_ids", id_array(prompt, n_prompt), "ids", id_array(ids, n_ids), "text",
                          text_json(text), "stop", stop_words[why], "timings", timings, "memory", memory);
    json_t *ffn = open_ffn_json(r->session, m.layers);
    if (j && ffn) json_object_set(j, "ffn", ffn);
    json_decref(ffn);
    char *out = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    if (out) puts(out);
    free(out);
    json_decref(j);
    return out ? CLI_OK : cli_fail_text(CALOR_ENOMEM, "no memory for the report");
}

/* The prompt's ids: -p or -f's text as it is, or as a user's message where a template is named. */
static int read_prompt(struct run *r, const char *prompt, const char *file, const char *template_name,
                       const char *system, int32_t **ids, size_t *n)
{
    char *text = NULL, err[1000];
    size_t len = prompt ? strlen(prompt) : 0;
    int status = CLI_OK;
    if (file) {
        if ((status = open_text(file, &text, &len)) != CLI_OK) return status;
        if (len > 0 && text[len - 1] == '\n') text[--len] = 0; /* an editor's, not the prompt's */
    }
    if (template_name || system) {
        calor_chat_message msgs[2] = {{"system", system}, {"user", text ? text : prompt}};
        int rc = calor_chat_tokens(r->model, template_name, system ? msgs : msgs + 1, system ? 2 : 1, ids, n,
                                   err, sizeof err);
        if (rc < 0) status = cli_fail_text(rc, err);
    } else {
        status =
            open_tokenize(r->model, text ? text : prompt, len, CALOR_TOK_BOS | CALOR_TOK_SPECIAL, ids, n);
    }
    free(text);
    if (status == CLI_OK && *n == 0)
        status =
            cli_fail_text(CALOR_EARG, "the prompt is empty, and this model has no token that begins a text");
    return status;
}

static int complete(struct run *r, const char *path, const int32_t *prompt, size_t n_prompt, bool fresh,
                    bool json)
{
    calor_session_info info;
    calor_session_describe(r->session, &info);
    int32_t *ids = malloc(info.context * sizeof *ids);
    if (!ids) return cli_fail_text(CALOR_ENOMEM, "no memory for the tokens");
    struct strbuf text;
    strbuf_init(&text);
    size_t n_ids = 0;
    enum stop why = STOP_INTERRUPT;
    int status = run_prompt(r, prompt, n_prompt);
    if (status == CLI_OK) why = run_generate(r, fresh, ids, &n_ids, &text);
    if (status == CLI_OK && why == STOP_ERROR) status = CLI_ERROR;
    if (status <= 0 || n_ids > 0) {
        if (r->stream) putchar('\n');
        if (json) {
            int printed = print_json(r, path, prompt, n_prompt, ids, n_ids, &text, why);
            if (status == CLI_OK) status = printed;
        }
        fflush(stdout);
        char words[80];
        if (why == STOP_CONTEXT)
            snprintf(words, sizeof words, "the context of %u tokens is full", info.context);
        else
            snprintf(words, sizeof words, "%s",
                     why == STOP_LENGTH ? "-n reached"
                     : why == STOP_END  ? "end of text"
                                        : stop_words[why]);
        run_summary(r, words);
    }
    strbuf_finish(&text);
    free(ids);
    if (cli_interrupted()) return 128 + cli_interrupted();
    return status;
}

static int run(const struct cli_command *self, int argc, char **argv)
{
    struct run r = {.n = -1, .sampler = calor_sampler_default()};
    const char *model = NULL, *prompt = NULL, *file = NULL, *template_name = NULL, *system = NULL;
    double temp = (double)r.sampler.temperature, top_p = (double)r.sampler.top_p,
           min_p = (double)r.sampler.min_p, penalty = (double)r.sampler.repeat_penalty;
    int64_t top_k = r.sampler.top_k, repeat_last = r.sampler.repeat_last;
    bool json = false;
    const struct cli_opt opts[] = {
        {'p', "prompt", CLI_STR, &prompt, "TEXT", "text to continue"},
        {'f', "file", CLI_STR, &file, "FILE", "file with the text to continue, - for standard input"},
        {'n', "tokens", CLI_INT, &r.n, "N", "most tokens to write (default: until the text ends)", -1, 1e9},
        {0, "temp", CLI_FLOAT, &temp, "T", "temperature (default 0.8), 0: always the likeliest token", 0,
         1e3},
        {0, "top-k", CLI_INT, &top_k, "K", "choose among the K likeliest (default 40), 0: all", 0, 1e9},
        {0, "top-p", CLI_FLOAT, &top_p, "P", "choose among the likeliest with mass P (default 0.95)", 1e-6,
         1},
        {0, "min-p", CLI_FLOAT, &min_p, "P", "leave out below P times the likeliest (default 0.05)", 0, 1},
        {0, "repeat-penalty", CLI_FLOAT, &penalty, "R", "penalty on repeated tokens (default 1: none)", 1e-3,
         1e3},
        {0, "repeat-last", CLI_INT, &repeat_last, "N", "tokens it looks back (default 64), -1: all", -1, 1e9},
        {0, "seed", CLI_U64, &r.sampler.seed, "S", "seed (default 0): the same gives the same text"},
        OPEN_OPTIONS(&r.open),
        {0, "chat-template", CLI_STR, &template_name, "NAME",
         "how this model writes conversations (default: what its file says); with -p or -f: answer it as a "
         "message"},
        {0, "system", CLI_STR, &system, "TEXT", "a conversation's system message"},
        {0, "json", CLI_FLAG, &json, NULL, "one JSON object instead of text"},
        {0},
    };
    int status;
    if (!cli_parse(self, opts, argc, argv, &model, NULL, 1, 1, &status)) return status;
    if (prompt && file) return cli_usage(self, "-p and -f exclude each other");
    bool chat = !prompt && !file;
    if (chat && json) return cli_usage(self, "--json needs -p or -f");
    if (chat && !isatty(STDIN_FILENO))
        return cli_usage(
            self, "give -p TEXT or -f FILE (-f - reads standard input); conversations need a terminal");
    r.sampler.temperature = (float)temp;
    r.sampler.top_k = (int)top_k;
    r.sampler.top_p = (float)top_p;
    r.sampler.min_p = (float)min_p;
    r.sampler.repeat_penalty = (float)penalty;
    r.sampler.repeat_last = (int)repeat_last;
    r.stream = !json;

    int32_t *ids = NULL;
    size_t n = 0;
    cli_catch_interrupts(interrupt, &r);
    status = open_model(&r.model, model, &r.open, &r.load_seconds);
    if (status == CLI_OK && !chat) status = read_prompt(&r, prompt, file, template_name, system, &ids, &n);
    if (status == CLI_OK) status = open_session(&r.session, r.model, &r.open, 0);
    if (status == CLI_OK && chat) {
        status = chat_run(&r, template_name, system);
    } else if (status == CLI_OK) {
        bool answer = template_name || system;
        if (!json && !answer && prompt && isatty(STDOUT_FILENO)) {
            printf(cli_color(STDOUT_FILENO) ? "\033[2m%s\033[0m" : "%s",
                   prompt); /* so that it reads as one text */
            fflush(stdout);
        }
        status = complete(&r, model, ids, n, answer, json);
    }
    free(ids);
    calor_session_close(&r.session);
    calor_model_close(&r.model);
    return status;
}

const struct cli_command cmd_run = {
    "run",
    "MODEL [-p TEXT | -f FILE]",
    "Continue a text, or talk to a model",
    "Text goes to standard output, a summary to standard error. Without -p or -f, on a terminal, a "
    "conversation\n"
    "begins; /help says what can be typed there. Ctrl-C stops the writing and keeps what is there.",
    "  calor run model.gguf -p \"Once upon a time\" -n 100\n"
    "  calor run model.gguf -f prompt.txt --temp 0 --json\n"
    "  calor run model.gguf",
    run,
};
