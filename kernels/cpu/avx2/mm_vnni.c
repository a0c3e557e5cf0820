/* The avx2 tier's weights × tokens (prompts), for machines with VEX-coded VNNI. */
#include "kernels/cpu/avx2/mm.h"

/* Assembly: it needs no flag that would let the compiler use VNNI elsewhere, and gcc 12 copies the
 * accumulators of the intrinsic around the loop. */
V_INLINE void vi_dot(vi *acc, vi x, vi w)
{
    __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(*acc) : "x"(x), "x"(w));
}

void avx2_mm_vnni_init(struct kern_ops *ops)
{
    mm_enter(ops);
}
