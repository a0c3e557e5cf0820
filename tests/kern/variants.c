/* Tables that no machine chooses as they are, so that every kernel is tested on any machine: "avx2_madd" is
 * the avx2 tier as on a CPU without VNNI, "amx_emulated" the amx tier's source built on a twin of the tile
 * instructions in plain C. */
#include "base/half.h"
#include "tests/kern/kern.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if KERN_X86
#include "kernels/cpu/tiers.h"

void amx_emulated_mm_init(struct kern_ops *ops);

static void avx2_madd_init(struct kern_ops *ops)
{
    avx2_mv_madd_init(ops);
    avx2_mm_madd_init(ops);
}

static const struct kern_ops *variant(enum kern_tier base, const char *name, void (*init)(struct kern_ops *),
                                      struct kern_ops *table)
{
    const struct kern_ops *ops = kern_tier(base);
    if (!ops) return NULL;
    if (!table->name) {
        *table = *ops;
        table->name = name;
        init(table);
    }
    return table;
}
#endif

const struct kern_ops *kt_table(int t)
{
#if KERN_X86
    static struct kern_ops madd, amx;
    if (t == KT_AVX2_MADD) return variant(KERN_AVX2, "avx2_madd", avx2_madd_init, &madd);
    if (t == KT_AMX_EMULATED) return variant(KERN_AVX512, "amx_emulated", amx_emulated_mm_init, &amx);
#endif
    return t < KERN_TIERS ? kern_tier((enum kern_tier)t) : NULL;
}

const struct kern_ops *kt_below(int t)
{
    if (t == KT_AVX2_MADD) return kern_tier(KERN_AVX2);
    if (t == KT_AMX_EMULATED) return kern_tier(KERN_AVX512);
    return t > 0 ? kern_tier((enum kern_tier)(t - 1)) : NULL;
}

bool kt_rounds(int t, int type)
{
    return type == DT_BF16 && (t == KT_AMX_EMULATED || t == KERN_AMX);
}

/* ---- Bits ---- */

struct inputs {
    unsigned char *w;
    float *x;
    size_t row_bytes;
    int64_t rows, n;
};

static void *get(size_t n)
{
    return aligned_alloc(64, (n + 63) / 64 * 64 + 64);
}

/* y of tokens [t0, t1). */
static void multiply(const struct kern_mat *m, const struct inputs *in, float *y, int64_t t0, int64_t t1)
{
    int64_t T = t1 - t0;
    void *xp = get(m->x_bytes(in->n, T)), *scratch = get(m->scratch_bytes(in->n));
    m->x_pack(xp, in->x + t0 * in->n, in->n, in->n, T, 0, T);
    m->rows(y + t0 * in->rows, in->rows, in->w, in->row_bytes, in->rows, in->n, xp, T, scratch);
    free(xp);
    free(scratch);
}

/* Products of many tokens promise the same bits however many tokens come together (the parts here take other
 * paths than the whole), and variants the bits of their tier. The one exception is BF16 on AMX: it rounds the
 * tokens to BF16 and sums in float, so it cannot have the bits of the avx512 tier (check_products has
 * its limit of error); its rounding must be the one of f32_to_bf16. */
static void bits(struct kt *k, int t, int type)
{
    const struct kern_ops *ops = kt_table(t);
    const struct kern_mat *m = ops->mm[type], *below = kt_below(t)->mm[type];
    const char *name = dtype_info((uint32_t)type)->name;
    char line[2][96];
    snprintf(line[0], sizeof line[0], "%s mm %s bits: tokens together or apart", ops->name, name);
    bool rounds = kt_rounds(t, type), twin = t >= KERN_TIERS || rounds;
    if (rounds)
        snprintf(line[1], sizeof line[1], "%s mm %s bits: as of rounded tokens", ops->name, name);
    else
        snprintf(line[1], sizeof line[1], "%s mm %s bits: as %s", ops->name, name, kt_below(t)->name);
    bool wanted[2] = {kt_wanted(k, line[0]), twin && kt_wanted(k, line[1])};
    if (m == below || (!wanted[0] && !wanted[1])) return;
    struct verdict v[2] = {{.ran = true}, {.ran = true}};
    enum { T = 300 };
    static const int64_t cuts[] = {0, 19, 83, 147, 275, T};
    const int64_t block = dtype_info((uint32_t)type)->block, ns[] = {512, 768, block == 256 ? 1024 : 672};
    for (int i = 0; i < 3; i++) {
        struct inputs in = {.rows = 205, .n = ns[i]};
        uint64_t bytes;
        dtype_row_bytes((uint32_t)type, (uint64_t)in.n, &bytes);
        in.row_bytes = (size_t)bytes;
        in.w = get(in.row_bytes * (size_t)in.rows);
        in.x = get((size_t)(T * in.n) * sizeof *in.x);
        struct rng rng;
        rng_init(&rng, k->seed + (uint64_t)(type * 8 + i));
        for (int64_t r = 0; r < in.rows; r++)
            fill_weights(&rng, (enum dtype)type, r % 7 ? W_NORMAL : W_WILD, in.w + (size_t)r * in.row_bytes,
                         in.n);
        for (int64_t j = 0; j < T; j++)
            fill_floats(&rng, j % 5 ? X_NORMAL : X_OUTLIER, in.x + j * in.n, in.n);
        size_t size = (size_t)(T * in.rows) * sizeof(float);
        float *whole = get(size), *other = get(size);
        multiply(m, &in, whole, 0, T);
        if (wanted[0]) {
            for (int c = 0; c < 5; c++) multiply(m, &in, other, cuts[c], cuts[c + 1]);
            if (memcmp(whole, other, size) != 0) verdict_fail(&v[0], "other bits at n %d", (int)in.n);
        }
        if (wanted[1]) {
            for (int64_t j = 0; rounds && j < T * in.n; j++) in.x[j] = bf16_to_f32(f32_to_bf16(in.x[j]));
            multiply(rounds ? m : below, &in, other, 0, T);
            if (memcmp(whole, other, size) != 0) verdict_fail(&v[1], "other bits at n %d", (int)in.n);
        }
        free(in.w);
        free(in.x);
        free(whole);
        free(other);
    }
    for (int i = 0; i < 2; i++)
        if (wanted[i]) verdict_report(k, &v[i], line[i]);
}

void check_bits(struct kt *k)
{
    for (int t = KERN_AVX2; t < KT_TABLES; t++) {
        if (!kt_table(t)) continue;
        for (int type = 0; type < DT_COUNT; type++) {
            const struct dtype_info *info = dtype_info((uint32_t)type);
            if (info && info->weights) bits(k, t, type);
        }
    }
}
