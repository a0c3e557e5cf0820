#!/usr/bin/env python3
"""calor inspect: every kind of file as text and as JSON, on files made here byte by byte; hostile text in them."""
import json
import pathlib
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "fuzz"))
import make_corpus as make  # noqa: E402
import tap  # noqa: E402

D = tap.temp()
U8 = "naïve ✓ 日本"


def write(name, content):
    path = D / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def inspect_json(path, *args):
    out = tap.run("inspect", path, "--json", *args)
    return json.loads(out.stdout) if out.returncode == 0 else {"error": out.stderr}


# GGUF
tokens = [b"<s>", b"a b", "é".encode(), b"\xff\xfe", b"\x1b[31m", b"\n"] + [b"t%d" % i for i in range(1000)]
path = write("model.gguf", make.gguf(
    make.KEYS[:2] + make.KEYS[4:5] + [
        make.key("words", 9, make.array(8, len(tokens), b"".join(make.name(t) for t in tokens))),
        make.key("text", 8, make.name(U8)), make.key("evil", 8, make.name(b"\x1b]0;title\x07\xe2\x80\xaex")),
        make.key("nan", 6, struct.pack("<f", float("nan"))), make.key("big", 10, struct.pack("<Q", 2**64 - 1)),
        make.key("neg", 11, struct.pack("<q", -(2**63))), make.key("yes", 7, b"\x01"), make.KEYS[10]],
    [make.tensor(f"blk.{i}.w.weight", (32, 2), 2, 64 * i) for i in range(40)] + [make.tensor("output.weight", (3,), 0, 2560)],
    2592))
out = tap.run("inspect", path)
tap.check("a GGUF file is shown", out.returncode == 0 and "llama" in out.stdout, out.stderr)
tap.check("on 80 columns", all(len(line) <= 80 for line in out.stdout.splitlines()[1:]), out.stdout)
tap.check("layers share a line", "blk.*.w.weight" in out.stdout and "40 x Q4_0" in out.stdout, out.stdout)
tap.check("long arrays are cut", "t999" not in out.stdout and "string[1006]" in out.stdout, out.stdout)
tap.check("no control character reaches the terminal", not any(c in out.stdout for c in "\x1b\x07\u202e"), repr(out.stdout))
tap.check("text is shown as text", U8 in out.stdout, out.stdout)
out = tap.run("inspect", path, "--tensors")
tap.check("--tensors shows each", "blk.39.w.weight" in out.stdout and "blk.*" not in out.stdout, out.stdout)
j = inspect_json(path)
m = {k: v["value"] for k, v in j["metadata"].items()}
tap.check("JSON has every value", m["words"][:3] == ["<s>", "a b", "é"] and len(m["words"]) == 1006 and m["text"] == U8, m)
tap.check("JSON loses no byte", m["words"][3] == {"hex": "fffe"} and m["words"][4:6] == ["\x1b[31m", "\n"], m["words"][:8])
tap.check("JSON numbers are exact", m["big"] == 2**64 - 1 and m["neg"] == -(2**63) and m["yes"] is True and m["nan"] is None, m)
tap.check("JSON has arrays in arrays", m["nested"] == [[1, 2], [["x"]]], m["nested"])
tap.check("JSON has every tensor", len(j["tensors"]) == 41 and j["tensors"][1] == {
    "name": "blk.1.w.weight", "type": "Q4_0", "shape": [32, 2], "values": 64, "bytes": 36,
    "offset": j["tensors"][0]["offset"] + 64, "shard": 0}, j["tensors"][:2])
tap.check("JSON sums up", j["parameters"] == 40 * 64 + 3 and j["tensor_bytes"] == 40 * 36 + 12, j["parameters"])
out = tap.run("inspect", path, "--kv", "text")
tap.check("--kv prints a value whole", out.stdout == U8 + "\n", out.stdout)
out = tap.run("inspect", path, "--kv", "words")
tap.check("--kv prints an array, a line each", out.stdout.splitlines()[-1] == "t999" and out.stdout.count("\n") == 1006, out.stdout[:200])
tap.check("--kv --json", inspect_json(path, "--kv", "big") == 2**64 - 1)
out = tap.run("inspect", path, "--kv", "wrods")
tap.check("--kv of a missing key suggests", out.returncode != 0 and "did you mean 'words'" in out.stderr, out.stderr)

# Parts, PowerInfer
for i, t in enumerate(["a", "b"]):
    write(f"s-{i + 1:05}-of-00002.gguf", make.gguf(
        [make.key("split.no", 2, struct.pack("<H", i)), make.key("split.count", 2, struct.pack("<H", 2))],
        [make.tensor(t, (8,), 0, 0)], 32))
j = inspect_json(D / "s-00001-of-00002.gguf")
tap.check("parts are joined", len(j["shards"]) == 2 and [t["shard"] for t in j["tensors"]] == [0, 1], j)
out = tap.run("inspect", D / "s-00002-of-00002.gguf")
tap.check("a later part names the first", out.returncode != 0 and "s-00001-of-00002.gguf" in out.stderr, out.stderr)
seeds = make.gguf_seeds()
j = inspect_json(write("pi.gguf", seeds["powerinfer"]))
tap.check("a PowerInfer model is recognised", j["magic"] == "PWRI" and j["powerinfer"]["predictors"] == 1, j)
j = inspect_json(write("pi.gpuidx", seeds["gpu-index"]))
tap.check("a GPU index is recognised", j["powerinfer"]["gpu_neurons"] == [
    {"layer": 0, "on_gpu": 2, "neurons": 5}, {"layer": 1, "on_gpu": 0, "neurons": 5}], j)
out = tap.run("inspect", D / "pi.gpuidx")
tap.check("and shown by layer", "40.0 %" in out.stdout, out.stdout)
out = tap.run("inspect", write("bad.gguf", seeds["truncated"]))
tap.check("a truncated file is an error", out.returncode == 1 and "the file ends at" in out.stderr, out.stderr)
out = tap.run("inspect", write("meta.gguf", seeds["metadata-only"]))
tap.check("metadata alone is shown as that", out.returncode == 0 and "metadata only" in out.stdout, out.stdout + out.stderr)

# safetensors and folders
st = make.safetensors_seeds()
path = write("x.safetensors", st["all"])
out = tap.run("inspect", path)
tap.check("safetensors is shown", out.returncode == 0 and "a.weight" in out.stdout and "one value" in out.stdout, out.stdout + out.stderr)
j = inspect_json(path)
tap.check("safetensors as JSON", j["metadata"] == {"format": "pt"} and j["parameters"] == 10 and
          {t["name"]: t["type"] for t in j["tensors"]} == {"a.weight": "F32", "b": "BF16", "scalar": "I64", "none": "U8"}, j)
tap.check("without its suffix too", "format" in inspect_json(write("blob", st["all"])))
write("hf/config.json", b'{"model_type": "llama", "hidden_act": "relu", "rope": {"x": 1}}')
write("hf/model-1.safetensors", make.safetensors({"model.layers.0.w": make.entry("F16", [2], 0, 4)}, bytes(4)))
write("hf/model-2.safetensors", make.safetensors({"model.layers.1.w": make.entry("F16", [2], 0, 4)}, bytes(4)))
write("hf/model.safetensors.index.json", json.dumps({"weight_map": {
    "model.layers.0.w": "model-1.safetensors", "model.layers.1.w": "model-2.safetensors"}}).encode())
j = inspect_json(D / "hf")
tap.check("a folder is opened through its index", j["config"]["hidden_act"] == "relu" and len(j["tensors"]) == 2, j)
out = tap.run("inspect", D / "hf")
tap.check("a folder is shown with its configuration", "hidden_act" in out.stdout and "model.layers.*.w" in out.stdout, out.stdout)
out = tap.run("inspect", D / "hf", "--kv", "hidden_act")
tap.check("--kv reads config.json", out.stdout == "relu\n", out.stdout)
(D / "pt").mkdir()
write("pt/pytorch_model.bin", b"PK")
out = tap.run("inspect", D / "pt")
tap.check("pickles are refused with the way out", out.returncode == 1 and "save_file(" in out.stderr, out.stderr)

# .npy, and what is none of these
j = inspect_json(write("l.npy", make.npy()))
tap.check(".npy is shown", j["shape"] == [2, 3], j)
for name, content, text in [("empty", b"", "no file that Calor knows"), ("text", b"hello, world", "no file that Calor knows"),
                            ("zeros", bytes(100), "no file that Calor knows"), ("zero.gguf", b"", "is empty")]:
    out = tap.run("inspect", write(name, content))
    tap.check(f"'{name}' is refused", out.returncode == 1 and text in out.stderr, out.stderr)
out = tap.run("inspect", D / "not-there.gguf")
tap.check("a missing file is refused", out.returncode == 1 and "No such file" in out.stderr, out.stderr)
out = tap.run("inspect", "/dev/zero")
tap.check("a device is refused", out.returncode == 1 and "a device" in out.stderr, out.stderr)

# Every seed of the fuzz targets: an answer, valid JSON, never a signal.
bad = []
for kind, files in {"gguf": seeds, "safetensors": st, "npy": make.npy_seeds()}.items():
    for name, content in files.items():
        path = write(f"seed/{name}.{kind}", content)
        for args in [(), ("--tensors",), ("--json",)]:
            out = tap.run("inspect", path, *args, text=False)
            fine = out.returncode == 1 and out.stderr.startswith(b"calor: error: ") and not out.stdout
            if out.returncode == 0:
                fine = args != ("--json",) or json.loads(out.stdout.decode()) is not None
            if not fine:
                bad.append((name, args, out.returncode, out.stderr))
tap.check("every seed gets an answer", not bad, bad)
shared = tap.shared("gguf-malformed", "EXPECTED.tsv")
if shared:
    wrong = []
    for line in shared.read_text().splitlines():
        name, verdict = line.split("\t")[:2]
        out = tap.run("inspect", shared.parent / f"{name}.gguf", text=False)
        if out.returncode != (0 if verdict == "ACCEPT" else 1):
            wrong.append((name, verdict, out.returncode, out.stderr))
    tap.check("the reference set is judged as expected", not wrong, wrong)
else:
    tap.skip("the reference set is judged as expected", "shared data is not there")
tap.done()
