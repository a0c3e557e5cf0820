#!/usr/bin/env python3
"""calor probe: machine.json holds what was promised, the topologies of recorded machines are read, nothing stays behind."""
import json
import os
import signal
import subprocess
import time

import tap

MACHINES = tap.ROOT / "tests" / "machines"
TYPES = {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K"}

# ---- Machines that Calor knows
out = tap.run("probe", "--list")
names = [line.split()[0] for line in out.stdout.splitlines() if line and not line.startswith(("Join", "memory:"))]
tap.check("--list names the parts", out.returncode == 0 and {"rtx4090", "ddr5-5600x2", "gen4", "powerinfer-pc-high"} <= set(names), out)
file = tap.temp() / "4090.json"
out = tap.run("probe", "--machine", "rtx4090+ddr5-5600x2+gen4", "-o", file)
m = json.loads(file.read_text())
tap.check("--machine writes one of them", out.returncode == 0 and m["gpus"][0]["read"] == 907 * 10**9 and m["memory"]["bytes"] == 64 << 30, out)
tap.check("and shows it", "GeForce RTX 4090" in out.stdout and "NVMe PCIe 4.0" in out.stdout, out.stdout)
out = tap.run("probe", "--machine", "rtx4909+ddr5-5600x2")
tap.check("a misspelt name is an error with the right one", out.returncode == 2 and "rtx4090" in out.stderr, out)

# ---- Topologies of other machines
WANT = {
    "hybrid-8p16e": (1, 24, 8, [64], [[10]]),
    "two-sockets": (2, 32, 32, [128, 128], [[10, 21], [21, 10]]),
    "two-sockets-snc4": (2, 64, 64, [32] * 8, [[10 if i == k else 12 if i // 4 == k // 4 else 21 for k in range(8)] for i in range(8)]),
}
hwloc = "no hwloc" not in tap.run("probe", "--topology", MACHINES / "two-sockets.xml").stderr
for name, (packages, cores, fast, sizes, distances) in WANT.items():
    if not hwloc:
        tap.skip(f"topology of {name}", "built without hwloc")
        continue
    out = tap.run("probe", "--topology", MACHINES / f"{name}.xml", "--json")
    m = json.loads(out.stdout) if out.returncode == 0 else {}
    found = m and (m["cpu"]["packages"], m["cpu"]["cores"], m["cpu"]["performance_cores"], [n["bytes"] >> 30 for n in m["memory"]["nodes"]],
                   [n["distance"] for n in m["memory"]["nodes"]])
    tap.check(f"topology of {name}", found == (packages, cores, fast, sizes, distances), (out, found))
    if name == "two-sockets":
        notes = {n["what"]: n["how"] for n in m["notes"]}
        tap.check("where GPU and drive hang", "0000:81:00.0" in notes.get("gpu", "") and "memory node 1" in notes["gpu"]
                  and "0000:02:00.0" in notes.get("drive", "") and "memory node 0" in notes["drive"], notes)
for bad, word in [(tap.ROOT / "README.md", "no topology" if hwloc else "hwloc"), (tap.temp(), "directory"), (tap.temp() / "none.xml", "none.xml")]:
    out = tap.run("probe", "--topology", bad)
    tap.check(f"--topology {bad.name}: a clear error", out.returncode == 1 and (word in out.stderr or not hwloc), out)

# ---- This machine
folder = tap.temp() / "models"
folder.mkdir()
file = tap.temp() / "machine.json"
begin = time.time()
out = tap.run("probe", "--quick", "--dir", folder, "-o", file, "--progress", "json")
took = time.time() - begin
tap.check("--quick ends well", out.returncode == 0, out)
m = json.loads(file.read_text()) if file.exists() else {}
print(f"# {took:.1f} s")
if os.getloadavg()[0] > 2 * os.cpu_count():
    tap.skip("in about 10 s", f"the machine is busy (load {os.getloadavg()[0]:.1f})")
else:
    tap.check("in about 10 s (other work on the machine included: in 30)", took < 30, took)


def known(figure):
    return figure["value"] > 0 and figure["low"] <= figure["value"] <= figure["high"] and figure["samples"] >= 3


if m:
    mem, cpu = m["memory"], m["cpu"]
    tap.check("memory from 1 to all threads", mem["stream"][0]["threads"] == 1 and mem["stream"][-1]["threads"] == cpu["threads"]
              and all(known(p["rate"]) for p in mem["stream"]), mem["stream"])
    tap.check("rows of 1 to 16 KiB", [p["row"] for p in mem["scattered"]] == [1024 << i for i in range(5)]
              and all(known(p["rate"]) for p in mem["scattered"]), mem["scattered"])
    tap.check("all kernels of all types", {k["type"] for k in m["kernels"]} == TYPES
              and all(known(k[f]) for k in m["kernels"] for f in ("matvec", "listed", "down", "gemm")), m["kernels"])
    tap.check("barrier and zstd", known(cpu["barrier_ns"]) and known(m["unzstd"]), (cpu, m["unzstd"]))
    notes = {n["what"] for n in m["notes"]}
    tap.check("each with its method", {"stream", "scattered", "barrier", "kernels", "unzstd", "host", "disk"} <= notes, notes)
    if m["disks"]:
        disk = m["disks"][0]
        tap.check("the drive at every size and depth, with latencies",
                  [(p["depth"], p["block"]) for p in disk["read"]] == [(d, b) for d in (1, 8, 64) for b in (4096, 65536, 1 << 20)]
                  and all(known(p["rate"]) and 0 < p["p50_ns"] <= p["p99_ns"] for p in disk["read"]), disk)
        tap.check("under the folder asked for", disk["where"] == str(folder.resolve()), disk["where"])
    else:
        tap.skip("the drive at every size and depth", "the temporary folder lies in memory")
tap.check("progress names the parts", '"progress":"kernels Q4_0"' in out.stderr and '"done":1.000' in out.stderr, out.stderr)
tap.check("nothing stays in the folder", not any(folder.iterdir()), list(folder.iterdir()))

# ---- Interrupted while it measures the drive: no file, no machine.json
for sig in (signal.SIGINT, signal.SIGKILL):
    p = subprocess.Popen([tap.CALOR, "probe", "--quick", "--dir", str(folder), "-o", str(tap.temp() / "never.json"), "--progress", "json"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in p.stderr:
        if '"disk' in line:
            p.send_signal(sig)
            break
    p.stderr.read()
    status = p.wait(timeout=60)
    tap.check(f"{sig.name} ends it at once and leaves nothing",
              status == (130 if sig == signal.SIGINT else -9) and not any(folder.iterdir()) and not (tap.temp() / "never.json").exists(),
              (status, list(folder.iterdir())))

for args, word in [(["--dir", tap.temp() / "none"], "none"), (["--dir", file], "machine.json"), (["--threads", "0"], "threads"),
                   (["--machine", "gen4", "--quick"], "measures nothing"), (["--quik"], "--quick")]:
    out = tap.run("probe", *args) if "--dir" not in args else tap.run("probe", "--quick", *args)
    tap.check(f"probe {args[0]}: a clear error", out.returncode in (1, 2) and word in out.stderr, out)
if os.path.isdir("/dev/shm"):
    out = tap.run("probe", "--quick", "--dir", "/dev/shm", "-t", "1", "--json")
    m = json.loads(out.stdout) if out.returncode == 0 else {"disks": 1, "notes": []}
    tap.check("a folder in memory has no drive", m["disks"] == [] and any("lies in memory" in n["how"] for n in m["notes"]), out.stderr)
tap.done()
