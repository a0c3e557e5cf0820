/* The avx512 tier's sums of down's rows by neuron. */
#include "kernels/cpu/avx512/unpack.h"

#include "kernels/cpu/down_body.h"

UP_INLINE void decode(enum dtype t, float *out, const uint8_t *piece)
{
    __m512i q[4];
    uint8_t codes[UP_PIECE];
    float scales[16]; /* of the blocks and then their minima; fine: of each half of a block */
    up_quants(t, q, piece);
    for (int i = 0; i < 4; i++) _mm512_storeu_si512(codes + 64 * i, q[i]);
    _mm512_storeu_ps(scales, up_scales(t, piece));
    for (int g = 0; g < 2; g++)
        for (int half = 0; half < 2; half++)
            for (int lane = 0; lane < 4; lane++) { /* the piece order of unpack.h */
                int b = g + 2 * lane, at = up_fine(t) ? 2 * b + half : b;
                float d = scales[at], m = up_minimum(t) * scales[up_fine(t) ? at : 8 + b];
                __m512 v = _mm512_cvtepi32_ps(
                    _mm512_cvtepu8_epi32(up_load16(codes + 64 * (2 * g + half) + 16 * lane)));
                _mm512_storeu_ps(out + 32 * b + 16 * half,
                                 _mm512_fmadd_ps(v, _mm512_set1_ps(d), _mm512_set1_ps(m)));
            }
}

static bool down_decode_piece(enum dtype type, float *out, const uint8_t *piece)
{
    switch (type) {
#define CASE(t)                                                                                              \
    case DT_##t: decode(DT_##t, out, piece); return true;
        CASE(Q4_0)
        CASE(Q4_1)
        CASE(Q5_0)
        CASE(Q5_1)
        CASE(Q8_0)
        CASE(IQ4_NL)
        CASE(Q4_K)
        CASE(Q5_K)
        CASE(Q6_K)
    default: return false;
    }
}

void avx512_down_init(struct kern_ops *ops)
{
    down_enter(ops);
}
