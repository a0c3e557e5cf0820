/* Writes small planning problems, each with the planner's answer, as lines of JSON for test_milp.py: raw
 * figures of model and machine, not the cost model's. Usage: plan_instance FIRST COUNT */
#include "base/err.h"
#include "base/rng.h"
#include "placement/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double between(struct rng *r, double lo, double hi) /* by logarithms */
{
    return lo * pow(hi / lo, rng_f64(r));
}

static struct machine_figure figure(double v)
{
    return (struct machine_figure){v, v, v, 1};
}

static void one_point(struct machine_curve *c, uint64_t x, double rate)
{
    c->n = 1;
    c->at[0] = (struct machine_point){x, 0, figure(rate), 0, 0};
}

static void make_machine(struct machine *m, struct rng *r, bool gpu, bool disk)
{
    *m = (struct machine){.cores = 4, .threads = 4, .memory = UINT64_C(1) << 40, .nodes = 1};
    snprintf(m->name, sizeof m->name, "made up");
    m->node[0] = (struct machine_node){m->memory, 4, {10}};
    one_point(&m->stream, 4, between(r, 1e9, 4e9));
    one_point(&m->scattered, 4096, between(r, 5e8, 4e9));
    m->barrier = figure(between(r, 1e-7, 1e-5));
    static const enum dtype types[] = {DT_F16, DT_Q8_0, DT_Q4_0};
    for (int i = 0; i < 3; i++) {
        m->kernel[i].type = types[i];
        m->kernel[i].matvec = figure(between(r, 2e8, 2e9));
        m->kernel[i].listed = figure(between(r, 2e8, 2e9));
        m->kernel[i].down = figure(between(r, 2e8, 2e9));
        m->kernel[i].gemm = figure(1e10);
    }
    m->n_kernels = 3;
    if (gpu) {
        m->n_gpus = 1;
        m->gpu[0].node = -1;
        m->gpu[0].memory = UINT64_C(1) << 40;
        m->gpu[0].read = figure(between(r, 2e9, 4e10));
        m->gpu[0].scattered = figure(between(r, 1e9, 4e10));
        m->gpu[0].launch = figure(between(r, 1e-7, 5e-6));
        m->gpu[0].rendezvous = figure(between(r, 1e-7, 2e-5));
    }
    if (disk) {
        m->n_disks = 1;
        m->disk[0].node = -1;
        one_point(&m->disk[0].read, 65536, between(r, 2e8, 2e9));
    }
}

static void put_matrix(const char *name, const struct plan_matrix *w)
{
    printf("\"%s\":{\"type\":\"%s\",\"rows\":%llu,\"n\":%llu,\"bytes\":%llu},", name,
           dtype_name((uint32_t)w->type), (unsigned long long)w->rows, (unsigned long long)w->n,
           (unsigned long long)w->bytes);
}

static void put(const struct plan_model *m, const struct machine *machine, const struct plan *p,
                uint64_t seed)
{
    const struct machine_gpu *g = &machine->gpu[0];
    printf("{\"seed\":%llu,\"dense\":%s,\"unit\":%u,\"neurons\":%u,\"width\":%u,\"threads\":4,",
           (unsigned long long)seed, m->mode == PLAN_DENSE ? "true" : "false", p->unit, m->neurons, m->width);
    printf("\"stream\":%.17g,\"scattered\":%.17g,\"barrier\":%.17g,\"kernels\":{",
           machine->stream.at[0].rate.value, machine->scattered.at[0].rate.value, machine->barrier.value);
    for (uint32_t i = 0; i < 3; i++)
        printf("%s\"%s\":{\"matvec\":%.17g,\"listed\":%.17g,\"down\":%.17g}", i ? "," : "",
               dtype_name((uint32_t)machine->kernel[i].type), machine->kernel[i].matvec.value,
               machine->kernel[i].listed.value, machine->kernel[i].down.value);
    printf("},");
    if (machine->n_gpus)
        printf("\"gpu\":{\"read\":%.17g,\"scattered\":%.17g,\"launch\":%.17g,\"rendezvous\":%.17g},",
               g->read.value, g->scattered.value, g->launch.value, g->rendezvous.value);
    if (machine->n_disks) printf("\"disk\":%.17g,", machine->disk[0].read.at[0].rate.value);
    put_matrix("output", &m->output);
    put_matrix("embedding", &m->embedding);
    printf("\"vram\":%llu,\"ram\":%llu,", (unsigned long long)ledger_vram_left(&p->ledger),
           (unsigned long long)ledger_ram_left(&p->ledger, true, true));
    printf("\"kv_bytes\":%llu,\"kv_read\":%llu,\"layers\":[", (unsigned long long)p->ledger.kv_layer,
           (unsigned long long)plan_model_kv(m, DT_F16, p->settings.position));
    for (uint32_t i = 0; i < m->layers; i++) {
        const struct plan_layer *l = &m->layer[i];
        uint64_t values = 0; /* bytes of a neuron's part of down as its type stores them */
        (void)dtype_row_bytes((uint32_t)(m->mode == PLAN_DENSE ? l->down.type : l->down_type), m->width,
                              &values);
        printf("%s{", i ? "," : "");
        put_matrix("q", &l->q);
        put_matrix("k", &l->k);
        put_matrix("v", &l->v);
        put_matrix("o", &l->o);
        printf("\"attention\":%llu,\"gate_type\":\"%s\",\"up_type\":\"%s\",\"down_type\":\"%s\",",
               (unsigned long long)l->attention, dtype_name((uint32_t)(l->gate.rows ? l->gate : l->up).type),
               dtype_name((uint32_t)l->up.type), dtype_name((uint32_t)l->down_type));
        printf("\"rows\":[%llu,%llu,%llu],\"up_row\":%llu,\"down_row\":%llu,\"shared\":%llu,\"group\":%u,",
               (unsigned long long)l->row[0], (unsigned long long)l->row[1], (unsigned long long)l->row[2],
               (unsigned long long)l->up_row, (unsigned long long)l->down_row, (unsigned long long)l->shared,
               l->share_group);
        printf("\"down_file_type\":\"%s\",\"down_values\":%llu,", dtype_name((uint32_t)l->down.type),
               (unsigned long long)values);
        printf("\"candidates\":%.17g,\"frequency\":[", l->candidates);
        for (uint32_t k = 0; k < m->neurons; k++) printf("%s%.9g", k ? "," : "", (double)l->frequency[k]);
        printf("]}");
    }
    printf("],\"time\":%.17g,\"bound\":%.17g,\"by_frequency\":%.17g}\n", p->time.token, p->bound,
           isnan(p->others[PLAN_BY_FREQUENCY]) ? 0.0 : p->others[PLAN_BY_FREQUENCY]);
}

static int one(uint64_t seed)
{
    struct rng r;
    struct err e = {0};
    rng_init(&r, seed * 7919 + 1);
    static const enum dtype types[] = {DT_F16, DT_Q8_0, DT_Q4_0};
    enum dtype type = types[rng_below(&r, 3)];
    struct plan_shape shape = {.name = "small",
                               .width = 64 * (1 + (uint32_t)rng_below(&r, 4)),
                               .neurons = 32 * (1 + (uint32_t)rng_below(&r, 4)),
                               .layers = 2 + (uint32_t)rng_below(&r, 2),
                               .heads = 2,
                               .kv_heads = 1 + (uint32_t)rng_below(&r, 2),
                               .vocab = 64 + (uint32_t)rng_below(&r, 400),
                               .context = 256,
                               .gated = rng_below(&r, 4) > 0,
                               .type = type,
                               .output_type = types[rng_below(&r, 3)]};
    struct plan_model_settings ms = plan_model_default();
    ms.mode = (enum plan_mode)rng_below(&r, 3);
    struct plan_model *m = NULL;
    struct machine machine;
    struct plan *p = NULL;
    int rc = plan_model_from_shape(&m, &shape, NULL, &ms, &e);
    for (uint32_t i = 0; rc == 0 && ms.mode != PLAN_DENSE && i < m->layers; i++) {
        double a = 3 * rng_f64(&r), most = rng_f64(&r), sum = 0;
        for (uint32_t k = 0; k < m->neurons; k++) {
            m->layer[i].frequency[k] = (float)(most * pow(1.0 + k, -a));
            sum += (double)m->layer[i].frequency[k];
        }
        m->layer[i].active = sum;
        if (m->layer[i].row[PLAN_SCREEN]) m->layer[i].candidates = fmin(1, 1.5 * sum / m->neurons);
    }
    uint64_t what = rng_below(&r, 8);
    if (rc == 0) {
        bool gpu = what != 0, disk = what != 1 && what != 2;
        make_machine(&machine, &r, gpu, disk);
        struct plan_settings s = plan_default(m, &machine);
        s.memory.context = 32 + (uint32_t)rng_below(&r, 200);
        s.memory.margin = s.memory.staging = s.memory.reading = 0;
        s.prompt = 1;
        s.unit = m->neurons / (3 + (uint32_t)rng_below(&r, ms.mode == PLAN_SURE || m->layers > 2 ? 1 : 3));
        /* Capacities as shares of what the model needs; RAM enough for all where there is no disk. */
        struct ledger l;
        rc = ledger_make(&l, m, &machine, &s.memory, &e);
        double all = (double)(plan_model_bytes(m) + l.kv_layer * m->layers) * 1.3;
        s.memory.vram = l.reserved + l.gpu_compute + (uint64_t)(all * rng_f64(&r));
        s.memory.ram =
            l.process + l.compute + l.loading + (uint64_t)(disk ? all * (0.1 + 0.9 * rng_f64(&r)) : 2 * all);
        if (rc == 0) rc = plan_solve(&p, m, &machine, &s, &e);
    }
    if (rc == 0) put(m, &machine, p, seed);
    if (rc == ERR_FULL) rc = 1;
    if (rc < 0) fprintf(stderr, "seed %llu: %s\n", (unsigned long long)seed, e.msg);
    plan_destroy(&p);
    plan_model_destroy(&m);
    return rc;
}

int main(int argc, char **argv)
{
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    int count = argc > 2 ? atoi(argv[2]) : 200;
    while (count > 0) {
        int r = one(seed++);
        if (r < 0) return 1;
        count -= r == 0; /* those that fit nowhere do not count */
    }
    return 0;
}
