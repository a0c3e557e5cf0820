/* Asynchronous reads through io_uring: registered files and buffers, many reads a system call.
 *
 * Slots that were started wait in a ring of our own until the submission ring has room; entries once prepared
 * stay there until the kernel took them, whatever a call to submit answers, so none is lost and none goes
 * twice. Where the kernel wants its completions taken first (EBUSY), that is what happens next. */
#include "io/aio_priv.h"

#include "base/err.h"

#include <errno.h>
#include <liburing.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    CHUNK = 1 << 30, /* bytes a registered buffer can have */
    CHUNKS_MOST = 1024,
    STUCK_MOST = 5000, /* milliseconds that nothing moves before reads are given up */
};
#define NO_SLOT UINT_MAX

struct uring {
    struct io_uring ring;
    bool ready, files, buffers;
    unsigned depth;
    unsigned *waiting, first, n_waiting;         /* slots not yet in the submission ring */
    unsigned *prepared, first_prepared, entries; /* slots in it that the kernel has not taken; NO_SLOT: a */
    unsigned n_prepared;                         /* cancellation */
    unsigned taken; /* reads that the kernel has, or whose completion has not been seen */
    struct iovec *chunk;
    unsigned n_chunks;
    int error; /* != 0: the ring takes nothing any more */
};

static void uring_close(struct aio *a)
{
    struct uring *u = a->backend;
    if (!u) return;
    if (u->ready) io_uring_queue_exit(&u->ring);
    free(u->waiting);
    free(u->prepared);
    free(u->chunk);
    free(u);
    a->backend = NULL;
}

/* The buffers in pieces that can be registered; none where there are too many. */
static int cut_buffers(struct uring *u, const struct aio_settings *s, struct err *e)
{
    size_t n = 0;
    for (unsigned i = 0; i < s->n_buffers; i++) n += s->buffer[i].n / CHUNK + 1;
    if (n == 0 || n > CHUNKS_MOST) return 0;
    u->chunk = malloc(n * sizeof *u->chunk);
    if (!u->chunk) return err_set(e, ERR_NOMEM, "no memory for %zu buffers", n);
    for (unsigned i = 0; i < s->n_buffers; i++)
        for (size_t at = 0; at < s->buffer[i].n; at += CHUNK) {
            size_t left = s->buffer[i].n - at;
            u->chunk[u->n_chunks++] =
                (struct iovec){(char *)s->buffer[i].p + at, left < CHUNK ? left : (size_t)CHUNK};
        }
    return 0;
}

static void register_files(struct aio *a, struct uring *u)
{
    int fds[2 * AIO_FILES];
    for (unsigned i = 0; i < a->n_files; i++) {
        fds[2 * i] = a->file[i].fd;
        fds[2 * i + 1] = a->file[i].direct_fd; /* -1: an empty place */
    }
    u->files = io_uring_register_files(&u->ring, fds, 2 * a->n_files) == 0;
}

static int uring_open(struct aio *a, const struct aio_settings *s, struct err *e)
{
    struct uring *u = calloc(1, sizeof *u);
    a->backend = u;
    if (!u) return err_set(e, ERR_NOMEM, "no memory for io_uring");
    u->depth = s->depth;
    u->waiting = malloc(s->depth * sizeof *u->waiting);
    if (!u->waiting) return err_set(e, ERR_NOMEM, "no memory for %u asynchronous reads", s->depth);
    int rc = cut_buffers(u, s, e);
    if (rc) return rc;
    struct io_uring_params p = {.flags = IORING_SETUP_COOP_TASKRUN};
    if (s->sqpoll) p = (struct io_uring_params){.flags = IORING_SETUP_SQPOLL, .sq_thread_idle = 50};
    unsigned entries = s->ring ? s->ring : s->depth;
    rc = io_uring_queue_init_params(entries, &u->ring, &p);
    if (rc == -EINVAL && !s->sqpoll) { /* before Linux 5.19 */
        p = (struct io_uring_params){0};
        rc = io_uring_queue_init_params(entries, &u->ring, &p);
    }
    if (rc < 0)
        return err_set(e, rc == -ENOMEM ? ERR_NOMEM : ERR_UNSUPPORTED, "io_uring is refused here (%s)",
                       strerror(-rc));
    u->ready = true;
    /* Plain read came with Linux 5.6; without completions that are kept when their ring is full, they would
     * be lost. */
    if (!(p.features & IORING_FEAT_NODROP) || !(p.features & IORING_FEAT_RW_CUR_POS))
        return err_set(e, ERR_UNSUPPORTED, "io_uring of this kernel is too old (before Linux 5.6)");
    u->entries = p.sq_entries;
    u->prepared = malloc(u->entries * sizeof *u->prepared);
    if (!u->prepared) return err_set(e, ERR_NOMEM, "no memory for %u asynchronous reads", s->depth);
    register_files(a, u);
    u->buffers = u->n_chunks && io_uring_register_buffers(&u->ring, u->chunk, u->n_chunks) == 0;
    a->registered = u->buffers;
    return 0;
}

/* Index of the registered buffer around a piece, or -1. */
static int buffer_of(const struct uring *u, const struct aio_piece *p)
{
    if (!u->buffers) return -1;
    for (unsigned i = 0; i < u->n_chunks; i++) {
        const unsigned char *base = u->chunk[i].iov_base;
        if (p->dst >= base && p->dst + p->bytes <= base + u->chunk[i].iov_len) return (int)i;
    }
    return -1;
}

static void note_prepared(struct uring *u, unsigned slot)
{
    u->prepared[(u->first_prepared + u->n_prepared++) % u->entries] = slot;
}

/* The oldest prepared entry: now the kernel's, or given up. */
static unsigned next_prepared(struct uring *u)
{
    unsigned slot = u->prepared[u->first_prepared];
    u->first_prepared = (u->first_prepared + 1) % u->entries;
    u->n_prepared--;
    return slot;
}

static void prepare(struct aio *a, struct uring *u, struct io_uring_sqe *sqe, unsigned slot)
{
    struct aio_piece p = aio_piece_of(a, slot);
    int buffer = buffer_of(u, &p), fd = u->files ? (int)(2 * p.file + p.direct) : p.fd;
    if (buffer >= 0)
        io_uring_prep_read_fixed(sqe, fd, p.dst, p.bytes, p.offset, buffer);
    else
        io_uring_prep_read(sqe, fd, p.dst, p.bytes, p.offset);
    if (u->files) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, slot);
    note_prepared(u, slot);
}

static void uring_start(struct aio *a, unsigned slot)
{
    struct uring *u = a->backend;
    u->waiting[(u->first + u->n_waiting++) % u->depth] = slot;
}

/* Gives the kernel what it takes now; what it does not take stays where it is, for the next time. */
static void uring_flush(struct aio *a)
{
    struct uring *u = a->backend;
    while (!u->error) {
        struct io_uring_sqe *sqe;
        while (u->n_waiting && (sqe = io_uring_get_sqe(&u->ring))) {
            prepare(a, u, sqe, u->waiting[u->first]);
            u->first = (u->first + 1) % u->depth;
            u->n_waiting--;
        }
        if (!u->n_prepared) return;
        int rc = io_uring_submit(&u->ring);
        for (int i = 0; i < rc && u->n_prepared; i++)
            if (next_prepared(u) != NO_SLOT) u->taken++;
        if (rc == -EINTR) continue;
        if (rc == -EAGAIN || rc == -EBUSY || rc == -ENOMEM || rc == 0) return;
        if (rc < 0) u->error = -rc;
    }
}

static unsigned take(struct uring *u, struct aio_event *ev, unsigned most)
{
    struct io_uring_cqe *cqe;
    unsigned n = 0;
    while (n < most && io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        if (cqe->user_data != NO_SLOT) {
            ev[n++] = (struct aio_event){(unsigned)cqe->user_data, cqe->res};
            u->taken--;
        }
        io_uring_cqe_seen(&u->ring, cqe);
    }
    return n;
}

/* A ring that takes nothing any more: what the kernel has not taken ends with its error. */
static unsigned give_up(struct uring *u, struct aio_event *ev, unsigned most)
{
    unsigned n = 0;
    while (n < most && u->n_prepared) {
        unsigned slot = next_prepared(u);
        if (slot != NO_SLOT) ev[n++] = (struct aio_event){slot, -u->error};
    }
    for (; n < most && u->n_waiting; u->n_waiting--) {
        ev[n++] = (struct aio_event){u->waiting[u->first], -u->error};
        u->first = (u->first + 1) % u->depth;
    }
    return n;
}

static unsigned uring_reap(struct aio *a, struct aio_event *ev, unsigned most, bool wait)
{
    struct uring *u = a->backend;
    for (int stuck = 0;;) {
        unsigned n = take(u, ev, most);
        if (u->n_waiting || u->n_prepared) uring_flush(a);
        if (n < most && u->error) n += give_up(u, ev + n, most - n);
        if (n || !wait) return n;
        struct io_uring_cqe *cqe;
        int rc = u->taken ? io_uring_wait_cqe(&u->ring, &cqe) : -EAGAIN;
        if (rc == 0 || rc == -EINTR) continue;
        /* The kernel has nothing of ours, or does not let us wait: it was busy, so ask again in a moment. */
        nanosleep(&(struct timespec){0, 1000000}, NULL);
        if (++stuck > STUCK_MOST && !u->error) u->error = EBUSY;
    }
}

static void uring_cancel(struct aio *a, unsigned slot)
{
    struct uring *u = a->backend;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (!sqe) return; /* only a wish */
    io_uring_prep_cancel64(sqe, slot, 0);
    io_uring_sqe_set_data64(sqe, NO_SLOT);
    note_prepared(u, NO_SLOT);
    uring_flush(a);
}

const struct aio_ops aio_uring = {"io_uring",  uring_open, uring_close, uring_start,
                                  uring_flush, uring_reap, uring_cancel};
