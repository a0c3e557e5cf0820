/* The amx tier's weights × tokens (prompts). For all types but BF16, rows and tokens become the 16-bit
 * integers of the avx512 tier, each split into a signed high and an unsigned low byte; four products of byte
 * tiles, hh·2^16 + (hl + lh)·2^8 + ll modulo 2^32, are the exact sums that the avx512 tier computes, so both
 * tiers give the same bits.
 *
 * Why not bf16 tiles for all: rounding both sides to bf16 costs a mean KLD of 7e-5 to 9e-5 on small real
 * models, too near the limit of 1e-4; these integers cost 3e-7 and still do 256 products a cycle, 3.5 times
 * the avx512 tier. BF16 weights are bf16 already, and rounding only the tokens costs 2.5e-5: they take bf16
 * tiles. */
#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/avx512/mm_values.h"
#include "kernels/cpu/avx512/mm_vectors.h"
#include "kernels/cpu/ref/ref.h"
#include "kernels/cpu/tiers.h"
#include "kernels/kernels.h"

enum {
    MM16_GROUP = 16, /* tokens of a tile */
    MM16_PANEL = 192,
    BLOCK = 512,             /* tokens whose sums are kept at a time */
    STEPS = MM16_CHUNK / 64, /* tiles along a chunk */
    TILE = TILE_ROWS * TILE_BYTES,
    HALVES = TILE_BYTES / 2,          /* bf16 values along a tile */
    HALF_STEPS = MM16_CHUNK / HALVES, /* tiles of bf16 along a chunk */
};

/* 64 integers to their high and low bytes, in an order of its own that is the same for w and x. */
UP_INLINE void split(uint8_t *high, uint8_t *low, const int16_t *q)
{
    vi a = vi_load(q), b = vi_load(q + 32), mask = _mm512_set1_epi16(255);
    vi_store(high, _mm512_packs_epi16(_mm512_srai_epi16(a, 8), _mm512_srai_epi16(b, 8)));
    vi_store(low, _mm512_packus_epi16(_mm512_and_si512(a, mask), _mm512_and_si512(b, mask)));
}

/* ---- The prepared activations: scales [chunk][padded tokens], then [chunk][tile of tokens][high,
 * low][step], each a tile [4 values][token][value]. A last chunk of one piece has half the steps. ---- */
struct shape {
    int64_t chunks, tiles;
    size_t head;
};

static struct shape shape_of(int64_t n, int64_t T)
{
    struct shape s = {(n + MM16_CHUNK - 1) / MM16_CHUNK, (T + TILE_ROWS - 1) / TILE_ROWS, 0};
    s.head = (size_t)(s.chunks * s.tiles) * TILE_ROWS * sizeof(float);
    return s;
}

static int64_t steps_of(int64_t values)
{
    return values > MM16_PIECE ? STEPS : STEPS / 2;
}

static size_t mm16_x_bytes(int64_t n, int64_t T)
{
    struct shape s = shape_of(n, T);
    int64_t steps = (s.chunks - 1) * STEPS + steps_of(n - (s.chunks - 1) * MM16_CHUNK);
    return s.head + (size_t)(s.tiles * steps) * 2 * TILE;
}

static float quantise_x(int16_t *dst, const float *x, int64_t values)
{
    if (values == MM16_CHUNK) return quantise_float(DT_F32, MM16_NORM_X, dst, (const uint8_t *)x, MM16_CHUNK);
    return quantise_float(DT_F32, MM16_NORM_X, dst, (const uint8_t *)x, values);
}

static void mm16_x_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    struct shape s = shape_of(n, T);
    for (int64_t c = 0; c < s.chunks; c++) {
        int64_t k0 = c * MM16_CHUNK, values = n - k0 < MM16_CHUNK ? n - k0 : MM16_CHUNK,
                steps = steps_of(values);
        for (int64_t t = t0; t < t1; t += TILE_ROWS) {
            float *scales = (float *)dst + c * s.tiles * TILE_ROWS + t;
            uint8_t *to =
                (uint8_t *)dst + s.head + (size_t)(c * s.tiles * STEPS + t / TILE_ROWS * steps) * 2 * TILE;
            uint8_t planes[2][STEPS][TILE_ROWS][TILE_BYTES] __attribute__((aligned(64)));
            for (int64_t i = 0; i < TILE_ROWS; i++) {
                int16_t q[MM16_CHUNK] __attribute__((aligned(64))) = {0};
                scales[i] = t + i < t1 ? quantise_x(q, x + (t + i) * ldx + k0, values) : 0;
                for (int64_t k = 0; k < steps; k++) split(planes[0][k][i], planes[1][k][i], q + 64 * k);
            }
            for (int p = 0; p < 2; p++)
                for (int64_t k = 0; k < steps; k++) {
                    vi v[16];
                    for (int i = 0; i < 16; i++) v[i] = vi_load(planes[p][k][i]);
                    vi_transpose(v);
                    for (int i = 0; i < 16; i++) vi_store(to + (p * steps + k) * TILE + i * TILE_BYTES, v[i]);
                }
        }
    }
}

/* ---- A panel of rows ---- */
struct scratch {
    uint8_t w[MM16_PANEL / TILE_ROWS][2][STEPS][TILE_ROWS][TILE_BYTES];
    int32_t sums[4][TILE_ROWS][TILE_ROWS];
    int16_t row[MM16_CHUNK];
    float scale[MM16_PANEL];
    float c[BLOCK * MM16_PANEL]; /* [tile of tokens][row][token] */
};

static size_t mm16_scratch_bytes(int64_t n)
{
    (void)n;
    return (sizeof(struct scratch) + 63) & ~(size_t)63;
}

static void pack_w(struct scratch *s, mm16_quantise *quantise, const uint8_t *w, size_t row_bytes,
                   int64_t rows, int64_t values, size_t ahead)
{
    for (int64_t r = 0; r < (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; r++) {
        s->scale[r] = 0;
        if (r < rows) {
            const uint8_t *from = w + (size_t)r * row_bytes;
            mm16_fetch_ahead(from, row_bytes, ahead);
            s->scale[r] = quantise(s->row, from, values);
        } else {
            memset(s->row, 0, sizeof s->row);
        }
        uint8_t(*tile)[STEPS][TILE_ROWS][TILE_BYTES] = s->w[r / TILE_ROWS];
        for (int64_t k = 0; k < STEPS; k++)
            split(tile[0][k][r % TILE_ROWS], tile[1][k][r % TILE_ROWS], s->row + 64 * k);
    }
}

/* 16 rows × 16 tokens over one chunk; x: high tiles, then low ones. Four accumulators, because a tile product
 * that waits for the one before takes three times as long. */
static void tile_pair(struct scratch *s, int64_t tile, const uint8_t *x, int64_t steps)
{
    tile_zero(0);
    tile_zero(1);
    tile_zero(2);
    tile_zero(3);
    for (int64_t k = 0; k < steps; k++) {
        tile_load(4, s->w[tile][0][k], TILE_BYTES);
        tile_load(6, x + k * TILE, TILE_BYTES);
        tile_dot_ss(0, 4, 6);
        tile_load(7, x + (steps + k) * TILE, TILE_BYTES);
        tile_dot_su(1, 4, 7);
        tile_load(5, s->w[tile][1][k], TILE_BYTES);
        tile_dot_us(2, 5, 6);
        tile_dot_uu(3, 5, 7);
    }
    tile_store(0, s->sums[0], TILE_BYTES);
    tile_store(1, s->sums[1], TILE_BYTES);
    tile_store(2, s->sums[2], TILE_BYTES);
    tile_store(3, s->sums[3], TILE_BYTES);
}

/* c = (first ? 0 : c) + sums · w's scales · x's scales. */
static void add_scaled(float *c, struct scratch *s, const float *ws, const float *xs, int first)
{
    for (int r = 0; r < TILE_ROWS; r++) {
        vi middle = vi_add32(vi_load(s->sums[1][r]), vi_load(s->sums[2][r]));
        vi sum = vi_add32(_mm512_slli_epi32(vi_load(s->sums[0][r]), 16), _mm512_slli_epi32(middle, 8));
        sum = vi_add32(sum, vi_load(s->sums[3][r]));
        vf old = first ? vf_set1(0) : vf_load(c + r * TILE_ROWS);
        vf_store(c + r * TILE_ROWS, vf_fma(vf_mul(vf_from_int(sum), vf_set1(ws[r])), vf_load(xs), old));
    }
}

static void put_y(float *y, int64_t ldy, const float *c, int64_t rows, int64_t tokens)
{
    for (int64_t r = 0; r < rows; r += TILE_ROWS) {
        vi v[16];
        for (int64_t i = 0; i < 16; i++) v[i] = vi_load(c + (r + i) * TILE_ROWS);
        vi_transpose(v);
        __mmask16 m = rows - r < 16 ? (__mmask16)((1u << (rows - r)) - 1) : 0xffff;
        for (int64_t t = 0; t < 16 && t < tokens; t++) _mm512_mask_storeu_epi32(y + t * ldy + r, m, v[t]);
    }
}

static void panel(struct scratch *s, mm16_quantise *quantise, size_t chunk_bytes, float *y, int64_t ldy,
                  const uint8_t *w, size_t row_bytes, int64_t rows, int64_t n, const uint8_t *xp, int64_t T,
                  int64_t t0, int64_t t1)
{
    struct shape sh = shape_of(n, T);
    int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, all = tiles * TILE_ROWS;
    for (int64_t k = 0; k < sh.chunks; k++) {
        int64_t values = n - k * MM16_CHUNK < MM16_CHUNK ? n - k * MM16_CHUNK : MM16_CHUNK;
        int64_t steps = steps_of(values);
        pack_w(s, quantise, w + (size_t)k * chunk_bytes, row_bytes, rows, values, chunk_bytes);
        const float *xs = (const float *)xp + k * sh.tiles * TILE_ROWS;
        const uint8_t *x = xp + sh.head + (size_t)(k * sh.tiles * STEPS) * 2 * TILE;
        /* Two tiles of rows stay in the first-level cache while the tokens pass. */
        for (int64_t r = 0; r < tiles; r += 2)
            for (int64_t t = t0; t < t1; t += TILE_ROWS)
                for (int64_t i = r; i < r + 2 && i < tiles; i++) {
                    tile_pair(s, i, x + (size_t)(t / TILE_ROWS * steps) * 2 * TILE, steps);
                    add_scaled(s->c + (t - t0) * all + i * TILE_ROWS * TILE_ROWS, s, s->scale + i * TILE_ROWS,
                               xs + t, k == 0);
                }
    }
    for (int64_t t = t0; t < t1; t += TILE_ROWS) put_y(y + t * ldy, ldy, s->c + (t - t0) * all, rows, t1 - t);
}

static void mm16_rows(mm16_quantise *quantise, size_t chunk_bytes, float *y, int64_t ldy, const void *w,
                      size_t row_bytes, int64_t rows, int64_t n, const void *xp, int64_t T, void *scratch)
{
    tiles_begin();
    for (int64_t r = 0; r < rows; r += MM16_PANEL)
        for (int64_t t = 0; t < T; t += BLOCK)
            panel(scratch, quantise, chunk_bytes, y + r, ldy, (const uint8_t *)w + (size_t)r * row_bytes,
                  row_bytes, rows - r < MM16_PANEL ? rows - r : MM16_PANEL, n, xp, T, t,
                  T - t < BLOCK ? T : t + BLOCK);
    tiles_end();
}

/* ---- BF16 weights: bf16 tiles, sums in float ----
 * Weights as they are, tokens rounded. Prepared tokens: [tile of tokens][step], each a tile [2 values][token]
 * [value]. A result's sum runs through the steps of its row in order, resting in `c` between chunks, whatever
 * rows and tokens stand beside it. Denormals count as zero. */
struct half_scratch {
    uint8_t w[MM16_PANEL / TILE_ROWS][HALF_STEPS][TILE_ROWS][TILE_BYTES];
    float c[BLOCK * MM16_PANEL]; /* [tile of tokens][row][token] */
};

static int64_t half_steps(int64_t values)
{
    return (values + HALVES - 1) / HALVES;
}

static size_t half_x_bytes(int64_t n, int64_t T)
{
    return (size_t)((T + TILE_ROWS - 1) / TILE_ROWS * half_steps(n)) * TILE;
}

static size_t half_scratch_bytes(int64_t n)
{
    (void)n;
    return (sizeof(struct half_scratch) + 63) & ~(size_t)63;
}

/* The first min(count, 32) values of p, the rest 0. */
UP_INLINE __mmask32 half_mask(int64_t count)
{
    return count >= HALVES ? 0xffffffffu : count > 0 ? (1u << count) - 1 : 0;
}

/* To nearest even. In integers, because the instruction for it is not where the tiles are emulated. A NaN
 * stays one: rounding its bits could carry into the sign. */
UP_INLINE __m256i round_half(vf f)
{
    vi u = _mm512_castps_si512(f), top = _mm512_srli_epi32(u, 16);
    vi odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
    vi r = _mm512_srli_epi32(vi_add32(u, vi_add32(odd, _mm512_set1_epi32(0x7fff))), 16);
    r = _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(f, f, _CMP_UNORD_Q), top, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(r);
}

static void half_x_pack(void *dst, const float *x, int64_t ldx, int64_t n, int64_t T, int64_t t0, int64_t t1)
{
    (void)T;
    int64_t steps = half_steps(n);
    for (int64_t t = t0; t < t1; t += TILE_ROWS) {
        uint8_t *to = (uint8_t *)dst + (size_t)(t / TILE_ROWS * steps) * TILE;
        for (int64_t k = 0; k < n; k += HALVES, to += TILE) {
            __mmask32 m = half_mask(n - k);
            vi v[16];
            for (int i = 0; i < 16; i++) {
                v[i] = vi_zero();
                if (t + i >= t1) continue;
                const float *from = x + (t + i) * ldx + k;
                __m256i low = round_half(_mm512_maskz_loadu_ps((__mmask16)m, from));
                __m256i high = _mm256_setzero_si256();
                if (m >> 16) high = round_half(_mm512_maskz_loadu_ps((__mmask16)(m >> 16), from + 16));
                v[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
            }
            vi_transpose(v);
            for (int i = 0; i < 16; i++) vi_store(to + i * TILE_BYTES, v[i]);
        }
    }
}

static void half_pack_w(struct half_scratch *s, const uint8_t *w, size_t row_bytes, int64_t rows,
                        int64_t values)
{
    for (int64_t r = 0; r < (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; r++) {
        const uint8_t *from = w + (size_t)r * row_bytes;
        if (r < rows) mm16_fetch_ahead(from, row_bytes, 2 * MM16_CHUNK);
        for (int64_t k = 0; k < half_steps(values); k++) {
            vi v = vi_zero();
            if (r < rows) v = _mm512_maskz_loadu_epi16(half_mask(values - HALVES * k), from + TILE_BYTES * k);
            vi_store(s->w[r / TILE_ROWS][k][r % TILE_ROWS], v);
        }
    }
}

/* c += w · x over one chunk: `high` (1 or 2) tiles of rows × `wide` tiles of tokens, the tokens' tiles
 * `x_next` bytes apart, their sums `c_next` floats. */
UP_INLINE void half_tiles(float *c, int64_t c_next, uint8_t (*w)[HALF_STEPS][TILE_ROWS][TILE_BYTES],
                          const uint8_t *x, int64_t x_next, int64_t steps, int first, int high, int wide)
{
    float *c1 = c + TILE_ROWS * TILE_ROWS, *d = c + c_next, *d1 = c1 + c_next;
    if (first) {
        tile_zero(0);
        tile_zero(1);
        tile_zero(2);
        tile_zero(3);
    } else {
        tile_load(0, c, TILE_BYTES);
        if (high > 1) tile_load(1, c1, TILE_BYTES);
        if (wide > 1) tile_load(2, d, TILE_BYTES);
        if (high > 1 && wide > 1) tile_load(3, d1, TILE_BYTES);
    }
    for (int64_t k = 0; k < steps; k++) {
        tile_load(4, w[0][k], TILE_BYTES);
        tile_load(6, x + k * TILE, TILE_BYTES);
        tile_dot_bf16(0, 4, 6);
        if (high > 1) {
            tile_load(5, w[1][k], TILE_BYTES);
            tile_dot_bf16(1, 5, 6);
        }
        if (wide > 1) {
            tile_load(7, x + x_next + k * TILE, TILE_BYTES);
            tile_dot_bf16(2, 4, 7);
            if (high > 1) tile_dot_bf16(3, 5, 7);
        }
    }
    tile_store(0, c, TILE_BYTES);
    if (high > 1) tile_store(1, c1, TILE_BYTES);
    if (wide > 1) tile_store(2, d, TILE_BYTES);
    if (high > 1 && wide > 1) tile_store(3, d1, TILE_BYTES);
}

/* Tokens [t0, t1) of xp with at most MM16_PANEL rows. */
static void half_panel(struct half_scratch *s, float *y, int64_t ldy, const uint8_t *w, size_t row_bytes,
                       int64_t rows, int64_t n, const uint8_t *xp, int64_t t0, int64_t t1)
{
    int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, all = tiles * TILE_ROWS,
            x_next = half_steps(n) * TILE;
    for (int64_t k = 0; k < n; k += MM16_CHUNK) {
        int64_t values = n - k < MM16_CHUNK ? n - k : MM16_CHUNK, steps = half_steps(values);
        half_pack_w(s, w + 2 * k, row_bytes, rows, values);
        const uint8_t *chunk = xp + k / HALVES * TILE;
        /* Two tiles of rows stay in the first-level cache while the tokens pass. */
        for (int64_t r = 0; r < tiles; r += 2)
            for (int64_t t = t0; t < t1; t += 2 * TILE_ROWS) {
                float *c = s->c + (t - t0) * all + r * TILE_ROWS * TILE_ROWS;
                const uint8_t *x = chunk + t / TILE_ROWS * x_next;
                int64_t c_next = TILE_ROWS * all;
                int high = r + 1 < tiles, wide = t + TILE_ROWS < t1;
                if (high && wide)
                    half_tiles(c, c_next, s->w + r, x, x_next, steps, k == 0, 2, 2);
                else if (high)
                    half_tiles(c, c_next, s->w + r, x, x_next, steps, k == 0, 2, 1);
                else if (wide)
                    half_tiles(c, c_next, s->w + r, x, x_next, steps, k == 0, 1, 2);
                else
                    half_tiles(c, c_next, s->w + r, x, x_next, steps, k == 0, 1, 1);
            }
    }
    for (int64_t t = t0; t < t1; t += TILE_ROWS) put_y(y + t * ldy, ldy, s->c + (t - t0) * all, rows, t1 - t);
}

static void half_rows(float *y, int64_t ldy, const void *w, size_t row_bytes, int64_t rows, int64_t n,
                      const void *xp, int64_t T, void *scratch)
{
    tiles_begin();
    for (int64_t r = 0; r < rows; r += MM16_PANEL)
        for (int64_t t = 0; t < T; t += BLOCK)
            half_panel(scratch, y + r, ldy, (const uint8_t *)w + (size_t)r * row_bytes, row_bytes,
                       rows - r < MM16_PANEL ? rows - r : MM16_PANEL, n, xp, t,
                       T - t < BLOCK ? T : t + BLOCK);
    tiles_end();
}

enum { X_MM16 = X_FIRST_AMX + 0x10, X_HALF };

static const struct kern_mat mat_half = {
    .x_format = X_HALF,
    .x_bytes = half_x_bytes,
    .x_pack = half_x_pack,
    .x_group = MM16_GROUP,
    .rows = half_rows,
    .scratch_bytes = half_scratch_bytes,
    .row_group = MM16_PANEL,
};

#define FLOATS(X) X(F16)
#include "kernels/cpu/mm_types.h"

#ifdef AMX_EMULATED
void amx_emulated_mm_init(struct kern_ops *ops);
#define amx_mm_init amx_emulated_mm_init
#endif

void amx_mm_init(struct kern_ops *ops)
{
    mm_enter(ops);
    ops->mm[DT_BF16] = &mat_half;
}
