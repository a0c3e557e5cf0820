/* placement/simulate: tokens replayed one by one agree with what is expected of many, with sums made by hand,
 * and with a cache that is simulated here in the dullest way. */
#include "tests/unit/temp_dir.h"

#include "base/rng.h"
#include "placement/profile.h"
#include "placement/simulate.h"
#include "tests/unit/plan_machines.h"

#include <math.h>

enum { TOKENS = 256, RUN = 128 };

static struct plan_model *model_of(const struct plan_shape *shape, const struct profile *profile,
                                   enum plan_mode mode)
{
    struct err e;
    struct plan_model *m;
    struct plan_model_settings s = plan_model_default();
    s.mode = mode;
    s.sparsity = 0.9;
    OK(plan_model_from_shape(&m, shape, profile, &s, &e));
    return m;
}

static struct plan *plan_of(const struct plan_model *m, const struct machine *machine, uint64_t ram)
{
    struct err e;
    struct plan *p;
    struct plan_settings s = plan_default(m, machine);
    s.memory.context = 512;
    s.memory.reading = 65536; /* models here are smaller than the usual buffers */
    if (ram) s.memory.ram = ram;
    OK(plan_solve(&p, m, machine, &s, &e));
    return p;
}

/* Each token's time is linear in its neurons on one side without a disk, so that the mean is the expected
 * one, within what chance leaves of 256 tokens. */
static void drawn_tokens_mean_what_is_expected(void **state)
{
    (void)state;
    struct err e;
    struct plan_shape shape = small_shape(DT_Q8_0);
    for (int mode = PLAN_DENSE; mode <= PLAN_SURE; mode++) {
        struct plan_model *m = model_of(&shape, NULL, (enum plan_mode)mode);
        struct machine machine = desktop(32 * GB, 0, false);
        struct plan *p = plan_of(m, &machine, 0);
        struct simulate_settings s = simulate_default();
        struct simulation *a, *b;
        s.tokens = TOKENS;
        OK(simulate(&a, p, m, &machine, NULL, &s, &e));
        assert_true(a->drawn && a->tokens == TOKENS && isnan(a->hits));
        if (fabs(a->mean / p->time.token - 1) > 0.01)
            fail_msg("mean %g, expected %g", a->mean, p->time.token);
        assert_true(a->p50 <= a->p90 && a->p90 <= a->p99 && a->p99 <= a->most);
        assert_true(mode == PLAN_DENSE ? a->most / a->p50 < 1 + 1e-9 : a->most / a->p50 > 1 + 1e-4);
        double by = 0, bytes = 0, mean = 0, layers = 0;
        for (int i = 0; i < COST_LIMITS; i++) by += a->by[i];
        for (uint32_t i = 0; i < a->layers; i++) layers += a->layer[i].mean.total;
        for (uint32_t i = 0; i < a->tokens; i++) mean += a->token[i] / a->tokens;
        assert_true(fabs(by / a->mean - 1) < 1e-9 && fabs(mean / a->mean - 1) < 1e-9);
        assert_true(fabs(layers / a->mean - 1) < 1e-9);
        for (int i = 0; i < PLAN_TIERS; i++) bytes += a->bytes[i];
        assert_true(a->bytes[PLAN_RAM] == bytes && bytes > 0);
        OK(simulate(&b, p, m, &machine, NULL, &s, &e));
        assert_memory_equal(a->token, b->token, a->tokens * sizeof *a->token);
        simulation_free(&b);
        s.seed = 2;
        OK(simulate(&b, p, m, &machine, NULL, &s, &e));
        if (mode != PLAN_DENSE) assert_memory_not_equal(a->token, b->token, a->tokens * sizeof *a->token);
        simulation_free(&a);
        simulation_free(&b);
        plan_destroy(&p);
        plan_model_destroy(&m);
    }
}

/* Active neurons of token t: a few that come often, and a window that wanders, so that a cache has something
 * to do. */
static bool fires(uint32_t layer, uint32_t t, uint32_t i, uint32_t f)
{
    struct rng r;
    rng_init(&r, ((uint64_t)layer << 40) ^ ((uint64_t)(t / 4) << 20) ^ i);
    return rng_f64(&r) < 0.4 / (1.0 + 40.0 * ((i * 7919u) % f) / f);
}

static struct profile *record(uint32_t layers, uint32_t f, uint32_t d)
{
    struct err e;
    struct profile_recorder *r;
    struct profile *p;
    struct profile_settings s = {
        .subject = {
            .model = "m", .activation = "relu", .zeros = true, .layers = layers, .neurons = f, .width = d}};
    float *h = calloc(f, sizeof *h), *norms = calloc(f, sizeof *norms);
    for (uint32_t i = 0; i < f; i++) norms[i] = 1;
    OK(profile_recorder_create(&r, &s, &e));
    for (uint32_t l = 0; l < layers; l++) OK(profile_recorder_layer(r, l, norms, 0, &e));
    for (uint32_t run = 0; run < TOKENS / RUN; run++) {
        OK(profile_recorder_begin(r, PROFILE_CALIBRATION, run * RUN, 0, RUN, &e));
        for (uint32_t l = 0; l < layers; l++)
            for (uint32_t t = 0; t < RUN; t++) {
                for (uint32_t i = 0; i < f; i++) h[i] = fires(l, run * RUN + t, i, f) ? 1 : 0;
                OK(profile_recorder_add(r, l, t, 1, h, &e));
            }
    }
    OK(profile_recorder_finish(&p, r, &e));
    profile_recorder_destroy(&r);
    free(h);
    free(norms);
    return p;
}

/* What the disk is asked for, and what of it a cache of `room` neurons has: a list of when each was read
 * last. */
static void dull_cache(const struct plan *p, const struct plan_model *m, uint32_t layer, uint32_t room,
                       uint32_t warm, double *asked, double *had)
{
    uint32_t gpu, ram, f = m->neurons, held = 0;
    uint64_t *last = calloc(f, sizeof *last), now = 1;
    plan_range(p, layer, PLAN_UPDOWN, &gpu, &ram);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t i = 0; i < f; i++) { /* as the profile lists them: by number */
            uint32_t k = 0;
            if (!fires(layer, t, i, f)) continue;
            while (m->layer[layer].order[k] != i) k++;
            if (k < ram) continue;
            *asked += t >= warm;
            *had += t >= warm && last[i] > 0;
            if (last[i] == 0 && held == room) {
                uint32_t oldest = f;
                for (uint32_t j = 0; j < f; j++)
                    if (last[j] && (oldest == f || last[j] < last[oldest])) oldest = j;
                if (oldest < f) last[oldest] = 0;
            } else if (last[i] == 0)
                held++;
            if (room) last[i] = now++;
        }
    free(last);
}

static void disk_and_cache(void **state)
{
    (void)state;
    struct err e;
    struct plan_shape shape = {"small", 512, 768, 3, 8, 8, 2000, 512, true, false, DT_F16, DT_F16};
    struct profile *profile = record(3, 768, 512);
    struct plan_model *m = model_of(&shape, profile, PLAN_EXACT);
    struct machine machine = desktop(32 * GB, 0, true);
    struct plan *full = plan_of(m, &machine, 0);
    uint64_t fixed = full->ledger.ram - ledger_ram_left(&full->ledger, false, true);
    struct plan *p = plan_of(m, &machine, fixed + full->used[PLAN_RAM] * 55 / 100);
    assert_true(p->used[PLAN_DISK] > 0);
    double disk_bytes = 0, last = INFINITY, time = INFINITY;
    struct cost c;
    struct cost_settings cs = plan_cost_settings(p);
    OK(cost_make(&c, m, &machine, &cs, &e));
    for (uint32_t i = 0; i < m->layers; i++)
        disk_bytes += (double)cost_bytes(&c.layer[i], &p->place[i], PLAN_DISK);
    for (int step = 0; step < 4; step++) {
        struct simulate_settings s = simulate_default();
        struct simulation *sim;
        s.cache = (uint64_t)(disk_bytes * step / 3);
        OK(simulate(&sim, p, m, &machine, profile, &s, &e));
        uint32_t warm = s.cache ? TOKENS / 4 : 0;
        assert_true(!sim->drawn && !sim->held_out && sim->tokens == TOKENS - warm);
        double asked = 0, had = 0;
        for (uint32_t i = 0; i < m->layers; i++) {
            double own = (double)cost_bytes(&c.layer[i], &p->place[i], PLAN_DISK);
            double room = (double)s.cache * own / disk_bytes / (double)m->layer[i].row[PLAN_UPDOWN];
            dull_cache(p, m, i, (uint32_t)room, warm, &asked, &had);
        }
        assert_true(asked > 0);
        if (fabs(sim->hits - had / asked) > 1e-12)
            fail_msg("step %d: hits %g, dull %g", step, sim->hits, had / asked);
        double bytes = (asked - had) / sim->tokens * (double)m->layer[0].row[PLAN_UPDOWN];
        for (uint32_t i = 0; i < m->layers + 2; i++)
            if (p->place[i].attention == PLAN_DISK)
                bytes += (double)c.layer[i].attention_bytes / (i == m->layers + 1 ? m->vocab : 1);
        for (uint32_t i = 0; i < m->layers; i++) { /* gates are read whole */
            uint32_t gpu, ram;
            plan_range(p, i, PLAN_GATE, &gpu, &ram);
            bytes += (double)(m->neurons - ram) * (double)m->layer[i].row[PLAN_GATE];
        }
        if (fabs(sim->bytes[PLAN_DISK] / bytes - 1) > 1e-9)
            fail_msg("%g bytes, by hand %g", sim->bytes[PLAN_DISK], bytes);
        /* A larger cache has no more misses, and no longer tokens (but for the first quarter not being
         * counted). */
        assert_true(sim->bytes[PLAN_DISK] <= last * 1.02 && sim->mean <= time * 1.02);
        last = sim->bytes[PLAN_DISK];
        time = sim->mean;
        simulation_free(&sim);
    }
    cost_finish(&c);
    plan_destroy(&p);
    plan_destroy(&full);
    plan_model_destroy(&m);
    profile_close(&profile);
}

static void what_does_not_belong_together(void **state)
{
    (void)state;
    struct err e;
    struct plan_shape shape = small_shape(DT_Q8_0),
                      other = {"other", 512, 768, 3, 8, 8, 2000, 512, true, false, DT_F16, DT_F16};
    struct plan_model *m = model_of(&shape, NULL, PLAN_EXACT), *n = model_of(&other, NULL, PLAN_EXACT);
    struct machine machine = desktop(32 * GB, 0, false);
    struct plan *p = plan_of(m, &machine, 0);
    struct profile *profile = record(3, 768, 512);
    struct simulate_settings s = simulate_default();
    struct simulation *sim;
    assert_int_equal(simulate(&sim, p, n, &machine, NULL, &s, &e), ERR_ARG);
    assert_null(sim);
    assert_int_equal(simulate(&sim, p, m, &machine, profile, &s, &e), ERR_ARG);
    machine.stream.n = 0;
    assert_int_equal(simulate(&sim, p, m, &machine, NULL, &s, &e), ERR_UNSUPPORTED);
    profile_close(&profile);
    plan_destroy(&p);
    plan_model_destroy(&m);
    plan_model_destroy(&n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(drawn_tokens_mean_what_is_expected),
        cmocka_unit_test(disk_and_cache),
        cmocka_unit_test(what_does_not_belong_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
