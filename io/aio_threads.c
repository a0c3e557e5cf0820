/* Asynchronous reads by threads that pread: where io_uring is refused, as containers do by default. */
#include "io/aio_priv.h"

#include "base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS_MOST = 32 };

/* Both queues are rings of `depth` entries: there are never more reads than that. */
struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    struct job {
        unsigned slot;
        struct aio_piece piece;
    } * todo;
    struct aio_event *done;
    unsigned depth, first_todo, n_todo, first_done, n_done;
    pthread_t thread[THREADS_MOST];
    unsigned n_threads;
    bool stop;
};

static void put_done(struct pool *p, unsigned slot, int result)
{
    p->done[(p->first_done + p->n_done++) % p->depth] = (struct aio_event){slot, result};
    pthread_cond_signal(&p->finished);
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->n_todo && !p->stop) pthread_cond_wait(&p->work, &p->lock);
        if (!p->n_todo) break;
        struct job j = p->todo[p->first_todo];
        p->first_todo = (p->first_todo + 1) % p->depth;
        p->n_todo--;
        pthread_mutex_unlock(&p->lock);
        ssize_t r = pread(j.piece.fd, j.piece.dst, j.piece.bytes, (off_t)j.piece.offset);
        int result = r < 0 ? -errno : (int)r;
        pthread_mutex_lock(&p->lock);
        put_done(p, j.slot, result);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void pool_close(struct aio *a)
{
    struct pool *p = a->backend;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++) pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->finished);
    pthread_mutex_destroy(&p->lock);
    free(p->todo);
    free(p->done);
    free(p);
    a->backend = NULL;
}

static int pool_open(struct aio *a, const struct aio_settings *s, struct err *e)
{
    struct pool *p = calloc(1, sizeof *p);
    unsigned n = s->threads ? s->threads : s->depth;
    if (n > THREADS_MOST) n = THREADS_MOST;
    if (!p) return err_set(e, ERR_NOMEM, "no memory for threads that read");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    a->backend = p;
    p->depth = s->depth;
    p->todo = malloc(s->depth * sizeof *p->todo);
    p->done = malloc(s->depth * sizeof *p->done);
    if (!p->todo || !p->done) return err_set(e, ERR_NOMEM, "no memory for %u asynchronous reads", s->depth);
    for (; p->n_threads < n; p->n_threads++)
        if (pthread_create(&p->thread[p->n_threads], NULL, worker, p) != 0) break;
    /* Fewer than wanted only means fewer reads at once. */
    return p->n_threads ? 0 : err_set(e, ERR_NOMEM, "no thread can be started to read with");
}

static void pool_start(struct aio *a, unsigned slot)
{
    struct pool *p = a->backend;
    pthread_mutex_lock(&p->lock);
    p->todo[(p->first_todo + p->n_todo++) % p->depth] = (struct job){slot, aio_piece_of(a, slot)};
    pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&p->lock);
}

static void pool_flush(struct aio *a)
{
    (void)a;
}

static unsigned pool_reap(struct aio *a, struct aio_event *ev, unsigned most, bool wait)
{
    struct pool *p = a->backend;
    unsigned n = 0;
    pthread_mutex_lock(&p->lock);
    while (wait && !p->n_done) pthread_cond_wait(&p->finished, &p->lock);
    for (; n < most && p->n_done; p->n_done--) {
        ev[n++] = p->done[p->first_done];
        p->first_done = (p->first_done + 1) % p->depth;
    }
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* What no thread has begun never begins. */
static void pool_cancel(struct aio *a, unsigned slot)
{
    struct pool *p = a->backend;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < p->n_todo; i++) {
        if (p->todo[(p->first_todo + i) % p->depth].slot != slot) continue;
        for (unsigned k = i + 1; k < p->n_todo; k++)
            p->todo[(p->first_todo + k - 1) % p->depth] = p->todo[(p->first_todo + k) % p->depth];
        p->n_todo--;
        put_done(p, slot, -ECANCELED);
        break;
    }
    pthread_mutex_unlock(&p->lock);
}

const struct aio_ops aio_threads = {"threads",  pool_open, pool_close, pool_start,
                                    pool_flush, pool_reap, pool_cancel};
