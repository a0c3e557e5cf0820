/* Sessions: determinism, batches, KV types, rewinding, limits, cancelling; on a tiny random model. */
#include "tests/unit/temp_dir.h"
#include "tests/unit/tiny_model.h"

#include "base/affinity.h"
#include "base/threads.h"
#include "engine/calor.h"
#include "engine/model.h"
#include "engine/session.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>

#define TOKENS 48
#define VOCAB  96

static char err[1000];

static calor_model *open_model(int threads, const char *cpu)
{
    calor_model *m = NULL;
    calor_model_settings s = calor_model_default();
    s.threads = threads;
    s.cpu = cpu;
    if (calor_model_open(&m, in_dir("model.gguf"), &s, err, sizeof err) != 0) fail_msg("%s", err);
    return m;
}

static calor_session *open_session(calor_model *m, calor_session_settings ss)
{
    calor_session *s = NULL;
    if (calor_session_open(&s, m, &ss, err, sizeof err) != 0) fail_msg("%s", err);
    return s;
}

static int32_t the_ids[TOKENS]; /* filled before any test */

static const int32_t *some_ids(void)
{
    return the_ids;
}

static float *run_all(calor_session *s)
{
    float *out = malloc(sizeof *out * TOKENS * VOCAB);
    calor_rewind(s, 0);
    if (calor_eval_all(s, some_ids(), TOKENS, out, err, sizeof err) != 0) fail_msg("%s", err);
    return out;
}

static double worst(const float *a, const float *b, size_t n)
{
    double d = 0.0;
    for (size_t i = 0; i < n; i++) d = fmax(d, fabs((double)a[i] - (double)b[i]));
    return d;
}

/* A model whose rows are wide enough for every kernel and whose heads take Q8_0 keys. */
static int write_model(void **state)
{
    struct err e;
    if (temp_dir_make(state) != 0) return -1;
    struct rng r;
    rng_init(&r, 3);
    for (int i = 0; i < TOKENS; i++) the_ids[i] = (int32_t)rng_below(&r, VOCAB);
    struct tiny t = tiny_llama();
    t.vocab = VOCAB;
    t.width = 256;
    t.ffn = 512;
    t.heads = 4;
    t.kv_heads = 2;
    if (tiny_write(in_dir("model.gguf"), &t, &e) != 0) return -1;
    t.type = DT_F16;
    return tiny_write(in_dir("half.gguf"), &t, &e);
}

static void test_threads_and_runs_give_the_same_bits(void **state)
{
    (void)state;
    for (int mode = 0; mode < 2; mode++)
        for (int batch = 1; batch <= 64; batch += 21) {
            float *first = NULL;
            for (int threads = 1; threads <= 4; threads++) {
                calor_model *m = open_model(threads, NULL);
                calor_session_settings ss = calor_session_default();
                ss.mode = mode ? CALOR_DENSE_FAST : CALOR_DENSE;
                ss.batch = (uint32_t)batch;
                calor_session *s = open_session(m, ss);
                for (int again = 0; again < 2; again++) {
                    float *x = run_all(s);
                    if (!first)
                        first = x;
                    else {
                        assert_memory_equal(first, x, sizeof *x * TOKENS * VOCAB);
                        free(x);
                    }
                }
                calor_session_close(&s);
                calor_model_close(&m);
            }
            free(first);
        }
}

static void test_batches_and_modes_agree(void **state)
{
    (void)state;
    calor_model *m = open_model(2, NULL);
    calor_session_settings ss = calor_session_default();
    ss.kv = "f32";
    calor_session *s = open_session(m, ss);
    float *want = run_all(s);
    calor_session_close(&s);
    const uint32_t batches[] = {1, 2, 5, 17, 47};
    for (int mode = 0; mode < 2; mode++)
        for (int i = 0; i < 5; i++) {
            ss.batch = batches[i];
            ss.mode = mode ? CALOR_DENSE_FAST : CALOR_DENSE;
            s = open_session(m, ss);
            float *x = run_all(s);
            assert_true(worst(want, x, TOKENS * VOCAB) < 0.02);
            free(x);
            calor_session_close(&s);
        }
    free(want);
    calor_model_close(&m);
}

static void test_dense_mode_has_the_decoding_bits(void **state)
{
    (void)state;
    calor_model *m = open_model(2, NULL);
    calor_session_settings ss = calor_session_default();
    ss.mode = CALOR_DENSE;
    calor_session *s = open_session(m, ss);
    float *whole = run_all(s);
    calor_session_close(&s);
    ss.batch = 1;
    s = open_session(m, ss);
    float *single = run_all(s);
    calor_session_close(&s);
    /* Attention may group queries, so the bits may differ there, and only there. */
    assert_true(worst(whole, single, TOKENS * VOCAB) < 1e-3);
    free(whole);
    free(single);
    calor_model_close(&m);
}

static void test_kv_types(void **state)
{
    (void)state;
    calor_model *m = open_model(2, NULL);
    const char *const types[] = {"f32", "f16", "q8_0"};
    const double bounds[] = {0.0, 0.02, 0.3};
    uint64_t bytes[3];
    float *want = NULL;
    for (int i = 0; i < 3; i++) {
        calor_session_settings ss = calor_session_default();
        ss.kv = types[i];
        calor_session *s = open_session(m, ss);
        calor_session_info info;
        calor_session_describe(s, &info);
        bytes[i] = info.kv_bytes;
        float *x = run_all(s);
        if (!want) want = x;
        double d = worst(want, x, TOKENS * VOCAB);
        if (!(d <= bounds[i])) fail_msg("%s: a logit differs by %g", types[i], d);
        if (i > 0) assert_true(d > 0.0); /* the type is really used */
        if (x != want) free(x);
        calor_session_close(&s);
    }
    /* 2 layers × (k, v) × 2 heads × 64 positions × 64 values */
    assert_int_equal(bytes[0], 2 * 2 * 2 * 64 * 64 * 4);
    assert_int_equal(bytes[1], 2 * 2 * 2 * 64 * 64 * 2);
    assert_int_equal(bytes[2], 2 * 2 * 2 * 64 * 64 / 32 * 34);
    free(want);
    calor_model_close(&m);
}

static void test_no_mmap_gives_the_same_bits(void **state)
{
    (void)state;
    float *x[2];
    for (int i = 0; i < 2; i++) {
        calor_model *m = NULL;
        calor_model_settings ms = calor_model_default();
        ms.threads = 2;
        ms.no_mmap = i;
        assert_int_equal(calor_model_open(&m, in_dir("half.gguf"), &ms, err, sizeof err), 0);
        calor_session *s = open_session(m, calor_session_default());
        x[i] = run_all(s);
        calor_session_close(&s);
        calor_model_close(&m);
    }
    assert_memory_equal(x[0], x[1], sizeof *x[0] * TOKENS * VOCAB);
    free(x[0]);
    free(x[1]);
}

/* In this program both are wrapped (meson.build): threads that sit on so many nodes in turn; 0: as they are.
 */
static int pretended;
int __real_affinity_nodes(void);
int __wrap_affinity_nodes(void);
int __real_team_node(const struct team *t, int i);
int __wrap_team_node(const struct team *t, int i);

int __wrap_affinity_nodes(void)
{
    return pretended ? pretended : __real_affinity_nodes();
}

int __wrap_team_node(const struct team *t, int i)
{
    return pretended ? i % pretended : __real_team_node(t, i);
}

static void test_memory_nodes_do_not_change_the_bits(void **state)
{
    (void)state;
    for (uint32_t batch = 1; batch <= 64; batch += 63) {
        float *first = NULL;
        for (int i = 1; i <= 5; i++) {
            pretended = i;
            calor_model *m = open_model(7, NULL);
            assert_int_equal(m->place.groups, i == 5 ? 1 : i); /* more than four are taken as one */
            calor_session_settings ss = calor_session_default();
            ss.batch = batch;
            calor_session *s = open_session(m, ss);
            float *x = run_all(s);
            if (!first)
                first = x;
            else {
                assert_memory_equal(first, x, sizeof *x * TOKENS * VOCAB);
                free(x);
            }
            calor_session_close(&s);
            calor_model_close(&m);
        }
        free(first);
    }
    pretended = 0;
}

static void test_rewind(void **state)
{
    (void)state;
    calor_model *m = open_model(2, NULL);
    calor_session *s = open_session(m, calor_session_default());
    const int32_t *ids = some_ids();
    float want[VOCAB];
    assert_null(calor_logits(s));
    assert_int_equal(calor_eval(s, ids, 20, err, sizeof err), 0);
    assert_int_equal(calor_eval(s, ids + 20, 1, err, sizeof err), 0);
    memcpy(want, calor_logits(s), sizeof want);
    assert_int_equal(calor_eval(s, ids + 30, 9, err, sizeof err), 0);
    assert_int_equal(calor_position(s), 30);
    assert_int_equal(calor_rewind(s, 31), CALOR_EARG);
    assert_int_equal(calor_rewind(s, 20), 0);
    assert_null(calor_logits(s));
    assert_int_equal(calor_position(s), 20);
    assert_int_equal(calor_eval(s, ids + 20, 1, err, sizeof err), 0);
    assert_memory_equal(want, calor_logits(s), sizeof want);
    calor_session_close(&s);
    calor_model_close(&m);
}

static void test_limits(void **state)
{
    (void)state;
    calor_model *m = open_model(2, NULL);
    calor_session_settings ss = calor_session_default();
    ss.context = 32;
    calor_session *s = open_session(m, ss);
    const int32_t *ids = some_ids(), bad[] = {0, VOCAB}, negative[] = {-1};
    assert_int_equal(calor_eval(s, ids, 33, err, sizeof err), CALOR_EFULL);
    assert_non_null(strstr(err, "33 tokens do not fit"));
    assert_int_equal(calor_position(s), 0);
    assert_int_equal(calor_eval(s, ids, 32, err, sizeof err), 0);
    assert_int_equal(calor_eval(s, ids, 1, err, sizeof err), CALOR_EFULL);
    assert_int_equal(calor_position(s), 32);
    calor_rewind(s, 0);
    assert_int_equal(calor_eval(s, bad, 2, err, sizeof err), CALOR_EARG);
    assert_non_null(strstr(err, "token 1 is 96"));
    assert_int_equal(calor_eval(s, negative, 1, err, sizeof err), CALOR_EARG);
    assert_int_equal(calor_eval(s, ids, 0, err, sizeof err), CALOR_EARG);
    calor_sampler sp = calor_sampler_default();
    assert_int_equal(calor_sample(s, &sp, err, sizeof err), CALOR_ESTATE);
    calor_session_close(&s);

    ss = calor_session_default();
    ss.kv = "q4_0";
    assert_int_equal(calor_session_open(&s, m, &ss, err, sizeof err), CALOR_EARG);
    assert_non_null(strstr(err, "q4_0"));
    ss = calor_session_default();
    ss.batch = 1u << 20;
    assert_int_equal(calor_session_open(&s, m, &ss, err, sizeof err), CALOR_EARG);
    ss = calor_session_default();
    ss.context = 0x7fffffff;
    ss.kv = "f32";
    assert_int_equal(calor_session_open(&s, m, &ss, err, sizeof err), CALOR_ENOMEM); /* terabytes */
    assert_non_null(strstr(err, "tokens would fit"));
    assert_null(s);
    calor_session_close(&s);
    calor_session_close(NULL);
    calor_model_close(&m);
    calor_model_close(&m);
    calor_model_close(NULL);
}

static void *cancel_soon(void *arg)
{
    struct timespec t = {0, 20 * 1000 * 1000};
    nanosleep(&t, NULL);
    calor_cancel(arg);
    return NULL;
}

/* What the message says fits does, and twice that does not; both on either side of what was asked for. */
static void test_memory_is_counted_before_it_is_taken(void **state)
{
    (void)state;
    static const char *const types[] = {"f32", "f16"};
    calor_model *m = open_model(2, NULL);
    for (int i = 0; i < 6; i++) {
        calor_session_settings ss = calor_session_default();
        struct err e = {0};
        ss.kv = types[i % 2];
        ss.batch = 16;
        ss.context = 100000 + 7 * (uint32_t)i;
        calor_session *s = open_session(m, ss);
        calor_session_info info;
        calor_session_describe(s, &info);
        uint64_t all = info.kv_bytes + info.compute_bytes, fits = 0, sampler = 2 * VOCAB * 8;
        assert_int_equal(session_check_memory(s, UINT64_MAX, &e), 0);
        assert_int_equal(session_check_memory(s, all + sampler, &e), 0);
        FAILS(session_check_memory(s, all + sampler - 1, &e), ERR_NOMEM, "a context of 1000");
        FAILS(session_check_memory(s, all / 2, &e), ERR_NOMEM, "at most ");
        assert_int_equal(sscanf(strstr(e.msg, "at most "), "at most %" SCNu64 " tokens would fit", &fits), 1);
        assert_in_range(fits, 48000, 50100);
        FAILS(session_check_memory(s, 0, &e), ERR_NOMEM, "the buffers of 16 tokens");
        calor_session_close(&s);
        ss.context = (uint32_t)fits;
        s = open_session(m, ss);
        assert_int_equal(session_check_memory(s, all / 2, &e), 0);
        calor_session_close(&s);
        ss.context = (uint32_t)fits + 200; /* what was left is no more than what aligning may take */
        s = open_session(m, ss);
        assert_int_equal(session_check_memory(s, all / 2, &e), ERR_NOMEM);
        calor_session_close(&s);
    }
    calor_model_close(&m);
}

static void test_cancel(void **state)
{
    (void)state;
    struct err e;
    struct tiny t = tiny_llama();
    t.width = 128;
    t.ffn = 256;
    t.context = 8192;
    OK(tiny_write(in_dir("slow.gguf"), &t, &e));
    calor_model *m = NULL;
    calor_model_settings ms = calor_model_default();
    ms.threads = 2;
    ms.cpu = "ref";
    assert_int_equal(calor_model_open(&m, in_dir("slow.gguf"), &ms, err, sizeof err), 0);
    calor_session_settings ss = calor_session_default();
    ss.context = 8192;
    ss.batch = 64; /* a layer's time is short, all of it is not */
    calor_session *s = open_session(m, ss);
    static int32_t ids[8000];
    /* One that is asked for before an eval ends it at once; a rewind drops it. */
    calor_cancel(s);
    assert_int_equal(calor_eval(s, ids, 4, err, sizeof err), CALOR_ECANCELLED);
    assert_int_equal(calor_position(s), 0);
    assert_null(calor_logits(s));
    calor_cancel(s);
    calor_rewind(s, 0);
    assert_int_equal(calor_eval(s, ids, 4, err, sizeof err), 0);
    /* One that comes from another thread ends a long one early. */
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, cancel_soon, s), 0);
    assert_int_equal(calor_eval(s, ids, 8000, err, sizeof err), CALOR_ECANCELLED);
    pthread_join(other, NULL);
    int when = -1;
    if (sscanf(err, "cancelled after %d", &when) != 1 || when > 4000) fail_msg("%s", err);
    assert_int_equal(calor_position(s), 4);
    assert_int_equal(calor_eval(s, ids, 4, err, sizeof err), 0);
    calor_session_close(&s);
    calor_model_close(&m);
}

struct side {
    calor_model *m;
    float *out;
};

static void *evaluate(void *arg)
{
    struct side *me = arg;
    calor_session *s = NULL;
    calor_session_settings ss = calor_session_default();
    if (calor_session_open(&s, me->m, &ss, NULL, 0) == 0) {
        for (int i = 0; i < 3; i++) {
            calor_rewind(s, 0);
            if (calor_eval_all(s, some_ids(), TOKENS, me->out, NULL, 0) != 0) me->out[0] = NAN;
        }
        calor_session_close(&s);
    }
    return NULL;
}

static void test_sessions_of_several_threads_take_turns(void **state)
{
    (void)state;
    calor_model *m = open_model(2, NULL);
    struct side sides[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        sides[i] = (struct side){m, calloc(TOKENS * VOCAB, sizeof(float))};
        assert_int_equal(pthread_create(&threads[i], NULL, evaluate, &sides[i]), 0);
    }
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    assert_memory_equal(sides[0].out, sides[1].out, sizeof(float) * TOKENS * VOCAB);
    assert_memory_equal(sides[0].out, sides[2].out, sizeof(float) * TOKENS * VOCAB);
    assert_true(sides[0].out[0] != 0.0f && sides[0].out[0] == sides[0].out[0]);
    for (int i = 0; i < 3; i++) free(sides[i].out);
    calor_model_close(&m);
}

/* One damaged weight: the error says so, the session goes on being usable, the process lives. */
static void test_output_that_is_not_a_number(void **state)
{
    (void)state;
    struct err e;
    struct tiny t = tiny_llama();
    const char *path = in_dir("nan.gguf");
    struct gguf *f = NULL;
    OK(tiny_write(path, &t, &e));
    OK(gguf_open(&f, path, GGUF_READ, &e));
    long at = (long)gguf_find_tensor(f, "blk.1.ffn_norm.weight")->offset;
    gguf_close(&f);
    const float nan = NAN;
    FILE *file = fopen(path, "r+b");
    assert_true(file && fseek(file, at, SEEK_SET) == 0 && fwrite(&nan, 4, 1, file) == 1 && fclose(file) == 0);
    calor_model *m = NULL;
    calor_model_settings ms = calor_model_default();
    ms.threads = 2;
    assert_int_equal(calor_model_open(&m, path, &ms, err, sizeof err), 0);
    calor_session *s = open_session(m, calor_session_default());
    const int32_t ids[] = {1, 2, 3};
    float all[3 * 80];
    assert_int_equal(calor_eval(s, ids, 3, err, sizeof err), CALOR_ENUMERIC);
    assert_non_null(strstr(err, "not a number"));
    assert_int_equal(calor_eval_all(s, ids, 3, all, err, sizeof err), CALOR_ENUMERIC);
    assert_null(calor_logits(s));
    assert_int_equal(calor_position(s), 0);
    calor_session_close(&s);
    calor_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads_and_runs_give_the_same_bits),
        cmocka_unit_test(test_batches_and_modes_agree),
        cmocka_unit_test(test_dense_mode_has_the_decoding_bits),
        cmocka_unit_test(test_kv_types),
        cmocka_unit_test(test_no_mmap_gives_the_same_bits),
        cmocka_unit_test(test_memory_nodes_do_not_change_the_bits),
        cmocka_unit_test(test_rewind),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_memory_is_counted_before_it_is_taken),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_sessions_of_several_threads_take_turns),
        cmocka_unit_test(test_output_that_is_not_a_number),
    };
    return cmocka_run_group_tests(tests, write_model, temp_dir_remove);
}
