"""How many neurons are active, against a count over the weights that shares no code with the engine."""
import json

import tap

np, gguf = tap.need("numpy", "gguf")
model = tap.ROOT / "models" / "calor-stories.gguf"
# Zeros of h in the first layer counted from the weights alone, for the first token of a window: BOS at position 0 attends to
# itself only, so attention is o·v and no rotation matters.
reader = gguf.GGUFReader(str(model))
w = {t.name: gguf.dequantize(t.data, t.tensor_type).reshape(tuple(int(x) for x in reversed(t.shape))).astype("f8")
     for t in reader.tensors if t.name.startswith(("blk.0.", "token_embd"))}
keys = {k: f.parts[f.data[0]][0] for k, f in reader.fields.items() if len(f.data) == 1 and f.types[0].name != "STRING"}
heads, kv = int(keys["llama.attention.head_count"]), int(keys["llama.attention.head_count_kv"])
eps, t = float(keys["llama.attention.layer_norm_rms_epsilon"]), float(keys.get("llama.hidden_activation_param", 0))
norm = lambda x, g: x / np.sqrt((x * x).mean() + eps) * g
x = w["token_embd.weight"][int(keys["tokenizer.ggml.bos_token_id"])]
v = (w["blk.0.attn_v.weight"] @ norm(x, w["blk.0.attn_norm.weight"])).reshape(kv, -1)
x = x + w["blk.0.attn_output.weight"] @ np.repeat(v, heads // kv, axis=0).reshape(-1)
n = norm(x, w["blk.0.ffn_norm.weight"])
active = ((w["blk.0.ffn_gate.weight"] @ n) >= t).sum()
j = json.loads(tap.run("run", model, "-p", "", "-n", "0", "--json").stdout)
found = (1 - j["ffn"]["layers"][0]["sparsity"]) * len(w["blk.0.ffn_gate.weight"])
tap.check("active neurons of one token are those that the weights give", abs(found - active) <= max(2, 0.05 * active), (found, active))
tap.done()
