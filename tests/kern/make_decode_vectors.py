#!/usr/bin/env python3
"""Writes decode_vectors.inc: for every block type, a hash of what the format's own Python reader (the `gguf` package,
https://pypi.org/project/gguf/) makes of seeded random blocks. Every byte pattern is a valid block of every type; only the
exponents of F16 scales are kept finite. Run after adding a type:  make_decode_vectors.py > decode_vectors.inc"""
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGML_QUANT_SIZES
from gguf.quants import dequantize

BLOCKS = 24
# Type -> offsets of the high bytes of its F16 fields (BF16, F16 rows: every element).
HALVES = {
    "Q4_0": [1], "Q4_1": [1, 3], "Q5_0": [1], "Q5_1": [1, 3], "Q8_0": [1], "Q2_K": [81, 83], "Q3_K": [109],
    "Q4_K": [1, 3], "Q5_K": [1, 3], "Q6_K": [209], "IQ1_S": [1], "IQ1_M": [55], "IQ2_XXS": [1], "IQ2_XS": [1],
    "IQ2_S": [1], "IQ3_XXS": [1], "IQ3_S": [1], "IQ4_NL": [1], "IQ4_XS": [1], "TQ1_0": [53], "TQ2_0": [65],
}
MASK = (1 << 64) - 1


def splitmix(seed, count):
    out = bytearray()
    while len(out) < count:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out += (z ^ (z >> 31)).to_bytes(8, "little")
    return out[:count]


def fnv(data):
    h = 0xCBF29CE484222325
    for b in data:
        h = ((h ^ b) * 0x100000001B3) & MASK
    return h


for name, halves in HALVES.items():
    kind = T[name]
    block, size = GGML_QUANT_SIZES[kind]
    raw = splitmix(int(kind), BLOCKS * size)
    for b in range(BLOCKS):
        for at in halves:
            raw[b * size + at] &= 0xBF
    values = dequantize(np.frombuffer(bytes(raw), np.uint8).reshape(1, -1), kind).astype("<f4").ravel() + np.float32(0)
    assert values.size == BLOCKS * block and np.isfinite(values).all()
    bytes_ = ", ".join(map(str, halves + [-1] * (2 - len(halves))))
    print(f"{{DT_{name}, {{{bytes_}}}, 0x{fnv(values.tobytes()):016x}u}},")
