/* The avx512 tier's weights × tokens (prompts). */
#include "kernels/cpu/avx512/mm_values.h"
#include "kernels/cpu/avx512/mm_vectors.h"

#include "kernels/cpu/tiers.h"

#define VL             16
#define NT             4
#define MR             6
#define MM16_HALF_ROWS 96

#include "kernels/cpu/mm16.h"
#include "kernels/cpu/mm32.h"

static float mm16_quantise_x(int16_t *dst, const uint8_t *src, int64_t values)
{
    if (values == MM16_CHUNK) return quantise_float(DT_F32, MM16_NORM_X, dst, src, MM16_CHUNK);
    return quantise_float(DT_F32, MM16_NORM_X, dst, src, values);
}

enum { X_MM16 = X_FIRST_AVX512 + 0x10, X_MM32 };

#include "kernels/cpu/mm_types.h"

void avx512_mm_init(struct kern_ops *ops)
{
    mm_enter(ops);
}
