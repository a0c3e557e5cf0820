/* A model's shape out of a GGUF header that nobody vouches for. Only what planning needs is read: whether the
 * model can run is for the engine to say. */
#include "placement/plan_model_priv.h"

#include "base/err.h"
#include "io/gguf.h"
#include "placement/profile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As engine/hparams.c has them. */
enum { LAYERS_MOST = 4096, WIDTH_MOST = 1 << 20, NEURONS_MOST = 1 << 20, HEADS_MOST = 65536 };

struct reader {
    const struct gguf *f;
    struct plan_model *m;
    char arch[40];
    struct err *e;
};

static int number(const struct reader *r, const char *suffix, bool required, uint32_t lo, uint32_t hi,
                  uint32_t *out)
{
    char key[128];
    uint32_t v = 0;
    snprintf(key, sizeof key, "%s.%s", r->arch, suffix);
    int rc = gguf_get_u32(r->f, key, &v, r->e);
    if (rc < 0) return rc;
    if (rc == 1 && required)
        return err_set(r->e, ERR_FORMAT, "%s: the key %s is missing: a model cannot be planned without it",
                       gguf_path(r->f), key);
    if (rc == 1) return 1;
    if (v < lo || v > hi)
        return err_set(r->e, ERR_FORMAT, "%s: %s is %u: expected %u to %u", gguf_path(r->f), key, v, lo, hi);
    *out = v;
    return 0;
}

static int hyper_parameters(struct reader *r)
{
    struct plan_model *m = r->m;
    struct gguf_str s = {NULL, 0};
    int rc = gguf_get_str(r->f, "general.architecture", &s, r->e);
    if (rc < 0) return rc;
    if (rc == 1 || s.n == 0 || s.n >= sizeof r->arch || memchr(s.s, 0, s.n))
        return err_set(r->e, ERR_FORMAT, "%s: general.architecture is no name: this file holds no model",
                       gguf_path(r->f));
    memcpy(r->arch, s.s, s.n);
    uint32_t experts = 0;
    if ((rc = number(r, "expert_count", false, 0, UINT32_MAX, &experts)) < 0) return rc;
    if (experts)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: a mixture of %u experts: Calor runs dense models only",
                       gguf_path(r->f), experts);
    if ((rc = number(r, "embedding_length", true, 1, WIDTH_MOST, &m->width)) < 0 ||
        (rc = number(r, "block_count", true, 1, LAYERS_MOST, &m->layers)) < 0 ||
        (rc = number(r, "feed_forward_length", true, 1, NEURONS_MOST, &m->neurons)) < 0 ||
        (rc = number(r, "context_length", true, 1, INT32_MAX, &m->context)) < 0 ||
        (rc = number(r, "attention.head_count", true, 1, HEADS_MOST, &m->heads)) < 0)
        return rc;
    m->kv_heads = m->heads;
    if ((rc = number(r, "attention.head_count_kv", false, 1, m->heads, &m->kv_heads)) < 0) return rc;
    if (m->heads % m->kv_heads)
        return err_set(r->e, ERR_FORMAT, "%s: %u heads are no multiple of %u KV heads", gguf_path(r->f),
                       m->heads, m->kv_heads);
    rc = number(r, "attention.key_length", false, 1, 4096, &m->head_dim);
    if (rc < 0) return rc;
    if (rc == 1 && m->width % m->heads)
        return err_set(r->e, ERR_FORMAT, "%s: %u values cannot be shared out over %u heads", gguf_path(r->f),
                       m->width, m->heads);
    if (rc == 1) m->head_dim = m->width / m->heads;
    m->rot = gguf_find_tensor(r->f, "position_embd.weight") ? 0 : m->head_dim;
    if (m->rot && (rc = number(r, "rope.dimension_count", false, 2, m->head_dim, &m->rot)) < 0) return rc;
    /* As the files of falcon and its kin have it: no norm of its own before the FFN. */
    m->parallel = strcmp(r->arch, "falcon") == 0;
    return 0;
}

/* 0, or 1 where it is not there and need not be. */
static int matrix(const struct reader *r, struct plan_matrix *w, const char *name, bool required, uint64_t n,
                  uint64_t rows)
{
    const struct gguf_tensor *t = gguf_find_tensor(r->f, name);
    if (!t && !required) return 1;
    if (!t)
        return err_set(r->e, ERR_FORMAT, "%s: the tensor %s is missing: not a model Calor can plan for",
                       gguf_path(r->f), name);
    if (t->ne[0] != n || t->ne[1] != rows || t->ne[2] != 1 || t->ne[3] != 1)
        return err_set(r->e, ERR_FORMAT,
                       "%s: the tensor %s is %" PRIu64 " × %" PRIu64 ": the metadata needs %" PRIu64
                       " × %" PRIu64,
                       gguf_path(r->f), name, t->ne[0], t->ne[1], n, rows);
    const struct dtype_info *info = dtype_info((uint32_t)t->type);
    if (!info || !info->weights)
        return err_set(r->e, ERR_UNSUPPORTED, "%s: the tensor %s has type %s, which weights cannot have",
                       gguf_path(r->f), name, dtype_name((uint32_t)t->type));
    *w = (struct plan_matrix){.type = t->type, .n = n, .rows = rows, .bytes = t->bytes};
    return 0;
}

/* Rows [at, at + rows) of `all`. */
static struct plan_matrix part(const struct plan_matrix *all, uint64_t rows)
{
    return (struct plan_matrix){
        .type = all->type, .n = all->n, .rows = rows, .bytes = all->bytes / all->rows * rows};
}

static int read_layer(struct reader *r, uint32_t i)
{
    struct plan_model *m = r->m;
    struct plan_layer *l = &m->layer[i];
    uint64_t d = m->width, f = m->neurons, nq = (uint64_t)m->heads * m->head_dim,
             nkv = (uint64_t)m->kv_heads * m->head_dim;
    struct plan_matrix all;
    char key[64];
    int rc;
#define NAME(suffix) (snprintf(key, sizeof key, "blk.%u." suffix, i), key)
    if ((rc = matrix(r, &all, NAME("attn_qkv.weight"), false, d, nq + 2 * nkv)) < 0) return rc;
    if (rc == 0) {
        l->q = part(&all, nq);
        l->k = l->v = part(&all, nkv);
    } else if ((rc = matrix(r, &l->q, NAME("attn_q.weight"), true, d, nq)) < 0 ||
               (rc = matrix(r, &l->k, NAME("attn_k.weight"), true, d, nkv)) < 0 ||
               (rc = matrix(r, &l->v, NAME("attn_v.weight"), true, d, nkv)) < 0) {
        return rc;
    }
    if ((rc = matrix(r, &l->o, NAME("attn_output.weight"), true, nq, d)) < 0 ||
        (rc = matrix(r, &l->gate, NAME("ffn_gate.weight"), false, d, f)) < 0)
        return rc;
    if (rc == 1) l->gate = (struct plan_matrix){0};
    if ((rc = matrix(r, &l->up, NAME("ffn_up.weight"), true, d, f)) < 0 ||
        (rc = matrix(r, &l->down, NAME("ffn_down_t.weight"), false, d, f)) < 0)
        return rc;
    l->down_by_neuron = rc == 0;
    if (rc == 1 && (rc = matrix(r, &l->down, NAME("ffn_down.weight"), true, f, d)) < 0) return rc;
#undef NAME
    l->attention = l->q.bytes + l->k.bytes + l->v.bytes + l->o.bytes;
    return 0;
}

/* Norms and biases become floats in RAM; rows of learned positions stay as they are. */
static void vectors(struct reader *r)
{
    for (int64_t i = 0; i < gguf_n_tensors(r->f); i++) {
        const struct gguf_tensor *t = gguf_tensor(r->f, i);
        unsigned layer = 0;
        char *end;
        if (strcmp(t->name, "position_embd.weight") == 0) r->m->vectors += t->bytes;
        if (t->ne[1] != 1 || t->ne[2] != 1 || t->ne[0] > WIDTH_MOST * 4ull) continue;
        if (strncmp(t->name, "blk.", 4) == 0 && t->name[4] >= '0' && t->name[4] <= '9') {
            layer = (unsigned)strtoul(t->name + 4, &end, 10);
            if (*end == '.' && layer < r->m->layers) r->m->layer[layer].attention += 4 * t->ne[0];
        } else {
            r->m->vectors += 4 * t->ne[0];
        }
    }
}

static int read_model(struct reader *r, const struct profile *p, const struct plan_model_settings *s)
{
    struct plan_model *m = r->m;
    int rc = hyper_parameters(r);
    if (rc < 0) return rc;
    const struct gguf_tensor *t = gguf_find_tensor(r->f, "token_embd.weight");
    if (!t || t->ne[1] < 1 || t->ne[1] > 1u << 24)
        return err_set(r->e, ERR_FORMAT,
                       "%s: the tensor token_embd.weight is missing: this file holds no model",
                       gguf_path(r->f));
    m->vocab = (uint32_t)t->ne[1];
    /* Each layer has at least four tensors: a count that the directory cannot hold gets no memory. */
    if ((int64_t)m->layers > gguf_n_tensors(r->f))
        return err_set(r->e, ERR_FORMAT, "%s: %s.block_count is %u but the file has %" PRId64 " tensors",
                       gguf_path(r->f), r->arch, m->layers, gguf_n_tensors(r->f));
    m->layer = calloc(m->layers, sizeof *m->layer);
    if (!m->layer) return err_set(r->e, ERR_NOMEM, "no memory for %u layers", m->layers);
    if ((rc = matrix(r, &m->embedding, "token_embd.weight", true, m->width, m->vocab)) < 0) return rc;
    if ((rc = matrix(r, &m->output, "output.weight", false, m->width, m->vocab)) < 0) return rc;
    m->tied = rc == 1;
    if (m->tied) m->output = m->embedding;
    for (uint32_t i = 0; i < m->layers; i++)
        if ((rc = read_layer(r, i)) < 0) return rc;
    m->gated = m->layer[0].gate.rows > 0;
    vectors(r);
    m->has_identity = gguf_identity(r->f, m->identity, r->e) == 0;
    if (p && m->has_identity && (rc = profile_check_model(p, m->identity, gguf_path(r->f), r->e))) return rc;
    return plan_model_finish(m, p, s, r->e);
}

int plan_model_from_gguf(struct plan_model **out, const struct gguf *f, const struct profile *p,
                         const struct plan_model_settings *s, struct err *e)
{
    *out = NULL;
    struct plan_model *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_NOMEM, "no memory for a model");
    struct reader r = {.f = f, .m = m, .e = e};
    struct gguf_str name = {NULL, 0};
    const char *file = strrchr(gguf_path(f), '/');
    snprintf(m->origin, sizeof m->origin, "%s", file ? file + 1 : gguf_path(f));
    if (gguf_get_str(f, "general.name", &name, NULL) != 0 || !name.n)
        name = (struct gguf_str){m->origin, strlen(m->origin)};
    size_t n = name.n < sizeof m->name - 1 ? (size_t)name.n : sizeof m->name - 1;
    for (size_t i = 0; i < n; i++)
        m->name[i] = (unsigned char)name.s[i] < 32 || name.s[i] == 127 ? '?' : name.s[i];
    int rc = read_model(&r, p, s);
    if (rc) {
        plan_model_destroy(&m);
        return rc;
    }
    *out = m;
    return 0;
}
