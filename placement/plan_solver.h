/* The search for the fastest placement under two capacities. Private to placement/ (and its tests). */
#ifndef PLACEMENT_PLAN_SOLVER_H
#define PLACEMENT_PLAN_SOLVER_H

#include "placement/cost.h"

struct err;
struct plan_model;

struct solver_table { /* of one part: units + 1 values each */
    double *gpu;      /* GPU's share of the phase with [0, k) there */
    double *cpu;      /* CPU's share with [k, units) there */
    double *disk;     /* time to read what is needed of [k, units) */
};

enum { SOLVER_POOL = 32 };

/* Capacities for weights and KV; tiers that may be used. */
struct solver {
    const struct cost *c;
    uint64_t vram, ram;
    bool gpu, disk;
    struct solver_table *table; /* entries × PLAN_PARTS */
    double *memory;
    /* Placements of each entry met in the search, newest over oldest: what local search may jump to. */
    struct cost_place *pool; /* entries × SOLVER_POOL */
    uint32_t *pooled;        /* how many were put there */
    /* Prices of a byte at the bound: seconds a token. */
    double vram_price, ram_price;
    double bound; /* no placement takes less */
};

/* *s is zeroed after a failure; solver_finish either way. */
int solver_init(struct solver *s, const struct cost *c, bool gpu, bool disk, struct err *e);
void solver_finish(struct solver *s);

/* A placement's time by the tables (of one entry, of all), and whether it fits. */
double solver_layer_time(const struct solver *s, uint32_t i, const struct cost_place *p);
double solver_time(const struct solver *s, const struct cost_place *places);
bool solver_fits(const struct solver *s, const struct cost_place *places);
void solver_used(const struct solver *s, const struct cost_place *places, uint64_t used[PLAN_TIERS]);

/* Lagrangian bound: s->bound and prices are set. best: the fastest placement met that fits, *time INFINITY
 * where there was none; over: the one nearest to the bound that does not fit. entries of each. */
int solver_dual(struct solver *s, struct cost_place *best, struct cost_place *over, double *time,
                struct err *e);
/* Makes a placement fit by moves that cost little; false where it finds none. */
bool solver_repair(struct solver *s, struct cost_place *places);
/* Improves a placement that fits by moving parts of one layer, then (at most `pairs` times) of two at once.
 * Returns its time. */
double solver_improve(struct solver *s, struct cost_place *places, int pairs, struct err *e);
/* The bound's part of entry i: no placement of it has less time and prices. */
double solver_least(struct solver *s, uint32_t i);
/* In small problems the best placement there is: `places` is replaced where it is faster than `time`; returns
 * its time, else `time`. */
double solver_exact(struct solver *s, struct cost_place *places, double time, struct err *e);
/* Whether anything fits at all. */
bool solver_possible(struct solver *s);

/* Rules to compare with, and to start from. Places that do not fit either tier go to the disk (where it may
 * be used). False: does not fit. */
bool solver_by_layer(const struct solver *s, struct cost_place *places);
bool solver_by_frequency(const struct solver *s, const struct plan_model *m, struct cost_place *places,
                         struct err *e);

#endif
