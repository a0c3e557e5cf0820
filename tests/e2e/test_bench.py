#!/usr/bin/env python3
"""calor bench and bench/compare.py: figures follow from the samples, failures are reported."""
import csv
import io
import json
import statistics
import subprocess
import sys

import tap

model = tap.temp() / "m.gguf"
tap.run("synth", "--shape", "d=128,f=256,layers=2,heads=4,kv=2,vocab=600", "--type", "q8_0", "-o", model)


def bench(*args):
    return tap.run("bench", model, *args)


out = bench("-p", "8,32", "-n", "6", "-r", "2", "-t", "1", "--json")
tap.check("bench --json", out.returncode == 0 and out.stderr == "", out)
j = json.loads(out.stdout)
tap.check("kinds of run in order", [(t["test"], t["tokens"]) for t in j["tests"]] == [("pp8", 8), ("pp32", 32), ("tg6", 6)])
tap.check("medians, intervals and rates follow from the samples", all(
    len(t["samples"]) == 2 and abs(statistics.median(t["samples"]) - t["median"]) < 1e-6 * t["median"]
    and min(t["samples"]) <= t["low"] * 1.000001 and t["high"] <= max(t["samples"]) * 1.000001
    and all(abs(r * s / t["tokens"] - 1) < 1e-6 for r, s in zip(t["samples"], t["seconds"])) for t in j["tests"]), j["tests"])
# All of a token's weights but the embedding, of which one row: sizes of Q8_0 and F32 tensors.
rows = 2 * (128 + 64 + 64 + 128 + 256 + 256) * 128 + 2 * 128 * 256 + 600 * 128
tap.check("bytes a token", j["model"]["token_bytes"] == rows * 34 // 32 + 5 * 128 * 4 + 128 * 34 // 32, j["model"])
tg, bw = j["tests"][2], j["read_bandwidth"]
q = tg["token_seconds"]
tap.check("single tokens' times are those of the runs", 0 < q["p50"] <= q["p90"] <= q["p99"] <= q["most"] and "token_seconds" not in j["tests"][0]
          and max(tg["seconds"]) / tg["tokens"] <= q["most"] <= max(tg["seconds"]), tg)
tap.check("read bandwidth before and after each round; the share follows", len(bw["samples"]) == 3 and abs(
    tg["share_of_read_bandwidth"] * bw["median"] / (j["model"]["token_bytes"] * tg["median"]) - 1) < 1e-6, bw)
tap.check("settings", j["settings"]["threads"] == 1 and j["settings"]["mode"] == "dense-fast"
          and j["settings"]["kv"] == "f16" and j["settings"]["context"] == 32, j["settings"])
tap.check("memory", j["peak_memory"] > j["model"]["weight_bytes"] and 0 < j["anonymous_memory"] < j["peak_memory"], j)
tap.check("host", j["host"]["memory"] > 1e8 and j["host"]["cores"] >= 1 and j["host"]["cpu"], j["host"])

j = json.loads(bench("-p", "0", "-n", "4", "-r", "2", "--mode", "dense", "--kv", "q8_0", "--no-membw", "--no-warmup",
                     "-c", "50", "-b", "16", "--json").stdout)
tap.check("one kind only, other settings, no bandwidth", len(j["tests"]) == 1 and "read_bandwidth" not in j
          and "share_of_read_bandwidth" not in j["tests"][0] and j["settings"]["context"] == 50
          and j["settings"]["batch"] == 16 and j["settings"]["mode"] == "dense", j)
table = bench("-p", "4", "-n", "2", "-r", "1", "--no-membw", "--md").stdout.splitlines()
tap.check("--md", len(table) == 4 and len({line.count("|") for line in table}) == 1, table)
rows = list(csv.DictReader(io.StringIO(bench("-p", "4", "-n", "2", "-r", "1", "--csv").stdout)))
tap.check("--csv", [r["test"] for r in rows] == ["pp4", "tg2"] and float(rows[1]["tokens_per_second"]) > 0
          and float(rows[0]["read_bandwidth"]) > 1e8, rows)
shown = bench("-p", "4", "-n", "2", "-r", "1", "--no-membw").stdout
tap.check("text", "pp4" in shown and "tg2" in shown and "95 % interval" in shown and "peak memory" in shown, shown)

text = tap.temp() / "text"
text.write_text("some words to read " * 30)
tap.check("tokens of a text", bench("-f", text, "-p", "64", "-n", "1", "-r", "1", "--no-membw").returncode == 0)
text.write_text("too short")
for args, word in [(["-f", text, "-p", "64"], "tokens"), (["-p", "x"], "'x'"), (["-p", "1,,2"], "1,,2"), (["-p", "-3"], "-3"),
                   (["-p", "0", "-n", "0"], "nothing to measure"), (["-p", "100", "-c", "50"], "too short"),
                   (["--json", "--md"], "exclude"), (["--mode", "exact"], "zero"), (["--membw"], "no model"),
                   (["-r", "0"], "range")]:
    out = bench(*args)
    tap.check(f"refused: {' '.join(map(str, args))}", out.returncode == 2 and word in out.stderr and not out.stdout, out)

j = json.loads(tap.run("bench", "--membw", "--json", "-t", "1", "--seconds", "0.05").stdout)
tap.check("--membw", j["threads"] == 1 and j["passes"] >= 3 and 1e8 < j["median"] <= j["best"] < 1e13, j)

# compare.py beside a peer that always says 100 tokens/s; other peers fail, lie, or come back to life.
peer = tap.temp() / "peer.py"
peer.write_text('''import json, sys, pathlib
args = dict(zip(sys.argv[2::2], sys.argv[3::2]))
count = pathlib.Path(args["-m"] + "." + sys.argv[1])
n = int(count.read_text()) if count.exists() else 0
count.write_text(str(n + 1))
if sys.argv[1] == "fails" or (sys.argv[1] == "once" and n == 1):
    sys.exit("no such luck")
t = int(args["-t"]) + (sys.argv[1] == "lies")
p, g = int(args["-p"]), int(args["-n"])
print(json.dumps([{"n_prompt": p, "n_gen": 0, "n_threads": t, "samples_ns": [p * 10**7], "build_commit": "abc"}] +
                 [{"n_prompt": 0, "n_gen": g, "n_threads": t, "samples_ns": [g * 10**7], "build_commit": "abc"}]))
''')
report = tap.temp() / "report.json"


def compare(*kinds, pairs=3, more=("--no-membw",)):
    peers = [x for k in kinds for x in ("--peer", f"{k}={sys.executable} {peer} {k}")]
    out = subprocess.run([sys.executable, tap.ROOT / "bench" / "compare.py", "--calor", tap.CALOR, *peers, model, "-p", "8",
                          "-n", "4", "-t", "1", "--min-pairs", str(pairs), "--json", report, *more], capture_output=True, text=True,
                         timeout=250)
    return out, json.loads(report.read_text())["results"][0] if report.exists() else None


out, r = compare("steady", pairs=2, more=())
tap.check("compare.py", out.returncode == 0 and "| steady | 100.00 |" in out.stdout and not r["failures"], out)
tg = r["tests"]["tg4"]
tap.check("ratios are those of the rounds", tg["ratio"]["calor"]["steady"]["n"] == 2 and all(
    abs(x / (y["speed"]["calor"]["tg4"] / 100) - 1) < 1e-9 for x, y in zip(tg["ratio"]["calor"]["steady"]["samples"], r["rounds"]))
    and tg["ratio"]["calor"]["steady"]["interval"][0] <= tg["ratio"]["calor"]["steady"]["median"] <= tg["ratio"]["calor"]["steady"]["interval"][1])
tap.check("bandwidth in every round", all(x["bandwidth"] > 1e8 for x in r["rounds"])
          and tg["share_of_read_bandwidth"]["calor"]["n"] == 2)
out, r = compare("once")
tap.check("a failed run is reported, its round has no ratio", out.returncode == 1 and len(r["failures"]) == 1
          and r["tests"]["pp8"]["ratio"]["calor"]["once"]["n"] == 2 and "no such luck" in out.stdout, out)
out, r = compare("fails", "lies")
tap.check("peers without a result are named, thread counts are checked", out.returncode == 1
          and {f["program"] for f in r["failures"]} == {"fails", "lies"} and "2 threads instead of 1" in out.stdout, out)
out, r = compare(more=("--no-membw", "--own", "one=--mode dense", "--own", "two=--mode dense -b 4"))
tap.check("ways of running Calor are compared with the first, each with its own flags", out.returncode == 0
          and list(r["tests"]["tg4"]["ratio"]) == ["two"] and r["tests"]["tg4"]["ratio"]["two"]["one"]["n"] == 3
          and r["own"]["two"]["settings"]["mode"] == "dense" and r["own"]["two"]["flags"][-1] == "4", out)
for more, word in [((), "nothing to compare"), (("--own", "x"), "NAME="), (("--own", "a=-b 4", "--own", "a=-b 4"), "once")]:
    out, _ = compare(more=more)
    tap.check(f"refused: {more}", out.returncode == 2 and word in out.stderr, out)
tap.done()
