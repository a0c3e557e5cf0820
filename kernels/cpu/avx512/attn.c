/* The avx512 tier's attention. */
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void avx512_attn_init(struct kern_ops *ops)
{
    (void)ops;
}
