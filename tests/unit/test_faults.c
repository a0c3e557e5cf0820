/* Files that fail while they are read: reads that give less than was asked for, that are interrupted, that
 * end early, that the disk refuses (EIO); files cut short while they are open, mapped ones too. pread is
 * wrapped in this program. Each time the same bytes or a clear error, never a signal. */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "engine/calor.h"
#include "io/npy.h"
#include "io/safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static enum fault { NONE, SHORT, INTERRUPTED, REFUSED, ENDED } fault;
static long countdown; /* reads until it happens */
static long reads;     /* since fault_set */

static void fault_set(enum fault f, long n)
{
    fault = f;
    countdown = n;
    reads = 0;
}

ssize_t __real_pread64(int fd, void *dst, size_t n, off_t offset);
ssize_t __wrap_pread64(int fd, void *dst, size_t n, off_t offset);

ssize_t __wrap_pread64(int fd, void *dst, size_t n, off_t offset)
{
    reads++;
    if (fault == SHORT) n = n < 7 ? n : 7;
    if (fault == INTERRUPTED && reads % 3 != 0) {
        errno = EINTR;
        return -1;
    }
    if ((fault == REFUSED || fault == ENDED) && countdown-- == 0) {
        errno = EIO;
        return fault == ENDED ? 0 : -1;
    }
    return __real_pread64(fd, dst, n, offset);
}

enum { VOCAB = 80, IDS = 5 };
static const int32_t ids[IDS] = {1, 2, 3, 4, 5};

/* Opens the model, reading it into memory, and computes: logits are the last token's. */
static int work(const char *activation, float *logits, char *err, size_t errlen)
{
    calor_model *m = NULL;
    calor_session *s = NULL;
    calor_model_settings ms = calor_model_default();
    ms.no_mmap = 1;
    ms.threads = 1;
    ms.activation = activation;
    int rc = calor_model_open(&m, in_dir("model.gguf"), &ms, err, errlen);
    if (rc == 0) rc = calor_session_open(&s, m, NULL, err, errlen);
    if (rc == 0) rc = calor_eval(s, ids, IDS, err, errlen);
    if (rc == 0) memcpy(logits, calor_logits(s), VOCAB * sizeof *logits);
    calor_session_close(&s);
    calor_model_close(&m);
    return rc;
}

static void test_reads_in_pieces_give_the_same_bytes(void **state)
{
    (void)state;
    char err[1000];
    float want[VOCAB], got[VOCAB];
    fault_set(NONE, 0);
    assert_int_equal(work(NULL, want, err, sizeof err), 0);
    long whole = reads;
    for (int f = SHORT; f <= INTERRUPTED; f++) {
        fault_set((enum fault)f, 0);
        memset(got, 0, sizeof got);
        if (work(NULL, got, err, sizeof err)) fail_msg("fault %d: %s", f, err);
        assert_memory_equal(want, got, sizeof want);
        assert_true(reads >= 2 * whole);
    }
    fault_set(NONE, 0);
}

/* Every read fails once, as itself and laid out by neuron. */
static void test_refused_and_ended_reads_are_errors(void **state)
{
    (void)state;
    for (int f = REFUSED; f <= ENDED; f++)
        for (int sparse = 0; sparse < 2; sparse++) {
            float logits[VOCAB];
            long n = 0;
            for (;; n++) {
                char err[1000] = "";
                fault_set((enum fault)f, n);
                int rc = work(sparse ? "relu" : NULL, logits, err, sizeof err);
                bool happened = countdown < 0;
                fault_set(NONE, 0);
                if (!happened) {
                    if (rc) fail_msg("fails without a fault: %s", err);
                    break;
                }
                if (rc != CALOR_EIO || !strstr(err, "model.gguf'") ||
                    !strstr(err, f == REFUSED ? ": Input/output error" : "was it truncated?") ||
                    !strstr(err, f == REFUSED ? "at offset " : "ends at byte "))
                    fail_msg("read %ld: %d '%s'", n, rc, err);
            }
            if (n < 20) fail_msg("only %ld reads were seen", n);
        }
}

static void test_other_readers(void **state)
{
    (void)state;
    static const char head[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    unsigned char bytes[8 + sizeof head - 1 + 8] = {sizeof head - 1};
    float v[2] = {1, 2}, got[2] = {0};
    struct err e;
    struct npy_writer *w;
    memcpy(bytes + 8, head, sizeof head - 1);
    memcpy(bytes + 8 + sizeof head - 1, v, sizeof v);
    write_file(in_dir("a.safetensors"), bytes, sizeof bytes);
    OK(npy_writer_create(&w, in_dir("a.npy"), 1, 2, NULL, &e));
    OK(npy_write(w, v, 2, &e));
    OK(npy_writer_finish(w, &e));
    npy_writer_destroy(&w);
    for (int f = NONE; f <= ENDED; f++)
        for (long n = 0; n < 2; n++) { /* at open, and later */
            int want = f >= REFUSED ? ERR_IO : 0;
            struct safetensors *st = NULL;
            struct npy *a = NULL;
            memset(got, 0, sizeof got);
            if (n == 0) fault_set((enum fault)f, 0);
            e.msg[0] = 0;
            int rc = safetensors_open(&st, in_dir("a.safetensors"), &e);
            if (n == 1) fault_set((enum fault)f, 0);
            if (rc == 0) rc = safetensors_read(st, safetensors_find(st, "a"), 0, got, 8, &e);
            fault_set(NONE, 0);
            if (rc != want || (rc && !strstr(e.msg, "a.safetensors'"))) fail_msg("%d: %d '%s'", f, rc, e.msg);
            if (rc == 0) assert_memory_equal(v, got, sizeof v);
            safetensors_close(&st);

            memset(got, 0, sizeof got);
            if (n == 0) fault_set((enum fault)f, 0);
            rc = npy_open(&a, in_dir("a.npy"), &e);
            if (n == 1) fault_set((enum fault)f, 0);
            if (rc == 0) rc = npy_read(a, 0, 1, got, &e);
            fault_set(NONE, 0);
            if (rc != want || (rc && !strstr(e.msg, "a.npy'"))) fail_msg("%d: %d '%s'", f, rc, e.msg);
            if (rc == 0) assert_memory_equal(v, got, sizeof v);
            npy_close(&a);
        }
}

/* The descriptor by which this process has the file open. */
static int descriptor_of(const char *path)
{
    char link[64], to[256];
    DIR *d = opendir("/proc/self/fd");
    int found = -1;
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));) {
        snprintf(link, sizeof link, "/proc/self/fd/%.20s", x->d_name);
        ssize_t n = readlink(link, to, sizeof to - 1);
        to[n > 0 ? n : 0] = 0;
        if (strcmp(to, path) == 0) found = atoi(x->d_name);
    }
    closedir(d);
    assert_true(found >= 0);
    return found;
}

/* Another file under an open one's descriptor, as a disk or network that is gone would have it. */
static void test_a_file_replaced_underneath(void **state)
{
    (void)state;
    struct err e;
    struct gguf *f;
    char buf[64];
    OK(gguf_open(&f, in_dir("model.gguf"), GGUF_READ, &e));
    const struct gguf_tensor *t = gguf_find_tensor(f, "output.weight");
    OK(gguf_read_tensor(f, t, 0, buf, sizeof buf, &e));
    int fd = descriptor_of(in_dir("model.gguf")), small = memfd_create("small", 0);
    assert_int_equal(ftruncate(small, 1000), 0);
    assert_int_equal(dup2(small, fd), fd);
    FAILS(gguf_read_tensor(f, t, 0, buf, sizeof buf, &e), ERR_IO, "and has 1000 now: it was shortened");
    FAILS(gguf_check_size(f, &e), ERR_IO, "model.gguf'");
    close(small);
    int mem = open("/proc/self/mem", O_RDONLY);
    assert_int_equal(dup2(mem, fd), fd);
    FAILS(gguf_read_tensor(f, t, 0, buf, sizeof buf, &e), ERR_IO, "and has 0 now: it was shortened");
    close(mem);
    gguf_close(&f);
}

/* Mapped: the size is looked at before each batch, so that no page is touched that is gone. */
static void test_a_mapped_file_cut_short(void **state)
{
    (void)state;
    struct err e;
    struct tiny t = tiny_llama();
    char err[1000];
    OK(tiny_write(in_dir("cut.gguf"), &t, &e));
    calor_model *m;
    calor_session *s;
    assert_int_equal(calor_model_open(&m, in_dir("cut.gguf"), NULL, err, sizeof err), 0);
    assert_int_equal(calor_session_open(&s, m, NULL, err, sizeof err), 0);
    assert_int_equal(calor_eval(s, ids, IDS, err, sizeof err), 0);
    assert_int_equal(truncate(in_dir("cut.gguf"), 4096), 0);
    assert_int_equal(calor_eval(s, ids, IDS, err, sizeof err), CALOR_EIO);
    assert_non_null(strstr(err, "cut.gguf' had "));
    assert_non_null(strstr(err, "and has 4096 now: it was shortened"));
    assert_int_equal(calor_position(s), IDS);
    assert_null(calor_logits(s));
    calor_session_close(&s);
    calor_model_close(&m);
}

/* Called once the first layer is laid out. */
static int cut(double done, void *arg)
{
    if (done >= 0.5) assert_int_equal(truncate(arg, 4096), 0);
    return 0;
}

static void test_a_mapped_file_cut_short_while_it_is_laid_out(void **state)
{
    (void)state;
    struct err e;
    struct tiny t = tiny_llama();
    char err[1000], path[192];
    OK(tiny_write(in_dir("cut.gguf"), &t, &e));
    snprintf(path, sizeof path, "%s", in_dir("cut.gguf"));
    calor_model *m;
    calor_model_settings ms = calor_model_default();
    ms.threads = 1;
    ms.activation = "relu";
    ms.progress = cut;
    ms.progress_arg = path;
    assert_int_equal(calor_model_open(&m, path, &ms, err, sizeof err), CALOR_EIO);
    assert_non_null(strstr(err, "layer 1: "));
    assert_non_null(strstr(err, "it was shortened"));
}

static int write_model(void **state)
{
    struct err e;
    struct tiny t = tiny_llama();
    t.type = DT_F16;
    return temp_dir_make(state) != 0 ? -1 : tiny_write(in_dir("model.gguf"), &t, &e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_in_pieces_give_the_same_bytes),
        cmocka_unit_test(test_refused_and_ended_reads_are_errors),
        cmocka_unit_test(test_other_readers),
        cmocka_unit_test(test_a_file_replaced_underneath),
        cmocka_unit_test(test_a_mapped_file_cut_short),
        cmocka_unit_test(test_a_mapped_file_cut_short_while_it_is_laid_out),
    };
    return cmocka_run_group_tests(tests, write_model, temp_dir_remove);
}
