/* Writing profiles: a GGUF container (docs/profile-format.md). Reading is in profile_read.c. */
#include "placement/profile_priv.h"

#include "base/err.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int put_subject(struct gguf_writer *w, const struct profile *p, struct err *e)
{
    const struct profile_subject *s = &p->subject;
    int rc = gguf_put_str(w, "general.type", "calor.profile", e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.profile.version", 1, e);
    if (rc == 0) rc = gguf_put_str(w, "calor.profile.model", s->model, e);
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.identity", GGUF_U8, s->identity, 16, e);
    if (rc == 0) rc = gguf_put_str(w, "calor.profile.activation", s->activation, e);
    if (rc == 0) rc = gguf_put_bool(w, "calor.profile.zeros", s->zeros, e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.profile.layers", s->layers, e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.profile.neurons", s->neurons, e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.profile.width", s->width, e);
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.tokens", GGUF_U64, p->tokens, PROFILE_TEXTS, e);
    if (rc == 0 && !isnan(p->cett_target))
        rc = gguf_put_f32(w, "calor.profile.cett.target", p->cett_target, e);
    return rc;
}

static int put_ppl(struct gguf_writer *w, const struct profile *p, struct err *e)
{
    const struct profile_ppl *s = &p->ppl;
    if (p->n_ppl_steps == 0) return 0;
    int rc = gguf_put_f32(w, "calor.profile.ppl.target", s->target, e);
    if (rc == 0) rc = gguf_put_f32(w, "calor.profile.ppl.cett", s->cett, e);
    if (rc == 0) rc = gguf_put_f32(w, "calor.profile.ppl.sparsity", s->sparsity, e);
    if (rc == 0) rc = gguf_put_f32(w, "calor.profile.ppl.perplexity", s->perplexity, e);
    if (rc == 0) rc = gguf_put_f32(w, "calor.profile.ppl.dense", s->dense, e);
    if (rc == 0) rc = gguf_put_u64(w, "calor.profile.ppl.tokens", s->tokens, e);
    return rc;
}

/* What there is one of in each layer, and the runs, which all layers share. */
static int put_lists(struct gguf_writer *w, const struct profile *p, struct err *e)
{
    uint32_t L = p->subject.layers, n = p->n_runs;
    size_t longest = L * PROFILE_REUSES > n ? L * PROFILE_REUSES : n;
    float *v = malloc(longest * sizeof *v);
    uint32_t *u = malloc(longest * sizeof *u);
    uint64_t *start = malloc((n ? n : 1) * sizeof *start);
    int rc = v && u && start ? 0 : err_set(e, ERR_NOMEM, "no memory to write a profile");
    for (uint32_t i = 0; rc == 0 && i < L; i++) v[i] = p->layers[i].epsilon;
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.epsilon", GGUF_F32, v, L, e);
    for (uint32_t i = 0; rc == 0 && i < L; i++) v[i] = p->layers[i].gap;
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.gap", GGUF_F32, v, L, e);
    for (uint32_t i = 0; rc == 0 && i < L * PROFILE_REUSES; i++)
        v[i] = p->layers[i / PROFILE_REUSES].reuse[i % PROFILE_REUSES];
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.reuse", GGUF_F32, v, (uint64_t)L * PROFILE_REUSES, e);
    for (uint32_t i = 0; rc == 0 && i < L; i++) u[i] = p->layers[i].samples;
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.cett.samples", GGUF_U32, u, L, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) u[i] = (uint32_t)p->runs[i].text;
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.run.text", GGUF_U32, u, n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) u[i] = p->runs[i].tokens;
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.run.tokens", GGUF_U32, u, n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) start[i] = p->runs[i].start;
    if (rc == 0) rc = gguf_put_arr(w, "calor.profile.run.start", GGUF_U64, start, n, e);
    free(v);
    free(u);
    free(start);
    return rc;
}

/* Tensors are declared and written by the same walk, so that their order cannot differ. */
struct put {
    struct gguf_writer *w;
    bool data;
    struct err *e;
    int rc;
};

static void tensor(struct put *t, const char *name, int layer, enum dtype type, uint64_t n, uint64_t rows,
                   const void *data, size_t bytes)
{
    char full[64];
    if (t->rc) return;
    if (layer >= 0)
        snprintf(full, sizeof full, "blk.%d.%s", layer, name);
    else
        snprintf(full, sizeof full, "%s", name);
    t->rc = t->data ? gguf_write(t->w, data, bytes, t->e)
                    : gguf_declare(t->w, full, type, rows ? 2 : 1, (uint64_t[]){n, rows}, t->e);
}

static void put_tensors(struct put *t, const struct profile *p)
{
    uint64_t f = p->subject.neurons;
    for (uint32_t i = 0; i < p->subject.layers; i++) {
        const struct profile_layer *l = &p->layers[i];
        int at = (int)i;
        tensor(t, "count", at, DT_I32, f, 0, l->counts[PROFILE_CALIBRATION], f * 4);
        tensor(t, "count_held_out", at, DT_I32, f, 0, l->counts[PROFILE_HELD_OUT], f * 4);
        tensor(t, "mean", at, DT_F32, f, 0, l->mean, f * 4);
        tensor(t, "p99", at, DT_F32, f, 0, l->p99, f * 4);
        tensor(t, "partner", at, DT_I16, PROFILE_PARTNERS, f, l->partner, f * PROFILE_PARTNERS * 2);
        tensor(t, "partner_share", at, DT_F16, PROFILE_PARTNERS, f, l->partner_share,
               f * PROFILE_PARTNERS * 2);
        if (l->n_curve) tensor(t, "cett", at, DT_F32, 3, l->n_curve, l->curve, l->n_curve * sizeof *l->curve);
        if (l->trace.n) tensor(t, "trace", at, DT_I8, l->trace.n, 0, l->trace.p, l->trace.n);
    }
    if (p->n_fatrelu)
        tensor(t, "fatrelu", -1, DT_F32, 3, p->n_fatrelu, p->fatrelu, p->n_fatrelu * sizeof *p->fatrelu);
    if (p->n_ppl_steps)
        tensor(t, "ppl", -1, DT_F32, 3, p->n_ppl_steps, p->ppl_steps, p->n_ppl_steps * sizeof *p->ppl_steps);
}

int profile_write(const struct profile *p, const char *path, struct err *e)
{
    _Static_assert(sizeof(struct profile_curve_point) == 12 && sizeof(struct profile_fatrelu_point) == 12 &&
                       sizeof(struct profile_ppl_point) == 12,
                   "rows of three floats");
    struct gguf_writer *w = NULL;
    int rc = gguf_writer_create(&w, path, e);
    if (rc == 0) rc = put_subject(w, p, e);
    if (rc == 0) rc = put_ppl(w, p, e);
    if (rc == 0) rc = put_lists(w, p, e);
    for (int pass = 0; pass < 2 && rc == 0; pass++) {
        struct put t = {.w = w, .data = pass == 1, .e = e};
        if (pass == 1) t.rc = gguf_write_header(w, e);
        put_tensors(&t, p);
        rc = t.rc;
    }
    if (rc == 0) rc = gguf_writer_finish(w, e);
    gguf_writer_destroy(&w);
    return rc;
}
