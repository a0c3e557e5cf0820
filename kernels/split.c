/* Taking block-quantised down matrices apart by neuron and putting them together again, byte for byte. A tile
 * of 64 rows meets 256 neurons at a time: its codes are turned in a buffer that stays in the first-level
 * cache. */
#include "kernels/down.h"

#include "base/err.h"
#include "kernels/kernels.h"

#include <string.h>

bool kern_can_split(enum dtype t)
{
    return t == DT_Q8_0 || t == DT_Q4_0 || down_is_k(t);
}

/* One block of the file: its codes, and what its groups and the block share. */
struct block {
    uint8_t code[256];
    uint16_t d, dmin;
    uint8_t scale[16], min[8];
};

/* Twelve bytes hold eight scales and eight minima of 6 bits. */
static void take_scales(struct block *k, const uint8_t *s)
{
    for (int g = 0; g < 4; g++) {
        k->scale[g] = s[g] & 63;
        k->min[g] = s[g + 4] & 63;
        k->scale[g + 4] = (uint8_t)((s[g + 8] & 15) | s[g] >> 6 << 4);
        k->min[g + 4] = (uint8_t)(s[g + 8] >> 4 | s[g + 4] >> 6 << 4);
    }
}

static void put_scales(const struct block *k, uint8_t *s)
{
    for (int g = 0; g < 4; g++) {
        s[g] = (uint8_t)(k->scale[g] | k->scale[g + 4] >> 4 << 6);
        s[g + 4] = (uint8_t)(k->min[g] | k->min[g + 4] >> 4 << 6);
        s[g + 8] = (uint8_t)((k->scale[g + 4] & 15) | k->min[g + 4] << 4);
    }
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static void put_u16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void take_block(enum dtype t, struct block *k, const uint8_t *b)
{
    uint8_t *c = k->code;
    switch (t) {
    case DT_Q8_0:
        k->d = u16_at(b);
        memcpy(c, b + 2, 32);
        break;
    case DT_Q4_0:
        k->d = u16_at(b);
        for (int i = 0; i < 16; i++) {
            c[i] = b[2 + i] & 15;
            c[i + 16] = b[2 + i] >> 4;
        }
        break;
    case DT_Q4_K:
    case DT_Q5_K: {
        const uint8_t *high = b + 16, *q = t == DT_Q5_K ? b + 48 : b + 16;
        k->d = u16_at(b);
        k->dmin = u16_at(b + 2);
        take_scales(k, b + 4);
        for (int g = 0; g < 8; g++)
            for (int i = 0; i < 32; i++) {
                int v = q[32 * (g / 2) + i] >> 4 * (g & 1) & 15;
                c[32 * g + i] = (uint8_t)(t == DT_Q5_K ? v | (high[i] >> g & 1) << 4 : v);
            }
        break;
    }
    default: /* Q6_K */
        k->d = u16_at(b + 208);
        memcpy(k->scale, b + 192, 16);
        for (int half = 0; half < 2; half++)
            for (int run = 0; run < 4; run++)
                for (int i = 0; i < 32; i++) {
                    int low = b[64 * half + 32 * (run & 1) + i] >> 4 * (run / 2) & 15;
                    int high = b[128 + 32 * half + i] >> 2 * run & 3;
                    c[128 * half + 32 * run + i] = (uint8_t)(low | high << 4);
                }
    }
}

static void put_block(enum dtype t, const struct block *k, uint8_t *b)
{
    const uint8_t *c = k->code;
    switch (t) {
    case DT_Q8_0:
        put_u16(b, k->d);
        memcpy(b + 2, c, 32);
        break;
    case DT_Q4_0:
        put_u16(b, k->d);
        for (int i = 0; i < 16; i++) b[2 + i] = (uint8_t)(c[i] | c[i + 16] << 4);
        break;
    case DT_Q4_K:
    case DT_Q5_K: {
        uint8_t *high = b + 16, *q = t == DT_Q5_K ? b + 48 : b + 16;
        put_u16(b, k->d);
        put_u16(b + 2, k->dmin);
        put_scales(k, b + 4);
        for (int g = 0; g < 8; g += 2)
            for (int i = 0; i < 32; i++)
                q[16 * g + i] = (uint8_t)((c[32 * g + i] & 15) | c[32 * g + 32 + i] << 4);
        for (int i = 0; i < 32 && t == DT_Q5_K; i++) {
            int bits = 0;
            for (int g = 0; g < 8; g++) bits |= (c[32 * g + i] >> 4) << g;
            high[i] = (uint8_t)bits;
        }
        break;
    }
    default: /* Q6_K */
        put_u16(b + 208, k->d);
        memcpy(b + 192, k->scale, 16);
        for (int half = 0; half < 2; half++)
            for (int i = 0; i < 32; i++) {
                const uint8_t *h = c + 128 * half + i;
                b[64 * half + i] = (uint8_t)((h[0] & 15) | h[64] << 4);
                b[64 * half + 32 + i] = (uint8_t)((h[32] & 15) | h[96] << 4);
                b[128 + 32 * half + i] =
                    (uint8_t)(h[0] >> 4 | h[32] >> 4 << 2 | h[64] >> 4 << 4 | h[96] >> 4 << 6);
            }
    }
}

/* Codes of a tile's columns × 256 neurons, and bytes of the neurons' parts on their way. */
struct tile {
    uint8_t code[DOWN_TILE][256];
    uint8_t bytes[DOWN_TILE][256];
};

/* Bytes of n neurons' parts of this tile; each line is one pass over contiguous codes. */
static void pack_low(enum dtype t, struct tile *k, int n)
{
    if (t == DT_Q8_0) {
        memcpy(k->bytes, k->code, sizeof k->bytes);
        return;
    }
    for (int b = 0; b < 64; b++) {
        const uint8_t *even = k->code[32 * (b % 4) + b / 4], *odd = k->code[32 * (b % 4) + 16 + b / 4];
        for (int i = 0; i < n; i++) k->bytes[b][i] = (uint8_t)((even[i] & 15) | odd[i] << 4);
    }
}

static void pack_high(enum dtype t, struct tile *k, int n)
{
    bool five = t == DT_Q5_K;
    for (int b = 0; b < (five ? 16 : 32); b++) {
        memset(k->bytes[b], 0, (size_t)n);
        for (int m = 0; m < (five ? 8 : 4); m++) {
            int c = five ? 16 * (b / 2) + 8 * (b % 2) + m : 16 * (4 * (b % 2) + m) + b / 2;
            for (int i = 0; i < n; i++)
                k->bytes[b][i] |= (uint8_t)((k->code[c][i] >> 4) << (five ? m : 2 * m));
        }
    }
}

/* The same the other way. */
static void unpack_low(enum dtype t, struct tile *k, int n)
{
    if (t == DT_Q8_0) {
        memcpy(k->code, k->bytes, sizeof k->code);
        return;
    }
    for (int b = 0; b < 64; b++) {
        uint8_t *even = k->code[32 * (b % 4) + b / 4], *odd = k->code[32 * (b % 4) + 16 + b / 4];
        for (int i = 0; i < n; i++) {
            even[i] = k->bytes[b][i] & 15;
            odd[i] = k->bytes[b][i] >> 4;
        }
    }
}

static void unpack_high(enum dtype t, struct tile *k, int n)
{
    bool five = t == DT_Q5_K;
    for (int b = 0; b < (five ? 16 : 32); b++)
        for (int m = 0; m < (five ? 8 : 4); m++) {
            int c = five ? 16 * (b / 2) + 8 * (b % 2) + m : 16 * (4 * (b % 2) + m) + b / 2;
            int shift = five ? m : 2 * m, mask = five ? 1 : 3;
            for (int i = 0; i < n; i++) k->code[c][i] |= (uint8_t)((k->bytes[b][i] >> shift & mask) << 4);
        }
}

/* The tile's bytes to and from neurons first … first + n of the file; `part` is that byte of the neuron
 * stored first. */
static void scatter(const struct tile *k, uint8_t *part, size_t stride, const uint32_t *at, int64_t first,
                    int n, size_t bytes)
{
    for (int i = 0; i < n; i++) {
        uint8_t *to = part + (at ? at[first + i] : (size_t)(first + i)) * stride;
        for (size_t j = 0; j < bytes; j++) to[j] = k->bytes[j][i];
    }
}

static void gather(struct tile *k, const uint8_t *part, size_t stride, const uint32_t *at, int64_t first,
                   int n, size_t bytes)
{
    for (int i = 0; i < n; i++) {
        const uint8_t *from = part + (at ? at[first + i] : (size_t)(first + i)) * stride;
        for (size_t j = 0; j < bytes; j++) k->bytes[j][i] = from[j];
    }
}

/* Types and ranges that a layout can hold. */
static int check(enum dtype t, int64_t d, int64_t f, int64_t i0, int64_t i1, int64_t c0, int64_t c1,
                 struct err *e)
{
    if (!kern_can_split(t))
        return err_set(e, ERR_UNSUPPORTED, "%s has no layout by neuron that keeps its blocks",
                       dtype_name((uint32_t)t));
    const int64_t block = dtype_info((uint32_t)t)->block;
    if (d < 1 || f < 1 || f % block)
        return err_set(
            e, ERR_ARG,
            "a down matrix of %lld × %lld %s: expected at least one row, and columns in multiples of "
            "%lld",
            (long long)d, (long long)f, dtype_name((uint32_t)t), (long long)block);
    if (i0 < 0 || i1 < i0 || i1 > f || i0 % KERN_BLOCK || (i1 % KERN_BLOCK && i1 != f))
        return err_set(e, ERR_ARG, "neurons %lld to %lld of %lld: expected multiples of %d, or the end",
                       (long long)i0, (long long)i1, (long long)f, KERN_BLOCK);
    if (c0 < 0 || c1 < c0 || c1 > d || c0 % DOWN_TILE || (c1 % DOWN_TILE && c1 != d))
        return err_set(e, ERR_ARG, "rows %lld to %lld of %lld: expected multiples of %d, or the end",
                       (long long)c0, (long long)c1, (long long)d, DOWN_TILE);
    return 0;
}

/* Planes of the groups and the super-block of one block of the file, column c. */
static void put_planes(enum dtype t, const struct kern_split_dst *dst, const struct block *k, int64_t d,
                       int64_t i0, int64_t c)
{
    int64_t pad = down_tiles(d) * DOWN_TILE, g = i0 / down_group(t), s = i0 / 256;
    size_t group = down_plane_bytes(t, d), super = down_super_bytes(t, d);
    if (!down_is_k(t)) {
        put_u16(dst->groups + (size_t)g * group + 2 * (size_t)c, k->d);
        return;
    }
    for (int j = 0; j < 256 / down_group(t); j++) {
        uint8_t *p = dst->groups + (size_t)(g + j) * group + (size_t)c;
        p[0] = k->scale[j];
        if (t != DT_Q6_K) p[pad] = k->min[j];
    }
    put_u16(dst->supers + (size_t)s * super + 2 * (size_t)c, k->d);
    if (t != DT_Q6_K) put_u16(dst->supers + (size_t)s * super + 2 * (size_t)(pad + c), k->dmin);
}

static void take_planes(enum dtype t, const struct kern_down_rows *w, struct block *k, int64_t d, int64_t i0,
                        int64_t c)
{
    int64_t pad = down_tiles(d) * DOWN_TILE, g = i0 / down_group(t), s = i0 / 256;
    size_t group = down_plane_bytes(t, d), super = down_super_bytes(t, d);
    if (!down_is_k(t)) {
        k->d = u16_at(w->groups + (size_t)g * group + 2 * (size_t)c);
        return;
    }
    for (int j = 0; j < 256 / down_group(t); j++) {
        const uint8_t *p = w->groups + (size_t)(g + j) * group + (size_t)c;
        k->scale[j] = p[0];
        if (t != DT_Q6_K) k->min[j] = p[pad];
    }
    k->d = u16_at(w->supers + (size_t)s * super + 2 * (size_t)c);
    if (t != DT_Q6_K) k->dmin = u16_at(w->supers + (size_t)s * super + 2 * (size_t)(pad + c));
}

int kern_split(enum dtype t, const struct kern_split_dst *dst, const void *src, size_t row_bytes, int64_t d,
               int64_t f, int64_t i0, int64_t i1, int64_t c0, int64_t c1, struct err *e)
{
    int bad = check(t, d, f, i0, i1, c0, c1, e);
    if (bad < 0) return bad;
    const struct dtype_info *info = dtype_info((uint32_t)t);
    const size_t low = down_low_bytes(t), high = down_high_bytes(t);
    for (int64_t first = i0; first < i1; first += 256) {
        int n = i1 - first < 256 ? (int)(i1 - first) : 256;
        for (int64_t c = c0; c < c1; c += DOWN_TILE) {
            struct tile k;
            int rows = c1 - c < DOWN_TILE ? (int)(c1 - c) : DOWN_TILE;
            for (int j = 0; j < rows; j++) {
                const uint8_t *b = (const uint8_t *)src + (size_t)(c + j) * row_bytes +
                                   (size_t)(first / info->block) * info->bytes;
                for (int i = 0; i < n; i += (int)info->block, b += info->bytes) {
                    struct block one;
                    take_block(t, &one, b);
                    memcpy(k.code[j] + i, one.code, info->block);
                    put_planes(t, dst, &one, d, first + i, c + j);
                }
            }
            static const struct block none;
            for (int j = rows; j < DOWN_TILE; j++) { /* padding */
                memset(k.code[j], 0, 256);
                for (int i = 0; i < n; i += (int)info->block) put_planes(t, dst, &none, d, first + i, c + j);
            }
            size_t tile = (size_t)(c / DOWN_TILE), behind = (size_t)down_tiles(d) * low;
            pack_low(t, &k, n);
            scatter(&k, dst->rows + tile * low, dst->stride, dst->at, first, n, low);
            if (!high) continue;
            pack_high(t, &k, n);
            scatter(&k, dst->rows + behind + tile * high, dst->stride, dst->at, first, n, high);
        }
    }
    return 0;
}

int kern_unsplit(enum dtype t, void *dst, size_t row_bytes, const struct kern_down_rows *w,
                 const uint32_t *at, int64_t d, int64_t f, int64_t c0, int64_t c1, struct err *e)
{
    int bad = check(t, d, f, 0, f, c0, c1, e);
    if (bad < 0) return bad;
    const struct dtype_info *info = dtype_info((uint32_t)t);
    const size_t low = down_low_bytes(t), high = down_high_bytes(t);
    for (int64_t first = 0; first < f; first += 256) {
        int n = f - first < 256 ? (int)(f - first) : 256;
        for (int64_t c = c0; c < c1; c += DOWN_TILE) {
            struct tile k;
            int rows = c1 - c < DOWN_TILE ? (int)(c1 - c) : DOWN_TILE;
            size_t tile = (size_t)(c / DOWN_TILE), behind = (size_t)down_tiles(d) * low;
            gather(&k, w->rows + tile * low, w->stride, at, first, n, low);
            unpack_low(t, &k, n);
            if (high) {
                gather(&k, w->rows + behind + tile * high, w->stride, at, first, n, high);
                unpack_high(t, &k, n);
            }
            for (int j = 0; j < rows; j++) {
                uint8_t *b = (uint8_t *)dst + (size_t)(c - c0 + j) * row_bytes +
                             (size_t)(first / info->block) * info->bytes;
                for (int i = 0; i < n; i += (int)info->block, b += info->bytes) {
                    struct block one;
                    memcpy(one.code, k.code[j] + i, info->block);
                    take_planes(t, w, &one, d, first + i, c + j);
                    put_block(t, &one, b);
                }
            }
        }
    }
    return 0;
}
