/* io/aio: every back-end gives the same bytes, whatever goes wrong on the way. */
#include "tests/unit/temp_dir.h"

#include "base/clock.h"
#include "base/rng.h"
#include "io/aio.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Allocations after opening are a broken promise: malloc and its kin are wrapped in this program. */
static int allocations;
void *__real_malloc(size_t n);
void *__real_calloc(size_t a, size_t b);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t a, size_t b);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __real_malloc(n);
}
void *__wrap_calloc(size_t a, size_t b)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __real_calloc(a, b);
}
void *__wrap_realloc(void *p, size_t n)
{
    __atomic_add_fetch(&allocations, 1, __ATOMIC_RELAXED);
    return __real_realloc(p, n);
}

enum { SIZE = (2 << 20) + 1234, BUFFER = 4 << 20, MOST = 200000 };
static unsigned char *content, *buffer; /* the file; page-aligned memory to read into */
static char path[192];

static int make_file(void **state)
{
    if (temp_dir_make(state)) return -1;
    struct rng r;
    rng_init(&r, 99);
    content = malloc(SIZE);
    for (int i = 0; i < SIZE; i++) content[i] = (unsigned char)rng_u64(&r);
    strcpy(path, in_dir("data"));
    write_file(path, content, SIZE);
    buffer = mmap(NULL, BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffer == MAP_FAILED ? -1 : 0;
}

static int drop_file(void **state)
{
    free(content);
    munmap(buffer, BUFFER);
    return temp_dir_remove(state);
}

static bool have_uring(void)
{
    struct aio *a = NULL;
    struct err e;
    struct aio_settings s = {.kind = AIO_URING, .depth = 1, .file = {{.path = path}}, .n_files = 1};
    int rc = aio_open(&a, &s, &e);
    aio_close(&a);
    if (rc) print_message("# io_uring: not tested (%s)\n", e.msg);
    return rc == 0;
}

/* Reads pieces of the file, at odd and at aligned places, as fast as the depth allows; every one must be
 * whole and right. */
static void read_all(const struct aio_settings *s, int reads)
{
    struct aio *a;
    struct err e;
    struct rng r;
    OK(aio_open(&a, s, &e));
    assert_int_equal(aio_depth(a), s->depth);
    assert_int_equal(aio_file_bytes(a, 0), SIZE);
    rng_init(&r, 5);
    unsigned char *place[4096];
    struct aio_read q[64];
    struct aio_done d[64];
    unsigned n_q = 0, lanes = s->depth + 1; /* one more than fits, so that the depth is the bound */
    /* lanes: places of the buffer; a lane is free when its read came back */
    unsigned free_lane[4096], n_free = lanes;
    for (unsigned i = 0; i < lanes; i++) {
        free_lane[i] = i;
        place[i] = buffer + (size_t)i * ((BUFFER / lanes) / 4096 * 4096);
    }
    uint32_t room = (uint32_t)(BUFFER / lanes / 4096 * 4096);
    if (room > MOST) room = MOST / 4096 * 4096;
    int begun = 0, ended = 0, before = __atomic_load_n(&allocations, __ATOMIC_RELAXED);
    while (ended < reads) {
        while (n_free && n_q < 64 && begun + (int)n_q < reads) {
            unsigned lane = free_lane[--n_free];
            uint32_t bytes = 1 + (uint32_t)rng_below(&r, room - 1);
            uint64_t offset = rng_below(&r, SIZE - bytes);
            if (rng_u64(&r) & 1) { /* aligned: past the page cache */
                bytes = (bytes + 4095) / 4096 * 4096;
                if (bytes > room) bytes = room;
                offset = rng_below(&r, (SIZE - bytes) / 4096) * 4096;
            }
            memset(place[lane], 0, bytes);
            q[n_q++] = (struct aio_read){offset, place[lane], bytes, 0, lane};
        }
        unsigned k = aio_submit(a, q, n_q);
        memmove(q, q + k, (n_q -= k) * sizeof *q);
        begun += (int)k;
        assert_true(aio_in_flight(a) <= s->depth);
        unsigned n = aio_wait(a, d, 1, 64);
        assert_true(n >= 1);
        for (unsigned i = 0; i < n; i++) {
            if (d[i].error) {
                aio_explain(a, &d[i], &e);
                fail_msg("%s: %s", aio_name(a), e.msg);
            }
            assert_int_equal(d[i].bytes, d[i].asked);
            if (memcmp(place[d[i].user], content + d[i].offset, d[i].bytes) != 0)
                fail_msg("%s: %u bytes at %llu are wrong", aio_name(a), d[i].bytes,
                         (unsigned long long)d[i].offset);
            free_lane[n_free++] = (unsigned)d[i].user;
            ended++;
        }
    }
    assert_int_equal(aio_in_flight(a), 0);
    assert_int_equal(__atomic_load_n(&allocations, __ATOMIC_RELAXED), before);
    aio_close(&a);
    assert_null(a);
}

static const struct aio_faults fault_sets[] = {
    {.seed = 1},
    {.seed = 2, .shorts = 0.5},
    {.seed = 3, .eio = 0.3},
    {.seed = 4, .again = 0.5},
    {.seed = 5, .shorts = 0.3, .eio = 0.1, .again = 0.2},
};

static void all_back_ends_read_the_same_under_faults(void **state)
{
    (void)state;
    static const enum aio_kind kinds[] = {AIO_URING, AIO_THREADS, AIO_NULL};
    bool uring = have_uring();
    for (int k = 0; k < 3; k++) {
        if (kinds[k] == AIO_URING && !uring) continue;
        for (size_t f = 0; f < sizeof fault_sets / sizeof *fault_sets; f++)
            for (unsigned depth = 1; depth <= 64; depth *= 4) {
                struct aio_settings s = {.kind = kinds[k],
                                         .depth = depth,
                                         .faults = &fault_sets[f],
                                         .reorder = true,
                                         .buffered = depth == 16,
                                         .file = {{.path = path}},
                                         .n_files = 1,
                                         .buffer = {{buffer, BUFFER}},
                                         .n_buffers = depth != 4};
                read_all(&s, 120);
            }
    }
    /* from memory */
    struct aio_settings s = {
        .kind = AIO_NULL, .depth = 7, .file = {{.data = content, .bytes = SIZE}}, .n_files = 1};
    read_all(&s, 100);
    s.kind = AIO_THREADS;
    s.threads = 2;
    s.file[0] = (struct aio_file){.path = path};
    read_all(&s, 100);
}

static void a_small_ring_loses_nothing(void **state)
{
    (void)state;
    if (!have_uring()) skip();
    for (unsigned ring = 1; ring <= 4; ring *= 2) {
        struct aio_settings s = {
            .kind = AIO_URING, .depth = 64, .ring = ring, .file = {{.path = path}}, .n_files = 1};
        read_all(&s, 500);
    }
}

static void overflow_of_completions_loses_nothing(void **state)
{
    (void)state;
    if (!have_uring()) skip();
    struct aio *a;
    struct err e;
    struct aio_settings s = {
        .kind = AIO_URING, .depth = 256, .ring = 2, .file = {{.path = path}}, .n_files = 1};
    OK(aio_open(&a, &s, &e));
    struct aio_read q[256];
    struct aio_done d[256];
    bool seen[256] = {false};
    for (unsigned i = 0; i < 256; i++) q[i] = (struct aio_read){i * 4096, buffer + i * 4096, 4096, 0, i};
    /* nothing is taken until all are on their way */
    assert_int_equal(aio_submit(a, q, 256), 256);
    usleep(50000);
    unsigned n = 0;
    while (n < 256) n += aio_wait(a, d + n, 1, 256 - n);
    for (unsigned i = 0; i < 256; i++) {
        assert_int_equal(d[i].error, 0);
        assert_false(seen[d[i].user]);
        seen[d[i].user] = true;
    }
    assert_memory_equal(buffer, content, 256 * 4096);
    aio_close(&a);
}

static int kinds_here(enum aio_kind *kinds)
{
    int n = 0;
    kinds[n++] = AIO_THREADS;
    kinds[n++] = AIO_NULL;
    if (have_uring()) kinds[n++] = AIO_URING;
    return n;
}

static void errors_for_good_end_one_read(void **state)
{
    (void)state;
    enum aio_kind kinds[3];
    int n = kinds_here(kinds);
    const struct aio_faults bad = {.seed = 1, .bad_begin = 8192, .bad_end = 8193};
    for (int k = 0; k < n; k++) {
        struct aio *a;
        struct err e;
        struct aio_settings s = {
            .kind = kinds[k], .depth = 8, .faults = &bad, .file = {{.path = path}}, .n_files = 1};
        OK(aio_open(&a, &s, &e));
        struct aio_read q[4];
        struct aio_done d[4];
        for (unsigned i = 0; i < 4; i++) q[i] = (struct aio_read){i * 4096, buffer + i * 4096, 4096, 0, i};
        assert_int_equal(aio_submit(a, q, 4), 4);
        assert_int_equal(aio_wait(a, d, 4, 4), 4);
        for (int i = 0; i < 4; i++) {
            if (d[i].user != 2) {
                assert_int_equal(d[i].error, 0);
                continue;
            }
            assert_int_equal(d[i].error, EIO);
            assert_int_equal(d[i].tries, AIO_RETRIES + 1);
            FAILS(aio_explain(a, &d[i], &e), ERR_IO, "offset 8192");
            assert_non_null(strstr(e.msg, path));
        }
        assert_memory_equal(buffer, content, 8192);
        aio_close(&a);
    }
}

static void a_file_that_ends_early_is_told(void **state)
{
    (void)state;
    enum aio_kind kinds[3];
    int n = kinds_here(kinds);
    for (int k = 0; k < n; k++) {
        struct aio *a;
        struct err e;
        const char *cut = in_dir("cut");
        write_file(cut, content, 65536);
        struct aio_settings s = {.kind = kinds[k], .depth = 4, .file = {{.path = cut}}, .n_files = 1};
        OK(aio_open(&a, &s, &e));
        assert_int_equal(truncate(cut, 5000), 0);
        struct aio_read q[2] = {{0, buffer, 16384, 0, 1}, {32768, buffer + 32768, 4096, 0, 2}};
        struct aio_done d[2];
        assert_int_equal(aio_submit(a, q, 2), 2);
        assert_int_equal(aio_wait(a, d, 2, 2), 2);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(d[i].error, ENODATA);
            assert_int_equal(d[i].bytes, d[i].user == 1 ? 5000 : 0);
            FAILS(aio_explain(a, &d[i], &e), ERR_IO, "truncated");
        }
        assert_memory_equal(buffer, content, 5000);
        aio_close(&a);
    }
}

static void cancelled_reads_come_back_once(void **state)
{
    (void)state;
    enum aio_kind kinds[3];
    int n = kinds_here(kinds);
    for (int k = 0; k < n; k++)
        for (int round = 0; round < 20; round++) {
            struct aio *a;
            struct err e;
            struct aio_settings s = {.kind = kinds[k],
                                     .depth = 64,
                                     .threads = 1,
                                     .latency = 0.02,
                                     .file = {{.path = path}},
                                     .n_files = 1};
            OK(aio_open(&a, &s, &e));
            struct aio_read q[64];
            struct aio_done d[64];
            for (unsigned i = 0; i < 64; i++)
                q[i] = (struct aio_read){i * 8192, buffer + i * 8192, 8192, 0, i};
            assert_int_equal(aio_submit(a, q, 64), 64);
            for (unsigned i = 0; i < 64; i += 2) aio_cancel(a, i);
            int seen[64] = {0}, cancelled = 0;
            unsigned got = 0;
            while (got < 64) got += aio_wait(a, d + got, 1, 64 - got);
            for (unsigned i = 0; i < 64; i++) {
                seen[d[i].user]++;
                cancelled += d[i].error == ECANCELED;
                assert_true(d[i].error == 0 || (d[i].error == ECANCELED && d[i].user % 2 == 0));
                if (d[i].error == 0)
                    assert_memory_equal(buffer + d[i].user * 8192, content + d[i].user * 8192, 8192);
                else
                    FAILS(aio_explain(a, &d[i], &e), ERR_CANCELLED, "cancelled");
            }
            for (int i = 0; i < 64; i++) assert_int_equal(seen[i], 1);
            if (kinds[k] == AIO_NULL) assert_int_equal(cancelled, 32);
            aio_close(&a);
        }
}

static void closing_waits_for_what_is_in_flight(void **state)
{
    (void)state;
    enum aio_kind kinds[3];
    int n = kinds_here(kinds);
    for (int k = 0; k < n; k++)
        for (int round = 0; round < 20; round++) {
            struct aio *a;
            struct err e;
            struct aio_settings s = {.kind = kinds[k], .depth = 16, .file = {{.path = path}}, .n_files = 1};
            OK(aio_open(&a, &s, &e));
            unsigned char *mine =
                mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            assert_ptr_not_equal(mine, MAP_FAILED);
            struct aio_read q[16];
            for (unsigned i = 0; i < 16; i++)
                q[i] = (struct aio_read){i * 65536, mine + i * 65536, 65536, 0, i};
            assert_int_equal(aio_submit(a, q, 16), 16);
            aio_close(&a);
            munmap(mine, 1 << 20); /* a read still under way would fault, or write to what comes there next */
        }
}

static void what_cannot_be_read_is_refused(void **state)
{
    (void)state;
    struct aio *a = NULL;
    struct err e;
    struct aio_settings s = {.kind = AIO_THREADS, .depth = 4, .file = {{.path = temp_dir}}, .n_files = 1};
    FAILS(aio_open(&a, &s, &e), ERR_IO, "directory");
    s.file[0].path = in_dir("none");
    FAILS(aio_open(&a, &s, &e), ERR_IO, "none");
    s.file[0].path = path;
    s.depth = 0;
    FAILS(aio_open(&a, &s, &e), ERR_ARG, "depth 0");
    s.depth = 5000;
    FAILS(aio_open(&a, &s, &e), ERR_ARG, "depth 5000");
    s.depth = 2;
    s.file[0] = (struct aio_file){.data = content, .bytes = 10};
    FAILS(aio_open(&a, &s, &e), ERR_ARG, "memory");
    s.file[0] = (struct aio_file){.path = path};
    OK(aio_open(&a, &s, &e));
    struct aio_read q[3] = {{0, buffer, 10, 1, 1}, {0, buffer, 0, 0, 2}, {0, buffer, 10, 0, 3}};
    struct aio_done d[3];
    assert_int_equal(aio_submit(a, q, 2), 2);
    assert_int_equal(aio_submit(a, q + 2, 1), 1);
    assert_int_equal(aio_in_flight(a), 3);
    assert_int_equal(aio_wait(a, d, 3, 3), 3);
    for (int i = 0; i < 3; i++) assert_int_equal(d[i].error, d[i].user == 3 ? 0 : EINVAL);
    /* no more at once than the depth */
    struct aio_read many[5] = {
        {0, buffer, 10, 0, 1}, {0, buffer + 64, 10, 0, 2}, {0, buffer + 128, 10, 0, 3}};
    assert_int_equal(aio_submit(a, many, 3), 2);
    assert_int_equal(aio_submit(a, many + 2, 1), 0);
    assert_int_equal(aio_wait(a, d, 2, 3), 2);
    assert_int_equal(aio_wait(a, d, 1, 3), 0); /* nothing in flight: nothing to wait for */
    aio_close(&a);
    aio_close(&a);
}

static void the_environment_chooses(void **state)
{
    (void)state;
    struct aio *a;
    struct err e;
    struct aio_settings s = {.depth = 4, .file = {{.path = path}}, .n_files = 1};
    setenv("CALOR_AIO", "threads", 1);
    OK(aio_open(&a, &s, &e));
    assert_string_equal(aio_name(a), "threads");
    aio_close(&a);
    unsetenv("CALOR_AIO");
    if (!have_uring()) skip();
    OK(aio_open(&a, &s, &e));
    assert_string_equal(aio_name(a), "io_uring");
    aio_close(&a);
}

static void a_drive_can_be_acted_out(void **state)
{
    (void)state;
    struct aio *a;
    struct err e;
    struct aio_settings s = {
        .kind = AIO_NULL, .depth = 8, .rate = 20e6, .file = {{.path = path}}, .n_files = 1};
    OK(aio_open(&a, &s, &e));
    struct aio_read q[8];
    struct aio_done d[8];
    for (unsigned i = 0; i < 8; i++) q[i] = (struct aio_read){i * 131072, buffer + i * 131072, 131072, 0, i};
    uint64_t begin = clock_ns();
    assert_int_equal(aio_submit(a, q, 8), 8);
    assert_int_equal(aio_wait(a, d, 8, 8), 8);
    double t = clock_since(begin);
    assert_true(t >= 0.052); /* 1 MiB at 20 MB/s; a busy machine takes longer */
    assert_memory_equal(buffer, content, 1 << 20);
    aio_close(&a);
    /* nothing is there before its time, and cancelling does not wait for it */
    s.rate = 0;
    s.latency = 1000;
    OK(aio_open(&a, &s, &e));
    assert_int_equal(aio_submit(a, q, 2), 2);
    assert_int_equal(aio_wait(a, d, 0, 8), 0);
    aio_cancel(a, 1);
    assert_int_equal(aio_wait(a, d, 1, 8), 1);
    assert_true(d[0].user == 1 && d[0].error == ECANCELED);
    aio_cancel(a, 0);
    assert_int_equal(aio_wait(a, d, 1, 8), 1);
    assert_true(d[0].user == 0 && d[0].error == ECANCELED);
    aio_close(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_back_ends_read_the_same_under_faults),
        cmocka_unit_test(a_small_ring_loses_nothing),
        cmocka_unit_test(overflow_of_completions_loses_nothing),
        cmocka_unit_test(errors_for_good_end_one_read),
        cmocka_unit_test(a_file_that_ends_early_is_told),
        cmocka_unit_test(cancelled_reads_come_back_once),
        cmocka_unit_test(closing_waits_for_what_is_in_flight),
        cmocka_unit_test(what_cannot_be_read_is_refused),
        cmocka_unit_test(the_environment_chooses),
        cmocka_unit_test(a_drive_can_be_acted_out),
    };
    return cmocka_run_group_tests(tests, make_file, drop_file);
}
