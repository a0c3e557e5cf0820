/* placement/plan: what holds for every plan, whatever the figures. */
#include "tests/unit/temp_dir.h"

#include "base/rng.h"
#include "placement/plan_solver.h"
#include "tests/unit/plan_machines.h"

#include <math.h>

static struct plan_model *model(enum dtype type, enum plan_mode mode, double sparsity)
{
    struct err e;
    struct plan_model *m;
    struct plan_shape shape = small_shape(type);
    struct plan_model_settings s = plan_model_default();
    s.mode = mode;
    s.sparsity = sparsity;
    OK(plan_model_from_shape(&m, &shape, NULL, &s, &e));
    return m;
}

/* Layers that differ, as profiles have them: exponents drawn, neurons that never fire. */
static void make_uneven(struct plan_model *m, uint64_t seed)
{
    struct rng r;
    rng_init(&r, seed);
    for (uint32_t i = 0; i < m->layers; i++) {
        double a = 0.3 + 2 * rng_f64(&r), sum = 0;
        for (uint32_t k = 0; k < m->neurons; k++) {
            double f = fmin(1, 0.02 * pow((k + 1.0) / m->neurons, -a));
            m->layer[i].frequency[k] = k > m->neurons * 3 / 4 ? 0 : (float)f;
            sum += (double)m->layer[i].frequency[k];
        }
        m->layer[i].active = sum;
    }
}

static void consistent(const struct plan *p, const struct plan_model *m, const struct machine *machine)
{
    bool disk = p->used[PLAN_DISK] > 0;
    uint64_t ram = ledger_ram_left(&p->ledger, p->gpu, disk);
    assert_true(p->used[PLAN_GPU] <= ledger_vram_left(&p->ledger) && p->used[PLAN_RAM] <= ram);
    assert_true(p->bound <= p->time.token && p->bound > 0);
    assert_true(p->time.low <= p->time.token * (1 + 1e-9) && p->time.token <= p->time.high * (1 + 1e-9));
    assert_true(p->time.token_full >= p->time.token);
    for (int i = 0; i < PLAN_RULES; i++)
        if (!isnan(p->others[i])) assert_true(p->time.token <= p->others[i] * (1 + 1e-9));
    double by = 0, all = 0;
    for (int i = 0; i < COST_LIMITS; i++) by += p->time.by[i];
    assert_true(fabs(by - p->time.token) < 1e-6 * p->time.token);
    for (int t = 0; t < PLAN_TIERS; t++) all += plan_coverage(p, m, -1, (enum plan_tier)t, false);
    assert_true(fabs(all - 1) < 1e-9);
    for (uint32_t i = 0; i < p->layers + 2; i++)
        for (int k = 0; k < PLAN_PARTS; k++) assert_true(p->place[i].part[k].gpu <= p->place[i].part[k].ram);
    assert_true(machine_identity(machine) == p->machine);
}

static double solve(const struct plan_model *m, const struct machine *machine, const struct plan_settings *s)
{
    struct err e;
    struct plan *p;
    int r = plan_solve(&p, m, machine, s, &e);
    if (r == ERR_FULL) return INFINITY;
    if (r) fail_msg("%s", e.msg);
    consistent(p, m, machine);
    double t = p->time.token;
    plan_destroy(&p);
    return t;
}

/* More of either budget, with everything else the same, is never slower than the gap that a plan admits to:
 * the search is not exact, so a little may be lost. */
static void more_is_never_slower(void **state)
{
    (void)state;
    struct rng r;
    rng_init(&r, 7);
    for (int k = 0; k < 16; k++) {
        static const enum dtype types[] = {DT_F16, DT_Q4_0, DT_Q8_0};
        struct plan_model *m = model(types[k % 3],
                                     k % 5 == 0 ? PLAN_DENSE
                                     : k % 2    ? PLAN_EXACT
                                                : PLAN_SURE,
                                     0.5 + 0.45 * rng_f64(&r));
        if (k % 4) make_uneven(m, (uint64_t)k);
        struct machine machine = desktop(64 * GB, 16 * GB, k % 3 != 0);
        struct plan_settings s = plan_default(m, &machine);
        double all = (double)plan_model_bytes(m), last = INFINITY;
        s.memory.context = 1024;
        s.memory.ram = (uint64_t)(all * (0.3 + 0.9 * rng_f64(&r))) + (200u << 20);
        s.memory.vram = 0;
        for (int step = 0; step < 6; step++) {
            double t = solve(m, &machine, &s);
            if (t > last * (1 + 5e-3))
                fail_msg("case %d step %d: %.17g ms, with less it was %.17g", k, step, t * 1e3, last * 1e3);
            last = t;
            uint64_t more = (uint64_t)(all * 0.3 * rng_f64(&r));
            *(step % 2 ? &s.memory.ram : &s.memory.vram) += more + (step == 0 ? 600u << 20 : 0);
        }
        plan_model_destroy(&m);
    }
}

static void same_bytes_again(void **state)
{
    (void)state;
    struct err e;
    struct plan_model *m = model(DT_Q4_0, PLAN_EXACT, 0.9);
    make_uneven(m, 3);
    struct machine machine = desktop(GB / 2, GB, true);
    struct plan_settings s = plan_default(m, &machine);
    s.memory.context = 512;
    struct plan *a, *b;
    OK(plan_solve(&a, m, &machine, &s, &e));
    OK(plan_solve(&b, m, &machine, &s, &e));
    assert_memory_equal(a->place, b->place, (a->layers + 2) * sizeof *a->place);
    assert_true(a->time.token == b->time.token && a->bound == b->bound);
    plan_destroy(&a);
    plan_destroy(&b);
    plan_model_destroy(&m);
}

static void whole_in_vram(void **state)
{
    (void)state;
    struct err e;
    struct plan_model *m = model(DT_Q4_0, PLAN_EXACT, 0.9);
    struct machine machine = desktop(32 * GB, 24 * GB, true);
    struct plan_settings s = plan_default(m, &machine);
    struct plan *p;
    OK(plan_solve(&p, m, &machine, &s, &e));
    assert_true(p->gpu && !p->disk && !p->degraded);
    for (uint32_t i = 0; i < p->layers; i++) {
        uint32_t gpu, ram;
        plan_range(p, i, PLAN_UPDOWN, &gpu, &ram);
        assert_int_equal(gpu, m->neurons);
        assert_int_equal(p->place[i].attention, PLAN_GPU);
    }
    /* Nothing beats reading every byte at the card's rate. */
    double least = 0;
    for (uint32_t i = 0; i < m->layers; i++) least += (double)m->layer[i].attention / 400e9;
    assert_true(p->time.token > least);
    plan_destroy(&p);
    plan_model_destroy(&m);
}

/* Without a GPU and a disk the sum can be made by hand. */
static void cpu_by_hand(void **state)
{
    (void)state;
    struct err e;
    struct plan_model *m = model(DT_Q4_0, PLAN_EXACT, 0.9);
    struct machine machine = desktop(32 * GB, 0, false);
    struct plan_settings s = plan_default(m, &machine);
    s.memory.context = 1024;
    s.position = 100;
    struct plan *p;
    OK(plan_solve(&p, m, &machine, &s, &e));
    double stream = 1 / 40e9, sum = 0;
    for (uint32_t i = 0; i < m->layers; i++) {
        const struct plan_layer *l = &m->layer[i];
        double row = (double)l->row[PLAN_UPDOWN], active = l->active;
        double scattered = 1 / machine_rate(&machine.scattered, l->row[PLAN_UPDOWN], 0);
        sum += (double)(l->q.bytes + l->k.bytes + l->v.bytes + l->o.bytes) * stream;
        sum += 100.0 * 1024 * 2 * 2 * stream;
        sum += (double)l->gate.bytes * stream;
        sum += active * row * scattered;
        sum += (double)l->shared * (1 - pow(1 - active / m->neurons, 32)) * stream;
        sum += 6 * 1.5e-6;
    }
    sum += (double)m->output.bytes * stream + 2 * 1.5e-6 + (double)(m->embedding.bytes / m->vocab) * stream;
    if (fabs(p->time.token - sum) > 1e-9) fail_msg("%.12g, by hand %.12g", p->time.token, sum);
    plan_destroy(&p);
    plan_model_destroy(&m);
}

static void refusals(void **state)
{
    (void)state;
    struct err e;
    struct plan *p;
    struct plan_model *m = model(DT_Q4_0, PLAN_EXACT, 0.9);
    struct machine machine = desktop(32 * GB, 8 * GB, false);
    struct plan_settings s = plan_default(m, &machine);
    s.memory.ram = 0;
    s.memory.vram = 0;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_FULL, "more RAM");
    s = plan_default(m, &machine);
    s.memory.ram = 200u << 20;
    s.memory.vram = 0;
    s.memory.context = 2048;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_FULL, "does not fit");
    /* What it says helps. */
    const char *more = strstr(e.msg, " GiB more RAM");
    more = more ? more : strstr(e.msg, " MiB more RAM");
    assert_non_null(more);
    bool mib = more[1] == 'M';
    while (more > e.msg && more[-1] != ' ') more--;
    s.memory.ram += (uint64_t)(strtod(more, NULL) * (mib ? 0x1p20 : 0x1p30) * 1.01);
    OK(plan_solve(&p, m, &machine, &s, &e));
    plan_destroy(&p);
    s = plan_default(m, &machine);
    s.disk_ratio = NAN;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_ARG, "ratio");
    s = plan_default(m, &machine);
    s.position = 1 << 20;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_ARG, "beyond the context");
    s = plan_default(m, &machine);
    s.memory.kv = DT_Q4_K;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_ARG, "KV cache");
    s = plan_default(m, &machine);
    machine.stream.n = 0;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_UNSUPPORTED, "stream");
    machine = desktop(32 * GB, 8 * GB, false);
    machine.gpu[0].rendezvous.value = NAN;
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_UNSUPPORTED, "rendezvous");
    machine = desktop(32 * GB, 8 * GB, false);
    machine.gpu[0].read = (struct machine_figure){0};
    machine.gpu[0].scattered = (struct machine_figure){0};
    FAILS(plan_solve(&p, m, &machine, &s, &e), ERR_UNSUPPORTED, "GPU memory read rate");
    machine = desktop(32 * GB, 8 * GB, false);
    s.memory.ram = UINT64_MAX;
    s.memory.vram = UINT64_MAX;
    OK(plan_solve(&p, m, &machine, &s, &e));
    plan_destroy(&p);
    plan_model_destroy(&m);
}

static void missing_figures_are_said(void **state)
{
    (void)state;
    struct err e;
    struct plan *p;
    struct plan_model *m = model(DT_Q4_0, PLAN_EXACT, 0.9);
    struct machine machine = desktop(32 * GB, 0, false);
    struct plan_settings s = plan_default(m, &machine);
    machine.n_kernels = 1; /* F16 */
    machine.scattered.n = 0;
    OK(plan_solve(&p, m, &machine, &s, &e));
    assert_non_null(strstr(p->notes, "no kernel rate for Q4_0"));
    assert_non_null(strstr(p->notes, "no rates for scattered rows"));
    assert_true(isnan(p->time.first) && p->time.token > 0);
    plan_destroy(&p);
    plan_model_destroy(&m);
}

static void memory_nodes(void **state)
{
    (void)state;
    struct plan_model *m = model(DT_Q4_0, PLAN_EXACT, 0.9);
    struct machine one = desktop(32 * GB, 0, false), two = one;
    two.nodes = 2;
    two.node[0] = (struct machine_node){16 * GB, 4, {10, 21}};
    two.node[1] = (struct machine_node){16 * GB, 4, {21, 10}};
    struct plan_settings s = plan_default(m, &one);
    assert_true(solve(m, &two, &s) > solve(m, &one, &s) * 1.01);
    plan_model_destroy(&m);
}

static void assumed_hotness(void **state)
{
    (void)state;
    struct err e;
    static float f[13824];
    OK(plan_assume(f, 13824, 0.112, 0.26, 0.80, &e));
    double sum = 0, top = 0;
    for (int i = 0; i < 13824; i++) {
        assert_true(f[i] >= 0 && f[i] <= 1 && (i == 0 || f[i] <= f[i - 1]));
        sum += (double)f[i];
        if (i < 13824 * 0.26) top += (double)f[i];
    }
    assert_true(fabs(sum / 13824 - 0.112) < 1e-5 && fabs(top / sum - 0.80) < 2e-3);
    FAILS(plan_assume(f, 100, 0.5, 0.01, 0.99, &e), ERR_ARG, "can take");
    FAILS(plan_assume(f, 100, NAN, 0.26, 0.8, &e), ERR_ARG, "expected 0 to 1");
}

/* Tables and cost model say the same of random placements. */
static void two_ways_to_count(void **state)
{
    (void)state;
    struct err e;
    struct rng r;
    rng_init(&r, 5);
    struct plan_model *m = model(DT_F16, PLAN_SURE, 0.9);
    make_uneven(m, 9);
    struct machine machine = desktop(32 * GB, 8 * GB, true);
    struct cost_settings cs = {
        .threads = 8, .context = 512, .position = 200, .kv = DT_F16, .unit = 64, .disk_ratio = 1};
    struct cost c;
    struct solver s;
    OK(cost_make(&c, m, &machine, &cs, &e));
    OK(solver_init(&s, &c, true, true, &e));
    for (int k = 0; k < 500; k++) {
        uint32_t i = (uint32_t)rng_below(&r, c.layers), units = c.layer[i].units;
        struct cost_place p = {.attention = (uint8_t)rng_below(&r, 3), .kv = (uint8_t)rng_below(&r, 2)};
        for (int part = 0; part < PLAN_PARTS; part++) {
            p.part[part].gpu = (uint32_t)rng_below(&r, units + 1);
            p.part[part].ram = p.part[part].gpu + (uint32_t)rng_below(&r, units + 1 - p.part[part].gpu);
        }
        double a = solver_layer_time(&s, i, &p), b = cost_total(&c, &c.layer[i], &p);
        assert_true(fabs(a - b) <= 1e-12 + 1e-9 * b);
        uint64_t bytes = 0;
        for (int t = 0; t < PLAN_TIERS; t++) bytes += cost_bytes(&c.layer[i], &p, (enum plan_tier)t);
        bytes -= c.layer[i].kv_bytes;
        assert_true(bytes >= plan_layer_bytes(m, i) - m->layer[i].shared &&
                    bytes <= plan_layer_bytes(m, i) + m->layer[i].shared);
    }
    solver_finish(&s);
    cost_finish(&c);
    plan_model_destroy(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpu_by_hand),
        cmocka_unit_test(whole_in_vram),
        cmocka_unit_test(two_ways_to_count),
        cmocka_unit_test(same_bytes_again),
        cmocka_unit_test(refusals),
        cmocka_unit_test(missing_figures_are_said),
        cmocka_unit_test(memory_nodes),
        cmocka_unit_test(assumed_hotness),
        cmocka_unit_test(more_is_never_slower),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
