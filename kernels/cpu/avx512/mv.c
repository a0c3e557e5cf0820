/* The avx512 tier's weights × vector (decoding). */
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void avx512_mv_init(struct kern_ops *ops)
{
    (void)ops;
}
