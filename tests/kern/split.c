/* SPLIT layouts (kern_split, kern_unsplit) keep every byte of a matrix, whatever the bytes are. */
#include "base/err.h"
#include "tests/kern/kern.h"

#include <inttypes.h>
#include <stdlib.h>

struct layout {
    enum dtype type;
    int64_t d, f;
    size_t row_bytes;
    struct guarded src, rows, groups, supers, back;
    uint32_t *at;
    size_t stride;
    struct rng rng;
    int status;
    struct err e;
};

/* Columns of the file (rows of d) and neurons in pieces, from the last to the first. */
static void take_apart(void *arg)
{
    struct layout *l = arg;
    struct kern_split_dst dst = {.rows = l->rows.p,
                                 .groups = l->groups.p,
                                 .supers = l->supers.n ? l->supers.p : NULL,
                                 .stride = l->stride,
                                 .at = l->at};
    int64_t wide = KERN_COLUMNS * (1 + pick(&l->rng, 2)), deep = 256 * (1 + pick(&l->rng, 2));
    for (int64_t c = (l->d - 1) / wide * wide; c >= 0; c -= wide)
        for (int64_t i = (l->f - 1) / deep * deep; i >= 0 && l->status == 0; i -= deep)
            l->status =
                kern_split(l->type, &dst, l->src.p, l->row_bytes, l->d, l->f, i,
                           i + deep < l->f ? i + deep : l->f, c, c + wide < l->d ? c + wide : l->d, &l->e);
}

static void put_together(void *arg)
{
    struct layout *l = arg;
    struct kern_down_rows w = {.rows = l->rows.p,
                               .stride = l->stride,
                               .groups = l->groups.p,
                               .supers = l->supers.n ? l->supers.p : NULL};
    int64_t wide = KERN_COLUMNS * (1 + pick(&l->rng, 2));
    for (int64_t c = 0; c < l->d && l->status == 0; c += wide)
        l->status = kern_unsplit(l->type, l->back.p + (size_t)c * l->row_bytes, l->row_bytes, &w, l->at, l->d,
                                 l->f, c, c + wide < l->d ? c + wide : l->d, &l->e);
}

static void try_split(struct verdict *v, enum dtype type, int64_t d, int64_t f, size_t pad, bool permuted,
                      uint64_t seed)
{
    const struct kern_down *k = kern_tier(KERN_REF)->down_split[type];
    struct layout l = {.type = type, .d = d, .f = f};
    uint64_t packed;
    rng_init(&l.rng, seed);
    dtype_row_bytes((uint32_t)type, (uint64_t)f, &packed);
    l.row_bytes = (size_t)packed + pad;
    l.stride = k->neuron_bytes(d) + 64 * (size_t)pick(&l.rng, 2);
    const size_t own = k->neuron_bytes(d);
    guard_make(&l.src, (size_t)(d - 1) * l.row_bytes + (size_t)packed);
    guard_make(&l.back, l.src.n);
    guard_make(&l.rows, (size_t)(f - 1) * l.stride + own);
    guard_make(&l.groups, (size_t)(f / k->group) * k->group_bytes(d));
    guard_make(&l.supers, (size_t)(f / 256) * k->super_bytes(d));
    for (size_t i = 0; i < l.src.n; i++) l.src.p[i] = (unsigned char)rng_u64(&l.rng);
    memset(l.rows.p, 0xee, l.rows.n);
    memset(l.groups.p, 0xee, l.groups.n);
    memset(l.back.p, 0xee, l.back.n);
    for (int64_t c = 0; c < d; c++) /* what lies between rows is nobody's */
        if (pad && c + 1 < d) memset(l.src.p + (size_t)c * l.row_bytes + packed, 0xee, pad);
    if (permuted) {
        l.at = malloc((size_t)f * sizeof *l.at);
        for (int64_t i = 0; i < f; i++) l.at[i] = (uint32_t)i;
        for (int64_t i = f - 1; i > 0; i--) {
            int64_t j = pick(&l.rng, i + 1);
            uint32_t old = l.at[i];
            l.at[i] = l.at[j];
            l.at[j] = old;
        }
    }
    const char *order = permuted ? "permuted" : "in order";
    if (!kt_survives(take_apart, &l))
        verdict_fail(v, "split touched memory outside its buffers; d %" PRId64 ", f %" PRId64 ", %s", d, f,
                     order);
    else if (!kt_survives(put_together, &l))
        verdict_fail(v, "unsplit touched memory outside its buffers; d %" PRId64 ", f %" PRId64 ", %s", d, f,
                     order);
    else if (l.status != 0)
        verdict_fail(v, "%s; d %" PRId64 ", f %" PRId64, l.e.msg, d, f);
    for (size_t i = 0; i < l.src.n && !v->failed; i++)
        if (l.src.p[i] != l.back.p[i])
            verdict_fail(
                v, "byte %zu of row %zu is %02x, was %02x; d %" PRId64 ", f %" PRId64 ", row pad %zu, %s",
                i % l.row_bytes, i / l.row_bytes, l.back.p[i], l.src.p[i], d, f, pad, order);
    for (int64_t i = 0; i + 1 < f && !v->failed; i++)
        for (size_t b = own; b < l.stride; b++)
            if (l.rows.p[(size_t)i * l.stride + b] != 0xee)
                verdict_fail(v, "wrote behind neuron %" PRId64 "; d %" PRId64 ", f %" PRId64, i, d, f);
    if (!guard_intact(&l.rows) || !guard_intact(&l.groups) || !guard_intact(&l.supers) ||
        !guard_intact(&l.back))
        verdict_fail(v, "wrote before the start of a buffer; d %" PRId64 ", f %" PRId64, d, f);
    guard_free(&l.src);
    guard_free(&l.back);
    guard_free(&l.rows);
    guard_free(&l.groups);
    guard_free(&l.supers);
    free(l.at);
}

/* What the layouts refuse, with the reason. */
static void try_refusals(struct verdict *v)
{
    static unsigned char bytes[4096];
    struct kern_split_dst dst = {.rows = bytes, .groups = bytes, .supers = bytes, .stride = 64};
    struct kern_down_rows w = {.rows = bytes, .groups = bytes, .supers = bytes, .stride = 64};
    struct err e = {0};
    static const struct {
        enum dtype type;
        int64_t d, f, i0, i1, c0, c1;
    } bad[] = {{DT_F16, 1, 32, 0, 32, 0, 1},    {DT_Q4_0, 1, 33, 0, 33, 0, 1}, {DT_Q4_K, 1, 32, 0, 32, 0, 1},
               {DT_Q4_0, 1, 64, 32, 64, 0, 1},  {DT_Q4_0, 1, 64, 0, 32, 0, 1}, {DT_Q4_0, 1, 32, 0, 32, 1, 1},
               {DT_Q4_0, 70, 32, 0, 32, 0, 69}, {DT_Q4_0, 1, 32, 0, 32, 0, 64}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        e = (struct err){0};
        if (kern_split(bad[i].type, &dst, bytes, 32, bad[i].d, bad[i].f, bad[i].i0, bad[i].i1, bad[i].c0,
                       bad[i].c1, &e) >= 0 ||
            !e.msg[0])
            verdict_fail(v, "split took case %zu of those it must refuse", i);
        bool range = bad[i].i0 || bad[i].i1 != bad[i].f; /* unsplit has no range of neurons */
        if (!range && (kern_unsplit(bad[i].type, bytes, 32, &w, NULL, bad[i].d, bad[i].f, bad[i].c0,
                                    bad[i].c1, &e) >= 0 ||
                       !e.msg[0]))
            verdict_fail(v, "unsplit took case %zu of those it must refuse", i);
    }
}

void check_split(struct kt *k)
{
    static const int64_t ds[] = {1, 7, 63, 64, 65, 130, 256, 333};
    for (int type = 0; type < DT_COUNT; type++) {
        if (!kern_can_split((enum dtype)type)) continue;
        const struct dtype_info *info = dtype_info((uint32_t)type);
        char line[96];
        snprintf(line, sizeof line, "ref split %s and back", info->name);
        if (!kt_wanted(k, line)) continue;
        struct verdict v = {.ran = true};
        for (int i = 0; i < 8 && !v.failed; i++)
            for (int j = 0; j < 4 && !v.failed; j++) {
                int64_t f = info->block == 256 ? 256 * (1 + j) : 32 * (1 + 7 * j);
                try_split(&v, (enum dtype)type, ds[i], f, j % 2 ? 2 : 0, j > 1,
                          k->seed + (uint64_t)(type * 64 + i * 4 + j));
            }
        verdict_report(k, &v, line);
    }
    if (kt_wanted(k, "ref split refusals")) {
        struct verdict v = {.ran = true};
        try_refusals(&v);
        verdict_report(k, &v, "ref split refusals");
    }
}
