/* Converting, the Hugging Face side: config.json to GGUF metadata, and checkpoint tensor names to GGUF names
 * with the row orders that GGUF wants. A new model family is one entry in `families` with its name table
 * (docs/add-a-model.md).
 *
 * Metadata keys and row orders follow llama.cpp's converter, so that one file serves both engines. */
#include "engine/convert.h"

#include "base/err.h"
#include "base/json.h"
#include "base/json_text.h"
#include "base/log.h"
#include "engine/activation.h"
#include "engine/arch/arch.h"
#include "engine/convert_tok.h"
#include "io/gguf.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_LIMIT (4u << 20)

/* What the metadata needs to know of config.json, read once. */
struct hf {
    const char *dir;
    const json_t *config;
    const struct family *family;
    uint32_t d, f, layers, heads, kv, head_dim, vocab, context;
    bool tied;
};

/* Checkpoint name → GGUF name; '#' stands for the layer number in both. Suffixes (.weight, .bias) are kept as
 * they are. */
struct rename {
    const char *from, *to;
    enum conv_rows rows;
};

struct family {
    const char *model_type; /* config.json's model_type */
    const char *arch;       /* general.architecture */
    const struct rename *names;
    int (*params)(struct hf *h, struct gguf_writer *w, struct err *e);
    const char *activation; /* what the model computes when config.json does not say; NULL: it must say */
    bool unpermute;         /* rotary pairs are neighbours in GGUF, halves in the checkpoint */
};

static const struct rename llama_names[] = {
    {"model.embed_tokens", "token_embd", CONV_SAME},
    {"model.norm", "output_norm", CONV_SAME},
    {"lm_head", "output", CONV_SAME},
    {"model.layers.#.input_layernorm", "blk.#.attn_norm", CONV_SAME},
    {"model.layers.#.self_attn.q_proj", "blk.#.attn_q", CONV_UNPERMUTE},
    {"model.layers.#.self_attn.k_proj", "blk.#.attn_k", CONV_UNPERMUTE},
    {"model.layers.#.self_attn.v_proj", "blk.#.attn_v", CONV_SAME},
    {"model.layers.#.self_attn.o_proj", "blk.#.attn_output", CONV_SAME},
    {"model.layers.#.post_attention_layernorm", "blk.#.ffn_norm", CONV_SAME},
    {"model.layers.#.mlp.gate_proj", "blk.#.ffn_gate", CONV_SAME},
    {"model.layers.#.mlp.up_proj", "blk.#.ffn_up", CONV_SAME},
    {"model.layers.#.mlp.down_proj", "blk.#.ffn_down", CONV_SAME},
    {NULL, NULL, CONV_SAME},
};

static const struct rename opt_names[] = {
    {"decoder.embed_tokens", "token_embd", CONV_SAME},
    {"decoder.embed_positions", "position_embd", CONV_SAME},
    {"decoder.final_layer_norm", "output_norm", CONV_SAME},
    {"lm_head", "output", CONV_SAME},
    {"decoder.layers.#.self_attn_layer_norm", "blk.#.attn_norm", CONV_SAME},
    {"decoder.layers.#.self_attn.q_proj", "blk.#.attn_q", CONV_SAME},
    {"decoder.layers.#.self_attn.k_proj", "blk.#.attn_k", CONV_SAME},
    {"decoder.layers.#.self_attn.v_proj", "blk.#.attn_v", CONV_SAME},
    {"decoder.layers.#.self_attn.out_proj", "blk.#.attn_output", CONV_SAME},
    {"decoder.layers.#.final_layer_norm", "blk.#.ffn_norm", CONV_SAME},
    {"decoder.layers.#.fc1", "blk.#.ffn_up", CONV_SAME},
    {"decoder.layers.#.fc2", "blk.#.ffn_down", CONV_SAME},
    {NULL, NULL, CONV_SAME},
};

static const struct rename falcon_names[] = {
    {"transformer.word_embeddings", "token_embd", CONV_SAME},
    {"transformer.ln_f", "output_norm", CONV_SAME},
    {"lm_head", "output", CONV_SAME},
    {"transformer.h.#.input_layernorm", "blk.#.attn_norm", CONV_SAME},
    {"transformer.h.#.ln_mlp", "blk.#.attn_norm", CONV_SAME},
    {"transformer.h.#.ln_attn", "blk.#.attn_norm_2", CONV_SAME},
    {"transformer.h.#.self_attention.query_key_value", "blk.#.attn_qkv", CONV_SPLIT_QKV},
    {"transformer.h.#.self_attention.dense", "blk.#.attn_output", CONV_SAME},
    {"transformer.h.#.mlp.dense_h_to_4h", "blk.#.ffn_up", CONV_SAME},
    {"transformer.h.#.mlp.dense_4h_to_h", "blk.#.ffn_down", CONV_SAME},
    {NULL, NULL, CONV_SAME},
};

static int params_llama(struct hf *h, struct gguf_writer *w, struct err *e);
static int params_minicpm(struct hf *h, struct gguf_writer *w, struct err *e);
static int params_opt(struct hf *h, struct gguf_writer *w, struct err *e);
static int params_falcon(struct hf *h, struct gguf_writer *w, struct err *e);

static const struct family families[] = {
    {"llama", "llama", llama_names, params_llama, "silu", true},
    {"mistral", "llama", llama_names, params_llama, "silu", true},
    {"qwen2", "qwen2", llama_names, params_llama, "silu", false},
    {"sparsellama", "llama", llama_names, params_llama, NULL, true},
    {"minicpm", "minicpm", llama_names, params_minicpm, "silu", true},
    {"bamboo", "bamboo", llama_names, params_llama, "drelu", true},
    {"opt", "opt", opt_names, params_opt, "relu", false},
    {"falcon", "falcon", falcon_names, params_falcon, "gelu", false},
    {"RefinedWebModel", "falcon", falcon_names, params_falcon, "gelu", false},
    {"RefinedWeb", "falcon", falcon_names, params_falcon, "gelu", false},
};

/* ---- config.json ---- */

static const json_t *get(const struct hf *h, const char *key)
{
    const json_t *v = json_object_get(h->config, key);
    return json_is_null(v) ? NULL : v;
}

/* A count in [1, max]; with a fallback (0: required). Two spellings, because families renamed their keys. */
static int get_count(const struct hf *h, const char *key, const char *old, uint32_t fallback, uint32_t max,
                     uint32_t *out, struct err *e)
{
    const json_t *v = get(h, key);
    if (!v && old) v = get(h, old);
    if (!v && fallback) {
        *out = fallback;
        return 0;
    }
    if (!v) return err_set(e, ERR_FORMAT, "%s/config.json: key '%s' is missing", h->dir, key);
    if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > max)
        return err_set(e, ERR_FORMAT, "%s/config.json: '%s' must be a whole number from 1 to %u", h->dir, key,
                       max);
    *out = (uint32_t)json_integer_value(v);
    return 0;
}

static int get_number(const struct hf *h, const json_t *from, const char *key, double fallback, double *out,
                      struct err *e)
{
    const json_t *v = json_object_get(from, key);
    if (!v || json_is_null(v)) {
        if (isnan(fallback))
            return err_set(e, ERR_FORMAT, "%s/config.json: key '%s' is missing", h->dir, key);
        *out = fallback;
        return 0;
    }
    if (!json_is_number(v) || !isfinite(json_number_value(v)))
        return err_set(e, ERR_FORMAT, "%s/config.json: '%s' must be a number", h->dir, key);
    *out = json_number_value(v);
    return 0;
}

static bool get_flag(const struct hf *h, const char *key, bool fallback)
{
    const json_t *v = get(h, key);
    return v ? json_is_true(v) : fallback;
}

static const char *get_text(const struct hf *h, const char *key)
{
    const json_t *v = get(h, key);
    return json_is_string(v) ? json_string_value(v) : NULL;
}

/* "<arch>.<suffix>" in a static-size buffer of the caller. */
static const char *arch_key(const struct hf *h, const char *suffix, char buf[96])
{
    snprintf(buf, 96, "%s.%s", h->family->arch, suffix);
    return buf;
}

static int put_u32(const struct hf *h, struct gguf_writer *w, const char *suffix, uint32_t v, struct err *e)
{
    char key[96];
    return gguf_put_u32(w, arch_key(h, suffix, key), v, e);
}

static int put_f32(const struct hf *h, struct gguf_writer *w, const char *suffix, double v, struct err *e)
{
    char key[96];
    return gguf_put_f32(w, arch_key(h, suffix, key), (float)v, e);
}

/* The keys every family has. */
static int params_shape(struct hf *h, struct gguf_writer *w, struct err *e)
{
    int rc = put_u32(h, w, "context_length", h->context, e);
    rc = rc ? rc : put_u32(h, w, "embedding_length", h->d, e);
    rc = rc ? rc : put_u32(h, w, "block_count", h->layers, e);
    rc = rc ? rc : put_u32(h, w, "feed_forward_length", h->f, e);
    rc = rc ? rc : put_u32(h, w, "attention.head_count", h->heads, e);
    rc = rc ? rc : put_u32(h, w, "attention.head_count_kv", h->kv, e);
    return rc ? rc : put_u32(h, w, "vocab_size", h->vocab, e);
}

static int params_rope(struct hf *h, struct gguf_writer *w, struct err *e)
{
    /* Newer configs keep theta and scaling together under rope_parameters. */
    const json_t *params = get(h, "rope_parameters");
    double theta = 0;
    int rc = get_number(h, params && json_object_get(params, "rope_theta") ? params : h->config, "rope_theta",
                        10000, &theta, e);
    rc = rc ? rc : put_f32(h, w, "rope.freq_base", theta, e);
    rc = rc ? rc : put_u32(h, w, "rope.dimension_count", h->head_dim, e);
    const json_t *scaling = get(h, "rope_scaling");
    if (!scaling) scaling = params;
    if (rc || !scaling) return rc;
    const json_t *type = json_object_get(scaling, "rope_type");
    if (!json_is_string(type)) type = json_object_get(scaling, "type");
    const char *name = json_is_string(type) ? json_string_value(type) : "default";
    char key[96];
    double factor = 1;
    if (strcmp(name, "default") == 0 ||
        strcmp(name, "llama3") == 0) /* llama3 becomes the tensor rope_freqs */
        return 0;
    if (strcmp(name, "linear") != 0 && strcmp(name, "yarn") != 0)
        return err_set(
            e, ERR_UNSUPPORTED,
            "%s/config.json: rope scaling '%s' is not supported (default, linear, yarn and llama3 are)",
            h->dir, name);
    rc = get_number(h, scaling, "factor", NAN, &factor, e);
    rc = rc ? rc : gguf_put_str(w, arch_key(h, "rope.scaling.type", key), name, e);
    rc = rc ? rc : put_f32(h, w, "rope.scaling.factor", factor, e);
    if (rc || strcmp(name, "yarn") != 0) return rc;
    double original = 0, v = 0;
    rc = get_number(h, scaling, "original_max_position_embeddings", h->context, &original, e);
    if (rc == 0 && !(original >= 1 && original <= 1 << 30 && factor > 0))
        rc = err_set(e, ERR_FORMAT,
                     "%s/config.json: YaRN needs factor > 0 and an original context of 1 to 2^30 tokens",
                     h->dir);
    rc = rc ? rc : put_u32(h, w, "rope.scaling.original_context_length", (uint32_t)original, e);
    /* transformers' attention_factor is the whole magnitude, GGUF's multiplies YaRN's own 1 + 0.1 ln(factor).
     */
    double own = factor > 1 ? 1 + 0.1 * log(factor) : 1;
    static const char *const extra[][2] = {{"attention_factor", "rope.scaling.attn_factor"},
                                           {"beta_fast", "rope.scaling.yarn_beta_fast"},
                                           {"beta_slow", "rope.scaling.yarn_beta_slow"}};
    for (size_t i = 0; rc == 0 && i < 3; i++) {
        if (!json_is_number(json_object_get(scaling, extra[i][0]))) continue;
        rc = get_number(h, scaling, extra[i][0], 1, &v, e);
        rc = rc ? rc : put_f32(h, w, extra[i][1], i == 0 ? v / own : v, e);
    }
    return rc;
}

static int params_llama(struct hf *h, struct gguf_writer *w, struct err *e)
{
    if (get(h, "num_local_experts") || get(h, "num_experts"))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s/config.json describes a mixture of experts, which is not supported", h->dir);
    double eps = 0;
    int rc = params_shape(h, w, e);
    rc = rc ? rc : get_number(h, h->config, "rms_norm_eps", 1e-5, &eps, e);
    rc = rc ? rc : put_f32(h, w, "attention.layer_norm_rms_epsilon", eps, e);
    if (rc == 0 && h->head_dim != h->d / h->heads) {
        rc = put_u32(h, w, "attention.key_length", h->head_dim, e);
        rc = rc ? rc : put_u32(h, w, "attention.value_length", h->head_dim, e);
    }
    const json_t *window = get(h, "sliding_window");
    bool used = get_flag(h, "use_sliding_window", strcmp(h->family->model_type, "mistral") == 0);
    if (rc == 0 && used && json_is_integer(window) && json_integer_value(window) > 0 &&
        json_integer_value(window) < h->context) {
        if (strcmp(h->family->arch, "llama") != 0 && strcmp(h->family->arch, "bamboo") != 0)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s/config.json: sliding_window %lld with a '%s' model is not supported", h->dir,
                           (long long)json_integer_value(window), h->family->model_type);
        rc = put_u32(h, w, "attention.sliding_window", (uint32_t)json_integer_value(window), e);
    }
    return rc ? rc : params_rope(h, w, e);
}

static int params_minicpm(struct hf *h, struct gguf_writer *w, struct err *e)
{
    double emb = 0, depth = 0, base = 0;
    int rc = params_llama(h, w, e);
    rc = rc ? rc : get_number(h, h->config, "scale_emb", 1, &emb, e);
    rc = rc ? rc : get_number(h, h->config, "scale_depth", sqrt(h->layers), &depth, e);
    rc = rc ? rc : get_number(h, h->config, "dim_model_base", h->d, &base, e);
    if (rc == 0 && !(base > 0))
        rc = err_set(e, ERR_FORMAT, "%s/config.json: 'dim_model_base' must be positive", h->dir);
    rc = rc ? rc : put_f32(h, w, "embedding_scale", emb, e);
    rc = rc ? rc : put_f32(h, w, "residual_scale", depth / sqrt(h->layers), e);
    return rc ? rc : put_f32(h, w, "logit_scale", h->d / base, e);
}

static int params_opt(struct hf *h, struct gguf_writer *w, struct err *e)
{
    if (!get_flag(h, "do_layer_norm_before", true))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s/config.json: OPT with do_layer_norm_before false (the 350m) is not supported",
                       h->dir);
    uint32_t proj = 0;
    int rc = get_count(h, "word_embed_proj_dim", NULL, h->d, 1u << 20, &proj, e);
    if (rc == 0 && proj != h->d)
        rc = err_set(e, ERR_UNSUPPORTED,
                     "%s/config.json: word_embed_proj_dim %u differs from hidden_size %u: not supported",
                     h->dir, proj, h->d);
    rc = rc ? rc : params_shape(h, w, e);
    return rc ? rc : put_f32(h, w, "attention.layer_norm_epsilon", 1e-5, e);
}

static int params_falcon(struct hf *h, struct gguf_writer *w, struct err *e)
{
    bool fresh = get_flag(h, "new_decoder_architecture", false);
    if (get_flag(h, "alibi", false))
        return err_set(e, ERR_UNSUPPORTED, "%s/config.json: Falcon with alibi positions is not supported",
                       h->dir);
    if (!fresh && !get_flag(h, "parallel_attn", true))
        return err_set(e, ERR_UNSUPPORTED, "%s/config.json: Falcon without parallel_attn is not supported",
                       h->dir);
    int rc = 0;
    if (fresh)
        rc = get_count(h, "num_kv_heads", "n_head_kv", h->heads, h->heads, &h->kv, e);
    else
        h->kv = get_flag(h, "multi_query", true) ? 1 : h->heads;
    double eps = 0;
    rc = rc ? rc : params_shape(h, w, e);
    rc = rc ? rc
            : gguf_put_str(w, "falcon.tensor_data_layout", "jploski",
                           e); /* rows of attn_qkv: all q, all k, all v */
    rc = rc ? rc : get_number(h, h->config, "layer_norm_epsilon", 1e-5, &eps, e);
    rc = rc ? rc : put_f32(h, w, "attention.layer_norm_epsilon", eps, e);
    return rc ? rc : params_rope(h, w, e);
}

/* The activation as the engine spells it. ReLU variants and their threshold are spelled in several ways by
 * checkpoints. */
static int put_activation(struct hf *h, struct gguf_writer *w, const char *override, struct err *e)
{
    char key[96], name[32];
    double param = NAN;
    const char *act = override;
    if (!act && strcmp(h->family->model_type, "bamboo") == 0)
        act = "drelu"; /* its config says relu, its code applies it to gate and up */
    if (!act) act = get_text(h, "hidden_act");
    if (!act) act = get_text(h, "activation_function");
    if (!act) act = get_text(h, "activation");
    if (!act) act = h->family->activation;
    if (!act)
        return err_set(e, ERR_FORMAT,
                       "%s/config.json does not name an activation (hidden_act): give --activation", h->dir);
    struct activation known;
    int rc = get_number(h, h->config, "hidden_act_param", NAN, &param, NULL);
    if (rc) param = NAN; /* only FATReLU needs it, and says so */
    rc = activation_parse(&known, act, strlen(act), (float)param, e);
    if (rc) return err_prefix(e, rc, "%s", override ? "--activation" : h->dir);
    snprintf(name, sizeof name, "%s", known.name);
    char *colon = strchr(name, ':');
    if (colon) *colon = 0; /* the threshold has a key of its own */
    rc = gguf_put_str(w, arch_key(h, "hidden_activation", key), name, e);
    if (rc || known.kind != KERN_FATRELU) return rc;
    return put_f32(h, w, "hidden_activation_param", (double)known.param, e);
}

/* ---- tensors ---- */

/* Matches `name` (without suffix) against a pattern with '#'; true and *layer on success. */
static bool match(const char *pattern, const char *name, size_t n, uint32_t *layer)
{
    const char *end = name + n;
    for (; *pattern; pattern++) {
        if (*pattern != '#') {
            if (name == end || *name++ != *pattern) return false;
            continue;
        }
        uint64_t v = 0;
        const char *digits = name;
        while (name < end && *name >= '0' && *name <= '9' && name - digits < 9)
            v = v * 10 + (uint64_t)(*name++ - '0');
        if (name == digits) return false;
        *layer = (uint32_t)v;
    }
    return name == end;
}

/* Tensors some checkpoints carry that nobody needs. */
static bool ignored(const char *name)
{
    static const char *const tails[] = {"rotary_emb.inv_freq", "attn.bias", "attn.masked_bias",
                                        "self_attention.rotary_emb.inv_freq"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t t = strlen(tails[i]);
        if (n >= t && strcmp(name + n - t, tails[i]) == 0) return true;
    }
    return false;
}

static int add_tensor(struct hf *h, const struct st_tensor *st, enum dtype want, struct conv_list *l,
                      struct err *e)
{
    const char *name = st->name;
    if (h->family->names == opt_names && strncmp(name, "model.", 6) == 0) name += 6;
    const char *dot = strrchr(name, '.');
    const char *suffix =
        dot && (strcmp(dot, ".weight") == 0 || strcmp(dot, ".bias") == 0) ? dot : name + strlen(name);
    uint32_t layer = 0;
    const struct rename *r = h->family->names;
    while (r->from && !match(r->from, name, (size_t)(suffix - name), &layer)) r++;
    if (!r->from) {
        if (ignored(name)) return 0;
        return err_set(e, ERR_UNSUPPORTED,
                       "tensor '%s' is not one a '%s' model has: this variant is not supported", st->name,
                       h->family->model_type);
    }
    if (strchr(r->from, '#') && layer >= h->layers)
        return err_set(e, ERR_FORMAT, "tensor '%s' is of layer %u, but config.json says num_hidden_layers %u",
                       st->name, layer, h->layers);
    if (h->tied && strcmp(r->to, "output") == 0) return 0; /* a copy of the embedding */
    enum dtype type;
    if (st->dtype != ST_F64 && (!st_dtype_model(st->dtype, &type) || !dtype_info(type)->weights))
        return err_set(e, ERR_UNSUPPORTED, "tensor '%s' has type %s: F32, F16, BF16 and F64 are converted",
                       st->name, st_dtype_name(st->dtype));
    if (st->elements == 0) return err_set(e, ERR_FORMAT, "tensor '%s' is empty", st->name);
    if (st->n_dims < 1 || st->n_dims > 2)
        return err_set(e, ERR_FORMAT, "tensor '%s' has %d dimensions: expected 1 or 2", st->name, st->n_dims);
    struct conv_tensor *t = conv_add(l, e);
    if (!t) return ERR_NOMEM;
    const char *hash = strchr(r->to, '#');
    if (hash)
        snprintf(t->name, sizeof t->name, "%.*s%u%s%s", (int)(hash - r->to), r->to, layer, hash + 1, suffix);
    else
        snprintf(t->name, sizeof t->name, "%s%s", r->to, suffix);
    t->n_dims = st->n_dims;
    for (int i = 0; i < 4; i++) t->ne[i] = i < st->n_dims ? st->shape[st->n_dims - 1 - i] : 1;
    t->st = st;
    t->type = conv_pick_type(t->name, t->n_dims, t->ne, want, h->tied);
    t->rows = r->rows == CONV_UNPERMUTE && !h->family->unpermute ? CONV_SAME : r->rows;
    t->head_dim = h->head_dim;
    t->heads = h->heads;
    t->kv_heads = h->kv;
    if (t->rows == CONV_SAME) return 0;
    uint64_t rows = t->n_dims == 1 ? t->ne[0] : t->ne[1], unit = h->head_dim;
    bool fits = t->rows == CONV_UNPERMUTE ? rows % unit == 0 && unit % 2 == 0
                                          : rows == (uint64_t)(h->heads + 2 * h->kv) * unit;
    if (!fits)
        return err_set(e, ERR_FORMAT, "tensor '%s' has %llu rows, which heads of %u values don't divide",
                       st->name, (unsigned long long)rows, h->head_dim);
    return 0;
}

/* A tensor's name in the new file as the checkpoint has it: where several lead there, the first. */
static void source_name(const struct hf *h, const char *name, char *out, size_t cap)
{
    const char *suffix = strrchr(name, '.');
    for (const struct rename *r = h->family->names; r->from; r++) {
        uint32_t layer = 0;
        if (!match(r->to, name, (size_t)(suffix - name), &layer)) continue;
        const char *hash = strchr(r->from, '#');
        if (hash)
            snprintf(out, cap, "%.*s%u%s%s", (int)(hash - r->from), r->from, layer, hash + 1, suffix);
        else
            snprintf(out, cap, "%s%s", r->from, suffix);
        return;
    }
    snprintf(out, cap, "%s", name);
}

static int check_complete(const struct hf *h, const struct conv_list *l, struct err *e)
{
    char missing[CONV_NAME], name[2 * CONV_NAME];
    const char *arch = h->family->arch;
    const struct conv_expect x = {.arch = arch_find(arch, strlen(arch)),
                                  .layers = h->layers,
                                  .tied = h->tied,
                                  .qkv_bias = strcmp(h->family->model_type, "qwen2") == 0,
                                  .one_qkv = h->family->names == falcon_names};
    int rc = conv_find_missing(l, &x, missing, e);
    if (rc || !*missing) return rc;
    source_name(h, missing, name, sizeof name);
    return err_set(
        e, ERR_FORMAT,
        "'%s' has no tensor '%s': expected it in a '%s' model of %u layers (is the checkpoint complete?)",
        h->dir, name, h->family->model_type, h->layers);
}

/* llama3's rope scaling as per-pair frequency divisors: the tensor rope_freqs.weight (Llama 3.1 release,
 * "apply_scaling"). */
static int add_rope_freqs(struct hf *h, struct conv_list *l, struct err *e)
{
    const json_t *s = get(h, "rope_scaling");
    if (!s) s = get(h, "rope_parameters");
    const json_t *type = s ? json_object_get(s, "rope_type") : NULL;
    if (!json_is_string(type)) type = s ? json_object_get(s, "type") : NULL;
    if (!json_is_string(type) || strcmp(json_string_value(type), "llama3") != 0) return 0;
    const json_t *params = get(h, "rope_parameters");
    double base = 0, factor = 0, low = 0, high = 0, original = 0;
    int rc = get_number(h, params && json_object_get(params, "rope_theta") ? params : h->config, "rope_theta",
                        10000, &base, e);
    rc = rc ? rc : get_number(h, s, "factor", 8, &factor, e);
    rc = rc ? rc : get_number(h, s, "low_freq_factor", 1, &low, e);
    rc = rc ? rc : get_number(h, s, "high_freq_factor", 4, &high, e);
    rc = rc ? rc : get_number(h, s, "original_max_position_embeddings", 8192, &original, e);
    if (rc) return rc;
    if (!(factor > 0 && low > 0 && high > low && original > 0))
        return err_set(
            e, ERR_FORMAT,
            "%s/config.json: rope_scaling needs factor > 0 and high_freq_factor > low_freq_factor > 0",
            h->dir);
    uint32_t n = h->head_dim / 2;
    float *v = malloc(n * sizeof *v);
    struct conv_tensor *t = v ? conv_add(l, e) : NULL;
    if (!t) {
        free(v);
        return err_set(e, ERR_NOMEM, "no memory for the rope frequencies");
    }
    l->owned[l->n_owned++] = v;
    for (uint32_t i = 0; i < n; i++) {
        double freq = 1.0 / pow(base, 2.0 * i / h->head_dim), length = 2 * 3.14159265358979323846 / freq;
        if (length < original / high)
            v[i] = 1;
        else if (length > original / low)
            v[i] = (float)factor;
        else {
            double smooth = (original / length - low) / (high - low);
            v[i] = (float)(1.0 / ((1 - smooth) / factor + smooth));
        }
    }
    snprintf(t->name, sizeof t->name, "rope_freqs.weight");
    t->n_dims = 1;
    t->ne[0] = n;
    t->ne[1] = t->ne[2] = t->ne[3] = 1;
    t->type = DT_F32;
    t->values = v;
    return 0;
}

/* Reads the shape common to all families and finds the family. */
static int read_shape(struct hf *h, struct err *e)
{
    const char *type = get_text(h, "model_type");
    if (!type) return err_set(e, ERR_FORMAT, "%s/config.json: key 'model_type' is missing", h->dir);
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (strcmp(families[i].model_type, type) == 0) h->family = &families[i];
    if (!h->family)
        return err_set(e, ERR_UNSUPPORTED,
                       "%s/config.json: model_type '%s' is not supported (llama, mistral, qwen2, "
                       "sparsellama, minicpm, bamboo, "
                       "opt, falcon are)",
                       h->dir, type);
    int rc = get_count(h, "hidden_size", "n_embed", 0, 1u << 20, &h->d, e);
    rc = rc ? rc : get_count(h, "num_hidden_layers", "n_layer", 0, 4096, &h->layers, e);
    rc = rc ? rc : get_count(h, "num_attention_heads", "n_head", 0, 65536, &h->heads, e);
    rc = rc ? rc : get_count(h, "vocab_size", NULL, 0, 1u << 28, &h->vocab, e);
    if (rc) return rc;
    bool falcon = strcmp(h->family->arch, "falcon") == 0;
    uint32_t ffn_default = falcon ? 4 * h->d : 0, ctx_default = falcon ? 2048 : 0;
    rc =
        get_count(h, "intermediate_size", strcmp(h->family->arch, "opt") == 0 ? "ffn_dim" : "ffn_hidden_size",
                  ffn_default, 1u << 24, &h->f, e);
    rc = rc ? rc : get_count(h, "max_position_embeddings", NULL, ctx_default, 1u << 30, &h->context, e);
    rc = rc ? rc : get_count(h, "num_key_value_heads", NULL, h->heads, h->heads, &h->kv, e);
    if (rc) return rc;
    if (!get(h, "head_dim") && h->d % h->heads != 0)
        return err_set(e, ERR_FORMAT,
                       "%s/config.json: hidden_size %u is not a multiple of num_attention_heads %u", h->dir,
                       h->d, h->heads);
    rc = get_count(h, "head_dim", NULL, h->d / h->heads ? h->d / h->heads : 1, 65536, &h->head_dim, e);
    if (rc == 0 && h->heads % h->kv != 0)
        rc = err_set(e, ERR_FORMAT,
                     "%s/config.json: num_key_value_heads %u does not divide num_attention_heads %u", h->dir,
                     h->kv, h->heads);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    /* Layers in numeric order, so that a file reads front to back in the order it is used. */
    const struct conv_tensor *x = a, *y = b;
    unsigned i = 0, j = 0;
    bool bx = sscanf(x->name, "blk.%u.", &i) == 1, by = sscanf(y->name, "blk.%u.", &j) == 1;
    if (bx != by) /* embedding first, blocks, then output */
        return (bx                                   ? 1
                : strncmp(x->name, "output", 6) == 0 ? 2
                                                     : 0) -
               (by                                   ? 1
                : strncmp(y->name, "output", 6) == 0 ? 2
                                                     : 0);
    if (bx && i != j) return i < j ? -1 : 1;
    return strcmp(x->name, y->name);
}

int convert_hf_plan(const char *dir, const struct safetensors *st, enum dtype want, const char *activation,
                    struct conv_list *l, struct gguf_writer *w, struct err *e)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *config = NULL;
    int rc = json_text_read(&config, path, CONFIG_LIMIT, JSON_TEXT_DEPTH, e);
    if (rc) return rc;
    struct hf h = {.dir = dir, .config = config};
    rc = read_shape(&h, e);
    /* Families differ in what a missing key means; the checkpoint does not. */
    h.tied = get_flag(&h, "tie_word_embeddings", !safetensors_find(st, "lm_head.weight"));
    const char *name = rc ? NULL : get_text(&h, "_name_or_path");
    if (!name || !*name) {
        const char *slash = strrchr(dir, '/');
        name = slash && slash[1] ? slash + 1 : dir;
    }
    rc = rc ? rc : gguf_put_str(w, "general.architecture", h.family->arch, e);
    rc = rc ? rc : gguf_put_str(w, "general.name", name, e);
    rc = rc ? rc : gguf_put_u32(w, "general.quantization_version", 2, e);
    rc = rc ? rc : h.family->params(&h, w, e);
    rc = rc ? rc : put_activation(&h, w, activation, e);
    uint64_t embedding_rows = 0;
    for (int64_t i = 0; rc == 0 && i < safetensors_n(st); i++)
        rc = add_tensor(&h, safetensors_tensor(st, i), want, l, e);
    rc = rc ? rc : add_rope_freqs(&h, l, e);
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->t[i].name, "token_embd.weight") == 0) embedding_rows = l->t[i].ne[1];
    rc = rc ? rc : check_complete(&h, l, e);
    if (rc == 0 && embedding_rows != h.vocab)
        rc = err_set(e, ERR_FORMAT, "%s/config.json: vocab_size is %u, but the token embedding has %llu rows",
                     dir, h.vocab, (unsigned long long)embedding_rows);
    rc = rc ? rc : convert_tokenizer(dir, (uint32_t)embedding_rows, w, e);
    if (rc == 0) qsort(l->t, l->n, sizeof *l->t, by_name);
    json_decref(config);
    return rc;
}
