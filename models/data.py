#!/usr/bin/env python3
"""Prepare a corpus: train the SPM BPE tokenizer (byte fall-back) and write token files. Also serves the windows.

usage: data.py CONFIG.toml [--text FILE]

In the data folder: tokenizer.model, one NAME.bin (uint16 ids) and NAME.docs.npy (document starts) per text,
`heldout` (the held-out file) and `heldin` (the held-out documents of the training texts), and index.json.
Every document is <s> ids </s>.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

import config
import text
from config import Recipe, TextSource
from errors import RecipeError, run_main

TOKENIZER_SAMPLE = 12_000_000  # characters that the tokenizer is trained on


def data_folder(r: Recipe) -> Path:
    """Folder of the prepared corpus; a relative one lies in models/data."""
    folder = Path(r.data.folder)
    return folder if folder.is_absolute() else config.HERE / "data" / folder


def load_documents(r: Recipe) -> tuple[list[list[str]], list[str], list[str]]:
    """(documents per source, held-in documents, held-out file's documents); each distinct document once.

    Held-in documents come from plain-layout sources only: a document of the long-story files is part of a book,
    of which the model reads the rest, so for those only the separate held-out file measures anything.
    """
    seen: set[str] = set()
    per_source: list[list[str]] = []
    held_in: list[str] = []
    proper: set[str] = set()
    for s in r.data.text:
        docs = text.split_documents(text.read_text(config.corpus_path(s.path), s.first_bytes), s.plain)
        if s.recase:
            docs = [text.recase(d, proper) for d in docs]
        kept = []
        for d in docs:
            key = text.document_key(d)
            if key in seen:
                continue
            seen.add(key)
            (held_in if s.plain and text.is_held_out(d, r.data.held_out_one_in) else kept).append(d)
        if s.plain and not s.recase:
            proper |= text.proper_words(kept)
        per_source.append(kept)
    held_out = text.split_documents(text.read_text(config.corpus_path(r.data.held_out)), plain=False)
    return per_source, held_in, held_out


def train_tokenizer(docs: list[list[str]], shares: list[float], vocab: int, out: Path) -> None:
    """SentencePiece BPE with byte fall-back on a sample that follows the shares; writes `out` (.model)."""
    import sentencepiece as spm

    lines: list[str] = []
    for source, share in zip(docs, shares):
        left = int(TOKENIZER_SAMPLE * share / sum(shares))
        for d in source:
            if left <= 0:
                break
            lines += [x for x in d.split("\n") if x.strip()]
            left -= len(d)
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(out.with_suffix("")), model_type="bpe", vocab_size=vocab,
            byte_fallback=True, character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
            split_digits=True, allow_whitespace_only_pieces=True, add_dummy_prefix=True, unk_id=0, bos_id=1, eos_id=2,
            pad_id=-1, max_sentence_length=100000, minloglevel=2)
    except RuntimeError as e:
        raise RecipeError(f"the tokenizer could not be trained with data.vocab = {vocab}: {e}") from e


def encode(docs: list[str], tokenizer: Path, out: Path) -> int:
    """Write out.bin and out.docs.npy; returns the number of tokens."""
    import sentencepiece as spm

    sp = spm.SentencePieceProcessor(model_file=str(tokenizer))
    starts, parts, n = [], [], 0
    for ids in sp.encode(docs, add_bos=True, add_eos=True):
        starts.append(n)
        n += len(ids)
        parts.append(np.asarray(ids, dtype=np.uint16))
    np.concatenate(parts).tofile(out.with_suffix(".bin"))
    np.save(out.with_suffix(".docs.npy"), np.asarray(starts, dtype=np.int64))
    return n


def prepare(r: Recipe) -> None:
    """Build the data folder; index.json is written last, so its presence means a whole corpus."""
    folder = data_folder(r)
    folder.mkdir(parents=True, exist_ok=True)
    docs, held_in, held_out = load_documents(r)
    tokenizer = folder / "tokenizer.model"
    train_tokenizer(docs, [s.share for s in r.data.text], r.data.vocab, tokenizer)
    index: dict[str, object] = {"vocab": r.data.vocab, "sources": []}
    rows: list[dict[str, object]] = []
    for i, (s, d) in enumerate(zip(r.data.text, docs)):
        n = encode(d, tokenizer, folder / f"text{i}") if d else 0
        rows.append({"path": Path(s.path).name, "documents": len(d), "tokens": n, "characters": sum(map(len, d))})
        print(f"{s.path}: {len(d)} documents, {n} tokens, {rows[-1]['characters']} characters")
    for name, d in (("heldin", held_in), ("heldout", held_out)):
        n = encode(d, tokenizer, folder / name) if d else 0
        index[name] = {"documents": len(d), "tokens": n, "characters": sum(map(len, d))}
        print(f"{name}: {len(d)} documents, {n} tokens")
        (folder / f"{name}.txt").write_text(f"\n{text.MARK}\n".join(d) + "\n")
    index["sources"] = rows
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n")


class Corpus:
    """Windows of a prepared corpus. Which windows a step sees depends on (seed, step) alone, so runs resume exactly
    and forks read the same text."""

    def __init__(self, r: Recipe):
        self.folder, self.recipe = data_folder(r), r
        try:
            self.index = json.loads((self.folder / "index.json").read_text())
        except (OSError, ValueError) as e:
            raise RecipeError(f"no prepared corpus in {self.folder}: run data.py with this config first.") from e
        if self.index["vocab"] != r.data.vocab:
            raise RecipeError(f"{self.folder} was prepared with vocab {self.index['vocab']}, the config says {r.data.vocab}: run data.py again.")
        if len(self.index["sources"]) != len(r.data.text):
            raise RecipeError(f"{self.folder} holds {len(self.index['sources'])} texts, the config names {len(r.data.text)}: run data.py again.")
        self.ids = [self._open(f"text{i}") for i in range(len(r.data.text))]
        shares = np.array([s.share for s in r.data.text])
        self.shares = shares / shares.sum()

    def _open(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            return np.memmap(self.folder / f"{name}.bin", dtype=np.uint16, mode="r"), np.load(self.folder / f"{name}.docs.npy")
        except (OSError, ValueError) as e:
            raise RecipeError(f"the corpus file {self.folder / name}.bin is missing or broken ({e}): run data.py again.") from e

    @staticmethod
    def _window(ids: np.ndarray, start: int, length: int) -> np.ndarray:
        """`length` ids from start, the first replaced by <s>: every window begins as it does at inference."""
        w = ids[start : start + length].astype(np.int64)
        w[0] = 1
        return w

    def batch(self, step: int) -> np.ndarray:
        """int64 [batch, context + 1] for a step; half of the windows begin at a document, half anywhere."""
        rng = np.random.default_rng((self.recipe.optim.seed, step))
        length = self.recipe.model.context + 1
        rows = []
        for source in rng.choice(len(self.ids), size=self.recipe.optim.batch, p=self.shares):
            ids, docs = self.ids[source]
            last = len(ids) - length
            start = int(docs[rng.integers(len(docs))]) if rng.random() < 0.5 else int(rng.integers(last + 1))
            rows.append(self._window(ids, min(start, last), length))
        return np.stack(rows)

    def held(self, name: str, windows: int) -> np.ndarray:
        """int64 [windows, context + 1]: evenly spaced windows of `heldin` or `heldout`."""
        ids, _ = self._open(name)
        length = self.recipe.model.context + 1
        if len(ids) < length:
            raise RecipeError(f"{self.folder / name}.bin holds {len(ids)} tokens, fewer than one window of {length}.")
        starts = np.linspace(0, len(ids) - length, windows).astype(int)
        return np.stack([self._window(ids, int(s), length) for s in starts])


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", type=Path)
    p.add_argument("--text", action="append", help="use these texts (marked layout, equal shares) instead of the config's")
    a = p.parse_args()
    r = config.load(a.config)
    if a.text:
        r = replace(r, data=replace(r.data, text=tuple(TextSource(str(Path(t).resolve()), 1.0) for t in a.text)))
    prepare(r)


if __name__ == "__main__":
    sys.path.insert(0, str(config.HERE))
    run_main(main)
