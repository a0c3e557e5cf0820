#!/usr/bin/env python3
"""Writes tests/machines/NAME.json: what `calor probe` reads from NAME.xml, with figures for what a topology does not tell.

    tests/machines/make.py [--calor build/calor]

The figures are typical of such machines, none was measured; kernels', cards' and drives' are those of the shipped machines.
Needed only where a machine is added or machine.json's format changes; the plans are written by tests/e2e/test_machines.py."""
import argparse
import json
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
# threads; GB/s of one thread and of all; rows of 1, 2, 4, 8, 16 KiB as shares of that; barrier; shipped parts
MACHINES = {
    "hybrid-8p16e": (8, 30, 78, (0.45, 0.62, 0.73, 0.80, 0.87), 1200, "ddr5-5600x2+gen4"),
    "laptop-rtx4060": (8, 25, 62, (0.45, 0.62, 0.73, 0.80, 0.87), 1500, "rtx3060+ddr5-5600x2+gen4"),
    "one-socket-snc2": (24, 14, 190, (0.50, 0.66, 0.76, 0.83, 0.90), 2500, "rtx3090+ddr5-5600x2+gen4"),
    "two-sockets": (32, 13, 250, (0.48, 0.64, 0.74, 0.82, 0.89), 3000, "rtx4090+ddr5-5600x2+gen4"),
    "two-sockets-snc4": (64, 13, 450, (0.48, 0.64, 0.74, 0.82, 0.89), 4000, "ddr5-5600x2"),
}
# What differs from the shipped card.
GPU = {"laptop-rtx4060": {"name": "GeForce RTX 4060 Laptop 8 GB", "bytes": 8 << 30, "read": 237 * 10**9, "scattered": 210 * 10**9,
                          "gemm": 22 * 10**12, "pinned": 12600 * 10**6}}


def ask(calor, *args):
    return json.loads(subprocess.run([calor, "probe", *args, "--json"], capture_output=True, text=True, check=True).stdout)


def node_of(topology, what):
    """Where a topology's note says that a device hangs."""
    for note in topology["notes"]:
        if note["what"] == what:
            return int(note["how"].split("memory node ")[1].split(",")[0])
    return -1


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--calor", default=str(HERE.parents[1] / "build" / "calor"))
    calor = p.parse_args().calor
    for name, (threads, one, every, rows, barrier, parts) in MACHINES.items():
        m = ask(calor, "--topology", str(HERE / f"{name}.xml"))
        shipped = ask(calor, "--machine", parts)
        m |= {"name": m["cpu"]["name"], "date": "2026-11-25", "kernels": shipped["kernels"], "unzstd": shipped["unzstd"],
              "method": "A recorded topology (hwloc's XML beside this file) with figures typical of such a machine: nothing was measured."}
        m["cpu"] |= {"threads": threads, "barrier_ns": barrier}
        counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < threads] + [threads]
        m["memory"]["stream"] = [{"threads": n, "rate": min(n * one, every) * 10**9 if n < threads else every * 10**9} for n in counts]
        m["memory"]["scattered"] = [{"row": 1024 << i, "rate": round(every * s * 1000) * 10**6} for i, s in enumerate(rows)]
        m["gpus"] = [g | GPU.get(name, {}) | {"node": node_of(m, "gpu")} for g in shipped["gpus"]]
        m["disks"] = [d | {"node": max(0, node_of(m, "drive"))} for d in shipped["disks"]]
        (HERE / f"{name}.json").write_text(json.dumps(m, indent=1) + "\n")


if __name__ == "__main__":
    main()
