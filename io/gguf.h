/* GGUF v2/v3 files (and PowerInfer's PWRI variant): reading, untrusted; writing, atomically. Front header of
 * io/. Format: ggml's docs/gguf.md. */
#ifndef IO_GGUF_H
#define IO_GGUF_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8 = 1,
    GGUF_U16 = 2,
    GGUF_I16 = 3,
    GGUF_U32 = 4,
    GGUF_I32 = 5,
    GGUF_F32 = 6,
    GGUF_BOOL = 7,
    GGUF_STR = 8,
    GGUF_ARR = 9,
    GGUF_U64 = 10,
    GGUF_I64 = 11,
    GGUF_F64 = 12,
};

/* Bytes inside the file's metadata, not NUL-terminated. */
struct gguf_str {
    const char *s;
    uint64_t n;
};

struct gguf_tensor {
    const char *name; /* NUL-terminated, owned by the file */
    enum dtype type;
    int n_dims;     /* 1…4 */
    uint64_t ne[4]; /* ne[0] is the row length (contiguous); unused ones are 1; none is 0 except ne[0] of
                       PowerInfer's gpu_bucket lists */
    uint64_t row_bytes, bytes;
    uint64_t offset; /* in its shard, absolute */
    int shard;
    const void *data; /* in the mapping; NULL in read mode (use gguf_read_tensor) */
};

struct gguf; /* opaque, immutable after open; reads from several threads are safe */

enum gguf_mode {
    GGUF_MMAP, /* tensors are mapped */
    GGUF_READ, /* tensors are read with gguf_read_tensor */
    GGUF_META, /* as GGUF_READ, but for listings: the file may end with its metadata, without any tensor's
                  bytes, and alignments below 8 are let through */
};

/* Opens a file; the first shard of NAME-00001-of-0000N.gguf brings the others. Everything is checked before
 * it is believed; memory used is proportional to the metadata. Errors name file, offset, what was expected
 * and found. */
int gguf_open(struct gguf **out, const char *path, enum gguf_mode mode, struct err *e);
void gguf_close(struct gguf **f);

/* Whether every shard still has the bytes it had at open (ERR_IO if not). A mapped page behind the end of a
 * file that was shortened meanwhile raises SIGBUS when touched: call this before a computation that reads
 * mapped weights. (Files replaced through a rename, as Calor writes them, are not affected.) */
int gguf_check_size(const struct gguf *f, struct err *e);

/* False where a file ends with its metadata, as GGUF_META lets it. */
bool gguf_has_data(const struct gguf *f);

const char *gguf_path(const struct gguf *f); /* of the first shard */
int gguf_version(const struct gguf *f);
bool gguf_is_powerinfer(const struct gguf *f); /* magic PWRI */
uint64_t gguf_alignment(const struct gguf *f);
uint64_t gguf_file_bytes(const struct gguf *f); /* all shards */
int gguf_shards(const struct gguf *f);
const char *gguf_shard_path(const struct gguf *f, int shard);
uint64_t gguf_shard_bytes(const struct gguf *f, int shard);

/* Metadata. Index access for listings; typed getters check element type and say what was found instead.
 * gguf_find returns an index or -1. */
int64_t gguf_n_kv(const struct gguf *f);
int64_t gguf_find(const struct gguf *f, const char *key);
const char *gguf_key(const struct gguf *f, int64_t i);
enum gguf_type gguf_kv_type(const struct gguf *f, int64_t i);
enum gguf_type gguf_arr_type(const struct gguf *f, int64_t i);
uint64_t gguf_arr_n(const struct gguf *f, int64_t i);
const char *gguf_type_name(enum gguf_type type); /* "u32", "array" …, static */
/* The value as the file stores it (little-endian, unaligned; strings with their u64 length before them;
 * arrays from their element type on), inside the file's metadata. */
const void *gguf_kv_raw(const struct gguf *f, int64_t i, uint64_t *n);

/* Each: 0 and *out, or ERR_FORMAT when the key is there with another type or range; when the key is absent,
 * *out is left alone and 1 is returned (so defaults are set before the call). Integer getters take any
 * integer type whose value fits. */
int gguf_get_u32(const struct gguf *f, const char *key, uint32_t *out, struct err *e);
int gguf_get_u64(const struct gguf *f, const char *key, uint64_t *out, struct err *e);
int gguf_get_f32(const struct gguf *f, const char *key, float *out, struct err *e);
int gguf_get_bool(const struct gguf *f, const char *key, bool *out, struct err *e);
int gguf_get_str(const struct gguf *f, const char *key, struct gguf_str *out, struct err *e);
/* Arrays: element pointers into the file's metadata (numbers may be unaligned: copy with memcpy). */
int gguf_get_arr(const struct gguf *f, const char *key, enum gguf_type elem, const void **data, uint64_t *n,
                 struct err *e);
/* Array of strings: the table is built at open; owned by the file. */
int gguf_get_strs(const struct gguf *f, const char *key, const struct gguf_str **strs, uint64_t *n,
                  struct err *e);

int64_t gguf_n_tensors(const struct gguf *f);
const struct gguf_tensor *gguf_tensor(const struct gguf *f, int64_t i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *f, const char *name); /* NULL if absent */
/* Reads bytes [begin, begin+n) of a tensor, in either mode; the file's size is checked again. */
int gguf_read_tensor(const struct gguf *f, const struct gguf_tensor *t, uint64_t begin, void *dst, uint64_t n,
                     struct err *e);

/* Which model this is: XXH3-128 over the shards' sizes and metadata (header, keys, tensor directory) and the
 * first and last 4 KiB of each tensor, where there is data; docs/profile-format.md has it exactly. The same
 * for every path, mode and machine. Text: 32 digits and a NUL. */
int gguf_identity(const struct gguf *f, uint8_t out[16], struct err *e);
void gguf_identity_text(const uint8_t id[16], char out[33]);

/* ---- Writing: declare metadata and tensors, then stream the tensors' bytes in the declared order. ---- */
struct gguf_writer;
int gguf_writer_create(struct gguf_writer **out, const char *path, struct err *e);
void gguf_writer_destroy(struct gguf_writer **w); /* without finish: leaves no file */
/* Setters replace an existing key. Arrays: n elements packed as in memory. */
int gguf_put_u32(struct gguf_writer *w, const char *key, uint32_t v, struct err *e);
int gguf_put_u64(struct gguf_writer *w, const char *key, uint64_t v, struct err *e);
int gguf_put_i32(struct gguf_writer *w, const char *key, int32_t v, struct err *e);
int gguf_put_f32(struct gguf_writer *w, const char *key, float v, struct err *e);
int gguf_put_bool(struct gguf_writer *w, const char *key, bool v, struct err *e);
int gguf_put_str(struct gguf_writer *w, const char *key, const char *s, struct err *e);
int gguf_put_arr(struct gguf_writer *w, const char *key, enum gguf_type elem, const void *data, uint64_t n,
                 struct err *e);
int gguf_put_strs(struct gguf_writer *w, const char *key, const struct gguf_str *strs, uint64_t n,
                  struct err *e);
/* Copies one key of `f`, or all keys (NULL). */
int gguf_put_copy(struct gguf_writer *w, const struct gguf *f, const char *key, struct err *e);
int gguf_declare(struct gguf_writer *w, const char *name, enum dtype type, int n_dims, const uint64_t *ne,
                 struct err *e);
/* Writes header and directory; then gguf_write for each tensor in declared order, in pieces of any size. */
int gguf_write_header(struct gguf_writer *w, struct err *e);
int gguf_write(struct gguf_writer *w, const void *data, size_t n, struct err *e);
/* Checks that all bytes came, fsyncs and renames into place. */
int gguf_writer_finish(struct gguf_writer *w, struct err *e);
/* The same for a file that is to end with its metadata: no tensor has its bytes (GGUF_META opens it). */
int gguf_writer_finish_header(struct gguf_writer *w, struct err *e);

#endif
