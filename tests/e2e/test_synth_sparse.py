#!/usr/bin/env python3
"""calor synth --sparsity: what was planted shows in a forward pass that shares no code with calor (llama_numpy.py)."""
import hashlib

import tap

np, gguf = tap.need("numpy", "gguf")
import llama_numpy  # noqa: E402: needs both

SHAPE = "d=256,f=1024,layers=4,heads=8,kv=4,vocab=700,ctx=512"
WIDE = "d=512,f=1536,layers=3,heads=8,vocab=4000,ctx=512"
TOKENS, WARM, POINTS = 384, 48, 0.02
def synth(name, *args):
    path = tap.temp() / name
    out = tap.run("synth", *args, "-o", path)
    return path if tap.check(f"synth {' '.join(args)}", out.returncode == 0, out) else None


def measure(model, sequences):
    """Per layer: sparsity, the hottest 26 %'s share, persistence; after the first tokens. Choosing the hottest by what is counted
    flatters them by a point or so at this length, more where neurons are rarer."""
    active = [[] for _ in range(model.layers)]
    for ids in sequences:
        for layer, h in enumerate(model.hidden(ids)):
            active[layer].append(h[WARM:] != 0)
    return [llama_numpy.statistics(np.array(a)) for a in active]


def near(got, want):
    return all(w is None or abs(g - w) <= POINTS for g, w in zip(got, want))


CASES = [
    # name, settings, wanted sparsity by layer, share of the hottest 26 %, persistence
    ("llama relu f16", ["--shape", SHAPE, "--type", "f16", "--sparsity", "0.888"], [0.888] * 4, 0.80, 0.82),
    ("llama fatrelu q4_0, spread", ["--shape", WIDE, "--activation", "fatrelu:0.2", "--sparsity", "0.85", "--spread",
                                    "0.08", "--hotness", "0.26:0.7", "--persistence", "0.75"],
     [0.77, 0.85, 0.93], 0.70, 0.75),
    ("llama drelu q8_0", ["--shape", SHAPE, "--type", "q8_0", "--activation", "drelu", "--sparsity", "0.9"], [0.9] * 4,
     0.80, 0.82),
    ("llama relu2 q4_k", ["--shape", WIDE, "--type", "q4_k", "--activation", "relu2", "--sparsity", "0.888"], [0.888] * 3,
     0.80, 0.82),
    ("falcon relu2 q4_0", ["--shape", WIDE + ",kv=2,arch=falcon", "--type", "q4_0", "--activation", "relu2", "--sparsity", "0.92"],
     [0.92] * 3, 0.80, 0.82),
    ("falcon relu f16", ["--shape", SHAPE + ",arch=falcon", "--type", "f16", "--sparsity", "0.888"], [0.888] * 4, 0.80,
     0.82),
]
for name, args, sparsity, hot, stay in CASES:
    path = synth(name.replace(" ", "-") + ".gguf", *args)
    if not path:
        continue
    model, rng = llama_numpy.Model(path), np.random.default_rng(1)
    vocab = int(model.t["token_embd.weight"].shape[1])
    got = measure(model, [rng.integers(3, vocab, TOKENS) for _ in range(5)])
    wanted = [[s, hot, stay] for s in sparsity]
    # A spread layer's own persistence follows its sparsity; falcon's first FFN does not see the first attention.
    if len(set(sparsity)) > 1:
        for w in wanted:
            w[2] = stay if w[0] == 0.85 else None
    if model.arch == "falcon":
        wanted[0][2] = None
    shown = [" ".join(f"{v:.3f}" for v in g) for g in got]
    tap.check(f"{name}: sparsity, hotness and persistence of every layer are within two points: " + ", ".join(shown),
              all(near(g, w) for g, w in zip(got, wanted)), wanted)
    tap.check(f"{name}: logits are finite and varied", np.isfinite(model.logits).all()
              and 0.5 < model.logits.std() < 8 and len(set(model.logits.argmax(-1))) > 10,
              (model.logits.std(), len(set(model.logits.argmax(-1)))))
    gate = model.w("blk.1.ffn_up.weight" if model.arch == "falcon" else "blk.1.ffn_gate.weight")
    values = np.linalg.svd(gate, compute_uv=False)
    # A Gaussian matrix of this shape has singular values within 1 ± sqrt(d/f), times sqrt(f/d).
    ratio = np.sqrt(gate.shape[1] / gate.shape[0])
    tap.check(f"{name}: the gate has full rank", values[-2] > 0.85 * (1 - ratio) / ratio, (values[:2], values[-3:]))
    out = tap.run("run", path, "-p", "Once upon a time", "-n", "5", "--temp", "0", text=False)
    tap.check(f"{name}: runs", out.returncode == 0, out.stderr)

def digest(threads):
    path = synth(f"t{threads}.gguf", "--shape", SHAPE, "--sparsity", "0.888", "-t", str(threads))
    return hashlib.sha256(path.read_bytes()).hexdigest()


tap.check("the bytes do not depend on the threads", digest(1) == digest(3))

for args, word in [
        (["--sparsity", "0.9", "--shape", "d=64,f=256,layers=2,heads=1"], "2 heads"),
        (["--sparsity", "0"], "between 0 and 1"),
        (["--sparsity", "1"], "between 0 and 1"),
        (["--sparsity", "-0.5"], "between 0 and 1"),
        (["--sparsity", "88.8"], "between 0 and 1"),
        (["--sparsity", "0.9", "--activation", "silu"], "true zeros"),
        (["--sparsity", "0.9", "--spread", "0.1"], "--spread 0.1"),
        (["--sparsity", "0.9", "--hotness", "0.26"], "0.26:0.8"),
        (["--sparsity", "0.9", "--hotness", "0.26:1.5"], "0.26:0.8"),
        (["--sparsity", "0.2", "--hotness", "0.26:0.8"], "--hotness or --sparsity"),
        (["--sparsity", "0.9", "--hotness", "0.26:0.1"], "can take 0.26 to"),
        (["--sparsity", "0.9", "--persistence", "0.05"], "persistence can be"),
        (["--sparsity", "0.9", "--persistence", "1"], "persistence can be"),
        (["--persistence", "0.8"], "need --sparsity"),
]:
    bad = tap.temp() / "bad.gguf"
    out = tap.run("synth", *([] if "--shape" in args else ["--shape", SHAPE]), *args, "-o", bad)
    tap.check(f"refused: {' '.join(args)}", out.returncode == 2 and out.stderr.startswith("calor: error: ")
              and word in out.stderr and not bad.exists(), out)
tap.done()
