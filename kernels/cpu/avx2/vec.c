/* The avx2 tier's vector operations. */
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void avx2_vec_init(struct kern_ops *ops)
{
    (void)ops;
}
