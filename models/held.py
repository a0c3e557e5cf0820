"""Held-out text as the engine is given it: plain text, cut into windows of token ids as `calor eval` and `calor profile` cut it."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import text
from config import Recipe
from data import data_folder
from errors import RecipeError

BOS = 1


def held_text(r: Recipe, name: str) -> str:
    """The documents of `heldin` or `heldout`, a blank line between, in an order that mixes their sources."""
    path = data_folder(r) / f"{name}.txt"
    try:
        documents = text.split_documents(path.read_text(), plain=False)
    except OSError as e:
        raise RecipeError(f"no held-out text {path}: run data.py with this config first.") from e
    return "\n\n".join(sorted(documents, key=text.document_key))


def cut(tokenizer: Any, whole: str, tokens: int) -> str:
    """The beginning of a text that has exactly this many tokens."""
    ids = tokenizer.encode(whole)
    if len(ids) < tokens:
        raise RecipeError(f"the held-out text has {len(ids)} tokens, {tokens} are needed: take fewer --windows.")
    near = len(tokenizer.decode(ids[:tokens]))
    for end in [*range(near, min(near + 50, len(whole) + 1)), *range(near - 1, max(0, near - 200), -1)]:
        if len(tokenizer.encode(whole[:end])) == tokens:
            return whole[:end]
    raise RecipeError(f"no beginning of the held-out text has exactly {tokens} tokens: take another number of --windows.")


def profile_windows(ids: list[int], context: int) -> Tensor:
    """Windows [n, context] of `calor profile`: <s> and the text's next context - 1 tokens. A last, shorter one is left out."""
    own = context - 1
    return torch.tensor([[BOS, *ids[i : i + own]] for i in range(0, len(ids) - own + 1, own)])


def eval_windows(ids: list[int], context: int) -> Tensor:
    """Windows [n, context] of `calor eval`: <s> and the text cut into pieces of context tokens, <s> in place of each one's first."""
    stream = [BOS, *ids]
    return torch.tensor([[BOS, *stream[i + 1 : i + context]] for i in range(0, len(stream) - context + 1, context)])
