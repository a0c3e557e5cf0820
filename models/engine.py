"""A model's figures from the engine: `calor eval` and `calor profile` on its GGUF, held against the recipe's own.

The engine's are those that are reported; the recipe's plain versions (metrics.py) on the same tokens are their oracle.
"""
from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import config
from errors import RecipeError

# Largest accepted difference between the engine's figure and the recipe's. Exact zeros can differ where a gate is a rounding
# error away from its threshold; the engine reads the sparsity at a CETT off a curve of 101 points, and where a model has
# no zeros, all that is counted above that threshold inherits the difference. Its search for PPL-1 % ends within a fortieth of
# the allowed rise.
TOLERANCE = {"loss": 1e-4, "zeros": 5e-4, "cett02": 5e-3, "ppl1": 1e-2, "reuse1": 5e-3, "reuse4": 5e-3, "gap": 5e-3}
SAMPLES_MOST = 4096  # of calor profile --samples


def find_calor(given: Path | None) -> Path:
    """The engine's binary: the one given, the build folder's, or that on the PATH."""
    built = config.HERE.parent / "build" / "calor"
    found = given or (built if built.exists() else shutil.which("calor"))
    if found is None or not Path(found).is_file():
        where = f"{given} is not a file" if given else f"neither {built} nor a calor on the PATH is there"
        raise RecipeError(f"{where}: build it (meson setup build && ninja -C build, in {config.HERE.parent}) or give --calor PATH.")
    return Path(found).resolve()


def run(calor: Path, *args: object) -> str:
    """What a calor command prints; its own message when it fails."""
    command = [str(calor), *map(str, args)]
    try:
        out = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as e:
        raise RecipeError(f"{calor} cannot be run: {e.strerror}. Give another with --calor PATH.") from e
    if out.returncode:
        raise RecipeError(f"{' '.join(command)} failed with status {out.returncode}: {out.stderr.strip() or 'no message'}")
    return out.stdout


def tokenize(calor: Path, model: Path, file: Path) -> list[int]:
    """Token ids of a text file, without <s>."""
    return [int(x) for x in run(calor, "tokenize", model, "-f", file).split()]


def at_cett(curve: list[dict[str, float]], target: float) -> float:
    """Share of neurons below the magnitude at which a layer's CETT first rises above `target`; the points are epsilon's in order."""
    below = {"cett": 0.0, "sparsity": 0.0}
    for point in curve:
        if point["cett"] > target:
            return below["sparsity"] + (target - below["cett"]) / (point["cett"] - below["cett"]) * (point["sparsity"] - below["sparsity"])
        if point["cett"] >= below["cett"]:
            below = point
    return below["sparsity"]


def measure(calor: Path, model: Path, eval_text: Path, profile_text: Path, context: int, tokens: int) -> dict[str, Any]:
    """The engine's figures of a GGUF, by the names of metrics.measure; every one of the profile's `tokens` is sampled for CETT."""
    j = json.loads(run(calor, "eval", model, "-f", eval_text, "-c", context, "--kv", "f32", "--json"))
    common = ("profile", model, "-f", profile_text, "-c", context, "--samples", min(tokens, SAMPLES_MOST), "-o", model.with_suffix(".profile"), "--json")
    ppl = json.loads(run(calor, *common, "--held-out", profile_text, "--ppl", 1, "--ppl-tokens", tokens))["ppl"]
    p = json.loads(run(calor, *common, "--cett", 0.2))
    layers = p["per_layer"]
    sparsity = [x["sparsity"] for x in layers]
    cett02 = [at_cett(x["cett"], 0.2) for x in layers] if p["zeros"] else sparsity  # without zeros, active means: above that magnitude
    return {
        "loss": math.log(j["perplexity"]), "tokens_scored": j["tokens"], "tokens": p["tokens"],
        "zeros": sparsity if p["zeros"] else [0.0] * len(layers), "cett02": cett02,
        "ppl1": ppl["sparsity"], "ppl1_cett": ppl["cett"],
        "reuse1": [x["reuse"]["1"] for x in layers], "reuse4": [x["reuse"]["4"] for x in layers], "gap": [x["gap"] for x in layers],
    }


def predictor(calor: Path, model: Path, text: Path, context: int, tokens: int) -> dict[str, Any]:
    """A predictor of the exact zeros from `calor predictor`, aiming at 95 % recall by magnitude: its figures on windows that it was neither trained nor cut on."""
    out = model.with_suffix(".predictor")
    j = json.loads(run(calor, "predictor", model, "-f", text, "-c", context, "--samples", tokens, "--json", "--progress", "none", "-o", out))
    return {key: j[key] for key in ("recall", "recall_plain", "candidates", "active", "bytes_share", "tested")}


def check(name: str, recipe: dict[str, Any], engine: dict[str, Any]) -> dict[str, float]:
    """The largest difference of each figure; a RecipeError where one is above its tolerance."""
    worst: dict[str, float] = {}
    for key, limit in TOLERANCE.items():
        pairs = list(zip(recipe[key], engine[key])) if isinstance(recipe[key], list) else [(recipe[key], engine[key])]
        for layer, (mine, theirs) in enumerate(pairs):
            where = f", layer {layer}" if len(pairs) > 1 else ""
            if not abs(mine - theirs) <= limit:
                raise RecipeError(f"{name}: {key}{where} is {theirs:.5f} by the engine and {mine:.5f} by the recipe, further apart than {limit:g}: one of them is wrong.")
            worst[key] = max(worst.get(key, 0.0), abs(mine - theirs))
    return worst
