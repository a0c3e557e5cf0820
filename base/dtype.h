/* Element types of tensors: numbers, names and block geometry are GGUF's (ggml's), so that a file's type
 * number is used as is. Every block holds `block` consecutive values of one row in `bytes` bytes. */
#ifndef BASE_DTYPE_H
#define BASE_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum dtype {
    DT_F32 = 0,
    DT_F16 = 1,
    DT_Q4_0 = 2,
    DT_Q4_1 = 3,
    DT_Q5_0 = 6,
    DT_Q5_1 = 7,
    DT_Q8_0 = 8,
    DT_Q8_1 = 9,
    DT_Q2_K = 10,
    DT_Q3_K = 11,
    DT_Q4_K = 12,
    DT_Q5_K = 13,
    DT_Q6_K = 14,
    DT_Q8_K = 15,
    DT_IQ2_XXS = 16,
    DT_IQ2_XS = 17,
    DT_IQ3_XXS = 18,
    DT_IQ1_S = 19,
    DT_IQ4_NL = 20,
    DT_IQ3_S = 21,
    DT_IQ2_S = 22,
    DT_IQ4_XS = 23,
    DT_I8 = 24,
    DT_I16 = 25,
    DT_I32 = 26,
    DT_I64 = 27,
    DT_F64 = 28,
    DT_IQ1_M = 29,
    DT_BF16 = 30,
    DT_TQ1_0 = 34,
    DT_TQ2_0 = 35,
    DT_COUNT = 40, /* one past the largest number ever given out that we know of (35) */
};

struct dtype_info {
    const char *name; /* "Q4_0", NULL where the number is unused */
    uint32_t block;   /* values a block */
    uint32_t bytes;   /* bytes a block */
    bool weights;     /* a floating or quantised type a matrix can have (not I8… or F64) */
};

/* NULL for numbers that are no type. `type` may be any 32-bit value read from a file. */
const struct dtype_info *dtype_info(uint32_t type);

/* Name for messages: never NULL. */
const char *dtype_name(uint32_t type);

/* Parses "q4_0", "Q4_K", "bf16" …, case-insensitive, also "q4_k_m"-style suffixes are not types: false. */
bool dtype_parse(const char *name, enum dtype *out);

/* Bytes of a row of n values; false if n is not a multiple of the block or the size does not fit. */
bool dtype_row_bytes(uint32_t type, uint64_t n, uint64_t *out);

#endif
