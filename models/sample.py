#!/usr/bin/env python3
"""Continue a text with a trained variant.

usage: sample.py CONFIG.toml [-p TEXT] [-n TOKENS] [--temp 0.7] [--top-k 40] [--seed 1] [--threshold T] [--runs DIR]
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

import config
from errors import run_main
from load import open_model, open_tokenizer
from model import Llama


@torch.no_grad()
def continue_ids(model: Llama, ids: list[int], n: int, temperature: float, top_k: int, seed: int, end: int) -> list[int]:
    """At most n new ids after `ids`; temperature 0 takes the likeliest. Stops at `end` or at the context's end."""
    rng = torch.Generator().manual_seed(seed)
    out = list(ids)
    while len(out) < min(len(ids) + n, model.config.context):
        logits = model(torch.tensor([out]))[0][0, -1]
        if temperature <= 0:
            token = int(logits.argmax())
        else:
            best, where = logits.topk(min(top_k, len(logits)))
            token = int(where[torch.multinomial((best / temperature).softmax(0), 1, generator=rng)])
        if token == end:
            break
        out.append(token)
    return out[len(ids) :]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", type=Path)
    p.add_argument("-p", "--prompt", default="Once upon a time")
    p.add_argument("-n", type=int, default=200)
    p.add_argument("--temp", type=float, default=0.7)
    p.add_argument("--top-k", type=int, default=40)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threshold", type=float)
    p.add_argument("--runs", type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    r = config.load(a.config)
    model, _ = open_model(r, a.runs, a.threshold)
    sp = open_tokenizer(r)
    ids = [sp.bos_id(), *sp.encode(a.prompt)]
    new = continue_ids(model, ids, a.n, a.temp, a.top_k, a.seed, sp.eos_id())
    print(sp.decode([*ids, *new]))


if __name__ == "__main__":
    run_main(main)
