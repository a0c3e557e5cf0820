/* How long a token takes under a placement: pure functions over a model (plan_model.h), a machine's figures
 * (machine.h) and where each part lies. Nothing here is a constant of a machine. Seconds and bytes.
 *
 * Decoding, one layer (docs/architecture.md §6):
 *
 *   compute = attention + screen + gate + updown + sync
 *   T       = max(compute, all of the layer's reads from the disk)
 *
 * attention: weights on one side, then the KV cache's rows up to `position`, on the side that holds them.
 * Each further phase takes max(GPU's share, CPU's share, reads that it has to wait for): both sides work at
 * once, but the next phase waits for its list. What is known beforehand (attention, screen, a gate that is
 * read whole) is read ahead while the layer computes; what a list asks for (candidates' fine planes, up and
 * down) can be read only in its phase. The CPU computes what lies in RAM and on disk.
 *
 *   CPU's share = max(bytes / rate of memory, bytes / (kernel's rate × threads)) + barriers
 *   GPU's share = bytes / rate of its memory + kernels × launch
 *   reads       = requests × max(1 / IOPS, bytes / (ratio × rate), bytes / (threads × unzstd))
 *   sync        = rendezvous × how often x or a list has to cross
 *
 * Rows of a list are read at the rate of scattered rows; the denser the list, the nearer to streaming. What
 * neighbours share of down (SPLIT's planes) is read where any of the group's 32 fires: shared × (1 − (1 −
 * active/neurons)^group), on each side by its own active neurons. On a machine of several memory nodes lists
 * are read from all of them: their time grows with the mean distance / 10. */
#ifndef PLACEMENT_COST_H
#define PLACEMENT_COST_H

#include "placement/machine.h"
#include "placement/plan_model.h"

struct err;

/* What the executor does in each phase: kernels that it launches, barriers where its threads meet. */
#define COST_GPU_ATTENTION 4
#define COST_GPU_PART      2
#define COST_CPU_ATTENTION 3
#define COST_CPU_PART      1
#define COST_CPU_FFN       1 /* the merge */

enum cost_estimate { COST_LOW, COST_MEDIAN, COST_HIGH }; /* of the time: low takes the fastest figures */

struct cost_settings {
    uint32_t threads;
    uint32_t context, position; /* tokens that the KV cache has room for, and that are in it */
    enum dtype kv;
    uint32_t unit;     /* neurons that are placed together */
    double disk_ratio; /* stored bytes × this = bytes: 1 without compression */
    bool zstd;         /* what lies on disk has to be unpacked */
    enum cost_estimate estimate;
};

struct cost_part {
    uint64_t bytes;  /* of one neuron; 0: the layer has no such part */
    uint64_t shared; /* of the layer, on every memory that computes some of it */
    uint32_t group;
    bool listed;                   /* read for those on a list, which the phase has to wait for; else whole */
    double gpu, cpu, disk;         /* seconds for one neuron read */
    double shared_gpu, shared_cpu; /* seconds for all of what is shared */
    double operations;             /* of the prompt, for one neuron and token: 2 × its values */
    double cpu_operation;          /* seconds for one, on all threads; 0: not known */
    double *load; /* [units + 1]: neurons read a token, expected, among the hottest k units */
};

struct cost_layer {
    uint32_t neurons, units, unit; /* unit: neurons of one, the last may be short */
    uint64_t attention_bytes, kv_bytes;
    double attention[PLAN_TIERS];     /* weights; disk: of the reads */
    double kv[2];                     /* by PLAN_GPU, PLAN_RAM */
    double operations, cpu_operation; /* of attention's weights, as in cost_part */
    struct cost_part part[PLAN_PARTS];
};

/* Layers, then the output matrix, then the embedding, as layers that have nothing but `attention`. */
struct cost {
    uint32_t layers, entries, unit;
    bool gpu, disk;
    double launch, rendezvous, barrier;
    double gpu_operation;     /* seconds, prompts; 0: not known */
    double pinned;            /* seconds a byte to the device; 0: not known */
    double stream;            /* seconds a byte, CPU, rows one after the other */
    double read_whole;        /* seconds a byte, disk, large blocks */
    struct cost_layer *layer; /* entries */
    char notes[1024];         /* figures that were missing and what took their place; a line each */
    double *memory;           /* behind the loads */
};

/* Resolves all rates. ERR_UNSUPPORTED names the figures that the machine lacks and nothing can stand for.
 * The caller owns *c (cost_finish), also zeroed after a failure. */
int cost_make(struct cost *c, const struct plan_model *m, const struct machine *machine,
              const struct cost_settings *s, struct err *e);
void cost_finish(struct cost *c);

/* Where a layer lies. Units from hot to cold: [0, gpu) on the GPU, [gpu, ram) in RAM, the rest on disk. */
struct cost_place {
    uint8_t attention; /* enum plan_tier */
    uint8_t kv;        /* PLAN_GPU or PLAN_RAM */
    struct {
        uint32_t gpu, ram;
    } part[PLAN_PARTS];
};

/* Neurons read of each part, on each tier. */
struct cost_load {
    double read[PLAN_PARTS][PLAN_TIERS];
};

struct cost_phase {
    double gpu, cpu, disk; /* disk: reads the phase waits for */
    double time;           /* the largest */
};

enum cost_limit { COST_BY_GPU, COST_BY_CPU, COST_BY_DISK, COST_BY_SYNC, COST_LIMITS };

struct cost_time {
    struct cost_phase attention, part[PLAN_PARTS];
    double sync;
    double reads;   /* all from the disk */
    double compute; /* phases and sync */
    double total;
};

/* Expected by the model's frequencies. */
void cost_expect(const struct cost_layer *l, const struct cost_place *p, struct cost_load *out);
/* One entry's time with these loads (the simulator gives the real ones of a token). */
void cost_time(const struct cost *c, const struct cost_layer *l, const struct cost_place *p,
               const struct cost_load *load, struct cost_time *out);
/* The same for the expected loads, total alone: what the solver minimises. */
double cost_total(const struct cost *c, const struct cost_layer *l, const struct cost_place *p);

/* A side's time for `read` neurons of a part, where it has any of its rows. */
double cost_gpu_share(const struct cost *c, const struct cost_layer *l, enum plan_part p, double read);
double cost_cpu_share(const struct cost *c, const struct cost_layer *l, enum plan_part p, double read);

/* Times x or a list crosses between the sides in a layer. */
int cost_crossings(const struct cost_layer *l, const struct cost_place *p);

/* Bytes a layer takes on a tier (PLAN_DISK: stored there). */
uint64_t cost_bytes(const struct cost_layer *l, const struct cost_place *p, enum plan_tier tier);
bool cost_uses_gpu(const struct cost_layer *l, const struct cost_place *p);

/* Seconds that a prompt of `tokens` takes, in batches: products on the side that holds the weights, or, where
 * that is faster, on the GPU with the others' weights streamed through; disk reads beside it. Batches of up
 * to `listed` tokens go neuron by neuron, token after token. Places: c->entries of them. NaN, and e says
 * which figure is missing, where the machine has none for products. */
double cost_prompt(const struct cost *c, const struct cost_place *places, uint32_t tokens, uint32_t batch,
                   uint32_t listed, struct err *e);

#endif
