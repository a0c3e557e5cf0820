#!/usr/bin/env python3
"""calor profile on real models: what it counts is what the engine counts itself, files and reports say the same, and
misuse is refused."""
import json
import math
import re
import signal
import subprocess
import sys

import plain_llama
import tap

MODEL = tap.ROOT / "models" / "calor-stories.gguf"
STORY = ("Once upon a time there was a little girl who lived in a village near the forest. Whenever she went out, the little girl wore a red "
         "riding cloak, so everyone in the village called her Little Red Riding Hood. One morning, she asked her mother if she could go to visit "
         "her grandmother as it had been awhile since they had seen each other. That is a good idea, her mother said. So they packed a nice "
         "basket for her to take to her grandmother. ")
OTHER = "The ship left the harbour at dawn. Nobody on board had slept, and the captain watched the weather with a worried face. " * 12


def profile(*args):
    return tap.run("profile", *args)


def layers_of_eval(model, text, context):
    """Sparsity by layer as the engine counts it in exact mode, by another way through the code."""
    out = tap.run("eval", model, "-f", text, "-c", context, "--mode", "exact", "-b", 1, "--json")
    return [x["sparsity"] for x in json.loads(out.stdout)["ffn"]["layers"]]


def bundled(d):
    text, other, file, page = d / "a.txt", d / "b.txt", d / "a.profile", d / "a.html"
    text.write_text(STORY * 6)
    other.write_text(OTHER)
    out = profile(MODEL, "-f", text, "--held-out", other, "-o", file, "--html", page, "--json")
    if not tap.check("the bundled model is profiled", out.returncode == 0, out.stderr):
        return
    j = json.loads(out.stdout)
    ids = len(tap.run("tokenize", MODEL, "-f", text).stdout.split())
    tap.check("every token of the text is counted once", j["tokens"] == ids, (j["tokens"], ids))
    mine, engine = [x["sparsity"] for x in j["per_layer"]], layers_of_eval(MODEL, text, 256)
    worst = max(abs(a - b) for a, b in zip(mine, engine))
    tap.check("sparsity of each layer is what the engine counts while decoding, to 0.5 %", worst < 0.005, (mine, engine))
    tap.check("sparsity is the mean of the layers'", abs(j["sparsity"] - sum(mine) / len(mine)) < 1e-9, j["sparsity"])
    cover = {round(c["hottest"], 2): c for c in j["coverage"]}
    tap.check("coverage is given for 10, 20, 26 and 43 %", sorted(cover) == [0.1, 0.2, 0.26, 0.43], sorted(cover))
    tap.check("coverage grows with the share, and hot neurons take more than theirs",
              all(1 > cover[s]["calibration"] > s for s in cover) and cover[0.1]["calibration"] < cover[0.43]["calibration"], cover)
    tap.check("held-out text is counted apart", j["tokens_held_out"] > 0 and cover[0.26]["held_out"] != cover[0.26]["calibration"], cover)
    tap.check("reuse grows with the window", all(x["reuse"]["1"] < x["reuse"]["2"] < x["reuse"]["4"] < x["reuse"]["8"] <= 1 for x in j["per_layer"]), j)
    tap.check("a zero threshold costs nothing, leaving everything out costs all",
              all(x["cett"][0]["cett"] == 0 and abs(x["cett"][-1]["cett"] - 1) < 1e-3 and x["cett"][-1]["sparsity"] > 0.9999 for x in j["per_layer"]), j)
    again = json.loads(tap.run("inspect", file, "--json").stdout)
    tap.check("inspect reads the same from the file", again == j)
    human = tap.run("inspect", file).stdout
    tap.check("inspect shows the figures", f"{100 * j['sparsity']:.1f}" in human and "hottest" in human, human)
    body = page.read_text()
    tap.check("the page is whole and needs no network", body.endswith("</html>\n") and "http" not in body and body.count("<figure>") >= 5 and f"{100 * j['sparsity_held_out']:.1f} %" in body)
    tap.check("the page has no number that is none", not re.search(r"\bnan\b|\binf\b", body))

    profile(MODEL, "-f", text, "--held-out", other, "-o", d / "t.profile", "-t", 2)
    tap.check("the same bytes with two threads", (d / "t.profile").read_bytes() == file.read_bytes())

    out = profile(MODEL, "-f", other, "--add", file, "-o", d / "sum.profile", "--json")
    s = json.loads(out.stdout) if out.returncode == 0 else {}
    tap.check("--add adds the tokens up", s.get("tokens") == j["tokens"] + j["tokens_held_out"] and s.get("tokens_held_out") == j["tokens_held_out"], out.stderr)
    want = [(a["sparsity"] * j["tokens"] + a["sparsity_held_out"] * j["tokens_held_out"]) / s["tokens"] for a in j["per_layer"]]
    tap.check("and the counts", all(abs(a - b["sparsity"]) < 1e-9 for a, b in zip(want, s["per_layer"])), (want, s["per_layer"]))

    broken = bytearray(file.read_bytes())
    (d / "cut.profile").write_bytes(broken[:-5000])
    out = tap.run("inspect", d / "cut.profile")
    tap.check("a profile cut short is an error", out.returncode == 1 and "cut.profile" in out.stderr and "Traceback" not in out.stderr, out.stderr)


def swiglu(d):
    """SiLU has no zeros: neurons count from a CETT on."""
    model = tap.shared("models", "stories260K.gguf")
    if not model:
        tap.skip("a SwiGLU model", "no shared data")
        return
    text, file = d / "s.txt", d / "s.profile"
    text.write_text(STORY * 4)
    out = profile(model, "-f", text, "-o", file, "--json", "--cett", 0.2, "--samples", 128)
    if not tap.check("a SwiGLU model is profiled", out.returncode == 0, out.stderr):
        return
    j = json.loads(out.stdout)
    tap.check("every layer has an epsilon", not j["zeros"] and all(x["epsilon"] > 0 for x in j["per_layer"]), j["per_layer"])
    for i, x in enumerate(j["per_layer"]):
        below = [c for c in x["cett"] if c["epsilon"] <= x["epsilon"]][-1]
        above = [c for c in x["cett"] if c["epsilon"] > x["epsilon"]][0]
        good = below["cett"] <= 0.2 <= above["cett"] and below["sparsity"] - 0.06 <= x["sparsity"] <= above["sparsity"] + 0.06
        tap.check(f"layer {i}: epsilon lies where the curve crosses 0.2, and all tokens are as sparse as the sampled ones", good, (x["epsilon"], below, above, x["sparsity"]))
    lower = json.loads(profile(model, "-f", text, "-o", d / "l.profile", "--json", "--cett", 0.05).stdout)
    tap.check("a lower CETT leaves out fewer", lower["sparsity"] < j["sparsity"] - 0.05, (lower["sparsity"], j["sparsity"]))
    out = profile(MODEL, "-f", text, "--add", file, "-o", d / "x.profile")
    tap.check("a profile of another model is refused with both names",
              out.returncode == 1 and "Calor Stories" in out.stderr and j["model"] in out.stderr and not (d / "x.profile").exists(), out.stderr)


def by_definition(d):
    """A short text in one window, all its tokens sampled, against plain Python from the definitions."""
    path = tap.shared("models", "stories260K.gguf")
    if not path:
        tap.skip("figures from their definitions", "no shared data")
        return
    text = d / "def.txt"
    text.write_text(STORY[:330])
    out = profile(path, "-f", text, "-o", d / "def.profile", "--json", "--samples", 1000)
    if not tap.check("a short text is profiled", out.returncode == 0, out.stderr):
        return
    j = json.loads(out.stdout)
    ids = [int(i) for i in tap.run("tokenize", path, "-f", text).stdout.split()]
    model = plain_llama.Llama(path)
    for n, (h, got) in enumerate(zip(model.hidden(ids), j["per_layer"])):
        norms, f, eps = model.norms(n), j["neurons"], got["epsilon"]
        active = [{i for i in range(f) if abs(t[i]) * norms[i] >= eps} for t in h]
        sparsity = 1 - sum(map(len, active)) / (len(h) * f)
        tap.check(f"layer {n}: sparsity", abs(got["sparsity"] - sparsity) < 3e-3, (got["sparsity"], sparsity))
        tap.check(f"layer {n}: CETT at its epsilon is 0.2", abs(model.cett(n, h, eps) - 0.2) < 6e-3, model.cett(n, h, eps))
        for c in got["cett"][20::30]:
            want = model.cett(n, h, c["epsilon"])
            tap.check(f"layer {n}: CETT at {c['epsilon']:.3g}", abs(want - c["cett"]) < 6e-3, (want, c))
        for k in (1, 2, 4, 8):
            want = plain_llama.reuse(active, k)
            tap.check(f"layer {n}: reuse {k}", abs(want - got["reuse"][str(k)]) < 6e-3, (want, got["reuse"]))
        want = plain_llama.gap(active, f)
        tap.check(f"layer {n}: gap", abs(want - got["gap"]) < 6e-3, (want, got["gap"]))


def by_perplexity(d):
    """PPL-p % sparsity: what was found is a crossing, and perplexities are those of plain Python."""
    path = tap.shared("models", "stories260K.gguf")
    if not path:
        tap.skip("PPL-p % sparsity", "no shared data")
        return
    text, held, file = d / "ppl.txt", d / "held.txt", d / "ppl.profile"
    text.write_text(STORY * 4)
    held.write_text(OTHER[:260])
    out = profile(path, "-f", text, "--held-out", held, "--ppl", 30, "--samples", 256, "-o", file, "--html", d / "ppl.html", "--progress", "json")
    if not tap.check("a sparsity is searched for by perplexity", out.returncode == 0, out.stderr):
        return
    done = [json.loads(line)["done"] for line in out.stderr.splitlines() if "profile" in line]
    tap.check("progress goes up to the end", done == sorted(done) and done[-1] == 1, done)
    j = json.loads(tap.run("inspect", file, "--json").stdout)
    p = j["ppl"]
    steps, most = p["steps"], p["perplexity_dense"] * 1.3
    tap.check("steps ascend from dense, with sparsity", [s["cett"] for s in steps] == sorted(s["cett"] for s in steps) and steps[0]["cett"] == steps[0]["sparsity"] == 0
              and all(a["sparsity"] < b["sparsity"] for a, b in zip(steps, steps[1:])), steps)
    at = next(i for i, s in enumerate(steps) if s["cett"] == p["cett"])
    tap.check("perplexity is kept at the CETT found, and not at the next step", 0 < at and steps[at]["perplexity"] == p["perplexity"] <= most < steps[at + 1]["perplexity"]
              and (p["perplexity"] > p["perplexity_dense"] + 0.95 * (most - p["perplexity_dense"]) or steps[at + 1]["cett"] - p["cett"] < 1e-3), p)
    tap.check("epsilons are chosen for it", j["cett_target"] == p["cett"] and abs(j["sparsity_held_out"] - p["sparsity"]) < 0.01, (j["cett_target"], j["sparsity_held_out"], p))
    ids = [int(i) for i in tap.run("tokenize", path, "-f", held).stdout.split()]
    model = plain_llama.Llama(path)
    # A neuron at its epsilon may fall to either side by rounding, and 73 tokens are few.
    for what, epsilon, near in (("perplexity", [x["epsilon"] for x in j["per_layer"]], 0.04), ("perplexity_dense", None, 2e-3)):
        surprise = []
        h = model.hidden(ids, epsilon, surprise)
        scored = surprise[(len(ids) + 1) // 2:]
        want = math.exp(sum(scored) / len(scored))
        tap.check(f"{what} is plain Python's", p["tokens"] == len(scored) and abs(p[what] / want - 1) < near, (p, want, len(scored)))
        if epsilon:
            zeros = sum(v == 0 for layer in h for token in layer for v in token) / (len(ids) * j["layers"] * j["neurons"])
            tap.check("sparsity is plain Python's, but for BOS", abs(p["sparsity"] - zeros) < 0.01, (p["sparsity"], zeros))
    human = tap.run("inspect", file).stdout
    tap.check("people see it", f"PPL-30 % sparsity: {100 * p['sparsity']:.1f} %" in human and f"{p['perplexity_dense']:.4f}" in human, human)
    tap.check("the page shows it", "PPL-30 % sparsity" in (d / "ppl.html").read_text())
    profile(path, "-f", text, "--held-out", held, "--ppl", 30, "--samples", 256, "-t", 2, "-o", d / "two.profile")
    tap.check("two threads find the same", (d / "two.profile").read_bytes() == file.read_bytes())
    more = profile(path, "-f", held, "--add", file, "-o", d / "added.profile", "--json")
    tap.check("it is still there when a text is added", json.loads(more.stdout)["ppl"] == p, more.stderr)


def relu_opt(d):
    """An ungated ReLU model with biases and learned positions."""
    model = tap.shared("models", "relu-opt-tinystories-char-0.2M.gguf")
    if not model:
        tap.skip("an OPT model", "no shared data")
        return
    text = d / "o.txt"
    text.write_text(STORY * 2)
    out = profile(model, "-f", text, "-o", d / "o.profile", "--json", "-c", 32)
    if tap.check("an OPT model is profiled", out.returncode == 0, out.stderr):
        mine, engine = [x["sparsity"] for x in json.loads(out.stdout)["per_layer"]], layers_of_eval(model, text, 32)
        tap.check("sparsity of each layer is the engine's", max(abs(a - b) for a, b in zip(mine, engine)) < 0.01, (mine, engine))


def fatrelu(d):
    """Quality over FATReLU's threshold: perplexity and sparsity are those that calor eval has with --activation."""
    model = tap.shared("models", "relu-opt-tinystories-char-0.2M.gguf")
    if not model:
        tap.skip("FATReLU thresholds", "no shared data")
        return
    text, held, file = d / "f.txt", d / "fh.txt", d / "f.profile"
    text.write_text(STORY)
    held.write_text((OTHER * 2)[:32 * 60])  # a character is a token: windows of 32, all full
    out = profile(model, "-f", text, "--held-out", held, "--fatrelu", "-c", 32, "-o", file, "--html", d / "f.html", "--json")
    if not tap.check("FATReLU thresholds are tried", out.returncode == 0, out.stderr):
        return
    curve = json.loads(out.stdout)["fatrelu"]
    tap.check("thresholds ascend from 0, sparsity with them", curve[0]["threshold"] == 0 and len(curve) > 8
              and all(a["threshold"] < b["threshold"] and a["sparsity"] < b["sparsity"] for a, b in zip(curve, curve[1:])), curve)
    for i in (0, len(curve) // 2, len(curve) - 1):
        t = curve[i]["threshold"]
        p = json.loads(tap.run("eval", model, "-f", held, "-c", 32, "-b", 1, "--activation", f"fatrelu:{t}", "--mode", "exact", "--json").stdout)
        tap.check(f"at {t:g} perplexity and sparsity are calor eval's", abs(p["perplexity"] / curve[i]["perplexity"] - 1) < 2e-3 and abs(p["sparsity"] - curve[i]["sparsity"]) < 3e-3, (p, curve[i]))
    best = [c for c in curve if c["perplexity"] <= 1.01 * curve[0]["perplexity"]][-1]
    above = [c for c in curve if c["threshold"] > best["threshold"]]
    tap.check("the search ends near where perplexity has risen by 1 %", above and above[0]["threshold"] - best["threshold"] < 0.02 and above[0]["perplexity"] > 1.01 * curve[0]["perplexity"], curve)
    human = tap.run("inspect", file).stdout
    marked = [line for line in human.splitlines() if "within 1 %" in line]
    tap.check("people see which", len(marked) == 1 and f"{best['threshold']:.5g}" in marked[0], human)
    tap.check("the page shows the curve", "Quality with a FATReLU threshold" in (d / "f.html").read_text())
    swiglu_model = tap.shared("models", "stories260K.gguf")
    out = profile(swiglu_model, "-f", text, "--held-out", held, "--fatrelu", "-o", d / "no.profile")
    tap.check("not of a model without ReLU", out.returncode == 2 and "silu" in out.stderr and not (d / "no.profile").exists(), out.stderr)


def interrupted(d):
    """Nothing of an interrupted run is left, and an earlier profile stands; texts can be added one by one."""
    text, held, file = d / "i.txt", d / "ih.txt", d / "i.profile"
    text.write_text(STORY * 40)
    held.write_text(OTHER * 40)
    file.write_bytes(b"earlier")
    for args in ((), ("--held-out", held, "--ppl", 1)):
        p = subprocess.Popen([tap.CALOR, "profile", str(MODEL), "-f", str(text), "-o", str(file), *map(str, args), "--progress", "json"],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        done = 0
        for line in p.stderr:
            done = json.loads(line).get("done", 0) if '"profile"' in line else 0
            if done > 0.05:
                p.send_signal(signal.SIGINT)
                break
        p.stderr.read()
        p.wait(timeout=120)
        tap.check(f"an interrupted run says so and leaves no file {' '.join(map(str, args[:1]))}", 0.05 < done < 1 and p.returncode == 130 and file.read_bytes() == b"earlier"
                  and not list(d.glob("i.profile?*")), (done, p.returncode))


def misuse(d):
    text = d / "m.txt"
    text.write_text(STORY)
    (d / "empty").write_text("")
    (d / "short").write_text("Once upon a time")
    for args, says in [
        ((MODEL, "-o", d / "x"), "-f TEXT is needed"), ((MODEL, "-f", text), "-o FILE is needed"),
        ((MODEL, "-f", d / "none", "-o", d / "x"), "none"), ((MODEL, "-f", text, "-o", d / "no" / "x"), "no/x"),
        ((MODEL, "-f", text, "-o", d / "x", "--cett", "2"), "--cett"), ((MODEL, "-f", text, "-o", d / "x", "--sample", "2"), "--samples"),
        ((MODEL, "-f", text, "-o", d / "x", "-c", "9"), "--context"), ((MODEL, "-f", d / "empty", "-o", d / "x"), "no tokens"),
        ((MODEL, "-f", text, "--add", MODEL, "-o", d / "x"), "no profile"),
        ((MODEL, "-f", text, "-o", d / "x", "--ppl", "1"), "--held-out"), ((MODEL, "-f", text, "-o", d / "x", "--ppl", "0"), "--ppl"),
        ((MODEL, "-f", text, "--held-out", text, "-o", d / "x", "--ppl", "1", "--cett", "0.1"), "--cett"),
        ((MODEL, "-f", text, "--held-out", text, "-o", d / "x", "--ppl", "1", "--samples", "0"), "--samples"),
        ((MODEL, "-f", text, "--held-out", text, "-o", d / "x", "--ppl", "1", "--add", d / "a.profile"), "--add"),
        ((MODEL, "-f", text, "--held-out", d / "short", "-o", d / "x", "--ppl", "1"), "too short"),
    ]:
        out = profile(*args)
        tap.check(f"refused: {' '.join(str(a).split('/')[-1] for a in args)}", out.returncode in (1, 2) and says in out.stderr and not (d / "x").exists(), out.stderr)


def main():
    d = tap.temp()
    bundled(d)
    swiglu(d)
    by_definition(d)
    by_perplexity(d)
    relu_opt(d)
    fatrelu(d)
    interrupted(d)
    misuse(d)
    tap.done()


if __name__ == "__main__":
    sys.exit(main())
