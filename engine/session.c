/* Sessions: the timeline, split into batches. */
#include "engine/session.h"

#include "base/checked.h"
#include "base/err.h"
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/model.h"
#include "engine/pass.h"
#include "engine/sampler.h"
#include "io/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_CONTEXT 4096u
#define DEFAULT_BATCH   512u
#define MAX_BATCH       8192u

calor_session_settings calor_session_default(void)
{
    return (calor_session_settings){.mode = CALOR_AUTO};
}

static int check(const struct calor_model *m, const calor_session_settings *s, struct err *e)
{
    bool by_neuron = m->layers[0].by.kind != NULL;
    if ((int)s->mode < CALOR_AUTO || s->mode > CALOR_PREDICT)
        return err_set(e, ERR_ARG, "session mode %d is unknown", (int)s->mode);
    if ((s->mode == CALOR_EXACT || s->mode == CALOR_SURE || s->mode == CALOR_THRESHOLD ||
         s->mode == CALOR_PREDICT) &&
        !by_neuron)
        return err_set(e, ERR_STATE,
                       "this mode leaves neurons out: it needs a model opened with CALOR_LAYOUT_NEURON");
    if (s->mode == CALOR_SURE && !m->layers[0].by.screen)
        return err_set(e, ERR_STATE,
                       "this mode screens gates by their coarse plane: it needs a model opened with planes");
    if (s->mode == CALOR_PREDICT && !m->layers[0].predicting.fc1.data)
        return err_set(e, ERR_STATE, "this mode needs a model opened with a predictor");
    if ((s->mode == CALOR_EXACT || s->mode == CALOR_SURE) && !activation_has_zeros(&m->act))
        return err_set(
            e, ERR_ARG,
            "this mode leaves out neurons that are exactly zero, and with %s none is: threshold leaves "
            "out small ones, dense none",
            m->act.name);
    if (s->mode == CALOR_THRESHOLD && !s->epsilon && !m->epsilon)
        return err_set(e, ERR_ARG,
                       "threshold mode needs an epsilon for each of the %u layers: of a profile (where the "
                       "activation has zeros: one made with calor profile --ppl, or a CETT with it)",
                       m->hp.layers);
    for (uint32_t i = 0; s->mode == CALOR_THRESHOLD && s->epsilon && i < m->hp.layers; i++)
        if (!(s->epsilon[i] >= 0.0f) || isinf(s->epsilon[i]))
            return err_set(e, ERR_ARG, "the epsilon of layer %u is %g: expected a number from 0", i,
                           (double)s->epsilon[i]);
    if (s->context > 0x7fffffffu)
        return err_set(e, ERR_ARG, "a context of %u tokens: expected at most 2147483647", s->context);
    if (s->batch > MAX_BATCH)
        return err_set(e, ERR_ARG, "a batch of %u tokens: expected at most %u", s->batch, MAX_BATCH);
    if (m->arch->position == POSITION_LEARNED && s->context > m->hp.context)
        return err_set(e, ERR_ARG, "a context of %u tokens: this model has %u learned positions", s->context,
                       m->hp.context);
    return 0;
}

int session_check_memory(const struct calor_session *s, uint64_t available, struct err *e)
{
    const struct hparams *hp = &s->m->hp;
    const unsigned mib = 20;
    /* What does not grow with the context, and what a token of it takes; `heads` times, up to 63 bytes of the
     * cache are there to align the next one. hparams_read's limits keep all of it far below
     * 2^63. */
    uint64_t fixed = s->arena_bytes + 2 * (uint64_t)hp->vocab * sizeof(struct candidate);
    uint64_t heads = 2ull * hp->kv_heads * hp->layers, token = heads * s->kv.row_bytes + sizeof *s->ids, sum;
    if (checked_add(s->kv.bytes, fixed + s->context * sizeof *s->ids, &sum) && sum <= available) return 0;
    if (fixed + 64 * heads + token > available)
        return err_set(e, ERR_NOMEM,
                       "the buffers of %u tokens at once need %llu MiB, and %llu MiB of memory are free: a "
                       "smaller batch or fewer threads need less",
                       s->batch, (unsigned long long)(fixed >> mib), (unsigned long long)(available >> mib));
    return err_set(
        e, ERR_NOMEM,
        "a context of %u tokens needs %llu MiB of KV cache and %llu MiB of buffers, and %llu MiB of "
        "memory are free: at most %llu tokens would fit",
        s->context, (unsigned long long)(s->kv.bytes >> mib), (unsigned long long)(fixed >> mib),
        (unsigned long long)(available >> mib),
        (unsigned long long)((available - fixed - 64 * heads) / token));
}

int calor_session_open(calor_session **out, calor_model *m, const calor_session_settings *settings, char *err,
                       size_t errlen)
{
    struct err e = {0};
    calor_session_settings defaults = calor_session_default();
    if (!settings) settings = &defaults;
    if (err && errlen) *err = 0;
    *out = NULL;
    struct calor_session *s = calloc(1, sizeof *s);
    if (!s) {
        err_set(&e, ERR_NOMEM, "no memory for a session");
        return model_fail(&e, err, errlen);
    }
    s->m = m;
    if (check(m, settings, &e) < 0) goto fail;
    s->mode = settings->mode != CALOR_AUTO                            ? settings->mode
              : m->layers[0].by.kind && activation_has_zeros(&m->act) ? CALOR_EXACT
                                                                      : CALOR_DENSE_FAST;
    s->count_recall = settings->recall != 0 && m->layers[0].by.kind;
    if ((s->mode == CALOR_THRESHOLD || s->count_recall) && neurons_norms(m, &e) < 0) goto fail;
    s->context = settings->context ? settings->context
                                   : (m->hp.context < DEFAULT_CONTEXT ? m->hp.context : DEFAULT_CONTEXT);
    s->batch = settings->batch ? settings->batch : DEFAULT_BATCH;
    if (s->batch > s->context) s->batch = s->context;
    if (kv_plan(&s->kv, &m->hp, s->context, settings->kv, &e) < 0) goto fail;
    if (forward_plan(s, &e) < 0 || kv_allocate(&s->kv, &e) < 0) goto fail;
    calor_session_ffn_reset(s);
    if (s->mode == CALOR_THRESHOLD)
        memcpy(s->epsilon, settings->epsilon ? settings->epsilon : m->epsilon,
               m->hp.layers * sizeof *s->epsilon);
    s->ids = malloc(s->context * sizeof *s->ids);
    s->candidates = sampler_workspace(m->hp.vocab);
    if (!s->ids || !s->candidates) {
        err_set(&e, ERR_NOMEM, "no memory for a session of %u tokens", s->context);
        goto fail;
    }
    *out = s;
    return 0;
fail:
    calor_session_close(&s);
    return model_fail(&e, err, errlen);
}

void calor_session_close(calor_session **ps)
{
    if (!ps || !*ps) return;
    struct calor_session *s = *ps;
    kv_finish(&s->kv);
    free(s->arena);
    free(s->workers);
    free(s->ids);
    free(s->candidates);
    free(s);
    *ps = NULL;
}

/* `out`: logits of every token, or NULL for the last one's alone. */
static int eval(struct calor_session *s, const int32_t *ids, size_t n, float *out, struct err *e)
{
    const struct calor_model *m = s->m;
    if (n == 0) return err_set(e, ERR_ARG, "no tokens to compute");
    if (n > s->context - s->position)
        return err_set(e, ERR_FULL, "%zu tokens do not fit: %u of the context's %u are taken", n, s->position,
                       s->context);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= m->hp.vocab)
            return err_set(e, ERR_ARG, "token %zu is %d: expected an id from 0 to %u", i, ids[i],
                           m->hp.vocab - 1);
    s->has_logits = 0;
    for (size_t at = 0; at < n;) {
        size_t T = n - at < s->batch ? n - at : s->batch;
        struct pass p = {.m = m,
                         .s = s,
                         .ids = ids + at,
                         .T = (int64_t)T,
                         .pos0 = (int64_t)(s->position + at),
                         .logits = out ? out + at * m->hp.vocab : s->logits,
                         .all = out != NULL};
        /* Weights are used in place: a file cut short must be an error before a page of it is missing. */
        int r = m->mapped ? gguf_check_size(m->file, e) : 0;
        if (r) return r;
        r = forward_run(&p);
        if (r == ERR_CANCELLED) return err_set(e, r, "cancelled after %zu of %zu tokens", at, n);
        if (r == ERR_NUMERIC)
            return err_set(e, r,
                           "the model's output at position %zu is not a number: its weights are damaged, or "
                           "its activation (%s) is not the one it was trained with",
                           s->position + at + T - 1, m->act.name);
        at += T;
    }
    if (out) memcpy(s->logits, out + (n - 1) * m->hp.vocab, m->hp.vocab * sizeof *out);
    memcpy(s->ids + s->position, ids, n * sizeof *ids);
    s->position += (uint32_t)n;
    s->has_logits = 1;
    return 0;
}

int calor_eval(calor_session *s, const int32_t *ids, size_t n, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    return eval(s, ids, n, NULL, &e) < 0 ? model_fail(&e, err, errlen) : 0;
}

int calor_eval_all(calor_session *s, const int32_t *ids, size_t n, float *out, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    if (!out) {
        err_set(&e, ERR_ARG, "calor_eval_all: out must not be NULL");
        return model_fail(&e, err, errlen);
    }
    return eval(s, ids, n, out, &e) < 0 ? model_fail(&e, err, errlen) : 0;
}

const float *calor_logits(const calor_session *s)
{
    return s->has_logits ? s->logits : NULL;
}

uint32_t calor_position(const calor_session *s)
{
    return s->position;
}

int calor_rewind(calor_session *s, uint32_t n)
{
    if (n > s->position) return CALOR_EARG;
    if (n < s->position) s->has_logits = 0;
    s->position = n;
    atomic_store(&s->cancel, 0);
    return 0;
}

void calor_cancel(calor_session *s)
{
    atomic_store_explicit(&s->cancel, 1, memory_order_relaxed);
}

void calor_session_describe(const calor_session *s, calor_session_info *info)
{
    *info = (calor_session_info){.context = s->context,
                                 .batch = s->batch,
                                 .mode = s->mode,
                                 .kv_bytes = s->kv.bytes,
                                 .compute_bytes = s->arena_bytes + s->context * sizeof *s->ids};
}

int calor_session_ffn(const calor_session *s, uint32_t layer, calor_ffn_counts *out)
{
    *out = (calor_ffn_counts){0};
    if (layer >= s->m->hp.layers) return CALOR_EARG;
    for (int i = 0; i < team_size(s->m->team) && s->workers[i].counts; i++) {
        const calor_ffn_counts *c = &s->workers[i].counts[layer];
        out->neurons += c->neurons;
        out->exact += c->exact;
        out->listed += c->listed;
        out->active += c->active;
        out->bytes += c->bytes;
        out->screen += c->screen;
    }
    return 0;
}

void calor_session_ffn_reset(calor_session *s)
{
    for (int i = 0; i < team_size(s->m->team) && s->workers[i].counts; i++)
        memset(s->workers[i].counts, 0, s->m->hp.layers * sizeof *s->workers[i].counts);
    if (s->recall) memset(s->recall, 0, s->m->hp.layers * sizeof *s->recall);
}

int calor_session_recall(const calor_session *s, uint32_t layer, calor_ffn_recall *out)
{
    *out = (calor_ffn_recall){0};
    if (layer >= s->m->hp.layers) return CALOR_EARG;
    if (s->recall) *out = s->recall[layer];
    return 0;
}

int32_t calor_sample(calor_session *s, calor_sampler *sp, char *err, size_t errlen)
{
    struct err e = {0};
    if (err && errlen) *err = 0;
    if (!s->has_logits) {
        err_set(&e, ERR_STATE, "there are no logits to sample from: evaluate tokens first");
        return model_fail(&e, err, errlen);
    }
    uint32_t last = sp->repeat_last < 0 || (uint32_t)sp->repeat_last > s->position
                        ? s->position
                        : (uint32_t)sp->repeat_last;
    int32_t id =
        sampler_pick(sp, s->logits, s->m->hp.vocab, s->ids + s->position - last, last, s->candidates, &e);
    return id < 0 ? model_fail(&e, err, errlen) : id;
}
