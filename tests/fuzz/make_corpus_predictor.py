#!/usr/bin/env python3
"""Makes the seeds of fuzz_predictor, and is a second writer of docs/predictor-format.md. Run in tests/fuzz."""
import pathlib
import struct

L, F, D, R = 2, 5, 32, 32
NAN, INF = float("nan"), float("inf")
F32, F16, Q4_0, Q8_0 = 0, 1, 2, 8


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def key(name, t, value):
    return text("calor.predictor." + name if name != "general.type" else name) + struct.pack("<I", t) + value


def array(t, fmt, values):
    values = list(values)
    return struct.pack("<IQ", t, len(values)) + struct.pack(f"<{len(values)}{fmt}", *values)


def halves(n, v=0.5):
    return struct.pack(f"<{n}e", *[v] * n)


def q8_0(n, scale=0.01):
    return (struct.pack("<e", scale) + bytes(i % 256 for i in range(32))) * (n // 32)


def q4_0(n):
    return (struct.pack("<e", 0.1) + bytes(range(16))) * (n // 32)


def predictor(kind="calor.predictor", version=1, layers=L, neurons=F, width=D, ranks=(R, R), hidden=(0, 1), cuts=(0.5, -INF), recall=0.95, drop=None,
              fc2=Q8_0, fc2_rows=F, bias=0.25, hidden_bias=0.1, weight=0.5, scale=0.01, identity=16, bias_type=F16):
    keys = [
        key("general.type", 8, text(kind)), key("version", 4, struct.pack("<I", version)), key("model", 8, text("seed")),
        key("identity", 9, array(0, "B", range(identity))), key("activation", 8, text("relu")), key("layers", 4, struct.pack("<I", layers)),
        key("neurons", 4, struct.pack("<I", neurons)), key("width", 4, struct.pack("<I", width)), key("rank", 9, array(4, "I", ranks)),
        key("hidden", 9, array(4, "I", hidden)), key("cut", 9, array(6, "f", cuts)),
    ]
    if recall is not None:
        keys.append(key("recall", 6, struct.pack("<f", recall)))
    parts = []
    for n in range(L):
        body = {Q8_0: q8_0(R, scale), Q4_0: q4_0(R), F16: halves(R)}[fc2] * fc2_rows
        parts += [(f"blk.{n}.fc1.weight", F16, (D, R), halves(D * R, weight)), (f"blk.{n}.fc2.weight", fc2, (R, fc2_rows), body),
                  (f"blk.{n}.fc2.bias", bias_type, (F,), halves(F, bias) if bias_type == F16 else struct.pack(f"<{F}f", *[bias] * F))]
        if n == 1:
            parts.append((f"blk.{n}.fc1.bias", F32, (R,), struct.pack(f"<{R}f", *[hidden_bias] * R)))
    parts = [p for p in parts if p[0] != drop]
    head, data = b"", b""
    for name, t, dims, body in parts:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, t, len(data))
        data += body + bytes(-len(body) % 32)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(keys)) + b"".join(keys) + head
    return out + bytes(-len(out) % 32) + data


SEEDS = {
    "q8_0": predictor(),
    "q4_0": predictor(fc2=Q4_0, recall=None),
    "f16": predictor(fc2=F16, cuts=(0.0, INF)),
    "version": predictor(version=2),
    "other-kind": predictor(kind="model"),
    "many-layers": predictor(layers=4096),
    "many-neurons": predictor(neurons=65536),
    "other-width": predictor(width=64),
    "identity-short": predictor(identity=15),
    "rank-zero": predictor(ranks=(R, 0)),
    "rank-huge": predictor(ranks=(2**31, R)),
    "rank-other": predictor(ranks=(R, 64)),
    "ranks-short": predictor(ranks=(R,)),
    "hidden-unknown": predictor(hidden=(0, 2)),
    "cut-nan": predictor(cuts=(NAN, 0)),
    "recall-too-high": predictor(recall=1.5),
    "fc1-missing": predictor(drop="blk.1.fc1.weight"),
    "bias-missing": predictor(drop="blk.0.fc2.bias"),
    "fc2-rows": predictor(fc2_rows=F + 1),
    "weight-nan": predictor(weight=NAN),
    "scale-infinite": predictor(scale=INF),
    "bias-infinite": predictor(bias=INF),
    "bias-type": predictor(bias_type=F32),
    "hidden-bias-nan": predictor(hidden_bias=NAN),
}

if __name__ == "__main__":
    folder = pathlib.Path("corpus/predictor")
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in SEEDS.items():
        (folder / name).write_bytes(body)
