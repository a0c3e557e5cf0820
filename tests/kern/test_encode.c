/* Encoders: F16, BF16 and Q8_0 give the reference's bytes, Q4_0 and the K types an error no larger than the
 * reference encoder's, on real rows where the shared data is at hand ($CALOR_SHARED/data/quant) and on
 * made-up ones; what cannot be written is refused by index. */
#include "base/clock.h"
#include "base/err.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "tests/kern/tap.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static const enum dtype types[] = {DT_F32, DT_F16, DT_BF16, DT_Q8_0, DT_Q4_0, DT_Q4_K, DT_Q5_K, DT_Q6_K};
enum { TYPES = sizeof types / sizeof *types };

static void *slurp(const char *name, size_t *size)
{
    const char *shared = getenv("CALOR_SHARED");
    char path[1024];
    snprintf(path, sizeof path, "%s/data/quant/%s", shared ? shared : "../shared", name);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *data = malloc(1 << 20);
    *size = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

/* ‖decode(encode(x)) − x‖ / ‖x‖, or -1 where encoding failed; *out (may be NULL) receives the bytes. */
static double round_trip(enum dtype type, const float *x, int64_t n, void **out)
{
    uint64_t bytes;
    dtype_row_bytes(type, (uint64_t)n, &bytes);
    void *b = malloc(bytes);
    float *y = malloc((size_t)n * sizeof *y);
    double off = -1, size = 0;
    if (kern_encode(type, b, x, n, NULL) == 0) {
        kern_tier(KERN_REF)->decode(type, y, b, n);
        off = 0;
        for (int64_t i = 0; i < n; i++) {
            off += ((double)y[i] - x[i]) * ((double)y[i] - x[i]);
            size += (double)x[i] * x[i];
        }
        off = size > 0 ? sqrt(off / size) : sqrt(off);
    }
    free(y);
    if (out)
        *out = b;
    else
        free(b);
    return off;
}

static void check_real(struct tap *tap)
{
    size_t bytes, size;
    float *src = slurp("src_8x512.f32", &bytes);
    for (int i = 0; i < TYPES; i++) {
        char name[80], file[80];
        const char *type = dtype_name(types[i]);
        snprintf(name, sizeof name, "encoding real rows as %s", type);
        snprintf(file, sizeof file, "%s.blocks", type);
        void *blocks = slurp(file, &size), *got = NULL;
        if (!src || !blocks) {
            if (types[i] != DT_F32) tap_skip(tap, name, "no such vector in the shared data");
        } else if (types[i] == DT_Q4_0 || types[i] == DT_Q4_K || types[i] == DT_Q5_K || types[i] == DT_Q6_K) {
            int64_t n = (int64_t)(bytes / 4);
            double error = round_trip(types[i], src, n, &got), theirs = 0, total = 0;
            float *y = malloc(bytes);
            kern_tier(KERN_REF)->decode(types[i], y, blocks, n);
            for (int64_t j = 0; j < n; j++) {
                theirs += ((double)y[j] - src[j]) * ((double)y[j] - src[j]);
                total += (double)src[j] * src[j];
            }
            theirs = sqrt(theirs / total);
            free(y);
            tap_ok(tap, error >= 0 && error <= theirs,
                   "%s: relative error %.5f, the reference encoder's %.5f", name, error, theirs);
        } else {
            double error = round_trip(types[i], src, (int64_t)(bytes / 4), &got);
            tap_ok(tap, error >= 0 && memcmp(got, blocks, size) == 0, "%s: the reference's bytes", name);
        }
        free(blocks);
        free(got);
    }
    free(src);
}

/* Normal values: what each type's error is on them, within a few percent. */
static void check_normal(struct tap *tap)
{
    static const double most[TYPES] = {0, 0.0003, 0.002, 0.006, 0.083, 0.0715, 0.0355, 0.0180};
    enum { N = 1 << 16 };
    float *x = malloc(N * sizeof *x);
    struct rng rng;
    rng_init(&rng, 11);
    for (int i = 0; i < N; i++) x[i] = (float)rng_normal(&rng);
    for (int i = 0; i < TYPES; i++) {
        uint64_t start = clock_ns();
        double error = round_trip(types[i], x, N, NULL), ns = clock_since(start) * 1e9 / N;
        tap_ok(tap, error >= 0 && error <= most[i],
               "normal values as %s: relative error %.5f (%.1f ns a value)", dtype_name(types[i]), error, ns);
    }
    free(x);
}

/* Blocks that break searches: all must come back close, whatever the scale. */
static void check_odd(struct tap *tap)
{
    static const char *const names[] = {"zero",     "equal", "negative", "one spike",    "tiny",
                                        "denormal", "large", "ramp",     "equal above 0"};
    for (int i = 0; i < TYPES; i++) {
        double worst = 0;
        const char *where = "";
        for (int kind = 0; kind < 9; kind++) {
            float x[512];
            struct rng rng;
            rng_init(&rng, 3);
            for (int j = 0; j < 512; j++) {
                double r = rng_normal(&rng);
                double v[] = {0,       -0.7,     -fabs(r), j % 64 == 9 ? 100 : 0, r * 1e-3, r * 1e-39,
                              r * 1e4, j * 0.01, 3};
                x[j] = (float)v[kind];
            }
            double error = round_trip(types[i], x, 512, NULL);
            if (kind == 5 && error == 1) error = 0; /* becomes zero: right where the scale is an F16 */
            if (error < 0 || error > worst) {
                worst = error < 0 ? 99 : error;
                where = names[kind];
            }
        }
        tap_ok(tap, worst < 0.12, "odd blocks as %s: relative error at most %.5f (%s)", dtype_name(types[i]),
               worst, where);
    }
}

static void check_refusals(struct tap *tap)
{
    float x[512] = {0};
    unsigned char out[4096];
    struct err e;
    for (int i = 0; i < TYPES; i++) {
        const float bad[] = {NAN, INFINITY, -INFINITY};
        bool good = true;
        for (int k = 0; k < 3; k++) {
            for (int at = 0; at < 512; at += 73) {
                char index[32];
                snprintf(index, sizeof index, "value %d ", at);
                x[at] = bad[k];
                good = good && kern_encode(types[i], out, x, 512, &e) == ERR_NUMERIC &&
                       strstr(e.msg, index) != NULL;
                x[at] = 0;
            }
        }
        tap_ok(tap, good, "%s: NaN and infinity are refused by index", dtype_name(types[i]));
    }
    x[300] = 70000;
    tap_ok(tap, kern_encode(DT_F16, out, x, 512, &e) == ERR_NUMERIC && strstr(e.msg, "value 300 "),
           "F16: a value beyond its range is refused: %s", e.msg);
    x[300] = 1e7f;
    tap_ok(tap, kern_encode(DT_Q4_K, out, x, 512, &e) == ERR_NUMERIC,
           "Q4_K: a value beyond its range is refused");
    x[300] = 0;
    tap_ok(tap, kern_encode(DT_IQ1_S, out, x, 512, &e) == ERR_UNSUPPORTED && !kern_can_encode(DT_IQ1_S),
           "a type without an encoder is refused: %s", e.msg);
    tap_ok(tap, kern_encode(DT_Q4_K, out, x, 100, &e) == ERR_ARG, "a part of a block is refused: %s", e.msg);
}

int main(void)
{
    struct tap tap = {0};
    check_real(&tap);
    check_normal(&tap);
    check_odd(&tap);
    check_refusals(&tap);
    return tap_done(&tap);
}
