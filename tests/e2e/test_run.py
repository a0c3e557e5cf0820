"""calor run: text, ids, limits, interrupts, conversation; against the oracle of a real model."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import tap

model, opt, tiny = (tap.shared("models", n) for n in
                    ("stories260K.gguf", "relu-opt-tinystories-char-0.2M.gguf", "llama-2-tiny-random.gguf"))
if not model:
    tap.skip_all("no shared models")
oracle = json.loads(tap.shared("models", "stories260K.oracle.json").read_text())
opt_oracle = json.loads(tap.shared("models", "relu-opt-tinystories-char-0.2M.oracle.json").read_text())


def run_json(*args, **kw):
    r = tap.run("run", *args, "--json", **kw)
    return json.loads(r.stdout) if r.returncode == 0 else {"failed": r.stderr, "ids": [], "prompt_ids": [], "text": ""}


ids = oracle["greedy_ids"]
n_prompt = 5
for extra in ([], ["-t", "1"], ["--no-mmap"], ["--mode", "dense"], ["--kv", "f32"], ["--cpu", "ref"], ["--cpu", "avx2"]):
    j = run_json(model, "-p", "Once upon a time", "--temp", "0", "-n", len(ids) - n_prompt, *extra)
    tap.check(f"greedy ids are the oracle's {' '.join(extra)}", j["prompt_ids"] + j["ids"] == ids, j)
j = run_json(opt, "-p", opt_oracle["prompt"], "--temp", "0")
tap.check("the ReLU OPT model's ids are its oracle's, up to the full context",
          j["prompt_ids"] + j["ids"] == opt_oracle["greedy_ids"] + j["ids"][-1:] and j.get("stop") == "context" and
          j.get("activation") == "relu", j)

r = tap.run("run", model, "-p", "Once upon a time", "--temp", "0", "-n", "20")
j = run_json(model, "-p", "Once upon a time", "--temp", "0", "-n", "20")
tap.check("text goes to standard output alone", r.stdout == j["text"] + "\n" and "tok/s" in r.stderr and "peak memory" in r.stderr,
          r.stdout + r.stderr)
tap.check("JSON has timings and memory", j["timings"]["prompt_tokens"] == 5 and j["timings"]["decode_tokens"] == 19 and
          j["memory"]["peak_bytes"] > 1e6 and j["stop"] == "length", j)

a, b, c = (run_json(model, "-p", "Tim", "-n", "40", "--seed", s) for s in (7, 7, 8))
tap.check("the same seed gives the same text, another one another", a["ids"] == b["ids"] != c["ids"], (a, b, c))
j = run_json(tiny, "-p", "Hello", "-n", "5", "--temp", "0")
tap.check("F16 weights and the 32,000-token vocabulary run", len(j["ids"]) == 5, j)

j = run_json(model, "-p", "", "-n", "3")
tap.check("an empty prompt begins at BOS", j["prompt_ids"] == [1] and len(j["ids"]) == 3, j)
r = tap.run("run", opt, "-p", "")
tap.check("an empty prompt without BOS is an error", r.returncode == 2 and "empty" in r.stderr, r.stderr)
j = run_json(model, "-p", "Tim", "-n", "0")
tap.check("-n 0 computes the prompt only", j["ids"] == [] and j["text"] == "" and j["stop"] == "length", j)
r = tap.run("run", model, "-p", "word " * 100, "-c", "32")
tap.check("a prompt beyond the context is an error that gives both numbers", r.returncode == 1 and "do not fit" in r.stderr and
          "32" in r.stderr and not r.stdout.strip(), r.stderr)
r = tap.run("run", model, "-p", "Tim", "-n", "1", "-c", "2147483647")
tap.check("a context beyond the machine's memory is refused, with one that fits", r.returncode == 1 and
          re.search(r"MiB of memory are free: at most \d{4,} tokens would fit", r.stderr) and r.stdout == "", r.stderr)
j = run_json(model, "-p", "Once upon a time", "-c", "32", "--temp", "0")
tap.check("a full context stops the text", j["stop"] == "context" and j["prompt_ids"] + j["ids"] == ids[:33], j)
tap.check("text from a file and from standard input",
          tap.run("run", model, "-f", "-", "-n", "8", "--temp", "0", stdin="Once upon a time\n").stdout ==
          tap.run("run", model, "-p", "Once upon a time", "-n", "8", "--temp", "0").stdout)

for args, word in ((["-p", "a", "-f", "b"], "exclude"), ([], "-p TEXT or -f FILE"), (["-p", "a", "--top-p", "7"], "top-p"),
                   (["-p", "a", "--temperature", "1"], "--temp"), (["-p", "a", "--chat-template", "nope"], "nope"),
                   (["-p", "a", "--activation", "wish"], "wish"), (["-p", "a", "--kv", "q8_0"], "multiple of 32"),
                   (["-f", "/nonexistent"], "/nonexistent"), (["-f", "/"], "/")):
    r = tap.run("run", model, *args)
    tap.check(f"refused: {' '.join(args)}", r.returncode in (1, 2) and word in r.stderr and "calor: error:" in r.stderr, r.stderr)

# Interrupts: the first keeps what was written and sums up.
p = subprocess.Popen([tap.CALOR, "run", model, "-p", "Once", "-c", "1000000", "--temp", "0", "-t", "1"], stdout=subprocess.PIPE,
                     stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
first = p.stdout.read(20)
p.send_signal(signal.SIGINT)
out, errors = p.communicate(timeout=60)
tap.check("an interrupt keeps the text and prints the summary", p.returncode == 130 and len(first + out) > 20 and
          b"stopped: interrupted" in errors, (p.returncode, errors))


# A model file cut short while text is written from it. Between the look at its size and the use of a page the
# system may still send SIGBUS; the handler's words come then.
for sig in None, signal.SIGBUS:
    short = tap.temp() / "short.gguf"
    short.write_bytes(model.read_bytes())
    p = subprocess.Popen([tap.CALOR, "run", short, "-p", "Once", "-c", "1000000", "--temp", "0", "-t", "1"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    first = p.stdout.read(20)
    if sig:
        p.send_signal(sig)
    else:
        os.truncate(short, 4096)
    out, errors = p.communicate(timeout=60)
    tap.check(f"{'a mapped page that is gone' if sig else 'a model file cut short'} ends the text with an error", p.returncode == 1 and
              len(first) == 20 and b"calor: error: " in errors and (b"lost bytes" in errors or (not sig and b"was shortened" in errors)),
              (p.returncode, errors))


def terminal(args, lines, until, timeout=60):
    """Types lines, each after the prompt sign appeared, and returns all output."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(tap.CALOR, [tap.CALOR, *map(str, args)])
    seen, at, end = b"", 0, time.time() + timeout
    for line in [*lines, None]:
        while time.time() < end and until not in seen[at:]:
            if not select.select([fd], [], [], 1)[0]:
                continue
            try:
                got = os.read(fd, 4096)
            except OSError:
                got = b""
            if not got:
                break
            seen += got
        at = len(seen)
        if line is None:
            break
        os.write(fd, line)
    _, status = os.waitpid(pid, 0) if time.time() < end else (os.kill(pid, 9), os.waitpid(pid, 0)[1])
    os.close(fd)
    return seen.decode(errors="replace"), os.waitstatus_to_exitcode(status)


args = ["run", model, "--chat-template", "llama2", "-n", "12", "--temp", "0"]
text, status = terminal(args, [b"Once upon a time\n", b"/help\n", b"And then?\n", b"/clear\n", b"Once upon a time\n", b"/quit\n"],
                        b"> ")
answers = [part.split("\r\n")[1] for part in text.split("> Once upon a time")[1:]]
tap.check("a conversation: answers, commands, a clean end", status == 0 and "/quit" in text and "decode" in text, text)
tap.check("/clear forgets: the same question gets the same answer", len(answers) == 2 and answers[0] == answers[1] and
          len(answers[0]) > 3, answers)
text, status = terminal(["run", model, "--temp", "0"], [], b"> ", timeout=10)
tap.check("no template in the file: an error with the names before the first message",
          status != 0 and "calor: error:" in text and "chatml" in text, text)
tap.done()
