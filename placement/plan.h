/* Placement plans: where each part of a model lies, and what that means for memory and time. The planner's
 * front header: pure functions over a model, a machine and budgets; the same plan for the same input. */
#ifndef PLACEMENT_PLAN_H
#define PLACEMENT_PLAN_H

#include "placement/cost.h"
#include "placement/ledger.h"
#include "placement/machine.h"
#include "placement/plan_model.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct strbuf;

struct plan_settings {
    struct ledger_settings memory; /* context, batch, threads, KV type, ceilings */
    uint32_t position;             /* tokens in the cache at which decoding is judged; 0: half the context */
    uint32_t prompt;               /* tokens of the prompt that time to first token is for */
    uint32_t unit;                 /* neurons placed together; 0: 64, more in wide models */
    uint32_t listed;               /* tokens of a batch up to which prompts go neuron by neuron */
    double disk_ratio;
    bool zstd;
    bool no_gpu, no_disk; /* tiers that are not to be used although the machine has them */
};
/* Context 4096 or the model's, batch 512, f16, all of the machine, a prompt of 512, margins of 64 MiB. */
struct plan_settings plan_default(const struct plan_model *m, const struct machine *machine);

/* Time of one token, in seconds. */
struct plan_time {
    double token;           /* at settings.position */
    double low, high;       /* the same with all figures at their 10th and 90th percentile */
    double token_full;      /* with the context full */
    double first;           /* to first token: the prompt, then one token; NaN: the machine lacks a figure */
    double by[COST_LIMITS]; /* of `token`: the seconds in which each was what the others waited for */
    double reads;           /* bytes a token from the disk */
};

enum plan_rule { PLAN_BEST, PLAN_BY_LAYER, PLAN_BY_FREQUENCY, PLAN_ALL_CPU, PLAN_RULES };
extern const char *const plan_rule_names[PLAN_RULES + 1];

struct plan {
    struct plan_settings settings; /* resolved: no defaults left */
    struct ledger ledger;
    uint32_t layers, neurons, unit;
    struct cost_place *place;  /* layers + 2: cost.h */
    bool gpu, disk;            /* used */
    uint64_t used[PLAN_TIERS]; /* by weights and KV */
    struct plan_time time;
    double bound;              /* no placement in steps of `unit` takes less time a token (≤ time.token) */
    double others[PLAN_RULES]; /* token times of the alternatives; NaN: they do not fit */
    double other_bytes[PLAN_RULES][PLAN_TIERS];
    uint64_t machine; /* machine_identity */
    char machine_name[128];
    char notes[1024];
    bool degraded; /* fits, but only with weights on disk, or not as asked */
    char degraded_why[256];
};

/* Finds the placement with the least time a token that fits. *out is the caller's (plan_destroy).
 * ERR_FULL: it cannot fit; the message says the smallest changes that would make it fit. ERR_UNSUPPORTED: the
 * machine lacks a figure. ERR_ARG, ERR_NOMEM. */
int plan_solve(struct plan **out, const struct plan_model *m, const struct machine *machine,
               const struct plan_settings *s, struct err *e);
void plan_destroy(struct plan **p);

/* What its times were computed with: for cost_make. */
struct cost_settings plan_cost_settings(const struct plan *p);

/* Neurons of a layer's part: [0, *gpu) on the GPU, [*gpu, *ram) in RAM, [*ram, neurons) on disk, hot to cold.
 */
void plan_range(const struct plan *p, uint32_t layer, enum plan_part part, uint32_t *gpu, uint32_t *ram);

/* Share of a layer's activations (layer -1: of the model's) that its updown neurons on a tier take: by the
 * calibration text, or held out (NaN: none). */
double plan_coverage(const struct plan *p, const struct plan_model *m, int64_t layer, enum plan_tier tier,
                     bool held_out);

/* A plan evaluated anew (time, ledger, used) under a machine and model: for plans that were read. */
int plan_evaluate(struct plan *p, const struct plan_model *m, const struct machine *machine, struct err *e);

/* ---- Files: docs/plan-schema.md ---- */
#define PLAN_VERSION 1
int plan_write(const struct plan *p, const struct plan_model *m, const char *path, struct err *e);
json_t *plan_json(const struct plan *p, const struct plan_model *m); /* NULL: no memory */
/* Reads a plan for this model: ERR_STALE where it was made for another model, other frequencies (where m has
 * a profile) or another machine (NULL: any). Neuron order and frequencies of `m` are replaced by the file's.
 */
int plan_read(struct plan **out, struct plan_model *m, const struct machine *machine, const char *path,
              struct err *e);

/* ---- Reports ---- */
void plan_report_text(const struct plan *p, const struct plan_model *m, bool colour, struct strbuf *out);
/* What a layer ("12", "blk.12") or tensor ("blk.12.ffn_gate.weight", "output.weight") is placed as, and why.
 * ERR_ARG: no such thing. */
int plan_explain(const struct plan *p, const struct plan_model *m, const struct machine *machine,
                 const char *what, struct strbuf *out, struct err *e);

#endif
