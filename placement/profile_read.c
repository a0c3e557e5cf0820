/* Reading profiles, which are nobody's to trust: every number is checked before it is used. */
#include "placement/profile_priv.h"

#include "base/checked.h"
#include "base/err.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const struct gguf *f;
    struct profile *p;
    struct err *e;
};

static int missing(const struct reader *r, const char *what)
{
    return err_set(r->e, ERR_FORMAT, "'%s': a profile needs %s, which is not there", gguf_path(r->f), what);
}

static int damaged(const struct reader *r, const char *tensor, uint64_t at, const char *expected)
{
    return err_set(r->e, ERR_FORMAT, "'%s': '%s', value %llu: expected %s", gguf_path(r->f), tensor,
                   (unsigned long long)at, expected);
}

/* An array of exactly n numbers, copied out. */
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
    if (n) memcpy(out, data, n * bytes);
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

static int read_subject(struct reader *r)
{
    struct profile_subject s = {0};
    struct gguf_str type = {"", 0};
    char model[1024], activation[64];
    uint32_t version = 0;
    int rc = gguf_get_str(r->f, "general.type", &type, r->e);
    if (rc < 0) return rc;
    if (rc == 1 || type.n != 13 || memcmp(type.s, "calor.profile", 13) != 0)
        return err_set(r->e, ERR_FORMAT, "'%s' is no profile: make one with `calor profile`",
                       gguf_path(r->f));
    if ((rc = gguf_get_u32(r->f, "calor.profile.version", &version, r->e)) < 0) return rc;
    if (version != 1)
        return err_set(r->e, ERR_UNSUPPORTED, "'%s' is a profile of version %u: expected 1", gguf_path(r->f),
                       version);
    if ((rc = text(r, "calor.profile.model", model, sizeof model)) < 0 ||
        (rc = text(r, "calor.profile.activation", activation, sizeof activation)) < 0 ||
        (rc = array(r, "calor.profile.identity", GGUF_U8, 1, 16, s.identity)) < 0 ||
        (rc = gguf_get_bool(r->f, "calor.profile.zeros", &s.zeros, r->e)) < 0 ||
        (rc = gguf_get_u32(r->f, "calor.profile.layers", &s.layers, r->e)) < 0 ||
        (rc = gguf_get_u32(r->f, "calor.profile.neurons", &s.neurons, r->e)) < 0 ||
        (rc = gguf_get_u32(r->f, "calor.profile.width", &s.width, r->e)) < 0)
        return rc;
    s.model = model;
    s.activation = activation;
    /* Each layer has tensors: a number of layers that the file cannot hold is refused before there is memory
     * for them. */
    if (s.layers > (uint64_t)gguf_n_tensors(r->f))
        return err_set(r->e, ERR_FORMAT, "'%s' says %u layers, and has %lld tensors", gguf_path(r->f),
                       s.layers, (long long)gguf_n_tensors(r->f));
    rc = profile_create(&r->p, &s, r->e);
    if (rc == ERR_ARG) {
        r->e->code = ERR_FORMAT;
        return err_prefix(r->e, ERR_FORMAT, "'%s'", gguf_path(r->f));
    }
    return rc;
}

static int read_runs(struct reader *r)
{
    struct profile *p = r->p;
    int64_t at = gguf_find(r->f, "calor.profile.run.start");
    uint64_t n = at >= 0 && gguf_kv_type(r->f, at) == GGUF_ARR ? gguf_arr_n(r->f, at) : 0;
    if (n > INT32_MAX) return missing(r, "fewer runs");
    uint64_t *start = malloc((n ? n : 1) * sizeof *start);
    uint32_t *which = malloc((n ? n : 1) * sizeof *which), *tokens = malloc((n ? n : 1) * sizeof *tokens);
    p->runs = malloc((n ? n : 1) * sizeof *p->runs);
    int rc = start && which && tokens && p->runs ? 0 : err_set(r->e, ERR_NOMEM, "no memory for a profile");
    if (rc == 0) rc = array(r, "calor.profile.run.start", GGUF_U64, 8, n, start);
    if (rc == 0) rc = array(r, "calor.profile.run.text", GGUF_U32, 4, n, which);
    if (rc == 0) rc = array(r, "calor.profile.run.tokens", GGUF_U32, 4, n, tokens);
    uint64_t sum[PROFILE_TEXTS] = {0};
    for (uint64_t i = 0; rc == 0 && i < n; i++) {
        if (which[i] >= PROFILE_TEXTS) {
            rc = damaged(r, "calor.profile.run.text", i, "0 or 1");
            break;
        }
        sum[which[i]] += tokens[i];
        if (tokens[i] == 0 || sum[which[i]] > p->tokens[which[i]])
            rc = damaged(r, "calor.profile.run.tokens", i, "runs within the text");
        p->runs[i] = (struct profile_run){(enum profile_text)which[i], start[i], tokens[i]};
    }
    if (rc == 0) p->n_runs = (uint32_t)n;
    free(start);
    free(which);
    free(tokens);
    return rc;
}

static int read_lists(struct reader *r)
{
    struct profile *p = r->p;
    uint32_t L = p->subject.layers;
    int rc = array(r, "calor.profile.tokens", GGUF_U64, 8, PROFILE_TEXTS, p->tokens);
    for (int i = 0; rc == 0 && i < PROFILE_TEXTS; i++)
        if (p->tokens[i] > INT32_MAX)
            rc = damaged(r, "calor.profile.tokens", (uint64_t)i, "at most 2147483647");
    if (rc == 0) rc = gguf_get_f32(r->f, "calor.profile.cett.target", &p->cett_target, r->e);
    if (rc < 0) return rc;
    float *v = malloc((size_t)L * PROFILE_REUSES * sizeof *v);
    uint32_t *u = malloc(L * sizeof *u);
    rc = v && u ? 0 : err_set(r->e, ERR_NOMEM, "no memory for a profile");
    if (rc == 0) rc = array(r, "calor.profile.epsilon", GGUF_F32, 4, L, v);
    for (uint32_t i = 0; rc == 0 && i < L; i++) {
        if (!(v[i] >= 0.0f) || isinf(v[i])) rc = damaged(r, "calor.profile.epsilon", i, "a number from 0");
        p->layers[i].epsilon = v[i];
    }
    if (rc == 0) rc = array(r, "calor.profile.gap", GGUF_F32, 4, L, v);
    for (uint32_t i = 0; rc == 0 && i < L; i++) p->layers[i].gap = v[i];
    if (rc == 0) rc = array(r, "calor.profile.reuse", GGUF_F32, 4, (uint64_t)L * PROFILE_REUSES, v);
    for (uint32_t i = 0; rc == 0 && i < L * PROFILE_REUSES; i++)
        p->layers[i / PROFILE_REUSES].reuse[i % PROFILE_REUSES] = v[i];
    if (rc == 0) rc = array(r, "calor.profile.cett.samples", GGUF_U32, 4, L, u);
    for (uint32_t i = 0; rc == 0 && i < L; i++) p->layers[i].samples = u[i];
    free(v);
    free(u);
    return rc == 0 ? read_runs(r) : rc;
}

/* A tensor of this type and shape (rows 0: one dimension), or NULL with *rc set; *rc = 0 and NULL where it is
 * not there. */
static const struct gguf_tensor *find(const struct reader *r, const char *name, enum dtype type, uint64_t n,
                                      uint64_t rows, int *rc)
{
    const struct gguf_tensor *t = gguf_find_tensor(r->f, name);
    *rc = 0;
    if (!t) return NULL;
    if (t->type == type && t->n_dims == (rows ? 2 : 1) && t->ne[0] == n && t->ne[1] == (rows ? rows : 1))
        return t;
    *rc = err_set(r->e, ERR_FORMAT, "'%s': '%s' is %s with %llu × %llu values: expected %s with %llu × %llu",
                  gguf_path(r->f), name, dtype_name((uint32_t)t->type), (unsigned long long)t->ne[0],
                  (unsigned long long)t->ne[1], dtype_name((uint32_t)type), (unsigned long long)n,
                  (unsigned long long)(rows ? rows : 1));
    return NULL;
}

static int values(const struct reader *r, uint32_t layer, const char *what, enum dtype type, uint64_t n,
                  uint64_t rows, void *out)
{
    char name[64];
    int rc;
    snprintf(name, sizeof name, "blk.%u.%s", layer, what);
    const struct gguf_tensor *t = find(r, name, type, n, rows, &rc);
    if (!t) return rc ? rc : missing(r, name);
    return gguf_read_tensor(r->f, t, 0, out, t->bytes, r->e);
}

static int check_values(const struct reader *r, uint32_t layer)
{
    const struct profile *p = r->p;
    const struct profile_layer *l = &p->layers[layer];
    char name[64];
    for (uint32_t i = 0; i < p->subject.neurons; i++) {
        for (int t = 0; t < PROFILE_TEXTS; t++)
            if (l->counts[t][i] > p->tokens[t]) {
                snprintf(name, sizeof name, "blk.%u.count%s", layer, t ? "_held_out" : "");
                return damaged(r, name, i, "at most as many as the text has tokens");
            }
        for (int m = 0; m < 2; m++) {
            float v = m ? l->p99[i] : l->mean[i];
            if (v >= 0.0f && !isinf(v)) continue;
            snprintf(name, sizeof name, "blk.%u.%s", layer, m ? "p99" : "mean");
            return damaged(r, name, i, "a number from 0");
        }
        for (int k = 0; k < PROFILE_PARTNERS; k++) {
            size_t at = (size_t)i * PROFILE_PARTNERS + (size_t)k;
            if (l->partner[at] < p->subject.neurons && l->partner_share[at] <= 0x3c00) continue;
            snprintf(name, sizeof name, "blk.%u.partner%s", layer,
                     l->partner_share[at] > 0x3c00 ? "_share" : "");
            return damaged(r, name, at, "a neuron, with a share from 0 to 1");
        }
    }
    return 0;
}

static int read_curve(const struct reader *r, uint32_t layer)
{
    struct profile_layer *l = &r->p->layers[layer];
    char name[64];
    int rc;
    snprintf(name, sizeof name, "blk.%u.cett", layer);
    const struct gguf_tensor *t = gguf_find_tensor(r->f, name);
    if (!t) return 0;
    uint64_t n = t->ne[1];
    if (n > PROFILE_CURVE_MOST) return damaged(r, name, n, "at most 256 points");
    t = find(r, name, DT_F32, 3, n, &rc);
    if (!t) return rc;
    l->curve = malloc(n * sizeof *l->curve);
    if (!l->curve) return err_set(r->e, ERR_NOMEM, "no memory for a profile");
    rc = gguf_read_tensor(r->f, t, 0, l->curve, t->bytes, r->e);
    if (rc) return rc;
    for (uint64_t i = 0; i < n; i++) {
        const struct profile_curve_point *c = &l->curve[i];
        if (!(c->epsilon >= 0.0f) || isinf(c->epsilon) || (i && c->epsilon < c[-1].epsilon) ||
            !(c->cett >= 0.0f) || isinf(c->cett) || !(c->sparsity >= 0.0f) || c->sparsity > 1.0001f)
            return damaged(r, name, i, "ascending epsilons, with CETT from 0 and sparsity from 0 to 1");
    }
    l->n_curve = (uint32_t)n;
    return 0;
}

static int read_trace(const struct reader *r, uint32_t layer)
{
    const struct profile *p = r->p;
    struct profile_layer *l = &r->p->layers[layer];
    char name[64];
    l->run_at = calloc((size_t)p->n_runs + 1, sizeof *l->run_at);
    if (!l->run_at) return err_set(r->e, ERR_NOMEM, "no memory for a profile");
    if (p->n_runs == 0) return 0;
    snprintf(name, sizeof name, "blk.%u.trace", layer);
    const struct gguf_tensor *t = gguf_find_tensor(r->f, name);
    if (!t) return missing(r, name);
    if (t->type != DT_I8 || t->n_dims != 1) return damaged(r, name, 0, "one row of I8");
    l->trace.p = malloc(t->bytes);
    if (!l->trace.p) return err_set(r->e, ERR_NOMEM, "no memory for a profile");
    l->trace.n = l->trace.cap = t->bytes;
    int rc = gguf_read_tensor(r->f, t, 0, l->trace.p, t->bytes, r->e);
    for (uint32_t i = 0; rc == 0 && i < p->n_runs; i++) {
        size_t used = profile_trace_check(l->trace.p + l->run_at[i], l->trace.n - l->run_at[i],
                                          p->runs[i].tokens, p->subject.neurons);
        if (used == 0) rc = damaged(r, name, l->run_at[i], "a run's tokens, each a list of neurons");
        l->run_at[i + 1] = l->run_at[i] + used;
    }
    if (rc == 0 && l->run_at[p->n_runs] != l->trace.n)
        rc = damaged(r, name, l->run_at[p->n_runs], "the end of the last run");
    return rc;
}

static int read_layer(const struct reader *r, uint32_t i)
{
    struct profile *p = r->p;
    uint64_t f = p->subject.neurons;
    char name[64];
    int rc;
    /* Before there is memory for f neurons, the file must have f of something. */
    snprintf(name, sizeof name, "blk.%u.count", i);
    if (!find(r, name, DT_I32, f, 0, &rc)) return rc ? rc : missing(r, name);
    if ((rc = profile_layer_create(p, i, r->e)) < 0) return rc;
    struct profile_layer *l = &p->layers[i];
    if ((rc = values(r, i, "count", DT_I32, f, 0, l->counts[PROFILE_CALIBRATION])) < 0 ||
        (rc = values(r, i, "count_held_out", DT_I32, f, 0, l->counts[PROFILE_HELD_OUT])) < 0 ||
        (rc = values(r, i, "mean", DT_F32, f, 0, l->mean)) < 0 ||
        (rc = values(r, i, "p99", DT_F32, f, 0, l->p99)) < 0 ||
        (rc = values(r, i, "partner", DT_I16, PROFILE_PARTNERS, f, l->partner)) < 0 ||
        (rc = values(r, i, "partner_share", DT_F16, PROFILE_PARTNERS, f, l->partner_share)) < 0 ||
        (rc = check_values(r, i)) < 0 || (rc = read_curve(r, i)) < 0)
        return rc;
    return read_trace(r, i);
}

/* A tensor of the whole model with rows of three floats: *out is malloc'ed, NULL and 0 where there is none.
 */
static int read_rows(const struct reader *r, const char *name, void **out, uint32_t *n)
{
    const struct gguf_tensor *t = gguf_find_tensor(r->f, name);
    int rc;
    *out = NULL;
    *n = 0;
    if (!t) return 0;
    uint64_t rows = t->ne[1];
    if (rows > PROFILE_CURVE_MOST) return damaged(r, name, rows, "at most 256 points");
    t = find(r, name, DT_F32, 3, rows, &rc);
    if (!t) return rc;
    *out = malloc(rows * 3 * sizeof(float));
    if (!*out) return err_set(r->e, ERR_NOMEM, "no memory for a profile");
    *n = (uint32_t)rows;
    return gguf_read_tensor(r->f, t, 0, *out, t->bytes, r->e);
}

static bool is_share(float v)
{
    return v >= 0.0f && v <= 1.0001f;
}

static bool is_positive(float v)
{
    return v > 0.0f && !isinf(v);
}

static int read_fatrelu(const struct reader *r)
{
    struct profile *p = r->p;
    void *rows;
    int rc = read_rows(r, "fatrelu", &rows, &p->n_fatrelu);
    p->fatrelu = rows;
    for (uint32_t i = 0; rc == 0 && i < p->n_fatrelu; i++)
        if (!isfinite(p->fatrelu[i].threshold) || !is_share(p->fatrelu[i].sparsity) ||
            !is_positive(p->fatrelu[i].perplexity) ||
            (i && p->fatrelu[i].threshold < p->fatrelu[i - 1].threshold))
            rc = damaged(r, "fatrelu", i, "ascending thresholds, sparsity from 0 to 1, perplexities above 0");
    return rc;
}

/* One number of the search for a sparsity by perplexity. */
static int read_found(const struct reader *r, const char *what, bool share, float *out)
{
    char key[64];
    float v = NAN;
    snprintf(key, sizeof key, "calor.profile.ppl.%s", what);
    int rc = gguf_get_f32(r->f, key, &v, r->e);
    if (rc < 0) return rc;
    if (rc == 1) return missing(r, key);
    *out = v;
    if (share ? is_share(v) : is_positive(v)) return 0;
    return damaged(r, key, 0, share ? "a number from 0 to 1" : "a number above 0");
}

static int read_ppl(const struct reader *r)
{
    struct profile *p = r->p;
    void *rows;
    int rc = read_rows(r, "ppl", &rows, &p->n_ppl_steps);
    p->ppl_steps = rows;
    if (rc || p->n_ppl_steps == 0) return rc;
    for (uint32_t i = 0; i < p->n_ppl_steps; i++) {
        const struct profile_ppl_point *s = &p->ppl_steps[i];
        if (!is_share(s->cett) || !is_share(s->sparsity) || !is_positive(s->perplexity) ||
            (i && s->cett < s[-1].cett))
            return damaged(r, "ppl", i, "ascending CETT and sparsity from 0 to 1, perplexities above 0");
    }
    if ((rc = read_found(r, "target", false, &p->ppl.target)) < 0 ||
        (rc = read_found(r, "cett", true, &p->ppl.cett)) < 0 ||
        (rc = read_found(r, "sparsity", true, &p->ppl.sparsity)) < 0 ||
        (rc = read_found(r, "perplexity", false, &p->ppl.perplexity)) < 0 ||
        (rc = read_found(r, "dense", false, &p->ppl.dense)) < 0)
        return rc;
    rc = gguf_get_u64(r->f, "calor.profile.ppl.tokens", &p->ppl.tokens, r->e);
    if (rc == 1) return missing(r, "calor.profile.ppl.tokens");
    if (rc == 0 && p->ppl.tokens > INT32_MAX)
        return damaged(r, "calor.profile.ppl.tokens", 0, "at most 2147483647");
    return rc;
}

int profile_from_gguf(struct profile **out, const struct gguf *f, struct err *e)
{
    struct reader r = {.f = f, .e = e};
    struct err own;
    if (!e) r.e = &own;
    *out = NULL;
    int rc = read_subject(&r);
    if (rc == 0) rc = read_lists(&r);
    for (uint32_t i = 0; rc == 0 && i < r.p->subject.layers; i++) rc = read_layer(&r, i);
    if (rc == 0) rc = read_fatrelu(&r);
    if (rc == 0) rc = read_ppl(&r);
    if (rc == 0) rc = profile_derive(r.p, false, r.e);
    if (rc)
        profile_close(&r.p);
    else
        *out = r.p;
    return rc;
}

int profile_open(struct profile **out, const char *path, struct err *e)
{
    struct gguf *f = NULL;
    *out = NULL;
    int rc = gguf_open(&f, path, GGUF_READ, e);
    if (rc == 0) rc = profile_from_gguf(out, f, e);
    gguf_close(&f);
    return rc;
}
