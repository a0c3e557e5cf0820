/* The reference tier's table: plain C on any machine, the oracle of every other tier. */
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void ref_init(struct kern_ops *ops)
{
    ref_products_init(ops);
    ref_down_init(ops);
    ref_planes_init(ops);
    ref_vec_init(ops);
    ref_attn_init(ops);
}
