/* Private to kernels/: how a 16-bit float becomes a coarse and a fine byte and comes back (kernels.h, "Gate
 * in two planes"). Plain C for all tiers.
 *
 * A word's magnitude m is the word without its sign. The row's base is the magnitude at which the 8 octaves
 * that end with the row's largest value begin. From there on, coarse = (m - base) / SLOTS and fine the rest,
 * below SLOTS = words in 1/16 octave (F16 64, BF16 8). What lies below the base has the rank 0 if zero, else
 * base - m, and takes fine bytes from SLOTS up: coarse = rank / (256 - SLOTS), fine = SLOTS + the rest. The
 * counts work out for every possible base: 128·(256 - SLOTS) ranks are as many as the largest base. */
#ifndef KERNELS_CPU_PLANE_WORDS_H
#define KERNELS_CPU_PLANE_WORDS_H

#include "base/dtype.h"

#include <stdint.h>

/* Words of a 1/16 octave: the fine bytes of what lies inside the octaves. */
static inline uint32_t plane_slots(enum dtype type)
{
    return type == DT_F16 ? 64 : 8;
}

/* The base of a row whose largest magnitude is `most`. */
static inline uint32_t plane_base(enum dtype type, uint32_t most)
{
    uint32_t octave = 16 * plane_slots(type), top = most / octave;
    return (top > 8 ? top - 7 : 1) * octave; /* exponent 0 has no octave */
}

/* The upper half of the float that stands for a coarse byte, a value in [2^-7, 2): the row's unit scales it.
 * A shift, a mask and a constant make it of the sign-extended byte. */
enum { PLANE_SHIFT = 3, PLANE_MASK = 0x83f8, PLANE_REST = 0x3c04 };
static inline uint16_t plane_coarse_bf16(uint32_t c)
{
    return (uint16_t)((c & 0x80) << 8 | (c & 0x7f) << PLANE_SHIFT | PLANE_REST);
}

/* Where the byte of value i stands in its row's part: in each 64, the four bytes of the 32-bit word j belong
 * to values j, 16 + j, 32 + j and 48 + j. So one load and a few shifts give four vectors of values in order.
 */
static inline int64_t plane_place(int64_t i)
{
    return (i & ~(int64_t)63) | (i & 15) << 2 | (i >> 4 & 3);
}

static inline void plane_apart(enum dtype type, uint32_t base, uint32_t word, uint8_t *coarse, uint8_t *fine)
{
    uint32_t slots = plane_slots(type), sign = word >> 8 & 0x80, m = word & 0x7fff;
    if (m >= base) {
        *coarse = (uint8_t)(sign | (m - base) / slots);
        *fine = (uint8_t)((m - base) % slots);
    } else {
        uint32_t rank = m ? base - m : 0;
        *coarse = (uint8_t)(sign | rank / (256 - slots));
        *fine = (uint8_t)(slots + rank % (256 - slots));
    }
}

static inline uint16_t plane_together(enum dtype type, uint32_t base, uint32_t c, uint32_t fine)
{
    uint32_t slots = plane_slots(type), sign = (c & 0x80) << 8;
    c &= 0x7f;
    if (fine < slots) return (uint16_t)(sign | (base + c * slots + fine));
    uint32_t rank = c * (256 - slots) + fine - slots;
    return (uint16_t)(sign | (rank ? base - rank : 0));
}

#endif
