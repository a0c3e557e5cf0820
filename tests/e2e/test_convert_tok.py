#!/usr/bin/env python3
"""Tokenizers of Hugging Face folders, converted: the ids of `calor tokenize` on the file are those of the tokenizers and
sentencepiece libraries, on tokenizers trained here."""
import json
import os
import random
import subprocess
import sys

import tap

tokenizers, spm = tap.need("tokenizers", "sentencepiece")
TOOL = sys.argv[1]
random.seed(3)
WORDS = ("the a fox bear ran home quickly don't WE'LL it's 2024 1234567 x=1; f(x) naïve café Größe русский 日本語 한국어 🚀 "
         "\t \n \n\n   , . ! ... -- ~ $ € ½ é ́").split(" ")
CORPUS = [" ".join(random.choice(WORDS[:20]) for _ in range(12)) for _ in range(400)] + \
         ["once upon a time there was a little girl who lived in a house near the woods " * 3, "日本語 русский café naïve Größe"] * 20
TEXTS = ["", " ", "Hello world", "the fox  ran\n\nhome", " leading", "trailing ", "日本語 русский 🚀 café", "é\u0301 ½ 12345 1,000",
         "DON'T we'll IT'S x_y", "<|end|>the", "a<|end|> b</s>", "tab\there\r\n\r\n  end", "\u3000wide\u00a0space", "🚀🚀👨‍👩‍👧"] + \
        ["".join(random.choice(WORDS) + random.choice(["", " ", "  "]) for _ in range(30)) for _ in range(40)]


def convert(folder, rows):
    out = folder / "out.gguf"
    p = subprocess.run([TOOL, str(folder), str(rows), str(out)], capture_output=True, text=True)
    return (out if p.returncode == 0 else None), p.stderr.strip()


def ids(model, text, *flags):
    p = tap.run("tokenize", model, "-f", "-", *flags, stdin=text.encode(), text=False)
    return [int(x) for x in p.stdout.split()] if p.returncode == 0 else p.stderr


def compare(name, folder, rows, encode, texts=TEXTS, flags=("--special",)):
    model, why = convert(folder, rows)
    if not model:
        tap.check(f"{name}: converts", False, why)
        return None
    bad = [(t, ids(model, t, *flags), encode(t)) for t in texts if ids(model, t, *flags) != encode(t)]
    tap.check(f"{name}: the same ids for {len(texts)} texts", not bad, repr(bad[:2]))
    return model


def folder(name):
    path = tap.temp() / name
    path.mkdir()
    return path


def byte_level(name, pre, **model):
    """A byte-level tokenizer with a pre-tokeniser, trained on the corpus, in a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer = pre
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                      special_tokens=["<s>", "</s>", "<|end|>"], show_progress=False))
    path = folder(name)
    t.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "eos_token": "</s>",
                                                            "chat_template": "{{ '<|im_start|>' }}"}))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    return path, t


def byte_level_cases():
    from tokenizers import Regex, pre_tokenizers as p

    def split(regex):
        return p.Sequence([p.Split(Regex(regex), "isolated"), p.ByteLevel(add_prefix_space=False, use_regex=False)])

    low = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    plain = p.ByteLevel(add_prefix_space=False)
    return {
        "gpt-2": plain,
        "llama-bpe": split(low % "{1,3}"),
        "qwen2": split(low % ""),
        "starcoder": p.Sequence([p.Digits(individual_digits=True), plain]),
        "falcon": p.Sequence([p.Punctuation("contiguous"), p.ByteLevel(add_prefix_space=False), p.Digits(individual_digits=False),
                              p.Split(Regex("[0-9][0-9][0-9]"), "isolated")]),
    }


for name, pre in byte_level_cases().items():
    path, t = byte_level(name, pre, **({"ignore_merges": True} if name == "llama-bpe" else {}))
    model = compare(name, path, 710, lambda s, t=t: t.encode(s, add_special_tokens=False).ids)
    if model and name == "llama-bpe":
        meta = json.loads(tap.run("tokenize", model, "-p", "x", "--bos", "--json").stdout)
        tap.check("BOS comes from tokenizer_config.json", meta["pieces"][0] == "<s>", repr(meta))
        data = model.read_bytes()
        tap.check("the name of the pre-tokeniser is written", b"llama-bpe" in data)
        tap.check("the vocabulary is filled up", b"[PAD709]" in data and b"[PAD710]" not in data)
        tap.check("the chat template and a second end are carried over",
                  b"tokenizer.chat_template" in data and b"tokenizer.ggml.eot_token_id" in data)
        tree = json.loads((path / "tokenizer.json").read_text())
        pairs = folder("pairs")
        tree["model"]["merges"] = [m if isinstance(m, list) else m.split(" ") for m in tree["model"]["merges"]]
        (pairs / "tokenizer.json").write_text(json.dumps(tree))
        compare("merges as pairs", pairs, 700, lambda s, t=t: t.encode(s, add_special_tokens=False).ids)
        joined = folder("joined")
        tree["model"]["merges"] = [" ".join(m) for m in tree["model"]["merges"]]
        (joined / "tokenizer.json").write_text(json.dumps(tree))
        compare("merges as strings", joined, 700, lambda s, t=t: t.encode(s, add_special_tokens=False).ids)
        if os.environ.get("CALOR_DEBUG"):
            print("#", model)
    if model and name == "gpt-2":
        tree = json.loads((path / "tokenizer.json").read_text())
        old = folder("vocab-json")
        (old / "vocab.json").write_text(json.dumps(tree["model"]["vocab"]))
        merges = [m if isinstance(m, str) else " ".join(m) for m in tree["model"]["merges"]]
        (old / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (old / "added_tokens.json").write_text(json.dumps({"<|end|>": 2}))
        (old / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {
            "0": {"content": "<s>", "special": True}, "1": {"content": "</s>", "special": True}}}))
        compare("vocab.json and merges.txt", old, 700, lambda s, t=t: t.encode(s, add_special_tokens=False).ids)
        _, why = convert(path, 300)
        tap.check("a token beyond the embedding is refused", "300 rows" in why, why)
        tree["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"},
                                                                       {"type": "ByteLevel", "use_regex": False}]}
        (path / "tokenizer.json").write_text(json.dumps(tree))
        _, why = convert(path, 700)
        tap.check("an unknown pre-tokeniser is refused", "pre-tokeniser" in why, why)


# SentencePiece: a file of its own, and the same vocabulary in the tokenizers library's form.
path = folder("spm")
spm.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_prefix=str(path / "m"), model_type="bpe", vocab_size=480,
                               byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
                               character_coverage=0.99, user_defined_symbols=["<x>"], minloglevel=2)
(path / "m.model").rename(path / "tokenizer.model")
sp = spm.SentencePieceProcessor(model_file=str(path / "tokenizer.model"))
plain = [t for t in TEXTS if "\u2581" not in t and "\u3000" not in t and t and "<" not in t]
model = compare("SentencePiece", path, 610, sp.encode, plain, ())
if model:
    first = ids(model, "x", "--bos")
    tap.check("SentencePiece: BOS is the model's", isinstance(first, list) and first[0] == sp.bos_id(), repr(first))
cut = (path / "tokenizer.model").read_bytes()
(path / "tokenizer.model").write_bytes(cut[: len(cut) // 2 + 1])
model, why = convert(path, 610)
tap.check("half a tokenizer.model is refused", model is None and "SentencePiece" in why, why)

uni = folder("unigram")
spm.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_prefix=str(uni / "m"), model_type="unigram", vocab_size=150,
                               hard_vocab_limit=False, minloglevel=2)
(uni / "m.model").rename(uni / "tokenizer.model")
model, why = convert(uni, 200)
tap.check("a unigram model is refused by name", model is None and "unigram" in why, why)

# The tokenizers library's own rendering of it: merges in the order of the scores they lead to.
vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
ranked = sorted((i for i in range(sp.get_piece_size()) if not (sp.is_control(i) or sp.is_byte(i) or sp.is_unknown(i))),
                key=lambda i: (-sp.get_score(i), i))
merges = []
for i in ranked:
    piece = sp.id_to_piece(i)
    if piece == "<x>":
        continue  # user-defined
    parts = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
    merges += sorted(parts, key=lambda p: (vocab[p[0]], vocab[p[1]]))
tree = {"version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": sp.id_to_piece(i), "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
                                                           {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": True, "byte_fallback": True, "vocab": vocab, "merges": [" ".join(m) for m in merges]}}
hf = folder("spm-json")
(hf / "tokenizer.json").write_text(json.dumps(tree))
t = tokenizers.Tokenizer.from_file(str(hf / "tokenizer.json"))
compare("SentencePiece as tokenizer.json", hf, 600, lambda s: t.encode(s, add_special_tokens=False).ids, plain, ())

none = folder("none")
model, why = convert(none, 10)
tap.check("a folder without a tokenizer gives a file without one", model is not None and "no tokenizer" in why, why)
tap.done()
