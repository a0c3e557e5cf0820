"""Open a trained variant: its recipe, weights and tokenizer, for everything that comes after training."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from config import Recipe, run_folder
from data import data_folder
from errors import RecipeError
from model import Llama
from train import load_weights, read_checkpoint


def open_model(r: Recipe, runs: Path | None, threshold: float | None) -> tuple[Llama, dict[str, Any]]:
    """(model, checkpoint) of a variant; a threshold turns its ReLU into FATReLU with that t."""
    path = run_folder(r.name, runs) / "checkpoint.pt"
    state = read_checkpoint(path)
    if state["digest"] != r.digest():
        print(f"note: {path} was written under another version of this config (its digest is {state['digest']}, the config's {r.digest()})")
    model = Llama(r.model)
    load_weights(model, state, path)
    if threshold is not None:
        if r.model.activation not in ("relu", "fatrelu"):
            raise RecipeError(f"a FATReLU threshold needs a ReLU model; {r.name} has {r.model.activation}.")
        model.set_activation("fatrelu", threshold)
    return model.eval(), state


def open_tokenizer(r: Recipe) -> Any:
    """The corpus's SentencePiece processor."""
    import sentencepiece as spm

    path = data_folder(r) / "tokenizer.model"
    if not path.exists():
        raise RecipeError(f"no tokenizer {path}: run data.py with this config first.")
    return spm.SentencePieceProcessor(model_file=str(path))
