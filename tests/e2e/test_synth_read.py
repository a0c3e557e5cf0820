#!/usr/bin/env python3
"""What calor synth writes, read by gguf-py: names, shapes, types, scales, metadata."""
import subprocess
import sys

import tap

gguf = tap.need("gguf")
SHAPE = "d=256,f=512,layers=2,heads=8,kv=2,vocab=700,ctx=128"
BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5, "q4_k": 4.5, "q5_k": 5.5, "q6_k": 6.5625}


def synth(name, *args):
    path = tap.temp() / name
    out = tap.run("synth", *args, "-o", path)
    return path if tap.check(f"synth {' '.join(args)}", out.returncode == 0, out) else None


models = {t: synth(f"{t}.gguf", "--shape", SHAPE, "--type", t) for t in BITS}
models["falcon"] = synth("falcon.gguf", "--shape", SHAPE + ",arch=falcon", "--type", "f16")
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
out_type = {t: gguf.GGUFReader(models[t]).tensors[-1] for t in BITS}
tap.check("output.weight comes last, Q6_K beside 4- and 5-bit types", all(
    x.name == "output.weight" and x.tensor_type.name == ("Q6_K" if t in ("q4_0", "q4_k", "q5_k") else t.upper())
    for t, x in out_type.items()), out_type)

reader = gguf.GGUFReader(synth("act.gguf", "--shape", SHAPE, "--type", "f16", "--activation", "fatrelu:0.25",
                               "--output-type", "q8_0"))


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
    ours = synth("ours.gguf", "--shape", "d=256,f=512,layers=2,heads=8,vocab=700", "--type", "q4_0")
    got, want = ({x.name: (x.shape.tolist(), x.tensor_type.name) for x in gguf.GGUFReader(p).tensors}
                 for p in (ours, theirs))
    tap.check("names, shapes and types equal make_gguf.py's", got == want, set(got.items()) ^ set(want.items())
              if got.keys() != want.keys() else (got, want))
else:
    tap.skip("names, shapes and types equal make_gguf.py's", "no shared tools")
tap.done()
