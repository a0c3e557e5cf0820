/* Pre-tokenisers: regular expressions that cut a text into words before byte-pair merging. A file names one
 * (tokenizer.ggml.pre); several expressions are applied one after another, each inside the pieces of the one
 * before, and what lies between two matches is a piece too. The expressions are those the models were trained
 * with as llama.cpp states them, written so that no text makes one of them look at a byte more than a few
 * times. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer_parts.h"

#include "base/err.h"
#include "base/log.h"

#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Classes, for use inside brackets. PCRE2 10.42 knows Unicode 14: what 15.1 added is spelled out, so that the
 * cut does not depend on the library's version. Its own \s has U+180E, which is no space any more. */
#define SP "\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define LETTER                                                                                               \
    "\\p{L}\\x{1123f}\\x{11240}\\x{11f02}\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-"    \
    "\\x{13446}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{"      \
    "2b739}"                                                                                                 \
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}"
#define NUMBER "\\p{N}\\x{11f50}-\\x{11f59}\\x{1d2c0}-\\x{1d2d3}\\x{1e4f0}-\\x{1e4f9}"
#define ACCENT                                                                                               \
    "\\p{M}\\x{cf3}\\x{ece}\\x{10efd}-\\x{10eff}\\x{11241}\\x{11f00}\\x{11f01}\\x{11f03}\\x{11f34}-\\x{"     \
    "11f3a}"                                                                                                 \
    "\\x{11f3e}-\\x{11f42}\\x{13440}\\x{13447}-\\x{13455}\\x{1e08f}\\x{1e4ec}-\\x{1e4ef}"
#define PUNCT "\\p{P}\\x{11b00}-\\x{11b09}\\x{11f43}-\\x{11f4f}"
#define SYMBOL                                                                                               \
    "\\p{S}\\x{2ffc}-\\x{2fff}\\x{31ef}\\x{1f6dc}\\x{1f774}-\\x{1f776}\\x{1f77b}-\\x{1f77f}\\x{1f7d9}"       \
    "\\x{1fa75}-\\x{1fa77}\\x{1fa87}\\x{1fa88}\\x{1faad}-\\x{1faaf}\\x{1fabb}-\\x{1fabd}\\x{1fabf}"          \
    "\\x{1face}\\x{1facf}\\x{1fada}\\x{1fadb}\\x{1fae8}\\x{1faf7}\\x{1faf8}"
/* Letters that are not ASCII lower (upper) case: tekken's notion of case. The first needs "[^" in front, and
 * names what is left out (and so lacks the letters that Unicode 15 added). */
#define NOT_UPPERISH "a-z\\P{L}"
#define NOT_LOWERISH "A-Z\\P{L}"

#define SPACES   "[" SP "]+(?![^" SP "])"
#define CONTRACT "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define GPT2                                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?[" LETTER "]+| ?[" NUMBER "]+| ?[^" SP LETTER NUMBER "]+|" SPACES "|[" SP "]"
/* Llama 3's, with the number of digits that go together. */
#define LLAMA3(digits)                                                                                       \
    CONTRACT "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]" digits "| ?[^" SP LETTER NUMBER        \
             "]+[\\r\\n]*|[" SP "]*[\\r\\n]+|" SPACES "|[" SP "]+"
#define TEKKEN(tail, digits)                                                                                 \
    "[^\\r\\n" LETTER NUMBER "]?[^" NOT_UPPERISH "]*[^" NOT_LOWERISH "]+" tail "|[^\\r\\n" LETTER NUMBER     \
    "]?[^" NOT_UPPERISH "]+[^" NOT_LOWERISH "]*" tail "|[" NUMBER "]" digits "| ?[^" SP LETTER NUMBER        \
    "]+[\\r\\n/]*|[" SP "]*[\\r\\n]+|" SPACES "|[" SP "]+"
/* llama.cpp leaves '~' out of the symbols here; the models' own tokenizers do not. */
#define DEEPSEEK3                                                                                            \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n" LETTER PUNCT SYMBOL "]?[" LETTER ACCENT \
    "]+| ?[" PUNCT SYMBOL "]+[\\r\\n]*|[" SP "]*[\\r\\n]+|" SPACES "|[" SP "]+"
/* U+4E00–9FA5, U+0800–4E00 less the spaces in it, Hangul: DeepSeek's third class. */
#define CJK                                                                                                  \
    "[\\x{800}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{"    \
    "2060}-"                                                                                                 \
    "\\x{2fff}\\x{3001}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+"
#define FINNISH " ?[^(|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})" SP "]+"
/* DeepSeek LLM's letters: cased ones as Unicode 13 had them. */
#define CASED                                                                                                \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                           \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}"           \
    "\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}"                   \
    "\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}"            \
    "\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"                           \
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}"                           \
    "\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}"                   \
    "\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"                  \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"                           \
    "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}"                   \
    "\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}"                             \
    "\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}"                   \
    "\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}"                            \
    "\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}"                           \
    "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}"                           \
    "\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}"                     \
    "\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
/* Spaces at the very end of a piece; the look-behind keeps the search from starting inside the run again. */
#define SPACES_AT_END "(?<![" SP "])[" SP "]++\\z"

#define MAX_EXPRESSIONS 6
struct family {
    const char *names; /* separated by spaces */
    struct tok_pre_flags flags;
    const char *expression[MAX_EXPRESSIONS];
};
/* The first is the default. */
static const struct family families[] = {
    {"default", {0}, {"[" PUNCT "$+<=>^~|]+", GPT2, "[" NUMBER "]+", "[0-9][0-9][0-9]"}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 laguna jina-v5-nano",
     {.ignore_merges = true, .add_bos = true},
     {LLAMA3("{1,3}")}},
    {"dbrx smaug-bpe", {0}, {LLAMA3("{1,3}")}},
    {"chatglm-bpe glm4", {.no_bos = true}, {LLAMA3("{1,3}")}},
    {"qwen2 deepseek-r1-qwen stablelm2 megrez hunyuan solar-open grok-2 kormo openpangu f2llmv2",
     {0},
     {LLAMA3("")}},
    {"qwen35",
     {0},
     {CONTRACT "|[^\\r\\n" LETTER NUMBER "]?[" LETTER ACCENT "]+|[" NUMBER "]| ?[^" SP LETTER ACCENT NUMBER
               "]+[\\r\\n]*|[" SP "]*[\\r\\n]+|" SPACES "|[" SP "]+"}},
    {"bailingmoe bailingmoe2 llada-moe",
     {0},
     {CONTRACT "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]| ?[^" SP LETTER NUMBER
               "]+[\\r\\n]*|[" SP "]*[\\r\\n]|" SPACES "|[" SP "]+"}},
    {"seed-coder",
     {0},
     {CONTRACT "|[^\\r\\n" LETTER NUMBER "]?[" LETTER "]+|[" NUMBER "]| ?[^\\r\\n" SP LETTER NUMBER "]+|[" SP
               "]*[\\r\\n]+|" SPACES "|[" SP "]+"}},
    {"tekken", {.ignore_merges = true, .add_bos = true}, {TEKKEN("", "")}},
    {"gpt-4o llama4 kanana2 minimax-m2", {0}, {TEKKEN(CONTRACT "?", "{1,3}")}},
    {"gpt-2 phi-2 mpt olmo jais trillion granite-docling gigachat jina-es jina-de jina-v1-en jina-v2-es "
     "jina-v2-de "
     "jina-v2-code roberta-bpe exaone4 a.x-4.0 mellum modern-bert",
     {0},
     {GPT2}},
    {"starcoder refact command-r cohere2_moe smollm codeshell exaone minerva-7b mellum2",
     {0},
     {"[" NUMBER "]", GPT2}},
    {"falcon", {0}, {"[" PUNCT "$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"deepseek-llm",
     {0},
     {"[\\r\\n]", "[" SP "]?[" CASED "]+",
      "[" SP "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3001}\\x{3002}]+",
      SPACES_AT_END, CJK, "[" NUMBER "]+"}},
    {"deepseek-coder",
     {0},
     {"[\\r\\n]", "[" SP "]?[" LETTER "]+", "[" SP "]?[" PUNCT "]+", CJK, "[" NUMBER "]"}},
    {"deepseek-v3 hunyuan-dense joyai-llm",
     {0},
     {"[" NUMBER "]{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+", DEEPSEEK3}},
    {"poro-chat bloom gpt3-finnish", {0}, {FINNISH}},
    {"viking", {0}, {FINNISH, "[" NUMBER "]"}},
    {"chameleon",
     {.add_bos = true},
     {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "[" NUMBER "]",
      "[" PUNCT "!-/:-@\\[-`{-~]", GPT2}},
    {"gemma4", {.raw = true}, {"[^\\n]+|\\n+"}},
};

struct tok_pre {
    pcre2_code *code[MAX_EXPRESSIONS];
    int n;
};

static const struct family *find(const char *name, size_t n)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (const char *p = families[i].names; *p;) {
            size_t len = strcspn(p, " ");
            if (len == n && memcmp(p, name, n) == 0) return &families[i];
            p += len + (p[len] == ' ');
        }
    return NULL;
}

int tok_pre_create(struct tok_pre **out, const char *name, size_t n, struct tok_pre_flags *flags,
                   struct err *e)
{
    const struct family *f = find(name, n);
    if (!f) {
        f = &families[0];
        if (n)
            log_warn(
                "pre-tokeniser '%.*s' is not known: words are cut by the default rule, so the model may see "
                "other tokens than it was trained on",
                (int)(n < 80 ? n : 80), name);
        else
            log_warn(
                "the file names no pre-tokeniser (tokenizer.ggml.pre): words are cut by the default rule");
    }
    *flags = f->flags;
    struct tok_pre *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NOMEM, "no memory for the pre-tokeniser");
    *out = p;
    for (; p->n < MAX_EXPRESSIONS && f->expression[p->n]; p->n++) {
        int code;
        PCRE2_SIZE at;
        p->code[p->n] = pcre2_compile((PCRE2_SPTR)f->expression[p->n], PCRE2_ZERO_TERMINATED,
                                      PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
        if (!p->code[p->n]) {
            unsigned char msg[120] = "";
            pcre2_get_error_message(code, msg, sizeof msg);
            return err_set(e, ERR_UNSUPPORTED,
                           "libpcre2 refuses the pre-tokeniser '%.*s' (part %d, offset %zu): %s",
                           (int)(n < 80 ? n : 80), name, p->n + 1, (size_t)at, (char *)msg);
        }
        /* Without executable memory this fails, and the interpreter does the work. */
        pcre2_jit_compile(p->code[p->n], PCRE2_JIT_COMPLETE);
    }
    return 0;
}

void tok_pre_destroy(struct tok_pre **pre)
{
    if (!*pre) return;
    for (int i = 0; i < MAX_EXPRESSIONS; i++) pcre2_code_free((*pre)->code[i]);
    free(*pre);
    *pre = NULL;
}

struct ends {
    uint32_t *v;
    size_t n, cap;
    bool failed;
};

static void add(struct ends *o, size_t end)
{
    if (o->n == o->cap) {
        size_t cap = o->cap ? o->cap * 2 : 256;
        uint32_t *v = realloc(o->v, cap * sizeof *v);
        if (!v) {
            o->failed = true;
            return;
        }
        o->v = v;
        o->cap = cap;
    }
    o->v[o->n++] = (uint32_t)end;
}

/* One expression over one piece; `o` gets the ends of the pieces within. */
static int cut(const pcre2_code *code, pcre2_match_data *md, pcre2_match_context *mc, const char *text,
               size_t begin, size_t end, struct ends *o)
{
    const unsigned char *s = (const unsigned char *)text + begin;
    size_t n = end - begin, at = 0;
    while (at < n && !o->failed) {
        int rc = pcre2_match(code, s, n, at, PCRE2_NO_UTF_CHECK, md, mc);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
            rc = pcre2_match(code, s, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, md, mc);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return rc;
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(md);
        if (v[1] <= at) return PCRE2_ERROR_INTERNAL; /* no expression here matches nothing */
        if (v[0] > at) add(o, begin + v[0]);
        add(o, begin + v[1]);
        at = v[1];
    }
    if (at < n) add(o, end);
    return 0;
}

/* The text with every byte that is no UTF-8 replaced by U+FFFD, as the expressions should see it; NULL with
 * *valid = true where there is none (or without memory). */
static char *repaired(const char *text, size_t n, size_t *len, bool *valid)
{
    size_t bad = 0;
    for (size_t i = 0; i < n;) {
        int k = tok_utf8_len(text + i, n - i);
        bad += k == 0;
        i += k ? (size_t)k : 1;
    }
    *valid = bad == 0;
    if (!bad) return NULL;
    *len = n + 2 * bad;
    char *s = malloc(*len), *p = s;
    for (size_t i = 0; s && i < n;) {
        int k = tok_utf8_len(text + i, n - i);
        if (k)
            memcpy(p, text + i, (size_t)k);
        else
            memcpy(p, "\xef\xbf\xbd", 3);
        p += k ? k : 3;
        i += k ? (size_t)k : 1;
    }
    return s;
}

int tok_pre_split(const struct tok_pre *p, const char *text, size_t n, uint32_t **ends, size_t *count,
                  struct err *e)
{
    struct ends a = {0}, b = {0};
    bool valid;
    size_t len = n;
    int rc = 0;
    char *fixed = repaired(text, n, &len, &valid);
    const char *s = valid ? text : fixed;
    pcre2_match_data *md = pcre2_match_data_create(1, NULL);
    pcre2_match_context *mc = pcre2_match_context_create(NULL);
    if (!s || !md || !mc || len > UINT32_MAX) goto nomem;
    /* The expressions need a step or two a byte; the limits are there for the day one of them does not. */
    pcre2_set_match_limit(mc, len < 100000000 ? 1000000 + 20 * (uint32_t)len : UINT32_MAX);
    pcre2_set_heap_limit(mc, 1u << 20);
    add(&a, len);
    for (int k = 0; k < p->n; k++) {
        b.n = 0;
        size_t begin = 0;
        for (size_t i = 0; i < a.n && !b.failed; begin = a.v[i++]) {
            rc = cut(p->code[k], md, mc, s, begin, a.v[i], &b);
            if (rc) {
                unsigned char msg[120] = "";
                pcre2_get_error_message(rc, msg, sizeof msg);
                rc = err_set(e, ERR_UNSUPPORTED,
                             "cutting a text of %zu bytes into words failed: libpcre2 says: %s", n,
                             (char *)msg);
                goto out;
            }
        }
        struct ends t = a;
        a = b;
        b = t;
    }
    if (a.failed || b.failed) goto nomem;
    if (!valid) { /* back to the text's own bytes: each U+FFFD that is not in it was one byte */
        size_t at = 0, from = 0;
        for (size_t i = 0; i < a.n; i++) {
            while (from < a.v[i]) {
                int k = tok_utf8_len(text + at, n - at);
                at += k ? (size_t)k : 1;
                from += k ? (size_t)k : 3;
            }
            a.v[i] = (uint32_t)at;
        }
    }
    *ends = a.v;
    *count = a.n;
    a.v = NULL;
    goto out;
nomem:
    rc = err_set(e, ERR_NOMEM, "no memory to tokenize %zu bytes", n);
out:
    free(fixed);
    free(a.v);
    free(b.v);
    pcre2_match_data_free(md);
    pcre2_match_context_free(mc);
    return rc;
}
