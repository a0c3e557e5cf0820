#!/usr/bin/env python3
"""--mode threshold with epsilons from a profile: what is left out is what the profile says, and nothing else's profile is
taken."""
import json
import re
import sys

import tap
from test_profile import MODEL, OTHER, STORY


def evaluate(model, text, *args):
    out = tap.run("eval", model, "-f", text, "--json", *(() if "-c" in args else ("-c", 128)), *args)
    return json.loads(out.stdout) if out.returncode == 0 else {"error": out.stderr}


def swiglu(d):
    model = tap.shared("models", "stories260K.gguf")
    if not model:
        tap.skip("threshold mode of a SwiGLU model", "no shared data")
        return
    text, file = d / "a.txt", d / "a.profile"
    text.write_text(STORY * 4)
    made = json.loads(tap.run("profile", model, "-f", text, "-o", file, "--samples", 256, "--cett", 0.2, "--json").stdout)
    one = evaluate(model, text, "-b", 1, "--mode", "threshold", "--profile", file, "--against", "dense")
    if not tap.check("threshold mode runs from a profile", one.get("mode") == "threshold", one):
        return
    near = max(abs(a["sparsity"] - b["sparsity"]) for a, b in zip(one["ffn"]["layers"], made["per_layer"]))
    tap.check("each layer leaves out the share that the profile counted, to 3 %", near < 0.03, (one["ffn"]["layers"], made["per_layer"]))
    dense = evaluate(model, text, "-b", 1, "--mode", "dense", "--profile", file)
    tap.check("it costs perplexity, and not much", 1.002 < one["perplexity"] / dense["perplexity"] < 1.15, (one["perplexity"], dense["perplexity"]))
    tap.check("the difference to dense is reported", 0.01 < one["kld_mean"] < one["kld_p99"] and 0.5 < one["same_top"] < 1 and one["max_abs_diff"] > 0.1, one)
    many = evaluate(model, text, "-b", 64, "--mode", "threshold", "--profile", file)
    tap.check("batches leave out as much", abs(many["sparsity"] - one["sparsity"]) < 0.005, (many, one))
    same = evaluate(model, text, "-b", 1, "--mode", "threshold", "--profile", file, "--cett", 0.2)
    tap.check("the CETT it was made with is the default", same["sparsity"] == one["sparsity"] and same["perplexity"] == one["perplexity"], same)
    less = evaluate(model, text, "-b", 1, "--mode", "threshold", "--profile", file, "--cett", 0.01, "--against", "dense")
    tap.check("a small CETT leaves out less and changes less", less["sparsity"] < 0.5 * one["sparsity"] and less["kld_mean"] < 0.05 * one["kld_mean"], less)
    against = evaluate(model, text, "-b", 1, "--mode", "dense", "--profile", file, "--against", "threshold")
    tap.check("dense is measured against it the same", abs(against.get("max_abs_diff", 0) / one["max_abs_diff"] - 1) < 0.01, against)
    out = tap.run("run", model, "-p", "Once", "-n", 4, "--mode", "threshold", "--profile", file, "--json")
    tap.check("run knows it", out.returncode == 0 and re.search(r"\"mode\": ?\"threshold\"", out.stdout), out.stderr)
    out = tap.run("bench", model, "-p", 0, "-n", 4, "-r", 1, "--no-membw", "--mode", "threshold", "--profile", file, "--json")
    tap.check("bench knows it", out.returncode == 0 and re.search(r"\"mode\": ?\"threshold\"", out.stdout), out.stderr)


def relu(d):
    """A ReLU model's profile has no epsilon of its own unless it was searched for."""
    text, held, plain, searched = d / "r.txt", d / "rh.txt", d / "r.profile", d / "rp.profile"
    text.write_text(STORY * 2)
    held.write_text(OTHER)
    tap.run("profile", MODEL, "-f", text, "-o", plain, "-c", 128)
    found = json.loads(tap.run("profile", MODEL, "-f", text, "--held-out", held, "--ppl", 5, "-o", searched, "-c", 128, "--json").stdout)
    exact = evaluate(MODEL, text, "-b", 1, "--mode", "exact")
    own = evaluate(MODEL, text, "-b", 1, "--mode", "threshold", "--profile", searched)
    tap.check("a profile made with --ppl has epsilons for ReLU, too", own.get("sparsity", 0) > exact["sparsity"] and abs(own["sparsity"] - found["ppl"]["sparsity"]) < 0.03, (own, exact["sparsity"], found["ppl"]))
    same = evaluate(MODEL, text, "-b", 1, "--mode", "threshold", "--profile", plain, "--cett", found["ppl"]["cett"])
    tap.check("so does a CETT", same.get("sparsity") == own["sparsity"], same)
    tap.check("gates that are zero are still skipped whole", abs(same["ffn"]["skipped"] - exact["ffn"]["skipped"]) < 0.02 and exact["ffn"]["skipped"] > 0.5, (same["ffn"]["skipped"], exact["ffn"]["skipped"]))
    for args, says in [
        (("--mode", "threshold"), "needs --profile"), (("--cett", 0.1), "needs --profile"),
        (("--mode", "dense", "--against", "threshold"), "needs --profile"), (("--mode", "threshold", "--profile", plain), "--ppl"),
        (("--mode", "threshold", "--profile", d / "none"), "none"), (("--mode", "threshold", "--profile", MODEL), "no profile"),
        (("--mode", "threshold", "--profile", searched, "--activation", "fatrelu:0.5"), "made with the activation"),
        (("--mode", "threshold", "--profile", searched, "--cett", 7), "--cett"),
    ]:
        out = tap.run("eval", MODEL, "-f", text, "-c", 128, *args)
        tap.check("refused: " + " ".join(str(a).split("/")[-1] for a in args), out.returncode in (1, 2) and says in out.stderr and not out.stdout, out.stderr)
    other = d / "a.profile"
    if other.exists():
        out = tap.run("run", MODEL, "-p", "x", "-n", 1, "--mode", "threshold", "--profile", other)
        tap.check("refused: another model's profile, with both names", out.returncode == 1 and "stories260K" in out.stderr and "Calor Stories" in out.stderr, out.stderr)


def order(d):
    """With a profile neurons lie from hot to cold: sums are in another order, and nothing else changes."""
    text, file = d / "o.txt", d / "o.profile"
    text.write_text(STORY * 3)
    tap.run("profile", MODEL, "-f", text, "-o", file, "-c", 128)
    exact = evaluate(MODEL, text, "-b", 1, "--mode", "exact", "--profile", file, "--against", "dense")
    tap.check("from hot to cold exact is dense to the bit", exact.get("max_abs_diff") == 0 and exact["ffn"]["skipped"] > 0.5, exact)
    logits = d / "plain.npy"
    plain = evaluate(MODEL, text, "-b", 1, "--mode", "exact", "--logits", logits)
    moved = evaluate(MODEL, text, "-b", 1, "--mode", "exact", "--profile", file, "--against", logits)
    tap.check("the order of neurons changes nothing but the last bits of sums, and what rounding to 8 bits makes of them",
              0 < moved.get("kld_mean", 1) < 1e-3 and moved["same_top"] > 0.97 and abs(moved["sparsity"] - plain["sparsity"]) < 1e-3, moved)
    evaluate(MODEL, text, "-c", 32, "--cpu", "ref", "-b", 1, "--mode", "exact", "--logits", logits)
    moved = evaluate(MODEL, text, "-c", 32, "--cpu", "ref", "-b", 1, "--mode", "exact", "--profile", file, "--against", logits)
    tap.check("on the reference tier, which keeps more, nothing is left of it", 0 < moved.get("max_abs_diff", 1) < 0.03 and moved["kld_mean"] < 1e-7 and moved["same_top"] == 1, moved)
    sure = evaluate(MODEL, text, "-b", 1, "--mode", "sure", "--profile", file, "--against", "dense")
    tap.check("screens find their way", sure.get("max_abs_diff") == 0 and sure["ffn"]["screened"] > 0.5, sure)
    a, b = (tap.run("run", MODEL, "-p", "Once upon a time", "-n", 40, "--temp", 0, *extra) for extra in ((), ("--profile", file)))
    tap.check("greedy text is the same", a.returncode == b.returncode == 0 and a.stdout == b.stdout and len(a.stdout) > 80, b.stdout + b.stderr)


def main():
    d = tap.temp()
    order(d)
    swiglu(d)
    relu(d)
    tap.done()


if __name__ == "__main__":
    sys.exit(main())
