/* PowerInfer's tensors and side file: see powerinfer.h. */
#include "io/powerinfer.h"

#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int64_t powerinfer_layer_of(const char *name, const char **rest)
{
    if (strncmp(name, "blk.", 4) != 0) return -1;
    int64_t n = 0;
    const char *p = name + 4;
    for (; *p >= '0' && *p <= '9' && p - name < 4 + 5; p++) n = n * 10 + (*p - '0');
    if (p == name + 4 || *p != '.') return -1;
    *rest = p + 1;
    return n;
}

static const struct gguf_tensor *layer_tensor(const struct gguf *f, uint32_t layer, const char *suffix)
{
    char name[64];
    snprintf(name, sizeof name, "blk.%u.%s", layer, suffix);
    return gguf_find_tensor(f, name);
}

static int bad(const struct gguf *f, const char *tensor, const char *what, struct err *e)
{
    return err_set(e, ERR_FORMAT, "'%s': tensor '%s': expected %s", gguf_path(f), tensor, what);
}

/* fc1 is [width → rank], fc2 [rank → neurons]. */
static int check_predictor(const struct gguf *f, uint32_t layer, const struct gguf_tensor *fc1,
                           struct powerinfer_info *out, struct err *e)
{
    const struct gguf_tensor *fc2 = layer_tensor(f, layer, "fc2.weight");
    if (!fc2) return bad(f, fc1->name, "a tensor fc2.weight of the same layer beside it", e);
    if (fc1->n_dims != 2 || fc2->n_dims != 2 || fc2->ne[0] != fc1->ne[1])
        return bad(f, fc2->name, "a matrix with as many columns as fc1.weight has rows", e);
    uint64_t rank = fc1->ne[1];
    if (!out->predictors || rank < out->rank_min) out->rank_min = rank;
    if (rank > out->rank_max) out->rank_max = rank;
    out->predictors++;
    return 0;
}

int powerinfer_describe(const struct gguf *f, struct powerinfer_info *out, struct err *e)
{
    *out = (struct powerinfer_info){0};
    for (int64_t i = 0; i < gguf_n_tensors(f); i++) {
        const struct gguf_tensor *t = gguf_tensor(f, i);
        const char *rest;
        int64_t layer = powerinfer_layer_of(t->name, &rest);
        if (layer < 0) continue;
        enum powerinfer_kind kind = POWERINFER_NONE;
        if (strcmp(rest, "fc1.weight") == 0) {
            int rc = check_predictor(f, (uint32_t)layer, t, out, e);
            if (rc) return rc;
            kind = POWERINFER_MODEL;
        } else if (strcmp(rest, "ffn_down_t.weight") == 0) {
            out->transposed++;
            kind = POWERINFER_MODEL;
        } else if (strcmp(rest, "gpu_idx") == 0) {
            kind = POWERINFER_INDEX;
        }
        if (kind == POWERINFER_NONE) continue;
        if (out->kind != POWERINFER_NONE && out->kind != kind)
            return bad(f, t->name, "either a model or a GPU index in one file", e);
        out->kind = kind;
        if (layer >= out->layers) out->layers = (uint32_t)layer + 1;
    }
    int rc = gguf_get_f32(f, "powerinfer.sparse_threshold", &out->threshold, e);
    if (rc < 0) return rc;
    out->has_threshold = rc == 0;
    rc = gguf_get_u64(f, "split.vram_capacity", &out->capacity, e);
    if (rc < 0) return rc;
    out->has_capacity = rc == 0;
    return 0;
}

/* The values of a vector of i32, the caller's; NULL and *rc on failure. */
static int32_t *read_i32(const struct gguf *f, const struct gguf_tensor *t, int *rc, struct err *e)
{
    if (t->type != DT_I32 || t->n_dims != 1) {
        *rc = bad(f, t->name, "a vector of I32", e);
        return NULL;
    }
    int32_t *v = calloc(t->bytes ? (size_t)t->bytes : 1, 1);
    *rc = v ? gguf_read_tensor(f, t, 0, v, t->bytes, e)
            : err_set(e, ERR_NOMEM, "no memory for tensor '%s' of '%s'", t->name, gguf_path(f));
    if (*rc == 0) return v;
    free(v);
    return NULL;
}

int powerinfer_layer(const struct gguf *f, uint32_t layer, int32_t **bucket, uint64_t *n, uint64_t *neurons,
                     struct err *e)
{
    *bucket = NULL;
    const struct gguf_tensor *idx = layer_tensor(f, layer, "gpu_idx"),
                             *list = layer_tensor(f, layer, "gpu_bucket");
    if (!idx) return 1;
    if (!list) return bad(f, idx->name, "a tensor gpu_bucket of the same layer beside it", e);
    int rc;
    int32_t *on = read_i32(f, idx, &rc, e), *b = on ? read_i32(f, list, &rc, e) : NULL;
    uint64_t k = 0;
    for (uint64_t i = 0; on && b && rc == 0 && i < idx->ne[0]; i++) {
        if (on[i] != 0 && on[i] != 1)
            rc = bad(f, idx->name, "only 0 and 1", e);
        else if (on[i] && (k >= list->ne[0] || b[k++] != (int32_t)i))
            rc = bad(f, list->name, "the neurons that gpu_idx marks, in ascending order", e);
    }
    if (rc == 0 && k != list->ne[0]) rc = bad(f, list->name, "as many neurons as gpu_idx marks", e);
    free(on);
    if (rc) {
        free(b);
        return rc;
    }
    *bucket = b;
    *n = k;
    *neurons = idx->ne[0];
    return 0;
}

char *powerinfer_index_path(const char *model)
{
    static const char suffix[] = ".generated.gpuidx";
    size_t n = strlen(model);
    char *path = malloc(n + sizeof suffix);
    if (path) {
        memcpy(path, model, n);
        memcpy(path + n, suffix, sizeof suffix);
    }
    return path;
}
