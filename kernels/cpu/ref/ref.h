/* Private to the reference tier and to tiers that keep one of its functions. */
#ifndef KERNELS_CPU_REF_REF_H
#define KERNELS_CPU_REF_REF_H

#include "base/dtype.h"

#include <stdint.h>
#include <string.h>

struct kern_ops;

/* Levels of the 4-bit IQ types. */
extern const int8_t ref_iq4_levels[16];

/* Blocks of one type to floats: n values, a multiple of the block, src at any address. Exact: the products of
 * scales and quants are rounded in the order the format's own definition rounds them. */
void ref_decode(enum dtype type, float *dst, const void *src, int64_t n);
/* One block of an IQ or ternary type (256 values); false for other types. */
typedef void (*ref_block_fn)(float *y, const uint8_t *b);
ref_block_fn ref_decode_iq(enum dtype type);

void ref_kv_store(enum dtype type, void *dst, const float *src, int64_t n);
/* One block of 32 values to Q8_0 with round-half-away, as the format's reference quantises. */
void ref_encode_q8_0(uint8_t *b, const float *x);

/* One row of a gate in two planes to the type's own bytes. */
struct kern_plane_row;
void ref_plane_join(enum dtype type, uint8_t *dst, const uint8_t *coarse, const uint8_t *fine,
                    const struct kern_plane_row *row, int64_t n);

void ref_planes_init(struct kern_ops *ops);
void ref_products_init(struct kern_ops *ops);
void ref_down_init(struct kern_ops *ops);
void ref_vec_init(struct kern_ops *ops);
void ref_attn_init(struct kern_ops *ops);

/* Little-endian loads from any address. */
static inline uint16_t ref_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t ref_u32(const uint8_t *p)
{
    return ref_u16(p) | (uint32_t)ref_u16(p + 2) << 16;
}

#endif
