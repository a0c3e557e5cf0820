/* The tile instructions of AMX behind macros, with a twin in plain C (AMX_EMULATED): the same source then
 * runs, and is tested, on machines without them. Tile numbers are constants 0 … 7; all tiles have 16 rows of
 * 64 bytes, except that the emulation would not notice another shape. */
#ifndef KERNELS_CPU_AMX_TILES_H
#define KERNELS_CPU_AMX_TILES_H

#include <stddef.h>
#include <stdint.h>

enum { TILE_ROWS = 16, TILE_BYTES = 64 };

#ifndef AMX_EMULATED

#include <immintrin.h>

/* For this thread; what follows belongs between tiles_begin and tiles_end, which gives the state back so that
 * the kernel need not save 8 KiB at every switch. */
static inline void tiles_begin(void)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) config = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        config.bytes[i] = TILE_BYTES;
        config.rows[i] = TILE_ROWS;
    }
    /* The intrinsic names only 8 bytes of the configuration to the compiler, which may drop the others'
     * stores. */
    __asm__ volatile("" : : "r"(&config) : "memory");
    _tile_loadconfig(&config);
}

#define tiles_end()              _tile_release()
#define tile_zero(t)             _tile_zero(t)
#define tile_load(t, p, stride)  _tile_loadd(t, p, stride)
#define tile_store(t, p, stride) _tile_stored(t, p, stride)
#define tile_dot_ss(c, a, b)     _tile_dpbssd(c, a, b) /* signed · signed bytes, and so on */
#define tile_dot_su(c, a, b)     _tile_dpbsud(c, a, b)
#define tile_dot_us(c, a, b)     _tile_dpbusd(c, a, b)
#define tile_dot_uu(c, a, b)     _tile_dpbuud(c, a, b)
#define tile_dot_bf16(c, a, b)   _tile_dpbf16ps(c, a, b)

#else

#include <string.h>

static _Thread_local struct {
    uint8_t t[8][TILE_ROWS][TILE_BYTES];
    int on;
} tile_state;

static inline void tiles_begin(void)
{
    memset(&tile_state, 0, sizeof tile_state);
    tile_state.on = 1;
}

static inline void tiles_end(void)
{
    memset(&tile_state, 0xdb, sizeof tile_state);
    tile_state.on = 0;
}

/* The instructions fault without a configuration. */
static inline void tile_use(void)
{
    if (!tile_state.on) __builtin_trap();
}

static inline void tile_zero(int t)
{
    tile_use();
    memset(tile_state.t[t], 0, sizeof tile_state.t[t]);
}

static inline void tile_load(int t, const void *p, size_t stride)
{
    tile_use();
    for (size_t r = 0; r < TILE_ROWS; r++)
        memcpy(tile_state.t[t][r], (const char *)p + r * stride, TILE_BYTES);
}

static inline void tile_store(int t, void *p, size_t stride)
{
    tile_use();
    for (size_t r = 0; r < TILE_ROWS; r++) memcpy((char *)p + r * stride, tile_state.t[t][r], TILE_BYTES);
}

/* TDPBSSD and its kin: c[m][n] += Σ_k Σ_i a[m][4k+i]·b[k][4n+i], modulo 2^32. */
static inline void tile_dot(int c, int a, int b, int a_signed, int b_signed)
{
    tile_use();
    for (int m = 0; m < TILE_ROWS; m++) {
        uint32_t sums[TILE_ROWS];
        memcpy(sums, tile_state.t[c][m], sizeof sums);
        for (int k = 0; k < TILE_ROWS; k++)
            for (int n = 0; n < TILE_ROWS; n++)
                for (int i = 0; i < 4; i++) {
                    uint8_t x = tile_state.t[a][m][4 * k + i], y = tile_state.t[b][k][4 * n + i];
                    int xv = a_signed ? (int8_t)x : x, yv = b_signed ? (int8_t)y : y;
                    sums[n] += (uint32_t)(xv * yv);
                }
        memcpy(tile_state.t[c][m], sums, sizeof sums);
    }
}

static inline void tile_dot_ss(int c, int a, int b)
{
    tile_dot(c, a, b, 1, 1);
}

static inline void tile_dot_su(int c, int a, int b)
{
    tile_dot(c, a, b, 1, 0);
}

static inline void tile_dot_us(int c, int a, int b)
{
    tile_dot(c, a, b, 0, 1);
}

static inline void tile_dot_uu(int c, int a, int b)
{
    tile_dot(c, a, b, 0, 0);
}

/* Denormals are zero, whether they come in or would go out. */
static inline float tile_flush(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (!(u & 0x7f800000)) u &= 0x80000000;
    memcpy(&f, &u, sizeof u);
    return f;
}

static inline float tile_bf16(const uint8_t *p)
{
    uint32_t u = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float f;
    memcpy(&f, &u, sizeof f);
    return tile_flush(f);
}

/* TDPBF16PS: even and odd products are summed apart by fused multiply-adds from zero, then together, then
 * onto c; always round to nearest even. */
static inline void tile_dot_bf16(int c, int a, int b)
{
    tile_use();
    for (int m = 0; m < TILE_ROWS; m++)
        for (int n = 0; n < TILE_ROWS; n++) {
            float sums[2] = {0, 0}, old;
            for (int k = 0; k < TILE_ROWS; k++)
                for (int i = 0; i < 2; i++)
                    sums[i] =
                        tile_flush(__builtin_fmaf(tile_bf16(&tile_state.t[a][m][4 * k + 2 * i]),
                                                  tile_bf16(&tile_state.t[b][k][4 * n + 2 * i]), sums[i]));
            memcpy(&old, &tile_state.t[c][m][4 * n], sizeof old);
            old = tile_flush(tile_flush(old) + tile_flush(sums[0] + sums[1]));
            memcpy(&tile_state.t[c][m][4 * n], &old, sizeof old);
        }
}

#endif
#endif
