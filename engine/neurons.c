/* Laying FFN weights out by neuron: see neurons.h. */
#include "engine/neurons.h"

#include "base/checked.h"
#include "base/err.h"
#include "base/log.h"
#include "base/threads.h"
#include "engine/arch/arch.h"
#include "engine/model.h"
#include "io/gguf.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum slot { SLOT_TILES = 2 };

/* Columns of down that one thread turns at once, and neurons whose up rows it copies at once. */
enum { TILE = 256 };

/* What happens to a layer's down. */
enum turning {
    TURN_SPLIT,  /* kern_split */
    TURN_FLOATS, /* transposed, element by element */
    TURN_DECODE, /* decoded, rounded to F16, transposed: types that have no layout of their own */
    TURN_COPY,   /* stored by neuron in the file already */
};

struct job {
    struct calor_model *m;
    const struct mat *gate; /* to be taken apart into planes, or copied into order; or NULL */
    uint8_t *rows;          /* where it is copied, row_bytes apart; NULL: into planes */
    struct layer *l;
    enum turning how;
    uint8_t *bundle;
    size_t stride, up_bytes; /* down's part begins up_bytes into a bundle */
    struct kern_split_dst dst;
    const uint8_t *up, *down; /* the file's */
    struct err *errs;         /* one a thread: code 0 where all went well */
    bool planes;

    uint32_t layer;
    int (*progress)(double done, void *arg); /* may be NULL; asked by the opening thread, thread 0 */
    void *arg;
    atomic_bool stop;
};

static enum turning turning_of(const struct layer *l)
{
    enum dtype t = l->down.type;
    if (l->down_by_neuron) return TURN_COPY;
    if (kern_can_split(t)) return TURN_SPLIT;
    return t == DT_F32 || t == DT_F16 || t == DT_BF16 ? TURN_FLOATS : TURN_DECODE;
}

static size_t float_bytes(enum dtype t)
{
    return t == DT_F32 ? 4 : 2;
}

/* The place of a neuron of the file. */
static int64_t place_of(const struct job *j, int64_t i)
{
    return j->l->by.place_of ? j->l->by.place_of[i] : i;
}

/* The file's neuron at a place. */
static int64_t neuron_at(const struct job *j, int64_t i)
{
    return j->l->by.order ? j->l->by.order[i] : i;
}

/* Values [c0, c1) × all neurons of a float matrix [d][f] into the neurons' rows. */
static void turn_floats(const struct job *j, int64_t c0, int64_t c1, size_t size)
{
    int64_t f = j->m->hp.ffn;
    for (int64_t i0 = 0; i0 < f; i0 += 16)
        for (int64_t c = c0; c < c1; c++) {
            const uint8_t *src = j->down + (size_t)c * j->l->down.row_bytes + (size_t)i0 * size;
            for (int64_t i = i0; i < i0 + 16 && i < f; i++, src += size)
                memcpy(j->dst.rows + (size_t)place_of(j, i) * j->stride + (size_t)c * size, src, size);
        }
}

/* The same for a type that can only be decoded, a row at a time. */
static void turn_decoded(struct job *j, int ith, int64_t c0, int64_t c1)
{
    int64_t f = j->m->hp.ffn;
    float *row = malloc((size_t)f * sizeof *row);
    uint16_t *half = malloc((size_t)f * sizeof *half);
    int r = row && half ? 0 : err_set(&j->errs[ith], ERR_NOMEM, "no memory to lay out a layer");
    for (int64_t c = c0; c < c1 && r == 0; c++) {
        j->m->ops->decode(j->l->down.type, row, j->down + (size_t)c * j->l->down.row_bytes, f);
        r = kern_encode(DT_F16, half, row, f, &j->errs[ith]);
        for (int64_t i = 0; i < f && r == 0; i++)
            memcpy(j->dst.rows + (size_t)place_of(j, i) * j->stride + (size_t)c * 2, half + i, 2);
    }
    free(row);
    free(half);
}

static void lay_out_part(struct team_member *t, void *arg)
{
    struct job *j = arg;
    const struct layer *l = j->l;
    int64_t d = j->m->hp.width, f = j->m->hp.ffn, tiles = j->how == TURN_COPY ? 0 : (d + TILE - 1) / TILE;
    int64_t copies = (f + TILE - 1) / TILE, n = tiles + (j->gate ? 2 : 1) * copies, k;
    while (team_next(t, SLOT_TILES, n, 1, &k)) {
        /* Within a layer too: one of a large model on a slow disk takes seconds. */
        if (t->ith == 0 && j->progress &&
            j->progress((j->layer + (double)k / (double)n) / j->m->hp.layers, j->arg))
            atomic_store_explicit(&j->stop, true, memory_order_relaxed);
        if (atomic_load_explicit(&j->stop, memory_order_relaxed)) return;
        if (k >= tiles + copies) {
            int64_t i0 = (k - tiles - copies) * TILE, i1 = i0 + TILE < f ? i0 + TILE : f;
            for (int64_t i = i0; i < i1 && j->rows; i++)
                memcpy(j->rows + (size_t)i * j->gate->row_bytes,
                       j->gate->data + (size_t)neuron_at(j, i) * j->gate->row_bytes, j->gate->row_bytes);
            if (!j->rows)
                kern_planes_split(j->gate->type, &l->by.planes, j->gate->data, j->gate->row_bytes, d, i0, i1,
                                  l->by.place_of, &j->errs[t->ith]);
            continue;
        }
        if (k < tiles) {
            int64_t c0 = k * TILE, c1 = c0 + TILE < d ? c0 + TILE : d;
            if (j->how == TURN_FLOATS) turn_floats(j, c0, c1, float_bytes(l->down.type));
            if (j->how == TURN_DECODE) turn_decoded(j, t->ith, c0, c1);
            if (j->how == TURN_SPLIT)
                kern_split(l->down.type, &j->dst, j->down, l->down.row_bytes, d, f, 0, f, c0, c1,
                           &j->errs[t->ith]);
            continue;
        }
        int64_t i0 = (k - tiles) * TILE, i1 = i0 + TILE < f ? i0 + TILE : f;
        for (int64_t i = i0; i < i1; i++) {
            uint8_t *to = j->bundle + (size_t)i * j->stride;
            size_t from = (size_t)neuron_at(j, i);
            if (j->up_bytes) memcpy(to, j->up + from * l->up.row_bytes, l->up.row_bytes);
            if (j->how == TURN_COPY)
                memcpy(to + j->up_bytes, j->down + from * l->down.row_bytes, l->down.row_bytes);
        }
    }
}

/* Lets go of what was copied: the mapping's pages, or the memory it was read into. */
static void release(struct calor_model *m, const struct mat *w)
{
    size_t bytes = (size_t)w->rows * w->row_bytes, page = (size_t)sysconf(_SC_PAGESIZE);
    if (model_free(m, w->data)) return;
    uintptr_t begin = ((uintptr_t)w->data + page - 1) / page * page, end = (uintptr_t)w->data + bytes;
    if (end > begin + page) madvise((void *)begin, (end - begin) / page * page, MADV_DONTNEED);
}

static size_t up64(size_t n)
{
    return (n + 63) / 64 * 64;
}

struct mat *neurons_gate(struct layer *l)
{
    return l->gate.n ? &l->gate : &l->up;
}

/* Room for the gate's planes, where the type has some. */
static int make_planes(struct job *j, struct err *e)
{
    struct calor_model *m = j->m;
    struct neurons *by = &j->l->by;
    struct mat *g = neurons_gate(j->l);
    int64_t f = m->hp.ffn, d = m->hp.width;
    by->planes.coarse_stride = kern_plane_coarse_bytes(g->type, d);
    by->planes.fine_stride = kern_plane_fine_bytes(g->type, d);
    if (!m->ops->planes[g->type] || !by->planes.coarse_stride)
        return err_set(e, ERR_UNSUPPORTED,
                       "a gate of type %s has no coarse plane: the plane screen takes F16, BF16 and Q8_0",
                       dtype_name((uint32_t)g->type));
    by->planes.coarse = model_alloc_huge(m, (size_t)f * by->planes.coarse_stride + 64);
    by->planes.fine = model_alloc_huge(m, (size_t)f * by->planes.fine_stride + 64);
    by->planes.rows = model_alloc(m, (size_t)f * sizeof *by->planes.rows);
    if (!by->planes.coarse || !by->planes.fine || !by->planes.rows)
        return err_set(e, ERR_NOMEM, "no memory for the planes of a layer's gate");
    by->screen = m->ops->planes[g->type];
    j->gate = g;
    return 0;
}

/* Room for the gate's rows in the layer's order. */
static int make_rows(struct job *j, struct err *e)
{
    j->gate = neurons_gate(j->l);
    j->rows = model_alloc_huge(j->m, (size_t)j->gate->rows * j->gate->row_bytes + 64);
    return j->rows ? 0 : err_set(e, ERR_NOMEM, "no memory for a layer's gate from hot to cold");
}

/* A bias of neurons into the layer's order. */
static int order_bias(const struct job *j, const float **bias, struct err *e)
{
    if (!*bias || !j->l->by.order) return 0;
    float *own = model_alloc(j->m, j->m->hp.ffn * sizeof *own);
    if (!own) return err_set(e, ERR_NOMEM, "no memory for a layer's biases from hot to cold");
    for (int64_t i = 0; i < j->m->hp.ffn; i++) own[i] = (*bias)[neuron_at(j, i)];
    *bias = own;
    return 0;
}

static int lay_out_layer(struct job *j, struct err *e)
{
    struct calor_model *m = j->m;
    struct layer *l = j->l;
    struct neurons *by = &l->by;
    const struct kern_ops *ops = m->ops;
    int64_t d = m->hp.width, f = m->hp.ffn;
    bool gated = l->gate.n > 0;
    j->how = turning_of(l);
    by->type = j->how == TURN_DECODE ? DT_F16 : l->down.type;
    const struct kern_down *kind = j->how == TURN_SPLIT ? ops->down_split[by->type] : ops->down_row[by->type];
    if (!kind)
        return err_set(e, ERR_UNSUPPORTED, "a down matrix of type %s cannot be laid out by neuron",
                       dtype_name((uint32_t)l->down.type));
    j->up_bytes = gated ? up64(l->up.row_bytes) : 0;
    j->stride = j->up_bytes + kind->neuron_bytes(d);
    uint64_t whole, groups = 0, supers = 0;
    if (!checked_mul((uint64_t)f, j->stride, &whole))
        return err_set(e, ERR_FORMAT, "%lld neurons of %zu bytes do not fit into memory", (long long)f,
                       j->stride);
    if (kind->group) {
        groups = (size_t)((f + kind->group - 1) / kind->group) * kind->group_bytes(d);
        if (kind->super_bytes) supers = (size_t)((f + 255) / 256) * kind->super_bytes(d);
    }
    uint16_t *group_of = NULL;
    j->bundle = model_alloc_huge(m, whole + 64);
    uint8_t *planes = groups ? model_alloc_huge(m, groups + supers + 64) : NULL;
    if (kind->group) group_of = model_alloc(m, (size_t)f * sizeof *group_of);
    if (!j->bundle || (groups && (!planes || !group_of)))
        return err_set(e, ERR_NOMEM, "no memory to lay a layer's FFN out by neuron (%llu MiB)",
                       (unsigned long long)((whole + groups + supers) >> 20));
    j->dst = (struct kern_split_dst){.rows = j->bundle + j->up_bytes,
                                     .groups = planes,
                                     .supers = supers ? planes + groups : NULL,
                                     .stride = j->stride,
                                     .at = by->place_of};
    for (int64_t i = 0; group_of && i < f; i++) group_of[i] = (uint16_t)(neuron_at(j, i) / kind->group);
    j->up = l->up.data;
    j->down = l->down.data;
    j->gate = NULL;
    j->rows = NULL;
    int r = j->planes ? make_planes(j, e) : by->order ? make_rows(j, e) : 0;
    if (r == 0) r = order_bias(j, &l->gate_b, e);
    if (r == 0) r = order_bias(j, &l->up_b, e);
    if (r < 0) return r;
    team_run(m->team, lay_out_part, j);
    for (int i = 0; i < team_size(m->team); i++)
        if (j->errs[i].code < 0) {
            *e = j->errs[i];
            return e->code;
        }
    if (j->gate) {
        release(m, j->gate);
        neurons_gate(l)->data = j->rows;
    }
    release(m, &l->down);
    if (gated) {
        release(m, &l->up);
        l->up.data = j->bundle;
        l->up.row_bytes = j->stride;
    }
    by->kind = kind;
    by->up_bytes = j->up_bytes;
    by->down = (struct kern_down_rows){.rows = j->dst.rows,
                                       .stride = j->stride,
                                       .groups = j->dst.groups,
                                       .supers = j->dst.supers,
                                       .group_of = group_of};
    /* For many tokens: rows put together again, as floats where the file's rows were the neurons'. */
    enum dtype panel = j->how == TURN_COPY && dtype_info((uint32_t)by->type)->block > 1 ? DT_F32 : by->type;
    uint64_t row_bytes;
    if (!dtype_row_bytes(panel, (uint64_t)f, &row_bytes))
        return err_set(e, ERR_FORMAT, "a row of %lld values does not fit %s", (long long)f,
                       dtype_name((uint32_t)panel));
    l->down = (struct mat){
        .row_bytes = row_bytes, .rows = d, .n = f, .type = panel, .mv = ops->mv[panel], .mm = ops->mm[panel]};
    l->down_by_neuron = false;
    return 0;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int neurons_set_order(struct calor_model *m, uint32_t layer, const uint32_t *order, struct err *e)
{
    uint32_t f = m->hp.ffn;
    uint32_t *own = model_alloc(m, f * sizeof *own), *place = model_alloc(m, f * sizeof *place);
    if (!own || !place) return err_set(e, ERR_NOMEM, "no memory for the order of %u neurons", f);
    memset(place, 0xff, f * sizeof *place);
    for (uint32_t i = 0; i < f; i++) {
        if (order[i] >= f || place[order[i]] != UINT32_MAX)
            return err_set(e, ERR_STALE, "the order of layer %u has neuron %u at place %u: %s", layer,
                           order[i], i, order[i] >= f ? "there are fewer" : "it had it before");
        place[order[i]] = i;
    }
    memcpy(own, order, f * sizeof *own);
    for (uint32_t i = 0; i < f; i += KERN_BLOCK)
        qsort(own + i, f - i < KERN_BLOCK ? f - i : KERN_BLOCK, sizeof *own, by_number);
    for (uint32_t i = 0; i < f; i++) place[own[i]] = i;
    m->layers[layer].by.order = own;
    m->layers[layer].by.place_of = place;
    return 0;
}

int neurons_lay_out(struct calor_model *m, bool planes, int (*progress)(double, void *), void *arg,
                    struct err *e)
{
    int threads = team_size(m->team), r = 0;
    if (m->hp.ffn > NEURON_MOST)
        return err_set(e, ERR_UNSUPPORTED, "%u neurons a layer: at most %d can be laid out by neuron",
                       m->hp.ffn, NEURON_MOST);
    struct job j = {.m = m,
                    .planes = planes,
                    .errs = calloc((size_t)threads, sizeof *j.errs),
                    .progress = progress,
                    .arg = arg};
    if (!j.errs) return err_set(e, ERR_NOMEM, "no memory for %d threads", threads);
    bool rounded = false;
    for (uint32_t i = 0; i < m->hp.layers && r == 0; i++) {
        j.l = &m->layers[i];
        j.layer = i;
        /* As before a batch: pages of a file cut short are not to be touched. */
        r = m->mapped ? gguf_check_size(m->file, e) : 0;
        if (r == 0) r = lay_out_layer(&j, e);
        if (r < 0) err_prefix(e, e->code, "layer %u", i);
        rounded |= j.how == TURN_DECODE;
        if (r == 0 && (atomic_load(&j.stop) || (progress && progress((i + 1.0) / m->hp.layers, arg))))
            r = err_set(e, ERR_CANCELLED, "%s: loading was interrupted", gguf_path(m->file));
    }
    free(j.errs);
    if (rounded)
        log_info("%s: down matrices of a type without a layout by neuron are kept as F16",
                 gguf_path(m->file));
    return r;
}

/* ---- Norms ---- */

struct norms_job {
    struct calor_model *m;
    struct layer *l;
    float *norms, *rows; /* rows: d floats a thread */
    uint8_t *scratch;
    size_t scratch_bytes;
};

static void norms_part(struct team_member *t, void *arg)
{
    const struct norms_job *j = arg;
    const struct neurons *by = &j->l->by;
    int64_t d = j->m->hp.width, f = j->m->hp.ffn, b;
    float *row = j->rows + t->ith * d;
    const float one = 1.0f;
    while (team_next(t, SLOT_TILES, neuron_blocks(f), 1, &b))
        for (int64_t i = b * KERN_BLOCK; i < (b + 1) * KERN_BLOCK && i < f; i++) {
            uint16_t at = (uint16_t)(i - b * KERN_BLOCK);
            double sum = 0.0;
            memset(row, 0, (size_t)d * sizeof *row);
            by->kind->add(row, &by->down, b * KERN_BLOCK, &at, &one, 1, d, 0, d,
                          j->scratch + (size_t)t->ith * j->scratch_bytes);
            for (int64_t c = 0; c < d; c++) sum += (double)row[c] * (double)row[c];
            j->norms[i] = (float)sqrt(sum);
        }
}

int neurons_norms(struct calor_model *m, struct err *e)
{
    size_t d = m->hp.width, threads = (size_t)team_size(m->team);
    struct norms_job j = {.m = m};
    int r = 0;
    /* Sessions may be opened by several threads; the lock also holds others off the team. */
    pthread_mutex_lock(&m->run_lock);
    for (uint32_t i = 0; i < m->hp.layers; i++) {
        const struct kern_down *k = m->layers[i].by.kind;
        if (k && up64(k->scratch_bytes(m->hp.width)) > j.scratch_bytes)
            j.scratch_bytes = up64(k->scratch_bytes(m->hp.width));
    }
    j.rows = malloc(threads * d * sizeof *j.rows);
    j.scratch = aligned_alloc(64, threads * j.scratch_bytes + 64);
    if (!j.rows || !j.scratch) r = err_set(e, ERR_NOMEM, "no memory for the norms of the neurons");
    for (uint32_t i = 0; i < m->hp.layers && r == 0; i++) {
        j.l = &m->layers[i];
        if (!j.l->by.kind || j.l->by.norms) continue;
        j.norms = model_alloc(m, m->hp.ffn * sizeof *j.norms);
        if (!j.norms) {
            r = err_set(e, ERR_NOMEM, "no memory for the norms of the neurons");
            break;
        }
        team_run(m->team, norms_part, &j);
        j.l->by.norms = j.norms;
    }
    pthread_mutex_unlock(&m->run_lock);
    free(j.rows);
    free(j.scratch);
    return r;
}

/* ---- Rows again ---- */

void neurons_gate_rows(const struct calor_model *m, uint32_t layer, int64_t i, int64_t n, uint8_t *dst)
{
    struct layer *l = &m->layers[layer];
    const struct mat *g = neurons_gate(l);
    struct kern_planes_at w = l->by.planes;
    w.coarse += (size_t)i * w.coarse_stride;
    w.fine += (size_t)i * w.fine_stride;
    w.rows += i;
    kern_planes_join(g->type, dst, g->row_bytes, &w, g->n, 0, n, NULL, NULL);
}

void neurons_panel(const struct calor_model *m, uint32_t layer, int64_t c0, int64_t c1, uint8_t *dst)
{
    const struct layer *l = &m->layers[layer];
    const struct neurons *by = &l->by;
    int64_t f = m->hp.ffn;
    if (by->kind->group) {
        kern_unsplit(by->type, dst, l->down.row_bytes, &by->down, by->place_of, m->hp.width, f, c0, c1, NULL);
        return;
    }
    const struct dtype_info *info = dtype_info((uint32_t)by->type);
    size_t size = info->block == 1 ? info->bytes : sizeof(float);
    float values[NEURON_PANEL];
    for (int64_t i = 0; i < f; i++) {
        const uint8_t *src =
            by->down.rows + (size_t)i * by->down.stride + (size_t)(c0 / info->block) * info->bytes;
        if (info->block > 1) {
            m->ops->decode(by->type, values, src, c1 - c0);
            src = (const uint8_t *)values;
        }
        size_t column = by->order ? by->order[i] : (size_t)i;
        for (int64_t c = 0; c < c1 - c0; c++, src += size)
            memcpy(dst + (size_t)c * l->down.row_bytes + column * size, src, size);
    }
}
