/* Converting checkpoints to GGUF: opens the source, has its tensors planned (convert_hf.c, convert_gguf.c)
 * and streams them into the new file, rows encoded by all threads. Memory: a few chunks of rows, whatever the
 * model's size. */
#include "engine/convert.h"

#include "base/err.h"
#include "base/half.h"
#include "base/log.h"
#include "base/threads.h"
#include "engine/tools.h"
#include "io/gguf.h"
#include "io/safetensors.h"
#include "kernels/kernels.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Output bytes encoded between two writes; one row at least. */
#define CHUNK_BYTES (8u << 20)

struct conv_tensor *conv_add(struct conv_list *l, struct err *e)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        struct conv_tensor *t = realloc(l->t, cap * sizeof *t);
        if (!t) {
            err_set(e, ERR_NOMEM, "no memory for a list of %zu tensors", cap);
            return NULL;
        }
        l->t = t;
        l->cap = cap;
    }
    struct conv_tensor *t = &l->t[l->n++];
    memset(t, 0, sizeof *t);
    return t;
}

void conv_finish(struct conv_list *l)
{
    for (int i = 0; i < l->n_owned; i++) free(l->owned[i]);
    free(l->t);
    *l = (struct conv_list){0};
}

uint64_t conv_source_row(const struct conv_tensor *t, uint64_t r)
{
    uint64_t hd = t->head_dim;
    if (t->rows == CONV_UNPERMUTE) {
        uint64_t head = r / hd, i = r % hd;
        return head * hd + (i % 2) * (hd / 2) + i / 2;
    }
    if (t->rows == CONV_SPLIT_QKV) {
        uint64_t group = t->heads / t->kv_heads, head = r / hd, i = r % hd, g, at;
        if (head < t->heads) {
            g = head / group;
            at = head % group;
        } else if (head < t->heads + t->kv_heads) {
            g = head - t->heads;
            at = group;
        } else {
            g = head - t->heads - t->kv_heads;
            at = group + 1;
        }
        return (g * (group + 2) + at) * hd + i;
    }
    return r;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n >= t && strcmp(s + n - t, tail) == 0;
}

enum dtype conv_pick_type(const char *name, int n_dims, const uint64_t *ne, enum dtype want, bool tied_output)
{
    if (n_dims == 1 || !ends_with(name, ".weight") || strstr(name, "_norm") ||
        strncmp(name, "position_embd", 13) == 0 || strncmp(name, "rope_", 5) == 0)
        return DT_F32;
    bool output = strncmp(name, "output.", 7) == 0 || (tied_output && strncmp(name, "token_embd.", 11) == 0);
    /* Errors of the output matrix go straight into the logits: llama.cpp's mixes keep it at 6 bits as well.
     */
    if (output && (want == DT_Q4_0 || want == DT_Q4_K || want == DT_Q5_K)) want = DT_Q6_K;
    if (ne[0] % dtype_info(want)->block == 0) return want;
    return ne[0] % dtype_info(DT_Q8_0)->block == 0 ? DT_Q8_0 : DT_F16;
}

/* ---- one tensor's rows, by all threads ---- */

struct chunk {
    const struct conv_tensor *t;
    const struct kern_ops *ops;
    uint64_t row0, rows, n, out_row_bytes;
    unsigned char *out;
    float **row; /* one buffer of n floats a thread */
    pthread_mutex_t lock;
    struct err *e;
    int rc;
};

/* n values of a checkpoint's tensor from value `at`, as floats. The caller has checked the type (add_tensor).
 */
static void read_values(const struct st_tensor *t, uint64_t at, uint64_t n, float *dst)
{
    const unsigned char *p = (const unsigned char *)t->data + at * st_dtype_bytes(t->dtype);
    uint16_t half;
    double wide;
    switch (t->dtype) {
    case ST_F32: memcpy(dst, p, n * sizeof *dst); break;
    case ST_F16:
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&half, p + 2 * i, 2);
            dst[i] = f16_to_f32(half);
        }
        break;
    case ST_BF16:
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&half, p + 2 * i, 2);
            dst[i] = bf16_to_f32(half);
        }
        break;
    default:
        for (uint64_t i = 0; i < n; i++) {
            memcpy(&wide, p + 8 * i, 8);
            dst[i] = (float)wide;
        }
    }
}

/* Source row as floats. */
static void fetch(const struct chunk *c, uint64_t source, float *dst)
{
    const struct conv_tensor *t = c->t;
    if (t->values)
        memcpy(dst, t->values + source * c->n, c->n * sizeof *dst);
    else if (t->st)
        read_values(t->st, source * c->n, c->n, dst);
    else
        c->ops->decode(t->gguf->type, dst, (const char *)t->gguf->data + source * t->gguf->row_bytes,
                       (int64_t)c->n);
}

static void encode_rows(struct team_member *m, void *arg)
{
    struct chunk *c = arg;
    float *row = c->row[m->ith];
    int64_t begin;
    while (team_next(m, 0, (int64_t)c->rows, 8, &begin)) {
        for (int64_t i = begin; i < begin + 8 && i < (int64_t)c->rows; i++) {
            struct err e = {0};
            uint64_t r = c->row0 + (uint64_t)i;
            if (c->t->n_dims == 1 && c->t->rows != CONV_SAME) /* a bias: its "rows" are its values */
                for (uint64_t k = 0; k < c->n; k++)
                    read_values(c->t->st, conv_source_row(c->t, k), 1, row + k);
            else
                fetch(c, conv_source_row(c->t, r), row);
            int rc = kern_encode(c->t->type, c->out + (uint64_t)i * c->out_row_bytes, row, (int64_t)c->n, &e);
            if (rc == 0) continue;
            pthread_mutex_lock(&c->lock);
            if (c->rc == 0) {
                c->rc = rc;
                err_prefix(&e, rc, "tensor '%s', row %llu", c->t->name, (unsigned long long)r);
                if (c->e) *c->e = e;
            }
            pthread_mutex_unlock(&c->lock);
            return;
        }
    }
}

static int copy_tensor(const struct gguf *f, const struct conv_tensor *t, struct gguf_writer *w,
                       unsigned char *buf, struct err *e)
{
    int rc = 0;
    for (uint64_t at = 0; rc == 0 && at < t->gguf->bytes; at += CHUNK_BYTES) {
        uint64_t n = t->gguf->bytes - at < CHUNK_BYTES ? t->gguf->bytes - at : CHUNK_BYTES;
        rc = gguf_read_tensor(f, t->gguf, at, buf, n, e);
        rc = rc ? rc : gguf_write(w, buf, n, e);
    }
    return rc;
}

struct job {
    const struct convert_settings *s;
    const struct kern_ops *ops;
    struct team *team;
    struct gguf *gguf;
    struct safetensors *st;
    struct gguf_writer *w;
    struct conv_list list;
    uint64_t done, total;
};

static int write_tensor(struct job *j, const struct conv_tensor *t, struct err *e)
{
    uint64_t n = t->ne[0], rows = t->ne[1] * t->ne[2] * t->ne[3], row_bytes;
    dtype_row_bytes(t->type, n, &row_bytes); /* checked when declared */
    uint64_t per = CHUNK_BYTES / row_bytes ? CHUNK_BYTES / row_bytes : 1;
    if (per > rows) per = rows;
    int threads = team_size(j->team), rc = 0;
    size_t out_bytes = (size_t)(per * row_bytes > CHUNK_BYTES ? per * row_bytes : CHUNK_BYTES);
    unsigned char *out = malloc(out_bytes);
    float *buffers = malloc((size_t)threads * n * sizeof *buffers),
          **row = malloc((size_t)threads * sizeof *row);
    if (!out || !buffers || !row)
        rc = err_set(e, ERR_NOMEM, "no memory to convert tensor '%s' (rows of %llu values)", t->name,
                     (unsigned long long)n);
    for (int i = 0; rc == 0 && i < threads; i++) row[i] = buffers + (size_t)i * n;
    /* Both sources are mapped: a file cut short meanwhile must be an error, not a signal. */
    if (rc == 0) rc = j->st ? safetensors_check_size(j->st, e) : gguf_check_size(j->gguf, e);
    if (rc == 0 && t->gguf && t->gguf->type == t->type)
        rc = copy_tensor(j->gguf, t, j->w, out, e);
    else if (rc == 0)
        for (uint64_t r = 0; rc == 0 && r < rows; r += per) {
            struct chunk c = {.t = t,
                              .ops = j->ops,
                              .row0 = r,
                              .rows = rows - r < per ? rows - r : per,
                              .n = n,
                              .out_row_bytes = row_bytes,
                              .out = out,
                              .row = row,
                              .e = e};
            pthread_mutex_init(&c.lock, NULL);
            team_run(j->team, encode_rows, &c);
            pthread_mutex_destroy(&c.lock);
            rc = c.rc ? c.rc : gguf_write(j->w, out, (size_t)(c.rows * row_bytes), e);
        }
    j->done += rows * row_bytes;
    if (rc == 0 && j->s->progress && j->s->progress((double)j->done / (double)j->total, j->s->progress_arg))
        rc = err_set(e, ERR_CANCELLED, "cancelled: '%s' was not written", j->s->out);
    free(out);
    free(buffers);
    free(row);
    return rc;
}

static int open_source(struct job *j, struct err *e)
{
    const char *src = j->s->src;
    struct stat st;
    if (stat(src, &st) != 0) return err_set_errno(e, ERR_IO, "cannot open '%s'", src);
    if (!S_ISDIR(st.st_mode)) {
        static const char *const pickled[] = {".bin", ".pt", ".pth", ".ckpt"};
        for (size_t i = 0; i < sizeof pickled / sizeof *pickled; i++)
            if (ends_with(src, pickled[i]))
                return err_set(
                    e, ERR_UNSUPPORTED,
                    "'%s' is a PyTorch pickle, which can run code when opened: convert it once with  python3 "
                    "-c "
                    "\"import torch,safetensors.torch as s; s.save_file({k:v.contiguous().clone() for k,v in "
                    "torch.load('%s',weights_only=True).items()},'model.safetensors')\"  and give the folder",
                    src, src);
        if (ends_with(src, ".safetensors"))
            return err_set(e, ERR_ARG,
                           "'%s' alone lacks config.json and the tokenizer: give the folder it is in", src);
        return gguf_open(&j->gguf, src, GGUF_MMAP, e);
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", src);
    if (stat(path, &st) != 0)
        return err_set_errno(e, ERR_IO, "'%s' is no Hugging Face folder: cannot open its config.json", src);
    return safetensors_open(&j->st, src, e);
}

/* Without --type: the smallest type that keeps every value: F16 for F16 and F32 checkpoints, BF16 for BF16.
 */
static enum dtype default_type(const struct job *j)
{
    if (j->gguf) return DT_F16;
    for (int64_t i = 0; i < safetensors_n(j->st); i++)
        if (safetensors_tensor(j->st, i)->dtype == ST_BF16) return DT_BF16;
    return DT_F16;
}

/* general.file_type as llama.cpp numbers it. */
static uint32_t file_type(enum dtype type)
{
    switch (type) {
    case DT_F32: return 0;
    case DT_F16: return 1;
    case DT_Q4_0: return 2;
    case DT_Q8_0: return 7;
    case DT_Q4_K: return 14;
    case DT_Q5_K: return 16;
    case DT_Q6_K: return 18;
    case DT_BF16: return 32;
    default: return 1;
    }
}

int convert_model(const struct convert_settings *s, struct err *e)
{
    struct job j = {.s = s};
    struct team_settings ts = {.threads = s->threads};
    int rc = kern_select(NULL, &j.ops, e);
    rc = rc ? rc : open_source(&j, e);
    if (rc) goto done;
    enum dtype want = s->type < 0 ? default_type(&j) : (enum dtype)s->type;
    if (!kern_can_encode(want)) {
        rc = err_set(e, ERR_ARG,
                     "cannot encode to %s: f32, f16, bf16, q8_0, q4_0, q4_k, q5_k and q6_k are possible",
                     dtype_name(want));
        goto done;
    }
    struct stat a, b;
    if (j.gguf && stat(s->src, &a) == 0 && stat(s->out, &b) == 0 && a.st_dev == b.st_dev &&
        a.st_ino == b.st_ino) {
        rc = err_set(e, ERR_ARG, "'%s' is both source and output", s->out);
        goto done;
    }
    rc = gguf_writer_create(&j.w, s->out, e);
    if (rc == 0)
        rc = j.gguf ? convert_gguf_plan(j.gguf, want, s->activation, &j.list, j.w, e)
                    : convert_hf_plan(s->src, j.st, want, s->activation, &j.list, j.w, e);
    rc = rc ? rc : gguf_put_u32(j.w, "general.file_type", file_type(want), e);
    size_t other = 0;
    for (size_t i = 0; rc == 0 && i < j.list.n; i++) {
        const struct conv_tensor *t = &j.list.t[i];
        uint64_t row_bytes = 0;
        rc = gguf_declare(j.w, t->name, t->type, t->n_dims, t->ne, e);
        dtype_row_bytes(t->type, t->ne[0], &row_bytes);
        j.total += row_bytes * t->ne[1] * t->ne[2] * t->ne[3];
        other += t->n_dims > 1 && t->type != want && t->ne[0] % dtype_info(want)->block != 0;
    }
    if (rc == 0 && other)
        log_warn("%zu matrices have rows that blocks of %s do not divide: stored as Q8_0 or F16", other,
                 dtype_name(want));
    rc = rc ? rc : gguf_write_header(j.w, e);
    rc = rc ? rc : team_create(&j.team, &ts, e);
    for (size_t i = 0; rc == 0 && i < j.list.n; i++) rc = write_tensor(&j, &j.list.t[i], e);
    rc = rc ? rc : gguf_writer_finish(j.w, e);
done:
    team_destroy(&j.team);
    conv_finish(&j.list);
    gguf_writer_destroy(&j.w);
    gguf_close(&j.gguf);
    safetensors_close(&j.st);
    return rc;
}
