#!/usr/bin/env python3
"""Write a trained variant as GGUF (F32, Q8_0) and as a Hugging Face folder.

usage: export.py CONFIG.toml [--threshold T] [--gguf FILE] [--type f32|q8_0] [--hf DIR] [--runs DIR]

GGUF: the standard llama layout (query and key rows permuted to adjacent rotary pairs), SPM tokenizer, the activation in
llama.hidden_activation (and _param), provenance under calor.*. The folder is LlamaForCausalLM's; its config.json names
hidden_act "fatrelu" with hidden_act_param, which transformers runs once that name is put into its ACT2FN.
"""
from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import config
from config import Recipe
from data import Corpus, data_folder
from errors import RecipeError, run_main
from load import open_model, open_tokenizer
from model import Llama
from train import evaluate

ARCH = "llama"
RENAME = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def permute_rotary(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows of w [heads * e, d] from half-split to adjacent rotary pairs, as GGUF's llama layout has them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def gguf_name(name: str) -> str:
    """GGUF's name of one of our parameters."""
    outer = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if name in outer:
        return outer[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{RENAME[rest.removesuffix('.weight')]}.weight"


def gated_equal(model: Llama, name: str) -> Llama:
    """The model itself, or of an ungated ReLU² one the gated ReLU model that computes the same h: relu(z)² = relu(z) z, so its
    gate and up matrices are the ungated one's up. The llama layout has no ungated FFN."""
    if model.config.gated:
        return model
    if model.config.activation != "relu2":
        raise RecipeError(f"{name} is ungated with {model.config.activation}: the llama layout has no such FFN; gated variants and ungated ReLU² are exported.")
    print(f"{name}: ungated ReLU² is written as its equal, gated ReLU with the up matrix as gate too")
    out = Llama(replace(model.config, gated=True, activation="relu"))
    weights = dict(model.state_dict())
    weights |= {n.replace("up_proj", "gate_proj"): w for n, w in weights.items() if "up_proj" in n}
    out.load_state_dict(weights)
    return out.eval()


def measure(model: Llama, r: Recipe) -> dict[str, Any]:
    """Held-out loss and zeros, for the file's provenance keys."""
    corpus = Corpus(r)
    out: dict[str, Any] = {}
    for name in ("heldin", "heldout"):
        loss, zeros = evaluate(model, torch.from_numpy(corpus.held(name, 64)))
        out[name] = (loss, zeros)
        print(f"{name}: loss {loss:.4f} nats a token, zeros {100 * sum(zeros) / len(zeros):.2f} %, per layer {' '.join(f'{100 * z:.1f}' for z in zeros)}")
    return out


def write_gguf(path: Path, model: Llama, r: Recipe, state: dict[str, Any], kind: str, measured: dict[str, Any]) -> None:
    """The model as a GGUF file of tensors in F32 or Q8_0 (norms always F32); `measured` may be empty."""
    import gguf

    if kind == "q8_0" and (r.model.d_model % 32 or r.model.d_ffn % 32):
        raise RecipeError(f"Q8_0 blocks of 32 do not divide the widths {r.model.d_model} and {r.model.d_ffn}.")
    model = gated_equal(model, r.name)
    c, sp = model.config, open_tokenizer(r)
    temporary = path.with_suffix(".tmp")
    w = gguf.GGUFWriter(str(temporary), ARCH)
    w.add_name("Calor Stories" if r.name.startswith("stories") else r.name)
    w.add_string("general.description", "A small activation-sparse model of simple stories, trained by the ProSparse recipe" if c.activation in ("relu", "fatrelu") and r.fork_from else f"A small model of simple stories: {r.name}")
    w.add_license("apache-2.0")
    w.add_quantization_version(2)
    w.add_file_type(7 if kind == "q8_0" else 0)
    w.add_context_length(c.context)
    w.add_embedding_length(c.d_model)
    w.add_block_count(c.n_layers)
    w.add_feed_forward_length(c.d_ffn)
    w.add_head_count(c.n_heads)
    w.add_head_count_kv(c.n_kv_heads)
    w.add_rope_dimension_count(c.d_model // c.n_heads)
    w.add_rope_freq_base(c.rope_base)
    w.add_layer_norm_rms_eps(c.norm_eps)
    w.add_vocab_size(c.vocab)
    w.add_string(f"{ARCH}.hidden_activation", c.activation)
    if c.activation == "fatrelu":
        w.add_float32(f"{ARCH}.hidden_activation_param", c.threshold)
    w.add_string("calor.corpus", "; ".join(Path(s.path).name for s in r.data.text))
    w.add_string("calor.corpus.licence", "public-domain stories; TinyStories excerpts (CDLA-Sharing-1.0)")
    w.add_string("calor.training.recipe", f"{r.name} {r.digest()}")
    w.add_uint32("calor.training.steps", state["step"])
    w.add_uint64("calor.training.tokens", state["step"] * r.optim.batch * c.context)
    for name, key in (("heldin", "stories"), ("heldout", "books")) if measured else ():
        loss, zeros = measured[name]
        w.add_float32(f"calor.measured.{key}.loss", loss)
        w.add_array(f"calor.measured.{key}.sparsity", [float(z) for z in zeros])
    tokens, scores, types = [], [], []
    for i in range(sp.vocab_size()):
        tokens.append(sp.id_to_piece(i).encode())
        scores.append(float(sp.get_score(i)))
        kinds = gguf.TokenType
        types.append(kinds.UNKNOWN if sp.is_unknown(i) else kinds.CONTROL if sp.is_control(i) else kinds.BYTE if sp.is_byte(i) else kinds.NORMAL)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(sp.bos_id())
    w.add_eos_token_id(sp.eos_id())
    w.add_unk_token_id(sp.unk_id())
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    w.add_add_space_prefix(True)
    for name, p in model.named_parameters():
        x = p.detach().float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            x = permute_rotary(x, c.n_heads if "q_proj" in name else c.n_kv_heads)
        if kind == "q8_0" and x.ndim == 2:
            q = gguf.quants.quantize(np.ascontiguousarray(x), gguf.GGMLQuantizationType.Q8_0)
            w.add_tensor(gguf_name(name), q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(gguf_name(name), np.ascontiguousarray(x))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    temporary.replace(path)
    print(f"{path}: {path.stat().st_size} bytes, {kind}, activation {c.activation}{f' t = {c.threshold:g}' if c.activation == 'fatrelu' else ''}")


def write_hf(folder: Path, model: Llama, r: Recipe) -> None:
    """The model as a folder for transformers: config.json, model.safetensors (F32), tokenizer."""
    from safetensors.torch import save_file

    model = gated_equal(model, r.name)
    c = model.config
    folder.mkdir(parents=True, exist_ok=True)
    conf: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "vocab_size": c.vocab,
        "hidden_size": c.d_model, "intermediate_size": c.d_ffn, "num_hidden_layers": c.n_layers, "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads, "head_dim": c.d_model // c.n_heads, "max_position_embeddings": c.context,
        "rms_norm_eps": c.norm_eps, "rope_theta": c.rope_base, "hidden_act": c.activation, "tie_word_embeddings": c.tied,
        "bos_token_id": 1, "eos_token_id": 2, "attention_bias": False, "mlp_bias": False,
    }
    if c.activation == "fatrelu":
        conf["hidden_act_param"] = c.threshold
    (folder / "config.json").write_text(json.dumps(conf, indent=1) + "\n")
    tensors = {(n if n.startswith("lm_head") else f"model.{n}"): p.detach().float().contiguous() for n, p in model.named_parameters()}
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    shutil.copyfile(data_folder(r) / "tokenizer.model", folder / "tokenizer.model")
    tok = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True,
           "add_eos_token": False, "legacy": True, "model_max_length": c.context, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(tok, indent=1) + "\n")
    print(f"{folder}: LlamaForCausalLM, {model.count()} parameters")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", type=Path)
    p.add_argument("--threshold", type=float, help="FATReLU's t (fatrelu.py chooses it)")
    p.add_argument("--gguf", type=Path)
    p.add_argument("--type", choices=("f32", "q8_0"), default="q8_0")
    p.add_argument("--hf", type=Path)
    p.add_argument("--runs", type=Path)
    a = p.parse_args()
    if not a.gguf and not a.hf:
        raise RecipeError("nothing to write: give --gguf FILE, --hf DIR or both.")
    torch.set_num_threads(1)
    r = config.load(a.config)
    model, state = open_model(r, a.runs, a.threshold)
    if a.gguf:
        write_gguf(a.gguf, model, r, state, a.type, measure(model, r))
    if a.hf:
        write_hf(a.hf, model, r)


if __name__ == "__main__":
    run_main(main)
