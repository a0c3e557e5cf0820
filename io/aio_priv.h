/* Between aio.c and the back-ends. */
#ifndef IO_AIO_PRIV_H
#define IO_AIO_PRIV_H

#include "io/aio.h"

#include "base/rng.h"

/* A read in flight. What a back-end sees of it is the piece that is missing: aio_piece. */
struct aio_slot {
    struct aio_read r;
    uint32_t done; /* bytes there */
    uint32_t tries, failures;
    bool busy, cancelled, direct;
    uint64_t began;
};

struct aio_piece {
    int fd;
    uint32_t file;
    bool direct;
    uint64_t offset;
    unsigned char *dst;
    uint32_t bytes;
};

struct aio_open_file {
    char *path;
    const unsigned char *data; /* in memory: fd is -1 */
    int fd, direct_fd;         /* -1: opening with O_DIRECT is refused */
    bool direct;               /* and reading is not refused either */
    uint64_t bytes;
};

/* A piece that came to its end: bytes read (0: end of the file) or -errno. */
struct aio_event {
    unsigned slot;
    int result;
};

struct aio_ops {
    const char *name;
    /* Sets a->backend. Files are open. */
    int (*open)(struct aio *a, const struct aio_settings *s, struct err *e);
    /* Nothing is in flight. NULL backend is fine. */
    void (*close)(struct aio *a);
    /* Takes a slot's piece to read; never refuses (there is room for `depth`). */
    void (*start)(struct aio *a, unsigned slot);
    /* Hands over what was started. */
    void (*flush)(struct aio *a);
    /* Up to `most` ≥ 1 events; waits for the first if asked to (something is in flight then). */
    unsigned (*reap)(struct aio *a, struct aio_event *ev, unsigned most, bool wait);
    void (*cancel)(struct aio *a, unsigned slot);
};

struct aio {
    const struct aio_ops *ops;
    void *backend;
    unsigned depth, in_flight;
    struct aio_slot *slot;
    unsigned *free_slot, n_free;
    struct aio_open_file file[AIO_FILES];
    unsigned n_files;
    bool registered;
    struct aio_faults faults;
    bool faulty;
    struct rng rng;
    /* Reads refused at once, waiting to be taken. */
    struct aio_done *refused;
    unsigned n_refused;
};

extern const struct aio_ops aio_uring, aio_threads, aio_null;

struct aio_piece aio_piece_of(const struct aio *a, unsigned slot);

#endif
