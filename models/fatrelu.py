#!/usr/bin/env python3
"""ProSparse step 3: choose FATReLU's threshold t for a trained ReLU variant.

usage: fatrelu.py CONFIG.toml [--runs DIR] [--tolerance 0.0005] [--windows 64]

The largest t whose loss stays within (1 + tolerance) of t = 0 is found by bisection on windows of the training
text that no step has seen; the figures printed beside it are measured on held-out text. Writes RUN/fatrelu.json.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Callable

import numpy as np
import torch

import config
from data import Corpus
from errors import RecipeError, run_main
from load import open_model
from train import evaluate

UNSEEN = 1 << 40  # step numbers from here on belong to no training run


def search(losses_at: dict[float, float], measure: Callable[[float], float], tolerance: float, top: float = 1.0, rounds: int = 10) -> float:
    """Largest t in [0, top] with measure(t) <= (1 + tolerance) measure(0), by bisection; losses_at collects what was tried."""
    losses_at[0.0] = measure(0.0)
    limit = losses_at[0.0] * (1 + tolerance)
    low, high = 0.0, top
    for _ in range(rounds):
        mid = 0.5 * (low + high)
        losses_at[mid] = measure(mid)
        low, high = (mid, high) if losses_at[mid] <= limit else (low, mid)
    return low


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", type=Path)
    p.add_argument("--runs", type=Path)
    p.add_argument("--tolerance", type=float, default=0.0005, help="allowed relative rise of the loss")
    p.add_argument("--windows", type=int, default=64)
    a = p.parse_args()
    if a.tolerance < 0 or a.windows < 1:
        raise RecipeError("--tolerance must not be negative and --windows must be at least 1.")
    torch.set_num_threads(1)
    r = config.load(a.config)
    model, state = open_model(r, a.runs, 0.0)
    corpus = Corpus(r)
    steps = -(-a.windows // r.optim.batch)
    choose = torch.from_numpy(np.concatenate([corpus.batch(UNSEEN + i) for i in range(steps)])[: a.windows])

    def measure(t: float) -> float:
        model.set_activation("fatrelu", t)
        loss, zeros = evaluate(model, choose)
        print(f"t {t:.5f}: loss {loss:.4f}, zeros {100 * sum(zeros) / len(zeros):.2f} %", flush=True)
        return loss

    tried: dict[float, float] = {}
    best = search(tried, measure, a.tolerance)
    best = float(f"{best:.2g}") if best > 0 else 0.0
    report: dict[str, object] = {"threshold": best, "tolerance": a.tolerance, "step": state["step"]}
    for name in ("heldin", "heldout"):
        windows = torch.from_numpy(corpus.held(name, 64))
        for t in (0.0, best):
            model.set_activation("fatrelu", t)
            loss, zeros = evaluate(model, windows)
            report[f"{name} t={t:g}"] = {"loss": loss, "zeros": zeros, "zeros_mean": sum(zeros) / len(zeros)}
            print(f"{name} t {t:g}: loss {loss:.4f}, zeros {100 * sum(zeros) / len(zeros):.2f} %, per layer {' '.join(f'{100 * z:.1f}' for z in zeros)}")
    out = config.run_folder(r.name, a.runs) / "fatrelu.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"chosen t = {best:g}, written to {out}")


if __name__ == "__main__":
    run_main(main)
