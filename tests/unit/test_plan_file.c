/* plan.json: what is written is read, what does not belong together is refused, damage is named. */
#include "tests/unit/temp_dir.h"

#include "base/file.h"
#include "placement/plan_priv.h"
#include "tests/unit/plan_machines.h"

#include <math.h>

static struct machine machine;
static struct plan_settings settings;

static struct plan_model *model(double sparsity, enum plan_mode mode, bool identity)
{
    struct err e;
    struct plan_model *m;
    struct plan_shape shape = small_shape(DT_Q8_0);
    shape.width = 256;
    shape.neurons = 500 / 32 * 32;
    shape.layers = 3;
    struct plan_model_settings s = plan_model_default();
    s.mode = mode;
    s.sparsity = sparsity;
    OK(plan_model_from_shape(&m, &shape, NULL, &s, &e));
    /* As if from a file, with a profile. */
    m->has_identity = identity;
    memcpy(m->identity, "0123456789abcdef", 16);
    m->statistics = PLAN_PROFILE;
    m->profile_hash = 0x1234567890abcdef;
    for (uint32_t i = 0; i < m->layers; i++) {
        m->layer[i].order = malloc(m->neurons * sizeof(uint32_t));
        for (uint32_t k = 0; k < m->neurons; k++) m->layer[i].order[k] = (k * 7 + i) % m->neurons;
    }
    return m;
}

static struct plan *solve(const struct plan_model *m)
{
    struct err e;
    struct plan *p;
    machine = desktop(32 * GB, 8 * GB, true);
    machine.gpu[0].launch = machine.gpu[0].rendezvous = figure(1e-9); /* worth it for a small model */
    settings = plan_default(m, &machine);
    struct ledger l; /* room for half of the weights, so that ranges end in between */
    OK(ledger_make(&l, m, &machine, &settings.memory, &e));
    settings.memory.vram =
        l.reserved + l.gpu_compute + l.gpu_staging + l.vram_margin + plan_model_bytes(m) / 2;
    OK(plan_solve(&p, m, &machine, &settings, &e));
    return p;
}

static void again(void **state)
{
    (void)state;
    struct err e;
    struct plan_model *m = model(0.9, PLAN_SURE, true), *other = model(0.9, PLAN_SURE, true);
    struct plan *p = solve(m), *q;
    OK(plan_write(p, m, in_dir("a.json"), &e));
    for (uint32_t i = 0; i < 3; i++) { /* what was known before does not count */
        memset(other->layer[i].frequency, 0, other->neurons * sizeof(float));
        free(other->layer[i].order);
        other->layer[i].order = NULL;
    }
    OK(plan_read(&q, other, &machine, in_dir("a.json"), &e));
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(p->place[i].attention, q->place[i].attention);
        assert_int_equal(p->place[i].kv, q->place[i].kv);
        for (int k = 0; k < PLAN_PARTS && i < 3; k++) {
            uint32_t a[2], b[2];
            plan_range(p, i, (enum plan_part)k, &a[0], &a[1]);
            plan_range(q, i, (enum plan_part)k, &b[0], &b[1]);
            assert_memory_equal(a, b, sizeof a);
        }
        if (i == 3) break;
        assert_memory_equal(m->layer[i].order, other->layer[i].order, m->neurons * sizeof(uint32_t));
        assert_memory_equal(m->layer[i].frequency, other->layer[i].frequency, m->neurons * sizeof(float));
    }
    assert_int_equal(p->place[3].attention, q->place[3].attention);
    assert_int_equal(p->place[4].attention, q->place[4].attention);
    assert_true(p->time.token == q->time.token && p->bound == q->bound);
    /* Evaluated anew it predicts the same. */
    double before = q->time.token;
    OK(plan_evaluate(q, other, &machine, &e));
    assert_true(fabs(q->time.token / before - 1) < 1e-12);
    assert_memory_equal(p->used, q->used, sizeof p->used);
    OK(plan_write(q, other, in_dir("b.json"), &e));
    plan_destroy(&q);
    plan_destroy(&p);
    plan_model_destroy(&m);
    plan_model_destroy(&other);
}

static void stale(void **state)
{
    (void)state;
    struct err e;
    struct plan_model *m = model(0.9, PLAN_EXACT, true);
    struct plan *p = solve(m), *q;
    const char *path = in_dir("s.json");
    OK(plan_write(p, m, path, &e));
    m->identity[3] ^= 1;
    FAILS(plan_read(&q, m, &machine, path, &e), ERR_STALE, "another model");
    m->identity[3] ^= 1;
    m->profile_hash++;
    FAILS(plan_read(&q, m, &machine, path, &e), ERR_STALE, "another profile");
    m->profile_hash--;
    struct machine faster = machine;
    faster.stream.at[1].rate.value *= 2;
    FAILS(plan_read(&q, m, &faster, path, &e), ERR_STALE, "for the machine");
    OK(plan_read(&q, m, NULL, path, &e));
    plan_destroy(&q);
    struct plan_model *sure = model(0.9, PLAN_SURE, true);
    FAILS(plan_read(&q, sure, &machine, path, &e), ERR_STALE, "mode exact, not sure");
    plan_model_destroy(&sure);
    m->layers = 2;
    FAILS(plan_read(&q, m, &machine, path, &e), ERR_STALE, "another model");
    m->layers = 3;
    plan_destroy(&p);
    plan_model_destroy(&m);
}

/* The first `from` in the file becomes `to`. */
static void edited(const char *from, const char *to, int code, const char *says)
{
    struct err e;
    struct plan_model *m = model(0.9, PLAN_EXACT, true);
    struct plan *q = NULL;
    char *text, *at;
    size_t n;
    OK(file_read_all(in_dir("e.json"), 1 << 24, &text, &n, &e));
    at = strstr(text, from);
    if (!at) fail_msg("'%s' is not in the file", from);
    FILE *f = fopen(in_dir("x.json"), "wb");
    assert_non_null(f);
    fwrite(text, 1, (size_t)(at - text), f);
    fputs(to, f);
    fputs(at + strlen(from), f);
    fclose(f);
    free(text);
    e.msg[0] = 0;
    int r = plan_read(&q, m, NULL, in_dir("x.json"), &e);
    if (r != code || !strstr(e.msg, says)) fail_msg("'%s' → '%s': %d %s", from, to, r, e.msg);
    plan_model_destroy(&m);
}

static void damage(void **state)
{
    (void)state;
    struct err e;
    struct plan_model *m = model(0.9, PLAN_EXACT, true);
    struct plan *p = solve(m), *q;
    OK(plan_write(p, m, in_dir("e.json"), &e));
    plan_destroy(&p);
    edited("\"calor_plan\": 1", "\"calor_plan\": 2", ERR_UNSUPPORTED, "version 2: expected 1");
    edited("\"calor_plan\"", "\"calor_soup\"", ERR_FORMAT, "no plan");
    edited("\"settings\"", "\"setting\"", ERR_FORMAT, "needs \"settings\"");
    edited("\"kv\": \"F16\"", "\"kv\": \"Q4_K\"", ERR_FORMAT, "no type that this model's KV cache");
    edited("\"unit\": 64", "\"unit\": 0", ERR_FORMAT, "\"unit\" is 0");
    edited("\"unit\": 64", "\"unit\": 63", ERR_FORMAT, "steps of 63");
    edited("\"disk_ratio\": 1.0", "\"disk_ratio\": 0.5", ERR_FORMAT, "disk_ratio");
    edited("\"output\": \"", "\"output\": \"x", ERR_FORMAT, "expected gpu, ram or disk");
    edited("\"embedding\": \"ram\"", "\"embedding\": \"gpu\"", ERR_FORMAT, "expected ram or disk");
    edited("\"layers\": [", "\"layers\": [{}, ", ERR_FORMAT, "expected 3");
    edited("\"updown\": [", "\"updown\": [700, ", ERR_FORMAT, "no pair of ends");
    edited("\"updown\": [", "\"updon\": [", ERR_FORMAT, "no pair of ends");
    edited("\"order\": \"A", "\"order\": \"AA", ERR_FORMAT, "base64");
    edited("\"order\": \"AAAAAAcA", "\"order\": \"BwAAAAcA", ERR_FORMAT, "stands there twice");
    edited("\"order\": \"AAAAAAcA", "\"order\": \"////AAcA", ERR_FORMAT, "none of");
    edited("\"frequency\": \"", "\"frequency\": \"!", ERR_FORMAT, "base64");
    edited("\"token_seconds\"", "\"token_second\"", ERR_FORMAT, "not whole");
    edited("\"low\": ", "\"low\": \"soup\", \"lo\": ", ERR_FORMAT, "low");
    edited("{", "[", ERR_FORMAT, "x.json");
    FAILS(plan_read(&q, m, NULL, in_dir("none.json"), &e), ERR_IO, "none.json");
    plan_model_destroy(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(again), cmocka_unit_test(stale),
                                       cmocka_unit_test(damage)};
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
