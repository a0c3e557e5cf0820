/* Blocks of every type against outside oracles: hashes of what the gguf Python package reads from seeded
 * random blocks (decode_vectors.inc, written by make_decode_vectors.py), and real quantised rows where the
 * shared data is at hand ($CALOR_SHARED/data/quant). Every tier's decoder must give the same bits. */
#include "base/dtype.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "tests/kern/tap.h"

#include <inttypes.h>
#include <stdlib.h>

enum { BLOCKS = 24 };

static const struct vector {
    enum dtype type;
    int halves[2]; /* offsets of the high bytes of F16 fields */
    uint64_t hash;
} vectors[] = {
#include "tests/kern/decode_vectors.inc"
};

static uint64_t fnv(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void check_hash(struct tap *tap, const struct kern_ops *ops, const struct vector *v)
{
    const struct dtype_info *info = dtype_info(v->type);
    size_t n = (size_t)BLOCKS * info->block, bytes = (size_t)BLOCKS * info->bytes;
    unsigned char *raw = malloc(bytes + 9);
    float *values = malloc(n * sizeof *values);
    struct rng rng;
    rng_init(&rng, v->type);
    unsigned char *b = raw + 1; /* rows may start anywhere */
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = rng_u64(&rng);
        memcpy(b + i, &word, 8);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        for (int h = 0; h < 2 && v->halves[h] >= 0; h++) b[i * info->bytes + (size_t)v->halves[h]] &= 0xbf;
    ops->decode(v->type, values, b, (int64_t)n);
    for (size_t i = 0; i < n; i++) values[i] += 0; /* -0 and 0 are the same value */
    uint64_t h = fnv(values, n * sizeof *values);
    tap_ok(tap, h == v->hash, "%s: decoding random %s blocks (%016" PRIx64 ")", ops->name, info->name, h);
    free(raw);
    free(values);
}

static void *slurp(const char *dir, const char *name, const char *suffix, size_t *size)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/data/quant/%s%s", dir, name, suffix);
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *data = malloc(1 << 20);
    *size = fread(data, 1, 1 << 20, f);
    fclose(f);
    return data;
}

static void check_real(struct tap *tap, const struct kern_ops *ops, enum dtype type, const char *dir)
{
    const struct dtype_info *info = dtype_info(type);
    size_t bytes, expected_bytes;
    char name[80];
    snprintf(name, sizeof name, "%s: decoding real %s rows", ops->name, info->name);
    void *raw = slurp(dir, info->name, ".blocks", &bytes),
         *expected = slurp(dir, info->name, ".deq.f32", &expected_bytes);
    if (!raw || !expected) {
        tap_skip(tap, name, "no such vector in the shared data");
    } else {
        size_t n = bytes / info->bytes * info->block, bad = n;
        float *values = malloc(n * sizeof *values);
        ops->decode(type, values, raw, (int64_t)n);
        if (n * sizeof *values == expected_bytes)
            for (bad = 0; bad < n && values[bad] == ((float *)expected)[bad];) bad++;
        tap_ok(tap, bad == n && n * sizeof *values == expected_bytes, "%s (%zu of %zu values in order)", name,
               bad, n);
        free(values);
    }
    free(raw);
    free(expected);
}

int main(void)
{
    struct tap tap = {0};
    const char *shared = getenv("CALOR_SHARED");
    if (!shared) shared = "../shared";
    for (int t = 0; t < KERN_TIERS; t++) {
        const struct kern_ops *ops = kern_tier((enum kern_tier)t);
        if (!ops || (t > 0 && ops->decode == kern_tier(KERN_REF)->decode)) continue;
        for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) check_hash(&tap, ops, &vectors[i]);
        for (int type = 0; type < DT_COUNT; type++)
            if (dtype_info((uint32_t)type) && dtype_info((uint32_t)type)->weights && type != DT_F32)
                check_real(&tap, ops, (enum dtype)type, shared);
    }
    return tap_done(&tap);
}
