/* engine/tokenizer: vocabularies written into small files by the test, and the published vectors where
 * $CALOR_SHARED has them. */
#include "tests/unit/cmocka_all.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "engine/tokenizer_parts.h"
#include "io/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[64];
static int warnings;

static void count_warnings(enum log_level level, const char *line, void *arg)
{
    (void)line;
    (void)arg;
    warnings += level == LOG_WARN;
}

static int set_up(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/calor-tok-XXXXXX");
    log_set_sink(count_warnings, NULL);
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    log_set_sink(NULL, NULL);
    return rmdir(dir);
}

/* A vocabulary to be written: strings end with NULL. */
struct vocab {
    const char *model, *pre, *name;
    const char *const *tokens, *const *merges;
    const float *scores;
    const int32_t *types;
    int64_t n_scores, n_types; /* 0: as many as tokens; -1: leave out */
    const char *id_key;
    int64_t id;
    int space_prefix; /* 0: not said, 1: true, 2: false */
};

static uint64_t put_list(struct gguf_writer *w, const char *key, const char *const *s)
{
    struct err e;
    struct gguf_str v[600];
    uint64_t n = 0;
    for (; s[n]; n++) v[n] = (struct gguf_str){s[n], strlen(s[n])};
    assert_int_equal(gguf_put_strs(w, key, v, n, &e), 0);
    return n;
}

/* Writes, opens and reads one; rc is what tok_create said. */
static struct tokenizer *make(const struct vocab *v, int *rc, struct err *e)
{
    char path[100];
    snprintf(path, sizeof path, "%s/v.gguf", dir);
    struct gguf_writer *w;
    struct gguf *f;
    struct tokenizer *t = NULL;
    assert_int_equal(gguf_writer_create(&w, path, e), 0);
    assert_int_equal(gguf_put_str(w, "general.architecture", "llama", e), 0);
    if (v->name) assert_int_equal(gguf_put_str(w, "general.name", v->name, e), 0);
    if (v->model) assert_int_equal(gguf_put_str(w, "tokenizer.ggml.model", v->model, e), 0);
    if (v->pre) assert_int_equal(gguf_put_str(w, "tokenizer.ggml.pre", v->pre, e), 0);
    uint64_t n = v->tokens ? put_list(w, "tokenizer.ggml.tokens", v->tokens) : 0;
    if (v->merges) put_list(w, "tokenizer.ggml.merges", v->merges);
    if (v->scores && v->n_scores >= 0)
        assert_int_equal(gguf_put_arr(w, "tokenizer.ggml.scores", GGUF_F32, v->scores,
                                      v->n_scores ? (uint64_t)v->n_scores : n, e),
                         0);
    if (v->types && v->n_types >= 0)
        assert_int_equal(gguf_put_arr(w, "tokenizer.ggml.token_type", GGUF_I32, v->types,
                                      v->n_types ? (uint64_t)v->n_types : n, e),
                         0);
    if (v->id_key) assert_int_equal(gguf_put_u32(w, v->id_key, (uint32_t)v->id, e), 0);
    if (v->space_prefix)
        assert_int_equal(gguf_put_bool(w, "tokenizer.ggml.add_space_prefix", v->space_prefix == 1, e), 0);
    assert_int_equal(gguf_write_header(w, e), 0);
    assert_int_equal(gguf_writer_finish(w, e), 0);
    gguf_writer_destroy(&w);
    assert_int_equal(gguf_open(&f, path, GGUF_MMAP, e), 0);
    *rc = tok_create(&t, f, e);
    gguf_close(&f); /* the tokenizer must not need it */
    unlink(path);
    assert_true((*rc == 0) == (t != NULL));
    return t;
}

/* The ids of a text as "1 2 3", in one of a few static buffers. */
static const char *ids_of(const struct tokenizer *t, const char *text, size_t n, bool special)
{
    static char buf[4][4000];
    static int turn;
    char *s = buf[turn++ % 4], *p = s;
    struct err e;
    int32_t *ids;
    size_t count;
    assert_int_equal(tok_encode(t, text, n, special, &ids, &count, &e), 0);
    *p = 0;
    for (size_t i = 0; i < count && p < s + 3900; i++) p += sprintf(p, "%s%d", i ? " " : "", ids[i]);
    free(ids);
    return s;
}
#define IDS(t, text)     ids_of(t, text, strlen(text), false)
#define SPECIAL(t, text) ids_of(t, text, strlen(text), true)

/* Text → ids → text by the streaming detokenizer gives back the text. */
static void round_trip(const struct tokenizer *t, const char *text, size_t n)
{
    struct err e;
    int32_t *ids;
    size_t count;
    assert_int_equal(tok_encode(t, text, n, true, &ids, &count, &e), 0);
    struct strbuf b;
    struct tok_stream s;
    strbuf_init(&b);
    tok_stream_init(&s, true);
    for (size_t i = 0; i < count; i++) tok_stream_add(&s, t, ids[i], true, &b);
    tok_stream_flush(&s, &b);
    assert_int_equal(b.len, n);
    if (n) assert_memory_equal(b.s, text, n);
    strbuf_finish(&b);
    free(ids);
}

#define MARK "\xe2\x96\x81"

/* ---- SentencePiece: 0 <unk>, 1 <s>, 2 </s>, 3…258 bytes, then these ---- */
static char byte_names[256][8];
static const char *spm_tokens[300];
static float spm_scores[300];
static int32_t spm_types[300];

static struct vocab spm_vocab(const char *const *words)
{
    const char *first[] = {"<unk>", "<s>", "</s>"};
    int n = 0;
    for (; n < 3; n++) spm_tokens[n] = first[n], spm_types[n] = n ? 3 : 2;
    for (int b = 0; b < 256; b++, n++) {
        snprintf(byte_names[b], sizeof byte_names[b], "<0x%02X>", b);
        spm_tokens[n] = byte_names[b];
        spm_types[n] = 6;
    }
    for (int i = 0; words[i]; i++, n++) {
        spm_tokens[n] = words[i];
        spm_types[n] = 1;
        spm_scores[n] = -(float)i;
    }
    spm_tokens[n] = NULL;
    return (struct vocab){.model = "llama", .tokens = spm_tokens, .scores = spm_scores, .types = spm_types};
}

static void spm_joins_best_score_first(void **state)
{
    (void)state;
    /* ids from 259: 259 ab, 260 bc, 261 a, 262 b, 263 c, 264 ▁, 265 ▁a, 266 abc, 267 é */
    const char *words[] = {"ab",       "bc", "a",  "b", "c", MARK, MARK "a", "abc",
                           "\xc3\xa9", "gh", "hj", "g", "h", "j",  NULL};
    struct vocab v = spm_vocab(words);
    struct err e;
    int rc;
    struct tokenizer *t = make(&v, &rc, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(tok_count(t), 273);
    assert_int_equal(tok_bos(t), 1);
    assert_int_equal(tok_eos(t), 2);
    assert_true(tok_add_bos(t) && tok_is_end(t, 2) && !tok_is_end(t, 1) && tok_is_control(t, 1) &&
                !tok_is_control(t, 3));
    assert_string_equal(IDS(t, ""), "");
    /* "▁abc": ab (score 0) first, then ▁|abc: abc is a token, "▁abc" is none */
    assert_string_equal(IDS(t, "abc"), "264 266");
    assert_string_equal(IDS(t, "bc"), "264 260");
    assert_string_equal(IDS(t, "ghj"), "264 268 272");
    assert_string_equal(IDS(t, "a a"), "265 265");
    assert_string_equal(IDS(t, "\xc3\xa9"), "264 267");
    assert_string_equal(IDS(t, "z\xe2\x82\xac"), "264 125 229 133 175"); /* bytes: 3 + value */
    /* a control token typed is text unless it may be read; behind it SPM's space is added again */
    assert_string_equal(IDS(t, "a</s>"), "265 63 50 118 65");
    assert_string_equal(SPECIAL(t, "a</s>b"), "265 2 264 262");
    round_trip(t, "a abc  \xc3\xa9 \xf0\x9f\x98\x80\n", 15);
    round_trip(t, "\xff\xe1 a\xf0\x9f \x80", 9); /* bytes that are no UTF-8 come back as they went in */
    tok_destroy(&t);
    assert_null(t);

    v.space_prefix = 2;
    t = make(&v, &rc, &e);
    assert_string_equal(IDS(t, "abc"), "266");
    tok_destroy(&t);
}

static void spm_words_may_span_spaces(void **state)
{
    (void)state;
    /* "a▁b" is a token here, so words are not independent: 259 a, 260 b, 261 ▁, 262 a▁, 263 a▁b */
    const char *words[] = {"a", "b", MARK, "a" MARK, "a" MARK "b", NULL};
    struct vocab v = spm_vocab(words);
    v.space_prefix = 2;
    struct err e;
    int rc;
    struct tokenizer *t = make(&v, &rc, &e);
    assert_string_equal(IDS(t, "a b"), "263");
    assert_string_equal(IDS(t, "a b a"), "263 261 259");
    tok_destroy(&t);
}

static void special_tokens_longest_first(void **state)
{
    (void)state;
    const char *words[] = {"a", MARK, "<x>", "<x><y>", "<y>", "  ", NULL}; /* 259… */
    struct vocab v = spm_vocab(words);
    spm_types[261] = 3;
    spm_types[262] = 3;
    spm_types[263] = 4;
    spm_types[264] = 4;
    v.space_prefix = 2;
    struct err e;
    int rc;
    struct tokenizer *t = make(&v, &rc, &e);
    assert_string_equal(SPECIAL(t, "<x><y>a<x>"), "262 259 261");
    assert_string_equal(SPECIAL(t, "a <y>a"), "259 260 263 259");
    assert_string_equal(IDS(t, "<y>   a"), "263 264 260 259"); /* user-defined ones are always read */
    /* in parts: the same characters count in one and not in the other */
    const struct tok_part parts[] = {{"<x>", 3, true}, {"<x>a", 4, false}, {"<x>", 3, true}};
    int32_t *ids;
    size_t n;
    assert_int_equal(tok_encode_parts(t, parts, 3, &ids, &n, &e), 0);
    assert_int_equal(n, 6);
    assert_int_equal(ids[0], 261);
    assert_int_equal(ids[1], 3 + '<');
    assert_int_equal(ids[4], 259);
    assert_int_equal(ids[5], 261);
    free(ids);
    /* a token must not be put together from two parts */
    const struct tok_part halves[] = {{"<x", 2, true}, {">", 1, false}};
    assert_int_equal(tok_encode_parts(t, halves, 2, &ids, &n, &e), 0);
    assert_int_equal(n, 3);
    free(ids);
    /* and a user-defined one that the template itself uses cannot be typed */
    const struct tok_part typed[] = {{"<y>", 3, true}, {"<y>", 3, false}};
    assert_int_equal(tok_encode_parts(t, typed, 2, &ids, &n, &e), 0);
    assert_int_equal(n, 4);
    assert_int_equal(ids[0], 263);
    assert_int_not_equal(ids[1], 263);
    free(ids);
    tok_destroy(&t);

    v.name = "Phi-3 mini"; /* spaces behind a special token go */
    t = make(&v, &rc, &e);
    assert_string_equal(SPECIAL(t, "<x> \n a<x>\t"), "261 259 261");
    tok_destroy(&t);
}

/* ---- Byte pairs ---- */
static char chars[256][3];
static const char *bpe_tokens[300];

static struct vocab bpe_vocab(const char *const *words, const char *const *merges, const char *pre)
{
    int n = 0;
    for (int b = 0; b < 256;
         b++, n++) { /* as GPT-2: printable Latin-1 bytes are themselves, the others U+0100 on */
        static const int stand_in[4][2] = {{0, 0x20}, {0x7f, 0xa0}, {0xad, 0xad}};
        int cp = b, next = 0x100;
        for (int k = 0; k < 3; next += stand_in[k][1] - stand_in[k][0] + 1, k++)
            if (b >= stand_in[k][0] && b <= stand_in[k][1]) cp = next + b - stand_in[k][0];
        if (cp < 0x80)
            snprintf(chars[b], 3, "%c", cp);
        else
            snprintf(chars[b], 3, "%c%c", 0xc0 | cp >> 6, 0x80 | (cp & 63));
        bpe_tokens[n] = chars[b];
    }
    for (int i = 0; words[i]; i++) bpe_tokens[n++] = words[i];
    bpe_tokens[n] = NULL;
    return (struct vocab){.model = "gpt2", .pre = pre, .tokens = bpe_tokens, .merges = merges};
}

static void bpe_joins_lowest_rank_first(void **state)
{
    (void)state;
    const char *words[] = {"he", "ll", "hell", "\xc4\xa0h", "ello", "12", NULL}; /* 256… */
    const char *merges[] = {"l l", "h e", "he ll", "\xc4\xa0 h", "e l", "x", "", " ", "1 2", NULL};
    struct vocab v = bpe_vocab(words, merges, "gpt-2");
    struct err e;
    int rc;
    struct tokenizer *t = make(&v, &rc, &e);
    assert_int_equal(rc, 0);
    assert_string_equal(IDS(t, "hello"), "258 111");
    assert_string_equal(IDS(t, " hello"), "32 258 111"); /* "he" (rank 1) before " h" (rank 3) */
    assert_string_equal(IDS(t, " h"), "259");
    assert_string_equal(IDS(t, "h e"), "104 32 101"); /* words are apart */
    /* "el" is a merge whose result is no token: its bytes come out */
    assert_string_equal(IDS(t, "el"), "101 108");
    assert_string_equal(IDS(t, "\xf0\x9f\x98\x80"), "240 159 152 128");
    round_trip(t, "hello \xf0\x9f\x98\x80 \xff\xe1 a\xf0\x9f \x80 12", 20);
    tok_destroy(&t);

    /* a word that is a token is taken whole by Llama 3's rule, though no merges lead to it */
    v = bpe_vocab(words, merges, "llama-bpe");
    t = make(&v, &rc, &e);
    assert_string_equal(IDS(t, "ello"), "260");
    assert_string_equal(IDS(t, "ellox"), "101 257 111 120");
    tok_destroy(&t);

    v = bpe_vocab(words, merges, "starcoder"); /* digits one by one */
    t = make(&v, &rc, &e);
    assert_string_equal(IDS(t, "12"), "49 50");
    tok_destroy(&t);

    warnings = 0;
    v = bpe_vocab(words, merges, "no-such-rule");
    t = make(&v, &rc, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(warnings, 1);
    tok_destroy(&t);
}

static void words_are_cut(void **state)
{
    (void)state;
    static const struct {
        const char *pre, *text, *want;
    } cases[] = {
        {"gpt-2", "I'll go  12345 km\n\n x", "I|'ll| go| | 12345| km|\n\n| x"},
        {"llama-bpe", "I'LL go  12345 km\n\n x", "I|'LL| go| | |123|45| km|\n\n| x"},
        {"qwen2", "a12 b\r\n", "a|1|2| b|\r\n"},
        {"starcoder", "a12 b", "a|1|2| b"},
        {"falcon", "x+1234 `y`", "x|+|123|4| |`|y|`"},
        {"default", "x+1234 a", "x|+|123|4| a"},
        {"tekken", "helloWorld HTTPServer 12", "hello|World| HTTPServer| |1|2"},
        {"deepseek-llm", "Hi \xe4\xbd\xa0\xe5\xa5\xbd 12\nx  ", "Hi| |\xe4\xbd\xa0\xe5\xa5\xbd| |12|\n|x|  "},
        {"deepseek-coder", "ab 12!", "ab| |1|2|!"},
        {"deepseek-v3", "ab,cd ~~ 1234", "ab|,cd| ~~| |123|4"},
        {"gpt-4o", "it's HTTPServer1234", "it's| HTTPServer|123|4"},
        {"poro-chat", "ab, cd", "ab|,| cd"},
        {"chameleon", "a    b<sentinel:12>", "a|    |b|<|sentinel|:|1|2|>"},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct err e;
        struct tok_pre *pre = NULL;
        struct tok_pre_flags flags;
        assert_int_equal(tok_pre_create(&pre, cases[c].pre, strlen(cases[c].pre), &flags, &e), 0);
        uint32_t *ends;
        size_t n;
        assert_int_equal(tok_pre_split(pre, cases[c].text, strlen(cases[c].text), &ends, &n, &e), 0);
        struct strbuf b;
        strbuf_init(&b);
        for (size_t i = 0, at = 0; i < n; at = ends[i++]) {
            if (i) strbuf_puts(&b, "|");
            strbuf_add(&b, cases[c].text + at, ends[i] - at);
        }
        assert_string_equal(b.s, cases[c].want);
        strbuf_finish(&b);
        free(ends);
        tok_pre_destroy(&pre);
    }
}

static void no_text_is_slow(void **state)
{
    (void)state;
    const char *words[] = {"aa", "\xc4\xa0\xc4\xa0", "aaaa", NULL};
    const char *merges[] = {"a a", "\xc4\xa0 \xc4\xa0", "aa aa", NULL};
    const char *units[] = {
        "a", "A", " ", "\n", " \n", "7", "!", "'s", "<|", "\xf0\x9f\x98\x80", "\xcc\x81", "\xff", "\xe3\x81"};
    const char *pres[] = {"default",   "llama-bpe", "qwen2",        "tekken",         "gpt-4o",      "gpt-2",
                          "starcoder", "falcon",    "deepseek-llm", "deepseek-coder", "deepseek-v3", "bloom",
                          "viking",    "chameleon", "qwen35",       "seed-coder"};
    size_t n = 1 << 17;
    char *text = malloc(n);
    for (size_t p = 0; p <= sizeof pres / sizeof *pres; p++) {
        struct err e;
        int rc;
        const char *spm[] = {"a", "aa", "aaaa", MARK, MARK MARK, "A", NULL};
        bool last = p == sizeof pres / sizeof *pres;
        struct vocab v = last ? spm_vocab(spm) : bpe_vocab(words, merges, pres[p]);
        struct tokenizer *t = make(&v, &rc, &e);
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            size_t len = strlen(units[u]);
            for (size_t i = 0; i < n; i++) text[i] = units[u][i % len];
            if (u == 2) text[n - 1] = 'x'; /* spaces that do not end the text */
            int32_t *ids;
            size_t count;
            uint64_t t0 = clock_ns();
            assert_int_equal(tok_encode(t, text, n, true, &ids, &count, &e), 0);
            free(ids);
            /* a tenth of a second as a rule; what grows with the square needs minutes */
            if (clock_since(t0) > 4)
                fail_msg("%s: 128 KiB of '%s' took %.1f s", last ? "spm" : pres[p], units[u],
                         clock_since(t0));
        }
        tok_destroy(&t);
    }
    free(text);
}

static void bad_metadata_is_refused(void **state)
{
    (void)state;
    const char *words[] = {"a", NULL};
    const struct vocab good = spm_vocab(words);
    struct err e;
    int rc;
    struct vocab v = good;
    v.n_scores = 259;
    assert_null(make(&v, &rc, &e));
    assert_int_equal(rc, ERR_FORMAT);
    assert_non_null(strstr(e.msg, "scores"));
    v = good, v.n_types = 5;
    assert_null(make(&v, &rc, &e));
    assert_int_equal(rc, ERR_FORMAT);
    assert_non_null(strstr(e.msg, "token_type"));
    const char *ids[] = {"tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                         "tokenizer.ggml.eot_token_id", "tokenizer.ggml.unknown_token_id"};
    for (size_t i = 0; i < 4; i++) {
        v = good, v.id_key = ids[i], v.id = 260;
        assert_null(make(&v, &rc, &e));
        assert_int_equal(rc, ERR_FORMAT);
        assert_non_null(strstr(e.msg, ids[i]));
    }
    v = good, v.id_key = ids[0], v.id = UINT32_MAX; /* some writers' "none" */
    struct tokenizer *t = make(&v, &rc, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(tok_bos(t), -1);
    assert_false(tok_add_bos(t));
    tok_destroy(&t);
    spm_scores[3] = NAN;
    v = good;
    assert_null(make(&v, &rc, &e));
    assert_int_equal(rc, ERR_FORMAT);
    spm_scores[3] = 0;
    v = good, v.tokens = NULL;
    assert_null(make(&v, &rc, &e));
    assert_int_equal(rc, ERR_FORMAT);
    v = good, v.model = "bert";
    assert_null(make(&v, &rc, &e));
    assert_int_equal(rc, ERR_UNSUPPORTED);
    v = good, v.model = "gpt2"; /* no merges */
    assert_null(make(&v, &rc, &e));
    assert_int_equal(rc, ERR_FORMAT);
    assert_non_null(strstr(e.msg, "merges"));

    /* defaults are ids only where such a token is there and is a control token */
    const char *few[] = {"a", "b", "c", "a", "", NULL};
    v = (struct vocab){.model = "llama", .tokens = few};
    warnings = 0;
    t = make(&v, &rc, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(tok_bos(t), -1);
    assert_int_equal(tok_eos(t), -1);
    assert_int_equal(warnings, 1); /* "a" twice */
    assert_string_equal(IDS(t, "ab"), "3 1");
    size_t n;
    tok_piece(t, 4, true, &n);
    assert_int_equal(n, 0);
    tok_piece(t, 5, true, &n);
    assert_int_equal(n, 0);
    tok_piece(t, -1, true, &n);
    assert_int_equal(n, 0);
    assert_false(tok_is_end(t, -1) || tok_is_end(t, 5) || tok_is_control(t, 1 << 30));
    tok_destroy(&t);

    v = (struct vocab){.model = NULL}; /* no tokenizer at all: a model may still be opened */
    t = make(&v, &rc, &e);
    assert_int_equal(rc, 0);
    assert_int_equal(tok_count(t), 0);
    int32_t *out;
    assert_int_equal(tok_encode(t, "a", 1, false, &out, &n, &e), ERR_UNSUPPORTED);
    tok_destroy(&t);
}

static void ends_are_known_by_their_text(void **state)
{
    (void)state;
    const char *words[] = {"<|im_start|>", "<|im_end|>", "a", "<|endoftext|>", NULL};
    const char *merges[] = {"a a", NULL};
    struct vocab v = bpe_vocab(words, merges, "qwen2");
    v.id_key = "tokenizer.ggml.eos_token_id";
    v.id = 256;
    struct err e;
    int rc;
    struct tokenizer *t = make(&v, &rc, &e);
    assert_true(tok_is_end(t, 257) && tok_is_end(t, 259) && tok_is_end(t, 256) && !tok_is_end(t, 258));
    assert_true(tok_is_control(t, 257)); /* whatever its type said */
    size_t n;
    tok_piece(t, 257, false, &n);
    assert_int_equal(n, 0);
    tok_piece(t, 257, true, &n);
    assert_int_equal(n, 10);
    assert_string_equal(SPECIAL(t, "a<|im_end|>"), "258 257");
    tok_destroy(&t);
}

static void streams_give_whole_characters(void **state)
{
    (void)state;
    const char *words[] = {MARK "a", NULL};
    struct vocab v = spm_vocab(words);
    struct err e;
    int rc;
    struct tokenizer *t = make(&v, &rc, &e);
    struct strbuf b;
    struct tok_stream s;
    strbuf_init(&b);
    tok_stream_init(&s, true);
    const unsigned char emoji[] = {0xf0, 0x9f, 0x98, 0x80};
    tok_stream_add(&s, t, 259, false, &b);
    assert_int_equal(b.len, 1); /* the space that SPM adds is gone at the start … */
    for (int i = 0; i < 3; i++) {
        tok_stream_add(&s, t, 3 + emoji[i], false, &b);
        assert_int_equal(b.len, 1);
    }
    tok_stream_add(&s, t, 3 + emoji[3], false, &b);
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.s + 1, emoji, 4);
    tok_stream_add(&s, t, 259, false, &b);
    assert_int_equal(b.len, 7); /* … and stays later */
    /* a byte that cannot become a character goes out at once, one that can waits and is flushed */
    tok_stream_add(&s, t, 3 + 0xff, false, &b);
    assert_int_equal(b.len, 8);
    tok_stream_add(&s, t, 3 + 0xe0, false, &b);
    tok_stream_add(&s, t, 3 + 0x80, false, &b); /* E0 80 is overlong */
    assert_int_equal(b.len, 10);
    tok_stream_add(&s, t, 3 + 0xe2, false, &b);
    tok_stream_add(&s, t, 3 + 0x82, false, &b);
    assert_int_equal(b.len, 10);
    tok_stream_add(&s, t, 1, false, &b); /* a control token prints nothing */
    tok_stream_flush(&s, &b);
    assert_int_equal(b.len, 12);
    strbuf_finish(&b);
    tok_destroy(&t);
}

/* The published vectors: texts in NAME.inp, one line of ids for each in NAME.out. */
static void published_vectors(void **state)
{
    (void)state;
    const char *shared = getenv("CALOR_SHARED");
    if (!shared) shared = "../shared";
    static const char *const names[][2] = {{"llama-spm", "llama-spm.gguf"},
                                           {"gpt-2", "gpt-2.gguf"},
                                           {"falcon", "falcon.gguf"},
                                           {"llama-bpe", "llama-bpe.rebuilt.gguf"}};
    char path[300];
    snprintf(path, sizeof path, "%s/data/vocab", shared);
    if (access(path, R_OK)) {
        print_message("# no vocabularies at %s (set CALOR_SHARED)\n", path);
        skip();
    }
    static const char sep[] = "\n__ggml_vocab_test__\n";
    for (size_t i = 0; i < 4; i++) {
        struct err e;
        struct gguf *f;
        struct tokenizer *t;
        char *in, *out;
        size_t n_in, n_out;
        int texts = 0;
        snprintf(path, sizeof path, "%s/data/vocab/ggml-vocab-%s", shared, names[i][1]);
        assert_int_equal(gguf_open(&f, path, GGUF_MMAP, &e), 0);
        assert_int_equal(tok_create(&t, f, &e), 0);
        gguf_close(&f);
        snprintf(path, sizeof path, "%s/data/vocab/ggml-vocab-%s.gguf.inp", shared, names[i][0]);
        assert_int_equal(file_read_all(path, 1 << 20, &in, &n_in, &e), 0);
        snprintf(path, sizeof path, "%s/data/vocab/ggml-vocab-%s.gguf.out", shared, names[i][0]);
        assert_int_equal(file_read_all(path, 1 << 20, &out, &n_out, &e), 0);
        char *line = out;
        for (char *p = in, *next; *p; p = next, texts++) {
            char *end = strstr(p, sep);
            next = end ? end + strlen(sep) : in + n_in;
            if (!end) end = in + n_in;
            char *eol = strchr(line, '\n');
            if (eol) *eol = 0;
            while (*line == ' ') line++;
            assert_string_equal(ids_of(t, p, (size_t)(end - p), false), line);
            if (eol) line = eol + 1;
        }
        assert_true(texts >= 46);
        free(in);
        free(out);
        tok_destroy(&t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spm_joins_best_score_first),
        cmocka_unit_test(spm_words_may_span_spaces),
        cmocka_unit_test(special_tokens_longest_first),
        cmocka_unit_test(bpe_joins_lowest_rank_first),
        cmocka_unit_test(words_are_cut),
        cmocka_unit_test(no_text_is_slow),
        cmocka_unit_test(bad_metadata_is_refused),
        cmocka_unit_test(ends_are_known_by_their_text),
        cmocka_unit_test(streams_give_whole_characters),
        cmocka_unit_test(published_vectors),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
