/* See open.h. */
#include "engine/cli/open.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define TEXT_LIMIT (1ull << 30)

const char *const open_modes[] = {"auto", "dense",     "dense-fast", "exact",
                                  "sure", "threshold", "predict",    NULL};
_Static_assert(CALOR_AUTO == 0 && CALOR_DENSE == 1 && CALOR_DENSE_FAST == 2 && CALOR_EXACT == 3 &&
                   CALOR_SURE == 4 && CALOR_THRESHOLD == 5 && CALOR_PREDICT == 6,
               "names by number");
const char *const open_kv[] = {"f16", "q8_0", "f32", NULL};

const char *const open_screens[] = {"none", "plane", NULL};

bool open_planes(int mode, int screen)
{
    return mode == CALOR_SURE || (screen == 1 && mode != CALOR_DENSE_FAST);
}

enum calor_layout open_layout(int mode)
{
    return mode == CALOR_DENSE_FAST                    ? CALOR_LAYOUT_FILE
           : mode == CALOR_AUTO || mode == CALOR_DENSE ? CALOR_LAYOUT_AUTO
                                                       : CALOR_LAYOUT_NEURON;
}

void open_ffn_counts(const calor_session *s, uint32_t layers, calor_ffn_counts *sum)
{
    *sum = (calor_ffn_counts){0};
    for (uint32_t i = 0; i < layers; i++) {
        calor_ffn_counts c;
        calor_session_ffn(s, i, &c);
        sum->neurons += c.neurons;
        sum->exact += c.exact;
        sum->listed += c.listed;
        sum->active += c.active;
        sum->bytes += c.bytes;
        sum->screen += c.screen;
    }
}

void open_recall(const calor_session *s, uint32_t layers, calor_ffn_recall *sum)
{
    *sum = (calor_ffn_recall){0};
    for (uint32_t i = 0; i < layers; i++) {
        calor_ffn_recall r;
        calor_session_recall(s, i, &r);
        sum->neurons += r.neurons;
        sum->active += r.active;
        sum->found += r.found;
        sum->magnitude += r.magnitude;
        sum->magnitude_found += r.magnitude_found;
    }
}

static double left_out(uint64_t part, uint64_t whole)
{
    return whole ? 1.0 - (double)part / (double)whole : 0.0;
}

/* A layer's counts or all layers' together. */
static json_t *counts_json(const calor_ffn_counts *c, const calor_ffn_recall *r)
{
    json_t *j =
        json_pack("{s:f, s:f, s:f, s:I, s:I}", "sparsity", left_out(c->active, c->neurons), "screened",
                  left_out(c->exact, c->neurons), "skipped", left_out(c->listed, c->neurons), "bytes",
                  (json_int_t)c->bytes, "screen_bytes", (json_int_t)c->screen);
    if (!j || !r->active) return j;
    json_object_set_new(j, "recall", json_real(r->magnitude > 0 ? r->magnitude_found / r->magnitude : 1.0));
    json_object_set_new(j, "recall_plain", json_real((double)r->found / (double)r->active));
    if (r->neurons == c->neurons) /* of the same tokens: no batch was computed densely */
        json_object_set_new(j, "candidates_per_active", json_real((double)c->exact / (double)r->active));
    return j;
}

json_t *open_ffn_json(const calor_session *s, uint32_t layers)
{
    calor_ffn_counts c;
    calor_ffn_recall r;
    open_ffn_counts(s, layers, &c);
    open_recall(s, layers, &r);
    if (!c.neurons) return NULL;
    json_t *j = counts_json(&c, &r), *list = json_array();
    for (uint32_t i = 0; i < layers; i++) {
        calor_session_ffn(s, i, &c);
        calor_session_recall(s, i, &r);
        json_array_append_new(list, counts_json(&c, &r));
    }
    if (j)
        json_object_set_new(j, "layers", list);
    else
        json_decref(list);
    return j;
}

int open_check(int mode, const char *profile, double cett, const char *predictor)
{
    if (mode == CALOR_THRESHOLD && !profile)
        return cli_fail_text(CALOR_EARG, "threshold mode needs --profile FILE: `calor profile` makes one");
    if (cett > 0.0 && !profile)
        return cli_fail_text(CALOR_EARG, "--cett chooses from a profile: it needs --profile FILE");
    if (mode == CALOR_AUTO && predictor)
        return cli_fail_text(CALOR_EARG, "--predictor is for --mode predict, which is lossy: give both");
    return CLI_OK;
}

static int on_progress(double done, void *arg)
{
    progress_update(arg, done);
    return cli_interrupted() != 0;
}

int open_model(calor_model **out, const char *path, const struct open_options *o, double *seconds)
{
    char err[1000];
    struct progress bar;
    int status = open_check(o->mode, o->profile, o->cett, o->predictor);
    if (status != CLI_OK) return status;
    calor_model_settings s = calor_model_default();
    s.threads = (int)o->threads;
    s.no_mmap = o->no_mmap;
    s.cpu = o->cpu;
    s.activation = o->activation;
    s.layout = open_layout(o->mode);
    s.planes = open_planes(o->mode, o->screen);
    s.profile = o->profile;
    s.cett = o->cett;
    s.predictor = o->predictor;
    s.own_predictor = o->mode == CALOR_PREDICT;
    s.progress = on_progress;
    s.progress_arg = &bar;
    uint64_t t0 = clock_ns();
    progress_start(&bar, cli_progress(), "load", stderr);
    int r = calor_model_open(out, path, &s, err, sizeof err);
    progress_end(&bar, r == 0);
    *seconds = clock_since(t0);
    if (r != CALOR_ECANCELLED) return r == 0 ? CLI_OK : cli_fail_text(r, err);
    cli_fail_text(r, err);
    return 128 + cli_interrupted(); /* nothing else cancels */
}

int open_session(calor_session **out, calor_model *m, const struct open_options *o, uint32_t batch)
{
    char err[1000];
    calor_session_settings s = calor_session_default();
    s.context = (uint32_t)o->context;
    s.batch = batch;
    s.kv = open_kv[o->kv];
    s.mode = (enum calor_mode)o->mode;
    s.recall = o->recall;
    int r = calor_session_open(out, m, &s, err, sizeof err);
    return r == 0 ? CLI_OK : cli_fail_text(r, err);
}

static int read_stdin(char **text, size_t *len, struct err *e)
{
    size_t cap = 1 << 16, n = 0;
    char *buf = malloc(cap);
    while (buf) {
        size_t got = fread(buf + n, 1, cap - 1 - n, stdin);
        n += got;
        if (got == 0) break;
        if (cap - 1 > n) continue;
        char *more = cap < TEXT_LIMIT ? realloc(buf, cap *= 2) : NULL;
        if (!more) free(buf);
        buf = more;
    }
    if (!buf) return err_set(e, ERR_NOMEM, "standard input is too long");
    if (ferror(stdin)) {
        free(buf);
        return err_set_errno(e, ERR_IO, "reading standard input");
    }
    buf[n] = 0;
    *text = buf;
    *len = n;
    return 0;
}

int open_text(const char *path, char **text, size_t *len)
{
    struct err e = {0};
    int r =
        strcmp(path, "-") == 0 ? read_stdin(text, len, &e) : file_read_all(path, TEXT_LIMIT, text, len, &e);
    return r < 0 ? cli_fail(&e) : CLI_OK;
}

int open_tokenize(const calor_model *m, const char *text, size_t len, int flags, int32_t **ids, size_t *n)
{
    char err[1000];
    size_t cap = len + 2; /* a token is at least a byte, nearly always; grown below where it is not */
    int r;
    *ids = NULL;
    for (int i = 0; i < 2; i++) {
        int32_t *grown = realloc(*ids, cap * sizeof **ids);
        if (!grown) {
            free(*ids);
            *ids = NULL;
            return cli_fail_text(CALOR_ENOMEM, "no memory for the tokens of the text");
        }
        *ids = grown;
        r = calor_tokenize(m, text, len, flags, *ids, cap, n, err, sizeof err);
        if (r == 0) return CLI_OK;
        if (*n <= cap) break;
        cap = *n;
    }
    free(*ids);
    *ids = NULL;
    return cli_fail_text(r, err);
}

uint64_t open_peak_bytes(void)
{
    struct rusage u;
    return getrusage(RUSAGE_SELF, &u) == 0 ? (uint64_t)u.ru_maxrss * 1024u : 0;
}
