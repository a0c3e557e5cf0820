#!/usr/bin/env python3
"""Do Calor and a llama.cpp-family engine give the same answers on one GGUF file?

Runs the peer's llama-perplexity with --kl-divergence-base (it stores its log-probabilities) and `calor eval --logits` on the
same text and windows, and prints perplexities, the mean KL divergence of Calor from the peer, and how often both rank the
same token first.

    bench/peer_kld.py MODEL.gguf TEXT --peer PATH/llama-perplexity [--calor build/calor] [-c 256] [--chunks 8] [-t 2] [--json]

Exit status: 0 when the answers agree (KLD ≤ 1e-3, same top token ≥ 99 %, |ΔPPL| ≤ 0.1 %), 3 when not, 1 on errors."""
import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy as np


def read_peer(path, context):
    """The peer's file: '_logits_', i32 context, vocab, chunks, the tokens, then per scored position a scale, a minimum and
    vocab u16 steps above the minimum. Returns tokens [chunks, context] and log-probabilities [chunks, rows, vocab]."""
    raw = path.read_bytes()
    if raw[:8] != b"_logits_":
        sys.exit(f"peer_kld: {path}: not a file of llama-perplexity --kl-divergence-base")
    n_ctx, vocab, chunks = struct.unpack_from("<iii", raw, 8)
    if n_ctx != context:
        sys.exit(f"peer_kld: the peer used windows of {n_ctx} tokens instead of {context}")
    tokens = np.frombuffer(raw, "<i4", chunks * n_ctx, 20).reshape(chunks, n_ctx)
    rows, width = n_ctx - 1 - n_ctx // 2, 2 * ((vocab + 1) // 2) + 4
    data = np.frombuffer(raw, "<u2", chunks * rows * width, 20 + 4 * chunks * n_ctx).reshape(chunks, rows, width)
    head = data[:, :, :4].copy().view("<f4")
    return tokens, head[..., 0:1] * data[:, :, 4:4 + vocab].astype(np.float32) + head[..., 1:2]


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("text")
    ap.add_argument("--peer", required=True)
    ap.add_argument("--peer-args", default="", help="further flags for the peer, in one string")
    ap.add_argument("--calor", default=str(pathlib.Path(__file__).resolve().parents[1] / "build" / "calor"))
    ap.add_argument("-c", "--context", type=int, default=256)
    ap.add_argument("--chunks", type=int, default=8)
    ap.add_argument("-t", "--threads", type=int, default=2)
    ap.add_argument("--json", action="store_true")
    a = ap.parse_args()
    with tempfile.TemporaryDirectory(prefix="peer-kld-") as d:
        base, npy, cut = (pathlib.Path(d) / n for n in ("peer.bin", "calor.npy", "text"))
        done = subprocess.run([a.peer, "-m", a.model, "-f", a.text, "-c", str(a.context), "-b", str(a.context), "-t", str(a.threads),
                               "--chunks", str(a.chunks), "--kl-divergence-base", str(base), *a.peer_args.split()],
                              capture_output=True, text=True)
        if done.returncode or not base.exists():
            sys.exit(f"peer_kld: the peer failed:\n{done.stderr[-2000:]}")
        tokens, peer = read_peer(base, a.context)
        # Calor gets as much text as the peer read: whole windows are compared, in order.
        text = pathlib.Path(a.text).read_bytes()
        cut.write_bytes(text[: min(len(text), 16 * tokens.size)])
        done = subprocess.run([a.calor, "eval", a.model, "-f", str(cut), "-c", str(a.context), "-t", str(a.threads),
                               "--logits", str(npy)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"peer_kld: calor failed: {done.stderr.strip()}")
        ours = np.load(npy, mmap_mode="r")
        chunks, first = len(tokens), a.context // 2
        if len(ours) < chunks * a.context:
            sys.exit(f"peer_kld: calor has {len(ours) // a.context} windows of this text, the peer {chunks}: "
                     "do both tokenize it alike?")
        kld, same, nll_ours, nll_peer = [], [], [], []
        for i in range(chunks):
            q = log_softmax(ours[i * a.context + first:(i + 1) * a.context - 1])
            p = log_softmax(peer[i])
            kld.append((np.exp(p) * (p - q)).sum(-1))
            same.append(p.argmax(-1) == q.argmax(-1))
            target = tokens[i, first + 1:]
            nll_ours.append(-np.take_along_axis(q, target[:, None], 1))
            nll_peer.append(-np.take_along_axis(p, target[:, None], 1))
    ppl, peer_ppl = float(np.exp(np.mean(nll_ours))), float(np.exp(np.mean(nll_peer)))
    out = {"perplexity": ppl, "peer_perplexity": peer_ppl, "kld_mean": float(np.mean(kld)),
           "kld_p99": float(np.percentile(np.concatenate(kld), 99)), "same_top": float(np.mean(same)), "tokens": int(np.size(same))}
    agree = out["kld_mean"] <= 1e-3 and out["same_top"] >= 0.99 and abs(ppl / peer_ppl - 1) <= 1e-3
    out["agree"] = bool(agree)
    print(json.dumps(out) if a.json else "\n".join(f"{k:16} {v:.6g}" if isinstance(v, float) else f"{k:16} {v}" for k, v in out.items()))
    sys.exit(0 if agree else 3)


main()
