#!/usr/bin/env python3
"""Makes the seeds of fuzz_profile, and is a second writer of docs/profile-format.md. Run in tests/fuzz."""
import pathlib
import struct

L, F, D = 2, 11, 4
NAN = float("nan")


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def key(name, t, value):
    return text(name) + struct.pack("<I", t) + value


def array(t, fmt, values):
    return struct.pack("<IQ", t, len(values)) + struct.pack(f"<{len(values)}{fmt}", *values)


def token(active, bitmap=False):
    """One record; counts and steps here stay below 128, so each number is one byte."""
    if bitmap:
        bits = sum(1 << i for i in active)
        return bytes([2 * len(active) + 1]) + bits.to_bytes((F + 7) // 8, "little")
    steps = [b - a - 1 for a, b in zip([-1] + active[:-1], active)]
    return bytes([2 * len(active), *steps])


TRACE = token([0, 3, 10]) + token([]) + token(list(range(F)), True) + token([5])
COUNTS = [4, 0, 1, 2, 1, 3, 1, 1, 1, 1, 2]


def profile(runs=((0, 0, 3), (1, 7, 1)), trace=TRACE, neurons=F, layers=L, tokens=(6, 2), version=1, curve=True, counts=COUNTS, drop=None,
            kind="calor.profile", name=text("seed"), partner=3, epsilon=0.0, held=1, share=0x3800, mean=0.5, fatrelu=True, lowest=5, ppl=None):
    keys = [
        key("general.type", 8, text(kind)), key("calor.profile.version", 4, struct.pack("<I", version)), key("calor.profile.model", 8, name),
        key("calor.profile.identity", 9, array(0, "B", range(16))), key("calor.profile.activation", 8, text("relu")), key("calor.profile.zeros", 7, b"\x01"),
        key("calor.profile.layers", 4, struct.pack("<I", layers)), key("calor.profile.neurons", 4, struct.pack("<I", neurons)),
        key("calor.profile.width", 4, struct.pack("<I", D)), key("calor.profile.tokens", 9, array(10, "Q", tokens)),
        key("calor.profile.epsilon", 9, array(6, "f", [epsilon] * L)), key("calor.profile.gap", 9, array(6, "f", [0.25, NAN])),
        key("calor.profile.reuse", 9, array(6, "f", [0.5] * 4 * L)), key("calor.profile.cett.samples", 9, array(4, "I", [3] * L)),
        key("calor.profile.run.text", 9, array(4, "I", [r[0] for r in runs])), key("calor.profile.run.start", 9, array(10, "Q", [r[1] for r in runs])),
        key("calor.profile.run.tokens", 9, array(4, "I", [r[2] for r in runs])),
    ]
    if ppl:
        keys += [key(f"calor.profile.ppl.{name}", 6, struct.pack("<f", v)) for name, v in ppl["found"].items()]
        keys.append(key("calor.profile.ppl.tokens", 10, struct.pack("<Q", ppl["tokens"])))
    parts = []
    for n in range(L):
        parts += [
            (f"blk.{n}.count", 26, (F,), struct.pack(f"<{F}i", *counts)), (f"blk.{n}.count_held_out", 26, (F,), struct.pack(f"<{F}i", *[held] * F)),
            (f"blk.{n}.mean", 0, (F,), struct.pack(f"<{F}f", *[mean] * F)), (f"blk.{n}.p99", 0, (F,), struct.pack(f"<{F}f", *[1.5] * F)),
            (f"blk.{n}.partner", 25, (4, F), struct.pack(f"<{4 * F}H", *[partner] * 4 * F)),
            (f"blk.{n}.partner_share", 1, (4, F), struct.pack(f"<{4 * F}H", *[share] * 4 * F)),
        ]
        if curve:
            parts.append((f"blk.{n}.cett", 0, (3, 3), struct.pack("<9f", 0, 0, 0, 0.1, 0.05, 0.5, 0.2, 0.3, 0.9)))
        if trace:
            parts.append((f"blk.{n}.trace", 24, (len(trace),), trace))
    if fatrelu:
        parts.append(("fatrelu", 0, (3, 2), struct.pack("<6f", 0, 0.6, lowest, 0.01, 0.7, 5.1)))
    if ppl:
        parts.append(("ppl", 0, (3, len(ppl["steps"])), b"".join(struct.pack("<3f", *step) for step in ppl["steps"])))
    parts = [p for p in parts if p[0] != drop]
    head, data = b"", b""
    for name, t, dims, body in parts:
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, t, len(data))
        data += body + bytes(-len(body) % 32)
    out = b"GGUF" + struct.pack("<IQQ", 3, len(parts), len(keys)) + b"".join(keys) + head
    return out + bytes(-len(out) % 32) + data


def search(tokens=9, steps=((0, 0.6, 5), (0.125, 0.7, 5.04), (0.5, 0.8, 6)), drop=None, **changes):
    found = {"target": 1, "cett": 0.125, "sparsity": 0.7, "perplexity": 5.04, "dense": 5, **changes}
    return {"found": {k: v for k, v in found.items() if k != drop}, "tokens": tokens, "steps": steps}


SEEDS = {
    "all": profile(),
    "ppl": profile(ppl=search()),
    "fatrelu-zero": profile(lowest=0),
    "ppl-missing": profile(ppl=search(drop="dense")),
    "ppl-nan": profile(ppl=search(perplexity=NAN)),
    "ppl-sparsity-too-high": profile(ppl=search(sparsity=1.5)),
    "ppl-tokens": profile(ppl=search(tokens=1 << 40)),
    "ppl-steps-descend": profile(ppl=search(steps=((0.5, 0.8, 6), (0, 0.6, 5)))),
    "ppl-steps-infinite": profile(ppl=search(steps=((0, 0.6, float("inf")),))),
    "no-runs": profile(runs=(), trace=b"", curve=False, fatrelu=False),
    "no-held-out": profile(runs=((0, 0, 3),), trace=TRACE[:-2], tokens=(6, 0), held=0, drop="blk.1.cett"),
    "name-no-utf8": profile(name=struct.pack("<Q", 9) + b"s\x93d\xed\xa0\x80\x1b\xc3\xa4"),
    "version": profile(version=2),
    "other-kind": profile(kind="model"),
    "many-layers": profile(layers=4096),
    "many-neurons": profile(neurons=65536),
    "missing": profile(drop="blk.1.p99"),
    "count-too-high": profile(counts=[7] * F),
    "count-negative": profile(counts=[-1] * F),
    "partner-too-high": profile(partner=F),
    "share-too-high": profile(share=0x3c01),
    "mean-nan": profile(mean=NAN),
    "epsilon-negative": profile(epsilon=-1.0),
    "run-too-long": profile(runs=((0, 0, 7),)),
    "run-text": profile(runs=((2, 0, 3), (1, 7, 1))),
    "trace-short": profile(trace=TRACE[:-1]),
    "trace-long": profile(trace=TRACE + b"\x00"),
    "trace-past-f": profile(trace=TRACE[:-1] + bytes([F])),
    "trace-bitmap-past-f": profile(trace=token([0, 3, 10]) + token([]) + b"\x17\xff\x0e" + token([5])),
    "trace-bitmap-count": profile(trace=token([0, 3, 10]) + token([]) + b"\x15\xff\x07" + token([5])),
    "trace-long-number": profile(trace=b"\x80\x80\x80\x80\x80\x00" + TRACE),
}

if __name__ == "__main__":
    folder = pathlib.Path("corpus/profile")
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in SEEDS.items():
        (folder / name).write_bytes(body)
