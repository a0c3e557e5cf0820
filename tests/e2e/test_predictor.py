"""Predictors end to end: trained on the bundled model, and what predict mode keeps and leaves out with them (and with
PowerInfer's own) against a forward pass in numpy that reads nothing but the files."""
import json
import struct
import sys
import time

import tap

np, gguf = tap.need("numpy", "gguf")
import llama_numpy

model = tap.ROOT / "models" / "calor-stories.gguf"
stories, other = tap.shared("text", "stories.txt"), tap.shared("text", "heldout.txt")
if not stories or not other:
    tap.skip_all("no texts in the shared data folder")
train, test, out = tap.temp() / "train.txt", tap.temp() / "test.txt", tap.temp() / "m.predictor"
train.write_bytes(stories.read_bytes()[:400000])
test.write_bytes(other.read_bytes()[:12000])
CONTEXT = 64


class Predicted(llama_numpy.Model):
    """Leaves out what a predictor, or PowerInfer's tensors in the model, do not let through."""

    def __init__(self, path, predictor=None):
        super().__init__(path)
        self.t.setdefault("output.weight", self.t["token_embd.weight"])
        self.p = gguf.GGUFReader(predictor) if predictor else None
        if self.p:
            self.pt = {x.name: gguf.quants.dequantize(x.data, x.tensor_type).astype(np.float32) for x in self.p.tensors}
            field = self.p.fields["calor.predictor.cut"]
            self.cuts = [float(field.parts[i][0]) for i in field.data]
        self.sums = np.zeros((self.layers, 6))

    def norm(self, x, name):
        self.before = x
        return super().norm(x, name)

    def ffn(self, x, b):
        layer = int(b.split(".")[1])
        h, _ = super().ffn(x, b)
        if self.p:
            z = x @ self.pt[b + "fc1.weight"].T @ self.pt[b + "fc2.weight"].T + self.pt[b + "fc2.bias"]
            on = z >= self.cuts[layer]
        else:
            on = np.maximum(self.before @ self.w(b + "fc1.weight").T, 0) @ self.w(b + "fc2.weight").T >= 0.0
        down = self.w(b + "ffn_down.weight")
        size = np.abs(h) * np.linalg.norm(down, axis=0)
        self.sums[layer] += h.size, on.sum(), (h != 0).sum(), ((h != 0) & on).sum(), size.sum(), (size * on).sum()
        h = h * on
        return h, h @ down.T


def compare(what, path, predictor, engine):
    """Counts of the windows that `calor eval` computes, its last token aside, in numpy and by the engine."""
    ids = [int(i) for i in tap.run("tokenize", model, "-f", test, "--bos").stdout.split()]
    m = Predicted(path, predictor)
    for w in range(len(ids) // CONTEXT):
        window = ids[w * CONTEXT:(w + 1) * CONTEXT]
        window[0] = ids[0]
        for _ in m.hidden(np.array(window[:-1])):
            pass
    worst = {"recall": 0, "recall_plain": 0, "screened": 0}
    for s, e in zip(m.sums, engine["ffn"]["layers"]):
        want = {"recall": s[5] / s[4], "recall_plain": s[3] / s[2], "screened": 1 - s[1] / s[0]}
        for k in worst:
            worst[k] = max(worst[k], abs(want[k] - e[k]))
    tap.check(f"{what}: recall and candidates of every layer are those that numpy finds", max(worst.values()) < 0.01, worst)


# Sanitizer builds are slow: fewer samples, and what depends on how good the predictor becomes is not asked of it.
SHORT = "short" in sys.argv[1:]
SAMPLES = "1500" if SHORT else "8000"
start = time.time()
r = tap.run("predictor", model, "-f", train, "--held-out", test, "--samples", SAMPLES, "-c", CONTEXT, "--json", "-o", out)
seconds = time.time() - start
tap.check("a predictor is trained", r.returncode == 0 and out.exists(), r.stderr)
j = json.loads(r.stdout)
SHORT or tap.check("a screen of at most a tenth of the FFN's bytes keeps 95 % with at most twice the active neurons", j["bytes_share"] <= 0.1 and
          all(x["bytes_share"] <= 0.1 and x["recall"] > 0.92 for x in j["layers"]) and j["recall"] > 0.94
          and j["candidates"] <= 2 * j["active"], j)
run = ("eval", model, "-f", test, "-c", CONTEXT, "-b", 1, "--json", "--against", "dense", "--mode", "predict", "--predictor", out)
e = json.loads(tap.run(*run).stdout)
layers = e["ffn"]["layers"]
SHORT or tap.check("eval finds about the recall that training reported", all(abs(a["recall"] - b["recall"]) < 0.03 for a, b in zip(j["layers"], layers))
          and 0.93 < e["recall"] < 1, (e["recall"], j["recall"]))
SHORT or tap.check("most gates are not read, and little changes", e["ffn"]["screened"] > 0.7 and 0 < e["kld_mean"] < 0.05 and e["same_top"] > 0.9, e)
each = sum(x["bytes"] for x in j["layers"])
tap.check("what is read counts the predictor, once a token", e["ffn"]["screen_bytes"] % each == 0 and
          e["ffn"]["screen_bytes"] // each == e["windows"] * (CONTEXT - 1), (e["ffn"]["screen_bytes"], each))
compare("a trained predictor", model, out, e)
again = tap.temp() / "again.predictor"
SHORT or tap.run("predictor", model, "-f", train, "--held-out", test, "--samples", SAMPLES, "-c", CONTEXT, "-t", "1", "-o", again)
SHORT or tap.check("one thread trains the same predictor, to the byte", again.read_bytes() == out.read_bytes())

# A PowerInfer file: the bundled model with predictors of random weights.
raw, reader = model.read_bytes(), gguf.GGUFReader(model)
rng = np.random.default_rng(1)
n_kv, = struct.unpack_from("<Q", raw, 16)
keys = raw[24:reader.tensors[0].field.offset]
parts = [(t.name, [int(x) for x in t.shape], int(t.tensor_type), t.data.tobytes()) for t in reader.tensors]
for i in range(8):
    parts += [(f"blk.{i}.fc1.weight", [256, 64], 0, rng.standard_normal((64, 256)).astype("f4").tobytes()),
              (f"blk.{i}.fc2.weight", [64, 1024], 0, rng.standard_normal((1024, 64)).astype("f4").tobytes())]


def write(path, parts):
    head, offset = b"", 0
    for name, shape, kind, data in parts:
        head += struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += (len(data) + 31) // 32 * 32
    body = b"PWRI" + struct.pack("<IQQ", 3, len(parts), n_kv) + keys + head
    body += bytes(-len(body) % 32) + b"".join(data + bytes(-len(data) % 32) for *_, data in parts)
    path.write_bytes(body)


pwri = tap.temp() / "pwri.gguf"
write(pwri, parts)
r = tap.run("eval", pwri, "-f", test, "-c", CONTEXT, "-b", 1, "--json", "--against", "dense", "--mode", "predict")
tap.check("a PowerInfer file runs with its own predictors", r.returncode == 0 and 0.2 < json.loads(r.stdout)["ffn"]["screened"] < 0.8, r.stderr)
gg = tap.temp() / "for_numpy.gguf"
gg.write_bytes(b"GGUF" + pwri.read_bytes()[4:])
compare("PowerInfer's predictors", gg, None, json.loads(r.stdout))
write(pwri, [p for p in parts if p[0] != "blk.3.fc1.weight"])
r = tap.run("run", pwri, "-p", "x", "--mode", "predict")
tap.check("a missing predictor is named", r.returncode != 0 and "blk.3.fc1.weight is missing" in r.stderr, r.stderr)
write(pwri, [(n, [32, 1024], k, d[:len(d) // 2]) if n == "blk.5.fc2.weight" else (n, s, k, d) for n, s, k, d in parts])
r = tap.run("run", pwri, "-p", "x", "--mode", "predict")
tap.check("so is one of another rank", r.returncode != 0 and "blk.5.fc2.weight" in r.stderr, r.stderr)

for args, word in ((("--mode", "predict"), "calor predictor"), (("--predictor", out), "--mode predict"),
                   (("--mode", "predict", "--predictor", out, "--activation", "relu"), "activation"),
                   (("--mode", "predict", "--predictor", out, "--activation", "silu"), "silu"),
                   (("--mode", "predict", "--predictor", model), "no predictor")):
    r = tap.run("run", model, "-p", "x", "-n", 1, *args)
    tap.check(f"{' '.join(map(str, args[:4]))}: the error says what to do", r.returncode in (1, 2) and word in r.stderr, r.stderr)
for args, word in ((("--bytes", "0.01"), "--bytes"), (("--activation", "silu"), "silu"), (("-c", "5"), "out of range")):
    r = tap.run("predictor", model, "-f", test, "-o", tap.temp() / "none", *args)
    tap.check(f"calor predictor {' '.join(args)} says what is wrong", r.returncode != 0 and word in r.stderr and
              not (tap.temp() / "none").exists(), r.stderr)
tap.check("training takes less than two minutes, also on a busy machine", seconds < 120, seconds)
tap.done()
