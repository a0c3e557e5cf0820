/* A predictor in memory, and writing it: a GGUF container (docs/predictor-format.md). Reading is in
 * predictor_read.c. */
#include "placement/predictor.h"

#include "base/err.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "no memory for a predictor");
}

int predictor_create(struct predictor **out, const struct predictor_subject *s, struct err *e)
{
    *out = NULL;
    if (s->layers == 0 || s->layers > PREDICTOR_LAYERS_MOST || s->neurons == 0 ||
        s->neurons > PREDICTOR_NEURONS_MOST || s->width == 0 || s->width > 1u << 20)
        return err_set(e, ERR_ARG,
                       "a predictor of %u layers of %u neurons %u wide: expected 1 to %d layers, 1 to %d "
                       "neurons, a width from 1 to %u",
                       s->layers, s->neurons, s->width, PREDICTOR_LAYERS_MOST, PREDICTOR_NEURONS_MOST,
                       1u << 20);
    struct predictor *p = calloc(1, sizeof *p);
    if (!p) return no_memory(e);
    p->subject = *s;
    p->subject.model = strdup(s->model ? s->model : "");
    p->subject.activation = strdup(s->activation ? s->activation : "");
    p->layers = calloc(s->layers, sizeof *p->layers);
    p->recall = NAN;
    if (!p->subject.model || !p->subject.activation || !p->layers) {
        predictor_close(&p);
        return no_memory(e);
    }
    *out = p;
    return 0;
}

static void layer_free(struct predictor_layer *l)
{
    free(l->fc1);
    free(l->fc2);
    free(l->hidden_bias);
    free(l->bias);
    *l = (struct predictor_layer){0};
}

void predictor_close(struct predictor **pp)
{
    if (!pp || !*pp) return;
    struct predictor *p = *pp;
    for (uint32_t i = 0; p->layers && i < p->subject.layers; i++) layer_free(&p->layers[i]);
    free((char *)(uintptr_t)p->subject.model);
    free((char *)(uintptr_t)p->subject.activation);
    free(p->layers);
    free(p);
    *pp = NULL;
}

/* Zeroed, 64-byte aligned, with room behind it for kernels that load whole vectors. */
static uint8_t *matrix(uint64_t rows, uint64_t row_bytes)
{
    size_t n = (size_t)(rows * row_bytes + 64 + 63) / 64 * 64;
    uint8_t *p = aligned_alloc(64, n);
    if (p) memset(p, 0, n);
    return p;
}

int predictor_layer_create(struct predictor *p, uint32_t layer, uint32_t rank, enum dtype fc1_type,
                           enum dtype fc2_type, bool hidden_bias, struct err *e)
{
    struct predictor_layer *l = &p->layers[layer];
    uint64_t row1, row2, f = p->subject.neurons;
    const struct dtype_info *i1 = dtype_info((uint32_t)fc1_type), *i2 = dtype_info((uint32_t)fc2_type);
    if (rank == 0 || rank > PREDICTOR_RANK_MOST)
        return err_set(e, ERR_ARG, "a predictor of rank %u: expected 1 to %d", rank, PREDICTOR_RANK_MOST);
    if (!i1 || !i2 || !i1->weights || !i2->weights ||
        !dtype_row_bytes((uint32_t)fc1_type, p->subject.width, &row1) ||
        !dtype_row_bytes((uint32_t)fc2_type, rank, &row2))
        return err_set(e, ERR_ARG,
                       "a predictor of width %u and rank %u cannot be stored as %s and %s: rows are no whole "
                       "blocks",
                       p->subject.width, rank, dtype_name((uint32_t)fc1_type),
                       dtype_name((uint32_t)fc2_type));
    layer_free(l);
    *l = (struct predictor_layer){.rank = rank,
                                  .fc1_type = fc1_type,
                                  .fc2_type = fc2_type,
                                  .fc1_row_bytes = (size_t)row1,
                                  .fc2_row_bytes = (size_t)row2,
                                  .fc1 = matrix(rank, row1),
                                  .fc2 = matrix(f, row2),
                                  .hidden_bias = hidden_bias ? calloc(rank, sizeof *l->hidden_bias) : NULL,
                                  .bias = calloc(f, sizeof *l->bias)};
    if (l->fc1 && l->fc2 && l->bias && (l->hidden_bias || !hidden_bias)) return 0;
    layer_free(l);
    return no_memory(e);
}

uint64_t predictor_bytes(uint32_t width, uint32_t neurons, uint32_t rank, enum dtype fc1_type,
                         enum dtype fc2_type, bool hidden_bias)
{
    uint64_t row1, row2;
    if (!dtype_row_bytes((uint32_t)fc1_type, width, &row1) ||
        !dtype_row_bytes((uint32_t)fc2_type, rank, &row2))
        return 0;
    return rank * row1 + neurons * row2 + 2ull * neurons + (hidden_bias ? 4ull * rank : 0);
}

uint64_t predictor_layer_bytes(const struct predictor *p, uint32_t layer)
{
    const struct predictor_layer *l = &p->layers[layer];
    return predictor_bytes(p->subject.width, p->subject.neurons, l->rank, l->fc1_type, l->fc2_type,
                           l->hidden_bias != NULL);
}

int predictor_check_model(const struct predictor *p, const uint8_t identity[16], const char *model,
                          struct err *e)
{
    char own[33], other[33];
    if (memcmp(p->subject.identity, identity, 16) == 0) return 0;
    gguf_identity_text(p->subject.identity, own);
    gguf_identity_text(identity, other);
    return err_set(e, ERR_STALE,
                   "the predictor is of another model: it was trained on '%s' (%s), this is '%s' (%s)",
                   p->subject.model, own, model, other);
}

/* ---- Writing ---- */

static int put_keys(struct gguf_writer *w, const struct predictor *p, struct err *e)
{
    const struct predictor_subject *s = &p->subject;
    uint32_t *u = malloc(s->layers * sizeof *u);
    float *v = malloc(s->layers * sizeof *v);
    int rc = u && v ? gguf_put_str(w, "general.type", "calor.predictor", e) : no_memory(e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.predictor.version", 1, e);
    if (rc == 0) rc = gguf_put_str(w, "calor.predictor.model", s->model, e);
    if (rc == 0) rc = gguf_put_arr(w, "calor.predictor.identity", GGUF_U8, s->identity, 16, e);
    if (rc == 0) rc = gguf_put_str(w, "calor.predictor.activation", s->activation, e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.predictor.layers", s->layers, e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.predictor.neurons", s->neurons, e);
    if (rc == 0) rc = gguf_put_u32(w, "calor.predictor.width", s->width, e);
    if (rc == 0 && !isnan(p->recall)) rc = gguf_put_f32(w, "calor.predictor.recall", p->recall, e);
    for (uint32_t i = 0; rc == 0 && i < s->layers; i++) u[i] = p->layers[i].rank;
    if (rc == 0) rc = gguf_put_arr(w, "calor.predictor.rank", GGUF_U32, u, s->layers, e);
    for (uint32_t i = 0; rc == 0 && i < s->layers; i++) u[i] = (uint32_t)p->layers[i].hidden;
    if (rc == 0) rc = gguf_put_arr(w, "calor.predictor.hidden", GGUF_U32, u, s->layers, e);
    for (uint32_t i = 0; rc == 0 && i < s->layers; i++) v[i] = p->layers[i].cut;
    if (rc == 0) rc = gguf_put_arr(w, "calor.predictor.cut", GGUF_F32, v, s->layers, e);
    free(u);
    free(v);
    return rc;
}

/* Tensors are declared and written by the same walk, so that their order cannot differ. */
struct put {
    struct gguf_writer *w;
    bool data;
    struct err *e;
    int rc;
};

static void tensor(struct put *t, const char *name, uint32_t layer, enum dtype type, uint64_t n,
                   uint64_t rows, const void *data, size_t bytes)
{
    char full[64];
    if (t->rc) return;
    snprintf(full, sizeof full, "blk.%u.%s", layer, name);
    t->rc = t->data ? gguf_write(t->w, data, bytes, t->e)
                    : gguf_declare(t->w, full, type, rows ? 2 : 1, (uint64_t[]){n, rows}, t->e);
}

static void put_tensors(struct put *t, const struct predictor *p)
{
    size_t f = p->subject.neurons;
    for (uint32_t i = 0; i < p->subject.layers; i++) {
        const struct predictor_layer *l = &p->layers[i];
        tensor(t, "fc1.weight", i, l->fc1_type, p->subject.width, l->rank, l->fc1,
               l->rank * l->fc1_row_bytes);
        if (l->hidden_bias) tensor(t, "fc1.bias", i, DT_F32, l->rank, 0, l->hidden_bias, l->rank * 4u);
        tensor(t, "fc2.weight", i, l->fc2_type, l->rank, f, l->fc2, f * l->fc2_row_bytes);
        tensor(t, "fc2.bias", i, DT_F16, f, 0, l->bias, f * 2);
    }
}

int predictor_write(const struct predictor *p, const char *path, struct err *e)
{
    struct gguf_writer *w = NULL;
    int rc = 0;
    for (uint32_t i = 0; i < p->subject.layers && rc == 0; i++)
        if (p->layers[i].rank == 0)
            rc = err_set(e, ERR_STATE, "layer %u has no predictor: nothing is written", i);
    if (rc == 0) rc = gguf_writer_create(&w, path, e);
    if (rc == 0) rc = put_keys(w, p, e);
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
