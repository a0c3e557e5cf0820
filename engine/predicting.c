/* Binding predictors to a model's layers: from a predictor file, or PowerInfer's fc1 and fc2 in the model's
 * own file. */
#include "base/err.h"
#include "engine/arch/arch.h"
#include "engine/model.h"
#include "io/gguf.h"
#include "io/powerinfer.h"
#include "placement/predictor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int set_mat(const struct calor_model *m, struct mat *w, const uint8_t *data, enum dtype type,
                   size_t row_bytes, int64_t rows, int64_t n, const char *what, struct err *e)
{
    *w = (struct mat){.data = data,
                      .row_bytes = row_bytes,
                      .rows = rows,
                      .n = n,
                      .type = type,
                      .mv = m->ops->mv[type],
                      .mm = m->ops->mm[type]};
    if (w->mv) return 0;
    return err_set(e, ERR_UNSUPPORTED, "%s has type %s, which Calor cannot compute", what,
                   dtype_name((uint32_t)type));
}

/* ---- A predictor file ---- */

static int check_file(const struct calor_model *m, const struct predictor *p, struct err *e)
{
    const struct predictor_subject *s = &p->subject;
    uint8_t identity[16];
    int rc = gguf_identity(m->file, identity, e);
    if (rc == 0) rc = predictor_check_model(p, identity, m->name, e);
    if (rc) return rc;
    if (s->layers != m->hp.layers || s->neurons != m->hp.ffn || s->width != m->hp.width)
        return err_set(e, ERR_FORMAT,
                       "the predictor has %u layers of %u neurons, %u wide: the model has %u of %u, %u wide",
                       s->layers, s->neurons, s->width, m->hp.layers, m->hp.ffn, m->hp.width);
    if (strcmp(s->activation, m->act.name) != 0)
        return err_set(e, ERR_STALE,
                       "the predictor was trained with the activation %s, this model is opened with %s",
                       s->activation, m->act.name);
    return 0;
}

static int bind_file(struct calor_model *m, const char *path, struct err *e)
{
    int rc = predictor_open(&m->predictor, path, e);
    if (rc) return rc;
    rc = check_file(m, m->predictor, e);
    for (uint32_t i = 0; rc == 0 && i < m->hp.layers; i++) {
        const struct predictor_layer *from = &m->predictor->layers[i];
        struct predicting *to = &m->layers[i].predicting;
        *to = (struct predicting){.hidden_bias = from->hidden_bias,
                                  .bias = from->bias,
                                  .cut = from->cut,
                                  .relu = from->hidden == PREDICTOR_RELU};
        rc = set_mat(m, &to->fc1, from->fc1, from->fc1_type, from->fc1_row_bytes, from->rank, m->hp.width,
                     "fc1", e);
        if (rc == 0)
            rc = set_mat(m, &to->fc2, from->fc2, from->fc2_type, from->fc2_row_bytes, m->hp.ffn, from->rank,
                         "fc2", e);
    }
    return rc ? err_prefix(e, rc, "'%s'", path) : 0;
}

/* ---- PowerInfer's ---- */

static const struct gguf_tensor *find(struct calor_model *m, uint32_t layer, const char *what, struct err *e)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s", layer, what);
    const struct gguf_tensor *t = gguf_find_tensor(m->file, name);
    if (!t)
        err_set(e, ERR_FORMAT,
                "'%s': the tensor %s is missing: predict mode needs a predictor in every layer (exact mode "
                "needs none)",
                gguf_path(m->file), name);
    return t;
}

/* The tensor's bytes, in the mapping or read. */
static const uint8_t *contents(struct calor_model *m, const struct gguf_tensor *t, struct err *e)
{
    if (t->data) return t->data;
    uint8_t *p = model_alloc(m, t->bytes + 64);
    if (!p) {
        err_set(e, ERR_NOMEM, "no memory for the tensor %s (%llu bytes)", t->name,
                (unsigned long long)t->bytes);
        return NULL;
    }
    return gguf_read_tensor(m->file, t, 0, p, t->bytes, e) == 0 ? p : NULL;
}

static int bind_tensor(struct calor_model *m, struct mat *w, const struct gguf_tensor *t, uint64_t n,
                       uint64_t rows, struct err *e)
{
    const struct dtype_info *info = dtype_info((uint32_t)t->type);
    if (t->n_dims != 2 || t->ne[0] != n || t->ne[1] != rows)
        return err_set(e, ERR_FORMAT, "'%s': the tensor %s is [%llu, %llu]: expected [%llu, %llu]",
                       gguf_path(m->file), t->name, (unsigned long long)t->ne[0],
                       (unsigned long long)t->ne[1], (unsigned long long)n, (unsigned long long)rows);
    if (!info || !info->weights)
        return err_set(e, ERR_UNSUPPORTED, "'%s': the tensor %s has type %s, which weights cannot have",
                       gguf_path(m->file), t->name, dtype_name((uint32_t)t->type));
    const uint8_t *data = contents(m, t, e);
    if (!data) return e->code;
    int rc = set_mat(m, w, data, t->type, t->row_bytes, (int64_t)rows, (int64_t)n, t->name, e);
    return rc ? err_prefix(e, rc, "'%s'", gguf_path(m->file)) : 0;
}

/* fc2·relu(fc1·x) on the FFN's input before its norm, a candidate from the file's threshold on. */
static int bind_powerinfer(struct calor_model *m, struct err *e)
{
    struct powerinfer_info info;
    if (!gguf_is_powerinfer(m->file))
        return err_set(e, ERR_ARG,
                       "'%s' has no predictors of its own: train some with `calor predictor` and give them "
                       "with --predictor FILE",
                       gguf_path(m->file));
    int rc = powerinfer_describe(m->file, &info, e);
    if (rc) return rc;
    if (!isfinite(info.threshold))
        return err_set(e, ERR_FORMAT, "'%s': powerinfer.sparse_threshold is %g: expected a number",
                       gguf_path(m->file), (double)info.threshold);
    for (uint32_t i = 0; i < m->hp.layers; i++) {
        struct predicting *to = &m->layers[i].predicting;
        const struct gguf_tensor *fc1 = find(m, i, "fc1.weight", e), *fc2;
        if (!fc1 || !(fc2 = find(m, i, "fc2.weight", e))) return e->code;
        *to = (struct predicting){.cut = info.threshold, .relu = true, .before_norm = true};
        if (fc1->ne[1] > PREDICTOR_RANK_MOST)
            return err_set(e, ERR_UNSUPPORTED, "'%s': the tensor %s has rank %llu: at most %d is supported",
                           gguf_path(m->file), fc1->name, (unsigned long long)fc1->ne[1],
                           PREDICTOR_RANK_MOST);
        if ((rc = bind_tensor(m, &to->fc1, fc1, m->hp.width, fc1->ne[1], e)) < 0 ||
            (rc = bind_tensor(m, &to->fc2, fc2, fc1->ne[1], m->hp.ffn, e)) < 0)
            return rc;
    }
    return 0;
}

/* Predictors name the file's neurons: their rows go where the layer has these. */
static int follow_order(struct calor_model *m, struct layer *l, struct err *e)
{
    const uint32_t *order = l->by.order;
    struct predicting *pr = &l->predicting;
    int64_t f = m->hp.ffn;
    if (!order) return 0;
    uint8_t *rows = model_alloc(m, (size_t)f * pr->fc2.row_bytes + 64);
    uint16_t *bias = pr->bias ? model_alloc(m, (size_t)f * sizeof *bias) : NULL;
    if (!rows || (pr->bias && !bias))
        return err_set(e, ERR_NOMEM, "no memory for a predictor from hot to cold");
    for (int64_t i = 0; i < f; i++) {
        memcpy(rows + (size_t)i * pr->fc2.row_bytes, pr->fc2.data + order[i] * pr->fc2.row_bytes,
               pr->fc2.row_bytes);
        if (bias) bias[i] = pr->bias[order[i]];
    }
    pr->fc2.data = rows;
    pr->bias = bias;
    return 0;
}

int predicting_bind(struct calor_model *m, const char *path, struct err *e)
{
    struct err own;
    if (!e) e = &own;
    if (!activation_has_zeros(&m->act))
        return err_set(e, ERR_ARG,
                       "predictors say which neurons are exactly zero, and with the activation %s none is: "
                       "threshold mode leaves out small ones",
                       m->act.name);
    int rc = path ? bind_file(m, path, e) : bind_powerinfer(m, e);
    for (uint32_t i = 0; rc == 0 && i < m->hp.layers; i++) rc = follow_order(m, &m->layers[i], e);
    return rc;
}
