/* Tokenizers: what a model file says about its vocabulary, checked; then encoding, and the pieces for
 * printing. The kinds live in files of their own: tokenizer_spm.c, tokenizer_bpe.c with tokenizer_pre.c;
 * special tokens in tokenizer_special.c. Results are those of llama.cpp on the same file. */
#include "engine/tokenizer_parts.h"

#include "base/err.h"
#include "base/log.h"
#include "io/gguf.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name

static bool equals(struct gguf_str s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.s, text, s.n) == 0;
}

/* A whole word in a list separated by spaces. */
static bool in_list(const char *list, const struct tok_text *x)
{
    for (const char *p = list; *p;) {
        size_t n = strcspn(p, " ");
        if (n == x->n && memcmp(p, x->s, n) == 0) return true;
        p += n + (p[n] == ' ');
    }
    return false;
}

/* The texts, copied so that the file may go. */
static int load_texts(struct tokenizer *t, const struct gguf_str *strs, uint64_t n, struct err *e)
{
    if (n == 0 || n > INT32_MAX / 2)
        return err_set(e, ERR_FORMAT,
                       KEY("tokens") ": expected at least one token and at most 2^30, found %llu",
                       (unsigned long long)n);
    uint64_t bytes = 0;
    for (uint64_t i = 0; i < n; i++) {
        if (strs[i].n > UINT32_MAX / 2)
            return err_set(e, ERR_FORMAT, KEY("tokens") "[%llu]: a token of %llu bytes",
                           (unsigned long long)i, (unsigned long long)strs[i].n);
        bytes += strs[i].n;
    }
    t->n = t->n_sym = t->cap_sym = (uint32_t)n;
    t->arena = malloc(bytes + 1);
    t->text = malloc(n * sizeof *t->text);
    t->hash = malloc(n * sizeof *t->hash);
    t->type = malloc(n);
    t->flag = calloc(n, 1);
    if (!t->arena || !t->text || !t->hash || !t->type || !t->flag)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n);
    char *p = t->arena;
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t len = (uint32_t)strs[i].n;
        if (len) memcpy(p, strs[i].s, len);
        t->text[i] = (struct tok_text){p, len};
        t->hash[i] = tok_hash(p, len);
        p += len;
        if (len > t->max_bytes) t->max_bytes = len;
    }
    return 0;
}

static int load_types(struct tokenizer *t, const struct gguf *f, bool *given, struct err *e)
{
    const char *key = KEY("token_type");
    int64_t at = gguf_find(f, key);
    memset(t->type, TOK_NORMAL, t->n);
    *given = at >= 0;
    if (at < 0) return 0;
    const void *data;
    uint64_t n;
    bool u32 = gguf_kv_type(f, at) == GGUF_ARR && gguf_arr_type(f, at) == GGUF_U32;
    int rc = gguf_get_arr(f, key, u32 ? GGUF_U32 : GGUF_I32, &data, &n, e);
    if (rc < 0) return rc;
    if (n != t->n)
        return err_set(e, ERR_FORMAT, "%s: expected one for each of the %u tokens, found %llu", key, t->n,
                       (unsigned long long)n);
    for (uint32_t i = 0; i < t->n; i++) {
        int32_t v;
        memcpy(&v, (const char *)data + 4 * (size_t)i, 4);
        t->type[i] = v >= TOK_UNDEFINED && v <= TOK_BYTE ? (uint8_t)v : TOK_UNDEFINED;
    }
    return 0;
}

static int load_scores(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    t->score = calloc(t->n, sizeof *t->score);
    if (!t->score) return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n);
    const void *data;
    uint64_t n;
    int rc = gguf_get_arr(f, KEY("scores"), GGUF_F32, &data, &n, e);
    if (rc < 0) return rc;
    if (rc == 1) return 0;
    if (n != t->n)
        return err_set(e, ERR_FORMAT, KEY("scores") ": expected one for each of the %u tokens, found %llu",
                       t->n, (unsigned long long)n);
    memcpy(t->score, data, t->n * sizeof *t->score);
    for (uint32_t i = 0; i < t->n; i++)
        if (isnan(t->score[i]))
            return err_set(e, ERR_FORMAT, KEY("scores") "[%u]: expected a number, found NaN", i);
    return 0;
}

/* A special id: `fallback` where the file has none and that token exists and is not an ordinary one. */
static int load_id(const struct tokenizer *t, const struct gguf *f, const char *key, bool types,
                   int32_t fallback, int32_t *out, struct err *e)
{
    *out = -1;
    int64_t at = gguf_find(f, key);
    if (at < 0) {
        if (fallback < 0 || (uint32_t)fallback >= t->n) return 0;
        const struct tok_text *x = &t->text[fallback];
        bool marked = x->n > 2 && x->s[0] == '<' && x->s[x->n - 1] == '>';
        if (types ? t->type[fallback] == TOK_CONTROL || t->type[fallback] == TOK_UNKNOWN : marked)
            *out = fallback;
        return 0;
    }
    enum gguf_type type = gguf_kv_type(f, at);
    if (type == GGUF_I32 || type == GGUF_I64) { /* some converters write -1 for "none" */
        uint64_t v;
        if (gguf_get_u64(f, key, &v, NULL) < 0) return 0;
    }
    uint64_t v = 0;
    int rc = gguf_get_u64(f, key, &v, e);
    if (rc < 0) return rc;
    if (v == UINT32_MAX) return 0;
    if (v >= t->n)
        return err_set(e, ERR_FORMAT, "%s: expected an id below the vocabulary's %u, found %llu", key, t->n,
                       (unsigned long long)v);
    *out = (int32_t)v;
    return 0;
}

/* Tokens after which generation stops, known by their text, and those that are control tokens whatever their
 * type says: "control-looking tokens" are a known fault of converted files. */
static void mark_ends(struct tokenizer *t, int32_t eot, int32_t eom)
{
    static const char *const control =
        "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> <|eom_id|> <EOT> "
        "<|end_of_text|> <end_of_utterance> _<EOT> [EOT] [EOS] <|return|> <|call|> "
        "<turn|> <\xef\xbd\x9c"
        "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>";
    static const char *const fill =
        "<|fim_pad|> <fim-pad> <fim_pad> <PAD> <|fim_repo|> <|repo_name|> <fim-repo> <REPO> "
        "<reponame> <|file_sep|>";
    for (uint32_t i = 0; i < t->n; i++) {
        const struct tok_text *x = &t->text[i];
        if (x->n < 5 || x->n > 40 || !(in_list(control, x) || in_list(fill, x))) continue;
        t->flag[i] |= TOK_END;
        t->type[i] = TOK_CONTROL;
    }
    const int32_t ids[] = {t->eos, eot, eom};
    for (size_t i = 0; i < 3; i++)
        if (ids[i] >= 0) t->flag[ids[i]] |= TOK_END;
}

static bool name_has(struct gguf_str name, const char *part)
{
    size_t len = strlen(part);
    for (uint64_t i = 0; i + len <= name.n; i++) {
        size_t k = 0;
        while (k < len && tolower((unsigned char)name.s[i + k]) == part[k]) k++;
        if (k == len) return true;
    }
    return false;
}

static void set_flag(struct tokenizer *t, const char *text, int flag, bool on)
{
    uint32_t id = tok_map_find(t, text, strlen(text), tok_hash(text, strlen(text)));
    if (id >= t->n) return;
    t->flag[id] = (uint8_t)(on ? t->flag[id] | flag : t->flag[id] & ~flag);
}

/* Spaces beside special tokens are dropped by some models, which files do not record. */
static int strip_rules(struct tokenizer *t, const struct gguf *f, struct gguf_str pre, struct err *e)
{
    struct gguf_str name = {"", 0};
    int rc = gguf_get_str(f, "general.name", &name, e);
    if (rc < 0) return rc;
    if (name_has(pre, "jina-v2-de") || name_has(pre, "jina-v2-es") || name_has(pre, "jina-v2-code"))
        set_flag(t, "<mask>", TOK_LSTRIP, true);
    else if (name_has(name, "phi-3") || name_has(name, "phi3")) {
        for (uint32_t i = 0; i < t->n; i++)
            if (t->type[i] == TOK_CONTROL || t->type[i] == TOK_USER || t->type[i] == TOK_UNKNOWN)
                t->flag[i] |= TOK_RSTRIP;
        set_flag(t, "</s>", TOK_RSTRIP, true);
        set_flag(t, "<unk>", TOK_RSTRIP, false);
        set_flag(t, "<s>", TOK_RSTRIP, false);
        set_flag(t, "<|endoftext|>", TOK_RSTRIP, false);
    }
    return 0;
}

static void byte_tokens(struct tokenizer *t)
{
    for (int b = 0; b < 256; b++) {
        char x[8], c = (char)b;
        snprintf(x, sizeof x, "<0x%02X>", b);
        uint32_t id = tok_map_find(t, x, 6, tok_hash(x, 6));
        if (id >= t->n && t->kind == TOK_SPM) id = tok_map_find(t, &c, 1, tok_hash(&c, 1));
        t->byte_token[b] = id < t->n ? (int32_t)id : -1;
    }
}

/* U+2581 to space, everything else as it is. */
static uint32_t unescape(const struct tok_text *x, char *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->n;) {
        if (x->n - i >= 3 && memcmp(x->s + i, "\xe2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else
            out[n++] = x->s[i++];
    }
    return n;
}

/* GPT-2's characters to bytes; a character that stands for none is kept. */
static uint32_t from_chars(const struct tok_text *x, char *out)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->n;) {
        int len = tok_utf8_len(x->s + i, x->n - i);
        int byte = len ? tok_char_byte(tok_utf8_code(x->s + i, len)) : -1;
        if (byte >= 0)
            out[n++] = (char)byte;
        else
            for (int k = 0; k < (len ? len : 1); k++) out[n++] = x->s[i + (uint32_t)k];
        i += len ? (uint32_t)len : 1;
    }
    return n;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* What each token prints as. */
static int make_pieces(struct tokenizer *t, struct err *e)
{
    uint64_t bytes = 1;
    for (uint32_t i = 0; i < t->n; i++) bytes += t->text[i].n;
    t->piece = malloc(t->n * sizeof *t->piece);
    t->piece_arena = malloc(bytes);
    if (!t->piece || !t->piece_arena)
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n);
    char *p = t->piece_arena;
    bool spm = t->kind == TOK_SPM || t->raw;
    for (uint32_t i = 0; i < t->n; i++) {
        const struct tok_text *x = &t->text[i];
        uint32_t n = 0;
        switch (t->type[i]) {
        case TOK_CONTROL:
        case TOK_UNKNOWN:
        case TOK_USER:
            if (x->n) memcpy(p, x->s, n = x->n);
            break;
        case TOK_NORMAL: n = spm ? unescape(x, p) : from_chars(x, p); break;
        case TOK_BYTE:
            if (spm && x->n == 6 && hex(x->s[3]) >= 0 && hex(x->s[4]) >= 0)
                p[n++] = (char)(hex(x->s[3]) << 4 | hex(x->s[4]));
            break;
        default: break; /* unused and undefined ones print nothing */
        }
        t->piece[i] = (struct tok_text){p, n};
        p += n;
    }
    return 0;
}

static int load_map(struct tokenizer *t, uint64_t merges, struct err *e)
{
    if (!tok_map_init(t, t->n + 3 * merges))
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n);
    uint32_t twice = TOK_NO_SYM, count = 0;
    for (uint32_t i = 0; i < t->n; i++) {
        if (!t->text[i].n) continue; /* an empty token is never found in a text */
        if (tok_map_put(t, i) != TOK_NO_SYM && !count++) twice = i;
    }
    if (count)
        log_warn(
            "%u tokens of the vocabulary are there twice (the first is %u): the later one of each is used",
            count, twice);
    return 0;
}

/* tokenizer.ggml.model = "none": only the number of rows is known. */
static int load_none(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    struct gguf_str arch = {"", 0};
    int rc = gguf_get_str(f, "general.architecture", &arch, e);
    char key[96];
    if (rc < 0) return rc;
    snprintf(key, sizeof key, "%.*s.vocab_size", (int)(arch.n < 64 ? arch.n : 64), arch.s);
    rc = gguf_get_u32(f, key, &t->n, e);
    return rc < 0 ? rc : 0;
}

static int load(struct tokenizer *t, const struct gguf *f, struct err *e)
{
    struct gguf_str model = {"none", 4}, pre = {"", 0};
    const struct gguf_str *tokens, *merges = NULL;
    uint64_t n, n_merges = 0;
    bool types;
    int rc = gguf_get_str(f, KEY("model"), &model, e);
    if (rc < 0 || (rc = gguf_get_str(f, KEY("pre"), &pre, e)) < 0) return rc;
    t->bos = t->eos = t->unk = -1;
    if (equals(model, "none") || equals(model, "no_vocab")) return load_none(t, f, e);
    if (equals(model, "llama"))
        t->kind = TOK_SPM;
    else if (equals(model, "gpt2"))
        t->kind = TOK_BPE;
    else
        return err_set(
            e, ERR_UNSUPPORTED,
            "the file's tokenizer is of the kind '%.*s'%s; Calor reads 'llama' (SentencePiece) and 'gpt2' "
            "(byte-pair) vocabularies",
            (int)(model.n < 80 ? model.n : 80), model.s,
            equals(model, "bert") ? " (WordPiece)"
            : equals(model, "t5") ? " (unigram)"
                                  : "");
    rc = gguf_get_strs(f, KEY("tokens"), &tokens, &n, e);
    if (rc < 0) return rc;
    if (rc == 1)
        return err_set(e, ERR_FORMAT, KEY("tokens") " is missing: the file has a tokenizer but no tokens");
    if ((rc = load_texts(t, tokens, n, e)) < 0 || (rc = load_types(t, f, &types, e)) < 0) return rc;
    if (t->kind == TOK_BPE) {
        rc = gguf_get_strs(f, KEY("merges"), &merges, &n_merges, e);
        if (rc < 0) return rc;
        if (rc == 1)
            return err_set(e, ERR_FORMAT, KEY("merges") " is missing: a byte-pair vocabulary needs it");
        if (n_merges > INT32_MAX / 8)
            return err_set(e, ERR_FORMAT, KEY("merges") ": %llu are too many", (unsigned long long)n_merges);
    }
    if ((rc = load_map(t, n_merges, e)) < 0) return rc;

    struct tok_pre_flags flags = {.add_bos = t->kind == TOK_SPM};
    if (t->kind == TOK_BPE) {
        if ((rc = tok_pre_create(&t->pre, pre.s, pre.n, &flags, e)) < 0) return rc;
        t->ignore_merges = flags.ignore_merges;
        t->raw = flags.raw;
        if ((rc = tok_bpe_create(t, merges, n_merges, e)) < 0) return rc;
    } else {
        if ((rc = load_scores(t, f, e)) < 0) return rc;
        tok_spm_create(t);
    }
    byte_tokens(t);
    t->add_bos = flags.add_bos;
    t->add_space_prefix = t->kind == TOK_SPM;
    if ((rc = gguf_get_bool(f, KEY("add_bos_token"), &t->add_bos, e)) < 0) return rc;
    if ((rc = gguf_get_bool(f, KEY("add_space_prefix"), &t->add_space_prefix, e)) < 0) return rc;

    int32_t eot, eom, spm = t->kind == TOK_SPM;
    if ((rc = load_id(t, f, KEY("bos_token_id"), types, spm ? 1 : flags.no_bos ? -1 : 11, &t->bos, e)) < 0)
        return rc;
    if ((rc = load_id(t, f, KEY("eos_token_id"), types, spm ? 2 : 11, &t->eos, e)) < 0) return rc;
    if ((rc = load_id(t, f, KEY("eot_token_id"), types, -1, &eot, e)) < 0) return rc;
    if ((rc = load_id(t, f, KEY("eom_token_id"), types, -1, &eom, e)) < 0) return rc;
    if ((rc = load_id(t, f, KEY("unknown_token_id"), types, spm ? 0 : -1, &t->unk, e)) < 0) return rc;
    mark_ends(t, eot, eom);
    if ((rc = strip_rules(t, f, pre, e)) < 0) return rc;
    if (!tok_specials_init(&t->all, t, false) || !tok_specials_init(&t->user, t, true))
        return err_set(e, ERR_NOMEM, "no memory for a vocabulary of %u tokens", t->n);
    return make_pieces(t, e);
}

int tok_create(struct tokenizer **out, const struct gguf *f, struct err *e)
{
    *out = NULL;
    struct tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "no memory for the tokenizer");
    int rc = load(t, f, e);
    if (rc < 0) {
        tok_destroy(&t);
        return err_prefix(e, rc, "'%s'", gguf_path(f));
    }
    *out = t;
    return 0;
}

void tok_destroy(struct tokenizer **tok)
{
    struct tokenizer *t = tok ? *tok : NULL;
    if (!t) return;
    tok_pre_destroy(&t->pre);
    tok_specials_finish(&t->all);
    tok_specials_finish(&t->user);
    free(t->text);
    free(t->hash);
    free(t->arena);
    free(t->merge_arena);
    free(t->score);
    free(t->type);
    free(t->flag);
    free(t->piece);
    free(t->piece_arena);
    free(t->map.slot);
    free(t->pairs);
    free(t);
    *tok = NULL;
}

uint32_t tok_count(const struct tokenizer *t)
{
    return t->n;
}

int32_t tok_bos(const struct tokenizer *t)
{
    return t->bos;
}

int32_t tok_eos(const struct tokenizer *t)
{
    return t->eos;
}

bool tok_add_bos(const struct tokenizer *t)
{
    return t->add_bos && t->bos >= 0;
}

bool tok_is_end(const struct tokenizer *t, int32_t id)
{
    return t->kind != TOK_NONE && id >= 0 && (uint32_t)id < t->n && (t->flag[id] & TOK_END);
}

bool tok_is_control(const struct tokenizer *t, int32_t id)
{
    return t->kind != TOK_NONE && id >= 0 && (uint32_t)id < t->n &&
           (t->type[id] == TOK_CONTROL || t->type[id] == TOK_UNKNOWN);
}

const char *tok_piece(const struct tokenizer *t, int32_t id, bool special, size_t *n)
{
    *n = 0;
    if (t->kind == TOK_NONE || id < 0 || (uint32_t)id >= t->n || (!special && tok_is_control(t, id)))
        return "";
    *n = t->piece[id].n;
    return t->piece[id].s;
}

/* Ordinary text between special tokens. */
static int encode_raw(const struct tokenizer *t, struct tok_work *w, const char *text, size_t n,
                      bool after_special, struct tok_ids *out, struct err *e)
{
    if (t->kind == TOK_BPE) return tok_bpe_encode(t, w, text, n, out, e);
    tok_spm_encode(t, w, text, n, t->add_space_prefix && after_special, out);
    return 0;
}

static int encode(const struct tokenizer *t, const char *text, size_t n, const struct tok_part *parts,
                  size_t n_parts, int32_t **ids, size_t *count, struct err *e)
{
    struct tok_ids out = {0};
    struct tok_work w = {0};
    struct tok_claim *claim = NULL;
    uint8_t *gone = NULL;
    size_t n_claim = 0, at = 0;
    bool after_special = true; /* a text's start counts as such: SPM puts a space there */
    int rc = tok_specials_find(t, text, n, parts, n_parts, &claim, &n_claim, &gone, e);
    for (size_t i = 0; i <= n_claim && rc == 0; i++) {
        size_t end = i < n_claim ? claim[i].at : n;
        while (gone && at < end && gone[at]) at++; /* stripped behind the last one … */
        size_t stop = end;
        while (gone && stop > at && gone[stop - 1]) stop--; /* … and before this one */
        if (stop > at) {
            rc = encode_raw(t, &w, text + at, stop - at, after_special, &out, e);
            after_special = false;
        }
        if (i == n_claim) break;
        tok_ids_add(&out, claim[i].id);
        after_special = true;
        at = end + claim[i].n;
    }
    if (rc == 0 && (out.failed || w.failed)) rc = err_set(e, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
    tok_work_finish(&w);
    free(claim);
    free(gone);
    if (rc < 0)
        free(out.v);
    else {
        *ids = out.v;
        *count = out.n;
    }
    return rc;
}

int tok_encode_parts(const struct tokenizer *t, const struct tok_part *parts, size_t n_parts, int32_t **ids,
                     size_t *count, struct err *e)
{
    *ids = NULL;
    *count = 0;
    if (t->kind == TOK_NONE)
        return err_set(e, ERR_UNSUPPORTED,
                       "the model file has no vocabulary, so text cannot be turned into tokens");
    size_t n = 0;
    for (size_t i = 0; i < n_parts; i++) {
        if (parts[i].n > INT32_MAX / 3 - n)
            return err_set(e, ERR_ARG, "the text is longer than %d bytes: split it", INT32_MAX / 3);
        n += parts[i].n;
    }
    char *joined = NULL;
    const char *text = n_parts ? parts[0].text : NULL;
    if (n_parts > 1) {
        text = joined = malloc(n + 1);
        if (!joined) return err_set(e, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
        for (size_t i = 0, at = 0; i < n_parts; at += parts[i++].n)
            if (parts[i].n) memcpy(joined + at, parts[i].text, parts[i].n);
    }
    int rc = encode(t, n ? text : "", n, parts, n_parts, ids, count, e);
    free(joined);
    if (rc == 0 && !*ids && !(*ids = malloc(sizeof **ids))) /* an empty result is not NULL */
        rc = err_set(e, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
    return rc;
}

int tok_encode(const struct tokenizer *t, const char *text, size_t n, bool special, int32_t **ids,
               size_t *count, struct err *e)
{
    struct tok_part part = {text, n, special};
    return tok_encode_parts(t, &part, 1, ids, count, e);
}
