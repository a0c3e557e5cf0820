#!/usr/bin/env python3
"""What all commands share: help, spelling, exit statuses, closed output, signals, progress."""
import json
import os
import pty
import re
import resource
import signal
import subprocess
import time

import tap

TINY = ["--shape", "d=64,f=128,layers=1,heads=2,vocab=300", "--type", "f32"]


def one_error(out, status, *words):
    """The message is there, is all there is, and says what it should."""
    return (out.returncode == status and out.stderr.startswith("calor: error: ") and out.stdout == ""
            and all(w in out.stderr for w in words))


listed = tap.run("help")
commands = re.findall(r"^  (\w+) +\S", listed.stdout, re.M)
tap.check("help lists the commands", listed.returncode == 0 and {"synth", "bench"} <= set(commands), listed.stdout)
tap.check("--help is the same", tap.run("--help").stdout == listed.stdout == tap.run("-h").stdout)
for c in commands:
    usage = 1 if c == "plan" else 2  # plan's 2 says that a plan fits, but degraded
    a, b = tap.run("help", c), tap.run(c, "--help")
    tap.check(f"help {c}", a.returncode == b.returncode == 0 and a.stdout == b.stdout and a.stderr == ""
              and a.stdout.startswith(f"usage: calor {c} ") and "\noptions:\n" in a.stdout, a.stdout + a.stderr)
    examples = a.stdout.partition("\nexamples:\n")[2].strip().splitlines()
    tap.check(f"help {c} has examples, of this command",
              examples and all(re.match(rf"\s*(#|calor {c}\b|.*\| *calor {c}\b)", e) for e in examples), a.stdout)
    tap.check(f"help {c} fits a terminal", not (long := [x for x in a.stdout.splitlines() if len(x) > 120]), long)
    usage = 1 if c == "plan" else 2  # plan's 2: fits, but degraded
    out = tap.run(c, "--hlep")
    tap.check(f"{c}: unknown option, nearest spelling", one_error(out, usage, "'--hlep'", "did you mean '--help'?"), out)
    out = tap.run(c, "--zzzzzzzzzz")
    tap.check(f"{c}: unknown option, nothing near", one_error(out, usage, "'--zzzzzzzzzz'") and "mean" not in out.stderr, out)
    for arg in "/nonexistent/x.gguf", "/":
        args = ["-o", "/nonexistent/y.gguf", "--shape", "1b"] if c == "synth" else [arg]
        if c == "probe":
            args = ["--topology", arg]
        if c in ("tokenize", "run"):
            args += ["-p", "x"]
        if c in ("eval", "profile", "predictor"):
            args += ["-f", "/nonexistent/text"]
        if c in ("convert", "profile", "predictor"):
            args += ["-o", str(tap.temp() / "made")]
        out = tap.run(c, *args)
        tap.check(f"{c} {arg}: an error", one_error(out, 1, "/"), out)

out = tap.run("--version")
tap.check("--version", out.returncode == 0 and re.fullmatch(r"calor \d+\.\d+\.\d+\n", out.stdout), out)
out = tap.run()
tap.check("no command: help on stderr", out.returncode == 2 and out.stderr == listed.stdout and not out.stdout, out)
tap.check("unknown command, nearest", one_error(o := tap.run("snyth"), 2, "'snyth'", "'synth'"), o)
tap.check("unfinished command, nearest", one_error(o := tap.run("token"), 2, "'tokenize'"), o)
tap.check("unknown command, nothing near", one_error(o := tap.run("frobnicate"), 2, "'frobnicate'"), o)
tap.check("help of an unknown command", one_error(o := tap.run("help", "bnech"), 2, "'bench'"), o)
tap.check("option before the command", one_error(o := tap.run("--json", "bench"), 2, "'--json'"), o)

for args, words in [
        (["--seed"], ["--seed needs a value"]),
        (["--seed", "-1"], ["--seed", "'-1'"]),
        (["--seed", "18446744073709551616"], ["--seed"]),
        (["--seed", "1x"], ["'1x'"]),
        (["-t", "0"], ["out of range", "1 to 1024"]),
        (["-t", "two"], ["'two'", "whole number"]),
        (["-t", ""], ["whole number"]),
        (["--threads=99999999999999999999"], ["range"]),
        (["-shape", "1b"], ["did you mean '--shape'"]),
        (["--progress", "jsno"], ["did you mean 'json'"]),
        (["--help=yes"], ["takes no value"]),
        (["extra"], ["unexpected argument 'extra'"]),
        (["--", "--seed"], ["unexpected argument '--seed'"]),
        ([], ["--shape is missing"]),
]:
    tap.check(f"synth {' '.join(args) or '(nothing)'}: refused", one_error(o := tap.run("synth", *args), 2, *words), o)
out = tap.run("bench", "model", "--kv", "f61")
tap.check("a choice has a nearest spelling too", one_error(out, 2, "--kv", "did you mean 'f16'"), out)

# Output that cannot be written is an error, not a signal.
with open("/dev/full", "w") as full:
    out = subprocess.run([tap.CALOR, "help"], stdout=full, stderr=subprocess.PIPE, text=True)
tap.check("standard output full", out.returncode == 1 and "standard output" in out.stderr, out)
out = subprocess.run([tap.CALOR, "help"], stderr=subprocess.PIPE, text=True, preexec_fn=lambda: os.close(1))
tap.check("standard output closed", out.returncode == 1 and "standard output" in out.stderr, out)
read, write = os.pipe()
os.close(read)
out = subprocess.run([tap.CALOR, "help"], stdout=write, stderr=subprocess.PIPE, text=True)
os.close(write)
tap.check("nobody reads standard output", out.returncode == 1 and "Broken pipe" in out.stderr, out)
file = tap.temp() / "closed.gguf"
out = subprocess.run([tap.CALOR, "synth", *TINY, "-o", file], preexec_fn=lambda: (os.close(0), os.close(1), os.close(2)))
tap.check("all three closed: no text in the file", out.returncode == 0 and file.read_bytes()[:4] == b"GGUF", out)

# A file that cannot grow, and an interrupt: an error, and nothing left behind.
folder = tap.temp() / "partial"
folder.mkdir()
out = subprocess.run([tap.CALOR, "synth", *TINY, "-o", folder / "x.gguf"], capture_output=True, text=True,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000)))
tap.check("file size limit", one_error(out, 1, "x.gguf") and not list(folder.iterdir()), (out, list(folder.iterdir())))
for sig in signal.SIGINT, signal.SIGTERM:
    p = subprocess.Popen([tap.CALOR, "synth", "--shape", "llama2-7b", "--type", "q8_0", "-o", folder / "x.gguf"],
                         stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while not list(folder.iterdir()) and time.time() < deadline:
        time.sleep(0.02)
    p.send_signal(sig)
    err = p.communicate(timeout=60)[1]
    tap.check(f"{sig.name}: stops, says so, leaves nothing", p.returncode == 128 + sig and "calor: error:" in err
              and not list(folder.iterdir()), (p.returncode, err, list(folder.iterdir())))

# An interrupt while a model is loading. The progress line says that it is; on a machine that is faster than the
# signal, once more.
slow = tap.temp() / "slow.gguf"
tap.run("synth", "--shape", "d=1024,f=8192,layers=6,heads=8,vocab=300", "--type", "q4_k", "--activation", "relu", "-o", slow)
words = tap.temp() / "words.txt"
words.write_text("a b c d " * 100)
logits = folder / "logits.npy"
for sig, args in ((signal.SIGINT, ["run", slow, "-p", "a"]), (signal.SIGTERM, ["run", slow, "-p", "a", "--no-mmap"]),
                  (signal.SIGINT, ["eval", slow, "-f", words, "-c", "64", "--logits", logits]),
                  (signal.SIGINT, ["bench", slow]), (signal.SIGINT, ["profile", slow, "-f", words, "-o", folder / "x.profile"])):
    for attempt in range(5):
        p = subprocess.Popen([tap.CALOR, *map(str, args), "--progress", "json"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = p.stderr.readline()
        p.send_signal(sig)
        out, err = p.communicate(timeout=60)
        if "loading was interrupted" in err:
            break
    tap.check(f"{sig.name} while loading: {args[0]} stops, says so, leaves nothing", p.returncode == 128 + sig and
              re.search("^calor: error: .*slow.gguf: loading was interrupted$", err, re.M) and out == "" and
              '"done":1.000' not in err and not list(folder.iterdir()), (p.returncode, line, out, err, list(folder.iterdir())))

out = tap.run("synth", *TINY, "--progress", "json", "-o", tap.temp() / "p.gguf")
lines = [json.loads(line) for line in out.stderr.splitlines()]
tap.check("--progress json", lines and all(set(x) == {"progress", "done", "seconds"} for x in lines)
          and lines[-1]["done"] == 1, out)
out = tap.run("synth", *TINY, "-o", tap.temp() / "p.gguf")
tap.check("no terminal: no progress", out.returncode == 0 and out.stderr == out.stdout == "", out)


def on_terminal(args, env):
    """What a terminal would have shown."""
    main, side = pty.openpty()
    p = subprocess.Popen([tap.CALOR, *map(str, args)], stdin=subprocess.DEVNULL, stdout=side, stderr=side,
                         env={**os.environ, **env})
    os.close(side)
    shown = b""
    while True:
        try:
            got = os.read(main, 65536)
        except OSError:
            break
        if not got:
            break
        shown += got
    os.close(main)
    return p.wait(), shown


status, shown = on_terminal(["synth", "--shape", "d=1024,f=4096,layers=4,heads=8", "--type", "f16", "-o",
                             tap.temp() / "p.gguf"], {"TERM": "xterm", "NO_COLOR": "1"})
tap.check("a terminal sees a bar, rewritten in place and removed", status == 0 and b"synth [" in shown
          and shown.endswith(b"\r") and b"\n" not in shown, shown[-200:])
tap.check("NO_COLOR: no escape sequence", b"\x1b" not in shown, shown[-200:])
tap.done()
