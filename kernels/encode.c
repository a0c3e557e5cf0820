/* kern_encode: checks the values and writes the simple types, rounded as the format's reference does, bit for
 * bit; Q4_0 and the K types search for scales (encode_k.c). Plain C on 4-float vectors: the same bytes on
 * every machine. */
#include "kernels/encode.h"

#include "base/err.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/kernels.h"

#include <inttypes.h>
#include <math.h>

/* Values at or above this do not fit the type (its F16 scale would be infinite). */
static float largest(enum dtype type)
{
    switch (type) {
    case DT_F32: return INFINITY;
    case DT_BF16: return 0x1.ffp127f;
    case DT_F16: return 65520;
    case DT_Q4_0: return 65504.0f * 8;
    default: return 65504.0f * 60;
    }
}

/* Index of the first value that is no number or too large, -1: none. */
static int64_t first_bad(const float *x, int64_t n, float limit)
{
    const v4 most = v4_set(limit), least = v4_set(-limit);
    for (int64_t i = 0; i < n;) {
        if (i + 16 <= n) {
            i4 good = {-1, -1, -1, -1};
            for (int j = 0; j < 16; j += 4)
                good &= (v4_load(x + i + j) < most) & (v4_load(x + i + j) > least);
            if (good[0] & good[1] & good[2] & good[3]) {
                i += 16;
                continue;
            }
        }
        for (int j = 0; j < 16 && i < n; j++, i++)
            if (!(fabsf(x[i]) < limit)) return i;
    }
    return -1;
}

bool kern_can_encode(enum dtype type)
{
    switch (type) {
    case DT_F32:
    case DT_F16:
    case DT_BF16:
    case DT_Q8_0:
    case DT_Q4_0:
    case DT_Q4_K:
    case DT_Q5_K:
    case DT_Q6_K: return true;
    default: return false;
    }
}

int kern_encode(enum dtype type, void *dst, const float *src, int64_t n, struct err *e)
{
    const struct dtype_info *info = dtype_info(type);
    if (!kern_can_encode(type) || !info)
        return err_set(e, ERR_UNSUPPORTED,
                       "cannot write %s: expected f32, f16, bf16, q8_0, q4_0, q4_k, q5_k or q6_k",
                       dtype_name(type));
    if (n < 0 || n % info->block != 0)
        return err_set(e, ERR_ARG, "cannot write %" PRId64 " values as %s: its blocks hold %u", n, info->name,
                       info->block);
    int64_t bad = first_bad(src, n, largest(type));
    if (bad >= 0) {
        if (!isfinite(src[bad]))
            return err_set(e, ERR_NUMERIC, "value %" PRId64 " is %s: expected a finite number", bad,
                           isnan(src[bad]) ? "NaN" : "infinite");
        return err_set(e, ERR_NUMERIC,
                       "value %" PRId64 " is %g: too large for %s, whose values stay below %g", bad,
                       (double)src[bad], info->name, (double)largest(type));
    }
    uint8_t *b = dst;
    switch (type) {
    case DT_F32: memcpy(dst, src, (size_t)n * sizeof *src); return 0;
    case DT_F16:
        for (int64_t i = 0; i < n; i++) put_half(b + 2 * i, src[i]);
        return 0;
    case DT_BF16:
        for (int64_t i = 0; i < n; i++) {
            uint16_t h = f32_to_bf16(src[i]);
            memcpy(b + 2 * i, &h, 2);
        }
        return 0;
    default: break;
    }
    for (int64_t i = 0; i < n; i += info->block, b += info->bytes) {
        switch (type) {
        case DT_Q8_0: ref_encode_q8_0(b, src + i); break;
        case DT_Q4_0: encode_q4_0(b, src + i); break;
        case DT_Q4_K: encode_q4_k(b, src + i); break;
        case DT_Q5_K: encode_q5_k(b, src + i); break;
        default: encode_q6_k(b, src + i); break;
        }
    }
    return 0;
}
