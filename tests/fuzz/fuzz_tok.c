/* Tokenizers: input is two bytes (little-endian) of length, that much of a GGUF file, and a text. The file
 * may give a tokenizer or not; the text goes through it and through two whole vocabularies made here, which
 * must give every byte of it back. */
#include "tests/fuzz/fuzz.h"

#include "base/err.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "engine/tokenizer_parts.h"
#include "io/gguf_priv.h"

#include <string.h>

static void silent(enum log_level level, const char *line, void *arg)
{
    (void)level;
    (void)line;
    (void)arg;
}

static void put_u32(struct strbuf *b, uint32_t v)
{
    strbuf_add(b, &v, 4);
}

static void put_str(struct strbuf *b, const char *s, size_t n)
{
    uint64_t len = n;
    strbuf_add(b, &len, 8);
    strbuf_add(b, s, n);
}

static void put_list(struct strbuf *b, const char *key, uint32_t type, uint64_t n)
{
    put_str(b, key, strlen(key));
    put_u32(b, GGUF_ARR);
    put_u32(b, type);
    strbuf_add(b, &n, 8);
}

static void put_pair(struct strbuf *b, const char *key, const char *value)
{
    put_str(b, key, strlen(key));
    put_u32(b, GGUF_STR);
    put_str(b, value, strlen(value));
}

/* 256 byte tokens and a few words; kind 0: SentencePiece, 1: byte pairs. */
static struct tokenizer *make(int kind)
{
    static const char *const words[2][6] = {
        {"a", "b", "ab", "\xe2\x96\x81",
         "\xe2\x96\x81"
         "a",
         "\xf0\x9f\x98\x80"},
        {"ab", "\xc4\xa0\xc4\xa0",
         "\xc4\xa0"
         "a",
         "12", "\xc3\xb0\xc5\x81", "abab"},
    };
    static const char *const merges[] = {"a b", "\xc4\xa0 \xc4\xa0", "\xc4\xa0 a",
                                         "1 2", "\xc3\xb0 \xc5\x81", "ab ab"};
    struct strbuf b;
    strbuf_init(&b);
    strbuf_add(&b, "GGUF", 4);
    put_u32(&b, 3);
    const uint64_t counts[] = {0, kind ? 4 : 3};
    strbuf_add(&b, counts, 16);
    put_pair(&b, "tokenizer.ggml.model", kind ? "gpt2" : "llama");
    put_list(&b, "tokenizer.ggml.tokens", GGUF_STR, 262);
    for (int i = 0; i < 256; i++) {
        char s[8];
        int n = snprintf(s, sizeof s, "<0x%02X>", i);
        if (kind) n = tok_byte_char((uint8_t)i, s);
        put_str(&b, s, (size_t)n);
    }
    for (int i = 0; i < 6; i++) put_str(&b, words[kind][i], strlen(words[kind][i]));
    put_list(&b, "tokenizer.ggml.token_type", GGUF_I32, 262);
    for (int i = 0; i < 262; i++) put_u32(&b, !kind && i < 256 ? 6 : 1);
    if (kind) {
        put_list(&b, "tokenizer.ggml.merges", GGUF_STR, 6);
        for (int i = 0; i < 6; i++) put_str(&b, merges[i], strlen(merges[i]));
    }
    struct err e;
    struct gguf *f;
    struct tokenizer *t;
    PROMISE(gguf_open_memory(&f, b.s, b.len, "made", GGUF_MMAP, &e) == 0);
    PROMISE(tok_create(&t, f, &e) == 0);
    gguf_close(&f);
    strbuf_finish(&b);
    return t;
}

static void use(const struct tokenizer *t, const char *text, size_t n, bool whole)
{
    struct err e;
    for (int special = 0; special < 2; special++) {
        int32_t *ids;
        size_t count;
        if (tok_encode(t, text, n, special, &ids, &count, &e) < 0) {
            PROMISE(!whole);
            continue;
        }
        struct strbuf b;
        struct tok_stream s;
        strbuf_init(&b);
        tok_stream_init(&s, true);
        for (size_t i = 0; i < count; i++) {
            PROMISE(ids[i] >= 0 && (uint32_t)ids[i] < tok_count(t));
            tok_stream_add(&s, t, ids[i], true, &b);
        }
        tok_stream_flush(&s, &b);
        if (whole) PROMISE(b.len == n && (n == 0 || memcmp(b.s, text, n) == 0));
        strbuf_finish(&b);
        free(ids);
    }
    const struct tok_part parts[] = {{text, n / 2, true}, {text + n / 2, n - n / 2, false}};
    int32_t *ids;
    size_t count;
    if (tok_encode_parts(t, parts, 2, &ids, &count, &e) == 0) free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *made[2];
    if (!made[0]) {
        log_set_sink(silent, NULL);
        made[0] = make(0);
        made[1] = make(1);
    }
    if (size < 2) return 0;
    size_t n = data[0] | (size_t)data[1] << 8;
    if (n > size - 2) n = size - 2;
    const char *text = (const char *)data + 2 + n;
    size_t len = size - 2 - n;
    bool marks = len && memmem(text, len, "\xe2\x96\x81", 3); /* SentencePiece prints these as spaces */
    use(made[0], text, len, !marks);
    use(made[1], text, len, true);

    struct err e;
    struct gguf *f;
    struct tokenizer *t;
    if (gguf_open_memory(&f, data + 2, n, "input", GGUF_MMAP, &e) < 0) return 0;
    if (tok_create(&t, f, &e) == 0) {
        gguf_close(&f);
        use(t, text, len, false);
        for (uint32_t i = 0; i < tok_count(t); i++) {
            size_t k;
            const char *p = tok_piece(t, (int32_t)i, true, &k);
            PROMISE(k == 0 || p[0] == *p);
            tok_is_end(t, (int32_t)i);
        }
        PROMISE(tok_bos(t) < (int32_t)tok_count(t) && tok_eos(t) < (int32_t)tok_count(t));
        tok_destroy(&t);
    } else
        PROMISE(e.msg[0]);
    gguf_close(&f);
    return 0;
}
