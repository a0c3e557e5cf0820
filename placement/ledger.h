/* What takes memory besides the weights, counted before a weight is placed. Pure functions over a model and
 * settings. Bytes everywhere. */
#ifndef PLACEMENT_LEDGER_H
#define PLACEMENT_LEDGER_H

#include "placement/plan_model.h"

struct err;
struct kern_ops;
struct machine;

struct ledger_settings {
    uint32_t context, batch, threads;
    enum dtype kv;
    /* Whose buffers' sizes count: NULL: the reference kernels', for a machine that is not here. */
    const struct kern_ops *ops;
    uint64_t vram, ram; /* ceilings; UINT64_MAX: what the machine has */
    uint64_t margin;    /* of RAM and of VRAM each, left free */
    uint64_t staging;   /* one of two pinned buffers that cold weights are streamed through */
    uint64_t reading;   /* buffers of the disk's loader */
};

struct ledger {
    /* RAM, whatever the placement */
    uint64_t process; /* program, libraries, tokenizer, stacks */
    uint64_t compute; /* buffers of a pass at the batch's size */
    uint64_t loading; /* a layer while it is laid out, beyond what later takes its place */
    uint64_t ram_margin;
    /* RAM, where the GPU works or something lies on disk */
    uint64_t staging, reading;
    /* VRAM, where the GPU works */
    uint64_t reserved; /* driver, context, display */
    uint64_t gpu_compute, gpu_staging, vram_margin;
    /* Placed with the plan: */
    uint64_t kv_layer; /* of one layer */
    /* The ceilings, after what the machine has. */
    uint64_t vram, ram;
};

/* ERR_ARG where a KV type does not fit the model's heads, or sizes overflow. */
int ledger_make(struct ledger *l, const struct plan_model *m, const struct machine *machine,
                const struct ledger_settings *s, struct err *e);

/* The buffers of a session of the engine: what engine/forward.c's forward_plan allocates (a test holds the
 * two together). */
uint64_t ledger_compute(const struct plan_model *m, const struct ledger_settings *s);

/* What is left for weights and KV: 0 where the fixed items alone are too much. */
uint64_t ledger_vram_left(const struct ledger *l);
uint64_t ledger_ram_left(const struct ledger *l, bool gpu, bool disk);

#endif
