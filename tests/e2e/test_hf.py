#!/usr/bin/env python3
"""Hugging Face folders against transformers: for every supported family a tiny random model is saved, converted with
`calor convert --type f32`, and its logits are compared, float32 against float32. Three families live in remote code there
(sparsellama, minicpm, bamboo): their oracle is transformers' Llama with the activation and the scales put in by hand."""
import json
import math

import tap

torch, tr, np = tap.need("torch", "transformers", "numpy")
tokenizers = tap.need("tokenizers")
torch.manual_seed(1)
torch.set_num_threads(2)

TEXT = ("Once upon a time there was a small fox who lived in a hollow tree. Every morning the fox walked to the river, "
        "looked at the water and counted the fish: 1, 2, 3, 10, 200! \"Good day,\" said the heron; \"don't you ever sleep?\"\n"
        "The fox laughed. It was warm, the reeds were green, and nobody had anything to do until the evening came.\n") * 3
CTX = 64
TOLERANCE = 1e-3


def make_tokenizer(folder):
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=384, special_tokens=["<|endoftext|>"], show_progress=False,
                                             initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator([TEXT], trainer)
    fast = tr.PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<|endoftext|>")
    fast.save_pretrained(folder)
    return fast


def widen(model):
    """Random weights large enough that every part of the model matters to the logits."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() == 2:
                p.normal_(0, 1.2 / math.sqrt(p.shape[1]))
            elif "norm" in name or "ln_" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p)) if name.endswith("weight") else p.normal_(0, 0.1)
            else:
                p.normal_(0, 0.2)
    return model.eval()


def llama(**kw):
    base = dict(vocab_size=384, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=False)
    return tr.LlamaForCausalLM(tr.LlamaConfig(**{**base, **kw}))


def fat_relu(t):
    return lambda x: torch.where(x >= t, x, torch.zeros_like(x))


def patch_mlp(model, forward):
    for layer in model.model.layers:
        layer.mlp.forward = (lambda m: lambda x: forward(m, x))(layer.mlp)
    return model


def sparsellama():
    model = widen(llama())
    act = fat_relu(0.25)
    return patch_mlp(model, lambda m, x: m.down_proj(act(m.gate_proj(x)) * m.up_proj(x))), \
        dict(model_type="sparsellama", hidden_act="fatrelu", hidden_act_param=0.25)


def bamboo():
    model = widen(llama())
    relu = torch.relu
    return patch_mlp(model, lambda m, x: m.down_proj(relu(m.gate_proj(x)) * relu(m.up_proj(x)))), \
        dict(model_type="bamboo", hidden_act="relu")


def minicpm():
    model = widen(llama(tie_word_embeddings=True))
    emb, depth, base, layers = 12.0, 1.4, 16, 3
    act = fat_relu(0.03)
    patch_mlp(model, lambda m, x: m.down_proj(act(m.gate_proj(x)) * m.up_proj(x)))
    model.model.embed_tokens.register_forward_hook(lambda m, i, o: o * emb)
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda m, i, o: o * (depth / math.sqrt(layers)))
        layer.self_attn.register_forward_hook(lambda m, i, o: (o[0] * (depth / math.sqrt(layers)), *o[1:]))
    model.lm_head.register_forward_pre_hook(lambda m, i: (i[0] / (64 / base),))
    return model, dict(model_type="minicpm", hidden_act="fatrelu", hidden_act_param=0.03, scale_emb=emb, scale_depth=depth,
                       dim_model_base=base)


def plain(model, **edits):
    return widen(model), edits


def falcon(**kw):
    base = dict(vocab_size=384, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, alibi=False, bias=False,
                parallel_attn=True)
    return tr.FalconForCausalLM(tr.FalconConfig(**{**base, **kw}))


FAMILIES = {
    "llama": lambda: plain(llama()),
    "llama, tied, attention and MLP biases": lambda: plain(llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True)),
    "llama, linear rope scaling": lambda: plain(llama(rope_scaling={"type": "linear", "factor": 4.0, "rope_type": "linear"})),
    "llama, llama3 rope scaling": lambda: plain(llama(rope_theta=500.0, rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64})),
    # This version of transformers takes max_position_embeddings for the original context length.
    "llama, yarn rope scaling": lambda: plain(llama(max_position_embeddings=64, rope_scaling={
        "rope_type": "yarn", "factor": 4.0})),
    "llama, yarn, its own attention factor": lambda: plain(llama(max_position_embeddings=64, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5})),
    "llama, relu": lambda: plain(llama(hidden_act="relu")),
    "mistral": lambda: plain(tr.MistralForCausalLM(tr.MistralConfig(
        vocab_size=384, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=1, max_position_embeddings=256, sliding_window=None))),
    "mistral, sliding window": lambda: plain(tr.MistralForCausalLM(tr.MistralConfig(
        vocab_size=384, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, sliding_window=16, attn_implementation="eager"))),
    "qwen2": lambda: plain(tr.Qwen2ForCausalLM(tr.Qwen2Config(
        vocab_size=384, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256))),
    "opt": lambda: plain(tr.OPTForCausalLM(tr.OPTConfig(
        vocab_size=384, hidden_size=64, ffn_dim=160, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=64,
        max_position_embeddings=256, pad_token_id=1, bos_token_id=0, eos_token_id=0))),
    "falcon, one key head": lambda: plain(falcon(multi_query=True)),
    "falcon, grouped keys, two norms": lambda: plain(falcon(new_decoder_architecture=True, num_kv_heads=2)),
    "falcon, relu, biases": lambda: plain(falcon(multi_query=True, activation="relu", bias=True)),
    "sparsellama": sparsellama,
    "minicpm": minicpm,
    "bamboo": bamboo,
}


def main():
    text = tap.temp() / "text.txt"
    text.write_text(TEXT)
    for number, (name, make) in enumerate(FAMILIES.items()):
        folder = tap.temp() / f"hf{number}"
        model, edits = make()
        model.save_pretrained(folder, safe_serialization=True, max_shard_size="100KB" if number % 2 else "1GB")
        config = json.loads((folder / "config.json").read_text())
        config.update(edits)
        (folder / "config.json").write_text(json.dumps(config))
        fast = make_tokenizer(folder)
        gguf, logits = tap.temp() / f"m{number}.gguf", tap.temp() / f"m{number}.npy"
        done = tap.run("convert", folder, "-o", gguf, "--type", "f32")
        if not tap.check(f"{name}: converts", done.returncode == 0, done.stderr):
            continue
        ids = fast(TEXT)["input_ids"]
        out = tap.run("tokenize", gguf, "-f", text)
        tap.check(f"{name}: same token ids", out.stdout.split() == [str(i) for i in ids], out.stderr + out.stdout[:200])
        done = tap.run("eval", gguf, "-f", text, "-c", CTX, "--kv", "f32", "--logits", logits)
        if not tap.check(f"{name}: evaluates", done.returncode == 0, done.stderr):
            continue
        got = np.load(logits).reshape(-1, 384)
        windows = torch.tensor(ids[: len(ids) // CTX * CTX]).reshape(-1, CTX)
        with torch.no_grad():
            want = model(windows).logits.reshape(-1, 384).numpy()
        spread = float(want.std())
        worst = float(np.abs(got - want).max()) if got.shape == want.shape else f"shape {got.shape} against {want.shape}"
        tap.check(f"{name}: max |Δlogit| ≤ {TOLERANCE} (spread {spread:.2f})", got.shape == want.shape and worst <= TOLERANCE, worst)

    def refused(name, edits, words):
        config = json.loads((tap.temp() / "hf8" / "config.json").read_text())
        broken = tap.temp() / "broken"
        broken.mkdir(exist_ok=True)
        for file in (tap.temp() / "hf8").iterdir():
            (broken / file.name).write_bytes(file.read_bytes())
        (broken / "config.json").write_text(json.dumps({**config, **edits}))
        out = tap.run("convert", broken, "-o", tap.temp() / "broken.gguf")
        tap.check(name, out.returncode in (1, 2) and words in out.stderr and not (tap.temp() / "broken.gguf").exists(), out.stderr)

    refused("a vocabulary of another size is refused", {"vocab_size": 512}, "the token embedding has 384 rows")
    refused("an unknown family is refused", {"model_type": "mamba"}, "'mamba' is not supported")
    refused("an unknown activation is refused", {"hidden_act": "quick"}, 'activation "quick" is unknown')
    refused("heads that don't divide are refused", {"num_attention_heads": 5}, "does not divide")

    bin_folder = tap.temp() / "pickled"
    bin_folder.mkdir()
    (bin_folder / "config.json").write_text("{}")
    (bin_folder / "pytorch_model.bin").write_bytes(b"x")
    out = tap.run("convert", bin_folder, "-o", tap.temp() / "x.gguf")
    tap.check("a pickled checkpoint names the conversion to safetensors",
              out.returncode == 1 and "save_file" in out.stderr, out.stderr)
    tap.check("and leaves no file", not (tap.temp() / "x.gguf").exists())
    tap.done()


main()
