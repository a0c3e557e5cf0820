/* Private to kernels/cpu/avx512: the parts of the tier's products for few tokens. */
#ifndef KERNELS_CPU_AVX512_MV_H
#define KERNELS_CPU_AVX512_MV_H

#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

/* Block types: int8 activations. */
void avx512_mv_blocks(struct kern_ops *ops);
/* F32, F16, BF16: float activations. */
void avx512_mv_floats(struct kern_ops *ops);
/* The gate in two planes, with the tokens of either. */
void avx512_mv_planes(struct kern_ops *ops);

enum {
    X_AVX512_BLOCKS = X_FIRST_AVX512, /* mv_blocks.c */
    X_AVX512_FLOATS,                  /* mv_floats.c */
};

#endif
