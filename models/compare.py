#!/usr/bin/env python3
"""Train the small variants, measure them, and print the comparison as one Markdown table.

usage: compare.py [CONFIG.toml ...] [--no-training] [--windows 16] [--predictor-steps 300] [--threads N] [--compile]
                  [--runs DIR] [-o FILE]

Without arguments: config/small-*.toml. A variant that another forks from is trained first. Everything resumes: run it
again after an interruption. Under --no-training a variant without a checkpoint is left out of the table, and said so; one
whose run stopped before its end is measured as it is, and its steps are given as "N of M".
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import config
import data
from config import Recipe
from data import Corpus
from errors import RecipeError, run_main
from load import open_model
from metrics import measure
from train import train

COLUMNS = ("variant", "parameters", "steps", "loss", "exact zeros %", "sparsity at CETT 0.2 %", "at PPL-1 %", "predictor recall / sparsity %", "reuse_1", "reuse_4", "gap",
           "loss at 10 % kept: magnitude, gradient", "% kept at loss + 1 %: magnitude, gradient")


def ordered(recipes: list[Recipe]) -> list[Recipe]:
    """Variants with those first from which others fork."""
    return sorted(recipes, key=lambda r: bool(r.fork_from))


def row(r: Recipe, parameters: int, m: dict[str, Any]) -> str:
    """One Markdown row of a variant's figures."""
    mean = lambda key: sum(m[key]) / len(m[key])  # noqa: E731
    ten = m["attribution"]["share"].index(0.1)
    cells = [
        r.name, f"{parameters / 1e6:.2f} M", str(m["step"]) if m["step"] == r.optim.steps else f"{m['step']} of {r.optim.steps}", f"{m['loss']:.3f}", f"{100 * m['zeros_mean']:.1f} ({', '.join(f'{100 * z:.0f}' for z in m['zeros'])})",
        f"{100 * m['cett02_mean']:.1f}", f"{100 * m['ppl1']:.1f}", f"{100 * mean('predictor_recall'):.1f} / {100 * mean('predictor_sparsity'):.1f}" if "predictor_recall" in m else "–",
        f"{mean('reuse1'):.2f}", f"{mean('reuse4'):.2f}", f"{mean('gap'):.2f}",
        f"{m['attribution']['magnitude'][ten]:.3f}, {m['attribution']['gradient'][ten]:.3f}",
        f"{100 * m['attribution']['magnitude_equal'][0]:.1f}, {100 * m['attribution']['gradient_equal'][0]:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("configs", type=Path, nargs="*")
    p.add_argument("--no-training", action="store_true")
    p.add_argument("--windows", type=int, default=16)
    p.add_argument("--predictor-steps", type=int, default=300)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="as in train.py")
    p.add_argument("--runs", type=Path)
    p.add_argument("-o", type=Path)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    recipes = ordered([config.load(c) for c in a.configs or sorted((config.HERE / "config").glob("small-*.toml"))])
    keep = {r.fork_from: r.fork_step for r in recipes if r.fork_from}
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for r in recipes:
        if not (data.data_folder(r) / "index.json").exists():
            data.prepare(r)
        if not a.no_training and not train(r, a.runs, 0, keep.get(r.name, 0), False, a.compile):
            raise RecipeError("stopped: run the same command again to go on.")
    for r in recipes:
        path = config.run_folder(r.name, a.runs) / "checkpoint.pt"
        if not path.exists():
            print(f"{r.name}: not trained, left out")
            continue
        model, state = open_model(r, a.runs, None)
        m = measure(model, torch.from_numpy(Corpus(r).held("heldin", a.windows)), a.predictor_steps) | {"step": state["step"]}
        (path.parent / "metrics.json").write_text(json.dumps(m, indent=1) + "\n")
        lines.append(row(r, model.count(), m))
        print(lines[-1], flush=True)
    if len(lines) == 2:
        raise RecipeError("no variant is trained: run without --no-training.")
    table = "\n".join(lines) + "\n"
    print(table)
    if a.o:
        a.o.write_text(table)


if __name__ == "__main__":
    run_main(main)
