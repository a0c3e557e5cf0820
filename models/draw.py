#!/usr/bin/env python3
"""Draw a variant's logs: loss, zeros per layer and λ over the steps, as RUN/training.png.

usage: draw.py CONFIG.toml [CONFIG.toml ...] [--runs DIR]       several configs share one drawing in the first's folder
"""
from __future__ import annotations

import argparse
import csv
from pathlib import Path

import config
from errors import RecipeError, run_main


def read_log(path: Path) -> dict[str, list[float]]:
    """Columns of a CSV log."""
    try:
        with open(path, newline="") as f:
            rows = list(csv.DictReader(f))
    except OSError as e:
        raise RecipeError(f"no log {path}: train that variant first.") from e
    if not rows:
        raise RecipeError(f"the log {path} has no rows yet.")
    return {k: [float(row[k]) for row in rows] for k in rows[0]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("configs", type=Path, nargs="+")
    p.add_argument("--runs", type=Path)
    p.add_argument("-o", type=Path, help="write there instead")
    a = p.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    recipes = [config.load(c) for c in a.configs]
    fig, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 9), sharex=True, constrained_layout=True)
    for r in recipes:
        folder = config.run_folder(r.name, a.runs)
        log, held = read_log(folder / "train.csv"), read_log(folder / "held.csv")
        line = top.plot(log["step"], log["loss"], lw=0.6, alpha=0.4)[0]
        top.plot(held["step"], held["loss_heldin"], "o-", ms=2.5, color=line.get_color(), label=f"{r.name}, held-out simple stories")
        top.plot(held["step"], held["loss_heldout"], "x--", ms=3, color=line.get_color(), label=f"{r.name}, held-out books")
        if r.model.activation != "silu":
            for i in range(r.model.n_layers):
                middle.plot(log["step"], [100 * z for z in log[f"zero_{i}"]], lw=0.9, label=f"layer {i}")
            bottom.plot(log["step"], log["lambda"], label="λ")
    top.set(ylabel="loss (nats a token)", ylim=(1.5, 6))
    middle.set(ylabel="exact zeros in h (%)", ylim=(0, 100))
    bottom.set(ylabel="λ", xlabel="step")
    for axis in (top, middle, bottom):
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, ncol=2)
    out = a.o or config.run_folder(recipes[0].name, a.runs) / "training.png"
    fig.savefig(out, dpi=110)
    print(out)


if __name__ == "__main__":
    run_main(main)
