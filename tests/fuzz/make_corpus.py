#!/usr/bin/env python3
"""Makes the seeds of the fuzz targets of io/: small files, well-formed and not. Run in tests/fuzz; existing files of
other names stay."""
import json
import pathlib
import struct


def name(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def key(k, t, value):
    return name(k) + struct.pack("<I", t) + value


def array(t, n, body):
    return struct.pack("<IQ", t, n) + body


KEYS = [
    key("general.architecture", 8, name("llama")),
    key("general.alignment", 4, struct.pack("<I", 32)),
    key("u8", 0, b"\x07"),
    key("i16", 3, struct.pack("<h", -3)),
    key("f32", 6, struct.pack("<f", 1e-5)),
    key("bool", 7, b"\x01"),
    key("u64", 10, struct.pack("<Q", 1 << 40)),
    key("f64", 12, struct.pack("<d", 0.5)),
    key("tokens", 9, array(8, 3, name("<s>") + name("") + name("a"))),
    key("scores", 9, array(6, 3, struct.pack("<3f", 0, -1, -2))),
    key("nested", 9, array(9, 2, array(5, 2, struct.pack("<2i", 1, 2)) + array(9, 1, array(8, 1, name("x"))))),
    key("none", 9, array(4, 0, b"")),
]


def tensor(n, dims, t, offset):
    return name(n) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", t, offset)


TENSORS = [tensor("token_embd.weight", (32, 2), 2, 0), tensor("blk.0.attn_norm.weight", (5,), 0, 64),
           tensor("blk.0.ffn_down.weight", (2, 3, 1, 2), 1, 96)]
DATA = 128


def gguf(keys=KEYS, tensors=TENSORS, data=DATA, magic=b"GGUF", version=3, align=32):
    b = magic + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys) + b"".join(tensors)
    if tensors:
        b += bytes(-len(b) % align)
    return b + bytes(i % 251 for i in range(data))


def gguf_seeds():
    full = gguf()
    return {
        "all": full,
        "empty": gguf([], [], 0),
        "v2": gguf(version=2),
        "powerinfer": gguf([KEYS[0], key("powerinfer.sparse_threshold", 6, struct.pack("<f", 0))],
                           [tensor("blk.0.fc1.weight", (4, 2), 0, 0), tensor("blk.0.fc2.weight", (2, 4), 0, 32),
                            tensor("blk.0.ffn_down_t.weight", (4, 4), 1, 64)], 96, b"PWRI"),
        "gpu-index": gguf([key("split.vram_capacity", 10, struct.pack("<Q", 1 << 30))],
                          [tensor("blk.0.gpu_idx", (5,), 26, 0), tensor("blk.0.gpu_bucket", (2,), 26, 32),
                           tensor("blk.1.gpu_idx", (5,), 26, 64), tensor("blk.1.gpu_bucket", (0,), 26, 96)], 0, b"PWRI")
        + struct.pack("<8i8i8i8i", 0, 1, 0, 0, 1, 0, 0, 0, 1, 4, *[0] * 22),
        "split": gguf([key("split.no", 2, struct.pack("<H", 0)), key("split.count", 2, struct.pack("<H", 2)),
                       key("split.tensors.count", 5, struct.pack("<i", 3))]),
        "align8": gguf([key("general.alignment", 4, struct.pack("<I", 8))], [tensor("x", (3,), 24, 0)], 8, align=8),
        "metadata-only": gguf(data=0),
        "truncated": full[:-1],
        "duplicate-key": gguf(KEYS + KEYS[2:3]),
        "duplicate-tensor": gguf(tensors=TENSORS + TENSORS[:1]),
        "overlap": gguf(tensors=[TENSORS[0], tensor("y", (5,), 0, 32)]),
        "wrapping": gguf(tensors=[tensor("x", (1 << 62, 1 << 2), 24, 0)]),
        "last-wraps": gguf(tensors=[TENSORS[0], tensor("y", (32,), 24, (1 << 64) - 32)]),
        "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "v1": gguf([], [], 0, version=1),
    }


def safetensors(header, data=b"", length=None):
    h = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(h) if length is None else length) + h + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    good = {"__metadata__": {"format": "pt"}, "a.weight": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [3], 24, 30),
            "scalar": entry("I64", [], 32, 40), "none": entry("U8", [0, 4], 40, 40)}
    return {
        "all": safetensors(good, bytes(40)),
        "empty": safetensors({}),
        "long": safetensors(good, bytes(40), 1 << 40),
        "overlap": safetensors({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "out-of-range": safetensors({"a": entry("F32", [2], 0, 8)}, bytes(7)),
        "wrapping": safetensors({"a": entry("F64", [1 << 32, 1 << 29], 0, 0)}),
        "big-integer": safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 40 + b'],"n":1e30,"m":[-' + b"1" * 19 +
                                   b',0.' + b"7" * 25 + b'],"data_offsets":[0,0]}}'),
        "negative": safetensors({"a": entry("F32", [-1], 0, 0)}),
        "deep": safetensors(b'{"a":' + b"[" * 70 + b"]" * 70 + b"}" + b" " * 800),
        "escapes": safetensors(b'{"a\\u00e9\\ud83d\\ude00\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
        "duplicate": safetensors(b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
                                 b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    }


def npy(descr="<f4", order="False", shape="(2, 3)", data=24, version=1, note=""):
    h = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}{note}"
    return b"\x93NUMPY" + struct.pack("<BBH" if version == 1 else "<BBI", version, 0, len(h)) + h.encode() + bytes(data)


def npy_seeds():
    return {
        "good": npy(),
        "v2": npy(version=2),
        "f8": npy("<f8", data=48),
        "fortran": npy(order="True"),
        "wrapping": npy(shape="(4294967296, 4294967296)"),
        "one-dimension": npy(shape="(6,)"),
        "short": npy(data=23),
        "note": npy(note=" # calor eval: context 64, tokens 0123456789abcdef  \n"),
    }


if __name__ == "__main__":
    for target, seeds in {"gguf": gguf_seeds(), "npy": npy_seeds(), "safetensors": safetensors_seeds()}.items():
        folder = pathlib.Path("corpus") / target
        folder.mkdir(parents=True, exist_ok=True)
        for seed, content in seeds.items():
            (folder / seed).write_bytes(content)
