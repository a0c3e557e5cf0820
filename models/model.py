"""A small llama-type language model whose FFN activation can be exchanged.

Shapes: B windows, T tokens, d model width, f FFN width, L layers, H query heads, K key/value heads, e = d/H.
The layout is Hugging Face's LlamaForCausalLM (rotary halves), so that export is renaming alone.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import RecipeError

ACTIVATIONS = ("silu", "relu", "relu2", "fatrelu")


@dataclass(frozen=True)
class ModelConfig:
    """Everything the forward pass depends on; `threshold` is FATReLU's t and unused by other activations.

    `tied` makes the embedding the output head too, as in Hugging Face's tie_word_embeddings.
    """

    vocab: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ffn: int
    context: int
    activation: str = "silu"
    gated: bool = True
    tied: bool = False
    threshold: float = 0.0
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    def check(self) -> None:
        """Raise RecipeError on the first value that cannot work."""
        for key in ("vocab", "d_model", "n_layers", "n_heads", "n_kv_heads", "d_ffn", "context"):
            if getattr(self, key) < 1:
                raise RecipeError(f"model.{key} is {getattr(self, key)}: it must be at least 1.")
        if self.activation not in ACTIVATIONS:
            raise RecipeError(f"model.activation is '{self.activation}': choose one of {', '.join(ACTIVATIONS)}.")
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise RecipeError(f"model.d_model {self.d_model} over model.n_heads {self.n_heads} must be an even whole number.")
        if self.n_heads % self.n_kv_heads:
            raise RecipeError(f"model.n_kv_heads {self.n_kv_heads} must divide model.n_heads {self.n_heads}.")
        if self.threshold < 0:
            raise RecipeError(f"model.threshold is {self.threshold}: FATReLU's threshold cannot be negative.")


def activate(z: Tensor, name: str, threshold: float) -> Tensor:
    """The FFN activation σ(z), elementwise; FATReLU (ProSparse, section 3.3) is z where z >= t and 0 elsewhere."""
    if name == "silu":
        return F.silu(z)
    if name == "relu":
        return F.relu(z)
    if name == "relu2":
        return F.relu(z).square()
    return torch.where(z >= threshold, z, torch.zeros_like(z)) if threshold > 0 else F.relu(z)


def rope_tables(context: int, head: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each [context, head/2] in float32."""
    inv = base ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    angle = torch.outer(torch.arange(context, dtype=torch.float64), inv)
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of x [B, heads, T, e] on halves (first half pairs with second)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class RmsNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in float32 whatever the type of x."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax(q k^T / sqrt(e)) v of [B, H, T, e]; PyTorch before 2.0 has no fused function for it."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    t = q.shape[2]
    later = torch.ones(t, t, dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ v


class Attention(nn.Module):
    """Causal grouped-query attention, [B, T, d] to [B, T, d], no biases."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.head, self.n, self.kv = c.d_model // c.n_heads, c.n_heads, c.n_kv_heads
        self.q_proj = nn.Linear(c.d_model, self.n * self.head, bias=False)
        self.k_proj = nn.Linear(c.d_model, self.kv * self.head, bias=False)
        self.v_proj = nn.Linear(c.d_model, self.kv * self.head, bias=False)
        self.o_proj = nn.Linear(self.n * self.head, c.d_model, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape
        q = rotate(self.q_proj(x).view(b, t, self.n, self.head).transpose(1, 2), cos, sin)
        k = rotate(self.k_proj(x).view(b, t, self.kv, self.head).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, self.kv, self.head).transpose(1, 2)
        k, v = (y.repeat_interleave(self.n // self.kv, dim=1) for y in (k, v))
        y = attend(q, k, v)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, d))


class FeedForward(nn.Module):
    """FFN(x) = h W_dT with h = σ(x W_gT) * (x W_uT), or h = σ(x W_uT) when ungated. Returns ([B, T, d], h [B, T, f])."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.activation, self.threshold, self.gated = c.activation, c.threshold, c.gated
        if c.gated:
            self.gate_proj = nn.Linear(c.d_model, c.d_ffn, bias=False)
        self.up_proj = nn.Linear(c.d_model, c.d_ffn, bias=False)
        self.down_proj = nn.Linear(c.d_ffn, c.d_model, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.gated:
            h = activate(self.gate_proj(x), self.activation, self.threshold) * self.up_proj(x)
        else:
            h = activate(self.up_proj(x), self.activation, self.threshold)
        return self.down_proj(h), h


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.input_layernorm = RmsNorm(c.d_model, c.norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RmsNorm(c.d_model, c.norm_eps)
        self.mlp = FeedForward(c)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        y, h = self.mlp(self.post_attention_layernorm(x))
        return x + y, h


class Llama(nn.Module):
    """Token ids [B, T] to (logits [B, T, vocab], list of L hidden activations h [B, T, f])."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        c.check()
        self.config = c
        self.embed_tokens = nn.Embedding(c.vocab, c.d_model)
        self.layers = nn.ModuleList(Block(c) for _ in range(c.n_layers))
        self.norm = RmsNorm(c.d_model, c.norm_eps)
        if not c.tied:
            self.lm_head = nn.Linear(c.d_model, c.vocab, bias=False)
        cos, sin = rope_tables(c.context, c.d_model // c.n_heads, c.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.reset()

    def reset(self) -> None:
        """Initial weights: Gaussian with variance 1/width in, output projections scaled down by depth, head small.

        A tied embedding is small too, so that the first logits are; its tokens are told apart all the same, since
        every layer reads its input through a norm.
        """
        depth = (2 * self.config.n_layers) ** -0.5
        for name, p in self.named_parameters():
            if p.ndim < 2:
                nn.init.ones_(p)
            elif name.startswith("embed_tokens"):
                nn.init.normal_(p, std=0.02 if self.config.tied else 0.5)
            elif name.startswith("lm_head"):
                nn.init.normal_(p, std=0.002)
            else:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(p, std=0.6 * p.shape[1] ** -0.5 * (depth if residual else 1.0))

    def forward(self, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
        t = ids.shape[1]
        x, hidden = self.embed_tokens(ids), []
        for layer in self.layers:
            x, h = layer(x, self.cos[:t], self.sin[:t])
            hidden.append(h)
        x = self.norm(x)
        return (F.linear(x, self.embed_tokens.weight) if self.config.tied else self.lm_head(x)), hidden

    def set_activation(self, name: str, threshold: float = 0.0) -> None:
        """Exchange the activation in place (ProSparse step 1, and step 3 with a threshold); weights stay."""
        fields = {**self.config.__dict__, "activation": name, "threshold": threshold}
        self.config = ModelConfig(**fields)
        self.config.check()
        for layer in self.layers:
            layer.mlp.activation, layer.mlp.threshold = name, threshold

    def count(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters())
