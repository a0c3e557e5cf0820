/* .npy files: see npy.h. The header is the text of a Python dictionary of three entries; it is parsed as just
 * that, not as Python. */
#include "io/npy.h"

#include "base/checked.h"
#include "base/err.h"
#include "base/file.h"
#include "io/npy_priv.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "values are used as stored: little-endian machines only"
#endif

struct text {
    const char *s, *end;
};

static bool eat(struct text *t, char c)
{
    while (t->s < t->end && (*t->s == ' ' || *t->s == '\n')) t->s++;
    if (t->s == t->end || *t->s != c) return false;
    t->s++;
    return true;
}

/* A quoted string without escapes. */
static bool eat_string(struct text *t, const char **s, size_t *n)
{
    char quote = '\'';
    if (!eat(t, quote) && !eat(t, quote = '"')) return false;
    const char *end = memchr(t->s, quote, (size_t)(t->end - t->s));
    if (!end || memchr(t->s, '\\', (size_t)(end - t->s))) return false;
    *s = t->s;
    *n = (size_t)(end - t->s);
    t->s = end + 1;
    return true;
}

static bool eat_word(struct text *t, const char *word)
{
    size_t n = strlen(word);
    while (t->s < t->end && *t->s == ' ') t->s++;
    if ((size_t)(t->end - t->s) < n || memcmp(t->s, word, n) != 0) return false;
    t->s += n;
    return true;
}

static bool eat_number(struct text *t, uint64_t *v)
{
    while (t->s < t->end && *t->s == ' ') t->s++;
    const char *start = t->s;
    for (*v = 0; t->s < t->end && *t->s >= '0' && *t->s <= '9'; t->s++)
        if (!checked_mul(*v, 10, v) || !checked_add(*v, (uint64_t)(*t->s - '0'), v)) return false;
    return t->s > start;
}

/* (3, 4) or (3,) or (); at most 32 numbers, as NumPy. */
static bool eat_shape(struct text *t, uint64_t shape[32], int *dims)
{
    *dims = 0;
    if (!eat(t, '(')) return false;
    while (!eat(t, ')')) {
        if (*dims == 32 || !eat_number(t, &shape[*dims])) return false;
        ++*dims;
        if (!eat(t, ',')) return eat(t, ')') && *dims > 1;
    }
    return true;
}

struct dict {
    const char *descr;
    size_t descr_n;
    bool fortran, seen_fortran;
    uint64_t shape[32];
    int dims; /* -1: not there */
    const char *note;
    size_t note_n;
};

/* To the end of the header: a comment, where there is one. */
static void take_note(struct text *t, struct dict *d)
{
    if (!eat(t, '#')) return;
    while (t->s < t->end && *t->s == ' ') t->s++;
    d->note = t->s;
    const char *end = t->end;
    while (end > d->note && (end[-1] == ' ' || end[-1] == '\n')) end--;
    d->note_n = (size_t)(end - d->note);
    /* A second line would be Python again; what is not printable is not ours. */
    bool plain = d->note_n <= NPY_NOTE_MAX;
    for (const char *s = d->note; s < end; s++) {
        if (*s == '\n') return;
        plain &= *s >= 32 && *s < 127;
    }
    if (!plain) d->note_n = 0;
    t->s = t->end;
}

static bool parse_dict(struct text *t, struct dict *d)
{
    *d = (struct dict){.dims = -1};
    if (!eat(t, '{')) return false;
    while (!eat(t, '}')) {
        const char *key;
        size_t n;
        if (!eat_string(t, &key, &n) || !eat(t, ':')) return false;
        if (n == 5 && memcmp(key, "descr", 5) == 0 && !d->descr) {
            if (!eat_string(t, &d->descr, &d->descr_n)) return false;
        } else if (n == 13 && memcmp(key, "fortran_order", 13) == 0 && !d->seen_fortran) {
            d->fortran = eat_word(t, "True");
            d->seen_fortran = true;
            if (!d->fortran && !eat_word(t, "False")) return false;
        } else if (n == 5 && memcmp(key, "shape", 5) == 0 && d->dims < 0) {
            if (!eat_shape(t, d->shape, &d->dims)) return false;
        } else {
            return false;
        }
        if (!eat(t, ',')) {
            if (!eat(t, '}')) return false;
            break;
        }
    }
    take_note(t, d); /* also passes the spaces that pad the header */
    return t->s == t->end && d->descr && d->seen_fortran && d->dims >= 0;
}

int npy_parse(struct npy_layout *out, const void *bytes, size_t n, uint64_t file_bytes, const char *path,
              struct err *e)
{
    const unsigned char *p = bytes;
    if (n < 10 || memcmp(p, "\x93NUMPY", 6) != 0)
        return err_set(e, ERR_FORMAT, "'%s' is not a .npy file: expected it to begin with \\x93NUMPY", path);
    if (p[6] < 1 || p[6] > 3)
        return err_set(e, ERR_UNSUPPORTED, "'%s': .npy format version %u.%u: expected 1.0 to 3.0", path, p[6],
                       p[7]);
    size_t head = p[6] == 1 ? 10 : 12;
    uint32_t len = (uint32_t)p[8] | (uint32_t)p[9] << 8;
    if (head == 12) {
        if (n < 12) return err_set(e, ERR_FORMAT, "'%s': the file ends inside the header's length", path);
        len |= (uint32_t)p[10] << 16 | (uint32_t)p[11] << 24;
    }
    if (len > NPY_HEADER_MAX - 12 || len > n - head)
        return err_set(e, ERR_FORMAT, "'%s': expected a header of at most %u bytes, found a length of %u",
                       path, (unsigned)(n - head < NPY_HEADER_MAX - 12 ? n - head : NPY_HEADER_MAX - 12),
                       len);
    struct text t = {(const char *)p + head, (const char *)p + head + len};
    struct dict d;
    if (!parse_dict(&t, &d))
        return err_set(e, ERR_FORMAT,
                       "'%s': header, byte %zu: expected {'descr': …, 'fortran_order': …, 'shape': (…)}",
                       path, (size_t)(t.s - (const char *)p));
    if (d.descr_n != 3 || memcmp(d.descr, "<f4", 3) != 0 || d.fortran || d.dims != 2)
        return err_set(
            e, ERR_UNSUPPORTED,
            "'%s': expected a two-dimensional array of '<f4' in C order, found %d dimension%s of '%.*s'%s: "
            "convert it with numpy.ascontiguousarray(a, 'float32')",
            path, d.dims, d.dims == 1 ? "" : "s", d.descr_n < 40 ? (int)d.descr_n : 40, d.descr,
            d.fortran ? " in Fortran order" : "");
    *out = (struct npy_layout){.rows = d.shape[0], .cols = d.shape[1], .data = head + len};
    if (d.note_n) memcpy(out->note, d.note, d.note_n);
    uint64_t size;
    if (!checked_mul(d.shape[0], d.shape[1], &size) || !checked_mul(size, 4, &size) ||
        !checked_mul(d.shape[1], 4, &(uint64_t){0}) || size > file_bytes - out->data)
        return err_set(e, ERR_FORMAT, "'%s': expected %llu x %llu floats behind the header, found %llu bytes",
                       path, (unsigned long long)d.shape[0], (unsigned long long)d.shape[1],
                       (unsigned long long)(file_bytes - out->data));
    return 0;
}

struct npy {
    char *path;
    int fd;
    struct npy_layout l;
};

int npy_open(struct npy **out, const char *path, struct err *e)
{
    *out = NULL;
    uint64_t size;
    unsigned char *head = NULL;
    struct npy *f = calloc(1, sizeof *f);
    int rc = ERR_NOMEM;
    if (!f) return err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
    f->fd = -1;
    f->path = strdup(path);
    if (!f->path) {
        err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
        goto fail;
    }
    rc = file_open(path, &f->fd, &size, e);
    if (rc) goto fail;
    size_t n = size < NPY_HEADER_MAX ? (size_t)size : NPY_HEADER_MAX;
    head = malloc(n + 1);
    rc = head ? file_read_at(f->fd, path, head, n, 0, e)
              : err_set(e, ERR_NOMEM, "no memory to open '%s'", path);
    if (rc == 0) rc = npy_parse(&f->l, head, n, size, path, e);
    if (rc) goto fail;
    free(head);
    *out = f;
    return 0;
fail:
    free(head);
    npy_close(&f);
    return rc;
}

void npy_close(struct npy **f)
{
    if (!f || !*f) return;
    if ((*f)->fd >= 0) close((*f)->fd);
    free((*f)->path);
    free(*f);
    *f = NULL;
}

uint64_t npy_rows(const struct npy *f)
{
    return f->l.rows;
}

uint64_t npy_cols(const struct npy *f)
{
    return f->l.cols;
}

const char *npy_note(const struct npy *f)
{
    return f->l.note;
}

int npy_read(const struct npy *f, uint64_t first, uint64_t n, float *dst, struct err *e)
{
    if (n > f->l.rows || first > f->l.rows - n)
        return err_set(e, ERR_ARG, "'%s' has %llu rows: cannot read %llu from row %llu", f->path,
                       (unsigned long long)f->l.rows, (unsigned long long)n, (unsigned long long)first);
    uint64_t row = f->l.cols * 4; /* rows × this was checked at open */
    return file_read_at(f->fd, f->path, dst, (size_t)(n * row), f->l.data + first * row, e);
}

struct npy_writer {
    struct file_out out;
    uint64_t total, done; /* values */
    int failed;
};

int npy_writer_create(struct npy_writer **out, const char *path, uint64_t rows, uint64_t cols,
                      const char *note, struct err *e)
{
    *out = NULL;
    uint64_t total, bytes;
    size_t n_note = note ? strlen(note) : 0;
    for (size_t i = 0; i < n_note; i++)
        if (n_note > NPY_NOTE_MAX || note[i] < 32 || note[i] > 126)
            return err_set(e, ERR_ARG, "npy writer: expected a note of at most %d printable characters",
                           NPY_NOTE_MAX);
    if (!checked_mul(rows, cols, &total) || !checked_mul(total, 4, &bytes) || bytes > INT64_MAX)
        return err_set(e, ERR_ARG, "npy writer: %llu x %llu floats are too many for a file",
                       (unsigned long long)rows, (unsigned long long)cols);
    struct npy_writer *w = calloc(1, sizeof *w);
    if (!w) return err_set(e, ERR_NOMEM, "no memory to write '%s'", path);
    w->total = total;
    int rc = file_out_open(&w->out, path, e);
    if (rc) {
        free(w);
        return rc;
    }
    char head[256 + 1];
    int n = snprintf(head, sizeof head,
                     "%c%s%c%c%c%c{'descr': '<f4', 'fortran_order': False, 'shape': (%llu, %llu), }%s%s",
                     0x93, "NUMPY", 1, 1, 1, 1, (unsigned long long)rows, (unsigned long long)cols,
                     n_note ? " # " : "", n_note ? note : "");
    memset(head + n, ' ', sizeof head - (size_t)n); /* data begins at a multiple of 64, as NumPy has it */
    size_t end = n < 128 ? 128 : 256;
    head[end - 1] = '\n';
    head[7] = 0;
    head[8] = (char)(unsigned char)(end - 10);
    head[9] = 0;
    rc = file_out_write(&w->out, head, end, e);
    if (rc) {
        npy_writer_destroy(&w);
        return rc;
    }
    *out = w;
    return 0;
}

int npy_write(struct npy_writer *w, const float *values, uint64_t n, struct err *e)
{
    if (w->failed) return err_set(e, ERR_STATE, "npy writer: an earlier write failed");
    if (n > w->total - w->done)
        return err_set(e, ERR_ARG,
                       "npy writer: the array has %llu values: %llu after the first %llu are too many",
                       (unsigned long long)w->total, (unsigned long long)n, (unsigned long long)w->done);
    w->failed = file_out_write(&w->out, values, (size_t)n * 4, e);
    w->done += n;
    return w->failed;
}

int npy_writer_finish(struct npy_writer *w, struct err *e)
{
    if (w->failed) return err_set(e, ERR_STATE, "npy writer: an earlier write failed");
    if (w->done < w->total)
        return err_set(e, ERR_STATE, "npy writer: the array has %llu values: only %llu were written",
                       (unsigned long long)w->total, (unsigned long long)w->done);
    w->failed = ERR_STATE; /* finished: nothing more can be written */
    return file_out_commit(&w->out, e);
}

void npy_writer_destroy(struct npy_writer **w)
{
    if (!w || !*w) return;
    file_out_discard(&(*w)->out);
    free(*w);
    *w = NULL;
}
