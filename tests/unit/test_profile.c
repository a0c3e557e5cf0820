/* placement/profile: a recorder against plain counting over all tokens at once; files; merging. */
#include "tests/unit/profile_data.h"

static void counts_are_right(const struct profile *p, const struct data *x)
{
    double all = 0.0;
    assert_int_equal(profile_tokens(p, PROFILE_CALIBRATION), PIECE * (PIECES - HELD));
    assert_int_equal(profile_tokens(p, PROFILE_HELD_OUT), PIECE * HELD);
    for (int l = 0; l < L; l++) {
        float often[F];
        profile_frequency(p, (uint32_t)l, PROFILE_HELD_OUT, often);
        uint64_t sum = 0;
        for (int i = 0; i < F; i++) {
            uint32_t n[2] = {0};
            double m[T], mean = 0.0;
            for (int t = 0; t < T; t++) {
                enum profile_text text = text_of(t / PIECE);
                if (!is_on(x, l, t, i)) continue;
                if (text == PROFILE_CALIBRATION) m[n[0]] = (double)(fabsf(x->h[l][t][i]) * x->norms[l][i]);
                mean += text == PROFILE_CALIBRATION ? m[n[0]] : 0.0;
                n[text]++;
            }
            assert_int_equal(profile_counts(p, (uint32_t)l, PROFILE_CALIBRATION)[i], n[0]);
            assert_int_equal(profile_counts(p, (uint32_t)l, PROFILE_HELD_OUT)[i], n[1]);
            assert_float_equal(often[i], (double)n[1] / (PIECE * HELD), 1e-6);
            sum += n[0];
            double got = (double)profile_mean_magnitude(p, (uint32_t)l)[i],
                   p99 = (double)profile_p99_magnitude(p, (uint32_t)l)[i];
            if (n[0] == 0) {
                assert_true(got == 0.0 && p99 == 0.0);
                continue;
            }
            mean /= n[0];
            assert_true(fabs(got - mean) <= 1e-5 * mean);
            /* half an octave: at most a factor √2 above or below the ⌈0.99 n⌉-th smallest */
            for (uint32_t a = 1; a < n[0]; a++)
                for (uint32_t b = a; b > 0 && m[b] < m[b - 1]; b--) {
                    double swap = m[b];
                    m[b] = m[b - 1];
                    m[b - 1] = swap;
                }
            double want = m[(uint32_t)ceil(0.99 * n[0]) - 1];
            assert_true(p99 <= want * 1.4143 && p99 >= want / 1.4143);
        }
        double sparsity = 1.0 - (double)sum / ((double)F * PIECE * (PIECES - HELD));
        all += sparsity / L;
        assert_float_equal(profile_sparsity(p, (uint32_t)l, PROFILE_CALIBRATION), sparsity, 1e-12);
        assert_float_equal(profile_epsilon(p, (uint32_t)l), x->epsilon[l], 0);
    }
    assert_float_equal(profile_sparsity_all(p, PROFILE_CALIBRATION), all, 1e-12);
}

static void order_and_coverage_are_right(const struct profile *p)
{
    for (uint32_t l = 0; l < L; l++) {
        const uint32_t *order = profile_order(p, l), *c = profile_counts(p, l, PROFILE_CALIBRATION),
                       *held = profile_counts(p, l, PROFILE_HELD_OUT);
        const float *mean = profile_mean_magnitude(p, l);
        bool seen[F] = {false};
        uint64_t sum = 0, top = 0;
        for (int k = 0; k < F; k++) {
            assert_false(seen[order[k]]);
            seen[order[k]] = true;
            if (k) assert_true(c[order[k]] <= c[order[k - 1]]);
            if (k && c[order[k]] == c[order[k - 1]]) assert_true(mean[order[k]] <= mean[order[k - 1]]);
            sum += held[k];
            if (k < 20) top += held[order[k]]; /* 0.26 · 77 = 20.02 */
        }
        assert_float_equal(profile_coverage(p, l, PROFILE_HELD_OUT, 0.26), (double)top / (double)sum, 1e-12);
    }
    /* The whole model, the slow way: the next hottest of all layers, one after the other. */
    double curve[11], last = -1.0;
    struct err e;
    for (int text = 0; text < 2; text++) {
        uint64_t want[11] = {0}, done = 0, sum = 0;
        bool used[L][F] = {{false}};
        OK(profile_coverage_curve(p, (enum profile_text)text, 10, curve, &e));
        for (int point = 0; point <= 10; point++) {
            while (done < (uint64_t)(L * F * point / 10.0 + 0.5)) {
                int bl = -1, bi = -1;
                for (int l = 0; l < L; l++)
                    for (int k = 0; k < F; k++) {
                        int i = (int)profile_order(p, (uint32_t)l)[k];
                        if (used[l][i]) continue;
                        if (bl < 0 ||
                            profile_counts(p, (uint32_t)l, 0)[i] > profile_counts(p, (uint32_t)bl, 0)[bi]) {
                            bl = l;
                            bi = i;
                        }
                        break;
                    }
                used[bl][bi] = true;
                sum += profile_counts(p, (uint32_t)bl, (enum profile_text)text)[bi];
                done++;
            }
            want[point] = sum;
        }
        for (int point = 0; point <= 10; point++)
            assert_float_equal(curve[point], (double)want[point] / (double)sum, 1e-12);
        last = curve[10];
        assert_float_equal(profile_coverage_all(p, (enum profile_text)text, 0.2), curve[2], 1e-12);
    }
    assert_float_equal(last, 1.0, 0);
}

/* Runs as recorded, then reuse, gap and partners over them, by sets. */
static void traces_are_right(const struct profile *p, const struct data *x)
{
    uint32_t list[F];
    assert_int_equal(profile_runs(p), PIECES);
    for (uint32_t l = 0; l < L; l++) {
        double reuse[PROFILE_REUSES] = {0}, gap = 0.0, mean = 0.0;
        int reuses[PROFILE_REUSES] = {0}, alive = 0, tokens = 0;
        for (uint32_t run = 0; run < PIECES; run++) {
            struct profile_walk w;
            const struct profile_run *info = profile_run(p, run);
            assert_int_equal(info->text, text_of((int)run));
            assert_int_equal(info->start, run * PIECE + 10);
            assert_int_equal(info->tokens, PIECE - 10);
            profile_walk_init(&w, p, l, run);
            for (int t = (int)info->start; t < (int)(run + 1) * PIECE; t++) {
                int64_t n = profile_walk_next(&w, list), k = 0;
                for (int i = 0; i < F; i++)
                    if (is_on(x, (int)l, t, i)) assert_int_equal(list[k++], i);
                assert_int_equal(n, k);
                for (int j = 0; j < PROFILE_REUSES && info->text == PROFILE_CALIBRATION; j++) {
                    int again = 0, back = profile_reuse_k[j];
                    if (t - back < (int)info->start || n == 0) continue;
                    for (int64_t i = 0; i < n; i++) {
                        bool before = false;
                        for (int b = 1; b <= back; b++) before |= is_on(x, (int)l, t - b, (int)list[i]);
                        again += before;
                    }
                    reuse[j] += (double)again / (double)n;
                    reuses[j]++;
                }
                if (info->text == PROFILE_CALIBRATION) {
                    mean += (double)n / F;
                    tokens++;
                }
            }
            assert_int_equal(profile_walk_next(&w, list), -1);
        }
        mean /= tokens;
        for (int j = 0; j < PROFILE_REUSES; j++)
            assert_float_equal(profile_reuse(p, l, j), reuse[j] / reuses[j], 1e-6);
        for (int i = 0; i < F; i++) {
            double share[F] = {0};
            int own = 0;
            for (int t = 0; t < PIECE * (PIECES - HELD); t++) {
                if (t % PIECE < 10 || !is_on(x, (int)l, t, i)) continue;
                own++;
                for (int j = 0; j < F; j++) share[j] += j != i && is_on(x, (int)l, t, j);
            }
            uint32_t who[PROFILE_PARTNERS];
            float how[PROFILE_PARTNERS];
            int n = profile_partners(p, l, (uint32_t)i, who, how);
            if (own == 0) {
                assert_int_equal(n, 0);
                continue;
            }
            alive++;
            double top = 0.0;
            for (int k = 0; k < PROFILE_GAP_TOP; k++) {
                int best = 0;
                for (int j = 1; j < F; j++)
                    if (share[j] > share[best]) best = j;
                if (k < n) {
                    assert_int_equal(who[k], best);
                    assert_float_equal(how[k], share[best] / own, 1e-3);
                }
                top += share[best] / own / PROFILE_GAP_TOP;
                share[best] = -1.0;
            }
            gap += top - mean;
        }
        assert_float_equal(profile_gap(p, l), gap / alive, 1e-6);
    }
}

static void everything_is_counted(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct data *x = make(7 + (uint64_t)k, k ? 1.5f : 0.0f);
        struct profile *p = profile_of(x, 0, PIECES);
        counts_are_right(p, x);
        order_and_coverage_are_right(p);
        traces_are_right(p, x);
        profile_close(&p);
        free(x);
    }
}

/* Steps of half an octave: all of one neuron's magnitudes lie in one, and so must its percentile. */
static void percentiles_stay_in_their_step(void **state)
{
    (void)state;
    static const float values[] = {1e-9f, 1.001f, 1.413f, 1.415f, 1.999f, 2.001f, 0.7072f, 0.7070f, 1e6f};
    enum { N = sizeof values / sizeof *values };
    struct err e;
    struct profile_recorder *r;
    struct profile *p;
    struct profile_settings s = {.subject = subject};
    float h[N], norms[N];
    s.subject.layers = 1;
    s.subject.neurons = N;
    for (int i = 0; i < N; i++) {
        norms[i] = 0.5f;
        h[i] = i % 2 ? -2.0f * values[i] : 2.0f * values[i];
    }
    OK(profile_recorder_create(&r, &s, &e));
    OK(profile_recorder_layer(r, 0, norms, 0, &e));
    OK(profile_recorder_begin(r, PROFILE_CALIBRATION, 0, 0, 0, &e));
    for (uint32_t t = 0; t < 300; t++) OK(profile_recorder_add(r, 0, t, 1, h, &e));
    OK(profile_recorder_finish(&p, r, &e));
    profile_recorder_destroy(&r);
    for (int i = 1; i < N - 1; i++) {
        double low = exp2(floor(2.0 * log2((double)values[i])) / 2.0);
        double got = (double)profile_p99_magnitude(p, 0)[i];
        assert_true(got >= low * 0.999 && got <= low * 1.4143);
    }
    /* What lies outside of the histogram is counted at its ends: 2^-24 and 2^8. */
    assert_float_equal(profile_p99_magnitude(p, 0)[0], exp2(-24 + 0.495), 1e-10);
    assert_float_equal(profile_p99_magnitude(p, 0)[N - 1], exp2(7.5 + 0.495), 1e-3);
    assert_int_equal(profile_runs(p), 0);
    assert_true(isnan(profile_gap(p, 0)) && isnan(profile_reuse(p, 0, 0)));
    profile_close(&p);
}

/* Mean over tokens of ‖Σ outputs below epsilon‖/‖Σ outputs‖, straight from the definition. */
static double cett_of(const struct data *x, int l, int tokens, double epsilon, double *left_out)
{
    double sum = 0.0;
    *left_out = 0.0;
    for (int t = 0; t < tokens; t++) {
        double tail = 0.0, whole = 0.0;
        for (int c = 0; c < D; c++) {
            double a = 0.0, b = 0.0;
            for (int i = 0; i < F; i++) {
                double v = (double)x->h[l][t][i] * (double)x->down[l][i][c];
                b += v;
                if ((double)(fabsf(x->h[l][t][i]) * x->norms[l][i]) < epsilon) a += v;
            }
            tail += a * a;
            whole += b * b;
        }
        for (int i = 0; i < F; i++)
            *left_out += (double)(fabsf(x->h[l][t][i]) * x->norms[l][i]) < epsilon ? 1.0 / F / tokens : 0.0;
        sum += sqrt(tail / whole);
    }
    return sum / tokens;
}

static void cett_follows_its_definition(void **state)
{
    (void)state;
    enum { N = 40, SAMPLES = 50 };
    struct err e;
    struct data *x = make(3, 0.0f);
    struct profile_recorder *r;
    struct profile *p;
    float grid[N];
    for (int k = 0; k < N; k++) grid[k] = 0.4f * (float)k;
    assert_int_equal(profile_bucket(grid, N, 0.0f), 1);
    assert_int_equal(profile_bucket(grid, N, 0.39f), 1);
    assert_int_equal(profile_bucket(grid, N, 0.4f), 2);
    assert_int_equal(profile_bucket(grid, N, 1e9f), N);
    OK(profile_recorder_create(&r, &(struct profile_settings){.subject = subject}, &e));
    record(r, x, 0, PIECES);
    float sums[N + 1][D];
    FAILS(profile_recorder_sample(r, 0, sums[0], NULL, &e), ERR_STATE, "no grid");
    for (uint32_t l = 0; l < L - 1; l++) {
        OK(profile_recorder_grid(r, l, grid, N, &e));
        for (int t = 0; t < SAMPLES; t++) {
            uint32_t counts[N + 1] = {0};
            memset(sums, 0, sizeof sums);
            for (int i = 0; i < F; i++) {
                uint32_t b = profile_bucket(grid, N, fabsf(x->h[l][t][i]) * x->norms[l][i]);
                counts[b]++;
                for (int c = 0; c < D; c++) sums[b][c] += x->h[l][t][i] * x->down[l][i][c];
            }
            OK(profile_recorder_sample(r, l, sums[0], counts, &e));
        }
    }
    OK(profile_recorder_fatrelu(r, &(struct profile_fatrelu_point){0.01f, 0.9f, 5.0f}, &e));
    profile_recorder_cett(r, 0.2f);
    OK(profile_recorder_finish(&p, r, &e));
    profile_recorder_destroy(&r);
    OK(profile_write(p, in_dir("curves"), &e));
    profile_close(&p);
    OK(profile_open(&p, in_dir("curves"), &e));
    assert_float_equal(profile_cett_target(p), 0.2f, 0);
    for (uint32_t l = 0; l < L - 1; l++) {
        uint32_t n;
        const struct profile_curve_point *curve = profile_curve(p, l, &n);
        assert_int_equal(n, N);
        for (int k = 0; k < N; k++) {
            double left, want = cett_of(x, (int)l, SAMPLES, (double)grid[k], &left);
            assert_float_equal(curve[k].epsilon, grid[k], 0);
            assert_float_equal(curve[k].cett, want, 1e-5);
            assert_float_equal(curve[k].sparsity, left, 1e-5);
        }
        float epsilon;
        double left;
        OK(profile_epsilon_for(p, l, 0.2, &epsilon, &e));
        assert_float_equal(cett_of(x, (int)l, SAMPLES, (double)epsilon, &left), 0.2, 0.05);
        OK(profile_epsilon_for(p, l, 9.0, &epsilon, &e));
        assert_float_equal(epsilon, grid[N - 1], 0);
        FAILS(profile_epsilon_for(p, l, (double)NAN, &epsilon, &e), ERR_ARG, "CETT");
    }
    float epsilon;
    uint32_t n;
    FAILS(profile_epsilon_for(p, L - 1, 0.2, &epsilon, &e), ERR_STATE, "no CETT curve for layer 2");
    assert_float_equal(profile_fatrelu(p, &n)->perplexity, 5.0f, 0);
    assert_int_equal(n, 1);
    profile_close(&p);
    free(x);
}

static char *report_of(const struct profile *p)
{
    json_t *j = profile_report_json(p);
    assert_non_null(j);
    char *s = json_dumps(j, JSON_SORT_KEYS | JSON_REAL_PRECISION(9));
    json_decref(j);
    assert_non_null(s);
    return s;
}

static void files_keep_everything(void **state)
{
    (void)state;
    struct err e;
    struct data *x = make(11, 0.0f);
    struct profile *p = profile_of(x, 0, PIECES), *q;
    OK(profile_write(p, in_dir("a.profile"), &e));
    OK(profile_open(&q, in_dir("a.profile"), &e));
    char *a = report_of(p), *b = report_of(q);
    assert_string_equal(a, b);
    counts_are_right(q, x);
    order_and_coverage_are_right(q);
    traces_are_right(q, x);
    assert_string_equal(profile_subject(q)->model, "tiny");
    assert_true(isnan(profile_cett_target(q)));
    OK(profile_check_model(q, subject.identity, "tiny", &e));
    FAILS(profile_check_model(q, (const uint8_t[16]){9}, "other", &e), ERR_STALE, "'other' (0900");
    assert_non_null(strstr(e.msg, "of 'tiny' (0102"));
    struct strbuf page;
    strbuf_init(&page);
    OK(profile_report_html(q, &page, &e));
    assert_null(strstr(page.s, "http"));
    assert_null(strstr(page.s, "nan"));
    strbuf_clear(&page);
    profile_report_text(q, &page);
    assert_non_null(strstr(page.s, "tiny: 3 layers of 77 neurons, relu; 450 tokens, 150 held out"));
    strbuf_finish(&page);
    free(a);
    free(b);
    profile_close(&p);
    profile_close(&q);
    profile_close(&q);
    free(x);
}

/* Searches by perplexity are written, read, and kept when a text is added. */
static void searches_are_kept(void **state)
{
    (void)state;
    struct err e;
    struct data *x = make(11, 0.0f);
    struct profile *p = profile_of(x, 0, PIECES), *q, *both;
    struct profile_recorder *r;
    const struct profile_ppl found = {1.0f, 0.25f, 0.75f, 5.05f, 5.0f, 1234};
    const struct profile_ppl_point steps[] = {
        {0.0f, 0.5f, 5.0f}, {0.25f, 0.75f, 5.05f}, {0.5f, 0.875f, 6.0f}};
    const struct profile_fatrelu_point tried[] = {{0.0f, 0.5f, 5.0f},
                                                  {0.5f, 0.75f, 5.04f},
                                                  {1.0f, 0.875f, 5.5f}},
                                       *own;
    uint32_t n;
    assert_null(profile_ppl(p));
    assert_null(profile_fatrelu_best(p, 1.0, &own));
    OK(profile_recorder_create(&r, &(struct profile_settings){.subject = subject}, &e));
    FAILS(profile_recorder_ppl(r, &found, steps, 0, &e), ERR_ARG, "0 steps");
    FAILS(profile_recorder_ppl(r, &found, steps, 257, &e), ERR_ARG, "257 steps");
    OK(profile_recorder_ppl(r, &found, steps, 1, &e));
    OK(profile_recorder_ppl(r, &found, steps, 3, &e));
    for (int i = 0; i < 3; i++) OK(profile_recorder_fatrelu(r, &tried[i], &e));
    record(r, x, 0, 2);
    OK(profile_recorder_finish(&q, r, &e));
    profile_recorder_destroy(&r);
    OK(profile_write(q, in_dir("a.profile"), &e));
    profile_close(&q);
    OK(profile_open(&q, in_dir("a.profile"), &e));
    for (int i = 0; i < 3; i++) {
        OK(i == 0   ? profile_merge(&both, q, q, &e)
           : i == 1 ? profile_merge(&both, p, q, &e)
                    : profile_merge(&both, q, p, &e));
        const struct profile_ppl *got = profile_ppl(both);
        assert_true(got->target == found.target && got->cett == found.cett &&
                    got->sparsity == found.sparsity && got->perplexity == found.perplexity &&
                    got->dense == found.dense && got->tokens == found.tokens);
        assert_memory_equal(profile_ppl_steps(both, &n), steps, sizeof steps);
        assert_int_equal(n, 3);
        assert_memory_equal(profile_fatrelu(both, &n), tried, sizeof tried);
        assert_int_equal(n, 3);
        assert_float_equal(profile_fatrelu_best(both, 1.0, &own)->threshold, 0.5, 0);
        assert_float_equal(own->threshold, 0.0, 0);
        profile_close(&both);
    }
    profile_close(&p);
    profile_close(&q);
    free(x);
}

static void merging_is_recording_at_once(void **state)
{
    (void)state;
    struct err e;
    struct data *x = make(5, 0.25f);
    struct profile *all = profile_of(x, 0, PIECES), *a = profile_of(x, 0, 2), *b = profile_of(x, 2, PIECES),
                   *p;
    OK(profile_merge(&p, a, b, &e));
    for (uint32_t l = 0; l < L; l++)
        for (int i = 0; i < F; i++) {
            float m = profile_mean_magnitude(all, l)[i];
            assert_float_equal(profile_mean_magnitude(p, l)[i], m, 1e-5f * m);
            assert_true(profile_p99_magnitude(p, l)[i] * 1.42f >= profile_p99_magnitude(all, l)[i]);
        }
    traces_are_right(p, x);
    /* But for the means' last bits: what they decide is the order of ties. */
    for (uint32_t l = 0; l < L; l++) memcpy(p->layers[l].mean, all->layers[l].mean, F * sizeof(float));
    OK(profile_derive(p, true, &e));
    char *s = report_of(p), *t = report_of(all);
    assert_string_equal(s, t);
    free(s);
    free(t);
    profile_close(&p);
    p = a;
    a->layers[1].epsilon += 0.125f;
    FAILS(profile_merge(&p, a, b, &e), ERR_STALE, "above 0.625 in layer 1, and above 0.5");
    a->subject.identity[15] = 1;
    FAILS(profile_merge(&p, a, b, &e), ERR_STALE, "'tiny' and 'tiny'");
    assert_null(p);
    profile_close(&a);
    profile_close(&b);
    profile_close(&all);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles_stay_in_their_step),
        cmocka_unit_test(everything_is_counted),
        cmocka_unit_test(cett_follows_its_definition),
        cmocka_unit_test(files_keep_everything),
        cmocka_unit_test(searches_are_kept),
        cmocka_unit_test(merging_is_recording_at_once),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
