#!/usr/bin/env python3
"""The layer rule: which folder may include which header. Reads every #include line of the project against the table in
docs/architecture.md ("The layer rule"), which this file's tables mirror. Prints TAP-free plain lines; exit 1 on a breach."""
import pathlib
import re
import sys

# Front headers: what other folders may include of a folder. base/ is open whole, tests may include anything.
FRONT = {
    "kernels": {"kernels/kernels.h", "kernels/device.h"},
    "io": {"io/gguf.h", "io/safetensors.h", "io/npy.h", "io/powerinfer.h", "io/aio.h", "io/store.h", "io/codec.h", "io/loader.h", "io/cache.h"},
    "placement": {"placement/placement.h", "placement/profile.h", "placement/machine.h", "placement/probe.h", "placement/plan.h", "placement/plan_model.h", "placement/plan_page.h", "placement/predictor.h", "placement/predictor_train.h", "placement/simulate.h"},
    "engine": {"engine/calor.h", "engine/tools.h"},
}
# Folder (longest prefix wins) -> other folders whose front headers it may include.
MAY = {
    "base": [],
    "kernels": ["base"],
    "io": ["base"],
    "placement": ["base", "kernels", "io"],
    "engine": ["base", "kernels", "io", "placement"],
    "engine/cli": ["base", "io", "placement", "engine"],
    "bench": ["base", "kernels", "io", "placement", "engine"],
    "docs": ["engine"],
}
# Header pattern -> files or folders that may include it.
BANS = [
    (r"cuda.*\.h|cublas.*\.h", ["kernels/cuda"]),
    (r"liburing.*", ["io/aio_uring.c"]),
    (r"hwloc.*", ["base/affinity.c", "placement/probe.c"]),
    (r"[a-z]*intrin\.h", ["kernels/cpu"]),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def breaches(root):
    out = []
    files = [p for d in (*MAY, "tests") for p in (root / d).rglob("*") if p.suffix in (".c", ".h", ".cu", ".cuh", ".inc")]
    for path in sorted(set(files)):
        name = path.relative_to(root).as_posix()
        rule = max((k for k in MAY if name.startswith(k + "/")), key=len, default=None)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            quote, header = m.groups()
            where = f"{name}:{number}"
            for pattern, allowed in BANS:
                if re.fullmatch(pattern, header) and not any(name == a or name.startswith(a + "/") for a in allowed):
                    out.append(f"{where}: <{header}> may only be included in {', '.join(allowed)}")
            if quote == "<" and not (root / header).is_file():
                continue  # the system's
            if name.startswith("tests/") or rule is None:
                continue
            if "/" not in header:
                out.append(f"{where}: \"{header}\": write the path from the project's root")
                continue
            target = header.split("/")[0]
            own = rule.split("/")[0]
            if rule == "engine/cli":
                if header.startswith("engine/cli/"):
                    continue
            elif target == own and not header.startswith("engine/cli/"):
                continue
            if target not in MAY[rule]:
                out.append(f"{where}: {rule}/ must not include {target}/ ({header})")
            elif target != "base" and header not in FRONT[target]:
                out.append(f"{where}: {header} is private to {target}/: only {', '.join(sorted(FRONT[target]))}")
            elif not (root / header).exists():
                out.append(f"{where}: {header} does not exist")
    return out


if __name__ == "__main__":
    found = breaches(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("\n".join(found) or "layer rule holds")
    sys.exit(1 if found else 0)
