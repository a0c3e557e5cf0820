#!/usr/bin/env python3
"""calor synth: same seed, same bytes; what it writes is read by others and can be run."""
import hashlib
import subprocess
import sys

import tap

SHAPE = "d=256,f=512,layers=2,heads=8,kv=2,vocab=700,ctx=128"
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k"]
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625}


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

np, gguf = tap.need("numpy", "gguf")
for t, path in models.items():
    reader = gguf.GGUFReader(path)
    by_name = {x.name: x for x in reader.tensors}
    if t == "falcon":
        tap.check("falcon: one matrix for q, k and v, two norms, no gate",
                  by_name["blk.1.attn_qkv.weight"].shape.tolist() == [256, 256 + 2 * 64]
                  and "blk.0.attn_norm_2.bias" in by_name and "blk.0.ffn_gate.weight" not in by_name)
        continue
    w = by_name["blk.1.ffn_gate.weight"]
    values = gguf.quants.dequantize(w.data, w.tensor_type)
    tap.check(f"{t}: gguf-py reads it, type and size", w.tensor_type.name == t.upper()
              and w.n_bytes == 256 * 512 * BITS[t] / 8, (w.tensor_type, w.n_bytes))
    tap.check(f"{t}: values have the scale 1/sqrt(n)", values.shape == (512, 256) and abs(values.mean()) < 1e-3
              and abs(values.std() * 16 - 1) < 0.02 and 3 < abs(values).max() * 16 < 6, (values.mean(), values.std()))
out_type = {t: gguf.GGUFReader(models[t]).tensors[-1] for t in TYPES}
tap.check("output.weight comes last, Q6_K beside 4- and 5-bit types", all(
    x.name == "output.weight" and x.tensor_type.name == ("Q6_K" if t in ("q4_0", "q4_k", "q5_k") else t.upper())
    for t, x in out_type.items()), out_type)

reader = gguf.GGUFReader(synth("act.gguf", "--shape", SHAPE, "--type", "f16", "--activation", "fatrelu:0.25",
                               "--output-type", "q8_0")[0])


def value(key):
    return reader.fields[key].parts[reader.fields[key].data[0]]


tap.check("activation and its threshold are in the file", bytes(value("llama.hidden_activation")) == b"fatrelu"
          and value("llama.hidden_activation_param")[0] == 0.25)
tokens = reader.fields["tokenizer.ggml.tokens"]
texts = [bytes(tokens.parts[i]) for i in tokens.data]
tap.check("700 different tokens, bytes at 3", len(set(texts)) == 700 and texts[3 + 65] == b"<0x41>")

# The same tensors as the independent generator writes.
make = tap.shared().parent / "tools" / "make_gguf.py" if tap.shared() else None
if make and make.exists():
    theirs = tap.temp() / "theirs.gguf"
    subprocess.run([sys.executable, make, theirs, "2,256,512,8,700", "q4_0"], check=True, capture_output=True)
    ours = synth("ours.gguf", "--shape", "d=256,f=512,layers=2,heads=8,vocab=700", "--type", "q4_0")[0]
    got, want = ({x.name: (x.shape.tolist(), x.tensor_type.name) for x in gguf.GGUFReader(p).tensors}
                 for p in (ours, theirs))
    tap.check("names, shapes and types equal make_gguf.py's", got == want, set(got.items()) ^ set(want.items())
              if got.keys() != want.keys() else (got, want))
else:
    tap.skip("names, shapes and types equal make_gguf.py's", "no shared tools")
tap.done()
