#!/usr/bin/env python3
"""The planner against a solver for mixed integer programs. tests/plan/instance.c writes small problems with the planner's
answers; here each is formulated once more, from the words of placement/cost.h and from raw figures, as a linear program with
whole variables (one for each unit of neurons and tier), and solved to its optimum by glpsol.
Usage: test_milp.py plan_instance [COUNT [FIRST]]"""
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
import tap  # noqa: E402

US = 1e6  # the program counts in microseconds: coefficients near 1
SCREEN, GATE, UPDOWN = range(3)


class Program:
    """Rows and columns of a minimisation, written in CPLEX' LP format."""

    def __init__(self):
        self.rows, self.binary, self.objective = [], [], []

    def bit(self, name):
        self.binary.append(name)
        return name

    def row(self, terms, sense, right):
        sums = {}
        for c, v in terms:
            sums[v] = sums.get(v, 0) + c
        left = " ".join(f"{'+' if c >= 0 else '-'} {abs(c):.15g} {v}" for v, c in sums.items() if c)
        if left:
            self.rows.append(f" c{len(self.rows)}: {left} {sense} {right:.15g}")

    def text(self):
        goal = " ".join(f"+ {c:.15g} {v}" for c, v in self.objective)
        return "\n".join(["Minimize", " time: " + goal, "Subject To", *self.rows, "Binary", *(" " + b for b in self.binary), "End", ""])


def page(n):
    return -(-n // 4096) * 4096


def tables(j, l, part):
    """Of one part: seconds of GPU and CPU with the k hottest units on the GPU, of reads with all but the k hottest on disk, for
    every k; bytes of each unit."""
    freq, unit, n = l["frequency"], j["unit"], j["neurons"]
    row, threads = l["rows"][part], j["threads"]
    screened = l["rows"][SCREEN] > 0
    share = sum(freq) / n
    listed = part == UPDOWN or (part == GATE and screened)
    if not listed:
        chance = [1.0] * n
    elif part == UPDOWN:
        chance = freq
    else:
        extra = (l["candidates"] - share) / (1 - share) if share < 1 else 0
        chance = [f + (1 - f) * max(0, extra) for f in freq]
    density = share if part == UPDOWN else l["candidates"]
    dense = min(1, max(0, (density - 1 / 8) / (7 / 8)))
    scattered = max(1 / j["scattered"], 1 / j["stream"])
    memory = (1 - dense) * scattered + dense / j["stream"] if listed else 1 / j["stream"]
    k = j["kernels"]
    if part == UPDOWN:
        # Dense: the matrices as the file has them; else lists, and down by neuron. One after the other, each with its own limit.
        up = k[l["up_type"]]["matvec" if j["dense"] else "listed"]
        down = k[l["down_file_type"]]["matvec"] if j["dense"] else k[l["down_type"]]["down"]
        cpu = l["up_row"] * max(memory, 1 / (up * threads)) + max(l["down_row"] * memory, l["down_values"] / (down * threads))
    else:
        cpu = row * max(memory, 1 / (k[l["gate_type"]]["listed" if listed else "matvec"] * threads))
    gpu = j.get("gpu")
    gpu_row = row / gpu["scattered" if listed else "read"] if gpu else 0
    shared = l["shared"] if part == UPDOWN else 0
    disk_row = (page(row) if listed else row) / j["disk"] if "disk" in j else 0
    bounds = list(range(0, n, unit)) + [n]
    total = sum(chance)

    def touched(active):
        return 1 - (1 - min(1, active / n)) ** l["group"] if shared else 0

    G, C, D = [], [], []
    for b in bounds:
        hot = sum(chance[:b])
        G.append(hot * gpu_row + (2 * gpu["launch"] + shared / gpu["read"] * touched(hot)) if gpu and b else 0)
        C.append((total - hot) * cpu + (2 if part == UPDOWN else 1) * j["barrier"] + shared / j["stream"] * touched(total - hot) if b < n else 0)
        D.append((total - hot) * disk_row)
    return G, C, D, [(bounds[i + 1] - bounds[i]) * row for i in range(len(bounds) - 1)], shared, listed


def weights(j, mats, size):
    """Seconds for whole matrices on the CPU, the GPU, and from the disk."""
    cpu = sum(m["bytes"] * max(1 / j["stream"], 1 / (j["kernels"][m["type"]]["matvec"] * j["threads"])) for m in mats)
    gpu = size / j["gpu"]["read"] + 4 * j["gpu"]["launch"] if "gpu" in j else 0
    return cpu, gpu, size / j["disk"] if "disk" in j else 0


def formulate(j):
    p = Program()
    gpu, disk = "gpu" in j, "disk" in j
    vram, ram = [], []  # terms
    free = 0  # RAM taken whatever is chosen (constants of the terms)
    for i, l in enumerate(j["layers"]):
        aG, aR, aD, kG = (p.bit(f"{x}{i}") for x in ("aG", "aR", "aD", "kG"))
        p.row([(1, aG), (1, aR), (1, aD)], "=", 1)
        if not gpu:
            p.row([(1, aG)], "=", 0)
            p.row([(1, kG)], "=", 0)
        if not disk:
            p.row([(1, aD)], "=", 0)
        cpu_t, gpu_t, disk_t = weights(j, [l["q"], l["k"], l["v"], l["o"]], l["attention"])
        cpu_t += 3 * j["barrier"]
        kv_cpu = j["kv_read"] * max(1 / j["stream"], 1 / (j["kernels"]["F16"]["matvec"] * j["threads"]))
        kv_gpu = j["kv_read"] / j["gpu"]["read"] if gpu else 0
        compute = [(gpu_t, aG), (cpu_t, aR), (cpu_t, aD), (kv_gpu - kv_cpu, kG)]
        compute0, reads, reads0 = kv_cpu, [(disk_t, aD)], 0
        vram += [(l["attention"], aG), (j["kv_bytes"], kG)]
        ram += [(l["attention"], aR), (-j["kv_bytes"], kG)]
        free += j["kv_bytes"]
        meet = j["gpu"]["rendezvous"] if gpu else 0
        parts = [q for q in range(3) if l["rows"][q]]
        ends = {}
        for q in parts:
            G, C, D, size, shared, listed = tables(j, l, q)
            n = len(size)
            g = [p.bit(f"g{i}_{q}_{u}") for u in range(n)]
            r = [p.bit(f"r{i}_{q}_{u}") for u in range(n)]
            for u in range(n):
                if u:
                    p.row([(1, g[u - 1]), (-1, g[u])], ">=", 0)
                    p.row([(1, r[u - 1]), (-1, r[u])], ">=", 0)
                p.row([(1, r[u]), (-1, g[u])], ">=", 0)
                if not gpu:
                    p.row([(1, g[u])], "=", 0)
                if not disk:
                    p.row([(1, r[u])], "=", 1)
            t = f"t{i}_{q}"
            p.row([(1, t)] + [(-(G[u + 1] - G[u]) * US, g[u]) for u in range(n)], ">=", 0)
            p.row([(1, t)] + [(-(C[u + 1] - C[u]) * US, g[u]) for u in range(n)], ">=", C[0] * US)
            late = [((D[u + 1] - D[u]), r[u]) for u in range(n)]
            if listed:
                p.row([(1, t)] + [(-c * US, v) for c, v in late], ">=", D[0] * US)
            compute.append((1 / US, t))
            reads += late
            reads0 += D[0]
            vram += [(size[u], g[u]) for u in range(n)] + [(shared, g[0])]
            ram += [(size[u], r[u]) for u in range(n)] + [(-size[u], g[u]) for u in range(n)] + [(-shared, g[-1])]
            free += shared
            ends[q] = (g[0], g[-1])  # any on the GPU; all on the GPU
        x, z, away = (p.bit(f"{v}{i}") for v in ("x", "z", "w"))
        first, last = ends[parts[0]], ends[UPDOWN]
        for name, (some, all_) in ((x, first), (z, last)):  # what is not on attention's side alone crosses
            p.row([(1, name), (1, all_), (-1, aG)], ">=", 0)
            p.row([(1, name), (-1, some), (1, aG)], ">=", 0)
        p.row([(1, away), (-1, kG), (1, aG)], ">=", 0)
        p.row([(1, away), (1, kG), (-1, aG)], ">=", 0)
        crossings = [(meet, x), (meet, z), (2 * meet, away)]
        for a, b in zip(parts, parts[1:]):
            y = p.bit(f"y{i}_{a}")
            (a0, a1), (b0, b1) = ends[a], ends[b]
            p.row([(1, y), (-1, a0), (1, a1)], ">=", 0)
            p.row([(1, y), (-1, a0), (1, b1)], ">=", 0)
            p.row([(1, y), (1, a1), (-1, b0)], ">=", 0)
            crossings.append((meet, y))
        T = f"T{i}"
        p.objective.append((1, T))
        p.row([(1, T)] + [(-c * US, v) for c, v in compute + crossings], ">=", compute0 * US)
        p.row([(1, T)] + [(-c * US, v) for c, v in reads], ">=", reads0 * US)
    oG, oR, oD, eR, eD = (p.bit(v) for v in ("oG", "oR", "oD", "eR", "eD"))
    p.row([(1, oG), (1, oR), (1, oD)], "=", 1)
    p.row([(1, eR), (1, eD)], "=", 1)
    if not gpu:
        p.row([(1, oG)], "=", 0)
    if not disk:
        p.row([(1, oD), (1, eD)], "=", 0)
    out, emb = j["output"], j["embedding"]
    cpu_t, gpu_t, disk_t = weights(j, [out], out["bytes"])
    cpu_t += j["barrier"]
    row = emb["bytes"] / emb["rows"]
    in_ram = row / j["stream"] + j["barrier"]
    from_disk = max(in_ram, page(row) / j["disk"]) if disk else 0
    p.objective += [(gpu_t * US, oG), (cpu_t * US, oR), (max(cpu_t, disk_t) * US, oD), (in_ram * US, eR), (from_disk * US, eD)]
    vram += [(out["bytes"], oG)]
    ram += [(out["bytes"], oR), (emb["bytes"], eR)]
    p.row(vram, "<=", j["vram"] if gpu else 0)
    p.row(ram, "<=", j["ram"] - free)
    return p.text()


def solve(j):
    with tempfile.TemporaryDirectory() as d:
        lp, out = pathlib.Path(d, "p.lp"), pathlib.Path(d, "p.txt")
        lp.write_text(formulate(j))
        run = subprocess.run(["glpsol", "--lp", lp, "-o", out, "--tmlim", "120", "--cuts"], capture_output=True, text=True)
        text = out.read_text() if out.exists() else ""
        found = re.search(r"Objective:\s+time = (\S+)", text)
        if "INTEGER OPTIMAL" not in text or not found:
            return None, run.stdout[-600:]
        return float(found.group(1)) / US, ""


def main():
    if not shutil.which("glpsol"):
        tap.skip_all("glpsol (Debian: glpk-utils) is not installed")
    program, count, first = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200, sys.argv[3] if len(sys.argv) > 3 else "1"
    lines = subprocess.run([program, first, str(count)], capture_output=True, text=True, check=True).stdout.splitlines()
    jobs = [json.loads(x) for x in lines]
    tap.check(f"{count} problems are written", len(jobs) == count, len(jobs))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(solve, jobs))
    gaps, worse, bad_bound, too_good, unsolved, bounds = [], [], [], [], [], []
    for j, (best, why) in zip(jobs, answers):
        if best is None:
            unsolved.append((j["seed"], why))
            continue
        gap = j["time"] / best - 1
        gaps.append((gap, j["seed"]))
        bounds.append(best / j["bound"] - 1)
        if gap < -1e-6:
            too_good.append((j["seed"], j["time"], best))
        if j["bound"] > best * (1 + 1e-6):
            bad_bound.append((j["seed"], j["bound"], best))
        if j["by_frequency"] and j["time"] > j["by_frequency"] * (1 + 1e-9):
            worse.append((j["seed"], j["time"], j["by_frequency"]))
    gaps.sort()
    tap.check("every problem is solved to its optimum", not unsolved, unsolved[:3])
    tap.check("no plan is better than the optimum: both count alike", not too_good, too_good[:5])
    tap.check("the planner's bound is never above the optimum", not bad_bound, bad_bound[:5])
    tap.check("never worse than the frequency-only plan", not worse, worse[:5])
    mean, most = sum(g for g, _ in gaps) / len(gaps), gaps[-1][0]
    print(f"# gap: mean {100 * mean:.4f} %, worst {100 * most:.3f} % (seed {gaps[-1][1]}), {sum(g < 1e-6 for g, _ in gaps)} of "
          f"{len(gaps)} are optimal; bound: mean {100 * sum(bounds) / len(bounds):.2f} % below")
    tap.check("the mean gap is at most 0.5 %", mean <= 0.005, mean)
    tap.check("the worst gap is at most 2 %", most <= 0.02, gaps[-8:])
    tap.done()


main()
