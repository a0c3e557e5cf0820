#!/usr/bin/env python3
"""GGUF against the gguf package of Python: it writes and Calor reads (every value type, several element types, another
alignment); Calor writes and it reads; and both read real files alike. Argument: the unit test that writes a sample."""
import json
import subprocess
import sys

import tap

np, gguf = tap.need("numpy", "gguf")
D = tap.temp()


def load(path):
    out = tap.run("inspect", path, "--json")
    if out.returncode != 0:
        tap.check(f"{path} opens", False, out.stderr)
        return None
    return json.loads(out.stdout)


def plain(value):
    if isinstance(value, dict) and list(value) == ["hex"]:
        return bytes.fromhex(value["hex"])
    return value


def same(ours, theirs):
    """Compares every key and tensor of our JSON with a GGUFReader; the first difference, or ''."""
    fields = {k: f for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    if set(fields) != set(ours["metadata"]):
        return f"keys differ: {set(fields) ^ set(ours['metadata'])}"
    for k, f in fields.items():
        want, got = f.contents(), ours["metadata"][k]["value"]
        got = [plain(v) for v in got] if isinstance(got, list) else plain(got)
        if isinstance(want, float) or (isinstance(want, list) and want and isinstance(want[0], float)):
            if not np.array_equal(np.float32(want), np.float32(got)):
                return f"{k}: {want} {got}"
        elif want != got:
            return f"{k}: {str(want)[:200]} {str(got)[:200]}"
    if len(theirs.tensors) != len(ours["tensors"]):
        return "number of tensors"
    for t, o in zip(theirs.tensors, ours["tensors"]):
        if (t.name, t.tensor_type.name, [int(x) for x in t.shape], int(t.n_bytes), int(t.data_offset)) != (
                o["name"], o["type"], o["shape"], o["bytes"], o["offset"]):
            return f"{t} {o}"
    return ""


path = D / "theirs.gguf"
w = gguf.GGUFWriter(path, "llama")
for kind, value in [("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000), ("uint32", 4000000000),
                    ("int32", -2000000000), ("uint64", 2**63 + 5), ("int64", -(2**62)), ("float32", 0.1), ("float64", 0.1),
                    ("bool", True), ("string", "naïve ✓")]:
    getattr(w, f"add_{kind}")(f"test.{kind}", value)
w.add_array("test.ints", [1, -2, 3])
w.add_array("test.floats", [0.5, -1.25])
w.add_array("test.words", ["a", "", "日本"])
w.add_array("test.flags", [True, False])
w.add_custom_alignment(64)
rng = np.random.default_rng(1)
tensors = {"one": rng.standard_normal(5).astype(np.float32), "two": rng.standard_normal((3, 7)).astype(np.float16),
           "three": rng.integers(-100, 100, (2, 3, 4)).astype(np.int32)}
for name, t in tensors.items():
    w.add_tensor(name, t)
w.add_tensor("quantised", rng.integers(0, 255, (2, 34 * 2), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
ours = load(path)
if ours:
    difference = same(ours, gguf.GGUFReader(path))
    tap.check("a file of every type reads the same", not difference, difference)
    tap.check("its alignment is seen", ours["alignment"] == 64 and all(t["offset"] % 64 == 0 for t in ours["tensors"]), ours["alignment"])

for folder in ["models", "vocab"]:
    base = tap.shared(folder)
    if not base:
        tap.skip(f"real {folder} read the same", "shared data is not there")
        continue
    bad = []
    for file in sorted(base.glob("*.gguf")):
        if file.stat().st_size > 1_600_000:  # the package takes seconds for each
            continue
        j = load(file)
        difference = same(j, gguf.GGUFReader(file)) if j else "refused"
        if difference:
            bad.append((file.name, difference))
    tap.check(f"real {folder} read the same", not bad, bad)

# What Calor writes, Python reads: the sample of the unit test's writer.
if len(sys.argv) > 1:
    subprocess.run([sys.argv[1], D / "ours.gguf"], check=True)
    r = gguf.GGUFReader(D / "ours.gguf")
    j = load(D / "ours.gguf")
    difference = same(j, r) if j else "refused"
    tap.check("Python reads what Calor writes", not difference, difference)
    tap.check("with the right bytes", bytes(r.tensors[0].data.tobytes()) == bytes((i * 7 + 1) & 255 for i in range(108)), r.tensors[0])
else:
    tap.skip("Python reads what Calor writes", "the unit tests are not built")
tap.done()
