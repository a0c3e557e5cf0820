#!/usr/bin/env python3
"""The tables of docs/screens.md: what the gate in two planes rules out on a trained ReLU model, on Gaussian weights of a
real width, and how fast it is on this machine.

    bench/plane_gate.py [--data ../shared/data/relu-ffn] [--program build/bench/plane_gate] [--tokens 1024]
                        [--only layers|normal|speed] [--threads 1] [--json]

Build the program first: ninja -C build bench/plane_gate. CALOR_CPU picks the tier. The data: tensorforge-gpt.npz with the
weights, tensorforge-ffn-inputs-5120tok.npz with the FFN inputs x0 … x3, of which the last --tokens are taken. Needs no
packages. Exit status 1 on errors, 3 if a certified bound missed a neuron."""
import argparse
import ast
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile


def array(archive, name):
    """Bytes and shape of a little-endian float32 array of a .npz file."""
    raw = archive.read(name + ".npy")
    if raw[:6] != b"\x93NUMPY":
        sys.exit(f"plane_gate: {name}: not a numpy array")
    size, at = (struct.unpack_from("<H", raw, 8)[0], 10) if raw[6] == 1 else (struct.unpack_from("<I", raw, 8)[0], 12)
    head = ast.literal_eval(raw[at:at + size].decode("latin1"))
    if head["descr"] != "<f4" or head["fortran_order"]:
        sys.exit(f"plane_gate: {name}: expected float32 in C order, found {head}")
    return raw[at + size:], head["shape"]


def run(program, *args):
    out = subprocess.run([program, *args], check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [dict(word.split("=", 1) for word in line.split()) for line in out.splitlines()]
    return [{k: v if k in ("what", "tier", "type") else float(v) for k, v in row.items()} for row in rows]


def layers(a):
    """One measurement a layer, type and k."""
    data, rows = pathlib.Path(a.data), []
    with zipfile.ZipFile(data / "tensorforge-gpt.npz") as model, \
            zipfile.ZipFile(data / "tensorforge-ffn-inputs-5120tok.npz") as inputs, tempfile.TemporaryDirectory() as tmp:
        for layer in range(4):
            w, (f, d) = array(model, f"blocks.{layer}.ffn.linear1.weight")
            bias, _ = array(model, f"blocks.{layer}.ffn.linear1.bias")
            x, (tokens, _) = array(inputs, f"x{layer}")
            some = min(a.tokens, tokens)
            path = pathlib.Path(tmp) / "layer"
            path.write_bytes(struct.pack("<3q", d, f, some) + w + bias + x[(tokens - some) * d * 4:])
            rows += [dict(row, layer=layer) for row in run(a.program, "layer", str(path))]
    return rows


def span(values, scale=100, digits=1):
    low, high = (f"{scale * v:.{digits}f}" for v in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def layer_table(rows):
    yield "| Type | active | k = 3: candidates, missed | k = 5: candidates, missed | share of gate bytes read at k = 5 (with the 16 bytes a row) | certified: candidates, missed | share |"
    yield "|---|---|---|---|---|---|---|"
    for kind in dict.fromkeys(r["type"] for r in rows):
        by_k = {k: [r for r in rows if r["type"] == kind and r["k"] == k] for k in (3, 5, 0)}
        cell = {k: f"{span([r['candidates'] for r in v])} %, {sum(r['missed'] for r in v):.0f}" for k, v in by_k.items()}
        row = by_k[3][0]["d"] * (34 / 32 if kind == "Q8_0" else 2)
        share = {k: f"{span([r['share'] - 16 / row for r in v], 1, 2)} ({span([r['share'] for r in v], 1, 2)})" for k, v in by_k.items()}
        active = span([r["active"] / r["f"] / r["tokens"] for r in by_k[3]])
        count = sum(r["active"] for r in by_k[3])
        yield f"| {kind} | {active} %, {count:.0f} | {cell[3]} | {cell[5]} | {share[5]} | {cell[0]} | {share[0]} |"


def normal_table(rows):
    names = {"normal": "Gaussian", "outliers": "4 channels × 50", "outliers-exact": "the same, extreme channels exact"}
    yield "| Type | x | k = 3: candidates, missed | k = 4 | k = 5 | share at k = 5 | certified: candidates, share |"
    yield "|---|---|---|---|---|---|---|"
    for kind, what in dict.fromkeys((r["type"], r["what"]) for r in rows):
        at = {r["k"]: r for r in rows if (r["type"], r["what"]) == (kind, what)}
        cell = [f"{100 * at[k]['candidates']:.1f} %, {at[k]['missed']:.0f}" for k in (3, 4, 5)]
        yield (f"| {kind} | {names[what]} | {cell[0]} | {cell[1]} | {cell[2]} | {at[5]['share']:.3f} | "
               f"{100 * at[0]['candidates']:.1f} %, {at[0]['share']:.2f} |")


def speed_table(rows):
    yield "| Type | whole gate | coarse plane | k = 5: candidates, share, time, speed-up | certified: share, time, speed-up |"
    yield "|---|---|---|---|---|"
    for r in rows:
        yield (f"| {r['type']} | {r['mv_ms']:.1f} ms, {r['mv_gbs']:.1f} GB/s | {r['coarse_ms']:.1f} ms, {r['coarse_gbs']:.1f} GB/s | "
               f"{100 * r['k5_candidates']:.1f} %, {r['k5_share']:.2f}, {r['k5_ms']:.1f} ms, **{r['k5_speedup']:.2f}×** | "
               f"{r['k0_share']:.2f}, {r['k0_ms']:.1f} ms, {r['k0_speedup']:.2f}× |")


def main():
    root = pathlib.Path(__file__).resolve().parents[1]
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", default=str(root.parent / "shared" / "data" / "relu-ffn"))
    ap.add_argument("--program", default=str(root / "build" / "bench" / "plane_gate"))
    ap.add_argument("--tokens", type=int, default=1024)
    ap.add_argument("--only", choices=("layers", "normal", "speed"))
    ap.add_argument("--threads", type=int, default=1, help="of the speed measurement")
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    if not pathlib.Path(a.program).is_file():
        sys.exit(f"plane_gate: {a.program} is missing: ninja -C build bench/plane_gate")
    if a.only in (None, "layers") and not (pathlib.Path(a.data) / "tensorforge-gpt.npz").is_file():
        sys.exit(f"plane_gate: {a.data}: expected tensorforge-gpt.npz and tensorforge-ffn-inputs-5120tok.npz")
    found = {}
    if a.only in (None, "layers"):
        found["layers"] = layers(a)
    if a.only in (None, "normal"):
        found["normal"] = run(a.program, "normal")
    if a.only in (None, "speed"):
        found["speed"] = run(a.program, "speed", str(a.threads))
    tables = {"layers": layer_table, "normal": normal_table, "speed": speed_table}
    if a.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n\n".join(f"{name} ({rows[0]['tier']})\n\n" + "\n".join(tables[name](rows)) for name, rows in found.items()))
    wrong = [r for name in ("layers", "normal") for r in found.get(name, []) if r["k"] == 0 and r["missed"] > 0]
    if wrong:
        print(f"plane_gate: the certified bound missed neurons: {wrong[0]}", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
