/* Read bandwidth of the memory, as a team of threads sees it: the ceiling of decoding, which reads every
 * weight once a token. */
#ifndef BASE_MEMBW_H
#define BASE_MEMBW_H

#include <stdint.h>

struct err;
struct team;

struct membw {
    double median, best; /* bytes/s over passes; higher is better */
    double low, high;    /* the 10th and 90th percentile of the passes */
    int passes, threads;
    uint64_t bytes; /* of the buffer read in each pass */
};

/* Reads a buffer of `bytes` (0: 1 GiB, less where memory is short; caches must be small beside it) from end
 * to end with the widest loads the processor has, shared out over the team, for at least `seconds` and three
 * passes. ERR_NOMEM when the buffer does not fit. */
int membw_read(struct membw *out, struct team *t, uint64_t bytes, double seconds, struct err *e);

/* The same for rows of `row` bytes (a multiple of 512) of which every pass reads another eighth, drawn at
 * random, in ascending order: what an FFN reads of which few neurons are active. `bytes` counts what the
 * buffer holds, rates what was read. ERR_ARG for a row that does not fit. */
int membw_rows(struct membw *out, struct team *t, uint64_t bytes, uint32_t row, double seconds,
               struct err *e);

#endif
