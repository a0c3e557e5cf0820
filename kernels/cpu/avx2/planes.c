/* Products with a gate in two planes, AVX2. Coarse bytes of F16 and BF16 become the upper halves of floats
 * with a shift and a mask, two in each 32-bit word; those of Q8_0 are read as Q4_0 blocks of 16 times the
 * scale with the zero point 120.5/16. */
#include "kernels/cpu/avx2/mv.h"
#include "kernels/cpu/avx2/piece.h"
#include "kernels/cpu/avx2/unpack.h"
#include "kernels/cpu/plane_body.h"

enum { STEP = 64, NEAR = 256, FAR = 2048 /* see mv_blocks.c */ };

UP_INLINE float across(const __m256 s[2])
{
    __m256 v = _mm256_add_ps(s[0], s[1]);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

UP_INLINE void prefetch(const uint8_t *at)
{
    _mm_prefetch((const char *)at + NEAR, _MM_HINT_T0);
    _mm_prefetch((const char *)at + FAR, _MM_HINT_T1);
}

UP_INLINE __m256i load(const uint8_t *p)
{
    return _mm256_load_si256((const __m256i *)(const void *)p);
}

/* 32 coarse bytes to 16-bit words, sign extended and shifted left: even and odd bytes. */
UP_INLINE void bytes_to_words(__m256i *even, __m256i *odd, __m256i c, int shift)
{
    *odd = _mm256_srai_epi16(c, 8 - shift);
    *even = _mm256_srai_epi16(_mm256_slli_epi16(c, 8), 8 - shift);
}

/* 64 values of one row: byte j of 32-bit word i belongs to value 16j + i. */
UP_INLINE void add_64(__m256 s[2], const uint8_t *c, const float *x)
{
    const __m256i mask = _mm256_set1_epi16((short)PLANE_MASK), rest = _mm256_set1_epi16((short)PLANE_REST);
    const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
    for (int h = 0; h < 2; h++) {
        __m256i even, odd;
        bytes_to_words(&even, &odd, load(c + 32 * h), PLANE_SHIFT);
        even = _mm256_or_si256(_mm256_and_si256(even, mask), rest);
        odd = _mm256_or_si256(_mm256_and_si256(odd, mask), rest);
        const float *at = x + 8 * h;
        s[h] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(even, 16)), _mm256_load_ps(at), s[h]);
        s[h] =
            _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(odd, 16)), _mm256_load_ps(at + 16), s[h]);
        s[h] = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(even, upper)), _mm256_load_ps(at + 32),
                               s[h]);
        s[h] =
            _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(odd, upper)), _mm256_load_ps(at + 48), s[h]);
    }
}

/* Rows are padded with zero bytes to 64, x with zeros to 16: its end is copied. */
UP_INLINE void coarse_words(enum dtype type, int R, float *z, int64_t apart, const struct kern_planes_at *w,
                            int64_t row, int64_t n, const void *xp)
{
    (void)type;
    const float *x = xp;
    const size_t stride = (size_t)apart * w->coarse_stride;
    const uint8_t *at = w->coarse + (size_t)row * w->coarse_stride;
    __m256 s[4][2];
    for (int r = 0; r < R; r++) s[r][0] = s[r][1] = _mm256_setzero_ps();
    int64_t k = 0;
    for (; k + STEP <= n; k += STEP, at += STEP)
        for (int r = 0; r < R; r++) {
            prefetch(at + (size_t)r * stride);
            add_64(s[r], at + (size_t)r * stride, x + k);
        }
    if (k < n) {
        _Alignas(32) float end[STEP] = {0};
        memcpy(end, x + k, (size_t)(n - k) * sizeof *end);
        for (int r = 0; r < R; r++) add_64(s[r], at + (size_t)r * stride, end);
    }
    for (int r = 0; r < R; r++) z[r * apart] = across(s[r]) * w->rows[row + r * apart].unit;
}

/* 16 words of coarse bytes (sign and 7 bits at their place in the word) and fine bytes. */
UP_INLINE __m256i words_of(enum dtype type, __m256i coarse, __m256i fine, __m256i base)
{
    const int slots = type == DT_F16 ? 64 : 8, bits = type == DT_F16 ? 6 : 3;
    const __m256i sign = _mm256_and_si256(coarse, _mm256_set1_epi16((short)0x8000));
    __m256i seven = _mm256_and_si256(coarse, _mm256_set1_epi16((short)(0x7f << bits)));
    __m256i m = _mm256_add_epi16(_mm256_or_si256(seven, fine), base);
    __m256i inside = _mm256_cmpgt_epi16(_mm256_set1_epi16((short)slots), fine);
    if (_mm256_movemask_epi8(inside) != -1) { /* words below the octaves, by rank */
        __m256i rank =
            _mm256_mullo_epi16(_mm256_srli_epi16(seven, bits), _mm256_set1_epi16((short)(256 - slots)));
        rank = _mm256_add_epi16(rank, _mm256_sub_epi16(fine, _mm256_set1_epi16((short)slots)));
        __m256i none = _mm256_cmpeq_epi16(rank, _mm256_setzero_si256());
        m = _mm256_blendv_epi8(_mm256_andnot_si256(none, _mm256_sub_epi16(base, rank)), m, inside);
    }
    return _mm256_or_si256(sign, m);
}

UP_INLINE void store_two(uint8_t *low, uint8_t *high, __m256i v)
{
    _mm_store_si128((__m128i *)(void *)low, _mm256_castsi256_si128(v));
    _mm_store_si128((__m128i *)(void *)high, _mm256_extracti128_si256(v, 1));
}

/* n words in order to dst, 64 at once: dst has room for whole vectors. The fine bytes at `next` are asked for
 * on the way: listed rows lie apart, and no hardware prefetcher knows of the next one. */
static inline void join_words(enum dtype type, uint8_t *dst, const uint8_t *coarse, const uint8_t *fine,
                              const uint8_t *next, uint32_t base, int64_t n)
{
    const __m256i first = _mm256_set1_epi16((short)base), low = _mm256_set1_epi16(255);
    const __m256i half = _mm256_set1_epi32(0xffff);
    for (int64_t i = 0; i < (n + 63) / 64 * 64;
         i += 32) { /* half of 64 values: values 8h … 8h+7 of each 16 */
        __m256i even, odd, f = load(fine + i);
        _mm_prefetch((const char *)next + i, _MM_HINT_T0);
        bytes_to_words(&even, &odd, load(coarse + i), type == DT_F16 ? 6 : 3);
        even = words_of(type, even, _mm256_and_si256(f, low), first);
        odd = words_of(type, odd, _mm256_srli_epi16(f, 8), first);
        __m256i v01 = _mm256_packus_epi32(_mm256_and_si256(even, half), _mm256_and_si256(odd, half));
        __m256i v23 = _mm256_packus_epi32(_mm256_srli_epi32(even, 16), _mm256_srli_epi32(odd, 16));
        uint8_t *at = dst + 2 * (i / 64 * 64) + 16 * (i / 32 % 2);
        store_two(at, at + 32, _mm256_permute4x64_epi64(v01, 0xd8));
        store_two(at + 64, at + 96, _mm256_permute4x64_epi64(v23, 0xd8));
    }
}

UP_INLINE void coarse_blocks(enum dtype type, int R, float *z, int64_t apart, const struct kern_planes_at *w,
                             int64_t row, int64_t n, const void *xp)
{
    (void)type;
    const struct xq *x = xp;
    const size_t stride = (size_t)apart * w->coarse_stride, step = up_bytes(DT_Q4_0);
    const uint8_t *at = w->coarse + (size_t)row * w->coarse_stride;
    int64_t whole = n / UP_PIECE, np = pieces(n);
    struct sums s[4];
    __m256i q[8];
    for (int r = 0; r < R; r++) s[r].dot = s[r].low = _mm256_setzero_ps();
    for (int64_t p = 0; p < whole; p++, at += step)
        for (int r = 0; r < R; r++) {
            const uint8_t *c = at + (size_t)r * stride;
            up_quants(DT_Q4_0, q, c);
            struct up_scale scales = up_scales(DT_Q4_0, c);
            for (size_t i = 0; i < step; i += 64) prefetch(c + i);
            add_piece(DT_Q4_0, &s[r], q, scales, x + p);
        }
    if (whole < np)
        for (int r = 0; r < R; r++) {
            uint8_t part[8 * 18] = {0};
            memcpy(part, at + (size_t)r * stride, (size_t)(n % UP_PIECE) / 32 * 18);
            up_quants(DT_Q4_0, q, part);
            add_piece(DT_Q4_0, &s[r], q, up_scales(DT_Q4_0, part), x + whole);
        }
    for (int r = 0; r < R; r++) z[r * apart] = 16 * total(DT_Q4_0, s[r], -120.5f / 16);
}

/* Whole vectors of a row are written. */
static size_t plane_scratch_bytes(int64_t n)
{
    return ((size_t)n * 2 + 127) & ~(size_t)127;
}

/* Listed rows are put together in scratch and multiplied by the tier's own mv there: their bits are those of
 * whole rows because the same code makes them. A row stays in the L1 cache, so what counts is still the bytes
 * of the planes. */
static inline void listed_words(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                                const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    const struct kern_mat *mv = kern_tier(KERN_AVX2)->mv[type]; /* takes no scratch itself */
    for (int64_t i = 0; i < 2 && i < count; i++) plane_fetch(plane_fine(w, first, list, count, i), (size_t)n);
    for (int64_t i = 0; i < count; i++) {
        size_t at = (size_t)first + list[i];
        join_words(type, scratch, w->coarse + at * w->coarse_stride, w->fine + at * w->fine_stride,
                   plane_fine(w, first, list, count, i + 2), w->rows[at].base, n);
        mv->rows(y + i, 1, scratch, 0, 1, n, xp, 1, NULL);
    }
}

/* R listed rows, their pieces as up_quants and up_scales make them of the file's rows and in the order of
 * dot_rows (mv_blocks.c). Absent blocks have the scale 0 and meet zeros. */
UP_INLINE void exact_blocks(int R, float *y, const uint8_t *const coarse[], const uint8_t *const fine[],
                            const uint8_t *const next[], int64_t n, const struct xq *x)
{
    const __m256i high = _mm256_set1_epi8((char)0xf0), flip = _mm256_set1_epi8((char)0x80);
    int64_t np = pieces(n);
    struct sums s[4];
    __m256i q[8], l[8];
    for (int r = 0; r < R; r++) s[r].dot = s[r].low = _mm256_setzero_ps();
    for (int64_t p = 0; p < np; p++)
        for (int r = 0; r < R; r++) {
            const uint8_t *c = coarse[r] + p * 8 * 18, *f = fine[r] + p * 8 * 16;
            uint8_t part[8 * 18 + 8 * 16] = {0};
            int64_t blocks = n / 32 - 8 * p;
            if (blocks < 8) {
                for (int b = 0; b < 8; b++)
                    memset(part + 18 * b + 2, 0x88, 16); /* zeros in the file's form */
                memcpy(part, c, (size_t)blocks * 18);
                memcpy(part + 8 * 18, f, (size_t)blocks * 16);
                c = part;
                f = part + 8 * 18;
            }
            plane_fetch(next[r] + p * 8 * 16, 8 * 16);
            up_nibbles32(q, c + 2, 18);
            up_nibbles32(l, f, 16);
            for (int i = 0; i < 8; i++) {
                __m256i h = _mm256_and_si256(_mm256_slli_epi16(q[i], 4), high);
                q[i] = _mm256_xor_si256(_mm256_or_si256(h, l[i]), flip);
            }
            add_piece(DT_Q8_0, &s[r], q, up_scales(DT_Q4_0, c), x + p);
        }
    for (int r = 0; r < R; r++) y[r] = total(DT_Q8_0, s[r], up_minimum(DT_Q8_0));
}

UP_INLINE void listed_blocks(enum dtype type, float *y, const struct kern_planes_at *w, int64_t first,
                             const uint16_t *list, int64_t count, int64_t n, const void *xp, void *scratch)
{
    (void)type;
    (void)scratch;
    for (int64_t i = 0; i < 4 && i < count; i++)
        plane_fetch(plane_fine(w, first, list, count, i), (size_t)n / 2);
    for (int64_t i = 0, some; i < count; i += some) {
        const uint8_t *coarse[4], *fine[4], *next[4];
        some = count - i < 4 ? 1 : 4;
        for (int64_t j = 0; j < some; j++) {
            coarse[j] = w->coarse + ((size_t)first + list[i + j]) * w->coarse_stride;
            fine[j] = w->fine + ((size_t)first + list[i + j]) * w->fine_stride;
            next[j] = plane_fine(w, first, list, count, i + j + 4);
        }
        if (some == 4)
            exact_blocks(4, y + i, coarse, fine, next, n, xp);
        else
            exact_blocks(1, y + i, coarse, fine, next, n, xp);
    }
}

static void float_values(float *x, const void *xp, int64_t n)
{
    memcpy(x, xp, (size_t)n * sizeof *x);
}

static void block_values(float *x, const void *xp, int64_t n)
{
    const struct xq *in = xp;
    for (int64_t i = 0; i < n; i += 8) {
        const struct xq *p = in + i / UP_PIECE;
        int64_t b = i % UP_PIECE / 32, h = i % 32 / 16;
        const int8_t *at = p->q + 32 * (2 * (b & 3) + h) + 16 * (b >> 2) + i % 16;
        __m256 v =
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at)));
        _mm256_storeu_ps(x + i, _mm256_mul_ps(v, _mm256_set1_ps(p->d[b])));
    }
}

DEFINE_PLANES(F16, coarse_words, listed_words, float_values)
DEFINE_PLANES(BF16, coarse_words, listed_words, float_values)
DEFINE_PLANES(Q8_0, coarse_blocks, listed_blocks, block_values)

void avx2_mv_planes(struct kern_ops *ops)
{
    ops->planes[DT_F16] = &planes_F16;
    ops->planes[DT_BF16] = &planes_BF16;
    ops->planes[DT_Q8_0] = &planes_Q8_0;
}
