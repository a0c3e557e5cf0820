/* Checked arithmetic for values that come from files or users: the only way such values are combined. */
#ifndef BASE_CHECKED_H
#define BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

/* Each returns false, leaving *out undefined, when the exact result does not fit in 64 bits. */
static inline bool checked_add(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline bool checked_mul(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

/* Rounds `a` up to a multiple of `align` (a power of two). */
static inline bool checked_align(uint64_t a, uint64_t align, uint64_t *out)
{
    uint64_t t;
    if (align == 0 || (align & (align - 1)) != 0 || !checked_add(a, align - 1, &t)) return false;
    *out = t & ~(align - 1);
    return true;
}

#endif
