/* Asynchronous reads: the lowest part of whatever reads weights from disk while something else computes. Many
 * reads in flight, batched, past the page cache (O_DIRECT) where the file system allows it, into registered
 * memory. Three back-ends behind one table: io_uring, a pool of threads that pread, and one in memory for
 * tests and for acting out slower drives.
 *
 * One thread at a time uses an aio. Nothing is allocated after aio_open. A read is done when all of its bytes
 * are there: short reads are continued and passing errors retried below this interface, in which case reads
 * finish in any order. Results never depend on the back-end, only times do. */
#ifndef IO_AIO_H
#define IO_AIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct aio;

enum aio_kind {
    AIO_AUTO,  /* io_uring, or where it is refused the pool, with one warning; CALOR_AIO=uring|threads decides
                */
    AIO_URING, /* ERR_UNSUPPORTED where it is refused or not built in */
    AIO_THREADS,
    AIO_NULL, /* reads when it is asked for results, in this thread */
};

enum {
    AIO_ALIGN = 4096, /* of offset, length and destination: what goes past the page cache; others do not */
    AIO_DEPTH_MOST = 4096,
    AIO_FILES = 16,
    AIO_BUFFERS = 16,
    AIO_RETRIES = 3, /* of a read that fails with EIO */
};

struct aio_file {
    const char *path; /* a regular file; or NULL, and (AIO_NULL only) */
    const void *data; /* bytes in memory, kept by reference */
    uint64_t bytes;
};

/* Errors drawn from a seed, put into what any back-end returns: for tests. Shares are of 0 … 1. */
struct aio_faults {
    uint64_t seed;
    double shorts;               /* reads that end early, and leave rubbish behind */
    double eio;                  /* reads that fail with EIO and succeed when tried again */
    double again;                /* EAGAIN or EINTR */
    uint64_t bad_begin, bad_end; /* reads touching these offsets fail with EIO for good */
};

struct aio_settings {
    enum aio_kind kind;
    unsigned depth;   /* reads in flight at most: 1 … AIO_DEPTH_MOST */
    unsigned threads; /* of the pool; 0: as many as the depth, at most 32 */
    bool buffered;    /* never O_DIRECT */
    bool sqpoll;      /* io_uring: a thread of the kernel submits; it burns a core */
    unsigned ring;    /* io_uring: entries of the submission ring; 0: the depth */
    struct aio_file file[AIO_FILES];
    unsigned n_files;
    /* Memory that most reads go to, registered with the kernel once. Reads elsewhere work, a little slower.
     */
    struct {
        void *p;
        size_t n;
    } buffer[AIO_BUFFERS];
    unsigned n_buffers;
    const struct aio_faults *faults; /* copied; NULL: none */
    bool reorder;                    /* AIO_NULL: finish in an order drawn from the faults' seed */
    double rate;                     /* AIO_NULL: bytes/s of the drive acted out; 0: no limit */
    double latency; /* AIO_NULL: seconds that each read takes beside that, together with others */
};

struct aio_read {
    uint64_t offset; /* the file has all bytes of [offset, offset + bytes) */
    void *dst;
    uint32_t bytes; /* 1 … 2^30 */
    uint32_t file;
    uint64_t user; /* comes back with the result */
};

struct aio_done {
    uint64_t user, offset;
    uint32_t file, asked;
    uint32_t bytes; /* there now; all that were asked for where error = 0 */
    int error;      /* 0 or an errno: EIO, ECANCELED; ENODATA: the file ends there */
    uint32_t tries; /* reads this took: 1, or more after short reads and errors */
    uint64_t ns;    /* from submission */
};

/* Opens the files and the back-end. ERR_IO (a file), ERR_UNSUPPORTED, ERR_NOMEM, ERR_ARG. */
int aio_open(struct aio **out, const struct aio_settings *s, struct err *e);
/* Waits for the reads in flight (their memory is the caller's again then). NULL is fine. */
void aio_close(struct aio **a);

/* Starts the first k of n reads, as many as the depth leaves room for, in one submission; returns k. A file
 * number, a length or an end that cannot be is the caller's fault: such a read is done at once with EINVAL.
 */
unsigned aio_submit(struct aio *a, const struct aio_read *r, unsigned n);

/* Takes up to `most` finished reads, waiting until there are `least` of them (0: takes what is there) or none
 * is in flight. Returns how many. */
unsigned aio_wait(struct aio *a, struct aio_done *done, unsigned least, unsigned most);

/* Asks that a read not be done: it still comes back, with ECANCELED or as if nothing had been asked. */
void aio_cancel(struct aio *a, uint64_t user);

unsigned aio_in_flight(const struct aio *a);
unsigned aio_depth(const struct aio *a);
const char *aio_name(const struct aio *a);                   /* "io_uring", "threads", "memory" */
bool aio_direct(const struct aio *a, uint32_t file);         /* aligned reads go past the page cache */
uint64_t aio_file_bytes(const struct aio *a, uint32_t file); /* when it was opened */
bool aio_registered(const struct aio *a);                    /* the kernel took the buffers */

/* A failed read as an error: file, offset, reason. Returns ERR_IO (ERR_CANCELLED for ECANCELED). */
int aio_explain(const struct aio *a, const struct aio_done *d, struct err *e);

#endif
