#!/usr/bin/env python3
"""calor bench --membw beside the independent bench/stream, in turn: the read bandwidth must be the machine's.

    bench/check_membw.py build/calor build/bench/stream [threads [rounds]]

Prints both series and the median of their ratios; exit status 1 where membw is more than 10 % below (it must
find all of the bandwidth) or 30 % above (then it counts bytes it did not read)."""
import json
import statistics
import subprocess
import sys

calor, stream = sys.argv[1:3]
threads = sys.argv[3] if len(sys.argv) > 3 else "2"
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5


def read(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


pairs = []
for _ in range(rounds):
    ours = read([calor, "bench", "--membw", "--json", "--seconds", "0.5", "-t", threads])["median"]
    plain = read([stream, threads, "512", "8"])
    pairs.append((ours, plain["sum"]["median"]))
    print(f"membw {ours / 1e9:6.2f} GB/s   stream sum {plain['sum']['median'] / 1e9:6.2f}  copy "
          f"{plain['copy']['median'] / 1e9:6.2f}  triad {plain['triad']['median'] / 1e9:6.2f}")
ratio = statistics.median(a / b for a, b in pairs)
print(f"membw / stream sum: median {ratio:.3f} of {rounds} pairs, {threads} threads")
sys.exit(0 if 0.9 < ratio < 1.3 else 1)
