/* Files: opening only what is a regular file, mapping, whole reads, and replacing a file in one step. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* Opens a regular file for reading without ever blocking (FIFOs, devices and directories are refused with the
 * reason). On success *fd is owned by the caller and *size is its size now. */
int file_open(const char *path, int *fd, uint64_t *size, struct err *e);

/* Reads exactly n bytes at `offset`; short files and I/O errors name `path`, offset and what was missing. */
int file_read_at(int fd, const char *path, void *dst, size_t n, uint64_t offset, struct err *e);

/* The whole file as text or bytes with a NUL behind it; larger than `limit`: ERR_FORMAT. *data is the
 * caller's (free). */
int file_read_all(const char *path, uint64_t limit, char **data, size_t *size, struct err *e);

/* A file being written beside its final name: nobody ever sees half of it. */
struct file_out {
    int fd;
    char *path, *temp;
};

/* Creates PATH.tmp-XXXXXX in the same directory. */
int file_out_open(struct file_out *f, const char *path, struct err *e);
int file_out_write(struct file_out *f, const void *data, size_t n, struct err *e);
int file_out_write_at(struct file_out *f, const void *data, size_t n, uint64_t offset, struct err *e);
/* fsync, rename over the final name, fsync of the directory. f is finished either way; on failure the old
 * file stands. */
int file_out_commit(struct file_out *f, struct err *e);
/* Removes the temporary file; harmless after commit. */
void file_out_discard(struct file_out *f);

#endif
