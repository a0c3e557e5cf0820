#!/usr/bin/env python3
"""What models/README.md shows: its samples are what the command beside them prints."""
import pathlib
import re
import shlex
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import tap  # noqa: E402

card = (ROOT / "models" / "README.md").read_text()
command = re.search(r"`calor (run models/calor-stories\.gguf [^`]*--seed S)`", card)
samples = re.findall(r"^\*\*S = (\d+)\*\*\n((?:>.*\n)+)", card, re.M)
tap.check("the card has three samples and their command", command and len(samples) == 3, samples)
for seed, quoted in samples if command else []:
    args = shlex.split(command.group(1))
    out = tap.run(args[0], ROOT / args[1], *args[2:-1], seed)
    shown = "\n".join(line[2:] for line in quoted.splitlines()) + "\n"
    printed = args[args.index("-p") + 1] + out.stdout
    tap.check(f"sample {seed} is what the command prints", out.returncode == 0 and printed == shown, f"{out.stderr}\nprinted: {printed!r}\nshown:   {shown!r}")
tap.done()
