#!/usr/bin/env python3
"""Hugging Face folders made by hand, without PyTorch: what is missing from a checkpoint is named, and what is not known is
refused. Whether the numbers are right is test_hf.py's business."""
import json
import struct

import tap

D, F, HEADS, KV, LAYERS, VOCAB = 64, 96, 4, 2, 3, 256
HD = D // HEADS


def byte_chars():
    """GPT-2's printable character of each byte."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = iter(range(256, 512))
    return [chr(b) if b in keep else chr(next(extra)) for b in range(256)]


def safetensors(path, shapes):
    head, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<f", 0.01) * (at // 4))


def llama(bias=False, tied=False):
    s = {"model.embed_tokens.weight": [VOCAB, D], "model.norm.weight": [D]}
    if not tied:
        s["lm_head.weight"] = [VOCAB, D]
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        s |= {p + "input_layernorm.weight": [D], p + "post_attention_layernorm.weight": [D],
              p + "self_attn.q_proj.weight": [D, D], p + "self_attn.k_proj.weight": [KV * HD, D],
              p + "self_attn.v_proj.weight": [KV * HD, D], p + "self_attn.o_proj.weight": [D, D],
              p + "mlp.gate_proj.weight": [F, D], p + "mlp.up_proj.weight": [F, D], p + "mlp.down_proj.weight": [D, F]}
        if bias:
            s |= {p + f"self_attn.{x}_proj.bias": [n] for x, n in (("q", D), ("k", KV * HD), ("v", KV * HD))}
    return s


def opt():
    s = {"model.decoder.embed_tokens.weight": [VOCAB, D], "model.decoder.embed_positions.weight": [66, D],
         "model.decoder.final_layer_norm.weight": [D], "model.decoder.final_layer_norm.bias": [D]}
    for i in range(LAYERS):
        p = f"model.decoder.layers.{i}."
        for name, rows, n in (("self_attn.q_proj", D, D), ("self_attn.k_proj", D, D), ("self_attn.v_proj", D, D),
                              ("self_attn.out_proj", D, D), ("fc1", F, D), ("fc2", D, F)):
            s |= {p + name + ".weight": [rows, n], p + name + ".bias": [rows]}
        for name in "self_attn_layer_norm", "final_layer_norm":
            s |= {p + name + ".weight": [D], p + name + ".bias": [D]}
    return s


def falcon():
    s = {"transformer.word_embeddings.weight": [VOCAB, D], "transformer.ln_f.weight": [D], "transformer.ln_f.bias": [D]}
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        s |= {p + "input_layernorm.weight": [D], p + "input_layernorm.bias": [D],
              p + "self_attention.query_key_value.weight": [D + 2 * HD, D], p + "self_attention.dense.weight": [D, D],
              p + "mlp.dense_h_to_4h.weight": [4 * D, D], p + "mlp.dense_4h_to_h.weight": [D, 4 * D]}
    return s


COMMON = dict(hidden_size=D, num_hidden_layers=LAYERS, num_attention_heads=HEADS, vocab_size=VOCAB, max_position_embeddings=64)
LLAMA = dict(COMMON, intermediate_size=F, num_key_value_heads=KV)
FAMILIES = {
    "llama": (llama(), dict(LLAMA, model_type="llama", tie_word_embeddings=False)),
    "llama, tied": (llama(tied=True), dict(LLAMA, model_type="llama", tie_word_embeddings=True)),
    "llama, biases": (llama(bias=True), dict(LLAMA, model_type="llama", tie_word_embeddings=False)),
    "qwen2": (llama(bias=True), dict(LLAMA, model_type="qwen2", tie_word_embeddings=False)),
    "opt": (opt(), dict(COMMON, model_type="opt", ffn_dim=F)),
    "falcon": (falcon(), dict(COMMON, model_type="falcon", multi_query=True)),
}

folder, out = tap.temp() / "hf", tap.temp() / "out.gguf"
folder.mkdir()
(folder / "tokenizer.json").write_text(json.dumps({
    "version": "1.0", "added_tokens": [], "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "post_processor": None, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {c: i for i, c in enumerate(byte_chars())}, "merges": []}}))


def convert(shapes, config):
    out.unlink(missing_ok=True)
    safetensors(folder / "model.safetensors", shapes)
    (folder / "config.json").write_text(json.dumps(config))
    return tap.run("convert", folder, "-o", out, "--type", "f32")


for name, (shapes, config) in FAMILIES.items():
    r = convert(shapes, config)
    used = tap.run("eval", out, "-f", folder / "config.json", "-c", "16")
    tap.check(f"{name}: complete, converts and loads", r.returncode == 0 and out.exists() and used.returncode == 0, r.stderr + used.stderr)
    wrong = []
    for left_out in shapes:
        r = convert({k: v for k, v in shapes.items() if k != left_out}, config)
        if r.returncode != 1 or f"'{left_out.removeprefix('model.') if name == 'opt' else left_out}'" not in r.stderr or out.exists():
            wrong.append((left_out, r.returncode, r.stderr))
    tap.check(f"{name}: any of its {len(shapes)} tensors that is missing is named", not wrong, "\n".join(map(str, wrong[:9])))

shapes, config = FAMILIES["llama"]
r = convert({k: v for k, v in shapes.items() if not k.startswith("model.layers.2.")}, config)
tap.check("a whole layer is missing", r.returncode == 1 and "model.layers.2." in r.stderr and "3 layers" in r.stderr, r.stderr)
r = convert({**shapes, "model.layers.1.mlp.router.weight": [4, D]}, config)
tap.check("a tensor that is not known is refused", r.returncode == 1 and "'model.layers.1.mlp.router.weight' is not one" in r.stderr, r.stderr)
r = convert({**shapes, "model.layers.3.mlp.up_proj.weight": [F, D]}, config)
tap.check("a layer more than config.json says is refused", r.returncode == 1 and "of layer 3" in r.stderr, r.stderr)
tap.done()
