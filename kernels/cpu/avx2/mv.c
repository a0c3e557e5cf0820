/* The avx2 tier's weights × vector (decoding). */
#include "kernels/cpu/avx2/mv.h"

void avx2_mv_init(struct kern_ops *ops)
{
    if (cpu_facts()->avx_vnni)
        avx2_mv_blocks_vnni(ops);
    else
        avx2_mv_blocks(ops);
    avx2_mv_floats(ops);
    avx2_mv_planes(ops);
}

void avx2_mv_madd_init(struct kern_ops *ops)
{
    avx2_mv_blocks(ops);
}
