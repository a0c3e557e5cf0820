/* Opening a model, a session and writing a few tokens without memory: the Nth allocation fails, for every N
 * until nothing fails any more. Each time a clear code, and nothing leaks (the sanitizer build sees to that).
 */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "engine/calor.h"
#include "placement/predictor.h"

#include <errno.h>
#include <sys/mman.h>

static long countdown = -1; /* allocations until one fails; negative: none does */
static bool hit;

static bool fails(void)
{
    if (countdown < 0) return false;
    if (countdown-- > 0) return false;
    hit = true;
    return true;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
char *__real_strdup(const char *s);
void *__real_mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset);
void *__real_mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);
void *__wrap_mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset);

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t m)
{
    return fails() ? NULL : __real_calloc(n, m);
}

void *__wrap_realloc(void *p, size_t n)
{
    return fails() ? NULL : __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
    return fails() ? NULL : __real_aligned_alloc(align, n);
}

char *__wrap_strdup(const char *s)
{
    return fails() ? NULL : __real_strdup(s);
}

void *__wrap_mmap64(void *p, size_t n, int prot, int flags, int fd, off_t offset)
{
    if (!fails()) return __real_mmap64(p, n, prot, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

void *__wrap_mmap(void *p, size_t n, int prot, int flags, int fd, off_t offset)
{
    if (!fails()) return __real_mmap(p, n, prot, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}

/* Everything a program does with a model. */
static int work(int no_mmap, int sparse, bool predict, char *err, size_t errlen)
{
    calor_model *m = NULL;
    calor_session *s = NULL;
    calor_stream *t = NULL;
    calor_model_settings ms = calor_model_default();
    ms.threads = 2;
    ms.no_mmap = no_mmap;
    if (sparse) { /* laid out by neuron, gates in planes, small neurons left out */
        ms.activation = "relu";
        ms.planes = 1;
    }
    const float epsilon[2] = {0.01f, 0.01f};
    calor_session_settings ss = calor_session_default();
    if (sparse) ss.mode = CALOR_THRESHOLD;
    if (predict) {
        ss.mode = CALOR_PREDICT;
        ss.recall = 1;
        ms.activation = "relu";
        ms.predictor = in_dir("model.predictor");
    }
    ss.epsilon = epsilon;
    size_t len;
    int rc = calor_model_open(&m, in_dir("model.gguf"), &ms, err, errlen);
    if (rc == 0) rc = calor_session_open(&s, m, &ss, err, errlen);
    if (rc == 0) rc = calor_stream_open(&t, m, 1, err, errlen);
    const int32_t ids[] = {1, 2, 3, 4, 5, 6, 7};
    if (rc == 0) rc = calor_eval(s, ids, 7, err, errlen);
    calor_sampler sp = calor_sampler_default();
    for (int i = 0; i < 3 && rc >= 0; i++) {
        int32_t id = calor_sample(s, &sp, err, errlen);
        rc = id < 0 ? id : calor_eval(s, &id, 1, err, errlen);
        if (rc == 0) calor_stream_add(t, id, &len);
    }
    calor_stream_close(&t);
    calor_session_close(&s);
    calor_model_close(&m);
    return rc;
}

static void test_every_allocation_fails_once(void **state)
{
    (void)state;
    for (int k = 0; k < 5; k++) {
        long n = 0;
        for (;; n++) {
            char err[1000] = "";
            hit = false;
            countdown = n;
            int rc = work(k % 2, k / 2 % 2, k == 4, err, sizeof err);
            countdown = -1;
            if (!hit) {
                if (rc) fail_msg("fails with memory: %s", err);
                break;
            }
            bool right = rc == 0 || rc == CALOR_ENOMEM || (rc == CALOR_EIO && strstr(err, "cannot map"));
            if (!right || (rc != 0 && strlen(err) < 10)) fail_msg("allocation %ld: %d '%s'", n, rc, err);
            if (n > 100000) fail_msg("no end");
        }
        if (n < 25) fail_msg("only %ld allocations were seen", n);
    }
}

static int write_model(void **state)
{
    struct err e;
    struct tiny t = tiny_llama();
    t.type = DT_F16;
    if (temp_dir_make(state) != 0 || tiny_write(in_dir("model.gguf"), &t, &e) != 0) return -1;
    struct gguf *f;
    struct predictor *p = NULL;
    struct predictor_subject s = {.activation = "relu", .layers = 2, .neurons = t.ffn, .width = t.width};
    if (gguf_open(&f, in_dir("model.gguf"), GGUF_READ, &e) != 0) return -1;
    int rc = gguf_identity(f, s.identity, &e);
    if (rc == 0) rc = predictor_create(&p, &s, &e);
    for (uint32_t i = 0; i < 2 && rc == 0; i++)
        rc = predictor_layer_create(p, i, 8, DT_F16, DT_F16, true, &e);
    if (rc == 0) rc = predictor_write(p, in_dir("model.predictor"), &e);
    predictor_close(&p);
    gguf_close(&f);
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation_fails_once)};
    return cmocka_run_group_tests(tests, write_model, temp_dir_remove);
}
