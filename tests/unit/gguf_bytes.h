/* Bytes of GGUF files for tests, well-formed or not: each call appends one field as given, unchecked. */
#ifndef TESTS_GGUF_BYTES_H
#define TESTS_GGUF_BYTES_H

#include "base/dtype.h"
#include "base/strbuf.h"
#include "io/gguf.h"

#include <stdint.h>
#include <string.h>

static inline void put_u32(struct strbuf *b, uint32_t v)
{
    strbuf_add(b, &v, 4);
}

static inline void put_u64(struct strbuf *b, uint64_t v)
{
    strbuf_add(b, &v, 8);
}

static inline void put_name(struct strbuf *b, const char *s)
{
    put_u64(b, strlen(s));
    strbuf_add(b, s, strlen(s));
}

static inline void put_header(struct strbuf *b, uint64_t n_tensors, uint64_t n_kv)
{
    strbuf_add(b, "GGUF", 4);
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_kv);
}

/* A key and its type; the value follows. */
static inline void put_key(struct strbuf *b, const char *key, uint32_t type)
{
    put_name(b, key);
    put_u32(b, type);
}

static inline void put_key_u32(struct strbuf *b, const char *key, uint32_t v)
{
    put_key(b, key, GGUF_U32);
    put_u32(b, v);
}

/* A directory entry with one dimension a value of `ne` until the first 0. */
static inline void put_tensor(struct strbuf *b, const char *name, uint32_t type, uint64_t ne0, uint64_t ne1,
                              uint64_t offset)
{
    put_name(b, name);
    put_u32(b, ne1 ? 2 : 1);
    put_u64(b, ne0);
    if (ne1) put_u64(b, ne1);
    put_u32(b, type);
    put_u64(b, offset);
}

static inline void put_pad(struct strbuf *b, size_t align)
{
    while (b->len % align) strbuf_add(b, "", 1);
}

static inline void put_zeros(struct strbuf *b, size_t n)
{
    while (n--) strbuf_add(b, "", 1);
}

#endif
