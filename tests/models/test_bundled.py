#!/usr/bin/env python3
"""The bundled model in the engine against transformers on the same weights.

The file is widened to F32 by `calor convert` and its tensors, dequantised by the gguf package, fill a LlamaForCausalLM.
usage: test_bundled.py [MODEL.gguf]
"""
import json
import math
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import tap  # noqa: E402

np, torch, transformers, gguf = tap.need("numpy", "torch", "transformers", "gguf")
from transformers.activations import ACT2FN  # noqa: E402

MODEL = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "models" / "calor-stories.gguf"
CONTEXT = 64
TEXT = """Once upon a time, there was a little boy named Tom. He had a red ball and a small dog. The dog liked to run after the ball.

One day, the ball rolled under a big tree. "Oh no," said Tom, "I can not see my ball!" The dog looked under the tree and barked.

Tom's mom came out of the house. She took a long stick and pushed the ball out. Tom was so happy that he gave his mom a big hug.

Then the king rode through the forest, for he had heard of a bird with golden feathers that sang only at night. An old woman sat
by the road and asked him for a piece of bread. He gave her half of what he had, and she told him where the bird had its nest.
"""


class FatRelu(torch.nn.Module):
    """x where x >= t, else 0."""

    def __init__(self, t=0.0):
        super().__init__()
        self.t = t

    def forward(self, x):
        return torch.where(x >= self.t, x, torch.zeros_like(x))


def value(reader, key, default=None):
    """A metadata value: string, number or list."""
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def twin(reader):
    """LlamaForCausalLM with the file's weights."""
    n = lambda key: value(reader, f"llama.{key}")  # noqa: E731
    heads, kv, kind = n("attention.head_count"), n("attention.head_count_kv"), n("hidden_activation")
    tied = not any(t.name == "output.weight" for t in reader.tensors)
    conf = transformers.LlamaConfig(
        vocab_size=len(value(reader, "tokenizer.ggml.tokens")), hidden_size=n("embedding_length"), intermediate_size=n("feed_forward_length"),
        num_hidden_layers=n("block_count"), num_attention_heads=heads, num_key_value_heads=kv, max_position_embeddings=n("context_length"),
        rms_norm_eps=n("attention.layer_norm_rms_epsilon"), rope_theta=n("rope.freq_base"), hidden_act="relu", tie_word_embeddings=tied,
        attn_implementation="eager")
    model = transformers.LlamaForCausalLM(conf)
    for layer in model.model.layers:
        layer.mlp.act_fn = FatRelu(n("hidden_activation_param") or 0.0) if kind == "fatrelu" else ACT2FN[kind]
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    inner = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    state = {}
    for t in reader.tensors:
        w = torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type), dtype=np.float32))
        name = outer.get(t.name)
        if name is None:
            _, layer, part, _ = t.name.split(".")
            name = f"model.layers.{layer}.{inner[part]}.weight"
            if part in ("attn_q", "attn_k"):  # adjacent rotary pairs back to halves
                h = heads if part == "attn_q" else kv
                w = w.view(h, w.shape[0] // h // 2, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)
        state[name] = w
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model.eval()


if not MODEL.exists():
    tap.skip_all(f"{MODEL} is not there")
reader = gguf.GGUFReader(str(MODEL))
tap.check("the file is small enough for the repository", MODEL.stat().st_size <= 12_000_000, MODEL.stat().st_size)
tap.check("its FFN's activation is one with exact zeros", value(reader, "llama.hidden_activation") in ("relu", "fatrelu"), value(reader, "llama.hidden_activation"))
text = tap.temp() / "text.txt"
text.write_text(TEXT)
out = tap.run("tokenize", MODEL, "-f", text)
if not tap.check("the text is tokenized", out.returncode == 0, out.stderr):
    tap.done()
ids = [int(x) for x in out.stdout.split()]
model = twin(reader)
hidden = []
for layer in model.model.layers:
    layer.mlp.down_proj.register_forward_pre_hook(lambda _m, args: hidden.append((args[0] == 0).float().mean().item()))
bos = value(reader, "tokenizer.ggml.bos_token_id")
stream = [bos, *ids]
windows = [[bos, *stream[i * CONTEXT + 1 : (i + 1) * CONTEXT]] for i in range(len(stream) // CONTEXT)]
with torch.no_grad():
    logits = model(torch.tensor(windows)).logits
half = CONTEXT // 2
scored = torch.nn.functional.cross_entropy(logits[:, half : CONTEXT - 1].flatten(0, 1), torch.tensor(windows)[:, half + 1 :].flatten()).item()
zeros = sum(hidden) / len(hidden)
said = value(reader, "calor.measured.stories.sparsity")
tap.check("as sparse as the file says", said is not None and abs(zeros - sum(said) / len(said)) < 0.06, (zeros, said))

wide = tap.temp() / "wide.gguf"
out = tap.run("convert", MODEL, "-o", wide, "--type", "f32")
if out.returncode == 2 or "unknown command" in out.stderr:
    tap.skip("logits in F32", "this build has no convert command")
elif tap.check("the file is widened to F32", out.returncode == 0, out.stderr):
    rows = tap.temp() / "rows.npy"
    out = tap.run("eval", wide, "-f", text, "-c", CONTEXT, "--kv", "f32", "--logits", rows, "--json")
    if tap.check("the widened file is evaluated", out.returncode == 0, out.stderr):
        got = np.load(rows).reshape(logits.shape)
        off = float(np.abs(got - logits.numpy()).max())
        tap.check("logits equal transformers' within 1e-3", off <= 1e-3, off)
        ppl = json.loads(out.stdout)["perplexity"]
        tap.check("perplexity equals transformers' within 0.1 %", abs(ppl / math.exp(scored) - 1) < 1e-3, (ppl, math.exp(scored)))
tap.done()
