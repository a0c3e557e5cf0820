/* Grids of the IQ types: the lattice points that an index in a block stands for. An entry is a 16-bit word of
 * small level numbers, value 0 of the group in the lowest bits; a level number stands for a magnitude:
 *   iq2*: 8 values of 2 bits, {8, 25, 43}         iq3xxs: 4 values of 3 bits, {4, 12, 20, 28, 36, 44, 52, 62}
 *   iq1s: 8 values of 2 bits, {-1, 0, 1}          iq3s:   4 values of 3 bits, {1, 3, 5, 7, 9, 11, 13, 15}
 * With BMI2 an entry unpacks in two instructions (pdep, pshufb), and all of them stay in the first-level
 * cache. */
#ifndef KERNELS_CPU_REF_IQ_GRIDS_H
#define KERNELS_CPU_REF_IQ_GRIDS_H

#include <stdint.h>

extern const uint16_t kern_grid_iq2xxs[256];
extern const uint16_t kern_grid_iq2xs[512];
extern const uint16_t kern_grid_iq2s[1024];
extern const uint16_t kern_grid_iq3xxs[256];
extern const uint16_t kern_grid_iq3s[512];
extern const uint16_t kern_grid_iq1s[2048];

/* The signs of 8 values from 7 stored bits: the eighth makes the number of minus signs even. */
static inline uint32_t iq_signs(uint32_t seven)
{
    return seven | (uint32_t)__builtin_parity(seven) << 7;
}

#endif
