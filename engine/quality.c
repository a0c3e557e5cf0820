/* Perplexity with neurons left out: see quality.h. */
#include "engine/quality.h"

#include "base/err.h"
#include "engine/model.h"
#include "engine/session.h"
#include "engine/tokenizer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    LEAST = 10,      /* tokens that a window needs to be scored */
    LOGITS_MIB = 64, /* held at once */
};

struct quality {
    struct quality_settings s;
    struct calor_session *session;
    struct observer observer;
    uint32_t skip, own;      /* BOS, and a window's tokens of the text */
    uint64_t windows, taken; /* all that are long enough; of which these are computed */
    uint64_t cost;
    int32_t *ids;
    float *logits;
    size_t piece; /* tokens whose logits are held */
    bool cancelled;
};

/* The w-th window that is long enough: its tokens, and how many. */
static const int32_t *window_at(const struct quality *q, uint64_t w, uint32_t *n)
{
    for (size_t i = 0; i < q->s.n_texts; i++) {
        const struct measure_text *t = &q->s.texts[i];
        if (t->text != PROFILE_HELD_OUT) continue;
        uint64_t whole = t->n / q->own, rest = t->n % q->own, all = whole + (rest + q->skip >= LEAST);
        if (w < all) {
            *n = w < whole ? q->own : (uint32_t)rest;
            return t->ids + w * q->own;
        }
        w -= all;
    }
    *n = 0;
    return NULL;
}

static const int32_t *taken_window(const struct quality *q, uint64_t k, uint32_t *n)
{
    return window_at(q, q->windows * (2 * k + 1) / (2 * q->taken), n);
}

static void seen(void *arg, uint32_t layer, int64_t pos, int64_t T, const float *x, const float *h)
{
    struct quality *q = arg;
    (void)layer;
    (void)pos;
    (void)x;
    (void)h;
    if (!q->s.tick || q->cancelled || !q->s.tick(q->s.arg, T)) return;
    q->cancelled = true;
    calor_cancel(q->session);
}

static int choose_windows(struct quality *q, struct err *e)
{
    uint32_t n;
    while (window_at(q, q->windows, &n)) q->windows++;
    if (q->windows == 0)
        return err_set(e, ERR_ARG,
                       "the held-out text is too short to measure a perplexity on: it takes %d tokens in one "
                       "piece",
                       LEAST - (int)q->skip);
    q->taken = q->s.tokens / q->own;
    if (q->taken == 0) q->taken = 1;
    if (q->taken > q->windows) q->taken = q->windows;
    for (uint64_t k = 0; k < q->taken; k++) {
        taken_window(q, k, &n);
        q->cost += n + q->skip;
    }
    return 0;
}

static int open(struct quality *q, struct err *e)
{
    char msg[1000];
    const struct calor_model *m = q->s.model;
    calor_session_settings settings = calor_session_default();
    float *none = calloc(m->hp.layers, sizeof *none);
    if (!none) return err_set(e, ERR_NOMEM, "no memory to measure a perplexity");
    settings.mode = CALOR_THRESHOLD;
    settings.epsilon = none;
    settings.context = q->s.window;
    settings.batch = q->s.window < 512 ? q->s.window : 512;
    int rc = calor_session_open(&q->session, q->s.model, &settings, msg, sizeof msg);
    free(none);
    if (rc) return err_set(e, rc, "%s", msg);
    q->observer = (struct observer){seen, q};
    q->session->observer = &q->observer;
    return 0;
}

int quality_create(struct quality **out, const struct quality_settings *s, struct err *e)
{
    *out = NULL;
    const struct tokenizer *tok = s->model->tok;
    struct quality *q = calloc(1, sizeof *q);
    if (!q) return err_set(e, ERR_NOMEM, "no memory to measure a perplexity");
    q->s = *s;
    q->skip = tok_add_bos(tok) && tok_bos(tok) >= 0;
    q->own = s->window - q->skip;
    size_t row = s->model->hp.vocab * sizeof *q->logits, most = ((size_t)LOGITS_MIB << 20) / row;
    q->piece = most == 0 ? 1 : most < s->window ? most : s->window;
    int rc = choose_windows(q, e);
    if (rc == 0) rc = open(q, e);
    if (rc == 0) {
        q->ids = malloc(s->window * sizeof *q->ids);
        q->logits = malloc(q->piece * row);
        if (!q->ids || !q->logits) rc = err_set(e, ERR_NOMEM, "no memory to measure a perplexity");
    }
    if (rc)
        quality_destroy(&q);
    else
        *out = q;
    return rc;
}

void quality_destroy(struct quality **pq)
{
    if (!pq || !*pq) return;
    calor_session_close(&(*pq)->session);
    free((*pq)->ids);
    free((*pq)->logits);
    free(*pq);
    *pq = NULL;
}

uint64_t quality_cost(const struct quality *q)
{
    return q->cost;
}

/* −ln p(next). */
static double surprise(const float *x, uint32_t n, int32_t next)
{
    double sum = 0.0, most = (double)x[0];
    for (uint32_t i = 1; i < n; i++)
        if ((double)x[i] > most) most = (double)x[i];
    for (uint32_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum) - (double)x[next];
}

static int score_window(struct quality *q, uint64_t k, double *nll, uint64_t *scored, struct err *e)
{
    char msg[1000];
    uint32_t n, vocab = q->s.model->hp.vocab;
    const int32_t *ids = taken_window(q, k, &n);
    if (q->skip) q->ids[0] = tok_bos(q->s.model->tok);
    memcpy(q->ids + q->skip, ids, n * sizeof *ids);
    n += q->skip;
    calor_rewind(q->session, 0);
    int rc = calor_eval(q->session, q->ids, n / 2, msg, sizeof msg);
    for (uint32_t at = n / 2, part; rc == 0 && at + 1 < n; at += part) {
        part = n - 1 - at < q->piece ? n - 1 - at : (uint32_t)q->piece;
        rc = calor_eval_all(q->session, q->ids + at, part, q->logits, msg, sizeof msg);
        for (uint32_t i = 0; rc == 0 && i < part; i++, ++*scored)
            *nll += surprise(q->logits + (size_t)i * vocab, vocab, q->ids[at + i + 1]);
    }
    return rc ? err_set(e, rc, "%s", msg) : 0;
}

int quality_measure(struct quality *q, const float *epsilon, const struct activation *act,
                    struct quality_result *out, struct err *e)
{
    uint32_t layers = q->s.model->hp.layers;
    uint64_t neurons = 0, active = 0, scored = 0;
    double nll = 0.0;
    memcpy(q->session->epsilon, epsilon, layers * sizeof *epsilon);
    calor_session_ffn_reset(q->session);
    q->session->tried = act;
    for (uint64_t k = 0; k < q->taken; k++) {
        int rc = score_window(q, k, &nll, &scored, e);
        if (rc) return rc;
    }
    for (uint32_t i = 0; i < layers; i++) {
        calor_ffn_counts c;
        calor_session_ffn(q->session, i, &c);
        neurons += c.neurons;
        active += c.active;
    }
    *out = (struct quality_result){.perplexity = exp(nll / (double)scored),
                                   .sparsity = 1.0 - (double)active / (double)neurons,
                                   .scored = scored};
    return 0;
}
