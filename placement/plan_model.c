/* The model as the planner sees it: the engine's layout in numbers, and how hot its neurons are. */
#include "placement/plan_model_priv.h"

#include "base/checked.h"
#include "base/err.h"
#include "kernels/kernels.h"
#include "placement/profile.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

const char *const plan_mode_names[] = {"dense", "exact", "sure", NULL};
const char *const plan_part_names[] = {"screen", "gate", "updown", NULL};
const char *const plan_tier_names[] = {"gpu", "ram", "disk", NULL};

/* As planted by `calor synth`: no neuron fires more often. */
#define FREQUENCY_MOST 0.98

struct plan_model_settings plan_model_default(void)
{
    return (struct plan_model_settings){
        .mode = PLAN_EXACT, .sparsity = NAN, .hot = 0.26, .hot_share = 0.80, .candidates = NAN};
}

/* ---- Layout ---- */

static uint64_t up64(uint64_t n)
{
    return (n + 63) / 64 * 64;
}

/* Candidates of the plane screen at k = 5 for each active neuron, measured at d = 5120 (docs/screens.md). */
static double candidates_of(enum dtype type, double active)
{
    double ratio = type == DT_Q8_0 ? 2.06 : 1.13;
    return fmin(1.0, ratio * active);
}

/* Bytes of a layer's parts as engine/neurons.c lays them out. */
static int lay_out(const struct plan_model *m, struct plan_layer *l, struct err *e)
{
    const struct kern_ops *ops = kern_tier(KERN_REF);
    const struct plan_matrix *gate = l->gate.rows ? &l->gate : &l->up;
    int64_t d = m->width, f = m->neurons;
    l->row[PLAN_SCREEN] = 0;
    l->row[PLAN_GATE] = gate->bytes / gate->rows;
    if (m->mode == PLAN_SURE && kern_can_plane(gate->type) && kern_plane_coarse_bytes(gate->type, d)) {
        l->row[PLAN_SCREEN] = kern_plane_coarse_bytes(gate->type, d) + sizeof(struct kern_plane_row);
        l->row[PLAN_GATE] = kern_plane_fine_bytes(gate->type, d);
    }
    l->down_type = l->down.type;
    l->down_split = !l->down_by_neuron && kern_can_split(l->down.type);
    if (!l->down_split && !l->down_by_neuron && dtype_info((uint32_t)l->down.type)->block > 1)
        l->down_type = DT_F16;
    const struct kern_down *kind =
        l->down_split ? ops->down_split[l->down_type] : ops->down_row[l->down_type];
    if (!kind)
        return err_set(e, ERR_UNSUPPORTED, "a down matrix of type %s cannot be laid out by neuron",
                       dtype_name((uint32_t)l->down.type));
    l->up_row = l->gate.rows ? up64(l->up.bytes / l->up.rows) : 0;
    l->down_row = kind->neuron_bytes(d);
    l->row[PLAN_UPDOWN] = l->up_row + l->down_row;
    l->shared = 0;
    l->share_group = 0;
    if (l->down_split) {
        l->share_group = (uint32_t)kind->group;
        l->shared = (uint64_t)((f + kind->group - 1) / kind->group) * kind->group_bytes(d) + 2 * (uint64_t)f;
        if (kind->super_bytes) l->shared += (uint64_t)((f + 255) / 256) * kind->super_bytes(d);
    }
    return 0;
}

/* ---- Frequencies ---- */

/* min(FREQUENCY_MOST, C·x^-a) at n ranks, C such that the mean is right; returns the share that the hottest
 * `hot` take. */
static double power_law(float *p, uint32_t n, double a, double mean, double hot)
{
    double lo = 0, hi = 1e6, sum = 0, top = 0;
    for (int k = 0; k < 60; k++) {
        double c = lo > 0 ? sqrt(lo * hi) : hi * 1e-12;
        sum = top = 0;
        for (uint32_t i = 0; i < n; i++) {
            double x = (i + 0.5) / n, v = fmin(FREQUENCY_MOST, c * pow(x, -a));
            p[i] = (float)v;
            sum += v;
            top += v * fmin(1, fmax(0, hot * n - i));
        }
        if (sum < mean * n)
            lo = c;
        else
            hi = c;
        if (fabs(sum - mean * n) < 1e-9 * n) break;
    }
    return top / sum;
}

/* The least and the most that the hottest `hot` can take. */
static void possible(double active, double hot, double *least, double *most)
{
    enum { RANKS = 1024 };
    float few[RANKS];
    *least = power_law(few, RANKS, 0, active, hot);
    *most = power_law(few, RANKS, 16, active, hot);
}

int plan_assume(float *frequency, uint32_t n, double active, double hot, double hot_share, struct err *e)
{
    if (!(active >= 0) || active > 1)
        return err_set(e, ERR_ARG, "%g of the neurons active: expected 0 to 1", active);
    if (active > FREQUENCY_MOST || active == 0) {
        for (uint32_t i = 0; i < n; i++) frequency[i] = (float)active;
        return 0;
    }
    /* The exponent on few ranks, which is quick; then all of them. */
    enum { RANKS = 1024 };
    float few[RANKS];
    uint32_t ranks = n < RANKS ? n : RANKS;
    double lo = 0, hi = 16, least = power_law(few, ranks, lo, active, hot),
           most = power_law(few, ranks, hi, active, hot);
    if (!(hot > 0 && hot < 1 && hot_share > 0 && hot_share <= 1) || hot_share < least || hot_share > most)
        return err_set(e, ERR_ARG,
                       "with %.3g of the neurons active, the hottest %.3g can take %.3g to %.3g of the "
                       "activations, not %.3g",
                       active, hot, least, most, hot_share);
    for (int k = 0; k < 40; k++) {
        double a = (lo + hi) / 2;
        if (power_law(few, ranks, a, active, hot) < hot_share)
            lo = a;
        else
            hi = a;
    }
    power_law(frequency, n, (lo + hi) / 2, active, hot);
    return 0;
}

static int make_room(struct plan_model *m, struct plan_layer *l, bool profile, bool held, struct err *e)
{
    size_t n = m->neurons;
    l->frequency = malloc(n * sizeof *l->frequency);
    if (profile) l->order = malloc(n * sizeof *l->order);
    if (held) l->held_out = malloc(n * sizeof *l->held_out);
    if (!l->frequency || (profile && !l->order) || (held && !l->held_out))
        return err_set(e, ERR_NOMEM, "no memory for the frequencies of %u neurons", m->neurons);
    return 0;
}

static int from_profile(struct plan_model *m, const struct profile *p, struct err *e)
{
    const struct profile_subject *s = profile_subject(p);
    if (s->layers != m->layers || s->neurons != m->neurons || s->width != m->width)
        return err_set(
            e, ERR_STALE,
            "the profile is of a model of %u layers of %u neurons, %u values wide ('%s'), this one "
            "has %u of %u, %u wide: profile it with `calor profile`",
            s->layers, s->neurons, s->width, s->model, m->layers, m->neurons, m->width);
    for (int t = 0; t < 2; t++) m->profile_tokens[t] = profile_tokens(p, (enum profile_text)t);
    if (!m->profile_tokens[0])
        return err_set(e, ERR_FORMAT, "the profile of '%s' has no tokens: profile a longer text", s->model);
    bool held = m->profile_tokens[1] > 0;
    float *by_number = malloc(m->neurons * sizeof *by_number);
    if (!by_number) return err_set(e, ERR_NOMEM, "no memory for frequencies");
    int r = 0;
    XXH64_hash_t hash = XXH3_64bits(m->profile_tokens, sizeof m->profile_tokens);
    for (uint32_t i = 0; i < m->layers && r == 0; i++) {
        struct plan_layer *l = &m->layer[i];
        r = make_room(m, l, true, held, e);
        if (r) break;
        memcpy(l->order, profile_order(p, i), m->neurons * sizeof *l->order);
        profile_frequency(p, i, PROFILE_CALIBRATION, by_number);
        for (uint32_t k = 0; k < m->neurons; k++) l->frequency[k] = by_number[l->order[k]];
        if (held) {
            profile_frequency(p, i, PROFILE_HELD_OUT, by_number);
            for (uint32_t k = 0; k < m->neurons; k++) l->held_out[k] = by_number[l->order[k]];
        }
        hash = XXH3_64bits_withSeed(l->frequency, m->neurons * sizeof *l->frequency, hash);
        hash = XXH3_64bits_withSeed(l->order, m->neurons * sizeof *l->order, hash);
    }
    free(by_number);
    m->profile_hash = hash;
    m->statistics = PLAN_PROFILE;
    snprintf(m->statistics_text, sizeof m->statistics_text, "profile of %llu tokens%s",
             (unsigned long long)m->profile_tokens[0], held ? ", checked on held-out text" : "");
    return r;
}

static int from_nothing(struct plan_model *m, const struct plan_model_settings *s, struct err *e)
{
    bool known = !isnan(s->sparsity);
    double active = known ? 1 - s->sparsity : 1, hot_share = s->hot_share, least, most;
    if (known && !(s->sparsity >= 0 && s->sparsity < 1))
        return err_set(e, ERR_ARG, "a sparsity of %g: expected a share from 0, below 1", s->sparsity);
    if (active < FREQUENCY_MOST && active > 0) {
        /* Where many neurons are active the hottest cannot take that much: halfway to what they can. */
        possible(active, s->hot, &least, &most);
        if (hot_share > most) hot_share = (least + most) / 2;
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        struct plan_layer *l = &m->layer[i];
        int r = make_room(m, l, false, false, e);
        if (r == 0 && i == 0) r = plan_assume(l->frequency, m->neurons, active, s->hot, hot_share, e);
        if (r) return r;
        if (i) memcpy(l->frequency, m->layer[0].frequency, m->neurons * sizeof *l->frequency);
    }
    m->statistics = known ? PLAN_ASSUMED : PLAN_FLAT;
    if (known)
        snprintf(
            m->statistics_text, sizeof m->statistics_text,
            "assumed: %.1f %% of the neurons silent, the hottest %.0f %% take %.0f %% of the activations",
            100 * s->sparsity, 100 * s->hot, 100 * hot_share);
    else
        snprintf(m->statistics_text, sizeof m->statistics_text,
                 "none: every neuron counts as active (`calor profile` finds out which are)");
    return 0;
}

/* What the mode makes of the frequencies. */
static void settle(struct plan_model *m, double candidates)
{
    for (uint32_t i = 0; i < m->layers; i++) {
        struct plan_layer *l = &m->layer[i];
        double sum = 0;
        for (uint32_t k = 0; k < m->neurons; k++) {
            if (m->mode == PLAN_DENSE) {
                l->frequency[k] = 1;
                if (l->held_out) l->held_out[k] = 1;
            }
            sum += (double)l->frequency[k];
        }
        l->active = sum;
        l->candidates = 1;
        if (l->row[PLAN_SCREEN]) {
            const struct plan_matrix *gate = l->gate.rows ? &l->gate : &l->up;
            double share = sum / m->neurons;
            l->candidates = isnan(candidates) ? candidates_of(gate->type, share) : candidates;
            if (l->candidates < share) l->candidates = share;
        }
    }
}

int plan_model_finish(struct plan_model *m, const struct profile *p, const struct plan_model_settings *s,
                      struct err *e)
{
    m->mode = s->mode;
    if (!isnan(s->candidates) && !(s->candidates > 0 && s->candidates <= 1))
        return err_set(e, ERR_ARG, "a share of candidates of %g: expected above 0, at most 1", s->candidates);
    int r = 0;
    for (uint32_t i = 0; i < m->layers && r == 0; i++) {
        r = lay_out(m, &m->layer[i], e);
        if (r) err_prefix(e, r, "layer %u", i);
    }
    if (r == 0) r = p ? from_profile(m, p, e) : from_nothing(m, s, e);
    if (r == 0) settle(m, s->candidates);
    return r;
}

/* ---- From a shape ---- */

static int matrix(struct plan_matrix *w, enum dtype type, uint64_t n, uint64_t rows, struct err *e)
{
    *w = (struct plan_matrix){.type = type, .n = n, .rows = rows};
    uint64_t row = 0;
    const struct dtype_info *info = dtype_info((uint32_t)type);
    if (!info || !info->weights || !dtype_row_bytes((uint32_t)type, n, &row) ||
        !checked_mul(row, rows, &w->bytes))
        return err_set(e, ERR_ARG, "a matrix of %llu × %llu cannot have type %s: rows come in blocks of %u",
                       (unsigned long long)rows, (unsigned long long)n, dtype_name((uint32_t)type),
                       info ? info->block : 0);
    return 0;
}

int plan_model_from_shape(struct plan_model **out, const struct plan_shape *h, const struct profile *p,
                          const struct plan_model_settings *s, struct err *e)
{
    *out = NULL;
    if (!h->width || !h->neurons || !h->layers || !h->heads || !h->kv_heads || !h->vocab ||
        h->width % h->heads || h->heads % h->kv_heads || h->neurons > 1u << 20 || h->layers > 4096 ||
        h->width > 1u << 20)
        return err_set(e, ERR_ARG, "the shape '%s' is none a model can have", h->name);
    struct plan_model *m = calloc(1, sizeof *m);
    if (m) m->layer = calloc(h->layers, sizeof *m->layer);
    if (!m || !m->layer) {
        plan_model_destroy(&m);
        return err_set(e, ERR_NOMEM, "no memory for %u layers", h->layers);
    }
    snprintf(m->name, sizeof m->name, "%s %s", h->name, dtype_name((uint32_t)h->type));
    snprintf(m->origin, sizeof m->origin, "shape %s", h->name);
    m->width = h->width;
    m->neurons = h->neurons;
    m->layers = h->layers;
    m->heads = h->heads;
    m->kv_heads = h->kv_heads;
    m->head_dim = m->rot = h->width / h->heads;
    m->vocab = h->vocab;
    m->context = h->context;
    m->gated = h->gated;
    m->parallel = h->parallel;
    uint64_t d = h->width, f = h->neurons, kv = (uint64_t)h->kv_heads * m->head_dim;
    m->vectors = 4 * d * (h->gated ? 1 : 2);
    int r = matrix(&m->embedding, h->type, d, h->vocab, e);
    if (!r) r = matrix(&m->output, h->output_type, d, h->vocab, e);
    for (uint32_t i = 0; i < h->layers && !r; i++) {
        struct plan_layer *l = &m->layer[i];
        if (!r) r = matrix(&l->q, h->type, d, d, e);
        if (!r) r = matrix(&l->k, h->type, d, kv, e);
        if (!r) r = matrix(&l->v, h->type, d, kv, e);
        if (!r) r = matrix(&l->o, h->type, d, d, e);
        if (!r && h->gated) r = matrix(&l->gate, h->type, d, f, e);
        if (!r) r = matrix(&l->up, h->type, d, f, e);
        if (!r) r = matrix(&l->down, h->type, f, d, e);
        l->attention = l->q.bytes + l->k.bytes + l->v.bytes + l->o.bytes + 4 * d * (h->gated ? 2 : 4);
    }
    if (!r) r = plan_model_finish(m, p, s, e);
    if (r) {
        plan_model_destroy(&m);
        return r;
    }
    *out = m;
    return 0;
}

void plan_model_destroy(struct plan_model **pm)
{
    if (!pm || !*pm) return;
    struct plan_model *m = *pm;
    for (uint32_t i = 0; m->layer && i < m->layers; i++) {
        free(m->layer[i].frequency);
        free(m->layer[i].held_out);
        free(m->layer[i].order);
    }
    free(m->layer);
    free(m);
    *pm = NULL;
}

static int copy_of(void **to, const void *from, size_t n)
{
    if (!from) return 0;
    *to = malloc(n);
    if (!*to) return ERR_NOMEM;
    memcpy(*to, from, n);
    return 0;
}

int plan_model_in_mode(struct plan_model **out, const struct plan_model *from, enum plan_mode mode,
                       struct err *e)
{
    *out = NULL;
    struct plan_model *m = malloc(sizeof *m);
    if (m) {
        *m = *from;
        m->layer = calloc(m->layers, sizeof *m->layer);
    }
    int r = m && m->layer ? 0 : ERR_NOMEM;
    size_t n = (size_t)from->neurons;
    for (uint32_t i = 0; i < from->layers && r == 0; i++) {
        struct plan_layer *l = &m->layer[i];
        const struct plan_layer *s = &from->layer[i];
        *l = *s;
        l->frequency = l->held_out = NULL;
        l->order = NULL;
        void *p[3] = {NULL, NULL, NULL};
        if (copy_of(&p[0], s->frequency, n * sizeof(float)) ||
            copy_of(&p[1], s->held_out, n * sizeof(float)) || copy_of(&p[2], s->order, n * sizeof(uint32_t)))
            r = ERR_NOMEM;
        l->frequency = p[0];
        l->held_out = p[1];
        l->order = p[2];
    }
    if (r) {
        plan_model_destroy(&m);
        return err_set(e, ERR_NOMEM, "no memory for the model in another mode");
    }
    m->mode = mode;
    for (uint32_t i = 0; i < m->layers && r == 0; i++) r = lay_out(m, &m->layer[i], e);
    if (r) {
        plan_model_destroy(&m);
        return r;
    }
    settle(m, NAN);
    *out = m;
    return 0;
}

/* ---- Sums ---- */

uint64_t plan_layer_bytes(const struct plan_model *m, uint32_t layer)
{
    const struct plan_layer *l = &m->layer[layer];
    uint64_t row = 0;
    for (int p = 0; p < PLAN_PARTS; p++) row += l->row[p];
    return l->attention + row * m->neurons + l->shared;
}

uint64_t plan_model_bytes(const struct plan_model *m)
{
    uint64_t sum = m->embedding.bytes + (m->tied ? 0 : m->output.bytes) + m->vectors;
    for (uint32_t i = 0; i < m->layers; i++) sum += plan_layer_bytes(m, i);
    return sum;
}

uint64_t plan_model_kv(const struct plan_model *m, enum dtype kv, uint32_t context)
{
    uint64_t row, head, all;
    if (!dtype_row_bytes((uint32_t)kv, m->head_dim, &row) || !checked_mul(row, context, &head) ||
        !checked_align(head, 64, &head) || !checked_mul(head, 2ull * m->kv_heads, &all))
        return 0;
    return all;
}

double plan_model_sparsity(const struct plan_model *m)
{
    double sum = 0;
    for (uint32_t i = 0; i < m->layers; i++) sum += m->layer[i].active;
    return 1 - sum / ((double)m->layers * m->neurons);
}
