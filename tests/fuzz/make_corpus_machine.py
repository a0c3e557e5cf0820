#!/usr/bin/env python3
"""Seeds for fuzz_machine: python3 make_corpus_machine.py writes corpus/machine/*.json beside itself."""
import copy
import json
import pathlib

OUT = pathlib.Path(__file__).parent / "corpus" / "machine"
FIG = {"value": 1000, "low": 900, "high": 1100, "samples": 9}
FULL = {
    "calor_machine": 1, "name": "seed", "date": "2026-11-25", "method": "made up",
    "cpu": {"name": "c", "packages": 1, "cores": 8, "performance_cores": 4, "threads": 8, "last_level_cache": 1 << 25,
            "barrier_ns": FIG},
    "memory": {"bytes": 1 << 34, "free": 1 << 33,
               "nodes": [{"bytes": 1 << 33, "cores": 4, "distance": [10, 21]}, {"bytes": 1 << 33, "cores": 4, "distance": [21, 10]}],
               "stream": [{"threads": 1, "rate": FIG}, {"threads": 8, "rate": 5e10}], "scattered": [{"row": 1024, "rate": 9e9}]},
    "kernels": [{"type": "Q4_0", "matvec": FIG, "listed": 9e9, "down": 8e9, "gemm": 1e12}, {"type": "F16", "matvec": 1e10}],
    "unzstd": 1e9,
    "gpus": [{"name": "g", "bus": "0000:01:00.0", "node": 0, "bytes": 1 << 33, "reserved": 1 << 29, "read": 4e11, "scattered": 3e11,
              "gemm": 1e13, "pinned": 2e10, "pageable": 1e10, "launch_ns": 4000, "rendezvous_ns": 9000}],
    "disks": [{"name": "d", "where": "/", "node": -1, "direct": True,
               "read": [{"block": 4096, "depth": 1, "rate": 5e7, "p50_ns": 80000, "p99_ns": 200000},
                        {"block": 1 << 20, "depth": 8, "rate": 3e9}, {"block": 4096, "depth": 8, "rate": 4e8}]}],
    "notes": [{"what": "stream", "how": "passes"}],
}


def edited(path, value):
    j = copy.deepcopy(FULL)
    o = j
    for k in path[:-1]:
        o = o[k]
    if value is None:
        del o[path[-1]]
    else:
        o[path[-1]] = value
    return j


SEEDS = {
    "full": FULL,
    "least": {"calor_machine": 1, "cpu": {"cores": 1, "threads": 1}, "memory": {"bytes": 1}},
    "version": edited(["calor_machine"], 2),
    "no_version": edited(["calor_machine"], None),
    "no_cores": edited(["cpu", "cores"], 0),
    "rate_zero": edited(["unzstd"], 0),
    "rate_huge": edited(["unzstd"], 1e300),
    "rate_tiny": edited(["unzstd"], 1e-300),
    "spread_inverted": edited(["cpu", "barrier_ns"], {"value": 10, "low": 20, "high": 5, "samples": 3}),
    "point_twice": edited(["memory", "stream", 1, "threads"], 1),
    "curve_endless": edited(["memory", "stream"], [{"threads": i + 1, "rate": 1} for i in range(65)]),
    "distance_short": edited(["memory", "nodes", 1, "distance"], [10]),
    "type_unknown": edited(["kernels", 0, "type"], "Q9_9"),
    "type_twice": edited(["kernels", 0, "type"], "F16"),
    "node_outside": edited(["gpus", 0, "node"], 7),
    "member_unknown": edited(["gpus", 0, "raed"], 5),
    "reserved_above": edited(["gpus", 0, "reserved"], 1 << 40),
    "null": edited(["memory", "scattered"], []),
}

if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    for name, tree in SEEDS.items():
        (OUT / (name + ".json")).write_text(json.dumps(tree, indent=1) + "\n")
    (OUT / "cut.json").write_text(json.dumps(FULL)[:400])
    (OUT / "deep.json").write_text("[" * 50 + "]" * 50)
    (OUT / "infinite.json").write_text(json.dumps(FULL).replace("1000000000.0", "1e999", 1))
