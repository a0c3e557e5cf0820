/* A set of names (keys, tensor names) that finds duplicates in linear time. Private to io/. */
#ifndef IO_NAME_TABLE_H
#define IO_NAME_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct name_slot {
    const char *name; /* NULL: free */
    uint32_t len, index;
};

/* All-zero is an empty table. Names are not copied: they must outlive the table. */
struct name_table {
    struct name_slot *slots;
    size_t cap, n; /* cap is 0 or a power of two */
    uint64_t seed;
};

/* Adds a name with its index. Returns 0, or 1 when the name is there already (then *index becomes the
 * index it has), or ERR_NOMEM. */
int name_table_add(struct name_table *t, const char *name, size_t len, uint32_t *index);
/* The index of a name, or -1. */
int64_t name_table_find(const struct name_table *t, const char *name, size_t len);
void name_table_finish(struct name_table *t);

#endif
