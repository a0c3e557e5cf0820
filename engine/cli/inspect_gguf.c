/* calor inspect for GGUF, PowerInfer's variant and its GPU indexes. */
#include "base/err.h"
#include "base/size.h"
#include "engine/cli/cli.h"
#include "engine/cli/inspect.h"
#include "io/gguf.h"
#include "io/powerinfer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void get_tensor(const void *file, uint64_t i, struct inspect_tensor *out)
{
    const struct gguf_tensor *t = gguf_tensor(file, (int64_t)i);
    *out = (struct inspect_tensor){
        t->name,  dtype_name(t->type), t->ne,   t->n_dims, t->ne[0] * t->ne[1] * t->ne[2] * t->ne[3],
        t->bytes, t->offset,           t->shard};
}

/* One number of a scalar type as text (JSON: NaN and infinities as null); returns its bytes. */
static int format_number(enum gguf_type type, const uint8_t *p, bool json, char *out, size_t n)
{
    union {
        uint8_t u8;
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
        float f32;
        double f64;
    } v = {0};
    static const int bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2,  [GGUF_I16] = 2, [GGUF_U32] = 4,
        [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_STR] = 0, [GGUF_ARR] = 0,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    memcpy(&v, p, (size_t)bytes[type]);
    switch (type) {
    case GGUF_U8: snprintf(out, n, "%u", v.u8); break;
    case GGUF_I8: snprintf(out, n, "%d", v.i8); break;
    case GGUF_U16: snprintf(out, n, "%u", v.u16); break;
    case GGUF_I16: snprintf(out, n, "%d", v.i16); break;
    case GGUF_U32: snprintf(out, n, "%" PRIu32, v.u32); break;
    case GGUF_I32: snprintf(out, n, "%" PRId32, v.i32); break;
    case GGUF_U64: snprintf(out, n, "%" PRIu64, v.u64); break;
    case GGUF_I64: snprintf(out, n, "%" PRId64, v.i64); break;
    case GGUF_F32: snprintf(out, n, "%.9g", (double)v.f32); break;
    case GGUF_F64: snprintf(out, n, "%.17g", v.f64); break;
    case GGUF_BOOL: /* other bytes than 0 and 1 exist */
        if (v.u8 > 1)
            snprintf(out, n, "%u", v.u8);
        else
            snprintf(out, n, "%s", v.u8 ? "true" : "false");
        break;
    case GGUF_STR:
    case GGUF_ARR: out[0] = 0; break;
    }
    if (json && (strstr(out, "nan") || strstr(out, "inf"))) snprintf(out, n, "null");
    if (!json && type == GGUF_F32) snprintf(out, n, "%g", (double)v.f32);
    return bytes[type];
}

/* ---- Values, whole, as JSON; arrays in arrays (four deep at most) by descending ---- */

static const uint8_t *json_string(const uint8_t *p)
{
    uint64_t n;
    memcpy(&n, p, 8);
    json_put_bytes((const char *)p + 8, (size_t)n);
    return p + 8 + n;
}

static const uint8_t *json_array(const uint8_t *p)
{
    uint32_t type;
    uint64_t n;
    char text[40];
    memcpy(&type, p, 4);
    memcpy(&n, p + 4, 8);
    p += 12;
    putchar('[');
    for (uint64_t i = 0; i < n; i++) {
        if (i) fputs(", ", stdout);
        if (type == GGUF_ARR) {
            p = json_array(p);
        } else if (type == GGUF_STR) {
            p = json_string(p);
        } else {
            p += format_number((enum gguf_type)type, p, true, text, sizeof text);
            fputs(text, stdout);
        }
    }
    putchar(']');
    return p;
}

static void json_value(const struct gguf *f, int64_t i)
{
    uint64_t n;
    const uint8_t *p = gguf_kv_raw(f, i, &n);
    char text[40];
    switch (gguf_kv_type(f, i)) {
    case GGUF_STR: json_string(p); break;
    case GGUF_ARR: json_array(p); break;
    default: format_number(gguf_kv_type(f, i), p, true, text, sizeof text); fputs(text, stdout);
    }
}

/* ---- PowerInfer ---- */

/* How many of a layer's neurons the index puts on the GPU; 1 when it has no such layer. */
static int count_layer(const struct gguf *f, uint32_t layer, uint64_t *n, uint64_t *neurons, struct err *e)
{
    int32_t *bucket;
    int rc = powerinfer_layer(f, layer, &bucket, n, neurons, e);
    free(bucket);
    return rc;
}

/* Describes the file and checks its index before anything is printed. */
static int check_powerinfer(const struct gguf *f, struct powerinfer_info *p, struct err *e)
{
    int rc = powerinfer_describe(f, p, e);
    for (uint32_t i = 0; rc >= 0 && p->kind == POWERINFER_INDEX && i < p->layers; i++) {
        uint64_t n, neurons;
        rc = count_layer(f, i, &n, &neurons, e);
    }
    return rc < 0 ? rc : 0;
}

/* ---- For people ---- */

/* The first elements of an array in `width` columns. */
static void show_array(const struct gguf *f, int64_t i, int width)
{
    uint64_t raw, n = gguf_arr_n(f, i);
    enum gguf_type type = gguf_arr_type(f, i);
    const uint8_t *p = (const uint8_t *)gguf_kv_raw(f, i, &raw) + 12;
    if (type == GGUF_ARR) {
        printf("%" PRIu64 " arrays", n);
        return;
    }
    for (uint64_t k = 0; k < n; k++) {
        char text[64];
        size_t len;
        const char *s = text;
        if (type == GGUF_STR) {
            uint64_t bytes;
            memcpy(&bytes, p, 8);
            s = (const char *)p + 8;
            len = (size_t)bytes;
            p += 8 + bytes;
        } else {
            p += format_number(type, p, false, text, sizeof text);
            len = strlen(text);
        }
        int room = width - 5; /* for what follows */
        if (k && room < (int)(len < 12 ? len : 12)) {
            fputs(" …", stdout);
            return;
        }
        if (k) putchar(' ');
        width -= (k > 0) + show_text(s, len, room < 24 ? room : 24);
        if (k + 1 < n) putchar(',');
        width--;
    }
}

static void show_value(const struct gguf *f, int64_t i, int width)
{
    uint64_t n;
    const uint8_t *p = gguf_kv_raw(f, i, &n);
    char text[64];
    switch (gguf_kv_type(f, i)) {
    case GGUF_STR: show_text((const char *)p + 8, (size_t)n - 8, width); break;
    case GGUF_ARR: show_array(f, i, width); break;
    default: format_number(gguf_kv_type(f, i), p, false, text, sizeof text); fputs(text, stdout);
    }
}

static void show_metadata(const struct gguf *f)
{
    int64_t n = gguf_n_kv(f);
    printf("\nmetadata: %" PRId64 " key%s\n", n, n == 1 ? "" : "s");
    for (int64_t i = 0; i < n && cli_stdout_ok(); i++) {
        char type[32];
        if (gguf_kv_type(f, i) == GGUF_ARR)
            snprintf(type, sizeof type, "%s[%" PRIu64 "]", gguf_type_name(gguf_arr_type(f, i)),
                     gguf_arr_n(f, i));
        else
            snprintf(type, sizeof type, "%s", gguf_type_name(gguf_kv_type(f, i)));
        const char *key = gguf_key(f, i);
        fputs("  ", stdout);
        int used = show_text(key, strlen(key), 40);
        int pad = used < 38 ? 38 - used : 0;
        printf("%*s %-13s ", pad, "", type);
        show_value(f, i, 80 - 4 - (used + pad) - (int)(strlen(type) > 13 ? strlen(type) : 13));
        putchar('\n');
    }
}

static void show_powerinfer(const struct gguf *f, const struct powerinfer_info *p)
{
    char size[16];
    if (p->kind == POWERINFER_MODEL) {
        show_field("PowerInfer", "%" PRIu32 " layers, down stored transposed in %" PRIu32, p->layers,
                   p->transposed);
        if (p->predictors)
            show_field("predictors", "%" PRIu32 ", rank %" PRIu64 " to %" PRIu64, p->predictors, p->rank_min,
                       p->rank_max);
        if (p->has_threshold) show_field("threshold", "%g", (double)p->threshold);
        char *index = powerinfer_index_path(gguf_path(f));
        if (index && access(index, R_OK) == 0) show_field("GPU index", "%s", index);
        free(index);
    }
    if (p->kind != POWERINFER_INDEX) return;
    if (p->has_capacity) show_field("for VRAM of", "%s", size_format(p->capacity, size, sizeof size));
    printf("\n  layer   on the GPU    of\n");
    for (uint32_t i = 0; i < p->layers; i++) {
        uint64_t n, neurons;
        if (count_layer(f, i, &n, &neurons, NULL) != 0) continue;
        printf("  %5" PRIu32 " %8" PRIu64 " %7" PRIu64 "  %5.1f %%\n", i, n, neurons,
               neurons ? 100.0 * (double)n / (double)neurons : 0);
    }
}

/* Whether the tensors' bytes are there (a file may hold metadata only). */
static int show_file(const struct inspect *in, const struct gguf *f, const struct powerinfer_info *p,
                     struct err *e)
{
    char size[16];
    struct gguf_str s;
    printf("%s\n", in->path);
    show_field("format", "%s version %d%s", gguf_is_powerinfer(f) ? "PowerInfer GGUF (PWRI)" : "GGUF",
               gguf_version(f),
               gguf_n_tensors(f) == 0 ? ", no tensors"
               : gguf_has_data(f)     ? ""
                                      : ", metadata only: the tensors' bytes are not there");
    show_field("size", "%s (%" PRIu64 " bytes), alignment %" PRIu64,
               size_format(gguf_file_bytes(f), size, sizeof size), gguf_file_bytes(f), gguf_alignment(f));
    for (int i = 0; i < gguf_shards(f) && gguf_shards(f) > 1; i++)
        show_field(i ? "" : "parts", "%s (%s)", gguf_shard_path(f, i),
                   size_format(gguf_shard_bytes(f, i), size, sizeof size));
    static const char *const known[][2] = {{"general.architecture", "architecture"},
                                           {"general.name", "name"}};
    for (int i = 0; i < 2; i++) {
        if (gguf_get_str(f, known[i][0], &s, e) != 0) continue;
        printf("  %-14s ", known[i][1]);
        show_text(s.s, (size_t)s.n, 60);
        putchar('\n');
    }
    show_powerinfer(f, p);
    show_metadata(f);
    return show_tensors((uint64_t)gguf_n_tensors(f), get_tensor, f, in->tensors, e);
}

static void json_powerinfer(const struct gguf *f, const struct powerinfer_info *p)
{
    if (p->kind == POWERINFER_NONE) return;
    printf("  \"powerinfer\": {\"kind\": \"%s\", \"layers\": %" PRIu32 ", \"predictors\": %" PRIu32
           ", \"transposed\": %" PRIu32 ", \"rank_min\": %" PRIu64 ", \"rank_max\": %" PRIu64,
           p->kind == POWERINFER_MODEL ? "model" : "index", p->layers, p->predictors, p->transposed,
           p->rank_min, p->rank_max);
    if (p->has_threshold) {
        fputs(", \"threshold\": ", stdout);
        json_put_double((double)p->threshold, 9);
    }
    if (p->has_capacity) printf(", \"vram_capacity\": %" PRIu64, p->capacity);
    if (p->kind == POWERINFER_INDEX) {
        fputs(", \"gpu_neurons\": [", stdout);
        bool first = true;
        for (uint32_t i = 0; i < p->layers; i++) {
            uint64_t n, neurons;
            if (count_layer(f, i, &n, &neurons, NULL) != 0) continue;
            printf("%s{\"layer\": %" PRIu32 ", \"on_gpu\": %" PRIu64 ", \"neurons\": %" PRIu64 "}",
                   first ? "" : ", ", i, n, neurons);
            first = false;
        }
        putchar(']');
    }
    puts("},");
}

static int json_file(const struct inspect *in, const struct gguf *f, const struct powerinfer_info *p,
                     struct err *e)
{
    printf("{\n  \"format\": \"gguf\",\n  \"file\": ");
    json_put_text(in->path, strlen(in->path));
    printf(",\n  \"magic\": \"%s\",\n  \"version\": %d,\n  \"alignment\": %" PRIu64 ",\n  \"bytes\": %" PRIu64
           ",\n  \"metadata_only\": %s,\n  \"shards\": [",
           gguf_is_powerinfer(f) ? "PWRI" : "GGUF", gguf_version(f), gguf_alignment(f), gguf_file_bytes(f),
           gguf_has_data(f) ? "false" : "true");
    for (int i = 0; i < gguf_shards(f); i++) {
        fputs(i ? ", {\"file\": " : "{\"file\": ", stdout);
        json_put_text(gguf_shard_path(f, i), strlen(gguf_shard_path(f, i)));
        printf(", \"bytes\": %" PRIu64 "}", gguf_shard_bytes(f, i));
    }
    puts("],");
    json_powerinfer(f, p);
    fputs("  \"metadata\": {", stdout);
    for (int64_t i = 0; i < gguf_n_kv(f) && cli_stdout_ok(); i++) {
        fputs(i ? ",\n    " : "\n    ", stdout);
        json_put_text(gguf_key(f, i), strlen(gguf_key(f, i)));
        printf(": {\"type\": \"%s\", ", gguf_type_name(gguf_kv_type(f, i)));
        if (gguf_kv_type(f, i) == GGUF_ARR)
            printf("\"elements\": \"%s\", ", gguf_type_name(gguf_arr_type(f, i)));
        fputs("\"value\": ", stdout);
        json_value(f, i);
        putchar('}');
    }
    puts("},");
    int rc = json_put_tensors((uint64_t)gguf_n_tensors(f), get_tensor, f, e);
    puts("}");
    return rc;
}

/* One value whole: text as it is, arrays an element a line. */
static int show_key(const struct inspect *in, const struct gguf *f, struct err *e)
{
    int64_t i = gguf_find(f, in->key);
    if (i < 0) {
        const char **names = calloc((size_t)gguf_n_kv(f) + 1, sizeof *names);
        const char *near = NULL;
        for (int64_t k = 0; names && k < gguf_n_kv(f); k++) names[k] = gguf_key(f, k);
        if (names) near = cli_nearest(in->key, names);
        err_set(e, ERR_ARG, "'%s' has no key '%s'%s%s%s", in->path, in->key, near ? ": did you mean '" : "",
                near ? near : "", near ? "'?" : "");
        free(names);
        return ERR_ARG;
    }
    if (in->json || (gguf_kv_type(f, i) == GGUF_ARR && gguf_arr_type(f, i) == GGUF_ARR)) {
        json_value(f, i);
        putchar('\n');
        return 0;
    }
    uint64_t n;
    const uint8_t *p = gguf_kv_raw(f, i, &n);
    if (gguf_kv_type(f, i) == GGUF_STR) {
        fwrite(p + 8, 1, (size_t)n - 8, stdout);
        if (n > 8 && p[n - 1] != '\n') putchar('\n');
        return 0;
    }
    enum gguf_type type = gguf_kv_type(f, i);
    uint64_t count = 1;
    if (type == GGUF_ARR) {
        type = gguf_arr_type(f, i);
        count = gguf_arr_n(f, i);
        p += 12;
    }
    for (uint64_t k = 0; k < count && cli_stdout_ok(); k++) {
        char text[40];
        if (type == GGUF_STR) {
            uint64_t bytes;
            memcpy(&bytes, p, 8);
            show_text((const char *)p + 8, (size_t)bytes, INT32_MAX);
            putchar('\n');
            p += 8 + bytes;
        } else {
            p += format_number(type, p, false, text, sizeof text);
            puts(text);
        }
    }
    return 0;
}

int inspect_gguf(const struct inspect *in, struct err *e)
{
    struct gguf *f;
    int rc = gguf_open(&f, in->path, GGUF_META, e);
    if (rc) return rc;
    struct powerinfer_info p;
    if (in->key) {
        rc = show_key(in, f, e);
    } else if (inspect_is_profile(f) && !in->tensors) {
        rc = inspect_profile(in, e);
    } else {
        rc = check_powerinfer(f, &p, e);
        if (rc == 0) rc = in->json ? json_file(in, f, &p, e) : show_file(in, f, &p, e);
    }
    gguf_close(&f);
    return rc;
}
