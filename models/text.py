"""Read the corpora: documents out of story files, ASCII punctuation, capitals put back where a file lost them.

Two file layouts are understood:
  marked   documents separated by a line `<|endoftext|>`
  plain    paragraphs separated by a blank line, documents by a single line break (the TinyStories excerpts)
"""
from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Iterable

from errors import RecipeError

MARK = "<|endoftext|>"
_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "...", "\u00a0": " ", "\ufeff": ""})
# UTF-8 that was once read as Windows-1252 (and in one file then lower-cased): the marks it stands for. The last byte of a
# closing quotation mark has no letter there, so "â€" alone is one.
_BROKEN = {"â€œ": '"', "â€˜": "'", "â€™": "'", "â€“": "--", "â€”": "--", "â€¦": "...", "â€\x9d": '"', "â€": '"'}
_BROKEN_LETTER = re.compile("[ÂâÃã]([\u00a1-\u00bf])")
_PLAIN_LETTER = str.maketrans("áâàäãéêèëíîïìóôòöõúûùüñçÁÉÍÓÚÑÇ«»", "aaaaaeeeeiiiiooooouuuuncAEIOUNC\"\"", "¡¿")
_SAYS = r"(?:[A-Za-z]+ ){0,1}(?:said|says|asked|asks|replied|cried|shouted|exclaimed|answered|called|yelled|whispered|thought)\b"  # goes on after !" and ?"
_WORD = re.compile(r"[A-Za-z]+")


def mend(text: str) -> str:
    """The text with broken encodings repaired and punctuation and accented letters in ASCII."""
    for broken, mark in _BROKEN.items():
        text = text.replace(broken, mark)
    text = _BROKEN_LETTER.sub(lambda m: m.group(1) if m.group(0)[0] in "Ââ" else chr(ord(m.group(1)) + 0x40), text)
    return text.translate(_ASCII).translate(_PLAIN_LETTER)


def read_text(path: Path, first_bytes: int = 0) -> str:
    """The file as text with ASCII punctuation; first_bytes > 0 stops at the last document end before that offset."""
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise RecipeError(f"cannot read the text {path}: {e.strerror}. Give an existing file with --text or in [data] of the config.") from e
    if first_bytes and len(raw) > first_bytes:
        cut = raw.rfind(MARK.encode(), 0, first_bytes)
        raw = raw[: cut if cut > 0 else first_bytes]
    text = mend(raw.decode("utf-8", errors="replace").replace("\r\n", "\n"))
    if not text.strip():
        raise RecipeError(f"the text {path} is empty: expected stories separated by a line {MARK}.")
    return text


def split_documents(text: str, plain: bool) -> list[str]:
    """Documents of a file, blank ones dropped; `plain` chooses the layout described above."""
    if not plain:
        parts = text.split(MARK)
    else:
        parts = re.split(r"(?<=\S)\n(?=\S)", text)
    return [d.strip() for d in parts if d.strip()]


def document_key(doc: str) -> str:
    """Identity of a document that ignores case, spacing and marks (first 120 letters)."""
    letters = re.sub(r"[^a-z]", "", doc[:400].lower())[:120]
    return hashlib.sha256(letters.encode()).hexdigest()


def is_held_out(doc: str, one_in: int) -> bool:
    """Whether this document belongs to the held-out share; depends on the document alone."""
    return one_in > 0 and int(document_key(doc)[:8], 16) % one_in == 0


def proper_words(docs: Iterable[str]) -> set[str]:
    """Lower-case forms of words that stand capitalised inside sentences in most of their uses."""
    upper: Counter[str] = Counter()
    every: Counter[str] = Counter()
    for doc in docs:
        for m in re.finditer(r"(?<=[a-z,] )([A-Za-z]+)", doc):
            w = m.group(1)
            every[w.lower()] += 1
            upper[w.lower()] += w[0].isupper()
    return {w for w, n in every.items() if n >= 3 and upper[w] > 0.6 * n} | {"i"}


def recase(doc: str, proper: set[str]) -> str:
    """Put capitals back into a lower-cased story: sentence starts, quotations, known names, names the story gives."""
    names = set(re.findall(r"\b(?:named|name was|name is) ([a-z]+)", doc)) - {"the", "a", "an", "his", "her", "after", "and", "it"}
    known = proper | names

    def start(m: re.Match[str]) -> str:
        return m.group(1) + m.group(2).upper()

    doc = _WORD.sub(lambda m: m.group(0).capitalize() if m.group(0) in known else m.group(0), doc)
    doc = re.sub(rf"(^|\n\s*|[.!?]\s+\"?|\.\"\s+\"?|[!?]\"\s+(?!{_SAYS})\"?)([a-z])", start, doc)
    return re.sub(r"((?:[,:] |\n|^)\")([a-z])", start, doc)
