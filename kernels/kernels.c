/* Choosing the kernel table: detection of what CPU and operating system run, the tables of all tiers built
 * once, and the choice among them. This file is compiled with the base instruction set only. */
#include "kernels/kernels.h"

#include "base/err.h"
#include "base/log.h"
#include "kernels/cpu/tiers.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if KERN_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const tier_names[KERN_TIERS] = {"ref", "avx2", "avx512", "amx"};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct cpu_facts facts;
static struct kern_ops tables[KERN_TIERS];
static bool have[KERN_TIERS];
static char features[256];

#if KERN_X86
enum {
    XCR0_AVX = 0x6,     /* SSE and AVX state */
    XCR0_AVX512 = 0xe6, /* and opmask, ZMM_Hi256, Hi16_ZMM */
    XCR0_AMX = 0x60000, /* tile configuration and tile data */
    XFEATURE_TILEDATA = 18,
    ARCH_REQ_XCOMP = 0x1023, /* ARCH_REQ_XCOMP_PERM: asm/prctl.h of older systems lacks it */
};

static uint64_t xgetbv0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool bit(uint32_t word, int n)
{
    return (word >> n) & 1;
}

static void detect(void)
{
    uint32_t a, b, c, d, c1;
    if (!__get_cpuid(1, &a, &b, &c1, &d)) return;
    if (!bit(c1, 27)) return; /* OSXSAVE: without it xgetbv faults and no wide state is saved */
    uint64_t xcr0 = xgetbv0();
    if ((xcr0 & XCR0_AVX) != XCR0_AVX) return;
    facts.fma = bit(c1, 12);
    facts.f16c = bit(c1, 29);
    uint32_t b7, c7, d7, a71 = 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return;
    if (a >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    facts.avx2 = bit(b7, 5);
    facts.bmi2 = bit(b7, 8);
    facts.avx_vnni = bit(a71, 4);
    if ((xcr0 & XCR0_AVX512) != XCR0_AVX512) return;
    facts.avx512f = bit(b7, 16);
    facts.avx512dq = bit(b7, 17);
    facts.avx512bw = bit(b7, 30);
    facts.avx512vl = bit(b7, 31);
    facts.avx512_vnni = bit(c7, 11);
    facts.avx512_vbmi = bit(c7, 1);
    facts.avx512_fp16 = bit(d7, 23);
    facts.avx512_bf16 = bit(a71, 5);
    /* Tiles cost 8 KiB of state a thread, so Linux lets a process use them only once it has asked. */
    if ((xcr0 & XCR0_AMX) != XCR0_AMX || !bit(d7, 24)) return;
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP, XFEATURE_TILEDATA) != 0) return;
    facts.amx_tile = true;
    facts.amx_int8 = bit(d7, 25);
    facts.amx_bf16 = bit(d7, 22);
}
#endif

static void list_features(void)
{
    const struct {
        bool on;
        const char *name;
    } all[] = {
        {facts.avx2, "avx2"},
        {facts.fma, "fma"},
        {facts.f16c, "f16c"},
        {facts.bmi2, "bmi2"},
        {facts.avx_vnni, "avx_vnni"},
        {facts.avx512f, "avx512f"},
        {facts.avx512bw, "avx512bw"},
        {facts.avx512dq, "avx512dq"},
        {facts.avx512vl, "avx512vl"},
        {facts.avx512_vnni, "avx512_vnni"},
        {facts.avx512_bf16, "avx512_bf16"},
        {facts.avx512_vbmi, "avx512_vbmi"},
        {facts.avx512_fp16, "avx512_fp16"},
        {facts.amx_tile, "amx_tile"},
        {facts.amx_int8, "amx_int8"},
        {facts.amx_bf16, "amx_bf16"},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        if (!all[i].on) continue;
        at += (size_t)snprintf(features + at, sizeof features - at, "%s%s", at ? " " : "", all[i].name);
    }
}

static void build_tables(void)
{
#if KERN_X86
    detect();
#endif
    list_features();
    ref_init(&tables[KERN_REF]);
    tables[KERN_REF].name = tier_names[KERN_REF];
    have[KERN_REF] = true;
#if KERN_X86
    have[KERN_AVX2] = facts.avx2 && facts.fma && facts.f16c && facts.bmi2;
    have[KERN_AVX512] = have[KERN_AVX2] && facts.avx512f && facts.avx512bw && facts.avx512dq &&
                        facts.avx512vl && facts.avx512_vnni;
    have[KERN_AMX] =
        have[KERN_AVX512] && facts.avx512_bf16 && facts.amx_tile && facts.amx_int8 && facts.amx_bf16;
    for (int t = KERN_AVX2; t < KERN_TIERS && have[t]; t++) {
        struct kern_ops *ops = &tables[t];
        *ops = tables[t - 1];
        ops->name = tier_names[t];
        switch (t) {
        case KERN_AVX2:
            avx2_vec_init(ops);
            avx2_attn_init(ops);
            avx2_mv_init(ops);
            avx2_down_init(ops);
            avx2_mm_init(ops);
            break;
        case KERN_AVX512:
            avx512_vec_init(ops);
            avx512_attn_init(ops);
            avx512_mv_init(ops);
            avx512_down_init(ops);
            avx512_mm_init(ops);
            break;
        case KERN_AMX: amx_mm_init(ops); break;
        default: break;
        }
    }
#endif
}

const struct cpu_facts *cpu_facts(void)
{
    return &facts;
}

const struct kern_ops *kern_tier(enum kern_tier tier)
{
    pthread_once(&once, build_tables);
    return (int)tier >= 0 && tier < KERN_TIERS && have[tier] ? &tables[tier] : NULL;
}

const char *kern_cpu_features(void)
{
    pthread_once(&once, build_tables);
    return features;
}

int kern_select(const char *cap, const struct kern_ops **out, struct err *e)
{
    pthread_once(&once, build_tables);
    const char *from = "the CPU cap";
    if (!cap) {
        cap = getenv("CALOR_CPU");
        from = "CALOR_CPU";
    }
    int most = KERN_TIERS - 1;
    if (cap && *cap) {
        for (most = 0; most < KERN_TIERS && strcmp(cap, tier_names[most]) != 0;) most++;
        if (most == KERN_TIERS)
            return err_set(e, ERR_ARG, "%s is \"%s\": expected ref, avx2, avx512 or amx", from, cap);
    }
    int best = most;
    while (!have[best]) best--;
    if (cap && *cap && best < most)
        log_info("%s allows %s, but this CPU has only %s", from, tier_names[most], tier_names[best]);
    *out = &tables[best];
    return 0;
}
