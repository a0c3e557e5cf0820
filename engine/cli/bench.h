/* calor bench: what it measures and how it is written out. */
#ifndef ENGINE_CLI_BENCH_H
#define ENGINE_CLI_BENCH_H

#include "base/hoststate.h"
#include "base/stats.h"
#include "engine/calor.h"

#include <stdbool.h>
#include <stdint.h>

enum { BENCH_MAX_TESTS = 32, BENCH_MAX_REPEATS = 1000 };

/* One kind of run, repeated. */
struct bench_test {
    char name[24]; /* "pp512": a prompt of 512 tokens; "tg128": 128 tokens one after another */
    bool generate;
    uint32_t tokens;
    double *seconds, *rate; /* a repetition; rate in tokens/s, higher is better */
    struct stats stats;     /* of rate */
    double *token;          /* generation: seconds of each token, one repetition after the other */
};

struct bench_result {
    const char *path, *mode, *kv;
    calor_model_info model;
    calor_session_info session;
    double load_seconds;     /* opening the model and a session */
    uint64_t token_bytes;    /* weights read for each token when decoding */
    uint64_t dense_bytes;    /* the same with nothing left out */
    calor_ffn_counts ffn;    /* of all runs of single tokens, all layers; zeros: not counted */
    uint64_t ffn_tokens;     /* how many tokens that were */
    uint64_t peak_memory;    /* of the process: resident bytes, pages of the mapped file included */
    uint64_t peak_anonymous; /* of these, what is not pages of files: resident when the runs were over */
    int repeats;
    struct bench_test test[BENCH_MAX_TESTS];
    int n_tests;
    double *bandwidth; /* bytes/s, one before the first repetition and one after each */
    int n_bandwidth;
    struct stats bandwidth_stats;
    struct hoststate host;
};

enum bench_format { BENCH_TEXT, BENCH_JSON, BENCH_MD, BENCH_CSV };

/* Share of the read bandwidth that decoding uses, or 0 where it was not measured. */
double bench_share(const struct bench_result *r, const struct bench_test *t);

int bench_report(const struct bench_result *r, enum bench_format format, struct err *e);

#endif
