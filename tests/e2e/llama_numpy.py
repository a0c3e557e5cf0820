"""The forward pass of a llama or falcon file in numpy and float32, straight from the papers: shares no code with calor.

    m = Model(path)          # gguf-py reads and dequantises
    for h in m.hidden(ids):  # (tokens, f) per layer: what the FFN multiplies down with
    for x, h in m.ffns(ids): # and what the FFN sees, (tokens, d)
"""
import functools

import gguf
import numpy as np


class Model:
    def __init__(self, path):
        self.reader = gguf.GGUFReader(path)
        self.t = {x.name: x for x in self.reader.tensors}
        self.arch = bytes(self.value("general.architecture")).decode()
        key = self.arch + "."
        self.layers = int(self.value(key + "block_count")[0])
        self.heads = int(self.value(key + "attention.head_count")[0])
        self.kv = int(self.value(key + "attention.head_count_kv")[0])
        self.act = bytes(self.value(key + "hidden_activation")).decode()
        self.act_t = float(self.value(key + "hidden_activation_param")[0]) if self.act == "fatrelu" else 0.0
        self.d = int(self.t["token_embd.weight"].shape[0])

    def value(self, key):
        field = self.reader.fields[key]
        return field.parts[field.data[0]]

    @functools.lru_cache(maxsize=None)
    def w(self, name):
        x = self.t[name]
        return gguf.quants.dequantize(x.data, x.tensor_type).astype(np.float32)

    def norm(self, x, name):
        if self.arch == "falcon":
            x = x - x.mean(-1, keepdims=True)
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.w(name + ".weight") + self.w(name + ".bias")
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.w(name + ".weight")

    def rope(self, x):
        n, _, hd = x.shape
        angle = np.arange(n)[:, None] * 10000.0 ** (-np.arange(hd // 2) * 2 / hd)
        z = np.exp(1j * angle)[:, None, :]
        if self.arch == "falcon":
            y = (x[..., :hd // 2] + 1j * x[..., hd // 2:]) * z
            return np.concatenate([y.real, y.imag], -1).astype(np.float32)
        y = (x[..., 0::2] + 1j * x[..., 1::2]) * z
        return np.stack([y.real, y.imag], -1).reshape(x.shape).astype(np.float32)

    def attention(self, x, b):
        n, hd = len(x), self.d // self.heads
        if self.arch == "falcon":
            qkv = x @ self.w(b + "attn_qkv.weight").T
            q, k, v = np.split(qkv, [self.d, self.d + self.kv * hd], 1)
        else:
            q, k, v = (x @ self.w(b + f"attn_{i}.weight").T for i in "qkv")
        q, k, v = self.rope(q.reshape(n, -1, hd)), self.rope(k.reshape(n, -1, hd)), v.reshape(n, -1, hd)
        out = np.empty_like(q)
        for i in range(self.heads):
            j = i * self.kv // self.heads
            s = q[:, i] @ k[:, j].T / np.sqrt(hd) + np.triu(np.full((n, n), -np.inf, np.float32), 1)
            s = np.exp(s - s.max(-1, keepdims=True))
            out[:, i] = s @ v[:, j] / s.sum(-1, keepdims=True)
        return out.reshape(n, -1) @ self.w(b + "attn_output.weight").T

    def ffn(self, x, b):
        z = x @ self.w(b + ("ffn_up.weight" if self.arch == "falcon" else "ffn_gate.weight")).T
        h = np.where(z > self.act_t, z, 0)
        if self.act == "relu2":
            h = h * h
        if self.arch != "falcon":
            up = x @ self.w(b + "ffn_up.weight").T
            h = h * (np.maximum(up, 0) if self.act == "drelu" else up)
        return h, h @ self.w(b + "ffn_down.weight").T

    def hidden(self, ids):
        for _, h in self.ffns(ids):
            yield h

    def ffns(self, ids):
        x = self.w("token_embd.weight")[ids]
        for i in range(self.layers):
            b = f"blk.{i}."
            if self.arch == "falcon":
                seen = self.norm(x, b + "attn_norm")
                h, y = self.ffn(seen, b)
                x = x + y + self.attention(self.norm(x, b + "attn_norm_2"), b)
            else:
                x = x + self.attention(self.norm(x, b + "attn_norm"), b)
                seen = self.norm(x, b + "ffn_norm")
                h, y = self.ffn(seen, b)
                x = x + y
            yield seen, h
        self.logits = self.norm(x, "output_norm") @ self.w("output.weight" if "output.weight" in self.t else "token_embd.weight").T


def statistics(active, hot=0.26):
    """(sequences, tokens, f) of bool → sparsity, share of the activations that the hottest take, persistence."""
    count = np.sort(active.sum((0, 1)))[::-1]
    stay = (active[:, 1:] & active[:, :-1]).sum() / active[:, 1:].sum()
    return 1 - active.mean(), count[:round(hot * len(count))].sum() / count.sum(), stay
