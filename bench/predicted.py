#!/usr/bin/env python3
"""What `calor plan` predicts beside what `calor bench` measures, on the machine it runs on: the table of docs/placement.md.

    calor probe -o machine.json                       # on a quiet machine
    calor synth --shape 1b --type q4_0 --sparsity 0.888 -o 1b.gguf
    bench/predicted.py --machine machine.json 1b.gguf …

Each model runs dense and exact; the machine's read rate right before and after each run is given beside the one that the
probe found, because on a shared machine it changes. With MODEL.profile beside MODEL.gguf (calor profile) the plan counts
that profile's neurons and replays its tokens; else the sparsity that the run itself met is given to the planner.
Needs nothing but Python."""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def calor(program, *args, good=(0,)):
    out = subprocess.run([program, *map(str, args)], capture_output=True, text=True)
    if out.returncode not in good:
        sys.exit(f"{' '.join(map(str, args))}:\n{out.stderr}")
    return json.loads(out.stdout)


def measure(args, model, mode):
    """One run of calor bench, and what calor plan says of it."""
    bench = calor(args.calor, "bench", model, "-p", 0, "-n", args.tokens, "-r", args.repeats, "-c", args.context, "--mode", mode, "--json")
    if not args.quick:  # everything is touched once: the whole embedding is not, its tokens are random
        full = calor(args.calor, "bench", model, "-p", args.context, "-n", args.context, "-r", 1, "--no-membw", "--no-warmup",
                     "-c", args.context, "--mode", mode, "--json")
        bench |= {k: full[k] for k in ("peak_memory", "anonymous_memory")}
    command = ["plan", model, "--machine", args.machine, "-c", args.context, "--position", max(1, args.tokens // 2),
               "--mode", mode.removesuffix("-fast"), "--simulate", "--batch", bench["settings"]["batch"], "--kv", "f16", "--json"]
    profile = model.with_suffix(".profile")
    if mode != "dense-fast":
        command += ["--profile", profile] if profile.exists() else ["--sparsity", f"{bench['ffn']['sparsity']:.4f}"]
    return bench, calor(args.calor, *command, good=(0, 2))


def row(model, mode, bench, plan, probed):
    token, tests = plan["prediction"], bench["tests"][0]
    real = tests["token_seconds"]
    memory = plan["memory"]["ram"]
    ledger = sum(v for k, v in memory.items() if k not in ("total", "ceiling", "margin"))
    peak = max(bench["peak_memory"], bench["anonymous_memory"])
    error = lambda a, b: f"{100 * (a / b - 1):+.0f} %"
    p99 = plan.get("simulation", {}).get("token_seconds", {}).get("p99")
    now = bench.get("read_bandwidth", {}).get("median", 0)
    return (f"| {model.stem} | {mode} | {1e3 * token['token_seconds']:.1f} | {1e3 * real['p50']:.1f} | {error(token['token_seconds'], real['p50'])} | "
            f"{f'{1e3 * p99:.1f}' if p99 else '–'} | {1e3 * real['p99']:.1f} | {error(p99, real['p99']) if p99 else '–'} | "
            f"{ledger / 2**20:.0f} | {peak / 2**20:.0f} | {(ledger - peak) / 2**20:+.0f} | {now / 1e9:.1f} ({100 * (now / probed - 1):+.0f} %) |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=pathlib.Path)
    p.add_argument("--machine", required=True, help="machine.json of this machine (calor probe)")
    p.add_argument("--calor", default=str(ROOT / "build" / "calor"))
    p.add_argument("--modes", default="dense-fast,exact")
    p.add_argument("-n", "--tokens", type=int, default=32)
    p.add_argument("-r", "--repeats", type=int, default=3)
    p.add_argument("-c", "--context", type=int, default=128)
    p.add_argument("--quick", action="store_true", help="no run for the memory, which is then that of the few tokens of the timing")
    p.add_argument("--raw", help="also write everything there, as JSON lines")
    args = p.parse_args()
    stream = json.loads(pathlib.Path(args.machine).read_text())["memory"]["stream"][-1]["rate"]
    probed = stream["value"] if isinstance(stream, dict) else stream
    print("| model | mode | token ms: predicted | measured | error | p99 ms: predicted | measured | error | memory MiB: predicted | measured | "
          "difference | GB/s during the run (beside the probe) |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for model in args.models:
        for mode in args.modes.split(","):
            bench, plan = measure(args, model, mode)
            print(row(model, mode, bench, plan, probed), flush=True)
            if args.raw:
                with open(args.raw, "a") as f:
                    f.write(json.dumps({"model": str(model), "mode": mode, "bench": bench, "plan": plan}) + "\n")


if __name__ == "__main__":
    main()
