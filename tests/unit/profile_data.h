/* What the tests of profiles share: neurons whose activations are known, and profiles of them. */
#ifndef TESTS_UNIT_PROFILE_DATA_H
#define TESTS_UNIT_PROFILE_DATA_H

#include "tests/unit/temp_dir.h"

#include "base/rng.h"
#include "base/strbuf.h"
#include "io/gguf.h"
#include "placement/profile_priv.h"

#include <math.h>
#include <sys/stat.h>

enum { L = 3, F = 77, D = 12, PIECE = 150, PIECES = 4, HELD = 1, T = PIECE * PIECES };

static const struct profile_subject subject = {.identity = {1, 2, 3},
                                               .model = "tiny",
                                               .activation = "relu",
                                               .zeros = true,
                                               .layers = L,
                                               .neurons = F,
                                               .width = D};

/* Pieces 0 … PIECES-1-HELD are calibration, the rest held out. */
struct data {
    float h[L][T][F], norms[L][F], down[L][F][D], epsilon[L];
};

/* Neurons differ in how often they fire, and half of what a token has stays for the next. */
static inline struct data *make(uint64_t seed, float epsilon)
{
    struct data *x = calloc(1, sizeof *x);
    struct rng r;
    assert_non_null(x);
    rng_init(&r, seed);
    for (int l = 0; l < L; l++) {
        x->epsilon[l] = epsilon * (float)(1 + l);
        for (int i = 0; i < F; i++) {
            double sum = 0.0;
            for (int c = 0; c < D; c++) {
                x->down[l][i][c] = (float)rng_normal(&r);
                sum += (double)x->down[l][i][c] * (double)x->down[l][i][c];
            }
            x->norms[l][i] = (float)sqrt(sum);
        }
        for (int t = 0; t < T; t++)
            for (int i = 0; i < F; i++) {
                double often = i == 5 ? 0.0 : i == 6 ? 1.0 : 0.9 * exp(-(double)i / (10.0 * (l + 1)));
                bool stay = t && rng_f64(&r) < 0.5;
                bool on = stay ? x->h[l][t - 1][i] != 0.0f : rng_f64(&r) < often;
                x->h[l][t][i] = on ? (float)(rng_normal(&r) * (1.0 + i % 3)) : i % 2 ? -0.0f : 0.0f;
            }
    }
    return x;
}

static inline bool is_on(const struct data *x, int l, int t, int i)
{
    return x->h[l][t][i] != 0.0f && fabsf(x->h[l][t][i]) * x->norms[l][i] >= x->epsilon[l];
}

static inline enum profile_text text_of(int piece)
{
    return piece < PIECES - HELD ? PROFILE_CALIBRATION : PROFILE_HELD_OUT;
}

/* Records pieces [p0, p1) in batches of odd sizes; every piece is traced from token 10 on. */
static inline void record(struct profile_recorder *r, const struct data *x, int p0, int p1)
{
    struct err e;
    for (int l = 0; l < L; l++) OK(profile_recorder_layer(r, (uint32_t)l, x->norms[l], x->epsilon[l], &e));
    for (int p = p0; p < p1; p++) {
        OK(profile_recorder_begin(r, text_of(p), (uint64_t)p * PIECE, 10, PIECE, &e));
        for (uint32_t at = 0, n; at < PIECE; at += n) {
            n = PIECE - at < 47 ? PIECE - at : 47;
            for (uint32_t l = 0; l < L; l++)
                OK(profile_recorder_add(r, l, at, n, x->h[l][(uint32_t)p * PIECE + at], &e));
        }
    }
}

static inline struct profile *profile_of(const struct data *x, int p0, int p1)
{
    struct err e;
    struct profile_recorder *r;
    struct profile *p;
    OK(profile_recorder_create(&r, &(struct profile_settings){.subject = subject}, &e));
    record(r, x, p0, p1);
    OK(profile_recorder_finish(&p, r, &e));
    profile_recorder_destroy(&r);
    return p;
}

#endif
