/* The avx2 tier's sums of down's rows by neuron. */
#include "kernels/cpu/avx2/unpack.h"

#include "kernels/cpu/down_body.h"

UP_INLINE void decode(enum dtype t, float *out, const uint8_t *piece)
{
    __m256i q[8];
    uint8_t codes[UP_PIECE];
    float scale[8], low[8];
    up_quants(t, q, piece);
    struct up_scale s = up_scales(t, piece);
    for (int i = 0; i < 8; i++) _mm256_storeu_si256((__m256i *)(void *)(codes + 32 * i), q[i]);
    _mm256_storeu_ps(scale, s.scale);
    _mm256_storeu_ps(low, s.low);
    for (int i = 0; i < 4; i++)
        for (int half = 0; half < 2; half++)
            for (int lane = 0; lane < 2; lane++) { /* the piece order of unpack.h */
                int b = i + 4 * lane;
                float d = up_fine(t) && half ? low[b] : scale[b];
                float m = up_signed(t) ? 0.0f : up_minimum(t) * (up_fine(t) ? d : low[b]);
                const uint8_t *from = codes + 32 * (2 * i + half) + 16 * lane;
                for (int j = 0; j < 16; j += 8) {
                    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(from + j));
                    __m256 v = _mm256_cvtepi32_ps(up_signed(t) ? _mm256_cvtepi8_epi32(bytes)
                                                               : _mm256_cvtepu8_epi32(bytes));
                    _mm256_storeu_ps(out + 32 * b + 16 * half + j,
                                     _mm256_fmadd_ps(v, _mm256_set1_ps(d), _mm256_set1_ps(m)));
                }
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

void avx2_down_init(struct kern_ops *ops)
{
    down_enter(ops);
}
