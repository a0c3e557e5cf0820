/* Drives the profiler: texts go through the model, densely, and what each neuron does goes to placement's
 * recorder.
 *
 * First a few sampled tokens, for the CETT curves and, where the activation has no zeros, the epsilon from
 * which a neuron counts as active (measure_ppl.c searches for it by perplexity); then all tokens of all
 * texts. */
#include "engine/measure_priv.h"

#include "base/err.h"
#include "base/threads.h"
#include "engine/model.h"
#include "engine/quality.h"
#include "engine/tokenizer.h"
#include "io/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    GRID = 101,               /* points of a CETT curve */
    SAMPLE_WINDOWS = 16,      /* that samples are taken from, at most */
    SAMPLE_MIB = 512,         /* most memory for their activations */
    TRACE_RUN = 256,          /* tokens of a recorded run */
    TRACE_TOKENS_MOST = 4096, /* of each text: comparing all pairs of neurons takes f²·tokens/64 steps */
    BATCH_LEAST = NEURON_TOKENS + 1,
};

static void report_progress(struct measure *x, int64_t tokens)
{
    x->done += (double)tokens;
    if (x->s->progress && x->s->progress(x->done / x->all, x->s->progress_arg)) calor_cancel(x->session);
}

static void fail(struct measure *x, int rc)
{
    if (rc == 0 || x->rc) return;
    x->rc = rc;
    calor_cancel(x->session);
}

/* ---- Sampled tokens ---- */

static void see_samples(void *arg, uint32_t layer, int64_t pos, int64_t T, const float *in, const float *h)
{
    struct measure *x = arg;
    size_t f = x->m->hp.ffn;
    (void)in;
    for (uint32_t k = 0; k < x->n_at; k++)
        if (x->at[k] >= pos && x->at[k] < pos + T)
            memcpy(x->samples_h + ((size_t)layer * x->samples + x->taken + k) * f,
                   h + (size_t)(x->at[k] - pos) * f, f * sizeof *h);
    report_progress(x, T);
}

/* One window through the model: n of the text's own tokens. */
static int compute(struct measure *x, const int32_t *ids, uint32_t n)
{
    char msg[1000];
    if (x->skip) x->ids[0] = tok_bos(x->m->tok);
    memcpy(x->ids + x->skip, ids, n * sizeof *ids);
    calor_rewind(x->session, 0);
    int rc = calor_eval(x->session, x->ids, n + x->skip, msg, sizeof msg);
    if (x->rc) return x->rc; /* why it was cancelled */
    return rc ? err_set(x->e, rc, "%s", msg) : 0;
}

static uint32_t windows_of(const struct measure *x, const struct measure_text *t)
{
    uint32_t own = x->window - x->skip;
    return (uint32_t)((t->n + own - 1) / own);
}

static uint32_t own_tokens(const struct measure *x, const struct measure_text *t, uint32_t w)
{
    uint32_t own = x->window - x->skip;
    uint64_t left = t->n - (uint64_t)w * own;
    return left < own ? (uint32_t)left : own;
}

/* The windows of the calibration text, all files of it as one. */
static uint32_t calibration_windows(const struct measure *x)
{
    uint32_t n = 0;
    for (size_t i = 0; i < x->s->n_texts; i++)
        if (x->s->texts[i].text == PROFILE_CALIBRATION) n += windows_of(x, &x->s->texts[i]);
    return n;
}

static const int32_t *calibration_window(const struct measure *x, uint32_t w, uint32_t *tokens)
{
    for (size_t i = 0; i < x->s->n_texts; i++) {
        const struct measure_text *t = &x->s->texts[i];
        uint32_t n = t->text == PROFILE_CALIBRATION ? windows_of(x, t) : 0;
        if (w < n) {
            *tokens = own_tokens(x, t, w);
            return t->ids + (size_t)w * (x->window - x->skip);
        }
        w -= n;
    }
    return NULL;
}

/* Evenly: `samples` tokens of at most SAMPLE_WINDOWS windows, spread over the text and over positions. */
static int take_samples(struct measure *x)
{
    uint32_t all = calibration_windows(x), used = all < SAMPLE_WINDOWS ? all : SAMPLE_WINDOWS;
    x->observer = (struct observer){see_samples, x};
    for (uint32_t k = 0; k < used; k++) {
        uint32_t tokens = 0, want = x->samples * (k + 1) / used - x->samples * k / used;
        const int32_t *ids =
            calibration_window(x, (uint32_t)((uint64_t)all * (2 * k + 1) / (2 * used)), &tokens);
        x->n_at = want < tokens ? want : tokens;
        for (uint32_t i = 0; i < x->n_at; i++)
            x->at[i] = x->skip + (uint32_t)(((uint64_t)tokens * (2 * i + 1)) / (2 * x->n_at));
        int rc = x->n_at ? compute(x, ids, tokens) : 0;
        if (rc) return rc;
        x->taken += x->n_at;
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* From 0 to just above the largest magnitude, by quantiles of those that are not zero; returns how many. */
static uint32_t make_grid(const struct measure *x, const float *h, const float *norms, float *work,
                          float *grid)
{
    size_t n = 0, f = x->m->hp.ffn;
    for (size_t i = 0; i < x->taken * f; i++)
        if (h[i] != 0.0f) work[n++] = fabsf(h[i]) * norms[i % f];
    qsort(work, n, sizeof *work, by_value);
    grid[0] = 0.0f;
    for (size_t k = 1; k < GRID && n; k++) grid[k] = work[(n - 1) * k / (GRID - 1)];
    if (n) grid[GRID - 1] = nextafterf(work[n - 1], INFINITY);
    return n ? GRID : 1;
}

/* What one sampled token's neurons add up to, a bucket each; one sample a thread at a time. */
struct bucketing {
    const struct measure *x;
    const struct layer *l;
    const float *h, *grid; /* h: of the first sample of this round */
    uint32_t n_grid, first, rounds;
    float *sums;      /* samples of a round × (GRID+1) × d */
    uint32_t *counts; /* × (GRID+1) */
    uint8_t *scratch; /* a thread's each */
    size_t scratch_bytes;
};

static void bucket_part(struct team_member *t, void *arg)
{
    const struct bucketing *b = arg;
    const struct neurons *by = &b->l->by;
    int64_t d = b->x->m->hp.width, f = b->x->m->hp.ffn, k;
    while (team_next(t, 0, b->rounds, 1, &k)) {
        float *sums = b->sums + k * (GRID + 1) * d;
        uint32_t *counts = b->counts + k * (GRID + 1);
        const float *h = b->h + k * f;
        memset(sums, 0, (size_t)((GRID + 1) * d) * sizeof *sums);
        memset(counts, 0, (GRID + 1) * sizeof *counts);
        for (int64_t i = 0; i < f; i++) {
            uint32_t at = profile_bucket(b->grid, b->n_grid, fabsf(h[i]) * by->norms[i]);
            uint16_t one = (uint16_t)(i % KERN_BLOCK);
            counts[at]++;
            if (h[i] == 0.0f) continue;
            by->kind->add(sums + at * d, &by->down, i - one, &one, h + i, 1, d, 0, d,
                          b->scratch + (size_t)t->ith * b->scratch_bytes);
        }
    }
}

static int layer_curve(struct measure *x, uint32_t layer, struct bucketing *b, float *work)
{
    float grid[GRID];
    size_t f = x->m->hp.ffn, d = x->m->hp.width;
    const float *h = x->samples_h + (size_t)layer * x->samples * f;
    uint32_t threads = (uint32_t)team_size(x->m->team);
    b->l = &x->m->layers[layer];
    b->grid = grid;
    b->n_grid = make_grid(x, h, b->l->by.norms, work, grid);
    int rc = profile_recorder_grid(x->r, layer, grid, b->n_grid, x->e);
    for (uint32_t k = 0; rc == 0 && k < x->taken; k += threads) {
        b->rounds = x->taken - k < threads ? x->taken - k : threads;
        b->h = h + k * f;
        pthread_mutex_lock(&x->m->run_lock);
        team_run(x->m->team, bucket_part, b);
        pthread_mutex_unlock(&x->m->run_lock);
        for (uint32_t i = 0; rc == 0 && i < b->rounds; i++)
            rc = profile_recorder_sample(x->r, layer, b->sums + (size_t)i * (GRID + 1) * d,
                                         b->counts + (size_t)i * (GRID + 1), x->e);
    }
    return rc;
}

static int measure_curves(struct measure *x)
{
    size_t f = x->m->hp.ffn, d = x->m->hp.width, threads = (size_t)team_size(x->m->team);
    struct bucketing b = {.x = x};
    x->samples_h = malloc((size_t)x->m->hp.layers * x->samples * f * sizeof *x->samples_h);
    float *work = malloc((size_t)x->samples * f * sizeof *work);
    b.scratch_bytes = (x->m->layers[0].by.kind->scratch_bytes(x->m->hp.width) + 127) / 64 * 64;
    for (uint32_t i = 1; i < x->m->hp.layers; i++) {
        size_t own = (x->m->layers[i].by.kind->scratch_bytes(x->m->hp.width) + 127) / 64 * 64;
        if (own > b.scratch_bytes) b.scratch_bytes = own;
    }
    b.sums = malloc(threads * (GRID + 1) * d * sizeof *b.sums);
    b.counts = malloc(threads * (GRID + 1) * sizeof *b.counts);
    b.scratch = aligned_alloc(64, threads * b.scratch_bytes);
    int rc = x->samples_h && work && b.sums && b.counts && b.scratch
                 ? take_samples(x)
                 : err_set(x->e, ERR_NOMEM, "no memory for %u sampled tokens: take fewer with --samples",
                           x->samples);
    for (uint32_t i = 0; rc == 0 && i < x->m->hp.layers; i++) rc = layer_curve(x, i, &b, work);
    free(x->samples_h);
    x->samples_h = NULL;
    free(work);
    free(b.sums);
    free(b.counts);
    free(b.scratch);
    return rc;
}

/* ---- All tokens ---- */

static void see_all(void *arg, uint32_t layer, int64_t pos, int64_t T, const float *in, const float *h)
{
    struct measure *x = arg;
    int64_t skip = pos < x->skip ? x->skip - pos : 0;
    (void)in;
    if (skip < T && x->rc == 0)
        fail(x, profile_recorder_add(x->r, layer, (uint32_t)(pos + skip - x->skip), (uint32_t)(T - skip),
                                     h + (size_t)skip * x->m->hp.ffn, x->e));
    report_progress(x, T);
}

/* The windows of one kind of text, with runs recorded in evenly chosen ones, at their ends. */
static int count_text(struct measure *x, enum profile_text text)
{
    uint32_t all = 0, w = 0, own = x->window - x->skip;
    for (size_t i = 0; i < x->s->n_texts; i++)
        if (x->s->texts[i].text == text) all += windows_of(x, &x->s->texts[i]);
    uint64_t room = profile_recorder_trace_room(x->r), start = 0;
    if (room > TRACE_TOKENS_MOST) room = TRACE_TOKENS_MOST;
    uint32_t run = own < TRACE_RUN ? own : TRACE_RUN;
    if (run > room) run = (uint32_t)room;
    uint32_t runs = run ? (uint32_t)(room / run) : 0;
    if (runs > all) runs = all;
    for (size_t i = 0; i < x->s->n_texts; i++) {
        const struct measure_text *t = &x->s->texts[i];
        for (uint32_t k = 0; t->text == text && k < windows_of(x, t); k++, w++) {
            bool trace = (uint64_t)(w + 1) * runs / all > (uint64_t)w * runs / all;
            uint32_t tokens = own_tokens(x, t, k), len = !trace ? 0 : tokens < run ? tokens : run;
            int rc = profile_recorder_begin(x->r, text, start, tokens - len, tokens, x->e);
            if (rc == 0) rc = compute(x, t->ids + (size_t)k * own, tokens);
            if (rc) return rc;
            start += tokens;
        }
    }
    return 0;
}

static int set_layers(struct measure *x)
{
    bool zeros = activation_has_zeros(&x->m->act);
    for (uint32_t i = 0; i < x->m->hp.layers; i++) {
        float epsilon = 0.0f;
        int rc = 0;
        if (x->s->earlier)
            epsilon = profile_epsilon(x->s->earlier, i);
        else if (!zeros)
            rc = profile_recorder_epsilon(x->r, i, x->cett, &epsilon, x->e);
        if (rc == 0) rc = profile_recorder_layer(x->r, i, x->m->layers[i].by.norms, epsilon, x->e);
        if (rc) return rc;
    }
    if (x->s->earlier)
        profile_recorder_cett(x->r, profile_cett_target(x->s->earlier));
    else if (!zeros)
        profile_recorder_cett(x->r, (float)x->cett);
    return 0;
}

static int check(struct measure *x)
{
    const struct calor_model *m = x->m;
    uint64_t calibration = 0;
    for (size_t i = 0; i < x->s->n_texts; i++)
        if (x->s->texts[i].text == PROFILE_CALIBRATION) calibration += x->s->texts[i].n;
    if (calibration == 0) return err_set(x->e, ERR_ARG, "the text to profile on has no tokens");
    if (!m->layers[0].by.kind)
        return err_set(x->e, ERR_STATE, "profiling needs a model opened with CALOR_LAYOUT_NEURON");
    if (m->layers[0].by.order)
        return err_set(x->e, ERR_STATE, "profiling needs a model opened without a profile");
    x->skip = tok_add_bos(m->tok) && tok_bos(m->tok) >= 0;
    x->window = x->s->window ? x->s->window : m->hp.context < 512 ? m->hp.context : 512;
    if (x->window < 2 * BATCH_LEAST)
        return err_set(x->e, ERR_ARG, "windows of %u tokens: at least %d are needed", x->window,
                       2 * BATCH_LEAST);
    x->samples = x->s->samples;
    uint64_t most = ((uint64_t)SAMPLE_MIB << 20) / ((uint64_t)m->hp.layers * m->hp.ffn * sizeof(float));
    if (x->samples > MEASURE_SAMPLES_MOST) x->samples = MEASURE_SAMPLES_MOST;
    if (x->samples > most) x->samples = most ? (uint32_t)most : 1;
    if (x->samples > calibration) x->samples = (uint32_t)calibration;
    if (x->samples == 0 && !activation_has_zeros(&m->act) && !x->s->earlier)
        return err_set(x->e, ERR_ARG,
                       "with %s no neuron is exactly zero: the magnitude from which one counts is found from "
                       "sampled tokens, at least 1",
                       m->act.name);
    if (x->s->ppl > 0.0 && x->s->earlier)
        return err_set(x->e, ERR_ARG,
                       "an earlier profile's epsilons stay: a perplexity cannot choose others");
    if (x->s->fatrelu && m->act.kind != KERN_RELU && m->act.kind != KERN_FATRELU)
        return err_set(x->e, ERR_ARG, "FATReLU is a threshold for ReLU: this model's activation is %s",
                       m->act.name);
    if (x->s->ppl > 0.0 && x->samples == 0)
        return err_set(x->e, ERR_ARG, "searching by perplexity needs sampled tokens, at least 1");
    return 0;
}

static int prepare(struct measure *x)
{
    struct calor_model *m = x->m;
    char msg[1000];
    struct gguf_str name = {"", 0};
    char model[256] = "";
    if (gguf_get_str(m->file, "general.name", &name, NULL) == 0 && name.n > 0 && !memchr(name.s, 0, name.n)) {
        size_t n = name.n < sizeof model - 1 ? name.n : sizeof model - 1;
        memcpy(model, name.s, n);
        model[n] = 0;
    } else {
        const char *slash = strrchr(gguf_path(m->file), '/');
        strncpy(model, slash ? slash + 1 : gguf_path(m->file), sizeof model - 1);
    }
    struct profile_settings s = {.subject = {.model = model,
                                             .activation = m->act.name,
                                             .zeros = activation_has_zeros(&m->act),
                                             .layers = m->hp.layers,
                                             .neurons = m->hp.ffn,
                                             .width = m->hp.width}};
    int rc = gguf_identity(m->file, s.subject.identity, x->e);
    if (rc == 0 && x->s->earlier) rc = profile_check_model(x->s->earlier, s.subject.identity, model, x->e);
    if (rc == 0) rc = neurons_norms(m, x->e);
    if (rc == 0) rc = profile_recorder_create(&x->r, &s, x->e);
    if (rc) return rc;
    calor_session_settings settings = calor_session_default();
    settings.mode = CALOR_DENSE_FAST;
    settings.context = x->window;
    settings.batch = x->window < 512 ? x->window : 512;
    rc = calor_session_open(&x->session, m, &settings, msg, sizeof msg);
    if (rc) return err_set(x->e, rc, "%s", msg);
    x->session->observer = &x->observer;
    x->ids = malloc(x->window * sizeof *x->ids);
    return x->ids ? 0 : err_set(x->e, ERR_NOMEM, "no memory for a window of %u tokens", x->window);
}

/* Tokens × layers that there are to compute, BOS included. */
static double work(const struct measure *x)
{
    double tokens = 0.0;
    uint32_t all = calibration_windows(x);
    for (size_t i = 0; i < x->s->n_texts; i++)
        tokens += (double)x->s->texts[i].n + (double)windows_of(x, &x->s->texts[i]) * x->skip;
    if (x->samples) tokens += (double)(all < SAMPLE_WINDOWS ? all : SAMPLE_WINDOWS) * x->window;
    return tokens * x->m->hp.layers;
}

/* Tokens of a layer went through the model; non-zero cancels. */
static int tick(void *arg, int64_t tokens)
{
    struct measure *x = arg;
    x->done += (double)tokens;
    return x->s->progress ? x->s->progress(x->done / x->all, x->s->progress_arg) : 0;
}

/* Tokens × layers that the searches compute at most. */
static double search_work(const struct measure *x, const struct quality *q)
{
    int steps = (x->s->ppl > 0.0 ? MEASURE_PPL_STEPS : 0) + (x->s->fatrelu ? MEASURE_FATRELU_STEPS : 0);
    return (double)quality_cost(q) * x->m->hp.layers * steps;
}

static int open_quality(struct measure *x, struct quality **out)
{
    struct quality_settings s = {.model = x->m,
                                 .texts = x->s->texts,
                                 .n_texts = x->s->n_texts,
                                 .window = x->window,
                                 .tokens = x->s->ppl_tokens ? x->s->ppl_tokens : MEASURE_PPL_TOKENS,
                                 .tick = tick,
                                 .arg = x};
    int rc = quality_create(out, &s, x->e);
    if (rc == 0) x->all += search_work(x, *out);
    return rc;
}

/* A search may end early: progress goes on from where it would have been. */
static int search(struct measure *x, struct quality *q)
{
    double all = search_work(x, q), begin = x->done;
    int rc = x->s->ppl > 0.0 ? measure_ppl(x, q, &x->cett) : 0;
    if (rc == 0 && x->s->fatrelu) rc = measure_fatrelu(x, q);
    x->done = begin + all;
    return rc;
}

int measure_profile(struct profile **out, calor_model *m, const struct measure_settings *s, struct err *e)
{
    struct err own;
    struct measure x = {.s = s, .m = m, .e = e ? e : &own, .cett = s->cett};
    struct quality *q = NULL;
    *out = NULL;
    int rc = check(&x);
    if (rc == 0) rc = prepare(&x);
    x.all = rc == 0 ? work(&x) : 1.0;
    if (rc == 0 && (s->ppl > 0.0 || s->fatrelu)) rc = open_quality(&x, &q);
    if (rc == 0 && x.samples) rc = measure_curves(&x);
    if (rc == 0 && q) rc = search(&x, q);
    quality_destroy(&q);
    if (rc == 0) rc = set_layers(&x);
    x.observer = (struct observer){see_all, &x};
    for (int t = 0; rc == 0 && t < PROFILE_TEXTS; t++) rc = count_text(&x, (enum profile_text)t);
    if (rc == 0) rc = profile_recorder_finish(out, x.r, x.e);
    profile_recorder_destroy(&x.r);
    calor_session_close(&x.session);
    free(x.ids);
    return rc;
}
