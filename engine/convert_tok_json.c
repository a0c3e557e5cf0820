/* tokenizer.json: the vocabulary, merges and added tokens of Hugging Face's tokenizers library, and which of
 * the known pre-tokenisers its description amounts to. Also the older pair vocab.json and merges.txt. */
#include "engine/convert_tok_parts.h"

#include "base/err.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static bool is(const json_t *o, const char *type)
{
    return strcmp(text_of(o, "type"), type) == 0;
}

static bool is_false(const json_t *o, const char *key)
{
    return json_is_false(json_object_get(o, key));
}

/* ---- The pre-tokeniser ---- */

/* Regular expressions by a part that tells them apart; the first that fits counts. */
static const char *by_regex(const char *x, bool whole_words)
{
    static const char upper[] = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*";
    if (strstr(x, upper)) {
        if (strstr(x, "\\p{Han}")) return NULL;
        if (strstr(x, "'s") || strstr(x, "'S") || strstr(x, "'[sS]"))
            return strstr(x, "\\p{N}{1,3}") ? "gpt-4o" : NULL;
        return strstr(x, "\\p{N}{1,3}") ? NULL : "tekken";
    }
    bool cased = strstr(x, "(?i:'s|'t|'re|'ve|'m|'ll|'d)") || strstr(x, "(?:'[sS]|'[tT]|'[rR][eE]|") ||
                 strstr(x, "'(?i:[sdmt]|ll|ve|re)") || strstr(x, "'(?:[sSdDmMtT]|[lL][lL]|");
    if (cased && strstr(x, "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+"))
        return strstr(x, "\\p{N}{1,3}") ? NULL : "qwen35";
    if (cased && strstr(x, "[^\\r\\n\\p{L}\\p{N}]?")) {
        if (strstr(x, "|\\p{N}{1,3}|") || strstr(x, "|\\p{N}{1,3}+|"))
            return whole_words ? "llama-bpe" : "dbrx";
        if (strstr(x, "[^\\s\\p{L}\\p{N}\\r\\n]+|")) return "seed-coder";
        if (strstr(x, "|\\s*[\\r\\n]|")) return "bailingmoe";
        return strstr(x, "|\\p{N}|") || strstr(x, "|\\p{N}{1}|") ? "qwen2" : NULL;
    }
    if (strstr(x, "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)"))
        return "gpt-2";
    if (strstr(x, "][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+") ||
        strstr(x, "][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"))
        return "deepseek-v3";
    if (strncmp(x, "\\s?[A-Za-z", 10) == 0) return "deepseek-llm";
    if (strcmp(x, "\\s?\\p{L}+") == 0) return "deepseek-coder";
    if (strstr(x, ".,!?\xe2\x80\xa6\xe3\x80\x82\xef\xbc\x8c\xe3\x80\x81\xe0\xa5\xa4\xdb\x94\xd8\x8c"))
        return "bloom";
    return NULL;
}

struct steps {
    bool bytes, bytes_cut; /* ByteLevel, and with GPT-2's expression */
    bool digits, digits_one, punctuation, threes, numbers, other;
    const char *regex; /* what an expression amounts to */
    bool unknown_regex;
};

static void look_at(const json_t *p, bool whole_words, struct steps *s)
{
    if (is(p, "ByteLevel")) {
        s->bytes = true;
        s->bytes_cut |= !is_false(p, "use_regex");
        if (json_is_true(json_object_get(p, "add_prefix_space")))
            log_warn("tokenizer.json: texts get a space in front; that step is not carried over");
    } else if (is(p, "Digits")) {
        s->digits = true;
        s->digits_one |= json_is_true(json_object_get(p, "individual_digits"));
    } else if (is(p, "Punctuation"))
        s->punctuation = true;
    else if (is(p, "Split")) {
        const json_t *pattern = json_object_get(p, "pattern");
        const char *x = text_of(pattern, "Regex"), *name = *x ? by_regex(x, whole_words) : NULL;
        if (strcmp(x, "[0-9][0-9][0-9]") == 0)
            s->threes = true;
        else if (strcmp(x, "\\p{N}{1,3}") == 0 || strcmp(x, "\\p{N}") == 0)
            s->numbers = true;
        else if (name && (!s->regex || strcmp(name, "deepseek-v3") == 0))
            s->regex = name;
        else if (!name && strncmp(x, "[\\r\\n]", 6) && strncmp(x, "[\r\n]", 4) && strncmp(x, "\\s?", 3) &&
                 strcmp(x, "\\s+$") && strncmp(x, "[\xe4\xb8\x80-\xe9\xbe\xa5", 8))
            s->unknown_regex = true; /* those left out here are parts of DeepSeek's lists */
    } else
        s->other = true;
}

const char *hf_pre_tokenizer(const json_t *tree)
{
    const json_t *p = json_object_get(tree, "pre_tokenizer"), *one;
    bool whole_words = json_is_true(json_object_get(json_object_get(tree, "model"), "ignore_merges"));
    struct steps s = {0};
    size_t i;
    if (is(p, "Sequence")) {
        json_array_foreach(json_object_get(p, "pretokenizers"), i, one) look_at(one, whole_words, &s);
    } else
        look_at(p, whole_words, &s);
    if (!s.bytes || s.other || s.unknown_regex) return NULL;
    if (s.punctuation) return s.bytes_cut && s.threes && !s.regex ? "falcon" : NULL;
    if (s.threes) return NULL;
    if (s.regex) return s.bytes_cut ? NULL : s.regex;
    if (s.bytes_cut && !s.numbers) return !s.digits ? "gpt-2" : s.digits_one ? "starcoder" : NULL;
    return s.bytes_cut && s.numbers && !s.digits ? "starcoder" : NULL;
}

/* ---- Vocabulary and merges ---- */

static int read_vocab(struct hf_vocab *v, const json_t *vocab, const char *where, struct err *e)
{
    const char *key;
    size_t len;
    json_t *value;
    if (!json_is_object(vocab))
        return err_set(e, ERR_FORMAT, "%s: expected an object of tokens and ids", where);
    json_object_keylen_foreach((json_t *)vocab, key, len, value)
    {
        if (!json_is_integer(value))
            return err_set(e, ERR_FORMAT, "%s: token '%.60s' has no whole number as id", where, key);
        int rc = hf_vocab_set(v, json_integer_value(value), key, len, TOK_NORMAL, 0, where, e);
        if (rc < 0) return rc;
    }
    return 0;
}

static int add_merge(struct hf_vocab *v, const char *a, size_t na, const char *b, size_t nb, struct err *e)
{
    char *s = malloc(na + nb + 1);
    char *kept = NULL;
    if (s) {
        memcpy(s, a, na);
        s[na] = ' ';
        memcpy(s + na + 1, b, nb);
        kept = hf_vocab_keep(v, s, na + nb + 1);
    }
    free(s);
    if (!kept) return err_set(e, ERR_NOMEM, "no memory for the merges");
    v->merge[v->n_merge++] = (struct gguf_str){kept, na + nb + 1};
    return 0;
}

static int read_merges(struct hf_vocab *v, const json_t *merges, const char *where, struct err *e)
{
    size_t i;
    json_t *m;
    if (!json_is_array(merges))
        return err_set(e, ERR_FORMAT, "%s: expected an array 'merges' in the model", where);
    v->merge = calloc(json_array_size(merges) + 1, sizeof *v->merge);
    if (!v->merge) return err_set(e, ERR_NOMEM, "no memory for the merges");
    json_array_foreach(merges, i, m)
    {
        const json_t *a = json_array_get(m, 0), *b = json_array_get(m, 1);
        if (json_is_string(m))
            v->merge[v->n_merge++] = (struct gguf_str){json_string_value(m), json_string_length(m)};
        else if (json_array_size(m) == 2 && json_is_string(a) && json_is_string(b)) {
            int rc = add_merge(v, json_string_value(a), json_string_length(a), json_string_value(b),
                               json_string_length(b), e);
            if (rc < 0) return rc;
        } else
            return err_set(e, ERR_FORMAT, "%s: merge %zu: expected \"left right\" or [\"left\", \"right\"]",
                           where, i);
    }
    return 0;
}

static int read_added(struct hf_vocab *v, const json_t *added, const char *where, struct err *e)
{
    size_t i;
    json_t *t;
    json_array_foreach(added, i, t)
    {
        const json_t *id = json_object_get(t, "id"), *content = json_object_get(t, "content");
        if (!json_is_integer(id) || !json_is_string(content))
            return err_set(e, ERR_FORMAT, "%s: added token %zu: expected 'id' and 'content'", where, i);
        int rc =
            hf_vocab_add(v, json_integer_value(id), json_string_value(content), json_string_length(content),
                         json_is_true(json_object_get(t, "special")), where, e);
        if (rc < 0) return rc;
    }
    return 0;
}

/* Whether texts begin with a token that a template puts there, and whether a space is put in front. */
static void read_processor(struct hf_vocab *v, const json_t *p)
{
    size_t i;
    json_t *one;
    if (is(p, "Sequence")) {
        json_array_foreach(json_object_get(p, "processors"), i, one) if (!is(one, "Sequence"))
            read_processor(v, one);
    } else if (is(p, "TemplateProcessing")) {
        const json_t *single = json_object_get(p, "single");
        size_t n = json_array_size(single);
        v->add_bos = n && json_object_get(json_array_get(single, 0), "SpecialToken");
        v->add_eos = n && json_object_get(json_array_get(single, n - 1), "SpecialToken") && n > 1;
    }
}

static bool mentions(const json_t *p, const char *list, const char *type)
{
    size_t i;
    json_t *one;
    if (is(p, type)) return true;
    json_array_foreach(json_object_get(p, list), i, one) if (is(one, type)) return true;
    return false;
}

/* SentencePiece's way in the tokenizers library: U+2581 for spaces, and bytes as tokens. Merging there goes
 * by the rank of a pair, in GGUF by the score of what comes out: a token's score is minus the first rank that
 * makes it. */
static int as_sentencepiece(struct hf_vocab *v, const json_t *tree, const char *where, struct err *e)
{
    const json_t *model = json_object_get(tree, "model"), *normalizer = json_object_get(tree, "normalizer"),
                 *pre = json_object_get(tree, "pre_tokenizer");
    json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_true(json_object_get(model, "byte_fallback")))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a byte-pair vocabulary that is neither GPT-2's kind (bytes) nor SentencePiece's "
                       "(with byte_fallback): Calor cannot write it as GGUF",
                       where);
    for (uint32_t i = 0; i < v->n; i++) v->score[i] = -(float)(v->n_merge + 1);
    for (size_t k = v->n_merge; k-- > 0;) {
        const struct gguf_str *m = &v->merge[k];
        const char *gap = m->n > 1 ? memchr(m->s + 1, ' ', m->n - 1) : NULL;
        char joined[512];
        size_t a = gap ? (size_t)(gap - m->s) : 0, b = gap ? m->n - a - 1 : 0;
        if (!gap || a + b > sizeof joined) continue;
        memcpy(joined, m->s, a);
        memcpy(joined + a, gap + 1, b);
        const json_t *id = json_object_getn(vocab, joined, a + b);
        int64_t at = json_is_integer(id) ? json_integer_value(id) : -1;
        if (at >= 0 && at < v->n) v->score[at] = -(float)k;
    }
    for (uint32_t i = 0; i < v->n; i++) /* "<0x41>" */
        if (v->type[i] == TOK_NORMAL && v->tok[i].n == 6 && memcmp(v->tok[i].s, "<0x", 3) == 0 &&
            v->tok[i].s[5] == '>')
            v->type[i] = TOK_BYTE;
    const char *scheme = text_of(pre, "prepend_scheme");
    bool metaspace = is(pre, "Metaspace");
    v->add_space_prefix = metaspace ? strcmp(scheme, "never") && !is_false(pre, "add_prefix_space")
                                    : mentions(normalizer, "normalizers", "Prepend");
    v->model = "llama";
    v->pre = "default";
    v->n_merge = 0;
    const json_t *unk = json_object_get(model, "unk_token"),
                 *id = json_is_string(unk) ? json_object_get(vocab, json_string_value(unk)) : NULL;
    if (json_is_integer(id)) {
        v->unk = json_integer_value(id);
        if (v->unk >= 0 && v->unk < v->n) v->type[v->unk] = TOK_UNKNOWN;
    }
    return 0;
}

int hf_read_tokenizer_json(struct hf_vocab *v, const json_t *tree, const char *where, struct err *e)
{
    const json_t *model = json_object_get(tree, "model"), *pre = json_object_get(tree, "pre_tokenizer");
    const json_t *merges = json_object_get(model, "merges");
    /* Old files leave out the model's type; a byte-pair model is the one with merges. */
    if (!is(model, "BPE") && !(*text_of(model, "type") == 0 && merges))
        return err_set(e, ERR_UNSUPPORTED,
                       "%s: a tokenizer of the kind '%.40s'; Calor reads byte-pair (BPE) ones", where,
                       *text_of(model, "type") ? text_of(model, "type") : "unknown");
    int rc = read_vocab(v, json_object_get(model, "vocab"), where, e);
    if (rc == 0) rc = read_merges(v, merges, where, e);
    if (rc < 0) return rc;
    if (mentions(pre, "pretokenizers", "ByteLevel")) {
        v->model = "gpt2";
        v->pre = hf_pre_tokenizer(tree);
        if (!v->pre)
            return err_set(e, ERR_UNSUPPORTED,
                           "%s: its pre-tokeniser is none of those a GGUF file can name: with another one "
                           "the model would see other tokens than it was trained on",
                           where);
    } else if ((rc = as_sentencepiece(v, tree, where, e)) < 0)
        return rc;
    read_processor(v, json_object_get(tree, "post_processor"));
    return read_added(v, json_object_get(tree, "added_tokens"), where, e);
}

int hf_read_vocab_json(struct hf_vocab *v, const json_t *vocab, const char *merges, size_t n_merges,
                       const char *where, struct err *e)
{
    int rc = read_vocab(v, vocab, where, e);
    if (rc < 0) return rc;
    size_t lines = 1;
    for (size_t i = 0; i < n_merges; i++) lines += merges[i] == '\n';
    v->merge = calloc(lines, sizeof *v->merge);
    if (!v->merge) return err_set(e, ERR_NOMEM, "no memory for the merges");
    for (size_t at = 0; at < n_merges;) {
        const char *eol = memchr(merges + at, '\n', n_merges - at);
        size_t len = eol ? (size_t)(eol - merges) - at : n_merges - at, n = len;
        if (n && merges[at + n - 1] == '\r') n--;
        /* "#version: 0.2" stands in the first line only: '#' begins merges too */
        if (n && !(at == 0 && n > 8 && memcmp(merges, "#version", 8) == 0))
            v->merge[v->n_merge++] = (struct gguf_str){merges + at, n};
        at += len + 1;
    }
    v->model = "gpt2";
    v->pre = "gpt-2";
    return 0;
}
