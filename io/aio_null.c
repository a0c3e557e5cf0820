/* Asynchronous reads that happen when results are asked for, in the asking thread: from memory, or from a
 * file at the pace of a drive that is acted out. For tests, and to see what a slower drive would do. */
#include "io/aio_priv.h"

#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct memory {
    struct wait {
        unsigned slot;
        uint64_t due; /* ns */
        bool cancelled;
    } * wait;
    unsigned n;
    bool reorder;
    struct rng rng;
    double rate, latency;
    uint64_t busy_until;
};

static void memory_close(struct aio *a)
{
    struct memory *m = a->backend;
    if (m) free(m->wait);
    free(m);
    a->backend = NULL;
}

static int memory_open(struct aio *a, const struct aio_settings *s, struct err *e)
{
    struct memory *m = calloc(1, sizeof *m);
    a->backend = m;
    if (m) m->wait = malloc(s->depth * sizeof *m->wait);
    if (!m || !m->wait) return err_set(e, ERR_NOMEM, "no memory for %u asynchronous reads", s->depth);
    m->reorder = s->reorder;
    m->rate = s->rate;
    m->latency = s->latency;
    rng_init(&m->rng, s->faults ? s->faults->seed + 1 : 1);
    return 0;
}

/* The drive passes one byte after the other; waiting times run side by side. */
static void memory_start(struct aio *a, unsigned slot)
{
    struct memory *m = a->backend;
    uint64_t now = m->rate > 0 || m->latency > 0 ? clock_ns() : 0;
    if (m->busy_until < now) m->busy_until = now;
    if (m->rate > 0) m->busy_until += (uint64_t)(aio_piece_of(a, slot).bytes / m->rate * 1e9);
    m->wait[m->n++] = (struct wait){slot, m->busy_until + (uint64_t)(m->latency * 1e9), false};
}

static void memory_flush(struct aio *a)
{
    (void)a;
}

static int read_piece(const struct aio *a, const struct aio_piece *p)
{
    const struct aio_open_file *f = &a->file[p->file];
    if (!f->data) {
        ssize_t r = pread(p->fd, p->dst, p->bytes, (off_t)p->offset);
        return r < 0 ? -errno : (int)r;
    }
    if (p->offset >= f->bytes) return 0;
    uint64_t left = f->bytes - p->offset;
    uint32_t n = left < p->bytes ? (uint32_t)left : p->bytes;
    memcpy(p->dst, f->data + p->offset, n);
    return (int)n;
}

static unsigned memory_reap(struct aio *a, struct aio_event *ev, unsigned most, bool wait)
{
    struct memory *m = a->backend;
    unsigned n = 0;
    while (n < most && m->n) {
        unsigned i = m->reorder ? (unsigned)rng_below(&m->rng, m->n) : 0;
        for (unsigned k = 0; k < m->n; k++)
            if (m->wait[k].cancelled) i = k; /* never waits */
        uint64_t now = m->wait[i].due ? clock_ns() : 0;
        if (m->wait[i].due > now && !m->wait[i].cancelled) {
            if (!wait || n) break;
            uint64_t ns = m->wait[i].due - now;
            nanosleep(&(struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}, NULL);
        }
        struct wait w = m->wait[i];
        memmove(&m->wait[i], &m->wait[i + 1], (--m->n - i) * sizeof *m->wait);
        struct aio_piece p = aio_piece_of(a, w.slot);
        ev[n++] = (struct aio_event){w.slot, w.cancelled ? -ECANCELED : read_piece(a, &p)};
    }
    return n;
}

static void memory_cancel(struct aio *a, unsigned slot)
{
    struct memory *m = a->backend;
    for (unsigned i = 0; i < m->n; i++)
        if (m->wait[i].slot == slot) m->wait[i].cancelled = true;
}

const struct aio_ops aio_null = {"memory",     memory_open, memory_close, memory_start,
                                 memory_flush, memory_reap, memory_cancel};
