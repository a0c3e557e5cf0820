/* Summaries of measurements: see stats.h. */
#include "base/stats.h"

#include "base/err.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RESAMPLES = 4000 };

static int compare(const void *pa, const void *pb)
{
    double a = *(const double *)pa, b = *(const double *)pb;
    if (isnan(a) || isnan(b)) return isnan(a) - isnan(b);
    return (a > b) - (a < b);
}

void stats_sort(double *x, size_t n)
{
    qsort(x, n, sizeof *x, compare);
}

double stats_percentile(const double *sorted, size_t n, double p)
{
    double at = (double)(n - 1) * p / 100;
    if (!(at > 0)) return sorted[0];
    size_t i = (size_t)at;
    if (i >= n - 1) return sorted[n - 1];
    return sorted[i] + (sorted[i + 1] - sorted[i]) * (at - (double)i);
}

/* The median of a resample, drawn as counts of each (sorted) value: no sorting again. */
static double resampled_median(const double *sorted, size_t n, unsigned *count, struct rng *r)
{
    memset(count, 0, n * sizeof *count);
    for (size_t i = 0; i < n; i++) count[rng_below(r, n)]++;
    size_t lower = (n - 1) / 2, upper = n / 2, seen = 0;
    double low = 0;
    for (size_t i = 0;; i++) {
        size_t next = seen + count[i];
        if (seen <= lower && lower < next) low = sorted[i];
        if (upper < next) return lower == upper ? sorted[i] : (low + sorted[i]) / 2;
        seen = next;
    }
}

int stats_of(struct stats *out, const double *x, size_t n, struct err *e)
{
    if (n == 0) return err_set(e, ERR_ARG, "no measurements to summarise");
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return err_set(e, ERR_NUMERIC, "measurement %zu is not a finite number", i);
        sum += x[i];
    }
    double *sorted = malloc(n * sizeof *sorted), *medians = malloc(RESAMPLES * sizeof *medians);
    unsigned *count = malloc(n * sizeof *count);
    int rc = 0;
    if (!sorted || !medians || !count) {
        rc = err_set(e, ERR_NOMEM, "no memory to summarise %zu measurements", n);
        goto out;
    }
    memcpy(sorted, x, n * sizeof *sorted);
    stats_sort(sorted, n);
    struct rng r;
    rng_init(&r, 20240229);
    for (int i = 0; i < RESAMPLES; i++) medians[i] = resampled_median(sorted, n, count, &r);
    stats_sort(medians, RESAMPLES);
    *out = (struct stats){.n = n,
                          .median = stats_percentile(sorted, n, 50),
                          .mean = sum / (double)n,
                          .min = sorted[0],
                          .max = sorted[n - 1],
                          .low = stats_percentile(medians, RESAMPLES, 2.5),
                          .high = stats_percentile(medians, RESAMPLES, 97.5)};
out:
    free(sorted);
    free(medians);
    free(count);
    return rc;
}

int stats_of_ratios(struct stats *out, const double *a, const double *b, size_t n, struct err *e)
{
    double *ratio = malloc((n ? n : 1) * sizeof *ratio);
    if (!ratio) return err_set(e, ERR_NOMEM, "no memory for %zu ratios", n);
    for (size_t i = 0; i < n; i++) ratio[i] = a[i] / b[i]; /* b of 0 gives infinity or NaN: refused below */
    int rc = stats_of(out, ratio, n, e);
    free(ratio);
    return rc;
}
