/* The kernel harness (checkasm's idea): every tier's every kernel against plain double arithmetic, with
 * adversarial inputs, inside memory whose ends fault. One binary, also the benchmark (--bench). */
#ifndef TESTS_KERN_KERN_H
#define TESTS_KERN_KERN_H

#include "base/dtype.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "tests/kern/tap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kt {
    struct tap tap;
    uint64_t seed;      /* CALOR_SEED, or the default: printed, so that a failure can be repeated */
    const char *filter; /* words that must all occur in a check's name; NULL: all checks */
    int threads;        /* of the benchmark */
    double seconds;     /* of the benchmark, a measurement */
};

/* The tiers' tables and then variants of them (variants.c); NULL where this CPU or build has none. */
enum { KT_AVX2_MADD = KERN_TIERS, KT_AMX_EMULATED, KT_TABLES };
const struct kern_ops *kt_table(int t);
/* The table that table t overlays; NULL for the first. */
const struct kern_ops *kt_below(int t);
/* True if table t's mm of this type rounds the tokens to BF16. */
bool kt_rounds(int t, int type);

/* True if a check of this name is asked for. */
bool kt_wanted(const struct kt *k, const char *name);

/* The worst that one check found. */
struct verdict {
    bool ran, failed;
    double worst; /* largest error seen, in the check's own measure */
    char why[400];
};
void verdict_fail(struct verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Prints the check's line. */
void verdict_report(struct kt *k, const struct verdict *v, const char *name);

/* Calls fn; false if it touched memory it must not (the fault is caught). */
bool kt_survives(void (*fn)(void *), void *arg);

/* Memory of exactly n bytes: the byte after it and the page before it fault. The start is 64-byte aligned
 * only if n is a multiple of 64. Bytes before the start in its first page are a pattern that guard_intact
 * checks. */
struct guarded {
    unsigned char *p;
    size_t n;
    unsigned char *map;
    size_t map_bytes;
};
void guard_make(struct guarded *g, size_t n);
bool guard_intact(const struct guarded *g);
void guard_free(struct guarded *g);

enum fill_w { W_NORMAL, W_WILD, W_MAX, W_MIN, W_ZERO, W_TINY, W_HUGE, W_FILLS };
enum fill_x { X_NORMAL, X_OUTLIER, X_CONST, X_ALTERNATE, X_ZERO, X_TINY, X_SMALL, X_BIG, X_FILLS };
extern const char *const fill_w_name[W_FILLS], *const fill_x_name[X_FILLS];

/* n values of a row of a weight type, finite whatever the fill. */
void fill_weights(struct rng *r, enum dtype type, enum fill_w how, unsigned char *dst, int64_t n);
void fill_floats(struct rng *r, enum fill_x how, float *dst, int64_t n);

void check_products(struct kt *k);
void check_bits(struct kt *k);
void check_few(struct kt *k);
void check_planes(struct kt *k);
void check_listed(struct kt *k);
void check_down(struct kt *k);
void check_split(struct kt *k);
void check_vec(struct kt *k);
void check_attn(struct kt *k);

/* ---- The benchmark ---- */
struct team;
struct team_member;
void bench_all(struct kt *k);
/* What a sparse FFN reads, of one type; w: `bytes` of anything finite. */
void bench_sparse(const struct kt *k, struct team *team, enum dtype type, unsigned char *w, size_t bytes);
/* Seconds of the fastest of several runs. */
double kt_best(const struct kt *k, struct team *team, void (*fn)(struct team_member *, void *), void *arg);
/* Zeroed memory of the system, in huge pages where there are some; munmap it. */
void *kt_big(size_t n);

/* A number in [0, n). */
static inline int64_t pick(struct rng *r, int64_t n)
{
    return (int64_t)rng_below(r, (uint64_t)n);
}

#endif
