/* Calor: large language models with silent neurons on small machines. The library's public interface, and the
 * only header that is installed.
 *
 * A `calor_model` is a loaded model: immutable, shared by any number of sessions and threads. A
 * `calor_session` is one timeline of tokens with its KV cache: one thread at a time. Functions return 0 or a
 * negative CALOR_E…; those that take (err, errlen) write one sentence for people there, always NUL-terminated
 * (err may be NULL).
 *
 *     char err[512];
 *     calor_model *m;
 *     calor_model_settings ms = calor_model_default();
 *     if (calor_model_open(&m, "model.gguf", &ms, err, sizeof err)) …
 *     calor_session *s;
 *     calor_session_settings ss = calor_session_default();
 *     if (calor_session_open(&s, m, &ss, err, sizeof err)) …
 *     int32_t ids[64]; size_t n;
 *     calor_tokenize(m, "Once upon a time", 16, CALOR_TOK_BOS, ids, 64, &n, err, sizeof err);
 *     calor_eval(s, ids, n, err, sizeof err);
 *     calor_sampler sp = calor_sampler_default();
 *     int32_t id = calor_sample(s, &sp, err, sizeof err);
 */
#ifndef CALOR_H
#define CALOR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CALOR_API __attribute__((visibility("default")))
#else
#define CALOR_API
#endif

enum {
    CALOR_OK = 0,
    CALOR_ENOMEM = -1,       /* memory or a budget is exhausted */
    CALOR_EIO = -2,          /* the operating system refused a read, write or open */
    CALOR_EFORMAT = -3,      /* a file's bytes are not what its format says */
    CALOR_EUNSUPPORTED = -4, /* well-formed, but not something Calor runs */
    CALOR_EARG = -5,         /* a parameter is wrong */
    CALOR_ESTALE = -6,       /* inputs that don't belong together */
    CALOR_EFULL = -7,        /* the context has no room for more tokens */
    CALOR_ECANCELLED = -8,   /* calor_cancel was called */
    CALOR_ENUMERIC = -9,     /* NaN or infinity in the model's output */
    CALOR_EDEVICE = -10,     /* an accelerator failed */
    CALOR_ESTATE = -11,      /* called in the wrong order */
};

typedef struct calor_model calor_model;
typedef struct calor_session calor_session;

/* "0.1.0", static. */
CALOR_API const char *calor_version(void);
/* Short name of an error code, static. */
CALOR_API const char *calor_error_name(int code);

/* ---- Model ---- */
enum calor_layout {
    CALOR_LAYOUT_AUTO, /* by neuron where silent neurons are exactly zero (ReLU and its kin), else as the file
                        */
    CALOR_LAYOUT_FILE, /* weights are used where the file has them */
    CALOR_LAYOUT_NEURON, /* FFN weights are laid out by neuron while loading: what modes that skip neurons
                            need */
};
typedef struct {
    int threads; /* 0: physical cores this process may use */
    int no_mmap; /* 1: read the weights into memory instead of mapping the file. A mapped file that is cut
                    short while in use is an error at the next batch (CALOR_EIO); cut short during one, or
                    with its disk gone, the system raises SIGBUS in the process, which a program that cannot
                    trust its files handles, or avoids with this. Files replaced by renaming are safe either
                    way */
    const char
        *cpu; /* cap on the instruction set: "ref", "avx2", "avx512", "amx"; NULL: $CALOR_CPU, else best */
    const char
        *activation; /* overrides the FFN activation: "silu", "relu", "fatrelu:0.01" …; NULL: the file's */
    enum calor_layout layout;
    int planes; /* 1, with a layout by neuron: gates of F16, BF16 and Q8_0 lie in a coarse and a fine plane,
                   so that most neurons are proved off by half of the bytes */
    /* A file of `calor profile` for this model, or NULL: with a layout by neuron, neurons lie from hot to
     * cold, and CALOR_THRESHOLD has its epsilons. */
    const char *profile;
    double cett; /* with a profile: epsilons for this CETT; 0: those it was made with (calor profile --cett or
                    --ppl) */
    const char *predictor; /* for CALOR_PREDICT: a file that `calor predictor` has trained on this model */
    int own_predictor;     /* 1, without `predictor`: the predictors in the file itself (PowerInfer) */
    /* Progress of long loading, 0…1; a non-zero return cancels. May be NULL. Called from the opening thread.
     */
    int (*progress)(double done, void *arg);
    void *progress_arg;
} calor_model_settings;
CALOR_API calor_model_settings calor_model_default(void);

/* On success *out is the caller's, to be closed after its sessions. Thread-safe. */
CALOR_API int calor_model_open(calor_model **out, const char *path, const calor_model_settings *s, char *err,
                               size_t errlen);
/* Takes NULL and pointers to NULL; nulls *m. */
CALOR_API void calor_model_close(calor_model **m);

typedef struct {
    const char *architecture, *name, *type, *activation, *cpu; /* owned by the model; never NULL */
    const char *activation_origin; /* who said so: "the file", "the model's name", "the architecture" … */
    uint32_t vocab, width, ffn, layers, heads, kv_heads, head_dim, context;
    uint64_t parameters;
    uint64_t weight_bytes; /* of the tensors in the file */
    int threads;
    int planes;    /* its gates lie in planes */
    int predictor; /* it has predictors: CALOR_PREDICT can run */
    int by_neuron; /* the FFN is laid out by neuron */
    int has_zeros; /* silent neurons are exactly zero: CALOR_EXACT can run */
} calor_model_info;
CALOR_API void calor_model_describe(const calor_model *m, calor_model_info *info);

/* ---- Text ---- */
enum {
    CALOR_TOK_BOS = 1 /* put BOS first where the model wants one */,
    CALOR_TOK_SPECIAL = 2 /* parse control tokens */
};
/* Writes up to cap ids; *n is the full count even when it is larger than cap (then CALOR_EARG). */
CALOR_API int calor_tokenize(const calor_model *m, const char *text, size_t len, int flags, int32_t *ids,
                             size_t cap, size_t *n, char *err, size_t errlen);
/* Bytes of one token (not NUL-terminated, owned by the model), for printing; control tokens are empty. */
CALOR_API const char *calor_token_piece(const calor_model *m, int32_t id, size_t *len);
/* Special ids, -1 where the model has none; calor_token_ends: generation stops after this id. */
CALOR_API int32_t calor_token_bos(const calor_model *m);
CALOR_API int32_t calor_token_eos(const calor_model *m);
CALOR_API int calor_token_ends(const calor_model *m, int32_t id);

/* Tokens back to text as they come: gives whole UTF-8 sequences only, an incomplete tail waits for the next
 * token. `fresh`: a new text begins (SentencePiece's leading space is dropped); 0: it continues a prompt.
 * One thread at a time; the model must outlive it. Bytes returned are the stream's, valid until its next
 * call, not NUL-terminated where they contain zeros. */
typedef struct calor_stream calor_stream;
CALOR_API int calor_stream_open(calor_stream **out, const calor_model *m, int fresh, char *err,
                                size_t errlen);
CALOR_API const char *calor_stream_add(calor_stream *s, int32_t id, size_t *len);
CALOR_API const char *calor_stream_flush(calor_stream *s, size_t *len); /* what still waits, as it is */
CALOR_API void calor_stream_close(calor_stream **s);

/* A conversation as the text its model was trained on, up to where the assistant's next answer begins.
 * `name`: a template's name, NULL: recognised from the model file. *text (NUL-terminated) is the caller's, to
 * be given to calor_free; tokenize it with CALOR_TOK_BOS | CALOR_TOK_SPECIAL. */
typedef struct {
    const char *role; /* "system", "user", "assistant" */
    const char *text;
} calor_chat_message;
CALOR_API int calor_chat(const calor_model *m, const char *name, const calor_chat_message *messages, size_t n,
                         char **text, size_t *len, char *err, size_t errlen);
/* The same as token ids, BOS first where the model wants one. Control tokens are read in the template's own
 * text only, so nobody can type one: use this for text from people. *ids is the caller's (calor_free). */
CALOR_API int calor_chat_tokens(const calor_model *m, const char *name, const calor_chat_message *messages,
                                size_t n, int32_t **ids, size_t *count, char *err, size_t errlen);
CALOR_API const char *const *calor_chat_templates(void); /* names, NULL-terminated */
CALOR_API void calor_free(void *p);

/* A file's vocabulary alone: no weights are read, and files that hold nothing else will do. Immutable; any
 * number of threads. *ids is the caller's (calor_free), flags are CALOR_TOK_…; pieces show control tokens as
 * written. */
typedef struct calor_vocab calor_vocab;
CALOR_API int calor_vocab_open(calor_vocab **out, const char *path, char *err, size_t errlen);
CALOR_API void calor_vocab_close(calor_vocab **v);
CALOR_API int calor_vocab_tokenize(const calor_vocab *v, const char *text, size_t len, int flags,
                                   int32_t **ids, size_t *count, char *err, size_t errlen);
CALOR_API const char *calor_vocab_piece(const calor_vocab *v, int32_t id, size_t *len);

/* ---- Session ---- */
enum calor_mode {
    CALOR_AUTO,       /* exact where the model is laid out by neuron and has zeros, else dense-fast */
    CALOR_DENSE,      /* every neuron, decoding arithmetic for every token: the reference */
    CALOR_DENSE_FAST, /* every neuron, the fastest arithmetic for each batch size */
    CALOR_EXACT, /* neurons whose gate is zero are left out: the bits of CALOR_DENSE on the same layout for
                    up to 4 tokens at once. Up to 32 the FFN still leaves neurons out, beside faster
                    arithmetic elsewhere; more are multiplied densely, as CALOR_DENSE_FAST does */
    CALOR_SURE,  /* as exact on gates in planes, by a statistical bound of five standard deviations, which
                    holds at any width: a neuron at the threshold is missed with a chance of 3e-7 */
    CALOR_THRESHOLD, /* neurons with |h|·‖down's row‖ below their layer's epsilon are left out (ReLU² Wins'
                        definition of an active neuron): lossy, for any activation */
    CALOR_PREDICT, /* as exact, but only of the neurons that a predictor lets through: lossy */
};
typedef struct {
    uint32_t context;     /* tokens of KV cache, allocated up front; 0: the model's context, at most 4096.
                             More than fit into the memory that is free: CALOR_ENOMEM, saying how many do */
    uint32_t batch;       /* most tokens computed at once; 0: 512 */
    const char *kv;       /* "f16" (default), "q8_0" (head size a multiple of 32), "f32" */
    enum calor_mode mode; /* default: CALOR_AUTO. CALOR_EXACT, CALOR_SURE, CALOR_THRESHOLD and CALOR_PREDICT
                             need a model by neuron */
    const float *epsilon; /* CALOR_THRESHOLD: one a layer, ≥ 0; copied. NULL: of the model's profile */
    int recall; /* 1, with a model by neuron: every neuron is computed a second time to count what was left
                   out (calor_session_recall). For evaluation: slower than CALOR_DENSE */
} calor_session_settings;
CALOR_API calor_session_settings calor_session_default(void);
CALOR_API int calor_session_open(calor_session **out, calor_model *m, const calor_session_settings *s,
                                 char *err, size_t errlen);
CALOR_API void calor_session_close(calor_session **s);

/* Appends n tokens to the timeline and computes them; afterwards calor_logits is the last token's. On error
 * the timeline is as before and there are no logits. CALOR_EFULL when they don't fit: nothing is computed.
 * Sessions of one model may be evaluated from several threads: they take turns. */
CALOR_API int calor_eval(calor_session *s, const int32_t *ids, size_t n, char *err, size_t errlen);
/* As calor_eval, with the logits of every token: out has n × vocab floats. */
CALOR_API int calor_eval_all(calor_session *s, const int32_t *ids, size_t n, float *out, char *err,
                             size_t errlen);
/* vocab floats of the last token, owned by the session, valid until its next call; NULL before the first
 * eval, after a failed one and after a rewind. */
CALOR_API const float *calor_logits(const calor_session *s);
/* Tokens in the timeline, and dropping all after the first `n` (with them a calor_cancel that came too late
 * for the eval it was meant for). */
CALOR_API uint32_t calor_position(const calor_session *s);
CALOR_API int calor_rewind(calor_session *s, uint32_t n);
/* Makes a running calor_eval return CALOR_ECANCELLED soon (within a layer's time), or the next one when none
 * is running. Any thread, also a signal handler. */
CALOR_API void calor_cancel(calor_session *s);

typedef struct {
    uint32_t context, batch;
    enum calor_mode mode;             /* never CALOR_AUTO: what was chosen */
    uint64_t kv_bytes, compute_bytes; /* allocated up front */
} calor_session_info;
CALOR_API void calor_session_describe(const calor_session *s, calor_session_info *info);

/* What the FFN of a layer has done since the session was opened or the counts were reset: of models laid out
 * by neuron. Shares: active/neurons, listed/neurons. CALOR_EARG for a layer the model does not have. */
typedef struct {
    uint64_t neurons; /* tokens × neurons of the layer */
    uint64_t exact;   /* neurons whose gate was computed exactly: all, or the screen's candidates */
    uint64_t listed;  /* neurons whose up and down rows were read */
    uint64_t active;  /* neurons that are active: h ≠ 0, in CALOR_THRESHOLD also not below epsilon */
    uint64_t bytes;   /* weights read for up to 32 tokens at once, each token's for itself */
    uint64_t screen;  /* those of `bytes` that ruled neurons out: coarse planes, predictors */
} calor_ffn_counts;
CALOR_API int calor_session_ffn(const calor_session *s, uint32_t layer, calor_ffn_counts *out);
/* Of a session opened with `recall`, the tokens of up to 32 at once: how much of what the FFN would do with
 * no neuron left out was done. Recall: found/active, or weighted, magnitude_found/magnitude. */
typedef struct {
    uint64_t neurons;                  /* that were compared: tokens × neurons of the layer */
    uint64_t active, found;            /* of these: h ≠ 0; of these, not left out */
    double magnitude, magnitude_found; /* the same as sums of ‖n_i‖ = |h_i|·‖down's row i‖ */
} calor_ffn_recall;
CALOR_API int calor_session_recall(const calor_session *s, uint32_t layer, calor_ffn_recall *out);
CALOR_API void calor_session_ffn_reset(calor_session *s); /* counts and recall */

/* ---- Sampling ---- */
typedef struct {
    float temperature;    /* ≤ 0: greedy */
    int top_k;            /* 0: off */
    float top_p;          /* 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 1: off; logits of the last repeat_last tokens are divided (or multiplied when
                             negative) */
    int repeat_last;      /* 64; -1: all */
    uint64_t seed;
    uint64_t state; /* position in the random stream: 0 to start; advanced by calor_sample */
} calor_sampler;
CALOR_API calor_sampler calor_sampler_default(void);
/* The next token's id (≥ 0) from the session's logits, or a negative CALOR_E…. Does not append it. Applied in
 * this order: repetition penalty, top-k, top-p, min-p, temperature. Ties go to the lower id. */
CALOR_API int32_t calor_sample(calor_session *s, calor_sampler *sp, char *err, size_t errlen);

#ifdef __cplusplus
}
#endif
#endif
