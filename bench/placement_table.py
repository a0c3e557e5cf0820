#!/usr/bin/env python3
"""Plans for cards that people have, beside what others published for them: the table of docs/placement.md.

    bench/placement_table.py [--calor build/calor]

Everything but the column of published figures is what `calor plan` says, for ProSparse-13B's sparsity (88.8 % of the neurons
silent) and the hotness that PowerInfer reports (26 % of the neurons take 80 % of the activations). Needs nothing but Python."""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# (machine, ceiling on VRAM, type): tokens/s that others published for 13B on such a card
PUBLISHED = {
    ("rtx4090+ddr5-5600x2", "", "f16"): "SparkInfer 35, PowerInfer 24.5, llama.cpp 26",
    ("rtx3080ti+ddr5-5600x2", "", "f16"): "SparkInfer 8.7, PowerInfer 4, llama.cpp 3",
    ("powerinfer-pc-high", "", "f16"): "PowerInfer 69.5, llama.cpp 20",
}
CARDS = [("rtx4090+ddr5-5600x2", ""), ("rtx3080ti+ddr5-5600x2", ""), ("rtx3080ti+ddr5-5600x2", "8G"),
         ("powerinfer-pc-high", ""), ("powerinfer-pc-low", "")]


def plan(calor, machine, vram, kind, mode):
    command = [calor, "plan", "--shape", "llama2-13b", "--type", kind, "--sparsity", "0.888", "--mode", mode, "-c", "2048",
               "--machine", machine, "--json"] + (["--vram", vram] if vram else [])
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode not in (0, 2):
        sys.exit(out.stderr)
    return json.loads(out.stdout)["prediction"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--calor", default=str(ROOT / "build" / "calor"))
    args = p.parse_args()
    speed = lambda s: f"{1 / s:.3g}" if s else "–"
    print("| machine | VRAM | type | exact | sure | exact, by frequency | dense, by layer | exact, CPU alone | published |")
    print("|---|---|---|--:|--:|--:|--:|--:|---|")
    for kind in ("f16", "q4_0"):
        for machine, vram in CARDS:
            exact, sure = (plan(args.calor, machine, vram, kind, m) for m in ("exact", "sure"))
            others = exact["alternatives"]
            print(f"| {machine} | {vram or 'all'} | {kind.upper()} | {speed(exact['token_seconds'])} | "
                  f"{speed(sure['token_seconds'])} | {speed(others['by-frequency'])} | {speed(others['by-layer'])} | "
                  f"{speed(others['cpu'])} | {PUBLISHED.get((machine, vram, kind), '')} |")


if __name__ == "__main__":
    main()
