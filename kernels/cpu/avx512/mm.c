/* The avx512 tier's weights × tokens (prompts). */
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

void avx512_mm_init(struct kern_ops *ops)
{
    (void)ops;
}
