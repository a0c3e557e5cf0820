/* base/stats, membw, hoststate, progress: what measurements rest on. */
#include "tests/unit/cmocka_all.h"

#include "base/err.h"
#include "base/hoststate.h"
#include "base/json_text.h"
#include "base/membw.h"
#include "base/progress.h"
#include "base/rng.h"
#include "base/stats.h"
#include "base/threads.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void medians_and_percentiles(void **state)
{
    (void)state;
    struct err e;
    struct stats s;
    const double odd[] = {5, 1, 4, 2, 3}, even[] = {4, 1, 3, 2}, one[] = {7};
    assert_int_equal(stats_of(&s, odd, 5, &e), 0);
    assert_true(s.median == 3 && s.mean == 3 && s.min == 1 && s.max == 5 && s.n == 5);
    assert_true(s.low >= 1 && s.low <= 3 && s.high >= 3 && s.high <= 5);
    assert_true(odd[0] == 5); /* the input is left alone */
    assert_int_equal(stats_of(&s, even, 4, &e), 0);
    assert_true(s.median == 2.5);
    assert_int_equal(stats_of(&s, one, 1, &e), 0);
    assert_true(s.median == 7 && s.low == 7 && s.high == 7);
    const double sorted[] = {10, 20, 30, 40};
    assert_true(stats_percentile(sorted, 4, 0) == 10);
    assert_true(stats_percentile(sorted, 4, 100) == 40);
    assert_true(fabs(stats_percentile(sorted, 4, 50) - 25) < 1e-12);
    assert_true(fabs(stats_percentile(sorted, 4, 90) - 37) < 1e-12); /* numpy.percentile */
    assert_int_equal(stats_of(&s, one, 0, &e), ERR_ARG);
    const double bad[] = {1, NAN};
    assert_int_equal(stats_of(&s, bad, 2, &e), ERR_NUMERIC);
}

/* The interval must contain the true median about as often as it says. */
static void interval_covers_the_median(void **state)
{
    (void)state;
    struct rng r;
    struct err e;
    rng_init(&r, 1);
    int hit = 0, trials = 300;
    double x[25], width = 0;
    for (int t = 0; t < trials; t++) {
        for (int i = 0; i < 25; i++) x[i] = exp(rng_normal(&r)); /* skewed, median 1 */
        struct stats s, again;
        assert_int_equal(stats_of(&s, x, 25, &e), 0);
        hit += s.low <= 1 && 1 <= s.high;
        width += s.high - s.low;
        if (t == 0) {
            assert_int_equal(stats_of(&again, x, 25, &e), 0);
            assert_memory_equal(&s, &again, sizeof s);
        }
    }
    if (hit < trials * 90 / 100 || hit > trials * 99 / 100 || width / trials > 2)
        fail_msg("%d of %d intervals cover the median, mean width %.2f", hit, trials, width / trials);
}

static void ratios_cancel_what_disturbs_both(void **state)
{
    (void)state;
    struct rng r;
    struct err e;
    rng_init(&r, 2);
    double a[20], b[20];
    for (int i = 0; i < 20; i++) {
        double noise = 0.5 + rng_f64(&r);
        a[i] = 1.25 * noise;
        b[i] = noise;
    }
    struct stats s;
    assert_int_equal(stats_of_ratios(&s, a, b, 20, &e), 0);
    assert_true(fabs(s.median - 1.25) < 1e-12 && fabs(s.low - 1.25) < 1e-12 && fabs(s.high - 1.25) < 1e-12);
    b[3] = 0;
    assert_int_equal(stats_of_ratios(&s, a, b, 20, &e), ERR_NUMERIC);
}

static void bandwidth_is_measured(void **state)
{
    (void)state;
    struct err e;
    struct team *t;
    assert_int_equal(team_create(&t, &(struct team_settings){.threads = 2}, &e), 0);
    struct membw m;
    assert_int_equal(membw_read(&m, t, 10000001, 0.02, &e), 0);
    assert_int_equal(m.threads, 2);
    assert_int_equal(m.bytes % (1 << 20), 0);
    assert_in_range(m.bytes, 10000001, 10000001 + (1 << 20));
    assert_true(m.passes >= 3);
    /* Anything from a slow laptop under a sanitizer to a cache: 50 MB/s to 10 TB/s. */
    assert_true(m.median > 5e7 && m.best >= m.median && m.best < 1e13);
    assert_int_equal(membw_read(&m, t, 1ull << 50, 0.01, &e), ERR_NOMEM);
    team_destroy(&t);
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

static void host_is_described(void **state)
{
    (void)state;
    char root[] = "/tmp/calor-host-XXXXXX", cmd[64];
    assert_non_null(mkdtemp(root));
    struct hoststate h;
    hoststate_read(&h, root);
    assert_int_equal(h.memory, 0);
    assert_true(hoststate_memory_free(root) == UINT64_MAX);
    assert_true(h.cores >= 1 && h.cpus >= h.cores && h.nodes >= 1);

    put(root, "/proc/cpuinfo",
        "processor\t: 0\nmodel name\t: Test CPU @ 2 GHz\nflags\t\t: fpu sse4_2 avx2 hypervisor fma "
        "avx512f\n");
    put(root, "/proc/meminfo",
        "MemTotal: 1000 kB\nMemAvailable: 600 kB\nCached: 300 kB\nSwapTotal: 50 kB\nSwapFree: 20 kB\n");
    put(root, "/proc/loadavg", "1.50 0.75 0.25 1/100 1234\n");
    put(root, "/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put(root, "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
    hoststate_read(&h, root);
    assert_string_equal(h.cpu, "Test CPU @ 2 GHz");
    assert_string_equal(h.features, "sse4_2 avx2 fma avx512f");
    assert_true(h.virtual_machine);
    assert_int_equal(h.memory, 1000 * 1024);
    assert_int_equal(h.memory_free, 600 * 1024);
    assert_int_equal(h.page_cache, 300 * 1024);
    assert_int_equal(h.swap_used, 30 * 1024);
    assert_int_equal(h.memory_limit, 0);
    assert_true(h.load[0] == 1.5 && h.load[2] == 0.25);
    assert_string_equal(h.thp, "madvise");
    assert_string_equal(h.governor, "powersave");

    put(root, "/proc/self/cgroup", "0::/a/b\n");
    put(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    put(root, "/sys/fs/cgroup/a/memory.max", "512000\n");
    put(root, "/sys/fs/cgroup/a/memory.current", "400000\n");
    put(root, "/sys/fs/cgroup/a/memory.stat", "anon 100000\nfile_mapped 7\nfile 300000\n");
    hoststate_read(&h, root);
    assert_int_equal(h.memory_limit, 512000);
    assert_int_equal(h.memory_free, 412000); /* files in the page cache count as free */
    assert_int_equal(hoststate_memory_free(root), 412000);
    put(root, "/proc/self/cgroup", "4:memory:/gone\n");
    put(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "200000\n");
    put(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "250000\n");
    hoststate_read(&h, root);
    assert_int_equal(h.memory_limit, 200000);
    assert_int_equal(h.memory_free, 0);
    assert_int_equal(hoststate_memory_free(root), 0);
    snprintf(cmd, sizeof cmd, "rm -rf %s", root);
    assert_int_equal(system(cmd), 0);

    json_t *j = hoststate_json(&h);
    assert_non_null(j);
    assert_string_equal(json_string_value(json_object_get(j, "cpu")), "Test CPU @ 2 GHz");
    assert_int_equal(json_integer_value(json_object_get(j, "memory_limit")), 200000);
    assert_int_equal(json_array_size(json_object_get(j, "load")), 3);
    json_decref(j);
}

static void progress_speaks_json_or_nothing(void **state)
{
    (void)state;
    FILE *f = tmpfile();
    struct progress p;
    progress_start(&p, PROGRESS_AUTO, "load", f); /* no terminal: silent */
    progress_update(&p, 0.5);
    progress_end(&p, true);
    assert_int_equal(ftell(f), 0);
    progress_start(&p, PROGRESS_JSON, "load", f);
    progress_update(&p, NAN);
    for (int i = 0; i < 1000; i++) progress_update(&p, 0.5); /* at most ten a second */
    progress_end(&p, true);
    rewind(f);
    char line[200];
    int lines = 0;
    double done = -1;
    while (fgets(line, sizeof line, f)) {
        json_t *j;
        struct err e;
        assert_int_equal(json_text_parse(&j, line, strlen(line), "progress", 4, &e), 0);
        assert_string_equal(json_string_value(json_object_get(j, "progress")), "load");
        double now = json_number_value(json_object_get(j, "done"));
        assert_true(now >= done);
        done = now;
        json_decref(j);
        lines++;
    }
    assert_true(done == 1);
    assert_in_range(lines, 2, 4);
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(medians_and_percentiles),
        cmocka_unit_test(interval_covers_the_median),
        cmocka_unit_test(ratios_cancel_what_disturbs_both),
        cmocka_unit_test(bandwidth_is_measured),
        cmocka_unit_test(host_is_described),
        cmocka_unit_test(progress_speaks_json_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
