/* Metadata of synthetic models: hyperparameters, and a SentencePiece vocabulary that encodes any text. */
#include "engine/synth.h"

#include "base/err.h"
#include "engine/activation.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Token types of tokenizer.ggml.token_type. */
enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, BYTE = 6 };
enum { FIRST_PIECE = 3 + 256, PIECE_LEN = 24 };

struct vocab {
    char (*text)[PIECE_LEN];
    struct gguf_str *token;
    float *score;
    int32_t *type;
    uint32_t n, cap;
};

static void piece(struct vocab *v, const char *text, int type)
{
    if (v->n == v->cap) return;
    snprintf(v->text[v->n], PIECE_LEN, "%s", text);
    v->token[v->n] = (struct gguf_str){v->text[v->n], strlen(v->text[v->n])};
    /* SentencePiece merges the pair whose union has the highest score: earlier pieces first. */
    v->score[v->n] = type == NORMAL ? -(float)(v->n - FIRST_PIECE) : 0;
    v->type[v->n] = type;
    v->n++;
}

/* All strings of `len` letters in order, each after `prefix`. */
static void letters(struct vocab *v, const char *prefix, int len)
{
    char word[8] = "aaaaaaa", text[PIECE_LEN];
    while (v->n < v->cap) {
        snprintf(text, sizeof text, "%s%.*s", prefix, len, word);
        piece(v, text, NORMAL);
        int i = len - 1;
        while (i >= 0 && word[i] == 'z') word[i--] = 'a';
        if (i < 0) return;
        word[i]++;
    }
}

/* Unknown, begin, end, the 256 bytes, then pieces by length: every piece's own beginning is a piece, so all
 * can be reached by merging. */
static void fill(struct vocab *v)
{
    char text[PIECE_LEN];
    piece(v, "<unk>", UNKNOWN);
    piece(v, "<s>", CONTROL);
    piece(v, "</s>", CONTROL);
    for (int b = 0; b < 256; b++) {
        snprintf(text, sizeof text, "<0x%02X>", b);
        piece(v, text, BYTE);
    }
    piece(v, "\xe2\x96\x81", NORMAL); /* ▁, the blank */
    for (int c = '!'; c <= '~'; c++) piece(v, (char[]){(char)c, 0}, NORMAL);
    for (int len = 1; len <= 7 && v->n < v->cap; len++) {
        if (len > 1) letters(v, "", len);
        letters(v, "\xe2\x96\x81", len);
    }
}

static int put_tokenizer(struct gguf_writer *w, uint32_t n, struct err *e)
{
    struct vocab v = {.cap = n};
    int rc = ERR_NOMEM;
    v.text = calloc(n, sizeof *v.text);
    v.token = calloc(n, sizeof *v.token);
    v.score = calloc(n, sizeof *v.score);
    v.type = calloc(n, sizeof *v.type);
    if (!v.text || !v.token || !v.score || !v.type) {
        err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", n);
        goto out;
    }
    fill(&v);
    if ((rc = gguf_put_str(w, "tokenizer.ggml.model", "llama", e))) goto out;
    if ((rc = gguf_put_str(w, "tokenizer.ggml.pre", "default", e))) goto out;
    if ((rc = gguf_put_strs(w, "tokenizer.ggml.tokens", v.token, n, e))) goto out;
    if ((rc = gguf_put_arr(w, "tokenizer.ggml.scores", GGUF_F32, v.score, n, e))) goto out;
    if ((rc = gguf_put_arr(w, "tokenizer.ggml.token_type", GGUF_I32, v.type, n, e))) goto out;
    if ((rc = gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 1, e))) goto out;
    if ((rc = gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 2, e))) goto out;
    if ((rc = gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", 0, e))) goto out;
    if ((rc = gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true, e))) goto out;
    rc = gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false, e);
out:
    free(v.text);
    free(v.token);
    free(v.score);
    free(v.type);
    return rc;
}

/* llama.cpp's number for a file of mostly this type. */
static uint32_t file_type(enum dtype t)
{
    switch (t) {
    case DT_F32: return 0;
    case DT_F16: return 1;
    case DT_Q4_0: return 2;
    case DT_Q8_0: return 7;
    case DT_Q4_K: return 14;
    case DT_Q5_K: return 16;
    case DT_Q6_K: return 18;
    case DT_BF16: return 32;
    default: return 1024; /* "guessed" */
    }
}

const char *synth_activation(const struct synth_settings *s)
{
    if (s->activation) return s->activation;
    if (s->stats.sparsity != 0) return "relu";
    return strcmp(s->shape.arch, "falcon") == 0 ? "gelu" : "silu";
}

static int put_activation(struct gguf_writer *w, const struct synth_settings *s, struct err *e)
{
    const char *arch = s->shape.arch;
    const char *text = synth_activation(s);
    struct activation act;
    int rc = activation_parse(&act, text, strlen(text), NAN, e);
    if (rc) return rc;
    if (act.kind == KERN_DRELU && strcmp(arch, "falcon") == 0)
        return err_set(e, ERR_ARG, "drelu needs a gated FFN: falcon has none");
    /* The file has the name and its number apart. */
    char key[64];
    act.name[strcspn(act.name, ":")] = 0;
    snprintf(key, sizeof key, "%s.hidden_activation", arch);
    if ((rc = gguf_put_str(w, key, act.name, e)) || act.kind != KERN_FATRELU) return rc;
    snprintf(key, sizeof key, "%s.hidden_activation_param", arch);
    return gguf_put_f32(w, key, act.param, e);
}

int synth_put_metadata(struct gguf_writer *w, const struct synth_settings *s, struct err *e)
{
    const struct synth_shape *h = &s->shape;
    bool falcon = strcmp(h->arch, "falcon") == 0;
    char text[128], key[64];
    int rc;
    snprintf(text, sizeof text, "synthetic %s %s", h->name, dtype_name(s->type));
    if ((rc = gguf_put_str(w, "general.architecture", h->arch, e))) return rc;
    if ((rc = gguf_put_str(w, "general.name", text, e))) return rc;
    if ((rc = gguf_put_u32(w, "general.file_type", file_type(s->type), e))) return rc;
    if ((rc = gguf_put_u32(w, "general.quantization_version", 2, e))) return rc;
    const struct {
        const char *key;
        uint32_t value;
    } u32[] = {
        {"context_length", h->ctx},
        {"embedding_length", h->d},
        {"block_count", h->layers},
        {"feed_forward_length", h->f},
        {"attention.head_count", h->heads},
        {"attention.head_count_kv", h->kv},
        {"rope.dimension_count", h->d / h->heads},
        {"vocab_size", h->vocab},
    };
    for (size_t i = 0; i < sizeof u32 / sizeof *u32; i++) {
        snprintf(key, sizeof key, "%s.%s", h->arch, u32[i].key);
        if ((rc = gguf_put_u32(w, key, u32[i].value, e))) return rc;
    }
    snprintf(key, sizeof key, "%s.attention.layer_norm_%sepsilon", h->arch, falcon ? "" : "rms_");
    if ((rc = gguf_put_f32(w, key, 1e-5f, e))) return rc;
    snprintf(key, sizeof key, "%s.rope.freq_base", h->arch);
    if ((rc = gguf_put_f32(w, key, 10000, e))) return rc;
    if ((rc = put_activation(w, s, e))) return rc;
    return put_tokenizer(w, h->vocab, e);
}
