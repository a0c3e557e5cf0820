/* io/gguf against malformed files: each rule of the parser with the bytes that break it, and with the nearest
 * bytes that do not. Files are built field by field (gguf_bytes.h) and parsed from memory of exactly their
 * size. */
#include "tests/unit/gguf_bytes.h"
#include "tests/unit/temp_dir.h"

#include "io/gguf_priv.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int open_mode(struct strbuf *b, enum gguf_mode mode, struct gguf **keep, struct err *e)
{
    struct gguf *f;
    void *exact = malloc(b->len ? b->len : 1);
    assert_non_null(exact);
    if (b->len) memcpy(exact, b->s, b->len);
    int rc = gguf_open_memory(&f, exact, b->len, "mem", mode, e);
    if (keep && rc == 0) {
        free(exact); /* keys only: metadata is a copy */
        *keep = f;
        return 0;
    }
    gguf_close(&f);
    free(exact);
    return rc;
}

/* Parses and forgets the bytes. */
static int parse(struct strbuf *b, struct err *e)
{
    int rc = open_mode(b, GGUF_MMAP, NULL, e);
    strbuf_finish(b);
    return rc;
}

static struct strbuf begin(uint64_t n_tensors, uint64_t n_kv)
{
    struct strbuf b;
    strbuf_init(&b);
    put_header(&b, n_tensors, n_kv);
    return b;
}

static void headers(void **state)
{
    (void)state;
    struct err e;
    struct strbuf b = {0};
    FAILS(parse(&b, &e), ERR_FORMAT, "'mem' is empty");
    for (size_t n = 1; n < 24; n++) {
        b = begin(0, 0);
        b.len = n;
        FAILS(parse(&b, &e), ERR_FORMAT, "the file ends inside");
    }
    b = begin(0, 0);
    OK(parse(&b, &e));
    b = begin(0, 0);
    put_zeros(&b, 8); /* trailing bytes */
    OK(parse(&b, &e));
    b = begin(0, 0);
    memcpy(b.s, "PWRI", 4);
    OK(parse(&b, &e));
    b = begin(0, 0);
    memcpy(b.s, "FUGG", 4);
    FAILS(parse(&b, &e), ERR_FORMAT, "expected magic 'GGUF' (47 47 55 46) or 'PWRI', found 46 55 47 47");
    b = begin(0, 0);
    memcpy(b.s, "tjgg", 4);
    FAILS(parse(&b, &e), ERR_UNSUPPORTED, "older than GGUF");
    static const struct {
        uint32_t version;
        const char *text;
    } versions[] = {
        {0, "GGUF version 0: expected version 2 or 3"}, {1, "GGUF version 1 (32-bit lengths"},
        {4, "GGUF version 4: expected version 2 or 3"}, {0x03000000, "big-endian GGUF (version 3)"},
        {0x02000000, "big-endian GGUF (version 2)"},    {UINT32_MAX, "GGUF version 4294967295"},
    };
    for (size_t i = 0; i < sizeof versions / sizeof *versions; i++) {
        b = begin(0, 0);
        memcpy(b.s + 4, &versions[i].version, 4);
        FAILS(parse(&b, &e), ERR_UNSUPPORTED, versions[i].text);
    }
    static const uint64_t counts[] = {1, 2, 1000, UINT32_MAX, INT64_MAX, 1ull << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        b = begin(0, counts[i]);
        FAILS(parse(&b, &e), ERR_FORMAT, "bytes behind it hold at most 0 and 0");
        b = begin(counts[i], 0);
        FAILS(parse(&b, &e), ERR_FORMAT, "bytes behind it hold at most 0 and 0");
    }
    b = begin(0, 3); /* room for two of the smallest keys */
    put_zeros(&b, 2 * GGUF_KV_MIN + 1);
    FAILS(parse(&b, &e), ERR_FORMAT, "hold at most 0 and 2");
    b = begin(2, 0);
    put_zeros(&b, 2 * GGUF_INFO_MIN - 1);
    FAILS(parse(&b, &e), ERR_FORMAT, "hold at most 1 and");
}

static void key_names(void **state)
{
    (void)state;
    struct err e;
    struct strbuf b = begin(0, 1);
    put_key_u32(&b, "", 1);
    put_zeros(&b, 8);
    FAILS(parse(&b, &e), ERR_FORMAT, "offset 32: a key's name: expected at least one byte");
    b = begin(0, 1);
    put_u64(&b, UINT64_MAX);
    put_zeros(&b, 64);
    FAILS(parse(&b, &e), ERR_FORMAT, "offset 24: a key's name: expected a length of at most 65535");
    b = begin(0, 1);
    put_u64(&b, 100);
    put_zeros(&b, 64);
    FAILS(parse(&b, &e), ERR_FORMAT,
          "offset 32: the file ends inside a key's name: expected 100 bytes, found 64");
    char *name = calloc(1, 65537);
    assert_non_null(name);
    memset(name, 'k', 65536);
    b = begin(0, 1);
    put_key_u32(&b, name, 1);
    FAILS(parse(&b, &e), ERR_FORMAT, "at most 65535, found 65536");
    name[65535] = 0;
    b = begin(0, 1);
    put_key_u32(&b, name, 1);
    OK(parse(&b, &e));
    free(name);
    b = begin(0, 1);
    put_u64(&b, 3);
    strbuf_add(&b, "a\0b", 3);
    put_u32(&b, GGUF_U32);
    put_u32(&b, 1);
    FAILS(parse(&b, &e), ERR_FORMAT,
          "offset 33: a key's name: expected no control characters, found byte 00");
    b = begin(0, 1);
    put_key_u32(&b, "a\x1b[31m", 1);
    FAILS(parse(&b, &e), ERR_FORMAT, "found byte 1b");
    b = begin(0, 3);
    put_key_u32(&b, "a", 1);
    put_key_u32(&b, "b", 1);
    put_key_u32(&b, "a", 2);
    FAILS(parse(&b, &e), ERR_FORMAT, "key 'a' is there twice (keys 0 and 2)");
}

static void values(void **state)
{
    (void)state;
    struct err e;
    struct strbuf b;
    static const uint32_t no_types[] = {13, 14, 255, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof no_types / sizeof *no_types; i++) {
        b = begin(0, 1);
        put_key(&b, "k", no_types[i]);
        put_zeros(&b, 64);
        FAILS(parse(&b, &e), ERR_FORMAT, "offset 33: key 'k': expected a value type of 0 to 12");
        b = begin(0, 1);
        put_key(&b, "k", GGUF_ARR);
        put_u32(&b, no_types[i]);
        put_zeros(&b, 64);
        FAILS(parse(&b, &e), ERR_FORMAT, "offset 37: key 'k': expected a value type of 0 to 12");
    }
    /* Each type, one byte short and whole. */
    for (uint32_t t = 0; t <= GGUF_F64; t++) {
        size_t size = t == GGUF_STR ? 8 : t == GGUF_ARR ? 12 : gguf_type_bytes(t);
        assert_int_not_equal(size, 0);
        for (size_t n = 0; n <= size; n++) {
            b = begin(0, 1);
            put_key(&b, "k", t);
            put_zeros(&b, n);
            if (n == size)
                OK(parse(&b, &e));
            else
                assert_int_equal(parse(&b, &e), ERR_FORMAT);
        }
    }
    /* Strings: the length against the bytes left. */
    static const uint64_t lengths[] = {5, 6, 1000, INT64_MAX, UINT64_MAX - 7, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        b = begin(0, 1);
        put_key(&b, "k", GGUF_STR);
        put_u64(&b, lengths[i]);
        put_zeros(&b, 4);
        FAILS(parse(&b, &e), ERR_FORMAT, "offset 45: the file ends inside k: expected");
    }
}

static void arrays(void **state)
{
    (void)state;
    struct err e;
    struct strbuf b;
    /* Counts against the bytes left, products that wrap included. */
    static const struct {
        uint32_t type;
        uint64_t n;
        const char *text;
    } counts[] = {
        {GGUF_U8, 17, "array of 17 elements: the 16 bytes left hold at most 16"},
        {GGUF_U32, 5, "hold at most 4"},
        {GGUF_F64, 3, "hold at most 2"},
        {GGUF_U64, 1ull << 61, "hold at most 2"},
        {GGUF_U32, 1ull << 62, "hold at most 4"},
        {GGUF_STR, 3, "hold at most 2"},
        {GGUF_STR, UINT64_MAX, "hold at most 2"},
        {GGUF_ARR, 2, "hold at most 1"},
        {GGUF_ARR, UINT64_MAX, "hold at most 1"},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        b = begin(0, 1);
        put_key(&b, "k", GGUF_ARR);
        put_u32(&b, counts[i].type);
        put_u64(&b, counts[i].n);
        put_zeros(&b, 16);
        FAILS(parse(&b, &e), ERR_FORMAT, counts[i].text);
    }
    /* The second string is longer than the file. */
    b = begin(0, 1);
    put_key(&b, "k", GGUF_ARR);
    put_u32(&b, GGUF_STR);
    put_u64(&b, 2);
    put_name(&b, "ab");
    put_u64(&b, UINT64_MAX - 3);
    put_zeros(&b, 8);
    FAILS(parse(&b, &e), ERR_FORMAT, "the file ends inside k");
    /* Arrays in arrays: four deep, no deeper, and without recursion. */
    for (int depth = 1; depth <= 6; depth++) {
        b = begin(0, 2);
        put_key(&b, "k", GGUF_ARR);
        for (int i = 1; i < depth; i++) {
            put_u32(&b, GGUF_ARR);
            put_u64(&b, 1);
        }
        put_u32(&b, GGUF_U8);
        put_u64(&b, 2);
        put_zeros(&b, 2);
        put_key_u32(&b, "after", 77);
        struct gguf *f = NULL;
        if (depth <= GGUF_DEPTH_MAX) {
            OK(open_mode(&b, GGUF_MMAP, &f, &e));
            uint32_t v = 0;
            OK(gguf_get_u32(f, "after", &v, &e)); /* the parser left the array where it ends */
            assert_int_equal(v, 77);
            gguf_close(&f);
        } else {
            FAILS(open_mode(&b, GGUF_MMAP, &f, &e), ERR_FORMAT, "nested at most 4 deep");
        }
        strbuf_finish(&b);
    }
    b = begin(0, 1);
    put_key(&b, "k", GGUF_ARR);
    for (int i = 0; i < 100000; i++) {
        put_u32(&b, GGUF_ARR);
        put_u64(&b, 1);
    }
    FAILS(parse(&b, &e), ERR_FORMAT, "nested at most 4 deep");
    /* Siblings of different element types and lengths, an empty one last. */
    b = begin(0, 2);
    put_key(&b, "k", GGUF_ARR);
    put_u32(&b, GGUF_ARR);
    put_u64(&b, 3);
    put_u32(&b, GGUF_ARR);
    put_u64(&b, 0);
    put_u32(&b, GGUF_STR);
    put_u64(&b, 2);
    put_name(&b, "x");
    put_name(&b, "");
    put_u32(&b, GGUF_U16);
    put_u64(&b, 0);
    put_key_u32(&b, "after", 78);
    struct gguf *f = NULL;
    OK(open_mode(&b, GGUF_MMAP, &f, &e));
    strbuf_finish(&b);
    uint32_t v = 0;
    OK(gguf_get_u32(f, "after", &v, &e));
    assert_int_equal(v, 78);
    const struct gguf_str *strs;
    const void *data;
    uint64_t n;
    FAILS(gguf_get_strs(f, "k", &strs, &n, &e), ERR_FORMAT,
          "expected an array of strings, found an array of array");
    FAILS(gguf_get_arr(f, "k", GGUF_ARR, &data, &n, &e), ERR_ARG, "no number type");
    gguf_close(&f);
}

static void alignments(void **state)
{
    (void)state;
    struct err e;
    static const uint32_t good[] = {8, 16, 32, 64, 4096, 1 << 20};
    static const uint32_t wrong[] = {0, 1, 4, 7, 13, 33, 48, 1 << 21, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        struct strbuf b = begin(2, 1);
        put_key_u32(&b, "general.alignment", good[i]);
        put_tensor(&b, "a", DT_I8, 5, 0, 0);
        put_tensor(&b, "b", DT_I8, 3, 0, good[i]);
        put_pad(&b, good[i]);
        put_zeros(&b, good[i] + 3);
        struct strbuf c = b;
        c.s = malloc(b.len);
        assert_non_null(c.s);
        memcpy(c.s, b.s, b.len);
        FAILS(parse(&c, &e), ERR_FORMAT, "tensor 'b': expected bytes"); /* without its padding */
        put_pad(&b, good[i]);
        OK(parse(&b, &e));
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct strbuf b = begin(0, 1);
        put_key_u32(&b, "general.alignment", wrong[i]);
        FAILS(parse(&b, &e), ERR_FORMAT,
              "'general.alignment': expected a power of two from 8 to 1048576, found");
    }
    struct strbuf b = begin(0, 1);
    put_key(&b, "general.alignment", GGUF_STR);
    put_name(&b, "32");
    FAILS(parse(&b, &e), ERR_FORMAT, "'general.alignment': expected an integer, found string");
    b = begin(0, 1);
    put_key(&b, "general.alignment", GGUF_I32);
    put_u32(&b, (uint32_t)-32);
    FAILS(parse(&b, &e), ERR_FORMAT, "found -32");
    /* A listing may look at files that cannot be used in place. */
    b = begin(0, 1);
    put_key_u32(&b, "general.alignment", 1);
    OK(open_mode(&b, GGUF_META, NULL, &e));
    strbuf_finish(&b);
}

/* One tensor's directory entry, `data` bytes behind it. */
static int parse_one(uint32_t n_dims, const uint64_t *ne, uint32_t type, uint64_t offset, size_t data,
                     struct err *e)
{
    struct strbuf b = begin(1, 0);
    put_name(&b, "t");
    put_u32(&b, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 8; i++) put_u64(&b, ne[i]);
    put_u32(&b, type);
    put_u64(&b, offset);
    put_pad(&b, 32);
    put_zeros(&b, data);
    return parse(&b, e);
}

#define NE(...) ((const uint64_t[8]){__VA_ARGS__})

static void shapes(void **state)
{
    (void)state;
    struct err e;
    OK(parse_one(1, NE(8), DT_F32, 0, 32, &e));
    OK(parse_one(4, NE(2, 2, 2, 1), DT_F32, 0, 32, &e));
    FAILS(parse_one(0, NE(8), DT_F32, 0, 64, &e), ERR_FORMAT,
          "tensor 't': expected 1 to 4 dimensions, found 0");
    FAILS(parse_one(5, NE(1, 1, 1, 1, 1), DT_F32, 0, 64, &e), ERR_FORMAT,
          "expected 1 to 4 dimensions, found 5");
    FAILS(parse_one(UINT32_MAX, NE(1), DT_F32, 0, 64, &e), ERR_FORMAT, "found 4294967295");
    for (int d = 0; d < 4; d++) {
        uint64_t ne[8] = {2, 2, 2, 2};
        ne[d] = 0;
        FAILS(parse_one(4, ne, DT_F32, 0, 64, &e), ERR_FORMAT, "expected dimensions of at least 1, found 0");
        ne[d] = UINT64_MAX;
        FAILS(parse_one(4, ne, DT_F32, 0, 64, &e), ERR_FORMAT, "expected dimensions of at least 1");
        ne[d] = 1ull << 63;
        FAILS(parse_one(4, ne, DT_F32, 0, 64, &e), ERR_FORMAT, "expected dimensions of at least 1");
    }
    /* Products that wrap to something small. */
    FAILS(parse_one(2, NE(1ull << 32, 1ull << 32), DT_I8, 0, 64, &e), ERR_FORMAT,
          "more values than a file can hold");
    FAILS(parse_one(4, NE(1ull << 16, 1ull << 16, 1ull << 16, 1ull << 16), DT_I8, 0, 64, &e), ERR_FORMAT,
          "more values than a file can hold");
    FAILS(parse_one(4, NE(1, 1ull << 32, 1ull << 32, 1), DT_I8, 0, 64, &e), ERR_FORMAT,
          "more values than a file");
    FAILS(parse_one(1, NE(1ull << 62), DT_F32, 0, 64, &e), ERR_FORMAT, "more values than a file can hold");
    FAILS(parse_one(2, NE(1ull << 61, 2), DT_F32, 0, 64, &e), ERR_FORMAT, "more values than a file can hold");
    FAILS(parse_one(2, NE(1ull << 60, 8), DT_I8, 0, 64, &e), ERR_FORMAT, "more values than a file can hold");
    FAILS(parse_one(1, NE(1ull << 62), DT_I8, 0, 64, &e), ERR_FORMAT, "but the file ends at");
    FAILS(parse_one(2, NE(1ull << 62, 2), DT_TQ1_0, 0, 64, &e), ERR_FORMAT,
          "more values than a file can hold");
    FAILS(parse_one(1, NE(1ull << 60), DT_F64, 0, 64, &e), ERR_FORMAT, "more values than a file can hold");
    /* Whole blocks. */
    OK(parse_one(1, NE(32), DT_Q4_0, 0, 32, &e));
    FAILS(parse_one(1, NE(33), DT_Q4_0, 0, 64, &e), ERR_FORMAT,
          "rows of whole Q4_0 blocks of 32 values, found rows of 33");
    FAILS(parse_one(2, NE(16, 2), DT_Q4_0, 0, 64, &e), ERR_FORMAT, "whole Q4_0 blocks");
    FAILS(parse_one(1, NE(32), DT_Q6_K, 0, 512, &e), ERR_FORMAT, "whole Q6_K blocks of 256 values");
    /* Types: every number in and around the table. */
    for (uint32_t t = 0; t < 64; t++) {
        const struct dtype_info *info = dtype_info(t);
        if (info)
            OK(parse_one(1, NE(info->block), t, 0, 1024, &e));
        else
            FAILS(parse_one(1, NE(256), t, 0, 4096, &e), ERR_FORMAT, "expected a known type, found number");
    }
    FAILS(parse_one(1, NE(256), 1u << 31, 0, 4096, &e), ERR_FORMAT, "found number 2147483648");
    FAILS(parse_one(1, NE(256), UINT32_MAX, 0, 4096, &e), ERR_FORMAT, "found number 4294967295");
}

static void offsets(void **state)
{
    (void)state;
    struct err e;
    OK(parse_one(1, NE(8), DT_F32, 32, 64, &e));
    FAILS(parse_one(1, NE(8), DT_F32, 32, 63, &e), ERR_FORMAT, "but the file ends at");
    FAILS(parse_one(1, NE(8), DT_F32, 4, 64, &e), ERR_FORMAT,
          "expected an offset that is a multiple of 32, found 4");
    FAILS(parse_one(1, NE(8), DT_F32, UINT64_MAX, 64, &e), ERR_FORMAT,
          "expected an offset that is a multiple of 32");
    FAILS(parse_one(1, NE(8), DT_F32, UINT64_MAX - 31, 64, &e), ERR_FORMAT, "is no place in a file");
    FAILS(parse_one(1, NE(8), DT_F32, UINT64_MAX - 127, 64, &e), ERR_FORMAT, "is no place in a file");
    FAILS(parse_one(1, NE(8), DT_F32, UINT64_MAX - 95, 64, &e), ERR_FORMAT,
          "is no place in a file"); /* ends at 0 */
    FAILS(parse_one(1, NE(8), DT_F32, 1ull << 63, 64, &e), ERR_FORMAT, "is no place in a file");
    FAILS(parse_one(1, NE(8), DT_F32, 64, 64, &e), ERR_FORMAT, "but the file ends at");
    FAILS(parse_one(1, NE(7), DT_F32, 0, 28, &e), ERR_FORMAT, "padded to");
    OK(parse_one(1, NE(7), DT_F32, 0, 32, &e));
    FAILS(parse_one(1, NE(8), DT_F32, 0, 0, &e), ERR_FORMAT, "but the file ends at");
    /* The padded end of the last one does not wrap either. */
    FAILS(parse_one(1, NE((1ull << 63) - 64), DT_I8, (1ull << 63) - 32, 64, &e), ERR_FORMAT,
          "is no place in a file");
}

static void directories(void **state)
{
    (void)state;
    struct err e;
    struct strbuf b = begin(2, 0);
    put_tensor(&b, "a", DT_F32, 8, 0, 0);
    put_tensor(&b, "a", DT_F32, 8, 0, 32);
    put_pad(&b, 32);
    put_zeros(&b, 64);
    FAILS(parse(&b, &e), ERR_FORMAT, "tensor 'a' is there twice (tensors 0 and 1)");
    /* Names of 1 to 64 bytes. */
    char name[66];
    memset(name, 'n', 65);
    name[65] = 0;
    b = begin(1, 0);
    put_tensor(&b, name, DT_F32, 8, 0, 0);
    put_pad(&b, 32);
    put_zeros(&b, 32);
    FAILS(parse(&b, &e), ERR_FORMAT, "a tensor's name: expected a length of at most 64, found 65");
    name[64] = 0;
    b = begin(1, 0);
    put_tensor(&b, name, DT_F32, 8, 0, 0);
    put_pad(&b, 32);
    put_zeros(&b, 32);
    OK(parse(&b, &e));
    b = begin(1, 0);
    put_tensor(&b, "", DT_F32, 8, 0, 0);
    put_zeros(&b, 64);
    FAILS(parse(&b, &e), ERR_FORMAT, "a tensor's name: expected at least one byte");
    b = begin(1, 0);
    put_tensor(&b, "a\nb", DT_F32, 8, 0, 0);
    put_zeros(&b, 64);
    FAILS(parse(&b, &e), ERR_FORMAT, "found byte 0a");
    /* Shared bytes, in any order of the directory; gaps and another order are fine. */
    static const struct {
        uint64_t offsets[3];
        const char *text;
    } places[] = {
        {{0, 64, 128}, NULL},
        {{128, 0, 64}, NULL},
        {{0, 96, 192}, NULL},
        {{0, 0, 64}, "begins at byte 160, inside"},
        {{0, 32, 128}, "tensor 'b' begins at byte 192, inside 'a' (which ends at 224)"},
        {{128, 0, 32}, "tensor 'c' begins at byte 192, inside 'b'"},
        {{64, 128, 96}, "inside 'a'"},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        b = begin(3, 0);
        put_tensor(&b, "a", DT_F32, 8, 2, places[i].offsets[0]);
        put_tensor(&b, "b", DT_F32, 8, 2, places[i].offsets[1]);
        put_tensor(&b, "c", DT_F32, 8, 2, places[i].offsets[2]);
        put_pad(&b, 32);
        assert_int_equal(b.len, 160);
        put_zeros(&b, 256);
        if (places[i].text)
            FAILS(parse(&b, &e), ERR_FORMAT, places[i].text);
        else
            OK(parse(&b, &e));
    }
    /* The file ends at every byte of a directory entry. */
    b = begin(1, 1);
    put_key_u32(&b, "k", 1);
    put_tensor(&b, "name", DT_F32, 8, 2, 0);
    for (size_t n = 24; n < b.len; n++) {
        struct strbuf c = {0};
        strbuf_add(&c, b.s, n);
        assert_int_equal(parse(&c, &e), ERR_FORMAT);
    }
    strbuf_finish(&b);
}

/* A listing accepts a file that ends with its metadata, not one that ends inside a tensor. */
static void metadata_only(void **state)
{
    (void)state;
    struct err e;
    for (size_t data = 0; data <= 64; data++) {
        struct strbuf b = begin(1, 0);
        put_tensor(&b, "t", DT_F32, 16, 0, 0);
        put_pad(&b, 32);
        put_zeros(&b, data);
        bool whole = data == 64;
        if (data == 0 || whole)
            OK(open_mode(&b, GGUF_META, NULL, &e));
        else
            FAILS(open_mode(&b, GGUF_META, NULL, &e), ERR_FORMAT, "but the file ends at");
        assert_int_equal(open_mode(&b, GGUF_MMAP, NULL, &e), whole ? 0 : ERR_FORMAT);
        strbuf_finish(&b);
    }
}

static struct gguf *one_key(uint32_t type, const void *value, size_t n)
{
    struct err e;
    struct strbuf b = begin(0, 1);
    put_key(&b, "k", type);
    strbuf_add(&b, value, n);
    struct gguf *f = NULL;
    OK(open_mode(&b, GGUF_MMAP, &f, &e));
    strbuf_finish(&b);
    return f;
}

static void getters_check_types_and_ranges(void **state)
{
    (void)state;
    struct err e;
    uint32_t u32 = 5;
    uint64_t u64 = 5, n;
    float f32;
    bool flag;
    struct gguf_str s;
    const struct gguf_str *strs;
    const void *data;
    static const struct {
        uint32_t type;
        size_t bytes;
        int64_t v;
        int fits32, fits64;
    } ints[] = {
        {GGUF_U8, 1, 200, 1, 1},         {GGUF_I8, 1, -1, 0, 0},         {GGUF_I8, 1, 127, 1, 1},
        {GGUF_U16, 2, 65535, 1, 1},      {GGUF_I16, 2, -32768, 0, 0},    {GGUF_U32, 4, 4294967295, 1, 1},
        {GGUF_I32, 4, -7, 0, 0},         {GGUF_I32, 4, 7, 1, 1},         {GGUF_U64, 8, 4294967296, 0, 1},
        {GGUF_I64, 8, 4294967296, 0, 1}, {GGUF_I64, 8, INT64_MIN, 0, 0}, {GGUF_U64, 8, 12, 1, 1},
    };
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++) {
        struct gguf *f = one_key(ints[i].type, &ints[i].v, ints[i].bytes);
        assert_int_equal(gguf_get_u32(f, "k", &u32, &e), ints[i].fits32 ? 0 : ERR_FORMAT);
        if (ints[i].fits32) assert_int_equal(u32, ints[i].v);
        assert_int_equal(gguf_get_u64(f, "k", &u64, &e), ints[i].fits64 ? 0 : ERR_FORMAT);
        if (ints[i].fits64) assert_int_equal(u64, ints[i].v);
        FAILS(gguf_get_str(f, "k", &s, &e), ERR_FORMAT, "key 'k': expected a string, found");
        FAILS(gguf_get_f32(f, "k", &f32, &e), ERR_FORMAT, "expected a floating-point number, found");
        FAILS(gguf_get_bool(f, "k", &flag, &e), ERR_FORMAT, "expected a bool, found");
        FAILS(gguf_get_strs(f, "k", &strs, &n, &e), ERR_FORMAT, "expected an array of strings, found");
        FAILS(gguf_get_arr(f, "k", GGUF_F32, &data, &n, &e), ERR_FORMAT, "expected an array of f32, found");
        gguf_close(&f);
    }
    struct gguf *f = one_key(GGUF_I64, &(int64_t){INT64_MIN}, 8);
    FAILS(gguf_get_u32(f, "k", &u32, &e), ERR_FORMAT,
          "expected an integer from 0 to 4294967295, found -9223372036854775808");
    gguf_close(&f);
    f = one_key(GGUF_F64, &(double){0.5}, 8);
    OK(gguf_get_f32(f, "k", &f32, &e));
    assert_true(f32 == 0.5f);
    FAILS(gguf_get_u32(f, "k", &u32, &e), ERR_FORMAT, "expected an integer, found f64");
    gguf_close(&f);
    f = one_key(GGUF_F64, &(double){1e300}, 8);
    FAILS(gguf_get_f32(f, "k", &f32, &e), ERR_FORMAT, "fits 32-bit floats");
    gguf_close(&f);
    f = one_key(GGUF_BOOL, "\x02", 1);
    FAILS(gguf_get_bool(f, "k", &flag, &e), ERR_FORMAT, "expected bools of 0 or 1, found 2");
    gguf_close(&f);
    struct strbuf b = begin(0, 1);
    put_key(&b, "k", GGUF_ARR);
    put_u32(&b, GGUF_BOOL);
    put_u64(&b, 3);
    strbuf_add(&b, "\0\1\xff", 3);
    OK(open_mode(&b, GGUF_MMAP, &f, &e));
    FAILS(gguf_get_arr(f, "k", GGUF_BOOL, &data, &n, &e), ERR_FORMAT, "expected bools of 0 or 1, found 255");
    FAILS(gguf_get_arr(f, "k", GGUF_U8, &data, &n, &e), ERR_FORMAT,
          "expected an array of u8, found an array of bool");
    assert_int_equal(gguf_get_arr(f, "other", GGUF_U8, &data, &n, &e), 1);
    gguf_close(&f);
    strbuf_finish(&b);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Many keys and tensors: linear time. Twenty times slower than measured on a slow machine, a hundred times
 * faster than comparing all pairs. */
static void many_entries_are_quick(void **state)
{
    (void)state;
    enum { N = 100000 };
    struct err e;
    struct strbuf b = begin(N, N);
    char name[32];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "key.%d", i);
        put_key_u32(&b, name, (uint32_t)i);
    }
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%d.weight", i);
        put_tensor(&b, name, DT_F32, 8, 0, (uint64_t)(N - 1 - i) * 32); /* sorting has something to do */
    }
    put_pad(&b, 32);
    put_zeros(&b, (size_t)N * 32);
    write_file(in_dir("many.gguf"), b.s, b.len);
    strbuf_finish(&b);
    double start = seconds();
    struct gguf *f;
    OK(gguf_open(&f, in_dir("many.gguf"), GGUF_MMAP, &e));
    double took = seconds() - start;
    uint32_t v = 0;
    OK(gguf_get_u32(f, "key.99999", &v, &e));
    assert_int_equal(v, 99999);
    assert_non_null(gguf_find_tensor(f, "blk.4711.weight"));
    gguf_close(&f);
    if (took > 2) fail_msg("100,000 keys and tensors took %.2f s", took);
}

/* What is no regular file, is empty, or is a terabyte of nothing gets its answer at once and without memory.
 */
static void odd_files_are_answered_at_once(void **state)
{
    (void)state;
    struct err e;
    struct gguf *f;
    write_file(in_dir("empty.gguf"), "", 0);
    FAILS(gguf_open(&f, in_dir("empty.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "is empty");
    FAILS(gguf_open(&f, in_dir("missing.gguf"), GGUF_MMAP, &e), ERR_IO, "No such file");
    FAILS(gguf_open(&f, temp_dir, GGUF_MMAP, &e), ERR_IO, "a directory");
    assert_int_equal(mkfifo(in_dir("fifo.gguf"), 0600), 0);
    FAILS(gguf_open(&f, in_dir("fifo.gguf"), GGUF_MMAP, &e), ERR_IO, "a pipe");
    FAILS(gguf_open(&f, "/dev/zero", GGUF_MMAP, &e), ERR_IO, "a device");

    double start = seconds();
    int fd = open(in_dir("sparse.gguf"), O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 1ll << 40), 0);
    FAILS(gguf_open(&f, in_dir("sparse.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "found 00 00 00 00");
    struct strbuf b = begin(0, 1);
    put_key(&b, "k", GGUF_STR);
    put_u64(&b, 1ull << 39);
    assert_int_equal(pwrite(fd, b.s, b.len, 0), b.len);
    FAILS(gguf_open(&f, in_dir("sparse.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "larger than the 256 MiB");
    b.len = 37;
    memcpy(b.s + 33, &(uint32_t){GGUF_ARR}, 4);
    put_u32(&b, GGUF_U8);
    put_u64(&b, 1ull << 39);
    assert_int_equal(pwrite(fd, b.s, b.len, 0), b.len);
    FAILS(gguf_open(&f, in_dir("sparse.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "array of 549755813888 elements");
    strbuf_finish(&b);
    b = begin(1ull << 34, 1ull << 35);
    assert_int_equal(pwrite(fd, b.s, b.len, 0), b.len);
    FAILS(gguf_open(&f, in_dir("sparse.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "the header promises");
    strbuf_finish(&b);
    b = begin(1000000, 0); /* believable: a directory of zeros */
    put_zeros(&b, 64);
    assert_int_equal(pwrite(fd, b.s, b.len, 0), b.len);
    FAILS(gguf_open(&f, in_dir("sparse.gguf"), GGUF_MMAP, &e), ERR_FORMAT, "at least one byte");
    strbuf_finish(&b);
    /* A tensor of nearly a terabyte is mapped, not read. */
    b = begin(1, 0);
    put_tensor(&b, "t", DT_F32, (1ull << 38) - 1024, 0, 0);
    assert_int_equal(pwrite(fd, b.s, b.len, 0), b.len);
    OK(gguf_open(&f, in_dir("sparse.gguf"), GGUF_MMAP, &e));
    uint32_t zero = 1;
    OK(gguf_read_tensor(f, gguf_tensor(f, 0), (1ull << 40) - 4100, &zero, 4, &e));
    assert_int_equal(zero, 0);
    assert_int_equal(((const float *)gguf_tensor(f, 0)->data)[(1ull << 38) - 1025], 0);
    gguf_close(&f);
    close(fd);
    strbuf_finish(&b);
    double took = seconds() - start;
    if (took > 2) fail_msg("sparse files took %.2f s", took);
}

/* A million bytes that ask for as much as can be: memory stays in proportion. */
static void memory_is_in_proportion(void **state)
{
    (void)state;
    struct err e;
    enum { SIZE = 8 << 20 };
    struct strbuf b = begin(0, 1);
    put_key(&b, "k", GGUF_ARR);
    put_u32(&b, GGUF_STR);
    put_u64(&b, (SIZE - 64) / 8);
    put_zeros(&b, SIZE - b.len);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    struct gguf *f = NULL;
    OK(gguf_open_memory(&f, b.s, b.len, "mem", GGUF_MMAP, &e));
    getrusage(RUSAGE_SELF, &after);
    assert_in_range(after.ru_maxrss - before.ru_maxrss, 0, 4 * SIZE / 1024);
    gguf_close(&f);
    strbuf_finish(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_in_proportion),
        cmocka_unit_test(headers),
        cmocka_unit_test(key_names),
        cmocka_unit_test(values),
        cmocka_unit_test(arrays),
        cmocka_unit_test(alignments),
        cmocka_unit_test(shapes),
        cmocka_unit_test(offsets),
        cmocka_unit_test(directories),
        cmocka_unit_test(metadata_only),
        cmocka_unit_test(getters_check_types_and_ranges),
        cmocka_unit_test(many_entries_are_quick),
        cmocka_unit_test(odd_files_are_answered_at_once),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
