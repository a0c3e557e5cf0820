/* A model computed the plain way, in double precision, one token after the other: what the engine's results
 * are compared with. Written from the papers' formulas, independent of engine/. */
#ifndef TESTS_PLAIN_MODEL_H
#define TESTS_PLAIN_MODEL_H

#include "tests/unit/tiny_model.h"

#include "base/half.h"
#include "placement/predictor.h"

#include <math.h>

struct plain {
    struct gguf *f;
    const struct kern_ops *ops;
    const struct tiny *s;
    enum kern_act act;
    float param;
    bool neox, parallel;
    double embedding_scale, residual_scale, logit_scale, freq_scale, rope_base, magnitude;
    double yarn_low, yarn_high; /* yarn when high > 0 */
    int rot, window;
    /* With a predictor, a neuron whose logit is below `cut` is off: the file's own (PowerInfer), or `file`'s.
     */
    bool powerinfer;
    double cut;
    const struct predictor *file;
    double *k, *v; /* [layer][position][kv width] */
};

/* A tensor as doubles (caller frees), NULL when absent. */
static inline double *plain_tensor(const struct plain *p, const char *name)
{
    const struct gguf_tensor *t = gguf_find_tensor(p->f, name);
    if (!t) return NULL;
    float *row = malloc(t->ne[0] * sizeof *row);
    double *x = malloc(t->ne[0] * t->ne[1] * sizeof *x);
    for (uint64_t r = 0; r < t->ne[1]; r++) {
        p->ops->decode(t->type, row, (const char *)t->data + r * t->row_bytes, (int64_t)t->ne[0]);
        for (uint64_t i = 0; i < t->ne[0]; i++) x[r * t->ne[0] + i] = (double)row[i];
    }
    free(row);
    return x;
}

static inline double *plain_named(const struct plain *p, int layer, const char *name, const char *kind)
{
    char full[96];
    if (layer >= 0)
        snprintf(full, sizeof full, "blk.%d.%s.%s", layer, name, kind);
    else
        snprintf(full, sizeof full, "%s.%s", name, kind);
    return plain_tensor(p, full);
}

/* y = W x + b, rows × n. */
static inline void plain_linear(const struct plain *p, int layer, const char *name, const double *x, int n,
                                int rows, double *y)
{
    double *w = plain_named(p, layer, name, "weight"), *b = plain_named(p, layer, name, "bias");
    for (int r = 0; r < rows; r++) {
        y[r] = b ? b[r] : 0.0;
        for (int i = 0; i < n; i++) y[r] += w[r * n + i] * x[i];
    }
    free(w);
    free(b);
}

static inline void plain_norm(const struct plain *p, int layer, const char *name, const double *x, double *y)
{
    int n = (int)p->s->width;
    double *w = plain_named(p, layer, name, "weight"), *b = plain_named(p, layer, name, "bias"), mean = 0,
           var = 0;
    for (int i = 0; i < n && p->s->layer_norm; i++) mean += x[i] / n;
    for (int i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean) / n;
    for (int i = 0; i < n; i++) y[i] = (x[i] - mean) / sqrt(var + 1e-5) * w[i] + (b ? b[i] : 0.0);
    free(w);
    free(b);
}

static inline double plain_act(const struct plain *p, double g, double u)
{
    switch (p->act) {
    case KERN_SILU: return g / (1.0 + exp(-g)) * u;
    case KERN_GELU: return 0.5 * g * (1.0 + erf(g / sqrt(2.0))) * u;
    case KERN_GELU_TANH: return 0.5 * g * (1.0 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))) * u;
    case KERN_RELU: return g > 0 ? g * u : 0.0;
    case KERN_RELU2: return g > 0 ? g * g * u : 0.0;
    case KERN_FATRELU: return g >= (double)p->param ? g * u : 0.0;
    case KERN_DRELU: return g > 0 && u > 0 ? g * u : 0.0;
    }
    return NAN;
}

static inline void plain_rope(const struct plain *p, double *x, int heads, int pos)
{
    int hd = (int)(p->s->width / p->s->heads), half = p->rot / 2;
    double *factors = plain_tensor(p, "rope_freqs.weight");
    for (int h = 0; h < heads && !p->s->learned; h++)
        for (int i = 0; i < half; i++) {
            double theta = pos * pow(p->rope_base, -2.0 * i / p->rot) / (factors ? factors[i] : 1.0);
            double scaled = theta * p->freq_scale;
            if (p->yarn_high > 0) {
                double y = (i - p->yarn_low) / fmax(0.001, p->yarn_high - p->yarn_low);
                double mix = 1.0 - fmin(1.0, fmax(0.0, y));
                scaled = scaled * (1.0 - mix) + theta * mix;
            }
            double c = cos(scaled) * p->magnitude, s = sin(scaled) * p->magnitude;
            double *a = x + h * hd + (p->neox ? i : 2 * i),
                   *b = x + h * hd + (p->neox ? i + half : 2 * i + 1);
            double x0 = *a, x1 = *b;
            *a = x0 * c - x1 * s;
            *b = x0 * s + x1 * c;
        }
    free(factors);
}

static inline void plain_attention(struct plain *p, int layer, int pos, const double *x, double *out)
{
    const struct tiny *s = p->s;
    int d = (int)s->width, hd = d / (int)s->heads, nkv = hd * (int)s->kv_heads,
        group = (int)(s->heads / s->kv_heads);
    double *q = malloc(sizeof *q * (size_t)(d + 2 * nkv)), *o = calloc((size_t)d, sizeof *o);
    double *keys = p->k + (size_t)layer * s->context * (size_t)nkv,
           *vals = p->v + (size_t)layer * s->context * (size_t)nkv;
    if (s->fused_qkv) {
        plain_linear(p, layer, "attn_qkv", x, d, d + 2 * nkv, q);
    } else {
        plain_linear(p, layer, "attn_q", x, d, d, q);
        plain_linear(p, layer, "attn_k", x, d, nkv, q + d);
        plain_linear(p, layer, "attn_v", x, d, nkv, q + d + nkv);
    }
    plain_rope(p, q, (int)s->heads, pos);
    plain_rope(p, q + d, (int)s->kv_heads, pos);
    memcpy(keys + pos * nkv, q + d, sizeof *q * (size_t)nkv);
    memcpy(vals + pos * nkv, q + d + nkv, sizeof *q * (size_t)nkv);
    int first = p->window && pos + 1 > p->window ? pos + 1 - p->window : 0;
    for (int h = 0; h < (int)s->heads; h++) {
        double sum = 0.0, w[512];
        for (int j = first; j <= pos; j++) {
            double dot = 0.0;
            for (int i = 0; i < hd; i++) dot += q[h * hd + i] * keys[j * nkv + h / group * hd + i];
            sum += w[j] = exp(dot / sqrt(hd));
        }
        for (int j = first; j <= pos; j++)
            for (int i = 0; i < hd; i++) o[h * hd + i] += w[j] / sum * vals[j * nkv + h / group * hd + i];
    }
    plain_linear(p, layer, "attn_output", o, d, d, out);
    free(q);
    free(o);
}

/* What a predictor makes of its input x: off[i] where neuron i is left out. */
static inline void plain_predict(const struct plain *p, int layer, const double *x, bool *off)
{
    int d = (int)p->s->width, f = (int)p->s->ffn;
    const struct predictor_layer *l = p->file ? &p->file->layers[layer] : NULL;
    int rank = l ? (int)l->rank : (int)p->s->rank;
    double *h = malloc(sizeof *h * (size_t)rank), *z = malloc(sizeof *z * (size_t)f);
    float *row = malloc(sizeof *row * (size_t)(d + rank));
    if (!l) plain_linear(p, layer, "fc1", x, d, rank, h);
    for (int k = 0; k < rank; k++) {
        if (l) {
            p->ops->decode(l->fc1_type, row, l->fc1 + (size_t)k * l->fc1_row_bytes, d);
            h[k] = l->hidden_bias ? (double)l->hidden_bias[k] : 0.0;
            for (int c = 0; c < d; c++) h[k] += (double)row[c] * x[c];
        }
        if ((!l || l->hidden == PREDICTOR_RELU) && h[k] < 0.0) h[k] = 0.0;
    }
    if (!l) plain_linear(p, layer, "fc2", h, rank, f, z);
    for (int i = 0; i < f; i++) {
        if (l) {
            p->ops->decode(l->fc2_type, row, l->fc2 + (size_t)i * l->fc2_row_bytes, rank);
            z[i] = (double)f16_to_f32(l->bias[i]);
            for (int k = 0; k < rank; k++) z[i] += (double)row[k] * h[k];
        }
        off[i] = z[i] < (l ? (double)l->cut : p->cut);
    }
    free(h);
    free(z);
    free(row);
}

/* x: normed; before: not. */
static inline void plain_ffn(const struct plain *p, int layer, const double *x, const double *before,
                             double *out)
{
    int d = (int)p->s->width, f = (int)p->s->ffn;
    double *g = malloc(sizeof *g * (size_t)f), *u = malloc(sizeof *u * (size_t)f);
    plain_linear(p, layer, "ffn_up", x, d, f, u);
    if (p->s->gated) plain_linear(p, layer, "ffn_gate", x, d, f, g);
    for (int i = 0; i < f; i++) u[i] = p->s->gated ? plain_act(p, g[i], u[i]) : plain_act(p, u[i], 1.0);
    if (p->file || p->powerinfer) {
        bool *off = malloc((size_t)f);
        plain_predict(p, layer, p->file ? x : before, off);
        for (int i = 0; i < f; i++) u[i] = off[i] ? 0.0 : u[i];
        free(off);
    }
    if (p->s->by_neuron) {
        double *w = plain_named(p, layer, "ffn_down_t", "weight"),
               *b = plain_named(p, layer, "ffn_down_t", "bias");
        for (int r = 0; r < d; r++) {
            out[r] = b ? b[r] : 0.0;
            for (int i = 0; i < f; i++) out[r] += u[i] * w[i * d + r];
        }
        free(w);
        free(b);
    } else {
        plain_linear(p, layer, "ffn_down", u, f, d, out);
    }
    free(g);
    free(u);
}

/* Logits of `ids` at positions 0 … n-1: n × vocab doubles at `logits`. */
static inline void plain_run(struct plain *p, const int32_t *ids, int n, double *logits)
{
    const struct tiny *s = p->s;
    int d = (int)s->width;
    size_t cache = (size_t)s->layers * s->context * s->width;
    double *x = malloc(sizeof *x * (size_t)d * 5), *y = x + d, *a = y + d, *m = a + d, *z = m + d;
    double *embd = plain_tensor(p, "token_embd.weight"), *where = plain_tensor(p, "position_embd.weight");
    p->k = calloc(cache, sizeof *p->k);
    p->v = calloc(cache, sizeof *p->v);
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < d; i++)
            x[i] = embd[ids[t] * d + i] * p->embedding_scale + (where ? where[(t + 2) * d + i] : 0.0);
        for (int l = 0; l < (int)s->layers; l++) {
            plain_norm(p, l, s->two_norms ? "attn_norm_2" : "attn_norm", x, y);
            plain_attention(p, l, t, y, a);
            for (int i = 0; i < d; i++) z[i] = x[i] + a[i] * p->residual_scale;
            plain_norm(p, l, p->parallel ? "attn_norm" : "ffn_norm", p->parallel ? x : z, y);
            plain_ffn(p, l, y, p->parallel ? x : z, m);
            for (int i = 0; i < d; i++) x[i] = z[i] + m[i] * p->residual_scale;
        }
        plain_norm(p, -1, "output_norm", x, y);
        plain_linear(p, -1, s->tied ? "token_embd" : "output", y, d, (int)s->vocab,
                     logits + (size_t)t * s->vocab);
        for (uint32_t i = 0; i < s->vocab; i++) logits[(size_t)t * s->vocab + i] *= p->logit_scale;
    }
    free(p->k);
    free(p->v);
    free(x);
    free(embd);
    free(where);
}

#endif
