/* Summaries of measurements: medians with bootstrap intervals, because timings are skewed and few. */
#ifndef BASE_STATS_H
#define BASE_STATS_H

#include <stddef.h>

struct err;

struct stats {
    size_t n;
    double median, mean, min, max;
    double low, high; /* 95 % interval of the median: percentile bootstrap, fixed seed; n = 1: the value */
};

/* Of n ≥ 1 finite numbers, in any order (not changed). ERR_ARG for n = 0, ERR_NUMERIC for NaN or infinity. */
int stats_of(struct stats *out, const double *x, size_t n, struct err *e);

/* Of the ratios a[i]/b[i] of n pairs measured side by side, b[i] > 0: what disturbs both cancels. */
int stats_of_ratios(struct stats *out, const double *a, const double *b, size_t n, struct err *e);

/* The p-th percentile (0 … 100) with linear interpolation between neighbours; `sorted` is ascending, n ≥ 1.
 */
double stats_percentile(const double *sorted, size_t n, double p);

/* Sorts ascending; NaN goes last. */
void stats_sort(double *x, size_t n);

#endif
