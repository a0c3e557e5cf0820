/* The .npy header parser, for npy.c and its tests and fuzz target. Private to io/. */
#ifndef IO_NPY_PRIV_H
#define IO_NPY_PRIV_H

#include "io/npy.h"

#include <stddef.h>
#include <stdint.h>

enum { NPY_HEADER_MAX = 64 << 10 };

struct npy_layout {
    uint64_t rows, cols;
    uint64_t data; /* where values begin in the file */
    char note[NPY_NOTE_MAX + 1];
};

/* Parses the first n bytes of a file of file_bytes; n is file_bytes or at least NPY_HEADER_MAX. */
int npy_parse(struct npy_layout *out, const void *bytes, size_t n, uint64_t file_bytes, const char *path,
              struct err *e);

#endif
