#!/usr/bin/env python3
"""The training recipe of models/: schedules, config and corpus errors, an interrupted toy run, exported files."""
import contextlib
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
sys.path.insert(0, str(ROOT / "models"))
sys.dont_write_bytecode = True
import tap  # noqa: E402

torch, np, _ = tap.need("torch", "numpy", "sentencepiece")
import config  # noqa: E402
import engine  # noqa: E402
import export  # noqa: E402
import held  # noqa: E402
import text  # noqa: E402
from errors import RecipeError, run_main  # noqa: E402
from fatrelu import search  # noqa: E402
import metrics  # noqa: E402
from model import Llama, ModelConfig  # noqa: E402
from muon import orthogonalise  # noqa: E402
from schedule import learning_rate_share, sparsity_weight  # noqa: E402

torch.set_num_threads(1)
TMP = tap.temp()
TOY = """
name = "toy"
[data]
folder = "{dir}/data"
vocab = 300
held_out = "{dir}/held.txt"
held_out_one_in = 4
[[data.text]]
path = "{dir}/simple.txt"
plain = true
share = 0.6
[[data.text]]
path = "{dir}/marked.txt"
share = 0.4
[model]
d_model = 32
n_layers = 2
n_heads = 2
n_kv_heads = 1
d_ffn = 64
context = 16
activation = "silu"
tied = true
[optim]
seed = 3
steps = 12
batch = 2
muon_lr = 0.02
adam_lr = 0.003
embed_lr = 0.02
weight_decay = 0.01
warmup = 2
decay_from = 8
final_lr_share = 0.1
"""
FORK = """
base = "toy.toml"
name = "{name}"
fork_from = "toy"
fork_step = 4
[model]
activation = "relu"
[sparsity]
ends = [2, 5, 7]
lambdas = [0.01, 0.5, 0.5]
"""


def command(script, *args):
    """Runs a script of the recipe in this process, as its command line would; the result is subprocess.run's."""
    module = importlib.import_module(script.removesuffix(".py"))
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run_main(module.main)
    except SystemExit as e:
        code = e.code
    except Exception:
        err.write(traceback.format_exc())
        code = 70
    finally:
        sys.argv = before
    return subprocess.CompletedProcess([script], code, out.getvalue(), err.getvalue())


def refused(name, out, *words):
    """One line of error, exit status 1, no traceback, the given words in it."""
    good = out.returncode == 1 and out.stderr.startswith("error: ") and "Traceback" not in out.stderr
    tap.check(name, good and all(w in out.stderr for w in words), f"{out.returncode}\n{out.stderr}")


def message(table):
    """The complaint about a config text, or nothing."""
    (TMP / "bad.toml").write_text(table)
    try:
        config.load(TMP / "bad.toml")
    except RecipeError as e:
        return str(e)
    return ""


def schedules():
    ends, lam = [10, 20, 30, 50], [0.1, 0.5, 0.5, 1.0]
    at = [sparsity_weight(t, ends, lam) for t in range(0, 61)]
    tap.check("λ is constant in the first stage", all(x == 0.1 for x in at[:11]), at[:11])
    tap.check("λ is half way at a stage's middle and arrives at its end", abs(at[15] - 0.3) < 1e-12 and abs(at[20] - 0.5) < 1e-12, at[15:21])
    quarter = 0.1 + 0.4 * 0.5 * (1 - 0.5 ** 0.5)
    tap.check("λ follows half a sine", abs(sparsity_weight(12.5, ends, lam) - quarter) < 1e-12, sparsity_weight(12.5, ends, lam))
    tap.check("equal neighbours are a plateau, the last value holds", all(abs(x - 0.5) < 1e-12 for x in at[20:31]) and at[60] == 1.0, at[20:])
    tap.check("λ without stages is 0", sparsity_weight(7, [], []) == 0.0)
    share = [learning_rate_share(s, 100, 10, 50, 0.02) for s in range(100)]
    tap.check("the learning rate warms up, stays and decays", share[0] == 0.1 and share[9] == share[49] == 1.0 and abs(share[99] - 0.02) < 1e-12
              and all(b < a for a, b in zip(share[50:], share[51:])), share)
    tried = {}
    t = search(tried, lambda x: 2.0 + x * x, 0.02, 1.0, 12)
    tap.check("the threshold search stops at the tolerance", abs(t - 0.2) < 1e-3 and t <= 0.2, t)
    o = orthogonalise(torch.randn(2, 8, 24, generator=torch.Generator().manual_seed(1)))
    s = torch.linalg.svdvals(o)
    tap.check("Muon's iteration brings all singular values near 1", bool(((s > 0.6) & (s < 1.3)).all()), s)


def configs():
    good = TOY.format(dir=TMP)
    tap.check("the toy config is accepted", message(good) == "", message(good))
    for file in sorted((ROOT / "models" / "config").glob("*.toml")):
        try:
            config.load(file)
            tap.check(f"{file.name} is accepted", True)
        except RecipeError as e:
            tap.check(f"{file.name} is accepted", False, e)
    for name, change, words in (
        ("a misspelt key", ("muon_lr", "moun_lr"), ["moun_lr", "muon_lr"]),
        ("a missing key", ("warmup = 2\n", ""), ["lacks", "warmup"]),
        ("a wrong type", ("batch = 2", 'batch = "2"'), ["optim.batch", "expected int"]),
        ("an unknown activation", ('"silu"', '"gelu"'), ["model.activation", "relu2"]),
        ("an unknown precision", ("batch = 2", 'batch = 2\nprecision = "half"'), ["optim.precision", "bfloat16"]),
        ("heads that do not divide", ("n_heads = 2", "n_heads = 3"), ["n_heads 3"]),
        ("a decay that begins after the end", ("decay_from = 8", "decay_from = 13"), ["decay_from 13"]),
        ("a file that is not TOML", ("[optim]", "[optim"), ["not valid TOML"]),
        ("stages out of order", ("[optim]", "[sparsity]\nends = [5, 4]\nlambdas = [0.1, 0.2]\n[optim]"), ["rise strictly"]),
        ("one λ too few", ("[optim]", "[sparsity]\nends = [5, 7]\nlambdas = [0.1]\n[optim]"), ["one λ for every stage"]),
        ("a fork without its step", ('name = "toy"', 'name = "toy"\nfork_from = "x"'), ["fork_step"]),
    ):
        said = message(good.replace(*change, 1))
        tap.check(f"{name} is refused in words", all(w in said for w in words) and "bad.toml" in said, said or "accepted")


def texts():
    lower = 'once there was a girl named maya. she saw tim and said, "hello, i am here." then she left.'
    tap.check("capitals come back", text.recase(lower, {"tim", "i"}) == 'Once there was a girl named Maya. She saw Tim and said, "Hello, I am here." Then she left.',
              text.recase(lower, {"tim", "i"}))
    spoken = '"oh no!" said the dog. "why?" he asked. "run!" the cat ran. "stop!" "no," said tim.'
    tap.check("what is said goes on in small letters", text.recase(spoken, {"tim"}) == '"Oh no!" said the dog. "Why?" he asked. "Run!" The cat ran. "Stop!" "No," said Tim.',
              text.recase(spoken, {"tim"}))
    tap.check("layouts are split", text.split_documents("a\n\nb\nc", True) == ["a\n\nb", "c"] and text.split_documents("a\nb\n<|endoftext|>\nc\n", False) == ["a\nb", "c"])
    broken = "â€œHi,â€\x9d said Tim. â€œItâ€™s cafã© time â€” now!â€\nâ€˜Oh.â€™"
    tap.check("broken quotation marks and letters are mended", text.mend(broken) == '"Hi," said Tim. "It\'s cafe time -- now!"\n\'Oh.\'', text.mend(broken))
    tap.check("case does not make a document new", text.document_key("The Cat, it sat") == text.document_key("the cat it sat"))


def activations():
    base = ModelConfig(vocab=300, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ffn=64, context=16)
    torch.manual_seed(5)
    model = Llama(base)
    ids = torch.randint(0, 300, (2, 16))
    gates = []
    model.layers[0].mlp.gate_proj.register_forward_hook(lambda _m, _i, out: gates.append(out))
    for name, t, expected in (("silu", 0.0, lambda z: z * torch.sigmoid(z)), ("relu", 0.0, lambda z: z.clamp(min=0)), ("relu2", 0.0, lambda z: z.clamp(min=0) ** 2),
                              ("fatrelu", 0.2, lambda z: z * (z >= 0.2))):
        model.set_activation(name, t)
        gates.clear()
        with torch.no_grad():
            hidden = model(ids)[1][0]
            x = model.layers[0]
            up = hidden / torch.where(expected(gates[0]) == 0, torch.ones(()), expected(gates[0]))
            zero = (expected(gates[0]) == 0) == (hidden == 0)
        tap.check(f"{name} has its zeros and values", bool(zero.all()) and bool(torch.isfinite(up).all()) and x.mlp.activation == name)
    with torch.no_grad():
        a, b = model(ids)[0], model(torch.cat((ids[:, :8], ids[:, :8]), 1))[0]
    tap.check("attention sees no later token", torch.equal(a[:, :8], b[:, :8]))


def figures():
    g = torch.Generator().manual_seed(2)
    h, down = torch.randn(64, 40, generator=g).relu(), torch.randn(16, 40, generator=g)
    norms = down.norm(dim=0)
    eps = metrics.epsilon_for(h, down, norms, 0.2)
    tail = (h * (h.abs() * norms < eps)) @ down.T
    by_hand = (tail.norm(dim=1) / (h @ down.T).norm(dim=1)).mean().item()
    tap.check("the threshold for CETT 0.2 is found", abs(by_hand - 0.2) < 0.02 and by_hand <= 0.2, (eps, by_hand))
    a = torch.zeros(8, 4, dtype=torch.bool)  # two windows of four tokens
    a[0, [0, 1]] = a[1, [1, 2]] = a[2, [2]] = a[3, [1]] = a[4, [0]] = a[5, [0]] = a[6, [0]] = a[7, [0]] = True
    tap.check("reuse counts within a window", abs(metrics.reuse(a, 4, 1) - (0.5 + 1 + 0 + 1 + 1 + 1) / 6) < 1e-6 and abs(metrics.reuse(a, 4, 2) - 1) < 1e-6,
              (metrics.reuse(a, 4, 1), metrics.reuse(a, 4, 2)))
    pairs = torch.zeros(10, 6, dtype=torch.bool)
    pairs[:5, [0, 1]] = pairs[5:, [2, 3]] = True
    tap.check("the co-activation gap of perfect pairs", abs(metrics.coactivation_gap(pairs, 1) - (1 - 2 / 6)) < 1e-6, metrics.coactivation_gap(pairs, 1))
    tap.check("the share that reaches a loss is found", abs(metrics.smallest_share(lambda s: 1 - s, 0.25) - 0.75) < 0.01)
    x = torch.randn(2000, 16, generator=g)
    recall, sparsity = metrics.train_predictor(x, x @ torch.randn(16, 24, generator=g) > 4.0, 24, 300)
    tap.check("a predictor learns linear gates", recall > 0.6 and sparsity > 0.7, (recall, sparsity))


def cuts():
    """Windows as the engine cuts them, points of its curves."""
    ids = list(range(10, 21))
    tap.check("windows of calor profile", held.profile_windows(ids, 4).tolist() == [[1, 10, 11, 12], [1, 13, 14, 15], [1, 16, 17, 18]], held.profile_windows(ids, 4))
    tap.check("windows of calor eval", held.eval_windows(ids, 4).tolist() == [[1, 10, 11, 12], [1, 14, 15, 16], [1, 18, 19, 20]], held.eval_windows(ids, 4))
    curve = [{"cett": c, "sparsity": s} for c, s in ((0.0, 0.5), (0.1, 0.6), (0.08, 0.65), (0.3, 0.8), (0.15, 0.9), (1.0, 1.0))]
    tap.check("a CETT's sparsity lies where the curve first crosses it", abs(engine.at_cett(curve, 0.2) - 0.7) < 1e-9 and engine.at_cett(curve, 2.0) == 1.0, engine.at_cett(curve, 0.2))
    torch.manual_seed(6)
    model = Llama(ModelConfig(vocab=300, d_model=32, n_layers=2, n_heads=2, n_kv_heads=1, d_ffn=64, context=16, activation="relu2", gated=False))
    with contextlib.redirect_stdout(io.StringIO()):
        equal = export.gated_equal(model, "x")
    with torch.no_grad():
        x = torch.randint(0, 300, (2, 16))
        (a, h), (b, g) = model(x), equal(x)
    tap.check("an ungated ReLU² model has a gated ReLU equal", equal.config.gated and torch.allclose(a, b, atol=1e-6) and all(torch.allclose(u, v, atol=1e-6) for u, v in zip(h, g)))
    part = model(x)[0][:, 8:15].log_softmax(-1).gather(2, x[:, 9:, None]).mean().item()
    tap.check("the second half of a window is scored", abs(metrics.scored_loss(model, x) + part) < 1e-5, (metrics.scored_loss(model, x), part))


def story(rng):
    words = ["cat", "dog", "sun", "ran", "sat", "the", "a", "big", "red", "Tim", "saw"]
    return " ".join(rng.choice(words) for _ in range(60)).capitalize() + "."


def weights(run):
    return torch.load(TMP / "runs" / run / "checkpoint.pt", weights_only=True)["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def runs():
    rng = np.random.default_rng(1)
    (TMP / "simple.txt").write_text("\n".join(story(rng) for _ in range(40)) + "\n")
    (TMP / "marked.txt").write_text("\n<|endoftext|>\n".join(story(rng) for _ in range(40)) + "\n")
    toy = TMP / "toy.toml"
    toy.write_text(TOY.format(dir=TMP))
    refused("training before the corpus is prepared is refused", command("train.py", toy, "--runs", TMP / "runs"), "data.py")
    refused("a missing corpus is refused", command("data.py", toy), "held.txt", "No such file")
    (TMP / "held.txt").write_text("\n<|endoftext|>\n".join(story(rng) for _ in range(8)) + "\n")
    out = command("data.py", toy)
    if not tap.check("the corpus is prepared", out.returncode == 0, out.stderr):
        return
    out = command("train.py", toy, "--runs", TMP / "runs", "--keep", 4)
    if not tap.check("a run reaches its end", out.returncode == 0 and "reached step 12" in out.stdout, out.stdout + out.stderr):
        return
    whole = weights("toy")
    os.rename(TMP / "runs" / "toy", TMP / "runs" / "whole")
    command("train.py", toy, "--runs", TMP / "runs", "--stop-at", 5)
    half = weights("toy")
    command("train.py", toy, "--runs", TMP / "runs")
    tap.check("an interrupted run resumes to the same weights", same(whole, weights("toy")) and not same(whole, half))
    tap.check("its log is that of the whole run", [x.split(",")[5] for x in (TMP / "runs" / "toy" / "train.csv").read_text().split()]
              [-1] == (TMP / "runs" / "whole" / "train.csv").read_text().split()[-1].split(",")[5])

    os.rename(TMP / "runs" / "whole" / "fork-4.pt", TMP / "runs" / "toy" / "fork-4.pt")
    for name in ("one", "two"):
        (TMP / f"{name}.toml").write_text(FORK.format(name=name))
    command("train.py", TMP / "one.toml", "--runs", TMP / "runs")
    command("train.py", TMP / "two.toml", "--runs", TMP / "runs", "--stop-at", 8)
    command("train.py", TMP / "two.toml", "--runs", TMP / "runs")
    tap.check("an interrupted fork resumes to the same weights", same(weights("one"), weights("two")) and not same(weights("one"), whole))
    rows = [x.split(",") for x in (TMP / "runs" / "one" / "train.csv").read_text().split()]
    tap.check("λ and the zeros are logged", float(rows[-1][4]) == 0.5 and 0.2 < float(rows[-1][7]) < 1, rows[-1])

    (TMP / "one.toml").write_text(FORK.format(name="one").replace("0.5, 0.5", "0.4, 0.5"))
    refused("a changed config does not go on silently", command("train.py", TMP / "one.toml", "--runs", TMP / "runs"), "--accept-config")
    (TMP / "one.toml").write_text(FORK.format(name="one"))
    file = TMP / "runs" / "two" / "checkpoint.pt"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    refused("a damaged checkpoint is refused", command("train.py", TMP / "two.toml", "--runs", TMP / "runs"), "damaged", "checkpoint.pt")
    compared(whole)
    exports()


def column(table, name):
    """A variant's cells in the comparison, by the name of the row."""
    rows = [[c.strip() for c in line.strip("|\n").split("|")] for line in table.splitlines()]
    at = rows[0].index(name) if name in rows[0] else -1
    return {row[0]: row[at] for row in rows[2:]} if at > 0 else {}


def compared(whole):
    """Both variants trained by one command, exported, then measured by the engine and by the recipe."""
    runs = TMP / "runs"
    (TMP / "three.toml").write_text(FORK.format(name="three"))
    (runs / "toy" / "checkpoint.pt").unlink()
    (runs / "toy" / "fork-4.pt").unlink()
    three, common = TMP / "three.toml", ("--runs", runs, "--calor", tap.CALOR, "--windows", 16, "--predictor-steps", 3)
    refused("a comparison without the engine says how to build it", command("compare.py", three, "--calor", TMP / "none"), str(TMP / "none"), "ninja")
    try:
        import gguf  # noqa: F401
    except ImportError as e:
        tap.skip("the comparison", f"Python module gguf is not installed ({e})")
        command("train.py", TMP / "toy.toml", "--runs", runs)
        return
    out = command("compare.py", three, TMP / "toy.toml", *common, "-o", TMP / "table.md")
    table = (TMP / "table.md").read_text() if out.returncode == 0 else ""
    if not tap.check("the comparison trains what it needs and makes its table", table and table in out.stdout and same(whole, weights("toy")), out.stdout + out.stderr):
        return
    toy, fork = column(table, "toy"), column(table, "three")
    again = json.loads(tap.run("eval", runs / "three" / "f32.gguf", "-f", runs / "three" / "eval.txt", "-c", 16, "--json").stdout)
    tap.check("the table's perplexity is the engine's", fork["perplexity"] == f"{again['perplexity']:.2f}" != toy["perplexity"], (fork, again))
    p = json.loads(tap.run("inspect", runs / "three" / "f32.profile", "--json").stdout)
    tap.check("the table's zeros are the engine's", p["tokens"] == 16 * 15 and fork["exact zeros %"] == f"{100 * p['sparsity']:.1f}" and toy["exact zeros %"] == "0.0", (fork, p["sparsity"]))
    tap.check("every row says who measured it", all(line.split("|")[2].strip() in ("eval", "profile", "predictor", "recipe") for line in table.splitlines()[4:]), table)
    own = ("predictor", runs / "three" / "f32.gguf", "-f", runs / "three" / "eval.txt", "-c", 16, "--samples", json.loads((runs / "three" / "metrics.json").read_text())["eval_tokens"])
    p = json.loads(tap.run(*own, "--json", "-o", TMP / "own.predictor").stdout)
    kind = "predictor, exact zeros: recall by magnitude %"
    tap.check("the table's predictor is the engine's, and models without zeros have none", fork[kind] == f"{100 * p['recall']:.1f}" and toy[kind] == "–"
              and fork["… predicted sparsity %"] != "" and (runs / "three" / "f32.predictor").exists(), (fork, toy, p))
    for name, change in (("loss", {"scored_loss": lambda *_: 1.0}), ("reuse1", {"reuse": lambda a, window, k: 0.1 * k})):
        kept = {k: getattr(metrics, k) for k in change}
        metrics.__dict__.update(change)
        refused(f"a {name} on which engine and recipe disagree is refused with both", command("compare.py", three, "--no-training", *common),
                name, "by the engine", "0.10000 by the recipe" if name == "reuse1" else "1.00000 by the recipe")
        metrics.__dict__.update(kept)
    refused("more windows than CETT is measured on are refused", command("compare.py", three, "--no-training", *common, "--windows", 274), "between 1 and 273")
    (runs / "three" / "fatrelu.json").write_text('{"threshold": 0.3, "step": 12}')
    out = command("compare.py", three, "--no-training", *common)
    shifted = column(out.stdout[out.stdout.rfind("| | measured") :], "three, t = 0.3")
    tap.check("the chosen threshold is exported and measured", shifted and float(shifted["exact zeros %"]) > float(fork["exact zeros %"]), out.stdout + out.stderr)
    (runs / "three" / "fatrelu.json").write_text('{"threshold": 0.3, "step": 8}')
    refused("a threshold chosen for other weights is refused", command("compare.py", three, "--no-training", *common), "fatrelu.json", "step 8")
    (runs / "three" / "fatrelu.json").unlink()
    (TMP / "four.toml").write_text('base = "toy.toml"\nname = "four"\n[model]\nactivation = "relu2"\ngated = false\n')
    command("train.py", TMP / "four.toml", "--runs", runs, "--stop-at", 1)
    out = command("compare.py", TMP / "four.toml", "--no-training", *common)
    tap.check("an ungated ReLU² model is measured as its gated equal, after its own number of steps", out.returncode == 0 and "| 1 of 12 |" in out.stdout, out.stdout + out.stderr)
    (runs / "three" / "checkpoint.pt").unlink()
    refused("a comparison without a trained variant is refused", command("compare.py", three, "--no-training", *common), "no variant is trained")


def exports():
    one = TMP / "one.toml"
    out = command("fatrelu.py", one, "--runs", TMP / "runs", "--windows", 4)
    report = TMP / "runs" / "one" / "fatrelu.json"
    tap.check("a threshold is chosen", out.returncode == 0 and json.loads(report.read_text())["threshold"] >= 0, out.stdout + out.stderr)
    refused("export without a target is refused", command("export.py", one, "--runs", TMP / "runs"), "--gguf")
    refused("a threshold on a SwiGLU model is refused", command("export.py", TMP / "toy.toml", "--runs", TMP / "runs", "--threshold", 0.1, "--hf", TMP / "x"), "ReLU")
    try:
        import gguf
    except ImportError as e:
        tap.skip("the GGUF file holds the model", f"Python module gguf is not installed ({e})")
        return
    for kind, limit in (("f32", 1e-7), ("q8_0", 1e-2)):
        path = TMP / f"{kind}.gguf"
        out = command("export.py", one, "--runs", TMP / "runs", "--threshold", 0.125, "--gguf", path, "--type", kind)
        if not tap.check(f"a {kind} GGUF is written", out.returncode == 0, out.stdout + out.stderr):
            continue
        reader = gguf.GGUFReader(str(path))
        field = reader.fields["llama.hidden_activation"]
        t = float(reader.fields["llama.hidden_activation_param"].parts[-1][0])
        tap.check(f"{kind}: the activation is recorded", bytes(field.parts[-1]) == b"fatrelu" and t == 0.125)
        tensors = {x.name: gguf.quants.dequantize(x.data, x.tensor_type) for x in reader.tensors}
        down, q = weights("one")["layers.1.mlp.down_proj.weight"].numpy(), weights("one")["layers.0.self_attn.q_proj.weight"].numpy()
        error = np.abs(tensors["blk.1.ffn_down.weight"] - down).max() / np.abs(down).max()
        pairs = tensors["blk.0.attn_q.weight"]
        turned = max(np.abs(pairs[0] - q[0]).max(), np.abs(pairs[1] - q[8]).max(), np.abs(pairs[2] - q[1]).max(), np.abs(pairs[16] - q[16]).max()) / np.abs(q).max()
        tap.check(f"{kind}: weights and rotary pairs are in place", error <= limit and turned <= limit and len(tensors) == 2 + 9 * 2, (error, turned))
    folder()


def folder():
    """The exported folder in transformers against the GGUF of the same weights in the engine."""
    try:
        import transformers
        from transformers.activations import ACT2FN
    except Exception as e:
        tap.skip("the exported folder in transformers", f"Python module transformers is not installed ({e})")
        return
    out = command("export.py", TMP / "one.toml", "--runs", TMP / "runs", "--threshold", 0.125, "--hf", TMP / "hf")
    if not tap.check("a folder is written", out.returncode == 0, out.stdout + out.stderr):
        return
    conf = json.loads((TMP / "hf" / "config.json").read_text())

    class FatRelu(torch.nn.Module):
        def forward(self, x):
            return torch.where(x >= conf["hidden_act_param"], x, torch.zeros_like(x))

    ACT2FN["fatrelu"] = FatRelu
    model = transformers.LlamaForCausalLM.from_pretrained(str(TMP / "hf"), attn_implementation="eager").eval()
    words, rows = TMP / "words.txt", TMP / "rows.npy"
    words.write_text(story(np.random.default_rng(7)))
    out = tap.run("eval", TMP / "f32.gguf", "-f", words, "-c", 16, "--kv", "f32", "--logits", rows, "--json")
    if not tap.check("the file of the same weights is evaluated", out.returncode == 0, out.stderr):
        return
    ids = [int(x) for x in tap.run("tokenize", TMP / "f32.gguf", "-f", words).stdout.split()]
    with torch.no_grad():
        expected = model(held.eval_windows(ids, 16)).logits.numpy()
    off = float(np.abs(np.load(rows).reshape(expected.shape) - expected).max())
    tap.check("the folder's logits in transformers are the engine's", off <= 1e-3, off)


schedules()
configs()
texts()
activations()
figures()
cuts()
runs()
tap.done()
