/* The avx512 tier's vector operations. */
#include "kernels/cpu/tiers.h"
#include "kernels/cpu/vec_body.h"

void avx512_vec_init(struct kern_ops *ops)
{
    vec_fill(ops);
}
