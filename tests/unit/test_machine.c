/* placement/machine: rates off curves, what is written is read, what is wrong is refused by name. */
#include "tests/unit/temp_dir.h"

#include "placement/machine_priv.h"

#include <math.h>
#include <unistd.h>

static struct machine m, again;

static struct machine_figure fig(double v)
{
    return (struct machine_figure){v, v * 0.9, v * 1.2, 7};
}

static void add_point(struct machine_curve *c, uint64_t x, uint32_t depth, double rate)
{
    c->at[c->n++] = (struct machine_point){x, depth, {rate, rate, rate, 0}, 0, 0};
}

/* Everything of a machine, with odd values. */
static void make(void)
{
    memset(&m, 0, sizeof m);
    strcpy(m.name, "test");
    strcpy(m.date, "2026-11-25");
    strcpy(m.method, "made up");
    strcpy(m.cpu, "A \"CPU\" – 4 GHz");
    m.packages = 2;
    m.cores = 12;
    m.performance_cores = 4;
    m.threads = 12;
    m.memory = 33554433123;
    m.memory_free = 1000000007;
    m.last_level_cache = 48 << 20;
    m.nodes = 2;
    for (uint32_t i = 0; i < 2; i++)
        m.node[i] = (struct machine_node){16777216000 + i, 6, {i ? 21 : 10, i ? 10 : 21}};
    add_point(&m.stream, 1, 0, 1.35e10);
    m.stream.at[0].rate = fig(13500000000.4);
    add_point(&m.stream, 12, 0, 4.1e10);
    add_point(&m.scattered, 1024, 0, 1.1e10);
    add_point(&m.scattered, 16384, 0, 2.1e10);
    m.barrier = (struct machine_figure){3.217e-7, 3.1e-7, 9.9e-7, 100};
    m.n_kernels = 2;
    m.kernel[0] = (struct machine_kernel){DT_Q4_0, fig(5.3e9), fig(5.1e9), fig(4.2e9), fig(1.7e11)};
    m.kernel[1] = (struct machine_kernel){DT_F16, fig(2e10), {0}, fig(1e10), {0}};
    m.unzstd = fig(1.23456789e9);
    m.n_gpus = 1;
    m.gpu[0] =
        (struct machine_gpu){"RTX",     "0000:01:00.0", 1,           12884901888, 400000000, fig(3.6e11),
                             fig(3e11), fig(5e13),      fig(2.5e10), fig(8e9),    fig(4e-6), fig(1.1e-5)};
    m.n_disks = 1;
    strcpy(m.disk[0].name, "disk");
    strcpy(m.disk[0].where, "/tmp");
    m.disk[0].node = -1;
    m.disk[0].direct = true;
    add_point(&m.disk[0].read, 4096, 1, 5e7);
    m.disk[0].read.at[0].p50 = 8.1e-5;
    m.disk[0].read.at[0].p99 = 2.3e-4;
    add_point(&m.disk[0].read, 65536, 1, 4e8);
    add_point(&m.disk[0].read, 4096, 16, 6e8);
    add_point(&m.disk[0].read, 65536, 16, 3e9);
    machine_add_note(&m, "disks", "random reads of %d files", 1);
}

static void rates_follow_the_curve(void **state)
{
    (void)state;
    make();
    const struct machine_curve *c = &m.disk[0].read, none = {0};
    assert_true(machine_rate(&none, 4096, 1) == 0);
    /* on its points, beyond its ends */
    assert_true(machine_rate(c, 4096, 1) == 5e7);
    assert_true(machine_rate(c, 65536, 16) == 3e9);
    assert_true(machine_rate(c, 1, 1) == 5e7);
    assert_true(machine_rate(c, 1u << 30, 1) == 4e8);
    assert_true(machine_rate(c, 65536, 64) == 3e9);
    /* half way on the logarithm of the size (16 KiB) and of the depth (4): the geometric mean */
    assert_true(fabs(machine_rate(c, 16384, 1) / sqrt(5e7 * 4e8) - 1) < 1e-12);
    assert_true(fabs(machine_rate(c, 4096, 4) / sqrt(5e7 * 6e8) - 1) < 1e-12);
    assert_true(fabs(machine_rate(c, 16384, 4) / sqrt(sqrt(5e7 * 4e8) * sqrt(6e8 * 3e9)) - 1) < 1e-12);
    /* any depth: the best of them */
    assert_true(machine_rate(c, 4096, 0) == 6e8);
    add_point(&m.disk[0].read, 4096, 64, 1e6);
    assert_true(machine_rate(c, 4096, 0) == 6e8);
    /* curves without depths do not mind being asked for one */
    assert_true(machine_rate(&m.stream, 12, 0) == 4.1e10);
    assert_true(machine_rate(&m.stream, 12, 8) == 4.1e10);
    assert_true(machine_kernel(&m, DT_F16) == &m.kernel[1]);
    assert_null(machine_kernel(&m, DT_Q6_K));
}

static bool same_figure(const struct machine_figure *a, const struct machine_figure *b, double unit)
{
    return fabs(a->value - b->value) <= 0.501 * unit && fabs(a->low - b->low) <= 0.501 * unit &&
           fabs(a->high - b->high) <= 0.501 * unit && a->samples == b->samples;
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    struct err e;
    make();
    OK(machine_write(&m, in_dir("m.json"), &e));
    OK(machine_read(&again, in_dir("m.json"), &e));
    assert_int_equal(machine_identity(&m), machine_identity(&again));
    assert_string_equal(again.cpu, m.cpu);
    assert_string_equal(again.name, m.name);
    assert_string_equal(again.date, m.date);
    assert_string_equal(again.method, m.method);
    assert_string_equal(again.note[0].how, "random reads of 1 files");
    assert_int_equal(again.memory_free, m.memory_free);
    assert_memory_equal(again.node, m.node, sizeof m.node);
    assert_true(same_figure(&again.stream.at[0].rate, &m.stream.at[0].rate, 1));
    assert_true(same_figure(&again.barrier, &m.barrier, 1e-9));
    assert_int_equal(again.n_kernels, 2);
    assert_true(same_figure(&again.kernel[0].down, &m.kernel[0].down, 1));
    assert_true(again.kernel[1].gemm.value == 0);
    assert_string_equal(again.gpu[0].bus, m.gpu[0].bus);
    assert_true(same_figure(&again.gpu[0].rendezvous, &m.gpu[0].rendezvous, 1e-9));
    assert_int_equal(again.disk[0].read.n, 4);
    assert_int_equal(again.disk[0].read.at[2].depth, 16);
    assert_true(fabs(again.disk[0].read.at[0].p99 - 2.3e-4) < 1e-12);
    /* and once more, to the byte */
    char *a, *b;
    json_t *j = machine_json(&m), *k = machine_json(&again);
    a = json_dumps(j, 0);
    b = json_dumps(k, 0);
    assert_string_equal(a, b);
    free(a);
    free(b);
    json_decref(j);
    json_decref(k);
}

static void the_identity_is_of_what_planning_uses(void **state)
{
    (void)state;
    make();
    uint64_t id = machine_identity(&m);
    strcpy(m.name, "other");
    strcpy(m.date, "2020-01-01");
    m.memory_free--;
    m.barrier.high *= 2;
    strcpy(m.disk[0].where, "/");
    m.n_notes = 0;
    assert_int_equal(machine_identity(&m), id);
#define CHANGES(what)                                                                                        \
    do {                                                                                                     \
        make();                                                                                              \
        what;                                                                                                \
        if (machine_identity(&m) == id) fail_msg("%s: the same identity", #what);                            \
    } while (0)
    CHANGES(m.cores++);
    CHANGES(m.memory++);
    CHANGES(m.node[1].distance[0]++);
    CHANGES(m.stream.at[1].rate.value += 1);
    CHANGES(m.scattered.at[0].x++);
    CHANGES(m.barrier.value += 1e-9);
    CHANGES(m.kernel[1].type = DT_BF16);
    CHANGES(m.kernel[0].gemm.value *= 1.01);
    CHANGES(m.unzstd.value *= 1.01);
    CHANGES(m.gpu[0].reserved++);
    CHANGES(m.gpu[0].pinned.value *= 1.01);
    CHANGES(m.gpu[0].launch.value *= 1.01);
    CHANGES(m.n_gpus = 0);
    CHANGES(m.disk[0].read.at[0].p99 *= 1.01);
    CHANGES(m.disk[0].direct = false);
}

/* The text of a whole machine with one piece of it replaced. */
static int parse_with(const char *from, const char *to, struct err *e)
{
    make();
    json_t *j = machine_json(&m);
    char *text = json_dumps(j, JSON_COMPACT), *at = from ? strstr(text, from) : NULL;
    json_decref(j);
    if (from && !at) fail_msg("'%s' is not in %s", from, text);
    char *edited = malloc(strlen(text) + strlen(to) + 1);
    assert_non_null(edited);
    if (at)
        snprintf(edited, strlen(text) + strlen(to) + 1, "%.*s%s%s", (int)(at - text), text, to,
                 at + strlen(from));
    else
        strcpy(edited, to);
    int rc = machine_parse(&again, edited, strlen(edited), "m.json", e);
    free(text);
    free(edited);
    return rc;
}

static void wrong_files_are_refused_by_name(void **state)
{
    (void)state;
    struct err e;
    static const struct {
        const char *from, *to, *says;
        int code;
    } bad[] = {
        {NULL, "", "m.json", ERR_FORMAT},
        {NULL, "[]", "expected an object", ERR_FORMAT},
        {NULL, "{}", "calor probe", ERR_FORMAT},
        {"\"calor_machine\":1", "\"calor_machine\":2", "version 2", ERR_UNSUPPORTED},
        {"\"calor_machine\":1", "\"calor_machine\":\"1\"", "a whole number", ERR_FORMAT},
        {"\"cores\":12", "\"cores\":0", "cores", ERR_FORMAT},
        {"\"cores\":12", "\"cores\":-5", "cores", ERR_FORMAT},
        {"\"cores\":12", "\"cores\":99999999", "cores", ERR_FORMAT},
        {"\"cores\":12", "\"coers\":12", "\"coers\", which is not known", ERR_FORMAT},
        {"\"threads\":12,\"last", "\"threads\":0,\"last", "threads", ERR_FORMAT},
        {"\"packages\":2", "\"packages\":13", "packages", ERR_FORMAT},
        {"\"bytes\":33554433123", "\"bytes\":9007199254740993", "2^50", ERR_FORMAT},
        {"\"free\":1000000007", "\"free\":99999999999", "free memory", ERR_FORMAT},
        {"\"distance\":[10,21]", "\"distance\":[10]", "nodes[0]", ERR_FORMAT},
        {"\"distance\":[10,21]", "\"distance\":[10,0]", "distance", ERR_FORMAT},
        {"\"distance\":[10,21]", "\"distance\":[10,\"x\"]", "distance", ERR_FORMAT},
        {"\"rate\":41000000000", "\"rate\":-1", "stream[1]", ERR_FORMAT},
        {"\"rate\":41000000000", "\"rate\":1e999", "m.json", ERR_FORMAT},
        {"\"rate\":41000000000", "\"rate\":1e30", "stream", ERR_FORMAT},
        {"\"rate\":41000000000", "\"rate\":0.1", "stream", ERR_FORMAT},
        {"\"rate\":41000000000", "\"rate\":NaN", "m.json", ERR_FORMAT},
        {"\"rate\":41000000000", "\"depth\":1", "not known", ERR_FORMAT},
        {"\"threads\":12,\"rate\":41000000000", "\"threads\":1,\"rate\":41000000000", "each point once",
         ERR_FORMAT},
        {"\"threads\":12,\"rate\":41000000000", "\"threads\":12", "a rate at every point", ERR_FORMAT},
        {"\"value\":322,\"low\":310", "\"value\":322,\"low\":323", "barrier", ERR_FORMAT},
        {"\"type\":\"Q4_0\"", "\"type\":\"F16\"", "each type once", ERR_FORMAT},
        {"\"type\":\"Q4_0\"", "\"type\":\"I32\"", "weights", ERR_FORMAT},
        {"\"type\":\"Q4_0\"", "\"type\":\"Q4_9\"", "Q4_9", ERR_FORMAT},
        {"\"node\":1,", "\"node\":2,", "node of a GPU", ERR_FORMAT},
        {"\"node\":1,", "\"node\":99,", "gpus[0]", ERR_FORMAT},
        {"\"bytes\":12884901888", "\"bytes\":0", "memory of a GPU", ERR_FORMAT},
        {"\"reserved\":400000000", "\"reserved\":99999999999", "reserved", ERR_FORMAT},
        {"\"depth\":1,", "\"depth\":2000000,", "depths", ERR_FORMAT},
        {"\"p50_ns\":81000", "\"p50_ns\":999999", "99th", ERR_FORMAT},
        {"\"direct\":true", "\"direct\":1", "disks[0]", ERR_FORMAT},
        {"\"what\":\"disks\"", "\"what\":\"a name longer than the thirty-one bytes\"", "at most 31",
         ERR_FORMAT},
        {"\"name\":\"test\"", "\"name\":\"\\u001b[31m\"", "control character", ERR_FORMAT},
    };
    OK(parse_with("\"name\":\"test\"", "\"name\":\"test\"", &e));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int rc = parse_with(bad[i].from, bad[i].to, &e);
        if (rc != bad[i].code || !strstr(e.msg, bad[i].says) || !strstr(e.msg, "m.json"))
            fail_msg("%s: expected %d and '%s', found %d '%s'", bad[i].to, bad[i].code, bad[i].says, rc,
                     e.msg);
    }
}

static void points_may_stand_in_any_order(void **state)
{
    (void)state;
    struct err e;
    OK(parse_with("{\"row\":1024,\"rate\":11000000000},{\"row\":16384,\"rate\":21000000000}",
                  "{\"row\":16384,\"rate\":21000000000},{\"row\":1024,\"rate\":11000000000}", &e));
    assert_int_equal(again.scattered.at[0].x, 1024);
    assert_int_equal(machine_identity(&again), machine_identity(&m));
}

static void what_the_reader_refuses_is_not_written(void **state)
{
    (void)state;
    struct err e;
    make();
    m.unzstd.value = NAN;
    FAILS(machine_write(&m, in_dir("bad.json"), &e), ERR_FORMAT, "unzstd");
    make();
    m.disk[0].read.at[1].x = 1;
    FAILS(machine_write(&m, in_dir("bad.json"), &e), ERR_FORMAT, "ascending");
    assert_int_not_equal(access(in_dir("bad.json"), F_OK), 0);
    make();
    OK(machine_write(&m, in_dir("good.json"), &e));
    FAILS(machine_read(&again, in_dir(""), &e), ERR_IO, "directory");
    FAILS(machine_read(&again, in_dir("none.json"), &e), ERR_IO, "none.json");
}

static void names_that_are_no_text_are_written_anyway(void **state)
{
    (void)state;
    struct err e;
    make();
    strcpy(m.disk[0].where, "/mnt/\xff\xfe");
    OK(machine_write(&m, in_dir("latin.json"), &e));
    OK(machine_read(&again, in_dir("latin.json"), &e));
    assert_string_equal(again.disk[0].where, "/mnt/??");
}

static int check_one(const char *name, const char *says, void *arg)
{
    struct err e;
    int *n = arg;
    char joined[128];
    if (strlen(says) < 10) fail_msg("%s: says '%s'", name, says);
    ++*n;
    /* a GPU or a drive alone is refused; joined with a host it is whole */
    if (machine_shipped(&m, name, &e) != 0) {
        assert_int_equal(e.code, ERR_ARG);
        snprintf(joined, sizeof joined, "%s+ddr4-3200x2", name);
        if (machine_shipped(&m, joined, &e)) fail_msg("%s: %s", joined, e.msg);
        assert_string_equal(m.note[0].what, name);
        assert_true(m.n_gpus + m.n_disks == 1);
        if (m.n_gpus) {
            const struct machine_gpu *g = &m.gpu[0];
            assert_true(g->read.value < 2e12 && g->read.value > 1e11 && g->scattered.value < g->read.value);
            assert_true(g->pinned.value > 1e10 && g->pinned.value < 6e10 &&
                        g->pageable.value <= g->pinned.value);
            assert_true(g->memory > 10ull << 30 && g->memory < 34ull << 30 && g->gemm.value > 1e12);
        } else {
            const struct machine_curve *c = &m.disk[0].read;
            assert_true(machine_rate(c, 4096, 1) < machine_rate(c, 65536, 1));
            assert_true(machine_rate(c, 4096, 1) < machine_rate(c, 4096, 16));
            assert_true(machine_rate(c, 1 << 20, 0) < 2e10);
        }
    }
    assert_true(m.n_notes > 0 && strlen(m.note[0].how) > 80);
    assert_int_equal(m.nodes, 1);
    assert_int_equal(m.node[0].memory, m.memory);
    assert_true(machine_rate(&m.stream, 1, 0) < machine_rate(&m.stream, m.threads, 0));
    assert_true(machine_rate(&m.scattered, 1024, 0) < machine_rate(&m.stream, m.threads, 0));
    assert_non_null(machine_kernel(&m, DT_Q4_0));
    assert_true(machine_kernel(&m, DT_F16)->down.value > 0 && m.unzstd.value > 0 && m.barrier.value > 0);
    assert_true(m.threads <= m.cores && m.performance_cores <= m.cores);
    return 0;
}

static void shipped_machines_are_whole(void **state)
{
    (void)state;
    struct err e;
    int n = 0;
    OK(machine_shipped_each(check_one, &n, &e));
    assert_true(n >= 20);
}

static void shipped_machines_are_joined_by_name(void **state)
{
    (void)state;
    struct err e;
    OK(machine_shipped(&m, "RTX4090+ddr5-5600x2+gen4", &e));
    assert_string_equal(m.name, "RTX4090+ddr5-5600x2+gen4");
    assert_int_equal(m.n_gpus, 1);
    assert_int_equal(m.n_disks, 1);
    assert_int_equal(m.memory, 64ull << 30);
    assert_true(m.gpu[0].read.value == 907e9);
    uint64_t id = machine_identity(&m);
    OK(machine_write(&m, in_dir("4090.json"), &e));
    OK(machine_read(&again, in_dir("4090.json"), &e));
    assert_int_equal(machine_identity(&again), id);
    OK(machine_shipped(&again, "rtx4090+ddr5-5600x2:96G+gen4", &e));
    assert_int_equal(again.memory, 96ull << 30);
    assert_int_equal(again.node[0].memory, 96ull << 30);
    assert_true(machine_identity(&again) != id);
    OK(machine_shipped(&again, "rtx3060+ddr4-3200x2+rtx3060", &e));
    assert_int_equal(again.n_gpus, 2);
    OK(machine_shipped(&again, "powerinfer-pc-high", &e));
    assert_string_equal(again.gpu[0].name, "GeForce RTX 4090 24 GB");
    assert_int_equal(again.memory, 192ull << 30);

    FAILS(machine_shipped(&m, "rtx4090+ddr5-5600+gen4", &e), ERR_ARG, "did you mean 'ddr5-5600x2'?");
    FAILS(machine_shipped(&m, "rtx409+ddr5-5600x2", &e), ERR_ARG, "'rtx4090'");
    FAILS(machine_shipped(&m, "zzzzzzzz", &e), ERR_ARG, "--list");
    FAILS(machine_shipped(&m, "rtx4090+gen4", &e), ERR_ARG, "no processor and memory");
    FAILS(machine_shipped(&m, "ddr5-5600x2+ddr4-3200x2", &e), ERR_ARG, "two parts");
    FAILS(machine_shipped(&m, "ddr5-5600x2+rtx4090:8G", &e), ERR_ARG, "only the part");
    FAILS(machine_shipped(&m, "ddr5-5600x2:lots", &e), ERR_ARG, "lots");
    FAILS(machine_shipped(&m, "ddr5-5600x2:0", &e), ERR_FORMAT, "memory");
    FAILS(machine_shipped(&m, "", &e), ERR_ARG, "joined by '+'");
    FAILS(machine_shipped(&m, "rtx4090++gen4", &e), ERR_ARG, "joined by '+'");
    FAILS(machine_shipped(&m, "gen4+", &e), ERR_ARG, "joined by '+'");
    FAILS(machine_shipped(&m, "gen4+gen4+gen4+gen4+gen4+ddr4-3200x2", &e), ERR_ARG, "more than 4 drives");
    FAILS(machine_shipped(&m, "powerinfer-pc-low:8G", &e), ERR_ARG, "whole machine");
    char endless[400];
    memset(endless, 'x', sizeof endless - 1);
    endless[sizeof endless - 1] = 0;
    FAILS(machine_shipped(&m, endless, &e), ERR_ARG, "joined by '+'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_follow_the_curve),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(the_identity_is_of_what_planning_uses),
        cmocka_unit_test(wrong_files_are_refused_by_name),
        cmocka_unit_test(points_may_stand_in_any_order),
        cmocka_unit_test(what_the_reader_refuses_is_not_written),
        cmocka_unit_test(shipped_machines_are_whole),
        cmocka_unit_test(shipped_machines_are_joined_by_name),
        cmocka_unit_test(names_that_are_no_text_are_written_anyway),
    };
    return cmocka_run_group_tests(tests, temp_dir_make, temp_dir_remove);
}
