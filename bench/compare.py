#!/usr/bin/env python3
"""Calor beside a peer, on the same files, in one run.

    bench/compare.py --calor build/calor --peer llama.cpp=/path/to/llama-bench model.gguf -t 2
    bench/compare.py --peer "ik=/path/to/llama-bench -rtr 1" -p 512 -n 64 --min-pairs 10 --json out.json a.gguf b.gguf
    bench/compare.py --own "exact=--mode exact" --own "sure=--mode sure --screen plane" --peer llama.cpp=… -p 0 -t 2 a.gguf

Every round runs each program once, in turn, and the next round in the opposite order, so that a machine that drifts
disturbs all alike. With --own Calor runs several times a round, each time with its own flags: every one of them is set
against every peer, or, without a peer, against the first. Each program's own timing counts: starting the process and loading the model do not. The read
bandwidth of the memory is measured before every round with as many threads. Ratios are taken within rounds and
summarised by their median with a 95 % bootstrap interval. A run that fails stays in the report, and the exit status
is 1. Peers are programs that understand llama-bench's options (-m -p -n -r -t -o json); needs nothing but Python.
"""
import argparse
import json
import os
import pathlib
import random
import shlex
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
OURS = "calor"


def interval(values, seed=20240229, rounds=4000):
    """The 95 % percentile bootstrap interval of the median."""
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(rounds))
    return [medians[int(0.025 * (rounds - 1))], medians[int(0.975 * (rounds - 1))]]


def summary(values):
    """Median, interval and all samples; None where there are none."""
    if not values:
        return {"n": 0, "median": None, "interval": None, "samples": []}
    return {"n": len(values), "median": statistics.median(values), "interval": interval(values), "samples": values}


class Failed(Exception):
    pass


def execute(command, args, timeout):
    started = time.time()
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Failed(f"no result within {timeout} s: {shlex.join(command)}") from None
    except OSError as why:
        raise Failed(f"{shlex.join(command)}: {why}") from None
    if run.returncode:
        tail = " / ".join(run.stderr.strip().splitlines()[-3:])
        raise Failed(f"status {run.returncode} from {shlex.join(command)}: {tail}")
    try:
        return json.loads(run.stdout), time.time() - started
    except ValueError as why:
        raise Failed(f"{shlex.join(command)} wrote no JSON: {why}") from None


def run_calor(args, flags, model):
    """{"pp512": tokens/s, …}, the whole report."""
    command = [*args.wrap, *args.calor, "bench", model, "-p", str(args.prompt), "-n", str(args.generate), "-r",
               str(args.repeats), "-t", str(args.threads), "--no-membw", "--progress", "none", "--json", *flags]
    out, _ = execute(command, args, args.timeout)
    if out["settings"]["threads"] != args.threads:
        raise Failed(f"calor ran with {out['settings']['threads']} threads instead of {args.threads}")
    return {t["test"]: t["median"] for t in out["tests"]}, out


def run_peer(args, peer, model):
    command = [*args.wrap, *peer["command"], "-m", model, "-p", str(args.prompt), "-n", str(args.generate), "-r",
               str(args.repeats), "-t", str(args.threads), "-o", "json"]
    out, _ = execute(command, args, args.timeout)
    speeds = {}
    for t in out:
        if t["n_threads"] != args.threads:
            raise Failed(f"{peer['name']} ran with {t['n_threads']} threads instead of {args.threads}")
        tokens = t["n_prompt"] + t["n_gen"]
        name = f"pp{t['n_prompt']}" if t["n_prompt"] else f"tg{t['n_gen']}"
        speeds[name] = statistics.median(tokens * 1e9 / ns for ns in t["samples_ns"])
    return speeds, out


def bandwidth(args):
    command = [*args.wrap, *args.calor, "bench", "--membw", "--json", "--seconds", "0.4", "-t", str(args.threads)]
    out, _ = execute(command, args, 120)
    return out["median"]


def enough(args, rounds, result):
    if rounds < args.min_pairs:
        return False
    if rounds >= args.max_pairs:
        return True
    widths = [(i[1] - i[0]) / r["median"] for t in result["tests"].values() for by in t["ratio"].values()
              for r in by.values() if (i := r["interval"])]
    return bool(widths) and max(widths) <= args.width


def summarise(tests, pairs, names, rounds, token_bytes):
    """Speeds by program, ratios by (ours, other), shares of the bandwidth, from the rounds' raw figures."""
    out = {}
    for test in tests:
        has = lambda r, n: test in r["speed"].get(n, {})
        entry = {"speed": {n: summary([r["speed"][n][test] for r in rounds if has(r, n)]) for n in names},
                 "ratio": {}, "share_of_read_bandwidth": {}}
        for ours, other in pairs:
            entry["ratio"].setdefault(ours, {})[other] = summary(
                [r["speed"][ours][test] / r["speed"][other][test] for r in rounds if has(r, ours) and has(r, other)])
        for n in names:
            if test.startswith("tg") and token_bytes.get(n):
                entry["share_of_read_bandwidth"][n] = summary(
                    [r["speed"][n][test] * token_bytes[n] / r["bandwidth"] for r in rounds if r["bandwidth"] and has(r, n)])
        out[test] = entry
    return out


def compare(args, model):
    """All rounds on one model file."""
    peers = {p["name"]: p for p in args.peers}
    names = [*args.own, *peers]
    first = names[0]
    pairs = [(o, p) for o in args.own for p in peers] or [(o, first) for o in names[1:]]
    tests = [f"pp{args.prompt}"] * (args.prompt > 0) + [f"tg{args.generate}"] * (args.generate > 0)
    result = {"model": model, "bytes": os.path.getsize(model), "rounds": [], "failures": [], "tests": {}}
    row, token_bytes = {n: 0 for n in names}, {}
    while True:
        number = len(result["rounds"])
        entry = {"speed": {}, "bandwidth": None}
        try:
            entry["bandwidth"] = None if args.no_membw else bandwidth(args)
        except Failed as why:
            result["failures"].append({"round": number, "program": "read bandwidth", "why": str(why)})
        for name in names if number % 2 == 0 else reversed(names):
            if row[name] == 3:
                continue  # it failed three times in a row: said in the report
            try:
                speed, raw = run_peer(args, peers[name], model) if name in peers else run_calor(args, args.own[name], model)
                missing = set(tests) - set(speed)
                if missing:
                    raise Failed(f"{name} gave no figure for {', '.join(sorted(missing))}")
                entry["speed"][name] = speed
                row[name] = 0
                if name in args.own:
                    token_bytes[name] = raw["model"]["token_bytes"]
                    token_bytes |= {p: raw["model"]["dense_token_bytes"] for p in peers}
                    result.setdefault("own", {}).setdefault(
                        name, {"flags": args.own[name], **{k: raw[k] for k in ("calor", "model", "settings", "host")}})
                else:
                    result.setdefault("peers", {}).setdefault(name, {"command": shlex.join(peers[name]["command"]),
                                                                     "build": raw[0].get("build_commit")})
            except Failed as why:
                row[name] += 1
                result["failures"].append({"round": number, "program": name, "why": str(why)})
                print(f"{model}: {why}", file=sys.stderr)
        result["rounds"].append(entry)
        result["tests"] = summarise(tests, pairs, names, result["rounds"], token_bytes)
        if not args.quiet:
            figures = "  ".join(f"{n} " + " ".join(f"{t} {v:.2f}" for t, v in s.items())
                                for n, s in entry["speed"].items())
            gb = entry["bandwidth"] / 1e9 if entry["bandwidth"] else float("nan")
            print(f"{pathlib.Path(model).name} round {number + 1}: {figures}  read {gb:.1f} GB/s", file=sys.stderr)
        dead = all(row[n] == 3 for n in args.own) or all(row[other] == 3 for _, other in pairs)
        if dead or enough(args, len(result["rounds"]), result):
            return result


def table(results):
    """A Markdown table, and below it whatever went wrong."""
    lines = ["| model | test | pairs | calor | its speed | of read bandwidth | beside | its speed | of read bandwidth | ratio |",
             "|---|---|--:|---|--:|--:|---|--:|--:|--:|"]

    def share(t, n):
        s = t["share_of_read_bandwidth"].get(n)
        return f"{100 * s['median']:.0f} %" if s and s["n"] else ""

    def number(s, digits=2):
        return f"{s['median']:.{digits}f}" if s["n"] else "failed"

    for r in results:
        for test, t in r["tests"].items():
            for ours, other, ratio in ((o, p, x) for o, by in t["ratio"].items() for p, x in by.items()):
                span = f" ({ratio['interval'][0]:.3f} to {ratio['interval'][1]:.3f})" if ratio["n"] else ""
                lines.append(f"| {pathlib.Path(r['model']).name} | {test} | {ratio['n']} | {ours} | {number(t['speed'][ours])} | "
                             f"{share(t, ours)} | {other} | {number(t['speed'][other])} | {share(t, other)} | "
                             f"{number(ratio, 3)}{span} |")
    failures = [(r["model"], f) for r in results for f in r["failures"]]
    if failures:
        lines += ["", f"{len(failures)} run(s) failed and have no figure above:"]
        lines += [f"- {pathlib.Path(m).name}, round {f['round'] + 1}, {f['program']}: {f['why']}" for m, f in failures]
    return "\n".join(lines)


def named(parser, option, texts, taken):
    """NAME=WORDS … as {name: words}."""
    out = {}
    for text in texts:
        name, sep, words = text.partition("=")
        if not sep or not name or not words or name in taken or name in out:
            parser.error(f"{option} {text}: expected NAME=…, each name once")
        out[name] = shlex.split(words)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", metavar="MODEL.gguf")
    p.add_argument("--calor", default=str(ROOT / "build" / "calor"), help="the program, with arguments if need be")
    p.add_argument("--own", action="append", default=[], metavar="NAME=FLAGS",
                   help="run calor bench with these flags under this name (default: once, without)")
    p.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="llama-bench of a peer")
    p.add_argument("-p", "--prompt", type=int, default=512, metavar="N", help="tokens of the prompt, 0: none")
    p.add_argument("-n", "--generate", type=int, default=64, metavar="N", help="tokens to generate, 0: none")
    p.add_argument("-t", "--threads", type=int, required=True, metavar="N", help="of every program")
    p.add_argument("-r", "--repeats", type=int, default=1, metavar="N", help="within one process (median)")
    p.add_argument("--min-pairs", type=int, default=10, metavar="N", help="rounds at least (default 10)")
    p.add_argument("--max-pairs", type=int, default=0, metavar="N",
                   help="go on up to this many rounds until the intervals are narrow")
    p.add_argument("--width", type=float, default=0.05, help="narrow: interval / median of all ratios (default 0.05)")
    p.add_argument("--timeout", type=float, default=1800, metavar="S", help="of one process")
    p.add_argument("--wrap", default="", metavar="COMMAND", help="put before every command, such as 'taskset -c 0,1'")
    p.add_argument("--no-membw", action="store_true", help="do not measure the read bandwidth before every round")
    p.add_argument("--json", metavar="FILE", help="everything that was measured")
    p.add_argument("--quiet", action="store_true", help="no line a round on stderr")
    args = p.parse_args()
    args.calor, args.wrap = shlex.split(args.calor), shlex.split(args.wrap)
    args.own, args.peers = named(p, "--own", args.own, []) or {OURS: []}, []
    for name, command in named(p, "--peer", args.peer, args.own).items():
        args.peers.append({"name": name, "command": command})
    if not args.peers and len(args.own) < 2:
        p.error("nothing to compare: a --peer, or several --own")
    if args.min_pairs < 1 or args.prompt < 0 or args.generate < 0 or args.prompt + args.generate == 0:
        p.error("nothing to measure")
    args.max_pairs = max(args.max_pairs, args.min_pairs)
    for model in args.models:
        if not os.path.isfile(model):
            p.error(f"{model}: no such file")
    results = [compare(args, m) for m in args.models]
    print(table(results))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"command": sys.argv, "threads": args.threads, "results": results}, f, indent=1)
    return 1 if any(r["failures"] for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
