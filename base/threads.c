/* A team of threads: see threads.h.
 *
 * Two words are waited on: `epoch` (a new run begins) and `phase` (a barrier opens). Whoever waits first
 * spins for a bounded time, because phases of a step are tens of microseconds long, then sleeps in the kernel
 * on a futex. The opener changes the word, then wakes only if somebody sleeps; the sleeper counts itself in
 * before its last look at the word. Both orders are sequentially consistent, so one of the two sees the
 * other. */
#include "base/threads.h"

#include "base/affinity.h"
#include "base/clock.h"
#include "base/err.h"

#include <limits.h>
#include <linux/futex.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_THREADS = 1024, SPIN_NS = 60000 };

struct gate {
    alignas(64) _Atomic uint32_t word;
    _Atomic uint32_t sleepers;
};

struct worker {
    struct team *team;
    pthread_t thread;
    int ith;
    int cpu; /* bound to, -1: not bound */
};

struct team {
    int n;
    uint64_t spin_ns;
    bool stop;
    void (*fn)(struct team_member *m, void *arg);
    void *arg;
    struct worker *worker; /* n; worker[0] is the caller */
    struct gate epoch, phase;
    alignas(64) _Atomic uint32_t arrived;
    struct {
        alignas(64) _Atomic int64_t next;
    } slot[TEAM_SLOTS];
};

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits until g's word is no longer `old`. */
static void gate_wait(struct gate *g, uint32_t old, uint64_t spin_ns)
{
    if (spin_ns) {
        uint64_t start = 0;
        for (;;) {
            for (int i = 0; i < 32; i++) {
                if (atomic_load_explicit(&g->word, memory_order_acquire) != old) return;
                pause_cpu();
            }
            uint64_t now = clock_ns();
            if (!start) start = now;
            if (now - start >= spin_ns) break;
        }
    }
    atomic_fetch_add(&g->sleepers, 1);
    while (atomic_load(&g->word) == old)
        syscall(SYS_futex, (void *)&g->word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&g->sleepers, 1);
}

static void gate_open(struct gate *g, uint32_t next)
{
    atomic_store(&g->word, next);
    if (atomic_load(&g->sleepers) > 0)
        syscall(SYS_futex, (void *)&g->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void slots_reset(struct team *t)
{
    for (int i = 0; i < TEAM_SLOTS; i++) atomic_store_explicit(&t->slot[i].next, 0, memory_order_relaxed);
}

void team_barrier(struct team_member *m)
{
    struct team *t = m->team;
    uint32_t now = atomic_load_explicit(&t->phase.word, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 < (uint32_t)t->n) {
        gate_wait(&t->phase, now, t->spin_ns);
        return;
    }
    /* Everybody else waits: nobody touches a slot or the count until the phase changes. */
    slots_reset(t);
    atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
    gate_open(&t->phase, now + 1);
}

int team_next(struct team_member *m, int slot, int64_t n, int64_t chunk, int64_t *begin)
{
    _Atomic int64_t *next = &m->team->slot[slot].next;
    /* The look before the addition keeps the counter from running away when asked again and again. */
    if (atomic_load_explicit(next, memory_order_relaxed) >= n) return 0;
    int64_t at = atomic_fetch_add_explicit(next, chunk < 1 ? 1 : chunk, memory_order_relaxed);
    if (at >= n) return 0;
    *begin = at;
    return 1;
}

static void *worker_main(void *p)
{
    struct worker *w = p;
    struct team *t = w->team;
    char name[16];
    snprintf(name, sizeof name, "calor-%d", w->ith);
    pthread_setname_np(pthread_self(), name);
    if (w->cpu >= 0) affinity_bind_thread(w->cpu);
    struct team_member m = {.ith = w->ith, .nth = t->n, .team = t};
    for (uint32_t seen = 0;; seen++) {
        gate_wait(&t->epoch, seen, t->spin_ns);
        if (t->stop) return NULL;
        t->fn(&m, t->arg);
        team_barrier(&m);
    }
}

void team_run(struct team *t, void (*fn)(struct team_member *m, void *arg), void *arg)
{
    struct team_member m = {.ith = 0, .nth = t->n, .team = t};
    slots_reset(t);
    if (t->n == 1) {
        fn(&m, arg);
        return;
    }
    /* The caller is pinned for the run only: its mask belongs to the application. */
    struct affinity_mask mask;
    bool bound = t->worker[0].cpu >= 0;
    if (bound) {
        affinity_save(&mask);
        affinity_bind_thread(t->worker[0].cpu);
    }
    t->fn = fn;
    t->arg = arg;
    gate_open(&t->epoch, atomic_load_explicit(&t->epoch.word, memory_order_relaxed) + 1);
    fn(&m, arg);
    team_barrier(&m);
    if (bound) affinity_restore(&mask);
}

static int default_limit(const char *root, int available)
{
    double quota = affinity_quota(root);
    int most = quota > 0 && quota < MAX_THREADS ? (int)ceil(quota) : MAX_THREADS;
    int n = available < most ? available : most;
    return n > 0 ? n : 1;
}

int threads_default_at(const char *root)
{
    return default_limit(root, affinity_cores(NULL, 0));
}

int threads_default(void)
{
    return threads_default_at(NULL);
}

int team_size(const struct team *t)
{
    return t->n;
}

int team_node(const struct team *t, int ith)
{
    int cpu = ith >= 0 && ith < t->n ? t->worker[ith].cpu : -1;
    return cpu >= 0 ? affinity_node_of(cpu) : -1;
}

/* Ends the workers 1 … started-1 and frees the team. */
static void team_end(struct team *t, int started)
{
    t->stop = true;
    gate_open(&t->epoch, atomic_load_explicit(&t->epoch.word, memory_order_relaxed) + 1);
    for (int i = 1; i < started; i++) pthread_join(t->worker[i].thread, NULL);
    free(t->worker);
    free(t);
}

int team_create(struct team **out, const struct team_settings *s, struct err *e)
{
    *out = NULL;
    if (s->threads < 0 || s->threads > MAX_THREADS)
        return err_set(e, ERR_ARG, "%d threads: expected 1 to %d, or 0 for one a core", s->threads,
                       MAX_THREADS);
    int n = s->threads ? s->threads : threads_default();
    struct team *t = aligned_alloc(alignof(struct team), sizeof *t);
    struct worker *w = calloc((size_t)n, sizeof *w);
    int *cpus = calloc((size_t)n, sizeof *cpus);
    if (!t || !w || !cpus) {
        free(t);
        free(w);
        free(cpus);
        return err_set(e, ERR_NOMEM, "no memory for a team of %d threads", n);
    }
    memset(t, 0, sizeof *t);
    t->n = n;
    t->worker = w;
    /* Spinning only pays while everyone has a processor; else it keeps the awaited thread from running. */
    t->spin_ns = n <= default_limit(NULL, affinity_cpus()) ? SPIN_NS : 0;
    int cores = affinity_cores(cpus, n);
    for (int i = 0; i < n; i++)
        w[i] = (struct worker){.team = t, .ith = i, .cpu = s->bind && cores >= n ? cpus[i] : -1};
    free(cpus);

    /* Signals are the application's: they go to its threads, never to a worker. */
    sigset_t all, old;
    sigfillset(&all);
    /* A fault is delivered to the thread that made it: blocked, it would pass by every handler. */
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int started = 1, rc = 0;
    while (started < n && rc == 0) {
        rc = pthread_create(&w[started].thread, NULL, worker_main, &w[started]);
        if (rc == 0) started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        err_set(e, ERR_NOMEM, "the system refused thread %d of %d: %s", started + 1, n, strerror(rc));
        team_end(t, started);
        return ERR_NOMEM;
    }
    *out = t;
    return 0;
}

void team_destroy(struct team **t)
{
    if (!t || !*t) return;
    team_end(*t, (*t)->n);
    *t = NULL;
}
