#!/usr/bin/env python3
"""Makes the seeds of fuzz_tok and fuzz_convert_tok. Run in tests/fuzz."""
import json
import pathlib
import struct

from make_corpus import array, gguf, key, name


def strings(k, values):
    return key(k, 9, array(8, len(values), b"".join(name(v) for v in values)))


def vocab(model, tokens, types, *more):
    keys = [key("general.architecture", 8, name("llama")), key("tokenizer.ggml.model", 8, name(model)),
            strings("tokenizer.ggml.tokens", tokens),
            key("tokenizer.ggml.token_type", 9, array(5, len(types), struct.pack(f"<{len(types)}i", *types))), *more]
    return gguf(keys, [], 0)


def scores(*values):
    return key("tokenizer.ggml.scores", 9, array(6, len(values), struct.pack(f"<{len(values)}f", *values)))


def tok_input(file, text):
    return struct.pack("<H", len(file)) + file + text.encode()


TEXT = "a ab  12 <s>x</s> \u2581 don't\r\n\r\n 日本 🚀\t" + "aaaa" * 5
SPM = vocab("llama", ["<unk>", "<s>", "</s>", "<0x61>", "a", "▁", "ab", "▁a", "", "a"], [2, 3, 3, 6, 1, 1, 1, 1, 1, 4],
            scores(*range(10)), key("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 1)))


def bpe(pre):
    return vocab("gpt2", list("abcdx12Ġ'") + ["ab", "Ġa", "<|im_end|>"], [1] * 11 + [3], key("tokenizer.ggml.pre", 8, name(pre)),
                 strings("tokenizer.ggml.merges", ["a b", "Ġ a", "x", "", " ", "ab ab", "a b"]),
                 key("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 11)))


TOK = {"spm": tok_input(SPM, TEXT), "text-only": tok_input(b"", TEXT), "bad-scores": tok_input(SPM.replace(b"scores", b"sc0res"), "a")}
TOK.update({pre: tok_input(bpe(pre), TEXT) for pre in ("gpt-2", "llama-bpe", "deepseek-llm", "tekken", "gemma4", "unheard-of")})


def varint(v):
    out = b""
    while True:
        out += bytes([v & 127 | (128 if v > 127 else 0)])
        v >>= 7
        if not v:
            return out


def field(number, kind, body):
    head = varint(number << 3 | kind)
    return head + (varint(len(body)) + body if kind == 2 else body)


def piece(text, score, kind):
    return field(1, 2, field(1, 2, text.encode()) + field(2, 5, struct.pack("<f", score)) + field(3, 0, varint(kind)))


MODEL = (piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("<0x41>", 0, 6) + piece("▁a", -1, 1) + piece("<x>▁", 0, 4) +
         field(2, 2, field(3, 0, varint(2)) + field(40, 0, varint(0)) + field(43, 0, b"\xff" * 9 + b"\x01")) +
         field(3, 2, field(1, 2, b"identity") + field(3, 0, b"\x01") + field(4, 0, b"\x00")))


def tree(pre, model=None, **more):
    return json.dumps({"added_tokens": [{"id": 3, "content": "<s>", "special": True}, {"id": 4, "content": "x▁y", "special": False}],
                       "pre_tokenizer": pre, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"],
                                                       **(model or {})}, **more}, ensure_ascii=False).encode()


BYTES = {"type": "ByteLevel", "add_prefix_space": False}
CONVERT = {
    "model": b"\0" + MODEL, "model-cut": b"\0" + MODEL[:40], "model-unigram": b"\0" + MODEL.replace(b"\x18\x02\xc0", b"\x18\x01\xc0"),
    "json": b"\1" + tree(BYTES),
    "json-pairs": b"\1" + tree({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTES]},
                               {"merges": [["a", "b"]]}),
    "json-spm": b"\1" + tree(None, {"byte_fallback": True, "unk_token": "a", "vocab": {"a": 0, "b": 1, "ab": 2, "<0x41>": 5}},
                             normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}),
    "json-processor": b"\1" + tree(BYTES, post_processor={"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]}),
    "json-odd": b"\1" + tree({"type": "Split"}, {"merges": [["a"], 3]}),
    "merges": b"\2#version: 0.2\na b\r\n# b\n\n b\n",
}

for target, seeds in {"tok": TOK, "convert_tok": CONVERT}.items():
    folder = pathlib.Path("corpus") / target
    folder.mkdir(parents=True, exist_ok=True)
    for n, data in seeds.items():
        (folder / n).write_bytes(data)
