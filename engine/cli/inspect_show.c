/* Text and tables of `calor inspect`: see inspect.h. */
#include "engine/cli/inspect.h"

#include "base/err.h"
#include "base/size.h"
#include "engine/cli/cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The character at s: its bytes (0: not UTF-8) and code point. */
static int decode(const char *s, size_t n, uint32_t *cp)
{
    const unsigned char *p = (const unsigned char *)s;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int len = p[0] < 0x80                   ? 1
              : p[0] >= 0xf0 && p[0] < 0xf5 ? 4
              : p[0] >= 0xe0 && p[0] < 0xf0 ? 3
              : p[0] >= 0xc0 && p[0] < 0xe0 ? 2
                                            : 0;
    if (len == 0 || (size_t)len > n) return 0;
    *cp = len == 1 ? p[0] : p[0] & (0x7fu >> len);
    for (int i = 1; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
        *cp = *cp << 6 | (p[i] & 0x3f);
    }
    return *cp < least[len] || *cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000) ? 0 : len;
}

int show_text(const char *s, size_t n, int width)
{
    int used = 0;
    for (size_t i = 0; i < n;) {
        char piece[16];
        uint32_t cp = 0;
        int len = decode(s + i, n - i, &cp), columns;
        if (len == 0 || cp < 0x20 || (cp >= 0x7f && cp < 0xa0)) {
            const char *named = len == 0     ? NULL
                                : cp == '\n' ? "\\n"
                                : cp == '\t' ? "\\t"
                                : cp == '\r' ? "\\r"
                                             : NULL;
            columns = named ? snprintf(piece, sizeof piece, "%s", named)
                            : snprintf(piece, sizeof piece, "\\x%02x", (unsigned char)s[i]);
            if (len == 2) columns = snprintf(piece, sizeof piece, "\\u%04x", (unsigned)cp);
        } else {
            memcpy(piece, s + i, (size_t)len);
            piece[len] = 0;
            bool joins =
                (cp >= 0x300 && cp < 0x370) || (cp >= 0x200b && cp < 0x2010) || (cp >= 0xfe00 && cp < 0xfe10);
            bool hidden = cp >= 0x202a && cp < 0x202f; /* turns the direction of a line */
            columns = joins ? 0 : cp >= 0x1100 ? 2 : 1;
            if (cp >= 0x2000 && cp < 0x2e80) columns = joins ? 0 : 1;
            if (hidden) columns = snprintf(piece, sizeof piece, "\\u%04x", (unsigned)cp);
        }
        size_t next = i + (len ? (size_t)len : 1);
        if (used + columns > width - (next < n)) {
            fputs("…", stdout);
            return used + 1;
        }
        fputs(piece, stdout);
        used += columns;
        i = next;
    }
    return used;
}

void json_put_text(const char *s, size_t n)
{
    putchar('"');
    for (size_t i = 0; i < n;) {
        uint32_t cp = 0;
        int len = decode(s + i, n - i, &cp);
        if (len == 0)
            fputs("\\ufffd", stdout);
        else if (cp == '"' || cp == '\\')
            printf("\\%c", (int)cp);
        else if (cp < 0x20 || cp == 0x7f)
            printf("\\u%04x", (unsigned)cp);
        else
            fwrite(s + i, 1, (size_t)len, stdout);
        i += len ? (size_t)len : 1;
    }
    putchar('"');
}

void json_put_bytes(const char *s, size_t n)
{
    uint32_t cp;
    size_t i = 0;
    for (int len; i < n && (len = decode(s + i, n - i, &cp)) > 0;) i += (size_t)len;
    if (i == n) {
        json_put_text(s, n);
        return;
    }
    fputs("{\"hex\": \"", stdout);
    for (i = 0; i < n; i++) printf("%02x", (unsigned char)s[i]);
    fputs("\"}", stdout);
}

void json_put_double(double v, int digits)
{
    if (isfinite(v))
        printf("%.*g", digits, v);
    else
        fputs("null", stdout);
}

void show_field(const char *label, const char *fmt, ...)
{
    printf("  %-14s ", label);
    va_list ap;
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

char *show_count(uint64_t n, char *buf, size_t size)
{
    if (n >= 1000000000)
        snprintf(buf, size, "%.2f billion", (double)n * 1e-9);
    else if (n >= 1000000)
        snprintf(buf, size, "%.1f million", (double)n * 1e-6);
    else
        snprintf(buf, size, "%" PRIu64, n);
    return buf;
}

/* ---- Tensors ---- */

struct type_sum {
    const char *type;
    uint64_t tensors, values, bytes;
};
enum { TYPES_MAX = 64 };

/* Sums by type, largest first; returns how many. Values and bytes fit: they were checked against files,
 * except where a file holds metadata only; then they wrap to nothing worse than a wrong sum. */
static int sum_types(uint64_t n, void (*get)(const void *, uint64_t, struct inspect_tensor *),
                     const void *file, struct type_sum sums[TYPES_MAX])
{
    int k = 0;
    for (uint64_t i = 0; i < n; i++) {
        struct inspect_tensor t;
        get(file, i, &t);
        int j = 0;
        while (j < k && strcmp(sums[j].type, t.type) != 0) j++;
        if (j == TYPES_MAX) continue; /* there are fewer types than that */
        if (j == k) sums[k++] = (struct type_sum){.type = t.type};
        sums[j].tensors++;
        sums[j].values += t.values;
        sums[j].bytes += t.bytes;
    }
    for (int i = 1; i < k; i++)
        for (int j = i; j > 0 && sums[j].bytes > sums[j - 1].bytes; j--) {
            struct type_sum swap = sums[j];
            sums[j] = sums[j - 1];
            sums[j - 1] = swap;
        }
    return k;
}

/* "blk.7.attn_q.weight" → "blk.*.attn_q.weight": the first whole part that is a number. */
static size_t pattern_of(const char *name, char *out, size_t size)
{
    size_t n = 0;
    bool done = false;
    for (const char *p = name; *p && n + 1 < size;) {
        size_t digits = strspn(p, "0123456789");
        bool whole = digits && (p == name || p[-1] == '.') && (p[digits] == '.' || !p[digits]);
        if (whole && !done) {
            out[n++] = '*';
            p += digits;
            done = true;
        } else {
            out[n++] = *p++;
        }
    }
    out[n] = 0;
    return n;
}

struct group {
    char *pattern;
    uint64_t first, count, bytes;
    char line[96]; /* type and shape */
};

static void describe(const struct inspect_tensor *t, char *out, size_t size)
{
    int n = snprintf(out, size, "%-7s ", t->type);
    for (int d = 0; d < t->n_dims && n < (int)size; d++)
        n += snprintf(out + n, size - (size_t)n, "%s%" PRIu64, d ? " x " : "", t->shape[d]);
    if (t->n_dims == 0) snprintf(out + n, size - (size_t)n, "one value");
}

static int by_pattern(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    int c = strcmp(x->pattern, y->pattern);
    if (c == 0) c = strcmp(x->line, y->line);
    return c ? c : (x->first > y->first) - (x->first < y->first);
}

static int by_first(const void *a, const void *b)
{
    const struct group *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

static int make_groups(uint64_t n, void (*get)(const void *, uint64_t, struct inspect_tensor *),
                       const void *file, struct group **out, uint64_t *n_out, struct err *e)
{
    struct group *g = calloc(n ? (size_t)n : 1, sizeof *g);
    if (!g) return err_set(e, ERR_NOMEM, "no memory for a list of %" PRIu64 " tensors", n);
    uint64_t k = 0;
    int rc = 0;
    for (; k < n && rc == 0; k++) {
        struct inspect_tensor t;
        char pattern[512];
        get(file, k, &t);
        pattern_of(t.name, pattern, sizeof pattern);
        g[k] = (struct group){strdup(pattern), k, 1, t.bytes, ""};
        describe(&t, g[k].line, sizeof g[k].line);
        if (!g[k].pattern) rc = err_set(e, ERR_NOMEM, "no memory for a list of %" PRIu64 " tensors", n);
    }
    if (rc == 0) qsort(g, (size_t)n, sizeof *g, by_pattern);
    uint64_t kept = 0;
    for (uint64_t i = 0; i < k; i++) {
        if (rc == 0 && kept && strcmp(g[kept - 1].pattern, g[i].pattern) == 0 &&
            strcmp(g[kept - 1].line, g[i].line) == 0) {
            g[kept - 1].count++;
            g[kept - 1].bytes += g[i].bytes;
            free(g[i].pattern);
        } else {
            g[kept++] = g[i];
        }
    }
    if (rc) {
        for (uint64_t i = 0; i < kept; i++) free(g[i].pattern);
        free(g);
        return rc;
    }
    qsort(g, (size_t)kept, sizeof *g, by_first);
    *out = g;
    *n_out = kept;
    return 0;
}

static int show_groups(uint64_t n, void (*get)(const void *, uint64_t, struct inspect_tensor *),
                       const void *file, struct err *e)
{
    struct group *g = NULL;
    uint64_t k = 0;
    int rc = make_groups(n, get, file, &g, &k, e);
    if (rc) return rc;
    for (uint64_t i = 0; i < k; i++) {
        struct inspect_tensor t;
        char size[16];
        get(file, g[i].first, &t);
        const char *name = g[i].count > 1 ? g[i].pattern : t.name;
        fputs("  ", stdout);
        for (int used = show_text(name, strlen(name), 34); used < 34; used++) putchar(' ');
        if (g[i].count > 1)
            printf("%5" PRIu64 " x ", g[i].count);
        else
            printf("%8s", "");
        printf("%-25s %9s\n", g[i].line, size_format(g[i].bytes, size, sizeof size));
        free(g[i].pattern);
    }
    free(g);
    return 0;
}

static void show_every(uint64_t n, void (*get)(const void *, uint64_t, struct inspect_tensor *),
                       const void *file)
{
    for (uint64_t i = 0; i < n && cli_stdout_ok(); i++) {
        struct inspect_tensor t;
        char line[96];
        get(file, i, &t);
        describe(&t, line, sizeof line);
        fputs("  ", stdout);
        for (int used = show_text(t.name, strlen(t.name), 32); used < 32; used++) putchar(' ');
        printf(" %-22s%10" PRIu64 " %11" PRIu64 "\n", line, t.bytes, t.offset);
    }
}

int show_tensors(uint64_t n, void (*get)(const void *file, uint64_t i, struct inspect_tensor *out),
                 const void *file, bool every, struct err *e)
{
    struct type_sum sums[TYPES_MAX];
    int k = sum_types(n, get, file, sums);
    uint64_t bytes = 0, values = 0;
    for (int i = 0; i < k; i++) {
        bytes += sums[i].bytes;
        values += sums[i].values;
    }
    char size[16], count[24];
    printf("\ntensors: %" PRIu64 ", %s values, %s", n, show_count(values, count, sizeof count),
           size_format(bytes, size, sizeof size));
    if (values) printf(", %.2f bits a value", 8.0 * (double)bytes / (double)values);
    putchar('\n');
    for (int i = 0; i < k && k > 1; i++)
        printf("  %-8s %6" PRIu64 " tensor%s %16s values %10s  %5.1f %%\n", sums[i].type, sums[i].tensors,
               sums[i].tensors == 1 ? " " : "s", show_count(sums[i].values, count, sizeof count),
               size_format(sums[i].bytes, size, sizeof size),
               bytes ? 100.0 * (double)sums[i].bytes / (double)bytes : 0);
    if (n == 0) return 0;
    if (k > 1) putchar('\n');
    if (!every) return show_groups(n, get, file, e);
    printf("  %-32s %-22s%10s %11s\n", "name", "type    shape", "bytes", "offset");
    show_every(n, get, file);
    return 0;
}

int json_put_tensors(uint64_t n, void (*get)(const void *file, uint64_t i, struct inspect_tensor *out),
                     const void *file, struct err *e)
{
    (void)e;
    struct type_sum sums[TYPES_MAX];
    int k = sum_types(n, get, file, sums);
    uint64_t bytes = 0, values = 0;
    for (int i = 0; i < k; i++) {
        bytes += sums[i].bytes;
        values += sums[i].values;
    }
    printf("  \"parameters\": %" PRIu64 ",\n  \"tensor_bytes\": %" PRIu64 ",\n  \"bits_per_weight\": ",
           values, bytes);
    json_put_double(values ? 8.0 * (double)bytes / (double)values : 0, 9);
    fputs(",\n  \"types\": [", stdout);
    for (int i = 0; i < k; i++)
        printf("%s\n    {\"type\": \"%s\", \"tensors\": %" PRIu64 ", \"values\": %" PRIu64
               ", \"bytes\": %" PRIu64 "}",
               i ? "," : "", sums[i].type, sums[i].tensors, sums[i].values, sums[i].bytes);
    fputs("],\n  \"tensors\": [", stdout);
    for (uint64_t i = 0; i < n && cli_stdout_ok(); i++) {
        struct inspect_tensor t;
        get(file, i, &t);
        printf("%s\n    {\"name\": ", i ? "," : "");
        json_put_text(t.name, strlen(t.name));
        printf(", \"type\": \"%s\", \"shape\": [", t.type);
        for (int d = 0; d < t.n_dims; d++) printf("%s%" PRIu64, d ? ", " : "", t.shape[d]);
        printf("], \"values\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"offset\": %" PRIu64 ", \"shard\": %d}",
               t.values, t.bytes, t.offset, t.shard);
    }
    fputs("]\n", stdout);
    return 0;
}
