/* calor inspect for safetensors, Hugging Face folders (with what config.json says) and .npy files. */
#include "base/err.h"
#include "base/json_text.h"
#include "base/size.h"
#include "engine/cli/cli.h"
#include "engine/cli/inspect.h"
#include "io/npy.h"
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void get_tensor(const void *file, uint64_t i, struct inspect_tensor *out)
{
    const struct st_tensor *t = safetensors_tensor(file, (int64_t)i);
    *out = (struct inspect_tensor){
        t->name, st_dtype_name(t->dtype), t->shape, t->n_dims, t->elements, t->bytes, t->offset, t->shard};
}

/* config.json beside the weights; *out is NULL when PATH is no folder or has none. */
static int read_config(const char *path, json_t **out, struct err *e)
{
    *out = NULL;
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) return 0;
    char *file = malloc(strlen(path) + sizeof "/config.json");
    if (!file) return err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
    sprintf(file, "%s/config.json", path);
    int rc = access(file, F_OK) == 0 ? json_text_read(out, file, 16 << 20, JSON_TEXT_DEPTH, e) : 0;
    free(file);
    if (rc == 0 && *out && !json_is_object(*out)) {
        json_decref(*out);
        *out = NULL;
        rc = err_set(e, ERR_FORMAT, "'%s/config.json': expected a JSON object", path);
    }
    return rc;
}

static void show_config(const json_t *config)
{
    printf("\nconfig.json: %zu entries\n", json_object_size(config));
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)config, key, v)
    {
        char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
        fputs("  ", stdout);
        for (int used = show_text(key, strlen(key), 30); used < 30; used++) putchar(' ');
        putchar(' ');
        if (text) show_text(text, strlen(text), 46);
        putchar('\n');
        free(text);
    }
}

static int show_file(const struct inspect *in, const struct safetensors *f, const json_t *config,
                     struct err *e)
{
    char size[16];
    const char *key, *value;
    printf("%s\n", in->path);
    show_field("format", "safetensors");
    show_field("size", "%s (%" PRIu64 " bytes)", size_format(safetensors_file_bytes(f), size, sizeof size),
               safetensors_file_bytes(f));
    for (int i = 0; i < safetensors_shards(f) && safetensors_shards(f) > 1; i++)
        show_field(i ? "" : "parts", "%s", safetensors_shard_path(f, i));
    if (safetensors_n_meta(f)) printf("\nmetadata: %" PRId64 " entries\n", safetensors_n_meta(f));
    for (int64_t i = 0; i < safetensors_n_meta(f); i++) {
        safetensors_meta(f, i, &key, &value);
        fputs("  ", stdout);
        for (int used = show_text(key, strlen(key), 30); used < 30; used++) putchar(' ');
        putchar(' ');
        show_text(value, strlen(value), 46);
        putchar('\n');
    }
    if (config) show_config(config);
    return show_tensors((uint64_t)safetensors_n(f), get_tensor, f, in->tensors, e);
}

static int json_file(const struct inspect *in, const struct safetensors *f, const json_t *config,
                     struct err *e)
{
    printf("{\n  \"format\": \"safetensors\",\n  \"file\": ");
    json_put_text(in->path, strlen(in->path));
    printf(",\n  \"bytes\": %" PRIu64 ",\n  \"shards\": [", safetensors_file_bytes(f));
    for (int i = 0; i < safetensors_shards(f); i++) {
        fputs(i ? ", {\"file\": " : "{\"file\": ", stdout);
        json_put_text(safetensors_shard_path(f, i), strlen(safetensors_shard_path(f, i)));
        putchar('}');
    }
    fputs("],\n  \"metadata\": {", stdout);
    for (int64_t i = 0; i < safetensors_n_meta(f); i++) {
        const char *key, *value;
        safetensors_meta(f, i, &key, &value);
        fputs(i ? ", " : "", stdout);
        json_put_text(key, strlen(key));
        fputs(": ", stdout);
        json_put_text(value, strlen(value));
    }
    puts("},");
    if (config) {
        fputs("  \"config\": ", stdout);
        if (json_dumpf(config, stdout, JSON_COMPACT) != 0 && cli_stdout_ok())
            return err_set(e, ERR_NOMEM, "no memory to print config.json");
        puts(",");
    }
    int rc = json_put_tensors((uint64_t)safetensors_n(f), get_tensor, f, e);
    puts("}");
    return rc;
}

/* A value of __metadata__ or of config.json, whole. */
static int show_key(const struct inspect *in, const struct safetensors *f, const json_t *config,
                    struct err *e)
{
    for (int64_t i = 0; i < safetensors_n_meta(f); i++) {
        const char *key, *value;
        safetensors_meta(f, i, &key, &value);
        if (strcmp(key, in->key) != 0) continue;
        if (in->json)
            json_put_text(value, strlen(value));
        else
            fputs(value, stdout);
        putchar('\n');
        return 0;
    }
    const json_t *v = config ? json_object_get(config, in->key) : NULL;
    if (!v) return err_set(e, ERR_ARG, "'%s' has no key '%s'", in->path, in->key);
    if (json_is_string(v) && !in->json)
        fputs(json_string_value(v), stdout);
    else if (json_dumpf(v, stdout, JSON_ENCODE_ANY | JSON_INDENT(2)) != 0 && cli_stdout_ok())
        return err_set(e, ERR_NOMEM, "no memory to print '%s'", in->key);
    putchar('\n');
    return 0;
}

int inspect_safetensors(const struct inspect *in, struct err *e)
{
    struct safetensors *f;
    json_t *config = NULL;
    int rc = safetensors_open(&f, in->path, e);
    if (rc) return rc;
    rc = read_config(in->path, &config, e);
    if (rc == 0)
        rc = in->key    ? show_key(in, f, config, e)
             : in->json ? json_file(in, f, config, e)
                        : show_file(in, f, config, e);
    json_decref(config);
    safetensors_close(&f);
    return rc;
}

int inspect_npy(const struct inspect *in, struct err *e)
{
    if (in->key) return err_set(e, ERR_ARG, "'%s' is a .npy file: it has no keys", in->path);
    struct npy *f;
    int rc = npy_open(&f, in->path, e);
    if (rc) return rc;
    uint64_t rows = npy_rows(f), cols = npy_cols(f);
    if (in->json) {
        fputs("{\"format\": \"npy\", \"file\": ", stdout);
        json_put_text(in->path, strlen(in->path));
        printf(", \"type\": \"F32\", \"shape\": [%" PRIu64 ", %" PRIu64 "]}\n", rows, cols);
    } else {
        char size[16];
        printf("%s\n", in->path);
        show_field("format", "NumPy array");
        show_field("values", "F32, %" PRIu64 " x %" PRIu64 " (%s)", rows, cols,
                   size_format(rows * cols * 4, size, sizeof size));
    }
    npy_close(&f);
    return 0;
}
