/* The avx2 tier's attention. */
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void avx2_attn_init(struct kern_ops *ops)
{
    (void)ops;
}
