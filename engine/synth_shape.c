/* Shapes of synthetic models and the tensors they consist of. */
#include "engine/synth.h"

#include "base/err.h"
#include "base/strbuf.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct synth_shape shapes[] = {
    {"tinyllama-1b", "llama", 2048, 5632, 22, 32, 4, 32000, 2048},
    {"llama2-7b", "llama", 4096, 11008, 32, 32, 32, 32000, 4096},
    {"llama2-13b", "llama", 5120, 13824, 40, 40, 40, 32000, 4096},
    {"llama2-70b", "llama", 8192, 28672, 80, 64, 8, 32000, 4096},
    {"falcon-40b", "falcon", 8192, 32768, 60, 128, 8, 65024, 2048},
    {"1b", "llama", 2048, 5632, 16, 16, 16, 32000, 4096},
    {"7b", "llama", 4096, 11008, 32, 32, 32, 32000, 4096},
    {"13b", "llama", 5120, 13824, 40, 40, 40, 32000, 4096},
};
enum { MIN_VOCAB = 3 + 256 + 1 }; /* unknown, begin, end, all bytes, one piece */

static int check(const struct synth_shape *s, struct err *e)
{
    const struct {
        const char *key;
        uint32_t value, min, max;
    } rule[] = {
        {"d", s->d, 2, 1 << 17},      {"f", s->f, 1, 1 << 19}, {"layers", s->layers, 1, 1024},
        {"heads", s->heads, 1, 1024}, {"kv", s->kv, 1, 1024},  {"vocab", s->vocab, MIN_VOCAB, 1 << 20},
        {"ctx", s->ctx, 1, 1u << 24},
    };
    for (size_t i = 0; i < sizeof rule / sizeof *rule; i++) {
        if (rule[i].value == 0) return err_set(e, ERR_ARG, "the shape lacks '%s='", rule[i].key);
        if (rule[i].value < rule[i].min || rule[i].value > rule[i].max)
            return err_set(e, ERR_ARG, "%s=%" PRIu32 " is out of range: expected %" PRIu32 " to %" PRIu32,
                           rule[i].key, rule[i].value, rule[i].min, rule[i].max);
    }
    if (s->d % s->heads || s->d / s->heads % 2)
        return err_set(e, ERR_ARG,
                       "d=%" PRIu32 " over heads=%" PRIu32 " is not an even whole number of values a head",
                       s->d, s->heads);
    if (s->heads % s->kv)
        return err_set(e, ERR_ARG, "heads=%" PRIu32 " is not a multiple of kv=%" PRIu32, s->heads, s->kv);
    return 0;
}

static int parse_pairs(struct synth_shape *s, const char *text, struct err *e)
{
    const struct {
        const char *key;
        uint32_t *at;
    } keys[] = {{"d", &s->d},   {"f", &s->f},         {"layers", &s->layers}, {"heads", &s->heads},
                {"kv", &s->kv}, {"vocab", &s->vocab}, {"ctx", &s->ctx}};
    while (*text) {
        size_t n = strcspn(text, ","), k = strcspn(text, "=,");
        if (text[k] != '=')
            return err_set(e, ERR_ARG, "'%.*s' in the shape is not key=value", (int)(n < 60 ? n : 60), text);
        const char *value = text + k + 1;
        size_t len = n - k - 1;
        uint32_t *at = NULL;
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (strlen(keys[i].key) == k && strncmp(keys[i].key, text, k) == 0) at = keys[i].at;
        if (k == 4 && strncmp(text, "arch", 4) == 0) {
            if (!(len == 5 && strncmp(value, "llama", 5) == 0) &&
                !(len == 6 && strncmp(value, "falcon", 6) == 0))
                return err_set(e, ERR_ARG, "arch=%.*s: expected llama or falcon", (int)(len < 60 ? len : 60),
                               value);
            snprintf(s->arch, sizeof s->arch, "%.*s", (int)len, value);
        } else if (!at) {
            return err_set(e, ERR_ARG,
                           "'%.*s' is no key of a shape: expected d, f, layers, heads, kv, vocab, ctx, arch",
                           (int)(k < 60 ? k : 60), text);
        } else {
            if (len == 0 || len > 9 || strspn(value, "0123456789") < len)
                return err_set(e, ERR_ARG, "%.*s: expected a whole number", (int)(n < 60 ? n : 60), text);
            *at = (uint32_t)strtoul(value, NULL, 10);
        }
        text += n;
        if (*text == ',') text++;
    }
    return 0;
}

int synth_shape_parse(struct synth_shape *out, const char *text, struct err *e)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, text) == 0) {
            *out = shapes[i];
            return 0;
        }
    if (!strchr(text, '=')) {
        struct strbuf list;
        strbuf_init(&list);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            strbuf_printf(&list, "%s, ", shapes[i].name);
        err_set(e, ERR_ARG, "'%.60s' is no known shape: expected one of %sor d=..,f=..,layers=..,heads=..",
                text, list.s ? list.s : "");
        strbuf_finish(&list);
        return ERR_ARG;
    }
    *out = (struct synth_shape){.name = "custom", .arch = "llama", .vocab = 32000, .ctx = 4096};
    int rc = parse_pairs(out, text, e);
    if (rc) return rc;
    if (!out->kv) out->kv = out->heads;
    return check(out, e);
}

enum dtype synth_output_type(enum dtype type, uint32_t d)
{
    bool small = type == DT_Q4_0 || type == DT_Q4_K || type == DT_Q5_K;
    return small && d % 256 == 0 && kern_can_encode(DT_Q6_K) ? DT_Q6_K : type;
}

/* Scales. An input of a layer has unit variance after its norm, so 1/√n keeps products near 1 as trained
 * models' do; what is added to the residual stream is divided by √(2·layers), so that it grows to about
 * twice, not with the depth. Logits get a standard deviation of 2: the softmax is neither flat nor one-hot.
 */
struct list {
    struct synth_tensor *t;
    int n;
    const struct synth_settings *s;
};

static void matrix(struct list *l, const char *fmt, uint32_t layer, enum dtype type, uint64_t n,
                   uint64_t rows, double gain)
{
    struct synth_tensor *t = &l->t[l->n++];
    snprintf(t->name, sizeof t->name, fmt, layer);
    t->type = type;
    t->n_dims = 2;
    t->ne[0] = n;
    t->ne[1] = rows;
    t->fill = SYNTH_NORMAL;
    t->scale = (float)(gain / sqrt((double)n));
}

static void vector(struct list *l, const char *fmt, uint32_t layer, enum synth_fill fill)
{
    struct synth_tensor *t = &l->t[l->n++];
    snprintf(t->name, sizeof t->name, fmt, layer);
    t->type = DT_F32;
    t->n_dims = 1;
    t->ne[0] = l->s->shape.d;
    t->ne[1] = 1;
    t->fill = fill;
    t->scale = fill == SYNTH_SMALL ? 0.02f : 0.1f;
}

struct synth_tensor *synth_tensors(const struct synth_settings *s, int *n)
{
    const struct synth_shape *h = &s->shape;
    struct list l = {.s = s};
    l.t = calloc((size_t)h->layers * 10 + 5, sizeof *l.t);
    if (!l.t) return NULL;
    uint64_t d = h->d, kv = (uint64_t)h->d / h->heads * h->kv;
    double out = 1 / sqrt(2.0 * h->layers);
    bool falcon = strcmp(h->arch, "falcon") == 0;
    matrix(&l, "token_embd.weight", 0, s->type, d, h->vocab, 1);
    /* Real embeddings are small beside what the layers add, but must not vanish in half precision. */
    l.t[0].scale = 0.05f;
    for (uint32_t i = 0; i < h->layers; i++) {
        vector(&l, "blk.%u.attn_norm.weight", i, SYNTH_NEAR_ONE);
        if (falcon) {
            vector(&l, "blk.%u.attn_norm.bias", i, SYNTH_SMALL);
            vector(&l, "blk.%u.attn_norm_2.weight", i, SYNTH_NEAR_ONE);
            vector(&l, "blk.%u.attn_norm_2.bias", i, SYNTH_SMALL);
            matrix(&l, "blk.%u.attn_qkv.weight", i, s->type, d, d + 2 * kv, 1);
        } else {
            matrix(&l, "blk.%u.attn_q.weight", i, s->type, d, d, 1);
            matrix(&l, "blk.%u.attn_k.weight", i, s->type, d, kv, 1);
            matrix(&l, "blk.%u.attn_v.weight", i, s->type, d, kv, 1);
        }
        matrix(&l, "blk.%u.attn_output.weight", i, s->type, d, d, out);
        if (!falcon) {
            vector(&l, "blk.%u.ffn_norm.weight", i, SYNTH_NEAR_ONE);
            matrix(&l, "blk.%u.ffn_gate.weight", i, s->type, d, h->f, 1);
        }
        matrix(&l, "blk.%u.ffn_up.weight", i, s->type, d, h->f, 1);
        matrix(&l, "blk.%u.ffn_down.weight", i, s->type, h->f, d, 2 * out);
    }
    vector(&l, "output_norm.weight", 0, SYNTH_NEAR_ONE);
    if (falcon) vector(&l, "output_norm.bias", 0, SYNTH_SMALL);
    matrix(&l, "output.weight", 0, s->output_type, d, h->vocab, 2);
    *n = l.n;
    return l.t;
}

void synth_tensors_free(struct synth_tensor *t, int n)
{
    for (int i = 0; t && i < n; i++) free(t[i].along);
    free(t);
}
