/* From a checkpoint's tokenizer files to tokenizer.* keys: which files there are, the special tokens and the
 * chat template. The vocabularies themselves: convert_tok_json.c, convert_tok_spm.c. */
#include "engine/convert_tok_parts.h"

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"
#include "base/json_text.h"
#include "base/log.h"
#include "engine/tokenizer_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIMIT (256u << 20)

int hf_vocab_init(struct hf_vocab *v, uint32_t rows, struct err *e)
{
    *v = (struct hf_vocab){.rows = rows, .add_bos = -1, .add_eos = -1, .add_space_prefix = -1};
    v->bos = v->eos = v->unk = v->pad = v->sep = v->cls = v->mask = -1;
    v->tok = calloc(rows + (size_t)1, sizeof *v->tok);
    v->type = calloc(rows + (size_t)1, sizeof *v->type);
    v->score = calloc(rows + (size_t)1, sizeof *v->score);
    if (!v->tok || !v->type || !v->score)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", rows);
    return 0;
}

void hf_vocab_finish(struct hf_vocab *v)
{
    for (size_t i = 0; i < v->n_own; i++) free(v->own[i]);
    free(v->own);
    free(v->tok);
    free(v->type);
    free(v->score);
    free(v->merge);
}

char *hf_vocab_keep(struct hf_vocab *v, const char *s, size_t n)
{
    if (v->n_own == v->cap_own) {
        size_t cap = v->cap_own ? v->cap_own * 2 : 64;
        char **own = realloc(v->own, cap * sizeof *own);
        if (!own) return NULL;
        v->own = own;
        v->cap_own = cap;
    }
    char *copy = malloc(n + 1);
    if (!copy) return NULL;
    if (n) memcpy(copy, s, n);
    copy[n] = 0;
    return v->own[v->n_own++] = copy;
}

int hf_vocab_set(struct hf_vocab *v, int64_t id, const char *s, size_t n, int32_t type, float score,
                 const char *where, struct err *e)
{
    if (id < 0 || id >= (int64_t)v->rows)
        return err_set(e, ERR_FORMAT,
                       "%s: token '%.*s' has the id %lld, but the model's embedding has %u rows", where,
                       (int)(n < 60 ? n : 60), s ? s : "", (long long)id, v->rows);
    v->tok[id] = (struct gguf_str){s ? s : "", n};
    v->type[id] = type;
    v->score[id] = score;
    if (id >= (int64_t)v->n) v->n = (uint32_t)id + 1;
    return 0;
}

static bool wrapped(const char *s, size_t n, const char *before, const char *after)
{
    size_t a = strlen(before), b = strlen(after);
    return n >= a + b && memcmp(s, before, a) == 0 && memcmp(s + n - b, after, b) == 0;
}

static bool equals(const char *s, size_t n, const char *text)
{
    return n == strlen(text) && memcmp(s, text, n) == 0;
}

/* Models often forget to say that a token is special. */
static bool looks_special(const char *s, size_t n)
{
    return equals(s, n, "<pad>") || equals(s, n, "<mask>") || equals(s, n, "<2mass>") ||
           equals(s, n, "[@BOS@]") || wrapped(s, n, "<|", "|>") ||
           wrapped(s, n, "<\xef\xbd\x9c", "\xef\xbd\x9c>") || wrapped(s, n, "<unused", ">");
}

int hf_vocab_add(struct hf_vocab *v, int64_t id, const char *s, size_t n, bool special, const char *where,
                 struct err *e)
{
    static const char mark[] = "\xe2\x96\x81";
    if (special || looks_special(s, n)) {
        bool unknown = id >= 0 && id < (int64_t)v->n && v->type[id] == TOK_UNKNOWN;
        return hf_vocab_set(v, id, s, n, unknown ? TOK_UNKNOWN : TOK_CONTROL, -1000.0f, where, e);
    }
    /* User-defined tokens are found before spaces become U+2581, so they are written with spaces. */
    if (n && memmem(s, n, mark, 3)) {
        char *copy = hf_vocab_keep(v, s, n);
        if (!copy) return err_set(e, ERR_NOMEM, "no memory for the vocabulary");
        size_t k = 0;
        for (size_t i = 0; i < n; k++) {
            bool space = n - i >= 3 && memcmp(s + i, mark, 3) == 0;
            copy[k] = space ? ' ' : s[i];
            i += space ? 3 : 1;
        }
        s = copy;
        n = k;
    }
    return hf_vocab_set(v, id, s, n, TOK_USER, -1000.0f, where, e);
}

/* ---- Files ---- */

struct files {
    const char *dir;
    json_t *tokenizer, *config, *map, *generation, *model, *vocab, *added;
    char *spm, *merges, *jinja;
    size_t n_spm, n_merges, n_jinja;
};

static bool path_of(const struct files *f, const char *name, char path[4096])
{
    return snprintf(path, 4096, "%s/%s", f->dir, name) < 4096 && access(path, F_OK) == 0;
}

/* Files that are not there stay NULL. */
static int read_json(const struct files *f, const char *name, json_t **out, struct err *e)
{
    char path[4096];
    if (!path_of(f, name, path)) return 0;
    int rc = json_text_read(out, path, LIMIT, JSON_TEXT_DEPTH, e);
    if (rc == 0 && !json_is_object(*out)) rc = err_set(e, ERR_FORMAT, "'%s': expected a JSON object", path);
    return rc;
}

static int read_text(const struct files *f, const char *name, char **out, size_t *n, struct err *e)
{
    char path[4096];
    return path_of(f, name, path) ? file_read_all(path, LIMIT, out, n, e) : 0;
}

static int read_files(struct files *f, struct err *e)
{
    int rc = read_json(f, "tokenizer.json", &f->tokenizer, e);
    if (rc == 0) rc = read_json(f, "tokenizer_config.json", &f->config, e);
    if (rc == 0) rc = read_json(f, "special_tokens_map.json", &f->map, e);
    if (rc == 0) rc = read_json(f, "generation_config.json", &f->generation, e);
    if (rc == 0) rc = read_json(f, "config.json", &f->model, e);
    if (rc == 0) rc = read_json(f, "added_tokens.json", &f->added, e);
    if (rc == 0) rc = read_text(f, "tokenizer.model", &f->spm, &f->n_spm, e);
    if (rc == 0) rc = read_text(f, "chat_template.jinja", &f->jinja, &f->n_jinja, e);
    if (rc == 0 && !f->tokenizer && !f->spm) {
        rc = read_json(f, "vocab.json", &f->vocab, e);
        if (rc == 0) rc = read_text(f, "merges.txt", &f->merges, &f->n_merges, e);
    }
    return rc;
}

static void files_finish(struct files *f)
{
    json_decref(f->tokenizer);
    json_decref(f->config);
    json_decref(f->map);
    json_decref(f->generation);
    json_decref(f->model);
    json_decref(f->vocab);
    json_decref(f->added);
    free(f->spm);
    free(f->merges);
    free(f->jinja);
}

/* ---- Special tokens ---- */

static int64_t id_of(const struct hf_vocab *v, const char *text)
{
    /* Added tokens come last in most vocabularies, and a later duplicate is the one that counts. */
    for (uint32_t i = v->n; i-- > 0;)
        if (v->type[i] && equals(v->tok[i].s, v->tok[i].n, text)) return i;
    return -1;
}

/* "bos_token": a string, or an object with "content". */
static const char *token_text(const json_t *o, const char *key)
{
    const json_t *t = json_object_get(o, key);
    if (json_is_object(t)) t = json_object_get(t, "content");
    return json_string_value(t);
}

static int64_t token_id(const json_t *o, const char *key)
{
    const json_t *t = json_object_get(o, key);
    if (json_is_array(t)) t = json_array_get(t, 0);
    return json_is_integer(t) ? json_integer_value(t) : -1;
}

/* By the tokenizer's words, else the model's numbers, else what the vocabulary itself said. */
static void find_special(const struct files *f, const struct hf_vocab *v, const char *what, int64_t *id)
{
    char key[32];
    snprintf(key, sizeof key, "%s_token", what);
    const char *text = token_text(f->config, key);
    if (!text) text = token_text(f->map, key);
    int64_t found = text ? id_of(v, text) : -1;
    snprintf(key, sizeof key, "%s_token_id", what);
    if (found < 0) found = token_id(f->model, key);
    if (found < 0) found = token_id(f->generation, key);
    if (found >= 0 && found < (int64_t)v->n) *id = found;
    if (*id >= (int64_t)v->n) *id = -1;
}

/* Another token that ends an answer: of generation_config's list, the end of a turn first. */
static int64_t find_eot(const struct files *f, const struct hf_vocab *v)
{
    static const char *const turns[] = {"<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"};
    const json_t *list = json_object_get(f->generation, "eos_token_id"), *one;
    int64_t found = -1;
    size_t i;
    if (!json_is_array(list)) return -1;
    json_array_foreach(list, i, one)
    {
        int64_t id = json_is_integer(one) ? json_integer_value(one) : -1;
        if (id < 0 || id >= (int64_t)v->n || id == v->eos) continue;
        bool turn = false;
        for (size_t k = 0; k < 4; k++) turn |= equals(v->tok[id].s, v->tok[id].n, turns[k]);
        if (turn || found < 0) found = id;
    }
    return found;
}

static void find_flag(const struct files *f, const char *key, int *out)
{
    const json_t *b = json_object_get(f->config, key);
    if (json_is_boolean(b)) *out = json_is_true(b);
}

/* Added tokens of the older files: {"text": id}, and those that tokenizer_config.json lists. */
static int read_added(const struct files *f, struct hf_vocab *v, struct err *e)
{
    const char *key;
    size_t len;
    json_t *t;
    json_object_keylen_foreach(f->added, key, len, t)
    {
        if (!json_is_integer(t))
            return err_set(e, ERR_FORMAT, "added_tokens.json: '%.60s' has no whole number as id", key);
        int rc = hf_vocab_add(v, json_integer_value(t), key, len, false, "added_tokens.json", e);
        if (rc < 0) return rc;
    }
    json_object_foreach(json_object_get(f->config, "added_tokens_decoder"), key, t)
    {
        char *end;
        long long id = strtoll(key, &end, 10);
        const json_t *content = json_object_get(t, "content");
        if (*end || end == key || !json_is_string(content))
            return err_set(
                e, ERR_FORMAT,
                "tokenizer_config.json: added_tokens_decoder: '%.60s': expected a number with a content",
                key);
        int rc = hf_vocab_add(v, id, json_string_value(content), json_string_length(content),
                              json_is_true(json_object_get(t, "special")), "tokenizer_config.json", e);
        if (rc < 0) return rc;
    }
    return 0;
}

/* The text of the chat template: a file of its own, a string, or a list of named ones. */
static const char *find_template(const struct files *f)
{
    if (f->jinja) return f->jinja;
    const json_t *t = json_object_get(f->config, "chat_template"), *one;
    if (json_is_string(t)) return json_string_value(t);
    size_t i;
    json_array_foreach(t, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "name"));
        if (name && strcmp(name, "default") == 0) return json_string_value(json_object_get(one, "template"));
    }
    return NULL;
}

/* ---- Writing ---- */

static int put_id(struct gguf_writer *w, const char *key, int64_t id, struct err *e)
{
    return id < 0 ? 0 : gguf_put_u32(w, key, (uint32_t)id, e);
}

static int put_flag(struct gguf_writer *w, const char *key, int flag, struct err *e)
{
    return flag < 0 ? 0 : gguf_put_bool(w, key, flag != 0, e);
}

static int fill_up(struct hf_vocab *v, struct err *e)
{
    for (uint32_t i = 0; i < v->rows; i++) {
        if (v->type[i]) continue;
        char name[24];
        int n = snprintf(name, sizeof name, "[PAD%u]", i);
        char *kept = hf_vocab_keep(v, name, (size_t)n);
        if (!kept) return err_set(e, ERR_NOMEM, "no memory for the vocabulary");
        v->tok[i] = (struct gguf_str){kept, (uint64_t)n};
        v->type[i] = TOK_UNUSED;
        v->score[i] = -10000.0f;
    }
    return 0;
}

static int put_all(const struct files *f, struct hf_vocab *v, struct gguf_writer *w, struct err *e)
{
    const int64_t eot = find_eot(f, v);
    const char *jinja = find_template(f);
    int rc = fill_up(v, e);
    if (rc == 0) rc = gguf_put_str(w, "tokenizer.ggml.model", v->model, e);
    if (rc == 0) rc = gguf_put_str(w, "tokenizer.ggml.pre", v->pre, e);
    if (rc == 0) rc = gguf_put_strs(w, "tokenizer.ggml.tokens", v->tok, v->rows, e);
    if (rc == 0 && strcmp(v->model, "llama") == 0)
        rc = gguf_put_arr(w, "tokenizer.ggml.scores", GGUF_F32, v->score, v->rows, e);
    if (rc == 0) rc = gguf_put_arr(w, "tokenizer.ggml.token_type", GGUF_I32, v->type, v->rows, e);
    if (rc == 0 && strcmp(v->model, "gpt2") == 0)
        rc = gguf_put_strs(w, "tokenizer.ggml.merges", v->merge, v->n_merge, e);
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.bos_token_id", v->bos, e);
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.eos_token_id", v->eos, e);
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.eot_token_id", eot, e);
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.unknown_token_id", v->unk, e);
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.padding_token_id", v->pad, e);
    if (rc == 0)
        rc = put_id(w, "tokenizer.ggml.seperator_token_id", v->sep, e); /* spelled so in the format */
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.cls_token_id", v->cls, e);
    if (rc == 0) rc = put_id(w, "tokenizer.ggml.mask_token_id", v->mask, e);
    if (rc == 0) rc = put_flag(w, "tokenizer.ggml.add_bos_token", v->add_bos, e);
    if (rc == 0) rc = put_flag(w, "tokenizer.ggml.add_eos_token", v->add_eos, e);
    if (rc == 0) rc = put_flag(w, "tokenizer.ggml.add_space_prefix", v->add_space_prefix, e);
    if (rc == 0 && jinja) rc = gguf_put_str(w, "tokenizer.chat_template", jinja, e);
    return rc;
}

static int read_vocabulary(const struct files *f, struct hf_vocab *v, struct err *e)
{
    /* tokenizer.json of a byte-level tokenizer says everything; for SentencePiece the original file is
     * better, since it has the scores. */
    const json_t *model = json_object_get(f->tokenizer, "model");
    bool fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if (f->spm && (!f->tokenizer || fallback || !json_object_get(model, "merges"))) {
        int rc = hf_read_sentencepiece(v, f->spm, f->n_spm, "tokenizer.model", e);
        if (rc == 0 && v->add_bos < 0) v->add_bos = 1;
        return rc;
    }
    if (f->tokenizer) return hf_read_tokenizer_json(v, f->tokenizer, "tokenizer.json", e);
    if (f->vocab && f->merges)
        return hf_read_vocab_json(v, f->vocab, f->merges, f->n_merges, "vocab.json", e);
    return 0;
}

int convert_tokenizer(const char *dir, uint32_t n_vocab_rows, struct gguf_writer *w, struct err *e)
{
    struct files f = {.dir = dir};
    struct hf_vocab v = {0};
    int rc = read_files(&f, e);
    if (rc == 0) rc = hf_vocab_init(&v, n_vocab_rows, e);
    if (rc == 0) rc = read_vocabulary(&f, &v, e);
    if (rc == 0 && !v.model) {
        log_warn("'%s' has no tokenizer (tokenizer.json, tokenizer.model, or vocab.json with merges.txt): "
                 "the model will "
                 "have no vocabulary",
                 dir);
        rc = gguf_put_str(w, "tokenizer.ggml.model", "none", e);
        goto out;
    }
    if (rc == 0) rc = read_added(&f, &v, e);
    if (rc < 0) goto out;
    find_special(&f, &v, "bos", &v.bos);
    find_special(&f, &v, "eos", &v.eos);
    find_special(&f, &v, "unk", &v.unk);
    find_special(&f, &v, "pad", &v.pad);
    find_special(&f, &v, "sep", &v.sep);
    find_special(&f, &v, "cls", &v.cls);
    find_special(&f, &v, "mask", &v.mask);
    find_flag(&f, "add_bos_token", &v.add_bos);
    find_flag(&f, "add_eos_token", &v.add_eos);
    if (strcmp(v.model, "llama") == 0) find_flag(&f, "add_prefix_space", &v.add_space_prefix);
    rc = put_all(&f, &v, w, e);
out:
    hf_vocab_finish(&v);
    files_finish(&f);
    return rc < 0 ? err_prefix(e, rc, "'%s'", dir) : 0;
}
