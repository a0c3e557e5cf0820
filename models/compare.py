#!/usr/bin/env python3
"""Train the small variants, measure them with the engine and the recipe, and print the comparison as one Markdown table.

usage: compare.py [CONFIG.toml ...] [--no-training] [--calor FILE] [--windows 16] [--predictor-steps 300] [--threads N]
                  [--compile] [--runs DIR] [-o FILE]

Without arguments: config/small-*.toml; columns are in the order of the arguments. A variant that another forks from is
trained first. Everything resumes: run it again after an interruption. Under --no-training a variant without a checkpoint is
left out of the table, and said so; one whose run stopped before its end is measured as it is, and its steps are given as
"N of M".

Each variant is written as a GGUF (F32; with the threshold in the run's fatrelu.json, where fatrelu.py chose one) and measured
by `calor eval` on all held-out stories and by `calor profile` (--cett 0.2, --ppl 1) on --windows windows of them. The
recipe's own figures of the same tokens are computed too: if the two disagree, that is an error (engine.py has the
tolerances). What the engine does not measure is the recipe's alone; the table says which is which. All figures are left in
RUN/metrics.json.
"""
from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, Callable

import torch

import config
import data
import engine
import held
import metrics
from config import Recipe
from errors import RecipeError, run_main
from export import write_gguf
from load import open_model, open_tokenizer
from train import train

EVAL, PROFILE, PREDICTOR, RECIPE = "eval", "profile", "predictor", "recipe"


def mean(x: list[float]) -> float:
    return sum(x) / len(x)


def at_ten(m: dict[str, Any], kind: str) -> float:
    """Loss with a tenth of the neurons kept."""
    return m["attribution"][kind][m["attribution"]["share"].index(0.1)]


def of_predictor(m: dict[str, Any], cell: Callable[[dict[str, Any]], str]) -> str:
    """Models without zeros have nothing that a predictor of the engine could leave out."""
    return cell(m["predictor"]) if "predictor" in m else "–"


# Rows of the table: what, measured by, and the cell of a variant's figures.
ROWS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("parameters", "", lambda m: f"{m['parameters'] / 1e6:.2f} M"),
    ("steps", "", lambda m: str(m["step"]) if m["step"] == m["steps"] else f"{m['step']} of {m['steps']}"),
    ("loss", EVAL, lambda m: f"{m['loss']:.3f}"),
    ("perplexity", EVAL, lambda m: f"{math.exp(m['loss']):.2f}"),
    ("exact zeros %", PROFILE, lambda m: f"{100 * mean(m['zeros']):.1f}"),
    ("… per layer", PROFILE, lambda m: ", ".join(f"{100 * z:.0f}" for z in m["zeros"]) if any(m["zeros"]) else "–"),
    ("sparsity at CETT 0.2 %", PROFILE, lambda m: f"{100 * mean(m['cett02']):.1f}"),
    ("sparsity at PPL-1 %", PROFILE, lambda m: f"{100 * m['ppl1']:.1f}"),
    ("`reuse_1`", PROFILE, lambda m: f"{mean(m['reuse1']):.2f}"),
    ("`reuse_4`", PROFILE, lambda m: f"{mean(m['reuse4']):.2f}"),
    ("co-activation gap", PROFILE, lambda m: f"{mean(m['gap']):.2f}"),
    ("predictor, exact zeros: recall by magnitude %", PREDICTOR, lambda m: of_predictor(m, lambda p: f"{100 * p['recall']:.1f}")),
    ("… plain recall %", PREDICTOR, lambda m: of_predictor(m, lambda p: f"{100 * p['recall_plain']:.1f}")),
    ("… predicted sparsity %", PREDICTOR, lambda m: of_predictor(m, lambda p: f"{100 * (1 - p['candidates']):.1f}")),
    ("… zeros there %", PREDICTOR, lambda m: of_predictor(m, lambda p: f"{100 * (1 - p['active']):.1f}")),
    ("predictor cut at a half: recall %", RECIPE, lambda m: f"{100 * mean(m['predictor_recall']):.1f}" if "predictor_recall" in m else "–"),
    ("… its predicted sparsity %", RECIPE, lambda m: f"{100 * mean(m['predictor_sparsity']):.1f}" if "predictor_recall" in m else "–"),
    ("loss at 10 % kept: magnitude", RECIPE, lambda m: f"{at_ten(m, 'magnitude'):.3f}"),
    ("loss at 10 % kept: gradient", RECIPE, lambda m: f"{at_ten(m, 'gradient'):.3f}"),
    ("% kept at loss + 1 %: magnitude", RECIPE, lambda m: f"{100 * m['attribution']['magnitude_equal'][0]:.1f}"),
    ("% kept at loss + 1 %: gradient", RECIPE, lambda m: f"{100 * m['attribution']['gradient_equal'][0]:.1f}"),
)


def table(columns: list[tuple[str, dict[str, Any]]]) -> str:
    """Markdown with a column for each (title, figures)."""
    lines = ["| | measured by | " + " | ".join(title for title, _ in columns) + " |", "|" + "---|" * (2 + len(columns))]
    lines += [f"| {what} | {by} | " + " | ".join(cell(m) for _, m in columns) + " |" for what, by, cell in ROWS]
    return "\n".join(lines) + "\n"


def ordered(recipes: list[Recipe]) -> list[Recipe]:
    """Variants with those first from which others fork."""
    return sorted(recipes, key=lambda r: bool(r.fork_from))


def chosen_threshold(folder: Path, step: int) -> float | None:
    """What fatrelu.py chose for this run, or nothing; a choice for other weights is refused."""
    path = folder / "fatrelu.json"
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text())
        t, at = float(report["threshold"]), report["step"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RecipeError(f"{path} is not what fatrelu.py writes ({e}): run it again.") from e
    if at != step:
        raise RecipeError(f"{path} was made at step {at}, the checkpoint is at step {step}: run fatrelu.py again.")
    return t


def measure(r: Recipe, calor: Path, runs: Path | None, windows: int, predictor_steps: int) -> tuple[str, dict[str, Any]]:
    """(title, figures) of a trained variant: the engine's where it has them, checked against the recipe's."""
    folder = config.run_folder(r.name, runs)
    step = open_model(r, runs, None)[1]["step"]
    t = chosen_threshold(folder, step)
    model, state = open_model(r, runs, t)
    tokenizer, whole, context = open_tokenizer(r), held.held_text(r, "heldin"), r.model.context
    texts = {"eval": whole, "profile": held.cut(tokenizer, whole, windows * (context - 1))}
    gguf = folder / "f32.gguf"
    write_gguf(gguf, model, r, state, "f32", {})
    ids = {}
    for name, body in texts.items():
        file = folder / f"{name}.txt"
        file.write_text(body)
        ids[name] = tokenizer.encode(body)
        if engine.tokenize(calor, gguf, file) != ids[name]:
            raise RecipeError(f"{r.name}: {calor} and SentencePiece cut {file} into different tokens: one of them is wrong.")
    theirs = engine.measure(calor, gguf, folder / "eval.txt", folder / "profile.txt", context, len(ids["profile"]))
    if any(theirs["zeros"]):
        theirs["predictor"] = engine.predictor(calor, gguf, folder / "eval.txt", context, len(ids["eval"]))
    mine = {"loss": metrics.scored_loss(model, held.eval_windows(ids["eval"], context))}
    mine |= metrics.measure(model, held.profile_windows(ids["profile"], context), predictor_steps)
    worst = engine.check(r.name, mine, theirs)
    print(f"{r.name}: engine and recipe differ by " + ", ".join(f"{k} {v:.1g}" for k, v in worst.items()), flush=True)
    m = mine | theirs | {"step": step, "steps": r.optim.steps, "parameters": model.count(), "threshold": t, "eval_tokens": len(ids["eval"]), "recipe": mine}
    (folder / "metrics.json").write_text(json.dumps(m, indent=1) + "\n")
    return r.name + (f", t = {t:g}" if t else ""), m


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("configs", type=Path, nargs="*")
    p.add_argument("--no-training", action="store_true")
    p.add_argument("--calor", type=Path, metavar="FILE", help="the engine's binary (build/calor of the checkout, else on the PATH)")
    p.add_argument("--windows", type=int, default=16)
    p.add_argument("--predictor-steps", type=int, default=300)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="as in train.py")
    p.add_argument("--runs", type=Path)
    p.add_argument("-o", type=Path)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    recipes = [config.load(c) for c in a.configs or sorted((config.HERE / "config").glob("small-*.toml"))]
    most = min(engine.SAMPLES_MOST // (r.model.context - 1) for r in recipes)
    if not 1 <= a.windows <= most or a.predictor_steps < 0:
        raise RecipeError(f"--windows must lie between 1 and {most} (CETT is measured on all their tokens) and --predictor-steps must not be negative.")
    calor = engine.find_calor(a.calor)
    keep = {r.fork_from: r.fork_step for r in recipes if r.fork_from}
    for r in [] if a.no_training else ordered(recipes):
        if not (data.data_folder(r) / "index.json").exists():
            data.prepare(r)
        if not train(r, a.runs, 0, keep.get(r.name, 0), False, a.compile):
            raise RecipeError("stopped: run the same command again to go on.")
    columns = []
    for r in recipes:
        if (config.run_folder(r.name, a.runs) / "checkpoint.pt").exists():
            columns.append(measure(r, calor, a.runs, a.windows, a.predictor_steps))
        else:
            print(f"{r.name}: not trained, left out")
    if not columns:
        raise RecipeError("no variant is trained: run without --no-training.")
    print(table(columns), end="")
    if a.o:
        a.o.write_text(table(columns))


if __name__ == "__main__":
    run_main(main)
