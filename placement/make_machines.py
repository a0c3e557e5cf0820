#!/usr/bin/env python3
"""Writes machines.json, the shipped machines, from the published figures below and the assumptions stated beside them.
  python3 make_machines.py           writes it
  python3 make_machines.py --check   compares (TAP)
Units of the file: bytes, bytes/s, nanoseconds, operations/s (docs/machine-format.md)."""
import json
import pathlib
import sys

FILE = pathlib.Path(__file__).with_name("machines.json")
DATE = "2026-11-25"
GB, MIB, GIB = 10**9, 1 << 20, 1 << 30


def digits(x, n=3):
    """Published figures carry no more than three digits."""
    return int(float(f"{x:.{n - 1}e}"))


# ---- GPUs: name, title, MiB as the driver reports them, memory GB/s, PCIe generation and lanes, peak of the tensor cores in
# TFLOP/s (FP16 in, FP32 sums, dense), source of the three.
GPUS = [
    ("rtx3060", "GeForce RTX 3060 12 GB", 12288, 360, (4, 16), 25.5, "NVIDIA product page (192 bit GDDR6, 15 Gbit/s); Ampere GA10x white paper"),
    ("rtx4060ti", "GeForce RTX 4060 Ti 16 GB", 16380, 288, (4, 8), 44.1, "NVIDIA product page (128 bit GDDR6, 18 Gbit/s); Ada white paper"),
    ("rtx3080ti", "GeForce RTX 3080 Ti 12 GB", 12288, 912, (4, 16), 68.2, "NVIDIA product page (384 bit GDDR6X, 19 Gbit/s); Ampere GA10x white paper"),
    ("rtx2080ti", "GeForce RTX 2080 Ti 11 GB", 11264, 616, (3, 16), 56.9, "Turing white paper (352 bit GDDR6, 14 Gbit/s)"),
    ("rtx3090", "GeForce RTX 3090 24 GB", 24576, 936, (4, 16), 71.0, "Ampere GA10x white paper (384 bit GDDR6X, 19.5 Gbit/s)"),
    ("rtx4090", "GeForce RTX 4090 24 GB", 24564, 1008, (4, 16), 165.2, "Ada white paper (384 bit GDDR6X, 21 Gbit/s)"),
    ("rtx5070ti", "GeForce RTX 5070 Ti 16 GB", 16303, 896, (5, 16), 87.9, "RTX Blackwell white paper (256 bit GDDR7, 28 Gbit/s)"),
    ("rtx5090", "GeForce RTX 5090 32 GB", 32607, 1792, (5, 16), 209.5, "RTX Blackwell white paper (512 bit GDDR7, 28 Gbit/s)"),
]
# One direction of a lane, after 128b/130b coding; what copies from pinned memory reach of it (assumed 82 %), and what the
# driver's copy through its own pinned buffer reaches (assumed: one core's copy).
LANE = {3: 0.985 * GB, 4: 1.969 * GB, 5: 3.938 * GB}
PAGEABLE = {3: 6 * GB, 4: 9 * GB, 5: 11 * GB}


def gpu(title, mib, rate, pcie, tensor, source):
    theory = LANE[pcie[0]] * pcie[1]
    return {
        "says": f"{title}, {rate} GB/s, PCIe {pcie[0]}.0 x{pcie[1]}",
        "source": f"{source}. Assumed: kernels read 90 % of the memory's {rate} GB/s, rows of 4 KiB 80 %; 40 % of {tensor} TFLOP/s (FP16, FP32 sums) "
                  f"in products; pinned 82 % of PCIe {pcie[0]}.0 x{pcie[1]} ({theory / GB:.1f} GB/s), pageable one core's copy; launch 4 us, rendezvous "
                  "10 us; 700 MiB for display and context",
        "gpus": [{"name": title, "node": 0, "bytes": mib * MIB, "reserved": 700 * MIB, "read": digits(.9 * rate * GB), "scattered": digits(.8 * rate * GB),
                  "gemm": digits(.4 * tensor * 1e12), "pinned": digits(.82 * theory), "pageable": min(PAGEABLE[pcie[0]], digits(.82 * theory)),
                  "launch_ns": 4000, "rendezvous_ns": 10000}],
    }


# ---- Processor and memory: name, title, cores (the fast ones), last cache MiB, memory GiB, theoretical GB/s, share of it that
# reads reach, what one core alone reads in GB/s.
HOSTS = [
    ("ddr4-2666x2", "desktop or laptop, DDR4-2666 on 2 channels", 6, 6, 12, 32, 42.7, .85, 15),
    ("ddr4-3200x2", "desktop, DDR4-3200 on 2 channels", 8, 8, 32, 32, 51.2, .85, 18),
    ("ddr4-3600x2", "desktop, DDR4-3600 on 2 channels", 8, 8, 32, 32, 57.6, .85, 20),
    ("ddr5-4800x2", "laptop, DDR5-4800 on 2 channels", 14, 6, 24, 32, 76.8, .78, 22),
    ("ddr5-5600x2", "desktop, DDR5-5600 on 2 channels", 8, 8, 32, 64, 89.6, .80, 28),
    ("ddr5-6000x2", "desktop, DDR5-6000 on 2 channels", 8, 8, 32, 64, 96.0, .80, 30),
    ("ddr5-6400x2", "desktop, DDR5-6400 on 2 channels", 8, 8, 36, 64, 102.4, .80, 32),
    ("lpddr5-6400", "laptop, LPDDR5-6400 on 128 bits", 8, 8, 16, 32, 102.4, .72, 24),
    ("lpddr5x-7500", "laptop, LPDDR5X-7500 on 128 bits", 8, 8, 16, 32, 120.0, .72, 26),
    ("i9-13900k-192g", "PowerInfer's PC-High: i9-13900K, 192 GiB, 67.2 GB/s", 24, 8, 36, 192, 67.2, .90, 28),
    ("i7-12700k-64g", "PowerInfer's PC-Low: i7-12700K, 64 GiB, 38.4 GB/s", 12, 8, 25, 64, 38.4, .90, 20),
]
# Scattered rows against one pass from end to end: measured with 1/8 of the rows in ascending order, 2 threads, on a Xeon of
# the Sapphire Rapids generation.
SCATTERED = [(1024, .46), (2048, .63), (4096, .73), (8192, .79), (16384, .87)]
# Weights in the cache, GB/s of weights (gemm: GOP/s) per core: `calor probe` with the avx2 kernels on a Zen 4 server core (KVM,
# AVX-512 left unused, as desktops since 2021 mostly lack it); the 90th percentile, because others shared that machine.
KERNELS = {
    "Q4_0": (26, 26, 8.6, 133), "Q4_K": (25, 25, 6.2, 129), "Q5_K": (21, 22, 3.9, 130), "Q6_K": (22, 21, 5.8, 134),
    "Q8_0": (36, 33, 19, 128), "F16": (66, 60, 22, 131), "BF16": (29, 54, 44, 132), "F32": (80, 58, 65, 74),
}


def host(title, cores, fast, cache, memory, theory, share, one):
    most = theory * share
    curve, threads = [], fast
    for n in sorted({1, 2, 4, 6, 8, threads}):
        if n <= threads:
            curve.append({"threads": n, "rate": digits(min(most, one * n ** .85) * GB)})
    return {
        "says": f"{title}: {memory} GiB, {fast} fast cores",
        "source": f"Theoretical {theory} GB/s, assumed: reads reach {share * 100:.0f} % of it, one core {one} GB/s, n cores n^0.85 times that up to the limit; "
                  "scattered rows the share measured on a Sapphire Rapids server; kernels as measured with AVX2 on one Zen 4 core; barrier 1 us; "
                  "zstd 1.2 GB/s a core (literals only, measured)",
        "cpu": {"name": title, "packages": 1, "cores": cores, "performance_cores": fast, "threads": threads, "last_level_cache": cache * MIB,
                "barrier_ns": 1000},
        "memory": {"bytes": memory * GIB, "nodes": [{"bytes": memory * GIB, "cores": cores, "distance": [10]}], "stream": curve,
                   "scattered": [{"row": x, "rate": digits(min(most, one * threads ** .85) * s * GB)} for x, s in SCATTERED]},
        "kernels": [{"type": t, "matvec": digits(a * GB), "listed": digits(b * GB), "down": digits(c * GB), "gemm": digits(d * GB)}
                    for t, (a, b, c, d) in KERNELS.items()],
        "unzstd": 12 * GB // 10,
    }


# ---- Drives: name, title, data sheet's sequential MB/s and 4 KiB reads/s at full depth, latency of one 4 KiB read in µs.
DISKS = [
    ("sata", "SATA SSD", 560, 98000, 90, "Samsung 870 EVO data sheet: 560 MB/s, 98,000 reads/s"),
    ("gen3", "NVMe PCIe 3.0 x4", 3500, 500000, 75, "Samsung 970 EVO Plus data sheet: 3500 MB/s, 480,000 to 600,000 reads/s"),
    ("gen4", "NVMe PCIe 4.0 x4", 7450, 1200000, 50, "Samsung 990 PRO data sheet: 7450 MB/s, 1,200,000 to 1,400,000 reads/s, 22,000 at depth 1"),
    ("gen5", "NVMe PCIe 5.0 x4", 14500, 1500000, 48, "Crucial T705 data sheet: 14,500 MB/s, 1,550,000 reads/s"),
]


def disk(title, mb, iops, latency, source):
    top, points = .9 * mb * 1e6, []
    for depth in (1, 4, 16, 64):
        for block in (4096, 16384, 65536, 262144, 1 << 20, 4 << 20):
            one = latency * 1e-6 + block / (.7 * mb * 1e6)
            rate = min(top, iops * block, depth * block / one)
            points.append({"block": block, "depth": depth, "rate": digits(rate), "p50_ns": digits(depth * block / rate * 1e9)})
    return {
        "says": f"{title}, {mb / 1000:g} GB/s, {iops // 1000} thousand reads of 4 KiB a second",
        "source": f"{source}. Assumed: 90 % of the sequential rate through a file system; a read alone takes {latency} us and its bytes at 70 % of that "
                  "rate; depth times that up to the limits of bytes and of reads",
        "disks": [{"name": title, "node": 0, "direct": True, "read": points}],
    }


# Whole machines by name: what they are joined from.
WHOLE = [
    ("powerinfer-pc-high", "the machine of PowerInfer's paper (arXiv 2312.12456): RTX 4090, i9-13900K, 192 GiB", "rtx4090+i9-13900k-192g+gen4"),
    ("powerinfer-pc-low", "the machine of PowerInfer's paper (arXiv 2312.12456): RTX 2080 Ti, i7-12700K, 64 GiB", "rtx2080ti+i7-12700k-64g+gen3"),
]


def build():
    parts = {}
    for name, *rest in GPUS:
        parts[name] = gpu(*rest)
    for name, *rest in HOSTS:
        parts[name] = host(*rest)
    for name, *rest in DISKS:
        parts[name] = disk(*rest)
    for name, says, join in WHOLE:
        parts[name] = {"says": says, "join": join}
    head = {"calor_machines": 1, "date": DATE, "written_by": "make_machines.py: change it there"}
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in head.items()]
    body = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in parts.items())
    return "{" + ",\n ".join(lines) + ",\n \"parts\": {\n" + body + "\n }}\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        same = FILE.read_text() == build()
        print(f"1..1\n{'ok' if same else 'not ok'} 1 - machines.json is what make_machines.py writes")
        sys.exit(not same)
    FILE.write_text(build())
