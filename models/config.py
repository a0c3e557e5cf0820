"""Read a variant's TOML file into checked dataclasses. An unknown key, a missing key or a wrong type is an error."""
from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errors import RecipeError
from model import ModelConfig
from schedule import check_stages

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class TextSource:
    """One training text: share is its part of the windows; plain/recase describe its layout (see text.py)."""

    path: str
    share: float
    plain: bool = False
    recase: bool = False
    first_bytes: int = 0


@dataclass(frozen=True)
class DataConfig:
    """Where the tokens come from; held_out_one_in = 50 keeps every 50th document of the sources that ask for it."""

    folder: str
    vocab: int
    held_out: str
    held_out_one_in: int
    text: tuple[TextSource, ...]


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and its schedule. Steps count from the start of the first run, forks included. `precision` is that of the
    matrix products in training ("bfloat16" is twice as fast on CPUs that have it); weights and figures are always float32."""

    seed: int
    steps: int
    batch: int
    muon_lr: float
    adam_lr: float
    embed_lr: float
    weight_decay: float
    warmup: int
    decay_from: int
    final_lr_share: float
    clip: float = 1.0
    precision: str = "float32"


@dataclass(frozen=True)
class SparsityConfig:
    """ProSparse's multi-stage schedule, in steps after the fork: stage i ends at ends[i] with λ = lambdas[i]."""

    ends: tuple[int, ...] = ()
    lambdas: tuple[float, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One variant: name (also its run folder), optional run to fork from, and the four parts."""

    name: str
    fork_from: str
    fork_step: int
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)

    def digest(self) -> str:
        """Hash over everything that decides the result; stored in checkpoints."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def _take(table: dict[str, Any], kind: type, where: str, path: Path) -> Any:
    """Build dataclass `kind` from a TOML table, naming the key in every complaint."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            raise RecipeError(f"{path}: unknown key '{key}' in {where}" + (f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(fields)}."))
    for key, f in fields.items():
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if key not in table and needed:
            raise RecipeError(f"{path}: {where} lacks the key '{key}'.")
    out = {}
    for key, value in table.items():
        expected = str(fields[key].type)
        ok = {"int": type(value) is int, "float": type(value) in (int, float), "str": type(value) is str, "bool": type(value) is bool}.get(expected, True)
        if expected.startswith("tuple["):
            item = {"tuple[int, ...]": (int,), "tuple[float, ...]": (int, float)}.get(expected)
            ok = isinstance(value, (list, tuple)) and (item is None or all(type(v) in item for v in value))
            value = tuple(value) if ok else value
        if not ok:
            raise RecipeError(f"{path}: {where}.{key} is {value!r}: expected {expected}.")
        out[key] = float(value) if expected == "float" else value
    return kind(**out)


def load(path: Path) -> Recipe:
    """Read and check a variant's file; `base = "other.toml"` in it is read first and overlaid table by table."""
    table = _read(path)
    for key in ("model", "data", "optim"):
        if key not in table:
            raise RecipeError(f"{path}: lacks the table [{key}].")
    data = dict(table["data"])
    texts = data.get("text")
    if not isinstance(texts, list) or not texts:
        raise RecipeError(f"{path}: [data] needs at least one [[data.text]] entry.")
    data["text"] = [_take(t, TextSource, "data.text", path) for t in texts]
    model = dict(table["model"], vocab=data.get("vocab", 0))
    known = {"name", "fork_from", "fork_step", "model", "data", "optim", "sparsity"}
    for key in table:
        if key not in known:
            raise RecipeError(f"{path}: unknown key or table '{key}'; known: {', '.join(sorted(known))}, base.")
    recipe = Recipe(
        name=table.get("name", path.stem),
        fork_from=table.get("fork_from", ""),
        fork_step=table.get("fork_step", 0),
        model=_take(model, ModelConfig, "model", path),
        data=_take(data, DataConfig, "data", path),
        optim=_take(table["optim"], OptimConfig, "optim", path),
        sparsity=_take(table.get("sparsity", {}), SparsityConfig, "sparsity", path),
    )
    _check(recipe, path)
    return recipe


def _read(path: Path, depth: int = 0) -> dict[str, Any]:
    """TOML tables of a file and its bases merged, nearest file last."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as e:
        raise RecipeError(f"cannot read the config {path}: {e.strerror}. Shipped ones are in {HERE / 'config'}.") from e
    except tomllib.TOMLDecodeError as e:
        raise RecipeError(f"{path} is not valid TOML: {e}.") from e
    base = table.pop("base", None)
    if base is None:
        return table
    if depth > 4:
        raise RecipeError(f"{path}: more than four files named by 'base' one after another; is there a circle?")
    merged = _read(path.parent / base, depth + 1)
    merged.pop("name", None)
    for key, value in table.items():
        merged[key] = {**merged[key], **value} if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def _check(r: Recipe, path: Path) -> None:
    """Values that parse but cannot work together."""
    try:
        r.model.check()
        check_stages(r.sparsity.ends, r.sparsity.lambdas)
    except RecipeError as e:
        raise RecipeError(f"{path}: {e}") from e
    o = r.optim
    if o.steps < 1 or o.batch < 1:
        raise RecipeError(f"{path}: optim.steps {o.steps} and optim.batch {o.batch} must be at least 1.")
    if o.precision not in ("float32", "bfloat16"):
        raise RecipeError(f"{path}: optim.precision is '{o.precision}': choose float32 or bfloat16.")
    if not 0 <= o.decay_from <= o.steps:
        raise RecipeError(f"{path}: optim.decay_from {o.decay_from} must lie between 0 and optim.steps {o.steps}.")
    if bool(r.fork_from) != (r.fork_step > 0) or r.fork_step >= o.steps:
        raise RecipeError(f"{path}: fork_from and fork_step go together, and fork_step {r.fork_step} must be below optim.steps {o.steps}.")
    if r.sparsity.ends and r.sparsity.ends[-1] > o.steps - r.fork_step:
        raise RecipeError(f"{path}: the last sparsity stage ends {r.sparsity.ends[-1]} steps after the fork, beyond the {o.steps - r.fork_step} steps trained.")
    if sum(t.share for t in r.data.text) <= 0 or min(t.share for t in r.data.text) < 0:
        raise RecipeError(f"{path}: the shares of [[data.text]] must be >= 0 with a positive sum.")


def corpus_path(name: str) -> Path:
    """A text named in a config: relative paths start at the repository's root; CALOR_SHARED replaces ../shared."""
    shared = os.environ.get("CALOR_SHARED")
    if shared and name.startswith("../shared/"):
        return Path(shared) / name.removeprefix("../shared/")
    return (HERE.parent / name).resolve()


def run_folder(name: str, runs: Path | None = None) -> Path:
    """Where a variant keeps its checkpoint, logs and drawings."""
    return (runs or HERE / "runs") / name
