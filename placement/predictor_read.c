/* Reading predictors, which are nobody's to trust: every number is checked before it is used. */
#include "placement/predictor.h"

#include "base/err.h"
#include "base/half.h"
#include "io/gguf.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const struct gguf *f;
    struct predictor *p;
    struct err *e;
    /* One value a layer each. */
    uint32_t *rank, *hidden;
    float *cut;
    float *row; /* a decoded row */
};

static int missing(const struct reader *r, const char *what)
{
    return err_set(r->e, ERR_FORMAT, "'%s': a predictor needs %s, which is not there", gguf_path(r->f), what);
}

static int damaged(const struct reader *r, const char *what, uint64_t at, const char *expected)
{
    return err_set(r->e, ERR_FORMAT, "'%s': '%s', value %llu: expected %s", gguf_path(r->f), what,
                   (unsigned long long)at, expected);
}

static int array(const struct reader *r, const char *key, enum gguf_type type, size_t bytes, uint64_t n,
                 void *out)
{
    const void *data;
    uint64_t found;
    int rc = gguf_get_arr(r->f, key, type, &data, &found, r->e);
    if (rc < 0) return rc;
    if (rc == 1) return missing(r, key);
    if (found != n)
        return err_set(r->e, ERR_FORMAT, "'%s': %s has %llu values: expected %llu", gguf_path(r->f), key,
                       (unsigned long long)found, (unsigned long long)n);
    memcpy(out, data, n * bytes);
    return 0;
}

static int text(const struct reader *r, const char *key, char *out, size_t size)
{
    struct gguf_str s = {"", 0};
    int rc = gguf_get_str(r->f, key, &s, r->e);
    if (rc < 0) return rc;
    if (rc == 1) return missing(r, key);
    if (s.n >= size || memchr(s.s, 0, s.n))
        return err_set(r->e, ERR_FORMAT, "'%s': %s is no name of at most %zu bytes", gguf_path(r->f), key,
                       size - 1);
    memcpy(out, s.s, s.n);
    out[s.n] = 0;
    return 0;
}

static int number(const struct reader *r, const char *key, uint32_t *out)
{
    int rc = gguf_get_u32(r->f, key, out, r->e);
    return rc == 1 ? missing(r, key) : rc;
}

static int read_subject(struct reader *r)
{
    struct predictor_subject s = {0};
    struct gguf_str type = {"", 0};
    char model[1024], activation[64];
    uint32_t version = 0;
    int rc = gguf_get_str(r->f, "general.type", &type, r->e);
    if (rc < 0) return rc;
    if (rc == 1 || type.n != 15 || memcmp(type.s, "calor.predictor", 15) != 0)
        return err_set(r->e, ERR_FORMAT, "'%s' is no predictor: make one with `calor predictor`",
                       gguf_path(r->f));
    if ((rc = number(r, "calor.predictor.version", &version)) < 0) return rc;
    if (version != 1)
        return err_set(r->e, ERR_UNSUPPORTED, "'%s' is a predictor of version %u: expected 1",
                       gguf_path(r->f), version);
    if ((rc = text(r, "calor.predictor.model", model, sizeof model)) < 0 ||
        (rc = text(r, "calor.predictor.activation", activation, sizeof activation)) < 0 ||
        (rc = array(r, "calor.predictor.identity", GGUF_U8, 1, 16, s.identity)) < 0 ||
        (rc = number(r, "calor.predictor.layers", &s.layers)) < 0 ||
        (rc = number(r, "calor.predictor.neurons", &s.neurons)) < 0 ||
        (rc = number(r, "calor.predictor.width", &s.width)) < 0)
        return rc;
    s.model = model;
    s.activation = activation;
    /* Each layer has tensors: a number of layers that the file cannot hold is refused before there is memory
     * for them. */
    if (s.layers > (uint64_t)gguf_n_tensors(r->f))
        return err_set(r->e, ERR_FORMAT, "'%s' says %u layers, and has %lld tensors", gguf_path(r->f),
                       s.layers, (long long)gguf_n_tensors(r->f));
    rc = predictor_create(&r->p, &s, r->e);
    if (rc == ERR_ARG) {
        r->e->code = ERR_FORMAT;
        return err_prefix(r->e, ERR_FORMAT, "'%s'", gguf_path(r->f));
    }
    return rc;
}

static int read_lists(struct reader *r)
{
    uint32_t L = r->p->subject.layers;
    r->rank = malloc(L * sizeof *r->rank);
    r->hidden = malloc(L * sizeof *r->hidden);
    r->cut = malloc(L * sizeof *r->cut);
    if (!r->rank || !r->hidden || !r->cut) return err_set(r->e, ERR_NOMEM, "no memory for a predictor");
    int rc = gguf_get_f32(r->f, "calor.predictor.recall", &r->p->recall, r->e);
    if (rc < 0) return rc;
    if (rc == 0 && !(r->p->recall >= 0.0f && r->p->recall <= 1.0f))
        return damaged(r, "calor.predictor.recall", 0, "a share from 0 to 1");
    if ((rc = array(r, "calor.predictor.rank", GGUF_U32, 4, L, r->rank)) < 0 ||
        (rc = array(r, "calor.predictor.hidden", GGUF_U32, 4, L, r->hidden)) < 0 ||
        (rc = array(r, "calor.predictor.cut", GGUF_F32, 4, L, r->cut)) < 0)
        return rc;
    for (uint32_t i = 0; i < L; i++) {
        if (r->rank[i] == 0 || r->rank[i] > PREDICTOR_RANK_MOST)
            return damaged(r, "calor.predictor.rank", i, "a rank from 1 to 8192");
        if (r->hidden[i] > PREDICTOR_RELU)
            return damaged(r, "calor.predictor.hidden", i, "0 (linear) or 1 (ReLU)");
        if (isnan(r->cut[i])) return damaged(r, "calor.predictor.cut", i, "a number");
    }
    return 0;
}

/* A layer's tensor with `rows` rows of n values (rows 0: one dimension); NULL with *rc = 0: not there. */
static const struct gguf_tensor *find(const struct reader *r, uint32_t layer, const char *what, uint64_t n,
                                      uint64_t rows, int *rc)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s", layer, what);
    const struct gguf_tensor *t = gguf_find_tensor(r->f, name);
    *rc = 0;
    if (!t) return NULL;
    if (t->n_dims == (rows ? 2 : 1) && t->ne[0] == n && t->ne[1] == (rows ? rows : 1)) return t;
    *rc = err_set(r->e, ERR_FORMAT,
                  "'%s': '%s' has %llu × %llu values: the width, rank and neurons that the file states need "
                  "%llu × %llu",
                  gguf_path(r->f), name, (unsigned long long)t->ne[0], (unsigned long long)t->ne[1],
                  (unsigned long long)n, (unsigned long long)(rows ? rows : 1));
    return NULL;
}

static const struct gguf_tensor *need(const struct reader *r, uint32_t layer, const char *what, uint64_t n,
                                      uint64_t rows, int *rc)
{
    char name[64];
    const struct gguf_tensor *t = find(r, layer, what, n, rows, rc);
    if (t || *rc) return t;
    snprintf(name, sizeof name, "the tensor blk.%u.%s", layer, what);
    *rc = missing(r, name);
    return NULL;
}

static int all_finite(const struct reader *r, const struct gguf_tensor *t, const float *v, uint64_t n,
                      uint64_t first)
{
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return damaged(r, t->name, first + i, "a finite number");
    return 0;
}

/* The rows of a matrix, each decoded once to see that it holds numbers. */
static int matrix(const struct reader *r, const struct gguf_tensor *t, uint8_t *out)
{
    int rc = gguf_read_tensor(r->f, t, 0, out, t->bytes, r->e);
    for (uint64_t i = 0; rc == 0 && i < t->ne[1]; i++) {
        kern_tier(KERN_REF)->decode(t->type, r->row, out + i * t->row_bytes, (int64_t)t->ne[0]);
        rc = all_finite(r, t, r->row, t->ne[0], i * t->ne[0]);
    }
    return rc;
}

static int vector_type(const struct reader *r, const struct gguf_tensor *t, enum dtype type)
{
    if (t->type == type) return 0;
    return err_set(r->e, ERR_FORMAT, "'%s': '%s' is %s: expected %s", gguf_path(r->f), t->name,
                   dtype_name((uint32_t)t->type), dtype_name((uint32_t)type));
}

static int read_bias(const struct reader *r, const struct gguf_tensor *t, uint16_t *out)
{
    int rc = vector_type(r, t, DT_F16);
    if (rc == 0) rc = gguf_read_tensor(r->f, t, 0, out, t->bytes, r->e);
    for (uint64_t i = 0; rc == 0 && i < t->ne[0]; i++)
        if (!isfinite(f16_to_f32(out[i]))) rc = damaged(r, t->name, i, "a finite number");
    return rc;
}

static int read_layer(struct reader *r, uint32_t i)
{
    struct predictor *p = r->p;
    uint32_t f = p->subject.neurons, d = p->subject.width, rank = r->rank[i];
    const struct gguf_tensor *fc1, *fc2, *hidden, *bias;
    int rc;
    /* Before there is memory for it, the file must have it. */
    if (!(fc1 = need(r, i, "fc1.weight", d, rank, &rc)) || !(fc2 = need(r, i, "fc2.weight", rank, f, &rc)) ||
        !(bias = need(r, i, "fc2.bias", f, 0, &rc)))
        return rc;
    hidden = find(r, i, "fc1.bias", rank, 0, &rc);
    if (rc) return rc;
    rc = predictor_layer_create(p, i, rank, fc1->type, fc2->type, hidden != NULL, r->e);
    if (rc == ERR_ARG) {
        r->e->code = ERR_FORMAT;
        return err_prefix(r->e, ERR_FORMAT, "'%s': layer %u", gguf_path(r->f), i);
    }
    if (rc) return rc;
    struct predictor_layer *l = &p->layers[i];
    l->hidden = (enum predictor_hidden)r->hidden[i];
    l->cut = r->cut[i];
    uint32_t widest = d > rank ? d : rank;
    free(r->row);
    r->row = malloc(widest * sizeof *r->row);
    if (!r->row) return err_set(r->e, ERR_NOMEM, "no memory for a predictor");
    rc = matrix(r, fc1, l->fc1);
    if (rc == 0) rc = matrix(r, fc2, l->fc2);
    if (rc == 0) rc = read_bias(r, bias, l->bias);
    if (rc == 0 && hidden) rc = vector_type(r, hidden, DT_F32);
    if (rc == 0 && hidden) rc = gguf_read_tensor(r->f, hidden, 0, l->hidden_bias, hidden->bytes, r->e);
    if (rc == 0 && hidden) rc = all_finite(r, hidden, l->hidden_bias, rank, 0);
    return rc;
}

int predictor_from_gguf(struct predictor **out, const struct gguf *f, struct err *e)
{
    struct err own;
    struct reader r = {.f = f, .e = e ? e : &own};
    *out = NULL;
    int rc = read_subject(&r);
    if (rc == 0) rc = read_lists(&r);
    for (uint32_t i = 0; rc == 0 && i < r.p->subject.layers; i++) rc = read_layer(&r, i);
    free(r.rank);
    free(r.hidden);
    free(r.cut);
    free(r.row);
    if (rc)
        predictor_close(&r.p);
    else
        *out = r.p;
    return rc;
}

int predictor_open(struct predictor **out, const char *path, struct err *e)
{
    struct gguf *f = NULL;
    *out = NULL;
    int rc = gguf_open(&f, path, GGUF_READ, e);
    if (rc == 0) rc = predictor_from_gguf(out, f, e);
    gguf_close(&f);
    return rc;
}
