/* What the planner's files share. Private to placement/ (and its tests and fuzz target). */
#ifndef PLACEMENT_PLAN_PRIV_H
#define PLACEMENT_PLAN_PRIV_H

#include "placement/plan.h"

/* Weights and KV apart, and what is taken in all, margin included. */
struct plan_memory {
    uint64_t weights[PLAN_TIERS], kv[PLAN_TIERS], total[PLAN_TIERS];
};
void plan_memory_of(const struct plan *p, struct plan_memory *out);

/* plan.json as a tree; `whole`: with orders and frequencies. NULL: no memory. */
json_t *plan_tree(const struct plan *p, const struct plan_model *m, bool whole);

/* plan_read on n bytes of text; `path` is for messages. After a failure parts of m may be the file's. */
int plan_parse(struct plan **out, struct plan_model *m, const struct machine *machine, const char *text,
               size_t n, const char *path, struct err *e);

#endif
