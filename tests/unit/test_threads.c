/* base/threads, base/affinity: every item once, barriers, sleeping when idle, how many threads by default. */
#include "tests/unit/cmocka_all.h"

#include "base/affinity.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/threads.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

static struct team *new_team(int threads, int bind)
{
    struct err e;
    struct team *t;
    struct team_settings s = {.threads = threads, .bind = bind};
    assert_int_equal(team_create(&t, &s, &e), 0);
    assert_int_equal(team_size(t), threads);
    return t;
}

enum { ITEMS = 1003 };

struct share {
    unsigned char count[TEAM_SLOTS][ITEMS];
    int seen[64];
};

static void share_items(struct team_member *m, void *arg)
{
    struct share *s = arg;
    s->seen[m->ith]++;
    for (int slot = 0; slot < TEAM_SLOTS; slot++) {
        int64_t chunk = slot + 1, b;
        while (team_next(m, slot, ITEMS, chunk, &b))
            for (int64_t i = b; i < b + chunk && i < ITEMS; i++) s->count[slot][i]++;
        assert_false(team_next(m, slot, ITEMS, chunk, &b));
    }
    team_barrier(m);
    int64_t b;
    while (team_next(m, 0, ITEMS, 7, &b))
        for (int64_t i = b; i < b + 7 && i < ITEMS; i++) s->count[0][i]++;
}

static void every_item_is_done_once(void **state)
{
    (void)state;
    struct share *s = malloc(sizeof *s);
    for (int n = 1; n <= 8; n++) {
        struct team *t = new_team(n, 0);
        memset(s, 0, sizeof *s);
        for (int run = 0; run < 20; run++) team_run(t, share_items, s);
        for (int slot = 0; slot < TEAM_SLOTS; slot++)
            for (int i = 0; i < ITEMS; i++) assert_int_equal(s->count[slot][i], slot ? 20 : 40);
        for (int i = 0; i < 64; i++) assert_int_equal(s->seen[i], i < n ? 20 : 0);
        team_destroy(&t);
        assert_null(t);
    }
    free(s);
}

struct rounds {
    int value[16], bad, rounds;
};

/* Every thread writes its own cell, then reads all others': only a barrier makes that right. */
static void write_then_read_all(struct team_member *m, void *arg)
{
    struct rounds *r = arg;
    int bad = 0;
    for (int k = 1; k <= r->rounds; k++) {
        r->value[m->ith] = k;
        team_barrier(m);
        for (int i = 0; i < m->nth; i++) bad += r->value[i] != k;
        team_barrier(m);
    }
    if (bad) r->bad = 1;
}

static void barrier_shows_what_was_written(void **state)
{
    (void)state;
    for (int n = 1; n <= 8; n++) {
        struct team *t = new_team(n, 0);
        struct rounds r = {.rounds = n <= 2 ? 20000 : 1000};
        team_run(t, write_then_read_all, &r);
        assert_int_equal(r.bad, 0);
        for (int i = 0; i < n; i++) assert_int_equal(r.value[i], r.rounds);
        team_destroy(&t);
    }
}

static void add_one(struct team_member *m, void *arg)
{
    (void)m;
    atomic_fetch_add((_Atomic int *)arg, 1);
}

static void many_short_runs(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n++) {
        struct team *t = new_team(n, 0);
        _Atomic int sum = 0;
        for (int i = 0; i < 3000; i++) {
            team_run(t, add_one, &sum);
            /* All calls are over when team_run is: not one more or less. */
            assert_int_equal(atomic_load(&sum), n * (i + 1));
        }
        team_destroy(&t);
    }
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void idle_team_sleeps(void **state)
{
    (void)state;
    struct team *t = new_team(4, 0);
    _Atomic int sum = 0;
    team_run(t, add_one, &sum);
    usleep(20000);
    double before = cpu_seconds();
    usleep(300000);
    double used = cpu_seconds() - before;
    team_destroy(&t);
    /* One spinning thread alone would use 0.3 s. */
    if (used > 0.03) fail_msg("an idle team used %.3f s of processor time in 0.3 s", used);
}

static void slow_thread(struct team_member *m, void *arg)
{
    (void)arg;
    if (m->ith == 0) usleep(200000);
    team_barrier(m);
}

static void waiting_at_a_barrier_sleeps(void **state)
{
    (void)state;
    struct team *t = new_team(2, 0);
    double before = cpu_seconds();
    team_run(t, slow_thread, NULL);
    double used = cpu_seconds() - before;
    team_destroy(&t);
    if (used > 0.03) fail_msg("waiting 0.2 s at a barrier used %.3f s of processor time", used);
}

static void creates_and_destroys(void **state)
{
    (void)state;
    for (int i = 0; i < 100; i++) {
        struct team *t = new_team(1 + i % 5, i & 1);
        team_destroy(&t);
    }
    struct team *none = NULL;
    team_destroy(&none);
    team_destroy(NULL);
    struct err e;
    struct team *t;
    assert_int_equal(team_create(&t, &(struct team_settings){.threads = -1}, &e), ERR_ARG);
    assert_null(t);
    assert_int_equal(team_create(&t, &(struct team_settings){.threads = 1 << 20}, &e), ERR_ARG);
}

#if !SANITIZED /* they need all of the address space, which this limits */
static void refused_threads_are_an_error(void **state)
{
    (void)state;
    struct rlimit old, low;
    assert_int_equal(getrlimit(RLIMIT_AS, &old), 0);
    low = old;
    low.rlim_cur = 1ull << 30; /* stacks are 8 MiB each: about a hundred fit */
    assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
    struct err e;
    struct team *t;
    int rc = team_create(&t, &(struct team_settings){.threads = 1000}, &e);
    setrlimit(RLIMIT_AS, &old);
    assert_int_equal(rc, ERR_NOMEM);
    assert_null(t);
    assert_non_null(strstr(e.msg, "of 1000"));
}
#endif

static void where_am_i(struct team_member *m, void *arg)
{
    struct affinity_mask k;
    affinity_save(&k);
    int bits = 0;
    for (size_t i = 0; i < sizeof k.bits / sizeof *k.bits; i++) bits += __builtin_popcountl(k.bits[i]);
    ((int *)arg)[m->ith] = bits;
}

static void binding_is_for_the_run_only(void **state)
{
    (void)state;
    int cores[64], n = affinity_cores(cores, 64), before = affinity_cpus();
    if (n > 64) n = 64;
    struct team *t = new_team(n, 1);
    int bits[64] = {0};
    team_run(t, where_am_i, bits);
    for (int i = 0; i < n; i++) assert_int_equal(bits[i], 1);
    assert_int_equal(affinity_cpus(), before);
    for (int i = 0; i < n; i++) assert_in_range(team_node(t, i), 0, affinity_nodes() - 1);
    team_destroy(&t);
    t = new_team(2, 0);
    assert_int_equal(team_node(t, 1), -1);
    team_destroy(&t);
}

static void default_follows_the_affinity_mask(void **state)
{
    (void)state;
    int cores[64], n = affinity_cores(cores, 64);
    assert_in_range(n, 1, 4096);
    assert_in_range(threads_default_at("/nonexistent"), n, n);
    struct affinity_mask all;
    affinity_save(&all);
    assert_int_equal(affinity_bind_thread(cores[n - 1 < 63 ? n - 1 : 63]), 0);
    assert_int_equal(affinity_cpus(), 1);
    assert_int_equal(threads_default(), 1);
    struct err e;
    struct team *t;
    assert_int_equal(team_create(&t, &(struct team_settings){0}, &e), 0);
    assert_int_equal(team_size(t), 1);
    team_destroy(&t);
    affinity_restore(&all);
    assert_int_equal(affinity_cores(NULL, 0), n);
}

static void put(const char *root, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(full, 0777);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void quota_is_read_from_control_groups(void **state)
{
    (void)state;
    char root[] = "/tmp/calor-cgroup-XXXXXX", cmd[64];
    assert_non_null(mkdtemp(root));
    assert_true(affinity_quota(root) == 0);

    put(root, "/proc/self/cgroup", "0::/a/b\n");
    assert_true(affinity_quota(root) == 0);
    put(root, "/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    assert_true(affinity_quota(root) == 0);
    put(root, "/sys/fs/cgroup/a/b/cpu.max", "150000 100000\n");
    assert_true(affinity_quota(root) == 1.5);
    put(root, "/sys/fs/cgroup/a/cpu.max", "50000 100000\n"); /* the parent allows less */
    assert_true(affinity_quota(root) == 0.5);
    assert_int_equal(threads_default_at(root), 1);
    put(root, "/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    int cores = affinity_cores(NULL, 0);
    assert_int_equal(threads_default_at(root), cores < 2 ? cores : 2); /* 1.5 rounded up */

    /* Version 1; in a container the group's own path is not there, the mount's root is. */
    put(root, "/proc/self/cgroup", "9:memory:/x\n4:cpuset:/x\n3:cpu,cpuacct:/docker/123\n0::/\n");
    assert_true(affinity_quota(root) == 0);
    put(root, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put(root, "/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_true(affinity_quota(root) == 0);
    put(root, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "75000\n");
    assert_true(affinity_quota(root) == 0.75);
    put(root, "/sys/fs/cgroup/cpu,cpuacct/docker/123/cpu.cfs_quota_us", "10000");
    put(root, "/sys/fs/cgroup/cpu,cpuacct/docker/123/cpu.cfs_period_us", "100000");
    assert_true(affinity_quota(root) == 0.1);
    put(root, "/proc/self/cgroup", "garbage\n:::\n\n3:cpu\n");
    assert_true(affinity_quota(root) == 0);
    snprintf(cmd, sizeof cmd, "rm -rf %s", root);
    assert_int_equal(system(cmd), 0);
}

static void memory_is_bound_or_left_alone(void **state)
{
    (void)state;
    size_t n = 1 << 20;
    char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    /* A container may forbid mbind: refused is allowed, harm is not. */
    for (int node = 0; node < affinity_nodes(); node++)
        assert_in_range(affinity_bind_memory(p + 1, n - 1, node) + 1, 0, 1);
    assert_int_equal(affinity_bind_memory(p + 1, 10, 0), 0);
    memset(p, 1, n);
    munmap(p, n);
    assert_int_equal(affinity_node_of(-1), 0);
    assert_int_equal(affinity_node_of(1 << 30), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_item_is_done_once),
        cmocka_unit_test(barrier_shows_what_was_written),
        cmocka_unit_test(many_short_runs),
        cmocka_unit_test(idle_team_sleeps),
        cmocka_unit_test(waiting_at_a_barrier_sleeps),
        cmocka_unit_test(creates_and_destroys),
#if !SANITIZED
        cmocka_unit_test(refused_threads_are_an_error),
#endif
        cmocka_unit_test(binding_is_for_the_run_only),
        cmocka_unit_test(default_follows_the_affinity_mask),
        cmocka_unit_test(quota_is_read_from_control_groups),
        cmocka_unit_test(memory_is_bound_or_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
