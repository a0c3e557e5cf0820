/* See measure_predictor.h: collects what each layer's FFN sees and does, window by window, and has placement
 * train on it, layer by layer. */
#include "engine/measure_predictor.h"

#include "base/err.h"
#include "base/half.h"
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/model.h"
#include "engine/session.h"
#include "engine/tokenizer.h"
#include "io/gguf.h"
#include "placement/predictor_train.h"
#include "placement/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Which windows of the text are for what: of ten, one chooses the cuts and, without a held-out text, one is
 * reported on. */
enum { PART_TRAIN, PART_CUT, PART_TEST, PARTS, OF_TEN = 10, CUT_AT = 9, TEST_AT = 4 };
enum { RANK_STEP = 32, RANKS = 3 };
/* Cuts are chosen to miss this much less than asked: other text is a little harder than the text of the cuts.
 */
#define MARGIN      0.95
#define MEMORY_MOST ((uint64_t)1280 << 20)

struct text {
    const int32_t *ids;
    uint32_t windows, used; /* evenly chosen */
    bool held_out;
};

struct work {
    const struct predictor_settings *s;
    struct calor_model *m;
    struct calor_session *session;
    struct err *e;
    struct predictor *p;
    uint32_t skip, own, samples; /* own: tokens of the text in a window */
    struct text texts[2];
    size_t n[PARTS], first[PARTS], at[PARTS]; /* samples of each part, where it begins, how far it is */
    /* Samples of layers [begin, end), all parts, one layer behind the other. */
    uint32_t begin, end;
    uint16_t *x, *magnitude;
    enum { COLLECTING, ENOUGH } state;
    int part;
    int32_t *ids;
    double done, all; /* of progress */
};

static int report_progress(const struct work *w, double more)
{
    return w->s->progress ? w->s->progress((w->done + more) / w->all, w->s->progress_arg) : 0;
}

/* ---- Collecting ---- */

/* What one thread converts of a layer's tokens. */
struct convert {
    const float *x, *h, *norms;
    uint16_t *x16, *m16;
    int64_t d, f;
};

static void convert_token(const struct convert *c, int64_t k)
{
    for (int64_t i = 0; i < c->d; i++) c->x16[k * c->d + i] = f32_to_f16(c->x[k * c->d + i]);
    for (int64_t i = 0; i < c->f; i++) {
        float h = c->h[k * c->f + i];
        uint16_t v = h != 0.0f ? f32_to_bf16(fabsf(h) * c->norms[i]) : 0;
        c->m16[k * c->f + i] = h != 0.0f && v == 0 ? 1 : v; /* active, however little */
    }
}

static void see(void *arg, uint32_t layer, int64_t pos, int64_t T, const float *x, const float *h)
{
    struct work *w = arg;
    size_t d = w->m->hp.width, f = w->m->hp.ffn, all = w->n[0] + w->n[1] + w->n[2];
    if (w->state == ENOUGH || layer < w->begin || layer >= w->end) return;
    int64_t skip = pos < w->skip ? w->skip - pos : 0;
    size_t to =
        (layer - w->begin) * all + w->first[w->part] + w->at[w->part] + (size_t)(pos + skip - w->skip);
    struct convert c = {.x = x + (size_t)skip * d,
                        .h = h + (size_t)skip * f,
                        .norms = w->m->layers[layer].by.norms,
                        .x16 = w->x + to * d,
                        .m16 = w->magnitude + to * f,
                        .d = (int64_t)d,
                        .f = (int64_t)f};
    for (int64_t k = 0; k < T - skip; k++) convert_token(&c, k);
    if (report_progress(w, 0.0)) calor_cancel(w->session);
    if (layer + 1 == w->end && w->end < w->m->hp.layers) { /* the rest would be for nothing */
        w->state = ENOUGH;
        calor_cancel(w->session);
    }
}

/* The part that the k-th chosen window of a text is for. */
static int part_of(const struct work *w, const struct text *t, uint32_t k)
{
    if (t->held_out) return PART_TEST;
    if (k % OF_TEN == CUT_AT) return PART_CUT;
    return w->texts[1].windows == 0 && k % OF_TEN == TEST_AT ? PART_TEST : PART_TRAIN;
}

static int collect(struct work *w)
{
    char msg[1000];
    struct observer observer = {see, w};
    w->session->observer = &observer;
    memset(w->at, 0, sizeof w->at);
    int rc = 0;
    for (int i = 0; i < 2 && rc == 0; i++) {
        const struct text *t = &w->texts[i];
        for (uint32_t k = 0; k < t->used && rc == 0; k++) {
            uint32_t at = (uint32_t)((uint64_t)t->windows * k / t->used);
            w->part = part_of(w, t, k);
            w->state = COLLECTING;
            if (w->skip) w->ids[0] = tok_bos(w->m->tok);
            memcpy(w->ids + w->skip, t->ids + (size_t)at * w->own, w->own * sizeof *w->ids);
            calor_rewind(w->session, 0);
            rc = calor_eval(w->session, w->ids, w->own + w->skip, msg, sizeof msg);
            if (rc == CALOR_ECANCELLED && w->state == ENOUGH) rc = 0;
            if (rc) err_set(w->e, rc, "%s", msg);
            w->at[w->part] += w->own;
            w->done += (double)w->own * (w->end - w->begin);
        }
    }
    w->session->observer = NULL;
    return rc;
}

/* ---- Training ---- */

static uint64_t ffn_bytes(const struct calor_model *m, uint32_t layer)
{
    const struct layer *l = &m->layers[layer];
    uint64_t up = 0, gate = 0;
    dtype_row_bytes((uint32_t)l->up.type, m->hp.width, &up);
    if (l->gate.n) dtype_row_bytes((uint32_t)l->gate.type, m->hp.width, &gate);
    return m->hp.ffn * (up + gate) + m->hp.width * l->down.row_bytes;
}

/* Four bits, as measured (docs/screens.md): a wider rank is worth more than finer weights. */
static enum dtype type_of(uint32_t n, enum dtype small)
{
    return n % 32 == 0 ? small : DT_F16;
}

/* Ranks to try, largest first: what the bytes allow, two thirds of it, a third. Returns how many. */
static int ranks(const struct work *w, uint32_t layer, uint32_t *out)
{
    uint32_t d = w->m->hp.width, f = w->m->hp.ffn, most = 0;
    double room = w->s->bytes * (double)ffn_bytes(w->m, layer);
    for (uint32_t r = RANK_STEP; r <= d && r <= PREDICTOR_RANK_MOST; r += RANK_STEP)
        if ((double)predictor_bytes(d, f, r, type_of(d, DT_Q4_0), DT_Q4_0, false) <= room) most = r;
    int n = 0;
    for (uint32_t third = 3; third >= 1; third--) {
        uint32_t r = most * third / 3 / RANK_STEP * RANK_STEP;
        if (r && (n == 0 || r < out[n - 1])) out[n++] = r;
    }
    return n;
}

struct layer_progress {
    const struct work *w;
    double before, part;
};

static int on_training(double done, void *arg)
{
    const struct layer_progress *p = arg;
    return report_progress(p->w, p->before + p->part * done);
}

/* Bytes that a token reads of predictor and gates, at a recall. */
static double cost(const struct work *w, uint32_t layer, const struct predictor_scores *s)
{
    uint64_t row = neurons_gate(&w->m->layers[layer])->row_bytes;
    return (double)predictor_layer_bytes(w->p, layer) +
           (double)s->candidates / (double)s->samples * (double)row;
}

static struct predictor_samples samples_of(const struct work *w, uint32_t layer, int part)
{
    size_t at = (layer - w->begin) * (w->n[0] + w->n[1] + w->n[2]) + w->first[part];
    return (struct predictor_samples){
        .n = w->n[part], .x = w->x + at * w->m->hp.width, .magnitude = w->magnitude + at * w->m->hp.ffn};
}

/* Swaps a trained layer out of, or into, the predictor. */
static void swap(struct predictor_layer *a, struct predictor_layer *b)
{
    struct predictor_layer t = *a;
    *a = *b;
    *b = t;
}

/* Trains at several ranks and keeps the one that reads least. work: f floats for the prior and the gate. */
static int train_layer(struct work *w, struct predictor *other, uint32_t layer, float *prior, float *gate,
                       struct predictor_scores *scores, struct predictor_report *out)
{
    struct calor_model *m = w->m;
    const struct mat *g = neurons_gate(&m->layers[layer]);
    struct predictor_samples train = samples_of(w, layer, PART_TRAIN), cut = samples_of(w, layer, PART_CUT),
                             test = samples_of(w, layer, PART_TEST);
    uint32_t rank[RANKS], d = m->hp.width;
    int n = ranks(w, layer, rank), rc = 0;
    double best = INFINITY;
    for (int64_t i = 0; i < g->rows; i++)
        m->ops->decode(g->type, gate + i * g->n, g->data + (size_t)i * g->row_bytes, g->n);
    if (w->s->profile) profile_frequency(w->s->profile, layer, PROFILE_CALIBRATION, prior);
    for (int i = 0; i < n && rc == 0; i++) {
        struct layer_progress lp = {w, (double)train.n * i / n, (double)train.n / n};
        struct predictor_training t = {.team = m->team,
                                       .ops = m->ops,
                                       .rank = rank[i],
                                       .fc1_type = type_of(d, DT_Q4_0),
                                       .fc2_type = DT_Q4_0,
                                       .epochs = w->s->epochs,
                                       .seed = w->s->seed + layer,
                                       .gate = gate,
                                       .prior = w->s->profile ? prior : NULL,
                                       .progress = on_training,
                                       .progress_arg = &lp};
        rc = predictor_train(w->p, layer, &train, &t, w->e);
        if (rc == 0) rc = predictor_measure(scores, w->p, layer, &cut, m->team, m->ops, w->e);
        if (rc) break;
        w->p->layers[layer].cut = predictor_choose_cut(scores, 1.0 - (1.0 - w->s->recall) * MARGIN);
        double c = cost(w, layer, scores);
        if (c < best) {
            best = c;
            swap(&w->p->layers[layer], &other->layers[layer]);
        }
    }
    if (rc == 0) swap(&w->p->layers[layer], &other->layers[layer]);
    if (rc == 0) rc = predictor_measure(scores, w->p, layer, &test, m->team, m->ops, w->e);
    if (rc) return err_prefix(w->e, rc, "layer %u", layer);
    const struct predictor_layer *l = &w->p->layers[layer];
    double all = (double)scores->samples * m->hp.ffn;
    *out = (struct predictor_report){
        .rank = l->rank,
        .tried = (uint32_t)n,
        .fc1_type = l->fc1_type,
        .fc2_type = l->fc2_type,
        .bytes = predictor_layer_bytes(w->p, layer),
        .bytes_share = (double)predictor_layer_bytes(w->p, layer) / (double)ffn_bytes(m, layer),
        .recall = scores->recall,
        .plain = scores->active ? (double)scores->found / (double)scores->active : 1.0,
        .candidates = (double)scores->candidates / all,
        .active = (double)scores->active / all};
    w->done += (double)train.n;
    return 0;
}

static int train_group(struct work *w, struct predictor_report *out)
{
    struct calor_model *m = w->m;
    float *prior = malloc(m->hp.ffn * sizeof *prior);
    float *gate = malloc((size_t)m->hp.ffn * m->hp.width * sizeof *gate);
    struct predictor_scores *scores = malloc(sizeof *scores);
    struct predictor *other = NULL;
    int rc = prior && gate && scores ? predictor_create(&other, &w->p->subject, w->e)
                                     : err_set(w->e, ERR_NOMEM, "no memory to train predictors");
    pthread_mutex_lock(&m->run_lock);
    for (uint32_t i = w->begin; i < w->end && rc == 0; i++)
        rc = train_layer(w, other, i, prior, gate, scores, &out[i]);
    pthread_mutex_unlock(&m->run_lock);
    predictor_close(&other);
    free(prior);
    free(gate);
    free(scores);
    return rc;
}

/* ---- All of it ---- */

static int check(struct work *w)
{
    const struct calor_model *m = w->m;
    const struct predictor_settings *s = w->s;
    uint32_t rank[RANKS];
    if (!activation_has_zeros(&m->act))
        return err_set(w->e, ERR_ARG,
                       "predictors say which neurons are exactly zero, and with the activation %s none is",
                       m->act.name);
    if (!m->layers[0].by.kind || m->layers[0].by.screen)
        return err_set(w->e, ERR_STATE,
                       "training predictors needs a model opened with CALOR_LAYOUT_NEURON, without planes");
    for (uint32_t i = 0; i < m->hp.layers; i++)
        if (ranks(w, i, rank) == 0)
            return err_set(
                w->e, ERR_ARG,
                "a predictor of rank %d reads %.3f of the FFN's bytes here: --bytes %.3f is too few",
                RANK_STEP,
                (double)predictor_bytes(m->hp.width, m->hp.ffn, RANK_STEP, type_of(m->hp.width, DT_Q4_0),
                                        DT_Q4_0, false) /
                    (double)ffn_bytes(m, i),
                s->bytes);
    w->skip = tok_add_bos(m->tok) && tok_bos(m->tok) >= 0;
    uint32_t window = s->window ? s->window : m->hp.context < 512 ? m->hp.context : 512;
    if (window < 10 || window > 512)
        return err_set(w->e, ERR_ARG, "windows of %u tokens: expected 10 to 512", window);
    w->own = window - w->skip;
    uint64_t most = MEMORY_MOST / (2 * ((uint64_t)m->hp.width + m->hp.ffn)) * 8 / 10;
    w->samples = s->samples ? s->samples : 65536;
    if (w->samples > most) w->samples = (uint32_t)most;
    uint32_t want = (w->samples + w->own - 1) / w->own;
    want = want * OF_TEN / (OF_TEN - (w->s->n_held_out ? 1 : 2)); /* the other parts beside it */
    if (want < OF_TEN) want = OF_TEN;
    w->texts[0] = (struct text){s->ids, (uint32_t)(s->n / w->own), 0, false};
    w->texts[1] = (struct text){s->held_out, (uint32_t)(s->n_held_out / w->own), 0, true};
    for (int i = 0; i < 2; i++) {
        uint32_t room = i ? (want + 7) / 8 : want;
        w->texts[i].used = w->texts[i].windows < room ? w->texts[i].windows : room;
    }
    if (w->texts[0].used < OF_TEN)
        return err_set(w->e, ERR_ARG, "the text has %zu tokens: %d windows of %u are the least to train on",
                       s->n, OF_TEN, w->own);
    if (s->n_held_out && w->texts[1].used == 0)
        return err_set(w->e, ERR_ARG, "the held-out text has %zu tokens: a window needs %u", s->n_held_out,
                       w->own);
    for (int i = 0; i < 2; i++)
        for (uint32_t k = 0; k < w->texts[i].used; k++) w->n[part_of(w, &w->texts[i], k)] += w->own;
    w->first[PART_CUT] = w->n[PART_TRAIN];
    w->first[PART_TEST] = w->n[PART_TRAIN] + w->n[PART_CUT];
    return 0;
}

static int prepare(struct work *w, uint32_t *group)
{
    struct calor_model *m = w->m;
    char msg[1000];
    struct predictor_subject subject = {.model = m->name,
                                        .activation = m->act.name,
                                        .layers = m->hp.layers,
                                        .neurons = m->hp.ffn,
                                        .width = m->hp.width};
    int rc = gguf_identity(m->file, subject.identity, w->e);
    if (rc == 0 && w->s->profile) rc = profile_check_model(w->s->profile, subject.identity, m->name, w->e);
    if (rc == 0) rc = neurons_norms(m, w->e);
    if (rc == 0) rc = predictor_create(&w->p, &subject, w->e);
    if (rc) return rc;
    w->p->recall = (float)w->s->recall;
    uint64_t all = w->n[0] + w->n[1] + w->n[2], each = all * 2 * ((uint64_t)m->hp.width + m->hp.ffn) + 128;
    *group = each < MEMORY_MOST ? (uint32_t)(MEMORY_MOST / each) : 1;
    if (*group > m->hp.layers) *group = m->hp.layers;
    w->x = malloc(*group * all * m->hp.width * sizeof *w->x + 64);
    w->magnitude = malloc(*group * all * m->hp.ffn * sizeof *w->magnitude + 64);
    w->ids = malloc((w->own + w->skip) * sizeof *w->ids);
    if (!w->x || !w->magnitude || !w->ids)
        return err_set(w->e, ERR_NOMEM, "no memory for %llu samples of %u layers: take fewer with --samples",
                       (unsigned long long)all, *group);
    calor_session_settings settings = calor_session_default();
    settings.mode = CALOR_DENSE_FAST;
    settings.context = settings.batch = w->own + w->skip;
    rc = calor_session_open(&w->session, m, &settings, msg, sizeof msg);
    return rc ? err_set(w->e, rc, "%s", msg) : 0;
}

static void add_up(const struct work *w, const struct predictor_report *l, struct predictor_totals *all)
{
    uint32_t n = w->m->hp.layers;
    double active = 0.0, found = 0.0, bytes = 0.0, whole = 0.0;
    *all = (struct predictor_totals){.samples = (uint32_t)w->n[PART_TRAIN],
                                     .calibration = (uint32_t)w->n[PART_CUT],
                                     .tested = (uint32_t)w->n[PART_TEST]};
    for (uint32_t i = 0; i < n; i++) {
        bytes += (double)l[i].bytes;
        whole += (double)ffn_bytes(w->m, i);
        active += l[i].active;
        found += l[i].active * l[i].plain;
        all->candidates += l[i].candidates / n;
        all->recall += l[i].recall / n;
    }
    all->bytes_share = bytes / whole;
    all->active = active / n;
    all->plain = active > 0.0 ? found / active : 1.0;
}

int measure_predictor(struct predictor **out, struct predictor_report *layers, struct predictor_totals *all,
                      calor_model *m, const struct predictor_settings *settings, struct err *e)
{
    struct err own;
    struct predictor_settings s = *settings;
    struct work w = {.s = &s, .m = m, .e = e ? e : &own};
    uint32_t group = 1, passes = 0;
    if (!(s.recall > 0.0)) s.recall = 0.95;
    if (!(s.bytes > 0.0)) s.bytes = 0.1;
    if (!(s.epochs > 0.0)) s.epochs = 4.0;
    *out = NULL;
    int rc = check(&w);
    if (rc == 0) rc = prepare(&w, &group);
    w.all = ((double)(w.n[0] + w.n[1] + w.n[2]) + (double)w.n[0]) * m->hp.layers;
    for (w.begin = 0; w.begin < m->hp.layers && rc == 0; w.begin = w.end, passes++) {
        w.end = w.begin + group < m->hp.layers ? w.begin + group : m->hp.layers;
        rc = collect(&w);
        if (rc == 0) rc = train_group(&w, layers);
    }
    if (rc == 0) {
        add_up(&w, layers, all);
        all->passes = passes;
        *out = w.p;
        w.p = NULL;
    }
    predictor_close(&w.p);
    calor_session_close(&w.session);
    free(w.x);
    free(w.magnitude);
    free(w.ids);
    return rc;
}
