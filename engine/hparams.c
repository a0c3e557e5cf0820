/* Reading hyper-parameters. Every rule here is a crash or a wrong answer that some engine has shipped. */
#include "engine/hparams.h"

#include "base/err.h"
#include "engine/arch/arch.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Sizes beyond these are damage, not models; they also keep every product below in 64 bits. */
#define MAX_LAYERS   4096u
#define MAX_WIDTH    (1u << 20)
#define MAX_FFN      (1u << 24)
#define MAX_HEADS    65536u
#define MAX_HEAD_DIM 4096u
#define MAX_CONTEXT  0x7fffffffu

enum need { OPTIONAL, REQUIRED };

static int read_u32(const struct gguf *f, const char *arch, const char *suffix, enum need need, uint32_t lo,
                    uint32_t hi, uint32_t *out, struct err *e)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", arch, suffix);
    uint32_t v = 0;
    int r = gguf_get_u32(f, key, &v, e);
    if (r < 0) return r;
    if (r == 1) {
        if (need == REQUIRED)
            return err_set(e, ERR_FORMAT, "%s: the key %s is missing: a %s model cannot be run without it",
                           gguf_path(f), key, arch);
        return 1;
    }
    if (v < lo || v > hi)
        return err_set(e, ERR_FORMAT, "%s: %s is %u: expected %u to %u", gguf_path(f), key, v, lo, hi);
    *out = v;
    return 0;
}

int hparams_f32(const struct gguf *f, const char *arch, const char *suffix, float lo, float hi, float *out,
                struct err *e)
{
    char key[128];
    snprintf(key, sizeof key, "%s.%s", arch, suffix);
    float v = 0;
    int r = gguf_get_f32(f, key, &v, e);
    if (r != 0) return r;
    if (!(v >= lo && v <= hi)) /* NaN fails too */
        return err_set(e, ERR_FORMAT, "%s: %s is %g: expected %g to %g", gguf_path(f), key, (double)v,
                       (double)lo, (double)hi);
    *out = v;
    return 0;
}

/* The pair index at which a rotation completes `turns` turns over the original context. */
static float yarn_pair(const struct hparams *hp, uint32_t original, float turns)
{
    return (float)hp->rot * logf((float)original / (turns * 6.2831853f)) / (2.0f * logf(hp->rope_base));
}

static int read_yarn(struct hparams *hp, const char *a, const struct gguf *f, struct err *e)
{
    uint32_t original = hp->context;
    float fast = 32.0f, slow = 1.0f, attn = 1.0f;
    int r = read_u32(f, a, "rope.scaling.original_context_length", OPTIONAL, 1, MAX_CONTEXT, &original, e);
    if (r >= 0) r = hparams_f32(f, a, "rope.scaling.yarn_beta_fast", 1e-3f, 1e6f, &fast, e);
    if (r >= 0) r = hparams_f32(f, a, "rope.scaling.yarn_beta_slow", 1e-3f, 1e6f, &slow, e);
    if (r >= 0) r = hparams_f32(f, a, "rope.scaling.attn_factor", 1e-3f, 1e3f, &attn, e);
    if (r < 0) return r;
    hp->yarn = true;
    hp->yarn_low = fmaxf(0.0f, floorf(yarn_pair(hp, original, fast)));
    hp->yarn_high = fminf((float)hp->rot - 1.0f, ceilf(yarn_pair(hp, original, slow)));
    hp->rope_magnitude = attn * (1.0f + 0.1f * logf(1.0f / hp->rope_scale));
    return 0;
}

static int read_rope(struct hparams *hp, const struct arch *arch, const struct gguf *f, struct err *e)
{
    const char *a = arch->name;
    hp->rope_base = 10000.0f;
    hp->rope_scale = 1.0f;
    hp->rope_magnitude = 1.0f;
    if (arch->position == POSITION_LEARNED) return 0;
    hp->rot = hp->head_dim;
    int r = read_u32(f, a, "rope.dimension_count", OPTIONAL, 2, hp->head_dim, &hp->rot, e);
    if (r < 0)
        return err_prefix(e, r, "rotary dimensions must be even and at most the head size (%u)",
                          hp->head_dim);
    if (hp->rot % 2 != 0)
        return err_set(e, ERR_FORMAT, "%s: %s.rope.dimension_count is %u: expected an even number",
                       gguf_path(f), a, hp->rot);
    if ((r = hparams_f32(f, a, "rope.freq_base", 1.0001f, 1e12f, &hp->rope_base, e)) < 0) return r;

    char key[128];
    snprintf(key, sizeof key, "%s.rope.scaling.type", a);
    struct gguf_str type = {"linear", 6};
    if ((r = gguf_get_str(f, key, &type, e)) < 0) return r;
    if (type.n == 4 && memcmp(type.s, "none", 4) == 0) return 0;
    bool yarn = type.n == 4 && memcmp(type.s, "yarn", 4) == 0;
    if (!yarn && !(type.n == 6 && memcmp(type.s, "linear", 6) == 0))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: %s is \"%.*s\": Calor knows \"none\", \"linear\" and \"yarn\" (and llama3's "
                       "rope_freqs.weight)",
                       gguf_path(f), key, (int)(type.n < 40 ? type.n : 40), type.s);
    float factor = 0.0f; /* 0 in a file means no scaling */
    r = hparams_f32(f, a, "rope.scaling.factor", 0.0f, 1e6f, &factor, e);
    if (r == 1) r = hparams_f32(f, a, "rope.scale_linear", 0.0f, 1e6f, &factor, e); /* the old name */
    if (r < 0) return r;
    if (factor > 0.0f) hp->rope_scale = 1.0f / factor;
    return yarn ? read_yarn(hp, a, f, e) : 0;
}

static int read_heads(struct hparams *hp, const char *a, const struct gguf *f, struct err *e)
{
    int r = read_u32(f, a, "attention.head_count", REQUIRED, 1, MAX_HEADS, &hp->heads, e);
    if (r < 0) return r;
    hp->kv_heads = hp->heads;
    if ((r = read_u32(f, a, "attention.head_count_kv", OPTIONAL, 1, MAX_HEADS, &hp->kv_heads, e)) < 0)
        return r;
    if (hp->kv_heads > hp->heads || hp->heads % hp->kv_heads != 0)
        return err_set(e, ERR_FORMAT,
                       "%s: %s.attention.head_count_kv is %u: expected a divisor of the %u heads",
                       gguf_path(f), a, hp->kv_heads, hp->heads);
    uint32_t vlen = 0;
    r = read_u32(f, a, "attention.key_length", OPTIONAL, 1, MAX_HEAD_DIM, &hp->head_dim, e);
    if (r < 0) return r;
    if (r == 1) {
        if (hp->width % hp->heads != 0)
            return err_set(e, ERR_FORMAT,
                           "%s: %s.attention.head_count is %u: expected a divisor of embedding_length (%u)",
                           gguf_path(f), a, hp->heads, hp->width);
        hp->head_dim = hp->width / hp->heads;
        if (hp->head_dim > MAX_HEAD_DIM)
            return err_set(e, ERR_FORMAT, "%s: a head would have %u values: expected at most %u",
                           gguf_path(f), hp->head_dim, MAX_HEAD_DIM);
    }
    r = read_u32(f, a, "attention.value_length", OPTIONAL, 1, MAX_HEAD_DIM, &vlen, e);
    if (r < 0) return r;
    if (r == 0 && vlen != hp->head_dim)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: heads have %u key values and %u value values: Calor runs models where both are "
                       "equal",
                       gguf_path(f), hp->head_dim, vlen);
    return 0;
}

int hparams_read(struct hparams *hp, const struct arch *arch, const struct gguf *f, uint64_t vocab,
                 struct err *e)
{
    const char *a = arch->name;
    *hp = (struct hparams){.embedding_scale = 1.0f, .residual_scale = 1.0f, .logit_scale = 1.0f};
    int r;
    if (vocab < 1 || vocab > MAX_FFN)
        return err_set(e, ERR_FORMAT, "%s: token_embd.weight has %llu rows: expected 1 to %u", gguf_path(f),
                       (unsigned long long)vocab, MAX_FFN);
    hp->vocab = (uint32_t)vocab;
    uint32_t said = 0, experts = 0;
    if ((r = read_u32(f, a, "vocab_size", OPTIONAL, 1, MAX_FFN, &said, e)) < 0) return r;
    if (r == 0 && said != hp->vocab)
        return err_set(e, ERR_FORMAT, "%s: %s.vocab_size is %u but token_embd.weight has %u rows",
                       gguf_path(f), a, said, hp->vocab);
    if ((r = read_u32(f, a, "expert_count", OPTIONAL, 0, UINT32_MAX, &experts, e)) < 0) return r;
    if (experts > 0)
        return err_set(e, ERR_UNSUPPORTED, "%s: a mixture of %u experts: Calor runs dense models only",
                       gguf_path(f), experts);
    if ((r = read_u32(f, a, "embedding_length", REQUIRED, 1, MAX_WIDTH, &hp->width, e)) < 0) return r;
    if ((r = read_u32(f, a, "block_count", REQUIRED, 1, MAX_LAYERS, &hp->layers, e)) < 0) return r;
    if ((r = read_u32(f, a, "feed_forward_length", REQUIRED, 1, MAX_FFN, &hp->ffn, e)) < 0) return r;
    if ((r = read_u32(f, a, "context_length", REQUIRED, 1, MAX_CONTEXT, &hp->context, e)) < 0) return r;
    if ((r = read_heads(hp, a, f, e)) < 0) return r;
    if ((r = read_rope(hp, arch, f, e)) < 0) return r;

    const char *eps =
        arch->norm == NORM_RMS ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon";
    r = hparams_f32(f, a, eps, 0.0f, 1.0f, &hp->eps, e);
    if (r == 1)
        r = err_set(e, ERR_FORMAT, "%s: the key %s.%s is missing: a %s model cannot be run without it",
                    gguf_path(f), a, eps, a);
    if (r < 0) return r;
    hp->attn_scale = 1.0f / sqrtf((float)hp->head_dim);
    if ((r = hparams_f32(f, a, "attention.scale", 1e-6f, 1e3f, &hp->attn_scale, e)) < 0) return r;
    if (arch->window &&
        (r = read_u32(f, a, "attention.sliding_window", OPTIONAL, 0, MAX_CONTEXT, &hp->window, e)) < 0)
        return r;
    return arch->hparams ? arch->hparams(hp, f, e) : 0;
}
