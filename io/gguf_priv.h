/* What the GGUF reader's files share. Private to io/ (and its tests and fuzz targets). */
#ifndef IO_GGUF_PRIV_H
#define IO_GGUF_PRIV_H

#include "io/gguf.h"
#include "io/name_table.h"

enum {
    GGUF_META_MAX = 256 << 20, /* bytes of metadata read at most: twenty times the largest known */
    GGUF_KEY_MAX = 65535,      /* bytes of a key, by the format */
    GGUF_NAME_MAX = 64,        /* bytes of a tensor name, by the format */
    GGUF_DEPTH_MAX = 4,        /* arrays in arrays */
    GGUF_ALIGN_MIN = 8,
    GGUF_ALIGN_MAX = 1 << 20,
    GGUF_KV_MIN = 8 + 1 + 4 + 1,           /* bytes of the smallest key with value */
    GGUF_INFO_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* … of the smallest tensor entry */
};

struct gguf_kv {
    const char *key;           /* NUL-terminated, in the metadata */
    enum gguf_type type, elem; /* elem and n: of arrays */
    uint64_t n;
    const uint8_t *raw; /* the value as stored, from behind its type */
    uint64_t raw_bytes;
    struct gguf_str *strs; /* arrays of strings: n entries, owned */
};

/* One file. Its metadata is a private copy, so that nothing that was checked can change afterwards. */
struct gguf_shard {
    char *path;
    int fd; /* -1: in memory */
    uint64_t size;
    uint8_t *meta;
    uint64_t meta_bytes; /* in use */
    uint64_t meta_end;   /* where the tensor directory ends */
    uint64_t meta_cap;   /* reserved; 0: meta is from malloc */
    const uint8_t *map;  /* the whole file, or NULL */
    bool map_owned;
};

/* The keys of one shard. */
struct gguf_meta {
    struct gguf_kv *kv;
    uint64_t n, cap;
    struct name_table keys;
};

struct gguf {
    struct gguf_shard *shards;
    int n_shards;
    enum gguf_mode mode;
    uint32_t version;
    bool powerinfer;
    uint64_t alignment;    /* of the first shard */
    struct gguf_meta meta; /* of the first shard */
    struct gguf_tensor *tensors;
    uint64_t n_tensors, cap_tensors;
    struct name_table names;
};

/* Parses the metadata of shard number `shard` of `f`: its keys go into `m` (all-zero before; to be freed with
 * gguf_meta_finish even after an error), its tensors are appended to f's. Sets version, powerinfer and
 * alignment of `f` when `shard` is 0. */
int gguf_parse(struct gguf *f, int shard, struct gguf_meta *m, struct err *e);
void gguf_meta_finish(struct gguf_meta *m);

/* The getters of gguf.h on one shard's keys; `path` is for messages. */
const struct gguf_kv *gguf_meta_find(const struct gguf_meta *m, const char *key);
int gguf_meta_uint(const struct gguf_meta *m, const char *path, const char *key, uint64_t max, uint64_t *out,
                   struct err *e);

/* As gguf_open on bytes in memory, which must outlive the file. `name` stands for the path in messages. */
int gguf_open_memory(struct gguf **out, const void *bytes, size_t n, const char *name, enum gguf_mode mode,
                     struct err *e);

/* Bytes of one element of a scalar type; 0 for strings, arrays and numbers that are no type. */
unsigned gguf_type_bytes(uint32_t type);

#endif
