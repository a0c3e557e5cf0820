"""A LLaMA with float weights in plain Python: what every FFN neuron does for each token, and the papers' figures from
their definitions (models/metrics.py has the same for PyTorch). Slow, small, an oracle."""
import json
import math
import struct
from operator import mul

import tap


def dot(a, b):
    return sum(map(mul, a, b))


class Llama:
    def __init__(self, path):
        j = json.loads(tap.run("inspect", path, "--json").stdout)
        data = path.read_bytes()
        meta = {k: v["value"] if isinstance(v, dict) and "value" in v else v for k, v in j["metadata"].items()} if isinstance(j["metadata"], dict) \
            else {m["key"]: m["value"] for m in j["metadata"]}
        self.heads, self.kv = meta["llama.attention.head_count"], meta["llama.attention.head_count_kv"]
        self.layers, self.base = meta["llama.block_count"], meta["llama.rope.freq_base"]
        self.eps, self.bos = meta["llama.attention.layer_norm_rms_epsilon"], meta["tokenizer.ggml.bos_token_id"]
        self.t = {}
        for t in j["tensors"]:
            assert t["type"] == "F32"
            v = struct.unpack_from(f"<{t['values']}f", data, t["offset"])
            n = t["shape"][0]
            self.t[t["name"]] = [v[i:i + n] for i in range(0, len(v), n)] if len(t["shape"]) > 1 else v

    def norm(self, x, name):
        scale = 1 / math.sqrt(dot(x, x) / len(x) + self.eps)
        return [v * scale * w for v, w in zip(x, self.t[name])]

    def rotate(self, v, pos, size):
        out = list(v)
        for i in range(0, len(v), 2):
            a = pos * self.base ** (-(i % size) / size)
            c, s = math.cos(a), math.sin(a)
            out[i], out[i + 1] = v[i] * c - v[i + 1] * s, v[i] * s + v[i + 1] * c
        return out

    def hidden(self, ids, epsilon=None, surprise=None):
        """h[layer][token] of the tokens behind BOS. With epsilon, one a layer: neurons of less magnitude are left out. To the
        list `surprise` go -ln p of each of these tokens."""
        norms = [self.norms(n) for n in range(self.layers)]
        out = [[] for _ in range(self.layers)]
        keys, values = [[] for _ in range(self.layers)], [[] for _ in range(self.layers)]
        for pos, token in enumerate([self.bos, *ids]):
            x = list(self.t["token_embd.weight"][token])
            size = len(x) // self.heads
            for n in range(self.layers):
                w = lambda name: self.t[f"blk.{n}.{name}.weight"]
                a = self.norm(x, f"blk.{n}.attn_norm.weight")
                q, k, v = ([dot(r, a) for r in w(f"attn_{p}")] for p in "qkv")
                q = self.rotate(q, pos, size)
                keys[n].append(self.rotate(k, pos, size))
                values[n].append(v)
                mixed = []
                for head in range(self.heads):
                    g = head * self.kv // self.heads * size
                    score = [dot(q[head * size:(head + 1) * size], kk[g:g + size]) / math.sqrt(size) for kk in keys[n]]
                    top = max(score)
                    e = [math.exp(s - top) for s in score]
                    mixed += [sum(p * vv[g + c] for p, vv in zip(e, values[n])) / sum(e) for c in range(size)]
                x = [v + dot(r, mixed) for v, r in zip(x, w("attn_output"))]
                a = self.norm(x, f"blk.{n}.ffn_norm.weight")
                h = [g / (1 + math.exp(-g)) * dot(u, a) for g, u in ((dot(r, a), u) for r, u in zip(w("ffn_gate"), w("ffn_up")))]
                if epsilon:
                    h = [v if abs(v) * c >= epsilon[n] else 0.0 for v, c in zip(h, norms[n])]
                x = [v + dot(r, h) for v, r in zip(x, w("ffn_down"))]
                if pos:
                    out[n].append(h)
            if surprise is not None and pos < len(ids):
                a = self.norm(x, "output_norm.weight")
                logits = [dot(r, a) for r in self.t.get("output.weight", self.t["token_embd.weight"])]
                top = max(logits)
                surprise.append(top + math.log(sum(math.exp(v - top) for v in logits)) - logits[ids[pos]])
        return out

    def norms(self, layer):
        return [math.sqrt(dot(c, c)) for c in zip(*self.t[f"blk.{layer}.ffn_down.weight"])]

    def cett(self, layer, h, epsilon):
        down, norms, total = self.t[f"blk.{layer}.ffn_down.weight"], self.norms(layer), 0.0
        for token in h:
            tail = [v if abs(v) * n < epsilon else 0.0 for v, n in zip(token, norms)]
            a, b = ([dot(r, v) for r in down] for v in (tail, token))
            total += math.sqrt(dot(a, a) / dot(b, b))
        return total / len(h)


def reuse(active, k):
    """active: a set a token, consecutive."""
    shares = [len(a & set().union(*active[t - k:t])) / len(a) for t, a in enumerate(active) if t >= k and a]
    return sum(shares) / len(shares)


def gap(active, f, m=10):
    mean, gaps = sum(map(len, active)) / (len(active) * f), []
    for i in range(f):
        own = [a for a in active if i in a]
        if own:
            p = sorted((sum(j in a for a in own) / len(own) for j in range(f) if j != i), reverse=True)
            gaps.append(sum(p[:m]) / m - mean)
    return sum(gaps) / len(gaps)
