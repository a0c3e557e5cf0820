/* A team of threads that run the same function together, as an inference step does: many short phases
 * separated by barriers. Waiting threads spin briefly (a phase is tens of microseconds) and then sleep;
 * between runs they sleep.
 *
 * Thread 0 of the team is the caller of team_run. */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include <stdint.h>

struct err;
struct team; /* opaque; one runner at a time */

struct team_settings {
    int threads; /* 0: physical cores allowed to this process (cgroup quota and affinity mask respected) */
    int bind;    /* 1: pin thread i to the i-th allowed core (the caller while it runs) where there are as
                    many cores and the platform lets us, 0: leave to the scheduler */
};

/* The view of one thread inside team_run. */
struct team_member {
    int ith, nth;
    struct team *team;
};

int team_create(struct team **out, const struct team_settings *s, struct err *e);
void team_destroy(struct team **t);
int team_size(const struct team *t);
/* Memory node (affinity.h) next to thread ith, -1 when it is not pinned and may run anywhere. */
int team_node(const struct team *t, int ith);

/* Runs fn(member, arg) on every thread and returns when all are done. */
void team_run(struct team *t, void (*fn)(struct team_member *m, void *arg), void *arg);

/* All threads of the team arrive before any leaves; memory written before is visible after. */
void team_barrier(struct team_member *m);

/* Shares out the items [0, n) in chunks to whichever thread is free: *begin is the start of the next chunk
 * (its length is min(chunk, n - *begin)); returns 0 when none is left. Between two barriers each slot
 * (0…TEAM_SLOTS-1) serves one loop, which all threads enter with the same n and chunk; team_run and every
 * barrier start all slots afresh. Who computes an item must never change the item's result. */
#define TEAM_SLOTS 8
int team_next(struct team_member *m, int slot, int64_t n, int64_t chunk, int64_t *begin);

/* Physical cores this process may use: min(affinity mask's cores, cgroup cpu quota rounded up), at least 1.
 */
int threads_default(void);
/* The same with control groups read below `root` (NULL: the system's): for tests. */
int threads_default_at(const char *root);

#endif
