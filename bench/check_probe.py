#!/usr/bin/env python3
"""calor probe beside independent programs, in turn: fio for the drive, bench/stream for the memory.

    bench/check_probe.py build/calor build/bench/stream FOLDER [rounds]

Prints the medians of both and of their ratios. Needs fio. The figures of one run are only as good as the machine is idle:
the spread of the ratios says how far to trust them."""
import json
import os
import statistics
import subprocess
import sys
import tempfile

calor, stream, folder = sys.argv[1:4]
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 3
POINTS = [(4096, 1), (4096, 64), (65536, 64), (1 << 20, 8)]
MIB = 256


# The probe's buffers lie in huge pages, fio's do with this (where they are larger than one). It matters: a read into small pages
# is many pieces to the drive.
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def output(command, env=None):
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                     env={**os.environ, **(env or {})}).stdout)


def fio(path, block, depth, huge):
    j = output(["fio", "--name=x", f"--filename={path}", "--rw=randread", f"--bs={block}", f"--iodepth={depth}", "--direct=1", "--ioengine=io_uring",
                "--fixedbufs=1", "--registerfiles=1", "--time_based=1", "--runtime=1", "--norandommap=1", "--invalidate=0", "--iomem_align=2097152", "--output-format=json"], HUGE if huge else None)
    read = j["jobs"][0]["read"]
    return read["bw_bytes"], read["clat_ns"]["percentile"]["50.000000"]


ratios = {}
values = {}


def pair(name, ours, theirs):
    ratios.setdefault(name, []).append(ours / theirs)
    values.setdefault(name, []).append((ours, theirs))


with tempfile.NamedTemporaryFile(dir=folder, prefix="check-probe-") as f:
    for _ in range(MIB):
        f.write(os.urandom(1 << 20))
    f.flush()
    os.fsync(f.fileno())
    for _ in range(rounds):
        m = output([calor, "probe", "--quick", "--dir", folder, "--json", "--progress", "none"])
        points = {(p["block"], p["depth"]): p for p in m["disks"][0]["read"]}
        for block, depth in POINTS:
            huge = block * depth >= 4 << 20
            rate, p50 = fio(f.name, block, depth, huge)
            if huge:
                small, _ = fio(f.name, block, depth, False)
                pair(f"{block >> 10:5d} KiB, depth {depth:2d}, MB/s, fio in small pages", points[block, depth]["rate"]["value"] / 1e6, small / 1e6)
            pair(f"{block >> 10:5d} KiB, depth {depth:2d}, MB/s", points[block, depth]["rate"]["value"] / 1e6, rate / 1e6)
            if depth == 1:
                pair(f"{block >> 10:5d} KiB, depth {depth:2d}, p50 us", points[block, depth]["p50_ns"] / 1e3, p50 / 1e3)
        for p in m["memory"]["stream"]:
            plain = output([stream, str(p["threads"]), "256", "8"])
            pair(f"memory, {p['threads']:2d} threads, GB/s", p["rate"]["value"] / 1e9, plain["sum"]["median"] / 1e9)
for name, r in ratios.items():
    ours, theirs = (statistics.median(v[i] for v in values[name]) for i in (0, 1))
    print(f"{name:48s} probe {ours:9.1f}   other {theirs:9.1f}   ratio {statistics.median(r):5.2f}  ({min(r):.2f} to {max(r):.2f})")
