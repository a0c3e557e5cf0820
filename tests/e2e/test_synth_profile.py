#!/usr/bin/env python3
"""Planted statistics are found back by calor profile, for text and for random tokens; calor synth --profile-only says beforehand
what profile finds afterwards, neuron by neuron."""
import json
import random
import struct

import tap

SHAPE = "d=512,f=1536,layers=2,heads=8,vocab=8000,ctx=512"
SPARSITY, HOT, STAY, POINTS = 0.888, 0.80, 0.82, 0.02
DOCS = ["docs/architecture.md", "docs/testing.md", "docs/profile-format.md", "docs/add-a-model.md", "README.md", "CONTRIBUTING.md", "models/README.md"]
text, noise = tap.temp() / "text", tap.temp() / "random"
text.write_text("\n".join(" ".join(tap.ROOT.joinpath(p).read_text().split()) for p in DOCS)[:16000])
letters = random.Random(1)
noise.write_text("".join(letters.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?()'    ") for _ in range(11000)))


def counts(path, layers):
    """Tokens of the calibration text, and at how many each neuron was active, straight from the file: a minimal GGUF reader."""
    data, at = path.read_bytes(), 24

    def take(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, data, at)
        at += struct.calcsize("<" + fmt)
        return v[0]

    def value(kind):
        nonlocal at
        if kind == 8:
            n = take("Q")
            at += n
            return data[at - n:at].decode()
        if kind == 9:
            elem, n = take("I"), take("Q")
            return [value(elem) for _ in range(n)]
        return take("BbHhIif?xxQqd"[kind] if kind < 8 else "Qqd"[kind - 10])
    n_tensors, n_kv = struct.unpack_from("<QQ", data, 8)
    keys = {}
    for _ in range(n_kv):
        key = value(8)
        keys[key] = value(take("I"))
    tensors = {}
    for _ in range(n_tensors):
        name = value(8)
        ne = [take("Q") for _ in range(take("I"))]
        take("I")
        tensors[name] = (ne, take("Q"))
    start = (at + 31) // 32 * 32
    found = [struct.unpack_from(f"<{tensors[f'blk.{i}.count'][0][0]}i", data, start + tensors[f"blk.{i}.count"][1]) for i in range(layers)]
    return keys["calor.profile.tokens"][0], found


def hottest(layer):
    return next(c["calibration"] for c in layer["coverage"] if round(c["hottest"], 2) == 0.26)


def profiled(model, file, out):
    run = tap.run("profile", model, "-f", file, "-o", out, "--samples", 0, "--json", timeout=900)
    return json.loads(run.stdout) if tap.check(f"profile of {out.name}", run.returncode == 0, run.stderr) else None


def found_back(name, args, falcon):
    model, only = tap.temp() / f"{name}.gguf", tap.temp() / f"{name}-only.gguf"
    shape = SHAPE + (",arch=falcon" if falcon else ",kv=4")
    args = ["--shape", shape, "--sparsity", SPARSITY, *args]
    out = tap.run("synth", *args, "-o", model)
    again = tap.run("synth", *args, "--profile-only", "-o", only)
    if not tap.check(f"{name}: synth", out.returncode == 0 and again.returncode == 0, out.stderr + again.stderr):
        return
    tokens, planted = counts(only.with_suffix(".profile"), 2)
    for kind, file in (("text", text), ("random letters", noise)):
        out = tap.temp() / f"{name}-{kind[:4]}.profile"
        j = profiled(model, file, out)
        if not j:
            continue
        got = [(x["sparsity"], hottest(x), x["reuse"]["1"]) for x in j["per_layer"]]
        # Falcon's first FFN does not see the first attention.
        good = all(abs(s - SPARSITY) <= POINTS and abs(hot - HOT) <= POINTS and (falcon and not i or abs(stay - STAY) <= POINTS)
                   for i, (s, hot, stay) in enumerate(got))
        tap.check(f"{name}, {kind}: sparsity, hotness, persistence within two points: " + ", ".join("%.3f %.3f %.3f" % g for g in got), good)
        n, counted = counts(out, 2)
        for layer in range(2):
            off = [c / n - p / tokens for c, p in zip(counted[layer], planted[layer])]
            rms = (sum(v * v for v in off) / len(off)) ** 0.5
            tap.check(f"{name}, {kind}: layer {layer}: each neuron is as often active as --profile-only says, to {rms:.3f}", rms < 0.04)


def profile_only():
    d = tap.temp()
    a, b, c = (d / f"{i}.gguf" for i in "abc")
    args = ["--shape", "llama2-7b", "--sparsity", "0.9", "--spread", "0.05", "--hotness", "0.26:0.75", "--persistence", "0.8", "--profile-only"]
    runs = [tap.run("synth", *args, "-o", a), tap.run("synth", *args, "-t", 1, "-o", b), tap.run("synth", *args, "--seed", 2, "-o", c)]
    if not tap.check("a 7B profile is made without the model", all(r.returncode == 0 for r in runs), runs):
        return
    same, other = ((x.read_bytes(), x.with_suffix(".profile").read_bytes()) for x in (b, c))
    mine = a.read_bytes(), a.with_suffix(".profile").read_bytes()
    tap.check("the same settings, the same bytes; another seed, others", mine == same and mine[1] != other[1])
    tap.check("the header has no weights", a.stat().st_size < 2 << 20, a.stat().st_size)
    j = json.loads(tap.run("inspect", a, "--json").stdout)
    ffn = [t for t in j["tensors"] if t["name"] == "blk.31.ffn_down.weight"]
    tap.check("inspect knows the model", j["metadata_only"] and ffn and ffn[0]["shape"] == [11008, 4096] and ffn[0]["type"] == "Q4_0", ffn)
    j = json.loads(tap.run("inspect", a.with_suffix(".profile"), "--json").stdout)
    layers = j["per_layer"]
    tap.check("sparsity from layer to layer as asked", all(abs(x["sparsity"] - (0.85 + 0.1 * i / 31)) < 0.002 for i, x in enumerate(layers)), layers)
    tap.check("hotness as asked", all(abs(hottest(x) - 0.75) < 0.005 for x in layers), [hottest(x) for x in layers])
    stay = sum(x["reuse"]["1"] for x in layers[15:17]) / 2  # those of the asked sparsity
    tap.check("the recorded run has the persistence asked", abs(stay - 0.8) < 0.01, stay)
    tap.check("and mean and p99 of the magnitudes are there", 'NaN' not in json.dumps(j))
    real = d / "real.gguf"
    tap.run("synth", "--shape", "d=64,f=128,layers=2,heads=4,vocab=300", "-o", real)
    for args in (("run", a, "-p", "x"), ("eval", a, "-f", text), ("profile", a, "-f", text, "-o", d / "x.profile")):
        out = tap.run(*args)
        tap.check(f"{args[0]} says that there are no weights", out.returncode == 1 and "header without weights" in out.stderr
                  and "--profile-only" in out.stderr, out)
    out = tap.run("profile", real, "-f", text, "--add", a.with_suffix(".profile"), "-o", d / "x.profile")
    tap.check("the profile is of that model only", out.returncode == 1 and "synthetic llama2-7b" in out.stderr, out.stderr)
    out = tap.run("synth", "--shape", "7b", "--profile-only", "-o", d / "none.gguf")
    tap.check("--profile-only without --sparsity is refused", out.returncode == 2 and "--sparsity" in out.stderr
              and not (d / "none.gguf").exists(), out.stderr)


found_back("llama relu2 q4_k", ["--activation", "relu2", "--type", "q4_k"], False)
found_back("falcon relu q4_0", ["--type", "q4_0"], True)
found_back("llama drelu q8_0", ["--activation", "drelu", "--type", "q8_0"], False)
profile_only()
tap.done()
