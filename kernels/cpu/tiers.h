/* Private to kernels/: how the tiers hang together. Each tier's folder is a static library with its own
 * compiler flags; its init functions overlay the entries they are better at on a table that already holds the
 * tier below (ref → avx2 → avx512 → amx). An init function runs only after detection has proved that CPU and
 * operating system run the tier's instructions, and nothing else of the tier is reachable before that.
 *
 * Rule for headers shared by tiers: `static inline` plain C only. An `inline` with external linkage compiled
 * with wide flags could be the copy the linker keeps for everyone. */
#ifndef KERNELS_CPU_TIERS_H
#define KERNELS_CPU_TIERS_H

#include <stdbool.h>

struct kern_ops;

/* What CPU and operating system offer together (a feature counts only if the OS saves its registers). */
struct cpu_facts {
    /* The avx2 tier needs these four. */
    bool avx2, fma, f16c, bmi2;
    /* Extra on some avx2 machines: VEX-coded vpdpbusd. */
    bool avx_vnni;
    /* The avx512 tier needs these five. */
    bool avx512f, avx512bw, avx512dq, avx512vl, avx512_vnni;
    /* Extras of the avx512 tier. */
    bool avx512_bf16, avx512_vbmi, avx512_fp16;
    /* The amx tier needs these and avx512_bf16, and the kernel's permission. */
    bool amx_tile, amx_int8, amx_bf16;
};

/* Prepared forms of activations (kern_mat.x_format). Equal numbers mean equal bytes, whichever tier made
 * them; each tier's own forms get numbers of their own. */
enum x_format {
    X_F32 = 0, /* T rows of n floats */
    X_FIRST_AVX2 = 0x100,
    X_FIRST_AVX512 = 0x200,
    X_FIRST_AMX = 0x300,
};

/* For init functions and what runs after them: detection is over by then. Static storage. */
const struct cpu_facts *cpu_facts(void);

void ref_init(struct kern_ops *ops);

void avx2_vec_init(struct kern_ops *ops);
void avx2_attn_init(struct kern_ops *ops);
void avx2_mv_init(struct kern_ops *ops);
void avx2_down_init(struct kern_ops *ops);
void avx2_mm_init(struct kern_ops *ops);
/* What they choose from, for tests. */
void avx2_mv_madd_init(struct kern_ops *ops);
void avx2_mm_madd_init(struct kern_ops *ops);
void avx2_mm_vnni_init(struct kern_ops *ops);

void avx512_vec_init(struct kern_ops *ops);
void avx512_attn_init(struct kern_ops *ops);
void avx512_mv_init(struct kern_ops *ops);
void avx512_down_init(struct kern_ops *ops);
void avx512_mm_init(struct kern_ops *ops);

void amx_mm_init(struct kern_ops *ops);

#endif
