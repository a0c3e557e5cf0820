/* A synthetic model's header and its profile, without the weights: the statistics are those that
 * synth_plant.c would plant, and the recorded run is drawn from them. */
#include "engine/synth.h"

#include "base/err.h"
#include "base/rng.h"
#include "engine/activation.h"
#include "io/gguf.h"
#include "placement/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    TOKENS = 1 << 20, /* that the texts are said to have */
    RUN = 256,
    RUN_LEAST = 128, /* tokens of the recorded run */
    TRACE_MIB = 24,  /* above which the run is the shorter one */
    KNOTS = 49,
    DRAWS = 32,
    NORMALS = 1 << 16,
};
static const double Q_LOW = -5, Q_HIGH = 3; /* a neuron's mean product in its deviations */

struct made {
    const struct synth_settings *s;
    const struct synth_tensor *t; /* all tensors */
    int n, parts;
    struct activation act;
    const struct synth_tensor *gate; /* of the layer in hand */
    double mean[KNOTS], p99[KNOTS];  /* magnitudes by q */
    float *q;                        /* f: their means in their deviations, of this layer */
    float *latent;                   /* f × parts: each product in its deviations, without its mean */
    float *normal;                   /* NORMALS values of the standard normal */
    struct rng rng;
};

static const struct synth_tensor *find(const struct made *m, const char *fmt, uint32_t layer)
{
    char name[sizeof m->t->name];
    snprintf(name, sizeof name, fmt, layer);
    for (int i = 0; i < m->n; i++)
        if (strcmp(m->t[i].name, name) == 0) return &m->t[i];
    return NULL;
}

static double q_of(const struct made *m, uint32_t neuron)
{
    const struct synth_tensor *g = m->gate;
    return ((double)g->along[neuron] * g->unit - (double)m->act.param) / g->deviation;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Mean and 99th percentile of |h|·‖down column‖ of an active neuron, by q: over all pairs of evenly drawn
 * gate and up products. */
static void magnitudes(struct made *m, bool gated, double column)
{
    static const double PERCENT = 0.99;
    double s = m->gate->deviation;
    for (int k = 0; k < KNOTS; k++) {
        double q = Q_LOW + (Q_HIGH - Q_LOW) * k / (KNOTS - 1), y[DRAWS], h[DRAWS * DRAWS], sum = 0;
        for (int i = 0; i < DRAWS; i++)
            y[i] = s * (q - synth_normal_quantile(synth_normal(q) * (i + 0.5) / DRAWS));
        for (int i = 0; i < DRAWS; i++)
            for (int j = 0; j < DRAWS; j++) {
                double v = m->act.kind == KERN_RELU2 ? y[i] * y[i] : y[i] + (double)m->act.param;
                if (m->act.kind == KERN_DRELU)
                    v *= y[j];
                else if (gated)
                    v *= -synth_normal_quantile(0.5 * (j + 0.5) / DRAWS);
                h[i * DRAWS + j] = v * column;
                sum += v * column;
            }
        qsort(h, DRAWS * DRAWS, sizeof *h, ascending);
        m->mean[k] = sum / (DRAWS * DRAWS);
        m->p99[k] = h[(int)(PERCENT * DRAWS * DRAWS)];
    }
}

static float at(const double *curve, double q)
{
    double x = (q - Q_LOW) / (Q_HIGH - Q_LOW) * (KNOTS - 1);
    x = fmin(KNOTS - 1, fmax(0, x));
    int k = (int)x < KNOTS - 1 ? (int)x : KNOTS - 2;
    return (float)(curve[k] + (curve[k + 1] - curve[k]) * (x - k));
}

static float draw(struct made *m, uint64_t *bits, uint64_t i)
{
    if (i % 4 == 0) *bits = rng_u64(&m->rng);
    float v = m->normal[*bits & (NORMALS - 1)];
    *bits >>= 16;
    return v;
}

static int set_layer(void *arg, uint32_t layer, float *frequency, float *mean, float *p99, struct err *e)
{
    struct made *m = arg;
    const struct synth_shape *h = &m->s->shape;
    bool falcon = strcmp(h->arch, "falcon") == 0;
    if (m->s->progress && m->s->progress((double)layer / h->layers, m->s->progress_arg))
        return err_set(e, ERR_CANCELLED, "stopped: no profile was written");
    m->gate = find(m, falcon ? "blk.%u.ffn_up.weight" : "blk.%u.ffn_gate.weight", layer);
    magnitudes(m, !falcon, (double)find(m, "blk.%u.ffn_down.weight", layer)->scale * sqrt(h->d));
    for (uint32_t i = 0; i < h->f; i++) {
        double q = q_of(m, i);
        m->q[i] = (float)q;
        frequency[i] = (float)pow(synth_normal(q), m->parts);
        mean[i] = at(m->mean, q);
        p99[i] = at(m->p99, q);
    }
    rng_init(&m->rng, m->s->seed * 4099 + layer);
    uint64_t bits = 0;
    for (uint64_t i = 0; i < (uint64_t)h->f * (uint64_t)m->parts; i++) m->latent[i] = draw(m, &bits, i);
    return 0;
}

static uint32_t set_token(void *arg, uint32_t layer, uint32_t token, uint32_t *list)
{
    struct made *m = arg;
    uint32_t n = 0, f = m->s->shape.f;
    float keep = (float)m->gate->correlation, change = sqrtf(1 - keep * keep);
    uint64_t bits = 0;
    (void)layer;
    for (uint64_t i = 0; token > 0 && i < (uint64_t)f * (uint64_t)m->parts; i++)
        m->latent[i] = keep * m->latent[i] + change * draw(m, &bits, i);
    for (uint32_t i = 0; i < f; i++) {
        float q = m->q[i];
        if (m->latent[i] + q > 0 && (m->parts == 1 || m->latent[f + i] + q > 0)) list[n++] = i;
    }
    return n;
}

static int write_header(const struct made *m, struct profile_subject *subject, char name[256], struct err *e)
{
    struct gguf_writer *w = NULL;
    struct gguf *f = NULL;
    struct gguf_str text = {"", 0};
    int rc = gguf_writer_create(&w, m->s->path, e);
    if (rc == 0) rc = synth_put_header(w, m->s, m->t, m->n, e);
    if (rc == 0) rc = gguf_writer_finish_header(w, e);
    gguf_writer_destroy(&w);
    if (rc == 0) rc = gguf_open(&f, m->s->path, GGUF_META, e);
    if (rc) return rc;
    rc = gguf_identity(f, subject->identity, e);
    gguf_get_str(f, "general.name", &text, NULL);
    snprintf(name, 256, "%.*s", (int)text.n, text.s);
    gguf_close(&f);
    return rc;
}

static int make_profile(struct made *m, struct profile_subject *subject, const char *path, struct err *e)
{
    const struct synth_shape *h = &m->s->shape;
    struct profile *p = NULL;
    struct profile_known k = {.tokens = TOKENS, .run = RUN, .layer = set_layer, .token = set_token, .arg = m};
    if ((uint64_t)h->layers * ((h->f + 7) / 8) * RUN > (uint64_t)TRACE_MIB << 20) k.run = RUN_LEAST;
    m->q = malloc(h->f * sizeof *m->q);
    m->latent = malloc((size_t)h->f * (size_t)m->parts * sizeof *m->latent);
    m->normal = malloc(NORMALS * sizeof *m->normal);
    int rc = m->q && m->latent && m->normal ? 0 : err_set(e, ERR_NOMEM, "no memory for %u neurons", h->f);
    for (int i = 0; rc == 0 && i < NORMALS; i++)
        m->normal[i] = (float)synth_normal_quantile((i + 0.5) / NORMALS);
    if (rc == 0) rc = profile_make(&p, subject, &k, e);
    if (rc == 0) rc = profile_write(p, path, e);
    profile_close(&p);
    free(m->q);
    free(m->latent);
    free(m->normal);
    return rc;
}

int synth_write_profile(const struct synth_settings *s, const char *profile, struct err *e)
{
    struct made m = {.s = s};
    char model[256];
    const char *name = synth_activation(s);
    if (s->stats.sparsity == 0)
        return err_set(e, ERR_ARG,
                       "--profile-only needs --sparsity S: there is no profile without statistics");
    struct synth_tensor *t = synth_tensors(s, &m.n);
    if (!t) return err_set(e, ERR_NOMEM, "no memory for the list of tensors");
    m.t = t;
    struct profile_subject subject = {
        .model = model, .zeros = true, .layers = s->shape.layers, .neurons = s->shape.f, .width = s->shape.d};
    int rc = synth_check(s, t, m.n, e);
    if (rc == 0) rc = synth_plant(s, t, m.n, e);
    if (rc == 0) rc = activation_parse(&m.act, name, strlen(name), NAN, e);
    subject.activation = m.act.name;
    m.parts = m.act.kind == KERN_DRELU ? 2 : 1;
    if (rc == 0) rc = write_header(&m, &subject, model, e);
    if (rc == 0) rc = make_profile(&m, &subject, profile, e);
    synth_tensors_free(t, m.n);
    return rc;
}
