#!/usr/bin/env python3
"""Recorded machines (tests/machines): NAME.xml is read as the NAME.json beside it says, and `calor plan` on NAME.json still gives
NAME.plan.txt, so that a change of plan shows as a diff. test_machines.py --update writes the plans anew."""
import difflib
import json
import re
import sys

import tap

MACHINES = tap.ROOT / "tests" / "machines"
# A model whose placement says something about the machine: one that does not fit its card, where it has one.
TYPE = {"hybrid-8p16e": "q4_0", "laptop-rtx4060": "q4_0", "one-socket-snc2": "f16", "two-sockets": "f16", "two-sockets-snc4": "f16"}
update = sys.argv[1:] == ["--update"]

found = sorted(f.stem for f in MACHINES.glob("*.xml"))
tap.check("every recorded machine has a model to be planned for", found == sorted(TYPE), found)


def topology(m):
    """What a topology can tell."""
    return ({k: m["cpu"].get(k) for k in ("name", "packages", "cores", "performance_cores", "last_level_cache")},
            m["memory"]["bytes"], m["memory"]["nodes"])


hwloc = "no hwloc" not in tap.run("probe", "--topology", MACHINES / "two-sockets.xml").stderr
for name in sorted(TYPE):
    file = MACHINES / f"{name}.json"
    m = json.loads(file.read_text())
    if not hwloc:
        tap.skip(f"{name}: its topology", "built without hwloc")
    else:
        out = tap.run("probe", "--topology", MACHINES / f"{name}.xml", "--json")
        read = json.loads(out.stdout) if out.returncode == 0 else {"cpu": {}, "memory": {"bytes": 0, "nodes": []}, "notes": []}
        tap.check(f"{name}: packages, kinds of cores, caches, nodes, distances", topology(read) == topology(m), (topology(read), topology(m), out.stderr))
        near = {n["what"]: int(re.search(r"memory node (-?\d+)", n["how"]).group(1)) for n in read["notes"] if n["what"] in ("gpu", "drive")}
        # Machines without devices in their XML have figures of a drive all the same.
        tap.check(f"{name}: where its card and drive hang", near.get("gpu", -1) == (m["gpus"][0]["node"] if m["gpus"] else -1)
                  and ("drive" not in near or near["drive"] == m["disks"][0]["node"]), (near, m["gpus"], m["disks"][:1]))
    out = tap.run("plan", "--shape", "llama2-13b", "--type", TYPE[name], "--sparsity", "0.888", "--machine", file, "-c", "4096")
    plan = MACHINES / f"{name}.plan.txt"
    if update and out.returncode in (0, 2):
        plan.write_text(out.stdout)
    want = plan.read_text() if plan.exists() else ""
    diff = "".join(difflib.unified_diff(want.splitlines(True), out.stdout.splitlines(True), str(plan.relative_to(tap.ROOT)), "calor plan"))
    tap.check(f"{name}: the plan is the recorded one (else: tests/e2e/test_machines.py --update, and look at the diff)",
              out.returncode in (0, 2) and want and out.stdout == want, out.stderr + diff)
tap.done()
