/* placement/profile: how traces are coded, how big files become, what is refused. */
#include "tests/unit/profile_data.h"

static void lists_take_the_shorter_form(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct err e;
    struct rng r;
    uint32_t list[N], got[N];
    rng_init(&r, 1);
    for (int k = 0; k <= 20; k++) {
        struct profile_bytes b = {0};
        uint32_t n = 0;
        for (uint32_t i = 0; i < N; i++)
            if (k == 20 || rng_f64(&r) < k * k / 400.0) list[n++] = i;
        OK(profile_trace_add(&b, list, n, N, &e));
        assert_true(b.n <= 2 + (N + 7) / 8);
        if (k < 5) assert_true(b.n <= 2 + n + 60);
        assert_int_equal(profile_trace_check(b.p, b.n, 1, N), b.n);
        if (b.n > 1) assert_int_equal(profile_trace_check(b.p, b.n - 1, 1, N), 0);
        if (n && list[n - 1] >= 1500) assert_int_equal(profile_trace_check(b.p, b.n, 1, 1500), 0);
        struct profile_walk w = {b.p, 1, N};
        assert_int_equal(profile_walk_next(&w, got), n);
        assert_memory_equal(list, got, n * sizeof *list);
        free(b.p);
    }
}

static void misuse_is_refused(void **state)
{
    (void)state;
    struct err e;
    struct data *x = make(2, 0.0f);
    struct profile_recorder *r;
    struct profile *p;
    struct profile_settings s = {.subject = subject, .trace_bytes = 2 * 100 * L * 13};
    OK(profile_recorder_create(&r, &s, &e));
    assert_int_equal(profile_recorder_trace_room(r), 100);
    FAILS(profile_recorder_finish(&p, r, &e), ERR_STATE, "no token");
    FAILS(profile_recorder_layer(r, L, x->norms[0], 0, &e), ERR_ARG, "layer 3 of a profile of 3");
    FAILS(profile_recorder_layer(r, 0, x->norms[0], -1, &e), ERR_ARG, "epsilon");
    OK(profile_recorder_layer(r, 0, x->norms[0], 0, &e));
    FAILS(profile_recorder_add(r, 0, 0, 1, x->h[0][0], &e), ERR_STATE, "position 0");
    FAILS(profile_recorder_begin(r, PROFILE_CALIBRATION, 0, 0, 101, &e), ERR_FULL, "room for 100 more");
    OK(profile_recorder_begin(r, PROFILE_CALIBRATION, 0, 0, 100, &e));
    OK(profile_recorder_add(r, 0, 0, 60, x->h[0][0], &e));
    FAILS(profile_recorder_add(r, 0, 0, 1, x->h[0][0], &e), ERR_STATE, "expected 60");
    FAILS(profile_recorder_finish(&p, r, &e), ERR_STATE, "layer 1 was given 0 tokens of a piece, layer 0 60");
    x->h[1][0][3] = NAN;
    OK(profile_recorder_begin(r, PROFILE_CALIBRATION, 0, 0, 0, &e));
    FAILS(profile_recorder_add(r, 1, 0, 1, x->h[1][0], &e), ERR_NUMERIC, "layer 1: neuron 3 is nan");
    FAILS(profile_recorder_grid(r, 0, (float[]){2, 1}, 2, &e), ERR_ARG, "ascending");
    profile_recorder_destroy(&r);
    profile_recorder_destroy(&r);
    s.subject.neurons = 65537;
    FAILS(profile_recorder_create(&r, &s, &e), ERR_ARG, "65537 neurons");
    free(x);
}

/* A 13B model's worst case stays below 100 MiB: 40 layers of 13824 neurons, half of them active at every
 * traced token, so that each is a bitmap. */
static void a_13b_profile_is_bounded(void **state)
{
    (void)state;
    enum { BIG = 13824, LAYERS = 40, WIDTH = 5120, CURVE = 101 };
    struct err e;
    struct profile_recorder *r;
    struct profile *p, *q;
    struct stat st;
    uint32_t *list = malloc(BIG * sizeof *list);
    struct profile_settings s = {.subject = subject};
    s.subject.layers = LAYERS;
    s.subject.neurons = BIG;
    s.subject.width = WIDTH;
    assert_non_null(list);
    for (uint32_t i = 0; i < BIG / 2; i++) list[i] = 2 * i;
    OK(profile_recorder_create(&r, &s, &e));
    uint32_t room = (uint32_t)profile_recorder_trace_room(r);
    profile_recorder_destroy(&r);
    assert_true(room >= 2 * PROFILE_RUN);
    /* What finishing computes does not change the size, and comparing all pairs of neurons would take
     * minutes. */
    OK(profile_create(&p, &s.subject, &e));
    p->runs = calloc(PROFILE_TEXTS, sizeof *p->runs);
    assert_non_null(p->runs);
    p->n_runs = PROFILE_TEXTS;
    for (uint32_t k = 0; k < PROFILE_TEXTS; k++) {
        p->tokens[k] = 100000;
        p->runs[k] = (struct profile_run){(enum profile_text)k, 0, room};
    }
    for (uint32_t i = 0; i < LAYERS; i++) {
        struct profile_layer *l = &p->layers[i];
        OK(profile_layer_create(p, i, &e));
        l->run_at = calloc(PROFILE_TEXTS + 1, sizeof *l->run_at);
        l->curve = calloc(CURVE, sizeof *l->curve);
        assert_true(l->run_at && l->curve);
        l->n_curve = CURVE;
        for (uint32_t k = 0; k < PROFILE_TEXTS; k++) {
            for (uint32_t t = 0; t < room; t++) OK(profile_trace_add(&l->trace, list, BIG / 2, BIG, &e));
            l->run_at[k + 1] = l->trace.n;
        }
    }
    OK(profile_write(p, in_dir("big"), &e));
    assert_int_equal(stat(in_dir("big"), &st), 0);
    print_message("# a 13B profile: %.1f MiB, %u traced tokens a text\n", (double)st.st_size / 1048576.0,
                  room);
    assert_true(st.st_size < 100 << 20 && st.st_size > 40 << 20);
    OK(profile_open(&q, in_dir("big"), &e));
    assert_int_equal(profile_run(q, 1)->tokens, room);
    profile_close(&p);
    profile_close(&q);
    free(list);
}

/* Each seed of the fuzz target says in its name what is wrong; here is what must be said about it. */
static void damaged_files_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int code;
        const char *says;
    } seeds[] = {
        {"all", 0, ""},
        {"no-runs", 0, ""},
        {"no-held-out", 0, ""},
        {"version", ERR_UNSUPPORTED, "version 2: expected 1"},
        {"other-kind", ERR_FORMAT, "is no profile"},
        {"many-layers", ERR_FORMAT, "says 4096 layers, and has"},
        {"many-neurons", ERR_FORMAT, "'blk.0.count' is I32 with 11 × 1 values: expected I32 with 65536 × 1"},
        {"missing", ERR_FORMAT, "needs blk.1.p99, which is not there"},
        {"count-too-high", ERR_FORMAT, "'blk.0.count', value 0: expected at most as many"},
        {"count-negative", ERR_FORMAT, "'blk.0.count', value 0: expected at most as many"},
        {"partner-too-high", ERR_FORMAT, "'blk.0.partner', value 0"},
        {"share-too-high", ERR_FORMAT, "'blk.0.partner_share', value 0"},
        {"mean-nan", ERR_FORMAT, "'blk.0.mean', value 0: expected a number from 0"},
        {"epsilon-negative", ERR_FORMAT, "epsilon"},
        {"run-too-long", ERR_FORMAT, "run.tokens', value 0: expected runs within the text"},
        {"run-text", ERR_FORMAT, "run.text', value 0: expected 0 or 1"},
        {"trace-short", ERR_FORMAT, "'blk.0.trace', value 8: expected a run's tokens"},
        {"trace-long", ERR_FORMAT, "'blk.0.trace', value 10: expected the end of the last run"},
        {"trace-past-f", ERR_FORMAT, "'blk.0.trace', value 8: expected a run's tokens"},
        {"trace-bitmap-past-f", ERR_FORMAT, "'blk.0.trace', value 0: expected a run's tokens"},
        {"trace-bitmap-count", ERR_FORMAT, "'blk.0.trace', value 0: expected a run's tokens"},
        {"name-no-utf8", 0, ""},
        {"ppl", 0, ""},
        {"ppl-missing", ERR_FORMAT, "needs calor.profile.ppl.dense"},
        {"ppl-nan", ERR_FORMAT, "ppl.perplexity', value 0: expected a number above 0"},
        {"ppl-sparsity-too-high", ERR_FORMAT, "ppl.sparsity', value 0: expected a number from 0 to 1"},
        {"ppl-tokens", ERR_FORMAT, "ppl.tokens', value 0: expected at most 2147483647"},
        {"ppl-steps-descend", ERR_FORMAT, "'ppl', value 1: expected ascending CETT"},
        {"ppl-steps-infinite", ERR_FORMAT, "'ppl', value 0: expected ascending CETT"},
        {"fatrelu-zero", ERR_FORMAT, "'fatrelu', value 0: expected ascending thresholds"},
        {"trace-long-number", ERR_FORMAT, "'blk.0.trace', value 0: expected a run's tokens"},
    };
    for (size_t i = 0; i < sizeof seeds / sizeof *seeds; i++) {
        char path[128];
        struct err e = {0};
        struct profile *p;
        snprintf(path, sizeof path, "tests/fuzz/corpus/profile/%s", seeds[i].name);
        int rc = profile_open(&p, path, &e);
        if (rc != seeds[i].code || !strstr(e.msg, seeds[i].says))
            fail_msg("%s: %d %s", seeds[i].name, rc, e.msg);
        if (i == 0) { /* written by another writer of the format */
            uint32_t list[11], n;
            struct profile_walk w;
            assert_int_equal(profile_order(p, 1)[0], 0);
            assert_int_equal(profile_order(p, 1)[1], 5);
            assert_float_equal(profile_curve(p, 0, &n)[1].cett, 0.05, 1e-6);
            profile_walk_init(&w, p, 1, 1);
            assert_int_equal(profile_walk_next(&w, list), 1);
            assert_int_equal(list[0], 5);
            assert_float_equal(profile_fatrelu(p, &n)[1].perplexity, 5.1, 1e-6);
        }
        if (rc == 0 && strcmp(seeds[i].name, "name-no-utf8") == 0) {
            json_t *j = profile_report_json(p);
            assert_string_equal(json_string_value(json_object_get(j, "model")), "s?d????\xc3\xa4");
            json_decref(j);
        }
        profile_close(&p);
    }
    struct err e;
    struct profile *p;
    write_file(in_dir("x"), "hello", 5);
    FAILS(profile_open(&p, in_dir("x"), &e), ERR_FORMAT, "x'");
    FAILS(profile_open(&p, in_dir("none"), &e), ERR_IO, "No such file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_take_the_shorter_form),
        cmocka_unit_test(misuse_is_refused),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(a_13b_profile_is_bounded),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
