/* Private to kernels/cpu: what the wide tiers' products with a gate in two planes share. A tier's planes.c
 * defines PLANE_TIER, includes this and adds the coarse products, then uses DEFINE_PLANES.
 *
 * Listed rows are put together in scratch, four at a time, and multiplied by the tier's own mv there: their
 * bits are those of whole rows because the same code makes them. The rows stay in the L1 cache, so what
 * counts is still the bytes of the planes. */
#ifndef KERNELS_CPU_PLANE_BODY_H
#define KERNELS_CPU_PLANE_BODY_H

#include "kernels/cpu/plane_words.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <string.h>

enum { PLANE_AT_ONCE = 4 };

/* Bytes between rows in scratch: whole vectors are written, and not all rows begin at one place of a page. */
static size_t plane_row_bytes(int64_t n)
{
    return (((size_t)n * 2 + 63) & ~(size_t)63) + 64;
}

static size_t plane_scratch_bytes(int64_t n)
{
    return PLANE_AT_ONCE * plane_row_bytes(n);
}

/* n words, written in vectors of 16. */
static inline void plane_join_words(enum dtype type, uint8_t *dst, const uint8_t *coarse, const uint8_t *fine,
                                    uint32_t base, int64_t n)
{
    const short slots = (short)plane_slots(type), others = (short)(256 - slots);
    const __m256i zero = _mm256_setzero_si256(), first = _mm256_set1_epi16((short)base);
    for (int64_t i = 0; i < n; i += 16) {
        __m256i c = _mm256_cvtepu8_epi16(_mm_load_si128((const __m128i *)(const void *)(coarse + i)));
        __m256i f = _mm256_cvtepu8_epi16(_mm_load_si128((const __m128i *)(const void *)(fine + i)));
        __m256i sign = _mm256_slli_epi16(_mm256_srli_epi16(c, 7), 15);
        c = _mm256_and_si256(c, _mm256_set1_epi16(0x7f));
        __m256i inside = _mm256_cmpgt_epi16(_mm256_set1_epi16(slots), f);
        __m256i m =
            _mm256_add_epi16(_mm256_slli_epi16(c, type == DT_F16 ? 6 : 3), _mm256_add_epi16(first, f));
        if (_mm256_movemask_epi8(inside) != -1) { /* words below the octaves, by rank */
            __m256i rank = _mm256_mullo_epi16(c, _mm256_set1_epi16(others));
            rank = _mm256_add_epi16(rank, _mm256_sub_epi16(f, _mm256_set1_epi16(slots)));
            __m256i low = _mm256_andnot_si256(_mm256_cmpeq_epi16(rank, zero), _mm256_sub_epi16(first, rank));
            m = _mm256_blendv_epi8(low, m, inside);
        }
        _mm256_store_si256((__m256i *)(void *)(dst + 2 * i), _mm256_or_si256(sign, m));
    }
}

static inline void plane_join_q8_0(uint8_t *dst, const uint8_t *coarse, const uint8_t *fine, int64_t n)
{
    const __m128i low = _mm_set1_epi8(15), high = _mm_set1_epi8((char)0xf0), flip = _mm_set1_epi8((char)0x80);
    for (int64_t b = 0; b < n / 32; b++, dst += 34, coarse += 18, fine += 16) {
        __m128i c = _mm_loadu_si128((const __m128i *)(const void *)(coarse + 2));
        __m128i f = _mm_load_si128((const __m128i *)(const void *)fine);
        __m128i c0 = _mm_and_si128(_mm_slli_epi16(c, 4), high), c1 = _mm_and_si128(c, high);
        __m128i f0 = _mm_and_si128(f, low), f1 = _mm_and_si128(_mm_srli_epi16(f, 4), low);
        memcpy(dst, coarse, 2);
        _mm_storeu_si128((__m128i *)(void *)(dst + 2), _mm_xor_si128(_mm_or_si128(c0, f0), flip));
        _mm_storeu_si128((__m128i *)(void *)(dst + 18), _mm_xor_si128(_mm_or_si128(c1, f1), flip));
    }
}

static inline void plane_listed(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                                const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    const struct kern_mat *mv = kern_tier(PLANE_TIER)->mv[type]; /* takes no scratch itself */
    const size_t apart = plane_row_bytes(n);
    for (int64_t i = 0; i < count; i += PLANE_AT_ONCE) {
        int64_t some = count - i < PLANE_AT_ONCE ? count - i : PLANE_AT_ONCE;
        for (int64_t j = 0; j < some; j++) {
            size_t at = (size_t)first + list[i + j];
            const uint8_t *coarse = w->coarse + at * w->coarse_stride, *fine = w->fine + at * w->fine_stride;
            uint8_t *row = (uint8_t *)scratch + (size_t)j * apart;
            if (type == DT_Q8_0)
                plane_join_q8_0(row, coarse, fine, n);
            else
                plane_join_words(type, row, coarse, fine, w->rows[at].base, n);
        }
        mv->rows(y + i, 1, scratch, apart, some, n, xp, 1, NULL);
    }
}

/* Rows four at once, a quarter of the range apart, as mv reads them; `name(type, R, z, apart, w, first, n,
 * xp)` makes R of them. */
#define PLANE_COARSE_ROWS(name, type, z, w, first, count, n, xp)                                             \
    do {                                                                                                     \
        int64_t r = 0, part = (count) / 4;                                                                   \
        for (; r < part; r++) name(type, 4, (z) + r, part, w, (first) + r, n, xp);                           \
        for (r = 4 * part; r < (count); r++) name(type, 1, (z) + r, 0, w, (first) + r, n, xp);               \
    } while (0)

#define DEFINE_PLANES(t, rows, values)                                                                       \
    static void coarse_##t(float *z, const struct kern_planes_at *w, int64_t first, int64_t count,           \
                           int64_t n, const void *xp, void *scratch)                                         \
    {                                                                                                        \
        (void)scratch;                                                                                       \
        PLANE_COARSE_ROWS(rows, DT_##t, z, w, first, count, n, xp);                                          \
    }                                                                                                        \
    static void listed_##t(float *y, const struct kern_planes_at *w, int64_t first, const uint16_t *list,    \
                           int64_t count, int64_t n, const void *xp, void *scratch)                          \
    {                                                                                                        \
        plane_listed(DT_##t, y, w, first, list, count, n, xp, scratch);                                      \
    }                                                                                                        \
    static const struct kern_planes planes_##t = {                                                           \
        .coarse = coarse_##t,                                                                                \
        .listed = listed_##t,                                                                                \
        .x_values = values,                                                                                  \
        .scratch_bytes = plane_scratch_bytes,                                                                \
    };

#endif
