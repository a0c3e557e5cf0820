/* Private to kernels/cpu/avx2: the parts of the tier's products for few tokens. */
#ifndef KERNELS_CPU_AVX2_MV_H
#define KERNELS_CPU_AVX2_MV_H

#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

/* Block types: int8 activations. The second is compiled with AVX-VNNI; the results have the same bits. */
void avx2_mv_blocks(struct kern_ops *ops);
void avx2_mv_blocks_vnni(struct kern_ops *ops);
/* F32, F16, BF16: float activations. */
void avx2_mv_floats(struct kern_ops *ops);
/* The gate in two planes, with the tokens of either. */
void avx2_mv_planes(struct kern_ops *ops);

enum {
    X_AVX2_BLOCKS = X_FIRST_AVX2, /* mv_blocks.c */
    X_AVX2_FLOATS,                /* mv_floats.c */
};

#endif
