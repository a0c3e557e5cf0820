/* Inputs that hurt, and memory that notices. */
#include "base/half.h"
#include "tests/kern/kern.h"

#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

const char *const fill_w_name[W_FILLS] = {"normal", "wild", "max", "min", "zero", "tiny", "huge"};
const char *const fill_x_name[X_FILLS] = {"normal", "outlier", "const", "alternate",
                                          "zero",   "tiny",    "small", "big"};

enum { PATTERN = 0xa5 };

void guard_make(struct guarded *g, size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (n + page - 1) / page * page;
    if (body == 0) body = page;
    g->map_bytes = body + 2 * page;
    g->map = mmap(NULL, g->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->map == MAP_FAILED || mprotect(g->map, page, PROT_NONE) != 0 ||
        mprotect(g->map + page + body, page, PROT_NONE) != 0) {
        perror("guarded memory");
        abort();
    }
    g->p = g->map + page + body - n;
    g->n = n;
    memset(g->map + page, PATTERN, body - n);
}

bool guard_intact(const struct guarded *g)
{
    for (const unsigned char *q = g->map + sysconf(_SC_PAGESIZE); q < g->p; q++)
        if (*q != PATTERN) return false;
    return true;
}

void guard_free(struct guarded *g)
{
    if (g->map) munmap(g->map, g->map_bytes);
    memset(g, 0, sizeof *g);
}

static sigjmp_buf escape;

static void on_fault(int sig)
{
    siglongjmp(escape, sig);
}

bool kt_survives(void (*fn)(void *), void *arg)
{
    struct sigaction act = {.sa_handler = on_fault}, old_segv, old_bus;
    sigaction(SIGSEGV, &act, &old_segv);
    sigaction(SIGBUS, &act, &old_bus);
    bool alive = sigsetjmp(escape, 1) == 0;
    if (alive) fn(arg);
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    return alive;
}

/* Where a block keeps its F16 scales (offsets in bytes, -1: none). IQ1_M's is spread over its last 8 bytes.
 */
static void scale_offsets(enum dtype type, int at[2])
{
    at[0] = at[1] = -1;
    switch (type) {
    case DT_Q4_1:
    case DT_Q5_1:
    case DT_Q4_K:
    case DT_Q5_K:
        at[0] = 0;
        at[1] = 2;
        break;
    case DT_Q2_K:
        at[0] = 80;
        at[1] = 82;
        break;
    case DT_Q3_K: at[0] = 108; break;
    case DT_Q6_K: at[0] = 208; break;
    case DT_TQ1_0: at[0] = 52; break;
    case DT_TQ2_0: at[0] = 64; break;
    case DT_IQ1_M:
    case DT_F32:
    case DT_F16:
    case DT_BF16: break;
    default: at[0] = 0;
    }
}

static float scale_of(struct rng *r, enum fill_w how)
{
    switch (how) {
    case W_WILD: return (float)((rng_f64(r) * 2 - 1) * exp2((double)pick(r, 12) - 11));
    case W_TINY: return (float)((1 + (double)pick(r, 1000)) * 0x1p-24); /* subnormal as F16 */
    case W_HUGE: return 30000 + (float)pick(r, 35000);
    case W_ZERO: return 0;
    default: return (float)(0.01 * (1 + rng_f64(r)));
    }
}

static float element(struct rng *r, enum fill_w how)
{
    switch (how) {
    case W_MAX: return 2;
    case W_MIN: return -2;
    case W_WILD: return (float)(rng_normal(r) * exp2((double)pick(r, 12) - 11));
    default: return scale_of(r, how) * (float)rng_normal(r) / (how == W_HUGE ? 8.0f : 0.5f);
    }
}

static void put16(unsigned char *p, uint16_t v)
{
    p[0] = (unsigned char)v;
    p[1] = (unsigned char)(v >> 8);
}

void fill_weights(struct rng *r, enum dtype type, enum fill_w how, unsigned char *dst, int64_t n)
{
    const struct dtype_info *info = dtype_info(type);
    int at[2];
    scale_offsets(type, at);
    for (int64_t i = 0; i < n; i += info->block, dst += info->bytes) {
        if (type == DT_F32 || type == DT_F16 || type == DT_BF16) {
            float v = element(r, how);
            if (type == DT_F32)
                memcpy(dst, &v, 4);
            else
                put16(dst, type == DT_F16 ? f32_to_f16(v) : f32_to_bf16(v));
            continue;
        }
        for (size_t b = 0; b < info->bytes; b++) {
            if (how == W_MAX)
                dst[b] = type == DT_Q8_0 ? 0x7f : 0xff;
            else if (how == W_MIN)
                dst[b] = type == DT_Q8_0 ? 0x80 : 0;
            else
                dst[b] = how == W_ZERO ? 0 : (unsigned char)rng_u64(r);
        }
        if (type == DT_IQ1_M) {
            uint16_t d = f32_to_f16(scale_of(r, how));
            for (int q = 0; q < 4; q++)
                dst[49 + 2 * q] = (unsigned char)((dst[49 + 2 * q] & 15) | (d >> 4 * q & 15) << 4);
        }
        for (int s = 0; s < 2 && at[s] >= 0; s++) put16(dst + at[s], f32_to_f16(scale_of(r, how)));
    }
}

void fill_floats(struct rng *r, enum fill_x how, float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double v = how == X_CONST ? 1.7 : how == X_ALTERNATE ? (i & 1 ? -1.7 : 1.7) : rng_normal(r);
        switch (how) {
        case X_OUTLIER: v *= pick(r, 200) == 0 ? 60 : 1; break;
        case X_ZERO: v = 0; break;
        case X_TINY: v *= 1e-40; break;
        case X_SMALL: v *= 1e-30; break;
        case X_BIG: v *= 1e28; break;
        default: break;
        }
        dst[i] = (float)v;
    }
}
