/* What all back-ends of asynchronous reading share: files, slots, short reads, retries, injected faults. */
#include "io/aio_priv.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_MOST = 1 << 30, PASSING_MOST = 1000 }; /* EAGAINs of one read in a row before it fails */

/* ---- Opening and closing ---- */

static int open_file(struct aio_open_file *f, const struct aio_file *from, bool buffered, struct err *e)
{
    *f = (struct aio_open_file){.fd = -1, .direct_fd = -1, .data = from->data, .bytes = from->bytes};
    f->path = strdup(from->path ? from->path : "memory");
    if (!f->path) return err_set(e, ERR_NOMEM, "no memory to open a file");
    if (!from->path) return 0;
    f->data = NULL;
    int rc = file_open(from->path, &f->fd, &f->bytes, e);
    if (rc || buffered) return rc;
    /* A second descriptor, because reads that are not aligned need the first. */
    f->direct_fd = open(from->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT);
    f->direct = f->direct_fd >= 0;
    if (!f->direct)
        log_info("'%s': O_DIRECT is refused (%s): reading through the page cache", from->path,
                 strerror(errno));
    return 0;
}

static int pick(struct aio *a, const struct aio_settings *s, struct err *e)
{
    enum aio_kind kind = s->kind;
    const char *env = kind == AIO_AUTO ? getenv("CALOR_AIO") : NULL;
    if (env && strcmp(env, "threads") == 0) kind = AIO_THREADS;
    if (env && strcmp(env, "uring") == 0) kind = AIO_URING;
    if (kind == AIO_AUTO || kind == AIO_URING) {
        static atomic_bool said;
        struct err why = {0};
        a->ops = &aio_uring;
        int rc = a->ops->open(a, s, &why);
        if (rc == 0) return 0;
        a->ops->close(a);
        a->backend = NULL;
        if (kind == AIO_URING) return err_set(e, why.code, "%s", why.msg);
        if (!atomic_exchange(&said, true)) log_warn("%s: reading with a pool of threads instead", why.msg);
    }
    a->ops = kind == AIO_NULL ? &aio_null : &aio_threads;
    return a->ops->open(a, s, e);
}

int aio_open(struct aio **out, const struct aio_settings *s, struct err *e)
{
    if (s->depth < 1 || s->depth > AIO_DEPTH_MOST || s->n_files < 1 || s->n_files > AIO_FILES ||
        s->n_buffers > AIO_BUFFERS)
        return err_set(e, ERR_ARG,
                       "asynchronous reads: depth %u, %u files, %u buffers: expected 1 to %d, 1 to "
                       "%d, at most %d",
                       s->depth, s->n_files, s->n_buffers, AIO_DEPTH_MOST, AIO_FILES, AIO_BUFFERS);
    struct aio *a = calloc(1, sizeof *a);
    if (!a) return err_set(e, ERR_NOMEM, "no memory for asynchronous reads");
    int rc = 0;
    a->depth = a->n_free = s->depth;
    a->slot = calloc(s->depth, sizeof *a->slot);
    a->free_slot = malloc(s->depth * sizeof *a->free_slot);
    a->refused = malloc(s->depth * sizeof *a->refused);
    if (!a->slot || !a->free_slot || !a->refused) {
        rc = err_set(e, ERR_NOMEM, "no memory for %u asynchronous reads", s->depth);
        goto fail;
    }
    for (unsigned i = 0; i < s->depth; i++) a->free_slot[i] = s->depth - 1 - i;
    for (unsigned i = 0; i < s->n_files; i++) {
        if (!s->file[i].path && s->kind != AIO_NULL) {
            rc = err_set(e, ERR_ARG, "files in memory need the back-end in memory");
            goto fail;
        }
        a->n_files++;
        if ((rc = open_file(&a->file[i], &s->file[i], s->buffered, e))) goto fail;
    }
    if (s->faults) {
        a->faults = *s->faults;
        a->faulty = true;
        rng_init(&a->rng, s->faults->seed);
    }
    if ((rc = pick(a, s, e))) goto fail;
    *out = a;
    return 0;
fail:
    aio_close(&a);
    return rc;
}

void aio_close(struct aio **pa)
{
    struct aio *a = *pa;
    if (!a) return;
    struct aio_done done[16];
    for (unsigned i = 0; i < a->depth && a->slot; i++)
        if (a->slot[i].busy) aio_cancel(a, a->slot[i].r.user);
    while (a->in_flight || a->n_refused) aio_wait(a, done, 1, 16);
    if (a->ops) a->ops->close(a);
    for (unsigned i = 0; i < a->n_files; i++) {
        if (a->file[i].fd >= 0) close(a->file[i].fd);
        if (a->file[i].direct_fd >= 0) close(a->file[i].direct_fd);
        free(a->file[i].path);
    }
    free(a->slot);
    free(a->free_slot);
    free(a->refused);
    free(a);
    *pa = NULL;
}

/* ---- Reading ---- */

struct aio_piece aio_piece_of(const struct aio *a, unsigned slot)
{
    const struct aio_slot *s = &a->slot[slot];
    const struct aio_open_file *f = &a->file[s->r.file];
    return (struct aio_piece){.fd = s->direct ? f->direct_fd : f->fd,
                              .file = s->r.file,
                              .direct = s->direct,
                              .offset = s->r.offset + s->done,
                              .dst = (unsigned char *)s->r.dst + s->done,
                              .bytes = s->r.bytes - s->done};
}

/* Reads the rest of a slot: past the page cache only if the rest is aligned too. */
static void start(struct aio *a, unsigned slot)
{
    struct aio_slot *s = &a->slot[slot];
    const struct aio_open_file *f = &a->file[s->r.file];
    uint64_t odd = (s->r.offset + s->done) | (s->r.bytes - s->done) | ((uintptr_t)s->r.dst + s->done);
    s->direct = f->direct && odd % AIO_ALIGN == 0;
    s->tries++;
    a->ops->start(a, slot);
}

static bool possible(const struct aio *a, const struct aio_read *r)
{
    return r->file < a->n_files && r->bytes >= 1 && r->bytes <= READ_MOST && r->dst &&
           r->offset <= (uint64_t)INT64_MAX - READ_MOST;
}

unsigned aio_submit(struct aio *a, const struct aio_read *r, unsigned n)
{
    unsigned k = 0, started = 0;
    for (; k < n && a->n_free; k++) {
        if (!possible(a, &r[k])) {
            if (a->n_refused == a->depth) break;
            a->refused[a->n_refused++] = (struct aio_done){.user = r[k].user,
                                                           .offset = r[k].offset,
                                                           .file = r[k].file,
                                                           .asked = r[k].bytes,
                                                           .error = EINVAL};
            continue;
        }
        unsigned slot = a->free_slot[--a->n_free];
        a->slot[slot] = (struct aio_slot){.r = r[k], .busy = true, .began = clock_ns()};
        a->in_flight++;
        start(a, slot);
        started++;
    }
    if (started) a->ops->flush(a);
    return k;
}

/* What the faults make of a result. */
static int disturb(struct aio *a, unsigned slot, int result)
{
    struct aio_piece p = aio_piece_of(a, slot);
    if (result < 0) return result;
    if (p.offset < a->faults.bad_end && p.offset + p.bytes > a->faults.bad_begin) return -EIO;
    if (rng_f64(&a->rng) < a->faults.eio && a->slot[slot].failures == 0) return -EIO;
    if (rng_f64(&a->rng) < a->faults.again) return rng_u64(&a->rng) & 1 ? -EAGAIN : -EINTR;
    if (result > 1 && rng_f64(&a->rng) < a->faults.shorts) {
        int less = 1 + (int)rng_below(&a->rng, (uint64_t)result - 1);
        if (rng_u64(&a->rng) & 1 && less > AIO_ALIGN) less = less / AIO_ALIGN * AIO_ALIGN;
        memset(p.dst + less, 0xa5, (size_t)(result - less));
        return less;
    }
    return result;
}

/* The end of a piece. True: the read is finished, with this error; false: its rest was started. */
static bool finish(struct aio *a, unsigned slot, int result, int *error)
{
    struct aio_slot *s = &a->slot[slot];
    *error = 0;
    if (a->faulty) result = disturb(a, slot, result);
    if (result > 0) {
        s->done += (uint32_t)result;
        s->failures = 0;
        if (s->done >= s->r.bytes) return true;
    } else if (result == 0) {
        *error = ENODATA;
        return true;
    } else if (result == -EINVAL && s->direct) {
        /* Some file systems take the flag and refuse the read. */
        struct aio_open_file *f = &a->file[s->r.file];
        if (f->direct) log_info("'%s': reads with O_DIRECT are refused", f->path);
        f->direct = false; /* others may still be reading from its descriptor: it stays open */
    } else if (result == -EAGAIN || result == -EINTR) {
        if (++s->failures > PASSING_MOST) {
            *error = -result;
            return true;
        }
    } else if (result != -EIO || ++s->failures > AIO_RETRIES) {
        *error = -result;
        return true;
    }
    if (s->cancelled) {
        *error = ECANCELED;
        return true;
    }
    start(a, slot);
    return false;
}

unsigned aio_wait(struct aio *a, struct aio_done *done, unsigned least, unsigned most)
{
    struct aio_event ev[64];
    unsigned n = 0;
    while (n < most && a->n_refused) done[n++] = a->refused[--a->n_refused];
    while (n < most && a->in_flight) {
        unsigned room = most - n < 64 ? most - n : 64, again = 0, k;
        if ((k = a->ops->reap(a, ev, room, n < least)) == 0) {
            if (n >= least) break;
            continue;
        }
        for (unsigned i = 0; i < k; i++) {
            struct aio_slot *s = &a->slot[ev[i].slot];
            int error;
            if (!finish(a, ev[i].slot, ev[i].result, &error)) {
                again++;
                continue;
            }
            done[n++] = (struct aio_done){.user = s->r.user,
                                          .offset = s->r.offset,
                                          .file = s->r.file,
                                          .asked = s->r.bytes,
                                          .bytes = s->done,
                                          .error = error,
                                          .tries = s->tries,
                                          .ns = clock_ns() - s->began};
            s->busy = false;
            a->free_slot[a->n_free++] = ev[i].slot;
            a->in_flight--;
        }
        if (again) a->ops->flush(a);
    }
    return n;
}

void aio_cancel(struct aio *a, uint64_t user)
{
    for (unsigned i = 0; i < a->depth; i++)
        if (a->slot[i].busy && a->slot[i].r.user == user && !a->slot[i].cancelled) {
            a->slot[i].cancelled = true;
            a->ops->cancel(a, i);
        }
}

/* ---- What is there ---- */

unsigned aio_in_flight(const struct aio *a)
{
    return a->in_flight + a->n_refused;
}

unsigned aio_depth(const struct aio *a)
{
    return a->depth;
}

const char *aio_name(const struct aio *a)
{
    return a->ops->name;
}

bool aio_direct(const struct aio *a, uint32_t file)
{
    return file < a->n_files && a->file[file].direct;
}

uint64_t aio_file_bytes(const struct aio *a, uint32_t file)
{
    return file < a->n_files ? a->file[file].bytes : 0;
}

bool aio_registered(const struct aio *a)
{
    return a->registered;
}

int aio_explain(const struct aio *a, const struct aio_done *d, struct err *e)
{
    const char *path = d->file < a->n_files ? a->file[d->file].path : "?";
    unsigned long long at = (unsigned long long)d->offset + d->bytes;
    if (d->error == 0) return 0;
    if (d->error == ECANCELED)
        return err_set(e, ERR_CANCELLED, "reading '%s' at offset %llu was cancelled", path, at);
    if (d->error == ENODATA)
        return err_set(e, ERR_IO, "'%s' ends at byte %llu: expected %u more there (was it truncated?)", path,
                       at, d->asked - d->bytes);
    return err_set(e, ERR_IO, "reading '%s' at offset %llu: %s (tried %u times)", path, at,
                   strerror(d->error), d->tries);
}
