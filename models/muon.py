"""Muon (Jordan et al. 2024): momentum whose matrix update is orthogonalised by a Newton-Schulz iteration.

Small models on few tokens get about as far in two thirds of AdamW's steps, which is what a CPU budget needs.
"""
from __future__ import annotations

from typing import Iterable

import torch
from torch import Tensor


def orthogonalise(g: Tensor, rounds: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix to each of g [N, rows, cols], approximately (quintic Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    flip = g.shape[1] > g.shape[2]
    x = g.transpose(1, 2) if flip else g
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * (s @ s)) @ x
    return x.transpose(1, 2) if flip else x


class Muon(torch.optim.Optimizer):
    """Muon for two-dimensional weights. State per parameter: `momentum`, of the parameter's shape; the iteration runs in `dtype`."""

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0, dtype: torch.dtype = torch.float32):
        self.dtype = dtype
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update; parameters of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(tuple(p.shape), []).append(p)
            for shape, params in by_shape.items():
                directions = []
                for p in params:
                    m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    m.lerp_(p.grad, 1 - group["momentum"])
                    directions.append(p.grad.lerp(m, group["momentum"]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(params, orthogonalise(torch.stack(directions).to(self.dtype))):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u, alpha=-scale)
