"""Schedules as plain functions of the step: the learning rate and ProSparse's λ."""
from __future__ import annotations

import math
from typing import Sequence

from errors import RecipeError


def check_stages(ends: Sequence[int], lambdas: Sequence[float]) -> None:
    """Raise RecipeError unless both lists match, ends rise strictly and no λ is negative."""
    if len(ends) != len(lambdas):
        raise RecipeError(f"sparsity.ends has {len(ends)} entries and sparsity.lambdas {len(lambdas)}: give one λ for every stage.")
    if any(b <= a for a, b in zip((0, *ends), ends)):
        raise RecipeError(f"sparsity.ends {list(ends)} must rise strictly from above 0.")
    if any(x < 0 for x in lambdas):
        raise RecipeError(f"sparsity.lambdas {list(lambdas)} must not be negative.")


def sparsity_weight(t: float, ends: Sequence[int], lambdas: Sequence[float]) -> float:
    """ProSparse's λ after t steps (arXiv 2402.13516, section 3.2).

    Constant lambdas[0] up to ends[0]; stage i then rises from lambdas[i-1] to lambdas[i] along half a sine,
    η = ½ (sin(−π/2 + π (t − ends[i-1]) / (ends[i] − ends[i-1])) + 1). Equal neighbours are a plateau. The last
    value holds afterwards; without stages λ is 0.
    """
    if not ends:
        return 0.0
    if t <= ends[0]:
        return lambdas[0]
    for i in range(1, len(ends)):
        if t <= ends[i]:
            eta = 0.5 * (math.sin(-math.pi / 2 + math.pi * (t - ends[i - 1]) / (ends[i] - ends[i - 1])) + 1.0)
            return lambdas[i - 1] + eta * (lambdas[i] - lambdas[i - 1])
    return lambdas[-1]


def learning_rate_share(step: int, steps: int, warmup: int, decay_from: int, final: float) -> float:
    """Share of the peak learning rate at a step (0-based): linear warm-up, level, linear decay to `final` at the end."""
    up = min(1.0, (step + 1) / warmup) if warmup > 0 else 1.0
    if step < decay_from or steps <= decay_from:
        return up
    return up * (1.0 - (1.0 - final) * (step + 1 - decay_from) / (steps - decay_from))
