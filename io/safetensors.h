/* safetensors: reading, untrusted. One file, a sharded `…safetensors.index.json`, or a Hugging Face folder.
 * Front header of io/. Format: the header comment of the safetensors crate (u64 length, JSON header, bytes).
 */
#ifndef IO_SAFETENSORS_H
#define IO_SAFETENSORS_H

#include "base/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum st_dtype {
    ST_BOOL,
    ST_U8,
    ST_I8,
    ST_F8_E5M2,
    ST_F8_E4M3,
    ST_I16,
    ST_U16,
    ST_F16,
    ST_BF16,
    ST_I32,
    ST_U32,
    ST_F32,
    ST_F64,
    ST_I64,
    ST_U64,
    ST_DTYPES,
};

enum { ST_DIMS_MAX = 8 };

struct st_tensor {
    const char *name; /* NUL-terminated, owned by the file */
    enum st_dtype dtype;
    int n_dims;                  /* 0 (a single value) … ST_DIMS_MAX */
    uint64_t shape[ST_DIMS_MAX]; /* outermost first, as PyTorch prints it: [rows, columns]; a size may be 0 */
    uint64_t elements, bytes;
    uint64_t offset; /* in its shard, absolute */
    int shard;
    const void *data; /* in the mapping; unaligned: copy or load with memcpy */
};

struct safetensors; /* opaque, immutable after open; reads from several threads are safe */

/* Opens PATH: a .safetensors file; a *.safetensors.index.json; or a folder with model.safetensors.index.json
 * or model.safetensors (a folder with only .bin or .pt weights gets an error with the command that converts
 * them). Everything is checked before it is believed. Errors name file, tensor, what was expected and found.
 */
int safetensors_open(struct safetensors **out, const char *path, struct err *e);
void safetensors_close(struct safetensors **f);
/* Whether every shard still has the bytes it had at open (ERR_IO if not): call it before using mapped data,
 * which raises SIGBUS when a file was shortened meanwhile. */
int safetensors_check_size(const struct safetensors *f, struct err *e);

const char *safetensors_path(const struct safetensors *f);
int safetensors_shards(const struct safetensors *f);
const char *safetensors_shard_path(const struct safetensors *f, int shard);
uint64_t safetensors_file_bytes(const struct safetensors *f); /* all shards */

/* Tensors: shard by shard, by offset in each. */
int64_t safetensors_n(const struct safetensors *f);
const struct st_tensor *safetensors_tensor(const struct safetensors *f, int64_t i);
const struct st_tensor *safetensors_find(const struct safetensors *f, const char *name); /* NULL if absent */
/* Reads bytes [begin, begin+n) of a tensor with a read, never a mapping; the file's size is checked again. */
int safetensors_read(const struct safetensors *f, const struct st_tensor *t, uint64_t begin, void *dst,
                     uint64_t n, struct err *e);

/* Entries of the first shard's "__metadata__": names and values, in the order of the file. */
int64_t safetensors_n_meta(const struct safetensors *f);
void safetensors_meta(const struct safetensors *f, int64_t i, const char **key, const char **value);

const char *st_dtype_name(enum st_dtype t); /* "BF16", static */
unsigned st_dtype_bytes(enum st_dtype t);   /* bytes an element */
/* The same type as tensors of models have it; false for those that are no such type (bool, unsigned, 8-bit
 * floats). */
bool st_dtype_model(enum st_dtype t, enum dtype *out);

#endif
