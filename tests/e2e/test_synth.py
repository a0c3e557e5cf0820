#!/usr/bin/env python3
"""calor synth: same seed, same bytes; what it writes runs; bad requests are refused."""
import hashlib

import tap

SHAPE = "d=256,f=512,layers=2,heads=8,kv=2,vocab=700,ctx=128"
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k"]


def synth(name, *args):
    path = tap.temp() / name
    return path, tap.run("synth", *args, "-o", path)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


a, out = synth("a.gguf", "--shape", SHAPE, "--type", "q4_k")
tap.check("writes a model", out.returncode == 0 and a.exists(), out)
b, _ = synth("b.gguf", "--shape", SHAPE, "--type", "q4_k", "-t", "1")
c, _ = synth("c.gguf", "--shape", SHAPE, "--type", "q4_k", "-t", "3", "--seed", "1")
tap.check("same seed, same bytes, whatever the threads", digest(a) == digest(b) == digest(c))
c, _ = synth("c.gguf", "--shape", SHAPE, "--type", "q4_k", "--seed", "2")
tap.check("another seed, another file", digest(a) != digest(c))

models = {t: synth(f"{t}.gguf", "--shape", SHAPE, "--type", t)[0] for t in TYPES}
models["falcon"] = synth("falcon.gguf", "--shape", SHAPE + ",arch=falcon", "--type", "f16", "--activation", "relu")[0]
for name, path in models.items():
    out = tap.run("run", path, "-p", "Once upon a time", "-n", "5", "--temp", "0", text=False)
    tap.check(f"{name}: runs", out.returncode == 0, out.stderr)
text = tap.temp() / "text"
text.write_text("The quick brown fox jumps over the lazy dog; it's 42 ~ héllo wörld.\n" * 8)
ids = tap.run("tokenize", models["f32"], "-f", text).stdout.split()
tap.check("any text has tokens of the vocabulary", len(ids) > 100 and all(0 <= int(i) < 700 for i in ids), ids[:20])

for args, word in [
        (["--shape", "9b"], "llama2-7b"),
        (["--shape", "d=256,f=512,layers=2"], "heads="),
        (["--shape", "d=250,f=512,layers=2,heads=8"], "heads=8"),
        (["--shape", "d=256,f=512,layers=2,heads=8,kv=3"], "kv=3"),
        (["--shape", "d=256,f=512,layers=2,heads=8,vocab=100"], "vocab"),
        (["--shape", "d=256,f=512,layers=2,heads=8,width=3"], "'width'"),
        (["--shape", "d=256,f=512,layers=99999999999,heads=8"], "layers"),
        (["--shape", "d=256,f=500,layers=2,heads=8"], "500"),
        (["--shape", SHAPE, "--type", "q3_k"], "Q3_K"),
        (["--shape", SHAPE, "--type", "q9"], "'q9'"),
        (["--shape", SHAPE, "--activation", "tanh"], "tanh"),
        (["--shape", SHAPE, "--activation", "fatrelu"], "fatrelu:0.01"),
        (["--shape", SHAPE + ",arch=falcon", "--activation", "drelu"], "drelu"),
        (["--shape", SHAPE, "--output-type", "x"], "'x'"),
]:
    bad, out = synth("bad.gguf", *args)
    tap.check(f"refused: {' '.join(args)}", out.returncode == 2 and out.stderr.startswith("calor: error: ")
              and word in out.stderr and not bad.exists(), out)
tap.done()
