"""Sparse execution end to end, on the bundled model: exact mode is dense mode to the bit, neurons are really skipped, and
what is skipped is said."""
import json

import tap

model = tap.ROOT / "models" / "calor-stories.gguf"
text = tap.temp() / "text.txt"
text.write_text("Once upon a time there was a little fox who lived near the river. One day she saw a red bird in the tree. "
                "\"Hello,\" said the fox, \"do you want to play with me?\" The bird was happy and they played until it was dark.\n" * 8)


def evaluate(*args):
    r = tap.run("eval", model, "-f", text, "-c", "64", "--json", *args)
    return json.loads(r.stdout) if r.returncode == 0 else {"failed": r.stderr}


dense = evaluate("-b", "1", "--mode", "dense")
exact = evaluate("-b", "1", "--against", "dense")
tap.check("the bundled model runs in exact mode unless told otherwise", exact.get("mode") == "exact", exact)
tap.check("exact mode gives dense mode's logits to the bit", exact.get("max_abs_diff") == 0 and exact["kld_mean"] == 0
          and exact["perplexity"] == dense.get("perplexity"), exact)
layers = exact["ffn"]["layers"]
tap.check("neurons are skipped in every layer, and none that is active", all(0.5 < x["skipped"] <= x["sparsity"] < 1 for x in layers)
          and exact["ffn"]["skipped"] > 0.8, exact["ffn"])
tap.check("dense mode skips none and is as sparse", dense["ffn"]["skipped"] == 0 and dense["sparsity"] == exact["sparsity"], dense["ffn"])
three = evaluate("-b", "3", "--against", "dense", "-t", "1")
tap.check("three tokens at once keep the bits", three.get("max_abs_diff") == 0, three)
many = evaluate("-c", "128", "-b", "64", "--against", "dense")
tap.check("whole prompts are multiplied densely, with the same answers", 0 < many.get("kld_mean", 1) < 1e-3 and
          many["ffn"]["skipped"] < 0.1, many)
fast = evaluate("-b", "1", "--mode", "dense-fast", "--against", "dense")
tap.check("the plain engine agrees", 0 < fast.get("kld_mean", 1) < 1e-3 and "ffn" not in fast, fast)
sure = evaluate("-b", "1", "--mode", "sure", "--against", "dense")
tap.check("the statistical bound misses nothing here and spares most gates", sure.get("max_abs_diff") == 0 and
          0.5 < sure["ffn"]["screened"] <= sure["ffn"]["skipped"] == exact["ffn"]["skipped"], sure)
certified = evaluate("-b", "1", "--mode", "exact", "--screen", "plane", "--against", "dense")
tap.check("the certified bound spares fewer", certified.get("max_abs_diff") == 0 and
          0 < certified["ffn"]["screened"] < sure["ffn"]["screened"], certified)
# A threshold that drops active neurons shows: the comparison above would have seen it.
dropped = evaluate("-b", "1", "--activation", "fatrelu:0.9", "--logits", tap.temp() / "dropped.npy", "--mode", "dense")
other = evaluate("-b", "1", "--against", tap.temp() / "dropped.npy")
tap.check("leaving out active neurons changes the logits", other.get("max_abs_diff", 0) > 1e-3 and
          dropped["sparsity"] > dense["sparsity"], other)

r = tap.run("run", model, "-p", "Once upon a time", "-n", "20", "--seed", "1")
tap.check("run says how sparse it was and what was skipped", "FFN sparsity" in r.stderr and "skipped" in r.stderr, r.stderr)
j = json.loads(tap.run("bench", model, "-p", "0", "-n", "8", "-r", "2", "--json", "--no-membw").stdout)
k = json.loads(tap.run("bench", model, "-p", "0", "-n", "8", "-r", "2", "--json", "--no-membw", "--mode", "dense-fast").stdout)
tap.check("bench counts the bytes that a token really reads", j["settings"]["mode"] == "exact" and 0.7 < j["ffn"]["sparsity"] < 1 and
          0.2 < j["model"]["token_bytes"] / k["model"]["token_bytes"] < 0.9 and "ffn" not in k, j["model"])
for args, word in ((["--mode", "exact", "--activation", "silu"], "silu"), (["--mode", "sparse"], "sparse"),
                   (["--screen", "planes"], "plane")):
    r = tap.run("run", model, "-p", "a", "-n", "1", *args)
    tap.check(f"refused: {' '.join(args)}", r.returncode in (1, 2) and word in r.stderr, r.stderr)
tap.done()
