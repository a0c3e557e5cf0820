/* Opening safetensors: one file, a sharded index, a folder; mappings and reads. The header parser is in
 * safetensors_parse.c. */
#include "base/checked.h"
#include "base/err.h"
#include "base/file.h"
#include "base/json_text.h"
#include "io/safetensors_priv.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct st_shard *add_shard(struct safetensors *f, const char *path, struct err *e)
{
    struct st_shard *s = realloc(f->shards, ((size_t)f->n_shards + 1) * sizeof *s);
    if (s) {
        f->shards = s;
        s += f->n_shards;
        *s = (struct st_shard){.fd = -1, .path = strdup(path)};
        if (s->path) {
            f->n_shards++;
            return s;
        }
    }
    err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
    return NULL;
}

/* The header's length, checked against the file. */
static int header_bytes(const struct st_shard *s, const void *first8, uint64_t *n, struct err *e)
{
    memcpy(n, first8, 8);
    if (*n > ST_HEADER_MAX)
        return err_set(e, ERR_FORMAT,
                       "'%s': expected a header of at most %d bytes, found a length of %llu (no "
                       "safetensors file?)",
                       s->path, ST_HEADER_MAX, (unsigned long long)*n);
    if (*n > s->size - 8)
        return err_set(e, ERR_FORMAT,
                       "'%s': expected a header of %llu bytes, but the file ends at byte %llu (is the "
                       "download complete?)",
                       s->path, (unsigned long long)*n, (unsigned long long)s->size);
    return 0;
}

static int too_short(const struct st_shard *s, struct err *e)
{
    return err_set(e, ERR_FORMAT, "'%s': expected a safetensors file of at least 8 bytes, found %llu",
                   s->path, (unsigned long long)s->size);
}

static int open_shard(struct safetensors *f, const char *path, struct err *e)
{
    struct st_shard *s = add_shard(f, path, e);
    if (!s) return ERR_NOMEM;
    int rc = file_open(path, &s->fd, &s->size, e);
    if (rc == 0 && s->size < 8) rc = too_short(s, e);
    uint64_t n = 0;
    unsigned char head[8];
    if (rc == 0) rc = file_read_at(s->fd, path, head, 8, 0, e);
    if (rc == 0) rc = header_bytes(s, head, &n, e);
    if (rc) return rc;
    char *text = malloc(n ? (size_t)n : 1);
    if (!text) return err_set(e, ERR_NOMEM, "no memory for the header of '%s'", path);
    rc = file_read_at(s->fd, path, text, (size_t)n, 8, e);
    if (rc == 0) rc = st_parse(f, text, (size_t)n, 8 + n, e);
    free(text);
    if (rc || s->size == 8 + n) return rc;
    void *p = mmap(NULL, (size_t)s->size, PROT_READ, MAP_SHARED, s->fd, 0);
    if (p == MAP_FAILED)
        return err_set_errno(e, ERR_IO, "cannot map the %llu bytes of '%s'", (unsigned long long)s->size,
                             path);
    s->map = p;
    s->map_owned = true;
    return 0;
}

static void set_data(struct safetensors *f)
{
    for (uint64_t i = 0; i < f->n_tensors; i++) {
        struct st_tensor *t = &f->tensors[i];
        const uint8_t *map = f->shards[t->shard].map;
        if (map) t->data = map + t->offset;
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The shards that the weight map names, each once, sorted. Strings belong to `map`. */
static int shard_names(const char *path, const json_t *map, const char ***out, size_t *n, struct err *e)
{
    size_t all = json_object_size(map);
    const char **names = malloc((all ? all : 1) * sizeof *names);
    if (!names) return err_set(e, ERR_NOMEM, "no memory for '%s'", path);
    size_t k = 0;
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, v)
    {
        const char *s = json_string_value(v);
        if (!s || !*s || strchr(s, '/') || strcmp(s, "..") == 0 || strcmp(s, ".") == 0) {
            free(names);
            return err_set(e, ERR_FORMAT,
                           "'%s': tensor '%.200s': expected the name of a file beside the index, found "
                           "%s%.100s",
                           path, tensor, s ? "" : "no string", s ? s : "");
        }
        names[k++] = s;
    }
    if (k) qsort(names, k, sizeof *names, by_text);
    size_t unique = 0;
    for (size_t i = 0; i < k; i++)
        if (unique == 0 || strcmp(names[unique - 1], names[i]) != 0) names[unique++] = names[i];
    *out = names;
    *n = unique;
    return 0;
}

/* Every tensor of the map must be in the file the map says. */
static int check_map(const struct safetensors *f, const char *path, const json_t *map, size_t dir,
                     struct err *e)
{
    const char *tensor;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, tensor, v)
    {
        const struct st_tensor *t = safetensors_find(f, tensor);
        if (t && strcmp(f->shards[t->shard].path + dir, json_string_value(v)) == 0) continue;
        return err_set(e, ERR_FORMAT, "'%s': expected tensor '%.200s' in '%.200s', found it %s%s", path,
                       tensor, json_string_value(v), t ? "in " : "nowhere",
                       t ? f->shards[t->shard].path : "");
    }
    return 0;
}

static int open_index(struct safetensors *f, const char *path, struct err *e)
{
    json_t *root = NULL;
    const char **names = NULL;
    char *shard = NULL;
    size_t n = 0;
    int rc = json_text_read(&root, path, ST_INDEX_MAX, JSON_TEXT_DEPTH, e);
    if (rc) return rc;
    const json_t *map = json_object_get(root, "weight_map");
    const char *slash = strrchr(path, '/');
    size_t dir = slash ? (size_t)(slash - path) + 1 : 0;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        rc = err_set(e, ERR_FORMAT, "'%s': expected an object \"weight_map\" from tensors to files", path);
        goto done;
    }
    rc = shard_names(path, map, &names, &n, e);
    for (size_t i = 0; i < n && rc == 0; i++) {
        free(shard);
        shard = malloc(dir + strlen(names[i]) + 1);
        if (!shard) {
            rc = err_set(e, ERR_NOMEM, "no memory to open the files of '%s'", path);
            break;
        }
        memcpy(shard, path, dir);
        strcpy(shard + dir, names[i]);
        rc = open_shard(f, shard, e);
        if (rc) err_prefix(e, rc, "file %zu of %zu of '%s'", i + 1, n, path);
    }
    if (rc == 0) rc = check_map(f, path, map, dir, e);
done:
    free(shard);
    free(names);
    json_decref(root);
    return rc;
}

/* Whether the folder has PyTorch pickles, for the message. */
static bool has_pickles(const char *dir)
{
    DIR *d = opendir(dir);
    bool found = false;
    for (struct dirent *x; d && !found && (x = readdir(d));) {
        const char *dot = strrchr(x->d_name, '.');
        found = dot && (strcmp(dot, ".bin") == 0 || strcmp(dot, ".pt") == 0 || strcmp(dot, ".pth") == 0);
    }
    if (d) closedir(d);
    return found;
}

static int open_folder(struct safetensors *f, const char *dir, struct err *e)
{
    static const char *const names[] = {"model.safetensors.index.json", "model.safetensors"};
    size_t n = strlen(dir);
    char *path = malloc(n + 40);
    if (!path) return err_set(e, ERR_NOMEM, "no memory to open '%s'", dir);
    int rc = 1;
    for (int i = 0; i < 2 && rc == 1; i++) {
        sprintf(path, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", names[i]);
        if (access(path, F_OK) == 0) rc = i == 0 ? open_index(f, path, e) : open_shard(f, path, e);
    }
    free(path);
    if (rc != 1) return rc;
    if (!has_pickles(dir))
        return err_set(e, ERR_IO, "'%s' has neither model.safetensors nor model.safetensors.index.json", dir);
    return err_set(
        e, ERR_UNSUPPORTED,
        "'%s' has its weights as Python pickles, which can run code: convert them once, in that folder, "
        "with: python3 -c \"import glob,torch;from safetensors.torch import save_file;w={};"
        "[w.update(torch.load(p,map_location='cpu',weights_only=True)) for p in "
        "sorted(glob.glob('*.bin')+glob.glob('*.pt')+glob.glob('*.pth'))];"
        "save_file({k:v.clone().contiguous() for k,v in w.items()},'model.safetensors')\"",
        dir);
}

static struct safetensors *create(const char *path, struct err *e)
{
    struct safetensors *f = calloc(1, sizeof *f);
    if (f) f->path = strdup(path);
    if (!f || !f->path) {
        free(f);
        err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
        return NULL;
    }
    return f;
}

int safetensors_open(struct safetensors **out, const char *path, struct err *e)
{
    *out = NULL;
    struct safetensors *f = create(path, e);
    if (!f) return ERR_NOMEM;
    struct stat st;
    size_t n = strlen(path);
    int rc;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        rc = open_folder(f, path, e);
    else if (n > 5 && strcmp(path + n - 5, ".json") == 0)
        rc = open_index(f, path, e);
    else
        rc = open_shard(f, path, e);
    if (rc) {
        safetensors_close(&f);
        return rc;
    }
    set_data(f);
    *out = f;
    return 0;
}

int safetensors_open_memory(struct safetensors **out, const void *bytes, size_t n, const char *name,
                            struct err *e)
{
    *out = NULL;
    struct safetensors *f = create(name, e);
    if (!f) return ERR_NOMEM;
    uint64_t header = 0;
    struct st_shard *s = add_shard(f, name, e);
    int rc = s ? 0 : ERR_NOMEM;
    if (s) {
        s->size = n;
        s->map = bytes;
        rc = n < 8 ? too_short(s, e) : header_bytes(s, bytes, &header, e);
    }
    if (rc == 0) rc = st_parse(f, (const char *)bytes + 8, (size_t)header, 8 + header, e);
    if (rc) {
        safetensors_close(&f);
        return rc;
    }
    set_data(f);
    *out = f;
    return 0;
}

void safetensors_close(struct safetensors **f)
{
    if (!f || !*f) return;
    struct safetensors *g = *f;
    for (int i = 0; i < g->n_shards; i++) {
        struct st_shard *s = &g->shards[i];
        if (s->map_owned) munmap((void *)(uintptr_t)s->map, (size_t)s->size);
        if (s->fd >= 0) close(s->fd);
        free(s->path);
    }
    for (uint64_t i = 0; i < g->n_tensors; i++) free((void *)(uintptr_t)g->tensors[i].name);
    for (uint64_t i = 0; i < g->n_meta; i++) {
        free(g->meta[i].key);
        free(g->meta[i].value);
    }
    free(g->shards);
    free(g->tensors);
    free(g->meta);
    free(g->path);
    name_table_finish(&g->names);
    free(g);
    *f = NULL;
}

static int check_shard(const struct st_shard *s, struct err *e)
{
    struct stat st;
    if (s->fd < 0) return 0;
    if (fstat(s->fd, &st) != 0) return err_set_errno(e, ERR_IO, "cannot examine '%s'", s->path);
    if ((uint64_t)st.st_size < s->size)
        return err_set(e, ERR_IO, "'%s' had %llu bytes when it was opened and has %llu now: it was shortened",
                       s->path, (unsigned long long)s->size, (unsigned long long)st.st_size);
    return 0;
}

int safetensors_check_size(const struct safetensors *f, struct err *e)
{
    int rc = 0;
    for (int i = 0; i < f->n_shards && rc == 0; i++) rc = check_shard(&f->shards[i], e);
    return rc;
}

int safetensors_read(const struct safetensors *f, const struct st_tensor *t, uint64_t begin, void *dst,
                     uint64_t n, struct err *e)
{
    const struct st_shard *s = &f->shards[t->shard];
    uint64_t end;
    if (!checked_add(begin, n, &end) || end > t->bytes)
        return err_set(e, ERR_ARG, "'%s': tensor '%s' has %llu bytes: cannot read %llu from byte %llu",
                       s->path, t->name, (unsigned long long)t->bytes, (unsigned long long)n,
                       (unsigned long long)begin);
    if (n == 0) return 0;
    int rc = check_shard(s, e);
    if (rc == 0 && s->fd < 0)
        memcpy(dst, s->map + t->offset + begin, (size_t)n);
    else if (rc == 0)
        rc = file_read_at(s->fd, s->path, dst, (size_t)n, t->offset + begin, e);
    return rc ? err_prefix(e, rc, "tensor '%s'", t->name) : 0;
}

const char *safetensors_path(const struct safetensors *f)
{
    return f->path;
}

int safetensors_shards(const struct safetensors *f)
{
    return f->n_shards;
}

const char *safetensors_shard_path(const struct safetensors *f, int shard)
{
    return f->shards[shard].path;
}

uint64_t safetensors_file_bytes(const struct safetensors *f)
{
    uint64_t sum = 0;
    for (int i = 0; i < f->n_shards; i++) sum += f->shards[i].size;
    return sum;
}

int64_t safetensors_n(const struct safetensors *f)
{
    return (int64_t)f->n_tensors;
}

const struct st_tensor *safetensors_tensor(const struct safetensors *f, int64_t i)
{
    return &f->tensors[i];
}

const struct st_tensor *safetensors_find(const struct safetensors *f, const char *name)
{
    int64_t i = name_table_find(&f->names, name, strlen(name));
    return i < 0 ? NULL : &f->tensors[i];
}

int64_t safetensors_n_meta(const struct safetensors *f)
{
    return (int64_t)f->n_meta;
}

void safetensors_meta(const struct safetensors *f, int64_t i, const char **key, const char **value)
{
    *key = f->meta[i].key;
    *value = f->meta[i].value;
}
