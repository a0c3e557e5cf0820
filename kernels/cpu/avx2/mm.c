/* The avx2 tier's weights × tokens (prompts), for machines without VNNI. */
#include "kernels/cpu/avx2/mm.h"

V_INLINE void vi_dot(vi *acc, vi x, vi w)
{
    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(x, w));
}

void avx2_mm_madd_init(struct kern_ops *ops)
{
    mm_enter(ops);
}

void avx2_mm_init(struct kern_ops *ops)
{
    if (cpu_facts()->avx_vnni)
        avx2_mm_vnni_init(ops);
    else
        avx2_mm_madd_init(ops);
}
