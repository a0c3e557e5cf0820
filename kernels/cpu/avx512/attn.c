/* The avx512 tier's attention. */
#include "kernels/cpu/attn_body.h"
#include "kernels/cpu/tiers.h"

void avx512_attn_init(struct kern_ops *ops)
{
    attn_fill(ops);
}
