#!/usr/bin/env python3
"""What the two papers measure on a trained model; small, plain versions that serve as oracles for the engine's.

usage: metrics.py CONFIG.toml [--threshold T] [--text heldin|heldout] [--windows 16] [--predictor-steps 300] [--json FILE] [--runs DIR]

Notation: h [N, f] a layer's hidden activations over N tokens, W_d [d, f] its down projection. A neuron's output is
O_i = h_i W_d[:, i]; its magnitude |h_i| ||W_d[:, i]||. Definitions: ReLU2 Wins (arXiv 2402.03804), Sparsing Law
(2411.02335); corrected gradient x output: 2406.06562.
"""
from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import config
import held
from errors import RecipeError, run_main
from load import open_model, open_tokenizer
from model import Llama
from train import losses, zero_shares


class Masking:
    """Context in which each layer's h passes through rule(layer, h) before its down projection."""

    def __init__(self, model: Llama, rule: Callable[[int, Tensor], Tensor]):
        self.model, self.rule, self.handles = model, rule, []

    def __enter__(self) -> None:
        for i, layer in enumerate(self.model.layers):
            self.handles.append(layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args, i=i: (self.rule(i, args[0]),)))

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


def column_norms(model: Llama) -> list[Tensor]:
    """||W_d[:, i]|| per layer, each [f]."""
    return [layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in model.layers]


@torch.no_grad()
def cett(h: Tensor, down: Tensor, norms: Tensor, epsilon: float, whole: Tensor | None = None) -> float:
    """Mean over tokens of ||sum of the outputs of neurons below epsilon|| / ||FFN output|| (`whole`, if known)."""
    tail = torch.where(h.abs() * norms < epsilon, h, torch.zeros_like(h))
    whole = (h @ down.T).norm(dim=1) if whole is None else whole
    return ((tail @ down.T).norm(dim=1) / whole.clamp(min=1e-12)).mean().item()


@torch.no_grad()
def epsilon_for(h: Tensor, down: Tensor, norms: Tensor, target: float, rounds: int = 16) -> float:
    """The magnitude threshold at which CETT is `target`, by bisection."""
    low, high = 0.0, float((h.abs() * norms).max())
    whole = (h @ down.T).norm(dim=1)
    for _ in range(rounds):
        mid = 0.5 * (low + high)
        low, high = (mid, high) if cett(h, down, norms, mid, whole) <= target else (low, mid)
    return low


def threshold_rule(norms: list[Tensor], epsilons: list[float]) -> Callable[[int, Tensor], Tensor]:
    """Masking rule: drop neurons whose output magnitude is below the layer's epsilon."""
    return lambda i, h: torch.where(h.abs() * norms[i] < epsilons[i], torch.zeros_like(h), h)


@torch.no_grad()
def scored_loss(model: Llama, windows: Tensor) -> float:
    """Mean loss in nats over the second half of each window [N, C], as `calor eval` counts it."""
    first, total = windows.shape[1] // 2, 0.0
    for part in windows.split(8):
        logits = model(part)[0][:, first:-1]
        total += F.cross_entropy(logits.flatten(0, 1), part[:, first + 1 :].flatten(), reduction="sum").item()
    return total / (len(windows) * (windows.shape[1] - 1 - first))


@torch.no_grad()
def sparsity_at_perplexity(model: Llama, windows: Tensor, hidden: list[Tensor], percent: float, rounds: int = 10) -> tuple[float, float]:
    """(sparsity, CETT) at which one common CETT, its epsilons taken from `hidden`, raises perplexity by `percent` (PPL-p %).

    By bisection on CETT; perplexity is that of scored_loss, sparsity the share of neurons that the truncated model leaves out.
    """
    norms = column_norms(model)
    downs = [layer.mlp.down_proj.weight for layer in model.layers]
    left_out: list[float] = []

    def loss_with(rule: Callable[[int, Tensor], Tensor]) -> float:
        def counting(i: int, h: Tensor) -> Tensor:
            h = rule(i, h)
            left_out.append((h == 0).float().sum().item() / (windows.numel() * h.shape[-1] * len(norms)))
            return h

        left_out.clear()
        with Masking(model, counting):
            return scored_loss(model, windows)

    limit = loss_with(lambda _i, h: h) + math.log1p(percent / 100)
    low, high, best = 0.0, 1.0, sum(left_out)
    for _ in range(rounds):
        mid = 0.5 * (low + high)
        if loss_with(threshold_rule(norms, [epsilon_for(h, w, n, mid) for h, w, n in zip(hidden, downs, norms)])) <= limit:
            low, best = mid, sum(left_out)
        else:
            high = mid
    return best, low


@torch.no_grad()
def reuse(active: Tensor, window: int, k: int) -> float:
    """Mean share of a token's active neurons that were active in one of the k tokens before; active [N, f], windows in a row."""
    a = active.view(-1, window, active.shape[1])
    seen = torch.zeros_like(a)
    for j in range(1, k + 1):
        seen[:, j:] |= a[:, :-j]
    a, seen = a[:, k:], seen[:, k:]
    count = a.sum(-1)
    return ((a & seen).sum(-1)[count > 0] / count[count > 0]).float().mean().item()


@torch.no_grad()
def coactivation_gap(active: Tensor, m: int = 10) -> float:
    """Mean over neurons i (active somewhere) of mean_{top-m j} P(j|i) - mean_j P(j)."""
    a = active.float()
    n = a.sum(0)
    alive = n > 0
    together = (a.T @ a) / n.clamp(min=1)[:, None]
    together.fill_diagonal_(0)
    return (together.topk(m, dim=1).values.mean(1) - a.mean())[alive].mean().item()


def train_predictor(x: Tensor, active: Tensor, hidden: int, steps: int, seed: int = 1) -> tuple[float, float]:
    """(recall, predicted sparsity) of d -> hidden -> ReLU -> f without biases, weighted BCE, cut at 0.5, on the last 5 % of x [N, d]."""
    torch.manual_seed(seed)
    n = len(x) * 95 // 100
    net = nn.Sequential(nn.Linear(x.shape[1], hidden, bias=False), nn.ReLU(), nn.Linear(hidden, active.shape[1], bias=False))
    opt = torch.optim.Adam(net.parameters(), lr=2e-3)
    share = active[:n].float().mean().item()
    weight = torch.tensor(min(8.0, (1 - share) / max(share, 1e-3)) ** 0.5)
    for _ in range(steps):
        rows = torch.randint(n, (256,))
        loss = F.binary_cross_entropy_with_logits(net(x[rows]), active[rows].float(), pos_weight=weight)
        opt.zero_grad()
        loss.backward()
        opt.step()
    with torch.no_grad():
        predicted, true = net(x[n:]) > 0, active[n:]
        return (predicted & true).sum().item() / max(1, true.sum().item()), 1 - predicted.float().mean().item()


def keep_top(score: Tensor, h: Tensor, share: float) -> Tensor:
    """h with all but the `share` of neurons that score highest set to zero, per token."""
    k = max(1, round(share * h.shape[-1]))
    kept = torch.zeros_like(h).scatter_(-1, score.topk(k, dim=-1).indices, 1.0)
    return h * kept


def smallest_share(loss_at: Callable[[float], float], limit: float, rounds: int = 8) -> float:
    """The share of neurons to keep at which loss_at(share) comes down to `limit`, by bisection (1 if it never does)."""
    low, high = 0.0, 1.0
    for _ in range(rounds):
        mid = 0.5 * (low + high)
        low, high = (low, mid) if loss_at(mid) <= limit else (mid, high)
    return high


def attribution(model: Llama, windows: Tensor, shares: list[float]) -> dict[str, list[float]]:
    """Loss when only a share of neurons is kept per token, by magnitude and by -G.O + 1/2 |O| ||G||; and, as KIND_equal, the
    share that each needs for the same loss, 1 % above that of all neurons.

    G is the gradient of the loss by the FFN's output (equal for all O_i), from one backward pass of the whole model.
    """
    norms = column_norms(model)
    grads: list[Tensor] = [torch.empty(0)] * len(model.layers)
    handles = [layer.mlp.down_proj.register_full_backward_hook(lambda _m, _i, out, j=j: grads.__setitem__(j, out[0].detach())) for j, layer in enumerate(model.layers)]
    loss, _, hidden = losses(model, windows)
    (loss * windows[:, 1:].numel()).backward()
    model.zero_grad()
    for handle in handles:
        handle.remove()
    scores = {"magnitude": [], "gradient": []}
    with torch.no_grad():
        for j, layer in enumerate(model.layers):
            magnitude = hidden[j].abs() * norms[j]
            product = (grads[j] @ layer.mlp.down_proj.weight) * hidden[j]
            scores["magnitude"].append(magnitude)
            scores["gradient"].append(-product + 0.5 * magnitude * grads[j].norm(dim=-1, keepdim=True))
        out: dict[str, list[float]] = {"share": shares}
        for kind, score in scores.items():
            def loss_at(share: float, score: list[Tensor] = score) -> float:
                with Masking(model, lambda i, h: keep_top(score[i], h, share)):
                    return losses(model, windows)[0].item()

            out[kind] = [loss_at(share) for share in shares]
            out[f"{kind}_equal"] = [smallest_share(loss_at, 1.01 * loss.item())]
    return out


@torch.no_grad()
def activations(model: Llama, windows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs x [N, d], hidden h [N, f]) of each layer's FFN over the windows' own tokens: <s>, their first, is left out."""
    inputs: list[Tensor] = [torch.empty(0)] * len(model.layers)
    handles = [layer.mlp.up_proj.register_forward_pre_hook(lambda _m, args, j=j: inputs.__setitem__(j, args[0])) for j, layer in enumerate(model.layers)]
    hidden = model(windows)[1]
    for handle in handles:
        handle.remove()
    return [x[:, 1:].flatten(0, 1) for x in inputs], [h[:, 1:].flatten(0, 1) for h in hidden]


def measure(model: Llama, windows: Tensor, predictor_steps: int) -> dict[str, Any]:
    """All figures of a model on windows [B, C] that begin with <s>, except its loss; 'active' is h != 0 for ReLU kinds,
    magnitude at CETT 0.2 for others."""
    inputs, hidden = activations(model, windows)
    norms = column_norms(model)
    downs = [layer.mlp.down_proj.weight.detach() for layer in model.layers]
    eps = [epsilon_for(h, w, n, 0.2) for h, w, n in zip(hidden, downs, norms)]
    at_cett = [(h.abs() * n < e).float().mean().item() for h, n, e in zip(hidden, norms, eps)]
    exact = model.config.activation != "silu"
    active = [(h != 0) if exact else (h.abs() * n >= e) for h, n, e in zip(hidden, norms, eps)]
    at_ppl, cett_ppl = sparsity_at_perplexity(model, windows, hidden, 1.0)
    length = windows.shape[1] - 1
    out: dict[str, Any] = {
        "zeros": zero_shares(hidden), "cett02": at_cett, "ppl1": at_ppl, "ppl1_cett": cett_ppl,
        "reuse1": [reuse(a, length, 1) for a in active], "reuse4": [reuse(a, length, 4) for a in active], "gap": [coactivation_gap(a) for a in active],
        "attribution": attribution(model, windows[:4], [0.4, 0.2, 0.1, 0.05]),
    }
    if predictor_steps:
        pairs = [train_predictor(x, a, model.config.d_model // 2, predictor_steps) for x, a in zip(inputs, active)]
        out["predictor_recall"], out["predictor_sparsity"] = [p[0] for p in pairs], [p[1] for p in pairs]
    return out


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", type=Path)
    p.add_argument("--threshold", type=float)
    p.add_argument("--text", choices=("heldin", "heldout"), default="heldin")
    p.add_argument("--windows", type=int, default=16)
    p.add_argument("--predictor-steps", type=int, default=300)
    p.add_argument("--json", type=Path)
    p.add_argument("--runs", type=Path)
    a = p.parse_args()
    if a.windows < 1 or a.predictor_steps < 0:
        raise RecipeError("--windows must be at least 1 and --predictor-steps not negative.")
    torch.set_num_threads(1)
    r = config.load(a.config)
    model, state = open_model(r, a.runs, a.threshold)
    tokenizer, whole, context = open_tokenizer(r), held.held_text(r, a.text), r.model.context
    out = {"loss": scored_loss(model, held.eval_windows(tokenizer.encode(whole), context))}
    out |= measure(model, held.profile_windows(tokenizer.encode(held.cut(tokenizer, whole, a.windows * (context - 1))), context), a.predictor_steps)
    out |= {"name": r.name, "step": state["step"], "activation": model.config.activation, "threshold": model.config.threshold}
    for key, value in out.items():
        print(f"{key}: " + (" ".join(f"{v:.3f}" for v in value) if isinstance(value, list) else f"{value:.4f}" if isinstance(value, float) else str(value)))
    if a.json:
        a.json.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
