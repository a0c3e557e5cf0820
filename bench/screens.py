#!/usr/bin/env python3
"""Screens beside each other on one set of FFN inputs: the table and the curve of docs/screens.md.

    bench/screens.py [--only relu|bundled|alike|synthetic] [--svg docs/screens.svg] [--json FILE] [--held-text FILE …]

Needs numpy and gguf, build/calor, build/bench/plane_gate (ninja -C build bench/plane_gate), and the shared data folder for
the trained ReLU layers and the text. Every layer's inputs are split in two: on the train part scores are calibrated and
cuts chosen, on the held-out part everything shown is counted.

A screen is a score for each neuron and token. It is used with one of two cuts: *common*, the same for all neurons of a
layer; *own*, where the train part has given each neuron a line from score to gate and the deviation from it, and the cut
is so many deviations. The cut is the highest that keeps a share of the train part's activations, weighted by ‖n_i‖."""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
TARGETS = (0.95, 0.99, 0.999)
BYTES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.10)  # low-rank screens, as shares of an F16 FFN
ALL_KINDS = (0.01, 0.02, 0.05, 0.10)  # of these, every kind
LOW_RANK = (("naive SVD", False, False), ("+ whitening", True, False), ("naive SVD + bias", False, True), ("+ whitening + bias", True, True))
F16, Q8_0, Q4_0 = 2.0, 34 / 32, 18 / 32  # bytes a value
SHAPE = "d=256,f=1024,layers=4,heads=4,kv=2,vocab=4096,ctx=256"  # the bundled model's, with fewer layers
ALIKE = ["--sparsity", "0.926", "--hotness", "0.26:0.63"]  # the bundled model's on average


class Layer:
    """A gate with bias (fires where w·x + bias > 0), its inputs, and what each activation is worth, ‖n_i‖."""

    def __init__(self, w, bias, gated, x, worth, split):
        self.w, self.bias, self.gated = w.astype(np.float32), bias.astype(np.float32), gated
        self.x, self.worth = (x[:split], x[split:]), (worth[:split], worth[split:])
        self.active = tuple(v > 0 for v in self.worth)
        self.f, self.d = w.shape
        self.matrices = 3 if gated else 2

    def bytes(self, kind):
        return self.matrices * self.f * self.d * kind


# ---- Data ----

def relu_layers(folder):
    weights, inputs = np.load(folder / "tensorforge-gpt.npz"), np.load(folder / "tensorforge-ffn-inputs-5120tok.npz")
    for i in range(4):
        w, bias = (weights[f"blocks.{i}.ffn.linear1.{n}"] for n in ("weight", "bias"))
        x = inputs[f"x{i}"].reshape(-1, w.shape[1])
        norms = np.linalg.norm(weights[f"blocks.{i}.ffn.linear2.weight"], axis=0)
        yield Layer(w, bias, False, x, np.maximum(x @ w.T + bias, 0) * norms, len(x) - 1024)


def model_layers(path, calor, text, train, held, window):
    import llama_numpy
    model = llama_numpy.Model(path)
    ids = [int(i) for i in subprocess.run([calor, "tokenize", path, "-f", text], check=True, capture_output=True).stdout.split()]
    own, bos = window - 1, int(model.value("tokenizer.ggml.bos_token_id")[0])
    if len(ids) < (train + held) * own:
        sys.exit(f"screens: {text} has {len(ids)} tokens: expected {(train + held) * own}")
    # Train on the text's beginning, hold out its end: other books, where the text is several.
    starts = [i * own for i in range(train)] + [len(ids) - (held - i) * own for i in range(held)]
    seen = [[] for _ in range(model.layers)]
    for s in starts:
        for layer, (x, h) in enumerate(model.ffns(np.array([bos] + ids[s:s + own]))):
            seen[layer].append((x[1:], h[1:]))
    gated = model.arch != "falcon"
    for i, parts in enumerate(seen):
        w = model.w(f"blk.{i}.ffn_{'gate' if gated else 'up'}.weight")
        norms = np.linalg.norm(model.w(f"blk.{i}.ffn_down.weight"), axis=0)
        x, h = (np.concatenate(p) for p in zip(*parts))
        yield Layer(w, np.full(len(w), -model.act_t), gated, x, np.abs(h) * norms, train * own)


# ---- Scores ----

def as_q8_0(a):
    """Rows as they come back from Q8_0, so that low-rank factors cost a byte a value."""
    pad = -a.shape[1] % 32
    b = np.pad(a, ((0, 0), (0, pad))).reshape(len(a), -1, 32)
    scale = np.float16(np.abs(b).max(-1, keepdims=True) / 127).astype(np.float32)
    b = np.round(b / np.where(scale == 0, 1, scale)) * scale
    return b.reshape(len(a), -1)[:, :a.shape[1]]


def factors(layer, whiten, centre):
    """W ≈ A·B, best for the inputs' second moments (whiten) or for the matrix itself; around the inputs' mean (centre).
    All of A and B: the first rows and columns are the best of each rank."""
    mean = layer.x[0].mean(0, dtype=np.float64) if centre else np.zeros(layer.d)
    root = np.eye(layer.d)
    if whiten:
        moment = np.cov((layer.x[0] - mean).T.astype(np.float32)) if centre else layer.x[0].T @ layer.x[0] / len(layer.x[0])
        values, vectors = np.linalg.eigh(moment + 1e-4 * np.trace(moment) / layer.d * np.eye(layer.d))
        root = (vectors * np.sqrt(values)) @ vectors.T
    u, s, v = np.linalg.svd(layer.w @ root, full_matrices=False)
    return (u * np.sqrt(s)).astype(np.float32), (np.linalg.solve(root, v.T).T * np.sqrt(s)[:, None]).astype(np.float32), mean.astype(np.float32)


def low_rank(layer, rank, a, b, mean):
    a, b = as_q8_0(a[:, :rank]), as_q8_0(b[:rank])
    base = layer.w @ mean + layer.bias
    return [((p - mean) @ b.T) @ a.T + base for p in layer.x]


def screens(layer):
    """(name, bytes, common cut?, scores of both parts)"""
    signs = layer.f * layer.d / 8 + 4 * layer.f
    xor = [np.sign(p) @ np.sign(layer.w).T for p in layer.x]
    yield "sign bits, XOR + popcount; common cut", signs, True, xor
    yield "sign bits, XOR + popcount; own cuts", signs, False, xor
    size = np.abs(layer.w).mean(1)
    signed = [p @ np.sign(layer.w).T * size + layer.bias for p in layer.x]
    yield "sign(W)·x; common cut", signs, True, signed
    yield "sign(W)·x; own cuts", signs, False, signed
    mean = layer.x[0].mean(0) @ layer.w.T + layer.bias
    yield "no score: each neuron's mean alone", 4 * layer.f, False, [np.broadcast_to(mean, (len(p), layer.f)) for p in layer.x]
    made = {(whiten, own): factors(layer, whiten, own) for _, whiten, own in LOW_RANK}
    for share in BYTES:
        rank = max(1, round(share * layer.bytes(F16) / (Q8_0 * (layer.d + layer.f))))
        cost = Q8_0 * rank * (layer.d + layer.f) + 4 * layer.f
        for name, whiten, own in LOW_RANK if share in ALL_KINDS else LOW_RANK[-1:]:
            yield f"low rank, {100 * share:g} %, {name}", cost, not own, low_rank(layer, rank, *made[whiten, own])


# ---- Measuring ----

def own_lines(layer, scores):
    """Scores as each neuron's deviations from 0 of the gate that a line through the train part gives."""
    z = layer.x[0] @ layer.w.T + layer.bias
    s, ms, mz = scores[0], scores[0].mean(0), z.mean(0)
    ds, dz = s - ms, z - mz
    slope = (ds * dz).mean(0) / np.maximum((ds * ds).mean(0), 1e-12)
    deviation = np.sqrt(np.maximum(((dz - slope * ds) ** 2).mean(0), 1e-12))
    return [((p - ms) * slope + mz) / deviation for p in scores]


def at_target(layer, scores, target):
    """The cut from the train part; candidates, weighted and plain recall on the held-out one."""
    value, worth = scores[0][layer.active[0]], layer.worth[0][layer.active[0]]
    order = np.argsort(value)
    lost = np.cumsum(worth[order])
    cut = value[order[np.searchsorted(lost, (1 - target) * lost[-1])]]
    kept, active, worth = scores[1] >= cut, layer.active[1], layer.worth[1]
    return {"candidates": kept.mean(), "recall": worth[kept].sum() / worth.sum(), "plain": (kept & active).sum() / active.sum(),
            "found": (kept & active).mean()}


def measure(layer, program):
    rows = {}
    for name, cost, common, scores in screens(layer):
        if not common:
            scores = own_lines(layer, scores)
        rows[name] = {"f16": cost / layer.bytes(F16), "q4_0": cost / layer.bytes(Q4_0), "active": layer.active[1].mean(),
                      "at": {str(t): at_target(layer, scores, t) for t in TARGETS}}
        for r in rows[name]["at"].values():  # screen, exact gate of candidates, the rest of what was found
            for kind in ("f16", "q4_0"):
                r["read_" + kind] = rows[name][kind] + (r["candidates"] + (layer.matrices - 1) * r["found"]) / layer.matrices
    with tempfile.NamedTemporaryFile() as tmp:
        tmp.write(struct.pack("<3q", layer.d, layer.f, len(layer.x[1])))
        for a in (layer.w, layer.bias, layer.x[1]):
            tmp.write(np.ascontiguousarray(a, "<f4").tobytes())
        tmp.flush()
        out = subprocess.run([program, "layer", tmp.name], check=True, capture_output=True, text=True).stdout
    planes = [dict(word.split("=", 1) for word in line.split()) for line in out.splitlines()]
    return {"active": layer.active[1].mean(), "matrices": layer.matrices, "rows": rows,
            "planes": [p for p in planes if p["type"] in ("F16", "Q8_0") and p["k"] in ("0", "5")]}


# ---- Showing ----

def mean(layers, get):
    return float(np.mean([get(x) for x in layers]))


def table(name, layers):
    active = [100 * x["active"] for x in layers]
    yield f"**{name}**: {len(layers)} layers, {min(active):.1f}–{max(active):.1f} % of the neurons active, {np.mean(active):.1f} % on average"
    yield ""
    yield ("| Screen | bytes, % of the FFN's: F16, Q4_0 | kept 95 %: candidates | kept 99 %: candidates, recall by ‖n‖, plain | "
           "kept 99.9 %: candidates, recall by ‖n‖, plain | FFN bytes read at 99 %: F16, Q4_0 |")
    yield "|---|---|---|---|---|---|"
    for row in layers[0]["rows"]:
        get = [x["rows"][row] for x in layers]

        def at(target, key):
            return 100 * mean(get, lambda r: r["at"][str(target)][key])
        yield (f"| {row} | {100 * mean(get, lambda r: r['f16']):.1f}, {100 * mean(get, lambda r: r['q4_0']):.1f} | {at(.95, 'candidates'):.1f} % | "
               + " | ".join(f"{at(t, 'candidates'):.1f} %, {at(t, 'recall'):.1f}, {at(t, 'plain'):.1f}" for t in TARGETS[1:])
               + f" | {at(.99, 'read_f16'):.0f} %, {at(.99, 'read_q4_0'):.0f} % |")
    for kind in ("F16", "Q8_0"):
        for k, what in (("5", "k = 5"), ("0", "certified")):
            rows = [(x, next(p for p in x["planes"] if p["type"] == kind and p["k"] == k)) for x in layers]
            missed, count = sum(int(p["missed"]) for _, p in rows), sum(int(p["active"]) for _, p in rows)
            read = np.mean([(float(p["share"]) + (x["matrices"] - 1) * x["active"]) / x["matrices"] for x, p in rows])
            yield (f"| plane gate {kind}, {what} | none of its own | {100 * np.mean([float(p['candidates']) for _, p in rows]):.1f} % at any cut: "
                   f"{missed} of {count} missed | | | {100 * read:.0f} % ({kind}) |")
    exact = 100 * np.mean([(1 + (x["matrices"] - 1) * x["active"]) / x["matrices"] for x in layers])
    yield f"| none: the whole gate | 0 | 100 % | | | {exact:.0f} %, {exact:.0f} % |"


def curves(found):
    """Share of the silent neurons let through at 99 %, by the screen's bytes, for the low-rank screen at its best."""
    for name, layers in found.items():
        x, y = [], []
        for row in ["no score: each neuron's mean alone"] + [f"low rank, {100 * b:g} %, + whitening + bias" for b in BYTES]:
            x.append(100 * mean(layers, lambda r: r["rows"][row]["f16"]))
            y.append(100 * mean(layers, lambda r: (lambda a: (a["candidates"] - a["found"]) / (1 - r["active"]))(r["rows"][row]["at"]["0.99"])))
        yield name, x, y


def svg(found):
    width, height, left, top = 640, 360, 60, 24
    most = max(max(x) for _, x, _ in curves(found))
    def px(x): return left + (width - left - 200) * x / most
    def py(y): return top + (height - top - 50) * (1 - y / 100)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for y in range(0, 101, 20):
        out.append(f'<path d="M{left} {py(y):.0f}H{px(most):.0f}" stroke="#ddd"/><text x="{left - 6}" y="{py(y) + 4:.0f}" text-anchor="end">{y} %</text>')
    for x in range(0, int(most) + 1, 2):
        out.append(f'<text x="{px(x):.0f}" y="{py(0) + 16:.0f}" text-anchor="middle">{x} %</text>')
    out.append(f'<text x="{px(most / 2):.0f}" y="{height - 10}" text-anchor="middle">bytes of the screen, share of an F16 FFN</text>')
    out.append(f'<text x="{left}" y="14">silent neurons let through at 99 % weighted recall (low rank, whitened, with bias)</text>')
    for i, ((name, x, y), colour) in enumerate(zip(curves(found), ("#0072b2", "#d55e00", "#009e73", "#cc79a7"))):
        points = " ".join(f"{px(a):.1f},{py(b):.1f}" for a, b in zip(x, y))
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
                   f'<text x="{px(most) + 8:.0f}" y="{top + 20 * (i + 1)}" fill="{colour}">{name}</text>')
    return "\n".join(out + ["</svg>"]) + "\n"


def main():
    shared = ROOT.parent / "shared" / "data"
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--only", action="append", choices=("relu", "bundled", "alike", "synthetic"))
    ap.add_argument("--data", default=str(shared / "relu-ffn"), help="folder of the trained ReLU layers")
    ap.add_argument("--text", default=str(shared / "text" / "heldout.txt"), help="for the models: its beginning trains, its end is held out")
    ap.add_argument("--model", default=str(ROOT / "models" / "calor-stories.gguf"), help="the bundled model")
    ap.add_argument("--windows", default="32,8", help="of 255 tokens each: to train, held out")
    ap.add_argument("--calor", default=str(ROOT / "build" / "calor"))
    ap.add_argument("--program", default=str(ROOT / "build" / "bench" / "plane_gate"))
    ap.add_argument("--svg", help="write the curves to this file")
    ap.add_argument("--json", help="write all figures to this file")
    a = ap.parse_args()
    for path, how in ((a.calor, "ninja -C build"), (a.program, "ninja -C build bench/plane_gate"), (a.text, "--text FILE")):
        if not pathlib.Path(path).is_file():
            sys.exit(f"screens: {path} is missing: {how}")
    train, held = map(int, a.windows.split(","))
    found, wanted = {}, a.only or ("relu", "bundled", "alike", "synthetic")
    with tempfile.TemporaryDirectory() as tmp:
        def synth(*stats):
            path = pathlib.Path(tmp) / "model.gguf"
            subprocess.run([a.calor, "synth", "--shape", SHAPE, "--type", "q8_0", *stats, "-o", path], check=True)
            return model_layers(path, a.calor, a.text, train, held, 256)
        kinds = {"relu": ("trained ReLU layers", lambda: relu_layers(pathlib.Path(a.data))),
                 "bundled": ("bundled model", lambda: model_layers(a.model, a.calor, a.text, train, held, 256)),
                 "alike": ("synthetic, as hot as bundled", lambda: synth(*ALIKE)),
                 "synthetic": ("synthetic, as by default", lambda: synth("--sparsity", "0.9"))}
        for kind in wanted:
            name, make = kinds[kind]
            found[name] = [measure(layer, a.program) for layer in make()]
            print("\n".join(table(name, found[name])) + "\n", flush=True)
            if a.json:
                pathlib.Path(a.json).write_text(json.dumps(found, indent=1, default=float))
    for name, x, y in curves(found):
        print(f"{name}: silent neurons let through at 99 %: " + ", ".join(f"{b:.1f} % with {c:.1f} %" for c, b in zip(x, y)))
    if a.svg:
        pathlib.Path(a.svg).write_text(svg(found))


if __name__ == "__main__":
    main()
