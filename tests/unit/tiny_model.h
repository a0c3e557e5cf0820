/* Small random models of any architecture as GGUF files, with keys and tensors changed or left out at will.
 */
#ifndef TESTS_TINY_MODEL_H
#define TESTS_TINY_MODEL_H

#include "base/dtype.h"
#include "base/err.h"
#include "base/rng.h"
#include "io/gguf.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tiny {
    const char *arch;
    uint32_t layers, width, ffn, heads, kv_heads, vocab, context;
    enum dtype type; /* of the matrices */
    bool gated, layer_norm, bias, learned, fused_qkv, two_norms, tied, by_neuron, rope_factors;
    uint32_t rank; /* not 0: PowerInfer's predictors, fc1 and fc2, of this rank, and its magic */
    uint64_t seed;
    const char *skip;                                     /* a key or tensor to leave out */
    void (*edit)(struct gguf_writer *w, const void *arg); /* after the usual keys */
    const void *arg;
    struct {
        const char *name;
        uint64_t ne[2];
    } reshape;         /* a tensor with another shape */
    const char *extra; /* one more tensor of this name, 1 value */
};

static inline struct tiny tiny_llama(void)
{
    return (struct tiny){.arch = "llama",
                         .layers = 2,
                         .width = 64,
                         .ffn = 96,
                         .heads = 4,
                         .kv_heads = 2,
                         .vocab = 80,
                         .context = 64,
                         .type = DT_F32,
                         .gated = true,
                         .seed = 1};
}

struct tiny_list {
    struct {
        char name[96];
        enum dtype type;
        uint64_t ne[2];
        float mean, scale;
    } t[128];
    int n;
};

static inline void tiny_add(struct tiny_list *l, const struct tiny *s, const char *name, enum dtype type,
                            uint64_t n, uint64_t rows, float mean, float scale)
{
    if (s->skip && strcmp(s->skip, name) == 0) return;
    snprintf(l->t[l->n].name, sizeof l->t[l->n].name, "%s", name);
    l->t[l->n].type = type;
    l->t[l->n].ne[0] = n;
    l->t[l->n].ne[1] = rows;
    if (s->reshape.name && strcmp(s->reshape.name, name) == 0) {
        l->t[l->n].ne[0] = s->reshape.ne[0];
        l->t[l->n].ne[1] = s->reshape.ne[1];
    }
    l->t[l->n].mean = mean;
    l->t[l->n++].scale = scale;
}

static inline void tiny_mat(struct tiny_list *l, const struct tiny *s, const char *name, uint64_t n,
                            uint64_t rows)
{
    tiny_add(l, s, name, s->type, n, rows, 0.0f,
             1.5f / sqrtf((float)n)); /* keeps the size of what it reads */
}

static inline void tiny_vec(struct tiny_list *l, const struct tiny *s, const char *name, uint64_t n,
                            float mean)
{
    tiny_add(l, s, name, DT_F32, n, 0, mean, 0.1f);
}

static inline void tiny_norm(struct tiny_list *l, const struct tiny *s, const char *name)
{
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    tiny_vec(l, s, full, s->width, 1.0f);
    snprintf(full, sizeof full, "%s.bias", name);
    if (s->layer_norm) tiny_vec(l, s, full, s->width, 0.0f);
}

/* A matrix and, where the model has biases, its bias. */
static inline void tiny_linear(struct tiny_list *l, const struct tiny *s, int layer, const char *name,
                               uint64_t n, uint64_t rows)
{
    char full[64];
    snprintf(full, sizeof full, "blk.%d.%s.weight", layer, name);
    tiny_mat(l, s, full, n, rows);
    snprintf(full, sizeof full, "blk.%d.%s.bias", layer, name);
    if (s->bias) tiny_vec(l, s, full, rows, 0.0f);
}

static inline void tiny_tensors(struct tiny_list *l, const struct tiny *s)
{
    uint64_t d = s->width, kv = (uint64_t)s->width / s->heads * s->kv_heads;
    char name[64];
    l->n = 0;
    tiny_add(l, s, "token_embd.weight", s->type, d, s->vocab, 0.0f, 1.0f);
    if (s->learned) tiny_add(l, s, "position_embd.weight", DT_F32, d, s->context + 2, 0.0f, 0.5f);
    if (s->rope_factors) tiny_add(l, s, "rope_freqs.weight", DT_F32, d / s->heads / 2, 0, 2.0f, 0.2f);
    for (int i = 0; i < (int)s->layers; i++) {
        snprintf(name, sizeof name, "blk.%d.attn_norm", i);
        tiny_norm(l, s, name);
        snprintf(name, sizeof name, "blk.%d.attn_norm_2", i);
        if (s->two_norms) tiny_norm(l, s, name);
        snprintf(name, sizeof name, "blk.%d.ffn_norm", i);
        if (strcmp(s->arch, "falcon") != 0) tiny_norm(l, s, name);
        if (s->fused_qkv) {
            tiny_linear(l, s, i, "attn_qkv", d, d + 2 * kv);
        } else {
            tiny_linear(l, s, i, "attn_q", d, d);
            tiny_linear(l, s, i, "attn_k", d, kv);
            tiny_linear(l, s, i, "attn_v", d, kv);
        }
        tiny_linear(l, s, i, "attn_output", d, d);
        if (s->gated) tiny_linear(l, s, i, "ffn_gate", d, s->ffn);
        tiny_linear(l, s, i, "ffn_up", d, s->ffn);
        if (s->rank) {
            snprintf(name, sizeof name, "blk.%d.fc1.weight", i);
            tiny_mat(l, s, name, d, s->rank);
            snprintf(name, sizeof name, "blk.%d.fc2.weight", i);
            tiny_mat(l, s, name, s->rank, s->ffn);
        }
        if (s->by_neuron) {
            snprintf(name, sizeof name, "blk.%d.ffn_down_t.weight", i);
            tiny_mat(l, s, name, d, s->ffn);
            snprintf(name, sizeof name, "blk.%d.ffn_down_t.bias", i);
            if (s->bias) tiny_vec(l, s, name, d, 0.0f);
        } else {
            tiny_linear(l, s, i, "ffn_down", s->ffn, d);
        }
    }
    tiny_norm(l, s, "output_norm");
    if (!s->tied) tiny_mat(l, s, "output.weight", d, s->vocab);
    if (s->extra) tiny_add(l, s, s->extra, DT_F32, 1, 0, 0.0f, 1.0f);
}

static inline int tiny_keys(struct gguf_writer *w, const struct tiny *s, struct err *e)
{
    static const char *const names[] = {"context_length",       "embedding_length",
                                        "block_count",          "feed_forward_length",
                                        "attention.head_count", "attention.head_count_kv"};
    uint32_t values[] = {s->context, s->width, s->layers, s->ffn, s->heads, s->kv_heads};
    char key[96];
    int r = 0;
    if (!s->skip || strcmp(s->skip, "general.architecture") != 0)
        r = gguf_put_str(w, "general.architecture", s->arch, e);
    for (int i = 0; i < 6 && r == 0; i++)
        if (!s->skip || strcmp(s->skip, names[i]) != 0) {
            snprintf(key, sizeof key, "%s.%s", s->arch, names[i]);
            r = gguf_put_u32(w, key, values[i], e);
        }
    snprintf(key, sizeof key, "%s.attention.layer_norm_%sepsilon", s->arch, s->layer_norm ? "" : "rms_");
    if (r == 0 && (!s->skip || strcmp(s->skip, "epsilon") != 0)) r = gguf_put_f32(w, key, 1e-5f, e);
    if (r == 0) r = gguf_put_str(w, "tokenizer.ggml.model", "none", e);
    if (r == 0 && s->edit) s->edit(w, s->arg);
    return r;
}

/* Writes the model; the same specification gives the same file. 0 or a negative error code. */
static inline int tiny_write(const char *path, const struct tiny *s, struct err *e)
{
    static struct tiny_list l;
    struct gguf_writer *w = NULL;
    struct rng rng;
    int r = gguf_writer_create(&w, path, e);
    if (r == 0) r = tiny_keys(w, s, e);
    tiny_tensors(&l, s);
    for (int i = 0; i < l.n && r == 0; i++)
        r = gguf_declare(w, l.t[i].name, l.t[i].type, l.t[i].ne[1] ? 2 : 1, l.t[i].ne, e);
    if (r == 0) r = gguf_write_header(w, e);
    for (int i = 0; i < l.n && r == 0; i++) {
        uint64_t rows = l.t[i].ne[1] ? l.t[i].ne[1] : 1, n = l.t[i].ne[0], bytes = 0;
        dtype_row_bytes((uint32_t)l.t[i].type, n, &bytes);
        float *x = malloc(n * sizeof *x);
        void *row = malloc(bytes);
        /* Each tensor has its own stream, so that leaving one out does not change the others. */
        uint64_t h = s->seed;
        for (const char *p = l.t[i].name; *p; p++) h = h * 1099511628211u + (unsigned char)*p;
        rng_init(&rng, h);
        for (uint64_t k = 0; k < rows && r == 0; k++) {
            for (uint64_t j = 0; j < n; j++) x[j] = l.t[i].mean + l.t[i].scale * (float)rng_normal(&rng);
            r = kern_encode(l.t[i].type, row, x, (int64_t)n, e);
            if (r == 0) r = gguf_write(w, row, bytes, e);
        }
        free(x);
        free(row);
    }
    if (r == 0) r = gguf_writer_finish(w, e);
    gguf_writer_destroy(&w);
    FILE *f = r == 0 && s->rank ? fopen(path, "r+b") : NULL;
    if (f) {
        if (fwrite("PWRI", 1, 4, f) != 4) r = -1;
        fclose(f);
    }
    return r;
}

#endif
