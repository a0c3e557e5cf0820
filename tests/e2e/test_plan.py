#!/usr/bin/env python3
"""calor plan: reports, exit codes, files that keep their schema, and inputs that don't belong together."""
import base64
import json
import re
import struct
import sys

import tap

jsonschema = tap.want("jsonschema")
MODEL = tap.ROOT / "models" / "calor-stories.gguf"
GPU, CPU = "rtx3060+ddr4-3200x2", "ddr4-3200x2"
SHAPE = ["--shape", "llama2-13b", "--sparsity", "0.888"]


def plan(*args):
    return tap.run("plan", *args)


def schema(name, tree):
    if not jsonschema:
        tap.skip(name, "Python module jsonschema is not installed")
        return
    rules = json.loads((tap.ROOT / "docs" / "plan.schema.json").read_text())
    wrong = [e.message for e in jsonschema.Draft7Validator(rules).iter_errors(tree)]
    tap.check(name, not wrong, wrong[:3])


def shapes(d):
    file = d / "plan.json"
    out = plan(*SHAPE, "--type", "f16", "--machine", GPU + "+gen4", "-o", file)
    tap.check("a model that is not here on a machine that is not here: fits", out.returncode == 0 and "fits" in out.stdout, out.stderr + out.stdout)
    for word in ("per token", "first token", "waiting for", "optimal to", "KV cache", "by frequency", "neurons of each layer"):
        tap.check(f"the report has '{word}'", word in out.stdout, out.stdout)
    tap.check("no number in it is none", not re.search(r"\bnan\b|\binf\b", out.stdout), out.stdout)
    j = json.loads(file.read_text())
    schema("plan.json keeps its schema", j)
    again = d / "again.json"
    plan(*SHAPE, "--type", "f16", "--machine", GPU + "+gen4", "-o", again)
    tap.check("the same bytes again", file.read_bytes() == again.read_bytes())
    printed = json.loads(plan(*SHAPE, "--type", "f16", "--machine", GPU + "+gen4", "--json").stdout)
    schema("--json keeps it too", printed)
    tap.check("--json prints what is written", abs(printed["prediction"]["token_seconds"] / j["prediction"]["token_seconds"] - 1) < 1e-6 and "order" not in printed["layers"][0])
    n = 13824
    f = struct.unpack(f"<{n}f", base64.b64decode(j["layers"][3]["frequency"]))
    tap.check("frequencies fall and have the sparsity asked for", all(a >= b for a, b in zip(f, f[1:])) and abs(1 - sum(f) / n - 0.888) < 1e-4, sum(f) / n)
    gate, updown = j["layers"][3]["gate"], j["layers"][3]["updown"]
    hot = sum(f[:updown[0]]) / sum(f)
    tap.check("coverage is what the frequencies say", abs(hot - j["layers"][3]["coverage"]["calibration"]) < 1e-5, hot)
    tap.check("more of the gate lies on the GPU than of up and down", gate[0] > updown[0], (gate, updown))
    alt = j["prediction"]["alternatives"]
    tap.check("no rule of others is faster", all(v is None or v >= alt["calor"] for v in alt.values()), alt)
    m = j["memory"]["ram"]
    parts = sum(v for k, v in m.items() if k not in ("total", "ceiling"))
    tap.check("the ledger adds up", m["total"] - parts == j["settings"]["margin"] and m["total"] <= m["ceiling"], m)
    if len(sys.argv) > 1:  # a broken schema is noticed: run by hand
        j["layers"][0]["kv"] = "disk"
        schema("(must fail)", j)


def exits():
    tap.check("degraded: 2", plan(*SHAPE, "--machine", CPU + "+gen4", "--ram", "4G", "-c", 512).returncode == 2)
    out = plan(*SHAPE, "--machine", CPU, "--ram", "4G", "-c", 512)
    tap.check("impossible: 3, with what would make it fit", out.returncode == 3 and re.search(r"[0-9.]+ GiB more RAM", out.stderr), out.stderr)
    more = re.search(r"([0-9.]+) GiB more RAM", out.stderr)
    need = 4 + float(more.group(1)) * 1.01 if more else 4
    tap.check("and it does", plan(*SHAPE, "--machine", CPU, "--ram", f"{need:.3f}G", "-c", 512).returncode == 0, need)
    less = 4 + float(more.group(1)) * 0.97 if more else 9
    tap.check("and a little less does not", plan(*SHAPE, "--machine", CPU, "--ram", f"{less:.3f}G", "-c", 512).returncode == 3, less)
    for args, text in ((["--machine", "rtx4091"], "did you mean"), (["--sparsity", "1.5"], "out of range"), (["--sweep", "vram=1"], "FROM:TO:STEP"),
                       (["--sweep", "speed=1:2:1"], "not vram, ram or context"), (["--what-if", "vrm=4G"], "did you mean 'vram'"), (["--explain", "blk.99"], "layers 0 to 39"),
                       (["--explain", "soup"], "no layer and no tensor"), (["--machine", "/nowhere.json"], "nowhere"), (["--vram", "-3"], "vram"), (["--kv", "q3"], "not one of"),
                       (["--hotness", "7"], "hotness"), (["-c", "0"], "out of range"), (["--type", "soup"], "no element type"), (["--profile", "/dev/null"], "device")):
        out = plan("--shape", "llama2-13b", "--machine", GPU, *args)
        tap.check(f"{' '.join(args)}: 1 and a clear error", out.returncode == 1 and text in out.stderr, (out.returncode, out.stderr))
    out = plan()
    tap.check("nothing to plan: 1", out.returncode == 1 and "--shape" in out.stderr, out.stderr)
    out = plan("--help")
    tap.check("--help has examples", out.returncode == 0 and "examples:" in out.stdout and "--sweep" in out.stdout, out.stdout)


def changes():
    out = plan(*SHAPE, "--machine", GPU, "--what-if", "kv=q8_0", "--what-if", "mode=dense", "--sweep", "vram=2G:10G:2G", "--json")
    j = json.loads(out.stdout)
    base = j["prediction"]["token_seconds"]
    tap.check("q8_0 is faster, dense slower", j["what_if"][0]["token_seconds"] < base < j["what_if"][1]["token_seconds"], j["what_if"])
    times = [p["token_seconds"] for p in j["sweep"]]
    tap.check("more VRAM, faster", len(times) == 5 and all(a > b for a, b in zip(times, times[1:])), times)
    out = plan(*SHAPE, "--machine", GPU, "--vram", "6G", "--explain", "blk.12.ffn_gate.weight")
    tap.check("--explain says where, how long, and what more would bring", all(w in out.stdout for w in ("layer 12", "time of a token", "crossings", "each GiB of VRAM")), out.stdout)
    for args in (["--vram", "0"], ["--ram", "10000T"], ["--vram", "10000T"], ["--mode", "sure", "--type", "q8_0"], ["-t", "1"], ["-b", "1", "-c", "1"]):
        out = plan(*SHAPE, "--machine", GPU, *args)
        tap.check(f"{' '.join(args)} plans", out.returncode in (0, 2) and not re.search(r"\bnan\b|\binf\b", out.stdout), (out.returncode, out.stderr, out.stdout))


def real(d):
    text, profile, page, file = d / "t.txt", d / "m.profile", d / "m.html", d / "m.json"
    text.write_text("Once upon a time there was a little dog who liked to play in the garden with a big red ball. " * 30)
    made = tap.run("profile", MODEL, "-f", text, "--held-out", text, "-o", profile)
    if not tap.check("a profile is made", made.returncode == 0, made.stderr):
        return
    out = plan(MODEL, "--profile", profile, "--machine", GPU + "+gen4", "-o", file, "--html", page)
    tap.check("the bundled model with its profile", out.returncode in (0, 2) and "held-out" in out.stdout, out.stderr + out.stdout)
    j = json.loads(file.read_text())
    schema("its plan keeps the schema", j)
    n = j["model"]["neurons"]
    order = struct.unpack(f"<{n}I", base64.b64decode(j["layers"][0]["order"]))
    tap.check("the order has every neuron once", sorted(order) == list(range(n)) and list(order) != list(range(n)))
    tap.check("the identity is the file's", re.fullmatch("[0-9a-f]{32}", j["model"]["identity"] or ""))
    body = page.read_text()
    tap.check("the page is whole", body.endswith("</html>\n") and "http:" not in body and not re.search(r"\bnan\b", body))
    out = plan("--shape", "llama2-7b", "--profile", profile, "--machine", GPU)
    tap.check("another model's profile: 4", out.returncode == 4 and "profile" in out.stderr, (out.returncode, out.stderr))
    other = bytearray(MODEL.read_bytes())
    other[-1] ^= 1
    (d / "other.gguf").write_bytes(other)
    out = plan(d / "other.gguf", "--profile", profile, "--machine", GPU)
    tap.check("the profile of another file of the same shape: 4", out.returncode == 4, (out.returncode, out.stderr))
    tensors = json.loads(tap.run("inspect", MODEL, "--json", "--tensors").stdout)["tensors"]
    (d / "head.gguf").write_bytes(MODEL.read_bytes()[:min(t["offset"] for t in tensors)])
    out = plan(d / "head.gguf", "--machine", GPU)
    tap.check("a header without its tensors is enough to plan from", out.returncode in (0, 2), (out.returncode, out.stderr))
    (d / "junk.gguf").write_bytes(b"GGUF" + bytes(100))
    out = plan(d / "junk.gguf", "--machine", GPU)
    tap.check("junk is an error", out.returncode == 1 and "junk.gguf" in out.stderr, (out.returncode, out.stderr))


shapes(tap.temp())
exits()
changes()
real(tap.temp())
tap.done()
