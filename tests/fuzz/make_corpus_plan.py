#!/usr/bin/env python3
"""Makes the seeds of fuzz_plan: a second writer of docs/plan-schema.md, for its model of 2 layers of 12 neurons. Run in
tests/fuzz."""
import base64
import json
import pathlib
import struct

N = 12


def layer(gpu=4, ram=8, order=None, frequency=None, attention="gpu", kv="ram"):
    order = list(range(N))[::-1] if order is None else order
    frequency = [1 - i / N for i in range(N)] if frequency is None else frequency
    return {"attention": attention, "kv": kv, "gate": [gpu, ram], "updown": [0, N], "coverage": {"calibration": 0.5, "held_out": None},
            "order": order and base64.b64encode(struct.pack(f"<{len(order)}I", *order)).decode(),
            "frequency": base64.b64encode(struct.pack(f"<{len(frequency)}f", *frequency)).decode()}


def plan(layers=None, **change):
    settings = {"context": 64, "batch": 32, "threads": 2, "kv": "F16", "vram": None, "ram": 1 << 30, "margin": 0, "staging": 0, "reading": 0,
                "position": 32, "prompt": 16, "unit": 4, "listed": 32, "disk_ratio": 1.0, "zstd": False, "no_gpu": False, "no_disk": False}
    tree = {"calor_plan": 1,
            "model": {"name": "fuzz", "origin": "shape", "identity": None, "layers": 2, "neurons": N, "width": 8, "mode": "exact", "bytes": 1, "sparsity": 0.5},
            "statistics": {"source": "profile", "text": "", "tokens": 9, "tokens_held_out": 0, "hash": "0123456789abcdef"},
            "machine": {"name": "m", "identity": "0123456789abcdef"}, "settings": settings, "degraded": False, "degraded_why": "",
            "prediction": {"token_seconds": 0.01, "low": 0.01, "high": 0.02, "full_context": 0.02, "first_token_seconds": None, "bound": 0.01},
            "output": "ram", "embedding": "disk", "layers": layers or [layer(), layer(0, N, order=[])], "notes": ""}
    for path, value in change.items():
        at, *rest = path.split("__")
        if rest:
            tree[at][rest[0]] = value
        else:
            tree[at] = value
    if not tree["layers"]:
        del tree["layers"]
    return json.dumps(tree, indent=1)


for x in (layer(), layer(0, N, order=[])):
    assert x
SEEDS = {
    "all": plan([layer(), layer(0, N, order=list(range(N)))]),
    "no-order": plan([dict(layer(), order=None), dict(layer(), order=None)]),
    "version": plan(calor_plan=2),
    "other-model": plan(model__layers=3),
    "order-twice": plan([layer(order=[0] * N), layer()]),
    "order-far": plan([layer(order=[0xffffffff] * N), layer()]),
    "frequency-nan": plan([layer(frequency=[float("nan")] * N), layer()]),
    "frequency-rises": plan([layer(frequency=[i / N for i in range(N)]), layer()]),
    "ends-crossed": plan([layer(8, 4), layer()]),
    "ends-odd": plan([layer(3, 8), layer()]),
    "unit-zero": plan(settings__unit=0),
    "kv-disk": plan([layer(kv="disk"), layer()]),
    "deep": "[" * 100,
    "commas": "{\"calor_plan\":1," + "\"a\":0," * 5000 + "\"b\":0}",
    "settings-number": plan(settings=3),
    "token-zero": plan(prediction__token_seconds=0),
    "huge": plan(settings__margin=1 << 62),
}
where = pathlib.Path("corpus/plan")
where.mkdir(parents=True, exist_ok=True)
for name, text in SEEDS.items():
    (where / name).write_text(text)
