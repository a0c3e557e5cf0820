"""calor eval: perplexities of a real model and its quantised files, logits in .npy, distances between ways of computing."""
import array
import json
import math

import tap

text, model = tap.shared("text", "ppl-oracle-tinystories-60000B.txt"), tap.shared("models", "stories260K.gguf")
if not (text and model):
    tap.skip_all("no shared models")


def evaluate(name, *args):
    r = tap.run("eval", tap.shared("models", name), "--json", *args)
    return json.loads(r.stdout) if r.returncode == 0 else {"failed": r.stderr}


for name, want in (("stories260K.gguf", 4.9143), ("stories260K-f16.gguf", 4.9143), ("stories260K-ffn256.gguf", 4.9143),
                   ("stories260K-ffn256-q8_0.gguf", 4.9213), ("stories260K-ffn256-q4_k_m.gguf", 5.0428)):
    j = evaluate(name, "-f", text, "-c", "256")
    found = j.get("perplexity", 0)
    tap.check(f"{name}: perplexity {want} within 0.1 %", abs(found / want - 1) <= 1e-3 and j["tokens"] == 115 * 127, j)

short = tap.temp() / "short.txt"
short.write_bytes(text.read_bytes()[:3000])
npy = tap.temp() / "logits.npy"
base = evaluate("stories260K.gguf", "-f", short, "-c", "64", "--logits", npy, "--mode", "dense")
same = evaluate("stories260K.gguf", "-f", short, "-c", "64", "--against", npy, "--mode", "dense")
tap.check("logits written and read again are the same", same.get("kld_mean") == 0 and same.get("max_abs_diff") == 0 and
          same.get("same_top") == 1 and same["perplexity"] == base["perplexity"], same)
head = npy.read_bytes()[:256]
plain, other = tap.temp() / "plain.npy", tap.temp() / "other.txt"
plain.write_bytes(head.split(b" # ")[0].ljust(255) + b"\n" + npy.read_bytes()[256:])
other.write_bytes(short.read_bytes().replace(b" she ", b" he ", 1))
r = tap.run("eval", model, "-f", short, "-c", "64", "--against", plain, "--mode", "dense", "--json")
tap.check("a file that does not say of what is taken, with a warning", r.returncode == 0 and
          json.loads(r.stdout)["kld_mean"] == 0 and "does not say" in r.stderr, r.stdout + r.stderr)
windows = base["windows"]
tap.check("windows can be halved and joined", windows % 2 == 0, windows)
for name, args, words in (("halved windows", ["-f", short, "-c", "32"], "windows of 64 tokens, this run has windows of 32: give -c 64"),
                          ("joined windows", ["-f", short, "-c", "128"], "give -c 64"),
                          ("another text", ["-f", other, "-c", "64"], "of other tokens")):
    r = tap.run("eval", model, *args, "--against", npy)
    tap.check(f"logits of {name} are refused", r.returncode == 1 and words in r.stderr and r.stdout == "", r.stderr)
one = evaluate("stories260K.gguf", "-f", short, "-c", "64", "--against", npy, "-b", "1")
tap.check("the decoding path agrees", 0 <= one.get("kld_mean", 1) < 1e-5 and one["same_top"] > 0.99 and one["batch"] == 1, one)
q = evaluate("stories260K-ffn256-q4_k_m.gguf", "-f", short, "-c", "64", "--against", npy)
tap.check("a quantised file differs, and by little", 1e-4 < q.get("kld_mean", 0) < 0.1 and q["kld_p99"] > q["kld_mean"] and
          0.8 < q["same_top"] < 1 and q["max_abs_diff"] > 0.1, q)
for name in ("stories260K-f16.gguf", "stories260K-ffn256-q8_0.gguf", "stories260K-ffn256-q4_k_m.gguf", "stories260K-ffn256-q5_0.gguf"):
    j = evaluate(name, "-f", short, "-c", "128", "--against", "cpu:ref")
    tap.check(f"{name}: fast prompt arithmetic is within KLD 1e-4 of the exact one", j.get("kld_mean", 1) <= 1e-4 and
              j["against"] == "cpu:ref", j)
j = evaluate("stories260K.gguf", "-f", short, "-c", "64", "--against", "dense")
tap.check("dense-fast against dense", 0 <= j.get("kld_mean", 1) < 1e-5, j)

# All figures from their definitions, from the logits of two models.
ids = [int(i) for i in tap.run("tokenize", model, "-f", short, "--bos").stdout.split()]
pair, rows, kept = ("stories260K.gguf", "stories260K-ffn256-q4_k_m.gguf"), {}, {}
for name in pair:
    kept[name] = tap.temp() / (name + ".npy")
    evaluate(name, "-f", short, "-c", "64", "--logits", kept[name])
    data = kept[name].read_bytes()
    v = array.array("f", data[10 + int.from_bytes(data[8:10], "little"):])
    rows[name] = [v[i:i + 512] for i in range(0, len(v), 512)]
kld, nll, same_top, worst = [], 0.0, 0, 0.0
for w in range(len(rows[pair[0]]) // 64):
    for i in range(64 * w + 32, 64 * w + 63):
        lp, lq = ([x - m - math.log(sum(math.exp(y - m) for y in row)) for x in row] for row, m in ((rows[k][i], max(rows[k][i])) for k in pair))
        kld.append(sum(math.exp(a) * (a - b) for a, b in zip(lp, lq)))
        nll -= lq[ids[i + 1]]
        same_top += lp.index(max(lp)) == lq.index(max(lq))
        worst = max(worst, max(abs(a - b) for a, b in zip(rows[pair[0]][i], rows[pair[1]][i])))
j = evaluate(pair[1], "-f", short, "-c", "64", "--against", kept[pair[0]])
n = len(kld)
want = {"tokens": n, "perplexity": math.exp(nll / n), "kld_mean": sum(kld) / n, "kld_p99": sorted(kld)[int(0.99 * (n - 1) + 0.5)], "same_top": same_top / n, "max_abs_diff": worst}
tap.check("perplexity, KLD, same top and largest difference are those of plain Python", same_top < n and
          all(abs(j.get(k, 0) - x) <= 1e-5 * abs(x) + 1e-9 for k, x in want.items()), (want, j))

oracle = json.loads(tap.shared("models", "stories260K.oracle.json").read_text())
prompt = tap.temp() / "prompt.txt"
prompt.write_text(oracle["prompt"])
n, vocab = len(oracle["prompt_ids"]), len(oracle["logits"][0])
want = array.array("f", [x for row in oracle["logits"] for x in row])
for extra in (["--cpu", "ref"], ["--mode", "dense"], []):
    evaluate("stories260K.gguf", "-f", prompt, "-c", n, "--logits", npy, "--kv", "f32", *extra)
    data = npy.read_bytes()
    head = 10 + int.from_bytes(data[8:10], "little")
    got = array.array("f", data[head:])
    worst = max(abs(a - b) for a, b in zip(got, want)) if len(got) == len(want) else float("nan")
    tap.check(f"logits equal the oracle's to 1e-3 {' '.join(extra)}", f"({n}, {vocab})".encode() in data[:head] and worst <= 1e-3, worst)

for args, word in ((["-f", short, "-c", "100000"], "the text has"), (["-f", "/nonexistent"], "/nonexistent"), ([], "-f TEXT"),
                   (["-f", short, "--against", "nope"], "nope"), (["-f", short, "-c", "64", "--against", short], "npy"),
                   (["-f", short, "-c", "32", "--against", npy], "windows of"), (["-f", short, "-c", "2"], "at least 3")):
    r = tap.run("eval", model, *args)
    tap.check(f"refused: {' '.join(map(str, args))}", r.returncode in (1, 2) and word in r.stderr, r.stderr)
tap.done()
