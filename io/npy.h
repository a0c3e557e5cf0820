/* NumPy's .npy files with a matrix of 32-bit floats, row-major: reading, untrusted; writing, atomically.
 * Front header of io/. Format: numpy.lib.format, versions 1 to 3. */
#ifndef IO_NPY_H
#define IO_NPY_H

#include <stddef.h>
#include <stdint.h>

struct err;

/* A comment behind the header's dictionary, "# …", which NumPy passes over: where the values come from.
 * Printable ASCII. */
enum { NPY_NOTE_MAX = 100 };

struct npy; /* opaque; reads from several threads are safe */

/* Opens a file whose array is two-dimensional '<f4' in C order (others: ERR_UNSUPPORTED, saying what was
 * found and the numpy call that converts it). On success *out is the caller's. */
int npy_open(struct npy **out, const char *path, struct err *e);
void npy_close(struct npy **f);
uint64_t npy_rows(const struct npy *f);
uint64_t npy_cols(const struct npy *f);
const char *
npy_note(const struct npy *f); /* "" where there is none, or none that npy_writer_create could write */
/* Reads rows [first, first+n) into dst: n × cols floats. The file's size is checked again. */
int npy_read(const struct npy *f, uint64_t first, uint64_t n, float *dst, struct err *e);

/* Writes rows × cols floats, with a note (NULL: none): create, npy_write in pieces of any size, finish.
 * Without finish no file is left; npy_writer_destroy in any case. */
struct npy_writer;
int npy_writer_create(struct npy_writer **out, const char *path, uint64_t rows, uint64_t cols,
                      const char *note, struct err *e);
int npy_write(struct npy_writer *w, const float *values, uint64_t n, struct err *e);
int npy_writer_finish(struct npy_writer *w, struct err *e);
void npy_writer_destroy(struct npy_writer **w);

#endif
