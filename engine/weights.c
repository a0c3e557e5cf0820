/* Binding a file's tensors to the architecture: every shape is checked against the hyper-parameters, every
 * matrix gets its kernels. Weights stay in the file's mapping; vectors (norms, biases) become floats. */
#include "engine/model.h"

#include "base/err.h"
#include "engine/arch/arch.h"
#include "engine/tokenizer.h"
#include "io/gguf.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct binder {
    struct calor_model *m;
    const calor_model_settings *s;
    struct err *e;
    int failed;           /* the first error, 0 while there is none */
    uint64_t bytes_read;  /* of weights, in read mode */
    int64_t tensors_used; /* to report what is left */
};

enum need { OPTIONAL, REQUIRED };

static const struct gguf_tensor *find(struct binder *b, const char *name, enum need need)
{
    if (b->failed) return NULL;
    const struct gguf_tensor *t = gguf_find_tensor(b->m->file, name);
    if (!t && need == REQUIRED)
        b->failed = err_set(b->e, ERR_FORMAT, "%s: the tensor %s is missing: a %s model needs it",
                            gguf_path(b->m->file), name, b->m->arch->name);
    if (t) b->tensors_used++;
    return t;
}

static void expect_shape(struct binder *b, const struct gguf_tensor *t, uint64_t n, uint64_t rows)
{
    if (b->failed) return;
    bool ok = t->ne[0] == n && t->ne[1] == rows && t->ne[2] == 1 && t->ne[3] == 1;
    if (!ok)
        b->failed = err_set(
            b->e, ERR_FORMAT, "%s: the tensor %s is [%llu, %llu, %llu, %llu]: its %s needs [%llu, %llu]",
            gguf_path(b->m->file), t->name, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
            (unsigned long long)t->ne[2], (unsigned long long)t->ne[3], "metadata", (unsigned long long)n,
            (unsigned long long)rows);
    const struct dtype_info *info = dtype_info((uint32_t)t->type);
    if (!b->failed && (!info || !info->weights))
        b->failed = err_set(b->e, ERR_UNSUPPORTED, "%s: the tensor %s has type %s, which weights cannot have",
                            gguf_path(b->m->file), t->name, dtype_name((uint32_t)t->type));
}

/* The tensor's bytes: in the mapping, or read into memory, where its rows are bound to their nodes. */
static const uint8_t *contents(struct binder *b, const struct gguf_tensor *t)
{
    if (b->failed) return NULL;
    bool placed = b->m->place.groups > 1 && t->ne[1] > 1;
    if (t->data && !placed) return t->data;
    uint8_t *p = model_alloc_huge(b->m, t->bytes + 64); /* room for kernels that load whole vectors */
    if (!p) {
        b->failed = err_set(b->e, ERR_NOMEM, "no memory for the tensor %s (%llu bytes)", t->name,
                            (unsigned long long)t->bytes);
        return NULL;
    }
    if (placed) place_bind(&b->m->place, p, (int64_t)t->ne[1], t->row_bytes);
    /* In pieces, so that a long load can be watched and stopped. */
    for (uint64_t at = 0; at < t->bytes && !b->failed;) {
        uint64_t n = t->bytes - at < (16u << 20) ? t->bytes - at : 16u << 20;
        b->failed = gguf_read_tensor(b->m->file, t, at, p + at, n, b->e);
        at += n;
        b->bytes_read += n;
        if (!b->failed && b->s->progress &&
            b->s->progress((double)b->bytes_read / (double)(b->m->weight_bytes + 1), b->s->progress_arg))
            b->failed = err_set(b->e, ERR_CANCELLED, "%s: loading was interrupted", gguf_path(b->m->file));
    }
    return p;
}

static void bind_mat(struct binder *b, struct mat *w, const struct gguf_tensor *t, uint64_t n, uint64_t rows)
{
    if (b->failed || !t) return;
    expect_shape(b, t, n, rows);
    const uint8_t *data = contents(b, t);
    if (b->failed) return;
    const struct kern_ops *ops = b->m->ops;
    *w = (struct mat){.data = data,
                      .row_bytes = t->row_bytes,
                      .rows = (int64_t)rows,
                      .n = (int64_t)n,
                      .type = t->type,
                      .mv = ops->mv[t->type],
                      .mm = ops->mm[t->type]};
    if (!w->mv || !w->mm)
        b->failed =
            err_set(b->e, ERR_UNSUPPORTED, "%s: the tensor %s has type %s, which Calor cannot compute",
                    gguf_path(b->m->file), t->name, dtype_name((uint32_t)t->type));
}

static void mat(struct binder *b, struct mat *w, const char *name, enum need need, uint64_t n, uint64_t rows)
{
    bind_mat(b, w, find(b, name, need), n, rows);
}

static const float *vec(struct binder *b, const char *name, enum need need, uint64_t n)
{
    const struct gguf_tensor *t = find(b, name, need);
    if (!t) return NULL;
    expect_shape(b, t, n, 1);
    if (b->failed) return NULL;
    float *v = model_alloc(b->m, n * sizeof *v);
    uint8_t *raw = t->data ? NULL : malloc(t->bytes);
    if (!v || (!t->data && !raw)) {
        b->failed = err_set(b->e, ERR_NOMEM, "no memory for the tensor %s", t->name);
    } else {
        if (raw) b->failed = gguf_read_tensor(b->m->file, t, 0, raw, t->bytes, b->e);
        if (!b->failed) b->m->ops->decode(t->type, v, raw ? raw : t->data, (int64_t)n);
    }
    free(raw);
    return b->failed ? NULL : v;
}

static struct norm norm(struct binder *b, const char *name, enum need need)
{
    char key[96];
    uint64_t d = b->m->hp.width;
    bool bias = b->m->arch->norm_bias;
    struct norm out = {0};
    snprintf(key, sizeof key, "%s.weight", name);
    out.w = vec(b, key, need, d);
    snprintf(key, sizeof key, "%s.bias", name);
    if (out.w) out.b = vec(b, key, bias ? REQUIRED : OPTIONAL, d);
    return out;
}

/* `rows` rows of `from`, starting at row *at. */
static struct mat part(const struct mat *from, int64_t *at, int64_t rows)
{
    struct mat w = *from;
    w.data += (size_t)*at * w.row_bytes;
    w.rows = rows;
    *at += rows;
    return w;
}

static void bind_attention(struct binder *b, struct layer *l, uint32_t i)
{
    const struct hparams *hp = &b->m->hp;
    uint64_t d = hp->width, nq = (uint64_t)hp->heads * hp->head_dim,
             nkv = (uint64_t)hp->kv_heads * hp->head_dim;
    char key[64];
#define NAME(suffix) (snprintf(key, sizeof key, "blk.%u." suffix, i), key)
    if (!b->failed && gguf_find_tensor(b->m->file, NAME("attn_qkv.weight"))) {
        struct mat all = {0};
        int64_t at = 0;
        mat(b, &all, NAME("attn_qkv.weight"), REQUIRED, d, nq + 2 * nkv);
        const float *bias = vec(b, NAME("attn_qkv.bias"), OPTIONAL, nq + 2 * nkv);
        if (b->failed) return;
        l->q = part(&all, &at, (int64_t)nq);
        l->k = part(&all, &at, (int64_t)nkv);
        l->v = part(&all, &at, (int64_t)nkv);
        if (bias) l->q_b = bias, l->k_b = bias + nq, l->v_b = bias + nq + nkv;
    } else {
        mat(b, &l->q, NAME("attn_q.weight"), REQUIRED, d, nq);
        mat(b, &l->k, NAME("attn_k.weight"), REQUIRED, d, nkv);
        mat(b, &l->v, NAME("attn_v.weight"), REQUIRED, d, nkv);
        l->q_b = vec(b, NAME("attn_q.bias"), OPTIONAL, nq);
        l->k_b = vec(b, NAME("attn_k.bias"), OPTIONAL, nkv);
        l->v_b = vec(b, NAME("attn_v.bias"), OPTIONAL, nkv);
    }
    mat(b, &l->o, NAME("attn_output.weight"), REQUIRED, nq, d);
    l->o_b = vec(b, NAME("attn_output.bias"), OPTIONAL, d);
}

static void bind_ffn(struct binder *b, struct layer *l, uint32_t i)
{
    uint64_t d = b->m->hp.width, f = b->m->hp.ffn;
    char key[64];
    if (b->m->arch->gated) {
        mat(b, &l->gate, NAME("ffn_gate.weight"), REQUIRED, d, f);
        l->gate_b = vec(b, NAME("ffn_gate.bias"), OPTIONAL, f);
    }
    mat(b, &l->up, NAME("ffn_up.weight"), REQUIRED, d, f);
    l->up_b = vec(b, NAME("ffn_up.bias"), OPTIONAL, f);
    l->down_by_neuron = !b->failed && gguf_find_tensor(b->m->file, NAME("ffn_down_t.weight"));
    if (l->down_by_neuron) {
        mat(b, &l->down, NAME("ffn_down_t.weight"), REQUIRED, d, f);
        l->down_b = vec(b, NAME("ffn_down_t.bias"), OPTIONAL, d);
    } else {
        mat(b, &l->down, NAME("ffn_down.weight"), REQUIRED, f, d);
    }
    if (!l->down_b) l->down_b = vec(b, NAME("ffn_down.bias"), OPTIONAL, d);
}

static void bind_layer(struct binder *b, uint32_t i)
{
    struct layer *l = &b->m->layers[i];
    char key[64];
    l->attn_norm = norm(b, NAME("attn_norm"), REQUIRED);
    if (b->m->arch->parallel) {
        /* One norm for both branches, or attn_norm for the FFN and attn_norm_2 for attention. */
        struct norm second = norm(b, NAME("attn_norm_2"), OPTIONAL);
        l->ffn_norm = l->attn_norm;
        if (second.w) l->attn_norm = second;
    } else {
        l->ffn_norm = norm(b, NAME("ffn_norm"), REQUIRED);
    }
#undef NAME
    bind_attention(b, l, i);
    bind_ffn(b, l, i);
}

/* A layer beyond block_count would be left out in silence, and with it the model's quality. */
static int check_names(const struct calor_model *m, struct err *e)
{
    for (int64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        const char *name = gguf_tensor(m->file, i)->name, *p = name + 4;
        if (strncmp(name, "blk.", 4) != 0) continue;
        uint64_t index = 0;
        int digits = 0;
        for (; *p >= '0' && *p <= '9' && digits < 10; p++, digits++)
            index = index * 10 + (uint64_t)(*p - '0');
        if (digits == 0 || *p != '.')
            return err_set(e, ERR_FORMAT, "%s: the tensor name \"%.64s\" has no layer number after \"blk.\"",
                           gguf_path(m->file), name);
        if (index >= m->hp.layers)
            return err_set(e, ERR_FORMAT, "%s: the tensor %.64s is beyond the %u layers of %s.block_count",
                           gguf_path(m->file), name, m->hp.layers, m->arch->name);
    }
    return 0;
}

static void count(struct calor_model *m)
{
    uint64_t by_type[DT_COUNT] = {0};
    int best = DT_F32;
    for (int64_t i = 0; i < gguf_n_tensors(m->file); i++) {
        const struct gguf_tensor *t = gguf_tensor(m->file, i);
        m->parameters += t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3];
        m->weight_bytes += t->bytes;
        by_type[t->type] += t->bytes;
        if (by_type[t->type] > by_type[best]) best = (int)t->type;
    }
    m->type = dtype_name((uint32_t)best);
}

int weights_bind(struct calor_model *m, const calor_model_settings *s, struct err *e)
{
    const struct hparams *hp = &m->hp;
    struct binder b = {.m = m, .s = s, .e = e};
    uint64_t d = hp->width;
    count(m);
    int r = check_names(m, e);
    if (r < 0) return r;
    /* Every layer has at least four tensors: a block_count that the directory cannot hold is refused before
     * memory is spent on it. */
    if ((int64_t)hp->layers > gguf_n_tensors(m->file))
        return err_set(e, ERR_FORMAT, "%s: %s.block_count is %u but the file has %lld tensors",
                       gguf_path(m->file), m->arch->name, hp->layers, (long long)gguf_n_tensors(m->file));
    m->layers = calloc(hp->layers, sizeof *m->layers);
    if (!m->layers) return err_set(e, ERR_NOMEM, "no memory for %u layers", hp->layers);

    mat(&b, &m->embd, "token_embd.weight", REQUIRED, d, hp->vocab);
    if (m->arch->position == POSITION_LEARNED) {
        const struct gguf_tensor *t = find(&b, "position_embd.weight", REQUIRED);
        if (t) {
            uint64_t least = (uint64_t)hp->context + m->arch->position_offset;
            if (t->ne[1] < least)
                b.failed = err_set(
                    e, ERR_FORMAT, "%s: position_embd.weight has %llu rows: %u tokens of context need %llu",
                    gguf_path(m->file), (unsigned long long)t->ne[1], hp->context, (unsigned long long)least);
            bind_mat(&b, &m->position, t, d, t->ne[1]);
        }
    } else {
        m->rope_factors = vec(&b, "rope_freqs.weight", OPTIONAL, hp->rot / 2);
        for (uint32_t i = 0; m->rope_factors && i < hp->rot / 2; i++)
            if (!(m->rope_factors[i] > 0.0f && m->rope_factors[i] < 1e9f))
                b.failed =
                    err_set(e, ERR_FORMAT, "%s: rope_freqs.weight[%u] is %g: expected a positive number",
                            gguf_path(m->file), i, (double)m->rope_factors[i]);
    }
    for (uint32_t i = 0; i < hp->layers && !b.failed; i++) bind_layer(&b, i);
    m->output_norm = norm(&b, "output_norm", REQUIRED);
    mat(&b, &m->output, "output.weight", OPTIONAL, d, hp->vocab);
    if (!m->output.data) m->output = m->embd; /* tied */
    m->output_b = vec(&b, "output.bias", OPTIONAL, hp->vocab);
    if (b.failed) return b.failed;
    if (gguf_is_powerinfer(m->file))
        log_info("%s: PowerInfer's predictors (fc1, fc2) are used by predict mode only", gguf_path(m->file));
    else if (b.tensors_used < gguf_n_tensors(m->file))
        log_info("%s: %lld tensors are not part of a %s model and are ignored", gguf_path(m->file),
                 (long long)(gguf_n_tensors(m->file) - b.tensors_used), m->arch->name);
    return 0;
}
