/* The avx512 tier's weights × vector (decoding). */
#include "kernels/cpu/avx512/mv.h"

void avx512_mv_init(struct kern_ops *ops)
{
    avx512_mv_blocks(ops);
    avx512_mv_floats(ops);
    avx512_mv_planes(ops);
}
