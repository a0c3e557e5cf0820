/* Opening GGUF files: shards, mappings, and reading tensors. The parser is in gguf_parse.c. */
#include "base/checked.h"
#include "base/err.h"
#include "base/file.h"
#include "io/gguf_priv.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The metadata's size is only known once it is parsed. Address space for the most it may be costs nothing
 * until it is used, and never moves. */
static int reserve_meta(struct gguf_shard *s, struct err *e)
{
    uint64_t n = s->size < GGUF_META_MAX ? s->size : GGUF_META_MAX;
    if (n == 0) return err_set(e, ERR_FORMAT, "'%s' is empty: expected a GGUF file", s->path);
    void *p =
        mmap(NULL, (size_t)n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return err_set_errno(e, ERR_NOMEM, "no memory for the metadata of '%s'", s->path);
    s->meta = p;
    s->meta_cap = n;
    return 0;
}

static void trim_meta(struct gguf_shard *s)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), keep;
    if (!s->meta_cap || !checked_align(s->meta_bytes, page, &keep) || keep >= s->meta_cap) return;
    munmap(s->meta + keep, (size_t)(s->meta_cap - keep));
    s->meta_cap = keep;
}

static struct gguf_shard *add_shard(struct gguf *f, const char *path, struct err *e)
{
    struct gguf_shard *s = realloc(f->shards, ((size_t)f->n_shards + 1) * sizeof *s);
    if (s) {
        f->shards = s;
        s += f->n_shards;
        *s = (struct gguf_shard){.fd = -1, .path = strdup(path)};
        if (s->path) {
            f->n_shards++;
            return s;
        }
    }
    err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
    return NULL;
}

static int open_shard(struct gguf *f, const char *path, struct gguf_meta *m, struct err *e)
{
    struct gguf_shard *s = add_shard(f, path, e);
    if (!s) return ERR_NOMEM;
    int rc = file_open(path, &s->fd, &s->size, e);
    if (rc == 0) rc = reserve_meta(s, e);
    uint64_t first = f->n_tensors;
    if (rc == 0) rc = gguf_parse(f, f->n_shards - 1, m, e);
    if (rc) return rc;
    trim_meta(s);
    if (f->mode != GGUF_MMAP || f->n_tensors == first) return 0;
    void *p = mmap(NULL, (size_t)s->size, PROT_READ, MAP_SHARED, s->fd, 0);
    if (p == MAP_FAILED)
        return err_set_errno(e, ERR_IO,
                             "cannot map the %llu bytes of '%s' (reading instead of mapping may work)",
                             (unsigned long long)s->size, path);
    s->map = p;
    s->map_owned = true;
    return 0;
}

enum { SUFFIX = sizeof "-00001-of-00002.gguf" - 1 };

/* Splits NAME-00001-of-0000N.gguf: the length of NAME, and the two numbers; 0 when the name is another. */
static size_t split_name(const char *path, unsigned *no, unsigned *count)
{
    size_t n = strlen(path);
    if (n <= SUFFIX) return 0;
    const char *s = path + n - SUFFIX;
    static const char pattern[] = "-ddddd-of-ddddd.gguf";
    for (int i = 0; i < SUFFIX; i++)
        if (pattern[i] == 'd' ? !isdigit((unsigned char)s[i]) : s[i] != pattern[i]) return 0;
    if (pattern[1] != 'd') return 0;
    *no = (unsigned)strtoul(s + 1, NULL, 10);
    *count = (unsigned)strtoul(s + 10, NULL, 10);
    return n - SUFFIX;
}

/* Opens the shards behind the first, as its keys say. */
static int open_others(struct gguf *f, struct err *e)
{
    const char *path = f->shards[0].path;
    uint64_t count = 1, number = 0, tensors = 0;
    int rc = gguf_meta_uint(&f->meta, path, "split.count", 99999, &count, e);
    if (rc >= 0) rc = gguf_meta_uint(&f->meta, path, "split.no", 99998, &number, e);
    if (rc < 0) return rc;
    if (number != 0 && number >= count)
        return err_set(e, ERR_FORMAT,
                       "'%s': key 'split.no': expected less than split.count (%llu), found %llu", path,
                       (unsigned long long)count, (unsigned long long)number);
    if (count <= 1) return 0;
    unsigned name_no = 0, name_count = 0;
    size_t stem = split_name(path, &name_no, &name_count);
    if (number != 0) {
        if (!stem)
            return err_set(e, ERR_ARG,
                           "'%s' is part %llu of %llu of a split model: open the first part instead", path,
                           (unsigned long long)number + 1, (unsigned long long)count);
        return err_set(e, ERR_ARG,
                       "'%s' is part %llu of %llu of a split model: open '%.*s-00001-of-%05llu.gguf' instead",
                       path, (unsigned long long)number + 1, (unsigned long long)count, (int)stem, path,
                       (unsigned long long)count);
    }
    if (!stem || name_no != 1 || name_count != count)
        return err_set(
            e, ERR_FORMAT,
            "'%s' is the first of %llu parts: expected a name that ends in '-00001-of-%05llu.gguf', by "
            "which the others are found",
            path, (unsigned long long)count, (unsigned long long)count);
    rc = gguf_meta_uint(&f->meta, path, "split.tensors.count", INT64_MAX, &tensors, e);
    if (rc < 0) return rc;
    bool counted = rc == 0;
    char *part = malloc(stem + SUFFIX + 1);
    if (!part) return err_set(e, ERR_NOMEM, "no memory to open the parts of '%s'", path);
    memcpy(part, path, stem);
    rc = 0;
    for (unsigned i = 1; i < count && rc == 0; i++) {
        struct gguf_meta m = {0};
        uint64_t other = 0, no = 0;
        snprintf(part + stem, SUFFIX + 1, "-%05u-of-%05u.gguf", (i + 1) % 100000u, (unsigned)count % 100000u);
        rc = open_shard(f, part, &m, e);
        if (rc) err_prefix(e, rc, "part %u of %llu", i + 1, (unsigned long long)count);
        if (rc == 0) rc = gguf_meta_uint(&m, part, "split.count", UINT64_MAX, &other, e);
        if (rc >= 0) rc = gguf_meta_uint(&m, part, "split.no", UINT64_MAX, &no, e);
        if (rc >= 0 && (other != count || no != i))
            rc = err_set(e, ERR_FORMAT,
                         "'%s': expected split.no %u and split.count %llu, found %llu and %llu (do the parts "
                         "belong together?)",
                         part, i, (unsigned long long)count, (unsigned long long)no,
                         (unsigned long long)other);
        if (rc > 0) rc = 0;
        gguf_meta_finish(&m);
    }
    free(part);
    path = f->shards[0].path;
    if (rc == 0 && counted && tensors != f->n_tensors)
        rc = err_set(e, ERR_FORMAT,
                     "'%s': expected split.tensors.count (%llu) tensors in all parts, found %llu", path,
                     (unsigned long long)tensors, (unsigned long long)f->n_tensors);
    return rc;
}

static void set_data(struct gguf *f)
{
    for (uint64_t i = 0; i < f->n_tensors; i++) {
        struct gguf_tensor *t = &f->tensors[i];
        const uint8_t *map = f->shards[t->shard].map;
        if (map && f->mode == GGUF_MMAP) t->data = map + t->offset;
    }
}

int gguf_open(struct gguf **out, const char *path, enum gguf_mode mode, struct err *e)
{
    *out = NULL;
    struct gguf *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
    f->mode = mode;
    int rc = open_shard(f, path, &f->meta, e);
    if (rc == 0) rc = open_others(f, e);
    if (rc) {
        gguf_close(&f);
        return rc;
    }
    set_data(f);
    *out = f;
    return 0;
}

int gguf_open_memory(struct gguf **out, const void *bytes, size_t n, const char *name, enum gguf_mode mode,
                     struct err *e)
{
    *out = NULL;
    struct gguf *f = calloc(1, sizeof *f);
    if (!f) return err_set(e, ERR_NOMEM, "no memory to open '%s'", name);
    f->mode = mode;
    int rc = ERR_NOMEM;
    struct gguf_shard *s = add_shard(f, name, e);
    if (!s) goto fail;
    uint64_t meta = n < GGUF_META_MAX ? n : GGUF_META_MAX;
    s->meta = malloc(meta ? meta : 1);
    if (!s->meta) {
        err_set(e, ERR_NOMEM, "no memory for the metadata of '%s'", name);
        goto fail;
    }
    memcpy(s->meta, bytes, meta);
    s->meta_bytes = meta;
    s->size = n;
    s->map = bytes;
    rc = n ? gguf_parse(f, 0, &f->meta, e)
           : err_set(e, ERR_FORMAT, "'%s' is empty: expected a GGUF file", name);
    if (rc) goto fail;
    set_data(f);
    *out = f;
    return 0;
fail:
    gguf_close(&f);
    return rc;
}

void gguf_close(struct gguf **f)
{
    if (!f || !*f) return;
    struct gguf *g = *f;
    for (int i = 0; i < g->n_shards; i++) {
        struct gguf_shard *s = &g->shards[i];
        if (s->map_owned) munmap((void *)(uintptr_t)s->map, (size_t)s->size);
        if (s->meta_cap)
            munmap(s->meta, (size_t)s->meta_cap);
        else
            free(s->meta);
        if (s->fd >= 0) close(s->fd);
        free(s->path);
    }
    free(g->shards);
    gguf_meta_finish(&g->meta);
    free(g->tensors);
    name_table_finish(&g->names);
    free(g);
    *f = NULL;
}

static int check_shard(const struct gguf_shard *s, struct err *e)
{
    struct stat st;
    if (s->fd < 0) return 0;
    if (fstat(s->fd, &st) != 0) return err_set_errno(e, ERR_IO, "cannot examine '%s'", s->path);
    if ((uint64_t)st.st_size < s->size)
        return err_set(e, ERR_IO, "'%s' had %llu bytes when it was opened and has %llu now: it was shortened",
                       s->path, (unsigned long long)s->size, (unsigned long long)st.st_size);
    return 0;
}

bool gguf_has_data(const struct gguf *f)
{
    for (uint64_t i = 0; i < f->n_tensors; i++) {
        const struct gguf_tensor *t = &f->tensors[i];
        if (t->offset + t->bytes > f->shards[t->shard].size) return false;
    }
    return true;
}

int gguf_check_size(const struct gguf *f, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < f->n_shards && rc == 0; i++) rc = check_shard(&f->shards[i], e);
    return rc;
}

int gguf_read_tensor(const struct gguf *f, const struct gguf_tensor *t, uint64_t begin, void *dst, uint64_t n,
                     struct err *e)
{
    const struct gguf_shard *s = &f->shards[t->shard];
    uint64_t end, at;
    if (!checked_add(begin, n, &end) || end > t->bytes || !checked_add(t->offset, begin, &at))
        return err_set(e, ERR_ARG, "'%s': tensor '%s' has %llu bytes: cannot read %llu from byte %llu",
                       s->path, t->name, (unsigned long long)t->bytes, (unsigned long long)n,
                       (unsigned long long)begin);
    int rc = check_shard(s, e);
    if (rc == 0 && (at > s->size || n > s->size - at))
        rc = err_set(e, ERR_IO, "the file ends at byte %llu, before byte %llu", (unsigned long long)s->size,
                     (unsigned long long)(at + n));
    if (rc == 0 && s->fd < 0)
        memcpy(dst, s->map + at, (size_t)n);
    else if (rc == 0) /* also when mapped: a read reports what a mapping turns into a signal */
        rc = file_read_at(s->fd, s->path, dst, (size_t)n, at, e);
    return rc ? err_prefix(e, rc, "'%s': tensor '%s'", s->path, t->name) : 0;
}
