/* Memory: one pass from end to end with 1 to all threads, rows here and there, and how long a team needs to
 * meet. */
#include "placement/probe_priv.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/hoststate.h"
#include "base/membw.h"
#include "base/threads.h"

#include <stdio.h>

enum { COUNTS_MOST = 12, BARRIERS = 500 };

/* A buffer that caches are small beside, and that leaves the machine its memory. */
static uint64_t buffer_bytes(const struct probe *p)
{
    struct hoststate h;
    hoststate_read(&h, NULL);
    uint64_t bytes = p->s->quick ? 256u << 20 : 1u << 30, least = 64u << 20;
    while (bytes < 8 * p->m->last_level_cache && bytes < UINT64_C(8) << 30) bytes *= 2;
    while (h.memory_free && bytes > h.memory_free / 4 && bytes > least) bytes /= 2;
    return bytes;
}

static struct machine_figure figure(const struct membw *b)
{
    return (struct machine_figure){b->median, b->low, b->high, (uint32_t)b->passes};
}

int probe_stream(struct probe *p, double seconds)
{
    /* 1, 2, 4 … and all threads */
    uint32_t all = p->m->threads, counts[COUNTS_MOST];
    int n = 0;
    for (uint32_t c = 1; c < all && n < COUNTS_MOST - 1; c *= 2) counts[n++] = c;
    counts[n++] = all;
    uint64_t bytes = buffer_bytes(p);
    for (int i = 0; i < n; i++) {
        char what[48];
        struct membw b;
        struct team *t = NULL;
        const struct team_settings s = {.threads = (int)counts[i], .bind = 1};
        snprintf(what, sizeof what, "memory, %u thread%s", counts[i], counts[i] == 1 ? "" : "s");
        int rc = probe_tell(p, what, (double)i / n);
        if (rc) return rc;
        if ((rc = team_create(&t, &s, p->e)) == 0) rc = membw_read(&b, t, bytes, seconds / n * 0.7, p->e);
        team_destroy(&t);
        if (rc) return rc;
        p->m->stream.at[p->m->stream.n++] = (struct machine_point){.x = counts[i], .rate = figure(&b)};
    }
    machine_add_note(
        p->m, "stream",
        "passes over %llu MiB from end to end with the widest loads there are, threads bound to cores, "
        "shared out in pieces of 1 MiB",
        (unsigned long long)bytes >> 20);
    return 0;
}

int probe_scattered(struct probe *p, double seconds)
{
    static const uint32_t rows[] = {1024, 2048, 4096, 8192, 16384};
    const int n = sizeof rows / sizeof *rows;
    uint64_t bytes = buffer_bytes(p);
    for (int i = 0; i < n; i++) {
        char what[48];
        struct membw b;
        snprintf(what, sizeof what, "memory, rows of %u KiB", rows[i] / 1024);
        int rc = probe_tell(p, what, (double)i / n);
        if (rc == 0) rc = membw_rows(&b, p->team, bytes, rows[i], seconds / n * 0.6, p->e);
        if (rc) return rc;
        p->m->scattered.at[p->m->scattered.n++] = (struct machine_point){.x = rows[i], .rate = figure(&b)};
    }
    machine_add_note(
        p->m, "scattered",
        "%u threads; each pass reads another eighth of the rows of %llu MiB, drawn at random, in ascending "
        "order",
        p->m->threads, (unsigned long long)bytes >> 20);
    return 0;
}

struct meeting {
    double seconds;
};

static void meet(struct team_member *m, void *arg)
{
    struct meeting *j = arg;
    team_barrier(m);
    uint64_t begin = clock_ns();
    for (int i = 0; i < BARRIERS; i++) team_barrier(m);
    if (m->ith == 0) j->seconds = clock_since(begin);
}

int probe_barrier(struct probe *p, double seconds)
{
    struct probe_samples s = {0};
    struct meeting j;
    int rc = probe_tell(p, "barrier", 0);
    if (rc) return rc;
    uint64_t start = clock_ns();
    while (s.n < 9 || (clock_since(start) < seconds && s.n < PROBE_SAMPLES)) {
        team_run(p->team, meet, &j);
        double one = j.seconds / BARRIERS;
        probe_add(&s, one > 1e-9 ? one : 1e-9);
    }
    p->m->barrier = probe_figure(&s);
    machine_add_note(p->m, "barrier", "%u threads meet %d times in a row; a sample is the mean of such a row",
                     p->m->threads, BARRIERS);
    return 0;
}
