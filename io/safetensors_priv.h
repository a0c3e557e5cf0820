/* What the safetensors reader's files share. Private to io/ (and its tests and fuzz targets). */
#ifndef IO_SAFETENSORS_PRIV_H
#define IO_SAFETENSORS_PRIV_H

#include "io/name_table.h"
#include "io/safetensors.h"

enum {
    ST_HEADER_MAX = 100 * 1000 * 1000, /* bytes, as the reference implementation has it */
    ST_INDEX_MAX = 100 * 1000 * 1000,
};

struct st_shard {
    char *path;
    int fd; /* -1: in memory */
    uint64_t size;
    const uint8_t *map; /* the whole file, or NULL when there are no bytes */
    bool map_owned;
};

struct st_pair {
    char *key, *value;
};

struct safetensors {
    char *path;
    struct st_shard *shards;
    int n_shards;
    struct st_tensor *tensors;
    uint64_t n_tensors;
    struct name_table names;
    struct st_pair *meta;
    uint64_t n_meta;
};

/* Parses the header (JSON text of n bytes) of the last shard and appends its tensors; `data` is where tensor
 * bytes begin in the file. */
int st_parse(struct safetensors *f, const char *header, size_t n, uint64_t data, struct err *e);

/* As safetensors_open on a single file's bytes, which must outlive it. `name` stands for the path. */
int safetensors_open_memory(struct safetensors **out, const void *bytes, size_t n, const char *name,
                            struct err *e);

#endif
