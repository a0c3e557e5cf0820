#!/usr/bin/env python3
"""Train one variant by its config, resuming from its checkpoint if there is one.

usage: train.py CONFIG.toml [--runs DIR] [--stop-at STEP] [--keep STEP] [--accept-config] [--threads N] [--compile]

In runs/NAME: checkpoint.pt (replaced atomically), train.csv and held.csv, fork-STEP.pt (kept copies).
A run forked from another starts from that run's fork-STEP.pt, exchanges the activation for its own, and counts
steps on. A run interrupted anywhere and started again ends in the same weights as one that was not.
"""
from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import config
from config import Recipe
from data import Corpus
from errors import RecipeError, run_main
from model import Llama
from muon import Muon
from schedule import learning_rate_share, sparsity_weight

CHECKPOINT_SECONDS = 150.0
LOG_EVERY = 10
HELD_EVERY = 200
HELD_WINDOWS = 32


def make_optimisers(model: Llama, r: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, Adam for embedding, head and norms. Group `peak` is the undecayed rate."""
    o = r.optim
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("layers.")]
    rest = [p for n, p in model.named_parameters() if p.ndim == 1 or n.startswith("lm_head")]
    muon = Muon(matrices, lr=o.muon_lr, weight_decay=o.weight_decay, dtype=getattr(torch, o.precision))
    adam = torch.optim.Adam([{"params": rest, "lr": o.adam_lr}, {"params": [model.embed_tokens.weight], "lr": o.embed_lr}], betas=(0.9, 0.97), eps=1e-10)
    for opt in (muon, adam):
        for group in opt.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def losses(model: Llama, batch: Tensor, precision: str = "float32") -> tuple[Tensor, Tensor, list[Tensor]]:
    """(cross-entropy in nats a token, L1 term, hidden activations) of windows [B, T+1]; `precision` is that of matrix products.

    The L1 term is the mean |h| of a neuron, summed over layers: ProSparse's Σ ‖h‖₁ per token divided by f, so that
    one λ means the same at any FFN width.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logits, hidden = model(batch[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
    penalty = torch.stack([h.float().abs().mean() for h in hidden]).sum()
    return loss, penalty, hidden


@torch.no_grad()
def zero_shares(hidden: list[Tensor]) -> list[float]:
    """Share of exact zeros per layer."""
    return [1.0 - torch.count_nonzero(h).item() / h.numel() for h in hidden]


@torch.no_grad()
def evaluate(model: Llama, windows: Tensor) -> tuple[float, list[float]]:
    """(mean loss in nats a token, share of exact zeros per layer) over windows [N, T+1], eight at a time."""
    total, zeros, n = 0.0, [0.0] * model.config.n_layers, 0
    for part in windows.split(8):
        loss, _, hidden = losses(model, part)
        total += loss.item() * len(part)
        zeros = [z + s * len(part) for z, s in zip(zeros, zero_shares(hidden))]
        n += len(part)
    return total / n, [z / n for z in zeros]


def map_leaves(x: Any, rule: Callable[[Any], Any]) -> Any:
    """x with rule applied to everything in it that is not a dictionary, a list or a tuple."""
    if isinstance(x, dict):
        return {k: map_leaves(v, rule) for k, v in x.items()}
    return type(x)(map_leaves(v, rule) for v in x) if isinstance(x, (list, tuple)) else rule(x)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside its place, then rename: an interruption leaves the old one whole.

    Floats are stored as float64 scalars, since PyTorch 1.13 cannot read plain ones with weights_only.
    """
    state = map_leaves(state, lambda v: torch.tensor(v, dtype=torch.float64) if isinstance(v, float) else v)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as f:
        torch.save(state, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(temporary, path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's dictionary, or a RecipeError that says what is wrong with the file."""
    try:
        state = map_leaves(torch.load(path, map_location="cpu", weights_only=True),
                           lambda v: v.item() if isinstance(v, Tensor) and v.dtype == torch.float64 and v.ndim == 0 else v)
    except FileNotFoundError as e:
        raise RecipeError(f"no checkpoint {path}: train that run first.") from e
    except Exception as e:  # torch raises several kinds for damaged files
        raise RecipeError(f"the checkpoint {path} is damaged ({type(e).__name__}): remove it to begin anew, or restore a copy.") from e
    missing = {"step", "digest", "model", "optimisers", "model_config"} - set(state)
    if missing:
        raise RecipeError(f"the checkpoint {path} lacks {', '.join(sorted(missing))}: it was not written by this recipe.")
    return state


def load_weights(model: Llama, state: dict[str, Any], path: Path) -> None:
    """Fill the model, complaining about shapes in one sentence."""
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as e:
        raise RecipeError(f"the checkpoint {path} does not fit the config's [model]: {str(e).splitlines()[-1].strip()}") from e


class Log:
    """A CSV file that resumes: rows at or beyond the resumed step are dropped."""

    def __init__(self, path: Path, header: list[str], step: int):
        rows = []
        if path.exists() and step > 0:
            with open(path, newline="") as f:
                rows = [row for row in list(csv.reader(f))[1:] if row and int(row[0]) <= step]
        self.file = open(path, "w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerow(header)
        self.writer.writerows(rows)
        self.file.flush()

    def add(self, row: list[Any]) -> None:
        """Append one row, numbers to six significant digits."""
        self.writer.writerow([f"{x:.6g}" if isinstance(x, float) else x for x in row])
        self.file.flush()


def train(r: Recipe, runs: Path | None, stop_at: int, keep: int, accept: bool, compiled: bool) -> bool:
    """Train until optim.steps or stop_at; the state at step `keep` is copied to fork-STEP.pt for others to start from.

    Returns False when a signal asked it to stop earlier.
    """
    folder = config.run_folder(r.name, runs)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = Corpus(r)
    torch.manual_seed(r.optim.seed)
    model = Llama(r.model)
    optimisers = make_optimisers(model, r)
    step, seconds = 0, 0.0
    path = folder / "checkpoint.pt"
    source = path if path.exists() else None
    if source is None and r.fork_from:
        source = config.run_folder(r.fork_from, runs) / f"fork-{r.fork_step}.pt"
    if source is not None:
        state = read_checkpoint(source)
        if source == path and state["digest"] != r.digest() and not accept:
            raise RecipeError(f"{path} belongs to another config (digest {state['digest']}, now {r.digest()}): use another name, or --accept-config to go on with the changed one.")
        load_weights(model, state, source)
        for opt, s in zip(optimisers, state["optimisers"]):
            peaks = [(g["peak"], g.get("weight_decay")) for g in opt.param_groups]
            opt.load_state_dict(s)
            for group, (peak, decay) in zip(opt.param_groups, peaks):
                group["peak"], group["weight_decay"] = peak, decay
        step, seconds = state["step"], state.get("seconds", 0.0)
    held = {name: torch.from_numpy(corpus.held(name, HELD_WINDOWS)) for name in ("heldin", "heldout")}
    layers = [f"zero_{i}" for i in range(r.model.n_layers)]
    log = Log(folder / "train.csv", ["step", "tokens", "seconds", "lr_share", "lambda", "loss", "l1", "zero", *layers], step)
    held_log = Log(folder / "held.csv", ["step", "loss_heldin", "loss_heldout", "zero_heldin", "zero_heldout", *layers], step)
    print(f"{r.name}: {model.count()} parameters, step {step} of {r.optim.steps}, activation {model.config.activation}", flush=True)

    def checkpoint() -> dict[str, Any]:
        return {"step": step, "digest": r.digest(), "seconds": seconds, "model": model.state_dict(), "model_config": dict(model.config.__dict__),
                "optimisers": [o.state_dict() for o in optimisers], "name": r.name}

    def on_term(_signum: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    asked = False
    handlers = {s: signal.signal(s, on_term) for s in (signal.SIGTERM, signal.SIGINT)}
    training_losses = torch.compile(losses) if compiled else losses
    tokens_a_step = r.optim.batch * r.model.context
    last_save = time.monotonic()
    end = min(r.optim.steps, stop_at) if stop_at else r.optim.steps
    while step < end and not asked:
        t0 = time.monotonic()
        share = learning_rate_share(step, r.optim.steps, r.optim.warmup, r.optim.decay_from, r.optim.final_lr_share)
        weight = sparsity_weight(step + 1 - r.fork_step, r.sparsity.ends, r.sparsity.lambdas)
        for opt in optimisers:
            for group in opt.param_groups:
                group["lr"] = group["peak"] * share
        loss, penalty, hidden = training_losses(model, torch.from_numpy(corpus.batch(step)), r.optim.precision)
        (loss + weight * penalty if weight > 0 else loss).backward()
        if not torch.isfinite(loss):
            raise RecipeError(f"{r.name}: the loss is {loss.item()} at step {step}: lower the learning rates; the last checkpoint is untouched.")
        torch.nn.utils.clip_grad_norm_(model.parameters(), r.optim.clip)
        for opt in optimisers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        seconds += time.monotonic() - t0
        if step % LOG_EVERY == 0 or step == end:
            zeros = zero_shares(hidden)
            log.add([step, step * tokens_a_step, seconds, share, weight, loss.item(), penalty.item(), sum(zeros) / len(zeros), *zeros])
        if step % HELD_EVERY == 0 or step == r.optim.steps:
            inside, zin = evaluate(model, held["heldin"])
            outside, zout = evaluate(model, held["heldout"])
            held_log.add([step, inside, outside, sum(zin) / len(zin), sum(zout) / len(zout), *zin])
            print(f"{r.name} step {step}/{r.optim.steps}: held-in loss {inside:.4f}, held-out {outside:.4f}, zeros {sum(zin) / len(zin):.3f}, λ {weight:.4g}, {seconds:.0f} s", flush=True)
        if step == keep:
            save(folder / f"fork-{step}.pt", checkpoint())
        if time.monotonic() - last_save > CHECKPOINT_SECONDS:
            save(path, checkpoint())
            last_save = time.monotonic()
    save(path, checkpoint())
    for number, handler in handlers.items():
        signal.signal(number, handler)
    print(f"{r.name}: {'stopped' if asked else 'reached'} step {step}", flush=True)
    return not asked


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", type=Path)
    p.add_argument("--runs", type=Path, help="folder of the runs (models/runs)")
    p.add_argument("--stop-at", type=int, default=0, metavar="STEP", help="stop after that step")
    p.add_argument("--keep", type=int, default=0, metavar="STEP", help="copy the state after that step to fork-STEP.pt")
    p.add_argument("--accept-config", action="store_true", help="resume although the config changed")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--compile", action="store_true", help="compile the forward and backward pass (a fifth faster; needs a C++ compiler)")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    train(config.load(a.config), a.runs, a.stop_at, a.keep, a.accept_config, a.compile)


if __name__ == "__main__":
    sys.path.insert(0, str(config.HERE))
    run_main(main)
