/* Open addressing over XXH3, at most half full: see name_table.h. */
#include "io/name_table.h"

#include "base/err.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <xxhash.h>

static size_t slot_of(const struct name_table *t, const char *name, size_t len)
{
    size_t i = (size_t)XXH3_64bits_withSeed(name, len, t->seed) & (t->cap - 1);
    while (t->slots[i].name && (t->slots[i].len != len || memcmp(t->slots[i].name, name, len) != 0))
        i = (i + 1) & (t->cap - 1);
    return i;
}

static int grow(struct name_table *t)
{
    struct name_table bigger = {.cap = t->cap ? t->cap * 2 : 64, .n = t->n, .seed = t->seed};
    /* A seed unknown to whoever made the file keeps crafted collisions from making this quadratic. */
    if (!t->cap && getrandom(&bigger.seed, sizeof bigger.seed, GRND_NONBLOCK) != sizeof bigger.seed)
        bigger.seed = (uint64_t)time(NULL);
    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (!bigger.slots) return ERR_NOMEM;
    for (size_t i = 0; i < t->cap; i++)
        if (t->slots[i].name) bigger.slots[slot_of(&bigger, t->slots[i].name, t->slots[i].len)] = t->slots[i];
    free(t->slots);
    *t = bigger;
    return 0;
}

int name_table_add(struct name_table *t, const char *name, size_t len, uint32_t *index)
{
    if (t->n * 2 >= t->cap && grow(t) != 0) return ERR_NOMEM;
    size_t i = slot_of(t, name, len);
    if (t->slots[i].name) {
        *index = t->slots[i].index;
        return 1;
    }
    t->slots[i] = (struct name_slot){name, (uint32_t)len, *index};
    t->n++;
    return 0;
}

int64_t name_table_find(const struct name_table *t, const char *name, size_t len)
{
    if (!t->cap) return -1;
    size_t i = slot_of(t, name, len);
    return t->slots[i].name ? (int64_t)t->slots[i].index : -1;
}

void name_table_finish(struct name_table *t)
{
    free(t->slots);
    *t = (struct name_table){0};
}
